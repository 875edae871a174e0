/*
 * The MD5 message digest (RFC 1321). Not for security: bhyve(8) derives addresses from it, and the
 * same machine should have the same addresses here.
 */
#ifndef BASE_MD5_H
#define BASE_MD5_H

#include <stddef.h>
#include <stdint.h>

#define MD5_SIZE 16

/* The digest of len bytes. */
void md5(const void *data, size_t len, uint8_t digest[MD5_SIZE]);

#endif
