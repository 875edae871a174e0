/*
 * The machine: what devices and engines share. A struct vm is made and taken apart on the main
 * thread; everything else says from which thread it may be called.
 *
 * Locks. Each device guards its own state with its own mutex. A handler (port, MMIO, timer, fd) runs
 * without any lock of vm/'s and takes the device's own. Order, outermost first: a device, the 8259
 * pair and the IOAPIC, a local APIC. So a device may raise a line or send an MSI with its lock held;
 * a local APIC tells the IOAPIC of an EOI only after letting its own lock go.
 */
#ifndef VM_VM_H
#define VM_VM_H

#include "base/bits.h"
#include "engine/engine.h"

struct config;
struct vm;
struct vm_loop;

/* How the VM ended: bhyve(8)'s exit status. */
enum vm_exit {
	VM_EXIT_REBOOT = 0,
	VM_EXIT_POWEROFF = 1,
	VM_EXIT_HALT = 2,
	VM_EXIT_TRIPLE_FAULT = 3,
	VM_EXIT_ERROR = 4,
};

struct vm_params {
	const char *name;
	const struct engine_ops *engine;
	const struct config *config; /* the root; outlives the VM */
	uint64_t memory; /* guest RAM in bytes: a multiple of 4 KiB, at least 1 MiB */
	bool wire_memory; /* mlock guest RAM (-S) */
	bool core_memory; /* guest RAM in core dumps (-C) */
	struct x86_topology topo;
};

/* Makes a machine with RAM, an empty bus and vCPUs in reset state, none running. 0 or -errno after one
 * line to the user, nothing left behind. */
int vm_create(const struct vm_params *params, struct vm **out);
/* Stops everything, destroys vCPUs, the engine and memory. Devices are destroyed before, by whoever
 * made them. */
void vm_destroy(struct vm *vm);

const char *vm_name(const struct vm *vm);
const struct config *vm_config(const struct vm *vm);
int vm_vcpus(const struct vm *vm);
const struct x86_topology *vm_topology(const struct vm *vm);
const struct engine_ops *vm_engine(const struct vm *vm, struct engine_vm **evm);
struct vm_loop *vm_loop(struct vm *vm); /* the VM's event loop, run by vm_run() */

/* Runs the machine on this thread (the event loop) and one thread per vCPU until vm_shutdown().
 * Returns how it ended, all vCPU threads joined. */
enum vm_exit vm_run(struct vm *vm);
/* Asks for the end: any thread, any time, never blocks. The first call wins. */
void vm_shutdown(struct vm *vm, enum vm_exit how);
/* The same with an exit status of 0 to 255 that the guest chose: a debug exit device's. */
static inline void
vm_shutdown_status(struct vm *vm, int status)
{
	vm_shutdown(vm, (enum vm_exit)status);
}

/* --- vCPUs (vm/vcpu.c) --- */

/* State of a vCPU that is not running: main thread before vm_run(), or its own thread. */
void vm_vcpu_get(struct vm *vm, int cpu, struct x86_state *out);
int vm_vcpu_set(struct vm *vm, int cpu, const struct x86_state *in);

/* Any thread, never block: look again at pending interrupts (also wakes a halted vCPU); NMI; INIT;
 * start-up IPI (ignored unless waiting for one). */
void vm_vcpu_kick(struct vm *vm, int cpu);
void vm_vcpu_nmi(struct vm *vm, int cpu);
void vm_vcpu_init(struct vm *vm, int cpu);
void vm_vcpu_sipi(struct vm *vm, int cpu, uint8_t vector);
/* The index of the vCPU whose thread this is, or -1. */
int vm_vcpu_self(void);

/* --- Power (vm/power.c) --- */

/* A press of the power button (SIGTERM, bhyvectl). Any thread. Calls the handler the ACPI chip
 * registered; false when there is none, so that the caller may pull the plug instead. */
bool vm_power_button(struct vm *vm);
void vm_power_button_register(struct vm *vm, bool (*press)(void *ctx), void *ctx);

#endif
