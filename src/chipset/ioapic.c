/*
 * I/O APIC (82093AA).
 */
#include "chipset/ioapic.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/state.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

/* Direct registers (82093AA, 3.1; EOI: version 20h only) */
#define IOAPIC_REGSEL 0x00
#define IOAPIC_WIN 0x10
#define IOAPIC_EOI 0x40
#define IOAPIC_SIZE 0x1000

/* Indirect registers (82093AA, 3.2) */
#define IOAPIC_REG_ID 0x00
#define IOAPIC_REG_VERSION 0x01
#define IOAPIC_REG_ARB 0x02
#define IOAPIC_REG_REDTBL 0x10 /* two per pin, low half first */

#define IOAPIC_VERSION_VALUE (0x20 | (IOAPIC_PINS - 1) << 16)
#define IOAPIC_ID_MASK 0x0f000000u

/* Redirection table entry (82093AA, 3.2.4) */
#define IOAPIC_RTE_VECTOR(e) ((uint8_t)(e))
#define IOAPIC_RTE_MODE(e) (((e) >> 8) & 7)
#define IOAPIC_RTE_LOGICAL BIT64(11)
#define IOAPIC_RTE_REMOTE_IRR BIT64(14)
#define IOAPIC_RTE_LEVEL BIT64(15)
#define IOAPIC_RTE_MASKED BIT64(16)
#define IOAPIC_RTE_DEST(e) ((e) >> 56)
#define IOAPIC_RTE_WRITABLE 0xff0000000001afffull
enum ioapic_mode { IOAPIC_FIXED, IOAPIC_LOWEST, IOAPIC_SMI, IOAPIC_NMI = 4, IOAPIC_INIT,
	IOAPIC_EXTINT = 7 };

/* The message an interrupt becomes (SDM 3, 10.11) */
#define IOAPIC_MSG_ADDR 0xfee00000u
#define IOAPIC_MSG_DEST_SHIFT 12
#define IOAPIC_MSG_REDIRECT BIT(3)
#define IOAPIC_MSG_LOGICAL BIT(2)
#define IOAPIC_MSG_ASSERT BIT(14)
#define IOAPIC_MSG_LEVEL BIT(15)

struct ioapic {
	struct vm *vm;
	pthread_mutex_t lock; /* guards all below; vm_msi() is called with it held */
	uint8_t regsel;
	uint32_t id;
	uint32_t pins; /* level of each pin */
	uint64_t rte[IOAPIC_PINS];
};

/* --- Delivery; the lock is held --- */

/* Fixed and lowest priority may be level-triggered, the others are edges whatever the entry
 * says. */
static bool
ioapic_rte_is_level(uint64_t rte)
{
	return (rte & IOAPIC_RTE_LEVEL) && IOAPIC_RTE_MODE(rte) <= IOAPIC_LOWEST;
}

/* The message of an entry (SDM 3, 10.11). */
static void
ioapic_message(uint64_t rte, uint32_t *addr, uint32_t *data)
{
	uint32_t mode = IOAPIC_RTE_MODE(rte);

	*addr = IOAPIC_MSG_ADDR | (uint32_t)IOAPIC_RTE_DEST(rte) << IOAPIC_MSG_DEST_SHIFT;
	*data = IOAPIC_RTE_VECTOR(rte) | mode << 8 | IOAPIC_MSG_ASSERT;
	if (rte & IOAPIC_RTE_LOGICAL)
		*addr |= IOAPIC_MSG_LOGICAL;
	if (mode == IOAPIC_LOWEST)
		*addr |= IOAPIC_MSG_REDIRECT;
	if (ioapic_rte_is_level(rte))
		*data |= IOAPIC_MSG_LEVEL;
}

static void
ioapic_send(struct ioapic *d, uint64_t rte)
{
	uint32_t addr, data;

	switch (IOAPIC_RTE_MODE(rte)) {
	case IOAPIC_FIXED:
	case IOAPIC_LOWEST:
	case IOAPIC_SMI:
	case IOAPIC_NMI:
	case IOAPIC_INIT:
	case IOAPIC_EXTINT: break;
	default: return;
	}
	ioapic_message(rte, &addr, &data);
	vm_msi(d->vm, addr, data);
}

/* Tells engines with local APICs of their own whose EOIs matter. A pin that is masked keeps its
 * route: its interrupt may be in service, and guests mask and unmask pins often. */
static void
ioapic_route(struct ioapic *d, int pin)
{
	uint64_t rte = d->rte[pin];
	uint32_t addr, data;

	if (!ioapic_rte_is_level(rte)) {
		vm_irq_route(d->vm, pin, 0, 0);
	} else if (!(rte & IOAPIC_RTE_MASKED) || (rte & IOAPIC_RTE_REMOTE_IRR)) {
		ioapic_message(rte, &addr, &data);
		vm_irq_route(d->vm, pin, addr, data);
	}
}

/* Sends a level-triggered pin's interrupt if it is asserted and none is under way. */
static void
ioapic_check_level(struct ioapic *d, int pin)
{
	uint64_t *rte = &d->rte[pin];

	if (!ioapic_rte_is_level(*rte) || (*rte & (IOAPIC_RTE_MASKED | IOAPIC_RTE_REMOTE_IRR)))
		return;
	if (d->pins & BIT(pin)) {
		*rte |= IOAPIC_RTE_REMOTE_IRR;
		ioapic_send(d, *rte);
	}
}

static void
ioapic_eoi_locked(struct ioapic *d, uint8_t vector)
{
	for (int pin = 0; pin < IOAPIC_PINS; pin++) {
		uint64_t *rte = &d->rte[pin];

		if ((*rte & IOAPIC_RTE_REMOTE_IRR) && IOAPIC_RTE_VECTOR(*rte) == vector) {
			*rte &= ~IOAPIC_RTE_REMOTE_IRR;
			ioapic_check_level(d, pin);
		}
	}
}

/* --- Lines --- */

static void
ioapic_line(void *ctx, int line, bool level)
{
	struct ioapic *d = ctx;
	int pin = line == 0 ? 2 : line;
	uint32_t was;

	if (line == 2 || line >= IOAPIC_PINS)
		return;
	pthread_mutex_lock(&d->lock);
	was = d->pins;
	d->pins = level ? was | BIT(pin) : was & ~BIT(pin);
	if (ioapic_rte_is_level(d->rte[pin]))
		ioapic_check_level(d, pin);
	else if ((d->pins & ~was) && !(d->rte[pin] & IOAPIC_RTE_MASKED))
		ioapic_send(d, d->rte[pin]);
	pthread_mutex_unlock(&d->lock);
}

static void
ioapic_eoi(void *ctx, uint8_t vector)
{
	struct ioapic *d = ctx;

	pthread_mutex_lock(&d->lock);
	ioapic_eoi_locked(d, vector);
	pthread_mutex_unlock(&d->lock);
}

/* --- Registers; the lock is held --- */

static void
ioapic_rte_write(struct ioapic *d, int pin, int half, uint32_t val)
{
	uint64_t *rte = &d->rte[pin];
	uint64_t mask = half ? 0xffffffff00000000ull : 0xffffffff;

	mask &= IOAPIC_RTE_WRITABLE;
	*rte = (*rte & ~mask) | ((half ? (uint64_t)val << 32 : val) & mask);
	/* Guests that find an interrupt stuck make it edge-triggered and level-triggered again. */
	if (!ioapic_rte_is_level(*rte))
		*rte &= ~IOAPIC_RTE_REMOTE_IRR;
	ioapic_route(d, pin);
	ioapic_check_level(d, pin);
}

static uint32_t
ioapic_reg_read(const struct ioapic *d)
{
	unsigned i = d->regsel - IOAPIC_REG_REDTBL;

	if (d->regsel == IOAPIC_REG_ID || d->regsel == IOAPIC_REG_ARB)
		return d->id;
	if (d->regsel == IOAPIC_REG_VERSION)
		return IOAPIC_VERSION_VALUE;
	if (i < 2 * IOAPIC_PINS)
		return (uint32_t)(d->rte[i / 2] >> (i % 2 * 32));
	return 0;
}

static void
ioapic_reg_write(struct ioapic *d, uint32_t val)
{
	unsigned i = d->regsel - IOAPIC_REG_REDTBL;

	if (d->regsel == IOAPIC_REG_ID)
		d->id = val & IOAPIC_ID_MASK;
	else if (i < 2 * IOAPIC_PINS)
		ioapic_rte_write(d, (int)i / 2, i % 2, val);
}

static uint64_t
ioapic_read(void *ctx, uint64_t off, int size)
{
	struct ioapic *d = ctx;
	uint32_t val = 0;

	pthread_mutex_lock(&d->lock);
	if (off == IOAPIC_REGSEL)
		val = d->regsel;
	else if (off == IOAPIC_WIN)
		val = ioapic_reg_read(d);
	pthread_mutex_unlock(&d->lock);
	return val;
}

static void
ioapic_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct ioapic *d = ctx;

	pthread_mutex_lock(&d->lock);
	if (off == IOAPIC_REGSEL)
		d->regsel = (uint8_t)val;
	else if (off == IOAPIC_WIN)
		ioapic_reg_write(d, (uint32_t)val);
	else if (off == IOAPIC_EOI)
		ioapic_eoi_locked(d, (uint8_t)val);
	pthread_mutex_unlock(&d->lock);
}

/* --- State, life --- */

static int
ioapic_state(void *ctx, struct vm_state *s)
{
	struct ioapic *d = ctx;

	vm_state_section(s, "ioapic", 0, 1);
	vm_state_u8(s, &d->regsel);
	vm_state_u32(s, &d->id);
	vm_state_u32(s, &d->pins);
	for (int i = 0; i < IOAPIC_PINS; i++) {
		vm_state_u64(s, &d->rte[i]);
		if (d->rte[i] & ~(IOAPIC_RTE_WRITABLE | IOAPIC_RTE_REMOTE_IRR))
			vm_state_reject(s, "a redirection entry");
		if (vm_state_loading(s) && vm_state_error(s) == 0)
			ioapic_route(d, i);
	}
	if ((d->id & ~IOAPIC_ID_MASK) || d->pins >> IOAPIC_PINS)
		vm_state_reject(s, "ID or pins");
	return vm_state_end(s);
}

static const struct vm_range_ops ioapic_range_ops = {
	.name = "ioapic",
	.read = ioapic_read,
	.write = ioapic_write,
	.min_size = 4,
	.max_size = 4,
};

static const struct vm_irq_sink_ops ioapic_sink_ops = {
	.name = "ioapic",
	.set = ioapic_line,
	.eoi = ioapic_eoi,
};

int
ioapic_create(struct vm *vm, struct ioapic **out)
{
	struct ioapic *d = calloc(1, sizeof(*d));
	const struct vm_range range = { .ops = &ioapic_range_ops, .ctx = d, .space = VM_MMIO,
		.base = IOAPIC_BASE, .size = IOAPIC_SIZE };
	int err;

	if (d == NULL)
		return -ENOMEM;
	d->vm = vm;
	d->id = IOAPIC_ID << 24;
	for (int i = 0; i < IOAPIC_PINS; i++)
		d->rte[i] = IOAPIC_RTE_MASKED;
	pthread_mutex_init(&d->lock, NULL);
	err = vm_range_add(vm, &range);
	if (err != 0)
		goto destroy;
	err = vm_state_register(vm, ioapic_state, d);
	if (err != 0)
		goto remove_range;
	vm_irq_sink_add(vm, &ioapic_sink_ops, d);
	*out = d;
	return 0;
remove_range:
	vm_range_remove(vm, &range);
destroy:
	ioapic_destroy(d);
	return err;
}

void
ioapic_destroy(struct ioapic *d)
{
	if (d == NULL)
		return;
	pthread_mutex_destroy(&d->lock);
	free(d);
}
