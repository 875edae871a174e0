/*
 * CD-ROM drive: PACKET commands, sense data, and when the medium is there (SPC-4, MMC-6).
 */
#include "storage/atapi_impl.h"

#include <string.h>

/* PACKET, features register (ACS-3, 7.18) */
#define PACKET_DMA BIT(0)

/* PACKET, count register at the end: the interrupt reason is that the command ended. */
#define PACKET_REASON_END 0x03

#define SENSE_CURRENT_FIXED 0x70
#define SENSE_SIZE          18

/* --- Sense --- */

enum ata_end
atapi_check(struct ata_cmd *cmd, uint8_t key, uint16_t asc)
{
	struct atapi *cd = &cmd->dev->cd;

	cd->key = key;
	cd->asc = (uint8_t)(asc >> 8);
	cd->ascq = (uint8_t)asc;
	return ata_fail(cmd, (uint8_t)(key << 4));
}

enum ata_end
atapi_read_error(struct ata_cmd *cmd)
{
	return atapi_check(cmd, SENSE_MEDIUM_ERROR, ASC_READ_ERROR);
}

/* What REQUEST SENSE has to say when there was no error: a unit attention to come. */
static bool
atapi_attention_take(struct atapi *cd, uint16_t *asc)
{
	if (cd->was_reset) {
		cd->was_reset = false;
		*asc = ASC_RESET;
		return true;
	}
	if (cd->changed) {
		cd->changed = false;
		*asc = ASC_MEDIUM_CHANGED;
		return true;
	}
	return false;
}

static enum ata_end
atapi_request_sense(struct ata_cmd *cmd)
{
	struct atapi *cd = &cmd->dev->cd;
	uint8_t buf[SENSE_SIZE] = { SENSE_CURRENT_FIXED };
	uint16_t asc;

	if (cd->key == 0 && atapi_attention_take(cd, &asc)) {
		cd->key = SENSE_UNIT_ATTENTION;
		cd->asc = (uint8_t)(asc >> 8);
		cd->ascq = (uint8_t)asc;
	}
	buf[2] = cd->key;
	buf[7] = SENSE_SIZE - 8;
	buf[12] = cd->asc;
	buf[13] = cd->ascq;
	cd->key = cd->asc = cd->ascq = 0;
	return atapi_reply(cmd, buf, sizeof(buf), cmd->cdb[4]);
}

/* --- The medium --- */

bool
atapi_ready(const struct ata_dev *dev)
{
	return dev->disk != NULL && !dev->cd.open && !dev->cd.loading;
}

uint32_t
atapi_blocks(const struct ata_dev *dev)
{
	return (uint32_t)MIN(block_size(dev->disk) / ATAPI_BLOCK, (uint64_t)UINT32_MAX);
}

bool
atapi_is_dvd(const struct ata_dev *dev)
{
	return atapi_blocks(dev) > ATAPI_CD_BLOCKS_MAX;
}

static enum ata_end
atapi_not_ready(struct ata_cmd *cmd)
{
	const struct atapi *cd = &cmd->dev->cd;

	return atapi_check(cmd, SENSE_NOT_READY,
	    cd->open      ? ASC_NO_MEDIUM_OPEN
	    : cd->loading ? ASC_BECOMING_READY
			  : ASC_NO_MEDIUM_CLOSED);
}

void
atapi_medium_changed(struct ata_dev *dev)
{
	bool ready = atapi_ready(dev);

	dev->cd.event = ready ? ATAPI_EVENT_NEW : ATAPI_EVENT_REMOVAL;
	if (ready)
		dev->cd.changed = true;
}

void
atapi_eject_request(struct ata_dev *dev)
{
	dev->cd.event = ATAPI_EVENT_EJECT_REQUEST;
}

/* --- Commands --- */

static enum ata_end
atapi_nothing(struct ata_cmd *cmd)
{
	return ATA_END_OK;
}

#define ATAPI_MEDIUM BIT(0) /* needs one */
#define ATAPI_CALM   BIT(1) /* unit attentions do not end it, and stay (SPC-4, 5.14) */

/* What is not here is an invalid operation code. */
static const struct atapi_entry {
	ata_handler_fn *run;
	uint8_t flags;
} atapi_table[256] = {
	[0x00] = { atapi_nothing, ATAPI_MEDIUM }, /* TEST UNIT READY */
	[0x03] = { atapi_request_sense, ATAPI_CALM },
	[0x12] = { atapi_inquiry, ATAPI_CALM },
	[0x15] = { atapi_mode_select_6, 0 },
	[0x1a] = { atapi_mode_sense_6, 0 },
	[0x1b] = { atapi_start_stop, 0 },
	[0x1e] = { atapi_prevent, 0 },
	[0x25] = { atapi_read_capacity, ATAPI_MEDIUM },
	[0x28] = { atapi_read_10, ATAPI_MEDIUM },
	[0x2b] = { atapi_seek, ATAPI_MEDIUM },
	[0x35] = { atapi_nothing, 0 }, /* SYNCHRONIZE CACHE */
	[0x42] = { atapi_subchannel, ATAPI_MEDIUM },
	[0x43] = { atapi_read_toc, ATAPI_MEDIUM },
	[0x46] = { atapi_configuration, ATAPI_CALM },
	[0x4a] = { atapi_events, ATAPI_CALM },
	[0x51] = { atapi_disc_information, ATAPI_MEDIUM },
	[0x52] = { atapi_track_information, ATAPI_MEDIUM },
	[0x55] = { atapi_mode_select_10, 0 },
	[0x5a] = { atapi_mode_sense_10, 0 },
	[0xa0] = { atapi_report_luns, ATAPI_CALM },
	[0xa8] = { atapi_read_12, ATAPI_MEDIUM },
	[0xad] = { atapi_disc_structure, ATAPI_MEDIUM },
	[0xb9] = { atapi_read_cd_msf, ATAPI_MEDIUM },
	[0xbb] = { atapi_nothing, 0 }, /* SET CD SPEED: as fast as it can, always */
	[0xbd] = { atapi_mechanism, 0 },
	[0xbe] = { atapi_read_cd, ATAPI_MEDIUM },
};

enum ata_end
atapi_packet(struct ata_cmd *cmd)
{
	const struct atapi_entry *e = &atapi_table[cmd->cdb[0]];
	struct atapi *cd = &cmd->dev->cd;
	uint16_t asc;

	if ((cmd->in.features & PACKET_DMA) == 0)
		cmd->protocol = ATA_PACKET_PIO;
	cmd->out.count = PACKET_REASON_END;
	if (e->run == NULL)
		return atapi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_OPCODE);
	if ((e->flags & ATAPI_CALM) == 0 && atapi_attention_take(cd, &asc))
		return atapi_check(cmd, SENSE_UNIT_ATTENTION, asc);
	/* Sense data is of the command before. */
	if (e->run != atapi_request_sense)
		cd->key = cd->asc = cd->ascq = 0;
	if ((e->flags & ATAPI_MEDIUM) != 0 && !atapi_ready(cmd->dev))
		return atapi_not_ready(cmd);
	return e->run(cmd);
}

enum ata_end
atapi_reply(struct ata_cmd *cmd, const uint8_t *buf, uint32_t len, uint32_t room)
{
	len = MIN(len, room);
	return len == 0 ? ATA_END_OK : ata_reply(cmd, buf, len);
}
