/*
 * Guest-physical memory.
 *
 *	0 .. low            RAM (low is at most 3 GiB)
 *	3 GiB .. 4 GiB      the hole: 32-bit PCI window, IOAPIC, HPET, local APIC, boot ROM
 *	4 GiB .. 4 GiB+high the rest of RAM
 *
 * One memfd, mapped shared, backs all RAM. Every accessor checks the whole length against RAM: a
 * guest address is never turned into a pointer by hand. All functions are thread-safe. Copies are
 * not atomic with respect to vCPUs, as DMA is not; aligned 1, 2, 4 and 8-byte copies are.
 */
#ifndef VM_MEM_H
#define VM_MEM_H

#include "vm/vm.h"

#define VM_LOWMEM_MAX GIB(3)
#define VM_HIGHMEM_BASE GIB(4)

uint64_t vm_mem_low(const struct vm *vm); /* bytes of RAM below the hole */
uint64_t vm_mem_high(const struct vm *vm); /* bytes of RAM from 4 GiB on */
int vm_mem_fd(const struct vm *vm); /* the memfd; low RAM first, then high */

/* Copies len bytes. 0, or -EFAULT when any byte is outside RAM (nothing is copied then). */
int vm_mem_read(struct vm *vm, uint64_t gpa, void *buf, uint64_t len);
int vm_mem_write(struct vm *vm, uint64_t gpa, const void *buf, uint64_t len);
int vm_mem_zero(struct vm *vm, uint64_t gpa, uint64_t len);

/* A pointer to len bytes of RAM at gpa for direct I/O, or NULL when any byte is outside RAM or the
 * range spans the hole. Valid until the VM is destroyed. Whoever wrote through it calls
 * vm_mem_written() when the data is there and before telling the guest. */
void *vm_mem_ptr(struct vm *vm, uint64_t gpa, uint64_t len);
/* The guest's address of a byte that vm_mem_ptr() gave a pointer to. */
uint64_t vm_mem_gpa(const struct vm *vm, const void *ptr);
/* Tells the engine that guest memory changed under it (translated code, dirty logging). */
void vm_mem_written(struct vm *vm, uint64_t gpa, uint64_t len);

/* Maps a read-only image (a boot ROM) in the hole: page-aligned, a private copy is made. Main thread.
 * 0 or -errno. */
int vm_mem_add_rom(struct vm *vm, uint64_t gpa, const void *image, uint64_t len);

#endif
