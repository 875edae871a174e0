/*
 * PCI-ISA bridge. The chips behind it have fixed ports and exist without it; it tells the guest
 * that they are there, and has the registers of the PIRQ router where Intel's ICH has them (82801
 * data sheets, LPC bridge, PIRQA_ROUT to PIRQH_ROUT).
 */
#include "pci/pci_models.h"

#include "base/log.h"
#include "vm/vm.h"

#include <errno.h>

#define LPC_PIRQ_A 0x60 /* four registers: PIRQA to PIRQD */
#define LPC_PIRQ_E 0x68 /* PIRQE to PIRQH */
#define LPC_PIRQS 4

/* The PIRQ whose register is at off, or -1. */
static int
lpc_pirq(unsigned off)
{
	if (off - LPC_PIRQ_A < LPC_PIRQS)
		return (int)(off - LPC_PIRQ_A);
	if (off - LPC_PIRQ_E < LPC_PIRQS)
		return (int)(off - LPC_PIRQ_E) + LPC_PIRQS;
	return -1;
}

/* An aligned access lies in the four registers of a group or outside of both. */
static bool
lpc_cfg_read(struct pci_dev *dev, unsigned off, int size, uint32_t *val)
{
	int pirq = lpc_pirq(off);

	if (pirq < 0)
		return false;
	*val = 0;
	for (int i = 0; i < size; i++)
		*val |= (uint32_t)pci_pirq_read(dev, pirq + i) << (8 * i);
	return true;
}

static bool
lpc_cfg_write(struct pci_dev *dev, unsigned off, int size, uint32_t val)
{
	int pirq = lpc_pirq(off);

	if (pirq < 0)
		return false;
	for (int i = 0; i < size; i++)
		pci_pirq_write(dev, pirq + i, (uint8_t)(val >> (8 * i)));
	return true;
}

static int
lpc_create(struct pci_dev *dev, const struct config *cfg)
{
	struct pci_id id = { .vendor = 0x8086, .device = 0x7000, .class = 0x06, .subclass = 0x01 };
	int err;

	/* Its variables are "lpc", whatever its slot (bhyve_config(5)). */
	err = pci_id_config(&id, vm_config(pci_vm(dev)), "lpc.pcireg", "0000:00:1f.0");
	if (err != 0)
		return err;
	err = pci_isa_bridge_register(dev);
	if (err != 0) {
		log_error(pci_name(dev), "there can be one lpc, and it has to be function 0");
		return err;
	}
	pci_id_set(dev, &id);
	return 0;
}

const struct pci_dev_ops lpc_ops = {
	.name = "lpc",
	.create = lpc_create,
	.cfg_read = lpc_cfg_read,
	.cfg_write = lpc_cfg_write,
};
