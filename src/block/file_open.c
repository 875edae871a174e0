/*
 * Opening an image: file or block device, its lock, its sectors, and what discarding it takes.
 */
#include "block/file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/log.h"

/* File systems over a network name block sizes of a megabyte; no guest should align to that. */
#define FILE_PHYSICAL_MAX KIB(64)

static int
file_refuse(const struct file *f, const char *path, int err)
{
	log_error(f->b->who, "%s: %s", path, strerror(err));
	return -err;
}

static int
file_open_fd(struct file *f, const struct block_options *o, const struct stat *st)
{
	int flags = O_CLOEXEC | (o->nocache ? O_DIRECT : 0) | (o->sync ? O_DSYNC : 0);
	struct block *b = f->b;

	/* A block device that is mounted, or part of a volume, must not be written by a guest. */
	if (!o->read_only) {
		f->fd = open(o->path, flags | O_RDWR | (S_ISBLK(st->st_mode) ? O_EXCL : 0));
		if (f->fd < 0 && (errno == EACCES || errno == EROFS || errno == EPERM)) {
			log_warn(
			    b->who, "%s: %s; the guest can only read it", o->path, strerror(errno));
			b->info.read_only = true;
		}
	}
	if (b->info.read_only)
		f->fd = open(o->path, flags | O_RDONLY);
	if (f->fd >= 0)
		return 0;
	if (errno == EINVAL && o->nocache) {
		log_error(b->who, "%s: nocache: the file system knows no O_DIRECT", o->path);
		return -EINVAL;
	}
	if (errno == EBUSY && S_ISBLK(st->st_mode)) {
		log_error(b->who, "%s: in use: mounted, or part of another device", o->path);
		return -EBUSY;
	}
	return file_refuse(f, o->path, errno);
}

/* Open file description locks: they belong to this opening, not to the process, so two disks of
 * one VM exclude each other too, and they end with it, however the process ends. */
static int
file_lock(const struct file *f, const char *path)
{
	const struct block *b = f->b;
	struct flock lock = {
		.l_type = b->info.read_only ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
	};

	if (fcntl(f->fd, F_OFD_SETLK, &lock) == 0)
		return 0;
	if (errno != EAGAIN && errno != EACCES) {
		log_warn(b->who, "%s: cannot be locked (%s): see to it that nothing else uses it",
		    path, strerror(errno));
		return 0;
	}
	if (b->info.read_only)
		log_error(b->who, "%s: in use: another virtual machine writes to it", path);
	else
		log_error(b->who, "%s: in use by another virtual machine", path);
	return -EBUSY;
}

int
file_size(const struct file *f, uint64_t *size)
{
	struct stat st;

	if (f->is_device)
		return ioctl(f->fd, BLKGETSIZE64, size) == 0 ? 0 : -errno;
	if (fstat(f->fd, &st) != 0)
		return -errno;
	*size = (uint64_t)st.st_size;
	return 0;
}

/* --- Sectors --- */

/* What O_DIRECT asks of offsets and memory; a sector of 4096 holds everywhere if the kernel does
 * not tell. */
static void
file_direct_align(const struct file *f, uint32_t *offset_align, uint32_t *mem_align)
{
	*offset_align = 4096;
	*mem_align = 4096;
	if (f->is_device) {
		int sector = 0;

		if (ioctl(f->fd, BLKSSZGET, &sector) == 0 && sector > 0)
			*offset_align = *mem_align = (uint32_t)sector;
		return;
	}
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(f->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 &&
	    (sx.stx_mask & STATX_DIOALIGN) != 0 && sx.stx_dio_offset_align != 0) {
		*offset_align = sx.stx_dio_offset_align;
		*mem_align = MAX(sx.stx_dio_mem_align, 1u);
	}
#endif
}

/* Sectors of the host: logical and physical, in bytes. */
static void
file_host_sectors(const struct file *f, uint32_t *logical, uint32_t *physical)
{
	struct stat st;
	int l = 0;
	unsigned p = 0;

	*logical = 512;
	*physical = 4096;
	if (f->is_device) {
		if (ioctl(f->fd, BLKSSZGET, &l) == 0 && l >= 512)
			*logical = (uint32_t)l;
		if (ioctl(f->fd, BLKPBSZGET, &p) == 0 && p >= 512)
			*physical = p;
	} else if (fstat(f->fd, &st) == 0 && st.st_blksize >= 512 &&
	    st.st_blksize <= (blksize_t)FILE_PHYSICAL_MAX &&
	    (st.st_blksize & (st.st_blksize - 1)) == 0) {
		*physical = (uint32_t)st.st_blksize;
	}
}

static int
file_sectors(struct file *f, const struct block_options *o)
{
	struct block_info *info = &f->b->info;
	uint32_t logical, physical, least = 1;

	file_host_sectors(f, &logical, &physical);
	f->mem_align = 1;
	if (o->nocache)
		file_direct_align(f, &least, &f->mem_align);
	if (f->is_device)
		least = MAX(least, logical);
	if (info->logical_sector == 0) {
		info->logical_sector = MAX(logical, least);
		info->physical_sector = MAX(physical, info->logical_sector);
	}
	if (info->logical_sector < least) {
		log_error(f->b->who, "%s: sectorsize: at least %" PRIu32 " %s", o->path, least,
		    f->is_device ? "on this device" : "with nocache on this file system");
		return -EINVAL;
	}
	return 0;
}

/* --- Discard --- */

/* A number in /sys about a block device, 0 if there is none. */
static uint64_t
file_sysfs(dev_t dev, const char *name)
{
	unsigned long long v = 0;
	char path[128];
	FILE *in;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%s", major(dev), minor(dev), name);
	in = fopen(path, "re");
	if (in == NULL)
		return 0;
	if (fscanf(in, "%llu", &v) != 1)
		v = 0;
	fclose(in);
	return v;
}

/* The same about the queue, which a partition shares with its disk. */
static uint64_t
file_sysfs_queue(dev_t dev, const char *name)
{
	char path[64];
	uint64_t v;

	snprintf(path, sizeof(path), "queue/%s", name);
	v = file_sysfs(dev, path);
	if (v != 0)
		return v;
	snprintf(path, sizeof(path), "../queue/%s", name);
	return file_sysfs(dev, path);
}

static void
file_device_discard(struct file *f, dev_t dev)
{
	struct block_info *info = &f->b->info;
	uint64_t unit = file_sysfs_queue(dev, "discard_granularity");
	uint64_t most = file_sysfs_queue(dev, "discard_max_bytes");
	bool zeroes = file_sysfs_queue(dev, "write_zeroes_max_bytes") != 0;

	info->fast_zeroes = zeroes;
	info->can_discard = f->b->discard == BLOCK_DISCARD_ZERO ? zeroes : unit != 0 && most != 0;
	info->discard_granularity = (uint32_t)MIN(MAX(unit, info->logical_sector), GIB(1));
	info->discard_alignment = (uint32_t)file_sysfs(dev, "discard_alignment");
	if (info->discard_alignment % info->logical_sector != 0)
		info->discard_alignment = 0;
	info->discard_max = MAX(ALIGN_DOWN(MIN(most, GIB(1)), (uint64_t)info->discard_granularity),
	    (uint64_t)info->discard_granularity);
	f->can_punch = zeroes;
}

static void
file_regular_discard(struct file *f, const struct stat *st)
{
	struct block_info *info = &f->b->info;
	/* A hole behind the end of the file changes nothing and shows whether there can be
	 * holes. */
	off_t end = (off_t)ALIGN_UP((uint64_t)st->st_size, (uint64_t)FILE_PHYSICAL_MAX);

	f->can_punch = !info->read_only &&
	    fallocate(f->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end,
		(off_t)FILE_PHYSICAL_MAX) == 0;
	info->can_discard = f->can_punch;
	info->discard_zeroes = true;
	info->discard_granularity = (uint32_t)MAX(st->st_blksize, (blksize_t)info->logical_sector);
	info->discard_max = ALIGN_DOWN(GIB(1), (uint64_t)info->discard_granularity);
	info->fast_zeroes = f->can_punch;
}

/* --- */

int
file_open_path(struct file *f, const struct block_options *o)
{
	struct block *b = f->b;
	struct stat st;
	uint64_t size;
	int err;

	if (stat(o->path, &st) != 0)
		return file_refuse(f, o->path, errno);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode)) {
		log_error(b->who, "%s: neither a file nor a block device", o->path);
		return -EINVAL;
	}
	f->is_device = S_ISBLK(st.st_mode);
	err = file_open_fd(f, o, &st);
	if (err != 0)
		return err;
	err = file_lock(f, o->path);
	if (err != 0)
		goto close_fd;
	err = file_sectors(f, o);
	if (err != 0)
		goto close_fd;
	err = file_size(f, &size);
	if (err != 0) {
		file_refuse(f, o->path, -err);
		goto close_fd;
	}
	if (size < b->info.logical_sector) {
		log_error(b->who, "%s: smaller than a sector", o->path);
		err = -EINVAL;
		goto close_fd;
	}
	if (size % b->info.logical_sector != 0)
		log_warn(b->who,
		    "%s: the last %" PRIu64
		    " bytes are no whole sector: the guest does not see them",
		    o->path, size % b->info.logical_sector);
	b->size = size;
	f->can_zero_range = true;
	if (f->is_device)
		file_device_discard(f, st.st_rdev);
	else
		file_regular_discard(f, &st);
	return 0;
close_fd:
	close(f->fd);
	f->fd = -1;
	return err;
}
