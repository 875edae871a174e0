/*
 * Blocks that Write Uncorrectable made unreadable until they are written again (NVMe 1.4, 6.14).
 * They are remembered as long as the process lives.
 */
#include "storage/nvme_impl.h"

#include <errno.h>
#include <string.h>

/* The first range that ends behind block. */
static uint32_t
nvme_bad_find(const struct nvme_bad *bad, uint64_t block)
{
	uint32_t lo = 0, hi = bad->count;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (bad->range[mid].end <= block)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static void
nvme_bad_splice(struct nvme_bad *bad, uint32_t at, uint32_t gone, const struct nvme_bad_range *with,
    uint32_t count)
{
	memmove(&bad->range[at + count], &bad->range[at + gone],
	    (bad->count - at - gone) * sizeof(bad->range[0]));
	memcpy(&bad->range[at], with, count * sizeof(with[0]));
	bad->count = bad->count - gone + count;
}

bool
nvme_bad_overlaps(const struct nvme_bad *bad, uint64_t start, uint64_t end)
{
	uint32_t at = nvme_bad_find(bad, start);

	return at < bad->count && bad->range[at].start < end;
}

int
nvme_bad_add(struct nvme_bad *bad, uint64_t start, uint64_t end)
{
	/* Neighbours that touch become one. */
	uint32_t at = nvme_bad_find(bad, start > 0 ? start - 1 : 0), last = at;
	struct nvme_bad_range r = { start, end };

	while (last < bad->count && bad->range[last].start <= end) {
		r.start = MIN(r.start, bad->range[last].start);
		r.end = MAX(r.end, bad->range[last].end);
		last++;
	}
	if (last == at && bad->count == NVME_BAD_RANGES)
		return -ENOSPC;
	nvme_bad_splice(bad, at, last - at, &r, 1);
	return 0;
}

void
nvme_bad_remove(struct nvme_bad *bad, uint64_t start, uint64_t end)
{
	uint32_t at = nvme_bad_find(bad, start), last = at, left = 0;
	struct nvme_bad_range rest[2];

	for (; last < bad->count && bad->range[last].start < end; last++) {
		const struct nvme_bad_range *r = &bad->range[last];

		if (r->start < start)
			rest[left++] = (struct nvme_bad_range){ r->start, start };
		if (r->end > end)
			rest[left++] = (struct nvme_bad_range){ end, r->end };
	}
	/* With no place for a second part, that part is readable again: better than good blocks
	 * that are not. */
	if (bad->count - (last - at) + left > NVME_BAD_RANGES)
		left--;
	nvme_bad_splice(bad, at, last - at, rest, left);
}
