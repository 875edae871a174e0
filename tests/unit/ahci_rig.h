/*
 * A driver for an AHCI controller: what a guest does, on the real device model and a real disk.
 *
 *	struct ahci_rig r;
 *
 *	rig_init(&r, "pci.0.3.0.device=ahci-hd", "pci.0.3.0.port.0.ram=16", NULL);
 *	rig_start(&r);
 *	assert_int_equal(rig_do(&r, 0x25, 0, lba, 8, RIG_DATA, 4096), RIG_DONE);
 *	rig_done(&r);
 */
#ifndef AHCI_RIG_H
#define AHCI_RIG_H

#include "capture.h"
#include "chip_test.h"

#include "base/config.h"
#include "pci/pci_host.h"
#include "storage/ahci_impl.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <time.h>

#define RIG_MEMORY      MIB(64)
#define RIG_PATIENCE_S  60 /* for events that must come; nothing waits so long when all is well */
#define RIG_SLOT        3  /* of the controller on the bus */
#define RIG_LIST        0x100000u /* command list, received FISes, command tables of 4 KiB each */
#define RIG_FIS         (RIG_LIST + 0x400u)
#define RIG_TABLE(slot) (RIG_LIST + 0x1000u + 0x1000u * (slot))
#define RIG_PRDS        ((0x1000u - 0x80u) / 16u)
#define RIG_DATA        0x800000u
#define RIG_DONE        0u /* a command ended well */

struct ahci_rig {
	struct chip_test chip; /* first: the line sink's context */
	struct config *config;
	struct pci *pci;
	struct pci_dev *dev;
	struct ahci *hba;
	sem_t message;
	_Atomic int messages;
	uint64_t abar;
	unsigned port; /* that the functions below are about */
	uint32_t seen; /* bits of PxIS since rig_issue() */
};

/* --- The machine --- */

static void
rig_msi(void *ctx, uint64_t addr, uint32_t data)
{
	struct ahci_rig *r = ctx;

	r->messages++;
	sem_post(&r->message);
}

static int
rig_mmio_offset(void *ctx, int cpu, uint64_t gpa)
{
	return -1;
}

static const struct vm_apic_ops rig_apic = { .msi = rig_msi, .mmio_offset = rig_mmio_offset };

static inline uint32_t
rig_cfg_read(struct ahci_rig *r, unsigned off, int size)
{
	return (uint32_t)vm_bus_read(
	    r->chip.vm, VM_MMIO, PCI_ECAM_BASE + ((uint64_t)RIG_SLOT << 15) + off, size);
}

static inline void
rig_cfg_write(struct ahci_rig *r, unsigned off, int size, uint32_t val)
{
	vm_bus_write(
	    r->chip.vm, VM_MMIO, PCI_ECAM_BASE + ((uint64_t)RIG_SLOT << 15) + off, size, val);
}

static inline unsigned
rig_cap(struct ahci_rig *r, uint8_t id)
{
	unsigned at = rig_cfg_read(r, 0x34, 1);

	while (at != 0 && rig_cfg_read(r, at, 1) != id)
		at = rig_cfg_read(r, at + 1, 1);
	return at;
}

/* Memory decoding, bus master and MSI. */
static inline void
rig_pci_enable(struct ahci_rig *r)
{
	unsigned msi = rig_cap(r, 0x05);

	if (r->abar != 0)
		rig_cfg_write(r, 0x24, 4, (uint32_t)r->abar); /* a reset took it away */
	rig_cfg_write(r, 0x04, 2, 6);
	rig_cfg_write(r, msi + 4, 4, 0xfee00000);
	rig_cfg_write(r, msi + 2, 2, 1);
	r->abar = rig_cfg_read(r, 0x24, 4) & ~15u;
}

/* What making the devices returns; the machine must be taken apart by rig_done() either way. */
static inline int
rig_create(struct ahci_rig *r, const char *const *lines)
{
	const struct pci_params params = { .phys_bits = 40 };
	int err;

	*r = (struct ahci_rig){ .config = config_create() };
	for (; *lines != NULL; lines++) {
		const char *equals = strchr(*lines, '=');
		char name[128];

		snprintf(name, sizeof(name), "%.*s", (int)(equals - *lines), *lines);
		assert_int_equal(config_set(r->config, name, equals + 1), 0);
	}
	r->chip.vm = mock_vm_create_config(RIG_MEMORY, 1, r->config);
	assert_non_null(r->chip.vm);
	sem_init(&r->message, 0, 0);
	vm_irq_sink_add(r->chip.vm, &chip_test_sink, &r->chip);
	vm_apic_register(r->chip.vm, &rig_apic, r);
	err = pci_create(r->chip.vm, &params, &r->pci);
	if (err != 0)
		return err;
	r->dev = pci_find(r->pci, RIG_SLOT, 0);
	r->hba = pci_priv(r->dev);
	rig_pci_enable(r);
	return 0;
}

#define rig_init(r, ...)                                                                           \
	do {                                                                                       \
		static const char *const lines_[] = { __VA_ARGS__ };                               \
		assert_int_equal(rig_create(r, lines_), 0);                                        \
	} while (0)

static inline void
rig_done(struct ahci_rig *r)
{
	pci_destroy(r->pci);
	vm_destroy(r->chip.vm);
	config_destroy(r->config);
	sem_destroy(&r->message);
}

static inline void
rig_wait_sem(sem_t *sem)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += RIG_PATIENCE_S;
	while (sem_timedwait(sem, &end) != 0)
		assert_int_equal(errno, EINTR);
}

/* --- Registers --- */

static inline uint32_t
hba_read(struct ahci_rig *r, uint64_t off)
{
	return (uint32_t)vm_bus_read(r->chip.vm, VM_MMIO, r->abar + off, 4);
}

static inline void
hba_write(struct ahci_rig *r, uint64_t off, uint32_t val)
{
	vm_bus_write(r->chip.vm, VM_MMIO, r->abar + off, 4, val);
}

static inline uint32_t
px_read(struct ahci_rig *r, uint64_t reg)
{
	return hba_read(r, AHCI_PORT_BASE + r->port * AHCI_PORT_SIZE + reg);
}

static inline void
px_write(struct ahci_rig *r, uint64_t reg, uint32_t val)
{
	hba_write(r, AHCI_PORT_BASE + r->port * AHCI_PORT_SIZE + reg, val);
}

/* Waits, by looking again and again, for bits of a port's register. */
static inline void
px_await(struct ahci_rig *r, uint64_t reg, uint32_t mask, uint32_t val)
{
	for (int i = 0; i < RIG_PATIENCE_S * 1000; i++) {
		const struct timespec ms = { .tv_nsec = 1000000 };

		if ((px_read(r, reg) & mask) == val)
			return;
		nanosleep(&ms, NULL);
	}
	fail_msg("register 0x%x: %x", (unsigned)reg, px_read(r, reg));
}

/* Has the device spin up and starts the port, with all interrupts. */
static inline void
rig_start(struct ahci_rig *r)
{
	hba_write(r, AHCI_GHC, AHCI_GHC_AE | AHCI_GHC_IE);
	px_write(r, AHCI_PX_CLB, RIG_LIST);
	px_write(r, AHCI_PX_FB, RIG_FIS);
	px_write(r, AHCI_PX_CMD, AHCI_CMD_SUD | AHCI_CMD_FRE);
	px_write(r, AHCI_PX_SERR, UINT32_MAX);
	px_write(r, AHCI_PX_IS, UINT32_MAX);
	hba_write(r, AHCI_IS, UINT32_MAX);
	px_write(r, AHCI_PX_IE, UINT32_MAX);
	px_write(r, AHCI_PX_CMD, AHCI_CMD_SUD | AHCI_CMD_FRE | AHCI_CMD_ST);
	assert_true(px_read(r, AHCI_PX_CMD) & AHCI_CMD_CR);
}

/* After an error, as drivers do: the list is stopped and started again. */
static inline void
rig_restart(struct ahci_rig *r)
{
	px_write(r, AHCI_PX_CMD, AHCI_CMD_SUD | AHCI_CMD_FRE);
	px_await(r, AHCI_PX_CMD, AHCI_CMD_CR, 0);
	rig_start(r);
}

/* --- Commands --- */

static inline struct fis_h2d
rig_fis(uint8_t command, uint16_t features, uint64_t lba, uint16_t count)
{
	return (struct fis_h2d){ .type = FIS_H2D,
		.flags = FIS_H2D_COMMAND,
		.command = command,
		.features = (uint8_t)features,
		.features_ext = (uint8_t)(features >> 8),
		.lba0 = (uint8_t)lba,
		.lba1 = (uint8_t)(lba >> 8),
		.lba2 = (uint8_t)(lba >> 16),
		.lba3 = (uint8_t)(lba >> 24),
		.lba4 = (uint8_t)(lba >> 32),
		.lba5 = (uint8_t)(lba >> 40),
		.count = (uint8_t)count,
		.count_ext = (uint8_t)(count >> 8),
		.device = ATA_DEVICE_LBA };
}

static inline void
rig_prd(struct ahci_rig *r, unsigned slot, unsigned i, uint64_t gpa, uint32_t len)
{
	struct ahci_prd prd = { .dba = gpa, .dbc = len - 1 };

	assert_int_equal(
	    vm_mem_write(r->chip.vm, RIG_TABLE(slot) + 0x80 + i * sizeof(prd), &prd, sizeof(prd)),
	    0);
}

/* Puts a command into a slot, with so many elements of a PRDT that is written already. */
static inline void
rig_slot(
    struct ahci_rig *r, unsigned slot, const struct fis_h2d *fis, const uint8_t *cdb, unsigned prds)
{
	struct ahci_header header = {
		.flags = 5, .prdtl = (uint16_t)prds, .ctba = RIG_TABLE(slot)
	};

	vm_mem_write(r->chip.vm, RIG_LIST + slot * sizeof(header), &header, sizeof(header));
	vm_mem_zero(r->chip.vm, RIG_TABLE(slot), 0x80);
	vm_mem_write(r->chip.vm, RIG_TABLE(slot), fis, sizeof(*fis));
	if (cdb != NULL)
		vm_mem_write(r->chip.vm, RIG_TABLE(slot) + 0x40, cdb, 12);
}

static inline void
rig_issue(struct ahci_rig *r, uint32_t slots)
{
	r->seen = 0;
	px_write(r, AHCI_PX_CI, slots);
}

#define RIG_FATAL (AHCI_IS_TFES | AHCI_IS_HBFS | AHCI_IS_HBDS | AHCI_IS_IFS | AHCI_IS_OFS)

/* Handles interrupts until the slots are done, or one failed: RIG_DONE, or the fatal bits. */
static inline uint32_t
rig_await(struct ahci_rig *r, uint32_t slots)
{
	for (;;) {
		uint32_t is = px_read(r, AHCI_PX_IS);

		r->seen |= is;
		px_write(r, AHCI_PX_IS, is);
		hba_write(r, AHCI_IS, BIT(r->port));
		if (r->seen & RIG_FATAL)
			return r->seen & RIG_FATAL;
		if (((px_read(r, AHCI_PX_CI) | px_read(r, AHCI_PX_SACT)) & slots) == 0 &&
		    (r->seen & (AHCI_IS_DHRS | AHCI_IS_PSS | AHCI_IS_SDBS)) != 0)
			return RIG_DONE;
		rig_wait_sem(&r->message);
	}
}

static inline uint32_t
rig_do_fis(
    struct ahci_rig *r, const struct fis_h2d *fis, const uint8_t *cdb, uint64_t gpa, uint32_t len)
{
	if (len != 0)
		rig_prd(r, 0, 0, gpa, len);
	rig_slot(r, 0, fis, cdb, len != 0);
	rig_issue(r, BIT(0));
	return rig_await(r, BIT(0));
}

/* A command in slot 0, with len bytes at gpa. */
static inline uint32_t
rig_do(struct ahci_rig *r, uint8_t command, uint16_t features, uint64_t lba, uint16_t count,
    uint64_t gpa, uint32_t len)
{
	struct fis_h2d fis = rig_fis(command, features, lba, count);

	return rig_do_fis(r, &fis, NULL, gpa, len);
}

/* It is aborted, and the port works again after that. */
static inline void
rig_aborts(struct ahci_rig *r, uint8_t command, uint16_t features, uint64_t lba, uint16_t count)
{
	assert_int_equal(rig_do(r, command, features, lba, count, RIG_DATA, 65536), AHCI_IS_TFES);
	assert_int_equal(px_read(r, AHCI_PX_TFD) & 0xffff,
	    ATA_ERROR_ABRT << 8 | ATA_STATUS_READY | ATA_STATUS_ERR);
	rig_restart(r);
}

static inline struct fis_regs
rig_d2h(struct ahci_rig *r)
{
	struct fis_d2h fis;

	vm_mem_read(r->chip.vm, RIG_FIS + AHCI_RFIS_D2H, &fis, sizeof(fis));
	return fis.regs;
}

static inline uint32_t
rig_prdbc(struct ahci_rig *r, unsigned slot)
{
	struct ahci_header header;

	vm_mem_read(r->chip.vm, RIG_LIST + slot * sizeof(header), &header, sizeof(header));
	return header.prdbc;
}

static inline uint8_t *
rig_data(struct ahci_rig *r, uint64_t gpa)
{
	return vm_mem_ptr(r->chip.vm, gpa, 1);
}

/* Queued: the tag is the slot. */
static inline struct fis_h2d
rig_queued_fis(uint8_t command, unsigned slot, uint64_t lba, uint16_t sectors)
{
	return rig_fis(command, sectors, lba, (uint16_t)(slot << 3));
}

static inline void
rig_issue_queued(struct ahci_rig *r, uint32_t slots)
{
	px_write(r, AHCI_PX_SACT, slots);
	rig_issue(r, slots);
}

/* --- The disk's thread, held between two works --- */

struct rig_gate {
	struct block_work work;
	sem_t reached, open;
};

static void
rig_gate_run(void *ctx)
{
	struct rig_gate *g = ctx;

	sem_post(&g->reached);
	rig_wait_sem(&g->open);
}

static inline void
rig_gate_post(struct ahci_rig *r, struct rig_gate *g)
{
	sem_init(&g->reached, 0, 0);
	sem_init(&g->open, 0, 0);
	block_work_init(&g->work, rig_gate_run, g);
	block_post(r->hba->port[r->port].dev.disk, &g->work);
}

/* Issues commands, and returns when their requests are in flight; they stay so until the gate is
 * opened. */
static inline void
rig_issue_held(struct ahci_rig *r, uint32_t slots, struct rig_gate *g)
{
	struct rig_gate first;

	rig_gate_post(r, &first);
	rig_wait_sem(&first.reached);
	rig_issue(r, slots);
	rig_gate_post(r, g);
	sem_post(&first.open);
	rig_wait_sem(&g->reached);
}

#endif
