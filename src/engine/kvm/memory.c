/*
 * Guest memory: KVM's memory slots (api.rst 4.35).
 */
#include "engine/kvm/kvm.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KVM_MEM_PAGE KIB(4)
#define KVM_MEM_SLOTS_FIRST 8u

/* Tells KVM of a slot; len 0 takes it back. */
static int
kvm_slot_set(struct kvm_vm *vm, uint32_t i, uint64_t len)
{
	const struct kvm_slot *s = &vm->slot[i];
	struct kvm_userspace_memory_region region = {
		.slot = i,
		.flags = (s->writable ? 0 : KVM_MEM_READONLY) |
		    (s->logged ? KVM_MEM_LOG_DIRTY_PAGES : 0),
		.guest_phys_addr = s->gpa,
		.memory_size = len,
		.userspace_addr = (uintptr_t)s->hva,
	};

	return kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* A free slot's index. */
static int
kvm_slot_take(struct kvm_vm *vm, uint32_t *out)
{
	struct kvm_slot *grown;
	uint32_t i = 0, room;

	while (i < vm->slots && vm->slot[i].len != 0)
		i++;
	if (i == vm->slots_max)
		return -ENOSPC;
	if (i == vm->slots) {
		room = MIN(vm->slots != 0 ? vm->slots * 2 : KVM_MEM_SLOTS_FIRST, vm->slots_max);
		grown = realloc(vm->slot, room * sizeof(*grown));
		if (grown == NULL)
			return -ENOMEM;
		memset(grown + vm->slots, 0, (room - vm->slots) * sizeof(*grown));
		vm->slot = grown;
		vm->slots = room;
	}
	*out = i;
	return 0;
}

/* The mapping that is exactly this, or NULL. */
static struct kvm_slot *
kvm_slot_find(struct kvm_vm *vm, uint64_t gpa, uint64_t len)
{
	for (uint32_t i = 0; i < vm->slots; i++) {
		if (vm->slot[i].len == len && vm->slot[i].gpa == gpa && len != 0)
			return &vm->slot[i];
	}
	return NULL;
}

int
kvm_mem_map(struct engine_vm *evm, uint64_t gpa, void *hva, uint64_t len, unsigned prot)
{
	struct kvm_vm *vm = kvm_vm(evm);
	uint32_t i;
	int err;

	pthread_mutex_lock(&vm->mem_lock);
	err = kvm_slot_take(vm, &i);
	if (err == 0) {
		vm->slot[i] = (struct kvm_slot){ gpa, len, hva, prot & ENGINE_MEM_WRITE,
			vm->logging && (prot & ENGINE_MEM_WRITE) };
		err = kvm_slot_set(vm, i, len);
		if (err != 0)
			vm->slot[i].len = 0;
	}
	pthread_mutex_unlock(&vm->mem_lock);
	if (err == -ENOSPC)
		log_error(KVM_WHO, "cannot map %#llx bytes at %#llx: this host's KVM has %u memory "
		    "slots and all are in use", (unsigned long long)len, (unsigned long long)gpa,
		    vm->slots_max);
	else if (err != 0)
		log_error(KVM_WHO, "cannot map %#llx bytes at %#llx: %s", (unsigned long long)len,
		    (unsigned long long)gpa, strerror(-err));
	return err;
}

int
kvm_mem_unmap(struct engine_vm *evm, uint64_t gpa, uint64_t len)
{
	struct kvm_vm *vm = kvm_vm(evm);
	struct kvm_slot *s;
	int err = -ENOENT;

	pthread_mutex_lock(&vm->mem_lock);
	s = kvm_slot_find(vm, gpa, len);
	if (s != NULL)
		err = kvm_slot_set(vm, (uint32_t)(s - vm->slot), 0);
	if (err == 0)
		s->len = 0;
	pthread_mutex_unlock(&vm->mem_lock);
	if (err != 0)
		log_error(KVM_WHO, "cannot unmap %#llx bytes at %#llx: %s", (unsigned long long)len,
		    (unsigned long long)gpa, strerror(-err));
	return err;
}

int
kvm_mem_log(struct engine_vm *evm, bool on)
{
	struct kvm_vm *vm = kvm_vm(evm);
	int err = 0;

	pthread_mutex_lock(&vm->mem_lock);
	for (uint32_t i = 0; err == 0 && i < vm->slots; i++) {
		struct kvm_slot *s = &vm->slot[i];

		if (s->len == 0 || !s->writable || s->logged == on)
			continue;
		s->logged = on;
		err = kvm_slot_set(vm, i, s->len);
		if (err != 0)
			s->logged = !on;
	}
	if (err == 0)
		vm->logging = on;
	pthread_mutex_unlock(&vm->mem_lock);
	return err;
}

int
kvm_mem_dirty(struct engine_vm *evm, uint64_t gpa, uint64_t len, uint64_t *bitmap)
{
	struct kvm_vm *vm = kvm_vm(evm);
	struct kvm_dirty_log log = { .dirty_bitmap = bitmap };
	struct kvm_slot *s;
	int err = -ENOENT;

	pthread_mutex_lock(&vm->mem_lock);
	s = kvm_slot_find(vm, gpa, len);
	if (s != NULL) {
		log.slot = (uint32_t)(s - vm->slot);
		err = kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log);
	}
	pthread_mutex_unlock(&vm->mem_lock);
	return err;
}

size_t
kvm_mem_peek(struct kvm_vm *vm, uint64_t gpa, void *buf, size_t len)
{
	pthread_mutex_lock(&vm->mem_lock);
	for (uint32_t i = 0; i < vm->slots; i++) {
		const struct kvm_slot *s = &vm->slot[i];

		if (gpa < s->gpa || gpa - s->gpa >= s->len)
			continue;
		len = MIN(len, s->len - (gpa - s->gpa));
		memcpy(buf, s->hva + (gpa - s->gpa), len);
		pthread_mutex_unlock(&vm->mem_lock);
		return len;
	}
	pthread_mutex_unlock(&vm->mem_lock);
	return 0;
}
