/*
 * A disk of the guest's, as bench_disk plays its driver. Calls but open() and close() are made one at a
 * time, on any thread.
 */
#ifndef BENCH_DISK_H
#define BENCH_DISK_H

#include "bench_fio.h"

struct bench_disk {
	const char *name;
	/* Makes a machine with this disk on a file, past the host's cache, and brings it up.
	 * interrupt is called on whichever thread interrupts, which may hold locks that a register
	 * access takes; a doorbell's must not be among them. */
	void *(*open)(const char *path, void (*interrupt)(void *arg), void *arg);
	/* Prepares an I/O of slot (below BENCH_DEPTH_MAX, free) without telling the device. */
	void (*add)(void *ctx, unsigned slot, bool write, uint64_t offset, uint32_t len);
	/* Tells the device of what was added, as a driver would. */
	void (*kick)(void *ctx);
	/* Takes what is done, at most max slots. When there is nothing, the next one that is done
	 * interrupts. */
	unsigned (*reap)(void *ctx, unsigned *slots, unsigned max);
	void (*close)(void *ctx);
};

#endif
