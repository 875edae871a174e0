/*
 * Calls of file.c through io_uring: what was prepared since the last round goes to the kernel in
 * the system call that also waits for what it has done. The ring belongs to the disk's thread
 * alone, which lets the kernel leave out locking and defer its own work to that system call (Linux
 * 6.1; older kernels do without).
 *
 * A poll request on the disk's eventfd stays in the ring, so that others can wake the thread. It is
 * triggered by each write and never read: the counter would take centuries to fill.
 */
#include "block/file.h"

#include <errno.h>
#include <stdlib.h>

#ifdef HAVE_LIBURING

#include <assert.h>
#include <liburing.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Each request has at most one call in the ring; one more is the poll request. */
#define FILE_URING_ENTRIES (2 * FILE_IN_FLIGHT)
/* Longer transfers come back short, as from read() and write(). */
#define FILE_URING_LEN_MAX GIB(1)

struct file_uring {
	struct file *f;
	struct io_uring ring;
};

static bool
file_uring_knows_calls(struct io_uring *ring)
{
	static const uint8_t calls[] = { IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITE,
		IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE, IORING_OP_POLL_ADD };
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool all = probe != NULL;

	for (size_t i = 0; all && i < ARRAY_SIZE(calls); i++)
		all = io_uring_opcode_supported(probe, calls[i]);
	io_uring_free_probe(probe);
	return all;
}

int
file_uring_create(struct file *f, struct file_uring **out)
{
	/* Newest kernels first. A ring that starts disabled belongs to the thread that enables
	 * it. */
	static const unsigned flags[] = {
		IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN,
		IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN,
		IORING_SETUP_R_DISABLED,
	};
	struct file_uring *u = calloc(1, sizeof(*u));
	int err = -EINVAL;

	if (u == NULL)
		return -ENOMEM;
	u->f = f;
	for (size_t i = 0; i < ARRAY_SIZE(flags) && err == -EINVAL; i++)
		err = io_uring_queue_init(FILE_URING_ENTRIES, &u->ring, flags[i]);
	if (err != 0)
		goto free_uring;
	/* No registered file, though that would be a little cheaper: the kernel lets go of it,
	 * and of the image's lock with it, some time after the ring is gone. */
	err = file_uring_knows_calls(&u->ring) ? 0 : -ENOSYS;
	if (err != 0)
		goto exit_ring;
	*out = u;
	return 0;
exit_ring:
	io_uring_queue_exit(&u->ring);
free_uring:
	free(u);
	return err;
}

void
file_uring_destroy(struct file_uring *u)
{
	if (u == NULL)
		return;
	io_uring_queue_exit(&u->ring);
	free(u);
}

static struct io_uring_sqe *
file_uring_sqe(struct file_uring *u)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

	assert(sqe != NULL); /* FILE_URING_ENTRIES */
	return sqe;
}

static void
file_uring_watch_wake(struct file_uring *u)
{
	struct io_uring_sqe *sqe = file_uring_sqe(u);

	io_uring_prep_poll_multishot(sqe, u->f->b->wake_fd, POLLIN);
	io_uring_sqe_set_data(sqe, NULL);
}

void
file_uring_begin(struct file_uring *u)
{
	/* io_uring_enable_rings() is missing from liburing 2.3's shared library. Fails only for
	 * a ring that is enabled already. */
	(void)syscall(
	    __NR_io_uring_register, u->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
	file_uring_watch_wake(u);
}

static void
file_uring_prep_transfer(
    struct io_uring_sqe *sqe, int fd, const struct block_req *req, uint64_t off)
{
	const struct iovec *iov;
	unsigned len;
	int cnt;

	iov = file_step_iov(req, &cnt);
	len = (unsigned)MIN(iov->iov_len, FILE_URING_LEN_MAX);
	/* A single piece is a little cheaper, and most requests are. */
	if (req->step.call == FILE_READ && cnt == 1)
		io_uring_prep_read(sqe, fd, iov->iov_base, len, off);
	else if (req->step.call == FILE_READ)
		io_uring_prep_readv(sqe, fd, iov, (unsigned)cnt, off);
	else if (cnt == 1)
		io_uring_prep_write(sqe, fd, iov->iov_base, len, off);
	else
		io_uring_prep_writev(sqe, fd, iov, (unsigned)cnt, off);
	sqe->rw_flags = req->step.mode;
}

void
file_uring_start(struct file_uring *u, struct block_req *req)
{
	struct io_uring_sqe *sqe = file_uring_sqe(u);
	uint64_t off = req->offset + req->pos;
	int fd = u->f->fd;

	switch ((enum file_call)req->step.call) {
	case FILE_READ:
	case FILE_WRITE: file_uring_prep_transfer(sqe, fd, req, off); break;
	case FILE_FALLOCATE:
		io_uring_prep_fallocate(sqe, fd, req->step.mode, (off_t)off, (off_t)req->step.len);
		break;
	case FILE_SYNC:
	case FILE_BLKDISCARD: /* never comes here */
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	}
	io_uring_sqe_set_data(sqe, req);
}

static void
file_uring_reap(struct file_uring *u)
{
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&u->ring, head, cqe)
	{
		struct block_req *req = io_uring_cqe_get_data(cqe);

		n++;
		if (req != NULL)
			file_step_done(req, cqe->res);
		else if ((cqe->flags & IORING_CQE_F_MORE) == 0)
			file_uring_watch_wake(u);
	}
	io_uring_cq_advance(&u->ring, n);
}

void
file_uring_poll(struct file_uring *u, bool wait)
{
	/* What they return needs no care: calls that were not taken stay in the queue for the
	 * next round, and each reports for itself. */
	if (wait && u->f->b->in_flight == 0)
		block_sleep(u->f->b);
	else if (wait)
		(void)io_uring_submit_and_wait(&u->ring, 1);
	else if (u->f->b->in_flight != 0 || io_uring_sq_ready(&u->ring) != 0)
		(void)io_uring_submit_and_get_events(&u->ring);
	file_uring_reap(u);
}

#else

int
file_uring_create(struct file *f, struct file_uring **out)
{
	return -ENOSYS;
}

void
file_uring_destroy(struct file_uring *u)
{
}

void
file_uring_begin(struct file_uring *u)
{
}

void
file_uring_start(struct file_uring *u, struct block_req *req)
{
}

void
file_uring_poll(struct file_uring *u, bool wait)
{
}

#endif
