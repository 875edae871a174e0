/*
 * How fast the host's time-stamp counter runs.
 *
 * CPUID tells on recent Intel processors (leaf 0x15; SDM 3, 18.7.3) and under some hypervisors (leaf
 * 0x40000010, in kHz). Elsewhere it is measured against the clock that drives our timers: a reading of
 * both is good to about 50 ns, so 5 ms give the frequency to some ten parts per million.
 */
#include "engine/bt/tsc.h"

#include "x86/cpuid.h"

#include <time.h>

#define BT_TSC_MEASURE_NS 5000000u
#define BT_TSC_TRIES 8

static uint32_t
bt_tsc_khz_cpuid(void)
{
	struct x86_cpuid_regs r;

	x86_cpuid_host(NULL, 0, 0, &r);
	if (r.eax >= 0x15) {
		x86_cpuid_host(NULL, 0x15, 0, &r);
		if (r.eax != 0 && r.ebx != 0 && r.ecx != 0)
			return (uint32_t)((uint64_t)r.ecx * r.ebx / r.eax / 1000);
	}
	x86_cpuid_host(NULL, 1, 0, &r);
	if (!(r.ecx & BIT(31)))
		return 0;
	x86_cpuid_host(NULL, 0x40000000, 0, &r);
	if (r.eax < 0x40000010 || r.eax > 0x400000ff)
		return 0;
	x86_cpuid_host(NULL, 0x40000010, 0, &r);
	return r.eax;
}

static uint64_t
bt_clock_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Both counters at the same moment: the best of a few tries, for one may be interrupted. */
static void
bt_tsc_sample(uint64_t *tsc, uint64_t *ns)
{
	uint64_t best = UINT64_MAX;

	for (int i = 0; i < BT_TSC_TRIES; i++) {
		uint64_t before = bt_host_tsc(), now = bt_clock_ns(), after = bt_host_tsc();

		if (after - before >= best)
			continue;
		best = after - before;
		*tsc = before + best / 2;
		*ns = now;
	}
}

uint32_t
bt_host_tsc_khz(void)
{
	uint64_t tsc0 = 0, ns0 = 0, tsc1 = 0, ns1 = 0;
	uint32_t khz = bt_tsc_khz_cpuid();

	if (khz != 0)
		return khz;
	bt_tsc_sample(&tsc0, &ns0);
	while (bt_clock_ns() - ns0 < BT_TSC_MEASURE_NS)
		;
	bt_tsc_sample(&tsc1, &ns1);
	return (uint32_t)((tsc1 - tsc0) * 1000000 / (ns1 - ns0));
}
