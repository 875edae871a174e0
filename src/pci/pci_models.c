/*
 * The device models that are built in.
 */
#include "pci/pci_models.h"

#include "pci/pci_host.h"

#include <string.h>

const struct pci_dev_ops *const pci_models[] = {
	&ahci_ops,
	&ahci_cd_ops,
	&ahci_hd_ops,
	&amd_hostbridge_ops,
	&hostbridge_ops,
	&lpc_ops,
	&nvme_ops,
	&virtio_blk_ops,
	NULL,
};

const struct pci_dev_ops *
pci_model_find(const char *name)
{
	for (const struct pci_dev_ops *const *m = pci_models; *m != NULL; m++) {
		if (strcmp((*m)->name, name) == 0)
			return *m;
	}
	return NULL;
}
