/*
 * The software CPU: what its parts share.
 *
 *	decode.c  bytes -> struct bt_insn          int_*.c  integer instructions
 *	lower.c   struct bt_insn -> struct bt_op   sys_*.c  system, segment, control transfers
 *	block.c   cache of decoded blocks          vec_*.c  x87, MMX, SSE, AVX, XSAVE
 *	mmu.c     page walks, TLB fills            exc.c    exceptions, interrupts, task switches
 *	run.c     the run loop                     msr.c cpuid.c engine.c
 *
 * A block of guest code is decoded once into an array of 32-byte ops and then run by threaded calls:
 * every handler ends in bt_next(), a tail call of the next op's handler, so there is no loop and no
 * return between instructions.
 *
 *	static void
 *	bt_int_lahf(struct bt_cpu *cpu, const struct bt_op *op)
 *	{
 *		cpu->r[X86_RAX] = ...;
 *		bt_next(cpu, op);
 *	}
 *
 * The rules for a handler:
 * - cpu->r[BT_REG_RIP] already holds the address of the next instruction; a branch overwrites it.
 * - It faults by bt_raise*() or by a memory accessor that does so: these do not return (longjmp to the
 *   run loop, which puts RIP back to this instruction). So nothing architectural may be changed before
 *   the last thing that can fault, and no lock or allocation may be held.
 * - An op flagged BT_OP_END ends its block: its handler returns instead of calling bt_next().
 * - A pointer into guest memory (a window's, bt_span()'s, bt_fetch()'s) is good until the handler ends or
 *   calls the machine (bt_pio_*, bt_mmio_*, any access that may be MMIO), whichever comes first.
 * - What a lowered op does may depend on code_size and on whether the mode is protected (pe and not
 *   vm86) at the time of lowering; whatever else it depends on it must look at when it runs. Blocks are
 *   shared by everything that runs the same physical code in the same such mode, at any address.
 *
 * The guest's vector and x87 state lives in the host's own registers while the CPU runs (vec.h). All
 * code under engine/bt is compiled with -mgeneral-regs-only and must not call anything that may use
 * vector registers (libc's memcpy, malloc, printf, the machine's callbacks) without bt_fpu_park()
 * first; bt_copy() and bt_zero() are safe at any time.
 */
#ifndef BT_BT_H
#define BT_BT_H

#include "engine/bt/insn.h"
#include "engine/engine.h"

#include <setjmp.h>
#include <stdatomic.h>

struct bt_cpu;
struct bt_op;
struct bt_vm;
struct bt_block_cache;

typedef void bt_fn(struct bt_cpu *cpu, const struct bt_op *op);

#define BT_OP_END BIT(0)
#define BT_OP_LOCK BIT(1)
#define BT_OP_REP BIT(2)
#define BT_OP_REPNE BIT(3)

/* One decoded instruction, ready to run. Registers are byte offsets into struct bt_cpu (r[] comes first),
 * so AH to BH are ordinary byte registers: r[0] + 1 and so on. */
struct bt_op {
	bt_fn *fn;
	union {
		int64_t imm;
		const void *ptr;
	};
	int32_t disp;
	uint8_t reg, rm; /* register operands */
	uint8_t base, index; /* of the memory operand; BT_REG_ZERO's offset when absent */
	uint8_t scale;
	uint8_t seg; /* enum x86_seg */
	uint8_t len; /* of the instruction; 0 for a block's closing op */
	uint8_t asize, osize; /* 2, 4, 8 */
	uint8_t flags; /* BT_OP_* */
	uint8_t x, y; /* the handler's own */
};
static_assert(sizeof(struct bt_op) == 32, "two ops per cache line");

/* Byte offset of general register i (0 to 17) and of a byte register as encoded. */
#define BT_OFF(i) ((uint8_t)((i)*8))
#define BT_OFF8(i, rex) ((uint8_t)((rex) || (i) < 4 || (i) > 7 ? (i)*8 : ((i)-4) * 8 + 1))

/*
 * The TLB: direct-mapped, one set each for user mode, supervisor mode, and supervisor mode with access
 * to user pages (SMAP off or EFLAGS.AC). A tag is the page's linear address with the address-space tag
 * (PCID, never 0) in its low 12 bits; tag 0 matches nothing. tag_w is set only when a store may go
 * straight to host memory: dirty bit set, writable, not a page with decoded code, not MMIO.
 */
struct bt_tlb_entry {
	uint64_t tag_r, tag_w;
	uintptr_t addend; /* host address minus linear address */
	uint64_t gpa; /* of the page; flags in the low bits are mmu.c's */
};
#define BT_TLB_BITS 10
#define BT_TLB_SIZE (1u << BT_TLB_BITS)
#define BT_TLB_SLOW_SIZE 16u /* pages that must not be accessed directly: MMIO, watched ones */
#define BT_TLB_FETCH_SIZE 128u
enum bt_tlb_set { BT_TLB_USER, BT_TLB_KERNEL, BT_TLB_KERNEL_USER, BT_TLB_SETS };
#define BT_AS_TAGS 4096u

/* Code pages, one set each for user and supervisor mode. tag as in bt_tlb_entry. */
struct bt_fetch_entry {
	uint64_t tag;
	uint64_t gpa; /* of the page; flags in the low bits are mmu.c's */
	const uint8_t *host; /* NULL: not RAM or ROM */
};

/* Why the CPU should leave straight-line execution: struct bt_cpu.attn. */
#define BT_ATTN_IRQ BIT(0) /* something may be pending: ask the machine */
#define BT_ATTN_STOP BIT(1) /* vcpu_run() must return */
#define BT_ATTN_STEP BIT(2) /* one instruction at a time (TF, STI shadow, breakpoints) */
#define BT_ATTN_FLUSH BIT(3) /* code under the current block changed, or a request in mail */

/* Events: what is delivered through the IDT (exc.h). */
enum bt_event_kind {
	BT_EVENT_NONE,
	BT_EVENT_EXC, /* an exception */
	BT_EVENT_EXT_INT, /* an external interrupt */
	BT_EVENT_NMI,
	BT_EVENT_SOFT_INT, /* INT n */
	BT_EVENT_SOFT_EXC, /* INT3, INTO */
	BT_EVENT_INT1,
};

struct bt_event {
	uint8_t kind; /* enum bt_event_kind */
	uint8_t vector;
	bool has_error;
	uint32_t error;
};

/* What cpu->shadow holds back until the instruction at cpu->shadow_rip has run. */
#define BT_SHADOW_STI 1 /* interrupts */
#define BT_SHADOW_MOV_SS 2 /* interrupts and debug exceptions */

struct bt_cpu {
	/* General registers, a zero, and the instruction pointer: op operands are offsets from here. */
	uint64_t r[18];
	/* CF PF AF ZF SF as LAHF leaves them in AH (bits 15-8), OF as SETO in bit 0. */
	uint16_t fl;
	uint8_t cpl;
	uint8_t code_size; /* 2, 4, 8: the mode of the code segment */
	uint8_t sp_size; /* 2, 4, 8: stack address size */
	uint8_t seg_checks; /* bit i: an access through segment i needs bt_la_slow(): a limit, a type,
			       wrap or alignment may bite */
	_Atomic uint32_t attn; /* BT_ATTN_*, set by any thread */
	const struct bt_op *op; /* the op being executed */
	uint64_t la_mask; /* linear addresses: all ones in 64-bit mode, else 32 bits */
	uint64_t sbase[X86_SEG_COUNT]; /* segment bases as addressing uses them (0 in 64-bit mode but FS, GS) */
	struct bt_tlb_entry *tlb; /* the current set */
	uint64_t as_tag; /* the current address space's tag: 1 to BT_AS_TAGS - 1 */
	uint64_t block_key; /* as_tag and everything else a (linear) code address is looked up by */

	uint32_t eflags; /* every flag but the arithmetic ones (which are 0 here) */
	uint8_t lma; /* EFER.LMA: long mode active */
	uint8_t pe, vm86; /* CR0.PE; EFLAGS.VM */
	uint8_t fpu_live; /* not 0: the guest's vector state is in the host's registers (vec_impl.h) */
	uint8_t activity; /* enum x86_activity */
	uint8_t shadow; /* BT_SHADOW_*, valid while RIP is shadow_rip: see bt_shadow_set() */
	uint8_t trap_skip; /* the instruction just run is not followed by a single-step trap */
	uint8_t nmi_blocked;
	_Atomic uint8_t nmi_pending;
	_Atomic uint8_t irq_hint; /* the machine said something is pending since we last asked */
	uint8_t watch_data; /* DR7 enables a data breakpoint: slow paths compare addresses */
	uint8_t watch_code; /* DR7 enables an instruction breakpoint: step */
	uint8_t watch_io; /* DR7 and CR4.DE enable an I/O breakpoint */
	uint8_t kvmclock_stale; /* the guest's copy of the clock's parameters may be out of date */
	uint8_t locked; /* a bounced window holds the VM's lock */
	uint32_t dr6_pending; /* DR6 bits of a debug trap due after this instruction */
	uint64_t shadow_rip;
	uint64_t rf_rip; /* EFLAGS.RF, as IRET set it, concerns the instruction at this RIP only */

	struct x86_segment seg[X86_SEG_COUNT], ldtr, tr;
	struct x86_table gdtr, idtr;
	uint64_t cr0, cr2, cr3, cr4, xcr0, xss;
	uint64_t dr[4], dr6, dr7;
	uint64_t efer, star, lstar, cstar, sfmask, kernel_gs_base, tsc_aux, pat, misc_enable;
	uint64_t sysenter_cs, sysenter_esp, sysenter_eip, spec_ctrl, apic_base;
	uint64_t mtrr_def_type, mtrr_fixed[11], mtrr_var[16];
	uint64_t tsc_offset, tsc_adjust; /* guest TSC = host TSC + tsc_offset */
	uint64_t kvm_system_time, kvm_wall_clock; /* MSRs (kvmclock.h) */
	uint64_t pdpte[4]; /* PAE paging (SDM 3, 4.4.1) */

	struct bt_fault {
		uint8_t vector;
		bool has_error;
		uint32_t error;
	} fault; /* what bt_raise*() left for the run loop */
	struct bt_event event; /* being delivered */
	jmp_buf on_fault;

	struct bt_vm *vm;
	struct bt_block_cache *blocks;
	struct bt_mail *mail; /* mmu.c: requests of other threads */
	struct bt_fpu *fpu; /* vec.h */
	int id;
	uint64_t insns; /* executed; exact at block ends */

	uint16_t pcid_tag[BT_AS_TAGS]; /* by PCID: its address-space tag, 0 if none yet */
	uint32_t next_tag; /* tags from here on are unused */
	uint64_t large_filter; /* 1 GiB regions (by hash) in which a large page was seen */
	struct bt_tlb_entry tlbs[BT_TLB_SETS][BT_TLB_SIZE];
	struct bt_tlb_entry slow[BT_TLB_SETS][BT_TLB_SLOW_SIZE];
	struct bt_fetch_entry fetch[2][BT_TLB_FETCH_SIZE];
};

struct bt_vm {
	struct engine_vm_params params;
	const struct x86_cpuid *cpuid;
	uint32_t tsc_khz;
	_Atomic uint64_t tsc_offset; /* that of vCPUs which did not change theirs */
	_Atomic uint64_t clock_tsc; /* kvmclock was 0 when the common TSC was this */
	struct bt_mem *mem; /* mmu.c: the guest-physical map */
	struct bt_thunks *thunks; /* vec: native code for vector instructions */
	int vcpus;
	struct bt_cpu *cpu[]; /* by index */
};

/* Runs the next op of the block. Always the last thing a handler does. */
static inline __attribute__((always_inline)) void
bt_next(struct bt_cpu *cpu, const struct bt_op *op)
{
	op++;
	if (unlikely(atomic_load_explicit(&cpu->attn, memory_order_relaxed) != 0))
		return;
	cpu->op = op;
	cpu->r[BT_REG_RIP] += op->len;
	op->fn(cpu, op);
}

/* Stands in cpu->op when no instruction is being executed, or when one has committed so much that a fault
 * from here on belongs to the next: its length is 0, so RIP is not put back. */
extern const struct bt_op bt_op_none;

/* --- Exceptions (exc.c). None returns. --- */

/*
 * The worker does not return either, but is not declared so: before a call that does not return the address
 * sanitizer calls its runtime, which would use the vector registers while they are the guest's.
 */
#define BT_NORETURN inline __attribute__((always_inline, noreturn))
void bt_raise_fault(struct bt_cpu *cpu, enum x86_vector vector, bool has_error, uint32_t error)
    __attribute__((cold));

static BT_NORETURN void
bt_raise(struct bt_cpu *cpu, enum x86_vector vector) /* no error code */
{
	bt_raise_fault(cpu, vector, false, 0);
	__builtin_unreachable();
}

static BT_NORETURN void
bt_raise_error(struct bt_cpu *cpu, enum x86_vector vector, uint32_t error)
{
	bt_raise_fault(cpu, vector, true, error);
	__builtin_unreachable();
}

static BT_NORETURN void
bt_raise_page_fault(struct bt_cpu *cpu, uint64_t la, uint32_t error)
{
	cpu->cr2 = la;
	bt_raise_error(cpu, X86_PF, error);
}

/* --- Registers by op operand --- */

static inline uint64_t *
bt_reg64(struct bt_cpu *cpu, uint8_t off)
{
	return (uint64_t *)((char *)cpu + off);
}

static inline uint32_t *
bt_reg32(struct bt_cpu *cpu, uint8_t off)
{
	return (uint32_t *)((char *)cpu + off);
}

static inline uint16_t *
bt_reg16(struct bt_cpu *cpu, uint8_t off)
{
	return (uint16_t *)((char *)cpu + off);
}

static inline uint8_t *
bt_reg8(struct bt_cpu *cpu, uint8_t off)
{
	return (uint8_t *)((char *)cpu + off);
}

/* --- Flags --- */

#define BT_FL_OF BIT(0)
#define BT_FL_CF BIT(8)
#define BT_FL_PF BIT(10)
#define BT_FL_AF BIT(12)
#define BT_FL_ZF BIT(14)
#define BT_FL_SF BIT(15)

/* The arithmetic flags in EFLAGS positions. */
static inline uint32_t
bt_flags_arith(const struct bt_cpu *cpu)
{
	return ((cpu->fl >> 8) & (X86_FL_ARITH & 0xff)) | (cpu->fl & BT_FL_OF) << 11;
}

static inline void
bt_flags_set_arith(struct bt_cpu *cpu, uint32_t eflags)
{
	cpu->fl = (uint16_t)((eflags & X86_FL_ARITH & 0xff) << 8 | ((eflags >> 11) & 1));
}

/* The whole of EFLAGS. Setting it is sys_flags.c's, because of what IF, TF, VM and AC entail. */
static inline uint32_t
bt_eflags(const struct bt_cpu *cpu)
{
	return cpu->eflags | bt_flags_arith(cpu) | X86_FL_1;
}

/* Whether condition cc (the low four bits of Jcc opcodes; SDM 1, appendix B) holds. */
static inline bool
bt_cond(const struct bt_cpu *cpu, unsigned cc)
{
	uint16_t fl = cpu->fl;
	bool r = false;

	switch (cc >> 1) {
	case 0: r = fl & BT_FL_OF; break;
	case 1: r = fl & BT_FL_CF; break;
	case 2: r = fl & BT_FL_ZF; break;
	case 3: r = fl & (BT_FL_CF | BT_FL_ZF); break;
	case 4: r = fl & BT_FL_SF; break;
	case 5: r = fl & BT_FL_PF; break;
	case 6: r = (fl >> 15 ^ fl) & 1; break;
	case 7: r = ((fl >> 15 ^ fl) & 1) || (fl & BT_FL_ZF); break;
	}
	return r ^ (cc & 1);
}

/* --- Lowering --- */

/*
 * Fills op's fn and operands for a decoded instruction. lower.c first fills every operand field the
 * common way (reg, rm, base, index, scale, seg, disp, len, sizes, flags, imm), then calls the family's
 * function by id, which picks fn and may change the rest. Runs with vector state live, so it obeys the
 * rules above. cpu is the CPU that decodes, for what depends on mode or offered features.
 */
void bt_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op);
void bt_int_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op);
void bt_sys_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op);
void bt_vec_lower(struct bt_cpu *cpu, const struct bt_insn *in, struct bt_op *op);
/* The handler that raises #UD. */
void bt_op_ud(struct bt_cpu *cpu, const struct bt_op *op);

/* --- Modes and control (sys_*.c, run.c) --- */

/* Recomputes what is derived from segments, CR0, CR4, EFER, EFLAGS and CPL: code_size, sp_size, sbase,
 * seg_checks, la_mask, tlb; ends in bt_block_mode(). After any change of those. */
void bt_mode_update(struct bt_cpu *cpu);
/* Recomputes block_key (block.c). */
void bt_block_mode(struct bt_cpu *cpu);
/* Writes EFLAGS bits in mask; TF (BT_ATTN_STEP), IF (bt_irq_enabled()), AC and VM take effect. */
void bt_eflags_write(struct bt_cpu *cpu, uint32_t value, uint32_t mask);
/* Where a near branch to target leads in the current code segment: wraps to osize, checks the limit or that
 * the address is canonical (#GP(0)). A call asks before it pushes: once RIP is changed nothing may fault. */
uint64_t bt_jump_target_slow(struct bt_cpu *cpu, uint64_t target, int osize);
static inline uint64_t
bt_jump_target(struct bt_cpu *cpu, uint64_t target, int osize)
{
	if (likely(cpu->code_size == 8 && osize == 8 &&
		(int64_t)(target << 16) >> 16 == (int64_t)target))
		return target;
	return bt_jump_target_slow(cpu, target, osize);
}

/* A near branch, for instructions that have nothing else to do. */
static inline void
bt_jump(struct bt_cpu *cpu, uint64_t target, int osize)
{
	cpu->r[BT_REG_RIP] = bt_jump_target(cpu, target, osize);
}

static inline void
bt_attn_set(struct bt_cpu *cpu, uint32_t bits)
{
	atomic_fetch_or(&cpu->attn, bits);
}

/* After IF went from 0 to 1: costs nothing unless something came in while it was 0. */
static inline void
bt_irq_enabled(struct bt_cpu *cpu)
{
	if (unlikely(atomic_load_explicit(&cpu->irq_hint, memory_order_relaxed) != 0))
		bt_attn_set(cpu, BT_ATTN_IRQ);
}

/* After the guest changed what its local APIC may deliver (EOI, TPR, CR8): ask the machine again. */
static inline void
bt_irq_recheck(struct bt_cpu *cpu)
{
	atomic_store(&cpu->irq_hint, 1);
	if (cpu->eflags & X86_FL_IF)
		bt_attn_set(cpu, BT_ATTN_IRQ);
}

/* IRET: NMIs are let in again. */
static inline void
bt_nmi_unblock(struct bt_cpu *cpu)
{
	cpu->nmi_blocked = 0;
	if (unlikely(atomic_load_explicit(&cpu->nmi_pending, memory_order_relaxed) != 0))
		bt_attn_set(cpu, BT_ATTN_IRQ);
}

/*
 * STI (when IF was 0), MOV SS, POP SS: kind (BT_SHADOW_*) is held back until the next instruction has
 * run. Call last, when RIP is that instruction's address. The shadow is tied to the address rather than
 * ended by the next instruction, which so need not look; at worst an interrupt that comes when the same
 * address is reached another way waits for one instruction.
 */
static inline void
bt_shadow_set(struct bt_cpu *cpu, uint8_t kind)
{
	cpu->shadow = kind;
	cpu->shadow_rip = cpu->r[BT_REG_RIP];
}

/* SYSCALL and SYSRET: whether a single-step trap follows is decided by TF as they leave it, so that a
 * kernel can keep it off its entry code (SDM 2, SYSCALL; SDM 3, 17.3.1.4). */
static inline void
bt_trap_late(struct bt_cpu *cpu)
{
	cpu->trap_skip = 1;
	if (unlikely(cpu->eflags & X86_FL_TF)) {
		cpu->dr6_pending |= BIT(14); /* BS */
		bt_attn_set(cpu, BT_ATTN_STEP);
	}
}

/* DR0 to DR3, DR7 or CR4.DE changed (run.c). */
void bt_debug_update(struct bt_cpu *cpu);

/* The machine's callbacks, with the vector state parked around them (run.c). */
uint32_t bt_pio_read(struct bt_cpu *cpu, uint16_t port, int size);
void bt_pio_write(struct bt_cpu *cpu, uint16_t port, int size, uint32_t val);
uint64_t bt_mmio_read(struct bt_cpu *cpu, uint64_t gpa, int size);
void bt_mmio_write(struct bt_cpu *cpu, uint64_t gpa, int size, uint64_t val);

/* Copies and clears with general registers only. */
static inline void
bt_copy(void *dst, const void *src, size_t n)
{
	__asm__ volatile("rep movsb" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static inline void
bt_zero(void *dst, size_t n)
{
	__asm__ volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(0) : "memory");
}

#endif
