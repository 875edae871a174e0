/*
 * What the files of the NVM Express controller share. Not for other rooms.
 *
 *	nvme.c           options, PCI, registers, doorbells	vCPUs' threads
 *	nvme_control.c   enabling, resetting, shutting down	from here on the disk's thread,
 *	nvme_queue.c     submission and completion queues	unless a function says otherwise
 *	nvme_irq.c       interrupts, coalescing
 *	nvme_admin.c     admin commands about queues, abort, doorbell buffers
 *	nvme_feature.c   get and set features
 *	nvme_identify.c  identify
 *	nvme_log.c       log pages, the error log, asynchronous events
 *	nvme_io.c        I/O commands
 *	nvme_data.c      PRP lists and SGLs
 *	nvme_bad.c       blocks made unreadable by Write Uncorrectable
 *	nvme_state.c     saving and loading
 *
 * Threads. Everything a command touches belongs to the disk's thread (block/block.h) and needs no
 * lock. vCPUs reach it through few atomics: a doorbell stores its value and posts a work, a write
 *to CC stores it and posts another. The disk's thread never takes the device's lock, so a vCPU that
 * holds it may wait for the disk's thread (function-level reset does).
 *
 * Flow. A doorbell posts nvme_kick: it takes commands from the submission queues in turn, as long
 *as there are request slots and room in the completion queue; commands that find none stay in the
 * guest's queue. So a completion always has its place. Completions of one round of block/ are
 * followed by one nvme_raise, which sends one interrupt for each completion queue.
 */
#ifndef STORAGE_NVME_IMPL_H
#define STORAGE_NVME_IMPL_H

#include "block/block.h"
#include "pci/pci.h"
#include "storage/nvme_spec.h"
#include "vm/loop.h"
#include "vm/mem.h"
#include "vm/vm.h"

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>

struct vm_state;

#define NVME_QUEUES_MAX  256 /* pairs, the admin queues among them */
#define NVME_QUEUE_WORDS (NVME_QUEUES_MAX / 64)
#define NVME_MPSMAX      4 /* memory pages of 4 KiB to 64 KiB */
#define NVME_MDTS        8 /* a command moves at most 2^8 pages of 4 KiB */
#define NVME_DATA_MAX    MIB(1)
static_assert(NVME_DATA_MAX == KIB(4) << NVME_MDTS, "MDTS is in units of 4 KiB");
/* Pieces of memory of one command; PRPs need at most one more than MDTS says. */
#define NVME_PIECES               512
#define NVME_AERS                 4 /* asynchronous event requests at a time */
#define NVME_ABORTS               4
#define NVME_ERRORS               64 /* entries of the error log */
#define NVME_BAD_RANGES           1024
#define NVME_TEMPERATURE          305 /* kelvins, always */
#define NVME_TEMPERATURE_WARNING  343
#define NVME_TEMPERATURE_CRITICAL 353
#define NVME_SCRATCH              KIB(64)
#define NVME_FIRMWARE             "1.0"

struct nvme;

/* A command, as copied once from its queue. */
struct nvme_cmd {
	struct nvme_sqe sqe;
	uint16_t sqid;
	uint16_t where; /* NVME_AT_*: the field that is to blame, for the error log */
	uint64_t lba;   /* for the error log */
	uint32_t dw0;   /* result */
};

/* The memory of a command: the guest's, and nvme.scratch for what nobody wants. */
struct nvme_data {
	int count;
	struct iovec iov[NVME_PIECES];
};

/* A request slot: an I/O command from when it is taken from its queue until it is completed. */
struct nvme_req {
	struct block_req io;
	struct nvme *nvme;
	struct nvme_req *next; /* in the list of free ones */
	bool busy;
	bool abort; /* no further step */
	struct nvme_sq *sq;
	struct nvme_cmd cmd;
	/* What follows a successful step: NVME_PENDING when it submitted another, or the command's
	 * status. NULL: nothing. */
	uint32_t (*step)(struct nvme_req *req);
	uint64_t pos, end; /* of commands with several steps: bytes, or ranges */
	struct nvme_data data;
	struct nvme_dsm_range range[256]; /* dataset management */
	struct iovec own;                 /* compare: the buffer that is read into */
};

struct nvme_sq {
	struct nvme *nvme;
	uint16_t qid;
	/* Any thread. */
	_Atomic uint32_t size;     /* entries; 0: there is no such queue */
	_Atomic uint32_t doorbell; /* tail, as written; checked against size */
	/* Disk's thread. */
	uint64_t gpa;
	const uint8_t *ring;
	const _Atomic uint32_t *shadow; /* tail in guest memory, or NULL (7.13) */
	_Atomic uint32_t *event;
	uint32_t head;
	uint32_t bad; /* value of the shadow doorbell that was told to be invalid */
	uint16_t cqid;
	uint32_t in_flight;
	bool deleting;
	uint16_t delete_cid;
};

struct nvme_cq {
	struct nvme *nvme;
	uint16_t qid;
	/* Any thread. */
	_Atomic uint32_t size;
	_Atomic uint32_t doorbell; /* head, as written */
	_Atomic uint32_t tail;     /* what is posted */
	_Atomic bool wanted;       /* a change of the head is waited for */
	_Atomic bool interrupts;
	_Atomic uint32_t vector;
	_Atomic(const _Atomic uint32_t *) shadow;
	/* Disk's thread. */
	uint64_t gpa;
	uint8_t *ring;
	_Atomic uint32_t *event;
	uint32_t head;     /* what is known to be free up to here */
	uint32_t bad;      /* invalid head that was told */
	uint32_t reserved; /* places that commands in flight will need */
	uint32_t fresh;    /* entries since the last interrupt */
	bool phase;
	uint32_t sqs; /* submission queues that complete here */
};

struct nvme_features {
	uint32_t arbitration, power, error_recovery, write_cache, coalescing, atomicity, events;
	uint16_t temperature_over, temperature_under;
	uint8_t host_behavior;                  /* ACRE */
	uint64_t uncoalesced[NVME_QUEUE_WORDS]; /* a bit per vector: CD */
	uint64_t timestamp, timestamp_ns;       /* ms, and when on vm_clock_ns() it was so */
	bool timestamp_set;
};

struct nvme_counters {
	uint64_t reads, writes, bytes_read, bytes_written, media_errors, errors;
	uint64_t busy_ns, busy_since;
};

struct nvme_bad {
	struct nvme_bad_range {
		uint64_t start, end; /* blocks; end is not in it */
	} range[NVME_BAD_RANGES];    /* ascending, apart from each other */
	uint32_t count;
};

enum nvme_phase {
	NVME_OFF, /* CC.EN was seen as 0 */
	NVME_RUNNING,
	NVME_FATAL,    /* CSTS.CFS: waits for a reset */
	NVME_SHUTTING, /* CSTS.SHST is 1 */
	NVME_SHUT,     /* CSTS.SHST is 2: takes no commands */
	NVME_STOPPING, /* a reset waits for requests to end */
};

struct nvme {
	struct pci_dev *dev;
	struct vm *vm;
	struct block *disk;
	const char *name;
	/* Constant. */
	unsigned queues;  /* pairs, the admin queues among them */
	uint32_t entries; /* most in a queue */
	unsigned slots;
	unsigned msi_vectors;
	unsigned block_shift; /* log2 of the logical block */
	bool dsm;
	char serial[21];
	uint64_t eui64;
	uint8_t uuid[16];

	/* Registers. Written on vCPUs' threads, but csts, which is the disk's thread's. */
	_Atomic uint32_t cc, csts, aqa, intms;
	_Atomic uint64_t asq, acq;
	_Atomic uint32_t resets; /* how often CC.EN went from 1 to 0 */
	_Atomic bool bus_reset;  /* a function-level reset waits at bus_reset_done */
	sem_t bus_reset_done;

	/* Doorbells: vCPUs to the disk's thread. */
	_Atomic uint64_t rung[NVME_QUEUE_WORDS]; /* submission queues */
	_Atomic bool bad_register, bad_value;

	struct block_work control_work, stopped_work, drained_work, kick_work, raise_work;
	pthread_mutex_t pin_lock; /* makes level and pci_intx_set() one */
	struct vm_timer *coalesce_timer;
	_Atomic bool coalesce_expired;

	/* Disk's thread from here on. */
	enum nvme_phase phase;
	uint32_t resets_done;
	struct block_req flush; /* of a shutdown */
	struct nvme_sq sq[NVME_QUEUES_MAX];
	struct nvme_cq cq[NVME_QUEUES_MAX];
	uint64_t backlog[NVME_QUEUE_WORDS]; /* submission queues that may have commands */
	unsigned turn;                      /* the queue whose turn it is */
	uint64_t posted[NVME_QUEUE_WORDS];  /* completion queues with entries not told yet */
	bool coalescing;                    /* the timer runs */
	uint64_t shadow_gpa, event_gpa;     /* doorbell buffers; 0: none */

	struct nvme_req *req; /* slots of them */
	struct nvme_req *free;
	unsigned in_flight;
	uint8_t *scratch;            /* NVME_SCRATCH bytes that nobody reads */
	struct nvme_data admin_data; /* of the admin command being run */
	uint8_t page[NVME_IDENTIFY_SIZE] __attribute__((aligned(8))); /* what it answers */

	struct nvme_features features;
	struct nvme_counters count;
	struct nvme_bad bad;
	uint64_t power_on_ns;

	uint16_t aer[NVME_AERS]; /* command identifiers, oldest first */
	unsigned aers;
	uint32_t event[NVME_EVENT_TYPES];           /* a bit per information: waits to be told */
	bool event_masked[NVME_EVENT_TYPES];        /* told, its log page not read since */
	bool too_hot;                               /* was found outside the thresholds */
	bool namespace_changed;                     /* since the log page was read */
	struct nvme_error_entry error[NVME_ERRORS]; /* entry of error c at (c - 1) % NVME_ERRORS */
};

/* Blames a field for a status, unless that is NVME_OK. */
static inline uint32_t
nvme_blame(struct nvme_cmd *cmd, unsigned where, uint32_t status)
{
	if (status != NVME_OK)
		cmd->where = (uint16_t)where;
	return status;
}

static inline bool
nvme_bit_test(const uint64_t *map, unsigned bit)
{
	return (map[bit / 64] & BIT64(bit % 64)) != 0;
}

static inline uint64_t
nvme_page_size(const struct nvme *n)
{
	return KIB(4) << NVME_CC_MPS(atomic_load_explicit(&n->cc, memory_order_relaxed));
}

static inline uint64_t
nvme_blocks(const struct nvme *n)
{
	return block_size(n->disk) >> n->block_shift;
}

/* --- nvme_control.c --- */

/* Follows CC. */
void nvme_control_run(void *ctx);
void nvme_control_init(struct nvme *n);

/* --- nvme_queue.c --- */

void nvme_queue_init(struct nvme *n);
/* Makes a queue; its identifier is valid and free. -EFAULT when it is not in memory. */
int nvme_sq_create(struct nvme *n, uint16_t qid, uint64_t gpa, uint32_t size, uint16_t cqid);
int nvme_cq_create(
    struct nvme *n, uint16_t qid, uint64_t gpa, uint32_t size, uint32_t vector, bool interrupts);
void nvme_sq_destroy(struct nvme_sq *sq);
void nvme_cq_destroy(struct nvme_cq *cq);
bool nvme_sq_exists(const struct nvme *n, unsigned qid);
bool nvme_cq_exists(const struct nvme *n, unsigned qid);
/* Points the queues' shadow doorbells into the buffers of n. */
void nvme_shadow_attach(struct nvme *n);
/* Whether another completion fits that nothing in flight has reserved. If not, the queue is looked
 * at again when its head moves. */
bool nvme_cq_has_room(struct nvme_cq *cq);
/* Completes a command; there is room. */
void nvme_complete(struct nvme *n, struct nvme_sq *sq, struct nvme_cmd *cmd, uint32_t status);
/* Gives the slot of a command back after completing it. */
void nvme_req_end(struct nvme_req *req, uint32_t status);
/* Runs commands. Work. */
void nvme_kick_run(void *ctx);
/* The doorbells' notify functions: any thread. */
void nvme_sq_ring(void *ctx, uint64_t val);
void nvme_cq_ring(void *ctx, uint64_t val);

/* --- nvme_irq.c --- */

/* An entry was posted. */
void nvme_irq_posted(struct nvme_cq *cq);
void nvme_raise_run(void *ctx);
/* Sets the pin as queues and masks say. Any thread. */
void nvme_irq_pin_update(struct nvme *n);
/* After INTMC cleared these bits: messages that waited for it. Any thread. */
void nvme_irq_unmasked(struct nvme *n, uint32_t bits);
void nvme_coalesce_timeout(void *ctx); /* timer */
/* The head of a queue as the guest last told it. Any thread. */
uint32_t nvme_cq_head(const struct nvme_cq *cq);

/* --- Commands: each returns a status or NVME_PENDING --- */

uint32_t nvme_admin_run(struct nvme *n, struct nvme_cmd *cmd);
uint32_t nvme_identify(struct nvme *n, struct nvme_cmd *cmd);
uint32_t nvme_log_get(struct nvme *n, struct nvme_cmd *cmd);
uint32_t nvme_feature_get(struct nvme *n, struct nvme_cmd *cmd);
uint32_t nvme_feature_set(struct nvme *n, struct nvme_cmd *cmd);
uint32_t nvme_io_run(struct nvme_req *req);
/* A submission queue's last command ended while it is being deleted. */
void nvme_sq_deleted(struct nvme_sq *sq);

void nvme_features_reset(struct nvme *n);
uint64_t nvme_timestamp(const struct nvme *n);

/* --- nvme_log.c --- */

/* An entry of the error log. */
void nvme_error_add(struct nvme *n, const struct nvme_cmd *cmd, uint32_t status);
/* Something the guest may want to be told. */
void nvme_event(struct nvme *n, enum nvme_event_type type, unsigned info);
/* Tells what can be told. */
void nvme_events_deliver(struct nvme *n);
/* Compares the temperature with the thresholds. */
void nvme_temperature_check(struct nvme *n);
bool nvme_is_temperature_bad(const struct nvme *n);

/* --- nvme_data.c --- */

/*
 * Finds the memory of a command's len bytes, not 0: PRPs or, in I/O commands, an SGL. Each entry is
 * read once. to_guest: the controller writes there. A status.
 */
uint32_t nvme_data_map(
    struct nvme *n, struct nvme_cmd *cmd, uint64_t len, bool to_guest, struct nvme_data *data);
void nvme_data_put(struct nvme *n, const struct nvme_data *data, const void *buf, size_t len);
void nvme_data_get(const struct nvme_data *data, void *buf, size_t len);
bool nvme_data_equal(const struct nvme_data *data, const void *buf, size_t len);
/* After data was written there by others. */
void nvme_data_written(struct nvme *n, const struct nvme_data *data);
/* Map and put, map and get, for admin commands. */
uint32_t nvme_admin_put(struct nvme *n, struct nvme_cmd *cmd, const void *buf, size_t len);
uint32_t nvme_admin_get(struct nvme *n, struct nvme_cmd *cmd, void *buf, size_t len);

/* --- nvme_bad.c --- */

/* Marks blocks [start, end). -ENOSPC when there are too many ranges already. */
int nvme_bad_add(struct nvme_bad *bad, uint64_t start, uint64_t end);
void nvme_bad_remove(struct nvme_bad *bad, uint64_t start, uint64_t end);
bool nvme_bad_overlaps(const struct nvme_bad *bad, uint64_t start, uint64_t end);

/* --- nvme_state.c --- */

int nvme_state(struct pci_dev *dev, struct vm_state *s);

#endif
