/*
 * The PC debug and test device.
 */
#include "chip_test.h"

#include "chipset/testdev.h"

struct fixture {
	struct chip_test t;
	struct testdev *dev;
};

static struct fixture f; /* of the test that runs */

static int
setup(void **state)
{
	chip_test_init(&f.t, MIB(1));
	assert_int_equal(testdev_create(f.t.vm, &f.dev), 0);
	return 0;
}

static int
teardown(void **state)
{
	testdev_destroy(f.dev);
	vm_destroy(f.t.vm);
	return 0;
}

static void
test_exit_status(void **state)
{
	chip_out(&f.t, 0xf4, 4, 0x10);
	assert_int_equal((int)vm_run(f.t.vm), 0x21);
}

static void
test_exit_status_byte(void **state)
{
	outb(&f.t, 0xf4, 0);
	assert_int_equal((int)vm_run(f.t.vm), 1);
}

/* A status has eight bits, whatever the guest writes. */
static void
test_exit_status_wide(void **state)
{
	chip_out(&f.t, 0xf4, 4, 0xffffffff);
	assert_int_equal((int)vm_run(f.t.vm), 0xff);
}

static void
test_port(void **state)
{
	chip_out(&f.t, 0xe0, 4, 0x12345678);
	assert_int_equal(inb(&f.t, 0xe0), 0x78);
	assert_int_equal(chip_in(&f.t, 0xe2, 2), 0x1234);
	outb(&f.t, 0xe1, 0xff);
	assert_int_equal(chip_in(&f.t, 0xe0, 4), 0x1234ff78);
	chip_out(&f.t, 0xe4, 4, 1);
	assert_int_equal(chip_in(&f.t, 0xe0, 4), 0x1234ff78);
}

static void
test_irq_lines(void **state)
{
	for (int i = 0; i < VM_IRQ_LINES; i++) {
		outb(&f.t, (uint16_t)(0x2000 + i), 1);
		assert_true(f.t.level[i]);
		outb(&f.t, (uint16_t)(0x2000 + i), 0);
		assert_false(f.t.level[i]);
		assert_int_equal(f.t.edges[i], 1);
	}
	outb(&f.t, 0x2000 + VM_IRQ_LINES, 1);
	chip_out(&f.t, 0x2000 + VM_IRQ_LINES - 1, 4, 0xffffffff);
	assert_true(f.t.level[VM_IRQ_LINES - 1]);
}

static void
test_memory(void **state)
{
	const uint64_t base = 0xff000000;

	vm_bus_write(f.t.vm, VM_MMIO, base + 8, 8, 0x1122334455667788);
	assert_int_equal(vm_bus_read(f.t.vm, VM_MMIO, base + 8, 8), 0x1122334455667788);
	assert_int_equal(vm_bus_read(f.t.vm, VM_MMIO, base + 13, 2), 0x2233);
	vm_bus_write(f.t.vm, VM_MMIO, base + 7, 2, 0xaabb);
	assert_int_equal(vm_bus_read(f.t.vm, VM_MMIO, base + 8, 8), 0x11223344556677aa);
	vm_bus_write(f.t.vm, VM_MMIO, base + 0xffff, 8, 0x0102030405060708);
	assert_int_equal(vm_bus_read(f.t.vm, VM_MMIO, base + 0xffff, 1), 0x08);
}

static void
test_state(void **state)
{
	struct vm_state *saved;

	chip_out(&f.t, 0xe0, 4, 0xcafebabe);
	outb(&f.t, 0x2005, 1);
	vm_bus_write(f.t.vm, VM_MMIO, 0xff008000, 4, 0x12345678);
	saved = chip_save(&f.t);
	chip_out(&f.t, 0xe0, 4, 0);
	outb(&f.t, 0x2005, 0);
	outb(&f.t, 0x2006, 1);
	vm_bus_write(f.t.vm, VM_MMIO, 0xff008000, 4, 0);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	assert_int_equal(chip_in(&f.t, 0xe0, 4), 0xcafebabe);
	assert_true(f.t.level[5]);
	assert_false(f.t.level[6]);
	assert_int_equal(vm_bus_read(f.t.vm, VM_MMIO, 0xff008000, 4), 0x12345678);
	vm_state_destroy(saved);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_exit_status),
		TEST(test_exit_status_byte),
		TEST(test_exit_status_wide),
		TEST(test_port),
		TEST(test_irq_lines),
		TEST(test_memory),
		TEST(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
