/*
 * Instructions on segment registers and descriptor tables: MOV, PUSH and POP of segment registers, LGDT
 * and its kin, LAR, LSL, VERR, VERW, ARPL.
 *
 * SDM 2, each instruction; SDM 3, 5.10 (pointer validation).
 */
#include "engine/bt/sys_ops.h"

/* UMIP: the store forms fault outside CPL 0 (SDM 3, 2.5). */
static void
bt_tab_check_umip(struct bt_cpu *cpu)
{
	if ((cpu->cr4 & X86_CR4_UMIP) && cpu->cpl != 0)
		bt_raise_error(cpu, X86_GP, 0);
}

static void
bt_tab_need_protected(struct bt_cpu *cpu)
{
	if (!cpu->pe || cpu->vm86)
		bt_raise(cpu, X86_UD);
}

/* --- Segment registers --- */

static void
bt_sys_mov_from_sreg(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_sys_rm_store16(cpu, op, cpu->seg[op->x].selector);
	bt_next(cpu, op);
}

static void
bt_sys_mov_to_sreg(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_seg_load(cpu, op->x, bt_sys_rm16(cpu, op));
	bt_next(cpu, op);
}

static void
bt_sys_mov_to_ss(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_seg_load(cpu, X86_SS, bt_sys_rm16(cpu, op));
	bt_shadow_set(cpu, BT_SHADOW_MOV_SS);
	bt_next(cpu, op);
}

static void
bt_sys_push_sreg(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_stack st;

	/* A 32-bit push writes only the low half (SDM 2, PUSH: the processors since the Pentium). */
	bt_stack_current(cpu, &st);
	if (op->osize == 4) {
		st.sp = (st.sp - 4) & st.mask;
		bt_store(cpu, X86_SS, st.sp, 2, cpu->seg[op->x].selector);
	} else {
		bt_stack_push(cpu, &st, op->osize, cpu->seg[op->x].selector);
	}
	bt_stack_commit(cpu, &st);
	bt_next(cpu, op);
}

static void
bt_sys_pop_sreg(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_stack st;
	uint16_t sel;

	bt_stack_current(cpu, &st);
	sel = (uint16_t)bt_load(cpu, X86_SS, st.sp, op->osize == 4 ? 2 : op->osize);
	st.sp = (st.sp + op->osize) & st.mask;
	bt_seg_load(cpu, op->x, sel);
	/* The increment is in the width of the old stack segment. */
	bt_stack_commit(cpu, &st);
	if (op->x == X86_SS)
		bt_shadow_set(cpu, BT_SHADOW_MOV_SS);
	bt_next(cpu, op);
}

/* --- Table registers --- */

static int
bt_tab_base_size(const struct bt_cpu *cpu)
{
	return cpu->code_size == 8 ? 8 : 4;
}

static uint64_t
bt_tab_ea_plus2(const struct bt_op *op, uint64_t ea)
{
	return op->asize == 8 ? ea + 2 : op->asize == 4 ? (uint32_t)(ea + 2) : (uint16_t)(ea + 2);
}

static void
bt_tab_load(struct bt_cpu *cpu, const struct bt_op *op, struct x86_table *t)
{
	uint64_t ea = bt_ea(cpu, op), base;
	uint16_t limit;

	bt_sys_need_cpl0(cpu);
	limit = (uint16_t)bt_load(cpu, op->seg, ea, 2);
	base = bt_load(cpu, op->seg, bt_tab_ea_plus2(op, ea), bt_tab_base_size(cpu));
	if (cpu->code_size == 8 && !bt_canonical(cpu, base))
		bt_raise_error(cpu, X86_GP, 0);
	if (cpu->code_size != 8 && op->osize == 2)
		base &= 0xffffff;
	t->limit = limit;
	t->base = base;
}

static void
bt_tab_store(struct bt_cpu *cpu, const struct bt_op *op, const struct x86_table *t)
{
	uint64_t ea = bt_ea(cpu, op);
	int size = bt_tab_base_size(cpu);

	bt_tab_check_umip(cpu);
	bt_probe(cpu, op->seg, bt_tab_ea_plus2(op, ea), size, BT_WRITE);
	bt_store(cpu, op->seg, ea, 2, t->limit);
	bt_store(cpu, op->seg, bt_tab_ea_plus2(op, ea), size, t->base);
}

static void
bt_sys_lgdt(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_tab_load(cpu, op, &cpu->gdtr);
	bt_next(cpu, op);
}

static void
bt_sys_lidt(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_tab_load(cpu, op, &cpu->idtr);
	bt_next(cpu, op);
}

static void
bt_sys_sgdt(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_tab_store(cpu, op, &cpu->gdtr);
	bt_next(cpu, op);
}

static void
bt_sys_sidt(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_tab_store(cpu, op, &cpu->idtr);
	bt_next(cpu, op);
}

static void
bt_sys_sldt(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_tab_need_protected(cpu);
	bt_tab_check_umip(cpu);
	bt_sys_rm_store16(cpu, op, cpu->ldtr.selector);
	bt_next(cpu, op);
}

static void
bt_sys_str(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_tab_need_protected(cpu);
	bt_tab_check_umip(cpu);
	bt_sys_rm_store16(cpu, op, cpu->tr.selector);
	bt_next(cpu, op);
}

/* A system descriptor in the GDT of one of two types, present: as LLDT and LTR want it. In long mode
 * it has 16 bytes, and what would be the type of the second half must be 0 (APM 3, LLDT). */
static void
bt_tab_system_desc(struct bt_cpu *cpu, uint16_t sel, unsigned type, unsigned type2,
    struct bt_desc *d)
{
	if ((sel & 4) || !bt_desc_load(cpu, sel, cpu->lma ? 16 : 8, d) ||
	    !bt_desc_is_system(d) || (bt_desc_type(d) != type && bt_desc_type(d) != type2))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (cpu->lma && BITS(bt_sys_load(cpu, d->la + 12, 4), 8, 5) != 0)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (!bt_desc_present(d))
		bt_raise_error(cpu, X86_NP, BT_SEL_ERR(sel));
}

static struct x86_segment
bt_tab_system_seg(struct bt_cpu *cpu, uint16_t sel, const struct bt_desc *d)
{
	struct x86_segment s = {
		.selector = sel,
		.attr = bt_desc_attr(d),
		.limit = bt_desc_limit(d),
		.base = bt_desc_base64(cpu, d),
	};

	if (!bt_canonical(cpu, s.base))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	return s;
}

static void
bt_sys_lldt(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_desc d;
	uint16_t sel;

	bt_tab_need_protected(cpu);
	bt_sys_need_cpl0(cpu);
	sel = bt_sys_rm16(cpu, op);
	if (BT_SEL_NULL(sel)) {
		cpu->ldtr = (struct x86_segment){ .selector = sel };
	} else {
		bt_tab_system_desc(cpu, sel, X86_SYS_LDT, X86_SYS_LDT, &d);
		cpu->ldtr = bt_tab_system_seg(cpu, sel, &d);
	}
	bt_next(cpu, op);
}

static void
bt_sys_ltr(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct x86_segment tr;
	struct bt_desc d;
	uint16_t sel;

	bt_tab_need_protected(cpu);
	bt_sys_need_cpl0(cpu);
	sel = bt_sys_rm16(cpu, op);
	if (BT_SEL_NULL(sel))
		bt_raise_error(cpu, X86_GP, 0);
	bt_tab_system_desc(cpu, sel, X86_SYS_TSS32, cpu->lma ? X86_SYS_TSS32 : X86_SYS_TSS16, &d);
	tr = bt_tab_system_seg(cpu, sel, &d);
	bt_desc_set_type(cpu, &d, bt_desc_type(&d) | 2);
	tr.attr |= 2;
	cpu->tr = tr;
	bt_next(cpu, op);
}

/* --- Validation --- */

static void
bt_tab_set_zf(struct bt_cpu *cpu, bool zf)
{
	cpu->fl = (uint16_t)((cpu->fl & ~BT_FL_ZF) | (zf ? BT_FL_ZF : 0));
}

/* Whether the privilege rules let CPL and RPL see a descriptor; conforming code always. */
static bool
bt_tab_visible(const struct bt_cpu *cpu, uint16_t sel, const struct bt_desc *d)
{
	if (!bt_desc_is_system(d) && bt_desc_is_code(d) && (bt_desc_type(d) & X86_SEG_EC))
		return true;
	return cpu->cpl <= bt_desc_dpl(d) && (sel & 3u) <= bt_desc_dpl(d);
}

/* System types that LAR and LSL accept (SDM 2, their tables), bit per type. */
#define BT_LAR_TYPES (BIT(1) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(9) | BIT(11) | BIT(12))
#define BT_LAR_TYPES64 (BIT(2) | BIT(9) | BIT(11) | BIT(12))
#define BT_LSL_TYPES (BIT(1) | BIT(2) | BIT(3) | BIT(9) | BIT(11))
#define BT_LSL_TYPES64 (BIT(2) | BIT(9) | BIT(11))

static bool
bt_tab_examine(struct bt_cpu *cpu, uint16_t sel, unsigned types, struct bt_desc *d)
{
	if (!bt_desc_load(cpu, sel, 8, d))
		return false;
	if (bt_desc_is_system(d) && !(types >> bt_desc_type(d) & 1))
		return false;
	return bt_tab_visible(cpu, sel, d);
}

static void
bt_sys_lar(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_desc d;
	bool ok;

	bt_tab_need_protected(cpu);
	ok = bt_tab_examine(cpu, bt_sys_rm16(cpu, op),
	    cpu->lma ? BT_LAR_TYPES64 : BT_LAR_TYPES, &d);
	/* Bits 19 to 16, undefined in the SDM, are the limit's: so does every processor (APM 3, LAR). */
	if (ok)
		bt_sys_reg_write(cpu, op->reg, op->osize, d.hi & 0x00ffff00);
	bt_tab_set_zf(cpu, ok);
	bt_next(cpu, op);
}

static void
bt_sys_lsl(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_desc d;
	bool ok;

	bt_tab_need_protected(cpu);
	ok = bt_tab_examine(cpu, bt_sys_rm16(cpu, op),
	    cpu->lma ? BT_LSL_TYPES64 : BT_LSL_TYPES, &d);
	if (ok)
		bt_sys_reg_write(cpu, op->reg, op->osize, bt_desc_limit(&d));
	bt_tab_set_zf(cpu, ok);
	bt_next(cpu, op);
}

static void
bt_sys_verr(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_desc d;
	bool ok;

	bt_tab_need_protected(cpu);
	ok = bt_tab_examine(cpu, bt_sys_rm16(cpu, op), 0, &d) &&
	    (!bt_desc_is_code(&d) || (bt_desc_type(&d) & X86_SEG_RW));
	bt_tab_set_zf(cpu, ok);
	bt_next(cpu, op);
}

static void
bt_sys_verw(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_desc d;
	bool ok;

	bt_tab_need_protected(cpu);
	ok = bt_tab_examine(cpu, bt_sys_rm16(cpu, op), 0, &d) && !bt_desc_is_code(&d) &&
	    (bt_desc_type(&d) & X86_SEG_RW);
	bt_tab_set_zf(cpu, ok);
	bt_next(cpu, op);
}

static void
bt_sys_arpl(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint16_t src = *bt_reg16(cpu, op->reg), *dst;
	bool is_reg = op->y == BT_SYS_RM_IS_REG, low;
	struct bt_window w;

	bt_tab_need_protected(cpu);
	if (is_reg)
		dst = bt_reg16(cpu, op->rm);
	else
		dst = bt_window_begin(cpu, &w, op->seg, bt_ea(cpu, op), 2, BT_WRITE);
	low = (*dst & 3) < (src & 3);
	if (low)
		*dst = (uint16_t)((*dst & ~3) | (src & 3));
	if (!is_reg)
		bt_window_end(cpu, &w);
	bt_tab_set_zf(cpu, low);
	bt_next(cpu, op);
}

void
bt_sys_tab_lower(const struct bt_insn *in, struct bt_op *op)
{
	op->x = in->sreg;
	op->y = in->has_modrm && in->mod == 3 ? BT_SYS_RM_IS_REG : 0;
	switch (in->id) {
	case BT_ID_MOV_FROM_SREG: op->fn = bt_sys_mov_from_sreg; break;
	case BT_ID_MOV_TO_SREG:
		op->fn = in->sreg == X86_SS ? bt_sys_mov_to_ss : bt_sys_mov_to_sreg;
		break;
	case BT_ID_PUSH_SREG: op->fn = bt_sys_push_sreg; break;
	case BT_ID_POP_SREG: op->fn = bt_sys_pop_sreg; break;
	case BT_ID_LAR: op->fn = bt_sys_lar; break;
	case BT_ID_LSL: op->fn = bt_sys_lsl; break;
	case BT_ID_VERR: op->fn = bt_sys_verr; break;
	case BT_ID_VERW: op->fn = bt_sys_verw; break;
	case BT_ID_ARPL: op->fn = bt_sys_arpl; break;
	case BT_ID_SGDT: op->fn = bt_sys_sgdt; break;
	case BT_ID_SIDT: op->fn = bt_sys_sidt; break;
	case BT_ID_SLDT: op->fn = bt_sys_sldt; break;
	case BT_ID_STR: op->fn = bt_sys_str; break;
	case BT_ID_LGDT: op->fn = bt_sys_lgdt; break;
	case BT_ID_LIDT: op->fn = bt_sys_lidt; break;
	case BT_ID_LLDT: op->fn = bt_sys_lldt; break;
	default: op->fn = bt_sys_ltr; break;
	}
}
