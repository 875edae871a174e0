/*
 * Task switches (SDM 3, chapter 7) with 16-bit and 32-bit TSSs.
 */
#include "engine/bt/exc.h"

#include "engine/bt/mmu.h"
#include "engine/bt/sys.h"
#include "engine/bt/vec.h"

/* The 32-bit TSS (SDM 3, figure 7-2) and the 16-bit one (figure 7-10): offsets. */
struct bt_tss_layout {
	uint8_t size; /* of a register */
	uint8_t cr3, ip, flags, gpr, seg, segs, ldt, trap; /* 0: has none */
	uint8_t limit; /* the least limit a TSS must have */
};
static const struct bt_tss_layout bt_tss32 = { .size = 4, .cr3 = 28, .ip = 32, .flags = 36,
	.gpr = 40, .seg = 72, .segs = 6, .ldt = 96, .trap = 100, .limit = 0x67 };
static const struct bt_tss_layout bt_tss16 = { .size = 2, .ip = 14, .flags = 16, .gpr = 18,
	.seg = 34, .segs = 4, .ldt = 42, .limit = 0x2b };

static const struct bt_tss_layout *
bt_tss_layout(unsigned type)
{
	return type & 8 ? &bt_tss32 : &bt_tss16;
}

/* A TSS's dynamic fields. */
struct bt_task {
	uint32_t cr3, ip, flags, gpr[8];
	uint16_t seg[6], ldt;
	bool trap;
};

static void
bt_task_read(struct bt_cpu *cpu, const struct bt_tss_layout *l, uint64_t base, struct bt_task *t)
{
	*t = (struct bt_task){ 0 };
	if (l->cr3 != 0)
		t->cr3 = (uint32_t)bt_sys_load(cpu, base + l->cr3, 4);
	t->ip = (uint32_t)bt_sys_load(cpu, base + l->ip, l->size);
	t->flags = (uint32_t)bt_sys_load(cpu, base + l->flags, l->size);
	for (unsigned i = 0; i < 8; i++) {
		t->gpr[i] = (uint32_t)bt_sys_load(cpu, base + l->gpr + i * l->size, l->size);
		/* The upper halves are undefined after a 16-bit task's switch; ones are what
		 * processors leave there. */
		if (l->size == 2)
			t->gpr[i] |= 0xffff0000;
	}
	for (unsigned i = 0; i < l->segs; i++)
		t->seg[i] = (uint16_t)bt_sys_load(cpu, base + l->seg + i * l->size, 2);
	t->ldt = (uint16_t)bt_sys_load(cpu, base + l->ldt, 2);
	if (l->trap != 0)
		t->trap = bt_sys_load(cpu, base + l->trap, 2) & 1;
}

/* Raises what storing to the dynamic fields would, so that the stores themselves cannot fault. */
static void
bt_task_probe(struct bt_cpu *cpu, const struct bt_tss_layout *l, uint64_t base)
{
	uint64_t last = base + l->seg + l->segs * l->size - 1;

	bt_sys_probe(cpu, base, 2, BT_WRITE);
	bt_sys_probe(cpu, base + l->ip, (int)(last - (base + l->ip)) + 1, BT_WRITE);
}

static void
bt_task_save(struct bt_cpu *cpu, const struct bt_tss_layout *l, uint64_t base, uint32_t flags)
{
	bt_sys_store(cpu, base + l->ip, l->size, cpu->r[BT_REG_RIP]);
	bt_sys_store(cpu, base + l->flags, l->size, flags);
	for (unsigned i = 0; i < 8; i++)
		bt_sys_store(cpu, base + l->gpr + i * l->size, l->size, cpu->r[i]);
	for (unsigned i = 0; i < l->segs; i++)
		bt_sys_store(cpu, base + l->seg + i * l->size, 2, cpu->seg[i].selector);
}

/* The descriptor of the new TSS, checked (SDM 3, 7.3, step 3 to 5). */
static void
bt_task_find(struct bt_cpu *cpu, uint16_t sel, enum bt_task_source source, int ext,
    struct bt_desc *d)
{
	uint32_t error = BT_SEL_ERR(sel) | (uint32_t)ext;
	enum x86_vector bad = source == BT_TASK_IRET ? X86_TS : X86_GP;
	unsigned want = source == BT_TASK_IRET ? X86_SYS_TSS16_BUSY : X86_SYS_TSS16;

	if (BT_SEL_NULL(sel) || (sel & 4) || !bt_desc_load(cpu, sel, 8, d) ||
	    !bt_desc_is_system(d) || (bt_desc_type(d) & ~8u) != want)
		bt_raise_error(cpu, bad, error);
	if (!bt_desc_present(d))
		bt_raise_error(cpu, X86_NP, error);
	if (bt_desc_limit(d) < bt_tss_layout(bt_desc_type(d))->limit)
		bt_raise_error(cpu, X86_TS, error);
}

/* The busy bit of a TSS descriptor, found again through its selector. */
static void
bt_task_set_busy(struct bt_cpu *cpu, uint16_t sel, bool busy)
{
	uint64_t la = cpu->gdtr.base + (sel & 0xfff8u) + 4;
	uint32_t hi = (uint32_t)bt_sys_load(cpu, la & cpu->la_mask, 4);

	bt_sys_store(cpu, la & cpu->la_mask, 4, busy ? hi | BIT(9) : hi & ~BIT(9));
}

/* --- In the new task: faults belong to it --- */

static BT_NORETURN void
bt_task_bad(struct bt_cpu *cpu, uint16_t sel, int ext)
{
	bt_raise_error(cpu, X86_TS, BT_SEL_ERR(sel) | (uint32_t)ext);
}

static void
bt_task_load_ldt(struct bt_cpu *cpu, uint16_t sel, int ext)
{
	struct bt_desc d;

	cpu->ldtr = (struct x86_segment){ .selector = sel };
	if (BT_SEL_NULL(sel))
		return;
	if ((sel & 4) || !bt_desc_load(cpu, sel, 8, &d) || !bt_desc_is_system(&d) ||
	    bt_desc_type(&d) != X86_SYS_LDT || !bt_desc_present(&d))
		bt_task_bad(cpu, sel, ext);
	cpu->ldtr = (struct x86_segment){ .selector = sel, .attr = bt_desc_attr(&d),
		.limit = bt_desc_limit(&d), .base = bt_desc_base(&d) };
}

static void
bt_task_load_cs(struct bt_cpu *cpu, uint16_t sel, uint32_t ip, int ext)
{
	struct bt_desc d;
	unsigned rpl = sel & 3;

	if (BT_SEL_NULL(sel) || !bt_desc_load(cpu, sel, 8, &d) || bt_desc_is_system(&d) ||
	    !bt_desc_is_code(&d))
		bt_task_bad(cpu, sel, ext);
	if (bt_desc_attr(&d) & X86_SEG_EC ? bt_desc_dpl(&d) > rpl : bt_desc_dpl(&d) != rpl)
		bt_task_bad(cpu, sel, ext);
	if (!bt_desc_present(&d))
		bt_raise_error(cpu, X86_NP, BT_SEL_ERR(sel) | (uint32_t)ext);
	bt_desc_set_accessed(cpu, &d);
	bt_enter_code(cpu, sel, &d, (int)rpl, ip);
}

static void
bt_task_load_ss(struct bt_cpu *cpu, uint16_t sel, int ext)
{
	struct bt_desc d;

	if (BT_SEL_NULL(sel) || !bt_desc_load(cpu, sel, 8, &d) || bt_desc_is_system(&d) ||
	    bt_desc_is_code(&d) || !(bt_desc_attr(&d) & X86_SEG_RW) ||
	    bt_desc_dpl(&d) != cpu->cpl || (sel & 3) != cpu->cpl)
		bt_task_bad(cpu, sel, ext);
	if (!bt_desc_present(&d))
		bt_raise_error(cpu, X86_SSF, BT_SEL_ERR(sel) | (uint32_t)ext);
	bt_desc_set_accessed(cpu, &d);
	bt_seg_set(cpu, X86_SS, sel, &d);
	bt_mode_update(cpu);
}

static void
bt_task_load_data(struct bt_cpu *cpu, int seg, uint16_t sel, int ext)
{
	struct bt_desc d;
	unsigned attr;

	if (BT_SEL_NULL(sel)) {
		bt_seg_set_null(cpu, seg, sel);
		return;
	}
	if (!bt_desc_load(cpu, sel, 8, &d) || bt_desc_is_system(&d))
		bt_task_bad(cpu, sel, ext);
	attr = bt_desc_attr(&d);
	if ((attr & X86_SEG_CODE) && !(attr & X86_SEG_RW))
		bt_task_bad(cpu, sel, ext);
	if ((attr & (X86_SEG_CODE | X86_SEG_EC)) != (X86_SEG_CODE | X86_SEG_EC) &&
	    (bt_desc_dpl(&d) < cpu->cpl || bt_desc_dpl(&d) < (sel & 3u)))
		bt_task_bad(cpu, sel, ext);
	if (!bt_desc_present(&d))
		bt_raise_error(cpu, X86_NP, BT_SEL_ERR(sel) | (uint32_t)ext);
	bt_desc_set_accessed(cpu, &d);
	bt_seg_set(cpu, seg, sel, &d);
}

/* Segments of the new task. They are given their selectors first, marked unusable, so that a handler of a
 * fault on the way finds what the task asked for (SDM 3, 7.3, step 11). */
static void
bt_task_load_segs(struct bt_cpu *cpu, const struct bt_task *t, int ext)
{
	static const uint8_t data[] = { X86_ES, X86_DS, X86_FS, X86_GS };

	if (t->flags & X86_FL_VM) {
		for (int seg = X86_ES; seg <= X86_GS; seg++)
			bt_seg_set_real(cpu, seg, t->seg[seg]);
		cpu->cpl = 3;
		bt_task_load_ldt(cpu, t->ldt, ext);
		bt_mode_update(cpu);
		return;
	}
	for (int seg = X86_ES; seg <= X86_GS; seg++)
		if (seg != X86_CS)
			bt_seg_set_null(cpu, seg, t->seg[seg]);
	cpu->seg[X86_CS].selector = t->seg[X86_CS];
	bt_mode_update(cpu);
	bt_task_load_ldt(cpu, t->ldt, ext);
	bt_task_load_cs(cpu, t->seg[X86_CS], t->ip, ext);
	bt_task_load_ss(cpu, t->seg[X86_SS], ext);
	for (unsigned i = 0; i < ARRAY_SIZE(data); i++)
		bt_task_load_data(cpu, data[i], t->seg[data[i]], ext);
	bt_mode_update(cpu);
}

static void
bt_task_push_error(struct bt_cpu *cpu, const struct bt_tss_layout *l, uint32_t error)
{
	struct bt_stack st;

	bt_stack_current(cpu, &st);
	bt_stack_push(cpu, &st, l->size, error);
	bt_stack_commit(cpu, &st);
}

static void
bt_task_enter(struct bt_cpu *cpu, const struct bt_task *t, bool nested)
{
	uint32_t flags = t->flags | (nested ? X86_FL_NT : 0);

	for (unsigned i = 0; i < 8; i++)
		cpu->r[i] = t->gpr[i];
	cpu->r[BT_REG_RIP] = t->ip;
	cpu->rf_rip = t->ip;
	cpu->cr0 |= X86_CR0_TS;
	cpu->dr7 &= ~0x155ull; /* local breakpoints (SDM 3, 17.2.4) */
	bt_debug_update(cpu);
	bt_eflags_write(cpu, flags,
	    X86_FL_ARITH | X86_FL_TF | X86_FL_IF | X86_FL_DF | X86_FL_IOPL | X86_FL_NT |
		X86_FL_RF | X86_FL_VM | X86_FL_AC | X86_FL_VIF | X86_FL_VIP | X86_FL_ID);
	bt_fpu_mode(cpu);
}

void
bt_task_switch(struct bt_cpu *cpu, uint16_t sel, enum bt_task_source source, int ext,
    const struct bt_event *ev)
{
	const struct bt_tss_layout *from = bt_tss_layout(cpu->tr.attr & X86_SEG_TYPE), *to;
	uint64_t old_base = cpu->tr.base, new_base;
	uint16_t old_sel = cpu->tr.selector;
	bool nested = source == BT_TASK_CALL || source == BT_TASK_EVENT;
	bool leaves = source == BT_TASK_JMP || source == BT_TASK_IRET;
	uint32_t flags = bt_eflags(cpu);
	struct bt_desc d;
	struct bt_task t;

	bt_task_find(cpu, sel, source, ext, &d);
	to = bt_tss_layout(bt_desc_type(&d));
	new_base = bt_desc_base(&d);
	bt_task_read(cpu, to, new_base, &t);
	if (cpu->tr.limit < from->limit)
		bt_raise_error(cpu, X86_TS, BT_SEL_ERR(old_sel) | (uint32_t)ext);
	bt_task_probe(cpu, from, old_base);
	bt_sys_probe(cpu, new_base, 2, BT_WRITE);
	bt_sys_probe(cpu, (cpu->gdtr.base + (sel & 0xfff8u) + 4) & cpu->la_mask, 4, BT_WRITE);
	bt_sys_probe(cpu, (cpu->gdtr.base + (old_sel & 0xfff8u) + 4) & cpu->la_mask, 4, BT_WRITE);

	if (source == BT_TASK_IRET)
		flags &= ~X86_FL_NT;
	if (ev != NULL && ev->kind == BT_EVENT_EXC && ev->vector != X86_DB && ev->vector != X86_DF)
		flags |= X86_FL_RF;
	if (leaves)
		bt_task_set_busy(cpu, old_sel, false);
	bt_task_save(cpu, from, old_base, flags);
	if (nested)
		bt_sys_store(cpu, new_base, 2, old_sel);
	if (source != BT_TASK_IRET)
		bt_task_set_busy(cpu, sel, true);

	/* Committed: RIP becomes the new task's, and the current op's length must not be taken from
	 * it any more. */
	cpu->op = &bt_op_none;
	cpu->trap_skip = 1;
	cpu->tr = (struct x86_segment){ .selector = sel,
		.attr = (uint16_t)(bt_desc_attr(&d) | 2), .limit = bt_desc_limit(&d),
		.base = new_base };
	bt_task_enter(cpu, &t, nested);
	if (to->cr3 != 0 && (cpu->cr0 & X86_CR0_PG))
		bt_cr3_load(cpu, t.cr3);
	bt_task_load_segs(cpu, &t, ext);
	if (ev != NULL && ev->has_error)
		bt_task_push_error(cpu, to, ev->error);
	if (t.ip > cpu->seg[X86_CS].limit)
		bt_raise_error(cpu, X86_GP, 0);
	if (t.trap) {
		cpu->dr6_pending |= BIT(15); /* BT: the TSS asked for a debug trap */
		bt_attn_set(cpu, BT_ATTN_STEP);
	}
}
