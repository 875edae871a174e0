/*
 * What the firmware's tests share: a machine whose engine has a CPUID model, files made of bytes,
 * and the messages to the user.
 */
#ifndef FIRMWARE_VM_H
#define FIRMWARE_VM_H

#include "capture.h"
#include "mock_engine.h"

#include "base/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

/* A CPUID model of nothing in particular, but with 40 physical address bits. */
static inline void
fw_cpuid_read(void *arg, uint32_t leaf, uint32_t subleaf, struct x86_cpuid_regs *out)
{
	*out = (struct x86_cpuid_regs){ 0 };
	switch (leaf) {
	case 0: *out = (struct x86_cpuid_regs){ 0xd, 0x756e6547, 0x6c65746e, 0x49656e69 }; break;
	case 1: *out = (struct x86_cpuid_regs){ 0x000806f8, 0, 0, 0x078bfbff }; break;
	case 0x80000000: out->eax = 0x80000008; break;
	case 0x80000008: out->eax = 40 | 48 << 8; break;
	}
}

static inline const struct x86_cpuid *
fw_cpuid(struct engine_vm *evm)
{
	static struct x86_cpuid *model;
	const struct x86_cpuid_mask mask = { .f1_edx = UINT32_MAX };
	const struct x86_topology topo = { 1, 1, 1 };

	if (model == NULL)
		model = x86_cpuid_create(fw_cpuid_read, NULL, &mask, &topo, 0);
	return model;
}

/* A machine; topo's counts are as in -c. */
static inline struct vm *
fw_vm_create_topo(uint64_t memory, struct x86_topology topo, const struct config *config)
{
	static struct engine_ops engine;
	struct vm_params params = {
		.name = "test", .engine = &engine, .config = config, .memory = memory, .topo = topo,
	};
	struct vm *vm = NULL;

	engine = mock_engine;
	engine.cpuid = fw_cpuid;
	assert_int_equal(vm_create(&params, &vm), 0);
	return vm;
}

static inline struct vm *
fw_vm_create(uint64_t memory)
{
	return fw_vm_create_topo(memory, (struct x86_topology){ 1, 1, 1 }, NULL);
}

#define FW_PATH_SIZE 64

/* A file of len bytes without a name on disk. Returns its descriptor; path can open it. */
static inline int
fw_file_create(const void *data, size_t len, char path[FW_PATH_SIZE])
{
	int fd = memfd_create("test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)len), 0);
	assert_int_equal(pwrite(fd, data, len, 0), (ssize_t)len);
	snprintf(path, FW_PATH_SIZE, "/proc/self/fd/%d", fd);
	return fd;
}

/* One line, and it has these words in it. */
static inline void
fw_log_assert(const struct capture *log, const char *words)
{
	const char *newline = strchr(log->text, '\n');

	if (newline == NULL || newline[1] != '\0' || strstr(log->text, words) == NULL)
		fail_msg("expected one line with '%s', got '%s'", words, log->text);
}

/* Reads what a table says at gpa. */
static inline void
fw_read(struct vm *vm, uint64_t gpa, void *buf, size_t len)
{
	assert_int_equal(vm_mem_read(vm, gpa, buf, len), 0);
}

static inline uint32_t
fw_u32(struct vm *vm, uint64_t gpa)
{
	uint32_t v;

	fw_read(vm, gpa, &v, sizeof(v));
	return v;
}

static inline uint64_t
fw_u64(struct vm *vm, uint64_t gpa)
{
	uint64_t v;

	fw_read(vm, gpa, &v, sizeof(v));
	return v;
}

/* The sum of len bytes modulo 256, which checksums make 0. */
static inline uint8_t
fw_sum(struct vm *vm, uint64_t gpa, size_t len)
{
	uint8_t sum = 0;

	for (size_t i = 0; i < len; i++) {
		uint8_t byte;

		fw_read(vm, gpa + i, &byte, 1);
		sum = (uint8_t)(sum + byte);
	}
	return sum;
}

#endif
