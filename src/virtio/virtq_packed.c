/*
 * Packed virtqueues (VIRTIO 1.2, 2.8).
 */
#include "virtio/virtio_private.h"

/* A descriptor of the ring (2.8.13) */
#define VIRTQ_PACKED_LEN 8
#define VIRTQ_PACKED_ID 12
#define VIRTQ_PACKED_FLAGS 14
#define VIRTQ_PACKED_AVAIL BIT(7)
#define VIRTQ_PACKED_USED BIT(15)

/* Event suppression, both areas (2.8.14) */
#define VIRTQ_EVENT_OFF_WRAP 0
#define VIRTQ_EVENT_WRAP 15
#define VIRTQ_EVENT_FLAGS 2
#define VIRTQ_EVENT_ENABLE 0
#define VIRTQ_EVENT_DISABLE 1
#define VIRTQ_EVENT_DESC 2 /* at a descriptor; with EVENT_IDX only */
#define VIRTQ_EVENT_FLAGS_MASK 3

static size_t
virtq_packed_slot(uint16_t slot)
{
	return (size_t)slot * sizeof(struct virtq_desc);
}

/* Moves a position by some slots; num at most. */
static void
virtq_packed_advance(const struct virtq_ring *r, uint16_t *slot, bool *wrap, uint32_t by)
{
	uint32_t to = *slot + by;

	if (to >= r->num) {
		to -= r->num;
		*wrap = !*wrap;
	}
	*slot = (uint16_t)to;
}

static void
virtq_packed_retreat(const struct virtq_ring *r, uint16_t *slot, bool *wrap, uint32_t by)
{
	if (by > *slot) {
		*slot = (uint16_t)(*slot + r->num);
		*wrap = !*wrap;
	}
	*slot = (uint16_t)(*slot - by);
}

/* The buffers of an indirect table: all of them, in their order (2.8.7). */
static const char *
virtq_packed_indirect(struct virtq_walk *w, const struct virtq_desc *ring)
{
	const void *table;
	uint32_t entries;
	const char *why = virtq_walk_table(w, ring->addr, ring->len, &table, &entries);

	if (why == NULL && entries > VIRTIO_QUEUE_SIZE_MAX)
		why = "an indirect table is longer than any ring";
	for (uint32_t i = 0; why == NULL && i < entries; i++) {
		struct virtq_desc d = virtq_desc_load(table, i);

		if (d.b & VIRTQ_DESC_INDIRECT)
			why = "an indirect descriptor where none can be";
		else
			why = virtq_walk_add(w, d.addr, d.len, d.b & VIRTQ_DESC_WRITE);
	}
	return why;
}

bool
virtq_packed_has_more(struct virtq *q)
{
	const struct virtq_ring *r = &q->ring;
	uint16_t flags;

	flags = virtq_load(r->desc, virtq_packed_slot(r->avail_next) + VIRTQ_PACKED_FLAGS);
	return !!(flags & VIRTQ_PACKED_AVAIL) == r->avail_wrap &&
	    !!(flags & VIRTQ_PACKED_USED) != r->avail_wrap;
}

int
virtq_packed_pop(struct virtq_walk *w, const char **why)
{
	struct virtq_ring *r = &w->q->ring;
	uint16_t slot = r->avail_next;
	bool wrap = r->avail_wrap;
	struct virtq_desc d;

	if (!virtq_packed_has_more(w->q))
		return 0;
	do {
		if (w->c->slots == r->num) {
			*why = "a chain is longer than the ring";
			return -1;
		}
		d = virtq_desc_load(r->desc, slot);
		if (!(d.b & VIRTQ_DESC_INDIRECT))
			*why = virtq_walk_add(w, d.addr, d.len, d.b & VIRTQ_DESC_WRITE);
		else if (d.b & VIRTQ_DESC_NEXT)
			*why = "an indirect descriptor where none can be";
		else
			*why = virtq_packed_indirect(w, &d);
		if (*why != NULL)
			return -1;
		w->c->id = d.a; /* that of the last one counts (2.8.6) */
		w->c->slots++;
		virtq_packed_advance(r, &slot, &wrap, 1);
	} while (d.b & VIRTQ_DESC_NEXT);
	r->avail_next = slot;
	r->avail_wrap = wrap;
	return 1;
}

void
virtq_packed_unpop(struct virtq *q, const struct virtq_chain *c)
{
	struct virtq_ring *r = &q->ring;

	virtq_packed_retreat(r, &r->avail_next, &r->avail_wrap, c->slots);
}

void
virtq_packed_fill(struct virtq *q, const struct virtq_chain *c, uint32_t written)
{
	struct virtq_ring *r = &q->ring;
	size_t off = virtq_packed_slot(r->used_next);
	uint16_t flags = r->used_wrap ? VIRTQ_PACKED_AVAIL | VIRTQ_PACKED_USED : 0;
	struct vm *vm = q->vd->vm;
	char *at = (char *)r->desc + off;

	if (written != 0)
		flags |= VIRTQ_DESC_WRITE;
	__builtin_memcpy(at + VIRTQ_PACKED_LEN, &written, sizeof(written));
	__builtin_memcpy(at + VIRTQ_PACKED_ID, &c->id, sizeof(c->id));
	vm_mem_written(vm, vm_mem_gpa(vm, at), sizeof(struct virtq_desc));
	/* The first one's flags, which the driver looks at next, are written last. */
	if (r->filled == 0)
		r->first_flags = flags;
	else
		virtq_store(q, r->desc, off + VIRTQ_PACKED_FLAGS, flags);
	virtq_packed_advance(r, &r->used_next, &r->used_wrap, c->slots);
	r->filled = (uint16_t)(r->filled + c->slots);
}

void
virtq_packed_publish(struct virtq *q)
{
	struct virtq_ring *r = &q->ring;

	virtq_store(q, r->desc, virtq_packed_slot(r->published) + VIRTQ_PACKED_FLAGS,
	    r->first_flags);
}

bool
virtq_packed_wants_interrupt(struct virtq *q)
{
	const struct virtq_ring *r = &q->ring;
	uint16_t flags = virtq_load(r->driver, VIRTQ_EVENT_FLAGS) & VIRTQ_EVENT_FLAGS_MASK;
	uint16_t event, slot = r->published;
	bool wrap = r->published_wrap;
	uint32_t ahead;

	if (flags == VIRTQ_EVENT_DISABLE)
		return false;
	if (flags != VIRTQ_EVENT_DESC || r->unsignalled > r->num ||
	    !virtio_has(q->vd, VIRTIO_F_RING_EVENT_IDX))
		return true;
	event = virtq_load(r->driver, VIRTQ_EVENT_OFF_WRAP);
	virtq_packed_retreat(r, &slot, &wrap, r->unsignalled);
	/* How far the slot that the driver waits for is from the first one not told of. */
	ahead = event & (BIT(VIRTQ_EVENT_WRAP) - 1);
	if (!!(event >> VIRTQ_EVENT_WRAP) != wrap)
		ahead += r->num;
	return ahead >= slot && ahead - slot < r->unsignalled;
}

void
virtq_packed_arm(struct virtq *q, bool on)
{
	struct virtq_ring *r = &q->ring;
	uint16_t flags = on ? VIRTQ_EVENT_ENABLE : VIRTQ_EVENT_DISABLE;

	if (on && virtio_has(q->vd, VIRTIO_F_RING_EVENT_IDX)) {
		virtq_store(q, r->device, VIRTQ_EVENT_OFF_WRAP,
		    (uint16_t)(r->avail_next | r->avail_wrap << VIRTQ_EVENT_WRAP));
		flags = VIRTQ_EVENT_DESC;
	}
	virtq_store(q, r->device, VIRTQ_EVENT_FLAGS, flags);
}
