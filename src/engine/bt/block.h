/*
 * The cache of decoded blocks, one per vCPU.
 *
 * A block is a run of instructions within one page, decoded once. It is known by the guest-physical
 * address of its first byte and the mode it was decoded for, and so serves every address space that maps
 * the page. The jump table finds it by linear address; an entry holds as long as its key, which contains
 * the address-space tag, is the vCPU's.
 *
 * Blocks live in an arena. When it is full all are dropped; a block whose code was overwritten is taken
 * out of the tables at once, but its memory stays until then, so that the vCPU may be in the middle
 * of it. Its first op is replaced, which is what jump-table entries that still point to it meet.
 */
#ifndef BT_BLOCK_H
#define BT_BLOCK_H

#include "engine/bt/bt.h"

#define BT_BLOCK_OPS 32

struct bt_block {
	uint32_t next; /* arena offset of the next block that starts in the same granule, 0 at the end */
	uint16_t start, bytes; /* in the page */
	uint8_t mode;
	uint8_t count; /* instructions */
	bool kept; /* in the arena */
	uint8_t turn; /* which successor is replaced next */
	uint32_t pad;
	const struct bt_op *last; /* the op that is current when the block ran to its end */
	/* Blocks that ran after this one, at these linear addresses, while link_key was succ_key. */
	uint64_t succ_key;
	uint64_t succ_la[2];
	uint32_t succ[2]; /* arena offsets */
	uint64_t pad2;
};
static_assert(sizeof(struct bt_block) == 64, "ops stay aligned");

/* The ops follow: count of them, and a closing one where the last does not end the block. */
static inline struct bt_op *
bt_block_ops(struct bt_block *b)
{
	return (struct bt_op *)(b + 1);
}

/* A jump-table entry: block for linear address la under key. */
struct bt_jump {
	uint64_t la, key;
	struct bt_block *block;
};
/* The page chooses a row, so that INVLPG clears only that. */
#define BT_JUMP_ROWS 64u
#define BT_JUMP_SETS 128u
#define BT_JUMP_WAYS 2u

struct bt_block_cache {
	/* block_key, and a number that changes with INVLPG: what the links between blocks hold for, which
	 * are too many to be searched. */
	uint64_t link_key, generation;
	struct bt_block *current; /* running, or ran last */
	struct bt_arena *arena; /* block.c */
	struct bt_single *single; /* block.c: blocks of one instruction that are not kept */
	uint64_t decoded, flushes; /* statistics */
	struct bt_jump jump[BT_JUMP_ROWS * BT_JUMP_SETS * BT_JUMP_WAYS];
};

static inline struct bt_jump *
bt_jump_row(struct bt_block_cache *c, uint64_t la)
{
	uint64_t page = la >> 12;

	return &c->jump[((page ^ page >> 6) % BT_JUMP_ROWS) * BT_JUMP_SETS * BT_JUMP_WAYS];
}

static inline struct bt_jump *
bt_jump_set(struct bt_block_cache *c, uint64_t la)
{
	return bt_jump_row(c, la) + (la ^ la >> 7) % BT_JUMP_SETS * BT_JUMP_WAYS;
}

/* The block at la if the jump table has it, else NULL. */
static inline struct bt_block *
bt_jump_find(struct bt_block_cache *c, uint64_t la, uint64_t key)
{
	struct bt_jump *j = bt_jump_set(c, la);

	if (likely(j[0].la == la && j[0].key == key))
		return j[0].block;
	if (j[1].la == la && j[1].key == key)
		return j[1].block;
	return NULL;
}

/* The linear address of the next instruction. */
static inline uint64_t
bt_code_la(const struct bt_cpu *cpu)
{
	return (cpu->r[BT_REG_RIP] + cpu->sbase[X86_CS]) & cpu->la_mask;
}

/* The block that ran after b at la, or NULL. */
static inline struct bt_block *
bt_block_next(struct bt_block_cache *c, const struct bt_block *b, uint64_t la)
{
	if (unlikely(b->succ_key != c->link_key))
		return NULL;
	if (b->succ_la[0] == la)
		return (struct bt_block *)((char *)c->arena + b->succ[0]);
	if (b->succ_la[1] == la)
		return (struct bt_block *)((char *)c->arena + b->succ[1]);
	return NULL;
}

/* Remembers next, at la, as a successor of b; both are in the arena. */
static inline void
bt_block_link(struct bt_block_cache *c, struct bt_block *b, struct bt_block *next, uint64_t la)
{
	if (b->succ_key != c->link_key) {
		b->succ_key = c->link_key;
		b->succ_la[0] = b->succ_la[1] = ~la;
	}
	b->succ_la[b->turn] = la;
	b->succ[b->turn] = (uint32_t)((char *)next - (char *)c->arena);
	b->turn ^= 1;
}

int bt_block_create(struct bt_cpu *cpu);
void bt_block_destroy(struct bt_cpu *cpu);

/* The block at RIP, which the jump table does not have: found, or decoded. Raises what fetching raises.
 * NULL: something happened meanwhile, look at attention and come again. */
struct bt_block *bt_block_find(struct bt_cpu *cpu);
/* A block of exactly the instruction at RIP, valid until the next call. */
struct bt_block *bt_block_single(struct bt_cpu *cpu);

/* Forgets blocks: those that touch [gpa, gpa + len); all. On the vCPU's thread, any time. */
void bt_block_invalidate(struct bt_cpu *cpu, uint64_t gpa, uint64_t len);
void bt_block_flush(struct bt_cpu *cpu);
/* Translations were forgotten: the page's at la in every space, all. */
void bt_block_forget_page(struct bt_cpu *cpu, uint64_t la);
void bt_block_forget_all(struct bt_cpu *cpu);

#endif
