/*
 * AHCI controllers: ahci, ahci-hd and ahci-cd (Serial ATA AHCI 1.3.1). This file has the PCI
 * function and the registers of the HBA; ahci_port.c those of its ports, ahci_cmd.c the command
 * list, ahci_dma.c the data, ahci_cd.c the media of CD-ROM drives. What the drives are is in ata.h.
 *
 * Not there: port multipliers, command completion coalescing, enclosure management, BIOS handoff.
 */
#include "storage/ahci_impl.h"

#include "base/config.h"
#include "base/fnv.h"
#include "base/log.h"
#include "pci/pci_models.h"
#include "vm/state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Interrupts --- */

/* irq_lock held. A message is sent when something came that the driver has not seen: MSI has one
 * vector for all ports (10.6.2.1). */
static void
ahci_irq_apply(struct ahci *hba, bool news)
{
	bool on = hba->is != 0 && (hba->ghc & AHCI_GHC_IE) != 0;

	pci_intx_set(hba->pci, on);
	if (on && news)
		pci_msi_send(hba->pci, 0);
}

void
ahci_irq_update(struct ahci_port *port)
{
	struct ahci *hba = port->hba;
	uint32_t bit = BIT(port->index);
	bool wants = (ahci_port_read(port, AHCI_PX_IS) & port->ie) != 0, news;

	pthread_mutex_lock(&hba->irq_lock);
	news = wants && (hba->is & bit) == 0;
	hba->pending = wants ? hba->pending | bit : hba->pending & ~bit;
	if (news) {
		hba->is |= bit;
		ahci_irq_apply(hba, true);
	}
	pthread_mutex_unlock(&hba->irq_lock);
}

/* --- Registers --- */

/* Calls fn for each port that is there, its lock held. */
static void
ahci_ports_each(struct ahci *hba, void (*fn)(struct ahci_port *port))
{
	for (int i = 0; i < AHCI_PORTS; i++) {
		struct ahci_port *port = &hba->port[i];

		if (!port->present)
			continue;
		pthread_mutex_lock(&port->lock);
		fn(port);
		pthread_mutex_unlock(&port->lock);
	}
}

static uint32_t
ahci_ghc_read(struct ahci *hba)
{
	return hba->ghc | (atomic_load(&hba->resetting) != 0 ? AHCI_GHC_HR : 0);
}

static void
ahci_hba_defaults(struct ahci *hba)
{
	pthread_mutex_lock(&hba->irq_lock);
	hba->ghc = AHCI_GHC_AE;
	hba->is = 0;
	hba->pending = 0;
	ahci_irq_apply(hba, false);
	pthread_mutex_unlock(&hba->irq_lock);
}

static void
ahci_ghc_write(struct ahci *hba, uint32_t val)
{
	if ((val & AHCI_GHC_HR) != 0 && atomic_load(&hba->resetting) == 0) {
		ahci_ports_each(hba, ahci_port_hba_reset);
		ahci_hba_defaults(hba);
		return;
	}
	pthread_mutex_lock(&hba->irq_lock);
	hba->ghc = AHCI_GHC_AE | (val & AHCI_GHC_IE);
	ahci_irq_apply(hba, true);
	pthread_mutex_unlock(&hba->irq_lock);
}

/* A bit is set again at once while its port still has something to say. */
static void
ahci_is_write(struct ahci *hba, uint32_t val)
{
	pthread_mutex_lock(&hba->irq_lock);
	hba->is = (hba->is & ~val) | hba->pending;
	ahci_irq_apply(hba, true);
	pthread_mutex_unlock(&hba->irq_lock);
}

/* The port whose register is at off, or NULL. */
static struct ahci_port *
ahci_port_at(struct ahci *hba, uint64_t off)
{
	uint64_t i = (off - AHCI_PORT_BASE) / AHCI_PORT_SIZE;

	if (off < AHCI_PORT_BASE || i >= AHCI_PORTS || !hba->port[i].present)
		return NULL;
	return &hba->port[i];
}

static uint32_t
ahci_read32(struct ahci *hba, uint64_t off)
{
	struct ahci_port *port = ahci_port_at(hba, off);
	uint32_t val = 0;

	if (port != NULL) {
		pthread_mutex_lock(&port->lock);
		val = ahci_port_read(port, off % AHCI_PORT_SIZE);
		pthread_mutex_unlock(&port->lock);
		return val;
	}
	pthread_mutex_lock(&hba->irq_lock);
	switch (off) {
	case AHCI_CAP: val = hba->cap; break;
	case AHCI_GHC: val = ahci_ghc_read(hba); break;
	case AHCI_IS: val = hba->is; break;
	case AHCI_PI: val = hba->pi; break;
	case AHCI_VS: val = AHCI_VS_1_3_1; break;
	default: break;
	}
	pthread_mutex_unlock(&hba->irq_lock);
	return val;
}

static void
ahci_write32(struct ahci *hba, uint64_t off, uint32_t val)
{
	struct ahci_port *port = ahci_port_at(hba, off);

	if (port != NULL) {
		pthread_mutex_lock(&port->lock);
		ahci_port_write(port, off % AHCI_PORT_SIZE, val);
		pthread_mutex_unlock(&port->lock);
	} else if (off == AHCI_GHC) {
		ahci_ghc_write(hba, val);
	} else if (off == AHCI_IS) {
		ahci_is_write(hba, val);
	}
}

static uint64_t
ahci_bar_read(struct pci_dev *dev, int bar, uint64_t off, int size)
{
	struct ahci *hba = pci_priv(dev);
	uint64_t at = off & ~3ull, val = ahci_read32(hba, at) >> (8 * (off & 3));

	if (size == 8)
		val |= (uint64_t)ahci_read32(hba, at + 4) << 32;
	return val;
}

/* Whether writing a zero bit to a register leaves the bit as it is. */
static bool
ahci_keeps_zeros(uint64_t off)
{
	uint64_t reg = off < AHCI_PORT_BASE ? UINT64_MAX : off % AHCI_PORT_SIZE;

	return off == AHCI_IS || reg == AHCI_PX_IS || reg == AHCI_PX_SERR || reg == AHCI_PX_SACT ||
	       reg == AHCI_PX_CI;
}

static void
ahci_bar_write(struct pci_dev *dev, int bar, uint64_t off, int size, uint64_t val)
{
	struct ahci *hba = pci_priv(dev);
	uint64_t at = off & ~3ull;
	unsigned shift = 8 * (unsigned)(off & 3);
	uint32_t mask;

	if (size < 4) {
		/* Registers are dwords (3, "Register Conventions"); a part of one is merged. */
		mask = ((1u << (8 * size)) - 1) << shift;
		val = ((uint32_t)val << shift) & mask;
		if (!ahci_keeps_zeros(at))
			val |= ahci_read32(hba, at) & ~mask;
	}
	ahci_write32(hba, at, (uint32_t)val);
	if (size == 8)
		ahci_write32(hba, at + 4, (uint32_t)(val >> 32));
}

/* Function-level reset. */
static void
ahci_reset(struct pci_dev *dev)
{
	struct ahci *hba = pci_priv(dev);

	ahci_ports_each(hba, ahci_port_power_reset);
	ahci_hba_defaults(hba);
}

/* --- Configuration --- */

/* A text of the IDENTIFY data, padded with spaces. */
static int
ahci_text(const struct ahci_port *port, const struct config *cfg, const char *name, const char *def,
    char *out, size_t size)
{
	const char *text = config_get_default(cfg, name, def);
	size_t len = strlen(text);

	for (size_t i = 0; i < len; i++) {
		if (text[i] < ' ' || text[i] > '~')
			len = size + 1;
	}
	if (len > size) {
		log_error(port->name, "%s=%s: expected at most %zu characters of ASCII", name, text,
		    size);
		return -EINVAL;
	}
	memset(out, ' ', size);
	memcpy(out, text, len);
	return 0;
}

/* A serial number of what the drive is made of, the same each time. */
static void
ahci_serial(const struct ahci_port *port, const struct config *cfg, char out[21])
{
	uint64_t hash = fnv_add(FNV_START, config_get_default(cfg, "path", ""));

	hash = fnv_add(hash, port->name);
	snprintf(out, 21, "BHYVE-%04X-%04X-%04X", (unsigned)(hash & UINT16_MAX),
	    (unsigned)(hash >> 16 & UINT16_MAX), (unsigned)(hash >> 32 & UINT16_MAX));
}

static int
ahci_identity(struct ahci_port *port, const struct config *cfg)
{
	struct ata_identity *id = &port->dev.id;
	const char *model = port->dev.packet ? "BHYVE SATA DVD ROM" : "BHYVE SATA DISK";
	uint64_t rotation = 1;
	char serial[21];
	int err;

	ahci_serial(port, cfg, serial);
	err = config_get_uint(cfg, "nmrr", &rotation);
	if ((err != 0 && err != -ENOENT) || rotation > 0xfffe) {
		log_error(port->name,
		    "nmrr=%s: expected rotations a minute, 1 for none, 0 to 65534",
		    config_get(cfg, "nmrr"));
		return -EINVAL;
	}
	id->rotation = (uint16_t)rotation;
	err = ahci_text(port, cfg, "ser", serial, id->serial, sizeof(id->serial));
	if (err == 0)
		err = ahci_text(port, cfg, "rev", "001", id->revision, sizeof(id->revision));
	if (err == 0)
		err = ahci_text(port, cfg, "model", model, id->model, sizeof(id->model));
	return err;
}

/* type: NULL where the port's own variable says it. */
static int
ahci_port_create(struct ahci *hba, int index, const struct config *cfg, const char *type)
{
	struct ahci_port *port = &hba->port[index];
	int err;

	port->hba = hba;
	port->index = index;
	port->dev.loop = vm_loop(hba->vm);
	snprintf(port->name, sizeof(port->name), "%s.port.%d", pci_name(hba->pci), index);
	type = config_get_default(cfg, "type", type);
	if (type == NULL || (strcmp(type, "hd") != 0 && strcmp(type, "cd") != 0)) {
		log_error(port->name, "type=%s: expected hd or cd", type != NULL ? type : "");
		return -EINVAL;
	}
	port->dev.packet = type[0] == 'c';
	err = ahci_identity(port, cfg);
	if (err != 0)
		return err;
	err = port->dev.packet ? ahci_cd_create(port, cfg)
			       : block_open(vm_loop(hba->vm), cfg, port->name, &port->dev.disk);
	if (err != 0)
		return err;
	err = ahci_port_init(port);
	if (err != 0) {
		log_error(port->name, "out of memory");
		block_close(port->dev.disk);
		if (port->dev.packet)
			ahci_cd_destroy(port);
		return err;
	}
	port->present = true;
	hba->pi |= BIT(index);
	return 0;
}

struct ahci_ports {
	struct ahci *hba;
	const char *type;
};

static int
ahci_ports_walk(void *arg, const char *name, const char *value, struct config *child)
{
	const struct ahci_ports *ports = arg;

	if (child == NULL || name[0] < '0' || name[0] >= '0' + AHCI_PORTS || name[1] != '\0') {
		log_error(pci_name(ports->hba->pci), "port.%s: expected port.0 to port.%d", name,
		    AHCI_PORTS - 1);
		return -EINVAL;
	}
	return ahci_port_create(ports->hba, name[0] - '0', child, ports->type);
}

static void
ahci_destroy(struct pci_dev *dev)
{
	struct ahci *hba = pci_priv(dev);

	for (int i = 0; i < AHCI_PORTS; i++) {
		struct ahci_port *port = &hba->port[i];

		if (!port->present)
			continue;
		block_close(port->dev.disk);
		if (port->dev.packet)
			ahci_cd_destroy(port);
		ahci_port_destroy(port);
	}
	pthread_mutex_destroy(&hba->irq_lock);
	free(hba);
}

static void
ahci_pci_setup(struct ahci *hba)
{
	static const struct pci_id id = {
		.vendor = 0x8086, .device = 0x2821, .class = 0x01, .subclass = 0x06, .prog_if = 0x01
	};
	uint32_t ports = 32 - (uint32_t)__builtin_clz(hba->pi);

	hba->cap = AHCI_CAP_S64A | AHCI_CAP_SNCQ | AHCI_CAP_SSS | AHCI_CAP_SALP | AHCI_CAP_SCLO |
		   AHCI_CAP_ISS_GEN3 | AHCI_CAP_SAM | AHCI_CAP_PMD | AHCI_CAP_SSC | AHCI_CAP_PSC |
		   AHCI_CAP_NCS | (ports - 1);
	pci_id_set(hba->pci, &id);
	pci_bar_add(hba->pci, AHCI_BAR, PCI_BAR_MEM32, AHCI_BAR_SIZE, false);
	pci_msi_add(hba->pci, 1);
	pci_express_add(hba->pci);
	pci_intx_add(hba->pci);
}

static int
ahci_create_type(struct pci_dev *dev, const struct config *cfg, const char *type)
{
	const struct config *ports_cfg = config_find(cfg, "port");
	struct ahci *hba = calloc(1, sizeof(*hba));
	struct ahci_ports ports = { hba, type };
	int err = 0;

	if (hba == NULL) {
		log_error(pci_name(dev), "out of memory");
		return -ENOMEM;
	}
	hba->pci = dev;
	hba->vm = pci_vm(dev);
	hba->ghc = AHCI_GHC_AE;
	pthread_mutex_init(&hba->irq_lock, NULL);
	pci_priv_set(dev, hba);
	if (ports_cfg != NULL)
		err = config_walk(ports_cfg, ahci_ports_walk, &ports);
	/* A CD-ROM drive needs no medium, and no variables then. */
	if (err == 0 && hba->pi == 0 && type != NULL)
		err = ahci_port_create(hba, 0, cfg, type);
	if (err == 0 && hba->pi == 0) {
		log_error(pci_name(dev), "expected a disk or CD-ROM drive: port.0.path");
		err = -EINVAL;
	}
	if (err != 0) {
		ahci_destroy(dev);
		return err;
	}
	ahci_pci_setup(hba);
	return 0;
}

static int
ahci_create(struct pci_dev *dev, const struct config *cfg)
{
	return ahci_create_type(dev, cfg, NULL);
}

static int
ahci_hd_create(struct pci_dev *dev, const struct config *cfg)
{
	return ahci_create_type(dev, cfg, "hd");
}

static int
ahci_cd_model_create(struct pci_dev *dev, const struct config *cfg)
{
	return ahci_create_type(dev, cfg, "cd");
}

/* --- Saving --- */

static void
ahci_port_loaded(struct ahci_port *port)
{
	ahci_irq_update(port);
	ahci_port_kick(port);
}

static void
ahci_loaded(struct ahci *hba)
{
	ahci_ports_each(hba, ahci_port_loaded);
	pthread_mutex_lock(&hba->irq_lock);
	ahci_irq_apply(hba, false);
	pthread_mutex_unlock(&hba->irq_lock);
}

static int
ahci_state(struct pci_dev *dev, struct vm_state *s)
{
	struct ahci *hba = pci_priv(dev);
	uint32_t pi = hba->pi;
	int err;

	vm_state_section(s, "ahci", pci_devfn(dev), 1);
	vm_state_u32(s, &pi);
	if (pi != hba->pi)
		vm_state_reject(s, "a controller with other ports");
	vm_state_u32(s, &hba->ghc);
	vm_state_u32(s, &hba->is);
	for (int i = 0; i < AHCI_PORTS && vm_state_error(s) == 0; i++) {
		struct ahci_port *port = &hba->port[i];

		if (!port->present)
			continue;
		/* No vCPU runs, so nothing comes after it. */
		if (port->dev.disk != NULL)
			block_drain(port->dev.disk);
		ahci_port_state(port, s);
		if (port->dev.packet)
			ahci_cd_state(port, s);
	}
	hba->ghc = AHCI_GHC_AE | (hba->ghc & AHCI_GHC_IE);
	hba->is &= hba->pi;
	err = vm_state_end(s);
	if (err == 0 && vm_state_loading(s))
		ahci_loaded(hba);
	return err;
}

/* --- Models --- */

static const char *const ahci_vars[] = { "port.N.type", BLOCK_VARS_AT("port.N."), "port.N.nmrr",
	"port.N.ser", "port.N.rev", "port.N.model", NULL };

#define AHCI_MODEL(model, make)                                                                    \
	{                                                                                          \
		.name = model, .vars = ahci_vars, .create = make, .destroy = ahci_destroy,         \
		.bar_read = ahci_bar_read, .bar_write = ahci_bar_write, .reset = ahci_reset,       \
		.state = ahci_state,                                                               \
	}

const struct pci_dev_ops ahci_ops = AHCI_MODEL("ahci", ahci_create);
const struct pci_dev_ops ahci_hd_ops = AHCI_MODEL("ahci-hd", ahci_hd_create);
const struct pci_dev_ops ahci_cd_ops = AHCI_MODEL("ahci-cd", ahci_cd_model_create);
