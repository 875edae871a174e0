/*
 * The static ACPI tables (ACPI 6.4, 5.2) and their placement.
 */
#include "firmware/acpi.h"

#include "base/log.h"
#include "chipset/acpi_pm.h"
#include "chipset/hpet.h"
#include "chipset/mc146818.h"
#include "chipset/reset.h"
#include "firmware/acpi_tables.h"
#include "firmware/layout.h"
#include "vm/mem.h"

#include <errno.h>
#include <string.h>

#define ACPI_TABLES_MAX 8
#define ACPI_TABLE_ALIGN 16u
#define ACPI_FACS_ALIGN 64u /* 5.2.10 */

/* RSDP (5.2.5.3) */
struct acpi_rsdp {
	char signature[8];
	uint8_t checksum; /* of the first 20 bytes */
	char oem_id[6];
	uint8_t revision;
	uint32_t rsdt;
	uint32_t length;
	uint64_t xsdt;
	uint8_t extended_checksum;
	uint8_t reserved[3];
} __attribute__((packed));
static_assert(sizeof(struct acpi_rsdp) == 36, "ACPI 6.4, 5.2.5.3");
#define ACPI_RSDP_V1_SIZE 20
#define ACPI_RSDP_REVISION 2

/* Generic address structure (5.2.3.2) */
struct acpi_gas {
	uint8_t space, bit_width, bit_offset, access;
	uint64_t address;
} __attribute__((packed));
#define ACPI_SPACE_MEM 0
#define ACPI_SPACE_IO 1
#define ACPI_ACCESS_BYTE 1
#define ACPI_ACCESS_WORD 2
#define ACPI_ACCESS_DWORD 3

/* FADT, what follows the header (5.2.9) */
struct acpi_fadt {
	uint32_t firmware_ctrl, dsdt;
	uint8_t reserved1;
	uint8_t preferred_pm_profile;
	uint16_t sci_int;
	uint32_t smi_cmd;
	uint8_t acpi_enable, acpi_disable;
	uint8_t s4bios_req, pstate_cnt;
	uint32_t pm1a_evt_blk, pm1b_evt_blk, pm1a_cnt_blk, pm1b_cnt_blk, pm2_cnt_blk;
	uint32_t pm_tmr_blk, gpe0_blk, gpe1_blk;
	uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_blk_len, gpe1_blk_len;
	uint8_t gpe1_base, cst_cnt;
	uint16_t p_lvl2_lat, p_lvl3_lat;
	uint16_t flush_size, flush_stride;
	uint8_t duty_offset, duty_width;
	uint8_t day_alrm, mon_alrm, century;
	uint16_t iapc_boot_arch;
	uint8_t reserved2;
	uint32_t flags;
	struct acpi_gas reset_reg;
	uint8_t reset_value;
	uint16_t arm_boot_arch;
	uint8_t minor_version;
	uint64_t x_firmware_ctrl, x_dsdt;
	struct acpi_gas x_pm1a_evt_blk, x_pm1b_evt_blk, x_pm1a_cnt_blk, x_pm1b_cnt_blk,
	    x_pm2_cnt_blk;
	struct acpi_gas x_pm_tmr_blk, x_gpe0_blk, x_gpe1_blk;
	struct acpi_gas sleep_control_reg, sleep_status_reg;
	char hypervisor_vendor[8];
} __attribute__((packed));
static_assert(sizeof(struct acpi_fadt) + 36 == 276, "ACPI 6.4, table 5.9");
static_assert(offsetof(struct acpi_fadt, flags) + 36 == 112, "ACPI 6.4, table 5.9");
static_assert(offsetof(struct acpi_fadt, x_dsdt) + 36 == 140, "ACPI 6.4, table 5.9");
#define ACPI_FADT_REVISION 6

/* FADT.flags (table 5.10) */
#define ACPI_FADT_WBINVD BIT(0)
#define ACPI_FADT_PROC_C1 BIT(2)
#define ACPI_FADT_SLP_BUTTON BIT(5) /* set: none among the fixed hardware */
#define ACPI_FADT_FIX_RTC BIT(6) /* set: no RTC wake status among the fixed hardware */
#define ACPI_FADT_TMR_VAL_EXT BIT(8)
#define ACPI_FADT_RESET_REG_SUP BIT(10)
/* FADT.iapc_boot_arch (table 5.11) */
#define ACPI_FADT_LEGACY_DEVICES BIT(0)
#define ACPI_FADT_8042 BIT(1)
#define ACPI_FADT_NO_VGA BIT(2)
#define ACPI_FADT_NO_ASPM BIT(4)
/* Latencies above 100 and 1000 us say that there are no C2 and C3 */
#define ACPI_FADT_NO_C2 0x0fff
#define ACPI_FADT_NO_C3 0x0fff

/* FACS (5.2.10) */
struct acpi_facs {
	char signature[4];
	uint32_t length;
	uint32_t hardware_signature;
	uint32_t waking_vector;
	uint32_t global_lock;
	uint32_t flags;
	uint64_t x_waking_vector;
	uint8_t version;
	uint8_t reserved[31];
};
static_assert(sizeof(struct acpi_facs) == 64, "ACPI 6.4, 5.2.10");
#define ACPI_FACS_VERSION 2

#define ACPI_HPET_REVISION 1
#define ACPI_HPET_MIN_TICK 128 /* clocks in periodic mode, IA-PC HPET 1.0a, 3.2.4 */
#define ACPI_MCFG_REVISION 1

/* Where tables go: one after the other, errors stick. */
struct acpi_writer {
	struct vm *vm;
	uint64_t next;
	int err;
	uint64_t tables[ACPI_TABLES_MAX]; /* what RSDT and XSDT list */
	int table_count;
};

/* Copies len bytes to the next free place. Returns its address. */
static uint64_t
acpi_put(struct acpi_writer *w, const void *p, size_t len, uint64_t align)
{
	uint64_t at = ALIGN_UP(w->next, align);

	if (w->err == 0 && (at > LAYOUT_ACPI + LAYOUT_ACPI_SIZE ||
			       len > LAYOUT_ACPI + LAYOUT_ACPI_SIZE - at))
		w->err = -ENOSPC;
	if (w->err == 0)
		w->err = vm_mem_write(w->vm, at, p, len);
	if (w->err == 0)
		w->next = at + len;
	return at;
}

/* Completes the table in a, places it and frees it. */
static uint64_t
acpi_table_put(struct acpi_writer *w, struct aml *a)
{
	uint64_t at = 0;

	aml_table_end(a);
	if (w->err == 0)
		w->err = aml_error(a);
	if (w->err == 0)
		at = acpi_put(w, a->buf, a->len, ACPI_TABLE_ALIGN);
	aml_free(a);
	return at;
}

/* The same, and lists it. */
static void
acpi_table_list(struct acpi_writer *w, struct aml *a)
{
	assert(w->table_count < ACPI_TABLES_MAX);
	w->tables[w->table_count++] = acpi_table_put(w, a);
}

static struct acpi_gas
acpi_port(uint16_t port, int bytes, uint8_t access)
{
	return (struct acpi_gas){
		.space = ACPI_SPACE_IO,
		.bit_width = (uint8_t)(bytes * 8),
		.access = access,
		.address = port,
	};
}

static void
acpi_fadt_build(struct acpi_writer *w, const struct acpi_params *p, uint64_t dsdt, uint64_t facs)
{
	struct acpi_fadt f = {
		.firmware_ctrl = (uint32_t)facs,
		.dsdt = (uint32_t)dsdt,
		.x_dsdt = dsdt,
		.sci_int = ACPI_PM_SCI_IRQ,
		.smi_cmd = ACPI_PM_SMI_CMD,
		.acpi_enable = ACPI_PM_ENABLE,
		.acpi_disable = ACPI_PM_DISABLE,
		.pm1a_evt_blk = ACPI_PM1_EVT,
		.pm1a_cnt_blk = ACPI_PM1_CNT,
		.pm_tmr_blk = ACPI_PM_TMR,
		.gpe0_blk = ACPI_GPE0,
		.pm1_evt_len = ACPI_PM1_EVT_LEN,
		.pm1_cnt_len = ACPI_PM1_CNT_LEN,
		.pm_tmr_len = ACPI_PM_TMR_LEN,
		.gpe0_blk_len = ACPI_GPE0_LEN,
		.p_lvl2_lat = ACPI_FADT_NO_C2,
		.p_lvl3_lat = ACPI_FADT_NO_C3,
		.century = MC146818_CENTURY,
		.iapc_boot_arch = ACPI_FADT_LEGACY_DEVICES | ACPI_FADT_NO_ASPM,
		.flags = ACPI_FADT_WBINVD | ACPI_FADT_PROC_C1 | ACPI_FADT_SLP_BUTTON |
		    ACPI_FADT_FIX_RTC | ACPI_FADT_RESET_REG_SUP,
		.reset_reg = acpi_port(RESET_CONTROL_PORT, 1, ACPI_ACCESS_BYTE),
		.reset_value = RESET_CONTROL_VALUE,
		.x_pm1a_evt_blk = acpi_port(ACPI_PM1_EVT, ACPI_PM1_EVT_LEN, ACPI_ACCESS_WORD),
		.x_pm1a_cnt_blk = acpi_port(ACPI_PM1_CNT, ACPI_PM1_CNT_LEN, ACPI_ACCESS_WORD),
		.x_pm_tmr_blk = acpi_port(ACPI_PM_TMR, ACPI_PM_TMR_LEN, ACPI_ACCESS_DWORD),
		.x_gpe0_blk = acpi_port(ACPI_GPE0, ACPI_GPE0_LEN, ACPI_ACCESS_BYTE),
		.hypervisor_vendor = { 'b', 'h', 'y', 'v', 'e' },
	};
	struct aml a;

	if (p->i8042)
		f.iapc_boot_arch |= ACPI_FADT_8042;
	if (!p->vga)
		f.iapc_boot_arch |= ACPI_FADT_NO_VGA;
	if (ACPI_PM_TMR_32BIT)
		f.flags |= ACPI_FADT_TMR_VAL_EXT;
	aml_init(&a);
	aml_table(&a, "FACP", ACPI_FADT_REVISION);
	aml_bytes(&a, &f, sizeof(f));
	acpi_table_list(w, &a);
}

/* IA-PC HPET 1.0a, 3.2.4 */
static void
acpi_hpet_build(struct acpi_writer *w)
{
	struct acpi_gas base = {
		.space = ACPI_SPACE_MEM, .bit_width = 64, .address = HPET_BASE,
	};
	struct aml a;

	aml_init(&a);
	aml_table(&a, "HPET", ACPI_HPET_REVISION);
	aml_u32(&a, HPET_CAPABILITIES);
	aml_bytes(&a, &base, sizeof(base));
	aml_u8(&a, 0); /* the first HPET */
	aml_u16(&a, ACPI_HPET_MIN_TICK);
	aml_u8(&a, 0); /* no page protection */
	acpi_table_list(w, &a);
}

/* PCI Firmware Specification 3.3, 4.1.2 */
static void
acpi_mcfg_build(struct acpi_writer *w, const struct acpi_pci *pci)
{
	struct aml a;

	aml_init(&a);
	aml_table(&a, "MCFG", ACPI_MCFG_REVISION);
	aml_u64(&a, 0);
	aml_u64(&a, pci->ecam);
	aml_u16(&a, 0); /* segment group */
	aml_u8(&a, pci->bus_first);
	aml_u8(&a, pci->bus_last);
	aml_u32(&a, 0);
	acpi_table_list(w, &a);
}

/* RSDT or XSDT (5.2.7, 5.2.8): the addresses of all tables but DSDT and FACS. */
static uint64_t
acpi_root_build(struct acpi_writer *w, bool extended)
{
	struct aml a;

	aml_init(&a);
	aml_table(&a, extended ? "XSDT" : "RSDT", 1);
	for (int i = 0; i < w->table_count; i++) {
		if (extended)
			aml_u64(&a, w->tables[i]);
		else
			aml_u32(&a, (uint32_t)w->tables[i]);
	}
	return acpi_table_put(w, &a);
}

static void
acpi_rsdp_write(struct acpi_writer *w)
{
	struct acpi_rsdp r = {
		.signature = { 'R', 'S', 'D', ' ', 'P', 'T', 'R', ' ' },
		.oem_id = { 'B', 'H', 'Y', 'V', 'E', ' ' },
		.revision = ACPI_RSDP_REVISION,
		.rsdt = (uint32_t)acpi_root_build(w, false),
		.length = sizeof(r),
		.xsdt = acpi_root_build(w, true),
	};

	r.checksum = aml_checksum(&r, ACPI_RSDP_V1_SIZE);
	r.extended_checksum = aml_checksum(&r, sizeof(r));
	if (w->err == 0)
		w->err = vm_mem_write(w->vm, LAYOUT_RSDP, &r, sizeof(r));
}

static void
acpi_madt_put(struct acpi_writer *w, const struct x86_topology *topo)
{
	struct aml a;

	aml_init(&a);
	acpi_madt_build(&a, topo);
	acpi_table_list(w, &a);
}

static uint64_t
acpi_dsdt_put(struct acpi_writer *w, const struct acpi_params *p, int vcpus)
{
	struct aml a;

	aml_init(&a);
	acpi_dsdt_build(&a, p, vcpus);
	return acpi_table_put(w, &a);
}

int
acpi_build(struct vm *vm, const struct acpi_params *p, uint64_t *rsdp)
{
	struct acpi_facs facs = {
		.signature = { 'F', 'A', 'C', 'S' },
		.length = sizeof(facs),
		.version = ACPI_FACS_VERSION,
	};
	struct acpi_writer w = { .vm = vm, .next = LAYOUT_ACPI };
	int vcpus = vm_vcpus(vm);
	uint64_t dsdt, facs_at;

	facs_at = acpi_put(&w, &facs, sizeof(facs), ACPI_FACS_ALIGN);
	dsdt = acpi_dsdt_put(&w, p, vcpus);
	acpi_fadt_build(&w, p, dsdt, facs_at);
	acpi_madt_put(&w, vm_topology(vm));
	if (p->hpet)
		acpi_hpet_build(&w);
	if (p->pci != NULL && p->pci->ecam != 0)
		acpi_mcfg_build(&w, p->pci);
	acpi_rsdp_write(&w);
	if (w.err == -ENOSPC)
		log_error("acpi", "the tables of %d vCPUs do not fit their %u KiB", vcpus,
		    LAYOUT_ACPI_SIZE / 1024);
	else if (w.err != 0)
		log_error("acpi", "cannot write the tables: %s", strerror(-w.err));
	if (w.err == 0)
		*rsdp = LAYOUT_RSDP;
	return w.err;
}
