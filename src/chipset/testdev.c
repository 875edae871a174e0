/*
 * The PC debug and test device; see the header for its registers.
 */
#include "chipset/testdev.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/state.h"

#define TESTDEV_EXIT 0xf4
#define TESTDEV_EXIT_SIZE 4
#define TESTDEV_IOPORT 0xe0
#define TESTDEV_IOPORT_SIZE 4
#define TESTDEV_FLUSH 0xe4
#define TESTDEV_FLUSH_SIZE 4
#define TESTDEV_IRQ 0x2000
#define TESTDEV_MEM 0xff000000u
#define TESTDEV_MEM_SIZE 0x10000

struct testdev {
	struct vm *vm;
	struct vm_range exit_range, port_range, flush_range, irq_range, mem_range;

	pthread_mutex_t lock; /* everything below */
	uint8_t port[TESTDEV_IOPORT_SIZE];
	uint8_t irq[VM_IRQ_LINES]; /* levels we hold */
	uint8_t mem[TESTDEV_MEM_SIZE];
};

static uint64_t
testdev_exit_read(void *ctx, uint64_t off, int size)
{
	return 0;
}

static void
testdev_exit_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct testdev *t = ctx;

	vm_shutdown_status(t->vm, (int)((val << 1 | 1) & 0xff));
}

/* The bus keeps off and size inside the range, little-endian as the host. */
static uint64_t
testdev_copy_out(struct testdev *t, const uint8_t *from, int size)
{
	uint64_t val = 0;

	pthread_mutex_lock(&t->lock);
	memcpy(&val, from, (size_t)size);
	pthread_mutex_unlock(&t->lock);
	return val;
}

static void
testdev_copy_in(struct testdev *t, uint8_t *to, int size, uint64_t val)
{
	pthread_mutex_lock(&t->lock);
	memcpy(to, &val, (size_t)size);
	pthread_mutex_unlock(&t->lock);
}

static uint64_t
testdev_port_read(void *ctx, uint64_t off, int size)
{
	struct testdev *t = ctx;

	return testdev_copy_out(t, t->port + off, size);
}

static void
testdev_port_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct testdev *t = ctx;

	testdev_copy_in(t, t->port + off, size, val);
}

static uint64_t
testdev_mem_read(void *ctx, uint64_t off, int size)
{
	struct testdev *t = ctx;

	return testdev_copy_out(t, t->mem + off, size);
}

static void
testdev_mem_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct testdev *t = ctx;

	testdev_copy_in(t, t->mem + off, size, val);
}

static void
testdev_irq_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct testdev *t = ctx;

	pthread_mutex_lock(&t->lock);
	t->irq[off] = val != 0;
	vm_irq_set(t->vm, (int)off, val != 0, t);
	pthread_mutex_unlock(&t->lock);
}

static const struct vm_range_ops testdev_exit_ops = { "testdev", testdev_exit_read,
	testdev_exit_write, 1, 4 };
static const struct vm_range_ops testdev_port_ops = { "testdev", testdev_port_read,
	testdev_port_write, 1, 4 };
static const struct vm_range_ops testdev_flush_ops = { "testdev", NULL, NULL, 1, 4 };
/* A line a port: the bus takes wider writes apart, so none is wider than one byte. */
static const struct vm_range_ops testdev_irq_ops = { "testdev", NULL, testdev_irq_write, 1, 1 };
static const struct vm_range_ops testdev_mem_ops = { "testdev", testdev_mem_read, testdev_mem_write,
	1, 8 };

static int
testdev_state(void *ctx, struct vm_state *s)
{
	struct testdev *t = ctx;

	vm_state_section(s, "testdev", 0, 1);
	vm_state_bytes(s, t->port, sizeof(t->port));
	vm_state_bytes(s, t->irq, sizeof(t->irq));
	vm_state_bytes(s, t->mem, sizeof(t->mem));
	if (vm_state_loading(s) && vm_state_error(s) == 0) {
		for (int i = 0; i < VM_IRQ_LINES; i++)
			vm_irq_set(t->vm, i, t->irq[i] != 0, t);
	}
	return vm_state_end(s);
}

int
testdev_create(struct vm *vm, struct testdev **out)
{
	struct testdev *t = calloc(1, sizeof(*t));
	int err;

	if (t == NULL)
		return -ENOMEM;
	t->vm = vm;
	pthread_mutex_init(&t->lock, NULL);
	t->exit_range = (struct vm_range){ &testdev_exit_ops, t, VM_PIO, TESTDEV_EXIT,
		TESTDEV_EXIT_SIZE, false };
	t->port_range = (struct vm_range){ &testdev_port_ops, t, VM_PIO, TESTDEV_IOPORT,
		TESTDEV_IOPORT_SIZE, false };
	t->flush_range = (struct vm_range){ &testdev_flush_ops, t, VM_PIO, TESTDEV_FLUSH,
		TESTDEV_FLUSH_SIZE, false };
	t->irq_range =
	    (struct vm_range){ &testdev_irq_ops, t, VM_PIO, TESTDEV_IRQ, VM_IRQ_LINES, false };
	t->mem_range =
	    (struct vm_range){ &testdev_mem_ops, t, VM_MMIO, TESTDEV_MEM, TESTDEV_MEM_SIZE, false };
	err = vm_range_add(vm, &t->exit_range);
	if (err == 0)
		err = vm_range_add(vm, &t->port_range);
	if (err == 0)
		err = vm_range_add(vm, &t->flush_range);
	if (err == 0)
		err = vm_range_add(vm, &t->irq_range);
	if (err == 0)
		err = vm_range_add(vm, &t->mem_range);
	if (err == 0)
		err = vm_state_register(vm, testdev_state, t);
	if (err != 0) {
		testdev_destroy(t);
		return err;
	}
	*out = t;
	return 0;
}

void
testdev_destroy(struct testdev *t)
{
	if (t == NULL)
		return;
	/* A range that was not added is not found. */
	vm_range_remove(t->vm, &t->exit_range);
	vm_range_remove(t->vm, &t->port_range);
	vm_range_remove(t->vm, &t->flush_range);
	vm_range_remove(t->vm, &t->irq_range);
	vm_range_remove(t->vm, &t->mem_range);
	pthread_mutex_destroy(&t->lock);
	free(t);
}
