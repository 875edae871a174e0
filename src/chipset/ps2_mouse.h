/*
 * A PS/2 mouse with three buttons and a wheel, as it hangs on the keyboard controller's auxiliary
 * port (IBM, PS/2 Hardware Interface Technical Reference, "Mouse"; Microsoft's IntelliMouse for the
 * wheel, which reports have only after a driver asked for it).
 *
 * It reports movements when they come, not at its sample rate. While the guest does not read, they
 * add up, so that none is lost.
 *
 * Plain state inside its controller: no lock of its own, the controller's guards it.
 */
#ifndef CHIPSET_PS2_MOUSE_H
#define CHIPSET_PS2_MOUSE_H

#include <stdbool.h>
#include <stdint.h>

struct vm_state;

#define PS2_MOUSE_QUEUE 64

struct ps2_mouse {
	uint8_t queue[PS2_MOUSE_QUEUE]; /* to the controller; queue[0] is next */
	uint8_t queued;
	uint8_t command; /* waits for its argument, or 0 */
	uint8_t last[4], last_len; /* what RESEND sends again */
	uint8_t rate, resolution;
	uint8_t knock[2]; /* the rates before */
	uint8_t buttons, buttons_sent; /* now, and in the last report */
	int32_t dx, dy, dz; /* not reported yet */
	bool reporting, remote, wrap, scaling;
	bool wheel; /* reports have a fourth byte */
	bool refused; /* the last byte was no command */
};

/* As after power-on. */
void ps2_mouse_reset(struct ps2_mouse *m);
/* A byte from the controller: a command or its argument. Replies go to the queue. */
void ps2_mouse_write(struct ps2_mouse *m, uint8_t val);
/* Takes the next byte the mouse sends; false if it has none. */
bool ps2_mouse_next(struct ps2_mouse *m, uint8_t *val);
/* It was moved (right and up are positive), its wheel turned (notches, positive towards the user) or a
 * button changed: buttons are those now pressed, bit 0 left, 1 right, 2 middle. */
void ps2_mouse_event(struct ps2_mouse *m, int dx, int dy, int dz, unsigned buttons);
/* Its part of the controller's saved state. */
void ps2_mouse_state(struct ps2_mouse *m, struct vm_state *s);

#endif
