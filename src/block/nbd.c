/*
 * Disks on an NBD server, through libnbd: nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH
 * and the others of its URIs. With qemu-nbd or nbdkit as the server that brings qcow2, VMDK and
 * remote images.
 *
 * A server may vanish. Then requests wait while the disk's thread tries to connect again, and are
 * sent again when it has: a request is its owner's until it completes, so a read or a write done
 * twice does no harm. What it acknowledged but was not yet told to flush may be lost with it,
 * though, so those writes are kept (nbd_log.h) and sent again before anything else; a later flush
 * then covers them as the contract says. After "reconnect" seconds without a server requests fail
 * with EIO, and so do new ones at once, but the log is kept and the attempts go on: the disk may
 * come back.
 *
 * libnbd calls back while its handle is locked, so answers are only noted there and handled after.
 */
#include "block/block_impl.h"
#include "block/nbd_log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "base/log.h"

/* libnbd connects nbd+ssh:// and the like by commands; we leave those out. */
static const char *const block_nbd_prefixes[] = { "nbd://", "nbds://", "nbd+unix://",
	"nbds+unix://", "nbd+vsock://", "nbds+vsock://", NULL };

#ifdef HAVE_LIBNBD

#include "block/nbd_lib.h"

#include <inttypes.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>

#define NBD_IN_FLIGHT 128
#define NBD_PIECE_MAX MIB(32) /* of data, as all servers take */
#define NBD_RANGE_MAX GIB(1) /* of a trim or zero: lengths have 32 bits */
#define NBD_LOG_FLUSH MIB(16) /* from here on we flush on our own */
#define NBD_LOG_MAX MIB(64) /* from here on writes wait for that */
#define NBD_RETRY_MIN_MS 100
#define NBD_RETRY_MAX_MS 2000
#define NBD_SILENCE_MS 30000 /* data that TCP gets no acknowledgement for: the server is lost */
#define NBD_END_MS 5000 /* closing, answers are waited for this long */

enum nbd_state {
	NBD_UP,
	NBD_DOWN, /* until retry_ms */
	NBD_CONNECTING,
	NBD_REPLAYING, /* connected; the log is sent again */
};

struct nbd {
	struct block *b;
	struct nbd_lib lib;
	struct nbd_handle *h; /* NULL while down */
	bool can_flush, can_fua, can_trim, can_zero, read_only;
	uint64_t size, piece_max;
	uint64_t reconnect_ms;

	/* The disk's thread. */
	enum nbd_state state;
	int64_t lost_ms, retry_ms, end_ms; /* server lost; to try again; to end without answers */
	int64_t backoff_ms;
	struct block_req_list stalled; /* to be sent when there is a server, and room in the log */
	struct block_req_list answered; /* by a callback of libnbd */
	struct block_nbd_log log;
	const struct block_nbd_log_entry *replayed; /* entry that is being sent again */
	uint64_t flush_seq; /* what our own flush covers */
	bool flushing;
	bool own_answered; /* our own command, a replay or a flush, was: */
	int own_err;
	int flush_err; /* of the first flush that the server failed */
};

static int64_t
block_nbd_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

/* --- Commands --- */

static int
block_nbd_on_answer(void *arg, int *error)
{
	struct block_req *req = arg;
	struct nbd *n = req->disk->priv;

	req->step.result = -*error;
	block_req_list_add(&n->answered, req);
	return 1; /* libnbd may forget the command */
}

static int
block_nbd_on_own_answer(void *arg, int *error)
{
	struct nbd *n = arg;

	n->own_answered = true;
	n->own_err = *error;
	return 1;
}

static void
block_nbd_end(struct block_req *req, int err)
{
	free(req->step.bounce);
	req->step.bounce = NULL;
	block_complete(req, err);
}

/* The data of the next piece of a transfer: the owner's memory where that is in one piece. */
static void *
block_nbd_piece(struct nbd *n, struct block_req *req)
{
	uint64_t left = req->len - req->pos;

	if (req->iovcnt == 1 && req->host_op != BLOCK_WRITE_ZEROES) {
		req->step.len = MIN(left, n->piece_max);
		return (uint8_t *)req->iov[0].iov_base + req->pos;
	}
	req->step.len = MIN(left, MIN(BLOCK_BOUNCE_MAX, n->piece_max));
	if (req->step.bounce == NULL)
		req->step.bounce = calloc(1, req->step.len);
	if (req->step.bounce != NULL && req->host_op == BLOCK_WRITE)
		iov_gather(req->iov, req->iovcnt, req->pos, req->step.bounce, req->step.len);
	return req->step.bounce;
}

static int64_t
block_nbd_send_transfer(struct nbd *n, struct block_req *req, uint32_t fua)
{
	nbd_completion_callback done = { .callback = block_nbd_on_answer, .user_data = req };
	uint64_t off = req->offset + req->pos;
	void *data = block_nbd_piece(n, req);

	if (data == NULL) {
		req->step.result = -ENOMEM;
		block_req_list_add(&n->answered, req);
		return 0;
	}
	if (req->host_op == BLOCK_READ)
		return n->lib.nbd_aio_pread(n->h, data, req->step.len, off, done, 0);
	return n->lib.nbd_aio_pwrite(n->h, data, req->step.len, off, done, fua);
}

/* Sends the next step of a request; the server is there. -1 as libnbd. */
static int64_t
block_nbd_send_step(struct nbd *n, struct block_req *req)
{
	nbd_completion_callback done = { .callback = block_nbd_on_answer, .user_data = req };
	uint32_t fua = n->can_fua && (req->host_flags & BLOCK_FUA) != 0 ? LIBNBD_CMD_FLAG_FUA : 0;
	uint32_t hole = (req->host_flags & BLOCK_UNMAP) != 0 ? 0 : LIBNBD_CMD_FLAG_NO_HOLE;
	uint64_t off = req->offset + req->pos;
	uint64_t range = MIN(req->len - req->pos, NBD_RANGE_MAX);

	switch (req->host_op) {
	case BLOCK_FLUSH: req->step.len = n->log.seq; return n->lib.nbd_aio_flush(n->h, done, 0);
	case BLOCK_DISCARD: req->step.len = range; return n->lib.nbd_aio_trim(n->h, range, off, done, 0);
	case BLOCK_WRITE_ZEROES:
		if (!n->can_zero)
			return block_nbd_send_transfer(n, req, fua);
		req->step.len = range;
		return n->lib.nbd_aio_zero(n->h, range, off, done, fua | hole);
	case BLOCK_READ:
	case BLOCK_WRITE: return block_nbd_send_transfer(n, req, fua);
	case BLOCK_OPS: break;
	}
	return -1;
}

static bool
block_nbd_must_wait(const struct nbd *n, const struct block_req *req)
{
	return n->state != NBD_UP ||
	    (n->log.bytes >= NBD_LOG_MAX && req->host_op == BLOCK_WRITE && n->flush_err == 0);
}

static bool
block_nbd_has_given_up(const struct nbd *n)
{
	return n->state != NBD_UP &&
	    (n->b->ending || block_nbd_now_ms() - n->lost_ms >= (int64_t)n->reconnect_ms);
}

static void
block_nbd_send(struct nbd *n, struct block_req *req)
{
	if (block_nbd_must_wait(n, req)) {
		if (block_nbd_has_given_up(n))
			block_nbd_end(req, -EIO);
		else
			block_req_list_add(&n->stalled, req);
		return;
	}
	if (block_nbd_send_step(n, req) == -1) {
		req->step.result = n->lib.nbd_aio_is_ready(n->h) || n->lib.nbd_aio_is_processing(n->h)
		    ? -MAX(n->lib.nbd_get_errno(), 1)
		    : -ENOTCONN;
		block_req_list_add(&n->answered, req);
	}
}

static void
block_nbd_start(struct block *b, struct block_req *req)
{
	struct nbd *n = b->priv;

	if (req->host_op == BLOCK_FLUSH && (n->flush_err != 0 || !n->can_flush)) {
		block_nbd_end(req, n->flush_err);
		return;
	}
	block_nbd_send(n, req);
}

/* Sends those that waited, unless they must wait on. */
static void
block_nbd_stalled_send(struct nbd *n)
{
	struct block_req_list list = n->stalled;
	struct block_req *req;

	if (list.first == NULL)
		return;
	block_req_list_init(&n->stalled);
	while ((req = block_req_list_take(&list)) != NULL)
		block_nbd_send(n, req);
}

static void
block_nbd_stalled_end(struct nbd *n, int err)
{
	struct block_req *req;

	while ((req = block_req_list_take(&n->stalled)) != NULL)
		block_nbd_end(req, err);
}

/* --- Answers --- */

/* Whether the server may still lose what it has just done. */
static bool
block_nbd_must_log(const struct nbd *n, const struct block_req *req)
{
	if (req->host_op != BLOCK_WRITE && req->host_op != BLOCK_WRITE_ZEROES)
		return false;
	if (n->can_fua && (req->host_flags & BLOCK_FUA) != 0)
		return false;
	return n->can_flush && n->flush_err == 0;
}

/* The server has done a step. */
static void
block_nbd_step_done(struct nbd *n, struct block_req *req)
{
	if (req->host_op == BLOCK_FLUSH) {
		block_nbd_log_trim(&n->log, req->step.len);
		block_nbd_end(req, 0);
		return;
	}
	if (req->host_op == BLOCK_READ && req->step.bounce != NULL)
		iov_scatter(req->iov, req->iovcnt, req->pos, req->step.bounce, req->step.len);
	if (block_nbd_must_log(n, req))
		block_nbd_log_add(&n->log, req, req->pos, req->step.len);
	req->pos += req->step.len;
	if (req->pos < req->len) {
		block_nbd_send(n, req);
		return;
	}
	if (n->can_fua)
		req->host_flags &= ~BLOCK_FUA;
	block_nbd_end(req, 0);
}

static void
block_nbd_answers_handle(struct nbd *n)
{
	struct block_req_list list = n->answered;
	struct block_req *req;

	if (list.first == NULL)
		return;
	block_req_list_init(&n->answered);
	while ((req = block_req_list_take(&list)) != NULL) {
		int err = (int)req->step.result;

		if (err == -ENOTCONN || err == -ESHUTDOWN) {
			/* No answer at all: the server is gone, or going. */
			block_req_list_add(&n->stalled, req);
		} else if (err != 0) {
			if (req->host_op == BLOCK_FLUSH)
				n->flush_err = err;
			block_nbd_end(req, err);
		} else {
			block_nbd_step_done(n, req);
		}
	}
}

/* --- The log --- */

static void
block_nbd_own_flush(struct nbd *n)
{
	nbd_completion_callback done = { .callback = block_nbd_on_own_answer, .user_data = n };

	if (n->state != NBD_UP || n->flushing || n->flush_err != 0 || n->log.bytes < NBD_LOG_FLUSH)
		return;
	n->flush_seq = n->log.seq;
	n->flushing = n->lib.nbd_aio_flush(n->h, done, 0) != -1;
}

/* Sends the next entry of the log again, or is through with it. */
static void
block_nbd_replay(struct nbd *n)
{
	nbd_completion_callback done = { .callback = block_nbd_on_own_answer, .user_data = n };
	const struct block_nbd_log_entry *e =
	    n->replayed == NULL ? n->log.first : n->replayed->next;
	int64_t sent;

	n->replayed = e;
	if (e == NULL) {
		n->state = NBD_UP;
		counter_add(&n->b->count.reconnects, 1);
		log_warn(n->b->who, "%s: connected again", n->b->path);
		block_nbd_stalled_send(n);
		return;
	}
	if (e->zeroes && n->can_zero)
		sent = n->lib.nbd_aio_zero(
		    n->h, e->len, e->offset, done, e->unmap ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
	else
		sent = n->lib.nbd_aio_pwrite(n->h, e->data, e->len, e->offset, done, 0);
	if (sent == -1) {
		n->own_answered = true;
		n->own_err = ENOTCONN;
	}
}

static void
block_nbd_own_answer_handle(struct nbd *n)
{
	int err = n->own_err;

	if (!n->own_answered)
		return;
	n->own_answered = false;
	if (n->flushing) {
		n->flushing = false;
		if (err == 0)
			block_nbd_log_trim(&n->log, n->flush_seq);
		else if (err != ENOTCONN && err != ESHUTDOWN)
			n->flush_err = -err;
		block_nbd_stalled_send(n);
	} else if (n->state == NBD_REPLAYING && err != ENOTCONN && err != ESHUTDOWN) {
		/* A write that the server refuses now is lost, and flushes must say so. */
		if (err != 0)
			n->flush_err = -err;
		block_nbd_replay(n);
	}
}

/* --- The connection --- */

static void
block_nbd_lost(struct nbd *n, const char *why)
{
	int64_t now = block_nbd_now_ms();

	if (n->state == NBD_UP) {
		log_warn(n->b->who, "%s: lost: %s; trying to connect again", n->b->path, why);
		n->lost_ms = now;
		n->backoff_ms = NBD_RETRY_MIN_MS;
	}
	n->lib.nbd_close(n->h);
	n->h = NULL;
	n->state = NBD_DOWN;
	if (n->log.missing != 0 && n->flush_err == 0)
		n->flush_err = -EIO;
	n->replayed = NULL;
	n->flushing = false;
	n->own_answered = false;
	n->retry_ms = now + n->backoff_ms;
	n->backoff_ms = MIN(n->backoff_ms * 2, NBD_RETRY_MAX_MS);
	block_nbd_answers_handle(n);
}

/* Has TCP notice a peer that has gone without a word. Other sockets know no such thing. */
static void
block_nbd_watch_silence(struct nbd *n)
{
	int fd = n->lib.nbd_aio_get_fd(n->h), on = 1, ms = NBD_SILENCE_MS;

	(void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &ms, sizeof(ms));
}

static void
block_nbd_reconnect(struct nbd *n)
{
	n->h = n->lib.nbd_create();
	if (n->h == NULL) {
		n->retry_ms = block_nbd_now_ms() + NBD_RETRY_MAX_MS;
		return;
	}
	n->state = NBD_CONNECTING;
	if (n->lib.nbd_aio_connect_uri(n->h, n->b->path) == -1)
		block_nbd_lost(n, n->lib.nbd_get_error());
}

/* Connected: whether it is the disk we knew. */
static void
block_nbd_connected(struct nbd *n)
{
	if (n->lib.nbd_get_size(n->h) != (int64_t)n->size ||
	    (n->lib.nbd_is_read_only(n->h) == 1 && !n->read_only) ||
	    (n->can_flush && n->lib.nbd_can_flush(n->h) != 1)) {
		if (!block_nbd_has_given_up(n))
			log_error(n->b->who, "%s: came back as a different disk", n->b->path);
		/* The longest wait: somebody has to put it right first. */
		n->backoff_ms = NBD_RETRY_MAX_MS;
		block_nbd_lost(n, "different");
		return;
	}
	n->can_trim = n->lib.nbd_can_trim(n->h) == 1;
	n->can_zero = n->lib.nbd_can_zero(n->h) == 1;
	n->can_fua = n->lib.nbd_can_fua(n->h) == 1;
	block_nbd_watch_silence(n);
	n->state = NBD_REPLAYING;
	n->replayed = NULL;
	block_nbd_replay(n);
}

/* What follows from the connection's state and the time. */
static void
block_nbd_tick(struct nbd *n)
{
	if (n->h != NULL && (n->lib.nbd_aio_is_dead(n->h) || n->lib.nbd_aio_is_closed(n->h)))
		block_nbd_lost(n, "the server closed the connection");
	if (n->b->ending && n->end_ms == 0)
		n->end_ms = block_nbd_now_ms() + NBD_END_MS;
	if (n->state == NBD_UP && n->end_ms != 0 && block_nbd_now_ms() >= n->end_ms)
		block_nbd_lost(n, "no answer");
	if (n->state == NBD_DOWN && !n->b->ending && block_nbd_now_ms() >= n->retry_ms)
		block_nbd_reconnect(n);
	if (n->state == NBD_CONNECTING && n->lib.nbd_aio_is_ready(n->h))
		block_nbd_connected(n);
	if (n->stalled.first != NULL && block_nbd_has_given_up(n))
		block_nbd_stalled_end(n, -EIO);
	block_nbd_own_flush(n);
}

/* Milliseconds until block_nbd_tick() has something to do; -1: never. */
static int
block_nbd_timeout(const struct nbd *n)
{
	int64_t now = block_nbd_now_ms(), until = INT64_MAX;

	if (n->answered.first != NULL || n->own_answered)
		return 0;
	if (n->state == NBD_DOWN)
		until = MIN(until, n->retry_ms);
	if (n->state != NBD_UP && n->stalled.first != NULL)
		until = MIN(until, n->lost_ms + (int64_t)n->reconnect_ms);
	if (n->end_ms != 0)
		until = MIN(until, n->end_ms);
	return until == INT64_MAX ? -1 : (int)MIN(MAX(until - now, 0), 60000);
}

static void
block_nbd_notify(struct nbd *n, short revents)
{
	unsigned dir = n->lib.nbd_aio_get_direction(n->h);

	/* Errors and hang-ups show when reading; libnbd finds out. */
	if ((revents & (POLLIN | POLLHUP | POLLERR)) != 0 && (dir & LIBNBD_AIO_DIRECTION_READ) != 0)
		(void)n->lib.nbd_aio_notify_read(n->h);
	else if ((revents & (POLLOUT | POLLHUP | POLLERR)) != 0 &&
	    (dir & LIBNBD_AIO_DIRECTION_WRITE) != 0)
		(void)n->lib.nbd_aio_notify_write(n->h);
}

static void
block_nbd_poll_once(struct nbd *n, int timeout_ms)
{
	struct pollfd fds[2] = { { .fd = n->b->wake_fd, .events = POLLIN }, { .fd = -1 } };
	eventfd_t count;

	if (n->h != NULL) {
		unsigned dir = n->lib.nbd_aio_get_direction(n->h);

		fds[1].fd = n->lib.nbd_aio_get_fd(n->h);
		fds[1].events = (short)((dir & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
		    (dir & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
	}
	if (poll(fds, ARRAY_SIZE(fds), timeout_ms) <= 0)
		return;
	if (fds[0].revents != 0)
		(void)eventfd_read(n->b->wake_fd, &count);
	if (fds[1].revents != 0)
		block_nbd_notify(n, fds[1].revents);
}

static void
block_nbd_poll(struct block *b, bool wait)
{
	struct nbd *n = b->priv;

	block_nbd_tick(n);
	/* What that ended is for the caller first. */
	block_nbd_poll_once(n, wait && b->done.first == NULL ? block_nbd_timeout(n) : 0);
	block_nbd_answers_handle(n);
	block_nbd_own_answer_handle(n);
	block_nbd_tick(n);
}

static void
block_nbd_cancel(struct block *b)
{
	struct nbd *n = b->priv;

	block_req_list_cancel(&n->stalled, block_nbd_end);
}

/* --- Opening and closing --- */

static void
block_nbd_free(struct nbd *n)
{
	if (n->h != NULL) {
		/* Says goodbye, and does not wait for a server that may hang. */
		if (n->state == NBD_UP)
			(void)n->lib.nbd_aio_disconnect(n->h, 0);
		n->lib.nbd_close(n->h);
	}
	block_nbd_log_trim(&n->log, UINT64_MAX);
	free(n);
}

static uint32_t
block_nbd_block_size(struct nbd *n, int type, uint32_t least)
{
	int64_t size = n->lib.nbd_get_block_size(n->h, type);

	/* The protocol has powers of two here, up to 64 KiB for the smallest block. */
	if (size < (int64_t)least || size > 65536 || (size & (size - 1)) != 0)
		return least;
	return (uint32_t)size;
}

static int
block_nbd_describe(struct nbd *n)
{
	struct block_info *info = &n->b->info;
	uint32_t least = block_nbd_block_size(n, LIBNBD_SIZE_MINIMUM, 512);
	uint32_t preferred = block_nbd_block_size(n, LIBNBD_SIZE_PREFERRED, 4096);
	int64_t most = n->lib.nbd_get_block_size(n->h, LIBNBD_SIZE_MAXIMUM);
	int64_t size = n->lib.nbd_get_size(n->h);

	if (info->logical_sector == 0) {
		info->logical_sector = least;
		info->physical_sector = MAX(preferred, least);
	}
	if (info->logical_sector < least) {
		log_error(n->b->who, "%s: sectorsize: at least %" PRIu32 " with this server",
		    n->b->path, least);
		return -EINVAL;
	}
	if (size < (int64_t)info->logical_sector) {
		log_error(n->b->who, "%s: smaller than a sector", n->b->path);
		return -EINVAL;
	}
	n->size = (uint64_t)size;
	n->b->size = n->size;
	n->piece_max = NBD_PIECE_MAX;
	if (most >= 65536 && (uint64_t)most < n->piece_max)
		n->piece_max = ALIGN_DOWN((uint64_t)most, KIB(64));
	n->can_flush = n->lib.nbd_can_flush(n->h) == 1;
	n->can_fua = n->lib.nbd_can_fua(n->h) == 1;
	n->can_trim = n->lib.nbd_can_trim(n->h) == 1;
	n->can_zero = n->lib.nbd_can_zero(n->h) == 1;
	if (n->lib.nbd_is_read_only(n->h) == 1 && !info->read_only) {
		log_warn(n->b->who, "%s: the server only lets it be read", n->b->path);
		info->read_only = true;
	}
	n->read_only = info->read_only;
	info->write_cache = n->can_flush;
	info->can_discard = n->b->discard == BLOCK_DISCARD_ZERO ? n->can_zero : n->can_trim;
	info->discard_granularity = MAX(preferred, info->logical_sector);
	info->discard_max = NBD_RANGE_MAX;
	info->fast_zeroes = n->can_zero;
	return 0;
}

static int
block_nbd_open(struct block *b, const struct block_options *o)
{
	struct nbd *n = calloc(1, sizeof(*n));
	int err;

	if (n == NULL)
		return -ENOMEM;
	n->b = b;
	n->reconnect_ms = o->reconnect_s * 1000;
	block_req_list_init(&n->stalled);
	block_req_list_init(&n->answered);
	block_nbd_log_init(&n->log);
	err = nbd_lib_load(&n->lib, b->who);
	if (err != 0)
		goto free_nbd;
	n->h = n->lib.nbd_create();
	if (n->h == NULL || n->lib.nbd_connect_uri(n->h, o->path) == -1) {
		log_error(b->who, "%s: %s", o->path, n->lib.nbd_get_error());
		err = -MAX(n->lib.nbd_get_errno(), 1);
		goto free_nbd;
	}
	block_nbd_watch_silence(n);
	err = block_nbd_describe(n);
	if (err != 0)
		goto free_nbd;
	b->priv = n;
	b->engine = "nbd";
	b->in_flight_max = NBD_IN_FLIGHT;
	return 0;
free_nbd:
	block_nbd_free(n);
	return err;
}

static void
block_nbd_close(struct block *b)
{
	block_nbd_free(b->priv);
}

const struct block_backend block_nbd = {
	.prefixes = block_nbd_prefixes,
	.open = block_nbd_open,
	.close = block_nbd_close,
	.start = block_nbd_start,
	.poll = block_nbd_poll,
	.cancel = block_nbd_cancel,
};

#else

static int
block_nbd_open(struct block *b, const struct block_options *o)
{
	log_error(b->who, "%s: this bhyve was built without libnbd", o->path);
	return -ENOSYS;
}

const struct block_backend block_nbd = { .prefixes = block_nbd_prefixes, .open = block_nbd_open };

#endif
