/*
 * Saving and loading a device: its registers, and how far each ring was. Chains are never saved:
 * before, the model has pushed all that were out.
 */
#include "virtio/virtio_private.h"

#include "vm/state.h"

#include <errno.h>

static void
virtio_state_ring(struct vm_state *s, struct virtq_ring *r)
{
	vm_state_bool(s, &r->packed);
	vm_state_u16(s, &r->avail_next);
	vm_state_u16(s, &r->used_next);
	vm_state_bool(s, &r->avail_wrap);
	vm_state_bool(s, &r->used_wrap);
	vm_state_u32(s, &r->unsignalled);
}

/* Makes an enabled queue of what was loaded. */
static void
virtio_state_restart(struct vm_state *s, struct virtq *q, const struct virtq_ring *saved)
{
	struct virtq_ring *r = &q->ring;

	if (virtq_ring_map(q, saved->packed) != 0 ||
	    (r->packed && (saved->avail_next >= r->num || saved->used_next >= r->num))) {
		virtq_stop(q);
		vm_state_reject(s, "a queue's ring");
		return;
	}
	r->avail_next = saved->avail_next;
	r->used_next = r->published = saved->used_next;
	r->avail_wrap = saved->avail_wrap;
	r->used_wrap = r->published_wrap = saved->used_wrap;
	r->unsignalled = saved->unsignalled;
}

static void
virtio_state_queue(struct vm_state *s, struct virtq *q)
{
	bool loading = vm_state_loading(s), enabled = q->enabled;
	struct virtq_ring ring = q->ring;
	uint16_t vector = atomic_load(&q->vector);

	vm_state_u16(s, &q->size);
	vm_state_u64(s, &q->desc);
	vm_state_u64(s, &q->driver);
	vm_state_u64(s, &q->device);
	vm_state_u16(s, &vector);
	vm_state_bool(s, &enabled);
	virtio_state_ring(s, &ring);
	if (!loading || vm_state_error(s) != 0)
		return;
	virtio_vector_set(q->vd, &q->vector, vector);
	virtq_stop(q);
	if (enabled)
		virtio_state_restart(s, q, &ring);
}

static int
virtio_state(struct virtio_dev *vd, struct vm_state *s)
{
	uint64_t features = atomic_load(&vd->features);
	uint16_t vector = atomic_load(&vd->config_vector);
	uint8_t status = atomic_load(&vd->status);
	bool legacy = atomic_load(&vd->legacy);
	uint32_t queues = vd->queues;

	vm_state_section(s, "virtio", pci_devfn(vd->pci), 1);
	vm_state_u32(s, &queues);
	vm_state_u8(s, &status);
	vm_state_u64(s, &features);
	vm_state_bool(s, &legacy);
	vm_state_u32(s, &vd->device_feature_select);
	vm_state_u32(s, &vd->driver_feature_select);
	vm_state_u64(s, &vd->driver_features);
	vm_state_u16(s, &vd->queue_select);
	vm_state_u16(s, &vector);
	vm_state_u8(s, &vd->isr);
	vm_state_u8(s, &vd->generation);
	if (queues != vd->queues || (features & ~(vd->offered | BIT64(VIRTIO_F_ANY_LAYOUT))) != 0)
		vm_state_reject(s, "another number of queues, or features that are not offered");
	if (vm_state_error(s) == 0) {
		atomic_store(&vd->features, features);
		atomic_store(&vd->status, status);
		atomic_store(&vd->legacy, legacy);
		virtio_vector_set(vd, &vd->config_vector, vector);
	}
	for (unsigned i = 0; i < vd->queues && vm_state_error(s) == 0; i++)
		virtio_state_queue(s, &vd->queue[i]);
	return vm_state_end(s);
}

int
virtio_pci_state(struct pci_dev *dev, struct vm_state *s)
{
	struct virtio_dev *vd = pci_priv(dev);
	int err;

	if (!vm_state_loading(s) && vd->ops->quiesce != NULL)
		vd->ops->quiesce(vd);
	(void)virtio_status_read(vd);
	err = virtio_state(vd, s);
	if (err == 0 && vd->ops->state != NULL)
		err = vd->ops->state(vd, s);
	return err;
}
