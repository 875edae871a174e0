/*
 * The ACPI tables that have files of their own. Private to firmware/.
 *
 * Each appends a table's header and body to a, which is empty.
 */
#ifndef FIRMWARE_ACPI_TABLES_H
#define FIRMWARE_ACPI_TABLES_H

#include "firmware/acpi.h"
#include "firmware/aml.h"

struct x86_topology;

void acpi_dsdt_build(struct aml *a, const struct acpi_params *p, int vcpus);
void acpi_madt_build(struct aml *a, const struct x86_topology *topo);

#endif
