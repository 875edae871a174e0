/*
 * AHCI: registers, the command list, data in all forms of tables, interrupts, errors, and resets
 * with requests in flight.
 */
#include "ahci_rig.h"

#define HD_16M "pci.0.3.0.device=ahci-hd", "pci.0.3.0.port.0.ram=16"

#define READ_DMA_EXT  0x25
#define WRITE_DMA_EXT 0x35
#define READ_FPDMA    0x60
#define WRITE_FPDMA   0x61
#define IDENTIFY      0xec
#define READ_LOG_EXT  0x2f

static void
fill(uint8_t *p, size_t len, uint64_t seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)chip_random(&seed);
}

/* --- Registers --- */

static void
test_registers(void **state)
{
	struct ahci_rig r;

	rig_init(&r, "pci.0.3.0.device=ahci", "pci.0.3.0.port.0.type=hd", "pci.0.3.0.port.0.ram=1",
	    "pci.0.3.0.port.2.type=cd", NULL);
	assert_int_equal(rig_cfg_read(&r, 0x00, 4), 0x28218086);
	assert_int_equal(rig_cfg_read(&r, 0x08, 4), 0x01060100);
	assert_int_equal(hba_read(&r, AHCI_CAP), 0xcd34ff02);
	assert_int_equal(hba_read(&r, AHCI_PI), 0x5);
	assert_int_equal(hba_read(&r, AHCI_VS), 0x00010301);
	assert_int_equal(hba_read(&r, AHCI_GHC), AHCI_GHC_AE);
	hba_write(&r, AHCI_CAP, 0);
	hba_write(&r, AHCI_PI, 0xff);
	hba_write(&r, AHCI_GHC, 0);
	assert_int_equal(hba_read(&r, AHCI_CAP), 0xcd34ff02);
	assert_int_equal(hba_read(&r, AHCI_PI), 0x5);
	assert_int_equal(hba_read(&r, AHCI_GHC), AHCI_GHC_AE);
	/* Lists are aligned; reserved bits stay clear. */
	px_write(&r, AHCI_PX_CLB, 0xffffffff);
	px_write(&r, AHCI_PX_FB, 0xffffffff);
	assert_int_equal(px_read(&r, AHCI_PX_CLB), 0xfffffc00);
	assert_int_equal(px_read(&r, AHCI_PX_FB), 0xffffff00);
	px_write(&r, AHCI_PX_IE, 0xffffffff);
	assert_int_equal(px_read(&r, AHCI_PX_IE), AHCI_IE_MASK);
	/* Without ST nothing can be issued. */
	px_write(&r, AHCI_PX_CI, 1);
	px_write(&r, AHCI_PX_SACT, 1);
	assert_int_equal(px_read(&r, AHCI_PX_CI) | px_read(&r, AHCI_PX_SACT), 0);
	/* A port that is not implemented reads as zeros. */
	r.port = 1;
	px_write(&r, AHCI_PX_CMD, 0xffffffff);
	assert_int_equal(px_read(&r, AHCI_PX_CMD), 0);
	r.port = 29;
	assert_int_equal(px_read(&r, AHCI_PX_CMD), 0);
	rig_done(&r);
}

/* Parts of registers, and two at once. */
static void
test_access_sizes(void **state)
{
	struct ahci_rig r;
	uint64_t at;

	rig_init(&r, HD_16M, NULL);
	at = r.abar + AHCI_PORT_BASE;
	vm_bus_write(r.chip.vm, VM_MMIO, at + AHCI_PX_CLB, 8, 0x1122334455667800);
	assert_int_equal(vm_bus_read(r.chip.vm, VM_MMIO, at + AHCI_PX_CLB, 8), 0x1122334455667800);
	vm_bus_write(r.chip.vm, VM_MMIO, at + AHCI_PX_CLBU + 1, 1, 0xee);
	assert_int_equal(px_read(&r, AHCI_PX_CLBU), 0x1122ee44);
	assert_int_equal(vm_bus_read(r.chip.vm, VM_MMIO, at + AHCI_PX_CLBU + 2, 2), 0x1122);
	/* Bits that are cleared by ones: only the byte that is written. */
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD);
	assert_int_equal(px_read(&r, AHCI_PX_SERR), AHCI_SERR_DIAG_X | AHCI_SERR_DIAG_N);
	vm_bus_write(r.chip.vm, VM_MMIO, at + AHCI_PX_SERR + 3, 1, 0xff);
	assert_int_equal(px_read(&r, AHCI_PX_SERR), AHCI_SERR_DIAG_N);
	rig_done(&r);
}

/* Staggered spin-up, COMRESET, power states of the link. */
static void
test_link(void **state)
{
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 0);
	assert_int_equal(px_read(&r, AHCI_PX_TFD), 0x7f);
	assert_int_equal(px_read(&r, AHCI_PX_SIG), 0xffffffff);
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD);
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 0x133);
	assert_int_equal(px_read(&r, AHCI_PX_SIG), ATA_SIGNATURE);
	assert_int_equal(px_read(&r, AHCI_PX_TFD), 0x150);
	assert_int_equal(px_read(&r, AHCI_PX_IS), AHCI_IS_PCS | AHCI_IS_PRCS);
	px_write(&r, AHCI_PX_SERR, 0xffffffff);
	assert_int_equal(px_read(&r, AHCI_PX_IS), 0);
	px_write(&r, AHCI_PX_SCTL, 1);
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 0);
	assert_int_equal(px_read(&r, AHCI_PX_TFD), 0x7f);
	px_write(&r, AHCI_PX_SCTL, 0x10); /* 1.5 Gbit/s at most */
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 0x113);
	px_write(&r, AHCI_PX_SCTL, 4);
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 4);
	px_write(&r, AHCI_PX_SCTL, 0);
	/* Asked for, by itself, and forbidden. */
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD | 6u << 28);
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 0x633);
	assert_int_equal(px_read(&r, AHCI_PX_CMD) >> 28, 0);
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD | 1u << 28);
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 0x133);
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD | AHCI_CMD_ALPE);
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 0x233);
	px_write(&r, AHCI_PX_SCTL, 0x100);
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 0x133);
	rig_done(&r);
}

/* The signature's FIS waits for a place to go to. */
static void
test_signature_fis(void **state)
{
	struct ahci_rig r;
	struct fis_regs fis;

	rig_init(&r, HD_16M, NULL);
	px_write(&r, AHCI_PX_FB, RIG_FIS);
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD);
	assert_int_equal(rig_d2h(&r).type, 0);
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD | AHCI_CMD_FRE);
	fis = rig_d2h(&r);
	assert_int_equal(fis.type, FIS_D2H);
	assert_int_equal(fis.flags, 0);
	assert_int_equal(fis.status, 0x50);
	assert_int_equal(fis.error, 1);
	assert_int_equal(fis.count, 1);
	assert_int_equal(fis.lba0, 1);
	rig_done(&r);
}

/* --- Data --- */

static void
test_read_write(void **state)
{
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	fill(rig_data(&r, RIG_DATA), 65536, 1);
	assert_int_equal(rig_do(&r, WRITE_DMA_EXT, 0, 100, 128, RIG_DATA, 65536), RIG_DONE);
	assert_int_equal(r.seen, AHCI_IS_DHRS);
	assert_int_equal(rig_prdbc(&r, 0), 65536);
	assert_int_equal(rig_d2h(&r).flags, FIS_INTERRUPT);
	assert_int_equal(rig_d2h(&r).status, 0x50);
	assert_int_equal(rig_do(&r, READ_DMA_EXT, 0, 100, 128, RIG_DATA + MIB(1), 65536), RIG_DONE);
	assert_memory_equal(rig_data(&r, RIG_DATA), rig_data(&r, RIG_DATA + MIB(1)), 65536);
	rig_done(&r);
}

/* Tables with elements of all sizes, in any order, more than fit into one request. */
static void
test_tables(void **state)
{
	static const uint32_t sizes[] = { 2, 510, 512, 1024, 6, 4096, 1000 };
	uint64_t seed = 7;
	struct ahci_rig r;
	uint8_t *copy = malloc(MIB(1));

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	for (int round = 0; round < 60; round++) {
		uint32_t total = 0, sectors;
		unsigned prds = 1 + (unsigned)(chip_random(&seed) % (RIG_PRDS - 1));
		uint64_t gpa = RIG_DATA;
		struct fis_h2d fis;

		for (unsigned i = 0; i < prds; i++) {
			uint32_t len = sizes[chip_random(&seed) % ARRAY_SIZE(sizes)];

			if (round % 3 == 0)
				len = 2 + 2 * (uint32_t)(chip_random(&seed) % 8);
			rig_prd(&r, 0, i, gpa, len);
			gpa += len + (round % 2) * 2 * (chip_random(&seed) % 100);
			total += len;
		}
		sectors = total / 512;
		if (sectors == 0)
			continue;
		fill(rig_data(&r, RIG_DATA), gpa - RIG_DATA, seed);
		fis = rig_fis(WRITE_DMA_EXT, 0, (uint64_t)round, (uint16_t)sectors);
		rig_slot(&r, 0, &fis, NULL, prds);
		rig_issue(&r, 1);
		assert_int_equal(rig_await(&r, 1), RIG_DONE);
		assert_int_equal(rig_prdbc(&r, 0), sectors * 512);
		memcpy(copy, rig_data(&r, RIG_DATA), gpa - RIG_DATA);
		/* Back through the same table: memory is as it was. */
		fis.command = READ_DMA_EXT;
		rig_slot(&r, 0, &fis, NULL, prds);
		rig_issue(&r, 1);
		assert_int_equal(rig_await(&r, 1), RIG_DONE);
		assert_memory_equal(copy, rig_data(&r, RIG_DATA), gpa - RIG_DATA);
		/* And in one piece, which tells what is on the disk. */
		assert_int_equal(rig_do(&r, READ_DMA_EXT, 0, (uint64_t)round, (uint16_t)sectors,
				     RIG_DATA + MIB(8), sectors * 512),
		    RIG_DONE);
		if (round % 2 == 0)
			assert_memory_equal(copy, rig_data(&r, RIG_DATA + MIB(8)), sectors * 512);
	}
	free(copy);
	rig_done(&r);
}

static void
test_descriptor_interrupt(void **state)
{
	struct ahci_prd prd = { .dba = RIG_DATA, .dbc = BIT(31) | 511 };
	struct fis_h2d fis = rig_fis(IDENTIFY, 0, 0, 0);
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	vm_mem_write(r.chip.vm, RIG_TABLE(0) + 0x80, &prd, sizeof(prd));
	rig_slot(&r, 0, &fis, NULL, 1);
	rig_issue(&r, 1);
	assert_int_equal(rig_await(&r, 1), RIG_DONE);
	assert_int_equal(r.seen, AHCI_IS_DPS | AHCI_IS_PSS);
	rig_done(&r);
}

/* --- Errors --- */

/* The port halts with this bit, the command still there; and works after a restart. */
static void
fatal(struct ahci_rig *r, uint32_t bit)
{
	assert_int_equal(rig_await(r, 1), bit);
	assert_int_equal(px_read(r, AHCI_PX_CI), 1);
	assert_true(px_read(r, AHCI_PX_CMD) & AHCI_CMD_CR);
	rig_restart(r);
	assert_int_equal(px_read(r, AHCI_PX_CI), 0);
	assert_int_equal(rig_do(r, IDENTIFY, 0, 0, 0, RIG_DATA, 512), RIG_DONE);
}

static void
test_wild_addresses(void **state)
{
	struct fis_h2d fis = rig_fis(READ_DMA_EXT, 0, 0, 8);
	static const uint64_t wild[] = { RIG_MEMORY - 512, RIG_MEMORY, 0xc0000000, UINT64_MAX - 511,
		0x8000000000000000 };
	struct ahci_header header = { .flags = 5, .ctba = UINT64_MAX };
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	for (size_t i = 0; i < ARRAY_SIZE(wild); i++) {
		rig_prd(&r, 0, 0, wild[i], 4096);
		rig_slot(&r, 0, &fis, NULL, 1);
		rig_issue(&r, 1);
		fatal(&r, AHCI_IS_HBFS);
	}
	/* For data that is copied too. */
	assert_int_equal(rig_do(&r, IDENTIFY, 0, 0, 0, RIG_MEMORY - 100, 512), AHCI_IS_HBFS);
	rig_restart(&r);
	/* The command table, the list, and where FISes go. */
	vm_mem_write(r.chip.vm, RIG_LIST, &header, sizeof(header));
	rig_issue(&r, 1);
	fatal(&r, AHCI_IS_HBFS);
	px_write(&r, AHCI_PX_CLBU, 0x1000);
	rig_issue(&r, 1);
	assert_int_equal(rig_await(&r, 1), AHCI_IS_HBFS);
	px_write(&r, AHCI_PX_CLBU, 0);
	rig_restart(&r);
	px_write(&r, AHCI_PX_FBU, 0x1000);
	assert_int_equal(rig_do(&r, 0xe7, 0, 0, 0, 0, 0), AHCI_IS_HBFS);
	px_write(&r, AHCI_PX_FBU, 0);
	rig_restart(&r);
	assert_int_equal(rig_do(&r, IDENTIFY, 0, 0, 0, RIG_DATA, 512), RIG_DONE);
	rig_done(&r);
}

static void
test_bad_commands(void **state)
{
	struct fis_h2d fis = rig_fis(READ_DMA_EXT, 0, 0, 8);
	struct ahci_header header = { .flags = 1, .ctba = RIG_TABLE(0) };
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	/* Less memory than data: none at all, and a part. */
	rig_slot(&r, 0, &fis, NULL, 0);
	rig_issue(&r, 1);
	fatal(&r, AHCI_IS_OFS);
	rig_prd(&r, 0, 0, RIG_DATA, 2048);
	rig_slot(&r, 0, &fis, NULL, 1);
	rig_issue(&r, 1);
	fatal(&r, AHCI_IS_OFS);
	/* No FIS of a command's, or one that is too short. */
	fis.type = 0x46;
	rig_slot(&r, 0, &fis, NULL, 0);
	rig_issue(&r, 1);
	fatal(&r, AHCI_IS_IFS);
	vm_mem_write(r.chip.vm, RIG_LIST, &header, sizeof(header));
	rig_issue(&r, 1);
	fatal(&r, AHCI_IS_IFS);
	rig_done(&r);
	/* A sector in more pieces than a request has. */
	rig_init(&r, HD_16M, "pci.0.3.0.port.0.sectorsize=4096", NULL);
	rig_start(&r);
	fis = rig_fis(READ_DMA_EXT, 0, 0, 1);
	rig_slot(&r, 0, &fis, NULL, 2048);
	/* The table goes on where those of other slots are. */
	for (unsigned i = 0; i < 2048; i++)
		rig_prd(&r, 0, i, RIG_DATA + 4 * i, 2);
	rig_issue(&r, 1);
	fatal(&r, AHCI_IS_HBDS);
	rig_done(&r);
}

/* --- Queued commands --- */

static void
test_queued(void **state)
{
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	for (unsigned pass = 0; pass < 2; pass++) {
		uint64_t base = RIG_DATA + pass * MIB(4);

		if (pass == 0)
			fill(rig_data(&r, RIG_DATA), 32 * 65536, 3);
		for (unsigned i = 0; i < 32; i++) {
			struct fis_h2d fis =
			    rig_queued_fis(pass == 0 ? WRITE_FPDMA : READ_FPDMA, i, i * 128, 128);

			rig_prd(&r, i, 0, base + i * 65536, 65536);
			rig_slot(&r, i, &fis, NULL, 1);
		}
		rig_issue_queued(&r, UINT32_MAX);
		assert_int_equal(rig_await(&r, UINT32_MAX), RIG_DONE);
		assert_int_equal(r.seen, AHCI_IS_SDBS);
	}
	assert_memory_equal(rig_data(&r, RIG_DATA), rig_data(&r, RIG_DATA + MIB(4)), 32 * 65536);
	assert_int_equal(px_read(&r, AHCI_PX_TFD), 0x50);
	rig_done(&r);
}

/* An error ends all that is queued, and log 10h tells which one. */
static void
test_queued_error(void **state)
{
	struct ahci_rig r;
	struct fis_h2d fis;
	const uint8_t *log;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	for (unsigned i = 0; i < 3; i++) {
		fis = rig_queued_fis(READ_FPDMA, i, i == 1 ? 0x123456 : 0, 8);
		rig_prd(&r, i, 0, RIG_DATA, 4096);
		rig_slot(&r, i, &fis, NULL, 1);
	}
	rig_issue_queued(&r, 7);
	assert_int_equal(rig_await(&r, 7), AHCI_IS_TFES);
	assert_true(px_read(&r, AHCI_PX_SACT) & BIT(1));
	assert_int_equal(px_read(&r, AHCI_PX_TFD), ATA_ERROR_IDNF << 8 | 0x51);
	rig_restart(&r);
	/* Nothing else is taken before. */
	assert_int_equal(rig_do(&r, IDENTIFY, 0, 0, 0, RIG_DATA, 512), AHCI_IS_TFES);
	rig_restart(&r);
	assert_int_equal(rig_do(&r, READ_LOG_EXT, 0, 0x10, 1, RIG_DATA, 512), RIG_DONE);
	log = rig_data(&r, RIG_DATA);
	assert_int_equal(log[0], 1);
	assert_int_equal(log[2], 0x51);
	assert_int_equal(log[3], ATA_ERROR_IDNF);
	assert_int_equal(log[4] | log[5] << 8 | log[6] << 16, 0x123456);
	assert_int_equal(rig_do(&r, IDENTIFY, 0, 0, 0, RIG_DATA, 512), RIG_DONE);
	/* A tag that is not the slot's. */
	fis = rig_queued_fis(READ_FPDMA, 9, 0, 8);
	rig_prd(&r, 0, 0, RIG_DATA, 4096);
	rig_slot(&r, 0, &fis, NULL, 1);
	rig_issue_queued(&r, 1);
	assert_int_equal(rig_await(&r, 1), AHCI_IS_TFES);
	rig_done(&r);
}

/* A command that is not queued, while others are. */
static void
test_queued_mixed(void **state)
{
	struct fis_h2d queued = rig_queued_fis(READ_FPDMA, 0, 0, 8),
		       fis = rig_fis(IDENTIFY, 0, 0, 0);
	struct rig_gate gate;
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	rig_prd(&r, 0, 0, RIG_DATA, 4096);
	rig_slot(&r, 0, &queued, NULL, 1);
	rig_prd(&r, 1, 0, RIG_DATA + 4096, 512);
	rig_slot(&r, 1, &fis, NULL, 1);
	px_write(&r, AHCI_PX_SACT, 1);
	rig_issue_held(&r, 3, &gate);
	assert_int_equal(rig_await(&r, 2), AHCI_IS_TFES);
	assert_int_equal(px_read(&r, AHCI_PX_CI), 2);
	sem_post(&gate.open);
	rig_restart(&r);
	assert_int_equal(rig_do(&r, READ_LOG_EXT, 0, 0x10, 1, RIG_DATA, 512), RIG_DONE);
	assert_int_equal(rig_data(&r, RIG_DATA)[0], BIT(7));
	rig_done(&r);
}

/* --- Resets with requests in flight --- */

static void
held_reads(struct ahci_rig *r, struct rig_gate *gate)
{
	for (unsigned i = 0; i < 32; i++) {
		struct fis_h2d fis = rig_queued_fis(READ_FPDMA, i, i * 8, 8);

		rig_prd(r, i, 0, RIG_DATA + i * 4096, 4096);
		rig_slot(r, i, &fis, NULL, 1);
	}
	px_write(r, AHCI_PX_SACT, UINT32_MAX);
	rig_issue_held(r, UINT32_MAX, gate);
	assert_int_equal(px_read(r, AHCI_PX_CI), 0);
	assert_int_equal(px_read(r, AHCI_PX_SACT), UINT32_MAX);
}

static void
works(struct ahci_rig *r)
{
	rig_start(r);
	assert_int_equal(rig_do(r, IDENTIFY, 0, 0, 0, RIG_DATA, 512), RIG_DONE);
	assert_int_equal(rig_do(r, READ_DMA_EXT, 0, 0, 8, RIG_DATA, 4096), RIG_DONE);
}

static void
test_stop_in_flight(void **state)
{
	struct rig_gate gate;
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	held_reads(&r, &gate);
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD | AHCI_CMD_FRE);
	/* CR tells that memory is still in use. */
	assert_true(px_read(&r, AHCI_PX_CMD) & AHCI_CMD_CR);
	assert_int_equal(px_read(&r, AHCI_PX_SACT), 0);
	sem_post(&gate.open);
	px_await(&r, AHCI_PX_CMD, AHCI_CMD_CR, 0);
	assert_int_equal(px_read(&r, AHCI_PX_IS), 0);
	works(&r);
	rig_done(&r);
}

/* Started again before the old requests were done: what is issued waits for them. */
static void
test_restart_in_flight(void **state)
{
	struct fis_h2d fis = rig_fis(IDENTIFY, 0, 0, 0);
	struct rig_gate gate;
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	held_reads(&r, &gate);
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD | AHCI_CMD_FRE);
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD | AHCI_CMD_FRE | AHCI_CMD_ST);
	rig_prd(&r, 0, 0, RIG_DATA, 512);
	rig_slot(&r, 0, &fis, NULL, 1);
	rig_issue(&r, 1);
	assert_int_equal(px_read(&r, AHCI_PX_CI), 1);
	sem_post(&gate.open);
	assert_int_equal(rig_await(&r, 1), RIG_DONE);
	works(&r);
	rig_done(&r);
}

static void
test_comreset_in_flight(void **state)
{
	struct rig_gate gate;
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	held_reads(&r, &gate);
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD | AHCI_CMD_FRE);
	px_write(&r, AHCI_PX_SCTL, 1);
	px_write(&r, AHCI_PX_SCTL, 0);
	assert_int_equal(px_read(&r, AHCI_PX_TFD), ATA_STATUS_BSY);
	sem_post(&gate.open);
	px_await(&r, AHCI_PX_TFD, 0xffff, 0x150);
	works(&r);
	rig_done(&r);
}

static void
test_hba_reset_in_flight(void **state)
{
	struct rig_gate gate;
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	held_reads(&r, &gate);
	hba_write(&r, AHCI_GHC, AHCI_GHC_HR);
	assert_int_equal(hba_read(&r, AHCI_GHC), AHCI_GHC_AE | AHCI_GHC_HR);
	px_write(&r, AHCI_PX_CMD, AHCI_CMD_SUD); /* not before it is over */
	assert_int_equal(px_read(&r, AHCI_PX_CMD) & AHCI_CMD_SUD, 0);
	sem_post(&gate.open);
	for (int i = 0; hba_read(&r, AHCI_GHC) != AHCI_GHC_AE; i++) {
		const struct timespec ms = { .tv_nsec = 1000000 };

		assert_true(i < RIG_PATIENCE_S * 1000);
		nanosleep(&ms, NULL);
	}
	assert_int_equal(px_read(&r, AHCI_PX_CMD), AHCI_CMD_POD);
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 0);
	works(&r);
	rig_done(&r);
}

static void *
open_later(void *arg)
{
	struct rig_gate *gate = arg;
	const struct timespec ms = { .tv_nsec = 5000000 };

	nanosleep(&ms, NULL);
	sem_post(&gate->open);
	return NULL;
}

/* FLR returns only when memory is the guest's again. */
static void
test_function_reset_in_flight(void **state)
{
	struct rig_gate gate;
	struct ahci_rig r;
	pthread_t thread;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	held_reads(&r, &gate);
	pthread_create(&thread, NULL, open_later, &gate);
	rig_cfg_write(&r, rig_cap(&r, 0x10) + 8, 2, 0x8000);
	assert_int_equal(r.hba->port[0].inflight, 0);
	pthread_join(thread, NULL);
	rig_pci_enable(&r);
	assert_int_equal(px_read(&r, AHCI_PX_CLB), 0);
	assert_int_equal(px_read(&r, AHCI_PX_CMD), AHCI_CMD_POD);
	assert_int_equal(hba_read(&r, AHCI_GHC), AHCI_GHC_AE);
	works(&r);
	rig_done(&r);
}

/* The controller goes away with requests in flight. */
static void
test_destroy_in_flight(void **state)
{
	struct rig_gate gate;
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	held_reads(&r, &gate);
	sem_post(&gate.open);
	rig_done(&r);
}

static void
test_soft_reset(void **state)
{
	struct fis_h2d fis = { .type = FIS_H2D, .control = FIS_CONTROL_SRST };
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	rig_slot(&r, 0, &fis, NULL, 0);
	px_write(&r, AHCI_PX_CI, 1);
	px_await(&r, AHCI_PX_CI, 1, 0);
	vm_mem_zero(r.chip.vm, RIG_FIS, 256);
	fis.control = 0;
	rig_slot(&r, 0, &fis, NULL, 0);
	px_write(&r, AHCI_PX_CI, 1);
	px_await(&r, AHCI_PX_CI, 1, 0);
	assert_int_equal(px_read(&r, AHCI_PX_TFD), 0x150);
	assert_int_equal(rig_d2h(&r).type, FIS_D2H);
	works(&r);
	rig_done(&r);
}

/* --- Interrupts --- */

static void
test_interrupts(void **state)
{
	struct ahci_rig r;
	int before;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	before = r.messages;
	assert_int_equal(rig_do(&r, 0xe7, 0, 0, 0, 0, 0), RIG_DONE);
	assert_int_equal(r.messages, before + 1);
	/* Masked in the port: nothing; unmasked: at once. */
	px_write(&r, AHCI_PX_IE, 0);
	before = r.messages;
	px_write(&r, AHCI_PX_CI, 1);
	px_await(&r, AHCI_PX_CI, 1, 0);
	assert_int_equal(hba_read(&r, AHCI_IS), 0);
	px_write(&r, AHCI_PX_IE, AHCI_IS_DHRS);
	assert_int_equal(hba_read(&r, AHCI_IS), 1);
	assert_int_equal(r.messages, before + 1);
	/* IS cleared before PxIS: it comes again. */
	hba_write(&r, AHCI_IS, 1);
	assert_int_equal(hba_read(&r, AHCI_IS), 1);
	assert_int_equal(r.messages, before + 2);
	px_write(&r, AHCI_PX_IS, AHCI_IS_DHRS);
	hba_write(&r, AHCI_IS, 1);
	assert_int_equal(hba_read(&r, AHCI_IS), 0);
	assert_int_equal(r.messages, before + 2);
	rig_done(&r);
}

static void
test_pin(void **state)
{
	struct ahci_rig r;
	int line = 16 + RIG_SLOT;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	rig_cfg_write(&r, rig_cap(&r, 0x05) + 2, 2, 0);
	px_write(&r, AHCI_PX_CI, 0);
	rig_slot(&r, 0,
	    &(struct fis_h2d){ .type = FIS_H2D, .flags = FIS_H2D_COMMAND, .command = 0xe7 }, NULL,
	    0);
	px_write(&r, AHCI_PX_CI, 1);
	px_await(&r, AHCI_PX_IS, AHCI_IS_DHRS, AHCI_IS_DHRS);
	pthread_mutex_lock(&r.hba->port[0].lock); /* until the thread has told of it */
	assert_true(r.chip.level[line]);
	pthread_mutex_unlock(&r.hba->port[0].lock);
	px_write(&r, AHCI_PX_IS, AHCI_IS_DHRS);
	hba_write(&r, AHCI_IS, 1);
	assert_false(r.chip.level[line]);
	rig_done(&r);
}

/* --- Saving --- */

static void
test_state(void **state)
{
	struct vm_state *saved;
	struct ahci_rig r;

	rig_init(&r, HD_16M, NULL);
	rig_start(&r);
	assert_int_equal(rig_do(&r, 0xef, 0x82, 0, 0, 0, 0), RIG_DONE);
	px_write(&r, AHCI_PX_IE, AHCI_IS_DHRS);
	saved = chip_save(&r.chip);
	hba_write(&r, AHCI_GHC, AHCI_GHC_HR);
	assert_int_equal(px_read(&r, AHCI_PX_IE), 0);
	assert_int_equal(chip_load(&r.chip, saved, NULL), 0);
	assert_int_equal(px_read(&r, AHCI_PX_IE), AHCI_IS_DHRS);
	assert_int_equal(px_read(&r, AHCI_PX_SSTS), 0x133);
	assert_int_equal(hba_read(&r, AHCI_GHC), AHCI_GHC_AE | AHCI_GHC_IE);
	assert_int_equal(rig_do(&r, READ_DMA_EXT, 0, 0, 8, RIG_DATA, 4096), RIG_DONE);
	vm_state_destroy(saved);
	rig_done(&r);
}

/* --- Configuration --- */

static void
refused(const char *const *lines, const char *said)
{
	struct ahci_rig r;
	struct capture c;
	int err;

	capture_begin(&c);
	err = rig_create(&r, lines);
	capture_end(&c);
	assert_int_equal(err, -EINVAL);
	assert_string_equal(c.text, said);
	rig_done(&r);
}

#define REFUSED(said, ...)                                                                         \
	refused((const char *const[]){ "pci.0.3.0.device=ahci", __VA_ARGS__, NULL }, said)

static void
test_configuration(void **state)
{
	REFUSED("bhyve: pci.0.3.0: expected a disk or CD-ROM drive: port.0.path\n", "x=y");
	REFUSED("bhyve: pci.0.3.0.port.0: type=: expected hd or cd\n", "pci.0.3.0.port.0.ram=1");
	REFUSED(
	    "bhyve: pci.0.3.0.port.0: type=fd: expected hd or cd\n", "pci.0.3.0.port.0.type=fd");
	REFUSED(
	    "bhyve: pci.0.3.0: port.6: expected port.0 to port.5\n", "pci.0.3.0.port.6.type=cd");
	REFUSED("bhyve: pci.0.3.0.port.1: a disk needs a path, or ram=SIZE\n",
	    "pci.0.3.0.port.1.type=hd");
	REFUSED("bhyve: pci.0.3.0.port.0: rev=123456789: expected at most 8 characters of ASCII\n",
	    "pci.0.3.0.port.0.type=cd", "pci.0.3.0.port.0.rev=123456789");
	REFUSED("bhyve: pci.0.3.0.port.0: nmrr=fast: expected rotations a minute, 1 for none, 0 to "
		"65534\n",
	    "pci.0.3.0.port.0.type=cd", "pci.0.3.0.port.0.nmrr=fast");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_registers),
		cmocka_unit_test(test_access_sizes),
		cmocka_unit_test(test_link),
		cmocka_unit_test(test_signature_fis),
		cmocka_unit_test(test_read_write),
		cmocka_unit_test(test_tables),
		cmocka_unit_test(test_descriptor_interrupt),
		cmocka_unit_test(test_wild_addresses),
		cmocka_unit_test(test_bad_commands),
		cmocka_unit_test(test_queued),
		cmocka_unit_test(test_queued_error),
		cmocka_unit_test(test_queued_mixed),
		cmocka_unit_test(test_stop_in_flight),
		cmocka_unit_test(test_restart_in_flight),
		cmocka_unit_test(test_comreset_in_flight),
		cmocka_unit_test(test_hba_reset_in_flight),
		cmocka_unit_test(test_function_reset_in_flight),
		cmocka_unit_test(test_destroy_in_flight),
		cmocka_unit_test(test_soft_reset),
		cmocka_unit_test(test_interrupts),
		cmocka_unit_test(test_pin),
		cmocka_unit_test(test_state),
		cmocka_unit_test(test_configuration),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
