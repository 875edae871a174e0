/*
 * PUSH POP PUSHA POPA ENTER LEAVE (SDM 2, each instruction; SDM 1, 6.5 for stack frames).
 */
#include "engine/bt/int.h"

#define BT_PUSH_POP(size, bits, sfx, type, con)                                                    \
	static void bt_int_push_r_##bits(struct bt_cpu *cpu, const struct bt_op *op)               \
	{                                                                                          \
		bt_push(cpu, size, bt_get_##bits(cpu, op->rm));                                    \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_push_m_##bits(struct bt_cpu *cpu, const struct bt_op *op)               \
	{                                                                                          \
		bt_push(cpu, size, bt_load_rm(cpu, op, size));                                     \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_push_i_##bits(struct bt_cpu *cpu, const struct bt_op *op)               \
	{                                                                                          \
		bt_push(cpu, size, (type)op->imm);                                                 \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_pop_r_##bits(struct bt_cpu *cpu, const struct bt_op *op)                \
	{                                                                                          \
		type v = (type)bt_pop(cpu, size);                                                  \
                                                                                                   \
		bt_set_##bits(cpu, op->rm, v);                                                     \
		bt_next(cpu, op);                                                                  \
	}
BT_SIZES_WLQ(BT_PUSH_POP)

static bt_fn *const bt_push_pop_table[3][4] = {
	{ bt_int_push_r_16, bt_int_push_m_16, bt_int_push_i_16, bt_int_pop_r_16 },
	{ bt_int_push_r_32, bt_int_push_m_32, bt_int_push_i_32, bt_int_pop_r_32 },
	{ bt_int_push_r_64, bt_int_push_m_64, bt_int_push_i_64, bt_int_pop_r_64 },
};

static uint64_t
bt_stack_wrap(const struct bt_cpu *cpu, uint64_t sp)
{
	return cpu->sp_size == 8 ? sp : cpu->sp_size == 4 ? (uint32_t)sp : (uint16_t)sp;
}

static void
bt_int_leave(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t sp = bt_stack_wrap(cpu, cpu->r[X86_RBP]);
	uint64_t bp = bt_load(cpu, X86_SS, sp, op->osize);

	bt_sp_set(cpu, bt_stack_wrap(cpu, sp + op->osize));
	bt_set(cpu, BT_OFF(X86_RBP), op->osize, bp);
	bt_next(cpu, op);
}

/* In 64-bit mode the stack is flat: without a call where the TLB answers. */

#define BT_PUSH_64(name, val)                                                                      \
	static void bt_int_push_##name##_flat(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		uint64_t sp = cpu->r[X86_RSP] - 8;                                                 \
		void *p = bt_hit_64(cpu, sp, 8, BT_WRITE);                                         \
                                                                                                   \
		if (unlikely(p == NULL)) {                                                         \
			bt_int_push_##name##_64(cpu, op);                                          \
			return;                                                                    \
		}                                                                                  \
		bt_host_store((uintptr_t)p, 8, val);                                               \
		cpu->r[X86_RSP] = sp;                                                              \
		bt_next(cpu, op);                                                                  \
	}
BT_PUSH_64(r, bt_get_64(cpu, op->rm))
BT_PUSH_64(i, (uint64_t)op->imm)

static void
bt_int_pop_flat(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t sp = cpu->r[X86_RSP];
	void *p = bt_hit_64(cpu, sp, 8, BT_READ);

	if (unlikely(p == NULL)) {
		bt_int_pop_r_64(cpu, op);
		return;
	}
	cpu->r[X86_RSP] = sp + 8;
	bt_set_64(cpu, op->rm, bt_host_load((uintptr_t)p, 8));
	bt_next(cpu, op);
}

static void
bt_int_leave_flat(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t sp = cpu->r[X86_RBP];
	void *p = bt_hit_64(cpu, sp, 8, BT_READ);

	if (unlikely(p == NULL)) {
		bt_int_leave(cpu, op);
		return;
	}
	cpu->r[X86_RSP] = sp + 8;
	cpu->r[X86_RBP] = bt_host_load((uintptr_t)p, 8);
	bt_next(cpu, op);
}

/* POP to memory: an address based on RSP is computed after RSP has moved (SDM 2, POP). */
static void
bt_int_pop_m(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t val = bt_load(cpu, X86_SS, bt_sp(cpu, 0), op->osize);
	uint64_t old = cpu->r[X86_RSP], new, ea;

	bt_sp_set(cpu, bt_sp(cpu, op->osize));
	new = cpu->r[X86_RSP];
	ea = bt_ea(cpu, op);
	/* If the store faults, RSP must be as it was. */
	cpu->r[X86_RSP] = old;
	bt_store(cpu, op->seg, ea, op->osize, val);
	cpu->r[X86_RSP] = new;
	bt_next(cpu, op);
}

static void
bt_int_pusha(struct bt_cpu *cpu, const struct bt_op *op)
{
	int size = op->osize;

	/* All eight slots are checked first, so that a fault leaves nothing half-way. */
	bt_probe(cpu, X86_SS, bt_sp(cpu, -8 * size), size, BT_WRITE);
	for (int i = 0; i < 8; i++)
		bt_store(cpu, X86_SS, bt_sp(cpu, -(i + 1) * size), size,
		    bt_get(cpu, BT_OFF(i), size));
	bt_sp_set(cpu, bt_sp(cpu, -8 * size));
	bt_next(cpu, op);
}

static void
bt_int_popa(struct bt_cpu *cpu, const struct bt_op *op)
{
	int size = op->osize;
	uint64_t v[8];

	for (int i = 0; i < 8; i++)
		v[i] = bt_load(cpu, X86_SS, bt_sp(cpu, i * size), size);
	bt_sp_set(cpu, bt_sp(cpu, 8 * size));
	for (int i = 0; i < 8; i++) {
		if (7 - i != X86_RSP)
			bt_set(cpu, BT_OFF(7 - i), size, v[i]);
	}
	bt_next(cpu, op);
}

/* op->imm: bytes of locals; op->x: nesting level, 0 to 31. */
static void
bt_int_enter(struct bt_cpu *cpu, const struct bt_op *op)
{
	int size = op->osize;
	uint64_t sp = bt_sp(cpu, -size), bp = cpu->r[X86_RBP], frame = sp;

	bt_store(cpu, X86_SS, sp, size, bp);
	for (int level = 1; level < op->x; level++) {
		uint64_t v;

		bp = bt_stack_wrap(cpu, bp - (uint64_t)size);
		v = bt_load(cpu, X86_SS, bp, size);
		sp = bt_stack_wrap(cpu, sp - (uint64_t)size);
		bt_store(cpu, X86_SS, sp, size, v);
	}
	if (op->x > 0) {
		sp = bt_stack_wrap(cpu, sp - (uint64_t)size);
		bt_store(cpu, X86_SS, sp, size, frame);
	}
	sp = bt_stack_wrap(cpu, sp - (uint16_t)op->imm);
	/* The new top of the stack must be writable (SDM 2, ENTER). */
	bt_probe(cpu, X86_SS, sp, size, BT_WRITE);
	bt_set(cpu, BT_OFF(X86_RBP), size, frame);
	bt_sp_set(cpu, sp);
	bt_next(cpu, op);
}

bool
bt_int_stack_lower(const struct bt_insn *in, struct bt_op *op)
{
	bt_fn *const *row = bt_push_pop_table[bt_size_index(in->osize) - 1];
	bool mem = bt_int_is_mem(in);

	op->rm = BT_OFF(in->form == BT_FORM_R ? in->reg : in->rm);
	switch (in->id) {
	case BT_ID_PUSH:
		op->fn = row[in->form == BT_FORM_I ? 2 : mem];
		if (in->osize == 8 && !mem)
			op->fn = in->form == BT_FORM_I ? bt_int_push_i_flat : bt_int_push_r_flat;
		return true;
	case BT_ID_POP:
		op->fn = mem ? bt_int_pop_m : in->osize == 8 ? bt_int_pop_flat : row[3];
		return true;
	case BT_ID_PUSHA: op->fn = bt_int_pusha; return true;
	case BT_ID_POPA: op->fn = bt_int_popa; return true;
	case BT_ID_ENTER:
		op->fn = bt_int_enter;
		op->x = in->imm2 & 31;
		return true;
	case BT_ID_LEAVE: op->fn = in->osize == 8 ? bt_int_leave_flat : bt_int_leave; return true;
	default: return false;
	}
}
