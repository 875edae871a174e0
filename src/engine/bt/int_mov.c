/*
 * Data movement: MOV and its kin, XCHG of registers, LEA, CMOVcc, SETcc, sign extension, flags in
 * AH, and the instructions that only touch one flag.
 */
#include "engine/bt/int.h"

#define BT_MOV(size, bits, sfx, type, con)                                                         \
	static void bt_int_mov_rr_##bits(struct bt_cpu *cpu, const struct bt_op *op)               \
	{                                                                                          \
		bt_set_##bits(cpu, op->reg, bt_get_##bits(cpu, op->rm));                           \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_LOAD_OP_FLAT(bt_int_mov_rm_##bits, size, type, bt_set_##bits(cpu, op->reg, v))          \
	static void bt_int_mov_ri_##bits(struct bt_cpu *cpu, const struct bt_op *op)               \
	{                                                                                          \
		bt_set_##bits(cpu, op->reg, (type)op->imm);                                        \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_STORE_OP_FLAT(bt_int_mov_mr_##bits, size, bt_get_##bits(cpu, op->reg))                  \
	BT_STORE_OP_FLAT(bt_int_mov_mi_##bits, size, (type)op->imm)                                \
	static void bt_int_mov_load_##bits(struct bt_cpu *cpu, const struct bt_op *op)             \
	{                                                                                          \
		bt_set_##bits(cpu, op->reg,                                                        \
		    (type)bt_load(cpu, op->seg, (uint64_t)op->imm, size));                         \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_mov_store_##bits(struct bt_cpu *cpu, const struct bt_op *op)            \
	{                                                                                          \
		bt_store(cpu, op->seg, (uint64_t)op->imm, size, bt_get_##bits(cpu, op->reg));      \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_xchg_rr_##bits(struct bt_cpu *cpu, const struct bt_op *op)              \
	{                                                                                          \
		type a = bt_get_##bits(cpu, op->reg), b = bt_get_##bits(cpu, op->rm);              \
                                                                                                   \
		bt_set_##bits(cpu, op->reg, b);                                                    \
		bt_set_##bits(cpu, op->rm, a);                                                     \
		bt_next(cpu, op);                                                                  \
	}
BT_SIZES(BT_MOV)

enum bt_mov_form { BT_MOV_RR, BT_MOV_RM, BT_MOV_RI, BT_MOV_MR, BT_MOV_MI, BT_MOV_LOAD, BT_MOV_STORE,
	BT_MOV_XCHG, BT_MOV_RM_FLAT, BT_MOV_MR_FLAT, BT_MOV_MI_FLAT, BT_MOV_FORMS };
#define BT_MOV_ROW(bits)                                                                           \
	{                                                                                          \
		bt_int_mov_rr_##bits, bt_int_mov_rm_##bits, bt_int_mov_ri_##bits,                  \
		    bt_int_mov_mr_##bits, bt_int_mov_mi_##bits, bt_int_mov_load_##bits,            \
		    bt_int_mov_store_##bits, bt_int_xchg_rr_##bits, bt_int_mov_rm_##bits##_flat,   \
		    bt_int_mov_mr_##bits##_flat, bt_int_mov_mi_##bits##_flat,                      \
	}
static bt_fn *const bt_mov_table[4][BT_MOV_FORMS] = { BT_MOV_ROW(8), BT_MOV_ROW(16), BT_MOV_ROW(32),
	BT_MOV_ROW(64) };

/* --- Extensions: op->osize bits from a smaller source --- */

#define BT_EXTEND(name, ssize, stype, dbits, dtype)                                                \
	static void bt_int_##name##_r_##dbits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		bt_set_##dbits(cpu, op->reg, (dtype)(stype)bt_get(cpu, op->rm, ssize));            \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_LOAD_OP_FLAT(bt_int_##name##_m_##dbits, ssize, stype,                                   \
	    bt_set_##dbits(cpu, op->reg, (dtype)v))
#define BT_EXTEND_ROW(name, dbits)                                                                 \
	{                                                                                          \
		bt_int_##name##_r_##dbits, bt_int_##name##_m_##dbits,                              \
		    bt_int_##name##_m_##dbits##_flat                                               \
	}
#define BT_EXTENDS(name, ssize, stype)                                                             \
	BT_EXTEND(name, ssize, stype, 16, uint16_t)                                                \
	BT_EXTEND(name, ssize, stype, 32, uint32_t)                                                \
	BT_EXTEND(name, ssize, stype, 64, uint64_t)                                                \
	static bt_fn *const bt_##name##_table[3][3] = {                                            \
		BT_EXTEND_ROW(name, 16),                                                           \
		BT_EXTEND_ROW(name, 32),                                                           \
		BT_EXTEND_ROW(name, 64),                                                           \
	};
BT_EXTENDS(movzb, 1, uint8_t)
BT_EXTENDS(movzw, 2, uint16_t)
BT_EXTENDS(movsb, 1, int8_t)
BT_EXTENDS(movsw, 2, int16_t)
BT_EXTENDS(movsl, 4, int32_t)

/* MOVBE: the bytes reversed. */
static uint64_t
bt_int_swap(uint64_t v, int size)
{
	return size == 2 ? __builtin_bswap16((uint16_t)v) :
	    size == 4	 ? __builtin_bswap32((uint32_t)v) :
			   __builtin_bswap64(v);
}

static void
bt_int_movbe_load(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_set(cpu, op->reg, op->osize, bt_int_swap(bt_load_rm(cpu, op, op->osize), op->osize));
	bt_next(cpu, op);
}

static void
bt_int_movbe_store(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_store(cpu, op->seg, bt_ea(cpu, op), op->osize,
	    bt_int_swap(bt_get(cpu, op->reg, op->osize), op->osize));
	bt_next(cpu, op);
}

/* BSWAP of a 16-bit register is undefined; processors clear it. */
static void
bt_int_bswap(struct bt_cpu *cpu, const struct bt_op *op)
{
	if (op->osize == 2)
		bt_set_16(cpu, op->reg, 0);
	else
		bt_set(cpu, op->reg, op->osize,
		    bt_int_swap(bt_get(cpu, op->reg, op->osize), op->osize));
	bt_next(cpu, op);
}

/* --- LEA --- */

static void
bt_int_lea_64(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_set_64(cpu, op->reg, bt_ea(cpu, op));
	bt_next(cpu, op);
}

static void
bt_int_lea_32(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_set_32(cpu, op->reg, (uint32_t)bt_ea(cpu, op));
	bt_next(cpu, op);
}

static void
bt_int_lea_16(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_set_16(cpu, op->reg, (uint16_t)bt_ea(cpu, op));
	bt_next(cpu, op);
}

/* --- Conditions. A handler per condition, so that the test is a constant. --- */


#define BT_SETCC(cc)                                                                               \
	static void bt_int_setcc_r_##cc(struct bt_cpu *cpu, const struct bt_op *op)                \
	{                                                                                          \
		bt_set_8(cpu, op->rm, bt_cond(cpu, cc));                                           \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_STORE_OP(bt_int_setcc_m_##cc, 1, bt_cond(cpu, cc))
BT_CONDS(BT_SETCC)
#define BT_SETCC_ROW(cc) { bt_int_setcc_r_##cc, bt_int_setcc_m_##cc },
static bt_fn *const bt_setcc_table[16][2] = { BT_CONDS(BT_SETCC_ROW) };

/* The source is read whatever the condition; a 32-bit destination is cleared above in any case. */
#define BT_CMOV_SIZE(cc, bits, size)                                                               \
	static void bt_int_cmov_r_##cc##_##bits(struct bt_cpu *cpu, const struct bt_op *op)        \
	{                                                                                          \
		uint##bits##_t v = bt_get_##bits(cpu, op->rm);                                     \
                                                                                                   \
		if (!bt_cond(cpu, cc))                                                             \
			v = bt_get_##bits(cpu, op->reg);                                           \
		bt_set_##bits(cpu, op->reg, v);                                                    \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_LOAD_OP(bt_int_cmov_m_##cc##_##bits, size, uint##bits##_t,                              \
	    if (!bt_cond(cpu, cc))                                                                 \
		v = bt_get_##bits(cpu, op->reg);                                                   \
	    bt_set_##bits(cpu, op->reg, v))
#define BT_CMOV(cc) BT_CMOV_SIZE(cc, 16, 2) BT_CMOV_SIZE(cc, 32, 4) BT_CMOV_SIZE(cc, 64, 8)
BT_CONDS(BT_CMOV)
#define BT_CMOV_ROW(cc)                                                                            \
	{                                                                                          \
		{ bt_int_cmov_r_##cc##_16, bt_int_cmov_m_##cc##_16 },                              \
		    { bt_int_cmov_r_##cc##_32, bt_int_cmov_m_##cc##_32 },                          \
		    { bt_int_cmov_r_##cc##_64, bt_int_cmov_m_##cc##_64 },                          \
	},
static bt_fn *const bt_cmov_table[16][3][2] = { BT_CONDS(BT_CMOV_ROW) };

/* --- CBW CWDE CDQE, CWD CDQ CQO --- */

static void
bt_int_cbw(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t a = cpu->r[X86_RAX];

	switch (op->osize) {
	case 2: bt_set_16(cpu, BT_OFF(X86_RAX), (uint16_t)(int8_t)a); break;
	case 4: bt_set_32(cpu, BT_OFF(X86_RAX), (uint32_t)(int16_t)a); break;
	default: cpu->r[X86_RAX] = (uint64_t)(int64_t)(int32_t)a; break;
	}
	bt_next(cpu, op);
}

static void
bt_int_cwd(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t a = cpu->r[X86_RAX];
	unsigned top = 8u * op->osize - 1;

	bt_set(cpu, BT_OFF(X86_RDX), op->osize, a >> top & 1 ? ~0ull : 0);
	bt_next(cpu, op);
}

/* --- Flags --- */

static void
bt_int_lahf(struct bt_cpu *cpu, const struct bt_op *op)
{
	/* AH's reserved bits: bit 1 set, 3 and 5 clear. */
	bt_set_8(cpu, BT_OFF8(4, 0), (uint8_t)((bt_flags_arith(cpu) & 0xff) | X86_FL_1));
	bt_next(cpu, op);
}

static void
bt_int_sahf(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint32_t of = bt_flags_arith(cpu) & X86_FL_OF;

	bt_flags_set_arith(cpu, of | bt_get_8(cpu, BT_OFF8(4, 0)));
	bt_next(cpu, op);
}

static void
bt_int_clc(struct bt_cpu *cpu, const struct bt_op *op)
{
	cpu->fl &= (uint16_t)~BT_FL_CF;
	bt_next(cpu, op);
}

static void
bt_int_stc(struct bt_cpu *cpu, const struct bt_op *op)
{
	cpu->fl |= BT_FL_CF;
	bt_next(cpu, op);
}

static void
bt_int_cmc(struct bt_cpu *cpu, const struct bt_op *op)
{
	cpu->fl ^= BT_FL_CF;
	bt_next(cpu, op);
}

static void
bt_int_cld(struct bt_cpu *cpu, const struct bt_op *op)
{
	cpu->eflags &= ~X86_FL_DF;
	bt_next(cpu, op);
}

static void
bt_int_std(struct bt_cpu *cpu, const struct bt_op *op)
{
	cpu->eflags |= X86_FL_DF;
	bt_next(cpu, op);
}

static void
bt_int_salc(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_set_8(cpu, BT_OFF(X86_RAX), cpu->fl & BT_FL_CF ? 0xff : 0);
	bt_next(cpu, op);
}

/* --- Others --- */

static void
bt_int_nop(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_next(cpu, op);
}

static void
bt_int_fence(struct bt_cpu *cpu, const struct bt_op *op)
{
	__asm__ volatile("mfence" : : : "memory");
	bt_next(cpu, op);
}

static void
bt_int_xlat(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t ea = cpu->r[X86_RBX] + (uint8_t)cpu->r[X86_RAX];

	if (op->asize != 8)
		ea = op->asize == 4 ? (uint32_t)ea : (uint16_t)ea;
	bt_set_8(cpu, BT_OFF(X86_RAX), (uint8_t)bt_load(cpu, op->seg, ea, 1));
	bt_next(cpu, op);
}

/* 64 bytes from memory to memory as one store: ES:reg from r/m, aligned (SDM 2, MOVDIR64B). */
static void
bt_int_movdir64b(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t src = bt_ea(cpu, op), dst = bt_get(cpu, op->reg, op->asize);
	struct bt_window from, to;
	uint64_t v[8];
	bt_u64 *p;

	bt_probe(cpu, op->seg, src, 64, BT_READ);
	if (dst & 63)
		bt_raise_error(cpu, X86_GP, 0);
	bt_probe(cpu, X86_ES, dst, 64, BT_WRITE);
	p = bt_window_begin(cpu, &from, op->seg, src, 64, BT_READ);
	for (int i = 0; i < 8; i++)
		v[i] = p[i];
	bt_window_end(cpu, &from);
	p = bt_window_begin(cpu, &to, X86_ES, dst, 64, BT_WRITE_ONLY);
	for (int i = 0; i < 8; i++)
		p[i] = v[i];
	bt_window_end(cpu, &to);
	bt_next(cpu, op);
}

/* --- Lowering --- */

static enum bt_mov_form
bt_mov_form(const struct bt_insn *in, struct bt_op *op)
{
	bool mem = bt_int_is_mem(in), flat = bt_int_is_flat(in);

	op->reg = bt_int_off(in, in->reg, in->size);
	op->rm = bt_int_off(in, in->rm, in->size);
	switch (in->form) {
	case BT_FORM_R_RM: return !mem ? BT_MOV_RR : flat ? BT_MOV_RM_FLAT : BT_MOV_RM;
	case BT_FORM_R_I: return BT_MOV_RI;
	case BT_FORM_MOFFS_LOAD:
	case BT_FORM_MOFFS_STORE:
		op->reg = BT_OFF(X86_RAX);
		return in->form == BT_FORM_MOFFS_LOAD ? BT_MOV_LOAD : BT_MOV_STORE;
	case BT_FORM_RM_R:
		if (mem)
			return flat ? BT_MOV_MR_FLAT : BT_MOV_MR;
		op->reg = bt_int_off(in, in->rm, in->size);
		op->rm = bt_int_off(in, in->reg, in->size);
		return BT_MOV_RR;
	default: /* BT_FORM_RM_I */
		op->reg = op->rm;
		return !mem ? BT_MOV_RI : flat ? BT_MOV_MI_FLAT : BT_MOV_MI;
	}
}

static bt_fn *
bt_mov_extend(const struct bt_insn *in, struct bt_op *op)
{
	/* Columns: register, memory, flat memory. */
	int d = bt_size_index(in->osize) - 1;
	int mem = !bt_int_is_mem(in) ? 0 : bt_int_is_flat(in) ? 2 : 1;

	op->reg = BT_OFF(in->reg);
	op->rm = bt_int_off(in, in->rm, in->size);
	if (in->id == BT_ID_MOVSXD) /* to 16 bits it reads 32 all the same */
		return bt_movsl_table[d][mem];
	if (in->id == BT_ID_MOVZX)
		return in->size == 1 ? bt_movzb_table[d][mem] : bt_movzw_table[d][mem];
	return in->size == 1 ? bt_movsb_table[d][mem] : bt_movsw_table[d][mem];
}

static bt_fn *
bt_mov_plain(const struct bt_insn *in)
{
	switch (in->id) {
	case BT_ID_CBW: return bt_int_cbw;
	case BT_ID_CWD: return bt_int_cwd;
	case BT_ID_LAHF: return bt_int_lahf;
	case BT_ID_SAHF: return bt_int_sahf;
	case BT_ID_CLC: return bt_int_clc;
	case BT_ID_STC: return bt_int_stc;
	case BT_ID_CMC: return bt_int_cmc;
	case BT_ID_CLD: return bt_int_cld;
	case BT_ID_STD: return bt_int_std;
	case BT_ID_SALC: return bt_int_salc;
	case BT_ID_XLAT: return bt_int_xlat;
	case BT_ID_MOVDIR64B: return bt_int_movdir64b;
	case BT_ID_NOP:
	case BT_ID_PREFETCH: return bt_int_nop;
	case BT_ID_LFENCE:
	case BT_ID_MFENCE:
	case BT_ID_SFENCE: return bt_int_fence;
	default: return NULL;
	}
}

bool
bt_int_mov_lower(const struct bt_insn *in, struct bt_op *op)
{
	int size = bt_size_index(in->size), mem = bt_int_is_mem(in);

	switch (in->id) {
	case BT_ID_MOV:
	case BT_ID_MOVNTI:
	case BT_ID_MOVDIRI: op->fn = bt_mov_table[size][bt_mov_form(in, op)]; return true;
	case BT_ID_XCHG: /* the memory form is int_atomic.c's */
		op->reg = bt_int_off(in, in->reg, in->size);
		op->rm = in->form == BT_FORM_R ? BT_OFF(X86_RAX) : bt_int_off(in, in->rm, in->size);
		op->fn = mem ? NULL : bt_mov_table[size][BT_MOV_XCHG];
		return !mem;
	case BT_ID_MOVZX:
	case BT_ID_MOVSX:
	case BT_ID_MOVSXD: op->fn = bt_mov_extend(in, op); return true;
	case BT_ID_MOVBE:
		op->reg = BT_OFF(in->reg);
		op->fn = in->form == BT_FORM_RM_R ? bt_int_movbe_store : bt_int_movbe_load;
		return mem;
	case BT_ID_BSWAP:
		op->reg = BT_OFF(in->reg);
		op->fn = bt_int_bswap;
		return true;
	case BT_ID_LEA:
		op->reg = BT_OFF(in->reg);
		op->fn = in->osize == 8 ? bt_int_lea_64 :
		    in->osize == 4	? bt_int_lea_32 :
					  bt_int_lea_16;
		return mem;
	case BT_ID_SETCC:
		op->rm = bt_int_off(in, in->rm, 1);
		op->fn = bt_setcc_table[in->cc][mem];
		return true;
	case BT_ID_CMOVCC:
		op->reg = BT_OFF(in->reg);
		op->rm = BT_OFF(in->rm);
		op->fn = bt_cmov_table[in->cc][bt_size_index(in->osize) - 1][mem];
		return true;
	default:
		op->reg = BT_OFF(in->reg);
		op->fn = bt_mov_plain(in);
		return op->fn != NULL;
	}
}
