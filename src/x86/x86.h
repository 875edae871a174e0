/*
 * Facts of the x86 architecture that every room may need: register numbers, control bits, MSRs,
 * exception vectors, page-table and descriptor bits.
 *
 * "SDM" is the Intel 64 and IA-32 Architectures Software Developer's Manual (325462), "APM" the AMD64
 * Architecture Programmer's Manual (24592 to 24594).
 */
#ifndef X86_X86_H
#define X86_X86_H

#include "base/bits.h"

/* General registers in encoding order (SDM 2, table 2-2). */
enum x86_gpr {
	X86_RAX, X86_RCX, X86_RDX, X86_RBX, X86_RSP, X86_RBP, X86_RSI, X86_RDI,
	X86_R8, X86_R9, X86_R10, X86_R11, X86_R12, X86_R13, X86_R14, X86_R15,
	X86_GPR_COUNT,
};

/* Segment registers in encoding order (SDM 2, table 2-8: Sreg). */
enum x86_seg { X86_ES, X86_CS, X86_SS, X86_DS, X86_FS, X86_GS, X86_SEG_COUNT };

/* EFLAGS (SDM 1, 3.4.3) */
#define X86_FL_CF BIT(0)
#define X86_FL_1 BIT(1) /* always set */
#define X86_FL_PF BIT(2)
#define X86_FL_AF BIT(4)
#define X86_FL_ZF BIT(6)
#define X86_FL_SF BIT(7)
#define X86_FL_TF BIT(8)
#define X86_FL_IF BIT(9)
#define X86_FL_DF BIT(10)
#define X86_FL_OF BIT(11)
#define X86_FL_IOPL (3u << 12)
#define X86_FL_NT BIT(14)
#define X86_FL_RF BIT(16)
#define X86_FL_VM BIT(17)
#define X86_FL_AC BIT(18)
#define X86_FL_VIF BIT(19)
#define X86_FL_VIP BIT(20)
#define X86_FL_ID BIT(21)
#define X86_FL_ARITH                                                                               \
	(X86_FL_CF | X86_FL_PF | X86_FL_AF | X86_FL_ZF | X86_FL_SF | X86_FL_OF)

/* Exception vectors (SDM 3, table 6-1) */
enum x86_vector {
	X86_DE = 0, X86_DB = 1, X86_NMI = 2, X86_BP = 3, X86_OF = 4, X86_BR = 5, X86_UD = 6,
	X86_NM = 7, X86_DF = 8, X86_TS = 10, X86_NP = 11, X86_SSF = 12, X86_GP = 13, X86_PF = 14,
	X86_MF = 16, X86_AC = 17, X86_MC = 18, X86_XM = 19,
};

/* Page-fault error code (SDM 3, 4.7) */
#define X86_PF_P BIT(0)
#define X86_PF_W BIT(1)
#define X86_PF_U BIT(2)
#define X86_PF_RSVD BIT(3)
#define X86_PF_I BIT(4)

/* CR0 (SDM 3, 2.5) */
#define X86_CR0_PE BIT64(0)
#define X86_CR0_MP BIT64(1)
#define X86_CR0_EM BIT64(2)
#define X86_CR0_TS BIT64(3)
#define X86_CR0_ET BIT64(4)
#define X86_CR0_NE BIT64(5)
#define X86_CR0_WP BIT64(16)
#define X86_CR0_AM BIT64(18)
#define X86_CR0_NW BIT64(29)
#define X86_CR0_CD BIT64(30)
#define X86_CR0_PG BIT64(31)

/* CR4 (SDM 3, 2.5) */
#define X86_CR4_VME BIT64(0)
#define X86_CR4_PVI BIT64(1)
#define X86_CR4_TSD BIT64(2)
#define X86_CR4_DE BIT64(3)
#define X86_CR4_PSE BIT64(4)
#define X86_CR4_PAE BIT64(5)
#define X86_CR4_MCE BIT64(6)
#define X86_CR4_PGE BIT64(7)
#define X86_CR4_PCE BIT64(8)
#define X86_CR4_OSFXSR BIT64(9)
#define X86_CR4_OSXMMEXCPT BIT64(10)
#define X86_CR4_UMIP BIT64(11)
#define X86_CR4_LA57 BIT64(12)
#define X86_CR4_FSGSBASE BIT64(16)
#define X86_CR4_PCIDE BIT64(17)
#define X86_CR4_OSXSAVE BIT64(18)
#define X86_CR4_SMEP BIT64(20)
#define X86_CR4_SMAP BIT64(21)
#define X86_CR4_PKE BIT64(22)

/* EFER (SDM 4, table 2-2; APM 2, 3.1.7) */
#define X86_EFER_SCE BIT64(0)
#define X86_EFER_LME BIT64(8)
#define X86_EFER_LMA BIT64(10)
#define X86_EFER_NXE BIT64(11)
#define X86_EFER_FFXSR BIT64(14)
#define X86_EFER_AIBRSE BIT64(21)

/* XCR0 (SDM 1, 13.3) */
#define X86_XCR0_X87 BIT64(0)
#define X86_XCR0_SSE BIT64(1)
#define X86_XCR0_AVX BIT64(2)
#define X86_XCR0_OPMASK BIT64(5)
#define X86_XCR0_ZMM_HI256 BIT64(6)
#define X86_XCR0_HI16_ZMM BIT64(7)
#define X86_XCR0_AVX512 (X86_XCR0_OPMASK | X86_XCR0_ZMM_HI256 | X86_XCR0_HI16_ZMM)

/* Page-table entries (SDM 3, 4.3 to 4.5) */
#define X86_PTE_P BIT64(0)
#define X86_PTE_W BIT64(1)
#define X86_PTE_U BIT64(2)
#define X86_PTE_PWT BIT64(3)
#define X86_PTE_PCD BIT64(4)
#define X86_PTE_A BIT64(5)
#define X86_PTE_D BIT64(6)
#define X86_PTE_PS BIT64(7)
#define X86_PTE_G BIT64(8)
#define X86_PTE_NX BIT64(63)

/* Segment attributes as the second descriptor dword holds them, shifted right by 8 (SDM 3, 3.4.5):
 * bits 0-3 type, 4 S, 5-6 DPL, 7 P, 12 AVL, 13 L, 14 D/B, 15 G. */
#define X86_SEG_TYPE 0xfu
#define X86_SEG_A BIT(0) /* accessed, of a code or data segment */
#define X86_SEG_RW BIT(1) /* data: writable; code: readable */
#define X86_SEG_EC BIT(2) /* data: expand-down; code: conforming */
#define X86_SEG_CODE BIT(3)
#define X86_SEG_S BIT(4)
#define X86_SEG_DPL(attr) (((attr) >> 5) & 3)
#define X86_SEG_P BIT(7)
#define X86_SEG_L BIT(13)
#define X86_SEG_DB BIT(14)
#define X86_SEG_G BIT(15)

/* System segment and gate types (SDM 3, table 3-2) */
#define X86_SYS_TSS16 1
#define X86_SYS_LDT 2
#define X86_SYS_TSS16_BUSY 3
#define X86_SYS_CALL16 4
#define X86_SYS_TASK_GATE 5
#define X86_SYS_INT16 6
#define X86_SYS_TRAP16 7
#define X86_SYS_TSS32 9
#define X86_SYS_TSS32_BUSY 11
#define X86_SYS_CALL32 12
#define X86_SYS_INT32 14
#define X86_SYS_TRAP32 15

/* MSRs (SDM 4; APM 2, appendix A) */
#define X86_MSR_TSC 0x10
#define X86_MSR_PLATFORM_ID 0x17
#define X86_MSR_APIC_BASE 0x1b
#define X86_MSR_FEATURE_CONTROL 0x3a
#define X86_MSR_TSC_ADJUST 0x3b
#define X86_MSR_SPEC_CTRL 0x48
#define X86_MSR_PRED_CMD 0x49
#define X86_MSR_BIOS_SIGN_ID 0x8b
#define X86_MSR_MTRRCAP 0xfe
#define X86_MSR_ARCH_CAPABILITIES 0x10a
#define X86_MSR_SYSENTER_CS 0x174
#define X86_MSR_SYSENTER_ESP 0x175
#define X86_MSR_SYSENTER_EIP 0x176
#define X86_MSR_MCG_CAP 0x179
#define X86_MSR_MCG_STATUS 0x17a
#define X86_MSR_MISC_ENABLE 0x1a0
#define X86_MSR_DEBUGCTL 0x1d9
#define X86_MSR_MTRR_PHYSBASE0 0x200
#define X86_MSR_MTRR_FIX64K 0x250
#define X86_MSR_PAT 0x277
#define X86_MSR_MTRR_DEF_TYPE 0x2ff
#define X86_MSR_TSC_DEADLINE 0x6e0
#define X86_MSR_X2APIC_FIRST 0x800
#define X86_MSR_X2APIC_LAST 0x8ff
#define X86_MSR_XSS 0xda0
#define X86_MSR_KVM_WALL_CLOCK 0x4b564d00 /* Linux, Documentation/virt/kvm/x86/msr.rst */
#define X86_MSR_KVM_SYSTEM_TIME 0x4b564d01
#define X86_MSR_EFER 0xc0000080
#define X86_MSR_STAR 0xc0000081
#define X86_MSR_LSTAR 0xc0000082
#define X86_MSR_CSTAR 0xc0000083
#define X86_MSR_SFMASK 0xc0000084
#define X86_MSR_FS_BASE 0xc0000100
#define X86_MSR_GS_BASE 0xc0000101
#define X86_MSR_KERNEL_GS_BASE 0xc0000102
#define X86_MSR_TSC_AUX 0xc0000103
#define X86_MSR_HWCR 0xc0010015 /* AMD: hardware configuration */
#define X86_HWCR_TSC_FREQ_SEL BIT64(24) /* the TSC counts at the P0 frequency */

/* The local APIC's default MMIO page and the INTx message address (SDM 3, 10.4.1 and 10.11.1) */
#define X86_APIC_DEFAULT_BASE 0xfee00000ull
#define X86_APIC_BASE_BSP BIT64(8)
#define X86_APIC_BASE_X2APIC BIT64(10)
#define X86_APIC_BASE_ENABLE BIT64(11)
/* The clock of the local APIC's timer, before its divider. CPUID tells it to guests (leaf 0x15), so the
 * model of the APIC and the CPUID model must agree. */
#define X86_APIC_TIMER_HZ 1000000000u

#endif
