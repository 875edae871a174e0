/*
 * The MADT: processors and interrupt controllers (ACPI 6.4, 5.2.12).
 */
#include "firmware/acpi_tables.h"

#include "chipset/acpi_pm.h"
#include "chipset/ioapic.h"
#include "x86/cpuid.h"

#define ACPI_MADT_REVISION 5
#define ACPI_MADT_PCAT_COMPAT BIT(0) /* there are 8259s to be masked */
#define ACPI_MADT_LAPIC 0
#define ACPI_MADT_IOAPIC 1
#define ACPI_MADT_OVERRIDE 2
#define ACPI_MADT_LAPIC_NMI 4
#define ACPI_MADT_X2APIC 9
#define ACPI_MADT_X2APIC_NMI 10
#define ACPI_MADT_ENABLED BIT(0)
#define ACPI_MADT_XAPIC_IDS 255 /* APIC IDs from here on take the x2APIC forms */
#define ACPI_MADT_ALL_UIDS 0xff
#define ACPI_MADT_ALL_X2APIC_UIDS 0xffffffffu
#define ACPI_MADT_NMI_LINT 1
/* MPS INTI flags (table 5.26) */
#define ACPI_INTI_CONFORMS 0x0
#define ACPI_INTI_LOW_LEVEL 0xf
#define ACPI_PIT_GSI 2 /* where the PC wires the timer's IRQ 0 */


static void
acpi_madt_processor(struct aml *a, uint32_t uid, uint32_t apic_id)
{
	if (apic_id < ACPI_MADT_XAPIC_IDS) {
		aml_u8(a, ACPI_MADT_LAPIC);
		aml_u8(a, 8);
		aml_u8(a, (uint8_t)uid); /* not above the APIC ID */
		aml_u8(a, (uint8_t)apic_id);
		aml_u32(a, ACPI_MADT_ENABLED);
	} else {
		aml_u8(a, ACPI_MADT_X2APIC);
		aml_u8(a, 16);
		aml_u16(a, 0);
		aml_u32(a, apic_id);
		aml_u32(a, ACPI_MADT_ENABLED);
		aml_u32(a, uid);
	}
}

static void
acpi_madt_override(struct aml *a, uint8_t irq, uint32_t gsi, uint16_t inti)
{
	aml_u8(a, ACPI_MADT_OVERRIDE);
	aml_u8(a, 10);
	aml_u8(a, 0); /* ISA */
	aml_u8(a, irq);
	aml_u32(a, gsi);
	aml_u16(a, inti);
}

static void
acpi_madt_nmi(struct aml *a, bool x2apic)
{
	aml_u8(a, ACPI_MADT_LAPIC_NMI);
	aml_u8(a, 6);
	aml_u8(a, ACPI_MADT_ALL_UIDS);
	aml_u16(a, ACPI_INTI_CONFORMS);
	aml_u8(a, ACPI_MADT_NMI_LINT);
	if (!x2apic)
		return;
	aml_u8(a, ACPI_MADT_X2APIC_NMI);
	aml_u8(a, 12);
	aml_u16(a, ACPI_INTI_CONFORMS);
	aml_u32(a, ACPI_MADT_ALL_X2APIC_UIDS);
	aml_u8(a, ACPI_MADT_NMI_LINT);
	aml_bytes(a, (uint8_t[3]){ 0 }, 3);
}

void
acpi_madt_build(struct aml *a, const struct x86_topology *topo)
{
	uint32_t vcpus = topo->sockets * topo->cores * topo->threads;
	bool x2apic = false;

	aml_table(a, "APIC", ACPI_MADT_REVISION);
	aml_u32(a, X86_APIC_DEFAULT_BASE);
	aml_u32(a, ACPI_MADT_PCAT_COMPAT);
	for (uint32_t i = 0; i < vcpus; i++) {
		uint32_t apic_id = x86_topology_apic_id(topo, i);

		acpi_madt_processor(a, i, apic_id);
		x2apic |= apic_id >= ACPI_MADT_XAPIC_IDS;
	}
	aml_u8(a, ACPI_MADT_IOAPIC);
	aml_u8(a, 12);
	aml_u8(a, IOAPIC_ID);
	aml_u8(a, 0);
	aml_u32(a, IOAPIC_BASE);
	aml_u32(a, 0); /* its first input is GSI 0 */
	acpi_madt_override(a, 0, ACPI_PIT_GSI, ACPI_INTI_CONFORMS);
	acpi_madt_override(a, ACPI_PM_SCI_IRQ, ACPI_PM_SCI_IRQ, ACPI_INTI_LOW_LEVEL);
	acpi_madt_nmi(a, x2apic);
}
