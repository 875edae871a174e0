/*
 * What vm/'s own files share: the parts a struct vm is made of. Not for other rooms.
 */
#ifndef VM_PRIVATE_H
#define VM_PRIVATE_H

#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/loop.h"
#include "vm/mem.h"
#include "vm/state.h"
#include "vm/vm.h"

struct vm_bus;
struct vm_irq;
struct vm_mem;
struct vm_power;
struct vm_states;
struct vm_vcpus;

struct vm {
	struct vm_params params;
	char *name;
	struct engine_vm *engine;
	struct vm_loop *loop;
	struct vm_mem *mem;
	struct vm_bus *bus;
	struct vm_irq *irq;
	struct vm_power *power;
	struct vm_states *states;
	struct vm_vcpus *vcpus;
	_Atomic int exit; /* enum vm_exit once vm_shutdown() was called, else -1 */
};

/* Each part: create returns 0 or -errno (after one line to the user where a limit of the host or
 * the configuration is the cause) and sets its pointer in vm; destroy takes a part that was never
 * made. */
int vm_mem_create(struct vm *vm);
void vm_mem_destroy(struct vm *vm);
int vm_bus_create(struct vm *vm);
void vm_bus_destroy(struct vm *vm);
int vm_irq_create(struct vm *vm);
void vm_irq_destroy(struct vm *vm);
int vm_power_create(struct vm *vm);
void vm_power_destroy(struct vm *vm);
int vm_states_create(struct vm *vm);
void vm_states_destroy(struct vm *vm);
int vm_vcpus_create(struct vm *vm);
void vm_vcpus_destroy(struct vm *vm);

/* Checks the size the user asked for against the host, before anything is made. */
int vm_mem_check(const struct vm_params *params);
/* The same of the host CPUs that virtual CPUs are to run on. */
int vm_vcpus_check(const struct vm_params *params);
/* Reads RAM or a ROM, what a vCPU's load reaches without the bus; false when any byte is
 * outside. */
bool vm_mem_load(struct vm *vm, uint64_t gpa, void *buf, uint64_t len);

/* An access by vCPU cpu, whose last-hit cache is used; -1: by nobody. */
uint64_t vm_bus_read_as(struct vm *vm, int cpu, enum vm_space space, uint64_t addr, int size);
void vm_bus_write_as(struct vm *vm, int cpu, enum vm_space space, uint64_t addr, int size,
    uint64_t val);

/* What the engine asks of the machine; ctx is the struct vm (machine.c). */
extern const struct engine_machine vm_machine;
/* The registered local APICs, or NULL; *ctx is for their functions (irq.c). */
const struct vm_apic_ops *vm_apic(struct vm *vm, void **ctx);

/* Starts a thread per vCPU; joins them after the VM's end was asked for. */
int vm_vcpus_start(struct vm *vm);
void vm_vcpus_join(struct vm *vm);
/* Makes every vCPU's thread look whether the VM has ended. Any thread, never blocks. */
void vm_vcpus_stop(struct vm *vm);

#endif
