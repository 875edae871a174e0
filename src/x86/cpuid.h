/*
 * The CPUID model: what the guest's processor says of itself.
 *
 * Built once per VM from the host's own CPUID by keeping only the features on the engine's list, so
 * that nothing is announced which the engine does not run, then completed with the VM's topology.
 * A built model is read-only and may be queried from any thread.
 */
#ifndef X86_CPUID_H
#define X86_CPUID_H

#include "x86/x86.h"

struct x86_cpuid_regs {
	uint32_t eax, ebx, ecx, edx;
};

/* Feature words an engine masks: host value AND mask. Unlisted leaves are zero or made by the model. */
struct x86_cpuid_mask {
	uint32_t f1_ecx, f1_edx; /* leaf 1 */
	uint32_t f7_ebx, f7_ecx, f7_edx; /* leaf 7.0 */
	uint32_t f7_1_eax; /* leaf 7.1 */
	uint32_t fd_1_eax; /* leaf 0xd.1: XSAVEOPT, XSAVEC, XGETBV1, XSAVES */
	uint32_t e1_ecx, e1_edx; /* leaf 0x80000001 */
	uint32_t e8_ebx; /* leaf 0x80000008 */
	uint32_t e21_eax; /* leaf 0x80000021 */
	uint64_t xcr0; /* state components that may be enabled */
	/* KVM's features that the engine brings, 0 for none (Linux,
	 * Documentation/virt/kvm/x86/cpuid.rst). */
	uint32_t kvm_features;
	/* What the engine brings whatever the host has, ORed in after the mask. */
	uint32_t set_f1_ecx, set_f1_edx, set_f7_ebx, set_f7_ecx, set_e1_ecx, set_e1_edx, set_e21_eax;
	uint32_t set_f7_edx, set_e8_ebx; /* the first on Intel's processors only, the second on others */
};

struct x86_topology {
	uint32_t sockets, cores, threads; /* per VM, per socket, per core; none is 0 */
};

/* The APIC ID of vCPU cpu (an index). Threads, cores and sockets get bit fields of their own, so there
 * are gaps where a count is no power of two (SDM 3, 8.9.1). */
uint32_t x86_topology_apic_id(const struct x86_topology *topo, uint32_t cpu);

/* Reads the host: the CPUID instruction, or a recorded set in tests. */
typedef void x86_cpuid_read_fn(void *arg, uint32_t leaf, uint32_t subleaf,
    struct x86_cpuid_regs *out);
void x86_cpuid_host(void *arg, uint32_t leaf, uint32_t subleaf, struct x86_cpuid_regs *out);

struct x86_cpuid; /* the built model */

/* Builds the model. tsc_khz may be 0 when unknown. NULL when out of memory. */
struct x86_cpuid *x86_cpuid_create(x86_cpuid_read_fn *read, void *arg,
    const struct x86_cpuid_mask *mask, const struct x86_topology *topo, uint32_t tsc_khz);
void x86_cpuid_destroy(struct x86_cpuid *model);

/* What the vCPU's state adds to an answer: OSXSAVE from CR4, the APIC bit from IA32_APIC_BASE, the
 * enabled XSAVE size from XCR0 and XSS. */
struct x86_cpuid_ctx {
	uint32_t apic_id;
	uint64_t cr4, xcr0, xss, apic_base;
};
/* The CPUID instruction. Leaves beyond the highest basic leaf answer as the vendor's processors do. */
void x86_cpuid_query(const struct x86_cpuid *model, const struct x86_cpuid_ctx *ctx, uint32_t leaf,
    uint32_t subleaf, struct x86_cpuid_regs *out);

/* State components the guest may set in XCR0, and the offset and size of component i in the standard
 * format of XSAVE (0, 0 when absent). */
uint64_t x86_cpuid_xcr0(const struct x86_cpuid *model);
void x86_cpuid_xcomp(const struct x86_cpuid *model, int i, uint32_t *offset, uint32_t *size);
/* Physical address bits (MAXPHYADDR) and whether 5-level paging is offered. */
int x86_cpuid_phys_bits(const struct x86_cpuid *model);
bool x86_cpuid_is_intel(const struct x86_cpuid *model);

#endif
