/*
 * AHCI: registers of a port, its link and its resets (AHCI 1.3.1, 3.3, 8 and 10).
 */
#include "storage/ahci_impl.h"

#include "vm/state.h"

#include <errno.h>
#include <stdlib.h>

#define AHCI_STATUS_NONE 0x7f /* PxTFD without a device */

/* --- Link --- */

static uint32_t
ahci_port_speed(const struct ahci_port *port)
{
	uint32_t limit = AHCI_SCTL_SPD(port->sctl);

	return limit == 0 ? AHCI_SSTS_SPD_GEN3 : MIN(limit, AHCI_SSTS_SPD_GEN3);
}

/* The power state: what the driver asked for, or what the link falls into by itself when there is
 * nothing to do (8.3.1.3). */
static uint32_t
ahci_port_ipm(const struct ahci_port *port)
{
	uint32_t ipm = port->ipm;

	if ((port->cmd & AHCI_CMD_ALPE) != 0 && (port->ci | port->sact) == 0)
		ipm = port->cmd & AHCI_CMD_ASP ? AHCI_IPM_SLUMBER : AHCI_IPM_PARTIAL;
	if ((ipm == AHCI_IPM_PARTIAL && (port->sctl & AHCI_SCTL_NO_PARTIAL) != 0) ||
	    (ipm == AHCI_IPM_SLUMBER && (port->sctl & AHCI_SCTL_NO_SLUMBER) != 0))
		ipm = AHCI_IPM_ACTIVE;
	return ipm;
}

static uint32_t
ahci_port_ssts(const struct ahci_port *port)
{
	if (port->up)
		return AHCI_SSTS_DET_UP | ahci_port_speed(port) << 4 | ahci_port_ipm(port) << 8;
	return AHCI_SCTL_DET(port->sctl) == AHCI_SCTL_DET_OFFLINE ? AHCI_SSTS_DET_OFFLINE : 0;
}

static void
ahci_link_down(struct ahci_port *port)
{
	if (port->up)
		port->serr |= AHCI_SERR_DIAG_N;
	port->up = false;
	port->greeting = false;
	port->status = AHCI_STATUS_NONE;
	port->error = 0;
}

/* The device is found, resets itself and says what it is; while requests from before are in flight,
 * it is busy. */
static void
ahci_link_up(struct ahci_port *port)
{
	port->up = true;
	port->ipm = AHCI_IPM_ACTIVE;
	port->serr |= AHCI_SERR_DIAG_N | AHCI_SERR_DIAG_X;
	port->srst = false;
	ata_dev_reset(&port->dev, false);
	if (port->draining) {
		port->status = ATA_STATUS_BSY;
		port->greeting = true;
	} else {
		ahci_port_greet(port);
	}
}

/* The link is up where nothing keeps it down. */
static void
ahci_link_follow(struct ahci_port *port)
{
	bool up = (port->cmd & AHCI_CMD_SUD) != 0 && AHCI_SCTL_DET(port->sctl) == 0;

	if (up && !port->up)
		ahci_link_up(port);
	else if (!up && port->up)
		ahci_link_down(port);
}

/* --- Start and stop --- */

static void
ahci_port_clear_list(struct ahci_port *port)
{
	port->ci = 0;
	port->sact = 0;
	port->halted = false;
	port->next = 0;
	port->cmd &= ~AHCI_CMD_CCS_MASK;
	ahci_port_abort(port);
}

void
ahci_port_settle(struct ahci_port *port)
{
	port->draining = false;
	pthread_cond_broadcast(&port->drained);
	if (port->hba_reset) {
		port->hba_reset = false;
		atomic_fetch_sub(&port->hba->resetting, 1);
	}
	if (port->cmd & AHCI_CMD_ST)
		port->cmd |= AHCI_CMD_CR;
	else
		port->cmd &= ~AHCI_CMD_CR;
	if (port->greeting) {
		port->greeting = false;
		ahci_port_greet(port);
	} else if (port->up && (port->status & ATA_STATUS_BSY) != 0) {
		port->status = ata_status(&port->dev, false); /* of a command that was given up */
	}
}

static void
ahci_port_stop(struct ahci_port *port)
{
	ahci_port_clear_list(port);
	if (!port->draining)
		ahci_port_settle(port);
}

/* PxCMD's registers are back, the link is down until the driver has the device spin up. */
static void
ahci_port_defaults(struct ahci_port *port)
{
	ahci_port_clear_list(port);
	ahci_link_down(port);
	port->is = 0;
	port->ie = 0;
	port->cmd = AHCI_CMD_POD;
	port->sctl = 0;
	port->serr = 0;
	port->sig = UINT32_MAX;
	port->ipm = AHCI_IPM_ACTIVE;
	port->fis_held = false;
	port->srst = false;
}

void
ahci_port_hba_reset(struct ahci_port *port)
{
	ahci_port_defaults(port);
	if (!port->draining || port->hba_reset)
		return;
	port->hba_reset = true;
	atomic_fetch_add(&port->hba->resetting, 1);
}

void
ahci_port_power_reset(struct ahci_port *port)
{
	ahci_port_defaults(port);
	port->clb = 0;
	port->fb = 0;
	while (port->draining)
		pthread_cond_wait(&port->drained, &port->lock);
	ata_dev_reset(&port->dev, true);
}

/* --- Registers --- */

static uint32_t
ahci_port_is(const struct ahci_port *port)
{
	return port->is | (port->serr & AHCI_SERR_DIAG_X ? AHCI_IS_PCS : 0) |
	       (port->serr & AHCI_SERR_DIAG_N ? AHCI_IS_PRCS : 0);
}

static void
ahci_icc_write(struct ahci_port *port, unsigned state)
{
	switch (state) {
	case AHCI_IPM_ACTIVE:
	case AHCI_IPM_PARTIAL:
	case AHCI_IPM_SLUMBER: port->ipm = (uint8_t)state; break;
	default: break; /* 0: no change; others are reserved */
	}
}

static void
ahci_cmd_write(struct ahci_port *port, uint32_t val)
{
	uint32_t old = port->cmd, changed;

	port->cmd = (old & ~AHCI_CMD_WRITABLE) | (val & AHCI_CMD_WRITABLE);
	changed = old ^ port->cmd;
	ahci_icc_write(port, (unsigned)AHCI_CMD_ICC(val));
	if ((val & AHCI_CMD_CLO) != 0 && (old & AHCI_CMD_ST) == 0)
		port->status &= (uint8_t) ~(ATA_STATUS_BSY | ATA_STATUS_DRQ);
	if (port->cmd & AHCI_CMD_FRE)
		port->cmd |= AHCI_CMD_FR;
	else
		port->cmd &= ~AHCI_CMD_FR;
	if (changed & AHCI_CMD_SUD)
		ahci_link_follow(port);
	ahci_port_greet_held(port);
	if ((changed & AHCI_CMD_ST) == 0)
		return;
	if ((port->cmd & AHCI_CMD_ST) == 0)
		ahci_port_stop(port);
	else if (!port->draining)
		port->cmd |= AHCI_CMD_CR;
}

static void
ahci_sctl_write(struct ahci_port *port, uint32_t val)
{
	uint32_t old = AHCI_SCTL_DET(port->sctl), det = AHCI_SCTL_DET(val);

	port->sctl = val & AHCI_SCTL_MASK;
	/* The device forgets its commands. A driver clears PxCMD.ST first (10.4.2); if not, so
	 * does the list. */
	if (det != old && det != 0)
		ahci_port_clear_list(port);
	ahci_link_follow(port);
}

static void
ahci_half_write(uint64_t *reg, bool high, uint32_t val)
{
	if (high)
		*reg = (*reg & UINT32_MAX) | (uint64_t)val << 32;
	else
		*reg = (*reg & ~(uint64_t)UINT32_MAX) | val;
}

uint32_t
ahci_port_read(struct ahci_port *port, unsigned reg)
{
	switch (reg) {
	case AHCI_PX_CLB: return (uint32_t)port->clb;
	case AHCI_PX_CLBU: return (uint32_t)(port->clb >> 32);
	case AHCI_PX_FB: return (uint32_t)port->fb;
	case AHCI_PX_FBU: return (uint32_t)(port->fb >> 32);
	case AHCI_PX_IS: return ahci_port_is(port);
	case AHCI_PX_IE: return port->ie;
	case AHCI_PX_CMD: return port->cmd;
	case AHCI_PX_TFD: return (uint32_t)port->error << 8 | port->status;
	case AHCI_PX_SIG: return port->sig;
	case AHCI_PX_SSTS: return ahci_port_ssts(port);
	case AHCI_PX_SCTL: return port->sctl;
	case AHCI_PX_SERR: return port->serr;
	case AHCI_PX_SACT: return port->sact;
	case AHCI_PX_CI: return port->ci;
	default: return 0;
	}
}

void
ahci_port_write(struct ahci_port *port, unsigned reg, uint32_t val)
{
	if (port->hba_reset)
		return; /* GHC.HR is still set */
	switch (reg) {
	case AHCI_PX_CLB: ahci_half_write(&port->clb, false, val & ~1023u); break;
	case AHCI_PX_CLBU: ahci_half_write(&port->clb, true, val); break;
	case AHCI_PX_FB: ahci_half_write(&port->fb, false, val & ~255u); break;
	case AHCI_PX_FBU: ahci_half_write(&port->fb, true, val); break;
	case AHCI_PX_IS: port->is &= ~(val & AHCI_IS_CLEAR); break;
	case AHCI_PX_IE: port->ie = val & AHCI_IE_MASK; break;
	case AHCI_PX_CMD: ahci_cmd_write(port, val); break;
	case AHCI_PX_SCTL: ahci_sctl_write(port, val); break;
	case AHCI_PX_SERR: port->serr &= ~val; break;
	case AHCI_PX_SACT:
		if (port->cmd & AHCI_CMD_ST)
			port->sact |= val;
		break;
	case AHCI_PX_CI:
		if (port->cmd & AHCI_CMD_ST)
			port->ci |= val;
		break;
	default: break;
	}
	ahci_port_kick(port);
	ahci_irq_update(port);
}

/* --- Making and saving --- */

int
ahci_port_init(struct ahci_port *port)
{
	port->cmds = calloc(AHCI_SLOTS, sizeof(*port->cmds));
	if (port->cmds == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < AHCI_SLOTS; i++) {
		port->cmds[i].port = port;
		port->cmds[i].slot = i;
		port->cmds[i].ata.dev = &port->dev;
	}
	if (ata_dev_init(&port->dev) != 0) {
		free(port->cmds);
		return -ENOMEM;
	}
	pthread_mutex_init(&port->lock, NULL);
	pthread_cond_init(&port->drained, NULL);
	block_work_init(&port->kick, ahci_port_work, port);
	block_work_init(&port->finish, ahci_port_finish, port);
	ahci_port_defaults(port);
	return 0;
}

void
ahci_port_destroy(struct ahci_port *port)
{
	pthread_cond_destroy(&port->drained);
	pthread_mutex_destroy(&port->lock);
	ata_dev_destroy(&port->dev);
	free(port->cmds);
}

void
ahci_port_state(struct ahci_port *port, struct vm_state *s)
{
	vm_state_u64(s, &port->clb);
	vm_state_u64(s, &port->fb);
	vm_state_u32(s, &port->is);
	vm_state_u32(s, &port->ie);
	vm_state_u32(s, &port->cmd);
	vm_state_u32(s, &port->sig);
	vm_state_u32(s, &port->sctl);
	vm_state_u32(s, &port->serr);
	vm_state_u32(s, &port->sact);
	vm_state_u32(s, &port->ci);
	vm_state_u8(s, &port->status);
	vm_state_u8(s, &port->error);
	vm_state_u8(s, &port->ipm);
	vm_state_bool(s, &port->up);
	vm_state_bool(s, &port->halted);
	vm_state_bool(s, &port->srst);
	vm_state_bool(s, &port->fis_held);
	ata_dev_state(&port->dev, s);
	if (!vm_state_loading(s))
		return;
	if (port->ipm != AHCI_IPM_ACTIVE && port->ipm != AHCI_IPM_PARTIAL &&
	    port->ipm != AHCI_IPM_SLUMBER)
		vm_state_reject(s, "no such power state of the link");
	port->ie &= AHCI_IE_MASK;
	port->is &= AHCI_IS_CLEAR;
	port->cmd = (port->cmd & (AHCI_CMD_WRITABLE | AHCI_CMD_CCS_MASK)) | AHCI_CMD_POD;
	/* What runs follows from what the driver asked for. */
	if (port->cmd & AHCI_CMD_ST)
		port->cmd |= AHCI_CMD_CR;
	if (port->cmd & AHCI_CMD_FRE)
		port->cmd |= AHCI_CMD_FR;
}
