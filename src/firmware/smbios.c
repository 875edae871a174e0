/*
 * System Management BIOS (DMTF DSP0134, 3.6): entry points in 5.2, structures in chapter 7.
 */
#include "firmware/smbios.h"

#include "base/config.h"
#include "base/log.h"
#include "firmware/aml.h"
#include "firmware/layout.h"
#include "vm/mem.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SMBIOS_STRINGS_MAX 4096 /* bytes of all strings of one structure */
#define SMBIOS_NO_HANDLE 0xffff
#define SMBIOS_NO_ERROR_INFO 0xfffe /* memory: no error information provided */

/* 5.2.1, the 32-bit entry point */
struct smbios_entry {
	char anchor[4];
	uint8_t checksum;
	uint8_t length;
	uint8_t major, minor;
	uint16_t max_size; /* of a structure */
	uint8_t revision;
	uint8_t formatted[5];
	char dmi_anchor[5]; /* from here on a second checksum counts */
	uint8_t dmi_checksum;
	uint16_t table_length;
	uint32_t table_address;
	uint16_t count;
	uint8_t bcd_revision;
} __attribute__((packed));
static_assert(sizeof(struct smbios_entry) == 31, "SMBIOS 3.6, 5.2.1");

/* 5.2.2, the 64-bit entry point */
struct smbios_entry3 {
	char anchor[5];
	uint8_t checksum;
	uint8_t length;
	uint8_t major, minor, docrev;
	uint8_t revision;
	uint8_t reserved;
	uint32_t table_max_size;
	uint64_t table_address;
} __attribute__((packed));
static_assert(sizeof(struct smbios_entry3) == 24, "SMBIOS 3.6, 5.2.2");
static_assert(
    LAYOUT_SMBIOS_ENTRY + sizeof(struct smbios_entry) <= LAYOUT_SMBIOS_ENTRY3, "layout.h");

/* 6.1.2. Fields that are one byte and named after a text are string numbers, 0 for none. */
struct smbios_header {
	uint8_t type, length;
	uint16_t handle;
};

enum smbios_type {
	SMBIOS_BIOS = 0,
	SMBIOS_SYSTEM = 1,
	SMBIOS_BOARD = 2,
	SMBIOS_CHASSIS = 3,
	SMBIOS_PROCESSOR = 4,
	SMBIOS_MEMORY_ARRAY = 16,
	SMBIOS_MEMORY_DEVICE = 17,
	SMBIOS_MEMORY_RANGE = 19,
	SMBIOS_BOOT_STATUS = 32,
	SMBIOS_END = 127,
};

/* 7.1 */
struct smbios_bios {
	struct smbios_header h;
	uint8_t vendor, version;
	uint16_t segment;
	uint8_t date;
	uint8_t rom_size;
	uint64_t characteristics;
	uint8_t extension[2];
	uint8_t major, minor, ec_major, ec_minor;
} __attribute__((packed));
static_assert(sizeof(struct smbios_bios) == 0x18, "SMBIOS 3.6, 7.1");
#define SMBIOS_BIOS_UNSUPPORTED BIT(3) /* characteristics are not told */
#define SMBIOS_BIOS_EXT1_ACPI BIT(0)
#define SMBIOS_BIOS_EXT2_VM BIT(4) /* this describes a virtual machine */
#define SMBIOS_BIOS_NO_RELEASE 0xff

/* 7.2 */
struct smbios_system {
	struct smbios_header h;
	uint8_t manufacturer, product, version, serial;
	uint8_t uuid[16];
	uint8_t wakeup;
	uint8_t sku, family;
} __attribute__((packed));
static_assert(sizeof(struct smbios_system) == 0x1b, "SMBIOS 3.6, 7.2");
#define SMBIOS_WAKEUP_POWER_SWITCH 6

/* 7.3 */
struct smbios_board {
	struct smbios_header h;
	uint8_t manufacturer, product, version, serial, asset;
	uint8_t features;
	uint8_t location;
	uint16_t chassis;
	uint8_t type;
	uint8_t contained;
} __attribute__((packed));
static_assert(sizeof(struct smbios_board) == 0x0f, "SMBIOS 3.6, 7.3");
#define SMBIOS_BOARD_HOSTING BIT(0)
#define SMBIOS_BOARD_MOTHERBOARD 0x0a

/* 7.4 */
struct smbios_chassis {
	struct smbios_header h;
	uint8_t manufacturer;
	uint8_t type;
	uint8_t version, serial, asset;
	uint8_t bootup, power, thermal, security;
	uint32_t oem;
	uint8_t height, cords;
	uint8_t contained, contained_length;
	uint8_t sku;
} __attribute__((packed));
static_assert(sizeof(struct smbios_chassis) == 0x16, "SMBIOS 3.6, 7.4");
#define SMBIOS_CHASSIS_OTHER 1
#define SMBIOS_CHASSIS_SAFE 3
#define SMBIOS_CHASSIS_SECURITY_NONE 3

/* 7.5 */
struct smbios_processor {
	struct smbios_header h;
	uint8_t socket;
	uint8_t type, family;
	uint8_t manufacturer;
	uint32_t id[2]; /* CPUID.1: EAX, EDX */
	uint8_t version;
	uint8_t voltage;
	uint16_t clock_mhz, max_mhz, current_mhz;
	uint8_t status, upgrade;
	uint16_t l1, l2, l3;
	uint8_t serial, asset, part;
	uint8_t cores, enabled, threads; /* 0xff: see the wide fields */
	uint16_t characteristics;
	uint16_t family2;
	uint16_t cores2, enabled2, threads2;
} __attribute__((packed));
static_assert(sizeof(struct smbios_processor) == 0x30, "SMBIOS 3.6, 7.5");
#define SMBIOS_PROCESSOR_CENTRAL 3
#define SMBIOS_PROCESSOR_FAMILY_OTHER 1
#define SMBIOS_PROCESSOR_ENABLED 0x41 /* populated, enabled */
#define SMBIOS_PROCESSOR_UPGRADE_UNKNOWN 2
#define SMBIOS_PROCESSOR_64BIT BIT(2)

/* 7.17 */
struct smbios_memory_array {
	struct smbios_header h;
	uint8_t location, use, correction;
	uint32_t capacity_kib;
	uint16_t error_handle;
	uint16_t devices;
	uint64_t capacity; /* when it does not fit capacity_kib */
} __attribute__((packed));
static_assert(sizeof(struct smbios_memory_array) == 0x17, "SMBIOS 3.6, 7.17");
#define SMBIOS_MEMORY_SYSTEM_BOARD 3
#define SMBIOS_MEMORY_SYSTEM 3
#define SMBIOS_MEMORY_NO_ECC 3
#define SMBIOS_MEMORY_CAPACITY_WIDE 0x80000000u

/* 7.18 */
struct smbios_memory_device {
	struct smbios_header h;
	uint16_t array, error_handle;
	uint16_t total_width, data_width;
	uint16_t size; /* MiB, or KiB with the highest bit; 0x7fff: see size_mib */
	uint8_t form, set;
	uint8_t locator, bank;
	uint8_t type;
	uint16_t detail;
	uint16_t speed;
	uint8_t manufacturer, serial, asset, part;
	uint8_t attributes;
	uint32_t size_mib;
	uint16_t configured_speed;
	uint16_t min_voltage, max_voltage, voltage;
} __attribute__((packed));
static_assert(sizeof(struct smbios_memory_device) == 0x28, "SMBIOS 3.6, 7.18");
#define SMBIOS_MEMORY_WIDTH 64
#define SMBIOS_MEMORY_SIZE_WIDE 0x7fff
#define SMBIOS_MEMORY_SIZE_KIB 0x8000
#define SMBIOS_MEMORY_DIMM 9
#define SMBIOS_MEMORY_RAM 7
#define SMBIOS_MEMORY_DETAIL_UNKNOWN BIT(2)

/* 7.20 */
struct smbios_memory_range {
	struct smbios_header h;
	uint32_t first_kib, last_kib; /* all ones: see first and last */
	uint16_t array;
	uint8_t partition_width;
	uint64_t first, last;
} __attribute__((packed));
static_assert(sizeof(struct smbios_memory_range) == 0x1f, "SMBIOS 3.6, 7.20");

/* 7.33 */
struct smbios_boot_status {
	struct smbios_header h;
	uint8_t reserved[6];
	uint8_t status;
} __attribute__((packed));
static_assert(sizeof(struct smbios_boot_status) == 0x0b, "SMBIOS 3.6, 7.33");

/* The table being made; errors stick. */
struct smbios {
	struct vm *vm;
	const struct config *config;
	uint8_t buf[LAYOUT_SMBIOS_TABLE_SIZE];
	size_t len;
	size_t max_size; /* of a structure so far */
	uint16_t count; /* structures so far, the next one's handle */
	char strings[SMBIOS_STRINGS_MAX]; /* of the next structure, each with its zero */
	size_t strings_len;
	uint8_t strings_count;
	int err;
};

/* Adds a string to the next structure. Returns its number; 0 for an empty one, as the standard
 * says. */
static uint8_t
smbios_string(struct smbios *s, const char *text)
{
	size_t size = strlen(text) + 1;

	if (size == 1)
		return 0;
	if (size > sizeof(s->strings) - s->strings_len) {
		s->err = -ENOSPC;
		return 0;
	}
	memcpy(s->strings + s->strings_len, text, size);
	s->strings_len += size;
	return ++s->strings_count;
}

/* The same with a variable's value. */
static uint8_t
smbios_variable(struct smbios *s, const char *name, const char *def)
{
	return smbios_string(s, config_get_default(s->config, name, def));
}

/* Appends a structure, its strings behind it (6.1.3). Returns its handle. */
static uint16_t
smbios_put(struct smbios *s, enum smbios_type type, void *structure, size_t size)
{
	struct smbios_header h = {
		.type = (uint8_t)type, .length = (uint8_t)size, .handle = s->count,
	};
	size_t strings = MAX(s->strings_len + 1, 2); /* two zeroes end even an empty set */

	memcpy(structure, &h, sizeof(h));
	if (s->err == 0 && size + strings > sizeof(s->buf) - s->len)
		s->err = -ENOSPC;
	if (s->err == 0) {
		memcpy(s->buf + s->len, structure, size);
		memset(s->buf + s->len + size, 0, strings);
		memcpy(s->buf + s->len + size, s->strings, s->strings_len);
		s->len += size + strings;
		s->max_size = MAX(s->max_size, size + strings);
		s->count++;
	}
	s->strings_len = 0;
	s->strings_count = 0;
	return h.handle;
}

/* --- UUID --- */

/* RFC 9562, section 4. The text's bytes in order. */
static bool
smbios_uuid_parse(const char *text, uint8_t uuid[16])
{
	static const uint8_t groups[] = { 4, 2, 2, 2, 6 }; /* bytes between the dashes */

	for (size_t g = 0; g < ARRAY_SIZE(groups); g++) {
		if (g > 0 && *text++ != '-')
			return false;
		for (int i = 0; i < groups[g]; i++, text += 2) {
			char digits[3] = { text[0], text[0] != '\0' ? text[1] : '\0', '\0' };

			if (!isxdigit((unsigned char)digits[0]) ||
			    !isxdigit((unsigned char)digits[1]))
				return false;
			*uuid++ = (uint8_t)strtoul(digits, NULL, 16);
		}
	}
	return *text == '\0';
}

/* A UUID of the maker's own kind (RFC 9562, 5.8) from the 128-bit FNV-1a hash of both names. */
static void
smbios_uuid_derive(const char *vm_name, uint8_t uuid[16])
{
	const unsigned __int128 prime = (unsigned __int128)1 << 88 | 0x13b;
	unsigned __int128 hash = (unsigned __int128)0x6c62272e07bb0142 << 64 | 0x62b821756295c58d;
	char names[1024] = "";
	size_t host_len;

	(void)gethostname(names, 256); /* without a host name the VM's has to do */
	names[255] = '\0';
	host_len = strlen(names) + 1; /* its zero separates the two */
	snprintf(names + host_len, sizeof(names) - host_len, "%s", vm_name);
	for (size_t i = 0; i < host_len + strlen(names + host_len); i++)
		hash = (hash ^ (uint8_t)names[i]) * prime;
	memcpy(uuid, &hash, 16);
	uuid[6] = (uint8_t)((uuid[6] & 0x0f) | 0x80); /* version 8 */
	uuid[8] = (uint8_t)((uuid[8] & 0x3f) | 0x80); /* variant */
}

static void
smbios_uuid_get(struct smbios *s, uint8_t out[16])
{
	/* 7.2.1: the first three fields are little-endian */
	static const uint8_t place[16] = { 3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15 };
	const char *text = config_get(s->config, "uuid");
	uint8_t uuid[16] = { 0 };

	if (text == NULL) {
		smbios_uuid_derive(vm_name(s->vm), uuid);
	} else if (!smbios_uuid_parse(text, uuid)) {
		log_error("uuid", "'%s' is not a UUID", text);
		s->err = -EINVAL;
	}
	for (int i = 0; i < 16; i++)
		out[place[i]] = uuid[i];
}

/* --- Structures --- */

static void
smbios_bios_build(struct smbios *s)
{
	struct smbios_bios bios = {
		.vendor = smbios_variable(s, "bios.vendor", "BHYVE"),
		.version = smbios_variable(s, "bios.version", "14.0"),
		.segment = LAYOUT_BIOS >> 4,
		.date = smbios_variable(s, "bios.release_date", "10/17/2021"),
		.rom_size = LAYOUT_BIOS_SIZE / KIB(64) - 1,
		.characteristics = SMBIOS_BIOS_UNSUPPORTED,
		.extension = { SMBIOS_BIOS_EXT1_ACPI, SMBIOS_BIOS_EXT2_VM },
		.major = SMBIOS_BIOS_NO_RELEASE,
		.minor = SMBIOS_BIOS_NO_RELEASE,
		.ec_major = SMBIOS_BIOS_NO_RELEASE,
		.ec_minor = SMBIOS_BIOS_NO_RELEASE,
	};

	smbios_put(s, SMBIOS_BIOS, &bios, sizeof(bios));
}

static void
smbios_system_build(struct smbios *s)
{
	struct smbios_system system = {
		.manufacturer = smbios_variable(s, "system.manufacturer", "FreeBSD"),
		.product = smbios_variable(s, "system.product_name", "BHYVE"),
		.version = smbios_variable(s, "system.version", "1.0"),
		.serial = smbios_variable(s, "system.serial_number", "None"),
		.wakeup = SMBIOS_WAKEUP_POWER_SWITCH,
		.sku = smbios_variable(s, "system.sku", "None"),
		.family = smbios_variable(s, "system.family_name", "Virtual Machine"),
	};

	smbios_uuid_get(s, system.uuid);
	smbios_put(s, SMBIOS_SYSTEM, &system, sizeof(system));
}

static void
smbios_board_build(struct smbios *s)
{
	struct smbios_board board = {
		.manufacturer = smbios_variable(s, "board.manufacturer", "FreeBSD"),
		.product = smbios_variable(s, "board.product_name", "BHYVE"),
		.version = smbios_variable(s, "board.version", "1.0"),
		.serial = smbios_variable(s, "board.serial_number", "None"),
		.asset = smbios_variable(s, "board.asset_tag", "None"),
		.features = SMBIOS_BOARD_HOSTING,
		.location = smbios_variable(s, "board.location", "None"),
		.chassis = (uint16_t)(s->count + 1), /* which comes next */
		.type = SMBIOS_BOARD_MOTHERBOARD,
	};

	smbios_put(s, SMBIOS_BOARD, &board, sizeof(board));
}

static void
smbios_chassis_build(struct smbios *s)
{
	struct smbios_chassis chassis = {
		.manufacturer = smbios_variable(s, "chassis.manufacturer", "FreeBSD"),
		.type = SMBIOS_CHASSIS_OTHER,
		.version = smbios_variable(s, "chassis.version", "1.0"),
		.serial = smbios_variable(s, "chassis.serial_number", "None"),
		.asset = smbios_variable(s, "chassis.asset_tag", "None"),
		.bootup = SMBIOS_CHASSIS_SAFE,
		.power = SMBIOS_CHASSIS_SAFE,
		.thermal = SMBIOS_CHASSIS_SAFE,
		.security = SMBIOS_CHASSIS_SECURITY_NONE,
		.sku = smbios_variable(s, "chassis.sku", "None"),
	};

	smbios_put(s, SMBIOS_CHASSIS, &chassis, sizeof(chassis));
}

/* One structure per socket. */
static void
smbios_processors_build(struct smbios *s)
{
	const struct x86_topology *topo = vm_topology(s->vm);
	struct engine_vm *evm;
	const struct engine_ops *engine = vm_engine(s->vm, &evm);
	const struct x86_cpuid *model = engine->cpuid(evm);
	uint16_t mhz = (uint16_t)MIN(engine->tsc_khz(evm) / 1000, UINT16_MAX);
	uint32_t threads = topo->cores * topo->threads;
	struct x86_cpuid_regs leaf0, leaf1;
	struct x86_cpuid_ctx ctx = { .apic_base = X86_APIC_DEFAULT_BASE };
	char vendor[13];

	x86_cpuid_query(model, &ctx, 0, 0, &leaf0);
	x86_cpuid_query(model, &ctx, 1, 0, &leaf1);
	memcpy(vendor, &leaf0.ebx, 4);
	memcpy(vendor + 4, &leaf0.edx, 4);
	memcpy(vendor + 8, &leaf0.ecx, 4);
	vendor[12] = '\0';
	for (uint32_t i = 0; i < topo->sockets; i++) {
		char socket[24];
		struct smbios_processor cpu = {
			.type = SMBIOS_PROCESSOR_CENTRAL,
			.family = SMBIOS_PROCESSOR_FAMILY_OTHER,
			.id = { leaf1.eax, leaf1.edx },
			.max_mhz = mhz,
			.current_mhz = mhz,
			.status = SMBIOS_PROCESSOR_ENABLED,
			.upgrade = SMBIOS_PROCESSOR_UPGRADE_UNKNOWN,
			.l1 = SMBIOS_NO_HANDLE,
			.l2 = SMBIOS_NO_HANDLE,
			.l3 = SMBIOS_NO_HANDLE,
			.cores = (uint8_t)MIN(topo->cores, UINT8_MAX),
			.enabled = (uint8_t)MIN(topo->cores, UINT8_MAX),
			.threads = (uint8_t)MIN(threads, UINT8_MAX),
			.characteristics = SMBIOS_PROCESSOR_64BIT,
			.family2 = SMBIOS_PROCESSOR_FAMILY_OTHER,
			.cores2 = (uint16_t)topo->cores,
			.enabled2 = (uint16_t)topo->cores,
			.threads2 = (uint16_t)threads,
		};

		snprintf(socket, sizeof(socket), "CPU #%u", i);
		cpu.socket = smbios_string(s, socket);
		cpu.manufacturer = smbios_string(s, vendor);
		smbios_put(s, SMBIOS_PROCESSOR, &cpu, sizeof(cpu));
	}
}

static void
smbios_memory_range_build(struct smbios *s, uint16_t array, uint64_t base, uint64_t size)
{
	struct smbios_memory_range range = {
		.array = array,
		.partition_width = 1,
	};

	if (size == 0)
		return;
	if ((base + size) / 1024 - 1 < UINT32_MAX) {
		range.first_kib = (uint32_t)(base / 1024);
		range.last_kib = (uint32_t)((base + size) / 1024 - 1);
	} else {
		range.first_kib = UINT32_MAX;
		range.last_kib = UINT32_MAX;
		range.first = base;
		range.last = base + size - 1;
	}
	smbios_put(s, SMBIOS_MEMORY_RANGE, &range, sizeof(range));
}

/* All memory as one module. */
static void
smbios_memory_build(struct smbios *s)
{
	uint64_t low = vm_mem_low(s->vm);
	uint64_t high = vm_mem_high(s->vm);
	uint64_t total = low + high;
	struct smbios_memory_array array = {
		.location = SMBIOS_MEMORY_SYSTEM_BOARD,
		.use = SMBIOS_MEMORY_SYSTEM,
		.correction = SMBIOS_MEMORY_NO_ECC,
		.error_handle = SMBIOS_NO_ERROR_INFO,
		.devices = 1,
	};
	struct smbios_memory_device device = {
		.error_handle = SMBIOS_NO_ERROR_INFO,
		.total_width = SMBIOS_MEMORY_WIDTH,
		.data_width = SMBIOS_MEMORY_WIDTH,
		.form = SMBIOS_MEMORY_DIMM,
		.type = SMBIOS_MEMORY_RAM,
		.detail = SMBIOS_MEMORY_DETAIL_UNKNOWN,
	};

	if (total / 1024 < SMBIOS_MEMORY_CAPACITY_WIDE) {
		array.capacity_kib = (uint32_t)(total / 1024);
	} else {
		array.capacity_kib = SMBIOS_MEMORY_CAPACITY_WIDE;
		array.capacity = total;
	}
	device.array = smbios_put(s, SMBIOS_MEMORY_ARRAY, &array, sizeof(array));

	if (total / 1024 < SMBIOS_MEMORY_SIZE_WIDE) {
		device.size = (uint16_t)(total / 1024 | SMBIOS_MEMORY_SIZE_KIB);
	} else if (total / MIB(1) < SMBIOS_MEMORY_SIZE_WIDE) {
		device.size = (uint16_t)(total / MIB(1));
	} else {
		device.size = SMBIOS_MEMORY_SIZE_WIDE;
		device.size_mib = (uint32_t)(total / MIB(1));
	}
	device.locator = smbios_string(s, "DIMM 0");
	device.bank = smbios_string(s, "Bank 0");
	smbios_put(s, SMBIOS_MEMORY_DEVICE, &device, sizeof(device));
	smbios_memory_range_build(s, device.array, 0, low);
	smbios_memory_range_build(s, device.array, VM_HIGHMEM_BASE, high);
}

static void
smbios_end_build(struct smbios *s)
{
	struct smbios_boot_status status = { 0 };
	struct smbios_header end;

	smbios_put(s, SMBIOS_BOOT_STATUS, &status, sizeof(status));
	smbios_put(s, SMBIOS_END, &end, sizeof(end));
}

static int
smbios_entries_write(const struct smbios *s)
{
	struct smbios_entry e = {
		.anchor = { '_', 'S', 'M', '_' },
		.length = sizeof(e),
		.major = 2,
		.minor = 8,
		.max_size = (uint16_t)s->max_size,
		.dmi_anchor = { '_', 'D', 'M', 'I', '_' },
		.table_length = (uint16_t)s->len,
		.table_address = LAYOUT_SMBIOS_TABLE,
		.count = s->count,
		.bcd_revision = 0x28,
	};
	struct smbios_entry3 e3 = {
		.anchor = { '_', 'S', 'M', '3', '_' },
		.length = sizeof(e3),
		.major = 3,
		.minor = 0,
		.revision = 1,
		.table_max_size = (uint32_t)s->len,
		.table_address = LAYOUT_SMBIOS_TABLE,
	};
	int err;

	e.dmi_checksum =
	    aml_checksum(e.dmi_anchor, sizeof(e) - offsetof(struct smbios_entry, dmi_anchor));
	e.checksum = aml_checksum(&e, sizeof(e));
	e3.checksum = aml_checksum(&e3, sizeof(e3));
	err = vm_mem_write(s->vm, LAYOUT_SMBIOS_TABLE, s->buf, s->len);
	if (err == 0)
		err = vm_mem_write(s->vm, LAYOUT_SMBIOS_ENTRY, &e, sizeof(e));
	if (err == 0)
		err = vm_mem_write(s->vm, LAYOUT_SMBIOS_ENTRY3, &e3, sizeof(e3));
	return err;
}

int
smbios_build(struct vm *vm)
{
	struct smbios *s = calloc(1, sizeof(*s));
	int err;

	if (s == NULL) {
		log_error("smbios", "out of memory");
		return -ENOMEM;
	}
	s->vm = vm;
	s->config = vm_config(vm);
	smbios_bios_build(s);
	smbios_system_build(s);
	smbios_board_build(s);
	smbios_chassis_build(s);
	smbios_processors_build(s);
	smbios_memory_build(s);
	smbios_end_build(s);

	err = s->err;
	if (err == -ENOSPC)
		log_error("smbios", "the tables do not fit: shorten the texts of bios, system, "
				    "board or chassis, or take fewer sockets");
	if (err == 0) {
		err = smbios_entries_write(s);
		if (err != 0)
			log_error("smbios", "cannot write the tables: %s", strerror(-err));
	}
	free(s);
	return err;
}
