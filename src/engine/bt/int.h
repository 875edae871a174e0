/*
 * What the files of integer instructions (int_*.c) share.
 *
 * Arithmetic is done by the host's own instruction, followed by LAHF and SETO into cpu->fl, so
 * results and flags, undefined ones included, are the processor's. Handlers are made by macros for
 * each operand size and form, so that a handler decides nothing at run time.
 */
#ifndef BT_INT_H
#define BT_INT_H

#include "engine/bt/mem.h"

/* An operand in memory of any alignment, as bt_u16 to bt_u64. */
typedef uint8_t bt_u8;

/* X(bytes, bits, suffix, type, register constraint) for the four operand sizes. */
#define BT_SIZES(X)                                                                                \
	X(1, 8, "b", uint8_t, "q")                                                                 \
	X(2, 16, "w", uint16_t, "r")                                                               \
	X(4, 32, "l", uint32_t, "r")                                                               \
	X(8, 64, "q", uint64_t, "r")
/* Without bytes, for instructions that have no byte form. */
#define BT_SIZES_WLQ(X)                                                                            \
	X(2, 16, "w", uint16_t, "r")                                                               \
	X(4, 32, "l", uint32_t, "r")                                                               \
	X(8, 64, "q", uint64_t, "r")

/* X(cc) for the sixteen conditions. */
#define BT_CONDS(X)                                                                                \
	X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

/* The end of every flag-setting asm: AX as struct bt_cpu.fl has it. */
#define BT_ASM_FLAGS "\n\tlahf\n\tseto %%al"
/* Its beginning where carry goes in: [f] holds cpu->fl. */
#define BT_ASM_CARRY "btl $8, %k[f]\n\t"

/* Its beginning where flags must come out as they went in unless the instruction sets them: ADD
 * makes OF of fl's bit 0, SAHF the rest of its upper byte. */
#define BT_ASM_LOAD_FL "movl %k[f], %%eax\n\taddb $0x7f, %%al\n\tsahf\n\t"

/* 0 to 3 for 1, 2, 4, 8 bytes: the index into tables of handlers. */
static inline int
bt_size_index(int size)
{
	return size == 1 ? 0 : size == 2 ? 1 : size == 4 ? 2 : 3;
}

static inline uint8_t
bt_get_8(struct bt_cpu *cpu, uint8_t off)
{
	return *bt_reg8(cpu, off);
}

static inline uint16_t
bt_get_16(struct bt_cpu *cpu, uint8_t off)
{
	return *bt_reg16(cpu, off);
}

static inline uint32_t
bt_get_32(struct bt_cpu *cpu, uint8_t off)
{
	return *bt_reg32(cpu, off);
}

static inline uint64_t
bt_get_64(struct bt_cpu *cpu, uint8_t off)
{
	return *bt_reg64(cpu, off);
}

static inline void
bt_set_8(struct bt_cpu *cpu, uint8_t off, uint8_t v)
{
	*bt_reg8(cpu, off) = v;
}

static inline void
bt_set_16(struct bt_cpu *cpu, uint8_t off, uint16_t v)
{
	*bt_reg16(cpu, off) = v;
}

/* A 32-bit result clears the upper half (SDM 1, 3.4.1.1). */
static inline void
bt_set_32(struct bt_cpu *cpu, uint8_t off, uint32_t v)
{
	*bt_reg64(cpu, off) = v;
}

static inline void
bt_set_64(struct bt_cpu *cpu, uint8_t off, uint64_t v)
{
	*bt_reg64(cpu, off) = v;
}

/* The same with the size as a value. */
static inline uint64_t
bt_get(struct bt_cpu *cpu, uint8_t off, int size)
{
	switch (size) {
	case 1: return bt_get_8(cpu, off);
	case 2: return bt_get_16(cpu, off);
	case 4: return bt_get_32(cpu, off);
	default: return bt_get_64(cpu, off);
	}
}

static inline void
bt_set(struct bt_cpu *cpu, uint8_t off, int size, uint64_t v)
{
	switch (size) {
	case 1: bt_set_8(cpu, off, (uint8_t)v); break;
	case 2: bt_set_16(cpu, off, (uint16_t)v); break;
	case 4: bt_set_32(cpu, off, (uint32_t)v); break;
	default: bt_set_64(cpu, off, v); break;
	}
}

/* op's memory operand, loaded. */
static inline __attribute__((always_inline)) uint64_t
bt_load_rm(struct bt_cpu *cpu, const struct bt_op *op, int size)
{
	return bt_load(cpu, op->seg, bt_ea(cpu, op), size);
}

/* --- Memory operands without a call --- */

/*
 * A handler that may call something needs a stack frame on its fast path too. So handlers with a
 * memory operand come in two: fn goes on only if the TLB answers, else it jumps to fn_slow, which
 * does the whole instruction by mem.h's accessors. A third, fn_flat, is for what nearly all of
 * 64-bit code does: no segment base and a 64-bit address (bt_int_is_flat()).
 */

/* The host's address of linear address la, NULL if the TLB has no answer. */
static inline __attribute__((always_inline)) void *
bt_hit_la(struct bt_cpu *cpu, uint64_t la, int size, int access)
{
	struct bt_tlb_entry *e = bt_tlb_entry(cpu, la);

	if (unlikely((access == BT_READ ? e->tag_r : e->tag_w) != bt_tlb_key(cpu, la, size)))
		return NULL;
	return (void *)(la + e->addend);
}

/* Of op's memory operand. */
static inline __attribute__((always_inline)) void *
bt_hit(struct bt_cpu *cpu, const struct bt_op *op, int size, int access)
{
	if (unlikely((cpu->seg_checks >> op->seg) & 1))
		return NULL;
	return bt_hit_la(cpu, (bt_ea(cpu, op) + cpu->sbase[op->seg]) & cpu->la_mask, size, access);
}

/* Of a flat address in 64-bit mode, where seg_checks can only mean alignment checks. */
static inline __attribute__((always_inline)) void *
bt_hit_64(struct bt_cpu *cpu, uint64_t ea, int size, int access)
{
	if (unlikely(cpu->seg_checks != 0))
		return NULL;
	return bt_hit_la(cpu, ea, size, access);
}

static inline __attribute__((always_inline)) void *
bt_hit_flat(struct bt_cpu *cpu, const struct bt_op *op, int size, int access)
{
	uint64_t ea = *bt_reg64(cpu, op->base) + (*bt_reg64(cpu, op->index) << op->scale) +
	    (uint64_t)(int64_t)op->disp;

	return bt_hit_64(cpu, ea, size, access);
}

/* bt_load_rm() and a store of val, not inlined: for the slow twins, to keep them small. */
uint64_t bt_load_rm_slow(struct bt_cpu *cpu, const struct bt_op *op, int size);
void bt_store_rm_slow(struct bt_cpu *cpu, const struct bt_op *op, int size, uint64_t val);

static inline bool
bt_int_is_flat(const struct bt_insn *in)
{
	return in->mode == 8 && in->asize == 8 && in->seg != X86_FS && in->seg != X86_GS;
}

/* Handlers that load: what stands for "..." finds the operand in v. */
#define BT_LOAD_FAST(fn, hit, size, type)                                                          \
	{                                                                                          \
		void *p = hit(cpu, op, size, BT_READ);                                             \
                                                                                                   \
		if (unlikely(p == NULL)) {                                                         \
			fn##_slow(cpu, op);                                                        \
			return;                                                                    \
		}                                                                                  \
		fn##_do(cpu, op, (type)bt_host_load((uintptr_t)p, size));                          \
		bt_next(cpu, op);                                                                  \
	}
#define BT_LOAD_OP(fn, size, type, ...)                                                            \
	static inline __attribute__((always_inline)) void fn##_do(struct bt_cpu *cpu,              \
	    const struct bt_op *op, type v)                                                        \
	{                                                                                          \
		__VA_ARGS__;                                                                       \
	}                                                                                          \
	static __attribute__((noinline, cold)) void fn##_slow(struct bt_cpu *cpu,                  \
	    const struct bt_op *op)                                                                \
	{                                                                                          \
		fn##_do(cpu, op, (type)bt_load_rm_slow(cpu, op, size));                            \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void fn(struct bt_cpu *cpu, const struct bt_op *op)                                 \
	    BT_LOAD_FAST(fn, bt_hit, size, type)
#define BT_LOAD_OP_FLAT(fn, size, type, ...)                                                       \
	BT_LOAD_OP(fn, size, type, __VA_ARGS__)                                                    \
	static void fn##_flat(struct bt_cpu *cpu, const struct bt_op *op)                          \
	    BT_LOAD_FAST(fn, bt_hit_flat, size, type)

/* Handlers that store val. */
#define BT_STORE_FAST(fn, hit, size, val)                                                          \
	{                                                                                          \
		void *p = hit(cpu, op, size, BT_WRITE);                                            \
                                                                                                   \
		if (unlikely(p == NULL)) {                                                         \
			fn##_slow(cpu, op);                                                        \
			return;                                                                    \
		}                                                                                  \
		bt_host_store((uintptr_t)p, size, val);                                            \
		bt_next(cpu, op);                                                                  \
	}
#define BT_STORE_OP(fn, size, val)                                                                 \
	static __attribute__((noinline, cold)) void fn##_slow(struct bt_cpu *cpu,                  \
	    const struct bt_op *op)                                                                \
	{                                                                                          \
		bt_store_rm_slow(cpu, op, size, val);                                              \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void fn(struct bt_cpu *cpu, const struct bt_op *op)                                 \
	    BT_STORE_FAST(fn, bt_hit, size, val)
#define BT_STORE_OP_FLAT(fn, size, val)                                                            \
	BT_STORE_OP(fn, size, val)                                                                 \
	static void fn##_flat(struct bt_cpu *cpu, const struct bt_op *op)                          \
	    BT_STORE_FAST(fn, bt_hit_flat, size, val)

/* An operation on a memory operand in place; p is host memory of the operand's size. */
typedef void bt_rmw_fn(struct bt_cpu *cpu, void *p, uint64_t src);
/* The same through a window, for what the TLB does not answer. */
void bt_rmw_slow(struct bt_cpu *cpu, const struct bt_op *op, int size, uint64_t ea, bt_rmw_fn *fn,
    uint64_t src);
/* Of op's memory operand. */
void bt_rmw_rm_slow(struct bt_cpu *cpu, const struct bt_op *op, int size, bt_rmw_fn *fn,
    uint64_t src);

/* Read-modify-write of the operand at op->seg:ea, for rare instructions. */
static inline __attribute__((always_inline)) void
bt_rmw_at(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, int size, bt_rmw_fn *fn,
    uint64_t src)
{
	uint64_t la = bt_la(cpu, op->seg, ea, size, BT_WRITE);
	struct bt_tlb_entry *e = bt_tlb_entry(cpu, la);

	if (likely(e->tag_w == bt_tlb_key(cpu, la, size)))
		fn(cpu, (void *)(la + e->addend), src);
	else
		bt_rmw_slow(cpu, op, size, ea, fn, src);
}

/* Handlers that apply rmw, a bt_rmw_fn, to the operand and src. */
#define BT_RMW_FAST(fn, hit, size, rmw, src)                                                       \
	{                                                                                          \
		void *p = hit(cpu, op, size, BT_WRITE);                                            \
                                                                                                   \
		if (unlikely(p == NULL)) {                                                         \
			fn##_slow(cpu, op);                                                        \
			return;                                                                    \
		}                                                                                  \
		rmw(cpu, p, src);                                                                  \
		bt_next(cpu, op);                                                                  \
	}
#define BT_RMW_OP(fn, size, rmw, src)                                                              \
	static __attribute__((noinline, cold)) void fn##_slow(struct bt_cpu *cpu,                  \
	    const struct bt_op *op)                                                                \
	{                                                                                          \
		bt_rmw_rm_slow(cpu, op, size, rmw, src);                                           \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void fn(struct bt_cpu *cpu, const struct bt_op *op)                                 \
	    BT_RMW_FAST(fn, bt_hit, size, rmw, src)
#define BT_RMW_OP_FLAT(fn, size, rmw, src)                                                         \
	BT_RMW_OP(fn, size, rmw, src)                                                              \
	static void fn##_flat(struct bt_cpu *cpu, const struct bt_op *op)                          \
	    BT_RMW_FAST(fn, bt_hit_flat, size, rmw, src)

/* Byte offset of a register operand of the given size as the instruction encodes it. */
static inline uint8_t
bt_int_off(const struct bt_insn *in, unsigned reg, int size)
{
	return size == 1 ? BT_OFF8(reg, in->rex) : BT_OFF(reg);
}

static inline bool
bt_int_is_mem(const struct bt_insn *in)
{
	return in->has_modrm && in->mod != 3;
}

/* Each picks the handler for its file's instructions. False: not one of them, or undefined. */
bool bt_int_alu_lower(const struct bt_insn *in, struct bt_op *op);
bool bt_int_mov_lower(const struct bt_insn *in, struct bt_op *op);
bool bt_int_stack_lower(const struct bt_insn *in, struct bt_op *op);
bool bt_int_shift_lower(const struct bt_insn *in, struct bt_op *op);
bool bt_int_bit_lower(const struct bt_insn *in, struct bt_op *op);
bool bt_int_mul_lower(const struct bt_insn *in, struct bt_op *op);
bool bt_int_flow_lower(const struct bt_insn *in, struct bt_op *op);
bool bt_int_string_lower(const struct bt_insn *in, struct bt_op *op);
bool bt_int_atomic_lower(const struct bt_insn *in, struct bt_op *op);

#endif
