/*
 * Inside this room: disks that are files or block devices of the host. file.c takes a request apart
 * into steps, each one call to the host; an engine makes the calls.
 */
#ifndef BLOCK_FILE_H
#define BLOCK_FILE_H

#include "block/block_impl.h"

struct block_pool;
struct file_uring;

/* One step's call: at offset + pos of the request. */
enum file_call { /* req->step.call */
	FILE_READ, /* step.mode: RWF_ flags; memory: file_step_iov() */
	FILE_WRITE,
	FILE_SYNC,
	FILE_FALLOCATE, /* step.len bytes; step.mode: FALLOC_FL_ flags */
	FILE_BLKDISCARD, /* step.len bytes */
};

struct file {
	struct block *b;
	int fd;
	bool is_device;
	uint32_t mem_align; /* of memory that the host takes as it is: 1, or more with O_DIRECT */
	void *zeros; /* FILE_ZEROS bytes, mapped read-only: the kernel's one page of zeros */
	struct file_uring *uring; /* NULL: all calls go to the pool */
	struct block_pool *pool;

	/* Disk's thread. */
	bool can_punch, can_zero_range; /* until the host says otherwise */
	int flush_err; /* of the first flush that failed */
};

#define FILE_ZEROS     MIB(1)
#define FILE_IN_FLIGHT 256

/* Opens the file, locks it and sets what b->info says of it (file_open.c). 0, or -errno after
 * one line. */
int file_open_path(struct file *f, const struct block_options *o);
int file_size(const struct file *f, uint64_t *size);

/* What the step reads into or writes from. */
const struct iovec *file_step_iov(const struct block_req *req, int *cnt);
/* The engine is through with a step: bytes, 0 or -errno. Disk's thread. */
void file_step_done(struct block_req *req, int64_t result);

/* io_uring (file_uring.c). -ENOSYS where it is not built in, or -errno when the kernel does not
 * permit it; tells nothing. Main thread. */
int file_uring_create(struct file *f, struct file_uring **out);
void file_uring_destroy(struct file_uring *u); /* main thread; NULL is fine */
/* Disk's thread. */
void file_uring_begin(struct file_uring *u);
void file_uring_start(struct file_uring *u, struct block_req *req);
void file_uring_poll(struct file_uring *u, bool wait);

#endif
