/*
 * The memory of requests: alignment, zeros.
 */
#include "block/block_impl.h"

#include <string.h>

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
