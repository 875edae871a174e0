/*
 * MSI-X (PCI 3.0, 6.8.2). The BAR holds the table and, from the next page on, the pending bits.
 */
#include "pci/pci_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PCI_MSIX_ID 0x11
#define PCI_MSIX_SIZE 0x0c
#define PCI_MSIX_CONTROL 0x02 /* bits 0 to 10: vectors - 1 */
#define PCI_MSIX_CONTROL_MASK BIT(14)
#define PCI_MSIX_CONTROL_ENABLE BIT(15)
#define PCI_MSIX_TABLE 0x04 /* offset and BAR */
#define PCI_MSIX_PBA 0x08

/* Of an entry of the table (6.8.2.7, 6.8.2.9) */
#define PCI_MSIX_ENTRY_MASKED BIT(0)
#define PCI_MSIX_ENTRY_ADDR_LOW 0x3ull /* always zero */

#define PCI_MSIX_PAGE KIB(4)

static size_t
pci_msix_pending_words(const struct pci_msix *msix)
{
	return (size_t)ALIGN_UP(msix->vectors, 64) / 64;
}

static uint64_t
pci_msix_table_size(const struct pci_msix *msix)
{
	return (uint64_t)msix->vectors * sizeof(struct pci_msix_entry);
}

void
pci_msix_add(struct pci_dev *dev, int bar, int vectors)
{
	struct pci_msix *msix = &dev->msix;
	unsigned at = pci_cap_add(dev, PCI_MSIX_ID, PCI_MSIX_SIZE);
	uint64_t size = 2 * PCI_MSIX_PAGE;

	assert(msix->cap == 0 && vectors >= 1 && vectors <= PCI_MSIX_VECTORS);
	msix->cap = at;
	msix->bar = bar;
	msix->vectors = vectors;
	msix->pba_off = ALIGN_UP(pci_msix_table_size(msix), PCI_MSIX_PAGE);
	while (size < msix->pba_off + PCI_MSIX_PAGE)
		size *= 2;
	pci_bar_add(dev, bar, PCI_BAR_MEM32, size, false);
	pci_cfg_set(dev, at + PCI_MSIX_CONTROL, 2, (uint32_t)vectors - 1);
	pci_cfg_writable(dev, at + PCI_MSIX_CONTROL, 2,
	    PCI_MSIX_CONTROL_MASK | PCI_MSIX_CONTROL_ENABLE);
	pci_cfg_set(dev, at + PCI_MSIX_TABLE, 4, (uint32_t)bar);
	pci_cfg_set(dev, at + PCI_MSIX_PBA, 4, (uint32_t)msix->pba_off | (uint32_t)bar);
}

int
pci_msix_init(struct pci_dev *dev)
{
	struct pci_msix *msix = &dev->msix;

	if (msix->cap == 0)
		return 0;
	msix->entry = calloc((size_t)msix->vectors, sizeof(*msix->entry));
	msix->pending = calloc(pci_msix_pending_words(msix), sizeof(*msix->pending));
	if (msix->entry == NULL || msix->pending == NULL)
		return -ENOMEM;
	pci_msix_reset(dev);
	return 0;
}

void
pci_msix_destroy(struct pci_dev *dev)
{
	free(dev->msix.entry);
	free(dev->msix.pending);
}

/* --- irq_lock held --- */

static bool
pci_msix_is_masked(const struct pci_msix *msix, int vector)
{
	return msix->masked || (msix->entry[vector].control & PCI_MSIX_ENTRY_MASKED);
}

static void
pci_msix_deliver(struct pci_dev *dev, int vector)
{
	const struct pci_msix_entry *e = &dev->msix.entry[vector];

	/* A message is a write to memory, which takes a bus master. */
	if (dev->master)
		vm_msi(dev->pci->vm, e->addr, e->data);
}

/* Sends what is pending and not masked any more, of one vector. */
static void
pci_msix_flush(struct pci_dev *dev, int vector)
{
	struct pci_msix *msix = &dev->msix;
	uint64_t bit = BIT64(vector % 64);

	if (!msix->enabled || !(msix->pending[vector / 64] & bit) ||
	    pci_msix_is_masked(msix, vector))
		return;
	msix->pending[vector / 64] &= ~bit;
	pci_msix_deliver(dev, vector);
}

void
pci_msix_apply(struct pci_dev *dev)
{
	struct pci_msix *msix = &dev->msix;
	uint32_t control;

	if (msix->cap == 0)
		return;
	control = pci_cfg_get(dev, msix->cap + PCI_MSIX_CONTROL, 2);
	msix->enabled = control & PCI_MSIX_CONTROL_ENABLE;
	msix->masked = control & PCI_MSIX_CONTROL_MASK;
	for (int i = 0; i < msix->vectors; i++)
		pci_msix_flush(dev, i);
}

void
pci_msix_reset(struct pci_dev *dev)
{
	struct pci_msix *msix = &dev->msix;

	if (msix->cap == 0)
		return;
	for (int i = 0; i < msix->vectors; i++)
		msix->entry[i] = (struct pci_msix_entry){ .control = PCI_MSIX_ENTRY_MASKED };
	memset(msix->pending, 0, pci_msix_pending_words(msix) * sizeof(*msix->pending));
}

void
pci_msix_send(struct pci_dev *dev, int vector)
{
	struct pci_msix *msix = &dev->msix;

	assert(vector >= 0 && vector < msix->vectors);
	pthread_mutex_lock(&dev->irq_lock);
	if (msix->enabled && pci_msix_is_masked(msix, vector))
		msix->pending[vector / 64] |= BIT64(vector % 64);
	else if (msix->enabled)
		pci_msix_deliver(dev, vector);
	pthread_mutex_unlock(&dev->irq_lock);
}

/* --- The BAR --- */

/* The bytes of the table or the pending bits at off, NULL when nothing is there. Both end at a
 * multiple of eight bytes, so an aligned access lies in one of them or in none. */
static uint8_t *
pci_msix_bytes(const struct pci_msix *msix, uint64_t off)
{
	uint64_t pba_size = pci_msix_pending_words(msix) * sizeof(*msix->pending);

	if (off < pci_msix_table_size(msix))
		return (uint8_t *)msix->entry + off;
	if (off >= msix->pba_off && off - msix->pba_off < pba_size)
		return (uint8_t *)msix->pending + (off - msix->pba_off);
	return NULL;
}

uint64_t
pci_msix_read(struct pci_dev *dev, uint64_t off, int size)
{
	const uint8_t *at;
	uint64_t val = 0;

	pthread_mutex_lock(&dev->irq_lock);
	at = pci_msix_bytes(&dev->msix, off);
	if (at != NULL)
		memcpy(&val, at, (size_t)size);
	pthread_mutex_unlock(&dev->irq_lock);
	return val;
}

void
pci_msix_write(struct pci_dev *dev, uint64_t off, int size, uint64_t val)
{
	struct pci_msix *msix = &dev->msix;
	struct pci_msix_entry *e;

	if (off >= pci_msix_table_size(msix))
		return; /* pending bits are read-only */
	pthread_mutex_lock(&dev->irq_lock);
	memcpy(pci_msix_bytes(msix, off), &val, (size_t)size);
	e = &msix->entry[off / sizeof(*e)];
	e->addr &= ~PCI_MSIX_ENTRY_ADDR_LOW;
	e->control &= PCI_MSIX_ENTRY_MASKED;
	pci_msix_flush(dev, (int)(off / sizeof(*e)));
	pthread_mutex_unlock(&dev->irq_lock);
}

/* --- State --- */

void
pci_msix_state(struct pci_dev *dev, struct vm_state *s)
{
	struct pci_msix *msix = &dev->msix;

	for (int i = 0; i < msix->vectors; i++) {
		struct pci_msix_entry *e = &msix->entry[i];

		vm_state_u64(s, &e->addr);
		vm_state_u32(s, &e->data);
		vm_state_u32(s, &e->control);
		e->addr &= ~PCI_MSIX_ENTRY_ADDR_LOW;
		e->control &= PCI_MSIX_ENTRY_MASKED;
	}
	for (size_t i = 0; msix->cap != 0 && i < pci_msix_pending_words(msix); i++)
		vm_state_u64(s, &msix->pending[i]);
}
