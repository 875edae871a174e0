/*
 * What a PCI device model is made of (PCI Local Bus 3.0, PCI Express Base 3.0). For the machine's
 * side of the bus see pci_host.h.
 *
 * A device model is one file with one const struct pci_dev_ops, and one line in the table of
 * pci_models.c. The bus owns configuration space, BARs, MSI, MSI-X and the interrupt pin; a model
 * says which of them it has and answers for what its registers mean:
 *
 *	static int
 *	foo_create(struct pci_dev *dev, const struct config *cfg)
 *	{
 *		static const struct pci_id id = { .vendor = 0x1234, .device = 0x5678,
 *		    .class = 0x01, .subclass = 0x08, .prog_if = 0x02 };
 *		...
 *		pci_id_set(dev, &id);
 *		pci_bar_add(dev, 0, PCI_BAR_MEM64, KIB(16), false);
 *		pci_msix_add(dev, 4, 8);
 *		pci_intx_add(dev);
 *		pci_priv_set(dev, foo);
 *		return 0;
 *	}
 *
 *	const struct pci_dev_ops foo_ops = { .name = "foo", .create = foo_create,
 *	    .destroy = foo_destroy, .bar_read = foo_bar_read, .bar_write = foo_bar_write,
 *	    .reset = foo_reset, .state = foo_state };
 *
 * Functions that add something are for create() only and do not fail: what they are given is the
 * model's own constants, which are asserted.
 *
 * Locks, outermost first: the device's lock (pci_lock), then those inside this room, then those of
 * vm/. The bus takes the device's lock around every operation of the model but create() and
 * destroy(). A model takes it itself where it works on the same data from another thread (a
 * completion on the event loop, a doorbell). pci_msi_send(), pci_msix_send() and pci_intx_set() may
 * be called on any thread, with or without it.
 */
#ifndef PCI_PCI_H
#define PCI_PCI_H

#include "base/bits.h"

struct config;
struct pci_dev;
struct vm;
struct vm_state;

/* What a function model provides. Operations that are NULL are not needed by the model. */
struct pci_dev_ops {
	const char *name; /* as in -s slot,name */
	/* The variables below the device's node that the model reads, but "device":
	 * NULL-terminated, N stands for a number, * for anything ("port.N.path"). NULL: none. */
	const char *const *vars;
	/* Main thread, before any vCPU runs. 0, or -errno with nothing left behind and one line
	 * told to the user. cfg is the device's node and outlives the device. */
	int (*create)(struct pci_dev *dev, const struct config *cfg);
	/* Main thread, after all vCPUs and the event loop have ended. Only after create()
	 * succeeded. */
	void (*destroy)(struct pci_dev *dev);
	/* Configuration registers with a life of their own: size is 1, 2 or 4, off a multiple of
	 * it, below 4096. True: the model has answered; false: the bus does (pci_cfg_set(),
	 * pci_cfg_writable()). The standard header and what pci_*_add() made are the bus's. On a
	 * vCPU's thread, device locked. */
	bool (*cfg_read)(struct pci_dev *dev, unsigned off, int size, uint32_t *val);
	bool (*cfg_write)(struct pci_dev *dev, unsigned off, int size, uint32_t val);
	/* On a vCPU's thread, device locked: must not block. off is a multiple of size and inside
	 * the BAR, size is 1, 2, 4 or, in memory BARs, 8 bytes. The BAR of MSI-X tables never comes
	 * here. */
	uint64_t (*bar_read)(struct pci_dev *dev, int bar, uint64_t off, int size);
	void (*bar_write)(struct pci_dev *dev, int bar, uint64_t off, int size, uint64_t val);
	/* Function-level reset (pci_express_add()): back to the state after create(), what is in
	 * flight must not reach the guest any more. BARs, MSI and the pin are reset already. Device
	 * locked. */
	void (*reset)(struct pci_dev *dev);
	/* Saves or loads the model's own sections (vm/state.h), after the bus's part. VM
	 * stopped. */
	int (*state)(struct pci_dev *dev, struct vm_state *s);
};

/* --- Any time --- */

const char *pci_name(const struct pci_dev *dev); /* "pci.0.3.0", for messages */
struct vm *pci_vm(const struct pci_dev *dev);
int pci_slot(const struct pci_dev *dev);
int pci_function(const struct pci_dev *dev);
int pci_devfn(const struct pci_dev *dev); /* both in one number, for vm_state_section() */
void *pci_priv(const struct pci_dev *dev);
void pci_priv_set(struct pci_dev *dev, void *priv);
void pci_lock(struct pci_dev *dev);
void pci_unlock(struct pci_dev *dev);

/* Whether the function may access memory (command register, bus master): a model asks before it
 * starts a transfer. Any thread. */
bool pci_is_bus_master(struct pci_dev *dev);

/* --- Configuration space --- */

struct pci_id {
	uint16_t vendor, device, subvendor, subdevice;
	uint8_t class, subclass, prog_if, revision;
};
void pci_id_set(struct pci_dev *dev, const struct pci_id *id);
/* Reads pcireg.* variables (bhyve_config(5)) over id: node's prefix.vendor, .device, .revid,
 * .subvendor and .subdevice. The value "host" is the register of the host's device at host, as in
 * sysfs ("0000:00:1f.0"). 0, or -EINVAL after one line to the user. */
int pci_id_config(struct pci_id *id, const struct config *node, const char *prefix,
    const char *host);

/* Bytes as stored, device locked or in create(). size is 1, 2 or 4; off + size at most 256. */
uint32_t pci_cfg_get(const struct pci_dev *dev, unsigned off, int size);
void pci_cfg_set(struct pci_dev *dev, unsigned off, int size, uint32_t val);
/* Which bits of a register the guest can write; none, unless told. create() only. */
void pci_cfg_writable(struct pci_dev *dev, unsigned off, int size, uint32_t mask);

/* Adds a capability of len bytes, its two header bytes included (PCI 3.0, 6.7), zero and not
 * writable yet. Returns its offset. create() only. */
unsigned pci_cap_add(struct pci_dev *dev, uint8_t id, unsigned len);

/* Makes it a PCI Express root complex integrated endpoint (PCIe 3.0, 7.8), which can be reset by
 * itself when the model has a reset(). create() only. */
void pci_express_add(struct pci_dev *dev);

/* --- Base address registers --- */

enum pci_bar_type { PCI_BAR_NONE, PCI_BAR_IO, PCI_BAR_MEM32, PCI_BAR_MEM64 };
#define PCI_BARS 6

/* A BAR of a size that is a power of two: 4 to 256 bytes of I/O, 16 and more of memory. A
 * PCI_BAR_MEM64 takes idx + 1 too. create() only. */
void pci_bar_add(struct pci_dev *dev, int idx, enum pci_bar_type type, uint64_t size,
    bool prefetchable);

/* A doorbell (vm/bus.h) at off in a BAR, which moves with it. notify may run on any thread, the
 * device not locked, also for a moment after it was removed. An optimisation: writes can come to
 * bar_write() all the same, which must do what notify does. create(), or device locked. 0 or
 * -ENOMEM. */
typedef void pci_doorbell_fn(void *ctx, uint64_t val);
int pci_doorbell_add(struct pci_dev *dev, int bar, uint64_t off, int size, pci_doorbell_fn *notify,
    void *ctx);
void pci_doorbell_remove(struct pci_dev *dev, int bar, uint64_t off);

/* --- Interrupts --- */

/* Which kind the guest has chosen; one of pci_msix_send(), pci_msi_send() and pci_intx_set() does
 * something at a time, the others are safe and do nothing (the pin's level is remembered). */
enum pci_irq_kind { PCI_IRQ_INTX, PCI_IRQ_MSI, PCI_IRQ_MSIX };
enum pci_irq_kind pci_irq_kind(struct pci_dev *dev);

/* MSI with 1, 2, 4, 8, 16 or 32 vectors, 64-bit addresses and per-vector masking (PCI 3.0, 6.8.1).
 * Where the guest enabled fewer, the higher vectors share those. create() only. */
void pci_msi_add(struct pci_dev *dev, int vectors);
void pci_msi_send(struct pci_dev *dev, int vector);

/* MSI-X with 1 to 2048 vectors, table and pending bits in a 32-bit memory BAR of their own (6.8.2).
 * create() only. A masked vector is sent once when it is unmasked. */
void pci_msix_add(struct pci_dev *dev, int bar, int vectors);
void pci_msix_send(struct pci_dev *dev, int vector);

/* An interrupt pin: INTA for function 0, INTB for function 1, and so on. create() only. The level
 * is the device's own wish; whether it reaches the pin is the bus's affair (interrupt disable,
 * MSI). */
void pci_intx_add(struct pci_dev *dev);
void pci_intx_set(struct pci_dev *dev, bool level);

/* --- For the ISA bridge --- */

/* The registers of the PIRQ router, 0 to PCI_PIRQS - 1: bit 7 set when the pin is not routed to the
 * 8259s, else its IRQ in bits 0 to 3. */
#define PCI_PIRQS 8
uint8_t pci_pirq_read(struct pci_dev *dev, int pirq);
void pci_pirq_write(struct pci_dev *dev, int pirq, uint8_t val);
/* Makes dev the ISA bridge that firmware describes. create() only. 0, or -EEXIST when there is
 * one. */
int pci_isa_bridge_register(struct pci_dev *dev);

#endif
