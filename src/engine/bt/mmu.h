/*
 * What the rest of the run loop needs of the MMU besides mem.h.
 */
#ifndef BT_MMU_H
#define BT_MMU_H

#include "engine/bt/mem.h"

/* Empties all translation caches and starts tags afresh. */
void bt_tlb_reset(struct bt_cpu *cpu);
/* Ends direct stores to the page at gpa, which now holds code, by this vCPU. */
void bt_tlb_no_stores(struct bt_cpu *cpu, uint64_t gpa);
/* Raises what bt_sys_load() or bt_sys_store() of size bytes (any size) would. */
void bt_sys_probe(struct bt_cpu *cpu, uint64_t la, int size, int access);
/* Lets go of the VM's lock when a fault left a bounced window unfinished. */
void bt_window_abandon(struct bt_cpu *cpu);

#endif
