/*
 * The part all serial back ends share: finding one by its description, the output buffer, the flow
 * of input to the client, and watching descriptors only for what can be used.
 *
 * A watch is removed, not just told to watch nothing, while neither input nor output can move: a
 * descriptor whose peer hung up would otherwise report that without end.
 */
#include "chardev/chardev.h"
#include "chardev/chardev_impl.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/log.h"
#include "vm/loop.h"

/* Bytes moved from the host to the client in one go: others on the loop get their turn. */
#define CHARDEV_IN_MAX 4096u
/* chardev_drain() gives up after this. */
#define CHARDEV_DRAIN_MS 1000

/* chardev.notes */
#define CHARDEV_NOTE_WRITABLE BIT(0)
#define CHARDEV_NOTE_UP BIT(1)
#define CHARDEV_NOTE_DOWN BIT(2)

static const struct chardev_backend *const chardev_backends[] = {
	&chardev_stdio,
	&chardev_pty,
	&chardev_tcp,
	&chardev_unix,
	&chardev_tty,
};

static void chardev_on_in(void *arg, unsigned events);
static void chardev_on_out(void *arg, unsigned events);

/* Lets the lock go and tells the client what happened meanwhile. Not for calls that clients make
 * with their own lock held. */
static void
chardev_unlock_and_tell(struct chardev *c)
{
	struct chardev_client client = c->client;
	unsigned notes = c->attached ? c->notes : 0;
	void *ctx = c->client_ctx;

	c->notes = 0;
	pthread_mutex_unlock(&c->lock);
	if ((notes & CHARDEV_NOTE_DOWN) != 0 && client.connected != NULL)
		client.connected(ctx, false);
	if ((notes & CHARDEV_NOTE_UP) != 0 && client.connected != NULL)
		client.connected(ctx, true);
	if ((notes & CHARDEV_NOTE_WRITABLE) != 0 && client.writable != NULL)
		client.writable(ctx);
}

/* --- Watches --- */

static void
chardev_fd_ask(struct chardev *c, struct chardev_fd *f, unsigned events, vm_fd_fn *fn)
{
	if (f->fd < 0)
		events = 0;
	if (events == f->asked)
		return;
	f->asked = events;
	if (events == 0) {
		vm_fd_remove(f->watch);
		f->watch = NULL;
		return;
	}
	if (f->watch != NULL) {
		vm_fd_change(f->watch, events);
		return;
	}
	f->watch = vm_fd_add(c->loop, f->fd, events, fn, c);
	if (f->watch == NULL) {
		f->asked = 0;
		log_warn(c->who, "cannot watch: %s", strerror(errno));
	}
}

/* Brings the watches in line with what can move now. */
static void
chardev_watch(struct chardev *c)
{
	bool in = c->attached && c->client.input != NULL && c->connected && !c->in_eof &&
	    !c->in_paused && !c->in_suspended;
	unsigned in_events = in ? VM_FD_READ : 0;
	unsigned out_events = c->out_blocked && c->out_head != c->out_tail ? VM_FD_WRITE : 0;

	if (c->closing)
		return;
	if (c->in.fd == c->out.fd) {
		chardev_fd_ask(c, &c->in, in_events | out_events, chardev_on_in);
		return;
	}
	chardev_fd_ask(c, &c->in, in_events, chardev_on_in);
	chardev_fd_ask(c, &c->out, out_events, chardev_on_out);
}

/* --- Peers --- */

static void
chardev_output_discard(struct chardev *c)
{
	c->out_head = c->out_tail;
	c->out_blocked = false;
	if (c->out_short) {
		c->out_short = false;
		c->notes |= CHARDEV_NOTE_WRITABLE;
	}
}

/* Stops watching and closes in and out. */
static void
chardev_disconnect(struct chardev *c)
{
	chardev_fd_ask(c, &c->in, 0, chardev_on_in);
	chardev_fd_ask(c, &c->out, 0, chardev_on_out);
	if (c->out.fd >= 0 && c->out.fd != c->in.fd && c->out.fd != c->pty_fd)
		close(c->out.fd);
	if (c->in.fd >= 0 && c->in.fd != c->pty_fd)
		close(c->in.fd);
	c->in = c->out = (struct chardev_fd){ .fd = -1 };
	c->connected = false;
	chardev_output_discard(c);
}

void
chardev_up(struct chardev *c, const struct chardev_fd *in, const struct chardev_fd *out)
{
	pthread_mutex_lock(&c->lock);
	c->in = *in;
	c->out = *out;
	c->in_eof = in->fd < 0;
	c->in_paused = false;
	c->connected = true;
	c->notes |= CHARDEV_NOTE_UP;
	chardev_watch(c);
	chardev_unlock_and_tell(c);
}

static void
chardev_end_of_input(struct chardev *c)
{
	c->in_eof = true;
	if (c->backend->lost != NULL) {
		chardev_disconnect(c);
		c->notes |= CHARDEV_NOTE_DOWN;
		c->backend->lost(c);
	}
	chardev_watch(c);
}

void
chardev_input_allowed(struct chardev *c)
{
	pthread_mutex_lock(&c->lock);
	c->in_suspended = false;
	chardev_watch(c);
	chardev_unlock_and_tell(c);
}

/* --- Output --- */

/* The host refuses output for good, or for now (a full disk): it is lost, and the guest goes on. */
static void
chardev_output_failed(struct chardev *c, int err)
{
	bool reader_left = err == EPIPE || err == ECONNRESET;

	if (!c->out_failed && !(reader_left && c->backend->lost != NULL)) {
		c->out_failed = true;
		log_warn(c->who, "output is lost: %s", strerror(err));
	}
	chardev_output_discard(c);
}

/* Writes without ever blocking: as write(). */
static ssize_t
chardev_fd_write(const struct chardev_fd *f, const void *buf, size_t len)
{
	struct pollfd ready = { .fd = f->fd, .events = POLLOUT };

	if (f->socket)
		return send(f->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (f->chunk == 0)
		return write(f->fd, buf, len);
	if (poll(&ready, 1, 0) == 0) {
		errno = EAGAIN;
		return -1;
	}
	return write(f->fd, buf, MIN(len, f->chunk));
}

static void
chardev_flush(struct chardev *c)
{
	while (c->out_head != c->out_tail) {
		uint32_t at = c->out_head % CHARDEV_OUT_SIZE;
		uint32_t len = MIN(c->out_tail - c->out_head, CHARDEV_OUT_SIZE - at);
		ssize_t n = chardev_fd_write(&c->out, c->out_buf + at, len);

		if (n < 0 && errno == EINTR)
			continue;
		c->out_blocked = n < 0 && errno == EAGAIN;
		if (c->out_blocked)
			break;
		if (n < 0)
			chardev_output_failed(c, errno);
		else
			c->out_head += (uint32_t)n;
	}
	/* Not at the first free byte, so that a blocked client comes back with more than that. */
	if (c->out_short && c->out_tail - c->out_head <= CHARDEV_OUT_SIZE / 16 * 15) {
		c->out_short = false;
		c->notes |= CHARDEV_NOTE_WRITABLE;
	}
	chardev_watch(c);
}

static void
chardev_on_out_timer(void *arg)
{
	struct chardev *c = arg;

	pthread_mutex_lock(&c->lock);
	if (!c->closing && !c->out_blocked)
		chardev_flush(c);
	chardev_unlock_and_tell(c);
}

static void
chardev_on_out(void *arg, unsigned events)
{
	struct chardev *c = arg;

	pthread_mutex_lock(&c->lock);
	if (!c->closing) {
		/* A hang-up, which the loop reports as readable. */
		if ((events & VM_FD_READ) != 0)
			chardev_output_failed(c, EPIPE);
		chardev_flush(c);
	}
	chardev_unlock_and_tell(c);
}

size_t
chardev_write(struct chardev *c, const uint8_t *buf, size_t len)
{
	uint32_t used, n, at, first;

	if (c == NULL || len == 0)
		return len;
	pthread_mutex_lock(&c->lock);
	if (!c->connected || c->out.fd < 0) {
		pthread_mutex_unlock(&c->lock);
		return len;
	}
	used = c->out_tail - c->out_head;
	n = (uint32_t)MIN(len, CHARDEV_OUT_SIZE - used);
	at = c->out_tail % CHARDEV_OUT_SIZE;
	first = MIN(n, CHARDEV_OUT_SIZE - at);
	memcpy(c->out_buf + at, buf, first);
	memcpy(c->out_buf, buf + first, n - first);
	c->out_tail += n;
	if (n < len)
		c->out_short = true;
	/* While blocked a watch flushes. Else a timer does, a moment later: a console writes byte
	 * by byte, and each would cost a system call. */
	if (!c->out_blocked) {
		if (used + n >= CHARDEV_OUT_SIZE / 4)
			vm_timer_arm(c->out_timer, vm_clock_ns(c->loop));
		else if (used == 0)
			vm_timer_arm(c->out_timer, vm_clock_ns(c->loop) + CHARDEV_FLUSH_NS);
	}
	pthread_mutex_unlock(&c->lock);
	return n;
}

static int64_t
chardev_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

void
chardev_drain(struct chardev *c)
{
	int64_t end = chardev_now_ms() + CHARDEV_DRAIN_MS;

	if (c == NULL)
		return;
	for (;;) {
		struct pollfd ready = { .events = POLLOUT };
		int64_t left;
		bool empty;

		pthread_mutex_lock(&c->lock);
		chardev_flush(c);
		/* A client that waited for room adds the rest now. */
		empty = c->out_head == c->out_tail && (c->notes & CHARDEV_NOTE_WRITABLE) == 0;
		ready.fd = c->out.fd;
		chardev_unlock_and_tell(c);
		left = end - chardev_now_ms();
		if (empty || left <= 0)
			return;
		poll(&ready, 1, (int)left);
	}
}

/* --- Input --- */

/* The client has no room: stop, but look once more, for it may have made room since it said so and
 * have called chardev_resume() before the pause was noted. */
static void
chardev_pause(struct chardev *c)
{
	struct chardev_client client = c->client;
	void *ctx = c->client_ctx;
	bool room;

	c->in_paused = true;
	chardev_watch(c);
	pthread_mutex_unlock(&c->lock);
	room = client.room(ctx) > 0;
	pthread_mutex_lock(&c->lock);
	if (room) {
		c->in_paused = false;
		chardev_watch(c);
	}
}

/* Moves one helping from the host to the client. Loop thread: the only one that adds to the
 * client's input, so its room can only have grown since it was asked. */
static void
chardev_receive(struct chardev *c)
{
	struct chardev_client client = c->client;
	void *ctx = c->client_ctx;
	uint8_t buf[CHARDEV_IN_MAX];
	size_t room;
	ssize_t n;

	pthread_mutex_unlock(&c->lock);
	room = MIN(client.room(ctx), sizeof(buf));
	pthread_mutex_lock(&c->lock);
	if (c->closing || c->in.fd < 0)
		return;
	if (room == 0) {
		chardev_pause(c);
		return;
	}
	if (c->backend->may_read != NULL && !c->backend->may_read(c)) {
		c->in_suspended = true;
		chardev_watch(c);
		return;
	}
	n = c->in.socket ? recv(c->in.fd, buf, room, MSG_DONTWAIT) : read(c->in.fd, buf, room);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		chardev_watch(c);
	} else if (n <= 0) {
		/* The end, EIO of a terminal that hung up, a reset connection: all the same. */
		chardev_end_of_input(c);
	} else {
		pthread_mutex_unlock(&c->lock);
		client.input(ctx, buf, (size_t)n);
		pthread_mutex_lock(&c->lock);
	}
}

static bool
chardev_can_receive(const struct chardev *c)
{
	return !c->closing && c->attached && c->client.input != NULL && c->in.fd >= 0 &&
	    !c->in_eof && !c->in_paused && !c->in_suspended;
}

static void
chardev_on_in(void *arg, unsigned events)
{
	struct chardev *c = arg;

	pthread_mutex_lock(&c->lock);
	if (!c->closing && (events & VM_FD_WRITE) != 0)
		chardev_flush(c);
	if (!c->closing && (events & VM_FD_READ) != 0) {
		if (chardev_can_receive(c))
			chardev_receive(c);
		else if ((c->in.asked & VM_FD_READ) == 0 && c->out.fd == c->in.fd)
			/* Only output is waited for, and the peer is gone: nobody will take it.
			 * What it sent before is read when the client has room, and then the end is
			 * seen. */
			chardev_output_discard(c);
		chardev_watch(c);
	}
	chardev_unlock_and_tell(c);
}

void
chardev_resume(struct chardev *c)
{
	if (c == NULL)
		return;
	pthread_mutex_lock(&c->lock);
	if (c->in_paused) {
		c->in_paused = false;
		chardev_watch(c);
	}
	pthread_mutex_unlock(&c->lock);
}

/* --- Making and unmaking --- */

void
chardev_attach(struct chardev *c, const struct chardev_client *client, void *ctx)
{
	if (c == NULL)
		return;
	pthread_mutex_lock(&c->lock);
	c->client = *client;
	c->client_ctx = ctx;
	c->attached = true;
	c->notes = 0;
	chardev_watch(c);
	pthread_mutex_unlock(&c->lock);
}

bool
chardev_connected(const struct chardev *c)
{
	struct chardev *m = (struct chardev *)c;
	bool connected;

	if (c == NULL)
		return false;
	pthread_mutex_lock(&m->lock);
	connected = c->connected;
	pthread_mutex_unlock(&m->lock);
	return connected;
}

static const struct chardev_backend *
chardev_backend_find(const char *spec, const char **arg)
{
	for (size_t i = 0; i < ARRAY_SIZE(chardev_backends); i++) {
		const struct chardev_backend *b = chardev_backends[i];
		size_t len = strlen(b->prefix);

		if (strncmp(spec, b->prefix, len) == 0 && (!b->exact || spec[len] == '\0')) {
			*arg = spec + len;
			return b;
		}
	}
	return NULL;
}

bool
chardev_spec_valid(const char *spec)
{
	const char *arg;

	return chardev_backend_find(spec, &arg) != NULL;
}

int
chardev_open(struct vm_loop *loop, const char *spec, const char *who, struct chardev **out)
{
	const struct chardev_backend *backend;
	struct chardev *c;
	const char *arg;
	int err = -ENOMEM;

	backend = chardev_backend_find(spec, &arg);
	if (backend == NULL) {
		log_error(who,
		    "'%s' is no serial back end: expected stdio, pty, tcp=ip:port, unix=/path "
		    "or /dev/...",
		    spec);
		return -EINVAL;
	}
	c = calloc(1, sizeof(*c));
	if (c == NULL)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	c->loop = loop;
	c->backend = backend;
	c->in.fd = c->out.fd = c->listen_fd = c->pty_fd = c->terminal = -1;
	c->who = strdup(who);
	c->out_buf = malloc(CHARDEV_OUT_SIZE);
	c->out_timer = vm_timer_create(loop, chardev_on_out_timer, c);
	if (c->who == NULL || c->out_buf == NULL || c->out_timer == NULL)
		log_error(who, "out of memory");
	else
		err = backend->open(c, arg);
	if (err != 0) {
		chardev_close(c);
		return err;
	}
	*out = c;
	return 0;
}

void
chardev_close(struct chardev *c)
{
	if (c == NULL)
		return;
	pthread_mutex_lock(&c->lock);
	c->closing = true;
	c->attached = false;
	chardev_fd_ask(c, &c->in, 0, chardev_on_in);
	chardev_fd_ask(c, &c->out, 0, chardev_on_out);
	vm_fd_remove(c->listen_watch);
	pthread_mutex_unlock(&c->lock);
	if (c->out_timer != NULL)
		vm_timer_cancel(c->out_timer);
	if (c->retry_timer != NULL)
		vm_timer_cancel(c->retry_timer);
	/* A callback that was already on its way has seen closing and gone after this. */
	vm_loop_sync(c->loop);
	if (c->backend->close != NULL)
		c->backend->close(c);
	chardev_disconnect(c);
	vm_timer_destroy(c->out_timer);
	vm_timer_destroy(c->retry_timer);
	if (c->pty_fd >= 0)
		close(c->pty_fd);
	if (c->listen_fd >= 0)
		close(c->listen_fd);
	pthread_mutex_destroy(&c->lock);
	free(c->path);
	free(c->out_buf);
	free(c->who);
	free(c);
}
