/*
 * The PCI transport (VIRTIO 1.2, 4.1): what makes a function of the bus a VIRTIO device.
 *
 * A device is transitional unless "modern" is set: it has the modern interface, and the legacy one
 * of drivers of before VIRTIO 1.0 (FreeBSD up to 12, Linux up to 3.x, boot loaders, old Windows
 * drivers), under the device ID that those know. Current drivers of Linux, the BSDs and Windows
 * know that ID too and take the modern interface. The price is an I/O BAR.
 */
#include "virtio/virtio_pci.h"

#include "base/config.h"
#include "base/log.h"
#include "vm/vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VIRTIO_PCI_VENDOR 0x1af4
#define VIRTIO_PCI_DEVICE_MODERN 0x1040 /* plus the device's ID (4.1.2) */

/* Capabilities (4.1.4) */
#define VIRTIO_PCI_CAP_ID 0x09
#define VIRTIO_PCI_CAP_LEN 2
#define VIRTIO_PCI_CAP_TYPE 3
#define VIRTIO_PCI_CAP_BAR 4
#define VIRTIO_PCI_CAP_OFFSET 8
#define VIRTIO_PCI_CAP_LENGTH 12
#define VIRTIO_PCI_CAP_SIZE 16
#define VIRTIO_PCI_CAP_EXTRA 16 /* notifications: the step; configuration access: the data */
#define VIRTIO_PCI_CAP_COMMON 1
#define VIRTIO_PCI_CAP_NOTIFY 2
#define VIRTIO_PCI_CAP_ISR 3
#define VIRTIO_PCI_CAP_DEVICE 4
#define VIRTIO_PCI_CAP_PCI_CFG 5

/* PCI device IDs of transitional devices (4.1.2.1); others have none. */
static const struct {
	uint16_t id, device;
} virtio_pci_transitional[] = {
	{ 1, 0x1000 }, /* network */
	{ 2, 0x1001 }, /* block */
	{ 5, 0x1002 }, /* memory balloon */
	{ 3, 0x1003 }, /* console */
	{ 8, 0x1004 }, /* SCSI host */
	{ 4, 0x1005 }, /* entropy */
	{ 9, 0x1009 }, /* 9P */
};

/* 0: there is none. */
static uint16_t
virtio_pci_transitional_id(uint16_t id)
{
	for (size_t i = 0; i < ARRAY_SIZE(virtio_pci_transitional); i++) {
		if (virtio_pci_transitional[i].id == id)
			return virtio_pci_transitional[i].device;
	}
	return 0;
}

static void
virtio_pci_id_set(struct virtio_dev *vd)
{
	uint16_t old = virtio_pci_transitional_id(vd->ops->id);
	struct pci_id id = {
		.vendor = VIRTIO_PCI_VENDOR,
		.device = VIRTIO_PCI_DEVICE_MODERN + vd->ops->id,
		.subvendor = VIRTIO_PCI_VENDOR,
		.subdevice = VIRTIO_PCI_DEVICE_MODERN + vd->ops->id,
		.class = vd->ops->class,
		.subclass = vd->ops->subclass,
		.revision = 1,
	};

	if (vd->transitional) {
		id.device = old;
		id.subdevice = vd->ops->id;
		id.revision = 0;
	}
	pci_id_set(vd->pci, &id);
}

static unsigned
virtio_pci_cap_add(struct virtio_dev *vd, uint8_t type, uint32_t off, uint32_t len, unsigned extra)
{
	unsigned size = VIRTIO_PCI_CAP_SIZE + extra;
	unsigned at = pci_cap_add(vd->pci, VIRTIO_PCI_CAP_ID, size);

	pci_cfg_set(vd->pci, at + VIRTIO_PCI_CAP_LEN, 1, size);
	pci_cfg_set(vd->pci, at + VIRTIO_PCI_CAP_TYPE, 1, type);
	pci_cfg_set(vd->pci, at + VIRTIO_PCI_CAP_BAR, 1, VIRTIO_PCI_BAR_MODERN);
	pci_cfg_set(vd->pci, at + VIRTIO_PCI_CAP_OFFSET, 4, off);
	pci_cfg_set(vd->pci, at + VIRTIO_PCI_CAP_LENGTH, 4, len);
	return at;
}

static void
virtio_pci_caps_add(struct virtio_dev *vd)
{
	unsigned at;

	virtio_pci_cap_add(vd, VIRTIO_PCI_CAP_COMMON, VIRTIO_PCI_COMMON, VIRTIO_PCI_PAGE, 0);
	virtio_pci_cap_add(vd, VIRTIO_PCI_CAP_ISR, VIRTIO_PCI_ISR, VIRTIO_PCI_PAGE, 0);
	if (vd->config_size != 0)
		virtio_pci_cap_add(vd, VIRTIO_PCI_CAP_DEVICE, VIRTIO_PCI_DEVICE, VIRTIO_PCI_PAGE,
		    0);
	at = virtio_pci_cap_add(vd, VIRTIO_PCI_CAP_NOTIFY, VIRTIO_PCI_NOTIFY, VIRTIO_PCI_PAGE, 4);
	pci_cfg_set(vd->pci, at + VIRTIO_PCI_CAP_EXTRA, 4, VIRTIO_PCI_NOTIFY_STEP);
	at = virtio_pci_cap_add(vd, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 4);
	pci_cfg_writable(vd->pci, at + VIRTIO_PCI_CAP_BAR, 1, UINT8_MAX);
	pci_cfg_writable(vd->pci, at + VIRTIO_PCI_CAP_OFFSET, 4, UINT32_MAX);
	pci_cfg_writable(vd->pci, at + VIRTIO_PCI_CAP_LENGTH, 4, UINT32_MAX);
	vd->cfg_cap = at;
}

/* --- Doorbells --- */

static void
virtio_pci_doorbell(void *ctx, uint64_t val)
{
	struct virtq *q = ctx;

	q->vd->ops->notify(q);
}

static void
virtio_pci_doorbell_legacy(void *ctx, uint64_t val)
{
	virtio_queue_notify(ctx, (unsigned)val);
}

static int
virtio_pci_doorbells_add(struct virtio_dev *vd)
{
	int err = 0;

	for (unsigned i = 0; err == 0 && i < vd->queues; i++)
		err = pci_doorbell_add(vd->pci, VIRTIO_PCI_BAR_MODERN,
		    VIRTIO_PCI_NOTIFY + i * VIRTIO_PCI_NOTIFY_STEP, 2, virtio_pci_doorbell,
		    &vd->queue[i]);
	if (err == 0 && vd->transitional)
		err = pci_doorbell_add(vd->pci, VIRTIO_PCI_BAR_LEGACY, VIRTIO_LEGACY_NOTIFY, 2,
		    virtio_pci_doorbell_legacy, vd);
	return err;
}

/* --- Making a device --- */

static void
virtio_pci_function_add(struct virtio_dev *vd)
{
	const struct config *root = vm_config(vd->vm);
	uint64_t io = 32;

	virtio_pci_id_set(vd);
	if (vd->transitional) {
		while (io < VIRTIO_LEGACY_SIZE + vd->config_size)
			io *= 2;
		pci_bar_add(vd->pci, VIRTIO_PCI_BAR_LEGACY, PCI_BAR_IO, io, false);
	}
	if (root == NULL || config_get_bool_default(root, "virtio_msix", true)) {
		vd->vectors = vd->queues + 1;
		pci_msix_add(vd->pci, VIRTIO_PCI_BAR_MSIX, (int)vd->vectors);
	} else {
		pci_msi_add(vd->pci, 1);
	}
	pci_bar_add(vd->pci, VIRTIO_PCI_BAR_MODERN, PCI_BAR_MEM64, VIRTIO_PCI_MODERN_SIZE, false);
	pci_intx_add(vd->pci);
	pci_express_add(vd->pci);
	virtio_pci_caps_add(vd);
}

static int
virtio_option_bool(const struct config *cfg, const char *who, const char *name, bool *out)
{
	int err = config_get_bool(cfg, name, out);

	if (err == 0 || err == -ENOENT)
		return 0;
	log_error(who, "%s '%.32s': expected true or false", name, config_get(cfg, name));
	return -EINVAL;
}

static int
virtio_options_read(struct virtio_dev *vd, const struct config *cfg)
{
	bool modern = virtio_pci_transitional_id(vd->ops->id) == 0, packed = false;
	const char *who = pci_name(vd->pci);

	if (virtio_option_bool(cfg, who, "modern", &modern) != 0 ||
	    virtio_option_bool(cfg, who, "packed", &packed) != 0)
		return -EINVAL;
	if (!modern && virtio_pci_transitional_id(vd->ops->id) == 0) {
		log_error(who, "modern: there is no other interface of a %s", vd->ops->name);
		return -EINVAL;
	}
	vd->transitional = !modern;
	vd->offered |= BIT64(VIRTIO_F_RING_INDIRECT_DESC) | BIT64(VIRTIO_F_RING_EVENT_IDX) |
	    BIT64(VIRTIO_F_VERSION_1) | BIT64(VIRTIO_F_RING_RESET);
	if (packed)
		vd->offered |= BIT64(VIRTIO_F_RING_PACKED);
	return 0;
}

static void
virtio_locks_init(struct virtio_dev *vd)
{
	pthread_condattr_t monotonic;

	pthread_mutex_init(&vd->config_lock, NULL);
	pthread_mutex_init(&vd->isr_lock, NULL);
	pthread_mutex_init(&vd->idle_lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&vd->idle, &monotonic);
	pthread_condattr_destroy(&monotonic);
}

static struct virtio_dev *
virtio_alloc(struct pci_dev *dev, const struct virtio_params *params)
{
	struct virtio_dev *vd = calloc(1, sizeof(*vd));

	if (vd == NULL)
		return NULL;
	vd->queue = calloc(params->queues, sizeof(*vd->queue));
	if (vd->queue == NULL) {
		free(vd);
		return NULL;
	}
	vd->pci = dev;
	vd->vm = pci_vm(dev);
	vd->ops = params->ops;
	vd->priv = params->priv;
	vd->offered = params->features;
	vd->queues = params->queues;
	vd->config_size = params->config_size;
	if (params->config != NULL)
		memcpy(vd->config, params->config, params->config_size);
	atomic_store(&vd->config_vector, VIRTIO_NO_VECTOR);
	virtio_locks_init(vd);
	for (unsigned i = 0; i < vd->queues; i++) {
		struct virtq *q = &vd->queue[i];

		*q = (struct virtq){ .vd = vd, .index = i, .vector = VIRTIO_NO_VECTOR };
		pthread_mutex_init(&q->lock, NULL);
		virtio_queue_size_set(vd, i, params->queue_size);
	}
	return vd;
}

int
virtio_create(struct pci_dev *dev, const struct config *cfg, const struct virtio_params *params,
    struct virtio_dev **out)
{
	struct virtio_dev *vd;
	int err;

	assert(params->queues >= 1 && params->queues <= VIRTIO_QUEUES_MAX);
	assert(params->config_size <= VIRTIO_CONFIG_MAX);
	vd = virtio_alloc(dev, params);
	if (vd == NULL) {
		log_error(pci_name(dev), "out of memory");
		return -ENOMEM;
	}
	err = virtio_options_read(vd, cfg);
	if (err != 0)
		goto destroy;
	virtio_pci_function_add(vd);
	err = virtio_pci_doorbells_add(vd);
	if (err != 0) {
		log_error(pci_name(dev), "out of memory");
		goto destroy;
	}
	pci_priv_set(dev, vd);
	*out = vd;
	return 0;
destroy:
	virtio_destroy(vd);
	return err;
}

void
virtio_destroy(struct virtio_dev *vd)
{
	if (vd == NULL)
		return;
	for (unsigned i = 0; i < vd->queues; i++)
		pthread_mutex_destroy(&vd->queue[i].lock);
	pthread_cond_destroy(&vd->idle);
	pthread_mutex_destroy(&vd->idle_lock);
	pthread_mutex_destroy(&vd->isr_lock);
	pthread_mutex_destroy(&vd->config_lock);
	free(vd->queue);
	free(vd);
}

void
virtio_queue_size_set(struct virtio_dev *vd, unsigned queue, uint16_t size)
{
	assert(size != 0 && (size & (size - 1)) == 0 && size <= VIRTIO_QUEUE_SIZE_MAX);
	vd->queue[queue].max = size;
	vd->queue[queue].size = size;
}

/* --- Accesses --- */

static uint64_t
virtio_pci_modern_read(struct virtio_dev *vd, uint64_t off, int size)
{
	switch (ALIGN_DOWN(off, (uint64_t)VIRTIO_PCI_PAGE)) {
	case VIRTIO_PCI_COMMON: return virtio_common_read(vd, off - VIRTIO_PCI_COMMON, size);
	case VIRTIO_PCI_ISR: return off == VIRTIO_PCI_ISR ? virtio_isr_read(vd) : 0;
	case VIRTIO_PCI_DEVICE: return virtio_config_read(vd, off - VIRTIO_PCI_DEVICE, size);
	}
	return 0;
}

static void
virtio_pci_modern_write(struct virtio_dev *vd, uint64_t off, int size, uint64_t val)
{
	switch (ALIGN_DOWN(off, (uint64_t)VIRTIO_PCI_PAGE)) {
	case VIRTIO_PCI_COMMON: virtio_common_write(vd, off - VIRTIO_PCI_COMMON, size, val); break;
	case VIRTIO_PCI_DEVICE: virtio_config_write(vd, off - VIRTIO_PCI_DEVICE, size, val); break;
	case VIRTIO_PCI_NOTIFY: /* where the bus has no doorbell, or in another size */
		virtio_queue_notify(vd,
		    (unsigned)(off - VIRTIO_PCI_NOTIFY) / VIRTIO_PCI_NOTIFY_STEP);
		break;
	}
}

uint64_t
virtio_pci_bar_read(struct pci_dev *dev, int bar, uint64_t off, int size)
{
	struct virtio_dev *vd = pci_priv(dev);

	return bar == VIRTIO_PCI_BAR_LEGACY ? virtio_legacy_read(vd, off, size) :
					      virtio_pci_modern_read(vd, off, size);
}

void
virtio_pci_bar_write(struct pci_dev *dev, int bar, uint64_t off, int size, uint64_t val)
{
	struct virtio_dev *vd = pci_priv(dev);

	if (bar == VIRTIO_PCI_BAR_LEGACY)
		virtio_legacy_write(vd, off, size, val);
	else
		virtio_pci_modern_write(vd, off, size, val);
}

/* The access that the configuration access capability describes (4.1.4.9), to the modern interface's
 * BAR: firmware without mapped BARs uses it. False when it describes none. */
static bool
virtio_pci_window(struct virtio_dev *vd, uint32_t *off, int *len)
{
	*off = pci_cfg_get(vd->pci, vd->cfg_cap + VIRTIO_PCI_CAP_OFFSET, 4);
	*len = (int)pci_cfg_get(vd->pci, vd->cfg_cap + VIRTIO_PCI_CAP_LENGTH, 4);
	return pci_cfg_get(vd->pci, vd->cfg_cap + VIRTIO_PCI_CAP_BAR, 1) ==
	    VIRTIO_PCI_BAR_MODERN &&
	    (*len == 1 || *len == 2 || *len == 4) && *off % (uint32_t)*len == 0 &&
	    *off < VIRTIO_PCI_MODERN_SIZE;
}

bool
virtio_pci_cfg_read(struct pci_dev *dev, unsigned off, int size, uint32_t *val)
{
	struct virtio_dev *vd = pci_priv(dev);
	uint32_t at;
	int len;

	if (off != vd->cfg_cap + VIRTIO_PCI_CAP_EXTRA || !virtio_pci_window(vd, &at, &len))
		return false;
	*val = (uint32_t)virtio_pci_modern_read(vd, at, MIN(len, size));
	return true;
}

bool
virtio_pci_cfg_write(struct pci_dev *dev, unsigned off, int size, uint32_t val)
{
	struct virtio_dev *vd = pci_priv(dev);
	uint32_t at;
	int len;

	if (off != vd->cfg_cap + VIRTIO_PCI_CAP_EXTRA || !virtio_pci_window(vd, &at, &len))
		return false;
	virtio_pci_modern_write(vd, at, MIN(len, size), val);
	return true;
}

void
virtio_pci_reset(struct pci_dev *dev)
{
	struct virtio_dev *vd = pci_priv(dev);

	virtio_reset(vd);
	/* After a function-level reset nothing may reach the guest any more (PCIe 3.0, 6.6.2). */
	virtio_reset_wait(vd);
}
