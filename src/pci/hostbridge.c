/*
 * Host bridges: what stands for the chipset at 0:0. Systems look for one to know that there is a
 * PCI bus; it does nothing.
 *
 * Its PCI Express capability tells systems that ask (FreeBSD) that messages can be used for
 * interrupts.
 */
#include "pci/pci_models.h"

static const char *const hostbridge_vars[] = { "pcireg.*", NULL };

static int
hostbridge_init(struct pci_dev *dev, const struct config *cfg, struct pci_id id)
{
	int err;

	id.class = 0x06; /* bridge, PCI 3.0, appendix D */
	id.subclass = 0x00; /* host */
	err = pci_id_config(&id, cfg, "pcireg", "0000:00:00.0");
	if (err != 0)
		return err;
	pci_id_set(dev, &id);
	pci_express_add(dev);
	return 0;
}

static int
hostbridge_create(struct pci_dev *dev, const struct config *cfg)
{
	return hostbridge_init(dev, cfg, (struct pci_id){ .vendor = 0x1275, .device = 0x1275 });
}

static int
amd_hostbridge_create(struct pci_dev *dev, const struct config *cfg)
{
	return hostbridge_init(dev, cfg, (struct pci_id){ .vendor = 0x1022, .device = 0x7432 });
}

const struct pci_dev_ops hostbridge_ops = {
	.name = "hostbridge",
	.vars = hostbridge_vars,
	.create = hostbridge_create,
};

const struct pci_dev_ops amd_hostbridge_ops = {
	.name = "amd_hostbridge",
	.vars = hostbridge_vars,
	.create = amd_hostbridge_create,
};
