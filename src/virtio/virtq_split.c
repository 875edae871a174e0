/*
 * Split virtqueues (VIRTIO 1.2, 2.7).
 */
#include "virtio/virtio_private.h"

/* Available ring, the driver area (2.7.6) */
#define VIRTQ_AVAIL_FLAGS 0
#define VIRTQ_AVAIL_NO_INTERRUPT BIT(0)
#define VIRTQ_AVAIL_IDX 2
#define VIRTQ_AVAIL_RING(i) (4 + 2 * (size_t)(i))

/* Used ring, the device area (2.7.8); the event fields of both are behind the rings */
#define VIRTQ_USED_FLAGS 0
#define VIRTQ_USED_NO_NOTIFY BIT(0)
#define VIRTQ_USED_IDX 2
#define VIRTQ_USED_RING(i) (4 + 8 * (size_t)(i))

struct virtq_used {
	uint32_t id, len;
};
static_assert(sizeof(struct virtq_used) == 8, "VIRTIO 1.2, 2.7.8");

/* The buffers from descriptor i of a table on, which is an indirect one or the ring's. NULL, or what
 * is wrong. */
static const char *
virtq_split_walk(struct virtq_walk *w, const void *table, uint32_t entries, uint32_t i)
{
	bool indirect = false;
	const char *why;

	/* A chain that visits more descriptors than there are is a loop. */
	for (uint32_t left = entries; left != 0; left--) {
		struct virtq_desc d;

		if (i >= entries)
			return "a descriptor's index is beyond the table";
		d = virtq_desc_load(table, i);
		if (d.a & VIRTQ_DESC_INDIRECT) {
			/* The last one of the ring's table; none in an indirect one (2.7.5.3.1). */
			if (indirect || (d.a & VIRTQ_DESC_NEXT))
				return "an indirect descriptor where none can be";
			why = virtq_walk_table(w, d.addr, d.len, &table, &entries);
			if (why != NULL)
				return why;
			indirect = true;
			i = 0;
			/* Descriptors of no length do not fill the array of buffers. */
			entries = MIN(entries, VIRTIO_QUEUE_SIZE_MAX);
			left = entries + 1;
			continue;
		}
		why = virtq_walk_add(w, d.addr, d.len, d.a & VIRTQ_DESC_WRITE);
		if (why != NULL || !(d.a & VIRTQ_DESC_NEXT))
			return why;
		i = d.b;
	}
	return "a chain is a loop";
}

int
virtq_split_pop(struct virtq_walk *w, const char **why)
{
	struct virtq_ring *r = &w->q->ring;
	uint16_t idx = virtq_load(r->driver, VIRTQ_AVAIL_IDX);
	uint16_t ready = (uint16_t)(idx - r->avail_next);

	if (ready == 0)
		return 0;
	if (ready > r->num) {
		*why = "the index of the available ring jumped";
		return -1;
	}
	w->c->id = virtq_load(r->driver, VIRTQ_AVAIL_RING(r->avail_next % r->num));
	w->c->slots = 1;
	*why = virtq_split_walk(w, r->desc, r->num, w->c->id);
	if (*why != NULL)
		return -1;
	r->avail_next++;
	return 1;
}

void
virtq_split_unpop(struct virtq *q, const struct virtq_chain *c)
{
	q->ring.avail_next--;
}

void
virtq_split_fill(struct virtq *q, const struct virtq_chain *c, uint32_t written)
{
	struct virtq_ring *r = &q->ring;
	size_t off = VIRTQ_USED_RING(r->used_next % r->num);
	const struct virtq_used e = { c->id, written };
	struct vm *vm = q->vd->vm;
	char *at = (char *)r->device + off;

	__builtin_memcpy(at, &e, sizeof(e));
	vm_mem_written(vm, vm_mem_gpa(vm, at), sizeof(e));
	r->used_next++;
	r->filled++;
}

void
virtq_split_publish(struct virtq *q)
{
	virtq_store(q, q->ring.device, VIRTQ_USED_IDX, q->ring.used_next);
}

bool
virtq_split_wants_interrupt(struct virtq *q)
{
	const struct virtq_ring *r = &q->ring;
	uint16_t event, first = (uint16_t)(r->published - r->unsignalled);

	if (!virtio_has(q->vd, VIRTIO_F_RING_EVENT_IDX))
		return !(virtq_load(r->driver, VIRTQ_AVAIL_FLAGS) & VIRTQ_AVAIL_NO_INTERRUPT);
	/* used_event (2.7.7): the index of the entry that the driver waits for. */
	event = virtq_load(r->driver, VIRTQ_AVAIL_RING(r->num));
	return (uint16_t)(event - first) < r->unsignalled;
}

void
virtq_split_arm(struct virtq *q, bool on)
{
	struct virtq_ring *r = &q->ring;

	if (!virtio_has(q->vd, VIRTIO_F_RING_EVENT_IDX))
		virtq_store(q, r->device, VIRTQ_USED_FLAGS, on ? 0 : VIRTQ_USED_NO_NOTIFY);
	else if (on) /* avail_event (2.7.10); behind it, the driver does not notify */
		virtq_store(q, r->device, VIRTQ_USED_RING(r->num), r->avail_next);
}

bool
virtq_split_has_more(struct virtq *q)
{
	return virtq_load(q->ring.driver, VIRTQ_AVAIL_IDX) != q->ring.avail_next;
}
