/*
 * kvmclock: a clock that the guest computes from its TSC by what the hypervisor tells it of that,
 * in a structure in guest memory (Linux, Documentation/virt/kvm/x86/msr.rst and cpuid.rst). So a
 * guest knows the TSC's frequency without measuring it, which fails where the host is busy.
 *
 * The time is that of the VM's common TSC: 0 when the VM was made, and going on from what was saved
 * when a saved state is loaded. The structure changes only when the vCPU's TSC is set, or loaded.
 */
#ifndef BT_KVMCLOCK_H
#define BT_KVMCLOCK_H

#include "engine/bt/bt.h"

/* Ticks to nanoseconds: the ticks, shifted left by shift (right by -shift), times mul, divided by
 * 2^32. */
struct bt_kvmclock_scale {
	uint32_t mul;
	int8_t shift;
};

/* What CPUID offers: leaf KVM_CPUID_FEATURES, EAX. */
#define BT_KVMCLOCK_FEATURES (BIT(3) | BIT(24)) /* CLOCKSOURCE2, CLOCKSOURCE_STABLE_BIT */

/* khz is not 0. Good to 1 part in 2^31. */
struct bt_kvmclock_scale bt_kvmclock_scale(uint32_t khz);
/* The clock when the VM's common TSC was at tsc. */
uint64_t bt_kvmclock_ns(const struct bt_vm *vm, uint64_t tsc);

/* MSR_KVM_WALL_CLOCK_NEW and MSR_KVM_SYSTEM_TIME_NEW. The vCPU's thread. 0, or -EINVAL for #GP(0):
 * a reserved bit. Structures outside RAM are not written. */
int bt_kvmclock_wall_write(struct bt_cpu *cpu, uint64_t val);
int bt_kvmclock_system_write(struct bt_cpu *cpu, uint64_t val);
/* Brings the vCPU's structure up to date, if it has one, after its TSC was set. The vCPU's thread,
 * between bt_cpu_enter() and bt_cpu_leave(). */
void bt_kvmclock_update(struct bt_cpu *cpu);

/* The clock's part of a vCPU's state, tsc included. Threads as vcpu_get and vcpu_set. */
void bt_kvmclock_get(const struct bt_cpu *cpu, struct x86_state *out);
void bt_kvmclock_set(struct bt_cpu *cpu, const struct x86_state *in);

#endif
