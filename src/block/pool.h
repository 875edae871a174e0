/*
 * Threads for host calls that block: a request goes to a thread, which runs a function on it, and
 * comes back to the disk's thread.
 */
#ifndef BLOCK_POOL_H
#define BLOCK_POOL_H

#include "block/block_impl.h"

struct block_pool;

/* run() is called with each request on one of the pool's threads, then done() on the disk's. A
 * thread is made when a request finds none free, up to max. NULL when out of memory. */
struct block_pool *block_pool_create(struct block *b, unsigned max,
    void (*run)(struct block_req *req), void (*done)(struct block_req *req));
/* No request may be left. NULL is fine. */
void block_pool_destroy(struct block_pool *p);
/* The disk's thread. */
void block_pool_run(struct block_pool *p, struct block_req *req);

#endif
