/*
 * The SMBIOS tables (DMTF DSP0134, 3.6): who made this machine, its UUID, processors and memory.
 *
 * Texts come from the variables of bhyve_config(5): bios.*, system.*, board.*, chassis.*, and uuid.
 * Without a uuid one is derived from the host's name and the VM's, so that it stays the same from
 * start to start.
 */
#ifndef FIRMWARE_SMBIOS_H
#define FIRMWARE_SMBIOS_H

struct vm;

/* Writes the tables and both entry points to guest memory (layout.h). Main thread. 0, or -errno
 * after one line to the user: -EINVAL for a malformed uuid, -ENOSPC when the texts are too long. */
int smbios_build(struct vm *vm);

#endif
