/*
 * x87 and floating-point exceptions against this host's processor, and what the host cannot tell:
 * environments in modes that a 64-bit process has not, the record of the last instruction.
 */
#include "vec_pair.h"

static void
x87_try(struct pair *p, unsigned *failed, const uint8_t *bytes, unsigned len)
{
	if (*failed < 20 && !pair_run(p, bytes, len))
		++*failed;
}

/* With some exceptions unmasked; one may be pending already. */
static void
x87_unmask(struct pair *p)
{
	uint64_t r = pair_random(p);
	uint16_t fcw = 0x340 | (r >> 8 & 0xc3f), fsw = r >> 24 & 0x7f7f;

	if (r % 3 == 0)
		return;
	bt_put(p->in.xsave + BT_XSAVE_FCW, 2, fcw);
	if (r % 3 == 1)
		return;
	if (fsw & ~fcw & 0x3f)
		fsw |= 0x8080;
	bt_put(p->in.xsave + BT_XSAVE_FSW, 2, fsw);
}

/* Environments and what the sweep has no business with. */
static bool
x87_is_environment(unsigned opcode, unsigned group)
{
	return (opcode == 0xd9 || opcode == 0xdd) && (group == 4 || group == 6);
}

static void
test_x87_registers(void **state)
{
	struct pair *p = pair_create();
	unsigned failed = 0;

	for (int round = 0; round < 12; round++) {
		for (unsigned op = 0xd8; op <= 0xdf; op++) {
			for (unsigned modrm = 0xc0; modrm <= 0xff; modrm++) {
				pair_randomize(p);
				x87_unmask(p);
				x87_try(p, &failed,
				    (const uint8_t[]){ (uint8_t)op, (uint8_t)modrm }, 2);
			}
		}
	}
	pair_destroy(p);
	assert_int_equal(failed, 0);
}

static void
test_x87_memory(void **state)
{
	static const uint64_t at[] = { PAIR_FIRST + 0x400, PAIR_FIRST + 0xffd, PAIR_END - 1,
		PAIR_END - 2, PAIR_END - 4, PAIR_END - 8, PAIR_END - 10, PAIR_END - 9,
		PAIR_RO - 3 };
	struct pair *p = pair_create();
	unsigned failed = 0;

	for (unsigned op = 0xd8; op <= 0xdf; op++) {
		for (unsigned group = 0; group < 8; group++) {
			if (x87_is_environment(op, group))
				continue;
			for (unsigned i = 0; i < 4 * ARRAY_SIZE(at); i++) {
				pair_randomize(p);
				x87_unmask(p);
				p->in.gpr[X86_RBX] = at[i % ARRAY_SIZE(at)];
				x87_try(p, &failed,
				    (const uint8_t[]){ (uint8_t)op, (uint8_t)(group << 3 | 3) }, 2);
			}
		}
	}
	pair_destroy(p);
	assert_int_equal(failed, 0);
}

/* FWAIT and MMX raise what is pending, too. */
static void
test_x87_wait(void **state)
{
	static const uint8_t mmx[][3] = { { 0x0f, 0xfc, 0xc1 }, { 0x0f, 0x6f, 0x03 },
		{ 0x0f, 0x7f, 0x03 } };
	struct pair *p = pair_create();
	unsigned failed = 0;

	for (int i = 0; i < 200; i++) {
		pair_randomize(p);
		x87_unmask(p);
		x87_try(p, &failed, (const uint8_t[]){ 0x9b }, 1);
		p->in.gpr[X86_RBX] = PAIR_FIRST + 0x10;
		x87_try(p, &failed, mmx[i % 3], 3);
	}
	pair_destroy(p);
	assert_int_equal(failed, 0);
}

/* --- Unmasked SIMD exceptions --- */

static void
test_simd_exceptions(void **state)
{
	static const struct {
		uint8_t len, bytes[8];
	} insns[] = {
		{ 3, { 0x0f, 0x58, 0xc1 } },                   /* addps */
		{ 4, { 0x66, 0x0f, 0x5e, 0xc1 } },             /* divpd */
		{ 4, { 0xf2, 0x0f, 0x51, 0xc1 } },             /* sqrtsd */
		{ 4, { 0xf3, 0x0f, 0x2d, 0xc1 } },             /* cvtss2si eax */
		{ 3, { 0x0f, 0x2e, 0x03 } },                   /* ucomiss (%rbx) */
		{ 4, { 0x66, 0x0f, 0x5b, 0x03 } },             /* cvtps2dq (%rbx) */
		{ 5, { 0xc4, 0xe2, 0x71, 0xb8, 0xc2 } },       /* vfmadd231ps */
		{ 6, { 0xc4, 0xe3, 0x7d, 0x1d, 0x03, 0x00 } }, /* vcvtps2ph to (%rbx) */
		{ 6, { 0x62, 0xf1, 0xf4, 0x49, 0x5e, 0xc2 } }, /* vdivpd zmm{k1} */
		{ 6, { 0x62, 0xf1, 0x74, 0x49, 0x59, 0x03 } }, /* vmulps (%rbx), zmm{k1} */
		{ 6, { 0x62, 0xf1, 0x74, 0x59, 0x59, 0x03 } }, /* the same from one element */
	};
	struct pair *p = pair_create();
	unsigned failed = 0;

	for (int i = 0; i < 3000; i++) {
		unsigned n = (unsigned)i % ARRAY_SIZE(insns);
		uint64_t r = pair_random(p);

		pair_randomize(p);
		bt_put(p->in.xsave + BT_XSAVE_MXCSR, 4, r & 0xffff);
		p->in.gpr[X86_RBX] = r % 4 ? PAIR_FIRST + 0x7f0 : PAIR_FIRST + 0xff0;
		if (n == 5)
			p->in.gpr[X86_RBX] = PAIR_FIRST + 0x7f0;
		x87_try(p, &failed, insns[n].bytes, insns[n].len);
	}
	pair_destroy(p);
	assert_int_equal(failed, 0);
}

/* Without CR4.OSXMMEXCPT it is #UD (SDM 1, 11.5.1). */
static void
test_simd_without_osxmmexcpt(void **state)
{
	const uint8_t sqrtss[] = { 0xf3, 0x0f, 0x51, 0xc1 };
	struct pair *p = pair_create();
	const float minus = -1;

	pair_randomize(p);
	memcpy(p->in.xsave + BT_XSAVE_XMM + 16, &minus, 4);
	bt_put(p->in.xsave + BT_XSAVE_MXCSR, 4, 0);
	pair_run_guest(p, sqrtss, sizeof(sqrtss));
	assert_int_equal(p->guest.vector, X86_XM);
	assert_int_equal(bt_get32(p->guest.xsave + BT_XSAVE_MXCSR), 1);
	p->base.cr4 &= ~X86_CR4_OSXMMEXCPT;
	pair_run_guest(p, sqrtss, sizeof(sqrtss));
	assert_int_equal(p->guest.vector, X86_UD);
	pair_destroy(p);
}

/* --- Environments --- */

/* The host's environment differs in the pointers only; those are compared with what they must be.
 */
static void
x87_store_environment(
    struct pair *p, const uint8_t *insn, unsigned len, unsigned size, unsigned regs)
{
	uint8_t *native, *guest;

	pair_randomize(p);
	p->in.gpr[X86_RBX] = PAIR_FIRST + 0xff8;
	p->in.gpr[X86_R15] = (uintptr_t)&p->ctx;
	pair_run_native(p, insn, len);
	pair_run_guest(p, insn, len);
	native = p->native.data + 0xff8;
	guest = p->guest.data + 0xff8;
	assert_int_equal(p->native.vector, -1);
	assert_int_equal(p->guest.vector, -1);
	for (unsigned i = 0; i < 3; i++)
		assert_memory_equal(native + i * size / 7, guest + i * size / 7, size / 7);
	assert_memory_equal(native + size, guest + size, regs);
	memset(native, 0, size);
	memset(guest, 0, size);
	assert_true(pair_compare(p, insn, len));
}

static void
test_x87_environment_store(void **state)
{
	struct pair *p = pair_create();

	for (int i = 0; i < 20; i++) {
		x87_store_environment(p, (const uint8_t[]){ 0xd9, 0x33 }, 2, 28, 0);
		x87_store_environment(p, (const uint8_t[]){ 0x66, 0xd9, 0x33 }, 3, 14, 0);
		x87_store_environment(p, (const uint8_t[]){ 0xdd, 0x33 }, 2, 28, 80);
		x87_store_environment(p, (const uint8_t[]){ 0x66, 0xdd, 0x33 }, 3, 14, 80);
	}
	pair_destroy(p);
}

static void
test_x87_environment_load(void **state)
{
	static const uint8_t insns[][3] = { { 0xd9, 0x23 }, { 0x66, 0xd9, 0x23 }, { 0xdd, 0x23 },
		{ 0x66, 0xdd, 0x23 } };
	struct pair *p = pair_create();
	unsigned failed = 0;

	p->any_byte = true;
	for (int i = 0; i < 400; i++) {
		const uint8_t *insn = insns[i % 4];

		pair_randomize(p);
		x87_unmask(p);
		p->in.gpr[X86_RBX] = pair_random(p) % 4 ? PAIR_FIRST + 0xfe0 : PAIR_END - 20;
		x87_try(p, &failed, insn, insn[0] == 0x66 ? 3 : 2);
	}
	pair_destroy(p);
	assert_int_equal(failed, 0);
}

/* Runs code and returns what it stored at PAIR_FIRST + 0x100. */
static const uint8_t *
x87_run_code(struct pair *p, const uint8_t *code, unsigned len)
{
	static struct x86_state s;

	pair_run_guest_state(p, code, len, &s);
	assert_int_equal(s.rip, PAIR_CODE + len + 1);
	return p->ram + PAIR_PAGE(0) + 0x100;
}

/* fldl 8(%rbx); fldpi; fldcw (%rbx); then the environment. */
static void
test_x87_record(void **state)
{
	static const uint8_t code[] = { 0xdd, 0x43, 0x08, 0xd9, 0xeb, 0xd9, 0x2b, 0xd9, 0x33 };
	struct pair *p = pair_create();
	const uint8_t *env;

	pair_randomize(p);
	p->in.gpr[X86_RBX] = PAIR_FIRST + 0x100;
	bt_put(p->in.data + 0x100, 2, BT_FCW_INIT);
	env = x87_run_code(p, code, sizeof(code));
	assert_int_equal(bt_get32(env + 12), PAIR_CODE + 3);
	assert_int_equal(bt_get16(env + 16), 8); /* CS */
	assert_int_equal(bt_get16(env + 18), 0x1eb);
	assert_int_equal(bt_get32(env + 20), PAIR_FIRST + 0x108);
	assert_int_equal(bt_get16(env + 24), 16); /* DS */
	pair_destroy(p);
}

/* The same in FXSAVE64's and FXSAVE's formats. */
static void
test_x87_record_fxsave(void **state)
{
	static const uint8_t wide[] = { 0xdd, 0x43, 0x08, 0x48, 0x0f, 0xae, 0x03 };
	static const uint8_t narrow[] = { 0xdd, 0x43, 0x08, 0x0f, 0xae, 0x03 };
	struct pair *p = pair_create();
	const uint8_t *area;

	pair_randomize(p);
	p->in.gpr[X86_RBX] = PAIR_FIRST + 0x100;
	area = x87_run_code(p, wide, sizeof(wide));
	assert_int_equal(bt_get64(area + BT_XSAVE_FIP), PAIR_CODE);
	assert_int_equal(bt_get64(area + BT_XSAVE_FDP), PAIR_FIRST + 0x108);
	assert_int_equal(bt_get16(area + BT_XSAVE_FOP), 0x543);
	area = x87_run_code(p, narrow, sizeof(narrow));
	assert_int_equal(bt_get64(area + BT_XSAVE_FIP), PAIR_CODE | 8ull << 32);
	assert_int_equal(bt_get64(area + BT_XSAVE_FDP), (PAIR_FIRST + 0x108) | 16ull << 32);
	pair_destroy(p);
}

/* --- Other modes --- */

/* In real mode the pointers are linear addresses of 20 bits, with the opcode between their parts.
 */
static void
test_x87_environment_real(void **state)
{
	/* fldl 0x1234 (data at 11234h); fnstenv 0x2000; then with a 66 prefix */
	static const uint8_t code[] = { 0xdd, 0x06, 0x34, 0x12, 0xd9, 0x36, 0x00, 0x20, 0x66, 0xd9,
		0x36, 0x40, 0x20 };
	struct pair *p = pair_create();
	struct x86_state s;
	const uint8_t *env;

	pair_mode_real(p);
	pair_randomize(p);
	bt_put(p->in.xsave + BT_XSAVE_FSW, 2, 0);
	p->in.xsave[BT_XSAVE_FTW] = 0;
	pair_run_guest_state(p, code, sizeof(code), &s);
	env = p->ram + 0x12000;
	assert_int_equal(bt_get16(env), BT_FCW_INIT);
	assert_int_equal(bt_get16(env + 2), 0x3800);
	assert_int_equal(bt_get16(env + 4) & 0x3fff, 0x3fff);
	assert_int_equal(bt_get16(env + 6), 0);
	assert_int_equal(bt_get16(env + 8), 0x1000 | 0x506);
	assert_int_equal(bt_get16(env + 10), 0x1234);
	assert_int_equal(bt_get16(env + 12), 0x1000);
	env = p->ram + 0x12040;
	assert_int_equal(bt_get32(env), 0xffff0000 | BT_FCW_INIT);
	assert_int_equal(bt_get32(env + 12), 0xffff0000);
	assert_int_equal(bt_get32(env + 16), 0x1000 | 0x506);
	assert_int_equal(bt_get32(env + 20), 0xffff1234);
	assert_int_equal(bt_get32(env + 24), 0x1000);
	pair_destroy(p);
}

/* FLDENV takes what FNSTENV stored, in real mode, too. */
static void
test_x87_environment_real_load(void **state)
{
	/* fldl 0x1234; fnstenv 0x2000; fninit; fldenv 0x2000; fnstenv 0x2040 */
	static const uint8_t code[] = { 0xdd, 0x06, 0x34, 0x12, 0xd9, 0x36, 0x00, 0x20, 0xdb, 0xe3,
		0xd9, 0x26, 0x00, 0x20, 0xd9, 0x36, 0x40, 0x20 };
	struct pair *p = pair_create();
	struct x86_state s;

	pair_mode_real(p);
	pair_randomize(p);
	pair_run_guest_state(p, code, sizeof(code), &s);
	assert_memory_equal(p->ram + 0x12000, p->ram + 0x12040, 14);
	pair_destroy(p);
}

/* --- What CR0 and CR4 forbid --- */

struct x87_rule {
	uint64_t cr0_set, cr4_clear, xcr0_clear;
	uint8_t len, bytes[6];
	int vector; /* -1: runs */
};

static void
test_control_bits(void **state)
{
	static const struct x87_rule rules[] = {
		/* SDM 3, 2.5 and table 13-1 */
		{ X86_CR0_TS, 0, 0, 2, { 0xd9, 0xeb }, X86_NM },
		{ X86_CR0_EM, 0, 0, 2, { 0xd9, 0xeb }, X86_NM },
		{ X86_CR0_TS, 0, 0, 1, { 0x9b }, X86_NM }, { X86_CR0_EM, 0, 0, 1, { 0x9b }, -1 },
		{ X86_CR0_TS, 0, 0, 3, { 0x0f, 0xfc, 0xc1 }, X86_NM },
		{ X86_CR0_EM, 0, 0, 3, { 0x0f, 0xfc, 0xc1 }, X86_UD },
		{ X86_CR0_EM | X86_CR0_TS, 0, 0, 3, { 0x0f, 0xfc, 0xc1 }, X86_UD },
		{ X86_CR0_TS, 0, 0, 3, { 0x0f, 0x58, 0xc1 }, X86_NM },
		{ X86_CR0_EM, 0, 0, 3, { 0x0f, 0x58, 0xc1 }, X86_UD },
		{ 0, X86_CR4_OSFXSR, 0, 3, { 0x0f, 0x58, 0xc1 }, X86_UD },
		{ 0, X86_CR4_OSFXSR, 0, 3, { 0x0f, 0xfc, 0xc1 }, -1 },
		{ 0, X86_CR4_OSFXSR, 0, 4, { 0xc5, 0xf0, 0x58, 0xc2 }, -1 },
		{ X86_CR0_EM, 0, 0, 4, { 0xc5, 0xf0, 0x58, 0xc2 }, -1 },
		{ X86_CR0_TS, 0, 0, 4, { 0xc5, 0xf0, 0x58, 0xc2 }, X86_NM },
		{ 0, X86_CR4_OSXSAVE, 0, 4, { 0xc5, 0xf0, 0x58, 0xc2 }, X86_UD },
		{ X86_CR0_TS, X86_CR4_OSXSAVE, 0, 4, { 0xc5, 0xf0, 0x58, 0xc2 }, X86_UD },
		{ 0, 0, X86_XCR0_AVX | X86_XCR0_AVX512, 4, { 0xc5, 0xf0, 0x58, 0xc2 }, X86_UD },
		{ 0, 0, X86_XCR0_AVX512, 4, { 0xc5, 0xf0, 0x58, 0xc2 }, -1 },
		{ 0, 0, X86_XCR0_AVX512, 6, { 0x62, 0xf1, 0x74, 0x08, 0x58, 0xc2 }, X86_UD },
		{ 0, 0, X86_XCR0_AVX512, 4, { 0xc5, 0xf8, 0x90, 0xc9 }, X86_UD }, /* kmovw */
		{ X86_CR0_TS, 0, 0, 6, { 0x62, 0xf1, 0x74, 0x08, 0x58, 0xc2 }, X86_NM },
		{ X86_CR0_TS, 0, 0, 3, { 0x0f, 0xae, 0x13 }, X86_NM }, /* ldmxcsr */
		{ X86_CR0_EM, 0, 0, 3, { 0x0f, 0xae, 0x1b }, X86_UD }, /* stmxcsr */
		{ X86_CR0_EM, 0, 0, 3, { 0x0f, 0xae, 0x03 }, X86_NM }, /* fxsave */
		{ X86_CR0_TS, 0, 0, 3, { 0x0f, 0xae, 0x23 }, X86_NM }, /* xsave */
		{ 0, X86_CR4_OSXSAVE, 0, 3, { 0x0f, 0xae, 0x23 }, X86_UD },
		{ 0, 0, 0, 3, { 0x0f, 0xae, 0x23 }, -1 },
		{ X86_CR0_TS, 0, 0, 2, { 0x0f, 0x77 }, X86_NM }, /* emms */
	};
	struct pair *p = pair_create();
	const struct x86_state base = p->base;

	for (unsigned i = 0; i < ARRAY_SIZE(rules); i++) {
		const struct x87_rule *r = &rules[i];

		if (r->bytes[0] == 0x62 && !(p->mask & X86_XCR0_AVX512))
			continue;
		p->base = base;
		p->base.cr0 |= r->cr0_set;
		p->base.cr4 &= ~r->cr4_clear;
		p->base.xcr0 &= ~r->xcr0_clear;
		pair_randomize(p);
		bt_put(p->in.xsave + BT_XSAVE_FSW, 2, 0);
		p->in.gpr[X86_RBX] = PAIR_FIRST;
		pair_run_guest(p, r->bytes, r->len);
		if (p->guest.vector != r->vector)
			print_error("rule %u\n", i);
		assert_int_equal(p->guest.vector, r->vector);
	}
	pair_destroy(p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_x87_registers),
		cmocka_unit_test(test_x87_memory),
		cmocka_unit_test(test_x87_wait),
		cmocka_unit_test(test_simd_exceptions),
		cmocka_unit_test(test_simd_without_osxmmexcpt),
		cmocka_unit_test(test_x87_environment_store),
		cmocka_unit_test(test_x87_environment_load),
		cmocka_unit_test(test_x87_record),
		cmocka_unit_test(test_x87_record_fxsave),
		cmocka_unit_test(test_x87_environment_real),
		cmocka_unit_test(test_x87_environment_real_load),
		cmocka_unit_test(test_control_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
