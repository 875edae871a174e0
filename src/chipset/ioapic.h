/*
 * I/O APIC: Intel 82093AA (290566), with the EOI register of version 20h parts (Intel ICH family
 * data sheets, "APIC Indirect Registers"). 24 pins at 0xfec00000.
 *
 * Line n arrives at pin n, except that line 0, the PIT's, arrives at pin 2 as on every PC and line
 * 2 does not exist. Line levels are logical, so the polarity bit is kept but means nothing.
 * Interrupts leave as messages (vm_msi), whatever the local APICs are.
 *
 * An edge on a masked pin is lost (data sheet, 3.2.4); a level that is still high when its pin is
 * unmasked, or when the guest has ended its interrupt, is sent again.
 */
#ifndef CHIPSET_IOAPIC_H
#define CHIPSET_IOAPIC_H

#include "vm/vm.h"

#define IOAPIC_BASE 0xfec00000u
#define IOAPIC_PINS 24
/* What the ID register holds at power-on, for tables that tell the guest. */
#define IOAPIC_ID 0

struct ioapic;

/* Main thread. 0 or -errno with nothing left behind. Destroyed after everything that raises
 * lines. */
int ioapic_create(struct vm *vm, struct ioapic **out);
void ioapic_destroy(struct ioapic *d);

#endif
