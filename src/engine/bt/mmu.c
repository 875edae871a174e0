/*
 * The memory management unit: page walks and TLBs (SDM 3, chapter 4). What accesses that miss the TLB
 * do is in access.c.
 *
 * Address spaces have tags. A flush of a space is a new tag for it; the old entries match nothing any
 * more and are overwritten in time. Only when all tags have been used are the tables cleared. Global
 * pages are cached per space like others: forgetting them early is allowed (SDM 3, 4.10.4), and INVLPG
 * finds them because the place of an entry does not depend on the tag.
 *
 * Large pages are cached as the 4 KiB pieces that were touched. INVLPG has to forget all of them; so
 * that it need not search for them, a filter remembers the 1 GiB regions in which there are any.
 */
#include "engine/bt/mmu.h"

#include "engine/bt/block.h"
#include "engine/bt/phys.h"
#include "engine/bt/sys.h"
#include "engine/bt/walk.h"

/* --- Page walk --- */

/* A walk in progress. */
struct bt_walk {
	struct bt_cpu *cpu;
	uint64_t la;
	bool write, exec, user, user_data; /* user_data: a supervisor may touch user pages (SMAP) */
	uint64_t rights; /* W and U of all entries so far; NX as it accumulates */
};

/* Where a paging-structure entry is on the host, NULL outside RAM and ROM. */
static uint8_t *
bt_walk_entry(const struct bt_walk *w, uint64_t gpa, const struct bt_region **r)
{
	*r = bt_mem_find(w->cpu->vm->mem, gpa);
	return *r != NULL ? (*r)->host + (gpa - (*r)->gpa) : NULL;
}

/* Sets bits in an entry that still has the value pte; false when it changed meanwhile. Entries in a ROM
 * stay as they are. */
static bool
bt_walk_set64(struct bt_walk *w, uint8_t *p, const struct bt_region *r, uint64_t pte, uint64_t bits)
{
	if ((pte & bits) == bits || !r->writable)
		return true;
	if (!atomic_compare_exchange_strong((_Atomic uint64_t *)(void *)p, &pte, pte | bits))
		return false;
	bt_mem_wrote(w->cpu, r, r->gpa + (uint64_t)(p - r->host), 8);
	return true;
}

static bool
bt_walk_set32(struct bt_walk *w, uint8_t *p, const struct bt_region *r, uint32_t pte, uint32_t bits)
{
	if ((pte & bits) == bits || !r->writable)
		return true;
	if (!atomic_compare_exchange_strong((_Atomic uint32_t *)(void *)p, &pte, pte | bits))
		return false;
	bt_mem_wrote(w->cpu, r, r->gpa + (uint64_t)(p - r->host), 4);
	return true;
}

/* Whether the page's rights allow a store (SDM 3, 4.6.1). */
static bool
bt_walk_may_write(const struct bt_walk *w)
{
	return (w->rights & X86_PTE_W) || (!w->user && !(w->cpu->cr0 & X86_CR0_WP));
}

static bool
bt_walk_allowed(const struct bt_walk *w)
{
	bool user_page = w->rights & X86_PTE_U;

	if (w->exec && (w->rights & X86_PTE_NX))
		return false;
	if (w->user && !user_page)
		return false;
	if (!w->user && user_page) {
		if (w->exec ? (w->cpu->cr4 & X86_CR4_SMEP) != 0 : !w->user_data)
			return false;
	}
	return !w->write || bt_walk_may_write(w);
}

static void
bt_walk_done(const struct bt_walk *w, struct bt_xlat *x, uint64_t page, uint64_t pte, int shift)
{
	uint64_t off = w->la & ((1ull << shift) - 1);

	x->gpa = (page & ~((1ull << shift) - 1)) | off;
	x->flags = 0;
	if (bt_walk_may_write(w) && (pte & X86_PTE_D))
		x->flags |= BT_TLBE_W;
	if (shift > 12)
		x->flags |= BT_TLBE_LARGE;
}

/* The 64-bit entries of PAE, 4-level and 5-level paging (SDM 3, 4.4 and 4.5). table is the top table,
 * level its level: 2 for PAE, whose top is in registers. */
static int
bt_walk_64(struct bt_walk *w, uint64_t top, int levels, struct bt_xlat *x)
{
	const struct bt_cpu *cpu = w->cpu;
	uint64_t phys = (1ull << cpu->vm->mem->phys_bits) - 1;
	uint64_t reserved = 0x000ffffffffff000ull & ~phys;
	uint64_t table = top, pte = 0;
	int level, shift = 0;

	if (!(cpu->efer & X86_EFER_NXE))
		reserved |= X86_PTE_NX;
	if (!cpu->lma)
		reserved |= 0x7ff0000000000000ull;
	w->rights = X86_PTE_W | X86_PTE_U;
	for (level = levels; level > 0; level--) {
		const struct bt_region *r;
		uint64_t bad = reserved;
		uint8_t *p;
		bool leaf;

		shift = 3 + 9 * level;
		p = bt_walk_entry(w, table + ((w->la >> shift) & 511) * 8, &r);
		if (p == NULL)
			return X86_PF_P | X86_PF_RSVD; /* an open bus reads as all ones */
		pte = *(volatile uint64_t *)(void *)p;
		if (!(pte & X86_PTE_P))
			return 0;
		leaf = level == 1 || (level <= 3 && (pte & X86_PTE_PS));
		if (level >= 4)
			bad |= X86_PTE_PS;
		else if (leaf && level > 1)
			bad |= ((1ull << shift) - 1) & ~0x1fffull;
		if (pte & bad)
			return X86_PF_P | X86_PF_RSVD;
		w->rights = (w->rights & (pte | X86_PTE_NX)) | (pte & X86_PTE_NX);
		if (leaf) {
			if (!bt_walk_allowed(w))
				return X86_PF_P;
			if (!bt_walk_set64(w, p, r, pte,
				X86_PTE_A | (w->write ? X86_PTE_D : 0)))
				return BT_WALK_RETRY;
			break;
		}
		if (!bt_walk_set64(w, p, r, pte, X86_PTE_A))
			return BT_WALK_RETRY;
		table = pte & phys & ~0xfffull;
	}
	bt_walk_done(w, x, pte & phys, w->write ? pte | X86_PTE_D : pte, shift);
	return BT_WALK_OK;
}

/* 32-bit paging with 4 MiB pages and PSE-36 (SDM 3, 4.3). */
static int
bt_walk_32(struct bt_walk *w, struct bt_xlat *x)
{
	const struct bt_cpu *cpu = w->cpu;
	int bits = MIN(cpu->vm->mem->phys_bits, 40);
	const struct bt_region *r;
	uint32_t pde, pte;
	uint64_t page;
	int shift = 12;
	uint8_t *p;

	p = bt_walk_entry(w, (cpu->cr3 & 0xfffff000) + ((w->la >> 22) & 1023) * 4, &r);
	pde = p != NULL ? *(volatile uint32_t *)(void *)p : UINT32_MAX;
	if (!(pde & X86_PTE_P))
		return 0;
	w->rights = pde & (X86_PTE_W | X86_PTE_U);
	if ((pde & X86_PTE_PS) && (cpu->cr4 & X86_CR4_PSE)) {
		/* Bits 20 to 13 are address bits 39 to 32, as far as there are any. */
		uint64_t high = BITS(pde, 13, 8);

		if (p == NULL || (pde & BIT(21)) || high >> (bits - 32))
			return X86_PF_P | X86_PF_RSVD;
		page = (pde & 0xffc00000u) | high << 32;
		pte = pde;
		shift = 22;
	} else {
		if (p == NULL || !bt_walk_set32(w, p, r, pde, X86_PTE_A))
			return p == NULL ? X86_PF_P | X86_PF_RSVD : BT_WALK_RETRY;
		p = bt_walk_entry(w, (pde & 0xfffff000) + ((w->la >> 12) & 1023) * 4, &r);
		if (p == NULL)
			return X86_PF_P | X86_PF_RSVD;
		pte = *(volatile uint32_t *)(void *)p;
		if (!(pte & X86_PTE_P))
			return 0;
		w->rights &= pte;
		page = pte & 0xfffff000;
	}
	if (!bt_walk_allowed(w))
		return X86_PF_P;
	if (!bt_walk_set32(w, p, r, pte, X86_PTE_A | (w->write ? X86_PTE_D : 0)))
		return BT_WALK_RETRY;
	bt_walk_done(w, x, page, w->write ? pte | X86_PTE_D : pte, shift);
	return BT_WALK_OK;
}

static int
bt_walk_once(struct bt_walk *w, struct bt_xlat *x)
{
	struct bt_cpu *cpu = w->cpu;
	uint64_t pdpte;

	if (!(cpu->cr0 & X86_CR0_PG)) {
		x->gpa = w->la & ((1ull << cpu->vm->mem->phys_bits) - 1);
		x->flags = BT_TLBE_W;
		return BT_WALK_OK;
	}
	if (!(cpu->cr4 & X86_CR4_PAE))
		return bt_walk_32(w, x);
	if (cpu->lma)
		return bt_walk_64(w, cpu->cr3 & 0x000ffffffffff000ull,
		    cpu->cr4 & X86_CR4_LA57 ? 5 : 4, x);
	pdpte = cpu->pdpte[(w->la >> 30) & 3];
	if (!(pdpte & X86_PTE_P))
		return 0;
	return bt_walk_64(w, pdpte & 0x000ffffffffff000ull, 2, x);
}

void
bt_walk(struct bt_cpu *cpu, uint64_t la, enum bt_tlb_set set, int access, struct bt_xlat *x)
{
	struct bt_walk w = {
		.cpu = cpu,
		.la = la,
		.write = access == BT_WRITE || access == BT_WRITE_ONLY,
		.exec = access == BT_EXEC,
		.user = set == BT_TLB_USER,
		.user_data = set == BT_TLB_KERNEL_USER,
	};
	uint32_t error;
	int ret;

	/* Another vCPU may change an entry between our read and our write of its A or D bit. A guest
	 * that did so for ever would hold up only itself, but a look at attention is not possible
	 * here; each retry means that another store succeeded, as in hardware. */
	do
		ret = bt_walk_once(&w, x);
	while (ret == BT_WALK_RETRY);
	if (likely(ret == BT_WALK_OK)) {
		if (x->flags & BT_TLBE_LARGE)
			cpu->large_filter |= bt_large_hash(la);
		return;
	}
	error = (uint32_t)ret;
	if (w.write)
		error |= X86_PF_W;
	if (w.user)
		error |= X86_PF_U;
	if (w.exec &&
	    ((cpu->cr4 & X86_CR4_SMEP) ||
		((cpu->cr4 & X86_CR4_PAE) && (cpu->efer & X86_EFER_NXE))))
		error |= X86_PF_I;
	bt_raise_page_fault(cpu, la, error);
}

uint64_t
bt_phys_load(struct bt_cpu *cpu, uint64_t gpa, int size)
{
	const struct bt_region *r = bt_mem_find(cpu->vm->mem, gpa);

	if (r == NULL)
		return size == 8 ? UINT64_MAX : UINT32_MAX;
	return bt_host_load((uintptr_t)r->host + (gpa - r->gpa), size);
}

/* --- Code --- */

const uint8_t *
bt_fetch(struct bt_cpu *cpu, uint64_t la, uint64_t *gpa)
{
	bool user = cpu->cpl == 3;
	struct bt_fetch_entry *f = &cpu->fetch[user][(la >> 12) % BT_TLB_FETCH_SIZE];
	uint64_t tag = (la & ~0xfffull) | cpu->as_tag;

	if (unlikely(f->tag != tag)) {
		const struct bt_region *r;
		struct bt_xlat x;

		if (!bt_canonical(cpu, la))
			bt_raise_error(cpu, X86_GP, 0);
		bt_walk(cpu, la, user ? BT_TLB_USER : BT_TLB_KERNEL, BT_EXEC, &x);
		x.gpa &= ~0xfffull;
		r = bt_mem_find(cpu->vm->mem, x.gpa);
		f->tag = tag;
		f->gpa = x.gpa;
		f->host = r != NULL ? r->host + (x.gpa - r->gpa) : NULL;
	}
	*gpa = f->gpa | (la & 0xfff);
	return f->host != NULL ? f->host + (la & 0xfff) : NULL;
}

/* --- Flushes --- */

void
bt_tlb_reset(struct bt_cpu *cpu)
{
	bt_zero(cpu->tlbs, sizeof(cpu->tlbs));
	bt_zero(cpu->slow, sizeof(cpu->slow));
	bt_zero(cpu->fetch, sizeof(cpu->fetch));
	bt_zero(cpu->pcid_tag, sizeof(cpu->pcid_tag));
	bt_block_forget_all(cpu);
	cpu->large_filter = 0;
	cpu->next_tag = 1;
}

static uint16_t
bt_tlb_pcid(const struct bt_cpu *cpu)
{
	return cpu->cr4 & X86_CR4_PCIDE ? cpu->cr3 & 0xfff : 0;
}

/* Makes the space of the current PCID current, empty if it has no tag. */
static void
bt_tlb_pick(struct bt_cpu *cpu)
{
	uint16_t pcid = bt_tlb_pcid(cpu);

	if (cpu->pcid_tag[pcid] == 0) {
		if (cpu->next_tag >= BT_AS_TAGS || cpu->next_tag == 0)
			bt_tlb_reset(cpu);
		cpu->pcid_tag[pcid] = (uint16_t)cpu->next_tag++;
	}
	cpu->as_tag = cpu->pcid_tag[pcid];
	bt_block_mode(cpu);
}

void
bt_tlb_flush_all(struct bt_cpu *cpu)
{
	bt_zero(cpu->pcid_tag, sizeof(cpu->pcid_tag));
	cpu->large_filter = 0;
	bt_tlb_pick(cpu);
}

void
bt_tlb_flush_space(struct bt_cpu *cpu)
{
	bt_tlb_flush_pcid(cpu, bt_tlb_pcid(cpu));
}

void
bt_tlb_flush_pcid(struct bt_cpu *cpu, uint16_t pcid)
{
	cpu->pcid_tag[pcid & 0xfff] = 0;
	bt_tlb_pick(cpu);
}

void
bt_tlb_switch(struct bt_cpu *cpu, bool flush)
{
	if (flush || !(cpu->cr4 & X86_CR4_PCIDE))
		cpu->pcid_tag[bt_tlb_pcid(cpu)] = 0;
	bt_tlb_pick(cpu);
}

void
bt_tlb_flush_page(struct bt_cpu *cpu, uint64_t la)
{
	uint64_t page = la >> 12;

	if (cpu->large_filter & bt_large_hash(la)) {
		bt_tlb_flush_all(cpu);
		return;
	}
	for (int set = 0; set < BT_TLB_SETS; set++) {
		struct bt_tlb_entry *e = &cpu->tlbs[set][page % BT_TLB_SIZE];
		struct bt_tlb_entry *s = &cpu->slow[set][page % BT_TLB_SLOW_SIZE];

		if (e->tag_r >> 12 == page)
			e->tag_r = e->tag_w = 0;
		if (s->tag_r >> 12 == page)
			s->tag_r = s->tag_w = 0;
	}
	for (int user = 0; user < 2; user++) {
		struct bt_fetch_entry *f = &cpu->fetch[user][page % BT_TLB_FETCH_SIZE];

		if (f->tag >> 12 == page)
			f->tag = 0;
	}
	bt_block_forget_page(cpu, la);
}

void
bt_tlb_flush_pcid_page(struct bt_cpu *cpu, uint16_t pcid, uint64_t la)
{
	(void)pcid; /* an entry's place tells the page only; other spaces lose theirs too */
	bt_tlb_flush_page(cpu, la);
}

void
bt_tlb_no_stores(struct bt_cpu *cpu, uint64_t gpa)
{
	for (int set = 0; set < BT_TLB_SETS; set++)
		for (unsigned i = 0; i < BT_TLB_SIZE; i++)
			if ((cpu->tlbs[set][i].gpa & ~0xfffull) == gpa)
				cpu->tlbs[set][i].tag_w = 0;
}
