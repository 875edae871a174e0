/*
 * kvmclock: the time a guest computes from what it finds in memory is the host's, whatever it does
 * to its TSC and wherever it wants the structure to be.
 */
#include "bt_guest.h"

#include "engine/bt/kvmclock.h"
#include "engine/bt/sys.h"

#include <time.h>

#define EINVAL 22
#define TIME 0x1000u /* where the structures are */
#define WALL 0x2000u
#define SECOND 1000000000ull

struct pvclock {
	uint32_t version, pad0;
	uint64_t tsc, ns;
	uint32_t mul;
	int8_t shift;
	uint8_t flags, pad[2];
};

static int
setup(void **state)
{
	struct guest *g = guest_create(2);
	struct engine_vcpu *second;

	assert_int_equal(bt_engine.vcpu_create(g->vm, 1, &second), 0);
	*state = g;
	return 0;
}

static struct bt_cpu *
cpu_of(struct guest *g, int i)
{
	return ((struct bt_vm *)g->vm)->cpu[i];
}

static int
teardown(void **state)
{
	struct guest *g = *state;

	bt_engine.vcpu_destroy((struct engine_vcpu *)cpu_of(g, 1));
	guest_destroy(g);
	return 0;
}


static struct pvclock
read_at(struct guest *g, uint64_t gpa)
{
	struct pvclock p;

	memcpy(&p, g->ram + gpa, sizeof(p));
	return p;
}

static uint64_t
host_ns(clockid_t clock)
{
	struct timespec ts;

	clock_gettime(clock, &ts);
	return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

/* That a clock which showed from at time start (of the host) runs on. */
static void
assert_runs_on(uint64_t from, uint64_t start, uint64_t now)
{
	uint64_t passed = host_ns(CLOCK_MONOTONIC) - start;

	assert_in_range(now, from, from + passed + passed / 1000 + 2000);
}

/* As msr.rst tells guests to. */
static uint64_t
scaled(const struct pvclock *p, uint64_t tsc)
{
	uint64_t ticks = tsc - p->tsc;

	ticks = p->shift >= 0 ? ticks << p->shift : ticks >> -p->shift;
	return p->ns + (uint64_t)((unsigned __int128)ticks * p->mul >> 32);
}

static uint64_t
guest_ns(struct guest *g, int cpu, uint64_t gpa)
{
	struct pvclock p = read_at(g, gpa);
	uint64_t tsc;

	assert_int_equal(p.version & 1, 0);
	assert_int_equal(bt_msr_read(cpu_of(g, cpu), X86_MSR_TSC, &tsc), 0);
	return scaled(&p, tsc);
}

static int
enable(struct guest *g, int cpu, uint64_t gpa)
{
	return bt_msr_write(cpu_of(g, cpu), X86_MSR_KVM_SYSTEM_TIME, gpa | 1);
}

/* Every frequency a TSC may have: the factor is exact, and has all the digits there is room for. */
static void
test_scale(void **state)
{
	for (uint64_t khz = 1; khz < 20000000; khz += khz / 97 + 1) {
		struct bt_kvmclock_scale s = bt_kvmclock_scale((uint32_t)khz);
		struct pvclock p = { .mul = s.mul, .shift = s.shift };
		uint64_t hour = scaled(&p, khz * 3600 * 1000);

		assert_true(s.mul >> 31 == 1);
		assert_in_range(hour, 3600 * (SECOND - 1), 3600 * SECOND);
	}
}

static void
test_cpuid(void **state)
{
	struct guest *g = *state;
	const struct x86_cpuid_ctx ctx = { 0 };
	struct x86_cpuid_regs r;

	x86_cpuid_query(bt_engine.cpuid(g->vm), &ctx, 0x40000101, 0, &r);
	assert_int_equal(r.eax, BIT(3) | BIT(24));
}

static void
test_time(void **state)
{
	struct guest *g = *state;
	uint64_t host[4], guest[2], val;
	struct pvclock p;

	assert_int_equal(enable(g, 0, TIME), 0);
	assert_int_equal(bt_msr_read(cpu_of(g, 0), X86_MSR_KVM_SYSTEM_TIME, &val), 0);
	assert_int_equal(val, TIME | 1);
	p = read_at(g, TIME);
	assert_int_equal(p.version, 2);
	assert_int_equal(p.flags, 1);
	assert_int_equal(p.pad0 | p.pad[0] | p.pad[1], 0);
	/* Each reading of the guest's clock lies between two of the host's. A frequency that is wrong by a
	 * thousandth shows. */
	host[0] = host_ns(CLOCK_MONOTONIC);
	guest[0] = guest_ns(g, 0, TIME);
	host[1] = host_ns(CLOCK_MONOTONIC);
	do
		host[2] = host_ns(CLOCK_MONOTONIC);
	while (host[2] - host[1] < SECOND / 20);
	guest[1] = guest_ns(g, 0, TIME);
	host[3] = host_ns(CLOCK_MONOTONIC);
	assert_true(guest[1] - guest[0] >= (host[2] - host[1]) / 1000 * 999);
	assert_true(guest[1] - guest[0] <= (host[3] - host[0]) / 1000 * 1001);
	/* Both vCPUs see one time. */
	assert_int_equal(enable(g, 1, TIME + 64), 0);
	assert_memory_equal(g->ram + TIME, g->ram + TIME + 64, 32);
}

static void
test_wall(void **state)
{
	struct guest *g = *state;
	uint64_t before, after, now;
	uint32_t wall[3];

	assert_int_equal(enable(g, 0, TIME), 0);
	before = host_ns(CLOCK_REALTIME);
	assert_int_equal(bt_msr_write(cpu_of(g, 0), X86_MSR_KVM_WALL_CLOCK, WALL), 0);
	memcpy(wall, g->ram + WALL, sizeof(wall));
	now = wall[1] * SECOND + wall[2] + guest_ns(g, 0, TIME);
	after = host_ns(CLOCK_REALTIME);
	assert_int_equal(wall[0], 2);
	assert_true(wall[2] < SECOND);
	/* Two clocks: what they disagree by over the test is far below this. */
	assert_in_range(now, before - SECOND / 1000, after + SECOND / 1000);
}

/* A guest that sets its TSC changes no clock but knows that its vCPUs' TSCs differ. */
static void
test_tsc_set(void **state)
{
	struct guest *g = *state;
	static const uint64_t tsc[] = { 0, 1000, 1ull << 62, ~0ull };
	uint64_t before, start;

	assert_int_equal(enable(g, 0, TIME), 0);
	for (size_t i = 0; i < ARRAY_SIZE(tsc); i++) {
		start = host_ns(CLOCK_MONOTONIC);
		before = guest_ns(g, 0, TIME);
		assert_int_equal(bt_msr_write(cpu_of(g, 0), X86_MSR_TSC, tsc[i]), 0);
		assert_runs_on(before, start, guest_ns(g, 0, TIME));
		assert_int_equal(read_at(g, TIME).flags, 0);
	}
	/* Back to where it was. */
	assert_int_equal(bt_msr_write(cpu_of(g, 0), X86_MSR_TSC_ADJUST, 0), 0);
	assert_int_equal(read_at(g, TIME).flags, 1);
	/* Disabled, the structure is left alone. */
	assert_int_equal(bt_msr_write(cpu_of(g, 0), X86_MSR_KVM_SYSTEM_TIME, 0), 0);
	memset(g->ram + TIME, 0x5a, 32);
	assert_int_equal(bt_msr_write(cpu_of(g, 0), X86_MSR_TSC, 5), 0);
	assert_int_equal(read_at(g, TIME).version, 0x5a5a5a5a);
}

static void
test_hostile(void **state)
{
	struct guest *g = *state;
	static const uint64_t nowhere[] = { GUEST_RAM, GUEST_RAM - 28, GUEST_MMIO, GUEST_ROM,
		1ull << 52, ~3ull };

	for (int bit = 0; bit < 2; bit++)
		assert_int_equal(
		    bt_msr_write(g->cpu, X86_MSR_KVM_WALL_CLOCK, WALL | BIT(bit)), -EINVAL);
	assert_int_equal(enable(g, 0, TIME | 2), -EINVAL);
	memset(g->rom, 0x77, 64);
	memset(g->ram + GUEST_RAM - 32, 0x77, 32);
	for (size_t i = 0; i < ARRAY_SIZE(nowhere); i++) {
		assert_int_equal(enable(g, 0, nowhere[i]), 0);
		assert_int_equal(
		    bt_msr_write(g->cpu, X86_MSR_KVM_WALL_CLOCK, nowhere[i] & ~3ull), 0);
	}
	assert_int_equal(g->logged, 0);
	for (int i = 0; i < 64; i++)
		assert_int_equal(g->rom[i], 0x77);
	/* The wall clock's 12 bytes fit where the time's 32 do not. */
	for (int i = 0; i < 4; i++)
		assert_int_equal(g->ram[GUEST_RAM - 32 + (unsigned)i], 0x77);
	/* The last place, one across pages, and a version at its end and odd. */
	assert_int_equal(enable(g, 0, GUEST_RAM - 32), 0);
	assert_int_equal(read_at(g, GUEST_RAM - 32).flags, 1);
	memset(g->ram + TIME - 4, 0xff, 4);
	assert_int_equal(enable(g, 0, TIME - 4), 0);
	assert_int_equal(read_at(g, TIME - 4).version, 2);
	assert_int_equal(read_at(g, TIME - 4).flags, 1);
}

/* Saved and loaded elsewhere, the clock goes on from what it was. */
static void
test_state(void **state)
{
	struct guest *g = *state;
	const uint64_t saved = 365 * 86400 * SECOND;
	struct x86_state s;
	struct engine_exit exit;
	uint64_t start;

	assert_int_equal(enable(g, 0, TIME), 0);
	assert_int_equal(bt_msr_write(cpu_of(g, 0), X86_MSR_KVM_WALL_CLOCK, WALL), 0);
	bt_engine.vcpu_get(g->vcpu, &s);
	assert_int_equal(s.kvm_system_time, TIME | 1);
	assert_int_equal(s.kvm_wall_clock, WALL);
	assert_true(s.kvm_clock_ns > 0);
	/* Set again where it came from, nothing changes. */
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), 0);
	assert_int_equal(((struct bt_vm *)g->vm)->clock_tsc, 0);
	/* As from a machine that ran for a year, its TSC at another frequency. */
	start = host_ns(CLOCK_MONOTONIC);
	s.kvm_clock_ns = saved;
	s.tsc = 1ull << 50;
	s.activity = X86_HALTED;
	s.kvm_system_time = (TIME + 64) | 1;
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), 0);
	bt_engine.vcpu_kick(g->vcpu, true);
	bt_engine.vcpu_run(g->vcpu, &exit);
	assert_runs_on(saved, start, guest_ns(g, 0, TIME + 64) + 1000);
	bt_engine.vcpu_get(g->vcpu, &s);
	assert_runs_on(saved, start, s.kvm_clock_ns + 1000);
	/* The other vCPU's state does not set the clock. */
	s.kvm_clock_ns = 0;
	assert_int_equal(bt_engine.vcpu_set((struct engine_vcpu *)cpu_of(g, 1), &s), 0);
	bt_engine.vcpu_get(g->vcpu, &s);
	assert_runs_on(saved, start, s.kvm_clock_ns + 1000);
	s.kvm_system_time |= 2;
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), -EINVAL);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scale),
		TEST(test_cpuid),
		TEST(test_time),
		TEST(test_wall),
		TEST(test_tsc_set),
		TEST(test_hostile),
		TEST(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
