/*
 * IDENTIFY DEVICE and IDENTIFY PACKET DEVICE data (ACS-3, 7.12 and 7.13).
 */
#include "storage/ata_impl.h"

#include <string.h>

#define ID_BIT(n) ((uint16_t)BIT(n))

#define ID_VALID 0x4000 /* bit 14 set and bit 15 clear: the word means something */

/* Word 76, Serial ATA capabilities, and 77 to 79 */
#define ID_SATA_GEN1          ID_BIT(1)
#define ID_SATA_GEN2          ID_BIT(2)
#define ID_SATA_GEN3          ID_BIT(3)
#define ID_SATA_NCQ           ID_BIT(8)
#define ID_SATA_HIPM          ID_BIT(9)
#define ID_SATA_SPEED_GEN3    (3 << 1)
#define ID_SATA_FPDMA_SEND    ID_BIT(6)
#define ID_SATA_AUTO_ACTIVATE ID_BIT(2)
#define ID_SATA_DIPM          ID_BIT(3)
#define ID_SATA_SETTINGS      ID_BIT(6) /* preserved across resets */

/* Words 82 to 87, command sets supported and enabled */
#define ID_SET82_SMART        ID_BIT(0)
#define ID_SET82_POWER        ID_BIT(3)
#define ID_SET82_PACKET       ID_BIT(4)
#define ID_SET82_WRITE_CACHE  ID_BIT(5)
#define ID_SET82_LOOK_AHEAD   ID_BIT(6)
#define ID_SET82_DEVICE_RESET ID_BIT(9)
#define ID_SET83_LBA48        ID_BIT(10)
#define ID_SET83_FLUSH        ID_BIT(12)
#define ID_SET83_FLUSH_EXT    ID_BIT(13)
#define ID_SET84_SELFTEST     ID_BIT(1)
#define ID_SET84_LOGS         ID_BIT(5)
#define ID_SET84_FUA          ID_BIT(6)
#define ID_SET86_119          ID_BIT(15) /* words 119 and 120 are valid */
#define ID_SET119_LOG_DMA     ID_BIT(3)

#define ID_TRIM_RZAT ID_BIT(5)  /* word 69: trimmed data reads as zeros */
#define ID_TRIM_DRAT ID_BIT(14) /* and as the same data each time */

#define ID_VERSIONS   0x07f0 /* ATA/ATAPI-4 to ACS-3 */
#define ID_TRANSPORTS 0x10ff /* Serial ATA, up to 3.2 */

/* The geometry of all disks larger than geometry can say. */
#define ID_CYLINDERS 16383
#define ID_HEADS     16
#define ID_SECTORS   63
#define ID_LBA28_MAX 0x0fffffffu

/* Two characters in a word, the first one in the upper byte (ACS-3, 3.3.10). */
static void
identify_string(uint16_t *words, const char *text, size_t len)
{
	for (size_t i = 0; i < len; i += 2)
		words[i / 2] = (uint16_t)((uint8_t)text[i] << 8 | (uint8_t)text[i + 1]);
}

/* Words of both kinds of devices. */
static void
identify_common(const struct ata_dev *dev, uint16_t *w)
{
	uint8_t level = dev->mode & 7;

	identify_string(w + 10, dev->id.serial, sizeof(dev->id.serial));
	identify_string(w + 23, dev->id.revision, sizeof(dev->id.revision));
	identify_string(w + 27, dev->id.model, sizeof(dev->id.model));
	w[53] = 0x0006; /* words 64 to 70 and 88 are valid */
	w[63] = 0x0007; /* multiword DMA modes 0 to 2 */
	if ((dev->mode & 0xf8) == 0x20)
		w[63] |= (uint16_t)(0x100 << level);
	w[64] = 0x0003; /* PIO modes 3 and 4; the words that follow: 120 ns a cycle */
	w[65] = w[66] = w[67] = w[68] = 120;
	w[80] = ID_VERSIONS;
	w[88] = 0x007f; /* Ultra DMA modes 0 to 6 */
	if ((dev->mode & 0xf8) == 0x40)
		w[88] |= (uint16_t)(0x100 << level);
	w[222] = ID_TRANSPORTS;
}

static void
identify_sata(const struct ata_dev *dev, uint16_t *w)
{
	w[75] = ATA_TAGS - 1;
	w[76] = ID_SATA_GEN1 | ID_SATA_GEN2 | ID_SATA_GEN3 | ID_SATA_NCQ | ID_SATA_HIPM;
	w[77] = ID_SATA_SPEED_GEN3 | ID_SATA_FPDMA_SEND;
	w[78] = ID_SATA_AUTO_ACTIVATE | ID_SATA_DIPM | ID_SATA_SETTINGS;
	w[79] =
	    (uint16_t)(ID_SATA_AUTO_ACTIVATE | ID_SATA_SETTINGS | (dev->dipm ? ID_SATA_DIPM : 0));
}

static void
identify_sets(const struct ata_dev *dev, uint16_t *w)
{
	bool cache = block_info(dev->disk)->write_cache;

	w[82] = (uint16_t)(ID_SET82_SMART | ID_SET82_POWER | ID_SET82_LOOK_AHEAD |
			   (cache ? ID_SET82_WRITE_CACHE : 0));
	w[83] = ID_VALID | ID_SET83_LBA48 | ID_SET83_FLUSH | ID_SET83_FLUSH_EXT;
	w[84] = ID_VALID | ID_SET84_SELFTEST | ID_SET84_LOGS | ID_SET84_FUA;
	w[85] = (uint16_t)(ID_SET82_POWER | (dev->smart ? ID_SET82_SMART : 0) |
			   (dev->look_ahead ? ID_SET82_LOOK_AHEAD : 0) |
			   (dev->write_cache ? ID_SET82_WRITE_CACHE : 0));
	w[86] = ID_SET83_LBA48 | ID_SET83_FLUSH | ID_SET83_FLUSH_EXT | ID_SET86_119;
	w[87] = w[84];
	w[119] = w[120] = ID_VALID | ID_SET119_LOG_DMA;
}

static void
identify_capacity(const struct ata_dev *dev, uint16_t *w)
{
	const struct block_info *info = block_info(dev->disk);
	uint64_t sectors = MIN(ata_sectors(dev), ATA_LBA_MASK);
	uint32_t lba28 = (uint32_t)MIN(sectors, (uint64_t)ID_LBA28_MAX);
	uint32_t words = info->logical_sector / 2;

	w[60] = (uint16_t)lba28;
	w[61] = (uint16_t)(lba28 >> 16);
	for (int i = 0; i < 3; i++)
		w[100 + i] = (uint16_t)(sectors >> (16 * i));
	w[106] = ID_VALID;
	if (info->physical_sector > info->logical_sector)
		w[106] |= (uint16_t)(ID_BIT(13) |
				     __builtin_ctz(info->physical_sector / info->logical_sector));
	if (info->logical_sector > ATA_SECTOR) {
		w[106] |= ID_BIT(12);
		w[117] = (uint16_t)words;
		w[118] = (uint16_t)(words >> 16);
	}
	w[209] = ID_VALID; /* logical sector 0 starts a physical one */
}

static void
identify_trim(const struct ata_dev *dev, uint16_t *w)
{
	const struct block_info *info = block_info(dev->disk);

	if (!info->can_discard)
		return;
	if (info->discard_zeroes)
		w[69] |= ID_TRIM_DRAT | ID_TRIM_RZAT;
	w[105] = ATA_TRIM_BLOCKS;
	w[169] = ID_BIT(0);
}

void
ata_identify_fill(const struct ata_dev *dev, uint8_t page[ATA_SECTOR])
{
	uint16_t w[ATA_SECTOR / 2] = { 0 };

	w[0] = 0x0040; /* a disk that is not removable */
	w[1] = ID_CYLINDERS;
	w[3] = ID_HEADS;
	w[6] = ID_SECTORS;
	w[47] = 0x8000 | ATA_MULTIPLE_MAX;
	w[48] = ID_VALID;
	w[49] = 0x2f00; /* standard standby timers, IORDY, LBA, DMA */
	w[50] = ID_VALID;
	w[59] = dev->multiple != 0 ? (uint16_t)(0x100 | dev->multiple) : 0;
	w[217] = dev->id.rotation;
	identify_common(dev, w);
	identify_sata(dev, w);
	identify_sets(dev, w);
	identify_capacity(dev, w);
	identify_trim(dev, w);
	w[255] = 0x00a5; /* a checksum follows */
	memcpy(page, w, sizeof(w));
	ata_checksum(page);
}

enum ata_end
ata_identify(struct ata_cmd *cmd)
{
	uint8_t page[ATA_SECTOR];

	ata_identify_fill(cmd->dev, page);
	return ata_reply(cmd, page, sizeof(page));
}

enum ata_end
ata_identify_packet(struct ata_cmd *cmd)
{
	uint16_t w[ATA_SECTOR / 2] = { 0 };
	uint8_t page[ATA_SECTOR];

	w[0] = 0x85c0;  /* ATAPI, CD-ROM, removable, commands of 12 bytes */
	w[49] = 0x0f00; /* IORDY, LBA, DMA */
	identify_common(cmd->dev, w);
	w[76] = ID_SATA_GEN1 | ID_SATA_GEN2 | ID_SATA_GEN3;
	w[77] = ID_SATA_SPEED_GEN3;
	w[78] = w[79] = ID_SATA_SETTINGS;
	w[82] = w[85] = ID_SET82_POWER | ID_SET82_PACKET | ID_SET82_DEVICE_RESET;
	w[83] = ID_VALID | ID_SET83_FLUSH;
	w[84] = w[87] = ID_VALID;
	w[86] = ID_SET83_FLUSH;
	w[255] = 0x00a5;
	memcpy(page, w, sizeof(w));
	ata_checksum(page);
	return ata_reply(cmd, page, sizeof(page));
}
