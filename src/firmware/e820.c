/*
 * The memory map (ACPI 6.4, 15.1).
 */
#include "firmware/e820.h"

#include "chipset/ioapic.h"
#include "firmware/layout.h"
#include "vm/mem.h"

#include <errno.h>
#include <string.h>

#define E820_CHIP_SIZE KIB(4) /* what an APIC takes of the hole */

int
e820_add(struct e820_map *map, uint64_t base, uint64_t size, enum e820_type type)
{
	int at = 0;

	if (size == 0 || size - 1 > UINT64_MAX - base)
		return -EINVAL;
	while (at < map->count && map->range[at].base < base)
		at++;
	if (at > 0 && base - map->range[at - 1].base < map->range[at - 1].size)
		return -EEXIST;
	if (at < map->count && map->range[at].base - base < size)
		return -EEXIST;
	if (map->count == E820_MAX)
		return -ENOSPC;

	memmove(&map->range[at + 1], &map->range[at],
	    (size_t)(map->count - at) * sizeof(map->range[0]));
	map->range[at] = (struct e820_range){ .base = base, .size = size, .type = type };
	map->count++;
	return 0;
}

void
e820_init(struct e820_map *map, uint64_t low, uint64_t high)
{
	int err = 0;

	map->count = 0;
	err |= e820_add(map, 0, LAYOUT_EBDA, E820_RAM);
	err |= e820_add(map, LAYOUT_EBDA, LAYOUT_EBDA_SIZE, E820_RESERVED);
	err |= e820_add(map, LAYOUT_BIOS, LAYOUT_BIOS_SIZE, E820_RESERVED);
	if (low > LAYOUT_HIGH)
		err |= e820_add(map, LAYOUT_HIGH, low - LAYOUT_HIGH, E820_RAM);
	err |= e820_add(map, IOAPIC_BASE, E820_CHIP_SIZE, E820_RESERVED);
	err |= e820_add(map, X86_APIC_DEFAULT_BASE, E820_CHIP_SIZE, E820_RESERVED);
	if (high != 0)
		err |= e820_add(map, VM_HIGHMEM_BASE, high, E820_RAM);
	assert(err == 0);
}
