/*
 * The cache of decoded blocks. See block.h.
 *
 * The arena: a header, then blocks and page nodes in the order they were made, never freed singly. A
 * page node lists the blocks that start in its page, by granule.
 */
#include "engine/bt/block.h"

#include "engine/bt/mem.h"
#include "engine/bt/phys.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

/* All vCPUs together; each has at least the smaller size. A Linux guest's hot kernel and user code fits in
 * about 4 MiB. */
#define BT_ARENA_TOTAL MIB(5)
#define BT_ARENA_MIN MIB(1)
#define BT_PAGE_BUCKETS 1024u
#define BT_GRANULES (0x1000 / BT_GRANULE)
#define BT_CROSS_SLOTS 64u

/* Code in one guest-physical page. Links are arena offsets, 0 for none. */
struct bt_page {
	uint64_t gpa;
	uint32_t next; /* in the bucket */
	uint32_t pad[5];
	uint32_t head[BT_GRANULES]; /* blocks that start in each granule */
};
static_assert(sizeof(struct bt_page) % sizeof(struct bt_op) == 0, "ops stay aligned");

struct bt_arena {
	uint32_t size, used;
	uint32_t pad[6];
	uint32_t bucket[BT_PAGE_BUCKETS];
};

/* Room for a block of one instruction: op, closing op. */
struct bt_one {
	struct bt_block block;
	struct bt_op op[2];
} __attribute__((aligned(32)));
static_assert(offsetof(struct bt_one, op) == sizeof(struct bt_block), "as bt_block_ops() has it");

/* An instruction that crosses a page, kept because its bytes are compared each time. */
struct bt_cross {
	struct bt_one one;
	uint64_t gpa;
	uint8_t mode, len;
	uint8_t bytes[16];
};

struct bt_single {
	struct bt_one one;
	struct bt_cross cross[BT_CROSS_SLOTS];
};

static void
bt_op_close(struct bt_cpu *cpu, const struct bt_op *op)
{
	(void)cpu;
	(void)op;
}

/* Stands at the start of a block that was forgotten: drops the jump-table entry that led here. */
static void
bt_op_stale(struct bt_cpu *cpu, const struct bt_op *op)
{
	struct bt_jump *j;

	cpu->r[BT_REG_RIP] -= op->len;
	cpu->op = &bt_op_none;
	j = bt_jump_set(cpu->blocks, bt_code_la(cpu));
	for (unsigned i = 0; i < BT_JUMP_WAYS; i++)
		if (j[i].block == cpu->blocks->current)
			j[i].key = 0;
	cpu->insns -= cpu->blocks->current->count;
}

/* --- Keys --- */

/* What decoding and lowering depend on, bits 12 to 19 of block_key. */
static uint8_t
bt_block_mode_bits(const struct bt_cpu *cpu)
{
	return (uint8_t)(cpu->code_size | (cpu->pe && !cpu->vm86));
}

/* Whether the code segment has a limit that code might run into. */
static bool
bt_code_limited(const struct bt_cpu *cpu)
{
	return cpu->code_size != 8 && cpu->seg[X86_CS].limit != UINT32_MAX;
}

void
bt_block_mode(struct bt_cpu *cpu)
{
	cpu->block_key = BIT64(63) | (uint64_t)bt_block_mode_bits(cpu) << 12 |
	    (uint64_t)(cpu->cpl == 3) << 20 | cpu->as_tag;
	/* Blocks of a limited segment never enter the jump table: each run of one is checked. */
	if (bt_code_limited(cpu))
		cpu->block_key |= BIT64(21);
	if (cpu->blocks != NULL)
		cpu->blocks->link_key = cpu->block_key | cpu->blocks->generation << 22;
}

/* --- Arena --- */

static void *
bt_arena_at(struct bt_arena *a, uint32_t off)
{
	return (char *)a + off;
}

static void
bt_arena_reset(struct bt_arena *a)
{
	a->used = sizeof(*a);
	bt_zero(a->bucket, sizeof(a->bucket));
}

int
bt_block_create(struct bt_cpu *cpu)
{
	struct bt_block_cache *c = calloc(1, sizeof(*c));
	uint64_t size = MAX(BT_ARENA_MIN, BT_ARENA_TOTAL / (uint64_t)cpu->vm->vcpus);
	void *arena;

	if (c == NULL)
		return -ENOMEM;
	c->single = aligned_alloc(32, ALIGN_UP(sizeof(*c->single), 32));
	if (c->single == NULL)
		goto free_cache;
	bt_zero(c->single, sizeof(*c->single));
	size = ALIGN_UP(size, 0x1000);
	arena = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (arena == MAP_FAILED)
		goto free_single;
	c->arena = arena;
	c->arena->size = (uint32_t)size;
	bt_arena_reset(c->arena);
	cpu->blocks = c;
	return 0;
free_single:
	free(c->single);
free_cache:
	free(c);
	return -ENOMEM;
}

void
bt_block_destroy(struct bt_cpu *cpu)
{
	if (cpu->blocks == NULL)
		return;
	munmap(cpu->blocks->arena, cpu->blocks->arena->size);
	free(cpu->blocks->single);
	free(cpu->blocks);
	cpu->blocks = NULL;
}

static uint32_t *
bt_page_bucket(struct bt_arena *a, uint64_t gpa)
{
	uint64_t page = gpa >> 12;

	return &a->bucket[(page ^ page >> 10) % BT_PAGE_BUCKETS];
}

static struct bt_page *
bt_page_find(struct bt_arena *a, uint64_t gpa)
{
	for (uint32_t off = *bt_page_bucket(a, gpa); off != 0;) {
		struct bt_page *page = bt_arena_at(a, off);

		if (page->gpa == (gpa & ~0xfffull))
			return page;
		off = page->next;
	}
	return NULL;
}

static struct bt_page *
bt_page_add(struct bt_arena *a, uint64_t gpa)
{
	uint32_t *bucket = bt_page_bucket(a, gpa);
	struct bt_page *page = bt_arena_at(a, a->used);

	bt_zero(page, sizeof(*page));
	page->gpa = gpa & ~0xfffull;
	page->next = *bucket;
	*bucket = a->used;
	a->used += sizeof(*page);
	return page;
}

/* --- Forgetting --- */

void
bt_block_forget_all(struct bt_cpu *cpu)
{
	if (cpu->blocks != NULL)
		bt_zero(cpu->blocks->jump, sizeof(cpu->blocks->jump));
}

void
bt_block_forget_page(struct bt_cpu *cpu, uint64_t la)
{
	struct bt_block_cache *c = cpu->blocks;

	bt_zero(bt_jump_row(c, la), BT_JUMP_SETS * BT_JUMP_WAYS * sizeof(struct bt_jump));
	c->generation = (c->generation + 1) & 0xffffffffff;
	bt_block_mode(cpu);
}

void
bt_block_flush(struct bt_cpu *cpu)
{
	bt_block_forget_all(cpu);
	bt_arena_reset(cpu->blocks->arena);
	cpu->blocks->flushes++;
}

/* Forgets what touches bytes [first, end) of a page. */
static void
bt_page_invalidate(struct bt_arena *a, struct bt_page *page, unsigned first, unsigned end)
{
	for (unsigned g = 0; g < BT_GRANULES && g * BT_GRANULE < end; g++) {
		uint32_t *link = &page->head[g];

		while (*link != 0) {
			struct bt_block *b = bt_arena_at(a, *link);

			if (b->start < end && b->start + b->bytes > first) {
				bt_block_ops(b)->fn = bt_op_stale;
				*link = b->next;
			} else {
				link = &b->next;
			}
		}
	}
}

void
bt_block_invalidate(struct bt_cpu *cpu, uint64_t gpa, uint64_t len)
{
	struct bt_arena *a = cpu->blocks->arena;

	while (len > 0) {
		uint64_t off = gpa & 0xfff, n = MIN(len, 0x1000 - off);
		struct bt_page *page = bt_page_find(a, gpa);

		if (page != NULL)
			bt_page_invalidate(a, page, (unsigned)off, (unsigned)(off + n));
		gpa += n;
		len -= n;
	}
}

/* --- Decoding --- */

static void
bt_block_close(struct bt_op *op)
{
	*op = (struct bt_op){ .fn = bt_op_close };
}

/* Bytes of code from RIP that the code segment's limit allows, at most max; #GP(0) if not even one. */
static int
bt_code_room(struct bt_cpu *cpu, int max)
{
	uint64_t rip = cpu->r[BT_REG_RIP], limit = cpu->seg[X86_CS].limit;

	if (cpu->code_size == 8)
		return max;
	if (rip > limit)
		bt_raise_error(cpu, X86_GP, 0);
	return limit - rip >= (uint64_t)max ? max : (int)(limit - rip) + 1;
}

/* Copies up to 15 bytes of code that lie in one page; from MMIO byte by byte. */
static int
bt_code_copy(struct bt_cpu *cpu, uint64_t la, int max, uint8_t *bytes, uint64_t *gpa)
{
	const uint8_t *host = bt_fetch(cpu, la, gpa);
	int n = MIN(max, (int)(0x1000 - (la & 0xfff)));

	if (host != NULL)
		bt_copy(bytes, host, (size_t)n);
	else
		for (int i = 0; i < n; i++)
			bytes[i] = (uint8_t)bt_mmio_read(cpu, *gpa + (uint64_t)i, 1);
	return n;
}

/* Decodes into one; raises #GP(0) for an instruction that is too long or runs past the limit. */
static struct bt_block *
bt_one_make(struct bt_cpu *cpu, struct bt_one *one, const uint8_t *bytes, int avail)
{
	struct bt_insn in;

	if (bt_decode(bytes, (size_t)avail, cpu->code_size, &in) != 0)
		bt_raise_error(cpu, X86_GP, 0);
	one->op[0] = (struct bt_op){ 0 };
	bt_lower(cpu, &in, &one->op[0]);
	bt_block_close(&one->op[1]);
	one->block.count = 1;
	one->block.last = one->op[0].flags & BT_OP_END ? &one->op[0] : &one->op[1];
	return &one->block;
}

static struct bt_cross *
bt_cross_slot(struct bt_block_cache *c, uint64_t gpa)
{
	return &c->single->cross[(gpa ^ gpa >> 12) % BT_CROSS_SLOTS];
}

/* Whether the instruction at gpa was last seen to run into the next page. */
static bool
bt_cross_known(struct bt_block_cache *c, uint64_t gpa, uint8_t mode)
{
	const struct bt_cross *x = bt_cross_slot(c, gpa);

	return x->gpa == gpa && x->mode == mode && x->len != 0;
}

/* An instruction that starts in one page and ends in the next. Both are looked up each time, and the bytes
 * compared, so nothing need be known about later changes of either. */
static struct bt_block *
bt_block_cross(struct bt_cpu *cpu, uint64_t la, uint64_t gpa, uint8_t *bytes, int first, int room)
{
	uint8_t mode = bt_block_mode_bits(cpu);
	struct bt_cross *x = bt_cross_slot(cpu->blocks, gpa);
	uint64_t next = (la + (uint64_t)first) & cpu->la_mask, gpa2;
	int avail = first + bt_code_copy(cpu, next, room - first, bytes + first, &gpa2);

	if (x->gpa == gpa && x->mode == mode && x->len != 0 && x->len <= avail) {
		int i = 0;

		while (i < x->len && x->bytes[i] == bytes[i])
			i++;
		if (i == x->len)
			return &x->one.block;
	}
	x->len = 0;
	bt_one_make(cpu, &x->one, bytes, avail);
	x->gpa = gpa;
	x->mode = mode;
	bt_copy(x->bytes, bytes, 15);
	x->len = x->one.op[0].len;
	return &x->one.block;
}

struct bt_block *
bt_block_single(struct bt_cpu *cpu)
{
	uint64_t la = bt_code_la(cpu), gpa;
	uint8_t bytes[16] = { 0 };
	struct bt_insn in;
	int room, avail;

	cpu->op = &bt_op_none;
	room = bt_code_room(cpu, 15);
	avail = bt_code_copy(cpu, la, room, bytes, &gpa);
	if (avail < room && bt_decode(bytes, (size_t)avail, cpu->code_size, &in) == -EAGAIN)
		return bt_block_cross(cpu, la, gpa, bytes, avail, room);
	return bt_one_make(cpu, &cpu->blocks->single->one, bytes, avail);
}

/* Decodes from gpa on until the block ends; 0 instructions when the first one does not end in the page. */
static void
bt_block_decode(struct bt_cpu *cpu, struct bt_block *b, const struct bt_region *r, uint64_t gpa)
{
	const uint8_t *host = r->host + (gpa - r->gpa);
	int left = (int)(0x1000 - (gpa & 0xfff));
	struct bt_op *op = bt_block_ops(b);

	while (b->count < BT_BLOCK_OPS) {
		int avail = MIN(15, left - b->bytes);
		struct bt_insn in;
		uint8_t bytes[16];

		if (avail == 0)
			break;
		/* Marked first, then read: see phys.h. Read once: the guest may be writing. */
		bt_mem_mark_code(cpu, r, gpa + b->bytes, (uint64_t)avail);
		bt_copy(bytes, host + b->bytes, (size_t)avail);
		if (bt_decode(bytes, (size_t)avail, cpu->code_size, &in) != 0)
			break;
		*op = (struct bt_op){ 0 };
		bt_lower(cpu, &in, op);
		b->bytes = (uint16_t)(b->bytes + op->len);
		b->count++;
		b->last = op++;
		if (b->last->flags & BT_OP_END)
			return;
	}
	b->last = op;
	bt_block_close(op);
}

static struct bt_block *
bt_block_build(struct bt_cpu *cpu, const struct bt_region *r, uint64_t gpa)
{
	struct bt_block_cache *c = cpu->blocks;
	struct bt_arena *a = c->arena;
	uint32_t seq = bt_mail_seen(cpu);
	struct bt_page *page;
	struct bt_block *b;

	if (a->size - a->used < sizeof(*page) + sizeof(*b) + (BT_BLOCK_OPS + 1) * sizeof(struct bt_op))
		bt_block_flush(cpu);
	page = bt_page_find(a, gpa);
	if (page == NULL)
		page = bt_page_add(a, gpa);
	b = bt_arena_at(a, a->used);
	*b = (struct bt_block){ .start = gpa & 0xfff, .mode = bt_block_mode_bits(cpu) };
	bt_block_decode(cpu, b, r, gpa);
	if (b->count == 0)
		return b;
	/* Mail that came in meanwhile may have been about these very bytes. */
	if (bt_mail_seen(cpu) != seq)
		return NULL;
	b->kept = true;
	b->next = page->head[b->start / BT_GRANULE];
	page->head[b->start / BT_GRANULE] = a->used;
	a->used += (uint32_t)((const char *)(b->last + 1) - (const char *)b);
	c->decoded += b->count;
	return b;
}

struct bt_block *
bt_block_find(struct bt_cpu *cpu)
{
	struct bt_block_cache *c = cpu->blocks;
	uint64_t la = bt_code_la(cpu), gpa;
	uint8_t mode = bt_block_mode_bits(cpu);
	struct bt_block *b = NULL;
	const struct bt_region *r;
	struct bt_page *page;

	cpu->op = &bt_op_none;
	bt_code_room(cpu, 1);
	if (bt_fetch(cpu, la, &gpa) == NULL)
		return bt_block_single(cpu);
	page = bt_page_find(c->arena, gpa);
	if (page != NULL)
		for (uint32_t off = page->head[(gpa & 0xfff) / BT_GRANULE]; off != 0;
		     off = b->next) {
			b = bt_arena_at(c->arena, off);
			if (b->start == (gpa & 0xfff) && b->mode == mode)
				goto found;
		}
	if (bt_cross_known(c, gpa, mode))
		return bt_block_single(cpu);
	r = bt_mem_find(cpu->vm->mem, gpa);
	b = bt_block_build(cpu, r, gpa);
	if (b == NULL)
		return NULL;
	if (b->count == 0)
		return bt_block_single(cpu);
found:
	if (!bt_code_limited(cpu)) {
		struct bt_jump *j = bt_jump_set(c, la);

		j[1] = j[0];
		j[0] = (struct bt_jump){ .la = la, .key = cpu->block_key, .block = b };
	} else if (bt_code_room(cpu, b->bytes) < b->bytes) {
		return bt_block_single(cpu);
	}
	return b;
}
