/*
 * For tests of the local APICs: a machine of some vCPUs with a recorded 8259 and EOI broadcasts,
 * and short names for what a vCPU does.
 */
#ifndef LAPIC_TEST_H
#define LAPIC_TEST_H

#include "chip_test.h"

#include "chipset/lapic.h"

#define CPUS 10
#define PAGE 0xfee00000u

/* Offsets in the page */
#define ID 0x20
#define VERSION 0x30
#define TPR 0x80
#define APR 0x90
#define PPR 0xa0
#define EOI 0xb0
#define RRD 0xc0
#define LDR 0xd0
#define DFR 0xe0
#define SVR 0xf0
#define ISR 0x100
#define TMR 0x180
#define IRR 0x200
#define ESR 0x280
#define ICR 0x300
#define ICR_HI 0x310
#define LVT_TIMER 0x320
#define LVT_THERMAL 0x330
#define LVT_PERF 0x340
#define LVT_LINT0 0x350
#define LVT_LINT1 0x360
#define LVT_ERROR 0x370
#define INITIAL 0x380
#define CURRENT 0x390
#define DCR 0x3e0
#define SELF_IPI 0x3f0
#define MSR(off) (0x800 + (off) / 16)

#define MASKED 0x10000u
#define PERIODIC 0x20000u
#define DEADLINE 0x40000u
#define NO_BROADCAST 0x1000u
#define TO_SELF (1u << 18)
#define TO_ALL (2u << 18)
#define TO_OTHERS (3u << 18)
#define LOGICAL 0x800u
#define ASSERT 0x4000u
#define LEVEL 0x8000u
#define MODE(m) ((m) << 8)
#define LOWEST MODE(1u)
#define SMI MODE(2u)
#define NMI MODE(4u)
#define INIT MODE(5u)
#define SIPI MODE(6u)
#define EXTINT MODE(7u)

#define BSP 0x100u
#define X2APIC 0x400u
#define ENABLE 0x800u
#define DIVIDE_BY_1 0xb

#define SECOND 1000000000ull
#define MS 1000000ull

struct fixture {
	struct chip_test t;
	struct lapic *lapic;
	int eois;
	uint8_t eoi_vector;
	bool pic_pending;
	int pic_vector;
	int inits[CPUS];
};

static struct fixture f;

static inline void
record_eoi(void *ctx, uint8_t vector)
{
	f.eois++;
	f.eoi_vector = vector;
}

static inline void
ignore_line(void *ctx, int line, bool level)
{
}

static const struct vm_irq_sink_ops eoi_sink = { .name = "eoi", .set = ignore_line,
	.eoi = record_eoi };

static inline bool
pic_pending(void *ctx)
{
	return f.pic_pending;
}

static inline int
pic_ack(void *ctx)
{
	f.pic_pending = false;
	return f.pic_vector;
}

static const struct vm_pic_ops pic_ops = { .pending = pic_pending, .ack = pic_ack };

static inline const struct engine_machine *
machine(void)
{
	return mock_machine(f.t.vm);
}

static inline uint32_t
get(int cpu, uint32_t off)
{
	return (uint32_t)mock_mmio_read(f.t.vm, cpu, PAGE + off, 4);
}

static inline void
put(int cpu, uint32_t off, uint32_t val)
{
	mock_mmio_write(f.t.vm, cpu, PAGE + off, 4, val);
}

static inline int
wrmsr(int cpu, uint32_t msr, uint64_t val)
{
	return machine()->apic_msr_write(f.t.vm, cpu, msr, val);
}

static inline uint64_t
rdmsr(int cpu, uint32_t msr)
{
	uint64_t val = 0;

	assert_int_equal(machine()->apic_msr_read(f.t.vm, cpu, msr, &val), 0);
	return val;
}

static inline int
rdmsr_error(int cpu, uint32_t msr)
{
	uint64_t val;

	return machine()->apic_msr_read(f.t.vm, cpu, msr, &val);
}

static inline int
pending(int cpu)
{
	return machine()->intr_pending(f.t.vm, cpu);
}

static inline int
ack(int cpu)
{
	return machine()->intr_ack(f.t.vm, cpu);
}

static inline int
setup(void **state)
{
	f = (struct fixture){ .t = { .vm = mock_vm_create(MIB(1), CPUS) } };
	assert_non_null(f.t.vm);
	assert_int_equal(lapic_create(f.t.vm, &f.lapic), 0);
	vm_irq_sink_add(f.t.vm, &eoi_sink, NULL);
	vm_pic_register(f.t.vm, &pic_ops, NULL);
	return 0;
}

/* All APICs software-enabled, flat logical addresses, the divider 1. */
static inline int
setup_enabled(void **state)
{
	setup(state);
	for (int cpu = 0; cpu < CPUS; cpu++) {
		put(cpu, SVR, 0x1ff);
		put(cpu, LDR, 1u << (24 + cpu % 8));
		put(cpu, DCR, DIVIDE_BY_1);
	}
	return 0;
}

static inline int
teardown(void **state)
{
	lapic_destroy(f.lapic);
	vm_destroy(f.t.vm);
	return 0;
}

/* Takes the one interrupt that is pending and ends it. */
static inline void
expect(int cpu, int vector)
{
	assert_int_equal(pending(cpu), vector);
	assert_int_equal(ack(cpu), vector);
	assert_true(get(cpu, ISR + vector / 32 * 16) & BIT(vector % 32));
	put(cpu, EOI, 0);
}

/* Exactly these CPUs (a bit each) have this vector and nothing else pending; takes it. */
static inline void
expect_on(unsigned cpus, int vector)
{
	for (int cpu = 0; cpu < CPUS; cpu++) {
		if (pending(cpu) != (cpus & BIT(cpu) ? vector : -1))
			fail_msg("CPU %d has %d pending", cpu, pending(cpu));
		if (cpus & BIT(cpu))
			expect(cpu, vector);
		assert_int_equal(pending(cpu), -1);
	}
}

static inline void
msi(uint8_t dest, uint32_t addr, uint32_t data)
{
	vm_msi(f.t.vm, PAGE | (uint32_t)dest << 12 | addr, data);
}

static inline void
send(int cpu, uint8_t dest, uint32_t icr)
{
	put(cpu, ICR_HI, (uint32_t)dest << 24);
	put(cpu, ICR, icr);
}

static inline void
to_x2apic(int cpu)
{
	assert_int_equal(wrmsr(cpu, X86_MSR_APIC_BASE, rdmsr(cpu, X86_MSR_APIC_BASE) | X2APIC), 0);
}

static inline void
step(uint64_t ns)
{
	chip_step(&f.t, ns);
}

static inline void
expect_x2(int cpu, int vector)
{
	assert_int_equal(ack(cpu), vector);
	assert_int_equal(wrmsr(cpu, MSR(EOI), 0), 0);
	assert_int_equal(pending(cpu), -1);
}

#define LAPIC_TEST(name) cmocka_unit_test_setup_teardown(name, setup_enabled, teardown)
#define LAPIC_TEST_RESET(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
