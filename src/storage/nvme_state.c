/*
 * Saving and loading the controller. Only between requests: those in flight are waited for, and
 * commands not taken yet are in the guest's queues.
 */
#include "storage/nvme_impl.h"

#include "vm/state.h"

#include <errno.h>

#define NVME_STATE_VERSION 1

struct nvme_queue_state { /* what tells how to make a queue again */
	uint64_t gpa;
	uint32_t size, head, tail, doorbell, vector;
	uint16_t cqid;
	bool phase, interrupts;
};

static void
nvme_cq_load(struct nvme *n, uint16_t qid, const struct nvme_queue_state *q, struct vm_state *s)
{
	struct nvme_cq *cq = &n->cq[qid];

	if (q->size < 2 || q->size > 65536 || q->head >= q->size || q->tail >= q->size ||
	    q->doorbell >= q->size || q->vector >= NVME_QUEUES_MAX ||
	    nvme_cq_create(n, qid, q->gpa, q->size, q->vector, q->interrupts) != 0) {
		vm_state_reject(s, "a completion queue that cannot be");
		return;
	}
	cq->head = q->head;
	cq->phase = q->phase;
	atomic_store(&cq->tail, q->tail);
	atomic_store(&cq->doorbell, q->doorbell);
}

static void
nvme_cq_state(struct nvme *n, uint16_t qid, struct vm_state *s)
{
	struct nvme_cq *cq = &n->cq[qid];
	struct nvme_queue_state q = { .gpa = cq->gpa,
		.size = cq->size,
		.head = cq->head,
		.tail = cq->tail,
		.doorbell = cq->doorbell,
		.vector = cq->vector,
		.phase = cq->phase,
		.interrupts = cq->interrupts };

	vm_state_u32(s, &q.size);
	vm_state_u64(s, &q.gpa);
	vm_state_u32(s, &q.head);
	vm_state_u32(s, &q.tail);
	vm_state_u32(s, &q.doorbell);
	vm_state_u32(s, &q.vector);
	vm_state_bool(s, &q.phase);
	vm_state_bool(s, &q.interrupts);
	if (vm_state_loading(s) && vm_state_error(s) == 0 && q.size != 0)
		nvme_cq_load(n, qid, &q, s);
}

static void
nvme_sq_load(struct nvme *n, uint16_t qid, const struct nvme_queue_state *q, struct vm_state *s)
{
	struct nvme_sq *sq = &n->sq[qid];

	if (q->size < 2 || q->size > 65536 || q->head >= q->size || q->doorbell >= q->size ||
	    !nvme_cq_exists(n, q->cqid) || (qid == 0) != (q->cqid == 0) ||
	    nvme_sq_create(n, qid, q->gpa, q->size, q->cqid) != 0) {
		vm_state_reject(s, "a submission queue that cannot be");
		return;
	}
	sq->head = q->head;
	atomic_store(&sq->doorbell, q->doorbell);
	n->backlog[qid / 64] |= BIT64(qid % 64);
}

static void
nvme_sq_state(struct nvme *n, uint16_t qid, struct vm_state *s)
{
	struct nvme_sq *sq = &n->sq[qid];
	struct nvme_queue_state q = { .gpa = sq->gpa,
		.size = sq->size,
		.head = sq->head,
		.doorbell = sq->doorbell,
		.cqid = sq->cqid };

	vm_state_u32(s, &q.size);
	vm_state_u64(s, &q.gpa);
	vm_state_u32(s, &q.head);
	vm_state_u32(s, &q.doorbell);
	vm_state_u16(s, &q.cqid);
	if (vm_state_loading(s) && vm_state_error(s) == 0 && q.size != 0)
		nvme_sq_load(n, qid, &q, s);
}

/* Shadow doorbells. Their pages are looked at after the queues are there, and say more than what
 * was saved of the registers. */
static void
nvme_shadow_state(struct nvme *n, struct vm_state *s)
{
	uint64_t page = nvme_page_size(n);

	vm_state_u64(s, &n->shadow_gpa);
	vm_state_u64(s, &n->event_gpa);
	if (!vm_state_loading(s) || vm_state_error(s) != 0 || n->shadow_gpa == 0)
		return;
	if (((n->shadow_gpa | n->event_gpa) & (page - 1)) != 0 ||
	    vm_mem_ptr(n->vm, n->shadow_gpa, page) == NULL ||
	    vm_mem_ptr(n->vm, n->event_gpa, page) == NULL)
		vm_state_reject(s, "doorbell buffers that are not in memory");
	else
		nvme_shadow_attach(n);
}

static void
nvme_features_state(struct nvme_features *f, struct vm_state *s)
{
	vm_state_u32(s, &f->arbitration);
	vm_state_u32(s, &f->power);
	vm_state_u32(s, &f->error_recovery);
	vm_state_u32(s, &f->write_cache);
	vm_state_u32(s, &f->coalescing);
	vm_state_u32(s, &f->atomicity);
	vm_state_u32(s, &f->events);
	vm_state_u16(s, &f->temperature_over);
	vm_state_u16(s, &f->temperature_under);
	vm_state_u8(s, &f->host_behavior);
	for (int i = 0; i < NVME_QUEUE_WORDS; i++)
		vm_state_u64(s, &f->uncoalesced[i]);
	vm_state_u64(s, &f->timestamp);
	vm_state_u64(s, &f->timestamp_ns);
	vm_state_bool(s, &f->timestamp_set);
}

static void
nvme_counters_state(struct nvme *n, struct vm_state *s)
{
	struct nvme_counters *c = &n->count;

	vm_state_u64(s, &c->reads);
	vm_state_u64(s, &c->writes);
	vm_state_u64(s, &c->bytes_read);
	vm_state_u64(s, &c->bytes_written);
	vm_state_u64(s, &c->media_errors);
	vm_state_u64(s, &c->errors);
	vm_state_u64(s, &c->busy_ns);
	vm_state_u64(s, &n->power_on_ns);
}

static void
nvme_bad_state(struct nvme_bad *bad, struct vm_state *s)
{
	uint64_t end = 0;

	vm_state_u32(s, &bad->count);
	if (bad->count > NVME_BAD_RANGES) {
		bad->count = 0;
		vm_state_reject(s, "too many unreadable ranges");
	}
	for (uint32_t i = 0; i < bad->count; i++) {
		vm_state_u64(s, &bad->range[i].start);
		vm_state_u64(s, &bad->range[i].end);
		if (bad->range[i].start < end || bad->range[i].end <= bad->range[i].start)
			vm_state_reject(s, "unreadable ranges out of order");
		end = bad->range[i].end;
	}
}

static void
nvme_events_state(struct nvme *n, struct vm_state *s)
{
	uint32_t aers = n->aers;

	vm_state_u32(s, &aers);
	if (aers > NVME_AERS) {
		aers = 0;
		vm_state_reject(s, "too many event requests");
	}
	n->aers = aers;
	for (unsigned i = 0; i < aers; i++)
		vm_state_u16(s, &n->aer[i]);
	for (int i = 0; i < NVME_EVENT_TYPES; i++) {
		vm_state_u32(s, &n->event[i]);
		vm_state_bool(s, &n->event_masked[i]);
	}
	vm_state_bool(s, &n->too_hot);
	vm_state_bool(s, &n->namespace_changed);
	for (int i = 0; i < NVME_ERRORS; i++) {
		struct nvme_error_entry *e = &n->error[i];

		vm_state_u64(s, &e->count);
		vm_state_u16(s, &e->sqid);
		vm_state_u16(s, &e->cid);
		vm_state_u16(s, &e->status);
		vm_state_u16(s, &e->location);
		vm_state_u64(s, &e->lba);
		vm_state_u32(s, &e->nsid);
	}
}

static void
nvme_registers_state(struct nvme *n, struct vm_state *s)
{
	uint8_t phase = (uint8_t)n->phase;

	vm_state_atomic_u32(s, &n->cc);
	vm_state_atomic_u32(s, &n->csts);
	vm_state_atomic_u32(s, &n->aqa);
	vm_state_atomic_u32(s, &n->intms);
	vm_state_atomic_u64(s, &n->asq);
	vm_state_atomic_u64(s, &n->acq);
	vm_state_u8(s, &phase);
	if (phase > NVME_SHUT || phase == NVME_SHUTTING ||
	    NVME_CC_MPS(atomic_load(&n->cc)) > NVME_MPSMAX)
		vm_state_reject(s, "a controller state that cannot be");
	else
		n->phase = (enum nvme_phase)phase;
}

int
nvme_state(struct pci_dev *dev, struct vm_state *s)
{
	struct nvme *n = pci_priv(dev);
	uint32_t queues = n->queues;
	int err;

	/* The first one ends what was in flight; steps of a reset or a shutdown that waited for
	 * the same have run when the second one is over. From then on nothing happens on the disk's
	 * thread until something is posted. */
	block_drain(n->disk);
	block_drain(n->disk);
	vm_state_section(s, "nvme", pci_devfn(dev), NVME_STATE_VERSION);
	nvme_registers_state(n, s);
	vm_state_u32(s, &queues);
	if (queues != n->queues)
		vm_state_reject(s, "another number of queues");
	for (unsigned qid = 0; qid < n->queues && vm_state_error(s) == 0; qid++)
		nvme_cq_state(n, (uint16_t)qid, s);
	for (unsigned qid = 0; qid < n->queues && vm_state_error(s) == 0; qid++)
		nvme_sq_state(n, (uint16_t)qid, s);
	nvme_shadow_state(n, s);
	nvme_features_state(&n->features, s);
	nvme_counters_state(n, s);
	nvme_bad_state(&n->bad, s);
	nvme_events_state(n, s);
	err = vm_state_end(s);
	if (err == 0 && vm_state_loading(s)) {
		nvme_irq_pin_update(n);
		block_post(n->disk, &n->kick_work);
	}
	return err;
}
