/*
 * The keyboard controller, an Intel 8042 with the firmware of IBM's AT (AT Technical Reference
 * 6280070, "Keyboard Controller"; PS/2 Hardware Interface Technical Reference, "Keyboard and
 * Auxiliary Device Controller"), a keyboard with 101 keys on it and a mouse on its auxiliary port.
 */
#ifndef CHIPSET_I8042_H
#define CHIPSET_I8042_H

#include <stddef.h>
#include <stdint.h>

struct i8042;
struct vm;

#define I8042_DATA 0x60
#define I8042_COMMAND 0x64 /* read: status */
#define I8042_KBD_IRQ 1
#define I8042_AUX_IRQ 12

/* Main thread. 0 or -errno. */
int i8042_create(struct vm *vm, struct i8042 **out);
void i8042_destroy(struct i8042 *c);

/* A key was pressed or released: its bytes in scan code set 2, 0xf0 before a released key's code.
 * They are taken together or, when the keyboard's buffer is full or scanning is off, not at all.
 * Any thread. */
void i8042_key_event(struct i8042 *c, const uint8_t *codes, size_t len);
/* The mouse was moved (right and up are positive), its wheel turned (notches, positive towards the user)
 * or a button changed (bit 0 left, 1 right, 2 middle). Any thread. */
void i8042_mouse_event(struct i8042 *c, int dx, int dy, int dz, unsigned buttons);

#endif
