/*
 * Requests as a device with a fault could make them, on a disk in memory and on a file: whatever
 * they say, each completes once, a bad one with an error, and no memory but theirs is touched.
 */
#include "base/bits.h"
#include "base/config.h"
#include "block/block.h"
#include "vm/loop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FUZZ_DISK_SIZE MIB(1)
#define FUZZ_REQS      32
#define FUZZ_IOVS      4
#define FUZZ_MEMORY    8192u /* of each element */

struct fuzz_step { /* one request, as the input has it */
	uint8_t op, flags, iovcnt,
	    shift; /* shift: of offset and len, so that many are whole sectors */
	uint16_t offset, len;
	uint16_t iov[FUZZ_IOVS]; /* lengths, shifted too */
};

struct fuzz_req {
	struct block_req req;
	struct iovec iov[FUZZ_IOVS];
	int calls;
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct block *fuzz_disks[2]; /* opened once: a thread each */

static struct block *
fuzz_open(const char *name, const char *value)
{
	struct vm_loop *loop = vm_loop_create();
	struct config *cfg = config_create();
	struct block *b = NULL;

	if (loop == NULL || cfg == NULL || config_set(cfg, name, value) != 0 ||
	    config_set(cfg, "detect_zeroes", "true") != 0 || block_open(loop, cfg, "fuzz", &b) != 0)
		abort();
	config_destroy(cfg);
	return b;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char path[] = "/tmp/fuzz-block-XXXXXX";
	int fd = mkstemp(path);

	if (fd < 0 || ftruncate(fd, FUZZ_DISK_SIZE) != 0)
		abort();
	close(fd);
	fuzz_disks[0] = fuzz_open("ram", "1");
	fuzz_disks[1] = fuzz_open("path", path);
	unlink(path);
	return 0;
}

static bool
fuzz_may_succeed(const struct fuzz_req *r)
{
	const struct block_req *req = &r->req;
	uint64_t sum = 0;

	if (req->op == BLOCK_FLUSH)
		return true;
	for (int i = 0; i < req->iovcnt && i < FUZZ_IOVS; i++)
		sum += r->iov[i].iov_len;
	if ((req->op == BLOCK_READ || req->op == BLOCK_WRITE) &&
	    (sum != req->len || req->iovcnt < 0))
		return false;
	return (unsigned)req->op < BLOCK_OPS && (req->offset | req->len) % 512 == 0 &&
	    req->offset <= FUZZ_DISK_SIZE && req->len <= FUZZ_DISK_SIZE - req->offset;
}

static void
fuzz_done(struct block_req *req, int err)
{
	struct fuzz_req *r = container_of(req, struct fuzz_req, req);

	r->calls++;
	if ((err == 0) != fuzz_may_succeed(r))
		abort();
}

static void
fuzz_submit(struct block *b, struct fuzz_req *r, const struct fuzz_step *step, uint8_t *memory)
{
	unsigned shift = step->shift % 48;

	r->req = (struct block_req){
		.op = (enum block_op)(step->op % (BLOCK_OPS + 1)),
		.flags = step->flags,
		.offset = (uint64_t)step->offset << shift,
		.len = (uint64_t)step->len << (step->shift & 0x80 ? 9 : shift),
		.iov = r->iov,
		.iovcnt = step->iovcnt % (FUZZ_IOVS + 1) - (step->iovcnt == 0xff ? 2 : 0),
		.done = fuzz_done,
	};
	for (int i = 0; i < FUZZ_IOVS; i++) {
		uint64_t len = (uint64_t)step->iov[i] << (step->shift & 0x40 ? 9 : 0);

		r->iov[i] =
		    (struct iovec){ memory + (size_t)i * FUZZ_MEMORY, MIN(len, FUZZ_MEMORY) };
	}
	/* Mostly let them add up: the other way is soon explored. */
	if ((step->flags & 0x80) == 0) {
		r->req.len = 0;
		for (int i = 0; i < r->req.iovcnt; i++)
			r->req.len += r->iov[i].iov_len;
	}
	r->calls = 0;
	block_submit(b, &r->req);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = MIN(size / sizeof(struct fuzz_step), (size_t)FUZZ_REQS);
	struct fuzz_req *reqs = calloc(FUZZ_REQS, sizeof(*reqs));
	uint8_t *memory = calloc(FUZZ_IOVS, FUZZ_MEMORY);

	for (size_t d = 0; d < ARRAY_SIZE(fuzz_disks); d++) {
		for (size_t i = 0; i < n; i++) {
			struct fuzz_step step;

			memcpy(&step, data + i * sizeof(step), sizeof(step));
			fuzz_submit(fuzz_disks[d], &reqs[i], &step, memory);
		}
		block_drain(fuzz_disks[d]);
		for (size_t i = 0; i < n; i++) {
			if (reqs[i].calls != 1)
				abort();
		}
	}
	free(memory);
	free(reqs);
	return 0;
}
