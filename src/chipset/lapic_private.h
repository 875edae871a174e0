/*
 * What the local APIC's own files share: lapic.c (registers, acknowledge), lapic_bus.c (messages
 * and their destinations), lapic_timer.c. Not for others.
 */
#ifndef CHIPSET_LAPIC_PRIVATE_H
#define CHIPSET_LAPIC_PRIVATE_H

#include "chipset/lapic.h"
#include "chipset/periodic.h"
#include "vm/loop.h"

#include <pthread.h>
#include <stdatomic.h>

/* Registers by their offset in the page divided by 16, which is also the MSR number minus 800h
 * (10.4.1, table 10-1; 10.12.1.2, table 10-6) */
enum lapic_reg {
	LAPIC_ID = 0x02,
	LAPIC_VERSION = 0x03,
	LAPIC_TPR = 0x08,
	LAPIC_APR = 0x09,
	LAPIC_PPR = 0x0a,
	LAPIC_EOI = 0x0b,
	LAPIC_RRD = 0x0c,
	LAPIC_LDR = 0x0d,
	LAPIC_DFR = 0x0e,
	LAPIC_SVR = 0x0f,
	LAPIC_ISR = 0x10, /* to 17h */
	LAPIC_TMR = 0x18, /* to 1fh */
	LAPIC_IRR = 0x20, /* to 27h */
	LAPIC_ESR = 0x28,
	LAPIC_ICR = 0x30, /* 64 bits in x2APIC mode */
	LAPIC_ICR_HI = 0x31,
	LAPIC_LVT = 0x32, /* to 37h, in the order of enum lapic_lvt */
	LAPIC_INITIAL_COUNT = 0x38,
	LAPIC_CURRENT_COUNT = 0x39,
	LAPIC_DCR = 0x3e,
	LAPIC_SELF_IPI = 0x3f,
	LAPIC_REGS = 0x40,
};

/* SVR, spurious-interrupt vector (10.9) */
#define LAPIC_SVR_ENABLE BIT(8)
#define LAPIC_SVR_NO_EOI_BROADCAST BIT(12)

/* ESR, error status (10.5.3) */
#define LAPIC_ESR_SEND_VECTOR BIT(5)
#define LAPIC_ESR_RECEIVE_VECTOR BIT(6)
#define LAPIC_ESR_REGISTER BIT(7)

/* Local vector table (10.5.1) */
enum lapic_lvt {
	LAPIC_LVT_TIMER,
	LAPIC_LVT_THERMAL,
	LAPIC_LVT_PERF,
	LAPIC_LVT_LINT0,
	LAPIC_LVT_LINT1,
	LAPIC_LVT_ERROR,
	LAPIC_LVTS,
};
#define LAPIC_LVT_VECTOR 0xffu
#define LAPIC_LVT_MODE(v) (((v) >> 8) & 7)
#define LAPIC_LVT_REMOTE_IRR BIT(14)
#define LAPIC_LVT_LEVEL BIT(15)
#define LAPIC_LVT_MASKED BIT(16)
#define LAPIC_LVT_TIMER_MODE(v) (((v) >> 17) & 3)
enum lapic_timer_mode { LAPIC_ONE_SHOT, LAPIC_PERIODIC, LAPIC_TSC_DEADLINE, LAPIC_TIMER_RESERVED };

/* Delivery modes of the LVT, the ICR (10.6.1) and messages (10.11.2) */
enum lapic_mode {
	LAPIC_FIXED,
	LAPIC_LOWEST,
	LAPIC_SMI,
	LAPIC_MODE_RESERVED,
	LAPIC_NMI,
	LAPIC_INIT,
	LAPIC_SIPI, /* ICR only */
	LAPIC_EXTINT, /* not in the ICR */
};

/* The APIC of one vCPU. "Own thread" is the vCPU's. Registers that others look at to find out
 * whether a message is for this APIC are plain atomics: a message that crosses a change of them
 * on its way may see either state, as on a bus. */
struct lapic_cpu {
	struct lapic *lapic;
	int cpu; /* index of the vCPU */
	uint32_t id; /* APIC ID */

	/* Set by any thread, IRR before irr_words; moved on by the own thread. irr_words has a
	 * bit for each word of IRR that may not be 0. */
	_Atomic uint32_t irr_words;
	_Atomic uint32_t irr[8];
	_Atomic uint32_t tmr[8];
	atomic_bool extint; /* an ExtINT message waits for its acknowledge */
	/* Errors since ESR was last written, and LAPIC_ESR_RAISED */
	_Atomic uint32_t esr_new;

	/* Written by the own thread, read by any. */
	_Atomic uint64_t base; /* IA32_APIC_BASE */
	_Atomic uint32_t svr, ldr, dfr, tpr;
	_Atomic uint32_t lvt[LAPIC_LVTS];

	/* Own thread. */
	uint32_t isr[8];
	uint8_t isrv; /* the highest vector in service, or 0: none below 16 can be */
	uint32_t esr, icr, icr_hi;

	/* The timer. It counts the VM's clock: LAPIC_TIMER_HZ is one per nanosecond. */
	pthread_mutex_t lock; /* guards the rest; nothing is called with it held but vm/loop.h */
	struct vm_timer *timer;
	uint32_t dcr, initial_count;
	bool counting; /* modes one-shot and periodic */
	uint64_t start_ns; /* when the counter held initial_count */
	struct periodic tick;
	uint64_t tsc_deadline; /* 0: disarmed */
} __attribute__((aligned(64)));

/* In esr_new: the error interrupt was raised; a write to ESR arms it again. */
#define LAPIC_ESR_RAISED BIT(31)

struct lapic {
	struct vm *vm;
	const struct engine_ops *engine;
	struct engine_vm *evm;
	uint32_t tsc_khz; /* 0: no TSC-deadline mode */
	bool x2apic; /* offered by CPUID */
	uint64_t base_reserved; /* bits of IA32_APIC_BASE that must be 0 */
	_Atomic uint32_t turn; /* where lowest-priority arbitration starts looking */
	uint32_t ids; /* the highest APIC ID and one */
	struct lapic_cpu **by_id; /* NULL where the topology leaves a gap */
	int cpus;
	struct lapic_cpu cpu[];
};

/* Every register is whole in itself: no order between two of them is needed where these are
 * used. */
static inline uint32_t
lapic_get(const _Atomic uint32_t *reg)
{
	return atomic_load_explicit(reg, memory_order_relaxed);
}

static inline void
lapic_set(_Atomic uint32_t *reg, uint32_t val)
{
	atomic_store_explicit(reg, val, memory_order_relaxed);
}

static inline bool
lapic_is_enabled(const struct lapic_cpu *a)
{
	return atomic_load_explicit(&a->base, memory_order_relaxed) & X86_APIC_BASE_ENABLE;
}

static inline bool
lapic_is_x2apic(const struct lapic_cpu *a)
{
	return atomic_load_explicit(&a->base, memory_order_relaxed) & X86_APIC_BASE_X2APIC;
}

/* --- lapic_bus.c; any thread --- */

/* Takes in an interrupt of delivery mode fixed. */
void lapic_accept(struct lapic_cpu *a, uint8_t vector, bool level);
/* The event behind an LVT entry happened. */
void lapic_lvt_fire(struct lapic_cpu *a, enum lapic_lvt i);
/* Notes an error (LAPIC_ESR_*) and raises the error interrupt. */
void lapic_error(struct lapic_cpu *a, uint32_t bit);
/* Sends what was written to the ICR: its low half, and the destination in the sender's format. */
void lapic_icr_send(struct lapic_cpu *a, uint32_t icr, uint32_t dest);
/* Takes in a message from a device or the IOAPIC (10.11). */
void lapic_msi(void *ctx, uint64_t addr, uint32_t data);
/* The 8259's INTR output, wired to LINT0 of every APIC, rose or is found high. */
void lapic_lint0_high(struct lapic_cpu *a);

/* --- lapic_timer.c; own thread --- */

/* Creates what the timer needs. 0 or -ENOMEM. */
int lapic_timer_create(struct lapic_cpu *a);
void lapic_timer_destroy(struct lapic_cpu *a);
void lapic_timer_reset(struct lapic_cpu *a);
/* The LVT entry is about to change to val, which is then in place. */
void lapic_timer_set_lvt(struct lapic_cpu *a, uint32_t val);
void lapic_timer_set_initial(struct lapic_cpu *a, uint32_t count);
void lapic_timer_set_divide(struct lapic_cpu *a, uint32_t dcr);
uint32_t lapic_timer_current(struct lapic_cpu *a);
void lapic_timer_set_deadline(struct lapic_cpu *a, uint64_t tsc);
uint64_t lapic_timer_deadline(struct lapic_cpu *a);
/* Sets the timer going again after its state was loaded. */
void lapic_timer_restart(struct lapic_cpu *a);

#endif
