/*
 * Memory accesses off the fast path: TLB misses, page crossings, MMIO, ROM, pages with decoded code,
 * pages with data breakpoints, and segments that need checking.
 */
#include "engine/bt/mmu.h"

#include "engine/bt/phys.h"
#include "engine/bt/run.h"
#include "engine/bt/sys.h"
#include "engine/bt/walk.h"

#include <sched.h>

/* Where an access within one page goes. */
struct bt_place {
	uint64_t gpa;
	uint8_t *host; /* NULL: MMIO */
	bool rom; /* reads from host, writes to the machine */
};

static enum bt_tlb_set
bt_set_current(const struct bt_cpu *cpu)
{
	return (enum bt_tlb_set)((cpu->tlb - cpu->tlbs[0]) / BT_TLB_SIZE);
}

/* Implicit supervisor accesses heed SMAP whatever EFLAGS.AC is (SDM 3, 4.6.1). */
static enum bt_tlb_set
bt_set_implicit(const struct bt_cpu *cpu)
{
	return cpu->cr4 & X86_CR4_SMAP ? BT_TLB_KERNEL : BT_TLB_KERNEL_USER;
}

static BT_NORETURN void
bt_raise_noncanonical(struct bt_cpu *cpu, int seg)
{
	bt_raise_error(cpu, seg == X86_SS ? X86_SSF : X86_GP, 0);
}

/* Enters a translation where accesses will find it: in the TLB if host memory may be accessed directly,
 * else among the slow pages. */
static void
bt_tlb_fill(struct bt_cpu *cpu, enum bt_tlb_set set, uint64_t la, const struct bt_xlat *x,
    const struct bt_region *r)
{
	uint64_t page = la & ~0xfffull, gpa = x->gpa & ~0xfffull;
	struct bt_tlb_entry *e = &cpu->tlbs[set][(la >> 12) % BT_TLB_SIZE];
	unsigned flags = x->flags;

	if (r == NULL)
		flags |= BT_TLBE_MMIO;
	else if (!r->writable)
		flags |= BT_TLBE_ROM;
	if (r == NULL || (cpu->watch_data && bt_debug_page(cpu, page))) {
		struct bt_tlb_entry *s = &cpu->slow[set][(la >> 12) % BT_TLB_SLOW_SIZE];

		if (e->tag_r == (page | cpu->as_tag))
			e->tag_r = e->tag_w = 0;
		e = s;
	}
	e->tag_w = 0;
	e->tag_r = page | cpu->as_tag;
	e->gpa = gpa | flags;
	e->addend = r != NULL ? (uintptr_t)r->host + (gpa - r->gpa) - page : 0;
}

/* Lets stores go straight to memory if nothing speaks against it. Whether the page holds code is asked
 * last: a vCPU that decodes from it then either finds this entry or is found here (phys.h). */
static void
bt_tlb_allow_stores(struct bt_cpu *cpu, struct bt_tlb_entry *e, const struct bt_region *r)
{
	if ((e->gpa & (BT_TLBE_W | BT_TLBE_ROM)) != BT_TLBE_W)
		return;
	if (atomic_load(bt_mem_code(r, e->gpa & ~0xfffull)) == 0)
		e->tag_w = e->tag_r;
}

/* Translates for an access that stays within la's page. */
static void
bt_place_find(struct bt_cpu *cpu, enum bt_tlb_set set, int seg, uint64_t la, int access,
    struct bt_place *out)
{
	uint64_t tag = (la & ~0xfffull) | cpu->as_tag;
	struct bt_tlb_entry *e = &cpu->tlbs[set][(la >> 12) % BT_TLB_SIZE];
	struct bt_tlb_entry *s = &cpu->slow[set][(la >> 12) % BT_TLB_SLOW_SIZE];
	const struct bt_region *r;
	struct bt_xlat x;

	if (e->tag_r != tag)
		e = s;
	if (e->tag_r == tag && (access == BT_READ || (e->gpa & BT_TLBE_W))) {
		out->gpa = (e->gpa & ~0xfffull) | (la & 0xfff);
		out->host = e->gpa & BT_TLBE_MMIO ? NULL : (uint8_t *)(la + e->addend);
		out->rom = e->gpa & BT_TLBE_ROM;
		return;
	}
	if (!bt_canonical(cpu, la))
		bt_raise_noncanonical(cpu, seg);
	bt_walk(cpu, la, set, access, &x);
	r = bt_mem_find(cpu->vm->mem, x.gpa);
	bt_tlb_fill(cpu, set, la, &x, r);
	if (cpu->tlbs[set][(la >> 12) % BT_TLB_SIZE].tag_r == tag)
		bt_tlb_allow_stores(cpu, &cpu->tlbs[set][(la >> 12) % BT_TLB_SIZE], r);
	out->gpa = x.gpa;
	out->host = r != NULL ? r->host + (x.gpa - r->gpa) : NULL;
	out->rom = r != NULL && !r->writable;
}

/* --- Within one page --- */

static uint64_t
bt_place_load(struct bt_cpu *cpu, const struct bt_place *p, int size)
{
	uint64_t val = 0;

	if (p->host == NULL)
		return bt_mmio_read(cpu, p->gpa, size);
	if ((size & (size - 1)) == 0)
		return bt_host_load((uintptr_t)p->host, size);
	bt_copy(&val, p->host, (size_t)size);
	return val;
}

/* After a store to RAM. */
static void
bt_place_stored(struct bt_cpu *cpu, uint64_t gpa, int size)
{
	const struct bt_region *r = bt_mem_find(cpu->vm->mem, gpa);

	if (r != NULL)
		bt_mem_wrote(cpu, r, gpa, (uint64_t)size);
}

static void
bt_place_store(struct bt_cpu *cpu, const struct bt_place *p, int size, uint64_t val)
{
	if (p->host == NULL || p->rom) {
		bt_mmio_write(cpu, p->gpa, size, val);
		return;
	}
	if ((size & (size - 1)) == 0)
		bt_host_store((uintptr_t)p->host, size, val);
	else
		bt_copy(p->host, &val, (size_t)size);
	bt_place_stored(cpu, p->gpa, size);
}

/* A page that no longer holds code, or was only read so far, gets its direct stores. */
static void
bt_store_done(struct bt_cpu *cpu, enum bt_tlb_set set, uint64_t la)
{
	struct bt_tlb_entry *e = &cpu->tlbs[set][(la >> 12) % BT_TLB_SIZE];

	if (e->tag_r == ((la & ~0xfffull) | cpu->as_tag) && e->tag_w == 0)
		bt_tlb_allow_stores(cpu, e, bt_mem_find(cpu->vm->mem, e->gpa & ~0xfffull));
}

/* --- Loads and stores --- */

/* The linear address n bytes on; outside long mode they wrap at 4 GiB. */
static uint64_t
bt_la_next(const struct bt_cpu *cpu, uint64_t la, int n)
{
	return cpu->lma ? la + (uint64_t)n : (uint32_t)(la + (uint64_t)n);
}

/* How much of an access lies in its first page. One that runs into addresses that are not canonical faults
 * before any page is looked at. */
static int
bt_first_part(struct bt_cpu *cpu, int seg, uint64_t la, int size)
{
	int first = (int)(0x1000 - (la & 0xfff));

	if (likely(first >= size))
		return size;
	if (!bt_canonical(cpu, bt_la_next(cpu, la, first)))
		bt_raise_noncanonical(cpu, seg);
	return first;
}

static uint64_t
bt_load_set(struct bt_cpu *cpu, enum bt_tlb_set set, int seg, uint64_t la, int size)
{
	int first = bt_first_part(cpu, seg, la, size);
	struct bt_place a, b;
	uint64_t val;

	bt_place_find(cpu, set, seg, la, BT_READ, &a);
	if (likely(first == size))
		return bt_place_load(cpu, &a, size);
	bt_place_find(cpu, set, seg, bt_la_next(cpu, la, first), BT_READ, &b);
	val = bt_place_load(cpu, &a, first);
	return val | bt_place_load(cpu, &b, size - first) << (8 * first);
}

static void
bt_store_set(struct bt_cpu *cpu, enum bt_tlb_set set, int seg, uint64_t la, int size, uint64_t val)
{
	int first = bt_first_part(cpu, seg, la, size);
	struct bt_place a, b;

	bt_place_find(cpu, set, seg, la, BT_WRITE_ONLY, &a);
	if (likely(first == size)) {
		bt_place_store(cpu, &a, size, val);
		bt_store_done(cpu, set, la);
		return;
	}
	bt_place_find(cpu, set, seg, bt_la_next(cpu, la, first), BT_WRITE_ONLY, &b);
	bt_place_store(cpu, &a, first, val & ((1ull << (8 * first)) - 1));
	bt_place_store(cpu, &b, size - first, val >> (8 * first));
}

uint64_t
bt_load_slow(struct bt_cpu *cpu, int seg, uint64_t la, int size)
{
	uint64_t val = bt_load_set(cpu, bt_set_current(cpu), seg, la, size);

	if (unlikely(cpu->watch_data))
		bt_debug_data(cpu, la, (unsigned)size, false);
	return val;
}

void
bt_store_slow(struct bt_cpu *cpu, int seg, uint64_t la, int size, uint64_t val)
{
	bt_store_set(cpu, bt_set_current(cpu), seg, la, size, val);
	if (unlikely(cpu->watch_data))
		bt_debug_data(cpu, la, (unsigned)size, true);
}

uint64_t
bt_sys_load(struct bt_cpu *cpu, uint64_t la, int size)
{
	return bt_load_set(cpu, bt_set_implicit(cpu), X86_DS, la, size);
}

void
bt_sys_store(struct bt_cpu *cpu, uint64_t la, int size, uint64_t val)
{
	bt_store_set(cpu, bt_set_implicit(cpu), X86_DS, la, size, val);
}

/* --- Windows --- */

static void
bt_window_lock(struct bt_cpu *cpu)
{
	while (atomic_flag_test_and_set_explicit(&cpu->vm->mem->lock, memory_order_acquire))
		sched_yield();
	cpu->locked = 1;
}

void
bt_window_abandon(struct bt_cpu *cpu)
{
	if (!cpu->locked)
		return;
	cpu->locked = 0;
	atomic_flag_clear_explicit(&cpu->vm->mem->lock, memory_order_release);
}

/* Fills buf from one page, MMIO by up to 8 bytes at a time. */
static void
bt_window_fill(struct bt_cpu *cpu, const struct bt_place *p, uint8_t *buf, int size)
{
	if (p->host != NULL) {
		bt_copy(buf, p->host, (size_t)size);
		return;
	}
	for (int off = 0; off < size; off += 8) {
		int n = MIN(8, size - off);
		uint64_t val = bt_mmio_read(cpu, p->gpa + (uint64_t)off, n);

		bt_copy(buf + off, &val, (size_t)n);
	}
}

static void
bt_window_drain(struct bt_cpu *cpu, uint8_t *host, uint64_t gpa, const uint8_t *buf, int size)
{
	if (host != NULL) {
		bt_copy(host, buf, (size_t)size);
		bt_place_stored(cpu, gpa, size);
		return;
	}
	for (int off = 0; off < size; off += 8) {
		int n = MIN(8, size - off);
		uint64_t val = 0;

		bt_copy(&val, buf + off, (size_t)n);
		bt_mmio_write(cpu, gpa + (uint64_t)off, n, val);
	}
}

void *
bt_window_slow(struct bt_cpu *cpu, struct bt_window *w, int seg, uint64_t la, int size, int access)
{
	enum bt_tlb_set set = bt_set_current(cpu);
	int first = bt_first_part(cpu, seg, la, size);
	struct bt_place a, b = { 0 };

	w->write = access != BT_READ;
	bt_place_find(cpu, set, seg, la, access, &a);
	if (first < size)
		bt_place_find(cpu, set, seg, bt_la_next(cpu, la, first), access, &b);
	if (unlikely(cpu->watch_data))
		bt_debug_data(cpu, la, (unsigned)size, w->write);
	if (first == size && a.host != NULL && !(a.rom && w->write)) {
		/* RAM after all: accessed directly; a write has to ask about code afterwards. */
		w->slow = w->write;
		w->bounced = false;
		w->size = (uint8_t)size;
		w->gpa[0] = a.gpa;
		return a.host;
	}
	w->slow = w->bounced = true;
	w->size = (uint8_t)size;
	w->first = (uint8_t)first;
	w->gpa[0] = a.gpa;
	w->gpa[1] = b.gpa;
	w->host[0] = a.rom && w->write ? NULL : a.host;
	w->host[1] = b.rom && w->write ? NULL : b.host;
	if (w->write && a.host != NULL && b.host != NULL && !a.rom && !b.rom)
		bt_window_lock(cpu);
	if (access == BT_WRITE_ONLY)
		return w->buf;
	bt_window_fill(cpu, &a, w->buf, first);
	if (first < size)
		bt_window_fill(cpu, &b, w->buf + first, size - first);
	return w->buf;
}

void
bt_window_finish(struct bt_cpu *cpu, struct bt_window *w)
{
	if (!w->write)
		return;
	if (!w->bounced) {
		bt_place_stored(cpu, w->gpa[0], w->size);
		return;
	}
	bt_window_drain(cpu, w->host[0], w->gpa[0], w->buf, w->first);
	if (w->first < w->size)
		bt_window_drain(cpu, w->host[1], w->gpa[1], w->buf + w->first,
		    w->size - w->first);
	bt_window_abandon(cpu);
}

/* --- Bulk and checks --- */

size_t
bt_span(struct bt_cpu *cpu, int seg, uint64_t ea, size_t max, int access, void **host)
{
	uint64_t la, tag;
	struct bt_tlb_entry *e;
	struct bt_place p;

	if ((cpu->seg_checks >> seg) & 1)
		return 0;
	la = (ea + cpu->sbase[seg]) & cpu->la_mask;
	tag = (la & ~0xfffull) | cpu->as_tag;
	e = bt_tlb_entry(cpu, la);
	if ((access == BT_READ ? e->tag_r : e->tag_w) != tag) {
		bt_place_find(cpu, bt_set_current(cpu), seg, la, access, &p);
		if ((access == BT_READ ? e->tag_r : e->tag_w) != tag)
			return 0;
	}
	*host = (void *)(la + e->addend);
	return MIN(max, 0x1000 - (la & 0xfff));
}

static void
bt_probe_set(struct bt_cpu *cpu, enum bt_tlb_set set, int seg, uint64_t la, int size, int access)
{
	struct bt_place p;

	while (size > 0) {
		int n = bt_first_part(cpu, seg, la, size);

		bt_place_find(cpu, set, seg, la, access, &p);
		la = bt_la_next(cpu, la, n);
		size -= n;
	}
}

void
bt_probe(struct bt_cpu *cpu, int seg, uint64_t ea, int size, int access)
{
	uint64_t la = bt_la(cpu, seg, ea, size, access);

	bt_probe_set(cpu, bt_set_current(cpu), seg, la, size, access);
}

void
bt_sys_probe(struct bt_cpu *cpu, uint64_t la, int size, int access)
{
	bt_probe_set(cpu, bt_set_implicit(cpu), X86_DS, la, size, access);
}

/* --- Segments --- */

/* Whether [ea, ea + size) lies inside the segment (SDM 3, 5.3). */
static bool
bt_seg_holds(const struct bt_cpu *cpu, const struct x86_segment *s, uint64_t ea, int size)
{
	uint64_t last = ea + (uint64_t)size - 1;

	if ((s->attr & (X86_SEG_CODE | X86_SEG_EC)) == X86_SEG_EC && cpu->pe && !cpu->vm86)
		return ea > s->limit && last <= (s->attr & X86_SEG_DB ? 0xffffffffull : 0xffff);
	return last <= s->limit;
}

/* Whether the segment's type allows the access (SDM 3, 5.5); in real and virtual-8086 mode all do. */
static bool
bt_seg_allows(const struct bt_cpu *cpu, const struct x86_segment *s, int access)
{
	if (!cpu->pe || cpu->vm86)
		return true;
	if (!(s->attr & X86_SEG_P))
		return false;
	if (access == BT_READ)
		return !(s->attr & X86_SEG_CODE) || (s->attr & X86_SEG_RW);
	return !(s->attr & X86_SEG_CODE) && (s->attr & X86_SEG_RW);
}

/* Whether #AC is due (SDM 3, 6.15). Table 6-7 leaves operands of 16 bytes and more to the processor;
 * this is how AMD's do it. Sizes that are no power of 2 have no alignment, but for x87's 10 bytes. */
static bool
bt_la_misaligned(const struct bt_cpu *cpu, uint64_t la, int size)
{
	unsigned align = size == 10 ? 8 : MIN((unsigned)size, 16u);

	if (cpu->cpl != 3 || !(cpu->eflags & X86_FL_AC) || !(cpu->cr0 & X86_CR0_AM))
		return false;
	return (size == 10 || (size & (size - 1)) == 0) && (la & (align - 1)) != 0;
}

uint64_t
bt_la_slow(struct bt_cpu *cpu, int seg, uint64_t ea, int size, int access)
{
	const struct x86_segment *s = &cpu->seg[seg];
	uint64_t la = (ea + cpu->sbase[seg]) & cpu->la_mask;

	if (cpu->code_size != 8 &&
	    (!bt_seg_allows(cpu, s, access) || !bt_seg_holds(cpu, s, ea, size)))
		bt_raise_error(cpu, seg == X86_SS ? X86_SSF : X86_GP, 0);
	if (bt_la_misaligned(cpu, la, size)) {
		/* Before any page fault: SDM 3, table 6-2 has it the other way, processors do it so. */
		if (!bt_canonical(cpu, la))
			bt_raise_noncanonical(cpu, seg);
		bt_raise_error(cpu, X86_AC, 0);
	}
	return la;
}
