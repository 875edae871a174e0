/*
 * Signals, taken from a signalfd on the event loop.
 */
#include "bhyve/lifecycle.h"

#include "base/log.h"
#include "chardev/chardev.h"
#include "vm/loop.h"
#include "vm/vm.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct lifecycle {
	struct vm *vm;
	int fd;
	struct vm_fd *watch;
	bool pressed; /* the power button, by a signal before */
};

/* A blocked signal reaches a signalfd even when it is ignored, so those stay out of the set. */
static void
lifecycle_signal_set(sigset_t *set)
{
	struct sigaction hup;

	sigemptyset(set);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGINT);
	if (sigaction(SIGHUP, NULL, &hup) != 0 || hup.sa_handler != SIG_IGN)
		sigaddset(set, SIGHUP);
}

void
lifecycle_signals_init(void)
{
	sigset_t set;

	lifecycle_signal_set(&set);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	chardev_process_init();
}

static void
lifecycle_signal(struct lifecycle *l, uint32_t number)
{
	if (number != SIGINT && !l->pressed && vm_power_button(l->vm)) {
		l->pressed = true;
		return;
	}
	vm_shutdown(l->vm, VM_EXIT_POWEROFF);
}

static void
lifecycle_on_signal(void *arg, unsigned events)
{
	struct lifecycle *l = arg;
	struct signalfd_siginfo info;

	(void)events;
	while (read(l->fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		lifecycle_signal(l, info.ssi_signo);
}

int
lifecycle_create(struct vm *vm, struct lifecycle **out)
{
	struct lifecycle *l = calloc(1, sizeof(*l));
	sigset_t set;
	int err;

	if (l == NULL) {
		log_error("signals", "out of memory");
		return -ENOMEM;
	}
	l->vm = vm;
	lifecycle_signal_set(&set);
	l->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (l->fd >= 0)
		l->watch = vm_fd_add(vm_loop(vm), l->fd, VM_FD_READ, lifecycle_on_signal, l);
	if (l->watch == NULL) {
		err = -errno;
		log_error("signals", "cannot be watched: %s", strerror(-err));
		lifecycle_destroy(l);
		return err;
	}
	*out = l;
	return 0;
}

void
lifecycle_destroy(struct lifecycle *l)
{
	if (l == NULL)
		return;
	vm_fd_remove(l->watch);
	if (l->fd >= 0)
		close(l->fd);
	free(l);
}
