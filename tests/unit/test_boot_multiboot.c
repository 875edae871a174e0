/*
 * Multiboot kernels that are not ELF files: load addresses in the header, and headers that lie.
 */
#include "firmware_vm.h"

#include "firmware/boot.h"
#include "firmware/e820.h"

#define HEADER_OFFSET 0x20
#define IMAGE_SIZE 0x4000
#define LOAD 0x100000u

struct header {
	uint32_t magic, flags, checksum;
	uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

static const struct header sound = {
	.magic = 0x1badb002,
	.flags = 0x10003,
	.header_addr = LOAD + 0x10,
	.load_addr = LOAD,
	.load_end_addr = LOAD + 0x3000,
	.bss_end_addr = LOAD + 0x5000,
	.entry_addr = LOAD + 0x123,
};

/* The header with its checksum at off in an image whose other bytes tell their place. */
static void
image_make(uint8_t image[IMAGE_SIZE], struct header h, size_t off)
{
	for (size_t i = 0; i < IMAGE_SIZE; i++)
		image[i] = (uint8_t)(i * 13);
	h.checksum = -(h.magic + h.flags);
	memcpy(image + off, &h, sizeof(h));
}

static int
image_boot(struct vm *vm, const void *image, size_t len, struct x86_state *s)
{
	char path[FW_PATH_SIZE];
	struct e820_map map;
	int fd = fw_file_create(image, len, path), err;
	struct boot_params p = { .kernel = path, .map = &map };

	e820_init(&map, vm_mem_low(vm), vm_mem_high(vm));
	vm_vcpu_get(vm, 0, s);
	err = boot_load(vm, &p, s);
	close(fd);
	return err;
}

static void
test_addresses(void **state)
{
	static uint8_t image[IMAGE_SIZE], copy[0x5000];
	struct vm *vm = fw_vm_create(MIB(16));
	struct x86_state s;

	memset(copy, 0xff, sizeof(copy));
	vm_mem_write(vm, LOAD, copy, sizeof(copy));
	image_make(image, sound, HEADER_OFFSET);
	assert_int_equal(image_boot(vm, image, IMAGE_SIZE, &s), 0);
	assert_int_equal(s.rip, LOAD + 0x123);
	assert_int_equal(s.gpr[X86_RAX], 0x2badb002);
	fw_read(vm, LOAD, copy, sizeof(copy));
	/* The file from the header less 0x10 on */
	assert_memory_equal(copy, image + HEADER_OFFSET - 0x10, 0x3000);
	for (size_t i = 0x3000; i < sizeof(copy); i++)
		assert_int_equal(copy[i], 0);
	assert_int_equal(fw_u32(vm, s.gpr[X86_RBX] + 20), 0); /* no modules */
	vm_destroy(vm);
}

/* An end of 0 stands for the file's end, and no bss. */
static void
test_defaults(void **state)
{
	static uint8_t image[IMAGE_SIZE];
	struct vm *vm = fw_vm_create(MIB(16));
	struct header h = sound;
	struct x86_state s;
	uint64_t last = LOAD + IMAGE_SIZE - HEADER_OFFSET + 0x10 - 4;

	h.load_end_addr = 0;
	h.bss_end_addr = 0;
	image_make(image, h, HEADER_OFFSET);
	assert_int_equal(image_boot(vm, image, IMAGE_SIZE, &s), 0);
	assert_memory_equal(&(uint32_t){ fw_u32(vm, last) }, image + IMAGE_SIZE - 4, 4);
	assert_int_equal(fw_u32(vm, last + 4), 0);
	vm_destroy(vm);
}

/* The last place a header may be at, and the ones after. */
static void
test_search(void **state)
{
	static uint8_t image[IMAGE_SIZE];
	static const struct {
		size_t off;
		bool found;
	} place[] = {
		{ 0x20, true }, { 0x22, false }, { 8192 - sizeof(struct header), true },
		{ 8192, false },
	};

	for (size_t i = 0; i < ARRAY_SIZE(place); i++) {
		struct vm *vm = fw_vm_create(MIB(16));
		struct header h = sound;
		struct x86_state s;
		struct capture log;
		int err;

		h.header_addr = LOAD + 0x20;
		h.load_end_addr = 0;
		image_make(image, h, place[i].off);
		capture_begin(&log);
		err = image_boot(vm, image, IMAGE_SIZE, &s);
		capture_end(&log);
		assert_int_equal(err == 0, place[i].found);
		if (!place[i].found)
			fw_log_assert(&log, "not a kernel");
		vm_destroy(vm);
	}
}

static void
test_lies(void **state)
{
	static uint8_t image[IMAGE_SIZE];
	const uint32_t m = 0x1badb002, f = 0x10003;
	const struct {
		struct header h;
		size_t len;
		const char *words;
	} lie[] = {
		{ { .magic = m, .flags = 3 }, 0,
		    "without load addresses, in a file that is not ELF" },
		{ { .magic = m, .flags = f | BIT(3) }, 0, "requires unknown features (flags 0x8)" },
		{ { .magic = m, .flags = f | 0xfff8 }, 0,
		    "requires unknown features (flags 0xfff8)" },
		{ sound, HEADER_OFFSET + 12, "ends inside the multiboot header" },
		{ sound, HEADER_OFFSET + 31, "ends inside the multiboot header" },
		{ sound, HEADER_OFFSET + 32, "announces a kernel from 0x100000 to 0x103000" },
		{ { m, f, 0, LOAD - 1, LOAD, 0, 0, LOAD }, 0, "says that it loads at 0xfffff" },
		{ { m, f, 0, LOAD + 0x21, LOAD, 0, 0, LOAD }, 0, "says that it loads at 0x100021" },
		{ { m, f, 0, LOAD, LOAD, LOAD, 0, LOAD }, 0, "the file holds 16352 bytes" },
		{ { m, f, 0, LOAD, LOAD, LOAD - 1, 0, LOAD }, 0, "the file holds 16352 bytes" },
		{ { m, f, 0, LOAD, LOAD, LOAD + 0x3fe1, 0, LOAD }, 0,
		    "the file holds 16352 bytes" },
		{ { m, f, 0, LOAD, LOAD, UINT32_MAX, 0, LOAD }, 0, "the file holds 16352 bytes" },
		{ { m, f, 0, LOAD, LOAD, 0, UINT32_MAX, LOAD }, 0, "outside the guest's usable" },
		{ { m, f, 0, 0x1000, 0x1000, 0, 0, 0x1000 }, 0, "outside the guest's usable" },
		{ { m, f, 0, UINT32_MAX, UINT32_MAX, 0, 0, LOAD }, 0,
		    "outside the guest's usable" },
		{ { m, f, 0, LOAD, LOAD, 0, 0, LOAD - 1 }, 0, "entry 0xfffff lies outside" },
		{ { m, f, 0, LOAD, LOAD, 0, 0, LOAD + 0x3fe0 }, 0, "lies outside the kernel" },
		{ { m, f, 0, LOAD, LOAD, 0, 0, 0 }, 0, "entry 0x0 lies outside" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(lie); i++) {
		struct vm *vm = fw_vm_create(MIB(16));
		struct x86_state s;
		struct capture log;
		int err;

		image_make(image, lie[i].h, HEADER_OFFSET);
		capture_begin(&log);
		err = image_boot(vm, image, lie[i].len != 0 ? lie[i].len : IMAGE_SIZE, &s);
		capture_end(&log);
		fw_log_assert(&log, lie[i].words);
		assert_true(err < 0);
		vm_destroy(vm);
	}
}

/* Asking for a video mode is no reason not to boot, but the user is told. */
static void
test_video(void **state)
{
	static uint8_t image[IMAGE_SIZE];
	struct vm *vm = fw_vm_create(MIB(16));
	struct header h = sound;
	struct x86_state s;
	struct capture log;

	h.flags |= BIT(2);
	image_make(image, h, HEADER_OFFSET);
	capture_begin(&log);
	assert_int_equal(image_boot(vm, image, IMAGE_SIZE, &s), 0);
	capture_end(&log);
	fw_log_assert(&log, "asks for a video mode");
	assert_int_equal(fw_u32(vm, s.gpr[X86_RBX]) & BIT(12), 0);
	vm_destroy(vm);
}

/* The least memory a machine has is not enough to boot anything. */
static void
test_memory(void **state)
{
	static uint8_t image[IMAGE_SIZE];
	struct vm *vm = fw_vm_create(MIB(1));
	struct x86_state s;
	struct capture log;

	image_make(image, sound, HEADER_OFFSET);
	capture_begin(&log);
	assert_int_equal(image_boot(vm, image, IMAGE_SIZE, &s), -ENOSPC);
	capture_end(&log);
	fw_log_assert(&log, "more than 1 MiB");
	vm_destroy(vm);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_search),
		cmocka_unit_test(test_lies),
		cmocka_unit_test(test_video),
		cmocka_unit_test(test_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
