/*
 * Interrupt pins (PCI 3.0, 2.2.6) and the PIRQ router (Intel 82801 data sheets, LPC bridge,
 * PIRQx_ROUT).
 *
 * A PIRQ's line of the IOAPIC is asserted while a function asserts the PIRQ; so is its line of the
 * 8259s while it is routed there.
 */
#include "pci/pci_private.h"

#define PCI_PIRQ_LINE(pirq) (16 + (pirq))

/* PIRQx_ROUT */
#define PCI_PIRQ_OFF BIT(7) /* not routed to the 8259s */
#define PCI_PIRQ_IRQ(reg) ((reg) & 0xfu)
#define PCI_PIRQ_WRITABLE (PCI_PIRQ_OFF | 0xfu)
/* IRQs that can be asked for: not the timer's, the keyboard's, the cascade's, the RTC's, the
 * FPU's */
#define PCI_PIRQ_IRQS 0xdef8u

/* Edge/level control of the 8259s (82801, ELCR1 and ELCR2) */
#define PCI_ELCR 0x4d0

/* What firmware routes the PIRQs to, in turn: IRQs that no chip of the board uses. */
static const uint8_t pci_pirq_default[] = { 10, 11, 5 };

void
pci_intx_add(struct pci_dev *dev)
{
	int pin = dev->function % 4;

	assert(dev->intx.pirq < 0);
	pci_cfg_set(dev, PCI_INT_PIN, 1, (uint32_t)pin + 1);
	dev->intx.pirq = (dev->slot + pin) % PCI_PIRQS;
}

/* The line of the 8259s, or -1. */
static int
pci_pirq_irq(uint8_t reg)
{
	unsigned irq = PCI_PIRQ_IRQ(reg);

	return !(reg & PCI_PIRQ_OFF) && (PCI_PIRQ_IRQS & BIT(irq)) ? (int)irq : -1;
}

/* Lets a PIRQ hold its line of the 8259s or not. pirq_lock held. */
static void
pci_pirq_hold(struct pci *pci, struct pci_pirq *pirq, bool level)
{
	int irq = pci_pirq_irq(pirq->reg);

	if (irq >= 0)
		vm_irq_set(pci->vm, irq, level, pirq);
}

static void
pci_pirq_assert(struct pci *pci, int n, bool level)
{
	struct pci_pirq *pirq = &pci->pirq[n];
	bool was;

	pthread_mutex_lock(&pci->pirq_lock);
	was = pirq->asserted != 0;
	pirq->asserted += level ? 1 : -1;
	assert(pirq->asserted >= 0);
	if (was != (pirq->asserted != 0)) {
		vm_irq_set(pci->vm, PCI_PIRQ_LINE(n), level, pirq);
		pci_pirq_hold(pci, pirq, level);
	}
	pthread_mutex_unlock(&pci->pirq_lock);
}

static void
pci_pirq_route(struct pci *pci, int n, uint8_t reg)
{
	struct pci_pirq *pirq = &pci->pirq[n];

	pthread_mutex_lock(&pci->pirq_lock);
	if (pirq->asserted != 0)
		pci_pirq_hold(pci, pirq, false);
	pirq->reg = reg & PCI_PIRQ_WRITABLE;
	if (pirq->asserted != 0)
		pci_pirq_hold(pci, pirq, true);
	pthread_mutex_unlock(&pci->pirq_lock);
}

uint8_t
pci_pirq_read(struct pci_dev *dev, int pirq)
{
	struct pci *pci = dev->pci;
	uint8_t reg;

	pthread_mutex_lock(&pci->pirq_lock);
	reg = pci->pirq[pirq].reg;
	pthread_mutex_unlock(&pci->pirq_lock);
	return reg;
}

void
pci_pirq_write(struct pci_dev *dev, int pirq, uint8_t val)
{
	pci_pirq_route(dev->pci, pirq, val);
}

/* --- Pins; irq_lock held --- */

void
pci_intx_apply(struct pci_dev *dev)
{
	struct pci_intx *intx = &dev->intx;
	bool level = intx->level && !intx->off && !dev->msi.enabled && !dev->msix.enabled;

	if (intx->pirq < 0 || level == intx->asserted)
		return;
	intx->asserted = level;
	pci_pirq_assert(dev->pci, intx->pirq, level);
}

void
pci_intx_reset(struct pci_dev *dev)
{
	dev->intx.level = false;
}

void
pci_intx_set(struct pci_dev *dev, bool level)
{
	pthread_mutex_lock(&dev->irq_lock);
	dev->intx.level = level;
	pci_intx_apply(dev);
	pthread_mutex_unlock(&dev->irq_lock);
}

enum pci_irq_kind
pci_irq_kind(struct pci_dev *dev)
{
	enum pci_irq_kind kind = PCI_IRQ_INTX;

	pthread_mutex_lock(&dev->irq_lock);
	if (dev->msix.enabled)
		kind = PCI_IRQ_MSIX;
	else if (dev->msi.enabled)
		kind = PCI_IRQ_MSI;
	pthread_mutex_unlock(&dev->irq_lock);
	return kind;
}

/* --- Firmware --- */

/* Whether the slot's pin is noted already: functions can share one. */
static bool
pci_route_known(const struct pci_layout *layout, int slot, int pin)
{
	for (int i = 0; i < layout->routes; i++) {
		if (layout->route[i].slot == slot && layout->route[i].pin == pin)
			return true;
	}
	return false;
}

/* Shared interrupts have to be level-triggered (PCI 3.0, 2.2.6). */
static void
pci_irq_set_level(struct pci *pci, uint8_t irq)
{
	uint16_t port = (uint16_t)(PCI_ELCR + irq / 8);

	vm_bus_write(pci->vm, VM_PIO, port, 1,
	    vm_bus_read(pci->vm, VM_PIO, port, 1) | BIT(irq % 8));
}

void
pci_pirq_assign(struct pci *pci)
{
	struct pci_layout *layout = &pci->layout;

	for (int n = 0; n < PCI_PIRQS; n++)
		pci->pirq[n].reg = PCI_PIRQ_OFF;
	for (size_t i = 0; i < ARRAY_SIZE(pci->dev); i++) {
		struct pci_dev *dev = pci->dev[i];
		uint8_t irq;
		int pin;

		if (dev == NULL || dev->intx.pirq < 0)
			continue;
		irq = pci_pirq_default[(size_t)dev->intx.pirq % ARRAY_SIZE(pci_pirq_default)];
		pci_pirq_route(pci, dev->intx.pirq, irq);
		pci_irq_set_level(pci, irq);
		pci_cfg_set(dev, PCI_INT_LINE, 1, irq);
		pin = dev->function % 4;
		if (!pci_route_known(layout, dev->slot, pin))
			layout->route[layout->routes++] = (struct pci_route){ (uint8_t)dev->slot,
				(uint8_t)pin, (uint8_t)PCI_PIRQ_LINE(dev->intx.pirq), irq };
	}
}

void
pci_pirq_state(struct pci *pci, struct vm_state *s)
{
	for (int n = 0; n < PCI_PIRQS; n++) {
		uint8_t reg = pci->pirq[n].reg;

		vm_state_u8(s, &reg);
		if (vm_state_loading(s) && vm_state_error(s) == 0)
			pci_pirq_route(pci, n, reg);
	}
}
