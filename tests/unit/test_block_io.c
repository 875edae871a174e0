/*
 * The block room's contract on each back end: every operation, errors, order of works, drains; and
 * the same seeded random requests on all back ends side by side, against a shadow in memory.
 */
#include "block_rig.h"

#define DISK_SIZE MIB(4)

struct kind {
	const char *name, *engine;
	const char *vars; /* path and all */
	struct server server;
	char *path; /* of the image, NULL for ram */
	struct disk disk;
	bool absent;
};

/* Opens a disk of the kind, fresh and all zeros. */
static void
kind_open(struct kind *k, const char *more)
{
	char vars[512];

	if (strcmp(k->name, "ram") == 0) {
		snprintf(
		    vars, sizeof(vars), "ram=%llu%s", (unsigned long long)(DISK_SIZE >> 20), more);
	} else {
		k->path = rig_file(DISK_SIZE);
		if (strcmp(k->engine, "nbd") == 0) {
			server_create(&k->server, k->name, NULL, k->path, NULL);
			snprintf(vars, sizeof(vars), "path=%s%s", k->server.uri, more);
		} else {
			snprintf(vars, sizeof(vars), "path=%s%s%s", k->path, k->vars, more);
		}
	}
	if (disk_open(&k->disk, vars) != 0)
		fail_msg("%s: %s", vars, k->disk.said.text);
	assert_string_equal(block_engine(k->disk.b), k->engine);
}

static void
kind_close(struct kind *k)
{
	disk_close(&k->disk);
	if (k->server.program != NULL)
		server_destroy(&k->server);
	if (k->path != NULL)
		rig_file_remove(k->path);
	k->server.program = NULL;
	k->path = NULL;
}

static bool
rig_has_uring(void)
{
	char *path = rig_file(MIB(1)), vars[256];
	struct disk d;
	bool has;

	snprintf(vars, sizeof(vars), "path=%s,aio=io_uring", path);
	has = disk_open(&d, vars) == 0;
	if (!has)
		print_message("skipped: io_uring: %s", d.said.text);
	disk_close(&d);
	rig_file_remove(path);
	return has;
}

#define KINDS 7
static const struct kind all_kinds[KINDS] = {
	{ .name = "uring", .engine = "io_uring", .vars = ",aio=io_uring" },
	{ .name = "uring-direct", .engine = "io_uring", .vars = ",aio=io_uring,nocache=true" },
	{ .name = "threads", .engine = "threads", .vars = ",aio=threads" },
	{ .name = "threads-direct",
	    .engine = "threads",
	    .vars = ",aio=threads,nocache=true,sync=true" },
	{ .name = "ram", .engine = "ram" },
	{ .name = "nbdkit", .engine = "nbd" },
	{ .name = "qemu-nbd", .engine = "nbd" },
};

static int
kinds_setup(void **state)
{
	struct kind *kinds = malloc(sizeof(all_kinds));

	memcpy(kinds, all_kinds, sizeof(all_kinds));
	for (int i = 0; i < KINDS; i++) {
		if (strcmp(kinds[i].engine, "nbd") == 0)
			kinds[i].absent = !rig_has_nbd(kinds[i].name);
		if (strcmp(kinds[i].engine, "io_uring") == 0)
			kinds[i].absent = !rig_has_uring();
	}
	*state = kinds;
	return 0;
}

static int
kinds_teardown(void **state)
{
	free(*state);
	return 0;
}

#define FOR_EACH_KIND(k, state)                                                                    \
	for (struct kind *k = *(state); k < (struct kind *)*(state) + KINDS; k++)                  \
		if (!k->absent)

/* --- One at a time --- */

static void
check_ops(struct disk *d)
{
	uint8_t *buf = aligned_alloc(4096, 65536), *back = aligned_alloc(4096, 65536);
	struct block_stats stats;
	struct iovec iov[3];

	for (int i = 0; i < 65536; i++)
		buf[i] = (uint8_t)(i * 7 + i / 256);
	assert_int_equal(block_size(d->b), DISK_SIZE);
	assert_int_equal(disk_do(d, BLOCK_READ, 0, 0, back, 65536), 0);
	for (int i = 0; i < 65536; i++)
		assert_int_equal(back[i], 0);
	assert_int_equal(disk_do(d, BLOCK_WRITE, 0, DISK_SIZE - 65536, buf, 65536), 0);
	assert_int_equal(disk_do(d, BLOCK_FLUSH, 0, 0, NULL, 0), 0);
	assert_int_equal(disk_do(d, BLOCK_WRITE, BLOCK_FUA, 4096, buf, 8192), 0);
	/* In pieces, not aligned in memory. */
	iov[0] = (struct iovec){ back + 1, 100 };
	iov[1] = (struct iovec){ back + 1000, 0 };
	iov[2] = (struct iovec){ back + 5001, 8192 - 100 };
	assert_int_equal(disk_do_iov(d, BLOCK_READ, 0, 4096, iov, 3, 8192), 0);
	assert_memory_equal(back + 1, buf, 100);
	assert_memory_equal(back + 5001, buf + 100, 8192 - 100);
	assert_int_equal(disk_do(d, BLOCK_READ, 0, DISK_SIZE - 65536, back, 65536), 0);
	assert_memory_equal(back, buf, 65536);
	assert_int_equal(
	    disk_do(d, BLOCK_WRITE_ZEROES, BLOCK_FUA, DISK_SIZE - 61440, NULL, 4096), 0);
	assert_int_equal(
	    disk_do(d, BLOCK_WRITE_ZEROES, BLOCK_UNMAP, DISK_SIZE - 53248, NULL, 4096), 0);
	memset(buf + 4096, 0, 4096);
	memset(buf + 12288, 0, 4096);
	assert_int_equal(disk_do(d, BLOCK_READ, 0, DISK_SIZE - 65536, back, 65536), 0);
	assert_memory_equal(back, buf, 65536);
	assert_true(block_info(d->b)->can_discard);
	assert_int_equal(disk_do(d, BLOCK_DISCARD, 0, 0, NULL, DISK_SIZE), 0);
	if (block_info(d->b)->discard_zeroes) {
		assert_int_equal(disk_do(d, BLOCK_READ, 0, 4096, back, 65536), 0);
		for (int i = 0; i < 65536; i++)
			assert_int_equal(back[i], 0);
	}
	block_drain(d->b); /* a request is in flight until its callback has returned */
	block_stats(d->b, &stats);
	assert_int_equal(stats.in_flight, 0);
	assert_int_equal(stats.op[BLOCK_FLUSH].ops, 1);
	assert_int_equal(stats.op[BLOCK_WRITE].ops, 2);
	assert_int_equal(stats.op[BLOCK_WRITE].bytes, 65536 + 8192);
	assert_int_equal(stats.op[BLOCK_READ].errors, 0);
	free(buf);
	free(back);
}

static void
test_ops(void **state)
{
	FOR_EACH_KIND (k, state) {
		kind_open(k, "");
		check_ops(&k->disk);
		kind_close(k);
		kind_open(k, ",discard=zero");
		assert_true(block_info(k->disk.b)->discard_zeroes);
		check_ops(&k->disk);
		kind_close(k);
	}
}

static void
check_errors(struct disk *d)
{
	static uint8_t buf[8192];
	struct iovec iov[2] = { { buf, 512 }, { buf, 512 } };
	uint32_t sector = block_info(d->b)->logical_sector;

	/* Nothing to do. */
	assert_int_equal(disk_do(d, BLOCK_READ, 0, 0, NULL, 0), 0);
	assert_int_equal(disk_do_iov(d, BLOCK_WRITE, 0, DISK_SIZE, NULL, 0, 0), 0);
	/* Beyond the end. */
	assert_int_equal(disk_do(d, BLOCK_READ, 0, DISK_SIZE, buf, sector), -EINVAL);
	assert_int_equal(disk_do(d, BLOCK_WRITE, 0, DISK_SIZE - sector, buf, 2 * sector), -EINVAL);
	assert_int_equal(disk_do(d, BLOCK_DISCARD, 0, 0, NULL, DISK_SIZE + sector), -EINVAL);
	assert_int_equal(
	    disk_do(d, BLOCK_READ, 0, ALIGN_DOWN(UINT64_MAX, 65536ull), buf, 4096), -EINVAL);
	assert_int_equal(
	    disk_do(d, BLOCK_WRITE_ZEROES, 0, 65536, NULL, ALIGN_DOWN(UINT64_MAX, 65536ull)),
	    -EINVAL);
	/* Not sectors. */
	assert_int_equal(disk_do(d, BLOCK_READ, 0, 1, buf, sector), -EINVAL);
	assert_int_equal(disk_do(d, BLOCK_WRITE, 0, 0, buf, sector - 1), -EINVAL);
	/* Memory that does not add up. */
	assert_int_equal(disk_do_iov(d, BLOCK_READ, 0, 0, iov, 2, 512), -EINVAL);
	assert_int_equal(disk_do_iov(d, BLOCK_READ, 0, 0, iov, 2, 4096), -EINVAL);
	assert_int_equal(disk_do_iov(d, BLOCK_READ, 0, 0, iov, -1, 4096), -EINVAL);
	assert_int_equal(disk_do_iov(d, BLOCK_READ, 0, 0, iov, BLOCK_IOV_MAX + 1, 4096), -EINVAL);
	iov[1].iov_len = SIZE_MAX - 511;
	assert_int_equal(disk_do_iov(d, BLOCK_READ, 0, 0, iov, 2, 0), -EINVAL);
	assert_int_equal(disk_do(d, (enum block_op)77, 0, 0, buf, 512), -EINVAL);
}

static void
test_errors(void **state)
{
	FOR_EACH_KIND (k, state) {
		kind_open(k, "");
		check_errors(&k->disk);
		kind_close(k);
	}
}

static void
test_read_only(void **state)
{
	uint8_t buf[4096];

	FOR_EACH_KIND (k, state) {
		kind_open(k, ",ro=true");
		assert_true(block_info(k->disk.b)->read_only);
		assert_false(block_info(k->disk.b)->can_discard);
		assert_false(block_info(k->disk.b)->write_cache);
		assert_int_equal(disk_do(&k->disk, BLOCK_READ, 0, 0, buf, 4096), 0);
		assert_int_equal(disk_do(&k->disk, BLOCK_WRITE, 0, 0, buf, 4096), -EROFS);
		assert_int_equal(disk_do(&k->disk, BLOCK_WRITE_ZEROES, 0, 0, NULL, 4096), -EROFS);
		assert_int_equal(disk_do(&k->disk, BLOCK_DISCARD, 0, 0, NULL, 4096), -EROFS);
		assert_int_equal(disk_do(&k->disk, BLOCK_FLUSH, 0, 0, NULL, 0), 0);
		kind_close(k);
	}
}

/* --- Many at a time, from the disk's own thread, as a device does --- */

#define FLOOD     1000
#define FLOOD_LEN 4096

struct flood {
	struct disk *d;
	struct block_work kick, raise, idle;
	struct block_req req[FLOOD];
	struct iovec iov[FLOOD];
	int calls[FLOOD];
	uint8_t *mem;
	int done, failed, canceled, raises, done_when_idle, raises_when_idle;
	bool nested, other_thread;
	pthread_t thread;
	sem_t over;
};

static void
flood_done(struct block_req *req, int err)
{
	struct flood *f = req->owner;

	f->calls[req - f->req]++;
	f->done++;
	f->failed += err != 0;
	f->canceled += err == -ECANCELED;
	f->other_thread |= !pthread_equal(f->thread, pthread_self());
	block_post(f->d->b, &f->raise);
}

static void
flood_kick(void *ctx)
{
	struct flood *f = ctx;

	f->thread = pthread_self();
	for (int i = 0; i < FLOOD; i++) {
		f->iov[i] = (struct iovec){ f->mem + i * FLOOD_LEN, FLOOD_LEN };
		f->req[i] = (struct block_req){ .op = i % 2 ? BLOCK_READ : BLOCK_WRITE,
			.offset = (uint64_t)i * FLOOD_LEN,
			.len = FLOOD_LEN,
			.iov = &f->iov[i],
			.iovcnt = 1,
			.done = flood_done,
			.owner = f };
		block_submit(f->d->b, &f->req[i]);
	}
	f->nested = f->done != 0;
	block_drain_post(f->d->b, &f->idle);
}

static void
flood_raise(void *ctx)
{
	struct flood *f = ctx;

	f->raises++;
}

static void
flood_idle(void *ctx)
{
	struct flood *f = ctx;

	f->done_when_idle = f->done;
	f->raises_when_idle = f->raises;
	sem_post(&f->over);
}

static void
check_flood(struct disk *d)
{
	struct flood *f = calloc(1, sizeof(*f));

	f->d = d;
	f->mem = aligned_alloc(4096, FLOOD * FLOOD_LEN);
	memset(f->mem, 0xa5, FLOOD * FLOOD_LEN);
	sem_init(&f->over, 0, 0);
	block_work_init(&f->kick, flood_kick, f);
	block_work_init(&f->raise, flood_raise, f);
	block_work_init(&f->idle, flood_idle, f);
	block_post(d->b, &f->kick);
	rig_wait(&f->over);
	assert_int_equal(f->done_when_idle, FLOOD);
	assert_int_equal(f->failed, 0);
	assert_false(f->nested);
	assert_false(f->other_thread);
	/* Works posted by callbacks ran before the drain's, some of them once for many. */
	assert_in_range(f->raises_when_idle, 1, FLOOD);
	for (int i = 0; i < FLOOD; i++) {
		assert_int_equal(f->calls[i], 1);
		assert_int_equal(f->mem[i * FLOOD_LEN + 17], i % 2 ? 0 : 0xa5);
	}
	sem_destroy(&f->over);
	free(f->mem);
	free(f);
}

static void
test_flood(void **state)
{
	FOR_EACH_KIND (k, state) {
		kind_open(k, "");
		check_flood(&k->disk);
		kind_close(k);
	}
}

/* Draining and cancelling with requests in flight: each completes once, none after the drain. */
static void
check_drain(struct disk *d, bool cancel)
{
	struct flood *f = calloc(1, sizeof(*f));

	f->d = d;
	f->mem = aligned_alloc(4096, FLOOD * FLOOD_LEN);
	memset(f->mem, 1, FLOOD * FLOOD_LEN);
	sem_init(&f->over, 0, 0);
	block_work_init(&f->kick, flood_kick, f);
	block_work_init(&f->raise, flood_raise, f);
	block_work_init(&f->idle, flood_idle, f);
	block_post(d->b, &f->kick);
	if (cancel)
		block_cancel(d->b);
	block_drain(d->b);
	assert_int_equal(f->done, FLOOD);
	assert_int_equal(f->failed, f->canceled);
	if (!cancel)
		assert_int_equal(f->canceled, 0);
	for (int i = 0; i < FLOOD; i++)
		assert_int_equal(f->calls[i], 1);
	rig_wait(&f->over);
	sem_destroy(&f->over);
	free(f->mem);
	free(f);
}

/* A work that was posted before block_cancel() and runs first may submit what was asked for later. */
struct late {
	struct disk *d;
	struct block_work hold, kick;
	sem_t go;
	struct io io;
};

static void
late_hold(void *ctx)
{
	struct late *l = ctx;

	rig_wait(&l->go);
}

static void
late_kick(void *ctx)
{
	struct late *l = ctx;

	io_submit(l->d, &l->io);
}

static void
check_cancel_is_past(struct disk *d)
{
	static uint8_t buf[4096] __attribute__((aligned(4096)));
	struct iovec iov = { buf, sizeof(buf) };
	struct late l = { .d = d, .io = { .req = { .op = BLOCK_READ, .len = sizeof(buf),
					      .iov = &iov, .iovcnt = 1 } } };

	sem_init(&l.go, 0, 0);
	block_work_init(&l.hold, late_hold, &l);
	block_work_init(&l.kick, late_kick, &l);
	block_post(d->b, &l.hold);
	block_post(d->b, &l.kick);
	block_cancel(d->b);
	sem_post(&l.go);
	block_drain(d->b);
	assert_int_equal(io_wait(&l.io), 0);
	sem_destroy(&l.go);
}

static void
test_drain(void **state)
{
	FOR_EACH_KIND (k, state) {
		kind_open(k, "");
		check_drain(&k->disk, false);
		check_drain(&k->disk, true);
		check_cancel_is_past(&k->disk);
		block_drain(k->disk.b);
		kind_close(k);
	}
}

/* Closing waits for what is in flight. */
static void
test_close_in_flight(void **state)
{
	static uint8_t buf[65536];
	struct iovec iov = { buf, sizeof(buf) };
	struct io io[16];

	FOR_EACH_KIND (k, state) {
		kind_open(k, "");
		for (int i = 0; i < 16; i++) {
			io[i].req = (struct block_req){ .op = BLOCK_WRITE,
				.offset = (uint64_t)i * sizeof(buf),
				.len = sizeof(buf),
				.iov = &iov,
				.iovcnt = 1 };
			io_submit(&k->disk, &io[i]);
		}
		block_close(k->disk.b);
		k->disk.b = NULL;
		for (int i = 0; i < 16; i++) {
			assert_int_equal(io[i].calls, 1);
			assert_int_equal(io_wait(&io[i]), 0);
		}
		kind_close(k);
	}
}

/* --- Random requests on all of them --- */

#define SLOTS     32 /* of the disk: requests in flight together are in different ones */
#define SLOT_SIZE (DISK_SIZE / SLOTS)
#define BATCHES   60
#define PIECES    5

struct script { /* one random request, and its memory on one kind of back end */
	struct io io;
	struct iovec iov[PIECES];
	uint8_t *mem;
};

static uint32_t
random_next(uint32_t *seed, uint32_t below)
{
	*seed = *seed * 1664525u + 1013904223u;
	return (uint32_t)((uint64_t)*seed * below >> 32);
}

/* Cuts the memory into pieces with gaps, some of odd length. */
static void
script_cut(struct script *s, uint32_t *seed)
{
	uint64_t left = s->io.req.len, at = random_next(seed, 2) * random_next(seed, 9);
	int n = 1 + (int)random_next(seed, PIECES);

	for (int i = 0; i < n; i++) {
		uint64_t len = i == n - 1 ? left : random_next(seed, (uint32_t)left + 1);

		if (random_next(seed, 2) == 0 && i != n - 1)
			len = ALIGN_DOWN(len, 512ull);
		s->iov[i] = (struct iovec){ s->mem + at, len };
		left -= len;
		at += len + random_next(seed, 2) * 3;
	}
	s->io.req.iov = s->iov;
	s->io.req.iovcnt = n;
}

static void
script_fill(struct script *s, uint32_t *seed)
{
	bool zero = random_next(seed, 4) == 0;

	for (int i = 0; i < s->io.req.iovcnt; i++) {
		uint8_t *p = s->iov[i].iov_base;

		for (size_t j = 0; j < s->iov[i].iov_len; j++)
			p[j] = zero ? 0 : (uint8_t)(random_next(seed, 256));
	}
}

static void
script_make(struct script *s, unsigned slot, uint32_t seed)
{
	static const enum block_op ops[] = { BLOCK_READ, BLOCK_READ, BLOCK_READ, BLOCK_WRITE,
		BLOCK_WRITE, BLOCK_WRITE, BLOCK_WRITE, BLOCK_FLUSH, BLOCK_DISCARD,
		BLOCK_WRITE_ZEROES };
	uint64_t unit = random_next(&seed, 2) ? 512 : 4096;
	uint64_t first = random_next(&seed, (uint32_t)(SLOT_SIZE / unit));
	uint64_t count = 1 + random_next(&seed, (uint32_t)(SLOT_SIZE / unit - first));
	struct block_req *req = &s->io.req;

	*req = (struct block_req){
		.op = ops[random_next(&seed, ARRAY_SIZE(ops))],
		.flags = random_next(&seed, 4), /* BLOCK_FUA, BLOCK_UNMAP */
		.offset = slot * SLOT_SIZE + first * unit,
		.len = count * unit,
	};
	script_cut(s, &seed);
	if (req->op == BLOCK_WRITE)
		script_fill(s, &seed);
}

/* Does on the shadow what the request does, and compares what was read. */
static void
script_check(const struct script *s, const char *name, uint8_t *shadow, bool apply)
{
	const struct block_req *req = &s->io.req;
	uint64_t at = req->offset;

	if (req->op == BLOCK_READ || (apply && req->op == BLOCK_WRITE)) {
		for (int i = 0; i < req->iovcnt; i++) {
			if (req->op == BLOCK_WRITE)
				memcpy(shadow + at, s->iov[i].iov_base, s->iov[i].iov_len);
			else if (memcmp(shadow + at, s->iov[i].iov_base, s->iov[i].iov_len) != 0)
				fail_msg("%s: read at %#llx differs", name, (unsigned long long)at);
			at += s->iov[i].iov_len;
		}
	} else if (apply && (req->op == BLOCK_DISCARD || req->op == BLOCK_WRITE_ZEROES)) {
		memset(shadow + at, 0, req->len);
	}
}

static void
random_batch(struct kind *kinds, struct script *scripts, uint8_t *shadow, uint32_t *seed)
{
	bool first = true;

	for (unsigned slot = 0; slot < SLOTS; slot++) {
		uint32_t script_seed = random_next(seed, UINT32_MAX);

		for (int i = 0; i < KINDS; i++) {
			if (kinds[i].absent)
				continue;
			script_make(&scripts[i * SLOTS + slot], slot, script_seed);
			io_submit(&kinds[i].disk, &scripts[i * SLOTS + slot].io);
		}
	}
	for (int i = 0; i < KINDS * SLOTS; i++) {
		if (!kinds[i / SLOTS].absent)
			assert_int_equal(io_wait(&scripts[i].io), 0);
	}
	for (int i = 0; i < KINDS; i++) {
		if (kinds[i].absent)
			continue;
		for (unsigned slot = 0; slot < SLOTS; slot++)
			script_check(&scripts[i * SLOTS + slot], kinds[i].name, shadow, first);
		first = false;
	}
}

static void
random_run(struct kind *kinds, const char *vars, uint32_t seed)
{
	struct script *scripts = calloc(KINDS * SLOTS, sizeof(*scripts));
	uint8_t *shadow = calloc(1, DISK_SIZE), *back = malloc(DISK_SIZE);

	for (int i = 0; i < KINDS; i++) {
		if (!kinds[i].absent)
			kind_open(&kinds[i], vars);
	}
	for (int i = 0; i < KINDS * SLOTS; i++) {
		scripts[i].mem = aligned_alloc(4096, SLOT_SIZE + 4096);
		memset(scripts[i].mem, 0, SLOT_SIZE + 4096);
	}
	for (int i = 0; i < BATCHES; i++)
		random_batch(kinds, scripts, shadow, &seed);
	for (int i = 0; i < KINDS; i++) {
		if (kinds[i].absent)
			continue;
		assert_int_equal(disk_do(&kinds[i].disk, BLOCK_READ, 0, 0, back, DISK_SIZE), 0);
		if (memcmp(back, shadow, DISK_SIZE) != 0)
			fail_msg("%s differs", kinds[i].name);
		kind_close(&kinds[i]);
	}
	for (int i = 0; i < KINDS * SLOTS; i++)
		free(scripts[i].mem);
	free(scripts);
	free(shadow);
	free(back);
}

static void
test_random(void **state)
{
	random_run(*state, ",discard=zero", 1);
	random_run(*state, ",discard=zero,detect_zeroes=true", 2);
	random_run(*state, ",discard=zero,sectorsize=512/512", 3);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ops),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_flood),
		cmocka_unit_test(test_drain),
		cmocka_unit_test(test_close_in_flight),
		cmocka_unit_test(test_random),
	};

	return cmocka_run_group_tests(tests, kinds_setup, kinds_teardown);
}
