/*
 * What the files of the AHCI controller share (Serial ATA AHCI 1.3.1).
 *
 * A port's commands are carried out on the thread of its disk: a write to PxCI posts a work that
 * reads the command list, and so do completions, which are told to the guest once per round. A
 * CD-ROM drive without a medium has no thread; what it can do then is done at once.
 *
 * Locks, outermost first: the device's (pci.h), a port's, the HBA's irq_lock. Callbacks of requests
 * take only the latter two, so a reset of the function can wait for them with the device's held.
 *
 * A request in flight holds guest memory, so commands that are given up, by PxCMD.ST, COMRESET,
 * HBA reset or FLR, stay busy until their requests are done, and the guest sees that something goes
 * on: PxCMD.CR, PxTFD.BSY or GHC.HR. The port is "draining" so long; nothing new is started.
 */
#ifndef STORAGE_AHCI_IMPL_H
#define STORAGE_AHCI_IMPL_H

#include "pci/pci.h"
#include "storage/ahci.h"
#include "storage/ata.h"
#include "vm/vm.h"

#include <pthread.h>
#include <sys/stat.h>

#define AHCI_PORTS    6
#define AHCI_SLOTS    32
#define AHCI_BAR      5
#define AHCI_BAR_SIZE KIB(4)
#define AHCI_PATH_MAX 1024 /* of a medium, in a saved state */

/* --- Registers of the HBA (3.1) --- */

#define AHCI_CAP          0x00
#define AHCI_CAP_NCS      ((AHCI_SLOTS - 1) << 8)
#define AHCI_CAP_PSC      BIT(13) /* partial state */
#define AHCI_CAP_SSC      BIT(14) /* slumber state */
#define AHCI_CAP_PMD      BIT(15) /* several DRQ blocks of PIO at a time */
#define AHCI_CAP_SAM      BIT(18) /* nothing but AHCI */
#define AHCI_CAP_ISS_GEN3 (3 << 20)
#define AHCI_CAP_SCLO     BIT(24)
#define AHCI_CAP_SALP     BIT(26)
#define AHCI_CAP_SSS      BIT(27) /* staggered spin-up */
#define AHCI_CAP_SNCQ     BIT(30)
#define AHCI_CAP_S64A     BIT(31)
#define AHCI_GHC          0x04
#define AHCI_GHC_HR       BIT(0)
#define AHCI_GHC_IE       BIT(1)
#define AHCI_GHC_AE       BIT(31)
#define AHCI_IS           0x08
#define AHCI_PI           0x0c
#define AHCI_VS           0x10
#define AHCI_VS_1_3_1     0x00010301
#define AHCI_PORT_BASE    0x100
#define AHCI_PORT_SIZE    0x80

/* --- Registers of a port (3.3) --- */

#define AHCI_PX_CLB  0x00
#define AHCI_PX_CLBU 0x04
#define AHCI_PX_FB   0x08
#define AHCI_PX_FBU  0x0c
#define AHCI_PX_IS   0x10
#define AHCI_IS_DHRS BIT(0)  /* device to host FIS */
#define AHCI_IS_PSS  BIT(1)  /* PIO setup FIS */
#define AHCI_IS_DSS  BIT(2)  /* DMA setup FIS */
#define AHCI_IS_SDBS BIT(3)  /* set device bits FIS */
#define AHCI_IS_DPS  BIT(5)  /* descriptor processed */
#define AHCI_IS_PCS  BIT(6)  /* PxSERR.DIAG.X */
#define AHCI_IS_PRCS BIT(22) /* PxSERR.DIAG.N */
#define AHCI_IS_OFS  BIT(24) /* more data than memory for it */
#define AHCI_IS_IFS  BIT(27) /* interface fatal error */
#define AHCI_IS_HBDS BIT(28) /* host bus data error */
#define AHCI_IS_HBFS BIT(29) /* host bus fatal error */
#define AHCI_IS_TFES BIT(30) /* task file error */
#define AHCI_IS_CLEAR                                                                              \
	(AHCI_IS_DHRS | AHCI_IS_PSS | AHCI_IS_DSS | AHCI_IS_SDBS | AHCI_IS_DPS | AHCI_IS_OFS |     \
	    AHCI_IS_IFS | AHCI_IS_HBDS | AHCI_IS_HBFS | AHCI_IS_TFES)
#define AHCI_PX_IE         0x14
#define AHCI_IE_MASK       0xfdc000ffu
#define AHCI_PX_CMD        0x18
#define AHCI_CMD_ST        BIT(0)
#define AHCI_CMD_SUD       BIT(1)
#define AHCI_CMD_POD       BIT(2)
#define AHCI_CMD_CLO       BIT(3)
#define AHCI_CMD_FRE       BIT(4)
#define AHCI_CMD_CCS(slot) ((uint32_t)(slot) << 8)
#define AHCI_CMD_CCS_MASK  (31u << 8)
#define AHCI_CMD_FR        BIT(14)
#define AHCI_CMD_CR        BIT(15)
#define AHCI_CMD_ATAPI     BIT(24)
#define AHCI_CMD_DLAE      BIT(25)
#define AHCI_CMD_ALPE      BIT(26)
#define AHCI_CMD_ASP       BIT(27)
#define AHCI_CMD_ICC(v)    BITS(v, 28, 4)
#define AHCI_CMD_WRITABLE                                                                          \
	(AHCI_CMD_ST | AHCI_CMD_SUD | AHCI_CMD_FRE | AHCI_CMD_ATAPI | AHCI_CMD_DLAE |              \
	    AHCI_CMD_ALPE | AHCI_CMD_ASP)
#define AHCI_PX_TFD            0x20
#define AHCI_PX_SIG            0x24
#define AHCI_PX_SSTS           0x28
#define AHCI_SSTS_DET_UP       3u
#define AHCI_SSTS_DET_OFFLINE  4u
#define AHCI_SSTS_SPD_GEN3     3u
#define AHCI_PX_SCTL           0x2c
#define AHCI_SCTL_MASK         0xfffu
#define AHCI_SCTL_DET(v)       ((v)&15)
#define AHCI_SCTL_DET_COMRESET 1
#define AHCI_SCTL_DET_OFFLINE  4
#define AHCI_SCTL_SPD(v)       ((v) >> 4 & 15)
#define AHCI_SCTL_NO_PARTIAL   BIT(8)
#define AHCI_SCTL_NO_SLUMBER   BIT(9)
#define AHCI_PX_SERR           0x30
#define AHCI_SERR_DIAG_N       BIT(16) /* the phy became ready, or no longer is */
#define AHCI_SERR_DIAG_X       BIT(26) /* a device came */
#define AHCI_PX_SACT           0x34
#define AHCI_PX_CI             0x38

/* Interface power states, in PxSSTS.IPM and PxCMD.ICC */
#define AHCI_IPM_ACTIVE  1u
#define AHCI_IPM_PARTIAL 2u
#define AHCI_IPM_SLUMBER 6u

/* --- In memory (4.2) --- */

struct ahci_header { /* of a command in the list */
	uint16_t flags;
	uint16_t prdtl; /* elements of the PRDT */
	uint32_t prdbc; /* bytes moved */
	uint64_t ctba;  /* the command table */
	uint32_t reserved[4];
};
static_assert(sizeof(struct ahci_header) == 32, "AHCI 1.3.1, 4.2.2");
#define AHCI_HEADER_CFL(f) ((f)&31u) /* dwords of the FIS */
#define AHCI_CFL_MIN       2
#define AHCI_CFL_MAX       16

struct fis_h2d { /* register, host to device (SATA 3.1, 10.5.5) */
	uint8_t type, flags, command, features;
	uint8_t lba0, lba1, lba2, device;
	uint8_t lba3, lba4, lba5, features_ext;
	uint8_t count, count_ext, icc, control;
	uint32_t aux;
};
static_assert(sizeof(struct fis_h2d) == 20, "SATA 3.1, 10.5.5");
#define FIS_H2D          0x27
#define FIS_H2D_COMMAND  BIT(7)
#define FIS_CONTROL_SRST BIT(2)

struct ahci_table { /* a command's: the PRDT follows (4.2.3) */
	struct fis_h2d fis;
	uint8_t fis_rest[64 - sizeof(struct fis_h2d)];
	uint8_t acmd[16];
	uint8_t reserved[48];
};
static_assert(sizeof(struct ahci_table) == 128, "AHCI 1.3.1, 4.2.3");
#define AHCI_TABLE_MASK 127ull /* of its address, which is aligned */

struct ahci_prd {
	uint64_t dba;
	uint32_t reserved;
	uint32_t dbc;
};
static_assert(sizeof(struct ahci_prd) == 16, "AHCI 1.3.1, 4.2.3.3");
/* Bytes, less one; there is always an even number of them. */
#define AHCI_PRD_BYTES(dbc) ((((dbc)&0x3fffff) | 1u) + 1u)
#define AHCI_PRD_INTERRUPT  BIT(31)

struct fis_regs { /* what FISes from the device with its registers begin with */
	uint8_t type, flags, status, error;
	uint8_t lba0, lba1, lba2, device;
	uint8_t lba3, lba4, lba5, reserved;
	uint8_t count, count_ext;
};
#define FIS_INTERRUPT BIT(6)
#define FIS_TO_HOST   BIT(5) /* the direction of data */

struct fis_d2h { /* register, device to host (SATA 3.1, 10.5.6) */
	struct fis_regs regs;
	uint8_t reserved[6];
};
static_assert(sizeof(struct fis_d2h) == 20, "SATA 3.1, 10.5.6");
#define FIS_D2H 0x34

struct fis_pio { /* PIO setup (SATA 3.1, 10.5.11) */
	struct fis_regs regs;
	uint8_t reserved, end_status;
	uint16_t bytes, reserved2;
};
static_assert(sizeof(struct fis_pio) == 20, "SATA 3.1, 10.5.11");
#define FIS_PIO 0x5f

struct fis_sdb { /* set device bits (10.5.7) */
	uint8_t type, flags, status, error;
	uint32_t sact;
};
static_assert(sizeof(struct fis_sdb) == 8, "SATA 3.1, 10.5.7");
#define FIS_SDB        0xa1
#define FIS_SDB_STATUS 0x77 /* bits of the status it sets */

struct fis_dma { /* DMA setup (10.5.9) */
	uint8_t type, flags, reserved[2];
	uint32_t buffer_low, buffer_high;
	uint32_t reserved2, offset, count, reserved3;
};
static_assert(sizeof(struct fis_dma) == 28, "SATA 3.1, 10.5.9");
#define FIS_DMA      0x41
#define FIS_DMA_AUTO BIT(7) /* data may follow at once */

/* Where each goes in the received FIS area (4.2.1) */
#define AHCI_RFIS_DMA 0x00
#define AHCI_RFIS_PIO 0x20
#define AHCI_RFIS_D2H 0x40
#define AHCI_RFIS_SDB 0x58

/* --- State --- */

struct ahci_cmd { /* of a slot; the port's lock */
	struct ahci_port *port;
	unsigned slot;
	bool busy;       /* the device has it, or its request is in flight */
	bool waiting;    /* its request is in flight */
	bool aborted;    /* it was given up: its end is not told */
	bool mapped;     /* the request's memory is the guest's */
	bool interrupt;  /* an element of the PRDT asked for one */
	uint64_t header; /* where its header is */
	uint64_t prdt;
	uint16_t prdtl;
	uint32_t prd, prd_off; /* what is moved next: an element, bytes in it */
	uint64_t moved;
	struct ata_cmd ata;
};

struct ahci_port {
	struct ahci *hba;
	int index;
	bool present;
	char name[48]; /* "pci.0.3.0.port.1", for messages */

	pthread_mutex_t lock;
	pthread_cond_t drained;

	/* Registers. */
	uint64_t clb, fb;
	uint32_t is, ie, cmd, sig, sctl, serr, sact, ci;
	uint8_t status, error; /* PxTFD */
	uint8_t ipm;           /* power state that PxCMD.ICC asked for */

	/* Link and command list. */
	bool up;         /* the link */
	bool halted;     /* an error, until PxCMD.ST is cleared */
	bool srst;       /* software reset is asserted */
	bool fis_held;   /* the signature waits for PxCMD.FRE */
	unsigned next;   /* slot that is looked at first */
	uint32_t queued; /* slots of queued commands that the device has */
	uint32_t done;   /* those whose end is not told yet */

	/* See above. */
	unsigned inflight;
	bool draining;
	bool hba_reset; /* GHC.HR waits for this port */
	bool greeting;  /* the signature is due then */

	struct block_work kick;   /* look at the command list */
	struct block_work finish; /* tell of the commands in done */
	struct ahci_cmd *cmds;    /* AHCI_SLOTS */
	struct ata_dev dev;
	/* CD-ROM; main thread. */
	struct config *media; /* variables for block_open() */
	bool unreadable;      /* opening what was like this failed */
	struct stat unreadable_stat;
};

struct ahci {
	struct pci_dev *pci;
	struct vm *vm;
	uint32_t cap, pi; /* constant */
	struct ahci_port port[AHCI_PORTS];
	_Atomic unsigned resetting; /* ports that GHC.HR waits for */

	pthread_mutex_t irq_lock;
	uint32_t ghc, is;
	uint32_t pending; /* ports with an interrupt that they want: PxIS & PxIE */
};

/* --- ahci.c --- */

/* The port's PxIS or PxIE changed. Port locked. */
void ahci_irq_update(struct ahci_port *port);

/* --- ahci_port.c: registers and link. Port locked, but for the first two. --- */

int ahci_port_init(struct ahci_port *port); /* 0 or -ENOMEM */
void ahci_port_destroy(struct ahci_port *port);
uint32_t ahci_port_read(struct ahci_port *port, unsigned reg);
void ahci_port_write(struct ahci_port *port, unsigned reg, uint32_t val);
/* Gives up all commands and resets, as GHC.HR does; it may have to wait, see hba_reset. */
void ahci_port_hba_reset(struct ahci_port *port);
/* The same at once, with all registers; waits for requests in flight. */
void ahci_port_power_reset(struct ahci_port *port);
/* The last request of a draining port is done. */
void ahci_port_settle(struct ahci_port *port);
void ahci_port_state(struct ahci_port *port, struct vm_state *s);

/* --- ahci_cmd.c: the command list. Port locked, but for the callbacks of works. --- */

void ahci_port_work(void *ctx); /* of kick */
void ahci_port_finish(void *ctx);
void ahci_port_kick(struct ahci_port *port); /* has it looked at, if there is something */
/* Carries out what is in the command list, as far as it can be now. */
void ahci_port_run(struct ahci_port *port);
/* Gives up all commands that the device has. */
void ahci_port_abort(struct ahci_port *port);
/* An error that halts the port: a bit of PxIS. */
void ahci_port_fatal(struct ahci_port *port, uint32_t is);
/* Tells what the device is. */
void ahci_port_greet(struct ahci_port *port);
/* Writes it to the received FIS area, when it could not be before. */
void ahci_port_greet_held(struct ahci_port *port);

/* --- ahci_cd.c: media. Main thread. --- */

/* Makes the drive's disk of the variables in cfg, none without a path. 0, or -errno after one line
 * to the user. */
int ahci_cd_create(struct ahci_port *port, const struct config *cfg);
void ahci_cd_destroy(struct ahci_port *port);
void ahci_cd_state(struct ahci_port *port, struct vm_state *s);

#endif
