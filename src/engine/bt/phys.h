/*
 * Guest-physical memory of the software CPU: which host memory backs it, which parts of it have been
 * decoded as code, and the mail by which a change of either reaches every vCPU.
 *
 * Code and writes. Each 64 bytes of RAM (a granule) have a bit that says that some vCPU may hold
 * decoded blocks of it. A store to a page with such a bit never goes straight to memory: the slow path
 * stores, then looks at the bit, and if it is set clears it and has the blocks forgotten everywhere:
 * at once on the storing vCPU, by mail on the others. A vCPU that decodes sets the bit before it reads
 * the bytes, so either it sees the store or the store sees the bit.
 *
 * The TLBs of other vCPUs may still allow direct stores to a page that gets its first bit. The decoding
 * vCPU therefore mails them and waits until each has dropped such entries or is outside guest code, where
 * it reads its mail before it goes on. So no store is ever missed, and what the manual promises for
 * cross-modifying code (SDM 3, 8.1.3) holds: mail is posted before the store's successors become visible,
 * and every vCPU looks at its mail between any two instructions.
 *
 *	modifying vCPU                      executing vCPU
 *	store code                          loop: load flag
 *	bit set: mail, attention            serialising instruction
 *	store flag                          (attention: blocks forgotten)
 *	                                    runs the new code
 */
#ifndef BT_PHYS_H
#define BT_PHYS_H

#include "engine/bt/bt.h"

#define BT_GRANULE 64u /* bytes of code one bit stands for */
#define BT_REGIONS 32

/* One mapping (engine mem_map). */
struct bt_region {
	uint64_t gpa, len;
	uint8_t *host;
	bool writable;
	_Atomic uint64_t *code; /* per page, a bit per granule; lazily resident */
};

struct bt_mem {
	int phys_bits; /* MAXPHYADDR */
	atomic_flag lock; /* held by a bounced write, see struct bt_window */
	int count;
	struct bt_region region[BT_REGIONS];
};

int bt_mem_create(struct bt_vm *vm, int phys_bits);
void bt_mem_destroy(struct bt_vm *vm);
/* Main thread, or any while no vCPU runs. 0, -EINVAL, -ENOSPC, -ENOMEM; -ENOENT for what was not mapped as
 * one piece. */
int bt_mem_map(struct bt_vm *vm, uint64_t gpa, void *host, uint64_t len, bool writable);
int bt_mem_unmap(struct bt_vm *vm, uint64_t gpa, uint64_t len);

static inline const struct bt_region *
bt_mem_find(const struct bt_mem *mem, uint64_t gpa)
{
	for (int i = 0; i < mem->count; i++)
		if (gpa - mem->region[i].gpa < mem->region[i].len)
			return &mem->region[i];
	return NULL;
}

static inline _Atomic uint64_t *
bt_mem_code(const struct bt_region *r, uint64_t gpa)
{
	return &r->code[(gpa - r->gpa) >> 12];
}

/* The bits of the granules that [gpa, gpa + len) touches, all in one page; len is not 0. */
static inline uint64_t
bt_mem_granules(uint64_t gpa, uint64_t len)
{
	unsigned first = (gpa & 0xfff) / BT_GRANULE;
	unsigned last = ((gpa & 0xfff) + len - 1) / BT_GRANULE;

	return (~0ull << first) & (~0ull >> (63 - last));
}

/* A vCPU is about to decode len bytes at gpa, in one page of r: their stores are seen from now on. */
void bt_mem_mark_code(struct bt_cpu *cpu, const struct bt_region *r, uint64_t gpa, uint64_t len);
/* A vCPU has stored len bytes at gpa, in one page of r, past the TLB. */
void bt_mem_code_hit(struct bt_cpu *cpu, const struct bt_region *r, uint64_t gpa, uint64_t len);

static inline void
bt_mem_wrote(struct bt_cpu *cpu, const struct bt_region *r, uint64_t gpa, uint64_t len)
{
	/* The store must be visible before the bit is read: see the top of this file. */
	if (cpu->vm->vcpus > 1)
		atomic_thread_fence(memory_order_seq_cst);
	if (unlikely(*bt_mem_code(r, gpa) & bt_mem_granules(gpa, len)))
		bt_mem_code_hit(cpu, r, gpa, len);
}

/* Someone other than a vCPU wrote guest memory (engine mem_written). Any thread. */
void bt_mem_written(struct bt_vm *vm, uint64_t gpa, uint64_t len);

/* --- Mail --- */

int bt_mail_create(struct bt_cpu *cpu);
void bt_mail_destroy(struct bt_cpu *cpu);
/* Does what the mail asks; any time on the vCPU's thread. */
void bt_mail_read(struct bt_cpu *cpu);
/* Changes when mail is read. */
uint32_t bt_mail_seen(const struct bt_cpu *cpu);
/* Around everything that may take long or block: between leave and enter the vCPU touches no guest
 * memory, and nobody waits for it. */
void bt_cpu_enter(struct bt_cpu *cpu);
void bt_cpu_leave(struct bt_cpu *cpu);

#endif
