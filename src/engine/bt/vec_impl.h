/*
 * The vector and x87 unit's own parts: what vec*.c share.
 *
 *	vec.c        state: parked and live, reset, features
 *	vec_table.c  what each vector opcode's operands are
 *	vec_lower.c  instruction -> thunk and op
 *	vec_thunk.c  the thunk cache; host signals that thunks raise
 *	vec_ops.c    handlers of vector instructions
 *	vec_mask.c   masked memory operands, gathers, scatters
 *	vec_x87.c    x87 instructions, environments
 *	vec_xsave.c  FXSAVE, XSAVE and relatives, MXCSR
 *
 * Whether an encoding is defined is not in any table: the host decides. When a thunk is made it is
 * run once on scratch state, and if the host raises #UD so does the guest's instruction. The tables
 * only say how much memory an opcode touches and which general registers; an opcode not in them is
 * undefined.
 */
#ifndef BT_VEC_IMPL_H
#define BT_VEC_IMPL_H

#include "engine/bt/mem.h"
#include "engine/bt/vec.h"

/* The standard format of the XSAVE area (SDM 1, 13.4). */
#define BT_XSAVE_FCW        0
#define BT_XSAVE_FSW        2
#define BT_XSAVE_FTW        4 /* abridged: bit i set when register i is not empty */
#define BT_XSAVE_FOP        6
#define BT_XSAVE_FIP        8
#define BT_XSAVE_FCS        12 /* in the format without 64-bit pointers */
#define BT_XSAVE_FDP        16
#define BT_XSAVE_FDS        20
#define BT_XSAVE_MXCSR      24
#define BT_XSAVE_MXCSR_MASK 28
#define BT_XSAVE_ST         32
#define BT_XSAVE_XMM        160
#define BT_XSAVE_LEGACY     512
#define BT_XSAVE_BV         512
#define BT_XSAVE_XCOMP_BV   520
#define BT_XSAVE_EXTENDED   576
#define BT_XCOMP_BV_COMPACT BIT64(63)
#define BT_XCOMPS           8 /* components 2 to 7 have places of their own */

/* CPUID leaf 0xd, subleaf 1, EAX */
#define BT_XSAVE_HAS_OPT BIT(0)
#define BT_XSAVE_HAS_C   BIT(1)
#define BT_XSAVE_HAS_S   BIT(3)

#define BT_MXCSR_RESET 0x1f80u
/* Without AMD's misaligned exception mask, which is not offered (APM 2, 11.2.3). */
#define BT_MXCSR_MASK  0xffffu
#define BT_FCW_INIT    0x37f

/* The components the unit can keep. */
#define BT_VEC_XCR0 (X86_XCR0_X87 | X86_XCR0_SSE | X86_XCR0_AVX | X86_XCR0_AVX512)

/*
 * Bits of cpu->fpu_live: state is in the host's registers, and these kinds of instructions may run.
 * A handler tests its kind's bit, which so answers both; bt_vec_enter() sorts out what is the
 * matter.
 */
#define BT_VEC_LIVE   BIT(0)
#define BT_VEC_X87    BIT(1)
#define BT_VEC_FWAIT  BIT(2)
#define BT_VEC_MMX    BIT(3)
#define BT_VEC_SSE    BIT(4)
#define BT_VEC_AVX    BIT(5) /* VEX */
#define BT_VEC_AVX512 BIT(6) /* EVEX, and VEX instructions on opmask registers */

struct bt_fpu {
	/* The parked state in standard format, 64-bit pointers. XSTATE_BV tells which components
	 * hold something; those it leaves out are in their initial state whatever is written here.
	 */
	uint8_t image[X86_XSAVE_SIZE] __attribute__((aligned(64)));
	uint8_t area[X86_XSAVE_SIZE] __attribute__((aligned(64))); /* the guest's, being handled */
	uint8_t bounce[64] __attribute__((aligned(64)));
	struct bt_window window;
	uint64_t mask; /* components kept */
	struct {
		uint32_t offset, size; /* in the standard format */
		bool align;            /* in the compacted format: to 64 bytes */
	} comp[BT_XCOMPS];             /* from 2 on, those in mask */
	uint32_t xsave_features;       /* CPUID leaf 0xd, subleaf 1, EAX: BT_XSAVE_HAS_* */
	uint64_t fip, fdp; /* last non-control x87 instruction and its operand; the image follows */
	uint16_t fcs, fds, fop;
	uint8_t allowed;            /* BT_VEC_*, by the control registers: bt_fpu_mode() */
	bool has_xsave, has_avx;    /* the host */
	bool probing, probe_failed; /* bt_thunk_probe() */
	struct bt_op uncached[2];   /* bt_vec_uncached() */
	const struct bt_op *uncached_op;
};

/* --- Thunks (vec_thunk.c) --- */

/* Native code for one instruction: memory operand at mem, a general register source in src. Returns
 * a general register result, or flags in cpu->fl's format in a; PCMPxSTRI's index in d. */
struct bt_pair {
	uint64_t a, d;
};
typedef struct bt_pair bt_thunk_fn(void *mem, uint64_t src, uint64_t src2);

/* The registers an instruction in a thunk finds its operands in. */
#define BT_THUNK_MEM X86_RDI
#define BT_THUNK_SRC X86_RSI
#define BT_THUNK_DST X86_RAX

/* What surrounds the instruction. */
enum bt_thunk_shape {
	BT_THUNK_PLAIN,
	BT_THUNK_FLAGS,       /* returns flags */
	BT_THUNK_PCMPSTR,     /* RAX = src, RDX = src2; returns flags and ECX */
	BT_THUNK_FLAGS_INOUT, /* flags = src; returns flags */
};

#define BT_CODE_MAX 7
/* An instruction re-encoded; as 64 bits it is the key of the cache. */
union bt_code {
	struct {
		uint8_t bytes[BT_CODE_MAX];
		uint8_t len : 4, shape : 4;
	};
	int64_t key;
};

/* The thunk's code. NULL: the host does not know the instruction. bt_thunk_full: there is no room
 * for it; bt_thunk_slot() has to be used. Vector state is parked after a new thunk was made. */
const void *bt_thunk_get(struct bt_cpu *cpu, const union bt_code *c);
extern const char bt_thunk_full[];
/* Writes the code to this vCPU's own slot, good until the next call. */
const void *bt_thunk_slot(struct bt_cpu *cpu, int64_t key);

/* Registers to and from memory, in full width: vector n (64, 32 or 16 bytes as the host has them),
 * opmask n. Vector state must be live. */
void bt_vec_get(struct bt_cpu *cpu, unsigned n, void *buf);
void bt_vec_put(struct bt_cpu *cpu, unsigned n, const void *buf);
uint64_t bt_vec_get_mask(struct bt_cpu *cpu, unsigned n);
void bt_vec_put_mask(struct bt_cpu *cpu, unsigned n, uint64_t val);
/* FWAIT: raises #MF if an x87 exception is pending. */
void bt_vec_wait(struct bt_cpu *cpu);

/* The vCPU whose state is in this thread's registers, for the signal handler. */
void bt_thunk_current(struct bt_cpu *cpu);

/* --- State (vec.c) --- */

/* Called when fpu_live lacks the bit of an instruction's kind: raises #UD or #NM, or makes state
 * live. */
void bt_vec_enter(struct bt_cpu *cpu, uint8_t kind);

static inline void
bt_vec_ready(struct bt_cpu *cpu, uint8_t kind)
{
	if (unlikely(!(cpu->fpu_live & kind)))
		bt_vec_enter(cpu, kind);
}

/* The host's own control words, an empty x87 stack. */
void bt_fpu_host(const struct bt_fpu *fpu);
/* Every component in its initial state. Only while parked. */
void bt_fpu_blank(struct bt_fpu *fpu);
/* The pointers of the last x87 instruction, from and to the parked image. */
void bt_fpu_pointers_load(struct bt_fpu *fpu);
void bt_fpu_pointers_store(struct bt_fpu *fpu);
/* The components a struct bt_fpu keeps on this host: x87, SSE, and what XCR0 has of ours. */
uint64_t bt_fpu_host_mask(void);
/* Components that are not in use, of those in which, get their initial values in the image. */
void bt_fpu_normalize(const struct bt_fpu *fpu, uint8_t *image, uint64_t which);

/* --- The table (vec_table.c) --- */

/* What a vector instruction's operands are. "r/m" is a vector register or memory unless said
 * otherwise. */
enum bt_vec_kind {
	BT_VK_LOAD,    /* r/m is a source */
	BT_VK_STORE,   /* r/m is the destination */
	BT_VK_REG,     /* registers only; a memory operand is undefined */
	BT_VK_GPR_SRC, /* r/m is a source, a general register or memory */
	BT_VK_GPR_DST, /* r/m is the destination, a general register or memory */
	BT_VK_GPR_REG, /* reg is a general register, the destination; r/m a source */
	BT_VK_FLAGS,   /* r/m is a source, the result is flags */
	BT_VK_PCMPSTRI,
	BT_VK_PCMPSTRM,
	BT_VK_VMASK_LOAD, /* mask in vvvv's sign bits */
	BT_VK_VMASK_STORE,
	BT_VK_MASKMOV, /* to [rDI]; a mask in r/m picks bytes, but all are accessed */
	BT_VK_EXPAND,
	BT_VK_COMPRESS,
	BT_VK_GATHER,
	BT_VK_SCATTER,
	BT_VK_NONE,  /* no operands, no ModRM */
	BT_VK_MXCSR, /* VLDMXCSR, VSTMXCSR */
};

/* Size of a memory operand, in bytes or by VL and W. */
enum bt_vec_size {
	BT_VS_0,
	BT_VS_1,
	BT_VS_2,
	BT_VS_4,
	BT_VS_8,
	BT_VS_16,
	BT_VS_32,
	BT_VS_BW,  /* 1, with W 2 */
	BT_VS_DQ,  /* 4, with W 8 */
	BT_VS_VL,  /* the vector length (legacy: 16) */
	BT_VS_VL2, /* half of it */
	BT_VS_VL4,
	BT_VS_VL8,
	BT_VS_DUP, /* MOVDDUP: 8 of 16, else the vector length */
};

#define BT_VF_ALIGNED BIT(0) /* memory must be aligned to its size in every encoding */
#define BT_VF_ANY     BIT(1) /* legacy: 16 bytes of memory need not be aligned */
#define BT_VF_MMX     BIT(2) /* an MMX instruction: needs no SSE */
#define BT_VF_OPMASK  BIT(3) /* on opmask registers */
#define BT_VF_REPEAT  BIT(4) /* memory is repeated to fill the vector */
#define BT_VF_SHA     BIT(5) /* AMD's processors take memory of any alignment, Intel's do not */

struct bt_vec_row {
	uint8_t first, last; /* opcodes */
	uint8_t pps;         /* bits of enum bt_pp */
	uint8_t encs;        /* bits of enum bt_encoding, BT_VE_W0, BT_VE_W1 */
	uint8_t kind;        /* enum bt_vec_kind */
	uint8_t size;        /* enum bt_vec_size; 0: no memory operand */
	uint8_t elem;  /* EVEX: memory elements that a mask turns off cannot fault; their size. 0:
			  they  can, all of the operand is read whatever the mask */
	uint8_t flags; /* BT_VF_* */
};
#define BT_VE_W0 BIT(3) /* only with W clear */
#define BT_VE_W1 BIT(4)

/* The row of a BT_ID_VEC instruction, or NULL. */
const struct bt_vec_row *bt_vec_row(const struct bt_insn *in);
/* Bytes of a memory operand or element; w stands for in->w. Embedded broadcasts are the caller's.
 */
unsigned bt_vec_size_bytes(enum bt_vec_size size, const struct bt_insn *in, bool w);

/* --- Lowering --- */

/* Picks how an op with a thunk is run: sets fn, osize and ptr. #UD when the host does not know it.
 */
void bt_vec_bind(struct bt_cpu *cpu, struct bt_op *op, const union bt_code *c, uint8_t handler);
void bt_x87_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op);
void bt_xsave_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op);
/* LDMXCSR, STMXCSR; kind is BT_VEC_SSE or BT_VEC_AVX. */
void bt_mxcsr_lower(struct bt_op *op, bool load, uint8_t kind);

/*
 * Handlers of instructions run by thunks. In their ops ptr is the thunk, x the size of the memory
 * operand, y the kind (BT_VEC_*), osize the handler's number.
 */
enum bt_vec_handler {
	BT_VH_REG,
	BT_VH_LOAD,
	BT_VH_LOAD_A, /* aligned */
	BT_VH_STORE,
	BT_VH_STORE_A,
	BT_VH_SRC, /* op->rm: a general register source */
	BT_VH_GPR, /* op->reg: a general register destination */
	BT_VH_GPR_LOAD,
	BT_VH_FLAGS,
	BT_VH_FLAGS_LOAD,
	BT_VH_FLAGS_LOAD_A,
	BT_VH_PCMPSTRI,
	BT_VH_PCMPSTRI_LOAD,
	BT_VH_STORE_PART, /* some of the bytes, but all of them must be writable */
	BT_VH_MASK_LOAD,  /* reg: the size of an element in memory; rm: the mask (BT_MASK_*) */
	BT_VH_MASK_LOAD_A,
	BT_VH_MASK_STORE,
	BT_VH_MASK_STORE_A,
	BT_VH_EXPAND,
	BT_VH_COMPRESS,
	/* x87: x is ModRM, y the low bits of the opcode, rm the size of the memory operand. */
	BT_VH_X87,
	BT_VH_X87_LOAD,
	BT_VH_X87_STORE,
	BT_VH_X87_FLAGS,   /* flags in and out */
	BT_VH_X87_CONTROL, /* leaves the instruction pointers alone */
	BT_VH_X87_CONTROL_LOAD,
	BT_VH_X87_CONTROL_STORE,
	BT_VH_X87_FNSTSW_AX,
	BT_VH_X87_FNINIT,
	BT_VH_COUNT,
};
extern bt_fn *const bt_vec_handlers[BT_VH_COUNT];
/* Runs an op that found no place in the cache: imm is its union bt_code. */
bt_fn bt_vec_uncached;

bt_fn bt_vec_mask_load, bt_vec_mask_load_a, bt_vec_mask_store, bt_vec_mask_store_a, bt_vec_expand,
    bt_vec_compress;
bt_fn bt_x87_reg, bt_x87_load, bt_x87_store, bt_x87_flags, bt_x87_control, bt_x87_control_load,
    bt_x87_control_store, bt_x87_fnstsw_ax, bt_x87_fninit;

/* In op->rm, where a masked operand's mask is: an opmask register, of which the low 1 << log bits
 * count, or the sign bits of a vector's elements. */
#define BT_MASK_OPMASK(n, log) ((uint8_t)((n) | (log) << 3))
#define BT_MASK_SIGNS(n)       ((uint8_t)(BT_MASK_IS_SIGNS | (n)))
#define BT_MASK_IS_SIGNS       BIT(7)

/* Gathers and scatters: index register, its element size, and the number of elements. */
void bt_gather_lower(struct bt_op *op, const struct bt_insn *in, bool scatter);

/* --- Memory --- */

/* Host memory for an operand that lies in one page of RAM the TLB knows, else NULL. */
static inline __attribute__((always_inline)) void *
bt_vec_host(struct bt_cpu *cpu, int seg, uint64_t ea, unsigned size, int access)
{
	uint64_t la = (ea + cpu->sbase[seg]) & cpu->la_mask;
	struct bt_tlb_entry *e = bt_tlb_entry(cpu, la);

	if (unlikely((access == BT_READ ? e->tag_r : e->tag_w) != bt_tlb_key(cpu, la, (int)size)) ||
	    unlikely((cpu->seg_checks >> seg) & 1))
		return NULL;
	return (void *)(la + e->addend);
}

/* #GP(0) unless the linear address is aligned to size, a power of 2. */
static inline void
bt_vec_check_aligned(struct bt_cpu *cpu, int seg, uint64_t ea, unsigned size)
{
	if (unlikely((ea + cpu->sbase[seg]) & (size - 1)))
		bt_raise_error(cpu, X86_GP, 0);
}

static inline struct bt_pair
bt_thunk_call(const struct bt_op *op, void *mem, uint64_t src, uint64_t src2)
{
	return ((bt_thunk_fn *)(uintptr_t)op->ptr)(mem, src, src2);
}

/* A thunk without general registers. */
static inline void
bt_thunk_run(const struct bt_op *op, void *mem)
{
	((void (*)(void *))(uintptr_t)op->ptr)(mem);
}

static inline uint16_t
bt_get16(const uint8_t *p)
{
	return (uint16_t)bt_host_load((uintptr_t)p, 2);
}

static inline uint32_t
bt_get32(const uint8_t *p)
{
	return (uint32_t)bt_host_load((uintptr_t)p, 4);
}

static inline uint64_t
bt_get64(const uint8_t *p)
{
	return bt_host_load((uintptr_t)p, 8);
}

static inline void
bt_put(uint8_t *p, int size, uint64_t val)
{
	bt_host_store((uintptr_t)p, size, val);
}

/* The effective address off bytes further on. */
static inline uint64_t
bt_ea_add(const struct bt_op *op, uint64_t ea, uint64_t off)
{
	ea += off;
	if (likely(op->asize == 8))
		return ea;
	return op->asize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

/* Copies between the guest and the host; bt_probe() has found the range accessible. May park. */
void bt_vec_copy_in(
    struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, void *dst, uint32_t size);
void bt_vec_copy_out(
    struct bt_cpu *cpu, const struct bt_op *op, uint64_t ea, const void *src, uint32_t size);

#endif
