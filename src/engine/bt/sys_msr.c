/*
 * Model-specific registers, CPUID, the time-stamp counter, extended control register 0.
 *
 * SDM 4 and APM 2, appendix A, for the registers.
 */
#include "engine/bt/exc.h"
#include "engine/bt/kvmclock.h"
#include "engine/bt/sys_ops.h"
#include "engine/bt/vec.h"

#include "base/config.h"

#include <errno.h>

/* Bits of EFER that may be written; FFXSR and AIBRSE only where offered (APM 2, 3.1.7). */
#define BT_EFER_VALID                                                                              \
	(X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE | X86_EFER_AIBRSE)

uint64_t
bt_tsc(const struct bt_cpu *cpu)
{
	uint32_t lo, hi;

	/* RDTSCP, and RDTSC after LFENCE, must not be ahead of the guest's earlier loads: kernels compare
	 * the counters of their processors that way. */
	__asm__ volatile("lfence\n\trdtsc" : "=a"(lo), "=d"(hi) : : "memory");
	return ((uint64_t)hi << 32 | lo) + cpu->tsc_offset;
}

/* Registers that AMD's processors have and kernels touch without asking: they read as 0 and ignore
 * writes, as under other hypervisors. */
static bool
bt_msr_is_amd_dummy(uint32_t msr)
{
	switch (msr) {
	case 0xc0010010: /* SYSCFG */
	case 0xc001001a: /* TOP_MEM */
	case 0xc001001d: /* TOM2 */
	case 0xc001001f: /* NB_CFG */
	case 0xc0010020: /* PATCH_LOADER */
	case 0xc0010055: /* interrupt pending */
	case 0xc0010058: /* MMIO configuration base */
	case 0xc0010061: /* P-state limits */
	case 0xc0010062:
	case 0xc0010063:
	case 0xc0010140: /* OSVW length */
	case 0xc0010141: /* OSVW status */
	case 0xc0011020: /* LS_CFG */
	case 0xc0011021: /* IC_CFG */
	case 0xc0011022: /* DC_CFG */
	case 0xc0011023: /* BU_CFG */
	case 0xc0011029: /* DE_CFG */
	case 0xc001102a: /* BU_CFG2 */
		return true;
	default:
		return false;
	}
}

/* Where a plain 64-bit register lives in the CPU, or NULL. canonical: #GP for other addresses. */
static uint64_t *
bt_msr_plain(struct bt_cpu *cpu, uint32_t msr, bool *canonical)
{
	*canonical = false;
	switch (msr) {
	case X86_MSR_STAR: return &cpu->star;
	case X86_MSR_SFMASK: return &cpu->sfmask;
	case X86_MSR_TSC_AUX: return &cpu->tsc_aux;
	case X86_MSR_SYSENTER_CS: return &cpu->sysenter_cs;
	default: break;
	}
	*canonical = true;
	switch (msr) {
	case X86_MSR_LSTAR: return &cpu->lstar;
	case X86_MSR_CSTAR: return &cpu->cstar;
	case X86_MSR_KERNEL_GS_BASE: return &cpu->kernel_gs_base;
	case X86_MSR_FS_BASE: return &cpu->seg[X86_FS].base;
	case X86_MSR_GS_BASE: return &cpu->seg[X86_GS].base;
	case X86_MSR_SYSENTER_ESP: return &cpu->sysenter_esp;
	case X86_MSR_SYSENTER_EIP: return &cpu->sysenter_eip;
	default: return NULL;
	}
}

/* MTRRs: fixed ones at 250h, 258h, 259h, 268h to 26Fh; eight variable pairs from 200h. */
static uint64_t *
bt_msr_mtrr(struct bt_cpu *cpu, uint32_t msr)
{
	if (msr >= X86_MSR_MTRR_PHYSBASE0 && msr < X86_MSR_MTRR_PHYSBASE0 + 16)
		return &cpu->mtrr_var[msr - X86_MSR_MTRR_PHYSBASE0];
	if (msr == X86_MSR_MTRR_FIX64K)
		return &cpu->mtrr_fixed[0];
	if (msr == 0x258 || msr == 0x259)
		return &cpu->mtrr_fixed[msr - 0x257];
	if (msr >= 0x268 && msr <= 0x26f)
		return &cpu->mtrr_fixed[3 + msr - 0x268];
	return msr == X86_MSR_MTRR_DEF_TYPE ? &cpu->mtrr_def_type : NULL;
}

static bool
bt_msr_is_apic(uint32_t msr)
{
	return msr == X86_MSR_APIC_BASE || msr == X86_MSR_TSC_DEADLINE ||
	    (msr >= X86_MSR_X2APIC_FIRST && msr <= X86_MSR_X2APIC_LAST);
}

static bool
bt_msr_is_strict(const struct bt_cpu *cpu)
{
	return config_get_bool_default(cpu->vm->params.config, "x86.strictmsr", true);
}

/* An MSR that does not exist: #GP(0), or with -w it reads as 0 and swallows writes. */
static int
bt_msr_unknown(struct bt_cpu *cpu)
{
	bt_fpu_park(cpu);
	return bt_msr_is_strict(cpu) ? -EINVAL : 0;
}

int
bt_msr_read(struct bt_cpu *cpu, uint32_t msr, uint64_t *val)
{
	const struct engine_machine *machine = cpu->vm->params.machine;
	bool intel = x86_cpuid_is_intel(cpu->vm->cpuid);
	bool canonical;
	uint64_t *p = bt_msr_plain(cpu, msr, &canonical);

	*val = 0;
	if (p == NULL)
		p = bt_msr_mtrr(cpu, msr);
	if (p != NULL) {
		*val = *p;
		return 0;
	}
	if (bt_msr_is_apic(msr)) {
		bt_fpu_park(cpu);
		return machine->apic_msr_read(cpu->vm->params.ctx, cpu->id, msr, val);
	}
	switch (msr) {
	case X86_MSR_TSC: *val = bt_tsc(cpu); return 0;
	case X86_MSR_TSC_ADJUST: *val = cpu->tsc_adjust; return 0;
	case X86_MSR_KVM_WALL_CLOCK: *val = cpu->kvm_wall_clock; return 0;
	case X86_MSR_KVM_SYSTEM_TIME: *val = cpu->kvm_system_time; return 0;
	case X86_MSR_EFER: *val = cpu->efer; return 0;
	case X86_MSR_PAT: *val = cpu->pat; return 0;
	case X86_MSR_XSS: *val = cpu->xss; return 0;
	case X86_MSR_MTRRCAP: *val = 8 | BIT(8) | BIT(10); return 0; /* fixed, WC */
	case X86_MSR_SPEC_CTRL: *val = cpu->spec_ctrl; return 0;
	/* Machine checks: no banks. */
	case X86_MSR_MCG_CAP:
	case X86_MSR_MCG_STATUS:
	case X86_MSR_DEBUGCTL:
	case X86_MSR_PLATFORM_ID: return 0;
	case X86_MSR_BIOS_SIGN_ID: *val = intel ? 1ull << 32 : 0; return 0;
	case X86_MSR_MISC_ENABLE: *val = cpu->misc_enable; return intel ? 0 : -EINVAL;
	case X86_MSR_FEATURE_CONTROL: *val = 1; return intel ? 0 : -EINVAL;
	/* Not affected: RDCL_NO, RSBA no, SSB_NO, MDS_NO, PSCHANGE_MC_NO, TAA_NO, and the MMIO ones. */
	case X86_MSR_ARCH_CAPABILITIES: *val = 0x1e1f1; return intel ? 0 : -EINVAL;
	case X86_MSR_HWCR: *val = X86_HWCR_TSC_FREQ_SEL; return intel ? -EINVAL : 0;
	default: break;
	}
	if (!intel && bt_msr_is_amd_dummy(msr))
		return 0;
	return bt_msr_unknown(cpu);
}

static int
bt_msr_write_efer(struct bt_cpu *cpu, uint64_t val)
{
	uint64_t old = cpu->efer;

	if (val & ~BT_EFER_VALID)
		return -EINVAL;
	if ((cpu->cr0 & X86_CR0_PG) && ((old ^ val) & X86_EFER_LME))
		return -EINVAL;
	cpu->efer = (val & ~X86_EFER_LMA) | (old & X86_EFER_LMA);
	if ((old ^ val) & X86_EFER_NXE)
		bt_tlb_flush_all(cpu);
	return 0;
}

/* Each byte is a memory type: 0, 1, 4, 5, 6 or 7 (SDM 3, 11.12.2). */
static bool
bt_msr_pat_valid(uint64_t val)
{
	for (int i = 0; i < 8; i++, val >>= 8) {
		if ((val & 0xff) > 7 || (val & 0xff) == 2 || (val & 0xff) == 3)
			return false;
	}
	return true;
}

static void
bt_msr_write_tsc(struct bt_cpu *cpu, uint64_t val)
{
	uint64_t delta = val - bt_tsc(cpu);

	cpu->tsc_offset += delta;
	cpu->tsc_adjust += delta; /* SDM 3, 17.17.3 */
	bt_kvmclock_update(cpu);
}

static int
bt_msr_write_plain(struct bt_cpu *cpu, uint32_t msr, uint64_t *p, bool canonical, uint64_t val)
{
	if (canonical && !bt_canonical(cpu, val))
		return -EINVAL;
	/* TSC_AUX holds 32 bits. */
	if (msr == X86_MSR_TSC_AUX && val >> 32 != 0)
		return -EINVAL;
	*p = val;
	if (msr == X86_MSR_FS_BASE || msr == X86_MSR_GS_BASE)
		bt_mode_update(cpu);
	return 0;
}

int
bt_msr_write(struct bt_cpu *cpu, uint32_t msr, uint64_t val)
{
	const struct engine_machine *machine = cpu->vm->params.machine;
	bool intel = x86_cpuid_is_intel(cpu->vm->cpuid);
	bool canonical;
	uint64_t *p = bt_msr_plain(cpu, msr, &canonical);

	if (p != NULL)
		return bt_msr_write_plain(cpu, msr, p, canonical, val);
	p = bt_msr_mtrr(cpu, msr);
	if (p != NULL) {
		*p = val;
		return 0;
	}
	if (bt_msr_is_apic(msr)) {
		int err;

		bt_fpu_park(cpu);
		err = machine->apic_msr_write(cpu->vm->params.ctx, cpu->id, msr, val);
		bt_irq_recheck(cpu);
		/* The APIC page may have moved, appeared or gone. */
		if (err == 0 && msr == X86_MSR_APIC_BASE)
			bt_tlb_flush_all(cpu);
		return err;
	}
	switch (msr) {
	case X86_MSR_TSC: bt_msr_write_tsc(cpu, val); return 0;
	case X86_MSR_TSC_ADJUST:
		cpu->tsc_offset += val - cpu->tsc_adjust;
		cpu->tsc_adjust = val;
		bt_kvmclock_update(cpu);
		return 0;
	case X86_MSR_KVM_WALL_CLOCK: return bt_kvmclock_wall_write(cpu, val);
	case X86_MSR_KVM_SYSTEM_TIME: return bt_kvmclock_system_write(cpu, val);
	case X86_MSR_EFER: return bt_msr_write_efer(cpu, val);
	case X86_MSR_PAT:
		if (!bt_msr_pat_valid(val))
			return -EINVAL;
		cpu->pat = val;
		return 0;
	case X86_MSR_XSS: return val == 0 ? 0 : -EINVAL;
	case X86_MSR_SPEC_CTRL:
		if (val & ~7ull)
			return -EINVAL;
		cpu->spec_ctrl = val;
		return 0;
	case X86_MSR_PRED_CMD: return val & ~1ull ? -EINVAL : 0;
	case X86_MSR_MCG_STATUS:
	case X86_MSR_DEBUGCTL:
	case X86_MSR_BIOS_SIGN_ID: return 0;
	case X86_MSR_MISC_ENABLE: cpu->misc_enable = val; return intel ? 0 : -EINVAL;
	case X86_MSR_HWCR: return intel ? -EINVAL : 0;
	case X86_MSR_MTRRCAP:
	case X86_MSR_MCG_CAP:
	case X86_MSR_PLATFORM_ID:
	case X86_MSR_FEATURE_CONTROL:
	case X86_MSR_ARCH_CAPABILITIES: return -EINVAL;
	default: break;
	}
	if (!intel && bt_msr_is_amd_dummy(msr))
		return 0;
	return bt_msr_unknown(cpu);
}

/* --- Handlers --- */

static void
bt_sys_rdmsr(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t val;

	bt_sys_need_cpl0(cpu);
	if (bt_msr_read(cpu, (uint32_t)cpu->r[X86_RCX], &val) != 0)
		bt_raise_error(cpu, X86_GP, 0);
	cpu->r[X86_RAX] = (uint32_t)val;
	cpu->r[X86_RDX] = val >> 32;
	bt_next(cpu, op);
}

static void
bt_sys_wrmsr(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t val = (uint32_t)cpu->r[X86_RAX] | cpu->r[X86_RDX] << 32;

	bt_sys_need_cpl0(cpu);
	if (bt_msr_write(cpu, (uint32_t)cpu->r[X86_RCX], val) != 0)
		bt_raise_error(cpu, X86_GP, 0);
}

static void
bt_msr_check_tsd(struct bt_cpu *cpu)
{
	if ((cpu->cr4 & X86_CR4_TSD) && cpu->cpl != 0)
		bt_raise_error(cpu, X86_GP, 0);
}

static void
bt_sys_rdtsc(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t tsc;

	bt_msr_check_tsd(cpu);
	tsc = bt_tsc(cpu);
	cpu->r[X86_RAX] = (uint32_t)tsc;
	cpu->r[X86_RDX] = tsc >> 32;
	bt_next(cpu, op);
}

static void
bt_sys_rdtscp(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_msr_check_tsd(cpu);
	cpu->r[X86_RCX] = (uint32_t)cpu->tsc_aux;
	bt_sys_rdtsc(cpu, op);
}

static void
bt_sys_rdpid(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_sys_reg_write(cpu, op->rm, cpu->code_size == 8 ? 8 : 4, cpu->tsc_aux);
	bt_next(cpu, op);
}

/* No performance counters are offered. */
static void
bt_sys_rdpmc(struct bt_cpu *cpu, const struct bt_op *op)
{
	bt_raise_error(cpu, X86_GP, 0);
}

static void
bt_sys_cpuid(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct x86_cpuid_ctx ctx = {
		.cr4 = cpu->cr4,
		.xcr0 = cpu->xcr0,
		.xss = cpu->xss,
	};
	struct x86_cpuid_regs r;

	bt_fpu_park(cpu);
	ctx.apic_id = x86_topology_apic_id(&cpu->vm->params.topo, (uint32_t)cpu->id);
	ctx.apic_base = X86_APIC_BASE_ENABLE;
	cpu->vm->params.machine->apic_msr_read(cpu->vm->params.ctx, cpu->id, X86_MSR_APIC_BASE,
	    &ctx.apic_base);
	x86_cpuid_query(cpu->vm->cpuid, &ctx, (uint32_t)cpu->r[X86_RAX],
	    (uint32_t)cpu->r[X86_RCX], &r);
	cpu->r[X86_RAX] = r.eax;
	cpu->r[X86_RBX] = r.ebx;
	cpu->r[X86_RCX] = r.ecx;
	cpu->r[X86_RDX] = r.edx;
	bt_next(cpu, op);
}

static void
bt_sys_xgetbv(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t val = cpu->xcr0;

	if (!(cpu->cr4 & X86_CR4_OSXSAVE))
		bt_raise(cpu, X86_UD);
	if ((uint32_t)cpu->r[X86_RCX] == 1)
		val = bt_fpu_inuse(cpu) & cpu->xcr0;
	else if ((uint32_t)cpu->r[X86_RCX] != 0)
		bt_raise_error(cpu, X86_GP, 0);
	cpu->r[X86_RAX] = (uint32_t)val;
	cpu->r[X86_RDX] = val >> 32;
	bt_next(cpu, op);
}

/* Which components must come together (SDM 1, 13.3). */
static bool
bt_xcr0_valid(struct bt_cpu *cpu, uint64_t val)
{
	uint64_t avx512 = val & X86_XCR0_AVX512;

	if (val & ~x86_cpuid_xcr0(cpu->vm->cpuid) || !(val & X86_XCR0_X87))
		return false;
	if ((val & X86_XCR0_AVX) && !(val & X86_XCR0_SSE))
		return false;
	return avx512 == 0 || (avx512 == X86_XCR0_AVX512 && (val & X86_XCR0_AVX));
}

static void
bt_sys_xsetbv(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t val = (uint32_t)cpu->r[X86_RAX] | cpu->r[X86_RDX] << 32;

	if (!(cpu->cr4 & X86_CR4_OSXSAVE))
		bt_raise(cpu, X86_UD);
	bt_sys_need_cpl0(cpu);
	if ((uint32_t)cpu->r[X86_RCX] != 0 || !bt_xcr0_valid(cpu, val))
		bt_raise_error(cpu, X86_GP, 0);
	cpu->xcr0 = val;
	bt_fpu_mode(cpu);
}

void
bt_sys_msr_lower(const struct bt_insn *in, struct bt_op *op)
{
	switch (in->id) {
	case BT_ID_RDMSR: op->fn = bt_sys_rdmsr; break;
	case BT_ID_WRMSR:
		op->fn = bt_sys_wrmsr;
		op->flags |= BT_OP_END;
		break;
	case BT_ID_RDTSC: op->fn = bt_sys_rdtsc; break;
	case BT_ID_RDTSCP: op->fn = bt_sys_rdtscp; break;
	case BT_ID_RDPID: op->fn = bt_sys_rdpid; break;
	case BT_ID_RDPMC: op->fn = bt_sys_rdpmc; break;
	case BT_ID_CPUID: op->fn = bt_sys_cpuid; break;
	case BT_ID_XGETBV: op->fn = bt_sys_xgetbv; break;
	default:
		op->fn = bt_sys_xsetbv;
		op->flags |= BT_OP_END;
		break;
	}
}
