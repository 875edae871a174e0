/*
 * The CD-ROM drive itself: what it is, its modes and its tray (SPC-4 and MMC-6, chapter 6).
 */
#include "storage/atapi_impl.h"

#include <string.h>

/* --- INQUIRY (SPC-4, 6.4) --- */

#define INQUIRY_CD        0x05
#define INQUIRY_REMOVABLE 0x80
#define INQUIRY_SPC3      0x05
#define INQUIRY_FORMAT    0x02
#define INQUIRY_SIZE      36

#define VPD_PAGES  0x00
#define VPD_SERIAL 0x80

/* Vital product data pages */
static enum ata_end
drive_vpd(struct ata_cmd *cmd)
{
	uint8_t buf[4 + sizeof(cmd->dev->id.serial)] = { INQUIRY_CD, cmd->cdb[2] };

	switch (cmd->cdb[2]) {
	case VPD_PAGES:
		buf[3] = 2;
		buf[4] = VPD_PAGES;
		buf[5] = VPD_SERIAL;
		break;
	case VPD_SERIAL:
		buf[3] = sizeof(cmd->dev->id.serial);
		memcpy(buf + 4, cmd->dev->id.serial, sizeof(cmd->dev->id.serial));
		break;
	default: return atapi_invalid(cmd);
	}
	return atapi_reply(cmd, buf, 4u + buf[3], atapi_get(cmd->cdb + 3, 2));
}

enum ata_end
atapi_inquiry(struct ata_cmd *cmd)
{
	const struct ata_identity *id = &cmd->dev->id;
	uint8_t buf[INQUIRY_SIZE] = { INQUIRY_CD, INQUIRY_REMOVABLE, INQUIRY_SPC3, INQUIRY_FORMAT,
		INQUIRY_SIZE - 5 };

	if (cmd->cdb[1] & BIT(0))
		return drive_vpd(cmd);
	if (cmd->cdb[2] != 0)
		return atapi_invalid(cmd);
	memcpy(buf + 8, "BHYVE   ", 8);
	memcpy(buf + 16, id->model, 16);
	memcpy(buf + 32, id->revision, 4);
	return atapi_reply(cmd, buf, sizeof(buf), atapi_get(cmd->cdb + 3, 2));
}

enum ata_end
atapi_report_luns(struct ata_cmd *cmd)
{
	uint8_t buf[16] = { 0, 0, 0, 8 }; /* one, number 0 */

	return atapi_reply(cmd, buf, sizeof(buf), atapi_get(cmd->cdb + 6, 4));
}

/* --- Mode pages (MMC-6, 7) --- */

#define MODE_PAGE_RECOVERY     0x01
#define MODE_PAGE_CAPABILITIES 0x2a
#define MODE_PAGE_ALL          0x3f
#define MODE_RECOVERY_SIZE     12
#define MODE_CAPABILITIES_SIZE 22

#define MODE_CONTROL_CHANGEABLE 1
#define MODE_CONTROL_SAVED      3

#define DRIVE_SPEED     8467 /* kilobytes a second: 48 times a music CD's */
#define DRIVE_LOAD_TRAY (1 << 5)
#define DRIVE_CAN_EJECT BIT(3)
#define DRIVE_LOCKED    BIT(1)
#define DRIVE_CAN_LOCK  BIT(0)

static uint32_t
drive_capabilities_put(const struct ata_dev *dev, uint8_t *out)
{
	out[0] = MODE_PAGE_CAPABILITIES;
	out[1] = MODE_CAPABILITIES_SIZE - 2;
	out[2] = 0x3b; /* reads CD-R, CD-RW, DVD-ROM, DVD-R, DVD-RAM */
	out[4] = 0x70; /* multi-session, mode 2 forms 1 and 2 */
	out[6] = (uint8_t)(DRIVE_LOAD_TRAY | DRIVE_CAN_EJECT | DRIVE_CAN_LOCK |
			   (dev->cd.locked ? DRIVE_LOCKED : 0));
	atapi_put(out + 8, 2, DRIVE_SPEED);
	atapi_put(out + 12, 2, 2048); /* KiB of buffer */
	atapi_put(out + 14, 2, DRIVE_SPEED);
	return MODE_CAPABILITIES_SIZE;
}

/* Pages behind the header; 0: there is no such page. Nothing can be changed. */
static uint32_t
drive_mode_pages(const struct ata_dev *dev, uint8_t page, uint8_t control, uint8_t *out)
{
	uint32_t len = 0;

	if (page == MODE_PAGE_RECOVERY || page == MODE_PAGE_ALL) {
		out[0] = MODE_PAGE_RECOVERY;
		out[1] = MODE_RECOVERY_SIZE - 2;
		len = MODE_RECOVERY_SIZE;
	}
	if (page == MODE_PAGE_CAPABILITIES || page == MODE_PAGE_ALL) {
		uint8_t *at = out + len;
		uint32_t size = drive_capabilities_put(dev, at);

		if (control == MODE_CONTROL_CHANGEABLE)
			memset(at + 2, 0, size - 2);
		len += size;
	}
	return len;
}

static enum ata_end
drive_mode_sense(struct ata_cmd *cmd, uint32_t header, uint32_t room)
{
	uint8_t buf[8 + MODE_RECOVERY_SIZE + MODE_CAPABILITIES_SIZE] = { 0 };
	uint8_t control = cmd->cdb[2] >> 6;
	uint32_t len;

	if (control == MODE_CONTROL_SAVED)
		return atapi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_NO_SAVING);
	len = drive_mode_pages(cmd->dev, cmd->cdb[2] & 0x3f, control, buf + header);
	if (len == 0)
		return atapi_invalid(cmd);
	len += header;
	if (header == 4)
		buf[0] = (uint8_t)(len - 1);
	else
		atapi_put(buf, 2, len - 2);
	return atapi_reply(cmd, buf, len, room);
}

enum ata_end
atapi_mode_sense_6(struct ata_cmd *cmd)
{
	return drive_mode_sense(cmd, 4, cmd->cdb[4]);
}

enum ata_end
atapi_mode_sense_10(struct ata_cmd *cmd)
{
	return drive_mode_sense(cmd, 8, atapi_get(cmd->cdb + 7, 2));
}

/* Takes a page that says what is so anyway. */
static enum ata_end
drive_mode_select(struct ata_cmd *cmd, uint32_t header, uint32_t len)
{
	uint8_t buf[8 + MODE_RECOVERY_SIZE], page[MODE_RECOVERY_SIZE + MODE_CAPABILITIES_SIZE];

	if (len == 0)
		return ATA_END_OK;
	if (len != header + MODE_RECOVERY_SIZE)
		return atapi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_PARAMETER);
	if (!ata_data_out(cmd, buf, len))
		return ATA_END_BUS;
	memset(page, 0, sizeof(page));
	drive_mode_pages(cmd->dev, MODE_PAGE_RECOVERY, 0, page);
	if (memcmp(buf + header, page, MODE_RECOVERY_SIZE) != 0)
		return atapi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_INVALID_PARAMETER);
	return ATA_END_OK;
}

enum ata_end
atapi_mode_select_6(struct ata_cmd *cmd)
{
	return drive_mode_select(cmd, 4, cmd->cdb[4]);
}

enum ata_end
atapi_mode_select_10(struct ata_cmd *cmd)
{
	return drive_mode_select(cmd, 8, atapi_get(cmd->cdb + 7, 2));
}

/* --- The tray --- */

#define START_BIT        BIT(0)
#define START_LOAD_EJECT BIT(1)
#define START_POWER(b)   ((b) >> 4)

static enum ata_end
drive_eject(struct ata_cmd *cmd)
{
	struct ata_dev *dev = cmd->dev;

	if (dev->cd.locked)
		return atapi_check(cmd, SENSE_ILLEGAL_REQUEST, ASC_REMOVAL_PREVENTED);
	if (dev->cd.open)
		return ATA_END_OK;
	dev->cd.open = true;
	dev->cd.loading = false;
	dev->cd.event = ATAPI_EVENT_REMOVAL;
	return ata_tray_move(dev) ? ATA_END_OK
				  : atapi_check(cmd, SENSE_HARDWARE_ERROR, ASC_INTERNAL_FAILURE);
}

static enum ata_end
drive_load(struct ata_cmd *cmd)
{
	struct ata_dev *dev = cmd->dev;

	if (!dev->cd.open)
		return ATA_END_OK;
	dev->cd.open = false;
	dev->cd.loading = true;
	return ata_tray_move(dev) ? ATA_END_OK
				  : atapi_check(cmd, SENSE_HARDWARE_ERROR, ASC_INTERNAL_FAILURE);
}

enum ata_end
atapi_start_stop(struct ata_cmd *cmd)
{
	uint8_t how = cmd->cdb[4];

	if (START_POWER(how) != 0 || (how & START_LOAD_EJECT) == 0)
		return ATA_END_OK; /* it is always as ready as it can be */
	return how & START_BIT ? drive_load(cmd) : drive_eject(cmd);
}

enum ata_end
atapi_prevent(struct ata_cmd *cmd)
{
	cmd->dev->cd.locked = cmd->cdb[4] & BIT(0);
	return ATA_END_OK;
}

enum ata_end
atapi_mechanism(struct ata_cmd *cmd)
{
	uint8_t buf[8] = { 0 };

	if (cmd->dev->cd.open)
		buf[1] = BIT(4);
	return atapi_reply(cmd, buf, sizeof(buf), atapi_get(cmd->cdb + 8, 2));
}

/* --- GET EVENT STATUS NOTIFICATION (MMC-6, 6.7) --- */

#define EVENT_POLLED         BIT(0)
#define EVENT_CLASS_MEDIA    4
#define EVENT_NONE_AVAILABLE BIT(7)
#define EVENT_TRAY_OPEN      BIT(0)
#define EVENT_MEDIUM_PRESENT BIT(1)

enum ata_end
atapi_events(struct ata_cmd *cmd)
{
	static const uint8_t codes[] = {
		[ATAPI_EVENT_NONE] = 0,
		[ATAPI_EVENT_EJECT_REQUEST] = 1,
		[ATAPI_EVENT_NEW] = 2,
		[ATAPI_EVENT_REMOVAL] = 3,
	};
	struct atapi *cd = &cmd->dev->cd;
	uint8_t buf[8] = { 0 };
	uint32_t len = 4, room = atapi_get(cmd->cdb + 7, 2);

	/* There is no queue for others than those who ask. */
	if ((cmd->cdb[1] & EVENT_POLLED) == 0)
		return atapi_invalid(cmd);
	buf[3] = BIT(EVENT_CLASS_MEDIA);
	if ((cmd->cdb[4] & BIT(EVENT_CLASS_MEDIA)) == 0) {
		buf[2] = EVENT_NONE_AVAILABLE;
	} else {
		buf[2] = EVENT_CLASS_MEDIA;
		buf[4] = codes[cd->event];
		buf[5] = (uint8_t)((cd->open ? EVENT_TRAY_OPEN : 0) |
				   (atapi_ready(cmd->dev) ? EVENT_MEDIUM_PRESENT : 0));
		len = 8;
		/* It is told once, but not to who has no room for it. */
		if (room > 4)
			cd->event = ATAPI_EVENT_NONE;
	}
	atapi_put(buf, 2, len - 2);
	return atapi_reply(cmd, buf, len, room);
}

/* --- GET CONFIGURATION (MMC-6, 6.6 and 5.3) --- */

#define PROFILE_CD_ROM     0x0008
#define PROFILE_DVD_ROM    0x0010
#define FEATURE_CURRENT    BIT(0)
#define FEATURE_PERSISTENT BIT(1)

#define CONFIGURATION_ALL     0
#define CONFIGURATION_CURRENT 1
#define CONFIGURATION_ONE     2

struct drive_feature { /* with its header, but not what depends on the medium */
	uint16_t code;
	uint8_t flags; /* version, persistent, current */
	uint8_t len;
	uint8_t data[8];
};

static const struct drive_feature drive_features[] = {
	{ 0x0000, FEATURE_PERSISTENT | FEATURE_CURRENT, 8,
	    { 0, PROFILE_DVD_ROM, 0, 0, 0, PROFILE_CD_ROM, 0, 0 } }, /* profiles */
	{ 0x0001, 2 << 2 | FEATURE_PERSISTENT | FEATURE_CURRENT, 8,
	    { 0, 0, 0, 7, 0x01, 0, 0, 0 } }, /* core: Serial ATA, GET EVENT STATUS in full */
	{ 0x0003, FEATURE_PERSISTENT | FEATURE_CURRENT, 4,
	    { DRIVE_LOAD_TRAY | DRIVE_CAN_EJECT | DRIVE_CAN_LOCK } }, /* removable medium */
	{ 0x0010, 0, 8, { 0, 0, 8, 0, 0, 1, 0, 0 } }, /* random readable, blocks of 2048 */
	{ 0x001e, 2 << 2, 4, { 0 } },                 /* CD read */
	{ 0x001f, 0, 4, { 0 } },                      /* DVD read */
	{ 0x0100, FEATURE_PERSISTENT | FEATURE_CURRENT, 0, { 0 } }, /* power management */
	{ 0x0105, FEATURE_PERSISTENT | FEATURE_CURRENT, 4, { 0 } }, /* timeouts */
};

/* Features that are there with some media only. */
static bool
drive_feature_current(const struct drive_feature *f, uint16_t profile)
{
	switch (f->code) {
	case 0x0010: return profile != 0;
	case 0x001e: return profile == PROFILE_CD_ROM;
	case 0x001f: return profile == PROFILE_DVD_ROM;
	default: return true;
	}
}

static uint32_t
drive_feature_put(const struct drive_feature *f, uint16_t profile, uint8_t *out)
{
	atapi_put(out, 2, f->code);
	out[2] = f->flags;
	if (drive_feature_current(f, profile))
		out[2] |= FEATURE_CURRENT;
	out[3] = f->len;
	memcpy(out + 4, f->data, f->len);
	if (f->code == 0) {
		out[4 + 2] = profile == PROFILE_DVD_ROM;
		out[4 + 6] = profile == PROFILE_CD_ROM;
	}
	return 4u + f->len;
}

enum ata_end
atapi_configuration(struct ata_cmd *cmd)
{
	struct ata_dev *dev = cmd->dev;
	uint8_t buf[8 + ARRAY_SIZE(drive_features) * 12] = { 0 };
	uint16_t first = (uint16_t)atapi_get(cmd->cdb + 2, 2), profile = 0;
	uint8_t which = cmd->cdb[1] & 3;
	uint32_t len = 8;

	if (which > CONFIGURATION_ONE)
		return atapi_invalid(cmd);
	if (atapi_ready(dev))
		profile = atapi_is_dvd(dev) ? PROFILE_DVD_ROM : PROFILE_CD_ROM;
	for (size_t i = 0; i < ARRAY_SIZE(drive_features); i++) {
		const struct drive_feature *f = &drive_features[i];

		if (f->code < first || (which == CONFIGURATION_ONE && f->code != first) ||
		    (which == CONFIGURATION_CURRENT && !drive_feature_current(f, profile)))
			continue;
		len += drive_feature_put(f, profile, buf + len);
	}
	atapi_put(buf, 4, len - 4);
	atapi_put(buf + 6, 2, profile);
	return atapi_reply(cmd, buf, len, atapi_get(cmd->cdb + 7, 2));
}
