/*
 * Local APICs: registers and modes, priorities, IPIs and messages to all kinds of destinations,
 * LINT0, errors, INIT, senders on many threads. The timer is in test_lapic_timer.c.
 */
#include "lapic_test.h"

#include "chipset/ioapic.h"

#include <pthread.h>

/* --- Registers and modes --- */

static void
test_reset_values(void **state)
{
	static const struct {
		uint32_t off, val;
	} regs[] = {
		{ VERSION, 0x01050014 }, { TPR, 0 }, { APR, 0 }, { PPR, 0 }, { EOI, 0 }, { RRD, 0 },
		{ LDR, 0 }, { DFR, 0xffffffff }, { SVR, 0xff }, { ESR, 0 }, { ICR, 0 },
		{ ICR_HI, 0 },
		{ LVT_TIMER, MASKED }, { LVT_THERMAL, MASKED }, { LVT_PERF, MASKED },
		{ LVT_LINT0, MASKED }, { LVT_LINT1, MASKED }, { LVT_ERROR, MASKED },
		{ INITIAL, 0 }, { CURRENT, 0 }, { DCR, 0 },
	};

	for (int cpu = 0; cpu < CPUS; cpu++) {
		assert_int_equal(rdmsr(cpu, X86_MSR_APIC_BASE),
		    PAGE | ENABLE | (cpu == 0 ? BSP : 0));
		assert_int_equal(get(cpu, ID), (uint32_t)cpu << 24);
		for (size_t i = 0; i < ARRAY_SIZE(regs); i++)
			assert_int_equal(get(cpu, regs[i].off), regs[i].val);
		for (uint32_t i = 0; i < 8; i++) {
			assert_int_equal(get(cpu, ISR + 16 * i), 0);
			assert_int_equal(get(cpu, TMR + 16 * i), 0);
			assert_int_equal(get(cpu, IRR + 16 * i), 0);
		}
		assert_int_equal(pending(cpu), -1);
		assert_int_equal(ack(cpu), -1);
		assert_int_equal(machine()->cr8_read(f.t.vm, cpu), 0);
	}
}

static void
test_writable_bits(void **state)
{
	static const struct {
		uint32_t off, val;
	} regs[] = {
		{ ID, 0x03000000 }, { VERSION, 0x01050014 }, { TPR, 0xff }, { PPR, 0xff },
		{ APR, 0 },
		{ LDR, 0xff000000 }, { DFR, 0xffffffff }, { SVR, 0x13ff }, { ICR_HI, 0xff000000 },
		{ LVT_TIMER, 0x700ff }, { LVT_THERMAL, 0x107ff }, { LVT_PERF, 0x107ff },
		{ LVT_LINT0, 0x1a7ff }, { LVT_LINT1, 0x1a7ff }, { LVT_ERROR, 0x100ff },
		{ DCR, 0xb },
	};

	put(3, SVR, 0x1ff);
	for (size_t i = 0; i < ARRAY_SIZE(regs); i++) {
		put(3, regs[i].off, 0xffffffff);
		assert_int_equal(get(3, regs[i].off), regs[i].val);
	}
	put(3, DFR, 0);
	assert_int_equal(get(3, DFR), 0x0fffffff);
	/* Reserved delivery mode: kept and not sent; delivery status reads idle. */
	put(3, ICR, 0x000c0fff | 0xf0000000 | MODE(3u));
	assert_int_equal(get(3, ICR), 0xc0fff);
	/* Each CPU has its own. */
	assert_int_equal(get(2, TPR), 0);
	assert_int_equal(get(2, SVR), 0xff);
}

static void
test_page(void **state)
{
	uint64_t base = 0x12345000;

	/* The page may move, for one CPU alone; the rest of it is no register. */
	assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, base | ENABLE), 0);
	assert_int_equal(get(1, ID), 0xffffffff);
	assert_int_equal(mock_mmio_read(f.t.vm, 1, base + ID, 4), 0x01000000);
	assert_int_equal(get(2, ID), 0x02000000);
	assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, PAGE | ENABLE), 0);
	assert_int_equal(get(1, ID), 0x01000000);
	/* Disabled, there is no page. */
	assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, PAGE), 0);
	assert_int_equal(get(1, ID), 0xffffffff);
	/* Narrow reads are parts of the register; the 12 bytes behind it read 0. */
	assert_int_equal(mock_mmio_read(f.t.vm, 2, PAGE + VERSION, 1), 0x14);
	assert_int_equal(mock_mmio_read(f.t.vm, 2, PAGE + VERSION + 2, 2), 0x0105);
	assert_int_equal(get(2, VERSION + 4), 0);
	put(2, TPR + 4, 0x55);
	assert_int_equal(get(2, TPR), 0);
}

static void
test_mode_transitions(void **state)
{
	enum { OFF, XAPIC, X2, BAD };
	static const uint32_t bits[] = { 0, ENABLE, ENABLE | X2APIC, X2APIC };
	static const bool legal[3][4] = {
		[OFF] = { [OFF] = true, [XAPIC] = true },
		[XAPIC] = { [OFF] = true, [XAPIC] = true, [X2] = true },
		[X2] = { [OFF] = true, [X2] = true },
	};

	for (int from = OFF; from <= X2; from++) {
		for (int to = OFF; to <= BAD; to++) {
			assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, PAGE), 0);
			if (from != OFF)
				assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, PAGE | ENABLE), 0);
			if (from == X2)
				assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, PAGE | bits[X2]), 0);
			assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, PAGE | bits[to]),
			    legal[from][to] ? 0 : -EINVAL);
			assert_int_equal(rdmsr(1, X86_MSR_APIC_BASE),
			    PAGE | bits[legal[from][to] ? to : from]);
		}
	}
	/* Reserved bits. */
	assert_int_equal(wrmsr(0, X86_MSR_APIC_BASE, PAGE | ENABLE | 1), -EINVAL);
	assert_int_equal(wrmsr(0, X86_MSR_APIC_BASE, PAGE | ENABLE | 0x200), -EINVAL);
	assert_int_equal(wrmsr(0, X86_MSR_APIC_BASE, BIT64(60) | PAGE | ENABLE), -EINVAL);
	assert_int_equal(wrmsr(0, 0x123, 0), -EINVAL);
	assert_int_equal(rdmsr_error(0, 0x123), -EINVAL);
}

static void
test_disable_resets(void **state)
{
	put(1, TPR, 0x20);
	send(0, 1, 0x31);
	assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, PAGE), 0);
	send(0, 1, 0x32); /* nobody there */
	msi(1, 0, 0x33);
	assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, PAGE | ENABLE), 0);
	assert_int_equal(pending(1), -1);
	assert_int_equal(get(1, TPR), 0);
	assert_int_equal(get(1, SVR), 0xff);
}

static void
test_x2apic_registers(void **state)
{
	/* MSR number, readable, writable, a bit that is reserved */
	static const struct {
		uint32_t msr;
		bool r, w;
		uint64_t bad;
	} regs[] = {
		{ MSR(ID), true, false, 0 }, { MSR(VERSION), true, false, 0 },
		{ MSR(TPR), true, true, 0x100 }, { MSR(APR), false, false, 0 },
		{ MSR(PPR), true, false, 0 }, { MSR(EOI), false, true, 1 },
		{ MSR(RRD), false, false, 0 },
		{ MSR(LDR), true, false, 0 }, { MSR(DFR), false, false, 0 },
		{ MSR(SVR), true, true, 0x400 },
		{ MSR(ISR), true, false, 0 }, { MSR(ISR + 0x70), true, false, 0 },
		{ MSR(TMR), true, false, 0 }, { MSR(IRR), true, false, 0 },
		{ MSR(ESR), true, true, 1 },
		{ MSR(0x2f0), false, false, 0 }, { MSR(ICR), true, true, 0x2000 },
		{ MSR(ICR_HI), false, false, 0 }, { MSR(LVT_TIMER), true, true, 0x100 },
		{ MSR(LVT_THERMAL), true, true, 0x2000 }, { MSR(LVT_PERF), true, true, 0x2000 },
		{ MSR(LVT_LINT0), true, true, 0x20000 }, { MSR(LVT_LINT1), true, true, 0x20000 },
		{ MSR(LVT_ERROR), true, true, 0x100 }, { MSR(INITIAL), true, true, BIT64(32) },
		{ MSR(CURRENT), true, false, 0 }, { MSR(DCR), true, true, 4 },
		{ MSR(SELF_IPI), false, true, 0x100 }, { 0x800, false, false, 0 },
		{ 0x840, false, false, 0 }, { 0x8ff, false, false, 0 },
	};

	/* #GP for all of them in xAPIC mode. */
	for (uint32_t msr = 0x800; msr < 0x900; msr++) {
		assert_int_equal(rdmsr_error(1, msr), -EINVAL);
		assert_int_equal(wrmsr(1, msr, 0), -EINVAL);
	}
	put(1, SVR, 0x1ff);
	to_x2apic(1);
	for (size_t i = 0; i < ARRAY_SIZE(regs); i++) {
		assert_int_equal(rdmsr_error(1, regs[i].msr), regs[i].r ? 0 : -EINVAL);
		if (!regs[i].w)
			assert_int_equal(wrmsr(1, regs[i].msr, 0), -EINVAL);
		if (regs[i].bad != 0)
			assert_int_equal(wrmsr(1, regs[i].msr, regs[i].bad), -EINVAL);
		if (regs[i].w && regs[i].msr != MSR(ICR)) {
			assert_int_equal(wrmsr(1, regs[i].msr, BIT64(32)), -EINVAL);
			if (regs[i].msr != MSR(SELF_IPI))
				assert_int_equal(wrmsr(1, regs[i].msr, 0), 0);
		}
	}
	assert_int_equal(rdmsr(1, MSR(ID)), 1);
	assert_int_equal(get(1, ID), 0xffffffff); /* the page is gone */
	to_x2apic(9);
	assert_int_equal(rdmsr(9, MSR(LDR)), 0x200);
	assert_int_equal(rdmsr(1, MSR(LDR)), 0x2);
	/* Reserved bits of the ICR. */
	for (int bit = 0; bit < 32; bit++) {
		uint32_t reserved = 0xfff32000;

		/* As a message to no one. */
		assert_int_equal(wrmsr(1, MSR(ICR), 0x1234ull << 32 | 0x40 | BIT64(bit)),
		    reserved & BIT(bit) ? -EINVAL : 0);
	}
}

/* --- Priorities --- */

static void
test_priorities(void **state)
{
	msi(0, 0, 0x45);
	msi(0, 0, 0x48);
	msi(0, 0, 0x61);
	assert_int_equal(pending(0), 0x61);
	assert_int_equal(ack(0), 0x61);
	assert_int_equal(get(0, PPR), 0x60);
	assert_int_equal(pending(0), -1);
	msi(0, 0, 0x6f); /* the same class waits */
	assert_int_equal(pending(0), -1);
	msi(0, 0, 0x70);
	assert_int_equal(ack(0), 0x70);
	assert_int_equal(get(0, PPR), 0x70);
	put(0, EOI, 0);
	assert_int_equal(get(0, PPR), 0x60);
	put(0, EOI, 0);
	expect(0, 0x6f);
	expect(0, 0x48);
	expect(0, 0x45);
	assert_int_equal(pending(0), -1);
	put(0, EOI, 0); /* nothing in service: ignored */
	assert_int_equal(get(0, PPR), 0);
}

static void
test_task_priority(void **state)
{
	put(0, TPR, 0x53);
	assert_int_equal(get(0, PPR), 0x53);
	assert_int_equal(machine()->cr8_read(f.t.vm, 0), 5);
	msi(0, 0, 0x5f);
	assert_int_equal(pending(0), -1);
	assert_int_equal(ack(0), -1);
	msi(0, 0, 0x60);
	assert_int_equal(ack(0), 0x60);
	assert_int_equal(get(0, PPR), 0x60);
	put(0, EOI, 0);
	assert_int_equal(get(0, PPR), 0x53);
	/* CR8 sets the class and clears the rest; lowering it makes the vCPU look. */
	mock_vcpu(f.t.vm, 0)->kicks = 0;
	machine()->cr8_write(f.t.vm, 0, 4);
	assert_int_equal(get(0, TPR), 0x40);
	assert_int_equal(mock_vcpu(f.t.vm, 0)->kicks, 1);
	expect(0, 0x5f);
	machine()->cr8_write(f.t.vm, 0, 15);
	assert_int_equal(get(0, TPR), 0xf0);
	msi(0, 0, 0xff);
	assert_int_equal(pending(0), -1);
}

/* Every vector, in every order of arrival, is delivered once and by priority. */
static void
test_all_vectors(void **state)
{
	uint64_t seed = 10;

	for (int i = 0; i < 4096; i++)
		msi(0, 0, 16 + (uint32_t)(chip_random(&seed) % 240));
	for (int v = 255; v >= 16; v--)
		assert_true(get(0, IRR + (uint32_t)v / 32 * 16) & BIT(v % 32));
	for (int v = 255; v >= 16; v--)
		expect(0, v);
	assert_int_equal(pending(0), -1);
	assert_int_equal(get(0, IRR), 0);
}

static void
test_kicks(void **state)
{
	struct engine_vcpu *v = mock_vcpu(f.t.vm, 1);

	v->kicks = 0;
	msi(1, 0, 0x41);
	assert_int_equal(v->kicks, 1);
	msi(1, 0, 0x41); /* merged with the first */
	assert_int_equal(v->kicks, 1);
	msi(1, 0, 0x42);
	assert_int_equal(v->kicks, 2);
	/* While one is in service, it may come again. */
	assert_int_equal(ack(1), 0x42);
	msi(1, 0, 0x42);
	assert_int_equal(v->kicks, 3);
	put(1, EOI, 0); /* more to come */
	assert_int_equal(v->kicks, 4);
	expect(1, 0x42);
	expect(1, 0x41);
	for (int cpu = 0; cpu < CPUS; cpu++) {
		if (cpu != 1)
			assert_int_equal(mock_vcpu(f.t.vm, cpu)->kicks, 0);
	}
}

static void
test_eoi_broadcast(void **state)
{
	msi(0, 0, 0x41);
	expect(0, 0x41);
	assert_int_equal(f.eois, 0); /* edge */
	msi(0, 0, LEVEL | ASSERT | 0x41);
	assert_int_equal(get(0, TMR + 0x20), BIT(1));
	expect(0, 0x41);
	assert_int_equal(f.eois, 1);
	assert_int_equal(f.eoi_vector, 0x41);
	/* The next edge makes it one again. */
	msi(0, 0, 0x41);
	assert_int_equal(get(0, TMR + 0x20), 0);
	expect(0, 0x41);
	assert_int_equal(f.eois, 1);
	put(0, SVR, NO_BROADCAST | 0x1ff);
	msi(0, 0, LEVEL | ASSERT | 0x41);
	expect(0, 0x41);
	assert_int_equal(f.eois, 1);
}

/* With a real IOAPIC: the end of interrupt comes back to it and a line still high interrupts
 * again. */
static void
test_ioapic_round_trip(void **state)
{
	struct ioapic *ioapic;

	assert_int_equal(ioapic_create(f.t.vm, &ioapic), 0);
	mock_mmio_write(f.t.vm, 0, IOAPIC_BASE, 4, 0x10 + 2 * 17 + 1);
	mock_mmio_write(f.t.vm, 0, IOAPIC_BASE + 0x10, 4, 2u << 24);
	mock_mmio_write(f.t.vm, 0, IOAPIC_BASE, 4, 0x10 + 2 * 17);
	mock_mmio_write(f.t.vm, 0, IOAPIC_BASE + 0x10, 4, LEVEL | 0x62);
	vm_irq_set(f.t.vm, 17, true, NULL);
	expect(2, 0x62);
	assert_int_equal(ack(2), 0x62);
	vm_irq_set(f.t.vm, 17, false, NULL);
	put(2, EOI, 0);
	assert_int_equal(pending(2), -1);
	ioapic_destroy(ioapic);
}

/* --- Destinations --- */

static void
test_physical(void **state)
{
	for (int cpu = 0; cpu < CPUS; cpu++) {
		send(3, (uint8_t)cpu, 0x51);
		expect_on(BIT(cpu), 0x51);
		msi((uint8_t)cpu, 0, 0x52);
		expect_on(BIT(cpu), 0x52);
	}
	send(3, 0xff, 0x53);
	expect_on(0x3ff, 0x53);
	msi(0xff, 0, 0x54);
	expect_on(0x3ff, 0x54);
	send(3, CPUS, 0x55);
	send(3, 0xfe, 0x55);
	msi(0xfe, 0, 0x55);
	expect_on(0, 0);
	/* An MSI elsewhere is none. */
	vm_msi(f.t.vm, 0xfef00000, 0x56);
	vm_msi(f.t.vm, 0x1fee00000, 0x56);
	vm_msi(f.t.vm, 0x1000, 0x56);
	expect_on(0, 0);
}

/* Sockets of three cores of two threads: core 3 of each socket is a gap, and IDs end beyond CPUs. */
static void
test_gaps_in_ids(void **state)
{
	static const uint8_t ids[] = { 0, 1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 13 };
	const struct x86_topology topo = { 2, 3, 2 };
	const int cpus = (int)ARRAY_SIZE(ids);
	struct vm *vm = mock_vm_create_topo(MIB(1), &topo, NULL);
	struct lapic *l;

	assert_non_null(vm);
	assert_int_equal(lapic_create(vm, &l), 0);
	for (int cpu = 0; cpu < cpus; cpu++)
		mock_mmio_write(vm, cpu, PAGE + SVR, 4, 0x1ff);
	for (int id = 0; id < 256; id++) {
		vm_msi(vm, PAGE | (uint32_t)id << 12, 0x51);
		for (int cpu = 0; cpu < cpus; cpu++) {
			bool meant = id == ids[cpu] || id == 255;
			int vector = mock_machine(vm)->intr_pending(vm, cpu);

			assert_int_equal(mock_mmio_read(vm, cpu, PAGE + ID, 4), ids[cpu] << 24);
			assert_int_equal(vector, meant ? 0x51 : -1);
			if (!meant)
				continue;
			assert_int_equal(mock_machine(vm)->intr_ack(vm, cpu), 0x51);
			mock_mmio_write(vm, cpu, PAGE + EOI, 4, 0);
		}
	}
	/* The x2APIC's logical address follows from the ID. */
	assert_int_equal(lapic_x2apic(l), 0);
	for (int cpu = 0; cpu < cpus; cpu++) {
		uint64_t ldr;

		assert_int_equal(mock_machine(vm)->apic_msr_read(vm, cpu, MSR(LDR), &ldr), 0);
		assert_int_equal(ldr, 1 << ids[cpu]);
	}
	lapic_destroy(l);
	vm_destroy(vm);
}

static void
test_logical_flat(void **state)
{
	/* CPUs 8 and 9 share bits 0 and 1. */
	send(0, 0x06, LOGICAL | 0x51);
	expect_on(BIT(1) | BIT(9) | BIT(2), 0x51);
	msi(0x81, 4, 0x52);
	expect_on(BIT(0) | BIT(8) | BIT(7), 0x52);
	send(0, 0xff, LOGICAL | 0x53);
	expect_on(0x3ff, 0x53);
	send(0, 0, LOGICAL | 0x54);
	expect_on(0, 0);
}

static void
test_logical_cluster(void **state)
{
	for (int cpu = 0; cpu < CPUS; cpu++) {
		put(cpu, DFR, 0x0fffffff);
		put(cpu, LDR, ((unsigned)cpu / 4 << 4 | 1u << cpu % 4) << 24);
	}
	send(0, 0x15, LOGICAL | 0x51); /* cluster 1, members 0 and 2 */
	expect_on(BIT(4) | BIT(6), 0x51);
	msi(0x2f, 4, 0x52);
	expect_on(BIT(8) | BIT(9), 0x52);
	send(0, 0xf2, LOGICAL | 0x53); /* member 1 of all clusters */
	expect_on(BIT(1) | BIT(5) | BIT(9), 0x53);
	send(0, 0xff, LOGICAL | 0x54);
	expect_on(0x3ff, 0x54);
	send(0, 0x31, LOGICAL | 0x55);
	expect_on(0, 0);
	/* Other models are reserved. */
	put(4, DFR, 0x5fffffff);
	send(0, 0x15, LOGICAL | 0x56);
	expect_on(BIT(6), 0x56);
}

static void
test_x2apic_destinations(void **state)
{
	for (int cpu = 0; cpu < CPUS; cpu++)
		to_x2apic(cpu);
	assert_int_equal(wrmsr(0, MSR(ICR), 7ull << 32 | 0x51), 0);
	expect_x2(7, 0x51);
	assert_int_equal(rdmsr(0, MSR(ICR)), 7ull << 32 | 0x51);
	/* Logical: cluster and member; 255 is not a broadcast. */
	assert_int_equal(wrmsr(0, MSR(ICR), 0x208ull << 32 | LOGICAL | 0x52), 0);
	expect_x2(3, 0x52);
	expect_x2(9, 0x52);
	assert_int_equal(wrmsr(0, MSR(ICR), 0x10208ull << 32 | LOGICAL | 0x52), 0);
	assert_int_equal(wrmsr(0, MSR(ICR), 0xffull << 32 | 0x52), 0);
	for (int cpu = 0; cpu < CPUS; cpu++)
		assert_int_equal(pending(cpu), -1);
	assert_int_equal(wrmsr(0, MSR(ICR), 0xffffffffull << 32 | 0x53), 0);
	for (int cpu = 0; cpu < CPUS; cpu++)
		expect_x2(cpu, 0x53);
	/* Messages of devices have eight bits. */
	msi(5, 0, 0x54);
	expect_x2(5, 0x54);
	msi(0x0c, 4, 0x55);
	expect_x2(2, 0x55);
	expect_x2(3, 0x55);
	/* Self IPI. */
	assert_int_equal(wrmsr(4, MSR(SELF_IPI), 0x56), 0);
	expect_x2(4, 0x56);
}

/* As firmware leaves a machine with high APIC IDs. */
static void
test_x2apic_from_start(void **state)
{
	assert_int_equal(lapic_x2apic(f.lapic), 0);
	for (int cpu = 0; cpu < CPUS; cpu++)
		assert_int_equal(rdmsr(cpu, MSR(ID)), cpu);
}

static void
test_mixed_modes(void **state)
{
	to_x2apic(1);
	send(0, 1, 0x51);
	expect_x2(1, 0x51);
	assert_int_equal(wrmsr(1, MSR(ICR), 0x52), 0);
	expect(0, 0x52);
	/* A 32-bit destination never fits an xAPIC by its low bits. */
	assert_int_equal(wrmsr(1, MSR(ICR), 0x100ull << 32 | 0x53), 0);
	assert_int_equal(wrmsr(1, MSR(ICR), 0x101ull << 32 | LOGICAL | 0x53), 0);
	assert_int_equal(pending(0), -1);
}

static void
test_shorthands(void **state)
{
	put(4, ICR_HI, 0x01000000); /* not looked at */
	put(4, ICR, TO_SELF | 0x51);
	expect_on(BIT(4), 0x51);
	put(4, ICR, TO_ALL | 0x52);
	expect_on(0x3ff, 0x52);
	put(4, ICR, TO_OTHERS | 0x53);
	expect_on(0x3ff & ~BIT(4), 0x53);
	put(4, ICR, TO_OTHERS | LOGICAL | LOWEST | 0x54);
	expect_on(0x3ff & ~BIT(4), 0x54);
	/* Of no meaning (table 10-3). */
	put(4, ICR, TO_SELF | LOWEST | 0x55);
	put(4, ICR, TO_ALL | LOWEST | 0x55);
	expect_on(0, 0);
	put(4, ICR, TO_OTHERS | NMI);
	for (int cpu = 0; cpu < CPUS; cpu++)
		assert_int_equal(mock_vcpu(f.t.vm, cpu)->nmis, cpu != 4);
	put(4, ICR, TO_SELF | NMI);
	assert_int_equal(mock_vcpu(f.t.vm, 4)->nmis, 1);
}

static void
test_lowest_priority(void **state)
{
	int got[CPUS] = { 0 };

	/* Among the destinations, the one of the lowest task priority class. */
	for (int cpu = 0; cpu < CPUS; cpu++)
		put(cpu, TPR, 0x20);
	put(3, TPR, 0x1f);
	put(6, TPR, 0x10);
	put(5, TPR, 0x00);
	msi(0x4e, 4, LOWEST | 0x51); /* 1, 2, 3, 6 and 9 */
	assert_int_equal((pending(3) == 0x51) + (pending(6) == 0x51), 1);
	expect(pending(3) == 0x51 ? 3 : 6, 0x51);
	expect_on(0, 0);
	/* Among equals all in turn. */
	for (int i = 0; i < 40; i++) {
		put(3, TPR, 0x20);
		put(6, TPR, 0x20);
		msi(0x0e, 4, LOWEST | 0x52);
		for (int cpu = 0; cpu < CPUS; cpu++) {
			if (pending(cpu) == 0x52) {
				expect(cpu, 0x52);
				got[cpu]++;
			}
		}
	}
	assert_int_equal(got[1] + got[2] + got[3] + got[9], 40);
	assert_true(got[1] > 0 && got[2] > 0 && got[3] > 0 && got[9] > 0);
	/* The redirection hint with a logical destination means the same, with a physical one
	 * nothing. */
	msi(0x60, 4 | 8, 0x53);
	expect(5, 0x53);
	msi(0xff, 8, 0x54);
	expect_on(0x3ff, 0x54);
	/* A software-disabled one does not take part. */
	put(5, SVR, 0xff);
	msi(0x60, 4, LOWEST | 0x55);
	expect(6, 0x55);
	/* By IPI. */
	send(0, 0x0c, LOGICAL | LOWEST | 0x56);
	assert_int_equal((pending(2) == 0x56) + (pending(3) == 0x56), 1);
}

/* --- Delivery modes --- */

static void
test_nmi(void **state)
{
	put(2, SVR, 0xff); /* software-disabled APICs take NMIs */
	send(0, 2, NMI);
	assert_int_equal(mock_vcpu(f.t.vm, 2)->nmis, 1);
	msi(2, 0, NMI | 0x99);
	assert_int_equal(mock_vcpu(f.t.vm, 2)->nmis, 2);
	assert_int_equal(pending(2), -1);
	send(0, 2, SMI);
	msi(2, 0, SMI);
	msi(2, 0, MODE(3) | 0x55);
	msi(2, 0, SIPI | 0x55); /* devices send none */
	assert_int_equal(pending(2), -1);
}

static void
stop_when_started(struct engine_vcpu *v, struct engine_exit *e)
{
	if (v->id == 1)
		vm_shutdown(v->vm->params.ctx, VM_EXIT_POWEROFF);
	if (v->id != 0)
		return;
	/* As operating systems start a processor: INIT, its de-assertion, two start-ups. */
	send(0, 1, INIT | LEVEL | ASSERT);
	send(0, 1, INIT | LEVEL);
	send(0, 1, SIPI | 0x9a);
	send(0, 1, SIPI | 0x9b);
}

static void
test_start_up(void **state)
{
	struct x86_state s;

	send(0, 1, 0x77); /* INIT forgets it */
	mock_vm(f.t.vm)->run = stop_when_started;
	assert_int_equal(vm_run(f.t.vm), VM_EXIT_POWEROFF);
	vm_vcpu_get(f.t.vm, 1, &s);
	assert_int_equal(s.seg[X86_CS].base, 0x9a000);
	assert_int_equal(s.rip, 0);
	assert_int_equal(pending(1), -1);
	vm_vcpu_get(f.t.vm, 2, &s);
	assert_int_equal(s.activity, X86_WAIT_SIPI);
}

static void
test_init(void **state)
{
	/* INIT keeps ID, base and mode only. */
	to_x2apic(1);
	assert_int_equal(wrmsr(1, MSR(TPR), 0x30), 0);
	assert_int_equal(wrmsr(1, MSR(INITIAL), 1000000), 0);
	assert_int_equal(wrmsr(1, MSR(LVT_TIMER), 0x41), 0);
	send(0, 1, 0x77);
	assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, 0x12345000 | ENABLE | X2APIC), 0);
	mock_vm(f.t.vm)->run = stop_when_started;
	assert_int_equal(vm_run(f.t.vm), VM_EXIT_POWEROFF);
	assert_int_equal(rdmsr(1, X86_MSR_APIC_BASE), 0x12345000 | ENABLE | X2APIC);
	assert_int_equal(rdmsr(1, MSR(ID)), 1);
	assert_int_equal(rdmsr(1, MSR(TPR)), 0);
	assert_int_equal(rdmsr(1, MSR(SVR)), 0xff);
	assert_int_equal(rdmsr(1, MSR(LVT_TIMER)), MASKED);
	assert_int_equal(rdmsr(1, MSR(INITIAL)), 0);
	assert_int_equal(pending(1), -1);
}

static void
test_software_disabled(void **state)
{
	put(1, LVT_LINT0, 0x41);
	put(1, LVT_TIMER, 0x42);
	msi(1, 0, 0x51);
	put(1, SVR, 0xff);
	/* The LVT is masked and stays so; fixed messages are refused; what was there is kept. */
	assert_int_equal(get(1, LVT_LINT0), MASKED | 0x41);
	assert_int_equal(get(1, LVT_TIMER), MASKED | 0x42);
	put(1, LVT_LINT0, 0x43);
	assert_int_equal(get(1, LVT_LINT0), MASKED | 0x43);
	msi(1, 0, 0x52);
	send(0, 1, 0x53);
	msi(1, 0, EXTINT);
	expect_on(BIT(1), 0x51);
	/* It can still send. */
	send(1, 0, 0x54);
	expect_on(BIT(0), 0x54);
	put(1, SVR, 0x1ff);
	assert_int_equal(get(1, LVT_LINT0), MASKED | 0x43);
	put(1, LVT_LINT0, 0x43);
	assert_int_equal(get(1, LVT_LINT0), 0x43);
}

/* --- Errors --- */

static void
test_errors(void **state)
{
	put(0, LVT_ERROR, 0xe0);
	/* Nothing shows before ESR is written; the interrupt comes at once. */
	put(0, ICR, TO_SELF | 0x0f);
	assert_int_equal(get(0, ESR), 0);
	expect(0, 0xe0);
	put(0, ESR, 0);
	assert_int_equal(get(0, ESR), BIT(5));
	put(0, ESR, 0);
	assert_int_equal(get(0, ESR), 0);
	/* Received from elsewhere. */
	msi(0, 0, 0x05);
	expect(0, 0xe0);
	msi(0, 0, 0x05); /* the interrupt is not armed again yet */
	put(0, ICR, TO_SELF | 0x03);
	assert_int_equal(pending(0), -1);
	put(0, ESR, 0xffffffff);
	assert_int_equal(get(0, ESR), BIT(5) | BIT(6));
	/* Registers that do not exist. */
	(void)get(0, 0x40);
	expect(0, 0xe0);
	put(0, ESR, 0);
	assert_int_equal(get(0, ESR), BIT(7));
	put(0, 0xff0, 1);
	put(0, ESR, 0);
	assert_int_equal(get(0, ESR), BIT(7));
	expect(0, 0xe0);
	/* An error interrupt that is itself illegal ends there. */
	put(0, LVT_ERROR, 0x0e);
	msi(0, 0, 0x05);
	put(0, ESR, 0);
	assert_int_equal(get(0, ESR), BIT(6));
	assert_int_equal(pending(0), -1);
	/* The self IPI of x2APIC mode. */
	to_x2apic(1);
	assert_int_equal(wrmsr(1, MSR(SELF_IPI), 3), 0);
	assert_int_equal(wrmsr(1, MSR(ESR), 0), 0);
	assert_int_equal(rdmsr(1, MSR(ESR)), BIT(5));
}

/* --- The 8259 and LINT0 --- */

static void
pic_raise(int vector)
{
	f.pic_pending = true;
	f.pic_vector = vector;
	vm_pic_output(f.t.vm, true);
}

static void
test_extint(void **state)
{
	mock_vcpu(f.t.vm, 0)->kicks = 0;
	pic_raise(0x08);
	expect_on(0, 0); /* nobody listens */
	assert_int_equal(mock_vcpu(f.t.vm, 0)->kicks, 0);
	/* Unmasking finds it. */
	put(0, LVT_LINT0, EXTINT);
	assert_true(mock_vcpu(f.t.vm, 0)->kicks > 0);
	assert_int_equal(pending(0), 0);
	assert_int_equal(pending(1), -1);
	assert_int_equal(ack(0), 0x08);
	assert_int_equal(pending(0), -1);
	assert_int_equal(get(0, PPR), 0); /* not the APIC's business */
	pic_raise(0x09);
	msi(0, 0, 0x51);
	expect(0, 0x51);
	assert_int_equal(ack(0), 0x09);
	/* The task priority does not hold it back. */
	put(0, TPR, 0xff);
	pic_raise(0x0a);
	assert_int_equal(ack(0), 0x0a);
	assert_int_equal(ack(0), -1);
	put(0, LVT_LINT0, MASKED | EXTINT);
	pic_raise(0x0b);
	assert_int_equal(pending(0), -1);
	/* As a message. */
	f.pic_pending = false;
	f.pic_vector = 0x27;
	msi(2, 0, EXTINT);
	assert_int_equal(pending(2), 0);
	assert_int_equal(ack(2), 0x27);
	assert_int_equal(pending(2), -1);
}

static void
test_without_apic(void **state)
{
	/* Globally disabled, the bootstrap processor has an INTR pin. */
	assert_int_equal(wrmsr(0, X86_MSR_APIC_BASE, PAGE | BSP), 0);
	assert_int_equal(wrmsr(1, X86_MSR_APIC_BASE, PAGE), 0);
	mock_vcpu(f.t.vm, 0)->kicks = 0;
	pic_raise(0x08);
	assert_int_equal(mock_vcpu(f.t.vm, 0)->kicks, 1);
	assert_int_equal(pending(1), -1);
	assert_int_equal(ack(0), 0x08);
}

static void
test_virtual_wire(void **state)
{
	lapic_virtual_wire(f.lapic);
	assert_int_equal(get(0, SVR), 0x1ff);
	assert_int_equal(get(0, LVT_LINT0), EXTINT);
	assert_int_equal(get(0, LVT_LINT1), NMI);
	pic_raise(0x20);
	assert_int_equal(ack(0), 0x20);
	assert_int_equal(get(1, SVR), 0xff);
}

static void
test_lint0_modes(void **state)
{
	put(0, LVT_LINT0, NMI);
	pic_raise(0x08);
	assert_int_equal(mock_vcpu(f.t.vm, 0)->nmis, 1);
	vm_pic_output(f.t.vm, false);
	assert_int_equal(mock_vcpu(f.t.vm, 0)->nmis, 1);
	/* Fixed, edge. */
	put(0, LVT_LINT0, 0x66);
	assert_int_equal(pending(0), -1);
	vm_pic_output(f.t.vm, true);
	expect(0, 0x66);
	assert_int_equal(pending(0), -1);
	/* Fixed, level: remote IRR until the end, then again. */
	put(0, LVT_LINT0, LEVEL | 0x67);
	assert_int_equal(get(0, LVT_LINT0), 0x4000 | LEVEL | 0x67);
	expect(0, 0x67);
	assert_int_equal(get(0, LVT_LINT0), 0x4000 | LEVEL | 0x67);
	assert_int_equal(ack(0), 0x67);
	f.pic_pending = false;
	vm_pic_output(f.t.vm, false);
	put(0, EOI, 0);
	assert_int_equal(get(0, LVT_LINT0), LEVEL | 0x67);
	assert_int_equal(pending(0), -1);
}

/* --- The rest --- */

static void
test_hostile(void **state)
{
	uint64_t seed = 0xfee;

	for (int i = 0; i < 300000; i++) {
		uint64_t r = chip_random(&seed), val = chip_random(&seed);
		int cpu = (int)(r >> 8 & 0xff) % CPUS;
		uint32_t off = r >> 16 & 0xfff;

		switch (r & 15) {
		case 0: step(val & 0xffff); break;
		case 1: (void)mock_mmio_read(f.t.vm, cpu, PAGE + off, 1 + (r >> 60 & 7)); break;
		case 2:
			vm_msi(f.t.vm, PAGE | (val & 0xfffff), (uint32_t)(val >> 32) & ~0x600u);
			break;
		case 3: (void)wrmsr(cpu, X86_MSR_APIC_BASE, PAGE | (val & 0xd00)); break;
		case 4: (void)wrmsr(cpu, 0x800 + (off & 0xff), val >> (r >> 58)); break;
		case 5: (void)rdmsr_error(cpu, 0x800 + (off & 0xff)); break;
		case 6: (void)wrmsr(cpu, X86_MSR_TSC_DEADLINE, val >> (r >> 58)); break;
		case 7: machine()->cr8_write(f.t.vm, cpu, (uint8_t)val); break;
		case 8:
		case 9:
			if (pending(cpu) >= 0)
				assert_in_range(ack(cpu), 0, 255);
			break;
		case 10:
			f.pic_pending = val & 1;
			vm_pic_output(f.t.vm, f.pic_pending);
			break;
		default: put(cpu, off & 0x3f0, (uint32_t)val); break;
		}
	}
}

#define SENDERS 4
#define MESSAGES 20000

static atomic_int senders;

static void *
send_many(void *arg)
{
	uint32_t first = 0x40 + 0x20 * (uint32_t)(uintptr_t)arg;

	for (uint32_t i = 0; i < MESSAGES; i++)
		msi(0, 0, first + i % 32);
	atomic_fetch_sub(&senders, 1);
	return NULL;
}

/* Senders on threads of their own: no request may be lost between IRR and its summary. */
static void
test_threads(void **state)
{
	pthread_t thread[SENDERS];
	int vector;
	bool sending, taken[256] = { false };

	atomic_store(&senders, SENDERS);
	for (uintptr_t i = 0; i < SENDERS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, send_many, (void *)i), 0);
	/* Takes interrupts as they come, until nobody sends and none is left. */
	do {
		sending = atomic_load(&senders) != 0;
		vector = ack(0);
		if (vector >= 0) {
			put(0, EOI, 0);
			taken[vector] = true;
		}
	} while (sending || vector >= 0);
	for (int i = 0; i < SENDERS; i++)
		pthread_join(thread[i], NULL);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(get(0, IRR + 16 * i), 0);
	for (int v = 0x40; v < 0x40 + SENDERS * 32; v++) {
		assert_true(taken[v]);
		msi(0, 0, (uint32_t)v);
		expect(0, v);
	}
}

static void
spoil_isr(uint8_t *data, size_t len)
{
	/* Behind the magic and the header of the first section: base, IRR 0, TMR 0, then ISR 0. */
	data[8 + 1 + 5 + 12 + 8 + 8] = 1;
}

static void
test_state(void **state)
{
	struct vm_state *saved;

	put(1, TPR, 0x10);
	put(1, LVT_TIMER, PERIODIC | 0x72);
	put(1, INITIAL, 1000000);
	msi(1, 0, LEVEL | ASSERT | 0x81);
	assert_int_equal(ack(1), 0x81);
	msi(1, 0, 0x33);
	msi(1, 0, 0x0f);
	put(1, ICR_HI, 0x05000000);
	put(1, LDR, 0x40000000);
	to_x2apic(2);
	assert_int_equal(wrmsr(2, MSR(LVT_TIMER), DEADLINE | 0x73), 0);
	assert_int_equal(wrmsr(2, X86_MSR_TSC_DEADLINE, MOCK_CLOCK_START + 700000), 0);
	step(400000);
	saved = chip_save(&f.t);

	for (int cpu = 0; cpu < CPUS; cpu++)
		assert_int_equal(wrmsr(cpu, X86_MSR_APIC_BASE, PAGE), 0);
	assert_int_equal(chip_load(&f.t, saved, spoil_isr), -EINVAL);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	assert_int_equal(rdmsr(0, X86_MSR_APIC_BASE), PAGE | ENABLE | BSP);
	assert_int_equal(get(1, TPR), 0x10);
	assert_int_equal(get(1, PPR), 0x80);
	assert_int_equal(get(1, LDR), 0x40000000);
	assert_int_equal(get(1, ICR_HI), 0x05000000);
	assert_int_equal(get(1, CURRENT), 600000);
	assert_int_equal(pending(1), -1);
	put(1, EOI, 0);
	assert_int_equal(f.eois, 1);
	expect(1, 0x33);
	put(1, ESR, 0);
	assert_int_equal(get(1, ESR), BIT(6));
	assert_int_equal(rdmsr(2, X86_MSR_TSC_DEADLINE), MOCK_CLOCK_START + 700000);
	step(300001);
	expect_x2(2, 0x73);
	step(300000);
	expect(1, 0x72);
	vm_state_destroy(saved);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		LAPIC_TEST_RESET(test_reset_values),
		LAPIC_TEST_RESET(test_writable_bits),
		LAPIC_TEST_RESET(test_page),
		LAPIC_TEST_RESET(test_mode_transitions),
		LAPIC_TEST(test_disable_resets),
		LAPIC_TEST_RESET(test_x2apic_registers),
		LAPIC_TEST(test_priorities),
		LAPIC_TEST(test_task_priority),
		LAPIC_TEST(test_all_vectors),
		LAPIC_TEST(test_kicks),
		LAPIC_TEST(test_eoi_broadcast),
		LAPIC_TEST(test_ioapic_round_trip),
		LAPIC_TEST(test_physical),
		LAPIC_TEST(test_gaps_in_ids),
		LAPIC_TEST(test_logical_flat),
		LAPIC_TEST(test_logical_cluster),
		LAPIC_TEST(test_x2apic_destinations),
		LAPIC_TEST_RESET(test_x2apic_from_start),
		LAPIC_TEST(test_mixed_modes),
		LAPIC_TEST(test_shorthands),
		LAPIC_TEST(test_lowest_priority),
		LAPIC_TEST(test_nmi),
		LAPIC_TEST(test_start_up),
		LAPIC_TEST(test_init),
		LAPIC_TEST(test_software_disabled),
		LAPIC_TEST(test_errors),
		LAPIC_TEST(test_extint),
		LAPIC_TEST(test_without_apic),
		LAPIC_TEST_RESET(test_virtual_wire),
		LAPIC_TEST(test_lint0_modes),
		LAPIC_TEST(test_hostile),
		LAPIC_TEST(test_threads),
		LAPIC_TEST(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
