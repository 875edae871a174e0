/*
 * The run loop and what only engine.c, exc.c and the slow paths call.
 */
#ifndef BT_RUN_H
#define BT_RUN_H

#include "engine/bt/bt.h"

/* Executes guest instructions until there is a reason to return (engine.h). The vCPU's own thread. */
void bt_run(struct bt_cpu *cpu, struct engine_exit *exit);

/* Whether EFLAGS.RF and the interrupt shadow, which are tied to an address, concern the instruction at
 * RIP. */
static inline bool
bt_rf_live(const struct bt_cpu *cpu)
{
	return (cpu->eflags & X86_FL_RF) && cpu->rf_rip == cpu->r[BT_REG_RIP];
}

static inline uint8_t
bt_shadow_live(const struct bt_cpu *cpu)
{
	return cpu->shadow_rip == cpu->r[BT_REG_RIP] ? cpu->shadow : 0;
}

/* Whether a data breakpoint lies in the page at la. */
bool bt_debug_page(const struct bt_cpu *cpu, uint64_t la);
/* An access happened: data breakpoints it hits become due after the instruction. */
void bt_debug_data(struct bt_cpu *cpu, uint64_t la, unsigned size, bool write);

/* The features bt runs on this host (cpuid.c). */
void bt_cpuid_mask(struct x86_cpuid_mask *mask);

#endif
