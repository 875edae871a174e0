/*
 * Assembling the machine.
 *
 * Everything is made in one order and taken apart in the reverse one; what was not made is NULL,
 * and destroying that is fine. So there is one way out, whatever went wrong.
 */
#include "bhyve/machine.h"

#include "base/config.h"
#include "base/log.h"
#include "bhyve/lifecycle.h"
#include "bhyve/vars.h"
#include "chardev/chardev.h"
#include "chipset/acpi_pm.h"
#include "chipset/hpet.h"
#include "chipset/i8042.h"
#include "chipset/i8254.h"
#include "chipset/i8259.h"
#include "chipset/ioapic.h"
#include "chipset/lapic.h"
#include "chipset/mc146818.h"
#include "chipset/reset.h"
#include "chipset/testdev.h"
#include "chipset/uart.h"
#include "firmware/acpi.h"
#include "firmware/boot.h"
#include "firmware/e820.h"
#include "firmware/mptable.h"
#include "firmware/smbios.h"
#include "pci/pci_host.h"
#include "vm/bus.h"
#include "vm/mem.h"
#include "vm/vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define MACHINE_PORTS 0x10000u
#define MACHINE_GAPS_MAX 128 /* between the devices' ports */

struct machine {
	const struct config *config;
	struct vm *vm;
	struct lifecycle *lifecycle;

	struct lapic *lapic; /* NULL when the engine brings its own */
	struct ioapic *ioapic;
	struct i8259 *i8259;
	struct i8254 *i8254;
	struct mc146818 *rtc;
	struct hpet *hpet;
	struct acpi_pm *acpi_pm;
	struct i8042 *i8042;
	struct reset *reset;
	struct testdev *testdev;
	struct chardev *line[UART_COM_COUNT];
	struct uart *uart[UART_COM_COUNT];
	struct pci *pci;

	struct acpi_device com[UART_COM_COUNT]; /* the serial ports that exist */
	int coms;

	struct machine_gap { /* ports nobody answers, when that is an error */
		struct machine *machine;
		unsigned first;
	} gap[MACHINE_GAPS_MAX];
	int gaps;
	atomic_bool gap_told; /* the guest runs on until its CPU stops: one line is enough */
};

/* --- Engine, memory, processors --- */

static int
machine_vm_create(struct machine *m)
{
	const struct config *config = m->config;
	struct vm_params params = {
		.name = config_get(config, "name"),
		.config = config,
		.wire_memory = config_get_bool_default(config, "memory.wired", false),
		.core_memory = config_get_bool_default(config, "memory.guest_in_core", false),
	};
	char why[ENGINE_WHY_SIZE];
	int err;

	err = vars_memory(config, &params.memory);
	if (err == 0)
		err = vars_topology(config, &params.topo);
	if (err != 0)
		return err;
	err = engine_choose(config_get_default(config, "engine", "auto"), &params.engine, why,
	    sizeof(why));
	if (err != 0) {
		log_error("engine", "%s", why);
		return err;
	}
	err = vm_create(&params, &m->vm);
	if (err == 0)
		log_info("engine", "%s", why);
	return err;
}

/* --- Chips --- */

/* Puts the engine's local APICs into the mode in which firmware leaves them, as below ours. */
static int
machine_lapic_prepare(struct machine *m)
{
	bool x2apic = config_get_bool_default(m->config, "x86.x2apic", false);
	struct x86_state s;
	int err = 0;

	for (int i = 0; err == 0 && i < (x2apic ? vm_vcpus(m->vm) : 1); i++) {
		vm_vcpu_get(m->vm, i, &s);
		if (i == 0)
			x86_state_virtual_wire(&s);
		if (x2apic)
			x86_state_x2apic(&s);
		err = vm_vcpu_set(m->vm, i, &s);
	}
	return err;
}

static int
machine_lapic_create(struct machine *m)
{
	int err;

	if (vm_engine(m->vm, NULL)->msi != NULL)
		return machine_lapic_prepare(m);
	err = lapic_create(m->vm, &m->lapic);
	if (err != 0)
		return err;
	lapic_virtual_wire(m->lapic);
	if (config_get_bool_default(m->config, "x86.x2apic", false))
		err = lapic_x2apic(m->lapic);
	return err;
}

static int
machine_hpet_create(struct machine *m)
{
	const struct hpet_params params = {
		.pit = m->i8254,
		.rtc_legacy = mc146818_hpet_legacy,
		.rtc_ctx = m->rtc,
	};

	return hpet_create(m->vm, &params, &m->hpet);
}

static int
machine_chipset_create(struct machine *m)
{
	const struct mc146818_params rtc = {
		.local_time = config_get_bool_default(m->config, "rtc.use_localtime", true),
	};
	struct vm *vm = m->vm;
	int err;

	err = machine_lapic_create(m);
	if (err == 0)
		err = ioapic_create(vm, &m->ioapic);
	if (err == 0)
		err = i8259_create(vm, &m->i8259);
	if (err == 0)
		err = i8254_create(vm, &m->i8254);
	if (err == 0)
		err = mc146818_create(vm, &rtc, &m->rtc);
	if (err == 0)
		err = machine_hpet_create(m);
	if (err == 0)
		err = acpi_pm_create(vm, &m->acpi_pm);
	if (err == 0)
		err = i8042_create(vm, &m->i8042);
	if (err == 0)
		err = reset_create(vm, &m->reset);
	if (err == 0 && config_get_bool_default(m->config, "lpc.pc-testdev", false))
		err = testdev_create(vm, &m->testdev);
	if (err != 0)
		log_error("chipset", "cannot be made: %s", strerror(-err));
	return err;
}

static void
machine_chipset_destroy(struct machine *m)
{
	testdev_destroy(m->testdev);
	reset_destroy(m->reset);
	i8042_destroy(m->i8042);
	acpi_pm_destroy(m->acpi_pm);
	hpet_destroy(m->hpet);
	mc146818_destroy(m->rtc);
	i8254_destroy(m->i8254);
	i8259_destroy(m->i8259);
	ioapic_destroy(m->ioapic);
	lapic_destroy(m->lapic);
}

/* --- Serial ports --- */

static int
machine_com_create(struct machine *m, int i)
{
	static const char *const names[UART_COM_COUNT] = { "COM1", "COM2", "COM3", "COM4" };
	struct uart_params params = uart_com[i];
	char path[32];
	const char *line;
	int err;

	snprintf(path, sizeof(path), "lpc.com%d.path", i + 1);
	line = config_get(m->config, path);
	if (line == NULL)
		return 0;
	/* Without a line the port is there and unconnected. */
	if (line[0] != '\0') {
		err = chardev_open(vm_loop(m->vm), line, path, &m->line[i]);
		if (err != 0)
			return err;
	}
	params.chardev = m->line[i];
	err = uart_create(m->vm, &params, &m->uart[i]);
	if (err != 0) {
		log_error(params.name, "cannot be made: %s", strerror(-err));
		return err;
	}
	m->com[m->coms++] = (struct acpi_device){
		.name = names[i],
		.hid = "PNP0501",
		.uid = i + 1,
		.res = { ACPI_IO(params.base, 8), ACPI_IRQ(params.irq) },
	};
	return 0;
}

static int
machine_serial_create(struct machine *m)
{
	int err = 0;

	for (int i = 0; err == 0 && i < UART_COM_COUNT; i++)
		err = machine_com_create(m, i);
	return err;
}

static void
machine_serial_destroy(struct machine *m)
{
	for (int i = UART_COM_COUNT - 1; i >= 0; i--) {
		chardev_drain(m->line[i]);
		uart_destroy(m->uart[i]);
		chardev_close(m->line[i]);
	}
}

/* --- PCI --- */

/* The reset control register lies among the ports of PCI's configuration mechanism. */
static uint8_t
machine_reset_read(void *ctx, uint16_t port)
{
	return port == RESET_CONTROL_PORT ? reset_control_read(ctx) : UINT8_MAX;
}

static void
machine_reset_write(void *ctx, uint16_t port, uint8_t val)
{
	if (port == RESET_CONTROL_PORT)
		reset_control_write(ctx, val);
}

/* The size of a physical address, from CPUID. */
static int
machine_phys_bits(struct machine *m)
{
	const struct x86_cpuid_ctx ctx = { 0 };
	struct engine_vm *evm;
	const struct engine_ops *engine = vm_engine(m->vm, &evm);
	struct x86_cpuid_regs regs;

	x86_cpuid_query(engine->cpuid(evm), &ctx, 0x80000008, 0, &regs);
	return (int)BITS(regs.eax, 0, 8);
}

static int
machine_pci_create(struct machine *m)
{
	const struct pci_params params = {
		.phys_bits = machine_phys_bits(m),
		.port_read = machine_reset_read,
		.port_write = machine_reset_write,
		.ctx = m->reset,
	};

	return pci_create(m->vm, &params, &m->pci);
}

/* What the tables say of the bus; prt has room for every route of the layout. */
static struct acpi_pci
machine_pci_describe(struct machine *m, struct acpi_prt *prt)
{
	const struct pci_layout *l = pci_layout(m->pci);

	for (int i = 0; i < l->routes; i++)
		prt[i] = (struct acpi_prt){ .slot = l->route[i].slot, .pin = l->route[i].pin,
			.gsi = l->route[i].line, .irq = l->route[i].irq };
	return (struct acpi_pci){
		.bus_last = PCI_ECAM_SIZE / MIB(1) - 1,
		.ecam = PCI_ECAM_BASE,
		.mem32_base = l->mem32.base,
		.mem32_limit = l->mem32.limit,
		.mem64_base = l->mem64.base,
		.mem64_limit = l->mem64.limit,
		.isa_slot = l->isa_slot,
		.prt = prt,
		.prt_count = l->routes,
	};
}

/* --- -e: what to do about ports that nobody answers --- */

/* access says what the guest did, up to the port's number. */
static void
machine_gap_hit(struct machine_gap *gap, uint64_t off, const char *access)
{
	if (!atomic_exchange(&gap->machine->gap_told, true))
		log_error("x86.strictio (-e)", "the guest %s I/O port 0x%x, which is not emulated",
		    access, gap->first + (unsigned)off);
	vm_shutdown(gap->machine->vm, VM_EXIT_ERROR);
}

static uint64_t
machine_gap_read(void *ctx, uint64_t off, int size)
{
	machine_gap_hit(ctx, off, "read");
	return UINT64_MAX;
}

static void
machine_gap_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	char access[32];

	snprintf(access, sizeof(access), "wrote 0x%x to", (unsigned)val);
	machine_gap_hit(ctx, off, access);
}

/* A range in the background, so that devices whose ports the guest moves can still claim them. */
static int
machine_gap_add(struct machine *m, unsigned first, unsigned size)
{
	static const struct vm_range_ops ops = { .name = "unclaimed port", .read = machine_gap_read,
		.write = machine_gap_write, .min_size = 1, .max_size = 4 };
	struct vm_range range = { .ops = &ops, .space = VM_PIO, .base = first, .size = size,
		.background = true };

	if (m->gaps == MACHINE_GAPS_MAX)
		return -ENOSPC;
	m->gap[m->gaps] = (struct machine_gap){ m, first };
	range.ctx = &m->gap[m->gaps++];
	return vm_range_add(m->vm, &range);
}

static int
machine_strictio_create(struct machine *m)
{
	unsigned first = 0;
	int err = 0;

	if (!config_get_bool_default(m->config, "x86.strictio", false))
		return 0;
	for (unsigned port = 0; err == 0 && port <= MACHINE_PORTS; port++) {
		if (port < MACHINE_PORTS && vm_range_find(m->vm, VM_PIO, port) == NULL)
			continue;
		if (port != first)
			err = machine_gap_add(m, first, port - first);
		first = port + 1;
	}
	if (err != 0)
		log_error("x86.strictio (-e)", "cannot be set up: %s", strerror(-err));
	return err;
}

/* --- Firmware --- */

/* Writes the tables a guest finds at power-on; *rsdp is 0 without ACPI. */
static int
machine_tables_build(struct machine *m, uint64_t *rsdp)
{
	struct acpi_prt prt[PCI_ROUTES_MAX];
	const struct acpi_pci pci = machine_pci_describe(m, prt);
	const struct acpi_params acpi = {
		.i8042 = true,
		.i8042_aux = true,
		.hpet = true,
		.pci = &pci,
		.devices = m->com,
		.device_count = m->coms,
	};
	int err = 0;

	*rsdp = 0;
	if (config_get_bool_default(m->config, "acpi_tables", true))
		err = acpi_build(m->vm, &acpi, rsdp);
	if (err == 0 && config_get_bool_default(m->config, "x86.mptable", true))
		err = mptable_build(m->vm, &acpi);
	return err == 0 ? smbios_build(m->vm) : err;
}

static int
machine_boot(struct machine *m)
{
	struct e820_map map;
	struct boot_params boot = {
		.kernel = config_get(m->config, "boot.kernel"),
		.initrd = config_get(m->config, "boot.initrd"),
		.cmdline = config_get(m->config, "boot.cmdline"),
		.map = &map,
	};
	struct x86_state bsp;
	int err;

	err = machine_tables_build(m, &boot.rsdp);
	if (err != 0)
		return err;
	e820_init(&map, vm_mem_low(m->vm), vm_mem_high(m->vm));
	err = e820_add(&map, PCI_ECAM_BASE, PCI_ECAM_SIZE, E820_RESERVED);
	assert(err == 0); /* nothing else is there */
	vm_vcpu_get(m->vm, 0, &bsp);
	err = boot_load(m->vm, &boot, &bsp);
	if (err != 0)
		return err;
	err = vm_vcpu_set(m->vm, 0, &bsp);
	if (err != 0)
		log_error(boot.kernel, "the processor cannot start as the kernel asks for");
	return err;
}

/* --- The whole --- */

static int
machine_create(struct machine *m)
{
	static int (*const parts[])(struct machine *m) = { machine_vm_create,
		machine_chipset_create, machine_serial_create, machine_pci_create,
		machine_strictio_create, machine_boot };
	int err = 0;

	for (size_t i = 0; err == 0 && i < ARRAY_SIZE(parts); i++)
		err = parts[i](m);
	return err == 0 ? lifecycle_create(m->vm, &m->lifecycle) : err;
}

static void
machine_destroy(struct machine *m)
{
	lifecycle_destroy(m->lifecycle);
	pci_destroy(m->pci);
	machine_serial_destroy(m);
	machine_chipset_destroy(m);
	vm_destroy(m->vm);
}

static void
machine_stat(void *arg, const char *name, uint64_t value)
{
	log_info(arg, "%s %" PRIu64, name, value);
}

static void
machine_stats(struct machine *m)
{
	const struct engine_ops *engine;
	struct engine_vm *evm;
	char var[32]; /* bt.stats, kvm.stats */

	engine = vm_engine(m->vm, &evm);
	snprintf(var, sizeof(var), "%s.stats", engine->name);
	if (engine->stats != NULL && config_get_bool_default(m->config, var, false))
		engine->stats(evm, machine_stat, var);
}

int
machine_run(const struct config *config)
{
	struct machine m = { .config = config };
	int status = VM_EXIT_ERROR;

	if (machine_create(&m) == 0) {
		status = (int)vm_run(m.vm);
		machine_stats(&m);
	}
	machine_destroy(&m);
	return status;
}
