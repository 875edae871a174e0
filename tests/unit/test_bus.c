/*
 * Port and MMIO dispatch: sizes, alignment, splitting, overlaps, background, doorbells, the APIC
 * page, changes from within handlers and from other threads.
 */
#include "mock_engine.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <pthread.h>

#define DEV_LOG 16

/* A device that logs its accesses and answers reads from a block of memory. */
struct dev {
	uint8_t reg[64];
	struct {
		bool write;
		uint64_t off, val;
		int size;
	} log[DEV_LOG];
	int logged;
};

static uint64_t
dev_read(void *ctx, uint64_t off, int size)
{
	struct dev *d = ctx;
	uint64_t val = 0;

	assert_true(off % (unsigned)size == 0);
	memcpy(&val, d->reg + off, (size_t)size);
	if (d->logged < DEV_LOG) {
		d->log[d->logged].write = false;
		d->log[d->logged].off = off;
		d->log[d->logged].size = size;
		d->log[d->logged].val = val;
	}
	d->logged++;
	/* What is above the size must not matter. */
	return size < 8 ? val | ~0ull << (8 * size) : val;
}

static void
dev_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct dev *d = ctx;

	assert_true(off % (unsigned)size == 0);
	assert_true(size == 8 || val >> (8 * size) == 0);
	memcpy(d->reg + off, &val, (size_t)size);
	if (d->logged < DEV_LOG) {
		d->log[d->logged].write = true;
		d->log[d->logged].off = off;
		d->log[d->logged].size = size;
		d->log[d->logged].val = val;
	}
	d->logged++;
}

static const struct vm_range_ops dev_any = { "any", dev_read, dev_write, 0, 0 };
static const struct vm_range_ops dev_1 = { "bytes", dev_read, dev_write, 1, 1 };
static const struct vm_range_ops dev_4 = { "dwords", dev_read, dev_write, 4, 4 };
static const struct vm_range_ops dev_48 = { "hpet", dev_read, dev_write, 4, 8 };
static const struct vm_range_ops dev_deaf = { "deaf", NULL, NULL, 0, 0 };

#define HOLE 0xd0000000ull

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

static struct dev
dev_make(void)
{
	struct dev d = { .logged = 0 };

	for (size_t i = 0; i < sizeof(d.reg); i++)
		d.reg[i] = (uint8_t)(0x10 + i);
	return d;
}

static int
dev_add(struct vm *vm, const struct vm_range_ops *ops, void *ctx, enum vm_space space,
    uint64_t base, uint64_t size)
{
	const struct vm_range r = { ops, ctx, space, base, size, false };

	return vm_range_add(vm, &r);
}

static void
test_nothing_answers(void **state)
{
	struct vm *vm = *state;

	assert_int_equal(vm_bus_read(vm, VM_PIO, 0x1234, 1), 0xff);
	assert_int_equal(vm_bus_read(vm, VM_PIO, 0xffff, 4), 0xffffffff);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE, 8), ~0ull);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, ~0ull, 1), 0xff);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, ~0ull - 2, 8), ~0ull);
	vm_bus_write(vm, VM_PIO, 0xffff, 4, 0);
	vm_bus_write(vm, VM_MMIO, HOLE, 8, 0);
	assert_null(vm_range_find(vm, VM_PIO, 0x1234));
	assert_null(vm_range_find(vm, VM_PIO, 0x12345));
}

static void
test_aligned_sizes(void **state)
{
	struct vm *vm = *state;
	struct dev d = dev_make();

	assert_int_equal(dev_add(vm, &dev_any, &d, VM_MMIO, HOLE, 64), 0);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 8, 1), 0x18);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 8, 2), 0x1918);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 8, 4), 0x1b1a1918);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 8, 8), 0x1f1e1d1c1b1a1918);
	assert_int_equal(d.logged, 4);
	vm_bus_write(vm, VM_MMIO, HOLE + 16, 4, 0xffffffff12345678);
	assert_int_equal(d.log[4].size, 4);
	assert_int_equal(d.log[4].val, 0x12345678);
}

static void
test_split(void **state)
{
	struct vm *vm = *state;
	struct dev d = dev_make();

	/* Misaligned: 1 + 2 + 1 bytes, low to high. */
	assert_int_equal(dev_add(vm, &dev_any, &d, VM_MMIO, HOLE, 64), 0);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 1, 4), 0x14131211);
	assert_int_equal(d.logged, 3);
	assert_int_equal(d.log[0].off, 1);
	assert_int_equal(d.log[1].off, 2);
	assert_int_equal(d.log[1].size, 2);
	assert_int_equal(d.log[2].off, 4);

	/* Wider than the device takes. */
	d = dev_make();
	assert_int_equal(dev_add(vm, &dev_1, &d, VM_PIO, 0x70, 8), 0);
	assert_int_equal(vm_bus_read(vm, VM_PIO, 0x70, 4), 0x13121110);
	assert_int_equal(d.logged, 4);
	vm_bus_write(vm, VM_PIO, 0x74, 2, 0xbeef);
	assert_int_equal(d.log[4].val, 0xef);
	assert_int_equal(d.log[5].off, 5);
	assert_int_equal(d.log[5].val, 0xbe);

	d = dev_make();
	assert_int_equal(dev_add(vm, &dev_4, &d, VM_MMIO, HOLE + 64, 64), 0);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 64, 8), 0x1716151413121110);
	assert_int_equal(d.logged, 2);
}

static void
test_widen(void **state)
{
	struct vm *vm = *state;
	struct dev d = dev_make();

	assert_int_equal(dev_add(vm, &dev_48, &d, VM_MMIO, HOLE, 64), 0);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 6, 1), 0x16);
	assert_int_equal(d.log[0].off, 4);
	assert_int_equal(d.log[0].size, 4);

	/* A narrow write reads, merges and writes. */
	vm_bus_write(vm, VM_MMIO, HOLE + 9, 2, 0xaabb);
	assert_int_equal(d.logged, 1 + 4); /* misaligned: two bytes, each read and written */
	assert_int_equal(d.log[4].off, 8);
	assert_int_equal(d.log[4].val, 0x1baabb18);

	/* An aligned 8-byte access stays one. */
	d.logged = 0;
	vm_bus_write(vm, VM_MMIO, HOLE + 16, 8, 0x1122334455667788);
	assert_int_equal(d.logged, 1);
	assert_int_equal(d.log[0].val, 0x1122334455667788);
}

static void
test_boundaries(void **state)
{
	struct vm *vm = *state;
	struct dev a = dev_make(), b = dev_make();

	/* Nothing, a, b, nothing. */
	assert_int_equal(dev_add(vm, &dev_any, &a, VM_PIO, 0x3f8, 2), 0);
	b.reg[0] = 0xb0;
	assert_int_equal(dev_add(vm, &dev_any, &b, VM_PIO, 0x3fa, 1), 0);
	assert_int_equal(vm_bus_read(vm, VM_PIO, 0x3f6, 4), 0x1110ffff);
	assert_int_equal(vm_bus_read(vm, VM_PIO, 0x3f8, 4), 0xffb01110);
	vm_bus_write(vm, VM_PIO, 0x3f9, 4, 0x44332211);
	assert_int_equal(a.reg[1], 0x11);
	assert_int_equal(b.reg[0], 0x22);

	assert_int_equal(dev_add(vm, &dev_any, &a, VM_MMIO, HOLE, 2), 0);
	assert_int_equal(dev_add(vm, &dev_any, &b, VM_MMIO, HOLE + 4, 2), 0);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE - 2, 8), 0x1122ffff1110ffff);
}

static void
test_refused(void **state)
{
	struct vm *vm = *state;
	struct dev d = dev_make();
	const struct vm_range under = { &dev_deaf, &d, VM_PIO, 0, 0x10000, true };

	assert_int_equal(dev_add(vm, &dev_any, &d, VM_PIO, 0x60, 0), -EINVAL);
	assert_int_equal(dev_add(vm, &dev_any, &d, VM_PIO, 0xffff, 2), -EINVAL);
	assert_int_equal(dev_add(vm, &dev_any, &d, VM_PIO, 0x10000, 1), -EINVAL);
	assert_int_equal(dev_add(vm, &dev_any, &d, VM_MMIO, ~0ull, 1), -EINVAL);
	assert_int_equal(dev_add(vm, &dev_4, &d, VM_MMIO, HOLE, 6), -EINVAL);
	assert_int_equal(dev_add(vm, &dev_any, &d, VM_PIO, 0xfffe, 2), 0);

	assert_int_equal(dev_add(vm, &dev_any, &d, VM_PIO, 0x60, 4), 0);
	assert_int_equal(dev_add(vm, &dev_1, &d, VM_PIO, 0x5e, 3), -EEXIST);
	assert_int_equal(dev_add(vm, &dev_1, &d, VM_PIO, 0x63, 1), -EEXIST);
	assert_int_equal(dev_add(vm, &dev_1, &d, VM_PIO, 0x50, 0x40), -EEXIST);
	assert_int_equal(dev_add(vm, &dev_1, &d, VM_PIO, 0x64, 1), 0);
	assert_int_equal(dev_add(vm, &dev_1, &d, VM_PIO, 0x5f, 1), 0);
	assert_string_equal(vm_range_find(vm, VM_PIO, 0x62), "any");
	assert_string_equal(vm_range_find(vm, VM_PIO, 0x64), "bytes");

	assert_int_equal(vm_range_add(vm, &under), 0);
	assert_int_equal(vm_range_add(vm, &under), -EEXIST);
}

static void
test_too_many(void **state)
{
	struct vm *vm = *state;
	struct dev d = dev_make();

	for (unsigned i = 0; i < 4096; i++)
		assert_int_equal(dev_add(vm, &dev_any, &d, VM_MMIO, HOLE + i * 4096, 64), 0);
	assert_int_equal(dev_add(vm, &dev_any, &d, VM_MMIO, HOLE - 64, 64), -ENOSPC);
	for (unsigned i = 0; i < 4096; i += 7)
		assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + i * 4096 + 5, 1), 0x15);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 64, 1), 0xff);
}

static void
test_background(void **state)
{
	struct vm *vm = *state;
	struct dev under = dev_make(), over = dev_make();
	struct vm_range back = { &dev_1, &under, VM_PIO, 0x80, 16, true };
	const struct vm_range front = { &dev_1, &over, VM_PIO, 0x84, 2, false };

	memset(under.reg, 0xbb, sizeof(under.reg));
	assert_int_equal(vm_range_add(vm, &back), 0);
	assert_int_equal(vm_range_add(vm, &front), 0);
	assert_int_equal(vm_bus_read(vm, VM_PIO, 0x83, 4), 0xbb1110bb);
	vm_range_remove(vm, &front);
	assert_int_equal(vm_bus_read(vm, VM_PIO, 0x83, 4), 0xbbbbbbbb);

	back.space = VM_MMIO;
	back.base = HOLE;
	assert_int_equal(vm_range_add(vm, &back), 0);
	assert_int_equal(dev_add(vm, &dev_any, &over, VM_MMIO, HOLE + 4, 2), 0);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 3, 4), 0xbb1110bb);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 14, 4), 0xffffbbbb);
	assert_string_equal(vm_range_find(vm, VM_MMIO, HOLE + 3), "bytes");
}

static void
test_no_handlers(void **state)
{
	struct vm *vm = *state;

	assert_int_equal(dev_add(vm, &dev_deaf, NULL, VM_MMIO, HOLE, 64), 0);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, HOLE + 3, 4), 0xffffffff);
	vm_bus_write(vm, VM_MMIO, HOLE + 3, 4, 0);
}

static void
test_memory(void **state)
{
	static const uint8_t image[4096] = { 1, 2, 3, 4 };
	struct vm *vm = *state;
	struct dev d = dev_make();
	uint32_t val = 0;

	vm_bus_write(vm, VM_MMIO, 0x1001, 4, 0xcafef00d);
	assert_int_equal(vm_mem_read(vm, 0x1001, &val, 4), 0);
	assert_int_equal(val, 0xcafef00d);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, 0x1001, 4), 0xcafef00d);
	assert_int_equal(mock_vm(vm)->written, 4);

	/* A ROM is read; writes reach a device that lies there. */
	assert_int_equal(vm_mem_add_rom(vm, 0xfffff000, image, sizeof(image)), 0);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, 0xfffff000, 4), 0x04030201);
	vm_bus_write(vm, VM_MMIO, 0xfffff000, 4, 0);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, 0xfffff000, 4), 0x04030201);
	assert_int_equal(dev_add(vm, &dev_any, &d, VM_MMIO, 0xfffff000, 16), 0);
	vm_bus_write(vm, VM_MMIO, 0xfffff000, 4, 0x55);
	assert_int_equal(d.logged, 1);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, 0xfffff000, 4), 0x04030201);
}

/* --- Changes from a handler, as when a guest moves a BAR --- */

struct mover {
	struct vm *vm;
	struct vm_range range;
	int reads;
};

static uint64_t
mover_read(void *ctx, uint64_t off, int size)
{
	struct mover *m = ctx;

	m->reads++;
	vm_range_remove(m->vm, &m->range);
	m->range.base += 0x1000;
	assert_int_equal(vm_range_add(m->vm, &m->range), 0);
	return 0x77;
}

static void
test_change_from_handler(void **state)
{
	static const struct vm_range_ops ops = { "mover", mover_read, NULL, 1, 4 };
	struct mover m = { .vm = *state };

	m.range = (struct vm_range){ &ops, &m, VM_MMIO, HOLE, 16, false };
	assert_int_equal(vm_range_add(m.vm, &m.range), 0);
	/* As a vCPU, which remembers the last range it hit. */
	assert_int_equal(mock_mmio_read(m.vm, 0, HOLE, 1), 0x77);
	assert_int_equal(mock_mmio_read(m.vm, 0, HOLE, 1), 0xff);
	assert_int_equal(mock_mmio_read(m.vm, 0, HOLE + 0x1000, 1), 0x77);
	assert_int_equal(mock_mmio_read(m.vm, 1, HOLE + 0x2000, 1), 0x77);
	assert_int_equal(mock_mmio_read(m.vm, 0, HOLE + 0x1000, 1), 0xff);
	assert_int_equal(m.reads, 3);
	/* The rest of a wide access goes where it belongs after the change. */
	assert_int_equal(mock_mmio_read(m.vm, 0, HOLE + 0x3000 - 1, 2), 0x77ff);
}

static void
test_remove_is_exact(void **state)
{
	struct vm *vm = *state;
	struct dev a = dev_make(), b = dev_make();
	struct vm_range r = { &dev_any, &b, VM_PIO, 0x100, 8, false };

	assert_int_equal(dev_add(vm, &dev_any, &a, VM_PIO, 0x100, 8), 0);
	vm_range_remove(vm, &r); /* another's */
	assert_string_equal(vm_range_find(vm, VM_PIO, 0x100), "any");
	r.ctx = &a;
	r.base = 0x101;
	vm_range_remove(vm, &r);
	assert_string_equal(vm_range_find(vm, VM_PIO, 0x100), "any");
	r.base = 0x100;
	vm_range_remove(vm, &r);
	assert_null(vm_range_find(vm, VM_PIO, 0x100));
	vm_range_remove(vm, &r);
}

/* --- Doorbells --- */

static void
bell(void *ctx, uint64_t val)
{
	uint64_t *sum = ctx;

	*sum += val;
}

static void
test_doorbell(void **state)
{
	struct vm *vm = *state;
	struct dev d = dev_make();
	uint64_t sum = 0, other = 0;

	assert_int_equal(dev_add(vm, &dev_any, &d, VM_MMIO, HOLE, 64), 0);
	assert_int_equal(vm_doorbell_add(vm, VM_MMIO, HOLE + 8, 2, bell, &sum), 0);
	assert_int_equal(vm_doorbell_add(vm, VM_MMIO, HOLE + 4, 4, bell, &other), 0);
	assert_int_equal(vm_doorbell_add(vm, VM_MMIO, HOLE + 8, 4, bell, &sum), -EEXIST);
	assert_int_equal(vm_doorbell_add(vm, VM_MMIO, HOLE + 12, 3, bell, &sum), -EINVAL);
	assert_int_equal(vm_doorbell_add(vm, VM_PIO, 0x10000, 1, bell, &sum), -EINVAL);
	vm_bus_write(vm, VM_MMIO, HOLE + 8, 2, 0xffff0005);
	vm_bus_write(vm, VM_MMIO, HOLE + 4, 4, 7);
	assert_int_equal(sum, 5);
	assert_int_equal(other, 7);
	assert_int_equal(d.logged, 0);
	/* Another size, another address, a read, another space: the device itself. */
	vm_bus_write(vm, VM_MMIO, HOLE + 8, 4, 1);
	vm_bus_write(vm, VM_MMIO, HOLE + 10, 2, 1);
	vm_bus_read(vm, VM_MMIO, HOLE + 8, 2);
	assert_int_equal(d.logged, 3);
	vm_doorbell_remove(vm, VM_MMIO, HOLE + 8);
	vm_doorbell_remove(vm, VM_MMIO, HOLE + 9);
	vm_bus_write(vm, VM_MMIO, HOLE + 8, 2, 1);
	assert_int_equal(d.logged, 4);
	assert_int_equal(sum, 5);
}

/* --- The local APIC's page --- */

static int
apic_mmio_offset(void *ctx, int cpu, uint64_t gpa)
{
	return gpa - 0xfee00000 < 4096 ? (int)(gpa - 0xfee00000) : -1;
}

static uint32_t
apic_mmio_read(void *ctx, int cpu, int off)
{
	uint32_t *reg = ctx;

	assert_int_equal(off % 4, 0);
	return off == 0x20 ? (uint32_t)cpu << 24 : reg[off / 4];
}

static void
apic_mmio_write(void *ctx, int cpu, int off, uint32_t val)
{
	uint32_t *reg = ctx;

	reg[off / 4] = val + (uint32_t)cpu;
}

static void
test_apic_page(void **state)
{
	static const struct vm_apic_ops ops = { .mmio_offset = apic_mmio_offset,
		.mmio_read = apic_mmio_read,
		.mmio_write = apic_mmio_write };
	const struct vm_range window = { &dev_deaf, NULL, VM_MMIO, 0xfe000000, 0x1000000, true };
	struct vm *vm = *state;
	uint32_t reg[1024] = { 0 };

	vm_apic_register(vm, &ops, reg);
	for (int round = 0; round < 3; round++) {
		assert_int_equal(mock_mmio_read(vm, 0, 0xfee00020, 4), 0);
		assert_int_equal(mock_mmio_read(vm, 1, 0xfee00020, 4), 0x1000000);
		assert_int_equal(mock_mmio_read(vm, 1, 0xfee00023, 1), 1);
		mock_mmio_write(vm, 1, 0xfee00080, 4, 0x10);
		assert_int_equal(reg[0x20], 0x11);
		assert_int_equal(mock_mmio_read(vm, 0, 0xfee00080, 8), 0x11);
		/* Not a vCPU: nobody there. */
		assert_int_equal(vm_bus_read(vm, VM_MMIO, 0xfee00020, 4), 0xffffffff);
		assert_int_equal(mock_mmio_read(vm, 0, 0xfee01000, 4), 0xffffffff);
		/* The same with a window under it. */
		if (round == 0)
			assert_int_equal(vm_range_add(vm, &window), 0);
	}
}

/* --- Threads --- */

struct racer {
	struct vm *vm;
	int cpu;
	_Atomic bool *stop;
};

static void *
racer_read(void *arg)
{
	struct racer *r = arg;

	do {
		uint64_t fixed = mock_mmio_read(r->vm, r->cpu, HOLE + 0x10000, 4);
		uint64_t moving = mock_mmio_read(r->vm, r->cpu, HOLE, 4);
		uint32_t port = mock_machine(r->vm)->pio_read(r->vm, r->cpu, 0x200, 2);

		if (fixed != 0x55 || (moving != 0xffffffff && moving != 0x55) ||
		    (port != 0xffff && port != 0x55))
			return arg;
	} while (!*r->stop);
	return NULL;
}

static uint64_t
racer_dev_read(void *ctx, uint64_t off, int size)
{
	return 0x55;
}

static void
test_threads(void **state)
{
	static const struct vm_range_ops ops = { "fast", racer_dev_read, NULL, 1, 8 };
	struct vm *vm = *state;
	const struct vm_range fixed = { &ops, NULL, VM_MMIO, HOLE + 0x10000, 8, false };
	const struct vm_range mmio = { &ops, NULL, VM_MMIO, HOLE, 8, false };
	const struct vm_range pio = { &ops, NULL, VM_PIO, 0x200, 8, false };
	_Atomic bool stop = false;
	struct racer r[2] = { { vm, 0, &stop }, { vm, 1, &stop } };
	pthread_t t[2];
	void *wrong;

	assert_int_equal(vm_range_add(vm, &fixed), 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, racer_read, &r[i]), 0);
	for (int i = 0; i < 300; i++) {
		assert_int_equal(vm_range_add(vm, &mmio), 0);
		assert_int_equal(vm_range_add(vm, &pio), 0);
		vm_range_remove(vm, &mmio);
		vm_range_remove(vm, &pio);
	}
	stop = true;
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], &wrong);
		assert_null(wrong);
	}
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_nothing_answers),
		TEST(test_aligned_sizes),
		TEST(test_split),
		TEST(test_widen),
		TEST(test_boundaries),
		TEST(test_refused),
		TEST(test_too_many),
		TEST(test_background),
		TEST(test_no_handlers),
		TEST(test_memory),
		TEST(test_change_from_handler),
		TEST(test_remove_is_exact),
		TEST(test_doorbell),
		TEST(test_apic_page),
		TEST(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
