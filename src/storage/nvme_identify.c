/*
 * Identify (NVMe 1.4, 5.15): one controller, one namespace.
 */
#include "storage/nvme_impl.h"

#include <stdio.h>
#include <string.h>

#define NVME_VENDOR  0xfb5d   /* bhyve's, as in configuration space */
#define NVME_RTD3_US 60000000 /* a shutdown flushes, which may take the host a while */

/* Text in a field without a NUL, padded with spaces (1.5). */
static void
nvme_text(char *field, size_t size, const char *text)
{
	size_t len = strlen(text);

	memset(field, ' ', size);
	memcpy(field, text, MIN(len, size));
}

static void
nvme_identify_controller(struct nvme *n)
{
	struct nvme_id_controller *id = (void *)n->page;
	const uint8_t *u = n->uuid;

	id->vid = NVME_VENDOR;
	id->ssvid = NVME_VENDOR;
	nvme_text(id->sn, sizeof(id->sn), n->serial);
	nvme_text(id->mn, sizeof(id->mn), "bhyve-NVMe");
	nvme_text(id->fr, sizeof(id->fr), NVME_FIRMWARE);
	id->rab = 4;
	memcpy(id->ieee, (const uint8_t[]){ 0xfc, 0x9c, 0x58 }, sizeof(id->ieee));
	id->mdts = NVME_MDTS;
	id->ver = NVME_VERSION;
	id->rtd3e = NVME_RTD3_US;
	id->oaes = NVME_OAES_NAMESPACE;
	id->cntrltype = 1; /* I/O controller */
	id->oacs = NVME_OACS_DOORBELL;
	id->acl = NVME_ABORTS - 1;
	id->aerl = NVME_AERS - 1;
	id->frmw = BIT(0) | 1 << 1; /* one slot, read only */
	id->lpa = BIT(0) | NVME_LPA_EFFECTS | NVME_LPA_EXTENDED;
	id->elpe = NVME_ERRORS - 1;
	id->wctemp = NVME_TEMPERATURE_WARNING;
	id->cctemp = NVME_TEMPERATURE_CRITICAL;
	id->sqes = NVME_SQES << 4 | NVME_SQES;
	id->cqes = NVME_CQES << 4 | NVME_CQES;
	id->nn = 1;
	id->oncs = NVME_ONCS_COMPARE | NVME_ONCS_UNCORRECTABLE | NVME_ONCS_WRITE_ZEROES |
		   NVME_ONCS_SELECT | NVME_ONCS_TIMESTAMP | NVME_ONCS_VERIFY;
	if (n->dsm)
		id->oncs |= NVME_ONCS_DSM;
	id->vwc = NVME_VWC_FLUSH_ALL;
	if (block_info(n->disk)->write_cache)
		id->vwc |= NVME_VWC_PRESENT;
	id->sgls = NVME_SGLS_BYTES | NVME_SGLS_BIT_BUCKET | NVME_SGLS_LONGER;
	snprintf(id->subnqn, sizeof(id->subnqn),
	    "nqn.2014-08.org.nvmexpress:uuid:"
	    "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x",
	    u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10], u[11], u[12], u[13],
	    u[14], u[15]);
	id->psd[0].max_power = 100;
}

/* Bytes as a 0's based number of logical blocks in 16 bits; 0 when it is not a multiple. */
static uint16_t
nvme_hint(const struct nvme *n, uint64_t bytes)
{
	uint64_t blocks = bytes >> n->block_shift;

	return blocks == 0 ? 0 : (uint16_t)(MIN(blocks, 65536u) - 1);
}

static void
nvme_eui64_put(const struct nvme *n, uint8_t to[8])
{
	for (int i = 0; i < 8; i++)
		to[i] = (uint8_t)(n->eui64 >> (56 - 8 * i));
}

static void
nvme_identify_namespace(struct nvme *n)
{
	const struct block_info *info = block_info(n->disk);
	struct nvme_id_namespace *id = (void *)n->page;

	id->nsze = nvme_blocks(n);
	id->ncap = id->nsze;
	id->nuse = id->nsze;
	id->nsfeat = NVME_NSFEAT_OPTIMAL;
	id->dlfeat = NVME_DLFEAT_DEAC | (info->discard_zeroes ? NVME_DLFEAT_ZEROS : 0);
	id->nvmcap[0] = id->nsze << n->block_shift;
	id->npwg = nvme_hint(n, info->physical_sector);
	id->npwa = id->npwg;
	id->npdg = nvme_hint(n, info->discard_granularity);
	id->npda = id->npdg;
	id->nows = id->npwg;
	id->nsattr = info->read_only ? NVME_NSATTR_PROTECTED : 0;
	nvme_eui64_put(n, id->eui64);
	id->lbaf[0].lbads = (uint8_t)n->block_shift;
}

/* A namespace identification descriptor at p; returns what follows it (figure 246). */
static uint8_t *
nvme_descriptor(uint8_t *p, uint8_t type, const void *id, uint8_t len)
{
	p[0] = type;
	p[1] = len;
	memcpy(p + 4, id, len);
	return p + 4 + len;
}

static void
nvme_identify_descriptors(struct nvme *n)
{
	uint8_t eui64[8];

	nvme_eui64_put(n, eui64);
	nvme_descriptor(nvme_descriptor(n->page, NVME_NIDT_EUI64, eui64, sizeof(eui64)),
	    NVME_NIDT_UUID, n->uuid, sizeof(n->uuid));
}

/* A list of controllers: their number, then their identifiers from first on. Ours is 0. */
static void
nvme_identify_controllers(struct nvme *n, uint32_t first)
{
	n->page[0] = first == 0;
}

uint32_t
nvme_identify(struct nvme *n, struct nvme_cmd *cmd)
{
	uint32_t nsid = cmd->sqe.nsid, first = cmd->sqe.cdw10 >> 16;

	memset(n->page, 0, sizeof(n->page));
	switch (cmd->sqe.cdw10 & 0xff) {
	case NVME_CNS_NAMESPACE:
	case NVME_CNS_ALLOCATED_NAMESPACE:
	case NVME_CNS_DESCRIPTORS:
	case NVME_CNS_ATTACHED:
		if (nsid != NVME_NSID)
			return nvme_blame(cmd, NVME_AT_NSID, NVME_INVALID_NAMESPACE);
		break;
	case NVME_CNS_ACTIVE:
	case NVME_CNS_ALLOCATED:
		/* Namespaces above nsid; the last two values are reserved (5.15.2.3). */
		if (nsid >= NVME_NSID_ALL - 1)
			return nvme_blame(cmd, NVME_AT_NSID, NVME_INVALID_NAMESPACE);
		break;
	}
	switch (cmd->sqe.cdw10 & 0xff) {
	case NVME_CNS_NAMESPACE:
	case NVME_CNS_ALLOCATED_NAMESPACE: nvme_identify_namespace(n); break;
	case NVME_CNS_CONTROLLER: nvme_identify_controller(n); break;
	case NVME_CNS_ACTIVE:
	case NVME_CNS_ALLOCATED: n->page[0] = nsid < NVME_NSID ? NVME_NSID : 0; break;
	case NVME_CNS_DESCRIPTORS: nvme_identify_descriptors(n); break;
	case NVME_CNS_ATTACHED:
	case NVME_CNS_CONTROLLERS: nvme_identify_controllers(n, first); break;
	default: return nvme_blame(cmd, NVME_AT_CDW10, NVME_INVALID_FIELD);
	}
	return nvme_admin_put(n, cmd, n->page, sizeof(n->page));
}
