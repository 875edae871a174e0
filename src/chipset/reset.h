/*
 * The ways a PC resets itself by a port: the reset control register 0xcf9 (Intel 82371SB data
 * sheet, 2.5.5 RC), which the FADT also names as its RESET_REG, and system control port A 0x92 (IBM
 * PS/2 Hardware Interface Technical Reference). Port 0x80, where firmware shows how far it is, is
 * here too.
 */
#ifndef CHIPSET_RESET_H
#define CHIPSET_RESET_H

#include <stdint.h>

struct reset;
struct vm;

#define RESET_CONTROL_PORT 0xcf9
#define RESET_CONTROL_VALUE 0x06 /* a hard reset; FADT.RESET_VALUE */

/* Main thread. 0 or -errno. */
int reset_create(struct vm *vm, struct reset **out);
void reset_destroy(struct reset *r);

/* The reset control register, for the owner of ports 0xcf8 to 0xcff when there is a PCI bus: byte
 * accesses to 0xcf9 are meant for it. Any thread. */
uint8_t reset_control_read(struct reset *r);
void reset_control_write(struct reset *r, uint8_t val);

#endif
