/*
 * Lowering: a decoded instruction becomes an op with its operands in place and a handler picked.
 */
#include "engine/bt/bt.h"

enum bt_family { BT_FAMILY_INT, BT_FAMILY_SYS, BT_FAMILY_VEC };

static const uint8_t bt_lower_family[BT_ID_COUNT] = {
#define BT_LOWER_INT(name) BT_FAMILY_INT,
#define BT_LOWER_SYS(name) BT_FAMILY_SYS,
#define BT_LOWER_VEC(name) BT_FAMILY_VEC,
	BT_IDS(BT_LOWER_INT, BT_LOWER_SYS, BT_LOWER_VEC)
#undef BT_LOWER_INT
#undef BT_LOWER_SYS
#undef BT_LOWER_VEC
};

/* The size of the register that ModRM.reg names: with these the destination's, which is not the
 * source's. */
static int
bt_lower_reg_size(const struct bt_insn *in)
{
	switch (in->id) {
	case BT_ID_MOVZX:
	case BT_ID_MOVSX:
	case BT_ID_MOVSXD:
	case BT_ID_CRC32: return in->osize;
	default: return in->size;
	}
}

static uint8_t
bt_lower_off(const struct bt_insn *in, unsigned reg, int size)
{
	return size == 1 ? BT_OFF8(reg, in->rex != 0) : BT_OFF(reg);
}

void
bt_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op)
{
	bool mem = in->has_modrm && in->mod != 3;

	*op = (struct bt_op){
		.imm = in->imm,
		.disp = mem ? in->disp : 0,
		.reg = bt_lower_off(in, in->reg, bt_lower_reg_size(in)),
		.rm = bt_lower_off(in, in->rm, in->size),
		.base = BT_OFF(mem ? in->base : BT_REG_ZERO),
		.index = BT_OFF(mem ? in->index : BT_REG_ZERO),
		.scale = in->scale,
		.seg = in->seg,
		.len = in->len,
		.asize = in->asize,
		.osize = in->osize,
		.flags = (uint8_t)((in->lock ? BT_OP_LOCK : 0) | (in->rep ? BT_OP_REP : 0) |
		    (in->repne ? BT_OP_REPNE : 0)),
	};
	switch (bt_lower_family[in->id]) {
	case BT_FAMILY_INT: bt_int_lower(cpu, in, op); break;
	case BT_FAMILY_SYS: bt_sys_lower(cpu, in, op); break;
	default: bt_vec_lower(cpu, in, op); break;
	}
}
