/*
 * MC146818A. Sections are those of Motorola's data sheet ADI856R2 by heading; the PC's uses of the
 * memory are those of IBM's AT Technical Reference (6280070) and of the bytes that boot ROMs for
 * virtual machines read to find memory above 16 MiB.
 *
 * Time is not counted but computed: base_time began at base_ns of the VM's clock, and the divider
 * chain is in phase with that. Flags are brought up to date when somebody looks, and timers run
 * only for interrupts that are enabled and not yet asserted.
 */
#include "chipset/mc146818.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "base/bits.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/loop.h"
#include "vm/mem.h"
#include "vm/state.h"

/* Time, calendar and alarm locations ("Address map") */
#define RTC_SEC 0x00
#define RTC_SEC_ALARM 0x01
#define RTC_MIN 0x02
#define RTC_MIN_ALARM 0x03
#define RTC_HOUR 0x04
#define RTC_HOUR_PM BIT(7) /* in 12-hour mode */
#define RTC_HOUR_ALARM 0x05
#define RTC_WEEKDAY 0x06 /* 1 is Sunday */
#define RTC_DAY 0x07
#define RTC_MONTH 0x08
#define RTC_YEAR 0x09
#define RTC_ALARM_ANY 0xc0 /* both bits set: matches everything */

/* Register A */
#define RTC_A 0x0a
#define RTC_A_RS(v) BITS(v, 0, 4) /* rate of the periodic interrupt */
#define RTC_A_DV(v) BITS(v, 4, 3) /* divider: 2 is running from 32.768 kHz */
#define RTC_A_DV_RUN 2
#define RTC_A_UIP BIT(7) /* update in progress */

/* Register B */
#define RTC_B 0x0b
#define RTC_B_24H BIT(1)
#define RTC_B_DM BIT(2) /* binary, not BCD */
#define RTC_B_UIE BIT(4)
#define RTC_B_AIE BIT(5)
#define RTC_B_PIE BIT(6)
#define RTC_B_SET BIT(7) /* updates are held; the program writes the time */

/* Register C: interrupt flags, cleared by reading */
#define RTC_C 0x0c
#define RTC_C_UF BIT(4) /* the flags stand where register B has their enable bits */
#define RTC_C_AF BIT(5)
#define RTC_C_PF BIT(6)
#define RTC_C_IRQF BIT(7)
#define RTC_C_FLAGS (RTC_C_UF | RTC_C_AF | RTC_C_PF)

/* Register D */
#define RTC_D 0x0d
#define RTC_D_VRT BIT(7) /* the battery is good */

/* Memory (AT Technical Reference, "CMOS RAM address map") */
#define CMOS_EQUIPMENT 0x14
#define CMOS_EQUIPMENT_FPU BIT(1)
#define CMOS_BASE_KIB 0x15 /* two bytes */
#define CMOS_EXT_KIB 0x17 /* from 1 MiB, two bytes, and again at 0x30 */
#define CMOS_SUM_FIRST 0x10
#define CMOS_SUM_LAST 0x2d
#define CMOS_SUM 0x2e /* two bytes, high one first */
#define CMOS_EXT_KIB_POST 0x30
#define CMOS_ABOVE_16M_64K 0x34 /* RAM from 16 MiB below the hole, in 64 KiB, two bytes */
#define CMOS_ABOVE_4G_64K 0x5b /* RAM from 4 GiB, in 64 KiB, three bytes */
#define CMOS_SIZE 256
#define CMOS_UPPER 128 /* what port 0x72 indexes from */
#define CMOS_INDEX_MASK 0x7f /* bit 7 of port 0x70 masks NMI, which nothing here raises */

#define RTC_NS_PER_S 1000000000ull
#define RTC_HZ 32768
/* "Update cycle": UIP rises 244 us before the update, which takes 1984 us; the time changes at its
 * end. */
#define RTC_UIP_NS ((244 + 1984) * 1000ull)
/* "Register A, DV": the first update comes half a second after the divider is released. */
#define RTC_RELEASE_NS (RTC_NS_PER_S / 2)
#define RTC_DAY_S 86400
#define RTC_TIME_MAX (1ll << 40) /* beyond any year with four digits */

struct mc146818 {
	struct vm *vm;
	struct vm_range lower, upper;
	struct vm_timer *periodic_timer;
	struct vm_timer *second_timer; /* for the update-ended and the alarm interrupt */

	pthread_mutex_t lock; /* everything below */
	uint8_t index, upper_index;
	/* All 256 bytes. Time and calendar bytes are refreshed before use unless updates are held;
	 * A is without UIP; C is without IRQF. */
	uint8_t cmos[CMOS_SIZE];
	int64_t base_time; /* seconds since 1970 in the clock's own zone ... */
	uint64_t base_ns; /* ... at this time of the VM's clock; a divider phase of 0 */
	int64_t seen_time; /* the last second whose update and alarm went into the flags */
	uint64_t seen_ns; /* the same for periods */
	uint8_t weekday_bias; /* what to add to the date's own weekday: as the guest set it */
	bool hpet_legacy;
};

/* --- Calendar --- */

/* Days from 1970-01-01 to a date of the Gregorian calendar; month 1 to 12, day from 1. */
static int64_t
rtc_days(int64_t year, int month, int day)
{
	/* Years that begin in March put the leap day last. */
	int64_t y = month <= 2 ? year - 1 : year;
	int64_t era = (y >= 0 ? y : y - 399) / 400;
	int64_t yoe = y - era * 400;
	int64_t doy = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;

	return era * 146097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719468;
}

struct rtc_date {
	int year, month, day; /* month and day from 1 */
	int weekday; /* 0 is Sunday */
};

static void
rtc_date(int64_t days, struct rtc_date *d)
{
	int64_t z = days + 719468;
	int64_t era = (z >= 0 ? z : z - 146096) / 146097;
	int64_t doe = z - era * 146097;
	int64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	int64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	int mp = (int)((5 * doy + 2) / 153);

	d->day = (int)(doy - (153 * mp + 2) / 5 + 1);
	d->month = mp < 10 ? mp + 3 : mp - 9;
	d->year = (int)(yoe + era * 400 + (d->month <= 2));
	d->weekday = (int)(((days + 4) % 7 + 7) % 7);
}

/* --- The bytes --- */

static uint8_t
rtc_encode(const struct mc146818 *r, int val)
{
	return (uint8_t)((r->cmos[RTC_B] & RTC_B_DM) != 0 ? val : val / 10 << 4 | val % 10);
}

static int
rtc_decode(const struct mc146818 *r, uint8_t val)
{
	return (r->cmos[RTC_B] & RTC_B_DM) != 0 ? val : (val >> 4) * 10 + (val & 0xf);
}

static uint8_t
rtc_encode_hour(const struct mc146818 *r, int hour)
{
	if ((r->cmos[RTC_B] & RTC_B_24H) != 0)
		return rtc_encode(r, hour);
	return rtc_encode(r, hour % 12 == 0 ? 12 : hour % 12) | (hour >= 12 ? RTC_HOUR_PM : 0);
}

static int
rtc_decode_hour(const struct mc146818 *r, uint8_t val)
{
	if ((r->cmos[RTC_B] & RTC_B_24H) != 0)
		return rtc_decode(r, val);
	return rtc_decode(r, val & ~RTC_HOUR_PM) % 12 + ((val & RTC_HOUR_PM) != 0 ? 12 : 0);
}

static void
rtc_time_to_bytes(struct mc146818 *r, int64_t t)
{
	int64_t days = (t >= 0 ? t : t - RTC_DAY_S + 1) / RTC_DAY_S;
	int second = (int)(t - days * RTC_DAY_S);
	struct rtc_date d;

	rtc_date(days, &d);
	r->cmos[RTC_SEC] = rtc_encode(r, second % 60);
	r->cmos[RTC_MIN] = rtc_encode(r, second / 60 % 60);
	r->cmos[RTC_HOUR] = rtc_encode_hour(r, second / 3600);
	r->cmos[RTC_WEEKDAY] = rtc_encode(r, (d.weekday + r->weekday_bias) % 7 + 1);
	r->cmos[RTC_DAY] = rtc_encode(r, d.day);
	r->cmos[RTC_MONTH] = rtc_encode(r, d.month);
	r->cmos[RTC_YEAR] = rtc_encode(r, d.year % 100);
	r->cmos[MC146818_CENTURY] = rtc_encode(r, d.year / 100 % 100);
}

/* What the guest wrote, whatever it is, becomes some date: days beyond the month carry. */
static int64_t
rtc_time_from_bytes(struct mc146818 *r)
{
	int year = rtc_decode(r, r->cmos[MC146818_CENTURY]) % 100 * 100 +
	    rtc_decode(r, r->cmos[RTC_YEAR]) % 100;
	int month = MIN(MAX(rtc_decode(r, r->cmos[RTC_MONTH]), 1), 12);
	int64_t days = rtc_days(year, month, MAX(rtc_decode(r, r->cmos[RTC_DAY]), 1));
	int weekday = rtc_decode(r, r->cmos[RTC_WEEKDAY]);
	struct rtc_date d;

	rtc_date(days, &d);
	r->weekday_bias = (uint8_t)((weekday - 1 - d.weekday + 14) % 7);
	return days * RTC_DAY_S + rtc_decode_hour(r, r->cmos[RTC_HOUR]) % 24 * 3600 +
	    rtc_decode(r, r->cmos[RTC_MIN]) % 60 * 60 + rtc_decode(r, r->cmos[RTC_SEC]) % 60;
}

/* --- Time, flags, interrupts --- */

static uint64_t
rtc_now_ns(const struct mc146818 *r)
{
	return vm_clock_ns(vm_loop(r->vm));
}

static bool
rtc_running(const struct mc146818 *r)
{
	return RTC_A_DV(r->cmos[RTC_A]) == RTC_A_DV_RUN;
}

/* Whether time bytes stand still for the guest to write. */
static bool
rtc_held(const struct mc146818 *r)
{
	return !rtc_running(r) || (r->cmos[RTC_B] & RTC_B_SET) != 0;
}

static int64_t
rtc_time(const struct mc146818 *r, uint64_t now_ns)
{
	return r->base_time + (int64_t)((now_ns - r->base_ns) / RTC_NS_PER_S);
}

/* Length of a period, 0 for none ("Register A, RS": rates 1 and 2 are those of 8 and 9). */
static uint64_t
rtc_period_ticks(const struct mc146818 *r)
{
	unsigned rs = (unsigned)RTC_A_RS(r->cmos[RTC_A]);

	if (rs == 0)
		return 0;
	return 1ull << ((rs <= 2 ? rs + 7 : rs) - 1);
}

static uint64_t
rtc_ticks(const struct mc146818 *r, uint64_t now_ns)
{
	return (uint64_t)((unsigned __int128)(now_ns - r->base_ns) * RTC_HZ / RTC_NS_PER_S);
}

static uint64_t
rtc_ticks_to_ns(const struct mc146818 *r, uint64_t ticks)
{
	return r->base_ns +
	    (uint64_t)(((unsigned __int128)ticks * RTC_NS_PER_S + RTC_HZ - 1) / RTC_HZ);
}

static bool
rtc_alarm_field(const struct mc146818 *r, int alarm, uint8_t val)
{
	return (r->cmos[alarm] & RTC_ALARM_ANY) == RTC_ALARM_ANY || r->cmos[alarm] == val;
}

/* The first second after t that the alarm matches, or -1: an alarm may be set to a time that never
 * is. */
static int64_t
rtc_alarm_next(const struct mc146818 *r, int64_t t)
{
	int64_t end = t + RTC_DAY_S;

	for (t = t + 1; t <= end;) {
		int second = (int)(((t % RTC_DAY_S) + RTC_DAY_S) % RTC_DAY_S);

		if (!rtc_alarm_field(r, RTC_HOUR_ALARM, rtc_encode_hour(r, second / 3600)))
			t += 3600 - second % 3600;
		else if (!rtc_alarm_field(r, RTC_MIN_ALARM, rtc_encode(r, second / 60 % 60)))
			t += 60 - second % 60;
		else if (!rtc_alarm_field(r, RTC_SEC_ALARM, rtc_encode(r, second % 60)))
			t++;
		else
			return t;
	}
	return -1;
}

static void
rtc_irq_update(struct mc146818 *r)
{
	bool level = (r->cmos[RTC_C] & r->cmos[RTC_B] & RTC_C_FLAGS) != 0 && !r->hpet_legacy;

	vm_irq_set(r->vm, MC146818_IRQ, level, r);
}

/* Arms the timers for what can interrupt next. An asserted flag interrupts again only after
 * register C was read, and reading it comes here. */
static void
rtc_timers_update(struct mc146818 *r, uint64_t now_ns)
{
	uint8_t wanted = r->cmos[RTC_B] & ~r->cmos[RTC_C];
	uint64_t period = rtc_period_ticks(r);
	int64_t next = -1;

	if ((wanted & RTC_B_PIE) != 0 && period != 0 && rtc_running(r))
		vm_timer_arm(r->periodic_timer,
		    rtc_ticks_to_ns(r, (rtc_ticks(r, now_ns) / period + 1) * period));
	else
		vm_timer_cancel(r->periodic_timer);

	if (!rtc_held(r) && (wanted & RTC_B_UIE) != 0)
		next = r->seen_time + 1;
	else if (!rtc_held(r) && (wanted & RTC_B_AIE) != 0)
		next = rtc_alarm_next(r, r->seen_time);
	if (next != -1)
		vm_timer_arm(
		    r->second_timer, r->base_ns + (uint64_t)(next - r->base_time) * RTC_NS_PER_S);
	else
		vm_timer_cancel(r->second_timer);
}

/* Brings time bytes and flags up to now. */
static void
rtc_sync(struct mc146818 *r, uint64_t now_ns)
{
	uint64_t period = rtc_period_ticks(r);
	int64_t t = rtc_time(r, now_ns), alarm;

	if (rtc_running(r) && period != 0 &&
	    rtc_ticks(r, now_ns) / period != rtc_ticks(r, r->seen_ns) / period)
		r->cmos[RTC_C] |= RTC_C_PF;
	r->seen_ns = now_ns;
	if (rtc_held(r))
		return;
	if (t > r->seen_time) {
		r->cmos[RTC_C] |= RTC_C_UF;
		alarm = rtc_alarm_next(r, r->seen_time);
		if (alarm != -1 && alarm <= t)
			r->cmos[RTC_C] |= RTC_C_AF;
		r->seen_time = t;
	}
	rtc_time_to_bytes(r, t);
}

static void
rtc_on_timer(void *arg)
{
	struct mc146818 *r = arg;
	uint64_t now_ns;

	pthread_mutex_lock(&r->lock);
	now_ns = rtc_now_ns(r);
	rtc_sync(r, now_ns);
	rtc_irq_update(r);
	rtc_timers_update(r, now_ns);
	pthread_mutex_unlock(&r->lock);
}

void
mc146818_hpet_legacy(void *ctx, bool on)
{
	struct mc146818 *r = ctx;

	pthread_mutex_lock(&r->lock);
	r->hpet_legacy = on;
	rtc_irq_update(r);
	pthread_mutex_unlock(&r->lock);
}

/* --- Registers --- */

/* The time bytes were written, or counting begins again: they tell the second under way. */
static void
rtc_time_set(struct mc146818 *r, uint64_t now_ns)
{
	r->base_ns = now_ns - (now_ns - r->base_ns) % RTC_NS_PER_S;
	r->base_time = rtc_time_from_bytes(r);
	r->seen_time = r->base_time;
}

static void
rtc_a_write(struct mc146818 *r, uint8_t val, uint64_t now_ns)
{
	bool was_running = rtc_running(r), was_held = rtc_held(r);

	r->cmos[RTC_A] = val & ~RTC_A_UIP;
	if (!was_running && rtc_running(r)) {
		/* The clock of a VM may be younger than half a second; unsigned wrap is harmless,
		 * as only differences to base_ns are used. */
		r->base_ns = now_ns - RTC_RELEASE_NS;
		r->seen_ns = now_ns;
	}
	if (was_held && !rtc_held(r))
		rtc_time_set(r, now_ns);
}

static void
rtc_b_write(struct mc146818 *r, uint8_t val, uint64_t now_ns)
{
	bool was_held = rtc_held(r);

	/* "Register B, SET": setting it clears UIE. */
	if ((val & RTC_B_SET) != 0)
		val &= ~RTC_B_UIE;
	r->cmos[RTC_B] = val;
	if (was_held && !rtc_held(r))
		rtc_time_set(r, now_ns);
}

static bool
rtc_is_time(uint8_t index)
{
	switch (index) {
	case RTC_SEC:
	case RTC_MIN:
	case RTC_HOUR:
	case RTC_WEEKDAY:
	case RTC_DAY:
	case RTC_MONTH:
	case RTC_YEAR:
	case MC146818_CENTURY: return true;
	default: return false;
	}
}

static void
rtc_cmos_write(struct mc146818 *r, uint8_t index, uint8_t val)
{
	uint64_t now_ns = rtc_now_ns(r);

	rtc_sync(r, now_ns);
	switch (index) {
	case RTC_A: rtc_a_write(r, val, now_ns); break;
	case RTC_B: rtc_b_write(r, val, now_ns); break;
	case RTC_C:
	case RTC_D: return; /* read-only */
	default: r->cmos[index] = val; break;
	}
	if (rtc_is_time(index) && !rtc_held(r))
		rtc_time_set(r, now_ns);
	rtc_irq_update(r);
	rtc_timers_update(r, now_ns);
}

static uint8_t
rtc_a_read(const struct mc146818 *r, uint64_t now_ns)
{
	uint64_t left = RTC_NS_PER_S - (now_ns - r->base_ns) % RTC_NS_PER_S;

	return r->cmos[RTC_A] | (!rtc_held(r) && left <= RTC_UIP_NS ? RTC_A_UIP : 0);
}

static uint8_t
rtc_c_read(struct mc146818 *r, uint64_t now_ns)
{
	uint8_t val = r->cmos[RTC_C];

	if ((val & r->cmos[RTC_B]) != 0)
		val |= RTC_C_IRQF;
	r->cmos[RTC_C] = 0;
	rtc_irq_update(r);
	rtc_timers_update(r, now_ns);
	return val;
}

static uint8_t
rtc_cmos_read(struct mc146818 *r, uint8_t index)
{
	uint64_t now_ns = rtc_now_ns(r);

	rtc_sync(r, now_ns);
	switch (index) {
	case RTC_A: return rtc_a_read(r, now_ns);
	case RTC_C: return rtc_c_read(r, now_ns);
	case RTC_D: return RTC_D_VRT;
	default: return r->cmos[index];
	}
}

/* The index register cannot be read back. */
static uint64_t
rtc_lower_read(void *ctx, uint64_t off, int size)
{
	struct mc146818 *r = ctx;
	uint8_t val = 0xff;

	if (off == 0)
		return val;
	pthread_mutex_lock(&r->lock);
	val = rtc_cmos_read(r, r->index);
	pthread_mutex_unlock(&r->lock);
	return val;
}

static void
rtc_lower_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct mc146818 *r = ctx;

	pthread_mutex_lock(&r->lock);
	if (off == 0)
		r->index = val & CMOS_INDEX_MASK;
	else
		rtc_cmos_write(r, r->index, (uint8_t)val);
	pthread_mutex_unlock(&r->lock);
}

static uint64_t
rtc_upper_read(void *ctx, uint64_t off, int size)
{
	struct mc146818 *r = ctx;
	uint8_t val;

	pthread_mutex_lock(&r->lock);
	val = off == 0 ? r->upper_index : r->cmos[CMOS_UPPER + r->upper_index];
	pthread_mutex_unlock(&r->lock);
	return val;
}

static void
rtc_upper_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct mc146818 *r = ctx;

	pthread_mutex_lock(&r->lock);
	if (off == 0)
		r->upper_index = val & CMOS_INDEX_MASK;
	else
		r->cmos[CMOS_UPPER + r->upper_index] = (uint8_t)val;
	pthread_mutex_unlock(&r->lock);
}

static const struct vm_range_ops rtc_lower_ops = {
	.name = "rtc",
	.read = rtc_lower_read,
	.write = rtc_lower_write,
	.min_size = 1,
	.max_size = 1,
};

static const struct vm_range_ops rtc_upper_ops = {
	.name = "rtc",
	.read = rtc_upper_read,
	.write = rtc_upper_write,
	.min_size = 1,
	.max_size = 1,
};

void
mc146818_nvram_set(struct mc146818 *r, uint8_t index, uint8_t val)
{
	if (index > RTC_D && index != MC146818_CENTURY)
		r->cmos[index] = val;
}

/* --- State --- */

static bool
rtc_time_plausible(int64_t t)
{
	return t >= -RTC_TIME_MAX && t <= RTC_TIME_MAX;
}

static int
rtc_state(void *ctx, struct vm_state *s)
{
	struct mc146818 *r = ctx;
	uint64_t base_time = (uint64_t)r->base_time, seen_time = (uint64_t)r->seen_time;

	vm_state_section(s, "mc146818", 0, 1);
	vm_state_u8(s, &r->index);
	vm_state_u8(s, &r->upper_index);
	vm_state_bytes(s, r->cmos, sizeof(r->cmos));
	vm_state_u64(s, &base_time);
	vm_state_u64(s, &r->base_ns);
	vm_state_u64(s, &seen_time);
	vm_state_u64(s, &r->seen_ns);
	vm_state_u8(s, &r->weekday_bias);
	vm_state_bool(s, &r->hpet_legacy);
	vm_state_timer(s, r->periodic_timer);
	vm_state_timer(s, r->second_timer);
	if (vm_state_loading(s)) {
		r->base_time = (int64_t)base_time;
		r->seen_time = (int64_t)seen_time;
		if (((r->index | r->upper_index) & ~CMOS_INDEX_MASK) != 0 || r->weekday_bias > 6 ||
		    !rtc_time_plausible(r->base_time) || !rtc_time_plausible(r->seen_time)) {
			vm_state_reject(s, "mc146818 register out of range");
			/* What was refused must still be safe to run on. */
			r->index = r->upper_index = r->weekday_bias = 0;
			r->base_time = r->seen_time = 0;
		}
		rtc_irq_update(r);
	}
	return vm_state_end(s);
}

/* --- Power-on --- */

static void
rtc_cmos_put(struct mc146818 *r, int index, int bytes, uint64_t val)
{
	for (int i = 0; i < bytes; i++)
		r->cmos[index + i] = (uint8_t)(val >> (8 * i));
}

/* What the BIOS of a PC leaves in the memory. */
static void
rtc_cmos_init(struct mc146818 *r)
{
	uint64_t low = vm_mem_low(r->vm), high = vm_mem_high(r->vm);
	uint64_t ext_kib = low > MIB(1) ? MIN((low - MIB(1)) / KIB(1), 0xffff) : 0;
	uint64_t above_16m = low > MIB(16) ? (low - MIB(16)) / KIB(64) : 0;
	unsigned sum = 0;

	r->cmos[CMOS_EQUIPMENT] = CMOS_EQUIPMENT_FPU;
	rtc_cmos_put(r, CMOS_BASE_KIB, 2, 640);
	rtc_cmos_put(r, CMOS_EXT_KIB, 2, ext_kib);
	rtc_cmos_put(r, CMOS_EXT_KIB_POST, 2, ext_kib);
	rtc_cmos_put(r, CMOS_ABOVE_16M_64K, 2, above_16m);
	rtc_cmos_put(r, CMOS_ABOVE_4G_64K, 3, high / KIB(64));
	for (int i = CMOS_SUM_FIRST; i <= CMOS_SUM_LAST; i++)
		sum += r->cmos[i];
	r->cmos[CMOS_SUM] = (uint8_t)(sum >> 8);
	r->cmos[CMOS_SUM + 1] = (uint8_t)sum;
}

static void
rtc_time_init(struct mc146818 *r, bool local_time)
{
	uint64_t now_ns = rtc_now_ns(r);
	struct timespec ts;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &ts);
	r->base_time = ts.tv_sec;
	if (local_time && localtime_r(&ts.tv_sec, &tm) != NULL)
		r->base_time += tm.tm_gmtoff;
	/* Seconds change when the host's do. */
	r->base_ns = now_ns - (uint64_t)ts.tv_nsec;
	r->seen_time = r->base_time;
	r->seen_ns = now_ns;
	rtc_time_to_bytes(r, r->base_time);
}

int
mc146818_create(struct vm *vm, const struct mc146818_params *params, struct mc146818 **out)
{
	struct mc146818 *r = calloc(1, sizeof(*r));
	int err = -ENOMEM;

	if (r == NULL)
		return -ENOMEM;
	r->vm = vm;
	pthread_mutex_init(&r->lock, NULL);
	r->periodic_timer = vm_timer_create(vm_loop(vm), rtc_on_timer, r);
	r->second_timer = vm_timer_create(vm_loop(vm), rtc_on_timer, r);
	if (r->periodic_timer == NULL || r->second_timer == NULL)
		goto destroy;
	r->cmos[RTC_A] = RTC_A_DV_RUN << 4 | 6; /* 1024 Hz, as a BIOS sets it */
	r->cmos[RTC_B] = RTC_B_24H;
	rtc_cmos_init(r);
	rtc_time_init(r, params->local_time);
	r->lower = (struct vm_range){ &rtc_lower_ops, r, VM_PIO, MC146818_PORT, 2, false };
	r->upper = (struct vm_range){ &rtc_upper_ops, r, VM_PIO, MC146818_PORT + 2, 2, false };
	err = vm_range_add(vm, &r->lower);
	if (err == 0)
		err = vm_range_add(vm, &r->upper);
	if (err == 0)
		err = vm_state_register(vm, rtc_state, r);
	if (err != 0)
		goto destroy;
	*out = r;
	return 0;
destroy:
	mc146818_destroy(r);
	return err;
}

void
mc146818_destroy(struct mc146818 *r)
{
	if (r == NULL)
		return;
	/* A range that was not added is not found. */
	vm_range_remove(r->vm, &r->lower);
	vm_range_remove(r->vm, &r->upper);
	vm_timer_destroy(r->periodic_timer);
	vm_timer_destroy(r->second_timer);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
