/*
 * Submission and completion queues (NVMe 1.4, 4.1), doorbells, and shadow doorbells (7.13).
 */
#include "storage/nvme_impl.h"

#include "base/log.h"

#include <errno.h>
#include <string.h>

/* Commands taken in one run of the work, so that resets and completions have their turn too. */
#define NVME_KICK_BUDGET 4096

/* --- Making and removing --- */

bool
nvme_sq_exists(const struct nvme *n, unsigned qid)
{
	return qid < n->queues && atomic_load_explicit(&n->sq[qid].size, memory_order_relaxed) != 0;
}

bool
nvme_cq_exists(const struct nvme *n, unsigned qid)
{
	return qid < n->queues && atomic_load_explicit(&n->cq[qid].size, memory_order_relaxed) != 0;
}

/* The 32 bits of a shadow doorbell or event index; laid out as the doorbell registers are. */
static _Atomic uint32_t *
nvme_shadow(struct nvme *n, uint64_t buffer, unsigned qid, bool is_cq)
{
	return vm_mem_ptr(n->vm, buffer + (2u * qid + is_cq) * sizeof(uint32_t), sizeof(uint32_t));
}

static void
nvme_sq_shadow_attach(struct nvme_sq *sq)
{
	struct nvme *n = sq->nvme;
	_Atomic uint32_t *shadow = nvme_shadow(n, n->shadow_gpa, sq->qid, false);

	/* The guest may have written the register only, so far. */
	atomic_store(shadow, atomic_load(&sq->doorbell));
	sq->event = nvme_shadow(n, n->event_gpa, sq->qid, false);
	atomic_store(sq->event, sq->head);
	sq->shadow = shadow;
	sq->bad = UINT32_MAX;
}

static void
nvme_cq_shadow_attach(struct nvme_cq *cq)
{
	struct nvme *n = cq->nvme;
	_Atomic uint32_t *shadow = nvme_shadow(n, n->shadow_gpa, cq->qid, true);

	atomic_store(shadow, atomic_load(&cq->doorbell));
	cq->event = nvme_shadow(n, n->event_gpa, cq->qid, true);
	atomic_store(cq->event, cq->head);
	atomic_store(&cq->shadow, shadow);
}

void
nvme_shadow_attach(struct nvme *n)
{
	/* The admin queues keep to their registers: drivers do not use shadows for them. */
	for (unsigned qid = 1; qid < n->queues; qid++) {
		if (nvme_sq_exists(n, qid))
			nvme_sq_shadow_attach(&n->sq[qid]);
		if (nvme_cq_exists(n, qid))
			nvme_cq_shadow_attach(&n->cq[qid]);
	}
}

int
nvme_sq_create(struct nvme *n, uint16_t qid, uint64_t gpa, uint32_t size, uint16_t cqid)
{
	struct nvme_sq *sq = &n->sq[qid];

	sq->ring = vm_mem_ptr(n->vm, gpa, (uint64_t)size << NVME_SQES);
	if (sq->ring == NULL)
		return -EFAULT;
	sq->gpa = gpa;
	sq->cqid = cqid;
	sq->head = 0;
	sq->in_flight = 0;
	sq->deleting = false;
	sq->shadow = NULL;
	sq->event = NULL;
	atomic_store(&sq->doorbell, 0);
	atomic_store(&sq->size, size);
	n->cq[cqid].sqs++;
	if (n->shadow_gpa != 0 && qid != 0)
		nvme_sq_shadow_attach(sq);
	return 0;
}

int
nvme_cq_create(
    struct nvme *n, uint16_t qid, uint64_t gpa, uint32_t size, uint32_t vector, bool interrupts)
{
	struct nvme_cq *cq = &n->cq[qid];

	cq->ring = vm_mem_ptr(n->vm, gpa, (uint64_t)size << NVME_CQES);
	if (cq->ring == NULL)
		return -EFAULT;
	cq->gpa = gpa;
	cq->head = 0;
	cq->bad = UINT32_MAX;
	cq->reserved = 0;
	cq->fresh = 0;
	cq->phase = true;
	cq->sqs = 0;
	cq->event = NULL;
	atomic_store(&cq->shadow, NULL);
	atomic_store(&cq->doorbell, 0);
	atomic_store(&cq->tail, 0);
	atomic_store(&cq->wanted, false);
	atomic_store(&cq->vector, vector);
	atomic_store(&cq->interrupts, interrupts);
	atomic_store(&cq->size, size);
	if (n->shadow_gpa != 0 && qid != 0)
		nvme_cq_shadow_attach(cq);
	return 0;
}

void
nvme_sq_destroy(struct nvme_sq *sq)
{
	struct nvme *n = sq->nvme;

	if (!nvme_sq_exists(n, sq->qid))
		return;
	atomic_store(&sq->size, 0);
	n->backlog[sq->qid / 64] &= ~BIT64(sq->qid % 64);
	n->cq[sq->cqid].sqs--;
	sq->ring = NULL;
	sq->shadow = NULL;
	sq->event = NULL;
}

void
nvme_cq_destroy(struct nvme_cq *cq)
{
	struct nvme *n = cq->nvme;

	atomic_store(&cq->size, 0);
	atomic_store(&cq->shadow, NULL);
	n->posted[cq->qid / 64] &= ~BIT64(cq->qid % 64);
	cq->ring = NULL;
	cq->event = NULL;
	nvme_irq_pin_update(n);
}

/* --- Completion queues --- */

static void
nvme_bad_value(struct nvme *n)
{
	log_guest(n->name, "invalid value in a doorbell");
	nvme_error_add(n, NULL, NVME_INVALID_FIELD);
	nvme_event(n, NVME_EVENT_ERROR, NVME_ERROR_DOORBELL_VALUE);
}

static uint32_t
nvme_cq_used(const struct nvme_cq *cq)
{
	uint32_t tail = atomic_load_explicit(&cq->tail, memory_order_relaxed);

	return tail >= cq->head ? tail - cq->head : tail + cq->size - cq->head;
}

/* Learns what the guest has consumed. */
static void
nvme_cq_refresh(struct nvme_cq *cq)
{
	uint32_t head = nvme_cq_head(cq), size = cq->size, steps;

	if (head == cq->head || head == cq->bad)
		return;
	steps = head > cq->head ? head - cq->head : head + size - cq->head;
	if (head >= size || steps > nvme_cq_used(cq)) {
		cq->bad = head;
		nvme_bad_value(cq->nvme);
		return;
	}
	cq->head = head;
	cq->bad = UINT32_MAX;
}

static bool
nvme_cq_fits(const struct nvme_cq *cq)
{
	return nvme_cq_used(cq) + cq->reserved < cq->size - 1;
}

bool
nvme_cq_has_room(struct nvme_cq *cq)
{
	if (nvme_cq_fits(cq))
		return true;
	nvme_cq_refresh(cq);
	if (nvme_cq_fits(cq))
		return true;
	/* Ask to be told, then look once more: the guest may have moved on between the two. */
	atomic_store(&cq->wanted, true);
	if (cq->event != NULL)
		atomic_store(cq->event, cq->head);
	nvme_cq_refresh(cq);
	return nvme_cq_fits(cq);
}

/* Whether the same command will fail again; what is not the command's fault may pass. */
static bool
nvme_status_is_final(uint32_t status)
{
	switch (status) {
	case NVME_INTERNAL_ERROR:
	case NVME_ABORT_REQUESTED:
	case NVME_ABORTED_SQ_DELETION:
	case NVME_AER_LIMIT_EXCEEDED:
	case NVME_WRITE_FAULT:
	case NVME_READ_ERROR: return false;
	}
	return true;
}

void
nvme_complete(struct nvme *n, struct nvme_sq *sq, struct nvme_cmd *cmd, uint32_t status)
{
	struct nvme_cq *cq = &n->cq[sq->cqid];
	uint32_t tail = atomic_load_explicit(&cq->tail, memory_order_relaxed);
	struct nvme_cqe e = {
		.dw0 = cmd->dw0, .sqhd = (uint16_t)sq->head, .sqid = sq->qid, .cid = cmd->sqe.cid
	};
	uint8_t *entry = cq->ring + ((size_t)tail << NVME_CQES);
	uint16_t field = 0;

	if (status != NVME_OK) {
		field = (uint16_t)(status | NVME_STATUS_MORE);
		if (nvme_status_is_final(status))
			field |= NVME_STATUS_DNR;
		nvme_error_add(n, cmd, field);
	}
	e.status = (uint16_t)(field << 1 | cq->phase);
	/* The phase tag says that the rest is there, so its word goes last. */
	memcpy(entry, &e, offsetof(struct nvme_cqe, cid));
	atomic_store_explicit((_Atomic uint32_t *)(entry + offsetof(struct nvme_cqe, cid)),
	    (uint32_t)e.cid | (uint32_t)e.status << 16, memory_order_release);
	vm_mem_written(n->vm, cq->gpa + ((uint64_t)tail << NVME_CQES), sizeof(e));
	if (++tail == cq->size) {
		tail = 0;
		cq->phase = !cq->phase;
	}
	atomic_store(&cq->tail, tail);
	nvme_irq_posted(cq);
}

void
nvme_req_end(struct nvme_req *req, uint32_t status)
{
	struct nvme *n = req->nvme;
	struct nvme_sq *sq = req->sq;

	n->cq[sq->cqid].reserved--;
	sq->in_flight--;
	if (--n->in_flight == 0)
		n->count.busy_ns += vm_clock_ns(vm_loop(n->vm)) - n->count.busy_since;
	/* While a reset waits for the last request, none is completed any more. */
	if (n->phase != NVME_STOPPING)
		nvme_complete(n, sq, &req->cmd, status);
	req->busy = false;
	req->next = n->free;
	n->free = req;
	if (n->phase == NVME_STOPPING)
		return;
	if (sq->deleting && sq->in_flight == 0)
		nvme_sq_deleted(sq);
	for (unsigned i = 0; i < NVME_QUEUE_WORDS; i++) {
		if (n->backlog[i] != 0)
			block_post(n->disk, &n->kick_work);
	}
}

/* --- Submission queues --- */

/* The tail as the guest last told it. */
static uint32_t
nvme_sq_tail(struct nvme_sq *sq)
{
	uint32_t tail;

	if (sq->shadow == NULL)
		return atomic_load_explicit(&sq->doorbell, memory_order_acquire);
	tail = atomic_load_explicit(sq->shadow, memory_order_acquire);
	if (tail < sq->size)
		return tail;
	if (tail != sq->bad) {
		sq->bad = tail;
		nvme_bad_value(sq->nvme);
	}
	return sq->head;
}

/* Whether there is nothing in it; asks to be told of more. */
static bool
nvme_sq_is_empty(struct nvme_sq *sq)
{
	if (nvme_sq_tail(sq) != sq->head)
		return false;
	if (sq->event == NULL)
		return true;
	/* The guest writes the shadow, then looks at the event index; we the other way round. */
	atomic_store(sq->event, sq->head);
	return nvme_sq_tail(sq) == sq->head;
}

/* Copies the next command out of the queue. */
static void
nvme_sq_take(struct nvme_sq *sq, struct nvme_cmd *cmd)
{
	memcpy(&cmd->sqe, sq->ring + ((size_t)sq->head << NVME_SQES), sizeof(cmd->sqe));
	cmd->sqid = sq->qid;
	cmd->where = NVME_AT_NONE;
	cmd->lba = 0;
	cmd->dw0 = 0;
	if (++sq->head == sq->size)
		sq->head = 0;
}

static void
nvme_sq_run_admin(struct nvme *n, struct nvme_sq *sq)
{
	struct nvme_cmd cmd;
	uint32_t status;

	nvme_sq_take(sq, &cmd);
	status = nvme_admin_run(n, &cmd);
	if (status != NVME_PENDING)
		nvme_complete(n, sq, &cmd, status);
}

static void
nvme_sq_run_io(struct nvme *n, struct nvme_sq *sq)
{
	struct nvme_req *req = n->free;
	uint32_t status;

	n->free = req->next;
	req->busy = true;
	req->abort = false;
	req->step = NULL;
	req->sq = sq;
	req->data.count = 0;
	n->cq[sq->cqid].reserved++;
	sq->in_flight++;
	if (n->in_flight++ == 0)
		n->count.busy_since = vm_clock_ns(vm_loop(n->vm));
	nvme_sq_take(sq, &req->cmd);
	status = nvme_io_run(req);
	if (status != NVME_PENDING)
		nvme_req_end(req, status);
}

/* Runs commands of a queue, no more than max; returns how many. What can be left stays in the
 * backlog. */
static unsigned
nvme_sq_run(struct nvme *n, struct nvme_sq *sq, unsigned max)
{
	unsigned count = 0;

	while (count < max) {
		if (!nvme_sq_exists(n, sq->qid) || sq->deleting || nvme_sq_is_empty(sq)) {
			n->backlog[sq->qid / 64] &= ~BIT64(sq->qid % 64);
			break;
		}
		if (!nvme_cq_has_room(&n->cq[sq->cqid]))
			break;
		if (sq->qid == 0)
			nvme_sq_run_admin(n, sq);
		else if (n->free != NULL)
			nvme_sq_run_io(n, sq);
		else
			break;
		count++;
	}
	return count;
}

/* What doorbells could only note. */
static void
nvme_kick_errors(struct nvme *n)
{
	if (atomic_exchange(&n->bad_value, false))
		nvme_bad_value(n);
	if (atomic_exchange(&n->bad_register, false)) {
		log_guest(n->name, "write to the doorbell of a queue that is not there");
		nvme_error_add(n, NULL, NVME_INVALID_FIELD);
		nvme_event(n, NVME_EVENT_ERROR, NVME_ERROR_DOORBELL_REGISTER);
	}
}

/* A turn of every queue that has something, a burst each (round robin arbitration, 4.13.1). */
static unsigned
nvme_kick_round(struct nvme *n)
{
	unsigned burst = BITS(n->features.arbitration, 0, 3), count = 0;

	burst = burst == 7 ? NVME_KICK_BUDGET : 1u << burst;
	for (unsigned i = 0; i < n->queues; i++) {
		unsigned qid = n->turn;

		n->turn = qid + 1 < n->queues ? qid + 1 : 0;
		if (nvme_bit_test(n->backlog, qid))
			count += nvme_sq_run(n, &n->sq[qid], burst);
	}
	return count;
}

void
nvme_kick_run(void *ctx)
{
	struct nvme *n = ctx;
	unsigned done = 0, count;

	if (n->phase != NVME_RUNNING)
		return;
	nvme_kick_errors(n);
	for (unsigned i = 0; i < NVME_QUEUE_WORDS; i++) {
		if (atomic_load_explicit(&n->rung[i], memory_order_relaxed) != 0)
			n->backlog[i] |= atomic_exchange(&n->rung[i], 0);
	}
	if (!pci_is_bus_master(n->dev))
		return;
	nvme_events_deliver(n);
	do {
		count = nvme_kick_round(n);
		done += count;
	} while (count != 0 && done < NVME_KICK_BUDGET);
	if (count != 0)
		block_post(n->disk, &n->kick_work);
}

/* --- Doorbells --- */

void
nvme_sq_ring(void *ctx, uint64_t val)
{
	struct nvme_sq *sq = ctx;
	struct nvme *n = sq->nvme;
	uint32_t size = atomic_load(&sq->size), tail = (uint32_t)val & 0xffff;

	if (size == 0)
		atomic_store(&n->bad_register, true);
	else if (tail >= size)
		atomic_store(&n->bad_value, true);
	else {
		atomic_store(&sq->doorbell, tail);
		atomic_fetch_or(&n->rung[sq->qid / 64], BIT64(sq->qid % 64));
	}
	block_post(n->disk, &n->kick_work);
}

void
nvme_cq_ring(void *ctx, uint64_t val)
{
	struct nvme_cq *cq = ctx;
	struct nvme *n = cq->nvme;
	uint32_t size = atomic_load(&cq->size), head = (uint32_t)val & 0xffff;

	if (size == 0 || head >= size) {
		atomic_store(size == 0 ? &n->bad_register : &n->bad_value, true);
		block_post(n->disk, &n->kick_work);
		return;
	}
	atomic_store(&cq->doorbell, head);
	/* The disk's thread needs to know only when it is out of room. */
	if (atomic_load(&cq->wanted) && atomic_exchange(&cq->wanted, false))
		block_post(n->disk, &n->kick_work);
	if (pci_irq_kind(n->dev) == PCI_IRQ_INTX)
		nvme_irq_pin_update(n);
}

void
nvme_queue_init(struct nvme *n)
{
	for (unsigned qid = 0; qid < n->queues; qid++) {
		n->sq[qid].nvme = n;
		n->sq[qid].qid = (uint16_t)qid;
		n->cq[qid].nvme = n;
		n->cq[qid].qid = (uint16_t)qid;
	}
	block_work_init(&n->kick_work, nvme_kick_run, n);
	block_work_init(&n->raise_work, nvme_raise_run, n);
}
