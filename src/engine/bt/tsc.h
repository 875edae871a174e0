/*
 * The host's time-stamp counter.
 */
#ifndef BT_TSC_H
#define BT_TSC_H

#include <stdint.h>

static inline uint64_t
bt_host_tsc(void)
{
	uint32_t lo, hi;

	__asm__ volatile("rdtsc" : "=a"(lo), "=d"(hi));
	return (uint64_t)hi << 32 | lo;
}

/* Its frequency: from CPUID where that tells, else measured, which takes a few milliseconds. */
uint32_t bt_host_tsc_khz(void);

#endif
