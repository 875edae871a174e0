/*
 * The opcode tables: SDM 2, appendix A; APM 3, appendix A.
 */
#include "engine/bt/decode.h"

#define M BT_DF_MODRM
#define LK BT_DF_LOCK
#define N64 BT_DF_NO64
#define MEM (BT_DF_MODRM | BT_DF_MEM)
#define OPR BT_DF_OPREG

#define OP(id, form, size, imm, flags)                                                             \
	{                                                                                          \
		BT_ID_##id, BT_FORM_##form, BT_SZ_##size, BT_IMM_##imm, (flags)                    \
	}
#define GROUP(n, form, size, imm)                                                                  \
	{                                                                                          \
		BT_GROUP_##n, BT_FORM_##form, BT_SZ_##size, BT_IMM_##imm, M | BT_DF_GROUP          \
	}
#define ROWS                                                                                       \
	{                                                                                          \
		BT_ID_UD, BT_FORM_NONE, BT_SZ_V, BT_IMM_NONE, M | BT_DF_ROWS                       \
	}
#define UD OP(UD, NONE, V, NONE, 0)
#define UD_M OP(UD, NONE, V, NONE, M)
#define X87 OP(X87, NONE, V, NONE, M)
#define VEC OP(VEC, NONE, V, NONE, M)
#define VEC_I OP(VEC, NONE, V, UB, M)

#define X4(...) __VA_ARGS__, __VA_ARGS__, __VA_ARGS__, __VA_ARGS__
#define X8(...) X4(__VA_ARGS__), X4(__VA_ARGS__)
#define X16(...) X8(__VA_ARGS__), X8(__VA_ARGS__)

/* The six forms of ADD to CMP. */
#define ALU(id, lock)                                                                              \
	OP(id, RM_R, B, NONE, M | (lock)), OP(id, RM_R, V, NONE, M | (lock)),                      \
	    OP(id, R_RM, B, NONE, M), OP(id, R_RM, V, NONE, M), OP(id, R_I, B, SB, 0),             \
	    OP(id, R_I, V, Z, 0)

const struct bt_opcode bt_decode_map1[256] = {
	/* 00 */
	ALU(ADD, LK), OP(PUSH_SREG, NONE, V64, NONE, N64), OP(POP_SREG, NONE, V64, NONE, N64),
	ALU(OR, LK), OP(PUSH_SREG, NONE, V64, NONE, N64), UD /* escape */,
	/* 10 */
	ALU(ADC, LK), OP(PUSH_SREG, NONE, V64, NONE, N64), OP(POP_SREG, NONE, V64, NONE, N64),
	ALU(SBB, LK), OP(PUSH_SREG, NONE, V64, NONE, N64), OP(POP_SREG, NONE, V64, NONE, N64),
	/* 20 */
	ALU(AND, LK), UD /* ES: */, OP(DAA, NONE, B, NONE, N64),
	ALU(SUB, LK), UD /* CS: */, OP(DAS, NONE, B, NONE, N64),
	/* 30 */
	ALU(XOR, LK), UD /* SS: */, OP(AAA, NONE, B, NONE, N64),
	ALU(CMP, 0), UD /* DS: */, OP(AAS, NONE, B, NONE, N64),
	/* 40: REX in 64-bit mode */
	X8(OP(INC, R, V, NONE, OPR)), X8(OP(DEC, R, V, NONE, OPR)),
	/* 50 */
	X8(OP(PUSH, R, V64, NONE, OPR)), X8(OP(POP, R, V64, NONE, OPR)),
	/* 60: 62 is EVEX and 63 MOVSXD in 64-bit mode */
	OP(PUSHA, NONE, V, NONE, N64), OP(POPA, NONE, V, NONE, N64),
	OP(BOUND, R_RM, V, NONE, MEM | N64), OP(ARPL, RM_R, W, NONE, M),
	X4(UD) /* FS: GS: 66 67 */,
	OP(PUSH, I, V64, Z, 0), OP(IMUL3, R_RM_I, V, Z, M),
	OP(PUSH, I, V64, SB, 0), OP(IMUL3, R_RM_I, V, SB, M),
	OP(INS, NONE, B, NONE, 0), OP(INS, NONE, V, NONE, 0),
	OP(OUTS, NONE, B, NONE, 0), OP(OUTS, NONE, V, NONE, 0),
	/* 70 */
	X16(OP(JCC, REL, V64, SB, 0)),
	/* 80 */
	GROUP(1, RM_I, B, SB), GROUP(1, RM_I, V, Z),
	GROUP(1, RM_I, B, SB) /* not in 64-bit mode */, GROUP(1, RM_I, V, SB),
	OP(TEST, RM_R, B, NONE, M), OP(TEST, RM_R, V, NONE, M),
	OP(XCHG, RM_R, B, NONE, M | LK), OP(XCHG, RM_R, V, NONE, M | LK),
	OP(MOV, RM_R, B, NONE, M), OP(MOV, RM_R, V, NONE, M),
	OP(MOV, R_RM, B, NONE, M), OP(MOV, R_RM, V, NONE, M),
	OP(MOV_FROM_SREG, RM_R, W, NONE, M), OP(LEA, R_RM, V, NONE, MEM),
	OP(MOV_TO_SREG, R_RM, W, NONE, M), GROUP(1A, RM, V64, NONE),
	/* 90 */
	X8(OP(XCHG, R, V, NONE, OPR)),
	OP(CBW, NONE, V, NONE, 0), OP(CWD, NONE, V, NONE, 0),
	OP(CALL_FAR, FAR, V, FAR, N64), OP(FWAIT, NONE, V, NONE, 0),
	OP(PUSHF, NONE, V64, NONE, 0), OP(POPF, NONE, V64, NONE, 0),
	OP(SAHF, NONE, B, NONE, 0), OP(LAHF, NONE, B, NONE, 0),
	/* A0 */
	OP(MOV, MOFFS_LOAD, B, MOFFS, 0), OP(MOV, MOFFS_LOAD, V, MOFFS, 0),
	OP(MOV, MOFFS_STORE, B, MOFFS, 0), OP(MOV, MOFFS_STORE, V, MOFFS, 0),
	OP(MOVS, NONE, B, NONE, 0), OP(MOVS, NONE, V, NONE, 0),
	OP(CMPS, NONE, B, NONE, 0), OP(CMPS, NONE, V, NONE, 0),
	OP(TEST, R_I, B, SB, 0), OP(TEST, R_I, V, Z, 0),
	OP(STOS, NONE, B, NONE, 0), OP(STOS, NONE, V, NONE, 0),
	OP(LODS, NONE, B, NONE, 0), OP(LODS, NONE, V, NONE, 0),
	OP(SCAS, NONE, B, NONE, 0), OP(SCAS, NONE, V, NONE, 0),
	/* B0 */
	X8(OP(MOV, R_I, B, SB, OPR)), X8(OP(MOV, R_I, V, V, OPR)),
	/* C0: C4 and C5 are VEX in 64-bit mode and where ModRM would name a register */
	GROUP(2, RM_I, B, UB), GROUP(2, RM_I, V, UB),
	OP(RET, I, V64, UW, 0), OP(RET, NONE, V64, NONE, 0),
	OP(LOAD_FAR, R_RM, V, NONE, MEM | N64), OP(LOAD_FAR, R_RM, V, NONE, MEM | N64),
	GROUP(11, RM_I, B, SB), GROUP(11, RM_I, V, Z),
	OP(ENTER, I, V64, ENTER, 0), OP(LEAVE, NONE, V64, NONE, 0),
	OP(RET_FAR, I, V, UW, 0), OP(RET_FAR, NONE, V, NONE, 0),
	OP(INT3, NONE, V, NONE, 0), OP(INT, I, V, UB, 0),
	OP(INTO, NONE, V, NONE, N64), OP(IRET, NONE, V, NONE, 0),
	/* D0 */
	GROUP(2, RM, B, 1), GROUP(2, RM, V, 1), GROUP(2, RM_CL, B, NONE), GROUP(2, RM_CL, V, NONE),
	OP(AAM, I, B, UB, N64), OP(AAD, I, B, UB, N64), OP(SALC, NONE, B, NONE, N64),
	OP(XLAT, NONE, B, NONE, 0),
	X8(X87),
	/* E0 */
	OP(LOOPNE, REL, V64, SB, 0), OP(LOOPE, REL, V64, SB, 0), OP(LOOP, REL, V64, SB, 0),
	OP(JCXZ, REL, V64, SB, 0),
	OP(IN, I, B, UB, 0), OP(IN, I, V, UB, 0), OP(OUT, I, B, UB, 0), OP(OUT, I, V, UB, 0),
	OP(CALL, REL, V64, Z, 0), OP(JMP, REL, V64, Z, 0), OP(JMP_FAR, FAR, V, FAR, N64),
	OP(JMP, REL, V64, SB, 0),
	OP(IN, DX, B, NONE, 0), OP(IN, DX, V, NONE, 0),
	OP(OUT, DX, B, NONE, 0), OP(OUT, DX, V, NONE, 0),
	/* F0 */
	UD /* LOCK */, OP(INT1, NONE, V, NONE, 0), UD /* REPNE */, UD /* REP */,
	OP(HLT, NONE, V, NONE, 0), OP(CMC, NONE, V, NONE, 0),
	GROUP(3, RM, B, NONE), GROUP(3, RM, V, NONE),
	OP(CLC, NONE, V, NONE, 0), OP(STC, NONE, V, NONE, 0), OP(CLI, NONE, V, NONE, 0),
	OP(STI, NONE, V, NONE, 0), OP(CLD, NONE, V, NONE, 0), OP(STD, NONE, V, NONE, 0),
	GROUP(4, RM, B, NONE), GROUP(5, RM, V, NONE),
};

const struct bt_opcode bt_decode_0f[256] = {
	/* 00 */
	GROUP(6, RM, W, NONE), ROWS, OP(LAR, R_RM, W, NONE, M), OP(LSL, R_RM, W, NONE, M),
	UD, OP(SYSCALL, NONE, V, NONE, 0), OP(CLTS, NONE, V, NONE, 0), OP(SYSRET, NONE, V, NONE, 0),
	OP(INVD, NONE, V, NONE, 0), OP(WBINVD, NONE, V, NONE, 0), UD, UD,
	UD, OP(PREFETCH, RM, B, NONE, MEM), UD, UD,
	/* 10 */
	X8(VEC),
	OP(PREFETCH, RM, B, NONE, M), OP(NOP, RM, V, NONE, M), OP(NOP, RM, V, NONE, M),
	OP(NOP, RM, V, NONE, M), X4(OP(NOP, RM, V, NONE, M)) /* ENDBR among them */,
	/* 20 */
	OP(MOV_FROM_CR, RM_R, NAT, NONE, M | LK), OP(MOV_FROM_DR, RM_R, NAT, NONE, M),
	OP(MOV_TO_CR, R_RM, NAT, NONE, M | LK), OP(MOV_TO_DR, R_RM, NAT, NONE, M),
	X4(UD), X8(VEC),
	/* 30 */
	OP(WRMSR, NONE, V, NONE, 0), OP(RDTSC, NONE, V, NONE, 0), OP(RDMSR, NONE, V, NONE, 0),
	OP(RDPMC, NONE, V, NONE, 0), OP(SYSENTER, NONE, V, NONE, 0), OP(SYSEXIT, NONE, V, NONE, 0),
	UD, UD, X8(UD) /* 38 and 3A: escapes */,
	/* 40 */
	X16(OP(CMOVCC, R_RM, V, NONE, M)),
	/* 50 */
	X16(VEC),
	/* 60 */
	X16(VEC),
	/* 70 */
	X4(VEC_I), X4(VEC) /* 77, EMMS, has no ModRM: see bt_decode_0f() */, X4(UD_M), X4(VEC),
	/* 80 */
	X16(OP(JCC, REL, V64, Z, 0)),
	/* 90 */
	X16(OP(SETCC, RM, B, NONE, M)),
	/* A0 */
	OP(PUSH_SREG, NONE, V64, NONE, 0), OP(POP_SREG, NONE, V64, NONE, 0),
	OP(CPUID, NONE, V, NONE, 0), OP(BT, RM_R, V, NONE, M),
	OP(SHLD, RM_R_I, V, UB, M), OP(SHLD, RM_R_CL, V, NONE, M), UD, UD,
	OP(PUSH_SREG, NONE, V64, NONE, 0), OP(POP_SREG, NONE, V64, NONE, 0),
	OP(RSM, NONE, V, NONE, 0), OP(BTS, RM_R, V, NONE, M | LK),
	OP(SHRD, RM_R_I, V, UB, M), OP(SHRD, RM_R_CL, V, NONE, M), ROWS,
	OP(IMUL2, R_RM, V, NONE, M),
	/* B0 */
	OP(CMPXCHG, RM_R, B, NONE, M | LK), OP(CMPXCHG, RM_R, V, NONE, M | LK),
	OP(LOAD_FAR, R_RM, V, NONE, MEM), OP(BTR, RM_R, V, NONE, M | LK),
	OP(LOAD_FAR, R_RM, V, NONE, MEM), OP(LOAD_FAR, R_RM, V, NONE, MEM),
	OP(MOVZX, R_RM, B, NONE, M), OP(MOVZX, R_RM, W, NONE, M),
	ROWS, UD_M, GROUP(8, RM_I, V, UB), OP(BTC, RM_R, V, NONE, M | LK),
	ROWS, ROWS, OP(MOVSX, R_RM, B, NONE, M), OP(MOVSX, R_RM, W, NONE, M),
	/* C0 */
	OP(XADD, RM_R, B, NONE, M | LK), OP(XADD, RM_R, V, NONE, M | LK),
	VEC_I, ROWS, VEC_I, VEC_I, VEC_I, ROWS,
	X8(OP(BSWAP, R, V, NONE, OPR)),
	/* D0 */
	X16(VEC),
	/* E0 */
	X16(VEC),
	/* F0 */
	X8(VEC), X4(VEC), VEC, VEC, VEC, UD_M,
};

const struct bt_opcode bt_decode_groups[BT_GROUP_COUNT][8] = {
	[BT_GROUP_1] = {
		OP(ADD, NONE, V, NONE, LK), OP(OR, NONE, V, NONE, LK), OP(ADC, NONE, V, NONE, LK),
		OP(SBB, NONE, V, NONE, LK), OP(AND, NONE, V, NONE, LK), OP(SUB, NONE, V, NONE, LK),
		OP(XOR, NONE, V, NONE, LK), OP(CMP, NONE, V, NONE, 0),
	},
	/* The other values of 8F are AMD's XOP, which is not offered. */
	[BT_GROUP_1A] = { OP(POP, NONE, V, NONE, 0), UD, UD, UD, UD, UD, UD, UD },
	/* /6 is an alias of /4 on every processor. */
	[BT_GROUP_2] = {
		OP(ROL, NONE, V, NONE, 0), OP(ROR, NONE, V, NONE, 0), OP(RCL, NONE, V, NONE, 0),
		OP(RCR, NONE, V, NONE, 0), OP(SHL, NONE, V, NONE, 0), OP(SHR, NONE, V, NONE, 0),
		OP(SHL, NONE, V, NONE, 0), OP(SAR, NONE, V, NONE, 0),
	},
	[BT_GROUP_3] = {
		OP(TEST, RM_I, V, BZ, 0), OP(TEST, RM_I, V, BZ, 0), OP(NOT, NONE, V, NONE, LK),
		OP(NEG, NONE, V, NONE, LK), OP(MUL, NONE, V, NONE, 0), OP(IMUL1, NONE, V, NONE, 0),
		OP(DIV, NONE, V, NONE, 0), OP(IDIV, NONE, V, NONE, 0),
	},
	[BT_GROUP_4] = { OP(INC, NONE, V, NONE, LK), OP(DEC, NONE, V, NONE, LK), UD, UD, X4(UD) },
	[BT_GROUP_5] = {
		OP(INC, NONE, V, NONE, LK), OP(DEC, NONE, V, NONE, LK),
		OP(CALL_IND, NONE, V64, NONE, 0), OP(CALL_FAR, NONE, V, NONE, MEM),
		OP(JMP_IND, NONE, V64, NONE, 0), OP(JMP_FAR, NONE, V, NONE, MEM),
		OP(PUSH, NONE, V64, NONE, 0), UD,
	},
	[BT_GROUP_6] = {
		OP(SLDT, NONE, V, NONE, 0), OP(STR, NONE, V, NONE, 0), OP(LLDT, NONE, V, NONE, 0),
		OP(LTR, NONE, V, NONE, 0), OP(VERR, NONE, V, NONE, 0), OP(VERW, NONE, V, NONE, 0),
		UD, UD,
	},
	[BT_GROUP_8] = {
		X4(UD), OP(BT, NONE, V, NONE, 0), OP(BTS, NONE, V, NONE, LK),
		OP(BTR, NONE, V, NONE, LK), OP(BTC, NONE, V, NONE, LK),
	},
	/* /7 with a register is XABORT and XBEGIN, which are not offered. */
	[BT_GROUP_11] = { OP(MOV, NONE, V, NONE, 0), UD, UD, UD, X4(UD) },
};

/* --- Rows --- */

#define P_NONE BIT(BT_PP_NONE)
#define P_66 BIT(BT_PP_66)
#define P_F3 BIT(BT_PP_F3)
#define P_F2 BIT(BT_PP_F2)
#define P_INT (P_NONE | P_66) /* 66 is the operand size only */
#define P_ANY (P_INT | P_F3 | P_F2)

/* ModRM: any with reg = n (where that must be memory the op says so); a register with reg = n;
 * exactly the byte; any at all. */
#define R_(n) 0x38, (n) << 3
#define RR(n) 0xf8, 0xc0 | (n) << 3
#define EXACT(byte) 0xff, (byte)
#define ALL 0, 0

const struct bt_opcode_row bt_decode_rows_0f[] = {
	{ 0x01, P_NONE, EXACT(0xc1), OP(VMCALL, NONE, V, NONE, M) },
	{ 0x01, P_NONE, EXACT(0xc8), OP(MONITOR, NONE, V, NONE, M) },
	{ 0x01, P_NONE, EXACT(0xc9), OP(MWAIT, NONE, V, NONE, M) },
	{ 0x01, P_NONE, EXACT(0xca), OP(CLAC, NONE, V, NONE, M) },
	{ 0x01, P_NONE, EXACT(0xcb), OP(STAC, NONE, V, NONE, M) },
	{ 0x01, P_NONE, EXACT(0xd0), OP(XGETBV, NONE, V, NONE, M) },
	{ 0x01, P_NONE, EXACT(0xd1), OP(XSETBV, NONE, V, NONE, M) },
	{ 0x01, P_NONE, EXACT(0xd9), OP(VMCALL, NONE, V, NONE, M) }, /* AMD's VMMCALL */
	{ 0x01, P_NONE, EXACT(0xe8), OP(SERIALIZE, NONE, V, NONE, M) },
	{ 0x01, P_ANY, EXACT(0xf8), OP(SWAPGS, NONE, V, NONE, M) },
	{ 0x01, P_ANY, EXACT(0xf9), OP(RDTSCP, NONE, V, NONE, M) },
	{ 0x01, P_INT | P_F3, EXACT(0xfc), OP(CLZERO, NONE, V, NONE, M) },
	{ 0x01, P_ANY, R_(4), OP(SMSW, RM, W, NONE, M) },
	{ 0x01, P_ANY, R_(6), OP(LMSW, RM, W, NONE, M) },
	{ 0x01, P_ANY, R_(0), OP(SGDT, RM, NAT, NONE, MEM) },
	{ 0x01, P_ANY, R_(1), OP(SIDT, RM, NAT, NONE, MEM) },
	{ 0x01, P_ANY, R_(2), OP(LGDT, RM, V, NONE, MEM) },
	{ 0x01, P_ANY, R_(3), OP(LIDT, RM, V, NONE, MEM) },
	{ 0x01, P_ANY, R_(7), OP(INVLPG, RM, B, NONE, MEM) },

	{ 0xae, P_F3, RR(0), OP(RDFSBASE, RM, Y, NONE, M) },
	{ 0xae, P_F3, RR(1), OP(RDGSBASE, RM, Y, NONE, M) },
	{ 0xae, P_F3, RR(2), OP(WRFSBASE, RM, Y, NONE, M) },
	{ 0xae, P_F3, RR(3), OP(WRGSBASE, RM, Y, NONE, M) },
	{ 0xae, P_NONE, RR(5), OP(LFENCE, NONE, V, NONE, M) },
	{ 0xae, P_NONE, RR(6), OP(MFENCE, NONE, V, NONE, M) },
	{ 0xae, P_NONE, RR(7), OP(SFENCE, NONE, V, NONE, M) },
	{ 0xae, P_NONE, R_(0), OP(FXSAVE, RM, V, NONE, MEM) },
	{ 0xae, P_NONE, R_(1), OP(FXRSTOR, RM, V, NONE, MEM) },
	{ 0xae, P_NONE, R_(2), OP(LDMXCSR, RM, D, NONE, MEM) },
	{ 0xae, P_NONE, R_(3), OP(STMXCSR, RM, D, NONE, MEM) },
	{ 0xae, P_NONE, R_(4), OP(XSAVE, RM, V, NONE, MEM) },
	{ 0xae, P_NONE, R_(5), OP(XRSTOR, RM, V, NONE, MEM) },
	{ 0xae, P_NONE, R_(6), OP(XSAVEOPT, RM, V, NONE, MEM) },
	{ 0xae, P_NONE, R_(7), OP(CLFLUSH, RM, B, NONE, MEM) },
	{ 0xae, P_66, R_(6), OP(CLWB, RM, B, NONE, MEM) },
	{ 0xae, P_66, R_(7), OP(CLFLUSHOPT, RM, B, NONE, MEM) },

	{ 0xb8, P_F3, ALL, OP(POPCNT, R_RM, V, NONE, M) },
	{ 0xbc, P_F3, ALL, OP(TZCNT, R_RM, V, NONE, M) },
	{ 0xbc, P_ANY, ALL, OP(BSF, R_RM, V, NONE, M) },
	{ 0xbd, P_F3, ALL, OP(LZCNT, R_RM, V, NONE, M) },
	{ 0xbd, P_ANY, ALL, OP(BSR, R_RM, V, NONE, M) },

	{ 0xc3, P_NONE, ALL, OP(MOVNTI, RM_R, Y, NONE, MEM) },

	{ 0xc7, P_F3, RR(7), OP(RDPID, RM, NAT, NONE, M) },
	{ 0xc7, P_INT, RR(6), OP(RDRAND, RM, V, NONE, M) },
	{ 0xc7, P_INT, RR(7), OP(RDSEED, RM, V, NONE, M) },
	/* CMPXCHG16B where W is set. */
	{ 0xc7, P_ANY, R_(1), OP(CMPXCHG8B, RM, Y, NONE, MEM | LK) },
	{ 0xc7, P_NONE, R_(3), OP(XRSTORS, RM, V, NONE, MEM) },
	{ 0xc7, P_NONE, R_(4), OP(XSAVEC, RM, V, NONE, MEM) },
	{ 0xc7, P_NONE, R_(5), OP(XSAVES, RM, V, NONE, MEM) },
	{ 0 },
};

const struct bt_opcode_row bt_decode_rows_0f38[] = {
	{ 0x82, P_66, ALL, OP(INVPCID, R_RM, NAT, NONE, MEM) },
	{ 0xf0, P_F2, ALL, OP(CRC32, R_RM, B, NONE, M) },
	{ 0xf0, P_INT, ALL, OP(MOVBE, R_RM, V, NONE, MEM) },
	{ 0xf1, P_F2, ALL, OP(CRC32, R_RM, V, NONE, M) },
	{ 0xf1, P_INT, ALL, OP(MOVBE, RM_R, V, NONE, MEM) },
	{ 0xf6, P_66, ALL, OP(ADCX, R_RM, Y, NONE, M) },
	{ 0xf6, P_F3, ALL, OP(ADOX, R_RM, Y, NONE, M) },
	{ 0xf8, P_66, ALL, OP(MOVDIR64B, R_RM, Y, NONE, MEM) },
	{ 0xf9, P_NONE, ALL, OP(MOVDIRI, RM_R, Y, NONE, MEM) },
	{ 0 },
};

const struct bt_opcode_row bt_decode_rows_vex38[] = {
	{ 0xf2, P_NONE, ALL, OP(ANDN, R_V_RM, Y, NONE, M) },
	{ 0xf3, P_NONE, R_(1), OP(BLSR, V_RM, Y, NONE, M) },
	{ 0xf3, P_NONE, R_(2), OP(BLSMSK, V_RM, Y, NONE, M) },
	{ 0xf3, P_NONE, R_(3), OP(BLSI, V_RM, Y, NONE, M) },
	{ 0xf5, P_NONE, ALL, OP(BZHI, R_RM_V, Y, NONE, M) },
	{ 0xf5, P_F3, ALL, OP(PEXT, R_V_RM, Y, NONE, M) },
	{ 0xf5, P_F2, ALL, OP(PDEP, R_V_RM, Y, NONE, M) },
	{ 0xf6, P_F2, ALL, OP(MULX, R_V_RM, Y, NONE, M) },
	{ 0xf7, P_NONE, ALL, OP(BEXTR, R_RM_V, Y, NONE, M) },
	{ 0xf7, P_66, ALL, OP(SHLX, R_RM_V, Y, NONE, M) },
	{ 0xf7, P_F3, ALL, OP(SARX, R_RM_V, Y, NONE, M) },
	{ 0xf7, P_F2, ALL, OP(SHRX, R_RM_V, Y, NONE, M) },
	{ 0 },
};

const struct bt_opcode_row bt_decode_rows_vex3a[] = {
	{ 0xf0, P_F2, ALL, OP(RORX, R_RM_I, Y, UB, M) },
	{ 0 },
};

/* --- Vector instructions of the three-byte maps --- */

const uint32_t bt_decode_vec_0f38[8] = {
	[0x00 / 32] = 0x70b10fff, /* 00-0b 10 14 15 17 1c-1e */
	[0x20 / 32] = 0xffff0f3f, /* 20-25 28-2b 30-3f */
	[0x40 / 32] = 0x00000003, /* 40 41 */
	[0xc0 / 32] = 0xf800bf00, /* c8-cd cf, db-df */
};

const uint32_t bt_decode_vec_0f3a[8] = {
	[0x00 / 32] = 0x00f0ff00, /* 08-0f 14-17 */
	[0x20 / 32] = 0x00000007, /* 20-22 */
	[0x40 / 32] = 0x00000017, /* 40-42 44 */
	[0x60 / 32] = 0x0000000f, /* 60-63 */
	[0xc0 / 32] = 0x8000d000, /* cc ce cf, df */
};

/* --- Names --- */

static const char *const bt_id_names[BT_ID_COUNT] = {
#define BT_NAME(name) #name,
	BT_IDS(BT_NAME, BT_NAME, BT_NAME)
#undef BT_NAME
};

const char *
bt_id_name(enum bt_id id)
{
	return (unsigned)id < BT_ID_COUNT ? bt_id_names[id] : "?";
}
