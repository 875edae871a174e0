/*
 * What a piece of code says to the user on standard error.
 *
 *	struct capture c;
 *
 *	capture_begin(&c);
 *	err = options_parse(argc, argv, root, &action);
 *	assert_string_equal(capture_end(&c), "bhyve: -Z: no such option\n");
 */
#ifndef CAPTURE_H
#define CAPTURE_H

#include <assert.h>
#include <sys/mman.h>
#include <unistd.h>

#define CAPTURE_MAX 2048

struct capture {
	int saved, fd;
	char text[CAPTURE_MAX];
};

static inline void
capture_begin(struct capture *c)
{
	c->saved = dup(STDERR_FILENO);
	c->fd = memfd_create("stderr", MFD_CLOEXEC);
	assert(c->saved >= 0 && c->fd >= 0);
	dup2(c->fd, STDERR_FILENO);
}

/* Standard error is as before; returns what was written since. */
static inline const char *
capture_end(struct capture *c)
{
	ssize_t n = pread(c->fd, c->text, sizeof(c->text) - 1, 0);

	c->text[n > 0 ? n : 0] = '\0';
	dup2(c->saved, STDERR_FILENO);
	close(c->saved);
	close(c->fd);
	return c->text;
}

#endif
