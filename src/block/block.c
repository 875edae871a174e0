/*
 * Disks: the thread of each disk, what is checked before a request reaches a back end, completion,
 * draining, resizing, counters. The contract is in block.h.
 *
 * The thread's loop is: run works and start requests; give the host what was prepared and take what
 * it has done, in one system call; call the callbacks of what is done. It sleeps in that system
 * call, and only when nothing of the above is left; whoever posts something sees the flag "asleep"
 * and wakes it.
 */
#include "block/block.h"
#include "block/block_impl.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "vm/loop.h"

/* How often the size is looked at. */
#define BLOCK_RESIZE_NS 1000000000ull

/* In the order they are tried; the last takes any path. */
static const struct block_backend *const block_backends[] = { &block_nbd, &block_file };

/* --- Lists --- */

void
block_req_list_init(struct block_req_list *l)
{
	l->first = NULL;
	l->last = &l->first;
}

void
block_req_list_add(struct block_req_list *l, struct block_req *req)
{
	req->next = NULL;
	*l->last = req;
	l->last = &req->next;
}

struct block_req *
block_req_list_take(struct block_req_list *l)
{
	struct block_req *req = l->first;

	if (req != NULL) {
		l->first = req->next;
		if (l->first == NULL)
			l->last = &l->first;
	}
	return req;
}

void
block_req_list_cancel(struct block_req_list *l, void (*end)(struct block_req *req, int err))
{
	struct block_req *req = l->first, *next;

	block_req_list_init(l);
	for (; req != NULL; req = next) {
		next = req->next;
		if (req->cancels != atomic_load(&req->disk->cancels))
			end(req, -ECANCELED);
		else
			block_req_list_add(l, req);
	}
}

/* --- Waking --- */

void
block_wake(struct block *b)
{
	uint32_t how = atomic_load(&b->asleep);

	if (how == BLOCK_AWAKE)
		return;
	how = atomic_exchange(&b->asleep, BLOCK_AWAKE);
	if (how == BLOCK_ASLEEP_FD)
		(void)eventfd_write(b->wake_fd, 1); /* fails only when the counter is full */
	else if (how == BLOCK_ASLEEP_FUTEX)
		(void)syscall(SYS_futex, &b->asleep, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void
block_sleep(struct block *b)
{
	uint32_t fd = BLOCK_ASLEEP_FD;

	/* Woken meanwhile: the event is left in the eventfd, and the next sleep there is a short
	 * one. */
	if (!atomic_compare_exchange_strong(&b->asleep, &fd, BLOCK_ASLEEP_FUTEX))
		return;
	while (atomic_load(&b->asleep) == BLOCK_ASLEEP_FUTEX)
		(void)syscall(
		    SYS_futex, &b->asleep, FUTEX_WAIT_PRIVATE, BLOCK_ASLEEP_FUTEX, NULL, NULL, 0);
}

/* --- Works --- */

void
block_work_init(struct block_work *w, void (*fn)(void *ctx), void *ctx)
{
	*w = (struct block_work){ .fn = fn, .ctx = ctx };
}

static void
block_inbox_put(struct block *b, struct block_work *w)
{
	struct block_work *head = atomic_load(&b->inbox);

	do {
		w->next = head;
	} while (!atomic_compare_exchange_weak(&b->inbox, &head, w));
	block_wake(b);
}

void
block_post(struct block *b, struct block_work *w)
{
	/* The exchange and its counterpart in block_work_run() order what the caller wrote
	 * before what fn reads, also when the work was posted already. */
	if (!atomic_exchange(&w->posted, true))
		block_inbox_put(b, w);
}

void
block_drain_post(struct block *b, struct block_work *w)
{
	if (!atomic_exchange(&w->posted, true)) {
		w->when_idle = true;
		block_inbox_put(b, w);
	}
}

static void
block_work_run(struct block_work *w)
{
	(void)atomic_exchange(&w->posted, false);
	w->fn(w->ctx);
}

/* Runs what was in the inbox, oldest first. */
static void
block_inbox_run(struct block *b)
{
	struct block_work *w, *next, *ordered = NULL;

	if (atomic_load_explicit(&b->inbox, memory_order_relaxed) == NULL)
		return;
	for (w = atomic_exchange(&b->inbox, NULL); w != NULL; w = next) {
		next = w->next;
		w->next = ordered;
		ordered = w;
	}
	for (w = ordered; w != NULL; w = next) {
		next = w->next;
		if (w->when_idle) {
			w->when_idle = false;
			w->next = b->idle_works;
			b->idle_works = w;
		} else {
			block_work_run(w);
		}
	}
}

static bool
block_is_idle(struct block *b)
{
	return atomic_load(&b->outstanding) == 0 && atomic_load(&b->inbox) == NULL;
}

static void
block_idle_run(struct block *b)
{
	while (b->idle_works != NULL && block_is_idle(b)) {
		struct block_work *w = b->idle_works;

		b->idle_works = w->next;
		block_work_run(w);
	}
}

/* --- Requests --- */

static const char *
block_op_name(enum block_op op)
{
	static const char *const names[BLOCK_OPS] = {
		[BLOCK_READ] = "read",
		[BLOCK_WRITE] = "write",
		[BLOCK_FLUSH] = "flush",
		[BLOCK_DISCARD] = "discard",
		[BLOCK_WRITE_ZEROES] = "write of zeros",
	};

	return names[op];
}

static void
block_done(struct block_req *req, int err)
{
	req->err = err;
	block_req_list_add(&req->disk->done, req);
}

static int
block_iov_check(const struct block_req *req)
{
	uint64_t left = req->len;

	if (req->iovcnt < 0 || req->iovcnt > BLOCK_IOV_MAX)
		return -EINVAL;
	for (int i = 0; i < req->iovcnt; i++) {
		if (req->iov[i].iov_len > left)
			return -EINVAL;
		left -= req->iov[i].iov_len;
	}
	return left == 0 ? 0 : -EINVAL;
}

static int
block_check(const struct block *b, const struct block_req *req)
{
	uint64_t size = block_size(b);

	if ((unsigned)req->op >= BLOCK_OPS)
		return -EINVAL;
	if (req->op == BLOCK_FLUSH)
		return 0;
	if (((req->offset | req->len) & (b->info.logical_sector - 1)) != 0 || req->offset > size ||
	    req->len > size - req->offset)
		return -EINVAL;
	if ((req->op == BLOCK_READ || req->op == BLOCK_WRITE) && block_iov_check(req) != 0)
		return -EINVAL;
	if (req->op != BLOCK_READ && b->info.read_only)
		return -EROFS;
	if (req->op == BLOCK_DISCARD && !b->info.can_discard)
		return -EOPNOTSUPP;
	return 0;
}

static bool
block_write_is_hole(const struct block *b, const struct block_req *req)
{
	uint32_t unit = MAX(b->info.discard_granularity, b->info.logical_sector);

	return b->detect_zeroes && b->info.fast_zeroes &&
	    ((req->offset - b->info.discard_alignment) | req->len) % unit == 0 &&
	    block_req_is_zero(req);
}

/* Decides what to ask of the back end. */
static void
block_translate(struct block *b, struct block_req *req)
{
	req->host_op = req->op;
	req->host_flags = req->flags;
	if (req->op == BLOCK_WRITE && block_write_is_hole(b, req)) {
		req->host_op = BLOCK_WRITE_ZEROES;
		req->host_flags |= BLOCK_UNMAP;
		counter_add(&b->count.zeroes_detected, 1);
	} else if (req->op == BLOCK_DISCARD && b->discard == BLOCK_DISCARD_ZERO) {
		req->host_op = BLOCK_WRITE_ZEROES;
		req->host_flags = BLOCK_UNMAP;
	}
	if (b->discard == BLOCK_DISCARD_OFF || req->host_op != BLOCK_WRITE_ZEROES)
		req->host_flags &= ~BLOCK_UNMAP;
	if (!b->info.write_cache || (req->op != BLOCK_WRITE && req->op != BLOCK_WRITE_ZEROES))
		req->host_flags &= ~BLOCK_FUA;
}

static void
block_start(struct block *b, struct block_req *req)
{
	int err = block_check(b, req);

	if (err != 0 || (req->len == 0 && req->op != BLOCK_FLUSH) ||
	    (req->op == BLOCK_FLUSH && b->info.read_only)) {
		block_done(req, err);
		return;
	}
	block_translate(b, req);
	req->pos = 0;
	memset(&req->step, 0, sizeof(req->step));
	block_req_list_add(&b->waiting, req);
}

static void
block_start_posted(void *ctx)
{
	struct block_req *req = ctx;

	block_start(req->disk, req);
}

void
block_submit(struct block *b, struct block_req *req)
{
	req->disk = b;
	req->cancels = atomic_load(&b->cancels);
	atomic_fetch_add_explicit(&b->outstanding, 1, memory_order_relaxed);
	if (pthread_equal(pthread_self(), b->thread)) {
		block_start(b, req);
		return;
	}
	block_work_init(&req->work, block_start_posted, req);
	block_inbox_put(b, &req->work);
}

/* Gives the back end as many as it can have. */
static void
block_waiting_start(struct block *b)
{
	while (b->in_flight < b->in_flight_max && b->waiting.first != NULL) {
		struct block_req *req = block_req_list_take(&b->waiting);

		b->in_flight++;
		b->backend->start(b, req);
	}
}

/* What the host refused is told once per kind: a full disk fails thousands of writes. */
static void
block_error_log(struct block *b, const struct block_req *req, int err)
{
	unsigned e = (unsigned)-err % BLOCK_ERRNO_MAX;

	if ((b->errors_logged[e / 64] & BIT64(e % 64)) != 0 || err == -ECANCELED)
		return;
	b->errors_logged[e / 64] |= BIT64(e % 64);
	if (req->op == BLOCK_FLUSH)
		log_error(b->who, "%s: flush: %s (said once)", b->path, strerror((int)e));
	else
		log_error(b->who, "%s: %s of %" PRIu64 " bytes at %" PRIu64 ": %s (said once)",
		    b->path, block_op_name(req->op), req->len, req->offset, strerror((int)e));
}

void
block_complete(struct block_req *req, int err)
{
	struct block *b = req->disk;

	if (err == 0 && (req->host_flags & BLOCK_FUA) != 0) {
		req->host_flags &= ~BLOCK_FUA;
		req->host_op = BLOCK_FLUSH;
		memset(&req->step, 0, sizeof(req->step));
		b->backend->start(b, req);
		return;
	}
	if (err != 0)
		block_error_log(b, req, err);
	b->in_flight--;
	block_done(req, err);
}

static void
block_done_count(struct block *b, const struct block_req *req)
{
	unsigned op = req->op;

	if (op >= BLOCK_OPS)
		return;
	counter_add(&b->count.op[op].ops, 1);
	if (req->err != 0)
		counter_add(&b->count.op[op].errors, 1);
	else if (op != BLOCK_FLUSH)
		counter_add(&b->count.op[op].bytes, req->len);
}

/* Calls the callbacks of what is done now; what they cause is for the next round. */
static void
block_done_run(struct block *b)
{
	struct block_req *req = b->done.first, *next;

	block_req_list_init(&b->done);
	for (; req != NULL; req = next) {
		next = req->next;
		block_done_count(b, req);
		req->done(req, req->err);
		atomic_fetch_sub(&b->outstanding, 1);
	}
}

/* --- The thread --- */

/* Whether nothing is left to do but to wait. From here to the end of the sleep others wake us. */
static bool
block_may_sleep(struct block *b)
{
	if (b->done.first != NULL || ((b->idle_works != NULL || b->ending) && block_is_idle(b)))
		return false;
	atomic_store(&b->asleep, BLOCK_ASLEEP_FD);
	if (atomic_load(&b->inbox) == NULL)
		return true;
	atomic_store(&b->asleep, BLOCK_AWAKE);
	return false;
}

static void
block_poll(struct block *b)
{
	bool wait = block_may_sleep(b);

	if (wait)
		counter_add(&b->count.sleeps, 1);
	if (b->backend->poll != NULL)
		b->backend->poll(b, wait);
	else if (wait)
		block_sleep(b);
	atomic_store_explicit(&b->asleep, BLOCK_AWAKE, memory_order_relaxed);
}

static void *
block_thread(void *arg)
{
	struct block *b = arg;

	if (b->backend->begin != NULL)
		b->backend->begin(b);
	do {
		block_inbox_run(b);
		block_waiting_start(b);
		block_poll(b);
		block_done_run(b);
		block_idle_run(b);
	} while (!b->ending || !block_is_idle(b) || b->idle_works != NULL);
	return NULL;
}

static int
block_thread_create(struct block *b)
{
	sigset_t all, old;
	int err;

	/* Signals are for the main thread and the vCPUs. */
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	err = pthread_create(&b->thread, NULL, block_thread, b);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -err;
}

static void
block_end(void *ctx)
{
	struct block *b = ctx;

	b->ending = true;
}

/* --- Cancelling and draining --- */

static void
block_cancel_run(void *ctx)
{
	struct block *b = ctx;

	block_req_list_cancel(&b->waiting, block_done);
	if (b->backend->cancel != NULL)
		b->backend->cancel(b);
}

void
block_cancel(struct block *b)
{
	atomic_fetch_add(&b->cancels, 1);
	block_post(b, &b->cancel_work);
}

struct block_drain_wait {
	struct block_work work;
	sem_t idle;
};

static void
block_drain_done(void *ctx)
{
	struct block_drain_wait *wait = ctx;

	sem_post(&wait->idle);
}

void
block_drain(struct block *b)
{
	struct block_drain_wait wait;

	assert(!pthread_equal(pthread_self(), b->thread));
	sem_init(&wait.idle, 0, 0);
	block_work_init(&wait.work, block_drain_done, &wait);
	block_drain_post(b, &wait.work);
	while (sem_wait(&wait.idle) != 0 && errno == EINTR)
		;
	sem_destroy(&wait.idle);
}

/* --- Size --- */

uint64_t
block_size(const struct block *b)
{
	return atomic_load_explicit(&b->size, memory_order_acquire);
}

static void
block_resize_run(void *ctx)
{
	struct block *b = ctx;
	void (*fn)(void *) = NULL;
	void *fn_ctx = NULL;
	uint64_t size;

	if (b->backend->size == NULL || b->backend->size(b, &size) != 0)
		return;
	size = ALIGN_DOWN(size, (uint64_t)b->info.logical_sector);
	if (size == block_size(b))
		return;
	atomic_store_explicit(&b->size, size, memory_order_release);
	pthread_mutex_lock(&b->resize_lock);
	fn = b->resize_fn;
	fn_ctx = b->resize_ctx;
	pthread_mutex_unlock(&b->resize_lock);
	if (fn != NULL)
		fn(fn_ctx);
}

void
block_rescan(struct block *b)
{
	block_post(b, &b->resize_work);
}

static void
block_resize_tick(void *ctx)
{
	struct block *b = ctx;

	pthread_mutex_lock(&b->resize_lock);
	if (b->resize_fn != NULL) {
		/* On the disk's thread, because a host's file system may take its time to
		 * answer. */
		block_rescan(b);
		vm_timer_arm(b->resize_timer, vm_clock_ns(b->loop) + BLOCK_RESIZE_NS);
	}
	pthread_mutex_unlock(&b->resize_lock);
}

void
block_on_resize(struct block *b, void (*fn)(void *ctx), void *ctx)
{
	pthread_mutex_lock(&b->resize_lock);
	b->resize_fn = fn;
	b->resize_ctx = ctx;
	if (b->backend->size != NULL) {
		if (fn != NULL)
			vm_timer_arm(b->resize_timer, vm_clock_ns(b->loop) + BLOCK_RESIZE_NS);
		else
			vm_timer_cancel(b->resize_timer);
	}
	pthread_mutex_unlock(&b->resize_lock);
}

/* --- Opening and closing --- */

static const struct block_backend *
block_backend_find(const char *path)
{
	if (path == NULL)
		return &block_ram;
	for (size_t i = 0; i < ARRAY_SIZE(block_backends); i++) {
		const char *const *prefix = block_backends[i]->prefixes;

		if (prefix == NULL)
			return block_backends[i];
		for (; *prefix != NULL; prefix++) {
			if (strncmp(path, *prefix, strlen(*prefix)) == 0)
				return block_backends[i];
		}
	}
	return NULL;
}

static void
block_free(struct block *b)
{
	if (b->wake_fd >= 0)
		close(b->wake_fd);
	vm_timer_destroy(b->resize_timer);
	pthread_mutex_destroy(&b->resize_lock);
	free(b->path);
	free(b->who);
	free(b);
}

/* Everything but the back end. */
static struct block *
block_create(struct vm_loop *loop, const struct block_options *o, const char *who)
{
	struct block *b = calloc(1, sizeof(*b));

	if (b == NULL)
		return NULL;
	b->loop = loop;
	b->backend = block_backend_find(o->path);
	b->discard = o->discard;
	b->detect_zeroes = o->detect_zeroes;
	pthread_mutex_init(&b->resize_lock, NULL);
	block_req_list_init(&b->waiting);
	block_req_list_init(&b->done);
	block_work_init(&b->resize_work, block_resize_run, b);
	block_work_init(&b->cancel_work, block_cancel_run, b);
	block_work_init(&b->end_work, block_end, b);
	b->wake_fd = eventfd(0, EFD_CLOEXEC);
	b->resize_timer = vm_timer_create(loop, block_resize_tick, b);
	b->who = strdup(who);
	b->path = strdup(o->path != NULL ? o->path : "ram");
	if (b->wake_fd < 0 || b->resize_timer == NULL || b->who == NULL || b->path == NULL) {
		block_free(b);
		return NULL;
	}
	b->info = (struct block_info){
		.path = b->path,
		.logical_sector = o->logical_sector,
		.physical_sector = o->physical_sector,
		.read_only = o->read_only,
		.write_cache = !o->sync,
		.bootindex = o->bootindex,
	};
	return b;
}

/* What follows from the options and what the back end found. */
static void
block_info_finish(struct block *b)
{
	struct block_info *info = &b->info;

	atomic_store(&b->size, ALIGN_DOWN(block_size(b), (uint64_t)info->logical_sector));
	if (info->read_only || b->discard == BLOCK_DISCARD_OFF)
		info->can_discard = false;
	if (info->read_only)
		info->write_cache = false;
	if (!info->can_discard) {
		info->discard_max = 0;
		info->discard_zeroes = false;
	} else if (b->discard == BLOCK_DISCARD_ZERO) {
		info->discard_zeroes = true;
	}
}

int
block_open(struct vm_loop *loop, const struct config *cfg, const char *who, struct block **out)
{
	struct block_options o;
	struct block *b;
	int err;

	err = block_options_read(&o, cfg, who);
	if (err != 0)
		return err;
	b = block_create(loop, &o, who);
	if (b == NULL) {
		log_error(who, "out of memory or file descriptors");
		return -ENOMEM;
	}
	err = b->backend->open(b, &o);
	if (err != 0)
		goto free_block;
	block_info_finish(b);
	err = block_thread_create(b);
	if (err != 0) {
		log_error(who, "cannot create a thread: %s", strerror(-err));
		goto close_backend;
	}
	*out = b;
	return 0;
close_backend:
	b->backend->close(b);
free_block:
	block_free(b);
	return err;
}

void
block_close(struct block *b)
{
	if (b == NULL)
		return;
	block_on_resize(b, NULL, NULL);
	vm_loop_sync(b->loop);
	block_post(b, &b->end_work);
	pthread_join(b->thread, NULL);
	b->backend->close(b);
	block_free(b);
}

const struct block_info *
block_info(const struct block *b)
{
	return &b->info;
}

const char *
block_engine(const struct block *b)
{
	return b->engine;
}

void
block_stats(const struct block *b, struct block_stats *out)
{
	const struct block_counters *c = &b->count;

	*out = (struct block_stats){
		.in_flight = atomic_load(&b->outstanding),
		.zeroes_detected = atomic_load(&c->zeroes_detected),
		.bounced = atomic_load(&c->bounced),
		.sleeps = atomic_load(&c->sleeps),
		.reconnects = atomic_load(&c->reconnects),
	};
	for (int i = 0; i < BLOCK_OPS; i++) {
		out->op[i].ops = atomic_load(&c->op[i].ops);
		out->op[i].bytes = atomic_load(&c->op[i].bytes);
		out->op[i].errors = atomic_load(&c->op[i].errors);
	}
}
