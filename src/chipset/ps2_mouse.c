/*
 * A PS/2 mouse: see ps2_mouse.h. "Commands" below is that section of the reference named there.
 */
#include "chipset/ps2_mouse.h"

#include "base/bits.h"
#include "vm/state.h"

#include <string.h>

/* Commands */
#define MOUSE_SCALING_1 0xe6
#define MOUSE_SCALING_2 0xe7
#define MOUSE_SET_RESOLUTION 0xe8
#define MOUSE_STATUS 0xe9
#define MOUSE_STREAM 0xea
#define MOUSE_READ 0xeb
#define MOUSE_WRAP_OFF 0xec
#define MOUSE_WRAP 0xee
#define MOUSE_REMOTE 0xf0
#define MOUSE_IDENTIFY 0xf2
#define MOUSE_SET_RATE 0xf3
#define MOUSE_ENABLE 0xf4
#define MOUSE_DISABLE 0xf5
#define MOUSE_DEFAULTS 0xf6
#define MOUSE_RESEND 0xfe
#define MOUSE_RESET 0xff

#define MOUSE_ACK 0xfa
#define MOUSE_AGAIN 0xfe /* what came is no command */
#define MOUSE_TEST_OK 0xaa
#define MOUSE_ID 0x00

static void
ps2_mouse_send(struct ps2_mouse *m, uint8_t val)
{
	if (m->queued < PS2_MOUSE_QUEUE)
		m->queue[m->queued++] = val;
	m->last = val;
}

static void
ps2_mouse_defaults(struct ps2_mouse *m)
{
	m->rate = 100;
	m->resolution = 2; /* 4 counts a millimetre */
	m->scaling = m->remote = m->wrap = m->reporting = false;
	m->command = 0;
}

void
ps2_mouse_reset(struct ps2_mouse *m)
{
	memset(m, 0, sizeof(*m));
	ps2_mouse_defaults(m);
}

/* A report: flags and signs, then the movement; out of range is clipped and marked. */
static void
ps2_mouse_report(struct ps2_mouse *m, int dx, int dy)
{
	uint8_t flags = BIT(3) | m->buttons;

	if (dx < -256 || dx > 255)
		flags |= BIT(6);
	if (dy < -256 || dy > 255)
		flags |= BIT(7);
	dx = MAX(-256, MIN(255, dx));
	dy = MAX(-256, MIN(255, dy));
	if (dx < 0)
		flags |= BIT(4);
	if (dy < 0)
		flags |= BIT(5);
	ps2_mouse_send(m, flags);
	ps2_mouse_send(m, (uint8_t)dx);
	ps2_mouse_send(m, (uint8_t)dy);
}

static void
ps2_mouse_status(struct ps2_mouse *m)
{
	/* Left, middle and right button from bit 2 down. */
	uint8_t buttons = (uint8_t)((m->buttons & 1) << 2 | (m->buttons & 4) >> 1 |
	    (m->buttons & 2) >> 1);

	ps2_mouse_send(m, (uint8_t)(buttons | (m->scaling ? BIT(4) : 0) |
		(m->reporting ? BIT(5) : 0) | (m->remote ? BIT(6) : 0)));
	ps2_mouse_send(m, m->resolution);
	ps2_mouse_send(m, m->rate);
}

static void
ps2_mouse_command(struct ps2_mouse *m, uint8_t val)
{
	/* A new command drops what the last one left to be sent. */
	m->queued = 0;
	if (val == MOUSE_RESEND) {
		ps2_mouse_send(m, m->last);
		return;
	}
	ps2_mouse_send(m, MOUSE_ACK);
	switch (val) {
	case MOUSE_SCALING_1:
	case MOUSE_SCALING_2: m->scaling = val == MOUSE_SCALING_2; break;
	case MOUSE_SET_RESOLUTION:
	case MOUSE_SET_RATE: m->command = val; break;
	case MOUSE_STATUS: ps2_mouse_status(m); break;
	case MOUSE_STREAM:
	case MOUSE_REMOTE: m->remote = val == MOUSE_REMOTE; break;
	case MOUSE_READ: ps2_mouse_report(m, 0, 0); break;
	case MOUSE_WRAP: m->wrap = true; break;
	case MOUSE_WRAP_OFF: break;
	case MOUSE_IDENTIFY: ps2_mouse_send(m, MOUSE_ID); break;
	case MOUSE_ENABLE:
	case MOUSE_DISABLE: m->reporting = val == MOUSE_ENABLE; break;
	case MOUSE_DEFAULTS: ps2_mouse_defaults(m); break;
	case MOUSE_RESET:
		ps2_mouse_defaults(m);
		ps2_mouse_send(m, MOUSE_TEST_OK);
		ps2_mouse_send(m, MOUSE_ID);
		break;
	default:
		m->queued = 0;
		ps2_mouse_send(m, MOUSE_AGAIN);
		break;
	}
}

void
ps2_mouse_write(struct ps2_mouse *m, uint8_t val)
{
	uint8_t command = m->command;

	m->command = 0;
	if (m->wrap && val != MOUSE_RESET && val != MOUSE_WRAP_OFF) {
		ps2_mouse_send(m, val);
		return;
	}
	m->wrap = false;
	if (command == 0) {
		ps2_mouse_command(m, val);
		return;
	}
	if (command == MOUSE_SET_RATE)
		m->rate = val;
	else
		m->resolution = val;
	ps2_mouse_send(m, MOUSE_ACK);
}

bool
ps2_mouse_next(struct ps2_mouse *m, uint8_t *val)
{
	if (m->queued == 0)
		return false;
	*val = m->queue[0];
	m->queued--;
	memmove(m->queue, m->queue + 1, m->queued);
	return true;
}

void
ps2_mouse_event(struct ps2_mouse *m, int dx, int dy, unsigned buttons)
{
	m->buttons = buttons & 7;
	if (m->reporting && !m->remote && !m->wrap && m->queued < PS2_MOUSE_QUEUE / 2)
		ps2_mouse_report(m, dx, dy);
}

void
ps2_mouse_state(struct ps2_mouse *m, struct vm_state *s)
{
	uint8_t *const regs[] = { &m->queued, &m->command, &m->last, &m->rate, &m->resolution,
		&m->buttons };
	bool *const flags[] = { &m->reporting, &m->remote, &m->wrap, &m->scaling };

	vm_state_bytes(s, m->queue, sizeof(m->queue));
	for (size_t i = 0; i < ARRAY_SIZE(regs); i++)
		vm_state_u8(s, regs[i]);
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		vm_state_bool(s, flags[i]);
	if (vm_state_loading(s) && m->queued > PS2_MOUSE_QUEUE) {
		vm_state_reject(s, "mouse queue out of range");
		m->queued = 0;
	}
}
