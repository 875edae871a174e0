/*
 * For tests of chips with ports and interrupt lines: a machine whose lines are recorded, short
 * names for port accesses, and a save followed by a load.
 */
#ifndef CHIP_TEST_H
#define CHIP_TEST_H

#include "mock_engine.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "vm/state.h"

struct chip_test {
	struct vm *vm;
	bool level[VM_IRQ_LINES];
	int edges[VM_IRQ_LINES]; /* how often each went up */
};

static void
chip_test_line(void *ctx, int line, bool level)
{
	struct chip_test *t = ctx;

	t->level[line] = level;
	t->edges[line] += level;
}

static const struct vm_irq_sink_ops chip_test_sink = { .name = "test", .set = chip_test_line };

static inline void
chip_test_init(struct chip_test *t, uint64_t memory)
{
	*t = (struct chip_test){ .vm = mock_vm_create(memory, 1) };
	assert_non_null(t->vm);
	vm_irq_sink_add(t->vm, &chip_test_sink, t);
}

static inline uint32_t
chip_in(struct chip_test *t, uint16_t port, int size)
{
	return (uint32_t)vm_bus_read(t->vm, VM_PIO, port, size);
}

static inline void
chip_out(struct chip_test *t, uint16_t port, int size, uint32_t val)
{
	vm_bus_write(t->vm, VM_PIO, port, size, val);
}

static inline uint8_t
inb(struct chip_test *t, uint16_t port)
{
	return (uint8_t)chip_in(t, port, 1);
}

static inline void
outb(struct chip_test *t, uint16_t port, uint8_t val)
{
	chip_out(t, port, 1, val);
}

static inline void
chip_step(struct chip_test *t, uint64_t ns)
{
	vm_clock_step(vm_loop(t->vm), ns);
}

/* The state of all devices of the machine, to be freed with vm_state_destroy(). */
static inline struct vm_state *
chip_save(struct chip_test *t)
{
	struct vm_state *s = vm_state_create();

	assert_non_null(s);
	assert_int_equal(vm_state_all(t->vm, s), 0);
	return s;
}

/* Loads what chip_save() returned; mutate, if not NULL, changes the bytes first. Returns the
 * result. */
static inline int
chip_load(struct chip_test *t, struct vm_state *saved, void (*mutate)(uint8_t *data, size_t len))
{
	size_t len;
	const void *data = vm_state_data(saved, &len);
	uint8_t *copy = malloc(len);
	struct vm_state *s;
	int err;

	assert_non_null(copy);
	memcpy(copy, data, len);
	if (mutate != NULL)
		mutate(copy, len);
	s = vm_state_open(copy, len);
	assert_non_null(s);
	err = vm_state_all(t->vm, s);
	vm_state_destroy(s);
	free(copy);
	return err;
}

/* A generator whose numbers are the same in every run (xorshift64). */
static inline uint64_t
chip_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

#endif
