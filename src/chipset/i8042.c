/*
 * Intel 8042 and keyboard. "AT" is IBM's AT Technical Reference 6280070, section "Keyboard
 * Controller" and, for the keyboard, "Keyboard"; "PS/2" is IBM's PS/2 Hardware Interface Technical
 * Reference.
 *
 *	keyboard: replies, keys  ->  (translation)  -\
 *	                                              >  output buffer, status, IRQ 1  ->  port 0x60
 *	controller: replies  -----------------------/
 *	mouse: replies, movement  ->  output buffer, status, IRQ 12  ->  port 0x60
 *
 * The output buffer holds one byte; the next enters it when the guest has read that.
 */
#include "chipset/i8042.h"
#include "chipset/ps2_mouse.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/state.h"

/* Status, port 0x64 (AT, "Status Register") */
#define KBC_ST_OBF BIT(0) /* a byte waits at port 0x60 */
#define KBC_ST_SYS BIT(2) /* as in the command byte */
#define KBC_ST_CMD BIT(3) /* the last write was to port 0x64 */
#define KBC_ST_UNLOCKED BIT(4) /* the keyboard lock is open */
#define KBC_ST_AUX BIT(5) /* the byte is the auxiliary device's (PS/2) */

/* Command byte (AT, command 60; PS/2) */
#define KBC_CB_KBD_INT BIT(0)
#define KBC_CB_AUX_INT BIT(1)
#define KBC_CB_SYS BIT(2)
#define KBC_CB_KBD_OFF BIT(4)
#define KBC_CB_AUX_OFF BIT(5)
#define KBC_CB_XLATE BIT(6) /* scan code set 2 to set 1 */

/* Commands, port 0x64 (AT, "Controller Commands"; PS/2 for the auxiliary device) */
#define KBC_READ_RAM 0x20 /* to 0x3f; byte 0 is the command byte */
#define KBC_WRITE_RAM 0x60 /* to 0x7f */
#define KBC_RAM_SIZE 32
#define KBC_PASSWORD_TEST 0xa4
#define KBC_PASSWORD_NONE 0xf1
#define KBC_AUX_OFF 0xa7
#define KBC_AUX_ON 0xa8
#define KBC_AUX_TEST 0xa9
#define KBC_AUX_TEST_OK 0x00
#define KBC_SELF_TEST 0xaa
#define KBC_SELF_TEST_OK 0x55
#define KBC_KBD_TEST 0xab
#define KBC_KBD_TEST_OK 0x00
#define KBC_KBD_OFF 0xad
#define KBC_KBD_ON 0xae
#define KBC_READ_INPUT 0xc0
#define KBC_INPUT_UNLOCKED BIT(7)
#define KBC_READ_OUTPUT 0xd0
#define KBC_WRITE_OUTPUT 0xd1
#define KBC_WRITE_KBD_BUFFER 0xd2
#define KBC_WRITE_AUX_BUFFER 0xd3
#define KBC_WRITE_AUX 0xd4
#define KBC_A20_OFF 0xdd
#define KBC_A20_ON 0xdf
#define KBC_READ_TEST 0xe0
#define KBC_PULSE 0xf0 /* to 0xff: output port bits 0 to 3, where 0, go low */

/* Output port (AT, "Output Port") */
#define KBC_OUT_RUN BIT(0) /* low: the processor is reset */
#define KBC_OUT_A20 BIT(1) /* kept, but address line 20 is always on */

/* Commands to the keyboard (AT, "Commands from the System") and what it answers */
#define KBD_SET_LEDS 0xed
#define KBD_ECHO 0xee
#define KBD_SET_SCANCODES 0xf0
#define KBD_IDENTIFY 0xf2
#define KBD_SET_RATE 0xf3
#define KBD_ENABLE 0xf4
#define KBD_DISABLE 0xf5
#define KBD_DEFAULTS 0xf6
#define KBD_ALL_KEYS 0xf7 /* to 0xfa: key types, of scan code set 3 */
#define KBD_ALL_KEYS_LAST 0xfa
#define KBD_RESEND_CMD 0xfe
#define KBD_RESET 0xff
#define KBD_TEST_OK 0xaa
#define KBD_ID_1 0xab
#define KBD_ID_2 0x83
#define KBD_ACK 0xfa
#define KBD_RESEND 0xfe
#define KBD_BREAK 0xf0 /* before a released key's code in set 2 */
#define KBD_OVERRUN 0x00
#define KBD_RATE_DEFAULT 0x2b /* 10.9 characters a second after half a second */
#define KBD_NO_ARGUMENT 0x00 /* no command has this number */

#define KBD_QUEUE_SIZE 64u /* more than the 17 bytes of the original: none overruns sooner */
#define KBC_REPLY_SIZE 4u

struct i8042 {
	struct vm *vm;
	struct vm_range data_range, command_range;

	pthread_mutex_t lock; /* everything below */
	uint8_t ram[KBC_RAM_SIZE]; /* ram[0] is the command byte */
	uint8_t output_port;
	uint8_t command; /* waits for its data at port 0x60, or 0 */
	uint8_t last_command; /* the last write was to port 0x64: 1 */
	uint8_t data; /* the output buffer */
	bool full;
	bool data_is_kbd; /* what is in it came from the keyboard, and interrupts */
	bool data_is_aux; /* or from the mouse */
	uint8_t reply[KBC_REPLY_SIZE]; /* the controller's own, next in reply[0] */
	uint8_t reply_count;
	bool after_break; /* translation: 0xf0 went by */

	uint8_t queue[KBD_QUEUE_SIZE]; /* queue[0] is next */
	uint8_t queue_count;
	uint8_t kbd_command; /* waits for its argument, or KBD_NO_ARGUMENT */
	uint8_t kbd_last; /* for KBD_RESEND_CMD */
	uint8_t kbd_set; /* scan code set, 1 or 2 */
	uint8_t kbd_leds, kbd_rate;
	bool kbd_scanning;

	struct ps2_mouse mouse;
};

/* Scan code set 2 to set 1 (AT, "Keyboard Scan Codes", and PS/2); codes from 0x80 on are unchanged
 * but for the two in kbc_translate(). */
static const uint8_t kbc_set1[128] = {
	0xff, 0x43, 0x41, 0x3f, 0x3d, 0x3b, 0x3c, 0x58, 0x64, 0x44, 0x42, 0x40,
	0x3e, 0x0f, 0x29, 0x59, 0x65, 0x38, 0x2a, 0x70, 0x1d, 0x10, 0x02, 0x5a,
	0x66, 0x71, 0x2c, 0x1f, 0x1e, 0x11, 0x03, 0x5b, 0x67, 0x2e, 0x2d, 0x20,
	0x12, 0x05, 0x04, 0x5c, 0x68, 0x39, 0x2f, 0x21, 0x14, 0x13, 0x06, 0x5d,
	0x69, 0x31, 0x30, 0x23, 0x22, 0x15, 0x07, 0x5e, 0x6a, 0x72, 0x32, 0x24,
	0x16, 0x08, 0x09, 0x5f, 0x6b, 0x33, 0x25, 0x17, 0x18, 0x0b, 0x0a, 0x60,
	0x6c, 0x34, 0x35, 0x26, 0x27, 0x19, 0x0c, 0x61, 0x6d, 0x73, 0x28, 0x74,
	0x1a, 0x0d, 0x62, 0x6e, 0x3a, 0x36, 0x1c, 0x1b, 0x75, 0x2b, 0x63, 0x76,
	0x55, 0x56, 0x77, 0x78, 0x79, 0x7a, 0x0e, 0x7b, 0x7c, 0x4f, 0x7d, 0x4b,
	0x47, 0x7e, 0x7f, 0x6f, 0x52, 0x53, 0x50, 0x4c, 0x4d, 0x48, 0x01, 0x45,
	0x57, 0x4e, 0x51, 0x4a, 0x37, 0x49, 0x46, 0x54,
};

/* --- Output buffer --- */

/* Translates a byte of set 2. False: nothing comes of it yet, it marks the next as a release. */
static bool
kbc_translate(bool *after_break, uint8_t code, uint8_t *out)
{
	uint8_t release = *after_break ? 0x80 : 0;

	if (code == KBD_BREAK) {
		*after_break = true;
		return false;
	}
	*after_break = false;
	if (code < sizeof(kbc_set1))
		*out = kbc_set1[code] | release;
	else if (code == 0x83) /* F7 */
		*out = 0x41 | release;
	else if (code == 0x84) /* Alt+SysRq */
		*out = 0x54 | release;
	else
		*out = code;
	return true;
}

static void
kbc_irq_update(struct i8042 *c)
{
	bool level = c->full && c->data_is_kbd && (c->ram[0] & KBC_CB_KBD_INT) != 0;

	vm_irq_set(c->vm, I8042_KBD_IRQ, level, c);
	level = c->full && c->data_is_aux && (c->ram[0] & KBC_CB_AUX_INT) != 0;
	vm_irq_set(c->vm, I8042_AUX_IRQ, level, c);
}

/* The next byte the keyboard sends; false if it has none, or none that leaves a byte after
 * translation. */
static bool
kbc_kbd_next(struct i8042 *c)
{
	while (c->queue_count > 0) {
		uint8_t code = c->queue[0];

		c->queue_count--;
		memmove(c->queue, c->queue + 1, c->queue_count);
		c->data = code;
		if ((c->ram[0] & KBC_CB_XLATE) == 0 ||
		    kbc_translate(&c->after_break, code, &c->data))
			return true;
	}
	return false;
}

/* Fills the output buffer if it is empty and something waits for it. */
static void
kbc_update(struct i8042 *c)
{
	if (!c->full && c->reply_count > 0) {
		c->data = c->reply[0];
		c->reply_count--;
		memmove(c->reply, c->reply + 1, c->reply_count);
		c->full = true;
		c->data_is_kbd = c->data_is_aux = false;
	} else if (!c->full && (c->ram[0] & KBC_CB_KBD_OFF) == 0 && kbc_kbd_next(c)) {
		c->full = true;
		c->data_is_kbd = true;
		c->data_is_aux = false;
	} else if (!c->full && (c->ram[0] & KBC_CB_AUX_OFF) == 0 &&
	    ps2_mouse_next(&c->mouse, &c->data)) {
		c->full = true;
		c->data_is_kbd = false;
		c->data_is_aux = true;
	}
	kbc_irq_update(c);
}

/* A guest that asks and never reads loses the answers. */
static void
kbc_reply(struct i8042 *c, uint8_t val)
{
	if (c->reply_count < KBC_REPLY_SIZE)
		c->reply[c->reply_count++] = val;
}

/* --- Keyboard --- */

static void
kbd_send(struct i8042 *c, uint8_t val)
{
	if (c->queue_count < KBD_QUEUE_SIZE)
		c->queue[c->queue_count++] = val;
	c->kbd_last = val;
}

static void
kbd_defaults(struct i8042 *c)
{
	c->queue_count = 0;
	c->after_break = false;
	c->kbd_set = 2;
	c->kbd_rate = KBD_RATE_DEFAULT;
	c->kbd_command = KBD_NO_ARGUMENT;
}

/* The byte after a command that takes one. */
static void
kbd_argument(struct i8042 *c, uint8_t command, uint8_t val)
{
	if (command == KBD_SET_SCANCODES && val > 2) {
		/* Set 3 is not there. */
		kbd_send(c, KBD_RESEND);
		return;
	}
	kbd_send(c, KBD_ACK);
	if (command == KBD_SET_LEDS)
		c->kbd_leds = val;
	else if (command == KBD_SET_RATE)
		c->kbd_rate = val;
	else if (val == 0)
		kbd_send(c, c->kbd_set);
	else
		c->kbd_set = val;
}

static void
kbd_command(struct i8042 *c, uint8_t val)
{
	switch (val) {
	case KBD_SET_LEDS:
	case KBD_SET_SCANCODES:
	case KBD_SET_RATE:
		kbd_send(c, KBD_ACK);
		c->kbd_command = val;
		break;
	case KBD_ECHO: kbd_send(c, KBD_ECHO); break;
	case KBD_IDENTIFY:
		kbd_send(c, KBD_ACK);
		kbd_send(c, KBD_ID_1);
		kbd_send(c, KBD_ID_2);
		break;
	case KBD_ENABLE:
	case KBD_DISABLE:
	case KBD_DEFAULTS:
		kbd_defaults(c);
		/* F6 leaves scanning as it is. */
		if (val != KBD_DEFAULTS)
			c->kbd_scanning = val == KBD_ENABLE;
		kbd_send(c, KBD_ACK);
		break;
	case KBD_ALL_KEYS ... KBD_ALL_KEYS_LAST: kbd_send(c, KBD_ACK); break;
	case KBD_RESEND_CMD: kbd_send(c, c->kbd_last); break;
	case KBD_RESET:
		kbd_defaults(c);
		c->kbd_leds = 0;
		c->kbd_scanning = true;
		kbd_send(c, KBD_ACK);
		kbd_send(c, KBD_TEST_OK);
		break;
	default: kbd_send(c, KBD_RESEND); break;
	}
}

static void
kbd_write(struct i8042 *c, uint8_t val)
{
	uint8_t command = c->kbd_command;

	c->kbd_command = KBD_NO_ARGUMENT;
	/* A command in place of the argument begins anew (AT, "Set/Reset Status Indicators"). */
	if (command != KBD_NO_ARGUMENT && val < KBD_SET_LEDS)
		kbd_argument(c, command, val);
	else
		kbd_command(c, val);
}

void
i8042_key_event(struct i8042 *c, const uint8_t *codes, size_t len)
{
	bool after_break = false;

	pthread_mutex_lock(&c->lock);
	/* One place is kept for the overrun mark, one half for replies. */
	if (!c->kbd_scanning || len == 0 || c->queue_count > KBD_QUEUE_SIZE / 2)
		goto unlock;
	if (len > KBD_QUEUE_SIZE / 2 - c->queue_count) {
		if (c->kbd_last != KBD_OVERRUN)
			kbd_send(c, KBD_OVERRUN);
		goto update;
	}
	for (size_t i = 0; i < len; i++) {
		uint8_t code = codes[i];

		if (c->kbd_set != 1 || kbc_translate(&after_break, code, &code))
			kbd_send(c, code);
	}
update:
	kbc_update(c);
unlock:
	pthread_mutex_unlock(&c->lock);
}

void
i8042_mouse_event(struct i8042 *c, int dx, int dy, int dz, unsigned buttons)
{
	pthread_mutex_lock(&c->lock);
	ps2_mouse_event(&c->mouse, dx, dy, dz, buttons);
	kbc_update(c);
	pthread_mutex_unlock(&c->lock);
}

/* --- Controller --- */

/* The output port; the guest asks for a reset by pulling bit 0 low. */
static bool
kbc_output_write(struct i8042 *c, uint8_t val)
{
	c->output_port = val | KBC_OUT_RUN;
	return (val & KBC_OUT_RUN) == 0;
}

static uint8_t
kbc_output_read(const struct i8042 *c)
{
	/* PS/2: bit 4 is IRQ 1, bit 5 IRQ 12. */
	return (c->output_port & 0x0f) | 0xc0 | (c->full && c->data_is_kbd ? BIT(4) : 0) |
	    (c->full && c->data_is_aux ? BIT(5) : 0);
}

/* A byte at port 0x64. True: the machine is to be reset. */
static bool
kbc_command(struct i8042 *c, uint8_t val)
{
	c->command = 0;
	switch (val) {
	case KBC_READ_RAM ... KBC_READ_RAM + KBC_RAM_SIZE - 1:
		kbc_reply(c, c->ram[val - KBC_READ_RAM]);
		break;
	case KBC_WRITE_RAM ... KBC_WRITE_RAM + KBC_RAM_SIZE - 1:
	case KBC_WRITE_OUTPUT:
	case KBC_WRITE_KBD_BUFFER:
	case KBC_WRITE_AUX_BUFFER:
	case KBC_WRITE_AUX: c->command = val; break;
	case KBC_PASSWORD_TEST: kbc_reply(c, KBC_PASSWORD_NONE); break;
	case KBC_AUX_OFF: c->ram[0] |= KBC_CB_AUX_OFF; break;
	case KBC_AUX_ON: c->ram[0] &= ~KBC_CB_AUX_OFF; break;
	case KBC_AUX_TEST: kbc_reply(c, KBC_AUX_TEST_OK); break;
	case KBC_SELF_TEST:
		c->ram[0] |= KBC_CB_SYS;
		kbc_reply(c, KBC_SELF_TEST_OK);
		break;
	case KBC_KBD_TEST: kbc_reply(c, KBC_KBD_TEST_OK); break;
	case KBC_KBD_OFF: c->ram[0] |= KBC_CB_KBD_OFF; break;
	case KBC_KBD_ON: c->ram[0] &= ~KBC_CB_KBD_OFF; break;
	case KBC_READ_INPUT: kbc_reply(c, KBC_INPUT_UNLOCKED); break;
	case KBC_READ_OUTPUT: kbc_reply(c, kbc_output_read(c)); break;
	case KBC_A20_OFF: c->output_port &= ~KBC_OUT_A20; break;
	case KBC_A20_ON: c->output_port |= KBC_OUT_A20; break;
	case KBC_READ_TEST: kbc_reply(c, 0); break;
	case KBC_PULSE ... 0xff: return (val & KBC_OUT_RUN) == 0;
	default: log_guest("i8042", "unknown command 0x%02x", val); break;
	}
	return false;
}

/* A byte at port 0x60. True: the machine is to be reset. */
static bool
kbc_data(struct i8042 *c, uint8_t val)
{
	uint8_t command = c->command;

	c->command = 0;
	switch (command) {
	case KBC_WRITE_RAM ... KBC_WRITE_RAM + KBC_RAM_SIZE - 1:
		c->ram[command - KBC_WRITE_RAM] = val;
		break;
	case KBC_WRITE_OUTPUT: return kbc_output_write(c, val);
	case KBC_WRITE_KBD_BUFFER:
		/* As if the keyboard had sent it, without translation. */
		if (!c->full) {
			c->data = val;
			c->full = c->data_is_kbd = true;
			c->data_is_aux = false;
		}
		break;
	case KBC_WRITE_AUX_BUFFER:
		/* As if the mouse had sent it. */
		if (!c->full) {
			c->data = val;
			c->full = c->data_is_aux = true;
			c->data_is_kbd = false;
		}
		break;
	case KBC_WRITE_AUX:
		/* As with the keyboard, sending switches the interface on. */
		c->ram[0] &= ~KBC_CB_AUX_OFF;
		ps2_mouse_write(&c->mouse, val);
		break;
	default:
		/* Sending to the keyboard switches its interface on (AT, "Input Buffer"). */
		c->ram[0] &= ~KBC_CB_KBD_OFF;
		kbd_write(c, val);
		break;
	}
	return false;
}

/* --- Ports --- */

static uint64_t
i8042_data_read(void *ctx, uint64_t off, int size)
{
	struct i8042 *c = ctx;
	uint8_t val;

	pthread_mutex_lock(&c->lock);
	val = c->data;
	if (c->full) {
		c->full = false;
		/* The line goes down before the next byte raises it: an edge for each. */
		kbc_irq_update(c);
		kbc_update(c);
	}
	pthread_mutex_unlock(&c->lock);
	return val;
}

static void
i8042_data_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct i8042 *c = ctx;
	bool reset;

	pthread_mutex_lock(&c->lock);
	c->last_command = 0;
	reset = kbc_data(c, (uint8_t)val);
	kbc_update(c);
	pthread_mutex_unlock(&c->lock);
	if (reset)
		vm_shutdown(c->vm, VM_EXIT_REBOOT);
}

static uint64_t
i8042_status_read(void *ctx, uint64_t off, int size)
{
	struct i8042 *c = ctx;
	uint8_t val = KBC_ST_UNLOCKED;

	pthread_mutex_lock(&c->lock);
	if (c->full)
		val |= KBC_ST_OBF | (c->data_is_aux ? KBC_ST_AUX : 0);
	if ((c->ram[0] & KBC_CB_SYS) != 0)
		val |= KBC_ST_SYS;
	if (c->last_command != 0)
		val |= KBC_ST_CMD;
	pthread_mutex_unlock(&c->lock);
	return val;
}

static void
i8042_command_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct i8042 *c = ctx;
	bool reset;

	pthread_mutex_lock(&c->lock);
	c->last_command = 1;
	reset = kbc_command(c, (uint8_t)val);
	kbc_update(c);
	pthread_mutex_unlock(&c->lock);
	if (reset)
		vm_shutdown(c->vm, VM_EXIT_REBOOT);
}

static const struct vm_range_ops i8042_data_ops = { "i8042", i8042_data_read, i8042_data_write, 1,
	1 };
static const struct vm_range_ops i8042_command_ops = { "i8042", i8042_status_read,
	i8042_command_write, 1, 1 };

/* --- State --- */

static int
i8042_state(void *ctx, struct vm_state *s)
{
	struct i8042 *c = ctx;
	uint8_t *const regs[] = { &c->output_port, &c->command, &c->last_command, &c->data,
		&c->reply_count, &c->queue_count, &c->kbd_command, &c->kbd_last, &c->kbd_set,
		&c->kbd_leds, &c->kbd_rate };
	bool *const flags[] = { &c->full, &c->data_is_kbd, &c->data_is_aux, &c->after_break,
		&c->kbd_scanning };

	vm_state_section(s, "i8042", 0, 1);
	vm_state_bytes(s, c->ram, sizeof(c->ram));
	for (size_t i = 0; i < ARRAY_SIZE(regs); i++)
		vm_state_u8(s, regs[i]);
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		vm_state_bool(s, flags[i]);
	vm_state_bytes(s, c->reply, sizeof(c->reply));
	vm_state_bytes(s, c->queue, sizeof(c->queue));
	ps2_mouse_state(&c->mouse, s);
	if (vm_state_loading(s)) {
		/* What was refused must still be safe to run on. */
		if (c->reply_count > KBC_REPLY_SIZE || c->queue_count > KBD_QUEUE_SIZE) {
			vm_state_reject(s, "i8042 queue out of range");
			c->reply_count = c->queue_count = 0;
		}
		kbc_irq_update(c);
	}
	return vm_state_end(s);
}

int
i8042_create(struct vm *vm, struct i8042 **out)
{
	struct i8042 *c = calloc(1, sizeof(*c));
	int err;

	if (c == NULL)
		return -ENOMEM;
	c->vm = vm;
	/* As a BIOS leaves it: tested, keyboard on and translated, with its interrupt. */
	c->ram[0] = KBC_CB_KBD_INT | KBC_CB_SYS | KBC_CB_AUX_OFF | KBC_CB_XLATE;
	c->output_port = KBC_OUT_RUN | KBC_OUT_A20;
	kbd_defaults(c);
	c->kbd_scanning = true;
	ps2_mouse_reset(&c->mouse);
	pthread_mutex_init(&c->lock, NULL);
	c->data_range = (struct vm_range){ &i8042_data_ops, c, VM_PIO, I8042_DATA, 1, false };
	c->command_range =
	    (struct vm_range){ &i8042_command_ops, c, VM_PIO, I8042_COMMAND, 1, false };
	err = vm_range_add(vm, &c->data_range);
	if (err == 0)
		err = vm_range_add(vm, &c->command_range);
	if (err == 0)
		err = vm_state_register(vm, i8042_state, c);
	if (err != 0) {
		i8042_destroy(c);
		return err;
	}
	*out = c;
	return 0;
}

void
i8042_destroy(struct i8042 *c)
{
	if (c == NULL)
		return;
	/* A range that was not added is not found. */
	vm_range_remove(c->vm, &c->data_range);
	vm_range_remove(c->vm, &c->command_range);
	pthread_mutex_destroy(&c->lock);
	free(c);
}
