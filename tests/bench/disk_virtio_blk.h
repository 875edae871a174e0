/*
 * virtio-blk, as bench_disk plays it: one queue, with indirect descriptors and the event index, as
 * Linux has it; packed or split.
 */
#ifndef DISK_VIRTIO_BLK_H
#define DISK_VIRTIO_BLK_H

#include "bench_disk.h"

#include "../unit/virtio_rig.h"
#include "virtio/virtio_blk.h"

struct disk_virtio {
	struct rig rig;
	bool packed;
	uint64_t header[BENCH_DEPTH_MAX], data[BENCH_DEPTH_MAX];
	unsigned slot_of[RIG_NUM_MAX]; /* by id */
};

static inline void *
disk_virtio_open_as(const char *path, void (*interrupt)(void *arg), void *arg, bool packed)
{
	struct disk_virtio *d = calloc(1, sizeof(*d));
	char line[512];
	const char *const lines[] = { "pci.0.3.0.device=virtio-blk", line, "pci.0.3.0.nocache=true",
		"pci.0.3.0.packed=true", NULL };

	snprintf(line, sizeof(line), "pci.0.3.0.path=%s", path);
	rig_create(&d->rig, MIB(64), lines);
	d->rig.on_interrupt = interrupt;
	d->rig.on_interrupt_arg = arg;
	rig_start(&d->rig, RIG_MODERN, BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_BLK_F_FLUSH) |
		BIT64(VIRTIO_F_RING_INDIRECT_DESC) | BIT64(VIRTIO_F_RING_EVENT_IDX) |
		(packed ? BIT64(VIRTIO_F_RING_PACKED) : 0), 256);
	for (unsigned i = 0; i < BENCH_DEPTH_MAX; i++) {
		d->header[i] = rig_alloc(&d->rig, 32, 64);
		d->data[i] = rig_alloc(&d->rig, BENCH_LEN_MAX, 4096);
	}
	return d;
}

static inline void *
disk_virtio_open(const char *path, void (*interrupt)(void *arg), void *arg)
{
	return disk_virtio_open_as(path, interrupt, arg, false);
}

static inline void *
disk_virtio_open_packed(const char *path, void (*interrupt)(void *arg), void *arg)
{
	return disk_virtio_open_as(path, interrupt, arg, true);
}

static inline void
disk_virtio_add(void *ctx, unsigned slot, bool write, uint64_t offset, uint32_t len)
{
	struct disk_virtio *d = ctx;
	const struct virtio_blk_header h = { .type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
		.sector = offset / VIRTIO_BLK_SECTOR };
	const struct rig_buf buf[3] = { { d->header[slot], 16, false },
		{ d->data[slot], len, !write }, { d->header[slot] + 16, 1, true } };

	memcpy(rig_ptr(&d->rig, d->header[slot], 16), &h, sizeof(h));
	d->slot_of[rig_add(&d->rig.queue[0], buf, 3, RIG_INDIRECT)] = slot;
}

static inline void
disk_virtio_kick(void *ctx)
{
	struct disk_virtio *d = ctx;

	rig_kick(&d->rig.queue[0]);
}

static inline unsigned
disk_virtio_reap(void *ctx, unsigned *slots, unsigned max)
{
	struct disk_virtio *d = ctx;
	struct rig_queue *q = &d->rig.queue[0];
	unsigned n = 0;
	uint32_t len;
	int id = rig_get(q, &len);

	if (id < 0) {
		rig_interrupts_on(q, true);
		id = rig_get(q, &len);
	}
	while (id >= 0) {
		unsigned slot = d->slot_of[id];

		rig_must(*(uint8_t *)rig_ptr(&d->rig, d->header[slot] + 16, 1) == VIRTIO_BLK_S_OK,
		    "an I/O error");
		slots[n++] = slot;
		id = n < max ? rig_get(q, &len) : -1;
	}
	return n;
}

static inline void
disk_virtio_close(void *ctx)
{
	struct disk_virtio *d = ctx;

	rig_destroy(&d->rig);
	free(d);
}

#endif
