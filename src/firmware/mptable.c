/*
 * MultiProcessor Specification 1.4, chapter 4.
 */
#include "firmware/mptable.h"

#include "base/log.h"
#include "chipset/acpi_pm.h"
#include "chipset/ioapic.h"
#include "firmware/acpi.h"
#include "firmware/aml.h"
#include "firmware/layout.h"
#include "vm/mem.h"

#include <errno.h>
#include <string.h>

#define MPTABLE_SPEC_REVISION 4 /* 1.4 */
#define MPTABLE_ISA_IRQS 16
#define MPTABLE_LAPIC_VERSION 0x14
#define MPTABLE_IOAPIC_VERSION 0x11
#define MPTABLE_ALL_LAPICS 0xff

/* 4.1 */
struct mptable_pointer {
	char signature[4];
	uint32_t address;
	uint8_t length; /* in units of 16 bytes */
	uint8_t revision, checksum;
	uint8_t feature[5];
};
static_assert(sizeof(struct mptable_pointer) == 16, "MP 1.4, 4.1");

/* 4.2 */
struct mptable_header {
	char signature[4];
	uint16_t length; /* of header and entries */
	uint8_t revision, checksum;
	char oem_id[8], product_id[12];
	uint32_t oem_table;
	uint16_t oem_length;
	uint16_t entries;
	uint32_t lapic;
	uint16_t extended_length;
	uint8_t extended_checksum;
	uint8_t reserved;
};
static_assert(sizeof(struct mptable_header) == 44, "MP 1.4, 4.2");

enum mptable_type { /* table 4-3 */
	MPTABLE_PROCESSOR = 0,
	MPTABLE_BUS = 1,
	MPTABLE_IOAPIC = 2,
	MPTABLE_IO_INT = 3,
	MPTABLE_LOCAL_INT = 4,
};

/* 4.3.1 */
struct mptable_processor {
	uint8_t type;
	uint8_t lapic_id, lapic_version;
	uint8_t flags;
	uint32_t signature, features;
	uint32_t reserved[2];
};
static_assert(sizeof(struct mptable_processor) == 20, "MP 1.4, 4.3.1");
#define MPTABLE_PROCESSOR_ENABLED BIT(0)
#define MPTABLE_PROCESSOR_BSP BIT(1)

/* 4.3.2 */
struct mptable_bus {
	uint8_t type;
	uint8_t id;
	char name[6];
};
static_assert(sizeof(struct mptable_bus) == 8, "MP 1.4, 4.3.2");

/* 4.3.3 */
struct mptable_ioapic {
	uint8_t type;
	uint8_t id, version, flags;
	uint32_t address;
};
static_assert(sizeof(struct mptable_ioapic) == 8, "MP 1.4, 4.3.3");
#define MPTABLE_IOAPIC_ENABLED BIT(0)

/* 4.3.4 and 4.3.5 */
struct mptable_int {
	uint8_t type;
	uint8_t int_type;
	uint16_t flags;
	uint8_t bus, irq; /* source */
	uint8_t apic, input; /* destination */
};
static_assert(sizeof(struct mptable_int) == 8, "MP 1.4, 4.3.4");
#define MPTABLE_INT 0
#define MPTABLE_NMI 1
#define MPTABLE_EXTINT 3
#define MPTABLE_INT_CONFORMS 0x0
#define MPTABLE_INT_LOW_LEVEL 0xf

#define MPTABLE_PIT_INPUT 2 /* where the PC wires the timer's IRQ 0; ExtINT comes in at 0 */

struct mptable {
	struct aml buf;
	uint16_t entries;
};

static void
mptable_put(struct mptable *t, const void *entry, size_t size)
{
	aml_bytes(&t->buf, entry, size);
	t->entries++;
}

static void
mptable_processors(struct mptable *t, struct vm *vm)
{
	struct engine_vm *evm;
	const struct engine_ops *engine = vm_engine(vm, &evm);
	struct x86_cpuid_ctx ctx = { .apic_base = X86_APIC_DEFAULT_BASE | X86_APIC_BASE_ENABLE };
	struct x86_cpuid_regs leaf1;

	x86_cpuid_query(engine->cpuid(evm), &ctx, 1, 0, &leaf1);
	for (int i = 0; i < vm_vcpus(vm); i++) {
		struct mptable_processor cpu = {
			.type = MPTABLE_PROCESSOR,
			.lapic_id = (uint8_t)x86_topology_apic_id(vm_topology(vm), (uint32_t)i),
			.lapic_version = MPTABLE_LAPIC_VERSION,
			.flags = MPTABLE_PROCESSOR_ENABLED | (i == 0 ? MPTABLE_PROCESSOR_BSP : 0),
			.signature = leaf1.eax,
			.features = leaf1.edx,
		};

		mptable_put(t, &cpu, sizeof(cpu));
	}
}

/* Buses have the numbers 0 and up: PCI's, then ISA's. Returns ISA's. */
static uint8_t
mptable_buses(struct mptable *t, const struct acpi_pci *pci)
{
	struct mptable_bus bus = { .type = MPTABLE_BUS, .id = 0 };

	if (pci != NULL) {
		memcpy(bus.name, "PCI   ", sizeof(bus.name));
		mptable_put(t, &bus, sizeof(bus));
		bus.id++;
	}
	memcpy(bus.name, "ISA   ", sizeof(bus.name));
	mptable_put(t, &bus, sizeof(bus));
	return bus.id;
}

static void
mptable_isa_ints(struct mptable *t, uint8_t isa)
{
	struct mptable_int e = {
		.type = MPTABLE_IO_INT,
		.int_type = MPTABLE_EXTINT,
		.bus = isa,
		.apic = IOAPIC_ID,
	};

	mptable_put(t, &e, sizeof(e));
	e.int_type = MPTABLE_INT;
	for (uint8_t irq = 0; irq < MPTABLE_ISA_IRQS; irq++) {
		if (irq == 2)
			continue; /* the 8259s' cascade */
		e.irq = irq;
		e.input = irq == 0 ? MPTABLE_PIT_INPUT : irq;
		e.flags = irq == ACPI_PM_SCI_IRQ ? MPTABLE_INT_LOW_LEVEL : MPTABLE_INT_CONFORMS;
		mptable_put(t, &e, sizeof(e));
	}
}

/* D.3: a PCI source is the device number and the pin. */
static void
mptable_pci_ints(struct mptable *t, const struct acpi_pci *pci)
{
	for (int i = 0; pci != NULL && i < pci->prt_count; i++) {
		const struct acpi_prt *r = &pci->prt[i];
		struct mptable_int e = {
			.type = MPTABLE_IO_INT,
			.int_type = MPTABLE_INT,
			.flags = MPTABLE_INT_LOW_LEVEL,
			.irq = (uint8_t)(r->slot << 2 | r->pin),
			.apic = IOAPIC_ID,
			.input = r->gsi,
		};

		mptable_put(t, &e, sizeof(e));
	}
}

static void
mptable_local_ints(struct mptable *t, uint8_t isa)
{
	struct mptable_int e = {
		.type = MPTABLE_LOCAL_INT, .bus = isa, .apic = MPTABLE_ALL_LAPICS,
	};

	e.int_type = MPTABLE_EXTINT;
	e.input = 0;
	mptable_put(t, &e, sizeof(e));
	e.int_type = MPTABLE_NMI;
	e.input = 1;
	mptable_put(t, &e, sizeof(e));
}

static int
mptable_write(struct vm *vm, struct mptable *t)
{
	struct mptable_header h = {
		.signature = { 'P', 'C', 'M', 'P' },
		.length = (uint16_t)t->buf.len,
		.revision = MPTABLE_SPEC_REVISION,
		.oem_id = { 'B', 'H', 'Y', 'V', 'E', ' ', ' ', ' ' },
		.product_id = { 'H', 'y', 'p', 'e', 'r', 'v', 'i', 's', 'o', 'r', ' ', ' ' },
		.entries = t->entries,
		.lapic = X86_APIC_DEFAULT_BASE,
	};
	struct mptable_pointer ptr = {
		.signature = { '_', 'M', 'P', '_' },
		.address = LAYOUT_MP_TABLE,
		.length = sizeof(ptr) / 16,
		.revision = MPTABLE_SPEC_REVISION,
	};
	int err;

	if (t->buf.len > LAYOUT_MP_TABLE_SIZE)
		return -ENOSPC;
	memcpy(t->buf.buf, &h, sizeof(h));
	h.checksum = aml_checksum(t->buf.buf, t->buf.len);
	memcpy(t->buf.buf, &h, sizeof(h));
	ptr.checksum = aml_checksum(&ptr, sizeof(ptr));
	err = vm_mem_write(vm, LAYOUT_MP_TABLE, t->buf.buf, t->buf.len);
	if (err == 0)
		err = vm_mem_write(vm, LAYOUT_MP_POINTER, &ptr, sizeof(ptr));
	return err;
}

int
mptable_build(struct vm *vm, const struct acpi_params *p)
{
	struct mptable_ioapic ioapic = {
		.type = MPTABLE_IOAPIC,
		.id = IOAPIC_ID,
		.version = MPTABLE_IOAPIC_VERSION,
		.flags = MPTABLE_IOAPIC_ENABLED,
		.address = IOAPIC_BASE,
	};
	struct mptable t = { 0 };
	uint8_t isa;
	int err;

	aml_init(&t.buf);
	aml_bytes(&t.buf, &(struct mptable_header){ 0 }, sizeof(struct mptable_header));
	mptable_processors(&t, vm);
	isa = mptable_buses(&t, p->pci);
	mptable_put(&t, &ioapic, sizeof(ioapic));
	mptable_isa_ints(&t, isa);
	mptable_pci_ints(&t, p->pci);
	mptable_local_ints(&t, isa);

	err = aml_error(&t.buf);
	if (err == 0)
		err = mptable_write(vm, &t);
	if (err != 0)
		log_error("mptable", "cannot write the table: %s", strerror(-err));
	aml_free(&t.buf);
	return err;
}
