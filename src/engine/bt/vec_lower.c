/*
 * Lowering of vector instructions: re-encodes them for a thunk and picks the handler.
 *
 * The re-encoded instruction has its memory operand at a fixed register and general registers
 * replaced by fixed ones; prefixes that only concern the address are gone. Everything else is as
 * the guest wrote it, so that the host judges it.
 */
#include "engine/bt/vec_impl.h"

/* What of the instruction is replaced. */
struct bt_vec_regs {
	uint8_t reg, rm; /* rm counts where r/m is a register */
	bool w;
	uint8_t imm;
};

static void
bt_code_byte(union bt_code *c, unsigned byte)
{
	c->bytes[c->len] = (uint8_t)byte;
	c->len++;
}

static void
bt_code_prefix_legacy(
    union bt_code *c, const struct bt_insn *in, const struct bt_vec_regs *r, uint8_t rm)
{
	static const uint8_t pps[] = { [BT_PP_66] = 0x66, [BT_PP_F3] = 0xf3, [BT_PP_F2] = 0xf2 };
	unsigned rex = (r->w ? 8u : 0) | (r->reg >> 3 & 1u) << 2 | (rm >> 3 & 1u);

	if (in->pp != BT_PP_NONE)
		bt_code_byte(c, pps[in->pp]);
	if (rex != 0)
		bt_code_byte(c, 0x40 | rex);
	bt_code_byte(c, 0x0f);
	if (in->map == BT_MAP_0F38)
		bt_code_byte(c, 0x38);
	else if (in->map == BT_MAP_0F3A)
		bt_code_byte(c, 0x3a);
}

/* VEX (SDM 2, 2.3.5) in three bytes or EVEX (2.7.1); x is the inverse of the prefix's bit X. */
static void
bt_code_prefix_vex(
    union bt_code *c, const struct bt_insn *in, const struct bt_vec_regs *r, uint8_t rm, unsigned x)
{
	unsigned p0 = (r->reg & 8 ? 0 : 0x80u) | (x ? 0 : 0x40u) | (rm & 8 ? 0 : 0x20u) | in->map;
	unsigned p1 = (r->w ? 0x80u : 0) | (~in->vvvv & 15u) << 3 | in->pp;

	if (in->encoding == BT_VEX) {
		bt_code_byte(c, 0xc4);
		bt_code_byte(c, p0);
		bt_code_byte(c, p1 | (unsigned)in->vl << 2);
		return;
	}
	bt_code_byte(c, 0x62);
	bt_code_byte(c, p0 | (r->reg & 16 ? 0 : 0x10u));
	bt_code_byte(c, p1 | 4);
	bt_code_byte(c, (unsigned)in->evex_z << 7 | (unsigned)in->vl << 5 |
			    (unsigned)in->evex_b << 4 |
			    ((in->vsib ? in->index : in->vvvv) & 16 ? 0 : 8u) | in->evex_aaa);
}

static void
bt_code_encode(union bt_code *c, const struct bt_insn *in, const struct bt_vec_regs *r,
    enum bt_thunk_shape shape)
{
	bool mem = in->mod != 3;
	uint8_t rm = mem ? BT_THUNK_MEM : r->rm;

	c->key = 0;
	c->shape = shape;
	if (in->encoding == BT_LEGACY)
		bt_code_prefix_legacy(c, in, r, rm);
	else
		bt_code_prefix_vex(c, in, r, rm, in->vsib ? in->index & 8 : mem ? 0 : rm & 16);
	bt_code_byte(c, in->opcode);
	if (!in->has_modrm)
		return;
	bt_code_byte(
	    c, (mem ? 0 : 0xc0u) | (r->reg & 7u) << 3 | (in->vsib ? (unsigned)X86_RSP : (rm & 7u)));
	if (in->vsib)
		bt_code_byte(c, (unsigned)in->scale << 6 | (in->index & 7u) << 3 | BT_THUNK_MEM);
	if (in->imm_len != 0)
		bt_code_byte(c, r->imm);
}

void
bt_vec_bind(struct bt_cpu *cpu, struct bt_op *op, const union bt_code *c, uint8_t handler)
{
	const void *code = bt_thunk_get(cpu, c);

	op->osize = handler;
	op->fn = bt_vec_handlers[handler];
	op->ptr = code;
	if (code == NULL) {
		op->fn = bt_op_ud;
	} else if (code == bt_thunk_full) {
		op->fn = bt_vec_uncached;
		op->imm = c->key;
	}
}

/* --- Operands --- */

static bool
bt_vec_kind_has_gpr(uint8_t kind)
{
	return kind == BT_VK_GPR_SRC || kind == BT_VK_GPR_DST || kind == BT_VK_GPR_REG ||
	       kind == BT_VK_PCMPSTRI || kind == BT_VK_PCMPSTRM;
}

static uint8_t
bt_vec_kind_bit(const struct bt_insn *in, const struct bt_vec_row *row)
{
	if (in->encoding == BT_EVEX || (row->flags & BT_VF_OPMASK))
		return BT_VEC_AVX512;
	if (in->encoding == BT_VEX)
		return BT_VEC_AVX;
	return row->flags & BT_VF_MMX ? BT_VEC_MMX : BT_VEC_SSE;
}

/* Embedded broadcast: one element in memory (SDM 2, 2.7.7). */
static bool
bt_vec_broadcasts(const struct bt_insn *in)
{
	return in->encoding == BT_EVEX && in->evex_b && in->mod != 3;
}

static bool
bt_vec_aligned(
    struct bt_cpu *cpu, const struct bt_insn *in, const struct bt_vec_row *row, unsigned size)
{
	if (row->flags & BT_VF_ALIGNED)
		return true;
	if ((row->flags & BT_VF_SHA) && !x86_cpuid_is_intel(cpu->vm->cpuid))
		return false;
	return in->encoding == BT_LEGACY && size == 16 && !(row->flags & BT_VF_ANY);
}

/* What a compressed displacement counts in (SDM 2, 2.7.5): the memory operand, or one element. */
static int32_t
bt_vec_disp_unit(const struct bt_vec_row *row, unsigned size, unsigned elem)
{
	return (int32_t)(row->kind == BT_VK_EXPAND || row->kind == BT_VK_COMPRESS ? elem : size);
}

/* Sets the fields of a memory operand under an opmask; true when the mask can turn off faults. */
static bool
bt_vec_masked(
    const struct bt_insn *in, const struct bt_vec_row *row, unsigned elem, struct bt_op *op)
{
	unsigned bytes =
	    row->flags & BT_VF_REPEAT ? 16u << in->vl : bt_vec_size_bytes(row->size, in, in->w);

	if (in->encoding != BT_EVEX || in->evex_aaa == 0 || row->elem == BT_VS_0)
		return false;
	op->reg = (uint8_t)elem;
	/* Broadcasts of more than there is are undefined, which the host will say. */
	op->rm = BT_MASK_OPMASK(in->evex_aaa, __builtin_ctz(MAX(bytes / elem, 1u)));
	return true;
}

static bool
bt_vec_is_mem(const struct bt_insn *in)
{
	return in->has_modrm && in->mod != 3;
}

/* --- Kinds --- */

/* Loads, stores, compressions and expansions. */
static uint8_t
bt_vec_memory_handler(struct bt_cpu *cpu, const struct bt_insn *in, const struct bt_vec_row *row,
    unsigned size, unsigned elem, struct bt_op *op)
{
	bool store = row->kind == BT_VK_STORE || row->kind == BT_VK_COMPRESS;
	bool aligned = bt_vec_aligned(cpu, in, row, size);
	bool masked = bt_vec_masked(in, row, elem, op);

	if (masked && row->kind == BT_VK_EXPAND)
		return BT_VH_EXPAND;
	if (masked && row->kind == BT_VK_COMPRESS)
		return BT_VH_COMPRESS;
	if (masked)
		return (uint8_t)((store ? BT_VH_MASK_STORE : BT_VH_MASK_LOAD) + aligned);
	if (store && in->encoding == BT_EVEX && in->evex_aaa != 0)
		return BT_VH_STORE_PART;
	return (uint8_t)((store ? BT_VH_STORE : BT_VH_LOAD) + aligned);
}

/* MASKMOVDQU and MASKMOVQ: an operand that ModRM does not name. */
static uint8_t
bt_vec_maskmov_handler(struct bt_op *op)
{
	op->base = BT_OFF(X86_RDI);
	op->index = BT_OFF(BT_REG_ZERO);
	op->disp = 0;
	return BT_VH_STORE_PART;
}

/* The handler, and with it what registers the thunk uses and its shape. */
static uint8_t
bt_vec_handler_pick(struct bt_cpu *cpu, const struct bt_insn *in, const struct bt_vec_row *row,
    unsigned elem, struct bt_op *op, struct bt_vec_regs *r, enum bt_thunk_shape *shape)
{
	bool mem = bt_vec_is_mem(in);

	switch (row->kind) {
	case BT_VK_LOAD:
	case BT_VK_STORE:
	case BT_VK_EXPAND:
	case BT_VK_COMPRESS:
		return mem ? bt_vec_memory_handler(cpu, in, row, op->x, elem, op) : BT_VH_REG;
	case BT_VK_GPR_SRC:
		if (mem)
			return BT_VH_LOAD;
		op->rm = BT_OFF(in->rm & 15);
		r->rm = BT_THUNK_SRC;
		return BT_VH_SRC;
	case BT_VK_GPR_DST:
		if (mem)
			return BT_VH_STORE;
		op->reg = BT_OFF(in->rm & 15);
		op->rm = BT_OFF(BT_REG_ZERO);
		r->rm = BT_THUNK_DST;
		return BT_VH_GPR;
	case BT_VK_GPR_REG:
		op->reg = BT_OFF(in->reg);
		op->rm = BT_OFF(BT_REG_ZERO);
		r->reg = BT_THUNK_DST;
		return mem ? BT_VH_GPR_LOAD : BT_VH_GPR;
	case BT_VK_PCMPSTRI:
	case BT_VK_PCMPSTRM:
		*shape = BT_THUNK_PCMPSTR;
		op->rm = BT_OFF(X86_RAX);
		if (row->kind == BT_VK_PCMPSTRI)
			return mem ? BT_VH_PCMPSTRI_LOAD : BT_VH_PCMPSTRI;
		return mem ? BT_VH_FLAGS_LOAD : BT_VH_FLAGS;
	case BT_VK_FLAGS:
		*shape = BT_THUNK_FLAGS;
		op->rm = BT_OFF(BT_REG_ZERO);
		if (!mem)
			return BT_VH_FLAGS;
		return bt_vec_aligned(cpu, in, row, op->x) ? BT_VH_FLAGS_LOAD_A : BT_VH_FLAGS_LOAD;
	case BT_VK_VMASK_LOAD:
	case BT_VK_VMASK_STORE:
		op->reg = (uint8_t)elem;
		op->rm = BT_MASK_SIGNS(in->vvvv);
		return row->kind == BT_VK_VMASK_LOAD ? BT_VH_MASK_LOAD : BT_VH_MASK_STORE;
	case BT_VK_MASKMOV: return bt_vec_maskmov_handler(op);
	default: return BT_VH_REG;
	}
}

/* Forms that the host would not, or could not safely, judge. */
static bool
bt_vec_malformed(const struct bt_cpu *cpu, const struct bt_insn *in, const struct bt_vec_row *row)
{
	bool mem = bt_vec_is_mem(in);

	/* Real and virtual-8086 mode know neither VEX nor EVEX (SDM 2, 2.3.5). */
	if (in->encoding != BT_LEGACY && (!cpu->pe || cpu->vm86))
		return true;
	if (mem && (row->size == BT_VS_0 || in->vl == 3))
		return true;
	if (row->kind == BT_VK_MASKMOV && mem)
		return true;
	if (row->kind == BT_VK_GPR_REG && in->reg > X86_R15)
		return true;
	return (row->flags & BT_VF_OPMASK) && bt_vec_kind_has_gpr(row->kind) && in->w &&
	       in->mode != 8;
}

static void
bt_vec_lower_vec(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op)
{
	const struct bt_vec_row *row = bt_vec_row(in);
	enum bt_thunk_shape shape = BT_THUNK_PLAIN;
	struct bt_vec_regs r;
	union bt_code code;
	unsigned size, elem;
	uint8_t handler;

	op->fn = bt_op_ud;
	if (row == NULL || bt_vec_malformed(cpu, in, row))
		return;
	/* Outside 64-bit mode general registers have 32 bits whatever W says. */
	r = (struct bt_vec_regs){
		.reg = in->reg, .rm = in->rm, .w = in->w, .imm = (uint8_t)in->imm
	};
	if (in->mode != 8 && bt_vec_kind_has_gpr(row->kind))
		r.w = false;
	/* There the register in the immediate of VBLENDV has three bits. */
	if (in->mode != 8 && in->map == BT_MAP_0F3A && in->encoding == BT_VEX &&
	    in->opcode >= 0x4a && in->opcode <= 0x4c)
		r.imm &= 0x7f;

	size = bt_vec_size_bytes(row->size, in, r.w);
	elem = bt_vec_size_bytes(row->elem, in, r.w);
	if (bt_vec_broadcasts(in))
		size = elem = r.w ? 8 : 4;
	op->x = (uint8_t)size;
	op->y = bt_vec_kind_bit(in, row);
	op->flags = 0;
	if (in->encoding == BT_EVEX && in->disp8)
		op->disp = in->disp * bt_vec_disp_unit(row, size, elem);

	if (row->kind == BT_VK_MXCSR) {
		if (bt_vec_is_mem(in) && in->vl == 0 && in->vvvv == 0 &&
		    ((in->reg & 7) == 2 || (in->reg & 7) == 3))
			bt_mxcsr_lower(op, (in->reg & 7) == 2, BT_VEC_AVX);
		return;
	}
	if (row->kind == BT_VK_GATHER || row->kind == BT_VK_SCATTER) {
		bt_code_encode(&code, in, &r, BT_THUNK_PLAIN);
		if (bt_thunk_get(cpu, &code) != NULL)
			bt_gather_lower(op, in, row->kind == BT_VK_SCATTER);
		return;
	}
	handler = bt_vec_handler_pick(cpu, in, row, elem, op, &r, &shape);
	bt_code_encode(&code, in, &r, shape);
	bt_vec_bind(cpu, op, &code, handler);
}

void
bt_vec_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op)
{
	switch (in->id) {
	case BT_ID_VEC: bt_vec_lower_vec(cpu, in, op); break;
	case BT_ID_X87:
	case BT_ID_FWAIT: bt_x87_lower(cpu, in, op); break;
	case BT_ID_LDMXCSR: bt_mxcsr_lower(op, true, BT_VEC_SSE); break;
	case BT_ID_STMXCSR: bt_mxcsr_lower(op, false, BT_VEC_SSE); break;
	default: bt_xsave_lower(cpu, in, op); break;
	}
}
