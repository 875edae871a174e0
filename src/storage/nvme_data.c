/*
 * Where a command's data is: PRP entries and lists (NVMe 1.4, 4.3), SGLs (4.4).
 *
 * The guest may change lists while we walk them: each entry is copied once, and what is checked is
 * the copy. Both walks end, because every step of a PRP list takes a page off the length, and those
 * of an SGL are counted.
 */
#include "storage/nvme_impl.h"

#include <string.h>

#include "base/iov.h"

/* Descriptors read of one SGL; those of length 0 and segments do not count as pieces. */
#define NVME_SGL_DESCRIPTORS 4096

/* --- Pieces --- */

/* Adds memory; what follows the last piece makes it longer. */
static uint32_t
nvme_data_add(struct nvme *n, struct nvme_data *data, uint64_t gpa, uint64_t len)
{
	uint8_t *p = vm_mem_ptr(n->vm, gpa, len);
	struct iovec *last = data->count != 0 ? &data->iov[data->count - 1] : NULL;

	if (p == NULL)
		return NVME_DATA_TRANSFER_ERROR;
	if (last != NULL && last->iov_base != n->scratch &&
	    vm_mem_gpa(n->vm, last->iov_base) + last->iov_len == gpa) {
		last->iov_len += len;
		return NVME_OK;
	}
	if (data->count == NVME_PIECES)
		return NVME_SGL_COUNT_INVALID;
	data->iov[data->count++] = (struct iovec){ p, len };
	return NVME_OK;
}

/* Adds memory that nobody reads. */
static uint32_t
nvme_data_add_scratch(struct nvme *n, struct nvme_data *data, uint64_t len)
{
	while (len != 0) {
		uint64_t step = MIN(len, NVME_SCRATCH);

		if (data->count == NVME_PIECES)
			return NVME_SGL_COUNT_INVALID;
		data->iov[data->count++] = (struct iovec){ n->scratch, step };
		len -= step;
	}
	return NVME_OK;
}

/* --- PRPs --- */

/* A list of entries that describe len bytes. */
static uint32_t
nvme_prp_list(
    struct nvme *n, struct nvme_cmd *cmd, uint64_t list, uint64_t len, struct nvme_data *data)
{
	uint64_t page = nvme_page_size(n), entry;
	uint32_t status = NVME_OK;

	while (status == NVME_OK && len != 0) {
		if (vm_mem_read(n->vm, list, &entry, sizeof(entry)) != 0)
			return nvme_blame(cmd, NVME_AT_PRP2, NVME_DATA_TRANSFER_ERROR);
		if ((entry & (page - 1)) != 0)
			return nvme_blame(cmd, NVME_AT_PRP2, NVME_PRP_OFFSET_INVALID);
		list += sizeof(entry);
		/* The last entry of a page leads to the next page of the list, if there is more
		 * than it can describe. */
		if ((list & (page - 1)) == 0 && len > page) {
			list = entry;
			continue;
		}
		status = nvme_data_add(n, data, entry, MIN(len, page));
		len -= MIN(len, page);
	}
	return status;
}

static uint32_t
nvme_prp_map(struct nvme *n, struct nvme_cmd *cmd, uint64_t len, struct nvme_data *data)
{
	uint64_t page = nvme_page_size(n), prp1 = cmd->sqe.prp1, prp2 = cmd->sqe.prp2;
	uint64_t first = MIN(len, page - (prp1 & (page - 1)));
	uint32_t status;

	if ((prp1 & 3) != 0)
		return nvme_blame(cmd, NVME_AT_PRP1, NVME_PRP_OFFSET_INVALID);
	status = nvme_data_add(n, data, prp1, first);
	if (status != NVME_OK)
		return nvme_blame(cmd, NVME_AT_PRP1, status);
	len -= first;
	if (len == 0)
		return NVME_OK;
	if (len > page) {
		if ((prp2 & 7) != 0)
			return nvme_blame(cmd, NVME_AT_PRP2, NVME_PRP_OFFSET_INVALID);
		return nvme_prp_list(n, cmd, prp2, len, data);
	}
	if ((prp2 & (page - 1)) != 0)
		return nvme_blame(cmd, NVME_AT_PRP2, NVME_PRP_OFFSET_INVALID);
	return nvme_blame(cmd, NVME_AT_PRP2, nvme_data_add(n, data, prp2, len));
}

/* --- SGLs --- */

struct nvme_sgl_walk {
	struct nvme *n;
	struct nvme_data *data;
	uint64_t left; /* bytes of data not described yet */
	bool to_guest;
	/* The segment being read. */
	uint64_t at;
	uint32_t descriptors;
	bool is_last;
	unsigned budget;
};

/* A descriptor that describes data. */
static uint32_t
nvme_sgl_data(struct nvme_sgl_walk *w, const struct nvme_sgl *d)
{
	uint64_t len = MIN(d->len, w->left);

	if (d->id == NVME_SGL_BIT_BUCKET) {
		if (!w->to_guest) /* then it stands for nothing (4.4.1) */
			return NVME_OK;
		w->left -= len;
		return nvme_data_add_scratch(w->n, w->data, len);
	}
	w->left -= len;
	return len == 0 ? NVME_OK : nvme_data_add(w->n, w->data, d->addr, len);
}

/* A descriptor that leads to a segment of descriptors. */
static uint32_t
nvme_sgl_enter(struct nvme_sgl_walk *w, const struct nvme_sgl *d)
{
	if (d->len == 0 || d->len % sizeof(struct nvme_sgl) != 0)
		return NVME_SGL_SEGMENT_INVALID;
	w->at = d->addr;
	w->descriptors = d->len / (uint32_t)sizeof(struct nvme_sgl);
	w->is_last = d->id == NVME_SGL_LAST_SEGMENT;
	return NVME_OK;
}

/* The next descriptor of a segment. */
static uint32_t
nvme_sgl_step(struct nvme_sgl_walk *w)
{
	struct nvme_sgl d;

	if (w->budget-- == 0)
		return NVME_SGL_COUNT_INVALID;
	if (vm_mem_read(w->n->vm, w->at, &d, sizeof(d)) != 0)
		return NVME_DATA_TRANSFER_ERROR;
	w->at += sizeof(d);
	w->descriptors--;
	switch (d.id) {
	case NVME_SGL_DATA:
	case NVME_SGL_BIT_BUCKET:
		/* A segment that is not the last one ends with a segment descriptor. */
		if (w->descriptors == 0 && !w->is_last)
			return NVME_SGL_SEGMENT_INVALID;
		return nvme_sgl_data(w, &d);
	case NVME_SGL_SEGMENT:
	case NVME_SGL_LAST_SEGMENT:
		if (w->descriptors != 0 || w->is_last)
			return NVME_SGL_COUNT_INVALID;
		return nvme_sgl_enter(w, &d);
	}
	return NVME_SGL_TYPE_INVALID;
}

static uint32_t
nvme_sgl_map(
    struct nvme *n, struct nvme_cmd *cmd, uint64_t len, bool to_guest, struct nvme_data *data)
{
	struct nvme_sgl_walk w = { .n = n,
		.data = data,
		.left = len,
		.to_guest = to_guest,
		.budget = NVME_SGL_DESCRIPTORS };
	struct nvme_sgl first;
	uint32_t status;

	memcpy(&first, &cmd->sqe.prp1, sizeof(first));
	switch (first.id) {
	case NVME_SGL_DATA:
	case NVME_SGL_BIT_BUCKET: status = nvme_sgl_data(&w, &first); break;
	case NVME_SGL_SEGMENT:
	case NVME_SGL_LAST_SEGMENT: status = nvme_sgl_enter(&w, &first); break;
	default: status = NVME_SGL_TYPE_INVALID; break;
	}
	while (status == NVME_OK && w.left != 0 && w.descriptors != 0)
		status = nvme_sgl_step(&w);
	if (status == NVME_OK && w.left != 0)
		status = NVME_SGL_LENGTH_INVALID;
	return nvme_blame(cmd, NVME_AT_PRP1, status);
}

uint32_t
nvme_data_map(
    struct nvme *n, struct nvme_cmd *cmd, uint64_t len, bool to_guest, struct nvme_data *data)
{
	data->count = 0;
	if (NVME_SQE_PSDT(&cmd->sqe) != 0)
		return nvme_sgl_map(n, cmd, len, to_guest, data);
	return nvme_prp_map(n, cmd, len, data);
}

/* --- Copies --- */

void
nvme_data_written(struct nvme *n, const struct nvme_data *data)
{
	for (int i = 0; i < data->count; i++) {
		const struct iovec *v = &data->iov[i];

		if (v->iov_base != n->scratch)
			vm_mem_written(n->vm, vm_mem_gpa(n->vm, v->iov_base), v->iov_len);
	}
}

void
nvme_data_put(struct nvme *n, const struct nvme_data *data, const void *buf, size_t len)
{
	(void)iov_scatter(data->iov, data->count, 0, buf, len);
	nvme_data_written(n, data);
}

void
nvme_data_get(const struct nvme_data *data, void *buf, size_t len)
{
	(void)iov_gather(data->iov, data->count, 0, buf, len);
}

bool
nvme_data_equal(const struct nvme_data *data, const void *buf, size_t len)
{
	const uint8_t *with = buf;

	for (int i = 0; i < data->count && len != 0; i++) {
		size_t step = MIN(len, data->iov[i].iov_len);

		if (memcmp(with, data->iov[i].iov_base, step) != 0)
			return false;
		with += step;
		len -= step;
	}
	return true;
}

uint32_t
nvme_admin_put(struct nvme *n, struct nvme_cmd *cmd, const void *buf, size_t len)
{
	uint32_t status = nvme_data_map(n, cmd, len, true, &n->admin_data);

	if (status == NVME_OK)
		nvme_data_put(n, &n->admin_data, buf, len);
	return status;
}

uint32_t
nvme_admin_get(struct nvme *n, struct nvme_cmd *cmd, void *buf, size_t len)
{
	uint32_t status = nvme_data_map(n, cmd, len, false, &n->admin_data);

	if (status == NVME_OK)
		nvme_data_get(&n->admin_data, buf, len);
	return status;
}
