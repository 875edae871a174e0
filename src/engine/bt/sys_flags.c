/*
 * EFLAGS and what follows from the processor's mode.
 *
 * SDM 1, 3.4.3; SDM 2 (PUSHF, POPF, CLI, STI); SDM 3, 6.8 (masking) and 2.2 (modes).
 */
#include "engine/bt/sys_ops.h"

/* --- Modes --- */

/* Whether an access through a data segment can do without looking at the segment. */
static bool
bt_mode_seg_flat(const struct x86_segment *s)
{
	unsigned want = X86_SEG_P | X86_SEG_S | X86_SEG_RW;

	return (s->attr & (want | X86_SEG_CODE | X86_SEG_EC)) == want && s->limit == 0xffffffff;
}

static uint8_t
bt_mode_seg_checks(const struct bt_cpu *cpu)
{
	uint8_t checks = 0;

	if ((cpu->cr0 & X86_CR0_AM) && (cpu->eflags & X86_FL_AC) && cpu->cpl == 3)
		return BIT(X86_SEG_COUNT) - 1;
	if (cpu->code_size == 8)
		return 0;
	for (int i = 0; i < X86_SEG_COUNT; i++) {
		if (!cpu->pe || cpu->vm86 || !bt_mode_seg_flat(&cpu->seg[i]))
			checks |= (uint8_t)BIT(i);
	}
	return checks;
}

static struct bt_tlb_entry *
bt_mode_tlb(struct bt_cpu *cpu)
{
	bool user_pages = !(cpu->cr4 & X86_CR4_SMAP) || (cpu->eflags & X86_FL_AC);

	if (cpu->cpl == 3)
		return cpu->tlbs[BT_TLB_USER];
	return cpu->tlbs[user_pages ? BT_TLB_KERNEL_USER : BT_TLB_KERNEL];
}

void
bt_mode_update(struct bt_cpu *cpu)
{
	uint16_t cs = cpu->seg[X86_CS].attr;

	cpu->pe = (cpu->cr0 & X86_CR0_PE) != 0;
	cpu->vm86 = (cpu->eflags & X86_FL_VM) != 0;
	cpu->lma = (cpu->efer & X86_EFER_LMA) != 0;
	if (cpu->lma && (cs & X86_SEG_L))
		cpu->code_size = 8;
	else
		cpu->code_size = cs & X86_SEG_DB ? 4 : 2;
	if (cpu->code_size == 8)
		cpu->sp_size = 8;
	else
		cpu->sp_size = cpu->seg[X86_SS].attr & X86_SEG_DB ? 4 : 2;
	cpu->la_mask = cpu->code_size == 8 ? ~0ull : 0xffffffffull;
	for (int i = 0; i < X86_SEG_COUNT; i++) {
		bool zero = cpu->code_size == 8 && i != X86_FS && i != X86_GS;

		cpu->sbase[i] = zero ? 0 : cpu->seg[i].base;
	}
	cpu->seg_checks = bt_mode_seg_checks(cpu);
	cpu->tlb = bt_mode_tlb(cpu);
	bt_block_mode(cpu);
}

uint64_t
bt_jump_target_slow(struct bt_cpu *cpu, uint64_t target, int osize)
{
	if (osize == 2)
		target = (uint16_t)target;
	else if (cpu->code_size != 8)
		target = (uint32_t)target;
	if (cpu->code_size == 8 ? !bt_canonical(cpu, target) : target > cpu->seg[X86_CS].limit)
		bt_raise_error(cpu, X86_GP, 0);
	return target;
}

/* --- EFLAGS --- */

void
bt_eflags_write(struct bt_cpu *cpu, uint32_t value, uint32_t mask)
{
	uint32_t old = cpu->eflags;
	uint32_t rest = mask & ~X86_FL_ARITH;

	if (mask & X86_FL_ARITH)
		bt_flags_set_arith(cpu, (bt_flags_arith(cpu) & ~mask) | (value & mask));
	cpu->eflags = (old & ~rest) | (value & rest);
	if ((old ^ cpu->eflags) & (X86_FL_VM | X86_FL_AC))
		bt_mode_update(cpu);
	if (cpu->eflags & X86_FL_TF)
		bt_attn_set(cpu, BT_ATTN_STEP);
	if (cpu->eflags & ~old & X86_FL_IF)
		bt_irq_enabled(cpu);
}

/* Virtual-8086 mode with IOPL below 3 traps flag instructions (VME is not offered). */
static void
bt_flags_check_vm86(struct bt_cpu *cpu)
{
	if (cpu->vm86 && (cpu->eflags & X86_FL_IOPL) != X86_FL_IOPL)
		bt_raise_error(cpu, X86_GP, 0);
}

static void
bt_sys_pushf(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_flags_check_vm86(cpu);
	bt_push(cpu, op->osize, bt_eflags(cpu) & ~(X86_FL_VM | X86_FL_RF));
	bt_next(cpu, op);
}

static void
bt_sys_popf(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint32_t mask = bt_eflags_writable(cpu, cpu->cpl, op->osize);
	uint32_t val;

	bt_flags_check_vm86(cpu);
	val = (uint32_t)bt_pop(cpu, op->osize);
	/* POPF clears RF; VIF and VIP are cleared at CPL 0 and kept elsewhere (SDM 2, POPF). */
	val &= ~(X86_FL_RF | X86_FL_VIF | X86_FL_VIP);
	if (op->osize == 2)
		mask &= 0xffff;
	bt_eflags_write(cpu, val, mask | X86_FL_RF);
}

static void
bt_flags_check_iopl(struct bt_cpu *cpu)
{
	uint32_t iopl = (cpu->eflags & X86_FL_IOPL) >> 12;

	if (cpu->pe && (cpu->vm86 ? iopl != 3 : cpu->cpl > iopl))
		bt_raise_error(cpu, X86_GP, 0);
}

static void
bt_sys_cli(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_flags_check_iopl(cpu);
	cpu->eflags &= ~X86_FL_IF;
	bt_next(cpu, op);
}

static void
bt_sys_sti(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_flags_check_iopl(cpu);
	if (!(cpu->eflags & X86_FL_IF)) {
		bt_eflags_write(cpu, X86_FL_IF, X86_FL_IF);
		bt_shadow_set(cpu, BT_SHADOW_STI);
	}
	bt_next(cpu, op);
}

static void
bt_flags_set_ac(struct bt_cpu *cpu, uint32_t ac)
{
	if (cpu->cpl != 0)
		bt_raise(cpu, X86_UD);
	cpu->eflags = (cpu->eflags & ~X86_FL_AC) | ac;
	cpu->tlb = bt_mode_tlb(cpu);
}

static void
bt_sys_clac(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_flags_set_ac(cpu, 0);
	bt_next(cpu, op);
}

static void
bt_sys_stac(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_flags_set_ac(cpu, X86_FL_AC);
	bt_next(cpu, op);
}

void
bt_sys_flags_lower(const struct bt_insn *in, struct bt_op *op)
{
	switch (in->id) {
	case BT_ID_PUSHF: op->fn = bt_sys_pushf; break;
	case BT_ID_POPF:
		op->fn = bt_sys_popf;
		op->flags |= BT_OP_END;
		break;
	case BT_ID_CLI: op->fn = bt_sys_cli; break;
	case BT_ID_STI: op->fn = bt_sys_sti; break;
	case BT_ID_CLAC: op->fn = bt_sys_clac; break;
	default: op->fn = bt_sys_stac; break;
	}
}
