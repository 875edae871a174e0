/*
 * A hostile driver of an AHCI controller with a disk and a CD-ROM drive: registers, command lists
 * and tables as the input has them, changed while commands are under way, with resets and media
 * moved in between. Whatever it does, a function reset afterwards leaves nothing in flight and a
 * disk that works.
 */
#include "../unit/mock_engine.h"

#include "base/config.h"
#include "pci/pci_host.h"
#include "storage/ahci_impl.h"

#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define FUZZ_MEMORY            MIB(1)
#define FUZZ_SLOT              3
#define FUZZ_ECAM              (PCI_ECAM_BASE + ((uint64_t)FUZZ_SLOT << 15))
#define FUZZ_ABAR              0xc0000000u
#define FUZZ_LIST(port)        (0x10000u * (1u + (port)))
#define FUZZ_FIS(port)         (FUZZ_LIST(port) + 0x400u)
#define FUZZ_TABLE(port, slot) (FUZZ_LIST(port) + 0x1000u + 0x400u * (slot))
#define FUZZ_STEPS             32
#define FUZZ_PORTS             2

struct fuzz_step {
	uint8_t what, port, slot, reg;
	uint8_t command, device;
	uint16_t count;
	uint32_t val;
	uint8_t cdb[4];
};
static_assert(sizeof(struct fuzz_step) == 16, "packed by itself");

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct vm *fuzz_vm; /* made once: a thread for each disk */
static struct pci *fuzz_pci;
static struct pci_dev *fuzz_dev;
static unsigned fuzz_express; /* offset of the PCI Express capability */
static char fuzz_image[] = "/tmp/fuzz-ahci-XXXXXX";

/* --- The machine --- */

static uint32_t
cfg_read(unsigned off, int size)
{
	return (uint32_t)vm_bus_read(fuzz_vm, VM_MMIO, FUZZ_ECAM + off, size);
}

static void
cfg_write(unsigned off, int size, uint32_t val)
{
	vm_bus_write(fuzz_vm, VM_MMIO, FUZZ_ECAM + off, size, val);
}

static void
reg_write(unsigned port, unsigned reg, uint32_t val)
{
	vm_bus_write(
	    fuzz_vm, VM_MMIO, FUZZ_ABAR + AHCI_PORT_BASE + port * AHCI_PORT_SIZE + reg, 4, val);
}

static uint32_t
reg_read(unsigned port, unsigned reg)
{
	return (uint32_t)vm_bus_read(
	    fuzz_vm, VM_MMIO, FUZZ_ABAR + AHCI_PORT_BASE + port * AHCI_PORT_SIZE + reg, 4);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char *const vars[][2] = { { "device", "ahci" }, { "port.0.type", "hd" },
		{ "port.0.ram", "1" }, { "port.1.type", "cd" }, { "port.1.path", fuzz_image } };
	const struct pci_params params = { .phys_bits = 40 };
	struct config *config = config_create();
	int fd = mkstemp(fuzz_image);

	if (fd < 0 || ftruncate(fd, 65536) != 0 || config == NULL)
		abort();
	close(fd);
	for (size_t i = 0; i < ARRAY_SIZE(vars); i++) {
		char name[64];

		snprintf(name, sizeof(name), "pci.0.%d.0.%s", FUZZ_SLOT, vars[i][0]);
		if (config_set(config, name, vars[i][1]) != 0)
			abort();
	}
	fuzz_vm = mock_vm_create_config(FUZZ_MEMORY, 1, config);
	if (fuzz_vm == NULL || pci_create(fuzz_vm, &params, &fuzz_pci) != 0)
		abort();
	unlink(fuzz_image);
	fuzz_dev = pci_find(fuzz_pci, FUZZ_SLOT, 0);
	fuzz_express = cfg_read(0x34, 1);
	while (cfg_read(fuzz_express, 1) != 0x10)
		fuzz_express = cfg_read(fuzz_express + 1, 1);
	return 0;
}

/* --- The driver --- */

/* Resets the function, and has memory, bus mastering and the lists where they are looked for. */
static void
fuzz_reset(void)
{
	cfg_write(fuzz_express + 8, 2, 0x8000);
	cfg_write(0x24, 4, FUZZ_ABAR);
	cfg_write(0x04, 2, 6);
}

static void
fuzz_start(unsigned port)
{
	reg_write(port, AHCI_PX_CMD, AHCI_CMD_SUD);
	reg_write(port, AHCI_PX_CLB, FUZZ_LIST(port));
	reg_write(port, AHCI_PX_CLBU, 0);
	reg_write(port, AHCI_PX_FB, FUZZ_FIS(port));
	reg_write(port, AHCI_PX_FBU, 0);
	reg_write(port, AHCI_PX_SCTL, 0);
	reg_write(port, AHCI_PX_IE, UINT32_MAX);
	reg_write(port, AHCI_PX_CMD, AHCI_CMD_SUD | AHCI_CMD_FRE | AHCI_CMD_ST | AHCI_CMD_CLO);
}

/* Mostly a command that there is. */
static uint8_t
fuzz_code(const struct fuzz_step *s, bool packet)
{
	static const uint8_t ata[] = { 0x06, 0x20, 0x25, 0x2f, 0x35, 0x3d, 0x42, 0x47, 0x60, 0x60,
		0x61, 0x61, 0x64, 0x65, 0xb0, 0xc4, 0xc6, 0xca, 0xe0, 0xea, 0xec, 0xef };
	static const uint8_t scsi[] = { 0x00, 0x03, 0x12, 0x15, 0x1a, 0x1b, 0x1b, 0x1e, 0x25, 0x28,
		0x28, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x52, 0x55, 0x5a, 0xa8, 0xad, 0xb9, 0xbd,
		0xbe };

	if ((s->reg & 0xc0) == 0)
		return s->command;
	return packet ? scsi[s->command % ARRAY_SIZE(scsi)] : ata[s->command % ARRAY_SIZE(ata)];
}

/* A command that is well-formed, but for what the input says. */
static void
fuzz_command(unsigned port, const struct fuzz_step *s)
{
	unsigned slot = s->slot % AHCI_SLOTS, prds = s->val % 40;
	struct ahci_header header = {
		.flags = 5, .prdtl = (uint16_t)prds, .ctba = FUZZ_TABLE(port, slot)
	};
	struct ahci_table table = { .fis = { .type = FIS_H2D,
					.flags = s->reg & 1 ? 0 : FIS_H2D_COMMAND,
					.command = fuzz_code(s, false),
					.device = s->device | ATA_DEVICE_LBA,
					.lba0 = s->cdb[0],
					.lba1 = s->cdb[1],
					.lba2 = s->cdb[2],
					.lba3 = s->cdb[3] & 1,
					.count = (uint8_t)s->count,
					.count_ext = (uint8_t)(s->count >> 8),
					.features = (uint8_t)(s->val >> 8),
					.aux = s->reg & 2,
					.control = s->reg & 4 } };

	if (port == 1 && (s->reg & 8) != 0) {
		table.fis.command = 0xa0;
		table.acmd[0] = fuzz_code(s, true);
		table.acmd[1] = s->device;
		memcpy(table.acmd + 2, s->cdb, 4);
		memcpy(table.acmd + 6, &s->val, 4);
	} else if (ata_is_queued(
		       &((struct ahci *)pci_priv(fuzz_dev))->port[port].dev, table.fis.command)) {
		table.fis.count = (uint8_t)(slot << 3); /* a queued one's tag */
	}
	vm_mem_write(fuzz_vm, FUZZ_LIST(port) + slot * sizeof(header), &header, sizeof(header));
	vm_mem_write(fuzz_vm, FUZZ_TABLE(port, slot), &table, sizeof(table));
	for (unsigned i = 0; i < prds; i++) {
		struct ahci_prd prd = { .dba = 0x80000 + i * (s->val >> 16 & 0xfff0),
			.dbc = (s->count * 37u + i * 511) & 0x8000ffff };

		vm_mem_write(
		    fuzz_vm, FUZZ_TABLE(port, slot) + 0x80 + i * sizeof(prd), &prd, sizeof(prd));
	}
}

static void
fuzz_media(const struct fuzz_step *s)
{
	switch (s->reg % 3) {
	case 0: (void)ahci_cd_eject(fuzz_dev, 1, s->slot & 1); break;
	case 1:
		while (vm_loop_poll(vm_loop(fuzz_vm), 0) > 0)
			;
		break;
	default: break;
	}
}

static void
fuzz_do(const struct fuzz_step *s)
{
	struct ahci *hba = pci_priv(fuzz_dev);
	unsigned port = s->port % FUZZ_PORTS;
	struct block *disk = hba->port[port].dev.disk;

	switch (s->what % 10) {
	case 0: reg_write(port, s->reg & 0x7c, s->val); break;
	case 1:
		vm_bus_write(fuzz_vm, VM_MMIO, FUZZ_ABAR + (s->val & 0x3ff & ~7u),
		    1 << (s->reg & 3), (uint64_t)s->val << 32 | s->count);
		break;
	case 2:
	case 3: fuzz_command(port, s); break;
	case 4: vm_mem_write(fuzz_vm, FUZZ_LIST(port) + s->count, &s->val, 4); break;
	case 5:
		reg_write(port, AHCI_PX_SACT, s->reg & 1 ? BIT(s->slot % AHCI_SLOTS) : s->val);
		reg_write(port, AHCI_PX_CI, s->reg & 1 ? BIT(s->slot % AHCI_SLOTS) : s->val);
		break;
	case 6:
		if (port == 0)
			block_drain(disk);
		break;
	case 7: fuzz_start(port); break;
	case 8: fuzz_media(s); break;
	default:
		if (s->reg & 1)
			fuzz_reset();
		else
			vm_bus_write(fuzz_vm, VM_MMIO, FUZZ_ABAR + AHCI_GHC, 4, AHCI_GHC_HR);
		break;
	}
}

/* IDENTIFY DEVICE, which any driver could send. */
static void
fuzz_check(void)
{
	const struct fuzz_step identify = { .command = 0xec, .val = 1, .count = 0xffff };
	struct ahci *hba = pci_priv(fuzz_dev);

	fuzz_reset();
	for (unsigned i = 0; i < FUZZ_PORTS; i++) {
		if (hba->port[i].inflight != 0)
			abort();
	}
	fuzz_start(0);
	fuzz_command(0, &identify);
	reg_write(0, AHCI_PX_CI, 1);
	block_drain(hba->port[0].dev.disk);
	if (reg_read(0, AHCI_PX_CI) != 0 || reg_read(0, AHCI_PX_IS) & AHCI_IS_TFES)
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* Inputs are short in bounded runs: what they do not say comes from a generator that they
	 * seed. */
	uint64_t seed = 0xcbf29ce484222325ull;
	struct fuzz_step steps[FUZZ_STEPS];
	uint8_t *bytes = (uint8_t *)steps;

	for (size_t i = 0; i < size; i++)
		seed = (seed ^ data[i]) * 0x100000001b3ull;
	for (size_t i = 0; i < sizeof(steps); i++) {
		seed = seed * 6364136223846793005ull + 1442695040888963407ull;
		bytes[i] = i < size ? data[i] : (uint8_t)(seed >> 56);
	}
	fuzz_reset();
	vm_mem_zero(fuzz_vm, 0x10000, 0x20000);
	fuzz_start(0);
	fuzz_start(1);
	for (size_t i = 0; i < FUZZ_STEPS; i++)
		fuzz_do(&steps[i]);
	fuzz_check();
	return 0;
}
