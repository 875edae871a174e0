/*
 * Interrupt routing: shared lines, sinks, MSIs, the 8259's way to the vCPUs.
 */
#include "mock_engine.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <pthread.h>

struct sink {
	int rises[VM_IRQ_LINES], falls[VM_IRQ_LINES];
	bool level[VM_IRQ_LINES];
	int eois, last_eoi;
};

static void
sink_set(void *ctx, int line, bool level)
{
	struct sink *s = ctx;

	assert_true(level != s->level[line]);
	s->level[line] = level;
	if (level)
		s->rises[line]++;
	else
		s->falls[line]++;
}

static void
sink_eoi(void *ctx, uint8_t vector)
{
	struct sink *s = ctx;

	s->eois++;
	s->last_eoi = vector;
}

static const struct vm_irq_sink_ops ioapic_ops = { "ioapic", sink_set, sink_eoi };
static const struct vm_irq_sink_ops pic_ops = { "pic", sink_set, NULL };

static int
setup(void **state)
{
	*state = mock_vm_create(MIB(1), 2);
	return *state == NULL;
}

static int
teardown(void **state)
{
	vm_destroy(*state);
	return 0;
}

static void
test_lines(void **state)
{
	struct vm *vm = *state;
	struct sink a = { .eois = 0 }, b = { .eois = 0 };

	vm_irq_sink_add(vm, &ioapic_ops, &a);
	vm_irq_set(vm, 5, true, NULL);
	vm_irq_set(vm, 5, true, NULL);
	assert_int_equal(a.rises[5], 1);
	/* One that comes later learns what is asserted. */
	vm_irq_sink_add(vm, &pic_ops, &b);
	assert_true(b.level[5]);
	assert_int_equal(b.rises[4], 0);
	vm_irq_set(vm, 5, false, NULL);
	vm_irq_set(vm, 5, false, NULL);
	assert_int_equal(a.falls[5], 1);
	assert_int_equal(b.falls[5], 1);
	vm_irq_pulse(vm, 23);
	assert_int_equal(a.rises[23], 1);
	assert_int_equal(a.falls[23], 1);
	vm_irq_set(vm, 0, false, NULL);
	assert_int_equal(a.falls[0], 0);
}

static void
test_shared(void **state)
{
	struct vm *vm = *state;
	struct sink a = { .eois = 0 };
	char dev[40];

	vm_irq_sink_add(vm, &ioapic_ops, &a);
	for (size_t i = 0; i < sizeof(dev); i++)
		vm_irq_set(vm, 16, true, &dev[i]);
	assert_int_equal(a.rises[16], 1);
	/* Let go in another order, each twice: the line falls with the last. */
	for (size_t i = 0; i < sizeof(dev); i++) {
		assert_true(a.level[16]);
		vm_irq_set(vm, 16, false, &dev[(i + 7) % sizeof(dev)]);
		vm_irq_set(vm, 16, false, &dev[(i + 7) % sizeof(dev)]);
	}
	assert_false(a.level[16]);
	assert_int_equal(a.rises[16], 1);
	assert_int_equal(a.falls[16], 1);
}

static void
test_eoi(void **state)
{
	struct vm *vm = *state;
	struct sink a = { .eois = 0 }, b = { .eois = 0 };

	vm_irq_eoi(vm, 0x31);
	vm_irq_sink_add(vm, &pic_ops, &b);
	vm_irq_sink_add(vm, &ioapic_ops, &a);
	vm_irq_eoi(vm, 0x31);
	assert_int_equal(a.eois, 1);
	assert_int_equal(a.last_eoi, 0x31);
	assert_int_equal(b.eois, 0);
}

/* --- Local APICs --- */

struct apic {
	uint64_t addr;
	uint32_t data;
	int msis;
	uint8_t cr8[2];
};

static void
apic_msi(void *ctx, uint64_t addr, uint32_t data)
{
	struct apic *a = ctx;

	a->addr = addr;
	a->data = data;
	a->msis++;
}

static int
apic_pending(void *ctx, int cpu)
{
	return 0x40 + cpu;
}

static int
apic_ack(void *ctx, int cpu)
{
	return 0x50 + cpu;
}

static int
apic_msr_read(void *ctx, int cpu, uint32_t msr, uint64_t *val)
{
	*val = msr + (uint64_t)cpu;
	return 0;
}

static int
apic_msr_write(void *ctx, int cpu, uint32_t msr, uint64_t val)
{
	return val == 1 ? 0 : -EINVAL;
}

static uint8_t
apic_cr8_read(void *ctx, int cpu)
{
	return ((struct apic *)ctx)->cr8[cpu];
}

static void
apic_cr8_write(void *ctx, int cpu, uint8_t val)
{
	((struct apic *)ctx)->cr8[cpu] = val;
}

static void
test_apic(void **state)
{
	static const struct vm_apic_ops ops = { .msi = apic_msi,
		.intr_pending = apic_pending,
		.intr_ack = apic_ack,
		.msr_read = apic_msr_read,
		.msr_write = apic_msr_write,
		.cr8_read = apic_cr8_read,
		.cr8_write = apic_cr8_write };
	struct vm *vm = *state;
	const struct engine_machine *m = mock_machine(vm);
	struct apic a = { .msis = 0 };
	uint64_t val = 0;

	/* Nobody there yet. */
	vm_msi(vm, 0xfee00000, 0x31);
	assert_int_equal(m->apic_msr_read(vm, 0, 0x1b, &val), -EINVAL);
	assert_int_equal(m->apic_msr_write(vm, 0, 0x1b, 0), -EINVAL);
	m->cr8_write(vm, 0, 5);
	assert_int_equal(m->cr8_read(vm, 0), 0);

	vm_apic_register(vm, &ops, &a);
	vm_msi(vm, 0xfee01000, 0x4031);
	assert_int_equal(a.msis, 1);
	assert_int_equal(a.addr, 0xfee01000);
	assert_int_equal(a.data, 0x4031);
	assert_int_equal(m->intr_pending(vm, 1), 0x41);
	assert_int_equal(m->intr_ack(vm, 1), 0x51);
	assert_int_equal(m->apic_msr_read(vm, 1, 0x802, &val), 0);
	assert_int_equal(val, 0x803);
	assert_int_equal(m->apic_msr_write(vm, 0, 0x802, 2), -EINVAL);
	assert_int_equal(m->apic_msr_write(vm, 0, 0x802, 1), 0);
	m->cr8_write(vm, 1, 7);
	assert_int_equal(m->cr8_read(vm, 1), 7);
	assert_int_equal(m->cr8_read(vm, 0), 0);
}

/* --- The 8259 pair --- */

struct pic {
	bool intr;
	int acks;
};

static bool
pic_pending(void *ctx)
{
	return ((struct pic *)ctx)->intr;
}

static int
pic_ack(void *ctx)
{
	struct pic *p = ctx;

	p->acks++;
	p->intr = false;
	return 0x28;
}

static void
test_pic(void **state)
{
	static const struct vm_pic_ops ops = { pic_pending, pic_ack };
	struct vm *vm = *state;
	const struct engine_machine *m = mock_machine(vm);
	struct pic p = { .intr = false };

	assert_false(vm_pic_pending(vm));
	assert_int_equal(vm_pic_ack(vm), -1);
	vm_pic_register(vm, &ops, &p);
	assert_false(vm_pic_pending(vm));
	assert_int_equal(m->intr_pending(vm, 0), -1);
	p.intr = true;
	vm_pic_output(vm, true);
	assert_int_equal(mock_vcpu(vm, 0)->kicks, 1);
	assert_int_equal(mock_vcpu(vm, 1)->kicks, 1);
	vm_pic_output(vm, false);
	assert_int_equal(mock_vcpu(vm, 0)->kicks, 1);
	/* Without local APICs, INTR is vCPU 0's. */
	assert_true(m->intr_pending(vm, 0) >= 0);
	assert_int_equal(m->intr_pending(vm, 1), -1);
	assert_int_equal(m->intr_ack(vm, 1), -1);
	assert_int_equal(m->intr_ack(vm, 0), 0x28);
	assert_int_equal(p.acks, 1);
	assert_int_equal(m->intr_pending(vm, 0), -1);
}

/* --- Threads: a line's changes reach the sink one at a time and in order --- */

struct racer {
	struct vm *vm;
	int source;
};

static void *
racer_run(void *arg)
{
	struct racer *r = arg;

	for (int i = 0; i < 1000; i++) {
		vm_irq_set(r->vm, 9, true, r);
		vm_irq_set(r->vm, 9, false, r);
	}
	return NULL;
}

static void
test_threads(void **state)
{
	struct vm *vm = *state;
	struct sink a = { .eois = 0 };
	struct racer r[3] = { { vm, 0 }, { vm, 1 }, { vm, 2 } };
	pthread_t t[3];

	vm_irq_sink_add(vm, &ioapic_ops, &a);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&t[i], NULL, racer_run, &r[i]), 0);
	for (int i = 0; i < 3; i++)
		pthread_join(t[i], NULL);
	assert_false(a.level[9]);
	assert_int_equal(a.rises[9], a.falls[9]);
	assert_true(a.rises[9] >= 1 && a.rises[9] <= 3000);
}

static bool
press(void *ctx)
{
	(*(int *)ctx)++;
	return true;
}

static void
test_power_button(void **state)
{
	struct vm *vm = *state;
	int presses = 0;

	assert_false(vm_power_button(vm));
	vm_power_button_register(vm, press, &presses);
	assert_true(vm_power_button(vm));
	assert_int_equal(presses, 1);
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_lines),
		TEST(test_shared),
		TEST(test_eoi),
		TEST(test_apic),
		TEST(test_pic),
		TEST(test_threads),
		TEST(test_power_button),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
