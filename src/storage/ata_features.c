/*
 * Settings and power: SET FEATURES, SET MULTIPLE MODE, power management (ACS-3, 7.45, 7.46, 4.18).
 */
#include "storage/ata_impl.h"

/* SET FEATURES subcommands (ACS-3, table 125) */
#define FEATURE_WRITE_CACHE_ON  0x02
#define FEATURE_MODE            0x03
#define FEATURE_SATA_ON         0x10
#define FEATURE_LOOK_AHEAD_OFF  0x55
#define FEATURE_DEFAULTS_OFF    0x66 /* settings survive a software reset; here they always do */
#define FEATURE_WRITE_CACHE_OFF 0x82
#define FEATURE_SATA_OFF        0x90
#define FEATURE_LOOK_AHEAD_ON   0xaa
#define FEATURE_DEFAULTS_ON     0xcc

/* Serial ATA features, in the count register */
#define FEATURE_SATA_AUTO_ACTIVATE 0x02
#define FEATURE_SATA_DIPM          0x03
#define FEATURE_SATA_SETTINGS      0x06

#define POWER_STANDBY 0x00
#define POWER_ACTIVE  0xff

/* --- Features --- */

static enum ata_end
ata_write_cache_off_step(struct ata_cmd *cmd, int err)
{
	if (err != 0)
		return ata_abort(cmd);
	cmd->dev->write_cache = false;
	return ATA_END_OK;
}

static enum ata_end
ata_write_cache_set(struct ata_cmd *cmd, bool on)
{
	struct ata_dev *dev = cmd->dev;

	if (dev->packet)
		return ata_abort(cmd);
	if (on && !block_info(dev->disk)->write_cache)
		return ata_abort(cmd); /* there is none */
	if (on || !dev->write_cache) {
		dev->write_cache = on;
		return ATA_END_OK;
	}
	/* What is in the cache has to be on the medium when it is off. */
	cmd->step = ata_write_cache_off_step;
	ata_cmd_submit(cmd, BLOCK_FLUSH, 0, 0, 0);
	return ATA_END_PENDING;
}

static enum ata_end
ata_mode_set(struct ata_cmd *cmd)
{
	uint8_t mode = (uint8_t)cmd->in.count, level = mode & 7;
	bool good;

	switch (mode >> 3) {
	case 0x00: good = level <= 1; break; /* the default PIO mode */
	case 0x01: good = level <= 4; break;
	case 0x04: good = level <= 2; break; /* multiword DMA */
	case 0x08: good = level <= 6; break; /* Ultra DMA */
	default: good = false; break;
	}
	if (!good)
		return ata_abort(cmd);
	if (mode >= 0x20)
		cmd->dev->mode = mode; /* PIO modes leave the one for DMA as it is */
	return ATA_END_OK;
}

static enum ata_end
ata_sata_feature_set(struct ata_cmd *cmd, bool on)
{
	switch (cmd->in.count & UINT8_MAX) {
	case FEATURE_SATA_DIPM: cmd->dev->dipm = on; return ATA_END_OK;
	/* Both are always on. */
	case FEATURE_SATA_AUTO_ACTIVATE:
	case FEATURE_SATA_SETTINGS: return on ? ATA_END_OK : ata_abort(cmd);
	default: return ata_abort(cmd);
	}
}

enum ata_end
ata_set_features(struct ata_cmd *cmd)
{
	switch (cmd->in.features & UINT8_MAX) {
	case FEATURE_WRITE_CACHE_ON: return ata_write_cache_set(cmd, true);
	case FEATURE_WRITE_CACHE_OFF: return ata_write_cache_set(cmd, false);
	case FEATURE_LOOK_AHEAD_ON: cmd->dev->look_ahead = true; return ATA_END_OK;
	case FEATURE_LOOK_AHEAD_OFF: cmd->dev->look_ahead = false; return ATA_END_OK;
	case FEATURE_MODE: return ata_mode_set(cmd);
	case FEATURE_SATA_ON: return ata_sata_feature_set(cmd, true);
	case FEATURE_SATA_OFF: return ata_sata_feature_set(cmd, false);
	case FEATURE_DEFAULTS_OFF:
	case FEATURE_DEFAULTS_ON: return ATA_END_OK;
	default: return ata_abort(cmd);
	}
}

enum ata_end
ata_set_multiple(struct ata_cmd *cmd)
{
	uint8_t n = (uint8_t)cmd->in.count;

	if (n > ATA_MULTIPLE_MAX || (n & (n - 1)) != 0)
		return ata_abort(cmd);
	cmd->dev->multiple = n;
	return ATA_END_OK;
}

/* --- Power --- */

static enum ata_end
ata_standby_step(struct ata_cmd *cmd, int err)
{
	if (err != 0)
		return ata_abort(cmd);
	cmd->dev->standby = true;
	return ATA_END_OK;
}

/* A disk that stops turning writes its cache first (ACS-3, 7.55). */
enum ata_end
ata_standby(struct ata_cmd *cmd)
{
	if (cmd->dev->packet)
		return ata_standby_step(cmd, 0);
	cmd->step = ata_standby_step;
	ata_cmd_submit(cmd, BLOCK_FLUSH, 0, 0, 0);
	return ATA_END_PENDING;
}

enum ata_end
ata_sleep(struct ata_cmd *cmd)
{
	/* Left by a reset on real devices; this one wakes up for any command. */
	return ata_standby(cmd);
}

enum ata_end
ata_idle(struct ata_cmd *cmd)
{
	cmd->dev->standby = false;
	return ATA_END_OK;
}

enum ata_end
ata_check_power(struct ata_cmd *cmd)
{
	cmd->out.count = cmd->dev->standby ? POWER_STANDBY : POWER_ACTIVE;
	return ATA_END_OK;
}
