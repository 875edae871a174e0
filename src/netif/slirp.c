/*
 * A network of its own for the guest, by libslirp: what the guest sends goes on from sockets of this
 * process, so it needs no privileges and no set-up on the host.
 *
 * The guest is 10.0.2.15 by DHCP, the host 10.0.2.2, name service 10.0.2.3; fec0::/64 likewise.
 *
 * libslirp hands frames over when it likes: while it looks at its sockets, when they go straight to
 * the guest, or in answer to a frame of the guest's, when they have to wait until that was sent.
 */
#include "netif/netif_impl.h"

#ifdef HAVE_LIBSLIRP

#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/iov.h"
#include "base/log.h"

/* Frames that wait for the guest to have room. Beyond that they are lost, and TCP slows down. */
#define SLIRP_WAITING_MAX 512

/* libslirp's limits of what one frame holds. */
#define SLIRP_MTU_MAX 65521

struct slirp_frame {
	struct slirp_frame *next;
	size_t len;
	uint8_t data[];
};

struct slirp_timer {
	struct slirp_timer *next;
	SlirpTimerId id;
	void *opaque;
	int64_t deadline_ms; /* -1: not armed */
};

struct slirp_rule { /* of hostfwd */
	bool udp;
	struct in_addr host, guest;
	uint16_t host_port, guest_port;
};

struct slirp_net {
	struct netif *n;
	Slirp *slirp;
	struct netif_pollfds *poll; /* in prepare() and dispatch() */
	struct slirp_timer *timers;
	bool looking; /* libslirp looks at its sockets: frames can go straight to the guest */

	const uint8_t *frame; /* the one that is handed over, not taken yet; NULL: none */
	size_t frame_len;
	struct slirp_frame *waiting, **waiting_last; /* before it */
	unsigned waiting_count;

	uint8_t linear[sizeof(struct netif_hdr) + NETIF_FRAME_MAX]; /* a frame in one piece */
};

/* --- hostfwd --- */

/* Takes text up to the delimiter, which is taken off. False when it is not there or too long. */
static bool
slirp_rule_field(const char **text, char delimiter, char *buf, size_t size)
{
	const char *end = strchr(*text, delimiter);
	size_t len;

	if (end == NULL)
		return false;
	len = (size_t)(end - *text);
	if (len >= size)
		return false;
	memcpy(buf, *text, len);
	buf[len] = '\0';
	*text = end + 1;
	return true;
}

static bool
slirp_rule_port(const char *text, uint16_t *port)
{
	unsigned long v;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	v = strtoul(text, &end, 10);
	*port = (uint16_t)v;
	return *end == '\0' && v >= 1 && v <= UINT16_MAX;
}

static bool
slirp_rule_address(const char *text, const char *def, struct in_addr *addr)
{
	return inet_pton(AF_INET, *text != '\0' ? text : def, addr) == 1;
}

/* PROTO:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT */
static bool
slirp_rule_parse(const char *text, struct slirp_rule *r)
{
	char buf[64];

	if (!slirp_rule_field(&text, ':', buf, sizeof(buf)))
		return false;
	r->udp = strcmp(buf, "udp") == 0;
	if (!r->udp && strcmp(buf, "tcp") != 0)
		return false;
	return slirp_rule_field(&text, ':', buf, sizeof(buf)) &&
	    slirp_rule_address(buf, "0.0.0.0", &r->host) &&
	    slirp_rule_field(&text, '-', buf, sizeof(buf)) &&
	    slirp_rule_port(buf, &r->host_port) &&
	    slirp_rule_field(&text, ':', buf, sizeof(buf)) &&
	    slirp_rule_address(buf, "10.0.2.15", &r->guest) &&
	    slirp_rule_port(text, &r->guest_port);
}

/* Calls fn for each rule. Stops at the first that is malformed (-EINVAL, told to the user) or that
 * fn returns an error for. */
static int
slirp_rules_walk(const char *rules, const char *who,
    int (*fn)(void *arg, const struct slirp_rule *r, const char *text), void *arg)
{
	while (rules != NULL && *rules != '\0') {
		size_t len = strcspn(rules, ";");
		struct slirp_rule r;
		char text[128];
		int err;

		snprintf(text, sizeof(text), "%.*s", (int)MIN(len, sizeof(text)), rules);
		if (len >= sizeof(text) || !slirp_rule_parse(text, &r)) {
			log_error(who, "hostfwd=%s: expected "
				       "tcp|udp:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT", text);
			return -EINVAL;
		}
		err = fn(arg, &r, text);
		if (err != 0)
			return err;
		rules += len;
		rules += *rules == ';';
	}
	return 0;
}

static int
slirp_rule_ignore(void *arg, const struct slirp_rule *r, const char *text)
{
	return 0;
}

static int
slirp_rule_add(void *arg, const struct slirp_rule *r, const char *text)
{
	struct slirp_net *s = arg;
	int err;

	errno = 0;
	if (slirp_add_hostfwd(s->slirp, r->udp, r->host, r->host_port, r->guest, r->guest_port) >= 0)
		return 0;
	err = errno != 0 ? -errno : -EADDRINUSE;
	log_error(s->n->who, "hostfwd=%s: cannot listen on port %u: %s", text, r->host_port,
	    strerror(-err));
	return err;
}

/* --- What libslirp asks of us --- */

/* Keeps a frame for later. */
static void
slirp_frame_keep(struct slirp_net *s, const void *buf, size_t len)
{
	struct slirp_frame *f;

	if (s->waiting_count >= SLIRP_WAITING_MAX)
		return;
	f = malloc(sizeof(*f) + len);
	if (f == NULL)
		return;
	f->next = NULL;
	f->len = len;
	memcpy(f->data, buf, len);
	*s->waiting_last = f;
	s->waiting_last = &f->next;
	s->waiting_count++;
}

static ssize_t
slirp_on_frame(const void *buf, size_t len, void *opaque)
{
	struct slirp_net *s = opaque;
	struct netif_queue *q = &s->n->queue[0];

	if (len == 0 || len > NETIF_FRAME_MAX)
		return (ssize_t)len;
	if (s->looking && s->waiting == NULL) {
		s->frame = buf;
		s->frame_len = len;
		netif_input_now(q);
		if (s->frame == NULL)
			return (ssize_t)len;
		s->frame = NULL;
	}
	slirp_frame_keep(s, buf, len);
	q->readable = true;
	return (ssize_t)len;
}

static void
slirp_on_guest_error(const char *msg, void *opaque)
{
	struct slirp_net *s = opaque;

	log_guest(s->n->who, "%s", msg);
}

static int64_t
slirp_on_clock(void *opaque)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static void *
slirp_on_timer_new(SlirpTimerId id, void *cb_opaque, void *opaque)
{
	struct slirp_net *s = opaque;
	struct slirp_timer *t = malloc(sizeof(*t));

	if (t == NULL)
		return NULL;
	*t = (struct slirp_timer){ .next = s->timers, .id = id, .opaque = cb_opaque,
		.deadline_ms = -1 };
	s->timers = t;
	return t;
}

static void
slirp_on_timer_free(void *timer, void *opaque)
{
	struct slirp_net *s = opaque;

	for (struct slirp_timer **at = &s->timers; *at != NULL; at = &(*at)->next)
		if (*at == timer) {
			*at = (*at)->next;
			break;
		}
	free(timer);
}

static void
slirp_on_timer_mod(void *timer, int64_t expire_ms, void *opaque)
{
	struct slirp_timer *t = timer;

	if (t != NULL)
		t->deadline_ms = MAX(expire_ms, 0);
}

static void
slirp_on_poll_fd(int fd, void *opaque)
{
	/* All descriptors are asked for before each wait. */
}

static void
slirp_on_notify(void *opaque)
{
	/* Only ever from within a call of ours, after which descriptors are asked for anew. */
}

static const SlirpCb slirp_callbacks = {
	.send_packet = slirp_on_frame,
	.guest_error = slirp_on_guest_error,
	.clock_get_ns = slirp_on_clock,
	.timer_free = slirp_on_timer_free,
	.timer_mod = slirp_on_timer_mod,
	.register_poll_fd = slirp_on_poll_fd,
	.unregister_poll_fd = slirp_on_poll_fd,
	.notify = slirp_on_notify,
	.timer_new_opaque = slirp_on_timer_new,
};

/* --- The queue's thread --- */

static int
slirp_add_poll(int fd, int events, void *opaque)
{
	struct slirp_net *s = opaque;
	/* Errors and hang-ups come by themselves. */
	int ev = ((events & SLIRP_POLL_IN) != 0 ? POLLIN : 0) |
	    ((events & SLIRP_POLL_OUT) != 0 ? POLLOUT : 0) |
	    ((events & SLIRP_POLL_PRI) != 0 ? POLLPRI : 0);

	return netif_pollfds_add(s->poll, fd, (short)ev);
}

static int
slirp_get_revents(int idx, void *opaque)
{
	struct slirp_net *s = opaque;
	short ev = idx >= 0 && idx < s->poll->count ? s->poll->fds[idx].revents : 0;

	return ((ev & POLLIN) != 0 ? SLIRP_POLL_IN : 0) |
	    ((ev & POLLOUT) != 0 ? SLIRP_POLL_OUT : 0) |
	    ((ev & POLLPRI) != 0 ? SLIRP_POLL_PRI : 0) |
	    ((ev & (POLLERR | POLLNVAL)) != 0 ? SLIRP_POLL_ERR : 0) |
	    ((ev & POLLHUP) != 0 ? SLIRP_POLL_HUP : 0);
}

static void
slirp_prepare(struct netif_queue *q, struct netif_pollfds *p, bool want_input)
{
	struct slirp_net *s = q->n->priv;
	uint32_t timeout = UINT32_MAX;
	int64_t now = netif_now_ms();

	s->poll = p;
	slirp_pollfds_fill(s->slirp, &timeout, slirp_add_poll, s);
	if (timeout != UINT32_MAX)
		netif_pollfds_timeout(p, timeout);
	for (struct slirp_timer *t = s->timers; t != NULL; t = t->next)
		if (t->deadline_ms >= 0)
			netif_pollfds_timeout(p, t->deadline_ms - now);
}

/* Runs what is due. A timer that fires may arm or free any. */
static void
slirp_timers_run(struct slirp_net *s)
{
	int64_t now = netif_now_ms();
	struct slirp_timer *t = s->timers;

	while (t != NULL) {
		if (t->deadline_ms < 0 || t->deadline_ms > now) {
			t = t->next;
			continue;
		}
		t->deadline_ms = -1;
		slirp_handle_timer(s->slirp, t->id, t->opaque);
		t = s->timers;
	}
}

static void
slirp_dispatch(struct netif_queue *q, const struct netif_pollfds *p)
{
	struct slirp_net *s = q->n->priv;

	s->looking = true;
	slirp_pollfds_poll(s->slirp, 0, slirp_get_revents, s);
	slirp_timers_run(s);
	s->looking = false;
}

static int
slirp_send(struct netif_queue *q, const struct iovec *iov, int iovcnt, size_t len)
{
	struct slirp_net *s = q->n->priv;
	size_t head = sizeof(struct netif_hdr);

	iov_gather(iov, iovcnt, head, s->linear, len - head);
	slirp_input(s->slirp, s->linear, (int)(len - head));
	return 0;
}

static ssize_t
slirp_recv(struct netif_queue *q, const struct iovec *iov, int iovcnt)
{
	struct slirp_net *s = q->n->priv;
	struct slirp_frame *f = s->waiting;
	ssize_t len;

	if (f != NULL) {
		len = netif_frame_put(iov, iovcnt, f->data, f->len);
		s->waiting = f->next;
		if (s->waiting == NULL)
			s->waiting_last = &s->waiting;
		s->waiting_count--;
		free(f);
		return len;
	}
	if (s->frame == NULL)
		return -EAGAIN;
	len = netif_frame_put(iov, iovcnt, s->frame, s->frame_len);
	s->frame = NULL;
	return len;
}

/* --- Opening --- */

static int
slirp_check(const struct netif_options *o, const char *who)
{
	return slirp_rules_walk(o->hostfwd, who, slirp_rule_ignore, NULL);
}

static void
slirp_close(struct netif *n)
{
	struct slirp_net *s = n->priv;

	if (s->slirp != NULL)
		slirp_cleanup(s->slirp);
	while (s->waiting != NULL) {
		struct slirp_frame *f = s->waiting;

		s->waiting = f->next;
		free(f);
	}
	while (s->timers != NULL)
		slirp_on_timer_free(s->timers, s);
	free(s);
}

static int
slirp_open(struct netif *n, const struct netif_options *o)
{
	struct slirp_net *s = calloc(1, sizeof(*s));
	SlirpConfig cfg = {
		.version = 4,
		.restricted = !o->open,
		.in_enabled = true,
		.vnetwork.s_addr = htonl(0x0a000200), /* 10.0.2.0 */
		.vnetmask.s_addr = htonl(0xffffff00),
		.vhost.s_addr = htonl(0x0a000202),
		.vnameserver.s_addr = htonl(0x0a000203),
		.vdhcp_start.s_addr = htonl(0x0a00020f),
		.in6_enabled = true,
		.vprefix_len = 64,
		.if_mtu = MIN(o->mtu, SLIRP_MTU_MAX),
		.if_mru = MIN(o->mtu, SLIRP_MTU_MAX),
	};
	int err;

	if (s == NULL) {
		log_error(n->who, "out of memory");
		return -ENOMEM;
	}
	s->n = n;
	s->waiting_last = &s->waiting;
	inet_pton(AF_INET6, "fec0::", &cfg.vprefix_addr6);
	inet_pton(AF_INET6, "fec0::2", &cfg.vhost6);
	inet_pton(AF_INET6, "fec0::3", &cfg.vnameserver6);
	n->priv = s;
	n->queues = 1;
	s->slirp = slirp_new(&cfg, &slirp_callbacks, s);
	if (s->slirp == NULL) {
		log_error(n->who, "backend=slirp: libslirp %s does not start",
		    slirp_version_string());
		err = -EIO;
		goto close;
	}
	err = slirp_rules_walk(o->hostfwd, n->who, slirp_rule_add, s);
	if (err != 0)
		goto close;
	atomic_store(&n->link, true);
	return 0;
close:
	slirp_close(n);
	return err;
}

const struct netif_backend netif_slirp = {
	.name = "slirp",
	.check = slirp_check,
	.open = slirp_open,
	.close = slirp_close,
	.prepare = slirp_prepare,
	.dispatch = slirp_dispatch,
	.send = slirp_send,
	.recv = slirp_recv,
};

#endif
