/*
 * The differential CPU fuzzer: random instructions on this host's processor and on the software CPU.
 *
 *	gen.c     a case from a number: code, registers, flags, vector state
 *	native.c  a child process that runs cases on the processor itself
 *	guest.c   the same cases on engine bt, as a user program of a tiny guest
 *	main.c    compares, reports, shrinks
 *
 * Both sides see the same linear addresses, all below 4 GiB so that 32-bit code can use them too.
 */
#ifndef FUZZ_CPU_H
#define FUZZ_CPU_H

#include "x86/state.h"

#define FUZZ_CODE 0x20000000u /* readable and executable */
#define FUZZ_CODE_SIZE 0x2000u
/* Writable, writable, read-only, nothing, writable. */
#define FUZZ_DATA 0x21000000u
#define FUZZ_DATA_SIZE 0x5000u
#define FUZZ_DATA_RO 2
#define FUZZ_DATA_HOLE 3

/* Selectors of user code and data: Linux's, so that what instructions store of them agrees. */
#define FUZZ_CS64 0x33
#define FUZZ_CS32 0x23
#define FUZZ_SS 0x2b

#define FUZZ_MAX_INSNS 8
#define FUZZ_XSAVE 2816 /* enough for AVX-512 in the standard format */

struct fuzz_case {
	uint64_t number;
	int mode; /* 8: 64-bit; 4: 32-bit in compatibility mode */
	uint64_t gpr[X86_GPR_COUNT];
	uint64_t rflags;
	uint32_t entry; /* address of the first instruction */
	uint32_t pool; /* where in the pool of random bytes data memory starts */
	int insns;
	bool large_operand; /* 28 bytes and more: which bad page CR2 names first is up to the processor */
	bool odd_alignment; /* with EFLAGS.AC set, the result is the processor's own affair */
	uint8_t start[FUZZ_MAX_INSNS + 1]; /* offset of each instruction, and of the end */
	uint8_t code[FUZZ_MAX_INSNS * 15 + 16];
	uint8_t xsave[FUZZ_XSAVE] __attribute__((aligned(64)));
};

struct fuzz_result {
	bool skipped; /* the case did something that cannot be compared (a system call) */
	int vector; /* the exception that ended it */
	uint32_t error;
	uint64_t cr2;
	uint64_t gpr[X86_GPR_COUNT];
	uint64_t rip, rflags;
	uint8_t xsave[FUZZ_XSAVE] __attribute__((aligned(64)));
	uint8_t data[FUZZ_DATA_SIZE];
};

/* What the host's XSAVE area looks like. */
struct fuzz_host {
	uint64_t xcr0; /* components that are compared */
	bool has_32bit; /* user code may run in 32-bit segments */
	uint32_t xsave_size;
	uint32_t offset[64], size[64];
};
void fuzz_host_init(struct fuzz_host *h);

/* gen.c. */
void fuzz_case_make(struct fuzz_case *c, const struct fuzz_host *h, uint64_t number, int max_insns);
/* Keeps the first n instructions only. */
void fuzz_case_cut(struct fuzz_case *c, int n);
/* Random bytes that data memory is filled from: at least 2 * FUZZ_DATA_SIZE. */
const uint8_t *fuzz_pool(void);

/* native.c. One child process; fuzz_native_start() hands it a batch, fuzz_native_wait() waits until it is
 * done. Cases and results are in memory shared with the child, allocated by create. */
struct fuzz_native;
struct fuzz_native *fuzz_native_create(const struct fuzz_host *h, int batch,
    struct fuzz_case **cases, struct fuzz_result **results);
void fuzz_native_start(struct fuzz_native *n, int count);
void fuzz_native_wait(struct fuzz_native *n);
void fuzz_native_destroy(struct fuzz_native *n);

/* guest.c */
struct fuzz_guest;
struct fuzz_guest *fuzz_guest_create(const struct fuzz_host *h);
void fuzz_guest_run(struct fuzz_guest *g, const struct fuzz_case *c, struct fuzz_result *r);
void fuzz_guest_destroy(struct fuzz_guest *g);

#endif
