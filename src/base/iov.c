/*
 * Copies between memory in pieces and memory in one.
 */
#include "base/iov.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/bits.h"

size_t
iov_length(const struct iovec *iov, int cnt)
{
	size_t len = 0;

	for (int i = 0; i < cnt; i++)
		len += iov[i].iov_len;
	return len;
}

static size_t
iov_copy(const struct iovec *iov, int cnt, size_t off, uint8_t *buf, size_t len, bool gather)
{
	size_t done = 0;

	for (int i = 0; i < cnt && done < len; i++) {
		uint8_t *at = iov[i].iov_base;
		size_t n;

		if (off >= iov[i].iov_len) {
			off -= iov[i].iov_len;
			continue;
		}
		n = MIN(iov[i].iov_len - off, len - done);
		if (gather)
			memcpy(buf + done, at + off, n);
		else
			memcpy(at + off, buf + done, n);
		done += n;
		off = 0;
	}
	return done;
}

size_t
iov_gather(const struct iovec *iov, int cnt, size_t off, void *buf, size_t len)
{
	return iov_copy(iov, cnt, off, buf, len, true);
}

size_t
iov_scatter(const struct iovec *iov, int cnt, size_t off, const void *buf, size_t len)
{
	return iov_copy(iov, cnt, off, (uint8_t *)(uintptr_t)buf, len, false);
}
