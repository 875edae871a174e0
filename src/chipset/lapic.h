/*
 * The local APICs, one per vCPU: Intel SDM volume 3, "Advanced Programmable Interrupt Controller
 * (APIC)". Sections are cited as in the editions where that is chapter 10.
 *
 * For engines without local APICs of their own (engine_ops.msi is NULL): registers itself with
 * vm_apic_register(), and the vCPUs reach it through the machine. xAPIC and x2APIC mode; version
 * 14h with six LVT entries and EOI-broadcast suppression. The APIC ID follows from the topology
 * (x86_topology_apic_id()) and cannot be changed.
 *
 * What differs from a processor's: there is no SMM, so SMIs vanish; a pending interrupt is always
 * looked at together with the task priority, so the spurious vector is never delivered; interrupt
 * messages take no time, so the delivery status bits always read idle.
 *
 * Periodic timer ticks that come late are made up for as periodic.h says.
 */
#ifndef CHIPSET_LAPIC_H
#define CHIPSET_LAPIC_H

#include "vm/vm.h"

/* The timer's input clock, before the divider. CPUID leaf 15h names it as the crystal clock:
 * that is where guests take it from. */
#define LAPIC_TIMER_HZ X86_APIC_TIMER_HZ

struct lapic; /* those of all vCPUs */

/* Main thread. 0, or -ENOMEM with nothing left behind. Destroyed after the vCPUs have stopped. */
int lapic_create(struct vm *vm, struct lapic **out);
void lapic_destroy(struct lapic *l);

/* Puts the bootstrap processor's APIC into virtual wire mode, as firmware leaves it (MP
 * specification 1.4, 3.6.2.2): enabled, the 8259's interrupts through LINT0, NMI on LINT1. For a
 * machine that starts an operating system without firmware; main thread, before vCPUs run. */
void lapic_virtual_wire(struct lapic *l);

/* Puts all of them into x2APIC mode, as firmware does for machines with high APIC IDs. Main thread,
 * before vCPUs run. 0, or -EINVAL when the processor model has no x2APIC mode. */
int lapic_x2apic(struct lapic *l);

#endif
