/*
 * A tap interface of the host's network (Linux, Documentation/networking/tuntap.rst). Frames and
 * their headers go to the kernel and come from it as they are, so checksums and segmentation can be
 * left to whoever does them best.
 */
#include "netif/netif_impl.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/iov.h"
#include "base/log.h"

#define TAP_DEVICE "/dev/net/tun"

/* Newer than the headers of Debian 12 (Linux 6.2): UDP segmentation. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

/* The IOV_MAX of writev() and readv() leaves one element for what does not fit. */
#define TAP_IOV_MAX 1023

struct tap {
	struct netif *n;
	char name[IFNAMSIZ];
	int index; /* of the interface */
	int fd[NETIF_QUEUES_MAX];
	int link_fd; /* netlink: changes of links */
	unsigned active; /* queues that receive */
};

/* --- The interface --- */

/* An ioctl() on an interface by name. 0 or -errno. */
static int
tap_if_ioctl(const char *name, unsigned long request, struct ifreq *ifr)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), err;

	if (fd < 0)
		return -errno;
	snprintf(ifr->ifr_name, sizeof(ifr->ifr_name), "%s", name);
	err = ioctl(fd, request, ifr) < 0 ? -errno : 0;
	close(fd);
	return err;
}

static bool
tap_is_up(const struct tap *t)
{
	struct ifreq ifr = { 0 };

	return tap_if_ioctl(t->name, SIOCGIFFLAGS, &ifr) == 0 && (ifr.ifr_flags & IFF_UP) != 0;
}

static int
tap_up(const struct tap *t)
{
	struct ifreq ifr = { 0 };
	int err;

	if (tap_is_up(t))
		return 0;
	err = tap_if_ioctl(t->name, SIOCGIFFLAGS, &ifr);
	if (err != 0)
		return err;
	ifr.ifr_flags |= IFF_UP;
	return tap_if_ioctl(t->name, SIOCSIFFLAGS, &ifr);
}

static int
tap_mtu_set(const struct tap *t, unsigned mtu)
{
	struct ifreq ifr = { 0 };

	if (tap_if_ioctl(t->name, SIOCGIFMTU, &ifr) == 0 && ifr.ifr_mtu == (int)mtu)
		return 0;
	ifr.ifr_mtu = (int)mtu;
	return tap_if_ioctl(t->name, SIOCSIFMTU, &ifr);
}

/* Joins the bridge, unless the interface is in it already. */
static int
tap_bridge_join(const struct tap *t, const char *bridge)
{
	struct ifreq ifr = { .ifr_ifindex = t->index };
	char in_it[128];

	snprintf(in_it, sizeof(in_it), "/sys/class/net/%s/brif/%s", bridge, t->name);
	if (access(in_it, F_OK) == 0)
		return 0;
	return tap_if_ioctl(bridge, SIOCBRADDIF, &ifr);
}

static int
tap_attach(struct tap *t, const char *name, unsigned queues, int *fd)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int hdr_size = sizeof(struct netif_hdr), little = 1, err;

	*fd = open(TAP_DEVICE, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	if (*fd < 0) {
		err = -errno;
		log_error(t->n->who, "%s: %s%s", TAP_DEVICE, strerror(errno),
		    errno == ENOENT ? " (modprobe tun)" : "");
		return err;
	}
	if (queues > 1)
		ifr.ifr_flags |= IFF_MULTI_QUEUE;
	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	if (ioctl(*fd, TUNSETIFF, &ifr) < 0) {
		err = -errno;
		if (err == -EPERM)
			log_error(t->n->who,
			    "%s: not permitted: make it for this user first "
			    "(ip tuntap add dev %s mode tap user NAME), or have CAP_NET_ADMIN",
			    name, name);
		else if (err == -EINVAL)
			log_error(t->n->who, "%s: not a tap interface%s", name,
			    queues > 1 ? ", or one made without multi_queue" : "");
		else if (err == -EBUSY)
			log_error(t->n->who, "%s: in use by another program", name);
		else
			log_error(t->n->who, "%s: %s", name, strerror(-err));
		return err;
	}
	snprintf(t->name, sizeof(t->name), "%s", ifr.ifr_name);
	if (ioctl(*fd, TUNSETVNETHDRSZ, &hdr_size) < 0 || ioctl(*fd, TUNSETVNETLE, &little) < 0 ||
	    ioctl(*fd, TUNSETOFFLOAD, 0ul) < 0) {
		err = -errno;
		log_error(t->n->who, "%s: cannot use headers: %s", name, strerror(errno));
		return err;
	}
	return 0;
}

/* --- Settings --- */

static const struct {
	unsigned offload, tun;
} tap_offloads[] = {
	{ NETIF_CSUM, TUN_F_CSUM },
	{ NETIF_TSO4, TUN_F_TSO4 },
	{ NETIF_TSO6, TUN_F_TSO6 },
	{ NETIF_TSO_ECN, TUN_F_TSO_ECN },
	{ NETIF_USO, TUN_F_USO4 | TUN_F_USO6 },
};

static int
tap_offloads_set(struct netif *n, unsigned offloads)
{
	struct tap *t = n->priv;
	unsigned long tun = 0;

	for (size_t i = 0; i < ARRAY_SIZE(tap_offloads); i++)
		if ((offloads & tap_offloads[i].offload) != 0)
			tun |= tap_offloads[i].tun;
	return ioctl(t->fd[0], TUNSETOFFLOAD, tun) < 0 ? -errno : 0;
}

/* What the kernel can have left to do, found out by asking for it. */
static unsigned
tap_offloads_probe(struct netif *n)
{
	unsigned base = NETIF_CSUM | NETIF_TSO4 | NETIF_TSO6 | NETIF_TSO_ECN, found = 0;

	if (tap_offloads_set(n, base) == 0)
		found = base;
	if (found != 0 && tap_offloads_set(n, base | NETIF_USO) == 0)
		found |= NETIF_USO;
	tap_offloads_set(n, 0);
	return found;
}

static int
tap_queues_set(struct netif *n, unsigned queues)
{
	struct tap *t = n->priv;

	for (unsigned i = 1; i < n->queues; i++) {
		struct ifreq ifr = { .ifr_flags = i < queues ? IFF_ATTACH_QUEUE :
							       IFF_DETACH_QUEUE };

		if ((i < queues) == (i < t->active))
			continue;
		if (ioctl(t->fd[i], TUNSETQUEUE, &ifr) < 0)
			return -errno;
	}
	t->active = queues;
	return 0;
}

/* --- The link: up when somebody has set it up on the host --- */

/* Not having it costs only that the guest does not learn of changes. */
static void
tap_link_watch(struct tap *t)
{
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK };

	t->link_fd =
	    socket(AF_NETLINK, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (t->link_fd >= 0 && bind(t->link_fd, (struct sockaddr *)&addr, sizeof(addr)) < 0) {
		close(t->link_fd);
		t->link_fd = -1;
	}
}

/* The messages say what was changed; what holds now is asked for. */
static void
tap_link_read(struct tap *t)
{
	char buf[8192];
	ssize_t len;

	do
		len = recv(t->link_fd, buf, sizeof(buf), 0);
	while (len > 0 || (len < 0 && errno == ENOBUFS));
	netif_link_set(t->n, tap_is_up(t));
}

/* --- The queue's thread --- */

static void
tap_prepare(struct netif_queue *q, struct netif_pollfds *p, bool want_input)
{
	struct tap *t = q->n->priv;
	short events = (short)((want_input ? POLLIN : 0) | (q->blocked ? POLLOUT : 0));

	/* An interface that is down says POLLERR without end. */
	if (!netif_link(q->n))
		events = 0;
	netif_pollfds_add(p, events != 0 ? t->fd[q->index] : -1, events);
	if (q->index == 0)
		netif_pollfds_add(p, t->link_fd, POLLIN);
}

static void
tap_dispatch(struct netif_queue *q, const struct netif_pollfds *p)
{
	struct tap *t = q->n->priv;

	if (p->count > 1 && (p->fds[1].revents & POLLIN) != 0)
		q->readable = true;
	if (p->count > 1 && (p->fds[1].revents & (POLLOUT | POLLERR)) != 0)
		q->blocked = false;
	if (p->count > 2 && p->fds[2].revents != 0)
		tap_link_read(t);
}

static int
tap_send(struct netif_queue *q, const struct iovec *iov, int iovcnt, size_t len)
{
	struct tap *t = q->n->priv;
	ssize_t n;

	do
		n = writev(t->fd[q->index], iov, iovcnt);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : 0;
}

static ssize_t
tap_recv(struct netif_queue *q, const struct iovec *iov, int iovcnt)
{
	struct tap *t = q->n->priv;
	struct iovec all[TAP_IOV_MAX + 1];
	size_t room = iov_length(iov, iovcnt);
	uint8_t beyond;
	ssize_t n;

	if (iovcnt > TAP_IOV_MAX)
		return -EMSGSIZE;
	/* A frame that is too long would be cut off without a word; a byte more tells. */
	memcpy(all, iov, (size_t)iovcnt * sizeof(*iov));
	all[iovcnt] = (struct iovec){ .iov_base = &beyond, .iov_len = 1 };
	do
		n = readv(t->fd[q->index], all, iovcnt + 1);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -EAGAIN;
	return (size_t)n > room || (size_t)n < sizeof(struct netif_hdr) ? -EMSGSIZE : n;
}

/* --- Opening --- */

static int
tap_check(const struct netif_options *o, const char *who)
{
	if (strlen(o->backend) >= IFNAMSIZ || strpbrk(o->backend, "/ %:") != NULL) {
		log_error(who, "backend=%s: not the name of an interface", o->backend);
		return -EINVAL;
	}
	if (o->bridge != NULL && (strlen(o->bridge) >= IFNAMSIZ || *o->bridge == '\0')) {
		log_error(who, "bridge=%s: not the name of an interface", o->bridge);
		return -EINVAL;
	}
	return 0;
}

static void
tap_free(struct tap *t)
{
	for (unsigned i = 0; i < NETIF_QUEUES_MAX; i++)
		if (t->fd[i] >= 0)
			close(t->fd[i]);
	if (t->link_fd >= 0)
		close(t->link_fd);
	free(t);
}

static int
tap_configure(struct tap *t, const struct netif_options *o)
{
	int err;

	t->index = (int)if_nametoindex(t->name);
	if (o->mtu != 0) {
		err = tap_mtu_set(t, o->mtu);
		if (err != 0) {
			log_error(t->n->who, "mtu=%u: cannot be set on %s: %s", o->mtu, t->name,
			    strerror(-err));
			return err;
		}
	}
	if (o->bridge != NULL) {
		err = tap_bridge_join(t, o->bridge);
		if (err != 0) {
			log_error(t->n->who, "bridge=%s: %s cannot join it: %s", o->bridge, t->name,
			    err == -ENODEV ? "no such bridge" : strerror(-err));
			return err;
		}
	}
	err = tap_up(t);
	if (err != 0)
		log_warn(t->n->who, "%s is down and cannot be set up: %s", t->name, strerror(-err));
	return 0;
}

static int
tap_open(struct netif *n, const struct netif_options *o)
{
	struct tap *t = calloc(1, sizeof(*t));
	int err;

	if (t == NULL) {
		log_error(n->who, "out of memory");
		return -ENOMEM;
	}
	t->n = n;
	t->link_fd = -1;
	for (unsigned i = 0; i < NETIF_QUEUES_MAX; i++)
		t->fd[i] = -1;
	for (unsigned i = 0; i < n->queues; i++) {
		err = tap_attach(t, o->backend, n->queues, &t->fd[i]);
		if (err != 0)
			goto free;
	}
	err = tap_configure(t, o);
	if (err != 0)
		goto free;
	n->priv = t;
	t->active = n->queues;
	n->offloads = tap_offloads_probe(n);
	err = tap_queues_set(n, 1);
	if (err != 0) {
		log_error(n->who, "%s: %s", t->name, strerror(-err));
		goto free;
	}
	tap_link_watch(t);
	atomic_store(&n->link, tap_is_up(t));
	return 0;
free:
	tap_free(t);
	return err;
}

static void
tap_close(struct netif *n)
{
	tap_free(n->priv);
}

const struct netif_backend netif_tap = {
	.name = "tap",
	.is_prefix = true,
	.check = tap_check,
	.open = tap_open,
	.close = tap_close,
	.prepare = tap_prepare,
	.dispatch = tap_dispatch,
	.send = tap_send,
	.recv = tap_recv,
	.queues_set = tap_queues_set,
	.offloads_set = tap_offloads_set,
};
