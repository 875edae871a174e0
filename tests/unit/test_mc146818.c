/*
 * The real-time clock: calendar, modes, update cycle, alarm, periodic interrupts, CMOS memory.
 */
#include "chip_test.h"

#include "chipset/mc146818.h"

#include <time.h>

#define A 0x0a
#define B 0x0b
#define C 0x0c
#define D 0x0d
#define A_UIP 0x80
#define B_24H 0x02
#define B_DM 0x04
#define B_UIE 0x10
#define B_AIE 0x20
#define B_PIE 0x40
#define B_SET 0x80
#define C_UF 0x10
#define C_AF 0x20
#define C_PF 0x40
#define C_IRQF 0x80

#define MS 1000000ull
#define SECOND 1000000000ull

struct fixture {
	struct chip_test t;
	struct mc146818 *rtc;
};

static struct fixture f; /* of the test that runs */

static uint8_t
rtc_in(uint8_t index)
{
	outb(&f.t, 0x70, index);
	return inb(&f.t, 0x71);
}

static void
rtc_out(uint8_t index, uint8_t val)
{
	outb(&f.t, 0x70, index);
	outb(&f.t, 0x71, val);
}

/* Sets the clock as a program does; it then shows the middle of the second. BCD, 24 hours. */
static void
rtc_set(int year, int month, int day, int hour, int min, int sec)
{
	const int vals[][2] = { { 0x32, year / 100 }, { 9, year % 100 }, { 8, month }, { 7, day },
		{ 6, 1 }, { 4, hour }, { 2, min }, { 0, sec } };

	rtc_out(B, B_SET | B_24H);
	rtc_out(A, 0x70);
	for (size_t i = 0; i < ARRAY_SIZE(vals); i++)
		rtc_out((uint8_t)vals[i][0], (uint8_t)(vals[i][1] / 10 << 4 | vals[i][1] % 10));
	rtc_out(B, B_24H);
	rtc_out(A, 0x26);
	rtc_in(C);
}

static void
assert_time(unsigned date_bcd, unsigned time_bcd)
{
	assert_int_equal(
	    rtc_in(0x32) << 24 | rtc_in(9) << 16 | rtc_in(8) << 8 | rtc_in(7), date_bcd);
	assert_int_equal(rtc_in(4) << 16 | rtc_in(2) << 8 | rtc_in(0), time_bcd);
}

static int
setup(void **state)
{
	const struct mc146818_params params = { .local_time = false };

	chip_test_init(&f.t, MIB(64));
	assert_int_equal(mc146818_create(f.t.vm, &params, &f.rtc), 0);
	return 0;
}

static int
teardown(void **state)
{
	mc146818_destroy(f.rtc);
	vm_destroy(f.t.vm);
	return 0;
}

static int
bcd(uint8_t val)
{
	return (val >> 4) * 10 + (val & 15);
}

static void
test_power_on(void **state)
{
	assert_int_equal(rtc_in(A) & ~A_UIP, 0x26);
	assert_int_equal(rtc_in(B), B_24H);
	assert_int_equal(rtc_in(C), 0);
	assert_int_equal(rtc_in(D), 0x80);
	assert_int_equal(inb(&f.t, 0x70), 0xff);
}

static time_t
rtc_read_unix(void)
{
	struct tm tm = {
		.tm_year = bcd(rtc_in(0x32)) * 100 + bcd(rtc_in(9)) - 1900,
		.tm_mon = bcd(rtc_in(8)) - 1,
		.tm_mday = bcd(rtc_in(7)),
		.tm_hour = bcd(rtc_in(4)),
		.tm_min = bcd(rtc_in(2)),
		.tm_sec = bcd(rtc_in(0)),
	};
	time_t t = timegm(&tm);

	assert_int_equal(rtc_in(6), tm.tm_wday + 1);
	return t;
}

static void
test_starts_with_host_time(void **state)
{
	time_t before = time(NULL), t;

	teardown(state);
	setup(state);
	t = rtc_read_unix();
	assert_in_range(t, before, time(NULL));
}

static void
test_local_time(void **state)
{
	const struct mc146818_params params = { .local_time = true };
	time_t before, t;

	mc146818_destroy(f.rtc);
	setenv("TZ", "TST-05:30", 1);
	tzset();
	before = time(NULL);
	assert_int_equal(mc146818_create(f.t.vm, &params, &f.rtc), 0);
	t = rtc_read_unix() - (5 * 3600 + 30 * 60);
	assert_in_range(t, before, time(NULL));
	unsetenv("TZ");
	tzset();
}

static void
test_runs(void **state)
{
	rtc_set(2024, 2, 28, 23, 59, 59);
	assert_time(0x20240228, 0x235959);
	chip_step(&f.t, 499 * MS);
	assert_time(0x20240228, 0x235959);
	chip_step(&f.t, 2 * MS); /* half a second after the divider was released */
	assert_time(0x20240229, 0x000000);
	chip_step(&f.t, 86400 * SECOND);
	assert_time(0x20240301, 0x000000);
	chip_step(&f.t, 86400 * SECOND / 2);
	assert_time(0x20240301, 0x120000);
}

static void
test_calendar(void **state)
{
	static const struct {
		int y, m, d;
		unsigned next;
	} days[] = {
		{ 1999, 12, 31, 0x20000101 },
		{ 2000, 2, 29, 0x20000301 },
		{ 2100, 2, 28, 0x21000301 },
		{ 2023, 2, 28, 0x20230301 },
		{ 1970, 1, 1, 0x19700102 },
		{ 2023, 4, 30, 0x20230501 },
		{ 9999, 12, 31, 0x00000101 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(days); i++) {
		rtc_set(days[i].y, days[i].m, days[i].d, 12, 0, 0);
		chip_step(&f.t, 43200 * SECOND);
		assert_time(days[i].next, 0x000000);
	}
}

/* The weekday runs on from what the guest set, right or wrong. */
static void
test_weekday(void **state)
{
	rtc_set(2024, 5, 1, 12, 0, 0);
	rtc_out(6, 7);
	assert_int_equal(rtc_in(6), 7);
	chip_step(&f.t, 86400 * SECOND);
	assert_int_equal(rtc_in(6), 1);
	chip_step(&f.t, 86400 * SECOND);
	assert_int_equal(rtc_in(6), 2);
}

static void
test_binary_and_12_hours(void **state)
{
	rtc_set(2024, 12, 31, 23, 59, 58);
	rtc_out(B, B_24H | B_DM);
	assert_int_equal(rtc_in(4), 23);
	assert_int_equal(rtc_in(2), 59);
	assert_int_equal(rtc_in(9), 24);
	assert_int_equal(rtc_in(0x32), 20);
	rtc_out(B, B_DM);
	assert_int_equal(rtc_in(4), 0x80 | 11);
	rtc_out(B, 0);
	assert_int_equal(rtc_in(4), 0x80 | 0x11);
	chip_step(&f.t, 2 * SECOND);
	assert_int_equal(rtc_in(4), 0x12); /* 12 at night */
	chip_step(&f.t, 12 * 3600 * SECOND);
	assert_int_equal(rtc_in(4), 0x92); /* and at noon */
	rtc_out(4, 0x83);
	rtc_out(B, B_24H);
	assert_int_equal(rtc_in(4), 0x15);
	rtc_out(B, 0);
	rtc_out(4, 0x12);
	rtc_out(B, B_24H);
	assert_int_equal(rtc_in(4), 0x00);
}

static void
test_set_holds(void **state)
{
	rtc_set(2024, 1, 1, 0, 0, 0);
	rtc_out(B, B_SET | B_UIE | B_24H);
	assert_int_equal(rtc_in(B), B_SET | B_24H); /* SET clears UIE */
	chip_step(&f.t, 10 * SECOND);
	assert_time(0x20240101, 0x000000);
	assert_int_equal(rtc_in(C) & C_UF, 0);
	rtc_out(2, 0x99); /* nonsense is kept as it is until the clock runs */
	assert_int_equal(rtc_in(2), 0x99);
	rtc_out(2, 0x05);
	rtc_out(B, B_24H);
	chip_step(&f.t, SECOND);
	assert_time(0x20240101, 0x000501);
}

/* Writing without SET: the second goes on from where it is. */
static void
test_write_while_running(void **state)
{
	rtc_set(2024, 1, 1, 0, 0, 0);
	chip_step(&f.t, 400 * MS);
	rtc_out(2, 0x30);
	assert_time(0x20240101, 0x003000);
	chip_step(&f.t, 101 * MS);
	assert_time(0x20240101, 0x003001);
}

static void
test_update_cycle(void **state)
{
	rtc_set(2024, 1, 1, 0, 0, 0);
	assert_int_equal(rtc_in(A), 0x26);
	chip_step(&f.t, 497 * MS);
	assert_int_equal(rtc_in(A), 0x26);
	chip_step(&f.t, 1 * MS);
	assert_int_equal(rtc_in(A), 0x26 | A_UIP);
	rtc_out(B, B_SET | B_24H);
	assert_int_equal(rtc_in(A), 0x26);
	rtc_out(B, B_24H);
	assert_int_equal(rtc_in(A), 0x26 | A_UIP);
	assert_int_equal(rtc_in(C) & C_UF, 0);
	chip_step(&f.t, 2 * MS);
	assert_int_equal(rtc_in(A), 0x26);
	assert_int_equal(rtc_in(C) & C_UF, C_UF);
	assert_int_equal(rtc_in(C) & C_UF, 0);
}

static void
test_update_interrupt(void **state)
{
	rtc_set(2024, 1, 1, 0, 0, 0);
	rtc_out(B, B_UIE | B_24H);
	for (int i = 1; i <= 3; i++) {
		chip_step(&f.t, SECOND);
		assert_true(f.t.level[8]);
		assert_int_equal(f.t.edges[8], i);
		assert_int_equal(rtc_in(C) & (C_IRQF | C_UF), C_IRQF | C_UF);
		assert_false(f.t.level[8]);
	}
	/* An unread flag does not interrupt again. */
	chip_step(&f.t, 10 * SECOND);
	assert_int_equal(f.t.edges[8], 4);
	rtc_out(B, B_24H);
	assert_false(f.t.level[8]);
}

static void
test_alarm(void **state)
{
	rtc_set(2024, 1, 1, 6, 0, 0);
	rtc_out(5, 0x07);
	rtc_out(3, 0x30);
	rtc_out(1, 0x00);
	rtc_out(B, B_AIE | B_24H);
	chip_step(&f.t, 5399 * SECOND);
	assert_false(f.t.level[8]);
	chip_step(&f.t, 1 * SECOND);
	assert_true(f.t.level[8]);
	assert_int_equal(rtc_in(C) & (C_IRQF | C_AF), C_IRQF | C_AF);
	/* Once a day. */
	chip_step(&f.t, 86399 * SECOND);
	assert_false(f.t.level[8]);
	chip_step(&f.t, 1 * SECOND);
	assert_true(f.t.level[8]);
}

static void
test_alarm_any(void **state)
{
	rtc_set(2024, 1, 1, 6, 0, 0);
	rtc_out(5, 0xff);
	rtc_out(3, 0xc0);
	rtc_out(1, 0x10);
	rtc_out(B, B_AIE | B_24H);
	chip_step(&f.t, 10 * SECOND);
	assert_int_equal(f.t.edges[8], 1);
	rtc_in(C);
	for (int i = 0; i < 5; i++) {
		chip_step(&f.t, 60 * SECOND);
		assert_int_equal(f.t.edges[8], 2 + i);
		rtc_in(C);
	}
}

/* Seen late by a guest that polls; and an alarm at a time that never comes. */
static void
test_alarm_polled(void **state)
{
	rtc_set(2024, 1, 1, 6, 0, 0);
	rtc_out(5, 0x06);
	rtc_out(3, 0x01);
	rtc_out(1, 0x00);
	chip_step(&f.t, 59 * SECOND);
	assert_int_equal(rtc_in(C) & C_AF, 0);
	chip_step(&f.t, 3600 * SECOND);
	assert_int_equal(rtc_in(C) & C_AF, C_AF);
	assert_false(f.t.level[8]);
	rtc_out(3, 0x61);
	rtc_out(B, B_AIE | B_24H);
	chip_step(&f.t, 86400 * SECOND);
	assert_false(f.t.level[8]);
	assert_int_equal(rtc_in(C) & C_AF, 0);
}

static void
test_alarm_12_hours(void **state)
{
	rtc_set(2024, 1, 1, 11, 59, 50);
	rtc_out(B, B_AIE);
	rtc_out(5, 0x92);
	rtc_out(3, 0x00);
	rtc_out(1, 0x00);
	chip_step(&f.t, 10 * SECOND);
	assert_true(f.t.level[8]);
}

static void
test_periodic(void **state)
{
	/* Rate select and what it means in 32768ths of a second. */
	static const unsigned ticks[16] = { 0, 128, 256, 4, 8, 16, 32, 64, 128, 256, 512, 1024,
		2048, 4096, 8192, 16384 };

	rtc_set(2024, 1, 1, 0, 0, 0);
	for (unsigned rs = 1; rs < 16; rs++) {
		int count = f.t.edges[8];

		rtc_out(A, (uint8_t)(0x20 | rs));
		rtc_in(C);
		rtc_out(B, B_PIE | B_24H);
		for (unsigned i = 0; i < 32768 / ticks[rs]; i++) {
			chip_step(&f.t, ticks[rs] * SECOND / 32768 + 1);
			assert_int_equal(rtc_in(C) & (C_IRQF | C_PF), C_IRQF | C_PF);
		}
		assert_int_equal(f.t.edges[8] - count, 32768 / ticks[rs]);
		rtc_out(B, B_24H);
	}
	rtc_out(A, 0x20);
	rtc_in(C);
	rtc_out(B, B_PIE | B_24H);
	chip_step(&f.t, 10 * SECOND);
	assert_false(f.t.level[8]);
}

static void
test_periodic_polled(void **state)
{
	rtc_set(2024, 1, 1, 0, 0, 0);
	rtc_out(A, 0x2f);
	rtc_in(C);
	chip_step(&f.t, 499 * MS);
	assert_int_equal(rtc_in(C), 0);
	chip_step(&f.t, 2 * MS);
	assert_int_equal(rtc_in(C) & (C_IRQF | C_PF), C_PF);
}

/* A guest that never reads C costs one timer, not 8192 a second. */
static void
test_periodic_unread(void **state)
{
	rtc_set(2024, 1, 1, 0, 0, 0);
	rtc_out(A, 0x23);
	rtc_out(B, B_PIE | B_24H);
	assert_true(vm_clock_step(vm_loop(f.t.vm), 100 * SECOND) <= 2);
	assert_int_equal(f.t.edges[8], 1);
}

static void
test_hpet_takes_line(void **state)
{
	rtc_set(2024, 1, 1, 0, 0, 0);
	rtc_out(B, B_UIE | B_24H);
	mc146818_hpet_legacy(f.rtc, true);
	chip_step(&f.t, SECOND);
	assert_false(f.t.level[8]);
	mc146818_hpet_legacy(f.rtc, false);
	assert_true(f.t.level[8]);
	mc146818_hpet_legacy(f.rtc, true);
	assert_false(f.t.level[8]);
}

static void
test_memory(void **state)
{
	rtc_out(0x40, 0x5a);
	rtc_out(0x0f, 0x0a);
	rtc_out(0xc0, 0xa5); /* bit 7 masks NMI and is no part of the index */
	assert_int_equal(rtc_in(0x40), 0xa5);
	assert_int_equal(rtc_in(0x8f), 0x0a);
	outb(&f.t, 0x72, 0x10);
	outb(&f.t, 0x73, 0x99);
	assert_int_equal(inb(&f.t, 0x73), 0x99);
	assert_int_equal(inb(&f.t, 0x72), 0x10);
	assert_int_not_equal(rtc_in(0x10), 0x99);
	mc146818_nvram_set(f.rtc, 0x90, 0x98);
	assert_int_equal(inb(&f.t, 0x73), 0x98);
	/* C and D are read-only. */
	rtc_out(D, 0);
	assert_int_equal(rtc_in(D), 0x80);
}

static void
test_memory_sizes(void **state)
{
	unsigned sum = 0;

	assert_int_equal(rtc_in(0x15) | rtc_in(0x16) << 8, 640);
	assert_int_equal(rtc_in(0x17) | rtc_in(0x18) << 8, 63 * 1024);
	assert_int_equal(rtc_in(0x30) | rtc_in(0x31) << 8, 63 * 1024);
	assert_int_equal(rtc_in(0x34) | rtc_in(0x35) << 8, 48 * 16);
	assert_int_equal(rtc_in(0x5b) | rtc_in(0x5c) << 8 | rtc_in(0x5d) << 16, 0);
	for (uint8_t i = 0x10; i <= 0x2d; i++)
		sum += rtc_in(i);
	assert_int_equal(rtc_in(0x2e) << 8 | rtc_in(0x2f), sum);
}

static void
test_memory_sizes_large(void **state)
{
	const struct mc146818_params params = { .local_time = false };

	teardown(state);
	chip_test_init(&f.t, GIB(5));
	assert_int_equal(mc146818_create(f.t.vm, &params, &f.rtc), 0);
	assert_int_equal(rtc_in(0x17) | rtc_in(0x18) << 8, 0xffff);
	assert_int_equal(rtc_in(0x34) | rtc_in(0x35) << 8, (3072 - 16) * 16);
	assert_int_equal(rtc_in(0x5b) | rtc_in(0x5c) << 8 | rtc_in(0x5d) << 16, 2048 * 16);
}

static void
test_state(void **state)
{
	struct vm_state *saved;

	rtc_set(2024, 2, 29, 1, 2, 3);
	rtc_out(0x40, 0x77);
	rtc_out(B, B_UIE | B_24H);
	saved = chip_save(&f.t);
	rtc_set(1999, 1, 1, 0, 0, 0);
	rtc_out(0x40, 0);
	chip_step(&f.t, 60 * SECOND);
	vm_clock_set(vm_loop(f.t.vm), MOCK_CLOCK_START);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	assert_time(0x20240229, 0x010203);
	assert_int_equal(rtc_in(0x40), 0x77);
	chip_step(&f.t, SECOND);
	assert_true(f.t.level[8]);
	assert_time(0x20240229, 0x010204);
	vm_state_destroy(saved);
}

static uint64_t mutate_seed = 88172645463325252ull;

static void
mutate_one(uint8_t *data, size_t len)
{
	data[chip_random(&mutate_seed) % len] = (uint8_t)chip_random(&mutate_seed);
}

static void
test_hostile(void **state)
{
	struct vm_state *saved = chip_save(&f.t);
	uint64_t seed = 1234567;

	for (int i = 0; i < 100000; i++) {
		uint64_t r = chip_random(&seed);
		uint16_t port = (uint16_t)(0x70 + (r >> 16 & 3));

		/* Mostly the clock's own bytes. */
		if ((r & 3) == 0)
			chip_in(&f.t, port, 1 << (r >> 8 & 1));
		else
			chip_out(&f.t, port, 1, (uint32_t)(r >> 32) & (port & 1 ? 0xff : 0x0f));
		if (i % 16 == 0)
			chip_step(&f.t, r % (3 * MS));
		if (i % 1024 == 0)
			(void)chip_load(&f.t, saved, mutate_one);
	}
	vm_clock_set(vm_loop(f.t.vm), MOCK_CLOCK_START);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	vm_state_destroy(saved);
	rtc_set(2024, 1, 1, 0, 0, 0);
	assert_time(0x20240101, 0x000000);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_power_on),
		TEST(test_starts_with_host_time),
		TEST(test_local_time),
		TEST(test_runs),
		TEST(test_calendar),
		TEST(test_weekday),
		TEST(test_binary_and_12_hours),
		TEST(test_set_holds),
		TEST(test_write_while_running),
		TEST(test_update_cycle),
		TEST(test_update_interrupt),
		TEST(test_alarm),
		TEST(test_alarm_any),
		TEST(test_alarm_polled),
		TEST(test_alarm_12_hours),
		TEST(test_periodic),
		TEST(test_periodic_polled),
		TEST(test_periodic_unread),
		TEST(test_hpet_takes_line),
		TEST(test_memory),
		TEST(test_memory_sizes),
		TEST(test_memory_sizes_large),
		TEST(test_state),
		TEST(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
