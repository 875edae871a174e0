/*
 * Local APICs: interrupt messages, whom they are for, and what becomes of them there (SDM 3, 10.5
 * to 10.8 and 10.11).
 *
 * Nothing here takes a lock, so that a device may send with its own lock held and a vCPU's IPI
 * costs a few atomic operations. A request bit that was set already needs no kick: whoever set it
 * kicks, after setting it, and the target looks at all of IRR when kicked.
 */
#include "chipset/lapic_private.h"
#include "vm/irq.h"

/* ICR (10.6.1) */
#define LAPIC_ICR_LOGICAL BIT(11)
#define LAPIC_ICR_ASSERT BIT(14)
#define LAPIC_ICR_LEVEL BIT(15)
#define LAPIC_ICR_SHORTHAND(v) (((v) >> 18) & 3)
enum lapic_shorthand { LAPIC_TO_DEST, LAPIC_TO_SELF, LAPIC_TO_ALL, LAPIC_TO_OTHERS };

/* Message address and data (10.11.1, 10.11.2) */
#define LAPIC_MSI_BASE(addr) ((addr) >> 20)
#define LAPIC_MSI_DEST(addr) (((addr) >> 12) & 0xff)
#define LAPIC_MSI_REDIRECT BIT(3)
#define LAPIC_MSI_LOGICAL BIT(2)
#define LAPIC_MSI_ASSERT BIT(14)
#define LAPIC_MSI_LEVEL BIT(15)

/* DFR and the logical address (10.6.2.2) */
#define LAPIC_DFR_FLAT 0xfu

struct lapic_msg {
	uint32_t dest;
	bool broadcast; /* whatever dest is */
	bool logical;
	bool one; /* only the destination of the lowest priority takes it */
	enum lapic_mode mode;
	uint8_t vector;
	bool level;
};

/* --- At the destination --- */

void
lapic_error(struct lapic_cpu *a, uint32_t bit)
{
	if (!(atomic_fetch_or(&a->esr_new, bit | LAPIC_ESR_RAISED) & LAPIC_ESR_RAISED))
		lapic_lvt_fire(a, LAPIC_LVT_ERROR);
}

void
lapic_accept(struct lapic_cpu *a, uint8_t vector, bool level)
{
	uint32_t bit = BIT(vector % 32);
	_Atomic uint32_t *irr = &a->irr[vector / 32], *tmr = &a->tmr[vector / 32];

	if (vector < 16) {
		lapic_error(a, LAPIC_ESR_RECEIVE_VECTOR);
		return;
	}
	if (level != ((lapic_get(tmr) & bit) != 0)) {
		if (level)
			atomic_fetch_or(tmr, bit);
		else
			atomic_fetch_and(tmr, ~bit);
	}
	if (atomic_fetch_or(irr, bit) & bit)
		return;
	atomic_fetch_or(&a->irr_words, BIT(vector / 32));
	vm_vcpu_kick(a->lapic->vm, a->cpu);
}

static void
lapic_deliver(struct lapic_cpu *a, enum lapic_mode mode, uint8_t vector, bool level)
{
	struct vm *vm = a->lapic->vm;
	int cpu = a->cpu;

	switch (mode) {
	case LAPIC_FIXED:
	case LAPIC_LOWEST: lapic_accept(a, vector, level); break;
	case LAPIC_NMI: vm_vcpu_nmi(vm, cpu); break;
	case LAPIC_INIT: vm_vcpu_init(vm, cpu); break;
	case LAPIC_SIPI: vm_vcpu_sipi(vm, cpu, vector); break;
	case LAPIC_EXTINT:
		atomic_store(&a->extint, true);
		vm_vcpu_kick(vm, cpu);
		break;
	case LAPIC_SMI:
	case LAPIC_MODE_RESERVED: break;
	}
}

void
lapic_lvt_fire(struct lapic_cpu *a, enum lapic_lvt i)
{
	uint32_t lvt = lapic_get(&a->lvt[i]);

	/* Timer and error have no mode bits, which then read as fixed. */
	if (!(lvt & LAPIC_LVT_MASKED))
		lapic_deliver(a, LAPIC_LVT_MODE(lvt), lvt & LAPIC_LVT_VECTOR, false);
}

void
lapic_lint0_high(struct lapic_cpu *a)
{
	uint32_t lvt = lapic_get(&a->lvt[LAPIC_LVT_LINT0]);

	if (!lapic_is_enabled(a)) {
		/* The pin is INTR then, and only the bootstrap processor's is connected. */
		if (a->cpu == 0)
			vm_vcpu_kick(a->lapic->vm, 0);
		return;
	}
	if (lvt & LAPIC_LVT_MASKED)
		return;
	if (LAPIC_LVT_MODE(lvt) == LAPIC_EXTINT) {
		/* Not a message: intr_pending looks at the 8259 itself. */
		vm_vcpu_kick(a->lapic->vm, a->cpu);
	} else if (LAPIC_LVT_MODE(lvt) == LAPIC_FIXED && (lvt & LAPIC_LVT_LEVEL)) {
		if (!(atomic_fetch_or(&a->lvt[LAPIC_LVT_LINT0], LAPIC_LVT_REMOTE_IRR) &
			LAPIC_LVT_REMOTE_IRR))
			lapic_accept(a, lvt & LAPIC_LVT_VECTOR, true);
	} else {
		lapic_lvt_fire(a, LAPIC_LVT_LINT0);
	}
}

/* --- Destinations (10.6.2, 10.12.10) --- */

static bool
lapic_match_logical(const struct lapic_cpu *a, uint32_t dest)
{
	uint32_t ldr, dfr;

	if (lapic_is_x2apic(a))
		return dest >> 16 == a->id >> 4 && (dest & BIT(a->id & 15));
	if (dest > 0xff)
		return false;
	ldr = lapic_get(&a->ldr) >> 24;
	dfr = lapic_get(&a->dfr) >> 28;
	if (dfr == LAPIC_DFR_FLAT)
		return ldr & dest;
	/* Cluster 15 means all clusters. */
	return dfr == 0 && (dest >> 4 == 15 || dest >> 4 == ldr >> 4) && (ldr & dest & 15);
}

static bool
lapic_match(const struct lapic_cpu *a, const struct lapic_msg *msg)
{
	if (!lapic_is_enabled(a))
		return false;
	/* A software-disabled APIC still takes NMI, INIT, SMI and start-up (10.4.7.2). */
	if (!(lapic_get(&a->svr) & LAPIC_SVR_ENABLE) &&
	    (msg->mode == LAPIC_FIXED || msg->mode == LAPIC_LOWEST || msg->mode == LAPIC_EXTINT))
		return false;
	if (msg->broadcast)
		return true;
	return msg->logical ? lapic_match_logical(a, msg->dest) : msg->dest == a->id;
}

/* The lowest task priority takes it; among equals all in turn (10.6.2.4 leaves both to the
 * platform). */
static void
lapic_send_lowest(struct lapic *l, const struct lapic_msg *msg)
{
	uint32_t n = (uint32_t)l->cpus, turn = atomic_fetch_add(&l->turn, 1);
	struct lapic_cpu *best = NULL;

	for (uint32_t i = 0; i < n; i++) {
		struct lapic_cpu *a = &l->cpu[(turn + i) % n];

		if (lapic_match(a, msg) &&
		    (best == NULL || lapic_get(&a->tpr) >> 4 < lapic_get(&best->tpr) >> 4))
			best = a;
	}
	if (best != NULL)
		lapic_deliver(best, msg->mode, msg->vector, msg->level);
}

static void
lapic_send(struct lapic *l, const struct lapic_msg *msg, const struct lapic_cpu *except)
{
	if (msg->one) {
		lapic_send_lowest(l, msg);
		return;
	}
	if (!msg->logical && !msg->broadcast) {
		struct lapic_cpu *a = msg->dest < l->ids ? l->by_id[msg->dest] : NULL;

		if (a != NULL && lapic_match(a, msg))
			lapic_deliver(a, msg->mode, msg->vector, msg->level);
		return;
	}
	for (int i = 0; i < l->cpus; i++) {
		struct lapic_cpu *a = &l->cpu[i];

		if (a != except && lapic_match(a, msg))
			lapic_deliver(a, msg->mode, msg->vector, msg->level);
	}
}

/* --- Senders --- */

void
lapic_icr_send(struct lapic_cpu *a, uint32_t icr, uint32_t dest)
{
	enum lapic_shorthand to = LAPIC_ICR_SHORTHAND(icr);
	uint32_t everyone = lapic_is_x2apic(a) ? UINT32_MAX : 0xff;
	struct lapic_msg msg = {
		.dest = dest,
		.broadcast = to != LAPIC_TO_DEST || dest == everyone,
		.logical = icr & LAPIC_ICR_LOGICAL,
		.mode = LAPIC_LVT_MODE(icr),
		.vector = icr & LAPIC_LVT_VECTOR,
		/* The trigger mode of an IPI counts for INIT only (10.6.1). */
	};

	switch (msg.mode) {
	case LAPIC_FIXED:
	case LAPIC_LOWEST:
		if (msg.vector < 16) {
			lapic_error(a, LAPIC_ESR_SEND_VECTOR);
			return;
		}
		break;
	case LAPIC_INIT:
		/* INIT level de-assert only synchronised arbitration IDs, long ago. */
		if ((icr & LAPIC_ICR_LEVEL) && !(icr & LAPIC_ICR_ASSERT))
			return;
		break;
	case LAPIC_NMI:
	case LAPIC_SIPI: break;
	case LAPIC_SMI:
	case LAPIC_MODE_RESERVED:
	case LAPIC_EXTINT: return;
	}
	msg.one = msg.mode == LAPIC_LOWEST && to == LAPIC_TO_DEST;
	if (to == LAPIC_TO_SELF || to == LAPIC_TO_ALL) {
		/* Table 10-3 allows fixed only; processors deliver NMIs too. */
		if (msg.mode != LAPIC_FIXED && msg.mode != LAPIC_NMI)
			return;
	}
	if (to == LAPIC_TO_SELF) {
		if (lapic_match(a, &msg))
			lapic_deliver(a, msg.mode, msg.vector, false);
	} else {
		lapic_send(a->lapic, &msg, to == LAPIC_TO_OTHERS ? a : NULL);
	}
}

void
lapic_msi(void *ctx, uint64_t addr, uint32_t data)
{
	struct lapic *l = ctx;
	struct lapic_msg msg = {
		.dest = LAPIC_MSI_DEST(addr),
		.broadcast = LAPIC_MSI_DEST(addr) == 0xff,
		.logical = addr & LAPIC_MSI_LOGICAL,
		.mode = LAPIC_LVT_MODE(data),
		.vector = data & LAPIC_LVT_VECTOR,
		.level = data & LAPIC_MSI_LEVEL,
	};

	if (LAPIC_MSI_BASE(addr) != 0xfee)
		return;
	if (msg.mode == LAPIC_MODE_RESERVED || msg.mode == LAPIC_SIPI)
		return;
	if (msg.level && !(data & LAPIC_MSI_ASSERT))
		return;
	/* The redirection hint asks for one of several logical destinations. */
	msg.one = msg.mode == LAPIC_LOWEST || ((addr & LAPIC_MSI_REDIRECT) && msg.logical);
	lapic_send(l, &msg, NULL);
}
