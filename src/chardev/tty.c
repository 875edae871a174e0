/*
 * Serial back ends on this process's own stdin and stdout, on a tty device, and on a pty of our
 * making.
 *
 * O_NONBLOCK belongs to the open file description, which stdin and stdout share with the shell and
 * everything it started: setting it there makes other programs fail, even after we are gone. So
 * stdio opens what it was given once more through /proc, which makes a description of its own.
 */
#include "chardev/chardev_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "base/log.h"
#include "vm/loop.h"

/* How often a process in the background looks whether it has its terminal back: a shell's `fg` of a
 * process that was not stopped comes without a signal. */
#define STDIO_FOREGROUND_NS 250000000ull

/* --- stdio --- */

/* Opens for ourselves what fd (0 or 1) is: into *f, with fd -1 when it is closed. */
static void
stdio_fd_open(int fd, int mode, struct chardev_fd *f)
{
	char proc[32];
	struct stat st;

	*f = (struct chardev_fd){ .fd = -1 };
	if (fstat(fd, &st) != 0)
		return;
	f->socket = S_ISSOCK(st.st_mode);
	/* A file's offset is in the description too, and is to be shared with who else writes
	 * there. */
	if (!f->socket && !S_ISREG(st.st_mode)) {
		snprintf(proc, sizeof(proc), "/proc/self/fd/%d", fd);
		f->fd = open(proc, mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		/* Another user's terminal (after su) cannot be opened by its own name. */
		if (f->fd < 0 && tcgetsid(fd) == getsid(0))
			f->fd = open("/dev/tty", mode | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (f->fd >= 0)
			return;
		/* The description stays blocking. A pipe that polls as writable takes PIPE_BUF
		 * bytes at once (pipe(7)); of anything else only one byte is sure. */
		f->chunk = S_ISFIFO(st.st_mode) ? PIPE_BUF : 1;
	}
	f->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

static bool
stdio_may_read(struct chardev *c)
{
	if (terminal_foreground(c->terminal))
		return true;
	vm_timer_arm(c->retry_timer, vm_clock_ns(c->loop) + STDIO_FOREGROUND_NS);
	return false;
}

static void
stdio_on_retry(void *arg)
{
	struct chardev *c = arg;
	bool allowed;

	pthread_mutex_lock(&c->lock);
	allowed = !c->closing && stdio_may_read(c);
	pthread_mutex_unlock(&c->lock);
	if (allowed) {
		terminal_raw_again(c->terminal);
		chardev_input_allowed(c);
	}
}

static int
stdio_open(struct chardev *c, const char *arg)
{
	struct chardev_fd in, out;

	if (!terminal_stdio_take()) {
		log_error(c->who, "stdio is already the other end of another line");
		return -EBUSY;
	}
	c->retry_timer = vm_timer_create(c->loop, stdio_on_retry, c);
	if (c->retry_timer == NULL) {
		log_error(c->who, "out of memory");
		/* close() gives stdio back only with the timer that shows it was taken here. */
		terminal_stdio_give();
		return -ENOMEM;
	}
	stdio_fd_open(STDIN_FILENO, O_RDONLY, &in);
	stdio_fd_open(STDOUT_FILENO, O_WRONLY, &out);
	if (in.fd >= 0 && isatty(in.fd)) {
		c->terminal = terminal_raw(in.fd);
		if (c->terminal < 0)
			log_warn(c->who, "cannot put the terminal into raw mode: %s",
			    strerror(-c->terminal));
		c->in_suspended = !stdio_may_read(c);
	}
	chardev_up(c, &in, &out);
	return 0;
}

static void
stdio_close(struct chardev *c)
{
	terminal_restore(c->terminal);
	if (c->retry_timer != NULL)
		terminal_stdio_give();
}

const struct chardev_backend chardev_stdio = {
	.prefix = "stdio",
	.exact = true,
	.open = stdio_open,
	.close = stdio_close,
	.may_read = stdio_may_read,
};

/* --- A tty device --- */

static int
tty_open(struct chardev *c, const char *arg)
{
	struct chardev_fd f = { .fd = -1 };
	char path[PATH_MAX];
	int err;

	snprintf(path, sizeof(path), "/%s", arg);
	f.fd = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (f.fd < 0) {
		err = -errno;
		log_error(c->who, "cannot open '%s': %s", path, strerror(-err));
		return err;
	}
	if (!isatty(f.fd)) {
		log_error(c->who, "'%s' is not a terminal", path);
		err = -ENOTTY;
		goto close_fd;
	}
	c->terminal = terminal_raw(f.fd);
	if (c->terminal < 0) {
		err = c->terminal;
		log_error(c->who, "cannot put '%s' into raw mode: %s", path, strerror(-err));
		goto close_fd;
	}
	chardev_up(c, &f, &f);
	return 0;
close_fd:
	close(f.fd);
	return err;
}

static void
tty_close(struct chardev *c)
{
	terminal_restore(c->terminal);
}

const struct chardev_backend chardev_tty = {
	.prefix = "/",
	.open = tty_open,
	.close = tty_close,
};

/* --- pty --- */

/*
 * A master whose slave nobody has open reports a hang-up without end, so it is not watched then;
 * inotify tells when somebody opens the slave.
 */

static bool
pty_slave_open(const struct chardev *c)
{
	struct pollfd p = { .fd = c->pty_fd };

	return poll(&p, 1, 0) == 0 || (p.revents & POLLHUP) == 0;
}

/* A program that opens the slave, writes and closes it again is gone when we look, but what it
 * wrote is there: so up on any open, and down at the EIO after the last byte. */
static void
pty_on_open(void *arg, unsigned events)
{
	struct chardev *c = arg;
	struct chardev_fd f = { .fd = c->pty_fd };
	char buf[sizeof(struct inotify_event) + NAME_MAX + 1];
	bool up = false;

	while (read(c->listen_fd, buf, sizeof(buf)) > 0)
		up = true;
	pthread_mutex_lock(&c->lock);
	up = up && !c->closing && !c->connected;
	pthread_mutex_unlock(&c->lock);
	if (up)
		chardev_up(c, &f, &f);
}

/* Somebody may have opened it again before the end was read; the event came and went by then. */
static void
pty_on_retry(void *arg)
{
	struct chardev *c = arg;
	struct chardev_fd f = { .fd = c->pty_fd };
	bool up;

	pthread_mutex_lock(&c->lock);
	up = !c->closing && !c->connected && pty_slave_open(c);
	pthread_mutex_unlock(&c->lock);
	if (up)
		chardev_up(c, &f, &f);
}

static void
pty_lost(struct chardev *c)
{
	vm_timer_arm(c->retry_timer, vm_clock_ns(c->loop));
}

/* Opens a master and finds its slave's path. */
static int
pty_make(struct chardev *c)
{
	char path[64];

	c->pty_fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	if (c->pty_fd < 0 || grantpt(c->pty_fd) != 0 || unlockpt(c->pty_fd) != 0 ||
	    ptsname_r(c->pty_fd, path, sizeof(path)) != 0)
		return -errno;
	c->path = strdup(path);
	return c->path != NULL ? 0 : -ENOMEM;
}

/* Makes the slave a raw line; opening and closing it also starts the master's hang-up. */
static int
pty_make_raw(struct chardev *c)
{
	struct termios mode;
	int err = 0;
	int slave = open(c->path, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (slave < 0)
		return -errno;
	if (tcgetattr(slave, &mode) != 0) {
		err = -errno;
		goto close_slave;
	}
	cfmakeraw(&mode);
	if (tcsetattr(slave, TCSANOW, &mode) != 0)
		err = -errno;
close_slave:
	close(slave);
	return err;
}

static int
pty_open(struct chardev *c, const char *arg)
{
	int err = pty_make(c);

	if (err == 0)
		err = pty_make_raw(c);
	if (err != 0) {
		log_error(c->who, "cannot make a pty: %s", strerror(-err));
		return err;
	}
	c->listen_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	if (c->listen_fd < 0 || inotify_add_watch(c->listen_fd, c->path, IN_OPEN) < 0)
		goto no_watch;
	c->retry_timer = vm_timer_create(c->loop, pty_on_retry, c);
	c->listen_watch = vm_fd_add(c->loop, c->listen_fd, VM_FD_READ, pty_on_open, c);
	if (c->retry_timer == NULL || c->listen_watch == NULL)
		goto no_watch;
	log_info(c->who, "the line's other end is %s", c->path);
	return 0;
no_watch:
	err = -errno;
	log_error(c->who, "cannot watch %s: %s", c->path, strerror(-err));
	return err;
}

const struct chardev_backend chardev_pty = {
	.prefix = "pty",
	.exact = true,
	.open = pty_open,
	.lost = pty_lost,
};
