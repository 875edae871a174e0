/*
 * What the files of integer instructions (int_*.c) share.
 *
 * Arithmetic is done by the host's own instruction, followed by LAHF and SETO into cpu->fl, so results and
 * flags, undefined ones included, are the processor's. Handlers are made by macros for each operand size
 * and form, so that a handler decides nothing at run time.
 */
#ifndef BT_INT_H
#define BT_INT_H

#include "engine/bt/mem.h"

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

/* The end of every flag-setting asm: AX as struct bt_cpu.fl has it. */
#define BT_ASM_FLAGS "\n\tlahf\n\tseto %%al"
/* Its beginning where carry goes in: [f] holds cpu->fl. */
#define BT_ASM_CARRY "btl $8, %k[f]\n\t"

/* Its beginning where flags must come out as they went in unless the instruction sets them: ADD makes OF of
 * fl's bit 0, SAHF the rest of its upper byte. */
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

/* An operation on a memory operand in place; p is host memory of the operand's size. */
typedef void bt_rmw_fn(struct bt_cpu *cpu, void *p, uint64_t src);
/* The same through a window, for what the TLB does not answer. */
void bt_rmw_slow(struct bt_cpu *cpu, const struct bt_op *op, int size, uint64_t ea, bt_rmw_fn *fn,
    uint64_t src);

/* Read-modify-write of the operand at op->seg:ea. fn is inlined on the fast path. A local window here would
 * keep the compiler from turning the handler's bt_next() into a jump. */
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

static inline __attribute__((always_inline)) void
bt_rmw(struct bt_cpu *cpu, const struct bt_op *op, int size, bt_rmw_fn *fn, uint64_t src)
{
	bt_rmw_at(cpu, op, bt_ea(cpu, op), size, fn, src);
}

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
