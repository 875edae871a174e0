/*
 * What the boot protocols share: checked access to the files and to guest memory, and the processor
 * states they start from. Private to firmware/.
 */
#ifndef FIRMWARE_LOADER_H
#define FIRMWARE_LOADER_H

#include "firmware/boot.h"

#define BOOT_HEAD_SIZE 8192 /* multiboot headers may lie this far into the file */

/* A file opened for loading. Nothing in it is trusted; its size is what fstat() said. */
struct boot_file {
	int fd; /* -1: no file */
	const char *path;
	uint64_t size;
	uint8_t head[BOOT_HEAD_SIZE]; /* the first head_len bytes */
	size_t head_len;
};

struct boot_ctx {
	struct vm *vm;
	const struct boot_params *params;
	const char *cmdline; /* never NULL */
	struct boot_file kernel, initrd;
	struct x86_state *cpu;
};

/* Opens a regular, non-empty file. 0 or -errno after one line to the user. */
int boot_file_open(struct boot_file *f, const char *path);
void boot_file_close(struct boot_file *f); /* fine when not open */
/* Reads exactly len bytes at off. 0; -EINVAL when they are not all in the file, -errno when reading
 * fails, after one line that names what. */
int boot_file_read(const struct boot_file *f, uint64_t off, void *buf, uint64_t len,
    const char *what);
/* The same, to guest RAM below 4 GiB; -EFAULT when the range is not. */
int boot_file_load(const struct boot_file *f, struct vm *vm, uint64_t off, uint64_t gpa,
    uint64_t len, const char *what);

/* Whether a kernel may be put into len bytes at gpa: RAM below 4 GiB, and below 1 MiB only the part
 * that layout.h leaves free. */
bool boot_range_usable(const struct boot_ctx *b, uint64_t gpa, uint64_t len);
/* Puts the initial RAM disk page-aligned at the highest place in [floor, limit) that is RAM, and
 * tells where. 0 and *gpa = 0 when there is none. 0 or -errno after one line to the user. */
int boot_initrd_load(const struct boot_ctx *b, uint64_t floor, uint64_t limit, uint64_t *gpa);
/* Writes to low memory, where layout.h has reserved the place: cannot fail. */
void boot_low_write(const struct boot_ctx *b, uint64_t gpa, const void *buf, size_t len);
/* The memory from 1 MiB up to the first gap, in KiB: what older protocols call extended memory. */
uint32_t boot_extmem_kib(const struct boot_ctx *b);

/* Entry states. Flat segments with selectors 0x10 (code) and 0x18 (data), interrupts off, general
 * registers 0; GDT and page tables are written to low memory. */
void boot_cpu_protected(const struct boot_ctx *b, uint32_t eip);
void boot_cpu_long(const struct boot_ctx *b, uint64_t rip);

/* --- bzimage.c --- */
bool bzimage_match(const struct boot_file *f);
int bzimage_load(struct boot_ctx *b);

/* --- elf.c --- */

#define ELF_SEGMENTS_MAX 64

struct elf_segment {
	uint64_t offset, filesz; /* in the file; inside it */
	uint64_t vaddr, paddr, memsz; /* memsz >= filesz */
};

struct elf_image {
	struct elf_segment seg[ELF_SEGMENTS_MAX]; /* PT_LOAD, memsz not 0 */
	int segs;
	uint64_t entry; /* e_entry, physical: translated through its segment */
	bool pvh; /* has a PVH note */
	uint64_t pvh_entry; /* inside a segment */
	uint64_t end; /* past the highest physical address */
};

bool elf_match(const struct boot_file *f);
/* Reads and checks headers, segments and notes. 0 or -errno after one line to the user. */
int elf_parse(const struct boot_ctx *b, struct elf_image *img);
/* Loads the segments. 0 or -errno after one line to the user. */
int elf_load(const struct boot_ctx *b, const struct elf_image *img);
/* Whether physical address pa lies in a segment. */
bool elf_has_address(const struct elf_image *img, uint64_t pa);

/* --- pvh.c --- */
int pvh_load(struct boot_ctx *b, const struct elf_image *img);

/* --- multiboot.c --- */
bool multiboot_match(const struct boot_file *f);
/* img is NULL when the kernel is not an ELF file. */
int multiboot_load(struct boot_ctx *b, const struct elf_image *img);

#endif
