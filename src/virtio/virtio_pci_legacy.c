/*
 * The legacy interface (VIRTIO 1.2, 4.1.4.10 and the sections "Legacy Interface"): drivers of
 * before VIRTIO 1.0, which know registers in an I/O BAR and rings whose place is one page number.
 */
#include "virtio/virtio_pci.h"

/* Registers, each of the size up to the next (4.1.4.10) */
#define VIRTIO_LEGACY_DEVICE_FEATURES 0
#define VIRTIO_LEGACY_DRIVER_FEATURES 4
#define VIRTIO_LEGACY_QUEUE_PFN 8
#define VIRTIO_LEGACY_QUEUE_SIZE 12
#define VIRTIO_LEGACY_QUEUE_SELECT 14
/* VIRTIO_LEGACY_NOTIFY is 16 */
#define VIRTIO_LEGACY_STATUS 18
#define VIRTIO_LEGACY_ISR 19
#define VIRTIO_LEGACY_CONFIG_VECTOR 20 /* the vectors are there while MSI-X is enabled */
#define VIRTIO_LEGACY_QUEUE_VECTOR 22
#define VIRTIO_LEGACY_NO_MSIX_SIZE 20

#define VIRTIO_LEGACY_PAGE_SHIFT 12 /* of a queue's page number, and the used ring's alignment */

/* Where the device's configuration begins: behind the vectors, where those are. */
static uint64_t
virtio_legacy_config(struct virtio_dev *vd)
{
	return pci_irq_kind(vd->pci) == PCI_IRQ_MSIX ? VIRTIO_LEGACY_SIZE :
						       VIRTIO_LEGACY_NO_MSIX_SIZE;
}

/* Places the rings as 2.7.2 says. 0: the queue is not used any more. */
static void
virtio_legacy_queue_place(struct virtq *q, uint32_t pfn)
{
	const uint64_t page = BIT64(VIRTIO_LEGACY_PAGE_SHIFT);

	/* The registers of the modern interface are the ones to use when features were agreed on
	 * through it. */
	if (virtio_has(q->vd, VIRTIO_F_VERSION_1))
		return;
	atomic_store(&q->vd->legacy, true);
	if (pfn == 0) {
		virtq_stop(q);
		q->desc = 0;
		return;
	}
	if (q->enabled)
		return;
	q->desc = (uint64_t)pfn << VIRTIO_LEGACY_PAGE_SHIFT;
	q->driver = q->desc + sizeof(struct virtq_desc) * q->max;
	q->device = ALIGN_UP(q->driver + 6 + 2 * (uint64_t)q->max, page);
	q->size = q->max;
	virtio_queue_enable(q);
}

static uint32_t
virtio_legacy_pfn(const struct virtq *q)
{
	return q->enabled ? (uint32_t)(q->desc >> VIRTIO_LEGACY_PAGE_SHIFT) : 0;
}

static uint64_t
virtio_legacy_register(struct virtio_dev *vd, uint64_t off)
{
	struct virtq *q = virtio_queue_selected(vd);

	switch (off) {
	case VIRTIO_LEGACY_DEVICE_FEATURES: return virtio_legacy_features(vd);
	case VIRTIO_LEGACY_DRIVER_FEATURES: return (uint32_t)atomic_load(&vd->features);
	case VIRTIO_LEGACY_QUEUE_PFN: return q != NULL ? virtio_legacy_pfn(q) : 0;
	case VIRTIO_LEGACY_QUEUE_SIZE: return q != NULL ? q->max : 0;
	case VIRTIO_LEGACY_QUEUE_SELECT: return vd->queue_select;
	case VIRTIO_LEGACY_STATUS: return virtio_status_read(vd);
	case VIRTIO_LEGACY_ISR: return virtio_isr_read(vd);
	case VIRTIO_LEGACY_CONFIG_VECTOR: return atomic_load(&vd->config_vector);
	case VIRTIO_LEGACY_QUEUE_VECTOR:
		return q != NULL ? atomic_load(&q->vector) : VIRTIO_NO_VECTOR;
	}
	return 0;
}

uint64_t
virtio_legacy_read(struct virtio_dev *vd, uint64_t off, int size)
{
	uint64_t config = virtio_legacy_config(vd);

	if (off >= config)
		return virtio_config_read(vd, off - config, size);
	return virtio_legacy_register(vd, off);
}

static void
virtio_legacy_write_status(struct virtio_dev *vd, uint8_t val)
{
	if (val != 0 && !(atomic_load(&vd->status) & VIRTIO_STATUS_FEATURES_OK))
		atomic_store(&vd->legacy, true);
	virtio_status_write(vd, val);
	/* The driver takes the device for reset with the next access. */
	if (val == 0)
		virtio_reset_wait(vd);
}

static void
virtio_legacy_write_features(struct virtio_dev *vd, uint32_t val)
{
	if (virtio_has(vd, VIRTIO_F_VERSION_1))
		return;
	/* There is no way to refuse (2.2.3): what was not offered is dropped. */
	atomic_store(&vd->features, val & virtio_legacy_features(vd));
	atomic_store(&vd->legacy, true);
}

void
virtio_legacy_write(struct virtio_dev *vd, uint64_t off, int size, uint64_t val)
{
	uint64_t config = virtio_legacy_config(vd);
	struct virtq *q = virtio_queue_selected(vd);

	if (off >= config)
		virtio_config_write(vd, off - config, size, val);
	else if (off == VIRTIO_LEGACY_DRIVER_FEATURES && size == 4)
		virtio_legacy_write_features(vd, (uint32_t)val);
	else if (off == VIRTIO_LEGACY_QUEUE_PFN && size == 4 && q != NULL)
		virtio_legacy_queue_place(q, (uint32_t)val);
	else if (off == VIRTIO_LEGACY_QUEUE_SELECT && size == 2)
		vd->queue_select = (uint16_t)val;
	else if (off == VIRTIO_LEGACY_NOTIFY && size == 2)
		virtio_queue_notify(vd, (uint16_t)val);
	else if (off == VIRTIO_LEGACY_STATUS && size == 1)
		virtio_legacy_write_status(vd, (uint8_t)val);
	else if (off == VIRTIO_LEGACY_CONFIG_VECTOR && size == 2)
		virtio_vector_set(vd, &vd->config_vector, (uint16_t)val);
	else if (off == VIRTIO_LEGACY_QUEUE_VECTOR && size == 2 && q != NULL)
		virtio_vector_set(vd, &q->vector, (uint16_t)val);
}
