/*
 * Interrupts (NVMe 1.4, 7.5): one per completion queue and round, by MSI-X, MSI or the pin, and
 * their coalescing (5.21.1.8).
 */
#include "storage/nvme_impl.h"

#define NVME_COALESCE_UNIT_NS 100000u

uint32_t
nvme_cq_head(const struct nvme_cq *cq)
{
	const _Atomic uint32_t *shadow = atomic_load(&cq->shadow);

	return atomic_load(shadow != NULL ? shadow : &cq->doorbell);
}

/* Whether the guest has entries to look at and wants to be told. */
static bool
nvme_irq_is_due(const struct nvme_cq *cq)
{
	return atomic_load(&cq->size) != 0 && atomic_load(&cq->interrupts) &&
	       nvme_cq_head(cq) != atomic_load(&cq->tail);
}

/* --- The pin and MSI --- */

void
nvme_irq_pin_update(struct nvme *n)
{
	bool level = false;

	if (pci_irq_kind(n->dev) != PCI_IRQ_INTX)
		return;
	pthread_mutex_lock(&n->pin_lock);
	/* Bit 0 of the mask is the pin's: every queue is on vector 0 there. */
	if ((atomic_load(&n->intms) & 1) == 0) {
		for (unsigned qid = 0; qid < n->queues && !level; qid++)
			level = nvme_irq_is_due(&n->cq[qid]);
	}
	pci_intx_set(n->dev, level);
	pthread_mutex_unlock(&n->pin_lock);
}

void
nvme_irq_unmasked(struct nvme *n, uint32_t bits)
{
	uint32_t due = 0;

	if (pci_irq_kind(n->dev) != PCI_IRQ_MSI)
		return;
	for (unsigned qid = 0; qid < n->queues; qid++) {
		const struct nvme_cq *cq = &n->cq[qid];

		if (nvme_irq_is_due(cq))
			due |= BIT(atomic_load(&cq->vector) % 32);
	}
	for (unsigned v = 0; v < 32; v++) {
		if ((due & bits & BIT(v)) != 0)
			pci_msi_send(n->dev, (int)v);
	}
}

/* --- Coalescing --- */

/* Whether the interrupt of a queue can wait for more entries, or for the timer. */
static bool
nvme_irq_can_wait(struct nvme_cq *cq)
{
	struct nvme *n = cq->nvme;
	uint32_t threshold = BITS(n->features.coalescing, 0, 8);
	uint32_t time = BITS(n->features.coalescing, 8, 8), vector = cq->vector;

	/* Not for admin commands; a time of 0 is no delay (5.21.1.8). The threshold is 0's based.
	 */
	if (cq->qid == 0 || time == 0 || cq->fresh > threshold ||
	    nvme_bit_test(n->features.uncoalesced, vector))
		return false;
	if (!n->coalescing) {
		n->coalescing = true;
		vm_timer_arm(n->coalesce_timer,
		    vm_clock_ns(vm_loop(n->vm)) + (uint64_t)time * NVME_COALESCE_UNIT_NS);
	}
	return true;
}

void
nvme_coalesce_timeout(void *ctx)
{
	struct nvme *n = ctx;

	atomic_store(&n->coalesce_expired, true);
	block_post(n->disk, &n->raise_work);
}

/* --- Sending --- */

void
nvme_irq_posted(struct nvme_cq *cq)
{
	struct nvme *n = cq->nvme;

	cq->fresh++;
	n->posted[cq->qid / 64] |= BIT64(cq->qid % 64);
	block_post(n->disk, &n->raise_work);
}

static void
nvme_irq_send(struct nvme_cq *cq, enum pci_irq_kind kind)
{
	struct nvme *n = cq->nvme;
	uint32_t vector = cq->vector;

	cq->fresh = 0;
	if (!cq->interrupts)
		return;
	if (kind == PCI_IRQ_MSIX)
		pci_msix_send(n->dev, (int)vector);
	else if (kind == PCI_IRQ_MSI && (atomic_load(&n->intms) & BIT(vector % 32)) == 0)
		pci_msi_send(n->dev, (int)(vector % 32));
	/* With the pin, a guest's step forward has to lower it: be told of each. */
	else if (kind == PCI_IRQ_INTX && cq->event != NULL)
		atomic_store(cq->event, nvme_cq_head(cq));
}

void
nvme_raise_run(void *ctx)
{
	struct nvme *n = ctx;
	enum pci_irq_kind kind = pci_irq_kind(n->dev);
	bool expired = atomic_load(&n->coalesce_expired);

	if (expired) {
		atomic_store(&n->coalesce_expired, false);
		n->coalescing = false;
	}
	for (unsigned i = 0; i < NVME_QUEUE_WORDS; i++) {
		uint64_t left = n->posted[i];

		while (left != 0) {
			unsigned bit = (unsigned)__builtin_ctzll(left);
			struct nvme_cq *cq = &n->cq[i * 64 + bit];

			left &= left - 1;
			if (!expired && nvme_irq_can_wait(cq))
				continue;
			n->posted[i] &= ~BIT64(bit);
			nvme_irq_send(cq, kind);
		}
	}
	nvme_irq_pin_update(n);
}
