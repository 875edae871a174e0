/*
 * The state of a processor after power-on, RESET, INIT and a start-up IPI (SDM 3, table 9-1).
 */
#include "x86/state.h"

#include <string.h>

/* IA32_PAT after reset (SDM 3, 11.12.4) */
#define X86_PAT_RESET 0x0007040600070406ull
/* IA32_MISC_ENABLE (SDM 4, table 2-2) */
#define X86_MISC_ENABLE_FAST_STRINGS BIT(0)
#define X86_MISC_ENABLE_BTS_UNAVAILABLE BIT(11)
#define X86_MISC_ENABLE_PEBS_UNAVAILABLE BIT(12)

#define X86_DR6_RESET 0xffff0ff0u
#define X86_DR7_RESET 0x400u

/* Where things are in the XSAVE area (SDM 1, table 10-2 and 13.4.2). */
#define X86_XSAVE_FCW 0
#define X86_XSAVE_FTW 4
#define X86_XSAVE_MXCSR 24
#define X86_XSAVE_MXCSR_MASK 28
#define X86_XSAVE_XSTATE_BV 512

/* Registers of the local APIC's page (SDM 3, table 10-1) and what virtual wire mode has in them */
#define X86_LAPIC_ID 0x020
#define X86_LAPIC_SVR 0x0f0
#define X86_LAPIC_SVR_ENABLED 0x1ffu
#define X86_LAPIC_LVT_LINT0 0x350
#define X86_LAPIC_LVT_LINT1 0x360
#define X86_LAPIC_LVT_EXTINT 0x700u
#define X86_LAPIC_LVT_NMI 0x400u

/* Registers that RESET and INIT treat alike. */
static void
x86_state_common(struct x86_state *s, bool bsp)
{
	const struct x86_segment data = {
		.attr = X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_A, .limit = 0xffff
	};
	const struct x86_table table = { .limit = 0xffff };

	memset(s->gpr, 0, sizeof(s->gpr));
	s->gpr[X86_RDX] = 0x600; /* a family 6 processor, as CPUID 1 would say in EAX */
	s->rip = 0xfff0;
	s->rflags = X86_FL_1;
	for (int i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = data;
	s->seg[X86_CS].selector = 0xf000;
	s->seg[X86_CS].base = 0xffff0000;
	s->seg[X86_CS].attr |= X86_SEG_CODE;
	s->ldtr = (struct x86_segment){ .attr = X86_SEG_P | X86_SYS_LDT, .limit = 0xffff };
	s->tr = (struct x86_segment){ .attr = X86_SEG_P | X86_SYS_TSS32_BUSY, .limit = 0xffff };
	s->gdtr = s->idtr = table;
	s->cr2 = s->cr3 = s->cr4 = s->cr8 = 0;
	memset(s->dr, 0, sizeof(s->dr));
	s->dr6 = X86_DR6_RESET;
	s->dr7 = X86_DR7_RESET;
	s->efer = 0;
	s->activity = bsp ? X86_RUNNING : X86_WAIT_SIPI;
	s->nmi_blocked = s->intr_shadow = s->nmi_pending = 0;
}

static void
x86_state_reset_fpu(struct x86_state *s)
{
	const uint16_t fcw = 0x40;
	const uint32_t mxcsr = 0x1f80, mxcsr_mask = 0xffff;
	const uint64_t bv = X86_XCR0_X87 | X86_XCR0_SSE;

	memset(s->xsave, 0, sizeof(s->xsave));
	memcpy(s->xsave + X86_XSAVE_FCW, &fcw, sizeof(fcw));
	s->xsave[X86_XSAVE_FTW] = 0xff; /* 5555h in the short form: no register is empty */
	memcpy(s->xsave + X86_XSAVE_MXCSR, &mxcsr, sizeof(mxcsr));
	memcpy(s->xsave + X86_XSAVE_MXCSR_MASK, &mxcsr_mask, sizeof(mxcsr_mask));
	memcpy(s->xsave + X86_XSAVE_XSTATE_BV, &bv, sizeof(bv));
}

void
x86_state_reset(struct x86_state *s, bool bsp)
{
	memset(s, 0, sizeof(*s));
	x86_state_common(s, bsp);
	x86_state_reset_fpu(s);
	s->cr0 = X86_CR0_CD | X86_CR0_NW | X86_CR0_ET;
	s->xcr0 = X86_XCR0_X87;
	s->pat = X86_PAT_RESET;
	s->misc_enable = X86_MISC_ENABLE_FAST_STRINGS | X86_MISC_ENABLE_BTS_UNAVAILABLE |
	    X86_MISC_ENABLE_PEBS_UNAVAILABLE;
	s->apic_base = X86_APIC_DEFAULT_BASE | X86_APIC_BASE_ENABLE | (bsp ? X86_APIC_BASE_BSP : 0);
}

void
x86_state_init(struct x86_state *s, bool bsp)
{
	x86_state_common(s, bsp);
	/* Whether caches are on survives. */
	s->cr0 = (s->cr0 & (X86_CR0_CD | X86_CR0_NW)) | X86_CR0_ET;
}

void
x86_state_sipi(struct x86_state *s, uint8_t vector)
{
	s->seg[X86_CS].selector = (uint16_t)(vector << 8);
	s->seg[X86_CS].base = (uint64_t)vector << 12;
	s->rip = 0;
	s->activity = X86_RUNNING;
}

static void
x86_state_lapic_put(struct x86_state *s, unsigned reg, uint32_t val)
{
	memcpy(s->lapic + reg, &val, sizeof(val));
}

void
x86_state_virtual_wire(struct x86_state *s)
{
	x86_state_lapic_put(s, X86_LAPIC_SVR, X86_LAPIC_SVR_ENABLED);
	x86_state_lapic_put(s, X86_LAPIC_LVT_LINT0, X86_LAPIC_LVT_EXTINT);
	x86_state_lapic_put(s, X86_LAPIC_LVT_LINT1, X86_LAPIC_LVT_NMI);
}

void
x86_state_x2apic(struct x86_state *s)
{
	uint32_t id;

	if (s->apic_base & X86_APIC_BASE_X2APIC)
		return;
	s->apic_base |= X86_APIC_BASE_X2APIC;
	/* The ID fills its register now, instead of the upper byte (SDM 3, 10.12.5). */
	memcpy(&id, s->lapic + X86_LAPIC_ID, sizeof(id));
	x86_state_lapic_put(s, X86_LAPIC_ID, id >> 24);
}
