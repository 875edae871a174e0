/*
 * Admin commands about queues, Abort, Asynchronous Event Request and Doorbell Buffer Config (NVMe
 * 1.4, 5). What is optional and not offered (firmware, format, security, namespace management...)
 * is an invalid opcode.
 */
#include "storage/nvme_impl.h"

/* --- Queues --- */

/* Checks what both kinds have in common: memory, contiguous (CAP.CQR), and size. */
static uint32_t
nvme_queue_check(struct nvme *n, struct nvme_cmd *cmd, uint32_t size)
{
	if (size < 2 || size > n->entries)
		return nvme_blame(cmd, NVME_AT_CDW10 + 2, NVME_QUEUE_SIZE_INVALID);
	if ((cmd->sqe.cdw11 & 1) == 0)
		return nvme_blame(cmd, NVME_AT_CDW11, NVME_INVALID_FIELD);
	if ((cmd->sqe.prp1 & (nvme_page_size(n) - 1)) != 0)
		return nvme_blame(cmd, NVME_AT_PRP1, NVME_PRP_OFFSET_INVALID);
	return NVME_OK;
}

static uint32_t
nvme_vectors(const struct nvme *n)
{
	switch (pci_irq_kind(n->dev)) {
	case PCI_IRQ_INTX: return 1;
	case PCI_IRQ_MSI: return n->msi_vectors;
	case PCI_IRQ_MSIX: break;
	}
	return n->queues;
}

/* 5.3 */
static uint32_t
nvme_create_cq(struct nvme *n, struct nvme_cmd *cmd)
{
	uint16_t qid = (uint16_t)cmd->sqe.cdw10;
	uint32_t size = (cmd->sqe.cdw10 >> 16) + 1, vector = cmd->sqe.cdw11 >> 16, status;

	if (qid == 0 || qid >= n->queues || nvme_cq_exists(n, qid))
		return nvme_blame(cmd, NVME_AT_CDW10, NVME_QID_INVALID);
	status = nvme_queue_check(n, cmd, size);
	if (status != NVME_OK)
		return status;
	if (NVME_CC_IOCQES(atomic_load(&n->cc)) != NVME_CQES)
		return NVME_INVALID_FIELD;
	if (vector >= nvme_vectors(n))
		return nvme_blame(cmd, NVME_AT_CDW11 + 2, NVME_VECTOR_INVALID);
	if (nvme_cq_create(n, qid, cmd->sqe.prp1, size, vector, (cmd->sqe.cdw11 & 2) != 0) != 0)
		return nvme_blame(cmd, NVME_AT_PRP1, NVME_INVALID_FIELD);
	return NVME_OK;
}

/* 5.4 */
static uint32_t
nvme_create_sq(struct nvme *n, struct nvme_cmd *cmd)
{
	uint16_t qid = (uint16_t)cmd->sqe.cdw10, cqid = (uint16_t)(cmd->sqe.cdw11 >> 16);
	uint32_t size = (cmd->sqe.cdw10 >> 16) + 1, status;

	if (qid == 0 || qid >= n->queues || nvme_sq_exists(n, qid))
		return nvme_blame(cmd, NVME_AT_CDW10, NVME_QID_INVALID);
	if (cqid == 0 || cqid >= n->queues)
		return nvme_blame(cmd, NVME_AT_CDW11 + 2, NVME_QID_INVALID);
	if (!nvme_cq_exists(n, cqid))
		return nvme_blame(cmd, NVME_AT_CDW11 + 2, NVME_CQ_INVALID);
	status = nvme_queue_check(n, cmd, size);
	if (status != NVME_OK)
		return status;
	if (NVME_CC_IOSQES(atomic_load(&n->cc)) != NVME_SQES)
		return NVME_INVALID_FIELD;
	if (nvme_sq_create(n, qid, cmd->sqe.prp1, size, cqid) != 0)
		return nvme_blame(cmd, NVME_AT_PRP1, NVME_INVALID_FIELD);
	return NVME_OK;
}

/* 5.6: completed when the commands taken from the queue are; the others are never run. */
static uint32_t
nvme_delete_sq(struct nvme *n, struct nvme_cmd *cmd)
{
	uint16_t qid = (uint16_t)cmd->sqe.cdw10;
	struct nvme_sq *sq;

	if (qid == 0 || !nvme_sq_exists(n, qid) || n->sq[qid].deleting)
		return nvme_blame(cmd, NVME_AT_CDW10, NVME_QID_INVALID);
	sq = &n->sq[qid];
	if (sq->in_flight == 0) {
		nvme_sq_destroy(sq);
		return NVME_OK;
	}
	sq->deleting = true;
	sq->delete_cid = cmd->sqe.cid;
	n->cq[0].reserved++;
	return NVME_PENDING;
}

void
nvme_sq_deleted(struct nvme_sq *sq)
{
	struct nvme *n = sq->nvme;
	struct nvme_cmd cmd = { .sqe.cid = sq->delete_cid };

	nvme_sq_destroy(sq);
	n->cq[0].reserved--;
	nvme_complete(n, &n->sq[0], &cmd, NVME_OK);
}

/* 5.5 */
static uint32_t
nvme_delete_cq(struct nvme *n, struct nvme_cmd *cmd)
{
	uint16_t qid = (uint16_t)cmd->sqe.cdw10;

	if (qid == 0 || !nvme_cq_exists(n, qid))
		return nvme_blame(cmd, NVME_AT_CDW10, NVME_QID_INVALID);
	if (n->cq[qid].sqs != 0)
		return nvme_blame(cmd, NVME_AT_CDW10, NVME_QUEUE_DELETION_INVALID);
	nvme_cq_destroy(&n->cq[qid]);
	return NVME_OK;
}

/* --- Abort (5.1) --- */

static bool
nvme_abort_event_request(struct nvme *n, uint16_t cid)
{
	struct nvme_cmd cmd = { .sqe = { .opcode = NVME_ADMIN_ASYNC_EVENT, .cid = cid },
		.where = NVME_AT_NONE };

	for (unsigned i = 0; i < n->aers; i++) {
		if (n->aer[i] != cid)
			continue;
		/* Both this command and the one that aborts it need a place. */
		n->cq[0].reserved++;
		if (!nvme_cq_has_room(&n->cq[0])) {
			n->cq[0].reserved--;
			return false;
		}
		n->cq[0].reserved--;
		n->aers--;
		for (; i < n->aers; i++)
			n->aer[i] = n->aer[i + 1];
		nvme_complete(n, &n->sq[0], &cmd, NVME_ABORT_REQUESTED);
		return true;
	}
	return false;
}

/* What the host's storage works on cannot be called back, but commands of several steps can end
 * early. */
static bool
nvme_abort_request(struct nvme *n, uint16_t sqid, uint16_t cid)
{
	for (unsigned i = 0; i < n->slots; i++) {
		struct nvme_req *req = &n->req[i];

		if (req->busy && req->cmd.sqid == sqid && req->cmd.sqe.cid == cid) {
			req->abort = req->step != NULL;
			return req->abort;
		}
	}
	return false;
}

static uint32_t
nvme_abort(struct nvme *n, struct nvme_cmd *cmd)
{
	uint16_t sqid = (uint16_t)cmd->sqe.cdw10, cid = (uint16_t)(cmd->sqe.cdw10 >> 16);
	bool aborted;

	if (sqid == 0)
		aborted = nvme_abort_event_request(n, cid);
	else
		aborted = nvme_abort_request(n, sqid, cid);
	cmd->dw0 = !aborted;
	return NVME_OK;
}

/* --- The rest --- */

/* 5.2 */
static uint32_t
nvme_async_event(struct nvme *n, struct nvme_cmd *cmd)
{
	if (n->aers == NVME_AERS)
		return NVME_AER_LIMIT_EXCEEDED;
	n->aer[n->aers++] = cmd->sqe.cid;
	block_post(n->disk, &n->kick_work); /* something may be waiting to be told */
	return NVME_PENDING;
}

/* 5.7 */
static uint32_t
nvme_doorbell_buffer(struct nvme *n, struct nvme_cmd *cmd)
{
	uint64_t page = nvme_page_size(n), shadow = cmd->sqe.prp1, event = cmd->sqe.prp2;

	if (shadow == 0 || (shadow & (page - 1)) != 0 || vm_mem_ptr(n->vm, shadow, page) == NULL)
		return nvme_blame(cmd, NVME_AT_PRP1, NVME_INVALID_FIELD);
	if (event == 0 || (event & (page - 1)) != 0 || vm_mem_ptr(n->vm, event, page) == NULL)
		return nvme_blame(cmd, NVME_AT_PRP2, NVME_INVALID_FIELD);
	n->shadow_gpa = shadow;
	n->event_gpa = event;
	nvme_shadow_attach(n);
	return NVME_OK;
}

uint32_t
nvme_admin_run(struct nvme *n, struct nvme_cmd *cmd)
{
	/* Fused operations are not offered; over PCIe, admin commands have no SGLs (4.1.1). */
	if (cmd->sqe.flags != 0)
		return nvme_blame(cmd, NVME_AT_FLAGS, NVME_INVALID_FIELD);
	switch (cmd->sqe.opcode) {
	case NVME_ADMIN_DELETE_SQ: return nvme_delete_sq(n, cmd);
	case NVME_ADMIN_CREATE_SQ: return nvme_create_sq(n, cmd);
	case NVME_ADMIN_GET_LOG: return nvme_log_get(n, cmd);
	case NVME_ADMIN_DELETE_CQ: return nvme_delete_cq(n, cmd);
	case NVME_ADMIN_CREATE_CQ: return nvme_create_cq(n, cmd);
	case NVME_ADMIN_IDENTIFY: return nvme_identify(n, cmd);
	case NVME_ADMIN_ABORT: return nvme_abort(n, cmd);
	case NVME_ADMIN_SET_FEATURES: return nvme_feature_set(n, cmd);
	case NVME_ADMIN_GET_FEATURES: return nvme_feature_get(n, cmd);
	case NVME_ADMIN_ASYNC_EVENT: return nvme_async_event(n, cmd);
	case NVME_ADMIN_DOORBELL_BUFFER: return nvme_doorbell_buffer(n, cmd);
	}
	return nvme_blame(cmd, NVME_AT_OPCODE, NVME_INVALID_OPCODE);
}
