/*
 * Writes that an NBD server has acknowledged but not yet flushed: if it vanishes they may be lost
 * with it, so they are kept, in order, to be sent again.
 *
 * No locks: the disk's thread.
 */
#ifndef BLOCK_NBD_LOG_H
#define BLOCK_NBD_LOG_H

#include <stdbool.h>
#include <stdint.h>

struct block_req;

struct block_nbd_log_entry {
	struct block_nbd_log_entry *next;
	uint64_t seq; /* 1, 2, 3, ... */
	uint64_t offset, len;
	bool zeroes, unmap; /* zeros, no data */
	uint8_t data[];
};

struct block_nbd_log {
	struct block_nbd_log_entry *first, **last;
	uint64_t seq; /* of the newest there ever was */
	uint64_t bytes; /* of data, and a little per entry */
	uint64_t missing; /* the newest that there was no memory for; 0: none */
};

void block_nbd_log_init(struct block_nbd_log *l);
/* Keeps the piece of len bytes at pos of a request. */
void block_nbd_log_add(
    struct block_nbd_log *l, const struct block_req *req, uint64_t pos, uint64_t len);
/* Drops what a flush that began when seq was the newest has made safe. */
void block_nbd_log_trim(struct block_nbd_log *l, uint64_t seq);

#endif
