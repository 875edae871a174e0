/*
 * All architectural state of one vCPU, the form in which every engine gives and takes it.
 *
 * Plain data: copied by value, owned by the caller. The local APIC is not in here; it is a device.
 */
#ifndef X86_STATE_H
#define X86_STATE_H

#include "x86/x86.h"

/* A segment register with its hidden part. limit is in bytes, granularity applied; attr as in x86.h,
 * P clear when the register holds a null selector. */
struct x86_segment {
	uint16_t selector;
	uint16_t attr;
	uint32_t limit;
	uint64_t base;
};

struct x86_table { /* GDTR, IDTR */
	uint64_t base;
	uint16_t limit;
};

enum x86_activity {
	X86_RUNNING,
	X86_HALTED, /* HLT: until an interrupt, NMI or INIT */
	X86_WAIT_SIPI, /* after INIT, an application processor */
	X86_SHUTDOWN, /* triple fault */
};

/* The largest XSAVE area kept: legacy, header, AVX, AVX-512 and PKRU in the standard format. */
#define X86_XSAVE_SIZE 4096

struct x86_state {
	uint64_t gpr[X86_GPR_COUNT];
	uint64_t rip;
	uint64_t rflags;
	struct x86_segment seg[X86_SEG_COUNT];
	struct x86_segment ldtr, tr;
	struct x86_table gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, cr8, xcr0;
	uint64_t dr[4], dr6, dr7;
	uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux, pat, misc_enable, xss;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip, spec_ctrl, mtrr_def_type;
	uint64_t mtrr_fixed[11]; /* 250h, 258h, 259h, 268h to 26Fh */
	uint64_t mtrr_var[16]; /* base and mask in turn from 200h */
	uint64_t apic_base;
	uint64_t tsc; /* the guest's counter now */
	uint64_t tsc_adjust;
	/* kvmclock (Linux, Documentation/virt/kvm/x86/msr.rst): its MSRs, and what it shows when the
	 * counter is tsc; the bootstrap processor's holds for all. 0 for engines without it. */
	uint64_t kvm_system_time, kvm_wall_clock, kvm_clock_ns;
	enum x86_activity activity;
	uint8_t nmi_blocked; /* between an NMI's delivery and IRET */
	uint8_t intr_shadow; /* after STI or MOV SS: no interrupt before the next instruction */
	uint8_t nmi_pending;
	uint8_t xsave[X86_XSAVE_SIZE] __attribute__((aligned(64))); /* standard format, SDM 1, 13.4 */
};

/* State after power-on or RESET (SDM 3, table 9-1); activity X86_RUNNING for the bootstrap processor,
 * X86_WAIT_SIPI for the others. */
void x86_state_reset(struct x86_state *s, bool bsp);
/* State after INIT: as reset, but what the table says survives does (MSRs, TSC, MTRRs, x87 and SSE). */
void x86_state_init(struct x86_state *s, bool bsp);
/* Starts a processor in X86_WAIT_SIPI at vector << 12 in real mode (SDM 3, 8.4.3). */
void x86_state_sipi(struct x86_state *s, uint8_t vector);

#endif
