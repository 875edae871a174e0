/*
 * Cases from numbers. Encodings are drawn from all opcode maps; registers, displacements and memory are
 * drawn so that most accesses hit data memory, some its borders, and some nothing.
 */
#include "fuzz_cpu.h"

#include "engine/bt/insn.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>

struct fuzz_rng {
	uint64_t s;
};

/* splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014). */
static uint64_t
fuzz_next(struct fuzz_rng *r)
{
	uint64_t z = r->s += 0x9e3779b97f4a7c15ull;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static unsigned
fuzz_below(struct fuzz_rng *r, unsigned n)
{
	return (unsigned)((fuzz_next(r) >> 32) * n >> 32);
}

static bool
fuzz_percent(struct fuzz_rng *r, unsigned p)
{
	return fuzz_below(r, 100) < p;
}

void
fuzz_host_init(struct fuzz_host *h)
{
	uint32_t a, b, c, d, xlo, xhi;

	memset(h, 0, sizeof(*h));
	__asm__ volatile("xgetbv" : "=a"(xlo), "=d"(xhi) : "c"(0));
	/* LAR fails where the kernel offers no 32-bit code segment. */
	__asm__("xorl %%eax, %%eax\n\tlarl %1, %%eax\n\tmovl %%eax, %0"
		: "=r"(a)
		: "r"(FUZZ_CS32)
		: "eax", "cc");
	h->has_32bit = a != 0;
	h->xcr0 = xlo & (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512);
	h->xsave_size = 576;
	for (unsigned i = 2; i < 8; i++) {
		if (!(h->xcr0 >> i & 1))
			continue;
		__cpuid_count(0xd, i, a, b, c, d);
		h->size[i] = a;
		h->offset[i] = b;
		h->xsave_size = MAX(h->xsave_size, a + b);
	}
}

const uint8_t *
fuzz_pool(void)
{
	static uint8_t *pool;
	struct fuzz_rng r = { 7 };
	size_t size = 4 * FUZZ_DATA_SIZE;

	if (pool != NULL)
		return pool;
	pool = malloc(size);
	if (pool == NULL)
		abort();
	for (size_t i = 0; i < size; i += 8) {
		uint64_t v = fuzz_next(&r);

		/* Some of it are pointers, so that indirect branches and pops find something. */
		if (fuzz_percent(&r, 10))
			v = FUZZ_DATA + v % FUZZ_DATA_SIZE;
		memcpy(pool + i, &v, 8);
	}
	return pool;
}

static uint64_t
fuzz_value(struct fuzz_rng *r)
{
	static const uint64_t special[] = { 0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff,
		0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff, 0x8000000000000000,
		0xffffffffffffffff, 0x100000000 };
	unsigned kind = fuzz_below(r, 100);

	if (kind < 45)
		return FUZZ_DATA + fuzz_below(r, FUZZ_DATA_SIZE);
	if (kind < 55) /* just before a page border */
		return FUZZ_DATA + 0x1000 * (1 + fuzz_below(r, 4)) - fuzz_below(r, 64);
	if (kind < 70)
		return fuzz_below(r, 64);
	if (kind < 80)
		return special[fuzz_below(r, ARRAY_SIZE(special))];
	return kind < 88 ? (uint32_t)fuzz_next(r) : fuzz_next(r);
}

/* --- Instructions --- */

struct fuzz_bytes {
	uint8_t b[64];
	int n;
};

static void
fuzz_put(struct fuzz_bytes *o, unsigned v)
{
	o->b[o->n++] = (uint8_t)v;
}

static void
fuzz_prefixes(struct fuzz_rng *r, struct fuzz_bytes *o, int mode)
{
	static const uint8_t common[] = { 0x66, 0xf2, 0xf3, 0xf0, 0x67, 0x2e, 0x36, 0x3e, 0x26 };

	if (fuzz_percent(r, 20))
		fuzz_put(o, 0x66);
	while (fuzz_percent(r, 8))
		fuzz_put(o, common[fuzz_below(r, ARRAY_SIZE(common))]);
	if (mode == 8 && fuzz_percent(r, 2))
		fuzz_put(o, 0x65);
	if (mode == 8 && fuzz_percent(r, 50))
		fuzz_put(o, 0x40 | fuzz_below(r, 16));
}

/* ModRM, SIB, displacement and more random bytes than any immediate needs. */
static void
fuzz_operands(struct fuzz_rng *r, struct fuzz_bytes *o)
{
	fuzz_put(o, fuzz_below(r, 256));
	for (int i = 0; i < 16; i++)
		fuzz_put(o, (unsigned)fuzz_next(r));
}

static void
fuzz_legacy(struct fuzz_rng *r, struct fuzz_bytes *o, int mode)
{
	static const uint8_t simd_prefix[] = { 0, 0x66, 0xf2, 0xf3 };
	unsigned kind = fuzz_below(r, 100);

	if (kind >= 50) {
		uint8_t p = simd_prefix[fuzz_below(r, 4)];

		if (p != 0)
			fuzz_put(o, p);
	}
	fuzz_prefixes(r, o, mode);
	if (kind < 40) {
		fuzz_put(o, fuzz_below(r, 256));
	} else if (kind < 48) {
		fuzz_put(o, 0xd8 + fuzz_below(r, 8));
	} else if (kind < 82) {
		fuzz_put(o, 0x0f);
		fuzz_put(o, fuzz_below(r, 256));
	} else {
		fuzz_put(o, 0x0f);
		fuzz_put(o, kind < 93 ? 0x38 : 0x3a);
		fuzz_put(o, fuzz_below(r, 256));
	}
	fuzz_operands(r, o);
}

static void
fuzz_vex(struct fuzz_rng *r, struct fuzz_bytes *o, int mode)
{
	unsigned v = fuzz_below(r, 256);

	/* In 32-bit modes C4 and C5 are LES and LDS unless the next two bits are set. */
	if (fuzz_percent(r, 30)) {
		fuzz_put(o, 0xc5);
		fuzz_put(o, mode == 8 ? v : v | 0xc0);
	} else {
		fuzz_put(o, 0xc4);
		fuzz_put(o, (fuzz_below(r, 8) << 5 | (1 + fuzz_below(r, 3))) | (mode == 8 ? 0 : 0xc0));
		/* vvvv must be 1111 for many: make it so half of the time. */
		fuzz_put(o, fuzz_percent(r, 50) ? v | 0x78 : v);
	}
	fuzz_put(o, fuzz_below(r, 256));
	fuzz_operands(r, o);
}

static void
fuzz_evex(struct fuzz_rng *r, struct fuzz_bytes *o, int mode)
{
	unsigned p0 = (fuzz_below(r, 16) << 4) | (1 + fuzz_below(r, 3));
	unsigned p1 = fuzz_below(r, 256) | 4, p2 = fuzz_below(r, 256);

	if (mode != 8)
		p0 |= 0xc0;
	if (fuzz_percent(r, 40))
		p1 |= 0x78, p2 |= 8;
	if (fuzz_percent(r, 70))
		p2 &= 0x6f; /* z and b clear more often than not */
	fuzz_put(o, 0x62);
	fuzz_put(o, p0);
	fuzz_put(o, p1);
	fuzz_put(o, p2);
	fuzz_put(o, fuzz_below(r, 256));
	fuzz_operands(r, o);
}

/* What cannot be compared: it enters the host's kernel, asks about this very processor or moment, changes
 * segments, or depends on the host's descriptor tables. */
static bool
fuzz_excluded(const struct bt_insn *in)
{
	switch (in->id) {
	case BT_ID_INT:
	case BT_ID_SYSCALL:
	case BT_ID_SYSENTER:
	case BT_ID_SYSRET:
	case BT_ID_SYSEXIT:
	case BT_ID_JMP_FAR:
	case BT_ID_CALL_FAR:
	case BT_ID_RET_FAR:
	case BT_ID_IRET:
	case BT_ID_LOAD_FAR:
	case BT_ID_MOV_TO_SREG:
	case BT_ID_MOV_FROM_SREG:
	case BT_ID_POP_SREG:
	case BT_ID_PUSH_SREG:
	case BT_ID_SGDT:
	case BT_ID_SIDT:
	case BT_ID_SLDT:
	case BT_ID_STR:
	case BT_ID_SMSW:
	case BT_ID_LAR:
	case BT_ID_LSL:
	case BT_ID_VERR:
	case BT_ID_VERW:
	case BT_ID_RDTSC:
	case BT_ID_RDTSCP:
	case BT_ID_RDPID:
	case BT_ID_RDPMC:
	case BT_ID_CPUID:
	case BT_ID_XGETBV:
	case BT_ID_RDRAND:
	case BT_ID_RDSEED:
	case BT_ID_RDFSBASE:
	case BT_ID_WRFSBASE:
	case BT_ID_RDGSBASE:
	case BT_ID_WRGSBASE:
	case BT_ID_IN:
	case BT_ID_OUT:
	case BT_ID_INS:
	case BT_ID_OUTS:
	case BT_ID_MONITOR:
	case BT_ID_MWAIT:
	case BT_ID_INT1:
	/* What is saved depends on which components the processor thinks are in use. */
	case BT_ID_XSAVE:
	case BT_ID_XSAVEOPT:
	case BT_ID_XSAVEC:
	case BT_ID_XSAVES:
	case BT_ID_XRSTOR:
	case BT_ID_XRSTORS:
		return true;
	/* With a repeat prefix, which is reserved here, AMD's processors take the prefix's condition. */
	case BT_ID_LOOPE:
	case BT_ID_LOOPNE: return in->rep || in->repne;
	case BT_ID_VMCALL: return true;
	/* Stores where the last x87 instruction was, or not, as it likes. */
	case BT_ID_FXSAVE: return true;
	/* SSE4a: hypervisors hide it from CPUID, processors run it all the same. */
	case BT_ID_UD:
	case BT_ID_VEC:
		/* MASKMOVQ makes the x87 stack an MMX one even where it faults. */
		if (in->encoding == BT_LEGACY && in->map == BT_MAP_0F && in->opcode == 0xf7 &&
		    in->pp == BT_PP_NONE)
			return true;
		/* Conversions to MMX registers with a pending x87 exception and a bad address at once. */
		if (in->encoding == BT_LEGACY && in->map == BT_MAP_0F && in->mod != 3 &&
		    in->opcode >= 0x2a && in->opcode <= 0x2d)
			return true;
		if (in->encoding == BT_LEGACY && in->map == BT_MAP_0F && in->pp != BT_PP_NONE &&
		    (in->opcode == 0x78 || in->opcode == 0x79 || in->opcode == 0x2b))
			return true;
		/* So are AMD's virtualization instructions, MONITORX, MWAITX and RDPRU. */
		if (in->map == BT_MAP_0F && in->opcode == 0x01 && in->mod == 3)
			return true;
		/* fall through */
	default:
		return in->seg_override && (in->seg == X86_FS || (in->seg == X86_GS && in->mode != 8));
	}
}

/* Points displacements that stand alone at data memory, and makes others small. */
static void
fuzz_aim(struct fuzz_rng *r, const struct bt_insn *in, uint8_t *code, uint32_t address)
{
	int off = in->modrm_off + 1;
	int32_t disp = (int32_t)fuzz_below(r, 256) - 128;

	if (!in->has_modrm || in->mod == 3 || in->asize == 2)
		return;
	if ((in->modrm & 7) == 4)
		off++;
	if (in->base == BT_REG_RIP)
		disp = (int32_t)(FUZZ_DATA + fuzz_below(r, FUZZ_DATA_SIZE) - (address + in->len));
	else if (in->base == BT_REG_ZERO)
		disp = (int32_t)(FUZZ_DATA + fuzz_below(r, FUZZ_DATA_SIZE));
	else if (in->mod != 2)
		return;
	if (off + 4 <= in->len)
		memcpy(code + off, &disp, 4);
}

static int
fuzz_insn(struct fuzz_rng *r, struct fuzz_case *c, const struct fuzz_host *h, uint8_t *out,
    uint32_t address, struct bt_insn *in)
{
	for (;;) {
		struct fuzz_bytes o = { .n = 0 };
		unsigned kind = fuzz_below(r, 100);

		if (kind < 70 || !(h->xcr0 & X86_XCR0_AVX))
			fuzz_legacy(r, &o, c->mode);
		else if (kind < 85 || !(h->xcr0 & X86_XCR0_OPMASK))
			fuzz_vex(r, &o, c->mode);
		else
			fuzz_evex(r, &o, c->mode);
		if (bt_decode(o.b, 15, c->mode, in) != 0 || fuzz_excluded(in))
			continue;
		/* Undefined encodings are worth a try, but not half of all cases. */
		if (in->id == BT_ID_UD && fuzz_percent(r, 90))
			continue;
		fuzz_aim(r, in, o.b, address);
		memcpy(out, o.b, in->len);
		return in->len;
	}
}

/* Relative branches lead to the start of a later instruction: no loops, no way into the middle. */
static void
fuzz_fix_branch(struct fuzz_rng *r, struct fuzz_case *c, int i, const struct bt_insn *in)
{
	int target = i + 1 + (int)fuzz_below(r, (unsigned)(c->insns - i));
	int32_t rel = c->start[target] - c->start[i + 1];

	if (in->form != BT_FORM_REL)
		return;
	memcpy(c->code + c->start[i + 1] - in->imm_len, &rel, in->imm_len);
}

/* Which operands of these #AC applies to is left to the processor (SDM 3, 6.15, interrupt 17). */
static bool
fuzz_odd_alignment(const struct bt_insn *in)
{
	return in->id == BT_ID_VEC || in->id == BT_ID_X87 || in->id == BT_ID_FXRSTOR ||
	    in->id == BT_ID_MOVDIR64B;
}

/* --- Vector and x87 state --- */

static void
fuzz_float(struct fuzz_rng *r, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i += 8) {
		uint64_t v = fuzz_next(r);
		double d = (double)(int64_t)v / 1e9;
		float f[2] = { (float)(int32_t)v, 0.5f };

		switch (fuzz_below(r, 4)) {
		case 0: memcpy(p + i, &d, 8); break;
		case 1: memcpy(p + i, f, 8); break;
		case 2: v = fuzz_value(r); memcpy(p + i, &v, 8); break;
		default: memcpy(p + i, &v, 8); break;
		}
	}
}

static void
fuzz_x87(struct fuzz_rng *r, uint8_t *x)
{
	uint16_t fcw = 0x37f, fsw;

	if (fuzz_percent(r, 15))
		fcw = (uint16_t)(0x40 | (fuzz_next(r) & 0xf3f));
	fsw = (uint16_t)(fuzz_next(r) & 0x7f00);
	memcpy(x, &fcw, 2);
	memcpy(x + 2, &fsw, 2);
	x[4] = fuzz_percent(r, 70) ? 0xff : (uint8_t)fuzz_next(r);
	for (int i = 0; i < 8; i++) {
		uint8_t *st = x + 32 + 16 * i;
		uint64_t mant = fuzz_next(r);
		uint16_t se = (uint16_t)(0x3fff - 40 + fuzz_below(r, 80));

		if (fuzz_percent(r, 10))
			se = (uint16_t)fuzz_next(r);
		else
			mant |= 1ull << 63;
		se ^= (uint16_t)(fuzz_below(r, 2) << 15);
		memcpy(st, &mant, 8);
		memcpy(st + 8, &se, 2);
	}
}

static void
fuzz_xsave(struct fuzz_rng *r, struct fuzz_case *c, const struct fuzz_host *h)
{
	uint8_t *x = c->xsave;
	uint32_t mxcsr = 0x1f80;
	uint64_t bv = h->xcr0;

	memset(x, 0, sizeof(c->xsave));
	if (fuzz_percent(r, 15))
		mxcsr = (uint32_t)(fuzz_next(r) & 0xffc0);
	fuzz_x87(r, x);
	memcpy(x + 24, &mxcsr, 4);
	fuzz_float(r, x + 160, 256);
	for (unsigned i = 2; i < 8; i++) {
		if (h->size[i] == 0)
			continue;
		fuzz_float(r, x + h->offset[i], h->size[i]);
	}
	memcpy(x + 512, &bv, 8);
}

void
fuzz_case_make(struct fuzz_case *c, const struct fuzz_host *h, uint64_t number, int max_insns)
{
	struct fuzz_rng r = { number * 0x2545f4914f6cdd1dull + 1 };
	struct bt_insn in[FUZZ_MAX_INSNS];

	memset(c, 0, offsetof(struct fuzz_case, xsave));
	c->number = number;
	c->mode = !h->has_32bit || fuzz_percent(&r, 75) ? 8 : 4;
	c->insns = 1 + (int)fuzz_below(&r, (unsigned)max_insns);
	/* Now and then across the border between the two code pages. */
	c->entry = FUZZ_CODE + (fuzz_percent(&r, 5) ? 0x1000 - fuzz_below(&r, 16) : 64 * fuzz_below(&r, 32));
	c->pool = 8 * fuzz_below(&r, FUZZ_DATA_SIZE / 8);
	for (int i = 0; i < c->insns; i++)
		c->start[i + 1] = (uint8_t)(c->start[i] +
		    fuzz_insn(&r, c, h, c->code + c->start[i], c->entry + c->start[i], &in[i]));
	for (int i = 0; i < c->insns; i++) {
		fuzz_fix_branch(&r, c, i, &in[i]);
		c->odd_alignment |= fuzz_odd_alignment(&in[i]);
		c->large_operand |= (in[i].id == BT_ID_X87 && in[i].mod != 3) || in[i].id == BT_ID_FXRSTOR;
	}
	fuzz_case_cut(c, c->insns);
	for (int i = 0; i < X86_GPR_COUNT; i++) {
		c->gpr[i] = fuzz_value(&r);
		if (c->mode == 4)
			c->gpr[i] = i < 8 ? (uint32_t)c->gpr[i] : 0;
	}
	if (fuzz_percent(&r, 90))
		c->gpr[X86_RSP] = FUZZ_DATA + 0x800 + 8 * fuzz_below(&r, 0x200);
	/* Not every kernel can return to user mode with a stack pointer that is not canonical, and at the
	 * end of the lower half Linux keeps a page of its own. */
	c->gpr[X86_RSP] &= ~0ull >> 18;
	c->rflags = 0x202 | (fuzz_next(&r) & X86_FL_ARITH);
	if (fuzz_percent(&r, 15))
		c->rflags |= X86_FL_DF;
	if (fuzz_percent(&r, 2) && !c->odd_alignment)
		c->rflags |= X86_FL_AC;
	fuzz_xsave(&r, c, h);
}

void
fuzz_case_cut(struct fuzz_case *c, int n)
{
	c->insns = n;
	/* INT3 ends the case, wherever a branch that jumped further leads. */
	memset(c->code + c->start[n], 0xcc, sizeof(c->code) - c->start[n]);
}
