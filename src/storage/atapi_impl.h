/*
 * What the files of a CD-ROM drive share: SCSI commands, in PACKET commands (SPC-4, MMC-6).
 */
#ifndef STORAGE_ATAPI_IMPL_H
#define STORAGE_ATAPI_IMPL_H

#include "storage/ata_impl.h"

#define ATAPI_BLOCK         2048u
#define ATAPI_CD_BLOCKS_MAX 449850u /* up to 99:59:74; what is larger is a DVD */

/* Sense keys, and additional sense codes with their qualifiers (SPC-4, 4.5.6 and annex D) */
#define SENSE_NOT_READY         0x02
#define SENSE_MEDIUM_ERROR      0x03
#define SENSE_HARDWARE_ERROR    0x04
#define SENSE_ILLEGAL_REQUEST   0x05
#define SENSE_UNIT_ATTENTION    0x06
#define ASC_BECOMING_READY      0x0401
#define ASC_READ_ERROR          0x1100
#define ASC_INVALID_OPCODE      0x2000
#define ASC_LBA_RANGE           0x2100
#define ASC_INVALID_FIELD       0x2400
#define ASC_INVALID_PARAMETER   0x2600
#define ASC_MEDIUM_CHANGED      0x2800
#define ASC_RESET               0x2900
#define ASC_INCOMPATIBLE_MEDIUM 0x3002
#define ASC_NO_SAVING           0x3900
#define ASC_NO_MEDIUM_CLOSED    0x3a01
#define ASC_NO_MEDIUM_OPEN      0x3a02
#define ASC_INTERNAL_FAILURE    0x4400
#define ASC_REMOVAL_PREVENTED   0x5302

/* SCSI is big-endian. */
static inline uint32_t
atapi_get(const uint8_t *p, int bytes)
{
	uint32_t val = 0;

	for (int i = 0; i < bytes; i++)
		val = val << 8 | p[i];
	return val;
}

static inline void
atapi_put(uint8_t *p, int bytes, uint32_t val)
{
	for (int i = bytes; i-- > 0; val >>= 8)
		p[i] = (uint8_t)val;
}

/* Ends the command with CHECK CONDITION. */
enum ata_end atapi_check(struct ata_cmd *cmd, uint8_t key, uint16_t asc);

static inline enum ata_end
atapi_invalid(struct ata_cmd *cmd)
{
	return atapi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_FIELD);
}

/* Sends at most as much as the guest has room for. */
enum ata_end atapi_reply(struct ata_cmd *cmd, const uint8_t *buf, uint32_t len, uint32_t room);

/* Whether there is a medium that can be read; blocks on it. */
bool atapi_ready(const struct ata_dev *dev);
uint32_t atapi_blocks(const struct ata_dev *dev);
bool atapi_is_dvd(const struct ata_dev *dev);

/* atapi_disc.c: what is on the medium */
ata_handler_fn atapi_read_10, atapi_read_12, atapi_read_cd, atapi_read_cd_msf, atapi_seek,
    atapi_read_capacity, atapi_read_toc, atapi_disc_information, atapi_track_information,
    atapi_disc_structure, atapi_subchannel;

/* atapi_drive.c: the drive, and its tray */
ata_handler_fn atapi_inquiry, atapi_mode_sense_6, atapi_mode_sense_10, atapi_mode_select_6,
    atapi_mode_select_10, atapi_start_stop, atapi_prevent, atapi_configuration, atapi_events,
    atapi_mechanism, atapi_report_luns;

#endif
