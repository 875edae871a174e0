/*
 * Disks: what a block device is on the host. A back end that knows no device: files and block
 * devices, memory, NBD exports.
 *
 *	struct foo_cmd { struct block_req req; ... };
 *
 *	err = block_open(vm_loop(vm), cfg, pci_name(dev), &f->disk);	// create()
 *	block_work_init(&f->kick, foo_ring_process, f);
 *
 *	block_post(f->disk, &f->kick);			// the doorbell, on a vCPU's thread
 *
 *	cmd->req = (struct block_req){ .op = BLOCK_READ, .offset = lba * 512, .len = n,
 *	    .iov = cmd->iov, .iovcnt = k, .done = foo_done };
 *	block_submit(f->disk, &cmd->req);		// foo_ring_process(), on the disk's thread
 *
 *	block_close(f->disk);				// destroy()
 *
 * Threads. Each disk has a thread of its own. Callbacks of requests and works run there, one at a
 * time, no lock held, and never inside a call to this room: block_submit() may be called with a
 * lock that the callback takes. They must not block; other requests of the disk would wait.
 * Everything else may be called from any thread unless it says otherwise.
 *
 * Cost. From the disk's own thread block_submit() takes no lock and makes no system call: what one
 * work or one round of callbacks submits goes to the host in one system call, which is also the one
 * that waits. So a device best has its doorbell post a work that reads the rings (as above), and
 * posts a work from its callbacks to raise one interrupt for all of a round. From other threads
 * block_submit() and block_post() cost one atomic operation, and a system call only if the disk's
 * thread sleeps.
 *
 * Order. Requests in flight at the same time may be done in any order, as on any disk. A flush
 * covers what was completed before it was submitted.
 *
 * What is acknowledged. A write that completed with 0 survives the end of this process, however it
 * ends. It survives a power failure after a later flush completed with 0, or if it carried
 * BLOCK_FUA, or if block_info.write_cache is false (sync, direct). A flush that the host failed
 * once fails always, because the host does not say which of the earlier writes it lost. One that
 * failed because an NBD server was away succeeds when that is back, with all that was acknowledged.
 *
 * Configuration: variables of a device's node.
 *	path		a file, a block device, or an NBD URI: nbd://HOST[:PORT]/EXPORT,
 *			nbd+unix:///EXPORT?socket=PATH
 *	ram		no path, but memory: MiB, or a size with a suffix (K, M, G, T)
 *	ro		bool: the guest can only read; so it is, with a warning, if the file
 *			may not be written
 *	nocache		bool: past the host's page cache (O_DIRECT)
 *	direct, sync	bool: each write reaches the medium before it completes (O_DSYNC)
 *	sectorsize	LOGICAL[/PHYSICAL] bytes, powers of two from 512; default: the host's
 *	nodelete	bool: the same as discard=off
 *	discard		off: discards are refused, and write-zeroes keeps its blocks;
 *			punch (default): blocks go back to the host; what is read then is
 *			undefined where the host leaves it so (block devices, NBD);
 *			zero: the same, and what is read then is always zeros
 *	detect_zeroes	bool: aligned writes of nothing but zeros become write-zeroes that may
 *			unmap
 *	bootindex	number, carried for the firmware
 *	reconnect	NBD: seconds to try to get a lost server back before requests fail with
 *			EIO; default 60
 *	aio		files: auto (default), io_uring or threads
 */
#ifndef BLOCK_BLOCK_H
#define BLOCK_BLOCK_H

/* Their names, for a device's own list of variables; at: what comes before each, a string. */
#define BLOCK_VARS_AT(at)                                                                          \
	at "path", at "ram", at "ro", at "nocache", at "direct", at "sync", at "sectorsize",       \
	    at "nodelete", at "discard", at "detect_zeroes", at "bootindex", at "reconnect",       \
	    at "aio"
#define BLOCK_VARS BLOCK_VARS_AT("")

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct block;
struct config;
struct vm_loop;

/* --- Opening --- */

/* Opens what cfg, a device's node, describes; who names it in messages. Main thread. 0, or
 * -errno after one line to the user. An image that another virtual machine has open is refused
 * with -EBUSY, unless both only read; so is a block device that is mounted, unless it is only
 * read. */
int block_open(struct vm_loop *loop, const struct config *cfg, const char *who, struct block **out);
/* Waits for the requests in flight, as block_drain() does. No other thread may use the disk any
 * more. NULL is fine. */
void block_close(struct block *b);

struct block_info { /* constant while the disk is open */
	const char *path; /* as configured; "ram" without one */
	uint32_t logical_sector; /* bytes: offset and length of each request are multiples of it */
	uint32_t physical_sector; /* bytes: at least the logical one; smaller writes are slow */
	bool read_only;
	bool write_cache; /* volatile: what was written needs a flush to be safe */
	bool can_discard;
	bool discard_zeroes; /* what was discarded reads as zeros */
	uint32_t discard_granularity; /* bytes: less than such a unit gives back nothing */
	uint32_t discard_alignment; /* bytes: where the first such unit starts */
	uint64_t discard_max; /* bytes in one request that are still fast, a multiple of the unit */
	bool fast_zeroes; /* write-zeroes costs less than writing zeros */
	int bootindex; /* -1: none */
};
const struct block_info *block_info(const struct block *b);

/* Bytes, a multiple of the logical sector; what a file has beyond is not seen. It may change. */
uint64_t block_size(const struct block *b);
/* Called on the disk's thread after the size changed (a file that was truncated or extended, a
 * volume that grew: looked at each second, and after block_rescan()). NULL: not any more; a call
 * under way may still finish (block_drain()). */
void block_on_resize(struct block *b, void (*fn)(void *ctx), void *ctx);
void block_rescan(struct block *b);

/* --- Works --- */

/* Something to do on the disk's thread. */
struct block_work {
	void (*fn)(void *ctx);
	void *ctx;
	/* This room's own. */
	struct block_work *next;
	atomic_bool posted;
	bool when_idle;
};
void block_work_init(struct block_work *w, void (*fn)(void *ctx), void *ctx);
/* Runs the work soon. One that is posted already and has not begun is not posted twice, but sees
 * all that was written before either call. The work stays the caller's and lives until it ran or
 * the disk is closed; block_close() runs what is posted. */
void block_post(struct block *b, struct block_work *w);

/* --- Requests --- */

enum block_op {
	BLOCK_READ,
	BLOCK_WRITE,
	BLOCK_FLUSH,
	BLOCK_DISCARD, /* the guest does not need the range any more */
	BLOCK_WRITE_ZEROES,
	BLOCK_OPS,
};

#define BLOCK_FUA   (1u << 0) /* WRITE, WRITE_ZEROES: on the medium before it completes */
#define BLOCK_UNMAP (1u << 1) /* WRITE_ZEROES: the blocks may go back to the host */

#define BLOCK_IOV_MAX 1024 /* most elements of one request */

struct block_req;
/* The end of a request: err is 0 or the host's -errno. Called exactly once for each
 * block_submit(), on the disk's thread. The request is the owner's again: it may be freed or
 * submitted anew. */
typedef void block_done_fn(struct block_req *req, int err);

/*
 * The owner fills in the upper part and keeps it, the array at iov and the memory it points to
 * until done is called. The memory may be the guest's and may change meanwhile. A request that
 * failed may have been done in part.
 *
 * Errors of this room: -EINVAL (not a multiple of the sector, beyond the end, an iov that does not
 * add up to len, or too many elements), -EROFS, -EOPNOTSUPP (discard where block_info says no),
 * -ECANCELED (block_cancel()), -ENOMEM. All others are the host's.
 */
struct block_req {
	enum block_op op;
	unsigned flags;
	uint64_t offset, len; /* bytes; flush: ignored */
	const struct iovec *iov; /* READ, WRITE */
	int iovcnt;
	block_done_fn *done;
	void *owner; /* for the owner's use */

	/* This room's own. */
	struct block *disk;
	struct block_req *next; /* in a list of block_impl.h */
	struct block_work work; /* on its way to the disk's thread */
	int err;
	uint32_t cancels; /* of the disk, when the request was submitted */
	enum block_op host_op; /* what is asked of the back end */
	unsigned host_flags;
	uint64_t pos; /* bytes done */
	struct {
		uint64_t len; /* bytes asked of the host in this step */
		struct iovec iov; /* of a step through bounce or of zeros */
		void *bounce; /* the piece of the data at pos, or NULL */
		struct block_pool *pool; /* that it was given to */
		int call, mode; /* what is asked: the back end's own code */
		int64_t result;
		unsigned tries;
	} step;
};

void block_submit(struct block *b, struct block_req *req);

/* Runs w once, when all requests submitted before are completed: how a device that is being
 * reset learns, without blocking, that its requests are over. Also waits for requests submitted
 * meanwhile. */
void block_drain_post(struct block *b, struct block_work *w);
/* Waits for the same. Not on the disk's thread, nor with a lock held that a callback takes. */
void block_drain(struct block *b);
/* Has requests submitted before that the host has not got yet, or that wait for a lost server,
 * complete with -ECANCELED. Others complete as usual. Call it before a drain to shorten that. */
void block_cancel(struct block *b);

/* --- Statistics --- */

struct block_stats {
	struct {
		uint64_t ops, bytes, errors; /* completed */
	} op[BLOCK_OPS];
	uint64_t in_flight; /* submitted and not completed */
	uint64_t zeroes_detected; /* writes that became write-zeroes */
	uint64_t bounced; /* copies made because of alignment or short transfers */
	uint64_t sleeps; /* how often the disk's thread had to wait */
	uint64_t reconnects; /* NBD */
};
void block_stats(const struct block *b, struct block_stats *out);
/* "io_uring", "threads", "ram" or "nbd". */
const char *block_engine(const struct block *b);

#endif
