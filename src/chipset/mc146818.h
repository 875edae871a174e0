/*
 * The real-time clock and CMOS memory: a Motorola MC146818A (data sheet ADI856R2, 1984) as in a PC,
 * with 242 bytes of memory behind ports 0x70 to 0x73 and the century in byte 0x32.
 */
#ifndef CHIPSET_MC146818_H
#define CHIPSET_MC146818_H

#include <stdbool.h>
#include <stdint.h>

struct mc146818;
struct vm;

#define MC146818_PORT 0x70 /* index, data; 0x72, 0x73: the upper half */
#define MC146818_IRQ 8
#define MC146818_CENTURY 0x32 /* FADT.CENTURY */

struct mc146818_params {
	bool local_time; /* starts with the host's local time, else UTC */
};

/* Main thread, after vm_create(): the memory sizes are put into the CMOS. 0 or -errno. */
int mc146818_create(struct vm *vm, const struct mc146818_params *params, struct mc146818 **out);
/* Main thread, the loop not running. NULL is fine. */
void mc146818_destroy(struct mc146818 *r);

/* The HPET's legacy replacement takes line 8 for itself (HPET 1.0a, 2.4.7): while on, this chip
 * raises no interrupt. ctx is the struct mc146818. Any thread. */
void mc146818_hpet_legacy(void *ctx, bool on);
/* Sets a byte of CMOS memory, 0x0e to 0xff, as a BIOS would have. Main thread. */
void mc146818_nvram_set(struct mc146818 *r, uint8_t index, uint8_t val);

#endif
