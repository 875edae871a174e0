/*
 * What pci/'s own files share. Not for other rooms.
 *
 * Locks, outermost first: pci_dev.lock, pci.map_lock, pci_dev.irq_lock, pci.pirq_lock; then vm/'s.
 */
#ifndef PCI_PCI_PRIVATE_H
#define PCI_PCI_PRIVATE_H

#include "pci/pci.h"
#include "pci/pci_host.h"

#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/state.h"

#include <pthread.h>

/* Configuration space header, type 0 (PCI 3.0, 6.1 and 6.2) */
#define PCI_VENDOR 0x00
#define PCI_DEVICE 0x02
#define PCI_COMMAND 0x04
#define PCI_COMMAND_IO BIT(0)
#define PCI_COMMAND_MEM BIT(1)
#define PCI_COMMAND_MASTER BIT(2)
#define PCI_COMMAND_PARITY BIT(6)
#define PCI_COMMAND_SERR BIT(8)
#define PCI_COMMAND_INTX_OFF BIT(10)
#define PCI_COMMAND_WRITABLE                                                                       \
	(PCI_COMMAND_IO | PCI_COMMAND_MEM | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY |              \
	    PCI_COMMAND_SERR | PCI_COMMAND_INTX_OFF)
#define PCI_STATUS 0x06
#define PCI_STATUS_INTX BIT(3) /* the device wants its pin asserted */
#define PCI_STATUS_CAPS BIT(4)
#define PCI_REVISION 0x08
#define PCI_PROG_IF 0x09
#define PCI_SUBCLASS 0x0a
#define PCI_CLASS 0x0b
#define PCI_CACHE_LINE 0x0c
#define PCI_HEADER_TYPE 0x0e
#define PCI_HEADER_MULTI BIT(7)
#define PCI_BAR(n) (0x10u + 4u * (unsigned)(n))
#define PCI_BAR_IO_BIT BIT(0)
#define PCI_BAR_64 BIT(2)
#define PCI_BAR_PREFETCH BIT(3)
#define PCI_BAR_IO_MASK 0xfffffffcu
#define PCI_BAR_MEM_MASK 0xfffffff0u
#define PCI_SUBVENDOR 0x2c
#define PCI_SUBDEVICE 0x2e
#define PCI_CAPS 0x34
#define PCI_INT_LINE 0x3c
#define PCI_INT_PIN 0x3d
#define PCI_HEADER_SIZE 0x40

#define PCI_CFG_SIZE 256 /* what is stored; the extended space reads as zero */
#define PCI_CFG_EXTENDED 4096

#define PCI_MSI_VECTORS 32
#define PCI_MSIX_VECTORS 2048

struct pci_doorbell {
	struct pci_doorbell *next;
	uint64_t off;
	int size;
	pci_doorbell_fn *notify;
	void *ctx;
};

struct pci_bar {
	struct pci_dev *dev;
	int idx;
	enum pci_bar_type type; /* PCI_BAR_NONE: there is none, or it is another's upper half */
	uint64_t size;
	/* Guarded by pci.map_lock from here on. */
	bool wanted; /* decoding is on, at base */
	bool mapped; /* range is on the bus */
	bool blocked; /* wanted, but something is in the way */
	uint64_t base;
	struct vm_range range;
	struct pci_doorbell *doorbell;
};

/* Guarded by irq_lock; enabled and what goes with it are read from configuration space whenever the
 * guest writes there. */
struct pci_msi {
	unsigned cap; /* offset of the capability, 0: none */
	int vectors;
	bool enabled;
	uint32_t count, mask, pending, data;
	uint64_t addr;
};

/* An entry of the table (6.8.2.6 to 6.8.2.9), little-endian as the host */
struct pci_msix_entry {
	uint64_t addr;
	uint32_t data;
	uint32_t control;
};
static_assert(sizeof(struct pci_msix_entry) == 16, "PCI 3.0, 6.8.2");

struct pci_msix {
	unsigned cap;
	int bar, vectors;
	bool enabled, masked;
	struct pci_msix_entry *entry; /* one per vector */
	uint64_t *pending; /* a bit per vector */
	uint64_t pba_off; /* of the pending bits in the BAR; the table is at 0 */
};

struct pci_intx {
	int pirq; /* -1: no pin */
	bool level; /* what the device wants */
	bool off; /* interrupt disable */
	bool asserted;
};

struct pci_dev {
	struct pci *pci;
	const struct pci_dev_ops *ops;
	int slot, function;
	char name[32];
	void *priv;

	pthread_mutex_t lock; /* configuration space, and what the model keeps under it */
	uint8_t cfg[PCI_CFG_SIZE];
	uint8_t writable[PCI_CFG_SIZE]; /* constant after create() */
	uint8_t initial[PCI_CFG_SIZE]; /* cfg after create(), for a reset; constant */
	unsigned cap_last, cap_end; /* offset of the last capability's header, end of all */
	unsigned express; /* offset of the PCI Express capability, 0: none */
	struct pci_bar bar[PCI_BARS];

	pthread_mutex_t irq_lock;
	bool master;
	struct pci_msi msi;
	struct pci_msix msix;
	struct pci_intx intx;
};

struct pci_pirq {
	uint8_t reg; /* as the guest sees it */
	int asserted; /* how many functions assert it */
};

struct pci {
	struct vm *vm;
	struct pci_params params;
	struct pci_layout layout;
	struct config *empty; /* the node of devices that no configuration names */
	struct pci_dev *dev[PCI_SLOTS * PCI_FUNCTIONS]; /* constant after pci_create() */
	struct vm_range ports, ecam;
	_Atomic uint32_t address; /* CONFIG_ADDRESS */

	pthread_mutex_t map_lock; /* what is decoded where */
	int blocked; /* BARs */

	pthread_mutex_t pirq_lock;
	struct pci_pirq pirq[PCI_PIRQS];
};

/* --- pci_cfg.c --- */

void pci_cfg_init(struct pci_dev *dev);
/* A guest's access: size 1, 2 or 4, off a multiple of it and below PCI_CFG_EXTENDED. */
uint32_t pci_cfg_read(struct pci_dev *dev, unsigned off, int size);
void pci_cfg_write(struct pci_dev *dev, unsigned off, int size, uint32_t val);
/* Makes everything that hangs on configuration space agree with it. Device locked. */
void pci_cfg_apply(struct pci_dev *dev);

/* --- pci_bar.c --- */

/* Places all BARs and lets them be decoded. 0, or -ENOSPC after one line to the user. */
int pci_bars_assign(struct pci *pci);
/* Follows BARs and command register. Device locked. */
void pci_bars_apply(struct pci_dev *dev);
/* Takes all BARs off the bus for good. */
void pci_bars_destroy(struct pci_dev *dev);

/* --- pci_msi.c, pci_msix.c, pci_intx.c ---
 *
 * apply and reset: device and irq_lock held. */

void pci_msi_apply(struct pci_dev *dev);
void pci_msi_reset(struct pci_dev *dev);

void pci_msix_apply(struct pci_dev *dev);
void pci_msix_reset(struct pci_dev *dev);
/* After create(). 0 or -ENOMEM. */
int pci_msix_init(struct pci_dev *dev);
void pci_msix_destroy(struct pci_dev *dev);
void pci_msix_state(struct pci_dev *dev, struct vm_state *s);
/* Accesses to the BAR. */
uint64_t pci_msix_read(struct pci_dev *dev, uint64_t off, int size);
void pci_msix_write(struct pci_dev *dev, uint64_t off, int size, uint64_t val);

void pci_intx_apply(struct pci_dev *dev);
void pci_intx_reset(struct pci_dev *dev);

/* Routes the PIRQs to 8259 lines, as firmware does, and fills the layout's routes. */
void pci_pirq_assign(struct pci *pci);
/* Saves or loads the router; asserted pins are those of the devices as they are loaded. */
void pci_pirq_state(struct pci *pci, struct vm_state *s);

#endif
