/*
 * KVM as an engine: VMs, and the table of what the engine does.
 */
#include "engine/kvm/kvm.h"

#include "base/config.h"
#include "base/log.h"
#include "engine/engines.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <x86intrin.h>

/* Where Intel's processors without unrestricted guests keep what real mode needs: three pages for a TSS
 * and one for a page table (api.rst 4.28, 4.41), below the boot ROM, where nothing else is. */
#define KVM_IDENTITY_ADDR 0xfeffc000ull
#define KVM_TSS_ADDR 0xfeffd000ul
/* The number that KVM_CREATE_VM may be interrupted in a row before that is an error. */
#define KVM_CREATE_TRIES 100

int
kvm_ioctl(int fd, unsigned long request, void *arg)
{
	int n;

	do
		n = ioctl(fd, request, arg);
	while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

int
kvm_ioctl_val(int fd, unsigned long request, unsigned long arg)
{
	int n = ioctl(fd, request, arg);

	return n < 0 ? -errno : n;
}

static void
kvm_probe(struct engine_probe *out)
{
	struct kvm_host host;

	kvm_host_read("", true, &host);
	kvm_host_judge(&host, out);
}

/* --- Creation --- */

static int
kvm_vm_enable(struct kvm_vm *vm, uint32_t cap, uint64_t arg)
{
	struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

	return kvm_ioctl(vm->fd, KVM_ENABLE_CAP, &enable);
}

/* Checks the number of vCPUs and their IDs against the limits. */
static int
kvm_vm_check_vcpus(struct kvm_vm *vm)
{
	const struct engine_vm_params *p = &vm->params;
	uint32_t last = x86_topology_apic_id(&p->topo, (uint32_t)p->vcpus - 1);
	int max = kvm_cap(vm->fd, KVM_CAP_MAX_VCPUS), max_id = kvm_cap(vm->fd, KVM_CAP_MAX_VCPU_ID);

	/* Kernels that do not know them (api.rst 4.7). */
	if (max == 0)
		max = MAX(kvm_cap(vm->fd, KVM_CAP_NR_VCPUS), 4);
	if (max_id == 0)
		max_id = max;
	if (p->vcpus > max) {
		log_error("cpus (-c)", "%d: this host's KVM runs at most %d", p->vcpus, max);
		return -EINVAL;
	}
	if (last >= (uint32_t)max_id) {
		log_error("cpus (-c)", "APIC IDs up to %u: this host's KVM has them below %d", last,
		    max_id);
		return -EINVAL;
	}
	return 0;
}

static int
kvm_vm_open(struct kvm_vm *vm)
{
	int tries = 0, err;

	vm->kvm = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);
	if (vm->kvm < 0) {
		err = -errno;
		log_error(KVM_WHO, "%s: %s", KVM_DEVICE, strerror(-err));
		return err;
	}
	/* Not by kvm_ioctl(): a signal that comes again and again must not keep us here. */
	do
		vm->fd = ioctl(vm->kvm, KVM_CREATE_VM, 0);
	while (vm->fd < 0 && errno == EINTR && ++tries < KVM_CREATE_TRIES);
	if (vm->fd < 0) {
		err = -errno;
		log_error(KVM_WHO, "cannot create a virtual machine: %s%s", strerror(-err),
		    err == -EBUSY ? ": another hypervisor holds the processor's virtualization" :
				    "");
		return err;
	}
	return kvm_vm_check_vcpus(vm);
}

/* Turns on what a VM must be told before it has vCPUs. */
static int
kvm_vm_configure(struct kvm_vm *vm)
{
	uint64_t identity = KVM_IDENTITY_ADDR;
	int err;

	err = kvm_vm_enable(vm, KVM_CAP_SPLIT_IRQCHIP, KVM_IOAPIC_PINS);
	if (err != 0) {
		log_error(KVM_WHO, "this kernel's KVM refuses a split irqchip: %s", strerror(-err));
		return err;
	}
	/* Only Intel's processors need them; others ignore or refuse them. */
	(void)kvm_ioctl(vm->fd, KVM_SET_IDENTITY_MAP_ADDR, &identity);
	(void)kvm_ioctl_val(vm->fd, KVM_SET_TSS_ADDR, KVM_TSS_ADDR);
	/* Each of the rest is an improvement that older kernels do without. */
	(void)kvm_vm_enable(vm, KVM_CAP_X2APIC_API,
	    KVM_X2APIC_API_USE_32BIT_IDS | KVM_X2APIC_API_DISABLE_BROADCAST_QUIRK);
	(void)kvm_vm_enable(vm, KVM_CAP_EXCEPTION_PAYLOAD, 0);
	/* No performance counters: their state is not in struct x86_state. */
	(void)kvm_vm_enable(vm, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
	vm->unknown_msrs = !config_get_bool_default(vm->params.config, "x86.strictmsr", true);
	if (vm->unknown_msrs &&
	    kvm_vm_enable(vm, KVM_CAP_X86_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_UNKNOWN) != 0) {
		log_error("x86.strictmsr (-w)",
		    "this kernel's KVM cannot pass unknown MSRs on; Linux 5.10 can");
		return -ENOTSUP;
	}
	vm->nested = config_get_bool_default(vm->params.config, "kvm.nested", false);
	vm->slots_max = (uint32_t)kvm_cap(vm->fd, KVM_CAP_NR_MEMSLOTS);
	if (vm->slots_max == 0)
		vm->slots_max = 32; /* what kernels had that do not tell */
	vm->coalesced_page = kvm_cap(vm->fd, KVM_CAP_COALESCED_MMIO);
	vm->coalesce_pio = kvm_cap(vm->fd, KVM_CAP_COALESCED_PIO) != 0;
	vm->xcrs = kvm_cap(vm->fd, KVM_CAP_XCRS) != 0;
	vm->adjust_clock = kvm_cap(vm->fd, KVM_CAP_ADJUST_CLOCK) != 0;
	return 0;
}

/* Makes the bootstrap processor, which tells the TSC's frequency that the CPUID model needs. */
static int
kvm_vm_ask_boot(struct kvm_vm *vm)
{
	int size = kvm_ioctl_val(vm->kvm, KVM_GET_VCPU_MMAP_SIZE, 0), khz;

	if (size < 0)
		return size;
	vm->run_size = (size_t)size;
	vm->boot = kvm_ioctl_val(vm->fd, KVM_CREATE_VCPU, 0);
	if (vm->boot < 0)
		return vm->boot;
	khz = kvm_ioctl_val(vm->boot, KVM_GET_TSC_KHZ, 0);
	vm->tsc_khz = (uint32_t)MAX(khz, 0);
	return 0;
}

static void
kvm_vm_destroy(struct engine_vm *evm)
{
	struct kvm_vm *vm = kvm_vm(evm);

	if (vm->boot >= 0)
		close(vm->boot);
	if (vm->fd >= 0)
		close(vm->fd);
	if (vm->kvm >= 0)
		close(vm->kvm);
	kvm_irq_destroy(vm);
	x86_cpuid_destroy(vm->cpuid);
	free(vm->supported);
	free(vm->slot);
	pthread_mutex_destroy(&vm->mem_lock);
	pthread_mutex_destroy(&vm->irq_lock);
	pthread_mutex_destroy(&vm->ring_lock);
	free(vm);
}

static int
kvm_vm_create(const struct engine_vm_params *params, struct engine_vm **out)
{
	struct kvm_vm *vm;
	int err;

	vm = calloc(1, sizeof(*vm) + (size_t)params->vcpus * sizeof(vm->vcpu[0]));
	if (vm == NULL)
		return -ENOMEM;
	vm->params = *params;
	vm->vcpus = params->vcpus;
	vm->kvm = vm->fd = vm->boot = -1;
	pthread_mutex_init(&vm->mem_lock, NULL);
	pthread_mutex_init(&vm->irq_lock, NULL);
	pthread_mutex_init(&vm->ring_lock, NULL);
	err = kvm_vm_open(vm);
	if (err == 0)
		err = kvm_vm_configure(vm);
	if (err != 0)
		goto destroy;
	err = kvm_vm_ask_boot(vm);
	if (err == 0)
		err = kvm_irq_create(vm);
	if (err == 0)
		err = kvm_kick_prepare();
	if (err != 0) {
		log_error(KVM_WHO, "cannot set up the virtual machine: %s", strerror(-err));
		goto destroy;
	}
	err = kvm_cpuid_create(vm);
	if (err != 0)
		goto destroy;
	*out = (struct engine_vm *)vm;
	return 0;
destroy:
	kvm_vm_destroy((struct engine_vm *)vm);
	return err;
}

/* --- Questions --- */

static const struct x86_cpuid *
kvm_vm_cpuid(struct engine_vm *evm)
{
	return kvm_vm(evm)->cpuid;
}

static uint32_t
kvm_vm_tsc_khz(struct engine_vm *evm)
{
	return kvm_vm(evm)->tsc_khz;
}

static uint64_t
kvm_vm_tsc_read(struct engine_vm *evm)
{
	const struct kvm_vcpu *boot = kvm_vm(evm)->vcpu[0];

	return __rdtsc() + (boot != NULL ? atomic_load(&boot->tsc_offset) : 0);
}

static void
kvm_vm_stats(struct engine_vm *evm, void (*emit)(void *arg, const char *name, uint64_t value),
    void *arg)
{
	static const char *const names[KVM_STATS] = {
		[KVM_STAT_IO] = "exits.port",
		[KVM_STAT_MMIO] = "exits.mmio",
		[KVM_STAT_EOI] = "exits.eoi",
		[KVM_STAT_WINDOW] = "exits.interrupt_window",
		[KVM_STAT_INTR] = "exits.kicked",
		[KVM_STAT_MSR] = "exits.msr",
		[KVM_STAT_OTHER] = "exits.other",
		[KVM_STAT_LATE] = "late_writes",
	};
	struct kvm_vm *vm = kvm_vm(evm);
	char name[64];

	for (int i = 0; i < vm->vcpus; i++) {
		for (int k = 0; vm->vcpu[i] != NULL && k < KVM_STATS; k++) {
			snprintf(name, sizeof(name), "vcpu%d.%s", i, names[k]);
			emit(arg, name, atomic_load(&vm->vcpu[i]->stat[k]));
		}
	}
}

const struct engine_ops kvm_engine = {
	.name = "kvm",
	.probe = kvm_probe,
	.vm_create = kvm_vm_create,
	.vm_destroy = kvm_vm_destroy,
	.mem_map = kvm_mem_map,
	.mem_unmap = kvm_mem_unmap,
	.cpuid = kvm_vm_cpuid,
	.tsc_khz = kvm_vm_tsc_khz,
	.tsc_read = kvm_vm_tsc_read,
	.vcpu_create = kvm_vcpu_create,
	.vcpu_destroy = kvm_vcpu_destroy,
	.vcpu_run = kvm_vcpu_run,
	.vcpu_kick = kvm_vcpu_kick,
	.vcpu_nmi = kvm_vcpu_nmi,
	.vcpu_get = kvm_vcpu_get,
	.vcpu_set = kvm_vcpu_set,
	.msi = kvm_msi,
	.stats = kvm_vm_stats,
	.irq_route = kvm_irq_route,
	.doorbell = kvm_doorbell,
	.msi_event = kvm_msi_event,
	.coalesce = kvm_coalesce,
	.mem_log = kvm_mem_log,
	.mem_dirty = kvm_mem_dirty,
};
