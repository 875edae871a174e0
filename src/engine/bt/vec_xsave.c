/*
 * FXSAVE, FXRSTOR, the XSAVE family and MXCSR (SDM 1, chapter 13 and 10.5; SDM 2, XSAVE and
 * following).
 *
 * All work on the parked state: saving copies from the image to the guest, restoring copies into
 * it, and the next vector instruction loads it. Components in their initial state are never read
 * from the image.
 */
#include "engine/bt/vec_impl.h"

#include "engine/bt/sys.h"

/* What an op's x holds. */
#define BT_XSAVE_W    BIT(0) /* REX.W: 64-bit pointers */
#define BT_XSAVE_LONG BIT(1) /* 64-bit mode: all 16 or 32 registers */

#define BT_FCW_VALID 0x1f3fu
#define BT_FCW_ONE   BIT(6) /* reads as 1 */
#define BT_FSW_FLAGS 0x3fu
#define BT_FSW_ES    BIT(7)
#define BT_FSW_B     BIT(15)

enum bt_xsave_form {
	BT_XSAVE_PLAIN,
	BT_XSAVE_INIT_OPT, /* components in their initial state are not written */
	BT_XSAVE_COMPACT,
};

/* --- Copying --- */

/* How much to move at once where memory is not plain: as long as aligned, so that nothing can raise #AC,
 * which has been looked at before. */
static uint32_t
bt_vec_copy_step(const struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, uint32_t size)
{
	uint32_t n = 8;

	while (n > size || ((ea + cpu->sbase[op->seg]) & (n - 1)) != 0)
		n /= 2;
	return n;
}

void
bt_vec_copy_in(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, void *dst, uint32_t size)
{
	uint8_t *p = dst;

	while (size != 0) {
		uint64_t at = bt_ea_add(op, ea, 0), val;
		void *host;
		size_t n = bt_span(cpu, op->seg, at, size, BT_READ, &host);

		if (likely(n != 0)) {
			bt_copy(p, host, n);
		} else {
			n = bt_vec_copy_step(cpu, op, at, size);
			val = bt_load(cpu, op->seg, at, (int)n);
			bt_put(p, (int)n, val);
		}
		p += n;
		ea += n;
		size -= (uint32_t)n;
	}
}

void
bt_vec_copy_out(
    struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, const void *src, uint32_t size)
{
	const uint8_t *p = src;

	while (size != 0) {
		uint64_t at = bt_ea_add(op, ea, 0);
		void *host;
		size_t n = bt_span(cpu, op->seg, at, size, BT_WRITE_ONLY, &host);

		if (likely(n != 0)) {
			bt_copy(host, p, n);
		} else {
			n = bt_vec_copy_step(cpu, op, at, size);
			bt_store(cpu, op->seg, at, (int)n, bt_host_load((uintptr_t)p, (int)n));
		}
		p += n;
		ea += n;
		size -= (uint32_t)n;
	}
}

/* --- Checks --- */

/* Unlike an SSE operand, an area that is at no address at all is that fault before it is misaligned. */
static void
bt_xsave_check_aligned(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, unsigned size)
{
	uint64_t la = ea + cpu->sbase[op->seg];

	if ((la & (size - 1)) != 0 && op->seg == X86_SS && cpu->code_size == 8 &&
	    !bt_canonical(cpu, la))
		bt_raise_error(cpu, X86_SSF, 0);
	bt_vec_check_aligned(cpu, op->seg, ea, size);
}

static void
bt_xsave_check(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea)
{
	if (!(cpu->cr4 & X86_CR4_OSXSAVE))
		bt_raise(cpu, X86_UD);
	if (cpu->cr0 & X86_CR0_TS)
		bt_raise(cpu, X86_NM);
	bt_xsave_check_aligned(cpu, op, ea, 64);
}

static void
bt_fxsave_check(struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea)
{
	if (cpu->cr0 & (X86_CR0_EM | X86_CR0_TS))
		bt_raise(cpu, X86_NM);
	bt_la(cpu, op->seg, ea, 4, BT_READ); /* #AC goes by the fields' alignment */
	bt_xsave_check_aligned(cpu, op, ea, 16);
}

/* The components an instruction is asked for: EDX:EAX. */
static uint64_t
bt_xsave_request(const struct bt_cpu *cpu, uint64_t enabled)
{
	return ((uint32_t)cpu->r[X86_RAX] | cpu->r[X86_RDX] << 32) & enabled;
}

/* FFXSR: at CPL 0 in 64-bit mode FXSAVE and FXRSTOR leave the XMM registers out (APM 2, 11.4.4). */
static bool
bt_fxsave_fast(const struct bt_cpu *cpu, const struct bt_op *op)
{
	return (cpu->efer & X86_EFER_FFXSR) && cpu->cpl == 0 && (op->x & BT_XSAVE_LONG);
}

/* Bytes of a component that are there outside 64-bit mode, where half of the registers are not. */
static uint32_t
bt_xsave_size(const struct bt_fpu *fpu, const struct bt_op *op, int i)
{
	if (op->x & BT_XSAVE_LONG)
		return fpu->comp[i].size;
	switch (BIT64(i)) {
	case X86_XCR0_AVX:
	case X86_XCR0_ZMM_HI256: return fpu->comp[i].size / 2;
	case X86_XCR0_HI16_ZMM: return 0;
	default: return fpu->comp[i].size;
	}
}

static uint32_t
bt_xsave_xmm_end(const struct bt_op *op)
{
	return BT_XSAVE_XMM + (op->x & BT_XSAVE_LONG ? 256 : 128);
}

/* --- The x87 pointers, of which there are two formats (SDM 1, table 10-2) --- */

static void
bt_xsave_put_pointers(const struct bt_fpu *fpu, const struct bt_op *op, uint8_t *area)
{
	bt_put(area + BT_XSAVE_FOP, 2, fpu->fop);
	if (op->x & BT_XSAVE_W) {
		bt_put(area + BT_XSAVE_FIP, 8, fpu->fip);
		bt_put(area + BT_XSAVE_FDP, 8, fpu->fdp);
		return;
	}
	bt_put(area + BT_XSAVE_FIP, 8, (uint32_t)fpu->fip | (uint64_t)fpu->fcs << 32);
	bt_put(area + BT_XSAVE_FDP, 8, (uint32_t)fpu->fdp | (uint64_t)fpu->fds << 32);
}

/* The image holds what the guest gave; takes its pointers over. */
static void
bt_xsave_get_pointers(struct bt_fpu *fpu, const struct bt_op *op)
{
	bt_fpu_pointers_load(fpu);
	if (op->x & BT_XSAVE_W)
		return;
	fpu->fcs = (uint16_t)(fpu->fip >> 32);
	fpu->fds = (uint16_t)(fpu->fdp >> 32);
	fpu->fip = (uint32_t)fpu->fip;
	fpu->fdp = (uint32_t)fpu->fdp;
	bt_fpu_pointers_store(fpu);
}

static void
bt_xsave_clear_pointers(struct bt_fpu *fpu)
{
	fpu->fip = fpu->fdp = 0;
	fpu->fop = fpu->fcs = fpu->fds = 0;
}

/* --- Saving --- */

/* Where a part of the state is and where it goes. */
struct bt_xsave_part {
	uint32_t to, size;
	const uint8_t *from;
};

struct bt_xsave_plan {
	struct bt_xsave_part part[4 + BT_XCOMPS];
	unsigned count;
};

static void
bt_xsave_add(struct bt_xsave_plan *plan, uint32_t to, const uint8_t *from, uint32_t size)
{
	struct bt_xsave_part *last;

	if (size == 0)
		return;
	last = plan->count != 0 ? &plan->part[plan->count - 1] : NULL;
	if (last != NULL && last->to + last->size == to && last->from + last->size == from)
		last->size += size;
	else
		plan->part[plan->count++] = (struct bt_xsave_part){ to, size, from };
}

/* Writes all parts or, when one of them faults, none. */
static void
bt_xsave_write(
    struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, const struct bt_xsave_plan *plan)
{
	for (unsigned i = 0; i < plan->count; i++)
		bt_probe(cpu, op->seg, bt_ea_add(op, ea, plan->part[i].to), (int)plan->part[i].size,
		    BT_WRITE_ONLY);
	for (unsigned i = 0; i < plan->count; i++)
		bt_vec_copy_out(cpu, op, bt_ea_add(op, ea, plan->part[i].to), plan->part[i].from,
		    plan->part[i].size);
}

/* The legacy region as the guest is to see it, in fpu->area; the state is parked and normal. */
static void
bt_xsave_legacy(struct bt_fpu *fpu, const struct bt_op *op)
{
	bt_copy(fpu->area, fpu->image, BT_XSAVE_XMM + 256);
	bt_xsave_put_pointers(fpu, op, fpu->area);
}

static void
bt_xsave_fxsave_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_fpu *fpu = cpu->fpu;
	struct bt_xsave_plan plan;
	uint64_t ea = bt_ea(cpu, op);

	bt_fxsave_check(cpu, op, ea);
	bt_fpu_park(cpu);
	bt_fpu_normalize(fpu, fpu->image, X86_XCR0_X87 | X86_XCR0_SSE);
	bt_xsave_legacy(fpu, op);
	plan.count = 0;
	bt_xsave_add(
	    &plan, 0, fpu->area, bt_fxsave_fast(cpu, op) ? BT_XSAVE_XMM : bt_xsave_xmm_end(op));
	bt_xsave_write(cpu, op, ea, &plan);
}

/* The parts of the legacy region that saving components saved writes. MXCSR goes with SSE and,
 * where the format is the standard one, with AVX. */
static void
bt_xsave_plan_legacy(struct bt_xsave_plan *plan, const struct bt_fpu *fpu, const struct bt_op *op,
    uint64_t saved, bool mxcsr)
{
	if (saved & X86_XCR0_X87)
		bt_xsave_add(plan, 0, fpu->area, BT_XSAVE_MXCSR);
	if (mxcsr)
		bt_xsave_add(plan, BT_XSAVE_MXCSR, fpu->area + BT_XSAVE_MXCSR, 8);
	if (saved & X86_XCR0_X87)
		bt_xsave_add(
		    plan, BT_XSAVE_ST, fpu->area + BT_XSAVE_ST, BT_XSAVE_XMM - BT_XSAVE_ST);
	if (saved & X86_XCR0_SSE)
		bt_xsave_add(plan, BT_XSAVE_XMM, fpu->area + BT_XSAVE_XMM,
		    bt_xsave_xmm_end(op) - BT_XSAVE_XMM);
}

/* Offset of component i in the compacted format after one that ends at end (SDM 1, 13.4.3). */
static uint32_t
bt_xsave_compact_offset(const struct bt_fpu *fpu, int i, uint32_t end)
{
	return fpu->comp[i].align ? ALIGN_UP(end, 64u) : end;
}

static inline __attribute__((always_inline)) void
bt_xsave_save(struct bt_cpu *cpu, const struct bt_op *op, uint64_t enabled, enum bt_xsave_form form)
{
	struct bt_fpu *fpu = cpu->fpu;
	uint64_t ea = bt_ea(cpu, op), rfbm = bt_xsave_request(cpu, enabled), inuse, saved, bv;
	uint32_t end = BT_XSAVE_EXTENDED, off;
	struct bt_xsave_plan plan;

	bt_xsave_check(cpu, op, ea);
	/* The legacy region and the header have to be writable, however little is written; in the
	 * standard format the header is read, too. */
	bt_probe(cpu, op->seg, ea, BT_XSAVE_EXTENDED, BT_WRITE_ONLY);
	bv =
	    form == BT_XSAVE_COMPACT ? 0 : bt_load(cpu, op->seg, bt_ea_add(op, ea, BT_XSAVE_BV), 8);
	inuse = bt_fpu_inuse(cpu); /* parks */
	if (form != BT_XSAVE_COMPACT)
		inuse &= bt_get64(fpu->image + BT_XSAVE_BV); /* MXCSR alone does not count */
	saved = form == BT_XSAVE_PLAIN ? rfbm : rfbm & inuse;
	bt_fpu_normalize(fpu, fpu->image, rfbm);
	if (rfbm & (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX))
		bt_xsave_legacy(fpu, op);

	plan.count = 0;
	bt_xsave_plan_legacy(&plan, fpu, op, saved,
	    (form == BT_XSAVE_COMPACT ? saved & X86_XCR0_SSE
				      : rfbm & (X86_XCR0_SSE | X86_XCR0_AVX)) != 0);
	for (int i = 2; i < BT_XCOMPS; i++) {
		if (!(rfbm & BIT64(i)))
			continue;
		off = fpu->comp[i].offset;
		if (form == BT_XSAVE_COMPACT) {
			off = bt_xsave_compact_offset(fpu, i, end);
			end = off + fpu->comp[i].size;
		}
		if (saved & BIT64(i))
			bt_xsave_add(&plan, off, fpu->image + fpu->comp[i].offset,
			    bt_xsave_size(fpu, op, i));
	}
	bt_put(fpu->area + BT_XSAVE_BV, 8, (bv & ~rfbm) | (inuse & rfbm));
	bt_put(fpu->area + BT_XSAVE_XCOMP_BV, 8, rfbm | BT_XCOMP_BV_COMPACT);
	bt_xsave_add(
	    &plan, BT_XSAVE_BV, fpu->area + BT_XSAVE_BV, form == BT_XSAVE_COMPACT ? 16 : 8);
	bt_xsave_write(cpu, op, ea, &plan);
}

/* --- Restoring --- */

/* Replaces the x87 or SSE part of the image, or a part of it, by what is in fpu->area. */
static void
bt_xsave_take(struct bt_fpu *fpu, uint32_t from, uint32_t to)
{
	bt_copy(fpu->image + from, fpu->area + from, to - from);
}

static void
bt_xsave_mark(struct bt_fpu *fpu, uint64_t components, bool inuse)
{
	uint64_t bv = bt_get64(fpu->image + BT_XSAVE_BV);

	bt_put(fpu->image + BT_XSAVE_BV, 8, inuse ? bv | components : bv & ~components);
}

/* ES and B of the status word say whether an unmasked exception is flagged, whatever was loaded;
 * the control word's reserved bits do not change (SDM 1, 8.1.3 and 8.1.5). */
static void
bt_xsave_fix_x87(uint8_t *area)
{
	unsigned fcw = (bt_get16(area + BT_XSAVE_FCW) & BT_FCW_VALID) | BT_FCW_ONE;
	unsigned fsw = bt_get16(area + BT_XSAVE_FSW) & ~(BT_FSW_ES | BT_FSW_B);

	if (fsw & ~fcw & BT_FSW_FLAGS)
		fsw |= BT_FSW_ES | BT_FSW_B;
	bt_put(area + BT_XSAVE_FCW, 2, fcw);
	bt_put(area + BT_XSAVE_FSW, 2, fsw);
	area[BT_XSAVE_FTW + 1] = 0;
}

static void
bt_xsave_take_x87(struct bt_fpu *fpu, const struct bt_op *op)
{
	bt_xsave_fix_x87(fpu->area);
	bt_xsave_take(fpu, 0, BT_XSAVE_MXCSR);
	bt_xsave_take(fpu, BT_XSAVE_ST, BT_XSAVE_XMM);
	bt_xsave_mark(fpu, X86_XCR0_X87, true);
	bt_xsave_get_pointers(fpu, op);
}

static void
bt_xsave_take_mxcsr(struct bt_fpu *fpu)
{
	bt_xsave_take(fpu, BT_XSAVE_MXCSR, BT_XSAVE_MXCSR_MASK);
}

static void
bt_xsave_take_xmm(struct bt_fpu *fpu, const struct bt_op *op)
{
	bt_fpu_normalize(fpu, fpu->image, X86_XCR0_SSE);
	bt_xsave_take(fpu, BT_XSAVE_XMM, bt_xsave_xmm_end(op));
	bt_xsave_mark(fpu, X86_XCR0_SSE, true);
}

static bool
bt_xsave_mxcsr_valid(const struct bt_fpu *fpu)
{
	return (bt_get32(fpu->area + BT_XSAVE_MXCSR) & ~BT_MXCSR_MASK) == 0;
}

static void
bt_xsave_fxrstor_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_fpu *fpu = cpu->fpu;
	uint64_t ea = bt_ea(cpu, op);

	bt_fxsave_check(cpu, op, ea);
	bt_probe(cpu, op->seg, ea, BT_XSAVE_LEGACY, BT_READ);
	bt_vec_copy_in(cpu, op, ea, fpu->area, BT_XSAVE_LEGACY);
	if (!bt_xsave_mxcsr_valid(fpu))
		bt_raise_error(cpu, X86_GP, 0);
	bt_fpu_park(cpu);
	bt_xsave_take_x87(fpu, op);
	bt_xsave_take_mxcsr(fpu);
	if (!bt_fxsave_fast(cpu, op))
		bt_xsave_take_xmm(fpu, op);
}

/* What XRSTOR was given, once the header has been checked. */
struct bt_xrstor {
	uint64_t ea;
	uint64_t rfbm;   /* components to be changed */
	uint64_t bv;     /* those of them that are in the area; others become initial */
	uint64_t layout; /* XCOMP_BV */
	bool compact;
};

/* Reads the legacy region and the header into fpu->area and checks them; raises #GP(0). */
static void
bt_xrstor_begin(struct bt_cpu *cpu, const struct bt_op *op, uint64_t enabled, bool need_compact,
    struct bt_xrstor *x)
{
	struct bt_fpu *fpu = cpu->fpu;
	uint64_t reserved = 0, bv;
	bool mxcsr;

	x->ea = bt_ea(cpu, op);
	bt_xsave_check(cpu, op, x->ea);
	bt_probe(cpu, op->seg, x->ea, BT_XSAVE_EXTENDED, BT_READ);
	bt_vec_copy_in(cpu, op, x->ea, fpu->area, BT_XSAVE_EXTENDED);
	bv = bt_get64(fpu->area + BT_XSAVE_BV);
	x->layout = bt_get64(fpu->area + BT_XSAVE_XCOMP_BV);
	x->compact = x->layout >> 63;
	x->layout &= ~BT_XCOMP_BV_COMPACT;
	x->rfbm = bt_xsave_request(cpu, enabled);
	x->bv = bv & x->rfbm;

	/* SDM 1, 13.8.1 and 13.8.2: in the standard format bytes 8 to 23 of the header are 0, in
	 * the compacted one bytes 16 to 63. */
	for (int i = BT_XSAVE_BV + 16; i < BT_XSAVE_BV + (x->compact ? 64 : 24); i += 8)
		reserved |= bt_get64(fpu->area + i);
	if (reserved != 0 || (bv & ~enabled) != 0)
		bt_raise_error(cpu, X86_GP, 0);
	if (x->compact ? (x->layout & ~enabled) != 0 || (bv & ~x->layout) != 0 ||
			     !(fpu->xsave_features & (BT_XSAVE_HAS_C | BT_XSAVE_HAS_S))
		       : x->layout != 0 || need_compact)
		bt_raise_error(cpu, X86_GP, 0);
	mxcsr = x->compact ? x->bv & X86_XCR0_SSE : x->rfbm & (X86_XCR0_SSE | X86_XCR0_AVX);
	if (mxcsr && !bt_xsave_mxcsr_valid(fpu))
		bt_raise_error(cpu, X86_GP, 0);
}

static uint32_t
bt_xrstor_offset(const struct bt_fpu *fpu, const struct bt_xrstor *x, int i)
{
	uint32_t end = BT_XSAVE_EXTENDED;

	if (!x->compact)
		return fpu->comp[i].offset;
	for (int j = 2; j < i; j++) {
		if (x->layout & BIT64(j))
			end = bt_xsave_compact_offset(fpu, j, end) + fpu->comp[j].size;
	}
	return bt_xsave_compact_offset(fpu, i, end);
}

static void
bt_xrstor_legacy(struct bt_fpu *fpu, const struct bt_op *op, const struct bt_xrstor *x)
{
	if (x->bv & X86_XCR0_X87) {
		bt_xsave_take_x87(fpu, op);
	} else if (x->rfbm & X86_XCR0_X87) {
		bt_xsave_mark(fpu, X86_XCR0_X87, false);
		bt_xsave_clear_pointers(fpu);
	}
	if (x->compact ? x->bv & X86_XCR0_SSE : x->rfbm & (X86_XCR0_SSE | X86_XCR0_AVX))
		bt_xsave_take_mxcsr(fpu);
	else if (x->rfbm & X86_XCR0_SSE)
		bt_put(fpu->image + BT_XSAVE_MXCSR, 4, BT_MXCSR_RESET);
	if (x->bv & X86_XCR0_SSE) {
		bt_xsave_take_xmm(fpu, op);
	} else if (x->rfbm & X86_XCR0_SSE) {
		if (op->x & BT_XSAVE_LONG)
			bt_xsave_mark(fpu, X86_XCR0_SSE, false);
		else
			bt_zero(fpu->image + BT_XSAVE_XMM, 128);
	}
}

/* Component i, from 2 on. */
static void
bt_xrstor_component(struct bt_cpu *cpu, const struct bt_op *op, const struct bt_xrstor *x, int i)
{
	struct bt_fpu *fpu = cpu->fpu;
	uint8_t *to = fpu->image + fpu->comp[i].offset;
	uint32_t size = bt_xsave_size(fpu, op, i);

	if (size == 0)
		return;
	if (x->bv & BIT64(i)) {
		bt_fpu_normalize(fpu, fpu->image, BIT64(i));
		bt_vec_copy_in(
		    cpu, op, bt_ea_add(op, x->ea, bt_xrstor_offset(fpu, x, i)), to, size);
		bt_xsave_mark(fpu, BIT64(i), true);
	} else if (size == fpu->comp[i].size) {
		bt_xsave_mark(fpu, BIT64(i), false);
	} else {
		bt_zero(to, size);
	}
}

static inline __attribute__((always_inline)) void
bt_xrstor_restore(struct bt_cpu *cpu, const struct bt_op *op, uint64_t enabled, bool need_compact)
{
	struct bt_fpu *fpu = cpu->fpu;
	struct bt_xrstor x;

	bt_xrstor_begin(cpu, op, enabled, need_compact, &x);
	for (int i = 2; i < BT_XCOMPS; i++) {
		if (x.bv & BIT64(i))
			bt_probe(cpu, op->seg, bt_ea_add(op, x.ea, bt_xrstor_offset(fpu, &x, i)),
			    (int)fpu->comp[i].size, BT_READ);
	}
	bt_fpu_park(cpu);
	bt_xrstor_legacy(fpu, op, &x);
	for (int i = 2; i < BT_XCOMPS; i++) {
		if (x.rfbm & BIT64(i))
			bt_xrstor_component(cpu, op, &x, i);
	}
}

/* --- Handlers --- */

static void
bt_xsave_xsave_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_xsave_save(cpu, op, cpu->xcr0, BT_XSAVE_PLAIN);
}

static void
bt_xsave_xsaveopt_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_xsave_save(cpu, op, cpu->xcr0, BT_XSAVE_INIT_OPT);
}

static void
bt_xsave_xsavec_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_xsave_save(cpu, op, cpu->xcr0, BT_XSAVE_COMPACT);
}

/* #UD and #NM go first, so they are asked for here as well. */
static void
bt_xsave_check_supervisor(struct bt_cpu *cpu)
{
	if (!(cpu->cr4 & X86_CR4_OSXSAVE))
		bt_raise(cpu, X86_UD);
	if (cpu->cr0 & X86_CR0_TS)
		bt_raise(cpu, X86_NM);
	if (cpu->cpl != 0)
		bt_raise_error(cpu, X86_GP, 0);
}

static void
bt_xsave_xsaves_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_xsave_check_supervisor(cpu);
	bt_xsave_save(cpu, op, cpu->xcr0 | cpu->xss, BT_XSAVE_COMPACT);
}

static void
bt_xsave_xrstor_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_xrstor_restore(cpu, op, cpu->xcr0, false);
}

static void
bt_xsave_xrstors_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_xsave_check_supervisor(cpu);
	bt_xrstor_restore(cpu, op, cpu->xcr0 | cpu->xss, true);
}

static void
bt_xsave_ldmxcsr_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint32_t val;

	bt_vec_ready(cpu, op->y);
	val = (uint32_t)bt_load(cpu, op->seg, bt_ea(cpu, op), 4);
	if (val & ~BT_MXCSR_MASK)
		bt_raise_error(cpu, X86_GP, 0);
	bt_fpu_live(cpu);
	__asm__ volatile("ldmxcsr %0" : : "m"(val));
}

static void
bt_xsave_stmxcsr_run(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint32_t val;

	bt_vec_ready(cpu, op->y);
	__asm__ volatile("stmxcsr %0" : "=m"(val));
	bt_store(cpu, op->seg, bt_ea(cpu, op), 4, val);
}

/* With locals whose address is taken a handler could not end in a tail call. */
#define BT_XSAVE_HANDLER(name)                                                                     \
	static void name(struct bt_cpu *cpu, const struct bt_op *op)                               \
	{                                                                                          \
		name##_run(cpu, op);                                                               \
		bt_next(cpu, op);                                                                  \
	}

BT_XSAVE_HANDLER(bt_xsave_fxsave)
BT_XSAVE_HANDLER(bt_xsave_fxrstor)
BT_XSAVE_HANDLER(bt_xsave_xsave)
BT_XSAVE_HANDLER(bt_xsave_xsaveopt)
BT_XSAVE_HANDLER(bt_xsave_xsavec)
BT_XSAVE_HANDLER(bt_xsave_xsaves)
BT_XSAVE_HANDLER(bt_xsave_xrstor)
BT_XSAVE_HANDLER(bt_xsave_xrstors)
BT_XSAVE_HANDLER(bt_xsave_ldmxcsr)
BT_XSAVE_HANDLER(bt_xsave_stmxcsr)

void
bt_mxcsr_lower(struct bt_op *op, bool load, uint8_t kind)
{
	op->y = kind;
	op->fn = load ? bt_xsave_ldmxcsr : bt_xsave_stmxcsr;
}

void
bt_xsave_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op)
{
	const struct bt_fpu *fpu = cpu->fpu;
	bool has = fpu->has_xsave;

	op->x = 0;
	if (in->mode == 8)
		op->x = BT_XSAVE_LONG | (in->w ? BT_XSAVE_W : 0);
	switch (in->id) {
	case BT_ID_FXSAVE:
		op->fn = bt_xsave_fxsave;
		has = true;
		break;
	case BT_ID_FXRSTOR:
		op->fn = bt_xsave_fxrstor;
		has = true;
		break;
	case BT_ID_XSAVE: op->fn = bt_xsave_xsave; break;
	case BT_ID_XRSTOR: op->fn = bt_xsave_xrstor; break;
	case BT_ID_XSAVEOPT:
		op->fn = bt_xsave_xsaveopt;
		has = fpu->xsave_features & BT_XSAVE_HAS_OPT;
		break;
	case BT_ID_XSAVEC:
		op->fn = bt_xsave_xsavec;
		has = fpu->xsave_features & BT_XSAVE_HAS_C;
		break;
	case BT_ID_XSAVES:
		op->fn = bt_xsave_xsaves;
		has = fpu->xsave_features & BT_XSAVE_HAS_S;
		break;
	case BT_ID_XRSTORS:
		op->fn = bt_xsave_xrstors;
		has = fpu->xsave_features & BT_XSAVE_HAS_S;
		break;
	default: has = false;
	}
	if (!has)
		op->fn = bt_op_ud;
}
