/*
 * ACPI fixed hardware. Sections are those of ACPI 6.5.
 */
#include "chipset/acpi_pm.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/bits.h"
#include "base/log.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/loop.h"
#include "vm/state.h"

/* PM1_STS, 4.8.3.1.1: 16 bits, a written 1 clears; PM1_EN, 4.8.3.1.2, the same bits */
#define PM1_TMR BIT(0) /* the timer's highest bit changed */
#define PM1_GBL BIT(5)
#define PM1_PWRBTN BIT(8)
#define PM1_SLPBTN BIT(9)
#define PM1_RTC BIT(10)
#define PM1_EN_MASK (PM1_TMR | PM1_GBL | PM1_PWRBTN | PM1_SLPBTN | PM1_RTC)

/* PM1_CNT, 4.8.3.2.1: 16 bits */
#define PM1_CNT_SCI_EN BIT(0) /* ACPI mode; changed by SMI_CMD only */
#define PM1_CNT_BM_RLD BIT(1)
#define PM1_CNT_SLP_TYP(v) BITS(v, 10, 3)
#define PM1_CNT_SLP_TYP_MASK 0x1c00
#define PM1_CNT_SLP_EN BIT(13) /* reads as 0 */

/* GPE0, 4.8.4.1: GPE0_STS and GPE0_EN, two bytes each here */
#define GPE0_EVENTS (ACPI_GPE0_LEN / 2 * 8)

#define PM_TMR_BITS (ACPI_PM_TMR_32BIT ? 32 : 24)
#define PM_NS_PER_S 1000000000ull

struct acpi_pm {
	struct vm *vm;
	struct vm_range evt, cnt, tmr, gpe, smi;
	struct vm_timer *timer; /* the next change of the timer's highest bit, if it interrupts */

	pthread_mutex_t lock; /* everything below */
	uint16_t sts, en, control;
	uint16_t gpe_sts, gpe_en;
	uint8_t smi_cmd, smi_data; /* what was written last */
	uint64_t seen_ticks; /* PM_TMR up to here is in sts */
};

/* --- Timer and SCI --- */

static uint64_t
pm_ticks(const struct acpi_pm *pm)
{
	return (uint64_t)((unsigned __int128)vm_clock_ns(vm_loop(pm->vm)) * ACPI_PM_TMR_HZ /
	    PM_NS_PER_S);
}

/* Notes in PM1_STS that the timer's highest bit changed since the last look (4.8.3.3). */
static void
pm_timer_sync(struct acpi_pm *pm)
{
	uint64_t ticks = pm_ticks(pm);

	if (ticks >> (PM_TMR_BITS - 1) != pm->seen_ticks >> (PM_TMR_BITS - 1))
		pm->sts |= PM1_TMR;
	pm->seen_ticks = ticks;
}

/* Sets the SCI and the timer by the state of the registers. */
static void
pm_update(struct acpi_pm *pm)
{
	bool event = (pm->sts & pm->en) != 0 || (pm->gpe_sts & pm->gpe_en) != 0;
	uint64_t change;

	vm_irq_set(pm->vm, ACPI_PM_SCI_IRQ, event && (pm->control & PM1_CNT_SCI_EN) != 0, pm);
	if ((pm->en & ~pm->sts & PM1_TMR) == 0) {
		vm_timer_cancel(pm->timer);
		return;
	}
	change = ((pm->seen_ticks >> (PM_TMR_BITS - 1)) + 1) << (PM_TMR_BITS - 1);
	vm_timer_arm(pm->timer,
	    (uint64_t)(((unsigned __int128)change * PM_NS_PER_S + ACPI_PM_TMR_HZ - 1) /
		ACPI_PM_TMR_HZ));
}

static void
pm_on_timer(void *arg)
{
	struct acpi_pm *pm = arg;

	pthread_mutex_lock(&pm->lock);
	pm_timer_sync(pm);
	pm_update(pm);
	pthread_mutex_unlock(&pm->lock);
}

static uint64_t
pm_tmr_read(void *ctx, uint64_t off, int size)
{
	struct acpi_pm *pm = ctx;

	return pm_ticks(pm) & ((1ull << PM_TMR_BITS) - 1);
}

/* --- PM1a --- */

/*
 * A status and an enable register side by side, of half bytes each, byte by byte: an 8-bit access
 * must not clear status bits in the other byte.
 */
static uint32_t
pm_event_read(uint16_t sts, uint16_t en, uint64_t off, unsigned half)
{
	return (sts | (uint32_t)en << (8 * half)) >> (8 * off);
}

static void
pm_event_write(uint16_t *sts, uint16_t *en, uint64_t off, unsigned half, uint8_t val)
{
	unsigned shift = 8 * (off % half);

	if (off < half)
		*sts &= (uint16_t)~(val << shift);
	else
		*en = (uint16_t)((*en & ~(0xff << shift)) | val << shift);
}

static uint64_t
pm_evt_read(void *ctx, uint64_t off, int size)
{
	struct acpi_pm *pm = ctx;
	uint32_t val;

	pthread_mutex_lock(&pm->lock);
	pm_timer_sync(pm);
	pm_update(pm);
	val = pm_event_read(pm->sts, pm->en, off, ACPI_PM1_EVT_LEN / 2);
	pthread_mutex_unlock(&pm->lock);
	return val;
}

static void
pm_evt_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct acpi_pm *pm = ctx;

	pthread_mutex_lock(&pm->lock);
	pm_timer_sync(pm);
	pm_event_write(&pm->sts, &pm->en, off, ACPI_PM1_EVT_LEN / 2, (uint8_t)val);
	pm->en &= PM1_EN_MASK;
	pm_update(pm);
	pthread_mutex_unlock(&pm->lock);
}

static uint64_t
pm_cnt_read(void *ctx, uint64_t off, int size)
{
	struct acpi_pm *pm = ctx;
	uint16_t val;

	pthread_mutex_lock(&pm->lock);
	val = pm->control;
	pthread_mutex_unlock(&pm->lock);
	return val;
}

static void
pm_cnt_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct acpi_pm *pm = ctx;

	pthread_mutex_lock(&pm->lock);
	pm->control = (uint16_t)((pm->control & PM1_CNT_SCI_EN) |
	    (val & (PM1_CNT_BM_RLD | PM1_CNT_SLP_TYP_MASK)));
	pthread_mutex_unlock(&pm->lock);
	if ((val & PM1_CNT_SLP_EN) == 0)
		return;
	/* No other state is offered to the guest. */
	if (PM1_CNT_SLP_TYP(val) == ACPI_PM_SLP_TYP_S5)
		vm_shutdown(pm->vm, VM_EXIT_POWEROFF);
	else
		log_guest("acpi", "unknown sleep type %u", (unsigned)PM1_CNT_SLP_TYP(val));
}

/* False when the guest does not listen: a legacy guest, or one that has not come so far. */
static bool
pm_power_button(void *ctx)
{
	struct acpi_pm *pm = ctx;
	bool heard;

	pthread_mutex_lock(&pm->lock);
	heard = (pm->control & PM1_CNT_SCI_EN) != 0 && (pm->en & PM1_PWRBTN) != 0;
	if (heard)
		pm->sts |= PM1_PWRBTN;
	pm_update(pm);
	pthread_mutex_unlock(&pm->lock);
	return heard;
}

/* --- GPE0 --- */

static uint64_t
pm_gpe_read(void *ctx, uint64_t off, int size)
{
	struct acpi_pm *pm = ctx;
	uint32_t val;

	pthread_mutex_lock(&pm->lock);
	val = pm_event_read(pm->gpe_sts, pm->gpe_en, off, ACPI_GPE0_LEN / 2);
	pthread_mutex_unlock(&pm->lock);
	return val;
}

static void
pm_gpe_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct acpi_pm *pm = ctx;

	pthread_mutex_lock(&pm->lock);
	pm_event_write(&pm->gpe_sts, &pm->gpe_en, off, ACPI_GPE0_LEN / 2, (uint8_t)val);
	pm_update(pm);
	pthread_mutex_unlock(&pm->lock);
}

void
acpi_pm_gpe(struct acpi_pm *pm, unsigned event)
{
	if (event >= GPE0_EVENTS)
		return;
	pthread_mutex_lock(&pm->lock);
	pm->gpe_sts |= (uint16_t)BIT(event);
	pm_update(pm);
	pthread_mutex_unlock(&pm->lock);
}

/* --- SMI_CMD (5.2.9): what a BIOS in SMM would do --- */

static uint64_t
pm_smi_read(void *ctx, uint64_t off, int size)
{
	struct acpi_pm *pm = ctx;
	uint8_t val;

	pthread_mutex_lock(&pm->lock);
	val = off == 0 ? pm->smi_cmd : pm->smi_data;
	pthread_mutex_unlock(&pm->lock);
	return val;
}

static void
pm_smi_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct acpi_pm *pm = ctx;

	pthread_mutex_lock(&pm->lock);
	if (off == 0)
		pm->smi_cmd = (uint8_t)val;
	else
		pm->smi_data = (uint8_t)val;
	if (off == 0 && val == ACPI_PM_ENABLE)
		pm->control |= PM1_CNT_SCI_EN;
	else if (off == 0 && val == ACPI_PM_DISABLE)
		pm->control &= ~PM1_CNT_SCI_EN;
	pm_update(pm);
	pthread_mutex_unlock(&pm->lock);
}

static const struct vm_range_ops pm_evt_ops = { "acpi", pm_evt_read, pm_evt_write, 1, 1 };
static const struct vm_range_ops pm_cnt_ops = { "acpi", pm_cnt_read, pm_cnt_write, 2, 2 };
static const struct vm_range_ops pm_tmr_ops = { "acpi", pm_tmr_read, NULL, 4, 4 };
static const struct vm_range_ops pm_gpe_ops = { "acpi", pm_gpe_read, pm_gpe_write, 1, 1 };
static const struct vm_range_ops pm_smi_ops = { "acpi", pm_smi_read, pm_smi_write, 1, 1 };

/* --- State --- */

static int
pm_state(void *ctx, struct vm_state *s)
{
	struct acpi_pm *pm = ctx;

	vm_state_section(s, "acpi_pm", 0, 1);
	vm_state_u16(s, &pm->sts);
	vm_state_u16(s, &pm->en);
	vm_state_u16(s, &pm->control);
	vm_state_u16(s, &pm->gpe_sts);
	vm_state_u16(s, &pm->gpe_en);
	vm_state_u8(s, &pm->smi_cmd);
	vm_state_u8(s, &pm->smi_data);
	vm_state_u64(s, &pm->seen_ticks);
	if (vm_state_loading(s)) {
		if ((pm->en & ~PM1_EN_MASK) != 0)
			vm_state_reject(s, "acpi_pm register out of range");
		pm_update(pm);
	}
	return vm_state_end(s);
}

int
acpi_pm_create(struct vm *vm, struct acpi_pm **out)
{
	struct acpi_pm *pm = calloc(1, sizeof(*pm));
	int err = -ENOMEM;

	if (pm == NULL)
		return -ENOMEM;
	pm->vm = vm;
	pthread_mutex_init(&pm->lock, NULL);
	pm->timer = vm_timer_create(vm_loop(vm), pm_on_timer, pm);
	if (pm->timer == NULL)
		goto destroy;
	pm->seen_ticks = pm_ticks(pm);
	pm->evt =
	    (struct vm_range){ &pm_evt_ops, pm, VM_PIO, ACPI_PM1_EVT, ACPI_PM1_EVT_LEN, false };
	pm->cnt =
	    (struct vm_range){ &pm_cnt_ops, pm, VM_PIO, ACPI_PM1_CNT, ACPI_PM1_CNT_LEN, false };
	pm->tmr = (struct vm_range){ &pm_tmr_ops, pm, VM_PIO, ACPI_PM_TMR, ACPI_PM_TMR_LEN, false };
	pm->gpe = (struct vm_range){ &pm_gpe_ops, pm, VM_PIO, ACPI_GPE0, ACPI_GPE0_LEN, false };
	pm->smi = (struct vm_range){ &pm_smi_ops, pm, VM_PIO, ACPI_PM_SMI_CMD, 2, false };
	err = vm_range_add(vm, &pm->evt);
	if (err == 0)
		err = vm_range_add(vm, &pm->cnt);
	if (err == 0)
		err = vm_range_add(vm, &pm->tmr);
	if (err == 0)
		err = vm_range_add(vm, &pm->gpe);
	if (err == 0)
		err = vm_range_add(vm, &pm->smi);
	if (err == 0)
		err = vm_state_register(vm, pm_state, pm);
	if (err != 0)
		goto destroy;
	vm_power_button_register(vm, pm_power_button, pm);
	*out = pm;
	return 0;
destroy:
	acpi_pm_destroy(pm);
	return err;
}

void
acpi_pm_destroy(struct acpi_pm *pm)
{
	if (pm == NULL)
		return;
	/* A range that was not added is not found. */
	vm_range_remove(pm->vm, &pm->evt);
	vm_range_remove(pm->vm, &pm->cnt);
	vm_range_remove(pm->vm, &pm->tmr);
	vm_range_remove(pm->vm, &pm->gpe);
	vm_range_remove(pm->vm, &pm->smi);
	vm_power_button_register(pm->vm, NULL, NULL);
	vm_timer_destroy(pm->timer);
	pthread_mutex_destroy(&pm->lock);
	free(pm);
}
