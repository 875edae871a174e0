/*
 * The machine: made of its parts, run, taken apart.
 */
#include "vm/vm.h"
#include "vm/private.h"

#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define VM_EXIT_NONE (-1)
/* 255 is the broadcast address of xAPIC IDs. */
#define VM_APIC_ID_MAX 254

static int
vm_topology_check(const struct x86_topology *topo)
{
	/* Each factor is checked before it is multiplied: the numbers are the user's. */
	const uint32_t limit = VM_APIC_ID_MAX + 1;
	uint32_t vcpus;

	if (topo->sockets - 1 < limit && topo->cores - 1 < limit && topo->threads - 1 < limit) {
		vcpus = topo->sockets * topo->cores * topo->threads;
		if (vcpus <= limit && x86_topology_apic_id(topo, vcpus - 1) <= VM_APIC_ID_MAX)
			return 0;
	}
	log_error("cpus",
	    "%u sockets of %u cores of %u threads: none may be 0, and APIC IDs end at %d",
	    topo->sockets, topo->cores, topo->threads, VM_APIC_ID_MAX);
	return -EINVAL;
}

static int
vm_engine_create(struct vm *vm)
{
	const struct engine_vm_params params = {
		.vcpus = vm_vcpus(vm),
		.machine = &vm_machine,
		.ctx = vm,
		.topo = vm->params.topo,
		.config = vm->params.config,
	};

	return vm->params.engine->vm_create(&params, &vm->engine);
}

int
vm_create(const struct vm_params *params, struct vm **out)
{
	int (*const parts[])(struct vm *vm) = { vm_bus_create, vm_irq_create, vm_power_create,
		vm_states_create, vm_engine_create, vm_mem_create, vm_vcpus_create };
	struct vm *vm;
	int err;

	err = vm_topology_check(&params->topo);
	if (err == 0)
		err = vm_mem_check(params);
	if (err == 0)
		err = vm_vcpus_check(params);
	if (err != 0)
		return err;
	vm = calloc(1, sizeof(*vm));
	if (vm == NULL)
		return -ENOMEM;
	vm->params = *params;
	vm->exit = VM_EXIT_NONE;
	vm->name = strdup(params->name);
	vm->loop = vm_loop_create();
	if (vm->name == NULL || vm->loop == NULL) {
		err = -ENOMEM;
		log_error(params->name, "cannot make the event loop: %s", strerror(errno));
		goto destroy;
	}
	vm->params.name = vm->name;
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		err = parts[i](vm);
		if (err != 0)
			goto destroy;
	}
	*out = vm;
	return 0;
destroy:
	vm_destroy(vm);
	return err;
}

void
vm_destroy(struct vm *vm)
{
	if (vm == NULL)
		return;
	vm_vcpus_destroy(vm);
	if (vm->engine != NULL)
		vm->params.engine->vm_destroy(vm->engine);
	vm_mem_destroy(vm);
	vm_states_destroy(vm);
	vm_power_destroy(vm);
	vm_irq_destroy(vm);
	vm_bus_destroy(vm);
	vm_loop_destroy(vm->loop);
	free(vm->name);
	free(vm);
}

const char *
vm_name(const struct vm *vm)
{
	return vm->name;
}

const struct config *
vm_config(const struct vm *vm)
{
	return vm->params.config;
}

int
vm_vcpus(const struct vm *vm)
{
	const struct x86_topology *topo = &vm->params.topo;

	return (int)(topo->sockets * topo->cores * topo->threads);
}

const struct x86_topology *
vm_topology(const struct vm *vm)
{
	return &vm->params.topo;
}

const struct engine_ops *
vm_engine(const struct vm *vm, struct engine_vm **evm)
{
	if (evm != NULL)
		*evm = vm->engine;
	return vm->params.engine;
}

struct vm_loop *
vm_loop(struct vm *vm)
{
	return vm->loop;
}

enum vm_exit
vm_run(struct vm *vm)
{
	if (vm_vcpus_start(vm) != 0)
		vm_shutdown(vm, VM_EXIT_ERROR);
	/* vm_shutdown() stops the loop only after noting how. */
	while (atomic_load(&vm->exit) == VM_EXIT_NONE)
		vm_loop_run(vm->loop);
	vm_vcpus_join(vm);
	return (enum vm_exit)atomic_load(&vm->exit);
}

void
vm_shutdown(struct vm *vm, enum vm_exit how)
{
	int none = VM_EXIT_NONE;

	if (!atomic_compare_exchange_strong(&vm->exit, &none, (int)how))
		return;
	vm_vcpus_stop(vm);
	vm_loop_stop(vm->loop);
}
