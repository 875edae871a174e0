/*
 * Who sits where in the first megabyte of guest memory.
 *
 *	0x00000 - 0x003ff  real-mode vectors: zero
 *	0x00400 - 0x004ff  BIOS data area: EBDA segment, size of base memory
 *	0x01000 - 0x01fff  GDT of the boot loaders
 *	0x02000 - 0x02fff  boot information: Linux zero page, PVH start info or multiboot info
 *	0x03000 - 0x03fff  its tables: memory map, module list
 *	0x04000 - 0x09fff  identity page tables for 4 GiB (64-bit Linux only)
 *	0x20000 - 0x2ffff  command lines
 *	0x30000 - 0x9fbff  free for kernels that load below 1 MiB
 *	0x9fc00 - 0x9ffff  EBDA
 *	0xa0000 - 0xdffff  VGA memory and option ROMs: not in the memory map
 *	0xe0000 - 0xeffff  ACPI tables
 *	0xf0000 - 0xf00ff  MP floating pointer
 *	0xf1000 - 0xf1fff  SMBIOS entry points, 2.1 and 3.0
 *	0xf2400 - 0xf24ff  ACPI RSDP
 *	0xf4000 - 0xf9fff  SMBIOS structures
 *	0xfa000 - 0xfbfff  MP configuration table
 *	0xfc000 - 0xfffff  room for a boot ROM's shadow and reset vector
 *
 * The three pointers at 0xf0000, 0xf1000 and 0xf2400 lie where bhyve(8) puts them, because the UEFI
 * firmware built for it looks there and nowhere else. Everything the boot loaders leave below
 * 0x30000 is ordinary memory to the guest; 0xe0000 to 0xfffff and the EBDA are reserved.
 */
#ifndef FIRMWARE_LAYOUT_H
#define FIRMWARE_LAYOUT_H

#include "base/bits.h"

#define LAYOUT_BDA_EBDA 0x40eu /* word: segment of the EBDA */
#define LAYOUT_BDA_BASEMEM 0x413u /* word: base memory in KiB */

#define LAYOUT_GDT 0x1000u
#define LAYOUT_BOOT_INFO 0x2000u
#define LAYOUT_BOOT_INFO_SIZE 0x1000u
#define LAYOUT_BOOT_TABLES 0x3000u
#define LAYOUT_BOOT_TABLES_SIZE 0x1000u
#define LAYOUT_PAGE_TABLES 0x4000u
#define LAYOUT_CMDLINE 0x20000u
#define LAYOUT_CMDLINE_SIZE 0x10000u
#define LAYOUT_FREE 0x30000u
#define LAYOUT_EBDA 0x9fc00u
#define LAYOUT_EBDA_SIZE 0x400u

#define LAYOUT_BIOS 0xe0000u
#define LAYOUT_BIOS_SIZE 0x20000u
#define LAYOUT_ACPI 0xe0000u
#define LAYOUT_ACPI_SIZE 0x10000u
#define LAYOUT_MP_POINTER 0xf0000u
#define LAYOUT_SMBIOS_ENTRY 0xf1000u
#define LAYOUT_SMBIOS_ENTRY3 0xf1020u
#define LAYOUT_RSDP 0xf2400u
#define LAYOUT_SMBIOS_TABLE 0xf4000u
#define LAYOUT_SMBIOS_TABLE_SIZE 0x6000u
#define LAYOUT_MP_TABLE 0xfa000u
#define LAYOUT_MP_TABLE_SIZE 0x2000u

#define LAYOUT_HIGH 0x100000u /* where memory above the BIOS starts */

#endif
