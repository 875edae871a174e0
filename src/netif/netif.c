/*
 * What all back ends share: options, the threads and whose turn it is, counters, and pieces of
 * scattered frames.
 */
#include "netif/netif.h"
#include "netif/netif_impl.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/config.h"
#include "base/counter.h"
#include "base/iov.h"
#include "base/log.h"
#include "base/md5.h"

/* Frames that a queue receives before what it has to send gets its turn. */
#define NETIF_BUDGET 256

#define NETIF_MTU_MIN 68 /* RFC 791: each Internet module must forward as much */
#define NETIF_MTU_MAX 65521 /* what Linux lets a tap have: 64 KiB with the Ethernet header */

static const struct netif_backend *const netif_backends[] = {
	&netif_tap,
#ifdef HAVE_LIBSLIRP
	&netif_slirp,
#endif
	&netif_stream,
};

/* --- Options --- */

static const struct netif_backend *
netif_backend_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(netif_backends); i++) {
		const struct netif_backend *b = netif_backends[i];
		size_t len = strlen(b->name);

		if (b->is_prefix ? strncmp(name, b->name, len) == 0 && name[len] != '\0'
				 : strcmp(name, b->name) == 0)
			return b;
	}
	return NULL;
}

static int
netif_options_read(struct netif_options *o, const struct config *cfg, const char *who,
    const struct netif_backend **backend)
{
	uint64_t mtu = 0;
	int err;

	*o = (struct netif_options){
		.backend = config_get(cfg, "backend"),
		.bridge = config_get(cfg, "bridge"),
		.hostfwd = config_get(cfg, "hostfwd"),
		.path = config_get(cfg, "path"),
	};
	*backend = NULL;
	if (o->backend != NULL) {
		*backend = netif_backend_find(o->backend);
		if (*backend == NULL) {
			log_error(who, "backend=%s: not a network back end of this build; expected "
				       "tapN, slirp or stream", o->backend);
			return -EINVAL;
		}
	}
	err = config_get_uint(cfg, "mtu", &mtu);
	if (err != -ENOENT && (err != 0 || mtu < NETIF_MTU_MIN || mtu > NETIF_MTU_MAX)) {
		log_error(who, "mtu=%s: expected %u to %u bytes", config_get(cfg, "mtu"),
		    NETIF_MTU_MIN, NETIF_MTU_MAX);
		return -EINVAL;
	}
	o->mtu = (unsigned)mtu;
	if (config_get_bool(cfg, "open", &o->open) == -EINVAL) {
		log_error(who, "open=%s: expected true or false", config_get(cfg, "open"));
		return -EINVAL;
	}
	if (*backend != NULL && (*backend)->check != NULL)
		return (*backend)->check(o, who);
	return 0;
}

int
netif_check(const struct config *cfg, const char *who)
{
	const struct netif_backend *backend;
	struct netif_options o;

	return netif_options_read(&o, cfg, who, &backend);
}

int
netif_mac(const struct config *cfg, const char *who, const char *vm_name, int slot, int function,
    uint8_t mac[6])
{
	const char *text = config_get(cfg, "mac");
	uint8_t digest[MD5_SIZE];
	unsigned b[6];
	char seed[512];
	int end = -1;

	if (text == NULL) {
		/* As bhyve(8): an OUI of NetApp, where bhyve comes from, and a digest. */
		snprintf(seed, sizeof(seed), "%d-%d-%s", slot, function, vm_name);
		md5(seed, strlen(seed), digest);
		memcpy(mac, (const uint8_t[]){ 0x00, 0xa0, 0x98, digest[0], digest[1], digest[2] },
		    6);
		return 0;
	}
	if (sscanf(text, "%2x:%2x:%2x:%2x:%2x:%2x%n", &b[0], &b[1], &b[2], &b[3], &b[4], &b[5],
		&end) != 6 || end < 0 || text[end] != '\0' || strspn(text, "0123456789abcdefABCDEF:") !=
		strlen(text)) {
		log_error(who, "mac=%s: expected six bytes in hexadecimal, as in 58:9c:fc:00:00:01",
		    text);
		return -EINVAL;
	}
	for (int i = 0; i < 6; i++)
		mac[i] = (uint8_t)b[i];
	if ((mac[0] & 1) != 0 || memcmp(mac, (const uint8_t[6]){ 0 }, 6) == 0) {
		log_error(who, "mac=%s: not the address of one interface", text);
		return -EINVAL;
	}
	return 0;
}

/* --- Waiting --- */

int
netif_pollfds_add(struct netif_pollfds *p, int fd, short events)
{
	if (p->count == p->room) {
		int room = MAX(16, p->room * 2);
		struct pollfd *fds = realloc(p->fds, (size_t)room * sizeof(*fds));

		if (fds == NULL)
			return -1;
		p->fds = fds;
		p->room = room;
	}
	p->fds[p->count] = (struct pollfd){ .fd = fd, .events = events };
	return p->count++;
}

void
netif_pollfds_timeout(struct netif_pollfds *p, int64_t ms)
{
	int capped = (int)MIN(MAX(ms, 0), INT_MAX);

	if (p->timeout_ms < 0 || capped < p->timeout_ms)
		p->timeout_ms = capped;
}

int64_t
netif_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Waits until there may be something to do. */
static void
netif_queue_wait(struct netif_queue *q)
{
	const struct netif_backend *backend = q->n->backend;
	struct netif_pollfds *p = &q->poll;
	uint64_t kicks;

	p->count = 0;
	p->timeout_ms = -1;
	netif_pollfds_add(p, q->event_fd, POLLIN); /* netif_start() has made room for it */
	if (backend != NULL)
		backend->prepare(q, p, !q->full);
	if (q->readable && !q->full)
		p->timeout_ms = 0;
	if (poll(p->fds, (nfds_t)p->count, p->timeout_ms) < 0)
		for (int i = 0; i < p->count; i++)
			p->fds[i].revents = 0;
	if (p->fds[0].revents != 0 && read(q->event_fd, &kicks, sizeof(kicks)) < 0 &&
	    errno != EAGAIN)
		log_warn(q->n->who, "eventfd: %s", strerror(errno));
}

/* --- The thread --- */

/* q->lock held. */
static void
netif_queue_input(struct netif_queue *q)
{
	q->budget = NETIF_BUDGET;
	q->n->client->input(q->n->ctx, q->index);
	if (q->readable && q->budget > 0)
		q->full = true;
}

void
netif_input_now(struct netif_queue *q)
{
	q->readable = true;
	pthread_mutex_lock(&q->lock);
	if (!q->stopped && !q->full)
		netif_queue_input(q);
	pthread_mutex_unlock(&q->lock);
}

static void *
netif_queue_run(void *arg)
{
	struct netif_queue *q = arg;
	const struct netif_client *client = q->n->client;

	while (!atomic_load(&q->ending)) {
		bool was_blocked = q->blocked, kicked;

		netif_queue_wait(q);
		if (q->n->backend != NULL)
			q->n->backend->dispatch(q, &q->poll);
		pthread_mutex_lock(&q->lock);
		if (!q->stopped) {
			kicked = atomic_exchange(&q->kicked, false);
			if (kicked && q->full) {
				q->full = false;
				q->readable = true;
			}
			if (kicked || (was_blocked && !q->blocked))
				client->kick(q->n->ctx, q->index);
			if (q->readable && !q->full)
				netif_queue_input(q);
		}
		pthread_mutex_unlock(&q->lock);
		if (atomic_exchange(&q->n->link_changed, false) && client->link != NULL)
			client->link(q->n->ctx);
	}
	return NULL;
}

void
netif_kick(struct netif *n, unsigned queue)
{
	struct netif_queue *q = &n->queue[queue];

	/* Full, it cannot be: the thread reads it before it is written again. */
	if (!atomic_exchange(&q->kicked, true))
		(void)!write(q->event_fd, &(uint64_t){ 1 }, sizeof(uint64_t));
}

void
netif_pause(struct netif *n)
{
	for (unsigned i = 0; i < n->queues; i++) {
		pthread_mutex_lock(&n->queue[i].lock);
		n->queue[i].stopped = true;
		pthread_mutex_unlock(&n->queue[i].lock);
	}
}

void
netif_resume(struct netif *n)
{
	for (unsigned i = 0; i < n->queues; i++) {
		pthread_mutex_lock(&n->queue[i].lock);
		n->queue[i].stopped = false;
		pthread_mutex_unlock(&n->queue[i].lock);
		/* What came meanwhile was left where it was. */
		atomic_store(&n->queue[i].kicked, false);
		netif_kick(n, i);
	}
}

/* --- Frames --- */

static void
netif_count(struct netif_counters *c, size_t bytes)
{
	counter_add(&c->frames, 1);
	counter_add(&c->bytes, bytes);
}

int
netif_send(struct netif *n, unsigned queue, const struct iovec *iov, int iovcnt)
{
	struct netif_queue *q = &n->queue[queue];
	size_t len = iov_length(iov, iovcnt);
	int err;

	if (n->backend == NULL)
		err = -ENETDOWN;
	else if (len <= sizeof(struct netif_hdr) ||
	    len > sizeof(struct netif_hdr) + NETIF_FRAME_MAX || iovcnt > IOV_MAX)
		err = -EMSGSIZE;
	else
		err = n->backend->send(q, iov, iovcnt, len);
	if (err == 0)
		netif_count(&q->sent, len - sizeof(struct netif_hdr));
	else if (err == -EAGAIN)
		q->blocked = true;
	else
		counter_add(&q->sent.dropped, 1);
	return err;
}

ssize_t
netif_recv(struct netif *n, unsigned queue, const struct iovec *iov, int iovcnt)
{
	struct netif_queue *q = &n->queue[queue];
	ssize_t len;

	if (n->backend == NULL || q->budget == 0)
		return -EAGAIN;
	for (;;) {
		q->budget--;
		len = n->backend->recv(q, iov, iovcnt);
		if (len >= 0) {
			netif_count(&q->received, (size_t)len - sizeof(struct netif_hdr));
			return len;
		}
		if (len != -EMSGSIZE) {
			q->readable = false;
			return -EAGAIN;
		}
		counter_add(&q->received.dropped, 1);
		if (q->budget == 0)
			return -EAGAIN;
	}
}

ssize_t
netif_frame_put(const struct iovec *iov, int iovcnt, const void *buf, size_t len)
{
	static const struct netif_hdr none;

	if (iov_scatter(iov, iovcnt, 0, &none, sizeof(none)) != sizeof(none) ||
	    iov_scatter(iov, iovcnt, sizeof(none), buf, len) != len)
		return -EMSGSIZE;
	return (ssize_t)(sizeof(none) + len);
}

/* --- Settings --- */

unsigned
netif_queues(const struct netif *n)
{
	return n->queues;
}

int
netif_queues_set(struct netif *n, unsigned queues)
{
	if (queues == 0 || queues > n->queues)
		return -EINVAL;
	if (n->backend == NULL || n->backend->queues_set == NULL)
		return 0;
	return n->backend->queues_set(n, queues);
}

unsigned
netif_offloads(const struct netif *n)
{
	return n->offloads;
}

int
netif_offloads_set(struct netif *n, unsigned offloads)
{
	if ((offloads & ~n->offloads) != 0)
		return -EINVAL;
	if (n->backend == NULL || n->backend->offloads_set == NULL)
		return 0;
	return n->backend->offloads_set(n, offloads);
}

bool
netif_link(const struct netif *n)
{
	return atomic_load(&n->link);
}

void
netif_link_set(struct netif *n, bool up)
{
	if (atomic_exchange(&n->link, up) == up)
		return;
	atomic_store(&n->link_changed, true);
	/* All threads have something else to wait for now, and one tells the client: here its locks
	 * may be held. */
	for (unsigned i = 0; i < n->queues; i++)
		netif_kick(n, i);
}

unsigned
netif_mtu(const struct netif *n)
{
	return n->mtu;
}

const char *
netif_backend_name(const struct netif *n)
{
	return n->backend != NULL ? n->backend->name : "none";
}

static void
netif_counters_add(uint64_t sum[3], const struct netif_counters *c)
{
	sum[0] += atomic_load_explicit(&c->frames, memory_order_relaxed);
	sum[1] += atomic_load_explicit(&c->bytes, memory_order_relaxed);
	sum[2] += atomic_load_explicit(&c->dropped, memory_order_relaxed);
}

void
netif_stats(const struct netif *n, struct netif_stats *out)
{
	uint64_t sent[3] = { 0 }, received[3] = { 0 };

	for (unsigned i = 0; i < n->queues; i++) {
		netif_counters_add(sent, &n->queue[i].sent);
		netif_counters_add(received, &n->queue[i].received);
	}
	*out = (struct netif_stats){
		.sent = { sent[0], sent[1], sent[2] },
		.received = { received[0], received[1], received[2] },
	};
}

/* --- Opening --- */

static int
netif_queue_init(struct netif_queue *q, struct netif *n, unsigned index)
{
	q->n = n;
	q->index = index;
	pthread_mutex_init(&q->lock, NULL);
	q->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (q->event_fd < 0) {
		int err = -errno;

		log_error(n->who, "eventfd: %s", strerror(errno));
		return err;
	}
	return 0;
}

int
netif_open(const struct config *cfg, const char *who, unsigned queues,
    const struct netif_client *client, void *ctx, struct netif **out)
{
	const struct netif_backend *backend;
	struct netif_options o;
	struct netif *n;
	int err;

	assert(queues >= 1 && queues <= NETIF_QUEUES_MAX);
	err = netif_options_read(&o, cfg, who, &backend);
	if (err != 0)
		return err;
	n = calloc(1, sizeof(*n));
	if (n != NULL)
		n->who = strdup(who);
	if (n == NULL || n->who == NULL) {
		free(n);
		log_error(who, "out of memory");
		return -ENOMEM;
	}
	n->client = client;
	n->ctx = ctx;
	n->queues = queues;
	n->mtu = o.mtu;
	for (unsigned i = 0; i < NETIF_QUEUES_MAX; i++)
		n->queue[i].event_fd = -1;
	if (backend == NULL) {
		n->queues = 1;
	} else {
		err = backend->open(n, &o);
		if (err != 0)
			goto close;
		n->backend = backend; /* netif_close() undoes its open() from here on */
	}
	for (unsigned i = 0; i < n->queues; i++) {
		err = netif_queue_init(&n->queue[i], n, i);
		if (err != 0)
			goto close;
	}
	*out = n;
	return 0;
close:
	netif_close(n);
	return err;
}

int
netif_start(struct netif *n)
{
	int err;

	for (unsigned i = 0; i < n->queues; i++) {
		struct netif_queue *q = &n->queue[i];

		/* So that the eventfd has its place in the list whatever comes later. */
		if (netif_pollfds_add(&q->poll, q->event_fd, POLLIN) < 0)
			err = ENOMEM;
		else
			err = pthread_create(&q->thread, NULL, netif_queue_run, q);
		if (err != 0) {
			log_error(n->who, "cannot make a thread: %s", strerror(err));
			return -err;
		}
		q->has_thread = true;
	}
	return 0;
}

void
netif_close(struct netif *n)
{
	if (n == NULL)
		return;
	for (unsigned i = 0; i < n->queues; i++) {
		struct netif_queue *q = &n->queue[i];

		if (q->has_thread) {
			atomic_store(&q->ending, true);
			atomic_store(&q->kicked, false);
			netif_kick(n, i);
			pthread_join(q->thread, NULL);
		}
	}
	if (n->backend != NULL)
		n->backend->close(n);
	for (unsigned i = 0; i < n->queues; i++) {
		if (n->queue[i].event_fd >= 0) {
			close(n->queue[i].event_fd);
			pthread_mutex_destroy(&n->queue[i].lock);
		}
		free(n->queue[i].poll.fds);
	}
	free(n->who);
	free(n);
}
