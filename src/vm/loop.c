/*
 * The event loop: epoll for file descriptors, one timerfd for the earliest of all timers, one
 * eventfd to be woken for deferred calls and the end.
 *
 * The timerfd may be set earlier than the first timer, never later: arming touches it only when a
 * timer becomes the earliest, and a wake-up that finds nothing due sets it right. So a device that
 * moves its deadline ahead again and again costs no system calls.
 */
#include "vm/loop.h"
#include "base/bits.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define VM_LOOP_BATCH 32 /* epoll events taken at once */
#define VM_LOOP_NEVER UINT64_MAX

struct vm_loop_call {
	struct vm_loop_call *next;
	void (*fn)(void *arg);
	void *arg;
};

struct vm_fd {
	struct vm_loop *loop;
	struct vm_fd *next; /* in always or removed */
	int fd;
	unsigned events;
	vm_fd_fn *fn;
	void *arg;
	bool polled; /* in the epoll set; else always ready */
	bool removed;
};

struct vm_timer {
	struct vm_loop *loop;
	vm_timer_fn *fn;
	void *arg;
	uint64_t deadline; /* on the VM's clock */
	size_t index; /* in the heap, from 1; 0: not armed */
};

struct vm_loop {
	int epoll_fd, timer_fd, event_fd;
	atomic_bool stop;

	pthread_mutex_t lock; /* guards all below; never held while a callback runs */
	pthread_cond_t between; /* a callback ended */
	bool busy; /* a callback is running, on this thread: */
	pthread_t thread;
	uint64_t calls; /* callbacks ended */

	struct vm_loop_call *deferred, **deferred_last;
	struct vm_fd *always; /* regular files, which epoll refuses: always ready */
	struct vm_fd *removed; /* freed when no event that names them can be left */

	struct vm_timer **heap; /* heap[1] is the earliest; a child is never before its parent */
	size_t timers, created; /* armed; room for each timer there is */
	uint64_t timer_set; /* what timer_fd is set to, on the VM's clock */

	/* The VM's clock. Running: 2 * (CLOCK_MONOTONIC - clock); paused: 2 * clock + 1. One word,
	 * so that readers need no lock. */
	_Atomic int64_t clock;
};

/* --- The clock --- */

static uint64_t
vm_loop_monotonic_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

uint64_t
vm_clock_ns(struct vm_loop *loop)
{
	int64_t clock = atomic_load(&loop->clock), again;
	uint64_t now;

	/* A time read before a pause must not be taken with the offset after it, or the other way
	 * round: the clock would jump. */
	for (;;) {
		if (clock & 1)
			return (uint64_t)(clock >> 1);
		now = vm_loop_monotonic_ns();
		again = atomic_load(&loop->clock);
		if (again == clock)
			return now - (uint64_t)(clock >> 1);
		clock = again;
	}
}

static bool
vm_clock_paused(const struct vm_loop *loop)
{
	return atomic_load(&loop->clock) & 1;
}

/* --- Timers --- */

/* Sets the timerfd for the earliest timer, if that is earlier than what it is set to or if
 * exactly. */
static void
vm_loop_timer_program(struct vm_loop *loop, bool exactly)
{
	uint64_t deadline = loop->timers != 0 ? loop->heap[1]->deadline : VM_LOOP_NEVER;
	struct itimerspec its = { 0 };
	uint64_t mono;

	if (vm_clock_paused(loop))
		deadline = VM_LOOP_NEVER;
	if (deadline >= loop->timer_set && !exactly)
		return;
	loop->timer_set = deadline;
	if (deadline != VM_LOOP_NEVER) {
		int64_t offset = atomic_load(&loop->clock) >> 1;

		/* 0 would disarm it. A deadline before the clock's zero or after its end is now or
		 * never. */
		if (__builtin_add_overflow(deadline, offset, &mono))
			mono = offset < 0 ? 1 : INT64_MAX;
		mono = MAX(MIN(mono, INT64_MAX), 1);
		its.it_value.tv_sec = (time_t)(mono / 1000000000);
		its.it_value.tv_nsec = (long)(mono % 1000000000);
	}
	timerfd_settime(loop->timer_fd, TFD_TIMER_ABSTIME, &its, NULL);
}

static void
vm_loop_heap_put(struct vm_loop *loop, size_t i, struct vm_timer *t)
{
	loop->heap[i] = t;
	t->index = i;
}

/* Moves the timer at index i to where its deadline belongs. */
static void
vm_loop_heap_sift(struct vm_loop *loop, size_t i)
{
	struct vm_timer *t = loop->heap[i];

	while (i > 1 && loop->heap[i / 2]->deadline > t->deadline) {
		vm_loop_heap_put(loop, i, loop->heap[i / 2]);
		i /= 2;
	}
	while (i * 2 <= loop->timers) {
		size_t child = i * 2;

		if (child < loop->timers &&
		    loop->heap[child + 1]->deadline < loop->heap[child]->deadline)
			child++;
		if (loop->heap[child]->deadline >= t->deadline)
			break;
		vm_loop_heap_put(loop, i, loop->heap[child]);
		i = child;
	}
	vm_loop_heap_put(loop, i, t);
}

static void
vm_loop_heap_remove(struct vm_loop *loop, struct vm_timer *t)
{
	size_t i = t->index;
	struct vm_timer *last;

	if (i == 0)
		return;
	t->index = 0;
	last = loop->heap[loop->timers--];
	if (last != t) {
		vm_loop_heap_put(loop, i, last);
		vm_loop_heap_sift(loop, i);
	}
}

struct vm_timer *
vm_timer_create(struct vm_loop *loop, vm_timer_fn *fn, void *arg)
{
	struct vm_timer *t = calloc(1, sizeof(*t));
	struct vm_timer **grown;

	if (t == NULL)
		return NULL;
	*t = (struct vm_timer){ .loop = loop, .fn = fn, .arg = arg };
	/* Room is made here, so that arming cannot fail. */
	pthread_mutex_lock(&loop->lock);
	grown = realloc(loop->heap, (loop->created + 2) * sizeof(struct vm_timer *));
	if (grown != NULL) {
		loop->heap = grown;
		loop->created++;
	}
	pthread_mutex_unlock(&loop->lock);
	if (grown == NULL) {
		free(t);
		return NULL;
	}
	return t;
}

void
vm_timer_destroy(struct vm_timer *timer)
{
	struct vm_loop *loop;

	if (timer == NULL)
		return;
	loop = timer->loop;
	pthread_mutex_lock(&loop->lock);
	vm_loop_heap_remove(loop, timer);
	loop->created--;
	pthread_mutex_unlock(&loop->lock);
	free(timer);
}

void
vm_timer_arm(struct vm_timer *timer, uint64_t deadline_ns)
{
	struct vm_loop *loop = timer->loop;

	pthread_mutex_lock(&loop->lock);
	timer->deadline = deadline_ns;
	if (timer->index == 0)
		vm_loop_heap_put(loop, ++loop->timers, timer);
	vm_loop_heap_sift(loop, timer->index);
	vm_loop_timer_program(loop, false);
	pthread_mutex_unlock(&loop->lock);
}

void
vm_timer_cancel(struct vm_timer *timer)
{
	struct vm_loop *loop = timer->loop;

	pthread_mutex_lock(&loop->lock);
	vm_loop_heap_remove(loop, timer);
	pthread_mutex_unlock(&loop->lock);
}

bool
vm_timer_armed(const struct vm_timer *timer)
{
	bool armed;

	pthread_mutex_lock(&timer->loop->lock);
	armed = timer->index != 0;
	pthread_mutex_unlock(&timer->loop->lock);
	return armed;
}

uint64_t
vm_timer_deadline(const struct vm_timer *timer)
{
	uint64_t deadline;

	pthread_mutex_lock(&timer->loop->lock);
	deadline = timer->deadline;
	pthread_mutex_unlock(&timer->loop->lock);
	return deadline;
}

/* Changes the clock's word and has the timers follow. */
static void
vm_clock_change(struct vm_loop *loop, int64_t clock)
{
	atomic_store(&loop->clock, clock);
	vm_loop_timer_program(loop, true);
}

void
vm_clock_pause(struct vm_loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	if (!vm_clock_paused(loop))
		vm_clock_change(loop, (int64_t)(vm_clock_ns(loop) << 1 | 1));
	pthread_mutex_unlock(&loop->lock);
}

void
vm_clock_resume(struct vm_loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	if (vm_clock_paused(loop))
		vm_clock_change(loop, (int64_t)((vm_loop_monotonic_ns() - vm_clock_ns(loop)) << 1));
	pthread_mutex_unlock(&loop->lock);
}

void
vm_clock_set(struct vm_loop *loop, uint64_t ns)
{
	pthread_mutex_lock(&loop->lock);
	assert(vm_clock_paused(loop));
	vm_clock_change(loop, (int64_t)(ns << 1 | 1));
	pthread_mutex_unlock(&loop->lock);
}

/* --- Callbacks --- */

/* Around every callback; the lock is held outside and free inside. */
static void
vm_loop_call_begin(struct vm_loop *loop)
{
	loop->busy = true;
	loop->thread = pthread_self();
	pthread_mutex_unlock(&loop->lock);
}

static void
vm_loop_call_end(struct vm_loop *loop)
{
	pthread_mutex_lock(&loop->lock);
	loop->busy = false;
	loop->calls++;
	pthread_cond_broadcast(&loop->between);
}

void
vm_loop_sync(struct vm_loop *loop)
{
	uint64_t calls;

	pthread_mutex_lock(&loop->lock);
	calls = loop->calls;
	while (loop->busy && loop->calls == calls && !pthread_equal(loop->thread, pthread_self()))
		pthread_cond_wait(&loop->between, &loop->lock);
	pthread_mutex_unlock(&loop->lock);
}

static void
vm_loop_wake(struct vm_loop *loop)
{
	/* Fails only when the counter is full, and then the loop is awake anyway. */
	(void)eventfd_write(loop->event_fd, 1);
}

int
vm_loop_defer(struct vm_loop *loop, void (*fn)(void *arg), void *arg)
{
	struct vm_loop_call *call = malloc(sizeof(*call));

	if (call == NULL)
		return -ENOMEM;
	*call = (struct vm_loop_call){ .fn = fn, .arg = arg };
	pthread_mutex_lock(&loop->lock);
	*loop->deferred_last = call;
	loop->deferred_last = &call->next;
	pthread_mutex_unlock(&loop->lock);
	vm_loop_wake(loop);
	return 0;
}

/* The ones below are called with the lock held and return how many callbacks they ran. */

static int
vm_loop_run_deferred(struct vm_loop *loop)
{
	struct vm_loop_call *call = loop->deferred, *next;
	int ran = 0;

	/* What these calls defer in turn waits for the next round. */
	loop->deferred = NULL;
	loop->deferred_last = &loop->deferred;
	for (; call != NULL; call = next, ran++) {
		next = call->next;
		vm_loop_call_begin(loop);
		call->fn(call->arg);
		vm_loop_call_end(loop);
		free(call);
	}
	return ran;
}

static void
vm_loop_run_first_timer(struct vm_loop *loop)
{
	struct vm_timer *t = loop->heap[1];
	vm_timer_fn *fn = t->fn;
	void *arg = t->arg;

	vm_loop_heap_remove(loop, t); /* fn may arm it again, or destroy it */
	vm_loop_call_begin(loop);
	fn(arg);
	vm_loop_call_end(loop);
}

static int
vm_loop_run_timers(struct vm_loop *loop)
{
	/* A timer that arms itself for the past runs once per round: others get their turn. */
	size_t most = loop->timers;
	uint64_t now = vm_clock_ns(loop);
	int ran = 0;

	while (most-- > 0 && loop->timers != 0 && !vm_clock_paused(loop) &&
	    loop->heap[1]->deadline <= now) {
		vm_loop_run_first_timer(loop);
		ran++;
	}
	return ran;
}

int
vm_clock_step(struct vm_loop *loop, uint64_t ns)
{
	uint64_t end = vm_clock_ns(loop) + ns;
	int ran = 0;

	pthread_mutex_lock(&loop->lock);
	assert(vm_clock_paused(loop));
	for (; loop->timers != 0 && loop->heap[1]->deadline <= end; ran++) {
		uint64_t deadline = MAX(loop->heap[1]->deadline, vm_clock_ns(loop));

		atomic_store(&loop->clock, (int64_t)(deadline << 1 | 1));
		vm_loop_run_first_timer(loop);
	}
	atomic_store(&loop->clock, (int64_t)(end << 1 | 1));
	pthread_mutex_unlock(&loop->lock);
	return ran;
}

static int
vm_loop_run_fd(struct vm_loop *loop, struct vm_fd *watch, unsigned events)
{
	if (watch->removed || events == 0)
		return 0;
	vm_loop_call_begin(loop);
	watch->fn(watch->arg, events);
	vm_loop_call_end(loop);
	return 1;
}

static int
vm_loop_run_always(struct vm_loop *loop)
{
	int ran = 0;

	/* Removed ones stay linked until the end of the round. */
	for (struct vm_fd *w = loop->always; w != NULL; w = w->next)
		ran += vm_loop_run_fd(loop, w, w->events);
	return ran;
}

/* --- File descriptors --- */

static uint32_t
vm_fd_epoll_events(unsigned events)
{
	return (events & VM_FD_READ ? EPOLLIN | EPOLLRDHUP : 0) |
	    (events & VM_FD_WRITE ? EPOLLOUT : 0);
}

struct vm_fd *
vm_fd_add(struct vm_loop *loop, int fd, unsigned events, vm_fd_fn *fn, void *arg)
{
	struct vm_fd *w = calloc(1, sizeof(*w));
	struct epoll_event ev = { .events = vm_fd_epoll_events(events), .data.ptr = w };
	int err;

	if (w == NULL)
		return NULL;
	*w = (struct vm_fd){ .loop = loop, .fd = fd, .events = events, .fn = fn, .arg = arg };
	pthread_mutex_lock(&loop->lock);
	w->polled = epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
	err = w->polled ? 0 : errno;
	if (err == EPERM) {
		err = 0;
		w->next = loop->always;
		loop->always = w;
		vm_loop_wake(loop);
	}
	pthread_mutex_unlock(&loop->lock);
	if (err != 0) {
		free(w);
		errno = err;
		return NULL;
	}
	return w;
}

void
vm_fd_change(struct vm_fd *watch, unsigned events)
{
	struct vm_loop *loop = watch->loop;
	struct epoll_event ev = { .events = vm_fd_epoll_events(events), .data.ptr = watch };

	pthread_mutex_lock(&loop->lock);
	if (watch->events != events) {
		watch->events = events;
		if (watch->polled)
			(void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_MOD, watch->fd, &ev);
		else
			vm_loop_wake(loop);
	}
	pthread_mutex_unlock(&loop->lock);
}

void
vm_fd_remove(struct vm_fd *watch)
{
	struct vm_loop *loop;

	if (watch == NULL)
		return;
	loop = watch->loop;
	pthread_mutex_lock(&loop->lock);
	/* Events that name it may have been fetched already, so the loop itself frees it. */
	watch->removed = true;
	if (watch->polled) {
		(void)epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, watch->fd, NULL);
		watch->next = loop->removed;
		loop->removed = watch;
	}
	pthread_mutex_unlock(&loop->lock);
}

/* Frees removed watches. Lock held, and no fetched event is left. */
static void
vm_loop_free_removed(struct vm_loop *loop)
{
	struct vm_fd **link = &loop->always;

	while (*link != NULL) {
		struct vm_fd *w = *link;

		if (!w->removed) {
			link = &w->next;
			continue;
		}
		*link = w->next;
		free(w);
	}
	while (loop->removed != NULL) {
		struct vm_fd *w = loop->removed;

		loop->removed = w->next;
		free(w);
	}
}

/* --- The loop --- */

struct vm_loop *
vm_loop_create(void)
{
	struct vm_loop *loop = calloc(1, sizeof(*loop));
	struct epoll_event ev = { .events = EPOLLIN };

	if (loop == NULL)
		return NULL;
	loop->timer_fd = loop->event_fd = -1;
	loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (loop->epoll_fd < 0)
		goto close_fds;
	loop->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	loop->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (loop->timer_fd < 0 || loop->event_fd < 0)
		goto close_fds;
	/* Told apart from watches by where data points. */
	ev.data.ptr = &loop->timer_fd;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->timer_fd, &ev) != 0)
		goto close_fds;
	ev.data.ptr = &loop->event_fd;
	if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->event_fd, &ev) != 0)
		goto close_fds;
	pthread_mutex_init(&loop->lock, NULL);
	pthread_cond_init(&loop->between, NULL);
	loop->deferred_last = &loop->deferred;
	loop->timer_set = VM_LOOP_NEVER;
	return loop;
close_fds:
	if (loop->event_fd >= 0)
		close(loop->event_fd);
	if (loop->timer_fd >= 0)
		close(loop->timer_fd);
	if (loop->epoll_fd >= 0)
		close(loop->epoll_fd);
	free(loop);
	return NULL;
}

void
vm_loop_destroy(struct vm_loop *loop)
{
	if (loop == NULL)
		return;
	vm_loop_free_removed(loop);
	while (loop->deferred != NULL) {
		struct vm_loop_call *call = loop->deferred;

		loop->deferred = call->next;
		free(call);
	}
	close(loop->event_fd);
	close(loop->timer_fd);
	close(loop->epoll_fd);
	pthread_cond_destroy(&loop->between);
	pthread_mutex_destroy(&loop->lock);
	free(loop->heap);
	free(loop);
}

/* Runs the callback of one epoll event. Lock held. */
static int
vm_loop_run_event(struct vm_loop *loop, const struct epoll_event *ev)
{
	struct vm_fd *watch = ev->data.ptr;
	unsigned events = 0;
	uint64_t count;

	if (ev->data.ptr == &loop->timer_fd) {
		/* Unread it would stay ready; what is due is found by the clock. */
		if (read(loop->timer_fd, &count, sizeof(count)) == (ssize_t)sizeof(count))
			loop->timer_set = VM_LOOP_NEVER;
		return 0;
	}
	if (ev->data.ptr == &loop->event_fd) {
		(void)eventfd_read(loop->event_fd, &count);
		return 0;
	}
	if (ev->events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR))
		events |= VM_FD_READ;
	/* A writer finds an error by writing. */
	if (ev->events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
		events |= VM_FD_WRITE & watch->events;
	return vm_loop_run_fd(loop, watch, events);
}

/* Whether a regular file wants attention, so that waiting makes no sense. Lock held. */
static bool
vm_loop_always_ready(const struct vm_loop *loop)
{
	for (const struct vm_fd *w = loop->always; w != NULL; w = w->next) {
		if (!w->removed && w->events != 0)
			return true;
	}
	return false;
}

/* One round: waits, then runs everything that is ready. Returns the number of callbacks. */
static int
vm_loop_round(struct vm_loop *loop, int timeout_ms)
{
	struct epoll_event ev[VM_LOOP_BATCH];
	int n, ran = 0;

	pthread_mutex_lock(&loop->lock);
	if (vm_loop_always_ready(loop))
		timeout_ms = 0;
	pthread_mutex_unlock(&loop->lock);

	n = epoll_wait(loop->epoll_fd, ev, VM_LOOP_BATCH, timeout_ms);

	pthread_mutex_lock(&loop->lock);
	for (int i = 0; i < n; i++)
		ran += vm_loop_run_event(loop, &ev[i]);
	ran += vm_loop_run_always(loop);
	ran += vm_loop_run_timers(loop);
	ran += vm_loop_run_deferred(loop);
	vm_loop_free_removed(loop);
	vm_loop_timer_program(loop, false);
	pthread_mutex_unlock(&loop->lock);
	return ran;
}

int
vm_loop_poll(struct vm_loop *loop, int timeout_ms)
{
	uint64_t start = vm_loop_monotonic_ns();
	int left = timeout_ms, ran;

	/* A wake-up may turn out to be for nothing that calls back. */
	for (;;) {
		ran = vm_loop_round(loop, left);
		if (ran != 0 || atomic_load(&loop->stop))
			return ran;
		if (timeout_ms >= 0) {
			uint64_t passed = (vm_loop_monotonic_ns() - start) / 1000000;

			if (passed >= (uint64_t)timeout_ms)
				return 0;
			left = timeout_ms - (int)passed;
		}
	}
}

void
vm_loop_run(struct vm_loop *loop)
{
	while (!atomic_exchange(&loop->stop, false))
		(void)vm_loop_round(loop, -1);
}

void
vm_loop_stop(struct vm_loop *loop)
{
	atomic_store(&loop->stop, true);
	vm_loop_wake(loop);
}
