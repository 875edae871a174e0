/*
 * Inside this room: what chardev.c (buffers, watches, the client) and its back ends share.
 *
 * A back end has up to two descriptors, one to read and one to write (often the same). chardev.c
 * does all reading, writing and watching; a back end opens descriptors, says when a peer came, and
 * is asked when one seems to have left.
 */
#ifndef CHARDEV_CHARDEV_IMPL_H
#define CHARDEV_CHARDEV_IMPL_H

#include "chardev/chardev.h"

#include <pthread.h>

struct vm_fd;
struct vm_timer;

/* Output that waits for the host: many screenfuls; a power of two. */
#define CHARDEV_OUT_SIZE 65536u
/* How long output may wait for more, so that a stream of single bytes leaves in bulk. */
#define CHARDEV_FLUSH_NS 1000000ull

struct chardev_backend {
	const char *prefix; /* how the description starts, for example "tcp=" */
	bool exact; /* the description is the prefix and nothing else */
	/* Opens by what follows the prefix. 0, or -errno after one line to the user; close() is
	 * called in any case. Main thread, no lock. */
	int (*open)(struct chardev *c, const char *arg);
	/* Undoes open() but for in and out: main thread, no watch is left. May be NULL. */
	void (*close)(struct chardev *c);
	/* Loop thread, c->lock held: whether in may be read now. A back end that says no sees to it
	 * that chardev_input_allowed() is called once it may. NULL: always. */
	bool (*may_read)(struct chardev *c);
	/* Loop thread, c->lock held: the peer is gone, in and out are closed. The back end waits
	 * for the next peer. NULL: there is never another. */
	void (*lost)(struct chardev *c);
};

/* A descriptor and how it is watched. */
struct chardev_fd {
	int fd; /* -1: none */
	bool socket; /* recv() and send(), so that the descriptor itself may stay blocking */
	/* Not 0: the descriptor blocks; poll() before each write() and write at most this much. */
	uint32_t chunk;
	unsigned asked; /* what watch was asked for */
	struct vm_fd *watch; /* NULL while asked is 0 */
};

struct chardev {
	struct vm_loop *loop;
	const struct chardev_backend *backend;
	char *who; /* the option, for messages */

	pthread_mutex_t lock; /* guards everything below; never held over a call to the client */
	struct chardev_client client;
	void *client_ctx;
	bool attached;
	bool connected;
	bool closing; /* callbacks that still come do nothing */
	unsigned notes; /* what to tell the client when the lock is let go */

	struct chardev_fd in; /* when in.fd == out.fd, in's watch serves both */
	struct chardev_fd out;
	bool in_eof; /* nothing will come any more from this peer */
	bool in_paused; /* the client had no room; chardev_resume() ends it */
	bool in_suspended; /* may_read() said no; chardev_input_allowed() ends it */

	uint8_t *out_buf; /* a ring of CHARDEV_OUT_SIZE */
	uint32_t out_head, out_tail; /* free-running: bytes enter at tail and leave at head */
	bool out_blocked; /* the host takes no more now; a watch tells when */
	bool out_short; /* a chardev_write() took less than offered */
	bool out_failed; /* the user was told that output is lost */
	struct vm_timer *out_timer; /* flushes */

	/* The back end's own. */
	int listen_fd; /* tcp, unix: the listening socket; pty: inotify */
	struct vm_fd *listen_watch;
	struct vm_timer *retry_timer; /* stdio: for the foreground; sockets: for free descriptors */
	char *path; /* unix: the socket; pty: the slave's path */
	uint64_t path_dev, path_ino; /* unix: the file at path, if it is still ours */
	int pty_fd; /* pty: the master, open all the time */
	int terminal; /* stdio, tty: the slot of terminal.c, or -1 */
};

extern const struct chardev_backend chardev_stdio, chardev_tty, chardev_pty, chardev_tcp,
    chardev_unix;

/* For back ends. */

/* A peer is there on these descriptors (fd -1: none), which now belong to c. Main thread in open(),
 * else loop thread; no lock held. */
void chardev_up(struct chardev *c, const struct chardev_fd *in, const struct chardev_fd *out);
/* After may_read() said no: look again. Loop thread, no lock held. */
void chardev_input_allowed(struct chardev *c);

/* --- terminal.c: raw mode, put back on every way out --- */

/* Puts the terminal fd into raw mode, remembering what it was. Returns a slot, or -errno. The slot
 * is taken but the mode unchanged while the process is in the terminal's background. */
int terminal_raw(int fd);
/* Puts a slot's terminal into raw mode again if it is not: after the process came to the
 * foreground. */
void terminal_raw_again(int slot);
/* Restores the terminal and frees the slot; -1 is fine. */
void terminal_restore(int slot);
/* Whether this process may read from and change the slot's terminal: it is in its foreground, or
 * the terminal is not its controlling one. True for -1. */
bool terminal_foreground(int slot);
/* Takes stdio for this process: false when it is taken already. */
bool terminal_stdio_take(void);
void terminal_stdio_give(void);

#endif
