/*
 * Local APICs: registers, modes, acknowledge and end of interrupt (SDM 3, 10.4 to 10.12).
 */
#include "chipset/lapic_private.h"
#include "vm/irq.h"
#include "vm/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Version 14h, six LVT entries, EOI-broadcast suppression (10.4.8) */
#define LAPIC_VERSION_VALUE (0x14 | (LAPIC_LVTS - 1) << 16 | BIT(24))

#define LAPIC_DFR_RESET 0xffffffffu
#define LAPIC_SVR_RESET 0xffu

/* Without a CPUID model to ask: the most an address can have. */
#define LAPIC_PHYS_BITS 52

/* How a register may be used in each mode, and which bits can be written. LVT bits 12 and 14 are
 * read-only: writing them is harmless in both modes. */
#define R BIT(0)
#define W BIT(1)
static const struct lapic_reg_info {
	uint8_t xapic, x2apic;
	uint32_t mask;
} lapic_reg_info[LAPIC_REGS] = {
	[LAPIC_ID] = { R, R, 0 },
	[LAPIC_VERSION] = { R, R, 0 },
	[LAPIC_TPR] = { R | W, R | W, 0xff },
	[LAPIC_APR] = { R, 0, 0 },
	[LAPIC_PPR] = { R, R, 0 },
	[LAPIC_EOI] = { W, W, 0 },
	[LAPIC_RRD] = { R, 0, 0 },
	[LAPIC_LDR] = { R | W, R, 0xff000000 },
	[LAPIC_DFR] = { R | W, 0, 0xf0000000 },
	[LAPIC_SVR] = { R | W, R | W, 0x13ff },
	[LAPIC_ISR... LAPIC_ISR + 7] = { R, R, 0 },
	[LAPIC_TMR... LAPIC_TMR + 7] = { R, R, 0 },
	[LAPIC_IRR... LAPIC_IRR + 7] = { R, R, 0 },
	[LAPIC_ESR] = { R | W, R | W, 0 },
	[LAPIC_ICR] = { R | W, R | W, 0xcdfff },
	[LAPIC_ICR_HI] = { R | W, 0, 0xff000000 },
	[LAPIC_LVT + LAPIC_LVT_TIMER] = { R | W, R | W, 0x710ff },
	[LAPIC_LVT + LAPIC_LVT_THERMAL] = { R | W, R | W, 0x117ff },
	[LAPIC_LVT + LAPIC_LVT_PERF] = { R | W, R | W, 0x117ff },
	[LAPIC_LVT + LAPIC_LVT_LINT0] = { R | W, R | W, 0x1f7ff },
	[LAPIC_LVT + LAPIC_LVT_LINT1] = { R | W, R | W, 0x1f7ff },
	[LAPIC_LVT + LAPIC_LVT_ERROR] = { R | W, R | W, 0x110ff },
	[LAPIC_INITIAL_COUNT] = { R | W, R | W, 0xffffffff },
	[LAPIC_CURRENT_COUNT] = { R, R, 0 },
	[LAPIC_DCR] = { R | W, R | W, 0xb },
	[LAPIC_SELF_IPI] = { 0, W, 0xff },
};

#define LAPIC_LVT_READONLY (BIT(12) | LAPIC_LVT_REMOTE_IRR)
#define LAPIC_ICR_READONLY BIT(12)

/* --- Priorities (10.8.3) --- */

static uint8_t
lapic_ppr(const struct lapic_cpu *a)
{
	uint8_t tpr = (uint8_t)lapic_get(&a->tpr);

	return tpr >> 4 >= a->isrv >> 4 ? tpr : a->isrv & 0xf0;
}

/* The highest vector in a 256-bit register whose words that are not 0 are among words, or 0. */
static uint8_t
lapic_irr_highest(struct lapic_cpu *a)
{
	uint32_t words = atomic_load(&a->irr_words);

	while (words != 0) {
		int i = 31 - __builtin_clz(words);
		uint32_t bits = atomic_load(&a->irr[i]);

		if (bits != 0)
			return (uint8_t)(i * 32 + 31 - __builtin_clz(bits));
		words &= ~BIT(i);
	}
	return 0;
}

static uint8_t
lapic_isr_highest(const struct lapic_cpu *a)
{
	for (int i = 7; i >= 0; i--) {
		if (a->isr[i] != 0)
			return (uint8_t)(i * 32 + 31 - __builtin_clz(a->isr[i]));
	}
	return 0;
}

/* The vector in IRR that may interrupt now, or 0. */
static uint8_t
lapic_deliverable(struct lapic_cpu *a)
{
	uint8_t vector = lapic_irr_highest(a);

	return vector >> 4 > lapic_ppr(a) >> 4 ? vector : 0;
}

/* Whether the 8259's INTR reaches the processor as an external interrupt, through LINT0 (10.5.1) or
 * because there is no APIC. */
static bool
lapic_takes_extint(const struct lapic_cpu *a)
{
	uint32_t lvt = lapic_get(&a->lvt[LAPIC_LVT_LINT0]);

	if (!lapic_is_enabled(a))
		return a->cpu == 0;
	return !(lvt & LAPIC_LVT_MASKED) && LAPIC_LVT_MODE(lvt) == LAPIC_EXTINT;
}

static bool
lapic_extint_pending(struct lapic_cpu *a)
{
	return atomic_load(&a->extint) || (lapic_takes_extint(a) && vm_pic_pending(a->lapic->vm));
}

static int
lapic_intr_pending(void *ctx, int cpu)
{
	struct lapic *l = ctx;
	struct lapic_cpu *a = &l->cpu[cpu];
	uint8_t vector = lapic_deliverable(a);

	if (vector != 0)
		return vector;
	/* Which one it is only the acknowledge tells. */
	return lapic_extint_pending(a) ? 0 : -1;
}

static void
lapic_irr_clear(struct lapic_cpu *a, uint8_t vector)
{
	int i = vector / 32;
	uint32_t bit = BIT(vector % 32);

	if ((atomic_fetch_and(&a->irr[i], ~bit) & ~bit) != 0)
		return;
	atomic_fetch_and(&a->irr_words, ~BIT(i));
	/* A sender may have set a bit and then the summary before it was cleared here. */
	if (atomic_load(&a->irr[i]) != 0)
		atomic_fetch_or(&a->irr_words, BIT(i));
}

static int
lapic_intr_ack(void *ctx, int cpu)
{
	struct lapic *l = ctx;
	struct lapic_cpu *a = &l->cpu[cpu];
	uint8_t vector = lapic_deliverable(a);

	if (vector != 0) {
		lapic_irr_clear(a, vector);
		a->isr[vector / 32] |= BIT(vector % 32);
		a->isrv = vector;
		return vector;
	}
	/* A message promised an interrupt: without one, the 8259 answers with its spurious
	 * vector. */
	if (atomic_exchange(&a->extint, false) || lapic_extint_pending(a))
		return vm_pic_ack(l->vm);
	return -1;
}

/* After a change that may let an interrupt through: has the vCPU look. */
static void
lapic_recheck(struct lapic_cpu *a)
{
	if (lapic_intr_pending(a->lapic, a->cpu) >= 0)
		vm_vcpu_kick(a->lapic->vm, a->cpu);
}

/* --- Writes with an effect of their own --- */

static void
lapic_eoi(struct lapic_cpu *a)
{
	struct vm *vm = a->lapic->vm;
	uint8_t vector = a->isrv;
	uint32_t lint0;

	if (vector == 0)
		return;
	a->isr[vector / 32] &= ~BIT(vector % 32);
	a->isrv = lapic_isr_highest(a);
	if (lapic_get(&a->tmr[vector / 32]) & BIT(vector % 32)) {
		lint0 = lapic_get(&a->lvt[LAPIC_LVT_LINT0]);
		if ((lint0 & LAPIC_LVT_REMOTE_IRR) && (lint0 & LAPIC_LVT_VECTOR) == vector) {
			atomic_fetch_and(&a->lvt[LAPIC_LVT_LINT0], ~LAPIC_LVT_REMOTE_IRR);
			if (vm_pic_pending(vm))
				lapic_lint0_high(a);
		}
		if (!(lapic_get(&a->svr) & LAPIC_SVR_NO_EOI_BROADCAST))
			vm_irq_eoi(vm, vector);
	}
	lapic_recheck(a);
}

static void
lapic_tpr_write(struct lapic_cpu *a, uint32_t val)
{
	lapic_set(&a->tpr, val);
	lapic_recheck(a);
}

static void
lapic_lvt_write(struct lapic_cpu *a, enum lapic_lvt i, uint32_t val)
{
	uint32_t remote_irr = lapic_get(&a->lvt[i]) & LAPIC_LVT_REMOTE_IRR;

	val &= ~LAPIC_LVT_READONLY;
	if (!(lapic_get(&a->svr) & LAPIC_SVR_ENABLE))
		val |= LAPIC_LVT_MASKED;
	if (i == LAPIC_LVT_TIMER) {
		lapic_timer_set_lvt(a, val);
		return;
	}
	/* Remote IRR means something for fixed, level-triggered entries only (10.5.1). */
	if (LAPIC_LVT_MODE(val) == LAPIC_FIXED && (val & LAPIC_LVT_LEVEL))
		val |= remote_irr;
	lapic_set(&a->lvt[i], val);
	if (i == LAPIC_LVT_LINT0 && vm_pic_pending(a->lapic->vm) &&
	    (LAPIC_LVT_MODE(val) == LAPIC_EXTINT || (val & LAPIC_LVT_LEVEL)))
		lapic_lint0_high(a);
}

static void
lapic_svr_write(struct lapic_cpu *a, uint32_t val)
{
	lapic_set(&a->svr, val);
	if (val & LAPIC_SVR_ENABLE)
		return;
	/* 10.4.7.2: disabling masks all of the LVT. */
	for (int i = 0; i < LAPIC_LVTS; i++)
		atomic_fetch_or(&a->lvt[i], LAPIC_LVT_MASKED);
}

static void
lapic_esr_write(struct lapic_cpu *a)
{
	/* 10.5.3: what was found since the last write shows now; the error interrupt is armed
	 * again. */
	a->esr = atomic_exchange(&a->esr_new, 0) & ~LAPIC_ESR_RAISED;
}

static void
lapic_icr_write(struct lapic_cpu *a, uint32_t lo, uint32_t hi)
{
	a->icr = lo & ~LAPIC_ICR_READONLY;
	a->icr_hi = hi;
	lapic_icr_send(a, a->icr, lapic_is_x2apic(a) ? hi : hi >> 24);
}

/* --- All registers, val within the mask --- */

static uint32_t
lapic_reg_read(struct lapic_cpu *a, int reg)
{
	switch (reg) {
	case LAPIC_ID: return lapic_is_x2apic(a) ? a->id : a->id << 24;
	case LAPIC_VERSION: return LAPIC_VERSION_VALUE;
	case LAPIC_TPR: return lapic_get(&a->tpr);
	case LAPIC_PPR: return lapic_ppr(a);
	case LAPIC_LDR:
		return lapic_is_x2apic(a) ? a->id >> 4 << 16 | BIT(a->id & 15) : lapic_get(&a->ldr);
	case LAPIC_DFR: return lapic_get(&a->dfr);
	case LAPIC_SVR: return lapic_get(&a->svr);
	case LAPIC_ISR ... LAPIC_ISR + 7: return a->isr[reg - LAPIC_ISR];
	case LAPIC_TMR ... LAPIC_TMR + 7: return lapic_get(&a->tmr[reg - LAPIC_TMR]);
	case LAPIC_IRR ... LAPIC_IRR + 7: return lapic_get(&a->irr[reg - LAPIC_IRR]);
	case LAPIC_ESR: return a->esr;
	case LAPIC_ICR: return a->icr;
	case LAPIC_ICR_HI: return a->icr_hi;
	case LAPIC_LVT ... LAPIC_LVT + LAPIC_LVTS - 1: return lapic_get(&a->lvt[reg - LAPIC_LVT]);
	case LAPIC_INITIAL_COUNT: return a->initial_count;
	case LAPIC_CURRENT_COUNT: return lapic_timer_current(a);
	case LAPIC_DCR: return a->dcr;
	default: return 0; /* APR and RRD, which processors of this version lack */
	}
}

static void
lapic_reg_write(struct lapic_cpu *a, int reg, uint32_t val)
{
	switch (reg) {
	case LAPIC_TPR: lapic_tpr_write(a, val); break;
	case LAPIC_EOI: lapic_eoi(a); break;
	case LAPIC_LDR: lapic_set(&a->ldr, val); break;
	case LAPIC_DFR: lapic_set(&a->dfr, val | ~lapic_reg_info[reg].mask); break;
	case LAPIC_SVR: lapic_svr_write(a, val); break;
	case LAPIC_ESR: lapic_esr_write(a); break;
	case LAPIC_ICR: lapic_icr_write(a, val, a->icr_hi); break;
	case LAPIC_ICR_HI: a->icr_hi = val; break;
	case LAPIC_LVT ... LAPIC_LVT + LAPIC_LVTS - 1:
		lapic_lvt_write(a, (enum lapic_lvt)(reg - LAPIC_LVT), val);
		break;
	case LAPIC_INITIAL_COUNT: lapic_timer_set_initial(a, val); break;
	case LAPIC_DCR: lapic_timer_set_divide(a, val); break;
	case LAPIC_SELF_IPI:
		/* As the ICR with shorthand self (10.12.11). */
		lapic_icr_send(a, val | 1u << 18, 0);
		break;
	}
}

/* --- xAPIC: the page (10.4.1) --- */

static int
lapic_mmio_offset(void *ctx, int cpu, uint64_t gpa)
{
	struct lapic *l = ctx;
	uint64_t base = atomic_load_explicit(&l->cpu[cpu].base, memory_order_relaxed);

	if (gpa >> 12 != base >> 12 || !(base & X86_APIC_BASE_ENABLE) ||
	    (base & X86_APIC_BASE_X2APIC))
		return -1;
	return gpa & 0xfff;
}

/* The register at off if it may be used in this way, else -1 and an error noted. Registers are
 * in the first 32 bits of each 16 bytes; the rest is undefined. */
static int
lapic_mmio_reg(struct lapic_cpu *a, int off, unsigned use)
{
	int reg = off >> 4;

	if (reg >= LAPIC_REGS || lapic_reg_info[reg].xapic == 0) {
		lapic_error(a, LAPIC_ESR_REGISTER);
		return -1;
	}
	return (off & 0xf) == 0 && (lapic_reg_info[reg].xapic & use) ? reg : -1;
}

static uint32_t
lapic_mmio_read(void *ctx, int cpu, int off)
{
	struct lapic *l = ctx;
	int reg = lapic_mmio_reg(&l->cpu[cpu], off, R);

	return reg < 0 ? 0 : lapic_reg_read(&l->cpu[cpu], reg);
}

static void
lapic_mmio_write(void *ctx, int cpu, int off, uint32_t val)
{
	struct lapic *l = ctx;
	int reg = lapic_mmio_reg(&l->cpu[cpu], off, W);

	if (reg >= 0)
		lapic_reg_write(&l->cpu[cpu], reg, val & lapic_reg_info[reg].mask);
}

/* --- x2APIC and the other MSRs (10.12) --- */

static int
lapic_x2apic_read(struct lapic_cpu *a, uint32_t reg, uint64_t *val)
{
	if (!lapic_is_x2apic(a) || reg >= LAPIC_REGS || !(lapic_reg_info[reg].x2apic & R))
		return -EINVAL;
	*val = lapic_reg_read(a, (int)reg);
	if (reg == LAPIC_ICR)
		*val |= (uint64_t)a->icr_hi << 32;
	return 0;
}

static int
lapic_x2apic_write(struct lapic_cpu *a, uint32_t reg, uint64_t val)
{
	if (!lapic_is_x2apic(a) || reg >= LAPIC_REGS || !(lapic_reg_info[reg].x2apic & W))
		return -EINVAL;
	if ((uint32_t)val & ~lapic_reg_info[reg].mask)
		return -EINVAL;
	if (reg == LAPIC_ICR)
		lapic_icr_write(a, (uint32_t)val, (uint32_t)(val >> 32));
	else if (val >> 32 != 0)
		return -EINVAL;
	else
		lapic_reg_write(a, (int)reg, (uint32_t)val);
	return 0;
}

/* The state after power-up (10.4.7.1), which INIT brings back except for the ID and
 * IA32_APIC_BASE. */
static void
lapic_reset(struct lapic_cpu *a)
{
	atomic_store(&a->irr_words, 0);
	for (int i = 0; i < 8; i++) {
		atomic_store(&a->irr[i], 0);
		atomic_store(&a->tmr[i], 0);
		a->isr[i] = 0;
	}
	a->isrv = 0;
	atomic_store(&a->extint, false);
	atomic_store(&a->esr_new, 0);
	lapic_timer_reset(a);
	for (int i = 0; i < LAPIC_LVTS; i++)
		lapic_set(&a->lvt[i], LAPIC_LVT_MASKED);
	lapic_set(&a->svr, LAPIC_SVR_RESET);
	lapic_set(&a->ldr, 0);
	lapic_set(&a->dfr, LAPIC_DFR_RESET);
	lapic_set(&a->tpr, 0);
	a->esr = 0;
	a->icr = 0;
	a->icr_hi = 0;
}

/* IA32_APIC_BASE: modes and the ways between them (10.12.5, figure 10-27). */
static int
lapic_base_write(struct lapic_cpu *a, uint64_t val)
{
	const uint64_t mode = X86_APIC_BASE_ENABLE | X86_APIC_BASE_X2APIC;
	uint64_t was = atomic_load(&a->base);

	if (val & a->lapic->base_reserved)
		return -EINVAL;
	if ((val & mode) == X86_APIC_BASE_X2APIC)
		return -EINVAL;
	/* x2APIC is entered from xAPIC and left by disabling only. */
	if ((val & mode) == mode && !(was & X86_APIC_BASE_ENABLE))
		return -EINVAL;
	if ((was & X86_APIC_BASE_X2APIC) && (val & mode) == X86_APIC_BASE_ENABLE)
		return -EINVAL;
	atomic_store(&a->base, val);
	if ((was & X86_APIC_BASE_ENABLE) && !(val & X86_APIC_BASE_ENABLE))
		lapic_reset(a);
	if ((val & ~was) & X86_APIC_BASE_X2APIC)
		a->icr_hi = 0;
	lapic_recheck(a);
	return 0;
}

static int
lapic_msr_read(void *ctx, int cpu, uint32_t msr, uint64_t *val)
{
	struct lapic *l = ctx;
	struct lapic_cpu *a = &l->cpu[cpu];

	switch (msr) {
	case X86_MSR_APIC_BASE: *val = atomic_load(&a->base); return 0;
	case X86_MSR_TSC_DEADLINE:
		if (l->tsc_khz == 0)
			return -EINVAL;
		*val = lapic_timer_deadline(a);
		return 0;
	case X86_MSR_X2APIC_FIRST ... X86_MSR_X2APIC_LAST:
		return lapic_x2apic_read(a, msr - X86_MSR_X2APIC_FIRST, val);
	default: return -EINVAL;
	}
}

static int
lapic_msr_write(void *ctx, int cpu, uint32_t msr, uint64_t val)
{
	struct lapic *l = ctx;
	struct lapic_cpu *a = &l->cpu[cpu];

	switch (msr) {
	case X86_MSR_APIC_BASE: return lapic_base_write(a, val);
	case X86_MSR_TSC_DEADLINE:
		if (l->tsc_khz == 0)
			return -EINVAL;
		lapic_timer_set_deadline(a, val);
		return 0;
	case X86_MSR_X2APIC_FIRST ... X86_MSR_X2APIC_LAST:
		return lapic_x2apic_write(a, msr - X86_MSR_X2APIC_FIRST, val);
	default: return -EINVAL;
	}
}

/* CR8 is the upper half of TPR; writing it clears the lower (10.8.6). */
static uint8_t
lapic_cr8_read(void *ctx, int cpu)
{
	struct lapic *l = ctx;

	return (uint8_t)(lapic_get(&l->cpu[cpu].tpr) >> 4);
}

static void
lapic_cr8_write(void *ctx, int cpu, uint8_t val)
{
	struct lapic *l = ctx;

	lapic_tpr_write(&l->cpu[cpu], (uint32_t)(val & 0xf) << 4);
}

static void
lapic_init(void *ctx, int cpu)
{
	struct lapic *l = ctx;

	lapic_reset(&l->cpu[cpu]);
}

static void
lapic_lint0(void *ctx, bool level)
{
	struct lapic *l = ctx;

	for (int i = 0; level && i < l->cpus; i++)
		lapic_lint0_high(&l->cpu[i]);
}

/* --- State --- */

static void
lapic_state_timer(struct lapic_cpu *a, struct vm_state *s)
{
	vm_state_u32(s, &a->dcr);
	vm_state_u32(s, &a->initial_count);
	vm_state_bool(s, &a->counting);
	vm_state_u64(s, &a->start_ns);
	vm_state_u64(s, &a->tick.next);
	vm_state_u64(s, &a->tsc_deadline);
}

/* What follows from the fields loaded. Refuses what the registers cannot hold. */
static int
lapic_state_loaded(struct lapic_cpu *a, struct vm_state *s)
{
	const uint64_t mode = X86_APIC_BASE_ENABLE | X86_APIC_BASE_X2APIC;

	if (vm_state_error(s) != 0)
		return vm_state_error(s);
	if ((atomic_load(&a->base) & a->lapic->base_reserved) ||
	    (atomic_load(&a->base) & mode) == X86_APIC_BASE_X2APIC)
		vm_state_reject(s, "IA32_APIC_BASE");
	if (((a->isr[0] | lapic_get(&a->irr[0])) & 0xffff) != 0)
		vm_state_reject(s, "a vector below 16");
	if (a->dcr & ~lapic_reg_info[LAPIC_DCR].mask)
		vm_state_reject(s, "the timer's divider");
	if ((a->counting && a->initial_count == 0) ||
	    (a->tsc_deadline != 0 && a->lapic->tsc_khz == 0))
		vm_state_reject(s, "the timer");
	if (vm_state_error(s) != 0) {
		lapic_reset(a);
		return vm_state_error(s);
	}
	a->isrv = lapic_isr_highest(a);
	atomic_store(&a->irr_words, 0);
	for (int i = 0; i < 8; i++) {
		if (atomic_load(&a->irr[i]) != 0)
			atomic_fetch_or(&a->irr_words, BIT(i));
	}
	lapic_timer_restart(a);
	lapic_recheck(a);
	return 0;
}

static int
lapic_cpu_state(struct lapic_cpu *a, struct vm_state *s)
{
	bool extint = atomic_load(&a->extint);

	vm_state_section(s, "lapic", a->cpu, 1);
	vm_state_atomic_u64(s, &a->base);
	for (int i = 0; i < 8; i++) {
		vm_state_atomic_u32(s, &a->irr[i]);
		vm_state_atomic_u32(s, &a->tmr[i]);
		vm_state_u32(s, &a->isr[i]);
	}
	for (int i = 0; i < LAPIC_LVTS; i++)
		vm_state_atomic_u32(s, &a->lvt[i]);
	vm_state_atomic_u32(s, &a->svr);
	vm_state_atomic_u32(s, &a->ldr);
	vm_state_atomic_u32(s, &a->dfr);
	vm_state_atomic_u32(s, &a->tpr);
	vm_state_atomic_u32(s, &a->esr_new);
	vm_state_u32(s, &a->esr);
	vm_state_u32(s, &a->icr);
	vm_state_u32(s, &a->icr_hi);
	vm_state_bool(s, &extint);
	lapic_state_timer(a, s);
	atomic_store(&a->extint, extint);
	(void)vm_state_end(s);
	return vm_state_loading(s) ? lapic_state_loaded(a, s) : vm_state_error(s);
}

static int
lapic_state(void *ctx, struct vm_state *s)
{
	struct lapic *l = ctx;
	int err = 0;

	for (int i = 0; i < l->cpus && err == 0; i++)
		err = lapic_cpu_state(&l->cpu[i], s);
	return err;
}

/* --- Life --- */

static const struct vm_apic_ops lapic_ops = {
	.msi = lapic_msi,
	.intr_pending = lapic_intr_pending,
	.intr_ack = lapic_intr_ack,
	.msr_read = lapic_msr_read,
	.msr_write = lapic_msr_write,
	.cr8_read = lapic_cr8_read,
	.cr8_write = lapic_cr8_write,
	.init = lapic_init,
	.mmio_offset = lapic_mmio_offset,
	.mmio_read = lapic_mmio_read,
	.mmio_write = lapic_mmio_write,
	.lint0 = lapic_lint0,
};

/* What CPUID tells the guest decides what it may set. */
static void
lapic_ask_cpuid(struct lapic *l)
{
	const struct x86_cpuid *model = l->engine->cpuid(l->evm);
	const struct x86_cpuid_ctx ctx = { .apic_base = X86_APIC_BASE_ENABLE };
	struct x86_cpuid_regs leaf1;
	int phys_bits = LAPIC_PHYS_BITS;

	l->x2apic = true;
	if (model != NULL) {
		x86_cpuid_query(model, &ctx, 1, 0, &leaf1);
		l->x2apic = leaf1.ecx & BIT(21);
		phys_bits = x86_cpuid_phys_bits(model);
	}
	l->base_reserved = ~(BIT64(phys_bits) - 1) | 0xff | BIT(9);
	if (!l->x2apic)
		l->base_reserved |= X86_APIC_BASE_X2APIC;
}

int
lapic_create(struct vm *vm, struct lapic **out)
{
	int cpus = vm_vcpus(vm), err;
	size_t size = sizeof(struct lapic) + (size_t)cpus * sizeof(struct lapic_cpu);
	struct lapic *l = aligned_alloc(64, ALIGN_UP(size, (size_t)64));

	if (l == NULL)
		return -ENOMEM;
	memset(l, 0, size);
	l->vm = vm;
	l->engine = vm_engine(vm, &l->evm);
	l->tsc_khz = l->engine->tsc_khz(l->evm);
	lapic_ask_cpuid(l);
	err = -ENOMEM;
	l->ids = x86_topology_apic_id(vm_topology(vm), (uint32_t)cpus - 1) + 1;
	l->by_id = calloc(l->ids, sizeof(l->by_id[0]));
	if (l->by_id == NULL)
		goto destroy;
	while (l->cpus < cpus) {
		struct lapic_cpu *a = &l->cpu[l->cpus];

		a->lapic = l;
		a->cpu = l->cpus;
		a->id = x86_topology_apic_id(vm_topology(vm), (uint32_t)a->cpu);
		l->by_id[a->id] = a;
		err = lapic_timer_create(a);
		if (err != 0)
			goto destroy;
		l->cpus++;
		atomic_store(&a->base, X86_APIC_DEFAULT_BASE | X86_APIC_BASE_ENABLE |
				(a->cpu == 0 ? X86_APIC_BASE_BSP : 0));
		lapic_reset(a);
	}
	err = vm_state_register(vm, lapic_state, l);
	if (err != 0)
		goto destroy;
	vm_apic_register(vm, &lapic_ops, l);
	*out = l;
	return 0;
destroy:
	lapic_destroy(l);
	return err;
}

void
lapic_destroy(struct lapic *l)
{
	if (l == NULL)
		return;
	for (int i = 0; i < l->cpus; i++)
		lapic_timer_destroy(&l->cpu[i]);
	free(l->by_id);
	free(l);
}

void
lapic_virtual_wire(struct lapic *l)
{
	struct lapic_cpu *a = &l->cpu[0];

	lapic_svr_write(a, LAPIC_SVR_ENABLE | 0xff);
	lapic_lvt_write(a, LAPIC_LVT_LINT0, LAPIC_EXTINT << 8);
	lapic_lvt_write(a, LAPIC_LVT_LINT1, LAPIC_NMI << 8);
}

int
lapic_x2apic(struct lapic *l)
{
	int err = 0;

	for (int i = 0; err == 0 && i < l->cpus; i++)
		err = lapic_base_write(&l->cpu[i],
		    atomic_load(&l->cpu[i].base) | X86_APIC_BASE_X2APIC);
	return err;
}
