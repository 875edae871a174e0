/*
 * Resets by ports 0xcf9 and 0x92, and the port for POST codes.
 */
#include "chip_test.h"

#include "chipset/reset.h"

struct fixture {
	struct chip_test t;
	struct reset *reset;
};

static struct fixture f; /* of the test that runs */

static int
setup(void **state)
{
	chip_test_init(&f.t, MIB(1));
	assert_int_equal(reset_create(f.t.vm, &f.reset), 0);
	return 0;
}

static int
teardown(void **state)
{
	reset_destroy(f.reset);
	vm_destroy(f.t.vm);
	return 0;
}

/* Whether the machine was reset; ends it in any case. */
static bool
was_reset(void)
{
	vm_shutdown(f.t.vm, VM_EXIT_HALT);
	return vm_run(f.t.vm) == VM_EXIT_REBOOT;
}

static void
test_hard(void **state)
{
	outb(&f.t, RESET_CONTROL_PORT, 0x02);
	assert_int_equal(inb(&f.t, RESET_CONTROL_PORT), 0x02);
	outb(&f.t, RESET_CONTROL_PORT, 0x06);
	assert_true(was_reset());
}

static void
test_fadt_value(void **state)
{
	outb(&f.t, RESET_CONTROL_PORT, RESET_CONTROL_VALUE);
	assert_true(was_reset());
}

static void
test_soft(void **state)
{
	outb(&f.t, RESET_CONTROL_PORT, 0x04);
	assert_true(was_reset());
}

static void
test_full(void **state)
{
	outb(&f.t, RESET_CONTROL_PORT, 0x0e);
	assert_true(was_reset());
}

static void
test_kind_alone_does_nothing(void **state)
{
	outb(&f.t, RESET_CONTROL_PORT, 0x0a);
	outb(&f.t, RESET_CONTROL_PORT, 0xf0);
	assert_int_equal(inb(&f.t, RESET_CONTROL_PORT), 0);
	assert_false(was_reset());
}

/* Guests look for PCI with double words at 0xcf8 whose second byte has the reset bit. */
static void
test_pci_probe(void **state)
{
	chip_out(&f.t, 0xcf8, 4, 0x80000604);
	chip_out(&f.t, 0xcf8, 2, 0x0600);
	outb(&f.t, 0xcf8, 0x06);
	outb(&f.t, 0xcfa, 0x06);
	outb(&f.t, 0xcfb, 0x06);
	assert_int_equal(chip_in(&f.t, 0xcf8, 4), 0xffffffff);
	assert_int_equal(inb(&f.t, 0xcfb), 0xff);
	assert_false(was_reset());
}

static void
test_port92(void **state)
{
	assert_int_equal(inb(&f.t, 0x92), 0x02);
	outb(&f.t, 0x92, 0xfc);
	assert_int_equal(inb(&f.t, 0x92), 0x00);
	outb(&f.t, 0x92, 0x02);
	assert_int_equal(inb(&f.t, 0x92), 0x02);
	assert_false(was_reset());
}

static void
test_port92_resets(void **state)
{
	outb(&f.t, 0x92, 0x03);
	assert_true(was_reset());
}

static void
test_post(void **state)
{
	outb(&f.t, 0x80, 0x5a);
	assert_int_equal(inb(&f.t, 0x80), 0x5a);
	assert_false(was_reset());
}

static void
test_state(void **state)
{
	struct vm_state *saved;

	outb(&f.t, RESET_CONTROL_PORT, 0x02);
	outb(&f.t, 0x92, 0x00);
	outb(&f.t, 0x80, 0x11);
	saved = chip_save(&f.t);
	outb(&f.t, RESET_CONTROL_PORT, 0x08);
	outb(&f.t, 0x92, 0x02);
	outb(&f.t, 0x80, 0x22);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	assert_int_equal(inb(&f.t, RESET_CONTROL_PORT), 0x02);
	assert_int_equal(inb(&f.t, 0x92), 0x00);
	assert_int_equal(inb(&f.t, 0x80), 0x11);
	vm_state_destroy(saved);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_hard),
		TEST(test_fadt_value),
		TEST(test_soft),
		TEST(test_full),
		TEST(test_kind_alone_does_nothing),
		TEST(test_pci_probe),
		TEST(test_port92),
		TEST(test_port92_resets),
		TEST(test_post),
		TEST(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
