/*
 * SMART (ACS-3, 7.48, and the structures that it refers to; attributes are those of SFF-8035i).
 */
#include "storage/ata_impl.h"

#include <string.h>

/* Subcommands, in the features register */
#define SMART_READ_DATA       0xd0
#define SMART_READ_THRESHOLDS 0xd1
#define SMART_AUTOSAVE        0xd2
#define SMART_EXECUTE         0xd4
#define SMART_READ_LOG        0xd5
#define SMART_ENABLE          0xd8
#define SMART_DISABLE         0xd9
#define SMART_STATUS          0xda
#define SMART_KEY             0xc24f00u /* LBA bits 23 to 8 of each SMART command */
#define SMART_KEY_MASK        0xffff00u

#define SMART_AUTOSAVE_ON 0xf1

/* SMART EXECUTE OFF-LINE IMMEDIATE, in LBA bits 7 to 0 */
#define TEST_OFFLINE  0x00
#define TEST_SHORT    0x01
#define TEST_EXTENDED 0x02
#define TEST_ABORT    0x7f
#define TEST_CAPTIVE  0x80 /* or'ed in */

#define TEST_READS_SHORT    16 /* places on the medium that are looked at */
#define TEST_READS_EXTENDED 256

/* Self-test execution status */
#define TEST_PASSED      0x00
#define TEST_FAILED_READ 0x70

#define SMART_REVISION     0x10
#define SMART_LOG_SELFTEST 0x06
#define SMART_LOGS_PAGES   1

/* --- Attributes --- */

#define ATTRIBUTE_ONLINE  BIT(1) /* updated while the device works */
#define ATTRIBUTE_PREFAIL BIT(0)
#define ATTRIBUTE_COUNT   BIT(4) /* of events */

struct smart_attribute { /* 12 bytes (SFF-8035i) */
	uint8_t id;
	uint8_t flags[2];
	uint8_t value, worst;
	uint8_t raw[6];
	uint8_t reserved;
};
static_assert(sizeof(struct smart_attribute) == 12, "SFF-8035i");

struct smart_threshold {
	uint8_t id, threshold;
	uint8_t reserved[10];
};
static_assert(sizeof(struct smart_threshold) == 12, "SFF-8035i");

static uint64_t
smart_raw_none(const struct ata_dev *dev)
{
	return 0;
}

static uint64_t
smart_raw_cycles(const struct ata_dev *dev)
{
	return 1;
}

static uint64_t
smart_raw_written(const struct ata_dev *dev)
{
	struct block_stats stats;

	block_stats(dev->disk, &stats);
	return stats.op[BLOCK_WRITE].bytes / ATA_SECTOR;
}

static uint64_t
smart_raw_read(const struct ata_dev *dev)
{
	struct block_stats stats;

	block_stats(dev->disk, &stats);
	return stats.op[BLOCK_READ].bytes / ATA_SECTOR;
}

static const struct smart_kind {
	uint8_t id, flags, threshold;
	uint64_t (*raw)(const struct ata_dev *dev);
} smart_kinds[] = {
	{ 5, ATTRIBUTE_PREFAIL | ATTRIBUTE_ONLINE | ATTRIBUTE_COUNT, 10,
	    smart_raw_none }, /* reallocated sectors */
	{ 9, ATTRIBUTE_ONLINE | ATTRIBUTE_COUNT, 0, ata_hours },
	{ 12, ATTRIBUTE_ONLINE | ATTRIBUTE_COUNT, 0, smart_raw_cycles },
	{ 241, ATTRIBUTE_ONLINE | ATTRIBUTE_COUNT, 0, smart_raw_written }, /* sectors written */
	{ 242, ATTRIBUTE_ONLINE | ATTRIBUTE_COUNT, 0, smart_raw_read },    /* sectors read */
};

/* --- Structures --- */

/* The last self-test, NULL if there was none. */
static const struct ata_selftest *
smart_test_last(const struct ata_dev *dev)
{
	const struct ata_selftest *t =
	    &dev->selftest[(dev->selftest_next + ATA_SELFTESTS - 1) % ATA_SELFTESTS];

	return t->kind != 0 ? t : NULL;
}

static enum ata_end
smart_read_data(struct ata_cmd *cmd)
{
	const struct ata_dev *dev = cmd->dev;
	const struct ata_selftest *last = smart_test_last(dev);
	uint8_t page[ATA_SECTOR] = { SMART_REVISION };

	for (size_t i = 0; i < ARRAY_SIZE(smart_kinds); i++) {
		uint64_t raw = smart_kinds[i].raw(dev);
		struct smart_attribute a = { .id = smart_kinds[i].id, .value = 100, .worst = 100 };

		a.flags[0] = smart_kinds[i].flags;
		memcpy(a.raw, &raw, sizeof(a.raw));
		memcpy(page + 2 + i * sizeof(a), &a, sizeof(a));
	}
	page[362] = 0x00; /* off-line data collection: never started */
	page[363] = last != NULL ? last->status : TEST_PASSED;
	page[367] = BIT(0) | BIT(4); /* execute off-line immediate, self-tests */
	page[368] = BIT(0) | BIT(1); /* attributes are saved, and can be */
	page[370] = 0;               /* no error log */
	page[372] = 1;               /* minutes: short, extended self-test */
	page[373] = 1;
	ata_checksum(page);
	return ata_reply(cmd, page, sizeof(page));
}

static enum ata_end
smart_read_thresholds(struct ata_cmd *cmd)
{
	uint8_t page[ATA_SECTOR] = { SMART_REVISION };

	for (size_t i = 0; i < ARRAY_SIZE(smart_kinds); i++) {
		struct smart_threshold t = { .id = smart_kinds[i].id,
			.threshold = smart_kinds[i].threshold };

		memcpy(page + 2 + i * sizeof(t), &t, sizeof(t));
	}
	ata_checksum(page);
	return ata_reply(cmd, page, sizeof(page));
}

/* A descriptor of the self-test log: 24 bytes in log 06h, 26 in 07h, where the LBA has 48 bits. */
static void
smart_test_put(uint8_t *out, const struct ata_selftest *t, bool ext)
{
	out[0] = t->kind;
	out[1] = t->status;
	memcpy(out + 2, &t->hours, sizeof(t->hours));
	out[4] = 0; /* failure checkpoint */
	if (t->status != TEST_PASSED)
		memcpy(out + 5, &t->lba, sizeof(t->lba));
	else
		memset(out + 5, UINT8_MAX, ext ? 6 : 4);
}

void
ata_selftest_page(const struct ata_dev *dev, bool ext, uint8_t page[ATA_SECTOR])
{
	unsigned size = ext ? 26 : 24, first = ext ? 4 : 2, slots = ext ? 19 : ATA_SELFTESTS;
	unsigned used = 0;

	/* Kept oldest first, so the newest is the last one in use. */
	for (unsigned i = 0; i < ATA_SELFTESTS; i++) {
		const struct ata_selftest *t =
		    &dev->selftest[(dev->selftest_next + i) % ATA_SELFTESTS];

		if (t->kind == 0 || (i < ATA_SELFTESTS - slots))
			continue;
		smart_test_put(page + first + used++ * size, t, ext);
	}
	page[0] = 1;                         /* revision */
	page[ext ? 2 : 508] = (uint8_t)used; /* the newest's number, from 1 */
	ata_checksum(page);
}

static enum ata_end
smart_read_log(struct ata_cmd *cmd)
{
	uint8_t page[ATA_SECTOR] = { 1 };

	if ((cmd->in.count & UINT8_MAX) != SMART_LOGS_PAGES)
		return ata_abort(cmd);
	switch (cmd->in.lba & UINT8_MAX) {
	case 0x00: page[2 * SMART_LOG_SELFTEST] = SMART_LOGS_PAGES; break; /* directory */
	case SMART_LOG_SELFTEST: ata_selftest_page(cmd->dev, false, page); break;
	default: return ata_abort(cmd);
	}
	return ata_reply(cmd, page, sizeof(page));
}

/* --- Self-tests --- */

static void
smart_test_end(struct ata_cmd *cmd, uint8_t status)
{
	struct ata_dev *dev = cmd->dev;
	uint32_t unit = block_info(dev->disk)->logical_sector;

	dev->selftest[dev->selftest_next] = (struct ata_selftest){
		.kind = (uint8_t)cmd->in.lba,
		.status = status,
		.hours = (uint16_t)ata_hours(dev),
		.lba = (uint32_t)(cmd->pos / unit),
	};
	dev->selftest_next = (uint8_t)((dev->selftest_next + 1) % ATA_SELFTESTS);
}

/* Reads from places all over the medium. The host knows how its disks are; what a self-test here
 * finds out is whether it can be read at all. */
static enum ata_end
smart_test_step(struct ata_cmd *cmd, int err)
{
	uint32_t unit = block_info(cmd->dev->disk)->logical_sector;
	uint64_t sectors = ata_sectors(cmd->dev);

	if (err != 0) {
		smart_test_end(cmd, TEST_FAILED_READ);
		/* A captive test tells its failure at once (ACS-3, 7.48.5.2). */
		if ((cmd->in.lba & TEST_CAPTIVE) == 0)
			return ATA_END_OK;
		cmd->out.lba = (cmd->in.lba & UINT8_MAX) | 0x2cf400;
		return ata_abort(cmd);
	}
	if (cmd->tests_left == 0) {
		smart_test_end(cmd, TEST_PASSED);
		return ATA_END_OK;
	}
	cmd->tests_left--;
	cmd->pos = sectors / cmd->tests * cmd->tests_left * unit;
	cmd->iov[0] = (struct iovec){ cmd->dev->scratch, unit };
	cmd->iovcnt = 1;
	ata_cmd_submit(cmd, BLOCK_READ, 0, cmd->pos, unit);
	return ATA_END_PENDING;
}

/* Tests are over within moments, so all of them are done before the command ends. */
static enum ata_end
smart_execute(struct ata_cmd *cmd)
{
	uint8_t test = (uint8_t)cmd->in.lba;

	switch (test & ~TEST_CAPTIVE) {
	case TEST_OFFLINE: return test == TEST_OFFLINE ? ATA_END_OK : ata_abort(cmd);
	case TEST_ABORT: return test == TEST_ABORT ? ATA_END_OK : ata_abort(cmd);
	case TEST_SHORT: cmd->tests = TEST_READS_SHORT; break;
	case TEST_EXTENDED: cmd->tests = TEST_READS_EXTENDED; break;
	default: return ata_abort(cmd);
	}
	cmd->tests_left = cmd->tests;
	cmd->step = smart_test_step;
	return smart_test_step(cmd, 0);
}

/* --- The command --- */

enum ata_end
ata_smart(struct ata_cmd *cmd)
{
	struct ata_dev *dev = cmd->dev;
	uint8_t what = (uint8_t)cmd->in.features;

	if ((cmd->in.lba & SMART_KEY_MASK) != SMART_KEY || (!dev->smart && what != SMART_ENABLE))
		return ata_abort(cmd);
	switch (what) {
	case SMART_READ_DATA:
	case SMART_READ_THRESHOLDS:
	case SMART_READ_LOG: cmd->protocol = ATA_PIO_IN; break;
	default: break;
	}
	switch (what) {
	case SMART_READ_DATA: return smart_read_data(cmd);
	case SMART_READ_THRESHOLDS: return smart_read_thresholds(cmd);
	case SMART_AUTOSAVE:
		dev->smart_autosave = (cmd->in.count & UINT8_MAX) == SMART_AUTOSAVE_ON;
		return ATA_END_OK;
	case SMART_EXECUTE: return smart_execute(cmd);
	case SMART_READ_LOG: return smart_read_log(cmd);
	case SMART_ENABLE: dev->smart = true; return ATA_END_OK;
	case SMART_DISABLE: dev->smart = false; return ATA_END_OK;
	case SMART_STATUS: return ATA_END_OK; /* the key unchanged: no threshold exceeded */
	default: return ata_abort(cmd);
	}
}
