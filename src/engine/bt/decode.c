/*
 * The instruction decoder.
 *
 * SDM 2, chapter 2 (formats, VEX, EVEX) and appendix A. Where vendors differ, AMD's behaviour is
 * taken (APM 3, 1.2.2): in 64-bit mode an operand-size prefix makes a near branch one of 16 bits.
 */
#include "engine/bt/decode.h"

#include <errno.h>

#define BT_INSN_MAX 15

/* The bytes being decoded. err sticks: once set, reads give 0 and nothing after matters. */
struct bt_reader {
	const uint8_t *bytes;
	size_t avail;
	unsigned pos;
	int err;
};

static uint8_t
bt_reader_byte(struct bt_reader *rd)
{
	if (rd->err != 0)
		return 0;
	if (rd->pos >= BT_INSN_MAX)
		rd->err = -E2BIG;
	else if (rd->pos >= rd->avail)
		rd->err = -EAGAIN;
	return rd->err != 0 ? 0 : rd->bytes[rd->pos++];
}

/* A little-endian value of size bytes, zero-extended. */
static uint64_t
bt_reader_uint(struct bt_reader *rd, int size)
{
	uint64_t val = 0;

	for (int i = 0; i < size; i++)
		val |= (uint64_t)bt_reader_byte(rd) << 8 * i;
	return val;
}

static int64_t
bt_reader_int(struct bt_reader *rd, int size)
{
	int shift = 64 - 8 * size;

	return (int64_t)(bt_reader_uint(rd, size) << shift) >> shift;
}

static void
bt_decode_ud(struct bt_insn *in)
{
	in->id = BT_ID_UD;
	in->form = BT_FORM_NONE;
}

/* --- Prefixes --- */

/* In 64-bit mode ES, CS, SS and DS overrides are ignored, an FS or GS before them not undone
 * (APM 3, 1.2.4). */
static void
bt_decode_seg_prefix(struct bt_insn *in, uint8_t seg)
{
	if (in->mode == 8 && seg != X86_FS && seg != X86_GS)
		return;
	in->seg = seg;
	in->seg_override = true;
}

/* Consumes legacy prefixes and REX; returns the first byte after them. */
static uint8_t
bt_decode_prefixes(struct bt_reader *rd, struct bt_insn *in, bool *asize_prefix)
{
	for (;;) {
		uint8_t b = bt_reader_byte(rd);

		/* A REX that another prefix follows is ignored (SDM 2, 2.2.1). */
		switch (b) {
		case 0x26: bt_decode_seg_prefix(in, X86_ES); break;
		case 0x2e: bt_decode_seg_prefix(in, X86_CS); break;
		case 0x36: bt_decode_seg_prefix(in, X86_SS); break;
		case 0x3e: bt_decode_seg_prefix(in, X86_DS); break;
		case 0x64: bt_decode_seg_prefix(in, X86_FS); break;
		case 0x65: bt_decode_seg_prefix(in, X86_GS); break;
		case 0x66: in->opsize_prefix = true; break;
		case 0x67: *asize_prefix = true; break;
		case 0xf0: in->lock = true; break;
		case 0xf2:
			in->repne = true;
			in->rep = false;
			break;
		case 0xf3:
			in->rep = true;
			in->repne = false;
			break;
		default:
			if (in->mode != 8 || (b & 0xf0) != 0x40)
				return b;
			in->rex = b;
			continue;
		}
		if (rd->err != 0)
			return 0;
		in->rex = 0;
	}
}

/* The bits that extend register numbers, whatever prefix they came in. */
struct bt_ext {
	uint8_t r, x, b; /* 0 or 8; r up to 24 with EVEX.R' */
	uint8_t v; /* 0 or 16: EVEX.V' */
};

/* --- ModRM, SIB, displacement --- */

static void
bt_decode_disp(struct bt_reader *rd, struct bt_insn *in, int size)
{
	in->disp = (int32_t)bt_reader_int(rd, size);
	in->disp8 = size == 1;
}

/* SDM 2, table 2-1. */
static void
bt_decode_mem16(struct bt_reader *rd, struct bt_insn *in)
{
	static const struct {
		uint8_t base, index;
	} regs[8] = {
		{ X86_RBX, X86_RSI }, { X86_RBX, X86_RDI }, { X86_RBP, X86_RSI },
		{ X86_RBP, X86_RDI }, { X86_RSI, BT_REG_ZERO }, { X86_RDI, BT_REG_ZERO },
		{ X86_RBP, BT_REG_ZERO }, { X86_RBX, BT_REG_ZERO },
	};
	unsigned rm = in->modrm & 7;

	in->base = regs[rm].base;
	in->index = regs[rm].index;
	if (in->mod == 0 && rm == 6) {
		in->base = BT_REG_ZERO;
		bt_decode_disp(rd, in, 2);
	} else if (in->mod != 0) {
		bt_decode_disp(rd, in, in->mod);
	}
	if (in->base == X86_RBP && !in->seg_override)
		in->seg = X86_SS;
}

/* SDM 2, tables 2-2 and 2-3; 2.2.1.6 for RIP-relative addresses. */
static void
bt_decode_mem32(struct bt_reader *rd, struct bt_insn *in, const struct bt_ext *ext)
{
	unsigned rm = in->modrm & 7;
	bool no_base;

	if (rm == 4) {
		uint8_t sib = bt_reader_byte(rd);

		in->scale = sib >> 6;
		in->index = (uint8_t)(((sib >> 3) & 7) | ext->x);
		if (in->vsib)
			in->index |= ext->v;
		else if (in->index == 4)
			in->index = BT_REG_ZERO;
		rm = sib & 7;
		no_base = in->mod == 0 && rm == 5;
		in->base = no_base ? BT_REG_ZERO : (uint8_t)(rm | ext->b);
	} else {
		no_base = in->mod == 0 && rm == 5;
		in->base = (uint8_t)(rm | ext->b);
		if (no_base)
			in->base = in->mode == 8 ? BT_REG_RIP : BT_REG_ZERO;
		/* Only a SIB byte can name a vector index. */
		if (in->vsib)
			bt_decode_ud(in);
	}
	if (no_base || in->mod == 2)
		bt_decode_disp(rd, in, 4);
	else if (in->mod == 1)
		bt_decode_disp(rd, in, 1);
	if ((in->base == X86_RSP || in->base == X86_RBP) && !in->seg_override)
		in->seg = X86_SS;
}

static void
bt_decode_modrm(struct bt_reader *rd, struct bt_insn *in)
{
	in->has_modrm = true;
	in->modrm_off = (uint8_t)rd->pos;
	in->modrm = bt_reader_byte(rd);
	in->mod = in->modrm >> 6;
}

/* What ModRM names, once the opcode is known. */
static void
bt_decode_operands(struct bt_reader *rd, struct bt_insn *in, const struct bt_ext *ext)
{
	in->reg = (uint8_t)(((in->modrm >> 3) & 7) | ext->r);
	if (in->mod == 3) {
		in->rm = (uint8_t)((in->modrm & 7) | ext->b);
		if (in->encoding == BT_EVEX)
			in->rm |= (uint8_t)(ext->x << 1);
		if (in->vsib)
			bt_decode_ud(in);
	} else if (in->asize == 2) {
		bt_decode_mem16(rd, in);
		if (in->vsib)
			bt_decode_ud(in);
	} else {
		bt_decode_mem32(rd, in, ext);
	}
}

/* --- Sizes and immediates --- */

static void
bt_decode_size(struct bt_insn *in, uint8_t size)
{
	bool wide = in->mode == 8 && in->w;

	if (wide)
		in->osize = 8;
	else if (in->mode == 8 && size == BT_SZ_V64)
		in->osize = in->opsize_prefix ? 2 : 8;
	else
		in->osize = (in->mode == 2) != in->opsize_prefix ? 2 : 4;
	switch (size) {
	case BT_SZ_B: in->size = 1; break;
	case BT_SZ_W: in->size = 2; break;
	case BT_SZ_D: in->size = MIN(in->osize, 4); break;
	case BT_SZ_Y: in->size = in->osize = wide ? 8 : 4; break;
	case BT_SZ_NAT: in->size = in->osize = in->mode == 8 ? 8 : 4; break;
	default: in->size = in->osize; break;
	}
}

static void
bt_decode_imm(struct bt_reader *rd, struct bt_insn *in, uint8_t imm)
{
	unsigned start = rd->pos;
	int z = MIN(in->osize, 4);

	switch (imm) {
	case BT_IMM_1: in->imm = 1; break;
	case BT_IMM_SB: in->imm = bt_reader_int(rd, 1); break;
	case BT_IMM_UB: in->imm = bt_reader_byte(rd); break;
	case BT_IMM_UW: in->imm = (int64_t)bt_reader_uint(rd, 2); break;
	case BT_IMM_Z: in->imm = bt_reader_int(rd, z); break;
	case BT_IMM_BZ: in->imm = bt_reader_int(rd, in->size == 1 ? 1 : z); break;
	case BT_IMM_V: in->imm = bt_reader_int(rd, in->osize); break;
	case BT_IMM_MOFFS: in->imm = (int64_t)bt_reader_uint(rd, in->asize); break;
	case BT_IMM_FAR:
		in->imm = (int64_t)bt_reader_uint(rd, z);
		in->imm2 = (uint16_t)bt_reader_uint(rd, 2);
		break;
	case BT_IMM_ENTER:
		in->imm = (int64_t)bt_reader_uint(rd, 2);
		in->imm2 = bt_reader_byte(rd);
		break;
	default: break;
	}
	in->imm_len = (uint8_t)(rd->pos - start);
}

/* --- Legacy encodings --- */

static const struct bt_opcode bt_decode_undefined = { .id = BT_ID_UD };
static const struct bt_opcode bt_decode_vector = { .id = BT_ID_VEC, .flags = BT_DF_MODRM };
static const struct bt_opcode bt_decode_vector_imm = {
	.id = BT_ID_VEC,
	.imm = BT_IMM_UB,
	.flags = BT_DF_MODRM,
};

static const struct bt_opcode *
bt_decode_row(const struct bt_opcode_row *row, const struct bt_insn *in)
{
	for (; row->pps != 0; row++) {
		if (row->opcode == in->opcode && (row->pps & BIT(in->pp)) != 0 &&
		    (in->modrm & row->mask) == row->value)
			return &row->op;
	}
	return &bt_decode_undefined;
}

static bool
bt_decode_bit(const uint32_t *bits, uint8_t opcode)
{
	return (bits[opcode / 32] >> opcode % 32) & 1;
}

/* Where 64-bit mode gives a one-byte opcode another meaning, or a prefix does. */
static struct bt_opcode
bt_decode_map1_opcode(const struct bt_insn *in)
{
	struct bt_opcode op = bt_decode_map1[in->opcode];

	if (in->opcode == 0x63 && in->mode == 8)
		op = (struct bt_opcode){ BT_ID_MOVSXD, BT_FORM_R_RM, BT_SZ_D, 0, BT_DF_MODRM };
	else if (in->opcode == 0x82 && in->mode == 8)
		op = bt_decode_undefined;
	else if (in->opcode == 0x90 && !(in->rex & 1))
		op.id = in->rep ? BT_ID_PAUSE : BT_ID_NOP;
	return op;
}

/* Reads ModRM where the opcode has one and resolves groups and rows. */
static void
bt_decode_resolve(struct bt_reader *rd, struct bt_insn *in, struct bt_opcode *op,
    const struct bt_opcode_row *rows)
{
	if (op->flags & BT_DF_MODRM)
		bt_decode_modrm(rd, in);
	if (op->flags & BT_DF_ROWS) {
		*op = *bt_decode_row(rows, in);
	} else if (op->flags & BT_DF_GROUP) {
		const struct bt_opcode *g = &bt_decode_groups[op->id][(in->modrm >> 3) & 7];

		op->id = g->id;
		op->flags |= g->flags;
		op->form = g->form != 0 ? g->form : op->form;
		op->size = g->size != 0 ? g->size : op->size;
		op->imm = g->imm != 0 ? g->imm : op->imm;
	}
}

static struct bt_opcode
bt_decode_legacy_opcode(struct bt_reader *rd, struct bt_insn *in, uint8_t b)
{
	const struct bt_opcode_row *rows = NULL;
	struct bt_opcode op;

	in->map = BT_MAP_1;
	if (b == 0x0f) {
		in->map = BT_MAP_0F;
		b = bt_reader_byte(rd);
		if (b == 0x38 || b == 0x3a) {
			in->map = b == 0x38 ? BT_MAP_0F38 : BT_MAP_0F3A;
			b = bt_reader_byte(rd);
		}
	}
	in->opcode = b;
	in->opcode_off = (uint8_t)(rd->pos - 1);
	switch (in->map) {
	case BT_MAP_1: op = bt_decode_map1_opcode(in); break;
	case BT_MAP_0F:
		op = bt_decode_0f[b];
		rows = bt_decode_rows_0f;
		if (b == 0x77) /* EMMS */
			op.flags = 0;
		break;
	case BT_MAP_0F38:
		op = bt_decode_vector;
		rows = bt_decode_rows_0f38;
		if (!bt_decode_bit(bt_decode_vec_0f38, b))
			op.flags |= BT_DF_ROWS;
		break;
	default:
		op = bt_decode_bit(bt_decode_vec_0f3a, b) ? bt_decode_vector_imm :
							     bt_decode_undefined;
		break;
	}
	bt_decode_resolve(rd, in, &op, rows);
	return op;
}

/* --- VEX and EVEX --- */

/* 0F 38 90-93, A0-A3: gathers and scatters; C6, C7: their prefetches. */
static bool
bt_decode_is_vsib(const struct bt_insn *in)
{
	if (in->map != BT_MAP_0F38 || in->pp != BT_PP_66)
		return false;
	if (in->opcode >= 0x90 && in->opcode <= 0x93)
		return true;
	return in->encoding == BT_EVEX &&
	    ((in->opcode >= 0xa0 && in->opcode <= 0xa3) || in->opcode == 0xc6 ||
		in->opcode == 0xc7);
}

static bool
bt_decode_vex_has_imm(const struct bt_insn *in)
{
	if (in->map == BT_MAP_0F3A)
		return true;
	if (in->map != BT_MAP_0F)
		return false;
	return (in->opcode >= 0x70 && in->opcode <= 0x73) || in->opcode == 0xc2 ||
	    (in->opcode >= 0xc4 && in->opcode <= 0xc6);
}

/* The opcode behind a VEX or EVEX prefix: everything is a vector instruction but BMI1 and BMI2. */
static struct bt_opcode
bt_decode_vex_opcode(struct bt_reader *rd, struct bt_insn *in)
{
	const struct bt_opcode_row *rows;
	struct bt_opcode op;

	in->opcode_off = (uint8_t)rd->pos;
	in->opcode = bt_reader_byte(rd);
	op = bt_decode_vex_has_imm(in) ? bt_decode_vector_imm : bt_decode_vector;
	if (in->encoding == BT_VEX && in->map == BT_MAP_0F && in->opcode == 0x77)
		op.flags = 0; /* VZEROUPPER */
	if (op.flags & BT_DF_MODRM)
		bt_decode_modrm(rd, in);
	rows = in->map == BT_MAP_0F38 ? bt_decode_rows_vex38 : bt_decode_rows_vex3a;
	if (in->encoding == BT_VEX && in->map != BT_MAP_0F && in->opcode >= 0xf0) {
		op = *bt_decode_row(rows, in);
		if (in->vl != 0)
			op = bt_decode_undefined;
	}
	in->vsib = bt_decode_is_vsib(in);
	return op;
}

/* The bits VEX and EVEX share: inverted R, X, B in b1, W, vvvv and pp in b2. Outside 64-bit mode R
 * and X are 1 (else this is another instruction), B and the top bit of vvvv are ignored (SDM 2,
 * 2.3.5). */
static void
bt_decode_vex_common(struct bt_insn *in, struct bt_ext *ext, uint8_t b1, uint8_t b2)
{
	in->w = b2 >> 7;
	in->vvvv = (~b2 >> 3) & 15;
	in->pp = b2 & 3;
	if (in->mode != 8) {
		in->vvvv &= 7;
		return;
	}
	ext->r = b1 & 0x80 ? 0 : 8;
	ext->x = b1 & 0x40 ? 0 : 8;
	ext->b = b1 & 0x20 ? 0 : 8;
}

static void
bt_decode_vex(struct bt_reader *rd, struct bt_insn *in, struct bt_ext *ext, uint8_t first)
{
	uint8_t b1 = bt_reader_byte(rd), b2;

	in->encoding = BT_VEX;
	if (first == 0xc5) {
		/* R vvvv L pp: as the three-byte form with X = B = 1, W = 0, map 0F. */
		in->map = BT_MAP_0F;
		bt_decode_vex_common(in, ext, b1 | 0x7f, b1 & 0x7f);
		in->vl = (b1 >> 2) & 1;
		return;
	}
	b2 = bt_reader_byte(rd);
	in->map = b1 & 0x1f;
	bt_decode_vex_common(in, ext, b1, b2);
	in->vl = (b2 >> 2) & 1;
}

/* SDM 2, 2.7. False: undefined. */
static bool
bt_decode_evex(struct bt_reader *rd, struct bt_insn *in, struct bt_ext *ext)
{
	uint8_t b1 = bt_reader_byte(rd), b2 = bt_reader_byte(rd), b3 = bt_reader_byte(rd);

	in->encoding = BT_EVEX;
	in->map = b1 & 0x0f;
	bt_decode_vex_common(in, ext, b1, b2);
	in->evex_z = b3 >> 7;
	in->vl = (b3 >> 5) & 3;
	in->evex_b = (b3 >> 4) & 1;
	in->evex_aaa = b3 & 7;
	if (in->mode == 8) {
		ext->r |= b1 & 0x10 ? 0 : 16;
		ext->v = b3 & 0x08 ? 0 : 16;
	} else if (!(b3 & 0x08)) {
		return false;
	}
	return (b2 & 0x04) != 0;
}

/* Whether a byte that starts VEX or EVEX in 64-bit mode does so here; elsewhere it is LES, LDS or
 * BOUND unless what would be their ModRM names a register. */
static bool
bt_decode_is_vex(struct bt_reader *rd, const struct bt_insn *in, uint8_t b)
{
	uint8_t modrm;

	if (b != 0xc4 && b != 0xc5 && b != 0x62)
		return false;
	if (in->mode == 8)
		return true;
	modrm = bt_reader_byte(rd);
	if (rd->err != 0)
		return false;
	rd->pos--;
	return modrm >= 0xc0;
}

static struct bt_opcode
bt_decode_vex_any(struct bt_reader *rd, struct bt_insn *in, struct bt_ext *ext, uint8_t b)
{
	bool ok = !in->lock && !in->rep && !in->repne && !in->opsize_prefix && in->rex == 0;
	struct bt_opcode op;

	if (b == 0x62)
		ok = bt_decode_evex(rd, in, ext) && ok;
	else
		bt_decode_vex(rd, in, ext, b);
	if (!ok || in->map < BT_MAP_0F || in->map > BT_MAP_0F3A)
		return bt_decode_undefined;
	op = bt_decode_vex_opcode(rd, in);
	/* With a vector index V' belongs to that. */
	if (!in->vsib)
		in->vvvv |= ext->v;
	return op;
}

/* --- All together --- */

/* What the tables leave to be said about single instructions. */
static void
bt_decode_details(struct bt_insn *in)
{
	switch (in->id) {
	case BT_ID_JCC:
	case BT_ID_SETCC:
	case BT_ID_CMOVCC: in->cc = in->opcode & 15; break;
	case BT_ID_PUSH_SREG:
	case BT_ID_POP_SREG:
	case BT_ID_LOAD_FAR: in->sreg = (in->opcode >> 3) & 7; break;
	case BT_ID_MOV_FROM_SREG:
	case BT_ID_MOV_TO_SREG:
		in->sreg = in->reg & 7;
		if (in->sreg >= X86_SEG_COUNT ||
		    (in->id == BT_ID_MOV_TO_SREG && in->sreg == X86_CS))
			bt_decode_ud(in);
		break;
	case BT_ID_CMPXCHG8B:
		if (in->size == 8)
			in->id = BT_ID_CMPXCHG16B;
		break;
	default: break;
	}
	if (in->id == BT_ID_LOAD_FAR && in->map == BT_MAP_0F)
		in->sreg = in->opcode & 7;
	else if (in->id == BT_ID_LOAD_FAR)
		in->sreg = in->opcode == 0xc4 ? X86_ES : X86_DS;
}

/* Whether the destination is one that LOCK works on. */
static bool
bt_decode_lock_allowed(const struct bt_insn *in, const struct bt_opcode *op)
{
	/* LOCK MOV CR0 is CR8 on AMD's processors (APM 3, MOV CRn). */
	if (in->id == BT_ID_MOV_FROM_CR || in->id == BT_ID_MOV_TO_CR)
		return in->reg == 0;
	return (op->flags & BT_DF_LOCK) != 0 && in->mod != 3;
}

/* Everything behind the opcode. */
static void
bt_decode_rest(struct bt_reader *rd, struct bt_insn *in, const struct bt_opcode *op,
    const struct bt_ext *ext)
{
	in->id = op->id;
	in->form = op->form;
	if (in->id == BT_ID_UD)
		return;
	bt_decode_size(in, op->size);
	if (in->map == BT_MAP_0F && in->encoding == BT_LEGACY && (in->opcode & 0xfc) == 0x20)
		in->mod = 3; /* MOV of control and debug registers ignores mod */
	if (in->has_modrm)
		bt_decode_operands(rd, in, ext);
	else if (op->flags & BT_DF_OPREG)
		in->reg = (uint8_t)((in->opcode & 7) | ext->b);
	bt_decode_imm(rd, in, op->imm);
	bt_decode_details(in);
	if (((op->flags & BT_DF_NO64) && in->mode == 8) ||
	    ((op->flags & BT_DF_MEM) && in->mod == 3) ||
	    (in->lock && !bt_decode_lock_allowed(in, op)))
		bt_decode_ud(in);
}

int
bt_decode(const uint8_t *bytes, size_t avail, int mode, struct bt_insn *in)
{
	struct bt_reader rd = { .bytes = bytes, .avail = avail };
	struct bt_ext ext = { 0 };
	struct bt_opcode op;
	bool asize_prefix = false;
	uint8_t b;

	*in = (struct bt_insn){ .mode = (uint8_t)mode, .seg = X86_DS };
	in->base = in->index = BT_REG_ZERO;
	b = bt_decode_prefixes(&rd, in, &asize_prefix);
	if (mode == 8)
		in->asize = asize_prefix ? 4 : 8;
	else
		in->asize = (mode == 2) != asize_prefix ? 2 : 4;
	if (bt_decode_is_vex(&rd, in, b)) {
		op = bt_decode_vex_any(&rd, in, &ext, b);
	} else {
		ext.r = in->rex & 4 ? 8 : 0;
		ext.x = in->rex & 2 ? 8 : 0;
		ext.b = in->rex & 1 ? 8 : 0;
		in->w = (in->rex >> 3) & 1;
		in->pp = in->repne ? BT_PP_F2 :
		    in->rep	   ? BT_PP_F3 :
		    in->opsize_prefix ? BT_PP_66 :
					BT_PP_NONE;
		op = bt_decode_legacy_opcode(&rd, in, b);
	}
	bt_decode_rest(&rd, in, &op, &ext);
	if (rd.err != 0)
		return rd.err;
	in->len = (uint8_t)rd.pos;
	for (unsigned i = 0; i < rd.pos; i++)
		in->bytes[i] = bytes[i];
	return 0;
}
