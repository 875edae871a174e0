/*
 * Runs one instruction twice, on this host's processor and on the software CPU, with the same
 * registers and memory, and compares everything: registers, flags, vector state, memory, exception.
 *
 *	struct pair *p = pair_create();
 *	pair_randomize(p);
 *	p->in.gpr[X86_RBX] = PAIR_DATA + 0x1ff0;
 *	assert_true(pair_run(p, (const uint8_t[]){ 0x0f, 0x10, 0x03 }, 3));	// movups
 *
 * Memory is at PAIR_DATA in both worlds: a hole, two pages that may be written, one that may only
 * be read, a hole. In the guest the pages are not neighbours, so accesses that cross them bounce.
 * RSP and R15 are the harness's; an instruction may not use them.
 */
#ifndef VEC_PAIR_H
#define VEC_PAIR_H

#include "engine/bt/bt.h"
#include "engine/bt/vec_impl.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cmocka.h>

#define PAIR_DATA  0x40000000ull
#define PAIR_FIRST (PAIR_DATA + 0x1000) /* of the pages that are there */
#define PAIR_RO    (PAIR_DATA + 0x3000)
#define PAIR_END   (PAIR_DATA + 0x4000)
#define PAIR_PAGES 3

/* Guest-physical layout; linear addresses below 2 MiB are the same. */
#define PAIR_RAM      0x200000u
#define PAIR_CODE     0x10000u
#define PAIR_HANDLERS 0x20000u /* 16 bytes each, all HLT */
#define PAIR_IDT      0x21000u
#define PAIR_GDT      0x22000u
#define PAIR_TSS      0x23000u
#define PAIR_STACK_0  0x28000u
#define PAIR_STACK    0x30000u
#define PAIR_TABLES   0x40000u
#define PAIR_PAGE(i)  (0x100000u + 0x2000u * (i))

struct pair_regs {
	uint64_t gpr[16];
	uint64_t rflags;
	uint8_t xsave[X86_XSAVE_SIZE] __attribute__((aligned(64)));
	uint8_t data[PAIR_PAGES * 4096];
	/* The exception: vector or -1, its error code, and for #PF the address. */
	int vector;
	uint32_t error;
	uint64_t cr2;
};

/* What vec_native_run() in the assembly below uses, at fixed offsets. */
struct pair_native {
	uint64_t gpr[16]; /* 0 */
	uint64_t rflags;  /* 128 */
	uint64_t rsp;     /* 136: the host's */
	const void *code; /* 144 */
	uint64_t mask;    /* 152 */
	uint64_t pad[4];
	uint8_t xsave[X86_XSAVE_SIZE]; /* 192 */
	uint32_t mxcsr;                /* 4288 */
} __attribute__((aligned(64)));
static_assert(offsetof(struct pair_native, xsave) == 192, "as the assembly has it");
static_assert(offsetof(struct pair_native, mxcsr) == 4288, "as the assembly has it");

struct pair {
	struct pair_regs in, native, guest;
	struct pair_native ctx;
	struct x86_state base; /* the guest's system registers */
	struct engine_vm *vm;
	struct engine_vcpu *vcpu;
	uint8_t *ram, *code; /* the guest's memory; native code */
	uint8_t *data;       /* PAIR_FIRST on the host, writable under another address */
	uint64_t mask;       /* state components */
	bool any_byte;       /* of an operand may be the one that #PF names: compare the page */
	uint64_t seed;
	uint64_t runs, faults;
};

extern const struct engine_ops bt_engine;
void vec_native_run(struct pair_native *ctx);
extern const char vec_native_exit[];

__asm__(".text\n"
	".globl vec_native_run\n"
	"vec_native_run:\n"
	"	push %rbx; push %rbp; push %r12; push %r13; push %r14; push %r15\n"
	"	mov %rdi, %r15\n"
	"	mov %rsp, 136(%r15)\n"
	"	stmxcsr 4288(%r15)\n"
	"	mov 152(%r15), %eax; mov 156(%r15), %edx\n"
	"	xrstor64 192(%r15)\n"
	"	push 128(%r15); popfq\n"
	"	mov 0(%r15), %rax; mov 8(%r15), %rcx; mov 16(%r15), %rdx; mov 24(%r15), %rbx\n"
	"	mov 40(%r15), %rbp; mov 48(%r15), %rsi; mov 56(%r15), %rdi; mov 64(%r15), %r8\n"
	"	mov 72(%r15), %r9; mov 80(%r15), %r10; mov 88(%r15), %r11; mov 96(%r15), %r12\n"
	"	mov 104(%r15), %r13; mov 112(%r15), %r14\n"
	"	jmp *144(%r15)\n"
	".globl vec_native_exit\n"
	"vec_native_exit:\n"
	"	mov 136(%r15), %rsp\n"
	"	mov %rax, 0(%r15); mov %rcx, 8(%r15); mov %rdx, 16(%r15); mov %rbx, 24(%r15)\n"
	"	mov %rbp, 40(%r15); mov %rsi, 48(%r15); mov %rdi, 56(%r15); mov %r8, 64(%r15)\n"
	"	mov %r9, 72(%r15); mov %r10, 80(%r15); mov %r11, 88(%r15); mov %r12, 96(%r15)\n"
	"	mov %r13, 104(%r15); mov %r14, 112(%r15)\n"
	"	pushfq; pop 128(%r15)\n"
	"	cld\n"
	"	mov 152(%r15), %eax; mov 156(%r15), %edx\n"
	"	xsave64 192(%r15)\n"
	"	fninit\n"
	"	ldmxcsr 4288(%r15)\n"
	"	pop %r15; pop %r14; pop %r13; pop %r12; pop %rbp; pop %rbx\n"
	"	ret\n");

/* The pair whose native half is running. */
static struct pair *pair_current;
static struct sigaction pair_old[64];

static inline void
pair_signal(int sig, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;
	struct pair *p = pair_current;

	if (p == NULL) {
		if (pair_old[sig].sa_flags & SA_SIGINFO)
			pair_old[sig].sa_sigaction(sig, info, context);
		else
			signal(sig, SIG_DFL);
		return;
	}
	p->native.vector = (int)r[REG_TRAPNO];
	p->native.error = (uint32_t)r[REG_ERR];
	p->native.cr2 = (uint64_t)info->si_addr;
	r[REG_RIP] = (greg_t)(uintptr_t)vec_native_exit;
}

static inline uint64_t
pair_random(struct pair *p)
{
	p->seed ^= p->seed << 13;
	p->seed ^= p->seed >> 7;
	p->seed ^= p->seed << 17;
	return p->seed * 0x2545f4914f6cdd1dull;
}

/* --- The guest's machine, which has nothing --- */

static inline uint32_t
pair_pio_read(void *ctx, int cpu, uint16_t port, int size)
{
	return 0;
}

static inline void
pair_pio_write(void *ctx, int cpu, uint16_t port, int size, uint32_t val)
{
}

/* Unmapped memory reads as the low byte of its address; uses vector registers like any real device.
 */
static inline uint64_t
pair_mmio_read(void *ctx, int cpu, uint64_t gpa, int size)
{
	uint64_t val = 0;

	__asm__ volatile("pcmpeqb %%xmm0, %%xmm0\n\tpcmpeqb %%xmm7, %%xmm7" : : : "xmm0", "xmm7");
	for (int i = 0; i < size; i++)
		val |= ((gpa + (uint64_t)i) & 0xff) << (8 * i);
	return val;
}

static inline void
pair_mmio_write(void *ctx, int cpu, uint64_t gpa, int size, uint64_t val)
{
	uint8_t *log = ctx;

	memcpy(log + (gpa & 0xfff), &val, (size_t)size);
}

static inline int
pair_no_intr(void *ctx, int cpu)
{
	return -1;
}

static inline int
pair_apic_msr_read(void *ctx, int cpu, uint32_t msr, uint64_t *val)
{
	return -1;
}

static inline int
pair_apic_msr_write(void *ctx, int cpu, uint32_t msr, uint64_t val)
{
	return -1;
}

static inline uint8_t
pair_cr8_read(void *ctx, int cpu)
{
	return 0;
}

static inline void
pair_cr8_write(void *ctx, int cpu, uint8_t val)
{
}

static const struct engine_machine pair_machine = {
	.pio_read = pair_pio_read,
	.pio_write = pair_pio_write,
	.mmio_read = pair_mmio_read,
	.mmio_write = pair_mmio_write,
	.intr_pending = pair_no_intr,
	.intr_ack = pair_no_intr,
	.apic_msr_read = pair_apic_msr_read,
	.apic_msr_write = pair_apic_msr_write,
	.cr8_read = pair_cr8_read,
	.cr8_write = pair_cr8_write,
};

/* What the guest wrote to unmapped memory, by the low 12 bits of the address. */
static uint8_t pair_mmio_log[4096 + 8];

static inline void
pair_put64(struct pair *p, uint32_t gpa, uint64_t val)
{
	memcpy(p->ram + gpa, &val, sizeof(val));
}

/* The guest-physical address behind a page of PAIR_DATA; 0: none, or MMIO when it is beyond RAM. */
static inline void
pair_map(struct pair *p, unsigned page, uint64_t gpa, unsigned flags)
{
	pair_put64(p, PAIR_TABLES + 0x4000 + 8 * page, gpa | flags);
}

static inline void
pair_tables(struct pair *p)
{
	const unsigned pw = X86_PTE_P | X86_PTE_W | X86_PTE_U;

	pair_put64(p, PAIR_TABLES, (PAIR_TABLES + 0x1000) | pw);
	pair_put64(p, PAIR_TABLES + 0x1000, (PAIR_TABLES + 0x2000) | pw);
	pair_put64(p, PAIR_TABLES + 0x1008, (PAIR_TABLES + 0x3000) | pw);
	pair_put64(p, PAIR_TABLES + 0x2000, pw | X86_PTE_PS);             /* the first 2 MiB */
	pair_put64(p, PAIR_TABLES + 0x3000, (PAIR_TABLES + 0x4000) | pw); /* PAIR_DATA */
	for (unsigned i = 0; i < PAIR_PAGES; i++)
		pair_map(p, 1 + i, PAIR_PAGE(i), i == 2 ? X86_PTE_P | X86_PTE_U : pw);
	for (unsigned v = 0; v < 32; v++) {
		uint64_t at = PAIR_HANDLERS + 16 * v;

		p->ram[at] = 0xf4; /* HLT */
		pair_put64(p, PAIR_IDT + 16 * v,
		    (at & 0xffff) | 8 << 16 | 0x8e00ull << 32 | (at >> 16) << 48);
	}
	pair_put64(p, PAIR_GDT + 8, 0x00209b0000000000ull);
	pair_put64(p, PAIR_GDT + 16, 0x00cf93000000ffffull);
}

static inline void
pair_base(struct pair *p)
{
	struct x86_state *s = &p->base;

	x86_state_reset(s, true);
	s->cr0 = X86_CR0_PE | X86_CR0_MP | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP | X86_CR0_PG;
	s->cr3 = PAIR_TABLES;
	s->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR | X86_CR4_OSXMMEXCPT | X86_CR4_OSXSAVE;
	s->efer = X86_EFER_LME | X86_EFER_LMA;
	s->xcr0 = p->mask;
	s->gdtr = (struct x86_table){ PAIR_GDT, 23 };
	s->idtr = (struct x86_table){ PAIR_IDT, 32 * 16 - 1 };
	for (int i = 0; i < X86_SEG_COUNT; i++)
		s->seg[i] = (struct x86_segment){ .selector = 16,
			.limit = 0xffffffff,
			.attr = X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_A | X86_SEG_DB |
				X86_SEG_G };
	s->seg[X86_CS] = (struct x86_segment){ .selector = 8,
		.limit = 0xffffffff,
		.attr = X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_A | X86_SEG_CODE | X86_SEG_L |
			X86_SEG_G };
}

/* --- Life --- */

static inline void
pair_catch(int sig)
{
	struct sigaction sa = { .sa_sigaction = pair_signal, .sa_flags = SA_SIGINFO };

	sigaction(sig, &sa, &pair_old[sig]);
}

/* The host's pages, and a second view of them that is writable throughout. */
static inline void
pair_host_pages(struct pair *p)
{
	int fd = memfd_create("pair", 0);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, PAIR_PAGES * 4096), 0);
	assert_true(mmap((void *)PAIR_DATA, 0x5000, PROT_NONE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == (void *)PAIR_DATA);
	assert_true(mmap((void *)PAIR_FIRST, 0x2000, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
			fd, 0) != MAP_FAILED);
	assert_true(mmap((void *)PAIR_RO, 0x1000, PROT_READ, MAP_SHARED | MAP_FIXED | MAP_POPULATE,
			fd, 0x2000) != MAP_FAILED);
	p->data = mmap(NULL, PAIR_PAGES * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(p->data != MAP_FAILED);
	close(fd);
}

static inline struct pair *
pair_create(void)
{
	const struct engine_vm_params params = {
		.vcpus = 1,
		.machine = &pair_machine,
		.ctx = pair_mmio_log,
		.topo = { 1, 1, 1 },
	};
	struct pair *p = aligned_alloc(64, ALIGN_UP(sizeof(*p), 64));

	assert_non_null(p);
	memset(p, 0, sizeof(*p));
	p->seed = 0x9e3779b97f4a7c15ull;
	p->mask = bt_fpu_host_mask();
	p->ram = mmap(NULL, PAIR_RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	p->code = mmap(
	    NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(p->ram != MAP_FAILED && p->code != MAP_FAILED);
	pair_host_pages(p);
	assert_int_equal(bt_engine.vm_create(&params, &p->vm), 0);
	assert_int_equal(bt_engine.mem_map(p->vm, 0, p->ram, PAIR_RAM,
			     ENGINE_MEM_READ | ENGINE_MEM_WRITE | ENGINE_MEM_EXEC),
	    0);
	assert_int_equal(bt_engine.vcpu_create(p->vm, 0, &p->vcpu), 0);
	pair_tables(p);
	pair_base(p);
	pair_catch(SIGSEGV);
	pair_catch(SIGBUS);
	pair_catch(SIGFPE);
	pair_catch(SIGILL);
	return p;
}

static inline void
pair_destroy(struct pair *p)
{
	bt_engine.vcpu_destroy(p->vcpu);
	bt_engine.vm_destroy(p->vm);
	munmap(p->ram, PAIR_RAM);
	munmap(p->code, 4096);
	munmap(p->data, PAIR_PAGES * 4096);
	munmap((void *)PAIR_DATA, 0x5000);
	free(p);
}

/* --- Input --- */

static inline void
pair_fill(struct pair *p, void *buf, size_t size)
{
	for (size_t i = 0; i < size; i += 8) {
		uint64_t v = pair_random(p);

		memcpy((uint8_t *)buf + i, &v, MIN(8, size - i));
	}
}

/* Vectors of floating-point numbers that mean something, beside noise. */
static inline void
pair_fill_vector(struct pair *p, uint8_t *buf, size_t size)
{
	static const float f[] = { 0, -0.0f, 1, -1.5f, 3.25e9f, -7e-3f, 1e38f, 1e-38f, 1e-42f,
		65504, 2, 8 };
	static const double d[] = { 0, -0.0, 1, -2.75, 1e300, -1e-300, 5e-324, 123456789.5, 9e18,
		-3, 0.1 };
	uint64_t how = pair_random(p) % 4;
	const float finf = __builtin_inff();

	pair_fill(p, buf, size);
	for (size_t i = 0; i < size && how == 1; i += 4)
		memcpy(buf + i, &f[pair_random(p) % ARRAY_SIZE(f)], 4);
	for (size_t i = 0; i < size && how == 2; i += 8)
		memcpy(buf + i, &d[pair_random(p) % ARRAY_SIZE(d)], 8);
	if (how == 1 && pair_random(p) % 8 == 0)
		memcpy(buf, &finf, 4);
}

/* Random everything; exceptions are masked, x87 registers hold numbers. */
static inline void
pair_randomize(struct pair *p)
{
	struct pair_regs *in = &p->in;
	const uint32_t mxcsr = BT_MXCSR_RESET | (uint32_t)(pair_random(p) & 0xe03f);

	for (int i = 0; i < 16; i++)
		in->gpr[i] = pair_random(p) >> (pair_random(p) & 63);
	in->rflags = X86_FL_1 | (pair_random(p) & X86_FL_ARITH);
	memset(in->xsave, 0, sizeof(in->xsave));
	bt_put(in->xsave + BT_XSAVE_FCW, 2, BT_FCW_INIT);
	bt_put(in->xsave + BT_XSAVE_FSW, 2, pair_random(p) & 0x7f00 & ~0x80ull);
	in->xsave[BT_XSAVE_FTW] = (uint8_t)pair_random(p);
	bt_put(in->xsave + BT_XSAVE_MXCSR, 4, mxcsr);
	bt_put(in->xsave + BT_XSAVE_MXCSR_MASK, 4, BT_MXCSR_MASK);
	for (unsigned i = 0; i < 8; i++) {
		long double v = (long double)(int64_t)pair_random(p) / 1000;

		memcpy(in->xsave + BT_XSAVE_ST + 16 * i, &v, 10);
	}
	for (unsigned off = BT_XSAVE_XMM; off < BT_XSAVE_XMM + 256; off += 16)
		pair_fill_vector(p, in->xsave + off, 16);
	for (unsigned off = BT_XSAVE_EXTENDED; off < 2816; off += 64)
		pair_fill_vector(p, in->xsave + off, 64);
	bt_put(in->xsave + BT_XSAVE_BV, 8, p->mask);
	pair_fill_vector(p, in->data, sizeof(in->data));
}

/* A component of the input's vector state, in the layout of this host. */
static inline uint8_t *
pair_component(struct pair *p, struct pair_regs *r, int i)
{
	return r->xsave + ((struct bt_cpu *)p->vcpu)->fpu->comp[i].offset;
}

static inline void
pair_set_opmask(struct pair *p, int k, uint64_t val)
{
	if (p->mask & X86_XCR0_OPMASK)
		memcpy(pair_component(p, &p->in, 5) + 8 * k, &val, 8);
}

/* --- Running --- */

/* What must not differ is made equal: bytes that are not state, and the x87 pointers, which name
 * code. */
static inline void
pair_normalize(struct pair *p, struct pair_regs *r)
{
	const struct bt_fpu *fpu = ((struct bt_cpu *)p->vcpu)->fpu;

	bt_fpu_normalize(fpu, r->xsave, p->mask);
	memset(r->xsave + BT_XSAVE_FOP, 0, BT_XSAVE_MXCSR - BT_XSAVE_FOP);
	memset(r->xsave + 416, 0, 160);
	for (int i = 0; i < 8; i++) /* the reserved 6 bytes */
		memset(r->xsave + BT_XSAVE_ST + 16 * i + 10, 0, 6);
	memset(r->xsave + 2816, 0, sizeof(r->xsave) - 2816);
	r->gpr[X86_RSP] = r->gpr[X86_R15] = 0;
	r->rflags &= X86_FL_ARITH;
}

static inline void
pair_run_native(struct pair *p, const uint8_t *insn, unsigned len)
{
	static const uint8_t jmp[] = { 0xff, 0x25, 0, 0, 0, 0 };
	const void *exit = vec_native_exit;
	struct pair_native *c = &p->ctx;

	memcpy(p->code, insn, len);
	memcpy(p->code + len, jmp, sizeof(jmp));
	memcpy(p->code + len + sizeof(jmp), &exit, sizeof(exit));
	memcpy(c->gpr, p->in.gpr, sizeof(c->gpr));
	c->rflags = p->in.rflags;
	c->code = p->code;
	c->mask = p->mask;
	memcpy(c->xsave, p->in.xsave, sizeof(c->xsave));
	memcpy(p->data, p->in.data, sizeof(p->in.data));
	p->native.vector = -1;
	p->native.error = 0;
	p->native.cr2 = 0;
	pair_current = p;
	vec_native_run(c);
	pair_current = NULL;
	memcpy(p->native.gpr, c->gpr, sizeof(c->gpr));
	p->native.rflags = c->rflags;
	memcpy(p->native.xsave, c->xsave, sizeof(c->xsave));
	memcpy(p->native.data, p->data, sizeof(p->native.data));
}

/* Runs the guest from p->base with p->in's registers until it stops; state is left in *s. */
static inline enum engine_exit_reason
pair_run_guest_any(struct pair *p, const uint8_t *insn, unsigned len, struct x86_state *s)
{
	struct engine_exit exit;

	memcpy(p->ram + PAIR_CODE, insn, len);
	p->ram[PAIR_CODE + len] = 0xf4;
	for (unsigned i = 0; i < PAIR_PAGES; i++)
		memcpy(p->ram + PAIR_PAGE(i), p->in.data + 4096 * i, 4096);
	bt_engine.mem_written(p->vm, PAIR_CODE, len + 1);
	*s = p->base;
	memcpy(s->gpr, p->in.gpr, sizeof(s->gpr));
	s->gpr[X86_RSP] = PAIR_STACK;
	s->rflags = p->in.rflags;
	s->rip = PAIR_CODE - s->seg[X86_CS].base;
	memcpy(s->xsave, p->in.xsave, sizeof(s->xsave));
	assert_int_equal(bt_engine.vcpu_set(p->vcpu, s), 0);
	bt_engine.vcpu_run(p->vcpu, &exit);
	bt_engine.vcpu_get(p->vcpu, s);
	return exit.reason;
}

/* The same; it has to halt. */
static inline void
pair_run_guest_state(struct pair *p, const uint8_t *insn, unsigned len, struct x86_state *s)
{
	assert_int_equal(pair_run_guest_any(p, insn, len, s), ENGINE_EXIT_HALT);
}

/* The base state becomes user mode, in which HLT raises #GP; faults come in on PAIR_STACK_0. */
static inline void
pair_user_mode(struct pair *p)
{
	p->base.seg[X86_CS].selector = 24 | 3;
	p->base.seg[X86_SS].selector = 32 | 3;
	for (int i = 0; i < X86_SEG_COUNT; i++)
		p->base.seg[i].attr |= 3 << 5; /* DPL */
	pair_put64(p, PAIR_TSS + 4, PAIR_STACK_0);
	p->base.tr = (struct x86_segment){ .selector = 40,
		.base = PAIR_TSS,
		.limit = 103,
		.attr = X86_SEG_P | X86_SYS_TSS32_BUSY };
}

/* Runs code in user mode until it faults: the vector, -1 for the HLT behind it. */
static inline int
pair_run_guest_vector(struct pair *p, const uint8_t *insn, unsigned len, struct x86_state *s)
{
	uint64_t rip;

	pair_run_guest_state(p, insn, len, s);
	assert_in_range(s->rip, PAIR_HANDLERS, PAIR_HANDLERS + 512);
	memcpy(&rip, p->ram + PAIR_STACK_0 - 40, 8);
	return rip == PAIR_CODE + len ? -1 : (int)(s->rip - 1 - PAIR_HANDLERS) / 16;
}

/* The same, where only the way it ends is of interest. */
static inline enum engine_exit_reason
pair_run_guest_exit(struct pair *p, const uint8_t *insn, unsigned len)
{
	struct x86_state s;

	return pair_run_guest_any(p, insn, len, &s);
}

/* The base state becomes flat 32-bit protected mode without paging. */
static inline void
pair_mode_32(struct pair *p)
{
	p->base.efer = 0;
	p->base.cr0 &= ~X86_CR0_PG;
	p->base.cr4 &= ~X86_CR4_PAE;
	p->base.seg[X86_CS].attr = (p->base.seg[X86_CS].attr & ~X86_SEG_L) | X86_SEG_DB;
}

/* Or real mode, every segment at PAIR_CODE, in which the code starts at 0. */
static inline void
pair_mode_real(struct pair *p)
{
	pair_mode_32(p);
	p->base.cr0 &= ~(X86_CR0_PE | X86_CR0_PG);
	for (int i = 0; i < X86_SEG_COUNT; i++)
		p->base.seg[i] = (struct x86_segment){ .selector = PAIR_CODE >> 4,
			.base = PAIR_CODE,
			.limit = 0xffff,
			.attr = X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_A };
}

static inline void
pair_run_guest(struct pair *p, const uint8_t *insn, unsigned len)
{
	struct x86_state s;
	struct pair_regs *r = &p->guest;
	uint64_t frame[6];

	pair_run_guest_state(p, insn, len, &s);
	memcpy(r->gpr, s.gpr, sizeof(r->gpr));
	r->rflags = s.rflags;
	memcpy(r->xsave, s.xsave, sizeof(r->xsave));
	for (unsigned i = 0; i < PAIR_PAGES; i++)
		memcpy(r->data + 4096 * i, p->ram + PAIR_PAGE(i), 4096);
	r->vector = -1;
	r->error = 0;
	r->cr2 = 0;
	if (s.rip == PAIR_CODE + len + 1)
		return;
	assert_in_range(s.rip, PAIR_HANDLERS, PAIR_HANDLERS + 512);
	r->vector = (int)(s.rip - 1 - PAIR_HANDLERS) / 16;
	memcpy(frame, p->ram + s.gpr[X86_RSP], sizeof(frame));
	if (PAIR_STACK - s.gpr[X86_RSP] == 48)
		r->error = (uint32_t)frame[0];
	else
		memmove(frame + 1, frame, 40);
	assert_int_equal(frame[1], PAIR_CODE); /* RIP */
	r->rflags = frame[3];
	if (r->vector == X86_PF)
		r->cr2 = s.cr2;
}

static inline void
pair_dump(const char *what, const uint8_t *a, const uint8_t *b, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		if (a[i] == b[i])
			continue;
		i &= ~15ul;
		print_error("  %s+%zu: native", what, i);
		for (size_t j = i; j < i + 16; j++)
			print_error(" %02x", a[j]);
		print_error("\n  %*s guest", (int)strlen(what) + 5, "");
		for (size_t j = i; j < i + 16; j++)
			print_error(" %02x", b[j]);
		print_error("\n");
		i |= 15;
	}
}

/* Whether native and guest agree; otherwise tells where not. */
static inline bool
pair_compare(struct pair *p, const uint8_t *insn, unsigned len)
{
	struct pair_regs *a = &p->native, *b = &p->guest;
	bool same = true;

	pair_normalize(p, a);
	pair_normalize(p, b);
	/* One runs in user mode, the other does not; the host reports no address for #GP. */
	a->error &= ~X86_PF_U;
	b->error &= ~X86_PF_U;
	if (a->vector != X86_PF)
		a->cr2 = 0;
	if (p->any_byte) {
		a->cr2 &= ~0xfffull;
		b->cr2 &= ~0xfffull;
	}
	if (a->vector != X86_PF && a->vector != X86_GP)
		a->error = 0;
	same = a->vector == b->vector && a->error == b->error && a->cr2 == b->cr2 &&
	       a->rflags == b->rflags && memcmp(a->gpr, b->gpr, sizeof(a->gpr)) == 0 &&
	       memcmp(a->xsave, b->xsave, sizeof(a->xsave)) == 0 &&
	       memcmp(a->data, b->data, sizeof(a->data)) == 0;
	p->runs++;
	p->faults += a->vector >= 0;
	if (same)
		return true;
	print_error("differs:");
	for (unsigned i = 0; i < len; i++)
		print_error(" %02x", insn[i]);
	print_error("\n  native vector %d error %x cr2 %llx flags %llx\n"
		    "  guest  vector %d error %x cr2 %llx flags %llx\n",
	    a->vector, a->error, (unsigned long long)a->cr2, (unsigned long long)a->rflags,
	    b->vector, b->error, (unsigned long long)b->cr2, (unsigned long long)b->rflags);
	pair_dump("gpr", (uint8_t *)a->gpr, (uint8_t *)b->gpr, sizeof(a->gpr));
	pair_dump("xsave", a->xsave, b->xsave, sizeof(a->xsave));
	pair_dump("data", a->data, b->data, sizeof(a->data));
	return false;
}

/* Runs p->in on both. */
static inline bool
pair_run(struct pair *p, const uint8_t *insn, unsigned len)
{
	p->in.gpr[X86_R15] = (uintptr_t)&p->ctx;
	pair_run_native(p, insn, len);
	pair_run_guest(p, insn, len);
	return pair_compare(p, insn, len);
}

#endif
