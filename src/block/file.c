/*
 * Disks that are files or block devices of the host.
 *
 * A request is done in steps, each one call to the host. Mostly there is one: the whole request
 * from or to the owner's own memory. There are more when the host transferred less than asked, when
 * O_DIRECT does not take the owner's memory as it is (both go on through a bounce buffer, piece by
 * piece), or when the host cannot make zeros and we write them.
 *
 * An engine makes the calls: io_uring (file_uring.c), which makes all of a round in one system
 * call, or where that is not permitted, threads (pool.c). BLKDISCARD, which io_uring knows only
 * since Linux 6.12, is always for a thread.
 */
#include "block/file.h"
#include "block/pool.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/iov.h"
#include "base/log.h"

#define FILE_THREADS 16
/* A call that the host asks to be repeated (EAGAIN) fails after so many times. */
#define FILE_TRIES   100

static struct file *
file_of(const struct block_req *req)
{
	return req->disk->priv;
}

/* --- Steps --- */

const struct iovec *
file_step_iov(const struct block_req *req, int *cnt)
{
	if (req->step.iov.iov_base != NULL) {
		*cnt = 1;
		return &req->step.iov;
	}
	*cnt = req->iovcnt;
	return req->iov;
}

static void
file_step(struct block_req *req)
{
	struct file *f = file_of(req);

	if (f->uring != NULL && req->step.call != FILE_BLKDISCARD)
		file_uring_start(f->uring, req);
	else
		block_pool_run(f->pool, req);
}

static void
file_end(struct block_req *req, int err)
{
	free(req->step.bounce);
	req->step.bounce = NULL;
	block_complete(req, err);
}

/* The next piece of a transfer, through the bounce buffer. */
static void
file_step_bounce(struct block_req *req)
{
	struct file *f = file_of(req);
	uint64_t len = MIN(req->len - req->pos, BLOCK_BOUNCE_MAX);

	if (req->step.bounce == NULL &&
	    posix_memalign(&req->step.bounce, MAX(f->mem_align, 64u), len) != 0) {
		req->step.bounce = NULL;
		file_end(req, -ENOMEM);
		return;
	}
	counter_add(&req->disk->count.bounced, 1);
	req->step.iov = (struct iovec){ .iov_base = req->step.bounce, .iov_len = len };
	if (req->step.call == FILE_WRITE)
		iov_gather(req->iov, req->iovcnt, req->pos, req->step.bounce, len);
	file_step(req);
}

/* The next piece of zeros that we write ourselves. */
static void
file_step_zeros(struct block_req *req)
{
	req->step.call = FILE_WRITE;
	req->step.iov = (struct iovec){
		.iov_base = file_of(req)->zeros,
		.iov_len = MIN(req->len - req->pos, FILE_ZEROS),
	};
	file_step(req);
}

static void
file_step_fallocate(struct block_req *req, int mode)
{
	req->step.call = FILE_FALLOCATE;
	req->step.mode = mode | FALLOC_FL_KEEP_SIZE;
	req->step.len = req->len;
	file_step(req);
}

static void
file_step_write_zeroes(struct block_req *req)
{
	struct file *f = file_of(req);

	if ((req->host_flags & BLOCK_UNMAP) != 0 && f->can_punch) {
		file_step_fallocate(req, FALLOC_FL_PUNCH_HOLE);
	} else if (f->can_zero_range) {
		file_step_fallocate(req, FALLOC_FL_ZERO_RANGE);
	} else {
		req->step.mode = 0;
		file_step_zeros(req);
	}
}

static void
file_step_transfer(struct block_req *req)
{
	struct file *f = file_of(req);

	req->step.call = req->host_op == BLOCK_READ ? FILE_READ : FILE_WRITE;
	if ((req->host_flags & BLOCK_FUA) != 0)
		req->step.mode = RWF_DSYNC;
	req->host_flags &= ~BLOCK_FUA;
	if (f->mem_align > 1 && !block_req_aligned(req, f->mem_align))
		file_step_bounce(req);
	else
		file_step(req);
}

static void
file_start(struct block *b, struct block_req *req)
{
	struct file *f = b->priv;

	switch (req->host_op) {
	case BLOCK_READ:
	case BLOCK_WRITE: file_step_transfer(req); break;
	case BLOCK_WRITE_ZEROES: file_step_write_zeroes(req); break;
	case BLOCK_DISCARD:
		if (f->is_device) {
			req->step.call = FILE_BLKDISCARD;
			req->step.len = req->len;
			file_step(req);
		} else {
			file_step_fallocate(req, FALLOC_FL_PUNCH_HOLE);
		}
		break;
	case BLOCK_FLUSH:
		/* After a failure the kernel takes the pages it could not write for clean, and
		 * the next fdatasync() would succeed over lost data. */
		if (f->flush_err != 0) {
			file_end(req, f->flush_err);
			break;
		}
		req->step.call = FILE_SYNC;
		file_step(req);
		break;
	case BLOCK_OPS: break;
	}
}

static void
file_transferred(struct block_req *req, uint64_t n)
{
	if (req->step.bounce != NULL && req->step.call == FILE_READ)
		iov_scatter(req->iov, req->iovcnt, req->pos, req->step.bounce, n);
	req->pos += n;
	if (req->pos == req->len)
		file_end(req, 0);
	else if (req->host_op == BLOCK_WRITE_ZEROES)
		file_step_zeros(req);
	else
		file_step_bounce(req);
}

/* The host knows no such fallocate(): do without, now and in future. True if there is another
 * way. */
static bool
file_fallocate_degrade(struct block_req *req)
{
	struct file *f = file_of(req);

	if (req->host_op != BLOCK_WRITE_ZEROES)
		return false;
	if ((req->step.mode & FALLOC_FL_PUNCH_HOLE) != 0)
		f->can_punch = false;
	else
		f->can_zero_range = false;
	file_step_write_zeroes(req);
	return true;
}

void
file_step_done(struct block_req *req, int64_t result)
{
	struct file *f = file_of(req);

	if (result == -EINTR || (result == -EAGAIN && ++req->step.tries < FILE_TRIES)) {
		file_step(req);
		return;
	}
	switch ((enum file_call)req->step.call) {
	case FILE_READ:
	case FILE_WRITE:
		/* Nothing at all: the file has become shorter than the disk. */
		if (result <= 0)
			file_end(req, result < 0 ? (int)result : -EIO);
		else
			file_transferred(req, (uint64_t)result);
		break;
	case FILE_FALLOCATE:
		if ((result != -EOPNOTSUPP && result != -ENOSYS) || !file_fallocate_degrade(req))
			file_end(req, (int)result);
		break;
	case FILE_SYNC:
		if (f->flush_err == 0)
			f->flush_err = (int)result;
		file_end(req, f->flush_err);
		break;
	case FILE_BLKDISCARD: file_end(req, (int)result); break;
	}
}

/* --- Calls that block, on the pool's threads --- */

static void
file_call_run(struct block_req *req)
{
	const struct file *f = file_of(req);
	uint64_t range[2] = { req->offset, req->step.len };
	off_t off = (off_t)(req->offset + req->pos);
	const struct iovec *iov;
	int64_t n = 0;
	int cnt;

	iov = file_step_iov(req, &cnt);
	switch ((enum file_call)req->step.call) {
	case FILE_READ: n = preadv2(f->fd, iov, cnt, off, req->step.mode); break;
	case FILE_WRITE: n = pwritev2(f->fd, iov, cnt, off, req->step.mode); break;
	case FILE_SYNC: n = fdatasync(f->fd); break;
	case FILE_FALLOCATE: n = fallocate(f->fd, req->step.mode, off, (off_t)req->step.len); break;
	case FILE_BLKDISCARD: n = ioctl(f->fd, BLKDISCARD, range); break;
	}
	req->step.result = n < 0 ? -errno : n;
}

static void
file_call_done(struct block_req *req)
{
	file_step_done(req, req->step.result);
}

/* --- Opening --- */

/* aio=: io_uring, unless the kernel or the user does not want it. */
static int
file_engine_choose(struct file *f, const struct block_options *o)
{
	int err = -ENOSYS;

	if (strcmp(o->aio, "threads") != 0)
		err = file_uring_create(f, &f->uring);
	if (err != 0 && strcmp(o->aio, "io_uring") == 0) {
		log_error(f->b->who, "aio=io_uring: %s", strerror(-err));
		return err;
	}
	f->b->engine = f->uring != NULL ? "io_uring" : "threads";
	return 0;
}

static void
file_free(struct file *f)
{
	file_uring_destroy(f->uring);
	block_pool_destroy(f->pool);
	if (f->zeros != MAP_FAILED)
		munmap(f->zeros, FILE_ZEROS);
	if (f->fd >= 0)
		close(f->fd);
	free(f);
}

static int
file_open(struct block *b, const struct block_options *o)
{
	struct file *f = calloc(1, sizeof(*f));
	int err;

	if (f == NULL)
		return -ENOMEM;
	f->b = b;
	f->fd = -1;
	f->zeros = mmap(NULL, FILE_ZEROS, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	f->pool = block_pool_create(b, FILE_THREADS, file_call_run, file_call_done);
	if (f->zeros == MAP_FAILED || f->pool == NULL) {
		log_error(b->who, "out of memory");
		err = -ENOMEM;
		goto free_file;
	}
	err = file_open_path(f, o);
	if (err != 0)
		goto free_file;
	err = file_engine_choose(f, o);
	if (err != 0)
		goto free_file;
	b->priv = f;
	b->in_flight_max = FILE_IN_FLIGHT;
	return 0;
free_file:
	file_free(f);
	return err;
}

static void
file_close(struct block *b)
{
	file_free(b->priv);
}

static void
file_begin(struct block *b)
{
	struct file *f = b->priv;

	if (f->uring != NULL)
		file_uring_begin(f->uring);
}

static void
file_poll(struct block *b, bool wait)
{
	struct file *f = b->priv;

	if (f->uring != NULL)
		file_uring_poll(f->uring, wait);
	else if (wait)
		block_sleep(b);
}

static int
file_size_now(struct block *b, uint64_t *size)
{
	return file_size(b->priv, size);
}

const struct block_backend block_file = {
	.open = file_open,
	.close = file_close,
	.begin = file_begin,
	.start = file_start,
	.poll = file_poll,
	.size = file_size_now,
};
