/*
 * The device models that exist, for the table in pci_models.c only. Everyone else asks
 * pci_model_find().
 */
#ifndef PCI_PCI_MODELS_H
#define PCI_PCI_MODELS_H

#include "pci/pci.h"

extern const struct pci_dev_ops ahci_ops;
extern const struct pci_dev_ops ahci_cd_ops;
extern const struct pci_dev_ops ahci_hd_ops;
extern const struct pci_dev_ops amd_hostbridge_ops;
extern const struct pci_dev_ops hostbridge_ops;
extern const struct pci_dev_ops lpc_ops;
extern const struct pci_dev_ops nvme_ops;
extern const struct pci_dev_ops virtio_blk_ops;

#endif
