/*
 * Common configuration structure of the modern interface (VIRTIO 1.2, 4.1.4.3).
 */
#include "virtio/virtio_pci.h"

#include <string.h>

struct virtio_common {
	uint32_t device_feature_select, device_feature;
	uint32_t driver_feature_select, driver_feature;
	uint16_t config_msix_vector, num_queues;
	uint8_t device_status, config_generation;
	/* Of the queue that is selected. */
	uint16_t queue_select, queue_size, queue_msix_vector, queue_enable, queue_notify_off;
	uint64_t queue_desc, queue_driver, queue_device;
	uint16_t queue_notify_data, queue_reset;
};
static_assert(sizeof(struct virtio_common) == 64 &&
	offsetof(struct virtio_common, queue_desc) == 32 &&
	offsetof(struct virtio_common, queue_reset) == 58, "VIRTIO 1.2, 4.1.4.3");
#define VIRTIO_COMMON_SIZE 60 /* without padding */
#define VIRTIO_COMMON(field) offsetof(struct virtio_common, field)

/* A word of a 64-bit set of features; there are no more than two. */
static uint32_t
virtio_features_word(uint64_t features, uint32_t select)
{
	return select < 2 ? (uint32_t)(features >> (32 * select)) : 0;
}

static void
virtio_common_fill_queue(struct virtq *q, struct virtio_common *c)
{
	c->queue_size = q->size;
	c->queue_msix_vector = atomic_load(&q->vector);
	c->queue_enable = q->enabled;
	c->queue_notify_off = (uint16_t)q->index;
	c->queue_desc = q->desc;
	c->queue_driver = q->driver;
	c->queue_device = q->device;
	c->queue_notify_data = (uint16_t)q->index;
	c->queue_reset = virtio_queue_resetting(q);
}

uint64_t
virtio_common_read(struct virtio_dev *vd, uint64_t off, int size)
{
	struct virtq *q = virtio_queue_selected(vd);
	struct virtio_common c = {
		.device_feature_select = vd->device_feature_select,
		.device_feature = virtio_features_word(vd->offered, vd->device_feature_select),
		.driver_feature_select = vd->driver_feature_select,
		.driver_feature =
		    virtio_features_word(vd->driver_features, vd->driver_feature_select),
		.config_msix_vector = atomic_load(&vd->config_vector),
		.num_queues = (uint16_t)vd->queues,
		.device_status = virtio_status_read(vd),
		.config_generation = virtio_generation(vd),
		.queue_select = vd->queue_select,
		.queue_msix_vector = VIRTIO_NO_VECTOR,
	};
	uint64_t val = 0;

	if (off >= VIRTIO_COMMON_SIZE)
		return 0;
	if (q != NULL)
		virtio_common_fill_queue(q, &c);
	memcpy(&val, (const char *)&c + off, MIN((size_t)size, sizeof(c) - off));
	return val;
}

static void
virtio_common_write_features(struct virtio_dev *vd, uint32_t val)
{
	unsigned shift = 32 * vd->driver_feature_select;

	/* What was agreed on stays so (2.2.1). */
	if (vd->driver_feature_select >= 2 ||
	    (atomic_load(&vd->status) & VIRTIO_STATUS_FEATURES_OK))
		return;
	vd->driver_features &= ~((uint64_t)UINT32_MAX << shift);
	vd->driver_features |= (uint64_t)val << shift;
}

static void
virtio_common_write_enable(struct virtq *q, uint64_t val)
{
	if (val == 1 && (atomic_load(&q->vd->status) & VIRTIO_STATUS_FEATURES_OK))
		virtio_queue_enable(q);
}

/* A 64-bit address, whole or one half at a time (4.1.3.1). True when off is in it. */
static bool
virtio_common_write_address(uint64_t *reg, uint64_t field, uint64_t off, int size, uint64_t val)
{
	if (off - field >= 8)
		return false;
	if (size == 8)
		*reg = val;
	else if (size == 4)
		memcpy((char *)reg + (off - field), &val, 4);
	return true;
}

static void
virtio_common_write_queue(struct virtq *q, uint64_t off, int size, uint64_t val)
{
	if (size == 2 && off == VIRTIO_COMMON(queue_msix_vector))
		virtio_vector_set(q->vd, &q->vector, (uint16_t)val);
	else if (size == 2 && off == VIRTIO_COMMON(queue_enable))
		virtio_common_write_enable(q, val);
	else if (size == 2 && off == VIRTIO_COMMON(queue_reset) && val == 1)
		virtio_queue_reset(q);
	if (q->enabled)
		return; /* the rest changes nothing any more (4.1.4.3.2) */
	if (size == 2 && off == VIRTIO_COMMON(queue_size))
		q->size = (uint16_t)val;
	else if (!virtio_common_write_address(&q->desc, VIRTIO_COMMON(queue_desc), off, size,
		val) && !virtio_common_write_address(&q->driver, VIRTIO_COMMON(queue_driver), off,
		size, val))
		(void)virtio_common_write_address(&q->device, VIRTIO_COMMON(queue_device), off,
		    size, val);
}

/* Each field is written whole, in its own size (4.1.3.1); all else is ignored. */
void
virtio_common_write(struct virtio_dev *vd, uint64_t off, int size, uint64_t val)
{
	struct virtq *q = virtio_queue_selected(vd);

	if (size == 4 && off == VIRTIO_COMMON(device_feature_select))
		vd->device_feature_select = (uint32_t)val;
	else if (size == 4 && off == VIRTIO_COMMON(driver_feature_select))
		vd->driver_feature_select = (uint32_t)val;
	else if (size == 4 && off == VIRTIO_COMMON(driver_feature))
		virtio_common_write_features(vd, (uint32_t)val);
	else if (size == 2 && off == VIRTIO_COMMON(config_msix_vector))
		virtio_vector_set(vd, &vd->config_vector, (uint16_t)val);
	else if (size == 1 && off == VIRTIO_COMMON(device_status))
		virtio_status_write(vd, (uint8_t)val);
	else if (size == 2 && off == VIRTIO_COMMON(queue_select))
		vd->queue_select = (uint16_t)val;
	else if (q != NULL)
		virtio_common_write_queue(q, off, size, val);
}
