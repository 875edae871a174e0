/*
 * Frames on a UNIX stream socket, each after its length in four bytes, big-endian: what passt and
 * QEMU's "-netdev stream" speak. This side connects, and connects again when the peer went away;
 * meanwhile the link is down.
 */
#include "netif/netif_impl.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/iov.h"
#include "base/log.h"

/* A frame with its length at least; so much that a burst of small ones comes in one system call. */
#define STREAM_IN_SIZE KIB(128)
/* How long after a failed attempt the next is made. */
#define STREAM_RETRY_MS 1000

struct stream {
	struct netif *n;
	char *path;
	int fd; /* -1: not connected */
	int64_t retry_ms; /* when to try again */

	uint8_t *in; /* what has come: bytes in_pos to in_end are not taken yet */
	size_t in_pos, in_end;
	/* What the socket did not take of a frame that it took in part. */
	uint8_t *out;
	size_t out_pos, out_end;
};

/* 0, or -errno; the caller decides whether to say so. */
static int
stream_connect(struct stream *s)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), err;

	if (fd < 0)
		return -errno;
	memcpy(addr.sun_path, s->path, strlen(s->path)); /* stream_check() looked at its length */
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		err = -errno;
		close(fd);
		return err;
	}
	s->fd = fd;
	s->in_pos = s->in_end = 0;
	s->out_pos = s->out_end = 0;
	return 0;
}

/* The peer is gone, or speaks something else. why: NULL, it went away. */
static void
stream_lost(struct stream *s, const char *why)
{
	log_warn(s->n->who, "%s: %s; trying to connect again", s->path,
	    why != NULL ? why : "the peer went away");
	close(s->fd);
	s->fd = -1;
	s->retry_ms = netif_now_ms();
	netif_link_set(s->n, false);
}

/* Sends what was left of a frame. True when the next can go. */
static bool
stream_flush(struct stream *s)
{
	while (s->out_pos < s->out_end) {
		ssize_t n =
		    send(s->fd, s->out + s->out_pos, s->out_end - s->out_pos, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return false;
		if (n < 0) {
			stream_lost(s, NULL);
			return true; /* frames are lost then */
		}
		s->out_pos += (size_t)n;
	}
	return true;
}

static void
stream_prepare(struct netif_queue *q, struct netif_pollfds *p, bool want_input)
{
	struct stream *s = q->n->priv;
	/* The end of the connection is noticed even when the guest has no room. */
	short events = (short)((want_input ? POLLIN : POLLRDHUP) |
	    (q->blocked || s->out_pos < s->out_end ? POLLOUT : 0));

	netif_pollfds_add(p, s->fd, events);
	if (s->fd < 0)
		netif_pollfds_timeout(p, s->retry_ms - netif_now_ms());
}

static void
stream_dispatch(struct netif_queue *q, const struct netif_pollfds *p)
{
	struct stream *s = q->n->priv;
	short revents = p->count > 1 ? p->fds[1].revents : 0;

	if (s->fd < 0) {
		q->blocked = false;
		if (netif_now_ms() < s->retry_ms)
			return;
		if (stream_connect(s) == 0)
			netif_link_set(q->n, true);
		else
			s->retry_ms = netif_now_ms() + STREAM_RETRY_MS;
		return;
	}
	if ((revents & POLLOUT) != 0 && stream_flush(s))
		q->blocked = false;
	if (s->fd >= 0 && (revents & (POLLIN | POLLHUP | POLLERR | POLLRDHUP)) != 0) {
		if ((p->fds[1].events & POLLIN) == 0)
			stream_lost(s, NULL); /* what it sent last would have to wait for ever */
		else
			q->readable = true;
	}
}

static int
stream_send(struct netif_queue *q, const struct iovec *iov, int iovcnt, size_t len)
{
	struct stream *s = q->n->priv;
	size_t head = sizeof(struct netif_hdr), whole = sizeof(uint32_t) + len - head, skip = head;
	struct iovec all[1024];
	uint32_t prefix = htonl((uint32_t)(len - head));
	struct msghdr msg = { .msg_iov = all };
	ssize_t n;

	if (s->fd < 0)
		return -ENETDOWN;
	if (!stream_flush(s))
		return -EAGAIN;
	if (iovcnt >= (int)ARRAY_SIZE(all))
		return -EMSGSIZE;
	all[msg.msg_iovlen++] = (struct iovec){ .iov_base = &prefix, .iov_len = sizeof(prefix) };
	for (int i = 0; i < iovcnt; i++) {
		size_t off = MIN(skip, iov[i].iov_len);

		skip -= off;
		if (off < iov[i].iov_len)
			all[msg.msg_iovlen++] = (struct iovec){
				.iov_base = (uint8_t *)iov[i].iov_base + off,
				.iov_len = iov[i].iov_len - off,
			};
	}
	do
		n = sendmsg(s->fd, &msg, MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return -EAGAIN;
	if (n < 0) {
		stream_lost(s, NULL);
		return -ENETDOWN;
	}
	/* The guest has its buffer back after this: what is left of the frame must be kept. */
	if ((size_t)n < whole) {
		s->out_pos = 0;
		s->out_end = whole - (size_t)n;
		iov_gather(all, (int)msg.msg_iovlen, (size_t)n, s->out, s->out_end);
	}
	return 0;
}

/* Fetches what the socket has. False when that is nothing. */
static bool
stream_fill(struct stream *s)
{
	ssize_t n;

	if (s->in_pos > 0) {
		memmove(s->in, s->in + s->in_pos, s->in_end - s->in_pos);
		s->in_end -= s->in_pos;
		s->in_pos = 0;
	}
	do
		n = recv(s->fd, s->in + s->in_end, STREAM_IN_SIZE - s->in_end, 0);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return false;
	if (n <= 0) {
		stream_lost(s, NULL);
		return false;
	}
	s->in_end += (size_t)n;
	return true;
}

static ssize_t
stream_recv(struct netif_queue *q, const struct iovec *iov, int iovcnt)
{
	struct stream *s = q->n->priv;
	uint32_t len;
	ssize_t n;

	while (s->fd >= 0) {
		size_t have = s->in_end - s->in_pos;

		if (have >= sizeof(len)) {
			memcpy(&len, s->in + s->in_pos, sizeof(len));
			len = ntohl(len);
			if (len == 0 || len > NETIF_FRAME_MAX) {
				stream_lost(s, "sent a frame of impossible length");
				break;
			}
			if (have - sizeof(len) >= len) {
				n = netif_frame_put(iov, iovcnt,
				    s->in + s->in_pos + sizeof(len), len);
				s->in_pos += sizeof(len) + len;
				return n;
			}
		}
		if (!stream_fill(s))
			break;
	}
	return -EAGAIN;
}

static int
stream_check(const struct netif_options *o, const char *who)
{
	if (o->path == NULL) {
		log_error(who, "backend=stream: needs path=SOCKET");
		return -EINVAL;
	}
	if (*o->path == '\0' || strlen(o->path) >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
		log_error(who, "path=%s: not the path of a socket", o->path);
		return -EINVAL;
	}
	return 0;
}

static void
stream_close(struct netif *n)
{
	struct stream *s = n->priv;

	if (s->fd >= 0)
		close(s->fd);
	free(s->path);
	free(s->in);
	free(s->out);
	free(s);
}

static int
stream_open(struct netif *n, const struct netif_options *o)
{
	struct stream *s = calloc(1, sizeof(*s));
	int err = -ENOMEM;

	if (s == NULL)
		goto no_memory;
	n->priv = s;
	n->queues = 1;
	s->n = n;
	s->fd = -1;
	s->path = strdup(o->path);
	s->in = malloc(STREAM_IN_SIZE);
	s->out = malloc(sizeof(uint32_t) + NETIF_FRAME_MAX);
	if (s->path == NULL || s->in == NULL || s->out == NULL)
		goto close;
	err = stream_connect(s);
	if (err != 0)
		goto close;
	atomic_store(&n->link, true);
	return 0;
close:
	stream_close(n);
no_memory:
	log_error(n->who, "path=%s: %s", o->path, strerror(-err));
	return err;
}

const struct netif_backend netif_stream = {
	.name = "stream",
	.check = stream_check,
	.open = stream_open,
	.close = stream_close,
	.prepare = stream_prepare,
	.dispatch = stream_dispatch,
	.send = stream_send,
	.recv = stream_recv,
};
