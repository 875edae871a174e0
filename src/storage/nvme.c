/*
 * NVM Express controller (NVM Express Base Specification 1.4): options, the PCI function,
 * registers. How its parts work together is told in nvme_impl.h.
 */
#include "pci/pci_models.h"
#include "storage/nvme_impl.h"

#include "base/config.h"
#include "base/fnv.h"
#include "base/log.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NVME_BAR      0
#define NVME_BAR_MSIX 4
#define NVME_BAR_MIN  KIB(16)
#define NVME_CAP_TO   120 /* 500 ms units that a reset may take: the host may be slow */

#define NVME_MAXQ_DEFAULT    16
#define NVME_QSZ_DEFAULT     2048
#define NVME_IOSLOTS_DEFAULT 128
#define NVME_IOSLOTS_MAX     1024

static const struct pci_id nvme_id = {
	.vendor = 0xfb5d,
	.device = 0x0a0a,
	.class = 0x01, /* mass storage, NVM, NVM Express (1.4, 2.1.5) */
	.subclass = 0x08,
	.prog_if = 0x02,
};

static const char *const nvme_vars[] = { BLOCK_VARS, "maxq", "qsz", "ioslots", "sectsz", "ser",
	"eui64", "dsm", NULL };

/* --- Registers --- */

static uint64_t
nvme_cap(const struct nvme *n)
{
	return (n->entries - 1) | NVME_CAP_CQR | (uint64_t)NVME_CAP_TO << NVME_CAP_TO_SHIFT |
	       NVME_CAP_CSS_NVM | (uint64_t)NVME_MPSMAX << NVME_CAP_MPSMAX_SHIFT;
}

/* A double word; what is not there reads as 0. */
static uint32_t
nvme_reg_read(const struct nvme *n, uint64_t off)
{
	switch (off) {
	case NVME_REG_CAP: return (uint32_t)nvme_cap(n);
	case NVME_REG_CAP + 4: return (uint32_t)(nvme_cap(n) >> 32);
	case NVME_REG_VS: return NVME_VERSION;
	case NVME_REG_INTMS:
	case NVME_REG_INTMC: return atomic_load(&n->intms);
	case NVME_REG_CC: return atomic_load(&n->cc);
	case NVME_REG_CSTS: return atomic_load(&n->csts);
	case NVME_REG_AQA: return atomic_load(&n->aqa);
	case NVME_REG_ASQ: return (uint32_t)atomic_load(&n->asq);
	case NVME_REG_ASQ + 4: return (uint32_t)(atomic_load(&n->asq) >> 32);
	case NVME_REG_ACQ: return (uint32_t)atomic_load(&n->acq);
	case NVME_REG_ACQ + 4: return (uint32_t)(atomic_load(&n->acq) >> 32);
	}
	return 0;
}

static uint64_t
nvme_bar_read(struct pci_dev *dev, int bar, uint64_t off, int size)
{
	const struct nvme *n = pci_priv(dev);
	uint64_t dword = ALIGN_DOWN(off, 4u);
	uint64_t val = nvme_reg_read(n, dword);

	if (size == 8)
		return val | (uint64_t)nvme_reg_read(n, dword + 4) << 32;
	return BITS(val, 8 * (off - dword), 8 * (unsigned)size);
}

/* Device locked, as all writers of it. */
static void
nvme_cc_write(struct nvme *n, uint32_t val)
{
	uint32_t old = atomic_load(&n->cc);

	val &= NVME_CC_WRITABLE;
	if ((old & ~val & NVME_CC_EN) != 0)
		atomic_fetch_add(&n->resets, 1);
	atomic_store(&n->cc, val);
	block_post(n->disk, &n->control_work);
}

/* Replaces a half of a 64-bit register, whose low 12 bits are zero. */
static void
nvme_base_write(_Atomic uint64_t *reg, bool high, uint32_t val)
{
	uint64_t old = atomic_load(reg);

	if (high)
		atomic_store(reg, (old & UINT32_MAX) | (uint64_t)val << 32);
	else
		atomic_store(reg, (old & ~(uint64_t)UINT32_MAX) | (val & ~0xfffu));
}

static void
nvme_doorbell_write(struct nvme *n, uint64_t at, uint32_t val)
{
	uint64_t qid = at / 8;

	if (qid >= n->queues) {
		atomic_store(&n->bad_register, true);
		block_post(n->disk, &n->kick_work);
	} else if (at % 8 == 0) {
		nvme_sq_ring(&n->sq[qid], val);
	} else {
		nvme_cq_ring(&n->cq[qid], val);
	}
}

static void
nvme_reg_write(struct nvme *n, uint64_t off, uint32_t val)
{
	bool enabled = (atomic_load(&n->cc) & NVME_CC_EN) != 0;

	switch (off) {
	case NVME_REG_INTMS:
		atomic_fetch_or(&n->intms, val);
		nvme_irq_pin_update(n);
		return;
	case NVME_REG_INTMC:
		atomic_fetch_and(&n->intms, ~val);
		nvme_irq_pin_update(n);
		nvme_irq_unmasked(n, val);
		return;
	case NVME_REG_CC: nvme_cc_write(n, val); return;
	}
	if (off >= NVME_REG_DOORBELLS) {
		nvme_doorbell_write(n, off - NVME_REG_DOORBELLS, val);
		return;
	}
	/* Those of the admin queues change while the controller is not enabled only (3.1.8). */
	if (enabled)
		return;
	switch (off) {
	case NVME_REG_AQA: atomic_store(&n->aqa, val & NVME_AQA_WRITABLE); break;
	case NVME_REG_ASQ:
	case NVME_REG_ASQ + 4: nvme_base_write(&n->asq, off != NVME_REG_ASQ, val); break;
	case NVME_REG_ACQ:
	case NVME_REG_ACQ + 4: nvme_base_write(&n->acq, off != NVME_REG_ACQ, val); break;
	}
}

static void
nvme_bar_write(struct pci_dev *dev, int bar, uint64_t off, int size, uint64_t val)
{
	struct nvme *n = pci_priv(dev);

	/* Registers are accessed by double words, or both halves of a wide one at once (3.1). */
	if (size < 4) {
		log_guest(n->name, "write of %d bytes to a register", size);
		return;
	}
	nvme_reg_write(n, off, (uint32_t)val);
	if (size == 8)
		nvme_reg_write(n, off + 4, (uint32_t)(val >> 32));
}

/* Function-level reset. Waits for requests that the host has, because their data must not reach the
 * guest's memory later. */
static void
nvme_reset(struct pci_dev *dev)
{
	struct nvme *n = pci_priv(dev);

	atomic_store(&n->cc, 0);
	atomic_fetch_add(&n->resets, 1);
	atomic_store(&n->bus_reset, true);
	block_post(n->disk, &n->control_work);
	while (sem_wait(&n->bus_reset_done) != 0)
		;
	atomic_store(&n->aqa, 0);
	atomic_store(&n->asq, 0);
	atomic_store(&n->acq, 0);
}

/* --- Options --- */

static int
nvme_option_bad(struct nvme *n, const struct config *cfg, const char *name, const char *expected)
{
	log_error(n->name, "%s=%s: expected %s", name, config_get_default(cfg, name, ""), expected);
	return -EINVAL;
}

static int
nvme_option_number(struct nvme *n, const struct config *cfg, const char *name, uint64_t min,
    uint64_t max, uint32_t *out)
{
	char expected[64];
	uint64_t val;
	int err = config_get_uint(cfg, name, &val);

	if (err == -ENOENT)
		return 0;
	if (err == 0 && val >= min && val <= max) {
		*out = (uint32_t)val;
		return 0;
	}
	snprintf(expected, sizeof(expected), "%" PRIu64 " to %" PRIu64, min, max);
	return nvme_option_bad(n, cfg, name, expected);
}

/* A disk has the same names in every run. */
static int
nvme_option_names(struct nvme *n, const struct config *cfg)
{
	const char *serial = config_get(cfg, "ser"), *path = config_get(cfg, "path");
	const char *what = path != NULL ? path : n->name;
	uint64_t hash = fnv_add(FNV_START, what), more = fnv_add(hash, what);
	int err;

	if (serial == NULL)
		snprintf(n->serial, sizeof(n->serial), "NVME-%015" PRIx64, hash >> 4);
	else if (serial[0] != '\0' && strlen(serial) < sizeof(n->serial))
		strcpy(n->serial, serial);
	else
		return nvme_option_bad(n, cfg, "ser", "1 to 20 characters");
	for (const char *p = n->serial; *p != '\0'; p++) {
		if (!isprint((unsigned char)*p))
			return nvme_option_bad(n, cfg, "ser", "printable characters");
	}
	/* FreeBSD's OUI, which is bhyve's, then our own. */
	n->eui64 = 0x589cfc0000000000ull | hash >> 24;
	err = config_get_uint(cfg, "eui64", &n->eui64);
	if (err != 0 && err != -ENOENT)
		return nvme_option_bad(n, cfg, "eui64", "a number of 64 bits");
	memcpy(n->uuid, &hash, sizeof(hash));
	memcpy(n->uuid + sizeof(hash), &more, sizeof(more));
	n->uuid[6] = (uint8_t)(0x80 | (n->uuid[6] & 0x0f)); /* RFC 9562, 5.8: version 8 */
	n->uuid[8] = (uint8_t)(0x80 | (n->uuid[8] & 0x3f));
	return 0;
}

static int
nvme_options_read(struct nvme *n, const struct config *cfg)
{
	uint32_t maxq = NVME_MAXQ_DEFAULT;

	n->entries = NVME_QSZ_DEFAULT;
	n->slots = NVME_IOSLOTS_DEFAULT;
	if (nvme_option_number(n, cfg, "maxq", 1, NVME_QUEUES_MAX - 1, &maxq) != 0 ||
	    nvme_option_number(n, cfg, "qsz", 2, 65536, &n->entries) != 0 ||
	    nvme_option_number(n, cfg, "ioslots", 1, NVME_IOSLOTS_MAX, &n->slots) != 0)
		return -EINVAL;
	n->queues = maxq + 1;
	return nvme_option_names(n, cfg);
}

/* Options that depend on the disk. */
static int
nvme_options_disk(struct nvme *n, const struct config *cfg)
{
	const struct block_info *info = block_info(n->disk);
	const char *dsm = config_get_default(cfg, "dsm", "auto");
	const char *size = config_get(cfg, "sectsz");
	uint32_t sector = info->logical_sector;

	if (strcmp(dsm, "auto") != 0 && strcmp(dsm, "enable") != 0 && strcmp(dsm, "disable") != 0)
		return nvme_option_bad(n, cfg, "dsm", "auto, enable or disable");
	n->dsm = strcmp(dsm, "enable") == 0 || (dsm[0] == 'a' && info->can_discard);
	if (size != NULL && strcmp(size, "512") != 0 && strcmp(size, "4096") != 0)
		return nvme_option_bad(n, cfg, "sectsz", "512 or 4096");
	if (size != NULL)
		sector = (uint32_t)atoi(size);
	if (sector < info->logical_sector) {
		log_error(n->name, "sectsz=%" PRIu32 ": the disk has sectors of %" PRIu32 " bytes",
		    sector, info->logical_sector);
		return -EINVAL;
	}
	n->block_shift = (unsigned)__builtin_ctz(sector);
	if (nvme_blocks(n) == 0) {
		log_error(n->name, "%s: smaller than a sector", info->path);
		return -EINVAL;
	}
	return 0;
}

/* --- Making and removing --- */

/* On the disk's thread. */
static void
nvme_resized(void *ctx)
{
	struct nvme *n = ctx;

	n->namespace_changed = true;
	if ((n->features.events & NVME_EVENTS_NAMESPACE) != 0)
		nvme_event(n, NVME_EVENT_NOTICE, NVME_NOTICE_NAMESPACE);
}

static int
nvme_memory_create(struct nvme *n)
{
	n->scratch = aligned_alloc(KIB(4), NVME_SCRATCH);
	n->req = calloc(n->slots, sizeof(n->req[0]));
	if (n->scratch == NULL || n->req == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < n->slots; i++) {
		struct nvme_req *req = &n->req[i];

		req->nvme = n;
		req->next = n->free;
		n->free = req;
	}
	return 0;
}

static void
nvme_memory_destroy(struct nvme *n)
{
	free(n->req);
	free(n->scratch);
}

static unsigned
nvme_power_of_two(unsigned v)
{
	return v <= 1 ? 1 : 1u << (32 - __builtin_clz(v - 1));
}

static void
nvme_pci_init(struct nvme *n)
{
	struct pci_dev *dev = n->dev;
	unsigned registers = nvme_power_of_two(NVME_REG_DOORBELLS + n->queues * 8);

	pci_id_set(dev, &nvme_id);
	pci_bar_add(dev, NVME_BAR, PCI_BAR_MEM64, MAX(registers, NVME_BAR_MIN), false);
	pci_msix_add(dev, NVME_BAR_MSIX, (int)n->queues);
	n->msi_vectors = MIN(nvme_power_of_two(n->queues), 32u);
	pci_msi_add(dev, (int)n->msi_vectors);
	pci_intx_add(dev);
	pci_express_add(dev);
	/* Without memory for them the writes come to nvme_bar_write(). */
	for (unsigned qid = 0; qid < n->queues; qid++) {
		uint64_t at = NVME_REG_DOORBELLS + qid * 8;

		(void)pci_doorbell_add(dev, NVME_BAR, at, 4, nvme_sq_ring, &n->sq[qid]);
		(void)pci_doorbell_add(dev, NVME_BAR, at + 4, 4, nvme_cq_ring, &n->cq[qid]);
	}
}

static int
nvme_create(struct pci_dev *dev, const struct config *cfg)
{
	struct nvme *n = calloc(1, sizeof(*n));
	int err = -ENOMEM;

	if (n == NULL)
		goto no_memory;
	n->dev = dev;
	n->vm = pci_vm(dev);
	n->name = pci_name(dev);
	err = nvme_options_read(n, cfg);
	if (err != 0)
		goto free_nvme;
	err = nvme_memory_create(n);
	if (err != 0)
		goto free_memory;
	n->coalesce_timer = vm_timer_create(vm_loop(n->vm), nvme_coalesce_timeout, n);
	if (n->coalesce_timer == NULL) {
		err = -ENOMEM;
		goto free_memory;
	}
	err = block_open(vm_loop(n->vm), cfg, n->name, &n->disk);
	if (err != 0)
		goto free_timer;
	err = nvme_options_disk(n, cfg);
	if (err != 0)
		goto close_disk;
	n->power_on_ns = vm_clock_ns(vm_loop(n->vm));
	pthread_mutex_init(&n->pin_lock, NULL);
	sem_init(&n->bus_reset_done, 0, 0);
	nvme_queue_init(n);
	nvme_control_init(n);
	nvme_features_reset(n);
	nvme_pci_init(n);
	pci_priv_set(dev, n);
	block_on_resize(n->disk, nvme_resized, n);
	return 0;
close_disk:
	block_close(n->disk);
free_timer:
	vm_timer_destroy(n->coalesce_timer);
free_memory:
	nvme_memory_destroy(n);
free_nvme:
	free(n);
no_memory:
	if (err == -ENOMEM)
		log_error(pci_name(dev), "out of memory");
	return err;
}

static void
nvme_destroy(struct pci_dev *dev)
{
	struct nvme *n = pci_priv(dev);

	/* What the guest has not seen completed need not be begun any more. */
	atomic_store(&n->cc, 0);
	block_post(n->disk, &n->control_work);
	block_close(n->disk);
	vm_timer_destroy(n->coalesce_timer);
	sem_destroy(&n->bus_reset_done);
	pthread_mutex_destroy(&n->pin_lock);
	nvme_memory_destroy(n);
	free(n);
}

const struct pci_dev_ops nvme_ops = {
	.name = "nvme",
	.vars = nvme_vars,
	.create = nvme_create,
	.destroy = nvme_destroy,
	.bar_read = nvme_bar_read,
	.bar_write = nvme_bar_write,
	.reset = nvme_reset,
	.state = nvme_state,
};
