/*
 * 8259A pair: initialization, priorities, ends of interrupt, masks, poll, level inputs, spurious
 * interrupts.
 */
#include "chip_test.h"

#include "chipset/i8259.h"

#define MASTER 0x20
#define SLAVE 0xa0
#define ELCR1 0x4d0
#define ELCR2 0x4d1

#define OCW2_EOI 0x20
#define OCW2_SPECIFIC(n) (0x60 | (n))
#define OCW2_ROTATE_EOI 0xa0
#define OCW2_ROTATE_SPECIFIC(n) (0xe0 | (n))
#define OCW2_SET_PRIORITY(n) (0xc0 | (n))
#define OCW2_ROTATE_AEOI_SET 0x80
#define OCW2_ROTATE_AEOI_CLEAR 0x00
#define OCW3_READ_IRR 0x0a
#define OCW3_READ_ISR 0x0b
#define OCW3_POLL 0x0c
#define OCW3_SMM_SET 0x68
#define OCW3_SMM_CLEAR 0x48

struct fixture {
	struct chip_test t;
	struct i8259 *pic;
};

static struct fixture f;

static void
chip_init(uint16_t port, uint8_t base, uint8_t icw3, uint8_t icw4)
{
	outb(&f.t, port, 0x11);
	outb(&f.t, port + 1, base);
	outb(&f.t, port + 1, icw3);
	outb(&f.t, port + 1, icw4);
}

/* As every PC does: vectors 30h and 38h, all inputs open. */
static int
setup(void **state)
{
	chip_test_init(&f.t, MIB(1));
	assert_int_equal(i8259_create(f.t.vm, &f.pic), 0);
	chip_init(MASTER, 0x30, 0x04, 0x01);
	chip_init(SLAVE, 0x38, 0x02, 0x01);
	outb(&f.t, MASTER + 1, 0);
	outb(&f.t, SLAVE + 1, 0);
	return 0;
}

static int
teardown(void **state)
{
	i8259_destroy(f.pic);
	vm_destroy(f.t.vm);
	return 0;
}

static uint8_t
isr(uint16_t port)
{
	outb(&f.t, port, OCW3_READ_ISR);
	return inb(&f.t, port);
}

static uint8_t
irr(uint16_t port)
{
	outb(&f.t, port, OCW3_READ_IRR);
	return inb(&f.t, port);
}

static void
expect_none(void)
{
	assert_false(vm_pic_pending(f.t.vm));
}

/* INTR is high, and its acknowledge yields this vector. */
static void
expect(int vector)
{
	assert_true(vm_pic_pending(f.t.vm));
	assert_int_equal(vm_pic_ack(f.t.vm), vector);
}

static void
pulse(int line)
{
	vm_irq_pulse(f.t.vm, line);
}

static void
test_vectors(void **state)
{
	for (int line = 0; line < 16; line++) {
		if (line == 2)
			continue;
		pulse(line);
		expect(0x30 + line);
		expect_none();
		if (line >= 8) {
			assert_int_equal(isr(SLAVE), 1 << (line - 8));
			assert_int_equal(isr(MASTER), 0x04);
			outb(&f.t, SLAVE, OCW2_EOI);
		} else {
			assert_int_equal(isr(MASTER), 1 << line);
		}
		outb(&f.t, MASTER, OCW2_EOI);
		assert_int_equal(isr(MASTER), 0);
		assert_int_equal(isr(SLAVE), 0);
	}
	/* The cascade is no line of its own, and there are no lines beyond the slave. */
	pulse(2);
	pulse(16);
	pulse(23);
	expect_none();
}

/* Only bits 7 to 3 of ICW2 are the vector's. */
static void
test_vector_base(void **state)
{
	chip_init(MASTER, 0x97, 0x04, 0x01);
	pulse(3);
	expect(0x93);
}

/* ICW4 is expected only if ICW1 says so, ICW3 only in cascade mode. */
static void
test_init_sequence(void **state)
{
	outb(&f.t, MASTER, 0x10); /* no ICW4 */
	outb(&f.t, MASTER + 1, 0x40);
	outb(&f.t, MASTER + 1, 0x04);
	outb(&f.t, MASTER + 1, 0xfe);
	assert_int_equal(inb(&f.t, MASTER + 1), 0xfe);

	outb(&f.t, MASTER, 0x13); /* single */
	outb(&f.t, MASTER + 1, 0x40);
	outb(&f.t, MASTER + 1, 0x03);
	assert_int_equal(inb(&f.t, MASTER + 1), 0);
	outb(&f.t, MASTER + 1, 0xfd);
	assert_int_equal(inb(&f.t, MASTER + 1), 0xfd);

	outb(&f.t, MASTER, 0x12); /* single, no ICW4: AEOI of before is gone */
	outb(&f.t, MASTER + 1, 0x40);
	pulse(1);
	expect(0x41);
	assert_int_equal(isr(MASTER), 0x02);
}

/* ICW1 forgets edges, mask, services, special mask mode and which register is read. */
static void
test_init_resets(void **state)
{
	pulse(1);
	expect(0x31);
	pulse(3);
	outb(&f.t, MASTER + 1, 0x55);
	outb(&f.t, MASTER, OCW3_SMM_SET);
	outb(&f.t, MASTER, OCW2_SET_PRIORITY(3));
	outb(&f.t, MASTER, OCW3_READ_ISR);
	outb(&f.t, MASTER, 0x11);
	expect_none();
	pulse(4); /* nothing is answered before the sequence is complete */
	expect_none();
	outb(&f.t, MASTER + 1, 0x30);
	outb(&f.t, MASTER + 1, 0x04);
	outb(&f.t, MASTER + 1, 0x01);
	assert_int_equal(inb(&f.t, MASTER + 1), 0);
	assert_int_equal(inb(&f.t, MASTER), 0x10); /* IRR: the edge since */
	assert_int_equal(isr(MASTER), 0);
	pulse(0);
	expect(0x30);
}

static void
test_power_on(void **state)
{
	/* Nothing is raised before a guest has initialised it. */
	struct vm *vm = mock_vm_create(MIB(1), 1);
	struct i8259 *pic;

	assert_int_equal(i8259_create(vm, &pic), 0);
	for (int line = 0; line < 16; line++)
		vm_irq_pulse(vm, line);
	assert_false(vm_pic_pending(vm));
	i8259_destroy(pic);
	vm_destroy(vm);
}

static void
test_fully_nested(void **state)
{
	pulse(4);
	pulse(6);
	expect(0x34);
	expect_none(); /* 6 is below 4, which is in service */
	pulse(3);
	expect(0x33);
	assert_int_equal(isr(MASTER), 0x18);
	pulse(4); /* the same level waits, too */
	expect_none();
	outb(&f.t, MASTER, OCW2_EOI);
	assert_int_equal(isr(MASTER), 0x10);
	expect_none();
	outb(&f.t, MASTER, OCW2_EOI);
	expect(0x34);
	outb(&f.t, MASTER, OCW2_SPECIFIC(4));
	expect(0x36);
	/* A specific end of something not in service changes nothing. */
	outb(&f.t, MASTER, OCW2_SPECIFIC(1));
	assert_int_equal(isr(MASTER), 0x40);
}

static void
test_slave_nesting(void **state)
{
	pulse(12);
	expect(0x3c);
	pulse(9);
	/* Higher on the slave, but the master sees the same input in service. */
	expect_none();
	outb(&f.t, MASTER, OCW2_EOI);
	expect(0x39);
	assert_int_equal(isr(SLAVE), 0x12);
	outb(&f.t, MASTER, OCW2_EOI);
	pulse(13);
	expect_none();
	outb(&f.t, SLAVE, OCW2_EOI);
	expect_none();
	outb(&f.t, SLAVE, OCW2_EOI);
	expect(0x3d);
}

static void
test_special_fully_nested(void **state)
{
	chip_init(MASTER, 0x30, 0x04, 0x11);
	pulse(12);
	expect(0x3c);
	pulse(13);
	expect_none();
	pulse(9);
	expect(0x39);
	assert_int_equal(isr(MASTER), 0x04);
	pulse(3); /* lower than the slave */
	expect_none();
	pulse(1);
	expect(0x31);
}

static void
test_mask(void **state)
{
	outb(&f.t, MASTER + 1, 0x08);
	pulse(3);
	expect_none();
	assert_int_equal(irr(MASTER), 0x08);
	outb(&f.t, MASTER + 1, 0);
	expect(0x33);
	outb(&f.t, MASTER, OCW2_EOI);
	/* Masking the cascade masks the slave. */
	outb(&f.t, MASTER + 1, 0x04);
	pulse(8);
	expect_none();
	outb(&f.t, MASTER + 1, 0);
	expect(0x38);
	assert_int_equal(inb(&f.t, SLAVE + 1), 0);
	outb(&f.t, SLAVE + 1, 0xa5);
	assert_int_equal(inb(&f.t, SLAVE + 1), 0xa5);
}

static void
test_special_mask(void **state)
{
	pulse(3);
	expect(0x33);
	outb(&f.t, MASTER + 1, 0x08);
	pulse(5);
	expect_none();
	outb(&f.t, MASTER, OCW3_SMM_SET);
	expect(0x35); /* lower than what is in service, which is masked */
	assert_int_equal(isr(MASTER), 0x28);
	/* A non-specific end does not see the masked one. */
	outb(&f.t, MASTER, OCW2_EOI);
	assert_int_equal(isr(MASTER), 0x08);
	outb(&f.t, MASTER, OCW2_EOI);
	assert_int_equal(isr(MASTER), 0x08);
	/* Without ESMM, the SMM bit is not looked at. */
	outb(&f.t, MASTER, 0x08);
	pulse(6);
	expect(0x36);
	outb(&f.t, MASTER, OCW2_EOI);
	outb(&f.t, MASTER, OCW3_SMM_CLEAR);
	pulse(6);
	expect_none();
	outb(&f.t, MASTER, OCW2_SPECIFIC(3));
	expect(0x36);
}

static void
test_rotation(void **state)
{
	/* After serving 4, 4 is the lowest and 5 the highest. */
	pulse(4);
	expect(0x34);
	outb(&f.t, MASTER, OCW2_ROTATE_EOI);
	pulse(4);
	pulse(0);
	pulse(5);
	expect(0x35);
	outb(&f.t, MASTER, OCW2_EOI);
	expect(0x30);
	outb(&f.t, MASTER, OCW2_EOI);
	expect(0x34);
	outb(&f.t, MASTER, OCW2_ROTATE_SPECIFIC(4));
	assert_int_equal(isr(MASTER), 0);
	/* Set priority: 2 the lowest, so 3 comes before 1. */
	outb(&f.t, MASTER, OCW2_SET_PRIORITY(2));
	pulse(1);
	pulse(3);
	expect(0x33);
	expect_none();
	/* A rotating end with nothing in service rotates nothing. */
	outb(&f.t, MASTER, OCW2_EOI);
	expect(0x31);
	outb(&f.t, MASTER, OCW2_EOI);
	outb(&f.t, MASTER, OCW2_ROTATE_EOI);
	pulse(1);
	pulse(3);
	expect(0x33);
}

static void
test_automatic_eoi(void **state)
{
	chip_init(MASTER, 0x30, 0x04, 0x03);
	pulse(4);
	pulse(6);
	expect(0x34);
	assert_int_equal(isr(MASTER), 0);
	expect(0x36);
	expect_none();
	outb(&f.t, MASTER, OCW2_ROTATE_AEOI_SET);
	pulse(4);
	expect(0x34);
	pulse(4);
	pulse(6);
	expect(0x36);
	expect(0x34);
	outb(&f.t, MASTER, OCW2_ROTATE_AEOI_CLEAR);
	pulse(7);
	expect(0x37);
	/* 4 was the last to rotate: 5 is the highest. */
	pulse(0);
	pulse(5);
	expect(0x35);
	expect(0x30);
}

static void
test_poll(void **state)
{
	outb(&f.t, MASTER, OCW3_POLL);
	assert_int_equal(inb(&f.t, MASTER), 0);
	pulse(5);
	outb(&f.t, MASTER, OCW3_POLL);
	assert_int_equal(inb(&f.t, MASTER), 0x85);
	expect_none();
	assert_int_equal(isr(MASTER), 0x20);
	outb(&f.t, MASTER, OCW2_EOI);
	/* Either port, once; the slave is polled by itself. */
	pulse(11);
	outb(&f.t, MASTER, OCW3_POLL);
	assert_int_equal(inb(&f.t, MASTER + 1), 0x82);
	assert_int_equal(inb(&f.t, MASTER + 1), 0);
	outb(&f.t, SLAVE, OCW3_POLL);
	assert_int_equal(inb(&f.t, SLAVE), 0x83);
	assert_int_equal(isr(SLAVE), 0x08);
}

static void
test_edge_and_level(void **state)
{
	/* Edge: held high it interrupts once. */
	vm_irq_set(f.t.vm, 5, true, NULL);
	expect(0x35);
	outb(&f.t, MASTER, OCW2_EOI);
	expect_none();
	vm_irq_set(f.t.vm, 5, false, NULL);
	expect_none();

	/* Level: as long as it is high. */
	outb(&f.t, ELCR1, 0x20);
	vm_irq_set(f.t.vm, 5, true, NULL);
	expect(0x35);
	expect_none();
	outb(&f.t, MASTER, OCW2_EOI);
	expect(0x35);
	vm_irq_set(f.t.vm, 5, false, NULL);
	outb(&f.t, MASTER, OCW2_EOI);
	expect_none();

	/* On the slave. */
	outb(&f.t, ELCR2, 0x08);
	vm_irq_set(f.t.vm, 11, true, NULL);
	expect(0x3b);
	outb(&f.t, SLAVE, OCW2_EOI);
	outb(&f.t, MASTER, OCW2_EOI);
	expect(0x3b);
	vm_irq_set(f.t.vm, 11, false, NULL);
	outb(&f.t, SLAVE, OCW2_EOI);
	outb(&f.t, MASTER, OCW2_EOI);
	expect_none();
}

static void
test_elcr(void **state)
{
	assert_int_equal(chip_in(&f.t, ELCR1, 2), 0);
	/* 0, 1, 2, 8 and 13 cannot be level-triggered. */
	chip_out(&f.t, ELCR1, 2, 0xffff);
	assert_int_equal(chip_in(&f.t, ELCR1, 2), 0xdef8);
	chip_init(MASTER, 0x30, 0x04, 0x01); /* not part of the 8259's reset */
	assert_int_equal(inb(&f.t, ELCR1), 0xf8);
}

static void
test_spurious(void **state)
{
	/* A level that goes away between INTR and the acknowledge. */
	outb(&f.t, ELCR1, 0x20);
	vm_irq_set(f.t.vm, 5, true, NULL);
	assert_true(vm_pic_pending(f.t.vm));
	vm_irq_set(f.t.vm, 5, false, NULL);
	expect_none();
	assert_int_equal(vm_pic_ack(f.t.vm), 0x37);
	assert_int_equal(isr(MASTER), 0);

	/* The same by the mask. */
	pulse(1);
	outb(&f.t, MASTER + 1, 0x02);
	assert_int_equal(vm_pic_ack(f.t.vm), 0x37);
	outb(&f.t, MASTER + 1, 0);
	expect(0x31);
	outb(&f.t, MASTER, OCW2_EOI);
}

static void
test_hostile(void **state)
{
	uint64_t seed = 8259;

	for (int i = 0; i < 200000; i++) {
		static const uint16_t ports[] = { 0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1 };
		uint64_t r = chip_random(&seed);
		uint16_t port = ports[r % ARRAY_SIZE(ports)];

		switch (r >> 8 & 3) {
		case 0: outb(&f.t, port, (uint8_t)(r >> 16)); break;
		case 1: (void)inb(&f.t, port); break;
		case 2:
			vm_irq_set(f.t.vm, (int)(r >> 16 & 31) % VM_IRQ_LINES, r >> 40 & 1, NULL);
			break;
		case 3:
			if (vm_pic_pending(f.t.vm))
				assert_in_range(vm_pic_ack(f.t.vm), 0, 255);
			break;
		}
	}
	/* It still works after initialization. */
	for (int line = 0; line < VM_IRQ_LINES; line++)
		vm_irq_set(f.t.vm, line, false, NULL);
	chip_init(MASTER, 0x30, 0x04, 0x01);
	chip_init(SLAVE, 0x38, 0x02, 0x01);
	chip_out(&f.t, ELCR1, 2, 0);
	expect_none();
	pulse(14);
	expect(0x3e);
}

static void
spoil_flag(uint8_t *data, size_t len)
{
	data[len - 1] = 2; /* the slave's poll flag */
}

static void
test_state(void **state)
{
	struct vm_state *saved;

	outb(&f.t, ELCR1, 0x20);
	vm_irq_set(f.t.vm, 5, true, NULL);
	expect(0x35);
	pulse(1);
	pulse(12);
	outb(&f.t, MASTER + 1, 0x80);
	outb(&f.t, MASTER, OCW3_READ_ISR);
	outb(&f.t, SLAVE, 0x11);
	outb(&f.t, SLAVE + 1, 0x38); /* in the middle of initialization */
	saved = chip_save(&f.t);

	vm_irq_set(f.t.vm, 5, false, NULL);
	chip_init(MASTER, 0x90, 0x04, 0x01);
	chip_init(SLAVE, 0x98, 0x02, 0x01);
	chip_out(&f.t, ELCR1, 2, 0);
	expect_none();

	assert_int_equal(chip_load(&f.t, saved, spoil_flag), -EINVAL);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	assert_int_equal(inb(&f.t, MASTER), 0x20);
	assert_int_equal(inb(&f.t, MASTER + 1), 0x80);
	assert_int_equal(inb(&f.t, ELCR1), 0x20);
	expect(0x31);
	outb(&f.t, MASTER, OCW2_EOI);
	outb(&f.t, MASTER, OCW2_EOI);
	expect(0x35); /* the level, still high */
	outb(&f.t, SLAVE + 1, 0x02);
	outb(&f.t, SLAVE + 1, 0x01);
	assert_int_equal(inb(&f.t, SLAVE + 1), 0); /* ICW3 and ICW4 were to come */
	vm_state_destroy(saved);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_vectors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_vector_base, setup, teardown),
		cmocka_unit_test_setup_teardown(test_init_sequence, setup, teardown),
		cmocka_unit_test_setup_teardown(test_init_resets, setup, teardown),
		cmocka_unit_test(test_power_on),
		cmocka_unit_test_setup_teardown(test_fully_nested, setup, teardown),
		cmocka_unit_test_setup_teardown(test_slave_nesting, setup, teardown),
		cmocka_unit_test_setup_teardown(test_special_fully_nested, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mask, setup, teardown),
		cmocka_unit_test_setup_teardown(test_special_mask, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rotation, setup, teardown),
		cmocka_unit_test_setup_teardown(test_automatic_eoi, setup, teardown),
		cmocka_unit_test_setup_teardown(test_poll, setup, teardown),
		cmocka_unit_test_setup_teardown(test_edge_and_level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_elcr, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spurious, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
