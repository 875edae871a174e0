/*
 * ATA devices: which commands there are, resets, and what all commands share (ACS-3).
 */
#include "storage/ata.h"
#include "storage/ata_impl.h"

#include "vm/loop.h"
#include "vm/state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Command codes (ACS-3, 7) */
#define ATA_CMD_DEVICE_RESET     0x08
#define ATA_CMD_READ             0x20
#define ATA_CMD_READ_LOG_EXT     0x2f
#define ATA_CMD_READ_LOG_DMA_EXT 0x47
#define ATA_CMD_READ_FPDMA       0x60
#define ATA_CMD_WRITE_FPDMA      0x61
#define ATA_CMD_NCQ_NON_DATA     0x63
#define ATA_CMD_SEND_FPDMA       0x64
#define ATA_CMD_RECEIVE_FPDMA    0x65
#define ATA_CMD_DIAGNOSTIC       0x90
#define ATA_CMD_PACKET           0xa0
#define ATA_CMD_IDENTIFY_PACKET  0xa1
#define ATA_CMD_IDENTIFY         0xec

#define ATA_LOG_NCQ_ERROR 0x10

#define ATA_DIAGNOSTIC_PASSED 0x01
#define ATA_MODE_UDMA6        0x46
#define ATA_HOUR_NS           3600000000000ull

/* --- Commands for both kinds of devices, and none --- */

static enum ata_end
ata_diagnostic(struct ata_cmd *cmd)
{
	ata_signature(cmd->dev, &cmd->out);
	/* The one command whose error register is no error (ACS-3, 7.9). */
	cmd->error = ATA_DIAGNOSTIC_PASSED;
	return ATA_END_OK;
}

static enum ata_end
ata_device_reset(struct ata_cmd *cmd)
{
	ata_dev_reset(cmd->dev, false);
	return ata_diagnostic(cmd);
}

#define ATA_DISK BIT(0)
#define ATA_CD   BIT(1)
#define ATA_BOTH (ATA_DISK | ATA_CD)

/* What is not here is aborted. */
static const struct ata_entry {
	uint8_t devices; /* that have it; 0: none */
	uint8_t protocol;
	ata_handler_fn *run;
} ata_table[256] = {
	[0x06] = { ATA_DISK, ATA_DMA, ata_trim },
	[ATA_CMD_DEVICE_RESET] = { ATA_CD, ATA_NO_DATA, ata_device_reset },
	[ATA_CMD_READ] = { ATA_DISK, ATA_PIO_IN, ata_read },
	[0x24] = { ATA_DISK, ATA_PIO_IN, ata_read_ext },
	[0x25] = { ATA_DISK, ATA_DMA, ata_read_ext },
	[0x29] = { ATA_DISK, ATA_PIO_IN, ata_read_multiple_ext },
	[ATA_CMD_READ_LOG_EXT] = { ATA_DISK, ATA_PIO_IN, ata_read_log },
	[0x30] = { ATA_DISK, ATA_PIO_OUT, ata_write },
	[0x34] = { ATA_DISK, ATA_PIO_OUT, ata_write_ext },
	[0x35] = { ATA_DISK, ATA_DMA, ata_write_ext },
	[0x39] = { ATA_DISK, ATA_PIO_OUT, ata_write_multiple_ext },
	[0x3d] = { ATA_DISK, ATA_DMA, ata_write_fua_ext },
	[0x40] = { ATA_DISK, ATA_NO_DATA, ata_read }, /* READ VERIFY */
	[0x42] = { ATA_DISK, ATA_NO_DATA, ata_read_ext },
	[ATA_CMD_READ_LOG_DMA_EXT] = { ATA_DISK, ATA_DMA, ata_read_log },
	[ATA_CMD_READ_FPDMA] = { ATA_DISK, ATA_QUEUED, ata_read_queued },
	[ATA_CMD_WRITE_FPDMA] = { ATA_DISK, ATA_QUEUED, ata_write_queued },
	[ATA_CMD_SEND_FPDMA] = { ATA_DISK, ATA_QUEUED, ata_send_queued },
	[ATA_CMD_RECEIVE_FPDMA] = { ATA_DISK, ATA_QUEUED, ata_receive_queued },
	[ATA_CMD_DIAGNOSTIC] = { ATA_BOTH, ATA_NO_DATA, ata_diagnostic },
	[ATA_CMD_PACKET] = { ATA_CD, ATA_PACKET, atapi_packet },
	[ATA_CMD_IDENTIFY_PACKET] = { ATA_CD, ATA_PIO_IN, ata_identify_packet },
	[0xb0] = { ATA_DISK, ATA_NO_DATA, ata_smart },
	[0xc4] = { ATA_DISK, ATA_PIO_IN, ata_read_multiple },
	[0xc5] = { ATA_DISK, ATA_PIO_OUT, ata_write_multiple },
	[0xc6] = { ATA_DISK, ATA_NO_DATA, ata_set_multiple },
	[0xc8] = { ATA_DISK, ATA_DMA, ata_read },
	[0xca] = { ATA_DISK, ATA_DMA, ata_write },
	[0xce] = { ATA_DISK, ATA_PIO_OUT, ata_write_multiple_fua_ext },
	[0xe0] = { ATA_BOTH, ATA_NO_DATA, ata_standby },
	[0xe1] = { ATA_BOTH, ATA_NO_DATA, ata_idle },
	[0xe2] = { ATA_DISK, ATA_NO_DATA, ata_standby },
	[0xe3] = { ATA_DISK, ATA_NO_DATA, ata_idle },
	[0xe5] = { ATA_BOTH, ATA_NO_DATA, ata_check_power },
	[0xe6] = { ATA_BOTH, ATA_NO_DATA, ata_sleep },
	[0xe7] = { ATA_BOTH, ATA_NO_DATA, ata_flush },
	[0xea] = { ATA_DISK, ATA_NO_DATA, ata_flush },
	[ATA_CMD_IDENTIFY] = { ATA_DISK, ATA_PIO_IN, ata_identify },
	[0xef] = { ATA_BOTH, ATA_NO_DATA, ata_set_features },
};

bool
ata_is_queued(const struct ata_dev *dev, uint8_t command)
{
	return !dev->packet &&
	       (ata_table[command].protocol == ATA_QUEUED || command == ATA_CMD_NCQ_NON_DATA);
}

/* After the error of a queued command a disk takes nothing but the request to tell of it (ACS-3,
 * 4.15.2). */
static bool
ata_tells_ncq_error(const struct ata_regs *in)
{
	return (in->command == ATA_CMD_READ_LOG_EXT || in->command == ATA_CMD_READ_LOG_DMA_EXT) &&
	       (in->lba & UINT8_MAX) == ATA_LOG_NCQ_ERROR;
}

enum ata_end
ata_execute(struct ata_cmd *cmd)
{
	const struct ata_entry *e = &ata_table[cmd->in.command];
	struct ata_dev *dev = cmd->dev;

	cmd->error = 0;
	cmd->out = cmd->in;
	cmd->step = NULL;
	cmd->protocol = ata_is_queued(dev, cmd->in.command) ? ATA_QUEUED : ATA_NO_DATA;
	if ((e->devices & (dev->packet ? ATA_CD : ATA_DISK)) == 0) {
		/* How a driver that expects a disk learns of the CD-ROM drive (ACS-3, 7.12). */
		if (dev->packet &&
		    (cmd->in.command == ATA_CMD_IDENTIFY || cmd->in.command == ATA_CMD_READ))
			ata_signature(dev, &cmd->out);
		return ata_abort(cmd);
	}
	if (dev->ncq.pending && !ata_tells_ncq_error(&cmd->in))
		return ata_abort(cmd);
	cmd->protocol = (enum ata_protocol)e->protocol;
	return e->run(cmd);
}

void
ata_ncq_fail(struct ata_cmd *cmd, unsigned tag)
{
	struct ata_dev *dev = cmd->dev;

	if (dev->ncq.pending)
		return;
	dev->ncq = (struct ata_ncq_error){
		.pending = true,
		.unqueued = cmd->protocol != ATA_QUEUED,
		.tag = (uint8_t)tag,
		.status = ata_status(dev, true),
		.error = cmd->error,
		.device = cmd->out.device,
		.count = cmd->out.count,
		.lba = cmd->out.lba,
	};
}

/* --- The device --- */

void
ata_signature(const struct ata_dev *dev, struct ata_regs *out)
{
	uint32_t sig = dev->packet ? ATA_SIGNATURE_PACKET : ATA_SIGNATURE;

	out->count = (uint16_t)(sig & UINT8_MAX);
	out->lba = sig >> 8;
	out->device = 0;
}

uint8_t
ata_status(const struct ata_dev *dev, bool error)
{
	return (uint8_t)((dev->packet ? ATA_STATUS_DRDY : ATA_STATUS_READY) |
			 (error ? ATA_STATUS_ERR : 0));
}

uint64_t
ata_hours(const struct ata_dev *dev)
{
	return (vm_clock_ns(dev->loop) - dev->born_ns) / ATA_HOUR_NS;
}

uint64_t
ata_sectors(const struct ata_dev *dev)
{
	return block_size(dev->disk) / block_info(dev->disk)->logical_sector;
}

void
ata_checksum(uint8_t page[ATA_SECTOR])
{
	uint8_t sum = 0;

	for (unsigned i = 0; i < ATA_SECTOR - 1; i++)
		sum = (uint8_t)(sum + page[i]);
	page[ATA_SECTOR - 1] = (uint8_t)-sum;
}

void
ata_dev_reset(struct ata_dev *dev, bool power)
{
	dev->ncq.pending = false;
	dev->standby = false;
	if (dev->packet) {
		dev->cd.locked = false;
		dev->cd.key = dev->cd.asc = dev->cd.ascq = 0;
		dev->cd.was_reset = true;
	}
	/* Software settings are preserved across other resets (ACS-3, 7.45.17.7). */
	if (!power)
		return;
	dev->write_cache = !dev->packet && block_info(dev->disk)->write_cache;
	dev->look_ahead = true;
	dev->smart = true;
	dev->smart_autosave = true;
	dev->dipm = false;
	dev->multiple = 0;
	dev->mode = ATA_MODE_UDMA6;
}

int
ata_dev_init(struct ata_dev *dev)
{
	/* Aligned, so that no disk on the host needs a copy. */
	dev->scratch = aligned_alloc(KIB(4), ATA_SCRATCH);
	if (dev->scratch == NULL)
		return -ENOMEM;
	dev->born_ns = vm_clock_ns(dev->loop);
	ata_dev_reset(dev, true);
	return 0;
}

void
ata_dev_destroy(struct ata_dev *dev)
{
	free(dev->scratch);
}

static void
ata_selftest_state(struct ata_dev *dev, struct vm_state *s)
{
	vm_state_u8(s, &dev->selftest_next);
	if (dev->selftest_next >= ATA_SELFTESTS)
		vm_state_reject(s, "a self-test beyond the log");
	for (unsigned i = 0; i < ATA_SELFTESTS; i++) {
		vm_state_u8(s, &dev->selftest[i].kind);
		vm_state_u8(s, &dev->selftest[i].status);
		vm_state_u16(s, &dev->selftest[i].hours);
		vm_state_u32(s, &dev->selftest[i].lba);
	}
}

static void
ata_cd_state(struct atapi *cd, struct vm_state *s)
{
	vm_state_bool(s, &cd->open);
	vm_state_bool(s, &cd->loading);
	vm_state_bool(s, &cd->locked);
	vm_state_u8(s, &cd->event);
	vm_state_u8(s, &cd->key);
	vm_state_u8(s, &cd->asc);
	vm_state_u8(s, &cd->ascq);
	vm_state_bool(s, &cd->was_reset);
	vm_state_bool(s, &cd->changed);
	if (cd->event > ATAPI_EVENT_REMOVAL)
		vm_state_reject(s, "no such event of the medium");
}

void
ata_dev_state(struct ata_dev *dev, struct vm_state *s)
{
	vm_state_u64(s, &dev->born_ns);
	vm_state_bool(s, &dev->write_cache);
	vm_state_bool(s, &dev->look_ahead);
	vm_state_bool(s, &dev->smart);
	vm_state_bool(s, &dev->smart_autosave);
	vm_state_bool(s, &dev->dipm);
	vm_state_bool(s, &dev->standby);
	vm_state_u8(s, &dev->multiple);
	vm_state_u8(s, &dev->mode);
	vm_state_bool(s, &dev->ncq.pending);
	vm_state_bool(s, &dev->ncq.unqueued);
	vm_state_u8(s, &dev->ncq.tag);
	vm_state_u8(s, &dev->ncq.status);
	vm_state_u8(s, &dev->ncq.error);
	vm_state_u8(s, &dev->ncq.device);
	vm_state_u16(s, &dev->ncq.count);
	vm_state_u64(s, &dev->ncq.lba);
	ata_selftest_state(dev, s);
	ata_cd_state(&dev->cd, s);
	if (dev->multiple > ATA_MULTIPLE_MAX)
		vm_state_reject(s, "more sectors per interrupt than there can be");
}
