/*
 * Base address registers (PCI 3.0, 6.2.5): what is decoded where.
 *
 * The guest may put a BAR anywhere, over RAM, chips and other BARs too. What is in the way stays:
 * the BAR is "blocked" and answers nowhere until the guest moves it, or what is in its way.
 */
#include "pci/pci_private.h"

#include "base/log.h"
#include "vm/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Local APICs and messages to them (SDM 3, 10.4.1 and 10.11.1) */
#define PCI_APIC_BASE 0xfee00000u
#define PCI_APIC_SIZE MIB(1)

/* Where firmware places BARs */
#define PCI_IO_BASE 0x2000u
#define PCI_IO_LIMIT 0xffffu
/* 64-bit BARs up to this size lie below 4 GiB, where guests without PAE reach them too. */
#define PCI_BAR_LOW_MAX MIB(32)

void
pci_bar_add(struct pci_dev *dev, int idx, enum pci_bar_type type, uint64_t size, bool prefetchable)
{
	struct pci_bar *bar = &dev->bar[idx];
	bool io = type == PCI_BAR_IO;

	assert(idx >= 0 && idx + (type == PCI_BAR_MEM64) < PCI_BARS && bar->size == 0);
	assert((size & (size - 1)) == 0 && size >= (io ? 4 : 16));
	assert(size <= (io ? 256 : type == PCI_BAR_MEM32 ? GIB(2) : BIT64(62)));
	bar->dev = dev;
	bar->idx = idx;
	bar->type = type;
	bar->size = size;
	if (io) {
		pci_cfg_set(dev, PCI_BAR(idx), 4, PCI_BAR_IO_BIT);
		pci_cfg_writable(dev, PCI_BAR(idx), 4, (uint32_t)-size & PCI_BAR_IO_MASK);
		return;
	}
	pci_cfg_set(dev, PCI_BAR(idx), 4,
	    (type == PCI_BAR_MEM64 ? PCI_BAR_64 : 0) | (prefetchable ? PCI_BAR_PREFETCH : 0));
	pci_cfg_writable(dev, PCI_BAR(idx), 4, (uint32_t)-size & PCI_BAR_MEM_MASK);
	if (type == PCI_BAR_MEM64)
		pci_cfg_writable(dev, PCI_BAR(idx + 1), 4, (uint32_t)(-size >> 32));
}

/* --- Accesses --- */

static uint64_t
pci_bar_read(void *ctx, uint64_t off, int size)
{
	struct pci_bar *bar = ctx;
	struct pci_dev *dev = bar->dev;
	uint64_t val;

	if (dev->msix.cap != 0 && bar->idx == dev->msix.bar)
		return pci_msix_read(dev, off, size);
	pci_lock(dev);
	val = dev->ops->bar_read(dev, bar->idx, off, size);
	pci_unlock(dev);
	return val;
}

static void
pci_bar_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct pci_bar *bar = ctx;
	struct pci_dev *dev = bar->dev;

	if (dev->msix.cap != 0 && bar->idx == dev->msix.bar) {
		pci_msix_write(dev, off, size, val);
		return;
	}
	pci_lock(dev);
	dev->ops->bar_write(dev, bar->idx, off, size, val);
	pci_unlock(dev);
}

/* --- Doorbells; map_lock held --- */

static void
pci_doorbell_map(struct pci_bar *bar, const struct pci_doorbell *d)
{
	/* When there are too many, writes come to bar_write(). */
	(void)vm_doorbell_add(bar->dev->pci->vm, bar->range.space, bar->range.base + d->off,
	    d->size, d->notify, d->ctx);
}

static void
pci_doorbell_unmap(struct pci_bar *bar, const struct pci_doorbell *d)
{
	vm_doorbell_remove(bar->dev->pci->vm, bar->range.space, bar->range.base + d->off);
}

int
pci_doorbell_add(struct pci_dev *dev, int bar, uint64_t off, int size, pci_doorbell_fn *notify,
    void *ctx)
{
	struct pci_doorbell *d = malloc(sizeof(*d));
	struct pci_bar *b = &dev->bar[bar];

	assert(off < b->size && (uint64_t)size <= b->size - off);
	if (d == NULL)
		return -ENOMEM;
	*d = (struct pci_doorbell){ b->doorbell, off, size, notify, ctx };
	pthread_mutex_lock(&dev->pci->map_lock);
	b->doorbell = d;
	if (b->mapped)
		pci_doorbell_map(b, d);
	pthread_mutex_unlock(&dev->pci->map_lock);
	return 0;
}

void
pci_doorbell_remove(struct pci_dev *dev, int bar, uint64_t off)
{
	struct pci_bar *b = &dev->bar[bar];
	struct pci_doorbell *d, **at;

	pthread_mutex_lock(&dev->pci->map_lock);
	for (at = &b->doorbell; *at != NULL && (*at)->off != off;)
		at = &(*at)->next;
	d = *at;
	if (d != NULL) {
		*at = d->next;
		if (b->mapped)
			pci_doorbell_unmap(b, d);
	}
	pthread_mutex_unlock(&dev->pci->map_lock);
	free(d);
}

/* --- Mapping; map_lock held --- */

static bool
pci_bar_overlaps(const struct pci_bar *bar, uint64_t base, uint64_t size)
{
	if (bar->base < base)
		return size != 0 && base - bar->base < bar->size;
	return bar->base - base < size;
}

static int
pci_bar_place(struct pci_bar *bar)
{
	static const struct vm_range_ops mem_ops = { "pci bar", pci_bar_read, pci_bar_write, 1, 8 };
	static const struct vm_range_ops io_ops = { "pci bar", pci_bar_read, pci_bar_write, 1, 4 };
	struct vm *vm = bar->dev->pci->vm;
	bool io = bar->type == PCI_BAR_IO;

	bar->range = (struct vm_range){ .ops = io ? &io_ops : &mem_ops, .ctx = bar,
		.space = io ? VM_PIO : VM_MMIO, .base = bar->base, .size = bar->size };
	if (!io && (pci_bar_overlaps(bar, 0, vm_mem_low(vm)) ||
		       pci_bar_overlaps(bar, VM_HIGHMEM_BASE, vm_mem_high(vm)) ||
		       pci_bar_overlaps(bar, PCI_APIC_BASE, PCI_APIC_SIZE)))
		return -EEXIST;
	return vm_range_add(vm, &bar->range);
}

static void
pci_bar_map(struct pci_bar *bar)
{
	struct pci *pci = bar->dev->pci;
	int err = pci_bar_place(bar);

	if (err != 0) {
		if (!bar->blocked) {
			pci->blocked++;
			bar->blocked = true;
			log_guest(bar->dev->name, "BAR %d cannot be at 0x%" PRIx64 ": %s", bar->idx,
			    bar->base, strerror(-err));
		}
		return;
	}
	pci->blocked -= bar->blocked;
	bar->blocked = false;
	bar->mapped = true;
	for (const struct pci_doorbell *d = bar->doorbell; d != NULL; d = d->next)
		pci_doorbell_map(bar, d);
}

static void
pci_bar_unmap(struct pci_bar *bar)
{
	for (const struct pci_doorbell *d = bar->doorbell; d != NULL; d = d->next)
		pci_doorbell_unmap(bar, d);
	vm_range_remove(bar->dev->pci->vm, &bar->range);
	bar->mapped = false;
}

/* Room has become free: whoever waited for it may have it. */
static void
pci_bars_retry(struct pci *pci)
{
	for (size_t i = 0; pci->blocked != 0 && i < ARRAY_SIZE(pci->dev); i++) {
		for (int b = 0; pci->dev[i] != NULL && b < PCI_BARS; b++) {
			if (pci->dev[i]->bar[b].blocked)
				pci_bar_map(&pci->dev[i]->bar[b]);
		}
	}
}

/* Whether the guest wants the BAR decoded, and where. Device locked. */
static bool
pci_bar_decode(struct pci_bar *bar, uint64_t *base)
{
	const struct pci_dev *dev = bar->dev;
	bool io = bar->type == PCI_BAR_IO;
	uint64_t mask = bar->type == PCI_BAR_MEM64 ? UINT64_MAX : UINT32_MAX;

	*base = pci_cfg_get(dev, PCI_BAR(bar->idx), 4) & (io ? PCI_BAR_IO_MASK : PCI_BAR_MEM_MASK);
	if (bar->type == PCI_BAR_MEM64)
		*base |= (uint64_t)pci_cfg_get(dev, PCI_BAR(bar->idx + 1), 4) << 32;
	/* All ones is not an address but the guest's question for the size (6.2.5.1). */
	if (*base == (-bar->size & mask))
		return false;
	return pci_cfg_get(dev, PCI_COMMAND, 2) & (io ? PCI_COMMAND_IO : PCI_COMMAND_MEM);
}

void
pci_bars_apply(struct pci_dev *dev)
{
	struct pci *pci = dev->pci;
	bool freed = false;

	pthread_mutex_lock(&pci->map_lock);
	for (int i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &dev->bar[i];
		uint64_t base;
		bool wanted;

		if (bar->type == PCI_BAR_NONE)
			continue;
		wanted = pci_bar_decode(bar, &base);
		if (wanted == bar->wanted && base == bar->base)
			continue;
		if (bar->mapped) {
			pci_bar_unmap(bar);
			freed = true;
		}
		pci->blocked -= bar->blocked;
		bar->blocked = false;
		bar->wanted = wanted;
		bar->base = base;
		if (wanted)
			pci_bar_map(bar);
	}
	if (freed)
		pci_bars_retry(pci);
	pthread_mutex_unlock(&pci->map_lock);
}

void
pci_bars_destroy(struct pci_dev *dev)
{
	pthread_mutex_lock(&dev->pci->map_lock);
	for (int i = 0; i < PCI_BARS; i++) {
		struct pci_bar *bar = &dev->bar[i];

		if (bar->mapped)
			pci_bar_unmap(bar);
		while (bar->doorbell != NULL) {
			struct pci_doorbell *d = bar->doorbell;

			bar->doorbell = d->next;
			free(d);
		}
	}
	pthread_mutex_unlock(&dev->pci->map_lock);
}

/* --- Placing, as firmware does --- */

struct pci_placing {
	struct pci *pci;
	struct pci_window io, mem32, mem64; /* what is left */
	bool done[PCI_SLOTS * PCI_FUNCTIONS][PCI_BARS];
};

/* Takes size bytes from a window. False when they do not fit. */
static bool
pci_window_take(struct pci_window *w, uint64_t size, uint64_t *base)
{
	uint64_t at = ALIGN_UP(w->base, size);

	if (w->limit == 0 || at < w->base || at > w->limit || size - 1 > w->limit - at)
		return false;
	*base = at;
	w->base = at + size;
	return true;
}

/* The same of ports, not those of a chip. */
static bool
pci_window_take_ports(struct pci *pci, struct pci_window *w, uint64_t size, uint64_t *base)
{
	while (pci_window_take(w, size, base)) {
		uint64_t port = *base;

		while (port < *base + size && vm_range_find(pci->vm, VM_PIO, port) == NULL)
			port++;
		if (port == *base + size)
			return true;
	}
	return false;
}

/* The largest BAR that has no place yet: large ones first leave no gaps. NULL when all have one. */
static struct pci_bar *
pci_placing_next(struct pci_placing *p)
{
	struct pci_bar *best = NULL;

	for (size_t i = 0; i < ARRAY_SIZE(p->done); i++) {
		for (int b = 0; p->pci->dev[i] != NULL && b < PCI_BARS; b++) {
			struct pci_bar *bar = &p->pci->dev[i]->bar[b];

			if (bar->type != PCI_BAR_NONE && !p->done[i][b] &&
			    (best == NULL || bar->size > best->size))
				best = bar;
		}
	}
	if (best != NULL)
		p->done[best->dev->slot * PCI_FUNCTIONS + best->dev->function][best->idx] = true;
	return best;
}

static bool
pci_placing_find(struct pci_placing *p, const struct pci_bar *bar, uint64_t *base)
{
	if (bar->type == PCI_BAR_IO)
		return pci_window_take_ports(p->pci, &p->io, bar->size, base);
	if (bar->type == PCI_BAR_MEM32)
		return pci_window_take(&p->mem32, bar->size, base);
	if (bar->size > PCI_BAR_LOW_MAX && pci_window_take(&p->mem64, bar->size, base))
		return true;
	return pci_window_take(&p->mem32, bar->size, base) ||
	    pci_window_take(&p->mem64, bar->size, base);
}

static void
pci_bar_set(struct pci_bar *bar, uint64_t base)
{
	struct pci_dev *dev = bar->dev;
	uint32_t low = pci_cfg_get(dev, PCI_BAR(bar->idx), 4);
	uint32_t command = pci_cfg_get(dev, PCI_COMMAND, 2);

	command |= bar->type == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEM;
	pci_cfg_set(dev, PCI_COMMAND, 2, command);
	pci_cfg_set(dev, PCI_BAR(bar->idx), 4, low | (uint32_t)base);
	if (bar->type == PCI_BAR_MEM64)
		pci_cfg_set(dev, PCI_BAR(bar->idx + 1), 4, (uint32_t)(base >> 32));
}

int
pci_bars_assign(struct pci *pci)
{
	struct pci_placing p = {
		.pci = pci,
		.io = { PCI_IO_BASE, PCI_IO_LIMIT },
		.mem32 = pci->layout.mem32,
		.mem64 = pci->layout.mem64,
	};
	struct pci_bar *bar;
	uint64_t base;

	while ((bar = pci_placing_next(&p)) != NULL) {
		if (!pci_placing_find(&p, bar, &base)) {
			log_error(bar->dev->name, "there is no room left for its BAR %d of %" PRIu64
			    " bytes", bar->idx, bar->size);
			return -ENOSPC;
		}
		pci_bar_set(bar, base);
	}
	for (size_t i = 0; i < ARRAY_SIZE(pci->dev); i++) {
		if (pci->dev[i] == NULL)
			continue;
		pci_lock(pci->dev[i]);
		pci_cfg_apply(pci->dev[i]);
		pci_unlock(pci->dev[i]);
	}
	return 0;
}
