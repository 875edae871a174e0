/*
 * An engine that executes nothing, and a machine on it: what a device's unit test runs on.
 *
 *	struct vm *vm = mock_vm_create(MIB(16), 1);          // 16 MiB, one vCPU
 *	struct i8254 *d = ...create the device with vm...
 *
 *	vm_bus_write(vm, VM_PIO, 0x43, 1, 0x34);             // as a guest would
 *	assert_int_equal(vm_bus_read(vm, VM_PIO, 0x40, 1), 0xff);
 *	mock_mmio_read(vm, 0, 0xfee00020, 4);                // as vCPU 0, which has an APIC page
 *	vm_mem_write(vm, 0x1000, &desc, sizeof(desc));       // guest memory
 *	vm_clock_step(vm_loop(vm), 1000000);                 // 1 ms passes; timers due run now
 *	vm_loop_poll(vm_loop(vm), 0);                        // fds and deferred calls
 *	assert_int_equal(mock_vcpu(vm, 0)->kicks, 1);        // what was asked of a vCPU
 *
 * The clock of the machine stands still at MOCK_CLOCK_START until it is stepped, so that tests do
 * not depend on the speed of the host; vm_clock_resume() sets it running. The guest's TSC is that
 * clock, at 1 GHz. vm_run() works too: vCPUs are halted with interrupts on, or do what
 * mock_vm(vm)->run says.
 */
#ifndef MOCK_ENGINE_H
#define MOCK_ENGINE_H

#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/loop.h"
#include "vm/mem.h"
#include "vm/vm.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define MOCK_CLOCK_START 1000000000ull
#define MOCK_VCPUS 16
#define MOCK_MAPS 16

struct engine_vcpu {
	struct engine_vm *vm;
	int id;
	struct x86_state state;
	_Atomic int kicks, nmis, runs; /* how often each was called */
	atomic_bool stop;
};

struct engine_vm {
	struct engine_vm_params params;
	struct engine_vcpu *vcpu[MOCK_VCPUS];
	/* What a vCPU does when it runs, instead of being halted; e is preset to that. */
	void (*run)(struct engine_vcpu *vcpu, struct engine_exit *e);
	void *arg; /* the test's own, for run */
	struct mock_map {
		uint64_t gpa, len;
		void *hva;
		unsigned prot;
	} map[MOCK_MAPS];
	int maps;
	_Atomic uint64_t written; /* bytes the engine was told of by mem_written() */
};

static inline void
mock_probe(struct engine_probe *out)
{
	*out = (struct engine_probe){ .usable = true, .why = "a test" };
}

static inline int
mock_vm_new(const struct engine_vm_params *params, struct engine_vm **out)
{
	struct engine_vm *evm = calloc(1, sizeof(*evm));

	if (evm == NULL)
		return -ENOMEM;
	evm->params = *params;
	*out = evm;
	return 0;
}

static inline void
mock_vm_free(struct engine_vm *evm)
{
	free(evm);
}

static inline int
mock_mem_map(struct engine_vm *evm, uint64_t gpa, void *hva, uint64_t len, unsigned prot)
{
	if (evm->maps == MOCK_MAPS)
		return -ENOSPC;
	evm->map[evm->maps++] = (struct mock_map){ gpa, len, hva, prot };
	return 0;
}

static inline int
mock_mem_unmap(struct engine_vm *evm, uint64_t gpa, uint64_t len)
{
	for (int i = 0; i < evm->maps; i++) {
		if (evm->map[i].gpa == gpa && evm->map[i].len == len) {
			evm->map[i] = evm->map[--evm->maps];
			return 0;
		}
	}
	return -ENOENT;
}

static inline void
mock_mem_written(struct engine_vm *evm, uint64_t gpa, uint64_t len)
{
	evm->written += len;
}

static inline const struct x86_cpuid *
mock_cpuid(struct engine_vm *evm)
{
	return NULL;
}

static inline uint32_t
mock_tsc_khz(struct engine_vm *evm)
{
	return 1000000;
}

static inline uint64_t
mock_tsc_read(struct engine_vm *evm)
{
	return vm_clock_ns(vm_loop(evm->params.ctx));
}

static inline int
mock_vcpu_new(struct engine_vm *evm, int id, struct engine_vcpu **out)
{
	struct engine_vcpu *v;

	if (id >= MOCK_VCPUS)
		return -ENOSPC;
	v = aligned_alloc(64, ALIGN_UP(sizeof(*v), (size_t)64));
	if (v == NULL)
		return -ENOMEM;
	memset(v, 0, sizeof(*v));
	v->vm = evm;
	v->id = id;
	x86_state_reset(&v->state, id == 0);
	evm->vcpu[id] = v;
	*out = v;
	return 0;
}

static inline void
mock_vcpu_free(struct engine_vcpu *v)
{
	free(v);
}

static inline void
mock_vcpu_run(struct engine_vcpu *v, struct engine_exit *e)
{
	v->runs++;
	*e = (struct engine_exit){ .reason = ENGINE_EXIT_HALT, .intr_enabled = true };
	if (atomic_exchange(&v->stop, false))
		e->reason = ENGINE_EXIT_KICK;
	else if (v->vm->run != NULL)
		v->vm->run(v, e);
}

static inline void
mock_vcpu_kick(struct engine_vcpu *v, bool stop)
{
	v->kicks++;
	if (stop)
		v->stop = true;
}

static inline void
mock_vcpu_nmi(struct engine_vcpu *v)
{
	v->nmis++;
}

static inline void
mock_vcpu_get(struct engine_vcpu *v, struct x86_state *out)
{
	*out = v->state;
}

static inline int
mock_vcpu_set(struct engine_vcpu *v, const struct x86_state *in)
{
	v->state = *in;
	return 0;
}

static const struct engine_ops mock_engine = {
	.name = "mock",
	.probe = mock_probe,
	.vm_create = mock_vm_new,
	.vm_destroy = mock_vm_free,
	.mem_map = mock_mem_map,
	.mem_unmap = mock_mem_unmap,
	.mem_written = mock_mem_written,
	.cpuid = mock_cpuid,
	.tsc_khz = mock_tsc_khz,
	.tsc_read = mock_tsc_read,
	.vcpu_create = mock_vcpu_new,
	.vcpu_destroy = mock_vcpu_free,
	.vcpu_run = mock_vcpu_run,
	.vcpu_kick = mock_vcpu_kick,
	.vcpu_nmi = mock_vcpu_nmi,
	.vcpu_get = mock_vcpu_get,
	.vcpu_set = mock_vcpu_set,
};

/* A machine of a given topology; config may be NULL. NULL when it cannot be made. */
static inline struct vm *
mock_vm_create_topo(uint64_t memory, const struct x86_topology *topo, const struct config *config)
{
	const struct vm_params params = {
		.name = "test",
		.engine = &mock_engine,
		.config = config,
		.memory = memory,
		.topo = *topo,
	};
	struct vm *vm;

	if (vm_create(&params, &vm) != 0)
		return NULL;
	vm_clock_pause(vm_loop(vm));
	vm_clock_set(vm_loop(vm), MOCK_CLOCK_START);
	return vm;
}

/* A machine with vcpus sockets. */
static inline struct vm *
mock_vm_create_config(uint64_t memory, int vcpus, const struct config *config)
{
	const struct x86_topology topo = { (uint32_t)vcpus, 1, 1 };

	return mock_vm_create_topo(memory, &topo, config);
}

static inline struct vm *
mock_vm_create(uint64_t memory, int vcpus)
{
	return mock_vm_create_config(memory, vcpus, NULL);
}

static inline struct engine_vm *
mock_vm(struct vm *vm)
{
	struct engine_vm *evm;

	vm_engine(vm, &evm);
	return evm;
}

static inline struct engine_vcpu *
mock_vcpu(struct vm *vm, int cpu)
{
	return mock_vm(vm)->vcpu[cpu];
}

/* What the machine offers to engines, to be called with mock_vm(vm)->params.ctx. */
static inline const struct engine_machine *
mock_machine(struct vm *vm)
{
	return mock_vm(vm)->params.machine;
}

static inline uint64_t
mock_mmio_read(struct vm *vm, int cpu, uint64_t gpa, int size)
{
	return mock_machine(vm)->mmio_read(vm, cpu, gpa, size);
}

static inline void
mock_mmio_write(struct vm *vm, int cpu, uint64_t gpa, int size, uint64_t val)
{
	mock_machine(vm)->mmio_write(vm, cpu, gpa, size, val);
}

#endif
