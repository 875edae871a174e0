/*
 * The software CPU's memory management: every paging form, rights against a model of the manual's
 * table, accessed and dirty bits, flushes, and accesses off the fast path.
 */
#include "bt_guest.h"

#include "engine/bt/block.h"
#include "engine/bt/mmu.h"
#include "engine/bt/phys.h"

#include <stdio.h>

/* Where the tables and pages of the tests are. */
#define PML5 0x100000u
#define PML4 0x101000u
#define PDPT 0x102000u
#define PD 0x103000u
#define PT 0x104000u
#define PAGE 0x200000u /* what PAGE_LA maps to */
#define PAGE_LA 0x400000u /* PD entry 2, PT entry 0 */
#define PAGE2 0x300000u /* what the page after maps to */

#define TABLE (X86_PTE_P | X86_PTE_W | X86_PTE_U)

/* Evaluates expr; true when it raised an exception, which is then in cpu->fault. */
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

static void
expect_fault(struct bt_cpu *cpu, int vector, int error)
{
	assert_int_equal(cpu->fault.vector, vector);
	assert_int_equal(cpu->fault.has_error, error >= 0);
	if (error >= 0)
		assert_int_equal(cpu->fault.error, error);
}

/* 4-level tables: PAGE_LA and the page after it through every level. */
static void
map_4level(struct guest *g)
{
	guest_put64(g, PML5, PML4 | TABLE);
	guest_put64(g, PML4, PDPT | TABLE);
	guest_put64(g, PDPT, PD | TABLE);
	guest_put64(g, PD + 8 * (PAGE_LA >> 21), PT | TABLE);
	guest_put64(g, PT, PAGE | TABLE);
	guest_put64(g, PT + 8, PAGE2 | TABLE);
}

static struct bt_cpu *
long_mode(struct guest *g, int cpl)
{
	map_4level(g);
	guest_mode(g, 8, cpl, PML4);
	return g->cpu;
}

/* --- Without paging --- */

static void
test_flat(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;

	guest_mode(g, 4, 0, 0);
	bt_store(cpu, X86_DS, 0x5000, 4, 0x12345678);
	assert_int_equal(guest_get32(g, 0x5000), 0x12345678);
	assert_int_equal(bt_load(cpu, X86_DS, 0x5001, 2), 0x3456);
	/* The second time from the TLB. */
	bt_store(cpu, X86_DS, 0x5000, 1, 0xaa);
	assert_int_equal(bt_load(cpu, X86_DS, 0x5000, 8), 0x123456aa);
	/* Across a page. */
	bt_store(cpu, X86_DS, 0x5ffd, 8, 0x1122334455667788);
	assert_true(bt_load(cpu, X86_DS, 0x5ffd, 8) == 0x1122334455667788);
	assert_int_equal(g->logged, 0);
}

static void
test_mmio(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;

	guest_mode(g, 4, 0, 0);
	g->read_val = 0xa1a2a3a4a5a6a7a8;
	assert_int_equal(bt_load(cpu, X86_DS, GUEST_MMIO + 4, 4), 0xa5a6a7a8);
	bt_store(cpu, X86_DS, GUEST_MMIO + 8, 2, 0xbeef);
	assert_int_equal(g->logged, 2);
	assert_int_equal(g->log[0].what, 'r');
	assert_int_equal(g->log[0].addr, GUEST_MMIO + 4);
	assert_int_equal(g->log[0].size, 4);
	assert_int_equal(g->log[1].what, 'w');
	assert_int_equal(g->log[1].val, 0xbeef);
	/* From the last RAM page into nothing: two pieces. */
	guest_put32(g, GUEST_RAM - 4, 0xccddeeff);
	g->logged = 0;
	assert_true(bt_load(cpu, X86_DS, GUEST_RAM - 2, 4) == 0xa7a8ccdd);
	assert_int_equal(g->logged, 1);
	assert_int_equal(g->log[0].addr, GUEST_RAM);
	assert_int_equal(g->log[0].size, 2);
	bt_store(cpu, X86_DS, GUEST_RAM - 2, 4, 0x44332211);
	assert_int_equal(guest_get32(g, GUEST_RAM - 4), 0x2211eeff);
	assert_int_equal(g->log[1].what, 'w');
	assert_int_equal(g->log[1].val, 0x4433);
}

static void
test_rom(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;

	guest_mode(g, 4, 0, 0);
	g->rom[0x10] = 0x77;
	assert_int_equal(bt_load(cpu, X86_DS, GUEST_ROM + 0x10, 1), 0x77);
	assert_int_equal(g->logged, 0);
	bt_store(cpu, X86_DS, GUEST_ROM + 0x10, 1, 0x88);
	assert_int_equal(g->rom[0x10], 0x77);
	assert_int_equal(g->logged, 1);
	assert_int_equal(g->log[0].what, 'w');
	assert_int_equal(g->log[0].addr, GUEST_ROM + 0x10);
}

/* --- Rights --- */

struct rights {
	bool p, w, u, nx, rsvd; /* the leaf entry */
	bool user, wp, smep, smap, ac;
	int access; /* BT_READ, BT_WRITE_ONLY, BT_EXEC */
};

/* SDM 3, 4.6.1 and 4.7, written down again: -1, or the error code. */
static int
model(const struct rights *r)
{
	int error = 0;
	bool ok;

	if (r->access == BT_WRITE_ONLY)
		error |= X86_PF_W;
	if (r->user)
		error |= X86_PF_U;
	if (r->access == BT_EXEC)
		error |= X86_PF_I; /* NXE is set throughout */
	if (!r->p)
		return error;
	error |= X86_PF_P;
	if (r->rsvd)
		return error | X86_PF_RSVD;
	if (r->user) {
		ok = r->u;
		if (r->access == BT_WRITE_ONLY)
			ok = ok && r->w;
		if (r->access == BT_EXEC)
			ok = ok && !r->nx;
	} else if (r->access == BT_EXEC) {
		ok = !r->nx && !(r->u && r->smep);
	} else {
		ok = !(r->u && r->smap && !r->ac);
		if (r->access == BT_WRITE_ONLY)
			ok = ok && (r->w || !r->wp);
	}
	return ok ? -1 : error;
}

static void
rights_apply(struct guest *g, const struct rights *r)
{
	uint64_t pte = PAGE;

	pte |= r->p ? X86_PTE_P : 0;
	pte |= r->w ? X86_PTE_W : 0;
	pte |= r->u ? X86_PTE_U : 0;
	pte |= r->nx ? X86_PTE_NX : 0;
	pte |= r->rsvd ? BIT64(51) : 0;
	guest_put64(g, PT, pte);
	g->cpu->cpl = r->user ? 3 : 0;
	g->cpu->cr0 = (g->cpu->cr0 & ~X86_CR0_WP) | (r->wp ? X86_CR0_WP : 0);
	g->cpu->cr4 = X86_CR4_PAE | (r->smep ? X86_CR4_SMEP : 0) | (r->smap ? X86_CR4_SMAP : 0);
	g->cpu->eflags = r->ac ? X86_FL_AC : 0;
	bt_mode_update(g->cpu);
	bt_tlb_flush_all(g->cpu);
}

static void
rights_access(struct bt_cpu *cpu, int access)
{
	uint64_t gpa;

	if (access == BT_EXEC)
		bt_fetch(cpu, PAGE_LA, &gpa);
	else if (access == BT_READ)
		bt_load(cpu, X86_DS, PAGE_LA, 4);
	else
		bt_store(cpu, X86_DS, PAGE_LA, 4, 1);
}

static bool __attribute__((noinline))
rights_raises(struct bt_cpu *cpu, int access)
{
	return RAISES(cpu, rights_access(cpu, access));
}

static void
test_rights(void **state)
{
	static const int kinds[] = { BT_READ, BT_WRITE_ONLY, BT_EXEC };
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);

	for (unsigned bits = 0; bits < 1u << 10; bits++) {
		for (int k = 0; k < 3; k++) {
			struct rights r = { bits & 1, bits & 2, bits & 4, bits & 8, bits & 16,
				bits & 32, bits & 64, bits & 128, bits & 256, bits & 512,
				kinds[k] };
			int want = model(&r);
			uint64_t pte, ad;

			rights_apply(g, &r);
			/* Twice: what is cached must say the same. */
			for (int i = 0; i < 2; i++) {
				bool raised = rights_raises(cpu, r.access);

				if (raised != (want >= 0))
					fail_msg("bits %#x access %d: raised %d, want %d", bits,
					    r.access, raised, want);
				if (!raised)
					continue;
				expect_fault(cpu, X86_PF, want);
				assert_int_equal(cpu->cr2, PAGE_LA);
			}
			pte = guest_get64(g, PT);
			ad = want >= 0 ? 0 :
			    r.access == BT_WRITE_ONLY ? X86_PTE_A | X86_PTE_D :
							X86_PTE_A;
			assert_int_equal(pte & (X86_PTE_A | X86_PTE_D), ad);
		}
	}
}

/* Rights are the least of all levels. */
static void
test_rights_upper(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 3);
	static const uint32_t entry[] = { PML4, PDPT, PD + 8 * (PAGE_LA >> 21) };

	for (size_t i = 0; i < ARRAY_SIZE(entry); i++) {
		uint64_t old = guest_get64(g, entry[i]);

		guest_put64(g, entry[i], old & ~X86_PTE_W);
		bt_tlb_flush_all(cpu);
		assert_true(RAISES(cpu, bt_store(cpu, X86_DS, PAGE_LA, 1, 0)));
		expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_W | X86_PF_U);
		guest_put64(g, entry[i], old & ~X86_PTE_U);
		bt_tlb_flush_all(cpu);
		assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA, 1)));
		expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_U);
		guest_put64(g, entry[i], old & ~X86_PTE_P);
		bt_tlb_flush_all(cpu);
		assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA, 1)));
		expect_fault(cpu, X86_PF, X86_PF_U);
		guest_put64(g, entry[i], old | BIT64(50));
		assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA, 1)));
		expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_U | X86_PF_RSVD);
		guest_put64(g, entry[i], old);
	}
	bt_tlb_flush_all(cpu);
	assert_false(RAISES(cpu, bt_store(cpu, X86_DS, PAGE_LA, 1, 0)));
}

static void
test_nxe_off(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);

	cpu->efer &= ~X86_EFER_NXE;
	guest_put64(g, PT, PAGE | TABLE | X86_PTE_NX);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA, 1)));
	expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_RSVD);
	/* Fetches are not told apart without NX and SMEP. */
	guest_put64(g, PT, 0);
	assert_true(RAISES(cpu, rights_access(cpu, BT_EXEC)));
	expect_fault(cpu, X86_PF, 0);
}

/* System tables are read with supervisor rights at any CPL, and SMAP holds whatever AC says. */
static void
test_implicit(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 3);

	guest_put64(g, PT, PAGE | X86_PTE_P);
	guest_put64(g, PAGE, 0x55);
	assert_int_equal(bt_sys_load(cpu, PAGE_LA, 8), 0x55);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA, 8)));
	assert_true(RAISES(cpu, bt_sys_store(cpu, PAGE_LA, 8, 0)));
	expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_W);

	guest_put64(g, PT, PAGE | TABLE);
	cpu->cr4 |= X86_CR4_SMAP;
	cpu->eflags |= X86_FL_AC;
	bt_mode_update(cpu);
	bt_tlb_flush_all(cpu);
	assert_true(RAISES(cpu, bt_sys_load(cpu, PAGE_LA, 8)));
	expect_fault(cpu, X86_PF, X86_PF_P);
}

/* --- Forms --- */

static void
test_accessed(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);

	/* Upper levels are marked even if the walk then ends without a page. */
	guest_put64(g, PT, 0);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA, 1)));
	assert_int_equal(guest_get64(g, PML4), PDPT | TABLE | X86_PTE_A);
	assert_int_equal(guest_get64(g, PD + 16), PT | TABLE | X86_PTE_A);
	guest_put64(g, PT, PAGE | TABLE);
	bt_load(cpu, X86_DS, PAGE_LA, 1);
	assert_int_equal(guest_get64(g, PT), PAGE | TABLE | X86_PTE_A);
	/* A store after a load must still set D, though the page is in the TLB. */
	bt_store(cpu, X86_DS, PAGE_LA, 1, 0);
	assert_int_equal(guest_get64(g, PT), PAGE | TABLE | X86_PTE_A | X86_PTE_D);
}

static void
test_large(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);

	guest_put64(g, PD + 16, PAGE | TABLE | X86_PTE_PS);
	bt_store(cpu, X86_DS, PAGE_LA + 0x123456, 4, 0xabcd);
	assert_int_equal(guest_get32(g, PAGE + 0x123456), 0xabcd);
	assert_int_equal(guest_get64(g, PD + 16),
	    PAGE | TABLE | X86_PTE_PS | X86_PTE_A | X86_PTE_D);
	/* Bits 20 to 13 are reserved in a 2 MiB entry, bit 12 is PAT. */
	bt_tlb_flush_all(cpu);
	guest_put64(g, PD + 16, PAGE | TABLE | X86_PTE_PS | BIT(12));
	bt_load(cpu, X86_DS, PAGE_LA, 4);
	bt_tlb_flush_all(cpu);
	guest_put64(g, PD + 16, PAGE | TABLE | X86_PTE_PS | BIT(13));
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA, 4)));
	expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_RSVD);
	/* 1 GiB */
	guest_put64(g, PDPT, 0 | TABLE | X86_PTE_PS);
	bt_store(cpu, X86_DS, 0x654321, 4, 0x1234);
	assert_int_equal(guest_get32(g, 0x654321), 0x1234);
	bt_tlb_flush_all(cpu);
	guest_put64(g, PDPT, 0 | TABLE | X86_PTE_PS | BIT(29));
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, 0x654321, 4)));
	expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_RSVD);
	/* PS is reserved in a PML4 entry. */
	guest_put64(g, PML4, PDPT | TABLE | X86_PTE_PS);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, 0x654321, 4)));
	expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_RSVD);
}

static void
test_5level(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);
	uint64_t high = 0x00ff000000000000 | PAGE_LA;

	cpu->cr4 |= X86_CR4_LA57;
	cpu->cr3 = PML5;
	bt_tlb_flush_all(cpu);
	guest_put64(g, PAGE, 0x5a5a);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA, 8), 0x5a5a);
	/* Canonical with 57 bits, not with 48. */
	guest_put64(g, PML5 + 255 * 8, PML4 | TABLE);
	assert_int_equal(bt_load(cpu, X86_DS, high, 8), 0x5a5a);
	cpu->cr4 &= ~X86_CR4_LA57;
	cpu->cr3 = PML4;
	bt_tlb_flush_all(cpu);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, high, 8)));
	expect_fault(cpu, X86_GP, 0);
}

static void
test_canonical(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);
	uint64_t hole = 0x0000800000000000, gpa;

	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, hole, 1)));
	expect_fault(cpu, X86_GP, 0);
	assert_true(RAISES(cpu, bt_store(cpu, X86_SS, hole, 1, 0)));
	expect_fault(cpu, X86_SSF, 0);
	assert_true(RAISES(cpu, bt_fetch(cpu, hole, &gpa)));
	expect_fault(cpu, X86_GP, 0);
	/* The first half is a page that is not there: processors look at the whole address first. */
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, hole - 4, 8)));
	expect_fault(cpu, X86_GP, 0);
	assert_true(RAISES(cpu, bt_store(cpu, X86_SS, hole - 4, 8, 0)));
	expect_fault(cpu, X86_SSF, 0);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, hole - 4, 4)));
	expect_fault(cpu, X86_PF, 0);
}

static void
test_pae(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;

	map_4level(g);
	guest_mode(g, 4, 0, PDPT);
	cpu->cr0 |= X86_CR0_PG;
	cpu->cr4 |= X86_CR4_PAE;
	cpu->pdpte[0] = PD | X86_PTE_P;
	bt_tlb_flush_all(cpu);
	guest_put64(g, PAGE + 8, 0x77);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA + 8, 4), 0x77);
	/* The pointers are registers: memory does not count, and has no A bit set. */
	assert_int_equal(guest_get64(g, PDPT), PD | TABLE);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, 0x40000000, 4)));
	expect_fault(cpu, X86_PF, 0);
	/* Bits 62 to 52, and 63 without NXE, are reserved. */
	guest_put64(g, PT, PAGE | TABLE | BIT64(52));
	bt_tlb_flush_all(cpu);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA, 4)));
	expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_RSVD);
	/* 2 MiB */
	guest_put64(g, PD + 8, 0x200000 | TABLE | X86_PTE_PS);
	assert_int_equal(bt_load(cpu, X86_DS, 0x200008, 4), 0x77);
}

static void
test_32bit(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;

	guest_mode(g, 4, 3, PD);
	cpu->cr0 |= X86_CR0_PG;
	bt_tlb_flush_all(cpu);
	guest_put32(g, PD + 4 * (PAGE_LA >> 22), PT | TABLE);
	guest_put32(g, PT, PAGE | X86_PTE_P | X86_PTE_U);
	guest_put32(g, PAGE, 0x99);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA, 4), 0x99);
	assert_int_equal(guest_get32(g, PD + 4 * (PAGE_LA >> 22)), PT | TABLE | X86_PTE_A);
	assert_int_equal(guest_get32(g, PT), PAGE | X86_PTE_P | X86_PTE_U | X86_PTE_A);
	assert_true(RAISES(cpu, bt_store(cpu, X86_DS, PAGE_LA, 4, 0)));
	expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_W | X86_PF_U);
	/* PS means nothing without CR4.PSE. */
	guest_put32(g, PD + 4, PT | TABLE | X86_PTE_PS);
	bt_tlb_flush_all(cpu);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA, 4), 0x99);
	/* 4 MiB, and PSE-36: the page lies above 4 GiB, where there is nothing. */
	cpu->cr4 |= X86_CR4_PSE;
	guest_put32(g, PD + 4, 0 | TABLE | X86_PTE_PS);
	bt_tlb_flush_all(cpu);
	guest_put32(g, 0x12344, 0x1111);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA + 0x12344, 4), 0x1111);
	guest_put32(g, PD + 4, 0 | TABLE | X86_PTE_PS | 1 << 13);
	bt_tlb_flush_all(cpu);
	bt_load(cpu, X86_DS, PAGE_LA + 0x12344, 4);
	assert_int_equal(g->logged, 1);
	assert_true(g->log[0].addr == 0x100012344);
	guest_put32(g, PD + 4, 0 | TABLE | X86_PTE_PS | BIT(21));
	bt_tlb_flush_all(cpu);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA, 4)));
	expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_U | X86_PF_RSVD);
}

/* Tables where there is no memory: a fault, not a crash. */
static void
test_table_outside(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);

	guest_put64(g, PD + 16, GUEST_MMIO | TABLE);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA, 1)));
	expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_RSVD);
	/* In a ROM entries work, but keep their bits. */
	guest_put64(g, GUEST_RAM, PAGE | TABLE); /* the ROM's first bytes */
	guest_put64(g, PD + 16, GUEST_ROM | TABLE);
	bt_store(cpu, X86_DS, PAGE_LA, 1, 0x42);
	assert_int_equal(g->ram[PAGE], 0x42);
	assert_int_equal(guest_get64(g, GUEST_RAM), PAGE | TABLE);
}

/* --- Flushes --- */

static void
test_invlpg(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);

	guest_put64(g, PAGE, 1);
	guest_put64(g, PAGE2, 2);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA, 8), 1);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA + 0x1000, 8), 2);
	guest_put64(g, PT, PAGE2 | TABLE);
	guest_put64(g, PT + 8, PAGE | TABLE);
	bt_tlb_flush_page(cpu, PAGE_LA + 0x123);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA, 8), 2);
	/* The other page was not asked for; a cached entry may stay, and here does. */
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA + 0x1000, 8), 2);
	bt_tlb_flush_space(cpu);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA + 0x1000, 8), 1);
}

/* INVLPG anywhere in a large page forgets all of it. */
static void
test_invlpg_large(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);

	guest_put64(g, PD + 16, PAGE | TABLE | X86_PTE_PS);
	guest_put64(g, PAGE + 0x5000, 5);
	guest_put64(g, 0x405000, 6);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA + 0x5000, 8), 5);
	guest_put64(g, PD + 16, 0x400000 | TABLE | X86_PTE_PS);
	bt_tlb_flush_page(cpu, PAGE_LA + 0x1ff000);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA + 0x5000, 8), 6);
}

static void
test_pcid(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);
	uint64_t key;

	cpu->cr4 |= X86_CR4_PCIDE;
	guest_put64(g, PAGE, 1);
	guest_put64(g, PAGE2, 2);
	cpu->cr3 = PML4 | 1;
	bt_tlb_switch(cpu, true);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA, 8), 1);
	key = cpu->block_key;
	/* Another space sees the changed table; the first keeps what it has cached. */
	guest_put64(g, PT, PAGE2 | TABLE);
	cpu->cr3 = PML4 | 2;
	bt_tlb_switch(cpu, true);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA + 0x1000, 8), 2);
	assert_true(cpu->block_key != key);
	cpu->cr3 = PML4 | 1;
	bt_tlb_switch(cpu, false);
	assert_true(cpu->block_key == key);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA, 8), 1);
	bt_tlb_flush_pcid(cpu, 1);
	assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA, 8), 2);
}

/* More spaces than tags. */
static void
test_tags_wrap(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);

	for (unsigned i = 0; i < 3 * BT_AS_TAGS; i++) {
		uint64_t page = i & 1 ? PAGE : PAGE2;

		guest_put64(g, page, i);
		guest_put64(g, PT, page | TABLE);
		bt_tlb_switch(cpu, true);
		assert_true(cpu->as_tag >= 1 && cpu->as_tag < BT_AS_TAGS);
		assert_int_equal(bt_load(cpu, X86_DS, PAGE_LA, 8), i);
	}
}

/* --- Off the fast path --- */

static void
test_cross(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);
	struct bt_window w;
	uint64_t *p;

	/* Pages that are not neighbours in memory. */
	bt_store(cpu, X86_DS, PAGE_LA + 0xffc, 8, 0x8877665544332211);
	assert_int_equal(guest_get32(g, PAGE + 0xffc), 0x44332211);
	assert_int_equal(guest_get32(g, PAGE2), 0x88776655);
	/* The second page faults: nothing of the first is written. */
	guest_put64(g, PT + 8, PAGE2 | X86_PTE_P);
	bt_tlb_flush_all(cpu);
	assert_true(RAISES(cpu, bt_store(cpu, X86_DS, PAGE_LA + 0xffc, 8, 0)));
	expect_fault(cpu, X86_PF, X86_PF_P | X86_PF_W);
	assert_int_equal(cpu->cr2, PAGE_LA + 0x1000);
	assert_int_equal(guest_get32(g, PAGE + 0xffc), 0x44332211);
	assert_true(RAISES(cpu, bt_window_begin(cpu, &w, X86_DS, PAGE_LA + 0xffc, 8, BT_WRITE)));
	assert_int_equal(cpu->cr2, PAGE_LA + 0x1000);
	/* A window bounces and is written back. */
	guest_put64(g, PT + 8, PAGE2 | TABLE);
	p = bt_window_begin(cpu, &w, X86_DS, PAGE_LA + 0xffc, 8, BT_WRITE);
	assert_true(*p == 0x8877665544332211);
	*p += 1;
	assert_int_equal(guest_get32(g, PAGE + 0xffc), 0x44332211);
	bt_window_end(cpu, &w);
	assert_int_equal(guest_get32(g, PAGE + 0xffc), 0x44332212);
	assert_int_equal(cpu->locked, 0);
	/* Within a page it is the memory itself. */
	p = bt_window_begin(cpu, &w, X86_DS, PAGE_LA + 0x10, 8, BT_WRITE);
	assert_ptr_equal(p, g->ram + PAGE + 0x10);
	bt_window_end(cpu, &w);
}

static void
test_window_mmio(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;
	struct bt_window w;
	uint8_t *p;

	guest_mode(g, 4, 0, 0);
	g->read_val = 0x0807060504030201;
	p = bt_window_begin(cpu, &w, X86_DS, GUEST_MMIO, 16, BT_READ);
	assert_int_equal(p[0], 1);
	assert_int_equal(p[15], 8);
	bt_window_end(cpu, &w);
	assert_int_equal(g->logged, 2);
	/* A mere store does not read. */
	g->logged = 0;
	p = bt_window_begin(cpu, &w, X86_DS, GUEST_MMIO, 16, BT_WRITE_ONLY);
	memset(p, 0x11, 16);
	bt_window_end(cpu, &w);
	assert_int_equal(g->logged, 2);
	assert_int_equal(g->log[1].what, 'w');
	assert_int_equal(g->log[1].addr, GUEST_MMIO + 8);
}

static void
test_span(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);
	void *host;

	assert_int_equal(bt_span(cpu, X86_DS, PAGE_LA + 0xf00, 0x1000, BT_WRITE, &host), 0x100);
	assert_ptr_equal(host, g->ram + PAGE + 0xf00);
	assert_int_equal(bt_span(cpu, X86_DS, PAGE_LA, 16, BT_READ, &host), 16);
	guest_put64(g, PT, GUEST_MMIO | TABLE);
	bt_tlb_flush_all(cpu);
	assert_int_equal(bt_span(cpu, X86_DS, PAGE_LA, 16, BT_READ, &host), 0);
	guest_put64(g, PT, 0);
	bt_tlb_flush_all(cpu);
	assert_true(RAISES(cpu, bt_span(cpu, X86_DS, PAGE_LA, 16, BT_READ, &host)));
}

/* Stores to a page with decoded code are noticed in the granule they hit, and only there. */
static void
test_code_page(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 0);
	const struct bt_region *r = bt_mem_find(cpu->vm->mem, PAGE);
	struct bt_window w;
	uint64_t *p;

	bt_store(cpu, X86_DS, PAGE_LA, 1, 0);
	assert_int_equal(bt_tlb_entry(cpu, PAGE_LA)->tag_w, PAGE_LA | cpu->as_tag);
	bt_mem_mark_code(cpu, r, PAGE + 0x100, 0x20);
	assert_int_equal(bt_tlb_entry(cpu, PAGE_LA)->tag_w, 0);
	atomic_store(&cpu->attn, 0);
	bt_store(cpu, X86_DS, PAGE_LA + 0xf8, 8, 7);
	assert_int_equal(guest_get64(g, PAGE + 0xf8), 7);
	assert_int_equal(atomic_load(&cpu->attn), 0);
	assert_int_equal(*bt_mem_code(r, PAGE), BIT(4));
	bt_store(cpu, X86_DS, PAGE_LA + 0x13f, 1, 7);
	assert_int_equal(atomic_load(&cpu->attn), BT_ATTN_FLUSH);
	assert_int_equal(*bt_mem_code(r, PAGE), 0);
	/* No code any more: direct stores again. */
	assert_int_equal(bt_tlb_entry(cpu, PAGE_LA)->tag_w, PAGE_LA | cpu->as_tag);
	/* Windows too, and they stay the memory itself for the sake of locked instructions. */
	bt_mem_mark_code(cpu, r, PAGE + 0x100, 1);
	atomic_store(&cpu->attn, 0);
	p = bt_window_begin(cpu, &w, X86_DS, PAGE_LA + 0x100, 8, BT_WRITE);
	assert_ptr_equal(p, g->ram + PAGE + 0x100);
	*p = 1;
	bt_window_end(cpu, &w);
	assert_int_equal(atomic_load(&cpu->attn), BT_ATTN_FLUSH);
	/* A device's write. */
	bt_mem_mark_code(cpu, r, PAGE + 0x100, 1);
	atomic_store(&cpu->attn, 0);
	bt_engine.mem_written(g->vm, PAGE - 0x2000, 0x2100);
	assert_int_equal(atomic_load(&cpu->attn), 0);
	bt_engine.mem_written(g->vm, PAGE - 0x2000, 0x2101);
	assert_int_equal(atomic_load(&cpu->attn), BT_ATTN_FLUSH);
}

/* --- Segments --- */

static void
seg_set(struct bt_cpu *cpu, int seg, uint64_t base, uint32_t limit, unsigned attr)
{
	cpu->seg[seg] = (struct x86_segment){ .selector = 0x20, .base = base, .limit = limit,
		.attr = (uint16_t)attr };
	bt_mode_update(cpu);
}

static void
test_segments(void **state)
{
	const unsigned data = X86_SEG_P | X86_SEG_S | X86_SEG_RW, down = data | X86_SEG_EC;
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;

	guest_mode(g, 4, 0, 0);
	seg_set(cpu, X86_DS, 0x10000, 0xfff, data);
	bt_store(cpu, X86_DS, 0xffc, 4, 0x31323334);
	assert_int_equal(guest_get32(g, 0x10ffc), 0x31323334);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, 0xffd, 4)));
	expect_fault(cpu, X86_GP, 0);
	/* Wraps nowhere. */
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, 0xffffffff, 2)));
	/* Expand-down: what is above the limit. */
	seg_set(cpu, X86_DS, 0x10000, 0xfff, down);
	bt_load(cpu, X86_DS, 0x1000, 4);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, 0xfff, 1)));
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, 0xfffe, 4)));
	seg_set(cpu, X86_DS, 0, 0xfff, down | X86_SEG_DB);
	bt_load(cpu, X86_DS, 0xfffe, 4);
	/* Read-only, execute-only, null. */
	seg_set(cpu, X86_DS, 0, 0xffff, data & ~X86_SEG_RW);
	bt_load(cpu, X86_DS, 0, 4);
	assert_true(RAISES(cpu, bt_store(cpu, X86_DS, 0, 4, 0)));
	expect_fault(cpu, X86_GP, 0);
	seg_set(cpu, X86_DS, 0, 0xffff, X86_SEG_P | X86_SEG_S | X86_SEG_CODE);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, 0, 4)));
	seg_set(cpu, X86_DS, 0, 0xffff, X86_SEG_P | X86_SEG_S | X86_SEG_CODE | X86_SEG_RW);
	bt_load(cpu, X86_DS, 0, 4);
	assert_true(RAISES(cpu, bt_store(cpu, X86_DS, 0, 4, 0)));
	seg_set(cpu, X86_DS, 0, 0, 0);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, 0, 1)));
	expect_fault(cpu, X86_GP, 0);
	/* The stack segment has an exception of its own. */
	seg_set(cpu, X86_SS, 0, 0xff, data | X86_SEG_DB);
	cpu->r[X86_RSP] = 0x102;
	assert_true(RAISES(cpu, bt_push(cpu, 4, 0)));
	expect_fault(cpu, X86_SSF, 0);
	assert_int_equal(cpu->r[X86_RSP], 0x102);
}

static void
test_push_sizes(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;

	guest_mode(g, 4, 0, 0);
	seg_set(cpu, X86_SS, 0x20000, 0xffff, X86_SEG_P | X86_SEG_S | X86_SEG_RW);
	cpu->r[X86_RSP] = 0x12340000;
	bt_push(cpu, 4, 0xcafef00d);
	assert_int_equal(cpu->r[X86_RSP], 0x1234fffc);
	assert_int_equal(guest_get32(g, 0x2fffc), 0xcafef00d);
	assert_int_equal(bt_pop(cpu, 4), 0xcafef00d);
	assert_int_equal(cpu->r[X86_RSP], 0x12340000);
}

static void
test_alignment(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = long_mode(g, 3);

	cpu->cr0 |= X86_CR0_AM;
	cpu->eflags |= X86_FL_AC;
	bt_mode_update(cpu);
	bt_load(cpu, X86_DS, PAGE_LA + 4, 4);
	bt_load(cpu, X86_DS, PAGE_LA + 3, 1);
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA + 2, 4)));
	expect_fault(cpu, X86_AC, 0);
	/* Before a page fault, as processors do it (SDM 3, table 6-2 has it the other way round). */
	assert_true(RAISES(cpu, bt_load(cpu, X86_DS, PAGE_LA + 0x2002, 4)));
	expect_fault(cpu, X86_AC, 0);
	cpu->cpl = 0;
	bt_mode_update(cpu);
	bt_load(cpu, X86_DS, PAGE_LA + 2, 4);
}

/* --- The physical map --- */

static void
test_map(void **state)
{
	struct guest *g = *state;
	struct bt_cpu *cpu = g->cpu;
	uint8_t *more = mmap(NULL, 0x2000, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
	    0);
	unsigned rw = ENGINE_MEM_READ | ENGINE_MEM_WRITE;

	assert_true(more != MAP_FAILED);
	guest_mode(g, 4, 0, 0);
	assert_int_equal(bt_load(cpu, X86_DS, GUEST_MMIO, 1), 0);
	assert_int_equal(g->logged, 1);
	assert_int_equal(bt_engine.mem_map(g->vm, GUEST_MMIO, more, 0x2000, rw), 0);
	bt_mail_read(cpu);
	more[0] = 0x66;
	assert_int_equal(bt_load(cpu, X86_DS, GUEST_MMIO, 1), 0x66);
	assert_int_equal(g->logged, 1);
	assert_int_equal(bt_engine.mem_unmap(g->vm, GUEST_MMIO, 0x2000), 0);
	bt_mail_read(cpu);
	assert_int_equal(bt_load(cpu, X86_DS, GUEST_MMIO, 1), 0);
	assert_int_equal(g->logged, 2);
	munmap(more, 0x2000);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_flat, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mmio, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rom, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rights, setup, teardown),
		cmocka_unit_test_setup_teardown(test_rights_upper, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nxe_off, setup, teardown),
		cmocka_unit_test_setup_teardown(test_implicit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_accessed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_large, setup, teardown),
		cmocka_unit_test_setup_teardown(test_5level, setup, teardown),
		cmocka_unit_test_setup_teardown(test_canonical, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pae, setup, teardown),
		cmocka_unit_test_setup_teardown(test_32bit, setup, teardown),
		cmocka_unit_test_setup_teardown(test_table_outside, setup, teardown),
		cmocka_unit_test_setup_teardown(test_invlpg, setup, teardown),
		cmocka_unit_test_setup_teardown(test_invlpg_large, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pcid, setup, teardown),
		cmocka_unit_test_setup_teardown(test_tags_wrap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cross, setup, teardown),
		cmocka_unit_test_setup_teardown(test_window_mmio, setup, teardown),
		cmocka_unit_test_setup_teardown(test_span, setup, teardown),
		cmocka_unit_test_setup_teardown(test_code_page, setup, teardown),
		cmocka_unit_test_setup_teardown(test_segments, setup, teardown),
		cmocka_unit_test_setup_teardown(test_push_sizes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_alignment, setup, teardown),
		cmocka_unit_test_setup_teardown(test_map, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
