/*
 * One software CPU without a machine around it, for tests of single instructions.
 *
 * Guest-linear, guest-physical and host addresses of its memory are the same, so an instruction can
 * be run here and on the processor with the same registers. Everything else is not present.
 */
#ifndef TESTS_UNIT_BT_RIG_H
#define TESTS_UNIT_BT_RIG_H

#include "engine/bt/mem.h"
#include "engine/bt/phys.h"
#include "x86/cpuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#define BT_RIG_PAGES 4
#define BT_RIG_BASE 0x20000000ul
#define BT_RIG_FAULT_NONE (-1)

struct bt_rig {
	struct bt_cpu *cpu;
	uint8_t *mem; /* BT_RIG_PAGES pages at BT_RIG_BASE, where 32-bit code reaches them */
	uint64_t *tables; /* four levels of page tables, a page each, at guest-physical 0 */
};

/* An op that ends the block. */
static void
bt_rig_end(struct bt_cpu *cpu, const struct bt_op *op)
{
}

/* Flat in the given code size (2, 4, 8), protected mode, at CPL 3. */
static inline void
bt_rig_mode(struct bt_rig *rig, int code_size)
{
	struct bt_cpu *cpu = rig->cpu;

	cpu->code_size = (uint8_t)code_size;
	cpu->sp_size = (uint8_t)code_size;
	cpu->la_mask = code_size == 8 ? ~0ull : 0xffffffffull;
	for (int i = 0; i < X86_SEG_COUNT; i++) {
		cpu->seg[i] = (struct x86_segment){ .limit = 0xffffffff };
		cpu->sbase[i] = 0;
	}
}

/* Makes page i of the memory present and writable, or not present. */
static inline void
bt_rig_page(struct bt_rig *rig, int i, bool present)
{
	uint64_t *pt = rig->tables + 3 * 512, gpa = BT_RIG_BASE + (uint64_t)i * 4096;

	pt[i] = present ? gpa | X86_PTE_P | X86_PTE_W | X86_PTE_U : 0;
	bt_tlb_flush_all(rig->cpu);
}

static inline void *
bt_rig_pages(uint64_t addr, int pages)
{
	void *p = mmap((void *)addr, (size_t)pages * 4096, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | (addr != 0 ? MAP_FIXED_NOREPLACE : 0), -1, 0);

	assert_true(p != MAP_FAILED);
	return p;
}

static inline void
bt_rig_create(struct bt_rig *rig)
{
	static const struct x86_topology topo = { .sockets = 1, .cores = 1, .threads = 1 };
	struct x86_cpuid_mask mask;
	struct bt_vm *vm = calloc(1, sizeof(*vm) + sizeof(struct bt_cpu *));
	struct bt_cpu *cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), 64));

	assert_non_null(vm);
	assert_non_null(cpu);
	memset(cpu, 0, sizeof(*cpu));
	memset(&mask, 0, sizeof(mask));
	mask.f1_ecx = mask.f1_edx = mask.f7_ebx = mask.f7_ecx = mask.e1_ecx = mask.e1_edx = ~0u;
	vm->cpuid = x86_cpuid_create(x86_cpuid_host, NULL, &mask, &topo, 0);
	assert_non_null(vm->cpuid);
	vm->vcpus = 1;
	vm->cpu[0] = cpu;
	cpu->vm = vm;
	cpu->tlb = cpu->tlbs[BT_TLB_USER];
	cpu->as_tag = 1;
	cpu->next_tag = 2;
	cpu->cpl = 3;
	cpu->pe = cpu->lma = 1;
	cpu->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_ET | X86_CR0_NE;
	cpu->cr4 = X86_CR4_PAE;
	cpu->efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	rig->cpu = cpu;
	rig->mem = bt_rig_pages(BT_RIG_BASE, BT_RIG_PAGES);
	rig->tables = bt_rig_pages(0, 4);
	assert_int_equal(bt_mem_create(vm, 40), 0);
	assert_int_equal(bt_mail_create(cpu), 0);
	assert_int_equal(bt_mem_map(vm, 0, rig->tables, 4 * 4096, true), 0);
	assert_int_equal(bt_mem_map(vm, BT_RIG_BASE, rig->mem, BT_RIG_PAGES * 4096, true), 0);
	rig->tables[0] = 0x1000 | X86_PTE_P | X86_PTE_W | X86_PTE_U;
	rig->tables[512] = 0x2000 | X86_PTE_P | X86_PTE_W | X86_PTE_U;
	rig->tables[2 * 512 + (BT_RIG_BASE >> 21)] = 0x3000 | X86_PTE_P | X86_PTE_W | X86_PTE_U;
	for (int i = 0; i < BT_RIG_PAGES; i++)
		bt_rig_page(rig, i, true);
	/* The mail that mapping sent says nothing that is not so already. */
	atomic_store(&cpu->attn, 0);
	bt_rig_mode(rig, 8);
}

static inline void
bt_rig_destroy(struct bt_rig *rig)
{
	bt_mail_destroy(rig->cpu);
	bt_mem_destroy(rig->cpu->vm);
	munmap(rig->mem, BT_RIG_PAGES * 4096);
	munmap(rig->tables, 4 * 4096);
	x86_cpuid_destroy((struct x86_cpuid *)(uintptr_t)rig->cpu->vm->cpuid);
	free(rig->cpu->vm);
	free(rig->cpu);
}

/* Runs the one instruction at bytes as if it lay at cpu's RIP. The exception it raised, or
 * BT_RIG_FAULT_NONE. */
static inline int
bt_rig_run(struct bt_rig *rig, const uint8_t *bytes, size_t avail)
{
	struct bt_cpu *cpu = rig->cpu;
	static struct bt_op ops[2];
	uint64_t rip = cpu->r[BT_REG_RIP];
	struct bt_insn in;

	assert_int_equal(bt_decode(bytes, avail, cpu->code_size, &in), 0);
	bt_lower(cpu, &in, &ops[0]);
	ops[1] = (struct bt_op){ .fn = bt_rig_end };
	if (setjmp(cpu->on_fault) != 0) {
		cpu->r[BT_REG_RIP] = rip;
		return cpu->fault.vector;
	}
	cpu->op = &ops[0];
	cpu->r[BT_REG_RIP] = rip + in.len;
	ops[0].fn(cpu, &ops[0]);
	return BT_RIG_FAULT_NONE;
}

#endif
