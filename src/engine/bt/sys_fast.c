/*
 * The fast system calls: SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS.
 *
 * SDM 2 (each instruction), SDM 3, 5.8.7 and 5.8.8; APM 3 for what AMD does otherwise: SYSCALL outside
 * 64-bit mode exists there, SYSENTER in long mode does not.
 */
#include "engine/bt/sys_ops.h"

/* A flat segment as these instructions load it, whatever the descriptor tables say. */
static void
bt_fast_flat(struct bt_cpu *cpu, int seg, uint16_t sel, unsigned attr)
{
	cpu->seg[seg] = (struct x86_segment){
		.selector = sel,
		.attr = (uint16_t)(attr | X86_SEG_P | X86_SEG_S | X86_SEG_G | X86_SEG_RW | X86_SEG_A),
		.limit = 0xffffffff,
	};
}

static void
bt_fast_enter(struct bt_cpu *cpu, uint16_t cs, uint16_t ss, int cpl, bool code64)
{
	unsigned dpl = (unsigned)cpl << 5;

	cpu->cpl = (uint8_t)cpl;
	bt_fast_flat(cpu, X86_CS, cs, X86_SEG_CODE | dpl | (code64 ? X86_SEG_L : X86_SEG_DB));
	bt_fast_flat(cpu, X86_SS, ss, X86_SEG_DB | dpl);
}

static void
bt_sys_syscall(struct bt_cpu *cpu, const struct bt_op *op)
{
	bool intel = x86_cpuid_is_intel(cpu->vm->cpuid);
	uint16_t cs = (cpu->star >> 32) & 0xfffc;
	uint32_t flags = bt_eflags(cpu) & ~X86_FL_RF;

	if (!(cpu->efer & X86_EFER_SCE) || !cpu->pe || (intel && cpu->code_size != 8))
		bt_raise(cpu, X86_UD);
	if (cpu->lma) {
		cpu->r[X86_RCX] = cpu->r[BT_REG_RIP];
		cpu->r[X86_R11] = flags;
		cpu->r[BT_REG_RIP] = cpu->code_size == 8 ? cpu->lstar : cpu->cstar;
		bt_fast_enter(cpu, cs, (uint16_t)(cs + 8), 0, true);
		bt_eflags_write(cpu, flags & ~(uint32_t)cpu->sfmask,
		    (uint32_t)cpu->sfmask | X86_FL_RF);
	} else {
		cpu->r[X86_RCX] = (uint32_t)cpu->r[BT_REG_RIP];
		cpu->r[BT_REG_RIP] = (uint32_t)cpu->star;
		bt_fast_enter(cpu, cs, (uint16_t)(cs + 8), 0, false);
		bt_eflags_write(cpu, 0, X86_FL_IF | X86_FL_RF | X86_FL_VM);
	}
	bt_mode_update(cpu);
	bt_trap_late(cpu);
}

static void
bt_sys_sysret(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint16_t base = (uint16_t)(cpu->star >> 48);
	uint16_t ss = (uint16_t)((base + 8) | 3);
	uint32_t all = X86_FL_ARITH | X86_FL_TF | X86_FL_IF | X86_FL_DF | X86_FL_IOPL | X86_FL_NT |
	    X86_FL_AC | X86_FL_VIF | X86_FL_VIP | X86_FL_ID | X86_FL_RF;

	if (!(cpu->efer & X86_EFER_SCE) || !cpu->pe ||
	    (x86_cpuid_is_intel(cpu->vm->cpuid) && cpu->code_size != 8))
		bt_raise(cpu, X86_UD);
	bt_sys_need_cpl0(cpu);
	if (op->osize == 8) {
		if (!bt_canonical(cpu, cpu->r[X86_RCX]))
			bt_raise_error(cpu, X86_GP, 0);
		cpu->r[BT_REG_RIP] = cpu->r[X86_RCX];
		bt_fast_enter(cpu, (uint16_t)((base + 16) | 3), ss, 3, true);
	} else {
		cpu->r[BT_REG_RIP] = (uint32_t)cpu->r[X86_RCX];
		bt_fast_enter(cpu, base | 3, ss, 3, false);
	}
	if (cpu->lma)
		bt_eflags_write(cpu, (uint32_t)cpu->r[X86_R11] & ~(X86_FL_RF | X86_FL_VM), all);
	else
		bt_eflags_write(cpu, X86_FL_IF, X86_FL_IF);
	bt_mode_update(cpu);
	bt_trap_late(cpu);
}

static void
bt_sys_sysenter(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint16_t cs = cpu->sysenter_cs & 0xfffc;

	if (cpu->lma && !x86_cpuid_is_intel(cpu->vm->cpuid))
		bt_raise(cpu, X86_UD);
	if (!cpu->pe || cs == 0)
		bt_raise_error(cpu, X86_GP, 0);
	cpu->r[BT_REG_RIP] = cpu->lma ? cpu->sysenter_eip : (uint32_t)cpu->sysenter_eip;
	cpu->r[X86_RSP] = cpu->lma ? cpu->sysenter_esp : (uint32_t)cpu->sysenter_esp;
	bt_fast_enter(cpu, cs, (uint16_t)(cs + 8), 0, cpu->lma);
	bt_eflags_write(cpu, 0, X86_FL_IF | X86_FL_VM | X86_FL_RF);
	bt_mode_update(cpu);
}

static void
bt_sys_sysexit(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint16_t base = cpu->sysenter_cs & 0xfffc;
	bool to64 = op->osize == 8;
	uint16_t cs = (uint16_t)(base + (to64 ? 32 : 16));

	if (cpu->lma && !x86_cpuid_is_intel(cpu->vm->cpuid))
		bt_raise(cpu, X86_UD);
	if (!cpu->pe || base == 0 || cpu->cpl != 0)
		bt_raise_error(cpu, X86_GP, 0);
	if (to64 && (!bt_canonical(cpu, cpu->r[X86_RDX]) || !bt_canonical(cpu, cpu->r[X86_RCX])))
		bt_raise_error(cpu, X86_GP, 0);
	cpu->r[BT_REG_RIP] = to64 ? cpu->r[X86_RDX] : (uint32_t)cpu->r[X86_RDX];
	cpu->r[X86_RSP] = to64 ? cpu->r[X86_RCX] : (uint32_t)cpu->r[X86_RCX];
	bt_fast_enter(cpu, cs | 3, (uint16_t)(cs + 8) | 3, 3, to64);
	bt_mode_update(cpu);
}

static void
bt_sys_swapgs(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t base = cpu->seg[X86_GS].base;

	bt_sys_need_cpl0(cpu);
	cpu->seg[X86_GS].base = cpu->sbase[X86_GS] = cpu->kernel_gs_base;
	cpu->kernel_gs_base = base;
	bt_next(cpu, op);
}

static void
bt_fast_need_fsgsbase(struct bt_cpu *cpu)
{
	if (!(cpu->cr4 & X86_CR4_FSGSBASE))
		bt_raise(cpu, X86_UD);
}

static void
bt_sys_rdbase(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_fast_need_fsgsbase(cpu);
	bt_sys_reg_write(cpu, op->rm, op->osize, cpu->seg[op->x].base);
	bt_next(cpu, op);
}

static void
bt_sys_wrbase(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t val = op->osize == 8 ? *bt_reg64(cpu, op->rm) : *bt_reg32(cpu, op->rm);

	bt_fast_need_fsgsbase(cpu);
	if (!bt_canonical(cpu, val))
		bt_raise_error(cpu, X86_GP, 0);
	cpu->seg[op->x].base = cpu->sbase[op->x] = val;
	bt_next(cpu, op);
}

void
bt_sys_fast_lower(const struct bt_insn *in, struct bt_op *op)
{
	bool only64 = false;

	op->flags |= BT_OP_END;
	switch (in->id) {
	case BT_ID_SYSCALL: op->fn = bt_sys_syscall; break;
	case BT_ID_SYSRET: op->fn = bt_sys_sysret; break;
	case BT_ID_SYSENTER: op->fn = bt_sys_sysenter; break;
	case BT_ID_SYSEXIT: op->fn = bt_sys_sysexit; break;
	case BT_ID_SWAPGS: op->fn = bt_sys_swapgs; only64 = true; break;
	case BT_ID_RDFSBASE:
	case BT_ID_RDGSBASE: op->fn = bt_sys_rdbase; only64 = true; break;
	default: op->fn = bt_sys_wrbase; only64 = true; break;
	}
	if (!only64)
		return;
	op->flags &= (uint8_t)~BT_OP_END;
	op->x = in->id == BT_ID_RDFSBASE || in->id == BT_ID_WRFSBASE ? X86_FS : X86_GS;
	if (in->mode != 8) {
		op->fn = bt_op_ud;
		op->flags |= BT_OP_END;
	}
}
