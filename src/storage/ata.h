/*
 * An ATA disk or an ATAPI CD-ROM drive (ACS-3, MMC-6), apart from how it is connected.
 *
 *	end = ata_execute(cmd);			// registers of the command in cmd->in
 *	...
 *	end = cmd->step(cmd, err);		// each time a request that it submitted is done
 *
 * A command says what it ends with, or ATA_END_PENDING when it has submitted a request. Whoever
 * connects the device, the transport, calls its next step when that is done, and tells the guest of
 * the end. The device keeps what is the drive's; the transport keeps commands, moves data and may
 * drop a command that waits (a reset): then no step of it is called any more.
 *
 * Locks: everything of a device and its commands is guarded by the transport's lock, which is held
 * whenever a function here is called. The device's memory is touched by no other thread but for the
 * data of requests.
 */
#ifndef STORAGE_ATA_H
#define STORAGE_ATA_H

#include "base/bits.h"
#include "block/block.h"

struct vm_loop;
struct vm_state;

#define ATA_SECTOR  512u /* of logs, IDENTIFY data and such, whatever a sector of the medium is */
#define ATA_IOV     256  /* elements of guest memory in one request */
#define ATA_TAGS    32
#define ATA_SCRATCH KIB(64)

/* Status and error fields (ACS-3, 6.2 and 6.3) */
#define ATA_STATUS_ERR   BIT(0) /* ATAPI: CHECK CONDITION */
#define ATA_STATUS_DRQ   BIT(3)
#define ATA_STATUS_SEEK  BIT(4) /* obsolete, but drivers expect it of an idle disk */
#define ATA_STATUS_DF    BIT(5)
#define ATA_STATUS_DRDY  BIT(6)
#define ATA_STATUS_BSY   BIT(7)
#define ATA_STATUS_READY (ATA_STATUS_DRDY | ATA_STATUS_SEEK)
#define ATA_ERROR_ABRT   BIT(2)
#define ATA_ERROR_IDNF   BIT(4)
#define ATA_ERROR_UNC    BIT(6)

#define ATA_DEVICE_LBA BIT(6)
#define ATA_DEVICE_FUA BIT(7) /* of the FPDMA commands */

/* What the signature says a device is (ACS-3, 9.1; SATA 3.1, 11.4) */
#define ATA_SIGNATURE        0x00000101u
#define ATA_SIGNATURE_PACKET 0xeb140101u

/* The registers that a command is given in, and ends with. */
struct ata_regs {
	uint64_t lba; /* 48 bits */
	uint32_t aux;
	uint16_t features, count;
	uint8_t command, device;
};

enum ata_protocol { /* how data moves, and the end is told */
	ATA_NO_DATA,
	ATA_PIO_IN, /* to the guest */
	ATA_PIO_OUT,
	ATA_DMA,
	ATA_QUEUED, /* NCQ */
	ATA_PACKET,
	ATA_PACKET_PIO,
};

enum ata_end {
	ATA_END_OK,
	ATA_END_ERROR, /* cmd->error says which */
	ATA_END_PENDING,
	ATA_END_BUS, /* data could not be moved; the transport knows why */
};

struct ata_cmd;
typedef enum ata_end ata_step_fn(struct ata_cmd *cmd, int err);

struct ata_cmd {
	struct ata_dev *dev; /* constant */
	/* Set by the transport before ata_execute(). */
	struct ata_regs in;
	uint8_t cdb[16];
	/* How it ends; preset by ata_execute(). */
	enum ata_protocol protocol;
	uint8_t error;
	struct ata_regs out;

	/* Between two steps. */
	ata_step_fn *step;
	enum block_op op;
	unsigned flags;     /* of the request */
	uint64_t pos, left; /* on the medium: bytes */
	uint32_t unit;      /* a sector of it */
	struct {
		uint64_t range[ATA_SECTOR / 8];
		unsigned next, blocks_left;
	} trim;
	unsigned tests, tests_left; /* reads of a self-test */

	struct block_req req;
	int iovcnt;
	struct iovec iov[ATA_IOV];
	uint64_t gpa[ATA_IOV]; /* where each is in guest memory */
};

/* --- What the transport provides --- */

/* Copies len bytes, which follow those moved before, to or from the guest. False: it could not, and
 * the command ends with ATA_END_BUS. */
bool ata_data_in(struct ata_cmd *cmd, const void *buf, uint32_t len);
bool ata_data_out(struct ata_cmd *cmd, void *buf, uint32_t len);
/* Points cmd->iov at the guest's memory for the next at most max bytes, a multiple of unit. Returns
 * how many; 0: it could not. */
uint64_t ata_data_map(struct ata_cmd *cmd, uint64_t max, uint32_t unit);
/* Submits the request to the device's disk; cmd->step is called when it is done. Data requests use
 * cmd->iov and cmd->iovcnt. */
void ata_cmd_submit(
    struct ata_cmd *cmd, enum block_op op, unsigned flags, uint64_t offset, uint64_t len);
/* Has the tray follow cd->open and cd->loading, soon and on the main thread. False: out of memory.
 */
bool ata_tray_move(struct ata_dev *dev);

/* --- The device --- */

struct ata_identity { /* padded with spaces */
	char serial[20], revision[8], model[40];
	uint16_t rotation; /* IDENTIFY DEVICE, word 217: 1 is an SSD */
};

/* The first error of queued commands, until log 10h is read (ACS-3, A.14) */
struct ata_ncq_error {
	bool pending;
	bool unqueued; /* by a command that was not queued */
	uint8_t tag, status, error, device;
	uint16_t count;
	uint64_t lba;
};

#define ATA_SELFTESTS 21 /* entries of log 06h */
struct ata_selftest {
	uint8_t kind, status;
	uint16_t hours;
	uint32_t lba;
};

/* What the medium did that the guest is told of, by different ways to ask */
enum atapi_event {
	ATAPI_EVENT_NONE,
	ATAPI_EVENT_EJECT_REQUEST,
	ATAPI_EVENT_NEW,
	ATAPI_EVENT_REMOVAL
};

struct atapi {                   /* what only a CD-ROM drive has */
	bool open;               /* the tray */
	bool loading;            /* it is closed, and what is in it will be known soon */
	bool locked;             /* PREVENT ALLOW MEDIUM REMOVAL */
	uint8_t event;           /* enum atapi_event, not reported yet */
	uint8_t key, asc, ascq;  /* of the last error */
	bool was_reset, changed; /* unit attentions to come: a reset, another medium */
};

struct ata_dev {
	struct vm_loop *loop;
	struct block *disk; /* NULL: a CD-ROM drive without a medium */
	bool packet;        /* a CD-ROM drive */
	struct ata_identity id;
	uint64_t born_ns; /* when power was switched on */
	uint8_t *scratch; /* ATA_SCRATCH bytes: data that nobody looks at */

	/* Settings of the guest's. */
	bool write_cache, look_ahead, smart, smart_autosave, dipm, standby;
	uint8_t multiple; /* sectors; 0: not set */
	uint8_t mode;     /* of transfer, as in SET FEATURES */

	struct ata_ncq_error ncq;
	struct ata_selftest selftest[ATA_SELFTESTS]; /* a ring; kind 0: none */
	uint8_t selftest_next;
	struct atapi cd;
};

/* As after power-on. loop, disk, packet and id are set; scratch is made here. 0 or -ENOMEM. */
int ata_dev_init(struct ata_dev *dev);
void ata_dev_destroy(struct ata_dev *dev);
/* COMRESET or software reset; with power also settings go back. */
void ata_dev_reset(struct ata_dev *dev, bool power);
void ata_dev_state(struct ata_dev *dev, struct vm_state *s);

/* The registers that tell what the device is, after a reset and some aborted commands. */
void ata_signature(const struct ata_dev *dev, struct ata_regs *out);
/* Bit 0 error, bit 1 not: the status of a command that ended so, BSY clear. */
uint8_t ata_status(const struct ata_dev *dev, bool error);

/* Whether a command is a queued one, by its code. */
bool ata_is_queued(const struct ata_dev *dev, uint8_t command);
enum ata_end ata_execute(struct ata_cmd *cmd);
/* Remembers the error of a queued command, which ended, for log 10h. */
void ata_ncq_fail(struct ata_cmd *cmd, unsigned tag);

/* A medium was put in or is gone (the disk is set already). */
void atapi_medium_changed(struct ata_dev *dev);
/* Someone pressed the button of a drive that is locked. */
void atapi_eject_request(struct ata_dev *dev);

#endif
