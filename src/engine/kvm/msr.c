/*
 * Model-specific registers: which of struct x86_state's this host has, in and out (api.rst 4.18).
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stddef.h>
#include <x86intrin.h>

#define KVM_MSR(msr, field) { msr, offsetof(struct x86_state, field) }

/* KVM's own (Documentation/virt/kvm/x86/msr.rst) */
#define MSR_KVM_ASYNC_PF 0x4b564d02
#define MSR_KVM_STEAL_TIME 0x4b564d03
#define MSR_KVM_PV_EOI 0x4b564d04
#define MSR_KVM_POLL_CONTROL 0x4b564d05
#define MSR_KVM_ASYNC_PF_INT 0x4b564d06

/* In the order in which they are set: what asynchronous page faults use goes before what starts them. The
 * TSC and its deadline are not here: they are set with care (state.c). */
static const struct kvm_msr_field {
	uint32_t msr;
	uint32_t offset;
} kvm_msr_fields[] = {
	KVM_MSR(X86_MSR_STAR, star),
	KVM_MSR(X86_MSR_LSTAR, lstar),
	KVM_MSR(X86_MSR_CSTAR, cstar),
	KVM_MSR(X86_MSR_SFMASK, sfmask),
	KVM_MSR(X86_MSR_KERNEL_GS_BASE, kernel_gs_base),
	KVM_MSR(X86_MSR_TSC_AUX, tsc_aux),
	KVM_MSR(X86_MSR_PAT, pat),
	KVM_MSR(X86_MSR_MISC_ENABLE, misc_enable),
	KVM_MSR(X86_MSR_XSS, xss),
	KVM_MSR(X86_MSR_SYSENTER_CS, sysenter_cs),
	KVM_MSR(X86_MSR_SYSENTER_ESP, sysenter_esp),
	KVM_MSR(X86_MSR_SYSENTER_EIP, sysenter_eip),
	KVM_MSR(X86_MSR_SPEC_CTRL, spec_ctrl),
	KVM_MSR(X86_MSR_DEBUGCTL, debugctl),
	KVM_MSR(X86_MSR_TSC_ADJUST, tsc_adjust),
	KVM_MSR(X86_MSR_MTRR_DEF_TYPE, mtrr_def_type),
	KVM_MSR(0x250, mtrr_fixed[0]),
	KVM_MSR(0x258, mtrr_fixed[1]),
	KVM_MSR(0x259, mtrr_fixed[2]),
	KVM_MSR(0x268, mtrr_fixed[3]),
	KVM_MSR(0x269, mtrr_fixed[4]),
	KVM_MSR(0x26a, mtrr_fixed[5]),
	KVM_MSR(0x26b, mtrr_fixed[6]),
	KVM_MSR(0x26c, mtrr_fixed[7]),
	KVM_MSR(0x26d, mtrr_fixed[8]),
	KVM_MSR(0x26e, mtrr_fixed[9]),
	KVM_MSR(0x26f, mtrr_fixed[10]),
	KVM_MSR(0x200, mtrr_var[0]),
	KVM_MSR(0x201, mtrr_var[1]),
	KVM_MSR(0x202, mtrr_var[2]),
	KVM_MSR(0x203, mtrr_var[3]),
	KVM_MSR(0x204, mtrr_var[4]),
	KVM_MSR(0x205, mtrr_var[5]),
	KVM_MSR(0x206, mtrr_var[6]),
	KVM_MSR(0x207, mtrr_var[7]),
	KVM_MSR(0x208, mtrr_var[8]),
	KVM_MSR(0x209, mtrr_var[9]),
	KVM_MSR(0x20a, mtrr_var[10]),
	KVM_MSR(0x20b, mtrr_var[11]),
	KVM_MSR(0x20c, mtrr_var[12]),
	KVM_MSR(0x20d, mtrr_var[13]),
	KVM_MSR(0x20e, mtrr_var[14]),
	KVM_MSR(0x20f, mtrr_var[15]),
	KVM_MSR(X86_MSR_KVM_WALL_CLOCK, kvm_wall_clock),
	KVM_MSR(X86_MSR_KVM_SYSTEM_TIME, kvm_system_time),
	KVM_MSR(MSR_KVM_STEAL_TIME, kvm_steal_time),
	KVM_MSR(MSR_KVM_PV_EOI, kvm_pv_eoi),
	KVM_MSR(MSR_KVM_POLL_CONTROL, kvm_poll_control),
	KVM_MSR(MSR_KVM_ASYNC_PF_INT, kvm_async_pf_int),
	KVM_MSR(MSR_KVM_ASYNC_PF, kvm_async_pf),
};
static_assert(ARRAY_SIZE(kvm_msr_fields) <= KVM_MSRS, "room in struct kvm_vm");

union kvm_msr_batch {
	struct kvm_msrs head;
	struct {
		uint32_t nmsrs, pad;
		struct kvm_msr_entry entries[KVM_MSRS];
	};
};

static uint64_t *
kvm_msr_at(const struct x86_state *s, uint32_t field)
{
	return (uint64_t *)(uintptr_t)((const char *)s + kvm_msr_fields[field].offset);
}

int
kvm_msr_get(struct kvm_vcpu *v, uint32_t msr, uint64_t *val)
{
	union kvm_msr_batch list = { .nmsrs = 1, .entries = { { .index = msr } } };

	if (kvm_ioctl(v->fd, KVM_GET_MSRS, &list) != 1)
		return -EINVAL;
	*val = list.entries[0].data;
	return 0;
}

int
kvm_msr_set(struct kvm_vcpu *v, uint32_t msr, uint64_t val)
{
	union kvm_msr_batch list = { .nmsrs = 1, .entries = { { .index = msr, .data = val } } };

	return kvm_ioctl(v->fd, KVM_SET_MSRS, &list) == 1 ? 0 : -EINVAL;
}

void
kvm_msrs_find(struct kvm_vcpu *v)
{
	struct kvm_vm *vm = v->vm;
	uint64_t val;

	/* KVM_GET_MSR_INDEX_LIST leaves some out that are there; asking for each does not. */
	for (uint32_t i = 0; i < ARRAY_SIZE(kvm_msr_fields); i++) {
		if (kvm_msr_get(v, kvm_msr_fields[i].msr, &val) == 0)
			vm->msr[vm->msrs++] = i;
	}
}

/* Reads this host's MSRs of struct x86_state into a batch; how many came. */
static int
kvm_msrs_read(struct kvm_vcpu *v, union kvm_msr_batch *list)
{
	const struct kvm_vm *vm = v->vm;

	*list = (union kvm_msr_batch){ .nmsrs = (uint32_t)vm->msrs };
	for (int i = 0; i < vm->msrs; i++)
		list->entries[i].index = kvm_msr_fields[vm->msr[i]].msr;
	return kvm_ioctl(v->fd, KVM_GET_MSRS, list);
}

void
kvm_msrs_get(struct kvm_vcpu *v, struct x86_state *out)
{
	union kvm_msr_batch list;
	int n = kvm_msrs_read(v, &list);

	for (int i = 0; i < n; i++)
		*kvm_msr_at(out, v->vm->msr[i]) = list.entries[i].data;
}

int
kvm_msrs_set(struct kvm_vcpu *v, const struct x86_state *in)
{
	union kvm_msr_batch list;
	uint32_t changed = 0;
	int n = kvm_msrs_read(v, &list);

	/* What is so already is left alone: writing some does things beyond that. */
	for (int i = 0; i < n; i++) {
		uint64_t val = *kvm_msr_at(in, v->vm->msr[i]);

		if (list.entries[i].data == val)
			continue;
		list.entries[changed] = list.entries[i];
		list.entries[changed++].data = val;
	}
	list.nmsrs = changed;
	if (n != v->vm->msrs)
		return -EINVAL;
	return kvm_ioctl(v->fd, KVM_SET_MSRS, &list) == (int)changed ? 0 : -EINVAL;
}

void
kvm_tsc_measure(struct kvm_vcpu *v)
{
	uint64_t before = __rdtsc(), tsc, after;

	if (kvm_msr_get(v, X86_MSR_TSC, &tsc) != 0)
		return;
	after = __rdtsc();
	atomic_store(&v->tsc_offset, tsc - (before + (after - before) / 2));
}
