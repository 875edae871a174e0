/*
 * Bits: BT BTS BTR BTC, BSF BSR TZCNT LZCNT POPCNT, BMI1 and BMI2 without shifts and MULX, CRC32.
 */
#include "engine/bt/int.h"

/* --- BT and its kin. In a register the bit number wraps; in memory it may reach anywhere. --- */

#define BT_BT(name, insn, lock, size, bits, sfx, type)                                             \
	static inline __attribute__((always_inline)) void bt_bit_##name##_##bits(                  \
	    struct bt_cpu *cpu, void *p, uint64_t bit)                                             \
	{                                                                                          \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__ volatile(BT_ASM_LOAD_FL lock insn sfx                                      \
				 " %[b], %[m]" BT_ASM_FLAGS                                        \
				 : [m] "+m"(*(bt_u##bits *)p), "=&a"(fl)                           \
				 : [b] "r"((type)(bit & ((size) * 8 - 1))),                        \
				 [f] "r"((uint32_t)cpu->fl)                                        \
				 : "cc", "memory");                                                \
		cpu->fl = (uint16_t)fl;                                                            \
	}                                                                                          \
	static void bt_int_##name##_rr_##bits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		type v = bt_get_##bits(cpu, op->rm);                                               \
                                                                                                   \
		bt_bit_##name##_##bits(cpu, &v, bt_get_##bits(cpu, op->reg));                      \
		if (BT_BT_WRITES_##name)                                                           \
			bt_set_##bits(cpu, op->rm, v);                                             \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_##name##_ri_##bits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		type v = bt_get_##bits(cpu, op->rm);                                               \
                                                                                                   \
		bt_bit_##name##_##bits(cpu, &v, (uint64_t)op->imm);                                \
		if (BT_BT_WRITES_##name)                                                           \
			bt_set_##bits(cpu, op->rm, v);                                             \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_##name##_mr_##bits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		int64_t bit = (int##bits##_t)bt_get_##bits(cpu, op->reg);                          \
		uint64_t ea = bt_ea(cpu, op) + (uint64_t)(bit >> (3 + BT_LOG2_##bits)) * (size);   \
                                                                                                   \
		if (op->asize != 8)                                                                \
			ea = op->asize == 4 ? (uint32_t)ea : (uint16_t)ea;                         \
		BT_BT_ACCESS_##name(cpu, op, ea, size, bits, (uint64_t)bit);                       \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_##name##_mi_##bits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		BT_BT_ACCESS_##name(cpu, op, bt_ea(cpu, op), size, bits, (uint64_t)op->imm);       \
		bt_next(cpu, op);                                                                  \
	}
/* BT must not even clear the upper half of a 32-bit register. */
#define BT_BT_WRITES_bt 0
#define BT_BT_WRITES_bts 1
#define BT_BT_WRITES_btr 1
#define BT_BT_WRITES_btc 1
#define BT_LOG2_16 1
#define BT_LOG2_32 2
#define BT_LOG2_64 3

/* BT only reads; the others always lock: it costs little here and the plain forms are rare. */
#define BT_BT_ACCESS_bt(cpu, op, ea, size, bits, bit)                                              \
	do {                                                                                       \
		uint##bits##_t v_ = (uint##bits##_t)bt_load(cpu, (op)->seg, ea, size);             \
                                                                                                   \
		bt_bit_bt_##bits(cpu, &v_, bit);                                                   \
	} while (0)
#define BT_BT_ACCESS_bts(cpu, op, ea, size, bits, bit)                                             \
	bt_rmw_at(cpu, op, ea, size, bt_bit_bts_##bits, bit)
#define BT_BT_ACCESS_btr(cpu, op, ea, size, bits, bit)                                             \
	bt_rmw_at(cpu, op, ea, size, bt_bit_btr_##bits, bit)
#define BT_BT_ACCESS_btc(cpu, op, ea, size, bits, bit)                                             \
	bt_rmw_at(cpu, op, ea, size, bt_bit_btc_##bits, bit)
#define BT_BTN(size, bits, sfx, type, con) BT_BT(bt, "bt", "", size, bits, sfx, type)
#define BT_BTS(size, bits, sfx, type, con) BT_BT(bts, "bts", "lock ", size, bits, sfx, type)
#define BT_BTR(size, bits, sfx, type, con) BT_BT(btr, "btr", "lock ", size, bits, sfx, type)
#define BT_BTC(size, bits, sfx, type, con) BT_BT(btc, "btc", "lock ", size, bits, sfx, type)
BT_SIZES_WLQ(BT_BTN)
BT_SIZES_WLQ(BT_BTS)
BT_SIZES_WLQ(BT_BTR)
BT_SIZES_WLQ(BT_BTC)

#define BT_BT_ROW(name, bits)                                                                      \
	{ bt_int_##name##_rr_##bits, bt_int_##name##_ri_##bits, bt_int_##name##_mr_##bits,         \
		bt_int_##name##_mi_##bits }
#define BT_BT_TABLE(name) { BT_BT_ROW(name, 16), BT_BT_ROW(name, 32), BT_BT_ROW(name, 64) }
static bt_fn *const bt_bt_table[4][3][4] = { BT_BT_TABLE(bt), BT_BT_TABLE(bts), BT_BT_TABLE(btr),
	BT_BT_TABLE(btc) };
static_assert(BT_ID_BTC - BT_ID_BT == 3, "order of the table");

/* --- Counting and searching: a destination register that also is input (BSF of 0 keeps it) --- */

#define BT_COUNT(name, insn, size, bits, sfx, type)                                                \
	static inline __attribute__((always_inline)) void bt_count_##name##_##bits(                \
	    struct bt_cpu *cpu, uint8_t off, type s)                                               \
	{                                                                                          \
		uint64_t d = *bt_reg64(cpu, off);                                                  \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__(BT_ASM_LOAD_FL insn                                                        \
			" %[s], %" sfx "[d]" BT_ASM_FLAGS                                          \
			: [d] "+r"(d), "=&a"(fl)                                                   \
			: [s] "r"(s), [f] "r"((uint32_t)cpu->fl)                                   \
			: "cc");                                                                   \
		*bt_reg64(cpu, off) = d;                                                           \
		cpu->fl = (uint16_t)fl;                                                            \
	}                                                                                          \
	static void bt_int_##name##_r_##bits(struct bt_cpu *cpu, const struct bt_op *op)           \
	{                                                                                          \
		bt_count_##name##_##bits(cpu, op->reg, bt_get_##bits(cpu, op->rm));                \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_LOAD_OP(bt_int_##name##_m_##bits, size, type, bt_count_##name##_##bits(cpu, op->reg, v))
#define BT_COUNT_SIZES(name, insn)                                                                 \
	BT_COUNT(name, insn "w", 2, 16, "w", uint16_t)                                             \
	BT_COUNT(name, insn "l", 4, 32, "k", uint32_t)                                             \
	BT_COUNT(name, insn "q", 8, 64, "q", uint64_t)
BT_COUNT_SIZES(bsf, "bsf")
BT_COUNT_SIZES(bsr, "bsr")
BT_COUNT_SIZES(tzcnt, "tzcnt")
BT_COUNT_SIZES(lzcnt, "lzcnt")
BT_COUNT_SIZES(popcnt, "popcnt")
#define BT_COUNT_TABLE(name)                                                                       \
	{ { bt_int_##name##_r_16, bt_int_##name##_m_16 },                                          \
		{ bt_int_##name##_r_32, bt_int_##name##_m_32 },                                    \
		{ bt_int_##name##_r_64, bt_int_##name##_m_64 } }
static bt_fn *const bt_count_table[5][3][2] = { BT_COUNT_TABLE(bsf), BT_COUNT_TABLE(bsr),
	BT_COUNT_TABLE(tzcnt), BT_COUNT_TABLE(lzcnt), BT_COUNT_TABLE(popcnt) };
static_assert(BT_ID_POPCNT - BT_ID_BSF == 4, "order of the table");

/* --- BMI: d = f(a, b), sizes 4 and 8. op->x: offset of the vvvv register. --- */

/* Every flag that such an instruction does not define keeps its value. */
#define BT_BMI(name, insn, ops)                                                                    \
	static uint64_t bt_bmi_##name(struct bt_cpu *cpu, uint64_t a, uint64_t b, int size)        \
	{                                                                                          \
		uint64_t d = 0;                                                                    \
		uint32_t fl;                                                                       \
                                                                                                   \
		if (size == 8)                                                                     \
			__asm__(BT_ASM_LOAD_FL insn                                                \
				"q " ops("q") BT_ASM_FLAGS                                         \
				: [d] "+&r"(d), "=&a"(fl)                                          \
				: [a] "r"(a), [b] "r"(b), [f] "r"((uint32_t)cpu->fl)               \
				: "cc");                                                           \
		else                                                                               \
			__asm__(BT_ASM_LOAD_FL insn                                                \
				"l " ops("k") BT_ASM_FLAGS                                         \
				: [d] "+&r"(d), "=&a"(fl)                                          \
				: [a] "r"(a), [b] "r"(b), [f] "r"((uint32_t)cpu->fl)               \
				: "cc");                                                           \
		cpu->fl = (uint16_t)fl;                                                            \
		return d;                                                                          \
	}
/* AT&T operand order: last source first. */
#define BT_OPS_ABD(m) "%" m "[b], %" m "[a], %" m "[d]" /* insn d, a, b */
#define BT_OPS_BD(m) "%" m "[b], %" m "[d]" /* insn d, b */
BT_BMI(andn, "andn", BT_OPS_ABD)
BT_BMI(bextr, "bextr", BT_OPS_ABD)
BT_BMI(bzhi, "bzhi", BT_OPS_ABD)
BT_BMI(pdep, "pdep", BT_OPS_ABD)
BT_BMI(pext, "pext", BT_OPS_ABD)
BT_BMI(blsi, "blsi", BT_OPS_BD)
BT_BMI(blsmsk, "blsmsk", BT_OPS_BD)
BT_BMI(blsr, "blsr", BT_OPS_BD)

/* first: the operand that is a in insn d, a, b; the other is b. */
#define BT_BMI_HANDLERS(name, dst, first, second)                                                  \
	static void bt_int_##name##_r(struct bt_cpu *cpu, const struct bt_op *op)                  \
	{                                                                                          \
		uint64_t rm = *bt_reg64(cpu, op->rm), v = *bt_reg64(cpu, op->x);                   \
                                                                                                   \
		bt_set(cpu, dst, op->osize, bt_bmi_##name(cpu, first, second, op->osize));         \
		(void)v;                                                                           \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_##name##_m(struct bt_cpu *cpu, const struct bt_op *op)                  \
	{                                                                                          \
		uint64_t rm = bt_load_rm(cpu, op, op->osize), v = *bt_reg64(cpu, op->x);           \
                                                                                                   \
		bt_set(cpu, dst, op->osize, bt_bmi_##name(cpu, first, second, op->osize));         \
		(void)v;                                                                           \
		bt_next(cpu, op);                                                                  \
	}
BT_BMI_HANDLERS(andn, op->reg, v, rm)
BT_BMI_HANDLERS(pdep, op->reg, v, rm)
BT_BMI_HANDLERS(pext, op->reg, v, rm)
BT_BMI_HANDLERS(bextr, op->reg, rm, v)
BT_BMI_HANDLERS(bzhi, op->reg, rm, v)
BT_BMI_HANDLERS(blsi, op->x, rm, rm)
BT_BMI_HANDLERS(blsmsk, op->x, rm, rm)
BT_BMI_HANDLERS(blsr, op->x, rm, rm)

/* --- CRC32 (SSE4.2): the Castagnoli polynomial, by the host. op->y: size of the source --- */

static uint64_t
bt_crc32_step(uint64_t crc, uint64_t v, int size)
{
	switch (size) {
	case 1: __asm__("crc32b %b1, %k0" : "+r"(crc) : "q"(v)); break;
	case 2: __asm__("crc32w %w1, %k0" : "+r"(crc) : "r"(v)); break;
	case 4: __asm__("crc32l %k1, %k0" : "+r"(crc) : "r"(v)); break;
	default: __asm__("crc32q %1, %0" : "+r"(crc) : "r"(v)); break;
	}
	return (uint32_t)crc;
}

static void
bt_int_crc32_r(struct bt_cpu *cpu, const struct bt_op *op)
{
	*bt_reg64(cpu, op->reg) = bt_crc32_step(bt_get_32(cpu, op->reg),
	    bt_get(cpu, op->rm, op->y), op->y);
	bt_next(cpu, op);
}

static void
bt_int_crc32_m(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t v = bt_load_rm(cpu, op, op->y);

	*bt_reg64(cpu, op->reg) = bt_crc32_step(bt_get_32(cpu, op->reg), v, op->y);
	bt_next(cpu, op);
}

/* --- RDRAND and RDSEED: the host's --- */

static void
bt_int_rdrand(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t v;
	bool ok;

	if (op->x)
		__asm__ volatile("rdseed %0; setc %1" : "=r"(v), "=q"(ok) : : "cc");
	else
		__asm__ volatile("rdrand %0; setc %1" : "=r"(v), "=q"(ok) : : "cc");
	bt_set(cpu, op->rm, op->osize, ok ? v : 0);
	bt_flags_set_arith(cpu, ok ? X86_FL_CF : 0);
	bt_next(cpu, op);
}

bool
bt_int_bit_lower(const struct bt_insn *in, struct bt_op *op)
{
	int size = bt_size_index(in->osize) - 1, mem = bt_int_is_mem(in);

	op->reg = BT_OFF(in->reg);
	op->rm = BT_OFF(in->rm);
	if (in->id >= BT_ID_BT && in->id <= BT_ID_BTC) {
		bool imm = in->form == BT_FORM_RM_I;

		op->fn = bt_bt_table[in->id - BT_ID_BT][size][2 * mem + imm];
		return true;
	}
	if (in->id >= BT_ID_BSF && in->id <= BT_ID_POPCNT) {
		op->fn = bt_count_table[in->id - BT_ID_BSF][size][mem];
		return true;
	}
	if (in->encoding == BT_VEX)
		op->x = BT_OFF(in->vvvv & 15);
	switch (in->id) {
	case BT_ID_ANDN: op->fn = mem ? bt_int_andn_m : bt_int_andn_r; return true;
	case BT_ID_PDEP: op->fn = mem ? bt_int_pdep_m : bt_int_pdep_r; return true;
	case BT_ID_PEXT: op->fn = mem ? bt_int_pext_m : bt_int_pext_r; return true;
	case BT_ID_BEXTR: op->fn = mem ? bt_int_bextr_m : bt_int_bextr_r; return true;
	case BT_ID_BZHI: op->fn = mem ? bt_int_bzhi_m : bt_int_bzhi_r; return true;
	case BT_ID_BLSI: op->fn = mem ? bt_int_blsi_m : bt_int_blsi_r; return true;
	case BT_ID_BLSMSK: op->fn = mem ? bt_int_blsmsk_m : bt_int_blsmsk_r; return true;
	case BT_ID_BLSR: op->fn = mem ? bt_int_blsr_m : bt_int_blsr_r; return true;
	case BT_ID_CRC32:
		op->y = in->size;
		op->rm = bt_int_off(in, in->rm, in->size);
		op->fn = mem ? bt_int_crc32_m : bt_int_crc32_r;
		return true;
	case BT_ID_RDRAND:
	case BT_ID_RDSEED:
		op->x = in->id == BT_ID_RDSEED;
		op->fn = bt_int_rdrand;
		return !mem;
	default: return false;
	}
}
