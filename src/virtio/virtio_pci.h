/*
 * The PCI transport's own parts (VIRTIO 1.2, 4.1). All with the device locked.
 */
#ifndef VIRTIO_VIRTIO_PCI_H
#define VIRTIO_VIRTIO_PCI_H

#include "virtio/virtio_private.h"

/*
 * BARs. 0 is the legacy interface (transitional devices only), 1 has the MSI-X table, 4 the
 * structures of the modern interface, a page each, so that a hypervisor of the guest's could map
 * them one by one.
 */
#define VIRTIO_PCI_BAR_LEGACY 0
#define VIRTIO_PCI_BAR_MSIX 1
#define VIRTIO_PCI_BAR_MODERN 4
#define VIRTIO_PCI_COMMON 0x0000
#define VIRTIO_PCI_ISR 0x1000
#define VIRTIO_PCI_DEVICE 0x2000
#define VIRTIO_PCI_NOTIFY 0x3000
#define VIRTIO_PCI_PAGE 0x1000
#define VIRTIO_PCI_MODERN_SIZE 0x4000

#define VIRTIO_PCI_NOTIFY_STEP 4 /* bytes from one queue's notification address to the next */

/* Common configuration (4.1.4.3), virtio_pci_modern.c */
uint64_t virtio_common_read(struct virtio_dev *vd, uint64_t off, int size);
void virtio_common_write(struct virtio_dev *vd, uint64_t off, int size, uint64_t val);

/* The legacy interface (4.1.4.10), virtio_pci_legacy.c */
#define VIRTIO_LEGACY_NOTIFY 16
#define VIRTIO_LEGACY_SIZE 24 /* without the device's configuration */
uint64_t virtio_legacy_read(struct virtio_dev *vd, uint64_t off, int size);
void virtio_legacy_write(struct virtio_dev *vd, uint64_t off, int size, uint64_t val);

/* The features that a driver of the legacy interface is offered. */
static inline uint32_t
virtio_legacy_features(const struct virtio_dev *vd)
{
	return (uint32_t)vd->offered | BIT(VIRTIO_F_ANY_LAYOUT);
}

#endif
