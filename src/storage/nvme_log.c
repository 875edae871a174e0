/*
 * Get Log Page (NVMe 1.4, 5.14), the error log, and asynchronous events (5.2).
 */
#include "storage/nvme_impl.h"

#include <string.h>

/* --- The error log --- */

void
nvme_error_add(struct nvme *n, const struct nvme_cmd *cmd, uint32_t status)
{
	struct nvme_error_entry *e = &n->error[n->count.errors++ % NVME_ERRORS];

	*e = (struct nvme_error_entry){ .count = n->count.errors,
		.sqid = 0xffff, /* of no command */
		.cid = 0xffff,
		.status = (uint16_t)(status << 1),
		.location = NVME_AT_NONE };
	if (cmd == NULL)
		return;
	e->sqid = cmd->sqid;
	e->cid = cmd->sqe.cid;
	e->location = cmd->where;
	e->lba = cmd->lba;
	e->nsid = cmd->sqe.nsid;
}

/* --- Events --- */

static const uint8_t nvme_event_log[NVME_EVENT_TYPES] = {
	[NVME_EVENT_ERROR] = NVME_LOG_ERROR,
	[NVME_EVENT_SMART] = NVME_LOG_SMART,
	[NVME_EVENT_NOTICE] = NVME_LOG_CHANGED_NS,
};

void
nvme_event(struct nvme *n, enum nvme_event_type type, unsigned info)
{
	if (n->phase != NVME_RUNNING)
		return;
	n->event[type] |= BIT(info);
	block_post(n->disk, &n->kick_work);
}

void
nvme_events_deliver(struct nvme *n)
{
	for (unsigned type = 0; type < NVME_EVENT_TYPES; type++) {
		struct nvme_cmd cmd = { .where = NVME_AT_NONE };
		unsigned info;

		if (n->event[type] == 0 || n->event_masked[type] || n->aers == 0)
			continue;
		if (!nvme_cq_has_room(&n->cq[0]))
			return;
		info = (unsigned)__builtin_ctz(n->event[type]);
		n->event[type] &= ~BIT(info);
		n->event_masked[type] = true;
		cmd.dw0 = type | info << 8 | (uint32_t)nvme_event_log[type] << 16;
		cmd.sqe.cid = n->aer[0];
		n->aers--;
		memmove(&n->aer[0], &n->aer[1], n->aers * sizeof(n->aer[0]));
		nvme_complete(n, &n->sq[0], &cmd, NVME_OK);
	}
}

/* The guest has read a log page: what it told of may be told again. */
static void
nvme_events_unmask(struct nvme *n, uint32_t log)
{
	for (unsigned type = 0; type < NVME_EVENT_TYPES; type++) {
		if (nvme_event_log[type] == log && n->event_masked[type]) {
			n->event_masked[type] = false;
			block_post(n->disk, &n->kick_work);
		}
	}
}

bool
nvme_is_temperature_bad(const struct nvme *n)
{
	return NVME_TEMPERATURE >= n->features.temperature_over ||
	       NVME_TEMPERATURE <= n->features.temperature_under;
}

void
nvme_temperature_check(struct nvme *n)
{
	bool bad = nvme_is_temperature_bad(n);

	if (bad && !n->too_hot && (n->features.events & NVME_EVENTS_TEMPERATURE) != 0)
		nvme_event(n, NVME_EVENT_SMART, NVME_SMART_TEMPERATURE);
	n->too_hot = bad;
}

/* --- Pages --- */

static void
nvme_log_error(struct nvme *n, struct nvme_error_entry out[NVME_ERRORS])
{
	uint64_t count = n->count.errors;

	for (unsigned i = 0; i < NVME_ERRORS && i < count; i++)
		out[i] = n->error[(count - 1 - i) % NVME_ERRORS];
}

static void
nvme_log_smart(struct nvme *n, struct nvme_smart_log *out)
{
	const struct nvme_counters *c = &n->count;
	uint64_t now = vm_clock_ns(vm_loop(n->vm));
	uint64_t busy = c->busy_ns + (n->in_flight != 0 ? now - c->busy_since : 0);

	out->critical_warning = nvme_is_temperature_bad(n) ? NVME_EVENTS_TEMPERATURE : 0;
	out->temperature[0] = NVME_TEMPERATURE & 0xff;
	out->temperature[1] = NVME_TEMPERATURE >> 8;
	out->available_spare = 100;
	out->spare_threshold = 10;
	out->data_units_read[0] = (c->bytes_read / 512 + 999) / 1000;
	out->data_units_written[0] = (c->bytes_written / 512 + 999) / 1000;
	out->host_reads[0] = c->reads;
	out->host_writes[0] = c->writes;
	out->busy_minutes[0] = busy / 60000000000u;
	out->power_cycles[0] = 1;
	out->power_on_hours[0] = (now - n->power_on_ns) / 3600000000000u;
	out->media_errors[0] = c->media_errors;
	out->error_entries[0] = c->errors;
}

static void
nvme_log_effects(struct nvme *n, struct nvme_effects_log *out)
{
	static const uint8_t admin[] = { NVME_ADMIN_DELETE_SQ, NVME_ADMIN_CREATE_SQ,
		NVME_ADMIN_GET_LOG, NVME_ADMIN_DELETE_CQ, NVME_ADMIN_CREATE_CQ, NVME_ADMIN_IDENTIFY,
		NVME_ADMIN_ABORT, NVME_ADMIN_SET_FEATURES, NVME_ADMIN_GET_FEATURES,
		NVME_ADMIN_ASYNC_EVENT, NVME_ADMIN_DOORBELL_BUFFER };
	static const uint8_t io[] = { NVME_IO_FLUSH, NVME_IO_READ, NVME_IO_COMPARE,
		NVME_IO_VERIFY };
	static const uint8_t io_content[] = { NVME_IO_WRITE, NVME_IO_WRITE_UNCORRECTABLE,
		NVME_IO_WRITE_ZEROES };

	for (size_t i = 0; i < ARRAY_SIZE(admin); i++)
		out->admin[admin[i]] = NVME_EFFECT_SUPPORTED;
	for (size_t i = 0; i < ARRAY_SIZE(io); i++)
		out->io[io[i]] = NVME_EFFECT_SUPPORTED;
	for (size_t i = 0; i < ARRAY_SIZE(io_content); i++)
		out->io[io_content[i]] = NVME_EFFECT_SUPPORTED | NVME_EFFECT_CONTENT;
	if (n->dsm)
		out->io[NVME_IO_DSM] = NVME_EFFECT_SUPPORTED | NVME_EFFECT_CONTENT;
}

/* Makes a page in n->page. Its size, or 0 when there is no such page. */
static size_t
nvme_log_make(struct nvme *n, uint32_t id)
{
	struct nvme_firmware_log *fw = (void *)n->page;

	static_assert(sizeof(n->error) <= sizeof(n->page), "the error log fits");
	memset(n->page, 0, sizeof(n->page));
	switch (id) {
	case NVME_LOG_ERROR: nvme_log_error(n, (void *)n->page); return sizeof(n->error);
	case NVME_LOG_SMART:
		nvme_log_smart(n, (void *)n->page);
		return sizeof(struct nvme_smart_log);
	case NVME_LOG_FIRMWARE:
		fw->active = 1;
		memset(fw->revision[0], ' ', sizeof(fw->revision[0]));
		memcpy(fw->revision[0], NVME_FIRMWARE, strlen(NVME_FIRMWARE));
		return sizeof(*fw);
	case NVME_LOG_CHANGED_NS:
		n->page[0] = n->namespace_changed ? NVME_NSID : 0;
		return NVME_IDENTIFY_SIZE;
	case NVME_LOG_EFFECTS:
		nvme_log_effects(n, (void *)n->page);
		return sizeof(struct nvme_effects_log);
	}
	return 0;
}

/* Zeros behind the end of a page. */
static uint32_t
nvme_log_put(struct nvme *n, struct nvme_cmd *cmd, const uint8_t *page, size_t size, uint64_t len)
{
	uint32_t status = nvme_data_map(n, cmd, len, true, &n->admin_data);

	if (status != NVME_OK)
		return status;
	for (int i = 0; i < n->admin_data.count; i++)
		memset(n->admin_data.iov[i].iov_base, 0, n->admin_data.iov[i].iov_len);
	nvme_data_put(n, &n->admin_data, page, MIN(size, len));
	return NVME_OK;
}

uint32_t
nvme_log_get(struct nvme *n, struct nvme_cmd *cmd)
{
	const struct nvme_sqe *s = &cmd->sqe;
	uint32_t id = s->cdw10 & 0xff, status;
	uint64_t dwords = (s->cdw10 >> 16 | (uint64_t)(s->cdw11 & 0xffff) << 16) + 1;
	uint64_t at = s->cdw12 | (uint64_t)s->cdw13 << 32, len = dwords * 4;
	size_t size = nvme_log_make(n, id);

	if (size == 0)
		return nvme_blame(cmd, NVME_AT_CDW10, NVME_LOG_PAGE_INVALID);
	/* Only the SMART page can be asked of a namespace (5.14.1). */
	if (s->nsid != 0 && s->nsid != NVME_NSID_ALL &&
	    !(s->nsid == NVME_NSID && id == NVME_LOG_SMART))
		return nvme_blame(cmd, NVME_AT_NSID, NVME_INVALID_FIELD);
	if (at % 4 != 0 || at > size)
		return nvme_blame(cmd, NVME_AT_CDW12, NVME_INVALID_FIELD);
	if (len > NVME_DATA_MAX)
		return nvme_blame(cmd, NVME_AT_CDW10 + 2, NVME_INVALID_FIELD);
	status = nvme_log_put(n, cmd, n->page + at, size - at, len);
	/* Retain asynchronous event: the guest will read the page again (5.14). */
	if (status == NVME_OK && (s->cdw10 & BIT(15)) == 0) {
		if (id == NVME_LOG_CHANGED_NS)
			n->namespace_changed = false;
		nvme_events_unmask(n, id);
	}
	return status;
}
