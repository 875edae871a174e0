/*
 * What the engine asks of the machine while a vCPU runs: forwarded to the bus, the local APICs and,
 * on a machine without local APICs, to the 8259 pair, whose INTR is then wired to vCPU 0 itself.
 */
#include "vm/private.h"

#include <errno.h>

static uint32_t
vm_machine_pio_read(void *ctx, int cpu, uint16_t port, int size)
{
	return (uint32_t)vm_bus_read_as(ctx, cpu, VM_PIO, port, size);
}

static void
vm_machine_pio_write(void *ctx, int cpu, uint16_t port, int size, uint32_t val)
{
	vm_bus_write_as(ctx, cpu, VM_PIO, port, size, val);
}

static uint64_t
vm_machine_mmio_read(void *ctx, int cpu, uint64_t gpa, int size)
{
	return vm_bus_read_as(ctx, cpu, VM_MMIO, gpa, size);
}

static void
vm_machine_mmio_write(void *ctx, int cpu, uint64_t gpa, int size, uint64_t val)
{
	vm_bus_write_as(ctx, cpu, VM_MMIO, gpa, size, val);
}

static int
vm_machine_intr_pending(void *ctx, int cpu)
{
	const struct vm_apic_ops *apic;
	void *apic_ctx;

	apic = vm_apic(ctx, &apic_ctx);
	if (apic != NULL)
		return apic->intr_pending(apic_ctx, cpu);
	/* Which vector it is shows only at the acknowledge. */
	return cpu == 0 && vm_pic_pending(ctx) ? 0 : -1;
}

static int
vm_machine_intr_ack(void *ctx, int cpu)
{
	const struct vm_apic_ops *apic;
	void *apic_ctx;

	apic = vm_apic(ctx, &apic_ctx);
	if (apic != NULL)
		return apic->intr_ack(apic_ctx, cpu);
	return cpu == 0 ? vm_pic_ack(ctx) : -1;
}

static int
vm_machine_apic_msr_read(void *ctx, int cpu, uint32_t msr, uint64_t *val)
{
	const struct vm_apic_ops *apic;
	void *apic_ctx;

	apic = vm_apic(ctx, &apic_ctx);
	return apic != NULL ? apic->msr_read(apic_ctx, cpu, msr, val) : -EINVAL;
}

static int
vm_machine_apic_msr_write(void *ctx, int cpu, uint32_t msr, uint64_t val)
{
	const struct vm_apic_ops *apic;
	void *apic_ctx;

	apic = vm_apic(ctx, &apic_ctx);
	return apic != NULL ? apic->msr_write(apic_ctx, cpu, msr, val) : -EINVAL;
}

static uint8_t
vm_machine_cr8_read(void *ctx, int cpu)
{
	const struct vm_apic_ops *apic;
	void *apic_ctx;

	apic = vm_apic(ctx, &apic_ctx);
	return apic != NULL ? apic->cr8_read(apic_ctx, cpu) : 0;
}

static void
vm_machine_cr8_write(void *ctx, int cpu, uint8_t val)
{
	const struct vm_apic_ops *apic;
	void *apic_ctx;

	apic = vm_apic(ctx, &apic_ctx);
	if (apic != NULL)
		apic->cr8_write(apic_ctx, cpu, val);
}

static void
vm_machine_eoi(void *ctx, int cpu, uint8_t vector)
{
	vm_irq_eoi(ctx, vector);
}

const struct engine_machine vm_machine = {
	.pio_read = vm_machine_pio_read,
	.pio_write = vm_machine_pio_write,
	.mmio_read = vm_machine_mmio_read,
	.mmio_write = vm_machine_mmio_write,
	.intr_pending = vm_machine_intr_pending,
	.intr_ack = vm_machine_intr_ack,
	.apic_msr_read = vm_machine_apic_msr_read,
	.apic_msr_write = vm_machine_apic_msr_write,
	.cr8_read = vm_machine_cr8_read,
	.cr8_write = vm_machine_cr8_write,
	.eoi = vm_machine_eoi,
};
