/*
 * 8254: each mode's count, output and interrupt by the cycle, latches, BCD, gate 2 and port 61h,
 * late and hostile periods.
 */
#include "chip_test.h"

#include "chipset/i8254.h"
#include "chipset/periodic.h"

#define CONTROL 0x43
#define COUNTER(i) (0x40 + (i))
#define PORT_B 0x61
#define WORD 0x30
#define CW(counter, access, mode) ((counter) << 6 | (access) | (mode) << 1)
#define READ_BACK_STATUS(i) (0xe0 | 2 << (i))
#define READ_BACK_COUNT(i) (0xd0 | 2 << (i))
#define OUT_HIGH 0x80
#define NULL_COUNT 0x40

#define SECOND 1000000000ull

struct fixture {
	struct chip_test t;
	struct i8254 *pit;
	uint64_t cycle; /* where the clock stands */
};

static struct fixture f;

/* Moves the clock to the first nanosecond of a cycle. */
static void
go_to(uint64_t cycle)
{
	uint64_t ns = (cycle * SECOND + I8254_HZ - 1) / I8254_HZ;

	assert_true(cycle >= f.cycle);
	f.cycle = cycle;
	chip_step(&f.t, ns - vm_clock_ns(vm_loop(f.t.vm)));
}

static void
cycles(uint64_t n)
{
	go_to(f.cycle + n);
}

static int
setup(void **state)
{
	f = (struct fixture){ 0 };
	chip_test_init(&f.t, MIB(1));
	assert_int_equal(i8254_create(f.t.vm, &f.pit), 0);
	f.cycle = MOCK_CLOCK_START * I8254_HZ / SECOND;
	cycles(1);
	f.t.edges[0] = 0;
	return 0;
}

static int
teardown(void **state)
{
	i8254_destroy(f.pit);
	vm_destroy(f.t.vm);
	return 0;
}

static void
program(int i, int mode, uint16_t count)
{
	outb(&f.t, CONTROL, (uint8_t)CW(i, WORD, mode));
	outb(&f.t, (uint16_t)COUNTER(i), (uint8_t)count);
	outb(&f.t, (uint16_t)COUNTER(i), (uint8_t)(count >> 8));
}

static uint16_t
count_of(int i)
{
	uint8_t low;

	outb(&f.t, CONTROL, (uint8_t)(i << 6));
	low = inb(&f.t, (uint16_t)COUNTER(i));
	return (uint16_t)(inb(&f.t, (uint16_t)COUNTER(i)) << 8 | low);
}

static uint8_t
status_of(int i)
{
	outb(&f.t, CONTROL, (uint8_t)READ_BACK_STATUS(i));
	return inb(&f.t, (uint16_t)COUNTER(i));
}

static bool
out_of(int i)
{
	return status_of(i) & OUT_HIGH;
}

static void
gate2(bool high)
{
	outb(&f.t, PORT_B, high);
}

/* Checks OUT in each of the cycles to come against a string of H and L, and the count against
 * counts (if not NULL), starting with the current cycle. */
static void
expect_wave(int i, const char *wave, const uint16_t *counts)
{
	for (size_t n = 0; wave[n] != '\0'; n++) {
		if (n != 0)
			cycles(1);
		if (out_of(i) != (wave[n] == 'H'))
			fail_msg("cycle %zu of %s: OUT is %s", n, wave, out_of(i) ? "high" : "low");
		if (counts != NULL && count_of(i) != counts[n])
			fail_msg("cycle %zu of %s: count is %u, not %u", n, wave, count_of(i),
			    counts[n]);
	}
}

/* The waves are those of the data sheet's figures 15 to 20; the first cycle is that of the
 * write. */

static void
test_mode0(void **state)
{
	/* N + 1 cycles after the write OUT rises and stays; counting goes on. */
	program(0, 0, 4);
	assert_int_equal(status_of(0), NULL_COUNT | WORD | 0 << 1);
	expect_wave(0, "LLLLLHHH", (const uint16_t[]){ 4, 4, 3, 2, 1, 0, 0xffff, 0xfffe });
	assert_int_equal(f.t.edges[0], 1);
	cycles(200000);
	assert_int_equal(f.t.edges[0], 1);
	/* A new count starts over, with OUT low. */
	outb(&f.t, 0x40, 2);
	assert_false(out_of(0)); /* after the first byte, already */
	cycles(10);
	assert_false(out_of(0));
	outb(&f.t, 0x40, 0);
	expect_wave(0, "LLLHH", (const uint16_t[]){ 2, 2, 1, 0, 0xffff });
	assert_int_equal(f.t.edges[0], 2);
}

static void
test_mode0_gate(void **state)
{
	gate2(true);
	program(2, 0, 4);
	expect_wave(2, "LLL", (const uint16_t[]){ 4, 4, 3 });
	gate2(false);
	expect_wave(2, "LLLL", (const uint16_t[]){ 3, 3, 3, 3 });
	gate2(true);
	expect_wave(2, "LLLHH", (const uint16_t[]){ 3, 2, 1, 0, 0xffff });
	/* A count written while the gate is low is loaded, but not counted. */
	gate2(false);
	program(2, 0, 3);
	cycles(100);
	assert_false(out_of(2));
	assert_int_equal(count_of(2), 3);
	gate2(true);
	expect_wave(2, "LLLHH", (const uint16_t[]){ 3, 2, 1, 0, 0xffff });
	assert_int_equal(f.t.edges[0], 0);
}

static void
test_mode1(void **state)
{
	gate2(false);
	program(2, 1, 3);
	assert_true(out_of(2));
	cycles(100);
	assert_int_equal(status_of(2), OUT_HIGH | NULL_COUNT | WORD | 1 << 1);
	gate2(true);
	cycles(1);
	expect_wave(2, "LLLHH", (const uint16_t[]){ 3, 2, 1, 0, 0xffff });
	/* The gate's level does not matter, its edge triggers again. */
	gate2(false);
	gate2(true);
	cycles(1);
	expect_wave(2, "LL", (const uint16_t[]){ 3, 2 });
	gate2(false);
	gate2(true);
	cycles(1);
	expect_wave(2, "LLLH", (const uint16_t[]){ 3, 2, 1, 0 });
	/* A new count waits for the next trigger. */
	gate2(false);
	gate2(true);
	cycles(1);
	outb(&f.t, 0x42, 5);
	outb(&f.t, 0x42, 0);
	expect_wave(2, "LLLH", (const uint16_t[]){ 3, 2, 1, 0 });
	gate2(false);
	gate2(true);
	cycles(1);
	expect_wave(2, "LLLLLH", (const uint16_t[]){ 5, 4, 3, 2, 1, 0 });
	/* Counter 0's gate never rises: never triggered, and that is no division by zero either. */
	program(0, 1, 3);
	cycles(100000);
	assert_true(out_of(0));
	assert_int_equal(count_of(0), 0);
}

static void
test_mode2(void **state)
{
	program(0, 2, 3);
	assert_true(out_of(0));
	cycles(1);
	expect_wave(0, "HHLHHLHHL", (const uint16_t[]){ 3, 2, 1, 3, 2, 1, 3, 2, 1 });
	/* A new count begins with the next period. */
	cycles(2);
	outb(&f.t, 0x40, 5);
	outb(&f.t, 0x40, 0);
	assert_true(status_of(0) & NULL_COUNT);
	expect_wave(0, "HLHHHHLHHHHL", (const uint16_t[]){ 2, 1, 5, 4, 3, 2, 1, 5, 4, 3, 2, 1 });
	assert_false(status_of(0) & NULL_COUNT);
}

static void
test_mode2_gate(void **state)
{
	gate2(true);
	program(2, 2, 3);
	cycles(1);
	expect_wave(2, "HHL", (const uint16_t[]){ 3, 2, 1 });
	gate2(false); /* OUT goes high at once */
	expect_wave(2, "HHH", NULL);
	gate2(true); /* and the count starts over */
	cycles(1);
	expect_wave(2, "HHLHHL", (const uint16_t[]){ 3, 2, 1, 3, 2, 1 });
	/* A count written while the gate is low begins with the gate. */
	gate2(false);
	outb(&f.t, 0x42, 4);
	outb(&f.t, 0x42, 0);
	cycles(100);
	gate2(true);
	cycles(1);
	expect_wave(2, "HHHLH", (const uint16_t[]){ 4, 3, 2, 1, 4 });
}

static void
test_mode3(void **state)
{
	program(0, 3, 4);
	cycles(1);
	expect_wave(0, "HHLLHHLL", (const uint16_t[]){ 4, 2, 4, 2, 4, 2, 4, 2 });
	/* An odd count: one cycle more high than low, counts even. */
	program(0, 3, 5);
	cycles(1);
	expect_wave(0, "HHHLLHHHLL", (const uint16_t[]){ 4, 2, 0, 4, 2, 4, 2, 0, 4, 2 });
	/* Mode 7 is mode 3, mode 6 mode 2. */
	program(0, 7, 4);
	assert_int_equal(status_of(0) & 0x0e, 3 << 1);
	program(0, 6, 4);
	assert_int_equal(status_of(0) & 0x0e, 2 << 1);
}

static void
test_mode3_new_count(void **state)
{
	/* Written in the high half: the low half is the first of the new length. */
	program(0, 3, 8);
	cycles(2);
	outb(&f.t, 0x40, 4);
	outb(&f.t, 0x40, 0);
	expect_wave(0, "HHHLLHHLLHH", (const uint16_t[]){ 6, 4, 2, 4, 2, 4, 2, 4, 2, 4, 2 });
	/* Written in the low half. */
	program(0, 3, 8);
	cycles(6);
	outb(&f.t, 0x40, 4);
	outb(&f.t, 0x40, 0);
	expect_wave(0, "LLLHHLLHH", (const uint16_t[]){ 6, 4, 2, 4, 2, 4, 2, 4, 2 });
}

static void
test_mode3_gate(void **state)
{
	gate2(true);
	program(2, 3, 4);
	cycles(3);
	assert_false(out_of(2));
	gate2(false);
	assert_true(out_of(2));
	cycles(10);
	gate2(true);
	cycles(1);
	expect_wave(2, "HHLLHH", NULL);
}

static void
test_mode4(void **state)
{
	program(0, 4, 3);
	expect_wave(0, "HHHHLHHH", (const uint16_t[]){ 3, 3, 2, 1, 0, 0xffff, 0xfffe, 0xfffd });
	/* One strobe: its end is the rising edge. */
	assert_int_equal(f.t.edges[0], 1);
	cycles(100000);
	assert_int_equal(f.t.edges[0], 1);
	/* A new count is loaded in the next cycle. */
	outb(&f.t, 0x40, 2);
	outb(&f.t, 0x40, 0);
	expect_wave(0, "HHHLH", (const uint16_t[]){ 2, 2, 1, 0, 0xffff });
	/* A low gate stops it. */
	gate2(true);
	program(2, 4, 3);
	cycles(2);
	gate2(false);
	cycles(100);
	assert_int_equal(count_of(2), 2);
	gate2(true);
	expect_wave(2, "HHLH", (const uint16_t[]){ 2, 1, 0, 0xffff });
}

static void
test_mode5(void **state)
{
	gate2(false);
	program(2, 5, 3);
	cycles(100);
	assert_true(out_of(2));
	gate2(true);
	cycles(1);
	expect_wave(2, "HHHLHH", (const uint16_t[]){ 3, 2, 1, 0, 0xffff, 0xfffe });
	gate2(false);
	gate2(true);
	cycles(2);
	gate2(false);
	gate2(true);
	cycles(1);
	expect_wave(2, "HHHLH", (const uint16_t[]){ 3, 2, 1, 0, 0xffff });
}

static void
test_access(void **state)
{
	/* Low byte only: the high one is 0. */
	outb(&f.t, CONTROL, CW(0, 0x10, 2));
	outb(&f.t, 0x40, 0x80);
	cycles(1);
	assert_int_equal(inb(&f.t, 0x40), 0x80);
	cycles(1);
	assert_int_equal(inb(&f.t, 0x40), 0x7f);
	/* High byte only. */
	outb(&f.t, CONTROL, CW(0, 0x20, 2));
	outb(&f.t, 0x40, 0x12);
	cycles(1);
	assert_int_equal(inb(&f.t, 0x40), 0x12);
	cycles(1);
	assert_int_equal(inb(&f.t, 0x40), 0x11);
	/* Both in turn, not latched: each is of its own time. */
	program(0, 2, 0x1200);
	cycles(1);
	assert_int_equal(inb(&f.t, 0x40), 0x00);
	cycles(1);
	assert_int_equal(inb(&f.t, 0x40), 0x11);
	assert_int_equal(inb(&f.t, 0x40), 0xff);
	/* The control word starts anew with the low byte. */
	outb(&f.t, CONTROL, CW(0, WORD, 2));
	outb(&f.t, 0x40, 0x34);
	outb(&f.t, CONTROL, CW(0, WORD, 2));
	outb(&f.t, 0x40, 0x78);
	outb(&f.t, 0x40, 0x56);
	cycles(1);
	assert_int_equal(count_of(0), 0x5678);
	/* The control word cannot be read. */
	assert_int_equal(inb(&f.t, CONTROL), 0xff);
}

static void
test_latch(void **state)
{
	program(0, 2, 0x1000);
	cycles(1);
	outb(&f.t, CONTROL, 0x00);
	cycles(0x123);
	outb(&f.t, CONTROL, 0x00); /* ignored: the first is not read yet */
	assert_int_equal(inb(&f.t, 0x40), 0x00);
	cycles(1);
	assert_int_equal(inb(&f.t, 0x40), 0x10);
	assert_int_equal(inb(&f.t, 0x40), (0x1000 - 0x124) & 0xff); /* live again */
	outb(&f.t, CONTROL, CW(0, WORD, 2));
	outb(&f.t, CONTROL, 0x00);
	outb(&f.t, CONTROL, CW(0, WORD, 2)); /* a control word forgets it */
	outb(&f.t, 0x40, 0x55);
	outb(&f.t, 0x40, 0x55);
	cycles(1);
	assert_int_equal(inb(&f.t, 0x40), 0x55);
}

static void
test_read_back(void **state)
{
	program(0, 2, 0x1000);
	program(1, 3, 0x2000);
	program(2, 0, 0x3000);
	cycles(1);
	/* Count and status of 0 and 1; status is read first. */
	outb(&f.t, CONTROL, 0xc6);
	cycles(100);
	assert_int_equal(inb(&f.t, 0x40), OUT_HIGH | WORD | 2 << 1);
	assert_int_equal(inb(&f.t, 0x40), 0x00);
	assert_int_equal(inb(&f.t, 0x40), 0x10);
	assert_int_equal(inb(&f.t, 0x41), OUT_HIGH | WORD | 3 << 1);
	assert_int_equal(inb(&f.t, 0x41), 0x00);
	assert_int_equal(inb(&f.t, 0x41), 0x20);
	assert_int_equal(inb(&f.t, 0x40), (0x1000 - 100) & 0xff);
	assert_int_equal(inb(&f.t, 0x40), (0x1000 - 100) >> 8);
	/* 2 was not asked for; its gate is low. */
	assert_int_equal(inb(&f.t, 0x42), 0x00);
	assert_int_equal(inb(&f.t, 0x42), 0x30);
	/* A second status latch is ignored until the first is read. */
	outb(&f.t, CONTROL, READ_BACK_STATUS(0));
	outb(&f.t, CONTROL, CW(1, WORD, 0));
	outb(&f.t, CONTROL, READ_BACK_STATUS(0));
	assert_int_equal(inb(&f.t, 0x40), OUT_HIGH | WORD | 2 << 1);
	/* Null count: from the control word until the count is loaded. */
	assert_int_equal(status_of(1), NULL_COUNT | WORD);
	outb(&f.t, 0x41, 1);
	outb(&f.t, 0x41, 1);
	assert_int_equal(status_of(1), NULL_COUNT | WORD);
	cycles(1);
	assert_int_equal(status_of(1), WORD);
	outb(&f.t, CONTROL, READ_BACK_COUNT(1));
	assert_int_equal(inb(&f.t, 0x41), 1);
}

static void
test_bcd(void **state)
{
	outb(&f.t, CONTROL, CW(0, WORD, 2) | 1);
	outb(&f.t, 0x40, 0x00);
	outb(&f.t, 0x40, 0x10); /* 1000 */
	cycles(2);
	assert_int_equal(count_of(0), 0x0999);
	cycles(999 - 123);
	assert_int_equal(count_of(0), 0x0123);
	cycles(123);
	assert_int_equal(count_of(0), 0x1000);
	/* 0 means 10000, and counting below 0 goes on at 9999. */
	outb(&f.t, CONTROL, CW(0, WORD, 0) | 1);
	outb(&f.t, 0x40, 0x00);
	outb(&f.t, 0x40, 0x00);
	cycles(1);
	assert_int_equal(count_of(0), 0x0000);
	cycles(1);
	assert_int_equal(count_of(0), 0x9999);
	cycles(9998);
	assert_false(out_of(0));
	cycles(1);
	assert_true(out_of(0));
	cycles(1);
	assert_int_equal(count_of(0), 0x9999);
	/* Digits that are none. */
	outb(&f.t, CONTROL, CW(0, WORD, 2) | 1);
	outb(&f.t, 0x40, 0xff);
	outb(&f.t, 0x40, 0xff);
	cycles(20000);
	(void)count_of(0);
}

static void
test_full_count(void **state)
{
	program(0, 2, 0);
	cycles(1);
	assert_int_equal(count_of(0), 0);
	cycles(1);
	assert_int_equal(count_of(0), 0xffff);
	cycles(65534);
	assert_int_equal(count_of(0), 1);
	assert_false(out_of(0));
	assert_int_equal(f.t.edges[0], 0);
	cycles(1);
	assert_int_equal(f.t.edges[0], 1);
}

static void
test_port_b(void **state)
{
	bool toggled = false;

	outb(&f.t, PORT_B, 0xff);
	assert_int_equal(inb(&f.t, PORT_B) & 0xcf, 0x0f);
	outb(&f.t, PORT_B, 0x02);
	assert_int_equal(inb(&f.t, PORT_B) & 0xcf, 0x02);
	/* OUT 2 is bit 5. */
	program(2, 1, 10);
	assert_true(inb(&f.t, PORT_B) & 0x20);
	program(2, 0, 10);
	assert_false(inb(&f.t, PORT_B) & 0x20);
	outb(&f.t, PORT_B, 0x01);
	cycles(10);
	assert_true(inb(&f.t, PORT_B) & 0x20);
	/* Refresh toggles every 15 us. */
	for (int i = 0; i < 100; i++) {
		bool before = inb(&f.t, PORT_B) & 0x10;

		cycles(18);
		toggled = ((inb(&f.t, PORT_B) & 0x10) != 0) != before;
		assert_true(toggled);
	}
}

/* A guest that times counter 2 against another clock must get the frequency, however long it
 * takes. */
static void
test_precision(void **state)
{
	uint64_t start;

	gate2(true);
	program(2, 0, 0xffff);
	cycles(1);
	start = vm_clock_ns(vm_loop(f.t.vm));
	for (int i = 0; i < 50; i++) {
		uint64_t ns, gone;

		chip_step(&f.t, 1000003);
		ns = vm_clock_ns(vm_loop(f.t.vm)) - start;
		gone = ns * I8254_HZ / SECOND;
		assert_in_range(0xffff - count_of(2), gone, gone + 1);
	}
	/* OUT rises in the very cycle. */
	go_to(start * I8254_HZ / SECOND + 0xffff - 1);
	assert_false(inb(&f.t, PORT_B) & 0x20);
	cycles(2);
	assert_true(inb(&f.t, PORT_B) & 0x20);
}

static void
test_interrupt_rate(void **state)
{
	/* 1000 Hz as Linux programs it, for ten seconds: no tick more or less. */
	program(0, 2, 1193);
	for (int i = 0; i < 1000; i++)
		chip_step(&f.t, 10000000);
	assert_int_equal(f.t.edges[0], 10 * I8254_HZ / 1193);
	/* And a square wave. */
	f.t.edges[0] = 0;
	program(0, 3, 11932);
	chip_step(&f.t, 10 * SECOND);
	assert_in_range(f.t.edges[0], 999, 1000);
}

/* A host that is late makes up for the ticks one by one; too late, and the rest is lost. */
static void
test_late(void **state)
{
	struct vm_loop *loop = vm_loop(f.t.vm);

	program(0, 2, 11932); /* 100 Hz */
	vm_clock_set(loop, vm_clock_ns(loop) + 55000000);
	vm_clock_step(loop, 0);
	assert_int_equal(f.t.edges[0], 1);
	chip_step(&f.t, 5001000);
	assert_int_equal(f.t.edges[0], 2); /* half a period later, the second */
	chip_step(&f.t, 145000000);
	assert_int_equal(f.t.edges[0], 20); /* on time again */
	vm_clock_set(loop, vm_clock_ns(loop) + 10 * SECOND);
	chip_step(&f.t, 10 * SECOND);
	assert_in_range(f.t.edges[0], 20 + 1000 + 95, 20 + 1000 + 105);
}

static void
test_hpet_takes_over(void **state)
{
	program(0, 2, 11932);
	chip_step(&f.t, SECOND);
	assert_int_equal(f.t.edges[0], 99);
	i8254_set_irq_enabled(f.pit, false);
	chip_step(&f.t, SECOND);
	assert_int_equal(f.t.edges[0], 99);
	program(0, 2, 11932);
	chip_step(&f.t, SECOND);
	assert_int_equal(f.t.edges[0], 99);
	i8254_set_irq_enabled(f.pit, true);
	chip_step(&f.t, SECOND);
	assert_in_range(f.t.edges[0], 99 + 99, 99 + 100);
}

/* Periods of a cycle must not flood the host: the loop gets no more than one callback per gap. */
static void
test_extreme_periods(void **state)
{
	static const uint8_t modes[] = { 2, 3 };

	for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
		for (uint16_t count = 1; count < 4; count++) {
			program(0, modes[i], count);
			f.t.edges[0] = 0;
			assert_in_range(vm_clock_step(vm_loop(f.t.vm), 10000000), 1,
			    10000000 / PERIODIC_GAP_NS + 1);
			assert_true(f.t.edges[0] > 100);
			(void)count_of(0);
			(void)out_of(0);
		}
	}
}

static void
test_hostile(void **state)
{
	uint64_t seed = 8254;

	for (int i = 0; i < 200000; i++) {
		uint64_t r = chip_random(&seed);
		uint16_t port = (uint16_t)(r & 7) < 4 ? (uint16_t)(0x40 + (r & 3)) : PORT_B;

		switch (r >> 8 & 7) {
		case 0: chip_step(&f.t, r >> 16 & 0xffff); break;
		case 1:
		case 2: (void)inb(&f.t, port); break;
		default: outb(&f.t, port, (uint8_t)(r >> 16)); break;
		}
	}
}

static void
spoil_mode(uint8_t *data, size_t len)
{
	/* After the magic and the section's header: counter 0's mode. */
	data[8 + 1 + 5 + 12] = 6;
}

static void
test_state(void **state)
{
	struct vm_state *saved;
	int edges;

	program(0, 2, 1193);
	gate2(true);
	program(2, 3, 1000);
	outb(&f.t, 0x42, 0x55); /* half a count */
	program(1, 0, 0x1234);
	cycles(1);
	outb(&f.t, CONTROL, 0x40);
	(void)inb(&f.t, 0x41); /* half a latched count */
	cycles(500);
	saved = chip_save(&f.t);

	program(0, 0, 1);
	program(1, 0, 1);
	program(2, 0, 1);
	gate2(false);
	edges = f.t.edges[0];
	assert_int_equal(chip_load(&f.t, saved, spoil_mode), -EINVAL);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	assert_int_equal(f.t.edges[0], edges);
	assert_int_equal(inb(&f.t, 0x41), 0x12);
	assert_int_equal(count_of(0), 1193 - 500);
	assert_int_equal(count_of(2), 1000);
	assert_int_equal(inb(&f.t, PORT_B) & 0x0f, 1);
	cycles(693);
	assert_int_equal(f.t.edges[0], edges + 1);
	cycles(1193);
	assert_int_equal(f.t.edges[0], edges + 2);
	outb(&f.t, 0x42, 0x01); /* the other half: 155h */
	assert_true(status_of(2) & NULL_COUNT);
	vm_state_destroy(saved);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_mode0, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode0_gate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode1, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode2, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode2_gate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode3, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode3_new_count, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode3_gate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode4, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mode5, setup, teardown),
		cmocka_unit_test_setup_teardown(test_access, setup, teardown),
		cmocka_unit_test_setup_teardown(test_latch, setup, teardown),
		cmocka_unit_test_setup_teardown(test_read_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bcd, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_count, setup, teardown),
		cmocka_unit_test_setup_teardown(test_port_b, setup, teardown),
		cmocka_unit_test_setup_teardown(test_precision, setup, teardown),
		cmocka_unit_test_setup_teardown(test_interrupt_rate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hpet_takes_over, setup, teardown),
		cmocka_unit_test_setup_teardown(test_extreme_periods, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
