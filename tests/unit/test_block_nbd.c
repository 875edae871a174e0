/*
 * NBD servers that vanish, come back, refuse, or can do little. What a well server does is in
 * test_block_io.c.
 */
#include "block_rig.h"

#define IMAGE_SIZE MIB(64)

struct remote { /* a disk on a server of our own */
	struct server server;
	struct disk disk;
	char *path;
};

static void
remote_open_params(
    struct remote *r, const char *program, const char *args, const char *params, const char *vars)
{
	char all[512];

	r->path = rig_file(IMAGE_SIZE);
	server_create(&r->server, program, args, r->path, params);
	snprintf(all, sizeof(all), "path=%s%s", r->server.uri, vars);
	if (disk_open(&r->disk, all) != 0)
		fail_msg("%s: %s", all, r->disk.said.text);
}

static void
remote_open(struct remote *r, const char *program, const char *args, const char *vars)
{
	remote_open_params(r, program, args, NULL, vars);
}

static void
remote_close(struct remote *r)
{
	disk_close(&r->disk);
	server_destroy(&r->server);
	rig_file_remove(r->path);
}

/* The server's memory is gone, as after a power failure: nothing it was not told to flush is on the
 * disk. */
static void
remote_lose_writes(struct remote *r)
{
	assert_int_equal(truncate(r->path, 0), 0);
	assert_int_equal(truncate(r->path, IMAGE_SIZE), 0);
}

static void
remote_expect(struct remote *r, uint64_t off, uint8_t value)
{
	uint8_t byte = 0;
	int fd = open(r->path, O_RDONLY | O_CLOEXEC);

	assert_int_equal(pread(fd, &byte, 1, (off_t)off), 1);
	close(fd);
	if (byte != value)
		fail_msg("byte %llu is %#x, not %#x", (unsigned long long)off, byte, value);
}

static uint64_t
remote_reconnects(struct remote *r)
{
	struct block_stats stats;

	block_drain(r->disk.b);
	block_stats(r->disk.b, &stats);
	return stats.reconnects;
}

static const char *const programs[] = { "nbdkit", "qemu-nbd" };

/* Acknowledged writes that were not flushed are sent again, in order, before a flush succeeds. */
static void
test_replay(void **state)
{
	static uint8_t buf[65536];
	struct capture c;
	struct remote r;
	int err;

	for (size_t p = 0; p < ARRAY_SIZE(programs); p++) {
		if (!rig_has_nbd(programs[p]))
			continue;
		remote_open(&r, programs[p], NULL, "");
		for (int i = 1; i <= 100; i++) {
			memset(buf, i, sizeof(buf));
			assert_int_equal(
			    disk_do(&r.disk, BLOCK_WRITE, 0, (uint64_t)(i / 2) * 65536, buf, 65536),
			    0);
		}
		assert_int_equal(disk_do(&r.disk, BLOCK_WRITE_ZEROES, 0, 65536, NULL, 65536), 0);
		capture_begin(&c);
		server_signal(&r.server, SIGKILL);
		remote_lose_writes(&r);
		server_start(&r.server);
		err = disk_do(&r.disk, BLOCK_FLUSH, 0, 0, NULL, 0);
		capture_end(&c);
		assert_int_equal(err, 0);
		assert_non_null(strstr(c.text, ": lost: "));
		assert_non_null(strstr(c.text, ": connected again\n"));
		assert_int_equal(remote_reconnects(&r), 1);
		remote_expect(&r, 0, 1);
		remote_expect(&r, 65536, 0);
		for (int i = 4; i <= 100; i++)
			remote_expect(&r, (uint64_t)(i / 2) * 65536 + 99, (uint8_t)(i | (i < 100)));
		/* What was flushed is not sent again. */
		capture_begin(&c);
		server_signal(&r.server, SIGKILL);
		remote_lose_writes(&r);
		server_start(&r.server);
		err = disk_do(&r.disk, BLOCK_READ, 0, 0, buf, 65536);
		capture_end(&c);
		assert_int_equal(err, 0);
		assert_int_equal(buf[0], 0);
		remote_close(&r);
	}
}

/* Requests that the server has not answered, and those made while it is away, are done when it is
 * back. */
static void
test_stall(void **state)
{
	static uint8_t out[8][65536], in[65536];
	struct iovec iov[9];
	struct io io[9] = { 0 };
	struct capture c;
	struct remote r;

	for (size_t p = 0; p < ARRAY_SIZE(programs); p++) {
		if (!rig_has_nbd(programs[p]))
			continue;
		remote_open(&r, programs[p], NULL, "");
		capture_begin(&c);
		server_signal(&r.server, SIGSTOP);
		for (int i = 0; i < 8; i++) {
			memset(out[i], i + 1, 65536);
			if (i == 4) { /* the rest finds the server gone */
				server_signal(&r.server, SIGKILL);
				remote_lose_writes(&r);
			}
			iov[i] = (struct iovec){ out[i], 65536 };
			io[i].req = (struct block_req){ .op = BLOCK_WRITE,
				.flags = i & 1 ? BLOCK_FUA : 0,
				.offset = (uint64_t)i * 65536,
				.len = 65536,
				.iov = &iov[i],
				.iovcnt = 1 };
			io_submit(&r.disk, &io[i]);
		}
		iov[8] = (struct iovec){ in, 65536 };
		io[8].req = (struct block_req){ .op = BLOCK_READ,
			.offset = MIB(8),
			.len = 65536,
			.iov = &iov[8],
			.iovcnt = 1 };
		io_submit(&r.disk, &io[8]);
		server_start(&r.server);
		for (int i = 0; i < 9; i++)
			assert_int_equal(io_wait(&io[i]), 0);
		assert_int_equal(disk_do(&r.disk, BLOCK_FLUSH, 0, 0, NULL, 0), 0);
		capture_end(&c);
		for (int i = 0; i < 9; i++)
			assert_int_equal(io[i].calls, 1);
		for (int i = 0; i < 8; i++)
			remote_expect(&r, (uint64_t)i * 65536 + 5, (uint8_t)(i + 1));
		remote_close(&r);
	}
}

/* No server for too long: errors; and when it is back after all, the disk works, with nothing lost.
 */
static void
test_give_up(void **state)
{
	static uint8_t buf[4096];
	struct capture c;
	struct remote r;
	int err[5];

	if (!rig_has_nbd("nbdkit"))
		skip();
	remote_open(&r, "nbdkit", NULL, ",reconnect=1");
	memset(buf, 0x77, sizeof(buf));
	assert_int_equal(disk_do(&r.disk, BLOCK_WRITE, 0, 8192, buf, 4096), 0);
	capture_begin(&c);
	server_signal(&r.server, SIGKILL);
	remote_lose_writes(&r);
	err[0] = disk_do(&r.disk, BLOCK_READ, 0, 0, buf, 4096); /* a second later */
	err[1] = disk_do(&r.disk, BLOCK_FLUSH, 0, 0, NULL, 0);
	err[2] = disk_do(&r.disk, BLOCK_READ, 0, 0, buf, 4096);
	server_start(&r.server);
	do {
		err[3] = disk_do(&r.disk, BLOCK_READ, 0, 8192, buf, 4096);
	} while (err[3] == -EIO);
	err[4] = disk_do(&r.disk, BLOCK_FLUSH, 0, 0, NULL, 0);
	capture_end(&c);
	assert_int_equal(err[0], -EIO);
	assert_int_equal(err[1], -EIO);
	assert_int_equal(err[2], -EIO);
	assert_int_equal(err[3], 0);
	assert_int_equal(err[4], 0);
	assert_int_equal(buf[9], 0x77);
	remote_expect(&r, 8192, 0x77);
	remote_close(&r);
}

/* A device that is reset does not wait for the server. */
static void
test_cancel(void **state)
{
	static uint8_t buf[4096];
	struct iovec iov = { buf, sizeof(buf) };
	struct io io = { .req = {
			     .op = BLOCK_READ, .len = sizeof(buf), .iov = &iov, .iovcnt = 1 } };
	struct capture c;
	struct remote r;
	int err;

	if (!rig_has_nbd("nbdkit"))
		skip();
	remote_open(&r, "nbdkit", NULL, "");
	capture_begin(&c);
	server_signal(&r.server, SIGKILL);
	io_submit(&r.disk, &io);
	while (sem_trywait(&io.done) != 0) /* once it knows that the server is gone */
		block_cancel(r.disk.b);
	err = io.err;
	block_drain(r.disk.b);
	capture_end(&c);
	assert_int_equal(err, -ECANCELED);
	assert_int_equal(io.calls, 1);
	sem_destroy(&io.done);
	/* Closing does not wait either. */
	io_submit(&r.disk, &io);
	capture_begin(&c);
	remote_close(&r);
	capture_end(&c);
	assert_int_equal(io.calls, 1);
	assert_int_equal(io_wait(&io), -EIO);
}

/* More written than is kept: we flush on our own, and all of it is there in the end. */
static void
test_much_unflushed(void **state)
{
	uint8_t *buf = malloc(MIB(1));
	struct capture c;
	struct remote r;
	int err;

	if (!rig_has_nbd("nbdkit"))
		skip();
	remote_open(&r, "nbdkit", NULL, "");
	for (unsigned i = 0; i < 60; i++) {
		memset(buf, (int)i + 1, MIB(1));
		assert_int_equal(disk_do(&r.disk, BLOCK_WRITE, 0, i * MIB(1), buf, MIB(1)), 0);
	}
	capture_begin(&c);
	server_signal(&r.server, SIGKILL);
	server_start(&r.server);
	err = disk_do(&r.disk, BLOCK_FLUSH, 0, 0, NULL, 0);
	capture_end(&c);
	assert_int_equal(err, 0);
	for (unsigned i = 0; i < 60; i++)
		remote_expect(&r, i * MIB(1) + 4711, (uint8_t)(i + 1));
	remote_close(&r);
	free(buf);
}

/* The server's errors are the guest's, and no reason to connect again. */
static void
test_server_errors(void **state)
{
	static uint8_t buf[4096];
	char trigger[] = "/tmp/block-nbd-error-XXXXXX", params[256];
	struct capture c;
	struct remote r;
	int err[4];

	if (!rig_has_nbd("nbdkit"))
		skip();
	close(mkstemp(trigger));
	unlink(trigger);
	snprintf(params, sizeof(params), "error=ENOSPC error-rate=100%% error-file=%s", trigger);
	remote_open_params(&r, "nbdkit", "--filter=error", params, "");
	assert_int_equal(disk_do(&r.disk, BLOCK_WRITE, 0, 0, buf, 4096), 0);
	close(open(trigger, O_CREAT | O_WRONLY | O_CLOEXEC, 0600)); /* from here on errors */
	capture_begin(&c);
	err[0] = disk_do(&r.disk, BLOCK_WRITE, 0, 0, buf, 4096);
	err[1] = disk_do(&r.disk, BLOCK_READ, 0, 0, buf, 4096);
	unlink(trigger);
	err[2] = disk_do(&r.disk, BLOCK_WRITE, 0, 0, buf, 4096);
	err[3] = disk_do(&r.disk, BLOCK_READ, 0, 0, buf, 4096);
	block_drain(r.disk.b);
	capture_end(&c);
	assert_int_equal(err[0], -ENOSPC);
	assert_int_equal(err[1], -ENOSPC);
	assert_int_equal(err[2], 0);
	assert_int_equal(err[3], 0);
	assert_non_null(
	    strstr(c.text, "write of 4096 bytes at 0: No space left on device (said once)\n"));
	assert_ptr_equal(strchr(c.text, '\n') + 1, c.text + strlen(c.text));
	assert_int_equal(remote_reconnects(&r), 0);
	remote_close(&r);
}

static void
test_read_only_server(void **state)
{
	struct remote r;
	uint8_t buf[4096];

	if (!rig_has_nbd("nbdkit"))
		skip();
	remote_open(&r, "nbdkit", "-r", "");
	assert_true(block_info(r.disk.b)->read_only);
	assert_non_null(strstr(r.disk.said.text, "the server only lets it be read"));
	assert_int_equal(disk_do(&r.disk, BLOCK_READ, 0, 0, buf, 4096), 0);
	assert_int_equal(disk_do(&r.disk, BLOCK_WRITE, 0, 0, buf, 4096), -EROFS);
	remote_close(&r);
}

/* Without zeroing: zeros are written, and a discard that must leave zeros is not offered. */
static void
test_plain_server(void **state)
{
	static uint8_t buf[MIB(1)];
	struct remote r;

	if (!rig_has_nbd("nbdkit"))
		skip();
	remote_open(&r, "nbdkit", "--filter=nozero", ",discard=zero");
	assert_false(block_info(r.disk.b)->fast_zeroes);
	assert_false(block_info(r.disk.b)->can_discard);
	memset(buf, 1, sizeof(buf));
	assert_int_equal(disk_do(&r.disk, BLOCK_WRITE, BLOCK_FUA, 0, buf, MIB(1)), 0);
	assert_int_equal(
	    disk_do(&r.disk, BLOCK_WRITE_ZEROES, BLOCK_FUA, 4096, NULL, MIB(1) - 8192), 0);
	assert_int_equal(disk_do(&r.disk, BLOCK_READ, 0, 0, buf, MIB(1)), 0);
	for (unsigned i = 0; i < MIB(1); i++)
		assert_int_equal(buf[i], i < 4096 || i >= MIB(1) - 4096);
	assert_int_equal(disk_do(&r.disk, BLOCK_DISCARD, 0, 0, NULL, 4096), -EOPNOTSUPP);
	remote_close(&r);
}

static void
test_refused(void **state)
{
	struct disk d;

#ifdef HAVE_LIBNBD
	assert_int_not_equal(disk_open(&d, "path=nbd+unix:///?socket=/nonexistent/sock"), 0);
	assert_non_null(
	    strstr(d.said.text, "bhyve: disk: nbd+unix:///?socket=/nonexistent/sock: "));
	assert_non_null(strstr(d.said.text, "No such file or directory"));
#else
	assert_int_equal(disk_open(&d, "path=nbd+unix:///?socket=/nonexistent/sock"), -ENOSYS);
	assert_string_equal(d.said.text,
	    "bhyve: disk: nbd+unix:///?socket=/nonexistent/sock: this "
	    "bhyve was built without libnbd\n");
#endif
	assert_ptr_equal(strchr(d.said.text, '\n') + 1, d.said.text + strlen(d.said.text));
	disk_close(&d);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_replay),
		cmocka_unit_test(test_stall),
		cmocka_unit_test(test_give_up),
		cmocka_unit_test(test_cancel),
		cmocka_unit_test(test_much_unflushed),
		cmocka_unit_test(test_server_errors),
		cmocka_unit_test(test_read_only_server),
		cmocka_unit_test(test_plain_server),
		cmocka_unit_test(test_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
