/*
 * When the ticks of a periodic timer reach the guest.
 */
#include "chipset/periodic.h"
#include "base/bits.h"

bool
periodic_take(struct periodic *p, uint64_t now, uint64_t gap, uint64_t backlog,
    uint64_t *wake)
{
	uint64_t behind;

	if (now < p->next) {
		*wake = p->next;
		return false;
	}
	/* Hundreds of years from now is never. */
	if (__builtin_add_overflow(p->next, p->period, &p->next))
		p->next = UINT64_MAX;
	if (p->next <= now) {
		behind = now - p->next;
		if (p->period / 2 < gap)
			p->next += (behind / p->period + 1) * p->period;
		else if (behind > backlog)
			p->next += (behind - backlog) / p->period * p->period;
	}
	*wake = p->next > now ? MAX(p->next, now + gap) : now + p->period / 2;
	return true;
}
