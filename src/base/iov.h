/*
 * Memory in pieces: arrays of struct iovec (readv(2)).
 */
#ifndef BASE_IOV_H
#define BASE_IOV_H

#include <stddef.h>
#include <sys/uio.h>

/* Bytes in the elements. */
size_t iov_length(const struct iovec *iov, int cnt);
/* Copies len bytes from byte off of the elements to buf, or from buf to there. The number copied: less
 * where the elements end. */
size_t iov_gather(const struct iovec *iov, int cnt, size_t off, void *buf, size_t len);
size_t iov_scatter(const struct iovec *iov, int cnt, size_t off, const void *buf, size_t len);

#endif
