/*
 * The PCI bus of a machine: configuration access, the devices of the command line, and what
 * firmware does to and tells about them.
 *
 *	0x0cf8 - 0x0cff           configuration mechanism #1 (PCI 3.0, 3.2.2.3.2)
 *	0x2000 - 0xffff           I/O BARs
 *	0xc0000000 - 0xdfffffff   memory BARs
 *	0xe0000000 - 0xefffffff   configuration space of 256 buses (ECAM, PCIe 3.0, 7.2.2)
 *	above RAM                 64-bit memory BARs that are large
 *
 * There is one bus, number 0. Device s's pin p (0 is INTA) is wired to PIRQ (s + p) % 8, which goes
 * to line 16 + PIRQ (the IOAPIC's) and, as the router's registers say, to a line of the 8259s.
 */
#ifndef PCI_PCI_HOST_H
#define PCI_PCI_HOST_H

#include "pci/pci.h"

struct pci;

#define PCI_SLOTS 32
#define PCI_FUNCTIONS 8
#define PCI_ROUTES_MAX (PCI_SLOTS * 4) /* four pins each */
#define PCI_ECAM_BASE 0xe0000000u
#define PCI_ECAM_SIZE MIB(256)

struct pci_params {
	int phys_bits; /* of the processor's physical addresses */
	/* Ports 0xcf8 to 0xcfb, accessed not as a double word: not the configuration mechanism's,
	 * but the reset control register's is among them. Any thread; both may be NULL. */
	uint8_t (*port_read)(void *ctx, uint16_t port);
	void (*port_write)(void *ctx, uint16_t port, uint8_t val);
	void *ctx;
};

/*
 * Makes the bus and the devices that the configuration of vm names below "pci.0"; when it names
 * none, a host bridge in slot 0 and an ISA bridge in slot 31. Then does what firmware does at
 * power-on: places BARs, lets them be decoded, routes interrupts. Main thread, after all chips with
 * fixed ports. 0, or -errno after one line to the user, with nothing left behind.
 */
int pci_create(struct vm *vm, const struct pci_params *params, struct pci **out);
/* Main thread, vCPUs and loop ended, before the interrupt controllers. NULL is fine. */
void pci_destroy(struct pci *pci);

/* Both ends inclusive; limit 0: there is no such window. */
struct pci_window {
	uint64_t base, limit;
};

/* A device's pin, in use, and where it goes. */
struct pci_route {
	uint8_t slot, pin;
	uint8_t line; /* of the IOAPIC */
	uint8_t irq; /* of the 8259s, 0 for none */
};

/* For tables that describe the bus; constant after pci_create(). */
struct pci_layout {
	struct pci_window mem32, mem64;
	int isa_slot; /* of the ISA bridge, function 0; -1: none */
	struct pci_route route[PCI_ROUTES_MAX];
	int routes;
};
const struct pci_layout *pci_layout(const struct pci *pci);

/* The device in a slot, or NULL. */
struct pci_dev *pci_find(const struct pci *pci, int slot, int function);

/* Checks a variable with this full path, which sets a register of a device's identity
 * ("pci.0.3.0.pcireg.vendor"), before any device is made. 0, or -EINVAL after one line to the user. */
int pci_id_check(const struct config *root, const char *path);

/* All models, a NULL at the end; and the one with this name, or NULL. */
extern const struct pci_dev_ops *const pci_models[];
const struct pci_dev_ops *pci_model_find(const char *name);

#endif
