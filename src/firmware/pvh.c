/*
 * The PVH entry (Xen, docs/misc/pvh.pandoc; public/arch-x86/hvm/start_info.h, version 1): 32-bit
 * protected mode without paging, EBX pointing to the start info.
 */
#include "firmware/loader.h"

#include "base/log.h"
#include "firmware/e820.h"
#include "firmware/layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define PVH_MAGIC 0x336ec578u
#define PVH_VERSION 1u

struct pvh_start_info {
	uint32_t magic, version;
	uint32_t flags;
	uint32_t nr_modules;
	uint64_t modlist_paddr;
	uint64_t cmdline_paddr;
	uint64_t rsdp_paddr;
	uint64_t memmap_paddr;
	uint32_t memmap_entries;
	uint32_t reserved;
};
static_assert(sizeof(struct pvh_start_info) == 56, "start_info.h");

struct pvh_module {
	uint64_t paddr, size;
	uint64_t cmdline_paddr;
	uint64_t reserved;
};
static_assert(sizeof(struct pvh_module) == 32, "start_info.h");

struct pvh_memmap { /* type as in E820 */
	uint64_t addr, size;
	uint32_t type;
	uint32_t reserved;
};
static_assert(sizeof(struct pvh_memmap) == 24, "start_info.h");

/* Everything the start info points to but the command line. */
struct pvh_tables {
	struct pvh_module module;
	struct pvh_memmap map[E820_MAX];
};
static_assert(sizeof(struct pvh_tables) <= LAYOUT_BOOT_TABLES_SIZE, "layout.h");

static void
pvh_info_write(const struct boot_ctx *b, uint64_t initrd)
{
	const struct e820_map *map = b->params->map;
	struct pvh_start_info info = {
		.magic = PVH_MAGIC,
		.version = PVH_VERSION,
		.nr_modules = initrd != 0 ? 1 : 0,
		.modlist_paddr = initrd != 0 ?
		    LAYOUT_BOOT_TABLES + offsetof(struct pvh_tables, module) :
		    0,
		.cmdline_paddr = LAYOUT_CMDLINE,
		.rsdp_paddr = b->params->rsdp,
		.memmap_paddr = LAYOUT_BOOT_TABLES + offsetof(struct pvh_tables, map),
		.memmap_entries = (uint32_t)map->count,
	};
	struct pvh_tables tables = { 0 };

	if (initrd != 0)
		tables.module = (struct pvh_module){ .paddr = initrd, .size = b->initrd.size };
	for (int i = 0; i < map->count; i++)
		tables.map[i] = (struct pvh_memmap){
			.addr = map->range[i].base,
			.size = map->range[i].size,
			.type = map->range[i].type,
		};
	boot_low_write(b, LAYOUT_BOOT_INFO, &info, sizeof(info));
	boot_low_write(b, LAYOUT_BOOT_TABLES, &tables, sizeof(tables));
	boot_low_write(b, LAYOUT_CMDLINE, b->cmdline, strlen(b->cmdline) + 1);
}

int
pvh_load(struct boot_ctx *b, const struct elf_image *img)
{
	uint64_t initrd;
	int err;

	if (!elf_has_address(img, img->pvh_entry)) {
		log_error(b->kernel.path, "the PVH entry 0x%" PRIx64 " lies in no segment",
		    img->pvh_entry);
		return -EINVAL;
	}
	if (strlen(b->cmdline) >= LAYOUT_CMDLINE_SIZE) {
		log_error(b->kernel.path, "the command line has %zu characters, %u is the most",
		    strlen(b->cmdline), LAYOUT_CMDLINE_SIZE - 1);
		return -E2BIG;
	}
	err = boot_initrd_load(b, MAX(img->end, (uint64_t)LAYOUT_HIGH), UINT64_MAX, &initrd);
	if (err == 0)
		err = elf_load(b, img);
	if (err != 0)
		return err;

	pvh_info_write(b, initrd);
	boot_cpu_protected(b, (uint32_t)img->pvh_entry);
	b->cpu->gpr[X86_RBX] = LAYOUT_BOOT_INFO;
	return 0;
}
