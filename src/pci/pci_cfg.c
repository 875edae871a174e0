/*
 * Configuration space of a function (PCI 3.0, chapter 6; PCI Express capability: PCIe 3.0, 7.8).
 *
 * It is an array of bytes and one that says which bits the guest can write. After each write
 * everything that hangs on it is made to agree (pci_cfg_apply()): writes are rare, and one path
 * cannot forget a case.
 */
#include "pci/pci_private.h"

#include "base/config.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* PCI Express capability structure */
#define PCI_EXPRESS_ID 0x10
#define PCI_EXPRESS_SIZE 0x3c
#define PCI_EXPRESS_CAP 0x02
#define PCI_EXPRESS_CAP_VERSION 2
#define PCI_EXPRESS_CAP_ENDPOINT (9 << 4) /* root complex integrated endpoint */
#define PCI_EXPRESS_DEVCAP 0x04
#define PCI_EXPRESS_DEVCAP_ROLE_ERRORS BIT(15)
#define PCI_EXPRESS_DEVCAP_FLR BIT(28)
#define PCI_EXPRESS_DEVCTL 0x08
#define PCI_EXPRESS_DEVCTL_DEFAULT 0x2810 /* 512-byte reads, no snoop, relaxed ordering */
#define PCI_EXPRESS_DEVCTL_WRITABLE 0x78ff
#define PCI_EXPRESS_DEVCTL_FLR BIT(15)

/* The header's registers that are the same for every function. BARs come with pci_bar_add(). */
static const struct {
	uint8_t off, size;
	uint16_t writable;
} pci_cfg_header[] = {
	{ PCI_COMMAND, 2, PCI_COMMAND_WRITABLE },
	{ PCI_CACHE_LINE, 2, 0xffff }, /* and the latency timer; neither does anything here */
	{ PCI_INT_LINE, 1, 0xff },
};

void
pci_cfg_init(struct pci_dev *dev)
{
	for (size_t i = 0; i < ARRAY_SIZE(pci_cfg_header); i++)
		pci_cfg_writable(dev, pci_cfg_header[i].off, pci_cfg_header[i].size,
		    pci_cfg_header[i].writable);
	dev->cap_end = PCI_HEADER_SIZE;
}

/* --- For models --- */

uint32_t
pci_cfg_get(const struct pci_dev *dev, unsigned off, int size)
{
	uint32_t val = 0;

	assert(size <= 4 && off + (unsigned)size <= PCI_CFG_SIZE);
	memcpy(&val, dev->cfg + off, (size_t)size); /* little-endian, as the host */
	return val;
}

void
pci_cfg_set(struct pci_dev *dev, unsigned off, int size, uint32_t val)
{
	assert(size <= 4 && off + (unsigned)size <= PCI_CFG_SIZE);
	memcpy(dev->cfg + off, &val, (size_t)size);
}

void
pci_cfg_writable(struct pci_dev *dev, unsigned off, int size, uint32_t mask)
{
	assert(size <= 4 && off + (unsigned)size <= PCI_CFG_SIZE);
	memcpy(dev->writable + off, &mask, (size_t)size);
}

void
pci_id_set(struct pci_dev *dev, const struct pci_id *id)
{
	pci_cfg_set(dev, PCI_VENDOR, 2, id->vendor);
	pci_cfg_set(dev, PCI_DEVICE, 2, id->device);
	pci_cfg_set(dev, PCI_REVISION, 1, id->revision);
	pci_cfg_set(dev, PCI_PROG_IF, 1, id->prog_if);
	pci_cfg_set(dev, PCI_SUBCLASS, 1, id->subclass);
	pci_cfg_set(dev, PCI_CLASS, 1, id->class);
	pci_cfg_set(dev, PCI_SUBVENDOR, 2, id->subvendor);
	pci_cfg_set(dev, PCI_SUBDEVICE, 2, id->subdevice);
}

/* Reads a register of a device of the host's from sysfs. */
static int
pci_id_host(const char *host, const char *file, uint64_t *out)
{
	char path[96];
	unsigned val;
	FILE *f;
	int n;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/%s", host, file);
	f = fopen(path, "re");
	if (f == NULL)
		return -errno;
	n = fscanf(f, "%x", &val);
	fclose(f);
	if (n != 1)
		return -EIO;
	*out = val;
	return 0;
}

/* Registers that variables can set. */
static const struct pci_id_reg {
	const char *name, *file; /* of the variable, of sysfs */
	uint16_t max;
} pci_id_regs[] = {
	{ "vendor", "vendor", UINT16_MAX },
	{ "device", "device", UINT16_MAX },
	{ "revid", "revision", UINT8_MAX },
	{ "subvendor", "subsystem_vendor", UINT16_MAX },
	{ "subdevice", "subsystem_device", UINT16_MAX },
};

/* The value of a register's variable, -ENOENT when it is not set. "host" is read from the host's device,
 * or only accepted if host is NULL. */
static int
pci_id_value(const struct config *node, const char *path, const struct pci_id_reg *reg,
    const char *host, uint64_t *out)
{
	const char *above = config_path(node), *text = config_get(node, path);
	char who[128];
	int err;

	if (text == NULL)
		return -ENOENT;
	snprintf(who, sizeof(who), "%s%s%s", above, above[0] != '\0' ? "." : "", path);
	if (strcmp(text, "host") == 0) {
		err = host != NULL ? pci_id_host(host, reg->file, out) : 0;
		if (err == 0)
			return 0;
		log_error(who, "'host': cannot read it from the host's device %s: %s", host,
		    strerror(-err));
		return -EINVAL;
	}
	if (config_get_uint(node, path, out) == 0 && *out <= reg->max)
		return 0;
	log_error(who, "'%.32s': expected 0 to 0x%x, or host", text, (unsigned)reg->max);
	return -EINVAL;
}

int
pci_id_check(const struct config *root, const char *path)
{
	const char *dot = strrchr(path, '.');
	uint64_t val;

	for (size_t i = 0; dot != NULL && i < ARRAY_SIZE(pci_id_regs); i++) {
		if (strcmp(dot + 1, pci_id_regs[i].name) == 0)
			return pci_id_value(root, path, &pci_id_regs[i], NULL, &val);
	}
	log_error(path, "expected vendor, device, revid, subvendor or subdevice of a pcireg");
	return -EINVAL;
}

int
pci_id_config(struct pci_id *id, const struct config *node, const char *prefix, const char *host)
{
	uint16_t revision = id->revision;
	uint16_t *const field[ARRAY_SIZE(pci_id_regs)] = { &id->vendor, &id->device, &revision,
		&id->subvendor, &id->subdevice };

	for (size_t i = 0; node != NULL && i < ARRAY_SIZE(pci_id_regs); i++) {
		const struct pci_id_reg *reg = &pci_id_regs[i];
		char path[64];
		uint64_t val;
		int err;

		snprintf(path, sizeof(path), "%s.%s", prefix, reg->name);
		err = pci_id_value(node, path, reg, host, &val);
		if (err == 0)
			*field[i] = (uint16_t)val;
		else if (err != -ENOENT)
			return err;
	}
	id->revision = (uint8_t)revision;
	return 0;
}

unsigned
pci_cap_add(struct pci_dev *dev, uint8_t id, unsigned len)
{
	unsigned at = ALIGN_UP(dev->cap_end, 4u);

	assert(len >= 2 && at + len <= PCI_CFG_SIZE);
	if (dev->cap_last == 0) {
		pci_cfg_set(dev, PCI_CAPS, 1, at);
		pci_cfg_set(dev, PCI_STATUS, 2, pci_cfg_get(dev, PCI_STATUS, 2) | PCI_STATUS_CAPS);
	} else {
		pci_cfg_set(dev, dev->cap_last + 1, 1, at);
	}
	pci_cfg_set(dev, at, 1, id);
	dev->cap_last = at;
	dev->cap_end = at + len;
	return at;
}

void
pci_express_add(struct pci_dev *dev)
{
	uint32_t devcap = PCI_EXPRESS_DEVCAP_ROLE_ERRORS;
	unsigned at = pci_cap_add(dev, PCI_EXPRESS_ID, PCI_EXPRESS_SIZE);

	if (dev->ops->reset != NULL)
		devcap |= PCI_EXPRESS_DEVCAP_FLR;
	pci_cfg_set(dev, at + PCI_EXPRESS_CAP, 2,
	    PCI_EXPRESS_CAP_VERSION | PCI_EXPRESS_CAP_ENDPOINT);
	pci_cfg_set(dev, at + PCI_EXPRESS_DEVCAP, 4, devcap);
	pci_cfg_set(dev, at + PCI_EXPRESS_DEVCTL, 2, PCI_EXPRESS_DEVCTL_DEFAULT);
	pci_cfg_writable(dev, at + PCI_EXPRESS_DEVCTL, 2, PCI_EXPRESS_DEVCTL_WRITABLE);
	dev->express = at;
}

/* --- Guest access --- */

void
pci_cfg_apply(struct pci_dev *dev)
{
	uint32_t command = pci_cfg_get(dev, PCI_COMMAND, 2);

	pci_bars_apply(dev);
	pthread_mutex_lock(&dev->irq_lock);
	dev->master = command & PCI_COMMAND_MASTER;
	dev->intx.off = command & PCI_COMMAND_INTX_OFF;
	pci_msi_apply(dev);
	pci_msix_apply(dev);
	pci_intx_apply(dev);
	pthread_mutex_unlock(&dev->irq_lock);
}

/* Function-level reset (PCIe 3.0, 6.6.2). */
static void
pci_cfg_reset(struct pci_dev *dev)
{
	pthread_mutex_lock(&dev->irq_lock);
	pci_msi_reset(dev);
	pci_msix_reset(dev);
	pci_intx_reset(dev);
	pthread_mutex_unlock(&dev->irq_lock);
	memcpy(dev->cfg, dev->initial, sizeof(dev->cfg));
	pci_cfg_apply(dev);
	dev->ops->reset(dev);
}

/* Whether a write sets the reset bit, which always reads as 0. */
static bool
pci_cfg_is_reset(const struct pci_dev *dev, unsigned off, int size, uint32_t val)
{
	unsigned bit = dev->express + PCI_EXPRESS_DEVCTL + 1; /* the byte the bit is in */

	return dev->express != 0 && dev->ops->reset != NULL && bit - off < (unsigned)size &&
	    (val >> (8 * (bit - off)) & (PCI_EXPRESS_DEVCTL_FLR >> 8)) != 0;
}

/* Puts what changes by itself into configuration space. */
static void
pci_cfg_refresh(struct pci_dev *dev)
{
	uint32_t status = pci_cfg_get(dev, PCI_STATUS, 2) & ~PCI_STATUS_INTX;

	pthread_mutex_lock(&dev->irq_lock);
	if (dev->intx.level)
		status |= PCI_STATUS_INTX;
	pci_msi_apply(dev);
	pthread_mutex_unlock(&dev->irq_lock);
	pci_cfg_set(dev, PCI_STATUS, 2, status);
}

uint32_t
pci_cfg_read(struct pci_dev *dev, unsigned off, int size)
{
	uint32_t val = 0;

	pci_lock(dev);
	pci_cfg_refresh(dev);
	if ((dev->ops->cfg_read == NULL || !dev->ops->cfg_read(dev, off, size, &val)) &&
	    off < PCI_CFG_SIZE)
		val = pci_cfg_get(dev, off, size);
	pci_unlock(dev);
	return val;
}

void
pci_cfg_write(struct pci_dev *dev, unsigned off, int size, uint32_t val)
{
	pci_lock(dev);
	if ((dev->ops->cfg_write == NULL || !dev->ops->cfg_write(dev, off, size, val)) &&
	    off < PCI_CFG_SIZE) {
		uint32_t mask = 0;

		memcpy(&mask, dev->writable + off, (size_t)size);
		pci_cfg_set(dev, off, size, (pci_cfg_get(dev, off, size) & ~mask) | (val & mask));
		if (pci_cfg_is_reset(dev, off, size, val))
			pci_cfg_reset(dev);
		else
			pci_cfg_apply(dev);
	}
	pci_unlock(dev);
}
