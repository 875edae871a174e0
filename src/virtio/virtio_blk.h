/*
 * What a driver of a block device sees (VIRTIO 1.2, 5.2).
 */
#ifndef VIRTIO_VIRTIO_BLK_H
#define VIRTIO_VIRTIO_BLK_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define VIRTIO_BLK_ID 2

/* Features (5.2.3) */
#define VIRTIO_BLK_F_SIZE_MAX 1
#define VIRTIO_BLK_F_SEG_MAX 2
#define VIRTIO_BLK_F_RO 5
#define VIRTIO_BLK_F_BLK_SIZE 6
#define VIRTIO_BLK_F_FLUSH 9
#define VIRTIO_BLK_F_TOPOLOGY 10
#define VIRTIO_BLK_F_CONFIG_WCE 11
#define VIRTIO_BLK_F_MQ 12
#define VIRTIO_BLK_F_DISCARD 13
#define VIRTIO_BLK_F_WRITE_ZEROES 14

#define VIRTIO_BLK_SECTOR 512 /* the unit of all sectors below, whatever blk_size is */

struct virtio_blk_config { /* 5.2.4 */
	uint64_t capacity; /* sectors */
	uint32_t size_max, seg_max;
	uint16_t cylinders;
	uint8_t heads, sectors;
	uint32_t blk_size;
	uint8_t physical_block_exp, alignment_offset;
	uint16_t min_io_size;
	uint32_t opt_io_size;
	uint8_t writeback, unused0;
	uint16_t num_queues;
	uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
	uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
	uint8_t write_zeroes_may_unmap, unused1[3];
};
static_assert(sizeof(struct virtio_blk_config) == 64 &&
	offsetof(struct virtio_blk_config, writeback) == 32 &&
	offsetof(struct virtio_blk_config, write_zeroes_may_unmap) == 56, "VIRTIO 1.2, 5.2.4");
#define VIRTIO_BLK_CONFIG_SIZE 60 /* without padding */

/* A request (5.2.6): this, data, one byte of status. */
struct virtio_blk_header {
	uint32_t type, reserved;
	uint64_t sector;
};
static_assert(sizeof(struct virtio_blk_header) == 16, "VIRTIO 1.2, 5.2.6");
#define VIRTIO_BLK_T_IN 0
#define VIRTIO_BLK_T_OUT 1
#define VIRTIO_BLK_T_FLUSH 4
#define VIRTIO_BLK_T_GET_ID 8
#define VIRTIO_BLK_T_DISCARD 11
#define VIRTIO_BLK_T_WRITE_ZEROES 13
#define VIRTIO_BLK_ID_BYTES 20

#define VIRTIO_BLK_S_OK 0
#define VIRTIO_BLK_S_IOERR 1
#define VIRTIO_BLK_S_UNSUPP 2

/* A range to discard or to zero (5.2.6) */
struct virtio_blk_range {
	uint64_t sector;
	uint32_t sectors, flags;
};
static_assert(sizeof(struct virtio_blk_range) == 16, "VIRTIO 1.2, 5.2.6");
#define VIRTIO_BLK_RANGE_UNMAP 1u

#endif
