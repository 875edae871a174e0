/*
 * The device, whichever interface the driver uses: features, device status, configuration,
 * interrupts, reset (VIRTIO 1.2, chapter 2 and 3).
 */
#include "virtio/virtio_private.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A driver of the legacy interface does not wait for the end of a reset, so we do; not for ever,
 * because a host's storage may hang. */
#define VIRTIO_RESET_WAIT_S 10

void *
virtio_priv(const struct virtio_dev *vd)
{
	return vd->priv;
}

struct pci_dev *
virtio_pci_dev(const struct virtio_dev *vd)
{
	return vd->pci;
}

const char *
virtio_name(const struct virtio_dev *vd)
{
	return pci_name(vd->pci);
}

struct vm *
virtio_vm(const struct virtio_dev *vd)
{
	return vd->vm;
}

struct virtq *
virtio_queue(const struct virtio_dev *vd, unsigned n)
{
	assert(n < vd->queues);
	return &vd->queue[n];
}

bool
virtio_has(const struct virtio_dev *vd, unsigned feature)
{
	return atomic_load_explicit(&vd->features, memory_order_relaxed) & BIT64(feature);
}

bool
virtio_is_running(const struct virtio_dev *vd)
{
	const uint8_t bits = VIRTIO_STATUS_DRIVER_OK | VIRTIO_STATUS_NEEDS_RESET |
	    VIRTIO_STATUS_FAILED;

	return (atomic_load(&vd->status) & bits) == VIRTIO_STATUS_DRIVER_OK;
}

/* --- Interrupts --- */

void
virtio_interrupt(struct virtio_dev *vd, uint16_t vector, uint8_t isr)
{
	enum pci_irq_kind kind = pci_irq_kind(vd->pci);

	if (kind == PCI_IRQ_MSIX) {
		if (vector != VIRTIO_NO_VECTOR)
			pci_msix_send(vd->pci, vector);
		return;
	}
	pthread_mutex_lock(&vd->isr_lock);
	vd->isr |= isr;
	pci_intx_set(vd->pci, true);
	pthread_mutex_unlock(&vd->isr_lock);
	if (kind == PCI_IRQ_MSI)
		pci_msi_send(vd->pci, 0);
}

uint8_t
virtio_isr_read(struct virtio_dev *vd)
{
	uint8_t isr;

	pthread_mutex_lock(&vd->isr_lock);
	isr = vd->isr;
	vd->isr = 0;
	pci_intx_set(vd->pci, false);
	pthread_mutex_unlock(&vd->isr_lock);
	return isr;
}

void
virtio_vector_set(struct virtio_dev *vd, _Atomic uint16_t *vector, uint16_t val)
{
	/* What cannot be had reads back as no vector (4.1.5.1.2.1). */
	atomic_store(vector, val < vd->vectors ? val : VIRTIO_NO_VECTOR);
}

/* --- Configuration --- */

void
virtio_config_set(struct virtio_dev *vd, size_t off, const void *data, size_t len, bool notify)
{
	assert(off <= vd->config_size && len <= vd->config_size - off);
	pthread_mutex_lock(&vd->config_lock);
	memcpy(vd->config + off, data, len);
	vd->generation++;
	pthread_mutex_unlock(&vd->config_lock);
	if (notify && virtio_is_running(vd))
		virtio_interrupt(vd, atomic_load(&vd->config_vector), VIRTIO_ISR_CONFIG);
}

void
virtio_config_get(struct virtio_dev *vd, size_t off, void *data, size_t len)
{
	assert(off <= vd->config_size && len <= vd->config_size - off);
	pthread_mutex_lock(&vd->config_lock);
	memcpy(data, vd->config + off, len);
	pthread_mutex_unlock(&vd->config_lock);
}

uint8_t
virtio_generation(struct virtio_dev *vd)
{
	uint8_t generation;

	pthread_mutex_lock(&vd->config_lock);
	generation = vd->generation;
	pthread_mutex_unlock(&vd->config_lock);
	return generation;
}

uint64_t
virtio_config_read(struct virtio_dev *vd, uint64_t off, int size)
{
	uint64_t val = 0;

	if (off < vd->config_size)
		virtio_config_get(vd, off, &val, MIN((size_t)size, vd->config_size - off));
	return val;
}

void
virtio_config_write(struct virtio_dev *vd, uint64_t off, int size, uint64_t val)
{
	if (off < vd->config_size && (size_t)size <= vd->config_size - off &&
	    vd->ops->config_write != NULL)
		vd->ops->config_write(vd, off, size, val);
}

/* --- Broken by the driver --- */

uint8_t
virtio_broken_set(struct virtio_dev *vd)
{
	return atomic_fetch_or(&vd->status, VIRTIO_STATUS_NEEDS_RESET);
}

void
virtio_broken_tell(struct virtio_dev *vd, uint8_t old, const char *what)
{
	log_guest(virtio_name(vd), "needs a reset: %s", what);
	if ((old & VIRTIO_STATUS_DRIVER_OK) && !(old & VIRTIO_STATUS_NEEDS_RESET))
		virtio_interrupt(vd, atomic_load(&vd->config_vector), VIRTIO_ISR_CONFIG);
}

void
virtio_broken(struct virtio_dev *vd, const char *what)
{
	virtio_broken_tell(vd, virtio_broken_set(vd), what);
}

/* --- Reset --- */

static bool
virtio_is_idle(const struct virtio_dev *vd)
{
	for (unsigned i = 0; i < vd->queues; i++) {
		if (atomic_load(&vd->queue[i].out) != 0)
			return false;
	}
	return true;
}

/* A queue's registers as they are after a reset. */
static void
virtio_queue_clear(struct virtq *q)
{
	virtq_stop(q);
	q->size = q->max;
	q->desc = q->driver = q->device = 0;
	atomic_store(&q->vector, VIRTIO_NO_VECTOR);
}

void
virtio_reset(struct virtio_dev *vd)
{
	uint8_t status = atomic_load(&vd->status);

	for (unsigned i = 0; i < vd->queues; i++) {
		virtio_queue_clear(&vd->queue[i]);
		vd->queue[i].resetting = false;
	}
	/* Until it is over the driver must not read 0 (4.1.4.3.1). */
	atomic_store(&vd->status,
	    (status & ~VIRTIO_STATUS_DRIVER_OK) | VIRTIO_STATUS_ACKNOWLEDGE);
	vd->resetting = true;
	atomic_store(&vd->features, 0);
	atomic_store(&vd->legacy, false);
	atomic_store(&vd->config_vector, VIRTIO_NO_VECTOR);
	vd->driver_features = 0;
	vd->device_feature_select = vd->driver_feature_select = 0;
	vd->queue_select = 0;
	(void)virtio_isr_read(vd);
	if (vd->ops->reset != NULL)
		vd->ops->reset(vd);
	(void)virtio_status_read(vd);
}

uint8_t
virtio_status_read(struct virtio_dev *vd)
{
	if (vd->resetting && virtio_is_idle(vd)) {
		vd->resetting = false;
		atomic_store(&vd->status, 0);
	}
	return atomic_load(&vd->status);
}

void
virtio_reset_wait(struct virtio_dev *vd)
{
	struct timespec end;
	int err = 0;

	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_sec += VIRTIO_RESET_WAIT_S;
	pthread_mutex_lock(&vd->idle_lock);
	while (!virtio_is_idle(vd) && err == 0)
		err = pthread_cond_timedwait(&vd->idle, &vd->idle_lock, &end);
	pthread_mutex_unlock(&vd->idle_lock);
	if (err != 0)
		log_guest(virtio_name(vd), "the host takes long to end what was in flight at a "
		    "reset");
	(void)virtio_status_read(vd);
}

/* --- Features and device status --- */

bool
virtio_features_accept(struct virtio_dev *vd)
{
	uint64_t want = vd->driver_features;

	/* 2.2.1, 6.1: only what was offered, and never without VERSION_1. */
	if ((want & ~vd->offered) != 0 || !(want & BIT64(VIRTIO_F_VERSION_1)))
		return false;
	if (vd->ops->features != NULL && !vd->ops->features(vd, want))
		return false;
	atomic_store(&vd->features, want);
	return true;
}

static void
virtio_start(struct virtio_dev *vd)
{
	if (vd->ops->start != NULL)
		vd->ops->start(vd);
	for (unsigned i = 0; i < vd->queues; i++) {
		if (vd->queue[i].enabled)
			vd->ops->notify(&vd->queue[i]);
	}
}

void
virtio_status_write(struct virtio_dev *vd, uint8_t val)
{
	uint8_t old = virtio_status_read(vd), set = val & VIRTIO_STATUS_DRIVERS & ~old;

	if (val == 0) {
		virtio_reset(vd);
		return;
	}
	if (vd->resetting)
		return;
	if (atomic_load(&vd->legacy)) {
		set &= ~VIRTIO_STATUS_FEATURES_OK;
	} else {
		if ((set & VIRTIO_STATUS_FEATURES_OK) && !virtio_features_accept(vd))
			set &= ~VIRTIO_STATUS_FEATURES_OK;
		/* 3.1.1: nothing starts before features are agreed on. */
		if (!((old | set) & VIRTIO_STATUS_FEATURES_OK))
			set &= ~VIRTIO_STATUS_DRIVER_OK;
	}
	atomic_fetch_or(&vd->status, set);
	if (set & VIRTIO_STATUS_DRIVER_OK)
		virtio_start(vd);
}

/* --- Queues --- */

void
virtio_queue_enable(struct virtq *q)
{
	struct virtio_dev *vd = q->vd;

	/* While chains of the past are out they would come back into the new ring. */
	if (q->enabled || vd->resetting || atomic_load(&q->out) != 0)
		return;
	q->resetting = false;
	if (virtq_ring_map(q, virtio_has(vd, VIRTIO_F_RING_PACKED)) != 0)
		virtio_broken(vd, "a queue's size or addresses cannot be");
}

void
virtio_queue_reset(struct virtq *q)
{
	if (!virtio_has(q->vd, VIRTIO_F_RING_RESET) || !q->enabled)
		return;
	virtio_queue_clear(q);
	q->resetting = true;
	if (q->vd->ops->queue_reset != NULL)
		q->vd->ops->queue_reset(q);
}

bool
virtio_queue_resetting(struct virtq *q)
{
	if (q->resetting && atomic_load(&q->out) == 0)
		q->resetting = false;
	return q->resetting;
}

struct virtq *
virtio_queue_selected(struct virtio_dev *vd)
{
	return vd->queue_select < vd->queues ? &vd->queue[vd->queue_select] : NULL;
}

void
virtio_queue_notify(struct virtio_dev *vd, unsigned n)
{
	if (n < vd->queues)
		vd->ops->notify(&vd->queue[n]);
}
