/*
 * Linux bzImages: what the kernel finds at its entry, placement by memory size, and headers that
 * lie.
 */
#include "firmware_vm.h"

#include "firmware/boot.h"
#include "firmware/e820.h"

#include <fcntl.h>
#include <sys/stat.h>

#define SETUP_SECTS 3
#define KERNEL_OFFSET ((SETUP_SECTS + 1) * 512)
#define KERNEL_SIZE KIB(64)
#define IMAGE_SIZE (KERNEL_OFFSET + KERNEL_SIZE)
#define INITRD_SIZE (KIB(10) + 5)
#define ZERO_PAGE 0x2000
#define RSDP 0xf2400
#define CMDLINE "console=ttyS0 quiet"

/* A field of the setup header: its offset in the file and its size. */
struct field {
	unsigned off, size;
	uint64_t val;
};

static const struct field sound[] = {
	{ 0x1f1, 1, SETUP_SECTS }, { 0x1f4, 4, KERNEL_SIZE / 16 }, { 0x1fe, 2, 0xaa55 },
	{ 0x200, 2, 0x6aeb }, { 0x202, 4, 0x53726448 }, { 0x206, 2, 0x020f }, { 0x211, 1, 0x01 },
	{ 0x214, 4, 0x100000 }, { 0x22c, 4, 0x7fffffff }, { 0x230, 4, 0x200000 }, { 0x234, 1, 1 },
	{ 0x235, 1, 21 }, { 0x236, 2, 0x7f }, { 0x238, 4, 2047 }, { 0x23c, 4, 0xdead },
	{ 0x250, 8, 0xdeadbeef }, { 0x258, 8, 0x1000000 }, { 0x260, 4, MIB(40) },
};

static void
image_set(uint8_t *image, struct field f)
{
	memcpy(image + f.off, &f.val, f.size);
}

/* An image every byte of which past the header tells its place. */
static uint8_t *
image_create(void)
{
	uint8_t *image = malloc(IMAGE_SIZE);

	assert_non_null(image);
	for (size_t i = 0; i < IMAGE_SIZE; i++)
		image[i] = i < KERNEL_OFFSET ? 0 : (uint8_t)(i * 7 + (i >> 8));
	for (size_t i = 0; i < ARRAY_SIZE(sound); i++)
		image_set(image, sound[i]);
	return image;
}

/* Boots an image on a machine; nothing of it is written when initrd is NULL. */
static int
image_boot(struct vm *vm, const void *image, size_t len, const void *initrd, size_t initrd_len,
    const char *cmdline, struct x86_state *s)
{
	char kernel_path[FW_PATH_SIZE], initrd_path[FW_PATH_SIZE];
	struct e820_map map;
	int kernel_fd = fw_file_create(image, len, kernel_path);
	int initrd_fd = initrd != NULL ? fw_file_create(initrd, initrd_len, initrd_path) : -1;
	struct boot_params p = {
		.kernel = kernel_path,
		.initrd = initrd != NULL ? initrd_path : NULL,
		.cmdline = cmdline,
		.rsdp = RSDP,
		.map = &map,
	};
	int err;

	e820_init(&map, vm_mem_low(vm), vm_mem_high(vm));
	vm_vcpu_get(vm, 0, s);
	err = boot_load(vm, &p, s);
	close(kernel_fd);
	if (initrd_fd >= 0)
		close(initrd_fd);
	return err;
}

/* Walks the page tables as a processor does, 2 MiB pages only. */
static uint64_t
translate(struct vm *vm, const struct x86_state *s, uint64_t va)
{
	uint64_t table = s->cr3, e = 0;

	for (int shift = 39; shift >= 21; shift -= 9) {
		e = fw_u64(vm, table + (va >> shift & 511) * 8);
		assert_true((e & (X86_PTE_P | X86_PTE_W)) == (X86_PTE_P | X86_PTE_W));
		table = e & 0xffffffffff000;
	}
	assert_true(e & X86_PTE_PS);
	return table + (va & (MIB(2) - 1));
}

static void
assert_flat(const struct x86_segment *seg, uint16_t selector)
{
	assert_int_equal(seg->selector, selector);
	assert_int_equal(seg->base, 0);
	assert_int_equal(seg->limit, UINT32_MAX);
	assert_true(seg->attr & X86_SEG_P);
}

static void
test_entry64(void **state)
{
	uint8_t *image = image_create();
	uint8_t *initrd = malloc(INITRD_SIZE), *copy = malloc(KERNEL_SIZE);
	struct vm *vm = fw_vm_create(MIB(128));
	struct x86_state s;
	uint64_t at, gdt[4];
	uint8_t count, buf[64];

	memset(initrd, 0x5a, INITRD_SIZE);
	assert_int_equal(image_boot(vm, image, IMAGE_SIZE, initrd, INITRD_SIZE, CMDLINE, &s), 0);

	/* boot.rst, "64-bit Boot Protocol" */
	assert_int_equal(s.rip, 0x1000000 + 0x200);
	assert_int_equal(s.gpr[X86_RSI], ZERO_PAGE);
	assert_int_equal(s.rflags, X86_FL_1);
	assert_true(s.cr0 & X86_CR0_PG && s.cr0 & X86_CR0_PE && !(s.cr0 & X86_CR0_CD));
	assert_int_equal(s.cr4, X86_CR4_PAE);
	assert_int_equal(s.efer, X86_EFER_LME | X86_EFER_LMA);
	assert_int_equal(s.activity, X86_RUNNING);
	assert_flat(&s.seg[X86_CS], 0x10);
	assert_true((s.seg[X86_CS].attr & (X86_SEG_L | X86_SEG_DB)) == X86_SEG_L);
	for (int i = 0; i < X86_SEG_COUNT; i++)
		if (i != X86_CS)
			assert_flat(&s.seg[i], 0x18);
	assert_int_equal(s.gdtr.limit, sizeof(gdt) - 1);
	fw_read(vm, s.gdtr.base, gdt, sizeof(gdt));
	assert_int_equal(gdt[2], 0x00af9b000000ffff);
	assert_int_equal(gdt[3], 0x00cf93000000ffff);
	for (uint64_t va = 0x1234; va < GIB(4); va += MIB(2) * 37)
		assert_int_equal(translate(vm, &s, va), va);

	/* The kernel and the zero page */
	fw_read(vm, 0x1000000, copy, KERNEL_SIZE);
	assert_memory_equal(copy, image + KERNEL_OFFSET, KERNEL_SIZE);
	fw_read(vm, ZERO_PAGE, buf, sizeof(buf));
	for (size_t i = 0; i < sizeof(buf); i++)
		assert_int_equal(buf[i], 0); /* no screen */
	assert_int_equal(fw_u64(vm, ZERO_PAGE + 0x70), RSDP);
	assert_int_equal(fw_u32(vm, ZERO_PAGE + 0x202), 0x53726448);
	assert_int_equal(fw_u32(vm, ZERO_PAGE + 0x210) & 0xff, 0xff);
	assert_int_equal(fw_u32(vm, ZERO_PAGE + 0x214), 0x1000000);
	assert_int_equal(fw_u64(vm, ZERO_PAGE + 0x250), 0); /* no setup data */
	assert_int_equal(fw_u32(vm, ZERO_PAGE + 0x23c), 0); /* a PC */
	fw_read(vm, fw_u32(vm, ZERO_PAGE + 0x228), buf, sizeof(CMDLINE));
	assert_string_equal((char *)buf, CMDLINE);
	fw_read(vm, ZERO_PAGE + 0x1ef, &count, 1);
	assert_int_equal(count, 0); /* the sentinel */
	fw_read(vm, ZERO_PAGE + 0x1e8, &count, 1);
	assert_int_equal(count, 6);
	assert_int_equal(fw_u64(vm, ZERO_PAGE + 0x2d0), 0);
	assert_int_equal(fw_u64(vm, ZERO_PAGE + 0x2d8), 0x9fc00);
	assert_int_equal(fw_u32(vm, ZERO_PAGE + 0x2e0), E820_RAM);

	/* The initial RAM disk: as high as it goes */
	at = fw_u32(vm, ZERO_PAGE + 0x218);
	assert_int_equal(at, MIB(128) - KIB(12));
	assert_int_equal(fw_u32(vm, ZERO_PAGE + 0x21c), INITRD_SIZE);
	fw_read(vm, at, copy, INITRD_SIZE);
	assert_memory_equal(copy, initrd, INITRD_SIZE);

	/* BIOS data area */
	assert_int_equal(fw_u32(vm, 0x40e) & 0xffff, 0x9fc0);
	assert_int_equal(fw_u32(vm, 0x413) & 0xffff, 639);
	assert_int_equal(fw_u32(vm, 0x9fc00) & 0xff, 1);

	vm_destroy(vm);
	free(copy);
	free(initrd);
	free(image);
}

static void
test_entry32(void **state)
{
	uint8_t *image = image_create();
	struct vm *vm = fw_vm_create(MIB(128));
	struct x86_state s;

	image_set(image, (struct field){ 0x236, 2, 0x7e });
	assert_int_equal(image_boot(vm, image, IMAGE_SIZE, NULL, 0, NULL, &s), 0);

	/* boot.rst, "32-bit Boot Protocol" */
	assert_int_equal(s.rip, 0x1000000);
	assert_int_equal(s.gpr[X86_RSI], ZERO_PAGE);
	assert_int_equal(s.gpr[X86_RBP] | s.gpr[X86_RDI] | s.gpr[X86_RBX], 0);
	assert_int_equal(s.cr0, X86_CR0_PE | X86_CR0_ET);
	assert_int_equal(s.cr4 | s.efer, 0);
	assert_flat(&s.seg[X86_CS], 0x10);
	assert_true((s.seg[X86_CS].attr & (X86_SEG_L | X86_SEG_DB)) == X86_SEG_DB);
	assert_int_equal(fw_u64(vm, s.gdtr.base + 0x10), 0x00cf9b000000ffff);
	assert_int_equal(fw_u32(vm, ZERO_PAGE + 0x218), 0);
	assert_int_equal(fw_u32(vm, ZERO_PAGE + 0x21c), 0);
	vm_destroy(vm);
	free(image);
}

/* Every processor gets the same memory types, application processors too. */
static void
test_memory_types(void **state)
{
	uint8_t *image = image_create();
	struct vm *vm = fw_vm_create_topo(MIB(128), (struct x86_topology){ 2, 1, 1 }, NULL);
	struct x86_state s, ap;

	assert_int_equal(image_boot(vm, image, IMAGE_SIZE, NULL, 0, NULL, &s), 0);
	vm_vcpu_get(vm, 1, &ap);
	assert_int_equal(ap.activity, X86_WAIT_SIPI);
	assert_memory_equal(s.mtrr_fixed, ap.mtrr_fixed, sizeof(s.mtrr_fixed));
	assert_memory_equal(s.mtrr_var, ap.mtrr_var, sizeof(s.mtrr_var));
	assert_int_equal(s.mtrr_def_type, ap.mtrr_def_type);
	/* SDM 3, 11.11: enabled, write-back; 3 GiB to 4 GiB uncached, 40 address bits */
	assert_int_equal(s.mtrr_def_type, 0xc06);
	assert_int_equal(s.mtrr_var[0], 0xc0000000);
	assert_int_equal(s.mtrr_var[1], 0xffc0000800);
	assert_int_equal(s.mtrr_fixed[2], 0);
	assert_int_equal(s.mtrr_fixed[3], 0x0606060606060606);
	vm_destroy(vm);
	free(image);
}

static void
test_placement(void **state)
{
	static const struct {
		uint64_t memory;
		struct field change[3];
		uint64_t rip, initrd;
	} place[] = {
		{ MIB(128), { { 0 } }, 0x1000200, MIB(128) - KIB(12) },
		{ GIB(1), { { 0 } }, 0x1000200, GIB(1) - KIB(12) },
		/* Not above what the kernel can reach, nor across the hole */
		{ GIB(6), { { 0 } }, 0x1000200, GIB(2) - KIB(12) },
		{ GIB(6), { { 0x22c, 4, UINT32_MAX } }, 0x1000200, GIB(3) - KIB(12) },
		{ GIB(1), { { 0x22c, 4, 0x37ffffff } }, 0x1000200, 0x38000000 - KIB(12) },
		/* 40 MiB at 16 MiB do not fit: as low as alignment permits */
		{ MIB(48), { { 0 } }, 0x200200, MIB(48) - KIB(12) },
		{ KIB(42496), { { 0x230, 4, MIB(16) }, { 0x235, 1, 12 } }, 0x100200, KIB(42484) },
		/* Not relocatable: loaded at 1 MiB, runs where it prefers */
		{ MIB(128), { { 0x234, 1, 0 } }, 0x100200, MIB(128) - KIB(12) },
		/* No preference */
		{ MIB(128), { { 0x258, 8, 0 } }, 0x200200, MIB(128) - KIB(12) },
		/* A header of protocol 2.06 has no preferred address */
		{ MIB(128), { { 0x206, 2, 0x0206 }, { 0x201, 1, 0x3a }, { 0x236, 2, 1 } }, 0x200200,
		    MIB(128) - KIB(12) },
	};

	for (size_t i = 0; i < ARRAY_SIZE(place); i++) {
		uint8_t *image = image_create(), initrd[INITRD_SIZE] = { 0 };
		struct vm *vm = fw_vm_create(place[i].memory);
		struct x86_state s;

		for (size_t j = 0; j < ARRAY_SIZE(place[i].change); j++)
			image_set(image, place[i].change[j]);
		assert_int_equal(
		    image_boot(vm, image, IMAGE_SIZE, initrd, sizeof(initrd), "", &s), 0);
		if (s.rip != place[i].rip || fw_u32(vm, ZERO_PAGE + 0x218) != place[i].initrd)
			fail_msg("case %zu: entry 0x%llx, initrd 0x%x", i,
			    (unsigned long long)s.rip, fw_u32(vm, ZERO_PAGE + 0x218));
		vm_destroy(vm);
		free(image);
	}
}

static void
test_lies(void **state)
{
	static const struct {
		struct field change[2];
		size_t len; /* of the file, 0 for all */
		const char *words;
	} lie[] = {
		{ { { 0x202, 4, 0 } }, 0, "not a kernel" },
		{ { { 0x1fe, 2, 0 } }, 0, "not a kernel" },
		{ { { 0 } }, 1, "not a kernel" },
		{ { { 0 } }, 0x207, "not a kernel" },
		{ { { 0 } }, 0x208, "ends inside the Linux setup header" },
		{ { { 0 } }, 0x26b, "ends inside the Linux setup header" },
		{ { { 0 } }, 0x26c, "truncated: the kernel starts at offset 2048" },
		{ { { 0 } }, KERNEL_OFFSET, "truncated: the kernel starts at offset 2048" },
		{ { { 0 } }, KERNEL_OFFSET + 1,
		    "truncated: its header announces a kernel of 65536" },
		{ { { 0 } }, IMAGE_SIZE - 17, "truncated: its header announces" },
		{ { { 0x206, 2, 0x0205 } }, 0, "boot protocol 2.05 is too old" },
		{ { { 0x206, 2, 0 } }, 0, "boot protocol 0.00 is too old" },
		{ { { 0x201, 1, 0 } }, 0, "has a length of 17 bytes" },
		{ { { 0x201, 1, 0x61 } }, 0, "has a length of 114 bytes: not 115 to 159" },
		{ { { 0x201, 1, 0x8f } }, 0, "has a length of 160 bytes" },
		{ { { 0x211, 1, 0 } }, 0, "a zImage" },
		{ { { 0x1f1, 1, 255 } }, 0, "truncated" },
		{ { { 0x1f4, 4, UINT32_MAX } }, 0, "announces a kernel of 68719476720 bytes" },
		{ { { 0x1f4, 4, 0 } }, 0, "a kernel of only 0 bytes" },
		{ { { 0x1f4, 4, 0x20 } }, 0, "a kernel of only 512 bytes" },
		{ { { 0x230, 4, 0 } }, 0, "an alignment of 0x0" },
		{ { { 0x230, 4, 0x300000 } }, 0, "an alignment of 0x300000" },
		{ { { 0x260, 4, MIB(128) } }, 0, "needs 128 MiB of memory" },
		{ { { 0x260, 4, UINT32_MAX } }, 0, "needs 4096 MiB of memory" },
		{ { { 0x234, 1, 0 }, { 0x258, 8, 0x1000 } }, 0,
		    "asks to run at 0x1000, below 1 MiB" },
		{ { { 0x234, 1, 0 }, { 0x258, 8, UINT64_MAX } }, 0, "needs 40 MiB of memory" },
		{ { { 0x230, 4, BIT(31) }, { 0x235, 1, 255 } }, 0, "needs 40 MiB of memory" },
		{ { { 0x238, 4, 3 } }, 0, "has 19 characters, this kernel takes 3" },
		{ { { 0x22c, 4, 0 } }, 0, "the initial RAM disk (11 KiB) does not fit" },
		{ { { 0x22c, 4, MIB(56) } }, 0, "the initial RAM disk (11 KiB) does not fit" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(lie); i++) {
		uint8_t *image = image_create(), initrd[INITRD_SIZE] = { 0 };
		struct vm *vm = fw_vm_create(MIB(128));
		struct x86_state s, before;
		struct capture log;
		int err;

		image_set(image, lie[i].change[0]);
		image_set(image, lie[i].change[1]);
		vm_vcpu_get(vm, 0, &before);
		capture_begin(&log);
		err = image_boot(vm, image, lie[i].len != 0 ? lie[i].len : IMAGE_SIZE, initrd,
		    sizeof(initrd), CMDLINE, &s);
		capture_end(&log);
		fw_log_assert(&log, lie[i].words);
		assert_non_null(strstr(log.text, "/proc/self/fd/")); /* the culprit */
		assert_true(err < 0);
		assert_memory_equal(&s, &before, sizeof(s));
		vm_destroy(vm);
		free(image);
	}
}

/* A preferred address out of reach is only a preference. */
static void
test_preference(void **state)
{
	static const uint64_t pref[] = { UINT64_MAX, UINT32_MAX, GIB(3), 1, 0x9fc00 };

	for (size_t i = 0; i < ARRAY_SIZE(pref); i++) {
		uint8_t *image = image_create();
		struct vm *vm = fw_vm_create(MIB(128));
		struct x86_state s;

		image_set(image, (struct field){ 0x258, 8, pref[i] });
		assert_int_equal(image_boot(vm, image, IMAGE_SIZE, NULL, 0, NULL, &s), 0);
		assert_int_equal(s.rip, 0x200200);
		vm_destroy(vm);
		free(image);
	}
}

static void
test_files(void **state)
{
	struct e820_map map;
	struct vm *vm = fw_vm_create(MIB(128));
	uint8_t *image = image_create();
	char kernel[FW_PATH_SIZE], empty[FW_PATH_SIZE], fifo[FW_PATH_SIZE];
	int kernel_fd = fw_file_create(image, IMAGE_SIZE, kernel);
	int empty_fd = fw_file_create("", 0, empty);
	int pipe_fd[2];
	struct x86_state s;

	assert_int_equal(pipe(pipe_fd), 0);
	snprintf(fifo, sizeof(fifo), "/proc/self/fd/%d", pipe_fd[0]);
	e820_init(&map, MIB(128), 0);
	vm_vcpu_get(vm, 0, &s);
	const struct {
		struct boot_params p;
		const char *words;
	} file[] = {
		{ { .kernel = "/no/such/file" }, "/no/such/file: cannot open: No such file" },
		{ { .kernel = "/dev" }, "/dev: not a regular file" },
		{ { .kernel = "/dev/null" }, "/dev/null: not a regular file" },
		{ { .kernel = fifo }, "not a regular file" },
		{ { .kernel = empty }, "the file is empty" },
		{ { .kernel = kernel, .initrd = "/no/such/file" }, "/no/such/file: cannot open" },
		{ { .kernel = kernel, .initrd = "/dev/zero" }, "/dev/zero: not a regular file" },
		{ { .kernel = kernel, .initrd = empty }, "the file is empty" },
	};
	for (size_t i = 0; i < ARRAY_SIZE(file); i++) {
		struct boot_params p = file[i].p;
		struct capture log;
		int err;

		p.map = &map;
		capture_begin(&log);
		err = boot_load(vm, &p, &s);
		capture_end(&log);
		assert_true(err < 0);
		fw_log_assert(&log, file[i].words);
	}
	vm_destroy(vm);
	free(image);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	close(kernel_fd);
	close(empty_fd);
}

/* An initial RAM disk as large as memory, made of a hole. */
static void
test_initrd_large(void **state)
{
	struct vm *vm = fw_vm_create(MIB(128));
	struct e820_map map;
	uint8_t *image = image_create();
	char kernel[FW_PATH_SIZE], initrd[FW_PATH_SIZE];
	int kernel_fd = fw_file_create(image, IMAGE_SIZE, kernel);
	int initrd_fd = fw_file_create("", 0, initrd);
	struct boot_params p = { .kernel = kernel, .initrd = initrd, .map = &map };
	struct x86_state s;
	struct capture log;

	e820_init(&map, MIB(128), 0);
	vm_vcpu_get(vm, 0, &s);
	for (uint64_t size = MIB(72) + 1; size < GIB(1024); size = size * 9 + 1) {
		assert_int_equal(ftruncate(initrd_fd, (off_t)size), 0);
		capture_begin(&log);
		assert_int_equal(boot_load(vm, &p, &s), -ENOSPC);
		capture_end(&log);
		fw_log_assert(&log, "does not fit the guest's memory: 73728 KiB are free");
	}
	assert_int_equal(ftruncate(initrd_fd, MIB(72)), 0);
	assert_int_equal(boot_load(vm, &p, &s), 0);
	assert_int_equal(fw_u32(vm, ZERO_PAGE + 0x218), MIB(56));
	vm_destroy(vm);
	free(image);
	close(kernel_fd);
	close(initrd_fd);
}

/* Debian's kernels, when they have been fetched to boot them. */
static void
test_debian(void **state)
{
	static const struct {
		const char *path;
		uint64_t rip;
	} debian[] = {
		{ "build/guest/cloud/vmlinuz", 0x1000200 },
		{ "build/guest/amd64/vmlinuz", 0x1000200 },
		{ "build/guest/i386/vmlinuz", 0x1000000 },
	};
	int seen = 0;

	for (size_t i = 0; i < ARRAY_SIZE(debian); i++) {
		struct boot_params p = { .kernel = debian[i].path, .cmdline = CMDLINE };
		struct e820_map map;
		struct x86_state s;
		struct vm *vm;

		if (access(debian[i].path, R_OK) != 0)
			continue;
		vm = fw_vm_create(MIB(128));
		e820_init(&map, MIB(128), 0);
		p.map = &map;
		vm_vcpu_get(vm, 0, &s);
		assert_int_equal(boot_load(vm, &p, &s), 0);
		assert_int_equal(s.rip, debian[i].rip);
		vm_destroy(vm);
		seen++;
	}
	if (seen == 0) {
		print_message(
		    "skipped: no kernels in build/guest (make guest-cloud fetches one)\n");
		skip();
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_entry64),
		cmocka_unit_test(test_entry32),
		cmocka_unit_test(test_memory_types),
		cmocka_unit_test(test_placement),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_preference),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_initrd_large),
		cmocka_unit_test(test_debian),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
