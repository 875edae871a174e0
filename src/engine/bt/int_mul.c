/*
 * Multiplication and division, MULX, ADCX and ADOX, and decimal adjustment.
 *
 * Divisions that would raise #DE are found before the host is asked to divide (SDM 2, DIV and
 * IDIV).
 */
#include "engine/bt/int.h"

/* The flags that these leave undefined are what the processor makes of those that were there
 * before: so they are loaded first, and RAX after them. */
#define BT_MUL_ASM(insn, sfx, type)                                                                \
	do {                                                                                       \
		uint32_t fl_;                                                                      \
                                                                                                   \
		__asm__(BT_ASM_LOAD_FL "movq %[al], %%rax\n\t" insn sfx                            \
			" %[s]\n\tmovq %%rax, %[q]" BT_ASM_FLAGS                                   \
			: "=&a"(fl_), "+&d"(d), [q] "=&r"(a)                                       \
			: [s] "r"((type)src), [al] "r"(cpu->r[X86_RAX]),                           \
			[f] "r"((uint32_t)cpu->fl)                                                 \
			: "cc");                                                                   \
		cpu->fl = (uint16_t)fl_;                                                           \
	} while (0)

/* --- MUL, IMUL with one operand, DIV, IDIV. RDX:RAX (or AX) in place; false for #DE. --- */

#define BT_MUL1(name, insn, sfx, type)                                                             \
	static bool bt_mul_##name(struct bt_cpu *cpu, uint64_t src, int size)                      \
	{                                                                                          \
		uint64_t a, d = 0;                                                                 \
                                                                                                   \
		BT_MUL_ASM(insn, sfx, type);                                                       \
		bt_set(cpu, BT_OFF(X86_RAX), size, a);                                             \
		bt_set(cpu, BT_OFF(X86_RDX), size, d);                                             \
		return true;                                                                       \
	}
BT_MUL1(mul_16, "mul", "w", uint16_t)
BT_MUL1(mul_32, "mul", "l", uint32_t)
BT_MUL1(mul_64, "mul", "q", uint64_t)
BT_MUL1(imul_16, "imul", "w", uint16_t)
BT_MUL1(imul_32, "imul", "l", uint32_t)
BT_MUL1(imul_64, "imul", "q", uint64_t)

#define BT_MUL1_8(name, insn)                                                                      \
	static bool bt_mul_##name(struct bt_cpu *cpu, uint64_t src, int size)                      \
	{                                                                                          \
		uint64_t a, d = 0;                                                                 \
                                                                                                   \
		BT_MUL_ASM(insn, "b", uint8_t);                                                    \
		bt_set_16(cpu, BT_OFF(X86_RAX), (uint16_t)a);                                      \
		return true;                                                                       \
	}
BT_MUL1_8(mul_8, "mul")
BT_MUL1_8(imul_8, "imul")

#define BT_DIV(bits, sfx, type)                                                                    \
	static bool bt_mul_div_##bits(struct bt_cpu *cpu, uint64_t src, int size)                  \
	{                                                                                          \
		uint64_t a, d = cpu->r[X86_RDX];                                                   \
                                                                                                   \
		if ((type)d >= (type)src)                                                          \
			return false;                                                              \
		BT_MUL_ASM("div", sfx, type);                                                      \
		bt_set(cpu, BT_OFF(X86_RAX), size, a);                                             \
		bt_set(cpu, BT_OFF(X86_RDX), size, d);                                             \
		return true;                                                                       \
	}
BT_DIV(16, "w", uint16_t)
BT_DIV(32, "l", uint32_t)
BT_DIV(64, "q", uint64_t)

/* Whether n / s, both signed, fits in bits: by magnitudes, so that no step can overflow. */
static bool
bt_idiv_fits(__int128 n, int64_t s, int bits)
{
	unsigned __int128 un = n < 0 ? -(unsigned __int128)n : (unsigned __int128)n, limit;
	uint64_t us = s < 0 ? -(uint64_t)s : (uint64_t)s;

	if (s == 0)
		return false;
	/* |quotient| may be 2^(bits-1) if negative, one less if not: compare |n| with that times
	 * |s|. */
	limit = (unsigned __int128)us << (bits - 1);
	if ((n < 0) != (s < 0))
		return un < limit + us;
	return un < limit;
}

#define BT_IDIV(bits, sfx, type, stype)                                                            \
	static bool bt_mul_idiv_##bits(struct bt_cpu *cpu, uint64_t src, int size)                 \
	{                                                                                          \
		uint64_t a, d = cpu->r[X86_RDX];                                                   \
		unsigned __int128 n = (unsigned __int128)(__int128)(stype)d << (bits) |            \
		    (type)cpu->r[X86_RAX];                                                         \
                                                                                                   \
		if (!bt_idiv_fits((__int128)n, (stype)src, bits))                                  \
			return false;                                                              \
		BT_MUL_ASM("idiv", sfx, type);                                                     \
		bt_set(cpu, BT_OFF(X86_RAX), size, a);                                             \
		bt_set(cpu, BT_OFF(X86_RDX), size, d);                                             \
		return true;                                                                       \
	}
BT_IDIV(16, "w", uint16_t, int16_t)
BT_IDIV(32, "l", uint32_t, int32_t)
BT_IDIV(64, "q", uint64_t, int64_t)

/* AX by a byte: quotient in AL, remainder in AH. */
static bool
bt_mul_div_8(struct bt_cpu *cpu, uint64_t src, int size)
{
	uint64_t a, d = 0;

	if ((uint8_t)(cpu->r[X86_RAX] >> 8) >= (uint8_t)src)
		return false;
	BT_MUL_ASM("div", "b", uint8_t);
	bt_set_16(cpu, BT_OFF(X86_RAX), (uint16_t)a);
	return true;
}

static bool
bt_mul_idiv_8(struct bt_cpu *cpu, uint64_t src, int size)
{
	uint64_t a, d = 0;

	if (!bt_idiv_fits((int16_t)cpu->r[X86_RAX], (int8_t)src, 8))
		return false;
	BT_MUL_ASM("idiv", "b", uint8_t);
	bt_set_16(cpu, BT_OFF(X86_RAX), (uint16_t)a);
	return true;
}

#define BT_MUL1_HANDLERS(name, size)                                                               \
	static void bt_int_##name##_r(struct bt_cpu *cpu, const struct bt_op *op)                  \
	{                                                                                          \
		if (!bt_mul_##name(cpu, bt_get(cpu, op->rm, size), size))                          \
			bt_raise(cpu, X86_DE);                                                     \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_##name##_m(struct bt_cpu *cpu, const struct bt_op *op)                  \
	{                                                                                          \
		if (!bt_mul_##name(cpu, bt_load_rm(cpu, op, size), size))                          \
			bt_raise(cpu, X86_DE);                                                     \
		bt_next(cpu, op);                                                                  \
	}
#define BT_MUL1_ALL(name)                                                                          \
	BT_MUL1_HANDLERS(name##_8, 1)                                                              \
	BT_MUL1_HANDLERS(name##_16, 2)                                                             \
	BT_MUL1_HANDLERS(name##_32, 4)                                                             \
	BT_MUL1_HANDLERS(name##_64, 8)                                                             \
	static bt_fn *const bt_##name##_table[4][2] = {                                            \
		{ bt_int_##name##_8_r, bt_int_##name##_8_m },                                      \
		{ bt_int_##name##_16_r, bt_int_##name##_16_m },                                    \
		{ bt_int_##name##_32_r, bt_int_##name##_32_m },                                    \
		{ bt_int_##name##_64_r, bt_int_##name##_64_m },                                    \
	};
BT_MUL1_ALL(mul)
BT_MUL1_ALL(imul)
BT_MUL1_ALL(div)
BT_MUL1_ALL(idiv)

/* --- IMUL with two and three operands --- */

#define BT_IMUL(size, bits, sfx, type, con)                                                        \
	static inline __attribute__((always_inline)) type bt_imul_##bits(struct bt_cpu *cpu,       \
	    type d, type s)                                                                        \
	{                                                                                          \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__(BT_ASM_LOAD_FL "imul" sfx " %[s], %[d]" BT_ASM_FLAGS                       \
			: [d] "+r"(d), "=&a"(fl)                                                   \
			: [s] "r"(s), [f] "r"((uint32_t)cpu->fl)                                   \
			: "cc");                                                                   \
		cpu->fl = (uint16_t)fl;                                                            \
		return d;                                                                          \
	}                                                                                          \
	static void bt_int_imul2_r_##bits(struct bt_cpu *cpu, const struct bt_op *op)              \
	{                                                                                          \
		bt_set_##bits(cpu, op->reg,                                                        \
		    bt_imul_##bits(cpu, bt_get_##bits(cpu, op->reg), bt_get_##bits(cpu, op->rm))); \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_LOAD_OP(bt_int_imul2_m_##bits, size, type,                                              \
	    bt_set_##bits(cpu, op->reg,                                                            \
		bt_imul_##bits(cpu, bt_get_##bits(cpu, op->reg), v)))                              \
	static void bt_int_imul3_r_##bits(struct bt_cpu *cpu, const struct bt_op *op)              \
	{                                                                                          \
		bt_set_##bits(cpu, op->reg,                                                        \
		    bt_imul_##bits(cpu, bt_get_##bits(cpu, op->rm), (type)op->imm));               \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_LOAD_OP(bt_int_imul3_m_##bits, size, type,                                              \
	    bt_set_##bits(cpu, op->reg, bt_imul_##bits(cpu, v, (type)op->imm)))
BT_SIZES_WLQ(BT_IMUL)
#define BT_IMUL_ROW(bits)                                                                          \
	{ { bt_int_imul2_r_##bits, bt_int_imul2_m_##bits },                                        \
		{ bt_int_imul3_r_##bits, bt_int_imul3_m_##bits } }
static bt_fn *const bt_imul_n_table[3][2][2] = {
	BT_IMUL_ROW(16),
	BT_IMUL_ROW(32),
	BT_IMUL_ROW(64),
};

/* --- MULX, ADCX, ADOX: op->y tells that r/m is memory; op->x: offset of vvvv --- */

static uint64_t
bt_mul_rm(struct bt_cpu *cpu, const struct bt_op *op)
{
	return op->y ? bt_load_rm(cpu, op, op->osize) : bt_get(cpu, op->rm, op->osize);
}

static void
bt_int_mulx(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t s = bt_mul_rm(cpu, op), d = bt_get(cpu, BT_OFF(X86_RDX), op->osize);
	unsigned __int128 p = (unsigned __int128)s * d;
	unsigned bits = 8u * op->osize;

	/* The low half goes first: when both name one register the high half stays. */
	bt_set(cpu, op->x, op->osize, (uint64_t)p);
	bt_set(cpu, op->reg, op->osize, (uint64_t)(p >> bits));
	bt_next(cpu, op);
}

static void
bt_int_adcx(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t s = bt_mul_rm(cpu, op), d = bt_get(cpu, op->reg, op->osize);
	uint16_t flag = op->imm == 0 ? BT_FL_CF : BT_FL_OF;
	unsigned __int128 sum = (unsigned __int128)s + d + ((cpu->fl & flag) != 0);

	bt_set(cpu, op->reg, op->osize, (uint64_t)sum);
	cpu->fl = (uint16_t)((cpu->fl & ~flag) | (sum >> (8u * op->osize) & 1 ? flag : 0));
	bt_next(cpu, op);
}

/* --- Decimal adjustment (SDM 2: AAA AAD AAM AAS DAA DAS), outside 64-bit mode only --- */

/* SF, ZF and PF of a byte, OF clear, CF and AF as given. */
static void
bt_bcd_flags(struct bt_cpu *cpu, uint8_t v, bool cf, bool af)
{
	uint32_t fl;

	__asm__("testb %1, %1" BT_ASM_FLAGS : "=&a"(fl) : "q"(v) : "cc");
	fl &= (uint32_t) ~(BT_FL_CF | BT_FL_AF);
	cpu->fl = (uint16_t)(fl | (cf ? BT_FL_CF : 0) | (af ? BT_FL_AF : 0));
}

static void
bt_int_daa(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint8_t old = (uint8_t)cpu->r[X86_RAX], al = old;
	bool cf = cpu->fl & BT_FL_CF, af = (old & 15) > 9 || (cpu->fl & BT_FL_AF);
	bool sub = op->x;
	bool high = old > 0x99 || cf;
	bool borrow = sub && af && old < 6;

	if (af)
		al = (uint8_t)(sub ? al - 6 : al + 6);
	if (high)
		al = (uint8_t)(sub ? al - 0x60 : al + 0x60);
	bt_set_8(cpu, BT_OFF(X86_RAX), al);
	bt_bcd_flags(cpu, al, high || borrow, af);
	bt_next(cpu, op);
}

static void
bt_int_aaa(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint16_t ax = (uint16_t)cpu->r[X86_RAX];
	bool adjust = (ax & 15) > 9 || (cpu->fl & BT_FL_AF);

	if (adjust)
		ax = (uint16_t)(op->x ? ax - 0x106 : ax + 0x106);
	ax &= 0xff0f;
	bt_set_16(cpu, BT_OFF(X86_RAX), ax);
	bt_bcd_flags(cpu, (uint8_t)ax, adjust, adjust);
	bt_next(cpu, op);
}

static void
bt_int_aam(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint8_t al = (uint8_t)cpu->r[X86_RAX], base = (uint8_t)op->imm;

	if (base == 0)
		bt_raise(cpu, X86_DE);
	bt_set_16(cpu, BT_OFF(X86_RAX), (uint16_t)(al / base << 8 | al % base));
	bt_bcd_flags(cpu, al % base, false, false);
	bt_next(cpu, op);
}

static void
bt_int_aad(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint16_t ax = (uint16_t)cpu->r[X86_RAX];
	uint8_t al = (uint8_t)ax, add = (uint8_t)((ax >> 8) * (uint8_t)op->imm);
	uint32_t fl;

	/* An addition, flags and all, as processors make it. */
	__asm__("addb %[s], %[d]" BT_ASM_FLAGS
		: [d] "+q"(al), "=&a"(fl)
		: [s] "q"(add)
		: "cc");
	cpu->fl = (uint16_t)fl;
	bt_set_16(cpu, BT_OFF(X86_RAX), al);
	bt_next(cpu, op);
}

bool
bt_int_mul_lower(const struct bt_insn *in, struct bt_op *op)
{
	int size = bt_size_index(in->size), mem = bt_int_is_mem(in);

	op->reg = BT_OFF(in->reg);
	op->rm = bt_int_off(in, in->rm, in->size);
	op->y = (uint8_t)mem;
	switch (in->id) {
	case BT_ID_MUL: op->fn = bt_mul_table[size][mem]; return true;
	case BT_ID_IMUL1: op->fn = bt_imul_table[size][mem]; return true;
	case BT_ID_DIV: op->fn = bt_div_table[size][mem]; return true;
	case BT_ID_IDIV: op->fn = bt_idiv_table[size][mem]; return true;
	case BT_ID_IMUL2: op->fn = bt_imul_n_table[size - 1][0][mem]; return true;
	case BT_ID_IMUL3: op->fn = bt_imul_n_table[size - 1][1][mem]; return true;
	case BT_ID_MULX:
		op->x = BT_OFF(in->vvvv & 15);
		op->fn = bt_int_mulx;
		return true;
	case BT_ID_ADCX:
	case BT_ID_ADOX:
		op->imm = in->id == BT_ID_ADOX;
		op->fn = bt_int_adcx;
		return true;
	case BT_ID_DAA:
	case BT_ID_DAS:
		op->x = in->id == BT_ID_DAS;
		op->fn = bt_int_daa;
		return true;
	case BT_ID_AAA:
	case BT_ID_AAS:
		op->x = in->id == BT_ID_AAS;
		op->fn = bt_int_aaa;
		return true;
	case BT_ID_AAM: op->fn = bt_int_aam; return true;
	case BT_ID_AAD: op->fn = bt_int_aad; return true;
	default: return false;
	}
}
