/*
 * Disks that are files and block devices: locks, what discarding gives back, alignment, what a host
 * that refuses looks like to the guest, files that change their size.
 */
#include "block_rig.h"

#include <linux/falloc.h>
#include <sys/mount.h>
#include <sys/resource.h>

#define FILE_SIZE MIB(4)

static const char *const engines[] = { "auto", "threads" };

static struct disk *
file_disk(const char *path, const char *more)
{
	struct disk *d = malloc(sizeof(*d));
	char vars[512];

	snprintf(vars, sizeof(vars), "path=%s%s", path, more);
	if (disk_open(d, vars) != 0)
		fail_msg("%s: %s", vars, d->said.text);
	return d;
}

static void
file_disk_close(struct disk *d)
{
	disk_close(d);
	free(d);
}

static void
file_refused(const char *path, const char *more, int err, const char *said)
{
	char vars[512], text[512];

	snprintf(vars, sizeof(vars), "path=%s%s", path, more);
	snprintf(text, sizeof(text), "bhyve: disk: %s: %s\n", path, said);
	disk_refused(vars, err, text);
}

/* Makes a loop device of a file, or says why not. */
static bool
loop_attach(const char *path, char dev[64])
{
	char command[512];
	bool made;
	FILE *in;

	snprintf(command, sizeof(command), "losetup -f --show %s 2>/dev/null", path);
	in = popen(command, "r");
	made = in != NULL && fscanf(in, "%63s", dev) == 1;
	if (in != NULL)
		pclose(in);
	if (!made)
		print_message("skipped: no loop device to be had\n");
	return made;
}

static void
loop_detach(const char *dev)
{
	char command[512];

	snprintf(command, sizeof(command), "losetup -d %s", dev);
	assert_int_equal(system(command), 0);
}

/* --- Opening --- */

static void
test_open_errors(void **state)
{
	char *path = rig_file(100);

	file_refused("/nonexistent/image", "", -ENOENT, "No such file or directory");
	file_refused("/tmp", "", -EINVAL, "neither a file nor a block device");
	file_refused("/dev/null", "", -EINVAL, "neither a file nor a block device");
	file_refused(path, "", -EINVAL, "smaller than a sector");
	rig_file_remove(path);
}

static void
test_odd_size(void **state)
{
	char *path = rig_file(MIB(1) + 700);
	struct disk *d = file_disk(path, ",sectorsize=512");
	uint8_t buf[512];

	assert_non_null(strstr(d->said.text, "the last 188 bytes are no whole sector"));
	assert_int_equal(block_size(d->b), MIB(1) + 512);
	assert_int_equal(disk_do(d, BLOCK_READ, 0, MIB(1), buf, 512), 0);
	file_disk_close(d);
	rig_file_remove(path);
}

static void
test_read_only_file(void **state)
{
	char *path = rig_file(FILE_SIZE);
	struct disk *d;

	if (geteuid() == 0) {
		print_message("skipped: root may write every file\n");
		rig_file_remove(path);
		skip();
	}
	chmod(path, 0444);
	d = file_disk(path, "");
	assert_true(block_info(d->b)->read_only);
	assert_non_null(strstr(d->said.text, "the guest can only read it"));
	file_disk_close(d);
	rig_file_remove(path);
}

static void
test_locks(void **state)
{
	char *path = rig_file(FILE_SIZE);
	struct disk *a, *b;

	a = file_disk(path, "");
	file_refused(path, "", -EBUSY, "in use by another virtual machine");
	file_refused(path, ",ro=true", -EBUSY, "in use: another virtual machine writes to it");
	file_disk_close(a);
	a = file_disk(path, ",ro=true");
	b = file_disk(path, ",ro=true");
	file_refused(path, "", -EBUSY, "in use by another virtual machine");
	file_disk_close(a);
	file_refused(path, "", -EBUSY, "in use by another virtual machine");
	file_disk_close(b);
	a = file_disk(path, "");
	file_disk_close(a);
	rig_file_remove(path);
}

/* What was written is there when the file is opened again, by the other engine, and in the file. */
static void
test_reopen(void **state)
{
	char *path = rig_file(FILE_SIZE);
	uint8_t out[4096], in[4096];
	struct disk *d;
	int fd;

	memset(out, 0x42, sizeof(out));
	d = file_disk(path, "");
	assert_int_equal(disk_do(d, BLOCK_WRITE, 0, 8192, out, 4096), 0);
	assert_int_equal(disk_do(d, BLOCK_FLUSH, 0, 0, NULL, 0), 0);
	file_disk_close(d);
	d = file_disk(path, ",aio=threads,nocache=true");
	assert_int_equal(disk_do(d, BLOCK_READ, 0, 8192, in, 4096), 0);
	assert_memory_equal(in, out, 4096);
	file_disk_close(d);
	fd = open(path, O_RDONLY);
	assert_int_equal(pread(fd, in, 4096, 8192), 4096);
	assert_memory_equal(in, out, 4096);
	close(fd);
	rig_file_remove(path);
}

/* --- Discard --- */

static void
file_fill(struct disk *d)
{
	uint8_t *buf = malloc(FILE_SIZE);

	memset(buf, 0x99, FILE_SIZE);
	assert_int_equal(disk_do(d, BLOCK_WRITE, 0, 0, buf, FILE_SIZE), 0);
	assert_int_equal(disk_do(d, BLOCK_FLUSH, 0, 0, NULL, 0), 0);
	free(buf);
}

static bool
file_is_zero(struct disk *d, uint64_t off, uint64_t len)
{
	uint8_t *buf = malloc(len);
	bool zero = true;

	assert_int_equal(disk_do(d, BLOCK_READ, 0, off, buf, len), 0);
	for (uint64_t i = 0; i < len; i++)
		zero &= buf[i] == 0;
	free(buf);
	return zero;
}

/* Does op on a full file: the share of its blocks that is left, and that it reads as zeros. */
static double
file_left_after(const char *vars, enum block_op op, unsigned flags)
{
	char *path = rig_file(FILE_SIZE);
	struct disk *d = file_disk(path, vars);
	double left;

	file_fill(d);
	assert_in_range(rig_file_blocks(path), FILE_SIZE, FILE_SIZE + MIB(1));
	assert_int_equal(disk_do(d, op, flags, 0, NULL, FILE_SIZE), 0);
	assert_int_equal(disk_do(d, BLOCK_FLUSH, 0, 0, NULL, 0), 0);
	assert_true(file_is_zero(d, 0, FILE_SIZE));
	left = (double)rig_file_blocks(path) / FILE_SIZE;
	file_disk_close(d);
	rig_file_remove(path);
	return left;
}

static void
test_discard_frees(void **state)
{
	char vars[64];

	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		snprintf(vars, sizeof(vars), ",aio=%s", engines[i]);
		assert_true(file_left_after(vars, BLOCK_DISCARD, 0) < 0.05);
		assert_true(file_left_after(vars, BLOCK_WRITE_ZEROES, BLOCK_UNMAP) < 0.05);
		/* May not unmap: the blocks stay. */
		assert_true(file_left_after(vars, BLOCK_WRITE_ZEROES, 0) >= 1);
		snprintf(vars, sizeof(vars), ",aio=%s,discard=zero", engines[i]);
		assert_true(file_left_after(vars, BLOCK_DISCARD, 0) < 0.05);
		snprintf(vars, sizeof(vars), ",aio=%s,discard=off", engines[i]);
		assert_true(file_left_after(vars, BLOCK_WRITE_ZEROES, BLOCK_UNMAP) >= 1);
		snprintf(vars, sizeof(vars), ",aio=%s,nodelete=true", engines[i]);
		assert_true(file_left_after(vars, BLOCK_WRITE_ZEROES, BLOCK_UNMAP) >= 1);
	}
}

/* Less than a block of the host is zeroed, and what is around it stays. */
static void
test_discard_unaligned(void **state)
{
	char *path = rig_file(FILE_SIZE);
	struct disk *d = file_disk(path, ",sectorsize=512");

	file_fill(d);
	assert_int_equal(disk_do(d, BLOCK_DISCARD, 0, 512, NULL, 512), 0);
	assert_int_equal(disk_do(d, BLOCK_DISCARD, 0, 65536 - 512, NULL, 65536 + 1024), 0);
	assert_true(file_is_zero(d, 512, 512));
	assert_false(file_is_zero(d, 0, 512));
	assert_false(file_is_zero(d, 1024, 512));
	assert_true(file_is_zero(d, 65536 - 512, 65536 + 1024));
	assert_false(file_is_zero(d, 65536 - 1024, 512));
	assert_false(file_is_zero(d, 131072 + 512, 512));
	file_disk_close(d);
	rig_file_remove(path);
}

static void
test_detect_zeroes(void **state)
{
	static uint8_t zeros[65536];
	struct iovec iov[2] = { { zeros, 4096 }, { zeros + 4096, 4096 } };
	char *path = rig_file(FILE_SIZE);
	struct disk *d = file_disk(path, ",detect_zeroes=true");
	struct block_stats stats;
	uint64_t full;

	file_fill(d);
	full = rig_file_blocks(path);
	assert_int_equal(disk_do(d, BLOCK_WRITE, BLOCK_FUA, 65536, zeros, 65536), 0);
	assert_true(rig_file_blocks(path) <= full - 65536);
	assert_int_equal(disk_do_iov(d, BLOCK_WRITE, 0, 8192, iov, 2, 8192), 0);
	zeros[65535] = 1;
	assert_int_equal(disk_do(d, BLOCK_WRITE, 0, 262144, zeros, 65536), 0);
	zeros[65535] = 0;
	assert_int_equal(
	    disk_do(d, BLOCK_WRITE, 0, 512, zeros, 512), 0); /* not aligned to blocks */
	assert_true(file_is_zero(d, 65536, 65536));
	assert_true(file_is_zero(d, 8192, 8192));
	assert_false(file_is_zero(d, 262144, 65536));
	block_stats(d->b, &stats);
	assert_int_equal(stats.zeroes_detected, 2);
	file_disk_close(d);
	rig_file_remove(path);
}

/* --- O_DIRECT --- */

static void
test_direct_bounce(void **state)
{
	uint64_t len = MIB(1) + 4096; /* more than one bounce buffer takes */
	uint8_t *out = malloc(len + 64), *in = malloc(len + 64);
	char *path = rig_file(FILE_SIZE), vars[64];
	struct block_stats stats;
	struct iovec iov[3];
	struct disk *d;

	for (uint64_t i = 0; i < len; i++)
		out[i + 1] = (uint8_t)(i * 31 + i / 4096);
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		snprintf(vars, sizeof(vars), ",nocache=true,aio=%s", engines[i]);
		d = file_disk(path, vars);
		assert_int_equal(disk_do(d, BLOCK_WRITE, 0, 4096, out + 1, len), 0);
		iov[0] = (struct iovec){ in + 3, 17 };
		iov[1] = (struct iovec){ in + 3 + 17, 4096 };
		iov[2] = (struct iovec){ in + 3 + 17 + 4096, len - 17 - 4096 };
		assert_int_equal(disk_do_iov(d, BLOCK_READ, 0, 4096, iov, 3, len), 0);
		assert_memory_equal(in + 3, out + 1, len);
		block_stats(d->b, &stats);
		assert_int_equal(stats.bounced, 6);
		file_disk_close(d);
	}
	rig_file_remove(path);
	free(out);
	free(in);
}

static void
test_sync(void **state)
{
	char *path = rig_file(FILE_SIZE);
	struct disk *d = file_disk(path, ",sync=true");
	uint8_t buf[4096] = { 1 };

	assert_false(block_info(d->b)->write_cache);
	assert_int_equal(disk_do(d, BLOCK_WRITE, BLOCK_FUA, 0, buf, 4096), 0);
	file_disk_close(d);
	d = file_disk(path, ",direct=true");
	assert_false(block_info(d->b)->write_cache);
	file_disk_close(d);
	d = file_disk(path, ",nocache=true");
	assert_true(block_info(d->b)->write_cache);
	file_disk_close(d);
	rig_file_remove(path);
}

/* --- Trouble --- */

/* A file that became shorter: what is gone is an error, not zeros; the rest is there. */
static void
test_shrunk(void **state)
{
	static uint8_t buf[8192];
	char *path = rig_file(FILE_SIZE), vars[64];
	struct capture c;
	struct disk *d;
	int err[3];

	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		snprintf(vars, sizeof(vars), ",aio=%s", engines[i]);
		assert_int_equal(truncate(path, FILE_SIZE), 0);
		d = file_disk(path, vars);
		assert_int_equal(truncate(path, FILE_SIZE / 2 + 4096), 0);
		capture_begin(&c);
		err[0] = disk_do(d, BLOCK_READ, 0, FILE_SIZE - 8192, buf, 8192);
		err[1] =
		    disk_do(d, BLOCK_READ, 0, FILE_SIZE / 2, buf, 8192); /* half of it is there */
		err[2] = disk_do(d, BLOCK_READ, 0, FILE_SIZE / 2 - 4096, buf, 8192);
		block_drain(d->b);
		capture_end(&c);
		assert_int_equal(err[0], -EIO);
		assert_int_equal(err[1], -EIO);
		assert_int_equal(err[2], 0);
		/* Said once. */
		assert_non_null(strstr(
		    c.text, ": read of 8192 bytes at 4186112: Input/output error (said once)\n"));
		assert_ptr_equal(strchr(c.text, '\n') + 1, c.text + strlen(c.text));
		file_disk_close(d);
	}
	rig_file_remove(path);
}

/* The host refuses a write: its errno reaches the request, exactly, and reads go on. */
static void
test_write_refused(void **state)
{
	static uint8_t buf[65536];
	char *path = rig_file(FILE_SIZE), vars[64];
	struct rlimit old, small = { .rlim_max = RLIM_INFINITY };
	struct capture c;
	struct disk *d;
	int err[3];

	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	small = (struct rlimit){ .rlim_cur = FILE_SIZE / 2, .rlim_max = old.rlim_max };
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		snprintf(vars, sizeof(vars), ",aio=%s", engines[i]);
		d = file_disk(path, vars);
		setrlimit(RLIMIT_FSIZE, &small);
		capture_begin(&c);
		err[0] = disk_do(d, BLOCK_WRITE, 0, FILE_SIZE - 65536, buf, 65536);
		/* The host takes the first half, and refuses the rest. */
		err[1] = disk_do(d, BLOCK_WRITE, 0, FILE_SIZE / 2 - 32768, buf, 65536);
		err[2] = disk_do(d, BLOCK_WRITE, 0, 0, buf, 65536);
		block_drain(d->b);
		capture_end(&c);
		setrlimit(RLIMIT_FSIZE, &old);
		assert_int_equal(err[0], -EFBIG);
		assert_int_equal(err[1], -EFBIG);
		assert_int_equal(err[2], 0);
		assert_non_null(strstr(c.text, "File too large (said once)\n"));
		assert_int_equal(disk_do(d, BLOCK_READ, 0, FILE_SIZE - 65536, buf, 65536), 0);
		file_disk_close(d);
	}
	rig_file_remove(path);
}

/* A file system of 1 MiB under an image of 4 MiB. */
static void
test_disk_full(void **state)
{
	char dir[] = "/tmp/block-full-XXXXXX", path[64], vars[64];
	static uint8_t buf[65536];
	struct capture c;
	struct disk *d;
	int fd, err, failed;

	assert_non_null(mkdtemp(dir));
	if (mount("tmpfs", dir, "tmpfs", 0, "size=1m") != 0) {
		print_message("skipped: cannot mount a small tmpfs: %s\n", strerror(errno));
		rmdir(dir);
		skip();
	}
	snprintf(path, sizeof(path), "%s/image", dir);
	memset(buf, 1, sizeof(buf));
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
		assert_int_equal(ftruncate(fd, FILE_SIZE), 0);
		close(fd);
		snprintf(vars, sizeof(vars), ",aio=%s", engines[i]);
		d = file_disk(path, vars);
		failed = 0;
		err = 0;
		capture_begin(&c);
		for (uint64_t at = 0; at < FILE_SIZE && (err == 0 || err == -ENOSPC);
		     at += sizeof(buf)) {
			err = disk_do(d, BLOCK_WRITE, 0, at, buf, sizeof(buf));
			failed += err != 0;
		}
		block_drain(d->b);
		capture_end(&c);
		assert_int_equal(err, -ENOSPC);
		assert_in_range(failed, FILE_SIZE / sizeof(buf) * 3 / 4, FILE_SIZE / sizeof(buf));
		assert_non_null(strstr(c.text, "No space left on device (said once)\n"));
		assert_ptr_equal(strchr(c.text, '\n') + 1, c.text + strlen(c.text));
		/* Room comes back with a discard, and writes go on. tmpfs has no ZERO_RANGE: zeros
		 * are written. */
		assert_int_equal(disk_do(d, BLOCK_DISCARD, 0, 0, NULL, FILE_SIZE), 0);
		assert_int_equal(disk_do(d, BLOCK_WRITE, 0, FILE_SIZE - 65536, buf, 65536), 0);
		assert_int_equal(
		    disk_do(d, BLOCK_WRITE_ZEROES, 0, FILE_SIZE - 65536, NULL, 65536), 0);
		assert_true(file_is_zero(d, FILE_SIZE - 65536, 65536));
		assert_int_equal(rig_file_blocks(path), 65536);
		file_disk_close(d);
	}
	umount(dir);
	rmdir(dir);
}

/* A flush that failed once fails always: the kernel has dropped pages that it could not write, and
 * would say that all is well the next time. */
static void
test_flush_failed(void **state)
{
	char dir[] = "/tmp/block-full-XXXXXX", path[64], dev[64];
	struct capture c;
	struct disk *d;
	uint8_t *buf;
	int fd, err[3];

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/image", dir);
	if (mount("tmpfs", dir, "tmpfs", 0, "size=1m") != 0) {
		print_message("skipped: cannot mount a small tmpfs: %s\n", strerror(errno));
		rmdir(dir);
		skip();
	}
	fd = open(path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(ftruncate(fd, FILE_SIZE), 0);
	close(fd);
	if (!loop_attach(path, dev)) {
		umount(dir);
		rmdir(dir);
		skip();
	}
	d = file_disk(dev, "");
	buf = calloc(1, FILE_SIZE);
	memset(buf, 1, FILE_SIZE);
	capture_begin(&c);
	/* Into the page cache, which has room. */
	err[0] = disk_do(d, BLOCK_WRITE, 0, 0, buf, FILE_SIZE);
	err[1] = disk_do(d, BLOCK_FLUSH, 0, 0, NULL, 0);
	err[2] = disk_do(d, BLOCK_FLUSH, 0, 0, NULL, 0);
	block_drain(d->b);
	capture_end(&c);
	assert_int_equal(err[0], 0);
	assert_true(err[1] == -EIO || err[1] == -ENOSPC);
	assert_int_equal(err[2], err[1]);
	assert_non_null(strstr(c.text, ": flush: "));
	file_disk_close(d);
	loop_detach(dev);
	umount(dir);
	rmdir(dir);
	free(buf);
}

/* --- Size --- */

static void
on_resize(void *ctx)
{
	sem_post(ctx);
}

static void
test_resize(void **state)
{
	char *path = rig_file(FILE_SIZE);
	struct disk *d = file_disk(path, "");
	uint8_t buf[4096];
	sem_t changed;

	sem_init(&changed, 0, 0);
	vm_clock_pause(d->loop);
	block_on_resize(d->b, on_resize, &changed);
	assert_int_equal(disk_do(d, BLOCK_READ, 0, FILE_SIZE, buf, 4096), -EINVAL);
	assert_int_equal(truncate(path, FILE_SIZE + 8192 + 100), 0);
	/* Seen at the next look, a second later. */
	assert_int_equal(vm_clock_step(d->loop, 1100000000), 1);
	rig_wait(&changed);
	assert_int_equal(block_size(d->b), FILE_SIZE + 8192);
	assert_int_equal(disk_do(d, BLOCK_READ, 0, FILE_SIZE, buf, 4096), 0);
	/* No change, no call. */
	assert_int_equal(vm_clock_step(d->loop, 1100000000), 1);
	block_drain(d->b);
	assert_int_equal(sem_trywait(&changed), -1);
	/* Or at once when asked for. */
	assert_int_equal(truncate(path, FILE_SIZE), 0);
	block_rescan(d->b);
	rig_wait(&changed);
	assert_int_equal(block_size(d->b), FILE_SIZE);
	block_on_resize(d->b, NULL, NULL);
	assert_int_equal(vm_clock_step(d->loop, 3000000000), 0);
	sem_destroy(&changed);
	file_disk_close(d);
	rig_file_remove(path);
}

/* --- Block devices --- */

static void
test_loop_device(void **state)
{
	char *path = rig_file(FILE_SIZE), dev[64];
	struct disk *d;

	if (!loop_attach(path, dev)) {
		rig_file_remove(path);
		skip();
	}
	for (size_t i = 0; i < ARRAY_SIZE(engines); i++) {
		for (int zero = 0; zero < 2; zero++) {
			char vars[64];

			snprintf(vars, sizeof(vars), ",aio=%s,nocache=%s,discard=%s", engines[i],
			    zero ? "true" : "false", zero ? "zero" : "punch");
			d = file_disk(dev, vars);
			assert_int_equal(block_size(d->b), FILE_SIZE);
			file_fill(d);
			assert_in_range(rig_file_blocks(path), FILE_SIZE, FILE_SIZE + MIB(1));
			assert_true(block_info(d->b)->can_discard);
			assert_int_equal(disk_do(d, BLOCK_DISCARD, 0, 0, NULL, FILE_SIZE), 0);
			assert_in_range(rig_file_blocks(path), 0, FILE_SIZE / 20);
			assert_true(file_is_zero(d, 0, FILE_SIZE)); /* a hole in the file below */
			file_fill(d);
			assert_int_equal(
			    disk_do(d, BLOCK_WRITE_ZEROES, BLOCK_UNMAP, 65536, NULL, MIB(1)), 0);
			assert_true(file_is_zero(d, 65536, MIB(1)));
			assert_false(file_is_zero(d, 65536 + MIB(1), 65536));
			file_refused(dev, "", -EBUSY, "in use: mounted, or part of another device");
			file_disk_close(d);
		}
	}
	loop_detach(dev);
	rig_file_remove(path);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_open_errors),
		cmocka_unit_test(test_odd_size),
		cmocka_unit_test(test_read_only_file),
		cmocka_unit_test(test_locks),
		cmocka_unit_test(test_reopen),
		cmocka_unit_test(test_discard_frees),
		cmocka_unit_test(test_discard_unaligned),
		cmocka_unit_test(test_detect_zeroes),
		cmocka_unit_test(test_direct_bounce),
		cmocka_unit_test(test_sync),
		cmocka_unit_test(test_shrunk),
		cmocka_unit_test(test_write_refused),
		cmocka_unit_test(test_disk_full),
		cmocka_unit_test(test_flush_failed),
		cmocka_unit_test(test_resize),
		cmocka_unit_test(test_loop_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
