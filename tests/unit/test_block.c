/*
 * The cache of decoded blocks: where blocks end, what they are found by, and what forgets them.
 */
#include "bt_guest.h"

#include "engine/bt/block.h"
#include "engine/bt/mmu.h"
#include "engine/bt/phys.h"

#define RAISES(cpu, expr) (setjmp((cpu)->on_fault) == 0 ? ((void)(expr), false) : true)

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

static struct bt_block *
find_at(struct bt_cpu *cpu, uint64_t rip)
{
	cpu->r[BT_REG_RIP] = rip;
	return bt_block_find(cpu);
}

static bool
jump_knows(struct bt_cpu *cpu, uint64_t la)
{
	return bt_jump_find(cpu->blocks, la, cpu->block_key) != NULL;
}

GUEST_ASM(branchy, 64, "nop\n nop\n jmp 1f\n 1: nop\n ret");

static void
test_extent(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;
	struct bt_block *b;

	guest_boot(g, 8, 0, branchy, branchy_end);
	b = find_at(cpu, GUEST_CODE);
	assert_int_equal(b->count, 3); /* to the branch */
	assert_int_equal(b->bytes, 4);
	assert_ptr_equal(b->last, &bt_block_ops(b)[2]);
	assert_true(jump_knows(cpu, GUEST_CODE));
	assert_ptr_equal(find_at(cpu, GUEST_CODE), b);
	/* Not more than so many. */
	memset(g->ram + 0x20000, 0x90, 0x1000);
	b = find_at(cpu, 0x20000);
	assert_int_equal(b->count, BT_BLOCK_OPS);
	assert_int_equal(bt_block_ops(b)[BT_BLOCK_OPS].len, 0);
	/* Not across a page. */
	b = find_at(cpu, 0x20ff0);
	assert_int_equal(b->count, 16);
	assert_int_equal(b->bytes, 16);
	/* An instruction that crosses is on its own and not kept. */
	g->ram[0x20fff] = 0xb8; /* MOV EAX, imm32 */
	bt_engine.mem_written(g->vm, 0x20fff, 1);
	bt_mail_read(cpu);
	b = find_at(cpu, 0x20fff);
	assert_int_equal(b->count, 1);
	assert_int_equal(bt_block_ops(b)->len, 5);
	assert_false(jump_knows(cpu, 0x20fff));
}

/* One block for all linear addresses of the code, but not for another mode. */
static void
test_key(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;
	struct bt_block *b, *b4;

	guest_boot(g, 8, 0, branchy, branchy_end);
	guest_put64(g, GUEST_PTE(GUEST_PAGES), GUEST_CODE | 7);
	b = find_at(cpu, GUEST_CODE);
	assert_ptr_equal(find_at(cpu, GUEST_PAGES), b);
	cpu->cpl = 3;
	bt_mode_update(cpu);
	assert_false(jump_knows(cpu, GUEST_CODE));
	assert_ptr_equal(find_at(cpu, GUEST_CODE), b);
	guest_mode(g, 4, 0, 0);
	b4 = find_at(cpu, GUEST_CODE);
	assert_ptr_not_equal(b4, b);
	assert_ptr_equal(find_at(cpu, GUEST_CODE), b4);
}

static void
test_invalidate(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;
	struct bt_block *a, *b;

	guest_boot(g, 8, 0, branchy, branchy_end);
	memset(g->ram + 0x20000, 0x90, 0x1000);
	g->ram[0x20010] = 0xc3;
	a = find_at(cpu, 0x20000);
	b = find_at(cpu, 0x20080);
	/* Beside it, in front of it, in it. */
	bt_block_invalidate(cpu, 0x20011, 0x6f);
	assert_ptr_equal(find_at(cpu, 0x20000), a);
	assert_ptr_equal(find_at(cpu, 0x20080), b);
	bt_block_invalidate(cpu, 0x2009f, 1);
	assert_ptr_equal(find_at(cpu, 0x20000), a);
	assert_ptr_not_equal(find_at(cpu, 0x20080), b);
	/* A block that began before the range. */
	bt_block_invalidate(cpu, 0x20010, 1);
	assert_ptr_not_equal(find_at(cpu, 0x20000), a);
	/* Everything. */
	a = find_at(cpu, 0x20000);
	assert_true(jump_knows(cpu, 0x20000));
	bt_block_flush(cpu);
	assert_false(jump_knows(cpu, 0x20000));
}

static void
test_forget(void **state)
{
	const uint64_t la = 0x40000000;
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;
	struct bt_block *b;

	guest_boot(g, 8, 0, branchy, branchy_end);
	guest_load(g, GUEST_PAGES, branchy, branchy_end);
	/* A GiB without large pages, in which INVLPG is about one page only. */
	guest_put64(g, GUEST_PML4 + 0x1008, 0x110007);
	guest_put64(g, 0x110000, 0x111007);
	guest_put64(g, 0x111000, GUEST_PAGES | 7);
	find_at(cpu, GUEST_CODE);
	find_at(cpu, la);
	bt_tlb_flush_page(cpu, la + 0x1000);
	assert_true(jump_knows(cpu, la));
	bt_tlb_flush_page(cpu, la);
	assert_false(jump_knows(cpu, la));
	assert_true(jump_knows(cpu, GUEST_CODE));
	/* In a large page. */
	bt_tlb_flush_page(cpu, GUEST_CODE + 0x100000);
	assert_false(jump_knows(cpu, GUEST_CODE));
	/* Links end with any of these. */
	b = find_at(cpu, GUEST_CODE);
	bt_block_link(cpu->blocks, b, b, la);
	assert_ptr_equal(bt_block_next(cpu->blocks, b, la), b);
	bt_tlb_flush_page(cpu, la + 0x1000);
	assert_null(bt_block_next(cpu->blocks, b, la));
	/* A CR3 load. */
	find_at(cpu, la);
	bt_tlb_switch(cpu, true);
	assert_false(jump_knows(cpu, la));
}

/* Code that runs into its segment's limit. */
static void
test_limit(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;
	struct bt_block *b;

	guest_boot(g, 4, 0, branchy, branchy_end);
	memset(g->ram + 0x20000, 0x90, 0x1000);
	g->ram[0x20101] = 0xb8; /* MOV EAX, imm32 */
	bt_engine.mem_written(g->vm, 0x20000, 0x1000);
	cpu->seg[X86_CS].base = 0x20000;
	cpu->seg[X86_CS].limit = 0x102;
	bt_mode_update(cpu);
	b = find_at(cpu, 0xf0);
	assert_int_equal(b->count, 1); /* the whole block does not fit */
	b = find_at(cpu, 0x10);
	assert_int_equal(b->count, BT_BLOCK_OPS);
	assert_false(jump_knows(cpu, 0x20010));
	/* An instruction that starts inside and ends outside; one that starts outside. */
	assert_true(RAISES(cpu, find_at(cpu, 0x101)));
	assert_int_equal(cpu->fault.vector, X86_GP);
	assert_int_equal(cpu->fault.error, 0);
	assert_true(RAISES(cpu, find_at(cpu, 0x103)));
	assert_int_equal(cpu->fault.vector, X86_GP);
}

/* Executing where there is no memory reads from the machine; the bus gives all ones: #UD. */
static void
test_no_memory(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;
	struct bt_block *b;

	guest_boot(g, 4, 0, branchy, branchy_end);
	g->read_val = UINT64_MAX;
	b = find_at(cpu, GUEST_MMIO);
	assert_int_equal(b->count, 1);
	assert_true(g->logged >= 1);
	assert_int_equal(g->log[0].what, 'r');
	assert_true(RAISES(cpu, bt_block_ops(b)->fn(cpu, bt_block_ops(b))));
	assert_int_equal(cpu->fault.vector, X86_UD);
}

/* Pages in which code was decoded are known as such. */
static void
test_marks(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;
	const struct bt_region *r = bt_mem_find(cpu->vm->mem, 0);

	guest_boot(g, 8, 0, branchy, branchy_end);
	assert_int_equal(*bt_mem_code(r, GUEST_CODE), 0);
	find_at(cpu, GUEST_CODE);
	assert_int_equal(*bt_mem_code(r, GUEST_CODE), 1);
	assert_int_equal(bt_mem_granules(0x1000, 1), 1);
	assert_int_equal(bt_mem_granules(0x103f, 2), 3);
	assert_true(bt_mem_granules(0x1000, 0x1000) == UINT64_MAX);
	assert_true(bt_mem_granules(0x1fff, 1) == 1ull << 63);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_extent),
		TEST(test_key),
		TEST(test_invalidate),
		TEST(test_forget),
		TEST(test_limit),
		TEST(test_no_memory),
		TEST(test_marks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
