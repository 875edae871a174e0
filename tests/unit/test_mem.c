/*
 * Guest-physical memory: the map, checked accessors, ROMs, sizes refused.
 */
#include "mock_engine.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int
setup(void **state)
{
	*state = mock_vm_create(MIB(2), 1);
	return *state == NULL;
}

static int
teardown(void **state)
{
	vm_destroy(*state);
	return 0;
}

static void
test_read_write(void **state)
{
	struct vm *vm = *state;
	uint8_t buf[300], back[300];

	assert_int_equal(vm_mem_low(vm), MIB(2));
	assert_int_equal(vm_mem_high(vm), 0);
	for (size_t i = 0; i < sizeof(buf); i++)
		buf[i] = (uint8_t)(i * 7);
	for (uint64_t len = 1; len <= sizeof(buf); len = len * 3 / 2 + 1) {
		memset(back, 0xee, sizeof(back));
		assert_int_equal(vm_mem_write(vm, 0x1003, buf, len), 0);
		assert_int_equal(vm_mem_read(vm, 0x1003, back, len), 0);
		assert_memory_equal(buf, back, len);
		assert_int_equal(back[len - 1], buf[len - 1]);
		assert_memory_equal(vm_mem_ptr(vm, 0x1003, len), buf, len);
	}
	assert_int_equal(vm_mem_zero(vm, 0x1004, 2), 0);
	assert_int_equal(vm_mem_read(vm, 0x1003, back, 4), 0);
	assert_int_equal(back[0], buf[0]);
	assert_int_equal(back[1] | back[2], 0);
	assert_int_equal(back[3], buf[3]);
}

static void
test_bounds(void **state)
{
	static const struct {
		uint64_t gpa, len;
	} bad[] = {
		{ MIB(2), 1 },
		{ MIB(2) - 1, 2 },
		{ 0, MIB(2) + 1 },
		{ MIB(2) - 8, UINT64_MAX },
		{ 8, UINT64_MAX - 7 },
		{ GIB(4), 1 },
		{ GIB(3), 1 },
		{ UINT64_MAX, 1 },
		{ UINT64_MAX, 2 },
		{ UINT64_MAX - 7, 16 },
	};
	struct vm *vm = *state;
	uint8_t byte = 0x5a;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(vm_mem_read(vm, bad[i].gpa, &byte, bad[i].len), -EFAULT);
		assert_int_equal(vm_mem_write(vm, bad[i].gpa, &byte, bad[i].len), -EFAULT);
		assert_int_equal(vm_mem_zero(vm, bad[i].gpa, bad[i].len), -EFAULT);
		assert_null(vm_mem_ptr(vm, bad[i].gpa, bad[i].len));
	}
	assert_int_equal(byte, 0x5a);
	assert_int_equal(mock_vm(vm)->written, 0);
	assert_int_equal(vm_mem_read(vm, MIB(2) - 1, &byte, 1), 0);
	assert_int_equal(byte, 0);
	assert_non_null(vm_mem_ptr(vm, 0, MIB(2)));
}

static void
test_engine_is_told(void **state)
{
	struct vm *vm = *state;
	struct engine_vm *evm = mock_vm(vm);
	uint32_t v = 1;

	assert_int_equal(evm->maps, 1);
	assert_int_equal(evm->map[0].gpa, 0);
	assert_int_equal(evm->map[0].len, MIB(2));
	assert_ptr_equal(evm->map[0].hva, vm_mem_ptr(vm, 0, 1));
	vm_mem_write(vm, 0, &v, sizeof(v));
	vm_mem_zero(vm, 0x100, 0x100);
	vm_mem_read(vm, 0, &v, sizeof(v));
	assert_int_equal(evm->written, 0x104);
	vm_mem_written(vm, 0, 0);
	assert_int_equal(evm->written, 0x104);
}

static void
test_fd(void **state)
{
	struct vm *vm = *state;
	struct stat st;
	uint32_t v = 0x600df00d, back = 0;

	assert_int_equal(vm_mem_write(vm, 0x3000, &v, sizeof(v)), 0);
	assert_int_equal(fstat(vm_mem_fd(vm), &st), 0);
	assert_int_equal(st.st_size, MIB(2));
	assert_int_equal(pread(vm_mem_fd(vm), &back, sizeof(back), 0x3000), sizeof(back));
	assert_int_equal(back, v);
	/* Whoever it is shared with cannot pull it away under us. */
	assert_int_equal(ftruncate(vm_mem_fd(vm), 0), -1);
}

static void
test_hole(void **state)
{
	struct vm *vm = mock_vm_create(GIB(3) + MIB(64), 1);
	uint8_t byte = 0x77, back = 0;

	/* Memory is not touched until it is used; the host may still be too small for it. */
	if (vm == NULL)
		skip();
	assert_int_equal(vm_mem_low(vm), GIB(3));
	assert_int_equal(vm_mem_high(vm), MIB(64));
	assert_int_equal(mock_vm(vm)->maps, 2);
	assert_int_equal(mock_vm(vm)->map[1].gpa, GIB(4));
	assert_int_equal(vm_mem_write(vm, GIB(4), &byte, 1), 0);
	assert_int_equal(vm_mem_read(vm, 0, &back, 1), 0);
	assert_int_equal(back, 0);
	assert_int_equal(pread(vm_mem_fd(vm), &back, 1, (off_t)GIB(3)), 1);
	assert_int_equal(back, byte);
	assert_int_equal(vm_mem_read(vm, GIB(4) + MIB(64) - 1, &back, 1), 0);
	assert_int_equal(vm_mem_read(vm, GIB(4) + MIB(64), &back, 1), -EFAULT);
	assert_int_equal(vm_mem_read(vm, GIB(3), &back, 1), -EFAULT);
	assert_null(vm_mem_ptr(vm, GIB(3) - 1, 2));
	assert_null(vm_mem_ptr(vm, GIB(4) - 1, 2));
	assert_null(vm_mem_ptr(vm, GIB(3) - 1, GIB(1) + 2));
	vm_destroy(vm);
}

static void
test_rom(void **state)
{
	struct vm *vm = *state;
	struct engine_vm *evm = mock_vm(vm);
	uint8_t image[8192], byte;

	memset(image, 0xea, sizeof(image));
	assert_int_equal(vm_mem_add_rom(vm, 0xffffe000, image, 8192), 0);
	image[0] = 0; /* a private copy was made */
	assert_int_equal(evm->maps, 2);
	assert_int_equal(evm->map[1].prot, ENGINE_MEM_READ | ENGINE_MEM_EXEC);
	assert_int_equal(((uint8_t *)evm->map[1].hva)[0], 0xea);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, 0xfffffff0, 4), 0xeaeaeaea);
	assert_int_equal(vm_bus_read(vm, VM_MMIO, 0xfffffffe, 2), 0xeaea);
	/* It is no RAM. */
	assert_int_equal(vm_mem_read(vm, 0xffffe000, &byte, 1), -EFAULT);

	assert_int_equal(vm_mem_add_rom(vm, 0xfffff000, image, 4096), -EEXIST);
	assert_int_equal(vm_mem_add_rom(vm, 0xffffd000, image, 8192), -EEXIST);
	assert_int_equal(vm_mem_add_rom(vm, 0xfffd0800, image, 4096), -EINVAL);
	assert_int_equal(vm_mem_add_rom(vm, 0xfffd0000, image, 100), -EINVAL);
	assert_int_equal(vm_mem_add_rom(vm, 0xfffd0000, image, 0), -EINVAL);
	assert_int_equal(vm_mem_add_rom(vm, 0xfffff000, image, 8192), -EINVAL);
	assert_int_equal(vm_mem_add_rom(vm, 0, image, 4096), -EINVAL);
	assert_int_equal(vm_mem_add_rom(vm, GIB(4), image, 4096), -EINVAL);
	assert_int_equal(evm->maps, 2);
}

/* Makes a machine and returns the error and what was said. */
static int
create_error(const struct vm_params *params, char *said, size_t size)
{
	struct vm *vm = NULL;
	int saved = dup(STDERR_FILENO), p[2], err;
	ssize_t n;

	assert_int_equal(pipe2(p, O_NONBLOCK), 0);
	dup2(p[1], STDERR_FILENO);
	err = vm_create(params, &vm);
	dup2(saved, STDERR_FILENO);
	n = read(p[0], said, size - 1);
	said[n > 0 ? n : 0] = '\0';
	close(saved);
	close(p[0]);
	close(p[1]);
	vm_destroy(vm);
	return err;
}

static void
test_refused(void **state)
{
	struct vm_params params = { .name = "test", .engine = &mock_engine, .topo = { 1, 1, 1 } };
	char said[512];

	for (int i = 0; i < 3; i++) {
		params.memory = (const uint64_t[]){ 0, 4096, MIB(1) + 5 }[i];
		assert_int_equal(create_error(&params, said, sizeof(said)), -EINVAL);
		assert_non_null(strstr(said, "bhyve: memory.size: "));
		assert_non_null(strstr(said, "expected at least 1 MiB in multiples of 4 KiB\n"));
	}
	for (int i = 0; i < 3; i++) {
		params.memory = (const uint64_t[]){ GIB(1024) * 1024, GIB(1) << 33,
			UINT64_MAX - 4095 }[i];
		assert_int_equal(create_error(&params, said, sizeof(said)), -ENOMEM);
		assert_non_null(strstr(said, "is more than this host's memory and swap"));
		assert_ptr_equal(strchr(said, '\n'), said + strlen(said) - 1);
	}
	params.memory = MIB(1);
	params.topo.cores = 0;
	assert_int_equal(create_error(&params, said, sizeof(said)), -EINVAL);
	params.topo = (struct x86_topology){ 0xffffffff, 0xffffffff, 3 };
	assert_int_equal(create_error(&params, said, sizeof(said)), -EINVAL);
	params.topo = (struct x86_topology){ 256, 1, 1 };
	assert_int_equal(create_error(&params, said, sizeof(said)), -EINVAL);
	/* 180 vCPUs, but the gaps between their APIC IDs take these beyond 254. */
	params.topo = (struct x86_topology){ 20, 3, 3 };
	assert_int_equal(create_error(&params, said, sizeof(said)), -EINVAL);
	assert_non_null(strstr(said, "bhyve: cpus: 20 sockets of 3 cores of 3 threads"));
}

static void
test_wired(void **state)
{
	struct vm_params params = { .name = "test",
		.engine = &mock_engine,
		.topo = { 1, 1, 1 },
		.memory = MIB(1),
		.wire_memory = true,
		.core_memory = true };
	char said[512];
	int err = create_error(&params, said, sizeof(said));

	/* Locking needs a limit that allows it; refused, it is one clear line. */
	if (err != 0)
		assert_non_null(strstr(said, "bhyve: memory.wired: cannot lock 1 MiB"));
	else
		assert_string_equal(said, "");
}

int
main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_read_write),
		TEST(test_bounds),
		TEST(test_engine_is_told),
		TEST(test_fd),
		cmocka_unit_test(test_hole),
		TEST(test_rom),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_wired),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
