/*
 * The event loop: fds, timers, deferred calls, the clock, other threads.
 */
#include "vm/loop.h"
#include "base/bits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS 1000000ull

static int
setup(void **state)
{
	*state = vm_loop_create();
	return *state == NULL;
}

static int
teardown(void **state)
{
	vm_loop_destroy(*state);
	return 0;
}

/* Stops the clock at t, so that only vm_clock_step() makes time pass. */
static struct vm_loop *
stopped(void **state, uint64_t t)
{
	vm_clock_pause(*state);
	vm_clock_set(*state, t);
	return *state;
}

/* --- Timers --- */

struct note {
	struct vm_loop *loop;
	struct vm_timer *timer, *victim;
	char *out;
	char mark;
	uint64_t at, period;
	int runs;
};

static void
note_run(void *arg)
{
	struct note *n = arg;

	n->runs++;
	n->at = vm_clock_ns(n->loop);
	if (n->out != NULL)
		n->out[strlen(n->out)] = n->mark;
	if (n->period != 0)
		vm_timer_arm(n->timer, vm_timer_deadline(n->timer) + n->period);
	if (n->victim != NULL) {
		vm_timer_destroy(n->victim);
		n->victim = NULL;
	}
}

static void
test_timer_order(void **state)
{
	struct vm_loop *loop = stopped(state, 1000);
	char out[32] = "";
	struct note n[8];

	for (int i = 0; i < 8; i++) {
		n[i] = (struct note){ .loop = loop, .out = out, .mark = (char)('a' + i) };
		n[i].timer = vm_timer_create(loop, note_run, &n[i]);
		assert_non_null(n[i].timer);
		assert_false(vm_timer_armed(n[i].timer));
	}
	for (int i = 0; i < 8; i++)
		vm_timer_arm(n[i].timer, 2000 + (uint64_t)(i * 5 % 8) * 100);
	vm_timer_arm(n[0].timer, 10000); /* moved: not at 2000 */
	vm_timer_cancel(n[3].timer);
	vm_timer_cancel(n[3].timer);
	assert_true(vm_timer_armed(n[1].timer));
	assert_int_equal(vm_timer_deadline(n[1].timer), 2500);
	assert_int_equal(vm_clock_step(loop, 999), 0);
	assert_int_equal(vm_clock_step(loop, 1001), 6);
	/* i * 5 % 8: b 5, c 2, d 7 (cancelled), e 4, f 1, g 6, h 3 */
	assert_string_equal(out, "fchebg");
	assert_int_equal(n[1].at, 2500);
	assert_int_equal(vm_clock_ns(loop), 3000);
	assert_false(vm_timer_armed(n[1].timer));
	assert_int_equal(vm_clock_step(loop, 7000), 1);
	assert_string_equal(out, "fchebga");
	for (int i = 0; i < 8; i++)
		vm_timer_destroy(n[i].timer);
	vm_timer_destroy(NULL);
}

/* Random arming, moving and cancelling, beside a model that is a plain array. */
static void
test_timer_random(void **state)
{
	struct vm_loop *loop = stopped(state, 0);
	struct note n[64];
	uint64_t model[64]; /* deadlines; UINT64_MAX: not armed */
	uint64_t seed = 12345, now = 0;

	for (int i = 0; i < 64; i++) {
		n[i] = (struct note){ .loop = loop };
		n[i].timer = vm_timer_create(loop, note_run, &n[i]);
		model[i] = UINT64_MAX;
	}
	for (int round = 0; round < 5000; round++) {
		int pick = round * 7 % 64, due = 0;

		seed = seed * 6364136223846793005u + 1442695040888963407u;
		model[pick] = seed >> 62 == 0 ? UINT64_MAX : now + 1 + (seed >> 33) % 1000;
		if (model[pick] == UINT64_MAX)
			vm_timer_cancel(n[pick].timer);
		else
			vm_timer_arm(n[pick].timer, model[pick]);
		now += (seed >> 20) % 64;
		for (int i = 0; i < 64; i++)
			due += model[i] <= now;
		assert_int_equal(vm_clock_step(loop, (seed >> 20) % 64), due);
		for (int i = 0; i < 64; i++) {
			if (model[i] <= now) {
				assert_int_equal(n[i].at, model[i]);
				model[i] = UINT64_MAX;
			}
			assert_int_equal(vm_timer_armed(n[i].timer), model[i] != UINT64_MAX);
		}
	}
	for (int i = 0; i < 64; i++)
		vm_timer_destroy(n[i].timer);
}

static void
test_timer_periodic_and_destroy_inside(void **state)
{
	struct vm_loop *loop = stopped(state, 0);
	struct note tick = { .loop = loop, .period = 10 }, victim = { .loop = loop };

	tick.timer = vm_timer_create(loop, note_run, &tick);
	tick.victim = vm_timer_create(loop, note_run, &victim);
	vm_timer_arm(tick.timer, 10);
	vm_timer_arm(tick.victim, 11);
	assert_int_equal(vm_clock_step(loop, 95), 9);
	assert_int_equal(victim.runs, 0);
	assert_int_equal(tick.at, 90);
	vm_timer_destroy(tick.timer);
}

static void
test_timer_real_time(void **state)
{
	struct vm_loop *loop = *state;
	struct note n = { .loop = loop }, late = { .loop = loop };
	uint64_t start = vm_clock_ns(loop);

	n.timer = vm_timer_create(loop, note_run, &n);
	late.timer = vm_timer_create(loop, note_run, &late);
	vm_timer_arm(late.timer, start + 3600000 * MS);
	/* A deadline in the past fires at once. */
	vm_timer_arm(n.timer, 0);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_int_equal(n.runs, 1);
	vm_timer_arm(n.timer, start + 20 * MS);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_true(n.at >= start + 20 * MS);
	/* Moving it ahead wakes nobody before its time, and not twice. */
	start = vm_clock_ns(loop);
	vm_timer_arm(n.timer, start + 5 * MS);
	vm_timer_arm(n.timer, start + 30 * MS);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_true(n.at >= start + 30 * MS);
	assert_int_equal(n.runs, 3);
	/* The far end of time is no overflow into the past. */
	vm_timer_arm(n.timer, UINT64_MAX);
	vm_timer_arm(late.timer, UINT64_MAX - 1);
	assert_int_equal(vm_loop_poll(loop, 20), 0);
	assert_int_equal(n.runs + late.runs, 3);
	vm_timer_destroy(n.timer);
	vm_timer_destroy(late.timer);
}

static void
rearm_past(void *arg)
{
	struct note *n = arg;

	n->runs++;
	vm_timer_arm(n->timer, 0);
}

static void
test_timer_cannot_starve(void **state)
{
	struct vm_loop *loop = *state;
	struct note greedy = { .loop = loop };

	greedy.timer = vm_timer_create(loop, rearm_past, &greedy);
	vm_timer_arm(greedy.timer, 0);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_int_equal(greedy.runs, 2);
	vm_timer_destroy(greedy.timer);
}

static void
test_clock_pause(void **state)
{
	struct vm_loop *loop = *state;
	struct note n = { .loop = loop };
	uint64_t before = vm_clock_ns(loop), frozen;

	assert_true(vm_clock_ns(loop) >= before);
	n.timer = vm_timer_create(loop, note_run, &n);
	vm_timer_arm(n.timer, before + 10 * MS);
	vm_clock_pause(loop);
	vm_clock_pause(loop);
	frozen = vm_clock_ns(loop);
	if (n.runs == 0)
		assert_int_equal(vm_loop_poll(loop, 30), 0);
	assert_int_equal(vm_clock_ns(loop), frozen);
	vm_clock_resume(loop);
	vm_clock_resume(loop);
	assert_true(vm_clock_ns(loop) >= frozen);
	assert_true(vm_clock_ns(loop) - frozen < 3600000 * MS);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_true(n.at >= before + 10 * MS);

	/* A clock set far ahead or back, as after loading a state. */
	vm_clock_pause(loop);
	vm_clock_set(loop, 1ull << 60);
	vm_timer_arm(n.timer, (1ull << 60) + 5 * MS);
	vm_clock_resume(loop);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_true(n.at >= (1ull << 60) + 5 * MS);
	vm_clock_pause(loop);
	vm_clock_set(loop, 7);
	assert_int_equal(vm_clock_ns(loop), 7);
	vm_timer_arm(n.timer, 5 * MS);
	vm_clock_resume(loop);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_true(n.at >= 5 * MS && n.at < 1ull << 59);
	vm_timer_destroy(n.timer);
}

/* --- File descriptors --- */

struct watcher {
	struct vm_fd *watch, *other;
	int fd, calls;
	unsigned events;
	bool consume;
};

static void
watcher_run(void *arg, unsigned events)
{
	struct watcher *w = arg;
	char buf[64];

	w->calls++;
	w->events = events;
	if (w->consume && read(w->fd, buf, sizeof(buf)) < 0)
		w->consume = false;
	vm_fd_remove(w->other);
	w->other = NULL;
}

static void
test_fd_levels(void **state)
{
	struct vm_loop *loop = *state;
	struct watcher w = { .calls = 0 };
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	w.fd = pair[0];
	w.watch = vm_fd_add(loop, pair[0], VM_FD_READ, watcher_run, &w);
	assert_non_null(w.watch);
	assert_int_equal(vm_loop_poll(loop, 0), 0);
	assert_int_equal(write(pair[1], "x", 1), 1);
	/* Level-triggered: again until it is read. */
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_int_equal(w.events, VM_FD_READ);
	vm_fd_change(w.watch, 0);
	assert_int_equal(vm_loop_poll(loop, 0), 0);
	vm_fd_change(w.watch, VM_FD_READ | VM_FD_WRITE);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_int_equal(w.events, VM_FD_READ | VM_FD_WRITE);
	w.consume = true;
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	vm_fd_change(w.watch, VM_FD_READ);
	assert_int_equal(vm_loop_poll(loop, 0), 0);
	/* The peer is gone: readable, even when nothing was asked for. */
	vm_fd_change(w.watch, 0);
	close(pair[1]);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_int_equal(w.events, VM_FD_READ);
	vm_fd_remove(w.watch);
	assert_int_equal(vm_loop_poll(loop, 0), 0);
	vm_fd_remove(NULL);
	close(pair[0]);
}

static void
test_fd_removed_by_other(void **state)
{
	struct vm_loop *loop = *state;
	struct watcher a = { .calls = 0 }, b = { .calls = 0 };
	int p1[2], p2[2];

	assert_int_equal(pipe(p1), 0);
	assert_int_equal(pipe(p2), 0);
	assert_int_equal(write(p1[1], "x", 1), 1);
	assert_int_equal(write(p2[1], "x", 1), 1);
	a.watch = vm_fd_add(loop, p1[0], VM_FD_READ, watcher_run, &a);
	b.watch = vm_fd_add(loop, p2[0], VM_FD_READ, watcher_run, &b);
	/* Whichever runs first removes the other; both were ready. */
	a.other = b.watch;
	b.other = a.watch;
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_int_equal(a.calls + b.calls, 1);
	vm_fd_remove(a.calls != 0 ? a.watch : b.watch);
	for (int i = 0; i < 2; i++) {
		close(p1[i]);
		close(p2[i]);
	}
}

static void
test_fd_errors(void **state)
{
	struct watcher w = { .calls = 0 };

	errno = 0;
	assert_null(vm_fd_add(*state, -1, VM_FD_READ, watcher_run, &w));
	assert_int_equal(errno, EBADF);
}

static void
test_fd_regular_file(void **state)
{
	struct vm_loop *loop = *state;
	char path[] = "/tmp/bhyve-test-loop-XXXXXX";
	struct watcher w = { .consume = true }, null = { .calls = 0 };
	int fd = mkstemp(path), null_fd = open("/dev/null", O_RDONLY);

	assert_true(fd >= 0 && null_fd >= 0);
	unlink(path);
	/* epoll takes neither; both are always ready. */
	w.fd = fd;
	w.watch = vm_fd_add(loop, fd, VM_FD_READ, watcher_run, &w);
	assert_non_null(w.watch);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_int_equal(w.events, VM_FD_READ);
	null.watch = vm_fd_add(loop, null_fd, VM_FD_READ | VM_FD_WRITE, watcher_run, &null);
	assert_int_equal(vm_loop_poll(loop, -1), 2);
	vm_fd_change(w.watch, 0);
	assert_int_equal(vm_loop_poll(loop, -1), 1);
	assert_int_equal(null.events, VM_FD_READ | VM_FD_WRITE);
	vm_fd_change(w.watch, VM_FD_READ);
	/* Removed while its turn in the round is still to come, or has been. */
	w.other = null.watch;
	vm_loop_poll(loop, -1);
	vm_fd_remove(w.watch);
	assert_int_equal(vm_loop_poll(loop, 0), 0);
	close(fd);
	close(null_fd);
}

/* --- Deferred calls, other threads --- */

struct deferred {
	struct vm_loop *loop;
	_Atomic int runs;
	pthread_t thread;
};

static void
deferred_again(void *arg)
{
	struct deferred *d = arg;

	d->thread = pthread_self();
	if (++d->runs < 3)
		assert_int_equal(vm_loop_defer(d->loop, deferred_again, d), 0);
	/* On the loop's own thread there is nothing to wait for. */
	vm_loop_sync(d->loop);
}

static void
test_defer(void **state)
{
	struct deferred d = { .loop = *state };

	assert_int_equal(vm_loop_defer(d.loop, deferred_again, &d), 0);
	assert_int_equal(d.runs, 0);
	assert_int_equal(vm_loop_poll(d.loop, -1), 1);
	assert_int_equal(vm_loop_poll(d.loop, -1), 1);
	assert_int_equal(vm_loop_poll(d.loop, -1), 1);
	assert_int_equal(vm_loop_poll(d.loop, 0), 0);
	assert_int_equal(d.runs, 3);
	/* One that never runs is freed with the loop. */
	assert_int_equal(vm_loop_defer(d.loop, deferred_again, &d), 0);
}

static void *
run_loop(void *arg)
{
	vm_loop_run(arg);
	return NULL;
}

static void
test_stop(void **state)
{
	struct vm_loop *loop = *state;
	pthread_t t;

	/* Before the run, and from another thread. */
	vm_loop_stop(loop);
	vm_loop_run(loop);
	assert_int_equal(pthread_create(&t, NULL, run_loop, loop), 0);
	vm_loop_stop(loop);
	pthread_join(t, NULL);
}

struct gate {
	struct vm_loop *loop;
	_Atomic int stage;
	pthread_mutex_t lock;
	pthread_cond_t changed;
};

static void
gate_set(struct gate *g, int stage)
{
	pthread_mutex_lock(&g->lock);
	g->stage = stage;
	pthread_cond_broadcast(&g->changed);
	pthread_mutex_unlock(&g->lock);
}

static void
gate_wait(struct gate *g, int stage)
{
	pthread_mutex_lock(&g->lock);
	while (g->stage < stage)
		pthread_cond_wait(&g->changed, &g->lock);
	pthread_mutex_unlock(&g->lock);
}

static void
gate_callback(void *arg)
{
	struct gate *g = arg;

	gate_set(g, 1);
	gate_wait(g, 2);
	/* The syncing thread, if it came back too early, would have set 4 by now or will find 3
	 * missing. */
	g->stage = 3;
}

static void *
gate_opener(void *arg)
{
	gate_set(arg, 2);
	return NULL;
}

static void
test_sync(void **state)
{
	struct gate g = { .loop = *state,
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER };
	struct vm_timer *timer = vm_timer_create(g.loop, gate_callback, &g);
	pthread_t loop_thread, opener;

	vm_loop_sync(g.loop); /* not running at all */
	assert_int_equal(pthread_create(&loop_thread, NULL, run_loop, g.loop), 0);
	vm_timer_arm(timer, 0);
	gate_wait(&g, 1);
	/* The callback runs and waits for the opener. */
	vm_timer_cancel(timer);
	assert_int_equal(pthread_create(&opener, NULL, gate_opener, &g), 0);
	vm_loop_sync(g.loop);
	assert_int_equal(g.stage, 3);
	pthread_join(opener, NULL);
	vm_loop_stop(g.loop);
	pthread_join(loop_thread, NULL);
	vm_timer_destroy(timer);
}

#define STRESS_TIMERS 4
#define STRESS_ROUNDS 500

struct stress {
	struct vm_loop *loop;
	struct vm_timer *timer[STRESS_TIMERS];
	_Atomic int fired, deferred, fd_calls;
	int fd;
};

static void
stress_fire(void *arg)
{
	((struct stress *)arg)->fired++;
}

static void
stress_defer(void *arg)
{
	((struct stress *)arg)->deferred++;
}

static void
stress_fd(void *arg, unsigned events)
{
	((struct stress *)arg)->fd_calls++;
}

static void *
stress_run(void *arg)
{
	struct stress *s = arg;

	for (int i = 0; i < STRESS_ROUNDS; i++) {
		struct vm_timer *own = vm_timer_create(s->loop, stress_fire, s);
		struct vm_fd *watch = vm_fd_add(s->loop, s->fd, VM_FD_READ, stress_fd, s);

		vm_timer_arm(own, vm_clock_ns(s->loop) + (uint64_t)(i % 7) * 1000);
		vm_timer_arm(s->timer[i % STRESS_TIMERS], vm_clock_ns(s->loop) + 100000);
		vm_timer_cancel(s->timer[(i + 1) % STRESS_TIMERS]);
		vm_loop_defer(s->loop, stress_defer, s);
		vm_fd_change(watch, i % 2 != 0 ? VM_FD_READ : 0);
		vm_fd_remove(watch);
		vm_timer_destroy(own);
	}
	return NULL;
}

static void
test_stress(void **state)
{
	struct vm_loop *loop = *state;
	struct stress s[2];
	pthread_t loop_thread, t[2];
	int pipes[2][2];

	assert_int_equal(pthread_create(&loop_thread, NULL, run_loop, loop), 0);
	for (int i = 0; i < 2; i++) {
		memset(&s[i], 0, sizeof(s[i]));
		s[i].loop = loop;
		assert_int_equal(pipe(pipes[i]), 0);
		assert_int_equal(write(pipes[i][1], "x", 1), 1);
		s[i].fd = pipes[i][0];
		for (int k = 0; k < STRESS_TIMERS; k++)
			s[i].timer[k] = vm_timer_create(loop, stress_fire, &s[i]);
		assert_int_equal(pthread_create(&t[i], NULL, stress_run, &s[i]), 0);
	}
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	vm_loop_stop(loop);
	pthread_join(loop_thread, NULL);
	while (vm_loop_poll(loop, 0) != 0)
		;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(s[i].deferred, STRESS_ROUNDS);
		for (int k = 0; k < STRESS_TIMERS; k++)
			vm_timer_destroy(s[i].timer[k]);
		close(pipes[i][0]);
		close(pipes[i][1]);
	}
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_timer_order),
		TEST(test_timer_random),
		TEST(test_timer_periodic_and_destroy_inside),
		TEST(test_timer_real_time),
		TEST(test_timer_cannot_starve),
		TEST(test_clock_pause),
		TEST(test_fd_levels),
		TEST(test_fd_removed_by_other),
		TEST(test_fd_errors),
		TEST(test_fd_regular_file),
		TEST(test_defer),
		TEST(test_stop),
		TEST(test_sync),
		TEST(test_stress),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
