/*
 * ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT (SDM 2, each instruction).
 */
#include "engine/bt/int.h"

/* --- The operations on values: result in d, flags in cpu->fl --- */

#define BT_ALU2(name, insn, pre, bits, sfx, type, con)                                             \
	static inline __attribute__((always_inline)) type bt_alu_##name##_##bits(                  \
	    struct bt_cpu *cpu, type d, type s)                                                    \
	{                                                                                          \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__(pre insn sfx " %[s], %[d]" BT_ASM_FLAGS                                    \
			: [d] "+" con(d), "=&a"(fl)                                                \
			: [s] con(s), [f] "r"((uint32_t)cpu->fl)                                   \
			: "cc");                                                                   \
		cpu->fl = (uint16_t)fl;                                                            \
		return d;                                                                          \
	}
#define BT_ALU1(name, insn, pre, bits, sfx, type, con)                                             \
	static inline __attribute__((always_inline)) type bt_alu_##name##_##bits(                  \
	    struct bt_cpu *cpu, type d)                                                            \
	{                                                                                          \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__(pre insn sfx " %[d]" BT_ASM_FLAGS                                          \
			: [d] "+" con(d), "=&a"(fl)                                                \
			: [f] "r"((uint32_t)cpu->fl)                                               \
			: "cc");                                                                   \
		cpu->fl = (uint16_t)fl;                                                            \
		return d;                                                                          \
	}

/* --- Handlers of two operands that write the first --- */

/* lock is "" or "lock " in front of the memory form. */
#define BT_ALU2_MEM(name, insn, pre, lock, lname, bits, sfx, type, con)                            \
	static inline __attribute__((always_inline)) void bt_alu_##name##_m##lname##_##bits(       \
	    struct bt_cpu *cpu, void *p, uint64_t src)                                             \
	{                                                                                          \
		bt_u##bits *m = p;                                                                 \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__ volatile(pre lock insn sfx " %[s], %[m]" BT_ASM_FLAGS                      \
				 : [m] "+m"(*m), "=&a"(fl)                                         \
				 : [s] con((type)src), [f] "r"((uint32_t)cpu->fl)                  \
				 : "cc", "memory");                                                \
		cpu->fl = (uint16_t)fl;                                                            \
	}

#define BT_ALU2_HANDLERS(name, size, bits)                                                         \
	static void bt_int_##name##_rr_##bits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		bt_set_##bits(cpu, op->reg,                                                        \
		    bt_alu_##name##_##bits(cpu, bt_get_##bits(cpu, op->reg),                       \
			bt_get_##bits(cpu, op->rm)));                                              \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_LOAD_OP_FLAT(bt_int_##name##_rm_##bits, size, uint##bits##_t,                           \
	    bt_set_##bits(cpu, op->reg,                                                            \
		bt_alu_##name##_##bits(cpu, bt_get_##bits(cpu, op->reg), v)))                      \
	static void bt_int_##name##_ri_##bits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		bt_set_##bits(cpu, op->reg,                                                        \
		    bt_alu_##name##_##bits(cpu, bt_get_##bits(cpu, op->reg),                       \
			(uint##bits##_t)op->imm));                                                 \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_RMW_OP_FLAT(bt_int_##name##_mr_##bits, size, bt_alu_##name##_m_##bits,                  \
	    bt_get_##bits(cpu, op->reg))                                                           \
	BT_RMW_OP_FLAT(bt_int_##name##_mi_##bits, size, bt_alu_##name##_m_##bits,                  \
	    (uint64_t)op->imm)                                                                     \
	BT_RMW_OP(bt_int_##name##_lmr_##bits, size, bt_alu_##name##_mlock_##bits,                  \
	    bt_get_##bits(cpu, op->reg))                                                           \
	BT_RMW_OP(bt_int_##name##_lmi_##bits, size, bt_alu_##name##_mlock_##bits,                  \
	    (uint64_t)op->imm)

/* Forms, as columns of the tables below. */
enum bt_alu_form {
	BT_RR, BT_RM, BT_RI, BT_MR, BT_MI, BT_RM_FLAT, BT_MR_FLAT, BT_MI_FLAT, BT_CMP_FORMS,
	BT_LMR = BT_CMP_FORMS, BT_LMI, BT_ALU_FORMS
};

#define BT_CMP_FORMS_ROW(name, bits)                                                               \
	bt_int_##name##_rr_##bits, bt_int_##name##_rm_##bits, bt_int_##name##_ri_##bits,           \
	    bt_int_##name##_mr_##bits, bt_int_##name##_mi_##bits,                                  \
	    bt_int_##name##_rm_##bits##_flat, bt_int_##name##_mr_##bits##_flat,                    \
	    bt_int_##name##_mi_##bits##_flat
#define BT_ALU2_ROW(name, bits)                                                                    \
	{                                                                                          \
		BT_CMP_FORMS_ROW(name, bits), bt_int_##name##_lmr_##bits,                          \
		    bt_int_##name##_lmi_##bits,                                                    \
	}
#define BT_ALU2_TABLE(name)                                                                        \
	{                                                                                          \
		BT_ALU2_ROW(name, 8), BT_ALU2_ROW(name, 16), BT_ALU2_ROW(name, 32),                \
		    BT_ALU2_ROW(name, 64),                                                         \
	}

#define BT_ALU2_ALL(name, insn, pre, size, bits, sfx, type, con)                                   \
	BT_ALU2(name, insn, pre, bits, sfx, type, con)                                             \
	BT_ALU2_MEM(name, insn, pre, "", , bits, sfx, type, con)                                   \
	BT_ALU2_MEM(name, insn, pre, "lock ", lock, bits, sfx, type, con)                          \
	BT_ALU2_HANDLERS(name, size, bits)

#define BT_ADD(size, bits, sfx, type, con) BT_ALU2_ALL(add, "add", "", size, bits, sfx, type, con)
#define BT_OR(size, bits, sfx, type, con) BT_ALU2_ALL(or, "or", "", size, bits, sfx, type, con)
#define BT_ADC(size, bits, sfx, type, con)                                                         \
	BT_ALU2_ALL(adc, "adc", BT_ASM_CARRY, size, bits, sfx, type, con)
#define BT_SBB(size, bits, sfx, type, con)                                                         \
	BT_ALU2_ALL(sbb, "sbb", BT_ASM_CARRY, size, bits, sfx, type, con)
#define BT_AND(size, bits, sfx, type, con) BT_ALU2_ALL(and, "and", "", size, bits, sfx, type, con)
#define BT_SUB(size, bits, sfx, type, con) BT_ALU2_ALL(sub, "sub", "", size, bits, sfx, type, con)
#define BT_XOR(size, bits, sfx, type, con) BT_ALU2_ALL(xor, "xor", "", size, bits, sfx, type, con)
BT_SIZES(BT_ADD)
BT_SIZES(BT_OR)
BT_SIZES(BT_ADC)
BT_SIZES(BT_SBB)
BT_SIZES(BT_AND)
BT_SIZES(BT_SUB)
BT_SIZES(BT_XOR)

/* In the order of enum bt_id: ADD OR ADC SBB AND SUB XOR. */
static bt_fn *const bt_alu2_table[7][4][BT_ALU_FORMS] = {
	BT_ALU2_TABLE(add),
	BT_ALU2_TABLE(or),
	BT_ALU2_TABLE(adc),
	BT_ALU2_TABLE(sbb),
	BT_ALU2_TABLE(and),
	BT_ALU2_TABLE(sub),
	BT_ALU2_TABLE(xor),
};
static_assert(BT_ID_XOR - BT_ID_ADD == 6, "order of the table");

/* --- CMP and TEST: flags only --- */

#define BT_CMP_ALL(name, insn, size, bits, sfx, type, con)                                         \
	static inline __attribute__((always_inline)) void bt_alu_##name##_##bits(                  \
	    struct bt_cpu *cpu, type d, type s)                                                    \
	{                                                                                          \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__(insn sfx " %[s], %[d]" BT_ASM_FLAGS                                        \
			: "=&a"(fl)                                                                \
			: [d] con(d), [s] con(s)                                                   \
			: "cc");                                                                   \
		cpu->fl = (uint16_t)fl;                                                            \
	}                                                                                          \
	static void bt_int_##name##_rr_##bits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		bt_alu_##name##_##bits(cpu, bt_get_##bits(cpu, op->reg),                           \
		    bt_get_##bits(cpu, op->rm));                                                   \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_LOAD_OP_FLAT(bt_int_##name##_rm_##bits, size, uint##bits##_t,                           \
	    bt_alu_##name##_##bits(cpu, bt_get_##bits(cpu, op->reg), v))                           \
	static void bt_int_##name##_ri_##bits(struct bt_cpu *cpu, const struct bt_op *op)          \
	{                                                                                          \
		bt_alu_##name##_##bits(cpu, bt_get_##bits(cpu, op->reg),                           \
		    (uint##bits##_t)op->imm);                                                      \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_LOAD_OP_FLAT(bt_int_##name##_mr_##bits, size, uint##bits##_t,                           \
	    bt_alu_##name##_##bits(cpu, v, bt_get_##bits(cpu, op->reg)))                           \
	BT_LOAD_OP_FLAT(bt_int_##name##_mi_##bits, size, uint##bits##_t,                           \
	    bt_alu_##name##_##bits(cpu, v, (uint##bits##_t)op->imm))

#define BT_CMP(size, bits, sfx, type, con) BT_CMP_ALL(cmp, "cmp", size, bits, sfx, type, con)
#define BT_TEST(size, bits, sfx, type, con) BT_CMP_ALL(test, "test", size, bits, sfx, type, con)
BT_SIZES(BT_CMP)
BT_SIZES(BT_TEST)

#define BT_CMP_ROW(name, bits)                                                                     \
	{                                                                                          \
		BT_CMP_FORMS_ROW(name, bits)                                                       \
	}
#define BT_CMP_TABLE(name)                                                                         \
	{                                                                                          \
		BT_CMP_ROW(name, 8), BT_CMP_ROW(name, 16), BT_CMP_ROW(name, 32),                   \
		    BT_CMP_ROW(name, 64),                                                          \
	}
static bt_fn *const bt_cmp_table[4][BT_CMP_FORMS] = BT_CMP_TABLE(cmp);
static bt_fn *const bt_test_table[4][BT_CMP_FORMS] = BT_CMP_TABLE(test);

/* --- INC DEC NEG NOT: one operand --- */

#define BT_ALU1_ALL(name, insn, pre, size, bits, sfx, type, con)                                   \
	BT_ALU1(name, insn, pre, bits, sfx, type, con)                                             \
	BT_ALU1_MEM(name, insn, pre, "", , bits, sfx, type)                                        \
	BT_ALU1_MEM(name, insn, pre, "lock ", lock, bits, sfx, type)                               \
	static void bt_int_##name##_r_##bits(struct bt_cpu *cpu, const struct bt_op *op)           \
	{                                                                                          \
		bt_set_##bits(cpu, op->reg,                                                        \
		    bt_alu_##name##_##bits(cpu, bt_get_##bits(cpu, op->reg)));                     \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_RMW_OP(bt_int_##name##_m_##bits, size, bt_alu_##name##_m_##bits, 0)                     \
	BT_RMW_OP(bt_int_##name##_lm_##bits, size, bt_alu_##name##_mlock_##bits, 0)
#define BT_ALU1_MEM(name, insn, pre, lock, lname, bits, sfx, type)                                 \
	static inline __attribute__((always_inline)) void bt_alu_##name##_m##lname##_##bits(       \
	    struct bt_cpu *cpu, void *p, uint64_t src)                                             \
	{                                                                                          \
		bt_u##bits *m = p;                                                                 \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__ volatile(pre lock insn sfx " %[m]" BT_ASM_FLAGS                            \
				 : [m] "+m"(*m), "=&a"(fl)                                         \
				 : [f] "r"((uint32_t)cpu->fl)                                      \
				 : "cc", "memory");                                                \
		cpu->fl = (uint16_t)fl;                                                            \
	}

#define BT_INC(size, bits, sfx, type, con)                                                         \
	BT_ALU1_ALL(inc, "inc", BT_ASM_CARRY, size, bits, sfx, type, con)
#define BT_DEC(size, bits, sfx, type, con)                                                         \
	BT_ALU1_ALL(dec, "dec", BT_ASM_CARRY, size, bits, sfx, type, con)
#define BT_NEG(size, bits, sfx, type, con) BT_ALU1_ALL(neg, "neg", "", size, bits, sfx, type, con)
BT_SIZES(BT_INC)
BT_SIZES(BT_DEC)
BT_SIZES(BT_NEG)

/* NOT leaves the flags alone. */
#define BT_NOT(size, bits, sfx, type, con)                                                         \
	static inline __attribute__((always_inline)) void bt_alu_not_m_##bits(struct bt_cpu *cpu,  \
	    void *p, uint64_t src)                                                                 \
	{                                                                                          \
		bt_u##bits *m = p;                                                                 \
                                                                                                   \
		__asm__ volatile("lock not" sfx " %0" : "+m"(*m) : : "memory");                    \
	}                                                                                          \
	static void bt_int_not_r_##bits(struct bt_cpu *cpu, const struct bt_op *op)                \
	{                                                                                          \
		bt_set_##bits(cpu, op->reg, (type)~bt_get_##bits(cpu, op->reg));                   \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	BT_RMW_OP(bt_int_not_m_##bits, size, bt_alu_not_m_##bits, 0)
BT_SIZES(BT_NOT)

#define BT_ALU1_ROW(name, bits)                                                                    \
	{ bt_int_##name##_r_##bits, bt_int_##name##_m_##bits, bt_int_##name##_lm_##bits }
#define BT_ALU1_TABLE(name)                                                                        \
	{                                                                                          \
		BT_ALU1_ROW(name, 8), BT_ALU1_ROW(name, 16), BT_ALU1_ROW(name, 32),                \
		    BT_ALU1_ROW(name, 64),                                                         \
	}
#define bt_int_not_lm_8 bt_int_not_m_8
#define bt_int_not_lm_16 bt_int_not_m_16
#define bt_int_not_lm_32 bt_int_not_m_32
#define bt_int_not_lm_64 bt_int_not_m_64

/* INC DEC NEG NOT. */
static bt_fn *const bt_alu1_table[4][4][3] = {
	BT_ALU1_TABLE(inc),
	BT_ALU1_TABLE(dec),
	BT_ALU1_TABLE(neg),
	BT_ALU1_TABLE(not),
};
static_assert(BT_ID_NOT - BT_ID_INC == 3, "order of the table");

/* --- Lowering --- */

void
bt_rmw_slow(struct bt_cpu *cpu, const struct bt_op *op, int size, uint64_t ea, bt_rmw_fn *fn,
    uint64_t src)
{
	struct bt_window w;
	void *p = bt_window_begin(cpu, &w, op->seg, ea, size, BT_WRITE);

	fn(cpu, p, src);
	bt_window_end(cpu, &w);
}

void
bt_rmw_rm_slow(struct bt_cpu *cpu, const struct bt_op *op, int size, bt_rmw_fn *fn, uint64_t src)
{
	bt_rmw_slow(cpu, op, size, bt_ea(cpu, op), fn, src);
}

uint64_t
bt_load_rm_slow(struct bt_cpu *cpu, const struct bt_op *op, int size)
{
	return bt_load_rm(cpu, op, size);
}

void
bt_store_rm_slow(struct bt_cpu *cpu, const struct bt_op *op, int size, uint64_t val)
{
	bt_store(cpu, op->seg, bt_ea(cpu, op), size, val);
}

/* Which column a two-operand instruction is, with op's registers set for it. */
static enum bt_alu_form
bt_alu_form(const struct bt_insn *in, struct bt_op *op)
{
	bool mem = bt_int_is_mem(in), flat = bt_int_is_flat(in);

	op->reg = bt_int_off(in, in->reg, in->size);
	op->rm = bt_int_off(in, in->rm, in->size);
	switch (in->form) {
	case BT_FORM_R_RM: return !mem ? BT_RR : flat ? BT_RM_FLAT : BT_RM;
	case BT_FORM_R_I: return BT_RI;
	case BT_FORM_RM_R:
		if (mem)
			return in->lock ? BT_LMR : flat ? BT_MR_FLAT : BT_MR;
		op->reg = bt_int_off(in, in->rm, in->size);
		op->rm = bt_int_off(in, in->reg, in->size);
		return BT_RR;
	default: /* BT_FORM_RM_I */
		if (mem)
			return in->lock ? BT_LMI : flat ? BT_MI_FLAT : BT_MI;
		op->reg = op->rm;
		return BT_RI;
	}
}

bool
bt_int_alu_lower(const struct bt_insn *in, struct bt_op *op)
{
	int size = bt_size_index(in->size);
	bool mem = bt_int_is_mem(in);

	switch (in->id) {
	case BT_ID_INC:
	case BT_ID_DEC:
	case BT_ID_NEG:
	case BT_ID_NOT:
		op->reg = bt_int_off(in, in->form == BT_FORM_R ? in->reg : in->rm, in->size);
		op->fn = bt_alu1_table[in->id - BT_ID_INC][size][mem ? (in->lock ? 2 : 1) : 0];
		return true;
	case BT_ID_CMP: op->fn = bt_cmp_table[size][bt_alu_form(in, op)]; return true;
	case BT_ID_TEST: op->fn = bt_test_table[size][bt_alu_form(in, op)]; return true;
	default: break;
	}
	if (in->id > BT_ID_XOR)
		return false;
	op->fn = bt_alu2_table[in->id - BT_ID_ADD][size][bt_alu_form(in, op)];
	return true;
}
