/*
 * A PS/2 mouse: see ps2_mouse.h. "Commands" and "Reports" below are those sections of the reference
 * named there.
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
#define MOUSE_FIRST_COMMAND MOUSE_SCALING_1 /* no argument is as large */

#define MOUSE_ACK 0xfa
#define MOUSE_AGAIN 0xfe /* what came is no command */
#define MOUSE_ERROR 0xfc /* nor was the next */
#define MOUSE_TEST_OK 0xaa
#define MOUSE_ID 0x00
#define MOUSE_ID_WHEEL 0x03

/* Reports: the first byte. X and Y are 9 bits each, two's complement; overflow is never marked. */
#define MOUSE_REPORT_BUTTONS 0x07
#define MOUSE_REPORT_ONE BIT(3)
#define MOUSE_REPORT_X_SIGN BIT(4)
#define MOUSE_REPORT_Y_SIGN BIT(5)

/* Status: the first byte */
#define MOUSE_STATUS_SCALING BIT(4)
#define MOUSE_STATUS_ENABLED BIT(5)
#define MOUSE_STATUS_REMOTE BIT(6)

#define MOUSE_MOTION_MAX 32767 /* what may wait to be reported, each way */

/* Sends a reply or a report, all of which RESEND sends again. */
static void
ps2_mouse_send(struct ps2_mouse *m, const uint8_t *bytes, uint8_t len)
{
	if (len > PS2_MOUSE_QUEUE - m->queued)
		return;
	memcpy(m->queue + m->queued, bytes, len);
	m->queued += len;
	memmove(m->last, bytes, len);
	m->last_len = len;
}

static void
ps2_mouse_reply(struct ps2_mouse *m, uint8_t val)
{
	ps2_mouse_send(m, &val, 1);
}

static void
ps2_mouse_motion_clear(struct ps2_mouse *m)
{
	m->dx = m->dy = m->dz = 0;
	m->buttons_sent = m->buttons;
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

/* --- Reports --- */

/* Takes what fits a report from a counter. */
static int
ps2_mouse_take(int32_t *counter, int min, int max)
{
	int n = MAX(min, MIN(max, *counter));

	*counter -= n;
	return n;
}

/* "Scaling 2:1": small movements stay, large ones double. */
static int
ps2_mouse_scale(int n)
{
	static const int8_t small[] = { 0, 1, 1, 3, 6, 9 };
	int size = n < 0 ? -n : n;

	size = size < (int)ARRAY_SIZE(small) ? small[size] : 2 * size;
	return n < 0 ? -size : size;
}

static void
ps2_mouse_report(struct ps2_mouse *m, bool scaling)
{
	int limit = scaling ? 127 : 255;
	int dx = ps2_mouse_take(&m->dx, -limit, limit);
	int dy = ps2_mouse_take(&m->dy, -limit, limit);
	int dz = ps2_mouse_take(&m->dz, -8, 7);
	uint8_t bytes[4];

	if (scaling) {
		dx = ps2_mouse_scale(dx);
		dy = ps2_mouse_scale(dy);
	}
	bytes[0] = (uint8_t)(MOUSE_REPORT_ONE | m->buttons | (dx < 0 ? MOUSE_REPORT_X_SIGN : 0) |
	    (dy < 0 ? MOUSE_REPORT_Y_SIGN : 0));
	bytes[1] = (uint8_t)dx;
	bytes[2] = (uint8_t)dy;
	bytes[3] = (uint8_t)dz;
	m->buttons_sent = m->buttons;
	ps2_mouse_send(m, bytes, m->wheel ? 4 : 3);
}

/* Queues what is to be reported, up to limit bytes. */
static void
ps2_mouse_stream(struct ps2_mouse *m, uint8_t limit)
{
	if (!m->reporting || m->remote || m->wrap)
		return;
	while ((m->dx != 0 || m->dy != 0 || m->dz != 0 || m->buttons != m->buttons_sent) &&
	    m->queued + 4 <= limit)
		ps2_mouse_report(m, m->scaling);
}

static void
ps2_mouse_move(int32_t *counter, int by)
{
	int64_t n = (int64_t)*counter + by;

	*counter = (int32_t)MAX(-MOUSE_MOTION_MAX, MIN(MOUSE_MOTION_MAX, n));
}

void
ps2_mouse_event(struct ps2_mouse *m, int dx, int dy, int dz, unsigned buttons)
{
	/* Half the queue is for clicks: movements wait and add up, these would vanish. */
	buttons &= MOUSE_REPORT_BUTTONS;
	if (buttons != m->buttons)
		ps2_mouse_stream(m, PS2_MOUSE_QUEUE);
	ps2_mouse_move(&m->dx, dx);
	ps2_mouse_move(&m->dy, dy);
	ps2_mouse_move(&m->dz, m->wheel ? dz : 0);
	m->buttons = (uint8_t)buttons;
	ps2_mouse_stream(m,
	    m->buttons != m->buttons_sent ? PS2_MOUSE_QUEUE : PS2_MOUSE_QUEUE / 2);
}

bool
ps2_mouse_next(struct ps2_mouse *m, uint8_t *val)
{
	if (m->queued == 0)
		return false;
	*val = m->queue[0];
	m->queued--;
	memmove(m->queue, m->queue + 1, m->queued);
	ps2_mouse_stream(m, PS2_MOUSE_QUEUE / 2);
	return true;
}

/* --- Commands --- */

static void
ps2_mouse_status(struct ps2_mouse *m)
{
	/* Left, middle and right button from bit 2 down. */
	uint8_t buttons = (uint8_t)((m->buttons & 1) << 2 | (m->buttons & 4) >> 1 |
	    (m->buttons & 2) >> 1);
	const uint8_t bytes[] = {
		(uint8_t)(buttons | (m->scaling ? MOUSE_STATUS_SCALING : 0) |
		    (m->reporting ? MOUSE_STATUS_ENABLED : 0) |
		    (m->remote ? MOUSE_STATUS_REMOTE : 0)),
		m->resolution,
		m->rate,
	};

	ps2_mouse_send(m, bytes, sizeof(bytes));
}

/* What came is no command, or no argument for the one that waits: once more, please. */
static void
ps2_mouse_refuse(struct ps2_mouse *m)
{
	ps2_mouse_reply(m, m->refused ? MOUSE_ERROR : MOUSE_AGAIN);
	m->refused = !m->refused;
}

static void
ps2_mouse_command(struct ps2_mouse *m, uint8_t val)
{
	switch (val) {
	case MOUSE_SCALING_1:
	case MOUSE_SCALING_2: m->scaling = val == MOUSE_SCALING_2; break;
	case MOUSE_SET_RESOLUTION:
	case MOUSE_SET_RATE: m->command = val; break;
	case MOUSE_STATUS: ps2_mouse_status(m); break;
	case MOUSE_STREAM:
	case MOUSE_REMOTE: m->remote = val == MOUSE_REMOTE; break;
	case MOUSE_READ: ps2_mouse_report(m, false); break;
	case MOUSE_WRAP: m->wrap = true; break;
	case MOUSE_IDENTIFY: ps2_mouse_reply(m, m->wheel ? MOUSE_ID_WHEEL : MOUSE_ID); break;
	case MOUSE_ENABLE:
	case MOUSE_DISABLE: m->reporting = val == MOUSE_ENABLE; break;
	case MOUSE_DEFAULTS: ps2_mouse_defaults(m); break;
	case MOUSE_RESET:
		ps2_mouse_defaults(m);
		m->wheel = false;
		memset(m->knock, 0, sizeof(m->knock));
		ps2_mouse_send(m, (const uint8_t[]){ MOUSE_TEST_OK, MOUSE_ID }, 2);
		break;
	default: break; /* MOUSE_WRAP_OFF: it is */
	}
}

static bool
ps2_mouse_is_command(uint8_t val)
{
	return (val >= MOUSE_SCALING_1 && val <= MOUSE_WRAP_OFF) || val == MOUSE_WRAP ||
	    (val >= MOUSE_REMOTE && val != 0xf1 && val <= MOUSE_DEFAULTS) || val >= MOUSE_RESEND;
}

/* Three rates in a row by which a driver asks for the wheel's byte in reports (Microsoft, "Wheel
 * support in the IntelliMouse"). */
static void
ps2_mouse_set_rate(struct ps2_mouse *m, uint8_t rate)
{
	m->knock[0] = m->knock[1];
	m->knock[1] = m->rate;
	m->rate = rate;
	if (m->knock[0] == 200 && m->knock[1] == 100 && rate == 80)
		m->wheel = true;
}

static void
ps2_mouse_argument(struct ps2_mouse *m, uint8_t command, uint8_t val)
{
	static const uint8_t rates[] = { 10, 20, 40, 60, 80, 100, 200 };
	bool valid = command == MOUSE_SET_RATE ? memchr(rates, val, sizeof(rates)) != NULL
					       : val <= 3;

	if (!valid) {
		m->command = command;
		ps2_mouse_refuse(m);
		return;
	}
	m->refused = false;
	if (command == MOUSE_SET_RATE)
		ps2_mouse_set_rate(m, val);
	else
		m->resolution = val;
	ps2_mouse_reply(m, MOUSE_ACK);
}

void
ps2_mouse_write(struct ps2_mouse *m, uint8_t val)
{
	uint8_t command = m->command;

	/* Whatever comes drops what was to be sent. */
	m->queued = 0;
	if (m->wrap && val != MOUSE_RESET && val != MOUSE_WRAP_OFF) {
		ps2_mouse_reply(m, val);
		return;
	}
	m->wrap = false;
	m->command = 0;
	if (command != 0 && val < MOUSE_FIRST_COMMAND) {
		ps2_mouse_argument(m, command, val);
	} else if (!ps2_mouse_is_command(val)) {
		ps2_mouse_refuse(m);
	} else if (val == MOUSE_RESEND) {
		m->command = command;
		ps2_mouse_send(m, m->last, m->last_len);
	} else {
		m->refused = false;
		if (val != MOUSE_READ)
			ps2_mouse_motion_clear(m);
		ps2_mouse_reply(m, MOUSE_ACK);
		ps2_mouse_command(m, val);
	}
}

/* --- State --- */

void
ps2_mouse_state(struct ps2_mouse *m, struct vm_state *s)
{
	uint8_t *const regs[] = { &m->queued, &m->command, &m->last_len, &m->rate, &m->resolution,
		&m->buttons, &m->buttons_sent };
	bool *const flags[] = { &m->reporting, &m->remote, &m->wrap, &m->scaling, &m->wheel,
		&m->refused };
	int32_t *const counters[] = { &m->dx, &m->dy, &m->dz };
	bool valid = true;

	vm_state_bytes(s, m->queue, sizeof(m->queue));
	vm_state_bytes(s, m->last, sizeof(m->last));
	vm_state_bytes(s, m->knock, sizeof(m->knock));
	for (size_t i = 0; i < ARRAY_SIZE(regs); i++)
		vm_state_u8(s, regs[i]);
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		vm_state_bool(s, flags[i]);
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++) {
		vm_state_u32(s, (uint32_t *)counters[i]);
		valid = valid && *counters[i] >= -MOUSE_MOTION_MAX &&
		    *counters[i] <= MOUSE_MOTION_MAX;
	}
	valid = valid && m->queued <= PS2_MOUSE_QUEUE && m->last_len <= sizeof(m->last) &&
	    m->buttons <= MOUSE_REPORT_BUTTONS;
	if (vm_state_loading(s) && !valid) {
		vm_state_reject(s, "mouse register out of range");
		ps2_mouse_reset(m);
	}
}
