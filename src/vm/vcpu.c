/*
 * The vCPUs: a thread each, which runs the engine, waits while there is nothing to run, and does
 * what other vCPUs ask of it (INIT, start-up).
 *
 * A vCPU's `wake` word is what its thread sleeps on. vm_vcpu_kick() sets it to KICKED and makes a
 * system call only if the thread slept. The thread clears it before it looks at its requests and
 * enters the engine; anything that comes later is seen either by the engine (vcpu_kick()) or by the
 * attempt to sleep, which fails when the word is KICKED.
 *
 * Engines with local APICs of their own also do INIT and start-up themselves: their vCPUs are run
 * whatever state they are in.
 */
#include "vm/private.h"

#include "base/config.h"
#include "base/log.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum vm_vcpu_wake { VM_VCPU_AWAKE, VM_VCPU_KICKED, VM_VCPU_ASLEEP };

struct vm_vcpu {
	struct vm *vm;
	int id;
	struct engine_vcpu *engine;
	cpu_set_t cpuset; /* host CPUs to run on */
	bool pinned;
	pthread_t thread;
	_Atomic uint32_t wake; /* enum vm_vcpu_wake; a futex */

	pthread_mutex_t lock; /* guards the rest; never held while anything is called */
	bool init; /* INIT is to be done */
	int sipi; /* vector of the start-up to be done after that, or -1 */
	bool wait_sipi; /* waits for start-up */
};

struct vm_vcpus {
	int created, started;
	/* Serialises falling asleep for good (no interrupt can end it), so that the last one to do
	 * so sees all others. */
	pthread_mutex_t halt_lock;
	_Atomic int halted_for_good;
	struct vm_vcpu vcpu[];
};

/* The current vCPU's thread. */
static _Thread_local const struct vm_vcpu *vm_vcpu_current;

int
vm_vcpu_self(void)
{
	return vm_vcpu_current != NULL ? vm_vcpu_current->id : -1;
}

static bool
vm_vcpu_ended(const struct vm_vcpu *v)
{
	return atomic_load(&v->vm->exit) >= 0;
}

/* Whether INIT and start-up are ours to do. */
static bool
vm_vcpu_ours(const struct vm_vcpu *v)
{
	return v->vm->params.engine->msi == NULL;
}

/* --- Host CPUs --- */

/* Reads a list of host CPUs, "0,2-3". */
static bool
vm_vcpu_parse_cpuset(const char *text, cpu_set_t *set)
{
	CPU_ZERO(set);
	for (;;) {
		char *end;
		unsigned long first, last;

		if (*text < '0' || *text > '9')
			return false;
		first = last = strtoul(text, &end, 10);
		if (*end == '-') {
			text = end + 1;
			if (*text < '0' || *text > '9')
				return false;
			last = strtoul(text, &end, 10);
		}
		if (last < first || last >= CPU_SETSIZE)
			return false;
		for (; first <= last; first++)
			CPU_SET(first, set);
		if (*end == '\0')
			return true;
		if (*end != ',')
			return false;
		text = end + 1;
	}
}

/* The host CPUs of virtual CPU id: 0; -ENOENT: any; -EINVAL after one line to the user. */
static int
vm_vcpu_read_cpuset(const struct config *config, int id, cpu_set_t *set)
{
	char path[32];
	const char *text;
	cpu_set_t host;

	snprintf(path, sizeof(path), "vcpu.%d.cpuset", id);
	text = config != NULL ? config_get(config, path) : NULL;
	if (text == NULL)
		return -ENOENT;
	if (!vm_vcpu_parse_cpuset(text, set)) {
		log_error(path, "'%s': expected a list of host CPUs such as 0,2-3", text);
		return -EINVAL;
	}
	/* Fails where the kernel knows more CPUs than a cpu_set_t; pthread_create() checks too. */
	if (sched_getaffinity(0, sizeof(host), &host) == 0) {
		CPU_AND(&host, &host, set);
		if (CPU_COUNT(&host) == 0) {
			log_error(path, "'%s': this process may run on none of these host CPUs",
			    text);
			return -EINVAL;
		}
	}
	return 0;
}

int
vm_vcpus_check(const struct vm_params *params)
{
	const struct x86_topology *topo = &params->topo;
	int n = (int)(topo->sockets * topo->cores * topo->threads), err = 0;
	cpu_set_t set;

	for (int i = 0; i < n && (err == 0 || err == -ENOENT); i++)
		err = vm_vcpu_read_cpuset(params->config, i, &set);
	return err == -ENOENT ? 0 : err;
}

/* --- Creation --- */

int
vm_vcpus_create(struct vm *vm)
{
	int n = vm_vcpus(vm), err;
	struct vm_vcpus *all = calloc(1, sizeof(*all) + (size_t)n * sizeof(all->vcpu[0]));

	if (all == NULL)
		return -ENOMEM;
	pthread_mutex_init(&all->halt_lock, NULL);
	vm->vcpus = all;
	for (int i = 0; i < n; i++) {
		struct vm_vcpu *v = &all->vcpu[i];

		*v = (struct vm_vcpu){ .vm = vm, .id = i, .sipi = -1, .wait_sipi = i != 0 };
		v->pinned = vm_vcpu_read_cpuset(vm->params.config, i, &v->cpuset) == 0;
		err = vm->params.engine->vcpu_create(vm->engine, i, &v->engine);
		if (err != 0)
			return err;
		pthread_mutex_init(&v->lock, NULL);
		all->created++;
	}
	return 0;
}

void
vm_vcpus_destroy(struct vm *vm)
{
	struct vm_vcpus *all = vm->vcpus;

	if (all == NULL)
		return;
	for (int i = 0; i < all->created; i++) {
		vm->params.engine->vcpu_destroy(all->vcpu[i].engine);
		pthread_mutex_destroy(&all->vcpu[i].lock);
	}
	pthread_mutex_destroy(&all->halt_lock);
	free(all);
	vm->vcpus = NULL;
}

void
vm_vcpu_get(struct vm *vm, int cpu, struct x86_state *out)
{
	struct vm_vcpu *v = &vm->vcpus->vcpu[cpu];

	vm->params.engine->vcpu_get(v->engine, out);
	pthread_mutex_lock(&v->lock);
	if (v->wait_sipi && vm_vcpu_ours(v))
		out->activity = X86_WAIT_SIPI;
	pthread_mutex_unlock(&v->lock);
}

int
vm_vcpu_set(struct vm *vm, int cpu, const struct x86_state *in)
{
	struct vm_vcpu *v = &vm->vcpus->vcpu[cpu];
	int err = vm->params.engine->vcpu_set(v->engine, in);

	if (err != 0)
		return err;
	pthread_mutex_lock(&v->lock);
	v->wait_sipi = in->activity == X86_WAIT_SIPI;
	pthread_mutex_unlock(&v->lock);
	return 0;
}

/* --- Requests from any thread --- */

static void
vm_vcpu_wake(struct vm_vcpu *v, bool stop)
{
	if (atomic_exchange(&v->wake, VM_VCPU_KICKED) == VM_VCPU_ASLEEP)
		syscall(SYS_futex, &v->wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	v->vm->params.engine->vcpu_kick(v->engine, stop);
}

void
vm_vcpu_kick(struct vm *vm, int cpu)
{
	vm_vcpu_wake(&vm->vcpus->vcpu[cpu], false);
}

void
vm_vcpu_nmi(struct vm *vm, int cpu)
{
	struct vm_vcpu *v = &vm->vcpus->vcpu[cpu];

	vm->params.engine->vcpu_nmi(v->engine);
	vm_vcpu_wake(v, false);
}

void
vm_vcpu_init(struct vm *vm, int cpu)
{
	struct vm_vcpu *v = &vm->vcpus->vcpu[cpu];

	pthread_mutex_lock(&v->lock);
	v->init = true;
	v->sipi = -1;
	pthread_mutex_unlock(&v->lock);
	vm_vcpu_wake(v, true);
}

void
vm_vcpu_sipi(struct vm *vm, int cpu, uint8_t vector)
{
	struct vm_vcpu *v = &vm->vcpus->vcpu[cpu];
	bool taken = false;

	pthread_mutex_lock(&v->lock);
	/* An INIT just before it may not have been done yet. The first start-up after it counts. */
	if ((v->init ? v->id != 0 : v->wait_sipi) && v->sipi < 0) {
		v->sipi = vector;
		taken = true;
	}
	pthread_mutex_unlock(&v->lock);
	if (taken)
		vm_vcpu_wake(v, true);
}

void
vm_vcpus_stop(struct vm *vm)
{
	for (int i = 0; i < vm->vcpus->created; i++)
		vm_vcpu_wake(&vm->vcpus->vcpu[i], true);
}

/* --- On the vCPU's thread --- */

/* Ends the VM if no vCPU can ever run again: all are asleep without interrupts, and nobody was
 * kicked since. An NMI may still be sent from outside, but then the VM is as dead as one that has
 * ended. */
static void
vm_vcpu_check_all_halted(struct vm *vm)
{
	struct vm_vcpus *all = vm->vcpus;

	if (atomic_load(&all->halted_for_good) != all->created)
		return;
	for (int i = 0; i < all->created; i++) {
		if (atomic_load(&all->vcpu[i].wake) != VM_VCPU_ASLEEP)
			return;
	}
	vm_shutdown(vm, VM_EXIT_HALT);
}

/* Sleeps until kicked; at once if that has happened since `wake` was cleared. for_good: no
 * interrupt can end it. */
static void
vm_vcpu_sleep(struct vm_vcpu *v, bool for_good)
{
	struct vm_vcpus *all = v->vm->vcpus;
	uint32_t awake = VM_VCPU_AWAKE;

	if (for_good)
		pthread_mutex_lock(&all->halt_lock);
	if (!atomic_compare_exchange_strong(&v->wake, &awake, VM_VCPU_ASLEEP)) {
		if (for_good)
			pthread_mutex_unlock(&all->halt_lock);
		return;
	}
	if (for_good) {
		atomic_fetch_add(&all->halted_for_good, 1);
		vm_vcpu_check_all_halted(v->vm);
		pthread_mutex_unlock(&all->halt_lock);
	}
	while (atomic_load(&v->wake) == VM_VCPU_ASLEEP)
		syscall(SYS_futex, &v->wake, FUTEX_WAIT_PRIVATE, VM_VCPU_ASLEEP, NULL, NULL, 0);
	if (for_good)
		atomic_fetch_sub(&all->halted_for_good, 1);
}

/* Does INIT and start-up if asked for. Returns whether the vCPU waits for start-up. */
static bool
vm_vcpu_do_requests(struct vm_vcpu *v)
{
	const struct engine_ops *engine = v->vm->params.engine;
	const struct vm_apic_ops *apic;
	struct x86_state state;
	void *apic_ctx;
	bool init, wait;
	int sipi;

	pthread_mutex_lock(&v->lock);
	init = v->init;
	sipi = v->sipi;
	v->init = false;
	v->sipi = -1;
	if (init)
		v->wait_sipi = v->id != 0;
	if (sipi >= 0)
		v->wait_sipi = false;
	wait = v->wait_sipi;
	pthread_mutex_unlock(&v->lock);
	if (!init && sipi < 0)
		return wait;

	engine->vcpu_get(v->engine, &state);
	if (init) {
		x86_state_init(&state, v->id == 0);
		apic = vm_apic(v->vm, &apic_ctx);
		if (apic != NULL)
			apic->init(apic_ctx, v->id);
	}
	if (sipi >= 0)
		x86_state_sipi(&state, (uint8_t)sipi);
	if (engine->vcpu_set(v->engine, &state) != 0) {
		log_error(v->vm->name, "vcpu %d: the engine refuses the state after INIT", v->id);
		vm_shutdown(v->vm, VM_EXIT_ERROR);
	}
	return wait;
}

static void
vm_vcpu_report_error(struct vm_vcpu *v, const struct engine_exit *e)
{
	char bytes[3 * sizeof(e->insn) + 1] = "";
	struct x86_state state;

	v->vm->params.engine->vcpu_get(v->engine, &state);
	for (size_t i = 0; i < MIN(e->insn_len, sizeof(e->insn)); i++)
		snprintf(bytes + 3 * i, 4, " %02x", e->insn[i]);
	log_error(v->vm->name, "vcpu %d at %04x:%llx: %.*s%s%s", v->id, state.seg[X86_CS].selector,
	    (unsigned long long)state.rip, (int)sizeof(e->text), e->text,
	    bytes[0] != '\0' ? ", instruction bytes" : "", bytes);
}

static void
vm_vcpu_run_engine(struct vm_vcpu *v)
{
	struct engine_exit e = { .reason = ENGINE_EXIT_KICK };

	v->vm->params.engine->vcpu_run(v->engine, &e);
	switch (e.reason) {
	case ENGINE_EXIT_KICK: break;
	case ENGINE_EXIT_HALT: vm_vcpu_sleep(v, !e.intr_enabled); break;
	case ENGINE_EXIT_SHUTDOWN: vm_shutdown(v->vm, VM_EXIT_TRIPLE_FAULT); break;
	case ENGINE_EXIT_DEBUG: /* nobody asks for breakpoints */
	case ENGINE_EXIT_ERROR:
		vm_vcpu_report_error(v, &e);
		vm_shutdown(v->vm, VM_EXIT_ERROR);
		break;
	}
}

static void *
vm_vcpu_thread(void *arg)
{
	struct vm_vcpu *v = arg;
	char name[16];

	vm_vcpu_current = v;
	snprintf(name, sizeof(name), "vcpu %d", v->id);
	pthread_setname_np(pthread_self(), name);
	while (!vm_vcpu_ended(v)) {
		atomic_store(&v->wake, VM_VCPU_AWAKE);
		/* Looked at after clearing: vm_shutdown() sets it first and kicks then. */
		if (vm_vcpu_ended(v))
			break;
		if (vm_vcpu_ours(v) && vm_vcpu_do_requests(v))
			vm_vcpu_sleep(v, true);
		else
			vm_vcpu_run_engine(v);
	}
	return NULL;
}

/* --- Starting and joining --- */

static int
vm_vcpu_start(struct vm_vcpu *v)
{
	pthread_attr_t attr;
	int err;

	pthread_attr_init(&attr);
	err = v->pinned ? pthread_attr_setaffinity_np(&attr, sizeof(v->cpuset), &v->cpuset) : 0;
	if (err == 0)
		err = pthread_create(&v->thread, &attr, vm_vcpu_thread, v);
	pthread_attr_destroy(&attr);
	if (err != 0)
		log_error(v->vm->name, "cannot start the thread of vcpu %d: %s", v->id,
		    strerror(err));
	return -err;
}

int
vm_vcpus_start(struct vm *vm)
{
	static const int faults[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT };
	struct vm_vcpus *all = vm->vcpus;
	sigset_t block, old;
	int err = 0;

	/* Signals meant for the process go to the main thread. */
	sigfillset(&block);
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++)
		sigdelset(&block, faults[i]);
	pthread_sigmask(SIG_BLOCK, &block, &old);
	while (err == 0 && all->started < all->created) {
		err = vm_vcpu_start(&all->vcpu[all->started]);
		if (err == 0)
			all->started++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

void
vm_vcpus_join(struct vm *vm)
{
	struct vm_vcpus *all = vm->vcpus;

	while (all->started > 0)
		pthread_join(all->vcpu[--all->started].thread, NULL);
}
