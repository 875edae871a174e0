/*
 * Port I/O: IN, OUT, INS, OUTS and the permission map of the TSS (SDM 1, chapter 19).
 */
#include "engine/bt/exc.h"
#include "engine/bt/sys_ops.h"

bool
bt_io_allowed(struct bt_cpu *cpu, uint16_t port, int size)
{
	uint32_t iopl = (cpu->eflags & X86_FL_IOPL) >> 12;
	uint32_t base, bits;

	if (!cpu->pe || (!cpu->vm86 && cpu->cpl <= iopl))
		return true;
	/* The I/O map base is at 102 of a 32- or 64-bit TSS; 16-bit ones have no map. */
	if (!(cpu->tr.attr & X86_SEG_P) || !(cpu->tr.attr & 8) || cpu->tr.limit < 103)
		return false;
	base = (uint32_t)bt_sys_load(cpu, cpu->tr.base + 102, 2) + port / 8;
	if (base + 1 > cpu->tr.limit)
		return false;
	bits = (uint32_t)bt_sys_load(cpu, cpu->tr.base + base, 2) >> (port % 8);
	return (bits & (BIT(size) - 1)) == 0;
}

static void
bt_io_check(struct bt_cpu *cpu, uint16_t port, int size)
{
	if (!bt_io_allowed(cpu, port, size))
		bt_raise_error(cpu, X86_GP, 0);
}

/* op->x: the size; op->y: the port is in DX, else in imm. */
static void
bt_sys_in(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint16_t port = op->y ? (uint16_t)cpu->r[X86_RDX] : (uint8_t)op->imm;
	uint32_t val;

	bt_io_check(cpu, port, op->x);
	val = bt_pio_read(cpu, port, op->x);
	switch (op->x) {
	case 1: *bt_reg8(cpu, BT_OFF(X86_RAX)) = (uint8_t)val; break;
	case 2: *bt_reg16(cpu, BT_OFF(X86_RAX)) = (uint16_t)val; break;
	default: cpu->r[X86_RAX] = val; break;
	}
	bt_next(cpu, op);
}

static void
bt_sys_out(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint16_t port = op->y ? (uint16_t)cpu->r[X86_RDX] : (uint8_t)op->imm;
	uint32_t val = (uint32_t)cpu->r[X86_RAX];

	bt_io_check(cpu, port, op->x);
	bt_pio_write(cpu, port, op->x, op->x == 4 ? val : val & (BIT(8 * op->x) - 1));
	bt_next(cpu, op);
}

/* --- Strings --- */

static uint64_t
bt_io_mask(const struct bt_op *op)
{
	return op->asize == 8 ? ~0ull : op->asize == 4 ? 0xffffffffull : 0xffffull;
}

/* Advances RSI or RDI, and RCX under a REP prefix, in the address size. */
static void
bt_io_step(struct bt_cpu *cpu, const struct bt_op *op, int reg)
{
	int64_t step = cpu->eflags & X86_FL_DF ? -(int64_t)op->x : (int64_t)op->x;

	bt_sys_reg_write(cpu, BT_OFF(reg), op->asize, cpu->r[reg] + (uint64_t)step);
	if (op->flags & (BT_OP_REP | BT_OP_REPNE))
		bt_sys_reg_write(cpu, BT_OFF(X86_RCX), op->asize, cpu->r[X86_RCX] - 1);
}

/* After one element: whether to go on, having put RIP back when an interrupt wants in between. */
static bool
bt_io_more(struct bt_cpu *cpu, const struct bt_op *op)
{
	if (!(op->flags & (BT_OP_REP | BT_OP_REPNE)) || (cpu->r[X86_RCX] & bt_io_mask(op)) == 0)
		return false;
	if (atomic_load_explicit(&cpu->attn, memory_order_relaxed) == 0)
		return true;
	cpu->r[BT_REG_RIP] -= op->len;
	return false;
}

static bool
bt_io_none(struct bt_cpu *cpu, const struct bt_op *op)
{
	return (op->flags & (BT_OP_REP | BT_OP_REPNE)) &&
	    (cpu->r[X86_RCX] & bt_io_mask(op)) == 0;
}

static void
bt_sys_ins(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint16_t port = (uint16_t)cpu->r[X86_RDX];

	if (bt_io_none(cpu, op))
		return;
	bt_io_check(cpu, port, op->x);
	do {
		uint64_t ea = cpu->r[X86_RDI] & bt_io_mask(op);

		/* The port must not be read for a store that then faults. */
		bt_probe(cpu, X86_ES, ea, op->x, BT_WRITE);
		bt_store(cpu, X86_ES, ea, op->x, bt_pio_read(cpu, port, op->x));
		bt_io_step(cpu, op, X86_RDI);
	} while (bt_io_more(cpu, op));
}

static void
bt_sys_outs(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint16_t port = (uint16_t)cpu->r[X86_RDX];

	if (bt_io_none(cpu, op))
		return;
	bt_io_check(cpu, port, op->x);
	do {
		uint64_t ea = cpu->r[X86_RSI] & bt_io_mask(op);

		bt_pio_write(cpu, port, op->x, (uint32_t)bt_load(cpu, op->seg, ea, op->x));
		bt_io_step(cpu, op, X86_RSI);
	} while (bt_io_more(cpu, op));
}

void
bt_sys_io_lower(const struct bt_insn *in, struct bt_op *op)
{
	/* Port sizes: 8 is not one of them (REX.W changes nothing). */
	op->x = in->size == 8 ? 4 : in->size;
	op->y = in->form == BT_FORM_DX;
	switch (in->id) {
	case BT_ID_IN: op->fn = bt_sys_in; break;
	case BT_ID_OUT: op->fn = bt_sys_out; break;
	case BT_ID_INS:
		op->fn = bt_sys_ins;
		op->flags |= BT_OP_END;
		break;
	default:
		op->fn = bt_sys_outs;
		op->flags |= BT_OP_END;
		break;
	}
}
