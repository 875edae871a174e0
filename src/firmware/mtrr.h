/*
 * Memory types as firmware leaves them (SDM 3, 11.11): RAM write-back, VGA memory and the 32-bit
 * hole uncached. An operating system takes differing settings among processors, or none, for a
 * firmware bug, so every vCPU gets the same.
 */
#ifndef FIRMWARE_MTRR_H
#define FIRMWARE_MTRR_H

#include "x86/state.h"

/* Sets the MTRRs in s. phys_bits: MAXPHYADDR, 36 to 52. */
void mtrr_setup(struct x86_state *s, int phys_bits);

#endif
