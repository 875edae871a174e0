/*
 * Direct kernel boot: files, guest memory, entry states, and the choice of protocol.
 */
#include "firmware/boot.h"

#include "base/log.h"
#include "firmware/e820.h"
#include "firmware/layout.h"
#include "firmware/loader.h"
#include "firmware/mtrr.h"
#include "vm/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOOT_SEL_CODE 0x10 /* boot.rst calls them __BOOT_CS and __BOOT_DS */
#define BOOT_SEL_DATA 0x18
#define BOOT_GDT_ENTRIES 4

#define BOOT_ATTR_FLAT (X86_SEG_S | X86_SEG_P | X86_SEG_G | X86_SEG_A | X86_SEG_RW)
#define BOOT_ATTR_CODE32 (BOOT_ATTR_FLAT | X86_SEG_CODE | X86_SEG_DB)
#define BOOT_ATTR_CODE64 (BOOT_ATTR_FLAT | X86_SEG_CODE | X86_SEG_L)
#define BOOT_ATTR_DATA (BOOT_ATTR_FLAT | X86_SEG_DB)
#define BOOT_ATTR_TSS (X86_SEG_P | X86_SYS_TSS32_BUSY)
#define BOOT_TSS_LIMIT 0x67 /* the smallest a TSS may have */

#define BOOT_CHUNK KIB(128)
#define BOOT_PAGE 4096u
#define BOOT_PTES 512u
#define BOOT_PD_COUNT 4u /* a gigabyte each, in 2 MiB pages */

/* --- Files --- */

int
boot_file_open(struct boot_file *f, const char *path)
{
	struct stat st;
	int err;

	f->path = path;
	/* Opening a FIFO must not wait for its writer. */
	f->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (f->fd < 0 || fstat(f->fd, &st) != 0) {
		err = -errno;
		log_error(path, "cannot open: %s", strerror(-err));
		goto close_file;
	}
	if (!S_ISREG(st.st_mode) || st.st_size == 0) {
		err = -EINVAL;
		log_error(path, "%s", S_ISREG(st.st_mode) ? "the file is empty" :
							    "not a regular file");
		goto close_file;
	}
	f->size = (uint64_t)st.st_size;
	f->head_len = MIN(f->size, sizeof(f->head));
	err = boot_file_read(f, 0, f->head, f->head_len, "its header");
	if (err != 0)
		goto close_file;
	return 0;

close_file:
	boot_file_close(f);
	return err;
}

void
boot_file_close(struct boot_file *f)
{
	if (f->fd >= 0)
		close(f->fd);
	f->fd = -1;
}

static int
boot_file_overrun(const struct boot_file *f, uint64_t off, uint64_t len, const char *what)
{
	log_error(f->path,
	    "%s (%" PRIu64 " bytes at offset %" PRIu64 ") goes past the end of the file (%" PRIu64
	    " bytes)",
	    what, len, off, f->size);
	return -EINVAL;
}

int
boot_file_read(const struct boot_file *f, uint64_t off, void *buf, uint64_t len, const char *what)
{
	uint8_t *p = buf;

	if (off > f->size || len > f->size - off)
		return boot_file_overrun(f, off, len, what);
	while (len > 0) {
		ssize_t n = pread(f->fd, p, MIN(len, GIB(1)), (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			int err = n < 0 ? -errno : -EIO; /* 0: it shrank since fstat() */

			log_error(f->path, "cannot read %s: %s", what,
			    n < 0 ? strerror(-err) : "the file became shorter");
			return err;
		}
		p += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

/*
 * RAM is written through its memfd, not through its mapping: a store to each page for the first
 * time is a page fault, which made a kernel of 14 MiB take 45 ms, against 4 ms this way.
 */
static int
boot_ram_write(const struct boot_file *f, struct vm *vm, uint64_t gpa, const uint8_t *buf,
    uint64_t len)
{
	while (len > 0) {
		ssize_t n = pwrite(vm_mem_fd(vm), buf, len, (off_t)gpa); /* low RAM is first */

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			int err = n < 0 ? -errno : -EIO;

			log_error(
			    f->path, "cannot write to the guest's memory: %s", strerror(-err));
			return err;
		}
		buf += n;
		gpa += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

int
boot_file_load(const struct boot_file *f, struct vm *vm, uint64_t off, uint64_t gpa, uint64_t len,
    const char *what)
{
	uint8_t buf[BOOT_CHUNK];
	int err = 0;

	if (off > f->size || len > f->size - off)
		return boot_file_overrun(f, off, len, what);
	if (gpa > vm_mem_low(vm) || len > vm_mem_low(vm) - gpa) {
		log_error(f->path, "%s does not fit the guest's memory", what);
		return -EFAULT;
	}
	for (uint64_t done = 0; err == 0 && done < len; done += sizeof(buf)) {
		uint64_t n = MIN(len - done, sizeof(buf));

		err = boot_file_read(f, off + done, buf, n, what);
		if (err == 0)
			err = boot_ram_write(f, vm, gpa + done, buf, n);
	}
	vm_mem_written(vm, gpa, len);
	return err;
}

/* --- Guest memory --- */

bool
boot_range_usable(const struct boot_ctx *b, uint64_t gpa, uint64_t len)
{
	if (gpa >= LAYOUT_HIGH)
		return gpa <= vm_mem_low(b->vm) && len <= vm_mem_low(b->vm) - gpa;
	return gpa >= LAYOUT_FREE && gpa <= LAYOUT_EBDA && len <= LAYOUT_EBDA - gpa;
}

int
boot_initrd_load(const struct boot_ctx *b, uint64_t floor, uint64_t limit, uint64_t *gpa)
{
	const struct boot_file *f = &b->initrd;

	*gpa = 0;
	if (f->fd < 0)
		return 0;
	limit = MIN(limit, vm_mem_low(b->vm));
	floor = ALIGN_UP(floor, (uint64_t)BOOT_PAGE);
	if (limit < floor || f->size > limit - floor ||
	    ALIGN_DOWN(limit - f->size, (uint64_t)BOOT_PAGE) < floor) {
		log_error(f->path,
		    "the initial RAM disk (%" PRIu64 " KiB) does not fit the guest's memory: "
		    "%" PRIu64 " KiB are free above the kernel",
		    ALIGN_UP(f->size, 1024) / 1024, limit > floor ? (limit - floor) / 1024 : 0);
		return -ENOSPC;
	}
	*gpa = ALIGN_DOWN(limit - f->size, (uint64_t)BOOT_PAGE);
	return boot_file_load(f, b->vm, 0, *gpa, f->size, "the initial RAM disk");
}

void
boot_low_write(const struct boot_ctx *b, uint64_t gpa, const void *buf, size_t len)
{
	int err = vm_mem_write(b->vm, gpa, buf, len);

	assert(err == 0); /* below 1 MiB, the least a VM has */
	(void)err;
}

uint32_t
boot_extmem_kib(const struct boot_ctx *b)
{
	return (uint32_t)((vm_mem_low(b->vm) - LAYOUT_HIGH) / 1024);
}

/* What programs in real mode and the multiprocessor start-up look for (the PC's BIOS data area). */
static void
boot_bda_write(const struct boot_ctx *b)
{
	uint16_t ebda = LAYOUT_EBDA >> 4;
	uint16_t base_kib = LAYOUT_EBDA / 1024;
	uint8_t ebda_kib = LAYOUT_EBDA_SIZE / 1024; /* the EBDA starts with its own size */

	boot_low_write(b, LAYOUT_BDA_EBDA, &ebda, sizeof(ebda));
	boot_low_write(b, LAYOUT_BDA_BASEMEM, &base_kib, sizeof(base_kib));
	boot_low_write(b, LAYOUT_EBDA, &ebda_kib, sizeof(ebda_kib));
}

/* --- Entry states --- */

/* A descriptor for a flat segment (SDM 3, 3.4.5). */
static uint64_t
boot_descriptor(uint16_t attr)
{
	return (uint64_t)(attr & 0xf0ffu) << 40 | 0xfull << 48 | 0xffffull;
}

static void
boot_cpu_segments(const struct boot_ctx *b, uint16_t code_attr)
{
	struct x86_state *s = b->cpu;
	uint64_t gdt[BOOT_GDT_ENTRIES] = {
		[BOOT_SEL_CODE / 8] = boot_descriptor(code_attr),
		[BOOT_SEL_DATA / 8] = boot_descriptor(BOOT_ATTR_DATA),
	};

	boot_low_write(b, LAYOUT_GDT, gdt, sizeof(gdt));
	s->gdtr = (struct x86_table){ .base = LAYOUT_GDT, .limit = sizeof(gdt) - 1 };
	s->idtr = (struct x86_table){ 0 };
	for (int i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = (struct x86_segment){
			.selector = i == X86_CS ? BOOT_SEL_CODE : BOOT_SEL_DATA,
			.attr = i == X86_CS ? code_attr : BOOT_ATTR_DATA,
			.limit = UINT32_MAX,
		};
	s->ldtr = (struct x86_segment){ 0 };
	s->tr = (struct x86_segment){ .attr = BOOT_ATTR_TSS, .limit = BOOT_TSS_LIMIT };
}

static void
boot_cpu_common(const struct boot_ctx *b, uint16_t code_attr, uint64_t rip)
{
	struct x86_state *s = b->cpu;

	boot_cpu_segments(b, code_attr);
	memset(s->gpr, 0, sizeof(s->gpr));
	s->rip = rip;
	s->rflags = X86_FL_1;
	s->cr0 = X86_CR0_PE | X86_CR0_ET;
	s->cr3 = 0;
	s->cr4 = 0;
	s->efer = 0;
	s->activity = X86_RUNNING;
}

void
boot_cpu_protected(const struct boot_ctx *b, uint32_t eip)
{
	boot_cpu_common(b, BOOT_ATTR_CODE32, eip);
}

/* Maps the first 4 GiB to themselves: one PML4, one PDPT, four page directories of 2 MiB pages
 * (SDM 3, 4.5). */
static void
boot_page_tables_write(const struct boot_ctx *b)
{
	uint64_t table[BOOT_PTES] = { 0 };
	uint64_t pdpt = LAYOUT_PAGE_TABLES + BOOT_PAGE;
	uint64_t pd = pdpt + BOOT_PAGE;

	static_assert(LAYOUT_PAGE_TABLES + (2 + BOOT_PD_COUNT) * BOOT_PAGE <= LAYOUT_CMDLINE,
	    "page tables reach into the command line");
	table[0] = pdpt | X86_PTE_P | X86_PTE_W;
	boot_low_write(b, LAYOUT_PAGE_TABLES, table, sizeof(table));
	for (unsigned i = 0; i < BOOT_PD_COUNT; i++)
		table[i] = (pd + i * BOOT_PAGE) | X86_PTE_P | X86_PTE_W;
	boot_low_write(b, pdpt, table, sizeof(table));
	for (unsigned i = 0; i < BOOT_PD_COUNT; i++) {
		for (unsigned j = 0; j < BOOT_PTES; j++)
			table[j] = (i * GIB(1) + j * MIB(2)) | X86_PTE_P | X86_PTE_W | X86_PTE_PS;
		boot_low_write(b, pd + i * BOOT_PAGE, table, sizeof(table));
	}
}

void
boot_cpu_long(const struct boot_ctx *b, uint64_t rip)
{
	struct x86_state *s = b->cpu;

	boot_cpu_common(b, BOOT_ATTR_CODE64, rip);
	boot_page_tables_write(b);
	s->cr0 |= X86_CR0_PG;
	s->cr3 = LAYOUT_PAGE_TABLES;
	s->cr4 = X86_CR4_PAE;
	s->efer = X86_EFER_LME | X86_EFER_LMA;
}

/* Gives every processor the same memory types. */
static int
boot_mtrr_setup(struct vm *vm, struct x86_state *bsp)
{
	struct engine_vm *evm;
	const struct engine_ops *engine = vm_engine(vm, &evm);
	int phys_bits = x86_cpuid_phys_bits(engine->cpuid(evm));

	mtrr_setup(bsp, phys_bits);
	for (int cpu = 1; cpu < vm_vcpus(vm); cpu++) {
		struct x86_state ap;
		int err;

		vm_vcpu_get(vm, cpu, &ap);
		mtrr_setup(&ap, phys_bits);
		err = vm_vcpu_set(vm, cpu, &ap);
		if (err != 0) {
			log_error("boot", "cannot set up vCPU %d: %s", cpu, strerror(-err));
			return err;
		}
	}
	return 0;
}

/* --- The choice --- */

static int
boot_kernel_load_elf(struct boot_ctx *b)
{
	struct elf_image img;
	int err = elf_parse(b, &img);

	if (err != 0)
		return err;
	if (img.pvh)
		return pvh_load(b, &img);
	if (multiboot_match(&b->kernel))
		return multiboot_load(b, &img);
	log_error(
	    b->kernel.path, "an ELF file, but with neither a PVH note nor a multiboot header");
	return -ENOEXEC;
}

static int
boot_kernel_load(struct boot_ctx *b)
{
	if (bzimage_match(&b->kernel))
		return bzimage_load(b);
	if (elf_match(&b->kernel))
		return boot_kernel_load_elf(b);
	if (multiboot_match(&b->kernel))
		return multiboot_load(b, NULL);
	log_error(b->kernel.path, "not a kernel: neither a Linux bzImage, ELF nor multiboot");
	return -ENOEXEC;
}

int
boot_load(struct vm *vm, const struct boot_params *params, struct x86_state *bsp)
{
	struct x86_state cpu = *bsp;
	struct boot_ctx *b;
	int err;

	if (vm_mem_low(vm) <= LAYOUT_HIGH) {
		log_error(params->kernel, "booting a kernel takes more than 1 MiB of memory");
		return -ENOSPC;
	}
	b = malloc(sizeof(*b)); /* two file headers: more than a stack should hold */
	if (b == NULL) {
		log_error(params->kernel, "out of memory");
		return -ENOMEM;
	}
	b->vm = vm;
	b->params = params;
	b->cmdline = params->cmdline != NULL ? params->cmdline : "";
	b->cpu = &cpu;
	b->kernel.fd = -1;
	b->initrd.fd = -1;

	err = boot_file_open(&b->kernel, params->kernel);
	if (err == 0 && params->initrd != NULL)
		err = boot_file_open(&b->initrd, params->initrd);
	if (err != 0)
		goto close_files;
	boot_bda_write(b);
	err = boot_kernel_load(b);
	if (err != 0)
		goto close_files;
	err = boot_mtrr_setup(vm, &cpu);
	if (err == 0)
		*bsp = cpu;

close_files:
	boot_file_close(&b->initrd);
	boot_file_close(&b->kernel);
	free(b);
	return err;
}
