/*
 * Linux bzImage (Documentation/arch/x86/boot.rst and zero-page.rst, protocol 2.06 to 2.15).
 *
 * The file is a real-mode part, of which only the header is of use here, and the protected-mode
 * kernel behind it. A relocatable kernel goes to its preferred address, or, when memory does not
 * reach there, to the lowest one it can live with. Kernels that offer it are entered in 64-bit
 * mode.
 */
#include "firmware/loader.h"

#include "base/log.h"
#include "firmware/e820.h"
#include "firmware/layout.h"
#include "vm/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

/* The setup header, from offset 0x1f1 of the file and of the zero page (boot.rst, "The Real-Mode
 * Kernel Header") */
struct bzimage_header {
	uint8_t setup_sects;
	uint16_t root_flags;
	uint32_t syssize; /* of the protected-mode kernel, in units of 16 bytes */
	uint16_t ram_size;
	uint16_t vid_mode;
	uint16_t root_dev;
	uint16_t boot_flag;
	uint8_t jump, jump_offset; /* the header ends jump_offset bytes after this */
	uint32_t magic;
	uint16_t version;
	uint32_t realmode_swtch;
	uint16_t start_sys_seg, kernel_version;
	uint8_t type_of_loader;
	uint8_t loadflags;
	uint16_t setup_move_size;
	uint32_t code32_start;
	uint32_t ramdisk_image, ramdisk_size;
	uint32_t bootsect_kludge;
	uint16_t heap_end_ptr;
	uint8_t ext_loader_ver, ext_loader_type;
	uint32_t cmd_line_ptr;
	uint32_t initrd_addr_max; /* the highest byte an initial RAM disk may occupy */
	uint32_t kernel_alignment;
	uint8_t relocatable_kernel;
	uint8_t min_alignment; /* a power of two */
	uint16_t xloadflags;
	uint32_t cmdline_size; /* characters, without the terminating zero */
	uint32_t hardware_subarch;
	uint64_t hardware_subarch_data;
	uint32_t payload_offset, payload_length;
	uint64_t setup_data;
	uint64_t pref_address;
	uint32_t init_size; /* memory needed from the run-time start on */
	uint32_t handover_offset;
	uint32_t kernel_info_offset;
} __attribute__((packed));
static_assert(offsetof(struct bzimage_header, magic) == 0x202 - 0x1f1, "boot.rst");
static_assert(offsetof(struct bzimage_header, cmdline_size) == 0x238 - 0x1f1, "boot.rst");
static_assert(sizeof(struct bzimage_header) == 0x26c - 0x1f1, "boot.rst");

#define BZIMAGE_HEADER 0x1f1u
#define BZIMAGE_HEADER_MAX (0x290u - BZIMAGE_HEADER) /* the room for it in the zero page */
#define BZIMAGE_END(field)                                                                         \
	(offsetof(struct bzimage_header, field) + sizeof(((struct bzimage_header *)0)->field))
#define BZIMAGE_BOOT_FLAG 0xaa55
#define BZIMAGE_MAGIC 0x53726448u /* "HdrS" */
#define BZIMAGE_SECTOR 512u
#define BZIMAGE_SETUP_SECTS_DEFAULT 4u
#define BZIMAGE_LOADED_HIGH BIT(0) /* loadflags */
#define BZIMAGE_LOADER_OTHER 0xff /* type_of_loader: no assigned number */
#define BZIMAGE_VIDEO_NORMAL 0xffff /* vid_mode: as the firmware left it */
#define BZIMAGE_XLF_KERNEL_64 BIT(0) /* xloadflags */
#define BZIMAGE_ENTRY64 0x200u /* offset of the 64-bit entry */

#define BZIMAGE_V(major, minor) ((major) << 8 | (minor))

/* The zero page (zero-page.rst), the fields a machine without a BIOS has something to say about.
 * All of screen_info stays zero: Linux then knows that there is no text console. */
struct bzimage_zero_page {
	uint8_t screen_info[0x40];
	uint8_t other1[0x70 - 0x40];
	uint64_t acpi_rsdp_addr;
	uint8_t other2[0x1e0 - 0x78];
	uint32_t alt_mem_k; /* memory above 1 MiB in KiB */
	uint8_t other3[0x1e8 - 0x1e4];
	uint8_t e820_entries;
	uint8_t other4[BZIMAGE_HEADER - 0x1e9];
	uint8_t header[BZIMAGE_HEADER_MAX];
	uint8_t other5[0x2d0 - 0x290];
	struct bzimage_e820 {
		uint64_t addr, size;
		uint32_t type;
	} __attribute__((packed)) e820_table[128];
	uint8_t other6[0x1000 - 0xcd0];
} __attribute__((packed));
static_assert(offsetof(struct bzimage_zero_page, acpi_rsdp_addr) == 0x70, "zero-page.rst");
static_assert(offsetof(struct bzimage_zero_page, e820_entries) == 0x1e8, "zero-page.rst");
static_assert(offsetof(struct bzimage_zero_page, e820_table) == 0x2d0, "zero-page.rst");
static_assert(sizeof(struct bzimage_zero_page) == LAYOUT_BOOT_INFO_SIZE, "zero-page.rst");
static_assert(E820_MAX <= 128, "the zero page holds 128 ranges");

/* A header that was found sound, in our terms. */
struct bzimage {
	struct bzimage_header hdr; /* fields beyond its own length are 0 */
	size_t hdr_len;
	uint64_t offset, size; /* of the protected-mode kernel in the file */
	uint64_t need; /* bytes of memory from the run-time start */
	uint64_t load; /* where it goes */
	uint64_t runtime; /* where it runs: elsewhere when it is not relocatable */
};

bool
bzimage_match(const struct boot_file *f)
{
	struct bzimage_header hdr;

	if (f->head_len < BZIMAGE_HEADER + BZIMAGE_END(version))
		return false;
	memcpy(&hdr, f->head + BZIMAGE_HEADER, BZIMAGE_END(version));
	return hdr.boot_flag == BZIMAGE_BOOT_FLAG && hdr.magic == BZIMAGE_MAGIC;
}

/* Takes the header out of the file; its own jump instruction says where it ends. */
static int
bzimage_header_read(const struct boot_file *f, struct bzimage *k)
{
	struct bzimage_header *hdr = &k->hdr;
	size_t need = BZIMAGE_END(cmdline_size);

	memset(hdr, 0, sizeof(*hdr));
	memcpy(hdr, f->head + BZIMAGE_HEADER, BZIMAGE_END(version));
	if (hdr->version < BZIMAGE_V(2, 6)) {
		log_error(f->path,
		    "Linux boot protocol %u.%02u is too old: 2.06 (Linux 2.6.22) is the least",
		    hdr->version >> 8, hdr->version & 0xff);
		return -ENOEXEC;
	}
	if (hdr->version >= BZIMAGE_V(2, 10))
		need = BZIMAGE_END(init_size);
	k->hdr_len = BZIMAGE_END(jump_offset) + hdr->jump_offset;
	if (k->hdr_len < need || k->hdr_len > BZIMAGE_HEADER_MAX) {
		log_error(f->path,
		    "the Linux setup header has a length of %zu bytes: not %zu to %u", k->hdr_len,
		    need, BZIMAGE_HEADER_MAX);
		return -EINVAL;
	}
	if (f->head_len < BZIMAGE_HEADER + k->hdr_len) {
		log_error(f->path, "the file ends inside the Linux setup header");
		return -EINVAL;
	}
	memcpy(hdr, f->head + BZIMAGE_HEADER, MIN(k->hdr_len, sizeof(*hdr)));
	return 0;
}

static int
bzimage_size_check(const struct boot_file *f, struct bzimage *k)
{
	uint64_t sects = k->hdr.setup_sects;
	uint64_t declared = (uint64_t)k->hdr.syssize * 16;

	if (!(k->hdr.loadflags & BZIMAGE_LOADED_HIGH)) {
		log_error(
		    f->path, "a zImage, which loads below 1 MiB: only bzImages are supported");
		return -ENOEXEC;
	}
	k->offset = ((sects != 0 ? sects : BZIMAGE_SETUP_SECTS_DEFAULT) + 1) * BZIMAGE_SECTOR;
	if (k->offset >= f->size) {
		log_error(f->path,
		    "truncated: the kernel starts at offset %" PRIu64 " of a file of %" PRIu64
		    " bytes",
		    k->offset, f->size);
		return -EINVAL;
	}
	k->size = f->size - k->offset;
	/* The unit rounds up; what follows the kernel (a signature) is not loaded. */
	if (declared > ALIGN_UP(k->size, 16)) {
		log_error(f->path,
		    "truncated: its header announces a kernel of %" PRIu64
		    " bytes, the file holds %" PRIu64,
		    declared, k->size);
		return -EINVAL;
	}
	if (declared <= BZIMAGE_ENTRY64) {
		log_error(f->path, "its header announces a kernel of only %" PRIu64 " bytes",
		    declared);
		return -EINVAL;
	}
	k->size = MIN(k->size, declared);
	return 0;
}

/* A relocatable kernel: at its preferred address, else as low as it goes, with less than its
 * preferred alignment if it has to be and the kernel permits it. */
static int
bzimage_place_relocatable(const struct boot_ctx *b, struct bzimage *k)
{
	struct bzimage_header *hdr = &k->hdr;
	uint64_t align = hdr->kernel_alignment;
	uint64_t pref = hdr->pref_address != 0 ? hdr->pref_address : LAYOUT_HIGH;
	uint64_t least;

	if (align == 0 || (align & (align - 1)) != 0) {
		log_error(b->kernel.path, "its header asks for an alignment of 0x%" PRIx64, align);
		return -EINVAL;
	}
	least = align;
	if (hdr->min_alignment > 0 && hdr->min_alignment < 32)
		least = BIT64(hdr->min_alignment);
	k->load = pref <= UINT32_MAX ? ALIGN_UP(pref, align) : UINT64_MAX;
	if (k->load < LAYOUT_HIGH || !boot_range_usable(b, k->load, k->need)) {
		do {
			k->load = ALIGN_UP((uint64_t)LAYOUT_HIGH, align);
			hdr->kernel_alignment = (uint32_t)align;
			align >>= 1;
		} while (!boot_range_usable(b, k->load, k->need) && align >= least);
	}
	k->runtime = k->load;
	return boot_range_usable(b, k->load, k->need) ? 0 : -ENOSPC;
}

/* A kernel that is not relocatable is loaded at 1 MiB and moves itself to where it runs. */
static int
bzimage_place_fixed(const struct boot_ctx *b, struct bzimage *k)
{
	k->load = LAYOUT_HIGH;
	k->runtime = k->hdr.pref_address != 0 ? k->hdr.pref_address : LAYOUT_HIGH;
	if (k->runtime < LAYOUT_HIGH) {
		log_error(b->kernel.path, "its header asks to run at 0x%" PRIx64 ", below 1 MiB",
		    k->runtime);
		return -EINVAL;
	}
	if (!boot_range_usable(b, k->load, k->size) || !boot_range_usable(b, k->runtime, k->need))
		return -ENOSPC;
	return 0;
}

static int
bzimage_place(const struct boot_ctx *b, struct bzimage *k)
{
	int err;

	k->need = MAX(k->hdr.init_size, k->size);
	err = k->hdr.relocatable_kernel ? bzimage_place_relocatable(b, k) :
					  bzimage_place_fixed(b, k);
	if (err == -ENOSPC)
		log_error(b->kernel.path,
		    "needs %" PRIu64 " MiB of memory at 0x%" PRIx64
		    ", the guest has %" PRIu64 " MiB below 4 GiB",
		    ALIGN_UP(k->need, MIB(1)) / MIB(1),
		    k->hdr.relocatable_kernel ? k->load : k->runtime, vm_mem_low(b->vm) / MIB(1));
	return err;
}

static int
bzimage_cmdline_check(const struct boot_ctx *b, const struct bzimage *k)
{
	size_t len = strlen(b->cmdline);
	size_t max = MIN(k->hdr.cmdline_size, LAYOUT_CMDLINE_SIZE - 1);

	if (len <= max)
		return 0;
	log_error(b->kernel.path, "the command line has %zu characters, this kernel takes %zu", len,
	    max);
	return -E2BIG;
}

static void
bzimage_zero_page_write(const struct boot_ctx *b, struct bzimage *k, uint64_t initrd)
{
	const struct e820_map *map = b->params->map;
	struct bzimage_header *hdr = &k->hdr;
	struct bzimage_zero_page zp = {
		.acpi_rsdp_addr = b->params->rsdp,
		.alt_mem_k = boot_extmem_kib(b),
		.e820_entries = (uint8_t)map->count,
	};

	hdr->vid_mode = BZIMAGE_VIDEO_NORMAL;
	hdr->type_of_loader = BZIMAGE_LOADER_OTHER;
	hdr->code32_start = (uint32_t)k->load;
	hdr->ramdisk_image = (uint32_t)initrd;
	hdr->ramdisk_size = initrd != 0 ? (uint32_t)b->initrd.size : 0;
	hdr->cmd_line_ptr = LAYOUT_CMDLINE;
	hdr->hardware_subarch = 0;
	hdr->hardware_subarch_data = 0;
	hdr->setup_data = 0;

	memcpy(zp.header, b->kernel.head + BZIMAGE_HEADER, k->hdr_len);
	memcpy(zp.header, hdr, MIN(k->hdr_len, sizeof(*hdr)));
	for (int i = 0; i < map->count; i++)
		zp.e820_table[i] = (struct bzimage_e820){
			.addr = map->range[i].base,
			.size = map->range[i].size,
			.type = map->range[i].type,
		};
	boot_low_write(b, LAYOUT_BOOT_INFO, &zp, sizeof(zp));
	boot_low_write(b, LAYOUT_CMDLINE, b->cmdline, strlen(b->cmdline) + 1);
}

int
bzimage_load(struct boot_ctx *b)
{
	struct bzimage k;
	uint64_t initrd;
	int err;

	err = bzimage_header_read(&b->kernel, &k);
	if (err == 0)
		err = bzimage_size_check(&b->kernel, &k);
	if (err == 0)
		err = bzimage_place(b, &k);
	if (err == 0)
		err = bzimage_cmdline_check(b, &k);
	if (err == 0)
		err = boot_initrd_load(b, MAX(k.runtime + k.need, k.load + k.size),
		    (uint64_t)k.hdr.initrd_addr_max + 1, &initrd);
	if (err == 0)
		err = boot_file_load(&b->kernel, b->vm, k.offset, k.load, k.size, "the kernel");
	if (err != 0)
		return err;

	bzimage_zero_page_write(b, &k, initrd);
	if (k.hdr.xloadflags & BZIMAGE_XLF_KERNEL_64)
		boot_cpu_long(b, k.load + BZIMAGE_ENTRY64);
	else
		boot_cpu_protected(b, (uint32_t)k.load);
	b->cpu->gpr[X86_RSI] = LAYOUT_BOOT_INFO;
	return 0;
}
