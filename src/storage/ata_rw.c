/*
 * Reading, writing, verifying and flushing (ACS-3, 7: READ and WRITE commands, READ VERIFY, FLUSH
 * CACHE).
 */
#include "storage/ata_impl.h"

#include <errno.h>

/* --- Transfers --- */

/* Where a transfer failed, in sectors: the first one of the request that did. */
static enum ata_end
ata_transfer_fail(struct ata_cmd *cmd)
{
	if (cmd->dev->packet)
		return atapi_read_error(cmd);
	cmd->out.lba = cmd->pos / cmd->unit;
	return ata_fail(cmd, cmd->op == BLOCK_READ ? ATA_ERROR_UNC : ATA_ERROR_ABRT);
}

/* Memory for data that nobody gets to see, of at most max bytes; how many it is for. */
static uint64_t
ata_scratch_map(struct ata_cmd *cmd, uint64_t max)
{
	uint64_t len = MIN(max, ATA_SCRATCH * ATA_IOV);

	cmd->iovcnt = 0;
	for (uint64_t done = 0; done < len; done += ATA_SCRATCH)
		cmd->iov[cmd->iovcnt++] =
		    (struct iovec){ cmd->dev->scratch, MIN(len - done, ATA_SCRATCH) };
	return len;
}

static enum ata_end
ata_transfer_step(struct ata_cmd *cmd, int err)
{
	uint64_t len;

	if (err != 0)
		return ata_transfer_fail(cmd);
	cmd->pos += cmd->req.len;
	cmd->left -= cmd->req.len;
	if (cmd->left == 0)
		return ATA_END_OK;
	/* Without a transfer of data it is verified only. */
	len = cmd->protocol == ATA_NO_DATA ? ata_scratch_map(cmd, cmd->left)
					   : ata_data_map(cmd, cmd->left, cmd->unit);
	if (len == 0)
		return ATA_END_BUS;
	ata_cmd_submit(cmd, cmd->op, cmd->flags, cmd->pos, len);
	return ATA_END_PENDING;
}

enum ata_end
ata_transfer(struct ata_cmd *cmd, enum block_op op, unsigned flags, uint64_t pos, uint64_t left,
    uint32_t unit)
{
	cmd->op = op;
	cmd->flags = flags;
	cmd->pos = pos;
	cmd->left = left;
	cmd->unit = unit;
	cmd->step = ata_transfer_step;
	cmd->req.len = 0;
	return ata_transfer_step(cmd, 0);
}

/* --- Which sectors --- */

/* A command with its range. Writes are forced to the medium where the guest has the cache off. */
static enum ata_end
ata_range(struct ata_cmd *cmd, enum block_op op, unsigned flags, uint64_t lba, uint32_t count)
{
	struct ata_dev *dev = cmd->dev;
	uint32_t unit = block_info(dev->disk)->logical_sector;
	uint64_t sectors = ata_sectors(dev);

	/* ACS-3 has no other addresses; CHS went with ATA-6. */
	if ((cmd->in.device & ATA_DEVICE_LBA) == 0)
		return ata_abort(cmd);
	cmd->out.lba = lba;
	if (lba >= sectors || count > sectors - lba)
		return ata_fail(cmd, ATA_ERROR_IDNF);
	if (op == BLOCK_WRITE && block_info(dev->disk)->read_only)
		return ata_abort(cmd);
	dev->standby = false;
	if (op == BLOCK_WRITE && !dev->write_cache)
		flags |= BLOCK_FUA;
	return ata_transfer(cmd, op, flags, lba * unit, (uint64_t)count * unit, unit);
}

/* 28-bit commands: four bits of the LBA are in the device register, count 0 is 256. */
static enum ata_end
ata_range_28(struct ata_cmd *cmd, enum block_op op)
{
	uint64_t lba = (cmd->in.lba & 0xffffff) | (uint64_t)(cmd->in.device & 15) << 24;
	uint32_t count = cmd->in.count & UINT8_MAX;

	return ata_range(cmd, op, 0, lba, count == 0 ? 256 : count);
}

static enum ata_end
ata_range_48(struct ata_cmd *cmd, enum block_op op, unsigned flags, uint16_t count)
{
	return ata_range(cmd, op, flags, cmd->in.lba, count == 0 ? 65536 : count);
}

/* --- Commands --- */

enum ata_end
ata_read(struct ata_cmd *cmd)
{
	return ata_range_28(cmd, BLOCK_READ);
}

enum ata_end
ata_read_ext(struct ata_cmd *cmd)
{
	return ata_range_48(cmd, BLOCK_READ, 0, cmd->in.count);
}

enum ata_end
ata_write(struct ata_cmd *cmd)
{
	return ata_range_28(cmd, BLOCK_WRITE);
}

enum ata_end
ata_write_ext(struct ata_cmd *cmd)
{
	return ata_range_48(cmd, BLOCK_WRITE, 0, cmd->in.count);
}

enum ata_end
ata_write_fua_ext(struct ata_cmd *cmd)
{
	return ata_range_48(cmd, BLOCK_WRITE, BLOCK_FUA, cmd->in.count);
}

/* The MULTIPLE commands need SET MULTIPLE MODE first. */
enum ata_end
ata_read_multiple(struct ata_cmd *cmd)
{
	return cmd->dev->multiple != 0 ? ata_read(cmd) : ata_abort(cmd);
}

enum ata_end
ata_read_multiple_ext(struct ata_cmd *cmd)
{
	return cmd->dev->multiple != 0 ? ata_read_ext(cmd) : ata_abort(cmd);
}

enum ata_end
ata_write_multiple(struct ata_cmd *cmd)
{
	return cmd->dev->multiple != 0 ? ata_write(cmd) : ata_abort(cmd);
}

enum ata_end
ata_write_multiple_ext(struct ata_cmd *cmd)
{
	return cmd->dev->multiple != 0 ? ata_write_ext(cmd) : ata_abort(cmd);
}

enum ata_end
ata_write_multiple_fua_ext(struct ata_cmd *cmd)
{
	return cmd->dev->multiple != 0 ? ata_write_fua_ext(cmd) : ata_abort(cmd);
}

/* Queued commands have the count in the features register; the count register has the tag. */
enum ata_end
ata_read_queued(struct ata_cmd *cmd)
{
	return ata_range_48(cmd, BLOCK_READ, 0, cmd->in.features);
}

enum ata_end
ata_write_queued(struct ata_cmd *cmd)
{
	return ata_range_48(
	    cmd, BLOCK_WRITE, cmd->in.device & ATA_DEVICE_FUA ? BLOCK_FUA : 0, cmd->in.features);
}

static enum ata_end
ata_flush_step(struct ata_cmd *cmd, int err)
{
	return err == 0 ? ATA_END_OK : ata_abort(cmd);
}

enum ata_end
ata_flush(struct ata_cmd *cmd)
{
	if (cmd->dev->packet)
		return ATA_END_OK; /* nothing is ever written */
	cmd->step = ata_flush_step;
	ata_cmd_submit(cmd, BLOCK_FLUSH, 0, 0, 0);
	return ATA_END_PENDING;
}
