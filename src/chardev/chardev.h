/*
 * A serial line's other end on the host: the terminal, a tty, a socket, a pty.
 *
 *	"stdio"  "/dev/pts/3" (any tty device)  "tcp=ip:port"  "unix=/path" (listening socket) "pty"
 *
 * All calls are made from any thread; callbacks run on the event loop's thread with no lock held,
 * and may call back in. Every wrapper takes NULL for "nothing attached": input never comes, output
 * vanishes.
 */
#ifndef CHARDEV_CHARDEV_H
#define CHARDEV_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct chardev;
struct vm_loop;

struct chardev_client {
	/* How many bytes the client can take now; input waits on the host while it is 0. */
	size_t (*room)(void *ctx);
	/* len <= room() bytes arrived. */
	void (*input)(void *ctx, const uint8_t *buf, size_t len);
	/* Output space is free again after a short chardev_write(); may be NULL. */
	void (*writable)(void *ctx);
	/* A peer came (true) or left; lines without that notion always have one. May be NULL. */
	void (*connected)(void *ctx, bool up);
};

/* Whether a description names a back end that exists; what follows its name is not looked at. */
bool chardev_spec_valid(const char *spec);
/* Opens a back end by its description. who names the option for messages. 0, or -errno after one
 * line to the user. A second use of stdio is -EBUSY. */
int chardev_open(struct vm_loop *loop, const char *spec, const char *who, struct chardev **out);
/* Restores the terminal, closes, removes a socket's path. NULL is fine. */
void chardev_close(struct chardev *c);
/* Attaches the one client; input that came before is delivered as room allows. */
void chardev_attach(struct chardev *c, const struct chardev_client *client, void *ctx);
/* Takes up to len bytes for output and returns how many it took: it buffers and never blocks. When
 * nobody is connected, output is dropped and counts as taken. */
size_t chardev_write(struct chardev *c, const uint8_t *buf, size_t len);
/* The client has room again after room() returned 0. */
void chardev_resume(struct chardev *c);
bool chardev_connected(const struct chardev *c);
/* Waits (at most a second) until buffered output has left, before the process ends. */
void chardev_drain(struct chardev *c);
/* Restores every terminal put into raw mode; async-signal-safe, for handlers of fatal signals. */
void chardev_restore_terminals(void);
/* Makes the process fit for stdio; main() calls it first thing. What is closed of stdin, stdout and
 * stderr becomes /dev/null, so that no other file takes its number; SIGPIPE is ignored; every
 * signal that ends or stops the process restores the terminals first, unless it is handled or
 * ignored already. Who handles faults later passes on to the earlier handler what is not his. */
void chardev_process_init(void);

#endif
