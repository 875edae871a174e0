/*
 * SMBIOS: entry points, every structure by a walk over the table, variables, UUIDs, and texts that
 * are too long.
 */
#include "firmware_vm.h"

#include "firmware/smbios.h"

#define ENTRY 0xf1000
#define ENTRY3 0xf1020
#define TABLE_MAX 0x6000

/* A table read back, with where its structures are. */
struct table {
	uint8_t buf[TABLE_MAX];
	size_t len;
	struct {
		const uint8_t *p; /* the formatted part */
		const char *strings;
	} at[128];
	int count;
};

static void
table_read(struct vm *vm, struct table *t)
{
	size_t off = 0;

	memset(t, 0, sizeof(*t));
	assert_int_equal(fw_u32(vm, ENTRY), 0x5f4d535f); /* _SM_ */
	assert_int_equal(fw_sum(vm, ENTRY, 31), 0);
	assert_int_equal(fw_sum(vm, ENTRY + 16, 15), 0);
	assert_int_equal(fw_u32(vm, ENTRY3), 0x334d535f); /* _SM3 */
	assert_int_equal(fw_sum(vm, ENTRY3, 24), 0);
	t->len = fw_u32(vm, ENTRY + 0x16) & 0xffff;
	assert_true(t->len <= TABLE_MAX);
	assert_int_equal(fw_u32(vm, ENTRY3 + 12), t->len);
	assert_int_equal(fw_u32(vm, ENTRY + 0x18), fw_u64(vm, ENTRY3 + 16));
	fw_read(vm, fw_u32(vm, ENTRY + 0x18), t->buf, t->len);
	while (off < t->len) {
		const uint8_t *p = t->buf + off;

		assert_true(t->count < (int)ARRAY_SIZE(t->at));
		t->at[t->count].p = p;
		t->at[t->count].strings = (const char *)p + p[1];
		assert_int_equal(p[2] | p[3] << 8, t->count); /* handles count up */
		t->count++;
		for (off += p[1]; t->buf[off] != 0 || t->buf[off + 1] != 0; off++)
			assert_true(off < t->len);
		off += 2;
	}
	assert_int_equal(off, t->len);
	assert_int_equal(fw_u32(vm, ENTRY + 0x1c) & 0xffff, t->count);
	assert_int_equal(t->at[t->count - 1].p[0], 127);
}

/* The nth structure of this type, or -1. */
static int
table_find(const struct table *t, int type, int n)
{
	for (int i = 0; i < t->count; i++)
		if (t->at[i].p[0] == type && n-- == 0)
			return i;
	return -1;
}

/* The text that the byte at off of a structure numbers. */
static const char *
table_string(const struct table *t, int type, int off)
{
	int i = table_find(t, type, 0);
	const char *s = t->at[i].strings;

	assert_true(i >= 0 && off < t->at[i].p[1]);
	if (t->at[i].p[off] == 0)
		return "";
	for (int n = t->at[i].p[off]; n > 1; n--)
		s += strlen(s) + 1;
	return s;
}

static void
test_defaults(void **state)
{
	struct config *config = config_create();
	struct vm *vm = fw_vm_create_topo(MIB(128), (struct x86_topology){ 2, 4, 2 }, config);
	struct table *t = malloc(sizeof(*t));
	const uint8_t *p;

	assert_int_equal(smbios_build(vm), 0);
	table_read(vm, t);
	assert_string_equal(table_string(t, 0, 4), "BHYVE");
	assert_string_equal(table_string(t, 0, 5), "14.0");
	assert_string_equal(table_string(t, 0, 8), "10/17/2021");
	assert_string_equal(table_string(t, 1, 4), "FreeBSD");
	assert_string_equal(table_string(t, 1, 5), "BHYVE");
	assert_string_equal(table_string(t, 1, 6), "1.0");
	assert_string_equal(table_string(t, 1, 7), "None");
	assert_string_equal(table_string(t, 1, 0x1a), "Virtual Machine");
	assert_string_equal(table_string(t, 2, 5), "BHYVE");
	assert_string_equal(table_string(t, 3, 4), "FreeBSD");
	/* The board stands in the chassis */
	assert_int_equal(t->at[table_find(t, 2, 0)].p[0x0b], table_find(t, 3, 0));
	/* Two sockets of four cores with two threads */
	p = t->at[table_find(t, 4, 0)].p;
	assert_int_equal(p[0x23], 4);
	assert_int_equal(p[0x25], 8);
	assert_string_equal(table_string(t, 4, 4), "CPU #0");
	assert_string_equal(table_string(t, 4, 7), "GenuineIntel");
	assert_true(table_find(t, 4, 1) > 0);
	assert_int_equal(table_find(t, 4, 2), -1);
	assert_true(table_find(t, 32, 0) > 0);
	vm_destroy(vm);
	config_destroy(config);
	free(t);
}

/* Each variable of bhyve_config(5) and where its text goes. */
static void
test_variables(void **state)
{
	static const struct {
		const char *name;
		int type, off;
	} var[] = {
		{ "bios.vendor", 0, 4 }, { "bios.version", 0, 5 }, { "bios.release_date", 0, 8 },
		{ "system.manufacturer", 1, 4 }, { "system.product_name", 1, 5 },
		{ "system.version", 1, 6 }, { "system.serial_number", 1, 7 },
		{ "system.sku", 1, 0x19 }, { "system.family_name", 1, 0x1a },
		{ "board.manufacturer", 2, 4 }, { "board.product_name", 2, 5 },
		{ "board.version", 2, 6 }, { "board.serial_number", 2, 7 },
		{ "board.asset_tag", 2, 8 }, { "board.location", 2, 0x0a },
		{ "chassis.manufacturer", 3, 4 }, { "chassis.version", 3, 6 },
		{ "chassis.serial_number", 3, 7 }, { "chassis.asset_tag", 3, 8 },
		{ "chassis.sku", 3, 0x15 },
	};
	struct config *config = config_create();
	struct table *t = malloc(sizeof(*t));
	struct vm *vm;

	for (size_t i = 0; i < ARRAY_SIZE(var); i++) {
		char value[64];

		snprintf(value, sizeof(value), "the %s", var[i].name);
		assert_int_equal(config_set(config, var[i].name, value), 0);
	}
	vm = fw_vm_create_topo(MIB(128), (struct x86_topology){ 1, 1, 1 }, config);
	assert_int_equal(smbios_build(vm), 0);
	table_read(vm, t);
	for (size_t i = 0; i < ARRAY_SIZE(var); i++) {
		const char *text = table_string(t, var[i].type, var[i].off);

		assert_memory_equal(text, "the ", 4);
		assert_string_equal(text + 4, var[i].name);
	}
	/* An empty text has no number. */
	config_set(config, "system.sku", "");
	assert_int_equal(smbios_build(vm), 0);
	table_read(vm, t);
	assert_int_equal(t->at[1].p[0x19], 0);
	assert_string_equal(table_string(t, 1, 0x1a), "the system.family_name");
	vm_destroy(vm);
	config_destroy(config);
	free(t);
}

static void
test_uuid(void **state)
{
	static const char *const wrong[] = {
		"",
		"1",
		"00112233-4455-6677-8899-aabbccddeef",
		"00112233-4455-6677-8899-aabbccddeeff0",
		"00112233445566778899aabbccddeeff",
		"00112233-4455-6677-8899-aabbccddeefg",
		"+0112233-4455-6677-8899-aabbccddeeff",
		"00112233-4455-6677-8899_aabbccddeeff",
	};
	static const uint8_t right[16] = { 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88,
		0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff };
	struct config *config = config_create();
	struct vm *vm = fw_vm_create_topo(MIB(16), (struct x86_topology){ 1, 1, 1 }, config);
	struct table *t = malloc(sizeof(*t));
	uint8_t derived[16];

	/* Derived: a valid UUID of version 8, the same each time */
	assert_int_equal(smbios_build(vm), 0);
	table_read(vm, t);
	memcpy(derived, t->at[1].p + 8, 16);
	assert_int_equal(derived[7] >> 4, 8);
	assert_int_equal(derived[8] >> 6, 2);
	assert_int_equal(smbios_build(vm), 0);
	table_read(vm, t);
	assert_memory_equal(t->at[1].p + 8, derived, 16);

	config_set(config, "uuid", "00112233-4455-6677-8899-AABBccddeeff");
	assert_int_equal(smbios_build(vm), 0);
	table_read(vm, t);
	assert_memory_equal(t->at[1].p + 8, right, 16);

	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct capture log;

		config_set(config, "uuid", wrong[i]);
		capture_begin(&log);
		assert_int_equal(smbios_build(vm), -EINVAL);
		capture_end(&log);
		fw_log_assert(&log, "is not a UUID");
	}
	vm_destroy(vm);
	config_destroy(config);
	free(t);
}

static void
test_memory(void **state)
{
	static const struct {
		uint64_t memory;
		uint16_t size; /* in the memory device */
		uint32_t last_kib; /* of the first range */
		bool high;
	} mem[] = {
		{ MIB(1), 0x8400, 0x3ff, false },
		{ MIB(128), 128, 0x1ffff, false },
		{ MIB(128) + KIB(4), 128, 0x20003, false },
		{ GIB(1), 1024, 0xfffff, false },
		{ GIB(6), 6144, 0x2fffff, true },
	};

	for (size_t i = 0; i < ARRAY_SIZE(mem); i++) {
		struct config *config = config_create();
		struct vm *vm =
		    fw_vm_create_topo(mem[i].memory, (struct x86_topology){ 1, 1, 1 }, config);
		struct table *t = malloc(sizeof(*t));
		const uint8_t *p;
		uint32_t v;

		assert_int_equal(smbios_build(vm), 0);
		table_read(vm, t);
		p = t->at[table_find(t, 16, 0)].p;
		memcpy(&v, p + 7, 4);
		assert_int_equal(v, mem[i].memory / 1024);
		p = t->at[table_find(t, 17, 0)].p;
		assert_int_equal(p[0x0c] | p[0x0d] << 8, mem[i].size);
		assert_int_equal(p[4], table_find(t, 16, 0));
		p = t->at[table_find(t, 19, 0)].p;
		memcpy(&v, p + 8, 4);
		assert_int_equal(v, mem[i].last_kib);
		assert_int_equal(table_find(t, 19, 1) >= 0, mem[i].high);
		if (mem[i].high) {
			p = t->at[table_find(t, 19, 1)].p;
			memcpy(&v, p + 4, 4);
			assert_int_equal(v, 4 << 20);
			memcpy(&v, p + 8, 4);
			assert_int_equal(v, (7 << 20) - 1);
		}
		vm_destroy(vm);
		config_destroy(config);
		free(t);
	}
}

static void
test_too_long(void **state)
{
	struct config *config = config_create();
	struct vm *vm = fw_vm_create_topo(MIB(16), (struct x86_topology){ 1, 1, 1 }, config);
	char *text = malloc(8192);
	struct capture log;

	memset(text, 'x', 8191);
	text[8191] = '\0';
	config_set(config, "board.location", text);
	capture_begin(&log);
	assert_int_equal(smbios_build(vm), -ENOSPC);
	capture_end(&log);
	fw_log_assert(&log, "the tables do not fit");
	text[4000] = '\0';
	config_set(config, "board.location", text);
	assert_int_equal(smbios_build(vm), 0);
	vm_destroy(vm);
	config_destroy(config);
	free(text);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_variables),
		cmocka_unit_test(test_uuid),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_too_long),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
