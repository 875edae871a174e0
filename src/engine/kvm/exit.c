/*
 * What a vCPU left the guest for (api.rst 5, "The kvm_run structure").
 */
#include "engine/kvm/kvm.h"

#include "base/config.h"
#include "base/log.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define KVM_PAGE 4096
/* The ring fills its page (api.rst 4.116); the header's KVM_COALESCED_MMIO_MAX leaves the page's size open. */
#define KVM_RING_MAX                                                                               \
	((KVM_PAGE - sizeof(struct kvm_coalesced_mmio_ring)) / sizeof(struct kvm_coalesced_mmio))

/* --- Accesses --- */

static void
kvm_exit_io(struct kvm_vcpu *v)
{
	const struct engine_vm_params *p = &v->vm->params;
	struct kvm_run *run = v->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;
	uint16_t port = run->io.port;
	int size = run->io.size;

	for (uint32_t i = 0; i < run->io.count; i++, data += size) {
		uint32_t val = 0;

		if (run->io.direction == KVM_EXIT_IO_OUT) {
			memcpy(&val, data, (size_t)size);
			p->machine->pio_write(p->ctx, v->id, port, size, val);
		} else {
			val = p->machine->pio_read(p->ctx, v->id, port, size);
			memcpy(data, &val, (size_t)size);
		}
	}
}

static void
kvm_exit_mmio(struct kvm_vcpu *v)
{
	const struct engine_vm_params *p = &v->vm->params;
	struct kvm_run *run = v->run;
	uint64_t gpa = run->mmio.phys_addr, val = 0;
	int size = (int)run->mmio.len;

	if (run->mmio.is_write) {
		memcpy(&val, run->mmio.data, (size_t)size);
		p->machine->mmio_write(p->ctx, v->id, gpa, size, val);
	} else {
		val = p->machine->mmio_read(p->ctx, v->id, gpa, size);
		memcpy(run->mmio.data, &val, sizeof(val));
	}
}

/* Unknown MSRs come here only when they are to be ignored: reads are 0. */
static void
kvm_exit_msr(struct kvm_vcpu *v)
{
	struct kvm_run *run = v->run;

	run->msr.error = 0;
	if (run->exit_reason == KVM_EXIT_X86_RDMSR)
		run->msr.data = 0;
	log_guest(KVM_WHO, "vcpu %d %s the unknown MSR %#x", v->id,
	    run->exit_reason == KVM_EXIT_X86_RDMSR ? "read" : "wrote", run->msr.index);
}

void
kvm_ring_drain(struct kvm_vcpu *v)
{
	const struct engine_vm_params *p = &v->vm->params;
	struct kvm_coalesced_mmio_ring *ring;
	const uint32_t max = KVM_RING_MAX;
	uint32_t first;

	if (v->vm->coalesced_page == 0)
		return;
	ring = (void *)((uint8_t *)v->run + v->vm->coalesced_page * KVM_PAGE);
	if (__atomic_load_n(&ring->first, __ATOMIC_RELAXED) ==
	    __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE))
		return;
	/* One ring for all vCPUs; what one wrote may be taken out by another, in order. */
	pthread_mutex_lock(&v->vm->ring_lock);
	while ((first = ring->first) != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
		struct kvm_coalesced_mmio m = ring->coalesced_mmio[first % max];
		uint64_t val = 0;

		__atomic_store_n(&ring->first, (first + 1) % max, __ATOMIC_RELEASE);
		memcpy(&val, m.data, MIN(m.len, sizeof(m.data)));
		if (m.pio)
			p->machine->pio_write(p->ctx, v->id, (uint16_t)m.phys_addr, (int)m.len,
			    (uint32_t)val);
		else
			p->machine->mmio_write(p->ctx, v->id, m.phys_addr, (int)m.len, val);
		kvm_stat_add(v, KVM_STAT_LATE, 1);
	}
	pthread_mutex_unlock(&v->vm->ring_lock);
}

/* --- Errors --- */

/* The bytes at RIP, as far as they are to be had. */
static void
kvm_exit_fetch(struct kvm_vcpu *v, struct engine_exit *out)
{
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_translation t = { 0 };
	size_t len;

	if (kvm_ioctl(v->fd, KVM_GET_REGS, &regs) != 0 ||
	    kvm_ioctl(v->fd, KVM_GET_SREGS, &sregs) != 0)
		return;
	t.linear_address = sregs.cs.base + regs.rip;
	if (kvm_ioctl(v->fd, KVM_TRANSLATE, &t) != 0 || !t.valid)
		return;
	len = MIN(sizeof(out->insn), KVM_PAGE - (t.physical_address & (KVM_PAGE - 1)));
	out->insn_len = (uint8_t)kvm_mem_peek(v->vm, t.physical_address, out->insn, len);
}

/* The registers, for whoever looks into it; the caller's line names CS:RIP. */
static void
kvm_exit_registers(struct kvm_vcpu *v)
{
	static const char *const names[X86_GPR_COUNT] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp",
		"rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15" };
	struct x86_state s;

	kvm_vcpu_get((struct engine_vcpu *)v, &s);
	for (int i = 0; i < X86_GPR_COUNT; i += 4)
		log_error(KVM_WHO, "vcpu %d: %s %016" PRIx64 " %s %016" PRIx64 " %s %016" PRIx64
		    " %s %016" PRIx64, v->id, names[i], s.gpr[i], names[i + 1], s.gpr[i + 1],
		    names[i + 2], s.gpr[i + 2], names[i + 3], s.gpr[i + 3]);
	log_error(KVM_WHO, "vcpu %d: rip %016" PRIx64 " rflags %08" PRIx64 " cr0 %08" PRIx64
	    " cr2 %016" PRIx64 " cr3 %016" PRIx64 " cr4 %08" PRIx64 " efer %04" PRIx64, v->id,
	    s.rip, s.rflags, s.cr0, s.cr2, s.cr3, s.cr4, s.efer);
	for (int i = 0; i < X86_SEG_COUNT; i += 3)
		log_error(KVM_WHO, "vcpu %d: %s %04x/%08" PRIx64 "/%08x/%04x %s %04x/%08" PRIx64
		    "/%08x/%04x %s %04x/%08" PRIx64 "/%08x/%04x", v->id, i == 0 ? "es" : "ds",
		    s.seg[i].selector, s.seg[i].base, s.seg[i].limit, s.seg[i].attr,
		    i == 0 ? "cs" : "fs", s.seg[i + 1].selector, s.seg[i + 1].base,
		    s.seg[i + 1].limit, s.seg[i + 1].attr, i == 0 ? "ss" : "gs",
		    s.seg[i + 2].selector, s.seg[i + 2].base, s.seg[i + 2].limit,
		    s.seg[i + 2].attr);
}

static void
kvm_exit_internal_error(struct kvm_vcpu *v, struct engine_exit *out)
{
	const struct kvm_run *run = v->run;
	const char *what = "of an unknown kind";

	switch (run->internal.suberror) {
	case KVM_INTERNAL_ERROR_EMULATION: what = "it cannot emulate an instruction"; break;
	case KVM_INTERNAL_ERROR_SIMUL_EX: what = "exceptions at the same time"; break;
	case KVM_INTERNAL_ERROR_DELIVERY_EV: what = "an exit while an event was delivered"; break;
	case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
		what = "an exit of the processor's that it does not know";
		break;
	}
	snprintf(out->text, sizeof(out->text), "KVM internal error %u: %s",
	    run->internal.suberror, what);
	if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION &&
	    run->emulation_failure.ndata >= 3 &&
	    (run->emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES)) {
		out->insn_len = MIN(run->emulation_failure.insn_size, sizeof(out->insn));
		memcpy(out->insn, run->emulation_failure.insn_bytes, out->insn_len);
	} else {
		for (uint32_t i = 0; i < MIN(run->internal.ndata, 16u); i++)
			log_error(KVM_WHO, "vcpu %d: data %u: %#llx", v->id, i,
			    (unsigned long long)run->internal.data[i]);
	}
}

static bool
kvm_exit_error(struct kvm_vcpu *v, struct engine_exit *out)
{
	const struct kvm_run *run = v->run;

	out->reason = ENGINE_EXIT_ERROR;
	switch (run->exit_reason) {
	case KVM_EXIT_INTERNAL_ERROR: kvm_exit_internal_error(v, out); break;
	case KVM_EXIT_FAIL_ENTRY:
		snprintf(out->text, sizeof(out->text),
		    "the processor refuses to enter the guest: hardware reason %#llx",
		    (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_UNKNOWN:
		snprintf(out->text, sizeof(out->text),
		    "the processor left the guest for a reason KVM does not know: %#llx",
		    (unsigned long long)run->hw.hardware_exit_reason);
		break;
	default:
		snprintf(out->text, sizeof(out->text), "unexpected exit %u from KVM",
		    run->exit_reason);
	}
	if (out->insn_len == 0)
		kvm_exit_fetch(v, out);
	kvm_exit_registers(v);
	return false;
}

void
kvm_exit_failed(struct kvm_vcpu *v, int err, struct engine_exit *out)
{
	out->reason = ENGINE_EXIT_ERROR;
	snprintf(out->text, sizeof(out->text), "KVM_RUN: %s%s", strerror(-err),
	    err == -EFAULT || err == -ENOMEM ? ": the host cannot provide the guest's memory" : "");
	kvm_exit_registers(v);
}

/* --- All --- */

bool
kvm_exit_handle(struct kvm_vcpu *v, struct engine_exit *out)
{
	const struct engine_vm_params *p = &v->vm->params;
	enum kvm_stat stat = KVM_STAT_OTHER;
	bool go_on = true;

	switch (v->run->exit_reason) {
	case KVM_EXIT_IO:
		stat = KVM_STAT_IO;
		kvm_exit_io(v);
		v->unfinished = true;
		break;
	case KVM_EXIT_MMIO:
		stat = KVM_STAT_MMIO;
		kvm_exit_mmio(v);
		v->unfinished = true;
		break;
	case KVM_EXIT_X86_RDMSR:
	case KVM_EXIT_X86_WRMSR:
		stat = KVM_STAT_MSR;
		kvm_exit_msr(v);
		v->unfinished = true;
		break;
	case KVM_EXIT_IOAPIC_EOI:
		stat = KVM_STAT_EOI;
		p->machine->eoi(p->ctx, v->id, v->run->eoi.vector);
		break;
	case KVM_EXIT_IRQ_WINDOW_OPEN: stat = KVM_STAT_WINDOW; break;
	case KVM_EXIT_INTR: stat = KVM_STAT_INTR; break;
	case KVM_EXIT_SHUTDOWN:
		out->reason = ENGINE_EXIT_SHUTDOWN;
		go_on = false;
		break;
	case KVM_EXIT_DEBUG:
		out->reason = ENGINE_EXIT_DEBUG;
		go_on = false;
		break;
	default: go_on = kvm_exit_error(v, out);
	}
	kvm_stat_add(v, stat, 1);
	return go_on;
}
