/*
 * Local APIC timer: its three modes, the divider, late and hostile periods.
 */
#include "lapic_test.h"

#include "chipset/periodic.h"

static void
test_one_shot(void **state)
{
	put(0, LVT_TIMER, 0x71);
	put(0, INITIAL, 1000000);
	assert_int_equal(get(0, CURRENT), 1000000);
	step(400000);
	assert_int_equal(get(0, CURRENT), 600000);
	step(599999);
	assert_int_equal(get(0, CURRENT), 1);
	assert_int_equal(pending(0), -1);
	step(1);
	assert_int_equal(get(0, CURRENT), 0);
	assert_int_equal(get(0, INITIAL), 1000000);
	expect(0, 0x71);
	step(10 * MS);
	assert_int_equal(pending(0), -1);
	/* Writing 0 stops it. */
	put(0, INITIAL, 1000000);
	put(0, INITIAL, 0);
	assert_int_equal(get(0, CURRENT), 0);
	step(10 * MS);
	assert_int_equal(pending(0), -1);
	/* Masked it counts, without an interrupt. */
	put(0, LVT_TIMER, MASKED | 0x71);
	put(0, INITIAL, 1000000);
	step(500000);
	assert_int_equal(get(0, CURRENT), 500000);
	step(500000);
	put(0, LVT_TIMER, 0x71);
	assert_int_equal(pending(0), -1);
	/* Started again before its end, it ends later. */
	put(0, INITIAL, 1000000);
	step(999999);
	put(0, INITIAL, 1000000);
	step(999999);
	assert_int_equal(pending(0), -1);
	step(1);
	expect(0, 0x71);
	/* Each APIC has its own. */
	for (int cpu = 0; cpu < CPUS; cpu++)
		assert_int_equal(pending(cpu), -1);
}

static void
test_divide(void **state)
{
	static const struct {
		uint32_t dcr;
		unsigned divide;
	} values[] = { { 0, 2 }, { 1, 4 }, { 2, 8 }, { 3, 16 }, { 8, 32 }, { 9, 64 }, { 10, 128 },
		{ 11, 1 } };

	put(0, LVT_TIMER, 0x71);
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		put(0, DCR, values[i].dcr);
		put(0, INITIAL, 1000);
		step(400 * values[i].divide);
		assert_int_equal(get(0, CURRENT), 600);
		step(600 * values[i].divide - 1);
		assert_int_equal(pending(0), -1);
		step(1);
		expect(0, 0x71);
	}
	/* Changed while counting, the count goes on at the new speed. */
	put(0, DCR, DIVIDE_BY_1);
	put(0, INITIAL, 1000);
	step(400);
	put(0, DCR, 0);
	assert_int_equal(get(0, CURRENT), 600);
	step(1199);
	assert_int_equal(pending(0), -1);
	step(1);
	expect(0, 0x71);
	/* The longest. */
	put(0, DCR, 10);
	put(0, INITIAL, 0xffffffff);
	step(0xfffffffeull * 128);
	assert_int_equal(get(0, CURRENT), 1);
	step(128);
	expect(0, 0x71);
}

static void
test_periodic(void **state)
{
	put(0, LVT_TIMER, PERIODIC | 0x72);
	put(0, INITIAL, 1000000);
	for (int i = 0; i < 100; i++) {
		step(999999);
		assert_int_equal(get(0, CURRENT), 1);
		assert_int_equal(pending(0), -1);
		step(1);
		assert_int_equal(get(0, CURRENT), 1000000);
		expect(0, 0x72);
	}
	/* Made one-shot, it ends with the period; made periodic in time, it does not. */
	step(300000);
	put(0, LVT_TIMER, 0x72);
	assert_int_equal(get(0, CURRENT), 700000);
	put(0, LVT_TIMER, PERIODIC | 0x72);
	assert_int_equal(get(0, CURRENT), 700000);
	step(700000);
	expect(0, 0x72);
	put(0, LVT_TIMER, 0x72);
	step(1000000);
	expect(0, 0x72);
	step(10 * MS);
	assert_int_equal(pending(0), -1);
	assert_int_equal(get(0, CURRENT), 0);
	/* In the reserved mode nothing counts. */
	put(0, LVT_TIMER, PERIODIC | DEADLINE | 0x72);
	put(0, INITIAL, 1000);
	step(10 * MS);
	assert_int_equal(get(0, CURRENT), 0);
	assert_int_equal(pending(0), -1);
}

static void
test_tsc_deadline(void **state)
{
	uint64_t now = MOCK_CLOCK_START; /* the mock's TSC is its clock */

	/* In other modes the MSR ignores writes and reads 0 (10.5.4.1). */
	assert_int_equal(wrmsr(0, X86_MSR_TSC_DEADLINE, now + 1000), 0);
	assert_int_equal(rdmsr(0, X86_MSR_TSC_DEADLINE), 0);
	put(0, LVT_TIMER, DEADLINE | 0x73);
	put(0, INITIAL, 1000); /* and in this one the counter */
	assert_int_equal(get(0, CURRENT), 0);
	assert_int_equal(get(0, INITIAL), 0);

	assert_int_equal(wrmsr(0, X86_MSR_TSC_DEADLINE, now + 5000000), 0);
	assert_int_equal(rdmsr(0, X86_MSR_TSC_DEADLINE), now + 5000000);
	step(4999999);
	assert_int_equal(pending(0), -1);
	step(2);
	assert_int_equal(rdmsr(0, X86_MSR_TSC_DEADLINE), 0);
	expect(0, 0x73);
	/* A deadline in the past is due at once, without the loop. */
	assert_int_equal(wrmsr(0, X86_MSR_TSC_DEADLINE, now), 0);
	expect(0, 0x73);
	assert_int_equal(rdmsr(0, X86_MSR_TSC_DEADLINE), 0);
	/* 0 disarms; a new one replaces. */
	now += 5000001;
	assert_int_equal(wrmsr(0, X86_MSR_TSC_DEADLINE, now + 1000), 0);
	assert_int_equal(wrmsr(0, X86_MSR_TSC_DEADLINE, 0), 0);
	step(10000);
	assert_int_equal(pending(0), -1);
	now += 10000;
	assert_int_equal(wrmsr(0, X86_MSR_TSC_DEADLINE, now + 1000), 0);
	assert_int_equal(wrmsr(0, X86_MSR_TSC_DEADLINE, now + 3000), 0);
	step(2000);
	assert_int_equal(pending(0), -1);
	assert_int_equal(wrmsr(0, X86_MSR_TSC_DEADLINE, now + 2500), 0);
	step(501);
	expect(0, 0x73);
	/* Far away, up to the end of time. */
	assert_int_equal(wrmsr(0, X86_MSR_TSC_DEADLINE, UINT64_MAX), 0);
	step(3600 * SECOND);
	assert_int_equal(rdmsr(0, X86_MSR_TSC_DEADLINE), UINT64_MAX);
	/* Leaving the mode disarms. */
	put(0, LVT_TIMER, 0x73);
	put(0, LVT_TIMER, DEADLINE | 0x73);
	assert_int_equal(rdmsr(0, X86_MSR_TSC_DEADLINE), 0);
	/* So does coming from a running counter. */
	put(0, LVT_TIMER, 0x73);
	put(0, INITIAL, 1000);
	put(0, LVT_TIMER, DEADLINE | 0x73);
	step(10000);
	assert_int_equal(pending(0), -1);
}

static void
test_timer_illegal_vector(void **state)
{
	put(0, LVT_TIMER, 0x0f);
	put(0, INITIAL, 1000);
	step(1000);
	assert_int_equal(pending(0), -1);
	put(0, ESR, 0);
	assert_int_equal(get(0, ESR), BIT(6));
}

static void
test_late_ticks(void **state)
{
	struct vm_loop *loop = vm_loop(f.t.vm);
	int ticks = 0;

	put(0, LVT_TIMER, PERIODIC | 0x72);
	put(0, INITIAL, 10000000);
	vm_clock_set(loop, vm_clock_ns(loop) + 55000000);
	for (int i = 0; i < 100; i++) {
		step(MS);
		if (pending(0) == 0x72) {
			expect(0, 0x72);
			ticks++;
		}
	}
	assert_int_equal(ticks, 15);
}

static void
test_extreme_periods(void **state)
{
	put(0, LVT_TIMER, PERIODIC | 0x72);
	for (uint32_t count = 1; count < 50000; count = count * 3 + 1) {
		put(0, INITIAL, count);
		assert_in_range(vm_clock_step(vm_loop(f.t.vm), 10000000), 1,
		    10000000 / PERIODIC_GAP_NS + 1);
		expect(0, 0x72);
		assert_in_range(get(0, CURRENT), 1, count);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		LAPIC_TEST(test_one_shot),
		LAPIC_TEST(test_divide),
		LAPIC_TEST(test_periodic),
		LAPIC_TEST(test_tsc_deadline),
		LAPIC_TEST(test_timer_illegal_vector),
		LAPIC_TEST(test_late_ticks),
		LAPIC_TEST(test_extreme_periods),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
