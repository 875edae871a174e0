/*
 * The software CPU run through the engine's contract: small guests for every mode, exceptions with their
 * frames and error codes, interrupts and shadows, debugging, code that changes, tasks.
 */
#include "bt_guest.h"

#include <pthread.h>

static int
setup(void **state)
{
	*state = guest_create(1);
	return 0;
}

static int
teardown(void **state)
{
	guest_destroy(*state);
	return 0;
}

#define BOOT(g, mode, cpl, name) guest_boot(g, mode, cpl, name, name##_end)
/* The address of a label (an offset from the start) of the code that was booted. */
#define AT(off) (GUEST_CODE + (off))

/* --- Real mode --- */

GUEST_ASM(reset_vector, 16, "ljmp $0xf000, $0x100");
GUEST_ASM(real_mode, 16, "mov $0x1234, %ax\n mov %ax, %ds\n mov %ax, 0x10\n"
	"mov $0x3000, %sp\n int $0x21\n out %al, $0x80\n hlt");
GUEST_ASM(real_handler, 16, "mov %sp, %bp\n mov (%bp), %bx\n mov $0x42, %al\n iret");

static void
test_real_mode(void **state)
{
	struct guest *g = *state;
	uint16_t w;

	GUEST_LOAD(g, GUEST_RAM + 0xfff0, reset_vector); /* the ROM */
	GUEST_LOAD(g, 0xf0100, real_mode);
	GUEST_LOAD(g, 0x500, real_handler);
	guest_put32(g, 0x21 * 4, 0x500);
	guest_run(g, ENGINE_EXIT_HALT);
	memcpy(&w, g->ram + 0x12350, 2);
	assert_int_equal(w, 0x1234);
	assert_int_equal(g->logged, 1);
	assert_int_equal(g->log[0].what, 'o');
	assert_int_equal(g->log[0].val, 0x42);
	assert_int_equal(g->cpu->r[X86_RBX], 0x10d); /* past INT */
	assert_int_equal(g->cpu->r[X86_RSP], 0x3000);
}

GUEST_ASM(real_fault, 16, "mov $0x3000, %sp\n xor %cx, %cx\n div %cx\n");

/* #DE in real mode: a 6-byte frame, no error code, IP at the instruction. */
static void
test_real_fault(void **state)
{
	struct guest *g = *state;

	GUEST_LOAD(g, GUEST_RAM + 0xfff0, reset_vector);
	GUEST_LOAD(g, 0xf0100, real_fault);
	guest_put32(g, 0, 0x500);
	g->ram[0x500] = 0xf4;
	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal(g->cpu->r[BT_REG_RIP], 0x501);
	assert_int_equal(g->cpu->r[X86_RSP], 0x2ffa);
	assert_int_equal(guest_get32(g, 0x2ffa), 0xf0000105);
}

/* --- Exceptions --- */

/* Instructions that fault, alone or after a preparation, at CPL 0 or 3. */
struct fault_case {
	const uint8_t *code, *end;
	int cpl, vector, error;
	unsigned at; /* offset of the instruction that faults */
	uint64_t cr2;
};
#define FAULT(name, ...) { name, name##_end, __VA_ARGS__ }

GUEST_ASM(f_ud, 64, "ud2");
GUEST_ASM(f_de, 64, "xor %ecx, %ecx\n idiv %rcx");
GUEST_ASM(f_pf_read, 64, "mov $0x900000, %eax\n mov (%rax), %eax");
GUEST_ASM(f_pf_write, 64, "mov $0x900000, %eax\n addl $1, (%rax)");
GUEST_ASM(f_pf_fetch, 64, "mov $0x900000, %eax\n jmp *%rax");
GUEST_ASM(f_gp_canonical, 64, "mov $0x800000000000, %rax\n mov (%rax), %eax");
GUEST_ASM(f_ss_canonical, 64, "mov $0x800000000000, %rbp\n mov (%rbp), %eax");
GUEST_ASM(f_gp_hlt, 64, "hlt");
GUEST_ASM(f_gp_sel, 64, "mov $0x1ff8, %eax\n mov %eax, %ds");
GUEST_ASM(f_gp_int, 64, "int $0x30");
GUEST_ASM(f_gp_cr, 64, "mov %cr0, %rax");
GUEST_ASM(f_gp_io, 64, "out %al, $0x80");
GUEST_ASM(f_np, 64, "mov $0x68, %eax\n mov %eax, %es");
GUEST_ASM(f_branch, 64, "mov $0x800000000000, %rax\n call *%rax");
/* 15 prefixes and an opcode: too long. */
GUEST_ASM(f_long, 64, ".fill 15, 1, 0x66\n nop");

static const struct fault_case faults64[] = {
	FAULT(f_ud, 0, X86_UD, -1, 0, 0),
	FAULT(f_ud, 3, X86_UD, -1, 0, 0),
	FAULT(f_de, 3, X86_DE, -1, 2, 0),
	FAULT(f_pf_read, 0, X86_PF, 0, 5, 0x900000),
	FAULT(f_pf_read, 3, X86_PF, X86_PF_U, 5, 0x900000),
	FAULT(f_pf_write, 3, X86_PF, X86_PF_U | X86_PF_W, 5, 0x900000),
	FAULT(f_pf_fetch, 3, X86_PF, X86_PF_U | X86_PF_I, 0x900000 - GUEST_CODE, 0x900000),
	FAULT(f_gp_canonical, 0, X86_GP, 0, 10, 0),
	FAULT(f_ss_canonical, 0, X86_SSF, 0, 10, 0),
	FAULT(f_gp_hlt, 3, X86_GP, 0, 0, 0),
	FAULT(f_gp_sel, 0, X86_GP, 0x1ff8, 5, 0),
	FAULT(f_gp_int, 3, X86_GP, 0x30 * 8 + 2, 0, 0),
	FAULT(f_gp_cr, 3, X86_GP, 0, 0, 0),
	FAULT(f_gp_io, 3, X86_GP, 0, 0, 0),
	FAULT(f_np, 0, X86_NP, 0x68, 5, 0),
	FAULT(f_branch, 0, X86_GP, 0, 10, 0),
	FAULT(f_long, 0, X86_GP, 0, 0, 0),
};

static void
test_faults64(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(faults64); i++) {
		const struct fault_case *c = &faults64[i];
		struct guest *g = guest_create(1);
		uint64_t frame, rsp;

		guest_boot(g, 8, c->cpl, c->code, c->end);
		guest_gdt(g, GUEST_SPARE, 0, 0xfffff, X86_SEG_S | X86_SEG_RW); /* not present */
		rsp = g->cpu->r[X86_RSP];
		print_message("case %zu\n", i);
		frame = guest_expect(g, 8, c->vector, c->error, AT(c->at));
		if (c->vector == X86_PF)
			assert_int_equal(g->cpu->cr2, c->cr2);
		/* CS, RFLAGS with RF (SDM 3, 17.3.1.1), the old stack, and where the frame lies. */
		assert_int_equal(guest_get64(g, frame + 8), c->cpl ? GUEST_UCS64 : GUEST_CS64);
		assert_true(guest_get64(g, frame + 16) & X86_FL_RF);
		assert_int_equal(guest_get64(g, frame + 24), rsp);
		assert_int_equal(guest_get64(g, frame + 32), c->cpl ? GUEST_UDS : 0x10);
		assert_int_equal(frame + 40, c->cpl ? GUEST_STACK0 : rsp);
		assert_int_equal(g->cpu->cpl, 0);
		assert_int_equal(g->cpu->seg[X86_SS].selector, c->cpl ? 0 : 0x10);
		guest_destroy(g);
	}
}

GUEST_ASM(f32_limit, 32, "mov $0x68, %eax\n mov %eax, %fs\n mov %fs:0x1000, %al");
GUEST_ASM(f32_null, 32, "xor %eax, %eax\n mov %eax, %es\n mov %es:(%eax), %al");
GUEST_ASM(f32_bound, 32, "lea 0x20000, %ecx\n movl $5, (%ecx)\n movl $9, 4(%ecx)\n"
	"bound %eax, (%ecx)");
GUEST_ASM(f32_into, 32, "mov $0x7fffffff, %eax\n inc %eax\n into\n");

static const struct fault_case faults32[] = {
	FAULT(f_ud, 0, X86_UD, -1, 0, 0),
	FAULT(f32_limit, 0, X86_GP, 0, 7, 0),
	FAULT(f32_null, 3, X86_GP, 0, 4, 0),
	FAULT(f32_bound, 0, X86_BR, -1, 0x13, 0),
	FAULT(f32_into, 0, X86_OF, -1, 7, 0),
};

static void
test_faults32(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(faults32); i++) {
		const struct fault_case *c = &faults32[i];
		struct guest *g = guest_create(1);
		uint64_t frame, rsp;

		guest_boot(g, 4, c->cpl, c->code, c->end);
		guest_gdt(g, GUEST_SPARE, 0x5000, 0xfff,
		    X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_DB);
		rsp = g->cpu->r[X86_RSP];
		print_message("case %zu\n", i);
		frame = guest_expect(g, 4, c->vector, c->error, AT(c->at));
		assert_int_equal(guest_get32(g, frame + 4), c->cpl ? GUEST_UCS32 : GUEST_CS32);
		if (c->cpl != 0) {
			assert_int_equal(guest_get32(g, frame + 12), rsp);
			assert_int_equal(guest_get32(g, frame + 16), GUEST_UDS);
			assert_int_equal(frame + 20, GUEST_STACK0);
		} else {
			assert_int_equal(frame + 12, rsp);
		}
		guest_destroy(g);
	}
}

/* Faults while a fault is delivered. */
static void
test_double_fault(void **state)
{
	struct guest *g = *state;

	/* #UD's gate is not present: #NP says so; UD is benign, so no double fault. */
	BOOT(g, 8, 0, f_ud);
	guest_gate(g, 8, X86_UD, GUEST_CS64, GUEST_HANDLERS, X86_SYS_INT32, 0);
	guest_expect(g, 8, X86_NP, X86_UD * 8 + 3, AT(0));
	/* #GP on the way to #GP: double fault. */
	BOOT(g, 8, 0, f_gp_canonical);
	guest_gate(g, 8, X86_GP, 0x1ff8, GUEST_HANDLERS, X86_SEG_P | X86_SYS_INT32, 0);
	guest_expect(g, 8, X86_DF, 0, AT(10));
	/* A gate of the wrong type. */
	BOOT(g, 8, 0, f_ud);
	guest_gate(g, 8, X86_UD, GUEST_CS64, GUEST_HANDLERS, X86_SEG_P | X86_SYS_CALL32, 0);
	guest_expect(g, 8, X86_GP, X86_UD * 8 + 3, AT(0));
	/* A page fault while a page fault is delivered, for want of a stack; the handler has one. */
	BOOT(g, 8, 3, f_pf_read);
	guest_put64(g, GUEST_TSS + 4, 0xa00000);
	guest_gate(g, 8, X86_DF, GUEST_CS64, GUEST_HANDLERS + 16 * X86_DF,
	    X86_SEG_P | X86_SYS_INT32, 1);
	assert_int_equal(guest_expect(g, 8, X86_DF, 0, AT(5)) + 40, GUEST_IST1);
	assert_int_equal(g->cpu->cr2, 0xa00000 - 8);
	/* And when it has none either, the end. */
	BOOT(g, 8, 3, f_pf_read);
	guest_put64(g, GUEST_TSS + 4, 0xa00000);
	guest_run(g, ENGINE_EXIT_SHUTDOWN);
	guest_run(g, ENGINE_EXIT_SHUTDOWN);
}

GUEST_ASM(idt_gone, 64, "lidt 1f(%rip)\n ud2\n 1: .word 0\n .quad 0");

static void
test_triple_fault(void **state)
{
	struct guest *g = *state;

	BOOT(g, 8, 0, idt_gone);
	guest_run(g, ENGINE_EXIT_SHUTDOWN);
}

/* --- Software interrupts and IRET --- */

GUEST_ASM(user_int, 64, "mov $7, %ebx\n int $0x40\n mov %eax, 0x400000\n int $0x41");
GUEST_ASM(kernel_service, 64, "mov %cs, %ecx\n lea 1(%rbx), %eax\n iretq");

static void
test_user_int(void **state)
{
	struct guest *g = *state;

	BOOT(g, 8, 3, user_int);
	GUEST_LOAD(g, 0x20000, kernel_service);
	guest_gate(g, 8, 0x40, GUEST_CS64, 0x20000, X86_SEG_P | 3 << 5 | X86_SYS_TRAP32, 0);
	guest_gate(g, 8, 0x41, GUEST_CS64, GUEST_HANDLERS + 16 * 0x41,
	    X86_SEG_P | 3 << 5 | X86_SYS_INT32, 0);
	guest_expect(g, 8, 0x41, -1, AT(5 + 2 + 7 + 2));
	assert_int_equal(guest_get32(g, 0x400000), 8);
	assert_int_equal(g->cpu->r[X86_RCX], GUEST_CS64);
}

/* --- Interrupts --- */

GUEST_ASM(spin, 64, "sti\n 1: inc %rax\n jmp 1b");
GUEST_ASM(sti_shadow, 64, "out %al, $1\n sti\n nop\n nop\n jmp .");
GUEST_ASM(ss_shadow, 64, "sti\n mov %ss, %eax\n nop\n out %al, $1\n mov %eax, %ss\n nop\n nop\n jmp .");
GUEST_ASM(sti_hlt, 64, "out %al, $1\n sti\n hlt\n nop");
GUEST_ASM(popf_on, 64, "out %al, $1\n push $0x202\n popf\n nop");
GUEST_ASM(cli_hlt, 64, "cli\n hlt");

static void
raise_irq(struct guest *g, uint16_t port, uint32_t val)
{
	g->irq = 0x50;
	bt_engine.vcpu_kick(g->vcpu, false);
}

static void
test_interrupts(void **state)
{
	struct guest *g = *state;

	g->on_out = raise_irq;
	/* Raised while IF is 0; taken after the instruction that follows STI. */
	BOOT(g, 8, 0, sti_shadow);
	guest_expect(g, 8, 0x50, -1, AT(4));
	assert_int_equal(g->irq, -1);
	/* HLT is that instruction. */
	BOOT(g, 8, 0, sti_hlt);
	guest_expect(g, 8, 0x50, -1, AT(4));
	/* No shadow after POPF. */
	BOOT(g, 8, 0, popf_on);
	guest_expect(g, 8, 0x50, -1, AT(2 + 5 + 1));
	/* Taken at once with IF set. */
	BOOT(g, 8, 0, ss_shadow);
	guest_expect(g, 8, 0x50, -1, AT(1 + 2 + 1 + 2));
}

/* An interrupt that is pending when MOV SS runs waits for one more instruction. */
static void
test_mov_ss(void **state)
{
	struct guest *g = *state;
	struct x86_state s;

	BOOT(g, 8, 0, ss_shadow);
	/* Step to the MOV: the interrupt is raised by hand in the shadow. */
	bt_engine.vcpu_get(g->vcpu, &s);
	s.rip = AT(1 + 2 + 1 + 2 + 2); /* after MOV SS */
	s.rflags |= X86_FL_IF;
	s.intr_shadow = 1;
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), 0);
	g->irq = 0x51;
	guest_expect(g, 8, 0x51, -1, s.rip + 1);
}

static void
test_halt(void **state)
{
	struct guest *g = *state;
	struct engine_exit exit;

	BOOT(g, 8, 0, cli_hlt);
	bt_engine.vcpu_run(g->vcpu, &exit);
	assert_int_equal(exit.reason, ENGINE_EXIT_HALT);
	assert_false(exit.intr_enabled);
	/* An interrupt does not wake it, a stop request returns, an NMI wakes it. */
	g->irq = 0x50;
	bt_engine.vcpu_kick(g->vcpu, false);
	bt_engine.vcpu_run(g->vcpu, &exit);
	assert_int_equal(exit.reason, ENGINE_EXIT_HALT);
	bt_engine.vcpu_kick(g->vcpu, true);
	bt_engine.vcpu_run(g->vcpu, &exit);
	assert_int_equal(exit.reason, ENGINE_EXIT_KICK);
	bt_engine.vcpu_nmi(g->vcpu);
	bt_engine.vcpu_kick(g->vcpu, false);
	guest_expect(g, 8, X86_NMI, -1, AT(2));
	assert_int_equal(g->cpu->nmi_blocked, 1);
	/* Another waits until IRET. */
	bt_engine.vcpu_nmi(g->vcpu);
	bt_engine.vcpu_kick(g->vcpu, false);
	bt_engine.vcpu_run(g->vcpu, &exit);
	assert_int_equal(exit.reason, ENGINE_EXIT_HALT);
	g->ram[GUEST_HANDLERS + 16 * X86_NMI + 1] = 0x48; /* IRETQ */
	g->ram[GUEST_HANDLERS + 16 * X86_NMI + 2] = 0xcf;
	g->cpu->activity = X86_RUNNING;
	guest_expect(g, 8, X86_NMI, -1, AT(2));
}

static void *
stopper(void *arg)
{
	struct guest *g = arg;

	bt_engine.vcpu_kick(g->vcpu, true);
	return NULL;
}

/* A guest that never stops is stopped from another thread; one that was asked before it ran, too. */
static void
test_stop(void **state)
{
	struct guest *g = *state;
	struct engine_exit exit;
	pthread_t thread;

	BOOT(g, 8, 0, spin);
	for (int i = 0; i < 100; i++) {
		assert_int_equal(pthread_create(&thread, NULL, stopper, g), 0);
		bt_engine.vcpu_run(g->vcpu, &exit);
		assert_int_equal(exit.reason, ENGINE_EXIT_KICK);
		pthread_join(thread, NULL);
	}
	bt_engine.vcpu_kick(g->vcpu, true);
	bt_engine.vcpu_run(g->vcpu, &exit);
	assert_int_equal(exit.reason, ENGINE_EXIT_KICK);
}

/* --- Debugging --- */

GUEST_ASM(stepped, 64, "nop\n xor %eax, %eax\n jmp 1f\n nop\n 1: nop\n nop");

static void
test_single_step(void **state)
{
	static const unsigned after[] = { 1, 3, 6, 7 };
	struct guest *g = *state;
	struct x86_state s;
	uint64_t frame, rip = GUEST_CODE;

	for (size_t i = 0; i < ARRAY_SIZE(after); i++) {
		BOOT(g, 8, 0, stepped);
		bt_engine.vcpu_get(g->vcpu, &s);
		s.rip = rip;
		s.rflags |= X86_FL_TF;
		s.dr6 = 0xffff0ff0;
		assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), 0);
		rip = AT(after[i]);
		frame = guest_expect(g, 8, X86_DB, -1, rip);
		assert_int_equal(g->cpu->dr6, 0xffff4ff0);
		assert_int_equal((guest_get64(g, frame + 16) ^ s.rflags) & ~(uint64_t)X86_FL_ARITH,
		    0);
		assert_false(g->cpu->eflags & X86_FL_TF);
	}
}

GUEST_ASM(popf_tf, 64, "push $0x102\n popf\n nop\n nop");
GUEST_ASM(tf_ss, 64, "mov %ss, %eax\n push $0x102\n popf\n mov %eax, %ss\n nop\n nop");
GUEST_ASM(tf_int, 64, "push $0x102\n popf\n int $0x44\n nop");

static void
test_trap_timing(void **state)
{
	struct guest *g = *state;

	/* POPF that sets TF: the trap comes after the next instruction. */
	BOOT(g, 8, 0, popf_tf);
	guest_expect(g, 8, X86_DB, -1, AT(7));
	/* MOV SS holds the trap back; the next instruction has its own. */
	BOOT(g, 8, 0, tf_ss);
	guest_expect(g, 8, X86_DB, -1, AT(2 + 5 + 1 + 2 + 1));
	/* INT clears TF and is not followed by a trap. */
	BOOT(g, 8, 0, tf_int);
	guest_expect(g, 8, 0x44, -1, AT(5 + 1 + 2));
}

GUEST_ASM(breaks, 64, "mov $0x20000, %ecx\n mov %eax, 4(%rcx)\n mov 8(%rcx), %eax\n"
	"mov %eax, 9(%rcx)\n nop\n out %al, $0x90\n nop");

static uint64_t
run_break(struct guest *g, uint64_t addr, unsigned rw, unsigned len, uint64_t from, uint64_t want)
{
	struct x86_state s;

	BOOT(g, 8, 0, breaks);
	bt_engine.vcpu_get(g->vcpu, &s);
	s.dr[1] = addr;
	s.dr7 = 0x400 | 2u << 2 | rw << 20 | len << 22;
	s.dr6 = 0xffff0ff0;
	s.cr4 |= X86_CR4_DE;
	s.rip = from;
	s.gpr[X86_RCX] = 0x20000;
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), 0);
	return guest_expect(g, 8, X86_DB, -1, want);
}

static void
test_breakpoints(void **state)
{
	struct guest *g = *state;
	uint64_t frame;

	/* A store, a load (not for a write breakpoint), a store that touches the watched word. */
	run_break(g, 0x20004, 1, 3, AT(0), AT(8));
	assert_int_equal(g->cpu->dr6, 0xffff0ff2);
	run_break(g, 0x20008, 1, 3, AT(0), AT(14));
	run_break(g, 0x20008, 3, 3, AT(0), AT(11));
	run_break(g, 0x2000c, 1, 0, AT(0), AT(14));
	/* An instruction: a fault before it, with RF clear in the frame. */
	frame = run_break(g, AT(14), 0, 0, AT(0), AT(14));
	assert_int_equal(g->cpu->dr6, 0xffff0ff2);
	assert_false(guest_get64(g, frame + 16) & X86_FL_RF);
	/* A port. */
	run_break(g, 0x90, 2, 0, AT(0), AT(17));
}

GUEST_ASM(resume, 64, "iretq");

/* RF set by IRET lets the instruction pass once. */
static void
test_resume_flag(void **state)
{
	struct guest *g = *state;
	struct x86_state s;

	run_break(g, AT(14), 0, 0, AT(0), AT(14));
	GUEST_LOAD(g, GUEST_HANDLERS + 17, resume);
	guest_put64(g, g->cpu->r[X86_RSP] + 16,
	    guest_get64(g, g->cpu->r[X86_RSP] + 16) | X86_FL_RF);
	bt_engine.vcpu_get(g->vcpu, &s);
	s.dr[2] = AT(15);
	s.dr7 |= 2u << 4;
	s.dr6 = 0xffff0ff0;
	s.activity = X86_RUNNING;
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), 0);
	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal(g->cpu->dr6, 0xffff0ff4);
	assert_int_equal(guest_get64(g, g->cpu->r[X86_RSP]), AT(15));
}

/* --- Code that changes --- */

/* Overwrites the immediate of the next instruction, in its own block. */
GUEST_ASM(smc_next, 64, "movb $0x22, 1f+1(%rip)\n 1: mov $0x11, %al\n out %al, $1\n hlt");
/* A loop whose body is rewritten each time round. */
GUEST_ASM(smc_loop, 64, "xor %ebx, %ebx\n mov $100, %ecx\n 1: incb 2f+1(%rip)\n"
	"2: mov $0, %al\n movzx %al, %eax\n add %eax, %ebx\n dec %ecx\n jnz 1b\n hlt");
/* REP STOS over what follows it. */
GUEST_ASM(smc_rep, 64, "lea 1f(%rip), %rdi\n mov $4, %ecx\n mov $0x90, %al\n rep stosb\n"
	"1: ud2\n ud2\n out %al, $1\n hlt");

static void
test_self_modifying(void **state)
{
	struct guest *g = *state;

	BOOT(g, 8, 0, smc_next);
	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal(g->log[0].val & 0xff, 0x22);
	BOOT(g, 8, 0, smc_loop);
	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal(g->cpu->r[X86_RBX], 5050);
	g->logged = 0;
	BOOT(g, 8, 0, smc_rep);
	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal(g->logged, 1);
}

GUEST_ASM(call_dma, 64, "call 1f\n out %al, $1\n call 1f\n out %al, $1\n hlt\n"
	".balign 64\n 1: mov $1, %al\n ret");

static void
dma_code(struct guest *g, uint16_t port, uint32_t val)
{
	g->ram[GUEST_CODE + 65] = 2;
	bt_engine.mem_written(g->vm, GUEST_CODE + 65, 1);
}

/* A device overwrites code. */
static void
test_device_writes_code(void **state)
{
	struct guest *g = *state;

	g->on_out = dma_code;
	BOOT(g, 8, 0, call_dma);
	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal(g->log[0].val & 0xff, 1);
	assert_int_equal(g->log[1].val & 0xff, 2);
}

/* An instruction across two pages of which the second is changed, then taken away. */
GUEST_ASM(cross, 64, "mov $0x11223344, %ebx\n jmp *%rdi");
GUEST_ASM(cross_main, 64, "mov $0x400ffe, %eax\n lea 1f(%rip), %rdi\n jmp *%rax\n"
	"1: mov %ebx, %esi\n movb $0x77, 0x401002\n lea 2f(%rip), %rdi\n jmp *%rax\n"
	"2: mov %ebx, %edx\n movq $0, 0x103008\n invlpg 0x401000\n jmp *%rax");

static void
test_page_crossing(void **state)
{
	struct guest *g = *state;

	BOOT(g, 8, 0, cross_main);
	GUEST_LOAD(g, 0x400ffe, cross);
	guest_expect(g, 8, X86_PF, 0x10, 0x400ffe);
	assert_int_equal(g->cpu->r[X86_RSI], 0x11223344);
	assert_int_equal(g->cpu->r[X86_RDX], 0x77223344);
	assert_int_equal(g->cpu->cr2, 0x401000);
}

/* The same linear address over different code after INVLPG, and a data page that was code. */
GUEST_ASM(remap, 64, "mov $0x400000, %edi\n call *%rdi\n mov %eax, %ebx\n"
	"movq $0x402007, 0x103000\n invlpg 0x400000\n call *%rdi\n mov %eax, %ecx\n"
	"mov $0x403000, %edi\n mov $512, %edx\n xchg %edx, %ecx\n rep stosq\n hlt");
GUEST_ASM(returns_1, 64, "mov $1, %eax\n ret");
GUEST_ASM(returns_2, 64, "mov $2, %eax\n ret");

static void
test_remap_code(void **state)
{
	struct guest *g = *state;

	BOOT(g, 8, 0, remap);
	GUEST_LOAD(g, 0x400000, returns_1);
	GUEST_LOAD(g, 0x402000, returns_2);
	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal(g->cpu->r[X86_RBX], 1);
	assert_int_equal(g->cpu->r[X86_RDX], 2);
}

/* More code than the cache holds. */
static void
test_cache_full(void **state)
{
	struct guest *g = *state;
	uint8_t *p = g->ram + GUEST_PAGES, *end = g->ram + GUEST_RAM - 16;
	uint64_t jumps = 0;

	guest_boot(g, 8, 0, spin, spin_end);
	while (p < end) {
		*p++ = 0x48; /* INC RAX */
		*p++ = 0xff;
		*p++ = 0xc0;
		*p++ = 0xeb; /* JMP over 3 */
		*p++ = 0x03;
		p += 3;
		jumps++;
	}
	*p = 0xf4;
	/* 4 MiB of it behind the boundary of the small pages is mapped by 2 MiB pages. */
	g->cpu->r[X86_RAX] = 0;
	for (int i = 0; i < 2; i++) {
		g->cpu->r[BT_REG_RIP] = GUEST_PAGES;
		g->cpu->activity = X86_RUNNING;
		guest_run(g, ENGINE_EXIT_HALT);
	}
	assert_int_equal(g->cpu->r[X86_RAX], 2 * jumps);
}

/* --- Virtual-8086 mode and tasks --- */

GUEST_ASM(to_vm86, 32, "push $0\n push $0\n push $0\n push $0\n push $0x2000\n push $0x1000\n"
	"pushl $0x20002\n push $0x1000\n push $0x20\n iret");
GUEST_ASM(vm86_code, 16, "mov $0x1234, %ax\n mov %ax, %ds\n mov %ax, 2\n int $0x10");

static void
test_vm86(void **state)
{
	struct guest *g = *state;
	uint64_t frame;

	BOOT(g, 4, 0, to_vm86);
	GUEST_LOAD(g, 0x10020 + 0x20, vm86_code);
	guest_put32(g, GUEST_CODE, guest_get32(g, GUEST_CODE));
	/* The code is at 1000:0040. */
	g->ram[GUEST_CODE + 4 * 2 + 5 + 5 + 5 + 5 + 1] = 0x40;
	/* IOPL 0: INT n is #GP(0). */
	frame = guest_expect(g, 4, X86_GP, 0, 0x40 + 3 + 2 + 3);
	assert_int_equal(g->ram[0x12342], 0x34);
	assert_int_equal(guest_get32(g, frame + 4), 0x1000);
	assert_true(guest_get32(g, frame + 8) & X86_FL_VM);
	assert_int_equal(guest_get32(g, frame + 12), 0x1000); /* SP */
	assert_int_equal(guest_get32(g, frame + 16), 0x2000); /* SS */
	assert_int_equal(guest_get32(g, frame + 24), 0x1234); /* DS, after ES */
	assert_int_equal(frame + 36, GUEST_STACK0);
	assert_int_equal(g->cpu->seg[X86_DS].selector, 0);
	assert_false(g->cpu->eflags & X86_FL_VM);
}

GUEST_ASM(task_jump, 32, "mov $0x55, %ebx\n ljmp $0x60, $0\n hlt");
GUEST_ASM(task_call, 32, "lcall $0x60, $0\n mov $0x77, %ecx\n hlt");
GUEST_ASM(task_body, 32, "out %eax, $0x10\n iret");

static void
put_task(struct guest *g, uint32_t eip)
{
	static const uint8_t seg[] = { GUEST_DS, GUEST_CS32, GUEST_DS, GUEST_DS, GUEST_DS, GUEST_DS };

	guest_put32(g, GUEST_TSS2 + 32, eip);
	guest_put32(g, GUEST_TSS2 + 36, X86_FL_1);
	guest_put32(g, GUEST_TSS2 + 40, 0xabcd); /* EAX */
	guest_put32(g, GUEST_TSS2 + 56, 0x70000); /* ESP */
	for (unsigned i = 0; i < 6; i++)
		guest_put32(g, GUEST_TSS2 + 72 + 4 * i, seg[i]);
}

static void
test_tasks(void **state)
{
	struct guest *g = *state;

	BOOT(g, 4, 0, task_jump);
	GUEST_LOAD(g, 0x20000, task_body);
	put_task(g, 0x20000);
	g->ram[0x20002] = 0xf4;
	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal(g->cpu->tr.selector, GUEST_TR2);
	assert_int_equal(g->log[0].val, 0xabcd);
	assert_int_equal(guest_get32(g, GUEST_TSS + 32), AT(5 + 7)); /* EIP saved */
	assert_int_equal(guest_get32(g, GUEST_TSS + 52), 0x55); /* EBX */
	assert_int_equal(g->ram[GUEST_GDT + GUEST_TR + 5] & 0xf, X86_SYS_TSS32);
	assert_int_equal(g->ram[GUEST_GDT + GUEST_TR2 + 5] & 0xf, X86_SYS_TSS32_BUSY);
	assert_true(g->cpu->cr0 & X86_CR0_TS);

	/* CALL and IRET: there and back. */
	BOOT(g, 4, 0, task_call);
	GUEST_LOAD(g, 0x20000, task_body);
	put_task(g, 0x20000);
	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal(g->cpu->r[X86_RCX], 0x77);
	assert_int_equal(g->cpu->tr.selector, GUEST_TR);
	assert_int_equal(guest_get32(g, GUEST_TSS2), GUEST_TR); /* the link */
	assert_false(g->cpu->eflags & X86_FL_NT);
	assert_int_equal(g->ram[GUEST_GDT + GUEST_TR2 + 5] & 0xf, X86_SYS_TSS32);

	/* To a task whose TSS is too small: #TS, nothing changed. */
	BOOT(g, 4, 0, task_jump);
	guest_gdt(g, GUEST_TR2, GUEST_TSS2, 0x66, X86_SEG_P | X86_SYS_TSS32);
	guest_expect(g, 4, X86_TS, GUEST_TR2, AT(5));
	assert_int_equal(g->cpu->tr.selector, GUEST_TR);
	/* A bad stack segment is found in the new task. */
	BOOT(g, 4, 0, task_jump);
	put_task(g, 0x20000);
	guest_put32(g, GUEST_TSS2 + 80, GUEST_CS32);
	guest_run(g, ENGINE_EXIT_SHUTDOWN);
	assert_int_equal(g->cpu->tr.selector, GUEST_TR2);
}

/* A double fault through a task gate, the classic use, with its error code. */
static void
test_task_gate(void **state)
{
	struct guest *g = *state;

	BOOT(g, 4, 0, f_ud);
	put_task(g, GUEST_HANDLERS + 16 * X86_DF);
	guest_gate(g, 4, X86_DF, GUEST_TR2, 0, X86_SEG_P | X86_SYS_TASK_GATE, 0);
	guest_gate(g, 4, X86_UD, 0x1ff8, 0, X86_SEG_P | X86_SYS_INT32, 0);
	guest_gate(g, 4, X86_GP, 0x1ff8, 0, X86_SEG_P | X86_SYS_INT32, 0);
	guest_run(g, ENGINE_EXIT_HALT);
	assert_int_equal(g->cpu->r[BT_REG_RIP], GUEST_HANDLERS + 16 * X86_DF + 1);
	assert_int_equal(g->cpu->tr.selector, GUEST_TR2);
	assert_int_equal(g->cpu->r[X86_RSP], 0x70000 - 4);
	assert_int_equal(guest_get32(g, 0x70000 - 4), 0);
	assert_int_equal(guest_get32(g, GUEST_TSS + 32), AT(0));
	assert_true(g->cpu->eflags & X86_FL_NT);
}

/* --- State --- */

static void
test_state(void **state)
{
	struct guest *g = *state;
	struct x86_state s, t;

	BOOT(g, 8, 3, f_ud);
	bt_engine.vcpu_get(g->vcpu, &s);
	for (int i = 0; i < X86_GPR_COUNT; i++)
		s.gpr[i] = 0x1111111111111111u * (unsigned)i;
	s.rflags = 0xad7 | X86_FL_1; /* all arithmetic flags, IF */
	s.dr[3] = 0x1234;
	s.star = 0x0023001000000000;
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), 0);
	bt_engine.vcpu_get(g->vcpu, &t);
	t.tsc = s.tsc;
	t.kvm_clock_ns = s.kvm_clock_ns;
	assert_memory_equal(&s, &t, sizeof(s));
	assert_int_equal(g->cpu->cpl, 3);
}

static void
test_state_invalid(void **state)
{
	struct guest *g = *state;
	struct x86_state good, s;

	BOOT(g, 8, 0, f_ud);
	bt_engine.vcpu_get(g->vcpu, &good);
#define BAD(change)                                                                                \
	s = good;                                                                                  \
	change;                                                                                    \
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), -22)
	BAD(s.cr0 &= ~X86_CR0_PE);
	BAD(s.cr0 |= X86_CR0_NW);
	BAD(s.cr0 |= BIT64(32));
	BAD(s.cr4 &= ~X86_CR4_PAE);
	BAD(s.efer &= ~X86_EFER_LMA);
	BAD(s.rflags |= X86_FL_VM);
	BAD(s.rflags &= ~(uint64_t)X86_FL_1);
	BAD(s.xcr0 = 0);
	BAD(s.xcr0 = BIT64(40) | 1);
	BAD(s.xcr0 = X86_XCR0_X87 | X86_XCR0_AVX);
	BAD(s.gdtr.base = 0x800000000000);
	BAD(s.cr3 = BIT64(60));
	BAD(s.activity = 17);
	BAD(s.kvm_system_time = 2);
	BAD(s.kvm_wall_clock = 1);
#undef BAD
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &good), 0);
}

GUEST_ASM(read_tsc, 64, "rdtsc\n hlt");

/* The counter runs on across get and set, and the engine's clock is the vCPU's. */
static void
test_tsc(void **state)
{
	struct guest *g = *state;
	struct x86_state s;
	uint64_t before, tsc, after;

	BOOT(g, 8, 0, read_tsc);
	before = bt_engine.tsc_read(g->vm);
	guest_run(g, ENGINE_EXIT_HALT);
	after = bt_engine.tsc_read(g->vm);
	tsc = g->cpu->r[X86_RDX] << 32 | (uint32_t)g->cpu->r[X86_RAX];
	assert_true(before <= tsc && tsc <= after);
	assert_true(bt_engine.tsc_khz(g->vm) > 100000);
	/* A counter set far away is what the guest then reads. */
	bt_engine.vcpu_get(g->vcpu, &s);
	s.tsc = 1ull << 60;
	assert_int_equal(bt_engine.vcpu_set(g->vcpu, &s), 0);
	assert_true(bt_engine.tsc_read(g->vm) >= 1ull << 60);
}

/* --- Several vCPUs --- */

/* vCPU 0 rewrites a function and raises a flag; vCPU 1 waits for it, serialises, and calls the
 * function: SDM 3, 8.1.3. A wrong result is noted and ends both. */
GUEST_ASM(modifier, 64, "xor %ecx, %ecx\n 1: inc %ecx\n mov %cl, 0x400001\n"
	"mov %ecx, 0x410000\n 2: pause\n cmpl $0, 0x410080\n jne 3f\n cmp %ecx, 0x410040\n"
	"jne 2b\n cmp $2000, %ecx\n jb 1b\n 3: hlt");
GUEST_ASM(executor, 64, "mov $0x400000, %edi\n xor %esi, %esi\n 1: inc %esi\n"
	"2: pause\n cmp %esi, 0x410000\n jne 2b\n xor %eax, %eax\n cpuid\n xor %eax, %eax\n"
	"call *%rdi\n cmp %sil, %al\n jne 3f\n mov %esi, 0x410040\n cmp $2000, %esi\n jb 1b\n hlt\n"
	"3: movl $-1, 0x410080\n hlt");
GUEST_ASM(victim, 64, "mov $0, %al\n ret");

static void *
second_cpu(void *arg)
{
	struct engine_exit exit;

	do
		bt_engine.vcpu_run(arg, &exit);
	while (exit.reason == ENGINE_EXIT_KICK);
	return NULL;
}

static void
test_cross_modifying(void **state)
{
	struct guest *g = guest_create(2);
	struct engine_vcpu *other;
	struct x86_state s;
	pthread_t thread;

	assert_int_equal(bt_engine.vcpu_create(g->vm, 1, &other), 0);
	BOOT(g, 8, 0, modifier);
	GUEST_LOAD(g, 0x20000, executor);
	GUEST_LOAD(g, 0x400000, victim);
	bt_engine.vcpu_get(g->vcpu, &s);
	s.rip = 0x20000;
	s.gpr[X86_RSP] = 0x88000;
	assert_int_equal(bt_engine.vcpu_set(other, &s), 0);
	assert_int_equal(pthread_create(&thread, NULL, second_cpu, other), 0);
	guest_run(g, ENGINE_EXIT_HALT);
	pthread_join(thread, NULL);
	assert_int_equal(guest_get32(g, 0x410080), 0);
	assert_int_equal(g->cpu->r[X86_RCX], 2000);
	bt_engine.vcpu_destroy(other);
	guest_destroy(g);
}

/* Two vCPUs count with locked instructions on words that share a page with code or cross pages. */
GUEST_ASM(counter, 64, "mov $20000, %ecx\n 1: lock incl 0x401000\n lock incl 0x402ffe\n"
	"lock incl 0x100f0\n dec %ecx\n jnz 1b\n hlt");

static void
test_locked(void **state)
{
	struct guest *g = guest_create(2);
	struct engine_vcpu *other;
	struct x86_state s;
	pthread_t thread;

	assert_int_equal(bt_engine.vcpu_create(g->vm, 1, &other), 0);
	BOOT(g, 8, 0, counter);
	bt_engine.vcpu_get(g->vcpu, &s);
	assert_int_equal(bt_engine.vcpu_set(other, &s), 0);
	assert_int_equal(pthread_create(&thread, NULL, second_cpu, other), 0);
	guest_run(g, ENGINE_EXIT_HALT);
	pthread_join(thread, NULL);
	assert_int_equal(guest_get32(g, 0x401000), 40000);
	assert_int_equal(guest_get32(g, 0x402ffe), 40000);
	assert_int_equal(guest_get32(g, 0x100f0), 40000);
	bt_engine.vcpu_destroy(other);
	guest_destroy(g);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_real_mode),
		TEST(test_real_fault),
		cmocka_unit_test(test_faults64),
		cmocka_unit_test(test_faults32),
		TEST(test_double_fault),
		TEST(test_triple_fault),
		TEST(test_user_int),
		TEST(test_interrupts),
		TEST(test_mov_ss),
		TEST(test_halt),
		TEST(test_stop),
		TEST(test_single_step),
		TEST(test_trap_timing),
		TEST(test_breakpoints),
		TEST(test_resume_flag),
		TEST(test_self_modifying),
		TEST(test_device_writes_code),
		TEST(test_page_crossing),
		TEST(test_remap_code),
		TEST(test_cache_full),
		TEST(test_vm86),
		TEST(test_tasks),
		TEST(test_task_gate),
		TEST(test_state),
		TEST(test_state_invalid),
		TEST(test_tsc),
		cmocka_unit_test(test_cross_modifying),
		cmocka_unit_test(test_locked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
