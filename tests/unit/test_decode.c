/*
 * The instruction decoder: known encodings field by field, truncation at every length, hostile
 * bytes, and lengths against objdump's opinion of a seeded random stream.
 */
#include "engine/bt/insn.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* --- Known encodings --- */

struct known {
	const char *hex;
	uint8_t mode; /* 2, 4, 8 */
	uint8_t id, form;
	uint8_t size, osize, asize;
	uint8_t reg, rm; /* rm when mod is 3 */
	/* The memory operand: base NONE when there is none. */
	uint8_t base, index, scale;
	uint8_t seg;
	int32_t disp;
	int64_t imm;
};

#define NONE 0xff
#define ZERO BT_REG_ZERO
#define ID(id, form) BT_ID_##id, BT_FORM_##form
#define NO_MEM NONE, 0, 0, X86_DS, 0

static const struct known known[] = {
	/* Operand and address sizes. */
	{ "89 d8", 8, ID(MOV, RM_R), 4, 4, 8, 3, 0, NO_MEM, 0 },
	{ "66 89 d8", 8, ID(MOV, RM_R), 2, 2, 8, 3, 0, NO_MEM, 0 },
	{ "48 89 d8", 8, ID(MOV, RM_R), 8, 8, 8, 3, 0, NO_MEM, 0 },
	{ "66 48 89 d8", 8, ID(MOV, RM_R), 8, 8, 8, 3, 0, NO_MEM, 0 },
	{ "4d 89 d8", 8, ID(MOV, RM_R), 8, 8, 8, 11, 8, NO_MEM, 0 },
	{ "48 66 89 d8", 8, ID(MOV, RM_R), 2, 2, 8, 3, 0, NO_MEM, 0 }, /* REX not last */
	{ "89 d8", 4, ID(MOV, RM_R), 4, 4, 4, 3, 0, NO_MEM, 0 },
	{ "66 89 d8", 4, ID(MOV, RM_R), 2, 2, 4, 3, 0, NO_MEM, 0 },
	{ "89 d8", 2, ID(MOV, RM_R), 2, 2, 2, 3, 0, NO_MEM, 0 },
	{ "66 89 d8", 2, ID(MOV, RM_R), 4, 4, 2, 3, 0, NO_MEM, 0 },
	{ "8a 00", 8, ID(MOV, R_RM), 1, 4, 8, 0, NONE, 0, ZERO, 0, X86_DS, 0, 0 },
	/* Immediates. */
	{ "48 b8 01 02 03 04 05 06 07 88", 8, ID(MOV, R_I), 8, 8, 8, 0, NONE, NO_MEM,
	    (int64_t)0x8807060504030201 },
	{ "b9 ff ff ff ff", 8, ID(MOV, R_I), 4, 4, 8, 1, NONE, NO_MEM, -1 },
	{ "b9 34 12", 2, ID(MOV, R_I), 2, 2, 2, 1, NONE, NO_MEM, 0x1234 },
	{ "41 b4 05", 8, ID(MOV, R_I), 1, 4, 8, 12, NONE, NO_MEM, 5 },
	{ "83 c0 ff", 8, ID(ADD, RM_I), 4, 4, 8, 0, 0, NO_MEM, -1 },
	{ "48 81 c1 00 00 00 80", 8, ID(ADD, RM_I), 8, 8, 8, 0, 1, NO_MEM, INT32_MIN },
	{ "66 81 e9 34 12", 8, ID(SUB, RM_I), 2, 2, 8, 5, 1, NO_MEM, 0x1234 },
	{ "82 c0 7f", 4, ID(ADD, RM_I), 1, 4, 4, 0, 0, NO_MEM, 0x7f },
	{ "f6 c1 80", 8, ID(TEST, RM_I), 1, 4, 8, 0, 1, NO_MEM, -128 },
	{ "f7 c8 01 00 00 00", 8, ID(TEST, RM_I), 4, 4, 8, 1, 0, NO_MEM, 1 },
	{ "f7 d8", 8, ID(NEG, RM), 4, 4, 8, 3, 0, NO_MEM, 0 },
	{ "c8 34 12 03", 8, ID(ENTER, I), 8, 8, 8, 0, NONE, NO_MEM, 0x1234 },
	{ "6a 80", 8, ID(PUSH, I), 8, 8, 8, 0, NONE, NO_MEM, -128 },
	{ "66 68 00 80", 8, ID(PUSH, I), 2, 2, 8, 0, NONE, NO_MEM, -32768 },
	{ "cd 80", 4, ID(INT, I), 4, 4, 4, 0, NONE, NO_MEM, 0x80 },
	{ "c2 00 80", 4, ID(RET, I), 4, 4, 4, 0, NONE, NO_MEM, 0x8000 },
	{ "d1 f8", 8, ID(SAR, RM), 4, 4, 8, 7, 0, NO_MEM, 1 },
	{ "c1 f0 04", 8, ID(SHL, RM_I), 4, 4, 8, 6, 0, NO_MEM, 4 },
	{ "a1 88 77 66 55 44 33 22 91", 8, ID(MOV, MOFFS_LOAD), 4, 4, 8, 0, NONE, NO_MEM,
	    (int64_t)0x9122334455667788 },
	{ "67 a2 88 77 66 55", 8, ID(MOV, MOFFS_STORE), 1, 4, 4, 0, NONE, NO_MEM, 0x55667788 },
	{ "64 a1 34 12", 2, ID(MOV, MOFFS_LOAD), 2, 2, 2, 0, NONE, NONE, 0, 0, X86_FS, 0, 0x1234 },
	{ "ea 78 56 34 12 cd ab", 4, ID(JMP_FAR, FAR), 4, 4, 4, 0, NONE, NO_MEM, 0x12345678 },
	{ "9a 34 12 cd ab", 2, ID(CALL_FAR, FAR), 2, 2, 2, 0, NONE, NO_MEM, 0x1234 },
	/* Memory operands: SIB, RIP-relative, no base, 16-bit, segments. */
	{ "8b 44 b3 10", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, 3, 6, 2, X86_DS, 16, 0 },
	{ "8b 04 24", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, 4, ZERO, 0, X86_SS, 0, 0 },
	{ "42 8b 04 24", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, 4, 12, 0, X86_SS, 0, 0 },
	{ "41 8b 04 24", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, 12, ZERO, 0, X86_DS, 0, 0 },
	{ "8b 45 fc", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, 5, ZERO, 0, X86_SS, -4, 0 },
	{ "41 8b 45 00", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, 13, ZERO, 0, X86_DS, 0, 0 },
	{ "8b 05 f0 ff ff ff", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, BT_REG_RIP, ZERO, 0, X86_DS, -16,
	    0 },
	{ "41 8b 05 f0 ff ff ff", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, BT_REG_RIP, ZERO, 0, X86_DS,
	    -16, 0 },
	{ "8b 05 f0 ff ff ff", 4, ID(MOV, R_RM), 4, 4, 4, 0, NONE, ZERO, ZERO, 0, X86_DS, -16, 0 },
	{ "8b 04 25 00 00 00 80", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, ZERO, ZERO, 0, X86_DS,
	    INT32_MIN, 0 },
	{ "8b 04 cd 04 00 00 00", 4, ID(MOV, R_RM), 4, 4, 4, 0, NONE, ZERO, 1, 3, X86_DS, 4, 0 },
	{ "8b 42 fe", 2, ID(MOV, R_RM), 2, 2, 2, 0, NONE, 5, 6, 0, X86_SS, -2, 0 },
	{ "8b 06 34 12", 2, ID(MOV, R_RM), 2, 2, 2, 0, NONE, ZERO, ZERO, 0, X86_DS, 0x1234, 0 },
	{ "8b 87 00 80", 2, ID(MOV, R_RM), 2, 2, 2, 0, NONE, 3, ZERO, 0, X86_DS, -32768, 0 },
	{ "67 8b 07", 4, ID(MOV, R_RM), 4, 4, 2, 0, NONE, 3, ZERO, 0, X86_DS, 0, 0 },
	{ "26 8b 45 00", 4, ID(MOV, R_RM), 4, 4, 4, 0, NONE, 5, ZERO, 0, X86_ES, 0, 0 },
	{ "26 8b 45 00", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, 5, ZERO, 0, X86_SS, 0, 0 },
	{ "65 3e 8b 00", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, 0, ZERO, 0, X86_GS, 0, 0 },
	{ "64 65 8b 00", 8, ID(MOV, R_RM), 4, 4, 8, 0, NONE, 0, ZERO, 0, X86_GS, 0, 0 },
	{ "62 00", 4, ID(BOUND, R_RM), 4, 4, 4, 0, NONE, 0, ZERO, 0, X86_DS, 0, 0 },
	{ "c5 00", 4, ID(LOAD_FAR, R_RM), 4, 4, 4, 0, NONE, 0, ZERO, 0, X86_DS, 0, 0 },
	/* Opcodes that change with mode or prefix. */
	{ "90", 8, ID(NOP, R), 4, 4, 8, 0, NONE, NO_MEM, 0 },
	{ "f3 90", 8, ID(PAUSE, R), 4, 4, 8, 0, NONE, NO_MEM, 0 },
	{ "41 90", 8, ID(XCHG, R), 4, 4, 8, 8, NONE, NO_MEM, 0 },
	{ "63 c8", 8, ID(MOVSXD, R_RM), 4, 4, 8, 1, 0, NO_MEM, 0 },
	{ "48 63 c8", 8, ID(MOVSXD, R_RM), 4, 8, 8, 1, 0, NO_MEM, 0 },
	{ "63 c8", 4, ID(ARPL, RM_R), 2, 4, 4, 1, 0, NO_MEM, 0 },
	{ "40", 4, ID(INC, R), 4, 4, 4, 0, NONE, NO_MEM, 0 },
	{ "4f", 2, ID(DEC, R), 2, 2, 2, 7, NONE, NO_MEM, 0 },
	{ "f3 0f b8 c8", 8, ID(POPCNT, R_RM), 4, 4, 8, 1, 0, NO_MEM, 0 },
	{ "0f bc c8", 8, ID(BSF, R_RM), 4, 4, 8, 1, 0, NO_MEM, 0 },
	{ "66 f3 0f bc c8", 8, ID(TZCNT, R_RM), 2, 2, 8, 1, 0, NO_MEM, 0 },
	{ "f2 f3 0f bd c8", 8, ID(LZCNT, R_RM), 4, 4, 8, 1, 0, NO_MEM, 0 },
	{ "f3 f2 0f bd c8", 8, ID(BSR, R_RM), 4, 4, 8, 1, 0, NO_MEM, 0 },
	{ "f2 48 0f 38 f0 c8", 8, ID(CRC32, R_RM), 1, 8, 8, 1, 0, NO_MEM, 0 },
	{ "66 f2 0f 38 f1 c8", 8, ID(CRC32, R_RM), 2, 2, 8, 1, 0, NO_MEM, 0 },
	{ "0f 38 f0 08", 8, ID(MOVBE, R_RM), 4, 4, 8, 1, NONE, 0, ZERO, 0, X86_DS, 0, 0 },
	{ "66 0f 38 f6 c8", 8, ID(ADCX, R_RM), 4, 4, 8, 1, 0, NO_MEM, 0 },
	{ "f3 48 0f 38 f6 c8", 8, ID(ADOX, R_RM), 8, 8, 8, 1, 0, NO_MEM, 0 },
	{ "0f c7 08", 8, ID(CMPXCHG8B, RM), 4, 4, 8, 1, NONE, 0, ZERO, 0, X86_DS, 0, 0 },
	{ "48 0f c7 08", 8, ID(CMPXCHG16B, RM), 8, 8, 8, 1, NONE, 0, ZERO, 0, X86_DS, 0, 0 },
	{ "0f c7 f1", 8, ID(RDRAND, RM), 4, 4, 8, 6, 1, NO_MEM, 0 },
	{ "f3 0f 1e fa", 8, ID(NOP, RM), 4, 4, 8, 7, 2, NO_MEM, 0 },
	{ "0f b6 c4", 4, ID(MOVZX, R_RM), 1, 4, 4, 0, 4, NO_MEM, 0 },
	{ "48 0f bf c1", 8, ID(MOVSX, R_RM), 2, 8, 8, 0, 1, NO_MEM, 0 },
	{ "f3 48 a5", 8, ID(MOVS, NONE), 8, 8, 8, 0, NONE, NO_MEM, 0 },
	{ "d7", 2, ID(XLAT, NONE), 1, 2, 2, 0, NONE, NO_MEM, 0 },
	/* Branches. */
	{ "eb fe", 8, ID(JMP, REL), 8, 8, 8, 0, NONE, NO_MEM, -2 },
	{ "e9 00 00 00 80", 8, ID(JMP, REL), 8, 8, 8, 0, NONE, NO_MEM, INT32_MIN },
	{ "66 e9 00 80", 8, ID(JMP, REL), 2, 2, 8, 0, NONE, NO_MEM, -32768 },
	{ "e8 00 80", 2, ID(CALL, REL), 2, 2, 2, 0, NONE, NO_MEM, -32768 },
	{ "0f 85 10 00 00 00", 4, ID(JCC, REL), 4, 4, 4, 0, NONE, NO_MEM, 16 },
	{ "67 e3 00", 8, ID(JCXZ, REL), 8, 8, 4, 0, NONE, NO_MEM, 0 },
	{ "ff 10", 8, ID(CALL_IND, RM), 8, 8, 8, 2, NONE, 0, ZERO, 0, X86_DS, 0, 0 },
	{ "ff 18", 8, ID(CALL_FAR, RM), 4, 4, 8, 3, NONE, 0, ZERO, 0, X86_DS, 0, 0 },
	/* Control registers always name a register, whatever mod says. */
	{ "0f 20 04", 8, ID(MOV_FROM_CR, RM_R), 8, 8, 8, 0, 4, NO_MEM, 0 },
	{ "44 0f 22 c0", 8, ID(MOV_TO_CR, R_RM), 8, 8, 8, 8, 0, NO_MEM, 0 },
	{ "f0 0f 20 c0", 4, ID(MOV_FROM_CR, RM_R), 4, 4, 4, 0, 0, NO_MEM, 0 },
	/* VEX with general registers. */
	{ "c4 e2 70 f2 c2", 8, ID(ANDN, R_V_RM), 4, 4, 8, 0, 2, NO_MEM, 0 },
	{ "c4 e2 f8 f3 ca", 8, ID(BLSR, V_RM), 8, 8, 8, 1, 2, NO_MEM, 0 },
	{ "c4 e2 73 f5 c2", 4, ID(PDEP, R_V_RM), 4, 4, 4, 0, 2, NO_MEM, 0 },
	{ "c4 e3 fb f0 c2 07", 8, ID(RORX, R_RM_I), 8, 8, 8, 0, 2, NO_MEM, 7 },
	/* Vector and x87: length and operands only. */
	{ "0f 77", 8, ID(VEC, NONE), 4, 4, 8, 0, NONE, NO_MEM, 0 },
	{ "c5 f8 77", 8, ID(VEC, NONE), 4, 4, 8, 0, NONE, NO_MEM, 0 },
	{ "66 0f 70 c1 1b", 8, ID(VEC, NONE), 2, 2, 8, 0, 1, NO_MEM, 0x1b },
	{ "66 0f 3a 0f c1 03", 8, ID(VEC, NONE), 2, 2, 8, 0, 1, NO_MEM, 3 },
	{ "66 0f 38 00 c1", 8, ID(VEC, NONE), 2, 2, 8, 0, 1, NO_MEM, 0 },
	{ "c5 fd 6f 00", 4, ID(VEC, NONE), 4, 4, 4, 0, NONE, 0, ZERO, 0, X86_DS, 0, 0 },
	{ "c4 e2 e9 92 04 09", 8, ID(VEC, NONE), 8, 8, 8, 0, NONE, 1, 1, 0, X86_DS, 0, 0 },
	{ "62 f1 7c 48 10 40 01", 8, ID(VEC, NONE), 4, 4, 8, 0, NONE, 0, ZERO, 0, X86_DS, 1, 0 },
	{ "62 a1 7c 48 10 c0", 8, ID(VEC, NONE), 4, 4, 8, 16, 16, NO_MEM, 0 },
	{ "62 92 7d 41 92 04 20", 8, ID(VEC, NONE), 4, 4, 8, 0, NONE, 8, 28, 0, X86_DS, 0, 0 },
	{ "d9 c0", 8, ID(X87, NONE), 4, 4, 8, 0, 0, NO_MEM, 0 },
	{ "dd 45 08", 4, ID(X87, NONE), 4, 4, 4, 0, NONE, 5, ZERO, 0, X86_SS, 8, 0 },
};

static size_t
parse_hex(const char *hex, uint8_t *out)
{
	size_t n = 0;

	for (char *end; *hex != '\0'; hex = end)
		out[n++] = (uint8_t)strtoul(hex, &end, 16);
	return n;
}

static void
test_known(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
		const struct known *k = &known[i];
		uint8_t bytes[16] = { 0 };
		size_t len = parse_hex(k->hex, bytes);
		struct bt_insn in;

		if (bt_decode(bytes, len, k->mode, &in) != 0)
			fail_msg("%s: not decoded", k->hex);
		if (in.id != k->id || in.len != len)
			fail_msg("%s: %s of length %d", k->hex, bt_id_name(in.id), in.len);
		if (in.form != k->form || in.size != k->size || in.osize != k->osize ||
		    in.asize != k->asize)
			fail_msg("%s: form %d, sizes %d %d %d", k->hex, in.form, in.size, in.osize,
			    in.asize);
		if (in.reg != k->reg || (k->rm != NONE && (in.rm != k->rm || in.mod != 3)))
			fail_msg("%s: registers %d %d", k->hex, in.reg, in.rm);
		if (in.seg != k->seg || in.imm != k->imm)
			fail_msg("%s: segment %d, immediate %" PRIx64, k->hex, in.seg, in.imm);
		if (k->base == NONE)
			continue;
		if (in.mod == 3 || in.base != k->base || in.index != k->index ||
		    in.scale != k->scale || in.disp != k->disp)
			fail_msg("%s: base %d index %d scale %d disp %d", k->hex, in.base, in.index,
			    in.scale, in.disp);
	}
}

static struct bt_insn
decode(const char *hex, int mode)
{
	uint8_t bytes[16] = { 0 };
	struct bt_insn in;

	parse_hex(hex, bytes);
	assert_int_equal(bt_decode(bytes, 15, mode, &in), 0);
	return in;
}

/* Fields that only some instructions have. */
static void
test_details(void **state)
{
	struct bt_insn in = decode("c8 34 12 03", 8);

	assert_int_equal(in.imm2, 3);
	in = decode("ea 78 56 34 12 cd ab", 4);
	assert_int_equal(in.imm2, 0xabcd);
	assert_int_equal(decode("0f 4c c0", 8).cc, 12);
	assert_int_equal(decode("7f 00", 8).cc, 15);
	assert_int_equal(decode("8e d0", 8).sreg, X86_SS);
	assert_int_equal(decode("0f a8", 8).sreg, X86_GS);
	assert_int_equal(decode("0f a1", 8).sreg, X86_FS);
	assert_int_equal(decode("1e", 4).sreg, X86_DS);
	assert_int_equal(decode("c4 00", 4).sreg, X86_ES);
	assert_int_equal(decode("c5 00", 4).sreg, X86_DS);
	assert_int_equal(decode("0f b2 00", 8).sreg, X86_SS);
	assert_int_equal(decode("0f b5 00", 8).sreg, X86_GS);
	in = decode("f2 f3 a4", 8);
	assert_true(in.rep && !in.repne);
	in = decode("f3 f2 a6", 8);
	assert_true(!in.rep && in.repne);
	in = decode("c4 41 35 58 d0", 8); /* vaddpd ymm10, ymm9, ymm8 */
	assert_int_equal(in.encoding, BT_VEX);
	assert_int_equal(in.map, BT_MAP_0F);
	assert_int_equal(in.pp, BT_PP_66);
	assert_int_equal(in.vl, 1);
	assert_int_equal(in.vvvv, 9);
	assert_int_equal(in.reg, 10);
	assert_int_equal(in.rm, 8);
	assert_int_equal(in.opcode_off, 3);
	assert_int_equal(in.modrm_off, 4);
	in = decode("62 61 ed d3 58 4a 02", 8); /* vaddpd zmm25{k3}{z}, zmm18, [rdx+2*N]{1to8} */
	assert_int_equal(in.encoding, BT_EVEX);
	assert_int_equal(in.reg, 25);
	assert_int_equal(in.vvvv, 18);
	assert_true(in.disp8);
	assert_int_equal(in.disp, 2);
	assert_int_equal(in.evex_z, 1);
	assert_int_equal(in.evex_b, 1);
	assert_int_equal(in.evex_aaa, 3);
	assert_int_equal(in.vl, 2);
	assert_int_equal(in.w, 1);
	assert_true(decode("c4 e2 e9 92 04 09", 8).vsib);
	assert_false(decode("8b 80 01 00 00 00", 8).disp8);
}

/* --- Undefined --- */

static const struct {
	const char *hex;
	uint8_t modes; /* sum of 2, 4, 8 */
} undefined[] = {
	/* Not in 64-bit mode. */
	{ "06", 8 }, { "0e", 8 }, { "17", 8 }, { "1f", 8 }, { "27", 8 }, { "2f", 8 }, { "37", 8 },
	{ "3f", 8 }, { "60", 8 }, { "61", 8 }, { "82 c0 00", 8 }, { "9a 00 00 00 00 00 00", 8 },
	{ "ce", 8 }, { "d4 0a", 8 }, { "d5 0a", 8 }, { "d6", 8 }, { "ea 00 00 00 00 00 00", 8 },
	/* Nowhere. */
	{ "0f 0b", 14 }, { "0f b9 c0", 14 }, { "0f ff c0", 14 }, { "0f 04", 14 },
	{ "0f 24 c0", 14 }, { "fe d0", 14 }, { "ff f8", 14 }, { "c6 c8 00", 14 }, { "8f c8", 14 },
	{ "0f ba c0 01", 14 }, { "0f 00 f0", 14 }, { "0f 01 d4", 14 }, { "0f b8 c0", 14 },
	{ "8e c8", 14 }, { "8c f0", 14 }, { "8e 38", 14 }, { "0f 38 ff c0", 14 },
	{ "0f 3a 00 c0 00", 14 },
	/* Memory only, or a register only. */
	{ "8d c0", 14 }, { "0f c7 c8", 14 }, { "0f c3 c0", 14 }, { "ff d8", 14 }, { "ff e8", 14 },
	{ "0f b2 c0", 14 }, { "0f 38 f0 c0", 14 }, { "66 0f 38 82 c0", 14 },
	{ "0f c7 30", 14 }, { "f3 0f ae 00", 14 }, { "62 c0", 8 },
	/* LOCK where it is not allowed: register destinations, sources in memory, other
	 * instructions. */
	{ "f0 01 c0", 14 }, { "f0 03 00", 14 }, { "f0 39 00", 14 }, { "f0 85 00", 14 },
	{ "f0 89 00", 14 }, { "f0 90", 14 }, { "f0 80 38 00", 14 }, { "f0 0f a3 00", 14 },
	{ "f0 0f ba 20 00", 14 }, { "f0 f6 20", 14 }, { "f0 ff 30", 14 }, { "f0 c0 00 01", 14 },
	{ "f0 0f 20 d8", 14 }, { "f0 0f 21 c0", 14 }, { "f0 a4", 14 }, { "f0 0f 58 00", 14 },
	{ "f0 c4 e2 70 f2 00", 14 },
	/* VEX and EVEX: no legacy prefix before, a map that exists, L 0 for general registers. */
	{ "66 c5 f8 58 c0", 14 }, { "f2 c5 f8 58 c0", 14 }, { "48 c5 f8 58 c0", 8 },
	{ "c4 e0 78 58 c0", 14 }, { "c4 e4 78 58 c0", 14 }, { "c4 e2 74 f2 c2", 14 },
	{ "c4 e2 70 f3 c2", 14 }, { "62 f4 7c 48 58 c0", 14 }, { "62 f1 78 48 58 c0", 14 },
	{ "66 62 f1 7c 48 58 c0", 14 }, { "62 f1 7c 40 58 c0", 6 }, { "c4 e2 69 92 00", 14 },
};

static void
test_undefined(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(undefined); i++) {
		for (int mode = 2; mode <= 8; mode *= 2) {
			if (!(undefined[i].modes & mode))
				continue;
			if (decode(undefined[i].hex, mode).id != BT_ID_UD)
				fail_msg("%s is defined in mode %d", undefined[i].hex, mode);
		}
	}
}

/* Everything LOCK is allowed for. */
static void
test_lock(void **state)
{
	static const char *const ok[] = {
		"f0 00 00", "f0 01 00", "f0 09 00", "f0 11 00", "f0 19 00", "f0 21 00", "f0 29 00",
		"f0 31 00", "f0 80 00 01", "f0 83 30 01", "f0 87 00", "f0 86 00", "f0 fe 00",
		"f0 ff 08", "f0 f7 10", "f0 f6 18", "f0 0f ab 00", "f0 0f b3 00", "f0 0f bb 00",
		"f0 0f ba 28 01", "f0 0f ba 38 01", "f0 0f b0 00", "f0 0f b1 00", "f0 0f c0 00",
		"f0 0f c7 08"
	};

	for (size_t i = 0; i < ARRAY_SIZE(ok); i++) {
		struct bt_insn in = decode(ok[i], 8);

		if (in.id == BT_ID_UD || !in.lock)
			fail_msg("%s is undefined", ok[i]);
	}
}

/* --- Bounds --- */

static void
test_too_long(void **state)
{
	uint8_t bytes[32];
	struct bt_insn in;

	memset(bytes, 0x66, sizeof(bytes));
	assert_int_equal(bt_decode(bytes, 14, 8, &in), -EAGAIN);
	assert_int_equal(bt_decode(bytes, 15, 8, &in), -E2BIG);
	assert_int_equal(bt_decode(bytes, sizeof(bytes), 8, &in), -E2BIG);
	bytes[14] = 0x90;
	assert_int_equal(bt_decode(bytes, 15, 8, &in), 0);
	assert_int_equal(in.len, 15);
	/* The opcode fits, its immediate does not. */
	bytes[14] = 0xb0;
	assert_int_equal(bt_decode(bytes, sizeof(bytes), 8, &in), -E2BIG);
	assert_int_equal(bt_decode(bytes, 0, 8, &in), -EAGAIN);
}

static uint32_t
next_random(uint64_t *seed)
{
	*seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(*seed >> 33);
}

/* Bytes that look like code more often than noise does. */
static void
random_bytes(uint64_t *seed, uint8_t *out, size_t n)
{
	static const uint8_t prefixes[] = { 0x66, 0x67, 0xf2, 0xf3, 0x2e, 0x64, 0x36, 0xf0, 0x48,
		0x41, 0x4c };
	size_t i = 0;

	while (i < n) {
		uint8_t piece[16];
		size_t len = 0, want;

		if (next_random(seed) % 3 == 0)
			piece[len++] = prefixes[next_random(seed) % sizeof(prefixes)];
		switch (next_random(seed) % 8) {
		case 0:
		case 1: piece[len++] = 0x0f; break;
		case 2:
			piece[len++] = 0x0f;
			piece[len++] = next_random(seed) % 2 ? 0x38 : 0x3a;
			break;
		case 3:
			piece[len++] = 0xc5;
			piece[len++] = (uint8_t)(next_random(seed) | 0xc0);
			break;
		case 4:
			piece[len++] = 0xc4;
			piece[len++] = (uint8_t)(0xe0 | (1 + next_random(seed) % 3));
			piece[len++] = (uint8_t)next_random(seed);
			break;
		case 5:
			piece[len++] = 0x62;
			piece[len++] = (uint8_t)(0xf0 | (1 + next_random(seed) % 3));
			piece[len++] = (uint8_t)(next_random(seed) | 0x04);
			piece[len++] = (uint8_t)next_random(seed);
			break;
		default: break;
		}
		for (want = len + 2 + next_random(seed) % 6; len < want; len++)
			piece[len] = (uint8_t)next_random(seed);
		for (size_t j = 0; j < len && i < n; j++)
			out[i++] = piece[j];
	}
}

static void
check_fields(const struct bt_insn *in)
{
	assert_true(in->id < BT_ID_COUNT);
	assert_in_range(in->len, 1, 15);
	assert_true(in->reg < 32 && in->rm < 32 && in->vvvv < 32);
	assert_true(in->seg < X86_SEG_COUNT && in->scale < 4 && in->cc < 16);
	assert_true(in->base <= BT_REG_RIP && in->index < 32);
	assert_true(in->vsib || in->index <= BT_REG_ZERO);
	if (in->id == BT_ID_UD)
		return;
	assert_true(in->sreg < X86_SEG_COUNT);
	assert_true(in->asize == 2 || in->asize == 4 || in->asize == 8);
	assert_true(in->osize == 2 || in->osize == 4 || in->osize == 8);
	assert_true(in->size == 1 || in->size == 2 || in->size == 4 || in->size == 8);
	/* What only vectors have. */
	if (in->id != BT_ID_VEC)
		assert_true(in->reg < 16 && in->rm < 16 && in->vvvv < 16);
}

/* Bytes end where a page does that must not be touched. Whatever is missing, more is asked for;
 * whatever follows makes no difference. */
static void
test_truncated(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint8_t *mem = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	    0);
	uint64_t seed = 20240607;

	assert_true(mem != MAP_FAILED);
	assert_int_equal(mprotect(mem + page, page, PROT_NONE), 0);
	for (int i = 0; i < 100000; i++) {
		static const int modes[] = { 2, 4, 8 };
		int mode = modes[i % 3];
		struct bt_insn full, in;
		uint8_t bytes[15];
		int err;

		random_bytes(&seed, bytes, sizeof(bytes));
		err = bt_decode(bytes, sizeof(bytes), mode, &full);
		if (err != 0) {
			assert_int_equal(err, -E2BIG);
			full.len = 15;
		} else {
			check_fields(&full);
		}
		for (size_t n = 0; n < full.len; n++) {
			uint8_t *p = mem + page - n;

			memcpy(p, bytes, n);
			assert_int_equal(bt_decode(p, n, mode, &in), -EAGAIN);
		}
		memcpy(mem + page - full.len, bytes, full.len);
		assert_int_equal(bt_decode(mem + page - full.len, full.len, mode, &in), err);
		if (err == 0)
			assert_memory_equal(&in, &full, sizeof(in));
	}
	munmap(mem, 2 * page);
}

/* --- objdump's opinion --- */

static bool
word_in(const char *word, size_t len, const char *const *list)
{
	for (; *list != NULL; list++) {
		if (strlen(*list) == len && strncmp(*list, word, len) == 0)
			return true;
	}
	return false;
}

/* The mnemonic behind prefixes that objdump prints; "" when prefixes stand alone. */
static const char *
skip_prefixes(const char *text)
{
	static const char *const prefixes[] = { "lock", "rep", "repz", "repnz", "data16", "data32",
		"addr16", "addr32", "cs", "ds", "es", "fs", "gs", "ss", "bnd", NULL };
	for (;;) {
		size_t len = strcspn(text, " ");

		if (!word_in(text, len, prefixes) && strncmp(text, "rex", 3) != 0)
			return text;
		text += len;
		text += strspn(text, " ");
	}
}

/* What objdump knows and we do not offer, or what no processor runs although objdump prints it. */
static bool
is_foreign(const struct bt_insn *in, const char *text)
{
	static const char *const words[] = {
		"ud0", "ud1", "ud2", "femms", "getsec", "vmread", "vmwrite", "vmlaunch",
		"vmresume", "vmxoff", "vmptrst", "vmptrld", "vmclear", "vmxon", "vmrun", "vmsave",
		"vmload", "vmfunc", "stgi", "clgi", "skinit", "invlpga", "invlpgb", "tlbsync",
		"invept", "invvpid", "xabort", "xbegin", "xend", "xtest", "aadd", "aand", "aor",
		"axor", "rdpkru", "wrpkru", "rdpru", "mcommit", "monitorx", "mwaitx", "enclu",
		"encls", "enclv", "pconfig", "extrq", "insertq", "wrssd", "wrssq", "wrussd",
		"wrussq", "incsspd", "incsspq", "rstorssp", "saveprevssp", "setssbsy", "clrssbsy",
		"ptwritel", "ptwriteq", "umwait", "umonitor", "tpause", "enqcmd", "enqcmds",
		"hreset", "wrmsrns", "psmash", "pvalidate", "rmpupdate", "rmpadjust", "clui",
		"stui", "testui", "uiret", "senduipi", "montmul", "xsha1", "xsha256", "xstore-rng",
		"loadiwkey", "encodekey128", "encodekey256", "rdmsrlist", "wrmsrlist", NULL
	};
	/* 3DNow!, PadLock, XOP. */
	static const char *const starts[] = { "pf", "pi2f", "pswapd", "pmulhrw", "pavgusb",
		"xcrypt", "lwp", "bl", "vp", "vfrcz", NULL };

	/* It takes prefixes before VEX, opcode maps, EVEX.V' and mandatory prefixes that processors
	 * do not. */
	if (in->encoding != BT_LEGACY || (in->map != BT_MAP_1 && in->pp != BT_PP_NONE))
		return true;
	/* LOCK is ours to judge (with MOV CRn it prints another register instead), and so are moves
	 * to CS and segment registers that do not exist. */
	if (in->lock || strstr(text, "%?") != NULL ||
	    strstr(text, "%tr") != NULL)
		return true;
	text = skip_prefixes(text);
	if (strncmp(text, "mov", 3) == 0 && strstr(text, ",%cs") != NULL)
		return true;
	for (const char *const *s = starts; *s != NULL; s++) {
		if (strncmp(text, *s, strlen(*s)) == 0)
			return true;
	}
	return word_in(text, strcspn(text, " "), words);
}

/* A line of the disassembly. False: not one of an instruction. */
static bool
parse_line(char *line, unsigned long *addr, int *len, const char **text)
{
	char *end, *p;

	*addr = strtoul(line, &end, 16);
	if (end == line || *end != ':')
		return false;
	p = end + 1;
	*len = 0;
	for (;; p = end) {
		while (*p == ' ' || *p == '\t')
			p++;
		strtoul(p, &end, 16);
		/* Bytes are pairs of digits; the text follows after a tab. */
		if (end != p + 2 || *end != ' ')
			break;
		++*len;
		if (end[1] == '\t' || strchr(end, '\t') == NULL)
			break;
		if (strspn(end, " ") > 1) {
			end = strchr(end, '\t');
			p = end;
			break;
		}
	}
	p = strchr(p, '\t') != NULL ? strchr(p, '\t') + 1 : end;
	p[strcspn(p, "\n")] = '\0';
	*text = p;
	return *len > 0;
}

static void
compare_with_objdump(int mode, const char *machine, uint64_t seed)
{
	enum { STREAM = 200000 };
	static uint8_t stream[STREAM + 16];
	char path[] = "/tmp/test-decode-XXXXXX", command[128], line[512];
	int fd = mkstemp(path), compared = 0, foreign = 0;
	FILE *out;

	assert_true(fd >= 0);
	random_bytes(&seed, stream, STREAM);
	assert_int_equal(write(fd, stream, STREAM), STREAM);
	close(fd);
	snprintf(command, sizeof(command), "objdump -D -z -w -b binary -m %s --insn-width=16 %s",
	    machine, path);
	out = popen(command, "r");
	assert_non_null(out);
	while (fgets(line, sizeof(line), out) != NULL) {
		unsigned long addr;
		struct bt_insn in;
		const char *text;
		int len, err;

		if (!parse_line(line, &addr, &len, &text) || addr + 15 > STREAM)
			continue;
		if (strstr(text, "(bad)") != NULL || strstr(text, "{bad}") != NULL ||
		    *skip_prefixes(text) == '\0')
			continue;
		err = bt_decode(stream + addr, 15, mode, &in);
		/* It prints FWAIT and the x87 instruction after it as one. */
		if (err == 0 && in.id == BT_ID_FWAIT)
			continue;
		compared++;
		if (err == 0 && in.id == BT_ID_UD && is_foreign(&in, text)) {
			foreign++;
			continue;
		}
		if (err != 0 || in.id == BT_ID_UD || in.len != len) {
			unlink(path);
			fail_msg("mode %d at %lx: %s (%d), we: %s (%d)", mode, addr, text, len,
			    err == 0 ? bt_id_name(in.id) : "error", err == 0 ? in.len : err);
		}
	}
	pclose(out);
	unlink(path);
	assert_true(compared > STREAM / 10 && foreign < compared / 10);
}

static void
test_objdump(void **state)
{
	if (system("objdump --version >/dev/null 2>&1") != 0) {
		print_message("objdump is not installed: lengths not compared\n");
		skip();
	}
	compare_with_objdump(8, "i386:x86-64", 1);
	compare_with_objdump(4, "i386", 2);
	compare_with_objdump(2, "i8086", 3);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_known),
		cmocka_unit_test(test_details),
		cmocka_unit_test(test_undefined),
		cmocka_unit_test(test_lock),
		cmocka_unit_test(test_too_long),
		cmocka_unit_test(test_truncated),
		cmocka_unit_test(test_objdump),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
