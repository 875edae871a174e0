/*
 * The state of a vCPU, in and out.
 *
 * Order when setting, each step needing the ones before: what may be enabled (CPUID was set at
 * creation), system registers with EFER and the APIC's base, XCR0 and the extended state, MSRs, the TSC,
 * the local APIC with its timer, the deadline, events, and what the vCPU is doing.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#define KVM_XCR0 0

/* --- Registers --- */

static void
kvm_state_get_regs(const struct kvm_regs *r, struct x86_state *out)
{
	const uint64_t gpr[X86_GPR_COUNT] = { r->rax, r->rcx, r->rdx, r->rbx, r->rsp, r->rbp, r->rsi,
		r->rdi, r->r8, r->r9, r->r10, r->r11, r->r12, r->r13, r->r14, r->r15 };

	memcpy(out->gpr, gpr, sizeof(gpr));
	out->rip = r->rip;
	out->rflags = r->rflags;
}

static int
kvm_state_set_regs(struct kvm_vcpu *v, const struct x86_state *in)
{
	const uint64_t *g = in->gpr;
	struct kvm_regs r = {
		.rax = g[X86_RAX], .rcx = g[X86_RCX], .rdx = g[X86_RDX], .rbx = g[X86_RBX],
		.rsp = g[X86_RSP], .rbp = g[X86_RBP], .rsi = g[X86_RSI], .rdi = g[X86_RDI],
		.r8 = g[X86_R8], .r9 = g[X86_R9], .r10 = g[X86_R10], .r11 = g[X86_R11],
		.r12 = g[X86_R12], .r13 = g[X86_R13], .r14 = g[X86_R14], .r15 = g[X86_R15],
		.rip = in->rip,
		.rflags = in->rflags,
	};

	return kvm_ioctl(v->fd, KVM_SET_REGS, &r);
}

static struct x86_segment
kvm_segment_get(const struct kvm_segment *s)
{
	uint32_t attr = s->type | (uint32_t)s->s << 4 | (uint32_t)s->dpl << 5 |
	    (uint32_t)(s->present && !s->unusable) << 7 | (uint32_t)s->avl << 12 |
	    (uint32_t)s->l << 13 | (uint32_t)s->db << 14 | (uint32_t)s->g << 15;

	return (struct x86_segment){ s->selector, (uint16_t)attr, s->limit, s->base };
}

static struct kvm_segment
kvm_segment_set(const struct x86_segment *s)
{
	bool present = s->attr & X86_SEG_P;

	return (struct kvm_segment){
		.base = s->base,
		.limit = s->limit,
		.selector = s->selector,
		.type = s->attr & X86_SEG_TYPE,
		.s = (s->attr & X86_SEG_S) != 0,
		.dpl = X86_SEG_DPL(s->attr),
		.present = present,
		.unusable = !present,
		.avl = s->attr >> 12 & 1,
		.l = (s->attr & X86_SEG_L) != 0,
		.db = (s->attr & X86_SEG_DB) != 0,
		.g = (s->attr & X86_SEG_G) != 0,
	};
}

static void
kvm_state_get_sregs(const struct kvm_sregs *s, struct x86_state *out)
{
	const struct kvm_segment seg[X86_SEG_COUNT] = { s->es, s->cs, s->ss, s->ds, s->fs, s->gs };

	for (int i = 0; i < X86_SEG_COUNT; i++)
		out->seg[i] = kvm_segment_get(&seg[i]);
	out->ldtr = kvm_segment_get(&s->ldt);
	out->tr = kvm_segment_get(&s->tr);
	out->gdtr = (struct x86_table){ s->gdt.base, s->gdt.limit };
	out->idtr = (struct x86_table){ s->idt.base, s->idt.limit };
	out->cr0 = s->cr0;
	out->cr2 = s->cr2;
	out->cr3 = s->cr3;
	out->cr4 = s->cr4;
	out->cr8 = s->cr8;
	out->efer = s->efer;
	out->apic_base = s->apic_base;
}

static int
kvm_state_set_sregs(struct kvm_vcpu *v, const struct x86_state *in)
{
	struct kvm_sregs s = {
		.es = kvm_segment_set(&in->seg[X86_ES]),
		.cs = kvm_segment_set(&in->seg[X86_CS]),
		.ss = kvm_segment_set(&in->seg[X86_SS]),
		.ds = kvm_segment_set(&in->seg[X86_DS]),
		.fs = kvm_segment_set(&in->seg[X86_FS]),
		.gs = kvm_segment_set(&in->seg[X86_GS]),
		.ldt = kvm_segment_set(&in->ldtr),
		.tr = kvm_segment_set(&in->tr),
		.gdt = { .base = in->gdtr.base, .limit = in->gdtr.limit },
		.idt = { .base = in->idtr.base, .limit = in->idtr.limit },
		.cr0 = in->cr0,
		.cr2 = in->cr2,
		.cr3 = in->cr3,
		.cr4 = in->cr4,
		.cr8 = in->cr8,
		.efer = in->efer,
		.apic_base = in->apic_base,
	};

	/* An interrupt that was acknowledged is set with the events. */
	return kvm_ioctl(v->fd, KVM_SET_SREGS, &s);
}

static void
kvm_state_get_debug(struct kvm_vcpu *v, struct x86_state *out)
{
	struct kvm_debugregs d = { 0 };

	if (kvm_ioctl(v->fd, KVM_GET_DEBUGREGS, &d) != 0)
		return;
	memcpy(out->dr, d.db, sizeof(out->dr));
	out->dr6 = d.dr6;
	out->dr7 = d.dr7;
}

static int
kvm_state_set_debug(struct kvm_vcpu *v, const struct x86_state *in)
{
	struct kvm_debugregs d = { .dr6 = in->dr6, .dr7 = in->dr7 };

	memcpy(d.db, in->dr, sizeof(d.db));
	return kvm_ioctl(v->fd, KVM_SET_DEBUGREGS, &d);
}

/* --- x87 and vectors --- */

static void
kvm_state_get_fpu(struct kvm_vcpu *v, struct x86_state *out)
{
	struct kvm_xcrs xcrs = { 0 };
	struct kvm_xsave xsave;

	static_assert(sizeof(xsave) == X86_XSAVE_SIZE, "api.rst 4.42");
	if (kvm_ioctl(v->fd, KVM_GET_XSAVE, &xsave) == 0)
		memcpy(out->xsave, &xsave, sizeof(out->xsave));
	out->xcr0 = X86_XCR0_X87;
	if (v->vm->xcrs && kvm_ioctl(v->fd, KVM_GET_XCRS, &xcrs) == 0) {
		for (uint32_t i = 0; i < xcrs.nr_xcrs; i++) {
			if (xcrs.xcrs[i].xcr == KVM_XCR0)
				out->xcr0 = xcrs.xcrs[i].value;
		}
	}
}

static int
kvm_state_set_fpu(struct kvm_vcpu *v, const struct x86_state *in)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1,
		.xcrs = { { .xcr = KVM_XCR0, .value = in->xcr0 } } };
	struct kvm_xsave xsave;
	int err = 0;

	memcpy(&xsave, in->xsave, sizeof(xsave));
	if (v->vm->xcrs)
		err = kvm_ioctl(v->fd, KVM_SET_XCRS, &xcrs);
	return err == 0 ? kvm_ioctl(v->fd, KVM_SET_XSAVE, &xsave) : err;
}

/* --- Events --- */

static void
kvm_state_get_events(struct kvm_vcpu *v, struct x86_state *out)
{
	struct kvm_vcpu_events e = { 0 };

	if (kvm_ioctl(v->fd, KVM_GET_VCPU_EVENTS, &e) != 0)
		return;
	out->nmi_pending = e.nmi.pending || e.nmi.injected ||
	    (atomic_load(&v->requests) & KVM_REQ_NMI);
	out->nmi_blocked = e.nmi.masked;
	out->intr_shadow = e.interrupt.shadow != 0;
	if (e.exception.injected || e.exception.pending) {
		out->event = X86_EVENT_EXCEPTION;
		out->event_vector = e.exception.nr;
		out->event_has_error = e.exception.has_error_code;
		out->event_error = e.exception.error_code;
	} else if (e.interrupt.injected) {
		out->event = e.interrupt.soft ? X86_EVENT_SOFT_INTERRUPT : X86_EVENT_INTERRUPT;
		out->event_vector = e.interrupt.nr;
	}
}

static int
kvm_state_set_events(struct kvm_vcpu *v, const struct x86_state *in)
{
	struct kvm_vcpu_events e = {
		.flags = KVM_VCPUEVENT_VALID_NMI_PENDING | KVM_VCPUEVENT_VALID_SHADOW,
		.nmi = { .pending = in->nmi_pending, .masked = in->nmi_blocked },
	};

	/* KVM has it as two kinds, of which this is the one that no instruction cuts short. */
	if (in->intr_shadow)
		e.interrupt.shadow = KVM_X86_SHADOW_INT_STI;
	switch (in->event) {
	case X86_EVENT_NONE: break;
	case X86_EVENT_EXCEPTION:
		e.exception.injected = 1;
		e.exception.nr = in->event_vector;
		e.exception.has_error_code = in->event_has_error;
		e.exception.error_code = in->event_error;
		break;
	case X86_EVENT_SOFT_INTERRUPT:
	case X86_EVENT_INTERRUPT:
		e.interrupt.soft = in->event == X86_EVENT_SOFT_INTERRUPT;
		e.interrupt.injected = 1;
		e.interrupt.nr = in->event_vector;
		break;
	default: return -EINVAL;
	}
	return kvm_ioctl(v->fd, KVM_SET_VCPU_EVENTS, &e);
}

static enum x86_activity
kvm_state_get_activity(struct kvm_vcpu *v)
{
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };

	(void)kvm_ioctl(v->fd, KVM_GET_MP_STATE, &mp);
	switch (mp.mp_state) {
	case KVM_MP_STATE_UNINITIALIZED:
	case KVM_MP_STATE_INIT_RECEIVED:
	case KVM_MP_STATE_SIPI_RECEIVED: return X86_WAIT_SIPI;
	case KVM_MP_STATE_HALTED: return X86_HALTED;
	default: return X86_RUNNING;
	}
}

static int
kvm_state_set_activity(struct kvm_vcpu *v, const struct x86_state *in)
{
	struct kvm_mp_state mp = { .mp_state = KVM_MP_STATE_RUNNABLE };

	if (in->activity == X86_WAIT_SIPI)
		mp.mp_state = KVM_MP_STATE_INIT_RECEIVED;
	else if (in->activity == X86_HALTED)
		mp.mp_state = KVM_MP_STATE_HALTED;
	return kvm_ioctl(v->fd, KVM_SET_MP_STATE, &mp);
}

/* --- Time --- */

static void
kvm_state_get_time(struct kvm_vcpu *v, struct x86_state *out)
{
	struct kvm_clock_data clock = { 0 };

	(void)kvm_msr_get(v, X86_MSR_TSC, &out->tsc);
	(void)kvm_msr_get(v, X86_MSR_TSC_DEADLINE, &out->tsc_deadline);
	if (v->vm->adjust_clock && kvm_ioctl(v->vm->fd, KVM_GET_CLOCK, &clock) == 0)
		out->kvm_clock_ns = clock.clock;
}

/* A difference of less than a second means that a state was read, changed and set again. Then the
 * counters go on undisturbed: those of all vCPUs run together, and setting one might part them. */
static bool
kvm_state_is_now(const struct kvm_vcpu *v, uint64_t then, uint64_t now, uint64_t per_second)
{
	return now - then < per_second || then - now < per_second;
}

static int
kvm_state_set_time(struct kvm_vcpu *v, const struct x86_state *in)
{
	struct kvm_clock_data clock = { 0 };
	uint64_t now;
	int err;

	err = kvm_msr_get(v, X86_MSR_TSC, &now);
	if (err == 0 && !kvm_state_is_now(v, in->tsc, now, (uint64_t)v->vm->tsc_khz * 1000)) {
		err = kvm_msr_set(v, X86_MSR_TSC, in->tsc);
		kvm_tsc_measure(v);
	}
	if (err != 0 || v->id != 0 || !v->vm->adjust_clock)
		return err;
	err = kvm_ioctl(v->vm->fd, KVM_GET_CLOCK, &clock);
	if (err != 0 || kvm_state_is_now(v, in->kvm_clock_ns, clock.clock, 1000000000u))
		return err;
	clock = (struct kvm_clock_data){ .clock = in->kvm_clock_ns };
	return kvm_ioctl(v->vm->fd, KVM_SET_CLOCK, &clock);
}

/* --- Local APIC --- */

static void
kvm_state_get_lapic(struct kvm_vcpu *v, struct x86_state *out)
{
	struct kvm_lapic_state lapic;

	static_assert(sizeof(lapic.regs) == X86_LAPIC_SIZE, "api.rst 4.57");
	if (kvm_ioctl(v->fd, KVM_GET_LAPIC, &lapic) != 0)
		return;
	memcpy(out->lapic, lapic.regs, sizeof(out->lapic));
	out->lapic_valid = 1;
}

static int
kvm_state_set_lapic(struct kvm_vcpu *v, const struct x86_state *in)
{
	struct kvm_lapic_state lapic;
	int err;

	if (!in->lapic_valid)
		return 0;
	memcpy(lapic.regs, in->lapic, sizeof(in->lapic));
	err = kvm_ioctl(v->fd, KVM_SET_LAPIC, &lapic);
	/* Refused where the timer is in another mode or the processor has no such MSR: 0 then. */
	if (err == 0 && in->tsc_deadline != 0)
		err = kvm_msr_set(v, X86_MSR_TSC_DEADLINE, in->tsc_deadline);
	return err;
}

/* --- All --- */

void
kvm_vcpu_get(struct engine_vcpu *vcpu, struct x86_state *out)
{
	struct kvm_vcpu *v = kvm_vcpu(vcpu);
	struct kvm_regs regs = { 0 };
	struct kvm_sregs sregs = { 0 };

	memset(out, 0, sizeof(*out));
	/* Takes in what waits to be (INIT, start-up), so before the rest. */
	out->activity = kvm_state_get_activity(v);
	(void)kvm_ioctl(v->fd, KVM_GET_REGS, &regs);
	(void)kvm_ioctl(v->fd, KVM_GET_SREGS, &sregs);
	kvm_state_get_regs(&regs, out);
	kvm_state_get_sregs(&sregs, out);
	kvm_state_get_debug(v, out);
	kvm_state_get_fpu(v, out);
	kvm_msrs_get(v, out);
	kvm_state_get_time(v, out);
	kvm_state_get_lapic(v, out);
	kvm_state_get_events(v, out);
}

int
kvm_vcpu_set(struct engine_vcpu *vcpu, const struct x86_state *in)
{
	static int (*const steps[])(struct kvm_vcpu *v, const struct x86_state *in) = {
		kvm_state_set_sregs, kvm_state_set_regs, kvm_state_set_debug, kvm_state_set_fpu,
		kvm_msrs_set, kvm_state_set_time, kvm_state_set_lapic, kvm_state_set_events,
		kvm_state_set_activity
	};
	struct kvm_vcpu *v = kvm_vcpu(vcpu);
	int err = 0;

	if (in->activity == X86_SHUTDOWN)
		return -EINVAL;
	for (size_t i = 0; err == 0 && i < ARRAY_SIZE(steps); i++)
		err = steps[i](v, in);
	return err == 0 ? 0 : -EINVAL;
}
