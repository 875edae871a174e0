/*
 * The pair of interrupt controllers of the PC: two Intel 8259A (231468), master at ports 20h and
 * 21h, slave at a0h and a1h on the master's input 2, and the edge/level control registers 4d0h and
 * 4d1h of the EISA and ICH parts, which replace ICW1's LTIM bit.
 *
 * Lines 0 to 15, without 2, are the inputs. An edge is remembered until it is acknowledged even if
 * the input falls before: devices here raise and lower a line within one call (vm_irq_pulse). So
 * only level-triggered inputs and masking at the wrong moment make spurious interrupts (IRQ 7 and
 * 15).
 *
 * 8080 mode (ICW4 without uPM) is run as 8086 mode, and buffered mode has no meaning here.
 */
#ifndef CHIPSET_I8259_H
#define CHIPSET_I8259_H

#include "vm/vm.h"

struct i8259; /* both */

/* Main thread. 0 or -errno with nothing left behind. Destroyed after everything that raises
 * lines. */
int i8259_create(struct vm *vm, struct i8259 **out);
void i8259_destroy(struct i8259 *d);

#endif
