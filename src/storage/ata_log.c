/*
 * General purpose logs: READ LOG EXT, READ LOG DMA EXT, and the latter queued, as RECEIVE FPDMA
 * QUEUED (ACS-3, 7.28, 7.29, 7.36 and annex A).
 */
#include "storage/ata_impl.h"

#include <string.h>

#define LOG_VALID        BIT64(63) /* of values in statistics and IDENTIFY DEVICE data: supported */
#define LOG_SUPPORTED    BIT64(62) /* statistics: and valid. IDENTIFY data has bit 63 only. */
#define LOG_PAGE(number) (1ull | (uint64_t)(number) << 16) /* a page's header: revision, number */
#define LOG_COUNT_MAX    16                                /* pages in one command */

#define RECEIVE_READ_LOG 1 /* subcommand */

typedef void ata_log_fn(struct ata_cmd *cmd, unsigned page, uint8_t *out);

static void
log_put64(uint8_t *out, unsigned at, uint64_t val)
{
	memcpy(out + at, &val, sizeof(val));
}

static ata_log_fn log_directory, log_statistics, log_selftest, log_ncq_error, log_ncq_send,
    log_identify;

static const struct ata_log {
	uint8_t address, pages;
	ata_log_fn *fill; /* of a page that is all zeros */
} ata_logs[] = {
	{ 0x00, 1, log_directory },
	{ 0x04, 2, log_statistics },
	{ 0x07, 1, log_selftest },
	{ 0x10, 1, log_ncq_error },
	{ 0x13, 1, log_ncq_send },
	{ 0x30, 3, log_identify },
};

/* 00h: how many pages each log has (A.2) */
static void
log_directory(struct ata_cmd *cmd, unsigned page, uint8_t *out)
{
	out[0] = 1; /* version */
	for (size_t i = 1; i < ARRAY_SIZE(ata_logs); i++)
		out[2 * ata_logs[i].address] = ata_logs[i].pages;
}

/* 04h: device statistics (A.5): the list of pages, and general statistics. */
static void
log_statistics(struct ata_cmd *cmd, unsigned page, uint8_t *out)
{
	const uint64_t flags = LOG_VALID | LOG_SUPPORTED;
	uint32_t unit = block_info(cmd->dev->disk)->logical_sector;
	struct block_stats stats;

	log_put64(out, 0, LOG_PAGE(page));
	if (page == 0) {
		out[8] = 2; /* entries */
		out[9] = 0;
		out[10] = 1;
		return;
	}
	block_stats(cmd->dev->disk, &stats);
	log_put64(out, 8, flags | 1); /* power-on resets */
	log_put64(out, 16, flags | (ata_hours(cmd->dev) & UINT32_MAX));
	log_put64(out, 24, flags | (stats.op[BLOCK_WRITE].bytes / unit & ATA_LBA_MASK));
	log_put64(out, 32, flags | (stats.op[BLOCK_WRITE].ops & ATA_LBA_MASK));
	log_put64(out, 40, flags | (stats.op[BLOCK_READ].bytes / unit & ATA_LBA_MASK));
	log_put64(out, 48, flags | (stats.op[BLOCK_READ].ops & ATA_LBA_MASK));
}

/* 07h: extended self-test log (A.8) */
static void
log_selftest(struct ata_cmd *cmd, unsigned page, uint8_t *out)
{
	ata_selftest_page(cmd->dev, true, out);
}

/* 10h: the error of a queued command (A.14). Reading it lets the device take commands again. */
static void
log_ncq_error(struct ata_cmd *cmd, unsigned page, uint8_t *out)
{
	struct ata_ncq_error *e = &cmd->dev->ncq;

	if (e->pending) {
		out[0] = e->unqueued ? BIT(7) : e->tag;
		out[2] = e->status;
		out[3] = e->error;
		out[7] = e->device;
		for (int i = 0; i < 3; i++) {
			out[4 + i] = (uint8_t)(e->lba >> (8 * i));
			out[8 + i] = (uint8_t)(e->lba >> (24 + 8 * i));
		}
		out[12] = (uint8_t)e->count;
		out[13] = (uint8_t)(e->count >> 8);
	}
	e->pending = false;
	ata_checksum(out);
}

/* 13h: what SEND and RECEIVE FPDMA QUEUED can do (A.15) */
static void
log_ncq_send(struct ata_cmd *cmd, unsigned page, uint8_t *out)
{
	bool trim = block_info(cmd->dev->disk)->can_discard;

	out[0] =
	    (uint8_t)((trim ? BIT(0) : 0) | BIT(1)); /* DATA SET MANAGEMENT, READ LOG DMA EXT */
	out[4] = trim;                               /* DATA SET MANAGEMENT: TRIM */
	out[8] = 1;                                  /* READ LOG DMA EXT */
}

/* 30h: IDENTIFY DEVICE data (A.11): the list of pages, a copy, capacity. */
static void
log_identify(struct ata_cmd *cmd, unsigned page, uint8_t *out)
{
	uint16_t w[ATA_SECTOR / 2];

	if (page == 1) {
		ata_identify_fill(cmd->dev, out);
		return;
	}
	log_put64(out, 0, LOG_PAGE(page));
	if (page == 0) {
		out[8] = 3; /* entries */
		for (uint8_t i = 0; i < 3; i++)
			out[9 + i] = i;
		return;
	}
	ata_identify_fill(cmd->dev, (uint8_t *)w);
	log_put64(out, 8, LOG_VALID | (ata_sectors(cmd->dev) & ATA_LBA_MASK));
	log_put64(out, 16, LOG_VALID | w[106]);
	log_put64(out, 24, LOG_VALID | (w[117] | (uint32_t)w[118] << 16));
}

/* --- Commands --- */

static const struct ata_log *
ata_log_find(uint8_t address)
{
	for (size_t i = 0; i < ARRAY_SIZE(ata_logs); i++) {
		if (ata_logs[i].address == address)
			return &ata_logs[i];
	}
	return NULL;
}

/* The address is in bits 7 to 0 of the LBA, the first page in bits 15 to 8 and 39 to 32. */
static enum ata_end
ata_log_send(struct ata_cmd *cmd, uint16_t count)
{
	uint64_t lba = cmd->in.lba;
	const struct ata_log *log = ata_log_find((uint8_t)lba);
	unsigned first = (unsigned)((lba >> 8 & UINT8_MAX) | (lba >> 32 & UINT8_MAX) << 8);

	if (log == NULL || count == 0 || count > LOG_COUNT_MAX || first >= log->pages ||
	    count > log->pages - first)
		return ata_abort(cmd);
	for (unsigned i = 0; i < count; i++) {
		uint8_t page[ATA_SECTOR] __attribute__((aligned(8))) = { 0 };

		log->fill(cmd, first + i, page);
		if (!ata_data_in(cmd, page, sizeof(page)))
			return ATA_END_BUS;
	}
	return ATA_END_OK;
}

enum ata_end
ata_read_log(struct ata_cmd *cmd)
{
	return ata_log_send(cmd, cmd->in.count);
}

enum ata_end
ata_receive_queued(struct ata_cmd *cmd)
{
	if ((cmd->in.count >> 8 & 0x1f) != RECEIVE_READ_LOG)
		return ata_abort(cmd);
	return ata_log_send(cmd, cmd->in.features);
}
