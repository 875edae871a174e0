/*
 * All architectural state of one vCPU, the form in which every engine gives and takes it.
 *
 * Plain data: copied by value, owned by the caller. The local APIC is a device, and in here only when
 * the engine brings it. What an engine does not have is zero.
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

enum x86_event { X86_EVENT_NONE, X86_EVENT_INTERRUPT, X86_EVENT_SOFT_INTERRUPT, X86_EVENT_EXCEPTION };

#define X86_LAPIC_SIZE 1024

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
	/* Further MSRs of KVM's (the same document), of engines that offer what they control. */
	uint64_t kvm_async_pf, kvm_async_pf_int, kvm_steal_time, kvm_pv_eoi, kvm_poll_control;
	uint64_t debugctl;
	enum x86_activity activity;
	uint8_t nmi_blocked; /* between an NMI's delivery and IRET */
	uint8_t intr_shadow; /* after STI or MOV SS: no interrupt before the next instruction */
	uint8_t nmi_pending;
	/* An event that was taken and not yet delivered (its acknowledge is done), of engines that can
	 * be stopped there. */
	uint8_t event; /* enum x86_event */
	uint8_t event_vector, event_has_error;
	uint32_t event_error;
	/* The local APIC, of engines with one of their own: its registers as its page shows them (SDM 3,
	 * table 10-1), and IA32_TSC_DEADLINE. */
	uint8_t lapic_valid;
	uint8_t lapic[X86_LAPIC_SIZE];
	uint64_t tsc_deadline;
	uint8_t xsave[X86_XSAVE_SIZE] __attribute__((aligned(64))); /* standard format, SDM 1, 13.4 */
};

/* State after power-on or RESET (SDM 3, table 9-1); activity X86_RUNNING for the bootstrap processor,
 * X86_WAIT_SIPI for the others. */
void x86_state_reset(struct x86_state *s, bool bsp);
/* State after INIT: as reset, but what the table says survives does (MSRs, TSC, MTRRs, x87 and SSE). */
void x86_state_init(struct x86_state *s, bool bsp);
/* Starts a processor in X86_WAIT_SIPI at vector << 12 in real mode (SDM 3, 8.4.3). */
void x86_state_sipi(struct x86_state *s, uint8_t vector);

/* The state's local APIC, where it has one (lapic_valid): virtual wire mode, as firmware leaves the
 * bootstrap processor's (MP specification 1.4, 3.6.2.2); x2APIC mode. */
void x86_state_virtual_wire(struct x86_state *s);
void x86_state_x2apic(struct x86_state *s);

#endif
