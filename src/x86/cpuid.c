/*
 * The CPUID model, and APIC IDs.
 */
#include "x86/cpuid.h"

static unsigned
x86_topology_bits(uint32_t count)
{
	return count > 1 ? 32 - (unsigned)__builtin_clz(count - 1) : 0;
}

uint32_t
x86_topology_apic_id(const struct x86_topology *topo, uint32_t cpu)
{
	unsigned thread_bits = x86_topology_bits(topo->threads);
	unsigned core_bits = x86_topology_bits(topo->cores);
	uint32_t thread = cpu % topo->threads;
	uint32_t core = cpu / topo->threads % topo->cores;
	uint32_t socket = cpu / topo->threads / topo->cores;

	return socket << (thread_bits + core_bits) | core << thread_bits | thread;
}
