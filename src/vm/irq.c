/*
 * Interrupt routing.
 */
#include "vm/irq.h"
#include "vm/private.h"

#include "base/log.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define VM_IRQ_SINKS 4

struct vm_irq_line {
	/* Held while the sinks are told, so that they see the changes of a line in order. */
	pthread_mutex_t lock;
	const void **holder; /* the sources that hold it asserted */
	size_t holders, room;
};

struct vm_irq_sink {
	const struct vm_irq_sink_ops *ops;
	void *ctx;
};

struct vm_irq {
	struct vm_irq_line line[VM_IRQ_LINES];
	/* Registered on the main thread before vCPUs run, only read after. */
	struct vm_irq_sink sink[VM_IRQ_SINKS];
	int sinks;
	const struct vm_pic_ops *pic;
	void *pic_ctx;
	const struct vm_apic_ops *apic;
	void *apic_ctx;
};

int
vm_irq_create(struct vm *vm)
{
	struct vm_irq *irq = calloc(1, sizeof(*irq));

	if (irq == NULL)
		return -ENOMEM;
	for (int i = 0; i < VM_IRQ_LINES; i++)
		pthread_mutex_init(&irq->line[i].lock, NULL);
	vm->irq = irq;
	return 0;
}

void
vm_irq_destroy(struct vm *vm)
{
	struct vm_irq *irq = vm->irq;

	if (irq == NULL)
		return;
	for (int i = 0; i < VM_IRQ_LINES; i++) {
		pthread_mutex_destroy(&irq->line[i].lock);
		free(irq->line[i].holder);
	}
	free(irq);
	vm->irq = NULL;
}

/* --- Lines --- */

/* Notes that source holds the line or lets it go. */
static void
vm_irq_line_hold(struct vm_irq_line *line, const void *source, bool hold)
{
	size_t at = 0;

	while (at < line->holders && line->holder[at] != source)
		at++;
	if (hold == (at < line->holders))
		return;
	if (!hold) {
		line->holder[at] = line->holder[--line->holders];
		return;
	}
	if (line->holders == line->room) {
		size_t room = line->room != 0 ? line->room * 2 : 4;
		const void **grown = realloc(line->holder, room * sizeof(*grown));

		if (grown == NULL) {
			log_error("interrupts", "out of memory, an interrupt is lost");
			return;
		}
		line->holder = grown;
		line->room = room;
	}
	line->holder[line->holders++] = source;
}

void
vm_irq_set(struct vm *vm, int line, bool level, const void *source)
{
	struct vm_irq *irq = vm->irq;
	struct vm_irq_line *l;
	bool was, is;

	assert(line >= 0 && line < VM_IRQ_LINES);
	l = &irq->line[line];
	pthread_mutex_lock(&l->lock);
	was = l->holders != 0;
	vm_irq_line_hold(l, source, level);
	is = l->holders != 0;
	for (int i = 0; was != is && i < irq->sinks; i++)
		irq->sink[i].ops->set(irq->sink[i].ctx, line, is);
	pthread_mutex_unlock(&l->lock);
}

void
vm_irq_pulse(struct vm *vm, int line)
{
	vm_irq_set(vm, line, true, NULL);
	vm_irq_set(vm, line, false, NULL);
}

void
vm_irq_sink_add(struct vm *vm, const struct vm_irq_sink_ops *ops, void *ctx)
{
	struct vm_irq *irq = vm->irq;

	assert(irq->sinks < VM_IRQ_SINKS);
	irq->sink[irq->sinks++] = (struct vm_irq_sink){ ops, ctx };
	for (int i = 0; i < VM_IRQ_LINES; i++) {
		if (irq->line[i].holders != 0)
			ops->set(ctx, i, true);
	}
}

void
vm_irq_eoi(struct vm *vm, uint8_t vector)
{
	struct vm_irq *irq = vm->irq;

	for (int i = 0; i < irq->sinks; i++) {
		if (irq->sink[i].ops->eoi != NULL)
			irq->sink[i].ops->eoi(irq->sink[i].ctx, vector);
	}
}

void
vm_irq_route(struct vm *vm, int pin, uint64_t addr, uint32_t data)
{
	const struct engine_ops *engine = vm->params.engine;
	int err = 0;

	if (engine->irq_route != NULL)
		err = engine->irq_route(vm->engine, pin, addr, data);
	if (err != 0)
		log_error("interrupts", "pin %d of the IOAPIC cannot be routed: %s", pin,
		    strerror(-err));
}

/* --- Local APICs --- */

void
vm_apic_register(struct vm *vm, const struct vm_apic_ops *ops, void *ctx)
{
	vm->irq->apic = ops;
	vm->irq->apic_ctx = ctx;
}

const struct vm_apic_ops *
vm_apic(struct vm *vm, void **ctx)
{
	*ctx = vm->irq->apic_ctx;
	return vm->irq->apic;
}

void
vm_msi(struct vm *vm, uint64_t addr, uint32_t data)
{
	const struct engine_ops *engine = vm->params.engine;

	if (engine->msi != NULL)
		(void)engine->msi(vm->engine, addr, data);
	else if (vm->irq->apic != NULL)
		vm->irq->apic->msi(vm->irq->apic_ctx, addr, data);
}

/* --- The 8259 pair --- */

void
vm_pic_register(struct vm *vm, const struct vm_pic_ops *ops, void *ctx)
{
	vm->irq->pic = ops;
	vm->irq->pic_ctx = ctx;
}

bool
vm_pic_pending(struct vm *vm)
{
	return vm->irq->pic != NULL && vm->irq->pic->pending(vm->irq->pic_ctx);
}

int
vm_pic_ack(struct vm *vm)
{
	return vm->irq->pic != NULL ? vm->irq->pic->ack(vm->irq->pic_ctx) : -1;
}

void
vm_pic_output(struct vm *vm, bool level)
{
	const struct vm_apic_ops *apic = vm->irq->apic;

	if (apic != NULL && apic->lint0 != NULL) {
		apic->lint0(vm->irq->apic_ctx, level);
		return;
	}
	/* Engines with local APICs take it on the bootstrap processor, as vm_machine does. */
	for (int cpu = 0; level && cpu < (vm->params.engine->msi != NULL ? 1 : vm_vcpus(vm)); cpu++)
		vm_vcpu_kick(vm, cpu);
}
