/*
 * What the files of system instructions (sys_*.c) share among themselves.
 */
#ifndef BT_SYS_OPS_H
#define BT_SYS_OPS_H

#include "engine/bt/sys.h"

/* In op->y of instructions with a ModRM operand: it is a register. */
#define BT_SYS_RM_IS_REG 1

/* Each picks the handler for its file's instructions; op's operands are filled as lower.c does it. */
void bt_sys_ctl_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op);
void bt_sys_far_lower(const struct bt_insn *in, struct bt_op *op);
void bt_sys_fast_lower(const struct bt_insn *in, struct bt_op *op);
void bt_sys_flags_lower(const struct bt_insn *in, struct bt_op *op);
void bt_sys_io_lower(const struct bt_insn *in, struct bt_op *op);
void bt_sys_msr_lower(const struct bt_insn *in, struct bt_op *op);
void bt_sys_tab_lower(const struct bt_insn *in, struct bt_op *op);

/* EFLAGS bits that IRET and POPF may change at the given privilege. */
uint32_t bt_eflags_writable(const struct bt_cpu *cpu, int cpl, int osize);

/* #GP(0) unless at CPL 0. */
static inline void
bt_sys_need_cpl0(struct bt_cpu *cpu)
{
	if (unlikely(cpu->cpl != 0))
		bt_raise_error(cpu, X86_GP, 0);
}

/* Writes a general register: 32-bit writes clear the upper half, 16-bit ones keep the rest. */
static inline void
bt_sys_reg_write(struct bt_cpu *cpu, uint8_t off, int size, uint64_t val)
{
	if (size == 8)
		*bt_reg64(cpu, off) = val;
	else if (size == 4)
		*bt_reg64(cpu, off) = (uint32_t)val;
	else
		*bt_reg16(cpu, off) = (uint16_t)val;
}

/* The r/m operand as 16 bits. */
static inline uint16_t
bt_sys_rm16(struct bt_cpu *cpu, const struct bt_op *op)
{
	if (op->y == BT_SYS_RM_IS_REG)
		return *bt_reg16(cpu, op->rm);
	return (uint16_t)bt_load(cpu, op->seg, bt_ea(cpu, op), 2);
}

/* Stores a 16-bit system value in r/m: memory takes 16 bits, a register its operand size. */
static inline void
bt_sys_rm_store16(struct bt_cpu *cpu, const struct bt_op *op, uint64_t val)
{
	if (op->y == BT_SYS_RM_IS_REG)
		bt_sys_reg_write(cpu, op->rm, op->osize, val);
	else
		bt_store(cpu, op->seg, bt_ea(cpu, op), 2, val);
}

#endif
