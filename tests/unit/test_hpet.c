/*
 * HPET: registers, counter, one-shot and periodic timers of both widths, level and edge interrupts,
 * messages, legacy replacement, late and hostile periods.
 */
#include "chip_test.h"

#include "chipset/hpet.h"
#include "chipset/i8254.h"
#include "chipset/periodic.h"

#define GCAP_ID 0x000
#define GEN_CONF 0x010
#define GINTR_STA 0x020
#define MAIN_CNT 0x0f0
#define CONF(n) (0x100 + 0x20 * (n))
#define COMPARATOR(n) (0x108 + 0x20 * (n))
#define FSB(n) (0x110 + 0x20 * (n))

#define ENABLE 1u
#define LEGACY 2u
#define LEVEL BIT(1)
#define INT_ENABLE BIT(2)
#define PERIODIC BIT(3)
#define VAL_SET BIT(6)
#define MODE_32BIT BIT(8)
#define ROUTE(line) ((uint32_t)(line) << 9)
#define FSB_ENABLE BIT(14)

#define TICK_NS 10
#define MS_TICKS 100000ull
#define SECOND 1000000000ull

struct fixture {
	struct chip_test t;
	struct hpet *hpet;
	struct i8254 *pit;
	bool rtc_legacy;
	int messages;
	uint64_t addr;
	uint32_t data;
};

static struct fixture f;

static void
record_msi(void *ctx, uint64_t addr, uint32_t data)
{
	f.messages++;
	f.addr = addr;
	f.data = data;
}

static const struct vm_apic_ops apic_ops = { .msi = record_msi };

static void
record_rtc(void *ctx, bool on)
{
	assert_ptr_equal(ctx, &f);
	f.rtc_legacy = on;
}

static int
setup(void **state)
{
	struct hpet_params params = { .rtc_legacy = record_rtc, .rtc_ctx = &f };

	f = (struct fixture){ 0 };
	chip_test_init(&f.t, MIB(1));
	vm_apic_register(f.t.vm, &apic_ops, NULL);
	assert_int_equal(i8254_create(f.t.vm, &f.pit), 0);
	params.pit = f.pit;
	assert_int_equal(hpet_create(f.t.vm, &params, &f.hpet), 0);
	return 0;
}

static int
teardown(void **state)
{
	hpet_destroy(f.hpet);
	i8254_destroy(f.pit);
	vm_destroy(f.t.vm);
	return 0;
}

static uint64_t
read64(unsigned reg)
{
	return vm_bus_read(f.t.vm, VM_MMIO, HPET_BASE + reg, 8);
}

static uint32_t
read32(unsigned reg)
{
	return (uint32_t)vm_bus_read(f.t.vm, VM_MMIO, HPET_BASE + reg, 4);
}

static void
write64(unsigned reg, uint64_t val)
{
	vm_bus_write(f.t.vm, VM_MMIO, HPET_BASE + reg, 8, val);
}

static void
write32(unsigned reg, uint32_t val)
{
	vm_bus_write(f.t.vm, VM_MMIO, HPET_BASE + reg, 4, val);
}

static void
ticks(uint64_t n)
{
	chip_step(&f.t, n * TICK_NS);
}

static void
test_capabilities(void **state)
{
	assert_int_equal(read64(GCAP_ID), 10000000ull << 32 | 0x8086a201);
	assert_int_equal(read32(GCAP_ID), HPET_CAPABILITIES);
	assert_int_equal(read32(GCAP_ID + 4), HPET_PERIOD_FS);
	write64(GCAP_ID, UINT64_MAX);
	assert_int_equal(read64(GCAP_ID), 10000000ull << 32 | 0x8086a201);
	assert_int_equal(read64(GEN_CONF), 0);
	assert_int_equal(read64(GINTR_STA), 0);
	assert_int_equal(read64(MAIN_CNT), 0);
	for (int n = 0; n < HPET_TIMERS; n++) {
		assert_int_equal(read64(CONF(n)), 0x00f0000000008030ull);
		assert_int_equal(read64(COMPARATOR(n)), UINT64_MAX);
		assert_int_equal(read64(FSB(n)), 0);
	}
	/* Only bits that exist stick. */
	write64(GEN_CONF, UINT64_MAX & ~1ull);
	assert_int_equal(read64(GEN_CONF), LEGACY);
	write64(CONF(1), UINT64_MAX);
	assert_int_equal(read64(CONF(1)), 0x00f000000000c17eull & ~(uint64_t)ROUTE(31));
	/* Nothing between and behind. */
	write64(0x30, UINT64_MAX);
	assert_int_equal(read64(0x30), 0);
	assert_int_equal(read64(0x118), 0);
	assert_int_equal(read64(CONF(HPET_TIMERS)), 0);
	assert_int_equal(read64(0x3f8), 0);
}

static void
test_counter(void **state)
{
	ticks(1000);
	assert_int_equal(read64(MAIN_CNT), 0);
	write64(MAIN_CNT, 0xfffffff0);
	write32(GEN_CONF, ENABLE);
	assert_int_equal(read64(MAIN_CNT), 0xfffffff0);
	ticks(0x20);
	assert_int_equal(read64(MAIN_CNT), 0x100000010ull);
	assert_int_equal(read32(MAIN_CNT), 0x10);
	assert_int_equal(read32(MAIN_CNT + 4), 1);
	/* Halted it keeps its value, and goes on from there. */
	write32(GEN_CONF, 0);
	ticks(1000);
	assert_int_equal(read64(MAIN_CNT), 0x100000010ull);
	write32(MAIN_CNT, 7);
	write32(MAIN_CNT + 4, 9);
	assert_int_equal(read64(MAIN_CNT), 0x900000007ull);
	write32(GEN_CONF, ENABLE);
	ticks(1);
	assert_int_equal(read64(MAIN_CNT), 0x900000008ull);
	/* It wraps. */
	write64(MAIN_CNT, UINT64_MAX);
	ticks(1);
	assert_int_equal(read64(MAIN_CNT), 0);
}

static void
test_one_shot(void **state)
{
	write32(GEN_CONF, ENABLE);
	write64(CONF(0), INT_ENABLE | ROUTE(20));
	write64(COMPARATOR(0), 5000);
	ticks(4999);
	assert_int_equal(f.t.edges[20], 0);
	ticks(1);
	assert_int_equal(f.t.edges[20], 1);
	assert_false(f.t.level[20]);
	assert_int_equal(read32(GINTR_STA), 0); /* edges leave no status */
	assert_int_equal(read64(COMPARATOR(0)), 5000);
	ticks(1000000000);
	assert_int_equal(f.t.edges[20], 1);
	/* Disabled, it does not interrupt. */
	write64(COMPARATOR(0), read64(MAIN_CNT) + 100);
	write64(CONF(0), ROUTE(20));
	ticks(200);
	assert_int_equal(f.t.edges[20], 1);
	write64(CONF(0), INT_ENABLE | ROUTE(20)); /* nor later */
	ticks(200);
	assert_int_equal(f.t.edges[20], 1);
}

static void
test_one_shot_32bit(void **state)
{
	/* Matches the low half, and again after each wrap (2.3.9.2.1). */
	write64(MAIN_CNT, 0x5ffffff00ull);
	write32(GEN_CONF, ENABLE);
	write64(CONF(2), INT_ENABLE | MODE_32BIT | ROUTE(21));
	write64(COMPARATOR(2), 0xabcdef0000000100ull);
	assert_int_equal(read64(COMPARATOR(2)), 0x100);
	ticks(0x1ff);
	assert_int_equal(f.t.edges[21], 0);
	ticks(1);
	assert_int_equal(f.t.edges[21], 1);
	ticks(0xffffffff);
	assert_int_equal(f.t.edges[21], 1);
	ticks(1);
	assert_int_equal(f.t.edges[21], 2);
	/* Switching to 32 bits drops the upper half. */
	write64(CONF(1), 0);
	write64(COMPARATOR(1), 0x1234567890ull);
	write64(CONF(1), MODE_32BIT);
	assert_int_equal(read64(COMPARATOR(1)), 0x34567890);
}

/* A guest that was too slow by a little gets its interrupt at once; a comparator long passed, or
 * at its reset value, is one in the future. */
static void
test_just_missed(void **state)
{
	write32(GEN_CONF, ENABLE);
	ticks(100 * MS_TICKS);
	write64(CONF(0), INT_ENABLE | ROUTE(20));
	ticks(1000);
	assert_int_equal(f.t.edges[20], 0);
	write64(COMPARATOR(0), read64(MAIN_CNT) - MS_TICKS);
	ticks(0);
	assert_int_equal(f.t.edges[20], 1);
	ticks(10 * MS_TICKS);
	assert_int_equal(f.t.edges[20], 1);
	write64(COMPARATOR(0), read64(MAIN_CNT) - 20 * MS_TICKS);
	ticks(1000 * MS_TICKS);
	assert_int_equal(f.t.edges[20], 1);
}

/* As Linux programs it: the accumulator with VAL_SET, then the period. */
static void
test_periodic(void **state)
{
	write32(GEN_CONF, ENABLE);
	write32(CONF(0), INT_ENABLE | PERIODIC | VAL_SET | MODE_32BIT | ROUTE(20));
	assert_true(read32(CONF(0)) & VAL_SET);
	write32(COMPARATOR(0), 5000);
	assert_false(read32(CONF(0)) & VAL_SET);
	write32(COMPARATOR(0), 10000);
	assert_int_equal(read32(COMPARATOR(0)), 5000);
	ticks(4999);
	assert_int_equal(f.t.edges[20], 0);
	ticks(1);
	assert_int_equal(f.t.edges[20], 1);
	assert_int_equal(read32(COMPARATOR(0)), 15000);
	for (int i = 2; i < 50; i++) {
		ticks(9999);
		assert_int_equal(f.t.edges[20], i - 1);
		ticks(1);
		assert_int_equal(f.t.edges[20], i);
		assert_int_equal(read32(COMPARATOR(0)), 5000 + i * 10000);
	}
	/* Across the wrap of 32 bits. */
	f.t.edges[20] = 0;
	chip_step(&f.t, 60 * SECOND);
	assert_int_equal(f.t.edges[20], 600000);
	/* Halting and going on keeps the phase. */
	ticks(3000);
	write32(GEN_CONF, 0);
	ticks(123456);
	assert_int_equal(f.t.edges[20], 600000);
	write32(GEN_CONF, ENABLE);
	ticks(6999);
	assert_int_equal(f.t.edges[20], 600000);
	ticks(1);
	assert_int_equal(f.t.edges[20], 600001);
}

static void
test_periodic_64bit(void **state)
{
	write64(MAIN_CNT, 0x100000000ull);
	write32(GEN_CONF, ENABLE);
	write64(CONF(1), INT_ENABLE | PERIODIC | VAL_SET | ROUTE(23));
	write64(COMPARATOR(1), 0x100001000ull);
	write64(COMPARATOR(1), 100000);
	ticks(0x1000);
	assert_int_equal(f.t.edges[23], 1);
	ticks(1000000);
	assert_int_equal(f.t.edges[23], 11);
	/* A period alone leaves the accumulator. */
	write64(COMPARATOR(1), 200000);
	ticks(100000);
	assert_int_equal(f.t.edges[23], 12);
	ticks(199999);
	assert_int_equal(f.t.edges[23], 12);
	ticks(1);
	assert_int_equal(f.t.edges[23], 13);
}

static void
test_level(void **state)
{
	write32(GEN_CONF, ENABLE);
	write64(CONF(1), LEVEL | INT_ENABLE | ROUTE(22));
	write64(COMPARATOR(1), 1000);
	ticks(1000);
	assert_true(f.t.level[22]);
	assert_int_equal(read32(GINTR_STA), BIT(1));
	write32(GINTR_STA, BIT(0) | BIT(2)); /* others' */
	assert_true(f.t.level[22]);
	write32(GINTR_STA, BIT(1));
	assert_false(f.t.level[22]);
	assert_int_equal(read32(GINTR_STA), 0);
	/* Without its interrupt enabled there is status, and no line. */
	write64(CONF(1), LEVEL | ROUTE(22));
	write64(COMPARATOR(1), 2000);
	ticks(1000);
	assert_false(f.t.level[22]);
	assert_int_equal(read32(GINTR_STA), BIT(1));
	write64(CONF(1), LEVEL | INT_ENABLE | ROUTE(22));
	assert_true(f.t.level[22]);
	/* It follows the route, and goes with the mode. */
	write64(CONF(1), LEVEL | INT_ENABLE | ROUTE(23));
	assert_false(f.t.level[22]);
	assert_true(f.t.level[23]);
	write64(CONF(1), INT_ENABLE | ROUTE(23));
	assert_false(f.t.level[23]);
	assert_int_equal(read32(GINTR_STA), 0);
}

static void
test_routes(void **state)
{
	/* A line that cannot be had does not read back. */
	write64(CONF(0), ROUTE(21));
	assert_int_equal(read32(CONF(0)) & ROUTE(31), ROUTE(21));
	write64(CONF(0), ROUTE(5));
	assert_int_equal(read32(CONF(0)) & ROUTE(31), ROUTE(21));
	/* Without a route nothing happens, on line 0 least of all. */
	write32(GEN_CONF, ENABLE);
	write64(CONF(2), INT_ENABLE);
	write64(COMPARATOR(2), read64(MAIN_CNT) + 100);
	ticks(100);
	write64(CONF(2), INT_ENABLE | LEVEL);
	write64(COMPARATOR(2), read64(MAIN_CNT) + 100);
	ticks(100);
	assert_int_equal(read32(GINTR_STA), BIT(2));
	for (int line = 0; line < VM_IRQ_LINES; line++)
		assert_int_equal(f.t.edges[line], 0);
}

static void
test_message(void **state)
{
	write32(GEN_CONF, ENABLE);
	write32(FSB(2), 0x4051);
	write32(FSB(2) + 4, 0xfee03000);
	assert_int_equal(read64(FSB(2)), 0xfee0300000004051ull);
	write64(CONF(2), INT_ENABLE | FSB_ENABLE | ROUTE(20));
	write64(COMPARATOR(2), 1000);
	ticks(1000);
	assert_int_equal(f.messages, 1);
	assert_int_equal(f.addr, 0xfee03000);
	assert_int_equal(f.data, 0x4051);
	assert_int_equal(f.t.edges[20], 0);
	ticks(1);
	/* Level-triggered, it is still sent once, with the status bit set. */
	write64(CONF(2), INT_ENABLE | FSB_ENABLE | LEVEL | ROUTE(20));
	write64(COMPARATOR(2), 2000);
	ticks(999);
	assert_int_equal(f.messages, 2);
	assert_int_equal(read32(GINTR_STA), BIT(2));
	assert_int_equal(f.t.edges[20], 0);
}

static void
test_legacy(void **state)
{
	/* The PIT ticks until legacy replacement is on, and again after. */
	outb(&f.t, 0x43, 0x34);
	outb(&f.t, 0x40, 11932 & 0xff);
	outb(&f.t, 0x40, 11932 >> 8);
	write32(GEN_CONF, LEGACY); /* not enabled: without effect */
	assert_false(f.rtc_legacy);
	chip_step(&f.t, 105000000);
	assert_int_equal(f.t.edges[0], 10);
	write32(GEN_CONF, LEGACY | ENABLE);
	assert_true(f.rtc_legacy);
	chip_step(&f.t, 100000000);
	assert_int_equal(f.t.edges[0], 10);

	write64(CONF(0), INT_ENABLE | ROUTE(20));
	write64(COMPARATOR(0), read64(MAIN_CNT) + 100);
	write64(CONF(1), INT_ENABLE | ROUTE(20));
	write64(COMPARATOR(1), read64(MAIN_CNT) + 100);
	write64(CONF(2), INT_ENABLE | ROUTE(20));
	write64(COMPARATOR(2), read64(MAIN_CNT) + 100);
	ticks(100);
	assert_int_equal(f.t.edges[0], 11);
	assert_int_equal(f.t.edges[8], 1);
	assert_int_equal(f.t.edges[20], 1);

	write32(GEN_CONF, ENABLE);
	assert_false(f.rtc_legacy);
	chip_step(&f.t, 100000000);
	assert_in_range(f.t.edges[0], 11 + 9, 11 + 10);
}

/* Ticks a late host owes are made up for; a match that was not handled yet is not lost by a
 * change. */
static void
test_late(void **state)
{
	struct vm_loop *loop = vm_loop(f.t.vm);

	write32(GEN_CONF, ENABLE);
	write64(CONF(0), INT_ENABLE | PERIODIC | VAL_SET | ROUTE(20));
	write64(COMPARATOR(0), 10 * MS_TICKS);
	vm_clock_set(loop, vm_clock_ns(loop) + 45000000);
	assert_int_equal(read64(COMPARATOR(0)), 50 * MS_TICKS);
	vm_clock_step(loop, 0);
	assert_int_equal(f.t.edges[20], 1);
	chip_step(&f.t, 55000000);
	assert_int_equal(f.t.edges[20], 10);

	write64(CONF(1), INT_ENABLE | ROUTE(21));
	write64(COMPARATOR(1), read64(MAIN_CNT) + 1000);
	vm_clock_set(loop, vm_clock_ns(loop) + 20000);
	write32(GEN_CONF, 0);
	assert_int_equal(f.t.edges[21], 1);
}

static void
test_extreme_periods(void **state)
{
	static const uint64_t periods[] = { 1, 2, 1999, 4001, UINT32_MAX, INT64_MAX, UINT64_MAX };

	write32(GEN_CONF, ENABLE);
	for (size_t i = 0; i < ARRAY_SIZE(periods); i++) {
		write64(CONF(0), INT_ENABLE | PERIODIC | VAL_SET | ROUTE(20));
		write64(COMPARATOR(0), read64(MAIN_CNT) + 1);
		write64(COMPARATOR(0), periods[i]);
		f.t.edges[20] = 0;
		assert_in_range(vm_clock_step(vm_loop(f.t.vm), 10000000), 1,
		    10000000 / PERIODIC_GAP_NS + 1);
		assert_true(f.t.edges[20] >= 1);
		(void)read64(COMPARATOR(0));
	}
	/* A period of 0 is none. */
	write64(CONF(0), INT_ENABLE | PERIODIC | VAL_SET | ROUTE(20));
	write64(COMPARATOR(0), 0);
	assert_true(vm_clock_step(vm_loop(f.t.vm), 10000000) <= 1);
}

static void
test_hostile(void **state)
{
	uint64_t seed = 0x10a;

	for (int i = 0; i < 200000; i++) {
		uint64_t r = chip_random(&seed);
		unsigned reg = (r >> 8 & 1) ? CONF(r >> 9 & 3) + (r >> 11 & 0x1f) : r >> 9 & 0x3ff;

		switch (r & 7) {
		case 0: chip_step(&f.t, r >> 20 & 0xffff); break;
		case 1:
			(void)vm_bus_read(f.t.vm, VM_MMIO, HPET_BASE + reg, 1 + (r >> 60 & 7));
			break;
		case 2: write32(GEN_CONF, (uint32_t)(r >> 32)); break;
		default:
			vm_bus_write(f.t.vm, VM_MMIO, HPET_BASE + reg, 1 + (r >> 60 & 7),
			    r & 8 ? chip_random(&seed) : chip_random(&seed) >> 48);
			break;
		}
	}
}

static void
spoil_status(uint8_t *data, size_t len)
{
	for (size_t i = 8; i + 4 < len; i++) {
		if (memcmp(&data[i], "hpet", 4) == 0) {
			data[i + 4 + 12 + 4] = 0xff; /* behind the configuration */
			return;
		}
	}
}

static void
test_state(void **state)
{
	struct vm_state *saved;

	write64(MAIN_CNT, 1000000);
	write32(GEN_CONF, ENABLE);
	write64(CONF(0), INT_ENABLE | PERIODIC | VAL_SET | ROUTE(20));
	write64(COMPARATOR(0), 1010000);
	write64(COMPARATOR(0), 100000);
	write64(CONF(1), INT_ENABLE | LEVEL | ROUTE(21));
	write64(COMPARATOR(1), 1001000);
	write64(FSB(2), 0x123456789);
	ticks(5000);
	assert_true(f.t.level[21]);
	saved = chip_save(&f.t);

	write32(GINTR_STA, 2);
	write32(GEN_CONF, 0);
	write64(MAIN_CNT, 0);
	write64(CONF(0), 0);
	write64(COMPARATOR(0), 0);
	write64(CONF(1), 0);
	write64(FSB(2), 0);
	assert_int_equal(chip_load(&f.t, saved, spoil_status), -EINVAL);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	assert_int_equal(read64(MAIN_CNT), 1005000);
	assert_int_equal(read32(GINTR_STA), 2);
	assert_true(f.t.level[21]);
	assert_int_equal(read64(FSB(2)), 0x123456789);
	assert_int_equal(read64(COMPARATOR(0)), 1010000);
	ticks(4999);
	assert_int_equal(f.t.edges[20], 0);
	ticks(1);
	assert_int_equal(f.t.edges[20], 1);
	ticks(100000);
	assert_int_equal(f.t.edges[20], 2);
	vm_state_destroy(saved);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_capabilities, setup, teardown),
		cmocka_unit_test_setup_teardown(test_counter, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_shot, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_shot_32bit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_just_missed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_periodic, setup, teardown),
		cmocka_unit_test_setup_teardown(test_periodic_64bit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_routes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_message, setup, teardown),
		cmocka_unit_test_setup_teardown(test_legacy, setup, teardown),
		cmocka_unit_test_setup_teardown(test_late, setup, teardown),
		cmocka_unit_test_setup_teardown(test_extreme_periods, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
