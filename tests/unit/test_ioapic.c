/*
 * I/O APIC: registers, edges and levels, messages, ends of interrupt.
 */
#include "chip_test.h"

#include "chipset/ioapic.h"

#define REGSEL 0x00
#define WIN 0x10
#define EOI 0x40
#define REG_ID 0x00
#define REG_VERSION 0x01
#define REG_ARB 0x02
#define REG_RTE(pin) (0x10 + 2 * (pin))

#define MASKED BIT64(16)
#define LEVEL BIT64(15)
#define REMOTE_IRR BIT64(14)
#define LOW_ACTIVE BIT64(13)
#define LOGICAL BIT64(11)
#define MODE(m) ((uint64_t)(m) << 8)
#define DEST(d) ((uint64_t)(d) << 56)

struct fixture {
	struct chip_test t;
	struct ioapic *ioapic;
	int messages; /* sent since expect() */
	uint64_t addr;
	uint32_t data;
};

static struct fixture f;

static void
record_msi(void *ctx, uint64_t addr, uint32_t data)
{
	f.messages++;
	f.addr = addr;
	f.data = data;
}

static const struct vm_apic_ops apic_ops = { .msi = record_msi };

static int
setup(void **state)
{
	f = (struct fixture){ 0 };
	chip_test_init(&f.t, MIB(1));
	assert_int_equal(ioapic_create(f.t.vm, &f.ioapic), 0);
	vm_apic_register(f.t.vm, &apic_ops, NULL);
	return 0;
}

static int
teardown(void **state)
{
	ioapic_destroy(f.ioapic);
	vm_destroy(f.t.vm);
	return 0;
}

static uint32_t
reg_read(unsigned reg)
{
	vm_bus_write(f.t.vm, VM_MMIO, IOAPIC_BASE + REGSEL, 4, reg);
	return (uint32_t)vm_bus_read(f.t.vm, VM_MMIO, IOAPIC_BASE + WIN, 4);
}

static void
reg_write(unsigned reg, uint32_t val)
{
	vm_bus_write(f.t.vm, VM_MMIO, IOAPIC_BASE + REGSEL, 4, reg);
	vm_bus_write(f.t.vm, VM_MMIO, IOAPIC_BASE + WIN, 4, val);
}

static uint64_t
rte_read(int pin)
{
	return reg_read(REG_RTE(pin)) | (uint64_t)reg_read(REG_RTE(pin) + 1) << 32;
}

static void
rte_write(int pin, uint64_t rte)
{
	reg_write(REG_RTE(pin) + 1, (uint32_t)(rte >> 32));
	reg_write(REG_RTE(pin), (uint32_t)rte);
}

static void
raise_line(int line)
{
	vm_irq_set(f.t.vm, line, true, NULL);
}

static void
lower_line(int line)
{
	vm_irq_set(f.t.vm, line, false, NULL);
}

/* As many messages since last asked, the last of them for this vector. */
static void
expect(int messages, uint8_t vector)
{
	assert_int_equal(f.messages, messages);
	if (messages != 0)
		assert_int_equal(f.data & 0xff, vector);
	f.messages = 0;
}

static void
test_registers(void **state)
{
	assert_int_equal(reg_read(REG_ID), IOAPIC_ID << 24);
	assert_int_equal(reg_read(REG_VERSION), 0x00170020);
	for (int pin = 0; pin < IOAPIC_PINS; pin++)
		assert_int_equal(rte_read(pin), MASKED);
	reg_write(REG_ID, 0xffffffff);
	assert_int_equal(reg_read(REG_ID), 0x0f000000);
	assert_int_equal(reg_read(REG_ARB), 0x0f000000);
	reg_write(REG_VERSION, 0xffffffff);
	assert_int_equal(reg_read(REG_VERSION), 0x00170020);
	reg_write(REG_ARB, 0);
	assert_int_equal(reg_read(REG_ARB), 0x0f000000);
	/* What is between and behind the registers reads zero. */
	for (unsigned reg = 3; reg < 256; reg++) {
		if (reg >= REG_RTE(0) && reg < REG_RTE(IOAPIC_PINS))
			continue;
		reg_write(reg, 0xffffffff);
		assert_int_equal(reg_read(reg), 0);
	}
	/* The selector keeps eight bits and can be read back. */
	vm_bus_write(f.t.vm, VM_MMIO, IOAPIC_BASE, 4, 0xabcdef12);
	assert_int_equal(vm_bus_read(f.t.vm, VM_MMIO, IOAPIC_BASE, 4), 0x12);
	assert_int_equal(vm_bus_read(f.t.vm, VM_MMIO, IOAPIC_BASE + EOI, 4), 0);
	/* Byte accesses work as well. */
	vm_bus_write(f.t.vm, VM_MMIO, IOAPIC_BASE, 1, REG_VERSION);
	assert_int_equal(vm_bus_read(f.t.vm, VM_MMIO, IOAPIC_BASE + WIN, 1), 0x20);
}

static void
test_writable_bits(void **state)
{
	/* All but delivery status, remote IRR and the reserved bits. */
	rte_write(5, MASKED | 0xffffffffffffafffull);
	assert_int_equal(rte_read(5), 0xff0000000001afffull);
	rte_write(5, MASKED);
	assert_int_equal(rte_read(5), MASKED);
	/* The halves are independent. */
	reg_write(REG_RTE(5) + 1, 0xaa000000);
	assert_int_equal(rte_read(5), DEST(0xaa) | MASKED);
	reg_write(REG_RTE(5), 0x10031);
	assert_int_equal(rte_read(5), DEST(0xaa) | 0x10031);
}

static void
test_pins(void **state)
{
	for (int pin = 0; pin < IOAPIC_PINS; pin++)
		rte_write(pin, 0x40 + (unsigned)pin);
	for (int line = 0; line < VM_IRQ_LINES; line++) {
		raise_line(line);
		if (line == 2)
			expect(0, 0);
		else
			expect(1, (uint8_t)(0x40 + (line == 0 ? 2 : line)));
		lower_line(line);
		expect(0, 0);
	}
}

static void
test_message_format(void **state)
{
	static const struct {
		uint64_t rte;
		uint64_t addr;
		uint32_t data;
	} cases[] = {
		{ DEST(3) | 0x51, 0xfee03000, 0x4051 },
		{ DEST(0xff) | LOGICAL | 0x51, 0xfeeff004, 0x4051 },
		{ DEST(3) | LOGICAL | MODE(1) | 0x51, 0xfee0300c, 0x4151 },
		{ DEST(3) | LEVEL | LOW_ACTIVE | 0x51, 0xfee03000, 0xc051 },
		{ DEST(1) | MODE(2), 0xfee01000, 0x4200 },
		{ DEST(1) | MODE(4) | LEVEL, 0xfee01000, 0x4400 }, /* NMIs are edges */
		{ DEST(1) | MODE(5), 0xfee01000, 0x4500 },
		{ DEST(1) | MODE(7), 0xfee01000, 0x4700 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		rte_write(9, cases[i].rte);
		raise_line(9);
		assert_int_equal(f.messages, 1);
		assert_int_equal(f.addr, cases[i].addr);
		assert_int_equal(f.data, cases[i].data);
		lower_line(9);
		rte_write(9, MASKED);
		f.messages = 0;
	}
	/* Reserved modes send nothing. */
	rte_write(9, MODE(3) | 0x51);
	raise_line(9);
	lower_line(9);
	rte_write(9, MODE(6) | 0x51);
	raise_line(9);
	expect(0, 0);
}

static void
test_edge(void **state)
{
	rte_write(4, 0x44);
	raise_line(4);
	expect(1, 0x44);
	raise_line(4); /* already up */
	expect(0, 0);
	lower_line(4);
	raise_line(4);
	expect(1, 0x44); /* edges wait for no end of interrupt */
	lower_line(4);
	/* An edge while masked is lost, and unmasking a high pin is no edge. */
	rte_write(4, MASKED | 0x44);
	raise_line(4);
	rte_write(4, 0x44);
	expect(0, 0);
	vm_irq_eoi(f.t.vm, 0x44);
	expect(0, 0);
}

static void
test_level(void **state)
{
	rte_write(18, LEVEL | 0x52);
	raise_line(18);
	expect(1, 0x52);
	assert_int_equal(rte_read(18), LEVEL | REMOTE_IRR | 0x52);
	/* Nothing more before the end of interrupt, whatever the line does. */
	lower_line(18);
	raise_line(18);
	expect(0, 0);
	vm_irq_eoi(f.t.vm, 0x53); /* another's */
	expect(0, 0);
	vm_irq_eoi(f.t.vm, 0x52);
	expect(1, 0x52); /* still up: again */
	lower_line(18);
	vm_irq_eoi(f.t.vm, 0x52);
	expect(0, 0);
	assert_int_equal(rte_read(18), LEVEL | 0x52);
	vm_irq_eoi(f.t.vm, 0x52);
	expect(0, 0);
}

static void
test_level_masked(void **state)
{
	rte_write(18, MASKED | LEVEL | 0x52);
	raise_line(18);
	expect(0, 0);
	assert_int_equal(rte_read(18), MASKED | LEVEL | 0x52);
	rte_write(18, LEVEL | 0x52);
	expect(1, 0x52);
	/* Masked while in service: the end is noted, the next comes with unmasking. */
	rte_write(18, MASKED | LEVEL | 0x52);
	assert_int_equal(rte_read(18), MASKED | LEVEL | REMOTE_IRR | 0x52);
	vm_irq_eoi(f.t.vm, 0x52);
	expect(0, 0);
	rte_write(18, LEVEL | 0x52);
	expect(1, 0x52);
}

/* The EOI register of version 20h ends an interrupt as a broadcast does. */
static void
test_eoi_register(void **state)
{
	rte_write(18, LEVEL | 0x52);
	rte_write(19, LEVEL | 0x52);
	raise_line(18);
	raise_line(19);
	expect(2, 0x52);
	lower_line(19);
	vm_bus_write(f.t.vm, VM_MMIO, IOAPIC_BASE + EOI, 4, 0x52);
	expect(1, 0x52);
	assert_int_equal(rte_read(19), LEVEL | 0x52);
}

/* What guests do to free a stuck remote IRR on parts without the EOI register. */
static void
test_trigger_change(void **state)
{
	rte_write(18, LEVEL | 0x52);
	raise_line(18);
	expect(1, 0x52);
	rte_write(18, MASKED | 0x52);
	assert_int_equal(rte_read(18), MASKED | 0x52);
	rte_write(18, LEVEL | 0x52);
	expect(1, 0x52);
}

static void
test_shared_line(void **state)
{
	int a, b;

	rte_write(18, LEVEL | 0x52);
	vm_irq_set(f.t.vm, 18, true, &a);
	vm_irq_set(f.t.vm, 18, true, &b);
	expect(1, 0x52);
	vm_irq_set(f.t.vm, 18, false, &a);
	vm_irq_eoi(f.t.vm, 0x52);
	expect(1, 0x52);
	vm_irq_set(f.t.vm, 18, false, &b);
	vm_irq_eoi(f.t.vm, 0x52);
	expect(0, 0);
}

static void
test_hostile(void **state)
{
	uint64_t seed = 82093;

	for (int i = 0; i < 200000; i++) {
		uint64_t r = chip_random(&seed);

		switch (r & 7) {
		case 0:
			vm_irq_set(f.t.vm, (int)(r >> 8 & 31) % VM_IRQ_LINES, r >> 16 & 1, NULL);
			break;
		case 1: vm_irq_eoi(f.t.vm, (uint8_t)(r >> 8)); break;
		case 2:
			(void)vm_bus_read(f.t.vm, VM_MMIO, IOAPIC_BASE + (r >> 8 & 0x7f),
			    1 + (r >> 16 & 7));
			break;
		case 3: reg_write(r >> 8 & 0xff, (uint32_t)(r >> 32)); break;
		default:
			vm_bus_write(f.t.vm, VM_MMIO, IOAPIC_BASE + (r >> 8 & 0x7f),
			    1 + (r >> 16 & 7), chip_random(&seed));
			break;
		}
	}
	for (int pin = 0; pin < IOAPIC_PINS; pin++)
		assert_int_equal(rte_read(pin) & ~0xff0000000001efffull, 0);
}

static void
set_reserved(uint8_t *data, size_t len)
{
	data[len - 5] |= 0x80; /* bit 31 of the last entry */
}

static void
test_state(void **state)
{
	struct vm_state *saved;

	reg_write(REG_ID, 0x05000000);
	rte_write(18, DEST(7) | LEVEL | 0x52);
	rte_write(3, DEST(1) | 0x43);
	raise_line(18);
	raise_line(3);
	expect(2, 0x43);
	(void)reg_read(REG_VERSION);
	saved = chip_save(&f.t);

	reg_write(REG_ID, 0);
	rte_write(18, MASKED);
	rte_write(3, MASKED);
	assert_int_equal(chip_load(&f.t, saved, set_reserved), -EINVAL);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	expect(0, 0);
	assert_int_equal(vm_bus_read(f.t.vm, VM_MMIO, IOAPIC_BASE, 4), REG_VERSION);
	assert_int_equal(reg_read(REG_ID), 0x05000000);
	assert_int_equal(rte_read(18), DEST(7) | LEVEL | REMOTE_IRR | 0x52);
	assert_int_equal(rte_read(3), DEST(1) | 0x43);
	vm_irq_eoi(f.t.vm, 0x52);
	expect(1, 0x52);
	vm_state_destroy(saved);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_registers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_writable_bits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pins, setup, teardown),
		cmocka_unit_test_setup_teardown(test_message_format, setup, teardown),
		cmocka_unit_test_setup_teardown(test_edge, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_level_masked, setup, teardown),
		cmocka_unit_test_setup_teardown(test_eoi_register, setup, teardown),
		cmocka_unit_test_setup_teardown(test_trigger_change, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shared_line, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile, setup, teardown),
		cmocka_unit_test_setup_teardown(test_state, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
