/*
 * Port and MMIO dispatch. A device registers the ranges it answers to; accesses reach it aligned and
 * in sizes it asked for: the bus splits wider or misaligned accesses and widens narrow ones (read,
 * merge; a write narrower than min_size is a read-modify-write).
 *
 *	static const struct vm_range_ops hpet_ops = { "hpet", hpet_read, hpet_write, 4, 8 };
 *	d->range = (struct vm_range){ .ops = &hpet_ops, .ctx = d, .space = VM_MMIO,
 *	    .base = 0xfed00000, .size = 1024 };
 *	err = vm_range_add(vm, &d->range);
 *
 * Adding and removing may happen on any thread while vCPUs run (a guest moves a BAR). A handler may
 * still be running for a short while after vm_range_remove() returned on another thread, so a device's
 * memory lives until the VM's end.
 */
#ifndef VM_BUS_H
#define VM_BUS_H

#include "vm/vm.h"

enum vm_space { VM_PIO, VM_MMIO };

struct vm_range_ops {
	const char *name; /* for messages: the device */
	/* off is from the range's base, size is min_size..max_size and off a multiple of it. On a
	 * vCPU's thread (or the main thread, in tests); no lock is held. Must not block. NULL read: all
	 * ones; NULL write: ignored. */
	uint64_t (*read)(void *ctx, uint64_t off, int size);
	void (*write)(void *ctx, uint64_t off, int size, uint64_t val);
	uint8_t min_size, max_size; /* powers of two; 0, 0 means 1 and 8 (MMIO) or 4 (ports) */
};

struct vm_range {
	const struct vm_range_ops *ops;
	void *ctx;
	enum vm_space space;
	uint64_t base, size;
	/* A range others may lie over: it gets what they do not claim (an MMIO window, port 0x80). */
	bool background;
};

/* Adds a range; the struct is copied. 0; -EEXIST when it overlaps another of the same kind (say who
 * with vm_range_find); -EINVAL outside the space or empty; -ENOSPC when there are too many (4096). */
int vm_range_add(struct vm *vm, const struct vm_range *range);
/* Removes the range that was added with these space, base and ctx; absent is not an error. */
void vm_range_remove(struct vm *vm, const struct vm_range *range);
/* The name of the device that answers at addr, or NULL. */
const char *vm_range_find(struct vm *vm, enum vm_space space, uint64_t addr);

/* Performs an access, as a vCPU does. Any size of 1 to 8, any alignment. */
uint64_t vm_bus_read(struct vm *vm, enum vm_space space, uint64_t addr, int size);
void vm_bus_write(struct vm *vm, enum vm_space space, uint64_t addr, int size, uint64_t val);

/*
 * Doorbells: a write of the given size to addr (MMIO or port) only runs notify. An engine may turn it
 * into an event without an exit; notify then runs on another thread. 0 or -errno as vm_range_add; the
 * address must lie in a range of the same device, whose handler is then not called for it.
 */
typedef void vm_doorbell_fn(void *ctx, uint64_t val);
int vm_doorbell_add(struct vm *vm, enum vm_space space, uint64_t addr, int size,
    vm_doorbell_fn *notify, void *ctx);
void vm_doorbell_remove(struct vm *vm, enum vm_space space, uint64_t addr);

#endif
