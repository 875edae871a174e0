/*
 * Interrupt routing: lines to the 8259 pair and the IOAPIC, MSIs to local APICs.
 *
 * Lines 0 to 15 are the ISA interrupts by their IRQ number, 16 to 23 the IOAPIC's further pins. The
 * interrupt controllers register themselves here; devices see only vm_irq_* and vm_msi(). All
 * functions are thread-safe and never block.
 */
#ifndef VM_IRQ_H
#define VM_IRQ_H

#include "vm/vm.h"

#define VM_IRQ_LINES 24

/* Sets the level of a line (true: asserted, whatever its polarity). Lines shared by several devices are
 * asserted while any holds them: source tells them apart, any pointer unique to the caller (NULL for a
 * line's only user). Edge-triggered users call assert, then deassert (vm_irq_pulse). */
void vm_irq_set(struct vm *vm, int line, bool level, const void *source);
void vm_irq_pulse(struct vm *vm, int line);

/* Sends an MSI: addr and data as on the bus (SDM 3, 10.11). */
void vm_msi(struct vm *vm, uint64_t addr, uint32_t data);

/* An interrupt controller that listens to lines. set() runs on the caller's thread, possibly with a
 * device's lock held; calls for one line are serialised. */
struct vm_irq_sink_ops {
	const char *name;
	void (*set)(void *ctx, int line, bool level);
	/* A local APIC broadcast an EOI for vector (level-triggered); NULL when of no interest. */
	void (*eoi)(void *ctx, uint8_t vector);
};
void vm_irq_sink_add(struct vm *vm, const struct vm_irq_sink_ops *ops, void *ctx);
/* Tells an engine with local APICs of its own which message a pin of the IOAPIC sends, level-triggered,
 * so that it passes EOIs of its vector on (data 0: none). Before the message is sent. */
void vm_irq_route(struct vm *vm, int pin, uint64_t addr, uint32_t data);
/* Passes an EOI broadcast on to every sink. Call without the local APIC's lock. */
void vm_irq_eoi(struct vm *vm, uint8_t vector);

/* The 8259 pair, as the local APIC's LINT0 (ExtINT) sees it. */
struct vm_pic_ops {
	bool (*pending)(void *ctx); /* INTR is asserted */
	int (*ack)(void *ctx); /* the INTA cycle: a vector, spurious ones included */
};
void vm_pic_register(struct vm *vm, const struct vm_pic_ops *ops, void *ctx);
bool vm_pic_pending(struct vm *vm);
int vm_pic_ack(struct vm *vm);
/* The PIC's INTR output changed: tells the local APICs, or kicks the vCPUs where those are the engine's.
 * Calls are serialised by the PIC's lock. */
void vm_pic_output(struct vm *vm, bool level);

/*
 * The local APICs, when the engine has none of its own. cpu is the vCPU whose APIC is meant; the
 * functions have the meaning of their namesakes in struct engine_machine. Functions run on any
 * thread (msi) or the vCPU's own (the rest).
 */
struct vm_apic_ops {
	void (*msi)(void *ctx, uint64_t addr, uint32_t data);
	int (*intr_pending)(void *ctx, int cpu);
	int (*intr_ack)(void *ctx, int cpu);
	int (*msr_read)(void *ctx, int cpu, uint32_t msr, uint64_t *val);
	int (*msr_write)(void *ctx, int cpu, uint32_t msr, uint64_t val);
	uint8_t (*cr8_read)(void *ctx, int cpu);
	void (*cr8_write)(void *ctx, int cpu, uint8_t val);
	/* INIT resets all but the APIC ID and base. */
	void (*init)(void *ctx, int cpu);
	/* The vCPU's APIC page, when gpa lies in it (enabled, xAPIC mode): the offset, else -1. Called
	 * for accesses that no range answers, so that each vCPU sees its own APIC at the same address. */
	int (*mmio_offset)(void *ctx, int cpu, uint64_t gpa);
	uint32_t (*mmio_read)(void *ctx, int cpu, int off);
	void (*mmio_write)(void *ctx, int cpu, int off, uint32_t val);
	/* The 8259's INTR, which is wired to every LINT0, changed. Any thread, the PIC's lock held. NULL:
	 * every vCPU is kicked when it rises. */
	void (*lint0)(void *ctx, bool level);
};
void vm_apic_register(struct vm *vm, const struct vm_apic_ops *ops, void *ctx);

#endif
