/*
 * Enabling, resetting and shutting down the controller (NVMe 1.4, 3.1.5, 7.3, 7.6).
 *
 *	          EN=1              SHN              drained, flushed
 *	NVME_OFF ------> RUNNING ---------> SHUTTING -----------------> SHUT
 *	    ^               |                  |                         |
 *	    |   drained     v EN=0             v EN=0, once drained      v EN=0
 *	    +----------- STOPPING <--------------------------------------+
 *
 * A shutdown of a controller that is not enabled goes from NVME_OFF to SHUTTING and back.
 *
 * A vCPU writes CC and posts nvme_control_run(), which takes the steps on the disk's thread; CSTS
 * tells the guest when they are done. A reset that was missed because EN was 0 for a moment only is
 * seen by its count.
 */
#include "storage/nvme_impl.h"

#include "base/log.h"

static void
nvme_csts_set(struct nvme *n, uint32_t clear, uint32_t set)
{
	atomic_store(&n->csts, (atomic_load(&n->csts) & ~clear) | set);
}

static bool
nvme_wants_stop(struct nvme *n)
{
	return (atomic_load(&n->cc) & NVME_CC_EN) == 0 || atomic_load(&n->resets) != n->resets_done;
}

/* --- Enabling --- */

/* What is wrong with the registers, or NULL after making the admin queues. */
static const char *
nvme_enable(struct nvme *n)
{
	uint32_t cc = atomic_load(&n->cc), aqa = atomic_load(&n->aqa);
	uint32_t sq_size = (uint32_t)BITS(aqa, 0, 12) + 1,
		 cq_size = (uint32_t)BITS(aqa, 16, 12) + 1;
	uint64_t asq = atomic_load(&n->asq), acq = atomic_load(&n->acq);

	if (NVME_CC_CSS(cc) != 0 || NVME_CC_AMS(cc) != 0)
		return "command set or arbitration that is not offered";
	if (NVME_CC_MPS(cc) > NVME_MPSMAX)
		return "memory page size that is not offered";
	if (((asq | acq) & (nvme_page_size(n) - 1)) != 0)
		return "admin queue that does not start on a page";
	if (sq_size < 2 || cq_size < 2)
		return "admin queue of one entry";
	if (nvme_cq_create(n, 0, acq, cq_size, 0, true) != 0)
		return "admin completion queue that is not in memory";
	if (nvme_sq_create(n, 0, asq, sq_size, 0) != 0) {
		nvme_cq_destroy(&n->cq[0]);
		return "admin submission queue that is not in memory";
	}
	return NULL;
}

static void
nvme_start(struct nvme *n)
{
	const char *wrong = nvme_enable(n);

	if (wrong != NULL) {
		log_guest(n->name, "enabled with an %s", wrong);
		n->phase = NVME_FATAL;
		nvme_csts_set(n, UINT32_MAX, NVME_CSTS_CFS);
		return;
	}
	n->phase = NVME_RUNNING;
	nvme_csts_set(n, UINT32_MAX, NVME_CSTS_RDY);
	block_post(n->disk, &n->control_work); /* CC.SHN may be set already */
}

/* --- Resetting --- */

static void
nvme_stop(struct nvme *n)
{
	n->phase = NVME_STOPPING;
	block_cancel(n->disk);
	block_drain_post(n->disk, &n->stopped_work);
}

/* No request is left: everything but the error log and the counters is as at the beginning. */
static void
nvme_stopped(void *ctx)
{
	struct nvme *n = ctx;

	n->resets_done = atomic_load(&n->resets);
	for (unsigned qid = n->queues; qid-- > 0;)
		nvme_sq_destroy(&n->sq[qid]);
	for (unsigned qid = n->queues; qid-- > 0;)
		nvme_cq_destroy(&n->cq[qid]);
	for (unsigned i = 0; i < NVME_QUEUE_WORDS; i++) {
		atomic_store(&n->rung[i], 0);
		n->backlog[i] = 0;
		n->posted[i] = 0;
	}
	atomic_store(&n->bad_register, false);
	atomic_store(&n->bad_value, false);
	vm_timer_cancel(n->coalesce_timer);
	n->coalescing = false;
	n->shadow_gpa = 0;
	n->event_gpa = 0;
	n->aers = 0;
	n->turn = 0;
	n->too_hot = false;
	for (int i = 0; i < NVME_EVENT_TYPES; i++) {
		n->event[i] = 0;
		n->event_masked[i] = false;
	}
	nvme_features_reset(n);
	atomic_store(&n->intms, 0);
	nvme_irq_pin_update(n);
	n->phase = NVME_OFF;
	atomic_store(&n->csts, 0);
	nvme_control_run(n);
}

/* --- Shutting down --- */

static void
nvme_flushed(struct block_req *req, int err)
{
	struct nvme *n = req->owner;

	/* A failure has been told to the user. For the guest there is no way to learn of it here;
	 * what it flushed itself it knows about. */
	(void)err;
	n->phase = nvme_sq_exists(n, 0) ? NVME_SHUT : NVME_OFF;
	nvme_csts_set(n, NVME_CSTS_SHST, NVME_CSTS_SHST_DONE);
	nvme_control_run(n);
}

static void
nvme_drained(void *ctx)
{
	struct nvme *n = ctx;

	if (nvme_sq_exists(n, 0) && nvme_wants_stop(n)) {
		nvme_stop(n);
		return;
	}
	n->flush = (struct block_req){ .op = BLOCK_FLUSH, .done = nvme_flushed, .owner = n };
	block_submit(n->disk, &n->flush);
}

static void
nvme_shut(struct nvme *n)
{
	n->phase = NVME_SHUTTING;
	nvme_csts_set(n, NVME_CSTS_SHST, NVME_CSTS_SHST_BUSY);
	block_drain_post(n->disk, &n->drained_work);
}

/* --- Following CC --- */

void
nvme_control_run(void *ctx)
{
	struct nvme *n = ctx;
	uint32_t cc = atomic_load(&n->cc);
	bool shut = NVME_CC_SHN(cc) != 0 && (atomic_load(&n->csts) & NVME_CSTS_SHST) == 0;

	switch (n->phase) {
	case NVME_OFF:
		n->resets_done = atomic_load(&n->resets);
		if (atomic_exchange(&n->bus_reset, false))
			sem_post(&n->bus_reset_done);
		if ((cc & NVME_CC_EN) != 0)
			nvme_start(n);
		else if (shut)
			nvme_shut(n);
		break;
	case NVME_RUNNING:
		if (nvme_wants_stop(n))
			nvme_stop(n);
		else if (shut)
			nvme_shut(n);
		break;
	case NVME_FATAL:
	case NVME_SHUT:
		if (nvme_wants_stop(n))
			nvme_stop(n);
		break;
	case NVME_SHUTTING:
	case NVME_STOPPING: break;
	}
	if (n->phase == NVME_RUNNING)
		block_post(n->disk, &n->kick_work);
}

void
nvme_control_init(struct nvme *n)
{
	block_work_init(&n->control_work, nvme_control_run, n);
	block_work_init(&n->stopped_work, nvme_stopped, n);
	block_work_init(&n->drained_work, nvme_drained, n);
}
