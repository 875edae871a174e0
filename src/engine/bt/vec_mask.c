/*
 * Operands of which a mask tells what is accessed: AVX-512 masked loads and stores, VMASKMOV,
 * expanding loads and compressing stores, gathers and scatters.
 *
 * Elements that are masked off must not be touched (SDM 2, 2.8.1). Where the whole operand lies in
 * RAM that the TLB knows there is nothing to tell apart and the instruction runs on it; else active
 * elements are fetched or stored one by one and the instruction runs on a buffer.
 */
#include "engine/bt/vec_impl.h"

#define BT_MASK_NUMBER 0x0fu

/* Sign bits of count elements of size bytes in a vector register. Live. */
static uint64_t
bt_mask_signs(struct bt_cpu *cpu, unsigned n, unsigned size, unsigned count)
{
	uint8_t buf[64] __attribute__((aligned(64)));
	uint64_t bits = 0;

	bt_vec_get(cpu, n, buf);
	for (unsigned i = 0; i < count; i++)
		bits |= (uint64_t)(buf[i * size + size - 1] >> 7) << i;
	return bits;
}

/* Which of count elements of size bytes in memory are to be accessed. Live. Where memory is
 * repeated to fill the vector, an element counts if any of its copies does. */
static uint64_t
bt_mask_bits(struct bt_cpu *cpu, uint8_t mask, unsigned size, unsigned count)
{
	uint64_t bits, folded = 0;
	unsigned all;

	if (mask & BT_MASK_IS_SIGNS)
		return bt_mask_signs(cpu, mask & BT_MASK_NUMBER, size, count);
	bits = bt_vec_get_mask(cpu, mask & 7);
	all = 1u << (mask >> 3 & 7);
	for (unsigned i = 0; i < all; i += count)
		folded |= bits >> i;
	return count >= 64 ? folded : folded & ((1ull << count) - 1);
}

static unsigned
bt_mask_first(uint64_t *bits)
{
	unsigned i = (unsigned)__builtin_ctzll(*bits);

	*bits &= *bits - 1;
	return i;
}

/* Without POPCNT, which the compiler may not assume. */
static unsigned
bt_mask_count(uint64_t bits)
{
	unsigned n = 0;

	for (; bits != 0; bits &= bits - 1)
		n++;
	return n;
}

/* Alignment is only asked of an access that takes place. */
static void
bt_mask_check_aligned(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, uint64_t active)
{
	if (active != 0)
		bt_vec_check_aligned(cpu, op->seg, ea, op->x);
}

/* --- Masked loads --- */

static __attribute__((noinline)) void
bt_mask_load_elements(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, bool aligned)
{
	uint8_t *buf = cpu->fpu->bounce;
	unsigned size = op->reg;
	uint64_t bits = bt_mask_bits(cpu, op->rm, size, op->x / size);

	if (aligned)
		bt_mask_check_aligned(cpu, op, ea, bits);
	bt_zero(buf, sizeof(cpu->fpu->bounce));
	while (bits != 0) {
		unsigned off = bt_mask_first(&bits) * size;

		bt_put(
		    buf + off, (int)size, bt_load(cpu, op->seg, bt_ea_add(op, ea, off), (int)size));
	}
	bt_fpu_live(cpu);
	bt_thunk_run(op, buf);
}

static inline __attribute__((always_inline)) void
bt_mask_load(struct bt_cpu *cpu, const struct bt_op *op, bool aligned)
{
	uint64_t ea;
	void *mem;

	bt_vec_ready(cpu, op->y);
	ea = bt_ea(cpu, op);
	mem = bt_vec_host(cpu, op->seg, ea, op->x, BT_READ);
	if (likely(mem != NULL) && !(aligned && ((uintptr_t)mem & (op->x - 1u))))
		bt_thunk_run(op, mem);
	else
		bt_mask_load_elements(cpu, op, ea, aligned);
	bt_next(cpu, op);
}

void
bt_vec_mask_load(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_mask_load(cpu, op, false);
}

void
bt_vec_mask_load_a(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_mask_load(cpu, op, true);
}

/* --- Masked stores --- */

static __attribute__((noinline)) void
bt_mask_store_elements(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, bool aligned)
{
	uint8_t *buf = cpu->fpu->bounce;
	unsigned size = op->reg;
	uint64_t active = bt_mask_bits(cpu, op->rm, size, op->x / size), bits;

	if (aligned)
		bt_mask_check_aligned(cpu, op, ea, active);
	for (bits = active; bits != 0;) {
		unsigned off = bt_mask_first(&bits) * size;

		bt_probe(cpu, op->seg, bt_ea_add(op, ea, off), (int)size, BT_WRITE_ONLY);
	}
	bt_fpu_live(cpu);
	bt_thunk_run(op, buf);
	for (bits = active; bits != 0;) {
		unsigned off = bt_mask_first(&bits) * size;
		uint64_t val = bt_host_load((uintptr_t)buf + off, (int)size);

		bt_store(cpu, op->seg, bt_ea_add(op, ea, off), (int)size, val);
	}
}

static inline __attribute__((always_inline)) void
bt_mask_store(struct bt_cpu *cpu, const struct bt_op *op, bool aligned)
{
	uint64_t ea;
	void *mem;

	bt_vec_ready(cpu, op->y);
	ea = bt_ea(cpu, op);
	mem = bt_vec_host(cpu, op->seg, ea, op->x, BT_WRITE_ONLY);
	if (likely(mem != NULL) && !(aligned && ((uintptr_t)mem & (op->x - 1u))))
		bt_thunk_run(op, mem);
	else
		bt_mask_store_elements(cpu, op, ea, aligned);
	bt_next(cpu, op);
}

void
bt_vec_mask_store(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_mask_store(cpu, op, false);
}

void
bt_vec_mask_store_a(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_mask_store(cpu, op, true);
}

/* --- Expand and compress: as many elements as the mask has bits, side by side in memory --- */

static void
bt_mask_packed(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, int access)
{
	struct bt_window *w = &cpu->fpu->window;
	unsigned size = op->reg;
	unsigned bytes = bt_mask_count(bt_mask_bits(cpu, op->rm, size, op->x / size)) * size;
	void *mem = cpu->fpu->bounce;

	w->slow = false;
	if (bytes != 0)
		mem = bt_window_begin(cpu, w, op->seg, ea, (int)bytes, access);
	bt_fpu_live(cpu);
	bt_thunk_run(op, mem);
	bt_window_end(cpu, w);
}

static inline __attribute__((always_inline)) void
bt_mask_pack(struct bt_cpu *cpu, const struct bt_op *op, int access)
{
	uint64_t ea;
	void *mem;

	bt_vec_ready(cpu, op->y);
	ea = bt_ea(cpu, op);
	mem = bt_vec_host(cpu, op->seg, ea, op->x, access);
	if (likely(mem != NULL))
		bt_thunk_run(op, mem);
	else
		bt_mask_packed(cpu, op, ea, access);
	bt_next(cpu, op);
}

void
bt_vec_expand(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_mask_pack(cpu, op, BT_READ);
}

void
bt_vec_compress(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_mask_pack(cpu, op, BT_WRITE_ONLY);
}

/* --- Gathers and scatters --- */

/* In op->imm: what else than op's fields describes one. op->reg is the data register, op->rm the
 * mask, op->x the size of an element. */
union bt_gather_info {
	struct {
		uint8_t index, index_size; /* vector register, 4 or 8 */
		uint8_t count;             /* elements */
	};
	int64_t imm;
};

/* A gather or scatter under way. Every element done leaves the mask at once; the registers are
 * brought up to date before anything that may fault. What then becomes of the rest of them is the
 * processor's choice; it is AMD's here (SDM 2, VGATHERDPS). */
struct bt_gather {
	union bt_gather_info info;
	uint64_t ea;
	uint64_t todo, active; /* elements still to be done, and all that were at the start */
	uint64_t opmask;       /* the register at the start */
	uint8_t index[64] __attribute__((aligned(64)));
	uint8_t data[64] __attribute__((aligned(64)));
};

static void
bt_gather_begin(struct bt_cpu *cpu, const struct bt_op *op, struct bt_gather *g)
{
	bt_vec_ready(cpu, op->y);
	g->info.imm = op->imm;
	g->ea = *bt_reg64(cpu, op->base) + (uint64_t)(int64_t)op->disp;
	g->todo = g->active = bt_mask_bits(cpu, op->rm, op->x, g->info.count);
	if (!(op->rm & BT_MASK_IS_SIGNS))
		g->opmask = bt_vec_get_mask(cpu, op->rm & 7);
	bt_vec_get(cpu, g->info.index, g->index);
	bt_vec_get(cpu, op->reg, g->data);
}

static uint64_t
bt_gather_ea(const struct bt_op *op, const struct bt_gather *g, unsigned i)
{
	int64_t index;

	if (g->info.index_size == 8)
		index = (int64_t)bt_get64(g->index + i * 8);
	else
		index = (int32_t)bt_get32(g->index + i * 4);
	return bt_ea_add(op, g->ea, (uint64_t)index << op->scale);
}

/* The mask without the elements done. Of a vector, elements that were off go with those around
 * them. */
static void
bt_gather_put_mask(struct bt_cpu *cpu, const struct bt_op *op, const struct bt_gather *g)
{
	unsigned n = op->rm & BT_MASK_NUMBER;
	uint8_t buf[64] __attribute__((aligned(64)));

	if (!(op->rm & BT_MASK_IS_SIGNS)) {
		bt_vec_put_mask(cpu, op->rm & 7, g->opmask & ~(g->active & ~g->todo));
		return;
	}
	bt_vec_get(cpu, n, buf);
	bt_zero(buf, (unsigned)__builtin_ctzll(g->todo) * op->x);
	bt_vec_put(cpu, n, buf);
}

/* Before an element that may fault. */
static void
bt_gather_commit(struct bt_cpu *cpu, const struct bt_op *op, struct bt_gather *g, bool data)
{
	unsigned vl = g->info.count * MAX(g->info.index_size, op->x);

	bt_fpu_live(cpu);
	bt_gather_put_mask(cpu, op, g);
	if (!data || g->todo == g->active)
		return;
	if (!(op->rm & BT_MASK_IS_SIGNS))
		bt_zero(g->data + vl, sizeof(g->data) - vl);
	bt_vec_put(cpu, op->reg, g->data);
}

/* All done: the mask is clear altogether, and so is what the data register has beyond the elements.
 */
static void
bt_gather_end(struct bt_cpu *cpu, const struct bt_op *op, struct bt_gather *g, bool data)
{
	static const uint8_t zero[64] __attribute__((aligned(64)));
	unsigned used = g->info.count * op->x;

	bt_fpu_live(cpu);
	if (!(op->rm & BT_MASK_IS_SIGNS))
		bt_vec_put_mask(cpu, op->rm & 7, 0);
	else
		bt_vec_put(cpu, op->rm & BT_MASK_NUMBER, zero);
	if (!data)
		return;
	bt_zero(g->data + used, sizeof(g->data) - used);
	bt_vec_put(cpu, op->reg, g->data);
}

static __attribute__((noinline)) void
bt_gather_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_gather g;

	bt_gather_begin(cpu, op, &g);
	while (g.todo != 0) {
		unsigned i = (unsigned)__builtin_ctzll(g.todo);
		uint64_t ea = bt_gather_ea(op, &g, i), val;
		void *mem = bt_vec_host(cpu, op->seg, ea, op->x, BT_READ);

		if (unlikely(mem == NULL)) {
			bt_gather_commit(cpu, op, &g, true);
			val = bt_load(cpu, op->seg, ea, op->x);
		} else {
			val = bt_host_load((uintptr_t)mem, op->x);
		}
		bt_put(g.data + i * op->x, op->x, val);
		g.todo &= g.todo - 1;
	}
	bt_gather_end(cpu, op, &g, true);
}

static void
bt_gather(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_gather_run(cpu, op);
	bt_next(cpu, op);
}

static __attribute__((noinline)) void
bt_scatter_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_gather g;

	bt_gather_begin(cpu, op, &g);
	while (g.todo != 0) {
		unsigned i = (unsigned)__builtin_ctzll(g.todo);
		uint64_t ea = bt_gather_ea(op, &g, i);
		uint64_t val = bt_host_load((uintptr_t)g.data + i * op->x, op->x);
		void *mem = bt_vec_host(cpu, op->seg, ea, op->x, BT_WRITE_ONLY);

		if (unlikely(mem == NULL)) {
			bt_gather_commit(cpu, op, &g, false);
			bt_store(cpu, op->seg, ea, op->x, val);
		} else {
			bt_host_store((uintptr_t)mem, op->x, val);
		}
		g.todo &= g.todo - 1;
	}
	bt_gather_end(cpu, op, &g, false);
}

static void
bt_scatter(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_scatter_run(cpu, op);
	bt_next(cpu, op);
}

void
bt_gather_lower(struct bt_op *op, const struct bt_insn *in, bool scatter)
{
	union bt_gather_info info = {
		.index = in->index,
		.index_size = in->opcode & 1 ? 8 : 4,
	};

	info.count = (uint8_t)((16u << in->vl) / MAX(info.index_size, op->x));
	op->imm = info.imm;
	op->reg = in->reg;
	op->rm = in->encoding == BT_VEX ? BT_MASK_SIGNS(in->vvvv) : BT_MASK_OPMASK(in->evex_aaa, 0);
	op->index = BT_OFF(BT_REG_ZERO);
	op->fn = scatter ? bt_scatter : bt_gather;
}
