/*
 * ACPI fixed hardware: mode switch, events and SCI, timer, sleep, power button, GPE0.
 */
#include "chip_test.h"

#include "chipset/acpi_pm.h"

#define PM1_STS ACPI_PM1_EVT
#define PM1_EN (ACPI_PM1_EVT + 2)
#define GPE0_STS ACPI_GPE0
#define GPE0_EN (ACPI_GPE0 + 2)
#define TMR 0x0001
#define PWRBTN 0x0100
#define SCI_EN 0x0001
#define SLP_EN 0x2000
#define SCI ACPI_PM_SCI_IRQ

#define SECOND 1000000000ull

struct fixture {
	struct chip_test t;
	struct acpi_pm *pm;
};

static struct fixture f; /* of the test that runs */

static int
setup(void **state)
{
	chip_test_init(&f.t, MIB(1));
	assert_int_equal(acpi_pm_create(f.t.vm, &f.pm), 0);
	return 0;
}

static int
teardown(void **state)
{
	acpi_pm_destroy(f.pm);
	vm_destroy(f.t.vm);
	return 0;
}

static uint16_t
in16(uint16_t port)
{
	return (uint16_t)chip_in(&f.t, port, 2);
}

static void
out16(uint16_t port, uint16_t val)
{
	chip_out(&f.t, port, 2, val);
}

static void
test_mode_switch(void **state)
{
	assert_int_equal(in16(ACPI_PM1_CNT), 0);
	outb(&f.t, ACPI_PM_SMI_CMD, ACPI_PM_ENABLE);
	assert_int_equal(in16(ACPI_PM1_CNT), SCI_EN);
	out16(ACPI_PM1_CNT, 0); /* not by writing the register */
	assert_int_equal(in16(ACPI_PM1_CNT), SCI_EN);
	outb(&f.t, ACPI_PM_SMI_CMD, 0x55);
	assert_int_equal(in16(ACPI_PM1_CNT), SCI_EN);
	outb(&f.t, ACPI_PM_SMI_CMD, ACPI_PM_DISABLE);
	assert_int_equal(in16(ACPI_PM1_CNT), 0);
	out16(ACPI_PM1_CNT, SCI_EN);
	assert_int_equal(in16(ACPI_PM1_CNT), 0);
	outb(&f.t, ACPI_PM_SMI_CMD + 1, 0x77);
	assert_int_equal(inb(&f.t, ACPI_PM_SMI_CMD + 1), 0x77);
}

static void
test_event_registers(void **state)
{
	assert_int_equal(in16(PM1_STS), 0);
	out16(PM1_EN, 0xffff);
	assert_int_equal(in16(PM1_EN), 0x0721);
	assert_int_equal(chip_in(&f.t, PM1_STS, 4), 0x07210000);
}

/* 3579545 ticks in a second, in the bits that are announced, however long the machine runs. */
static void
test_timer_rate(void **state)
{
	uint32_t start = chip_in(&f.t, ACPI_PM_TMR, 4);

	for (int i = 0; i < 100; i++) {
		uint32_t now;

		chip_step(&f.t, 97 * SECOND);
		now = chip_in(&f.t, ACPI_PM_TMR, 4);
		assert_int_equal((uint32_t)(now - start), 97 * ACPI_PM_TMR_HZ);
		start = now;
	}
	chip_out(&f.t, ACPI_PM_TMR, 4, 0);
	assert_int_equal(chip_in(&f.t, ACPI_PM_TMR, 4), start);
}

/* The status bit comes with each change of the highest bit, up and down. */
static void
test_timer_overflow(void **state)
{
	uint64_t half = (1ull << 31) * SECOND / ACPI_PM_TMR_HZ + 1;

	outb(&f.t, ACPI_PM_SMI_CMD, ACPI_PM_ENABLE);
	out16(PM1_STS, TMR);
	chip_step(&f.t, half);
	assert_int_equal(in16(PM1_STS), TMR);
	assert_false(f.t.level[SCI]);
	out16(PM1_STS, TMR);
	assert_int_equal(in16(PM1_STS), 0);
	out16(PM1_EN, TMR);
	chip_step(&f.t, half);
	assert_true(f.t.level[SCI]);
	assert_int_equal(in16(PM1_STS), TMR);
	out16(PM1_STS, TMR);
	assert_false(f.t.level[SCI]);
	chip_step(&f.t, half);
	assert_int_equal(f.t.edges[SCI], 2);
}

static void
test_power_button(void **state)
{
	/* Nobody listens: whoever pressed it is told. */
	assert_false(vm_power_button(f.t.vm));
	out16(PM1_EN, PWRBTN);
	assert_false(vm_power_button(f.t.vm));
	assert_int_equal(in16(PM1_STS), 0);
	outb(&f.t, ACPI_PM_SMI_CMD, ACPI_PM_ENABLE);
	assert_false(f.t.level[SCI]);
	assert_true(vm_power_button(f.t.vm));
	assert_true(f.t.level[SCI]);
	assert_int_equal(in16(PM1_STS), PWRBTN);
	/* A byte write to one half clears nothing in the other. */
	outb(&f.t, PM1_STS, 0xff);
	assert_int_equal(in16(PM1_STS), PWRBTN);
	assert_true(f.t.level[SCI]);
	outb(&f.t, PM1_STS + 1, PWRBTN >> 8);
	assert_int_equal(in16(PM1_STS), 0);
	assert_false(f.t.level[SCI]);
}

static void
test_sci_level(void **state)
{
	outb(&f.t, ACPI_PM_SMI_CMD, ACPI_PM_ENABLE);
	out16(PM1_EN, PWRBTN);
	vm_power_button(f.t.vm);
	assert_true(f.t.level[SCI]);
	out16(PM1_EN, 0);
	assert_false(f.t.level[SCI]);
	out16(PM1_EN, PWRBTN);
	assert_true(f.t.level[SCI]);
	outb(&f.t, ACPI_PM_SMI_CMD, ACPI_PM_DISABLE);
	assert_false(f.t.level[SCI]);
}

static void
test_gpe(void **state)
{
	outb(&f.t, ACPI_PM_SMI_CMD, ACPI_PM_ENABLE);
	acpi_pm_gpe(f.pm, 9);
	acpi_pm_gpe(f.pm, 16);
	assert_int_equal(in16(GPE0_STS), 0x0200);
	assert_false(f.t.level[SCI]);
	outb(&f.t, GPE0_EN + 1, 0x02);
	assert_true(f.t.level[SCI]);
	assert_int_equal(inb(&f.t, GPE0_EN), 0);
	assert_int_equal(in16(GPE0_EN), 0x0200);
	outb(&f.t, GPE0_STS, 0xff);
	assert_true(f.t.level[SCI]);
	outb(&f.t, GPE0_STS + 1, 0xff);
	assert_false(f.t.level[SCI]);
}

/* Each in a machine of its own: the first shutdown wins. */
static void
test_s5(void **state)
{
	out16(ACPI_PM1_CNT, ACPI_PM_SLP_TYP_S5 << 10 | SLP_EN);
	assert_int_equal(vm_run(f.t.vm), VM_EXIT_POWEROFF);
	assert_int_equal(in16(ACPI_PM1_CNT) & SLP_EN, 0);
}

static void
test_s5_in_two_steps(void **state)
{
	out16(ACPI_PM1_CNT, ACPI_PM_SLP_TYP_S5 << 10);
	outb(&f.t, ACPI_PM1_CNT + 1, (ACPI_PM_SLP_TYP_S5 << 10 | SLP_EN) >> 8);
	assert_int_equal(vm_run(f.t.vm), VM_EXIT_POWEROFF);
}

static void
test_other_sleep_types(void **state)
{
	for (unsigned typ = 0; typ < 8; typ++) {
		if (typ != ACPI_PM_SLP_TYP_S5)
			out16(ACPI_PM1_CNT, (uint16_t)(typ << 10 | SLP_EN));
	}
	vm_shutdown(f.t.vm, VM_EXIT_HALT);
	assert_int_equal(vm_run(f.t.vm), VM_EXIT_HALT);
}

static void
test_state(void **state)
{
	struct vm_state *saved;

	outb(&f.t, ACPI_PM_SMI_CMD, ACPI_PM_ENABLE);
	out16(PM1_EN, PWRBTN | TMR);
	vm_power_button(f.t.vm);
	acpi_pm_gpe(f.pm, 3);
	saved = chip_save(&f.t);
	out16(PM1_STS, 0xffff);
	out16(GPE0_STS, 0xffff);
	out16(PM1_EN, 0);
	outb(&f.t, ACPI_PM_SMI_CMD, ACPI_PM_DISABLE);
	assert_false(f.t.level[SCI]);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	assert_true(f.t.level[SCI]);
	assert_int_equal(in16(PM1_STS), PWRBTN);
	assert_int_equal(in16(GPE0_STS), 0x0008);
	/* The timer's interrupt is armed again. */
	out16(PM1_STS, PWRBTN);
	assert_false(f.t.level[SCI]);
	chip_step(&f.t, (1ull << 31) * SECOND / ACPI_PM_TMR_HZ + 1);
	assert_true(f.t.level[SCI]);
	vm_state_destroy(saved);
}

static uint64_t mutate_seed = 88172645463325252ull;

static void
mutate_one(uint8_t *data, size_t len)
{
	data[chip_random(&mutate_seed) % len] = (uint8_t)chip_random(&mutate_seed);
}

static void
test_hostile(void **state)
{
	struct vm_state *saved = chip_save(&f.t);
	uint64_t seed = 1234567;

	for (int i = 0; i < 100000; i++) {
		uint64_t r = chip_random(&seed);
		uint16_t port = (r & 16) != 0 ? (uint16_t)(0x400 + (r >> 16 & 15))
					      : (uint16_t)(ACPI_PM_SMI_CMD + (r >> 16 & 1));
		int size = 1 << (r >> 8 & 3) % 3;

		if ((r & 3) == 0)
			chip_in(&f.t, port, size);
		else
			chip_out(&f.t, port, size, (uint32_t)(r >> 32));
		if (i % 16 == 0)
			chip_step(&f.t, r >> 24);
		if (i % 1024 == 0)
			(void)chip_load(&f.t, saved, mutate_one);
	}
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	vm_state_destroy(saved);
	assert_int_equal(in16(PM1_EN), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_mode_switch),
		TEST(test_event_registers),
		TEST(test_timer_rate),
		TEST(test_timer_overflow),
		TEST(test_power_button),
		TEST(test_sci_level),
		TEST(test_gpe),
		TEST(test_s5),
		TEST(test_s5_in_two_steps),
		TEST(test_other_sleep_types),
		TEST(test_state),
		TEST(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
