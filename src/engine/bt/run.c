/*
 * The run loop: blocks one after the other, and between them whatever asks for attention.
 *
 * The hot path knows nothing but the jump table and cpu->attn. All else (interrupts, single-step,
 * breakpoints, shadows, mail) sets a bit there, which ends the block after the current
 * instruction, and is looked at here. An interrupt that comes while IF is 0 leaves only irq_hint set;
 * setting IF looks at that (bt_irq_enabled()), so IF may change as often as it likes for nothing.
 */
#include "engine/bt/run.h"

#include "engine/bt/block.h"
#include "engine/bt/exc.h"
#include "engine/bt/kvmclock.h"
#include "engine/bt/mem.h"
#include "engine/bt/phys.h"
#include "engine/bt/vec.h"

/* DR6 (SDM 3, 17.2.3) */
#define BT_DR6_BS BIT(14)
/* DR7: the type and length fields of breakpoint i (SDM 3, 17.2.4) */
#define BT_DR7_ON(dr7, i) (((dr7) >> (2 * (i))) & 3)
#define BT_DR7_RW(dr7, i) (((dr7) >> (16 + 4 * (i))) & 3)
#define BT_DR7_LEN(dr7, i) (((dr7) >> (18 + 4 * (i))) & 3)
enum bt_dr7_rw { BT_DR7_EXEC, BT_DR7_WRITE, BT_DR7_IO, BT_DR7_ACCESS };

/* --- Breakpoints --- */

static unsigned
bt_debug_len(const struct bt_cpu *cpu, int i)
{
	static const uint8_t len[] = { 1, 2, 8, 4 };

	return len[BT_DR7_LEN(cpu->dr7, i)];
}

/* Breakpoints of which [addr, addr + size) touches a byte; kinds is a mask of enum bt_dr7_rw. */
static uint32_t
bt_debug_match(const struct bt_cpu *cpu, uint64_t addr, uint64_t size, unsigned kinds)
{
	uint32_t hit = 0;

	for (int i = 0; i < 4; i++) {
		uint64_t len = bt_debug_len(cpu, i), start = cpu->dr[i] & ~(len - 1);

		if (!BT_DR7_ON(cpu->dr7, i) || !(kinds & BIT(BT_DR7_RW(cpu->dr7, i))))
			continue;
		if (addr - start < len || start - addr < size)
			hit |= BIT(i);
	}
	return hit;
}

void
bt_debug_update(struct bt_cpu *cpu)
{
	uint8_t data = 0, code = 0, io = 0;

	for (int i = 0; i < 4; i++) {
		if (!BT_DR7_ON(cpu->dr7, i))
			continue;
		switch (BT_DR7_RW(cpu->dr7, i)) {
		case BT_DR7_EXEC: code = 1; break;
		case BT_DR7_IO: io = (cpu->cr4 & X86_CR4_DE) != 0; break;
		default: data = 1; break;
		}
	}
	/* Pages with a breakpoint must leave the TLB, or may come back to it. */
	if (data || cpu->watch_data)
		bt_tlb_flush_all(cpu);
	cpu->watch_data = data;
	cpu->watch_code = code;
	cpu->watch_io = io;
	if (code)
		bt_attn_set(cpu, BT_ATTN_STEP);
}

bool
bt_debug_page(const struct bt_cpu *cpu, uint64_t la)
{
	return bt_debug_match(cpu, la & ~0xfffull, 0x1000,
	    BIT(BT_DR7_WRITE) | BIT(BT_DR7_ACCESS)) != 0;
}

static void
bt_debug_hit(struct bt_cpu *cpu, uint32_t hit)
{
	if (hit == 0)
		return;
	cpu->dr6_pending |= hit;
	bt_attn_set(cpu, BT_ATTN_STEP);
}

void
bt_debug_data(struct bt_cpu *cpu, uint64_t la, unsigned size, bool write)
{
	bt_debug_hit(cpu,
	    bt_debug_match(cpu, la, size,
		BIT(BT_DR7_ACCESS) | (write ? BIT(BT_DR7_WRITE) : 0)));
}

/* --- The machine --- */

/* What surrounds every call of the machine: the guest's vector state is put away, and nobody waits for
 * this vCPU meanwhile. */
static void
bt_machine_enter(struct bt_cpu *cpu)
{
	bt_fpu_park(cpu);
	bt_cpu_leave(cpu);
}

static void
bt_machine_leave(struct bt_cpu *cpu)
{
	bt_cpu_enter(cpu);
}

static uint64_t
bt_size_mask(int size)
{
	return size >= 8 ? UINT64_MAX : (1ull << (8 * size)) - 1;
}

uint32_t
bt_pio_read(struct bt_cpu *cpu, uint16_t port, int size)
{
	const struct engine_vm_params *p = &cpu->vm->params;
	uint32_t val;

	bt_machine_enter(cpu);
	val = p->machine->pio_read(p->ctx, cpu->id, port, size);
	bt_machine_leave(cpu);
	if (unlikely(cpu->watch_io))
		bt_debug_hit(cpu, bt_debug_match(cpu, port, (uint64_t)size, BIT(BT_DR7_IO)));
	return val & (uint32_t)bt_size_mask(size);
}

void
bt_pio_write(struct bt_cpu *cpu, uint16_t port, int size, uint32_t val)
{
	const struct engine_vm_params *p = &cpu->vm->params;

	bt_machine_enter(cpu);
	p->machine->pio_write(p->ctx, cpu->id, port, size, val & (uint32_t)bt_size_mask(size));
	bt_machine_leave(cpu);
	if (unlikely(cpu->watch_io))
		bt_debug_hit(cpu, bt_debug_match(cpu, port, (uint64_t)size, BIT(BT_DR7_IO)));
}

uint64_t
bt_mmio_read(struct bt_cpu *cpu, uint64_t gpa, int size)
{
	const struct engine_vm_params *p = &cpu->vm->params;
	uint64_t val;

	bt_machine_enter(cpu);
	val = p->machine->mmio_read(p->ctx, cpu->id, gpa, size);
	bt_machine_leave(cpu);
	return val & bt_size_mask(size);
}

void
bt_mmio_write(struct bt_cpu *cpu, uint64_t gpa, int size, uint64_t val)
{
	const struct engine_vm_params *p = &cpu->vm->params;

	bt_machine_enter(cpu);
	p->machine->mmio_write(p->ctx, cpu->id, gpa, size, val & bt_size_mask(size));
	bt_machine_leave(cpu);
	/* Perhaps it was the local APIC: an EOI or a lower task priority lets more through. */
	bt_irq_recheck(cpu);
}

/* Takes the interrupt that is to be delivered now, or -1. */
static int
bt_machine_ack(struct bt_cpu *cpu)
{
	const struct engine_vm_params *p = &cpu->vm->params;
	int vector;

	/* Cleared first: whoever raises something during the call sets it again. */
	atomic_store(&cpu->irq_hint, 0);
	bt_machine_enter(cpu);
	vector = p->machine->intr_ack(p->ctx, cpu->id);
	bt_machine_leave(cpu);
	/* There may be more behind it. */
	if (vector >= 0)
		atomic_store(&cpu->irq_hint, 1);
	return vector;
}

/* --- Blocks --- */

/* Counts the instructions of a block that was left before its end; done is false for one that faulted. */
static void
bt_run_settle(struct bt_cpu *cpu, struct bt_block *b, bool done)
{
	const struct bt_op *first = bt_block_ops(b);

	if (cpu->op >= first && cpu->op <= b->last)
		cpu->insns += (uint64_t)(cpu->op - first) + done;
	else if (done)
		cpu->insns += b->count;
}

static void
bt_run_block(struct bt_cpu *cpu, struct bt_block *b)
{
	const struct bt_op *op = bt_block_ops(b);

	cpu->blocks->current = b;
	cpu->op = op;
	cpu->r[BT_REG_RIP] += op->len;
	op->fn(cpu, op);
	if (likely(cpu->op == b->last))
		cpu->insns += b->count;
	else
		bt_run_settle(cpu, b, true);
}

/* The block at la, of which *prev, the last to run, does not know that it follows. *prev becomes NULL when
 * it may be gone: decoding may drop every block. */
static struct bt_block *
bt_run_lookup(struct bt_cpu *cpu, struct bt_block **prev, uint64_t la)
{
	struct bt_block *b = bt_jump_find(cpu->blocks, la, cpu->block_key);

	if (unlikely(b == NULL)) {
		*prev = NULL;
		return bt_block_find(cpu);
	}
	if (*prev != NULL && (*prev)->kept)
		bt_block_link(cpu->blocks, *prev, b, la);
	return b;
}

static void
bt_run_blocks(struct bt_cpu *cpu)
{
	struct bt_block_cache *c = cpu->blocks;
	struct bt_block *b = NULL, *prev;

	while (likely(atomic_load_explicit(&cpu->attn, memory_order_relaxed) == 0)) {
		uint64_t la = bt_code_la(cpu);

		prev = b;
		b = prev != NULL ? bt_block_next(c, prev, la) : NULL;
		if (unlikely(b == NULL)) {
			b = bt_run_lookup(cpu, &prev, la);
			if (unlikely(b == NULL))
				continue;
		}
		bt_run_block(cpu, b);
		if (unlikely(cpu->op == &bt_op_none)) {
			/* The block was forgotten; so must be that it followed prev. */
			if (prev != NULL)
				prev->succ_key = 0;
			b = NULL;
		}
	}
}

/* --- One instruction at a time --- */

/* The instruction at RIP, with single-step and instruction breakpoints. BT_ATTN_STEP is set, so what it
 * runs is left after one instruction. */
static void
bt_run_step(struct bt_cpu *cpu)
{
	uint64_t rip = cpu->r[BT_REG_RIP];
	bool trap = cpu->eflags & X86_FL_TF;
	bool rf = bt_rf_live(cpu), repeated;
	struct bt_block *b;

	if (cpu->watch_code && !rf && bt_shadow_live(cpu) != BT_SHADOW_MOV_SS) {
		uint32_t hit = bt_debug_match(cpu, bt_code_la(cpu), 1, BIT(BT_DR7_EXEC));

		if (hit != 0) {
			cpu->dr6 |= hit;
			cpu->event = (struct bt_event){ .kind = BT_EVENT_EXC, .vector = X86_DB };
			return;
		}
	}
	cpu->trap_skip = 0;
	b = bt_block_single(cpu);
	repeated = bt_block_ops(b)->flags & (BT_OP_REP | BT_OP_REPNE);
	bt_run_block(cpu, b);
	/* A repeated string instruction that is not finished keeps both; a jump to itself does not. */
	if (cpu->r[BT_REG_RIP] != rip || !repeated) {
		if (rf && cpu->rf_rip == rip)
			cpu->eflags &= ~X86_FL_RF;
		if (cpu->shadow_rip == rip)
			cpu->shadow = 0;
	}
	if (trap && !cpu->trap_skip && bt_shadow_live(cpu) != BT_SHADOW_MOV_SS)
		cpu->dr6_pending |= BT_DR6_BS;
}

/* Whether there is a reason to go on stepping. */
static bool
bt_run_stepping(const struct bt_cpu *cpu)
{
	return (cpu->eflags & X86_FL_TF) || cpu->watch_code || cpu->dr6_pending != 0;
}

/* --- Attention --- */

/* An NMI or interrupt, if one may be taken now; step is set when only the shadow is in the way. */
static void
bt_run_interrupt(struct bt_cpu *cpu, bool *step)
{
	bool nmi = atomic_load(&cpu->nmi_pending) && !cpu->nmi_blocked;
	bool irq = (cpu->eflags & X86_FL_IF) && atomic_load(&cpu->irq_hint);
	int vector;

	if (!nmi && !irq)
		return;
	if (bt_shadow_live(cpu) && cpu->activity == X86_RUNNING) {
		bt_attn_set(cpu, BT_ATTN_IRQ);
		*step = true;
		return;
	}
	if (nmi) {
		atomic_store(&cpu->nmi_pending, 0);
		cpu->event = (struct bt_event){ .kind = BT_EVENT_NMI, .vector = X86_NMI };
		if (irq)
			bt_attn_set(cpu, BT_ATTN_IRQ);
		return;
	}
	vector = bt_machine_ack(cpu);
	if (vector >= 0)
		cpu->event = (struct bt_event){ .kind = BT_EVENT_EXT_INT,
			.vector = (uint8_t)vector };
}

/* Looks at everything in attn. False when vcpu_run() is to return, with exit filled in. */
static bool
bt_run_attend(struct bt_cpu *cpu, struct engine_exit *exit)
{
	uint32_t attn = atomic_load(&cpu->attn);
	bool step = false;

	cpu->op = &bt_op_none;
	if (attn & BT_ATTN_FLUSH) {
		atomic_fetch_and(&cpu->attn, ~BT_ATTN_FLUSH);
		bt_mail_read(cpu);
	}
	if (attn & BT_ATTN_STOP) {
		atomic_fetch_and(&cpu->attn, ~BT_ATTN_STOP);
		exit->reason = ENGINE_EXIT_KICK;
		return false;
	}
	/* A debug trap goes before interrupts (SDM 3, table 6-2); after MOV SS it waits. */
	if (cpu->dr6_pending != 0 && bt_shadow_live(cpu) != BT_SHADOW_MOV_SS) {
		cpu->dr6 |= cpu->dr6_pending;
		cpu->dr6_pending = 0;
		cpu->event = (struct bt_event){ .kind = BT_EVENT_EXC, .vector = X86_DB };
		return true;
	}
	if (attn & BT_ATTN_IRQ) {
		atomic_fetch_and(&cpu->attn, ~BT_ATTN_IRQ);
		bt_run_interrupt(cpu, &step);
		if (cpu->event.kind != BT_EVENT_NONE)
			return true;
	}
	if (step || bt_run_stepping(cpu)) {
		bt_attn_set(cpu, BT_ATTN_STEP);
		bt_run_step(cpu);
	} else if (attn & BT_ATTN_STEP) {
		atomic_fetch_and(&cpu->attn, ~BT_ATTN_STEP);
	}
	return true;
}

/* Not running: returns true when an event wakes it. */
static bool
bt_run_asleep(struct bt_cpu *cpu, struct engine_exit *exit)
{
	bool step = false;

	if (cpu->activity == X86_SHUTDOWN) {
		exit->reason = ENGINE_EXIT_SHUTDOWN;
		return false;
	}
	exit->reason = ENGINE_EXIT_HALT;
	exit->intr_enabled = cpu->eflags & X86_FL_IF;
	if (atomic_load(&cpu->attn) & BT_ATTN_STOP) {
		atomic_fetch_and(&cpu->attn, ~BT_ATTN_STOP);
		exit->reason = ENGINE_EXIT_KICK;
		return false;
	}
	if (cpu->activity != X86_HALTED)
		return false;
	if (cpu->dr6_pending != 0) {
		cpu->activity = X86_RUNNING;
		return true;
	}
	/* Ask whatever the hint says: halting is rare, and a lost interrupt would be for ever. */
	atomic_store(&cpu->irq_hint, 1);
	bt_run_interrupt(cpu, &step);
	if (cpu->event.kind == BT_EVENT_NONE)
		return false;
	cpu->activity = X86_RUNNING;
	return true;
}

void
bt_run(struct bt_cpu *cpu, struct engine_exit *exit)
{
	*exit = (struct engine_exit){ .reason = ENGINE_EXIT_KICK };
	cpu->op = &bt_op_none;
	bt_cpu_enter(cpu);
	if (unlikely(cpu->kvmclock_stale))
		bt_kvmclock_update(cpu);
	/* Every fault comes back here; nothing below keeps state in locals across it. */
	if (setjmp(cpu->on_fault) != 0) {
		if (cpu->event.kind == BT_EVENT_NONE && cpu->op != &bt_op_none)
			bt_run_settle(cpu, cpu->blocks->current, false);
		bt_event_fault(cpu);
	}
	for (;;) {
		if (cpu->activity != X86_RUNNING && !bt_run_asleep(cpu, exit))
			break;
		if (cpu->event.kind != BT_EVENT_NONE)
			bt_event_deliver(cpu);
		else if (atomic_load_explicit(&cpu->attn, memory_order_relaxed) == 0)
			bt_run_blocks(cpu);
		else if (!bt_run_attend(cpu, exit))
			break;
	}
	bt_fpu_park(cpu);
	bt_cpu_leave(cpu);
}
