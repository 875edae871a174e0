/*
 * Interrupts: messages, the routes of the IOAPIC's pins, events that become interrupts, and writes
 * that become events.
 *
 * KVM takes the whole routing table at once (api.rst 4.52). GSIs 0 to 23 are the IOAPIC's pins, of
 * which only those that are level-triggered have a route: KVM looks there for the vectors whose EOI
 * we want to know. From 24 on come the eventfds.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int
kvm_irq_create(struct kvm_vm *vm)
{
	vm->routing = calloc(1, sizeof(*vm->routing) +
	    (KVM_IOAPIC_PINS + KVM_MSI_EVENTS) * sizeof(vm->routing->entries[0]));
	if (vm->routing == NULL)
		return -ENOMEM;
	for (int i = 0; i < KVM_MSI_EVENTS; i++)
		vm->event[i].fd = -1;
	return 0;
}

void
kvm_irq_destroy(struct kvm_vm *vm)
{
	free(vm->routing);
}

int
kvm_msi(struct engine_vm *evm, uint64_t addr, uint32_t data)
{
	struct kvm_msi msi = { .address_lo = (uint32_t)addr, .address_hi = (uint32_t)(addr >> 32),
		.data = data };
	int n = kvm_ioctl(kvm_vm(evm)->fd, KVM_SIGNAL_MSI, &msi);

	/* The number of vCPUs that got it; a message for nobody vanishes, as on a bus. */
	return MIN(n, 0);
}

/* --- Routes; irq_lock is held --- */

static void
kvm_route_add(struct kvm_vm *vm, uint32_t gsi, uint64_t addr, uint32_t data)
{
	struct kvm_irq_routing_entry *e = &vm->routing->entries[vm->routing->nr++];

	*e = (struct kvm_irq_routing_entry){ .gsi = gsi, .type = KVM_IRQ_ROUTING_MSI };
	e->u.msi.address_lo = (uint32_t)addr;
	e->u.msi.address_hi = (uint32_t)(addr >> 32);
	e->u.msi.data = data;
}

static int
kvm_routes_set(struct kvm_vm *vm)
{
	vm->routing->nr = 0;
	for (uint32_t i = 0; i < KVM_IOAPIC_PINS; i++) {
		if (vm->pin_data[i] != 0)
			kvm_route_add(vm, i, vm->pin_addr[i], vm->pin_data[i]);
	}
	for (uint32_t i = 0; i < (uint32_t)vm->events; i++) {
		if (vm->event[i].fd >= 0)
			kvm_route_add(vm, KVM_IOAPIC_PINS + i, vm->event[i].addr,
			    vm->event[i].data);
	}
	return kvm_ioctl(vm->fd, KVM_SET_GSI_ROUTING, vm->routing);
}

int
kvm_irq_route(struct engine_vm *evm, int pin, uint64_t addr, uint32_t data)
{
	struct kvm_vm *vm = kvm_vm(evm);
	int err = 0;

	pthread_mutex_lock(&vm->irq_lock);
	/* Most changes of an entry change nothing here, and each table costs KVM a grace period. */
	if (vm->pin_addr[pin] != addr || vm->pin_data[pin] != data) {
		vm->pin_addr[pin] = addr;
		vm->pin_data[pin] = data;
		err = kvm_routes_set(vm);
	}
	pthread_mutex_unlock(&vm->irq_lock);
	return err;
}

/* --- Events that send an MSI --- */

static int
kvm_irqfd(struct kvm_vm *vm, int i, int fd, uint32_t flags)
{
	struct kvm_irqfd irqfd = { .fd = (uint32_t)fd, .gsi = (uint32_t)(KVM_IOAPIC_PINS + i),
		.flags = flags };

	return kvm_ioctl(vm->fd, KVM_IRQFD, &irqfd);
}

/* The event of fd, or a free one; KVM_MSI_EVENTS when there is neither. */
static int
kvm_event_find(const struct kvm_vm *vm, int fd)
{
	int i = 0, unused = KVM_MSI_EVENTS;

	for (; i < vm->events; i++) {
		if (vm->event[i].fd == fd)
			return i;
		if (vm->event[i].fd < 0 && unused == KVM_MSI_EVENTS)
			unused = i;
	}
	return MIN(i, unused);
}

static int
kvm_event_set(struct kvm_vm *vm, int i, int fd, uint64_t addr, uint32_t data)
{
	struct kvm_msi_event *e = &vm->event[i], old = *e;
	int err;

	*e = (struct kvm_msi_event){ fd, addr, data };
	vm->events = MAX(vm->events, i + 1);
	err = kvm_routes_set(vm);
	if (err == 0 && old.fd < 0)
		err = kvm_irqfd(vm, i, fd, 0);
	if (err != 0)
		*e = old;
	return err;
}

static int
kvm_event_clear(struct kvm_vm *vm, int i)
{
	int err = kvm_irqfd(vm, i, vm->event[i].fd, KVM_IRQFD_FLAG_DEASSIGN);

	vm->event[i] = (struct kvm_msi_event){ .fd = -1 };
	return err == 0 ? kvm_routes_set(vm) : err;
}

int
kvm_msi_event(struct engine_vm *evm, int fd, uint64_t addr, uint32_t data)
{
	struct kvm_vm *vm = kvm_vm(evm);
	int err, i;

	pthread_mutex_lock(&vm->irq_lock);
	i = kvm_event_find(vm, fd);
	if (i == KVM_MSI_EVENTS)
		err = -ENOSPC;
	else if (addr != 0 || data != 0)
		err = kvm_event_set(vm, i, fd, addr, data);
	else
		err = i < vm->events && vm->event[i].fd == fd ? kvm_event_clear(vm, i) : -ENOENT;
	pthread_mutex_unlock(&vm->irq_lock);
	return err;
}

/* --- Writes that only ring, or may be late --- */

int
kvm_doorbell(struct engine_vm *evm, bool mmio, uint64_t addr, int size, int fd, bool on)
{
	struct kvm_ioeventfd bell = { .addr = addr, .len = (uint32_t)size, .fd = fd,
		.flags = (mmio ? 0 : KVM_IOEVENTFD_FLAG_PIO) |
		    (on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN) };

	return kvm_ioctl(kvm_vm(evm)->fd, KVM_IOEVENTFD, &bell);
}

int
kvm_coalesce(struct engine_vm *evm, bool mmio, uint64_t addr, uint64_t len, bool on)
{
	struct kvm_vm *vm = kvm_vm(evm);
	struct kvm_coalesced_mmio_zone zone = { .addr = addr, .size = (uint32_t)len, .pio = !mmio };

	if (vm->coalesced_page == 0 || (!mmio && !vm->coalesce_pio) || len > UINT32_MAX)
		return -ENOTSUP;
	return kvm_ioctl(vm->fd, on ? KVM_REGISTER_COALESCED_MMIO : KVM_UNREGISTER_COALESCED_MMIO,
	    &zone);
}
