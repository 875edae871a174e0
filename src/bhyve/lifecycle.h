/*
 * Signals, and what they mean to the VM:
 *
 *	SIGTERM	presses the power button; a second one, or the first when the guest does not
 *		listen to the button, pulls the plug
 *	SIGHUP	the same, unless it was ignored from the start (nohup): the user's terminal is gone
 *	SIGINT	pulls the plug. While the terminal belongs to the guest, Ctrl-C is the guest's and
 *		raises no signal.
 *	SIGPIPE	ignored: writes tell that their reader left
 *
 * All others keep their meaning, but the terminal is restored before one ends or stops the process.
 * They are taken on the VM's event loop, where everything may be called.
 */
#ifndef BHYVE_LIFECYCLE_H
#define BHYVE_LIFECYCLE_H

struct lifecycle;
struct vm;

/* Main thread, before any other exists. From here on the signals above wait until the VM runs. */
void lifecycle_signals_init(void);

/* Main thread: the VM's event loop takes the signals. 0, or -errno after one line to the user. */
int lifecycle_create(struct vm *vm, struct lifecycle **out);
/* Main thread, the loop not running. NULL is fine. */
void lifecycle_destroy(struct lifecycle *l);

#endif
