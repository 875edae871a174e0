/*
 * The DSDT: sleep states, processors, the PCI host bridge and the board's devices (ACPI 6.4,
 * chapters 6, 7 and 8; PCI Firmware Specification 3.3 for the host bridge).
 */
#include "firmware/acpi_tables.h"

#include "chipset/acpi_pm.h"
#include "chipset/hpet.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define DSDT_REVISION 2 /* integers have 64 bits */

/* What every PC has. */
static const struct acpi_device dsdt_standard[] = {
	{ .name = "PIC", .hid = "PNP0000",
	    .res = { ACPI_IO(0x20, 2), ACPI_IO(0xa0, 2), ACPI_IO(0x4d0, 2), ACPI_IRQ(2) } },
	{ .name = "TIMR", .hid = "PNP0100", .res = { ACPI_IO(0x40, 4), ACPI_IRQ(0) } },
	{ .name = "RTC", .hid = "PNP0B00", .res = { ACPI_IO(0x70, 4), ACPI_IRQ(8) } },
};

static const struct acpi_device dsdt_keyboard = {
	.name = "KBD", .hid = "PNP0303",
	.res = { ACPI_IO(0x60, 1), ACPI_IO(0x64, 1), ACPI_IRQ(1) },
};

static const struct acpi_device dsdt_mouse = {
	.name = "MOU", .hid = "PNP0F13", .res = { ACPI_IRQ(12) },
};

/* PNP identifiers are compressed, others are strings (6.1.5). */
static void
dsdt_hid(struct aml *a, const char *hid)
{
	bool eisa = strlen(hid) == 7 && strspn(hid + 3, "0123456789ABCDEF") == 4;

	for (int i = 0; i < 3 && eisa; i++)
		eisa = isupper((unsigned char)hid[i]);
	if (eisa)
		aml_name_eisaid(a, "_HID", hid);
	else
		aml_name_str(a, "_HID", hid);
}

static void
dsdt_resource(struct aml *a, const struct acpi_resource *res)
{
	switch (res->kind) {
	case ACPI_RES_IO:
		aml_res_io(a, (uint16_t)res->base, (uint8_t)res->len);
		break;
	case ACPI_RES_MEM:
		aml_res_mem32(a, res->base, res->len);
		break;
	case ACPI_RES_IRQ:
		aml_res_irq(a, (int)res->base);
		break;
	case ACPI_RES_NONE:
		break;
	}
}

static void
dsdt_device(struct aml *a, const struct acpi_device *d)
{
	size_t dev = aml_device(a, d->name);
	size_t crs;

	dsdt_hid(a, d->hid);
	if (d->uid != 0)
		aml_name_int(a, "_UID", (uint64_t)d->uid);
	if (d->res[0].kind != ACPI_RES_NONE) {
		crs = aml_crs(a);
		for (int i = 0; i < ACPI_RES_MAX && d->res[i].kind != ACPI_RES_NONE; i++)
			dsdt_resource(a, &d->res[i]);
		aml_crs_end(a, crs);
	}
	aml_end(a, dev);
}

static void
dsdt_isa_devices(struct aml *a, const struct acpi_params *p)
{
	for (size_t i = 0; i < ARRAY_SIZE(dsdt_standard); i++)
		dsdt_device(a, &dsdt_standard[i]);
	if (p->i8042)
		dsdt_device(a, &dsdt_keyboard);
	if (p->i8042 && p->i8042_aux)
		dsdt_device(a, &dsdt_mouse);
	for (int i = 0; i < p->device_count; i++)
		dsdt_device(a, &p->devices[i]);
}

/* Ports and memory that belong to the board, so that nothing else is put there. */
static void
dsdt_board(struct aml *a, const struct acpi_params *p)
{
	struct acpi_device board = {
		.name = "MBRD", .hid = "PNP0C02",
		.res = {
			ACPI_IO(0x61, 1), ACPI_IO(0x80, 1), ACPI_IO(0x92, 1),
			ACPI_IO(ACPI_PM_SMI_CMD, 1), ACPI_IO(ACPI_PM1_EVT, ACPI_PM1_EVT_LEN),
			ACPI_IO(ACPI_PM1_CNT, ACPI_PM1_CNT_LEN),
			ACPI_IO(ACPI_PM_TMR, ACPI_PM_TMR_LEN), ACPI_IO(ACPI_GPE0, ACPI_GPE0_LEN),
		},
	};

	if (p->pci != NULL && p->pci->ecam != 0)
		board.res[8] = (struct acpi_resource)ACPI_MEM((uint32_t)p->pci->ecam,
		    (p->pci->bus_last + 1u) * (uint32_t)MIB(1));
	dsdt_device(a, &board);
}

static void
dsdt_hpet(struct aml *a, const struct acpi_params *p)
{
	struct acpi_device hpet = {
		.name = "HPET", .hid = "PNP0103",
		.res = { ACPI_MEM(HPET_BASE, HPET_SIZE) },
	};

	if (p->hpet)
		dsdt_device(a, &hpet);
}

/* 8.4: processors are devices since ACPI 6.0. _UID is what the MADT calls a processor's UID. */
static void
dsdt_processors(struct aml *a, int vcpus)
{
	for (int i = 0; i < vcpus; i++) {
		char name[8];
		size_t dev;

		snprintf(name, sizeof(name), "C%03X", i & 0xfff); /* APIC IDs end at 254 */
		dev = aml_device(a, name);
		aml_name_str(a, "_HID", "ACPI0007");
		aml_name_int(a, "_UID", (uint64_t)i);
		aml_end(a, dev);
	}
}

/* --- PCI --- */

static void
dsdt_pci_crs(struct aml *a, const struct acpi_params *p)
{
	const struct acpi_pci *pci = p->pci;
	size_t crs = aml_crs(a);

	aml_res_bus_window(a, pci->bus_first, pci->bus_last);
	aml_res_io(a, 0xcf8, 8); /* configuration address and data: the bridge's own */
	aml_res_io_window(a, 0x0000, 0x0cf7);
	aml_res_io_window(a, 0x0d00, 0xffff);
	if (p->vga)
		aml_res_mem_window(a, 0xa0000, 0xbffff);
	if (pci->mem32_limit != 0)
		aml_res_mem_window(a, pci->mem32_base, pci->mem32_limit);
	if (pci->mem64_limit != 0)
		aml_res_mem_window(a, pci->mem64_base, pci->mem64_limit);
	aml_crs_end(a, crs);
}

static void
dsdt_prt_package(struct aml *a, const struct acpi_pci *pci, bool apic)
{
	int count = 0;
	size_t all;

	for (int i = 0; i < pci->prt_count; i++)
		count += apic || pci->prt[i].irq != 0;
	all = aml_package(a, count);
	for (int i = 0; i < pci->prt_count; i++) {
		const struct acpi_prt *r = &pci->prt[i];
		size_t one;

		if (!apic && r->irq == 0)
			continue;
		one = aml_package(a, 4);
		aml_int(a, (uint64_t)r->slot << 16 | 0xffff); /* every function */
		aml_int(a, r->pin);
		aml_int(a, 0); /* no link device: hard-wired */
		aml_int(a, apic ? r->gsi : r->irq);
		aml_end(a, one);
	}
	aml_end(a, all);
}

/* 6.2.13. Which of the two tables holds is known by what the system told \_PIC. */
static void
dsdt_pci_prt(struct aml *a, const struct acpi_pci *pci)
{
	size_t method, cond;

	if (pci->prt_count == 0)
		return;
	aml_name(a, "PRTA");
	dsdt_prt_package(a, pci, true);
	aml_name(a, "PRTP");
	dsdt_prt_package(a, pci, false);
	method = aml_method(a, "_PRT", 0);
	cond = aml_if(a);
	aml_path(a, "\\PICM");
	aml_op(a, AML_RETURN);
	aml_path(a, "PRTA");
	aml_end(a, cond);
	aml_op(a, AML_RETURN);
	aml_path(a, "PRTP");
	aml_end(a, method);
}

/* _OSC (6.2.11, PCI Firmware 4.5.1): what control of the PCIe hierarchy an operating system is
 * granted. Without it, systems take the features for the firmware's and leave them alone. */
#define DSDT_OSC_GRANTED 0x1d /* native hot-plug, PME, AER, capability structure; not SHPC */
#define DSDT_OSC_BAD_UUID 0x04 /* in the first dword of what is returned */
#define DSDT_OSC_BAD_REVISION 0x08
#define DSDT_OSC_MASKED 0x10

static void
dsdt_osc_status(struct aml *a, int bit)
{
	aml_op(a, AML_OR);
	aml_path(a, "CDW1");
	aml_int(a, (uint64_t)bit);
	aml_path(a, "CDW1");
}

static void
dsdt_osc_field(struct aml *a, int off, const char *name)
{
	aml_op(a, AML_CREATE_DWORD_FIELD);
	aml_op(a, AML_ARG3);
	aml_int(a, (uint64_t)off);
	aml_path(a, name);
}

static void
dsdt_pci_osc(struct aml *a)
{
	size_t method = aml_method(a, "_OSC", 4);
	size_t known, cond;

	dsdt_osc_field(a, 0, "CDW1");
	known = aml_if(a);
	aml_op(a, AML_LEQUAL);
	aml_op(a, AML_ARG0);
	aml_uuid(a, "33db4d5b-1ff7-401c-9657-7441c03dd766");
	dsdt_osc_field(a, 8, "CDW3");
	cond = aml_if(a);
	aml_op(a, AML_LNOT);
	aml_op(a, AML_LEQUAL);
	aml_op(a, AML_ARG1);
	aml_int(a, 1);
	dsdt_osc_status(a, DSDT_OSC_BAD_REVISION);
	aml_end(a, cond);
	aml_op(a, AML_AND);
	aml_path(a, "CDW3");
	aml_int(a, DSDT_OSC_GRANTED);
	aml_op(a, AML_LOCAL0);
	cond = aml_if(a);
	aml_op(a, AML_LNOT);
	aml_op(a, AML_LEQUAL);
	aml_op(a, AML_LOCAL0);
	aml_path(a, "CDW3");
	dsdt_osc_status(a, DSDT_OSC_MASKED);
	aml_end(a, cond);
	aml_op(a, AML_STORE);
	aml_op(a, AML_LOCAL0);
	aml_path(a, "CDW3");
	aml_end(a, known);
	known = aml_else(a);
	dsdt_osc_status(a, DSDT_OSC_BAD_UUID);
	aml_end(a, known);
	aml_op(a, AML_RETURN);
	aml_op(a, AML_ARG3);
	aml_end(a, method);
}

static void
dsdt_pci(struct aml *a, const struct acpi_params *p)
{
	const struct acpi_pci *pci = p->pci;
	size_t dev = aml_device(a, "PCI0");
	size_t isa;

	aml_name_eisaid(a, "_HID", pci->ecam != 0 ? "PNP0A08" : "PNP0A03");
	if (pci->ecam != 0)
		aml_name_eisaid(a, "_CID", "PNP0A03");
	aml_name_int(a, "_BBN", pci->bus_first);
	aml_name_int(a, "_UID", 0);
	dsdt_pci_crs(a, p);
	dsdt_pci_prt(a, pci);
	if (pci->ecam != 0)
		dsdt_pci_osc(a);
	if (pci->isa_slot >= 0) {
		isa = aml_device(a, "ISA");
		aml_name_int(a, "_ADR", (uint64_t)pci->isa_slot << 16);
		dsdt_isa_devices(a, p);
		aml_end(a, isa);
	}
	aml_end(a, dev);
}

/* \_PIC (5.8.1): the system says which interrupt controllers it uses; 0 is the 8259 pair. */
static void
dsdt_pic_method(struct aml *a)
{
	size_t method;

	aml_name_int(a, "\\PICM", 0);
	method = aml_method(a, "\\_PIC", 1);
	aml_op(a, AML_STORE);
	aml_op(a, AML_ARG0);
	aml_path(a, "\\PICM");
	aml_end(a, method);
}

void
acpi_dsdt_build(struct aml *a, const struct acpi_params *p, int vcpus)
{
	size_t s5, sb;

	aml_table(a, "DSDT", DSDT_REVISION);
	/* 7.4.2: SLP_TYP for PM1a and PM1b, two reserved */
	aml_name(a, "\\_S5");
	s5 = aml_package(a, 4);
	aml_int(a, ACPI_PM_SLP_TYP_S5);
	aml_int(a, ACPI_PM_SLP_TYP_S5);
	aml_int(a, 0);
	aml_int(a, 0);
	aml_end(a, s5);
	dsdt_pic_method(a);

	sb = aml_scope(a, "\\_SB");
	dsdt_processors(a, vcpus);
	if (p->pci != NULL)
		dsdt_pci(a, p);
	if (p->pci == NULL || p->pci->isa_slot < 0)
		dsdt_isa_devices(a, p);
	dsdt_hpet(a, p);
	dsdt_board(a, p);
	aml_end(a, sb);
}
