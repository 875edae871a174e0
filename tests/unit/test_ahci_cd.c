/*
 * The CD-ROM drive behind an AHCI port: packet commands, sense data, the tray, and media that are
 * put in and taken out by the guest and the host.
 */
#include "ahci_rig.h"

#include <unistd.h>

#define BLOCKS 1000u
#define CD_2M  "pci.0.3.0.device=ahci-cd", "pci.0.3.0.port.0.ram=2"

#define CDB(...) ((const uint8_t[16]){ __VA_ARGS__ })

static uint32_t
packet(struct ahci_rig *r, const uint8_t *cdb, uint32_t len)
{
	struct fis_h2d fis = rig_fis(0xa0, 1, 0, 0);

	return rig_do_fis(r, &fis, cdb, RIG_DATA, len);
}

static void
good(struct ahci_rig *r, const uint8_t *cdb, uint32_t len)
{
	assert_int_equal(packet(r, cdb, len), RIG_DONE);
	assert_int_equal(rig_d2h(r).count, 3);
}

/* Ends with CHECK CONDITION, and this is what REQUEST SENSE tells: key, ASC, ASCQ. */
static void
bad(struct ahci_rig *r, const uint8_t *cdb, uint32_t sense)
{
	const uint8_t *p = rig_data(r, RIG_DATA);

	assert_int_equal(packet(r, cdb, 65536), AHCI_IS_TFES);
	assert_int_equal(px_read(r, AHCI_PX_TFD), sense >> 16 << 12 | 0x41);
	rig_restart(r);
	good(r, CDB(0x03, 0, 0, 0, 18), 18);
	assert_int_equal(p[0], 0x70);
	assert_int_equal((uint32_t)p[2] << 16 | (uint32_t)p[12] << 8 | p[13], sense);
	good(r, CDB(0x03, 0, 0, 0, 18), 18);
	assert_int_equal(p[2], 0);
}

static const uint8_t test_unit_ready[16];

/* With the unit attention of the reset behind it. */
static void
cd_start(struct ahci_rig *r)
{
	rig_start(r);
	bad(r, test_unit_ready, 0x062900);
}

static void
test_identify(void **state)
{
	struct ahci_rig r;
	const uint16_t *w;

	rig_init(&r, CD_2M, NULL);
	rig_start(&r);
	assert_int_equal(px_read(&r, AHCI_PX_SIG), ATA_SIGNATURE_PACKET);
	w = (const uint16_t *)rig_data(&r, RIG_DATA);
	assert_int_equal(rig_do(&r, 0xa1, 0, 0, 0, RIG_DATA, 512), RIG_DONE);
	assert_int_equal(w[0], 0x85c0);
	/* IDENTIFY DEVICE: no, and the signature says why. */
	assert_int_equal(rig_do(&r, 0xec, 0, 0, 0, RIG_DATA, 512), AHCI_IS_TFES);
	assert_int_equal(rig_d2h(&r).lba1, 0x14);
	assert_int_equal(rig_d2h(&r).lba2, 0xeb);
	rig_restart(&r);
	assert_int_equal(rig_do(&r, 0x60, 8, 0, 0, RIG_DATA, 4096), AHCI_IS_TFES);
	rig_restart(&r);
	assert_int_equal(rig_do(&r, 0x08, 0, 0, 0, 0, 0), RIG_DONE);
	assert_int_equal(rig_do(&r, 0xef, 3, 0, 0x45, 0, 0), RIG_DONE);
	rig_done(&r);
}

static void
test_inquiry(void **state)
{
	struct ahci_rig r;
	const uint8_t *p;

	rig_init(&r, CD_2M, "pci.0.3.0.port.0.ser=ABC", NULL);
	rig_start(&r); /* a unit attention does not matter */
	p = rig_data(&r, RIG_DATA);
	good(&r, CDB(0x12, 0, 0, 0, 36), 36);
	assert_int_equal(p[0], 5);
	assert_memory_equal(p + 8, "BHYVE   BHYVE SATA DVD R001 ", 28);
	good(&r, CDB(0x12, 1, 0x80, 0, 255), 255);
	assert_int_equal(rig_prdbc(&r, 0), 24);
	assert_memory_equal(p + 4, "ABC ", 4);
	bad(&r, test_unit_ready, 0x062900);
	bad(&r, CDB(0x12, 1, 0x99, 0, 255), 0x052400);
	good(&r, CDB(0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16), 16);
	assert_int_equal(p[3], 8);
	/* By PIO. */
	assert_int_equal(
	    rig_do_fis(&r,
		&(struct fis_h2d){ .type = FIS_H2D, .flags = FIS_H2D_COMMAND, .command = 0xa0 },
		CDB(0x12, 0, 0, 0, 36), RIG_DATA, 36),
	    RIG_DONE);
	assert_true(r.seen & AHCI_IS_PSS);
	rig_done(&r);
}

static void
test_reading(void **state)
{
	struct ahci_rig r;
	const uint8_t *p;

	rig_init(&r, CD_2M, NULL);
	cd_start(&r);
	p = rig_data(&r, RIG_DATA);
	good(&r, test_unit_ready, 0);
	good(&r, CDB(0x25), 8);
	assert_int_equal(p[2] << 8 | p[3], 1023);
	assert_int_equal(p[6], 8);
	memset(rig_data(&r, RIG_DATA), 1, 4096);
	good(&r, CDB(0x28, 0, 0, 0, 3, 0xfe, 0, 0, 2), 4096);
	assert_int_equal(rig_prdbc(&r, 0), 4096);
	assert_int_equal(p[4095], 0);
	good(&r, CDB(0xa8, 0, 0, 0, 0, 0, 0, 0, 0, 16), 32768);
	good(&r, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 0), 0);
	bad(&r, CDB(0x28, 0, 0, 0, 3, 0xff, 0, 0, 2), 0x052100);
	bad(&r, CDB(0xa8, 0, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff), 0x052100);
	good(&r, CDB(0xbe, 0, 0, 0, 0, 0, 0, 0, 1, 0x10), 2048);
	good(&r, CDB(0xb9, 0, 0, 0, 2, 0, 0, 2, 1, 0x10), 2048);
	bad(&r, CDB(0xbe, 0, 0, 0, 0, 0, 0, 0, 1, 0xf8), 0x052400);
	bad(&r, CDB(0x2b, 0, 0, 0, 4), 0x052100);
	good(&r, CDB(0x2b), 0);
	good(&r, CDB(0x35), 0);
	bad(&r, CDB(0xff), 0x052000);
	/* Less memory than data. */
	assert_int_equal(packet(&r, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 2), 2048), AHCI_IS_OFS);
	rig_done(&r);
}

static void
test_contents(void **state)
{
	struct ahci_rig r;
	const uint8_t *p;

	rig_init(&r, CD_2M, NULL);
	cd_start(&r);
	p = rig_data(&r, RIG_DATA);
	good(&r, CDB(0x43, 0, 0, 0, 0, 0, 0, 0, 64), 64);
	assert_memory_equal(p,
	    ((const uint8_t[]){
		0, 18, 1, 1, 0, 0x14, 1, 0, 0, 0, 0, 0, 0, 0x14, 0xaa, 0, 0, 0, 4, 0 }),
	    20);
	good(&r, CDB(0x43, 2, 0, 0, 0, 0, 0xaa, 0, 64), 64);
	assert_memory_equal(
	    p, ((const uint8_t[]){ 0, 10, 1, 1, 0, 0x14, 0xaa, 0, 0, 0, 15, 49 }), 12);
	good(&r, CDB(0x43, 0, 1, 0, 0, 0, 0, 0, 12), 12);
	assert_int_equal(p[1], 10);
	good(&r, CDB(0x43, 0, 2, 0, 0, 0, 0, 0, 48), 48);
	assert_int_equal(p[1], 46);
	assert_int_equal(p[4 + 3], 0xa0);
	bad(&r, CDB(0x43, 0, 0, 0, 0, 0, 2, 0, 64), 0x052400);
	bad(&r, CDB(0x43, 0, 5, 0, 0, 0, 0, 0, 64), 0x052400);
	good(&r, CDB(0x51, 0, 0, 0, 0, 0, 0, 0, 34), 34);
	assert_int_equal(p[2], 0x0e);
	good(&r, CDB(0x52, 1, 0, 0, 0, 1, 0, 0, 36), 36);
	assert_int_equal(p[26] << 8 | p[27], 1024);
	bad(&r, CDB(0x52, 1, 0, 0, 0, 2, 0, 0, 36), 0x052400);
	good(&r, CDB(0x46, 0, 0, 0, 0, 0, 0, 0, 255), 255);
	assert_int_equal(p[7], 8); /* a CD-ROM */
	good(&r, CDB(0x46, 2, 0, 3, 0, 0, 0, 0, 255), 255);
	assert_int_equal(rig_prdbc(&r, 0), 16);
	bad(&r, CDB(0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4), 0x053002);
	good(&r, CDB(0x42, 0, 0, 0, 0, 0, 0, 0, 4), 4);
	good(&r, CDB(0xbd, 0, 0, 0, 0, 0, 0, 0, 0, 8), 8);
	rig_done(&r);
}

static void
test_dvd(void **state)
{
	struct ahci_rig r;
	const uint8_t *p;

	rig_init(&r, "pci.0.3.0.device=ahci-cd", "pci.0.3.0.port.0.ram=4G", NULL);
	cd_start(&r);
	p = rig_data(&r, RIG_DATA);
	good(&r, CDB(0x46, 1, 0, 0, 0, 0, 0, 0, 255), 255);
	assert_int_equal(p[7], 0x10);
	good(&r, CDB(0xad, 0, 0, 0, 0, 0, 0, 0, 8, 4), 2052);
	assert_int_equal(p[9], 3);
	good(&r, CDB(0x43, 2, 0, 0, 0, 0, 0xaa, 0, 64), 64);
	assert_int_equal(p[9], 99);
	rig_done(&r);
}

static void
test_modes(void **state)
{
	struct ahci_rig r;
	uint8_t *p;

	rig_init(&r, CD_2M, NULL);
	cd_start(&r);
	p = rig_data(&r, RIG_DATA);
	good(&r, CDB(0x5a, 0, 0x2a, 0, 0, 0, 0, 0, 128), 128);
	assert_int_equal(rig_prdbc(&r, 0), 30);
	assert_int_equal(p[8], 0x2a);
	assert_int_equal(p[14] & 2, 0);
	good(&r, CDB(0x1e, 0, 0, 0, 1), 0);
	good(&r, CDB(0x1a, 0, 0x3f, 0, 255), 255);
	assert_int_equal(p[0], 4 + 12 + 22 - 1);
	assert_int_equal(p[4 + 12 + 6] & 2, 2);
	bad(&r, CDB(0x5a, 0, 0xea, 0, 0, 0, 0, 0, 128), 0x053900);
	bad(&r, CDB(0x5a, 0, 0x0d, 0, 0, 0, 0, 0, 128), 0x052400);
	memset(p, 0, 20);
	p[8] = 1;
	p[9] = 10;
	good(&r, CDB(0x55, 0x10, 0, 0, 0, 0, 0, 0, 20), 20);
	p[10] = 1;
	bad(&r, CDB(0x55, 0x10, 0, 0, 0, 0, 0, 0, 20), 0x052600);
	bad(&r, CDB(0x55, 0x10, 0, 0, 0, 0, 0, 0, 60), 0x052600);
	rig_done(&r);
}

/* --- Media --- */

static char *
image(uint8_t first)
{
	char *path = strdup("/tmp/ahci-test-XXXXXX");
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, BLOCKS * 2048), 0);
	assert_int_equal(pwrite(fd, &first, 1, 0), 1);
	close(fd);
	return path;
}

static void
image_remove(char *path)
{
	unlink(path);
	free(path);
}

/* Runs what the main thread has to do. */
static void
loop(struct ahci_rig *r)
{
	while (vm_loop_poll(vm_loop(r->chip.vm), 0) > 0)
		;
}

static void
check_first(struct ahci_rig *r, uint8_t first)
{
	good(r, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1), 2048);
	assert_int_equal(rig_data(r, RIG_DATA)[0], first);
}

/* GET EVENT STATUS NOTIFICATION, media class. */
static void
check_event(struct ahci_rig *r, uint8_t event, uint8_t status)
{
	const uint8_t *p = rig_data(r, RIG_DATA);

	good(r, CDB(0x4a, 1, 0, 0, 0x10, 0, 0, 0, 8), 8);
	assert_int_equal(p[2], 4);
	assert_int_equal(p[4], event);
	assert_int_equal(p[5], status);
}

static int
cd_create(struct ahci_rig *r, const char *path)
{
	char line[64];

	snprintf(line, sizeof(line), "pci.0.3.0.port.0.path=%s", path);
	return rig_create(r, (const char *const[]){ "pci.0.3.0.device=ahci-cd", line, NULL });
}

#define EJECT  CDB(0x1b, 0, 0, 0, 2)
#define LOAD   CDB(0x1b, 0, 0, 0, 3)
#define LOCK   CDB(0x1e, 0, 0, 0, 1)
#define UNLOCK CDB(0x1e)

static void
test_guest_eject(void **state)
{
	char *path = image(11), *other = image(22);
	struct capture said;
	struct ahci_rig r;

	assert_int_equal(cd_create(&r, path), 0);
	cd_start(&r);
	check_first(&r, 11);
	check_event(&r, 0, 2);
	good(&r, LOCK, 0);
	bad(&r, EJECT, 0x055302);
	good(&r, UNLOCK, 0);
	good(&r, EJECT, 0);
	bad(&r, test_unit_ready, 0x023a02);
	check_event(&r, 3, 1);
	check_event(&r, 0, 1);
	loop(&r);
	assert_null(r.hba->port[0].dev.disk); /* the file is let go of */
	good(&r, EJECT, 0);
	/* While the tray is open the file is replaced by another. */
	assert_int_equal(rename(other, path), 0);
	good(&r, LOAD, 0);
	bad(&r, test_unit_ready, 0x020401);
	loop(&r);
	check_event(&r, 2, 2);
	bad(&r, test_unit_ready, 0x062800);
	check_first(&r, 22);
	/* Opened and closed again before anyone came to see. */
	good(&r, EJECT, 0);
	good(&r, LOAD, 0);
	loop(&r);
	bad(&r, test_unit_ready, 0x062800);
	check_first(&r, 22);
	/* And the other way round. */
	good(&r, EJECT, 0);
	good(&r, LOAD, 0);
	good(&r, EJECT, 0);
	loop(&r);
	assert_null(r.hba->port[0].dev.disk);
	/* The file is gone: the tray closes, and is empty. */
	unlink(path);
	good(&r, LOAD, 0);
	loop(&r);
	bad(&r, test_unit_ready, 0x023a01);
	/* Again: that is not told again. */
	capture_begin(&said);
	good(&r, EJECT, 0);
	good(&r, LOAD, 0);
	loop(&r);
	capture_end(&said);
	assert_string_equal(said.text, "");
	bad(&r, test_unit_ready, 0x023a01);
	rig_done(&r);
	image_remove(path);
	free(other);
}

static void
test_host_eject(void **state)
{
	char *path = image(1), *other = image(2);
	struct ahci_rig r;

	assert_int_equal(cd_create(&r, path), 0);
	cd_start(&r);
	assert_int_equal(ahci_cd_eject(r.dev, 1, false), -ENODEV);
	assert_int_equal(ahci_cd_insert(r.dev, -1, other), -ENODEV);
	good(&r, LOCK, 0);
	assert_int_equal(ahci_cd_eject(r.dev, 0, false), -EBUSY);
	check_event(&r, 1, 2); /* the guest is asked */
	assert_int_equal(ahci_cd_insert(r.dev, 0, other), -EBUSY);
	check_first(&r, 1);
	assert_int_equal(ahci_cd_eject(r.dev, 0, true), 0);
	assert_null(r.hba->port[0].dev.disk);
	check_event(&r, 3, 1);
	bad(&r, test_unit_ready, 0x023a02);
	assert_int_equal(ahci_cd_eject(r.dev, 0, false), 0);
	assert_int_equal(ahci_cd_insert(r.dev, 0, "/nonexistent"), -ENOENT);
	bad(&r, test_unit_ready, 0x023a02);
	assert_int_equal(ahci_cd_insert(r.dev, 0, other), 0);
	check_event(&r, 2, 2);
	bad(&r, test_unit_ready, 0x062800);
	check_first(&r, 2);
	/* Replaced without the tray being opened first. */
	assert_int_equal(ahci_cd_insert(r.dev, 0, path), 0);
	bad(&r, test_unit_ready, 0x062800);
	check_first(&r, 1);
	rig_done(&r);
	image_remove(path);
	image_remove(other);
}

/* Reads in flight when the medium is pulled out. */
static void
test_eject_in_flight(void **state)
{
	struct fis_h2d fis = rig_fis(0xa0, 1, 0, 0);
	char *path = image(1);
	struct rig_gate gate;
	struct ahci_rig r;

	assert_int_equal(cd_create(&r, path), 0);
	cd_start(&r);
	rig_prd(&r, 0, 0, RIG_DATA, 2048);
	rig_slot(&r, 0, &fis, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1), 1);
	rig_issue_held(&r, 1, &gate);
	sem_post(&gate.open);
	assert_int_equal(ahci_cd_eject(r.dev, 0, true), 0);
	assert_int_equal(rig_await(&r, 1), RIG_DONE);
	assert_int_equal(rig_data(&r, RIG_DATA)[0], 1);
	bad(&r, test_unit_ready, 0x023a02);
	rig_done(&r);
	image_remove(path);
}

static void
test_empty(void **state)
{
	struct ahci_rig r;
	char *path = image(7);

	rig_init(&r, "pci.0.3.0.device=ahci-cd", NULL);
	cd_start(&r);
	bad(&r, test_unit_ready, 0x023a01);
	bad(&r, CDB(0x28, 0, 0, 0, 0, 0, 0, 0, 1), 0x023a01);
	assert_int_equal(ahci_cd_insert(r.dev, 0, path), 0);
	bad(&r, test_unit_ready, 0x062800);
	check_first(&r, 7);
	rig_done(&r);
	image_remove(path);
}

/* A saved state has the medium that was put in later, and the tray. */
static void
test_state(void **state)
{
	char *path = image(1), *other = image(2);
	struct vm_state *inserted, *open;
	struct ahci_rig r;

	assert_int_equal(cd_create(&r, path), 0);
	cd_start(&r);
	assert_int_equal(ahci_cd_insert(r.dev, 0, other), 0);
	bad(&r, test_unit_ready, 0x062800);
	inserted = chip_save(&r.chip);
	assert_int_equal(ahci_cd_eject(r.dev, 0, true), 0);
	open = chip_save(&r.chip);
	rig_done(&r);
	assert_int_equal(cd_create(&r, path), 0);
	assert_int_equal(chip_load(&r.chip, inserted, NULL), 0);
	r.abar = rig_cfg_read(&r, 0x24, 4) & ~15u;
	check_first(&r, 2);
	assert_int_equal(chip_load(&r.chip, open, NULL), 0);
	bad(&r, test_unit_ready, 0x023a02);
	unlink(other);
	assert_int_equal(ahci_cd_insert(r.dev, 0, path), 0);
	assert_int_equal(chip_load(&r.chip, inserted, NULL), -EINVAL); /* the image is gone */
	vm_state_destroy(inserted);
	vm_state_destroy(open);
	rig_done(&r);
	image_remove(path);
	free(other);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identify),
		cmocka_unit_test(test_inquiry),
		cmocka_unit_test(test_reading),
		cmocka_unit_test(test_contents),
		cmocka_unit_test(test_dvd),
		cmocka_unit_test(test_modes),
		cmocka_unit_test(test_guest_eject),
		cmocka_unit_test(test_host_eject),
		cmocka_unit_test(test_eject_in_flight),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
