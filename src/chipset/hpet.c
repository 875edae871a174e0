/*
 * High precision event timer (IA-PC HPET 1.0a).
 *
 * "Ticks" are counts of the main counter's clock since the VM's clock was 0, running or not; the
 * main counter is that plus an offset. Times that something is to happen are kept in ticks, so that
 * a comparator in the future and one in the past are told apart whatever the counter's width.
 */
#include "chipset/hpet.h"
#include "chipset/i8254.h"
#include "chipset/periodic.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/loop.h"
#include "vm/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* Registers, all 64 bits (2.3.3) */
#define HPET_GCAP_ID 0x000
#define HPET_GEN_CONF 0x010
#define HPET_GINTR_STA 0x020
#define HPET_MAIN_CNT 0x0f0
#define HPET_TIMER(n) (0x100 + 0x20 * (n))
#define HPET_TIMER_CONF 0x00
#define HPET_TIMER_COMPARATOR 0x08
#define HPET_TIMER_FSB 0x10

/* General configuration (2.3.5) */
#define HPET_GEN_CONF_ENABLE BIT(0)
#define HPET_GEN_CONF_LEGACY BIT(1)

/* Timer configuration and capabilities (2.3.8) */
#define HPET_CONF_LEVEL BIT64(1)
#define HPET_CONF_INT_ENABLE BIT64(2)
#define HPET_CONF_PERIODIC BIT64(3)
#define HPET_CONF_PERIODIC_CAP BIT64(4)
#define HPET_CONF_SIZE_CAP BIT64(5)
#define HPET_CONF_VAL_SET BIT64(6)
#define HPET_CONF_32BIT BIT64(8)
#define HPET_CONF_ROUTE(c) BITS(c, 9, 5)
#define HPET_CONF_ROUTE_MASK (31u << 9)
#define HPET_CONF_FSB_ENABLE BIT64(14)
#define HPET_CONF_FSB_CAP BIT64(15)
#define HPET_CONF_WRITABLE                                                                         \
	(HPET_CONF_LEVEL | HPET_CONF_INT_ENABLE | HPET_CONF_PERIODIC | HPET_CONF_VAL_SET |         \
	    HPET_CONF_32BIT | HPET_CONF_ROUTE_MASK | HPET_CONF_FSB_ENABLE)
#define HPET_ROUTES 0x00f00000ull /* lines 20 to 23 */
#define HPET_CONF_CAPABILITIES                                                                     \
	(HPET_CONF_PERIODIC_CAP | HPET_CONF_SIZE_CAP | HPET_CONF_FSB_CAP | HPET_ROUTES << 32)

#define HPET_TICK_NS (HPET_PERIOD_FS / 1000000)
#define HPET_GAP (PERIODIC_GAP_NS / HPET_TICK_NS)
#define HPET_BACKLOG (PERIODIC_BACKLOG_NS / HPET_TICK_NS)
#define HPET_JUST_PASSED (10000000 / HPET_TICK_NS)
/* As far ahead as a timer is armed, in ticks: it is looked at again then. */
#define HPET_FAR (1000000000ull * (1000000000 / HPET_TICK_NS))

struct hpet_timer {
	struct hpet *hpet;
	int n;
	struct vm_timer *timer;
	uint64_t conf; /* without the capability bits */
	uint64_t comparator; /* while `planned` and periodic: as of the last plan */
	uint64_t period; /* the value last written, when periodic */
	uint64_t fsb;
	/* The counter runs and will match at tick.next; then every tick.period (0: never again). */
	bool planned;
	struct periodic tick;
	int line; /* the line it holds asserted, or -1 */
};

struct hpet {
	struct vm *vm;
	struct i8254 *pit;
	void (*rtc_legacy)(void *ctx, bool on);
	void *rtc_ctx;
	/* Guards all below, the timers too; lines are raised and messages sent with it held. */
	pthread_mutex_t lock;
	uint32_t conf, status;
	uint64_t counter; /* halted: its value; running: what to add to ticks */
	struct hpet_timer timer[HPET_TIMERS];
};

/* --- The main counter; the lock is held from here on --- */

static uint64_t
hpet_ticks(const struct hpet *d)
{
	return vm_clock_ns(vm_loop(d->vm)) / HPET_TICK_NS;
}

static bool
hpet_is_running(const struct hpet *d)
{
	return d->conf & HPET_GEN_CONF_ENABLE;
}

static bool
hpet_is_legacy(const struct hpet *d)
{
	return (d->conf & HPET_GEN_CONF_LEGACY) && hpet_is_running(d);
}

static uint64_t
hpet_counter(const struct hpet *d, uint64_t ticks)
{
	return hpet_is_running(d) ? d->counter + ticks : d->counter;
}

/* --- Interrupts --- */

/* The line a timer's interrupt goes to, or -1 (2.4.7). */
static int
hpet_timer_line(const struct hpet_timer *t)
{
	unsigned route = (unsigned)HPET_CONF_ROUTE(t->conf);

	if (t->n < 2 && hpet_is_legacy(t->hpet))
		return t->n == 0 ? 0 : 8;
	return HPET_ROUTES & BIT(route) ? (int)route : -1;
}

/* Makes a level-triggered line follow the status bit and the configuration. */
static void
hpet_timer_level(struct hpet_timer *t)
{
	struct hpet *d = t->hpet;
	int line = -1;

	if ((d->status & BIT(t->n)) && (t->conf & HPET_CONF_INT_ENABLE) &&
	    !(t->conf & HPET_CONF_FSB_ENABLE) && hpet_is_running(d))
		line = hpet_timer_line(t);
	if (line == t->line)
		return;
	if (t->line >= 0)
		vm_irq_set(d->vm, t->line, false, t);
	t->line = line;
	if (line >= 0)
		vm_irq_set(d->vm, line, true, t);
}

static void
hpet_timer_interrupt(struct hpet_timer *t)
{
	struct hpet *d = t->hpet;
	int line;

	if (t->conf & HPET_CONF_LEVEL) {
		d->status |= BIT(t->n);
		hpet_timer_level(t);
		/* A message has no level: it is sent once. */
		if (!(t->conf & HPET_CONF_FSB_ENABLE))
			return;
	}
	if (!(t->conf & HPET_CONF_INT_ENABLE))
		return;
	if (t->conf & HPET_CONF_FSB_ENABLE) {
		vm_msi(d->vm, t->fsb >> 32, (uint32_t)t->fsb);
		return;
	}
	line = hpet_timer_line(t);
	if (line >= 0)
		vm_irq_pulse(d->vm, line);
}

/* --- Timers --- */

static uint64_t
hpet_timer_mask(const struct hpet_timer *t)
{
	return t->conf & HPET_CONF_32BIT ? UINT32_MAX : UINT64_MAX;
}

/* How often it matches: a timer that is not periodic matches again when the counter has wrapped
 * (2.3.9.2.1), which 64 bits do not live to see. */
static uint64_t
hpet_timer_period(const struct hpet_timer *t)
{
	if ((t->conf & HPET_CONF_PERIODIC) && t->period != 0)
		return t->period;
	return t->conf & HPET_CONF_32BIT ? BIT64(32) : 0;
}

/* Whether a match can be seen: by an interrupt or the status bit. */
static bool
hpet_timer_is_watched(const struct hpet_timer *t)
{
	return t->conf & (HPET_CONF_INT_ENABLE | HPET_CONF_LEVEL);
}

static void
hpet_timer_arm(struct hpet_timer *t, uint64_t now, uint64_t wake)
{
	if (!t->planned || !hpet_timer_is_watched(t))
		vm_timer_cancel(t->timer);
	else
		vm_timer_arm(t->timer, MIN(wake, now + HPET_FAR) * HPET_TICK_NS);
}

/* The comparator's value: a periodic timer's is ahead of the counter, even if its last ticks
 * have not been handled yet. */
static uint64_t
hpet_timer_comparator(const struct hpet_timer *t, uint64_t now)
{
	uint64_t next = t->tick.next;

	if (!t->planned || !(t->conf & HPET_CONF_PERIODIC) || t->period == 0)
		return t->comparator;
	if (next <= now)
		next += ((now - next) / t->period + 1) * t->period;
	return (next + t->hpet->counter) & hpet_timer_mask(t);
}

/* Takes note of the comparator's value before something changes on which it depends, and catches
 * up on a match that the timer's thread has not come to yet. */
static void
hpet_timer_settle(struct hpet_timer *t, uint64_t now)
{
	bool matched = t->planned && now >= t->tick.next;

	t->comparator = hpet_timer_comparator(t, now);
	t->planned = false;
	if (matched && hpet_timer_is_watched(t))
		hpet_timer_interrupt(t);
}

/* Finds the next match. written: the comparator was, just now. */
static void
hpet_timer_plan(struct hpet_timer *t, uint64_t now, bool written)
{
	uint64_t mask = hpet_timer_mask(t), counter = hpet_counter(t->hpet, now);
	uint64_t passed = (counter - t->comparator) & mask, left = (t->comparator - counter) & mask;

	t->planned = hpet_is_running(t->hpet);
	t->tick.period = hpet_timer_period(t);
	if (written && passed < HPET_JUST_PASSED)
		t->tick.next = now - passed;
	else if (__builtin_add_overflow(now, left, &t->tick.next))
		t->planned = false;
	hpet_timer_arm(t, now, t->tick.next);
}

static void
hpet_timer_fired(void *arg)
{
	struct hpet_timer *t = arg;
	struct hpet *d = t->hpet;
	uint64_t now, wake;
	bool due;

	pthread_mutex_lock(&d->lock);
	if (!t->planned)
		goto out;
	now = hpet_ticks(d);
	if (t->tick.period != 0) {
		due = periodic_take(&t->tick, now, HPET_GAP, HPET_BACKLOG, &wake);
	} else {
		wake = t->tick.next;
		due = now >= wake;
		t->planned = !due;
	}
	if (due)
		hpet_timer_interrupt(t);
	hpet_timer_arm(t, now, wake);
out:
	pthread_mutex_unlock(&d->lock);
}

/* --- Registers --- */

/* Everything changes that depends on whether and from where the counter runs. */
static void
hpet_counter_change(struct hpet *d, uint32_t conf, uint64_t counter, uint64_t ticks)
{
	for (int i = 0; i < HPET_TIMERS; i++)
		hpet_timer_settle(&d->timer[i], ticks);
	d->conf = conf;
	d->counter = hpet_is_running(d) ? counter - ticks : counter;
	for (int i = 0; i < HPET_TIMERS; i++)
		hpet_timer_plan(&d->timer[i], ticks, false);
}

static void
hpet_conf_write(struct hpet *d, uint32_t val)
{
	uint64_t ticks = hpet_ticks(d);
	bool was_legacy = hpet_is_legacy(d);

	val &= HPET_GEN_CONF_ENABLE | HPET_GEN_CONF_LEGACY;
	if (val == d->conf)
		return;
	hpet_counter_change(d, val, hpet_counter(d, ticks), ticks);
	for (int i = 0; i < HPET_TIMERS; i++)
		hpet_timer_level(&d->timer[i]);
	if (hpet_is_legacy(d) == was_legacy)
		return;
	if (d->pit != NULL)
		i8254_set_irq_enabled(d->pit, was_legacy);
	if (d->rtc_legacy != NULL)
		d->rtc_legacy(d->rtc_ctx, !was_legacy);
}

static void
hpet_status_write(struct hpet *d, uint32_t val)
{
	d->status &= ~val;
	for (int i = 0; i < HPET_TIMERS; i++)
		hpet_timer_level(&d->timer[i]);
}

static void
hpet_timer_conf_write(struct hpet_timer *t, uint64_t val)
{
	struct hpet *d = t->hpet;
	uint64_t now = hpet_ticks(d), was = t->conf;

	val &= HPET_CONF_WRITABLE;
	/* A route that cannot be had does not read back (2.3.8.1). */
	if (!(HPET_ROUTES & BIT(HPET_CONF_ROUTE(val))))
		val = (val & ~(uint64_t)HPET_CONF_ROUTE_MASK) | (was & HPET_CONF_ROUTE_MASK);
	hpet_timer_settle(t, now);
	t->conf = val;
	t->comparator &= hpet_timer_mask(t);
	t->period &= hpet_timer_mask(t);
	if (!(val & HPET_CONF_LEVEL))
		d->status &= ~BIT(t->n);
	hpet_timer_plan(t, now, false);
	hpet_timer_level(t);
}

/* Bits of val that an access of some bytes at off changes in a register that holds old. */
static uint64_t
hpet_merge(uint64_t old, uint64_t off, int size, uint64_t val)
{
	if (size == 8)
		return val;
	if (off & 4)
		return (old & UINT32_MAX) | val << 32;
	return (old & ~(uint64_t)UINT32_MAX) | (uint32_t)val;
}

static void
hpet_comparator_write(struct hpet_timer *t, uint64_t off, int size, uint64_t val)
{
	uint64_t now = hpet_ticks(t->hpet), mask = hpet_timer_mask(t);
	bool periodic = t->conf & HPET_CONF_PERIODIC;
	bool accumulator = !periodic || (t->conf & HPET_CONF_VAL_SET);

	hpet_timer_settle(t, now);
	if (periodic)
		t->period = hpet_merge(t->period, off, size, val) & mask;
	if (accumulator)
		t->comparator = hpet_merge(t->comparator, off, size, val) & mask;
	t->conf &= ~HPET_CONF_VAL_SET;
	hpet_timer_plan(t, now, accumulator);
}

static uint64_t
hpet_timer_read(const struct hpet_timer *t, unsigned reg)
{
	switch (reg) {
	case HPET_TIMER_CONF: return t->conf | HPET_CONF_CAPABILITIES;
	case HPET_TIMER_COMPARATOR: return hpet_timer_comparator(t, hpet_ticks(t->hpet));
	case HPET_TIMER_FSB: return t->fsb;
	default: return 0;
	}
}

static void
hpet_timer_write(struct hpet_timer *t, unsigned reg, uint64_t off, int size, uint64_t val)
{
	switch (reg) {
	case HPET_TIMER_CONF: hpet_timer_conf_write(t, hpet_merge(t->conf, off, size, val)); break;
	case HPET_TIMER_COMPARATOR: hpet_comparator_write(t, off, size, val); break;
	case HPET_TIMER_FSB: t->fsb = hpet_merge(t->fsb, off, size, val); break;
	}
}

/* The timer that register reg belongs to, or NULL; makes reg relative to it. */
static struct hpet_timer *
hpet_timer_at(struct hpet *d, unsigned *reg)
{
	if (*reg < HPET_TIMER(0) || *reg >= HPET_TIMER(HPET_TIMERS))
		return NULL;
	*reg -= HPET_TIMER(0);
	return &d->timer[*reg / 0x20];
}

static uint64_t
hpet_reg_read(struct hpet *d, unsigned reg)
{
	struct hpet_timer *t = hpet_timer_at(d, &reg);

	if (t != NULL)
		return hpet_timer_read(t, reg % 0x20);
	switch (reg) {
	case HPET_GCAP_ID: return (uint64_t)HPET_PERIOD_FS << 32 | HPET_CAPABILITIES;
	case HPET_GEN_CONF: return d->conf;
	case HPET_GINTR_STA: return d->status;
	case HPET_MAIN_CNT: return hpet_counter(d, hpet_ticks(d));
	default: return 0;
	}
}

static void
hpet_reg_write(struct hpet *d, unsigned reg, uint64_t off, int size, uint64_t val)
{
	struct hpet_timer *t = hpet_timer_at(d, &reg);
	uint64_t ticks;

	if (t != NULL) {
		hpet_timer_write(t, reg % 0x20, off, size, val);
		return;
	}
	switch (reg) {
	case HPET_GEN_CONF:
		hpet_conf_write(d, (uint32_t)hpet_merge(d->conf, off, size, val));
		break;
	case HPET_GINTR_STA:
		hpet_status_write(d, (uint32_t)hpet_merge(0, off, size, val));
		break;
	case HPET_MAIN_CNT:
		ticks = hpet_ticks(d);
		val = hpet_merge(hpet_counter(d, ticks), off, size, val);
		hpet_counter_change(d, d->conf, val, ticks);
		break;
	}
}

static uint64_t
hpet_read(void *ctx, uint64_t off, int size)
{
	struct hpet *d = ctx;
	uint64_t val;

	pthread_mutex_lock(&d->lock);
	val = hpet_reg_read(d, (unsigned)off & ~7u);
	pthread_mutex_unlock(&d->lock);
	return off & 4 ? val >> 32 : val;
}

static void
hpet_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct hpet *d = ctx;

	pthread_mutex_lock(&d->lock);
	hpet_reg_write(d, (unsigned)off & ~7u, off, size, val);
	pthread_mutex_unlock(&d->lock);
}

/* --- State, life --- */

static void
hpet_timer_state(struct hpet_timer *t, struct vm_state *s)
{
	vm_state_u64(s, &t->conf);
	vm_state_u64(s, &t->comparator);
	vm_state_u64(s, &t->period);
	vm_state_u64(s, &t->fsb);
	vm_state_bool(s, &t->planned);
	vm_state_u64(s, &t->tick.next);
	if (t->conf & ~HPET_CONF_WRITABLE)
		vm_state_reject(s, "a timer's configuration");
}

static int
hpet_state(void *ctx, struct vm_state *s)
{
	struct hpet *d = ctx;
	int err;

	vm_state_section(s, "hpet", 0, 1);
	vm_state_u32(s, &d->conf);
	vm_state_u32(s, &d->status);
	vm_state_u64(s, &d->counter);
	for (int i = 0; i < HPET_TIMERS; i++)
		hpet_timer_state(&d->timer[i], s);
	if ((d->conf & ~(HPET_GEN_CONF_ENABLE | HPET_GEN_CONF_LEGACY)) || d->status >> HPET_TIMERS)
		vm_state_reject(s, "general registers");
	err = vm_state_end(s);
	if (err != 0 || !vm_state_loading(s))
		return err;
	for (int i = 0; i < HPET_TIMERS; i++) {
		struct hpet_timer *t = &d->timer[i];

		t->tick.period = hpet_timer_period(t);
		hpet_timer_arm(t, hpet_ticks(d), t->tick.next);
		hpet_timer_level(t);
	}
	return 0;
}

static const struct vm_range_ops hpet_ops = { "hpet", hpet_read, hpet_write, 4, 8 };

int
hpet_create(struct vm *vm, const struct hpet_params *params, struct hpet **out)
{
	struct hpet *d = calloc(1, sizeof(*d));
	const struct vm_range range = { .ops = &hpet_ops, .ctx = d, .space = VM_MMIO,
		.base = HPET_BASE, .size = HPET_SIZE };
	int err;

	if (d == NULL)
		return -ENOMEM;
	d->vm = vm;
	d->pit = params->pit;
	d->rtc_legacy = params->rtc_legacy;
	d->rtc_ctx = params->rtc_ctx;
	pthread_mutex_init(&d->lock, NULL);
	for (int i = 0; i < HPET_TIMERS; i++) {
		struct hpet_timer *t = &d->timer[i];

		*t = (struct hpet_timer){ .hpet = d, .n = i, .comparator = UINT64_MAX, .line = -1 };
		t->timer = vm_timer_create(vm_loop(vm), hpet_timer_fired, t);
		if (t->timer == NULL) {
			err = -ENOMEM;
			goto destroy;
		}
	}
	err = vm_range_add(vm, &range);
	if (err != 0)
		goto destroy;
	err = vm_state_register(vm, hpet_state, d);
	if (err != 0)
		goto remove_range;
	*out = d;
	return 0;
remove_range:
	vm_range_remove(vm, &range);
destroy:
	hpet_destroy(d);
	return err;
}

void
hpet_destroy(struct hpet *d)
{
	if (d == NULL)
		return;
	for (int i = 0; i < HPET_TIMERS; i++)
		vm_timer_destroy(d->timer[i].timer);
	pthread_mutex_destroy(&d->lock);
	free(d);
}
