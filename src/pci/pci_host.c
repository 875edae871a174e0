/*
 * The bus: configuration access, and making devices from the configuration.
 */
#include "pci/pci_private.h"

#include "base/config.h"
#include "base/log.h"
#include "vm/mem.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Configuration mechanism #1 (PCI 3.0, 3.2.2.3.2) */
#define PCI_PORTS 0xcf8
#define PCI_PORTS_SIZE 8
#define PCI_PORTS_DATA 4 /* offset of CONFIG_DATA */
#define PCI_ADDRESS_ENABLE BIT(31)
#define PCI_ADDRESS_BUS(a) ((a) >> 16 & 0xff)
#define PCI_ADDRESS_DEVFN(a) ((a) >> 8 & 0xff)
#define PCI_ADDRESS_REG(a) ((a) & 0xfc)
#define PCI_ADDRESS_WRITABLE 0x80fffffcu

/* ECAM (PCIe 3.0, table 7-1) */
#define PCI_ECAM_BUS(off) ((unsigned)((off) >> 20))
#define PCI_ECAM_DEVFN(off) ((off) >> 12 & 0xff)
#define PCI_ECAM_REG(off) ((unsigned)((off) & 0xfff))

#define PCI_MEM32_BASE 0xc0000000u
/* The window above RAM starts at a multiple of its size, so that large BARs fit. */
#define PCI_MEM64_SIZE GIB(32)

/* --- Configuration access --- */

/* The function at an address, or NULL. */
static struct pci_dev *
pci_address_find(const struct pci *pci, unsigned bus, unsigned devfn)
{
	return bus == 0 ? pci->dev[devfn] : NULL;
}

static uint64_t
pci_function_read(struct pci_dev *dev, unsigned reg, int size)
{
	return dev != NULL ? pci_cfg_read(dev, reg, size) : UINT64_MAX;
}

static void
pci_function_write(struct pci_dev *dev, unsigned reg, int size, uint64_t val)
{
	if (dev != NULL)
		pci_cfg_write(dev, reg, size, (uint32_t)val);
}

static struct pci_dev *
pci_ports_find(const struct pci *pci, uint32_t address)
{
	if (!(address & PCI_ADDRESS_ENABLE))
		return NULL;
	return pci_address_find(pci, PCI_ADDRESS_BUS(address), PCI_ADDRESS_DEVFN(address));
}

/* CONFIG_ADDRESS is a double word; whatever is smaller goes to other registers at the same
 * ports. */
static uint64_t
pci_ports_other_read(const struct pci *pci, uint64_t off, int size)
{
	if (size != 1 || pci->params.port_read == NULL)
		return UINT64_MAX;
	return pci->params.port_read(pci->params.ctx, (uint16_t)(PCI_PORTS + off));
}

static void
pci_ports_other_write(const struct pci *pci, uint64_t off, int size, uint64_t val)
{
	if (size == 1 && pci->params.port_write != NULL)
		pci->params.port_write(pci->params.ctx, (uint16_t)(PCI_PORTS + off), (uint8_t)val);
}

static uint64_t
pci_ports_read(void *ctx, uint64_t off, int size)
{
	struct pci *pci = ctx;
	uint32_t address = atomic_load(&pci->address);

	if (off >= PCI_PORTS_DATA)
		return pci_function_read(pci_ports_find(pci, address),
		    PCI_ADDRESS_REG(address) + (unsigned)(off - PCI_PORTS_DATA), size);
	return size == 4 ? address : pci_ports_other_read(pci, off, size);
}

static void
pci_ports_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct pci *pci = ctx;
	uint32_t address = atomic_load(&pci->address);

	if (off >= PCI_PORTS_DATA)
		pci_function_write(pci_ports_find(pci, address),
		    PCI_ADDRESS_REG(address) + (unsigned)(off - PCI_PORTS_DATA), size, val);
	else if (size == 4)
		atomic_store(&pci->address, (uint32_t)val & PCI_ADDRESS_WRITABLE);
	else
		pci_ports_other_write(pci, off, size, val);
}

static uint64_t
pci_ecam_read(void *ctx, uint64_t off, int size)
{
	return pci_function_read(pci_address_find(ctx, PCI_ECAM_BUS(off), PCI_ECAM_DEVFN(off)),
	    PCI_ECAM_REG(off), size);
}

static void
pci_ecam_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	pci_function_write(pci_address_find(ctx, PCI_ECAM_BUS(off), PCI_ECAM_DEVFN(off)),
	    PCI_ECAM_REG(off), size, val);
}

static const struct vm_range_ops pci_ports_ops = { "pci configuration", pci_ports_read,
	pci_ports_write, 1, 4 };
static const struct vm_range_ops pci_ecam_ops = { "pci configuration", pci_ecam_read,
	pci_ecam_write, 1, 4 };

/* --- What models ask --- */

const char *
pci_name(const struct pci_dev *dev)
{
	return dev->name;
}

struct vm *
pci_vm(const struct pci_dev *dev)
{
	return dev->pci->vm;
}

int
pci_slot(const struct pci_dev *dev)
{
	return dev->slot;
}

int
pci_function(const struct pci_dev *dev)
{
	return dev->function;
}

int
pci_devfn(const struct pci_dev *dev)
{
	return dev->slot * PCI_FUNCTIONS + dev->function;
}

void *
pci_priv(const struct pci_dev *dev)
{
	return dev->priv;
}

void
pci_priv_set(struct pci_dev *dev, void *priv)
{
	dev->priv = priv;
}

void
pci_lock(struct pci_dev *dev)
{
	pthread_mutex_lock(&dev->lock);
}

void
pci_unlock(struct pci_dev *dev)
{
	pthread_mutex_unlock(&dev->lock);
}

bool
pci_is_bus_master(struct pci_dev *dev)
{
	bool master;

	pthread_mutex_lock(&dev->irq_lock);
	master = dev->master;
	pthread_mutex_unlock(&dev->irq_lock);
	return master;
}

int
pci_isa_bridge_register(struct pci_dev *dev)
{
	struct pci_layout *layout = &dev->pci->layout;

	/* The tables have a place for it as function 0 only (ACPI 6.4, 6.1.1). */
	if (layout->isa_slot >= 0 || dev->function != 0)
		return -EEXIST;
	layout->isa_slot = dev->slot;
	return 0;
}

/* --- State --- */

static int
pci_dev_state(void *ctx, struct vm_state *s)
{
	struct pci_dev *dev = ctx;
	uint8_t cfg[PCI_CFG_SIZE];
	int err;

	memcpy(cfg, dev->cfg, sizeof(cfg));
	vm_state_section(s, "pci function", pci_devfn(dev), 1);
	vm_state_bytes(s, cfg, sizeof(cfg));
	vm_state_u32(s, &dev->msi.pending);
	vm_state_bool(s, &dev->intx.level);
	pci_msix_state(dev, s);
	err = vm_state_end(s);
	if (err == 0 && vm_state_loading(s)) {
		pci_lock(dev);
		for (int i = 0; i < PCI_CFG_SIZE; i++)
			dev->cfg[i] = (uint8_t)((dev->cfg[i] & ~dev->writable[i]) |
			    (cfg[i] & dev->writable[i]));
		pci_cfg_apply(dev);
		pci_unlock(dev);
	}
	if (err == 0 && dev->ops->state != NULL)
		err = dev->ops->state(dev, s);
	return err;
}

static int
pci_state(void *ctx, struct vm_state *s)
{
	struct pci *pci = ctx;
	uint32_t address = atomic_load(&pci->address);

	vm_state_section(s, "pci", 0, 1);
	vm_state_u32(s, &address);
	pci_pirq_state(pci, s);
	atomic_store(&pci->address, address & PCI_ADDRESS_WRITABLE);
	return vm_state_end(s);
}

/* --- Devices --- */

static struct pci_dev **
pci_slot_of(struct pci *pci, int slot, int function)
{
	return &pci->dev[slot * PCI_FUNCTIONS + function];
}

struct pci_dev *
pci_find(const struct pci *pci, int slot, int function)
{
	return pci->dev[slot * PCI_FUNCTIONS + function];
}

static void
pci_dev_free(struct pci_dev *dev)
{
	pci_msix_destroy(dev);
	pthread_mutex_destroy(&dev->irq_lock);
	pthread_mutex_destroy(&dev->lock);
	free(dev);
}

static void
pci_dev_destroy(struct pci_dev *dev)
{
	pci_bars_destroy(dev);
	if (dev->ops->destroy != NULL)
		dev->ops->destroy(dev);
	pci_dev_free(dev);
}

static int
pci_dev_create(struct pci *pci, const struct pci_dev_ops *ops, int slot, int function,
    const struct config *cfg)
{
	struct pci_dev *dev = calloc(1, sizeof(*dev));
	int err;

	if (dev == NULL) {
		log_error(ops->name, "out of memory");
		return -ENOMEM;
	}
	dev->pci = pci;
	dev->ops = ops;
	dev->slot = slot;
	dev->function = function;
	dev->intx.pirq = -1;
	snprintf(dev->name, sizeof(dev->name), "pci.0.%d.%d", slot, function);
	pthread_mutex_init(&dev->lock, NULL);
	pthread_mutex_init(&dev->irq_lock, NULL);
	pci_cfg_init(dev);
	err = ops->create(dev, cfg);
	if (err != 0) {
		pci_bars_destroy(dev);
		pci_dev_free(dev);
		return err;
	}
	err = pci_msix_init(dev);
	if (err == 0)
		err = vm_state_register(pci->vm, pci_dev_state, dev);
	if (err != 0) {
		log_error(dev->name, "cannot be made: %s", strerror(-err));
		pci_dev_destroy(dev);
		return err;
	}
	*pci_slot_of(pci, slot, function) = dev;
	return 0;
}

/* Makes the device that the configuration has in this slot, if it has one. */
static int
pci_slot_create(struct pci *pci, int slot, int function)
{
	const struct pci_dev_ops *ops;
	const struct config *cfg;
	const char *model;
	char path[32];

	snprintf(path, sizeof(path), "pci.0.%d.%d", slot, function);
	cfg = config_find(vm_config(pci->vm), path);
	if (cfg == NULL)
		return 0;
	model = config_get_default(cfg, "device", "");
	ops = pci_model_find(model);
	if (ops == NULL) {
		log_error(path, "'%.64s' is no device: see -s help", model);
		return -EINVAL;
	}
	/* Systems look at function 0 first, and no further when it is missing (PCI 3.0, 6.2.1). */
	if (function > 0 && pci_find(pci, slot, 0) == NULL) {
		log_error(path, "no guest can find it: expected a device at pci.0.%d.0 too", slot);
		return -EINVAL;
	}
	return pci_dev_create(pci, ops, slot, function, cfg);
}

static int
pci_slots_create(struct pci *pci)
{
	const struct config *root = vm_config(pci->vm);
	int err = 0;

	if (root == NULL || config_find(root, "pci") == NULL) {
		pci->empty = config_create();
		if (pci->empty == NULL) {
			log_error("pci", "out of memory");
			return -ENOMEM;
		}
		err = pci_dev_create(pci, pci_model_find("hostbridge"), 0, 0, pci->empty);
		return err == 0 ? pci_dev_create(pci, pci_model_find("lpc"), PCI_SLOTS - 1, 0,
		    pci->empty) : err;
	}
	for (int i = 0; err == 0 && i < PCI_SLOTS * PCI_FUNCTIONS; i++)
		err = pci_slot_create(pci, i / PCI_FUNCTIONS, i % PCI_FUNCTIONS);
	return err;
}

/* --- Firmware --- */

static void
pci_layout_init(struct pci *pci)
{
	uint64_t top = VM_HIGHMEM_BASE + vm_mem_high(pci->vm);
	uint64_t base = ALIGN_UP(top, PCI_MEM64_SIZE);

	pci->layout.isa_slot = -1;
	pci->layout.mem32 = (struct pci_window){ PCI_MEM32_BASE, PCI_ECAM_BASE - 1 };
	if (base + PCI_MEM64_SIZE <= BIT64(pci->params.phys_bits))
		pci->layout.mem64 = (struct pci_window){ base, base + PCI_MEM64_SIZE - 1 };
}

/* Says in function 0 of each slot whether there are others (PCI 3.0, 6.2.1). */
static void
pci_functions_mark(struct pci *pci)
{
	for (int i = 0; i < PCI_SLOTS * PCI_FUNCTIONS; i++) {
		struct pci_dev *first = pci_find(pci, i / PCI_FUNCTIONS, 0);

		if (i % PCI_FUNCTIONS != 0 && pci->dev[i] != NULL)
			pci_cfg_set(first, PCI_HEADER_TYPE, 1, PCI_HEADER_MULTI);
	}
}

static int
pci_power_on(struct pci *pci)
{
	pci_functions_mark(pci);
	for (size_t i = 0; i < ARRAY_SIZE(pci->dev); i++) {
		if (pci->dev[i] != NULL)
			memcpy(pci->dev[i]->initial, pci->dev[i]->cfg, PCI_CFG_SIZE);
	}
	pci_pirq_assign(pci);
	return pci_bars_assign(pci);
}

/* --- The whole --- */

static int
pci_bus_create(struct pci *pci)
{
	int err;

	pci->ports = (struct vm_range){ .ops = &pci_ports_ops, .ctx = pci, .space = VM_PIO,
		.base = PCI_PORTS, .size = PCI_PORTS_SIZE };
	pci->ecam = (struct vm_range){ .ops = &pci_ecam_ops, .ctx = pci, .space = VM_MMIO,
		.base = PCI_ECAM_BASE, .size = PCI_ECAM_SIZE };
	err = vm_range_add(pci->vm, &pci->ports);
	if (err == 0)
		err = vm_range_add(pci->vm, &pci->ecam);
	if (err == 0)
		err = vm_state_register(pci->vm, pci_state, pci);
	if (err != 0)
		log_error("pci", "cannot be made: %s", strerror(-err));
	return err;
}

int
pci_create(struct vm *vm, const struct pci_params *params, struct pci **out)
{
	struct pci *pci = calloc(1, sizeof(*pci));
	int err;

	if (pci == NULL) {
		log_error("pci", "out of memory");
		return -ENOMEM;
	}
	pci->vm = vm;
	pci->params = *params;
	pthread_mutex_init(&pci->map_lock, NULL);
	pthread_mutex_init(&pci->pirq_lock, NULL);
	pci_layout_init(pci);
	err = pci_bus_create(pci);
	if (err == 0)
		err = pci_slots_create(pci);
	if (err == 0)
		err = pci_power_on(pci);
	if (err != 0) {
		pci_destroy(pci);
		return err;
	}
	*out = pci;
	return 0;
}

void
pci_destroy(struct pci *pci)
{
	if (pci == NULL)
		return;
	for (size_t i = ARRAY_SIZE(pci->dev); i-- > 0;) {
		if (pci->dev[i] != NULL)
			pci_dev_destroy(pci->dev[i]);
	}
	/* A range that was not added is not found. */
	vm_range_remove(pci->vm, &pci->ports);
	vm_range_remove(pci->vm, &pci->ecam);
	config_destroy(pci->empty);
	pthread_mutex_destroy(&pci->map_lock);
	pthread_mutex_destroy(&pci->pirq_lock);
	free(pci);
}

const struct pci_layout *
pci_layout(const struct pci *pci)
{
	return &pci->layout;
}
