/*
 * Segment registers and descriptor tables: loads, checks, inner stacks.
 *
 * SDM 3, chapter 3 (protected-mode memory management) and 5.6 to 5.8 (privilege checks).
 */
#include "engine/bt/sys.h"

uint32_t
bt_desc_base(const struct bt_desc *d)
{
	return d->lo >> 16 | (d->hi & 0xff) << 16 | (d->hi & 0xff000000);
}

uint64_t
bt_desc_base64(struct bt_cpu *cpu, const struct bt_desc *d)
{
	if (!cpu->lma)
		return bt_desc_base(d);
	return bt_desc_base(d) | bt_sys_load(cpu, d->la + 8, 4) << 32;
}

uint32_t
bt_desc_limit(const struct bt_desc *d)
{
	uint32_t limit = (d->lo & 0xffff) | (d->hi & 0xf0000);

	return d->hi & BIT(23) ? limit << 12 | 0xfff : limit;
}

bool
bt_desc_load(struct bt_cpu *cpu, uint16_t sel, int size, struct bt_desc *d)
{
	uint64_t base = cpu->gdtr.base;
	uint32_t limit = cpu->gdtr.limit;
	uint64_t raw;

	if (BT_SEL_NULL(sel))
		return false;
	if (sel & 4) {
		if (!(cpu->ldtr.attr & X86_SEG_P))
			return false;
		base = cpu->ldtr.base;
		limit = cpu->ldtr.limit;
	}
	if ((sel & 0xfff8u) + (uint32_t)size - 1 > limit)
		return false;
	d->la = base + (sel & 0xfff8u);
	if (!cpu->lma)
		d->la = (uint32_t)d->la;
	raw = bt_sys_load(cpu, d->la, 8);
	d->lo = (uint32_t)raw;
	d->hi = (uint32_t)(raw >> 32);
	return true;
}

void
bt_desc_set_type(struct bt_cpu *cpu, struct bt_desc *d, unsigned type)
{
	d->hi = (d->hi & ~(X86_SEG_TYPE << 8)) | type << 8;
	bt_sys_store(cpu, d->la + 5, 1, d->hi >> 8);
}

void
bt_desc_set_accessed(struct bt_cpu *cpu, struct bt_desc *d)
{
	if (!(bt_desc_type(d) & X86_SEG_A))
		bt_desc_set_type(cpu, d, bt_desc_type(d) | X86_SEG_A);
}

void
bt_seg_set(struct bt_cpu *cpu, int seg, uint16_t sel, const struct bt_desc *d)
{
	cpu->seg[seg] = (struct x86_segment){
		.selector = sel,
		.attr = bt_desc_attr(d),
		.limit = bt_desc_limit(d),
		.base = bt_desc_base(d),
	};
}

void
bt_seg_set_null(struct bt_cpu *cpu, int seg, uint16_t sel)
{
	cpu->seg[seg] = (struct x86_segment){ .selector = sel };
	/* SS.DPL is where the CPL is looked for (SDM 3, 24.4.1 keeps it so too). */
	if (seg == X86_SS)
		cpu->seg[seg].attr = (uint16_t)(cpu->cpl << 5);
}

void
bt_seg_set_real(struct bt_cpu *cpu, int seg, uint16_t sel)
{
	struct x86_segment *s = &cpu->seg[seg];

	s->selector = sel;
	s->base = (uint32_t)sel << 4;
	if (cpu->vm86) {
		s->limit = 0xffff;
		s->attr = X86_SEG_P | 3u << 5 | X86_SEG_S | X86_SEG_RW | X86_SEG_A;
	} else if (seg == X86_CS) {
		/* Real mode keeps the limit it had ("unreal" mode), but code is 16-bit data again. */
		s->attr = X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_A;
	}
}

static void
bt_seg_load_ss(struct bt_cpu *cpu, uint16_t sel)
{
	unsigned rpl = sel & 3;
	struct bt_desc d;

	if (BT_SEL_NULL(sel)) {
		if (cpu->code_size != 8 || cpu->cpl == 3 || rpl != cpu->cpl)
			bt_raise_error(cpu, X86_GP, 0);
		bt_seg_set_null(cpu, X86_SS, sel);
		return;
	}
	if (!bt_desc_load(cpu, sel, 8, &d))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (bt_desc_is_system(&d) || bt_desc_is_code(&d) || !(bt_desc_type(&d) & X86_SEG_RW) ||
	    rpl != cpu->cpl || bt_desc_dpl(&d) != cpu->cpl)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (!bt_desc_present(&d))
		bt_raise_error(cpu, X86_SSF, BT_SEL_ERR(sel));
	bt_desc_set_accessed(cpu, &d);
	bt_seg_set(cpu, X86_SS, sel, &d);
}

static void
bt_seg_load_data(struct bt_cpu *cpu, int seg, uint16_t sel)
{
	unsigned type;
	struct bt_desc d;

	if (BT_SEL_NULL(sel)) {
		bt_seg_set_null(cpu, seg, sel);
		return;
	}
	if (!bt_desc_load(cpu, sel, 8, &d))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	type = bt_desc_type(&d);
	if (bt_desc_is_system(&d) || (bt_desc_is_code(&d) && !(type & X86_SEG_RW)))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (!(bt_desc_is_code(&d) && (type & X86_SEG_EC)) &&
	    ((sel & 3) > bt_desc_dpl(&d) || cpu->cpl > bt_desc_dpl(&d)))
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel));
	if (!bt_desc_present(&d))
		bt_raise_error(cpu, X86_NP, BT_SEL_ERR(sel));
	bt_desc_set_accessed(cpu, &d);
	bt_seg_set(cpu, seg, sel, &d);
}

void
bt_seg_load(struct bt_cpu *cpu, int seg, uint16_t sel)
{
	if (!cpu->pe || cpu->vm86)
		bt_seg_set_real(cpu, seg, sel);
	else if (seg == X86_SS)
		bt_seg_load_ss(cpu, sel);
	else
		bt_seg_load_data(cpu, seg, sel);
	bt_mode_update(cpu);
}

void
bt_seg_drop_inner(struct bt_cpu *cpu)
{
	static const uint8_t data_segs[] = { X86_ES, X86_DS, X86_FS, X86_GS };

	for (size_t i = 0; i < ARRAY_SIZE(data_segs); i++) {
		struct x86_segment *s = &cpu->seg[data_segs[i]];
		unsigned conforming = X86_SEG_CODE | X86_SEG_EC;

		if (!(s->attr & X86_SEG_P) || !(s->attr & X86_SEG_S))
			continue;
		if ((s->attr & conforming) == conforming || X86_SEG_DPL(s->attr) >= cpu->cpl)
			continue;
		bt_seg_set_null(cpu, data_segs[i], 0);
	}
}

bool
bt_canonical(const struct bt_cpu *cpu, uint64_t la)
{
	int shift = cpu->cr4 & X86_CR4_LA57 ? 7 : 16;

	return !cpu->lma || (int64_t)(la << shift) >> shift == (int64_t)la;
}

/* --- Stacks --- */

static uint64_t
bt_stack_mask(int size)
{
	return size == 8 ? ~0ull : size == 4 ? 0xffffffffull : 0xffffull;
}

void
bt_stack_current(struct bt_cpu *cpu, struct bt_stack *st)
{
	st->inner = false;
	st->long_mode = cpu->code_size == 8;
	st->mask = bt_stack_mask(cpu->sp_size);
	st->sp = cpu->r[X86_RSP] & st->mask;
}

/* Whether size bytes at offset sp lie inside a stack segment that is not loaded yet. */
static bool
bt_stack_inside(const struct bt_stack *st, int size)
{
	uint64_t first = st->sp, last = st->sp + (uint64_t)size - 1;

	if (st->ss.attr & X86_SEG_EC) /* expand-down: valid above the limit */
		return first > st->ss.limit && last <= st->mask;
	return last <= st->ss.limit;
}

void
bt_stack_push(struct bt_cpu *cpu, struct bt_stack *st, int size, uint64_t val)
{
	st->sp = (st->sp - (uint64_t)size) & st->mask;
	if (!st->inner) {
		bt_store(cpu, X86_SS, st->sp, size, val);
	} else if (st->long_mode) {
		if (!bt_canonical(cpu, st->sp) || !bt_canonical(cpu, st->sp + (uint64_t)size - 1))
			bt_raise_error(cpu, X86_SSF, 0);
		bt_sys_store(cpu, st->sp, size, val);
	} else {
		if (!bt_stack_inside(st, size))
			bt_raise_error(cpu, X86_SSF, BT_SEL_ERR(st->ss.selector));
		bt_sys_store(cpu, (uint32_t)(st->ss.base + st->sp), size, val);
	}
}

uint64_t
bt_stack_pop(struct bt_cpu *cpu, struct bt_stack *st, int size)
{
	uint64_t val = bt_load(cpu, X86_SS, st->sp, size);

	st->sp = (st->sp + (uint64_t)size) & st->mask;
	return val;
}

void
bt_stack_commit(struct bt_cpu *cpu, const struct bt_stack *st)
{
	uint64_t keep = st->mask == 0xffff ? ~0xffffull : 0;

	cpu->r[X86_RSP] = (cpu->r[X86_RSP] & keep) | st->sp;
}

static void
bt_stack_inner64(struct bt_cpu *cpu, int pl, int ist, int ext, struct bt_stack *st)
{
	/* 64-bit TSS (SDM 3, figure 7-11): RSP0 at 4, IST1 at 36. */
	unsigned off = ist != 0 ? 36 + 8 * (unsigned)(ist - 1) : 4 + 8 * (unsigned)pl;

	if (off + 7 > cpu->tr.limit)
		bt_raise_error(cpu, X86_TS, BT_SEL_ERR(cpu->tr.selector) | (uint32_t)ext);
	st->sp = bt_sys_load(cpu, cpu->tr.base + off, 8);
	if (!bt_canonical(cpu, st->sp))
		bt_raise_error(cpu, X86_SSF, (uint32_t)ext);
	st->mask = ~0ull;
	st->inner = true;
	st->long_mode = true;
	st->ss = (struct x86_segment){ .selector = (uint16_t)pl };
}

void
bt_stack_inner(struct bt_cpu *cpu, int pl, int ist, int ext, struct bt_stack *st,
    struct bt_desc *desc)
{
	bool tss32 = (cpu->tr.attr & 8) != 0;
	unsigned off = tss32 ? 4 + 8 * (unsigned)pl : 2 + 4 * (unsigned)pl;
	uint32_t sp;
	uint16_t sel;

	if (cpu->lma) {
		bt_stack_inner64(cpu, pl, ist, ext, st);
		return;
	}
	if (off + (tss32 ? 5 : 3) > cpu->tr.limit)
		bt_raise_error(cpu, X86_TS, BT_SEL_ERR(cpu->tr.selector) | (uint32_t)ext);
	sp = (uint32_t)bt_sys_load(cpu, (uint32_t)(cpu->tr.base + off), tss32 ? 4 : 2);
	sel = (uint16_t)bt_sys_load(cpu, (uint32_t)(cpu->tr.base + off + (tss32 ? 4 : 2)), 2);
	if (BT_SEL_NULL(sel))
		bt_raise_error(cpu, X86_TS, (uint32_t)ext);
	if (!bt_desc_load(cpu, sel, 8, desc) || (sel & 3) != (unsigned)pl ||
	    bt_desc_dpl(desc) != (unsigned)pl || bt_desc_is_system(desc) ||
	    bt_desc_is_code(desc) || !(bt_desc_type(desc) & X86_SEG_RW))
		bt_raise_error(cpu, X86_TS, BT_SEL_ERR(sel) | (uint32_t)ext);
	if (!bt_desc_present(desc))
		bt_raise_error(cpu, X86_SSF, BT_SEL_ERR(sel) | (uint32_t)ext);
	bt_desc_set_accessed(cpu, desc);
	st->inner = true;
	st->long_mode = false;
	st->mask = bt_desc_attr(desc) & X86_SEG_DB ? 0xffffffffull : 0xffffull;
	st->sp = sp & st->mask;
	st->ss = (struct x86_segment){
		.selector = sel,
		.attr = bt_desc_attr(desc),
		.limit = bt_desc_limit(desc),
		.base = bt_desc_base(desc),
	};
}

/* --- Code segments --- */

void
bt_check_code_offset(struct bt_cpu *cpu, const struct bt_desc *d, uint64_t offset)
{
	bool ok = cpu->lma && (bt_desc_attr(d) & X86_SEG_L) ? bt_canonical(cpu, offset) :
							      offset <= bt_desc_limit(d);

	if (!ok)
		bt_raise_error(cpu, X86_GP, 0);
}

void
bt_enter_code(struct bt_cpu *cpu, uint16_t sel, const struct bt_desc *d, int cpl, uint64_t rip)
{
	bt_seg_set(cpu, X86_CS, (uint16_t)((sel & 0xfffc) | cpl), d);
	cpu->cpl = (uint8_t)cpl;
	cpu->r[BT_REG_RIP] = rip;
	bt_mode_update(cpu);
}
