/*
 * virtio-blk: a disk (VIRTIO 1.2, 5.2).
 *
 * The driver's notifications post a work to the disk's own thread, which takes requests from the
 * ring and submits them; completions of one round are told of by one interrupt. So rings are only
 * worked on by that thread, and nothing is allocated there: a queue has as many requests as it can
 * have chains out.
 */
#include "virtio/virtio.h"
#include "virtio/virtio_blk.h"

#include "base/config.h"
#include "base/fnv.h"
#include "base/iov.h"
#include "base/log.h"
#include "block/block.h"
#include "pci/pci_models.h"
#include "vm/mem.h"
#include "vm/state.h"
#include "vm/vm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VIRTIO_BLK_QUEUE_SIZE 256
#define VIRTIO_BLK_QUEUES_MAX 16
/* Elements of a chain: the whole ring; what is not header or status is for data. */
#define VIRTIO_BLK_IOV VIRTIO_BLK_QUEUE_SIZE
#define VIRTIO_BLK_SEG_MAX (VIRTIO_BLK_IOV - 2)
#define VIRTIO_BLK_SIZE_MAX MIB(4)
#define VIRTIO_BLK_RANGES 16 /* of one discard or write-zeroes */
/* Of one range. Where the host has to write them, zeros take their time. */
#define VIRTIO_BLK_ZEROES_MAX GIB(1)
#define VIRTIO_BLK_ZEROES_SLOW_MAX MIB(16)

struct virtio_blk_queue;

struct virtio_blk_req {
	struct block_req block;
	struct virtio_blk_queue *queue;
	struct virtio_blk_req *next; /* of those that are free */
	struct virtq_chain chain;
	uint8_t *status; /* the guest's */
	bool status_shared; /* it is the last byte of data, whose element was shortened */
	struct virtio_blk_range range[VIRTIO_BLK_RANGES]; /* a copy */
	unsigned ranges, range_next;
	struct iovec iov[VIRTIO_BLK_IOV];
};

struct virtio_blk_queue { /* the disk's thread only */
	struct virtio_blk *blk;
	struct virtq *vq;
	struct block_work kick, raise;
	struct virtio_blk_req *reqs, *free;
};

struct virtio_blk {
	struct virtio_dev *vd;
	struct block *disk;
	const struct block_info *info;
	char serial[VIRTIO_BLK_ID_BYTES + 1];
	unsigned queues;
	_Atomic uint8_t writeback; /* the driver's choice (VIRTIO_BLK_F_CONFIG_WCE) */
	struct virtio_blk_queue queue[VIRTIO_BLK_QUEUES_MAX];
};

static const char *const virtio_blk_vars[] = { VIRTIO_VARS, BLOCK_VARS, "ser", "queues", NULL };

/* --- The end of a request --- */

static void
virtio_blk_free(struct virtio_blk_req *r)
{
	r->next = r->queue->free;
	r->queue->free = r;
}

static void
virtio_blk_end(struct virtio_blk_req *r, uint8_t status)
{
	struct virtio_blk_queue *q = r->queue;
	struct virtq_chain *c = &r->chain;

	if (r->status_shared)
		c->in[c->ins - 1].iov_len++;
	*r->status = status;
	vm_mem_written(virtio_vm(q->blk->vd), vm_mem_gpa(virtio_vm(q->blk->vd), r->status), 1);
	/* After an error nothing is promised of the data (2.7.8.2). */
	virtq_push(q->vq, c, status == VIRTIO_BLK_S_OK ? c->in_len : 1);
	virtio_blk_free(r);
	block_post(q->blk->disk, &q->raise);
}

/* A chain without room for a status cannot be answered: it goes back as it is. */
static void
virtio_blk_drop(struct virtio_blk_req *r)
{
	struct virtio_blk_queue *q = r->queue;

	virtio_broken(q->blk->vd, "a request has no header or no status");
	virtq_push(q->vq, &r->chain, 0);
	virtio_blk_free(r);
}

static uint8_t
virtio_blk_status(int err)
{
	switch (err) {
	case 0: return VIRTIO_BLK_S_OK;
	case -EOPNOTSUPP: return VIRTIO_BLK_S_UNSUPP;
	}
	return VIRTIO_BLK_S_IOERR;
}

/* --- Requests --- */

static void
virtio_blk_done(struct block_req *block, int err)
{
	virtio_blk_end(container_of(block, struct virtio_blk_req, block), virtio_blk_status(err));
}

/* Whether what a write left behind may be in a volatile cache (5.2.6.2). */
static bool
virtio_blk_is_writeback(struct virtio_blk *blk)
{
	if (virtio_has(blk->vd, VIRTIO_BLK_F_CONFIG_WCE))
		return atomic_load_explicit(&blk->writeback, memory_order_relaxed) != 0;
	return virtio_has(blk->vd, VIRTIO_BLK_F_FLUSH);
}

static void
virtio_blk_submit(struct virtio_blk_req *r, enum block_op op, uint64_t sector, uint64_t len)
{
	struct virtio_blk *blk = r->queue->blk;

	/* Before the multiplication, which must not wrap into the disk. */
	if (sector > UINT64_MAX / VIRTIO_BLK_SECTOR) {
		virtio_blk_end(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	r->block.op = op;
	r->block.offset = sector * VIRTIO_BLK_SECTOR;
	r->block.len = len;
	block_submit(blk->disk, &r->block);
}

static void
virtio_blk_read(struct virtio_blk_req *r, const struct virtio_blk_header *h)
{
	int cnt = r->chain.ins - !r->status_shared;

	r->block.iov = r->chain.in;
	r->block.iovcnt = cnt;
	virtio_blk_submit(r, BLOCK_READ, h->sector, r->chain.in_len - 1);
}

static void
virtio_blk_write(struct virtio_blk_req *r, const struct virtio_blk_header *h, struct iovec *data,
    int cnt)
{
	r->block.iov = data;
	r->block.iovcnt = cnt;
	if (!virtio_blk_is_writeback(r->queue->blk))
		r->block.flags = BLOCK_FUA;
	virtio_blk_submit(r, BLOCK_WRITE, h->sector, r->chain.out_len - sizeof(*h));
}

static void
virtio_blk_get_id(struct virtio_blk_req *r)
{
	struct virtq_chain *c = &r->chain;
	int cnt = c->ins - !r->status_shared;

	/* Padded with zeros, without one at the end when it is as long as that (5.2.6). */
	if (iov_scatter(c->in, cnt, 0, r->queue->blk->serial, VIRTIO_BLK_ID_BYTES) !=
	    VIRTIO_BLK_ID_BYTES)
		virtio_blk_end(r, VIRTIO_BLK_S_IOERR);
	else
		virtio_blk_end(r, VIRTIO_BLK_S_OK);
}

/* --- Discard and write zeroes: a range at a time --- */

static void
virtio_blk_range_next(struct virtio_blk_req *r)
{
	const struct virtio_blk_range *range = &r->range[r->range_next++];
	bool zeroes = r->block.op == BLOCK_WRITE_ZEROES;

	r->block.flags = 0;
	if (zeroes && (range->flags & VIRTIO_BLK_RANGE_UNMAP))
		r->block.flags |= BLOCK_UNMAP;
	if (zeroes && !virtio_blk_is_writeback(r->queue->blk))
		r->block.flags |= BLOCK_FUA;
	virtio_blk_submit(r, r->block.op, range->sector,
	    (uint64_t)range->sectors * VIRTIO_BLK_SECTOR);
}

static void
virtio_blk_range_done(struct block_req *block, int err)
{
	struct virtio_blk_req *r = container_of(block, struct virtio_blk_req, block);

	if (err != 0 || r->range_next == r->ranges)
		virtio_blk_end(r, virtio_blk_status(err));
	else
		virtio_blk_range_next(r);
}

/* What a range must not be (5.2.6.2). */
static uint8_t
virtio_blk_range_check(const struct virtio_blk_range *range, uint32_t flags, uint32_t max)
{
	if ((range->flags & ~flags) != 0)
		return VIRTIO_BLK_S_UNSUPP;
	return range->sectors > max ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK;
}

static void
virtio_blk_ranges(struct virtio_blk_req *r, bool zeroes, struct iovec *data, int cnt)
{
	struct virtio_blk *blk = r->queue->blk;
	size_t len = r->chain.out_len - sizeof(struct virtio_blk_header);
	uint32_t flags = zeroes ? VIRTIO_BLK_RANGE_UNMAP : 0, max;
	uint8_t status = VIRTIO_BLK_S_OK;
	struct virtio_blk_config config;

	if (!virtio_has(blk->vd, zeroes ? VIRTIO_BLK_F_WRITE_ZEROES : VIRTIO_BLK_F_DISCARD)) {
		virtio_blk_end(r, VIRTIO_BLK_S_UNSUPP);
		return;
	}
	if (len == 0 || len % sizeof(r->range[0]) != 0 || len > sizeof(r->range)) {
		virtio_blk_end(r, VIRTIO_BLK_S_IOERR);
		return;
	}
	(void)iov_gather(data, cnt, 0, r->range, len);
	r->ranges = (unsigned)(len / sizeof(r->range[0]));
	r->range_next = 0;
	virtio_config_get(blk->vd, 0, &config, VIRTIO_BLK_CONFIG_SIZE);
	max = zeroes ? config.max_write_zeroes_sectors : config.max_discard_sectors;
	for (unsigned i = 0; status == VIRTIO_BLK_S_OK && i < r->ranges; i++)
		status = virtio_blk_range_check(&r->range[i], flags, max);
	if (status != VIRTIO_BLK_S_OK) {
		virtio_blk_end(r, status);
		return;
	}
	r->block.op = zeroes ? BLOCK_WRITE_ZEROES : BLOCK_DISCARD;
	r->block.done = virtio_blk_range_done;
	virtio_blk_range_next(r);
}

/* --- Taking requests from the ring --- */

/* Finds the status byte, the last one of the chain, which is then no part of the data. */
static bool
virtio_blk_status_find(struct virtio_blk_req *r)
{
	struct virtq_chain *c = &r->chain;
	struct iovec *last;

	if (c->ins == 0)
		return false;
	last = &c->in[c->ins - 1];
	r->status = (uint8_t *)last->iov_base + last->iov_len - 1;
	r->status_shared = last->iov_len > 1;
	if (r->status_shared)
		last->iov_len--;
	return true;
}

static void
virtio_blk_start(struct virtio_blk_req *r)
{
	struct virtio_blk_header h;
	struct iovec *data = r->chain.out;
	int cnt = r->chain.outs;

	r->block.done = virtio_blk_done;
	r->block.flags = 0;
	if (!virtio_iov_take(&data, &cnt, &h, sizeof(h)) || !virtio_blk_status_find(r)) {
		virtio_blk_drop(r);
		return;
	}
	switch (h.type) {
	case VIRTIO_BLK_T_IN: virtio_blk_read(r, &h); break;
	case VIRTIO_BLK_T_OUT: virtio_blk_write(r, &h, data, cnt); break;
	case VIRTIO_BLK_T_FLUSH: virtio_blk_submit(r, BLOCK_FLUSH, 0, 0); break;
	case VIRTIO_BLK_T_GET_ID: virtio_blk_get_id(r); break;
	case VIRTIO_BLK_T_DISCARD: virtio_blk_ranges(r, false, data, cnt); break;
	case VIRTIO_BLK_T_WRITE_ZEROES: virtio_blk_ranges(r, true, data, cnt); break;
	default: virtio_blk_end(r, VIRTIO_BLK_S_UNSUPP); break;
	}
}

/* On the disk's thread, after a notification. */
static void
virtio_blk_queue_run(void *ctx)
{
	struct virtio_blk_queue *q = ctx;
	struct virtio_blk_req *r;

	do {
		/* There is a free one whenever there is a chain: see virtq_pop(). */
		while ((r = q->free) != NULL &&
		    virtq_pop(q->vq, &r->chain, r->iov, VIRTIO_BLK_IOV)) {
			q->free = r->next;
			virtio_blk_start(r);
		}
	} while (virtq_rearm(q->vq) && q->free != NULL);
}

static void
virtio_blk_queue_raise(void *ctx)
{
	struct virtio_blk_queue *q = ctx;

	virtq_interrupt(q->vq);
}

/* --- What the driver and the host ask for --- */

static void
virtio_blk_notify(struct virtq *vq)
{
	struct virtio_blk *blk = virtio_priv(virtq_dev(vq));

	block_post(blk->disk, &blk->queue[virtq_index(vq)].kick);
}

static void
virtio_blk_config_write(struct virtio_dev *vd, size_t off, int size, uint64_t val)
{
	struct virtio_blk *blk = virtio_priv(vd);
	uint8_t writeback = val & 1;

	if (off != offsetof(struct virtio_blk_config, writeback) || size != 1 ||
	    !virtio_has(vd, VIRTIO_BLK_F_CONFIG_WCE))
		return;
	atomic_store(&blk->writeback, writeback);
	virtio_config_set(vd, off, &writeback, 1, false);
}

static void
virtio_blk_reset(struct virtio_dev *vd)
{
	struct virtio_blk *blk = virtio_priv(vd);
	uint8_t writeback = blk->info->write_cache;

	atomic_store(&blk->writeback, writeback);
	virtio_config_set(vd, offsetof(struct virtio_blk_config, writeback), &writeback, 1, false);
	/* The driver waits for what is in flight: what has not begun need not. */
	block_cancel(blk->disk);
}

static void
virtio_blk_quiesce(struct virtio_dev *vd)
{
	struct virtio_blk *blk = virtio_priv(vd);

	block_drain(blk->disk);
}

static int
virtio_blk_state(struct virtio_dev *vd, struct vm_state *s)
{
	struct virtio_blk *blk = virtio_priv(vd);
	uint8_t writeback = atomic_load(&blk->writeback);

	vm_state_section(s, "virtio-blk", pci_devfn(virtio_pci_dev(vd)), 1);
	vm_state_u8(s, &writeback);
	if (vm_state_error(s) == 0) {
		atomic_store(&blk->writeback, writeback & 1);
		virtio_config_set(vd, offsetof(struct virtio_blk_config, writeback), &writeback, 1,
		    false);
	}
	return vm_state_end(s);
}

static const struct virtio_ops virtio_blk_virtio = {
	.name = "virtio-blk",
	.id = VIRTIO_BLK_ID,
	.class = 0x01, /* mass storage */
	.notify = virtio_blk_notify,
	.config_write = virtio_blk_config_write,
	.reset = virtio_blk_reset,
	.quiesce = virtio_blk_quiesce,
	.state = virtio_blk_state,
};

static void
virtio_blk_resized(void *ctx)
{
	struct virtio_blk *blk = ctx;
	uint64_t capacity = block_size(blk->disk) / VIRTIO_BLK_SECTOR;

	virtio_config_set(blk->vd, offsetof(struct virtio_blk_config, capacity), &capacity,
	    sizeof(capacity), true);
}

/* --- Making a disk --- */

static uint32_t
virtio_blk_sectors(uint64_t bytes)
{
	return (uint32_t)MIN(bytes / VIRTIO_BLK_SECTOR, (uint64_t)INT32_MAX);
}

static void
virtio_blk_config_init(struct virtio_blk *blk, struct virtio_blk_config *c)
{
	const struct block_info *info = blk->info;
	uint64_t zeroes = info->fast_zeroes ? VIRTIO_BLK_ZEROES_MAX : VIRTIO_BLK_ZEROES_SLOW_MAX;

	*c = (struct virtio_blk_config){
		.capacity = block_size(blk->disk) / VIRTIO_BLK_SECTOR,
		.size_max = VIRTIO_BLK_SIZE_MAX,
		.seg_max = VIRTIO_BLK_SEG_MAX,
		.blk_size = info->logical_sector,
		.physical_block_exp =
		    (uint8_t)__builtin_ctz(info->physical_sector / info->logical_sector),
		.min_io_size = (uint16_t)(info->physical_sector / info->logical_sector),
		.writeback = info->write_cache,
		.num_queues = (uint16_t)blk->queues,
	};
	if (info->can_discard) {
		c->max_discard_sectors = virtio_blk_sectors(info->discard_max);
		c->max_discard_seg = VIRTIO_BLK_RANGES;
		c->discard_sector_alignment = virtio_blk_sectors(info->discard_granularity);
	}
	if (!info->read_only) {
		c->max_write_zeroes_sectors = virtio_blk_sectors(zeroes);
		c->max_write_zeroes_seg = VIRTIO_BLK_RANGES;
		c->write_zeroes_may_unmap = info->can_discard;
	}
}

static uint64_t
virtio_blk_features(const struct virtio_blk *blk)
{
	const struct block_info *info = blk->info;
	uint64_t features = BIT64(VIRTIO_BLK_F_SIZE_MAX) | BIT64(VIRTIO_BLK_F_SEG_MAX) |
	    BIT64(VIRTIO_BLK_F_BLK_SIZE) | BIT64(VIRTIO_BLK_F_TOPOLOGY);

	if (info->read_only)
		features |= BIT64(VIRTIO_BLK_F_RO);
	else
		features |= BIT64(VIRTIO_BLK_F_WRITE_ZEROES);
	if (info->write_cache)
		features |= BIT64(VIRTIO_BLK_F_FLUSH) | BIT64(VIRTIO_BLK_F_CONFIG_WCE);
	if (info->can_discard)
		features |= BIT64(VIRTIO_BLK_F_DISCARD);
	if (blk->queues > 1)
		features |= BIT64(VIRTIO_BLK_F_MQ);
	return features;
}

/* A serial number that stays the same as long as the path does. */
static void
virtio_blk_serial_make(char *serial, size_t size, const char *path)
{
	uint64_t h = fnv_add(FNV_START, path);

	snprintf(serial, size, "BHYVE-%04X-%04X-%04X", (unsigned)(h >> 32 & 0xffff),
	    (unsigned)(h >> 16 & 0xffff), (unsigned)(h & 0xffff));
}

static int
virtio_blk_options(struct virtio_blk *blk, struct pci_dev *dev, const struct config *cfg)
{
	const char *serial = config_get(cfg, "ser");
	uint64_t queues = (uint64_t)MIN(vm_vcpus(pci_vm(dev)), VIRTIO_BLK_QUEUES_MAX);
	int err = config_get_uint(cfg, "queues", &queues);

	if ((err != 0 && err != -ENOENT) || queues == 0 || queues > VIRTIO_BLK_QUEUES_MAX) {
		log_error(pci_name(dev), "queues '%.32s': expected 1 to %d",
		    config_get(cfg, "queues"), VIRTIO_BLK_QUEUES_MAX);
		return -EINVAL;
	}
	blk->queues = (unsigned)queues;
	if (serial != NULL && strlen(serial) > VIRTIO_BLK_ID_BYTES) {
		log_error(pci_name(dev), "ser '%.32s': expected at most %d characters", serial,
		    VIRTIO_BLK_ID_BYTES);
		return -EINVAL;
	}
	if (serial != NULL)
		snprintf(blk->serial, sizeof(blk->serial), "%s", serial);
	else
		virtio_blk_serial_make(blk->serial, sizeof(blk->serial),
		    config_get_default(cfg, "path", "ram"));
	return 0;
}

static int
virtio_blk_queues_create(struct virtio_blk *blk)
{
	for (unsigned i = 0; i < blk->queues; i++) {
		struct virtio_blk_queue *q = &blk->queue[i];

		q->blk = blk;
		block_work_init(&q->kick, virtio_blk_queue_run, q);
		block_work_init(&q->raise, virtio_blk_queue_raise, q);
		q->reqs = calloc(VIRTIO_BLK_QUEUE_SIZE, sizeof(*q->reqs));
		if (q->reqs == NULL)
			return -ENOMEM;
		for (int k = VIRTIO_BLK_QUEUE_SIZE - 1; k >= 0; k--) {
			q->reqs[k].queue = q;
			virtio_blk_free(&q->reqs[k]);
		}
	}
	return 0;
}

static void
virtio_blk_delete(struct virtio_blk *blk)
{
	for (unsigned i = 0; i < blk->queues; i++)
		free(blk->queue[i].reqs);
	free(blk);
}

static int
virtio_blk_device(struct virtio_blk *blk, struct pci_dev *dev, const struct config *cfg)
{
	struct virtio_blk_config config;
	struct virtio_params params = {
		.ops = &virtio_blk_virtio,
		.priv = blk,
		.queues = blk->queues,
		.queue_size = VIRTIO_BLK_QUEUE_SIZE,
		.config = &config,
		.config_size = VIRTIO_BLK_CONFIG_SIZE,
	};
	int err;

	virtio_blk_config_init(blk, &config);
	atomic_store(&blk->writeback, config.writeback);
	params.features = virtio_blk_features(blk);
	err = virtio_create(dev, cfg, &params, &blk->vd);
	if (err != 0)
		return err;
	for (unsigned i = 0; i < blk->queues; i++)
		blk->queue[i].vq = virtio_queue(blk->vd, i);
	return 0;
}

static int
virtio_blk_create(struct pci_dev *dev, const struct config *cfg)
{
	struct virtio_blk *blk = calloc(1, sizeof(*blk));
	int err;

	if (blk == NULL) {
		log_error(pci_name(dev), "out of memory");
		return -ENOMEM;
	}
	err = virtio_blk_options(blk, dev, cfg);
	if (err != 0)
		goto delete;
	err = virtio_blk_queues_create(blk);
	if (err != 0) {
		log_error(pci_name(dev), "out of memory");
		goto delete;
	}
	err = block_open(vm_loop(pci_vm(dev)), cfg, pci_name(dev), &blk->disk);
	if (err != 0)
		goto delete;
	blk->info = block_info(blk->disk);
	err = virtio_blk_device(blk, dev, cfg);
	if (err != 0)
		goto close;
	block_on_resize(blk->disk, virtio_blk_resized, blk);
	return 0;
close:
	block_close(blk->disk);
delete:
	virtio_blk_delete(blk);
	return err;
}

static void
virtio_blk_destroy(struct pci_dev *dev)
{
	struct virtio_dev *vd = pci_priv(dev);
	struct virtio_blk *blk = virtio_priv(vd);

	block_cancel(blk->disk);
	block_close(blk->disk);
	virtio_destroy(vd);
	virtio_blk_delete(blk);
}

const struct pci_dev_ops virtio_blk_ops = {
	.name = "virtio-blk",
	.vars = virtio_blk_vars,
	.create = virtio_blk_create,
	.destroy = virtio_blk_destroy,
	VIRTIO_PCI_OPS,
};
