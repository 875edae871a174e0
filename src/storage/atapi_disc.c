/*
 * What is on the medium of a CD-ROM drive: data, table of contents, what kind of disc (MMC-6,
 * chapter 6). A disc has one session with one data track, which is the image.
 */
#include "storage/atapi_impl.h"

#include <string.h>

#define TRACK_CONTROL 0x14 /* ADR 1, a data track */
#define TRACK_LEADOUT 0xaa
#define MSF_FRAMES    75
#define MSF_LEADIN    150 /* frames before LBA 0 */
#define MSF_END       (100 * 60 * MSF_FRAMES - 1)

/* Minutes, seconds and frames of a block; those of large discs are at the end of time. */
static void
disc_msf_put(uint8_t *out, uint32_t lba)
{
	uint32_t frames = (uint32_t)MIN((uint64_t)lba + MSF_LEADIN, (uint64_t)MSF_END);

	out[0] = (uint8_t)(frames / MSF_FRAMES / 60);
	out[1] = (uint8_t)(frames / MSF_FRAMES % 60);
	out[2] = (uint8_t)(frames % MSF_FRAMES);
}

static uint32_t
disc_msf_get(const uint8_t *msf)
{
	uint32_t frames = ((uint32_t)msf[0] * 60 + msf[1]) * MSF_FRAMES + msf[2];

	return frames < MSF_LEADIN ? UINT32_MAX : frames - MSF_LEADIN;
}

/* An address of four bytes in either form. */
static void
disc_address_put(uint8_t *out, uint32_t lba, bool msf)
{
	if (!msf) {
		atapi_put(out, 4, lba);
		return;
	}
	out[0] = 0;
	disc_msf_put(out + 1, lba);
}

/* --- Data --- */

static enum ata_end
disc_read(struct ata_cmd *cmd, uint32_t lba, uint32_t count)
{
	uint32_t blocks = atapi_blocks(cmd->dev);

	if (lba > blocks || count > blocks - lba)
		return atapi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_LBA_RANGE);
	if (count == 0)
		return ATA_END_OK;
	return ata_transfer(cmd, BLOCK_READ, 0, (uint64_t)lba * ATAPI_BLOCK,
	    (uint64_t)count * ATAPI_BLOCK, ATAPI_BLOCK);
}

enum ata_end
atapi_read_10(struct ata_cmd *cmd)
{
	return disc_read(cmd, atapi_get(cmd->cdb + 2, 4), atapi_get(cmd->cdb + 7, 2));
}

enum ata_end
atapi_read_12(struct ata_cmd *cmd)
{
	return disc_read(cmd, atapi_get(cmd->cdb + 2, 4), atapi_get(cmd->cdb + 6, 4));
}

#define READ_CD_TYPE(b)   ((b) >> 2 & 7) /* byte 1: expected sector type */
#define READ_CD_MODE1     2
#define READ_CD_USER_DATA 0x10 /* byte 9 */

/* Of a sector's parts only its data is in an image; so that is what can be asked for. */
static enum ata_end
disc_read_cd(struct ata_cmd *cmd, uint32_t lba, uint32_t count)
{
	uint8_t type = READ_CD_TYPE(cmd->cdb[1]);

	if ((type != 0 && type != READ_CD_MODE1) || (cmd->cdb[10] & 7) != 0)
		return atapi_invalid(cmd);
	if (cmd->cdb[9] == 0)
		return ATA_END_OK; /* nothing of each sector */
	return cmd->cdb[9] == READ_CD_USER_DATA ? disc_read(cmd, lba, count) : atapi_invalid(cmd);
}

enum ata_end
atapi_read_cd(struct ata_cmd *cmd)
{
	return disc_read_cd(cmd, atapi_get(cmd->cdb + 2, 4), atapi_get(cmd->cdb + 6, 3));
}

enum ata_end
atapi_read_cd_msf(struct ata_cmd *cmd)
{
	uint32_t start = disc_msf_get(cmd->cdb + 3), end = disc_msf_get(cmd->cdb + 6);

	if (end < start)
		return atapi_invalid(cmd);
	return disc_read_cd(cmd, start, end - start);
}

enum ata_end
atapi_seek(struct ata_cmd *cmd)
{
	if (atapi_get(cmd->cdb + 2, 4) >= atapi_blocks(cmd->dev))
		return atapi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_LBA_RANGE);
	return ATA_END_OK;
}

enum ata_end
atapi_read_capacity(struct ata_cmd *cmd)
{
	uint32_t blocks = atapi_blocks(cmd->dev);
	uint8_t buf[8];

	atapi_put(buf, 4, blocks != 0 ? blocks - 1 : 0);
	atapi_put(buf + 4, 4, ATAPI_BLOCK);
	return atapi_reply(cmd, buf, sizeof(buf), sizeof(buf));
}

/* --- READ TOC/PMA/ATIP (6.25) --- */

/* Format 0: tracks from one on, and the lead-out. */
static uint32_t
disc_toc_tracks(const struct ata_dev *dev, uint8_t first, bool msf, uint8_t *buf)
{
	uint32_t len = 4;

	buf[2] = buf[3] = 1; /* first and last track */
	for (int i = first <= 1 ? 0 : 1; i < 2; i++, len += 8) {
		buf[len + 1] = TRACK_CONTROL;
		buf[len + 2] = i == 0 ? 1 : TRACK_LEADOUT;
		disc_address_put(buf + len + 4, i == 0 ? 0 : atapi_blocks(dev), msf);
	}
	return len;
}

/* Format 1: where the last session starts. */
static uint32_t
disc_toc_session(bool msf, uint8_t *buf)
{
	buf[2] = buf[3] = 1; /* first and last session */
	buf[5] = TRACK_CONTROL;
	buf[6] = 1; /* its first track */
	disc_address_put(buf + 8, 0, msf);
	return 12;
}

/* Format 2: all that the lead-in says. */
static uint32_t
disc_toc_raw(const struct ata_dev *dev, uint8_t *buf)
{
	static const uint8_t points[] = { 0xa0, 0xa1, 0xa2, 1 };
	uint32_t len = 4;

	buf[2] = buf[3] = 1;
	for (size_t i = 0; i < ARRAY_SIZE(points); i++, len += 11) {
		buf[len] = 1; /* session */
		buf[len + 1] = TRACK_CONTROL;
		buf[len + 3] = points[i];
		if (points[i] == 0xa2)
			disc_msf_put(buf + len + 8, atapi_blocks(dev));
		else if (points[i] == 1)
			disc_msf_put(buf + len + 8, 0);
		else
			buf[len + 8] = 1; /* first, last track */
	}
	return len;
}

enum ata_end
atapi_read_toc(struct ata_cmd *cmd)
{
	bool msf = cmd->cdb[1] & BIT(1);
	uint8_t first = cmd->cdb[6], format = cmd->cdb[2] & 15;
	uint8_t buf[64] = { 0 };
	uint32_t len;

	/* Where the format was before MMC had byte 2. */
	if (format == 0)
		format = cmd->cdb[9] >> 6;
	switch (format) {
	case 0:
		if (first > 1 && first != TRACK_LEADOUT)
			return atapi_invalid(cmd);
		len = disc_toc_tracks(cmd->dev, first, msf, buf);
		break;
	case 1: len = disc_toc_session(msf, buf); break;
	case 2:
		if (first > 1)
			return atapi_invalid(cmd);
		len = disc_toc_raw(cmd->dev, buf);
		break;
	default: return atapi_invalid(cmd);
	}
	atapi_put(buf, 2, len - 2);
	return atapi_reply(cmd, buf, len, atapi_get(cmd->cdb + 7, 2));
}

/* --- What kind of disc --- */

enum ata_end
atapi_disc_information(struct ata_cmd *cmd)
{
	uint8_t buf[34] = { 0 };

	if ((cmd->cdb[1] & 7) != 0)
		return atapi_invalid(cmd);
	atapi_put(buf, 2, sizeof(buf) - 2);
	buf[2] = 0x0e; /* the last session is complete, the disc is finalized */
	buf[3] = buf[4] = buf[5] = buf[6] = 1; /* one session, one track */
	buf[7] = 0x20;                         /* for any use */
	memset(buf + 16, UINT8_MAX, 8);        /* no more sessions, no more room */
	return atapi_reply(cmd, buf, sizeof(buf), atapi_get(cmd->cdb + 7, 2));
}

enum ata_end
atapi_track_information(struct ata_cmd *cmd)
{
	uint32_t address = atapi_get(cmd->cdb + 2, 4), blocks = atapi_blocks(cmd->dev);
	uint8_t buf[36] = { 0 };
	bool found;

	switch (cmd->cdb[1] & 3) {
	case 0: found = address < blocks; break; /* by block, by track, by session */
	case 1:
	case 2: found = address == 1; break;
	default: found = false; break;
	}
	if (!found)
		return atapi_invalid(cmd);
	atapi_put(buf, 2, sizeof(buf) - 2);
	buf[2] = buf[3] = 1; /* track, session */
	buf[5] = 0x04;       /* a data track */
	buf[6] = 0x01;       /* mode 1 */
	atapi_put(buf + 24, 4, blocks);
	return atapi_reply(cmd, buf, sizeof(buf), atapi_get(cmd->cdb + 7, 2));
}

#define STRUCTURE_PHYSICAL  0
#define STRUCTURE_COPYRIGHT 1
#define DVD_FIRST_SECTOR    0x30000u

/* READ DISC STRUCTURE (6.22), for what looks like a DVD */
enum ata_end
atapi_disc_structure(struct ata_cmd *cmd)
{
	uint8_t buf[4 + 2048] = { 0 };
	uint32_t len;

	if ((cmd->cdb[1] & 15) != 0 || cmd->cdb[6] != 0)
		return atapi_invalid(cmd);
	if (!atapi_is_dvd(cmd->dev))
		return atapi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INCOMPATIBLE_MEDIUM);
	switch (cmd->cdb[7]) {
	case STRUCTURE_PHYSICAL:
		len = sizeof(buf);
		buf[4] = 0x01; /* DVD-ROM, version 1 */
		buf[5] = 0x0f; /* 120 mm, no maximum rate */
		buf[6] = 0x01; /* one layer, embossed */
		atapi_put(buf + 8, 4, DVD_FIRST_SECTOR);
		atapi_put(buf + 12, 4, DVD_FIRST_SECTOR + atapi_blocks(cmd->dev) - 1);
		break;
	case STRUCTURE_COPYRIGHT: len = 8; break; /* none */
	default: return atapi_invalid(cmd);
	}
	atapi_put(buf, 2, len - 2);
	return atapi_reply(cmd, buf, len, atapi_get(cmd->cdb + 8, 2));
}

#define SUBCHANNEL_Q        BIT(6)
#define SUBCHANNEL_NO_AUDIO 0x15

/* READ SUB-CHANNEL: there is no audio to be played. */
enum ata_end
atapi_subchannel(struct ata_cmd *cmd)
{
	uint8_t buf[4] = { 0, SUBCHANNEL_NO_AUDIO };

	if (cmd->cdb[2] & SUBCHANNEL_Q)
		return atapi_invalid(cmd);
	return atapi_reply(cmd, buf, sizeof(buf), atapi_get(cmd->cdb + 7, 2));
}
