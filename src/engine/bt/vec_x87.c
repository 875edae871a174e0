/*
 * x87 instructions (SDM 1, chapter 8; SDM 2, FLD and following).
 *
 * They run by thunks like vector instructions. The processor's own record of the last non-control
 * instruction would name the thunk, so it is kept here (struct bt_fpu) and put into every image the
 * guest sees. Environments are converted by hand: the host stores them in one of four formats only.
 */
#include "engine/bt/vec_impl.h"

/* --- Handlers --- */

/* After an instruction that is not a control instruction. ModRM is in x, the opcode's low bits in
 * y. */
static inline void
bt_x87_record(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_fpu *fpu = cpu->fpu;

	fpu->fip = cpu->r[BT_REG_RIP] - op->len;
	fpu->fcs = cpu->seg[X86_CS].selector;
	fpu->fop = (uint16_t)(op->y << 8 | op->x);
}

static inline void
bt_x87_record_mem(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea)
{
	bt_x87_record(cpu, op);
	cpu->fpu->fdp = ea;
	cpu->fpu->fds = cpu->seg[op->seg].selector;
}

/* Off the fast path a pending exception has to be raised before memory is looked at. */
static __attribute__((noinline)) void
bt_x87_slow(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, int access, bool wait)
{
	struct bt_window *w = &cpu->fpu->window;
	void *mem;

	if (wait)
		bt_vec_wait(cpu);
	mem = bt_window_begin(cpu, w, op->seg, ea, op->rm, access);
	bt_fpu_live(cpu);
	bt_thunk_run(op, mem);
	bt_window_end(cpu, w);
}

static inline __attribute__((always_inline)) void
bt_x87_mem(struct bt_cpu *cpu, const struct bt_op *op, int access, bool control, bool wait)
{
	uint64_t ea = bt_ea(cpu, op);
	void *mem;

	bt_vec_ready(cpu, BT_VEC_X87);
	mem = bt_vec_host(cpu, op->seg, ea, op->rm, access);
	if (likely(mem != NULL))
		bt_thunk_run(op, mem);
	else
		bt_x87_slow(cpu, op, ea, access, wait);
	if (!control)
		bt_x87_record_mem(cpu, op, ea);
	bt_next(cpu, op);
}

void
bt_x87_reg(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_vec_ready(cpu, BT_VEC_X87);
	bt_thunk_run(op, NULL);
	bt_x87_record(cpu, op);
	bt_next(cpu, op);
}

void
bt_x87_load(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_x87_mem(cpu, op, BT_READ, false, true);
}

/* An unmasked exception leaves memory as it is, so a bounce buffer has to be filled: BT_WRITE. */
void
bt_x87_store(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_x87_mem(cpu, op, BT_WRITE, false, true);
}

/* FCOMI, FCMOV */
void
bt_x87_flags(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_vec_ready(cpu, BT_VEC_X87);
	cpu->fl = (uint16_t)bt_thunk_call(op, NULL, cpu->fl, 0).a;
	bt_x87_record(cpu, op);
	bt_next(cpu, op);
}

/* FNCLEX and what the 8087 and 80287 had beside it */
void
bt_x87_control(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_vec_ready(cpu, BT_VEC_X87);
	bt_thunk_run(op, NULL);
	bt_next(cpu, op);
}

/* FLDCW */
void
bt_x87_control_load(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_x87_mem(cpu, op, BT_READ, true, true);
}

/* FNSTCW, FNSTSW */
void
bt_x87_control_store(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_x87_mem(cpu, op, BT_WRITE_ONLY, true, false);
}

void
bt_x87_fnstsw_ax(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_vec_ready(cpu, BT_VEC_X87);
	*bt_reg16(cpu, BT_OFF(X86_RAX)) = (uint16_t)bt_thunk_call(op, NULL, 0, 0).a;
	bt_next(cpu, op);
}

static void
bt_x87_forget(struct bt_fpu *fpu)
{
	fpu->fip = fpu->fdp = 0;
	fpu->fcs = fpu->fds = fpu->fop = 0;
}

void
bt_x87_fninit(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_vec_ready(cpu, BT_VEC_X87);
	bt_thunk_run(op, NULL);
	bt_x87_forget(cpu->fpu);
	bt_next(cpu, op);
}

static void
bt_x87_fwait(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_vec_ready(cpu, BT_VEC_FWAIT);
	bt_vec_wait(cpu);
	bt_next(cpu, op);
}

/* --- Environments (SDM 1, 8.1.10, figures 8-9 to 8-12) --- */

#define BT_X87_ST_SIZE 80 /* the registers behind the environment of FNSAVE */
#define BT_X87_ENV_MAX 28

/* As the host stores it in 64-bit mode: 32-bit protected mode. */
struct bt_x87_env {
	uint16_t fcw, pad0, fsw, pad1, ftw, pad2;
	uint32_t fip;
	uint16_t fcs, fop;
	uint32_t fdp;
	uint16_t fds, pad3;
	uint8_t st[BT_X87_ST_SIZE]; /* FNSAVE, FRSTOR */
};
static_assert(offsetof(struct bt_x87_env, st) == BT_X87_ENV_MAX, "SDM 1, figure 8-9");

static bool
bt_x87_is_real(const struct bt_cpu *cpu)
{
	return !cpu->pe || cpu->vm86;
}

static uint32_t
bt_x87_env_size(const struct bt_op *op)
{
	return op->osize == 2 ? 14 : 28;
}

/* Raises what the operand of an environment instruction of size bytes raises. #AC goes by the size of
 * its fields. A fault on the second of two pages names the last byte, as on AMD's processors. */
static void
bt_x87_env_probe(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, uint32_t size, int access)
{
	bt_la(cpu, op->seg, ea, op->osize == 2 ? 2 : 4, access);
	bt_probe(cpu, op->seg, ea, 1, access);
	bt_probe(cpu, op->seg, bt_ea_add(op, ea, size - 1), 1, access);
	bt_probe(cpu, op->seg, ea, (int)size, access);
	bt_fpu_live(cpu);
}

/* Writes the guest's image of an environment: words or dwords, of which the upper halves are ones.
 */
static void
bt_x87_env_write(
    const struct bt_cpu *cpu, const struct bt_op *op, const struct bt_x87_env *env, uint8_t *out)
{
	const struct bt_fpu *fpu = cpu->fpu;
	bool wide = op->osize != 2, real = bt_x87_is_real(cpu);
	uint32_t ip = (uint32_t)fpu->fip, dp = (uint32_t)fpu->fdp;
	uint32_t field[7] = { env->fcw, env->fsw, env->ftw };

	if (real) {
		/* Linear addresses, of which the low 16 bits stand apart. */
		ip += (uint32_t)fpu->fcs << 4;
		dp += (uint32_t)fpu->fds << 4;
		field[3] = ip & 0xffff;
		field[4] = (ip >> 16) << 12 | fpu->fop;
		field[5] = dp & 0xffff;
		field[6] = (dp >> 16) << 12;
	} else {
		field[3] = ip;
		field[4] = fpu->fcs | (wide ? (uint32_t)fpu->fop << 16 : 0);
		field[5] = dp;
		field[6] = fpu->fds;
	}
	for (int i = 0; i < 7; i++) {
		bool half = i < 3 || (real ? i == 3 || i == 5 : i == 6);

		if (wide)
			bt_put(out + 4 * i, 4, field[i] | (half ? 0xffff0000u : 0));
		else
			bt_put(out + 2 * i, 2, field[i]);
	}
}

static void
bt_x87_env_read(
    struct bt_cpu *cpu, const struct bt_op *op, const uint8_t *in, struct bt_x87_env *env)
{
	struct bt_fpu *fpu = cpu->fpu;
	bool wide = op->osize != 2, real = bt_x87_is_real(cpu);
	uint32_t field[7];

	for (int i = 0; i < 7; i++)
		field[i] = wide ? bt_get32(in + 4 * i) : bt_get16(in + 2 * i);
	bt_zero(env, sizeof(*env));
	env->fcw = (uint16_t)field[0];
	env->fsw = (uint16_t)field[1];
	env->ftw = (uint16_t)field[2];
	if (real) {
		fpu->fip = (field[3] & 0xffff) | (field[4] >> 12) << 16;
		fpu->fdp = (field[5] & 0xffff) | (field[6] >> 12) << 16;
		fpu->fop = field[4] & 0x7ff;
		fpu->fcs = fpu->fds = 0;
	} else {
		fpu->fip = field[3];
		fpu->fcs = (uint16_t)field[4];
		fpu->fdp = field[5];
		fpu->fds = (uint16_t)field[6];
		fpu->fop = wide ? (field[4] >> 16) & 0x7ff : 0;
	}
}

static void
bt_x87_fnstenv(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t ea = bt_ea(cpu, op);
	uint32_t size = bt_x87_env_size(op);
	uint8_t *area = cpu->fpu->area;
	struct bt_x87_env env;

	bt_vec_ready(cpu, BT_VEC_X87);
	bt_x87_env_probe(cpu, op, ea, size, BT_WRITE_ONLY);
	__asm__ volatile("fnstenv %0" : "=m"(env));
	bt_x87_env_write(cpu, op, &env, area);
	bt_vec_copy_out(cpu, op, ea, area, size);
}

static void
bt_x87_fnsave(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t ea = bt_ea(cpu, op);
	uint32_t size = bt_x87_env_size(op);
	uint8_t *area = cpu->fpu->area;
	struct bt_x87_env env;

	bt_vec_ready(cpu, BT_VEC_X87);
	bt_x87_env_probe(cpu, op, ea, size + BT_X87_ST_SIZE, BT_WRITE_ONLY);
	__asm__ volatile("fnsave %0" : "=m"(env));
	bt_x87_env_write(cpu, op, &env, area);
	bt_copy(area + size, env.st, BT_X87_ST_SIZE);
	bt_x87_forget(cpu->fpu);
	bt_vec_copy_out(cpu, op, ea, area, size + BT_X87_ST_SIZE);
}

static void
bt_x87_fldenv(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t ea = bt_ea(cpu, op);
	uint32_t size = bt_x87_env_size(op);
	uint8_t *area = cpu->fpu->area;
	struct bt_x87_env env;

	bt_vec_ready(cpu, BT_VEC_X87);
	bt_vec_wait(cpu);
	bt_x87_env_probe(cpu, op, ea, size, BT_READ);
	bt_vec_copy_in(cpu, op, ea, area, size);
	bt_fpu_live(cpu);
	bt_x87_env_read(cpu, op, area, &env);
	__asm__ volatile("fldenv %0" : : "m"(env));
}

static void
bt_x87_frstor(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t ea = bt_ea(cpu, op);
	uint32_t size = bt_x87_env_size(op);
	uint8_t *area = cpu->fpu->area;
	struct bt_x87_env env;

	bt_vec_ready(cpu, BT_VEC_X87);
	bt_vec_wait(cpu);
	bt_x87_env_probe(cpu, op, ea, size + BT_X87_ST_SIZE, BT_READ);
	bt_vec_copy_in(cpu, op, ea, area, size + BT_X87_ST_SIZE);
	bt_fpu_live(cpu);
	bt_x87_env_read(cpu, op, area, &env);
	bt_copy(env.st, area + size, BT_X87_ST_SIZE);
	__asm__ volatile("frstor %0" : : "m"(env));
}

/* With locals whose address is taken a handler could not end in a tail call. */
#define BT_X87_HANDLER(name)                                                                       \
	static void name##_op(struct bt_cpu *cpu, const struct bt_op *op)                          \
	{                                                                                          \
		name(cpu, op);                                                                     \
		bt_next(cpu, op);                                                                  \
	}

BT_X87_HANDLER(bt_x87_fnstenv)
BT_X87_HANDLER(bt_x87_fnsave)
BT_X87_HANDLER(bt_x87_fldenv)
BT_X87_HANDLER(bt_x87_frstor)

/* --- Lowering --- */

#define LD(size)        (size)
#define ST(size)        ((size) | BT_X87_IS_STORE)
#define BT_X87_IS_STORE 0x80
/* Control instructions, told apart from what else has their size. */
enum {
	BT_X87_UD = 0,
	BT_X87_FLDCW = 32,
	BT_X87_FNSTCW,
	BT_X87_FLDENV,
	BT_X87_FNSTENV,
	BT_X87_FRSTOR,
	BT_X87_FNSAVE
};

/* Memory operands by the opcode's low bits and ModRM.reg (SDM 2, tables ). */
static const uint8_t bt_x87_memory[8][8] = {
	{ LD(4), LD(4), LD(4), LD(4), LD(4), LD(4), LD(4), LD(4) },
	{ LD(4), BT_X87_UD, ST(4), ST(4), BT_X87_FLDENV, BT_X87_FLDCW, BT_X87_FNSTENV,
	    BT_X87_FNSTCW },
	{ LD(4), LD(4), LD(4), LD(4), LD(4), LD(4), LD(4), LD(4) },
	{ LD(4), ST(4), ST(4), ST(4), BT_X87_UD, LD(10), BT_X87_UD, ST(10) },
	{ LD(8), LD(8), LD(8), LD(8), LD(8), LD(8), LD(8), LD(8) },
	{ LD(8), ST(8), ST(8), ST(8), BT_X87_FRSTOR, BT_X87_UD, BT_X87_FNSAVE,
	    BT_X87_FNSTCW /* FNSTSW */ },
	{ LD(2), LD(2), LD(2), LD(2), LD(2), LD(2), LD(2), LD(2) },
	{ LD(2), ST(2), ST(2), ST(2), LD(10), LD(8), ST(10), ST(8) },
};

static void
bt_x87_bind(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op, uint8_t modrm,
    enum bt_thunk_shape shape, uint8_t handler)
{
	union bt_code c = { .key = 0 };

	c.bytes[0] = in->opcode;
	c.bytes[1] = modrm;
	c.len = 2;
	c.shape = shape;
	op->flags = 0;
	op->x = in->modrm;
	op->y = in->opcode & 7;
	bt_vec_bind(cpu, op, &c, handler);
}

static void
bt_x87_lower_mem(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op)
{
	uint8_t what = bt_x87_memory[in->opcode & 7][(in->modrm >> 3) & 7];
	uint8_t modrm = (in->modrm & 0x38) | BT_THUNK_MEM, handler = BT_VH_X87_LOAD;

	switch (what) {
	case BT_X87_UD: op->fn = bt_op_ud; return;
	case BT_X87_FLDENV: op->fn = bt_x87_fldenv_op; return;
	case BT_X87_FNSTENV: op->fn = bt_x87_fnstenv_op; return;
	case BT_X87_FRSTOR: op->fn = bt_x87_frstor_op; return;
	case BT_X87_FNSAVE: op->fn = bt_x87_fnsave_op; return;
	case BT_X87_FLDCW: handler = BT_VH_X87_CONTROL_LOAD; break;
	case BT_X87_FNSTCW: handler = BT_VH_X87_CONTROL_STORE; break;
	default:
		if (what & BT_X87_IS_STORE)
			handler = BT_VH_X87_STORE;
	}
	op->rm = handler == BT_VH_X87_CONTROL_LOAD || handler == BT_VH_X87_CONTROL_STORE
		     ? 2
		     : what & ~BT_X87_IS_STORE;
	bt_x87_bind(cpu, in, op, modrm, BT_THUNK_PLAIN, handler);
}

static void
bt_x87_lower_reg(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op)
{
	unsigned opcode = in->opcode, group = (in->modrm >> 3) & 7;
	enum bt_thunk_shape shape = BT_THUNK_PLAIN;
	uint8_t handler = BT_VH_X87;

	if (opcode == 0xdb && in->modrm == 0xe3) {
		handler = BT_VH_X87_FNINIT;
	} else if (opcode == 0xdb && group == 4) {
		handler = BT_VH_X87_CONTROL;
	} else if (opcode == 0xdf && in->modrm == 0xe0) {
		handler = BT_VH_X87_FNSTSW_AX;
	} else if (((opcode == 0xda || opcode == 0xdb) && group < 4) ||
		   ((opcode == 0xdb || opcode == 0xdf) && (group == 5 || group == 6))) {
		/* FCMOV; FCOMI, FUCOMI and those that pop */
		shape = BT_THUNK_FLAGS_INOUT;
		handler = BT_VH_X87_FLAGS;
	}
	bt_x87_bind(cpu, in, op, in->modrm, shape, handler);
}

void
bt_x87_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op)
{
	if (in->id == BT_ID_FWAIT)
		op->fn = bt_x87_fwait;
	else if (in->mod != 3)
		bt_x87_lower_mem(cpu, in, op);
	else
		bt_x87_lower_reg(cpu, in, op);
}
