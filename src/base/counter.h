/*
 * Counters that one thread writes and any may read.
 */
#ifndef BASE_COUNTER_H
#define BASE_COUNTER_H

#include <stdatomic.h>
#include <stdint.h>

/* The counter's one writer. */
static inline void
counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	/* No atomic read-modify-write is needed, which would cost a locked instruction. */
	atomic_store_explicit(
	    counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

#endif
