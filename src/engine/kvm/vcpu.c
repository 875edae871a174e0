/*
 * vCPUs: making them, running them, and reaching those that run.
 *
 * A request from another thread is a bit in `requests`. The vCPU's thread looks at it after it has
 * set in_guest and cleared immediate_exit, on its way to KVM_RUN; who asks sets the bit, then
 * immediate_exit, then looks at in_guest and sends a signal if it is set. So whatever the order, the
 * bit is seen before the guest goes on: by the look, by KVM (immediate_exit), or because the signal
 * ends KVM_RUN.
 */
#include "engine/kvm/kvm.h"

#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

/* The signal that ends KVM_RUN; all its handler does is be there. */
#define KVM_KICK_SIGNAL SIGRTMIN

static void
kvm_kick_handler(int sig)
{
}

int
kvm_kick_prepare(void)
{
	struct sigaction sa = { .sa_handler = kvm_kick_handler };

	sigemptyset(&sa.sa_mask);
	return sigaction(KVM_KICK_SIGNAL, &sa, NULL) == 0 ? 0 : -errno;
}

/* --- Creation --- */

void
kvm_vcpu_destroy(struct engine_vcpu *vcpu)
{
	struct kvm_vcpu *v = kvm_vcpu(vcpu);

	v->vm->vcpu[v->id] = NULL;
	if (v->run != NULL)
		munmap(v->run, v->vm->run_size);
	if (v->fd >= 0)
		close(v->fd);
	free(v);
}

static int
kvm_vcpu_open(struct kvm_vcpu *v)
{
	struct kvm_vm *vm = v->vm;
	void *run;

	if (v->id == 0) {
		v->fd = vm->boot;
		vm->boot = -1;
	} else {
		v->fd = kvm_ioctl_val(vm->fd, KVM_CREATE_VCPU, v->apic_id);
	}
	if (v->fd < 0)
		return v->fd;
	run = mmap(NULL, vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED)
		return -errno;
	v->run = run;
	return kvm_cpuid_set(v);
}

int
kvm_vcpu_create(struct engine_vm *evm, int id, struct engine_vcpu **out)
{
	struct kvm_vm *vm = kvm_vm(evm);
	struct kvm_vcpu *v = calloc(1, sizeof(*v));
	int err;

	if (v == NULL)
		return -ENOMEM;
	v->vm = vm;
	v->id = id;
	v->fd = -1;
	v->apic_id = x86_topology_apic_id(&vm->params.topo, (uint32_t)id);
	err = kvm_vcpu_open(v);
	if (err != 0) {
		log_error(KVM_WHO, "cannot create vCPU %d: %s", id, strerror(-err));
		kvm_vcpu_destroy((struct engine_vcpu *)v);
		return err;
	}
	if (vm->msrs == 0)
		kvm_msrs_find(v);
	kvm_tsc_measure(v);
	vm->vcpu[id] = v;
	*out = (struct engine_vcpu *)v;
	return 0;
}

/* --- From other threads --- */

static void
kvm_vcpu_request(struct kvm_vcpu *v, uint32_t what)
{
	atomic_fetch_or(&v->requests, what);
	__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
	if (atomic_load(&v->in_guest))
		(void)pthread_kill(atomic_load(&v->thread), KVM_KICK_SIGNAL);
}

void
kvm_vcpu_kick(struct engine_vcpu *vcpu, bool stop)
{
	struct kvm_vcpu *v = kvm_vcpu(vcpu);
	uint32_t what = stop ? KVM_REQ_STOP : 0;

	/* The 8259 is wired to the bootstrap processor; KVM itself sees to all else. */
	if (v->id == 0)
		what |= KVM_REQ_INTR;
	if (what != 0)
		kvm_vcpu_request(v, what);
}

void
kvm_vcpu_nmi(struct engine_vcpu *vcpu)
{
	kvm_vcpu_request(kvm_vcpu(vcpu), KVM_REQ_NMI);
}

/* --- Running --- */

/* The threads of vCPUs are made with all signals blocked. */
static void
kvm_vcpu_unblock(struct kvm_vcpu *v)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, KVM_KICK_SIGNAL);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
	atomic_store(&v->thread, pthread_self());
}

/* Takes the 8259's interrupt if there is one and KVM has room for it, or asks to be told when it has
 * (api.rst 4.16, "KVM_INTERRUPT"; 5, "request_interrupt_window"). */
static void
kvm_vcpu_take_intr(struct kvm_vcpu *v)
{
	const struct engine_vm_params *p = &v->vm->params;
	struct kvm_interrupt intr;
	int vector;

	if (v->intr_wanted && v->run->ready_for_interrupt_injection) {
		vector = p->machine->intr_ack(p->ctx, v->id);
		intr.irq = (uint32_t)vector;
		if (vector >= 0 && kvm_ioctl(v->fd, KVM_INTERRUPT, &intr) == 0)
			v->run->ready_for_interrupt_injection = 0;
	}
	v->intr_wanted = p->machine->intr_pending(p->ctx, v->id) >= 0;
	v->run->request_interrupt_window = v->intr_wanted;
}

/* Does what others asked for. Returns whether vcpu_run() is to end. */
static bool
kvm_vcpu_do_requests(struct kvm_vcpu *v)
{
	uint32_t what = atomic_load(&v->requests);

	if (what == 0 && !v->intr_wanted)
		return false;
	/* An access that is not finished is finished first. */
	if ((what & KVM_REQ_STOP) && v->unfinished) {
		__atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		return false;
	}
	what = atomic_exchange(&v->requests, 0);
	if (what & KVM_REQ_NMI)
		(void)kvm_ioctl_val(v->fd, KVM_NMI, 0);
	v->intr_wanted |= (what & KVM_REQ_INTR) != 0;
	if (v->intr_wanted)
		kvm_vcpu_take_intr(v);
	return what & KVM_REQ_STOP;
}

/* Enters the guest until it leaves it. True: the guest left; false: go on or look at requests. */
static bool
kvm_vcpu_enter(struct kvm_vcpu *v, struct engine_exit *exit, bool *end)
{
	int err = 0;

	atomic_store(&v->in_guest, 1);
	__atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
	*end = kvm_vcpu_do_requests(v);
	if (!*end)
		err = kvm_ioctl_val(v->fd, KVM_RUN, 0);
	atomic_store(&v->in_guest, 0);
	if (*end) {
		exit->reason = ENGINE_EXIT_KICK;
		return false;
	}
	v->unfinished = false;
	kvm_ring_drain(v);
	if (err == 0)
		return true;
	/* EAGAIN: an application processor was started. */
	kvm_stat_add(v, KVM_STAT_INTR, 1);
	if (err != -EINTR && err != -EAGAIN) {
		kvm_exit_failed(v, err, exit);
		*end = true;
	}
	return false;
}

void
kvm_vcpu_run(struct engine_vcpu *vcpu, struct engine_exit *exit)
{
	struct kvm_vcpu *v = kvm_vcpu(vcpu);
	bool end = false;

	memset(exit, 0, sizeof(*exit));
	if (!v->signal_ready || !pthread_equal(atomic_load(&v->thread), pthread_self())) {
		kvm_vcpu_unblock(v);
		v->signal_ready = true;
	}
	while (!end) {
		if (kvm_vcpu_enter(v, exit, &end))
			end = !kvm_exit_handle(v, exit);
	}
}
