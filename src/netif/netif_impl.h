/*
 * Inside this room: what netif.c (threads, flow, counters) and its back ends share.
 *
 * A queue's thread waits in poll() for its eventfd and for what its back end watches. Back ends have
 * no threads of their own and no locks: all but open(), close() and the two settings runs on the
 * queue's thread.
 */
#ifndef NETIF_NETIF_IMPL_H
#define NETIF_NETIF_IMPL_H

#include "netif/netif.h"

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

struct netif_options { /* of the device's node, checked */
	const char *backend; /* NULL: none */
	unsigned mtu; /* 0: not given */
	const char *bridge, *hostfwd, *path; /* NULL: not given */
	bool open;
};

struct netif_pollfds { /* what a thread waits for */
	struct pollfd *fds;
	int count, room;
	int timeout_ms; /* -1: none */
};

/* Adds a descriptor. Its index, or -1 when there is no memory: then it is not watched this time. */
int netif_pollfds_add(struct netif_pollfds *p, int fd, short events);
/* Wakes up after ms at the latest. */
void netif_pollfds_timeout(struct netif_pollfds *p, int64_t ms);

struct netif_queue;

struct netif_backend {
	const char *name;
	/* A prefix of backend= with something after it, rather than all of it. */
	bool is_prefix;
	/* Checks what of the options is its own. 0, or -EINVAL after one line to the user. May be
	 * NULL. */
	int (*check)(const struct netif_options *o, const char *who);
	/* Sets n->priv, n->queues (at most what it is), n->offloads and n->link. Main thread, before
	 * the threads exist. 0, or -errno with nothing left behind and one line told to the user. */
	int (*open)(struct netif *n, const struct netif_options *o);
	void (*close)(struct netif *n); /* main thread, after the threads */
	/* What to wait for: input only with want_input, output again if blocked is set. */
	void (*prepare)(struct netif_queue *q, struct netif_pollfds *p, bool want_input);
	/* After waiting: sets q->readable if there may be frames, clears q->blocked when output may
	 * go on. */
	void (*dispatch)(struct netif_queue *q, const struct netif_pollfds *p);
	/* As netif_send() and netif_recv(); the length of what is sent is checked. */
	int (*send)(struct netif_queue *q, const struct iovec *iov, int iovcnt, size_t len);
	ssize_t (*recv)(struct netif_queue *q, const struct iovec *iov, int iovcnt);
	/* Any thread. May be NULL. */
	int (*queues_set)(struct netif *n, unsigned queues);
	int (*offloads_set)(struct netif *n, unsigned offloads);
};

extern const struct netif_backend netif_tap, netif_slirp, netif_stream;

struct netif_counters { /* written by the queue's thread only */
	_Atomic uint64_t frames, bytes, dropped;
};

struct netif_queue {
	struct netif *n;
	unsigned index;
	pthread_t thread;
	bool has_thread;
	int event_fd; /* readable when the thread was kicked */
	atomic_bool kicked; /* since the thread last looked */
	atomic_bool ending;

	pthread_mutex_t lock; /* held while callbacks run */
	bool stopped; /* netif_pause(); lock */

	/* The thread only. */
	struct netif_pollfds poll;
	bool readable; /* there may be frames */
	bool full; /* the client left frames behind: nothing until it kicks */
	bool blocked; /* the host takes no output now */
	unsigned budget; /* frames until others have their turn */
	struct netif_counters sent, received;
};

struct netif {
	/* Constant while open. */
	const struct netif_backend *backend; /* NULL: none */
	void *priv; /* the back end's */
	char *who;
	const struct netif_client *client;
	void *ctx;
	unsigned queues, offloads, mtu;

	atomic_bool link;
	atomic_bool link_changed; /* the client has not been told */
	struct netif_queue queue[NETIF_QUEUES_MAX];
};

/* The link is up or down; the client will be told. A queue's thread. */
void netif_link_set(struct netif *n, bool up);
/* Has input() called now rather than after the next wait: for a back end that is handed frames in
 * dispatch(). The client may call recv() from there. */
void netif_input_now(struct netif_queue *q);

/* Copies a header of zeros and then len bytes of buf to the elements. The length of both, or
 * -EMSGSIZE when they do not fit. */
ssize_t netif_frame_put(const struct iovec *iov, int iovcnt, const void *buf, size_t len);

/* Milliseconds on the clock that runs evenly. */
int64_t netif_now_ms(void);

#endif
