/*
 * What the files of an ATA device share: the handlers of commands. Not for the transport.
 */
#ifndef STORAGE_ATA_IMPL_H
#define STORAGE_ATA_IMPL_H

#include "storage/ata.h"

#define ATA_LBA_MASK     (BIT64(48) - 1)
#define ATA_TRIM_BLOCKS  8u /* of ranges in one command (IDENTIFY DEVICE, word 105) */
#define ATA_MULTIPLE_MAX 16u

typedef enum ata_end ata_handler_fn(struct ata_cmd *cmd);

/* Ends of a command. */
static inline enum ata_end
ata_fail(struct ata_cmd *cmd, uint8_t error)
{
	cmd->error = error;
	return ATA_END_ERROR;
}

static inline enum ata_end
ata_abort(struct ata_cmd *cmd)
{
	return ata_fail(cmd, ATA_ERROR_ABRT);
}

/* Sends a buffer that was made here, and ends the command. */
static inline enum ata_end
ata_reply(struct ata_cmd *cmd, const void *buf, uint32_t len)
{
	return ata_data_in(cmd, buf, len) ? ATA_END_OK : ATA_END_BUS;
}

/* Sets byte 511 so that all bytes sum to zero. */
void ata_checksum(uint8_t page[ATA_SECTOR]);
/* Hours since power-on. */
uint64_t ata_hours(const struct ata_dev *dev);
uint64_t ata_sectors(const struct ata_dev *dev);

/* ata_identify.c */
void ata_identify_fill(const struct ata_dev *dev, uint8_t page[ATA_SECTOR]);
ata_handler_fn ata_identify, ata_identify_packet;

/* ata_rw.c. ata_transfer() moves left bytes from pos on, in as many requests as it takes; with the
 * protocol of no data, it only reads them. */
enum ata_end ata_transfer(struct ata_cmd *cmd, enum block_op op, unsigned flags, uint64_t pos,
    uint64_t left, uint32_t unit);
ata_handler_fn ata_read, ata_read_ext, ata_write, ata_write_ext, ata_write_fua_ext,
    ata_read_multiple, ata_read_multiple_ext, ata_write_multiple, ata_write_multiple_ext,
    ata_write_multiple_fua_ext, ata_read_queued, ata_write_queued, ata_flush;

/* ata_trim.c */
ata_handler_fn ata_trim, ata_send_queued;

/* ata_log.c */
ata_handler_fn ata_read_log, ata_receive_queued;

/* ata_smart.c */
ata_handler_fn ata_smart;
/* A page of log 06h (ext: 07h), the tests done so far. */
void ata_selftest_page(const struct ata_dev *dev, bool ext, uint8_t page[ATA_SECTOR]);

/* ata_features.c */
ata_handler_fn ata_set_features, ata_set_multiple, ata_standby, ata_idle, ata_check_power,
    ata_sleep;

/* atapi.c */
ata_handler_fn atapi_packet;
enum ata_end atapi_read_error(struct ata_cmd *cmd);

#endif
