/*
 * Programmable interval timer (8254).
 *
 * Time is counted in CLK cycles since the VM's clock was 0. A count written at cycle W is in the
 * counting element at W + 1, as the data sheet has it ("Mode Definitions"), and `start` says when.
 */
#include "chipset/i8254.h"
#include "chipset/periodic.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/loop.h"
#include "vm/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* Control word (data sheet, figure 7) */
#define I8254_CW_COUNTER(v) ((v) >> 6)
#define I8254_CW_ACCESS(v) (((v) >> 4) & 3)
#define I8254_CW_MODE(v) (((v) >> 1) & 7)
#define I8254_CW_BCD BIT(0)
#define I8254_CW_READ_BACK 3 /* as a counter number */
enum i8254_access { I8254_LATCH, I8254_LSB, I8254_MSB, I8254_WORD };

/* Read-back command (figure 11): the latches asked for have their bits clear. */
#define I8254_RB_NO_COUNT BIT(5)
#define I8254_RB_NO_STATUS BIT(4)
#define I8254_RB_COUNTER(i) BIT((i) + 1)

/* Status byte (figure 12) */
#define I8254_STATUS_OUT BIT(7)
#define I8254_STATUS_NULL BIT(6)

/* Modes ("Mode Definitions") */
enum i8254_mode {
	I8254_TERMINAL_COUNT,
	I8254_ONE_SHOT,
	I8254_RATE,
	I8254_SQUARE,
	I8254_SOFT_STROBE,
	I8254_HARD_STROBE,
};

/* Port 61h */
#define I8254_B_GATE2 BIT(0)
#define I8254_B_WRITABLE 0x0f
#define I8254_B_REFRESH BIT(4)
#define I8254_B_OUT2 BIT(5)
#define I8254_REFRESH_CYCLES 18 /* 15.085 us, what counter 1 is programmed for */

#define I8254_COUNTERS 3
#define I8254_NEVER UINT64_MAX

#define I8254_NS_CYCLES(ns) ((uint64_t)(ns)*I8254_HZ / 1000000000)
#define I8254_GAP (I8254_NS_CYCLES(PERIODIC_GAP_NS) + 1)
#define I8254_BACKLOG I8254_NS_CYCLES(PERIODIC_BACKLOG_NS)

struct i8254_counter {
	uint8_t mode; /* enum i8254_mode */
	uint8_t access; /* enum i8254_access, not I8254_LATCH */
	bool bcd, gate;

	/* The counting element. It held `count` at `start`; modes 2 and 3 come back to it every
	 * `count` cycles. While not running, it has gone `held` cycles from there. */
	uint32_t count; /* 1 to 65536; 0: none since the control word */
	bool running; /* modes 1 and 5: triggered; others: the gate is open */
	uint64_t start, held;
	/* A count written that waits: at cycle next_at (I8254_NEVER: at a trigger) it begins, with
	 * `start` at next_start. 0: none. */
	uint32_t next;
	uint64_t next_at, next_start;

	/* The bus side. */
	bool write_msb, read_msb; /* I8254_WORD: the second byte is to come */
	uint8_t lsb; /* the first byte written */
	bool latched, status_latched;
	uint16_t latch;
	uint8_t status;
};

struct i8254 {
	struct vm *vm;
	struct vm_timer *timer;
	pthread_mutex_t lock; /* guards all below; vm_irq_pulse() is called with it held */
	struct i8254_counter counter[I8254_COUNTERS];
	uint8_t port_b;
	bool irq_enabled;
	/* Rising edges of OUT 0: next is I8254_NEVER when none is to come. */
	struct periodic tick;
};

/* --- Time --- */

static uint64_t
i8254_now(const struct i8254 *d)
{
	uint64_t ns = vm_clock_ns(vm_loop(d->vm));

	return ns / 1000000000 * I8254_HZ + I8254_NS_CYCLES(ns % 1000000000);
}

/* The first nanosecond of a cycle. */
static uint64_t
i8254_cycle_ns(uint64_t cycle)
{
	return cycle / I8254_HZ * 1000000000 +
	    (cycle % I8254_HZ * 1000000000 + I8254_HZ - 1) / I8254_HZ;
}

/* --- One counter --- */

static bool
i8254_is_periodic(const struct i8254_counter *c)
{
	return c->mode == I8254_RATE || c->mode == I8254_SQUARE;
}

static bool
i8254_is_triggered(const struct i8254_counter *c)
{
	return c->mode == I8254_ONE_SHOT || c->mode == I8254_HARD_STROBE;
}

/* How many of a square wave's cycles are high ("Mode 3"): one more than are low if the count is
 * odd. */
static uint32_t
i8254_high_cycles(uint32_t count)
{
	return (count + 1) / 2;
}

/* The cycles gone since the count was loaded; 0 in the cycle before. */
static uint64_t
i8254_elapsed(const struct i8254_counter *c, uint64_t now)
{
	if (!c->running)
		return c->held;
	return (int64_t)(now - c->start) > 0 ? now - c->start : 0;
}

static bool
i8254_out(const struct i8254_counter *c, uint64_t now)
{
	uint64_t elapsed = i8254_elapsed(c, now);

	if (c->count == 0)
		return c->mode != I8254_TERMINAL_COUNT;
	if (!c->running && c->mode != I8254_TERMINAL_COUNT)
		return true;
	switch ((enum i8254_mode)c->mode) {
	case I8254_TERMINAL_COUNT:
	case I8254_ONE_SHOT: return elapsed >= c->count;
	case I8254_RATE: return elapsed % c->count != c->count - 1;
	case I8254_SQUARE: return elapsed % c->count < i8254_high_cycles(c->count);
	case I8254_SOFT_STROBE:
	case I8254_HARD_STROBE: break;
	}
	return elapsed != c->count;
}

static uint32_t
i8254_modulus(const struct i8254_counter *c)
{
	return c->bcd ? 10000 : 65536;
}

/* What the output latch follows, as it is read. */
static uint16_t
i8254_value(const struct i8254_counter *c, uint64_t now)
{
	uint64_t elapsed = i8254_elapsed(c, now);
	uint32_t modulus = i8254_modulus(c), high = i8254_high_cycles(c->count), value;

	if (c->count == 0) {
		value = 0;
	} else if (c->mode == I8254_RATE) {
		value = c->count - (uint32_t)(elapsed % c->count);
	} else if (c->mode == I8254_SQUARE) {
		/* Steps of two, from the count or, if that is odd, one less. */
		value = (uint32_t)(elapsed % c->count);
		value = (c->count & ~1u) - 2 * (value < high ? value : value - high);
	} else {
		value = c->count + modulus - (uint32_t)(elapsed % modulus);
	}
	value %= modulus;
	if (!c->bcd)
		return (uint16_t)value;
	return (uint16_t)(value / 1000 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 |
	    value % 10);
}

static uint8_t
i8254_status(const struct i8254_counter *c, uint64_t now)
{
	bool null = c->count == 0 || c->next != 0 || (c->running && (int64_t)(now - c->start) < 0);

	return (uint8_t)((i8254_out(c, now) ? I8254_STATUS_OUT : 0) |
	    (null ? I8254_STATUS_NULL : 0) | (unsigned)c->access << 4 | (unsigned)c->mode << 1 |
	    c->bcd);
}

/* Loads a count into the counting element. */
static void
i8254_load(struct i8254_counter *c, uint32_t count, uint64_t start)
{
	c->count = count;
	c->start = start;
	c->held = 0;
	c->next = 0;
}

/* --- Counter 0's interrupt --- */

static void
i8254_pulse(struct i8254 *d)
{
	if (d->irq_enabled)
		vm_irq_pulse(d->vm, 0);
}

/* Arms the timer to look at counter 0 at wake, or when its next count begins. */
static void
i8254_arm(struct i8254 *d, uint64_t wake)
{
	const struct i8254_counter *c = &d->counter[0];

	if (c->next != 0)
		wake = MIN(wake, c->next_at);
	if (wake == I8254_NEVER || !d->irq_enabled)
		vm_timer_cancel(d->timer);
	else
		vm_timer_arm(d->timer, i8254_cycle_ns(wake));
}

/* Finds the rising edges of OUT 0 after cycle `after`. */
static void
i8254_plan(struct i8254 *d, uint64_t after)
{
	const struct i8254_counter *c = &d->counter[0];
	uint64_t elapsed = i8254_elapsed(c, after), once;

	d->tick = (struct periodic){ .next = I8254_NEVER, .period = MAX(c->count, 1) };
	if (c->count != 0 && c->running) {
		once = c->mode == I8254_SOFT_STROBE ? c->count + 1 : c->count;
		if (i8254_is_periodic(c))
			d->tick.next = c->start + (elapsed / c->count + 1) * c->count;
		else if (elapsed < once)
			d->tick.next = c->start + once;
	}
	i8254_arm(d, d->tick.next);
}

/* Lets a count begin whose time has come. Done before anything looks at a counter. */
static void
i8254_sync(struct i8254 *d, int i, uint64_t now)
{
	struct i8254_counter *c = &d->counter[i];
	bool rises = c->next_at == c->next_start;

	if (c->next == 0 || now < c->next_at)
		return;
	i8254_load(c, c->next, c->next_start);
	if (i != 0)
		return;
	/* Both modes that wait begin a full period with a rising edge. Edges that should have
	 * come after it are late: they are planned from the start, to be made up for. */
	if (rises)
		i8254_pulse(d);
	i8254_plan(d, c->start);
}

static void
i8254_fired(void *arg)
{
	struct i8254 *d = arg;
	uint64_t now, wake;
	bool due;

	pthread_mutex_lock(&d->lock);
	now = i8254_now(d);
	i8254_sync(d, 0, now);
	if (d->tick.next == I8254_NEVER) {
		pthread_mutex_unlock(&d->lock);
		return;
	}
	if (i8254_is_periodic(&d->counter[0])) {
		due = periodic_take(&d->tick, now, I8254_GAP, I8254_BACKLOG, &wake);
	} else {
		due = now >= d->tick.next;
		wake = due ? I8254_NEVER : d->tick.next;
		d->tick.next = wake;
	}
	if (due)
		i8254_pulse(d);
	i8254_arm(d, wake);
	pthread_mutex_unlock(&d->lock);
}

void
i8254_set_irq_enabled(struct i8254 *d, bool enabled)
{
	uint64_t now;

	pthread_mutex_lock(&d->lock);
	if (enabled != d->irq_enabled) {
		now = i8254_now(d);
		d->irq_enabled = enabled;
		i8254_sync(d, 0, now);
		i8254_plan(d, now);
	}
	pthread_mutex_unlock(&d->lock);
}

/* --- What moves a counter; the lock is held and the counter synced --- */

/* A gate's rising edge loads the count anew in the modes that have a use for one. */
static void
i8254_trigger(struct i8254_counter *c, uint64_t now)
{
	uint32_t count = c->next != 0 ? c->next : c->count;

	if (count == 0)
		return;
	i8254_load(c, count, now + 1);
	c->running = true;
}

static void
i8254_gate(struct i8254_counter *c, bool gate, uint64_t now)
{
	if (gate == c->gate)
		return;
	c->gate = gate;
	if (i8254_is_triggered(c)) {
		if (gate)
			i8254_trigger(c, now);
	} else if (i8254_is_periodic(c)) {
		/* Low stops it, with OUT high; a count that waited for the half's end waits for
		 * this. */
		if (gate) {
			i8254_trigger(c, now);
		} else {
			c->held = i8254_elapsed(c, now);
			c->running = false;
			c->next_at = I8254_NEVER;
		}
	} else if (gate) {
		c->start = now - c->held;
		c->running = true;
	} else {
		c->held = i8254_elapsed(c, now);
		c->running = false;
	}
}

/* In modes 2 and 3 a new count begins at the end of the current period or half. */
static void
i8254_queue(struct i8254_counter *c, uint32_t count, uint64_t now)
{
	uint64_t elapsed = i8254_elapsed(c, now), begin = c->start + elapsed / c->count * c->count;
	uint32_t high = i8254_high_cycles(c->count);

	c->next = count;
	c->next_at = I8254_NEVER;
	if (!c->running)
		return;
	c->next_at = c->next_start = begin + c->count;
	if (c->mode == I8254_SQUARE && elapsed % c->count < high) {
		/* The low half is the first to have the new length. */
		c->next_at = begin + high;
		c->next_start = c->next_at - i8254_high_cycles(count);
	}
}

/* A whole count was written. */
static void
i8254_count_write(struct i8254 *d, int i, uint16_t raw, uint64_t now)
{
	struct i8254_counter *c = &d->counter[i];
	uint32_t count = raw;

	if (c->bcd)
		count = (raw >> 12) * 1000u + (raw >> 8 & 15) * 100u + (raw >> 4 & 15) * 10u +
		    (raw & 15);
	if (count == 0)
		count = i8254_modulus(c);
	if (i8254_is_triggered(c)) {
		c->next = count;
		c->next_at = I8254_NEVER;
	} else if (i8254_is_periodic(c) && c->count != 0) {
		i8254_queue(c, count, now);
	} else {
		i8254_load(c, count, now + 1);
		c->running = c->gate;
		if (i == 0)
			i8254_plan(d, c->start);
		return;
	}
	if (i == 0)
		i8254_arm(d, d->tick.next);
}

static void
i8254_control_write(struct i8254 *d, int i, uint8_t val, uint64_t now)
{
	struct i8254_counter *c = &d->counter[i];
	bool was_out = i8254_out(c, now), gate = c->gate;
	uint8_t mode = I8254_CW_MODE(val);

	/* The top bit of modes 6 and 7 is ignored. */
	if (mode > I8254_HARD_STROBE)
		mode -= 4;
	*c = (struct i8254_counter){
		.mode = mode,
		.access = I8254_CW_ACCESS(val),
		.bcd = val & I8254_CW_BCD,
		.gate = gate,
	};
	if (i != 0)
		return;
	/* OUT goes to the mode's initial level at once. */
	if (!was_out && i8254_out(c, now))
		i8254_pulse(d);
	i8254_plan(d, now);
}

static void
i8254_latch_count(struct i8254_counter *c, uint64_t now)
{
	if (c->latched)
		return;
	c->latch = i8254_value(c, now);
	c->latched = true;
}

static void
i8254_read_back(struct i8254 *d, uint8_t val, uint64_t now)
{
	for (int i = 0; i < I8254_COUNTERS; i++) {
		struct i8254_counter *c = &d->counter[i];

		if (!(val & I8254_RB_COUNTER(i)))
			continue;
		i8254_sync(d, i, now);
		if (!(val & I8254_RB_NO_COUNT))
			i8254_latch_count(c, now);
		if (!(val & I8254_RB_NO_STATUS) && !c->status_latched) {
			c->status = i8254_status(c, now);
			c->status_latched = true;
		}
	}
}

/* --- Ports --- */

static uint8_t
i8254_counter_read(struct i8254_counter *c, uint64_t now)
{
	uint16_t value;
	bool msb = c->access == I8254_MSB;

	if (c->status_latched) {
		c->status_latched = false;
		return c->status;
	}
	value = c->latched ? c->latch : i8254_value(c, now);
	if (c->access == I8254_WORD) {
		msb = c->read_msb;
		c->read_msb = !msb;
	}
	/* The latch is held until it was read as a whole. */
	if (msb || c->access != I8254_WORD)
		c->latched = false;
	return (uint8_t)(msb ? value >> 8 : value);
}

static void
i8254_counter_write(struct i8254 *d, int i, uint8_t val, uint64_t now)
{
	struct i8254_counter *c = &d->counter[i];

	if (c->access == I8254_LSB) {
		i8254_count_write(d, i, val, now);
	} else if (c->access == I8254_MSB) {
		i8254_count_write(d, i, (uint16_t)(val << 8), now);
	} else if (c->write_msb) {
		c->write_msb = false;
		i8254_count_write(d, i, (uint16_t)(val << 8 | c->lsb), now);
	} else {
		c->write_msb = true;
		c->lsb = val;
		/* Mode 0 stops at the first byte, with OUT low. */
		if (c->mode == I8254_TERMINAL_COUNT) {
			c->count = 0;
			c->running = false;
			if (i == 0)
				i8254_plan(d, now);
		}
	}
}

static uint64_t
i8254_read(void *ctx, uint64_t off, int size)
{
	struct i8254 *d = ctx;
	uint8_t val = 0xff; /* the control word cannot be read */
	uint64_t now;

	pthread_mutex_lock(&d->lock);
	now = i8254_now(d);
	if (off < I8254_COUNTERS) {
		i8254_sync(d, (int)off, now);
		val = i8254_counter_read(&d->counter[off], now);
	}
	pthread_mutex_unlock(&d->lock);
	return val;
}

static void
i8254_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct i8254 *d = ctx;
	int i = off < I8254_COUNTERS ? (int)off : I8254_CW_COUNTER((uint8_t)val);
	uint64_t now;

	pthread_mutex_lock(&d->lock);
	now = i8254_now(d);
	if (i == I8254_CW_READ_BACK) {
		i8254_read_back(d, (uint8_t)val, now);
		goto out;
	}
	i8254_sync(d, i, now);
	if (off < I8254_COUNTERS)
		i8254_counter_write(d, i, (uint8_t)val, now);
	else if (I8254_CW_ACCESS((uint8_t)val) == I8254_LATCH)
		i8254_latch_count(&d->counter[i], now);
	else
		i8254_control_write(d, i, (uint8_t)val, now);
out:
	pthread_mutex_unlock(&d->lock);
}

static uint64_t
i8254_port_b_read(void *ctx, uint64_t off, int size)
{
	struct i8254 *d = ctx;
	uint64_t now;
	uint8_t val;

	pthread_mutex_lock(&d->lock);
	now = i8254_now(d);
	i8254_sync(d, 2, now);
	val = d->port_b;
	if (now / I8254_REFRESH_CYCLES % 2 != 0)
		val |= I8254_B_REFRESH;
	if (i8254_out(&d->counter[2], now))
		val |= I8254_B_OUT2;
	pthread_mutex_unlock(&d->lock);
	return val;
}

static void
i8254_port_b_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct i8254 *d = ctx;
	uint64_t now;

	pthread_mutex_lock(&d->lock);
	now = i8254_now(d);
	i8254_sync(d, 2, now);
	d->port_b = val & I8254_B_WRITABLE;
	i8254_gate(&d->counter[2], val & I8254_B_GATE2, now);
	pthread_mutex_unlock(&d->lock);
}

/* --- State, life --- */

static void
i8254_counter_state(struct i8254_counter *c, struct vm_state *s)
{
	vm_state_u8(s, &c->mode);
	vm_state_u8(s, &c->access);
	vm_state_bool(s, &c->bcd);
	vm_state_bool(s, &c->gate);
	vm_state_u32(s, &c->count);
	vm_state_bool(s, &c->running);
	vm_state_u64(s, &c->start);
	vm_state_u64(s, &c->held);
	vm_state_u32(s, &c->next);
	vm_state_u64(s, &c->next_at);
	vm_state_u64(s, &c->next_start);
	vm_state_bool(s, &c->write_msb);
	vm_state_bool(s, &c->read_msb);
	vm_state_u8(s, &c->lsb);
	vm_state_bool(s, &c->latched);
	vm_state_bool(s, &c->status_latched);
	vm_state_u16(s, &c->latch);
	vm_state_u8(s, &c->status);
	if (c->mode > I8254_HARD_STROBE || c->access == I8254_LATCH || c->access > I8254_WORD ||
	    c->count > 65536 || c->next > 65536)
		vm_state_reject(s, "a counter");
}

static int
i8254_state(void *ctx, struct vm_state *s)
{
	struct i8254 *d = ctx;
	int err;

	vm_state_section(s, "i8254", 0, 1);
	for (int i = 0; i < I8254_COUNTERS; i++)
		i8254_counter_state(&d->counter[i], s);
	vm_state_u8(s, &d->port_b);
	vm_state_bool(s, &d->irq_enabled);
	vm_state_u64(s, &d->tick.next);
	if (d->port_b & ~I8254_B_WRITABLE)
		vm_state_reject(s, "port 61h");
	err = vm_state_end(s);
	if (err == 0 && vm_state_loading(s)) {
		d->tick.period = MAX(d->counter[0].count, 1);
		i8254_arm(d, d->tick.next);
	}
	return err;
}

static const struct vm_range_ops i8254_ops = { "i8254", i8254_read, i8254_write, 1, 1 };
static const struct vm_range_ops i8254_port_b_ops = { "port 61h", i8254_port_b_read,
	i8254_port_b_write, 1, 1 };

int
i8254_create(struct vm *vm, struct i8254 **out)
{
	struct i8254 *d = calloc(1, sizeof(*d));
	const struct vm_range ranges[] = {
		{ .ops = &i8254_ops, .ctx = d, .space = VM_PIO, .base = 0x40, .size = 4 },
		{ .ops = &i8254_port_b_ops, .ctx = d, .space = VM_PIO, .base = 0x61, .size = 1 },
	};
	size_t added = 0;
	int err;

	if (d == NULL)
		return -ENOMEM;
	d->vm = vm;
	d->irq_enabled = true;
	d->tick.next = I8254_NEVER;
	for (int i = 0; i < I8254_COUNTERS; i++) {
		/* The data sheet leaves it undefined: with OUT high, as firmware does. */
		d->counter[i] = (struct i8254_counter){ .mode = I8254_SQUARE, .access = I8254_WORD,
			.gate = i != 2 };
	}
	pthread_mutex_init(&d->lock, NULL);
	d->timer = vm_timer_create(vm_loop(vm), i8254_fired, d);
	if (d->timer == NULL) {
		err = -ENOMEM;
		goto destroy;
	}
	for (; added < ARRAY_SIZE(ranges); added++) {
		err = vm_range_add(vm, &ranges[added]);
		if (err != 0)
			goto remove_ranges;
	}
	err = vm_state_register(vm, i8254_state, d);
	if (err != 0)
		goto remove_ranges;
	*out = d;
	return 0;
remove_ranges:
	while (added > 0)
		vm_range_remove(vm, &ranges[--added]);
destroy:
	i8254_destroy(d);
	return err;
}

void
i8254_destroy(struct i8254 *d)
{
	if (d == NULL)
		return;
	vm_timer_destroy(d->timer);
	pthread_mutex_destroy(&d->lock);
	free(d);
}
