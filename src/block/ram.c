/*
 * A disk in memory: ram=SIZE. Pages that were never written, or were discarded, take none.
 */
#include "block/block_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/iov.h"
#include "base/log.h"

static int
ram_open(struct block *b, const struct block_options *o)
{
	uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE);
	uint64_t size;
	void *mem;

	if (b->info.logical_sector == 0)
		b->info.logical_sector = 512;
	size = ALIGN_DOWN(o->ram_size, (uint64_t)b->info.logical_sector);
	if (size == 0) {
		log_error(b->who, "ram: smaller than a sector");
		return -EINVAL;
	}
	mem = mmap(
	    NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (mem == MAP_FAILED) {
		int err = -errno;

		log_error(b->who, "ram: cannot get %" PRIu64 " bytes: %s", size, strerror(errno));
		return err;
	}
	b->priv = mem;
	b->engine = "ram";
	b->size = size;
	b->in_flight_max = 256;
	if (b->info.physical_sector == 0)
		b->info.physical_sector = MAX(page, b->info.logical_sector);
	b->info.write_cache = false; /* nothing would make it safer */
	b->info.can_discard = true;
	b->info.discard_zeroes = true;
	b->info.discard_granularity = page;
	b->info.discard_max = GIB(1);
	b->info.fast_zeroes = true;
	return 0;
}

static void
ram_close(struct block *b)
{
	munmap(b->priv, b->size);
}

/* Zeros the range; with unmap its whole pages go back to the host. */
static void
ram_zero(uint8_t *p, uint64_t len, bool unmap)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uint8_t *first = (uint8_t *)ALIGN_UP((uintptr_t)p, page);
	uint8_t *end = (uint8_t *)ALIGN_DOWN((uintptr_t)p + len, page);

	if (!unmap || first >= end || madvise(first, (size_t)(end - first), MADV_DONTNEED) != 0) {
		memset(p, 0, len);
		return;
	}
	memset(p, 0, (size_t)(first - p));
	memset(end, 0, (size_t)(p + len - end));
}

static void
ram_start(struct block *b, struct block_req *req)
{
	uint8_t *p = (uint8_t *)b->priv + req->offset;

	switch (req->host_op) {
	case BLOCK_READ: iov_scatter(req->iov, req->iovcnt, 0, p, req->len); break;
	case BLOCK_WRITE: iov_gather(req->iov, req->iovcnt, 0, p, req->len); break;
	case BLOCK_DISCARD: ram_zero(p, req->len, true); break;
	case BLOCK_WRITE_ZEROES: ram_zero(p, req->len, (req->host_flags & BLOCK_UNMAP) != 0); break;
	case BLOCK_FLUSH:
	case BLOCK_OPS: break;
	}
	block_complete(req, 0);
}

const struct block_backend block_ram = {
	.open = ram_open,
	.close = ram_close,
	.start = ram_start,
};
