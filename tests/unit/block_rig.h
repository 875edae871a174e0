/*
 * A disk under test, and requests one waits for.
 *
 *	struct disk d;
 *
 *	assert_int_equal(disk_open(&d, "path=/tmp/x,nocache=true"), 0);
 *	assert_int_equal(disk_do(&d, BLOCK_READ, 0, 4096, buf, 512), 0);
 *	disk_close(&d);
 */
#ifndef BLOCK_RIG_H
#define BLOCK_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/bits.h"
#include "base/config.h"
#include "block/block.h"
#include "vm/loop.h"

#include "capture.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RIG_PATIENCE_S 60 /* for events that must come; nothing waits so long when all is well */

struct disk {
	struct vm_loop *loop;
	struct config *cfg;
	struct block *b;
	struct capture said; /* what block_open() told the user: said.text */
};

/* Opens a disk by "name=value,name=value". */
static inline int
disk_open(struct disk *d, const char *vars)
{
	char *copy = strdup(vars), *rest = copy, *var;
	int err;

	memset(d, 0, sizeof(*d));
	d->loop = vm_loop_create();
	d->cfg = config_create();
	while ((var = strsep(&rest, ",")) != NULL) {
		char *value = strchr(var, '=');

		assert_non_null(value);
		*value++ = '\0';
		assert_int_equal(config_set(d->cfg, var, value), 0);
	}
	free(copy);
	capture_begin(&d->said);
	err = block_open(d->loop, d->cfg, "disk", &d->b);
	capture_end(&d->said);
	return err;
}

static inline void
disk_close(struct disk *d)
{
	block_close(d->b);
	vm_loop_destroy(d->loop);
	config_destroy(d->cfg);
	memset(d, 0, sizeof(*d));
}

/* Opening must fail, with this message. */
static inline void
disk_refused(const char *vars, int err, const char *said)
{
	struct disk d;

	assert_int_equal(disk_open(&d, vars), err);
	assert_string_equal(d.said.text, said);
	disk_close(&d);
}

static inline void
rig_wait(sem_t *sem)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += RIG_PATIENCE_S;
	while (sem_timedwait(sem, &end) != 0)
		assert_int_equal(errno, EINTR);
}

struct io { /* a request one waits for */
	struct block_req req;
	sem_t done;
	int err, calls;
};

static inline void
io_done(struct block_req *req, int err)
{
	struct io *io = container_of(req, struct io, req);

	io->err = err;
	io->calls++;
	sem_post(&io->done);
}

static inline void
io_submit(struct disk *d, struct io *io)
{
	io->req.done = io_done;
	io->err = 1;
	io->calls = 0;
	sem_init(&io->done, 0, 0);
	block_submit(d->b, &io->req);
}

static inline int
io_wait(struct io *io)
{
	rig_wait(&io->done);
	sem_destroy(&io->done);
	return io->err;
}

static inline int
disk_do_iov(struct disk *d, enum block_op op, unsigned flags, uint64_t off, const struct iovec *iov,
    int cnt, uint64_t len)
{
	struct io io = { .req = { .op = op,
			     .flags = flags,
			     .offset = off,
			     .len = len,
			     .iov = iov,
			     .iovcnt = cnt } };

	io_submit(d, &io);
	return io_wait(&io);
}

static inline int
disk_do(struct disk *d, enum block_op op, unsigned flags, uint64_t off, void *buf, uint64_t len)
{
	struct iovec iov = { .iov_base = buf, .iov_len = len };

	return disk_do_iov(d, op, flags, off, &iov, 1, len);
}

/* --- Files and servers --- */

/* A file of this size, all a hole; unlink() and free() the path. In the current directory's file
 * system, because /tmp may be memory. */
static inline char *
rig_file(uint64_t size)
{
	char name[] = "build/block-test-XXXXXX", *path;
	int fd;

	mkdir("build", 0777);
	fd = mkstemp(name);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	close(fd);
	path = realpath(name, NULL);
	assert_non_null(path);
	return path;
}

static inline void
rig_file_remove(char *path)
{
	unlink(path);
	free(path);
}

static inline uint64_t
rig_file_blocks(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

static inline bool
rig_has_program(const char *name)
{
	char command[128];

	snprintf(command, sizeof(command), "command -v %s >/dev/null 2>&1", name);
	return system(command) == 0;
}

struct server { /* an NBD server on a UNIX socket */
	char dir[32], sock[64], pid_file[64], uri[128];
	const char *program;
	const char *path;
	const char *args, *params; /* of nbdkit, before and behind the plugin; NULL: none */
};

static char rig_pid_files[16][64]; /* of servers that run, for the end of a test that failed */

static inline void
rig_servers_end(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(rig_pid_files); i++) {
		FILE *in = rig_pid_files[i][0] != '\0' ? fopen(rig_pid_files[i], "r") : NULL;
		int pid;

		if (in == NULL)
			continue;
		if (fscanf(in, "%d", &pid) == 1)
			kill(pid, SIGKILL);
		fclose(in);
	}
}

static inline void
rig_server_note(const char *pid_file)
{
	size_t i = 0;

	if (rig_pid_files[0][0] == '\0')
		atexit(rig_servers_end);
	while (i < ARRAY_SIZE(rig_pid_files) - 1 && rig_pid_files[i][0] != '\0' &&
	    access(rig_pid_files[i], F_OK) == 0)
		i++;
	strcpy(rig_pid_files[i], pid_file);
}

/* Starts the server and returns when it takes connections. */
static inline void
server_start(struct server *s)
{
	char command[512];

	if (strcmp(s->program, "nbdkit") == 0)
		snprintf(command, sizeof(command), "nbdkit -U %s -P %s %s file %s %s", s->sock,
		    s->pid_file, s->args != NULL ? s->args : "", s->path,
		    s->params != NULL ? s->params : "");
	else
		snprintf(command, sizeof(command),
		    "qemu-nbd -t -f raw --discard=unmap --detect-zeroes=off -e 8 -k %s --pid-file "
		    "%s --fork %s",
		    s->sock, s->pid_file, s->path);
	rig_server_note(s->pid_file);
	assert_int_equal(system(command), 0);
}

static inline void
server_create(
    struct server *s, const char *program, const char *args, const char *path, const char *params)
{
	*s = (struct server){ .program = program, .args = args, .path = path, .params = params };
	strcpy(s->dir, "/tmp/block-nbd-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->sock, sizeof(s->sock), "%s/sock", s->dir);
	snprintf(s->pid_file, sizeof(s->pid_file), "%s/pid", s->dir);
	snprintf(s->uri, sizeof(s->uri), "nbd+unix:///?socket=%s", s->sock);
	server_start(s);
}

/* Sends a signal to the server; SIGKILL: returns when it is gone. */
static inline void
server_signal(struct server *s, int sig)
{
	FILE *in = fopen(s->pid_file, "r");
	struct pollfd gone = { .events = POLLIN };
	int pid = 0;

	assert_non_null(in);
	assert_int_equal(fscanf(in, "%d", &pid), 1);
	fclose(in);
	gone.fd = (int)syscall(SYS_pidfd_open, pid, 0);
	assert_true(gone.fd >= 0);
	assert_int_equal(kill(pid, sig), 0);
	if (sig == SIGKILL)
		assert_int_equal(poll(&gone, 1, RIG_PATIENCE_S * 1000), 1);
	close(gone.fd);
	if (sig != SIGKILL)
		return;
	unlink(s->sock);
	unlink(s->pid_file);
}

static inline void
server_destroy(struct server *s)
{
	if (access(s->pid_file, F_OK) == 0)
		server_signal(s, SIGKILL);
	rmdir(s->dir);
}

/* Whether NBD can be tested with a program; says why not. */
static inline bool
rig_has_nbd(const char *program)
{
#ifdef HAVE_LIBNBD
	if (rig_has_program(program))
		return true;
	print_message("skipped: %s is not installed\n", program);
#else
	print_message("skipped: built without libnbd\n");
#endif
	return false;
}

#endif
