/*
 * The boot loaders on any bytes: every kernel either loads to a sound entry state or is refused.
 *
 * The first byte of the input chooses a start: plain bytes, or a kernel of each kind that the rest
 * of the input is laid over, so that the checks behind the magic numbers are reached from the first
 * run. The overlay is a list of records: where (two bytes), how many (one byte), and the bytes.
 */
#include "../unit/mock_engine.h"

#include "firmware/boot.h"
#include "firmware/e820.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#define IMAGE_MAX KIB(32)
#define GUEST_MEMORY MIB(16)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerInitialize(int *argc, char ***argv);

struct fuzz {
	struct vm *vm;
	struct engine_ops engine;
	struct x86_cpuid *cpuid;
	struct e820_map map;
	int kernel, initrd;
	char kernel_path[64], initrd_path[64];
	struct x86_state reset;
};

static struct fuzz fuzz;

static const struct x86_cpuid *
fuzz_cpuid(struct engine_vm *evm)
{
	return fuzz.cpuid;
}

static int
fuzz_file(char path[64])
{
	int fd = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd < 0)
		abort();
	snprintf(path, 64, "/proc/self/fd/%d", fd);
	return fd;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	const struct x86_cpuid_mask mask = { 0 };
	struct vm_params params = {
		.name = "fuzz", .engine = &fuzz.engine, .memory = GUEST_MEMORY, .topo = { 1, 1, 1 },
	};

	fuzz.engine = mock_engine;
	fuzz.engine.cpuid = fuzz_cpuid;
	fuzz.cpuid = x86_cpuid_create(x86_cpuid_host, NULL, &mask, &params.topo, 0);
	if (fuzz.cpuid == NULL || vm_create(&params, &fuzz.vm) != 0)
		abort();
	e820_init(&fuzz.map, vm_mem_low(fuzz.vm), vm_mem_high(fuzz.vm));
	vm_vcpu_get(fuzz.vm, 0, &fuzz.reset);
	fuzz.kernel = fuzz_file(fuzz.kernel_path);
	fuzz.initrd = fuzz_file(fuzz.initrd_path);
	if (write(fuzz.initrd, "initrd", 6) != 6)
		abort();
	return 0;
}

static void
fuzz_put(uint8_t *image, size_t off, uint64_t val, size_t size)
{
	memcpy(image + off, &val, size);
}

static void
fuzz_start_linux(uint8_t *image)
{
	fuzz_put(image, 0x1f1, 1, 1);
	fuzz_put(image, 0x1f4, (IMAGE_MAX - 1024) / 16, 4);
	fuzz_put(image, 0x1fe, 0xaa55, 2);
	fuzz_put(image, 0x201, 0x6a, 1);
	fuzz_put(image, 0x202, 0x53726448, 4);
	fuzz_put(image, 0x206, 0x20f, 2);
	fuzz_put(image, 0x211, 1, 1);
	fuzz_put(image, 0x22c, 0x7fffffff, 4);
	fuzz_put(image, 0x230, 0x200000, 4);
	fuzz_put(image, 0x234, 1, 1);
	fuzz_put(image, 0x238, 255, 4);
	fuzz_put(image, 0x258, 0x200000, 8);
	fuzz_put(image, 0x260, 0x100000, 4);
}

static void
fuzz_start_elf64(uint8_t *image)
{
	const Elf64_Ehdr eh = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_entry = 0x100000,
		.e_phoff = sizeof(eh), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 2,
	};
	const Elf64_Phdr ph[2] = {
		{ .p_type = PT_LOAD, .p_offset = 0x400, .p_paddr = 0x100000, .p_filesz = 0x100,
		    .p_memsz = 0x200 },
		{ .p_type = PT_NOTE, .p_offset = 0x200, .p_filesz = 0x40 },
	};

	memcpy(image, &eh, sizeof(eh));
	memcpy(image + sizeof(eh), ph, sizeof(ph));
	memcpy(image + 0x200, "\4\0\0\0\4\0\0\0\22\0\0\0Xen\0\0\0\20\0", 20);
}

static void
fuzz_start_elf32(uint8_t *image)
{
	const Elf32_Ehdr eh = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC, .e_machine = EM_386, .e_entry = 0x100000, .e_phoff = sizeof(eh),
		.e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 1,
	};
	const Elf32_Phdr ph = {
		.p_type = PT_LOAD, .p_offset = 0x400, .p_vaddr = 0x100000, .p_paddr = 0x100000,
		.p_filesz = 0x100, .p_memsz = 0x200,
	};

	memcpy(image, &eh, sizeof(eh));
	memcpy(image + sizeof(eh), &ph, sizeof(ph));
	fuzz_put(image, 0x400, 0x1badb002, 4);
	fuzz_put(image, 0x408, -0x1badb002u, 4);
}

static void
fuzz_start_multiboot(uint8_t *image)
{
	const uint32_t header[8] = { 0x1badb002, 0x10000, -(0x1badb002u + 0x10000), 0x100010,
		0x100000, 0x101000, 0x102000, 0x100030 };

	memcpy(image + 0x10, header, sizeof(header));
}

/* Lays the records over the image; returns how many bytes of it are the file. */
static size_t
fuzz_overlay(uint8_t *image, const uint8_t *data, size_t len)
{
	size_t size = IMAGE_MAX;

	while (len >= 3) {
		size_t off = (size_t)(data[0] | data[1] << 8) % IMAGE_MAX;
		size_t n = MIN(data[2], len - 3);

		if (data[2] == 0)
			size = off;
		memcpy(image + off, data + 3, MIN(n, IMAGE_MAX - off));
		data += 3 + n;
		len -= 3 + n;
	}
	return size;
}

/* What every accepted kernel must have: an entry inside RAM above the loaders' own data. */
static void
fuzz_check(const struct x86_state *s)
{
	uint64_t pa = s->rip;

	if (vm_mem_ptr(fuzz.vm, pa, 1) == NULL || pa < 0x30000)
		abort();
	if (s->seg[X86_CS].selector != 0x10 || !(s->cr0 & X86_CR0_PE))
		abort();
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	static void (*const starts[])(uint8_t *image) = {
		fuzz_start_linux, fuzz_start_elf64, fuzz_start_elf32, fuzz_start_multiboot,
	};
	static uint8_t image[IMAGE_MAX];
	struct boot_params p = {
		.kernel = fuzz.kernel_path, .cmdline = "fuzz", .map = &fuzz.map,
	};
	struct x86_state s = fuzz.reset;
	size_t size;

	if (len == 0)
		return 0;
	if (data[0] & 0x80)
		p.initrd = fuzz.initrd_path;
	memset(image, 0, sizeof(image));
	if ((data[0] & 0x7f) < ARRAY_SIZE(starts)) {
		starts[data[0] & 0x7f](image);
		size = fuzz_overlay(image, data + 1, len - 1);
	} else {
		size = MIN(len - 1, sizeof(image));
		memcpy(image, data + 1, size);
	}
	if (ftruncate(fuzz.kernel, 0) != 0 || pwrite(fuzz.kernel, image, size, 0) != (ssize_t)size)
		abort();
	if (boot_load(fuzz.vm, &p, &s) == 0)
		fuzz_check(&s);
	else if (memcmp(&s, &fuzz.reset, sizeof(s)) != 0)
		abort();
	return 0;
}
