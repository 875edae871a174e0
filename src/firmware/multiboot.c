/*
 * Multiboot 1 (Multiboot Specification 0.6.96): 32-bit protected mode without paging, EAX holding a
 * magic number and EBX pointing to the multiboot information.
 *
 * The kernel is an ELF file, or any file whose multiboot header says where it goes (3.1.3). The
 * command line is the kernel's path, a space, and the arguments, as GRUB passes it.
 */
#include "firmware/loader.h"

#include "base/log.h"
#include "firmware/e820.h"
#include "firmware/layout.h"
#include "vm/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MULTIBOOT_MAGIC 0x1badb002u
#define MULTIBOOT_LOADER_MAGIC 0x2badb002u
#define MULTIBOOT_ALIGN 4u /* of the header, in the first BOOT_HEAD_SIZE bytes (3.1) */

/* 3.1.1 and 3.1.3 */
struct multiboot_header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr; /* the rest: only with MULTIBOOT_ADDRESSES */
	uint32_t load_addr, load_end_addr, bss_end_addr, entry_addr;
};
#define MULTIBOOT_HEADER_SHORT offsetof(struct multiboot_header, header_addr)

#define MULTIBOOT_PAGE_ALIGN BIT(0)
#define MULTIBOOT_MEMORY_INFO BIT(1)
#define MULTIBOOT_VIDEO BIT(2)
#define MULTIBOOT_MANDATORY 0xffffu /* a loader that does not know one of these must refuse */
#define MULTIBOOT_ADDRESSES BIT(16)

/* 3.3, up to the fields we have something to say about */
struct multiboot_info {
	uint32_t flags;
	uint32_t mem_lower, mem_upper; /* KiB */
	uint32_t boot_device;
	uint32_t cmdline;
	uint32_t mods_count, mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length, mmap_addr;
	uint32_t drives_length, drives_addr;
	uint32_t config_table;
	uint32_t boot_loader_name;
	uint32_t apm_table;
	uint32_t vbe_control_info, vbe_mode_info;
	uint16_t vbe_mode, vbe_interface_seg, vbe_interface_off, vbe_interface_len;
};
static_assert(sizeof(struct multiboot_info) == 88, "Multiboot 3.3");

#define MULTIBOOT_INFO_MEMORY BIT(0)
#define MULTIBOOT_INFO_CMDLINE BIT(2)
#define MULTIBOOT_INFO_MODS BIT(3)
#define MULTIBOOT_INFO_MMAP BIT(6)
#define MULTIBOOT_INFO_LOADER BIT(9)

struct multiboot_module {
	uint32_t start, end;
	uint32_t string;
	uint32_t reserved;
};

struct multiboot_mmap {
	uint32_t size; /* of what follows */
	uint64_t base, length;
	uint32_t type;
} __attribute__((packed));

/* Everything the information points to but the command lines. */
struct multiboot_tables {
	struct multiboot_module module;
	char loader[16];
	struct multiboot_mmap map[E820_MAX];
};
static_assert(sizeof(struct multiboot_tables) <= LAYOUT_BOOT_TABLES_SIZE, "layout.h");
#define MULTIBOOT_TABLE(field)                                                                     \
	(LAYOUT_BOOT_TABLES + (uint32_t)offsetof(struct multiboot_tables, field))

/* Finds the header. Fields the file does not have are 0. Returns its offset, or -1. */
static int
multiboot_header_find(const struct boot_file *f, struct multiboot_header *out)
{
	for (size_t off = 0; off + MULTIBOOT_HEADER_SHORT <= f->head_len; off += MULTIBOOT_ALIGN) {
		struct multiboot_header h = { 0 };

		memcpy(&h, f->head + off, MIN(sizeof(h), f->head_len - off));
		if (h.magic == MULTIBOOT_MAGIC && h.magic + h.flags + h.checksum == 0) {
			*out = h;
			return (int)off;
		}
	}
	return -1;
}

bool
multiboot_match(const struct boot_file *f)
{
	struct multiboot_header h;

	return multiboot_header_find(f, &h) >= 0;
}

/* Turns the addresses in the header into an image of one segment. */
static int
multiboot_addresses_read(const struct boot_ctx *b, const struct multiboot_header *h, uint64_t off,
    struct elf_image *img)
{
	const struct boot_file *f = &b->kernel;
	struct elf_segment *seg = &img->seg[0];
	uint64_t before = (uint64_t)h->header_addr - h->load_addr; /* header from the load start */
	uint64_t load_end;

	memset(img, 0, sizeof(*img));
	if (off + sizeof(*h) > f->head_len) {
		log_error(f->path, "the file ends inside the multiboot header");
		return -EINVAL;
	}
	if (h->load_addr > h->header_addr || before > off) {
		log_error(f->path,
		    "the multiboot header, at offset %" PRIu64
		    ", says that it loads at 0x%x and the kernel at 0x%x",
		    off, h->header_addr, h->load_addr);
		return -EINVAL;
	}
	seg->offset = off - before;
	seg->paddr = h->load_addr;
	/* 0 stands for: to the end of the file, and no bss */
	load_end = h->load_end_addr != 0 ? h->load_end_addr : seg->paddr + f->size - seg->offset;
	if (load_end <= seg->paddr || load_end - seg->paddr > f->size - seg->offset) {
		log_error(f->path,
		    "the multiboot header announces a kernel from 0x%x to 0x%" PRIx64
		    ", the file holds %" PRIu64 " bytes of it",
		    h->load_addr, load_end, f->size - seg->offset);
		return -EINVAL;
	}
	seg->filesz = load_end - seg->paddr;
	seg->memsz = seg->filesz;
	if (h->bss_end_addr > load_end)
		seg->memsz = h->bss_end_addr - seg->paddr;
	if (!boot_range_usable(b, seg->paddr, seg->memsz)) {
		log_error(f->path,
		    "%" PRIu64 " bytes at 0x%" PRIx64 " lie outside the guest's usable memory",
		    seg->memsz, seg->paddr);
		return -ENOSPC;
	}
	seg->vaddr = seg->paddr;
	img->segs = 1;
	img->entry = h->entry_addr;
	img->end = seg->paddr + seg->memsz;
	return 0;
}

/* Command lines: the kernel's, and behind it the module's, which is its path. */
static int
multiboot_cmdlines_write(const struct boot_ctx *b, uint32_t *kernel, uint32_t *module)
{
	char buf[LAYOUT_CMDLINE_SIZE];
	const char *initrd = b->initrd.fd >= 0 ? b->initrd.path : "";
	size_t len = strlen(b->kernel.path) + 1 + strlen(b->cmdline) + 1;

	if (len + strlen(initrd) + 1 > sizeof(buf)) {
		log_error(b->kernel.path, "the command line has %zu characters, too many",
		    strlen(b->cmdline));
		return -E2BIG;
	}
	snprintf(buf, sizeof(buf), "%s %s", b->kernel.path, b->cmdline);
	memcpy(buf + len, initrd, strlen(initrd) + 1);
	boot_low_write(b, LAYOUT_CMDLINE, buf, len + strlen(initrd) + 1);
	*kernel = LAYOUT_CMDLINE;
	*module = LAYOUT_CMDLINE + (uint32_t)len;
	return 0;
}

static int
multiboot_info_write(const struct boot_ctx *b, uint64_t initrd)
{
	const struct e820_map *map = b->params->map;
	struct multiboot_info info = {
		.flags = MULTIBOOT_INFO_MEMORY | MULTIBOOT_INFO_CMDLINE | MULTIBOOT_INFO_MODS |
		    MULTIBOOT_INFO_MMAP | MULTIBOOT_INFO_LOADER,
		.mem_lower = LAYOUT_EBDA / 1024,
		.mem_upper = boot_extmem_kib(b),
		.mods_count = initrd != 0 ? 1 : 0,
		.mods_addr = MULTIBOOT_TABLE(module),
		.mmap_length = (uint32_t)((size_t)map->count * sizeof(struct multiboot_mmap)),
		.mmap_addr = MULTIBOOT_TABLE(map),
		.boot_loader_name = MULTIBOOT_TABLE(loader),
	};
	struct multiboot_tables tables = { .loader = "bhyve" };
	uint32_t module_string;
	int err;

	err = multiboot_cmdlines_write(b, &info.cmdline, &module_string);
	if (err != 0)
		return err;
	if (initrd != 0)
		tables.module = (struct multiboot_module){
			.start = (uint32_t)initrd,
			.end = (uint32_t)(initrd + b->initrd.size),
			.string = module_string,
		};
	for (int i = 0; i < map->count; i++)
		tables.map[i] = (struct multiboot_mmap){
			.size = sizeof(struct multiboot_mmap) - sizeof(tables.map[i].size),
			.base = map->range[i].base,
			.length = map->range[i].size,
			.type = map->range[i].type,
		};
	boot_low_write(b, LAYOUT_BOOT_INFO, &info, sizeof(info));
	boot_low_write(b, LAYOUT_BOOT_TABLES, &tables, sizeof(tables));
	return 0;
}

static int
multiboot_flags_check(const struct boot_file *f, uint32_t flags)
{
	uint32_t unknown = flags & MULTIBOOT_MANDATORY &
	    ~(MULTIBOOT_PAGE_ALIGN | MULTIBOOT_MEMORY_INFO | MULTIBOOT_VIDEO);

	if (unknown != 0) {
		log_error(f->path, "the multiboot header requires unknown features (flags 0x%x)",
		    unknown);
		return -ENOTSUP;
	}
	/* Many kernels that ask for one go on without; the information says there is none. */
	if (flags & MULTIBOOT_VIDEO)
		log_warn(f->path, "the kernel asks for a video mode, which it does not get");
	return 0;
}

int
multiboot_load(struct boot_ctx *b, const struct elf_image *elf)
{
	const struct boot_file *f = &b->kernel;
	struct multiboot_header h;
	struct elf_image addresses;
	const struct elf_image *img = elf;
	int off = multiboot_header_find(f, &h);
	uint64_t initrd;
	int err;

	assert(off >= 0); /* multiboot_match() found one */
	err = multiboot_flags_check(f, h.flags);
	if (err != 0)
		return err;
	if (h.flags & MULTIBOOT_ADDRESSES) {
		err = multiboot_addresses_read(b, &h, (uint64_t)off, &addresses);
		if (err != 0)
			return err;
		img = &addresses;
	}
	if (img == NULL) {
		log_error(f->path,
		    "a multiboot header without load addresses, in a file that is not ELF");
		return -ENOEXEC;
	}
	if (!elf_has_address(img, img->entry)) {
		log_error(f->path, "the entry 0x%" PRIx64 " lies outside the kernel", img->entry);
		return -EINVAL;
	}
	err = boot_initrd_load(b, MAX(img->end, (uint64_t)LAYOUT_HIGH), UINT64_MAX, &initrd);
	if (err == 0)
		err = elf_load(b, img);
	if (err == 0)
		err = multiboot_info_write(b, initrd);
	if (err != 0)
		return err;

	boot_cpu_protected(b, (uint32_t)img->entry);
	b->cpu->gpr[X86_RAX] = MULTIBOOT_LOADER_MAGIC;
	b->cpu->gpr[X86_RBX] = LAYOUT_BOOT_INFO;
	return 0;
}
