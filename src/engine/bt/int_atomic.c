/*
 * XCHG with memory, CMPXCHG, XADD, CMPXCHG8B and CMPXCHG16B (SDM 2; SDM 3, 8.1 for locking).
 *
 * The memory forms are always locked: whether the guest asked for it makes no difference it could
 * see.
 */
#include "engine/bt/int.h"

#define BT_ATOMIC(size, bits, sfx, type, con)                                                      \
	static inline __attribute__((always_inline)) void bt_atomic_xchg_##bits(                   \
	    struct bt_cpu *cpu, void *p, uint64_t src)                                             \
	{                                                                                          \
		bt_u##bits *m = p;                                                                 \
		type s = (type)src;                                                                \
                                                                                                   \
		__asm__ volatile("xchg" sfx " %[s], %[m]"                                          \
				 : [m] "+m"(*m), [s] "+" con(s)                                    \
				 :                                                                 \
				 : "memory");                                                      \
		bt_set_##bits(cpu, cpu->op->reg, s);                                               \
	}                                                                                          \
	BT_RMW_OP(bt_int_xchg_m_##bits, size, bt_atomic_xchg_##bits, bt_get_##bits(cpu, op->reg))  \
	static inline __attribute__((always_inline)) void bt_atomic_xadd_##bits(                   \
	    struct bt_cpu *cpu, void *p, uint64_t src)                                             \
	{                                                                                          \
		bt_u##bits *m = p;                                                                 \
		type s = (type)src;                                                                \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__ volatile("lock xadd" sfx " %[s], %[m]" BT_ASM_FLAGS                        \
				 : [m] "+m"(*m), [s] "+" con(s), "=&a"(fl)                         \
				 :                                                                 \
				 : "cc", "memory");                                                \
		cpu->fl = (uint16_t)fl;                                                            \
		bt_set_##bits(cpu, cpu->op->reg, s);                                               \
	}                                                                                          \
	BT_RMW_OP(bt_int_xadd_m_##bits, size, bt_atomic_xadd_##bits, bt_get_##bits(cpu, op->reg))  \
	static void bt_int_xadd_r_##bits(struct bt_cpu *cpu, const struct bt_op *op)               \
	{                                                                                          \
		type d = bt_get_##bits(cpu, op->rm), s = bt_get_##bits(cpu, op->reg);              \
		uint32_t fl;                                                                       \
                                                                                                   \
		__asm__("xadd" sfx " %[s], %[d]" BT_ASM_FLAGS                                      \
			: [d] "+" con(d), [s] "+" con(s), "=&a"(fl)                                \
			:                                                                          \
			: "cc");                                                                   \
		cpu->fl = (uint16_t)fl;                                                            \
		/* The sum last: with both operands one register it is what stays. */              \
		bt_set_##bits(cpu, op->reg, s);                                                    \
		bt_set_##bits(cpu, op->rm, d);                                                     \
		bt_next(cpu, op);                                                                  \
	}                                                                                          \
	/* RAX takes the old value only where that was not RAX's. */                               \
	static inline __attribute__((always_inline)) void bt_atomic_cmpxchg_##bits(                \
	    struct bt_cpu *cpu, void *p, uint64_t src)                                             \
	{                                                                                          \
		uint64_t a = cpu->r[X86_RAX], old;                                                 \
		bt_u##bits *m = p;                                                                 \
                                                                                                   \
		__asm__ volatile("lock cmpxchg" sfx                                                \
				 " %[s], %[m]\n\tmovq %%rax, %[old]" BT_ASM_FLAGS                  \
				 : [m] "+m"(*m), "+a"(a), [old] "=&r"(old)                         \
				 : [s] con((type)src)                                              \
				 : "cc", "memory");                                                \
		cpu->fl = (uint16_t)a;                                                             \
		if (!(a & BT_FL_ZF))                                                               \
			bt_set_##bits(cpu, BT_OFF(X86_RAX), (type)old);                            \
	}                                                                                          \
	BT_RMW_OP(bt_int_cmpxchg_m_##bits, size, bt_atomic_cmpxchg_##bits,                         \
	    bt_get_##bits(cpu, op->reg))                                                           \
	static void bt_int_cmpxchg_r_##bits(struct bt_cpu *cpu, const struct bt_op *op)            \
	{                                                                                          \
		type d = bt_get_##bits(cpu, op->rm);                                               \
                                                                                                   \
		bt_atomic_cmpxchg_##bits(cpu, &d, bt_get_##bits(cpu, op->reg));                    \
		/* A failed comparison writes nothing here, so RAX as destination keeps it. */     \
		if (cpu->fl & BT_FL_ZF)                                                            \
			bt_set_##bits(cpu, op->rm, d);                                             \
		bt_next(cpu, op);                                                                  \
	}
BT_SIZES(BT_ATOMIC)

#define BT_ATOMIC_ROW(bits)                                                                        \
	{                                                                                          \
		bt_int_xchg_m_##bits, bt_int_xadd_r_##bits, bt_int_xadd_m_##bits,                  \
		    bt_int_cmpxchg_r_##bits, bt_int_cmpxchg_m_##bits,                              \
	}
static bt_fn *const bt_atomic_table[4][5] = {
	BT_ATOMIC_ROW(8),
	BT_ATOMIC_ROW(16),
	BT_ATOMIC_ROW(32),
	BT_ATOMIC_ROW(64),
};

static void
bt_atomic_set_zf(struct bt_cpu *cpu, bool zf)
{
	cpu->fl = (uint16_t)((cpu->fl & ~BT_FL_ZF) | (zf ? BT_FL_ZF : 0));
}

static void
bt_atomic_cmpxchg8b(struct bt_cpu *cpu, void *p, uint64_t src)
{
	uint64_t old = (uint32_t)cpu->r[X86_RAX] | cpu->r[X86_RDX] << 32;
	uint64_t new = (uint32_t)cpu->r[X86_RBX] | cpu->r[X86_RCX] << 32;
	bool ok;

	__asm__ volatile("lock cmpxchgq %[new], %[m]\n\tsetz %[ok]"
			 : [m] "+m"(*(bt_u64 *)p), "+a"(old), [ok] "=q"(ok)
			 : [new] "r"(new)
			 : "cc", "memory");
	bt_atomic_set_zf(cpu, ok);
	if (!ok) {
		cpu->r[X86_RAX] = (uint32_t)old;
		cpu->r[X86_RDX] = old >> 32;
	}
}

BT_RMW_OP(bt_int_cmpxchg8b, 8, bt_atomic_cmpxchg8b, 0)

static void
bt_atomic_cmpxchg16b(struct bt_cpu *cpu, void *p, uint64_t src)
{
	uint64_t lo = cpu->r[X86_RAX], hi = cpu->r[X86_RDX];
	bool ok;

	__asm__ volatile("lock cmpxchg16b %[m]\n\tsetz %[ok]"
			 : [m] "+m"(*(unsigned __int128 *)p), "+a"(lo), "+d"(hi), [ok] "=q"(ok)
			 : "b"(cpu->r[X86_RBX]), "c"(cpu->r[X86_RCX])
			 : "cc", "memory");
	bt_atomic_set_zf(cpu, ok);
	cpu->r[X86_RAX] = lo;
	cpu->r[X86_RDX] = hi;
}

static void
bt_int_cmpxchg16b(struct bt_cpu *cpu, const struct bt_op *op)
{
	uint64_t ea = bt_ea(cpu, op);

	if ((ea + cpu->sbase[op->seg]) & 15)
		bt_raise_error(cpu, X86_GP, 0);
	bt_rmw_at(cpu, op, ea, 16, bt_atomic_cmpxchg16b, 0);
	bt_next(cpu, op);
}

bool
bt_int_atomic_lower(const struct bt_insn *in, struct bt_op *op)
{
	bt_fn *const *row = bt_atomic_table[bt_size_index(in->size)];
	bool mem = bt_int_is_mem(in);

	op->reg = bt_int_off(in, in->reg, in->size);
	op->rm = bt_int_off(in, in->rm, in->size);
	switch (in->id) {
	case BT_ID_XCHG: op->fn = row[0]; return mem;
	case BT_ID_XADD: op->fn = row[1 + mem]; return true;
	case BT_ID_CMPXCHG: op->fn = row[3 + mem]; return true;
	case BT_ID_CMPXCHG8B: op->fn = bt_int_cmpxchg8b; return mem;
	case BT_ID_CMPXCHG16B: op->fn = bt_int_cmpxchg16b; return mem;
	default: return false;
	}
}
