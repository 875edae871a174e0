/*
 * Near control transfers: Jcc, JMP, CALL, RET, LOOP, JCXZ; and BOUND.
 *
 * SDM 2, each instruction. A target is checked before anything is pushed.
 */
#include "engine/bt/int.h"
#include "engine/bt/sys.h"

/* op->imm is the displacement; RIP already points behind the instruction. */

#define BT_JCC(cc)                                                                                 \
	static void bt_int_jcc_##cc(struct bt_cpu *cpu, const struct bt_op *op)                    \
	{                                                                                          \
		if (bt_cond(cpu, cc))                                                              \
			bt_jump(cpu, cpu->r[BT_REG_RIP] + (uint64_t)op->imm, op->osize);           \
	}
BT_CONDS(BT_JCC)
#define BT_JCC_ENTRY(cc) bt_int_jcc_##cc,
static bt_fn *const bt_jcc_table[16] = { BT_CONDS(BT_JCC_ENTRY) };

/* In 64-bit mode: without a call where the target is canonical however deep the paging is. */
static inline bool
bt_flow_is_plain(uint64_t target)
{
	return likely((int64_t)(target << 16) >> 16 == (int64_t)target);
}

static __attribute__((noinline, cold)) void
bt_flow_jump_slow(struct bt_cpu *cpu, uint64_t target)
{
	bt_jump(cpu, target, 8);
}

static inline __attribute__((always_inline)) void
bt_flow_jump_64(struct bt_cpu *cpu, uint64_t target)
{
	if (bt_flow_is_plain(target))
		cpu->r[BT_REG_RIP] = target;
	else
		bt_flow_jump_slow(cpu, target);
}

#define BT_JCC_64(cc)                                                                              \
	static void bt_int_jcc_64_##cc(struct bt_cpu *cpu, const struct bt_op *op)                 \
	{                                                                                          \
		if (bt_cond(cpu, cc))                                                              \
			bt_flow_jump_64(cpu, cpu->r[BT_REG_RIP] + (uint64_t)op->imm);              \
	}
BT_CONDS(BT_JCC_64)
#define BT_JCC_64_ENTRY(cc) bt_int_jcc_64_##cc,
static bt_fn *const bt_jcc_64_table[16] = { BT_CONDS(BT_JCC_64_ENTRY) };

static void
bt_int_jmp_64(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_flow_jump_64(cpu, cpu->r[BT_REG_RIP] + (uint64_t)op->imm);
}

static void
bt_int_jmp_r_64(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_flow_jump_64(cpu, *bt_reg64(cpu, op->rm));
}

static void
bt_int_jmp(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_jump(cpu, cpu->r[BT_REG_RIP] + (uint64_t)op->imm, op->osize);
}

static void
bt_int_jmp_r(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_jump(cpu, bt_get(cpu, op->rm, op->osize), op->osize);
}

static void
bt_int_jmp_m(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_jump(cpu, bt_load_rm(cpu, op, op->osize), op->osize);
}

/* An indirect call finds out that its target is no address only after the stack has been found
 * writable. */
static inline void
bt_int_call_to(struct bt_cpu *cpu, const struct bt_op *op, uint64_t target)
{
	if (unlikely(!bt_canonical(cpu, target)))
		bt_probe(cpu, X86_SS, bt_sp(cpu, -op->osize), op->osize, BT_WRITE);
	target = bt_jump_target(cpu, target, op->osize);
	bt_push(cpu, op->osize, cpu->r[BT_REG_RIP]);
	cpu->r[BT_REG_RIP] = target;
}

static void
bt_int_call(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_int_call_to(cpu, op, cpu->r[BT_REG_RIP] + (uint64_t)op->imm);
}

static void
bt_int_call_r(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_int_call_to(cpu, op, bt_get(cpu, op->rm, op->osize));
}

static void
bt_int_call_m(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_int_call_to(cpu, op, bt_load_rm(cpu, op, op->osize));
}

static void
bt_int_ret(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t target = bt_load(cpu, X86_SS, bt_sp(cpu, 0), op->osize);

	bt_jump(cpu, target, op->osize);
	bt_sp_set(cpu, bt_sp(cpu, op->osize + (uint16_t)op->imm));
}

/* CALL and RET in 64-bit mode: a flat stack too. */

/* False, with nothing done: the slow way. */
static inline __attribute__((always_inline)) bool
bt_flow_call_64(struct bt_cpu *cpu, uint64_t target)
{
	uint64_t sp = cpu->r[X86_RSP] - 8;
	void *p = bt_hit_64(cpu, sp, 8, BT_WRITE);

	if (unlikely(p == NULL || !bt_flow_is_plain(target)))
		return false;
	bt_host_store((uintptr_t)p, 8, cpu->r[BT_REG_RIP]);
	cpu->r[X86_RSP] = sp;
	cpu->r[BT_REG_RIP] = target;
	return true;
}

static void
bt_int_call_64(struct bt_cpu *cpu, const struct bt_op *op)
{
	if (!bt_flow_call_64(cpu, cpu->r[BT_REG_RIP] + (uint64_t)op->imm))
		bt_int_call(cpu, op);
}

static void
bt_int_call_r_64(struct bt_cpu *cpu, const struct bt_op *op)
{
	if (!bt_flow_call_64(cpu, *bt_reg64(cpu, op->rm)))
		bt_int_call_r(cpu, op);
}

static void
bt_int_call_m_64(struct bt_cpu *cpu, const struct bt_op *op)
{
	void *p = bt_hit(cpu, op, 8, BT_READ);

	if (unlikely(p == NULL) || !bt_flow_call_64(cpu, bt_host_load((uintptr_t)p, 8)))
		bt_int_call_m(cpu, op);
}

static void
bt_int_jmp_m_64(struct bt_cpu *cpu, const struct bt_op *op)
{
	void *p = bt_hit(cpu, op, 8, BT_READ);

	if (likely(p != NULL))
		bt_flow_jump_64(cpu, bt_host_load((uintptr_t)p, 8));
	else
		bt_int_jmp_m(cpu, op);
}

static void
bt_int_ret_64(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t sp = cpu->r[X86_RSP], target;
	void *p = bt_hit_64(cpu, sp, 8, BT_READ);

	if (unlikely(p == NULL)) {
		bt_int_ret(cpu, op);
		return;
	}
	target = bt_host_load((uintptr_t)p, 8);
	if (unlikely(!bt_flow_is_plain(target))) {
		bt_int_ret(cpu, op);
		return;
	}
	cpu->r[X86_RSP] = sp + 8;
	cpu->r[BT_REG_RIP] = target;
}

/* --- Loops: the counter is RCX in the address size --- */

static void
bt_int_loop(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t count = bt_get(cpu, BT_OFF(X86_RCX), op->asize) - 1;
	uint64_t target = cpu->r[BT_REG_RIP];
	bool zf = cpu->fl & BT_FL_ZF, go;

	if (op->asize != 8)
		count = op->asize == 4 ? (uint32_t)count : (uint16_t)count;
	/* op->x: LOOP 0, LOOPE 1, LOOPNE 2 */
	go = count != 0 && (op->x == 0 || zf == (op->x == 1));
	if (go)
		target = bt_jump_target(cpu, target + (uint64_t)op->imm, op->osize);
	bt_set(cpu, BT_OFF(X86_RCX), op->asize, count);
	cpu->r[BT_REG_RIP] = target;
}

static void
bt_int_jcxz(struct bt_cpu *cpu, const struct bt_op *op)
{
	if (bt_get(cpu, BT_OFF(X86_RCX), op->asize) == 0)
		bt_jump(cpu, cpu->r[BT_REG_RIP] + (uint64_t)op->imm, op->osize);
}

static void
bt_int_bound(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t ea = bt_ea(cpu, op), next = ea + op->osize;
	int32_t index, lower, upper;

	next = op->asize == 4 ? (uint32_t)next : (uint16_t)next;
	lower = (int32_t)bt_load(cpu, op->seg, ea, op->osize);
	upper = (int32_t)bt_load(cpu, op->seg, next, op->osize);
	index = (int32_t)bt_get(cpu, op->reg, op->osize);
	if (op->osize == 2) {
		lower = (int16_t)lower;
		upper = (int16_t)upper;
		index = (int16_t)index;
	}
	if (index < lower || index > upper)
		bt_raise(cpu, X86_BR);
	bt_next(cpu, op);
}

bool
bt_int_flow_lower(const struct bt_insn *in, struct bt_op *op)
{
	bool mem = bt_int_is_mem(in);

	op->rm = BT_OFF(in->rm);
	op->reg = BT_OFF(in->reg);
	if (in->id == BT_ID_BOUND) {
		op->fn = bt_int_bound;
		return mem;
	}
	op->flags |= BT_OP_END;
	switch (in->id) {
	case BT_ID_JCC:
		op->fn = in->osize == 8 ? bt_jcc_64_table[in->cc] : bt_jcc_table[in->cc];
		return true;
	case BT_ID_JMP: op->fn = in->osize == 8 ? bt_int_jmp_64 : bt_int_jmp; return true;
	case BT_ID_JMP_IND:
		if (in->osize == 8)
			op->fn = mem ? bt_int_jmp_m_64 : bt_int_jmp_r_64;
		else
			op->fn = mem ? bt_int_jmp_m : bt_int_jmp_r;
		return true;
	case BT_ID_CALL: op->fn = in->osize == 8 ? bt_int_call_64 : bt_int_call; return true;
	case BT_ID_CALL_IND:
		if (in->osize == 8)
			op->fn = mem ? bt_int_call_m_64 : bt_int_call_r_64;
		else
			op->fn = mem ? bt_int_call_m : bt_int_call_r;
		return true;
	case BT_ID_RET:
		op->fn = in->osize == 8 && in->imm == 0 ? bt_int_ret_64 : bt_int_ret;
		return true;
	case BT_ID_LOOP:
	case BT_ID_LOOPE:
	case BT_ID_LOOPNE:
		op->x = (uint8_t)(in->id - BT_ID_LOOP);
		op->fn = bt_int_loop;
		return true;
	case BT_ID_JCXZ: op->fn = bt_int_jcxz; return true;
	default: op->flags &= (uint8_t)~BT_OP_END; return false;
	}
}
