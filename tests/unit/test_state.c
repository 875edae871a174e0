/*
 * Saved state: round trips, versions, and files that lie.
 */
#include "vm/state.h"
#include "mock_engine.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

/* A device with one field of each kind. */
struct dev {
	uint8_t a;
	uint16_t b;
	uint32_t c;
	uint64_t d;
	bool e;
	uint8_t block[37];
	struct vm_timer *timer;
	uint8_t added; /* since version 2 */
	int version; /* what this code writes */
	int instance;
};

static int
dev_state(void *ctx, struct vm_state *s)
{
	struct dev *d = ctx;
	int version = vm_state_section(s, "dev", d->instance, d->version);

	vm_state_u8(s, &d->a);
	vm_state_u16(s, &d->b);
	vm_state_u32(s, &d->c);
	vm_state_u64(s, &d->d);
	vm_state_bool(s, &d->e);
	vm_state_bytes(s, d->block, sizeof(d->block));
	vm_state_timer(s, d->timer);
	if (version >= 2)
		vm_state_u8(s, &d->added);
	if (vm_state_loading(s) && d->a > 100)
		vm_state_reject(s, "a is out of range");
	return vm_state_end(s);
}

static void
nothing(void *arg)
{
}

static int
setup(void **state)
{
	*state = mock_vm_create(MIB(1), 1);
	return *state == NULL;
}

static int
teardown(void **state)
{
	vm_destroy(*state);
	return 0;
}

static struct dev
dev_make(struct vm *vm, int instance, int version)
{
	struct dev d = { .version = version, .instance = instance };

	d.timer = vm_timer_create(vm_loop(vm), nothing, NULL);
	assert_non_null(d.timer);
	return d;
}

static struct dev
dev_fill(struct vm *vm, int instance, int version)
{
	struct dev d = dev_make(vm, instance, version);

	d.a = (uint8_t)(7 + instance);
	d.b = 0x1234;
	d.c = 0xdeadbeef;
	d.d = 0x0123456789abcdef;
	d.e = true;
	memset(d.block, 0x5a, sizeof(d.block));
	vm_timer_arm(d.timer, 5555);
	d.added = 99;
	return d;
}

static void
dev_check(const struct dev *got, const struct dev *want)
{
	assert_int_equal(got->a, want->a);
	assert_int_equal(got->b, want->b);
	assert_int_equal(got->c, want->c);
	assert_int_equal(got->d, want->d);
	assert_int_equal(got->e, want->e);
	assert_memory_equal(got->block, want->block, sizeof(got->block));
	assert_int_equal(vm_timer_armed(got->timer), vm_timer_armed(want->timer));
	assert_int_equal(vm_timer_deadline(got->timer), vm_timer_deadline(want->timer));
}

static void
test_round_trip(void **state)
{
	struct vm *vm = *state;
	struct dev out[2] = { dev_fill(vm, 0, 2), dev_fill(vm, 1, 2) };
	struct dev in[2] = { dev_make(vm, 0, 2), dev_make(vm, 1, 2) };
	struct vm_state *s = vm_state_create(), *l;
	const void *data;
	size_t len;

	vm_timer_cancel(out[1].timer);
	vm_timer_arm(in[1].timer, 77); /* loading cancels it */
	assert_false(vm_state_loading(s));
	assert_int_equal(vm_state_register(vm, dev_state, &out[0]), 0);
	assert_int_equal(vm_state_register(vm, dev_state, &out[1]), 0);
	assert_int_equal(vm_state_all(vm, s), 0);
	data = vm_state_data(s, &len);
	/* Fixed by the format: two machines must agree on it. */
	assert_int_equal(len, 8 + 2 * (1 + 3 + 12 + 1 + 2 + 4 + 8 + 1 + 37 + 9 + 1));
	assert_memory_equal((const char *)data + 8,
	    "\3dev\0\0\0\0\2\0\0\0\x3f\0\0\0\7\x34\x12", 19);

	l = vm_state_open(data, len);
	assert_true(vm_state_loading(l));
	/* In any order. */
	assert_int_equal(dev_state(&in[1], l), 0);
	assert_int_equal(dev_state(&in[0], l), 0);
	dev_check(&in[0], &out[0]);
	assert_int_equal(in[1].a, 8);
	assert_false(vm_timer_armed(in[1].timer));
	assert_int_equal(in[0].added, 99);
	vm_state_destroy(s);
	vm_state_destroy(l);
	for (int i = 0; i < 2; i++) {
		vm_timer_destroy(out[i].timer);
		vm_timer_destroy(in[i].timer);
	}
}

static void
test_versions(void **state)
{
	struct vm *vm = *state;
	struct dev old = dev_fill(vm, 0, 1), new = dev_make(vm, 0, 2);
	struct vm_state *s = vm_state_create(), *l;
	const void *data;
	size_t len;

	assert_int_equal(dev_state(&old, s), 0);
	data = vm_state_data(s, &len);
	new.added = 3;
	l = vm_state_open(data, len);
	assert_int_equal(dev_state(&new, l), 0);
	dev_check(&new, &old);
	assert_int_equal(new.added, 3);
	vm_state_destroy(l);
	vm_state_destroy(s);

	/* What a newer program wrote is refused. */
	s = vm_state_create();
	assert_int_equal(dev_state(&new, s), 0);
	data = vm_state_data(s, &len);
	l = vm_state_open(data, len);
	assert_int_equal(dev_state(&old, l), -ENOTSUP);
	assert_int_equal(vm_state_error(l), -ENOTSUP);
	vm_state_destroy(l);
	vm_state_destroy(s);
	vm_timer_destroy(old.timer);
	vm_timer_destroy(new.timer);
}

/* Loads a changed copy of what out saves. */
static int
load_changed(struct vm *vm, size_t at, int byte, size_t cut)
{
	struct dev out = dev_fill(vm, 0, 2), in = dev_make(vm, 0, 2);
	struct vm_state *s = vm_state_create(), *l;
	uint8_t copy[256];
	size_t len;
	int err;

	assert_int_equal(dev_state(&out, s), 0);
	memcpy(copy, vm_state_data(s, &len), MIN(len, sizeof(copy)));
	assert_true(len < sizeof(copy) && at < len && cut <= len);
	if (byte >= 0)
		copy[at] = (uint8_t)byte;
	l = vm_state_open(copy, len - cut);
	err = dev_state(&in, l);
	assert_int_equal(vm_state_error(l), err);
	vm_state_destroy(l);
	vm_state_destroy(s);
	vm_timer_destroy(in.timer);
	vm_timer_destroy(out.timer);
	return err;
}

static void
test_lies(void **state)
{
	struct vm *vm = *state;
	const size_t payload = 8 + 1 + 3 + 12, total = payload + 63;

	assert_int_equal(load_changed(vm, 0, -1, 0), 0);
	assert_int_equal(load_changed(vm, 0, 'x', 0), -EINVAL); /* magic */
	assert_int_equal(load_changed(vm, 9, 'D', 0), -ENOENT); /* another device */
	assert_int_equal(load_changed(vm, 12, 5, 0), -ENOENT); /* another instance */
	assert_int_equal(load_changed(vm, 8, 255, 0), -EINVAL); /* a name beyond the end */
	assert_int_equal(load_changed(vm, 16, 0, 0), -ENOTSUP); /* version 0 */
	assert_int_equal(load_changed(vm, 19, 0x80, 0), -ENOTSUP);
	assert_int_equal(load_changed(vm, 20, 0x3e, 0), -EINVAL); /* a section too short */
	assert_int_equal(load_changed(vm, 20, 0x40, 0), -EINVAL); /* beyond the end */
	assert_int_equal(load_changed(vm, 23, 0xff, 0), -EINVAL);
	assert_int_equal(load_changed(vm, payload, 101, 0), -EINVAL); /* refused by the device */
	assert_int_equal(load_changed(vm, payload + 15, 2, 0), -EINVAL); /* no bool */
	for (size_t cut = 1; cut <= total; cut++)
		assert_true(load_changed(vm, 0, -1, cut) != 0);
	/* No byte, whatever it is, does harm. */
	for (size_t at = 0; at < total; at++) {
		for (int byte = 0; byte < 256; byte += 15)
			load_changed(vm, at, byte, 0);
	}
}

static void
test_longer_than_expected(void **state)
{
	struct vm_state *s = vm_state_create(), *l;
	uint32_t v = 1;
	const void *data;
	size_t len;

	vm_state_section(s, "x", 0, 1);
	vm_state_u32(s, &v);
	vm_state_u32(s, &v);
	assert_int_equal(vm_state_end(s), 0);
	data = vm_state_data(s, &len);
	l = vm_state_open(data, len);
	assert_int_equal(vm_state_section(l, "x", 0, 1), 1);
	vm_state_u32(l, &v);
	assert_int_equal(vm_state_end(l), -EINVAL);
	vm_state_destroy(l);
	vm_state_destroy(s);
	l = vm_state_open(NULL, 0);
	assert_int_equal(vm_state_error(l), -EINVAL);
	vm_state_destroy(l);
	vm_state_destroy(NULL);
}

static void
test_error_sticks(void **state)
{
	struct vm *vm = *state;
	struct dev first = dev_fill(vm, 0, 1), second = dev_fill(vm, 1, 1);
	struct vm_state *l = vm_state_open("nonsense", 8);

	vm_state_register(vm, dev_state, &first);
	vm_state_register(vm, dev_state, &second);
	assert_int_equal(vm_state_all(vm, l), -EINVAL);
	assert_int_equal(first.b, 0x1234); /* untouched */
	assert_int_equal(second.b, 0x1234);
	vm_state_destroy(l);
	vm_timer_destroy(first.timer);
	vm_timer_destroy(second.timer);
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_round_trip),
		TEST(test_versions),
		TEST(test_lies),
		TEST(test_longer_than_expected),
		TEST(test_error_sticks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
