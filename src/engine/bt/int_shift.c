/*
 * Shifts and rotates: ROL ROR RCL RCR SHL SHR SAR, SHLD SHRD, and BMI2's flagless ones.
 *
 * A count of 0 (after masking) leaves the flags alone. Counts are masked by the processor itself;
 * undefined flags are whatever it makes of them.
 */
#include "engine/bt/int.h"

#define BT_SHIFT(name, insn, size, bits, sfx, type, con)                                           \
	static inline __attribute__((always_inline)) void bt_shift_##name##_##bits(                \
	    struct bt_cpu *cpu, void *p, uint64_t count)                                           \
	{                                                                                          \
		bt_u##bits *m = p;                                                                 \
		type d = *m;                                                                       \
		uint32_t fl;                                                                       \
                                                                                                   \
		if ((count & ((size) == 8 ? 63 : 31)) == 0)                                        \
			return;                                                                    \
		__asm__(BT_ASM_LOAD_FL insn sfx " %%cl, %[d]" BT_ASM_FLAGS                         \
			: [d] "+" con(d), "=&a"(fl)                                                \
			: "c"((uint8_t)count), [f] con((uint32_t)cpu->fl)                          \
			: "cc");                                                                   \
		cpu->fl = (uint16_t)fl;                                                            \
		*m = d;                                                                            \
	}                                                                                          \
	static void bt_int_##name##_ri_##bits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		type v = bt_get_##bits(cpu, op->rm);                                               \
                                                                                                   \
		bt_shift_##name##_##bits(cpu, &v, (uint64_t)op->imm);                              \
		bt_set_##bits(cpu, op->rm, v);                                                     \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_##name##_rc_##bits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		type v = bt_get_##bits(cpu, op->rm);                                               \
                                                                                                   \
		bt_shift_##name##_##bits(cpu, &v, cpu->r[X86_RCX]);                                \
		bt_set_##bits(cpu, op->rm, v);                                                     \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_RMW_OP(bt_int_##name##_mi_##bits, size, bt_shift_##name##_##bits, (uint64_t)op->imm)    \
	BT_RMW_OP(bt_int_##name##_mc_##bits, size, bt_shift_##name##_##bits, cpu->r[X86_RCX])
#define BT_ROL(size, bits, sfx, type, con) BT_SHIFT(rol, "rol", size, bits, sfx, type, con)
#define BT_ROR(size, bits, sfx, type, con) BT_SHIFT(ror, "ror", size, bits, sfx, type, con)
#define BT_RCL(size, bits, sfx, type, con) BT_SHIFT(rcl, "rcl", size, bits, sfx, type, con)
#define BT_RCR(size, bits, sfx, type, con) BT_SHIFT(rcr, "rcr", size, bits, sfx, type, con)
#define BT_SHL(size, bits, sfx, type, con) BT_SHIFT(shl, "shl", size, bits, sfx, type, con)
#define BT_SHR(size, bits, sfx, type, con) BT_SHIFT(shr, "shr", size, bits, sfx, type, con)
#define BT_SAR(size, bits, sfx, type, con) BT_SHIFT(sar, "sar", size, bits, sfx, type, con)
BT_SIZES(BT_ROL)
BT_SIZES(BT_ROR)
BT_SIZES(BT_RCL)
BT_SIZES(BT_RCR)
BT_SIZES(BT_SHL)
BT_SIZES(BT_SHR)
BT_SIZES(BT_SAR)

#define BT_SHIFT_ROW(name, bits)                                                                   \
	{                                                                                          \
		bt_int_##name##_ri_##bits, bt_int_##name##_rc_##bits, bt_int_##name##_mi_##bits,   \
		    bt_int_##name##_mc_##bits,                                                     \
	}
#define BT_SHIFT_TABLE(name)                                                                       \
	{                                                                                          \
		BT_SHIFT_ROW(name, 8), BT_SHIFT_ROW(name, 16), BT_SHIFT_ROW(name, 32),             \
		    BT_SHIFT_ROW(name, 64),                                                        \
	}
/* In the order of enum bt_id. */
static bt_fn *const bt_shift_table[7][4][4] = {
	BT_SHIFT_TABLE(rol),
	BT_SHIFT_TABLE(ror),
	BT_SHIFT_TABLE(rcl),
	BT_SHIFT_TABLE(rcr),
	BT_SHIFT_TABLE(shl),
	BT_SHIFT_TABLE(shr),
	BT_SHIFT_TABLE(sar),
};
static_assert(BT_ID_SAR - BT_ID_ROL == 6, "order of the table");

/* --- SHLD and SHRD: op->x tells whether the count is CL (1) or imm --- */

#define BT_SHD(name, insn, size, bits, sfx, type)                                                  \
	static void bt_shift_##name##_##bits(struct bt_cpu *cpu, void *p, uint64_t src)            \
	{                                                                                          \
		const struct bt_op *op = cpu->op;                                                  \
		uint8_t count = op->x ? (uint8_t)cpu->r[X86_RCX] : (uint8_t)op->imm;               \
		bt_u##bits *m = p;                                                                 \
		type d = *m;                                                                       \
		uint32_t fl;                                                                       \
                                                                                                   \
		if ((count & ((size) == 8 ? 63 : 31)) == 0)                                        \
			return;                                                                    \
		__asm__(BT_ASM_LOAD_FL insn sfx " %%cl, %[s], %[d]" BT_ASM_FLAGS                   \
			: [d] "+r"(d), "=&a"(fl)                                                   \
			: [s] "r"((type)src), "c"(count), [f] "r"((uint32_t)cpu->fl)               \
			: "cc");                                                                   \
		cpu->fl = (uint16_t)fl;                                                            \
		*m = d;                                                                            \
	}                                                                                          \
	static void bt_int_##name##_r_##bits(struct bt_cpu *cpu, const struct bt_op *op)           \
	{                                                                                          \
		uint64_t v = bt_get_##bits(cpu, op->rm);                                           \
                                                                                                   \
		bt_shift_##name##_##bits(cpu, &v, bt_get_##bits(cpu, op->reg));                    \
		bt_set_##bits(cpu, op->rm, (type)v);                                               \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_##name##_m_##bits(struct bt_cpu *cpu, const struct bt_op *op)           \
	{                                                                                          \
		bt_rmw_slow(cpu, op, size, bt_ea(cpu, op), bt_shift_##name##_##bits,               \
		    bt_get_##bits(cpu, op->reg));                                                  \
		bt_next(cpu, op);                                                                  \
	}
#define BT_SHLD(size, bits, sfx, type, con) BT_SHD(shld, "shld", size, bits, sfx, type)
#define BT_SHRD(size, bits, sfx, type, con) BT_SHD(shrd, "shrd", size, bits, sfx, type)
BT_SIZES_WLQ(BT_SHLD)
BT_SIZES_WLQ(BT_SHRD)
static bt_fn *const bt_shd_table[2][3][2] = {
	{ { bt_int_shld_r_16, bt_int_shld_m_16 }, { bt_int_shld_r_32, bt_int_shld_m_32 },
	    { bt_int_shld_r_64, bt_int_shld_m_64 } },
	{ { bt_int_shrd_r_16, bt_int_shrd_m_16 }, { bt_int_shrd_r_32, bt_int_shrd_m_32 },
	    { bt_int_shrd_r_64, bt_int_shrd_m_64 } },
};

/* --- RORX SARX SHLX SHRX: no flags. The count: op->imm or register op->x --- */

static uint64_t
bt_shiftx(int id, uint64_t v, unsigned count, int size)
{
	count &= (unsigned)size * 8 - 1;
	if (size == 4) {
		uint32_t w = (uint32_t)v;

		switch (id) {
		case BT_ID_RORX: return count ? w >> count | w << (32 - count) : w;
		case BT_ID_SARX: return (uint32_t)((int32_t)w >> count);
		case BT_ID_SHLX: return w << count;
		default: return w >> count;
		}
	}
	switch (id) {
	case BT_ID_RORX: return count ? v >> count | v << (64 - count) : v;
	case BT_ID_SARX: return (uint64_t)((int64_t)v >> count);
	case BT_ID_SHLX: return v << count;
	default: return v >> count;
	}
}

#define BT_SHIFTX(name, id)                                                                        \
	static void bt_int_##name##_r(struct bt_cpu *cpu, const struct bt_op *op)                  \
	{                                                                                          \
		uint64_t c = id == BT_ID_RORX ? (uint64_t)op->imm : *bt_reg64(cpu, op->x);         \
                                                                                                   \
		bt_set(cpu, op->reg, op->osize,                                                    \
		    bt_shiftx(id, *bt_reg64(cpu, op->rm), (unsigned)c, op->osize));                \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_##name##_m(struct bt_cpu *cpu, const struct bt_op *op)                  \
	{                                                                                          \
		uint64_t v = bt_load_rm(cpu, op, op->osize);                                       \
		uint64_t c = id == BT_ID_RORX ? (uint64_t)op->imm : *bt_reg64(cpu, op->x);         \
                                                                                                   \
		bt_set(cpu, op->reg, op->osize, bt_shiftx(id, v, (unsigned)c, op->osize));         \
		bt_next(cpu, op);                                                                  \
	}
BT_SHIFTX(rorx, BT_ID_RORX)
BT_SHIFTX(sarx, BT_ID_SARX)
BT_SHIFTX(shlx, BT_ID_SHLX)
BT_SHIFTX(shrx, BT_ID_SHRX)

bool
bt_int_shift_lower(const struct bt_insn *in, struct bt_op *op)
{
	bool mem = bt_int_is_mem(in);
	bool cl = in->form == BT_FORM_RM_CL || in->form == BT_FORM_RM_R_CL;

	if (in->id >= BT_ID_ROL && in->id <= BT_ID_SAR) {
		op->rm = bt_int_off(in, in->rm, in->size);
		/* The D0 and D1 forms shift by one and have no immediate. */
		if (in->form == BT_FORM_RM)
			op->imm = 1;
		op->fn = bt_shift_table[in->id - BT_ID_ROL][bt_size_index(in->size)][2 * mem + cl];
		return true;
	}
	op->rm = BT_OFF(in->rm);
	op->reg = BT_OFF(in->reg);
	switch (in->id) {
	case BT_ID_SHLD:
	case BT_ID_SHRD:
		op->x = cl;
		op->fn = bt_shd_table[in->id - BT_ID_SHLD][bt_size_index(in->osize) - 1][mem];
		return true;
	case BT_ID_RORX:
		if (in->vvvv != 0) /* reserved */
			return false;
		op->fn = mem ? bt_int_rorx_m : bt_int_rorx_r;
		break;
	case BT_ID_SARX: op->fn = mem ? bt_int_sarx_m : bt_int_sarx_r; break;
	case BT_ID_SHLX: op->fn = mem ? bt_int_shlx_m : bt_int_shlx_r; break;
	case BT_ID_SHRX: op->fn = mem ? bt_int_shrx_m : bt_int_shrx_r; break;
	default: return false;
	}
	op->x = BT_OFF(in->vvvv & 15);
	return true;
}
