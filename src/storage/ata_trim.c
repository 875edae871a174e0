/*
 * DATA SET MANAGEMENT with TRIM, and the same queued, as SEND FPDMA QUEUED (ACS-3, 7.5 and 7.49).
 */
#include "storage/ata_impl.h"

#include <string.h>

#define TRIM_BIT                 1u /* of the features register, or of the auxiliary one */
#define TRIM_RANGES              (ATA_SECTOR / 8)
#define TRIM_LBA(range)          ((range)&ATA_LBA_MASK)
#define TRIM_COUNT(range)        ((range) >> 48)
#define SEND_DATA_SET_MANAGEMENT 0 /* subcommand */

/* The next range, and those that continue where it ends: systems cut what they trim to pieces of
 * 65,535 sectors. False when there is no more in this block. */
static bool
ata_trim_next(struct ata_cmd *cmd, uint64_t *lba, uint64_t *count)
{
	const uint64_t *range = cmd->trim.range;
	unsigned i = cmd->trim.next;

	while (i < TRIM_RANGES && TRIM_COUNT(range[i]) == 0)
		i++;
	*lba = *count = 0;
	for (; i < TRIM_RANGES && TRIM_COUNT(range[i]) != 0; i++) {
		if (*count == 0)
			*lba = TRIM_LBA(range[i]);
		else if (TRIM_LBA(range[i]) != *lba + *count)
			break;
		*count += TRIM_COUNT(range[i]);
	}
	cmd->trim.next = i;
	return *count != 0;
}

static enum ata_end
ata_trim_step(struct ata_cmd *cmd, int err)
{
	uint32_t unit = block_info(cmd->dev->disk)->logical_sector;
	uint64_t sectors = ata_sectors(cmd->dev), lba, count;

	if (err != 0)
		return ata_abort(cmd);
	while (!ata_trim_next(cmd, &lba, &count)) {
		if (cmd->trim.blocks_left == 0)
			return ATA_END_OK;
		cmd->trim.blocks_left--;
		cmd->trim.next = 0;
		if (!ata_data_out(cmd, cmd->trim.range, ATA_SECTOR))
			return ATA_END_BUS;
	}
	cmd->out.lba = lba;
	if (lba > sectors || count > sectors - lba)
		return ata_fail(cmd, ATA_ERROR_IDNF);
	ata_cmd_submit(cmd, BLOCK_DISCARD, 0, lba * unit, count * unit);
	return ATA_END_PENDING;
}

static enum ata_end
ata_trim_start(struct ata_cmd *cmd, uint32_t wants, unsigned blocks)
{
	if ((wants & TRIM_BIT) == 0 || !block_info(cmd->dev->disk)->can_discard || blocks == 0 ||
	    blocks > ATA_TRIM_BLOCKS)
		return ata_abort(cmd);
	cmd->dev->standby = false;
	cmd->trim.next = TRIM_RANGES;
	cmd->trim.blocks_left = blocks;
	cmd->step = ata_trim_step;
	return ata_trim_step(cmd, 0);
}

enum ata_end
ata_trim(struct ata_cmd *cmd)
{
	return ata_trim_start(cmd, cmd->in.features, cmd->in.count);
}

enum ata_end
ata_send_queued(struct ata_cmd *cmd)
{
	if ((cmd->in.count >> 8 & 0x1f) != SEND_DATA_SET_MANAGEMENT)
		return ata_abort(cmd);
	return ata_trim_start(cmd, cmd->in.aux, cmd->in.features);
}
