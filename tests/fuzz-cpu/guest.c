/*
 * Cases on engine bt: user code of a guest that consists of page tables, an IDT whose gates all lead to
 * HLT, and nothing else. A case ends in an exception; the vector and the frame tell the result.
 */
#include "fuzz_cpu.h"

#include "base/config.h"
#include "engine/engine.h"

#include <err.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Guest-physical layout; the kernel's part is mapped at FUZZ_KERNEL + gpa. */
#define FUZZ_KERNEL 0xffffffff80000000ull
#define FUZZ_PML4 0x1000
#define FUZZ_PDPT_LOW 0x2000
#define FUZZ_PD_LOW 0x3000
#define FUZZ_PT_CODE 0x4000
#define FUZZ_PT_DATA 0x5000
#define FUZZ_PDPT_HIGH 0x6000
#define FUZZ_PD_HIGH 0x7000
#define FUZZ_IDT 0x8000
#define FUZZ_GDT 0x9000
#define FUZZ_TSS 0xa000
#define FUZZ_HANDLERS 0xb000
#define FUZZ_STACK_TOP 0xd000
#define FUZZ_CODE_GPA 0x10000
#define FUZZ_DATA_GPA 0x20000
#define FUZZ_MEMORY 0x200000

struct fuzz_guest {
	const struct engine_ops *engine;
	struct engine_vm *vm;
	struct engine_vcpu *vcpu;
	struct config *config;
	struct fuzz_host host;
	uint8_t *mem;
	struct x86_state start; /* what every case begins with */
	struct x86_state state;
};

/* --- The machine around the engine: there is nothing --- */

static uint32_t
fuzz_pio_read(void *ctx, int cpu, uint16_t port, int size)
{
	return ~0u;
}

static void
fuzz_pio_write(void *ctx, int cpu, uint16_t port, int size, uint32_t val)
{
}

static uint64_t
fuzz_mmio_read(void *ctx, int cpu, uint64_t gpa, int size)
{
	return ~0ull;
}

static void
fuzz_mmio_write(void *ctx, int cpu, uint64_t gpa, int size, uint64_t val)
{
}

static int
fuzz_intr(void *ctx, int cpu)
{
	return -1;
}

static int
fuzz_msr_read(void *ctx, int cpu, uint32_t msr, uint64_t *val)
{
	*val = X86_APIC_DEFAULT_BASE | X86_APIC_BASE_ENABLE | X86_APIC_BASE_BSP;
	return msr == X86_MSR_APIC_BASE ? 0 : -EINVAL;
}

static int
fuzz_msr_write(void *ctx, int cpu, uint32_t msr, uint64_t val)
{
	return -EINVAL;
}

static uint8_t
fuzz_cr8_read(void *ctx, int cpu)
{
	return 0;
}

static void
fuzz_cr8_write(void *ctx, int cpu, uint8_t val)
{
}

static const struct engine_machine fuzz_machine = {
	.pio_read = fuzz_pio_read,
	.pio_write = fuzz_pio_write,
	.mmio_read = fuzz_mmio_read,
	.mmio_write = fuzz_mmio_write,
	.intr_pending = fuzz_intr,
	.intr_ack = fuzz_intr,
	.apic_msr_read = fuzz_msr_read,
	.apic_msr_write = fuzz_msr_write,
	.cr8_read = fuzz_cr8_read,
	.cr8_write = fuzz_cr8_write,
};

/* --- Tables --- */

static void
fuzz_poke(struct fuzz_guest *g, uint32_t gpa, uint64_t val)
{
	memcpy(g->mem + gpa, &val, 8);
}

static void
fuzz_page_tables(struct fuzz_guest *g)
{
	const uint64_t link = X86_PTE_P | X86_PTE_W | X86_PTE_U;

	fuzz_poke(g, FUZZ_PML4, FUZZ_PDPT_LOW | link);
	fuzz_poke(g, FUZZ_PML4 + 8 * 511, FUZZ_PDPT_HIGH | link);
	fuzz_poke(g, FUZZ_PDPT_LOW, FUZZ_PD_LOW | link);
	fuzz_poke(g, FUZZ_PD_LOW + 8 * (FUZZ_CODE >> 21), FUZZ_PT_CODE | link);
	fuzz_poke(g, FUZZ_PD_LOW + 8 * (FUZZ_DATA >> 21), FUZZ_PT_DATA | link);
	for (unsigned i = 0; i < FUZZ_CODE_SIZE / 0x1000; i++)
		fuzz_poke(g, FUZZ_PT_CODE + 8 * i,
		    (FUZZ_CODE_GPA + 0x1000 * i) | X86_PTE_P | X86_PTE_U);
	for (unsigned i = 0; i < FUZZ_DATA_SIZE / 0x1000; i++) {
		uint64_t pte = (FUZZ_DATA_GPA + 0x1000 * i) | X86_PTE_NX | X86_PTE_U | X86_PTE_P;

		if (i != FUZZ_DATA_RO)
			pte |= X86_PTE_W;
		if (i != FUZZ_DATA_HOLE)
			fuzz_poke(g, FUZZ_PT_DATA + 8 * i, pte);
	}
	/* The kernel's 2 MiB, supervisor only. */
	fuzz_poke(g, FUZZ_PDPT_HIGH + 8 * 510, FUZZ_PD_HIGH | link);
	fuzz_poke(g, FUZZ_PD_HIGH, X86_PTE_P | X86_PTE_W | X86_PTE_PS);
}

static void
fuzz_descriptors(struct fuzz_guest *g)
{
	static const struct {
		uint16_t sel;
		uint64_t desc;
	} gdt[] = { { 0x10, 0x00af9b000000ffff }, { 0x18, 0x00cf93000000ffff },
		{ FUZZ_CS32, 0x00cffb000000ffff }, { FUZZ_SS, 0x00cff3000000ffff },
		{ FUZZ_CS64, 0x00affb000000ffff } };

	for (size_t i = 0; i < ARRAY_SIZE(gdt); i++)
		fuzz_poke(g, FUZZ_GDT + (gdt[i].sel & ~7u), gdt[i].desc);
	for (unsigned v = 0; v < 256; v++) {
		uint64_t addr = FUZZ_KERNEL + FUZZ_HANDLERS + v;
		/* INT3 and INTO may be used from user mode, as under Linux. */
		uint64_t dpl = v == X86_BP || v == X86_OF ? 3 : 0;

		fuzz_poke(g, FUZZ_IDT + 16 * v,
		    (addr & 0xffff) | 0x10 << 16 | (0x8e00ull | dpl << 13) << 32 |
			(addr & 0xffff0000) << 32);
		fuzz_poke(g, FUZZ_IDT + 16 * v + 8, addr >> 32);
		g->mem[FUZZ_HANDLERS + v] = 0xf4;
	}
	fuzz_poke(g, FUZZ_TSS + 4, FUZZ_KERNEL + FUZZ_STACK_TOP);
}

static void
fuzz_start_state(struct fuzz_guest *g)
{
	struct x86_state *s = &g->start;
	struct x86_segment data = { FUZZ_SS, 0xc0f3, 0xffffffff, 0 };

	x86_state_reset(s, true);
	s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_AM |
	    X86_CR0_PG;
	s->cr3 = FUZZ_PML4;
	s->cr4 = X86_CR4_PAE | X86_CR4_PGE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE |
	    X86_CR4_FSGSBASE;
	s->efer = X86_EFER_SCE | X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
	s->xcr0 = g->host.xcr0;
	s->idtr = (struct x86_table){ FUZZ_KERNEL + FUZZ_IDT, 0xfff };
	s->gdtr = (struct x86_table){ FUZZ_KERNEL + FUZZ_GDT, 0x7f };
	s->tr = (struct x86_segment){ 0x40, 0x8b, 0x67, FUZZ_KERNEL + FUZZ_TSS };
	s->ldtr = (struct x86_segment){ 0 };
	s->seg[X86_DS] = s->seg[X86_ES] = s->seg[X86_SS] = data;
	s->seg[X86_FS] = s->seg[X86_GS] = (struct x86_segment){ 0 };
	s->seg[X86_GS].base = FUZZ_DATA + 0x800;
}

struct fuzz_guest *
fuzz_guest_create(const struct fuzz_host *h)
{
	struct fuzz_guest *g = aligned_alloc(64, ALIGN_UP(sizeof(*g), 64));
	struct engine_vm_params params = { .vcpus = 1, .machine = &fuzz_machine, .topo = { 1, 1, 1 } };
	char why[160];

	if (g == NULL)
		err(1, NULL);
	memset(g, 0, sizeof(*g));
	g->host = *h;
	g->config = config_create();
	params.config = g->config;
	if (engine_choose("bt", &g->engine, why, sizeof(why)) != 0)
		errx(1, "%s", why);
	g->mem = mmap(NULL, FUZZ_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (g->mem == MAP_FAILED)
		err(1, "mmap");
	fuzz_page_tables(g);
	fuzz_descriptors(g);
	memset(g->mem + FUZZ_CODE_GPA, 0xcc, FUZZ_CODE_SIZE);
	memcpy(g->mem + FUZZ_DATA_GPA + FUZZ_DATA_RO * 0x1000, fuzz_pool(), 0x1000);
	if (g->engine->vm_create(&params, &g->vm) != 0 ||
	    g->engine->mem_map(g->vm, 0, g->mem, FUZZ_MEMORY,
		ENGINE_MEM_READ | ENGINE_MEM_WRITE | ENGINE_MEM_EXEC) != 0 ||
	    g->engine->vcpu_create(g->vm, 0, &g->vcpu) != 0)
		errx(1, "the engine does not start");
	fuzz_start_state(g);
	return g;
}

void
fuzz_guest_destroy(struct fuzz_guest *g)
{
	g->engine->vcpu_destroy(g->vcpu);
	g->engine->vm_destroy(g->vm);
	munmap(g->mem, FUZZ_MEMORY);
	config_destroy(g->config);
	free(g);
}

static void
fuzz_guest_load(struct fuzz_guest *g, const struct fuzz_case *c)
{
	const uint8_t *pool = fuzz_pool() + c->pool;
	uint32_t code = FUZZ_CODE_GPA + (c->entry - FUZZ_CODE);
	uint8_t *data = g->mem + FUZZ_DATA_GPA;
	struct x86_state *s = &g->state;

	*s = g->start;
	memcpy(s->gpr, c->gpr, sizeof(s->gpr));
	memcpy(s->xsave, c->xsave, g->host.xsave_size);
	s->rip = c->entry;
	s->rflags = c->rflags;
	s->seg[X86_CS] = (struct x86_segment){ c->mode == 8 ? FUZZ_CS64 : FUZZ_CS32,
		c->mode == 8 ? 0xa0fb : 0xc0fb, 0xffffffff, 0 };
	memcpy(g->mem + code, c->code, sizeof(c->code));
	memcpy(data, pool, FUZZ_DATA_RO * 0x1000);
	memcpy(data + (FUZZ_DATA_HOLE + 1) * 0x1000, pool + (FUZZ_DATA_HOLE + 1) * 0x1000, 0x1000);
	g->engine->mem_written(g->vm, code, sizeof(c->code));
	if (g->engine->vcpu_set(g->vcpu, s) != 0)
		errx(1, "case %llu: the state is refused", (unsigned long long)c->number);
}

static bool
fuzz_has_error(int vector)
{
	return vector == X86_DF || (vector >= X86_TS && vector <= X86_PF) || vector == X86_AC;
}

void
fuzz_guest_run(struct fuzz_guest *g, const struct fuzz_case *c, struct fuzz_result *r)
{
	struct x86_state *s = &g->state;
	struct engine_exit exit;
	uint64_t frame[6];
	uint32_t sp;
	int at = 0;

	fuzz_guest_load(g, c);
	do
		g->engine->vcpu_run(g->vcpu, &exit);
	while (exit.reason == ENGINE_EXIT_KICK);
	g->engine->vcpu_get(g->vcpu, s);
	r->skipped = false;
	if (exit.reason != ENGINE_EXIT_HALT)
		errx(1, "case %llu: exit %d (%s) at %#llx", (unsigned long long)c->number, exit.reason,
		    exit.reason == ENGINE_EXIT_ERROR ? exit.text : "", (unsigned long long)s->rip);
	r->vector = (int)(s->rip - 1 - (FUZZ_KERNEL + FUZZ_HANDLERS));
	sp = (uint32_t)(s->gpr[X86_RSP] - FUZZ_KERNEL);
	if (r->vector < 0 || r->vector > 255 || sp > FUZZ_STACK_TOP - 40)
		errx(1, "case %llu: halted at %#llx", (unsigned long long)c->number,
		    (unsigned long long)s->rip);
	memcpy(frame, g->mem + sp, sizeof(frame));
	r->error = fuzz_has_error(r->vector) ? (uint32_t)frame[at++] : 0;
	r->cr2 = s->cr2;
	memcpy(r->gpr, s->gpr, sizeof(r->gpr));
	r->rip = frame[at];
	r->rflags = frame[at + 2];
	r->gpr[X86_RSP] = frame[at + 3];
	memcpy(r->xsave, s->xsave, g->host.xsave_size);
	memset(r->xsave + 464, 0, 48);
	memcpy(r->data, g->mem + FUZZ_DATA_GPA, FUZZ_DATA_HOLE * 0x1000);
	memcpy(r->data + (FUZZ_DATA_HOLE + 1) * 0x1000,
	    g->mem + FUZZ_DATA_GPA + (FUZZ_DATA_HOLE + 1) * 0x1000, 0x1000);
}
