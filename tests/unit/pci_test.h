/*
 * For tests of the PCI bus: a machine with a bus, whose interrupt lines and messages are recorded,
 * and a device model, "probe", that has one of everything and notes what reaches it. A test program
 * is linked with the table of models below in place of the real one.
 *
 *	struct pci_test t;
 *	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
 *	cfg_write(&t, 3, PCI_COMMAND, 2, 7);
 *	...
 *	pci_test_done(&t);
 */
#ifndef PCI_TEST_H
#define PCI_TEST_H

#include "capture.h"
#include "chip_test.h"

#include "base/config.h"
#include "base/log.h"
#include "pci/pci_models.h"
#include "pci/pci_private.h"

#include <stdio.h>

#define PROBE_BAR_MEM 0 /* 4 KiB below 4 GiB */
#define PROBE_BAR_IO 1 /* 32 ports */
#define PROBE_BAR_BIG 2 /* 64 MiB, 64 bits wide */
#define PROBE_BAR_MSIX 4
#define PROBE_MSI 4 /* vectors */
#define PROBE_MSIX 70
#define PROBE_DOORBELL 0x100 /* in PROBE_BAR_MEM, 4 bytes */
#define PROBE_CFG 0xf8 /* a register that counts its reads */

/* What reached a probe. */
struct probe {
	int reads, writes, rings, resets, cfg_reads, cfg_writes;
	int bar, size;
	uint64_t off, val;
	uint32_t saved;
};

struct pci_test {
	struct chip_test chip; /* first: the line sink's context */
	struct config *config;
	struct pci *pci;
	int messages;
	uint64_t addr; /* of the last message */
	uint32_t data;
	uint8_t reset_port; /* behind 0xcf9 */
};

/* --- The model --- */

static int
probe_create(struct pci_dev *dev, const struct config *cfg)
{
	static const struct pci_id id = { .vendor = 0x1234, .device = 0x5678, .subvendor = 0x9abc,
		.subdevice = 0xdef0, .class = 0xff, .subclass = 1, .prog_if = 2, .revision = 3 };
	struct probe *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	assert_non_null(cfg);
	pci_priv_set(dev, p);
	pci_id_set(dev, &id);
	pci_bar_add(dev, PROBE_BAR_MEM, PCI_BAR_MEM32, KIB(4), false);
	pci_bar_add(dev, PROBE_BAR_IO, PCI_BAR_IO, 32, false);
	pci_bar_add(dev, PROBE_BAR_BIG, PCI_BAR_MEM64, MIB(64), true);
	pci_msi_add(dev, PROBE_MSI);
	pci_msix_add(dev, PROBE_BAR_MSIX, PROBE_MSIX);
	pci_express_add(dev);
	pci_intx_add(dev);
	return 0;
}

static void
probe_destroy(struct pci_dev *dev)
{
	free(pci_priv(dev));
}

static bool
probe_cfg_read(struct pci_dev *dev, unsigned off, int size, uint32_t *val)
{
	struct probe *p = pci_priv(dev);

	if (off != PROBE_CFG)
		return false;
	*val = (uint32_t)++p->cfg_reads;
	return true;
}

static bool
probe_cfg_write(struct pci_dev *dev, unsigned off, int size, uint32_t val)
{
	struct probe *p = pci_priv(dev);

	if (off != PROBE_CFG)
		return false;
	p->cfg_writes++;
	return true;
}

static uint64_t
probe_bar_read(struct pci_dev *dev, int bar, uint64_t off, int size)
{
	struct probe *p = pci_priv(dev);

	assert_true(off < dev->bar[bar].size && (uint64_t)size <= dev->bar[bar].size - off);
	assert_true(off % (unsigned)size == 0);
	p->reads++;
	return 0x1000000000000000ull * (unsigned)(bar + 1) + off;
}

static void
probe_bar_write(struct pci_dev *dev, int bar, uint64_t off, int size, uint64_t val)
{
	struct probe *p = pci_priv(dev);

	assert_true(off < dev->bar[bar].size && (uint64_t)size <= dev->bar[bar].size - off);
	p->writes++;
	p->bar = bar;
	p->size = size;
	p->off = off;
	p->val = val;
}

static void
probe_reset(struct pci_dev *dev)
{
	struct probe *p = pci_priv(dev);

	p->resets++;
}

static int
probe_state(struct pci_dev *dev, struct vm_state *s)
{
	struct probe *p = pci_priv(dev);

	vm_state_section(s, "probe", pci_slot(dev), 1);
	vm_state_u32(s, &p->saved);
	return vm_state_end(s);
}

static const struct pci_dev_ops probe_ops = {
	.name = "probe",
	.create = probe_create,
	.destroy = probe_destroy,
	.cfg_read = probe_cfg_read,
	.cfg_write = probe_cfg_write,
	.bar_read = probe_bar_read,
	.bar_write = probe_bar_write,
	.reset = probe_reset,
	.state = probe_state,
};

/* A model that cannot be made. */
static int
broken_create(struct pci_dev *dev, const struct config *cfg)
{
	pci_bar_add(dev, 0, PCI_BAR_MEM32, KIB(4), false);
	log_error(pci_name(dev), "is broken");
	return -EIO;
}

static const struct pci_dev_ops broken_ops = { .name = "broken", .create = broken_create };

/* A model that wants more of the 32-bit window than there is. */
static int
huge_create(struct pci_dev *dev, const struct config *cfg)
{
	pci_bar_add(dev, 0, PCI_BAR_MEM32, GIB(1), false);
	return 0;
}

static const struct pci_dev_ops huge_ops = { .name = "huge", .create = huge_create };

const struct pci_dev_ops *const pci_models[] = { &amd_hostbridge_ops, &broken_ops, &hostbridge_ops,
	&huge_ops, &lpc_ops, &probe_ops, NULL };

const struct pci_dev_ops *
pci_model_find(const char *name)
{
	for (const struct pci_dev_ops *const *m = pci_models; *m != NULL; m++) {
		if (strcmp((*m)->name, name) == 0)
			return *m;
	}
	return NULL;
}

/* --- The machine --- */

static void
pci_test_msi(void *ctx, uint64_t addr, uint32_t data)
{
	struct pci_test *t = ctx;

	t->messages++;
	t->addr = addr;
	t->data = data;
}

static int
pci_test_mmio_offset(void *ctx, int cpu, uint64_t gpa)
{
	return -1;
}

static const struct vm_apic_ops pci_test_apic = { .msi = pci_test_msi,
	.mmio_offset = pci_test_mmio_offset };

static uint8_t
pci_test_port_read(void *ctx, uint16_t port)
{
	struct pci_test *t = ctx;

	return port == 0xcf9 ? t->reset_port : UINT8_MAX;
}

static void
pci_test_port_write(void *ctx, uint16_t port, uint8_t val)
{
	struct pci_test *t = ctx;

	if (port == 0xcf9)
		t->reset_port = val;
}

/* A machine without a bus, whose configuration has the lines "name=value" of a NULL-terminated
 * list. */
static inline void
pci_test_machine(struct pci_test *t, uint64_t memory, const char *const *lines)
{
	*t = (struct pci_test){ .config = config_create() };
	assert_non_null(t->config);
	for (; lines != NULL && *lines != NULL; lines++) {
		const char *equals = strchr(*lines, '=');
		char name[128];

		snprintf(name, sizeof(name), "%.*s", (int)(equals - *lines), *lines);
		assert_int_equal(config_set(t->config, name, equals + 1), 0);
	}
	t->chip.vm = mock_vm_create_config(memory, 1, t->config);
	assert_non_null(t->chip.vm);
	vm_irq_sink_add(t->chip.vm, &chip_test_sink, &t->chip);
	vm_apic_register(t->chip.vm, &pci_test_apic, t);
}

static inline int
pci_test_bus(struct pci_test *t)
{
	const struct pci_params params = { .phys_bits = 40, .port_read = pci_test_port_read,
		.port_write = pci_test_port_write, .ctx = t };

	return pci_create(t->chip.vm, &params, &t->pci);
}

static inline void
pci_test_done(struct pci_test *t)
{
	pci_destroy(t->pci);
	vm_destroy(t->chip.vm);
	config_destroy(t->config);
}

#define pci_test_init(t, ...)                                                                      \
	do {                                                                                       \
		static const char *const lines_[] = { __VA_ARGS__ };                               \
		pci_test_machine(t, MIB(16), lines_);                                              \
		assert_int_equal(pci_test_bus(t), 0);                                              \
	} while (0)

static inline struct probe *
pci_probe(struct pci_test *t, int slot)
{
	return pci_priv(pci_find(t->pci, slot, 0));
}

/* --- What a guest does --- */

static inline void
cfg_address(struct pci_test *t, int slot, int function, unsigned off)
{
	chip_out(&t->chip, 0xcf8, 4,
	    0x80000000u | (uint32_t)slot << 11 | (uint32_t)function << 8 | (off & 0xfc));
}

static inline uint32_t
cfg_read(struct pci_test *t, int slot, unsigned off, int size)
{
	cfg_address(t, slot, 0, off);
	return chip_in(&t->chip, (uint16_t)(0xcfc + (off & 3)), size);
}

static inline void
cfg_write(struct pci_test *t, int slot, unsigned off, int size, uint32_t val)
{
	cfg_address(t, slot, 0, off);
	chip_out(&t->chip, (uint16_t)(0xcfc + (off & 3)), size, val);
}

static inline uint64_t
mem_read(struct pci_test *t, uint64_t addr, int size)
{
	return vm_bus_read(t->chip.vm, VM_MMIO, addr, size);
}

static inline void
mem_write(struct pci_test *t, uint64_t addr, int size, uint64_t val)
{
	vm_bus_write(t->chip.vm, VM_MMIO, addr, size, val);
}

/* The address in a BAR; both halves of a 64-bit one. */
static inline uint64_t
bar_address(struct pci_test *t, int slot, int bar)
{
	uint32_t low = cfg_read(t, slot, PCI_BAR(bar), 4);

	if (low & PCI_BAR_IO_BIT)
		return low & PCI_BAR_IO_MASK;
	return (low & PCI_BAR_MEM_MASK) |
	    (low & PCI_BAR_64 ? (uint64_t)cfg_read(t, slot, PCI_BAR(bar + 1), 4) << 32 : 0);
}

/* The offset of a capability, found as a guest finds it; 0 when there is none. */
static inline unsigned
cap_find(struct pci_test *t, int slot, uint8_t id)
{
	unsigned at = cfg_read(t, slot, PCI_CAPS, 1);

	for (int i = 0; at != 0 && i < 48; i++) {
		if (cfg_read(t, slot, at, 1) == id)
			return at;
		at = cfg_read(t, slot, at + 1, 1);
	}
	return 0;
}

static inline void
command_set(struct pci_test *t, int slot, uint32_t bits)
{
	cfg_write(t, slot, PCI_COMMAND, 2, bits);
}

#endif
