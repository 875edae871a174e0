/*
 * The guest's memory map as INT 15h, AX=E820h would report it (ACPI 6.4, 15.1), which every boot
 * protocol passes on in its own form.
 *
 * Plain data, built on the main thread and then read-only.
 */
#ifndef FIRMWARE_E820_H
#define FIRMWARE_E820_H

#include "base/bits.h"

/* Address range types (ACPI 6.4, table 15.1) */
enum e820_type {
	E820_RAM = 1,
	E820_RESERVED = 2,
	E820_ACPI = 3,
	E820_NVS = 4,
};

#define E820_MAX 32

struct e820_range {
	uint64_t base, size; /* bytes; size is never 0 */
	enum e820_type type;
};

/* Ascending, without overlaps; what no range covers is neither memory nor reserved. */
struct e820_map {
	struct e820_range range[E820_MAX];
	int count;
};

/* Makes the map of a machine with low bytes of RAM at 0 and high bytes at 4 GiB (vm/mem.h): RAM,
 * the EBDA, the BIOS area, and the IOAPIC's and the local APICs' pages. */
void e820_init(struct e820_map *map, uint64_t low, uint64_t high);
/* Adds a range outside of what is there (the ECAM window, a boot ROM). 0; -EINVAL when empty or
 * past 2^64; -EEXIST when it overlaps another; -ENOSPC when the map is full. */
int e820_add(struct e820_map *map, uint64_t base, uint64_t size, enum e820_type type);

#endif
