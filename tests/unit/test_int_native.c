/*
 * Integer instructions of 64-bit mode against the processor this runs on: the same bytes,
 * registers, flags and memory here and there; everything must agree, flags that the manuals leave
 * undefined included.
 */
#include "bt_rig.h"

#include <inttypes.h>
#include <signal.h>
#include <unistd.h>

#define RUNS 400 /* of each template */
#define DATA 256 /* bytes of memory that operands are in */

/* --- The processor --- */

struct native {
	uint64_t r[16], flags;
};

static sigjmp_buf native_fault;
static uint8_t *native_code;
static uint64_t native_sp;

static void
native_signal(int sig)
{
	siglongjmp(native_fault, sig);
}

static uint8_t *
emit(uint8_t *p, const char *bytes, size_t n)
{
	memcpy(p, bytes, n);
	return p + n;
}
#define EMIT(p, bytes) emit(p, bytes, sizeof(bytes) - 1)

static uint8_t *
emit_address(uint8_t *p, const void *addr)
{
	memcpy(p, &addr, 8);
	return p + 8;
}

/* mov between [rax + 8 * reg] and reg; opcode 8B loads, 89 stores. */
static uint8_t *
emit_mov(uint8_t *p, int reg, uint8_t opcode)
{
	*p++ = reg >= 8 ? 0x4c : 0x48;
	*p++ = opcode;
	*p++ = (uint8_t)(0x40 | (reg & 7) << 3);
	*p++ = (uint8_t)(8 * reg);
	return p;
}

/* Runs insn with st's registers and flags, and reads them back. 0 or the signal it caused. */
static int
native_run(struct native *st, const uint8_t *insn, size_t len)
{
	uint8_t *p = native_code;
	void (*code)(void);
	int sig;

	p = EMIT(p, "\x53\x55\x41\x54\x41\x55\x41\x56\x41\x57"); /* push rbx rbp r12-r15 */
	p = EMIT(p, "\x48\xb8");
	p = emit_address(p, &native_sp);
	p = EMIT(p, "\x48\x89\x20\x48\xb8"); /* mov [rax], rsp; mov rax, st */
	p = emit_address(p, st);
	p = EMIT(p, "\xff\xb0\x80\x00\x00\x00\x9d"); /* push [rax + 128]; popfq */
	for (int i = 1; i < 16; i++)
		p = emit_mov(p, i, 0x8b);
	p = emit_mov(p, 0, 0x8b);
	p = emit(p, (const char *)insn, len);
	p = EMIT(p, "\x48\xa3"); /* mov [st], rax */
	p = emit_address(p, st);
	p = EMIT(p, "\x48\xb8");
	p = emit_address(p, st);
	for (int i = 1; i < 16; i++)
		p = emit_mov(p, i, 0x89);
	p = EMIT(p, "\x48\xb9");
	p = emit_address(p, &native_sp);
	p = EMIT(p, "\x48\x8b\x21"); /* mov rsp, [rcx] */
	p = EMIT(p, "\x9c\x8f\x80\x80\x00\x00\x00\xfc"); /* pushfq; pop [rax + 128]; cld */
	p = EMIT(p, "\x41\x5f\x41\x5e\x41\x5d\x41\x5c\x5d\x5b\xc3");
	memcpy(&code, &native_code, sizeof(code));
	sig = sigsetjmp(native_fault, 1);
	if (sig == 0)
		code();
	return sig;
}

static void
native_open(void)
{
	static uint8_t stack[65536];
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_handler = native_signal, .sa_flags = SA_ONSTACK };

	native_code = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
	    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(native_code != MAP_FAILED);
	assert_int_equal(sigaltstack(&ss, NULL), 0);
	sigaction(SIGFPE, &sa, NULL);
	sigaction(SIGILL, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
	sigaction(SIGBUS, &sa, NULL);
}

/* --- What is run --- */

#define BYTE BIT(0) /* byte operands: no 66, no W */
#define PLAIN BIT(1) /* no ModRM */
#define REG BIT(2) /* r/m is a register */
#define MEM BIT(3) /* r/m is memory */
#define IMM8 BIT(4)
#define IMMZ BIT(5) /* 2 or 4 bytes */
#define VEX38 BIT(6) /* hex is pp and opcode; with vvvv */
#define VEX3A BIT(7)
#define NO66 BIT(8)
#define STACK BIT(9) /* no 66 (the stack pointer would lose its alignment), W does nothing */
#define BITOFF BIT(10) /* reg is a bit offset: keep it small when r/m is memory */
#define OPREG BIT(11) /* the register is in the opcode */

static const struct template {
	const char *hex; /* mandatory prefix (66, F2, F3) and opcode */
	int ext; /* ModRM.reg, -1 for a register */
	unsigned flags;
} templates[] = {
#define ALU(n)                                                                                     \
	{ #n "0", -1, BYTE }, { #n "1", -1, 0 }, { #n "2", -1, BYTE }, { #n "3", -1, 0 },          \
	    { #n "4", -1, BYTE | PLAIN | IMM8 }, { #n "5", -1, PLAIN | IMMZ }
#define ALU8(n)                                                                                    \
	{ #n "8", -1, BYTE }, { #n "9", -1, 0 }, { #n "a", -1, BYTE }, { #n "b", -1, 0 },          \
	    { #n "c", -1, BYTE | PLAIN | IMM8 }, { #n "d", -1, PLAIN | IMMZ }
	ALU(0), ALU8(0), ALU(1), ALU8(1), ALU(2), ALU8(2), ALU(3), ALU8(3),
#define GROUP1(n) { "80", n, BYTE | IMM8 }, { "81", n, IMMZ }, { "83", n, IMM8 }
	GROUP1(0), GROUP1(1), GROUP1(2), GROUP1(3), GROUP1(4), GROUP1(5), GROUP1(6), GROUP1(7),
	{ "84", -1, BYTE }, { "85", -1, 0 }, { "a8", -1, BYTE | PLAIN | IMM8 },
	{ "a9", -1, PLAIN | IMMZ }, { "86", -1, BYTE }, { "87", -1, 0 }, { "88", -1, BYTE },
	{ "89", -1, 0 }, { "8a", -1, BYTE }, { "8b", -1, 0 }, { "8d", -1, MEM },
	{ "c6", 0, BYTE | IMM8 }, { "c7", 0, IMMZ }, { "90", -1, PLAIN | OPREG },
#define SHIFT(n)                                                                                   \
	{ "c0", n, BYTE | IMM8 }, { "c1", n, IMM8 }, { "d0", n, BYTE }, { "d1", n, 0 },            \
	    { "d2", n, BYTE }, { "d3", n, 0 }
	SHIFT(0), SHIFT(1), SHIFT(2), SHIFT(3), SHIFT(4), SHIFT(5), SHIFT(6), SHIFT(7),
	{ "f6", 0, BYTE | IMM8 }, { "f7", 0, IMMZ },
#define GROUP3(n) { "f6", n, BYTE }, { "f7", n, 0 }
	GROUP3(2), GROUP3(3), GROUP3(4), GROUP3(5), GROUP3(6), GROUP3(7),
	{ "fe", 0, BYTE }, { "fe", 1, BYTE }, { "ff", 0, 0 }, { "ff", 1, 0 },
	{ "69", -1, IMMZ }, { "6b", -1, IMM8 }, { "0f af", -1, 0 }, { "63", -1, 0 },
	{ "98", -1, PLAIN }, { "99", -1, PLAIN }, { "9e", -1, PLAIN }, { "9f", -1, PLAIN },
	{ "f5", -1, PLAIN }, { "f8", -1, PLAIN }, { "f9", -1, PLAIN },
	{ "0f a4", -1, IMM8 }, { "0f a5", -1, 0 }, { "0f ac", -1, IMM8 }, { "0f ad", -1, 0 },
	{ "0f a3", -1, BITOFF }, { "0f ab", -1, BITOFF }, { "0f b3", -1, BITOFF },
	{ "0f bb", -1, BITOFF }, { "0f ba", 4, IMM8 }, { "0f ba", 5, IMM8 }, { "0f ba", 6, IMM8 },
	{ "0f ba", 7, IMM8 }, { "0f bc", -1, 0 }, { "0f bd", -1, 0 }, { "f3 0f bc", -1, 0 },
	{ "f3 0f bd", -1, 0 }, { "f3 0f b8", -1, 0 }, { "0f c8", -1, PLAIN | OPREG },
	{ "0f c0", -1, BYTE }, { "0f c1", -1, 0 }, { "0f b0", -1, BYTE }, { "0f b1", -1, 0 },
	{ "0f b6", -1, 0 }, { "0f b7", -1, 0 }, { "0f be", -1, 0 }, { "0f bf", -1, 0 },
#define CONDITION(n) { "0f 4" #n, -1, 0 }, { "0f 9" #n, 0, BYTE }
	CONDITION(0), CONDITION(1), CONDITION(2), CONDITION(3), CONDITION(4), CONDITION(5),
	CONDITION(6), CONDITION(7), CONDITION(8), CONDITION(9), CONDITION(a), CONDITION(b),
	CONDITION(c), CONDITION(d), CONDITION(e), CONDITION(f),
	{ "0f c7", 1, MEM | NO66 }, { "66 0f 38 f6", -1, NO66 }, { "f3 0f 38 f6", -1, NO66 },
	{ "0f 38 f0", -1, MEM }, { "0f 38 f1", -1, MEM }, { "f2 0f 38 f0", -1, BYTE },
	{ "f2 0f 38 f1", -1, 0 }, { "0f c3", -1, MEM | NO66 }, { "0f 38 f9", -1, MEM | NO66 },
	{ "50", -1, PLAIN | OPREG | STACK }, { "58", -1, PLAIN | OPREG | STACK },
	{ "68", -1, PLAIN | IMMZ | STACK }, { "6a", -1, PLAIN | IMM8 | STACK },
	{ "ff", 6, STACK }, { "8f", 0, STACK }, { "d7", -1, PLAIN | NO66 },
	{ "00 f2", -1, VEX38 }, { "00 f3", 1, VEX38 }, { "00 f3", 2, VEX38 }, { "00 f3", 3, VEX38 },
	{ "00 f5", -1, VEX38 }, { "02 f5", -1, VEX38 }, { "03 f5", -1, VEX38 },
	{ "03 f6", -1, VEX38 }, { "00 f7", -1, VEX38 }, { "01 f7", -1, VEX38 },
	{ "02 f7", -1, VEX38 }, { "03 f7", -1, VEX38 }, { "03 f0", -1, VEX3A | IMM8 },
};

static uint64_t
next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Values at which things change more often than chance has them. */
static uint64_t
random_value(uint64_t *seed)
{
	static const uint64_t edges[] = { 0, 1, 2, 0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff,
		0x7fffffff, 0x80000000, 0xffffffff, 0x7fffffffffffffff, 0x8000000000000000,
		0xffffffffffffffff, 31, 32, 33, 63, 64 };
	uint64_t v = next_random(seed);

	switch (next_random(seed) % 4) {
	case 0: return edges[v % ARRAY_SIZE(edges)];
	case 1: return v >> (v % 64);
	default: return v;
	}
}

/* Not RSP: it points to the stack. */
static int
random_register(uint64_t *seed)
{
	int reg;

	do
		reg = (int)(next_random(seed) % 16);
	while (reg == X86_RSP);
	return reg;
}

struct encoded {
	uint8_t bytes[16];
	size_t len;
	int base; /* register that must point to memory, -1: none */
	int bit_reg; /* register that is a bit offset, -1: none */
	int disp;
	bool xlat; /* RBX is an address */
	bool split; /* memory operands may cross a page */
};

static void
put(struct encoded *e, unsigned byte)
{
	e->bytes[e->len++] = (uint8_t)byte;
}

static void
encode(const struct template *t, uint64_t *seed, struct encoded *e)
{
	uint8_t op[6];
	size_t n = 0, first = 0;
	int reg = t->ext >= 0 ? t->ext : random_register(seed), rm = random_register(seed);
	bool mem = !(t->flags & (PLAIN | REG)) && ((t->flags & MEM) || next_random(seed) % 2);
	bool vex = t->flags & (VEX38 | VEX3A);
	bool w = !(t->flags & STACK) && (next_random(seed) % 3) == 0;
	bool size16 = !w && !vex && !(t->flags & (BYTE | NO66 | STACK)) &&
	    next_random(seed) % 3 == 0;
	unsigned rex;

	memset(e, 0, sizeof(*e));
	e->base = e->bit_reg = -1;
	e->xlat = strcmp(t->hex, "d7") == 0;
	/* The processor locks XCHG's bus, which hosts may make very slow across cache lines. */
	e->split = strcmp(t->hex, "86") != 0 && strcmp(t->hex, "87") != 0;
	e->disp = (int)(next_random(seed) % 64) - 32;
	/* The low three bits of RSP and R12 as a base mean a SIB byte, those of RBP a
	 * displacement. */
	if (mem && (rm & 7) == X86_RSP)
		rm = X86_RBX;
	for (const char *h = t->hex; *h != '\0'; h += *h == ' ')
		op[n++] = (uint8_t)strtoul(h, (char **)&h, 16);
	if (vex) {
		unsigned vvvv = (unsigned)random_register(seed);

		/* RORX must have no second source. */
		if (t->flags & VEX3A)
			vvvv = 0;
		put(e, 0xc4);
		put(e, (reg & 8 ? 0 : 0x80) | 0x40 | (rm & 8 ? 0 : 0x20) |
			(t->flags & VEX3A ? 3 : 2));
		put(e, (w ? 0x80u : 0) | (~vvvv & 15) << 3 | op[0]);
		put(e, op[1]);
	} else {
		if (size16)
			put(e, 0x66);
		if (op[0] == 0x66 || op[0] == 0xf2 || op[0] == 0xf3)
			put(e, op[first++]);
		rex = 0x40u | (w ? 8 : 0) | (reg & 8 ? 4 : 0) | (rm & 8 ? 1 : 0);
		/* Without REX byte registers 4 to 7 are AH to BH. */
		if (rex != 0x40 || next_random(seed) % 2)
			put(e, rex);
		if (t->flags & OPREG)
			op[n - 1] |= rm & 7;
		while (first < n)
			put(e, op[first++]);
	}
	if (!(t->flags & PLAIN)) {
		put(e, (mem ? 0x40u : 0xc0u) | (reg & 7u) << 3 | (rm & 7u));
		if (mem) {
			put(e, (unsigned)e->disp);
			e->base = rm;
			if (t->flags & BITOFF)
				e->bit_reg = reg;
		}
	}
	if (t->flags & IMM8) {
		put(e, (unsigned)random_value(seed));
	} else if (t->flags & IMMZ) {
		uint64_t imm = random_value(seed);

		for (int i = 0; i < (size16 ? 2 : 4); i++)
			put(e, (unsigned)(imm >> 8 * i));
	}
}

static void
fail_case(const struct encoded *e, const struct native *before, const struct native *here,
    const struct native *there)
{
	printf("bytes:");
	for (size_t i = 0; i < e->len; i++)
		printf(" %02x", e->bytes[i]);
	printf("\n      before            here              processor\n");
	for (int i = 0; i < 16; i++)
		printf("r%-4d %016" PRIx64 "  %016" PRIx64 "  %016" PRIx64 "%s\n", i, before->r[i],
		    here->r[i], there->r[i], here->r[i] != there->r[i] ? " *" : "");
	fail_msg("flags before %03" PRIx64 ", here %03" PRIx64 ", processor %03" PRIx64,
	    before->flags, here->flags, there->flags);
}

static void
run_case(struct bt_rig *rig, const struct encoded *e, uint64_t *seed)
{
	uint8_t *data = rig->mem + (e->split && next_random(seed) % 2 ? 4096 - DATA / 2 : 1024);
	uint8_t *stack = rig->mem + 4096 + 2048;
	uint8_t start[DATA], here_data[DATA], start_stack[64], here_stack[64];
	struct native before, here, there;
	struct bt_cpu *cpu = rig->cpu;
	int fault, sig;

	for (int i = 0; i < 16; i++)
		before.r[i] = random_value(seed);
	before.flags = (next_random(seed) & X86_FL_ARITH) | X86_FL_1 | X86_FL_IF;
	before.r[X86_RSP] = (uintptr_t)stack;
	if (e->bit_reg >= 0)
		before.r[e->bit_reg] = (uint64_t)((int64_t)(next_random(seed) % 512) - 256);
	if (e->base >= 0)
		before.r[e->base] = (uintptr_t)data + DATA / 2;
	if (e->xlat)
		before.r[X86_RBX] = (uintptr_t)data;
	/* A base that is the bit offset too is no address. */
	if (e->bit_reg >= 0 && e->bit_reg == e->base)
		return;
	for (int i = 0; i < DATA; i++)
		start[i] = (uint8_t)random_value(seed);
	/* CMPXCHG8B and CMPXCHG16B: aligned, and equal often. */
	if (e->base >= 0 && e->len >= 4 && e->bytes[e->len - 3] == 0xc7 &&
	    e->bytes[e->len - 4] == 0x0f) {
		before.r[e->base] = ((uintptr_t)data + DATA / 2) - (uint64_t)(int64_t)e->disp;
		if (next_random(seed) % 2) {
			memcpy(start + DATA / 2, &before.r[X86_RAX], 8);
			memcpy(start + DATA / 2 + 8, &before.r[X86_RDX], 8);
		}
	}
	memcpy(start_stack, stack - 32, sizeof(start_stack));

	memcpy(data, start, DATA);
	memcpy(cpu->r, before.r, sizeof(before.r));
	bt_flags_set_arith(cpu, (uint32_t)before.flags);
	cpu->eflags = X86_FL_IF;
	cpu->r[BT_REG_RIP] = 0x1000;
	fault = bt_rig_run(rig, e->bytes, e->len);
	memcpy(here.r, cpu->r, sizeof(here.r));
	here.flags = bt_eflags(cpu);
	memcpy(here_data, data, DATA);
	memcpy(here_stack, stack - 32, sizeof(here_stack));

	memcpy(data, start, DATA);
	memcpy(stack - 32, start_stack, sizeof(start_stack));
	there = before;
	sig = native_run(&there, e->bytes, e->len);
	if (sig != 0)
		there = before;
	there.flags &= X86_FL_ARITH | X86_FL_IF | X86_FL_1;
	if ((sig == SIGFPE) != (fault == X86_DE) || (sig == SIGILL) != (fault == X86_UD) ||
	    (sig != 0) != (fault != BT_RIG_FAULT_NONE)) {
		printf("signal %d, exception %d\n", sig, fault);
		fail_case(e, &before, &here, &there);
	}
	if (memcmp(&here, &there, sizeof(here)) != 0)
		fail_case(e, &before, &here, &there);
	if (memcmp(data, here_data, DATA) != 0 ||
	    memcmp(stack - 32, here_stack, sizeof(here_stack)) != 0) {
		printf("memory differs\n");
		fail_case(e, &before, &here, &there);
	}
}

static void
test_templates(void **state)
{
	struct bt_rig rig;
	uint64_t seed = 0x9e3779b97f4a7c15;

	native_open();
	bt_rig_create(&rig);
	for (size_t i = 0; i < ARRAY_SIZE(templates); i++) {
		for (int run = 0; run < RUNS; run++) {
			struct encoded e;

			encode(&templates[i], &seed, &e);
			run_case(&rig, &e, &seed);
		}
	}
	bt_rig_destroy(&rig);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_templates),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
