/*
 * stdio, with and without a terminal, in a child whose loop is driven over a control socket. This
 * process is the child's shell: it leads a session with a pty as its terminal.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bits.h"
#include "chardev/chardev.h"
#include "vm/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#define PATIENCE_MS 20000 /* for events that must come; nothing waits so long when all is well */

static void
write_all(int fd, const char *text)
{
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
}

static bool
readable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	return poll(&p, 1, 0) > 0;
}

/* --- stdio in a child --- */

/*
 * The child attaches stdio and does what single bytes on the control socket ask:
 *
 *	w  write "hello\n"
 *	f  write until it is refused, answer with 4 bytes how much went
 *	e  answer "E"
 *	d  drain, answer "D"
 *	a  attach
 *	b  open stdio a second time, answer "B" if that fails with EBUSY
 *	q  close and return 0
 *	x  exit(9) without closing
 *	s  make a segmentation fault
 *
 * Input is sent on over the control socket.
 */
struct child {
	pid_t pid;
	int ctl;
	int in, out; /* our ends of pipes, or -1 */
};

struct child_side {
	struct vm_loop *loop;
	struct chardev *c;
	int ctl;
};

static size_t
child_room(void *ctx)
{
	return 4096;
}

static void
child_input(void *ctx, const uint8_t *buf, size_t len)
{
	struct child_side *s = ctx;

	if (write(s->ctl, buf, len) != (ssize_t)len)
		_exit(99);
}

static const struct chardev_client child_client = { .room = child_room, .input = child_input };

static uint32_t
child_flood(struct child_side *s)
{
	static uint8_t piece[1000];
	uint32_t sent = 0;
	size_t n;

	do {
		for (size_t i = 0; i < sizeof(piece); i++)
			piece[i] = (uint8_t)((sent + i) * 31 >> 4);
		n = chardev_write(s->c, piece, sizeof(piece));
		sent += (uint32_t)n;
		/* Deliver what can be: as a loop that runs beside the guest. */
		if (n < sizeof(piece) && vm_loop_poll(s->loop, 0) > 0)
			n = sizeof(piece);
	} while (n == sizeof(piece) && sent < 50000000);
	return sent;
}

static void
child_on_control(void *arg, unsigned events)
{
	struct child_side *s = arg;
	struct chardev *second;
	char answer = 'E', cmd;
	uint32_t n;

	if (read(s->ctl, &cmd, 1) != 1)
		_exit(98);
	switch (cmd) {
	case 'w': chardev_write(s->c, (const uint8_t *)"hello\n", 6); return;
	case 'f':
		n = child_flood(s);
		child_input(s, (uint8_t *)&n, sizeof(n));
		return;
	case 'a': chardev_attach(s->c, &child_client, s); return;
	case 'd':
		chardev_drain(s->c);
		answer = 'D';
		break;
	case 'b':
		answer = chardev_open(s->loop, "stdio", "two", &second) == -EBUSY ? 'B' : '?';
		break;
	case 'q': vm_loop_stop(s->loop); return;
	case 'x': exit(9);
	case 's': raise(SIGSEGV); return;
	}
	child_input(s, (uint8_t *)&answer, 1);
}

static void
child_main(int ctl, bool attach)
{
	struct child_side s = { .ctl = ctl };

	chardev_process_init();
	s.loop = vm_loop_create();
	if (s.loop == NULL || chardev_open(s.loop, "stdio", "com1", &s.c) != 0)
		_exit(97);
	if (attach)
		chardev_attach(s.c, &child_client, &s);
	if (vm_fd_add(s.loop, ctl, VM_FD_READ, child_on_control, &s) == NULL)
		_exit(96);
	vm_loop_run(s.loop);
	chardev_close(s.c);
	_exit(0);
}

/* Starts a child on these descriptors (-1: closed). foreground: it gets the terminal. */
static void
child_start(struct child *k, int in, int out, bool foreground, bool attach)
{
	int ctl[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ctl), 0);
	fflush(NULL);
	k->in = k->out = -1;
	k->ctl = ctl[0];
	k->pid = fork();
	assert_true(k->pid >= 0);
	if (k->pid == 0) {
		setpgid(0, 0);
		if (foreground)
			tcsetpgrp(in, getpid());
		/* Those of a shell, and those that cmocka handles. */
		for (int sig = 1; sig < 32; sig++)
			signal(sig, SIG_DFL);
		ctl[1] = fcntl(ctl[1], F_DUPFD, 100);
		in = in < 0 ? in : fcntl(in, F_DUPFD, 100);
		out = out < 0 ? out : fcntl(out, F_DUPFD, 100);
		close(0);
		close(1);
		if (in >= 0)
			dup2(in, 0);
		if (out >= 0)
			dup2(out, 1);
		/* Ends of pipes must not stay open in here. */
		for (int fd = 3; fd < 200; fd++) {
			if (fd != ctl[1])
				close(fd);
		}
		child_main(ctl[1], attach);
	}
	setpgid(k->pid, k->pid);
	close(ctl[1]);
}

/* A child between two pipes. */
static void
child_start_pipes(struct child *k, bool attach)
{
	int in[2], out[2];

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	child_start(k, in[0], out[1], false, attach);
	close(in[0]);
	close(out[1]);
	k->in = in[1];
	k->out = out[0];
}

static void
child_ask(struct child *k, char cmd)
{
	assert_int_equal(write(k->ctl, &cmd, 1), 1);
}

/* Reads exactly len bytes from fd, within patience. */
static void
read_exactly(int fd, void *buf, size_t len)
{
	for (size_t have = 0; have < len;) {
		struct pollfd p = { .fd = fd, .events = POLLIN };
		ssize_t n;

		if (poll(&p, 1, PATIENCE_MS) != 1)
			fail_msg("%zu of %zu bytes came", have, len);
		n = read(fd, (char *)buf + have, len - have);
		if (n <= 0)
			fail_msg("the end came after %zu of %zu bytes", have, len);
		have += (size_t)n;
	}
}

static void
assert_reads(int fd, const char *text)
{
	char buf[256];

	read_exactly(fd, buf, strlen(text));
	assert_memory_equal(buf, text, strlen(text));
}

/* The child is alive and its loop runs. */
static void
assert_alive(struct child *k)
{
	child_ask(k, 'e');
	assert_reads(k->ctl, "E");
}

static int
child_wait(struct child *k)
{
	int status;

	assert_int_equal(waitpid(k->pid, &status, WUNTRACED), k->pid);
	return status;
}

/* Ends the child in the usual way. */
static void
child_end(struct child *k)
{
	child_ask(k, 'q');
	assert_int_equal(child_wait(k), 0);
	close(k->ctl);
	if (k->in >= 0)
		close(k->in);
	if (k->out >= 0)
		close(k->out);
}

static void
test_stdio_pipes(void **state)
{
	struct child k;

	child_start_pipes(&k, true);
	write_all(k.in, "typed");
	assert_reads(k.ctl, "typed");
	child_ask(&k, 'w');
	assert_reads(k.out, "hello\n");
	child_ask(&k, 'b');
	assert_reads(k.ctl, "B");
	/* The end of input is not an error. */
	write_all(k.in, "bye");
	close(k.in);
	k.in = -1;
	assert_reads(k.ctl, "bye");
	assert_alive(&k);
	child_ask(&k, 'w');
	assert_reads(k.out, "hello\n");
	child_end(&k);
}

static void
test_stdio_input_before_attach(void **state)
{
	struct child k;

	child_start_pipes(&k, false);
	write_all(k.in, "early");
	close(k.in);
	k.in = -1;
	assert_alive(&k);
	child_ask(&k, 'a');
	assert_reads(k.ctl, "early");
	child_end(&k);
}

/* Nobody reads stdout: the child goes on, and later all of it comes. Others that write to the same
 * pipe find it as blocking as before. */
static void
test_stdio_slow_reader(void **state)
{
	static uint8_t buf[1 << 20];
	int in[2], out[2], kept;
	struct child k;
	uint32_t sent;

	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	child_start(&k, in[0], out[1], false, true);
	kept = out[1];
	child_ask(&k, 'f');
	read_exactly(k.ctl, &sent, sizeof(sent));
	assert_in_range(sent, 65536, sizeof(buf));
	assert_alive(&k);
	assert_int_equal(fcntl(kept, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(in[0], F_GETFL) & O_NONBLOCK, 0);
	close(kept);
	close(in[0]);
	read_exactly(out[0], buf, sent);
	for (uint32_t i = 0; i < sent; i++)
		assert_int_equal(buf[i], (uint8_t)(i * 31 >> 4));
	k.in = in[1];
	k.out = out[0];
	child_ask(&k, 'w');
	assert_reads(k.out, "hello\n");
	child_end(&k);
}

static void
test_stdio_reader_gone(void **state)
{
	struct child k;

	child_start_pipes(&k, true);
	assert_alive(&k);
	close(k.out);
	k.out = -1;
	child_ask(&k, 'w');
	child_ask(&k, 'd');
	assert_reads(k.ctl, "D");
	child_ask(&k, 'w');
	child_ask(&k, 'd');
	assert_reads(k.ctl, "D");
	write_all(k.in, "x");
	assert_reads(k.ctl, "x");
	child_end(&k);
}

static void
test_stdio_drain(void **state)
{
	struct child k;

	child_start_pipes(&k, true);
	child_ask(&k, 'w');
	child_ask(&k, 'd');
	assert_reads(k.ctl, "D");
	assert_true(readable(k.out));
	assert_reads(k.out, "hello\n");
	child_end(&k);
}

static void
test_stdio_closed(void **state)
{
	struct child k;

	child_start(&k, -1, -1, false, true);
	child_ask(&k, 'w');
	child_ask(&k, 'd');
	assert_reads(k.ctl, "D");
	child_end(&k);
}

static void
test_stdio_dev_null_and_full(void **state)
{
	int null = open("/dev/null", O_RDWR), full = open("/dev/full", O_WRONLY);
	struct child k;

	assert_true(null >= 0 && full >= 0);
	child_start(&k, null, null, false, true);
	child_ask(&k, 'w');
	assert_alive(&k);
	child_end(&k);
	child_start(&k, null, full, false, true);
	for (int i = 0; i < 10; i++) {
		child_ask(&k, 'w');
		child_ask(&k, 'd');
		assert_reads(k.ctl, "D");
	}
	child_end(&k);
	close(null);
	close(full);
}

/* Files: read from where the offset is, written to where others write on. */
static void
test_stdio_files(void **state)
{
	char path[] = "/tmp/bhyve-test-chardev-XXXXXX", buf[64] = "";
	int fd = mkstemp(path), in;
	struct child k;

	assert_true(fd >= 0);
	write_all(fd, "skipped, read");
	in = open(path, O_RDONLY);
	assert_int_equal(lseek(in, 9, SEEK_SET), 9);
	child_start(&k, in, fd, false, true);
	assert_reads(k.ctl, "read");
	child_ask(&k, 'w');
	child_ask(&k, 'd');
	assert_reads(k.ctl, "D");
	write_all(fd, "after");
	assert_true(pread(fd, buf, sizeof(buf) - 1, 0) > 0);
	assert_string_equal(buf, "skipped, readhello\nafter");
	child_end(&k);
	close(fd);
	close(in);
	unlink(path);
}

static void
test_stdio_socket(void **state)
{
	struct child k;
	uint32_t sent;
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	child_start(&k, pair[1], pair[1], false, true);
	write_all(pair[0], "in");
	assert_reads(k.ctl, "in");
	child_ask(&k, 'w');
	assert_reads(pair[0], "hello\n");
	child_ask(&k, 'f');
	read_exactly(k.ctl, &sent, sizeof(sent));
	assert_alive(&k);
	assert_int_equal(fcntl(pair[1], F_GETFL) & O_NONBLOCK, 0);
	close(pair[1]);
	close(pair[0]);
	child_ask(&k, 'w');
	assert_alive(&k);
	child_end(&k);
}

/* --- stdio on a terminal --- */

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

static struct {
	int master, slave;
	struct termios cooked;
} term;

static int
setup_terminal(void **state)
{
	char path[64];

	memset(&term, 0, sizeof(term)); /* padding too, as modes are compared by their bytes */
	term.master = pty_pair(path, sizeof(path));
	term.slave = open(path, O_RDWR | O_NOCTTY);
	if (term.slave < 0 || ioctl(term.slave, TIOCSCTTY, 0) != 0 ||
	    tcgetattr(term.slave, &term.cooked) != 0)
		return -1;
	return 0;
}

/* Gives the terminal up: the next test has its own. */
static int
teardown_terminal(void **state)
{
	tcsetpgrp(term.slave, getpgrp());
	ioctl(term.slave, TIOCNOTTY);
	close(term.slave);
	close(term.master);
	return 0;
}

static void
term_child(struct child *k, bool foreground)
{
	child_start(k, term.slave, term.slave, foreground, true);
	assert_alive(k);
}

/* The shell has its terminal again. */
static void
term_take_back(void)
{
	assert_int_equal(tcsetpgrp(term.slave, getpgrp()), 0);
}

static void
assert_restored(void)
{
	struct termios now;

	memset(&now, 0, sizeof(now));
	assert_int_equal(tcgetattr(term.slave, &now), 0);
	assert_memory_equal(&now, &term.cooked, sizeof(now));
}

static void
test_terminal(void **state)
{
	struct child k;

	assert_false(is_raw(term.slave));
	term_child(&k, true);
	assert_true(is_raw(term.slave));
	/* Signals and line editing are the guest's. */
	write_all(term.master, "ls\r\x03\x04\x1a");
	assert_reads(k.ctl, "ls\r\x03\x04\x1a");
	child_ask(&k, 'w');
	assert_reads(term.master, "hello\n");
	assert_int_equal(fcntl(term.slave, F_GETFL) & O_NONBLOCK, 0);
	child_end(&k);
	assert_restored();
}

static void
test_terminal_restored_at_exit(void **state)
{
	struct child k;
	int status;

	term_child(&k, true);
	child_ask(&k, 'x');
	status = child_wait(&k);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 9);
	assert_restored();
	close(k.ctl);
}

static void
test_terminal_restored_after_signals(void **state)
{
	static const int fatal[] = { SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS,
		SIGFPE, SIGSEGV, SIGTERM, SIGXCPU, SIGSYS, SIGUSR1, SIGALRM };
	const struct rlimit no_core = { 0, 0 };

	setrlimit(RLIMIT_CORE, &no_core);
	for (size_t i = 0; i < ARRAY_SIZE(fatal); i++) {
		struct child k;
		int status;

		term_child(&k, true);
		assert_true(is_raw(term.slave));
		kill(k.pid, fatal[i]);
		status = child_wait(&k);
		assert_true(WIFSIGNALED(status));
		assert_int_equal(WTERMSIG(status), fatal[i]);
		assert_restored();
		close(k.ctl);
		term_take_back();
	}
}

static void
test_terminal_restored_after_fault(void **state)
{
	struct child k;
	int status;

	term_child(&k, true);
	child_ask(&k, 's');
	status = child_wait(&k);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
	assert_restored();
	close(k.ctl);
}

static void
assert_stopped(struct child *k, int sig)
{
	int status = child_wait(k);

	assert_true(WIFSTOPPED(status));
	assert_int_equal(WSTOPSIG(status), sig);
}

static void
test_terminal_stop_and_continue(void **state)
{
	struct child k;

	term_child(&k, true);
	for (int i = 0; i < 2; i++) {
		kill(k.pid, SIGTSTP);
		assert_stopped(&k, SIGTSTP);
		assert_restored();
		term_take_back();
		/* In the background it must not touch the terminal ... */
		kill(k.pid, SIGCONT);
		assert_alive(&k);
		assert_restored();
		kill(k.pid, SIGTSTP);
		assert_stopped(&k, SIGTSTP);
		assert_restored();
		/* ... in the foreground it takes it again. */
		assert_int_equal(tcsetpgrp(term.slave, k.pid), 0);
		kill(k.pid, SIGCONT);
		assert_alive(&k);
		assert_true(is_raw(term.slave));
	}
	/* A stop that cannot be caught: the shell puts its terminal right itself. */
	kill(k.pid, SIGSTOP);
	assert_stopped(&k, SIGSTOP);
	term_take_back();
	assert_int_equal(tcsetattr(term.slave, TCSANOW, &term.cooked), 0);
	assert_int_equal(tcsetpgrp(term.slave, k.pid), 0);
	kill(k.pid, SIGCONT);
	assert_alive(&k);
	assert_true(is_raw(term.slave));
	child_end(&k);
	assert_restored();
}

/* Killed in the background: the terminal is in somebody else's hands. */
static void
test_terminal_dies_in_background(void **state)
{
	struct termios others = term.cooked;
	struct child k;

	term_child(&k, true);
	term_take_back();
	others.c_lflag &= ~(tcflag_t)ECHO;
	assert_int_equal(tcsetattr(term.slave, TCSANOW, &others), 0);
	term.cooked = others;
	kill(k.pid, SIGTERM);
	assert_true(WIFSIGNALED(child_wait(&k)));
	assert_restored();
	close(k.ctl);
}

/* Started in the background it neither stops nor takes the shell's input; brought to the
 * foreground, which sends no signal, it takes the terminal within a moment. */
static void
test_terminal_started_in_background(void **state)
{
	struct child k;
	char byte;

	term_child(&k, false);
	assert_restored();
	write_all(term.master, "mine\n");
	assert_alive(&k);
	assert_int_equal(read(term.slave, &byte, 1), 1);
	assert_int_equal(byte, 'm');
	assert_int_equal(tcsetpgrp(term.slave, k.pid), 0);
	for (int i = 0; !is_raw(term.slave); i++) {
		assert_true(i < PATIENCE_MS);
		poll(NULL, 0, 1);
	}
	/* What the shell left unread is the guest's now, and so is what follows. */
	assert_reads(k.ctl, "ine\n");
	write_all(term.master, "x");
	assert_reads(k.ctl, "x");
	child_end(&k);
	assert_restored();
}

/* A terminal that takes no more output: the child lives, and ends when told to. */
static void
test_terminal_full(void **state)
{
	struct child k;
	uint32_t sent;

	term_child(&k, true);
	child_ask(&k, 'f');
	read_exactly(k.ctl, &sent, sizeof(sent));
	assert_alive(&k);
	child_end(&k);
	assert_restored();
}

#define TEST_TERM(name) cmocka_unit_test_setup_teardown(name, setup_terminal, teardown_terminal)

static int
chardev_tests(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stdio_pipes),
		cmocka_unit_test(test_stdio_input_before_attach),
		cmocka_unit_test(test_stdio_slow_reader),
		cmocka_unit_test(test_stdio_reader_gone),
		cmocka_unit_test(test_stdio_drain),
		cmocka_unit_test(test_stdio_closed),
		cmocka_unit_test(test_stdio_dev_null_and_full),
		cmocka_unit_test(test_stdio_files),
		cmocka_unit_test(test_stdio_socket),
		TEST_TERM(test_terminal),
		TEST_TERM(test_terminal_restored_at_exit),
		TEST_TERM(test_terminal_restored_after_signals),
		TEST_TERM(test_terminal_restored_after_fault),
		TEST_TERM(test_terminal_stop_and_continue),
		TEST_TERM(test_terminal_dies_in_background),
		TEST_TERM(test_terminal_started_in_background),
		TEST_TERM(test_terminal_full),
	};

	/* As a shell does: it changes its terminal also from the background. */
	signal(SIGTTOU, SIG_IGN);
	signal(SIGTTIN, SIG_IGN);
	signal(SIGTSTP, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}

/* A session of our own needs a process that leads no group yet. */
int
main(void)
{
	pid_t pid = fork();
	int status = 1;

	if (pid == 0) {
		setsid();
		exit(chardev_tests());
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return 1;
	return WEXITSTATUS(status);
}
