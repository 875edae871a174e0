/*
 * I/O commands (NVMe 1.4, 6). Each becomes one request of block/, or several in turn.
 */
#include "storage/nvme_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NVME_VERIFY_STEP (NVME_PIECES * NVME_SCRATCH)

/* --- Ranges --- */

static uint32_t
nvme_io_blocks(const struct nvme_req *req)
{
	return (req->cmd.sqe.cdw12 & 0xffff) + 1;
}

static uint64_t
nvme_io_slba(const struct nvme_req *req)
{
	return req->cmd.sqe.cdw10 | (uint64_t)req->cmd.sqe.cdw11 << 32;
}

/* Checks the range of CDW10 to CDW12 and puts it into the request. */
static uint32_t
nvme_io_range(struct nvme_req *req)
{
	struct nvme *n = req->nvme;
	uint64_t slba = nvme_io_slba(req), size = nvme_blocks(n);
	uint32_t blocks = nvme_io_blocks(req);

	req->cmd.lba = slba;
	if (slba > size || blocks > size - slba)
		return nvme_blame(&req->cmd, NVME_AT_CDW10, NVME_LBA_OUT_OF_RANGE);
	req->io.offset = slba << n->block_shift;
	req->io.len = (uint64_t)blocks << n->block_shift;
	return NVME_OK;
}

/* The same for a command that moves data. */
static uint32_t
nvme_io_data(struct nvme_req *req, bool to_guest)
{
	uint32_t status = nvme_io_range(req);

	if (status != NVME_OK)
		return status;
	if (req->io.len > NVME_DATA_MAX)
		return nvme_blame(&req->cmd, NVME_AT_CDW12, NVME_INVALID_FIELD);
	status = nvme_data_map(req->nvme, &req->cmd, req->io.len, to_guest, &req->data);
	req->io.iov = req->data.iov;
	req->io.iovcnt = req->data.count;
	return status;
}

/* Whether a range may be read, after Write Uncorrectable. */
static uint32_t
nvme_io_readable(struct nvme_req *req)
{
	struct nvme *n = req->nvme;
	uint64_t slba = nvme_io_slba(req);

	if (n->bad.count == 0 || !nvme_bad_overlaps(&n->bad, slba, slba + nvme_io_blocks(req)))
		return NVME_OK;
	n->count.media_errors++;
	return NVME_READ_ERROR;
}

static void
nvme_io_mend(struct nvme *n, uint64_t offset, uint64_t len)
{
	if (n->bad.count != 0)
		nvme_bad_remove(
		    &n->bad, offset >> n->block_shift, (offset + len) >> n->block_shift);
}

/* --- Submitting and completing --- */

static uint32_t
nvme_io_submit(struct nvme_req *req, enum block_op op)
{
	req->io.op = op;
	block_submit(req->nvme->disk, &req->io);
	return NVME_PENDING;
}

/* What an error of the host's is to the guest. */
static uint32_t
nvme_io_status(struct nvme_req *req, int err)
{
	bool read = req->io.op == BLOCK_READ;

	switch (err) {
	case -EINVAL: return NVME_LBA_OUT_OF_RANGE; /* the disk has shrunk meanwhile */
	case -EROFS: return NVME_WRITE_PROTECTED;
	case -ENOSPC:
	case -EDQUOT: return NVME_CAPACITY_EXCEEDED;
	case -ECANCELED: return NVME_ABORT_REQUESTED;
	case -ENOMEM: return NVME_INTERNAL_ERROR;
	}
	req->nvme->count.media_errors++;
	return read ? NVME_READ_ERROR : NVME_WRITE_FAULT;
}

/* After the last step of a command that went well. */
static void
nvme_io_count(struct nvme_req *req)
{
	struct nvme_counters *c = &req->nvme->count;
	uint64_t len = (uint64_t)nvme_io_blocks(req) << req->nvme->block_shift;

	switch (req->cmd.sqe.opcode) {
	case NVME_IO_READ:
	case NVME_IO_COMPARE:
	case NVME_IO_VERIFY:
		c->reads++;
		c->bytes_read += len;
		break;
	case NVME_IO_WRITE:
		c->writes++;
		c->bytes_written += len;
		nvme_io_mend(req->nvme, req->io.offset, len);
		break;
	case NVME_IO_WRITE_ZEROES: nvme_io_mend(req->nvme, req->io.offset, len); break;
	}
}

static void
nvme_io_done(struct block_req *io, int err)
{
	struct nvme_req *req = container_of(io, struct nvme_req, io);
	uint32_t status = NVME_OK;

	if (req->cmd.sqe.opcode == NVME_IO_READ && io->op == BLOCK_READ)
		nvme_data_written(req->nvme, &req->data); /* in part, if it failed */
	/* Discards are advice: that the host cannot is no error (6.7.1.1). */
	if (err != 0 && !(io->op == BLOCK_DISCARD && err == -EOPNOTSUPP))
		status = nvme_io_status(req, err);
	else if (req->abort || req->nvme->phase == NVME_STOPPING)
		status = NVME_ABORT_REQUESTED;
	else if (req->step != NULL)
		status = req->step(req);
	if (status == NVME_PENDING)
		return;
	if (req->own.iov_base != NULL) {
		free(req->own.iov_base);
		req->own.iov_base = NULL;
	}
	if (status == NVME_OK)
		nvme_io_count(req);
	nvme_req_end(req, status);
}

/* --- Commands --- */

static uint32_t
nvme_read_flushed(struct nvme_req *req)
{
	req->step = NULL;
	return nvme_io_submit(req, BLOCK_READ);
}

/* 6.9 */
static uint32_t
nvme_read(struct nvme_req *req)
{
	uint32_t status = nvme_io_data(req, true);

	if (status == NVME_OK)
		status = nvme_io_readable(req);
	if (status != NVME_OK)
		return status;
	/* Force unit access: what is read has to be on the medium. */
	if ((req->cmd.sqe.cdw12 & NVME_RW_FUA) != 0 && block_info(req->nvme->disk)->write_cache) {
		req->step = nvme_read_flushed;
		return nvme_io_submit(req, BLOCK_FLUSH);
	}
	return nvme_io_submit(req, BLOCK_READ);
}

static unsigned
nvme_write_flags(const struct nvme_req *req)
{
	return (req->cmd.sqe.cdw12 & NVME_RW_FUA) != 0 || req->nvme->features.write_cache == 0
		   ? BLOCK_FUA
		   : 0;
}

/* 6.15 */
static uint32_t
nvme_write(struct nvme_req *req)
{
	uint32_t status = nvme_io_data(req, false);

	if (status != NVME_OK)
		return status;
	req->io.flags = nvme_write_flags(req);
	return nvme_io_submit(req, BLOCK_WRITE);
}

/* 6.16 */
static uint32_t
nvme_write_zeroes(struct nvme_req *req)
{
	uint32_t status = nvme_io_range(req);

	if (status != NVME_OK)
		return status;
	req->io.flags = nvme_write_flags(req);
	if ((req->cmd.sqe.cdw12 & NVME_WZ_DEAC) != 0)
		req->io.flags |= BLOCK_UNMAP;
	return nvme_io_submit(req, BLOCK_WRITE_ZEROES);
}

/* 6.14 */
static uint32_t
nvme_write_uncorrectable(struct nvme_req *req)
{
	uint32_t status = nvme_io_range(req);
	uint64_t slba = nvme_io_slba(req);

	if (status != NVME_OK)
		return status;
	if (nvme_bad_add(&req->nvme->bad, slba, slba + nvme_io_blocks(req)) != 0)
		return NVME_INTERNAL_ERROR;
	return NVME_OK;
}

/* 6.8; NVME_NSID_ALL is the same here. */
static uint32_t
nvme_flush(struct nvme_req *req)
{
	return nvme_io_submit(req, BLOCK_FLUSH);
}

static uint32_t
nvme_compare_read(struct nvme_req *req)
{
	return nvme_data_equal(&req->data, req->own.iov_base, req->own.iov_len)
		   ? NVME_OK
		   : NVME_COMPARE_FAILURE;
}

/* 6.6 */
static uint32_t
nvme_compare(struct nvme_req *req)
{
	uint32_t status = nvme_io_data(req, false);

	if (status == NVME_OK)
		status = nvme_io_readable(req);
	if (status != NVME_OK)
		return status;
	/* Rare enough to ask for memory each time. */
	req->own.iov_base = aligned_alloc(KIB(4), ALIGN_UP(req->io.len, KIB(4)));
	if (req->own.iov_base == NULL)
		return NVME_INTERNAL_ERROR;
	req->own.iov_len = req->io.len;
	req->io.iov = &req->own;
	req->io.iovcnt = 1;
	req->step = nvme_compare_read;
	return nvme_io_submit(req, BLOCK_READ);
}

/* Reads the next part to where nobody looks. */
static uint32_t
nvme_verify_next(struct nvme_req *req)
{
	uint64_t len = MIN(req->end - req->pos, NVME_VERIFY_STEP);
	int count = 0;

	if (len == 0)
		return NVME_OK;
	for (uint64_t left = len; left != 0; left -= req->data.iov[count++].iov_len)
		req->data.iov[count] =
		    (struct iovec){ req->nvme->scratch, MIN(left, NVME_SCRATCH) };
	req->io.iov = req->data.iov;
	req->io.iovcnt = count;
	req->io.offset = req->pos;
	req->io.len = len;
	req->pos += len;
	return nvme_io_submit(req, BLOCK_READ);
}

/* 6.13 */
static uint32_t
nvme_verify(struct nvme_req *req)
{
	uint32_t status = nvme_io_range(req);

	if (status == NVME_OK)
		status = nvme_io_readable(req);
	if (status != NVME_OK)
		return status;
	req->pos = req->io.offset;
	req->end = req->pos + req->io.len;
	req->step = nvme_verify_next;
	return nvme_verify_next(req);
}

/* Deallocates the next range. */
static uint32_t
nvme_dsm_next(struct nvme_req *req)
{
	struct nvme *n = req->nvme;
	const struct nvme_dsm_range *r = &req->range[req->pos];

	if (req->pos != 0)
		nvme_io_mend(n, req->io.offset, req->io.len);
	if (req->pos == req->end)
		return NVME_OK;
	req->pos++;
	req->io.offset = r->slba << n->block_shift;
	req->io.len = (uint64_t)r->blocks << n->block_shift;
	return nvme_io_submit(req, BLOCK_DISCARD);
}

/* 6.7 */
static uint32_t
nvme_dsm(struct nvme_req *req)
{
	struct nvme *n = req->nvme;
	uint32_t count = (req->cmd.sqe.cdw10 & 0xff) + 1;
	size_t len = count * sizeof(req->range[0]);
	uint64_t size = nvme_blocks(n);
	uint32_t status = nvme_data_map(n, &req->cmd, len, false, &req->data);

	if (status != NVME_OK)
		return status;
	nvme_data_get(&req->data, req->range, len);
	for (uint32_t i = 0; i < count; i++) {
		const struct nvme_dsm_range *r = &req->range[i];

		if (r->slba > size || r->blocks > size - r->slba) {
			req->cmd.lba = r->slba;
			return NVME_LBA_OUT_OF_RANGE;
		}
	}
	/* The other attributes are hints about future use. */
	if ((req->cmd.sqe.cdw11 & NVME_DSM_AD) == 0)
		return NVME_OK;
	req->pos = 0;
	req->end = count;
	req->step = nvme_dsm_next;
	return nvme_dsm_next(req);
}

/* --- Dispatch --- */

struct nvme_io_op {
	uint32_t (*run)(struct nvme_req *req);
	bool writes;
};

static const struct nvme_io_op nvme_io_ops[] = {
	[NVME_IO_FLUSH] = { nvme_flush, false },
	[NVME_IO_WRITE] = { nvme_write, true },
	[NVME_IO_READ] = { nvme_read, false },
	[NVME_IO_WRITE_UNCORRECTABLE] = { nvme_write_uncorrectable, true },
	[NVME_IO_COMPARE] = { nvme_compare, false },
	[NVME_IO_WRITE_ZEROES] = { nvme_write_zeroes, true },
	[NVME_IO_DSM] = { nvme_dsm, true },
	[NVME_IO_VERIFY] = { nvme_verify, false },
};

uint32_t
nvme_io_run(struct nvme_req *req)
{
	struct nvme *n = req->nvme;
	const struct nvme_sqe *s = &req->cmd.sqe;
	const struct nvme_io_op *op;

	req->io.flags = 0;
	req->io.done = nvme_io_done;
	if (s->opcode >= ARRAY_SIZE(nvme_io_ops) || nvme_io_ops[s->opcode].run == NULL ||
	    (s->opcode == NVME_IO_DSM && !n->dsm))
		return nvme_blame(&req->cmd, NVME_AT_OPCODE, NVME_INVALID_OPCODE);
	op = &nvme_io_ops[s->opcode];
	/* Fused operations are not offered; PSDT 3 is reserved. */
	if (NVME_SQE_FUSE(s) != 0 || NVME_SQE_PSDT(s) == 3)
		return nvme_blame(&req->cmd, NVME_AT_FLAGS, NVME_INVALID_FIELD);
	if (s->nsid != NVME_NSID && !(s->nsid == NVME_NSID_ALL && s->opcode == NVME_IO_FLUSH))
		return nvme_blame(&req->cmd, NVME_AT_NSID, NVME_INVALID_NAMESPACE);
	if (op->writes && block_info(n->disk)->read_only)
		return NVME_WRITE_PROTECTED;
	return op->run(req);
}
