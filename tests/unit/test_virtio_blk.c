/*
 * virtio-blk: each request and each of its errors, on memory and on files, through both interfaces
 * and both rings; resets with requests in flight.
 */
#include "virtio_rig.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "block/block.h"
#include "capture.h"
#include "virtio/virtio_blk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define V1 BIT64(VIRTIO_F_VERSION_1)
#define PACKED BIT64(VIRTIO_F_RING_PACKED)
#define INDIRECT BIT64(VIRTIO_F_RING_INDIRECT_DESC)
#define EVENT_IDX BIT64(VIRTIO_F_RING_EVENT_IDX)
#define F(name) BIT64(VIRTIO_BLK_F_##name)

#define RAM_SECTORS (MIB(1) / VIRTIO_BLK_SECTOR)

static const char *const lines_ram[] = { "pci.0.3.0.device=virtio-blk", "pci.0.3.0.ram=1",
	"pci.0.3.0.packed=true", "pci.0.3.0.queues=2", NULL };

/* A request in guest memory: header, data, status. */
struct blk_io {
	uint64_t gpa; /* of the header, then status */
	uint64_t data;
};

static struct blk_io
blk_io_alloc(struct rig *rig, uint64_t len)
{
	return (struct blk_io){ rig_alloc(rig, 32, 16), rig_alloc(rig, len, 512) };
}

static uint8_t *
blk_status(struct rig *rig, const struct blk_io *io)
{
	return rig_ptr(rig, io->gpa + 16, 1);
}

static uint16_t
blk_add(struct rig_queue *q, const struct blk_io *io, uint32_t type, uint64_t sector, uint32_t len,
    unsigned flags)
{
	const struct virtio_blk_header h = { .type = type, .sector = sector };
	bool in = type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID;
	struct rig_buf buf[3] = { { io->gpa, 16, false }, { io->data, len, in },
		{ io->gpa + 16, 1, true } };

	memcpy(rig_ptr(q->rig, io->gpa, 16), &h, sizeof(h));
	*blk_status(q->rig, io) = 0xee;
	if (len == 0)
		buf[1] = buf[2];
	return rig_add(q, buf, len == 0 ? 2 : 3, flags);
}

/* Does one and returns its status. */
static int
blk_do(struct rig_queue *q, const struct blk_io *io, uint32_t type, uint64_t sector, uint32_t len)
{
	uint16_t id = blk_add(q, io, type, sector, len, 0);
	uint32_t used;
	int status;

	rig_kick(q);
	assert_int_equal(rig_wait(q, &used), id);
	status = *blk_status(q->rig, io);
	if (status == VIRTIO_BLK_S_OK)
		assert_int_equal(used, 1 + (type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_GET_ID ?
			len : 0));
	return status;
}

static void
fill(uint8_t *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		p[i] = (uint8_t)(seed * 131 + i * 7 + i / 256);
}

/* A temporary file of a size; unlink() it. */
static void
file_make(char path[32], uint64_t size)
{
	int fd;

	strcpy(path, "build/virtio-blk-XXXXXX");
	mkdir("build", 0777);
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
}

static void
rig_create_file(struct rig *rig, const char *path, const char *more)
{
	char line[64];
	const char *const lines[] = { "pci.0.3.0.device=virtio-blk", line,
		more != NULL ? more : "pci.0.3.0.queues=1", NULL };

	snprintf(line, sizeof(line), "pci.0.3.0.path=%s", path);
	rig_create(rig, MIB(32), lines);
}

/* --- Requests --- */

static void
test_read_write(void **state)
{
	static const struct {
		enum rig_kind kind;
		uint64_t features;
		unsigned add;
	} kinds[] = {
		{ RIG_LEGACY, 0, 0 },
		{ RIG_LEGACY, INDIRECT | EVENT_IDX, RIG_INDIRECT },
		{ RIG_MODERN, V1, 0 },
		{ RIG_MODERN, V1 | INDIRECT | EVENT_IDX, RIG_INDIRECT },
		{ RIG_MODERN, V1 | PACKED, 0 },
		{ RIG_MODERN, V1 | PACKED | INDIRECT | EVENT_IDX, RIG_INDIRECT },
	};

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		struct blk_io io[16];
		struct rig rig;
		uint8_t want[4096];
		uint32_t used;

		rig_create(&rig, MIB(32), lines_ram);
		rig_start(&rig, kinds[k].kind, kinds[k].features, 64);
		for (unsigned i = 0; i < 16; i++)
			io[i] = blk_io_alloc(&rig, 4096);
		for (unsigned round = 0; round < 32; round++) {
			struct rig_queue *q = &rig.queue[round % 2];

			/* Sixteen blocks at a time, written, then read to another's place. */
			for (unsigned i = 0; i < 16; i++) {
				fill(rig_ptr(&rig, io[i].data, 4096), 4096, round + i);
				blk_add(q, &io[i], VIRTIO_BLK_T_OUT, i * 8, 4096, kinds[k].add);
			}
			rig_kick(q);
			for (unsigned i = 0; i < 16; i++)
				assert_true(rig_wait(q, &used) >= 0);
			for (unsigned i = 0; i < 16; i++) {
				assert_int_equal(*blk_status(&rig, &io[i]), VIRTIO_BLK_S_OK);
				blk_add(q, &io[i], VIRTIO_BLK_T_IN, (15 - i) * 8, 4096,
				    kinds[k].add);
			}
			rig_kick(q);
			for (unsigned i = 0; i < 16; i++)
				assert_true(rig_wait(q, &used) >= 0);
			for (unsigned i = 0; i < 16; i++) {
				fill(want, 4096, round + 15 - i);
				assert_int_equal(*blk_status(&rig, &io[i]), VIRTIO_BLK_S_OK);
				assert_memory_equal(rig_ptr(&rig, io[i].data, 4096), want, 4096);
			}
			assert_int_equal(blk_do(q, &io[0], VIRTIO_BLK_T_FLUSH, 0, 0), 0);
		}
		rig_destroy(&rig);
	}
}

/* Header, data and status cut in any way (VIRTIO 1.2, 2.7.4). */
static void
test_any_layout(void **state)
{
	const struct virtio_blk_header out = { .type = VIRTIO_BLK_T_OUT, .sector = 4 },
				       in = { .type = VIRTIO_BLK_T_IN, .sector = 4 };
	struct rig rig;
	struct rig_queue *q = &rig.queue[0];
	uint64_t gpa;
	uint8_t *p;
	uint32_t used;

	rig_create(&rig, MIB(32), lines_ram);
	rig_start(&rig, RIG_MODERN, V1, 64);
	gpa = rig_alloc(&rig, 4096, 4096);
	p = rig_ptr(&rig, gpa, 4096);
	for (uint32_t cut = 0; cut < 600; cut += 7) {
		/* One buffer with header and data; and cut in two. */
		struct rig_buf write[3] = { { gpa, cut, false },
			{ gpa + cut, 16 + 1024 - cut, false }, { gpa + 2000, 1, true } };
		/* Data and status in one, and the header in two. */
		struct rig_buf read[4] = { { gpa, cut % 16, false },
			{ gpa + cut % 16, 16 - cut % 16, false }, { gpa + 16, 1 + cut, true },
			{ gpa + 17 + cut, 1024 - cut, true } };

		memcpy(p, &out, 16);
		fill(p + 16, 1024, cut);
		p[2000] = 0xee;
		rig_add(q, write, 3, 0);
		rig_kick(q);
		assert_true(rig_wait(q, &used) >= 0);
		assert_int_equal(p[2000], VIRTIO_BLK_S_OK);
		memset(p, 0xee, 1100);
		memcpy(p, &in, 16);
		rig_add(q, read, 4, 0);
		rig_kick(q);
		assert_true(rig_wait(q, &used) >= 0);
		assert_int_equal(used, 1025);
		assert_int_equal(p[16 + 1024], VIRTIO_BLK_S_OK);
		fill(p + 2048, 1024, cut);
		assert_memory_equal(p + 16, p + 2048, 1024);
	}
	rig_destroy(&rig);
}

static void
test_errors(void **state)
{
	struct rig rig;
	struct rig_queue *q = &rig.queue[0];
	struct blk_io io;

	rig_create(&rig, MIB(32), lines_ram);
	rig_start(&rig, RIG_MODERN, V1, 64);
	io = blk_io_alloc(&rig, 8192);
	/* Beyond the end, and so far beyond that the offset in bytes would wrap. */
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_IN, RAM_SECTORS - 8, 4096), 0);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_IN, RAM_SECTORS - 7, 4096), 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_OUT, RAM_SECTORS, 512), 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_OUT, UINT64_MAX, 512), 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_OUT, BIT64(55), 512), 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_OUT, BIT64(55) + 1, 512), 1);
	/* No whole sectors. */
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_OUT, 0, 511), 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_IN, 0, 513), 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_IN, 0, 0), 0);
	/* Types that are unknown or were not agreed on. */
	assert_int_equal(blk_do(q, &io, 2, 0, 512), 2);
	assert_int_equal(blk_do(q, &io, 0x80000000, 0, 512), 2);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_DISCARD, 0, 16), 2);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), 2);
	rig_destroy(&rig);
}

static void
test_no_status(void **state)
{
	struct rig rig;
	struct rig_queue *q = &rig.queue[0];
	struct rig_buf header = { 0, 16, false }, status = { 0, 1, true };
	struct capture said;
	struct blk_io io;
	uint32_t taken = 0;

	rig_create(&rig, MIB(32), lines_ram);
	capture_begin(&said);
	for (int i = 0; i < 3; i++) {
		struct rig_buf both[2];

		rig_start(&rig, RIG_MODERN, V1, 64);
		io = blk_io_alloc(&rig, 4096);
		header.gpa = io.gpa;
		header.len = i == 2 ? 15 : 16;
		status.gpa = io.gpa + 16;
		both[0] = i == 1 ? status : header;
		both[1] = status;
		rig_add(q, both, i == 2 ? 2 : 1, 0);
		rig_kick(q);
		rig_wait_interrupt(&rig, RIG_CONFIG_VECTOR, &taken);
		assert_true(rig_status(&rig) & 0x40);
	}
	capture_end(&said);
	rig_start(&rig, RIG_MODERN, V1, 64);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_IN, 0, 512), 0);
	rig_destroy(&rig);
}

static void
test_id(void **state)
{
	static const char *const lines[] = { "pci.0.3.0.device=virtio-blk", "pci.0.3.0.ram=1",
		"pci.0.3.0.ser=12345678901234567890", NULL };
	static const char *const lines_short[] = { "pci.0.3.0.device=virtio-blk", "pci.0.3.0.ram=1",
		"pci.0.3.0.ser=abc", NULL };
	struct rig rig;
	struct blk_io io;
	char *p;

	rig_create(&rig, MIB(32), lines);
	rig_start(&rig, RIG_MODERN, V1, 64);
	io = blk_io_alloc(&rig, 64);
	p = rig_ptr(&rig, io.data, 64);
	assert_int_equal(blk_do(&rig.queue[0], &io, VIRTIO_BLK_T_GET_ID, 0, 20), 0);
	assert_memory_equal(p, "12345678901234567890", 21);
	assert_int_equal(blk_do(&rig.queue[0], &io, VIRTIO_BLK_T_GET_ID, 0, 19), 1);
	rig_destroy(&rig);
	rig_create(&rig, MIB(32), lines_short);
	rig_start(&rig, RIG_MODERN, V1, 64);
	io = blk_io_alloc(&rig, 64);
	p = rig_ptr(&rig, io.data, 64);
	memset(p, 0xee, 64);
	assert_int_equal(blk_do(&rig.queue[0], &io, VIRTIO_BLK_T_GET_ID, 0, 20), 0);
	assert_memory_equal(p, "abc\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\xee", 21);
	rig_destroy(&rig);
	rig_create(&rig, MIB(32), lines_ram);
	rig_start(&rig, RIG_MODERN, V1, 64);
	io = blk_io_alloc(&rig, 64);
	assert_int_equal(blk_do(&rig.queue[0], &io, VIRTIO_BLK_T_GET_ID, 0, 20), 0);
	assert_memory_equal(rig_ptr(&rig, io.data, 64), "BHYVE-", 6);
	rig_destroy(&rig);
}

/* --- Discard and write zeroes --- */

static void
range_set(struct rig *rig, const struct blk_io *io, unsigned i, uint64_t sector, uint32_t sectors,
    uint32_t flags)
{
	const struct virtio_blk_range range = { sector, sectors, flags };

	memcpy(rig_ptr(rig, io->data + i * 16, 16), &range, 16);
}

static void
test_discard_and_zeroes(void **state)
{
	struct rig rig;
	struct rig_queue *q = &rig.queue[0];
	struct blk_io io, block;
	struct virtio_blk_config c;
	struct stat st;
	char path[32];
	uint8_t *p;

	file_make(path, MIB(8));
	rig_create_file(&rig, path, NULL);
	rig_start(&rig, RIG_MODERN, V1 | F(DISCARD) | F(WRITE_ZEROES) | F(FLUSH), 64);
	for (unsigned i = 0; i < VIRTIO_BLK_CONFIG_SIZE; i += 4)
		((uint32_t *)&c)[i / 4] = (uint32_t)rig_rd(&rig, rig.device + i, 4);
	assert_int_equal(c.max_discard_seg, 16);
	assert_true(c.max_discard_sectors >= 2048 && c.max_write_zeroes_sectors >= 2048);
	assert_true(c.discard_sector_alignment >= 1);
	assert_int_equal(c.write_zeroes_may_unmap, 1);
	io = blk_io_alloc(&rig, 4096);
	block = blk_io_alloc(&rig, MIB(1));
	p = rig_ptr(&rig, block.data, MIB(1));
	memset(p, 0x5a, MIB(1));
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(blk_do(q, &block, VIRTIO_BLK_T_OUT, i * 2048, MIB(1)), 0);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_FLUSH, 0, 0), 0);

	/* Three ranges in one request, of four mebibytes in all. */
	range_set(&rig, &io, 0, 0, 4096, 0);
	range_set(&rig, &io, 1, 8192, 2048, 0);
	range_set(&rig, &io, 2, 12288, 2048, 0);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_DISCARD, 0, 48), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_true((uint64_t)st.st_blocks <= MIB(4) / 512 + 64);
	assert_int_equal(blk_do(q, &block, VIRTIO_BLK_T_IN, 2048 * 2, MIB(1)), 0);
	assert_true(p[0] == 0x5a && p[MIB(1) - 1] == 0x5a);

	range_set(&rig, &io, 0, 4096 + 1, 100, VIRTIO_BLK_RANGE_UNMAP);
	range_set(&rig, &io, 1, 4096 + 200, 1, 0);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_WRITE_ZEROES, 0, 32), 0);
	assert_int_equal(blk_do(q, &block, VIRTIO_BLK_T_IN, 4096, MIB(1)), 0);
	for (unsigned i = 0; i < 2048; i++)
		assert_int_equal(p[i * 512], (i >= 1 && i < 101) || i == 200 ? 0 : 0x5a);

	/* What cannot be: unknown flags, unmap with discard, too much, beyond the end, no whole
	 * range, none, too many. */
	range_set(&rig, &io, 0, 0, 8, 2);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), 2);
	range_set(&rig, &io, 0, 0, 8, 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_DISCARD, 0, 16), 2);
	range_set(&rig, &io, 0, 0, UINT32_MAX, 0);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_DISCARD, 0, 16), 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), 1);
	range_set(&rig, &io, 0, 16383, 2, 0);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_DISCARD, 0, 16), 1);
	range_set(&rig, &io, 0, UINT64_MAX, 2, 0);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_WRITE_ZEROES, 0, 16), 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_DISCARD, 0, 17), 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_DISCARD, 0, 0), 1);
	assert_int_equal(blk_do(q, &io, VIRTIO_BLK_T_DISCARD, 0, 17 * 16), 1);
	rig_destroy(&rig);

	rig_create_file(&rig, path, "pci.0.3.0.nodelete=true");
	rig.kind = RIG_MODERN;
	assert_false(rig_offered(&rig) & F(DISCARD));
	assert_true(rig_offered(&rig) & F(WRITE_ZEROES));
	rig_destroy(&rig);
	unlink(path);
}

/* --- What the disk is --- */

static void
test_config(void **state)
{
	static const char *const lines[] = { "pci.0.3.0.device=virtio-blk", "pci.0.3.0.ram=1",
		"pci.0.3.0.sectorsize=512/4096", "pci.0.3.0.queues=3", NULL };
	struct rig rig;

	rig_create(&rig, MIB(16), lines);
	rig.kind = RIG_MODERN;
	assert_int_equal(rig_rd(&rig, rig.device, 8), RAM_SECTORS);
	assert_int_equal(rig_rd(&rig, rig.device + 12, 4), 254);
	assert_int_equal(rig_rd(&rig, rig.device + 20, 4), 512);
	assert_int_equal(rig_rd(&rig, rig.device + 24, 1), 3);
	assert_int_equal(rig_rd(&rig, rig.device + 26, 2), 8);
	assert_int_equal(rig_rd(&rig, rig.device + 34, 2), 3);
	assert_int_equal(rig_common(&rig, 18, 2), 3);
	assert_true(rig_offered(&rig) & F(MQ));
	assert_int_equal(rig_cfg(&rig, 0, 4), 0x10011af4);
	assert_int_equal(rig_io(&rig, 24, 4), RAM_SECTORS);
	rig_destroy(&rig);
}

static void
test_read_only(void **state)
{
	struct rig rig;
	struct blk_io io;
	char path[32];

	file_make(path, MIB(1));
	rig_create_file(&rig, path, "pci.0.3.0.ro=true");
	rig.kind = RIG_MODERN;
	assert_int_equal(rig_offered(&rig) & (F(RO) | F(WRITE_ZEROES) | F(DISCARD) | F(FLUSH)), F(RO));
	rig_start(&rig, RIG_MODERN, V1 | F(RO), 64);
	io = blk_io_alloc(&rig, 4096);
	assert_int_equal(blk_do(&rig.queue[0], &io, VIRTIO_BLK_T_IN, 0, 4096), 0);
	assert_int_equal(blk_do(&rig.queue[0], &io, VIRTIO_BLK_T_OUT, 0, 4096), 1);
	assert_int_equal(blk_do(&rig.queue[0], &io, VIRTIO_BLK_T_FLUSH, 0, 0), 0);
	rig_destroy(&rig);
	unlink(path);
}

static void
test_write_cache(void **state)
{
	struct rig rig;
	char path[32];

	file_make(path, MIB(1));
	rig_create_file(&rig, path, NULL);
	rig_start(&rig, RIG_MODERN, V1 | F(FLUSH) | F(CONFIG_WCE), 64);
	assert_int_equal(rig_rd(&rig, rig.device + 32, 1), 1);
	rig_wr(&rig, rig.device + 32, 1, 0);
	assert_int_equal(rig_rd(&rig, rig.device + 32, 1), 0);
	rig_wr(&rig, rig.device + 32, 1, 0xff);
	assert_int_equal(rig_rd(&rig, rig.device + 32, 1), 1);
	rig_wr(&rig, rig.device + 32, 1, 0);
	rig_start(&rig, RIG_MODERN, V1 | F(FLUSH), 64);
	assert_int_equal(rig_rd(&rig, rig.device + 32, 1), 1);
	/* Not the driver's without the feature, and the rest never is. */
	rig_wr(&rig, rig.device + 32, 1, 0);
	rig_wr(&rig, rig.device, 8, 0);
	assert_int_equal(rig_rd(&rig, rig.device + 32, 1), 1);
	assert_int_equal(rig_rd(&rig, rig.device, 8), 2048);
	rig_destroy(&rig);
	rig_create_file(&rig, path, "pci.0.3.0.sync=true");
	rig.kind = RIG_MODERN;
	assert_false(rig_offered(&rig) & (F(FLUSH) | F(CONFIG_WCE)));
	rig_destroy(&rig);
	unlink(path);
}

static void
test_resize(void **state)
{
	struct rig rig;
	struct blk_io io;
	uint32_t taken = 0;
	char path[32];

	file_make(path, MIB(1));
	rig_create_file(&rig, path, NULL);
	rig_start(&rig, RIG_MODERN, V1, 64);
	io = blk_io_alloc(&rig, 4096);
	assert_int_equal(blk_do(&rig.queue[0], &io, VIRTIO_BLK_T_IN, 2048, 4096), 1);
	assert_int_equal(truncate(path, MIB(3)), 0);
	/* The size is looked at each second of the machine's clock. */
	vm_clock_step(vm_loop(rig.vm), 1000000000);
	rig_wait_interrupt(&rig, RIG_CONFIG_VECTOR, &taken);
	assert_int_equal(rig_rd(&rig, rig.device, 8), 3 * 2048);
	assert_int_equal(blk_do(&rig.queue[0], &io, VIRTIO_BLK_T_IN, 2048, 4096), 0);
	assert_int_equal(truncate(path, MIB(1)), 0);
	vm_clock_step(vm_loop(rig.vm), 1000000000);
	rig_wait_interrupt(&rig, RIG_CONFIG_VECTOR, &taken);
	assert_int_equal(rig_rd(&rig, rig.device, 8), 2048);
	assert_int_equal(blk_do(&rig.queue[0], &io, VIRTIO_BLK_T_IN, 2048, 4096), 1);
	rig_destroy(&rig);
	unlink(path);
}

static void
test_bad_options(void **state)
{
	static const struct {
		const char *line, *said;
	} bad[] = {
		{ "pci.0.3.0.queues=0", "bhyve: pci.0.3.0: queues '0': expected 1 to 16\n" },
		{ "pci.0.3.0.queues=x", "bhyve: pci.0.3.0: queues 'x': expected 1 to 16\n" },
		{ "pci.0.3.0.ser=123456789012345678901",
		    "bhyve: pci.0.3.0: ser '123456789012345678901': expected at most 20 "
		    "characters\n" },
		{ "pci.0.3.0.modern=2", "bhyve: pci.0.3.0: modern '2': expected true or false\n" },
		{ "pci.0.3.0.path=/x",
		    "bhyve: pci.0.3.0: path and ram: a disk is one or the other\n" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		const char *const lines[] = { "pci.0.3.0.device=virtio-blk", "pci.0.3.0.ram=1",
			bad[i].line, NULL };
		struct capture said;
		struct rig rig;

		capture_begin(&said);
		assert_int_equal(rig_create_opt(&rig, MIB(16), lines, true), -EINVAL);
		capture_end(&said);
		assert_string_equal(said.text, bad[i].said);
		rig_destroy(&rig);
	}
}

/* --- Reset with requests in flight --- */

static void
test_reset_in_flight(void **state)
{
	struct blk_io io[32];
	struct rig rig;
	char path[32];
	uint8_t *want = malloc(65536);

	assert_non_null(want);
	file_make(path, MIB(8));
	rig_create_file(&rig, path, "pci.0.3.0.packed=true");
	for (int round = 0; round < 60; round++) {
		bool legacy = round % 3 == 0;
		struct rig_queue *q = &rig.queue[0];

		rig.memory_next = MIB(1);
		rig_start(&rig, legacy ? RIG_LEGACY : RIG_MODERN,
		    legacy ? 0 : V1 | BIT64(VIRTIO_F_RING_RESET) | (round % 3 == 1 ? PACKED : 0), 128);
		for (unsigned i = 0; i < 32; i++) {
			io[i] = blk_io_alloc(&rig, 65536);
			blk_add(q, &io[i], i % 2 ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT,
			    i * 128, 65536, 0);
		}
		rig_kick_always(q);
		if (legacy) {
			rig_io_wr(&rig, 18, 1, 0);
		} else if (round % 2) {
			rig_reset(&rig);
		} else {
			rig_common_wr(&rig, 22, 2, 0);
			rig_common_wr(&rig, 58, 2, 1);
			while (rig_common(&rig, 58, 2) != 0)
				sched_yield();
		}
		/* From here on the memory is the driver's: nothing may write to it. */
		fill(want, 65536, (unsigned)round);
		for (unsigned i = 0; i < 32; i++)
			memcpy(rig_ptr(&rig, io[i].data, 65536), want, 65536);
		memset(q->desc, 0x77, 64);
		rig_start(&rig, RIG_MODERN, V1, 128);
		rig.memory_next += MIB(3);
		io[31].data = rig_alloc(&rig, 4096, 4096);
		assert_int_equal(blk_do(q, &io[31], VIRTIO_BLK_T_IN, 0, 4096), 0);
		for (unsigned i = 0; i < 31; i++)
			assert_memory_equal(rig_ptr(&rig, io[i].data, 65536), want, 65536);
		if (round % 10 == 9) {
			/* Or the machine ends with requests in flight. */
			for (unsigned i = 0; i < 31; i++)
				blk_add(q, &io[i], VIRTIO_BLK_T_OUT, i * 128, 65536, 0);
			rig_kick_always(q);
			rig_destroy(&rig);
			rig_create_file(&rig, path, "pci.0.3.0.packed=true");
		}
	}
	rig_destroy(&rig);
	unlink(path);
	free(want);
}

/* What was in flight at a save is done before, and not again after a load. */
static void
test_state(void **state)
{
	struct rig a, b;
	struct vm_state *s;
	struct blk_io io[16];
	char path[32];
	uint32_t used;

	file_make(path, MIB(1));
	rig_create_file(&a, path, NULL);
	rig_start(&a, RIG_MODERN, V1 | F(FLUSH) | F(CONFIG_WCE), 64);
	rig_wr(&a, a.device + 32, 1, 0);
	for (unsigned i = 0; i < 16; i++) {
		io[i] = blk_io_alloc(&a, 4096);
		fill(rig_ptr(&a, io[i].data, 4096), 4096, i);
		blk_add(&a.queue[0], &io[i], VIRTIO_BLK_T_OUT, i * 8, 4096, 0);
	}
	rig_kick_always(&a.queue[0]);
	s = rig_save(&a);
	for (unsigned i = 0; i < 16; i++) {
		assert_true(rig_get(&a.queue[0], &used) >= 0);
		assert_int_equal(*blk_status(&a, &io[i]), 0);
	}
	{
		uint8_t *memory = malloc(MIB(32));
		struct rig_queue q = a.queue[0];
		uint64_t next = a.memory_next;

		assert_non_null(memory);
		memcpy(memory, rig_ptr(&a, 0, MIB(32)), MIB(32));
		rig_destroy(&a);
		rig_create_file(&b, path, NULL);
		memcpy(rig_ptr(&b, 0, MIB(32)), memory, MIB(32));
		free(memory);
		assert_int_equal(rig_load(&b, s), 0);
		b.queue[0] = q;
		b.memory_next = next;
		b.queue[0].rig = &b;
		b.queue[0].taken = 0;
		b.queue[0].desc = rig_ptr(&b, q.desc_gpa, 1);
		b.queue[0].driver = rig_ptr(&b, q.driver_gpa, 1);
		b.queue[0].device = rig_ptr(&b, q.device_gpa, 1);
	}
	assert_int_equal(rig_rd(&b, b.device + 32, 1), 0);
	for (unsigned i = 0; i < 16; i++) {
		uint8_t want[4096];

		assert_int_equal(blk_do(&b.queue[0], &io[0], VIRTIO_BLK_T_IN, i * 8, 4096), 0);
		fill(want, 4096, i);
		assert_memory_equal(rig_ptr(&b, io[0].data, 4096), want, 4096);
	}
	vm_state_destroy(s);
	rig_destroy(&b);
	unlink(path);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_read_write),
		cmocka_unit_test(test_any_layout),
		cmocka_unit_test(test_errors),
		cmocka_unit_test(test_no_status),
		cmocka_unit_test(test_id),
		cmocka_unit_test(test_discard_and_zeroes),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_write_cache),
		cmocka_unit_test(test_resize),
		cmocka_unit_test(test_bad_options),
		cmocka_unit_test(test_reset_in_flight),
		cmocka_unit_test(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
