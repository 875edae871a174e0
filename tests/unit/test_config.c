/*
 * The configuration tree: paths, values, expansion, conversions, walking, unused variables.
 */
#include "base/config.h"
#include "base/bits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <pthread.h>

static int
setup(void **state)
{
	*state = config_create();
	return *state == NULL;
}

static int
teardown(void **state)
{
	config_destroy(*state);
	return 0;
}

static void
test_set_get(void **state)
{
	struct config *root = *state, *node;

	assert_null(config_get(root, "name"));
	assert_int_equal(config_set(root, "name", "vm0"), 0);
	assert_int_equal(config_set(root, "pci.0.3.0.device", "virtio-blk"), 0);
	assert_int_equal(config_set(root, "pci.0.3.0.path", "/a"), 0);
	assert_int_equal(config_set(root, "pci.0.3.0.path", "/b"), 0);
	assert_string_equal(config_get(root, "name"), "vm0");
	assert_string_equal(config_get(root, "pci.0.3.0.path"), "/b");
	node = config_find(root, "pci.0.3.0");
	assert_non_null(node);
	assert_string_equal(config_get(node, "device"), "virtio-blk");
	assert_string_equal(config_path(node), "pci.0.3.0");
	assert_string_equal(config_path(root), "");
	assert_string_equal(config_get_default(node, "device", "x"), "virtio-blk");
	assert_string_equal(config_get_default(node, "devic", "x"), "x");
	assert_string_equal(config_get_default(node, "devices", "x"), "x");
	/* A node is no value and the other way round. */
	assert_null(config_get(root, "pci"));
	assert_null(config_find(root, "name"));
	assert_null(config_find(root, "name.x"));
	assert_null(config_find_or_create(root, "name.x"));
	assert_null(config_find_or_create(root, "name"));
	assert_int_equal(config_set(root, "pci.0", "x"), -EINVAL);
	assert_int_equal(config_set(root, "name.first", "x"), -EINVAL);
	assert_ptr_equal(config_find_or_create(root, "pci.0.3.0"), node);
	assert_string_equal(config_path(config_find_or_create(node, "port.1")), "pci.0.3.0.port.1");
}

static void
test_bad_paths(void **state)
{
	static const char *const bad[] = { "", ".", ".a", "a.", "a..b", "a b", "a\n", "\xff" };
	struct config *root = *state;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(config_set(root, bad[i], "x"), -EINVAL);
		assert_null(config_get(root, bad[i]));
		assert_null(config_find_or_create(root, bad[i]));
	}
	assert_null(config_first_unused(root));
}

static void
test_unset(void **state)
{
	struct config *root = *state;

	assert_int_equal(config_set(root, "a.x", "1"), 0);
	assert_int_equal(config_set(root, "a.y", "2"), 0);
	config_unset(root, "a.y");
	config_unset(root, "a.y");
	config_unset(root, "nothing.here");
	assert_null(config_get(root, "a.y"));
	assert_int_equal(config_set(root, "a.z", "3"), 0);
	assert_string_equal(config_get(root, "a.x"), "1");
	assert_string_equal(config_get(root, "a.z"), "3");
	config_unset(root, "a");
	assert_null(config_find(root, "a"));
	assert_int_equal(config_set(root, "a", "now a value"), 0);
	assert_string_equal(config_get(root, "a"), "now a value");
}

static void
test_expand(void **state)
{
	struct config *root = *state;

	config_set(root, "name", "vm0");
	config_set(root, "dir", "/var/%(name)");
	config_set(root, "pci.0.path", "%(dir)/disk-%(name).img");
	config_set(root, "odd", "100%% %(undefined)%x %(open %");
	config_set(root, "node", "<%(pci)>");
	config_set(root, "twice", "%%(name)");
	assert_string_equal(config_get(root, "pci.0.path"), "/var/vm0/disk-vm0.img");
	assert_string_equal(
	    config_get(config_find(root, "pci"), "0.path"), "/var/vm0/disk-vm0.img");
	assert_string_equal(config_get(root, "odd"), "100% %x %(open %");
	assert_string_equal(config_get(root, "node"), "<>");
	assert_string_equal(config_get(root, "twice"), "%(name)");
}

static void
test_expand_follows_changes(void **state)
{
	struct config *root = *state;
	const char *first, *second;

	config_set(root, "name", "one");
	config_set(root, "x", "<%(name)>");
	first = config_get(root, "x");
	assert_ptr_equal(config_get(root, "x"), first);
	config_set(root, "name", "two");
	second = config_get(root, "x");
	assert_string_equal(second, "<two>");
	/* Strings handed out live until x itself is set. */
	assert_string_equal(first, "<one>");
}

/* References that double at each step, or form a long chain, end in time. */
static void
test_expand_endless(void **state)
{
	struct config *root = *state;
	char name[16], value[32];

	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "twice%d", i);
		snprintf(value, sizeof(value), "%%(twice%d)%%(twice%d)", i + 1, i + 1);
		assert_int_equal(config_set(root, name, value), 0);
		snprintf(name, sizeof(name), "chain%d", i);
		snprintf(value, sizeof(value), "%%(chain%d)", i + 1);
		assert_int_equal(config_set(root, name, value), 0);
	}
	assert_null(config_get(root, "twice0"));
	assert_null(config_get(root, "twice80"));
	assert_null(config_get(root, "chain0"));
	assert_null(config_get(root, "chain67"));
	assert_string_equal(config_get(root, "chain68"), "");
	assert_string_equal(config_get(root, "twice92"), "");
}

static void
test_expand_recursive(void **state)
{
	struct config *root = *state;
	char name[16], value[64];

	config_set(root, "a", "%(a)");
	config_set(root, "b", "x%(c)");
	config_set(root, "c", "y%(b)");
	config_set(root, "d", "%(b)");
	assert_null(config_get(root, "a"));
	assert_null(config_get(root, "b"));
	assert_null(config_get(root, "d"));

	/* Each doubles the one before: 2^40 bytes. */
	config_set(root, "v0", "x");
	for (int i = 1; i <= 40; i++) {
		snprintf(name, sizeof(name), "v%d", i);
		snprintf(value, sizeof(value), "%%(v%d)%%(v%d)", i - 1, i - 1);
		config_set(root, name, value);
	}
	assert_int_equal(strlen(config_get(root, "v10")), 1024);
	assert_null(config_get(root, "v40"));
}

static void
test_bool(void **state)
{
	static const char *const yes[] = { "true", "TRUE", "on", "Yes", "1" };
	static const char *const no[] = { "false", "Off", "NO", "0" };
	static const char *const bad[] = { "", "2", "yes ", "y", "enabled" };
	struct config *root = *state;
	bool v = true;

	assert_int_equal(config_get_bool(root, "b", &v), -ENOENT);
	assert_true(config_get_bool_default(root, "b", true));
	for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
		v = false;
		config_set(root, "b", yes[i]);
		assert_int_equal(config_get_bool(root, "b", &v), 0);
		assert_true(v);
	}
	for (size_t i = 0; i < ARRAY_SIZE(no); i++) {
		v = true;
		config_set(root, "b", no[i]);
		assert_int_equal(config_get_bool(root, "b", &v), 0);
		assert_false(v);
		assert_false(config_get_bool_default(root, "b", true));
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		config_set(root, "b", bad[i]);
		assert_int_equal(config_get_bool(root, "b", &v), -EINVAL);
		assert_true(config_get_bool_default(root, "b", true));
	}
}

static void
test_numbers(void **state)
{
	static const struct {
		const char *text;
		int uint_err;
		uint64_t uint;
		int size_err;
		uint64_t size;
	} cases[] = {
		{ "0", 0, 0, 0, 0 },
		{ "42", 0, 42, 0, 42 },
		{ "0x10", 0, 16, 0, 16 },
		{ "010", 0, 8, 0, 8 },
		{ "18446744073709551615", 0, UINT64_MAX, 0, UINT64_MAX },
		{ "18446744073709551616", -ERANGE, 0, -ERANGE, 0 },
		{ "1k", -EINVAL, 0, 0, 1024 },
		{ "512M", -EINVAL, 0, 0, MIB(512) },
		{ "3g", -EINVAL, 0, 0, GIB(3) },
		{ "2T", -EINVAL, 0, 0, GIB(2048) },
		{ "16777216T", -EINVAL, 0, -ERANGE, 0 },
		{ "1MB", -EINVAL, 0, -EINVAL, 0 },
		{ "1P", -EINVAL, 0, -EINVAL, 0 },
		{ "", -EINVAL, 0, -EINVAL, 0 },
		{ "-1", -EINVAL, 0, -EINVAL, 0 },
		{ "+1", -EINVAL, 0, -EINVAL, 0 },
		{ " 1", -EINVAL, 0, -EINVAL, 0 },
		{ "1 ", -EINVAL, 0, -EINVAL, 0 },
		{ "0x", -EINVAL, 0, -EINVAL, 0 },
		{ "M", -EINVAL, 0, -EINVAL, 0 },
		{ "1.5G", -EINVAL, 0, -EINVAL, 0 },
	};
	struct config *root = *state;
	uint64_t v;

	assert_int_equal(config_get_uint(root, "n", &v), -ENOENT);
	assert_int_equal(config_get_size(root, "n", &v), -ENOENT);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		config_set(root, "n", cases[i].text);
		v = 77;
		assert_int_equal(config_get_uint(root, "n", &v), cases[i].uint_err);
		assert_int_equal(v, cases[i].uint_err == 0 ? cases[i].uint : 77);
		v = 77;
		assert_int_equal(config_get_size(root, "n", &v), cases[i].size_err);
		assert_int_equal(v, cases[i].size_err == 0 ? cases[i].size : 77);
	}
}

static int
collect(void *arg, const char *name, const char *value, struct config *child)
{
	char *out = arg;

	assert_true((value == NULL) != (child == NULL));
	sprintf(out + strlen(out), "%s=%s;", name, value != NULL ? value : "{}");
	return strcmp(name, "stop") == 0 ? 5 : 0;
}

static void
test_walk(void **state)
{
	struct config *root = *state;
	char out[128] = "";

	config_set(root, "z", "1");
	config_set(root, "a.b", "2");
	config_set(root, "m", "%(z)");
	config_set(root, "z", "3");
	assert_int_equal(config_walk(root, collect, out), 0);
	assert_string_equal(out, "z=3;a={};m=%(z);");
	config_set(root, "stop", "");
	config_set(root, "never", "");
	out[0] = '\0';
	assert_int_equal(config_walk(root, collect, out), 5);
	assert_string_equal(out, "z=3;a={};m=%(z);stop=;");
}

static void
test_unused(void **state)
{
	struct config *root = *state;

	config_set(root, "a", "1");
	config_set(root, "pci.0.x", "%(a)");
	config_set(root, "pci.0.typo", "3");
	assert_string_equal(config_first_unused(root), "a");
	config_get(root, "pci.0.x"); /* reads a, too */
	assert_string_equal(config_first_unused(root), "pci.0.typo");
	config_get_bool_default(root, "pci.0.typo", true);
	assert_null(config_first_unused(root));
}

static void *
read_often(void *arg)
{
	for (int i = 0; i < 2000; i++) {
		const char *text = config_get(arg, "x");

		if (text == NULL || strcmp(text, "<vm0>") != 0)
			return arg;
	}
	return NULL;
}

static void
test_threads(void **state)
{
	struct config *root = *state;
	pthread_t t[2];
	void *wrong;

	config_set(root, "name", "vm0");
	config_set(root, "x", "<%(name)>");
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, read_often, root), 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], &wrong);
		assert_null(wrong);
	}
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_set_get),
		TEST(test_bad_paths),
		TEST(test_unset),
		TEST(test_expand),
		TEST(test_expand_follows_changes),
		TEST(test_expand_endless),
		TEST(test_expand_recursive),
		TEST(test_bool),
		TEST(test_numbers),
		TEST(test_walk),
		TEST(test_unused),
		TEST(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
