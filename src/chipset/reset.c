/*
 * Reset by ports 0xcf9 and 0x92.
 */
#include "chipset/reset.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/bits.h"
#include "vm/bus.h"
#include "vm/state.h"

/* Reset control, port 0xcf9 (82371SB, 2.5.5) */
#define RESET_CONTROL_HARD BIT(1) /* the kind; for a VM they are all the same */
#define RESET_CONTROL_CPU BIT(2) /* resets when it goes from 0 to 1 */
#define RESET_CONTROL_FULL BIT(3)
#define RESET_CONTROL_MASK (RESET_CONTROL_HARD | RESET_CONTROL_CPU | RESET_CONTROL_FULL)

/* System control port A, 0x92 */
#define RESET_PORT_A 0x92
#define RESET_PORT_A_RESET BIT(0) /* resets when it goes from 0 to 1 */
#define RESET_PORT_A_A20 BIT(1) /* kept, but address line 20 is always on */
#define RESET_PORT_A_MASK (RESET_PORT_A_RESET | RESET_PORT_A_A20)

#define RESET_POST_PORT 0x80

struct reset {
	struct vm *vm;
	struct vm_range control_range, a_range, post_range;

	pthread_mutex_t lock; /* everything below */
	uint8_t control;
	uint8_t port_a;
	uint8_t post; /* the last code shown */
};

uint8_t
reset_control_read(struct reset *r)
{
	uint8_t val;

	pthread_mutex_lock(&r->lock);
	val = r->control;
	pthread_mutex_unlock(&r->lock);
	return val;
}

void
reset_control_write(struct reset *r, uint8_t val)
{
	bool reset;

	pthread_mutex_lock(&r->lock);
	reset = (val & ~r->control & RESET_CONTROL_CPU) != 0;
	r->control = val & RESET_CONTROL_MASK;
	pthread_mutex_unlock(&r->lock);
	if (reset)
		vm_shutdown(r->vm, VM_EXIT_REBOOT);
}

/*
 * The range is the double word at 0xcf8, PCI's CONFIG_ADDRESS, where only a byte at 0xcf9 is meant
 * for the register (PCI 2.1, 3.7.4.1). Guests look for a PCI bus with double words whose second
 * byte would be a reset.
 */
#define RESET_RANGE_BASE (RESET_CONTROL_PORT - 1)
#define RESET_RANGE_SIZE 4

static uint64_t
reset_range_read(void *ctx, uint64_t off, int size)
{
	return off == 1 && size == 1 ? reset_control_read(ctx) : ~0ull;
}

static void
reset_range_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	if (off == 1 && size == 1)
		reset_control_write(ctx, (uint8_t)val);
}

static uint64_t
reset_a_read(void *ctx, uint64_t off, int size)
{
	struct reset *r = ctx;
	uint8_t val;

	pthread_mutex_lock(&r->lock);
	val = r->port_a;
	pthread_mutex_unlock(&r->lock);
	return val;
}

static void
reset_a_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct reset *r = ctx;
	bool reset;

	pthread_mutex_lock(&r->lock);
	reset = (val & ~r->port_a & RESET_PORT_A_RESET) != 0;
	r->port_a = val & RESET_PORT_A_MASK;
	pthread_mutex_unlock(&r->lock);
	if (reset)
		vm_shutdown(r->vm, VM_EXIT_REBOOT);
}

static uint64_t
reset_post_read(void *ctx, uint64_t off, int size)
{
	struct reset *r = ctx;
	uint8_t val;

	pthread_mutex_lock(&r->lock);
	val = r->post;
	pthread_mutex_unlock(&r->lock);
	return val;
}

static void
reset_post_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct reset *r = ctx;

	pthread_mutex_lock(&r->lock);
	r->post = (uint8_t)val;
	pthread_mutex_unlock(&r->lock);
}

static const struct vm_range_ops reset_range_ops = { "reset", reset_range_read, reset_range_write,
	1, 4 };
static const struct vm_range_ops reset_a_ops = { "port92", reset_a_read, reset_a_write, 1, 1 };
static const struct vm_range_ops reset_post_ops = { "post", reset_post_read, reset_post_write, 1,
	1 };

static int
reset_state(void *ctx, struct vm_state *s)
{
	struct reset *r = ctx;

	vm_state_section(s, "reset", 0, 1);
	vm_state_u8(s, &r->control);
	vm_state_u8(s, &r->port_a);
	vm_state_u8(s, &r->post);
	return vm_state_end(s);
}

int
reset_create(struct vm *vm, struct reset **out)
{
	struct reset *r = calloc(1, sizeof(*r));
	int err;

	if (r == NULL)
		return -ENOMEM;
	r->vm = vm;
	r->port_a = RESET_PORT_A_A20;
	pthread_mutex_init(&r->lock, NULL);
	/* In the background: a PCI host bridge takes the ports over. */
	r->control_range = (struct vm_range){ &reset_range_ops, r, VM_PIO, RESET_RANGE_BASE,
		RESET_RANGE_SIZE, true };
	r->a_range = (struct vm_range){ &reset_a_ops, r, VM_PIO, RESET_PORT_A, 1, false };
	r->post_range = (struct vm_range){ &reset_post_ops, r, VM_PIO, RESET_POST_PORT, 1, true };
	err = vm_range_add(vm, &r->control_range);
	if (err == 0)
		err = vm_range_add(vm, &r->a_range);
	if (err == 0)
		err = vm_range_add(vm, &r->post_range);
	if (err == 0)
		err = vm_state_register(vm, reset_state, r);
	if (err != 0) {
		reset_destroy(r);
		return err;
	}
	*out = r;
	return 0;
}

void
reset_destroy(struct reset *r)
{
	if (r == NULL)
		return;
	/* A range that was not added is not found. */
	vm_range_remove(r->vm, &r->control_range);
	vm_range_remove(r->vm, &r->a_range);
	vm_range_remove(r->vm, &r->post_range);
	pthread_mutex_destroy(&r->lock);
	free(r);
}
