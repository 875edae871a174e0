/*
 * The CPUID model: what KVM supports on this host, less what the machine does not carry.
 *
 * KVM_GET_SUPPORTED_CPUID (api.rst 4.46) is to the model what the host's CPUID is on the software CPU. Bits
 * are named as in SDM 2, CPUID, and APM 3, appendix E. What is taken away has state that struct
 * x86_state does not hold, or needs a part of the processor that KVM shows only on request.
 */
#include "engine/kvm/kvm.h"

#include "base/config.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KVM_CPUID_ENTRIES 256

#define F1_ECX_VMX BIT(5)
#define F1_ECX_PDCM BIT(15)
#define F1_ECX_X2APIC BIT(21)
#define F1_ECX_TSC_DEADLINE BIT(24)
#define F7_EBX_SGX BIT(2)
#define F7_EBX_MPX BIT(14)
#define F7_EBX_INTEL_PT BIT(25)
#define F7_ECX_WAITPKG BIT(5)
#define F7_ECX_CET_SS BIT(7)
#define F7_ECX_BUS_LOCK_DETECT BIT(24)
#define F7_ECX_ENQCMD BIT(29)
#define F7_ECX_SGX_LC BIT(30)
#define F7_ECX_PKS BIT(31)
#define F7_EDX_UINTR BIT(5)
#define F7_EDX_ARCH_LBR BIT(19)
#define F7_EDX_CET_IBT BIT(20)
#define F7_EDX_AMX (BIT(22) | BIT(24) | BIT(25))
#define F7_1_EAX_FRED BIT(17)
#define F7_1_EAX_AMX_FP16 BIT(21)
#define F7_1_EAX_MSRLIST BIT(27)
#define E1_ECX_SVM BIT(2)
#define E1_ECX_OSVW BIT(9)
#define E1_ECX_IBS BIT(10)
#define E1_ECX_LWP BIT(15)
#define E1_ECX_PERFCTR (BIT(23) | BIT(24) | BIT(28)) /* core, northbridge, last-level cache */
#define E8_EBX_VIRT_SSBD BIT(25)
#define E21_EAX_PREFETCH_CTL BIT(13)

#define KVM_FEATURE_EXT_DEST_ID BIT(15) /* 15-bit IDs in MSIs: our IOAPIC has 8 bits */
#define KVM_CPUID_FEATURES_LEAF 0x40000001u
#define KVM_CPUID_SVM 0x8000000au

/* Levels of the x86-64 psABI (x86-64-ABI 1.0, table 3.1), for guests that are to see the same on different
 * hosts: what each has beyond the first. */
static const struct kvm_baseline {
	const char *name;
	uint32_t f1_ecx, f7_ebx, e1_ecx;
	uint64_t xcr0;
} kvm_baselines[] = {
	{ "x86-64-v2", 0x00982201, 0, 0x1, X86_XCR0_X87 | X86_XCR0_SSE },
	{ "x86-64-v3", 0x34d83201, 0x128, 0x21, X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX },
	{ "x86-64-v4", 0x34d83201, 0xd0030128, 0x21,
	    X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512 },
};
/* What kernels use for themselves stays at every level: PCID, x2APIC, the TSC deadline; TSC_ADJUST, SMEP,
 * ERMS, INVPCID, SMAP; UMIP; what is known of speculation; CR8, PREFETCHW, topology. */
#define KVM_KERNEL_F1_ECX (BIT(17) | F1_ECX_X2APIC | F1_ECX_TSC_DEADLINE)
#define KVM_KERNEL_F7_EBX (BIT(1) | BIT(7) | BIT(9) | BIT(10) | BIT(20))
#define KVM_KERNEL_F7_ECX BIT(2)
#define KVM_KERNEL_F7_EDX (BIT(10) | BIT(26) | BIT(27) | BIT(28) | BIT(29) | BIT(31))
#define KVM_KERNEL_E1_ECX (BIT(1) | BIT(4) | BIT(8) | BIT(22))

/* --- What KVM supports --- */

static int
kvm_cpuid_ask(struct kvm_vm *vm)
{
	vm->supported = calloc(1, sizeof(*vm->supported) +
	    KVM_CPUID_ENTRIES * sizeof(vm->supported->entries[0]));
	if (vm->supported == NULL)
		return -ENOMEM;
	vm->supported->nent = KVM_CPUID_ENTRIES;
	return kvm_ioctl(vm->kvm, KVM_GET_SUPPORTED_CPUID, vm->supported);
}

static void
kvm_cpuid_read(void *arg, uint32_t leaf, uint32_t subleaf, struct x86_cpuid_regs *out)
{
	const struct kvm_cpuid2 *all = arg;

	*out = (struct x86_cpuid_regs){ 0 };
	for (uint32_t i = 0; i < all->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &all->entries[i];

		if (e->function != leaf ||
		    ((e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) && e->index != subleaf))
			continue;
		*out = (struct x86_cpuid_regs){ e->eax, e->ebx, e->ecx, e->edx };
		return;
	}
}

/* --- The model --- */

static void
kvm_cpuid_mask_host(const struct kvm_vm *vm, struct x86_cpuid_mask *mask)
{
	struct x86_cpuid_regs features;

	kvm_cpuid_read(vm->supported, KVM_CPUID_FEATURES_LEAF, 0, &features);
	*mask = (struct x86_cpuid_mask){
		.f1_ecx = ~(F1_ECX_PDCM | (vm->nested ? 0 : F1_ECX_VMX)),
		.f1_edx = UINT32_MAX,
		.f7_ebx = ~(F7_EBX_SGX | F7_EBX_MPX | F7_EBX_INTEL_PT),
		.f7_ecx = ~(F7_ECX_WAITPKG | F7_ECX_CET_SS | F7_ECX_BUS_LOCK_DETECT |
		    F7_ECX_ENQCMD | F7_ECX_SGX_LC | F7_ECX_PKS),
		.f7_edx = ~(F7_EDX_UINTR | F7_EDX_ARCH_LBR | F7_EDX_CET_IBT | F7_EDX_AMX),
		.f7_1_eax = ~(F7_1_EAX_FRED | F7_1_EAX_AMX_FP16 | F7_1_EAX_MSRLIST),
		.fd_1_eax = UINT32_MAX,
		.e1_ecx = ~(E1_ECX_OSVW | E1_ECX_IBS | E1_ECX_LWP | E1_ECX_PERFCTR |
		    (vm->nested ? 0 : E1_ECX_SVM)),
		.e1_edx = UINT32_MAX,
		.e8_ebx = ~E8_EBX_VIRT_SSBD,
		.e21_eax = ~E21_EAX_PREFETCH_CTL,
		.xcr0 = UINT64_MAX,
		.kvm_features = features.eax & ~KVM_FEATURE_EXT_DEST_ID,
		/* KVM's local APIC has them, whatever the processor's has. */
		.set_f1_ecx = F1_ECX_X2APIC |
		    (kvm_cap(vm->kvm, KVM_CAP_TSC_DEADLINE_TIMER) ? F1_ECX_TSC_DEADLINE : 0),
	};
}

/* Cuts a mask down to a level. The name of a word of which the host lacks something, or NULL. */
static const char *
kvm_cpuid_mask_baseline(struct kvm_vm *vm, const struct kvm_baseline *b, struct x86_cpuid_mask *mask)
{
	struct x86_cpuid_regs f1, f7, e1;

	kvm_cpuid_read(vm->supported, 1, 0, &f1);
	kvm_cpuid_read(vm->supported, 7, 0, &f7);
	kvm_cpuid_read(vm->supported, 0x80000001, 0, &e1);
	mask->f1_ecx &= b->f1_ecx | KVM_KERNEL_F1_ECX;
	mask->f7_ebx &= b->f7_ebx | KVM_KERNEL_F7_EBX;
	mask->f7_ecx &= KVM_KERNEL_F7_ECX;
	mask->f7_edx &= KVM_KERNEL_F7_EDX;
	mask->f7_1_eax = 0;
	mask->e1_ecx &= b->e1_ecx | KVM_KERNEL_E1_ECX;
	mask->xcr0 = b->xcr0;
	if ((f1.ecx & b->f1_ecx) != b->f1_ecx)
		return "leaf 1";
	if ((f7.ebx & b->f7_ebx) != b->f7_ebx)
		return "leaf 7";
	return (e1.ecx & b->e1_ecx) != b->e1_ecx ? "leaf 0x80000001" : NULL;
}

static int
kvm_cpuid_choose(struct kvm_vm *vm, struct x86_cpuid_mask *mask)
{
	const struct config *config = vm->params.config;
	const char *name = config_get_default(config, "kvm.cpu", "host"), *lacks;

	kvm_cpuid_mask_host(vm, mask);
	if (strcmp(name, "host") == 0)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(kvm_baselines); i++) {
		if (strcmp(name, kvm_baselines[i].name) != 0)
			continue;
		lacks = kvm_cpuid_mask_baseline(vm, &kvm_baselines[i], mask);
		if (lacks == NULL)
			return 0;
		log_error("kvm.cpu", "'%s': this host has not all of it (CPUID %s)", name, lacks);
		return -ENOTSUP;
	}
	log_error("kvm.cpu", "'%s': expected host, x86-64-v2, x86-64-v3 or x86-64-v4", name);
	return -EINVAL;
}

int
kvm_cpuid_create(struct kvm_vm *vm)
{
	struct x86_cpuid_mask mask;
	int err = kvm_cpuid_ask(vm);

	if (err != 0) {
		log_error(KVM_WHO, "cannot ask for the CPUID that KVM supports: %s",
		    strerror(-err));
		return err;
	}
	err = kvm_cpuid_choose(vm, &mask);
	if (err != 0)
		return err;
	vm->cpuid = x86_cpuid_create(kvm_cpuid_read, vm->supported, &mask, &vm->params.topo,
	    vm->tsc_khz);
	if (vm->cpuid == NULL) {
		log_error(KVM_WHO, "out of memory");
		return -ENOMEM;
	}
	return 0;
}

/* --- To the vCPUs --- */

static void
kvm_cpuid_add(struct kvm_cpuid2 *all, uint32_t leaf, uint32_t subleaf, bool indexed,
    const struct x86_cpuid_regs *r)
{
	if (all->nent == KVM_CPUID_ENTRIES)
		return;
	all->entries[all->nent++] = (struct kvm_cpuid_entry2){
		.function = leaf,
		.index = subleaf,
		.flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
		.eax = r->eax,
		.ebx = r->ebx,
		.ecx = r->ecx,
		.edx = r->edx,
	};
}

/* How many subleaves a leaf may have; 0: it has none. Those that are all zero need not be told. */
static uint32_t
kvm_cpuid_subleaves(uint32_t leaf)
{
	switch (leaf) {
	case 4:
	case 0x8000001d: return 8;
	case 7: return 2;
	case 0xb: return 3;
	case 0xd: return 64;
	default: return 0;
	}
}

static void
kvm_cpuid_add_range(struct kvm_vcpu *v, struct kvm_cpuid2 *all, uint32_t first)
{
	const struct x86_cpuid_ctx ctx = { .apic_id = v->apic_id, .xcr0 = X86_XCR0_X87,
		.apic_base = X86_APIC_DEFAULT_BASE | X86_APIC_BASE_ENABLE };
	struct x86_cpuid_regs r, top;

	x86_cpuid_query(v->vm->cpuid, &ctx, first, 0, &top);
	for (uint32_t leaf = first; leaf <= top.eax; leaf++) {
		uint32_t n = kvm_cpuid_subleaves(leaf);

		for (uint32_t sub = 0; sub < MAX(n, 1u); sub++) {
			x86_cpuid_query(v->vm->cpuid, &ctx, leaf, sub, &r);
			if (sub == 0 || (r.eax | r.ebx | r.ecx | r.edx) != 0)
				kvm_cpuid_add(all, leaf, sub, n != 0, &r);
		}
	}
}

int
kvm_cpuid_set(struct kvm_vcpu *v)
{
	static const uint32_t ranges[] = { 0, 0x40000000, 0x40000100, 0x80000000 };
	struct x86_cpuid_regs r;
	struct kvm_cpuid2 *all;
	int err;

	all = calloc(1, sizeof(*all) + KVM_CPUID_ENTRIES * sizeof(all->entries[0]));
	if (all == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
		kvm_cpuid_add_range(v, all, ranges[i]);
	if (v->vm->nested) {
		kvm_cpuid_read(v->vm->supported, KVM_CPUID_SVM, 0, &r);
		for (uint32_t i = 0; i < all->nent; i++) {
			if (all->entries[i].function == KVM_CPUID_SVM)
				all->entries[i] = (struct kvm_cpuid_entry2){
					.function = KVM_CPUID_SVM, .eax = r.eax, .ebx = r.ebx,
					.ecx = r.ecx, .edx = r.edx };
		}
	}
	err = kvm_ioctl(v->fd, KVM_SET_CPUID2, all);
	free(all);
	return err;
}
