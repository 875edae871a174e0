/*
 * The configuration of a disk: each variable, good and bad, with the exact message.
 */
#include "block_rig.h"

static void
test_bad(void **state)
{
	static const struct {
		const char *vars, *said;
	} bad[] = {
		{ "ro=false", "bhyve: disk: a disk needs a path, or ram=SIZE\n" },
		{ "path=", "bhyve: disk: a disk needs a path, or ram=SIZE\n" },
		{ "path=/x,ram=4", "bhyve: disk: path and ram: a disk is one or the other\n" },
		{ "ram=0", "bhyve: disk: ram=0: expected MiB, or a size such as 64M\n" },
		{ "ram=4X", "bhyve: disk: ram=4X: expected MiB, or a size such as 64M\n" },
		{ "ram=17592186044416",
		    "bhyve: disk: ram=17592186044416: expected MiB, or a size such as 64M\n" },
		{ "ram=4,ro=maybe", "bhyve: disk: ro=maybe: expected true or false\n" },
		{ "ram=4,nocache=2", "bhyve: disk: nocache=2: expected true or false\n" },
		{ "ram=4,sync=x", "bhyve: disk: sync=x: expected true or false\n" },
		{ "ram=4,direct=x", "bhyve: disk: direct=x: expected true or false\n" },
		{ "ram=4,detect_zeroes=x",
		    "bhyve: disk: detect_zeroes=x: expected true or false\n" },
		{ "ram=4,nodelete=x", "bhyve: disk: nodelete=x: expected true or false\n" },
		{ "ram=4,discard=on", "bhyve: disk: discard=on: expected off, punch or zero\n" },
		{ "ram=4,discard=punch,nodelete=true",
		    "bhyve: disk: discard=punch: expected off, because of nodelete\n" },
		{ "ram=4,bootindex=first", "bhyve: disk: bootindex=first: expected a number\n" },
		{ "ram=4,bootindex=2147483648",
		    "bhyve: disk: bootindex=2147483648: expected a number\n" },
		{ "ram=4,reconnect=soon",
		    "bhyve: disk: reconnect=soon: expected seconds, at most a day\n" },
		{ "ram=4,reconnect=86401",
		    "bhyve: disk: reconnect=86401: expected seconds, at most a day\n" },
		{ "ram=4,aio=posix",
		    "bhyve: disk: aio=posix: expected auto, io_uring or threads\n" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		disk_refused(bad[i].vars, -EINVAL, bad[i].said);
}

static void
test_sectors(void **state)
{
	static const char *const bad[] = { "", "513", "256", "131072", "4096/512", "512/", "/4096",
		"512/4096/1", "-512", "512x", " 512", "0" };
	char vars[64], said[160];
	struct disk d;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		snprintf(vars, sizeof(vars), "ram=4,sectorsize=%s", bad[i]);
		snprintf(said, sizeof(said),
		    "bhyve: disk: sectorsize=%s: expected LOGICAL[/PHYSICAL], powers of two from "
		    "512 to 65536\n",
		    bad[i]);
		disk_refused(vars, -EINVAL, said);
	}
	assert_int_equal(disk_open(&d, "ram=4,sectorsize=512/4096"), 0);
	assert_int_equal(block_info(d.b)->logical_sector, 512);
	assert_int_equal(block_info(d.b)->physical_sector, 4096);
	disk_close(&d);
	assert_int_equal(disk_open(&d, "ram=4,sectorsize=4096"), 0);
	assert_int_equal(block_info(d.b)->logical_sector, 4096);
	assert_int_equal(block_info(d.b)->physical_sector, 4096);
	disk_close(&d);
}

static void
test_good(void **state)
{
	struct disk d;

	assert_int_equal(disk_open(&d, "ram=3"), 0);
	assert_int_equal(block_size(d.b), MIB(3));
	assert_int_equal(block_info(d.b)->bootindex, -1);
	assert_string_equal(block_info(d.b)->path, "ram");
	assert_string_equal(d.said.text, "");
	disk_close(&d);
	assert_int_equal(disk_open(&d, "ram=100K,sectorsize=65536,bootindex=7"), 0);
	assert_int_equal(block_size(d.b), KIB(64));
	assert_int_equal(block_info(d.b)->bootindex, 7);
	disk_close(&d);
	assert_int_equal(disk_open(&d, "ram=1,nodelete=true,discard=off"), 0);
	assert_false(block_info(d.b)->can_discard);
	assert_int_equal(disk_do(&d, BLOCK_DISCARD, 0, 0, NULL, 4096), -EOPNOTSUPP);
	disk_close(&d);
	/* A disk that holds less than a sector is none. */
	disk_refused(
	    "ram=1K,sectorsize=4096", -EINVAL, "bhyve: disk: ram: smaller than a sector\n");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_sectors),
		cmocka_unit_test(test_good),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
