/*
 * The vector and x87 unit.
 *
 * Between two machine callbacks the guest's x87, MMX, SSE, AVX and AVX-512 registers, MXCSR and control
 * words stay in the host's own registers. A vector instruction is run by the host itself: lowering makes
 * a thunk, the same instruction re-encoded with its memory operand at a host register, and the handler
 * points that register at host memory (or a bounce buffer) and calls it.
 */
#ifndef BT_VEC_H
#define BT_VEC_H

#include "engine/bt/bt.h"

/* Per-vCPU state: the parked guest image (XSAVE standard format), the host's control words. */
struct bt_fpu;

/* Main thread. 0 or -ENOMEM. */
int bt_fpu_create(struct bt_cpu *cpu);
void bt_fpu_destroy(struct bt_cpu *cpu);
/* Loads the guest's state into the host's registers if it is parked (fpu_live = 1). */
void bt_fpu_live(struct bt_cpu *cpu);
/* Saves it and gives the host its own control words back (fpu_live = 0). Cheap when not live. Call before
 * anything that may use vector or x87 registers, and before leaving vcpu_run(). */
void bt_fpu_park(struct bt_cpu *cpu);
/* Copies the parked image out and in (X86_XSAVE_SIZE bytes, standard format). -EINVAL: bad image. */
void bt_fpu_get(struct bt_cpu *cpu, uint8_t *image);
int bt_fpu_set(struct bt_cpu *cpu, const uint8_t *image);
/* The state components in use, as XGETBV with ECX = 1 reports them before masking with XCR0
 * (SDM 1, 13.6: XINUSE). */
uint64_t bt_fpu_inuse(struct bt_cpu *cpu);
/* Power-on and INIT state (SDM 3, table 9-1; init keeps what it says INIT keeps). */
void bt_fpu_reset(struct bt_cpu *cpu, bool init);
/* CR0, CR4, XCR0 or EFLAGS changed: what #NM and #UD depend on. */
void bt_fpu_mode(struct bt_cpu *cpu);

/* The thunk cache, one per VM. Main thread. 0 or -errno. */
int bt_thunks_create(struct bt_vm *vm);
void bt_thunks_destroy(struct bt_vm *vm);

/* Features the unit runs on this host, for the CPUID mask: fills the vector bits only. */
void bt_vec_features(struct x86_cpuid_mask *mask);

#endif
