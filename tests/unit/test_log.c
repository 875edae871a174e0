/*
 * Messages: one line each, bounded, harmless to a terminal.
 */
#include "base/log.h"
#include "base/bits.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <pty.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

struct capture {
	int saved, fd;
	char text[65536];
};

/* Sends stderr to a file until capture_end(). */
static void
capture_begin(struct capture *c)
{
	char path[] = "/tmp/bhyve-test-log-XXXXXX";

	c->fd = mkstemp(path);
	assert_true(c->fd >= 0);
	unlink(path);
	fcntl(c->fd, F_SETFL, O_APPEND);
	c->saved = dup(STDERR_FILENO);
	dup2(c->fd, STDERR_FILENO);
}

static const char *
capture_end(struct capture *c)
{
	ssize_t n;

	dup2(c->saved, STDERR_FILENO);
	close(c->saved);
	n = pread(c->fd, c->text, sizeof(c->text) - 1, 0);
	close(c->fd);
	c->text[n > 0 ? n : 0] = '\0';
	return c->text;
}

static void
test_form(void **state)
{
	struct capture c;

	capture_begin(&c);
	log_error("-m", "%d is too small", 0);
	log_warn(NULL, "no name");
	errno = ENOENT;
	log_info("disk", "%m");
	assert_int_equal(errno, ENOENT);
	assert_string_equal(capture_end(&c),
	    "bhyve: -m: 0 is too small\n"
	    "bhyve: no name\n"
	    "bhyve: disk: No such file or directory\n");
}

static void
test_quiet(void **state)
{
	struct capture c;

	capture_begin(&c);
	log_quiet(1);
	log_info("x", "silent");
	log_warn("x", "said");
	log_quiet(0);
	log_info("x", "said again");
	assert_string_equal(capture_end(&c), "bhyve: x: said\nbhyve: x: said again\n");
}

static void
test_hostile(void **state)
{
	static char big[5000], name[3000];
	struct capture c;
	const char *text;

	capture_begin(&c);
	log_error("a\nb", "x\033[2J\r\n\tbhyve: forged\x7f");
	assert_string_equal(capture_end(&c), "bhyve: a?b: x?[2J???bhyve: forged?\n");

	memset(big, 'A', sizeof(big) - 1);
	memset(name, 'B', sizeof(name) - 1);
	capture_begin(&c);
	log_error("x", "%s", big);
	log_error(name, "%s", big);
	text = capture_end(&c);
	assert_true(strlen(text) <= 2048);
	assert_int_equal(text[strlen(text) - 1], '\n');
	assert_ptr_equal(strchr(text, '\n') + 1, strstr(text, "bhyve: BBB"));
}

static void
test_guest_is_bounded(void **state)
{
	struct log_site site = { 0 };
	struct capture c;
	const char *text;
	int lines = 0;

	capture_begin(&c);
	for (int i = 0; i < 10000; i++)
		log_guest_at(&site, "nvme", "bad opcode %d", i);
	for (int i = 0; i < 100; i++)
		log_guest("other", "another site");
	text = capture_end(&c);
	assert_int_equal(site.count, 10000);
	for (const char *p = text; *p != '\0'; p++)
		lines += *p == '\n';
	assert_int_equal(lines, 10);
	assert_non_null(strstr(text, "bhyve: nvme: bad opcode 4 (no more of these)\n"));
	assert_null(strstr(text, "opcode 5"));
}

static void
test_raw_terminal(void **state)
{
	int saved = dup(STDERR_FILENO), master, slave;
	struct termios mode;
	char text[64];
	ssize_t n;

	assert_int_equal(openpty(&master, &slave, NULL, NULL, NULL), 0);
	assert_int_equal(tcgetattr(slave, &mode), 0);
	cfmakeraw(&mode);
	assert_int_equal(tcsetattr(slave, TCSANOW, &mode), 0);
	dup2(slave, STDERR_FILENO);
	log_error("x", "text");
	dup2(saved, STDERR_FILENO);
	n = read(master, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	assert_string_equal(text, "bhyve: x: text\r\n");
	close(saved);
	close(slave);
	close(master);
}

static void *
log_often(void *arg)
{
	for (int i = 0; i < 200; i++)
		log_error("thread", "%s%s%s", (char *)arg, (char *)arg, (char *)arg);
	return NULL;
}

static void
test_threads_do_not_mix(void **state)
{
	pthread_t t[2];
	struct capture c;
	char *line, *rest;
	int lines = 0;

	capture_begin(&c);
	pthread_create(&t[0], NULL, log_often, "aaaaaaaaaa");
	pthread_create(&t[1], NULL, log_often, "bbbbbbbbbb");
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	capture_end(&c);
	rest = c.text;
	while ((line = strsep(&rest, "\n")) != NULL && line[0] != '\0') {
		assert_int_equal(strlen(line), strlen("bhyve: thread: ") + 30);
		assert_true(strchr(line + 15, 'a') == NULL || strchr(line + 15, 'b') == NULL);
		lines++;
	}
	assert_int_equal(lines, 400);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_form),
		cmocka_unit_test(test_quiet),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_guest_is_bounded),
		cmocka_unit_test(test_raw_terminal),
		cmocka_unit_test(test_threads_do_not_mix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
