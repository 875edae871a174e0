/*
 * A virtual machine for tests of the software CPU: one vCPU or more, RAM from 0, a ROM, and a machine
 * that records what is asked of it.
 */
#ifndef BT_GUEST_H
#define BT_GUEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/bt/bt.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define GUEST_RAM 0x800000u /* bytes from 0 */
#define GUEST_ROM 0xffff0000u
#define GUEST_ROM_SIZE 0x10000u
#define GUEST_MMIO 0xd0000000u /* nothing is mapped there */
#define GUEST_LOG 64

/* One call of the machine. */
struct guest_io {
	char what; /* r, w: MMIO; i, o: ports */
	uint64_t addr;
	int size;
	uint64_t val;
};

struct guest {
	struct engine_vm *vm;
	struct engine_vcpu *vcpu;
	struct bt_cpu *cpu; /* the same */
	uint8_t *ram, *rom;
	struct guest_io log[GUEST_LOG];
	int logged;
	uint64_t read_val; /* what reads of ports and MMIO give */
	int irq; /* vector to deliver, -1 for none */
	void (*on_out)(struct guest *g, uint16_t port, uint32_t val);
};

extern const struct engine_ops bt_engine;

static inline void
guest_log(struct guest *g, char what, uint64_t addr, int size, uint64_t val)
{
	if (g->logged < GUEST_LOG)
		g->log[g->logged] = (struct guest_io){ what, addr, size, val };
	g->logged++;
}

static uint32_t
guest_pio_read(void *ctx, int cpu, uint16_t port, int size)
{
	struct guest *g = ctx;

	guest_log(g, 'i', port, size, g->read_val);
	return (uint32_t)g->read_val;
}

static void
guest_pio_write(void *ctx, int cpu, uint16_t port, int size, uint32_t val)
{
	struct guest *g = ctx;

	guest_log(g, 'o', port, size, val);
	if (g->on_out != NULL)
		g->on_out(g, port, val);
}

static uint64_t
guest_mmio_read(void *ctx, int cpu, uint64_t gpa, int size)
{
	struct guest *g = ctx;

	guest_log(g, 'r', gpa, size, g->read_val);
	return g->read_val;
}

static void
guest_mmio_write(void *ctx, int cpu, uint64_t gpa, int size, uint64_t val)
{
	guest_log(ctx, 'w', gpa, size, val);
}

static int
guest_intr_pending(void *ctx, int cpu)
{
	return ((struct guest *)ctx)->irq;
}

static int
guest_intr_ack(void *ctx, int cpu)
{
	struct guest *g = ctx;
	int vector = g->irq;

	g->irq = -1;
	return vector;
}

static int
guest_apic_read(void *ctx, int cpu, uint32_t msr, uint64_t *val)
{
	*val = 0;
	return 0;
}

static int
guest_apic_write(void *ctx, int cpu, uint32_t msr, uint64_t val)
{
	return 0;
}

static uint8_t
guest_cr8_read(void *ctx, int cpu)
{
	return 0;
}

static void
guest_cr8_write(void *ctx, int cpu, uint8_t val)
{
}

static const struct engine_machine guest_machine = {
	.pio_read = guest_pio_read,
	.pio_write = guest_pio_write,
	.mmio_read = guest_mmio_read,
	.mmio_write = guest_mmio_write,
	.intr_pending = guest_intr_pending,
	.intr_ack = guest_intr_ack,
	.apic_msr_read = guest_apic_read,
	.apic_msr_write = guest_apic_write,
	.cr8_read = guest_cr8_read,
	.cr8_write = guest_cr8_write,
};

static inline struct guest *
guest_create(int vcpus)
{
	struct guest *g = calloc(1, sizeof(*g));
	struct engine_vm_params params = { .vcpus = vcpus, .machine = &guest_machine, .ctx = g,
		.topo = { .sockets = 1, .cores = (uint32_t)vcpus, .threads = 1 } };

	assert_non_null(g);
	g->irq = -1;
	g->ram = mmap(NULL, GUEST_RAM + GUEST_ROM_SIZE, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(g->ram != MAP_FAILED);
	g->rom = g->ram + GUEST_RAM;
	assert_int_equal(bt_engine.vm_create(&params, &g->vm), 0);
	assert_int_equal(bt_engine.mem_map(g->vm, 0, g->ram, GUEST_RAM,
			     ENGINE_MEM_READ | ENGINE_MEM_WRITE | ENGINE_MEM_EXEC),
	    0);
	assert_int_equal(bt_engine.mem_map(g->vm, GUEST_ROM, g->rom, GUEST_ROM_SIZE,
			     ENGINE_MEM_READ | ENGINE_MEM_EXEC),
	    0);
	assert_int_equal(bt_engine.vcpu_create(g->vm, 0, &g->vcpu), 0);
	g->cpu = (struct bt_cpu *)g->vcpu;
	return g;
}

static inline void
guest_destroy(struct guest *g)
{
	bt_engine.vcpu_destroy(g->vcpu);
	bt_engine.vm_destroy(g->vm);
	munmap(g->ram, GUEST_RAM + GUEST_ROM_SIZE);
	free(g);
}

static inline void
guest_put64(struct guest *g, uint64_t gpa, uint64_t val)
{
	memcpy(g->ram + gpa, &val, 8);
}

static inline uint64_t
guest_get64(const struct guest *g, uint64_t gpa)
{
	uint64_t val;

	memcpy(&val, g->ram + gpa, 8);
	return val;
}

static inline void
guest_put32(struct guest *g, uint64_t gpa, uint32_t val)
{
	memcpy(g->ram + gpa, &val, 4);
}

static inline uint32_t
guest_get32(const struct guest *g, uint64_t gpa)
{
	uint32_t val;

	memcpy(&val, g->ram + gpa, 4);
	return val;
}

/* A flat segment with the given type and flags (X86_SEG_*). */
static inline struct x86_segment
guest_flat(uint16_t sel, unsigned attr)
{
	return (struct x86_segment){ .selector = sel, .limit = 0xffffffff,
		.attr = (uint16_t)(attr | X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_A | X86_SEG_G) };
}

/* Flat segments and control registers for a mode: 4 is 32-bit protected mode without paging, 8 is 64-bit
 * mode, whose page tables the caller has put at cr3. CPL as given. */
static inline void
guest_mode(struct guest *g, int mode, int cpl, uint64_t cr3)
{
	unsigned dpl = (unsigned)cpl << 5;
	struct x86_state s;

	bt_engine.vcpu_get(g->vcpu, &s);
	s.seg[X86_CS] = guest_flat((uint16_t)(0x08 | cpl),
	    X86_SEG_CODE | dpl | (mode == 8 ? X86_SEG_L : X86_SEG_DB));
	for (int i = 0; i < X86_SEG_COUNT; i++)
		if (i != X86_CS)
			s.seg[i] = guest_flat((uint16_t)(0x10 | cpl), X86_SEG_DB | dpl);
	s.cr0 = X86_CR0_PE | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP;
	s.cr3 = cr3;
	s.cr4 = 0;
	s.efer = 0;
	if (mode == 8) {
		s.cr0 |= X86_CR0_PG;
		s.cr4 = X86_CR4_PAE;
		s.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	}
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), 0);
}

/*
 * A small system around a piece of guest code: tables, stacks, and for every vector a handler that halts, so
 * that a test finds the vector in RIP and the frame on the stack.
 */
#define GUEST_GDT 0x1000u
#define GUEST_IDT 0x2000u
#define GUEST_TSS 0x3000u
#define GUEST_TSS2 0x3400u
#define GUEST_HANDLERS 0x4000u /* 16 bytes each */
#define GUEST_CODE 0x10000u
#define GUEST_STACK0 0x80000u /* tops */
#define GUEST_STACK3 0x90000u
#define GUEST_IST1 0xa0000u
#define GUEST_PML4 0x100000u /* identity: 2 MiB pages, but 4 KiB ones in GUEST_PT's 2 MiB */
#define GUEST_PT 0x103000u
#define GUEST_PAGES 0x400000u
#define GUEST_PTE(la) (GUEST_PT + 8 * (((la)-GUEST_PAGES) >> 12))

/* Selectors */
#define GUEST_CS64 0x08
#define GUEST_DS 0x10
#define GUEST_CS32 0x18
#define GUEST_UCS32 0x2b
#define GUEST_UDS 0x33
#define GUEST_UCS64 0x3b
#define GUEST_TR 0x40 /* two slots */
#define GUEST_CS16 0x50
#define GUEST_DS16 0x58
#define GUEST_TR2 0x60
#define GUEST_SPARE 0x68
#define GUEST_GDT_LIMIT 0x7f

/* Guest code between labels, assembled with the test. */
#define GUEST_ASM(name, bits, text)                                                                \
	extern const uint8_t name[], name##_end[];                                                 \
	__asm__(".pushsection .rodata\n.balign 64\n" #name ":\n.code" #bits "\n" text "\n" #name   \
		"_end:\n.code64\n.popsection\n")
#define GUEST_LOAD(g, gpa, name) guest_load(g, gpa, name, name##_end)

static inline void
guest_load(struct guest *g, uint64_t gpa, const uint8_t *code, const uint8_t *end)
{
	memcpy(g->ram + gpa, code, (size_t)(end - code));
	bt_engine.mem_written(g->vm, gpa, (uint64_t)(end - code));
}

static inline void
guest_gdt(struct guest *g, unsigned sel, uint32_t base, uint32_t limit, unsigned attr)
{
	uint64_t d = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 |
	    (uint64_t)(attr & 0xf0ff) << 40 | (uint64_t)(limit >> 16 & 15) << 48 |
	    (uint64_t)(base >> 24) << 56;

	guest_put64(g, GUEST_GDT + (sel & ~7u), d);
}

/* A gate in the IDT; type with DPL in bits 5 and 6 and P in bit 7. */
static inline void
guest_gate(struct guest *g, int mode, unsigned vector, uint16_t sel, uint64_t offset, unsigned type,
    unsigned ist)
{
	uint64_t lo = (offset & 0xffff) | (uint64_t)sel << 16 | (uint64_t)ist << 32 |
	    (uint64_t)type << 40 | (offset >> 16 & 0xffff) << 48;

	if (mode == 8) {
		guest_put64(g, GUEST_IDT + 16 * vector, lo);
		guest_put64(g, GUEST_IDT + 16 * vector + 8, offset >> 32);
	} else {
		guest_put64(g, GUEST_IDT + 8 * vector, lo);
	}
}

static inline void
guest_tables(struct guest *g, int mode)
{
	const unsigned code = X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_RW | X86_SEG_A;
	const unsigned data = X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_A;
	const unsigned flat = X86_SEG_G | X86_SEG_DB, user = 3 << 5;

	guest_gdt(g, GUEST_CS64, 0, 0xfffff, code | X86_SEG_G | X86_SEG_L);
	guest_gdt(g, GUEST_DS, 0, 0xfffff, data | flat);
	guest_gdt(g, GUEST_CS32, 0, 0xfffff, code | flat);
	guest_gdt(g, GUEST_UCS32, 0, 0xfffff, code | flat | user);
	guest_gdt(g, GUEST_UDS, 0, 0xfffff, data | flat | user);
	guest_gdt(g, GUEST_UCS64, 0, 0xfffff, code | X86_SEG_G | X86_SEG_L | user);
	guest_gdt(g, GUEST_TR, GUEST_TSS, 0x67, X86_SEG_P | X86_SYS_TSS32_BUSY);
	guest_gdt(g, GUEST_TR2, GUEST_TSS2, 0x67, X86_SEG_P | X86_SYS_TSS32);
	guest_gdt(g, GUEST_CS16, 0, 0xffff, code);
	guest_gdt(g, GUEST_DS16, 0, 0xffff, data);
	for (unsigned v = 0; v < 256; v++) {
		uint64_t handler = GUEST_HANDLERS + 16 * v;

		g->ram[handler] = 0xf4; /* HLT */
		guest_gate(g, mode, v, mode == 8 ? GUEST_CS64 : GUEST_CS32, handler,
		    X86_SEG_P | X86_SYS_INT32, 0);
	}
	if (mode == 8) {
		guest_put64(g, GUEST_TSS + 4, GUEST_STACK0);
		guest_put64(g, GUEST_TSS + 36, GUEST_IST1);
	} else {
		guest_put32(g, GUEST_TSS + 4, GUEST_STACK0);
		guest_put32(g, GUEST_TSS + 8, GUEST_DS);
	}
	g->ram[GUEST_TSS + 102] = 0x68; /* no I/O map */
	guest_put64(g, GUEST_PML4, (GUEST_PML4 + 0x1000) | 7);
	guest_put64(g, GUEST_PML4 + 0x1000, (GUEST_PML4 + 0x2000) | 7);
	for (unsigned i = 0; i < GUEST_RAM >> 21; i++)
		guest_put64(g, GUEST_PML4 + 0x2000 + 8 * i, (uint64_t)i << 21 | 7 | X86_PTE_PS);
	guest_put64(g, GUEST_PML4 + 0x2000 + 8 * (GUEST_PAGES >> 21), GUEST_PT | 7);
	for (unsigned i = 0; i < 512; i++)
		guest_put64(g, GUEST_PT + 8 * i, (GUEST_PAGES + 0x1000 * i) | 7);
}

/* Puts code at GUEST_CODE and the vCPU at its start: mode 4 or 8, CPL 0 or 3. */
static inline void
guest_boot(struct guest *g, int mode, int cpl, const uint8_t *code, const uint8_t *end)
{
	struct x86_state s;

	guest_tables(g, mode);
	guest_load(g, GUEST_CODE, code, end);
	guest_mode(g, mode, cpl, GUEST_PML4);
	bt_engine.vcpu_get(g->vcpu, &s);
	s.gdtr = (struct x86_table){ .base = GUEST_GDT, .limit = GUEST_GDT_LIMIT };
	s.idtr = (struct x86_table){ .base = GUEST_IDT, .limit = 0xfff };
	s.tr = (struct x86_segment){ .selector = GUEST_TR, .base = GUEST_TSS, .limit = 0x67,
		.attr = X86_SEG_P | X86_SYS_TSS32_BUSY };
	s.ldtr = (struct x86_segment){ 0 };
	if (cpl == 0) {
		s.seg[X86_CS].selector = mode == 8 ? GUEST_CS64 : GUEST_CS32;
	} else {
		s.seg[X86_CS].selector = mode == 8 ? GUEST_UCS64 : GUEST_UCS32;
		for (int i = 0; i < X86_SEG_COUNT; i++)
			if (i != X86_CS)
				s.seg[i].selector = GUEST_UDS;
	}
	s.rip = GUEST_CODE;
	s.activity = X86_RUNNING;
	s.gpr[X86_RSP] = cpl == 0 ? GUEST_STACK0 - 0x1000 : GUEST_STACK3;
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), 0);
}

static inline void
guest_run(struct guest *g, enum engine_exit_reason want)
{
	struct engine_exit exit;

	do
		bt_engine.vcpu_run(g->vcpu, &exit);
	while (exit.reason == ENGINE_EXIT_KICK && want != ENGINE_EXIT_KICK);
	assert_int_equal(exit.reason, want);
}

/* Runs to a handler's HLT and checks which it is, the error code (-1: none) and the RIP it would return
 * to. Returns where the frame from RIP on is. */
static inline uint64_t
guest_expect(struct guest *g, int mode, int vector, int error, uint64_t rip)
{
	uint64_t sp;

	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal((g->cpu->r[BT_REG_RIP] - 1 - GUEST_HANDLERS) / 16, vector);
	sp = g->cpu->r[X86_RSP];
	if (error >= 0) {
		assert_int_equal(guest_get32(g, sp), error);
		sp += (unsigned)mode;
	}
	assert_int_equal(mode == 8 ? guest_get64(g, sp) : guest_get32(g, sp), rip);
	return sp;
}

#endif
