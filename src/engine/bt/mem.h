/*
 * Guest memory as instructions see it: effective address, segment, linear address, TLB, host memory.
 *
 * Every accessor raises the guest's exception itself (and then does not return). The fast path is a TLB
 * hit within a page; everything else, page walks, MMIO, page-crossing and code pages included, is in
 * mmu.c.
 */
#ifndef BT_MEM_H
#define BT_MEM_H

#include "engine/bt/bt.h"

enum bt_access { BT_READ, BT_WRITE, BT_EXEC };

/* The effective address of op's memory operand. */
static inline __attribute__((always_inline)) uint64_t
bt_ea(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t ea = *bt_reg64(cpu, op->base) + (*bt_reg64(cpu, op->index) << op->scale) +
	    (uint64_t)(int64_t)op->disp;

	if (likely(op->asize == 8))
		return ea;
	return op->asize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

/* Segment limit and type, alignment (#AC) and wrap checks for modes that need them: raises #GP, #SS or
 * #AC, or returns the linear address. access is enum bt_access. */
uint64_t bt_la_slow(struct bt_cpu *cpu, int seg, uint64_t ea, int size, int access);

static inline __attribute__((always_inline)) uint64_t
bt_la(struct bt_cpu *cpu, int seg, uint64_t ea, int size, int access)
{
	if (unlikely((cpu->seg_checks >> seg) & 1))
		return bt_la_slow(cpu, seg, ea, size, access);
	return (ea + cpu->sbase[seg]) & cpu->la_mask;
}

/* Slow paths: linear address la, size 1 to 8. seg chooses #SS or #GP for a non-canonical address. */
uint64_t bt_load_slow(struct bt_cpu *cpu, int seg, uint64_t la, int size);
void bt_store_slow(struct bt_cpu *cpu, int seg, uint64_t la, int size, uint64_t val);

static inline __attribute__((always_inline)) struct bt_tlb_entry *
bt_tlb_entry(struct bt_cpu *cpu, uint64_t la)
{
	return &cpu->tlb[(la >> 12) & (BT_TLB_SIZE - 1)];
}

/* What a tag must equal for an access of size bytes at la: an access that runs into the next page
 * matches nothing. */
static inline __attribute__((always_inline)) uint64_t
bt_tlb_key(const struct bt_cpu *cpu, uint64_t la, int size)
{
	return ((la + (uint64_t)size - 1) & ~0xfffull) | cpu->as_tag;
}

static inline __attribute__((always_inline)) uint64_t
bt_host_load(uintptr_t p, int size)
{
	switch (size) {
	case 1: return *(volatile uint8_t *)p;
	case 2: return *(volatile uint16_t *)p;
	case 4: return *(volatile uint32_t *)p;
	default: return *(volatile uint64_t *)p;
	}
}

static inline __attribute__((always_inline)) void
bt_host_store(uintptr_t p, int size, uint64_t val)
{
	switch (size) {
	case 1: *(volatile uint8_t *)p = (uint8_t)val; break;
	case 2: *(volatile uint16_t *)p = (uint16_t)val; break;
	case 4: *(volatile uint32_t *)p = (uint32_t)val; break;
	default: *(volatile uint64_t *)p = val; break;
	}
}

/* Loads and stores size (1, 2, 4, 8) bytes at seg:ea; loads zero-extend. */
static inline __attribute__((always_inline)) uint64_t
bt_load(struct bt_cpu *cpu, int seg, uint64_t ea, int size)
{
	uint64_t la = bt_la(cpu, seg, ea, size, BT_READ);
	struct bt_tlb_entry *e = bt_tlb_entry(cpu, la);

	if (likely(e->tag_r == bt_tlb_key(cpu, la, size)))
		return bt_host_load(la + e->addend, size);
	return bt_load_slow(cpu, seg, la, size);
}

static inline __attribute__((always_inline)) void
bt_store(struct bt_cpu *cpu, int seg, uint64_t ea, int size, uint64_t val)
{
	uint64_t la = bt_la(cpu, seg, ea, size, BT_WRITE);
	struct bt_tlb_entry *e = bt_tlb_entry(cpu, la);

	if (likely(e->tag_w == bt_tlb_key(cpu, la, size)))
		bt_host_store(la + e->addend, size, val);
	else
		bt_store_slow(cpu, seg, la, size, val);
}

/*
 * A window for read-modify-write and for operands of any size up to 64 bytes: host memory itself where
 * that can be had, else a bounce buffer. begin() does all checks for the access (BT_READ, BT_WRITE; a
 * BT_WRITE window is readable too) and loads a bounce buffer; end() writes a bounce buffer back and
 * cannot fault. Host memory is used whenever the bytes lie in one page of RAM without decoded code, so
 * locked instructions on p are atomic for every vCPU; a locked access that bounces is serialised by
 * mmu.c against other bounced ones.
 *
 *	struct bt_window w;
 *	uint64_t *p = bt_window_begin(cpu, &w, op->seg, ea, 8, BT_WRITE);
 *	... operate on *p ...
 *	bt_window_end(cpu, &w);
 */
struct bt_window {
	void *p;
	uint64_t la; /* bounced: where to write back */
	int size;
	bool bounced, write;
	uint8_t seg;
	uint8_t buf[64] __attribute__((aligned(64)));
};
void *bt_window_slow(struct bt_cpu *cpu, struct bt_window *w, int seg, uint64_t la, int size,
    int access);
void bt_window_flush(struct bt_cpu *cpu, struct bt_window *w);

static inline __attribute__((always_inline)) void *
bt_window_begin(struct bt_cpu *cpu, struct bt_window *w, int seg, uint64_t ea, int size, int access)
{
	uint64_t la = bt_la(cpu, seg, ea, size, access);
	struct bt_tlb_entry *e = bt_tlb_entry(cpu, la);
	uint64_t key = bt_tlb_key(cpu, la, size);

	if (likely((access == BT_WRITE ? e->tag_w : e->tag_r) == key)) {
		w->bounced = false;
		return (void *)(la + e->addend);
	}
	return bt_window_slow(cpu, w, seg, la, size, access);
}

static inline __attribute__((always_inline)) void
bt_window_end(struct bt_cpu *cpu, struct bt_window *w)
{
	if (unlikely(w->bounced))
		bt_window_flush(cpu, w);
}

/*
 * Bulk access for string instructions: how many bytes from seg:ea on (at most max, at least 1) lie in one
 * page of plain RAM and may be accessed directly; *host gets the pointer. 0 when the first byte is
 * not plain RAM (MMIO, code page): use bt_load/bt_store for it. Raises what an access to the first byte
 * raises. Where seg_checks has the segment's bit set, returns 0.
 */
size_t bt_span(struct bt_cpu *cpu, int seg, uint64_t ea, size_t max, int access, void **host);

/* Checks without accessing: raises what an access of size bytes (any size) would. */
void bt_probe(struct bt_cpu *cpu, int seg, uint64_t ea, int size, int access);

/* Supervisor access to system tables (GDT, IDT, TSS) at a linear address, whatever the CPL. */
uint64_t bt_sys_load(struct bt_cpu *cpu, uint64_t la, int size);
void bt_sys_store(struct bt_cpu *cpu, uint64_t la, int size, uint64_t val);

/* The stack, with the stack segment's address size: size 2, 4, 8. RSP moves only if the access
 * succeeded. */
void bt_push(struct bt_cpu *cpu, int size, uint64_t val);
uint64_t bt_pop(struct bt_cpu *cpu, int size);

/* --- Translation (mmu.c) --- */

/* Fetches code: the host address of the byte at linear address la for the current CPL, its guest-physical
 * address in *gpa, and marks the page accessed; raises #PF or #GP(0). NULL when it is not RAM or ROM. */
const uint8_t *bt_fetch(struct bt_cpu *cpu, uint64_t la, uint64_t *gpa);

/* Forgets translations: everything; everything but global pages of the current space; one page in the
 * current space (INVLPG, global too); one address-space by PCID. */
void bt_tlb_flush_all(struct bt_cpu *cpu);
void bt_tlb_flush_space(struct bt_cpu *cpu);
void bt_tlb_flush_page(struct bt_cpu *cpu, uint64_t la);
void bt_tlb_flush_pcid(struct bt_cpu *cpu, uint16_t pcid, bool keep_global);
/* CR3 changed: picks the tag for the new space. */
void bt_tlb_switch(struct bt_cpu *cpu);
/* Stores to the page at gpa must from now on (not) take the slow path on every vCPU: it holds code. */
void bt_mem_set_code(struct bt_cpu *cpu, uint64_t gpa, bool code);
bool bt_mem_has_code(struct bt_vm *vm, uint64_t gpa);

/* --- Blocks (block.c) --- */

/* Guest memory was written where code was decoded: forgets the blocks. From a vCPU (cpu) by a store, or
 * from elsewhere through the vCPUs' mail (engine's mem_written). */
void bt_block_invalidate(struct bt_cpu *cpu, uint64_t gpa, uint64_t len);

#endif
