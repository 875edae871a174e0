/*
 * Serial back ends: sockets, ptys and tty devices, and the flow of input and output. stdio has a
 * test of its own, test_chardev_stdio.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bits.h"
#include "chardev/chardev.h"
#include "vm/loop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 20000 /* for events that must come; nothing waits so long when all is well */

/* --- A line within this process --- */

struct line {
	struct vm_loop *loop;
	struct chardev *c;
	size_t room;
	uint8_t got[65536];
	size_t got_len;
	int writable, ups, downs;
	char said[512]; /* what chardev_open() told the user */
};

static struct line line; /* of the test that runs */

static size_t
line_room(void *ctx)
{
	return MIN(line.room, sizeof(line.got) - line.got_len);
}

static void
line_input(void *ctx, const uint8_t *buf, size_t len)
{
	assert_true(len <= line_room(NULL));
	memcpy(line.got + line.got_len, buf, len);
	line.got_len += len;
}

static void
line_writable(void *ctx)
{
	line.writable++;
}

static void
line_connected(void *ctx, bool up)
{
	if (up)
		line.ups++;
	else
		line.downs++;
}

static const struct chardev_client line_client = { line_room, line_input, line_writable,
	line_connected };

static int
setup(void **state)
{
	memset(&line, 0, sizeof(line));
	line.room = SIZE_MAX;
	line.loop = vm_loop_create();
	return line.loop != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
	chardev_close(line.c);
	vm_loop_destroy(line.loop);
	return 0;
}

/* chardev_open() with stderr caught in line.said. */
static int
line_open(const char *spec)
{
	int pipe_fd[2], saved = dup(2), err;
	ssize_t n;

	assert_int_equal(pipe(pipe_fd), 0);
	dup2(pipe_fd[1], 2);
	err = chardev_open(line.loop, spec, "-l com1", &line.c);
	dup2(saved, 2);
	close(saved);
	close(pipe_fd[1]);
	n = read(pipe_fd[0], line.said, sizeof(line.said) - 1);
	line.said[n > 0 ? n : 0] = '\0';
	close(pipe_fd[0]);
	return err;
}

/* Opens, expecting success, and attaches. */
static void
line_start(const char *spec)
{
	if (line_open(spec) != 0)
		fail_msg("%s", line.said);
	chardev_attach(line.c, &line_client, NULL);
}

/* Opens, expecting err and one line that says so. */
static void
line_fails(const char *spec, int err, const char *says)
{
	assert_int_equal(line_open(spec), err);
	assert_null(line.c);
	if (strstr(line.said, says) == NULL)
		fail_msg("'%s' does not say '%s'", line.said, says);
	assert_ptr_equal(strchr(line.said, '\n'), line.said + strlen(line.said) - 1);
}

static int64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000ll + ts.tv_nsec / 1000000;
}

/* Runs the loop until cond holds. */
#define PUMP_UNTIL(cond)                                                                           \
	do {                                                                                       \
		int64_t end_ = now_ms() + PATIENCE_MS;                                             \
		while (!(cond)) {                                                                  \
			vm_loop_poll(line.loop, PATIENCE_MS);                                      \
			if (now_ms() > end_)                                                       \
				fail_msg("never: %s", #cond);                                      \
		}                                                                                  \
	} while (0)

/* Runs what is ready until nothing is. */
static void
pump(void)
{
	int rounds = 0;

	while (vm_loop_poll(line.loop, 0) > 0)
		assert_true(++rounds < 10000);
}

static void
write_all(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static void
line_write(const char *text)
{
	assert_int_equal(chardev_write(line.c, (const uint8_t *)text, strlen(text)), strlen(text));
}

static bool
readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

/* Waits for exactly text on fd while the loop runs. */
static void
assert_arrives(int fd, const char *text)
{
	size_t len = strlen(text), have = 0;
	char buf[256];

	while (have < len) {
		ssize_t n;

		PUMP_UNTIL(readable(fd));
		n = read(fd, buf + have, sizeof(buf) - have);
		assert_true(n > 0);
		have += (size_t)n;
	}
	assert_int_equal(have, len);
	assert_memory_equal(buf, text, len);
}

static void
assert_got(const char *text)
{
	PUMP_UNTIL(line.got_len >= strlen(text));
	assert_int_equal(line.got_len, strlen(text));
	assert_memory_equal(line.got, text, line.got_len);
	line.got_len = 0;
}

/* --- Descriptions --- */

static void
test_null_is_nothing_attached(void **state)
{
	uint8_t byte = 'x';

	chardev_attach(NULL, &line_client, NULL);
	assert_int_equal(chardev_write(NULL, &byte, 1), 1);
	chardev_resume(NULL);
	chardev_drain(NULL);
	assert_false(chardev_connected(NULL));
	chardev_close(NULL);
}

static void
test_bad_descriptions(void **state)
{
	static const char *const bad[] = { "", "stdin", "stdio2", "ptyx", "tcp", "unix", "tcp:1",
		"dev/x" };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		line_fails(bad[i], -EINVAL, "expected stdio, pty, tcp=ip:port");
}

/* --- TCP --- */

static int
tcp_connect(int port)
{
	struct sockaddr_in sin = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_true(fd >= 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
	return fd;
}

/* The port that was told when port 0 was asked for. */
static int
tcp_port(void)
{
	const char *p = strstr(line.said, "port ");

	assert_non_null(p);
	return atoi(p + 5);
}

static void
test_tcp(void **state)
{
	int fd, second;
	char byte;

	line_start("tcp=127.0.0.1:0");
	assert_false(chardev_connected(line.c));
	line_write("nobody hears this");
	fd = tcp_connect(tcp_port());
	PUMP_UNTIL(line.ups == 1);
	assert_true(chardev_connected(line.c));
	write_all(fd, "to guest");
	assert_got("to guest");
	line_write("from guest");
	assert_arrives(fd, "from guest");

	/* A second one is turned away, and the first does not notice. */
	second = tcp_connect(tcp_port());
	PUMP_UNTIL(readable(second));
	assert_int_equal(read(second, &byte, 1), 0);
	close(second);
	line_write("still here");
	assert_arrives(fd, "still here");

	/* Leaving and coming back. */
	close(fd);
	PUMP_UNTIL(line.downs == 1);
	assert_false(chardev_connected(line.c));
	line_write("nobody hears this");
	fd = tcp_connect(tcp_port());
	PUMP_UNTIL(line.ups == 2);
	line_write("again");
	assert_arrives(fd, "again");
	close(fd);
}

static void
test_tcp6(void **state)
{
	struct sockaddr_in6 sin6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };
	int fd = socket(AF_INET6, SOCK_STREAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&sin6, sizeof(sin6)) != 0) {
		close(fd);
		skip(); /* the host has no IPv6 */
	}
	close(fd);
	line_start("tcp=[::1]:0");
	fd = socket(AF_INET6, SOCK_STREAM, 0);
	sin6.sin6_port = htons((uint16_t)tcp_port());
	assert_int_equal(connect(fd, (struct sockaddr *)&sin6, sizeof(sin6)), 0);
	PUMP_UNTIL(line.ups == 1);
	line_write("six");
	assert_arrives(fd, "six");
	close(fd);
}

static void
test_tcp_bad(void **state)
{
	static const char *const bad[] = { "tcp=", "tcp=:", "tcp=127.0.0.1",
		"tcp=127.0.0.1:", "tcp=:80", "tcp=[::1", "tcp=[::1]", "tcp=[]:80", "tcp=::1:80",
		"tcp=127.0.0.1:http", "tcp=127.0.0.1:-1x", "tcp=256.256.256.256.256:1" };
	char spec[64];
	struct chardev *first;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		line_fails(bad[i], -EINVAL, bad[i]);
	assert_int_equal(line_open("tcp=127.0.0.1:0"), 0);
	first = line.c;
	line.c = NULL;
	snprintf(spec, sizeof(spec), "tcp=127.0.0.1:%d", tcp_port());
	line_fails(spec, -EADDRINUSE, spec);
	chardev_close(first);
	/* And free again at once. */
	line_start(spec);
}

/* --- UNIX sockets --- */

static char unix_path[64];

static int
setup_unix(void **state)
{
	snprintf(unix_path, sizeof(unix_path), "/tmp/bhyve-test-chardev-%d", (int)getpid());
	return setup(state);
}

static int
teardown_unix(void **state)
{
	teardown(state);
	unlink(unix_path);
	return 0;
}

static const char *
unix_spec(void)
{
	static char spec[80];

	snprintf(spec, sizeof(spec), "unix=%s", unix_path);
	return spec;
}

static int
unix_connect(void)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", unix_path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

static void
test_unix(void **state)
{
	struct stat st;
	int fd;

	line_start(unix_spec());
	assert_int_equal(lstat(unix_path, &st), 0);
	assert_true(S_ISSOCK(st.st_mode));
	assert_int_equal(st.st_mode & 0777, 0600);
	fd = unix_connect();
	write_all(fd, "in");
	assert_got("in");
	line_write("out");
	assert_arrives(fd, "out");
	close(fd);
	PUMP_UNTIL(line.downs == 1);
	chardev_close(line.c);
	line.c = NULL;
	assert_int_equal(lstat(unix_path, &st), -1);
}

static void
test_unix_path_taken(void **state)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	struct chardev *first;
	struct stat st;
	char spec[256];
	int fd;

	/* Left behind by a process that was killed: replaced. */
	snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", unix_path);
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	close(fd);
	line_start(unix_spec());
	/* In use: left alone. */
	first = line.c;
	line.c = NULL;
	line_fails(unix_spec(), -EADDRINUSE, unix_path);
	close(unix_connect());
	chardev_close(first);
	/* A file: left alone. */
	fd = open(unix_path, O_CREAT | O_WRONLY, 0600);
	write_all(fd, "precious");
	line_fails(unix_spec(), -EADDRINUSE, unix_path);
	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_nlink, 1);
	assert_int_equal(st.st_size, 8);
	close(fd);
	memset(spec, 'x', sizeof(spec));
	memcpy(spec, "unix=/", 6);
	spec[sizeof(spec) - 1] = '\0';
	line_fails(spec, -EINVAL, "expected a path");
	line_fails("unix=", -EINVAL, "expected a path");
	line_fails("unix=/nonexistent/x", -ENOENT, "/nonexistent/x");
}

/* What another process put at the path meanwhile is not ours to remove. */
static void
test_unix_path_replaced(void **state)
{
	struct stat st;

	line_start(unix_spec());
	unlink(unix_path);
	close(open(unix_path, O_CREAT | O_WRONLY, 0600));
	chardev_close(line.c);
	line.c = NULL;
	assert_int_equal(lstat(unix_path, &st), 0);
}

/* --- Flow --- */

static void
test_input_waits_for_attach(void **state)
{
	int fd;

	assert_int_equal(line_open(unix_spec()), 0);
	fd = unix_connect();
	write_all(fd, "early");
	pump();
	assert_int_equal(line.got_len, 0);
	chardev_attach(line.c, &line_client, NULL);
	assert_got("early");
	close(fd);
}

/* A client without room: input waits, even when its sender is gone; the loop does not spin
 * meanwhile. */
static void
test_input_waits_for_room(void **state)
{
	int fd, spins = 0;

	line_start(unix_spec());
	line.room = 0;
	fd = unix_connect();
	write_all(fd, "patience");
	PUMP_UNTIL(line.ups == 1);
	pump();
	close(fd);
	while (vm_loop_poll(line.loop, 0) > 0)
		assert_true(++spins < 10);
	assert_int_equal(line.downs, 0);
	line.room = 3;
	chardev_resume(line.c);
	assert_got("pat"); /* room is asked again each time, so it comes in threes */
	assert_got("ien");
	line.room = 100;
	PUMP_UNTIL(line.downs == 1);
	assert_got("ce");
}

/* A reader that does not read: chardev_write() takes less, later says that it takes more, and every
 * byte comes in order. */
static void
test_slow_reader(void **state)
{
	static uint8_t piece[1000];
	size_t sent = 0, got = 0, n;
	uint8_t buf[5000];
	int fd;

	line_start(unix_spec());
	fd = unix_connect();
	PUMP_UNTIL(line.ups == 1);
	do {
		for (size_t i = 0; i < sizeof(piece); i++)
			piece[i] = (uint8_t)((sent + i) * 31 >> 4);
		n = chardev_write(line.c, piece, sizeof(piece));
		sent += n;
		vm_loop_poll(line.loop, 0);
		assert_true(sent < 100000000);
	} while (n == sizeof(piece));
	assert_int_equal(line.writable, 0);
	while (got < sent) {
		ssize_t r;

		PUMP_UNTIL(readable(fd));
		r = read(fd, buf, sizeof(buf));
		assert_true(r > 0);
		for (ssize_t i = 0; i < r; i++, got++)
			assert_int_equal(buf[i], (uint8_t)(got * 31 >> 4));
	}
	PUMP_UNTIL(line.writable == 1);
	close(fd);
}

/* The reader leaves while output waits and the client has no room for input. */
static void
test_reader_leaves_while_full(void **state)
{
	static uint8_t piece[65536];
	int fd, spins = 0;

	line_start(unix_spec());
	line.room = 0;
	fd = unix_connect();
	write_all(fd, "x");
	PUMP_UNTIL(line.ups == 1);
	while (chardev_write(line.c, piece, sizeof(piece)) == sizeof(piece))
		pump();
	close(fd);
	PUMP_UNTIL(line.writable > 0);
	while (vm_loop_poll(line.loop, 0) > 0)
		assert_true(++spins < 10);
	/* Output is taken and vanishes. */
	for (int i = 0; i < 100; i++) {
		assert_true(chardev_write(line.c, piece, 600) == 600);
		pump();
		vm_loop_poll(line.loop, 5);
	}
}

static void
test_drain(void **state)
{
	static uint8_t piece[65536];
	int fd;

	line_start(unix_spec());
	fd = unix_connect();
	PUMP_UNTIL(line.ups == 1);
	line_write("last words");
	chardev_drain(line.c); /* without the loop */
	assert_true(readable(fd));
	assert_arrives(fd, "last words");
	/* Nobody reads: it gives up. */
	while (chardev_write(line.c, piece, sizeof(piece)) == sizeof(piece))
		pump();
	chardev_drain(line.c);
	close(fd);
}

/* Out of descriptors: the loop does not spin on the waiting connection and takes it later. */
static void
test_accept_without_descriptors(void **state)
{
	struct rlimit old, limit;
	int fd, spins = 0, probe;

	line_start(unix_spec());
	fd = unix_connect();
	probe = dup(0);
	close(probe);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	limit = old;
	limit.rlim_cur = (rlim_t)probe;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	while (vm_loop_poll(line.loop, 0) > 0)
		spins++;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_in_range(spins, 1, 5);
	PUMP_UNTIL(line.ups == 1);
	close(fd);
}

/* --- tty devices and ptys --- */

static int
pty_pair(char *path, size_t size)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);

	assert_true(master >= 0);
	assert_int_equal(grantpt(master), 0);
	assert_int_equal(unlockpt(master), 0);
	assert_int_equal(ptsname_r(master, path, size), 0);
	return master;
}

static bool
is_raw(int fd)
{
	struct termios mode;

	assert_int_equal(tcgetattr(fd, &mode), 0);
	return (mode.c_lflag & (ICANON | ECHO | ISIG)) == 0 && (mode.c_oflag & OPOST) == 0;
}

static void
test_tty_device(void **state)
{
	struct termios before = { 0 }, after = { 0 };
	char path[64];
	int master = pty_pair(path, sizeof(path)), slave = open(path, O_RDWR | O_NOCTTY);

	assert_int_equal(tcgetattr(slave, &before), 0);
	line_start(path);
	assert_true(is_raw(slave));
	write_all(master, "in\r\x03");
	assert_got("in\r\x03");
	line_write("out\n");
	assert_arrives(master, "out\n");
	chardev_close(line.c);
	line.c = NULL;
	assert_int_equal(tcgetattr(slave, &after), 0);
	assert_memory_equal(&before, &after, sizeof(before));
	close(slave);
	close(master);
}

/* The other end hangs up while output waits: no spinning, no blocking. */
static void
test_tty_hangs_up(void **state)
{
	static uint8_t piece[65536];
	char path[64];
	int master = pty_pair(path, sizeof(path)), spins = 0;

	line_start(path);
	while (chardev_write(line.c, piece, sizeof(piece)) == sizeof(piece))
		pump();
	close(master);
	PUMP_UNTIL(line.writable > 0);
	while (vm_loop_poll(line.loop, 0) > 0)
		assert_true(++spins < 10);
}

static void
test_tty_bad(void **state)
{
	line_fails("/nonexistent/tty", -ENOENT, "'/nonexistent/tty'");
	line_fails("/dev/null", -ENOTTY, "'/dev/null' is not a terminal");
	line_fails("/", -EISDIR, "'/'");
}

static void
test_pty(void **state)
{
	char path[64];
	const char *dev;
	int fd, spins = 0;

	line_start("pty");
	dev = strstr(line.said, "/dev/pts/");
	assert_non_null(dev);
	snprintf(path, sizeof(path), "%.*s", (int)strcspn(dev, "\n"), dev);
	while (vm_loop_poll(line.loop, 0) > 0)
		assert_true(++spins < 10);
	assert_false(chardev_connected(line.c));
	for (int i = 0; i < 100000; i++)
		line_write("nobody hears this");

	for (int i = 1; i <= 3; i++) {
		fd = open(path, O_RDWR | O_NOCTTY);
		assert_true(fd >= 0);
		assert_true(is_raw(fd));
		PUMP_UNTIL(line.ups == i);
		write_all(fd, "in\r\x03");
		assert_got("in\r\x03");
		line_write("out\n");
		assert_arrives(fd, "out\n");
		close(fd);
		PUMP_UNTIL(line.downs == i);
		assert_false(chardev_connected(line.c));
	}
	/* Here and gone before anybody looks: what was written counts. */
	fd = open(path, O_RDWR | O_NOCTTY);
	write_all(fd, "quick");
	close(fd);
	assert_got("quick");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
#define TEST_UNIX(name) cmocka_unit_test_setup_teardown(name, setup_unix, teardown_unix)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_null_is_nothing_attached),
		TEST(test_bad_descriptions),
		TEST(test_tcp),
		TEST(test_tcp6),
		TEST(test_tcp_bad),
		TEST_UNIX(test_unix),
		TEST_UNIX(test_unix_path_taken),
		TEST_UNIX(test_unix_path_replaced),
		TEST_UNIX(test_input_waits_for_attach),
		TEST_UNIX(test_input_waits_for_room),
		TEST_UNIX(test_slow_reader),
		TEST_UNIX(test_reader_leaves_while_full),
		TEST_UNIX(test_drain),
		TEST_UNIX(test_accept_without_descriptors),
		TEST(test_tty_device),
		TEST(test_tty_hangs_up),
		TEST(test_tty_bad),
		TEST(test_pty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
