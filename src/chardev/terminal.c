/*
 * Terminals in raw mode, and how they get back to what they were: at close, at exit(), on every
 * signal that ends or stops the process.
 *
 * A signal handler has nothing but file scope to look at, and signal handlers and a process's stdio
 * are one per process; so this file, alone in its room, keeps state there. A slot's contents are
 * complete before in_use is set and do not change until it is cleared, so a handler may read them
 * at any time.
 */
#include "chardev/chardev_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

#include "base/bits.h"

#define TERMINALS 8

struct terminal {
	atomic_bool in_use;
	int fd; /* a duplicate of our own: stays open however the caller's ends */
	struct termios saved, raw;
};

static struct terminal terminals[TERMINALS];
static pthread_mutex_t terminals_lock = PTHREAD_MUTEX_INITIALIZER; /* taking and freeing slots */
static atomic_bool terminals_stdio_taken;

/* Signals whose default action ends the process and that this file makes restore the terminals
 * first. */
static const int terminal_fatal[] = { SIGHUP, SIGINT, SIGQUIT, SIGILL, SIGTRAP, SIGABRT, SIGBUS,
	SIGFPE, SIGUSR1, SIGSEGV, SIGUSR2, SIGALRM, SIGTERM, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGVTALRM,
	SIGPROF, SIGIO, SIGPWR, SIGSYS };

/* Async-signal-safe. A terminal that is not the process's controlling one has no say in this. */
static bool
terminal_fd_foreground(int fd)
{
	pid_t group = tcgetpgrp(fd);

	return group < 0 || group == getpgrp();
}

/* Async-signal-safe. A background process leaves the terminal to whoever has it now. */
static void
terminal_set(const struct terminal *t, const struct termios *mode)
{
	sigset_t ttou, old;
	int saved_errno = errno;

	if (!terminal_fd_foreground(t->fd))
		return;
	/* Blocked, SIGTTOU does not stop a process that lost the foreground after the check. */
	sigemptyset(&ttou);
	sigaddset(&ttou, SIGTTOU);
	pthread_sigmask(SIG_BLOCK, &ttou, &old);
	/* Not TCSADRAIN: a terminal that takes no output now would keep us here. */
	while (tcsetattr(t->fd, TCSANOW, mode) != 0 && errno == EINTR)
		;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	errno = saved_errno;
}

void
chardev_restore_terminals(void)
{
	for (size_t i = 0; i < TERMINALS; i++) {
		if (atomic_load(&terminals[i].in_use))
			terminal_set(&terminals[i], &terminals[i].saved);
	}
}

static void
terminal_all_raw(void)
{
	for (size_t i = 0; i < TERMINALS; i++) {
		if (atomic_load(&terminals[i].in_use))
			terminal_set(&terminals[i], &terminals[i].raw);
	}
}

/* Restores and dies of the same signal, so that the parent sees the truth and a core is written.
 * The action is the default one again (SA_RESETHAND); the signal is delivered when the handler
 * returns. */
static void
terminal_on_fatal(int sig)
{
	chardev_restore_terminals();
	raise(sig);
}

static void
terminal_catch(int sig, void (*handler)(int), int flags)
{
	struct sigaction sa = { .sa_handler = handler, .sa_flags = flags };

	sigemptyset(&sa.sa_mask);
	sigaction(sig, &sa, NULL);
}

/* kill -TSTP: Ctrl-Z itself goes to the guest. The stop must be the signal's own default action:
 * then it has no effect in an orphaned process group, where nobody could continue the process. */
static void
terminal_on_stop(int sig)
{
	sigset_t set, old;

	chardev_restore_terminals();
	terminal_catch(sig, SIG_DFL, 0);
	raise(sig);
	sigemptyset(&set);
	sigaddset(&set, sig);
	pthread_sigmask(SIG_UNBLOCK, &set, &old); /* stops here */
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	terminal_catch(sig, terminal_on_stop, SA_RESTART);
	terminal_all_raw();
}

/* Continued, also after a SIGSTOP, which cannot be caught: the shell had the terminal meanwhile. */
static void
terminal_on_continue(int sig)
{
	terminal_all_raw();
}

/* Whether nobody else wants the signal: an ignored one (nohup) stays ignored. */
static bool
terminal_signal_default(int sig)
{
	struct sigaction sa;

	return sigaction(sig, NULL, &sa) == 0 && (sa.sa_flags & SA_SIGINFO) == 0 &&
	    sa.sa_handler == SIG_DFL;
}

void
chardev_process_init(void)
{
	int fd;

	do {
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
	if (terminal_signal_default(SIGPIPE))
		signal(SIGPIPE, SIG_IGN);
	for (size_t i = 0; i < ARRAY_SIZE(terminal_fatal); i++) {
		if (terminal_signal_default(terminal_fatal[i]))
			terminal_catch(
			    terminal_fatal[i], terminal_on_fatal, SA_RESETHAND | SA_ONSTACK);
	}
	if (terminal_signal_default(SIGTSTP))
		terminal_catch(SIGTSTP, terminal_on_stop, SA_RESTART);
	if (terminal_signal_default(SIGCONT))
		terminal_catch(SIGCONT, terminal_on_continue, SA_RESTART);
}

static int
terminal_slot_take(void)
{
	static bool at_exit; /* guarded by terminals_lock */

	if (!at_exit && atexit(chardev_restore_terminals) == 0)
		at_exit = true;
	for (int i = 0; i < TERMINALS; i++) {
		if (!atomic_load(&terminals[i].in_use))
			return i;
	}
	return -ENOSPC;
}

int
terminal_raw(int fd)
{
	struct terminal *t;
	int slot, err = 0;

	pthread_mutex_lock(&terminals_lock);
	slot = terminal_slot_take();
	if (slot < 0) {
		err = slot;
		goto unlock;
	}
	t = &terminals[slot];
	if (tcgetattr(fd, &t->saved) != 0) {
		err = -errno;
		goto unlock;
	}
	t->fd = dup(fd);
	if (t->fd < 0) {
		err = -errno;
		goto unlock;
	}
	t->raw = t->saved;
	cfmakeraw(&t->raw);
	/* VMIN 0 would make an empty terminal look like the end of input. */
	t->raw.c_cc[VMIN] = 1;
	t->raw.c_cc[VTIME] = 0;
	atomic_store(&t->in_use, true);
	terminal_set(t, &t->raw);
unlock:
	pthread_mutex_unlock(&terminals_lock);
	return err != 0 ? err : slot;
}

void
terminal_raw_again(int slot)
{
	if (slot >= 0)
		terminal_set(&terminals[slot], &terminals[slot].raw);
}

bool
terminal_foreground(int slot)
{
	return slot < 0 || terminal_fd_foreground(terminals[slot].fd);
}

void
terminal_restore(int slot)
{
	struct terminal *t;

	if (slot < 0)
		return;
	t = &terminals[slot];
	terminal_set(t, &t->saved);
	pthread_mutex_lock(&terminals_lock);
	atomic_store(&t->in_use, false);
	close(t->fd);
	pthread_mutex_unlock(&terminals_lock);
}

bool
terminal_stdio_take(void)
{
	return !atomic_exchange(&terminals_stdio_taken, true);
}

void
terminal_stdio_give(void)
{
	atomic_store(&terminals_stdio_taken, false);
}
