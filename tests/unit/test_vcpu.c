/*
 * vCPU threads: how a VM ends, halt and wake, INIT and start-up, pinning. The "guests" are C
 * functions.
 */
#include "mock_engine.h"

#include "base/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

/* What a test's guest shares with the test. */
struct guest {
	struct vm *vm;
	struct vm_timer *timer;
	_Atomic int token, rounds, step;
	struct x86_state seen;
	int self, spins;
	char name[16];
	bool term_blocked;
	cpu_set_t cpus;
};

static struct vm *
make(struct guest *g, int vcpus, void (*run)(struct engine_vcpu *v, struct engine_exit *e))
{
	memset(g, 0, sizeof(*g));
	g->vm = mock_vm_create(MIB(1), vcpus);
	assert_non_null(g->vm);
	mock_vm(g->vm)->run = run;
	mock_vm(g->vm)->arg = g;
	return g->vm;
}

static struct guest *
guest_of(struct engine_vcpu *v)
{
	return v->vm->arg;
}

/* Runs with stderr captured. */
static enum vm_exit
run_captured(struct vm *vm, char *said, size_t size)
{
	int saved = dup(STDERR_FILENO), p[2];
	enum vm_exit how;
	ssize_t n;

	assert_int_equal(pipe(p), 0);
	dup2(p[1], STDERR_FILENO);
	how = vm_run(vm);
	dup2(saved, STDERR_FILENO);
	close(p[1]);
	n = read(p[0], said, size - 1);
	said[n > 0 ? n : 0] = '\0';
	close(saved);
	close(p[0]);
	return how;
}

/* --- The end --- */

static void
test_shutdown_before_run(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 2, NULL);

	vm_shutdown(vm, VM_EXIT_POWEROFF);
	vm_shutdown(vm, VM_EXIT_ERROR);
	assert_int_equal(vm_run(vm), VM_EXIT_POWEROFF);
	vm_destroy(vm);
}

static void
guest_spin(struct engine_vcpu *v, struct engine_exit *e)
{
	while (!atomic_exchange(&v->stop, false))
		sched_yield();
	e->reason = ENGINE_EXIT_KICK;
}

static void
power_off(void *arg)
{
	vm_shutdown(arg, VM_EXIT_POWEROFF);
}

static void
test_shutdown_stops_spinning(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 3, guest_spin);

	for (int i = 1; i < 3; i++) {
		struct x86_state s;

		vm_vcpu_get(vm, i, &s);
		assert_int_equal(s.activity, X86_WAIT_SIPI);
		s.activity = X86_RUNNING;
		assert_int_equal(vm_vcpu_set(vm, i, &s), 0);
	}
	assert_int_equal(vm_loop_defer(vm_loop(vm), power_off, vm), 0);
	assert_int_equal(vm_run(vm), VM_EXIT_POWEROFF);
	vm_destroy(vm);
}

static void
guest_triple_fault(struct engine_vcpu *v, struct engine_exit *e)
{
	e->reason = ENGINE_EXIT_SHUTDOWN;
}

static void
test_triple_fault(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 1, guest_triple_fault);

	assert_int_equal(vm_run(vm), VM_EXIT_TRIPLE_FAULT);
	vm_destroy(vm);
}

static void
guest_error(struct engine_vcpu *v, struct engine_exit *e)
{
	v->state.rip = 0x7c00;
	v->state.seg[X86_CS].selector = 0x10;
	e->reason = ENGINE_EXIT_ERROR;
	snprintf(e->text, sizeof(e->text), "cannot run this");
	e->insn[0] = 0x0f;
	e->insn[1] = 0xa0;
	e->insn_len = 2;
}

static void
test_error(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 1, guest_error);
	char said[256];

	assert_int_equal(run_captured(vm, said, sizeof(said)), VM_EXIT_ERROR);
	assert_string_equal(said,
	    "bhyve: test: vcpu 0 at 0010:7c00: cannot run this, instruction bytes 0f a0\n");
	vm_destroy(vm);
}

static void
guest_halt_forever(struct engine_vcpu *v, struct engine_exit *e)
{
	e->intr_enabled = false;
}

static void
test_all_halted(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 3, guest_halt_forever); /* two never started */

	assert_int_equal(vm_run(vm), VM_EXIT_HALT);
	vm_destroy(vm);
}

/* --- Halt and wake --- */

static void
guest_wait_for_kick(struct engine_vcpu *v, struct engine_exit *e)
{
	struct guest *g = guest_of(v);

	if (v->runs == 1)
		vm_timer_arm(g->timer, MOCK_CLOCK_START + 1000000);
	else
		vm_shutdown(g->vm, VM_EXIT_REBOOT);
}

static void
kick(void *arg)
{
	vm_vcpu_kick(arg, 0);
}

static void
test_kick_wakes(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 1, guest_wait_for_kick);

	g.timer = vm_timer_create(vm_loop(vm), kick, vm);
	vm_clock_resume(vm_loop(vm));
	assert_int_equal(vm_run(vm), VM_EXIT_REBOOT);
	assert_int_equal(mock_vcpu(vm, 0)->runs, 2);
	vm_timer_destroy(g.timer);
	vm_destroy(vm);
}

#define PING_ROUNDS 5000

/* Two vCPUs hand a token to each other, each halting in between: a lost wake-up would hang. */
static void
guest_ping(struct engine_vcpu *v, struct engine_exit *e)
{
	struct guest *g = guest_of(v);

	if (g->token != v->id)
		return;
	if (++g->rounds == PING_ROUNDS) {
		vm_shutdown(g->vm, VM_EXIT_POWEROFF);
		return;
	}
	g->token = !v->id;
	vm_vcpu_kick(g->vm, !v->id);
}

/* The same with interrupts off and NMIs: the VM must not count as halted while one is on its way,
 * and must at the end. */
static void
guest_ping_nmi(struct engine_vcpu *v, struct engine_exit *e)
{
	struct guest *g = guest_of(v);

	e->intr_enabled = false;
	if (g->token != v->id || g->rounds == PING_ROUNDS)
		return;
	g->rounds++;
	g->token = !v->id;
	vm_vcpu_nmi(g->vm, !v->id);
}

static void
start_all(struct vm *vm)
{
	struct x86_state s;

	for (int i = 1; i < vm_vcpus(vm); i++) {
		vm_vcpu_get(vm, i, &s);
		s.activity = X86_RUNNING;
		assert_int_equal(vm_vcpu_set(vm, i, &s), 0);
	}
}

static void
test_no_lost_wakeup(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 2, guest_ping);

	start_all(vm);
	assert_int_equal(vm_run(vm), VM_EXIT_POWEROFF);
	assert_int_equal(g.rounds, PING_ROUNDS);
	vm_destroy(vm);
}

static void
test_nmi_keeps_alive(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 2, guest_ping_nmi);

	start_all(vm);
	assert_int_equal(vm_run(vm), VM_EXIT_HALT);
	assert_int_equal(g.rounds, PING_ROUNDS);
	assert_int_equal(mock_vcpu(vm, 0)->nmis + mock_vcpu(vm, 1)->nmis, PING_ROUNDS);
	vm_destroy(vm);
}

/* --- INIT and start-up --- */

static void
guest_start_other(struct engine_vcpu *v, struct engine_exit *e)
{
	struct guest *g = guest_of(v);

	if (v->id == 1) {
		g->seen = v->state;
		vm_shutdown(g->vm, VM_EXIT_POWEROFF);
	} else if (g->step++ == 0) {
		vm_vcpu_sipi(g->vm, 0, 0x11); /* to itself, running: ignored */
		vm_vcpu_init(g->vm, 1);
		vm_vcpu_sipi(g->vm, 1, 0x9a);
		vm_vcpu_sipi(g->vm, 1, 0x55); /* the second is ignored */
	}
}

static void
test_init_sipi(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 2, guest_start_other);
	struct x86_state s;

	vm_vcpu_get(vm, 1, &s);
	s.tsc_aux = 1234; /* survives INIT */
	s.gpr[X86_RBX] = 5; /* does not */
	assert_int_equal(vm_vcpu_set(vm, 1, &s), 0);
	assert_int_equal(vm_run(vm), VM_EXIT_POWEROFF);
	assert_int_equal(g.seen.seg[X86_CS].selector, 0x9a00);
	assert_int_equal(g.seen.seg[X86_CS].base, 0x9a000);
	assert_int_equal(g.seen.rip, 0);
	assert_int_equal(g.seen.tsc_aux, 1234);
	assert_int_equal(g.seen.gpr[X86_RBX], 0);
	assert_int_equal(mock_vcpu(vm, 0)->state.rip, 0xfff0);
	vm_destroy(vm);
}

/* Start-up without INIT does nothing to one that runs; INIT sends it back to waiting. */
static void
guest_restart_other(struct engine_vcpu *v, struct engine_exit *e)
{
	struct guest *g = guest_of(v);

	if (v->id == 0) {
		switch (atomic_load(&g->step)) {
		case 0:
			g->step = 1; /* before the other can run and miss it */
			vm_vcpu_init(g->vm, 1);
			vm_vcpu_sipi(g->vm, 1, 1);
			break;
		case 2: /* it runs at 1 */
			vm_vcpu_sipi(g->vm, 1, 2);
			g->step = 3;
			vm_vcpu_kick(g->vm, 1);
			break;
		case 4: /* it still was at 1 */
			g->step = 5;
			vm_vcpu_init(g->vm, 1);
			vm_vcpu_sipi(g->vm, 1, 3);
			break;
		}
		return;
	}
	if ((g->step == 1 || g->step == 3) && v->state.seg[X86_CS].selector == 0x100) {
		g->step++;
		vm_vcpu_kick(g->vm, 0);
	} else if (g->step == 5 && v->state.seg[X86_CS].selector == 0x300) {
		vm_shutdown(g->vm, VM_EXIT_POWEROFF);
	}
}

static void
test_sipi_needs_init(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 2, guest_restart_other);

	assert_int_equal(vm_run(vm), VM_EXIT_POWEROFF);
	assert_int_equal(g.step, 5);
	vm_destroy(vm);
}

static void
apic_init(void *ctx, int cpu)
{
	*(int *)ctx |= 1 << cpu;
}

static void
guest_init_self(struct engine_vcpu *v, struct engine_exit *e)
{
	struct guest *g = guest_of(v);

	if (g->step++ == 0) {
		v->state.rip = 0x1234;
		vm_vcpu_init(g->vm, 0);
	} else if (v->state.rip == 0xfff0) {
		vm_shutdown(g->vm, VM_EXIT_POWEROFF);
	}
}

static void
test_init_bootstrap(void **state)
{
	static const struct vm_apic_ops ops = { .init = apic_init };
	struct guest g;
	struct vm *vm = make(&g, 2, guest_init_self);
	int inits = 0;

	vm_apic_register(vm, &ops, &inits);
	assert_int_equal(vm_run(vm), VM_EXIT_POWEROFF);
	assert_int_equal(inits, 1);
	vm_destroy(vm);
}

/* --- Threads --- */

static void
guest_look(struct engine_vcpu *v, struct engine_exit *e)
{
	struct guest *g = guest_of(v);
	sigset_t mask;

	g->self = vm_vcpu_self();
	pthread_getname_np(pthread_self(), g->name, sizeof(g->name));
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	g->term_blocked = sigismember(&mask, SIGTERM) && !sigismember(&mask, SIGSEGV);
	sched_getaffinity(0, sizeof(g->cpus), &g->cpus);
	vm_shutdown(g->vm, VM_EXIT_POWEROFF);
}

static void
test_thread(void **state)
{
	struct guest g;
	struct vm *vm = make(&g, 1, guest_look);
	sigset_t mask;

	assert_int_equal(vm_vcpu_self(), -1);
	assert_int_equal(vm_run(vm), VM_EXIT_POWEROFF);
	assert_int_equal(vm_vcpu_self(), -1);
	assert_int_equal(g.self, 0);
	assert_string_equal(g.name, "vcpu 0");
	assert_true(g.term_blocked);
	pthread_sigmask(SIG_BLOCK, NULL, &mask);
	assert_false(sigismember(&mask, SIGTERM));
	vm_destroy(vm);
}

static void
test_pinning(void **state)
{
	struct config *config = config_create();
	struct guest g = { .step = 0 };
	cpu_set_t mine;
	char text[16];
	int cpu = 0;

	sched_getaffinity(0, sizeof(mine), &mine);
	while (!CPU_ISSET(cpu, &mine))
		cpu++;
	snprintf(text, sizeof(text), "%d", cpu);
	assert_int_equal(config_set(config, "vcpu.0.cpuset", text), 0);
	g.vm = mock_vm_create_config(MIB(1), 1, config);
	assert_non_null(g.vm);
	mock_vm(g.vm)->run = guest_look;
	mock_vm(g.vm)->arg = &g;
	assert_int_equal(vm_run(g.vm), VM_EXIT_POWEROFF);
	assert_int_equal(CPU_COUNT(&g.cpus), 1);
	assert_true(CPU_ISSET(cpu, &g.cpus));
	vm_destroy(g.vm);
	config_destroy(config);
}

static void
test_bad_pinning(void **state)
{
	static const char *const bad[] = { "", "x", "-1", "1-", "1-0", "0,", ",0", "0 1", "1024",
		"0-99999999999999999999", "0x1" };
	struct config *config = config_create();

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(config_set(config, "vcpu.1.cpuset", bad[i]), 0);
		assert_null(mock_vm_create_config(MIB(1), 2, config));
		/* Not this VM's vCPU. */
		vm_destroy(mock_vm_create_config(MIB(1), 1, config));
	}
	/* Good, but this host has no such CPU. */
	assert_int_equal(config_set(config, "vcpu.1.cpuset", "1000-1023"), 0);
	assert_null(mock_vm_create_config(MIB(1), 2, config));
	config_destroy(config);
}

/* --- Shutdown from anywhere, again and again --- */

static void
guest_shutdown_race(struct engine_vcpu *v, struct engine_exit *e)
{
	vm_shutdown(guest_of(v)->vm, VM_EXIT_POWEROFF);
}

static void
test_shutdown_race(void **state)
{
	for (int i = 0; i < 50; i++) {
		struct guest g;
		struct vm *vm = make(&g, 4, guest_shutdown_race);

		start_all(vm);
		vm_loop_defer(vm_loop(vm), power_off, vm);
		assert_int_equal(vm_run(vm), VM_EXIT_POWEROFF);
		vm_destroy(vm);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_shutdown_before_run),
		cmocka_unit_test(test_shutdown_stops_spinning),
		cmocka_unit_test(test_triple_fault),
		cmocka_unit_test(test_error),
		cmocka_unit_test(test_all_halted),
		cmocka_unit_test(test_kick_wakes),
		cmocka_unit_test(test_no_lost_wakeup),
		cmocka_unit_test(test_nmi_keeps_alive),
		cmocka_unit_test(test_init_sipi),
		cmocka_unit_test(test_sipi_needs_init),
		cmocka_unit_test(test_init_bootstrap),
		cmocka_unit_test(test_thread),
		cmocka_unit_test(test_pinning),
		cmocka_unit_test(test_bad_pinning),
		cmocka_unit_test(test_shutdown_race),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
