/*
 * The features the software CPU runs: what the host has of them is offered to the guest.
 *
 * Bits are named as in SDM 2, CPUID (tables 3-10 to 3-12) and APM 3, appendix E. Left out, although a
 * host may have them: MONITOR (waiting is HLT's), VMX, SVM and SMX, TSX (HLE, RTM), SGX, PKU and PKS, CET,
 * AMX, MPX, performance monitoring and its kin (DS, PDCM, LBR, PT), VME, SSE4A's and XOP's relatives that
 * the vector unit does not list, and MSRs of power management and RAS.
 */
#include "engine/bt/kvmclock.h"
#include "engine/bt/run.h"
#include "engine/bt/vec.h"

#define F1_ECX_CX16 BIT(13)
#define F1_ECX_PCID BIT(17)
#define F1_ECX_X2APIC BIT(21)
#define F1_ECX_MOVBE BIT(22)
#define F1_ECX_POPCNT BIT(23)
#define F1_ECX_TSC_DEADLINE BIT(24)
#define F1_ECX_XSAVE BIT(26)
#define F1_ECX_RDRAND BIT(30)
#define F1_ECX_HYPERVISOR BIT(31)

#define F1_EDX_FPU BIT(0)
#define F1_EDX_DE BIT(2)
#define F1_EDX_PSE BIT(3)
#define F1_EDX_TSC BIT(4)
#define F1_EDX_MSR BIT(5)
#define F1_EDX_PAE BIT(6)
#define F1_EDX_MCE BIT(7)
#define F1_EDX_CX8 BIT(8)
#define F1_EDX_APIC BIT(9)
#define F1_EDX_SEP BIT(11)
#define F1_EDX_MTRR BIT(12)
#define F1_EDX_PGE BIT(13)
#define F1_EDX_MCA BIT(14)
#define F1_EDX_CMOV BIT(15)
#define F1_EDX_PAT BIT(16)
#define F1_EDX_PSE36 BIT(17)
#define F1_EDX_CLFLUSH BIT(19)

#define F7_EBX_FSGSBASE BIT(0)
#define F7_EBX_TSC_ADJUST BIT(1)
#define F7_EBX_BMI1 BIT(3)
#define F7_EBX_SMEP BIT(7)
#define F7_EBX_BMI2 BIT(8)
#define F7_EBX_ERMS BIT(9)
#define F7_EBX_INVPCID BIT(10)
#define F7_EBX_RDSEED BIT(18)
#define F7_EBX_ADX BIT(19)
#define F7_EBX_SMAP BIT(20)
#define F7_EBX_CLFLUSHOPT BIT(23)
#define F7_EBX_CLWB BIT(24)

#define F7_ECX_UMIP BIT(2)
#define F7_ECX_LA57 BIT(16)
#define F7_ECX_RDPID BIT(22)
#define F7_ECX_MOVDIRI BIT(27)
#define F7_ECX_MOVDIR64B BIT(28)

#define F7_EDX_FSRM BIT(4)
#define F7_EDX_SERIALIZE BIT(14)
#define F7_EDX_ARCH_CAPABILITIES BIT(29)

#define E1_ECX_LAHF BIT(0)
#define E1_ECX_CMP_LEGACY BIT(1)
#define E1_ECX_CR8_LEGACY BIT(4)
#define E1_ECX_LZCNT BIT(5)
#define E1_ECX_PREFETCHW BIT(8)
#define E1_ECX_TOPOEXT BIT(22)

#define E1_EDX_SYSCALL BIT(11)
#define E1_EDX_NX BIT(20)
#define E1_EDX_PAGE1GB BIT(26)
#define E1_EDX_RDTSCP BIT(27)
#define E1_EDX_LM BIT(29)
/* AMD repeats these bits of leaf 1 EDX in leaf 0x80000001. */
#define E1_EDX_LEGACY                                                                              \
	(F1_EDX_FPU | F1_EDX_DE | F1_EDX_PSE | F1_EDX_TSC | F1_EDX_MSR | F1_EDX_PAE | F1_EDX_MCE | \
	    F1_EDX_CX8 | F1_EDX_APIC | F1_EDX_MTRR | F1_EDX_PGE | F1_EDX_MCA | F1_EDX_CMOV |       \
	    F1_EDX_PAT | F1_EDX_PSE36)

#define E8_EBX_CLZERO BIT(0)
#define E8_EBX_SSB_NO BIT(26)
#define E8_EBX_BTC_NO BIT(29)

#define E21_EAX_LFENCE_SERIALIZING BIT(2)
#define E21_EAX_NULL_CLEARS_BASE BIT(6)
#define E21_EAX_AUTO_IBRS BIT(8)
#define E21_EAX_SRSO_NO BIT(29)

void
bt_cpuid_mask(struct x86_cpuid_mask *mask)
{
	*mask = (struct x86_cpuid_mask){
		.f1_ecx = F1_ECX_CX16 | F1_ECX_MOVBE | F1_ECX_POPCNT | F1_ECX_XSAVE |
		    F1_ECX_RDRAND,
		.f1_edx = F1_EDX_FPU | F1_EDX_MCE | F1_EDX_CX8 | F1_EDX_SEP | F1_EDX_MCA |
		    F1_EDX_CMOV | F1_EDX_CLFLUSH,
		.f7_ebx = F7_EBX_BMI1 | F7_EBX_BMI2 | F7_EBX_ERMS | F7_EBX_RDSEED | F7_EBX_ADX |
		    F7_EBX_CLFLUSHOPT | F7_EBX_CLWB,
		.f7_ecx = F7_ECX_MOVDIRI | F7_ECX_MOVDIR64B,
		.f7_edx = F7_EDX_FSRM | F7_EDX_SERIALIZE,
		.e1_ecx = E1_ECX_LAHF | E1_ECX_CMP_LEGACY | E1_ECX_CR8_LEGACY | E1_ECX_LZCNT |
		    E1_ECX_PREFETCHW | E1_ECX_TOPOEXT,
		.e1_edx = E1_EDX_LEGACY,
		.e8_ebx = E8_EBX_CLZERO,
		.e21_eax = E21_EAX_LFENCE_SERIALIZING | E21_EAX_NULL_CLEARS_BASE,
		.xcr0 = X86_XCR0_X87,
		.kvm_features = BT_KVMCLOCK_FEATURES,

		/* Ours, whatever the host has. */
		.set_f1_ecx = F1_ECX_PCID | F1_ECX_X2APIC | F1_ECX_TSC_DEADLINE |
		    F1_ECX_HYPERVISOR,
		.set_f1_edx = F1_EDX_DE | F1_EDX_PSE | F1_EDX_TSC | F1_EDX_MSR | F1_EDX_PAE |
		    F1_EDX_APIC | F1_EDX_MTRR | F1_EDX_PGE | F1_EDX_PAT | F1_EDX_PSE36,
		.set_f7_ebx = F7_EBX_FSGSBASE | F7_EBX_TSC_ADJUST | F7_EBX_SMEP | F7_EBX_INVPCID |
		    F7_EBX_SMAP,
		.set_f7_ecx = F7_ECX_UMIP | F7_ECX_LA57 | F7_ECX_RDPID,
		.set_e1_ecx = E1_ECX_LAHF,
		.set_e1_edx = E1_EDX_SYSCALL | E1_EDX_NX | E1_EDX_PAGE1GB | E1_EDX_RDTSCP |
		    E1_EDX_LM,
		/* So that a guest kernel does without retpolines and other mitigations, which work on
		 * the processor's own branches and stores: the guest's are not those, and so the
		 * mitigations would cost much and protect nothing. Intel's processors say it in
		 * IA32_ARCH_CAPABILITIES. */
		.set_f7_edx = F7_EDX_ARCH_CAPABILITIES,
		.set_e8_ebx = E8_EBX_SSB_NO | E8_EBX_BTC_NO,
		.set_e21_eax = E21_EAX_AUTO_IBRS | E21_EAX_SRSO_NO,
	};
	bt_vec_features(mask);
}
