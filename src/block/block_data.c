/*
 * The memory of requests: copying in and out, alignment, zeros.
 */
#include "block/block_impl.h"

#include <string.h>

/* Calls for each piece of [pos, pos + len) of a request's memory; buf moves along. */
static void
block_req_copy(const struct block_req *req, uint64_t pos, uint8_t *buf, uint64_t len, bool gather)
{
	for (int i = 0; i < req->iovcnt && len != 0; i++) {
		uint8_t *base = req->iov[i].iov_base;
		uint64_t n = req->iov[i].iov_len;

		if (pos >= n) {
			pos -= n;
			continue;
		}
		n = MIN(n - pos, len);
		if (gather)
			memcpy(buf, base + pos, n);
		else
			memcpy(base + pos, buf, n);
		buf += n;
		len -= n;
		pos = 0;
	}
}

void
block_req_gather(const struct block_req *req, uint64_t pos, void *buf, uint64_t len)
{
	block_req_copy(req, pos, buf, len, true);
}

void
block_req_scatter(const struct block_req *req, uint64_t pos, const void *buf, uint64_t len)
{
	block_req_copy(req, pos, (uint8_t *)buf, len, false);
}

bool
block_req_aligned(const struct block_req *req, uint32_t align)
{
	uint64_t all = 0;

	for (int i = 0; i < req->iovcnt; i++)
		all |= (uintptr_t)req->iov[i].iov_base | req->iov[i].iov_len;
	return (all & (align - 1)) == 0;
}

static bool
block_memory_is_zero(const uint8_t *p, size_t len)
{
	size_t head = MIN(len, 16u);

	/* Data that is not zero mostly shows it at once; then each byte equals the one 16 before
	 * it. */
	for (size_t i = 0; i < head; i++) {
		if (p[i] != 0)
			return false;
	}
	return memcmp(p, p + head, len - head) == 0;
}

bool
block_req_is_zero(const struct block_req *req)
{
	for (int i = 0; i < req->iovcnt; i++) {
		if (!block_memory_is_zero(req->iov[i].iov_base, req->iov[i].iov_len))
			return false;
	}
	return true;
}
