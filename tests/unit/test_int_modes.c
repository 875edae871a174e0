/*
 * Integer instructions where no processor can be asked in a 64-bit process: other modes, decimal
 * adjustment, frames, and string instructions with their faults and interruptions.
 */
#include "bt_rig.h"

#define RUN(rig, bytes) bt_rig_run(rig, (const uint8_t *)(bytes), sizeof(bytes) - 1)

struct state {
	struct bt_rig rig;
};

static int
setup(void **state)
{
	struct state *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return -1;
	bt_rig_create(&s->rig);
	*state = s;
	return 0;
}

static int
teardown(void **state)
{
	struct state *s = *state;

	bt_rig_destroy(&s->rig);
	free(s);
	return 0;
}

static void
set_flags(struct bt_cpu *cpu, uint32_t fl)
{
	bt_flags_set_arith(cpu, fl);
}

static uint8_t
bcd(int n)
{
	return (uint8_t)(n / 10 << 4 | n % 10);
}

/* --- Decimal adjustment: every pair of decimal numbers adds and subtracts to what it should --- */

static void
test_packed_decimal(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;

	bt_rig_mode(rig, 4);
	for (int a = 0; a < 100; a++) {
		for (int b = 0; b < 100; b++) {
			int diff = (a - b + 100) % 100;

			cpu->r[X86_RAX] = 0x5a5a5a00u | bcd(a);
			cpu->r[X86_RBX] = bcd(b);
			assert_int_equal(RUN(rig, "\x00\xd8"), BT_RIG_FAULT_NONE); /* add al, bl */
			assert_int_equal(RUN(rig, "\x27"), BT_RIG_FAULT_NONE); /* daa */
			assert_int_equal(cpu->r[X86_RAX], 0x5a5a5a00u | bcd((a + b) % 100));
			assert_int_equal((cpu->fl & BT_FL_CF) != 0, a + b > 99);
			assert_int_equal((cpu->fl & BT_FL_ZF) != 0, (a + b) % 100 == 0);
			assert_int_equal((cpu->fl & BT_FL_SF) != 0, bcd((a + b) % 100) >> 7);

			cpu->r[X86_RAX] = 0x5a5a5a00u | bcd(a);
			assert_int_equal(RUN(rig, "\x28\xd8"), BT_RIG_FAULT_NONE); /* sub al, bl */
			assert_int_equal(RUN(rig, "\x2f"), BT_RIG_FAULT_NONE); /* das */
			assert_int_equal(cpu->r[X86_RAX], 0x5a5a5a00u | bcd(diff));
			assert_int_equal((cpu->fl & BT_FL_CF) != 0, a < b);
		}
	}
}

static void
test_unpacked_decimal(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;

	bt_rig_mode(rig, 4);
	for (int a = 0; a < 10; a++) {
		for (int b = 0; b < 10; b++) {
			cpu->r[X86_RAX] = 0x1234000u | (unsigned)a;
			cpu->r[X86_RBX] = (unsigned)b;
			RUN(rig, "\x00\xd8");
			assert_int_equal(RUN(rig, "\x37"), BT_RIG_FAULT_NONE); /* aaa */
			assert_int_equal(cpu->r[X86_RAX],
			    0x1234000u | (unsigned)((a + b) / 10 << 8 | (a + b) % 10));
			assert_int_equal((cpu->fl & BT_FL_CF) != 0, a + b > 9);

			cpu->r[X86_RAX] = 0x1234500u | (unsigned)a;
			RUN(rig, "\x28\xd8");
			assert_int_equal(RUN(rig, "\x3f"), BT_RIG_FAULT_NONE); /* aas */
			assert_int_equal(cpu->r[X86_RAX],
			    (a < b ? 0x1234400u : 0x1234500u) | (unsigned)((a - b + 10) % 10));
			assert_int_equal((cpu->fl & BT_FL_CF) != 0, a < b);
		}
	}
	for (unsigned al = 0; al < 256; al++) {
		cpu->r[X86_RAX] = 0xabcd0000u | al;
		assert_int_equal(RUN(rig, "\xd4\x0a"), BT_RIG_FAULT_NONE); /* aam */
		assert_int_equal(cpu->r[X86_RAX], 0xabcd0000u | al / 10 << 8 | al % 10);
		assert_int_equal(RUN(rig, "\xd5\x0a"), BT_RIG_FAULT_NONE); /* aad */
		assert_int_equal(cpu->r[X86_RAX], 0xabcd0000u | al);
	}
	cpu->r[X86_RAX] = 0x77;
	assert_int_equal(RUN(rig, "\xd4\x00"), X86_DE);
	assert_int_equal(cpu->r[X86_RAX], 0x77);
	set_flags(cpu, X86_FL_CF);
	assert_int_equal(RUN(rig, "\xd6"), BT_RIG_FAULT_NONE); /* salc */
	assert_int_equal(cpu->r[X86_RAX], 0xff);
}

/* --- Stack frames --- */

static void
test_pusha(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;
	uint32_t *sp = (uint32_t *)(rig->mem + 4096 + 8);

	bt_rig_mode(rig, 4);
	for (uint32_t i = 0; i < 8; i++)
		cpu->r[i] = 0x11111111 * (i + 1);
	cpu->r[X86_RSP] = (uintptr_t)sp; /* the eight slots cross a page */
	assert_int_equal(RUN(rig, "\x60"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[X86_RSP], (uintptr_t)sp - 32);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(sp[-1 - (int)i],
		    i == X86_RSP ? (uintptr_t)sp : 0x11111111 * (i + 1));
	for (int i = 0; i < 8; i++)
		if (i != X86_RSP)
			cpu->r[i] = 0;
	assert_int_equal(RUN(rig, "\x61"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[X86_RSP], (uintptr_t)sp);
	for (uint32_t i = 0; i < 8; i++)
		assert_int_equal(cpu->r[i], i == X86_RSP ? (uintptr_t)sp : 0x11111111 * (i + 1));

	/* The lower page is gone: nothing is pushed at all. */
	bt_rig_page(rig, 0, false);
	sp[-1] = 0xdead;
	assert_int_equal(RUN(rig, "\x60"), X86_PF);
	assert_int_equal(cpu->r[X86_RSP], (uintptr_t)sp);
	assert_int_equal(sp[-1], 0xdead);
}

/* SDM 2, ENTER: the pseudocode, on an array. */
static void
test_enter(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;
	uint64_t *top = (uint64_t *)(rig->mem + 3000);
	uint64_t *outer = top + 100; /* the enclosing frame's display */

	for (unsigned level = 0; level < 4; level++) {
		uint8_t enter[] = { 0xc8, 0x20, 0x00, (uint8_t)(level + 32 * (level & 1)) };
		uint64_t frame = (uintptr_t)(top - 1);

		for (int i = -8; i < 0; i++)
			outer[i] = 0x1000 + (uint64_t)i;
		cpu->r[X86_RSP] = (uintptr_t)top;
		cpu->r[X86_RBP] = (uintptr_t)outer;
		assert_int_equal(bt_rig_run(rig, enter, 4), BT_RIG_FAULT_NONE);
		assert_int_equal(top[-1], (uintptr_t)outer);
		for (unsigned i = 1; i < level; i++)
			assert_int_equal(top[-1 - (int)i], outer[-(int)i]);
		if (level > 0)
			assert_int_equal(top[-1 - (int)level], frame);
		assert_int_equal(cpu->r[X86_RBP], frame);
		assert_int_equal(cpu->r[X86_RSP], (uintptr_t)top - 8 - 8 * level - 0x20);
		assert_int_equal(RUN(rig, "\xc9"), BT_RIG_FAULT_NONE);
		assert_int_equal(cpu->r[X86_RSP], (uintptr_t)top);
		assert_int_equal(cpu->r[X86_RBP], (uintptr_t)outer);
	}
}

/* A 16-bit stack wraps and leaves the upper half of ESP alone. */
static void
test_stack16(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;

	bt_rig_mode(rig, 2);
	cpu->sbase[X86_SS] = BT_RIG_BASE - 0xf000;
	cpu->r[X86_RSP] = 0xabcd0000;
	cpu->r[X86_RAX] = 0x1234;
	assert_int_equal(RUN(rig, "\x50"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[X86_RSP], 0xabcdfffe);
	assert_memory_equal(rig->mem + 0xffe, "\x34\x12", 2);
	assert_int_equal(RUN(rig, "\x5b"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[X86_RSP], 0xabcd0000);
	assert_int_equal(cpu->r[X86_RBX] & 0xffff, 0x1234);
}

/* --- Branches --- */

static void
test_loop(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;

	cpu->r[BT_REG_RIP] = 0x1000;
	cpu->r[X86_RCX] = 0x100000001;
	assert_int_equal(RUN(rig, "\xe2\x10"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[BT_REG_RIP], 0x1012);
	assert_int_equal(cpu->r[X86_RCX], 0x100000000);
	/* With a 32-bit address ECX counts, and the upper half is cleared. */
	cpu->r[X86_RCX] = 0x100000001;
	assert_int_equal(RUN(rig, "\x67\xe2\x10"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[BT_REG_RIP], 0x1015);
	assert_int_equal(cpu->r[X86_RCX], 0);
	set_flags(cpu, X86_FL_ZF);
	cpu->r[X86_RCX] = 2;
	assert_int_equal(RUN(rig, "\xe0\x10"), BT_RIG_FAULT_NONE); /* loopne */
	assert_int_equal(cpu->r[BT_REG_RIP], 0x1017);
	assert_int_equal(RUN(rig, "\xe1\x10"), BT_RIG_FAULT_NONE); /* loope, to 0 */
	assert_int_equal(cpu->r[BT_REG_RIP], 0x1019);
	assert_int_equal(RUN(rig, "\xe3\x10"), BT_RIG_FAULT_NONE); /* jrcxz */
	assert_int_equal(cpu->r[BT_REG_RIP], 0x102b);

	/* 16-bit code: CX, IP wraps. */
	bt_rig_mode(rig, 2);
	cpu->r[BT_REG_RIP] = 0xfff0;
	cpu->r[X86_RCX] = 0x10000;
	assert_int_equal(RUN(rig, "\xe2\x40"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[X86_RCX], 0x1ffff);
	assert_int_equal(cpu->r[BT_REG_RIP], 0x32);
}

static void
test_branch_targets(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;
	uint64_t sp = (uintptr_t)rig->mem + 512;

	cpu->r[X86_RSP] = sp;
	cpu->r[X86_RAX] = 0x800000000000;
	cpu->r[BT_REG_RIP] = 0x1000;
	assert_int_equal(RUN(rig, "\xff\xe0"), X86_GP); /* jmp rax */
	assert_int_equal(RUN(rig, "\xff\xd0"), X86_GP); /* call rax */
	assert_int_equal(cpu->r[X86_RSP], sp);
	memcpy(rig->mem + 512, &cpu->r[X86_RAX], 8);
	assert_int_equal(RUN(rig, "\xc3"), X86_GP);
	assert_int_equal(cpu->r[X86_RSP], sp);
	cpu->r[BT_REG_RIP] = 0x7ffffffffff0;
	assert_int_equal(RUN(rig, "\xeb\x7f"), X86_GP);
	assert_int_equal(RUN(rig, "\xe8\x7f\x00\x00\x00"), X86_GP);
	assert_int_equal(cpu->r[X86_RSP], sp);
	/* An operand-size prefix makes near branches 16 bits wide (APM 3, 1.2.2). */
	cpu->r[BT_REG_RIP] = 0x123456;
	assert_int_equal(RUN(rig, "\x66\xe9\x10\x00"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[BT_REG_RIP], 0x346a);
	/* Outside 64-bit mode the limit of CS counts. */
	bt_rig_mode(rig, 4);
	cpu->seg[X86_CS].limit = 0x1fff;
	cpu->r[BT_REG_RIP] = 0x1000;
	assert_int_equal(RUN(rig, "\xe9\xfa\x0f\x00\x00"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[BT_REG_RIP], 0x1fff);
	cpu->r[BT_REG_RIP] = 0x1000;
	assert_int_equal(RUN(rig, "\xe9\xfb\x0f\x00\x00"), X86_GP);
	cpu->r[X86_RCX] = 2;
	assert_int_equal(RUN(rig, "\xe2\x80"), BT_RIG_FAULT_NONE);
	cpu->r[BT_REG_RIP] = 0x10;
	cpu->r[X86_RCX] = 2;
	assert_int_equal(RUN(rig, "\xe2\x80"), X86_GP);
	assert_int_equal(cpu->r[X86_RCX], 2);
}

static void
test_bound(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;
	static const int32_t bounds[2] = { -5, 10 };

	bt_rig_mode(rig, 4);
	memcpy(rig->mem, bounds, sizeof(bounds));
	cpu->r[X86_RBX] = (uintptr_t)rig->mem;
	for (int32_t i = -7; i < 13; i++) {
		cpu->r[X86_RAX] = (uint32_t)i;
		assert_int_equal(RUN(rig, "\x62\x03"),
		    i < -5 || i > 10 ? X86_BR : BT_RIG_FAULT_NONE);
	}
}

/* --- What a mode or an alignment forbids --- */

static void
test_vex_modes(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;
	int in_protected_mode;

	bt_rig_mode(rig, 2);
	in_protected_mode = RUN(rig, "\xc4\xe2\x70\xf2\xc2"); /* andn eax, ecx, edx */
	if (!__builtin_cpu_supports("bmi"))
		assert_int_equal(in_protected_mode, X86_UD);
	else
		assert_int_equal(in_protected_mode, BT_RIG_FAULT_NONE);
	cpu->vm86 = 1;
	assert_int_equal(RUN(rig, "\xc4\xe2\x70\xf2\xc2"), X86_UD);
	cpu->vm86 = cpu->pe = 0;
	assert_int_equal(RUN(rig, "\xc4\xe2\x70\xf2\xc2"), X86_UD);
}

static void
test_cmpxchg16b_alignment(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;

	cpu->r[X86_RSI] = (uintptr_t)rig->mem + 8;
	assert_int_equal(RUN(rig, "\xf0\x48\x0f\xc7\x0e"), X86_GP);
	cpu->r[X86_RSI] = (uintptr_t)rig->mem + 16;
	cpu->r[X86_RBX] = 0x1111;
	cpu->r[X86_RCX] = 0x2222;
	assert_int_equal(RUN(rig, "\xf0\x48\x0f\xc7\x0e"), BT_RIG_FAULT_NONE);
	assert_memory_equal(rig->mem + 16, "\x11\x11\0\0\0\0\0\0\x22\x22\0\0\0\0\0\0", 16);
}

/* Locked or not, across a page or not, a store that faults changes nothing. */
static void
test_locked(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;
	uint32_t v = 0xfffffff0;

	cpu->r[X86_RSI] = (uintptr_t)rig->mem + 4094;
	cpu->r[X86_RAX] = 0x20;
	memcpy(rig->mem + 4094, &v, 4);
	assert_int_equal(RUN(rig, "\xf0\x01\x06"), BT_RIG_FAULT_NONE); /* lock add [rsi], eax */
	memcpy(&v, rig->mem + 4094, 4);
	assert_int_equal(v, 0x10);
	assert_true(cpu->fl & BT_FL_CF);
	bt_rig_page(rig, 1, false);
	set_flags(cpu, 0);
	assert_int_equal(RUN(rig, "\xf0\x01\x06"), X86_PF);
	assert_int_equal(cpu->cr2, BT_RIG_BASE + 4096);
	assert_int_equal(RUN(rig, "\x87\x06"), X86_PF); /* xchg [rsi], eax */
	assert_int_equal(cpu->r[X86_RAX], 0x20);
	assert_int_equal(cpu->fl, 0);
	memcpy(&v, rig->mem + 4094, 2);
	assert_int_equal(v, 0x10);
}

/* --- Strings --- */

struct string_case {
	uint8_t insn[4];
	size_t len;
	int size;
	bool down;
};

/* The definition, an element at a time (SDM 2, MOVS): with overlap, either direction. */
static void
test_rep_movs(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;
	static const struct string_case cases[] = {
		{ { 0xf3, 0xa4 }, 2, 1, false }, { { 0xf3, 0x66, 0xa5 }, 3, 2, false },
		{ { 0xf3, 0xa5 }, 2, 4, false }, { { 0xf3, 0x48, 0xa5 }, 3, 8, false },
		{ { 0xf3, 0xa4 }, 2, 1, true }, { { 0xf3, 0x48, 0xa5 }, 3, 8, true },
	};
	static const int distances[] = { 1, 3, 8, 64, -1, -8, -64, 5000, -5000, 4097 };
	static uint8_t expect[BT_RIG_PAGES * 4096];

	for (size_t c = 0; c < ARRAY_SIZE(cases) * ARRAY_SIZE(distances); c++) {
		const struct string_case *k = &cases[c % ARRAY_SIZE(cases)];
		int distance = distances[c / ARRAY_SIZE(cases)];
		int step = k->down ? -k->size : k->size;
		uint64_t count = 3000u / (unsigned)k->size;
		uint64_t src = distance < 0 ? 8000 : 2000, dst = src + (uint64_t)(int64_t)distance;

		if (k->down) {
			src += 3000;
			dst += 3000;
		}
		for (size_t i = 0; i < sizeof(expect); i++)
			expect[i] = rig->mem[i] = (uint8_t)(i * 7 + i / 256);
		cpu->r[X86_RSI] = BT_RIG_BASE + src;
		cpu->r[X86_RDI] = BT_RIG_BASE + dst;
		cpu->r[X86_RCX] = count;
		cpu->eflags = k->down ? X86_FL_DF : 0;
		for (uint64_t i = 0; i < count; i++) {
			uint8_t element[8];

			memcpy(element, expect + src, (size_t)k->size);
			memcpy(expect + dst, element, (size_t)k->size);
			src += (uint64_t)(int64_t)step;
			dst += (uint64_t)(int64_t)step;
		}
		assert_int_equal(bt_rig_run(rig, k->insn, k->len), BT_RIG_FAULT_NONE);
		assert_memory_equal(rig->mem, expect, sizeof(expect));
		assert_int_equal(cpu->r[X86_RSI], BT_RIG_BASE + src);
		assert_int_equal(cpu->r[X86_RDI], BT_RIG_BASE + dst);
		assert_int_equal(cpu->r[X86_RCX], 0);
	}
	cpu->eflags = 0;
}

static void
test_string_fault(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;

	bt_rig_page(rig, 2, false);
	memset(rig->mem, 0, 8192);
	cpu->r[X86_RDI] = BT_RIG_BASE + 8192 - 100;
	cpu->r[X86_RCX] = 1000;
	cpu->r[X86_RAX] = 0x5555555555555555;
	cpu->r[BT_REG_RIP] = 0x1000;
	assert_int_equal(RUN(rig, "\xf3\xaa"), X86_PF); /* rep stosb */
	assert_int_equal(cpu->cr2, BT_RIG_BASE + 8192);
	assert_int_equal(cpu->r[X86_RDI], BT_RIG_BASE + 8192);
	assert_int_equal(cpu->r[X86_RCX], 900);
	assert_int_equal(cpu->r[BT_REG_RIP], 0x1000);
	assert_int_equal(rig->mem[8191], 0x55);
	/* And goes on where it stopped. */
	bt_rig_page(rig, 2, true);
	assert_int_equal(RUN(rig, "\xf3\xaa"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[X86_RDI], BT_RIG_BASE + 8192 + 900);
	assert_int_equal(cpu->r[BT_REG_RIP], 0x1002);

	/* An element across the border is not half written. */
	bt_rig_page(rig, 2, false);
	rig->mem[8191] = 0x11;
	cpu->r[X86_RDI] = BT_RIG_BASE + 8192 - 17;
	cpu->r[X86_RCX] = 5;
	assert_int_equal(RUN(rig, "\xf3\x48\xab"), X86_PF); /* rep stosq */
	assert_int_equal(cpu->r[X86_RDI], BT_RIG_BASE + 8192 - 1);
	assert_int_equal(cpu->r[X86_RCX], 3);
	assert_int_equal(rig->mem[8191], 0x11);

	/* The source faults before the destination is touched. */
	cpu->r[X86_RSI] = BT_RIG_BASE + 8192;
	cpu->r[X86_RDI] = BT_RIG_BASE;
	assert_int_equal(RUN(rig, "\xf3\xa4"), X86_PF);
	assert_int_equal(cpu->cr2, BT_RIG_BASE + 8192);
	assert_int_equal(cpu->r[X86_RCX], 3);
}

static void
test_string_compare(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;

	/* Two strings, equal up to an element, across a page. */
	for (uint64_t equal = 0; equal < 300; equal += 7) {
		uint8_t *a = rig->mem + 4000, *b = rig->mem + 9000;

		memset(a, 'x', 300);
		memset(b, 'x', 300);
		b[equal] = 'y';
		cpu->r[X86_RSI] = (uintptr_t)a;
		cpu->r[X86_RDI] = (uintptr_t)b;
		cpu->r[X86_RCX] = 300;
		assert_int_equal(RUN(rig, "\xf3\xa6"), BT_RIG_FAULT_NONE); /* repe cmpsb */
		assert_int_equal(cpu->r[X86_RCX], 299 - equal);
		assert_int_equal(cpu->r[X86_RSI], (uintptr_t)a + equal + 1);
		assert_true((cpu->fl & (BT_FL_CF | BT_FL_ZF)) == BT_FL_CF);
		cpu->r[X86_RAX] = 'y';
		cpu->r[X86_RDI] = (uintptr_t)b;
		cpu->r[X86_RCX] = 300;
		assert_int_equal(RUN(rig, "\xf2\xae"), BT_RIG_FAULT_NONE); /* repne scasb */
		assert_int_equal(cpu->r[X86_RCX], 299 - equal);
		assert_int_equal(cpu->r[X86_RDI], (uintptr_t)b + equal + 1);
		assert_true(cpu->fl & BT_FL_ZF);
	}
	/* A count of 0 changes nothing, flags neither. */
	set_flags(cpu, X86_FL_OF | X86_FL_SF);
	cpu->r[X86_RCX] = 0;
	cpu->r[X86_RDI] = 1;
	assert_int_equal(RUN(rig, "\xf2\xae"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[X86_RDI], 1);
	assert_int_equal(bt_flags_arith(cpu), X86_FL_OF | X86_FL_SF);
	/* The counter of a 32-bit address is ECX. */
	cpu->r[X86_RCX] = 0x100000000;
	assert_int_equal(RUN(rig, "\x67\xf3\xaa"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[X86_RDI], 1);
}

/* Attention stops a repeated instruction between elements, never before the first, and RIP stays on
 * it. */
static void
test_string_attention(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;
	int runs = 0;

	memset(rig->mem, 1, 16);
	cpu->r[X86_RDI] = BT_RIG_BASE;
	cpu->r[X86_RCX] = 10;
	cpu->r[X86_RAX] = 0;
	cpu->r[BT_REG_RIP] = 0x1000;
	atomic_store(&cpu->attn, BT_ATTN_STEP);
	while (cpu->r[BT_REG_RIP] == 0x1000) {
		assert_int_equal(cpu->r[X86_RCX], 10 - runs);
		assert_int_equal(RUN(rig, "\xf3\xaa"), BT_RIG_FAULT_NONE);
		runs++;
	}
	assert_int_equal(runs, 10);
	assert_int_equal(cpu->r[BT_REG_RIP], 0x1002);
	assert_int_equal(cpu->r[X86_RDI], BT_RIG_BASE + 10);
	assert_int_equal(rig->mem[9], 0);
	assert_int_equal(rig->mem[10], 1);

	/* With an interrupt pending it is a page at most. */
	atomic_store(&cpu->attn, BT_ATTN_IRQ);
	cpu->r[X86_RDI] = BT_RIG_BASE;
	cpu->r[X86_RCX] = 3 * 4096;
	cpu->r[BT_REG_RIP] = 0x1000;
	assert_int_equal(RUN(rig, "\xf3\xaa"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[BT_REG_RIP], 0x1000);
	assert_in_range(cpu->r[X86_RCX], 2 * 4096, 3 * 4096 - 1);
	assert_int_equal(cpu->r[X86_RDI], BT_RIG_BASE + 3 * 4096 - cpu->r[X86_RCX]);
	atomic_store(&cpu->attn, 0);
}

/* Registers of a 16-bit string wrap by themselves. */
static void
test_string16(void **state)
{
	struct bt_rig *rig = &((struct state *)*state)->rig;
	struct bt_cpu *cpu = rig->cpu;

	bt_rig_mode(rig, 2);
	cpu->sbase[X86_ES] = BT_RIG_BASE - 0xf000;
	memset(rig->mem, 0, 8192);
	cpu->r[X86_RDI] = 0x7777ffff;
	cpu->r[X86_RCX] = 0x88880001;
	cpu->r[X86_RAX] = 0x42;
	assert_int_equal(RUN(rig, "\xf3\xaa"), BT_RIG_FAULT_NONE);
	assert_int_equal(rig->mem[0xfff], 0x42);
	assert_int_equal(cpu->r[X86_RDI], 0x77770000);
	assert_int_equal(cpu->r[X86_RCX], 0x88880000);
	/* LODS takes the source segment's override, STOS never. */
	cpu->sbase[X86_FS] = BT_RIG_BASE;
	cpu->r[X86_RSI] = 0xfff;
	assert_int_equal(RUN(rig, "\x64\xac"), BT_RIG_FAULT_NONE);
	assert_int_equal(cpu->r[X86_RAX] & 0xff, 0x42);
	cpu->r[X86_RDI] = 0xf000;
	assert_int_equal(RUN(rig, "\x64\xaa"), BT_RIG_FAULT_NONE);
	assert_int_equal(rig->mem[0], 0x42);
}

int
main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_packed_decimal),
		TEST(test_unpacked_decimal),
		TEST(test_pusha),
		TEST(test_enter),
		TEST(test_stack16),
		TEST(test_loop),
		TEST(test_branch_targets),
		TEST(test_bound),
		TEST(test_vex_modes),
		TEST(test_cmpxchg16b_alignment),
		TEST(test_locked),
		TEST(test_rep_movs),
		TEST(test_string_fault),
		TEST(test_string_compare),
		TEST(test_string_attention),
		TEST(test_string16),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
