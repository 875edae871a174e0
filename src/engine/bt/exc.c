/*
 * Delivery of exceptions, interrupts and software interrupts: SDM 3, chapter 6 (6.12 to 6.14 for
 * the three forms of the IDT), 20.1.4 and 20.3 (real and virtual-8086 mode).
 *
 * Everything that can fault comes before the first change of a register, so a fault met on the way
 * finds the machine as it was and can be delivered in its place.
 */
#include "engine/bt/exc.h"

#include "engine/bt/mmu.h"
#include "engine/bt/run.h"
#include "engine/bt/sys.h"
#include "engine/bt/vec.h"

#ifdef __SANITIZE_ADDRESS__
#define BT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BT_ASAN 1
#endif
#endif

const struct bt_op bt_op_none;

void
bt_raise_fault(struct bt_cpu *cpu, enum x86_vector vector, bool has_error, uint32_t error)
{
	cpu->fault = (struct bt_fault){ .vector = (uint8_t)vector, .has_error = has_error,
		.error = error };
#ifdef BT_ASAN
	/* Its longjmp() uses vector registers. */
	bt_fpu_park(cpu);
#endif
	longjmp(cpu->on_fault, 1);
}

/* --- Faults --- */

/* SDM 3, table 6-4 */
enum bt_fault_class { BT_BENIGN, BT_CONTRIBUTORY, BT_PAGE_FAULT, BT_DOUBLE_FAULT };

static enum bt_fault_class
bt_event_class(const struct bt_event *ev)
{
	if (ev->kind != BT_EVENT_EXC)
		return BT_BENIGN;
	switch (ev->vector) {
	case X86_DE: case X86_TS: case X86_NP: case X86_SSF: case X86_GP:
		return BT_CONTRIBUTORY;
	case X86_PF:
		return BT_PAGE_FAULT;
	case X86_DF:
		return BT_DOUBLE_FAULT;
	default:
		return BT_BENIGN;
	}
}

void
bt_event_fault(struct bt_cpu *cpu)
{
	struct bt_event second = { .kind = BT_EVENT_EXC, .vector = cpu->fault.vector,
		.has_error = cpu->fault.has_error, .error = cpu->fault.error };
	enum bt_fault_class a = bt_event_class(&cpu->event), b = bt_event_class(&second);

	bt_window_abandon(cpu);
	if (cpu->event.kind == BT_EVENT_NONE) {
		/* RIP passed the instruction when it began; the instruction did not happen, nor did
		 * what breakpoints saw of it. */
		cpu->r[BT_REG_RIP] -= cpu->op->len;
		cpu->dr6_pending = 0;
	} else if (a == BT_DOUBLE_FAULT && b != BT_BENIGN) {
		cpu->event.kind = BT_EVENT_NONE;
		cpu->activity = X86_SHUTDOWN;
		return;
	} else if ((a == BT_CONTRIBUTORY && b == BT_CONTRIBUTORY) ||
	    (a == BT_PAGE_FAULT && b != BT_BENIGN)) {
		/* SDM 3, table 6-5 */
		second = (struct bt_event){ .kind = BT_EVENT_EXC, .vector = X86_DF,
			.has_error = true };
	}
	cpu->event = second;
}

/* --- Common to all forms --- */

/* Whether the gate's DPL counts. */
static bool
bt_event_soft(const struct bt_event *ev)
{
	return ev->kind == BT_EVENT_SOFT_INT || ev->kind == BT_EVENT_SOFT_EXC;
}

/* The EXT bit of error codes that faults on the way push (SDM 3, 6.13). */
static int
bt_event_ext(const struct bt_event *ev)
{
	return !bt_event_soft(ev);
}

static uint32_t
bt_idt_error(const struct bt_event *ev)
{
	return ev->vector * 8u + 2 + (unsigned)bt_event_ext(ev);
}

/* EFLAGS as the handler finds it on its stack. RF is set for faults, so that an instruction breakpoint
 * does not hit again when the instruction is restarted; a debug exception's handler does that itself
 * (SDM 3, 17.3.1.1). */
static uint32_t
bt_event_flags(const struct bt_cpu *cpu, const struct bt_event *ev)
{
	uint32_t fl = bt_eflags(cpu) & ~X86_FL_RF;
	bool fault = ev->kind == BT_EVENT_EXC && ev->vector != X86_DB && ev->vector != X86_DF &&
	    ev->vector != X86_MC;

	return fault || bt_rf_live(cpu) ? fl | X86_FL_RF : fl;
}

/* The handler's flags; interrupt gates also clear IF. */
static void
bt_event_set_flags(struct bt_cpu *cpu, bool interrupt_gate)
{
	bt_eflags_write(cpu, 0,
	    X86_FL_TF | X86_FL_NT | X86_FL_RF | X86_FL_VM | (interrupt_gate ? X86_FL_IF : 0));
}

/* --- Real mode --- */

static void
bt_event_real(struct bt_cpu *cpu, const struct bt_event *ev)
{
	uint32_t off = ev->vector * 4u;
	struct bt_stack st;
	uint32_t entry;

	if (off + 3 > cpu->idtr.limit)
		bt_raise_error(cpu, X86_GP, bt_idt_error(ev));
	entry = (uint32_t)bt_sys_load(cpu, (cpu->idtr.base + off) & cpu->la_mask, 4);
	bt_stack_current(cpu, &st);
	bt_stack_push(cpu, &st, 2, bt_event_flags(cpu, ev) & 0xffff);
	bt_stack_push(cpu, &st, 2, cpu->seg[X86_CS].selector);
	bt_stack_push(cpu, &st, 2, cpu->r[BT_REG_RIP] & 0xffff);
	bt_stack_commit(cpu, &st);
	bt_seg_set_real(cpu, X86_CS, (uint16_t)(entry >> 16));
	cpu->r[BT_REG_RIP] = entry & 0xffff;
	bt_eflags_write(cpu, 0, X86_FL_TF | X86_FL_IF | X86_FL_RF | X86_FL_AC);
	bt_mode_update(cpu);
}

/* --- Long mode --- */

static void
bt_event_long(struct bt_cpu *cpu, const struct bt_event *ev)
{
	uint32_t off = ev->vector * 16u, flags = bt_event_flags(cpu, ev);
	int ext = bt_event_ext(ev), cpl = cpu->cpl;
	uint64_t lo, offset, sp = cpu->r[X86_RSP];
	uint16_t ss = cpu->seg[X86_SS].selector, sel;
	unsigned type, ist;
	struct bt_stack st;
	struct bt_desc d, ss_desc;

	if (off + 15 > cpu->idtr.limit)
		bt_raise_error(cpu, X86_GP, bt_idt_error(ev));
	lo = bt_sys_load(cpu, cpu->idtr.base + off, 8);
	offset = BITS(lo, 0, 16) | BITS(lo, 48, 16) << 16 |
	    (uint64_t)(uint32_t)bt_sys_load(cpu, cpu->idtr.base + off + 8, 4) << 32;
	type = (unsigned)BITS(lo, 40, 5);
	if (type != X86_SYS_INT32 && type != X86_SYS_TRAP32)
		bt_raise_error(cpu, X86_GP, bt_idt_error(ev));
	if (bt_event_soft(ev) && BITS(lo, 45, 2) < cpu->cpl)
		bt_raise_error(cpu, X86_GP, bt_idt_error(ev));
	if (!BITS(lo, 47, 1))
		bt_raise_error(cpu, X86_NP, bt_idt_error(ev));
	sel = (uint16_t)BITS(lo, 16, 16);
	ist = (unsigned)BITS(lo, 32, 3);

	if (BT_SEL_NULL(sel))
		bt_raise_error(cpu, X86_GP, (uint32_t)ext);
	if (!bt_desc_load(cpu, sel, 8, &d) || !bt_desc_is_code(&d) || bt_desc_is_system(&d) ||
	    bt_desc_dpl(&d) > cpu->cpl ||
	    (bt_desc_attr(&d) & (X86_SEG_L | X86_SEG_DB)) != X86_SEG_L)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(sel) | (uint32_t)ext);
	if (!bt_desc_present(&d))
		bt_raise_error(cpu, X86_NP, BT_SEL_ERR(sel) | (uint32_t)ext);
	if (!(bt_desc_attr(&d) & X86_SEG_EC))
		cpl = (int)bt_desc_dpl(&d);

	if (cpl != cpu->cpl || ist != 0)
		bt_stack_inner(cpu, cpl, (int)ist, ext, &st, &ss_desc);
	else
		bt_stack_current(cpu, &st);
	if (cpu->code_size != 8 && !st.inner) {
		/* Compatibility mode at level 0, too, delivers on the 64-bit stack pointer. */
		st.sp = sp;
		st.mask = UINT64_MAX;
		st.inner = st.long_mode = true;
	}
	st.sp &= ~15ull;
	if (!bt_canonical(cpu, offset))
		bt_raise_error(cpu, X86_GP, (uint32_t)ext);
	bt_stack_push(cpu, &st, 8, ss);
	bt_stack_push(cpu, &st, 8, sp);
	bt_stack_push(cpu, &st, 8, flags);
	bt_stack_push(cpu, &st, 8, cpu->seg[X86_CS].selector);
	bt_stack_push(cpu, &st, 8, cpu->r[BT_REG_RIP]);
	if (ev->has_error)
		bt_stack_push(cpu, &st, 8, ev->error);

	bt_desc_set_accessed(cpu, &d);
	if (cpl != cpu->cpl)
		bt_seg_set_null(cpu, X86_SS, (uint16_t)cpl);
	bt_event_set_flags(cpu, type == X86_SYS_INT32);
	bt_enter_code(cpu, sel, &d, cpl, offset);
	bt_stack_commit(cpu, &st);
}

/* --- Protected mode --- */

/* What a gate leads to, checked. */
struct bt_gate_target {
	uint16_t sel;
	struct bt_desc d;
	int cpl;
	uint32_t offset;
	int size; /* of what is pushed */
};

static void
bt_gate_code(struct bt_cpu *cpu, uint64_t gate, unsigned type, int ext, struct bt_gate_target *t)
{
	t->sel = (uint16_t)BITS(gate, 16, 16);
	t->size = type >= X86_SYS_INT32 ? 4 : 2;
	t->offset = (uint32_t)BITS(gate, 0, 16);
	if (t->size == 4)
		t->offset |= (uint32_t)BITS(gate, 48, 16) << 16;
	if (BT_SEL_NULL(t->sel))
		bt_raise_error(cpu, X86_GP, (uint32_t)ext);
	if (!bt_desc_load(cpu, t->sel, 8, &t->d) || bt_desc_is_system(&t->d) ||
	    !bt_desc_is_code(&t->d) || bt_desc_dpl(&t->d) > cpu->cpl)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(t->sel) | (uint32_t)ext);
	if (!bt_desc_present(&t->d))
		bt_raise_error(cpu, X86_NP, BT_SEL_ERR(t->sel) | (uint32_t)ext);
	t->cpl = bt_desc_attr(&t->d) & X86_SEG_EC ? cpu->cpl : (int)bt_desc_dpl(&t->d);
	/* Out of virtual-8086 mode leads only to level 0. */
	if (cpu->vm86 && t->cpl != 0)
		bt_raise_error(cpu, X86_GP, BT_SEL_ERR(t->sel) | (uint32_t)ext);
}

/* Pushes what IRET takes back. */
static void
bt_gate_push(struct bt_cpu *cpu, const struct bt_event *ev, const struct bt_gate_target *t,
    struct bt_stack *st, uint32_t flags)
{
	static const uint8_t vm86_order[] = { X86_GS, X86_FS, X86_DS, X86_ES };

	if (cpu->vm86)
		for (unsigned i = 0; i < ARRAY_SIZE(vm86_order); i++)
			bt_stack_push(cpu, st, t->size, cpu->seg[vm86_order[i]].selector);
	if (st->inner) {
		bt_stack_push(cpu, st, t->size, cpu->seg[X86_SS].selector);
		bt_stack_push(cpu, st, t->size, cpu->r[X86_RSP]);
	}
	bt_stack_push(cpu, st, t->size, flags);
	bt_stack_push(cpu, st, t->size, cpu->seg[X86_CS].selector);
	bt_stack_push(cpu, st, t->size, cpu->r[BT_REG_RIP]);
	if (ev->has_error)
		bt_stack_push(cpu, st, t->size, ev->error);
}

static void
bt_event_protected(struct bt_cpu *cpu, const struct bt_event *ev)
{
	uint32_t off = ev->vector * 8u, flags = bt_event_flags(cpu, ev);
	int ext = bt_event_ext(ev);
	struct bt_gate_target t;
	struct bt_desc ss_desc;
	struct bt_stack st;
	unsigned type;
	uint64_t gate;

	if (off + 7 > cpu->idtr.limit)
		bt_raise_error(cpu, X86_GP, bt_idt_error(ev));
	gate = bt_sys_load(cpu, (cpu->idtr.base + off) & cpu->la_mask, 8);
	type = (unsigned)BITS(gate, 40, 5);
	if (type != X86_SYS_TASK_GATE && (type & ~9u) != X86_SYS_INT16)
		bt_raise_error(cpu, X86_GP, bt_idt_error(ev));
	if (bt_event_soft(ev) && BITS(gate, 45, 2) < cpu->cpl)
		bt_raise_error(cpu, X86_GP, bt_idt_error(ev));
	if (!BITS(gate, 47, 1))
		bt_raise_error(cpu, X86_NP, bt_idt_error(ev));
	if (type == X86_SYS_TASK_GATE) {
		bt_task_switch(cpu, (uint16_t)BITS(gate, 16, 16), BT_TASK_EVENT, ext, ev);
		return;
	}
	bt_gate_code(cpu, gate, type, ext, &t);
	if (t.cpl != cpu->cpl)
		bt_stack_inner(cpu, t.cpl, 0, ext, &st, &ss_desc);
	else
		bt_stack_current(cpu, &st);
	if (t.offset > bt_desc_limit(&t.d))
		bt_raise_error(cpu, X86_GP, (uint32_t)ext);
	bt_gate_push(cpu, ev, &t, &st, flags);

	bt_desc_set_accessed(cpu, &t.d);
	if (cpu->vm86)
		for (int seg = X86_ES; seg <= X86_GS; seg++)
			if (seg != X86_CS && seg != X86_SS)
				bt_seg_set_null(cpu, seg, 0);
	if (st.inner)
		bt_seg_set(cpu, X86_SS, st.ss.selector, &ss_desc);
	bt_event_set_flags(cpu, !(type & 1));
	bt_enter_code(cpu, t.sel, &t.d, t.cpl, t.offset);
	bt_stack_commit(cpu, &st);
}

/* --- Entry points --- */

static void
bt_event_dispatch(struct bt_cpu *cpu, const struct bt_event *ev)
{
	if (cpu->lma)
		bt_event_long(cpu, ev);
	else if (cpu->pe)
		bt_event_protected(cpu, ev);
	else
		bt_event_real(cpu, ev);
}

void
bt_event_deliver(struct bt_cpu *cpu)
{
	cpu->op = &bt_op_none;
	bt_event_dispatch(cpu, &cpu->event);
	if (cpu->event.kind == BT_EVENT_NMI)
		cpu->nmi_blocked = 1;
	if (cpu->event.kind == BT_EVENT_EXC && cpu->event.vector == X86_DB)
		cpu->dr7 &= ~(uint64_t)BIT(13); /* GD: the handler may use debug registers */
	cpu->event.kind = BT_EVENT_NONE;
}

void
bt_int_soft(struct bt_cpu *cpu, uint8_t vector, enum bt_event_kind kind)
{
	struct bt_event ev = { .kind = (uint8_t)kind, .vector = vector };

	if (kind == BT_EVENT_SOFT_INT && cpu->vm86 && (cpu->eflags & X86_FL_IOPL) != X86_FL_IOPL)
		bt_raise_error(cpu, X86_GP, 0);
	cpu->trap_skip = 1;
	bt_event_dispatch(cpu, &ev);
}
