/*
 * Local APIC timer (SDM 3, 10.5.4).
 *
 * The counter is never counted: its value follows from the VM's clock and the time it was started.
 * The vm_timer only tells when to raise the interrupt; it runs on the event loop's thread. A
 * deadline that has passed when it is set raises the interrupt at once, on the vCPU's own thread.
 */
#include "chipset/lapic_private.h"

#include <errno.h>

/* As far ahead as a TSC deadline is armed: after that it is looked at again. */
#define LAPIC_TIMER_FAR_MS 1000000000ull

static_assert(LAPIC_TIMER_HZ == 1000000000, "the counter counts nanoseconds");

static uint64_t
lapic_timer_now(const struct lapic_cpu *a)
{
	return vm_clock_ns(vm_loop(a->lapic->vm));
}

static enum lapic_timer_mode
lapic_timer_mode(const struct lapic_cpu *a)
{
	return LAPIC_LVT_TIMER_MODE(lapic_get(&a->lvt[LAPIC_LVT_TIMER]));
}

/* log2 of the divider: bits 3, 1 and 0 of DCR, where 7 means 1 and n else 2 to the n + 1. */
static unsigned
lapic_timer_shift(const struct lapic_cpu *a)
{
	return (((a->dcr >> 1 & 4) | (a->dcr & 3)) + 1) & 7;
}

/* The time a full count takes. */
static uint64_t
lapic_timer_period_ns(const struct lapic_cpu *a)
{
	return (uint64_t)a->initial_count << lapic_timer_shift(a);
}

/* --- Arming; the lock is held --- */

/* TSC_DEADLINE: true when it has come. */
static bool
lapic_timer_check_deadline(struct lapic_cpu *a)
{
	struct lapic *l = a->lapic;
	uint64_t now = l->engine->tsc_read(l->evm), left, ms;

	if (a->tsc_deadline == 0)
		return false;
	if (now >= a->tsc_deadline) {
		a->tsc_deadline = 0;
		return true;
	}
	left = a->tsc_deadline - now;
	ms = MIN(left / l->tsc_khz, LAPIC_TIMER_FAR_MS);
	/* Rounded up: earlier would mean to come again. */
	vm_timer_arm(a->timer,
	    lapic_timer_now(a) + ms * 1000000 + left % l->tsc_khz * 1000000 / l->tsc_khz + 1);
	return false;
}

static bool
lapic_timer_check_count(struct lapic_cpu *a, bool periodic)
{
	uint64_t now = lapic_timer_now(a), wake;
	bool due;

	if (!a->counting)
		return false;
	if (periodic) {
		due = periodic_take(&a->tick, now, PERIODIC_GAP_NS, PERIODIC_BACKLOG_NS, &wake);
	} else {
		wake = a->start_ns + lapic_timer_period_ns(a);
		due = now >= wake;
		if (due) {
			a->counting = false;
			return true;
		}
	}
	vm_timer_arm(a->timer, wake);
	return due;
}

/* Looks at the clock, arms the timer for what is to come. Returns whether the interrupt is due. */
static bool
lapic_timer_check(struct lapic_cpu *a)
{
	switch (lapic_timer_mode(a)) {
	case LAPIC_ONE_SHOT: return lapic_timer_check_count(a, false);
	case LAPIC_PERIODIC: return lapic_timer_check_count(a, true);
	case LAPIC_TSC_DEADLINE: return lapic_timer_check_deadline(a);
	case LAPIC_TIMER_RESERVED: break;
	}
	return false;
}

static void
lapic_timer_stop(struct lapic_cpu *a)
{
	a->counting = false;
	a->tsc_deadline = 0;
	vm_timer_cancel(a->timer);
}

/* The count at now. */
static uint32_t
lapic_timer_count(const struct lapic_cpu *a, uint64_t now)
{
	uint64_t period = lapic_timer_period_ns(a), past = now - a->start_ns;

	if (!a->counting)
		return 0;
	if (lapic_timer_mode(a) == LAPIC_PERIODIC)
		past %= period;
	return past < period ? a->initial_count - (uint32_t)(past >> lapic_timer_shift(a)) : 0;
}

/* The counter holds count at now and goes on from there. */
static void
lapic_timer_continue(struct lapic_cpu *a, uint64_t now, uint32_t count)
{
	uint64_t period = lapic_timer_period_ns(a);

	a->start_ns = now - ((uint64_t)(a->initial_count - count) << lapic_timer_shift(a));
	a->tick = (struct periodic){ .next = a->start_ns + period, .period = period };
}

static void
lapic_timer_fired(void *arg)
{
	struct lapic_cpu *a = arg;
	bool due;

	pthread_mutex_lock(&a->lock);
	due = lapic_timer_check(a);
	pthread_mutex_unlock(&a->lock);
	if (due)
		lapic_lvt_fire(a, LAPIC_LVT_TIMER);
}

/* --- Registers --- */

void
lapic_timer_set_initial(struct lapic_cpu *a, uint32_t count)
{
	enum lapic_timer_mode mode = lapic_timer_mode(a);
	bool due;

	if (mode != LAPIC_ONE_SHOT && mode != LAPIC_PERIODIC)
		return;
	pthread_mutex_lock(&a->lock);
	a->initial_count = count;
	a->counting = count != 0;
	if (count == 0)
		vm_timer_cancel(a->timer);
	else
		lapic_timer_continue(a, lapic_timer_now(a), count);
	due = lapic_timer_check(a);
	pthread_mutex_unlock(&a->lock);
	if (due)
		lapic_lvt_fire(a, LAPIC_LVT_TIMER);
}

uint32_t
lapic_timer_current(struct lapic_cpu *a)
{
	uint32_t count;

	pthread_mutex_lock(&a->lock);
	count = lapic_timer_count(a, lapic_timer_now(a));
	pthread_mutex_unlock(&a->lock);
	return count;
}

void
lapic_timer_set_divide(struct lapic_cpu *a, uint32_t dcr)
{
	uint64_t now = lapic_timer_now(a);
	uint32_t count;
	bool due;

	pthread_mutex_lock(&a->lock);
	count = lapic_timer_count(a, now);
	a->dcr = dcr;
	/* The count stays, only its speed changes. One that ran out keeps its interrupt to come. */
	if (a->counting)
		lapic_timer_continue(a, now, count);
	due = lapic_timer_check(a);
	pthread_mutex_unlock(&a->lock);
	if (due)
		lapic_lvt_fire(a, LAPIC_LVT_TIMER);
}

void
lapic_timer_set_lvt(struct lapic_cpu *a, uint32_t val)
{
	enum lapic_timer_mode was = lapic_timer_mode(a), is = LAPIC_LVT_TIMER_MODE(val);
	uint64_t now;
	uint32_t count;
	bool due;

	if (was == is) {
		lapic_set(&a->lvt[LAPIC_LVT_TIMER], val);
		return;
	}
	pthread_mutex_lock(&a->lock);
	now = lapic_timer_now(a);
	count = lapic_timer_count(a, now);
	lapic_set(&a->lvt[LAPIC_LVT_TIMER], val);
	/* To or from TSC-deadline mode disarms (10.5.4.1); else the counter runs on to its end. */
	if (was > LAPIC_PERIODIC || is > LAPIC_PERIODIC)
		lapic_timer_stop(a);
	else if (a->counting)
		lapic_timer_continue(a, now, count);
	due = lapic_timer_check(a);
	pthread_mutex_unlock(&a->lock);
	if (due)
		lapic_lvt_fire(a, LAPIC_LVT_TIMER);
}

void
lapic_timer_set_deadline(struct lapic_cpu *a, uint64_t tsc)
{
	bool due;

	if (lapic_timer_mode(a) != LAPIC_TSC_DEADLINE)
		return;
	pthread_mutex_lock(&a->lock);
	a->tsc_deadline = tsc;
	/* Disarming, as guests do all the time, leaves the vm_timer alone: it will find nothing
	 * due. */
	due = lapic_timer_check_deadline(a);
	pthread_mutex_unlock(&a->lock);
	if (due)
		lapic_lvt_fire(a, LAPIC_LVT_TIMER);
}

uint64_t
lapic_timer_deadline(struct lapic_cpu *a)
{
	uint64_t deadline;

	pthread_mutex_lock(&a->lock);
	deadline = a->tsc_deadline;
	pthread_mutex_unlock(&a->lock);
	return deadline;
}

/* --- Life --- */

int
lapic_timer_create(struct lapic_cpu *a)
{
	a->timer = vm_timer_create(vm_loop(a->lapic->vm), lapic_timer_fired, a);
	if (a->timer == NULL)
		return -ENOMEM;
	pthread_mutex_init(&a->lock, NULL);
	return 0;
}

void
lapic_timer_destroy(struct lapic_cpu *a)
{
	vm_timer_destroy(a->timer);
	pthread_mutex_destroy(&a->lock);
}

void
lapic_timer_reset(struct lapic_cpu *a)
{
	pthread_mutex_lock(&a->lock);
	lapic_timer_stop(a);
	a->dcr = 0;
	a->initial_count = 0;
	pthread_mutex_unlock(&a->lock);
}

void
lapic_timer_restart(struct lapic_cpu *a)
{
	bool due;

	pthread_mutex_lock(&a->lock);
	vm_timer_cancel(a->timer);
	a->tick.period = lapic_timer_period_ns(a);
	due = lapic_timer_check(a);
	pthread_mutex_unlock(&a->lock);
	if (due)
		lapic_lvt_fire(a, LAPIC_LVT_TIMER);
}
