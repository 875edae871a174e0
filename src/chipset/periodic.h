/*
 * When the ticks of a periodic timer reach the guest: one policy for every timer chip.
 *
 * A host runs a timer late now and then, because its processors are busy or because the guest asked
 * for a period no host can keep. Ticks missed by lateness are made up for one at a time, at twice
 * the rate, so that each becomes an interrupt of its own and a guest that counts ticks keeps time.
 * At most PERIODIC_BACKLOG_NS of them are owed, the rest is lost. Periods too short to be doubled
 * are not made up for: all ticks between two looks count as one, as they would in an interrupt
 * request bit.
 *
 * The chip's counter is computed from the clock and knows nothing of this; it never drifts.
 */
#ifndef CHIPSET_PERIODIC_H
#define CHIPSET_PERIODIC_H

#include <stdbool.h>
#include <stdint.h>

/* Two callbacks of one timer are at least this far apart, so that a guest cannot keep the event
 * loop to itself. Faster than any tick an operating system uses. */
#define PERIODIC_GAP_NS 20000
#define PERIODIC_BACKLOG_NS 1000000000

/* In any unit of time, the same for all fields and parameters. */
struct periodic {
	uint64_t next; /* when the next tick is due */
	uint64_t period; /* not 0 */
};

/* The timer is looked at, at now. Returns whether a tick is due, which is then taken; sets *wake
 * to when to look again. gap and backlog are the limits above in the caller's unit. */
bool periodic_take(struct periodic *p, uint64_t now, uint64_t gap, uint64_t backlog,
    uint64_t *wake);

#endif
