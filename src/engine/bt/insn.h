/*
 * The decoder of the software CPU: instruction bytes to one struct that says all there is to know.
 *
 * SDM 2, chapter 2 (instruction format) and appendix A (opcode maps); APM 3 where AMD differs. The
 * decoder keeps no state, reads only the bytes it is given, and may run on any thread.
 */
#ifndef BT_INSN_H
#define BT_INSN_H

#include "x86/x86.h"

/*
 * What an instruction does. Forms that differ only in operand size or place share an id. Vector and
 * x87 instructions are all BT_ID_VEC or BT_ID_X87: vec.c has its own table, by map, opcode and prefix.
 *
 * I_(name): integer instructions (int_*.c). S_(name): control, segment and system instructions
 * (sys_*.c). V_(name): everything that touches vector or x87 state (vec_*.c).
 */
#define BT_IDS(I_, S_, V_)                                                                      \
	I_(ADD) I_(OR) I_(ADC) I_(SBB) I_(AND) I_(SUB) I_(XOR) I_(CMP) I_(TEST)           \
	I_(MOV) I_(MOVZX) I_(MOVSX) I_(MOVSXD) I_(MOVBE) I_(MOVNTI) I_(LEA) I_(XCHG)       \
	I_(PUSH) I_(POP) I_(PUSHA) I_(POPA) I_(ENTER) I_(LEAVE)                              \
	I_(INC) I_(DEC) I_(NEG) I_(NOT) I_(MUL) I_(IMUL1) I_(IMUL2) I_(IMUL3)              \
	I_(DIV) I_(IDIV) I_(ROL) I_(ROR) I_(RCL) I_(RCR) I_(SHL) I_(SHR) I_(SAR)          \
	I_(SHLD) I_(SHRD) I_(BT) I_(BTS) I_(BTR) I_(BTC) I_(BSF) I_(BSR) I_(TZCNT)        \
	I_(LZCNT) I_(POPCNT) I_(BSWAP) I_(CMPXCHG) I_(CMPXCHG8B) I_(CMPXCHG16B) I_(XADD)    \
	I_(SETCC) I_(CMOVCC) I_(JCC) I_(JMP) I_(JMP_IND) I_(CALL) I_(CALL_IND) I_(RET)     \
	I_(LOOP) I_(LOOPE) I_(LOOPNE) I_(JCXZ)                                                 \
	I_(CBW) I_(CWD) I_(LAHF) I_(SAHF) I_(CLC) I_(STC) I_(CMC) I_(CLD) I_(STD)         \
	I_(MOVS) I_(STOS) I_(LODS) I_(CMPS) I_(SCAS) I_(XLAT) I_(BOUND)                     \
	I_(AAA) I_(AAS) I_(DAA) I_(DAS) I_(AAM) I_(AAD) I_(SALC)                            \
	I_(NOP) I_(PREFETCH) I_(CRC32) I_(ADCX) I_(ADOX)                                      \
	I_(ANDN) I_(BEXTR) I_(BLSI) I_(BLSMSK) I_(BLSR) I_(BZHI) I_(MULX) I_(PDEP)         \
	I_(PEXT) I_(RORX) I_(SARX) I_(SHLX) I_(SHRX) I_(MOVDIRI) I_(MOVDIR64B)              \
	I_(RDRAND) I_(RDSEED) I_(LFENCE) I_(MFENCE) I_(SFENCE)                                \
	S_(UD) /* undefined: raises #UD */                                                        \
	S_(PAUSE) S_(JMP_FAR) S_(CALL_FAR) S_(RET_FAR) S_(INT) S_(INT3) S_(INT1) S_(INTO)  \
	S_(IRET) S_(SYSCALL) S_(SYSRET) S_(SYSENTER) S_(SYSEXIT) S_(PUSHF) S_(POPF)         \
	S_(MOV_FROM_SREG) S_(MOV_TO_SREG) S_(PUSH_SREG) S_(POP_SREG)                           \
	S_(LOAD_FAR) /* LES LDS LSS LFS LGS: the segment register is in sreg */                   \
	S_(LAR) S_(LSL) S_(VERR) S_(VERW) S_(ARPL) S_(SGDT) S_(SIDT) S_(SLDT) S_(STR)     \
	S_(SMSW) S_(LGDT) S_(LIDT) S_(LLDT) S_(LTR) S_(LMSW) S_(MOV_FROM_CR)                \
	S_(MOV_TO_CR) S_(MOV_FROM_DR) S_(MOV_TO_DR) S_(CLTS) S_(INVLPG) S_(INVPCID)          \
	S_(INVD) S_(WBINVD) S_(RDMSR) S_(WRMSR) S_(RDTSC) S_(RDTSCP) S_(RDPMC) S_(RDPID)   \
	S_(CPUID) S_(HLT) S_(CLI) S_(STI) S_(CLAC) S_(STAC) S_(IN) S_(OUT) S_(INS)        \
	S_(OUTS) S_(SWAPGS) S_(RDFSBASE) S_(RDGSBASE) S_(WRFSBASE) S_(WRGSBASE)              \
	S_(MONITOR) S_(MWAIT) S_(XGETBV) S_(XSETBV) S_(CLFLUSH) S_(CLFLUSHOPT) S_(CLWB)     \
	S_(SERIALIZE) S_(VMCALL) S_(CLZERO) S_(RSM)                                            \
	V_(VEC) V_(X87) V_(FWAIT) V_(FXSAVE) V_(FXRSTOR) V_(XSAVE) V_(XRSTOR)               \
	V_(XSAVEOPT) V_(XSAVEC) V_(XSAVES) V_(XRSTORS) V_(LDMXCSR) V_(STMXCSR)

enum bt_id {
#define BT_ID_ENUM(name) BT_ID_##name,
	BT_IDS(BT_ID_ENUM, BT_ID_ENUM, BT_ID_ENUM)
#undef BT_ID_ENUM
	BT_ID_COUNT,
};

/* Opcode maps: no escape, 0F, 0F 38, 0F 3A (VEX.mmmmm and EVEX.mmm use the same numbers). */
enum bt_map { BT_MAP_1, BT_MAP_0F, BT_MAP_0F38, BT_MAP_0F3A };
/* How the instruction was encoded. */
enum bt_encoding { BT_LEGACY, BT_VEX, BT_EVEX };
/* The mandatory-prefix field: none, 66, F3, F2 (as VEX.pp has it); F3 and F2 win over 66. */
enum bt_pp { BT_PP_NONE, BT_PP_66, BT_PP_F3, BT_PP_F2 };

/* Registers as operands of an address besides X86_RAX..X86_R15. */
#define BT_REG_ZERO 16 /* reads as 0: no base, no index */
#define BT_REG_RIP 17 /* the address of the next instruction */

/* Where an instruction's operands are, as the integer and system instructions need it. */
enum bt_form {
	BT_FORM_NONE, /* none, or implied by the opcode */
	BT_FORM_RM_R, /* r/m destination, reg source */
	BT_FORM_R_RM, /* reg destination, r/m source */
	BT_FORM_RM, /* r/m only (count or second operand implied) */
	BT_FORM_RM_I, /* r/m, immediate */
	BT_FORM_R_RM_I, /* reg destination, r/m source, immediate */
	BT_FORM_RM_R_I, /* r/m destination, reg source, immediate (SHLD) */
	BT_FORM_RM_CL, /* r/m, CL */
	BT_FORM_RM_R_CL,
	BT_FORM_R, /* one register from the opcode's low bits or fixed: in reg */
	BT_FORM_R_I, /* that register and an immediate (accumulator forms too) */
	BT_FORM_I, /* immediate only (PUSH, INT, RET) */
	BT_FORM_REL, /* branch displacement in imm, sign-extended */
	BT_FORM_MOFFS_LOAD, /* accumulator from absolute address in imm */
	BT_FORM_MOFFS_STORE,
	BT_FORM_FAR, /* offset in imm, selector in imm2 */
	BT_FORM_DX, /* port in DX (IN, OUT); the accumulator's size in size */
	BT_FORM_R_V_RM, /* VEX: reg destination, vvvv, r/m (ANDN, MULX, PDEP) */
	BT_FORM_R_RM_V, /* VEX: reg destination, r/m, vvvv (BEXTR, SHLX) */
	BT_FORM_V_RM, /* VEX: vvvv destination, r/m source (BLSR) */
};

struct bt_insn {
	uint16_t id; /* enum bt_id */
	uint8_t len; /* 1 to 15 */
	uint8_t mode; /* 2, 4 or 8: the code segment's default (8: 64-bit mode) */
	uint8_t form; /* enum bt_form */
	uint8_t size; /* operand size in bytes: 1, 2, 4, 8; the source's for MOVZX and MOVSX */
	uint8_t osize; /* effective operand size attribute: 2, 4, 8 (the destination's, MOVZX) */
	uint8_t asize; /* effective address size: 2, 4, 8 */

	uint8_t encoding, map, opcode, pp;
	bool has_modrm, lock, rep, repne; /* rep: F3 present; repne: F2 present (the last one wins) */
	bool opsize_prefix; /* 66 present */
	uint8_t rex; /* the REX byte, 0 if none */
	uint8_t w; /* REX.W, VEX.W, EVEX.W */
	uint8_t modrm, mod; /* mod 3: r/m is a register */
	uint8_t reg, rm; /* extended: 0 to 15 (EVEX vector registers: 0 to 31) */
	uint8_t cc; /* condition of JCC, SETCC, CMOVCC */
	uint8_t sreg; /* segment register operand of MOV, PUSH, POP, LOAD_FAR (enum x86_seg) */

	/* Memory operand, when has_modrm and mod != 3 (moffs and strings fill seg and asize only). */
	uint8_t seg; /* effective segment: override or default (enum x86_seg) */
	bool seg_override;
	uint8_t base, index; /* 0 to 15, BT_REG_ZERO, BT_REG_RIP (VSIB: vector index 0 to 31) */
	uint8_t scale; /* shift: 0 to 3 */
	bool vsib;
	int32_t disp; /* EVEX disp8*N not applied: see disp8 */
	bool disp8; /* disp came from one byte */

	uint8_t vvvv; /* VEX, EVEX: 0 to 31, already inverted back */
	uint8_t vl; /* vector length bits: 0 128, 1 256, 2 512 */
	uint8_t evex_z, evex_b, evex_aaa;

	uint8_t imm_len; /* bytes of immediate at the end of the instruction */
	int64_t imm; /* sign-extended as the instruction defines */
	uint16_t imm2; /* ENTER's level, far pointer's selector */
	uint8_t opcode_off; /* offset of the opcode byte in bytes[] */
	uint8_t modrm_off;
	uint8_t bytes[15];
};

/*
 * Decodes one instruction from bytes[0..avail). mode is 2, 4 or 8. 0; -EAGAIN: more bytes are needed
 * than avail (up to 15); -E2BIG: longer than 15 bytes, #GP(0). Undefined encodings decode to BT_ID_UD with
 * the length read so far. Whether a feature is offered to the guest is not looked at here.
 */
int bt_decode(const uint8_t *bytes, size_t avail, int mode, struct bt_insn *out);

/* The mnemonic of an id as the manuals write it, for messages and dumps. */
const char *bt_id_name(enum bt_id id);

#endif
