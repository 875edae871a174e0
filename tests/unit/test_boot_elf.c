/*
 * ELF kernels: the PVH entry and multiboot, segments by physical address, and headers that lie.
 */
#include "firmware_vm.h"

#include "firmware/boot.h"
#include "firmware/e820.h"

#include <elf.h>

#define BOOT_INFO 0x2000
#define SEGMENT_OFFSET 0x1000
#define SEGMENT_SIZE 0x3000
#define SEGMENT_PA 0x200000
#define SEGMENT_VA 0xc0200000
#define IMAGE_SIZE (SEGMENT_OFFSET + SEGMENT_SIZE)
#define NOTE_OFFSET 0x800
#define ENTRY_OFFSET 0x40

/* The same kernel in both classes; fields are reached through the class's structs. */
struct note {
	Elf64_Nhdr h;
	char name[4];
	uint32_t entry, high;
};

static void
image_fill(uint8_t *image, uint32_t entry)
{
	struct note other = { { 4, 8, 6 }, "GNU", 1, 1 };
	struct note pvh = { { 4, 8, 18 }, "Xen", entry, 0 };

	for (size_t i = SEGMENT_OFFSET; i < IMAGE_SIZE; i++)
		image[i] = (uint8_t)(i * 11);
	memcpy(image + NOTE_OFFSET, &other, sizeof(other));
	memcpy(image + NOTE_OFFSET + sizeof(other), &pvh, sizeof(pvh));
}

static uint8_t *
image_create64(void)
{
	uint8_t *image = calloc(1, IMAGE_SIZE);
	const Elf64_Ehdr eh = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
		.e_entry = SEGMENT_VA + ENTRY_OFFSET, .e_phoff = sizeof(eh),
		.e_ehsize = sizeof(eh), .e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 2,
	};
	const Elf64_Phdr ph[2] = {
		{ .p_type = PT_LOAD, .p_offset = SEGMENT_OFFSET, .p_vaddr = SEGMENT_VA,
		    .p_paddr = SEGMENT_PA, .p_filesz = SEGMENT_SIZE, .p_memsz = SEGMENT_SIZE * 2 },
		{ .p_type = PT_NOTE, .p_offset = NOTE_OFFSET, .p_filesz = 2 * sizeof(struct note),
		    .p_align = 4 },
	};

	assert_non_null(image);
	memcpy(image, &eh, sizeof(eh));
	memcpy(image + sizeof(eh), ph, sizeof(ph));
	image_fill(image, SEGMENT_PA + ENTRY_OFFSET);
	return image;
}

static uint8_t *
image_create32(void)
{
	uint8_t *image = calloc(1, IMAGE_SIZE);
	const Elf32_Ehdr eh = {
		.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT },
		.e_type = ET_EXEC, .e_machine = EM_386, .e_version = EV_CURRENT,
		.e_entry = SEGMENT_VA + ENTRY_OFFSET, .e_phoff = sizeof(eh),
		.e_ehsize = sizeof(eh), .e_phentsize = sizeof(Elf32_Phdr), .e_phnum = 2,
	};
	const Elf32_Phdr ph[2] = {
		{ .p_type = PT_LOAD, .p_offset = SEGMENT_OFFSET, .p_vaddr = SEGMENT_VA,
		    .p_paddr = SEGMENT_PA, .p_filesz = SEGMENT_SIZE, .p_memsz = SEGMENT_SIZE * 2 },
		{ .p_type = PT_NOTE, .p_offset = NOTE_OFFSET, .p_filesz = 2 * sizeof(struct note),
		    .p_align = 4 },
	};

	assert_non_null(image);
	memcpy(image, &eh, sizeof(eh));
	memcpy(image + sizeof(eh), ph, sizeof(ph));
	image_fill(image, SEGMENT_PA + ENTRY_OFFSET);
	return image;
}

/* Turns the PVH note into something else and puts a multiboot header into the file. */
static void
image_make_multiboot(uint8_t *image, uint32_t flags)
{
	const uint32_t header[3] = { 0x1badb002, flags, -(0x1badb002 + flags) };

	memset(image + NOTE_OFFSET + sizeof(struct note), 0, sizeof(struct note));
	memcpy(image + SEGMENT_OFFSET + 0x10, header, sizeof(header));
}

static int
image_boot(struct vm *vm, const void *image, size_t len, const char *initrd, const char *cmdline,
    struct x86_state *s)
{
	char path[FW_PATH_SIZE];
	struct e820_map map;
	int fd = fw_file_create(image, len, path), err;
	struct boot_params p = {
		.kernel = path, .initrd = initrd, .cmdline = cmdline, .rsdp = 0xf2400, .map = &map,
	};

	e820_init(&map, vm_mem_low(vm), vm_mem_high(vm));
	vm_vcpu_get(vm, 0, s);
	err = boot_load(vm, &p, s);
	close(fd);
	return err;
}

static void
assert_segment_loaded(struct vm *vm, const uint8_t *image)
{
	static uint8_t copy[SEGMENT_SIZE * 2];

	fw_read(vm, SEGMENT_PA, copy, sizeof(copy));
	assert_memory_equal(copy, image + SEGMENT_OFFSET, SEGMENT_SIZE);
	for (size_t i = SEGMENT_SIZE; i < sizeof(copy); i++)
		assert_int_equal(copy[i], 0);
}

static void
assert_protected_mode(const struct x86_state *s)
{
	assert_int_equal(s->cr0, X86_CR0_PE | X86_CR0_ET);
	assert_int_equal(s->cr4 | s->efer, 0);
	assert_int_equal(s->rflags, X86_FL_1);
	assert_int_equal(s->seg[X86_CS].limit, UINT32_MAX);
	assert_true(s->seg[X86_CS].attr & X86_SEG_DB && s->seg[X86_CS].attr & X86_SEG_CODE);
	assert_int_equal(s->tr.limit, 0x67);
}

static void
test_pvh(void **state)
{
	uint8_t *image[2] = { image_create64(), image_create32() };

	for (size_t i = 0; i < ARRAY_SIZE(image); i++) {
		struct vm *vm = fw_vm_create(MIB(128));
		char initrd[FW_PATH_SIZE], buf[16];
		int initrd_fd = fw_file_create("0123456789", 10, initrd);
		uint8_t junk[64];
		uint64_t info = BOOT_INFO, module, map;
		struct x86_state s;

		memset(junk, 0xff, sizeof(junk)); /* the bss is cleared */
		vm_mem_write(vm, SEGMENT_PA + SEGMENT_SIZE, junk, sizeof(junk));
		assert_int_equal(image_boot(vm, image[i], IMAGE_SIZE, initrd, "a=b", &s), 0);
		assert_protected_mode(&s);
		assert_int_equal(s.rip, SEGMENT_PA + ENTRY_OFFSET);
		assert_int_equal(s.gpr[X86_RBX], info);
		assert_segment_loaded(vm, image[i]);

		assert_int_equal(fw_u32(vm, info), 0x336ec578);
		assert_int_equal(fw_u32(vm, info + 4), 1);
		assert_int_equal(fw_u32(vm, info + 12), 1);
		module = fw_u64(vm, info + 16);
		assert_int_equal(fw_u64(vm, module), MIB(128) - KIB(4));
		assert_int_equal(fw_u64(vm, module + 8), 10);
		fw_read(vm, fw_u64(vm, module), buf, 10);
		assert_memory_equal(buf, "0123456789", 10);
		fw_read(vm, fw_u64(vm, info + 24), buf, 4);
		assert_string_equal(buf, "a=b");
		assert_int_equal(fw_u64(vm, info + 32), 0xf2400);
		map = fw_u64(vm, info + 40);
		assert_int_equal(fw_u32(vm, info + 48), 6);
		assert_int_equal(fw_u64(vm, map + 3 * 24), 0x100000);
		assert_int_equal(fw_u64(vm, map + 3 * 24 + 8), MIB(127));
		assert_int_equal(fw_u32(vm, map + 3 * 24 + 16), E820_RAM);
		vm_destroy(vm);
		close(initrd_fd);
		free(image[i]);
	}
}

static void
test_multiboot(void **state)
{
	uint8_t *image[2] = { image_create64(), image_create32() };

	for (size_t i = 0; i < ARRAY_SIZE(image); i++) {
		struct vm *vm = fw_vm_create(MIB(128));
		char initrd[FW_PATH_SIZE], buf[FW_PATH_SIZE] = "";
		int initrd_fd = fw_file_create("0123456789", 10, initrd);
		uint32_t info = BOOT_INFO, module, map;
		struct x86_state s;

		image_make_multiboot(image[i], 3);
		assert_int_equal(image_boot(vm, image[i], IMAGE_SIZE, initrd, "a=b", &s), 0);
		assert_protected_mode(&s);
		assert_int_equal(s.rip, SEGMENT_PA + ENTRY_OFFSET);
		assert_int_equal(s.gpr[X86_RAX], 0x2badb002);
		assert_int_equal(s.gpr[X86_RBX], info);
		assert_segment_loaded(vm, image[i]);

		assert_int_equal(
		    fw_u32(vm, info) & 0x1fff, BIT(0) | BIT(2) | BIT(3) | BIT(6) | BIT(9));
		assert_int_equal(fw_u32(vm, info + 4), 639);
		assert_int_equal(fw_u32(vm, info + 8), 127 * 1024);
		fw_read(vm, fw_u32(vm, info + 16), buf, sizeof(buf) - 1);
		assert_non_null(strstr(buf, "/proc/self/fd/"));
		assert_non_null(strstr(buf, " a=b"));
		assert_int_equal(fw_u32(vm, info + 20), 1);
		module = fw_u32(vm, info + 24);
		assert_int_equal(fw_u32(vm, module), MIB(128) - KIB(4));
		assert_int_equal(fw_u32(vm, module + 4), MIB(128) - KIB(4) + 10);
		fw_read(vm, fw_u32(vm, module + 8), buf, sizeof(buf) - 1);
		assert_string_equal(buf, initrd);
		map = fw_u32(vm, info + 48);
		assert_int_equal(fw_u32(vm, info + 44), 6 * 24);
		assert_int_equal(fw_u32(vm, map), 20);
		assert_int_equal(fw_u64(vm, map + 4), 0);
		assert_int_equal(fw_u64(vm, map + 12), 0x9fc00);
		assert_int_equal(fw_u32(vm, map + 20), E820_RAM);
		fw_read(vm, fw_u32(vm, info + 64), buf, 6);
		assert_string_equal(buf, "bhyve");
		vm_destroy(vm);
		close(initrd_fd);
		free(image[i]);
	}
}

struct change {
	unsigned off, size;
	uint64_t val;
};

#define EH(field) offsetof(Elf64_Ehdr, field), sizeof(((Elf64_Ehdr *)0)->field)
#define PH(n, field)                                                                               \
	sizeof(Elf64_Ehdr) + (n) * sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, field),               \
	    sizeof(((Elf64_Phdr *)0)->field)
#define PVH_NOTE (NOTE_OFFSET + sizeof(struct note))

static void
test_lies(void **state)
{
	static const struct {
		struct change change[2];
		size_t len; /* of the file, 0 for all */
		const char *words;
	} lie[] = {
		{ { { 0 } }, 3, "not a kernel" },
		{ { { 0 } }, 4, "ends inside the ELF header" },
		{ { { 0 } }, 63, "ends inside the ELF header" },
		{ { { EI_CLASS, 1, ELFCLASS32 } }, 51, "ends inside the ELF header" },
		{ { { EI_DATA, 1, ELFDATA2MSB } }, 0, "not an x86 executable" },
		{ { { EH(e_machine), EM_AARCH64 } }, 0, "not an x86 executable" },
		{ { { EH(e_type), ET_REL } }, 0, "not an x86 executable" },
		{ { { EH(e_phentsize), 1 } }, 0, "announces 2 program headers of 1 bytes" },
		{ { { EH(e_phnum), 0 } }, 0, "announces 0 program headers" },
		{ { { EH(e_phnum), 0xffff } }, 0, "a program header (56 bytes at offset" },
		{ { { EH(e_phoff), UINT64_MAX } }, 0, "lie past the end of the file" },
		{ { { EH(e_phoff), IMAGE_SIZE } }, 0, "a program header (56 bytes at offset" },
		{ { { PH(0, p_type), PT_NULL } }, 0, "nothing to load" },
		{ { { PH(0, p_memsz), 0 } }, 0, "nothing to load" },
		{ { { PH(0, p_memsz), 1 } }, 0, "12288 bytes in the file and 1 in memory" },
		{ { { PH(0, p_offset), UINT64_MAX } }, 0, "goes past the end of the file" },
		{ { { PH(0, p_offset), SEGMENT_OFFSET + 1 } }, 0, "goes past the end of the file" },
		{ { { PH(0, p_filesz), UINT64_MAX }, { PH(0, p_memsz), UINT64_MAX } }, 0,
		    "goes past the end of the file" },
		{ { { PH(0, p_memsz), MIB(126) + 1 } }, 0, "outside the guest's usable memory" },
		{ { { PH(0, p_memsz), UINT64_MAX } }, 0, "outside the guest's usable memory" },
		{ { { PH(0, p_paddr), 0 } }, 0, "outside the guest's usable memory" },
		{ { { PH(0, p_paddr), 0x2ffff } }, 0, "outside the guest's usable memory" },
		{ { { PH(0, p_paddr), 0x9f000 } }, 0, "outside the guest's usable memory" },
		{ { { PH(0, p_paddr), 0xf0000 } }, 0, "outside the guest's usable memory" },
		{ { { PH(0, p_paddr), MIB(128) } }, 0, "outside the guest's usable memory" },
		{ { { PH(0, p_paddr), UINT64_MAX } }, 0, "outside the guest's usable memory" },
		{ { { PH(1, p_filesz), UINT64_MAX } }, 0, "a note segment of" },
		{ { { PH(1, p_offset), IMAGE_SIZE } }, 0,
		    "a note segment (48 bytes at offset 16384)" },
		{ { { PVH_NOTE + 16, 4, SEGMENT_PA - 1 } }, 0,
		    "entry 0x1fffff lies in no segment" },
		{ { { PVH_NOTE + 16, 4, SEGMENT_PA + SEGMENT_SIZE * 2 } }, 0,
		    "lies in no segment" },
		{ { { PVH_NOTE + 20, 4, 1 } }, 0, "entry 0x100200040 lies in no segment" },
		/* Notes that say something else */
		{ { { PVH_NOTE, 4, UINT32_MAX } }, 0, "neither a PVH note nor a multiboot header" },
		{ { { PVH_NOTE + 4, 4, UINT32_MAX } }, 0, "neither a PVH note" },
		{ { { PVH_NOTE + 4, 4, 2 } }, 0, "neither a PVH note" },
		{ { { PVH_NOTE + 8, 4, 17 } }, 0, "neither a PVH note" },
		{ { { PVH_NOTE + 12, 1, 'Y' } }, 0, "neither a PVH note" },
		{ { { PH(1, p_filesz), 2 * sizeof(struct note) - 1 } }, 0, "neither a PVH note" },
		{ { { NOTE_OFFSET, 4, UINT32_MAX } }, 0, "neither a PVH note" },
		{ { { NOTE_OFFSET + 4, 4, UINT32_MAX - 8 } }, 0, "neither a PVH note" },
		{ { { PH(1, p_type), PT_NULL } }, 0, "neither a PVH note" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(lie); i++) {
		uint8_t *image = image_create64();
		struct vm *vm = fw_vm_create(MIB(128));
		struct x86_state s, before;
		struct capture log;
		int err;

		for (size_t j = 0; j < ARRAY_SIZE(lie[i].change); j++)
			memcpy(image + lie[i].change[j].off, &lie[i].change[j].val,
			    lie[i].change[j].size);
		vm_vcpu_get(vm, 0, &before);
		capture_begin(&log);
		err = image_boot(vm, image, lie[i].len != 0 ? lie[i].len : IMAGE_SIZE, NULL, "",
		    &s);
		capture_end(&log);
		fw_log_assert(&log, lie[i].words);
		assert_true(err < 0);
		assert_memory_equal(&s, &before, sizeof(s));
		vm_destroy(vm);
		free(image);
	}
}

static void
test_segments(void **state)
{
	uint8_t *image = image_create64();
	struct vm *vm = fw_vm_create(MIB(128));
	Elf64_Ehdr eh;
	Elf64_Phdr ph;
	struct x86_state s;
	struct capture log;

	/* 64 segments load, 65 do not. The first is the kernel, the others repeat its last byte. */
	memcpy(&eh, image, sizeof(eh));
	memcpy(&ph, image + sizeof(eh), sizeof(ph));
	eh.e_phoff = SEGMENT_OFFSET;
	for (unsigned n = 1; n < 66; n++) {
		ph.p_filesz = 1;
		ph.p_memsz = 1;
		ph.p_paddr = MIB(4) + n;
		ph.p_vaddr = 0;
		memcpy(image + SEGMENT_OFFSET + (n + 1) * sizeof(ph), &ph, sizeof(ph));
	}
	memcpy(image + SEGMENT_OFFSET, image + sizeof(eh), 2 * sizeof(ph));
	eh.e_phnum = 65; /* the note is one of them */
	memcpy(image, &eh, sizeof(eh));
	assert_int_equal(image_boot(vm, image, IMAGE_SIZE, NULL, "", &s), 0);
	assert_int_equal(fw_u32(vm, MIB(4) + 63) & 0xff, image[SEGMENT_OFFSET]);
	assert_int_equal(fw_u32(vm, MIB(4) + 64) & 0xff, 0);
	eh.e_phnum = 66;
	memcpy(image, &eh, sizeof(eh));
	capture_begin(&log);
	assert_int_equal(image_boot(vm, image, IMAGE_SIZE, NULL, "", &s), -EINVAL);
	capture_end(&log);
	fw_log_assert(&log, "more than 64 segments");
	vm_destroy(vm);
	free(image);
}

static void
test_cmdline(void **state)
{
	uint8_t *image = image_create64();
	struct vm *vm = fw_vm_create(MIB(128));
	char *cmdline = malloc(KIB(64) + 1);
	struct x86_state s;
	struct capture log;

	memset(cmdline, 'x', KIB(64));
	cmdline[KIB(64)] = '\0';
	for (int multiboot = 0; multiboot < 2; multiboot++) {
		if (multiboot)
			image_make_multiboot(image, 0);
		capture_begin(&log);
		assert_int_equal(image_boot(vm, image, IMAGE_SIZE, NULL, cmdline, &s), -E2BIG);
		capture_end(&log);
		fw_log_assert(&log, "the command line has 65536 characters");
	}
	cmdline[KIB(63)] = '\0';
	assert_int_equal(image_boot(vm, image, IMAGE_SIZE, NULL, cmdline, &s), 0);
	vm_destroy(vm);
	free(cmdline);
	free(image);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pvh),
		cmocka_unit_test(test_multiboot),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_segments),
		cmocka_unit_test(test_cmdline),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
