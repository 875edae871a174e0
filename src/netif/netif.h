/*
 * Networks: what a network interface is plugged into on the host. A back end that knows no device:
 * tap interfaces, the user-mode network of libslirp, and a stream socket to a switch or to passt.
 *
 *	static const struct netif_client foo_client = { .input = foo_input, .kick = foo_kick };
 *
 *	err = netif_open(cfg, pci_name(dev), 1, &foo_client, foo, &foo->net);	// create()
 *
 *	netif_kick(foo->net, 0);	// doorbells of both rings, on a vCPU's thread
 *
 *	foo_kick(ctx, q)	// on the queue's thread: frames to send, room to receive
 *		while ((n = foo_ring_next(iov)) > 0 && netif_send(net, q, iov, n) != -EAGAIN)
 *			...;
 *	foo_input(ctx, q)	// on the queue's thread: frames have come
 *		while (foo_has_room() && (len = netif_recv(net, q, iov, n)) >= 0)
 *			...;
 *
 * Frames. A frame is Ethernet without its checksum, after a struct netif_hdr which says what is left
 * to do to it. Frames are moved straight between the elements given and the host: there is no
 * buffer in between where the host does not make one.
 *
 * Threads. Each queue has a thread of its own. Its client's input() and kick() run there, one at a
 * time; netif_send() and netif_recv() are called from within them only. All other functions may be
 * called from any thread, also with a lock that the callbacks take, but for netif_close() and
 * netif_pause(), which wait for the callbacks.
 *
 * Flow. Input that the client has no room for waits on the host, where the host bounds and drops it,
 * as a network does. Output that the host does not take now waits in the client's ring.
 *
 * Configuration: variables of a device's node.
 *	backend		tapN	a tap interface; made if it is not there and the user may do that
 *			slirp	a network of its own behind this process's sockets, no
 *				privileges needed
 *			stream	frames with their length before them on a UNIX socket, as passt
 *				and QEMU's "-netdev stream" speak it
 *			Without one, nothing is plugged in: the link is down.
 *	mtu		bytes, 68 to 65521: of the interface, and for the guest where the device
 *			can tell it
 *	bridge		tap: a bridge on the host to join
 *	open		slirp, bool: the guest may connect to the world; otherwise connections come
 *			from the host only
 *	hostfwd		slirp: PROTO:[HOSTADDR]:HOSTPORT-[GUESTADDR]:GUESTPORT[;...], connections
 *			to the host's port go to the guest's
 *	path		stream: the socket to connect to
 */
#ifndef NETIF_NETIF_H
#define NETIF_NETIF_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct config;
struct netif;

/* The variables above, for a device's list of those it reads. */
#define NETIF_VARS "backend", "mtu", "bridge", "open", "hostfwd", "path"

/* What precedes each frame, in little-endian order: the header of VIRTIO 1.2, 5.1.6. All zero is a
 * frame with nothing left to do. What a guest says in it is checked by whom it is given to. */
struct netif_hdr {
	uint8_t flags, gso_type;
	uint16_t hdr_len, gso_size;
	uint16_t csum_start, csum_offset;
	uint16_t num_buffers; /* the device's own; ignored and not set here */
};
static_assert(sizeof(struct netif_hdr) == 12, "VIRTIO 1.2, 5.1.6");

#define NETIF_FRAME_MAX 65550 /* bytes without the header: the largest packet, its VLAN tag too */
#define NETIF_QUEUES_MAX 16

struct netif_client {
	/* Frames have come: receive them. What is left when it returns waits for netif_kick(). */
	void (*input)(void *ctx, unsigned queue);
	/* After netif_kick(), and when output is possible again after -EAGAIN. */
	void (*kick)(void *ctx, unsigned queue);
	/* The link has changed: netif_link(). On a queue's thread, no lock held. May be NULL. */
	void (*link)(void *ctx);
};

/* Opens what cfg, a device's node, describes, with up to queues queues; who names it in messages.
 * client stays the caller's; it is called from netif_start() on. Main thread. 0, or -errno after
 * one line to the user. */
int netif_open(const struct config *cfg, const char *who, unsigned queues,
    const struct netif_client *client, void *ctx, struct netif **out);
/* Has the callbacks begin. Main thread, when the device is ready for them. 0 or -errno, after one
 * line to the user. */
int netif_start(struct netif *n);
/* Ends the threads and unplugs. NULL is fine. */
void netif_close(struct netif *n);

/* Checks the variables of cfg. 0, or -EINVAL after one line to the user. netif_open() does so
 * too. */
int netif_check(const struct config *cfg, const char *who);

/* --- The queue's thread, within a callback --- */

/* Sends one frame, header first. 0; -EAGAIN when the host does not take it now (kick() comes when it
 * does); else -errno, and the frame is lost, as frames are. */
int netif_send(struct netif *n, unsigned queue, const struct iovec *iov, int iovcnt);
/* Receives one frame, header first, into the elements. Its length with the header; -EAGAIN when
 * there is none. Frames longer than the elements are dropped. */
ssize_t netif_recv(struct netif *n, unsigned queue, const struct iovec *iov, int iovcnt);

/* --- Any thread --- */

/* Has kick() called soon, and input() if frames were left. One atomic operation, and a system call
 * unless it was called already. */
void netif_kick(struct netif *n, unsigned queue);
/* No callback is running when this returns, and none is called until netif_resume(). */
void netif_pause(struct netif *n);
void netif_resume(struct netif *n);

/* Most queues that the back end has, at least 1; at most what netif_open() was given. */
unsigned netif_queues(const struct netif *n);
/* Spreads what is received over the first queues of them; 1 at the start. 0 or -errno. */
int netif_queues_set(struct netif *n, unsigned queues);

/* What may be left to do to a frame. */
#define NETIF_CSUM (1u << 0) /* the checksum */
#define NETIF_TSO4 (1u << 1) /* to cut it into segments */
#define NETIF_TSO6 (1u << 2)
#define NETIF_TSO_ECN (1u << 3)
#define NETIF_USO (1u << 4) /* UDP segments, over IPv4 and IPv6 */
/* What frames that are sent may leave to do. */
unsigned netif_offloads(const struct netif *n);
/* What frames that are received may leave to do, a subset of the above; nothing at the start. */
int netif_offloads_set(struct netif *n, unsigned offloads);

bool netif_link(const struct netif *n);
/* bytes; 0: not configured */
unsigned netif_mtu(const struct netif *n);
/* "tap", "slirp", "stream" or "none". */
const char *netif_backend_name(const struct netif *n);

struct netif_stats {
	struct {
		uint64_t frames, bytes, dropped;
	} sent, received;
};
void netif_stats(const struct netif *n, struct netif_stats *out);

/* --- Addresses --- */

/* The address in cfg's mac variable, or one derived from the VM's name and the device's place as
 * bhyve(8) does, so that it stays the same. 0, or -EINVAL after one line to the user. */
int netif_mac(const struct config *cfg, const char *who, const char *vm_name, int slot, int function,
    uint8_t mac[6]);

#endif
