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

/* BT_WRITE reads too where it matters (MMIO in a window), BT_WRITE_ONLY never does. */
enum bt_access { BT_READ, BT_WRITE, BT_WRITE_ONLY, BT_EXEC };

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

/* Guest operands lie where they like. */
typedef uint16_t bt_u16 __attribute__((aligned(1), may_alias));
typedef uint32_t bt_u32 __attribute__((aligned(1), may_alias));
typedef uint64_t bt_u64 __attribute__((aligned(1), may_alias));

static inline __attribute__((always_inline)) uint64_t
bt_host_load(uintptr_t p, int size)
{
	switch (size) {
	case 1: return *(volatile uint8_t *)p;
	case 2: return *(volatile bt_u16 *)p;
	case 4: return *(volatile bt_u32 *)p;
	default: return *(volatile bt_u64 *)p;
	}
}

static inline __attribute__((always_inline)) void
bt_host_store(uintptr_t p, int size, uint64_t val)
{
	switch (size) {
	case 1: *(volatile uint8_t *)p = (uint8_t)val; break;
	case 2: *(volatile bt_u16 *)p = (uint16_t)val; break;
	case 4: *(volatile bt_u32 *)p = (uint32_t)val; break;
	default: *(volatile bt_u64 *)p = val; break;
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
 * that can be had, else a bounce buffer. begin() does all checks for the access and loads a bounce
 * buffer (not for BT_WRITE_ONLY); end() writes a bounce buffer back and cannot fault. Host memory is used
 * whenever the bytes lie in one page of RAM, so locked instructions on p are atomic for every vCPU; a
 * write that bounces off a page border is serialised against other such writes.
 *
 *	struct bt_window w;
 *	uint64_t *p = bt_window_begin(cpu, &w, op->seg, ea, 8, BT_WRITE);
 *	... operate on *p, nothing that may fault ...
 *	bt_window_end(cpu, &w);
 */
struct bt_window {
	bool slow; /* end() has something to do */
	bool bounced, write;
	uint8_t size, first; /* first: bytes in the first page */
	uint64_t gpa[2];
	uint8_t *host[2]; /* NULL: MMIO, or a ROM to be written */
	uint8_t buf[64] __attribute__((aligned(64)));
};
void *bt_window_slow(struct bt_cpu *cpu, struct bt_window *w, int seg, uint64_t la, int size,
    int access);
void bt_window_finish(struct bt_cpu *cpu, struct bt_window *w);

static inline __attribute__((always_inline)) void *
bt_window_begin(struct bt_cpu *cpu, struct bt_window *w, int seg, uint64_t ea, int size, int access)
{
	uint64_t la = bt_la(cpu, seg, ea, size, access);
	struct bt_tlb_entry *e = bt_tlb_entry(cpu, la);
	uint64_t key = bt_tlb_key(cpu, la, size);

	if (likely((access == BT_READ ? e->tag_r : e->tag_w) == key)) {
		w->slow = false;
		return (void *)(la + e->addend);
	}
	return bt_window_slow(cpu, w, seg, la, size, access);
}

static inline __attribute__((always_inline)) void
bt_window_end(struct bt_cpu *cpu, struct bt_window *w)
{
	if (unlikely(w->slow))
		bt_window_finish(cpu, w);
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

/* Reads 4 or 8 aligned bytes of guest-physical memory, as a page walk does; all ones where there is none. */
uint64_t bt_phys_load(struct bt_cpu *cpu, uint64_t gpa, int size);

/* RSP + delta as the stack segment's size wraps it, and RSP's new value when the stack pointer becomes sp. */
static inline __attribute__((always_inline)) uint64_t
bt_sp(const struct bt_cpu *cpu, int64_t delta)
{
	uint64_t sp = cpu->r[X86_RSP] + (uint64_t)delta;

	if (likely(cpu->sp_size == 8))
		return sp;
	return cpu->sp_size == 4 ? (uint32_t)sp : (uint16_t)sp;
}

static inline __attribute__((always_inline)) void
bt_sp_set(struct bt_cpu *cpu, uint64_t sp)
{
	if (unlikely(cpu->sp_size == 2))
		sp = (cpu->r[X86_RSP] & ~0xffffull) | (uint16_t)sp;
	cpu->r[X86_RSP] = sp;
}

/* The stack, with the stack segment's address size: size 2, 4, 8. RSP moves only if the access
 * succeeded. */
static inline __attribute__((always_inline)) void
bt_push(struct bt_cpu *cpu, int size, uint64_t val)
{
	uint64_t sp = bt_sp(cpu, -size);

	bt_store(cpu, X86_SS, sp, size, val);
	bt_sp_set(cpu, sp);
}

static inline __attribute__((always_inline)) uint64_t
bt_pop(struct bt_cpu *cpu, int size)
{
	uint64_t val = bt_load(cpu, X86_SS, bt_sp(cpu, 0), size);

	bt_sp_set(cpu, bt_sp(cpu, size));
	return val;
}

/* --- Translation (mmu.c) --- */

/* Fetches code: the host address of the byte at linear address la for the current CPL, its guest-physical
 * address in *gpa, and marks the page accessed; raises #PF or #GP(0). NULL when it is not RAM or ROM. */
const uint8_t *bt_fetch(struct bt_cpu *cpu, uint64_t la, uint64_t *gpa);

/*
 * Forgets translations: everything; the current address space, global pages included; one page, in the
 * current space and where it is global (INVLPG); one page of a PCID (INVPCID type 0); one PCID (INVPCID
 * type 1). All are cheap: spaces are forgotten by giving them another tag. The caller decides by SDM 3,
 * 4.10.4.1 which is due; forgetting more than that is always allowed.
 */
void bt_tlb_flush_all(struct bt_cpu *cpu);
void bt_tlb_flush_space(struct bt_cpu *cpu);
void bt_tlb_flush_page(struct bt_cpu *cpu, uint64_t la);
void bt_tlb_flush_pcid_page(struct bt_cpu *cpu, uint16_t pcid, uint64_t la);
void bt_tlb_flush_pcid(struct bt_cpu *cpu, uint16_t pcid);
/* CR3 changed: picks the tag for the new space. Without CR4.PCIDE, or with flush, the space starts
 * empty (bit 63 of MOV to CR3's operand clear). */
void bt_tlb_switch(struct bt_cpu *cpu, bool flush);

#endif
