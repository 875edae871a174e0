/*
 * Serial back ends that listen on a socket: tcp=ip:port and unix=/path. One peer at a time; a
 * further one is turned away at once, as bhyve(8) says of tcp.
 */
#include "chardev/chardev_impl.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/log.h"
#include "vm/loop.h"

/* Out of descriptors, the listening socket stays readable; look again after this. */
#define SOCKET_RETRY_NS 1000000000ull

static void
socket_on_peer(void *arg, unsigned events)
{
	struct chardev *c = arg;
	struct chardev_fd f = { .socket = true };
	bool busy;
	int one = 1;

	f.fd = accept4(c->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (f.fd < 0) {
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			log_warn(c->who, "cannot accept a connection: %s", strerror(errno));
			vm_fd_change(c->listen_watch, 0);
			vm_timer_arm(c->retry_timer, vm_clock_ns(c->loop) + SOCKET_RETRY_NS);
		}
		return;
	}
	pthread_mutex_lock(&c->lock);
	busy = c->connected || c->closing;
	pthread_mutex_unlock(&c->lock);
	if (busy) {
		close(f.fd);
		return;
	}
	/* Keystrokes and their echo go at once; no error on a UNIX socket matters. */
	setsockopt(f.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(f.fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	chardev_up(c, &f, &f);
}

static void
socket_on_retry(void *arg)
{
	struct chardev *c = arg;

	pthread_mutex_lock(&c->lock);
	if (!c->closing)
		vm_fd_change(c->listen_watch, VM_FD_READ);
	pthread_mutex_unlock(&c->lock);
}

/* The listening socket was watched all along: nothing to do for the next peer. */
static void
socket_lost(struct chardev *c)
{
}

static int
socket_listen(struct chardev *c)
{
	if (listen(c->listen_fd, 4) != 0)
		return -errno;
	c->retry_timer = vm_timer_create(c->loop, socket_on_retry, c);
	if (c->retry_timer == NULL)
		return -ENOMEM;
	c->listen_watch = vm_fd_add(c->loop, c->listen_fd, VM_FD_READ, socket_on_peer, c);
	return c->listen_watch != NULL ? 0 : -errno;
}

/* --- TCP --- */

/* Splits "ip:port" or "[ip6]:port". */
static int
tcp_split(const char *arg, char *host, size_t host_size, const char **port)
{
	const char *colon = strrchr(arg, ':');
	const char *end = colon;

	if (colon == NULL || colon == arg || colon[1] == '\0')
		return -EINVAL;
	if (arg[0] == '[') {
		if (end[-1] != ']')
			return -EINVAL;
		arg++;
		end--;
	} else if (memchr(arg, ':', (size_t)(colon - arg)) != NULL) {
		return -EINVAL;
	}
	if (end == arg || (size_t)(end - arg) >= host_size)
		return -EINVAL;
	memcpy(host, arg, (size_t)(end - arg));
	host[end - arg] = '\0';
	*port = colon + 1;
	return 0;
}

static int
tcp_bind(struct chardev *c, const struct addrinfo *ai)
{
	int one = 1;

	c->listen_fd = socket(ai->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->listen_fd < 0)
		return -errno;
	/* A connection of an earlier run may linger on the port. */
	if (setsockopt(c->listen_fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) != 0 ||
	    bind(c->listen_fd, ai->ai_addr, ai->ai_addrlen) != 0)
		return -errno;
	return socket_listen(c);
}

/* Tells which port was taken when the user left the choice to the system. */
static void
tcp_say(struct chardev *c, const char *host)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct sockaddr *sa = (struct sockaddr *)&ss;
	char port[NI_MAXSERV];

	if (getsockname(c->listen_fd, sa, &len) == 0 &&
	    getnameinfo(sa, len, NULL, 0, port, sizeof(port), NI_NUMERICSERV) == 0)
		log_info(c->who, "listening on %s port %s", host, port);
}

static int
tcp_open(struct chardev *c, const char *arg)
{
	struct addrinfo hints = {
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_PASSIVE | AI_NUMERICSERV,
	};
	struct addrinfo *ai;
	char host[NI_MAXHOST];
	const char *port;
	int err;

	if (tcp_split(arg, host, sizeof(host), &port) != 0) {
		log_error(c->who, "'tcp=%s': expected tcp=ip:port or tcp=[ip6]:port", arg);
		return -EINVAL;
	}
	err = getaddrinfo(host, port, &hints, &ai);
	if (err != 0) {
		log_error(c->who, "'tcp=%s': %s", arg, gai_strerror(err));
		return -EINVAL;
	}
	err = tcp_bind(c, ai);
	freeaddrinfo(ai);
	if (err != 0) {
		log_error(c->who, "cannot listen on 'tcp=%s': %s", arg, strerror(-err));
		return err;
	}
	if (strcmp(port, "0") == 0)
		tcp_say(c, host);
	return 0;
}

const struct chardev_backend chardev_tcp = {
	.prefix = "tcp=",
	.open = tcp_open,
	.lost = socket_lost,
};

/* --- UNIX --- */

/* Whether path is a socket that nobody listens on any more: what a killed process leaves behind. */
static bool
unix_stale(const struct sockaddr_un *sun)
{
	struct stat st;
	bool refused;
	int fd;

	if (lstat(sun->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
		return false;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return false;
	refused =
	    connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) != 0 && errno == ECONNREFUSED;
	close(fd);
	return refused;
}

static int
unix_bind(struct chardev *c, const struct sockaddr_un *sun)
{
	const struct sockaddr *sa = (const struct sockaddr *)sun;
	struct stat st;
	int err;

	c->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	/* The file takes the socket's mode, so it never exists with another one (unix(7)). */
	if (c->listen_fd < 0 || fchmod(c->listen_fd, 0600) != 0)
		return -errno;
	err = bind(c->listen_fd, sa, sizeof(*sun)) != 0 ? -errno : 0;
	if (err == -EADDRINUSE && unix_stale(sun) && unlink(sun->sun_path) == 0)
		err = bind(c->listen_fd, sa, sizeof(*sun)) != 0 ? -errno : 0;
	if (err != 0)
		return err;
	c->path = strdup(sun->sun_path);
	if (c->path == NULL || lstat(c->path, &st) != 0) {
		unlink(sun->sun_path);
		return -ENOMEM;
	}
	c->path_dev = st.st_dev;
	c->path_ino = st.st_ino;
	return socket_listen(c);
}

static int
unix_open(struct chardev *c, const char *arg)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	size_t len = strlen(arg);
	int err;

	if (len == 0 || len >= sizeof(sun.sun_path)) {
		log_error(c->who, "'unix=%s': expected a path of 1 to %zu bytes", arg,
		    sizeof(sun.sun_path) - 1);
		return -EINVAL;
	}
	memcpy(sun.sun_path, arg, len);
	err = unix_bind(c, &sun);
	if (err != 0)
		log_error(c->who, "cannot listen on 'unix=%s': %s", arg, strerror(-err));
	return err;
}

/* Removes the path unless somebody put another file there meanwhile. */
static void
unix_close(struct chardev *c)
{
	struct stat st;

	if (c->path != NULL && lstat(c->path, &st) == 0 && st.st_dev == c->path_dev &&
	    st.st_ino == c->path_ino)
		unlink(c->path);
}

const struct chardev_backend chardev_unix = {
	.prefix = "unix=",
	.open = unix_open,
	.close = unix_close,
	.lost = socket_lost,
};
