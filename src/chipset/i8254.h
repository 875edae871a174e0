/*
 * Programmable interval timer: Intel 8254 (231164) at ports 40h to 43h, and the parts of system
 * control port B, 61h, that belong to it.
 *
 * Counter 0 drives line 0, counter 1 once refreshed memory, counter 2 the speaker. The gates of 0
 * and 1 are tied high; bit 0 of port 61h is the gate of 2. Nothing is counted: every count and
 * output is computed from the VM's clock when it is read, exact to the CLK cycle, so that guests
 * can calibrate other clocks against it.
 *
 * Each rising edge of OUT 0 is one pulse of line 0. Ticks the host was late for are made up for as
 * periodic.h says.
 *
 * Port 61h: bit 0 gate 2, bit 1 speaker data, bits 2 and 3 kept (parity and channel check enable),
 * bit 4 toggles with every memory refresh, bit 5 is OUT 2. There is no speaker to hear.
 */
#ifndef CHIPSET_I8254_H
#define CHIPSET_I8254_H

#include "vm/vm.h"

#define I8254_HZ 1193182u

struct i8254;

/* Main thread. 0 or -errno with nothing left behind. Destroyed after the loop and the vCPUs
 * stopped. */
int i8254_create(struct vm *vm, struct i8254 **out);
void i8254_destroy(struct i8254 *d);

/* Whether OUT 0 is connected to line 0; it is at first. The HPET's legacy replacement
 * disconnects it (HPET 1.0a, 2.4.7). Any thread; a device's lock may be held. */
void i8254_set_irq_enabled(struct i8254 *d, bool enabled);

#endif
