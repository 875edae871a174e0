/*
 * Message signalled interrupts (PCI 3.0, 6.8.1): the capability with 64-bit addresses and
 * per-vector masking.
 */
#include "pci/pci_private.h"

#define PCI_MSI_ID 0x05
#define PCI_MSI_SIZE 0x18
#define PCI_MSI_CONTROL 0x02
#define PCI_MSI_CONTROL_ENABLE BIT(0)
#define PCI_MSI_CONTROL_CAPABLE(log2) ((uint32_t)(log2) << 1) /* vectors the device wants */
#define PCI_MSI_CONTROL_ENABLED(c) BITS(c, 4, 3) /* log2 of the vectors it has got */
#define PCI_MSI_CONTROL_ENABLED_MASK (7u << 4)
#define PCI_MSI_CONTROL_64BIT BIT(7)
#define PCI_MSI_CONTROL_MASKING BIT(8)
#define PCI_MSI_ADDR 0x04
#define PCI_MSI_ADDR_HIGH 0x08
#define PCI_MSI_DATA 0x0c
#define PCI_MSI_MASK 0x10
#define PCI_MSI_PENDING 0x14

void
pci_msi_add(struct pci_dev *dev, int vectors)
{
	unsigned at = pci_cap_add(dev, PCI_MSI_ID, PCI_MSI_SIZE);
	int log2 = __builtin_ctz((unsigned)vectors);

	assert(dev->msi.cap == 0 && vectors <= PCI_MSI_VECTORS && vectors == 1 << log2);
	pci_cfg_set(dev, at + PCI_MSI_CONTROL, 2,
	    PCI_MSI_CONTROL_CAPABLE(log2) | PCI_MSI_CONTROL_64BIT | PCI_MSI_CONTROL_MASKING);
	pci_cfg_writable(dev, at + PCI_MSI_CONTROL, 2,
	    PCI_MSI_CONTROL_ENABLE | PCI_MSI_CONTROL_ENABLED_MASK);
	pci_cfg_writable(dev, at + PCI_MSI_ADDR, 4, 0xfffffffc);
	pci_cfg_writable(dev, at + PCI_MSI_ADDR_HIGH, 4, 0xffffffff);
	pci_cfg_writable(dev, at + PCI_MSI_DATA, 2, 0xffff);
	pci_cfg_writable(dev, at + PCI_MSI_MASK, 4, (uint32_t)(BIT64(vectors) - 1));
	dev->msi.cap = at;
	dev->msi.vectors = vectors;
}

/* --- irq_lock held --- */

static void
pci_msi_deliver(struct pci_dev *dev, uint32_t vector)
{
	const struct pci_msi *msi = &dev->msi;

	/* A message is a write to memory, which takes a bus master. */
	if (dev->master)
		vm_msi(dev->pci->vm, msi->addr, (msi->data & ~(msi->count - 1)) | vector);
}

void
pci_msi_apply(struct pci_dev *dev)
{
	struct pci_msi *msi = &dev->msi;
	uint32_t control, ready;
	unsigned at = msi->cap;

	if (at == 0)
		return;
	control = pci_cfg_get(dev, at + PCI_MSI_CONTROL, 2);
	msi->enabled = control & PCI_MSI_CONTROL_ENABLE;
	msi->count = MIN(1u << PCI_MSI_CONTROL_ENABLED(control), (uint32_t)msi->vectors);
	msi->addr = pci_cfg_get(dev, at + PCI_MSI_ADDR, 4) |
	    (uint64_t)pci_cfg_get(dev, at + PCI_MSI_ADDR_HIGH, 4) << 32;
	msi->data = pci_cfg_get(dev, at + PCI_MSI_DATA, 2);
	msi->mask = pci_cfg_get(dev, at + PCI_MSI_MASK, 4);
	msi->pending &= msi->enabled ? (uint32_t)(BIT64(msi->vectors) - 1) : 0;
	ready = msi->pending & ~msi->mask;
	msi->pending &= msi->mask;
	pci_cfg_set(dev, at + PCI_MSI_PENDING, 4, msi->pending);
	for (; ready != 0; ready &= ready - 1)
		pci_msi_deliver(dev, (uint32_t)__builtin_ctz(ready));
}

void
pci_msi_reset(struct pci_dev *dev)
{
	dev->msi.pending = 0;
}

void
pci_msi_send(struct pci_dev *dev, int vector)
{
	struct pci_msi *msi = &dev->msi;
	uint32_t v;

	assert(vector >= 0 && vector < msi->vectors);
	pthread_mutex_lock(&dev->irq_lock);
	if (msi->enabled) {
		v = (uint32_t)vector & (msi->count - 1);
		if (msi->mask & BIT(v))
			msi->pending |= BIT(v);
		else
			pci_msi_deliver(dev, v);
	}
	pthread_mutex_unlock(&dev->irq_lock);
}
