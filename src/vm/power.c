/*
 * The power button.
 */
#include "vm/private.h"

#include <errno.h>
#include <stdlib.h>

struct vm_power {
	/* Registered on the main thread before vCPUs run. */
	bool (*press)(void *ctx);
	void *ctx;
};

int
vm_power_create(struct vm *vm)
{
	vm->power = calloc(1, sizeof(*vm->power));
	return vm->power != NULL ? 0 : -ENOMEM;
}

void
vm_power_destroy(struct vm *vm)
{
	free(vm->power);
	vm->power = NULL;
}

bool
vm_power_button(struct vm *vm)
{
	return vm->power->press != NULL && vm->power->press(vm->power->ctx);
}

void
vm_power_button_register(struct vm *vm, bool (*press)(void *ctx), void *ctx)
{
	vm->power->press = press;
	vm->power->ctx = ctx;
}
