/*
 * Control and debug registers, TLB and cache instructions, halting, software interrupts.
 *
 * SDM 2, each instruction; SDM 3, 2.5 (control registers), 4.10.4 (invalidation), 9.8.5 and 4.1.2 (mode
 * changes), 17.2 (debug registers).
 */
#include "engine/bt/exc.h"
#include "engine/bt/sys_ops.h"
#include "engine/bt/vec.h"

#define BT_CR0_VALID                                                                               \
	(X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | \
	    X86_CR0_AM | X86_CR0_NW | X86_CR0_CD | X86_CR0_PG)
/* VME, PVI and PCE are left out: nothing of them is offered but PCE, which guards nothing here. */
#define BT_CR4_VALID                                                                               \
	(X86_CR4_TSD | X86_CR4_DE | X86_CR4_PSE | X86_CR4_PAE | X86_CR4_MCE | X86_CR4_PGE |        \
	    X86_CR4_PCE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_UMIP | X86_CR4_LA57 |      \
	    X86_CR4_FSGSBASE | X86_CR4_PCIDE | X86_CR4_OSXSAVE | X86_CR4_SMEP | X86_CR4_SMAP)

static bool
bt_ctl_pae_paging(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
	return (cr0 & X86_CR0_PG) && (cr4 & X86_CR4_PAE) && !(efer & X86_EFER_LMA);
}

bool
bt_pdptes_load(struct bt_cpu *cpu, uint64_t cr3)
{
	/* Reserved in a PDPTE: 2:1, 8:5 and everything above MAXPHYADDR (SDM 3, table 4-8). */
	uint64_t reserved = 0x1e6 | ~((1ull << x86_cpuid_phys_bits(cpu->vm->cpuid)) - 1);
	uint64_t pdpte[4];

	for (unsigned i = 0; i < 4; i++) {
		pdpte[i] = bt_phys_load(cpu, (cr3 & 0xffffffe0) + 8 * i, 8);
		if ((pdpte[i] & X86_PTE_P) && (pdpte[i] & reserved))
			return false;
	}
	for (unsigned i = 0; i < 4; i++)
		cpu->pdpte[i] = pdpte[i];
	return true;
}

/* Turns long mode on or off as CR0.PG and EFER.LME ask; #GP(0) for what SDM 3, 4.1.2 forbids. */
static void
bt_ctl_check_paging(struct bt_cpu *cpu, uint64_t val, uint64_t *efer)
{
	bool was = cpu->cr0 & X86_CR0_PG, is = val & X86_CR0_PG;

	*efer = cpu->efer;
	if (!was && is && (cpu->efer & X86_EFER_LME)) {
		bool tss16 = (cpu->tr.attr & X86_SEG_P) && !(cpu->tr.attr & 8);

		if (!(cpu->cr4 & X86_CR4_PAE) || (cpu->seg[X86_CS].attr & X86_SEG_L) || tss16)
			bt_raise_error(cpu, X86_GP, 0);
		*efer |= X86_EFER_LMA;
	} else if (was && !is) {
		if (cpu->code_size == 8 || (cpu->cr4 & X86_CR4_PCIDE))
			bt_raise_error(cpu, X86_GP, 0);
		*efer &= ~X86_EFER_LMA;
	}
}

void
bt_cr0_write(struct bt_cpu *cpu, uint64_t val)
{
	uint64_t changed, efer;

	if (val >> 32 != 0 || ((val & X86_CR0_PG) && !(val & X86_CR0_PE)) ||
	    ((val & X86_CR0_NW) && !(val & X86_CR0_CD)))
		bt_raise_error(cpu, X86_GP, 0);
	val = (val & BT_CR0_VALID) | X86_CR0_ET;
	changed = val ^ cpu->cr0;
	bt_ctl_check_paging(cpu, val, &efer);
	if ((changed & (X86_CR0_PG | X86_CR0_CD | X86_CR0_NW)) &&
	    bt_ctl_pae_paging(val, cpu->cr4, efer) && !bt_pdptes_load(cpu, cpu->cr3))
		bt_raise_error(cpu, X86_GP, 0);
	cpu->efer = efer;
	cpu->cr0 = val;
	bt_mode_update(cpu);
	bt_fpu_mode(cpu);
	if (changed & (X86_CR0_PG | X86_CR0_WP))
		bt_tlb_flush_all(cpu);
	if (changed & X86_CR0_PG)
		bt_tlb_switch(cpu, true);
}

void
bt_cr3_load(struct bt_cpu *cpu, uint64_t val)
{
	bool keep = false;

	if (cpu->lma) {
		uint64_t noflush = cpu->cr4 & X86_CR4_PCIDE ? BIT64(63) : 0;

		if ((val & ~noflush) >> x86_cpuid_phys_bits(cpu->vm->cpuid) != 0)
			bt_raise_error(cpu, X86_GP, 0);
		keep = val & noflush;
		val &= ~noflush;
	} else {
		val = (uint32_t)val;
		if (bt_ctl_pae_paging(cpu->cr0, cpu->cr4, cpu->efer) && !bt_pdptes_load(cpu, val))
			bt_raise_error(cpu, X86_GP, 0);
	}
	cpu->cr3 = val;
	bt_tlb_switch(cpu, !keep);
}

void
bt_cr4_write(struct bt_cpu *cpu, uint64_t val)
{
	uint64_t changed = val ^ cpu->cr4;
	/* What decides how entries are read or which of them count (SDM 3, 4.10.4.1). */
	uint64_t paging = X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_PCIDE | X86_CR4_SMEP |
	    X86_CR4_SMAP | X86_CR4_LA57;

	if (val & ~BT_CR4_VALID)
		bt_raise_error(cpu, X86_GP, 0);
	if (cpu->lma && ((changed & X86_CR4_LA57) || !(val & X86_CR4_PAE)))
		bt_raise_error(cpu, X86_GP, 0);
	if ((changed & val & X86_CR4_PCIDE) && (!cpu->lma || (cpu->cr3 & 0xfff)))
		bt_raise_error(cpu, X86_GP, 0);
	if ((changed & (X86_CR4_PSE | X86_CR4_PAE | X86_CR4_PGE | X86_CR4_SMEP)) &&
	    bt_ctl_pae_paging(cpu->cr0, val, cpu->efer) && !bt_pdptes_load(cpu, cpu->cr3))
		bt_raise_error(cpu, X86_GP, 0);
	cpu->cr4 = val;
	bt_mode_update(cpu);
	bt_fpu_mode(cpu);
	if (changed & paging)
		bt_tlb_flush_all(cpu);
	if (changed & X86_CR4_PCIDE)
		bt_tlb_switch(cpu, true);
	if (changed & X86_CR4_DE)
		bt_debug_update(cpu);
}

/* --- Control registers --- */

static uint64_t
bt_ctl_read_cr8(struct bt_cpu *cpu)
{
	bt_fpu_park(cpu);
	return cpu->vm->params.machine->cr8_read(cpu->vm->params.ctx, cpu->id);
}

static void
bt_ctl_write_cr8(struct bt_cpu *cpu, uint64_t val)
{
	if (val > 15)
		bt_raise_error(cpu, X86_GP, 0);
	bt_fpu_park(cpu);
	cpu->vm->params.machine->cr8_write(cpu->vm->params.ctx, cpu->id, (uint8_t)val);
	/* A lower priority may let something through. */
	bt_irq_recheck(cpu);
}

/* op->x: the number of the register; op->rm: the general register; op->osize: 4 or 8. */
static void
bt_sys_mov_from_cr(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t val;

	bt_sys_need_cpl0(cpu);
	switch (op->x) {
	case 0: val = cpu->cr0; break;
	case 2: val = cpu->cr2; break;
	case 3: val = cpu->cr3; break;
	case 4: val = cpu->cr4; break;
	default: val = bt_ctl_read_cr8(cpu); break;
	}
	bt_sys_reg_write(cpu, op->rm, op->osize, val);
	bt_next(cpu, op);
}

static void
bt_sys_mov_to_cr(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t val = op->osize == 8 ? *bt_reg64(cpu, op->rm) : *bt_reg32(cpu, op->rm);

	bt_sys_need_cpl0(cpu);
	switch (op->x) {
	case 0: bt_cr0_write(cpu, val); break;
	case 2: cpu->cr2 = val; break;
	case 3: bt_cr3_load(cpu, val); break;
	case 4: bt_cr4_write(cpu, val); break;
	default: bt_ctl_write_cr8(cpu, val); break;
	}
}

static void
bt_sys_clts(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_sys_need_cpl0(cpu);
	cpu->cr0 &= ~X86_CR0_TS;
	bt_fpu_mode(cpu);
	bt_next(cpu, op);
}

static void
bt_sys_lmsw(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t low = X86_CR0_PE | X86_CR0_MP | X86_CR0_EM | X86_CR0_TS;
	uint64_t val;

	bt_sys_need_cpl0(cpu);
	/* PE can be set this way, not cleared. */
	val = (bt_sys_rm16(cpu, op) & low) | (cpu->cr0 & X86_CR0_PE);
	bt_cr0_write(cpu, (cpu->cr0 & ~low) | val);
}

static void
bt_sys_smsw(struct bt_cpu *cpu, const struct bt_op *op)
{
	if ((cpu->cr4 & X86_CR4_UMIP) && cpu->cpl != 0)
		bt_raise_error(cpu, X86_GP, 0);
	bt_sys_rm_store16(cpu, op, cpu->cr0);
	bt_next(cpu, op);
}

/* --- Debug registers --- */

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE; DR7.GD turns any access into #DB. */
static int
bt_ctl_dr_number(struct bt_cpu *cpu, int n)
{
	if ((n == 4 || n == 5) && (cpu->cr4 & X86_CR4_DE))
		bt_raise(cpu, X86_UD);
	bt_sys_need_cpl0(cpu);
	if (cpu->dr7 & BIT(13)) {
		cpu->dr6 |= BIT(13);
		cpu->dr7 &= ~(uint64_t)BIT(13);
		bt_raise(cpu, X86_DB);
	}
	return n == 4 || n == 5 ? n + 2 : n;
}

static void
bt_sys_mov_from_dr(struct bt_cpu *cpu, const struct bt_op *op)
{
	int n = bt_ctl_dr_number(cpu, op->x);
	uint64_t val = n < 4 ? cpu->dr[n] : n == 6 ? cpu->dr6 : cpu->dr7;

	bt_sys_reg_write(cpu, op->rm, op->osize, val);
	bt_next(cpu, op);
}

static void
bt_sys_mov_to_dr(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t val = op->osize == 8 ? *bt_reg64(cpu, op->rm) : *bt_reg32(cpu, op->rm);
	int n = bt_ctl_dr_number(cpu, op->x);

	if (n >= 6 && val >> 32 != 0)
		bt_raise_error(cpu, X86_GP, 0);
	/* Reserved bits read as fixed values (SDM 3, figure 17-1). */
	if (n < 4)
		cpu->dr[n] = val;
	else if (n == 6)
		cpu->dr6 = (val & 0xe00f) | 0xffff0ff0;
	else
		cpu->dr7 = (val & 0xffff2fff) | 0x400;
	bt_debug_update(cpu);
}

/* --- TLB and caches --- */

static void
bt_sys_invlpg(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t la = (bt_ea(cpu, op) + cpu->sbase[op->seg]) & cpu->la_mask;

	bt_sys_need_cpl0(cpu);
	if (bt_canonical(cpu, la))
		bt_tlb_flush_page(cpu, la);
}

static void
bt_sys_invpcid(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t type = cpu->code_size == 8 ? *bt_reg64(cpu, op->reg) : *bt_reg32(cpu, op->reg);
	uint64_t ea = bt_ea(cpu, op), pcid, la;

	bt_sys_need_cpl0(cpu);
	pcid = bt_load(cpu, op->seg, ea, 8);
	la = bt_load(cpu, op->seg, ea + 8, 8);
	if (type > 3 || (type < 2 && pcid >> 12 != 0) ||
	    (type < 2 && pcid != 0 && !(cpu->cr4 & X86_CR4_PCIDE)) ||
	    (type == 0 && !bt_canonical(cpu, la)))
		bt_raise_error(cpu, X86_GP, 0);
	switch (type) {
	case 0:
		if (pcid == (cpu->cr4 & X86_CR4_PCIDE ? cpu->cr3 & 0xfff : 0))
			bt_tlb_flush_page(cpu, la);
		else
			bt_tlb_flush_pcid_page(cpu, (uint16_t)pcid, la);
		break;
	case 1: bt_tlb_flush_pcid(cpu, (uint16_t)pcid); break;
	default: bt_tlb_flush_all(cpu); break;
	}
}

/* Caches are the host's own business: nothing to write back or drop. */
static void
bt_sys_wbinvd(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_sys_need_cpl0(cpu);
	bt_next(cpu, op);
}

static void
bt_sys_clflush(struct bt_cpu *cpu, const struct bt_op *op)
{
	/* Checked like a byte load (SDM 2, CLFLUSH). */
	bt_probe(cpu, op->seg, bt_ea(cpu, op), 1, BT_READ);
	bt_next(cpu, op);
}

static void
bt_sys_clzero(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t mask = op->asize == 8 ? ~0ull : op->asize == 4 ? 0xffffffffull : 0xffffull;
	uint64_t ea = cpu->r[X86_RAX] & mask & ~63ull;
	struct bt_window w;

	bt_zero(bt_window_begin(cpu, &w, op->seg, ea, 64, BT_WRITE), 64);
	bt_window_end(cpu, &w);
	bt_next(cpu, op);
}

/* --- Halting, waiting, interrupts --- */

static void
bt_sys_hlt(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_sys_need_cpl0(cpu);
	cpu->activity = X86_HALTED;
	/* The run loop must look even if it knows the block that comes next. */
	bt_attn_set(cpu, BT_ATTN_IRQ);
}

static void
bt_sys_pause(struct bt_cpu *cpu, const struct bt_op *op)
{
	__asm__ volatile("pause");
	bt_next(cpu, op);
}

static void
bt_sys_serialize(struct bt_cpu *cpu, const struct bt_op *op)
{
}

void
bt_op_ud(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_raise(cpu, X86_UD);
}

static void
bt_sys_int(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_int_soft(cpu, (uint8_t)op->imm, BT_EVENT_SOFT_INT);
}

static void
bt_sys_int3(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_int_soft(cpu, X86_BP, BT_EVENT_SOFT_EXC);
}

static void
bt_sys_int1(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_int_soft(cpu, X86_DB, BT_EVENT_INT1);
}

static void
bt_sys_into(struct bt_cpu *cpu, const struct bt_op *op)
{
	if (cpu->fl & BT_FL_OF)
		bt_int_soft(cpu, X86_OF, BT_EVENT_SOFT_EXC);
}

/* --- Lowering --- */

static bool
bt_ctl_cr_exists(unsigned n)
{
	return n == 0 || n == 2 || n == 3 || n == 4 || n == 8;
}

/* Whether CPUID offers the instruction. */
static bool
bt_ctl_offered(struct bt_cpu *cpu, enum bt_id id)
{
	struct x86_cpuid_ctx ctx = { .apic_base = 0 };
	struct x86_cpuid_regs r;

	bt_fpu_park(cpu);
	if (id == BT_ID_SERIALIZE) {
		x86_cpuid_query(cpu->vm->cpuid, &ctx, 7, 0, &r);
		return r.edx & BIT(14);
	}
	x86_cpuid_query(cpu->vm->cpuid, &ctx, 0x80000008, 0, &r);
	return r.ebx & BIT(0); /* CLZERO */
}

static void
bt_ctl_lower_mov(const struct bt_insn *in, struct bt_op *op)
{
	bool cr = in->id == BT_ID_MOV_FROM_CR || in->id == BT_ID_MOV_TO_CR;
	/* LOCK MOV CR0 is CR8 on AMD's processors (APM 3, MOV CRn). */
	unsigned n = cr && in->lock && in->reg == 0 ? 8 : in->reg;

	op->x = (uint8_t)n;
	op->rm = BT_OFF(in->rm);
	op->osize = in->mode == 8 ? 8 : 4;
	if (cr ? !bt_ctl_cr_exists(n) : n > 7) {
		op->fn = bt_op_ud;
		return;
	}
	switch (in->id) {
	case BT_ID_MOV_FROM_CR: op->fn = bt_sys_mov_from_cr; break;
	case BT_ID_MOV_TO_CR: op->fn = bt_sys_mov_to_cr; break;
	case BT_ID_MOV_FROM_DR: op->fn = bt_sys_mov_from_dr; break;
	default: op->fn = bt_sys_mov_to_dr; break;
	}
	if (in->id == BT_ID_MOV_FROM_CR || in->id == BT_ID_MOV_FROM_DR)
		op->flags &= (uint8_t)~BT_OP_END;
}

void
bt_sys_ctl_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op)
{
	op->y = in->has_modrm && in->mod == 3 ? BT_SYS_RM_IS_REG : 0;
	op->flags |= BT_OP_END;
	switch (in->id) {
	case BT_ID_MOV_FROM_CR:
	case BT_ID_MOV_TO_CR:
	case BT_ID_MOV_FROM_DR:
	case BT_ID_MOV_TO_DR: bt_ctl_lower_mov(in, op); return;
	case BT_ID_LMSW: op->fn = bt_sys_lmsw; return;
	case BT_ID_INVLPG: op->fn = bt_sys_invlpg; return;
	case BT_ID_INVPCID: op->fn = bt_sys_invpcid; return;
	case BT_ID_HLT: op->fn = bt_sys_hlt; return;
	case BT_ID_INT: op->fn = bt_sys_int; return;
	case BT_ID_INT3: op->fn = bt_sys_int3; return;
	case BT_ID_INT1: op->fn = bt_sys_int1; return;
	case BT_ID_INTO: op->fn = bt_sys_into; return;
	case BT_ID_SERIALIZE:
		op->fn = bt_ctl_offered(cpu, in->id) ? bt_sys_serialize : bt_op_ud;
		return;
	default: break;
	}
	op->flags &= (uint8_t)~BT_OP_END;
	switch (in->id) {
	case BT_ID_CLTS: op->fn = bt_sys_clts; break;
	case BT_ID_SMSW: op->fn = bt_sys_smsw; break;
	case BT_ID_INVD:
	case BT_ID_WBINVD: op->fn = bt_sys_wbinvd; break;
	case BT_ID_CLFLUSH:
	case BT_ID_CLFLUSHOPT:
	case BT_ID_CLWB: op->fn = bt_sys_clflush; break;
	case BT_ID_CLZERO:
		if (!in->rep && !in->repne && bt_ctl_offered(cpu, in->id)) {
			op->fn = bt_sys_clzero;
			break;
		}
		op->fn = bt_op_ud;
		op->flags |= BT_OP_END;
		break;
	case BT_ID_PAUSE: op->fn = bt_sys_pause; break;
	default:
		/* UD, RSM outside SMM, VMCALL, and MONITOR and MWAIT, which CPUID does not offer. */
		op->fn = bt_op_ud;
		op->flags |= BT_OP_END;
		break;
	}
}

void
bt_sys_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op)
{
	switch (in->id) {
	case BT_ID_JMP_FAR:
	case BT_ID_CALL_FAR:
	case BT_ID_RET_FAR:
	case BT_ID_IRET:
	case BT_ID_LOAD_FAR: bt_sys_far_lower(in, op); break;
	case BT_ID_SYSCALL:
	case BT_ID_SYSRET:
	case BT_ID_SYSENTER:
	case BT_ID_SYSEXIT:
	case BT_ID_SWAPGS:
	case BT_ID_RDFSBASE:
	case BT_ID_RDGSBASE:
	case BT_ID_WRFSBASE:
	case BT_ID_WRGSBASE: bt_sys_fast_lower(in, op); break;
	case BT_ID_PUSHF:
	case BT_ID_POPF:
	case BT_ID_CLI:
	case BT_ID_STI:
	case BT_ID_CLAC:
	case BT_ID_STAC: bt_sys_flags_lower(in, op); break;
	case BT_ID_IN:
	case BT_ID_OUT:
	case BT_ID_INS:
	case BT_ID_OUTS: bt_sys_io_lower(in, op); break;
	case BT_ID_RDMSR:
	case BT_ID_WRMSR:
	case BT_ID_RDTSC:
	case BT_ID_RDTSCP:
	case BT_ID_RDPID:
	case BT_ID_RDPMC:
	case BT_ID_CPUID:
	case BT_ID_XGETBV:
	case BT_ID_XSETBV: bt_sys_msr_lower(in, op); break;
	case BT_ID_MOV_FROM_SREG:
	case BT_ID_MOV_TO_SREG:
	case BT_ID_PUSH_SREG:
	case BT_ID_POP_SREG:
	case BT_ID_LAR:
	case BT_ID_LSL:
	case BT_ID_VERR:
	case BT_ID_VERW:
	case BT_ID_ARPL:
	case BT_ID_SGDT:
	case BT_ID_SIDT:
	case BT_ID_SLDT:
	case BT_ID_STR:
	case BT_ID_LGDT:
	case BT_ID_LIDT:
	case BT_ID_LLDT:
	case BT_ID_LTR: bt_sys_tab_lower(in, op); break;
	default: bt_sys_ctl_lower(cpu, in, op); break;
	}
}
