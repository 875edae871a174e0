/*
 * Virtqueues (VIRTIO 1.2, 2.6): what split and packed rings have in common.
 *
 * A ring is made of host pointers once, when the driver enables the queue. From there on, whatever
 * the driver writes into it can only make chains that are refused: every index is checked against
 * the ring's size, every walk has a bound, and each descriptor is read once.
 */
#include "virtio/virtio_private.h"

#include <errno.h>

#include "base/iov.h"

/* Sizes and alignments of the three areas (2.7, 2.8) */
struct virtq_layout {
	uint64_t desc, driver, device; /* bytes */
	uint64_t driver_align, device_align;
};
#define VIRTQ_DESC_ALIGN 16u

static struct virtq_layout
virtq_layout(uint16_t num, bool packed)
{
	uint64_t n = num;

	if (packed)
		return (struct virtq_layout){ 16 * n, 4, 4, 4, 4 };
	return (struct virtq_layout){ 16 * n, 6 + 2 * n, 6 + 8 * n, 2, 4 };
}

int
virtq_ring_map(struct virtq *q, bool packed)
{
	struct virtq_layout l = virtq_layout(q->size, packed);
	struct vm *vm = q->vd->vm;
	struct virtq_ring r = { .num = q->size, .packed = packed, .avail_wrap = true,
		.used_wrap = true, .published_wrap = true };

	/* A packed ring's size need not be a power of two (2.8.10.1). */
	if (q->size == 0 || q->size > q->max || (!packed && (q->size & (q->size - 1)) != 0))
		return -EINVAL;
	if (q->desc % VIRTQ_DESC_ALIGN != 0 || q->driver % l.driver_align != 0 ||
	    q->device % l.device_align != 0)
		return -EINVAL;
	r.desc = vm_mem_ptr(vm, q->desc, l.desc);
	r.driver = vm_mem_ptr(vm, q->driver, l.driver);
	r.device = vm_mem_ptr(vm, q->device, l.device);
	if (r.desc == NULL || r.driver == NULL || r.device == NULL)
		return -EINVAL;
	pthread_mutex_lock(&q->lock);
	q->ring = r;
	q->enabled = true;
	pthread_mutex_unlock(&q->lock);
	return 0;
}

void
virtq_stop(struct virtq *q)
{
	pthread_mutex_lock(&q->lock);
	q->enabled = false;
	pthread_mutex_unlock(&q->lock);
}

struct virtio_dev *
virtq_dev(const struct virtq *q)
{
	return q->vd;
}

unsigned
virtq_index(const struct virtq *q)
{
	return q->index;
}

uint16_t
virtq_size(const struct virtq *q)
{
	return q->max;
}

/* --- Walking a chain --- */

const char *
virtq_walk_add(struct virtq_walk *w, uint64_t gpa, uint32_t len, bool in)
{
	struct virtq_chain *c = w->c;
	void *at;

	if (!in && c->ins != 0)
		return "a buffer to be read follows one to be written";
	if (len == 0)
		return NULL;
	at = vm_mem_ptr(w->q->vd->vm, gpa, len);
	if (at == NULL)
		return "a buffer is not in memory";
	if (c->outs + c->ins == w->max)
		return "a chain has more buffers than the device takes";
	if (len > UINT32_MAX - c->out_len - c->in_len)
		return "a chain has more than 4 GiB";
	w->iov[c->outs + c->ins] = (struct iovec){ at, len };
	if (in) {
		c->ins++;
		c->in_len += len;
	} else {
		c->outs++;
		c->out_len += len;
	}
	return NULL;
}

const char *
virtq_walk_table(struct virtq_walk *w, uint64_t gpa, uint32_t len, const void **table,
    uint32_t *entries)
{
	if (!virtio_has(w->q->vd, VIRTIO_F_RING_INDIRECT_DESC))
		return "an indirect descriptor, which was not agreed on";
	if (len == 0 || len % sizeof(struct virtq_desc) != 0)
		return "an indirect table's length is no multiple of 16";
	*table = vm_mem_ptr(w->q->vd->vm, gpa, len);
	if (*table == NULL)
		return "an indirect table is not in memory";
	*entries = len / (uint32_t)sizeof(struct virtq_desc);
	return NULL;
}

/* Whether chains may be taken. Lock held. */
static bool
virtq_is_usable(struct virtq *q)
{
	struct virtio_dev *vd = q->vd;
	uint8_t status = atomic_load(&vd->status);

	if (!q->enabled || (status & (VIRTIO_STATUS_NEEDS_RESET | VIRTIO_STATUS_FAILED)) != 0)
		return false;
	/* Legacy drivers use queues before DRIVER_OK (3.1.2), and some never make the function a
	 * bus master. */
	if (atomic_load(&vd->legacy))
		return true;
	return (status & VIRTIO_STATUS_DRIVER_OK) != 0 && pci_is_bus_master(vd->pci);
}

bool
virtq_pop(struct virtq *q, struct virtq_chain *c, struct iovec *iov, int iov_max)
{
	struct virtq_walk w = { q, c, iov, iov_max };
	const char *why = NULL;
	uint8_t status = 0;
	int n = 0;

	*c = (struct virtq_chain){ .out = iov };
	pthread_mutex_lock(&q->lock);
	if (virtq_is_usable(q))
		n = q->ring.packed ? virtq_packed_pop(&w, &why) : virtq_split_pop(&w, &why);
	if (n > 0 && c->slots > q->ring.num - atomic_load(&q->out)) {
		why = "more chains are available than the ring can hold";
		n = -1;
	}
	if (n > 0)
		atomic_fetch_add(&q->out, c->slots);
	else if (n < 0)
		status = virtio_broken_set(q->vd);
	pthread_mutex_unlock(&q->lock);
	if (n < 0)
		virtio_broken_tell(q->vd, status, why);
	c->in = c->out + c->outs;
	return n > 0;
}

/* A chain is not out any more. Lock held. */
static void
virtq_account(struct virtq *q, const struct virtq_chain *c)
{
	struct virtio_dev *vd = q->vd;

	if (atomic_fetch_sub(&q->out, c->slots) != c->slots || q->enabled)
		return;
	pthread_mutex_lock(&vd->idle_lock);
	pthread_cond_broadcast(&vd->idle);
	pthread_mutex_unlock(&vd->idle_lock);
}

void
virtq_unpop(struct virtq *q, struct virtq_chain *c)
{
	pthread_mutex_lock(&q->lock);
	if (q->enabled && q->ring.packed)
		virtq_packed_unpop(q, c);
	else if (q->enabled)
		virtq_split_unpop(q, c);
	virtq_account(q, c);
	pthread_mutex_unlock(&q->lock);
}

/* --- Giving back --- */

/* Tells the engine which memory the model wrote. */
static void
virtq_written(struct virtq *q, const struct virtq_chain *c, uint32_t written)
{
	struct vm *vm = q->vd->vm;

	for (int i = 0; i < c->ins && written != 0; i++) {
		uint32_t n = (uint32_t)MIN(c->in[i].iov_len, written);

		vm_mem_written(vm, vm_mem_gpa(vm, c->in[i].iov_base), n);
		written -= n;
	}
}

/* Lock held. */
static void
virtq_fill_locked(struct virtq *q, struct virtq_chain *c, uint32_t written)
{
	if (q->enabled && q->ring.packed)
		virtq_packed_fill(q, c, written);
	else if (q->enabled)
		virtq_split_fill(q, c, written);
	virtq_account(q, c);
}

static void
virtq_publish_locked(struct virtq *q)
{
	struct virtq_ring *r = &q->ring;

	if (!q->enabled || r->filled == 0)
		return;
	if (r->packed)
		virtq_packed_publish(q);
	else
		virtq_split_publish(q);
	r->published = r->used_next;
	r->published_wrap = r->used_wrap;
	r->unsignalled += r->filled;
	r->filled = 0;
}

void
virtq_fill(struct virtq *q, struct virtq_chain *c, uint32_t written)
{
	virtq_written(q, c, written);
	pthread_mutex_lock(&q->lock);
	virtq_fill_locked(q, c, written);
	pthread_mutex_unlock(&q->lock);
}

void
virtq_publish(struct virtq *q)
{
	pthread_mutex_lock(&q->lock);
	virtq_publish_locked(q);
	pthread_mutex_unlock(&q->lock);
}

void
virtq_push(struct virtq *q, struct virtq_chain *c, uint32_t written)
{
	virtq_written(q, c, written);
	pthread_mutex_lock(&q->lock);
	virtq_fill_locked(q, c, written);
	virtq_publish_locked(q);
	pthread_mutex_unlock(&q->lock);
}

/* --- Notifications --- */

void
virtq_interrupt(struct virtq *q)
{
	struct virtq_ring *r = &q->ring;
	bool wants = false;

	pthread_mutex_lock(&q->lock);
	if (q->enabled && r->unsignalled != 0) {
		/* What was published comes before the look at whether the driver sleeps, which
		 * does it the other way round. */
		atomic_thread_fence(memory_order_seq_cst);
		wants = r->packed ? virtq_packed_wants_interrupt(q) :
				    virtq_split_wants_interrupt(q);
		r->unsignalled = 0;
	}
	pthread_mutex_unlock(&q->lock);
	if (wants)
		virtio_interrupt(q->vd, atomic_load(&q->vector), VIRTIO_ISR_QUEUE);
}

/* Lock held. */
static void
virtq_arm(struct virtq *q, bool on)
{
	if (q->ring.packed)
		virtq_packed_arm(q, on);
	else
		virtq_split_arm(q, on);
}

bool
virtq_rearm(struct virtq *q)
{
	bool more = false;

	pthread_mutex_lock(&q->lock);
	if (virtq_is_usable(q)) {
		virtq_arm(q, true);
		/* As above: the driver makes available first, then looks whether to notify. */
		atomic_thread_fence(memory_order_seq_cst);
		more = q->ring.packed ? virtq_packed_has_more(q) : virtq_split_has_more(q);
	}
	pthread_mutex_unlock(&q->lock);
	return more;
}

void
virtq_mute(struct virtq *q)
{
	pthread_mutex_lock(&q->lock);
	if (virtq_is_usable(q))
		virtq_arm(q, false);
	pthread_mutex_unlock(&q->lock);
}

/* --- Data of chains --- */

bool
virtio_iov_take(struct iovec **iov, int *cnt, void *buf, size_t len)
{
	size_t left = len;

	if (iov_gather(*iov, *cnt, 0, buf, len) != len)
		return false;
	while (left != 0) {
		size_t n = MIN((*iov)->iov_len, left);

		left -= n;
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
		if ((*iov)->iov_len == 0) {
			(*iov)++;
			(*cnt)--;
		}
	}
	return true;
}
