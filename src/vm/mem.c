/*
 * Guest-physical memory: one memfd, and ROM images in the hole.
 */
#include "vm/mem.h"
#include "vm/private.h"

#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#define VM_MEM_PAGE KIB(4)
#define VM_MEM_ROMS 8
/* RAM starts on such a boundary of the host's, so that huge pages can back it. */
#define VM_MEM_ALIGN MIB(2)

#define VM_MEM_WHO "memory.size"

struct vm_mem {
	int fd;
	uint8_t *ram; /* low, then high */
	uint64_t low, high;
	void *reserved; /* the address range RAM lies in */
	uint64_t reserved_size;
	struct vm_mem_rom {
		uint64_t gpa, len;
		uint8_t *image;
	} rom[VM_MEM_ROMS];
	int roms;
};

int
vm_mem_check(const struct vm_params *params)
{
	uint64_t size = params->memory, host;
	struct sysinfo si;

	if (size < MIB(1) || size % VM_MEM_PAGE != 0) {
		log_error(VM_MEM_WHO, "%llu bytes: expected at least 1 MiB in multiples of 4 KiB",
		    (unsigned long long)size);
		return -EINVAL;
	}
	if (sysinfo(&si) != 0)
		return 0;
	host = (uint64_t)(si.totalram + si.totalswap) * si.mem_unit;
	if (size > host) {
		log_error(VM_MEM_WHO, "%llu MiB is more than this host's memory and swap, %llu MiB",
		    (unsigned long long)(size >> 20), (unsigned long long)(host >> 20));
		return -ENOMEM;
	}
	return 0;
}

/* Maps the memfd on a huge-page boundary. */
static int
vm_mem_map_ram(struct vm_mem *m, uint64_t size)
{
	uint8_t *start, *ram;

	m->reserved_size = size + VM_MEM_ALIGN;
	start = mmap(NULL, m->reserved_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
	    -1, 0);
	if (start == MAP_FAILED)
		return -errno;
	m->reserved = start;
	ram = (uint8_t *)ALIGN_UP((uintptr_t)start, VM_MEM_ALIGN);
	if (mmap(ram, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED | MAP_NORESERVE, m->fd,
		0) == MAP_FAILED)
		return -errno;
	m->ram = ram;
	return 0;
}

static int
vm_mem_alloc(struct vm_mem *m, const struct vm_params *params)
{
	unsigned long long mib = params->memory >> 20;
	char name[64];
	int err;

	snprintf(name, sizeof(name), "bhyve-%s", params->name);
	m->fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (m->fd < 0 || ftruncate(m->fd, (off_t)params->memory) != 0) {
		err = -errno;
		goto failed;
	}
	/* A process it is shared with must not be able to take it away under us. */
	if (fcntl(m->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0) {
		err = -errno;
		goto failed;
	}
	err = vm_mem_map_ram(m, params->memory);
	if (err != 0)
		goto failed;
	/* Both are advice: a kernel without them runs the guest as well. */
	(void)madvise(m->ram, params->memory, MADV_HUGEPAGE);
	if (!params->core_memory)
		(void)madvise(m->ram, params->memory, MADV_DONTDUMP);
	if (params->wire_memory && mlock(m->ram, params->memory) != 0) {
		err = -errno;
		log_error("memory.wired", "cannot lock %llu MiB of guest memory: %s", mib,
		    strerror(-err));
		return err;
	}
	return 0;
failed:
	log_error(VM_MEM_WHO, "cannot get %llu MiB of guest memory: %s", mib, strerror(-err));
	return err;
}

int
vm_mem_create(struct vm *vm)
{
	const struct engine_ops *engine = vm->params.engine;
	const unsigned prot = ENGINE_MEM_READ | ENGINE_MEM_WRITE | ENGINE_MEM_EXEC;
	struct vm_mem *m = calloc(1, sizeof(*m));
	int err;

	if (m == NULL)
		return -ENOMEM;
	vm->mem = m;
	m->fd = -1;
	err = vm_mem_alloc(m, &vm->params);
	if (err != 0)
		goto destroy;
	m->low = MIN(vm->params.memory, VM_LOWMEM_MAX);
	m->high = vm->params.memory - m->low;
	err = engine->mem_map(vm->engine, 0, m->ram, m->low, prot);
	if (err == 0 && m->high != 0)
		err = engine->mem_map(vm->engine, VM_HIGHMEM_BASE, m->ram + m->low, m->high, prot);
	if (err != 0)
		goto destroy;
	return 0;
destroy:
	vm_mem_destroy(vm);
	return err;
}

void
vm_mem_destroy(struct vm *vm)
{
	struct vm_mem *m = vm->mem;

	if (m == NULL)
		return;
	for (int i = 0; i < m->roms; i++)
		munmap(m->rom[i].image, m->rom[i].len);
	if (m->reserved != NULL)
		munmap(m->reserved, m->reserved_size);
	if (m->fd >= 0)
		close(m->fd);
	free(m);
	vm->mem = NULL;
}

uint64_t
vm_mem_low(const struct vm *vm)
{
	return vm->mem->low;
}

uint64_t
vm_mem_high(const struct vm *vm)
{
	return vm->mem->high;
}

int
vm_mem_fd(const struct vm *vm)
{
	return vm->mem->fd;
}

void *
vm_mem_ptr(struct vm *vm, uint64_t gpa, uint64_t len)
{
	const struct vm_mem *m = vm->mem;
	uint64_t off = gpa - VM_HIGHMEM_BASE;

	if (gpa < m->low && len <= m->low - gpa)
		return m->ram + gpa;
	if (gpa >= VM_HIGHMEM_BASE && off < m->high && len <= m->high - off)
		return m->ram + m->low + off;
	return NULL;
}

uint64_t
vm_mem_gpa(const struct vm *vm, const void *ptr)
{
	const struct vm_mem *m = vm->mem;
	uint64_t off = (uint64_t)((const uint8_t *)ptr - m->ram);

	assert(off < m->low + m->high);
	return off < m->low ? off : VM_HIGHMEM_BASE + (off - m->low);
}

void
vm_mem_written(struct vm *vm, uint64_t gpa, uint64_t len)
{
	if (vm->params.engine->mem_written != NULL && len != 0)
		vm->params.engine->mem_written(vm->engine, gpa, len);
}

/* Copies; aligned 1, 2, 4 and 8 bytes in one access, because a vCPU may be looking at the very word
 * (a ring index, a flag). */
static void
vm_mem_copy(void *dst, const void *src, uint64_t len, const void *guest)
{
	if (((uintptr_t)guest & (len - 1)) == 0) {
		switch (len) {
		case 1: *(volatile uint8_t *)dst = *(const volatile uint8_t *)src; return;
		case 2: *(volatile uint16_t *)dst = *(const volatile uint16_t *)src; return;
		case 4: *(volatile uint32_t *)dst = *(const volatile uint32_t *)src; return;
		case 8: *(volatile uint64_t *)dst = *(const volatile uint64_t *)src; return;
		}
	}
	memcpy(dst, src, len);
}

int
vm_mem_read(struct vm *vm, uint64_t gpa, void *buf, uint64_t len)
{
	const void *ram = vm_mem_ptr(vm, gpa, len);

	if (ram == NULL)
		return -EFAULT;
	vm_mem_copy(buf, ram, len, ram);
	return 0;
}

bool
vm_mem_load(struct vm *vm, uint64_t gpa, void *buf, uint64_t len)
{
	const struct vm_mem *m = vm->mem;

	if (vm_mem_read(vm, gpa, buf, len) == 0)
		return true;
	for (int i = 0; i < m->roms; i++) {
		const struct vm_mem_rom *rom = &m->rom[i];
		uint64_t off = gpa - rom->gpa;

		if (gpa >= rom->gpa && off < rom->len && len <= rom->len - off) {
			memcpy(buf, rom->image + off, len);
			return true;
		}
	}
	return false;
}

int
vm_mem_write(struct vm *vm, uint64_t gpa, const void *buf, uint64_t len)
{
	void *ram = vm_mem_ptr(vm, gpa, len);

	if (ram == NULL)
		return -EFAULT;
	vm_mem_copy(ram, buf, len, ram);
	vm_mem_written(vm, gpa, len);
	return 0;
}

int
vm_mem_zero(struct vm *vm, uint64_t gpa, uint64_t len)
{
	void *ram = vm_mem_ptr(vm, gpa, len);

	if (ram == NULL)
		return -EFAULT;
	memset(ram, 0, len);
	vm_mem_written(vm, gpa, len);
	return 0;
}

int
vm_mem_add_rom(struct vm *vm, uint64_t gpa, const void *image, uint64_t len)
{
	struct vm_mem *m = vm->mem;
	struct vm_mem_rom rom = { .gpa = gpa, .len = len };
	int err;

	if (len == 0 || (gpa | len) % VM_MEM_PAGE != 0 || gpa < VM_LOWMEM_MAX ||
	    gpa >= VM_HIGHMEM_BASE || len > VM_HIGHMEM_BASE - gpa)
		return -EINVAL;
	for (int i = 0; i < m->roms; i++) {
		if (gpa < m->rom[i].gpa + m->rom[i].len && m->rom[i].gpa < gpa + len)
			return -EEXIST;
	}
	if (m->roms == VM_MEM_ROMS)
		return -ENOSPC;
	rom.image = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (rom.image == MAP_FAILED)
		return -errno;
	memcpy(rom.image, image, len);
	/* The guest must not change it through some path that does not know what a ROM is. */
	if (mprotect(rom.image, len, PROT_READ) != 0) {
		err = -errno;
		goto unmap;
	}
	err = vm->params.engine->mem_map(vm->engine, gpa, rom.image, len,
	    ENGINE_MEM_READ | ENGINE_MEM_EXEC);
	if (err != 0)
		goto unmap;
	m->rom[m->roms++] = rom;
	return 0;
unmap:
	munmap(rom.image, len);
	return err;
}
