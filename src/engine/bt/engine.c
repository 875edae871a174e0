/*
 * The software CPU as an engine: VMs and vCPUs, their state in and out.
 */
#include "engine/bt/block.h"
#include "engine/bt/kvmclock.h"
#include "engine/bt/mmu.h"
#include "engine/bt/phys.h"
#include "engine/bt/run.h"
#include "engine/bt/sys.h"
#include "engine/bt/tsc.h"
#include "engine/bt/vec.h"

#include "base/log.h"
#include "engine/engines.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct bt_vm *
bt_vm(struct engine_vm *vm)
{
	return (struct bt_vm *)vm;
}

static struct bt_cpu *
bt_cpu(struct engine_vcpu *vcpu)
{
	return (struct bt_cpu *)vcpu;
}

static void
bt_probe_host(struct engine_probe *out)
{
	*out = (struct engine_probe){ .usable = true };
	snprintf(out->why, sizeof(out->why),
	    "a software CPU, which runs on every x86-64 host without privileges");
}

/* --- VMs --- */

static void
bt_vm_destroy(struct engine_vm *evm)
{
	struct bt_vm *vm = bt_vm(evm);

	if (vm->thunks != NULL)
		bt_thunks_destroy(vm);
	bt_mem_destroy(vm);
	x86_cpuid_destroy((struct x86_cpuid *)(uintptr_t)vm->cpuid);
	free(vm);
}

static int
bt_vm_create(const struct engine_vm_params *params, struct engine_vm **out)
{
	struct x86_cpuid_mask mask;
	struct bt_vm *vm;
	int err;

	vm = calloc(1, sizeof(*vm) + (size_t)params->vcpus * sizeof(vm->cpu[0]));
	if (vm == NULL)
		return -ENOMEM;
	vm->params = *params;
	vm->vcpus = params->vcpus;
	vm->tsc_khz = bt_host_tsc_khz();
	atomic_store(&vm->tsc_offset, -bt_host_tsc());
	bt_cpuid_mask(&mask);
	vm->cpuid = x86_cpuid_create(x86_cpuid_host, NULL, &mask, &params->topo, vm->tsc_khz);
	err = vm->cpuid != NULL ? bt_mem_create(vm, x86_cpuid_phys_bits(vm->cpuid)) : -ENOMEM;
	if (err == 0)
		err = bt_thunks_create(vm);
	if (err != 0) {
		log_error("bt", "cannot create the virtual machine: %s", strerror(-err));
		bt_vm_destroy((struct engine_vm *)vm);
		return err;
	}
	*out = (struct engine_vm *)vm;
	return 0;
}

static int
bt_vm_mem_map(struct engine_vm *evm, uint64_t gpa, void *hva, uint64_t len, unsigned prot)
{
	int err = bt_mem_map(bt_vm(evm), gpa, hva, len, prot & ENGINE_MEM_WRITE);

	if (err != 0)
		log_error("bt", "cannot map %#llx bytes at %#llx: %s", (unsigned long long)len,
		    (unsigned long long)gpa, strerror(-err));
	return err;
}

static int
bt_vm_mem_unmap(struct engine_vm *evm, uint64_t gpa, uint64_t len)
{
	int err = bt_mem_unmap(bt_vm(evm), gpa, len);

	if (err != 0)
		log_error("bt", "cannot unmap %#llx bytes at %#llx: %s", (unsigned long long)len,
		    (unsigned long long)gpa, strerror(-err));
	return err;
}

static void
bt_vm_mem_written(struct engine_vm *evm, uint64_t gpa, uint64_t len)
{
	bt_mem_written(bt_vm(evm), gpa, len);
}

static const struct x86_cpuid *
bt_vm_cpuid(struct engine_vm *evm)
{
	return bt_vm(evm)->cpuid;
}

static uint32_t
bt_vm_tsc_khz(struct engine_vm *evm)
{
	return bt_vm(evm)->tsc_khz;
}

static uint64_t
bt_vm_tsc_read(struct engine_vm *evm)
{
	return bt_host_tsc() + atomic_load(&bt_vm(evm)->tsc_offset);
}

static void
bt_vm_stats(struct engine_vm *evm, void (*emit)(void *arg, const char *name, uint64_t value),
    void *arg)
{
	struct bt_vm *vm = bt_vm(evm);
	char name[64];

	for (int i = 0; i < vm->vcpus; i++) {
		const struct bt_cpu *cpu = vm->cpu[i];
		const struct {
			const char *name;
			uint64_t value;
		} counter[] = {
			{ "instructions", cpu != NULL ? cpu->insns : 0 },
			{ "instructions_decoded", cpu != NULL ? cpu->blocks->decoded : 0 },
			{ "block_cache_flushes", cpu != NULL ? cpu->blocks->flushes : 0 },
		};

		for (size_t k = 0; k < ARRAY_SIZE(counter); k++) {
			snprintf(name, sizeof(name), "vcpu%d.%s", i, counter[k].name);
			emit(arg, name, counter[k].value);
		}
	}
}

/* --- vCPUs --- */

static void
bt_vcpu_destroy(struct engine_vcpu *vcpu)
{
	struct bt_cpu *cpu = bt_cpu(vcpu);

	cpu->vm->cpu[cpu->id] = NULL;
	bt_fpu_destroy(cpu);
	bt_block_destroy(cpu);
	bt_mail_destroy(cpu);
	free(cpu);
}

static int bt_vcpu_set(struct engine_vcpu *vcpu, const struct x86_state *in);

static int
bt_vcpu_create(struct engine_vm *evm, int id, struct engine_vcpu **out)
{
	struct bt_vm *vm = bt_vm(evm);
	struct x86_state state;
	struct bt_cpu *cpu;
	int err;

	cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), 64));
	if (cpu == NULL)
		return -ENOMEM;
	memset(cpu, 0, sizeof(*cpu));
	cpu->vm = vm;
	cpu->id = id;
	cpu->tlb = cpu->tlbs[BT_TLB_KERNEL];
	cpu->tsc_offset = atomic_load(&vm->tsc_offset);
	err = bt_mail_create(cpu);
	if (err == 0)
		err = bt_block_create(cpu);
	if (err == 0)
		err = bt_fpu_create(cpu);
	if (err == 0) {
		vm->cpu[id] = cpu;
		x86_state_reset(&state, id == 0);
		err = bt_vcpu_set((struct engine_vcpu *)cpu, &state);
	}
	if (err != 0) {
		log_error("bt", "cannot create vCPU %d: %s", id, strerror(-err));
		bt_vcpu_destroy((struct engine_vcpu *)cpu);
		return err;
	}
	*out = (struct engine_vcpu *)cpu;
	return 0;
}

static void
bt_vcpu_run(struct engine_vcpu *vcpu, struct engine_exit *exit)
{
	bt_run(bt_cpu(vcpu), exit);
}

static void
bt_vcpu_kick(struct engine_vcpu *vcpu, bool stop)
{
	struct bt_cpu *cpu = bt_cpu(vcpu);

	/* In this order: whoever sees the attention finds the hint. */
	atomic_store(&cpu->irq_hint, 1);
	bt_attn_set(cpu, BT_ATTN_IRQ | (stop ? BT_ATTN_STOP : 0));
}

static void
bt_vcpu_nmi(struct engine_vcpu *vcpu)
{
	atomic_store(&bt_cpu(vcpu)->nmi_pending, 1);
}

/* --- State --- */

static void
bt_vcpu_get(struct engine_vcpu *vcpu, struct x86_state *out)
{
	struct bt_cpu *cpu = bt_cpu(vcpu);
	const struct engine_vm_params *p = &cpu->vm->params;

	memset(out, 0, sizeof(*out));
	memcpy(out->gpr, cpu->r, sizeof(out->gpr));
	out->rip = cpu->r[BT_REG_RIP];
	out->rflags = bt_eflags(cpu) & ~(bt_rf_live(cpu) ? 0 : X86_FL_RF);
	memcpy(out->seg, cpu->seg, sizeof(out->seg));
	out->ldtr = cpu->ldtr;
	out->tr = cpu->tr;
	out->gdtr = cpu->gdtr;
	out->idtr = cpu->idtr;
	out->cr0 = cpu->cr0;
	out->cr2 = cpu->cr2;
	out->cr3 = cpu->cr3;
	out->cr4 = cpu->cr4;
	out->cr8 = p->machine->cr8_read(p->ctx, cpu->id);
	out->xcr0 = cpu->xcr0;
	out->xss = cpu->xss;
	memcpy(out->dr, cpu->dr, sizeof(out->dr));
	out->dr6 = cpu->dr6;
	out->dr7 = cpu->dr7;
	out->efer = cpu->efer;
	out->star = cpu->star;
	out->lstar = cpu->lstar;
	out->cstar = cpu->cstar;
	out->sfmask = cpu->sfmask;
	out->kernel_gs_base = cpu->kernel_gs_base;
	out->tsc_aux = cpu->tsc_aux;
	out->pat = cpu->pat;
	out->misc_enable = cpu->misc_enable;
	out->sysenter_cs = cpu->sysenter_cs;
	out->sysenter_esp = cpu->sysenter_esp;
	out->sysenter_eip = cpu->sysenter_eip;
	out->spec_ctrl = cpu->spec_ctrl;
	out->mtrr_def_type = cpu->mtrr_def_type;
	memcpy(out->mtrr_fixed, cpu->mtrr_fixed, sizeof(out->mtrr_fixed));
	memcpy(out->mtrr_var, cpu->mtrr_var, sizeof(out->mtrr_var));
	out->apic_base = cpu->apic_base;
	out->tsc = bt_tsc(cpu);
	out->tsc_adjust = cpu->tsc_adjust;
	bt_kvmclock_get(cpu, out);
	out->activity = cpu->activity;
	out->nmi_blocked = cpu->nmi_blocked;
	out->intr_shadow = bt_shadow_live(cpu) != 0;
	out->nmi_pending = atomic_load(&cpu->nmi_pending);
	bt_fpu_get(cpu, out->xsave);
}

/* Control registers and EFER that no processor can hold (SDM 3, 2.5, 4.1 and 26.3.1.1). */
static bool
bt_state_control_valid(const struct x86_state *s)
{
	bool pg = s->cr0 & X86_CR0_PG, lma = s->efer & X86_EFER_LMA;

	if (s->cr0 >> 32 != 0 || (pg && !(s->cr0 & X86_CR0_PE)) ||
	    ((s->cr0 & X86_CR0_NW) && !(s->cr0 & X86_CR0_CD)))
		return false;
	if (lma != (pg && (s->efer & X86_EFER_LME)))
		return false;
	if (lma && !(s->cr4 & X86_CR4_PAE))
		return false;
	if (!lma && (s->cr4 & X86_CR4_PCIDE))
		return false;
	if (!lma && (s->seg[X86_CS].attr & X86_SEG_L) && (s->cr0 & X86_CR0_PE) && pg &&
	    (s->efer & X86_EFER_LME))
		return false;
	if (lma && (s->rflags & X86_FL_VM))
		return false;
	return s->rflags >> 32 == 0 && (s->rflags & X86_FL_1) && s->cr8 < 16;
}

static bool
bt_state_canonical(const struct x86_state *s)
{
	int shift = s->cr4 & X86_CR4_LA57 ? 7 : 16;
	const uint64_t la[] = { s->seg[X86_FS].base, s->seg[X86_GS].base, s->tr.base, s->ldtr.base,
		s->gdtr.base, s->idtr.base, s->lstar, s->cstar, s->kernel_gs_base,
		s->sysenter_esp, s->sysenter_eip };

	for (size_t i = 0; i < ARRAY_SIZE(la); i++)
		if ((int64_t)(la[i] << shift) >> shift != (int64_t)la[i])
			return false;
	return true;
}

static bool
bt_state_valid(const struct bt_vm *vm, const struct x86_state *s)
{
	uint64_t avx512 = s->xcr0 & X86_XCR0_AVX512;

	if (!bt_state_control_valid(s) || !bt_state_canonical(s))
		return false;
	if (!(s->xcr0 & X86_XCR0_X87) || (s->xcr0 & ~(x86_cpuid_xcr0(vm->cpuid) | X86_XCR0_X87)))
		return false;
	if ((s->xcr0 & X86_XCR0_AVX) && !(s->xcr0 & X86_XCR0_SSE))
		return false;
	if (avx512 != 0 && (avx512 != X86_XCR0_AVX512 || !(s->xcr0 & X86_XCR0_AVX)))
		return false;
	if (s->cr3 >> x86_cpuid_phys_bits(vm->cpuid) != 0)
		return false;
	if ((s->kvm_system_time & BIT(1)) || (s->kvm_wall_clock & 3))
		return false;
	return s->activity <= X86_SHUTDOWN && s->dr6 >> 32 == 0 && s->dr7 >> 32 == 0;
}

/* Keeps vCPUs' counters together: a value that was read within the last second or so, in order to be set
 * again, means the VM's common counter. */
static void
bt_state_set_tsc(struct bt_cpu *cpu, uint64_t tsc)
{
	uint64_t offset = tsc - bt_host_tsc();
	uint64_t common = atomic_load(&cpu->vm->tsc_offset);
	int64_t diff = (int64_t)(offset - common);

	if (diff < 0)
		diff = -diff;
	if ((uint64_t)diff < (uint64_t)cpu->vm->tsc_khz * 1000)
		offset = common;
	else if (cpu->id == 0)
		atomic_store(&cpu->vm->tsc_offset, offset);
	cpu->tsc_offset = offset;
}

static void
bt_state_set_system(struct bt_cpu *cpu, const struct x86_state *in)
{
	memcpy(cpu->seg, in->seg, sizeof(cpu->seg));
	cpu->ldtr = in->ldtr;
	cpu->tr = in->tr;
	cpu->gdtr = in->gdtr;
	cpu->idtr = in->idtr;
	cpu->cr0 = in->cr0 | X86_CR0_ET;
	cpu->cr2 = in->cr2;
	cpu->cr3 = in->cr3;
	cpu->cr4 = in->cr4;
	cpu->xcr0 = in->xcr0;
	cpu->xss = in->xss;
	memcpy(cpu->dr, in->dr, sizeof(cpu->dr));
	cpu->dr6 = in->dr6;
	cpu->dr7 = in->dr7;
	cpu->efer = in->efer;
	cpu->star = in->star;
	cpu->lstar = in->lstar;
	cpu->cstar = in->cstar;
	cpu->sfmask = in->sfmask;
	cpu->kernel_gs_base = in->kernel_gs_base;
	cpu->tsc_aux = in->tsc_aux;
	cpu->pat = in->pat;
	cpu->misc_enable = in->misc_enable;
	cpu->sysenter_cs = in->sysenter_cs;
	cpu->sysenter_esp = in->sysenter_esp;
	cpu->sysenter_eip = in->sysenter_eip;
	cpu->spec_ctrl = in->spec_ctrl;
	cpu->mtrr_def_type = in->mtrr_def_type;
	memcpy(cpu->mtrr_fixed, in->mtrr_fixed, sizeof(cpu->mtrr_fixed));
	memcpy(cpu->mtrr_var, in->mtrr_var, sizeof(cpu->mtrr_var));
	cpu->apic_base = in->apic_base;
	cpu->tsc_adjust = in->tsc_adjust;
}

/* The privilege level is not a register: it is SS's DPL in protected mode (SDM 3, 24.4.1). */
static uint8_t
bt_state_cpl(const struct x86_state *s)
{
	if (!(s->cr0 & X86_CR0_PE))
		return 0;
	return s->rflags & X86_FL_VM ? 3 : X86_SEG_DPL(s->seg[X86_SS].attr);
}

static int
bt_vcpu_set(struct engine_vcpu *vcpu, const struct x86_state *in)
{
	struct bt_cpu *cpu = bt_cpu(vcpu);

	if (!bt_state_valid(cpu->vm, in) || bt_fpu_set(cpu, in->xsave) != 0)
		return -EINVAL;
	bt_state_set_system(cpu, in);
	bt_state_set_tsc(cpu, in->tsc);
	bt_kvmclock_set(cpu, in);
	memcpy(cpu->r, in->gpr, sizeof(in->gpr));
	cpu->r[BT_REG_ZERO] = 0;
	cpu->r[BT_REG_RIP] = cpu->rf_rip = in->rip;
	cpu->cpl = bt_state_cpl(in);
	bt_flags_set_arith(cpu, (uint32_t)in->rflags);
	cpu->eflags = (uint32_t)in->rflags & ~(X86_FL_ARITH | X86_FL_1);
	cpu->activity = (uint8_t)in->activity;
	cpu->nmi_blocked = in->nmi_blocked != 0;
	atomic_store(&cpu->nmi_pending, in->nmi_pending != 0);
	cpu->shadow = 0;
	if (in->intr_shadow)
		bt_shadow_set(cpu, BT_SHADOW_STI);
	cpu->event.kind = BT_EVENT_NONE;
	cpu->dr6_pending = 0;
	cpu->op = &bt_op_none;

	bt_mode_update(cpu);
	bt_tlb_reset(cpu);
	bt_tlb_flush_all(cpu);
	bt_debug_update(cpu);
	bt_fpu_mode(cpu);
	if ((in->cr0 & X86_CR0_PG) && (in->cr4 & X86_CR4_PAE) && !cpu->lma)
		(void)bt_pdptes_load(cpu, in->cr3);
	/* Look at everything once. */
	atomic_store(&cpu->irq_hint, 1);
	bt_attn_set(cpu, BT_ATTN_IRQ | BT_ATTN_STEP);
	return 0;
}

const struct engine_ops bt_engine = {
	.name = "bt",
	.probe = bt_probe_host,
	.vm_create = bt_vm_create,
	.vm_destroy = bt_vm_destroy,
	.mem_map = bt_vm_mem_map,
	.mem_unmap = bt_vm_mem_unmap,
	.mem_written = bt_vm_mem_written,
	.cpuid = bt_vm_cpuid,
	.tsc_khz = bt_vm_tsc_khz,
	.tsc_read = bt_vm_tsc_read,
	.vcpu_create = bt_vcpu_create,
	.vcpu_destroy = bt_vcpu_destroy,
	.vcpu_run = bt_vcpu_run,
	.vcpu_kick = bt_vcpu_kick,
	.vcpu_nmi = bt_vcpu_nmi,
	.vcpu_get = bt_vcpu_get,
	.vcpu_set = bt_vcpu_set,
	.stats = bt_vm_stats,
};
