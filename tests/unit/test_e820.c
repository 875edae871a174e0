/*
 * The memory map: what it says of machines of several sizes, and what cannot be added.
 */
#include "firmware_vm.h"

#include "firmware/e820.h"

static void
test_map(void **state)
{
	static const struct {
		uint64_t low, high;
		int count;
	} size[] = {
		{ MIB(128), 0, 6 },
		{ GIB(1), 0, 6 },
		{ GIB(3), GIB(3), 7 },
		{ MIB(1), 0, 5 },
	};

	for (size_t i = 0; i < ARRAY_SIZE(size); i++) {
		struct e820_map map;
		uint64_t ram = 0, end = 0;

		e820_init(&map, size[i].low, size[i].high);
		assert_int_equal(map.count, size[i].count);
		for (int j = 0; j < map.count; j++) {
			assert_true(map.range[j].base >= end);
			end = map.range[j].base + map.range[j].size;
			if (map.range[j].type == E820_RAM)
				ram += map.range[j].size;
		}
		/* All RAM but the EBDA and what lies from 640 KiB to 1 MiB. */
		assert_int_equal(ram, size[i].low + size[i].high - KIB(1) - KIB(384));
	}
}

static void
test_add(void **state)
{
	struct e820_map map;
	uint64_t base;

	e820_init(&map, GIB(1), 0);
	assert_int_equal(e820_add(&map, 0xe0000000, MIB(256), E820_RESERVED), 0);
	assert_int_equal(map.range[4].base, 0xe0000000);
	assert_int_equal(map.range[4].type, E820_RESERVED);
	assert_int_equal(map.range[5].base, 0xfec00000);

	assert_int_equal(e820_add(&map, 0, 0, E820_RESERVED), -EINVAL);
	assert_int_equal(e820_add(&map, UINT64_MAX, 2, E820_RESERVED), -EINVAL);
	assert_int_equal(e820_add(&map, 0xe0000000, 1, E820_RESERVED), -EEXIST);
	assert_int_equal(e820_add(&map, 0xdfffffff, 2, E820_RESERVED), -EEXIST);
	assert_int_equal(e820_add(&map, 0xefffffff, 1, E820_RESERVED), -EEXIST);
	assert_int_equal(
	    e820_add(&map, 0x40000000, UINT64_MAX - 0x40000000, E820_RESERVED), -EEXIST);
	assert_int_equal(e820_add(&map, 0xdfffffff, 1, E820_RESERVED), 0);
	assert_int_equal(e820_add(&map, 0xf0000000, 1, E820_RESERVED), 0);
	assert_int_equal(e820_add(&map, UINT64_MAX, 1, E820_RESERVED), 0);

	for (base = GIB(5); map.count < E820_MAX; base += 2)
		assert_int_equal(e820_add(&map, base, 1, E820_RESERVED), 0);
	assert_int_equal(e820_add(&map, base, 1, E820_RESERVED), -ENOSPC);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_map),
		cmocka_unit_test(test_add),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
