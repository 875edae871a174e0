/*
 * Get Features and Set Features (NVMe 1.4, 5.13, 5.21). None can be saved.
 */
#include "storage/nvme_impl.h"

#include <string.h>

#define NVME_SELECT_CURRENT       0
#define NVME_SELECT_DEFAULT       1
#define NVME_SELECT_SAVED         2
#define NVME_SELECT_SUPPORTED     3
#define NVME_SUPPORTED_NAMESPACE  BIT(1) /* it is of the namespace */
#define NVME_SUPPORTED_CHANGEABLE BIT(2)
#define NVME_BURST_DEFAULT        4 /* 2^4 commands of a queue, then the next one's */

struct nvme_feature {
	enum nvme_feature_id id;
	bool of_namespace, changeable;
	/* The value to report for f, now or by default; cmd is checked and may be changed. */
	uint32_t (*get)(struct nvme *n, const struct nvme_features *f, struct nvme_cmd *cmd);
	/* NULL: val is kept at the offset at, its bits of mask. */
	uint32_t (*set)(struct nvme *n, struct nvme_cmd *cmd, uint32_t val);
	size_t at;
	uint32_t mask;
};

/* --- Those that are more than a number --- */

/* 5.21.1.4: the composite temperature's thresholds; other sensors are not there. */
static uint32_t
nvme_temperature_get(struct nvme *n, const struct nvme_features *f, struct nvme_cmd *cmd)
{
	uint32_t sensor = BITS(cmd->sqe.cdw11, 16, 4), type = BITS(cmd->sqe.cdw11, 20, 2);

	if (sensor != 0 || type > 1)
		return nvme_blame(cmd, NVME_AT_CDW11 + 2, NVME_INVALID_FIELD);
	cmd->dw0 = type == 0 ? f->temperature_over : f->temperature_under;
	return NVME_OK;
}

static uint32_t
nvme_temperature_set(struct nvme *n, struct nvme_cmd *cmd, uint32_t val)
{
	uint32_t sensor = BITS(val, 16, 4), type = BITS(val, 20, 2);

	/* 0xf stands for all sensors. */
	if ((sensor != 0 && sensor != 0xf) || type > 1)
		return nvme_blame(cmd, NVME_AT_CDW11 + 2, NVME_INVALID_FIELD);
	if (type == 0)
		n->features.temperature_over = (uint16_t)val;
	else
		n->features.temperature_under = (uint16_t)val;
	nvme_temperature_check(n);
	return NVME_OK;
}

/* 5.21.1.7: as many as there can be, whatever is asked for. */
static uint32_t
nvme_queues_get(struct nvme *n, const struct nvme_features *f, struct nvme_cmd *cmd)
{
	uint32_t count = n->queues - 2; /* 0's based, without the admin queue */

	cmd->dw0 = count | count << 16;
	return NVME_OK;
}

static uint32_t
nvme_queues_set(struct nvme *n, struct nvme_cmd *cmd, uint32_t val)
{
	for (unsigned qid = 1; qid < n->queues; qid++) {
		if (nvme_sq_exists(n, qid) || nvme_cq_exists(n, qid))
			return NVME_SEQUENCE_ERROR;
	}
	if ((val & 0xffff) == 0xffff || val >> 16 == 0xffff)
		return nvme_blame(cmd, NVME_AT_CDW11, NVME_INVALID_FIELD);
	return nvme_queues_get(n, &n->features, cmd);
}

/* 5.21.1.9 */
static uint32_t
nvme_vector_get(struct nvme *n, const struct nvme_features *f, struct nvme_cmd *cmd)
{
	uint32_t vector = cmd->sqe.cdw11 & 0xffff;

	if (vector >= n->queues)
		return nvme_blame(cmd, NVME_AT_CDW11, NVME_INVALID_FIELD);
	cmd->dw0 = vector | (nvme_bit_test(f->uncoalesced, vector) ? NVME_VECTOR_CD : 0);
	return NVME_OK;
}

static uint32_t
nvme_vector_set(struct nvme *n, struct nvme_cmd *cmd, uint32_t val)
{
	uint32_t vector = val & 0xffff;

	if (vector >= n->queues)
		return nvme_blame(cmd, NVME_AT_CDW11, NVME_INVALID_FIELD);
	n->features.uncoalesced[vector / 64] &= ~BIT64(vector % 64);
	if ((val & NVME_VECTOR_CD) != 0)
		n->features.uncoalesced[vector / 64] |= BIT64(vector % 64);
	return NVME_OK;
}

/* 5.21.1.2: there is power state 0 only. */
static uint32_t
nvme_power_set(struct nvme *n, struct nvme_cmd *cmd, uint32_t val)
{
	if (BITS(val, 0, 5) != 0)
		return nvme_blame(cmd, NVME_AT_CDW11, NVME_INVALID_FIELD);
	n->features.power = val & 0xff;
	return NVME_OK;
}

/* 5.21.1.5: logical blocks that are deallocated can be read here (DULBE). */
static uint32_t
nvme_recovery_set(struct nvme *n, struct nvme_cmd *cmd, uint32_t val)
{
	if ((val & BIT(16)) != 0)
		return nvme_blame(cmd, NVME_AT_CDW11 + 2, NVME_INVALID_FIELD);
	n->features.error_recovery = val & 0xffff;
	return NVME_OK;
}

/* 5.21.1.6: only where there is a write cache. */
static uint32_t
nvme_cache_get(struct nvme *n, const struct nvme_features *f, struct nvme_cmd *cmd)
{
	if (!block_info(n->disk)->write_cache)
		return nvme_blame(cmd, NVME_AT_CDW10, NVME_INVALID_FIELD);
	cmd->dw0 = f->write_cache;
	return NVME_OK;
}

static uint32_t
nvme_cache_set(struct nvme *n, struct nvme_cmd *cmd, uint32_t val)
{
	if (!block_info(n->disk)->write_cache)
		return nvme_blame(cmd, NVME_AT_CDW10, NVME_INVALID_FIELD);
	n->features.write_cache = val & 1;
	return NVME_OK;
}

static uint32_t
nvme_events_set(struct nvme *n, struct nvme_cmd *cmd, uint32_t val)
{
	if ((val & ~NVME_EVENTS_WRITABLE) != 0)
		return nvme_blame(cmd, NVME_AT_CDW11, NVME_INVALID_FIELD);
	n->features.events = val;
	n->too_hot = false; /* a temperature that is so already is news to who asks now */
	nvme_temperature_check(n);
	return NVME_OK;
}

/* 5.21.1.14: milliseconds in 48 bits, then where they come from. */
uint64_t
nvme_timestamp(const struct nvme *n)
{
	const struct nvme_features *f = &n->features;
	uint64_t passed = vm_clock_ns(vm_loop(n->vm)) - f->timestamp_ns;

	return ((f->timestamp + passed / 1000000) & (BIT64(48) - 1)) |
	       (f->timestamp_set ? BIT64(49) : 0);
}

static uint32_t
nvme_timestamp_get(struct nvme *n, const struct nvme_features *f, struct nvme_cmd *cmd)
{
	uint64_t val = f == &n->features ? nvme_timestamp(n) : 0;

	return nvme_admin_put(n, cmd, &val, sizeof(val));
}

static uint32_t
nvme_timestamp_put(struct nvme *n, struct nvme_cmd *cmd, uint32_t val)
{
	uint64_t time;
	uint32_t status = nvme_admin_get(n, cmd, &time, sizeof(time));

	if (status != NVME_OK)
		return status;
	n->features.timestamp = time & (BIT64(48) - 1);
	n->features.timestamp_ns = vm_clock_ns(vm_loop(n->vm));
	n->features.timestamp_set = true;
	return NVME_OK;
}

/* 5.21.1.22: byte 0 says whether the guest understands delayed retries, of which there are none. */
static uint32_t
nvme_behavior_get(struct nvme *n, const struct nvme_features *f, struct nvme_cmd *cmd)
{
	uint8_t data[512] = { f->host_behavior };

	return nvme_admin_put(n, cmd, data, sizeof(data));
}

static uint32_t
nvme_behavior_set(struct nvme *n, struct nvme_cmd *cmd, uint32_t val)
{
	uint8_t data[512];
	uint32_t status = nvme_admin_get(n, cmd, data, sizeof(data));

	if (status != NVME_OK)
		return status;
	if (data[0] > 1)
		return nvme_blame(cmd, NVME_AT_PRP1, NVME_INVALID_FIELD);
	n->features.host_behavior = data[0];
	return NVME_OK;
}

/* --- The table --- */

#define NVME_FEATURE_NUMBER(field, bits)                                                           \
	.changeable = true, .at = offsetof(struct nvme_features, field), .mask = (bits)

static const struct nvme_feature nvme_features[] = {
	{ .id = NVME_FEATURE_ARBITRATION, NVME_FEATURE_NUMBER(arbitration, 0xffffff07) },
	{ .id = NVME_FEATURE_POWER, NVME_FEATURE_NUMBER(power, 0xff), .set = nvme_power_set },
	{ .id = NVME_FEATURE_TEMPERATURE,
	    .changeable = true,
	    .get = nvme_temperature_get,
	    .set = nvme_temperature_set },
	{ .id = NVME_FEATURE_ERROR_RECOVERY,
	    .of_namespace = true,
	    NVME_FEATURE_NUMBER(error_recovery, 0xffff),
	    .set = nvme_recovery_set },
	{ .id = NVME_FEATURE_WRITE_CACHE,
	    .changeable = true,
	    .get = nvme_cache_get,
	    .set = nvme_cache_set },
	{ .id = NVME_FEATURE_QUEUES,
	    .changeable = true,
	    .get = nvme_queues_get,
	    .set = nvme_queues_set },
	{ .id = NVME_FEATURE_COALESCING, NVME_FEATURE_NUMBER(coalescing, 0xffff) },
	{ .id = NVME_FEATURE_VECTOR,
	    .changeable = true,
	    .get = nvme_vector_get,
	    .set = nvme_vector_set },
	{ .id = NVME_FEATURE_ATOMICITY, NVME_FEATURE_NUMBER(atomicity, 1) },
	{ .id = NVME_FEATURE_EVENTS,
	    NVME_FEATURE_NUMBER(events, NVME_EVENTS_WRITABLE),
	    .set = nvme_events_set },
	{ .id = NVME_FEATURE_TIMESTAMP,
	    .changeable = true,
	    .get = nvme_timestamp_get,
	    .set = nvme_timestamp_put },
	{ .id = NVME_FEATURE_HOST_BEHAVIOR,
	    .changeable = true,
	    .get = nvme_behavior_get,
	    .set = nvme_behavior_set },
};

static const struct nvme_feature *
nvme_feature_find(uint32_t id)
{
	for (size_t i = 0; i < ARRAY_SIZE(nvme_features); i++) {
		if (nvme_features[i].id == id)
			return &nvme_features[i];
	}
	return NULL;
}

static void
nvme_features_default(const struct nvme *n, struct nvme_features *f)
{
	*f = (struct nvme_features){ .arbitration = NVME_BURST_DEFAULT,
		.write_cache = 1,
		.temperature_over = NVME_TEMPERATURE_WARNING,
		.timestamp_ns = vm_clock_ns(vm_loop(n->vm)) };
}

void
nvme_features_reset(struct nvme *n)
{
	nvme_features_default(n, &n->features);
}

/* Which namespace a feature can be asked for (5.21): of the controller, none. */
static uint32_t
nvme_feature_namespace(const struct nvme_feature *f, struct nvme_cmd *cmd, bool set)
{
	uint32_t nsid = cmd->sqe.nsid;

	if (f->of_namespace) {
		if (nsid == NVME_NSID || (set && nsid == NVME_NSID_ALL))
			return NVME_OK;
		return nvme_blame(cmd, NVME_AT_NSID, NVME_INVALID_NAMESPACE);
	}
	if (nsid == 0 || nsid == NVME_NSID_ALL || (!set && nsid == NVME_NSID))
		return NVME_OK;
	if (nsid == NVME_NSID)
		return nvme_blame(cmd, NVME_AT_NSID, NVME_FEATURE_NOT_NAMESPACE);
	return nvme_blame(cmd, NVME_AT_NSID, NVME_INVALID_NAMESPACE);
}

uint32_t
nvme_feature_get(struct nvme *n, struct nvme_cmd *cmd)
{
	const struct nvme_feature *f = nvme_feature_find(cmd->sqe.cdw10 & 0xff);
	uint32_t select = BITS(cmd->sqe.cdw10, 8, 3), status;
	struct nvme_features defaults;

	if (f == NULL || select > NVME_SELECT_SUPPORTED)
		return nvme_blame(cmd, NVME_AT_CDW10, NVME_INVALID_FIELD);
	status = nvme_feature_namespace(f, cmd, false);
	if (status != NVME_OK)
		return status;
	if (select == NVME_SELECT_SUPPORTED) {
		cmd->dw0 = (f->changeable ? NVME_SUPPORTED_CHANGEABLE : 0) |
			   (f->of_namespace ? NVME_SUPPORTED_NAMESPACE : 0);
		return NVME_OK;
	}
	/* What cannot be saved has its default as its saved value. */
	nvme_features_default(n, &defaults);
	if (f->get != NULL)
		return f->get(n, select == NVME_SELECT_CURRENT ? &n->features : &defaults, cmd);
	memcpy(&cmd->dw0,
	    (const char *)(select == NVME_SELECT_CURRENT ? &n->features : &defaults) + f->at,
	    sizeof(cmd->dw0));
	return NVME_OK;
}

uint32_t
nvme_feature_set(struct nvme *n, struct nvme_cmd *cmd)
{
	const struct nvme_feature *f = nvme_feature_find(cmd->sqe.cdw10 & 0xff);
	uint32_t val = cmd->sqe.cdw11, status;

	if (f == NULL)
		return nvme_blame(cmd, NVME_AT_CDW10, NVME_INVALID_FIELD);
	if ((cmd->sqe.cdw10 & BIT(31)) != 0)
		return nvme_blame(cmd, NVME_AT_CDW10 + 3, NVME_FEATURE_NOT_SAVEABLE);
	status = nvme_feature_namespace(f, cmd, true);
	if (status != NVME_OK)
		return status;
	if (f->set != NULL)
		return f->set(n, cmd, val);
	val &= f->mask;
	memcpy((char *)&n->features + f->at, &val, sizeof(val));
	return NVME_OK;
}
