/*
 * Interrupt controllers of the PC (two 8259A with ELCR).
 */
#include "chipset/i8259.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

/* Initialization command words (8259A data sheet, figure 7). ICW1 and OCWs share the even port. */
#define I8259_ICW1 BIT(4)
#define I8259_ICW1_IC4 BIT(0)
#define I8259_ICW1_SNGL BIT(1)
#define I8259_ICW2_BASE 0xf8
#define I8259_ICW4_AEOI BIT(1)
#define I8259_ICW4_SFNM BIT(4)

/* Operation command words (figure 8) */
#define I8259_OCW3 BIT(3)
#define I8259_OCW3_RIS BIT(0)
#define I8259_OCW3_RR BIT(1)
#define I8259_OCW3_P BIT(2)
#define I8259_OCW3_SMM BIT(5)
#define I8259_OCW3_ESMM BIT(6)
#define I8259_OCW2_LEVEL(v) ((v) & 7)
#define I8259_OCW2_COMMAND(v) ((v) >> 5)
enum i8259_ocw2 {
	I8259_ROTATE_AEOI_CLEAR,
	I8259_EOI,
	I8259_NOP,
	I8259_EOI_SPECIFIC,
	I8259_ROTATE_AEOI_SET,
	I8259_ROTATE_EOI,
	I8259_SET_PRIORITY,
	I8259_ROTATE_EOI_SPECIFIC,
};

#define I8259_POLL_INT BIT(7) /* the byte a poll reads */

#define I8259_CASCADE 2 /* the master's input the slave is on */
#define I8259_SPURIOUS 7

/* Inputs that are always edge-triggered: 0, 1, 2, 8 and 13 (ICH data sheets, ELCR1 and ELCR2) */
static const uint8_t i8259_elcr_mask[2] = { 0xf8, 0xde };

enum i8259_init { I8259_READY, I8259_WANT_ICW2, I8259_WANT_ICW3, I8259_WANT_ICW4 };

struct i8259_chip {
	uint8_t lines; /* level of the inputs */
	uint8_t irr; /* edges not yet acknowledged; levels are in lines */
	uint8_t isr, imr, elcr;
	uint8_t init; /* enum i8259_init: the word the odd port waits for */
	uint8_t icw1, icw2, icw4;
	uint8_t lowest; /* the input of the lowest priority; the next one up has the highest */
	bool rotate_aeoi, special_mask, read_isr, poll;
};

struct i8259 {
	struct vm *vm;
	pthread_mutex_t lock; /* guards all below; vm_pic_output() is called with it held */
	struct i8259_chip chip[2]; /* master, slave */
	atomic_bool intr; /* the master's output; read without the lock */
};

/* --- One chip; the lock is held --- */

static uint8_t
i8259_requests(const struct i8259_chip *c)
{
	return (c->irr & ~c->elcr) | (c->lines & c->elcr);
}

/* The set bit of the highest priority, or -1. */
static int
i8259_highest(const struct i8259_chip *c, uint8_t bits)
{
	for (int i = 1; i <= 8; i++) {
		int input = (c->lowest + i) & 7;

		if (bits & BIT(input))
			return input;
	}
	return -1;
}

/* How far an input's priority is below the highest: 0 to 7. */
static int
i8259_rank(const struct i8259_chip *c, int input)
{
	return (input - c->lowest - 1) & 7;
}

/* The input to be serviced next, or -1 (data sheet, "Fully Nested Mode", "Special Mask Mode", "The
 * Special Fully Nested Mode"). */
static int
i8259_next(const struct i8259_chip *c, bool master)
{
	uint8_t service = c->isr;
	int input = i8259_highest(c, i8259_requests(c) & ~c->imr), current;

	if (input < 0 || c->init != I8259_READY)
		return -1;
	if (c->special_mask)
		service &= ~c->imr;
	/* A second interrupt of the slave's may be of a higher priority than the one in service. */
	if (master && (c->icw4 & I8259_ICW4_SFNM) && input == I8259_CASCADE)
		service &= ~BIT(I8259_CASCADE);
	current = i8259_highest(c, service);
	if (current >= 0 && i8259_rank(c, current) <= i8259_rank(c, input))
		return -1;
	return input;
}

static void
i8259_rotate(struct i8259_chip *c, int input)
{
	c->lowest = (uint8_t)input;
}

/* Takes the input into service: the end of an INTA cycle, or a poll. */
static void
i8259_take(struct i8259_chip *c, int input)
{
	c->irr &= ~BIT(input);
	if (!(c->icw4 & I8259_ICW4_AEOI))
		c->isr |= BIT(input);
	else if (c->rotate_aeoi)
		i8259_rotate(c, input);
}

static void
i8259_reset(struct i8259_chip *c)
{
	c->irr = 0;
	c->isr = 0;
	c->imr = 0;
	c->icw1 = 0;
	c->icw4 = 0;
	c->lowest = 7;
	c->rotate_aeoi = false;
	c->special_mask = false;
	c->read_isr = false;
	c->poll = false;
}

/* --- Both chips; the lock is held --- */

/* Follows every change: the slave's output into the master, the master's out. */
static void
i8259_update(struct i8259 *d)
{
	struct i8259_chip *master = &d->chip[0];
	bool intr;

	/* The cascade input follows the slave's output, which falls between two interrupts. */
	if (i8259_next(&d->chip[1], false) >= 0)
		master->irr |= BIT(I8259_CASCADE);
	else
		master->irr &= ~BIT(I8259_CASCADE);
	intr = i8259_next(master, true) >= 0;
	if (intr != atomic_load(&d->intr)) {
		atomic_store(&d->intr, intr);
		vm_pic_output(d->vm, intr);
	}
}

/* Acknowledging makes INTR fall, if only to rise again for the next request. */
static void
i8259_output_low(struct i8259 *d)
{
	if (atomic_exchange(&d->intr, false))
		vm_pic_output(d->vm, false);
}

static int
i8259_vector(const struct i8259_chip *c, int input)
{
	return (c->icw2 & I8259_ICW2_BASE) | input;
}

/* Acknowledges a chip: the input taken, or the spurious one (data sheet, "Interrupt Sequence"). */
static int
i8259_chip_ack(struct i8259_chip *c, bool master)
{
	int input = i8259_next(c, master);

	if (input < 0)
		return I8259_SPURIOUS;
	i8259_take(c, input);
	return input;
}

static int
i8259_ack(void *ctx)
{
	struct i8259 *d = ctx;
	struct i8259_chip *c = &d->chip[0];
	int input, vector;

	pthread_mutex_lock(&d->lock);
	input = i8259_next(c, true);
	vector = i8259_vector(c, i8259_chip_ack(c, true));
	if (input == I8259_CASCADE) {
		c = &d->chip[1];
		vector = i8259_vector(c, i8259_chip_ack(c, false));
	}
	i8259_output_low(d);
	i8259_update(d);
	pthread_mutex_unlock(&d->lock);
	return vector;
}

static bool
i8259_pending(void *ctx)
{
	struct i8259 *d = ctx;

	return atomic_load(&d->intr);
}

static void
i8259_line(void *ctx, int line, bool level)
{
	struct i8259 *d = ctx;
	struct i8259_chip *c = &d->chip[line / 8 & 1];
	uint8_t bit = (uint8_t)BIT(line % 8);

	if (line >= 16 || line == I8259_CASCADE)
		return;
	pthread_mutex_lock(&d->lock);
	if (level && !(c->lines & bit))
		c->irr |= bit;
	c->lines = level ? c->lines | bit : c->lines & ~bit;
	i8259_update(d);
	pthread_mutex_unlock(&d->lock);
}

/* --- Command words; the lock is held --- */

static void
i8259_icw1_write(struct i8259_chip *c, uint8_t val)
{
	i8259_reset(c);
	c->icw1 = val;
	c->init = I8259_WANT_ICW2;
}

/* Ends one interrupt's service; -1 is the one of the highest priority. Returns it, or -1. */
static int
i8259_eoi(struct i8259_chip *c, int input)
{
	/* A masked interrupt in special mask mode is ended by a specific EOI only. */
	if (input < 0)
		input = i8259_highest(c, c->special_mask ? c->isr & ~c->imr : c->isr);
	if (input >= 0)
		c->isr &= ~BIT(input);
	return input;
}

static void
i8259_ocw2_write(struct i8259_chip *c, uint8_t val)
{
	int input;

	switch ((enum i8259_ocw2)I8259_OCW2_COMMAND(val)) {
	case I8259_ROTATE_AEOI_CLEAR: c->rotate_aeoi = false; break;
	case I8259_ROTATE_AEOI_SET: c->rotate_aeoi = true; break;
	case I8259_EOI: i8259_eoi(c, -1); break;
	case I8259_EOI_SPECIFIC: i8259_eoi(c, I8259_OCW2_LEVEL(val)); break;
	case I8259_ROTATE_EOI:
		input = i8259_eoi(c, -1);
		if (input >= 0)
			i8259_rotate(c, input);
		break;
	case I8259_ROTATE_EOI_SPECIFIC:
		i8259_rotate(c, i8259_eoi(c, I8259_OCW2_LEVEL(val)));
		break;
	case I8259_SET_PRIORITY: i8259_rotate(c, I8259_OCW2_LEVEL(val)); break;
	case I8259_NOP: break;
	}
}

static void
i8259_ocw3_write(struct i8259_chip *c, uint8_t val)
{
	if (val & I8259_OCW3_ESMM)
		c->special_mask = val & I8259_OCW3_SMM;
	/* Poll overrides register read (data sheet, "Reading the 8259A Status"). */
	if (val & I8259_OCW3_P)
		c->poll = true;
	else if (val & I8259_OCW3_RR)
		c->read_isr = val & I8259_OCW3_RIS;
}

/* The odd port: ICW2 to ICW4 after ICW1, else the mask. ICW3 tells what is wired to what, which
 * cannot be otherwise here. */
static void
i8259_data_write(struct i8259_chip *c, uint8_t val)
{
	bool want_icw4 = c->icw1 & I8259_ICW1_IC4;

	switch ((enum i8259_init)c->init) {
	case I8259_READY: c->imr = val; break;
	case I8259_WANT_ICW2:
		c->icw2 = val;
		if (!(c->icw1 & I8259_ICW1_SNGL))
			c->init = I8259_WANT_ICW3;
		else
			c->init = want_icw4 ? I8259_WANT_ICW4 : I8259_READY;
		break;
	case I8259_WANT_ICW3: c->init = want_icw4 ? I8259_WANT_ICW4 : I8259_READY; break;
	case I8259_WANT_ICW4:
		c->icw4 = val;
		c->init = I8259_READY;
		break;
	}
}

/* --- Ports --- */

/* A poll is an INTA cycle made by software, with the slave's service left to a poll of its own. */
static uint8_t
i8259_poll(struct i8259_chip *c, bool master)
{
	int input = i8259_next(c, master);

	c->poll = false;
	if (input < 0)
		return 0;
	i8259_take(c, input);
	return (uint8_t)(I8259_POLL_INT | (unsigned)input);
}

static uint64_t
i8259_read(struct i8259 *d, int i, uint64_t off)
{
	struct i8259_chip *c = &d->chip[i];
	uint8_t val;

	pthread_mutex_lock(&d->lock);
	if (c->poll) {
		val = i8259_poll(c, i == 0);
		if (i == 0)
			i8259_output_low(d);
		i8259_update(d);
	} else if (off == 1) {
		val = c->imr;
	} else {
		val = c->read_isr ? c->isr : i8259_requests(c);
	}
	pthread_mutex_unlock(&d->lock);
	return val;
}

static void
i8259_write(struct i8259 *d, int i, uint64_t off, uint8_t val)
{
	struct i8259_chip *c = &d->chip[i];

	pthread_mutex_lock(&d->lock);
	if (off == 1)
		i8259_data_write(c, val);
	else if (val & I8259_ICW1)
		i8259_icw1_write(c, val);
	else if (val & I8259_OCW3)
		i8259_ocw3_write(c, val);
	else
		i8259_ocw2_write(c, val);
	i8259_update(d);
	pthread_mutex_unlock(&d->lock);
}

static uint64_t
i8259_master_read(void *ctx, uint64_t off, int size)
{
	return i8259_read(ctx, 0, off);
}

static void
i8259_master_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	i8259_write(ctx, 0, off, (uint8_t)val);
}

static uint64_t
i8259_slave_read(void *ctx, uint64_t off, int size)
{
	return i8259_read(ctx, 1, off);
}

static void
i8259_slave_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	i8259_write(ctx, 1, off, (uint8_t)val);
}

static uint64_t
i8259_elcr_read(void *ctx, uint64_t off, int size)
{
	struct i8259 *d = ctx;
	uint8_t val;

	pthread_mutex_lock(&d->lock);
	val = d->chip[off].elcr;
	pthread_mutex_unlock(&d->lock);
	return val;
}

static void
i8259_elcr_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct i8259 *d = ctx;

	pthread_mutex_lock(&d->lock);
	d->chip[off].elcr = (uint8_t)val & i8259_elcr_mask[off];
	i8259_update(d);
	pthread_mutex_unlock(&d->lock);
}

/* --- State, life --- */

static void
i8259_chip_state(struct i8259_chip *c, int i, struct vm_state *s)
{
	vm_state_u8(s, &c->lines);
	vm_state_u8(s, &c->irr);
	vm_state_u8(s, &c->isr);
	vm_state_u8(s, &c->imr);
	vm_state_u8(s, &c->elcr);
	vm_state_u8(s, &c->init);
	vm_state_u8(s, &c->icw1);
	vm_state_u8(s, &c->icw2);
	vm_state_u8(s, &c->icw4);
	vm_state_u8(s, &c->lowest);
	vm_state_bool(s, &c->rotate_aeoi);
	vm_state_bool(s, &c->special_mask);
	vm_state_bool(s, &c->read_isr);
	vm_state_bool(s, &c->poll);
	if (c->init > I8259_WANT_ICW4 || c->lowest > 7 || (c->elcr & ~i8259_elcr_mask[i]))
		vm_state_reject(s, "an 8259's registers");
}

static int
i8259_state(void *ctx, struct vm_state *s)
{
	struct i8259 *d = ctx;
	int err;

	vm_state_section(s, "i8259", 0, 1);
	for (int i = 0; i < 2; i++)
		i8259_chip_state(&d->chip[i], i, s);
	err = vm_state_end(s);
	if (err == 0 && vm_state_loading(s)) {
		pthread_mutex_lock(&d->lock);
		i8259_output_low(d);
		i8259_update(d);
		pthread_mutex_unlock(&d->lock);
	}
	return err;
}

static const struct vm_range_ops i8259_master_ops = { "i8259 master", i8259_master_read,
	i8259_master_write, 1, 1 };
static const struct vm_range_ops i8259_slave_ops = { "i8259 slave", i8259_slave_read,
	i8259_slave_write, 1, 1 };
static const struct vm_range_ops i8259_elcr_ops = { "i8259 elcr", i8259_elcr_read, i8259_elcr_write,
	1, 1 };

static const struct vm_irq_sink_ops i8259_sink_ops = { .name = "i8259", .set = i8259_line };

static const struct vm_pic_ops i8259_pic_ops = { .pending = i8259_pending, .ack = i8259_ack };

int
i8259_create(struct vm *vm, struct i8259 **out)
{
	struct i8259 *d = calloc(1, sizeof(*d));
	const struct vm_range ranges[] = {
		{ .ops = &i8259_master_ops, .ctx = d, .space = VM_PIO, .base = 0x20, .size = 2 },
		{ .ops = &i8259_slave_ops, .ctx = d, .space = VM_PIO, .base = 0xa0, .size = 2 },
		{ .ops = &i8259_elcr_ops, .ctx = d, .space = VM_PIO, .base = 0x4d0, .size = 2 },
	};
	size_t added = 0;
	int err = 0;

	if (d == NULL)
		return -ENOMEM;
	d->vm = vm;
	pthread_mutex_init(&d->lock, NULL);
	for (int i = 0; i < 2; i++) {
		i8259_reset(&d->chip[i]);
		/* Unlike the real part, which wakes up in any state: nothing before ICW1. */
		d->chip[i].imr = 0xff;
	}
	for (; added < ARRAY_SIZE(ranges); added++) {
		err = vm_range_add(vm, &ranges[added]);
		if (err != 0)
			goto remove_ranges;
	}
	err = vm_state_register(vm, i8259_state, d);
	if (err != 0)
		goto remove_ranges;
	vm_irq_sink_add(vm, &i8259_sink_ops, d);
	vm_pic_register(vm, &i8259_pic_ops, d);
	*out = d;
	return 0;
remove_ranges:
	while (added > 0)
		vm_range_remove(vm, &ranges[--added]);
	i8259_destroy(d);
	return err;
}

void
i8259_destroy(struct i8259 *d)
{
	if (d == NULL)
		return;
	pthread_mutex_destroy(&d->lock);
	free(d);
}
