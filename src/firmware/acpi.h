/*
 * The ACPI tables (ACPI 6.4): RSDP, RSDT and XSDT, FADT, FACS, MADT, DSDT, and as the machine has
 * them HPET and MCFG.
 *
 * Everything about parts that a machine may or may not have comes in as data: what the tables say
 * of a device is what its entry in devices says. What every machine has (fixed hardware, interrupt
 * controllers, timer, RTC) is described from the constants in its chip's header.
 *
 *	struct acpi_device com1 = { .name = "COM1", .hid = "PNP0501", .uid = 1,
 *	    .res = { ACPI_IO(0x3f8, 8), ACPI_IRQ(4) } };
 *	struct acpi_params p = { .i8042 = true, .devices = &com1, .device_count = 1 };
 *	err = acpi_build(vm, &p, &rsdp);
 */
#ifndef FIRMWARE_ACPI_H
#define FIRMWARE_ACPI_H

#include "base/bits.h"

struct vm;

/* What a device occupies. */
struct acpi_resource {
	enum { ACPI_RES_NONE, ACPI_RES_IO, ACPI_RES_MEM, ACPI_RES_IRQ } kind;
	uint32_t base; /* the IRQ's number, for ACPI_RES_IRQ: 0 to 15 */
	uint32_t len; /* at most 255 ports */
};
#define ACPI_IO(base_, len_) { .kind = ACPI_RES_IO, .base = (base_), .len = (len_) }
#define ACPI_MEM(base_, len_) { .kind = ACPI_RES_MEM, .base = (base_), .len = (len_) }
#define ACPI_IRQ(irq_) { .kind = ACPI_RES_IRQ, .base = (irq_) }
#define ACPI_RES_MAX 12

/* A device with fixed resources on the board or the ISA bus. */
struct acpi_device {
	const char *name; /* four characters, unique among siblings */
	const char *hid; /* "PNP0501", or a string of another form ("QEMU0002") */
	int uid; /* tells devices of one hid apart; 0 for none */
	struct acpi_resource res[ACPI_RES_MAX]; /* up to the first ACPI_RES_NONE */
};

/* How a PCI interrupt pin is wired. */
struct acpi_prt {
	uint8_t slot, pin; /* pin: 0 is INTA */
	uint8_t gsi; /* the IOAPIC's input */
	uint8_t irq; /* the 8259's, 0 when it is not wired to it */
};

/* A PCI host bridge, all bus numbers and windows inclusive. */
struct acpi_pci {
	uint8_t bus_first, bus_last;
	uint64_t ecam; /* of bus 0, 1 MiB per bus; 0 when there is none */
	uint64_t mem32_base, mem32_limit; /* limit 0: no such window */
	uint64_t mem64_base, mem64_limit;
	int isa_slot; /* slot of the ISA bridge on bus_first, function 0; -1 when there is none */
	const struct acpi_prt *prt;
	int prt_count; /* at most 128: four pins in 32 slots */
};

struct acpi_params {
	bool i8042, i8042_aux; /* a keyboard controller, with a mouse port */
	bool vga; /* VGA registers and memory at 0xa0000 */
	bool hpet;
	const struct acpi_pci *pci; /* NULL: no PCI */
	const struct acpi_device *devices;
	int device_count;
};

/* Writes the tables for all vCPUs of vm to guest memory (layout.h) and tells the RSDP's address.
 * Main thread. 0, or -errno after one line to the user. */
int acpi_build(struct vm *vm, const struct acpi_params *p, uint64_t *rsdp);

#endif
