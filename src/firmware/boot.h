/*
 * Direct kernel boot: puts a kernel, its initial RAM disk and its boot information into guest
 * memory and the bootstrap processor at its entry, in place of a boot ROM and a boot loader.
 *
 * The file says what it is:
 *	- a Linux bzImage, boot protocol 2.06 or later (Documentation/arch/x86/boot.rst), entered in
 *	  64-bit mode when it can be, else in 32-bit protected mode
 *	- an ELF file with a PVH entry note (Xen, docs/misc/pvh.pandoc): Linux vmlinux, FreeBSD
 *	- a multiboot 1 kernel (Multiboot Specification 0.6.96), ELF or with addresses in its header
 *
 *	struct boot_params p = { .kernel = "vmlinuz", .cmdline = "console=ttyS0", .map = &map };
 *	vm_vcpu_get(vm, 0, &bsp);
 *	err = boot_load(vm, &p, &bsp);
 *	if (err == 0)
 *		err = vm_vcpu_set(vm, 0, &bsp);
 */
#ifndef FIRMWARE_BOOT_H
#define FIRMWARE_BOOT_H

#include "x86/state.h"

struct e820_map;
struct vm;

struct boot_params {
	const char *kernel; /* path of a regular file */
	const char *initrd; /* path, or NULL for none */
	const char *cmdline; /* NULL means empty */
	uint64_t rsdp; /* guest address of the ACPI RSDP, 0 when there are no tables */
	const struct e820_map *map;
};

/*
 * Loads everything and turns bsp, which holds the reset state, into the entry state. The memory
 * types (MTRRs) of all other vCPUs are set too, as firmware does on every processor.
 *
 * Main thread, before vCPUs run. 0, or -errno after one line to the user that names the file and
 * what is wrong with it; bsp is then unchanged, while guest memory may hold parts of the files:
 * destroy the VM. Nothing of params is kept.
 */
int boot_load(struct vm *vm, const struct boot_params *params, struct x86_state *bsp);

#endif
