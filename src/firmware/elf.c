/*
 * ELF kernels, 32-bit and 64-bit (System V ABI, "Object Files"; Xen, docs/misc/pvh.pandoc for the
 * note that holds the PVH entry).
 *
 * Segments go to their physical addresses. Headers are converted to one 64-bit form when they are
 * read, so that everything after knows one kind of file.
 */
#include "firmware/loader.h"

#include "base/log.h"
#include "vm/mem.h"

#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define ELF_NOTE_PVH 18 /* XEN_ELFNOTE_PHYS32_ENTRY (Xen, public/elfnote.h) */
#define ELF_NOTE_OWNER "Xen"
#define ELF_NOTES_MAX MIB(1) /* of one note segment */

/* What the headers say of the file itself. */
struct elf_file {
	bool wide; /* ELFCLASS64 */
	uint64_t phoff;
	uint32_t phnum;
};

bool
elf_match(const struct boot_file *f)
{
	return f->head_len >= SELFMAG && memcmp(f->head, ELFMAG, SELFMAG) == 0;
}

static int
elf_header_read(const struct boot_file *f, struct elf_file *elf, uint64_t *entry)
{
	const uint8_t *ident = f->head;
	uint32_t phentsize, machine, type;

	elf->wide = f->head_len > EI_CLASS && ident[EI_CLASS] == ELFCLASS64;
	if (f->head_len < (elf->wide ? sizeof(Elf64_Ehdr) : sizeof(Elf32_Ehdr))) {
		log_error(f->path, "the file ends inside the ELF header");
		return -EINVAL;
	}
	if (elf->wide) {
		Elf64_Ehdr h;

		memcpy(&h, f->head, sizeof(h));
		elf->phoff = h.e_phoff;
		elf->phnum = h.e_phnum;
		phentsize = h.e_phentsize;
		machine = h.e_machine;
		type = h.e_type;
		*entry = h.e_entry;
	} else {
		Elf32_Ehdr h;

		memcpy(&h, f->head, sizeof(h));
		elf->phoff = h.e_phoff;
		elf->phnum = h.e_phnum;
		phentsize = h.e_phentsize;
		machine = h.e_machine;
		type = h.e_type;
		*entry = h.e_entry;
	}
	if (ident[EI_DATA] != ELFDATA2LSB || (machine != EM_386 && machine != EM_X86_64) ||
	    (type != ET_EXEC && type != ET_DYN)) {
		log_error(f->path, "an ELF file, but not an x86 executable");
		return -ENOEXEC;
	}
	if (elf->phnum == 0 ||
	    phentsize != (elf->wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr))) {
		log_error(f->path, "the ELF header announces %u program headers of %u bytes",
		    elf->phnum, phentsize);
		return -EINVAL;
	}
	return 0;
}

static int
elf_phdr_read(const struct boot_file *f, const struct elf_file *elf, uint32_t i, Elf64_Phdr *out)
{
	uint64_t size = elf->wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
	Elf32_Phdr narrow;
	int err;

	if (elf->phoff > f->size) {
		log_error(f->path, "the ELF program headers lie past the end of the file");
		return -EINVAL;
	}
	if (elf->wide)
		return boot_file_read(f, elf->phoff + i * size, out, size, "a program header");
	err = boot_file_read(f, elf->phoff + i * size, &narrow, size, "a program header");
	if (err != 0)
		return err;
	*out = (Elf64_Phdr){
		.p_type = narrow.p_type,
		.p_offset = narrow.p_offset,
		.p_vaddr = narrow.p_vaddr,
		.p_paddr = narrow.p_paddr,
		.p_filesz = narrow.p_filesz,
		.p_memsz = narrow.p_memsz,
		.p_align = narrow.p_align,
	};
	return 0;
}

static int
elf_segment_add(const struct boot_ctx *b, struct elf_image *img, const Elf64_Phdr *ph)
{
	const struct boot_file *f = &b->kernel;

	if (ph->p_memsz == 0)
		return 0;
	if (img->segs == ELF_SEGMENTS_MAX) {
		log_error(f->path, "more than %d segments to load", ELF_SEGMENTS_MAX);
		return -EINVAL;
	}
	if (ph->p_filesz > ph->p_memsz) {
		log_error(f->path,
		    "a segment has %" PRIu64 " bytes in the file and %" PRIu64 " in memory",
		    (uint64_t)ph->p_filesz, (uint64_t)ph->p_memsz);
		return -EINVAL;
	}
	if (ph->p_offset > f->size || ph->p_filesz > f->size - ph->p_offset) {
		log_error(f->path,
		    "truncated: a segment of %" PRIu64 " bytes at offset %" PRIu64
		    " goes past the end of the file (%" PRIu64 " bytes)",
		    (uint64_t)ph->p_filesz, (uint64_t)ph->p_offset, f->size);
		return -EINVAL;
	}
	if (!boot_range_usable(b, ph->p_paddr, ph->p_memsz)) {
		log_error(f->path,
		    "a segment of %" PRIu64 " bytes at 0x%" PRIx64
		    " lies outside the guest's usable memory",
		    (uint64_t)ph->p_memsz, (uint64_t)ph->p_paddr);
		return -ENOSPC;
	}
	img->seg[img->segs++] = (struct elf_segment){
		.offset = ph->p_offset,
		.filesz = ph->p_filesz,
		.vaddr = ph->p_vaddr,
		.paddr = ph->p_paddr,
		.memsz = ph->p_memsz,
	};
	img->end = MAX(img->end, ph->p_paddr + ph->p_memsz);
	return 0;
}

/* Looks for the PVH entry among len bytes of notes. Notes that do not fit end the search: they are
 * many tools' and the rest of the file does not depend on them. */
static void
elf_notes_scan(struct elf_image *img, const uint8_t *notes, size_t len, size_t align)
{
	size_t off = 0;

	while (len - off >= sizeof(Elf64_Nhdr)) {
		Elf64_Nhdr h; /* the 32-bit form is the same */
		size_t name, desc;

		memcpy(&h, notes + off, sizeof(h));
		name = off + sizeof(h);
		if (h.n_namesz > len - name)
			return;
		desc = ALIGN_UP(name + h.n_namesz, align);
		if (desc > len || h.n_descsz > len - desc)
			return;
		if (h.n_type == ELF_NOTE_PVH && h.n_namesz == sizeof(ELF_NOTE_OWNER) &&
		    memcmp(notes + name, ELF_NOTE_OWNER, sizeof(ELF_NOTE_OWNER)) == 0 &&
		    (h.n_descsz == 4 || h.n_descsz == 8)) {
			img->pvh = true;
			img->pvh_entry = 0;
			memcpy(&img->pvh_entry, notes + desc, h.n_descsz);
			return;
		}
		off = ALIGN_UP(desc + h.n_descsz, align);
		if (off > len)
			return;
	}
}

static int
elf_notes_read(const struct boot_file *f, struct elf_image *img, const Elf64_Phdr *ph)
{
	uint8_t *notes;
	int err;

	if (ph->p_filesz == 0 || img->pvh)
		return 0;
	if (ph->p_filesz > ELF_NOTES_MAX) {
		log_error(f->path, "a note segment of %" PRIu64 " bytes", (uint64_t)ph->p_filesz);
		return -EINVAL;
	}
	notes = malloc(ph->p_filesz);
	if (notes == NULL) {
		log_error(f->path, "out of memory");
		return -ENOMEM;
	}
	err = boot_file_read(f, ph->p_offset, notes, ph->p_filesz, "a note segment");
	if (err == 0)
		elf_notes_scan(img, notes, ph->p_filesz, ph->p_align == 8 ? 8 : 4);
	free(notes);
	return err;
}

bool
elf_has_address(const struct elf_image *img, uint64_t pa)
{
	for (int i = 0; i < img->segs; i++)
		if (pa >= img->seg[i].paddr && pa - img->seg[i].paddr < img->seg[i].memsz)
			return true;
	return false;
}

/* Kernels linked for high virtual addresses give their entry as one of those. */
static uint64_t
elf_entry_physical(const struct elf_image *img)
{
	for (int i = 0; i < img->segs; i++) {
		const struct elf_segment *seg = &img->seg[i];

		if (img->entry >= seg->vaddr && img->entry - seg->vaddr < seg->memsz)
			return img->entry - seg->vaddr + seg->paddr;
	}
	return img->entry;
}

int
elf_parse(const struct boot_ctx *b, struct elf_image *img)
{
	const struct boot_file *f = &b->kernel;
	struct elf_file elf;
	int err;

	memset(img, 0, sizeof(*img));
	err = elf_header_read(f, &elf, &img->entry);
	for (uint32_t i = 0; err == 0 && i < elf.phnum; i++) {
		Elf64_Phdr ph;

		err = elf_phdr_read(f, &elf, i, &ph);
		if (err == 0 && ph.p_type == PT_LOAD)
			err = elf_segment_add(b, img, &ph);
		if (err == 0 && ph.p_type == PT_NOTE)
			err = elf_notes_read(f, img, &ph);
	}
	if (err != 0)
		return err;
	if (img->segs == 0) {
		log_error(f->path, "an ELF file with nothing to load");
		return -EINVAL;
	}
	img->entry = elf_entry_physical(img);
	return 0;
}

int
elf_load(const struct boot_ctx *b, const struct elf_image *img)
{
	for (int i = 0; i < img->segs; i++) {
		const struct elf_segment *seg = &img->seg[i];
		int err;

		err = boot_file_load(&b->kernel, b->vm, seg->offset, seg->paddr, seg->filesz,
		    "a segment");
		if (err == 0 && seg->memsz > seg->filesz)
			err = vm_mem_zero(b->vm, seg->paddr + seg->filesz,
			    seg->memsz - seg->filesz);
		if (err != 0)
			return err;
	}
	return 0;
}
