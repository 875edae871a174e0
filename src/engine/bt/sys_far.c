/*
 * Far transfers: JMP, CALL and RET to other segments, through gates and tasks, and IRET.
 *
 * SDM 2 (CALL, JMP, RET, IRET) and SDM 3, 5.8 and chapter 7. Nothing is committed before the last check
 * and the last memory access that can fault.
 */
#include "engine/bt/exc.h"
#include "engine/bt/sys.h"
#include "engine/bt/sys_ops.h"

static uint64_t
bt_far_mask(int osize)
{
	return osize == 8 ? ~0ull : osize == 4 ? 0xffffffffull : 0xffffull;
}

/* Checks of a code segment that a far transfer without gate wants: error codes name sel. */
static void
bt_far_check_code(struct bt_cpu *cpu, uint16_t sel, const struct bt_desc *d)
{
	unsigned dpl = bt_desc_dpl(d);
	bool bad;

	if (cpu->lma && (bt_desc_attr(d) & (X86_SEG_L | X86_SEG_DB)) == (X86_SEG_L | X86_SEG_DB))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (bt_desc_type(d) & X86_SEG_EC)
		bad = dpl > cpu->cpl;
	else
		bad = (sel & 3) > cpu->cpl || dpl != cpu->cpl;
	if (bad)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (!bt_desc_present(d))
		bt_raise_error(cpu, X86_NP, BT_SEL_ERR(sel));
}

/* A call gate, opened and checked. */
struct bt_gate {
	uint16_t sel;
	uint64_t offset;
	int size; /* of what a call pushes: 2, 4, 8 */
	unsigned params;
	struct bt_desc code;
};

static void
bt_far_open_gate(struct bt_cpu *cpu, uint16_t gate_sel, const struct bt_desc *d, bool jump,
    struct bt_gate *g)
{
	unsigned dpl = bt_desc_dpl(d), code_dpl;
	bool conforming, bad;

	if (dpl < cpu->cpl || (gate_sel & 3u) > dpl)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(gate_sel));
	if (!bt_desc_present(d))
		bt_raise_error(cpu, X86_NP, BT_SEL_ERR(gate_sel));
	g->sel = (uint16_t)(d->lo >> 16);
	g->offset = (d->lo & 0xffff) | (d->hi & 0xffff0000);
	g->params = d->hi & 0x1f;
	g->size = bt_desc_type(d) == X86_SYS_CALL16 ? 2 : 4;
	if (g->size == 2)
		g->offset &= 0xffff;
	if (cpu->lma) {
		uint64_t hi;

		/* A 16-byte gate; the type field of its upper half must be 0 (SDM 3, 5.8.3.1). */
		if (!bt_desc_load(cpu, gate_sel, 16, &g->code))
			bt_raise_error(cpu, X86_GP, BT_SEL_ERR(gate_sel));
		hi = bt_sys_load(cpu, d->la + 8, 8);
		if (hi >> 40 & 0x1f)
			bt_raise_error(cpu, X86_GP, BT_SEL_ERR(gate_sel));
		g->offset |= hi << 32;
		g->size = 8;
		g->params = 0;
	}
	if (BT_SEL_NULL(g->sel))
		bt_raise_error(cpu, X86_GP, 0);
	if (!bt_desc_load(cpu, g->sel, 8, &g->code) || bt_desc_is_system(&g->code) ||
	    !bt_desc_is_code(&g->code))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(g->sel));
	conforming = bt_desc_type(&g->code) & X86_SEG_EC;
	code_dpl = bt_desc_dpl(&g->code);
	bad = code_dpl > cpu->cpl || (jump && !conforming && code_dpl != cpu->cpl);
	if (cpu->lma && (bt_desc_attr(&g->code) & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
		bad = true;
	if (bad)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(g->sel));
	if (!bt_desc_present(&g->code))
		bt_raise_error(cpu, X86_NP, BT_SEL_ERR(g->sel));
}

/* A task gate or a TSS descriptor as the target: switches tasks. */
static void
bt_far_task(struct bt_cpu *cpu, uint16_t sel, const struct bt_desc *d, enum bt_task_source source)
{
	unsigned dpl = bt_desc_dpl(d);

	if (dpl < cpu->cpl || (sel & 3u) > dpl)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (bt_desc_type(d) == X86_SYS_TASK_GATE) {
		if (!bt_desc_present(d))
			bt_raise_error(cpu, X86_NP, BT_SEL_ERR(sel));
		sel = (uint16_t)(d->lo >> 16);
	}
	bt_task_switch(cpu, sel, source, 0, NULL);
}

static bool
bt_far_is_task(const struct bt_desc *d)
{
	unsigned type = bt_desc_type(d);

	return type == X86_SYS_TASK_GATE || type == X86_SYS_TSS16 || type == X86_SYS_TSS32 ||
	    type == X86_SYS_TSS16_BUSY || type == X86_SYS_TSS32_BUSY;
}

/* Whether a system descriptor is a call gate in the current mode; #GP(sel) when it is nothing a far
 * transfer may name. */
static bool
bt_far_is_gate(struct bt_cpu *cpu, uint16_t sel, const struct bt_desc *d)
{
	unsigned type = bt_desc_type(d);

	if (type == X86_SYS_CALL32 || (type == X86_SYS_CALL16 && !cpu->lma))
		return true;
	if (cpu->lma || !bt_far_is_task(d))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	return false;
}

static void
bt_far_fetch_target(struct bt_cpu *cpu, uint16_t sel, struct bt_desc *d)
{
	if (BT_SEL_NULL(sel))
		bt_raise_error(cpu, X86_GP, 0);
	if (!bt_desc_load(cpu, sel, 8, d) || (!bt_desc_is_system(d) && !bt_desc_is_code(d)))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
}

static void
bt_far_enter_real(struct bt_cpu *cpu, uint16_t sel, uint64_t offset)
{
	bt_seg_set_real(cpu, X86_CS, sel);
	cpu->r[BT_REG_RIP] = offset;
	bt_mode_update(cpu);
}

static void
bt_far_check_real(struct bt_cpu *cpu, uint64_t offset)
{
	if (offset > (cpu->vm86 ? 0xffff : cpu->seg[X86_CS].limit))
		bt_raise_error(cpu, X86_GP, 0);
}

static void
bt_far_jump(struct bt_cpu *cpu, uint16_t sel, uint64_t offset, int osize)
{
	struct bt_desc d;
	struct bt_gate g;

	offset &= bt_far_mask(osize);
	if (!cpu->pe || cpu->vm86) {
		bt_far_check_real(cpu, offset);
		bt_far_enter_real(cpu, sel, offset);
		return;
	}
	bt_far_fetch_target(cpu, sel, &d);
	if (!bt_desc_is_system(&d)) {
		bt_far_check_code(cpu, sel, &d);
		bt_check_code_offset(cpu, &d, offset);
		bt_desc_set_accessed(cpu, &d);
		bt_enter_code(cpu, sel, &d, cpu->cpl, offset);
		return;
	}
	if (!bt_far_is_gate(cpu, sel, &d)) {
		bt_far_task(cpu, sel, &d, BT_TASK_JMP);
		return;
	}
	bt_far_open_gate(cpu, sel, &d, true, &g);
	bt_check_code_offset(cpu, &g.code, g.offset);
	bt_desc_set_accessed(cpu, &g.code);
	bt_enter_code(cpu, g.sel, &g.code, cpu->cpl, g.offset);
}

/* A call through a gate to a more privileged segment: a new stack, the parameters copied. */
static void
bt_far_call_inner(struct bt_cpu *cpu, struct bt_gate *g)
{
	int cpl = (int)bt_desc_dpl(&g->code);
	uint64_t old_sp = cpu->r[X86_RSP] & (cpu->sp_size == 8 ? ~0ull :
		cpu->sp_size == 4			       ? 0xffffffffull :
								 0xffffull);
	uint64_t params[31];
	struct bt_stack st;
	struct bt_desc ss;

	bt_stack_inner(cpu, cpl, 0, 0, &st, &ss);
	for (unsigned i = 0; i < g->params; i++)
		params[i] = bt_load(cpu, X86_SS,
		    (old_sp + i * (unsigned)g->size) & (cpu->sp_size == 2 ? 0xffff : 0xffffffff),
		    g->size);
	bt_stack_push(cpu, &st, g->size, cpu->seg[X86_SS].selector);
	bt_stack_push(cpu, &st, g->size, old_sp);
	for (unsigned i = g->params; i-- > 0;)
		bt_stack_push(cpu, &st, g->size, params[i]);
	bt_stack_push(cpu, &st, g->size, cpu->seg[X86_CS].selector);
	bt_stack_push(cpu, &st, g->size, cpu->r[BT_REG_RIP]);
	bt_check_code_offset(cpu, &g->code, g->offset);
	bt_desc_set_accessed(cpu, &g->code);

	cpu->cpl = (uint8_t)cpl;
	if (cpu->lma)
		bt_seg_set_null(cpu, X86_SS, (uint16_t)cpl);
	else
		bt_seg_set(cpu, X86_SS, st.ss.selector, &ss);
	bt_stack_commit(cpu, &st);
	bt_enter_code(cpu, g->sel, &g->code, cpl, g->offset);
}

static void
bt_far_call_same(struct bt_cpu *cpu, uint16_t sel, struct bt_desc *d, uint64_t offset, int size)
{
	struct bt_stack st;

	bt_stack_current(cpu, &st);
	bt_stack_push(cpu, &st, size, cpu->seg[X86_CS].selector);
	bt_stack_push(cpu, &st, size, cpu->r[BT_REG_RIP]);
	bt_check_code_offset(cpu, d, offset);
	bt_desc_set_accessed(cpu, d);
	bt_stack_commit(cpu, &st);
	bt_enter_code(cpu, sel, d, cpu->cpl, offset);
}

static void
bt_far_call(struct bt_cpu *cpu, uint16_t sel, uint64_t offset, int osize)
{
	struct bt_stack st;
	struct bt_desc d;
	struct bt_gate g;

	offset &= bt_far_mask(osize);
	if (!cpu->pe || cpu->vm86) {
		bt_far_check_real(cpu, offset);
		bt_stack_current(cpu, &st);
		bt_stack_push(cpu, &st, osize, cpu->seg[X86_CS].selector);
		bt_stack_push(cpu, &st, osize, cpu->r[BT_REG_RIP]);
		bt_stack_commit(cpu, &st);
		bt_far_enter_real(cpu, sel, offset);
		return;
	}
	bt_far_fetch_target(cpu, sel, &d);
	if (!bt_desc_is_system(&d)) {
		bt_far_check_code(cpu, sel, &d);
		bt_far_call_same(cpu, sel, &d, offset, osize);
		return;
	}
	if (!bt_far_is_gate(cpu, sel, &d)) {
		bt_far_task(cpu, sel, &d, BT_TASK_CALL);
		return;
	}
	bt_far_open_gate(cpu, sel, &d, false, &g);
	if (!(bt_desc_type(&g.code) & X86_SEG_EC) && bt_desc_dpl(&g.code) < cpu->cpl)
		bt_far_call_inner(cpu, &g);
	else
		bt_far_call_same(cpu, g.sel, &g.code, g.offset, g.size);
}

/* --- Returns --- */

/* The code segment a return goes to: checked, error codes name sel. */
static void
bt_ret_check_code(struct bt_cpu *cpu, uint16_t sel, struct bt_desc *d)
{
	unsigned rpl = sel & 3;
	bool bad;

	if (BT_SEL_NULL(sel))
		bt_raise_error(cpu, X86_GP, 0);
	if (!bt_desc_load(cpu, sel, 8, d))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	bad = bt_desc_is_system(d) || !bt_desc_is_code(d) || rpl < cpu->cpl;
	if (bt_desc_type(d) & X86_SEG_EC)
		bad |= bt_desc_dpl(d) > rpl;
	else
		bad |= bt_desc_dpl(d) != rpl;
	bad |= cpu->lma &&
	    (bt_desc_attr(d) & (X86_SEG_L | X86_SEG_DB)) == (X86_SEG_L | X86_SEG_DB);
	if (bad)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (!bt_desc_present(d))
		bt_raise_error(cpu, X86_NP, BT_SEL_ERR(sel));
}

/* The stack segment a return to privilege rpl loads. False: a null one, allowed there. */
static bool
bt_ret_check_stack(struct bt_cpu *cpu, uint16_t sel, unsigned rpl, bool to64, struct bt_desc *d)
{
	if (BT_SEL_NULL(sel)) {
		if (!to64 || rpl == 3 || (sel & 3u) != rpl)
			bt_raise_error(cpu, X86_GP, 0);
		return false;
	}
	if (!bt_desc_load(cpu, sel, 8, d) || (sel & 3u) != rpl || bt_desc_is_system(d) ||
	    bt_desc_is_code(d) || !(bt_desc_type(d) & X86_SEG_RW) || bt_desc_dpl(d) != rpl)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (!bt_desc_present(d))
		bt_raise_error(cpu, X86_SSF, BT_SEL_ERR(sel));
	return true;
}

/* The width of the stack pointer that a return loads: the new stack segment's size. */
static void
bt_ret_set_sp(struct bt_cpu *cpu, uint64_t sp)
{
	struct bt_stack st;

	bt_stack_current(cpu, &st);
	st.sp = sp & st.mask;
	bt_stack_commit(cpu, &st);
}

/* Completes a return: CS:RIP, and SS:RSP when it goes outward or comes from 64-bit IRET. */
static void
bt_ret_enter(struct bt_cpu *cpu, uint16_t cs, struct bt_desc *code, uint64_t rip, bool has_ss,
    uint16_t ss, struct bt_desc *stack, bool ss_null)
{
	unsigned old_cpl = cpu->cpl, rpl = cs & 3;

	bt_desc_set_accessed(cpu, code);
	if (has_ss && !ss_null)
		bt_desc_set_accessed(cpu, stack);
	cpu->cpl = (uint8_t)rpl;
	if (has_ss && ss_null)
		bt_seg_set_null(cpu, X86_SS, ss);
	else if (has_ss)
		bt_seg_set(cpu, X86_SS, ss, stack);
	if (rpl > old_cpl)
		bt_seg_drop_inner(cpu);
	bt_enter_code(cpu, cs, code, (int)rpl, rip);
}

static void
bt_far_ret(struct bt_cpu *cpu, int osize, unsigned release)
{
	bool outer, to64, ss_null = false;
	uint64_t rip, sp = 0;
	uint16_t cs, ss = 0;
	struct bt_desc code, stack;
	struct bt_stack st;

	bt_stack_current(cpu, &st);
	rip = bt_stack_pop(cpu, &st, osize);
	cs = (uint16_t)bt_stack_pop(cpu, &st, osize);
	st.sp = (st.sp + release) & st.mask;
	if (!cpu->pe || cpu->vm86) {
		bt_far_check_real(cpu, rip);
		bt_stack_commit(cpu, &st);
		bt_far_enter_real(cpu, cs, rip);
		return;
	}
	bt_ret_check_code(cpu, cs, &code);
	to64 = cpu->lma && (bt_desc_attr(&code) & X86_SEG_L);
	outer = (cs & 3) > cpu->cpl;
	if (outer) {
		sp = bt_stack_pop(cpu, &st, osize);
		ss = (uint16_t)bt_stack_pop(cpu, &st, osize);
		ss_null = !bt_ret_check_stack(cpu, ss, cs & 3, to64, &stack);
	}
	bt_check_code_offset(cpu, &code, rip);
	if (!outer)
		bt_stack_commit(cpu, &st);
	bt_ret_enter(cpu, cs, &code, rip, outer, ss, &stack, ss_null);
	if (outer)
		bt_ret_set_sp(cpu, sp + release);
}

/* --- IRET --- */

/* EFLAGS bits that IRET and POPF may change at the given privilege. */
uint32_t
bt_eflags_writable(const struct bt_cpu *cpu, int cpl, int osize)
{
	uint32_t iopl = (cpu->eflags & X86_FL_IOPL) >> 12;
	uint32_t mask = X86_FL_ARITH | X86_FL_TF | X86_FL_DF | X86_FL_NT;

	if (osize > 2)
		mask |= X86_FL_RF | X86_FL_AC | X86_FL_ID;
	if ((uint32_t)cpl <= iopl)
		mask |= X86_FL_IF;
	if (cpl == 0)
		mask |= X86_FL_IOPL | (osize > 2 ? X86_FL_VIF | X86_FL_VIP : 0);
	return mask;
}

static void
bt_iret_real(struct bt_cpu *cpu, int osize)
{
	uint32_t flags, mask = bt_eflags_writable(cpu, cpu->vm86 ? 3 : 0, osize);
	struct bt_stack st;
	uint64_t rip;
	uint16_t cs;

	if (cpu->vm86 && (cpu->eflags & X86_FL_IOPL) != X86_FL_IOPL)
		bt_raise_error(cpu, X86_GP, 0);
	bt_stack_current(cpu, &st);
	rip = bt_stack_pop(cpu, &st, osize);
	cs = (uint16_t)bt_stack_pop(cpu, &st, osize);
	flags = (uint32_t)bt_stack_pop(cpu, &st, osize);
	bt_far_check_real(cpu, rip);
	bt_stack_commit(cpu, &st);
	bt_far_enter_real(cpu, cs, rip);
	/* VIF and VIP do not change here (SDM 2, IRET). */
	bt_eflags_write(cpu, flags, mask & ~(X86_FL_VIF | X86_FL_VIP));
}

/* From ring 0 back to virtual-8086 mode: the rest of the frame holds SP, SS, ES, DS, FS, GS. */
static void
bt_iret_to_vm86(struct bt_cpu *cpu, struct bt_stack *st, uint64_t rip, uint16_t cs, uint32_t flags)
{
	static const uint8_t order[] = { X86_SS, X86_ES, X86_DS, X86_FS, X86_GS };
	uint16_t sel[ARRAY_SIZE(order)];
	uint32_t esp = (uint32_t)bt_stack_pop(cpu, st, 4);

	for (size_t i = 0; i < ARRAY_SIZE(order); i++)
		sel[i] = (uint16_t)bt_stack_pop(cpu, st, 4);
	if (rip > 0xffff)
		bt_raise_error(cpu, X86_GP, 0);
	cpu->cpl = 3;
	bt_eflags_write(cpu, flags, bt_eflags_writable(cpu, 0, 4) | X86_FL_VM);
	for (size_t i = 0; i < ARRAY_SIZE(order); i++)
		bt_seg_set_real(cpu, order[i], sel[i]);
	cpu->r[X86_RSP] = esp;
	bt_far_enter_real(cpu, cs, rip);
}

static void
bt_iret_protected(struct bt_cpu *cpu, int osize)
{
	int old_cpl = cpu->cpl;
	bool has_ss, to64, ss_null = false;
	uint64_t rip, sp = 0;
	uint16_t cs, ss = 0;
	uint32_t flags, mask;
	struct bt_desc code, stack;
	struct bt_stack st;

	bt_stack_current(cpu, &st);
	rip = bt_stack_pop(cpu, &st, osize);
	cs = (uint16_t)bt_stack_pop(cpu, &st, osize);
	flags = (uint32_t)bt_stack_pop(cpu, &st, osize);
	if (!cpu->lma && osize == 4 && (flags & X86_FL_VM) && cpu->cpl == 0) {
		bt_iret_to_vm86(cpu, &st, rip, cs, flags);
		return;
	}
	bt_ret_check_code(cpu, cs, &code);
	to64 = cpu->lma && (bt_desc_attr(&code) & X86_SEG_L);
	/* 64-bit mode always pops a stack pointer (SDM 3, 6.14.3). */
	has_ss = (cs & 3) > cpu->cpl || cpu->code_size == 8;
	if (has_ss) {
		sp = bt_stack_pop(cpu, &st, osize);
		ss = (uint16_t)bt_stack_pop(cpu, &st, osize);
		ss_null = !bt_ret_check_stack(cpu, ss, cs & 3, to64, &stack);
	}
	bt_check_code_offset(cpu, &code, rip);
	mask = bt_eflags_writable(cpu, old_cpl, osize);
	if (!has_ss)
		bt_stack_commit(cpu, &st);
	bt_ret_enter(cpu, cs, &code, rip, has_ss, ss, &stack, ss_null);
	if (has_ss)
		bt_ret_set_sp(cpu, sp);
	bt_eflags_write(cpu, flags, mask);
}

static void
bt_sys_iret(struct bt_cpu *cpu, const struct bt_op *op)
{
	bool nested = cpu->pe && !cpu->vm86 && (cpu->eflags & X86_FL_NT);

	if (nested && cpu->lma)
		bt_raise_error(cpu, X86_GP, 0);
	if (nested) {
		/* Back to the task that this one's link field names. */
		uint16_t sel = (uint16_t)bt_sys_load(cpu, cpu->tr.base, 2);

		bt_task_switch(cpu, sel, BT_TASK_IRET, 0, NULL);
	} else if (!cpu->pe || cpu->vm86) {
		bt_iret_real(cpu, op->osize);
	} else {
		bt_iret_protected(cpu, op->osize);
	}
	if (cpu->eflags & X86_FL_RF)
		cpu->rf_rip = cpu->r[BT_REG_RIP];
	bt_nmi_unblock(cpu);
}

/* --- Handlers --- */

static void
bt_sys_jmp_far(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_far_jump(cpu, (uint16_t)(op->imm >> 32), (uint32_t)op->imm, op->osize);
}

static void
bt_sys_call_far(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_far_call(cpu, (uint16_t)(op->imm >> 32), (uint32_t)op->imm, op->osize);
}

/* m16:16, m16:32, m16:64: the offset first. */
static uint16_t
bt_far_load_pointer(struct bt_cpu *cpu, const struct bt_op *op, uint64_t *offset)
{
	uint64_t ea = bt_ea(cpu, op), mask = bt_far_mask(op->asize);

	*offset = bt_load(cpu, op->seg, ea, op->osize);
	return (uint16_t)bt_load(cpu, op->seg, (ea + op->osize) & mask, 2);
}

static void
bt_sys_jmp_far_mem(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t offset;
	uint16_t sel = bt_far_load_pointer(cpu, op, &offset);

	bt_far_jump(cpu, sel, offset, op->osize);
}

static void
bt_sys_call_far_mem(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t offset;
	uint16_t sel = bt_far_load_pointer(cpu, op, &offset);

	bt_far_call(cpu, sel, offset, op->osize);
}

static void
bt_sys_ret_far(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_far_ret(cpu, op->osize, (unsigned)(op->imm & 0xffff));
}

/* LES, LDS, LSS, LFS, LGS. */
static void
bt_sys_load_far(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t offset;
	uint16_t sel = bt_far_load_pointer(cpu, op, &offset);

	bt_seg_load(cpu, op->x, sel);
	bt_sys_reg_write(cpu, op->reg, op->osize, offset);
}

void
bt_sys_far_lower(const struct bt_insn *in, struct bt_op *op)
{
	bool mem = in->form != BT_FORM_FAR;

	op->flags |= BT_OP_END;
	switch (in->id) {
	case BT_ID_JMP_FAR: op->fn = mem ? bt_sys_jmp_far_mem : bt_sys_jmp_far; break;
	case BT_ID_CALL_FAR: op->fn = mem ? bt_sys_call_far_mem : bt_sys_call_far; break;
	case BT_ID_RET_FAR: op->fn = bt_sys_ret_far; break;
	case BT_ID_IRET: op->fn = bt_sys_iret; break;
	default: op->fn = bt_sys_load_far; break;
	}
	if (in->form == BT_FORM_FAR)
		op->imm = (int64_t)((uint64_t)in->imm2 << 32 | (uint32_t)in->imm);
	op->x = in->sreg;
}
