/*
 * ACPI fixed hardware (ACPI 6.5, 4.8): PM1a event and control blocks, the power-management timer,
 * the GPE0 block and the SMI command port that switches between legacy and ACPI mode. The constants
 * are what the FADT tells the guest; ports are those of bhyve's own FADT.
 */
#ifndef CHIPSET_ACPI_PM_H
#define CHIPSET_ACPI_PM_H

#include <stdint.h>

struct acpi_pm;
struct vm;

#define ACPI_PM_SCI_IRQ 9 /* level-triggered; active low as PCI's */
#define ACPI_PM_SMI_CMD 0xb2
#define ACPI_PM_ENABLE 0xa0 /* written to SMI_CMD */
#define ACPI_PM_DISABLE 0xa1
#define ACPI_PM1_EVT 0x400
#define ACPI_PM1_EVT_LEN 4
#define ACPI_PM1_CNT 0x404
#define ACPI_PM1_CNT_LEN 2
#define ACPI_PM_TMR 0x408
#define ACPI_PM_TMR_LEN 4
#define ACPI_PM_TMR_32BIT 1 /* FADT flag TMR_VAL_EXT */
#define ACPI_PM_TMR_HZ 3579545
#define ACPI_GPE0 0x40c
#define ACPI_GPE0_LEN 4 /* status, then enable: 16 events */
#define ACPI_PM_SLP_TYP_S5 5 /* for the _S5 object */

/* Main thread. Registers the power button with the VM. 0 or -errno. */
int acpi_pm_create(struct vm *vm, struct acpi_pm **out);
/* Main thread, the loop not running. NULL is fine. */
void acpi_pm_destroy(struct acpi_pm *pm);
/* A general-purpose event, 0 to 15, happened; any thread. */
void acpi_pm_gpe(struct acpi_pm *pm, unsigned event);

#endif
