/*
 * The MP table (Intel MultiProcessor Specification 1.4): processors and interrupt wiring for
 * systems that do not read ACPI.
 */
#ifndef FIRMWARE_MPTABLE_H
#define FIRMWARE_MPTABLE_H

struct acpi_params;
struct vm;

/* Writes pointer and table for the vCPUs of vm to guest memory (layout.h), from the same
 * description of the machine as the ACPI tables. Main thread. 0, or -errno after one line to the
 * user. */
int mptable_build(struct vm *vm, const struct acpi_params *p);

#endif
