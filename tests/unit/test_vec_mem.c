/*
 * Vector instructions whose memory operands are special: gathers, scatters, MASKMOVDQU, MMIO, the
 * FXSAVE and XSAVE families; and thunks when there is no more room for them.
 */
#include "vec_pair.h"

#include <errno.h>

static bool
mem_has(struct pair *p, uint64_t components)
{
	return (p->mask & components) == components;
}

/* --- Gathers and scatters --- */

/* VSIB with base %rbx and scale 0. evex: mask k, else vector register vvvv. */
static unsigned
mem_encode_vsib(uint8_t *out, bool evex, uint8_t opcode, bool w, unsigned vl, unsigned reg,
    unsigned index, unsigned mask)
{
	uint8_t *p = out;

	if (evex) {
		*p++ = 0x62;
		*p++ = (uint8_t)(0x22 | (reg & 8 ? 0 : 0x80) | (index & 8 ? 0 : 0x40) |
				 (reg & 16 ? 0 : 0x10));
		*p++ = (uint8_t)(w << 7 | 0x7d);
		*p++ = (uint8_t)(vl << 5 | (index & 16 ? 0 : 8) | mask);
	} else {
		*p++ = 0xc4;
		*p++ = (uint8_t)(0x22 | (reg & 8 ? 0 : 0x80) | (index & 8 ? 0 : 0x40));
		*p++ = (uint8_t)(w << 7 | (~mask & 15) << 3 | vl << 2 | 1);
	}
	*p++ = opcode;
	*p++ = (uint8_t)(4 | (reg & 7) << 3);
	*p++ = (uint8_t)((index & 7) << 3 | X86_RBX);
	return (unsigned)(p - out);
}

/* Writes vector register n of the input, all of it. */
static void
mem_set_vector(struct pair *p, unsigned n, const uint8_t *val)
{
	if (n >= 16) {
		memcpy(pair_component(p, &p->in, 7) + 64 * (n - 16), val, 64);
		return;
	}
	memcpy(p->in.xsave + BT_XSAVE_XMM + 16 * n, val, 16);
	memcpy(pair_component(p, &p->in, 2) + 16 * n, val + 16, 16);
	if (mem_has(p, X86_XCR0_ZMM_HI256))
		memcpy(pair_component(p, &p->in, 6) + 32 * n, val + 32, 32);
}

/* Indices of 4 or 8 bytes that mostly hit the pages, now and then the holes beside them. */
static void
mem_set_indices(struct pair *p, unsigned n, bool quad)
{
	uint8_t val[64];
	bool wild = pair_random(p) % 3 == 0;

	for (unsigned i = 0; i < 64; i += quad ? 8 : 4) {
		int64_t at = (int64_t)(pair_random(p) % (wild ? 0x3800 : 0x2ff8)) - 0x1000;

		if (pair_random(p) % 8 == 0)
			at = 0xffd; /* across pages */
		memcpy(val + i, &at, quad ? 8 : 4);
	}
	mem_set_vector(p, n, val);
}

static void
test_gather(void **state)
{
	struct pair *p = pair_create();
	unsigned failed = 0, faults = 0;

	for (int i = 0; i < 20000 && failed < 10 && mem_has(p, X86_XCR0_AVX); i++) {
		uint64_t r = pair_random(p);
		bool evex = (r & 1) && mem_has(p, X86_XCR0_AVX512);
		bool scatter = evex && (r & 2);
		unsigned regs = evex ? 32 : 16, n = r >> 8 & 3;
		unsigned reg = (r >> 16) % regs, index = (r >> 24) % regs;
		unsigned mask = evex ? (r >> 32 & 7) : (r >> 32 & 15);
		uint8_t insn[8];
		unsigned len = mem_encode_vsib(insn, evex, (uint8_t)((scatter ? 0xa0 : 0x90) + n),
		    r >> 40 & 1, (r >> 41) % (evex ? 3 : 2), reg, index, mask);

		pair_randomize(p);
		mem_set_indices(p, index, n & 1);
		p->in.gpr[X86_RBX] = PAIR_FIRST + 0x1000;
		if (evex && pair_random(p) % 4 == 0)
			pair_set_opmask(p, (int)mask, 0);
		failed += !pair_run(p, insn, len);
		faults += p->native.vector == X86_PF;
	}
	if (!mem_has(p, X86_XCR0_AVX))
		faults = 1;
	pair_destroy(p);
	assert_int_equal(failed, 0);
	assert_true(faults > 0);
}

/* An element in MMIO: the machine is called, with vector state put away, half-way through. */
static void
test_gather_mmio(void **state)
{
	static const uint8_t vpgatherdd[] = { 0xc4, 0xe2, 0x75, 0x90, 0x14,
		0x03 }; /* ymm1, (rbx,ymm0) */
	struct pair *p = pair_create();
	uint8_t val[64] = { 0 }, *out;
	uint32_t index = 0x1000;

	if (!mem_has(p, X86_XCR0_AVX)) {
		pair_destroy(p);
		skip();
	}
	pair_randomize(p);
	memcpy(val + 8, &index, 4); /* element 2 is a page further on */
	mem_set_vector(p, 0, val);
	memset(val, 0xff, sizeof(val));
	mem_set_vector(p, 1, val);
	p->in.gpr[X86_RBX] = PAIR_FIRST;
	memcpy(p->in.data, "abcd", 4);
	pair_map(p, 2, 0x800000, X86_PTE_P | X86_PTE_W | X86_PTE_U);
	pair_run_guest(p, vpgatherdd, sizeof(vpgatherdd));
	assert_int_equal(p->guest.vector, -1);
	out = p->guest.xsave + BT_XSAVE_XMM + 16 * 2;
	assert_memory_equal(out, "abcdabcd\0\1\2\3abcd", 16);
	/* Another register, which the machine's code changed, is untouched. */
	assert_memory_equal(
	    p->guest.xsave + BT_XSAVE_XMM + 16 * 7, p->in.xsave + BT_XSAVE_XMM + 16 * 7, 16);
	pair_destroy(p);
}

/* --- MASKMOV --- */

static void
test_maskmov(void **state)
{
	static const uint8_t maskmovdqu[] = { 0x66, 0x0f, 0xf7, 0xd3 },
			     maskmovq[] = { 0x0f, 0xf7, 0xd3 };
	static const uint64_t at[] = { PAIR_FIRST + 0x123, PAIR_FIRST + 0xff9, PAIR_RO - 4,
		PAIR_END - 5, PAIR_FIRST - 3 };
	struct pair *p = pair_create();
	unsigned failed = 0;

	for (unsigned i = 0; i < 400 && failed < 10; i++) {
		pair_randomize(p);
		p->in.gpr[X86_RDI] = at[i % ARRAY_SIZE(at)];
		if (i % 3 == 0)
			memset(p->in.xsave + BT_XSAVE_XMM + 16 * 3, 0, 16);
		if (i % 3 == 1)
			memset(p->in.xsave + BT_XSAVE_ST + 16 * 3, 0, 8);
		failed += !pair_run(p, maskmovdqu, sizeof(maskmovdqu));
		/* Whether one that faults has become an MMX instruction is the processor's choice.
		 */
		bt_put(p->in.xsave + BT_XSAVE_FSW, 2, 0);
		p->in.xsave[BT_XSAVE_FTW] = 0xff;
		failed += !pair_run(p, maskmovq, sizeof(maskmovq));
	}
	pair_destroy(p);
	assert_int_equal(failed, 0);
}

/* --- MMIO --- */

static void
test_mmio(void **state)
{
	static const uint8_t load[] = { 0x0f, 0x10, 0x03 }, store[] = { 0x0f, 0x11, 0x0b };
	static const uint8_t fild[] = { 0xdb, 0x03, 0x0f, 0x77 };
	struct pair *p = pair_create();
	uint8_t want[16];

	pair_map(p, 2, 0x800000, X86_PTE_P | X86_PTE_W | X86_PTE_U);
	pair_randomize(p);
	p->in.gpr[X86_RBX] = PAIR_FIRST + 0x1010;
	pair_run_guest(p, load, sizeof(load));
	for (unsigned i = 0; i < 16; i++)
		want[i] = (uint8_t)(0x10 + i);
	assert_memory_equal(p->guest.xsave + BT_XSAVE_XMM, want, 16);
	assert_memory_equal(
	    p->guest.xsave + BT_XSAVE_XMM + 16 * 7, p->in.xsave + BT_XSAVE_XMM + 16 * 7, 16);

	memset(pair_mmio_log, 0, sizeof(pair_mmio_log));
	pair_run_guest(p, store, sizeof(store));
	assert_memory_equal(pair_mmio_log + 0x10, p->in.xsave + BT_XSAVE_XMM + 16, 16);

	/* Half of it in RAM. */
	p->in.gpr[X86_RBX] = PAIR_FIRST + 0xffc;
	pair_run_guest(p, store, sizeof(store));
	assert_memory_equal(p->guest.data + 0xffc, p->in.xsave + BT_XSAVE_XMM + 16, 4);
	assert_memory_equal(pair_mmio_log, p->in.xsave + BT_XSAVE_XMM + 20, 12);

	p->in.gpr[X86_RBX] = PAIR_FIRST + 0x1000;
	pair_run_guest(p, fild, sizeof(fild));
	assert_int_equal(p->guest.vector, -1);
	pair_destroy(p);
}

/* --- FXSAVE and XSAVE --- */

/* Bytes of an area that hold pointers into code and data, or tell the host's own MXCSR mask. */
static void
mem_blank_pointers(struct pair_regs *r, uint64_t at)
{
	uint8_t *area = r->data + (at - PAIR_FIRST);

	memset(area + BT_XSAVE_FOP, 0, BT_XSAVE_MXCSR - BT_XSAVE_FOP);
	if (bt_get32(area + BT_XSAVE_MXCSR_MASK) == 0x2ffff)
		bt_put(area + BT_XSAVE_MXCSR_MASK, 4, BT_MXCSR_MASK);
}

/* Runs an instruction that saves to (%rbx). */
static bool
mem_run_save(struct pair *p, const uint8_t *insn, unsigned len)
{
	uint64_t at = p->in.gpr[X86_RBX];

	p->in.gpr[X86_R15] = (uintptr_t)&p->ctx;
	pair_run_native(p, insn, len);
	pair_run_guest(p, insn, len);
	if (p->native.vector < 0 && p->guest.vector < 0) {
		mem_blank_pointers(&p->native, at);
		mem_blank_pointers(&p->guest, at);
	}
	return pair_compare(p, insn, len);
}

/* State with some components in their initial state. */
static void
mem_randomize_state(struct pair *p)
{
	uint64_t bv;

	pair_randomize(p);
	bv = pair_random(p) & p->mask;
	bt_put(p->in.xsave + BT_XSAVE_BV, 8, bv);
	if (pair_random(p) % 2)
		bt_put(p->in.xsave + BT_XSAVE_MXCSR, 4, BT_MXCSR_RESET);
	p->in.gpr[X86_RAX] = pair_random(p) % 2 ? UINT64_MAX : pair_random(p);
	p->in.gpr[X86_RDX] = pair_random(p);
}

static void
test_save(void **state)
{
	static const struct {
		uint8_t len, bytes[4];
	} insns[] = {
		{ 3, { 0x0f, 0xae, 0x03 } }, { 4, { 0x48, 0x0f, 0xae, 0x03 } }, /* FXSAVE */
		{ 3, { 0x0f, 0xae, 0x23 } }, { 4, { 0x48, 0x0f, 0xae, 0x23 } }, /* XSAVE */
		{ 3, { 0x0f, 0xae, 0x33 } }, { 4, { 0x48, 0x0f, 0xae, 0x33 } }, /* XSAVEOPT */
		{ 3, { 0x0f, 0xc7, 0x23 } }, { 4, { 0x48, 0x0f, 0xc7, 0x23 } }, /* XSAVEC */
	};
	static const uint64_t at[] = { PAIR_FIRST, PAIR_FIRST + 0xf00, PAIR_FIRST + 0x1240,
		PAIR_FIRST + 0xe10, PAIR_FIRST + 8, PAIR_RO - 0x140, PAIR_FIRST - 0x40,
		PAIR_FIRST - 0x240 };
	struct pair *p = pair_create();
	unsigned failed = 0;

	p->any_byte = true;
	for (unsigned i = 0; i < 4000 && failed < 10; i++) {
		mem_randomize_state(p);
		p->in.gpr[X86_RBX] = at[pair_random(p) % ARRAY_SIZE(at)];
		if (pair_random(p) % 2) /* as XSAVE requires; what is there may be any */
			p->in.gpr[X86_RBX] &= ~63ull;
		failed += !mem_run_save(
		    p, insns[i % ARRAY_SIZE(insns)].bytes, insns[i % ARRAY_SIZE(insns)].len);
	}
	pair_destroy(p);
	assert_int_equal(failed, 0);
}

/* An area for XRSTOR at the given place: mostly valid. */
static void
mem_make_area(struct pair *p, uint64_t at, bool compact)
{
	uint8_t *area = p->in.data + (at - PAIR_FIRST);
	uint64_t r = pair_random(p), bv = pair_random(p) & p->mask, layout;

	pair_fill_vector(p, area, 2816);
	memset(area, 0, BT_XSAVE_ST);
	bt_put(area + BT_XSAVE_FCW, 2, r);
	bt_put(area + BT_XSAVE_FSW, 2, r >> 16);
	area[BT_XSAVE_FTW] = (uint8_t)(r >> 32);
	bt_put(area + BT_XSAVE_MXCSR, 4, r >> 40 & 0xffff);
	memset(area + BT_XSAVE_BV, 0, 64);
	layout = bv | (pair_random(p) & p->mask);
	switch (pair_random(p) % 16) {
	case 0: bv |= BIT64(3 + pair_random(p) % 60); break;
	case 1: layout |= BIT64(pair_random(p) % 63); break;
	case 2: layout &= bv & (bv - 1); break;
	case 3: area[BT_XSAVE_BV + 8 + pair_random(p) % 56] = 1; break;
	case 4: bt_put(area + BT_XSAVE_MXCSR, 4, 0x1f80 | 1u << (16 + pair_random(p) % 16)); break;
	}
	bt_put(area + BT_XSAVE_BV, 8, bv);
	if (compact)
		bt_put(area + BT_XSAVE_XCOMP_BV, 8, layout | BT_XCOMP_BV_COMPACT);
}

/* AMD's own MXCSR bit, which is not offered, is the one the host may take. */
static bool
mem_has_mm(const struct pair *p, uint64_t at)
{
	return bt_get32(p->in.data + (at - PAIR_FIRST) + BT_XSAVE_MXCSR) & BIT(17);
}

static void
test_restore(void **state)
{
	static const struct {
		uint8_t len, bytes[4];
	} insns[] = {
		{ 3, { 0x0f, 0xae, 0x0b } }, { 4, { 0x48, 0x0f, 0xae, 0x0b } }, /* FXRSTOR */
		{ 3, { 0x0f, 0xae, 0x2b } }, { 4, { 0x48, 0x0f, 0xae, 0x2b } }, /* XRSTOR */
	};
	static const uint64_t at[] = { PAIR_FIRST, PAIR_FIRST + 0xf00, PAIR_FIRST + 0x1240,
		PAIR_FIRST + 0xe80 };
	struct pair *p = pair_create();
	unsigned failed = 0, faults = 0;

	p->any_byte = true;
	for (unsigned i = 0; i < 6000 && failed < 10; i++) {
		unsigned n = (unsigned)(pair_random(p) % ARRAY_SIZE(insns));
		uint64_t where = at[pair_random(p) % ARRAY_SIZE(at)];

		mem_randomize_state(p);
		mem_make_area(p, where, n >= 2 && pair_random(p) % 2);
		p->in.gpr[X86_RBX] = where;
		if (pair_random(p) % 16 == 0)
			p->in.gpr[X86_RBX] = PAIR_END - 0x400;
		if (pair_random(p) % 16 == 0)
			p->in.gpr[X86_RBX] += 16;
		if (mem_has_mm(p, where))
			continue;
		failed += !pair_run(p, insns[n].bytes, insns[n].len);
		faults += p->native.vector == X86_GP;
	}
	pair_destroy(p);
	assert_int_equal(failed, 0);
	assert_true(faults > 100);
}

static void
test_mxcsr(void **state)
{
	static const struct {
		uint8_t len, bytes[5];
	} insns[] = {
		{ 3, { 0x0f, 0xae, 0x13 } },       /* LDMXCSR */
		{ 3, { 0x0f, 0xae, 0x1b } },       /* STMXCSR */
		{ 4, { 0xc5, 0xf8, 0xae, 0x13 } }, /* VLDMXCSR */
		{ 4, { 0xc5, 0xf8, 0xae, 0x1b } },
		{ 4, { 0xc5, 0xfc, 0xae, 0x13 } }, /* L = 1: undefined */
		{ 4, { 0xc5, 0xe8, 0xae, 0x1b } }, /* vvvv not 1111b: undefined */
	};
	struct pair *p = pair_create();
	unsigned failed = 0;

	for (unsigned i = 0; i < 600 && failed < 10; i++) {
		uint64_t r = pair_random(p);

		pair_randomize(p);
		p->in.gpr[X86_RBX] = r & 1 ? PAIR_FIRST + 0xffd : PAIR_FIRST + 8;
		/* Never bit 17, which some hosts have. */
		bt_put(p->in.data + (p->in.gpr[X86_RBX] - PAIR_FIRST), 4,
		    r & 2 ? r >> 8 & 0xffff : r >> 8 & ~BIT(17));
		failed += !pair_run(
		    p, insns[i % ARRAY_SIZE(insns)].bytes, insns[i % ARRAY_SIZE(insns)].len);
	}
	pair_destroy(p);
	assert_int_equal(failed, 0);
}

/* With EFER.FFXSR the XMM registers are left out, at CPL 0 in 64-bit mode (APM 2, 11.4.4). */
static void
test_ffxsr(void **state)
{
	static const uint8_t save[] = { 0x48, 0x0f, 0xae, 0x03 },
			     restore[] = { 0x48, 0x0f, 0xae, 0x0b };
	struct pair *p = pair_create();

	p->base.efer |= X86_EFER_FFXSR;
	pair_randomize(p);
	p->in.gpr[X86_RBX] = PAIR_FIRST;
	pair_run_guest(p, save, sizeof(save));
	assert_memory_equal(p->guest.data + BT_XSAVE_XMM, p->in.data + BT_XSAVE_XMM, 256);
	assert_memory_equal(p->guest.data + BT_XSAVE_ST, p->in.xsave + BT_XSAVE_ST, 10);
	bt_put(p->in.data + BT_XSAVE_MXCSR, 4, BT_MXCSR_RESET);
	pair_run_guest(p, restore, sizeof(restore));
	assert_int_equal(p->guest.vector, -1);
	assert_memory_equal(p->guest.xsave + BT_XSAVE_XMM, p->in.xsave + BT_XSAVE_XMM, 256);
	assert_memory_equal(p->guest.xsave + BT_XSAVE_ST, p->in.data + BT_XSAVE_ST, 10);
	pair_destroy(p);
}

/* #AC by the size of operands and their fields; FNSAVE must not have cleared anything by then. */
static void
test_alignment_check(void **state)
{
	static const struct {
		uint8_t len, bytes[4], offset;
		int vector;
	} cases[] = {
		{ 3, { 0x0f, 0x10, 0x03 }, 8, X86_AC }, /* movups */
		{ 3, { 0x0f, 0x10, 0x03 }, 16, -1 },
		{ 4, { 0xc5, 0xfc, 0x10, 0x03 }, 16, -1 },    /* 32 bytes go by 16, too */
		{ 4, { 0xf3, 0x0f, 0x7e, 0x03 }, 4, X86_AC }, /* movq */
		{ 2, { 0xdb, 0x2b }, 4, X86_AC },             /* fld m80 */
		{ 2, { 0xdb, 0x2b }, 8, -1 },
		{ 2, { 0xdd, 0x33 }, 2, X86_AC }, /* fnsave */
		{ 3, { 0x66, 0xdd, 0x33 }, 2, -1 },
	};
	struct pair *p = pair_create();
	struct x86_state s;

	p->base.cr0 |= X86_CR0_AM;
	pair_user_mode(p);
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		pair_randomize(p);
		bt_put(p->in.xsave + BT_XSAVE_FSW, 2, 0);
		p->in.rflags |= X86_FL_AC;
		p->in.gpr[X86_RBX] = PAIR_FIRST + cases[i].offset;
		assert_int_equal(
		    pair_run_guest_vector(p, cases[i].bytes, cases[i].len, &s), cases[i].vector);
		if (cases[i].vector >= 0)
			assert_memory_equal(s.xsave + BT_XSAVE_ST, p->in.xsave + BT_XSAVE_ST, 128);
	}
	pair_destroy(p);
}

/* XSAVES and XRSTORS, which a host without them does not offer, are checked by what they must do:
 * bring everything back, at CPL 0 and only from the compacted format. */
static void
test_supervisor(void **state)
{
	/* xsaves (%rbx); fninit; xorps %xmm3, %xmm3; xrstors (%rbx) */
	static const uint8_t code[] = { 0x0f, 0xc7, 0x2b, 0xdb, 0xe3, 0x0f, 0x57, 0xdb, 0x0f, 0xc7,
		0x1b };
	static const uint8_t restore[] = { 0x0f, 0xc7, 0x1b };
	struct pair *p = pair_create();
	struct bt_fpu *fpu = ((struct bt_cpu *)p->vcpu)->fpu;
	uint8_t *area = p->ram + PAIR_PAGE(0);

	fpu->xsave_features |= BT_XSAVE_HAS_C | BT_XSAVE_HAS_S;
	pair_randomize(p);
	memset(p->in.data + BT_XSAVE_BV, 0, 64); /* as software has to */
	p->in.gpr[X86_RBX] = PAIR_FIRST;
	p->in.gpr[X86_RAX] = p->in.gpr[X86_RDX] = UINT64_MAX;
	pair_run_guest(p, code, sizeof(code));
	assert_int_equal(p->guest.vector, -1);
	assert_int_equal(bt_get64(area + BT_XSAVE_XCOMP_BV), p->mask | BT_XCOMP_BV_COMPACT);
	pair_normalize(p, &p->in);
	pair_normalize(p, &p->guest);
	assert_memory_equal(p->guest.xsave + BT_XSAVE_XMM, p->in.xsave + BT_XSAVE_XMM, 256);
	assert_memory_equal(p->guest.xsave + BT_XSAVE_EXTENDED, p->in.xsave + BT_XSAVE_EXTENDED,
	    X86_XSAVE_SIZE - BT_XSAVE_EXTENDED);
	assert_memory_equal(p->guest.xsave + BT_XSAVE_ST, p->in.xsave + BT_XSAVE_ST, 128);

	/* The standard format is refused. */
	pair_randomize(p);
	p->in.gpr[X86_RBX] = PAIR_FIRST;
	memset(p->in.data + BT_XSAVE_BV, 0, 64);
	pair_run_guest(p, restore, sizeof(restore));
	assert_int_equal(p->guest.vector, X86_GP);
	/* Absent, it is undefined. */
	fpu->xsave_features &= ~BT_XSAVE_HAS_S;
	pair_run_guest(p, restore, sizeof(restore));
	assert_int_equal(p->guest.vector, X86_UD);
	pair_destroy(p);
}

/* Outside 64-bit mode the upper half of the registers is neither saved nor restored. */
static void
test_xsave_32(void **state)
{
	static const uint8_t save[] = { 0x0f, 0xae, 0x23 }, restore[] = { 0x0f, 0xae, 0x2b };
	struct pair *p = pair_create();
	uint8_t area[2816];
	struct x86_state s;

	if (!mem_has(p, X86_XCR0_AVX)) {
		pair_destroy(p);
		skip();
	}
	pair_mode_32(p);
	pair_randomize(p);
	p->in.gpr[X86_RBX] = 0x90000;
	p->in.gpr[X86_RAX] = p->mask;
	p->in.gpr[X86_RDX] = 0;
	memset(p->ram + 0x90000, 0x5a, 4096);
	memset(p->ram + 0x90000 + BT_XSAVE_BV, 0, 64);
	pair_run_guest_state(p, save, sizeof(save), &s);
	memcpy(area, p->ram + 0x90000, sizeof(area));
	assert_memory_equal(area + BT_XSAVE_XMM, p->in.xsave + BT_XSAVE_XMM, 128);
	assert_int_equal(area[BT_XSAVE_XMM + 128], 0x5a);
	assert_memory_equal(area + BT_XSAVE_EXTENDED, p->in.xsave + BT_XSAVE_EXTENDED, 128);
	assert_int_equal(area[BT_XSAVE_EXTENDED + 128], 0x5a);
	assert_int_equal(bt_get64(area + BT_XSAVE_BV), p->mask);

	memset(p->ram + 0x90000 + BT_XSAVE_XMM, 0x77, 256);
	pair_run_guest_state(p, restore, sizeof(restore), &s);
	assert_int_equal(s.xsave[BT_XSAVE_XMM + 127], 0x77);
	assert_memory_equal(s.xsave + BT_XSAVE_XMM + 128, p->in.xsave + BT_XSAVE_XMM + 128, 128);
	pair_destroy(p);
}

/* --- Modes --- */

/* Outside 64-bit mode VEX.W does not make general registers wider, and KMOVQ has none to go to. */
static void
test_general_registers_32(void **state)
{
	static const uint8_t vmovd[] = { 0xc4, 0xe1, 0xf9, 0x6e, 0xc9 }; /* W1: vmovq %rcx, %xmm1 */
	static const uint8_t kmovq[] = { 0xc4, 0xe1, 0xfb, 0x92, 0xc9 };
	struct pair *p = pair_create();

	if (!mem_has(p, X86_XCR0_AVX512)) {
		pair_destroy(p);
		skip();
	}
	pair_mode_32(p);
	pair_randomize(p);
	p->in.gpr[X86_RCX] = 0x1122334455667788;
	pair_run_guest(p, vmovd, sizeof(vmovd));
	assert_int_equal(bt_get64(p->guest.xsave + BT_XSAVE_XMM + 16), 0x55667788);
	pair_destroy(p);

	p = pair_create();
	pair_mode_32(p);
	pair_randomize(p);
	p->base.idtr.limit = 0; /* #UD, and no way to deliver it */
	p->in.gpr[X86_RCX] = 1;
	assert_int_equal(pair_run_guest_exit(p, kmovq, sizeof(kmovq)), ENGINE_EXIT_SHUTDOWN);
	pair_destroy(p);
}

/* Real mode has no VEX. */
static void
test_vex_real(void **state)
{
	static const uint8_t vaddps[] = { 0xc5, 0xf0, 0x58, 0xc2 }, addps[] = { 0x0f, 0x58, 0xc1 };
	struct pair *p = pair_create();

	pair_mode_real(p);
	pair_randomize(p);
	p->base.idtr.limit = 0;
	assert_int_equal(pair_run_guest_exit(p, vaddps, sizeof(vaddps)), ENGINE_EXIT_SHUTDOWN);
	assert_int_equal(pair_run_guest_exit(p, addps, sizeof(addps)), ENGINE_EXIT_HALT);
	pair_destroy(p);
}

/* --- Thunks --- */

/* More distinct instructions than there is room for: they run all the same, and faults are theirs.
 */
static void
test_thunks_full(void **state)
{
	uint8_t shufps[] = { 0x44, 0x0f, 0xc6, 0xc1, 0 }, sqrtss[] = { 0xf3, 0x0f, 0x51, 0x33 };
	const uint8_t palignr[] = { 0x66, 0x0f, 0x3a, 0x0f, 0xc1, 0x55 };
	const uint8_t undefined[] = { 0xc4, 0xe2, 0x00, 0x00, 0xc0 };
	struct pair *p = pair_create();
	const float minus = -2;
	unsigned failed = 0, uncached = 0;

	/* (dst, src, imm) of SHUFPS and SHUFPD: 2 * 16 * 16 * 256 encodings. */
	for (unsigned i = 0; i < 40000; i++) {
		uint8_t insn[6] = { 0x66, (uint8_t)(0x40 | (i >> 8 & 1) << 2 | (i >> 9 & 1)), 0x0f,
			0xc6, (uint8_t)(0xc0 | (i >> 10 & 63)), (uint8_t)i };
		struct bt_op op[2];
		struct bt_insn in;

		assert_int_equal(bt_decode(insn + (i >> 15 & 1), 6, 8, &in), 0);
		bt_lower((struct bt_cpu *)p->vcpu, &in, op);
		assert_true(op[0].fn != bt_op_ud);
		uncached += op[0].fn == bt_vec_uncached;
	}
	assert_in_range(uncached, 1, 39999);
	for (unsigned i = 0; i < 300 && failed < 5; i++) {
		pair_randomize(p);
		shufps[4] = (uint8_t)i;
		failed += !pair_run(p, shufps, sizeof(shufps));
	}
	failed += !pair_run(p, palignr, sizeof(palignr));
	failed += !pair_run(p, undefined, sizeof(undefined));
	p->in.gpr[X86_RBX] = PAIR_FIRST + 0xffe;
	memcpy(p->in.data + 0xffe, &minus, 4);
	failed += !pair_run(p, sqrtss, sizeof(sqrtss));
	bt_put(p->in.xsave + BT_XSAVE_MXCSR, 4, 0);
	failed += !pair_run(p, sqrtss, sizeof(sqrtss));
	assert_int_equal(p->native.vector, X86_XM);
	p->in.gpr[X86_RBX] = PAIR_END;
	failed += !pair_run(p, sqrtss, sizeof(sqrtss));
	assert_int_equal(p->native.vector, X86_PF);
	pair_destroy(p);
	assert_int_equal(failed, 0);
}

/* --- State images --- */

static void
test_image(void **state)
{
	struct pair *p = pair_create();
	struct bt_cpu *cpu = (struct bt_cpu *)p->vcpu;
	uint8_t out[X86_XSAVE_SIZE];

	bt_fpu_reset(cpu, false);
	bt_fpu_get(cpu, out);
	assert_int_equal(bt_get16(out + BT_XSAVE_FCW), 0x40);
	assert_int_equal(bt_get32(out + BT_XSAVE_MXCSR), BT_MXCSR_RESET);
	pair_randomize(p);
	assert_int_equal(bt_fpu_set(cpu, p->in.xsave), 0);
	bt_fpu_live(cpu);
	bt_fpu_get(cpu, out);
	assert_memory_equal(out + BT_XSAVE_XMM, p->in.xsave + BT_XSAVE_XMM, 256);
	assert_memory_equal(out + BT_XSAVE_EXTENDED, p->in.xsave + BT_XSAVE_EXTENDED, 1000);
	assert_int_equal(bt_fpu_inuse(cpu), p->mask);
	bt_fpu_reset(cpu, true); /* INIT keeps it */
	bt_fpu_get(cpu, out);
	assert_memory_equal(out + BT_XSAVE_XMM, p->in.xsave + BT_XSAVE_XMM, 256);

	bt_put(p->in.xsave + BT_XSAVE_MXCSR, 4, 0x10000);
	assert_int_equal(bt_fpu_set(cpu, p->in.xsave), -EINVAL);
	bt_put(p->in.xsave + BT_XSAVE_MXCSR, 4, BT_MXCSR_RESET);
	bt_put(p->in.xsave + BT_XSAVE_BV, 8, BIT64(62));
	assert_int_equal(bt_fpu_set(cpu, p->in.xsave), -EINVAL);
	bt_put(p->in.xsave + BT_XSAVE_BV, 8, 3);
	p->in.xsave[BT_XSAVE_XCOMP_BV + 7] = 0x80;
	assert_int_equal(bt_fpu_set(cpu, p->in.xsave), -EINVAL);
	pair_destroy(p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_gather),
		cmocka_unit_test(test_gather_mmio),
		cmocka_unit_test(test_maskmov),
		cmocka_unit_test(test_mmio),
		cmocka_unit_test(test_save),
		cmocka_unit_test(test_restore),
		cmocka_unit_test(test_mxcsr),
		cmocka_unit_test(test_ffxsr),
		cmocka_unit_test(test_alignment_check),
		cmocka_unit_test(test_supervisor),
		cmocka_unit_test(test_xsave_32),
		cmocka_unit_test(test_general_registers_32),
		cmocka_unit_test(test_vex_real),
		cmocka_unit_test(test_thunks_full),
		cmocka_unit_test(test_image),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
