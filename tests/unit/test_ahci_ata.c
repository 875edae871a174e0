/*
 * The ATA disk behind an AHCI port: each command, its errors, and what IDENTIFY, SMART and the logs
 * say.
 */
#include "ahci_rig.h"

#include <fcntl.h>
#include <unistd.h>

#define HD(...) "pci.0.3.0.device=ahci-hd", __VA_ARGS__, NULL
#define HD_16M  HD("pci.0.3.0.port.0.ram=16")
#define SECTORS (MIB(16) / 512)

#define SMART_KEY 0xc24f00u

static const uint16_t *
identify(struct ahci_rig *r)
{
	uint8_t sum = 0;

	assert_int_equal(rig_do(r, 0xec, 0, 0, 0, RIG_DATA, 512), RIG_DONE);
	assert_int_equal(r->seen, AHCI_IS_PSS);
	assert_int_equal(rig_prdbc(r, 0), 512);
	for (int i = 0; i < 512; i++)
		sum = (uint8_t)(sum + rig_data(r, RIG_DATA)[i]);
	assert_int_equal(sum, 0);
	return (const uint16_t *)rig_data(r, RIG_DATA);
}

/* Characters come two to a word, the first one on top. */
static void
check_text(const uint16_t *words, const char *text)
{
	for (size_t i = 0; text[i] != '\0'; i++)
		assert_int_equal((uint8_t)(words[i / 2] >> (i % 2 == 0 ? 8 : 0)), text[i]);
}

static void
test_identify(void **state)
{
	struct ahci_rig r;
	const uint16_t *w;

	rig_init(
	    &r, HD("pci.0.3.0.port.0.ram=16", "pci.0.3.0.port.0.ser=S1", "pci.0.3.0.port.0.rev=R2",
		    "pci.0.3.0.port.0.model=M%%3", "pci.0.3.0.port.0.nmrr=7200"));
	rig_start(&r);
	w = identify(&r);
	assert_int_equal(w[0], 0x0040);
	check_text(w + 10, "S1                  ");
	check_text(w + 23, "R2      ");
	check_text(w + 27, "M%3                                     ");
	assert_int_equal(w[60] | w[61] << 16, SECTORS);
	assert_int_equal(w[100] | w[101] << 16, SECTORS);
	assert_int_equal(w[75], 31);
	assert_true(w[76] & BIT(8));
	assert_true(w[83] & BIT(10));
	assert_int_equal(w[106], 0x6003); /* physical sectors are a page of memory */
	assert_int_equal(w[69], BIT(14) | BIT(5));
	assert_int_equal(w[169], 1);
	assert_int_equal(w[217], 7200);
	assert_int_equal(w[82] & BIT(5), 0); /* memory has no cache to lose */
	rig_done(&r);
}

static void
test_identify_4k(void **state)
{
	struct ahci_rig r;
	const uint16_t *w;

	rig_init(&r, HD("pci.0.3.0.port.0.ram=16", "pci.0.3.0.port.0.sectorsize=4096",
			 "pci.0.3.0.port.0.nodelete=true"));
	rig_start(&r);
	w = identify(&r);
	assert_int_equal(w[106], 0x5000);
	assert_int_equal(w[117] | w[118] << 16, 2048);
	assert_int_equal(w[60] | w[61] << 16, SECTORS / 8);
	assert_int_equal(w[169], 0);
	assert_int_equal(w[217], 1);
	rig_data(&r, RIG_DATA)[4095] = 77;
	assert_int_equal(rig_do(&r, 0x35, 0, SECTORS / 8 - 1, 1, RIG_DATA, 4096), RIG_DONE);
	assert_int_equal(rig_do(&r, 0x25, 0, SECTORS / 8 - 1, 1, RIG_DATA + 8192, 4096), RIG_DONE);
	assert_int_equal(rig_data(&r, RIG_DATA)[8192 + 4095], 77);
	rig_aborts(&r, 0x06, 1, 0, 1);
	rig_done(&r);
}

/* Every command that reads after every one that writes. */
static void
test_transfers(void **state)
{
	static const uint8_t writes[] = { 0x30, 0x34, 0x35, 0x39, 0x3d, 0xc5, 0xca, 0xce };
	static const uint8_t reads[] = { 0x20, 0x24, 0x25, 0x29, 0xc4, 0xc8 };
	struct ahci_rig r;

	rig_init(&r, HD_16M);
	rig_start(&r);
	rig_aborts(&r, 0xc4, 0, 0, 1); /* SET MULTIPLE MODE has to be first */
	rig_aborts(&r, 0xc6, 0, 0, 3);
	rig_aborts(&r, 0xc6, 0, 0, 32);
	assert_int_equal(rig_do(&r, 0xc6, 0, 0, 16, 0, 0), RIG_DONE);
	assert_int_equal(identify(&r)[59], 0x110);
	for (size_t i = 0; i < ARRAY_SIZE(writes); i++) {
		memset(rig_data(&r, RIG_DATA), (int)i + 1, 16384);
		assert_int_equal(rig_do(&r, writes[i], 0, i * 32, 32, RIG_DATA, 16384), RIG_DONE);
		assert_true(r.seen & AHCI_IS_DHRS);
		assert_int_equal(rig_prdbc(&r, 0), 16384);
		for (size_t j = 0; j < ARRAY_SIZE(reads); j++) {
			memset(rig_data(&r, RIG_DATA + 16384), 0, 16384);
			assert_int_equal(
			    rig_do(&r, reads[j], 0, i * 32, 32, RIG_DATA + 16384, 16384), RIG_DONE);
			assert_memory_equal(
			    rig_data(&r, RIG_DATA), rig_data(&r, RIG_DATA + 16384), 16384);
		}
	}
	/* Count 0: 256 and 65536 sectors, the latter more than there are. */
	assert_int_equal(rig_do(&r, 0xc8, 0, 0, 0, RIG_DATA, 131072), RIG_DONE);
	assert_int_equal(rig_prdbc(&r, 0), 131072);
	assert_int_equal(rig_do(&r, 0x25, 0, 0, 0, RIG_DATA, 131072), AHCI_IS_TFES);
	assert_int_equal(px_read(&r, AHCI_PX_TFD), ATA_ERROR_IDNF << 8 | 0x51);
	rig_done(&r);
}

static void
test_limits(void **state)
{
	struct fis_h2d fis = rig_fis(0x25, 0, 0, 1);
	struct ahci_rig r;

	rig_init(&r, HD_16M);
	rig_start(&r);
	assert_int_equal(rig_do(&r, 0x25, 0, SECTORS - 1, 1, RIG_DATA, 512), RIG_DONE);
	assert_int_equal(rig_do(&r, 0x25, 0, SECTORS - 1, 2, RIG_DATA, 1024), AHCI_IS_TFES);
	assert_int_equal(px_read(&r, AHCI_PX_TFD), ATA_ERROR_IDNF << 8 | 0x51);
	assert_int_equal(rig_d2h(&r).lba1, (uint8_t)((SECTORS - 1) >> 8));
	rig_restart(&r);
	assert_int_equal(rig_do(&r, 0x25, 0, 0xffffffffffff, 1, RIG_DATA, 512), AHCI_IS_TFES);
	rig_restart(&r);
	/* Cylinders and heads are no addresses any more. */
	fis.device = 0;
	assert_int_equal(rig_do_fis(&r, &fis, NULL, RIG_DATA, 512), AHCI_IS_TFES);
	rig_restart(&r);
	/* READ VERIFY, over more than one request takes. */
	assert_int_equal(rig_do(&r, 0x42, 0, 0, 0x8000, 0, 0), RIG_DONE);
	assert_int_equal(rig_do(&r, 0x40, 0, 0, 0, 0, 0), RIG_DONE);
	assert_int_equal(rig_do(&r, 0x42, 0, SECTORS, 1, 0, 0), AHCI_IS_TFES);
	rig_done(&r);
}

static void
test_unknown(void **state)
{
	static const uint8_t codes[] = { 0x00, 0x08, 0x45, 0x63, 0x92, 0xa0, 0xa1, 0xf8, 0xff };
	struct ahci_rig r;

	rig_init(&r, HD_16M);
	rig_start(&r);
	for (size_t i = 0; i < ARRAY_SIZE(codes); i++) {
		rig_aborts(&r, codes[i], 0, 0, 0);
		/* NCQ NON-DATA is queued: its error is. */
		if (codes[i] == 0x63)
			assert_int_equal(rig_do(&r, 0x2f, 0, 0x10, 1, RIG_DATA, 512), RIG_DONE);
	}
	rig_done(&r);
}

static void
test_settings(void **state)
{
	struct ahci_rig r;
	char *path = strdup("/tmp/ahci-test-XXXXXX"), line[64];
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, MIB(1)), 0);
	snprintf(line, sizeof(line), "pci.0.3.0.port.0.path=%s", path);
	assert_int_equal(
	    rig_create(&r, (const char *const[]){ "pci.0.3.0.device=ahci-hd", line, NULL }), 0);
	rig_start(&r);
	assert_true(identify(&r)[85] & BIT(5));
	assert_int_equal(rig_do(&r, 0xef, 0x82, 0, 0, 0, 0), RIG_DONE);
	assert_false(identify(&r)[85] & BIT(5));
	assert_int_equal(rig_do(&r, 0x35, 0, 0, 8, RIG_DATA, 4096), RIG_DONE);
	assert_int_equal(rig_do(&r, 0xef, 0x02, 0, 0, 0, 0), RIG_DONE);
	assert_true(identify(&r)[85] & BIT(5));
	assert_int_equal(rig_do(&r, 0xef, 0x55, 0, 0, 0, 0), RIG_DONE);
	assert_false(identify(&r)[85] & BIT(6));
	assert_int_equal(rig_do(&r, 0xef, 0xaa, 0, 0, 0, 0), RIG_DONE);
	assert_int_equal(rig_do(&r, 0xef, 0x03, 0, 0x42, 0, 0), RIG_DONE);
	assert_int_equal(identify(&r)[88], 0x047f);
	assert_int_equal(rig_do(&r, 0xef, 0x03, 0, 0x22, 0, 0), RIG_DONE);
	assert_int_equal(identify(&r)[63], 0x0407);
	rig_aborts(&r, 0xef, 0x03, 0, 0x47);
	assert_int_equal(rig_do(&r, 0xef, 0x10, 0, 3, 0, 0), RIG_DONE);
	assert_true(identify(&r)[79] & BIT(3));
	rig_aborts(&r, 0xef, 0x90, 0, 6);
	rig_aborts(&r, 0xef, 0x05, 0, 1); /* no advanced power management */
	/* Power. */
	assert_int_equal(rig_do(&r, 0xe5, 0, 0, 0, 0, 0), RIG_DONE);
	assert_int_equal(rig_d2h(&r).count, 0xff);
	assert_int_equal(rig_do(&r, 0xe0, 0, 0, 0, 0, 0), RIG_DONE);
	assert_int_equal(rig_do(&r, 0xe5, 0, 0, 0, 0, 0), RIG_DONE);
	assert_int_equal(rig_d2h(&r).count, 0);
	assert_int_equal(rig_do(&r, 0xe1, 0, 0, 0, 0, 0), RIG_DONE);
	assert_int_equal(rig_do(&r, 0xe5, 0, 0, 0, 0, 0), RIG_DONE);
	assert_int_equal(rig_d2h(&r).count, 0xff);
	assert_int_equal(rig_do(&r, 0xea, 0, 0, 0, 0, 0), RIG_DONE);
	/* EXECUTE DEVICE DIAGNOSTIC has its result where errors are. */
	assert_int_equal(rig_do(&r, 0x90, 0, 0, 0, 0, 0), RIG_DONE);
	assert_int_equal(px_read(&r, AHCI_PX_TFD), 0x150);
	rig_done(&r);
	/* The host's file is shorter than it was: an error of the medium, and no end of us. */
	assert_int_equal(
	    rig_create(&r, (const char *const[]){ "pci.0.3.0.device=ahci-hd", line, NULL }), 0);
	rig_start(&r);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(rig_do(&r, 0x25, 0, 64, 8, RIG_DATA, 4096), AHCI_IS_TFES);
	assert_int_equal(px_read(&r, AHCI_PX_TFD), ATA_ERROR_UNC << 8 | 0x51);
	assert_int_equal(rig_d2h(&r).lba0, 64);
	rig_done(&r);
	close(fd);
	unlink(path);
	free(path);
}

static void
test_read_only(void **state)
{
	struct ahci_rig r;

	rig_init(&r, HD("pci.0.3.0.port.0.ram=1", "pci.0.3.0.port.0.ro=true"));
	rig_start(&r);
	rig_aborts(&r, 0x35, 0, 0, 8);
	rig_aborts(&r, 0x06, 1, 0, 1);
	assert_int_equal(rig_do(&r, 0x25, 0, 0, 8, RIG_DATA, 4096), RIG_DONE);
	assert_int_equal(rig_do(&r, 0xe7, 0, 0, 0, 0, 0), RIG_DONE);
	rig_done(&r);
}

/* --- TRIM --- */

static void
put_range(struct ahci_rig *r, unsigned i, uint64_t lba, uint16_t count)
{
	uint64_t range = lba | (uint64_t)count << 48;

	memcpy(rig_data(r, RIG_DATA) + i * 8, &range, 8);
}

static bool
is_zero(struct ahci_rig *r, uint64_t lba)
{
	assert_int_equal(rig_do(r, 0x25, 0, lba, 1, RIG_DATA + 65536, 512), RIG_DONE);
	return rig_data(r, RIG_DATA + 65536)[100] == 0;
}

static void
test_trim(void **state)
{
	struct block_stats stats;
	struct fis_h2d fis;
	struct ahci_rig r;

	rig_init(&r, HD_16M);
	rig_start(&r);
	memset(rig_data(&r, RIG_DATA), 0x5a, MIB(1));
	assert_int_equal(rig_do(&r, 0x35, 0, 0, 2048, RIG_DATA, MIB(1)), RIG_DONE);
	memset(rig_data(&r, RIG_DATA), 0, 1024);
	put_range(&r, 0, 8, 8);
	put_range(&r, 1, 16, 8); /* continues it: one request */
	put_range(&r, 5, 1024, 8);
	put_range(&r, 70, 512, 16); /* in the second block */
	assert_int_equal(rig_do(&r, 0x06, 1, 0, 2, RIG_DATA, 1024), RIG_DONE);
	assert_false(is_zero(&r, 7));
	assert_true(is_zero(&r, 8) && is_zero(&r, 23));
	assert_false(is_zero(&r, 24));
	assert_true(is_zero(&r, 1024) && is_zero(&r, 512));
	block_stats(r.hba->port[0].dev.disk, &stats);
	assert_int_equal(stats.op[BLOCK_DISCARD].ops, 3);
	/* The same, queued. */
	memset(rig_data(&r, RIG_DATA), 0, 512);
	put_range(&r, 0, 1200, 8);
	fis = rig_fis(0x64, 1, 0, 4 << 3);
	fis.aux = 1;
	rig_prd(&r, 4, 0, RIG_DATA, 512);
	rig_slot(&r, 4, &fis, NULL, 1);
	rig_issue_queued(&r, BIT(4));
	assert_int_equal(rig_await(&r, BIT(4)), RIG_DONE);
	assert_true(is_zero(&r, 1200));
	/* Beyond the end; no TRIM asked for; none or too many blocks. */
	put_range(&r, 0, SECTORS - 4, 8);
	assert_int_equal(rig_do(&r, 0x06, 1, 0, 1, RIG_DATA, 512), AHCI_IS_TFES);
	assert_int_equal(px_read(&r, AHCI_PX_TFD) >> 8, ATA_ERROR_IDNF);
	rig_restart(&r);
	rig_aborts(&r, 0x06, 0, 0, 1);
	rig_aborts(&r, 0x06, 1, 0, 0);
	rig_aborts(&r, 0x06, 1, 0, 9);
	assert_int_equal(rig_do(&r, 0x06, 1, 0, 2, RIG_DATA + MIB(2), 512), AHCI_IS_OFS);
	rig_done(&r);
}

/* --- SMART and logs --- */

static uint32_t
smart(struct ahci_rig *r, uint8_t what, uint8_t low, uint16_t count, uint32_t len)
{
	return rig_do(r, 0xb0, what, SMART_KEY | low, count, RIG_DATA, len);
}

static void
test_smart(void **state)
{
	struct ahci_rig r;
	const uint8_t *p;

	rig_init(&r, HD_16M);
	rig_start(&r);
	p = rig_data(&r, RIG_DATA);
	assert_int_equal(smart(&r, 0xd0, 0, 0, 512), RIG_DONE);
	assert_int_equal(r.seen, AHCI_IS_PSS);
	assert_int_equal(p[0], 0x10);
	assert_int_equal(p[2], 5);
	assert_int_equal(p[14], 9);
	assert_int_equal(smart(&r, 0xd1, 0, 0, 512), RIG_DONE);
	assert_int_equal(p[3], 10);
	assert_int_equal(smart(&r, 0xda, 0, 0, 0), RIG_DONE);
	assert_int_equal(rig_d2h(&r).lba1, 0x4f);
	assert_int_equal(rig_d2h(&r).lba2, 0xc2);
	/* Self-tests, and their logs. */
	assert_int_equal(smart(&r, 0xd4, 1, 0, 0), RIG_DONE);
	assert_int_equal(smart(&r, 0xd4, 0x82, 0, 0), RIG_DONE);
	assert_int_equal(smart(&r, 0xd5, 6, 1, 512), RIG_DONE);
	assert_int_equal(p[508], 2);
	assert_int_equal(p[2], 1);
	assert_int_equal(p[26], 0x82);
	assert_int_equal(p[27], 0);
	assert_int_equal(rig_do(&r, 0x2f, 0, 0x07, 1, RIG_DATA, 512), RIG_DONE);
	assert_int_equal(p[2], 2);
	assert_int_equal(p[4 + 26], 0x82);
	assert_int_equal(smart(&r, 0xd5, 0, 1, 512), RIG_DONE);
	assert_int_equal(p[12], 1);
	for (int i = 0; i < 30; i++)
		assert_int_equal(smart(&r, 0xd4, 1, 0, 0), RIG_DONE);
	assert_int_equal(smart(&r, 0xd5, 6, 1, 512), RIG_DONE);
	assert_int_equal(p[508], 21);
	assert_int_equal(smart(&r, 0xd4, 0, 0, 0), RIG_DONE);
	assert_int_equal(smart(&r, 0xd4, 0x7f, 0, 0), RIG_DONE);
	/* What does not exist, and no key. */
	rig_aborts(&r, 0xb0, 0xd0, 0, 0);
	rig_aborts(&r, 0xb0, 0xd4, SMART_KEY | 9, 0);
	rig_aborts(&r, 0xb0, 0xd5, SMART_KEY | 1, 1);
	rig_aborts(&r, 0xb0, 0xd6, SMART_KEY | 6, 1);
	assert_int_equal(smart(&r, 0xd9, 0, 0, 0), RIG_DONE);
	assert_false(identify(&r)[85] & 1);
	rig_aborts(&r, 0xb0, 0xda, SMART_KEY, 0);
	assert_int_equal(smart(&r, 0xd8, 0, 0, 0), RIG_DONE);
	assert_int_equal(smart(&r, 0xd2, 0, 0xf1, 0), RIG_DONE);
	rig_done(&r);
}

static void
test_logs(void **state)
{
	struct fis_h2d fis;
	struct ahci_rig r;
	uint8_t id[512];
	const uint8_t *p;

	rig_init(&r, HD_16M);
	rig_start(&r);
	p = rig_data(&r, RIG_DATA);
	memcpy(id, identify(&r), 512);
	assert_int_equal(rig_do(&r, 0x2f, 0, 0, 1, RIG_DATA, 512), RIG_DONE);
	assert_int_equal(r.seen, AHCI_IS_PSS);
	assert_int_equal(p[0], 1);
	assert_int_equal(p[2 * 0x10], 1);
	assert_int_equal(p[2 * 0x30], 3);
	/* By DMA, two pages of it. */
	assert_int_equal(rig_do(&r, 0x47, 0, 0x30, 2, RIG_DATA, 1024), RIG_DONE);
	assert_int_equal(r.seen, AHCI_IS_DHRS);
	assert_int_equal(p[8], 3);
	assert_memory_equal(p + 512, id, 512);
	assert_int_equal(rig_do(&r, 0x47, 0, 0x230, 1, RIG_DATA, 512), RIG_DONE);
	assert_int_equal(*(const uint64_t *)(p + 8), BIT64(63) | SECTORS);
	/* Queued. */
	fis = rig_fis(0x65, 1, 0x13, 1 << 8 | 2 << 3);
	rig_prd(&r, 2, 0, RIG_DATA, 512);
	rig_slot(&r, 2, &fis, NULL, 1);
	rig_issue_queued(&r, 4);
	assert_int_equal(rig_await(&r, 4), RIG_DONE);
	assert_int_equal(p[0], 3);
	assert_int_equal(p[4], 1);
	/* Statistics count. */
	assert_int_equal(rig_do(&r, 0x25, 0, 0, 8, RIG_DATA, 4096), RIG_DONE);
	assert_int_equal(rig_do(&r, 0x2f, 0, 0x104, 1, RIG_DATA, 512), RIG_DONE);
	assert_int_equal(*(const uint64_t *)(p + 40), 3ull << 62 | 8);
	/* No such log, no such page, too many of them, none. */
	rig_aborts(&r, 0x2f, 0, 0x11, 1);
	rig_aborts(&r, 0x2f, 0, 0x330, 1);
	rig_aborts(&r, 0x2f, 0, 0x30, 4);
	rig_aborts(&r, 0x2f, 0, 0x100000030, 1);
	rig_aborts(&r, 0x2f, 0, 0x30, 0);
	rig_done(&r);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identify),
		cmocka_unit_test(test_identify_4k),
		cmocka_unit_test(test_transfers),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_unknown),
		cmocka_unit_test(test_settings),
		cmocka_unit_test(test_read_only),
		cmocka_unit_test(test_trim),
		cmocka_unit_test(test_smart),
		cmocka_unit_test(test_logs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
