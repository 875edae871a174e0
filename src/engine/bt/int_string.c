/*
 * MOVS STOS LODS CMPS SCAS with and without repeat prefixes (SDM 2; SDM 1, 7.3.9).
 *
 * Repeated forward, these run a page at a time as the host's own instruction on host memory, which
 * has the same semantics down to overlapping moves. Backward, across page borders and on memory
 * that is not plain RAM they go element by element. Registers are exact whenever something can be
 * seen of them: at a fault and between two chunks, where interrupts are let in.
 */
#include "engine/bt/int.h"

static inline uint64_t
bt_str_mask(const struct bt_op *op)
{
	return op->asize == 8 ? ~0ull : op->asize == 4 ? 0xffffffffull : 0xffffull;
}

static inline bool
bt_str_repeats(const struct bt_op *op)
{
	return op->flags & (BT_OP_REP | BT_OP_REPNE);
}

static inline void
bt_str_advance(struct bt_cpu *cpu, const struct bt_op *op, int reg, uint64_t bytes)
{
	if (cpu->eflags & X86_FL_DF)
		bytes = -bytes;
	bt_set(cpu, BT_OFF(reg), op->asize, cpu->r[reg] + bytes);
}

static inline void
bt_str_count(struct bt_cpu *cpu, const struct bt_op *op, uint64_t done)
{
	bt_set(cpu, BT_OFF(X86_RCX), op->asize, cpu->r[X86_RCX] - done);
}

/* How many elements from register reg on can be done at once in host memory; 0: do one by
 * itself. */
static size_t
bt_str_span(struct bt_cpu *cpu, const struct bt_op *op, int seg, int reg, size_t count, int access,
    void **host)
{
	uint64_t ea = cpu->r[reg] & bt_str_mask(op);
	size_t max = MIN(count, 0x1000u) * op->x;

	if (cpu->eflags & X86_FL_DF)
		return 0;
	/* Single steps see every element. */
	if (atomic_load_explicit(&cpu->attn, memory_order_relaxed) & BT_ATTN_STEP)
		return 0;
	/* No wrap of a 16- or 32-bit address inside. */
	if (op->asize != 8 && ea + max - 1 > bt_str_mask(op))
		return 0;
	return bt_span(cpu, seg, ea, max, access, host) / op->x;
}

/* After a chunk of a repeated instruction: whether to go on now. If not and it is not finished
 * either, RIP is put back so that it is resumed after whatever wants attention. */
static bool
bt_str_go_on(struct bt_cpu *cpu, const struct bt_op *op)
{
	if (likely(atomic_load_explicit(&cpu->attn, memory_order_relaxed) == 0))
		return true;
	if ((cpu->r[X86_RCX] & bt_str_mask(op)) != 0)
		cpu->r[BT_REG_RIP] -= op->len;
	return false;
}

/* --- MOVS --- */

static inline void
bt_str_host_movs(void *dst, const void *src, size_t n, int size)
{
	switch (size) {
	case 1: __asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	case 2: __asm__ volatile("rep movsw" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	case 4: __asm__ volatile("rep movsl" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	default: __asm__ volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(n) : : "memory"); break;
	}
}

static void
bt_str_movs_one(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t mask = bt_str_mask(op);
	uint64_t v = bt_load(cpu, op->seg, cpu->r[X86_RSI] & mask, op->x);

	bt_store(cpu, X86_ES, cpu->r[X86_RDI] & mask, op->x, v);
	bt_str_advance(cpu, op, X86_RSI, op->x);
	bt_str_advance(cpu, op, X86_RDI, op->x);
}

static void
bt_str_rep_movs(struct bt_cpu *cpu, const struct bt_op *op, size_t count)
{
	void *src, *dst;
	size_t n = bt_str_span(cpu, op, op->seg, X86_RSI, count, BT_READ, &src);

	if (n != 0)
		n = bt_str_span(cpu, op, X86_ES, X86_RDI, n, BT_WRITE, &dst);
	if (n == 0) {
		bt_str_movs_one(cpu, op);
		bt_str_count(cpu, op, 1);
		return;
	}
	bt_str_host_movs(dst, src, n, op->x);
	bt_str_advance(cpu, op, X86_RSI, n * op->x);
	bt_str_advance(cpu, op, X86_RDI, n * op->x);
	bt_str_count(cpu, op, n);
}

/* --- STOS --- */

static inline void
bt_str_host_stos(void *dst, uint64_t v, size_t n, int size)
{
	switch (size) {
	case 1: __asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(v) : "memory"); break;
	case 2: __asm__ volatile("rep stosw" : "+D"(dst), "+c"(n) : "a"(v) : "memory"); break;
	case 4: __asm__ volatile("rep stosl" : "+D"(dst), "+c"(n) : "a"(v) : "memory"); break;
	default: __asm__ volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(v) : "memory"); break;
	}
}

static void
bt_str_stos_one(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t ea = cpu->r[X86_RDI] & bt_str_mask(op);

	bt_store(cpu, X86_ES, ea, op->x, bt_get(cpu, BT_OFF(X86_RAX), op->x));
	bt_str_advance(cpu, op, X86_RDI, op->x);
}

static void
bt_str_rep_stos(struct bt_cpu *cpu, const struct bt_op *op, size_t count)
{
	void *dst;
	size_t n = bt_str_span(cpu, op, X86_ES, X86_RDI, count, BT_WRITE, &dst);

	if (n == 0) {
		bt_str_stos_one(cpu, op);
		bt_str_count(cpu, op, 1);
		return;
	}
	bt_str_host_stos(dst, cpu->r[X86_RAX], n, op->x);
	bt_str_advance(cpu, op, X86_RDI, n * op->x);
	bt_str_count(cpu, op, n);
}

/* --- LODS --- */

static void
bt_str_lods_one(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t v = bt_load(cpu, op->seg, cpu->r[X86_RSI] & bt_str_mask(op), op->x);

	bt_set(cpu, BT_OFF(X86_RAX), op->x, v);
	bt_str_advance(cpu, op, X86_RSI, op->x);
}

static void
bt_str_rep_lods(struct bt_cpu *cpu, const struct bt_op *op, size_t count)
{
	bt_str_lods_one(cpu, op);
	bt_str_count(cpu, op, 1);
}

/* The three that end only when the count does. */
#define BT_STR_PLAIN(name)                                                                         \
	static void bt_int_##name(struct bt_cpu *cpu, const struct bt_op *op)                      \
	{                                                                                          \
		bt_str_##name##_one(cpu, op);                                                      \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_rep_##name(struct bt_cpu *cpu, const struct bt_op *op)                  \
	{                                                                                          \
		size_t count;                                                                      \
                                                                                                   \
		while ((count = cpu->r[X86_RCX] & bt_str_mask(op)) != 0) {                         \
			bt_str_rep_##name(cpu, op, count);                                         \
			if (!bt_str_go_on(cpu, op))                                                \
				return;                                                            \
		}                                                                                  \
		bt_next(cpu, op);                                                                  \
	}
BT_STR_PLAIN(movs)
BT_STR_PLAIN(stos)
BT_STR_PLAIN(lods)

/* --- CMPS and SCAS: end on ZF too --- */

#define BT_STR_COMPARE(bits, sfx, type)                                                            \
	static void bt_str_compare_##bits(struct bt_cpu *cpu, uint64_t a, uint64_t b)              \
	{                                                                                          \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__("cmp" sfx " %[b], %[a]" BT_ASM_FLAGS                                       \
			: "=&a"(fl)                                                                \
			: [a] "q"((type)a), [b] "q"((type)b)                                       \
			: "cc");                                                                   \
		cpu->fl = (uint16_t)fl;                                                            \
	}                                                                                          \
	/* Runs to the first element that ends it; how many were done. fl is of the last. */       \
	static size_t bt_str_host_cmps_##bits(struct bt_cpu *cpu, const void *a, const void *b,    \
	    size_t n, bool while_equal)                                                            \
	{                                                                                          \
		size_t left = n;                                                                   \
		uint32_t fl;                                                                       \
                                                                                                   \
		if (while_equal)                                                                   \
			__asm__ volatile("repe cmps" sfx BT_ASM_FLAGS                              \
					 : "+S"(a), "+D"(b), "+c"(left), "=&a"(fl)                 \
					 :                                                         \
					 : "cc", "memory");                                        \
		else                                                                               \
			__asm__ volatile("repne cmps" sfx BT_ASM_FLAGS                             \
					 : "+S"(a), "+D"(b), "+c"(left), "=&a"(fl)                 \
					 :                                                         \
					 : "cc", "memory");                                        \
		cpu->fl = (uint16_t)fl;                                                            \
		return n - left;                                                                   \
	}                                                                                          \
	static size_t bt_str_host_scas_##bits(struct bt_cpu *cpu, const void *p, size_t n,         \
	    bool while_equal)                                                                      \
	{                                                                                          \
		uint64_t a = cpu->r[X86_RAX];                                                      \
		size_t left = n;                                                                   \
                                                                                                   \
		if (while_equal)                                                                   \
			__asm__ volatile("repe scas" sfx BT_ASM_FLAGS                              \
					 : "+D"(p), "+c"(left), "+a"(a)                            \
					 :                                                         \
					 : "cc", "memory");                                        \
		else                                                                               \
			__asm__ volatile("repne scas" sfx BT_ASM_FLAGS                             \
					 : "+D"(p), "+c"(left), "+a"(a)                            \
					 :                                                         \
					 : "cc", "memory");                                        \
		cpu->fl = (uint16_t)a;                                                             \
		return n - left;                                                                   \
	}
BT_STR_COMPARE(8, "b", uint8_t)
BT_STR_COMPARE(16, "w", uint16_t)
BT_STR_COMPARE(32, "l", uint32_t)
BT_STR_COMPARE(64, "q", uint64_t)

static void
bt_str_compare(struct bt_cpu *cpu, uint64_t a, uint64_t b, int size)
{
	switch (size) {
	case 1: bt_str_compare_8(cpu, a, b); break;
	case 2: bt_str_compare_16(cpu, a, b); break;
	case 4: bt_str_compare_32(cpu, a, b); break;
	default: bt_str_compare_64(cpu, a, b); break;
	}
}

static size_t
bt_str_host_cmps(struct bt_cpu *cpu, const void *a, const void *b, size_t n, int size, bool equal)
{
	switch (size) {
	case 1: return bt_str_host_cmps_8(cpu, a, b, n, equal);
	case 2: return bt_str_host_cmps_16(cpu, a, b, n, equal);
	case 4: return bt_str_host_cmps_32(cpu, a, b, n, equal);
	default: return bt_str_host_cmps_64(cpu, a, b, n, equal);
	}
}

static size_t
bt_str_host_scas(struct bt_cpu *cpu, const void *p, size_t n, int size, bool equal)
{
	switch (size) {
	case 1: return bt_str_host_scas_8(cpu, p, n, equal);
	case 2: return bt_str_host_scas_16(cpu, p, n, equal);
	case 4: return bt_str_host_scas_32(cpu, p, n, equal);
	default: return bt_str_host_scas_64(cpu, p, n, equal);
	}
}

static void
bt_str_cmps_one(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t mask = bt_str_mask(op);
	uint64_t a = bt_load(cpu, op->seg, cpu->r[X86_RSI] & mask, op->x);
	uint64_t b = bt_load(cpu, X86_ES, cpu->r[X86_RDI] & mask, op->x);

	bt_str_compare(cpu, a, b, op->x);
	bt_str_advance(cpu, op, X86_RSI, op->x);
	bt_str_advance(cpu, op, X86_RDI, op->x);
}

static void
bt_str_rep_cmps(struct bt_cpu *cpu, const struct bt_op *op, size_t count)
{
	void *a, *b;
	size_t n = bt_str_span(cpu, op, op->seg, X86_RSI, count, BT_READ, &a);

	if (n != 0)
		n = bt_str_span(cpu, op, X86_ES, X86_RDI, n, BT_READ, &b);
	if (n == 0) {
		bt_str_cmps_one(cpu, op);
		bt_str_count(cpu, op, 1);
		return;
	}
	n = bt_str_host_cmps(cpu, a, b, n, op->x, op->flags & BT_OP_REP);
	bt_str_advance(cpu, op, X86_RSI, n * op->x);
	bt_str_advance(cpu, op, X86_RDI, n * op->x);
	bt_str_count(cpu, op, n);
}

static void
bt_str_scas_one(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t b = bt_load(cpu, X86_ES, cpu->r[X86_RDI] & bt_str_mask(op), op->x);

	bt_str_compare(cpu, cpu->r[X86_RAX], b, op->x);
	bt_str_advance(cpu, op, X86_RDI, op->x);
}

static void
bt_str_rep_scas(struct bt_cpu *cpu, const struct bt_op *op, size_t count)
{
	void *p;
	size_t n = bt_str_span(cpu, op, X86_ES, X86_RDI, count, BT_READ, &p);

	if (n == 0) {
		bt_str_scas_one(cpu, op);
		bt_str_count(cpu, op, 1);
		return;
	}
	n = bt_str_host_scas(cpu, p, n, op->x, op->flags & BT_OP_REP);
	bt_str_advance(cpu, op, X86_RDI, n * op->x);
	bt_str_count(cpu, op, n);
}

#define BT_STR_UNTIL(name)                                                                         \
	static void bt_int_##name(struct bt_cpu *cpu, const struct bt_op *op)                      \
	{                                                                                          \
		bt_str_##name##_one(cpu, op);                                                      \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	static void bt_int_rep_##name(struct bt_cpu *cpu, const struct bt_op *op)                  \
	{                                                                                          \
		bool while_equal = op->flags & BT_OP_REP;                                          \
		size_t count;                                                                      \
                                                                                                   \
		while ((count = cpu->r[X86_RCX] & bt_str_mask(op)) != 0) {                         \
			bt_str_rep_##name(cpu, op, count);                                         \
			if (((cpu->fl & BT_FL_ZF) != 0) != while_equal)                            \
				break;                                                             \
			if (!bt_str_go_on(cpu, op))                                                \
				return;                                                            \
		}                                                                                  \
		bt_next(cpu, op);                                                                  \
	}
BT_STR_UNTIL(cmps)
BT_STR_UNTIL(scas)

bool
bt_int_string_lower(const struct bt_insn *in, struct bt_op *op)
{
	bool rep = bt_str_repeats(op);

	op->x = in->size;
	switch (in->id) {
	case BT_ID_MOVS: op->fn = rep ? bt_int_rep_movs : bt_int_movs; return true;
	case BT_ID_STOS: op->fn = rep ? bt_int_rep_stos : bt_int_stos; return true;
	case BT_ID_LODS: op->fn = rep ? bt_int_rep_lods : bt_int_lods; return true;
	case BT_ID_CMPS: op->fn = rep ? bt_int_rep_cmps : bt_int_cmps; return true;
	case BT_ID_SCAS: op->fn = rep ? bt_int_rep_scas : bt_int_scas; return true;
	default: return false;
	}
}
