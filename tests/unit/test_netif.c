/*
 * Networks (netif/): each back end with a peer on its other side, flow control, and bad options.
 */
#include "netif/netif.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/bits.h"
#include "base/config.h"
#include "base/log.h"
#include "base/md5.h"

#define FRAMES_MAX 2048

/* A device with a ring of frames in memory. */
struct nic {
	struct config *cfg;
	struct netif *net;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	/* To send: kick() takes them in order. */
	struct {
		uint8_t data[2048];
		size_t len;
	} out[4];
	unsigned outs, out_next;
	uint8_t in[FRAMES_MAX][2048]; /* received, headers off */
	size_t in_len[FRAMES_MAX];
	unsigned ins, room; /* how many may come */
	unsigned links, blocked;
};

static void
nic_input(void *ctx, unsigned queue)
{
	struct nic *nic = ctx;
	struct netif_hdr hdr;

	pthread_mutex_lock(&nic->lock);
	while (nic->ins < nic->room) {
		struct iovec iov[] = { { &hdr, sizeof(hdr) },
			{ nic->in[nic->ins], sizeof(nic->in[0]) } };
		ssize_t len = netif_recv(nic->net, queue, iov, 2);

		if (len < 0)
			break;
		nic->in_len[nic->ins++] = (size_t)len - sizeof(hdr);
	}
	pthread_cond_broadcast(&nic->changed);
	pthread_mutex_unlock(&nic->lock);
}

static void
nic_kick(void *ctx, unsigned queue)
{
	struct nic *nic = ctx;
	struct netif_hdr hdr = { 0 };

	pthread_mutex_lock(&nic->lock);
	while (nic->out_next < nic->outs) {
		struct iovec iov[] = { { &hdr, sizeof(hdr) },
			{ nic->out[nic->out_next].data, 14 },
			{ nic->out[nic->out_next].data + 14, nic->out[nic->out_next].len - 14 } };

		if (netif_send(nic->net, queue, iov, 3) == -EAGAIN) {
			nic->blocked++;
			break;
		}
		nic->out_next++;
	}
	pthread_cond_broadcast(&nic->changed);
	pthread_mutex_unlock(&nic->lock);
}

static void
nic_link(void *ctx)
{
	struct nic *nic = ctx;

	pthread_mutex_lock(&nic->lock);
	nic->links++;
	pthread_cond_broadcast(&nic->changed);
	pthread_mutex_unlock(&nic->lock);
}

static const struct netif_client nic_client = {
	.input = nic_input,
	.kick = nic_kick,
	.link = nic_link,
};

static struct nic *
nic_create(void)
{
	struct nic *nic = calloc(1, sizeof(*nic));

	assert_non_null(nic);
	nic->cfg = config_create();
	nic->room = FRAMES_MAX;
	pthread_mutex_init(&nic->lock, NULL);
	pthread_cond_init(&nic->changed, NULL);
	return nic;
}

static int
nic_open(struct nic *nic)
{
	int err = netif_open(nic->cfg, "pci.0.3.0", 1, &nic_client, nic, &nic->net);

	return err != 0 ? err : netif_start(nic->net);
}

static void
nic_destroy(struct nic *nic)
{
	netif_close(nic->net);
	config_destroy(nic->cfg);
	pthread_mutex_destroy(&nic->lock);
	pthread_cond_destroy(&nic->changed);
	free(nic);
}

/* Sends one frame by way of the ring. */
static void
nic_send(struct nic *nic, const void *frame, size_t len)
{
	pthread_mutex_lock(&nic->lock);
	while (nic->out_next < nic->outs)
		pthread_cond_wait(&nic->changed, &nic->lock);
	memcpy(nic->out[0].data, frame, len);
	nic->out[0].len = len;
	nic->out_next = 0;
	nic->outs = 1;
	pthread_mutex_unlock(&nic->lock);
	netif_kick(nic->net, 0);
}

static void
nic_wait_in(struct nic *nic, unsigned frames)
{
	pthread_mutex_lock(&nic->lock);
	while (nic->ins < frames)
		pthread_cond_wait(&nic->changed, &nic->lock);
	pthread_mutex_unlock(&nic->lock);
}

static void
nic_wait_link(struct nic *nic, unsigned changes)
{
	pthread_mutex_lock(&nic->lock);
	while (nic->links < changes)
		pthread_cond_wait(&nic->changed, &nic->lock);
	pthread_mutex_unlock(&nic->lock);
}

/* --- Options and addresses --- */

static void
test_md5(void **state)
{
	static const struct {
		const char *text, *digest;
	} cases[] = { /* RFC 1321, A.5 */
		{ "", "d41d8cd98f00b204e9800998ecf8427e" },
		{ "message digest", "f96b697d7cb7938d525a2f31aaf161d0" },
		{ "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
		    "57edf4a22be3c955ac49da2e2107b67a" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t digest[MD5_SIZE];
		char hex[2 * MD5_SIZE + 1];

		md5(cases[i].text, strlen(cases[i].text), digest);
		for (int b = 0; b < MD5_SIZE; b++)
			sprintf(hex + 2 * b, "%02x", digest[b]);
		assert_string_equal(hex, cases[i].digest);
	}
}

static void
test_mac(void **state)
{
	static const char *const bad[] = { "", "1", "58:9c:fc:00:00", "58:9c:fc:00:00:01:02",
		"58:9c:fc:00:00:0g", "58-9c-fc-00-00-01", "01:00:5e:00:00:01",
		"00:00:00:00:00:00", " 8:9c:fc:00:00:01", "58:9c:fc:00:00:01 " };
	static const uint8_t given[6] = { 0x58, 0x9c, 0xfc, 0x00, 0x00, 0x01 };
	struct config *cfg = config_create();
	uint8_t mac[6], again[6];

	assert_int_equal(netif_mac(cfg, "t", "vm", 3, 0, mac), 0);
	assert_memory_equal(mac, ((const uint8_t[]){ 0x00, 0xa0, 0x98 }), 3);
	assert_int_equal(netif_mac(cfg, "t", "vm", 3, 0, again), 0);
	assert_memory_equal(mac, again, 6);
	assert_int_equal(netif_mac(cfg, "t", "vm", 4, 0, again), 0);
	assert_memory_not_equal(mac, again, 6);
	assert_int_equal(netif_mac(cfg, "t", "vm2", 3, 0, again), 0);
	assert_memory_not_equal(mac, again, 6);

	config_set(cfg, "mac", "58:9C:fc:0:00:1");
	assert_int_equal(netif_mac(cfg, "t", "vm", 3, 0, mac), 0);
	assert_memory_equal(mac, given, 6);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		config_set(cfg, "mac", bad[i]);
		assert_int_equal(netif_mac(cfg, "t", "vm", 3, 0, mac), -EINVAL);
	}
	config_destroy(cfg);
}

static void
test_options(void **state)
{
	static const struct {
		const char *name, *value, *name2, *value2;
	} bad[] = {
		{ "backend", "token-ring", NULL, NULL },
		{ "backend", "slirpy", NULL, NULL },
		{ "backend", "tap/0", NULL, NULL },
		{ "backend", "tap0123456789abcdef", NULL, NULL },
		{ "backend", "stream", NULL, NULL },
		{ "backend", "stream", "path", "" },
		{ "backend", "tap0", "bridge", "" },
		{ "mtu", "67", NULL, NULL },
		{ "mtu", "65522", NULL, NULL },
		{ "mtu", "many", NULL, NULL },
		{ "open", "maybe", NULL, NULL },
#ifdef HAVE_LIBSLIRP
		{ "backend", "slirp", "hostfwd", "tcp" },
		{ "backend", "slirp", "hostfwd", "icmp::22-:22" },
		{ "backend", "slirp", "hostfwd", "tcp::22-:" },
		{ "backend", "slirp", "hostfwd", "tcp::22-:0" },
		{ "backend", "slirp", "hostfwd", "tcp::65536-:22" },
		{ "backend", "slirp", "hostfwd", "tcp:localhost:22-:22" },
		{ "backend", "slirp", "hostfwd", "tcp::22-:22;udp" },
#endif
	};
	static const struct {
		const char *name, *value, *name2, *value2;
	} good[] = {
		{ "backend", "tap0", "bridge", "br0" },
		{ "backend", "stream", "path", "/run/passt.sock" },
		{ "mtu", "9000", "open", "on" },
#ifdef HAVE_LIBSLIRP
		{ "backend", "slirp", "hostfwd",
		    "tcp:127.0.0.1:2222-10.0.2.15:22;udp::53-:53;" },
#endif
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct config *cfg = config_create();

		config_set(cfg, bad[i].name, bad[i].value);
		if (bad[i].name2 != NULL)
			config_set(cfg, bad[i].name2, bad[i].value2);
		assert_int_equal(netif_check(cfg, "t"), -EINVAL);
		config_destroy(cfg);
	}
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		struct config *cfg = config_create();

		config_set(cfg, good[i].name, good[i].value);
		config_set(cfg, good[i].name2, good[i].value2);
		assert_int_equal(netif_check(cfg, "t"), 0);
		config_destroy(cfg);
	}
}

static void
test_none(void **state)
{
	struct nic *nic = nic_create();
	struct netif_stats stats;

	assert_int_equal(nic_open(nic), 0);
	assert_false(netif_link(nic->net));
	assert_string_equal(netif_backend_name(nic->net), "none");
	nic_send(nic, "a frame into the void", 20);
	pthread_mutex_lock(&nic->lock);
	while (nic->out_next < nic->outs)
		pthread_cond_wait(&nic->changed, &nic->lock);
	pthread_mutex_unlock(&nic->lock);
	netif_stats(nic->net, &stats);
	assert_int_equal(stats.sent.dropped, 1);
	assert_int_equal(stats.sent.frames, 0);
	nic_destroy(nic);
}

/* --- stream --- */

struct peer {
	char dir[64], path[96];
	int listener, fd;
};

static void
peer_create(struct peer *p)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	strcpy(p->dir, "/tmp/bhyve-test-netif-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/s", p->dir);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", p->path);
	p->listener = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(bind(p->listener, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(p->listener, 1), 0);
	p->fd = -1;
}

static void
peer_accept(struct peer *p)
{
	p->fd = accept(p->listener, NULL, NULL);
	assert_true(p->fd >= 0);
}

static void
peer_destroy(struct peer *p)
{
	if (p->fd >= 0)
		close(p->fd);
	close(p->listener);
	unlink(p->path);
	rmdir(p->dir);
}

static void
peer_write(struct peer *p, const void *buf, size_t len)
{
	assert_int_equal(send(p->fd, buf, len, MSG_NOSIGNAL), len);
}

static void
peer_send(struct peer *p, const void *frame, uint32_t len)
{
	uint8_t buf[4096];
	uint32_t be = htonl(len);

	memcpy(buf, &be, 4);
	memcpy(buf + 4, frame, len);
	peer_write(p, buf, 4 + len);
}

static void
peer_expect(struct peer *p, const void *frame, size_t len)
{
	uint8_t buf[4096];
	uint32_t be;

	assert_int_equal(recv(p->fd, &be, 4, MSG_WAITALL), 4);
	assert_int_equal(ntohl(be), len);
	assert_int_equal(recv(p->fd, buf, len, MSG_WAITALL), len);
	assert_memory_equal(buf, frame, len);
}

static struct nic *
nic_stream(struct peer *p)
{
	struct nic *nic = nic_create();

	peer_create(p);
	config_set(nic->cfg, "backend", "stream");
	config_set(nic->cfg, "path", p->path);
	assert_int_equal(nic_open(nic), 0);
	peer_accept(p);
	assert_true(netif_link(nic->net));
	return nic;
}

static void
test_stream(void **state)
{
	static const char hello[] = "hello, this is a frame of the guest";
	struct peer p;
	struct nic *nic = nic_stream(&p);
	struct netif_stats stats;
	uint32_t be = htonl(5);

	nic_send(nic, hello, sizeof(hello));
	peer_expect(&p, hello, sizeof(hello));
	peer_send(&p, "one", 3);
	/* In pieces: the length's bytes, then the frame's. */
	peer_write(&p, &be, 2);
	peer_write(&p, (char *)&be + 2, 2);
	peer_write(&p, "se", 2);
	peer_write(&p, "cnd", 3);
	nic_wait_in(nic, 2);
	assert_int_equal(nic->in_len[0], 3);
	assert_memory_equal(nic->in[0], "one", 3);
	assert_int_equal(nic->in_len[1], 5);
	assert_memory_equal(nic->in[1], "secnd", 5);
	netif_stats(nic->net, &stats);
	assert_int_equal(stats.sent.frames, 1);
	assert_int_equal(stats.sent.bytes, sizeof(hello));
	assert_int_equal(stats.received.frames, 2);
	assert_int_equal(stats.received.bytes, 8);
	nic_destroy(nic);
	peer_destroy(&p);
}

/* What the guest has no room for waits, in order and nothing lost. */
static void
test_stream_room(void **state)
{
	struct peer p;
	struct nic *nic = nic_stream(&p);
	unsigned frames = 150; /* what a socket holds, each its own buffer */

	nic->room = 3;
	for (unsigned i = 0; i < frames; i++)
		peer_send(&p, &i, sizeof(i));
	nic_wait_in(nic, 3);
	for (unsigned room = 4; room < frames; room = MIN(room * 2, frames)) {
		pthread_mutex_lock(&nic->lock);
		assert_true(nic->ins <= nic->room);
		nic->room = room;
		pthread_mutex_unlock(&nic->lock);
		netif_kick(nic->net, 0);
		nic_wait_in(nic, room);
	}
	pthread_mutex_lock(&nic->lock);
	nic->room = frames;
	pthread_mutex_unlock(&nic->lock);
	netif_kick(nic->net, 0);
	nic_wait_in(nic, frames);
	for (unsigned i = 0; i < frames; i++)
		assert_memory_equal(nic->in[i], &i, sizeof(i));
	nic_destroy(nic);
	peer_destroy(&p);
}

/* A peer that does not read: the guest's frames wait, and then arrive whole and in order. */
static void
test_stream_slow_peer(void **state)
{
	struct peer p;
	struct nic *nic = nic_stream(&p);
	uint8_t frame[2048];
	unsigned sent = 0;
	bool blocked = false;

	memset(frame, 0xa5, sizeof(frame));
	while (!blocked) {
		memcpy(frame, &sent, sizeof(sent));
		pthread_mutex_lock(&nic->lock);
		memcpy(nic->out[0].data, frame, sizeof(frame));
		nic->out[0].len = sizeof(frame);
		nic->out_next = 0;
		nic->outs = 1;
		pthread_mutex_unlock(&nic->lock);
		netif_kick(nic->net, 0);
		sent++;
		pthread_mutex_lock(&nic->lock);
		while (nic->out_next < nic->outs && nic->blocked == 0)
			pthread_cond_wait(&nic->changed, &nic->lock);
		blocked = nic->blocked > 0;
		pthread_mutex_unlock(&nic->lock);
	}
	for (unsigned i = 0; i < sent; i++) {
		memcpy(frame, &i, sizeof(i));
		peer_expect(&p, frame, sizeof(frame));
	}
	nic_destroy(nic);
	peer_destroy(&p);
}

static void
test_stream_vanishes(void **state)
{
	struct peer p;
	struct nic *nic = nic_stream(&p);
	uint32_t bad = htonl(NETIF_FRAME_MAX + 1);

	/* It goes and comes. */
	close(p.fd);
	peer_accept(&p);
	nic_wait_link(nic, 2);
	peer_send(&p, "back", 4);
	nic_wait_in(nic, 1);
	/* It talks nonsense. */
	peer_write(&p, &bad, 4);
	nic_wait_link(nic, 3);
	close(p.fd);
	peer_accept(&p);
	nic_wait_link(nic, 4);
	assert_true(netif_link(nic->net));
	/* It goes while the guest has no room. */
	pthread_mutex_lock(&nic->lock);
	nic->room = nic->ins;
	pthread_mutex_unlock(&nic->lock);
	peer_send(&p, "lost", 4);
	close(p.fd);
	p.fd = -1;
	nic_wait_link(nic, 5);
	nic_destroy(nic);
	peer_destroy(&p);
}

static void
test_pause(void **state)
{
	struct peer p;
	struct nic *nic = nic_stream(&p);

	netif_pause(nic->net);
	peer_send(&p, "later", 5);
	netif_kick(nic->net, 0);
	assert_int_equal(nic->ins, 0);
	netif_resume(nic->net);
	nic_wait_in(nic, 1);
	nic_destroy(nic);
	peer_destroy(&p);
}

static void
test_stream_bad(void **state)
{
	struct nic *nic = nic_create();

	config_set(nic->cfg, "backend", "stream");
	config_set(nic->cfg, "path", "/nonexistent/socket");
	assert_int_equal(nic_open(nic), -ENOENT);
	nic_destroy(nic);
}

/* --- slirp --- */

#ifdef HAVE_LIBSLIRP
static struct nic *
nic_slirp(const char *hostfwd)
{
	struct nic *nic = nic_create();

	config_set(nic->cfg, "backend", "slirp");
	if (hostfwd != NULL)
		config_set(nic->cfg, "hostfwd", hostfwd);
	return nic;
}

/* The host's address answers ARP (RFC 826), in the middle of our sending. */
static void
test_slirp_arp(void **state)
{
	static const uint8_t request[] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, /* to all */
		0x00, 0xa0, 0x98, 1, 2, 3, 0x08, 0x06, /* ARP */
		0, 1, 0x08, 0x00, 6, 4, 0, 1, /* request, IPv4 over Ethernet */
		0x00, 0xa0, 0x98, 1, 2, 3, 10, 0, 2, 15, 0, 0, 0, 0, 0, 0, 10, 0, 2, 2 };
	struct nic *nic = nic_slirp(NULL);
	unsigned i = 0;

	assert_int_equal(nic_open(nic), 0);
	assert_true(netif_link(nic->net));
	nic_send(nic, request, sizeof(request));
	do /* IPv6 router advertisements may come first */
		nic_wait_in(nic, i + 1);
	while (nic->in[i++][13] != 0x06);
	i--;
	assert_memory_equal(nic->in[i], request + 6, 6);
	assert_memory_equal(nic->in[i] + 20, ((const uint8_t[]){ 0, 2 }), 2); /* a reply */
	assert_memory_equal(nic->in[i] + 28, ((const uint8_t[]){ 10, 0, 2, 2 }), 4);
	nic_destroy(nic);
}

static void
test_slirp_port_in_use(void **state)
{
	struct sockaddr_in addr = { .sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t len = sizeof(addr);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct nic *nic;
	char rule[64];

	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&addr, &len), 0);
	snprintf(rule, sizeof(rule), "tcp:127.0.0.1:%u-:22", ntohs(addr.sin_port));
	nic = nic_slirp(rule);
	assert_int_equal(nic_open(nic), -EADDRINUSE);
	nic_destroy(nic);
	close(fd);
}
#endif

/* --- tap --- */

/* A network namespace of our own, so that nothing of the host is touched. */
static bool
tap_namespace(void)
{
	int fd;

	if (unshare(CLONE_NEWNET) != 0)
		return false;
	fd = open("/dev/net/tun", O_RDWR);
	if (fd < 0)
		return false;
	close(fd);
	return true;
}

/* A packet socket on the interface: the host's side of it. */
static int
tap_packet_socket(const char *name)
{
	struct sockaddr_ll addr = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = (int)if_nametoindex(name) };
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL));

	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static void
tap_set_up(const char *name, bool up)
{
	struct ifreq ifr = { 0 };
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
	assert_int_equal(ioctl(fd, SIOCGIFFLAGS, &ifr), 0);
	ifr.ifr_flags = (short)(up ? ifr.ifr_flags | IFF_UP : ifr.ifr_flags & ~IFF_UP);
	assert_int_equal(ioctl(fd, SIOCSIFFLAGS, &ifr), 0);
	close(fd);
}

/* The marked frames that came; the host's own chatter is skipped. */
static void
nic_wait_marked(struct nic *nic, const char *mark)
{
	unsigned i = 0;

	do
		nic_wait_in(nic, i + 1);
	while (memcmp(nic->in[i++] + 14, mark, strlen(mark)) != 0);
}

static void
test_tap(void **state)
{
	uint8_t frame[64] = { 0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x88, 0xb5 }, got[2048];
	uint8_t big[4000] = { 0 };
	struct nic *nic;
	ssize_t len;
	int fd;

	if (!tap_namespace()) {
		print_message("skipped: no network namespace or no /dev/net/tun here\n");
		skip();
	}
	nic = nic_create();
	config_set(nic->cfg, "backend", "tap7");
	config_set(nic->cfg, "mtu", "9000");
	assert_int_equal(nic_open(nic), 0);
	assert_true(netif_link(nic->net));
	assert_int_equal(netif_mtu(nic->net), 9000);
	assert_true((netif_offloads(nic->net) & NETIF_CSUM) != 0);
	assert_int_equal(netif_offloads_set(nic->net, netif_offloads(nic->net)), 0);
	assert_int_equal(netif_offloads_set(nic->net, 1u << 31), -EINVAL);

	fd = tap_packet_socket("tap7");
	strcpy((char *)frame + 14, "from the guest");
	nic_send(nic, frame, sizeof(frame));
	do
		len = recv(fd, got, sizeof(got), 0);
	while (len < 28 || memcmp(got + 14, "from the guest", 14) != 0);
	assert_int_equal(len, sizeof(frame));
	assert_memory_equal(got, frame, sizeof(frame));
	strcpy((char *)frame + 14, "from the host");
	assert_int_equal(send(fd, frame, sizeof(frame), 0), sizeof(frame));
	nic_wait_marked(nic, "from the host");

	/* Frames too long for the guest are dropped, those after them come. */
	memcpy(big, frame, 14);
	strcpy((char *)big + 14, "too long");
	assert_int_equal(send(fd, big, sizeof(big), 0), sizeof(big));
	strcpy((char *)frame + 14, "short");
	assert_int_equal(send(fd, frame, sizeof(frame), 0), sizeof(frame));
	nic_wait_marked(nic, "short");

	/* The link follows the interface. */
	tap_set_up("tap7", false);
	nic_wait_link(nic, 1);
	assert_false(netif_link(nic->net));
	tap_set_up("tap7", true);
	nic_wait_link(nic, 2);
	assert_true(netif_link(nic->net));
	close(fd); /* the host's side has an error to report now */
	fd = tap_packet_socket("tap7");
	strcpy((char *)frame + 14, "again");
	assert_int_equal(send(fd, frame, sizeof(frame), 0), sizeof(frame));
	nic_wait_marked(nic, "again");
	nic_destroy(nic);
	close(fd);
	/* It was made by us, and is gone with us. */
	assert_int_equal(if_nametoindex("tap7"), 0);
}

static void
test_tap_bad(void **state)
{
	struct nic *nic;

	if (!tap_namespace()) {
		print_message("skipped: no network namespace or no /dev/net/tun here\n");
		skip();
	}
	nic = nic_create();
	config_set(nic->cfg, "backend", "tap8");
	config_set(nic->cfg, "bridge", "nobridge");
	assert_int_equal(nic_open(nic), -ENODEV);
	nic_destroy(nic);
	assert_int_equal(if_nametoindex("tap8"), 0);
}

int
main(void)
{
	static const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_md5),
		cmocka_unit_test(test_mac),
		cmocka_unit_test(test_options),
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_stream),
		cmocka_unit_test(test_stream_room),
		cmocka_unit_test(test_stream_slow_peer),
		cmocka_unit_test(test_stream_vanishes),
		cmocka_unit_test(test_pause),
		cmocka_unit_test(test_stream_bad),
#ifdef HAVE_LIBSLIRP
		cmocka_unit_test(test_slirp_arp),
		cmocka_unit_test(test_slirp_port_in_use),
#endif
		cmocka_unit_test(test_tap),
		cmocka_unit_test(test_tap_bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
