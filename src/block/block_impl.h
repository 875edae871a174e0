/*
 * Inside this room: what block.c (the disk's thread, checks, counters) and its back ends share.
 *
 * A request's way: block_submit() puts it into the disk's inbox, or, on the disk's thread, starts
 * it. Starting checks it and hands it to the back end, at most in_flight_max at a time; the rest
 * wait in a queue. The back end ends it by block_complete(), which puts it into the list of those
 * done; callbacks are called from the thread's loop.
 */
#ifndef BLOCK_BLOCK_IMPL_H
#define BLOCK_BLOCK_IMPL_H

#include "block/block.h"

#include <pthread.h>

#include "base/bits.h"
#include "base/counter.h"

/* A step through a bounce buffer copies at most this much, which bounds the memory a guest can have
 * us take: in_flight_max times this. */
#define BLOCK_BOUNCE_MAX KIB(512)

#define BLOCK_ERRNO_MAX 192 /* Linux has fewer */

enum block_discard { BLOCK_DISCARD_OFF, BLOCK_DISCARD_PUNCH, BLOCK_DISCARD_ZERO };

struct block_options { /* of the device's node, checked */
	const char *path; /* NULL: ram */
	uint64_t ram_size;
	bool read_only, nocache, sync, detect_zeroes;
	uint32_t logical_sector, physical_sector; /* 0: what the host says */
	enum block_discard discard;
	int bootindex;
	uint64_t reconnect_s;
	const char *aio;
};

/* Reads the node. 0, or -EINVAL after one line to the user. */
int block_options_read(struct block_options *o, const struct config *cfg, const char *who);

/* A kind of back end. All but open() and close() run on the disk's thread. */
struct block_backend {
	/* How paths of this kind start, NULL-terminated; NULL: only named by other means. */
	const char *const *prefixes;
	/* Sets b->priv, b->engine, b->size, b->in_flight_max and b->info (path, read_only,
	 * sectors as configured and bootindex are set already). Main thread, before the disk's
	 * thread exists. 0, or -errno with nothing left behind and one line told to the user. */
	int (*open)(struct block *b, const struct block_options *o);
	void (*close)(
	    struct block *b); /* main thread, after the disk's thread ended; no request is left */
	/* The disk's thread begins: for what must be made by the thread that uses it. It cannot
	 * fail. May be NULL. */
	void (*begin)(struct block *b);
	/* Starts a checked request, host_op with host_flags, of non-zero length, or a flush. It
	 * is ended by block_complete(), at once or later. A back end that sees to BLOCK_FUA
	 * itself clears it from host_flags; else a flush follows. */
	void (*start)(struct block *b, struct block_req *req);
	/* Gives the host what start() prepared and takes what the host has done. With wait:
	 * until there is something, or block_wake() is called. NULL: only start() and works do
	 * something. */
	void (*poll)(struct block *b, bool wait);
	/* Completes with -ECANCELED what the host does not have, by block_req_list_cancel().
	 * May be NULL. */
	void (*cancel)(struct block *b);
	/* The size now, into *size. 0 or -errno. NULL: it never changes. */
	int (*size)(struct block *b, uint64_t *size);
};

extern const struct block_backend block_file, block_ram, block_nbd;

struct block_req_list { /* a queue; zero is empty, but for last: use block_req_list_init() */
	struct block_req *first, **last;
};
void block_req_list_init(struct block_req_list *l);
void block_req_list_add(struct block_req_list *l, struct block_req *req);
struct block_req *block_req_list_take(struct block_req_list *l); /* the first, or NULL */
/* The disk's thread: takes out those that block_cancel() was called for since they were submitted, and
 * ends each with -ECANCELED. A new owner of the disk may submit before the work that cancels the old
 * one's requests gets its turn: his stay. */
void block_req_list_cancel(struct block_req_list *l, void (*end)(struct block_req *req, int err));

struct block_counters { /* written by the disk's thread only */
	struct {
		_Atomic uint64_t ops, bytes, errors;
	} op[BLOCK_OPS];
	_Atomic uint64_t zeroes_detected, bounced, sleeps, reconnects;
};

/* A futex costs less to wake, but only the eventfd can be waited for together with the host's
 * answers. */
enum block_sleep { BLOCK_AWAKE, BLOCK_ASLEEP_FD, BLOCK_ASLEEP_FUTEX };

struct block {
	/* Constant while open. */
	const struct block_backend *backend;
	struct vm_loop *loop;
	char *who, *path;
	const char *engine; /* for block_engine() */
	void *priv; /* the back end's */
	struct block_info info;
	enum block_discard discard;
	bool detect_zeroes;
	unsigned in_flight_max;
	pthread_t thread;
	int wake_fd; /* eventfd: readable when the thread was woken (BLOCK_ASLEEP_FD) */

	_Atomic uint64_t size;
	_Atomic uint64_t outstanding; /* requests submitted and not called back */
	_Atomic uint32_t cancels; /* calls of block_cancel() */
	struct block_counters count;

	/* From all threads to the disk's: a stack, newest first. */
	_Atomic(struct block_work *) inbox;
	_Atomic uint32_t asleep; /* enum block_sleep: of the disk's thread, now or in a moment */

	/* The disk's thread only. */
	bool ending;
	unsigned in_flight; /* with the back end */
	struct block_req_list waiting; /* for in_flight to fall */
	struct block_req_list done; /* for their callbacks */
	struct block_work *idle_works; /* block_drain_post(), for outstanding to be 0 */
	uint64_t errors_logged[BLOCK_ERRNO_MAX / 64]; /* a bit per errno: one line each */

	/* Resizing. */
	pthread_mutex_t resize_lock; /* guards the next two */
	void (*resize_fn)(void *ctx);
	void *resize_ctx;
	struct vm_timer *resize_timer;
	struct block_work resize_work, cancel_work, end_work;
};

/* Any thread: has poll() return. */
void block_wake(struct block *b);
/* The disk's thread, in poll() with wait: sleeps until block_wake(), where the host owes no
 * answer that comes another way. */
void block_sleep(struct block *b);

/* The disk's thread: the request ended with 0 or -errno. */
void block_complete(struct block_req *req, int err);

/* --- Data of requests (block_data.c) --- */

/* Whether each element starts at and is long a multiple of align, a power of two. */
bool block_req_aligned(const struct block_req *req, uint32_t align);
/* Whether the data is all zeros. */
bool block_req_is_zero(const struct block_req *req);

#endif
