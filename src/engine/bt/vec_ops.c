/*
 * Handlers of vector instructions: find the memory operand, run the thunk, put results where they
 * go.
 *
 * The fast path is an operand in one page of RAM that the TLB knows. Else a window is opened, which
 * may raise, bounce, and park the vector state when it meets MMIO.
 */
#include "engine/bt/vec_impl.h"

/* What a thunk gives back. */
enum bt_vec_result {
	BT_VR_NONE, /* nothing, and takes nothing but memory */
	BT_VR_SRC,  /* nothing, takes a general register */
	BT_VR_GPR,
	BT_VR_FLAGS,
	BT_VR_PCMPSTRI, /* flags, and an index in ECX */
};

static inline __attribute__((always_inline)) void
bt_vec_call(struct bt_cpu *cpu, const struct bt_op *op, void *mem, enum bt_vec_result result)
{
	struct bt_pair res;

	if (result == BT_VR_NONE) {
		bt_thunk_run(op, mem);
		return;
	}
	res = bt_thunk_call(op, mem, *bt_reg64(cpu, op->rm), cpu->r[X86_RDX]);
	if (result == BT_VR_GPR)
		*bt_reg64(cpu, op->reg) = res.a;
	if (result == BT_VR_FLAGS || result == BT_VR_PCMPSTRI)
		cpu->fl = (uint16_t)res.a;
	if (result == BT_VR_PCMPSTRI)
		cpu->r[X86_RCX] = (uint32_t)res.d;
}

static inline __attribute__((always_inline)) void
bt_vec_slow(
    struct bt_cpu *cpu, const struct bt_op *op, int access, bool aligned, enum bt_vec_result result)
{
	struct bt_window *w = &cpu->fpu->window;
	uint64_t ea = bt_ea(cpu, op);
	void *mem;

	/* A pending x87 exception comes before anything that is wrong with memory. */
	if (op->y & BT_VEC_MMX)
		bt_vec_wait(cpu);
	if (aligned)
		bt_vec_check_aligned(cpu, op->seg, ea, op->x);
	mem = bt_window_begin(cpu, w, op->seg, ea, op->x, access);
	bt_fpu_live(cpu);
	bt_vec_call(cpu, op, mem, result);
	bt_window_end(cpu, w);
}

static inline __attribute__((always_inline)) void *
bt_vec_fast(struct bt_cpu *cpu, const struct bt_op *op, int access, bool aligned)
{
	void *mem;

	bt_vec_ready(cpu, op->y);
	mem = bt_vec_host(cpu, op->seg, bt_ea(cpu, op), op->x, access);
	if (aligned && unlikely((uintptr_t)mem & (op->x - 1u)))
		return NULL;
	return mem;
}

/* A handler for register operands. */
#define BT_VEC_REG(name, result)                                                                   \
	static void name(struct bt_cpu *cpu, const struct bt_op *op)                               \
	{                                                                                          \
		bt_vec_ready(cpu, op->y);                                                          \
		bt_vec_call(cpu, op, NULL, result);                                                \
		bt_next(cpu, op);                                                                  \
	}

/* A handler for a memory operand, and what it does off the fast path. */
#define BT_VEC_MEM(name, access, aligned, result)                                                  \
	static                                                                                     \
	    __attribute__((noinline)) void name##_slow(struct bt_cpu *cpu, const struct bt_op *op) \
	{                                                                                          \
		bt_vec_slow(cpu, op, access, aligned, result);                                     \
	}                                                                                          \
	static void name(struct bt_cpu *cpu, const struct bt_op *op)                               \
	{                                                                                          \
		void *mem = bt_vec_fast(cpu, op, access, aligned);                                 \
                                                                                                   \
		if (likely(mem != NULL))                                                           \
			bt_vec_call(cpu, op, mem, result);                                         \
		else                                                                               \
			name##_slow(cpu, op);                                                      \
		bt_next(cpu, op);                                                                  \
	}

BT_VEC_REG(bt_vec_reg, BT_VR_NONE)
BT_VEC_REG(bt_vec_src, BT_VR_SRC)
BT_VEC_REG(bt_vec_gpr, BT_VR_GPR)
BT_VEC_REG(bt_vec_flags, BT_VR_FLAGS)
BT_VEC_REG(bt_vec_pcmpstri, BT_VR_PCMPSTRI)
BT_VEC_MEM(bt_vec_load, BT_READ, false, BT_VR_NONE)
BT_VEC_MEM(bt_vec_load_a, BT_READ, true, BT_VR_NONE)
BT_VEC_MEM(bt_vec_store, BT_WRITE_ONLY, false, BT_VR_NONE)
BT_VEC_MEM(bt_vec_store_a, BT_WRITE_ONLY, true, BT_VR_NONE)
BT_VEC_MEM(bt_vec_store_part, BT_WRITE, false, BT_VR_NONE)
BT_VEC_MEM(bt_vec_gpr_load, BT_READ, false, BT_VR_GPR)
BT_VEC_MEM(bt_vec_flags_load, BT_READ, false, BT_VR_FLAGS)
BT_VEC_MEM(bt_vec_flags_load_a, BT_READ, true, BT_VR_FLAGS)
BT_VEC_MEM(bt_vec_pcmpstri_load, BT_READ, false, BT_VR_PCMPSTRI)

bt_fn *const bt_vec_handlers[BT_VH_COUNT] = {
	[BT_VH_REG] = bt_vec_reg,
	[BT_VH_LOAD] = bt_vec_load,
	[BT_VH_LOAD_A] = bt_vec_load_a,
	[BT_VH_STORE] = bt_vec_store,
	[BT_VH_STORE_A] = bt_vec_store_a,
	[BT_VH_SRC] = bt_vec_src,
	[BT_VH_GPR] = bt_vec_gpr,
	[BT_VH_GPR_LOAD] = bt_vec_gpr_load,
	[BT_VH_FLAGS] = bt_vec_flags,
	[BT_VH_FLAGS_LOAD] = bt_vec_flags_load,
	[BT_VH_FLAGS_LOAD_A] = bt_vec_flags_load_a,
	[BT_VH_PCMPSTRI] = bt_vec_pcmpstri,
	[BT_VH_PCMPSTRI_LOAD] = bt_vec_pcmpstri_load,
	[BT_VH_STORE_PART] = bt_vec_store_part,
	[BT_VH_MASK_LOAD] = bt_vec_mask_load,
	[BT_VH_MASK_LOAD_A] = bt_vec_mask_load_a,
	[BT_VH_MASK_STORE] = bt_vec_mask_store,
	[BT_VH_MASK_STORE_A] = bt_vec_mask_store_a,
	[BT_VH_EXPAND] = bt_vec_expand,
	[BT_VH_COMPRESS] = bt_vec_compress,
	[BT_VH_X87] = bt_x87_reg,
	[BT_VH_X87_LOAD] = bt_x87_load,
	[BT_VH_X87_STORE] = bt_x87_store,
	[BT_VH_X87_FLAGS] = bt_x87_flags,
	[BT_VH_X87_CONTROL] = bt_x87_control,
	[BT_VH_X87_CONTROL_LOAD] = bt_x87_control_load,
	[BT_VH_X87_CONTROL_STORE] = bt_x87_control_store,
	[BT_VH_X87_FNSTSW_AX] = bt_x87_fnstsw_ax,
	[BT_VH_X87_FNINIT] = bt_x87_fninit,
};

/* --- Without a place in the cache --- */

/* The op behind the copy: goes on where the original does. */
static void
bt_vec_uncached_done(struct bt_cpu *cpu, const struct bt_op *op)
{
	const struct bt_op *orig = cpu->fpu->uncached_op;

	cpu->op = orig;
	bt_next(cpu, orig);
}

/* imm is a union bt_code: its thunk is made anew in this vCPU's slot, and a copy of the op with
 * that run in its stead. */
void
bt_vec_uncached(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_fpu *fpu = cpu->fpu;

	fpu->uncached_op = op;
	fpu->uncached[0] = *op;
	fpu->uncached[0].ptr = bt_thunk_slot(cpu, op->imm);
	fpu->uncached[1] = (struct bt_op){ .fn = bt_vec_uncached_done };
	bt_vec_handlers[op->osize](cpu, &fpu->uncached[0]);
}
