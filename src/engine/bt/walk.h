/*
 * Between the page walk (mmu.c) and what uses its result (access.c).
 */
#ifndef BT_WALK_H
#define BT_WALK_H

#include "engine/bt/mem.h"

/* Low bits of bt_tlb_entry.gpa and bt_xlat.flags. */
#define BT_TLBE_W BIT(0) /* stores are allowed, and the page is marked dirty */
#define BT_TLBE_ROM BIT(1) /* stores go to the machine */
#define BT_TLBE_LARGE BIT(2) /* a piece of a large page */
#define BT_TLBE_MMIO BIT(3) /* no host memory behind it */

/* What bt_walk_once() returns besides the P and RSVD bits of a page fault. */
#define BT_WALK_OK 0x100
#define BT_WALK_RETRY 0x200

/* A translation. */
struct bt_xlat {
	uint64_t gpa; /* of the byte asked for */
	unsigned flags; /* BT_TLBE_* */
};

/* The bit of bt_cpu.large_filter for the 1 GiB region of la. */
static inline uint64_t
bt_large_hash(uint64_t la)
{
	uint64_t region = la >> 30;

	return 1ull << ((region ^ region >> 6 ^ region >> 12) & 63);
}

/* Walks the tables for an access with the rights of set (fetches: BT_TLB_USER or another), sets accessed
 * and dirty bits; raises #PF. la is canonical. */
void bt_walk(struct bt_cpu *cpu, uint64_t la, enum bt_tlb_set set, int access, struct bt_xlat *x);

#endif
