/*
 * The 16550A against its data sheet, what drivers do with it, and a peer that is slow or gone.
 */
#include "chip_test.h"

#include "chardev/chardev.h"
#include "chipset/uart.h"

#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define COM1 0x3f8
#define RBR (COM1 + 0)
#define THR (COM1 + 0)
#define IER (COM1 + 1)
#define IIR (COM1 + 2)
#define FCR (COM1 + 2)
#define LCR (COM1 + 3)
#define MCR (COM1 + 4)
#define LSR (COM1 + 5)
#define MSR (COM1 + 6)
#define SCR (COM1 + 7)

#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_THRE 0x20
#define LSR_EMPTY 0x60

#define SECOND 1000000000ull

struct fixture {
	struct chip_test t;
	struct chardev *chardev;
	struct uart *uart;
	int peer; /* the line's other end, non-blocking */
};

static struct fixture f; /* of the test that runs */

/* Runs what is ready until nothing is. */
static void
settle(void)
{
	while (vm_loop_poll(vm_loop(f.t.vm), 0) > 0)
		;
}

static void
peer_connect(const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);
	f.peer = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	assert_true(f.peer >= 0);
	assert_int_equal(connect(f.peer, (struct sockaddr *)&sun, sizeof(sun)), 0);
}

static int
setup_line(bool line)
{
	char path[64], spec[80];
	struct uart_params params = uart_com[0];

	chip_test_init(&f.t, MIB(1));
	f.peer = -1;
	f.chardev = NULL;
	if (line) {
		snprintf(path, sizeof(path), "/tmp/bhyve-test-uart-%d", (int)getpid());
		snprintf(spec, sizeof(spec), "unix=%s", path);
		assert_int_equal(chardev_open(vm_loop(f.t.vm), spec, "com1", &f.chardev), 0);
		peer_connect(path);
	}
	params.chardev = f.chardev;
	assert_int_equal(uart_create(f.t.vm, &params, &f.uart), 0);
	settle();
	return 0;
}

static int
setup(void **state)
{
	return setup_line(false);
}

static int
setup_connected(void **state)
{
	return setup_line(true);
}

static int
teardown(void **state)
{
	uart_destroy(f.uart);
	chardev_close(f.chardev);
	if (f.peer >= 0)
		close(f.peer);
	vm_destroy(f.t.vm);
	return 0;
}

static void
test_reset_values(void **state)
{
	assert_int_equal(inb(&f.t, IER), 0);
	assert_int_equal(inb(&f.t, IIR), 0x01);
	assert_int_equal(inb(&f.t, LCR), 0);
	assert_int_equal(inb(&f.t, MCR), 0);
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY);
	/* CTS, DSR, DCD: the peer is ready. */
	assert_int_equal(inb(&f.t, MSR), 0xb0);
	assert_int_equal(f.t.edges[4], 0);
}

static void
test_registers(void **state)
{
	outb(&f.t, SCR, 0xa5);
	assert_int_equal(inb(&f.t, SCR), 0xa5);
	outb(&f.t, IER, 0xff);
	assert_int_equal(inb(&f.t, IER), 0x0f);
	outb(&f.t, MCR, 0xff);
	assert_int_equal(inb(&f.t, MCR), 0x1f);
	outb(&f.t, LCR, 0x7f);
	assert_int_equal(inb(&f.t, LCR), 0x7f);
	/* LSR and MSR are read-only. */
	outb(&f.t, MCR, 0);
	inb(&f.t, MSR);
	outb(&f.t, LSR, 0xff);
	outb(&f.t, MSR, 0xff);
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY);
	assert_int_equal(inb(&f.t, MSR), 0xb0);
}

static void
test_divisor_latch(void **state)
{
	outb(&f.t, IER, 0x05);
	outb(&f.t, LCR, 0x83);
	outb(&f.t, COM1 + 0, 0x34);
	outb(&f.t, COM1 + 1, 0x12);
	assert_int_equal(inb(&f.t, COM1 + 0), 0x34);
	assert_int_equal(inb(&f.t, COM1 + 1), 0x12);
	outb(&f.t, LCR, 0x03);
	assert_int_equal(inb(&f.t, IER), 0x05);
}

static void
test_wide_access(void **state)
{
	chip_out(&f.t, SCR - 1, 2, 0x5aff);
	assert_int_equal(inb(&f.t, SCR), 0x5a);
	assert_int_equal(chip_in(&f.t, SCR - 1, 2), 0x5ab0);
}

/* FIFO bits of IIR tell a 16550A: 00 without, 11 with FIFOs. */
static void
test_fifo_identification(void **state)
{
	assert_int_equal(inb(&f.t, IIR) & 0xf0, 0x00);
	outb(&f.t, FCR, 0x01);
	assert_int_equal(inb(&f.t, IIR) & 0xf0, 0xc0);
	outb(&f.t, FCR, 0xe1); /* no 64-byte mode */
	assert_int_equal(inb(&f.t, IIR) & 0xf0, 0xc0);
	outb(&f.t, FCR, 0x00);
	assert_int_equal(inb(&f.t, IIR) & 0xf0, 0x00);
}

static void
test_loop_modem(void **state)
{
	/* What drivers probe with: OUT2 and RTS come back as DCD and CTS. */
	outb(&f.t, MCR, MCR_LOOP | 0x0a);
	assert_int_equal(inb(&f.t, MSR) & 0xf0, 0x90);
	outb(&f.t, MCR, MCR_LOOP | 0x05);
	assert_int_equal(inb(&f.t, MSR), 0x60 | 0x0b); /* RI, DSR; DCTS, DDSR, DDCD */
	assert_int_equal(inb(&f.t, MSR), 0x60);
	outb(&f.t, MCR, MCR_LOOP | 0x01);
	assert_int_equal(inb(&f.t, MSR), 0x20 | 0x04); /* TERI: RI fell */
	outb(&f.t, MCR, MCR_LOOP | 0x05);
	assert_int_equal(inb(&f.t, MSR), 0x60); /* and rose: no delta */
}

static void
test_loop_data(void **state)
{
	outb(&f.t, MCR, MCR_LOOP);
	outb(&f.t, THR, 'x');
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY | LSR_DR);
	assert_int_equal(inb(&f.t, RBR), 'x');
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY);
	/* Without FIFO the second character overruns the first. */
	outb(&f.t, THR, 'a');
	outb(&f.t, THR, 'b');
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY | LSR_DR | LSR_OE);
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY | LSR_DR);
	assert_int_equal(inb(&f.t, RBR), 'b');
}

static void
test_loop_fifo_overrun(void **state)
{
	outb(&f.t, FCR, 0x01);
	outb(&f.t, MCR, MCR_LOOP);
	for (int i = 0; i < 17; i++)
		outb(&f.t, THR, (uint8_t)i);
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY | LSR_DR | LSR_OE);
	for (int i = 0; i < 16; i++)
		assert_int_equal(inb(&f.t, RBR), i);
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY);
}

static void
test_fifo_clear(void **state)
{
	outb(&f.t, FCR, 0x01);
	outb(&f.t, MCR, MCR_LOOP);
	outb(&f.t, THR, 'x');
	outb(&f.t, FCR, 0x03);
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY);
	/* Leaving FIFO mode clears too. */
	outb(&f.t, THR, 'x');
	outb(&f.t, FCR, 0x00);
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY);
}

static void
test_out2_gates(void **state)
{
	outb(&f.t, IER, 0x02);
	assert_false(f.t.level[4]);
	outb(&f.t, MCR, MCR_OUT2);
	assert_true(f.t.level[4]);
	outb(&f.t, MCR, MCR_OUT2 | MCR_LOOP);
	assert_false(f.t.level[4]);
	outb(&f.t, MCR, MCR_OUT2);
	assert_true(f.t.level[4]);
	outb(&f.t, IER, 0x00);
	assert_false(f.t.level[4]);
}

/* Drivers test that enabling the interrupt with an empty THR raises it, each time. */
static void
test_thre_reasserts(void **state)
{
	for (int i = 0; i < 3; i++) {
		outb(&f.t, IER, 0x02);
		assert_int_equal(inb(&f.t, IIR), 0x02);
		assert_int_equal(inb(&f.t, IIR), 0x01); /* reading cleared it */
		outb(&f.t, IER, 0x00);
	}
	outb(&f.t, IER, 0x02);
	outb(&f.t, THR, 'x');
	assert_int_equal(inb(&f.t, IIR), 0x02);
}

/* An enabled THRE interrupt comes by itself, to a guest that does not look. */
static void
test_thre_by_timer(void **state)
{
	outb(&f.t, MCR, MCR_OUT2);
	outb(&f.t, IER, 0x02);
	assert_int_equal(inb(&f.t, IIR), 0x02);
	assert_false(f.t.level[4]);
	outb(&f.t, THR, 'x');
	assert_false(f.t.level[4]);
	chip_step(&f.t, 1000000);
	assert_true(f.t.level[4]);
	assert_int_equal(f.t.edges[4], 2);
}

/* A handler that writes until IIR says there is no more must come to an end, and the interrupt goes
 * on. */
static void
test_thre_burst_ends(void **state)
{
	int writes = 0;

	outb(&f.t, FCR, 0x01);
	outb(&f.t, MCR, MCR_OUT2);
	outb(&f.t, IER, 0x02);
	while ((inb(&f.t, IIR) & 0x0f) == 0x02) {
		outb(&f.t, THR, 'x');
		assert_true(++writes < 512);
	}
	assert_true(writes > 16);
	assert_false(f.t.level[4]);
	chip_step(&f.t, 1000000);
	assert_true(f.t.level[4]);
	assert_int_equal(inb(&f.t, IIR) & 0x0f, 0x02);
}

/* Line status before data before timeout before THRE before modem status (table 4). */
static void
test_priorities(void **state)
{
	outb(&f.t, FCR, 0x01);
	outb(&f.t, MCR, MCR_LOOP);
	inb(&f.t, MSR); /* forget that the inputs changed */
	for (int i = 0; i < 17; i++)
		outb(&f.t, THR, 'x');
	outb(&f.t, MCR, MCR_LOOP | 0x02); /* DCTS */
	outb(&f.t, IER, 0x0f);
	assert_int_equal(inb(&f.t, IIR), 0xc6);
	inb(&f.t, LSR);
	assert_int_equal(inb(&f.t, IIR), 0xc4);
	outb(&f.t, FCR, 0x03);
	assert_int_equal(inb(&f.t, IIR), 0xc2);
	assert_int_equal(inb(&f.t, IIR), 0xc0);
	inb(&f.t, MSR);
	assert_int_equal(inb(&f.t, IIR), 0xc1);
}

static void
test_trigger_levels(void **state)
{
	static const int levels[] = { 1, 4, 8, 14 };

	outb(&f.t, MCR, MCR_LOOP);
	outb(&f.t, IER, 0x01);
	for (unsigned n = 0; n < 4; n++) {
		outb(&f.t, FCR, (uint8_t)(0x03 | n << 6));
		for (int i = 1; i <= levels[n]; i++) {
			assert_int_equal(inb(&f.t, IIR), 0xc1);
			outb(&f.t, THR, 'x');
		}
		assert_int_equal(inb(&f.t, IIR), 0xc4);
		inb(&f.t, RBR);
		assert_int_equal(inb(&f.t, IIR), 0xc1);
	}
}

/* Characters below the trigger level interrupt after four character times. */
static void
test_fifo_timeout(void **state)
{
	uint64_t four = 4 * 10 * SECOND / 9600;

	outb(&f.t, LCR, 0x83);
	outb(&f.t, COM1, 12); /* 9600 baud */
	outb(&f.t, LCR, 0x03); /* 8N1 */
	outb(&f.t, FCR, 0x81);
	outb(&f.t, IER, 0x01);
	outb(&f.t, MCR, MCR_LOOP);
	outb(&f.t, THR, 'a');
	chip_step(&f.t, four - 10000);
	outb(&f.t, THR, 'b'); /* starts it anew */
	chip_step(&f.t, four - 10000);
	assert_int_equal(inb(&f.t, IIR), 0xc1);
	chip_step(&f.t, 20000);
	assert_int_equal(inb(&f.t, IIR), 0xcc);
	assert_int_equal(inb(&f.t, RBR), 'a'); /* reading clears it */
	assert_int_equal(inb(&f.t, IIR), 0xc1);
	chip_step(&f.t, four + 10000);
	assert_int_equal(inb(&f.t, IIR), 0xcc);
	assert_int_equal(inb(&f.t, RBR), 'b');
	chip_step(&f.t, SECOND);
	assert_int_equal(inb(&f.t, IIR), 0xc1);
}

/* The slowest line a guest can set must not keep characters for minutes. */
static void
test_fifo_timeout_bound(void **state)
{
	outb(&f.t, LCR, 0x9f);
	outb(&f.t, COM1, 0xff);
	outb(&f.t, COM1 + 1, 0xff);
	outb(&f.t, LCR, 0x1f);
	outb(&f.t, FCR, 0x81);
	outb(&f.t, IER, 0x01);
	outb(&f.t, MCR, MCR_LOOP);
	outb(&f.t, THR, 'a');
	chip_step(&f.t, SECOND / 50);
	assert_int_equal(inb(&f.t, IIR), 0xcc);
	/* A divisor of 0 does not divide. */
	outb(&f.t, LCR, 0x80);
	outb(&f.t, COM1, 0);
	outb(&f.t, COM1 + 1, 0);
	outb(&f.t, LCR, 0x03);
	outb(&f.t, THR, 'b');
}

static void
peer_send(const char *text)
{
	assert_int_equal(write(f.peer, text, strlen(text)), (ssize_t)strlen(text));
	settle();
}

static void
assert_peer_got(const char *text)
{
	char buf[256];
	ssize_t n;

	chip_step(&f.t, 10000000);
	settle();
	n = read(f.peer, buf, sizeof(buf));
	assert_int_equal(n, (ssize_t)strlen(text));
	assert_memory_equal(buf, text, strlen(text));
}

static void
test_output(void **state)
{
	for (const char *p = "hello\r\n"; *p != '\0'; p++) {
		assert_int_equal(inb(&f.t, LSR) & LSR_EMPTY, LSR_EMPTY);
		outb(&f.t, THR, (uint8_t)*p);
	}
	assert_peer_got("hello\r\n");
}

static void
test_input_interrupts(void **state)
{
	outb(&f.t, FCR, 0x01);
	outb(&f.t, MCR, MCR_OUT2);
	outb(&f.t, IER, 0x01);
	peer_send("ab");
	assert_true(f.t.level[4]);
	assert_int_equal(inb(&f.t, IIR), 0xc4);
	assert_int_equal(inb(&f.t, RBR), 'a');
	assert_true(f.t.level[4]);
	assert_int_equal(inb(&f.t, RBR), 'b');
	assert_false(f.t.level[4]);
	assert_int_equal(inb(&f.t, LSR) & LSR_DR, 0);
}

/* What a driver does when it starts: none of it may lose what came before it listens. */
static void
test_input_before_guest_listens(void **state)
{
	peer_send("early");
	outb(&f.t, FCR, 0x01);
	outb(&f.t, FCR, 0x07);
	outb(&f.t, FCR, 0x00);
	inb(&f.t, LSR);
	inb(&f.t, RBR);
	inb(&f.t, IIR);
	inb(&f.t, MSR);
	/* Console output, which waits for the transmitter. */
	for (int i = 0; i < 100; i++) {
		inb(&f.t, LSR);
		outb(&f.t, THR, '.');
	}
	settle();
	outb(&f.t, FCR, 0x07);
	assert_int_equal(inb(&f.t, LSR) & LSR_DR, 0);
	outb(&f.t, IER, 0x01);
	settle();
	for (const char *p = "early"; *p != '\0'; p++) {
		assert_int_equal(inb(&f.t, LSR) & LSR_DR, LSR_DR);
		assert_int_equal(inb(&f.t, RBR), *p);
	}
}

/* All that has come so far is read and is as expected. */
static void
assert_received(const char *text)
{
	for (const char *p = text; *p != '\0'; p++) {
		assert_int_equal(inb(&f.t, LSR) & LSR_DR, LSR_DR);
		assert_int_equal(inb(&f.t, RBR), *p);
		settle();
	}
	assert_int_equal(inb(&f.t, LSR) & LSR_DR, 0);
}

/* Linux's driver opens the port: it clears the FIFOs, and enables interrupts before it has set the
 * line's mode, which switches the FIFO on. */
static void
linux_open(void)
{
	outb(&f.t, IER, 0x00);
	outb(&f.t, FCR, 0x01);
	outb(&f.t, FCR, 0x07);
	outb(&f.t, FCR, 0x00);
	inb(&f.t, LSR);
	inb(&f.t, RBR);
	inb(&f.t, IIR);
	inb(&f.t, MSR);
	outb(&f.t, LCR, 0x03);
	outb(&f.t, MCR, MCR_OUT2 | 1);
	outb(&f.t, IER, 0x05);
	settle();
	outb(&f.t, LCR, 0x93);
	outb(&f.t, COM1, 1);
	outb(&f.t, LCR, 0x13);
	outb(&f.t, FCR, 0x01);
	outb(&f.t, FCR, 0x81);
	outb(&f.t, MCR, MCR_OUT2 | 3);
	settle();
}

static void
linux_close(void)
{
	outb(&f.t, IER, 0x00);
	outb(&f.t, MCR, MCR_OUT2 | 3);
	outb(&f.t, FCR, 0x01);
	outb(&f.t, FCR, 0x07);
	outb(&f.t, FCR, 0x00);
	inb(&f.t, RBR);
}

static void
test_input_while_linux_opens(void **state)
{
	peer_send("poweroff\n");
	linux_open();
	assert_received("poweroff\n");
}

/* What came while the port was open and was not read waits for the next one to open it. */
static void
test_input_while_linux_closes(void **state)
{
	char text[200];

	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)('a' + i % 26);
	text[sizeof(text) - 1] = '\0';
	linux_open();
	peer_send(text);
	for (int i = 0; i < 5; i++)
		assert_int_equal(inb(&f.t, RBR), text[i]);
	linux_close();
	peer_send("more");
	assert_int_equal(inb(&f.t, LSR) & LSR_DR, 0);
	linux_open();
	for (int i = 5; i < (int)sizeof(text) - 1; i++)
		assert_int_equal(inb(&f.t, RBR), text[i]);
	settle();
	assert_received("more");
}

/* A driver that listens and clears the FIFO wants to be rid of what is in it, and of no more. */
static void
test_input_cleared(void **state)
{
	outb(&f.t, FCR, 0x01);
	outb(&f.t, IER, 0x01);
	peer_send("0123456789abcdefXY");
	outb(&f.t, FCR, 0x03);
	settle();
	assert_received("XY");
}

/* What the guest sent to itself does not come from the line. */
static void
test_loop_data_is_not_returned(void **state)
{
	outb(&f.t, FCR, 0x01);
	outb(&f.t, MCR, MCR_LOOP);
	outb(&f.t, THR, 'x');
	outb(&f.t, MCR, 0);
	outb(&f.t, FCR, 0x00);
	outb(&f.t, IER, 0x01);
	assert_received("");
}

/* Fills the host's buffers with a pattern until the UART says it is not empty; returns how many. */
static unsigned
fill_output(void)
{
	unsigned sent = 0;

	while ((inb(&f.t, LSR) & LSR_THRE) != 0) {
		outb(&f.t, THR, (uint8_t)(sent * 31 >> 3));
		sent++;
		if (sent % 1024 == 0) {
			chip_step(&f.t, 2000000);
			settle();
		}
		assert_true(sent < 10000000);
	}
	return sent;
}

/* Waiting for a host that takes nothing is not polling for input. */
static void
test_input_kept_while_transmitter_waits(void **state)
{
	fill_output();
	for (int i = 0; i < 100; i++)
		assert_int_equal(inb(&f.t, LSR) & LSR_THRE, 0);
	peer_send("x");
	assert_int_equal(inb(&f.t, LSR) & LSR_DR, 0);
}

static void
test_input_polled(void **state)
{
	char got[8] = "";
	size_t n = 0;

	peer_send("poll");
	for (int i = 0; i < 100 && n < 4; i++) {
		settle();
		if ((inb(&f.t, LSR) & LSR_DR) != 0)
			got[n++] = (char)inb(&f.t, RBR);
	}
	assert_string_equal(got, "poll");
}

/* Far more than any buffer holds, against a guest that reads slowly: nothing is lost, in order. */
static void
test_input_never_overruns(void **state)
{
	unsigned sent = 0, got = 0;

	outb(&f.t, FCR, 0x81);
	outb(&f.t, IER, 0x01);
	while (got < 100000) {
		uint8_t buf[512];
		ssize_t n;

		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = (uint8_t)((sent + i) * 31 >> 3);
		n = write(f.peer, buf, sizeof(buf));
		sent += n > 0 ? (unsigned)n : 0;
		settle();
		for (int i = 0; i < 40; i++) {
			uint8_t lsr = inb(&f.t, LSR);

			assert_int_equal(lsr & LSR_OE, 0);
			if ((lsr & LSR_DR) == 0)
				break;
			assert_int_equal(inb(&f.t, RBR), (uint8_t)(got * 31 >> 3));
			got++;
		}
	}
}

/* A slow peer: THRE tells, nothing is lost, and the interrupt comes when the peer goes on. */
static void
test_slow_peer(void **state)
{
	unsigned sent, got = 0;
	uint8_t buf[4096];
	ssize_t n;

	outb(&f.t, FCR, 0x01);
	outb(&f.t, MCR, MCR_OUT2);
	sent = fill_output();
	outb(&f.t, IER, 0x02);
	assert_false(f.t.level[4]);
	assert_int_equal(inb(&f.t, LSR) & LSR_EMPTY, 0);
	for (int i = 0; i < 15; i++, sent++)
		outb(&f.t, THR, (uint8_t)(sent * 31 >> 3));
	for (;;) {
		n = read(f.peer, buf, sizeof(buf));
		for (ssize_t i = 0; i < n; i++, got++)
			assert_int_equal(buf[i], (uint8_t)(got * 31 >> 3));
		chip_step(&f.t, 2000000);
		settle();
		if (n <= 0)
			break;
	}
	assert_int_equal(got, sent);
	assert_true(f.t.level[4]);
	assert_int_equal(inb(&f.t, LSR) & LSR_EMPTY, LSR_EMPTY);
}

/* A peer that stopped for good: the guest goes on after a second, and output works again when the
 * peer comes back. */
static void
test_stalled_peer(void **state)
{
	uint8_t buf[4096];

	fill_output();
	chip_step(&f.t, SECOND * 11 / 10);
	assert_int_equal(inb(&f.t, LSR) & LSR_THRE, LSR_THRE);
	for (int i = 0; i < 1000; i++) {
		assert_int_equal(inb(&f.t, LSR) & LSR_THRE, LSR_THRE);
		outb(&f.t, THR, 'x');
	}
	do {
		while (read(f.peer, buf, sizeof(buf)) > 0)
			settle();
		chip_step(&f.t, 2000000);
	} while (vm_loop_poll(vm_loop(f.t.vm), 0) > 0 || read(f.peer, buf, sizeof(buf)) > 0);
	outb(&f.t, THR, 'y');
	assert_peer_got("y");
}

static void
test_peer_gone(void **state)
{
	close(f.peer);
	f.peer = -1;
	outb(&f.t, IER, 0x01); /* so that the end of the line is read */
	settle();
	for (int i = 0; i < 200000; i++) {
		outb(&f.t, THR, 'x');
		assert_int_equal(inb(&f.t, LSR) & LSR_THRE, LSR_THRE);
	}
}

static void *
run_loop(void *arg)
{
	vm_loop_run(vm_loop(f.t.vm));
	return NULL;
}

/* As in a machine: the loop has its own thread while a guest echoes, polling, what the peer sends,
 * with the received-data interrupt on and off. Everything comes back, in order. */
static void
test_loop_thread(void **state)
{
	const unsigned total = 50000;
	unsigned sent = 0, echoed = 0, got = 0;
	pthread_t thread;

	vm_clock_resume(vm_loop(f.t.vm));
	assert_int_equal(pthread_create(&thread, NULL, run_loop, NULL), 0);
	outb(&f.t, FCR, 0x01);
	outb(&f.t, MCR, MCR_OUT2);
	while (got < total) {
		uint8_t buf[256];
		ssize_t n;

		for (size_t i = 0; i < sizeof(buf); i++)
			buf[i] = (uint8_t)((sent + i) * 31 >> 3);
		n = write(f.peer, buf, MIN(sizeof(buf), total - sent));
		sent += n > 0 ? (unsigned)n : 0;
		outb(&f.t, IER, echoed & 64 ? 0x03 : 0x01);
		while ((inb(&f.t, LSR) & (LSR_DR | LSR_THRE)) == (LSR_DR | LSR_THRE)) {
			outb(&f.t, THR, inb(&f.t, RBR));
			inb(&f.t, IIR);
			echoed++;
		}
		n = read(f.peer, buf, sizeof(buf));
		for (ssize_t i = 0; i < n; i++, got++)
			assert_int_equal(buf[i], (uint8_t)(got * 31 >> 3));
	}
	vm_loop_stop(vm_loop(f.t.vm));
	pthread_join(thread, NULL);
	vm_clock_pause(vm_loop(f.t.vm));
}

static void
test_shared_line(void **state)
{
	struct uart_params params = uart_com[2];
	struct uart *other;

	assert_int_equal(params.irq, 4);
	assert_int_equal(uart_create(f.t.vm, &params, &other), 0);
	outb(&f.t, MCR, MCR_OUT2);
	outb(&f.t, params.base + 4, MCR_OUT2);
	outb(&f.t, IER, 0x02);
	outb(&f.t, params.base + 1, 0x02);
	assert_true(f.t.level[4]);
	inb(&f.t, IIR);
	assert_true(f.t.level[4]);
	inb(&f.t, params.base + 2);
	assert_false(f.t.level[4]);
	uart_destroy(other);
	assert_int_equal(inb(&f.t, params.base + 7), 0xff);
}

static void
test_ports_taken(void **state)
{
	struct uart *other = NULL;

	assert_int_equal(uart_create(f.t.vm, &uart_com[0], &other), -EEXIST);
	assert_null(other);
}

static void
test_state(void **state)
{
	struct vm_state *saved;

	outb(&f.t, FCR, 0x81);
	outb(&f.t, LCR, 0x83);
	outb(&f.t, COM1, 12);
	outb(&f.t, LCR, 0x03);
	outb(&f.t, SCR, 0x77);
	outb(&f.t, IER, 0x03);
	outb(&f.t, MCR, MCR_LOOP);
	outb(&f.t, THR, 'a');
	outb(&f.t, MCR, MCR_OUT2);
	saved = chip_save(&f.t);

	outb(&f.t, FCR, 0x00);
	outb(&f.t, IER, 0x00);
	outb(&f.t, SCR, 0x00);
	chip_step(&f.t, 1000000);
	assert_false(f.t.level[4]);
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	vm_state_destroy(saved);
	assert_int_equal(inb(&f.t, SCR), 0x77);
	/* The THRE interrupt that was due when it was saved, then the FIFO timeout. */
	chip_step(&f.t, 0);
	assert_true(f.t.level[4]);
	assert_int_equal(inb(&f.t, IIR), 0xc2);
	chip_step(&f.t, SECOND);
	assert_int_equal(inb(&f.t, IIR), 0xcc);
	assert_int_equal(inb(&f.t, RBR), 'a');
}

/* Registers and accesses at random; now and then a state with a changed byte is loaded. */
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

	for (int i = 0; i < 200000; i++) {
		uint64_t r = chip_random(&seed);
		int size = 1 << (r >> 8 & 3) % 3;

		if ((r & 7) == 0)
			chip_in(&f.t, (uint16_t)(COM1 + (r >> 16 & 7)), size);
		else
			chip_out(&f.t, (uint16_t)(COM1 + (r >> 16 & 7)), size, (uint32_t)(r >> 32));
		if (i % 64 == 0)
			chip_step(&f.t, r >> 40);
		if (i % 512 == 0)
			(void)chip_load(&f.t, saved, mutate_one);
	}
	assert_int_equal(chip_load(&f.t, saved, NULL), 0);
	vm_state_destroy(saved);
	assert_int_equal(inb(&f.t, LSR), LSR_EMPTY);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_LINE(name) cmocka_unit_test_setup_teardown(name, setup_connected, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_reset_values),
		TEST(test_registers),
		TEST(test_divisor_latch),
		TEST(test_wide_access),
		TEST(test_fifo_identification),
		TEST(test_loop_modem),
		TEST(test_loop_data),
		TEST(test_loop_fifo_overrun),
		TEST(test_fifo_clear),
		TEST(test_out2_gates),
		TEST(test_thre_reasserts),
		TEST(test_thre_by_timer),
		TEST(test_thre_burst_ends),
		TEST(test_priorities),
		TEST(test_trigger_levels),
		TEST(test_fifo_timeout),
		TEST(test_fifo_timeout_bound),
		TEST_LINE(test_output),
		TEST_LINE(test_input_interrupts),
		TEST_LINE(test_input_before_guest_listens),
		TEST_LINE(test_input_while_linux_opens),
		TEST_LINE(test_input_while_linux_closes),
		TEST_LINE(test_input_cleared),
		TEST(test_loop_data_is_not_returned),
		TEST_LINE(test_input_kept_while_transmitter_waits),
		TEST_LINE(test_input_polled),
		TEST_LINE(test_input_never_overruns),
		TEST_LINE(test_slow_peer),
		TEST_LINE(test_stalled_peer),
		TEST_LINE(test_peer_gone),
		TEST_LINE(test_loop_thread),
		TEST(test_shared_line),
		TEST(test_ports_taken),
		TEST(test_state),
		TEST(test_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
