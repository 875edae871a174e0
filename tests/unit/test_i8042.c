/*
 * The keyboard controller and the keyboard, and what drivers ask of them when they start.
 */
#include "chip_test.h"

#include "chipset/i8042.h"

#include <limits.h>

#define DATA I8042_DATA
#define CMD I8042_COMMAND
#define OBF 0x01
#define KBD I8042_KBD_IRQ

struct fixture {
	struct chip_test t;
	struct i8042 *kbc;
};

static struct fixture f; /* of the test that runs */

static int
setup(void **state)
{
	chip_test_init(&f.t, MIB(1));
	assert_int_equal(i8042_create(f.t.vm, &f.kbc), 0);
	return 0;
}

static int
teardown(void **state)
{
	i8042_destroy(f.kbc);
	vm_destroy(f.t.vm);
	return 0;
}

static void
assert_reply(int val)
{
	assert_int_equal(inb(&f.t, CMD) & OBF, OBF);
	assert_int_equal(inb(&f.t, DATA), val);
}

static void
assert_no_reply(void)
{
	assert_int_equal(inb(&f.t, CMD) & OBF, 0);
}

static void
command(uint8_t cmd, int data)
{
	outb(&f.t, CMD, cmd);
	if (data >= 0)
		outb(&f.t, DATA, (uint8_t)data);
}

/* To the keyboard, which answers ACK. */
static void
keyboard(uint8_t val)
{
	outb(&f.t, DATA, val);
	assert_reply(0xfa);
}

static void
key(const char *codes, size_t len)
{
	i8042_key_event(f.kbc, (const uint8_t *)codes, len);
}

static bool
was_reset(void)
{
	vm_shutdown(f.t.vm, VM_EXIT_HALT);
	return vm_run(f.t.vm) == VM_EXIT_REBOOT;
}

static void
test_self_tests(void **state)
{
	assert_int_equal(inb(&f.t, CMD), 0x14); /* unlocked, system flag */
	command(0xaa, -1);
	assert_int_equal(inb(&f.t, CMD), 0x1d); /* last write was a command */
	assert_reply(0x55);
	command(0xab, -1);
	assert_reply(0x00);
	assert_no_reply();
	assert_int_equal(f.t.edges[KBD], 0); /* a controller's reply does not interrupt */
}

static void
test_command_byte(void **state)
{
	command(0x20, -1);
	assert_reply(0x65);
	command(0x60, 0x74);
	command(0x20, -1);
	assert_reply(0x74);
	command(0xae, -1);
	command(0xa8, -1);
	command(0x20, -1);
	assert_reply(0x44);
	command(0xad, -1);
	command(0xa7, -1);
	command(0x20, -1);
	assert_reply(0x74);
	command(0x7f, 0x99); /* the other bytes are memory */
	command(0x3f, -1);
	assert_reply(0x99);
}

static void
assert_aux_reply(int val)
{
	assert_int_equal(inb(&f.t, CMD) & (0x20 | OBF), 0x20 | OBF);
	assert_int_equal(inb(&f.t, DATA), val);
}

/* To the mouse, which answers ACK. */
static void
mouse(uint8_t val)
{
	command(0xd4, val);
	assert_aux_reply(0xfa);
}

static void
test_aux_port(void **state)
{
	command(0xd3, 0x5a);
	assert_aux_reply(0x5a);
	command(0xa9, -1);
	assert_reply(0x00);
	mouse(0xf2);
	assert_aux_reply(0x00);
	/* What follows is for the keyboard again. */
	outb(&f.t, DATA, 0xee);
	assert_reply(0xee);
	/* Off: what the mouse has to say waits. */
	command(0xd4, 0xff);
	assert_aux_reply(0xfa);
	command(0xa7, -1);
	assert_int_equal(inb(&f.t, CMD) & (0x20 | OBF), 0x20 | OBF); /* this one was there before */
	assert_aux_reply(0xaa);
	assert_no_reply();
	command(0xa8, -1);
	assert_aux_reply(0x00);
}

#define NO_WHEEL INT_MIN

/* The next report, of three or four bytes. */
static void
assert_report(int flags, int dx, int dy, int dz)
{
	assert_true(f.t.level[I8042_AUX_IRQ]);
	assert_aux_reply(flags);
	assert_aux_reply(dx & 0xff);
	assert_aux_reply(dy & 0xff);
	if (dz != NO_WHEEL)
		assert_aux_reply(dz & 0xff);
}

static void
mouse_rate(uint8_t rate)
{
	mouse(0xf3);
	mouse(rate);
}

static void
test_mouse_reset_and_identify(void **state)
{
	mouse(0xff);
	assert_aux_reply(0xaa);
	assert_aux_reply(0x00);
	mouse(0xf2);
	assert_aux_reply(0x00);
	mouse(0xe9);
	assert_aux_reply(0x00);
	assert_aux_reply(2);
	assert_aux_reply(100);
	mouse_rate(200);
	mouse(0xe8);
	mouse(3);
	mouse(0xe7);
	mouse(0xf4);
	mouse(0xf0);
	mouse(0xe9);
	assert_aux_reply(0x70);
	assert_aux_reply(3);
	assert_aux_reply(200);
	mouse(0xf6);
	mouse(0xe9);
	assert_aux_reply(0x00);
	assert_aux_reply(2);
	assert_aux_reply(100);
	assert_no_reply();
}

static void
test_mouse_reports(void **state)
{
	command(0x60, 0x47);
	i8042_mouse_event(f.kbc, 5, 5, 0, 0); /* reports are off */
	assert_no_reply();
	mouse(0xf4);
	assert_no_reply(); /* and nothing waited for them */
	i8042_mouse_event(f.kbc, 10, -3, 2, 1);
	assert_report(0x08 | 0x20 | 1, 10, -3, NO_WHEEL);
	i8042_mouse_event(f.kbc, 0, 0, 0, 6);
	assert_report(0x08 | 6, 0, 0, NO_WHEEL);
	assert_false(f.t.level[I8042_AUX_IRQ]);
	i8042_mouse_event(f.kbc, 0, 0, 1, 6); /* no wheel was asked for */
	assert_no_reply();
	/* Too far for one report. */
	i8042_mouse_event(f.kbc, -300, 256, 0, 0);
	assert_report(0x08 | 0x10, -255, 255, NO_WHEEL);
	assert_report(0x08 | 0x10, -45, 1, NO_WHEEL);
	assert_no_reply();
	/* Scaled. */
	mouse(0xe7);
	i8042_mouse_event(f.kbc, 4, -200, 0, 0);
	assert_report(0x08 | 0x20, 6, -254, NO_WHEEL);
	assert_report(0x08 | 0x20, 0, -146, NO_WHEEL);
	assert_no_reply();
}

/* A guest that reads late finds every movement and every click. */
static void
test_mouse_flood(void **state)
{
	int dx = 0, clicks = 0, reports = 0;
	uint8_t before = 0;

	command(0x60, 0x47);
	mouse(0xf4);
	for (int i = 0; i < 1000; i++)
		i8042_mouse_event(f.kbc, i % 3, 0, 0, 0);
	for (int i = 0; i < 6; i++)
		i8042_mouse_event(f.kbc, 0, 0, 0, i % 2 == 0);
	i8042_mouse_event(f.kbc, INT_MAX, INT_MIN, INT_MAX, 0);
	i8042_mouse_event(f.kbc, INT_MIN, INT_MAX, INT_MIN, 0);
	i8042_mouse_event(f.kbc, 32767, -32767, 0, 0);
	for (; (inb(&f.t, CMD) & OBF) != 0; reports++) {
		uint8_t flags = inb(&f.t, DATA);

		clicks += (flags & 1) != 0 && (before & 1) == 0;
		before = flags;
		dx += inb(&f.t, DATA) - (flags & 0x10 ? 256 : 0);
		inb(&f.t, DATA);
		assert_true(reports < 1000);
	}
	assert_int_equal(clicks, 3);
	/* The extremes came to what can wait at most, and back. */
	assert_in_range(dx, 0, 1000);
	assert_int_equal(before & 1, 0);
}

static void
test_mouse_wheel(void **state)
{
	mouse_rate(200);
	mouse_rate(100);
	mouse_rate(80);
	mouse(0xf2);
	assert_aux_reply(0x03);
	command(0x60, 0x47);
	mouse(0xf4);
	i8042_mouse_event(f.kbc, 1, 2, -1, 0);
	assert_report(0x08, 1, 2, -1);
	i8042_mouse_event(f.kbc, 0, 0, 9, 0);
	assert_report(0x08, 0, 0, 7);
	assert_report(0x08, 0, 0, 2);
	assert_no_reply();
	mouse(0xff);
	assert_aux_reply(0xaa);
	assert_aux_reply(0x00);
	mouse(0xf2);
	assert_aux_reply(0x00);
}

/* Remote mode: it speaks when spoken to. */
static void
test_mouse_remote(void **state)
{
	command(0x60, 0x47);
	mouse(0xf0);
	mouse(0xf4);
	i8042_mouse_event(f.kbc, 3, 4, 0, 0);
	i8042_mouse_event(f.kbc, 3, 4, 0, 2);
	assert_no_reply();
	mouse(0xeb);
	assert_report(0x08 | 2, 6, 8, NO_WHEEL);
	mouse(0xeb);
	assert_report(0x08 | 2, 0, 0, NO_WHEEL);
	command(0xd4, 0xfe);
	assert_report(0x08 | 2, 0, 0, NO_WHEEL);
	mouse(0xea);
	i8042_mouse_event(f.kbc, 1, 1, 0, 2);
	assert_report(0x08 | 2, 1, 1, NO_WHEEL);
}

static void
test_mouse_errors(void **state)
{
	command(0xd4, 0x77);
	assert_aux_reply(0xfe);
	command(0xd4, 0xf1);
	assert_aux_reply(0xfc);
	mouse(0xf3);
	command(0xd4, 99); /* no such rate; the next is its argument still */
	assert_aux_reply(0xfe);
	mouse(60);
	mouse(0xe8);
	command(0xd4, 4);
	assert_aux_reply(0xfe);
	mouse(0xe9); /* a command instead */
	assert_aux_reply(0x00);
	assert_aux_reply(2);
	assert_aux_reply(60);
	/* Wrap mode: an echo. */
	mouse(0xee);
	command(0xd4, 0xf2);
	assert_aux_reply(0xf2);
	command(0xd4, 0x12);
	assert_aux_reply(0x12);
	mouse(0xec);
	mouse(0xf2);
	assert_aux_reply(0x00);
	assert_no_reply();
}

static void
test_keyboard_reset_and_identify(void **state)
{
	keyboard(0xff);
	assert_reply(0xaa);
	keyboard(0xf2);
	assert_reply(0xab);
	assert_reply(0x41); /* 0x83, translated */
	command(0x60, 0x05);
	keyboard(0xf2);
	assert_reply(0xab);
	assert_reply(0x83);
	assert_no_reply();
}

static void
test_keyboard_commands(void **state)
{
	keyboard(0xed);
	keyboard(0x07);
	keyboard(0xf3);
	keyboard(0x00);
	outb(&f.t, DATA, 0xee);
	assert_reply(0xee);
	outb(&f.t, DATA, 0xfe); /* resend */
	assert_reply(0xee);
	keyboard(0xf5);
	keyboard(0xf4);
	keyboard(0xf6);
	keyboard(0xf7);
	keyboard(0xfa);
	outb(&f.t, DATA, 0x00);
	assert_reply(0xfe);
	/* A command in place of an argument. */
	keyboard(0xed);
	outb(&f.t, DATA, 0xee);
	assert_reply(0xee);
	outb(&f.t, DATA, 0x02);
	assert_reply(0xfe);
}

static void
test_scan_code_sets(void **state)
{
	command(0x60, 0x05); /* untranslated */
	keyboard(0xf0);
	keyboard(0x00);
	assert_reply(2);
	key("\x1c\xf0\x1c", 3);
	assert_reply(0x1c);
	assert_reply(0xf0);
	assert_reply(0x1c);
	keyboard(0xf0);
	keyboard(0x01);
	keyboard(0xf0);
	keyboard(0x00);
	assert_reply(1);
	key("\x1c\xf0\x1c", 3);
	assert_reply(0x1e);
	assert_reply(0x9e);
	keyboard(0xf0);
	outb(&f.t, DATA, 0x03);
	assert_reply(0xfe);
	keyboard(0xf6);
	keyboard(0xf0);
	keyboard(0x00);
	assert_reply(2);
}

static void
test_keys_interrupt(void **state)
{
	key("\xe0\x75\xe0\xf0\x75", 5); /* cursor up, pressed and released */
	assert_true(f.t.level[KBD]);
	assert_reply(0xe0);
	assert_true(f.t.level[KBD]);
	assert_reply(0x48);
	assert_reply(0xe0);
	assert_reply(0xc8);
	assert_false(f.t.level[KBD]);
	assert_int_equal(f.t.edges[KBD], 4);
	assert_no_reply();
}

/* Every key of a keyboard has a code of its own in set 1. */
static void
test_translation_is_one_to_one(void **state)
{
	bool seen[256] = { false };

	for (unsigned code = 1; code <= 0x84; code++) {
		char make = (char)code;
		uint8_t out;

		if (code == 0x80 || code == 0x81 || code == 0x82 || code == 0x02 || code == 0x7f)
			continue; /* no keys */
		key(&make, 1);
		out = inb(&f.t, DATA);
		assert_in_range(out, 1, 0x7f);
		assert_false(seen[out]);
		seen[out] = true;
	}
}

static void
test_disabled_keyboard_waits(void **state)
{
	command(0xad, -1);
	key("\x1c", 1);
	assert_no_reply();
	command(0xae, -1);
	assert_reply(0x1e);
	/* Controller replies pass before keys. */
	key("\x1c\x32", 2);
	command(0x20, -1);
	assert_reply(0x1e);
	assert_reply(0x65);
	assert_reply(0x30);
	/* Without its interrupt enabled. */
	command(0x60, 0x64);
	key("\x1c", 1);
	assert_false(f.t.level[KBD]);
	command(0x60, 0x65);
	assert_true(f.t.level[KBD]);
	assert_reply(0x1e);
}

static void
test_scanning_off(void **state)
{
	keyboard(0xf5);
	key("\x1c", 1);
	assert_no_reply();
	keyboard(0xf4);
	key("\x1c", 1);
	assert_reply(0x1e);
}

/* Keys beyond the buffer are lost whole, one mark tells of them, and replies still get through. */
static void
test_overrun(void **state)
{
	int count = 0, marks = 0;

	command(0x60, 0x05);
	for (int i = 0; i < 1000; i++)
		key("\xf0\x1c", 2);
	while ((inb(&f.t, CMD) & OBF) != 0) {
		uint8_t val = inb(&f.t, DATA);

		if (val == 0)
			marks++;
		else
			assert_int_equal(val, count % 2 == 0 ? 0xf0 : 0x1c);
		count++;
		assert_true(count < 1000);
	}
	assert_int_equal(marks, 1);
	for (int i = 0; i < 1000; i++)
		key("\xf0\x1c", 2);
	outb(&f.t, DATA, 0xed);
	for (int i = 0; (inb(&f.t, CMD) & OBF) != 0; i++) {
		if (inb(&f.t, DATA) == 0xfa)
			return;
	}
	fail_msg("the reply was lost");
}

static void
test_output_port(void **state)
{
	command(0xd0, -1);
	assert_reply(0xc3);
	command(0xd1, 0xdd); /* A20 off */
	command(0xd0, -1);
	assert_reply(0xc1 | 0x0c);
	command(0xdf, -1);
	command(0xd0, -1);
	assert_reply(0xc3 | 0x0c);
	command(0xdd, -1);
	command(0xd0, -1);
	assert_reply(0xc1 | 0x0c);
	command(0xc0, -1);
	assert_reply(0x80);
	command(0xe0, -1);
	assert_reply(0x00);
	command(0xa4, -1);
	assert_reply(0xf1);
	assert_false(was_reset());
}

static void
test_write_keyboard_buffer(void **state)
{
	command(0xd2, 0x77);
	assert_true(f.t.level[KBD]);
	assert_reply(0x77);
	assert_false(f.t.level[KBD]);
}

static void
test_pulse_resets(void **state)
{
	command(0xfe, -1);
	assert_true(was_reset());
}

static void
test_pulse_nothing(void **state)
{
	command(0xff, -1);
	command(0xf1, -1);
	command(0xfd, -1);
	assert_false(was_reset());
}

static void
test_output_port_resets(void **state)
{
	command(0xd1, 0xfe);
	assert_true(was_reset());
}

static void
test_state(void **state)
{
	struct vm_state *saved;

	keyboard(0xed); /* an argument is outstanding, */
	key("\x1c\xf0", 2); /* a translated release half done, */
	command(0x20, -1); /* and a reply waits */
	saved = chip_save(&f.t);
	while ((inb(&f.t, CMD) & OBF) != 0)
		inb(&f.t, DATA);
	command(0x60, 0x30);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	assert_true(f.t.level[KBD]);
	assert_reply(0x1e);
	assert_reply(0x65);
	key("\x1c", 1);
	assert_reply(0x9e);
	outb(&f.t, DATA, 0x02);
	assert_reply(0xfa);
	vm_state_destroy(saved);
}

static uint64_t mutate_seed = 88172645463325252ull;

static void
mutate_one(uint8_t *data, size_t len)
{
	data[chip_random(&mutate_seed) % len] = (uint8_t)chip_random(&mutate_seed);
}

static void
test_hostile(void **state)
{
	struct vm_state *saved = chip_save(&f.t);
	uint64_t seed = 1234567;

	for (int i = 0; i < 300000; i++) {
		uint64_t r = chip_random(&seed);

		switch (r & 7) {
		case 0: chip_in(&f.t, DATA, 1 << (r >> 8 & 1)); break;
		case 1: chip_in(&f.t, CMD, 1); break;
		case 2:
		case 3: outb(&f.t, DATA, (uint8_t)(r >> 32)); break;
		case 4: i8042_key_event(f.kbc, (uint8_t *)&r, r >> 61); break;
		case 5: (void)(i % 64 == 5 && chip_load(&f.t, saved, mutate_one)); break;
		/* Not those that reset. */
		default:
			outb(&f.t, CMD, (uint8_t)((r >> 32) | ((r >> 36 & 15) == 15 ? 1 : 0)));
			break;
		}
	}
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	vm_state_destroy(saved);
	keyboard(0xff);
	assert_reply(0xaa);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_self_tests),
		TEST(test_command_byte),
		TEST(test_aux_port),
		TEST(test_mouse_reset_and_identify),
		TEST(test_mouse_reports),
		TEST(test_mouse_flood),
		TEST(test_mouse_wheel),
		TEST(test_mouse_remote),
		TEST(test_mouse_errors),
		TEST(test_keyboard_reset_and_identify),
		TEST(test_keyboard_commands),
		TEST(test_scan_code_sets),
		TEST(test_keys_interrupt),
		TEST(test_translation_is_one_to_one),
		TEST(test_disabled_keyboard_waits),
		TEST(test_scanning_off),
		TEST(test_overrun),
		TEST(test_output_port),
		TEST(test_write_keyboard_buffer),
		TEST(test_pulse_resets),
		TEST(test_pulse_nothing),
		TEST(test_output_port_resets),
		TEST(test_state),
		TEST(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
