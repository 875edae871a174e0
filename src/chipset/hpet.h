/*
 * High precision event timer: IA-PC HPET specification 1.0a, at 0xfed00000.
 *
 * A 64-bit main counter of 100 MHz and three timers, each 64 bits wide, able to be periodic and to
 * send its interrupt as a message. They can be routed to the IOAPIC's pins 20 to 23; the legacy
 * replacement route gives timer 0 the PIT's line and timer 1 the RTC's.
 *
 * What the specification leaves open is decided as existing guests expect it:
 * - A comparator written with a value that the counter passed in the last 10 ms matches at once: a
 *   guest that computed it just in time must not wait for the counter to wrap because its processor
 *   is slow.
 * - A periodic timer's comparator register takes the period with every write, the accumulator only
 *   with VAL_SET set, which every write clears.
 *
 * Periodic ticks that come late are made up for as periodic.h says.
 */
#ifndef CHIPSET_HPET_H
#define CHIPSET_HPET_H

#include "vm/vm.h"

#define HPET_BASE 0xfed00000u
#define HPET_SIZE 0x400u
#define HPET_TIMERS 3
/* Femtoseconds of one count. */
#define HPET_PERIOD_FS 10000000u
/* The low half of the capabilities register, which the ACPI table repeats: Intel's vendor
 * number, legacy replacement, 64 bits, number of the last timer, revision 1. */
#define HPET_CAPABILITIES (0x80860000u | BIT(15) | BIT(13) | (HPET_TIMERS - 1) << 8 | 1)

struct hpet;
struct i8254;

struct hpet_params {
	struct i8254 *pit; /* loses line 0 while legacy replacement is on; may be NULL */
	/* The same for the RTC and line 8. On a vCPU's thread, the HPET's lock held; may be
	 * NULL. */
	void (*rtc_legacy)(void *ctx, bool on);
	void *rtc_ctx;
};

/* Main thread. 0 or -errno with nothing left behind. Destroyed after the loop and the vCPUs
 * stopped. */
int hpet_create(struct vm *vm, const struct hpet_params *params, struct hpet **out);
void hpet_destroy(struct hpet *d);

#endif
