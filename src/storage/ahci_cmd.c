/*
 * AHCI: the command list, FISes, and the ends of commands (AHCI 1.3.1, 4.2, 5.3 to 5.6 and 6.2).
 *
 * A command that is not queued keeps PxTFD.BSY set until it ends. A queued one is released at once
 * and ends with its bit of PxSACT. An error halts the port, with the command's bit still set, until
 * the driver clears PxCMD.ST.
 */
#include "storage/ahci_impl.h"

#include "base/log.h"
#include "vm/mem.h"

#include <string.h>

/* --- FISes from the device --- */

static void
ahci_fis_post(struct ahci_port *port, unsigned at, const void *fis, size_t len)
{
	if ((port->cmd & AHCI_CMD_FR) == 0)
		return;
	if (vm_mem_write(port->hba->vm, port->fb + at, fis, len) != 0)
		ahci_port_fatal(port, AHCI_IS_HBFS);
}

static struct fis_regs
ahci_fis_make(uint8_t type, uint8_t flags, uint8_t status, uint8_t error,
    const struct ata_regs *regs)
{
	return (struct fis_regs){
		.type = type,
		.flags = flags,
		.status = status,
		.error = error,
		.lba0 = (uint8_t)regs->lba,
		.lba1 = (uint8_t)(regs->lba >> 8),
		.lba2 = (uint8_t)(regs->lba >> 16),
		.lba3 = (uint8_t)(regs->lba >> 24),
		.lba4 = (uint8_t)(regs->lba >> 32),
		.lba5 = (uint8_t)(regs->lba >> 40),
		.device = regs->device,
		.count = (uint8_t)regs->count,
		.count_ext = (uint8_t)(regs->count >> 8),
	};
}

static void
ahci_d2h_post(struct ahci_port *port, const struct ata_regs *regs, bool interrupt)
{
	struct fis_d2h fis = { .regs = ahci_fis_make(FIS_D2H, interrupt ? FIS_INTERRUPT : 0,
		port->status, port->error, regs) };

	if (interrupt)
		port->is |= AHCI_IS_DHRS;
	ahci_fis_post(port, AHCI_RFIS_D2H, &fis, sizeof(fis));
}

/* The PIO setup FIS of the last DRQ block. The one that ends a read interrupts. */
static void
ahci_pio_post(struct ahci_port *port, const struct ahci_cmd *cmd, uint8_t end_status)
{
	bool to_host = cmd->ata.protocol != ATA_PIO_OUT;
	uint64_t most = cmd->ata.protocol == ATA_PACKET_PIO ? UINT16_MAX - 1 : ATA_SECTOR;
	struct fis_pio fis = {
		.regs = ahci_fis_make(FIS_PIO, to_host ? FIS_TO_HOST | FIS_INTERRUPT : 0,
		    (uint8_t)(end_status | ATA_STATUS_DRQ), 0, &cmd->ata.out),
		.end_status = end_status,
		.bytes = (uint16_t)MIN(cmd->moved, most),
	};

	if (to_host)
		port->is |= AHCI_IS_PSS;
	ahci_fis_post(port, AHCI_RFIS_PIO, &fis, sizeof(fis));
}

static void
ahci_dma_post(struct ahci_port *port, const struct ahci_cmd *cmd, bool to_host)
{
	struct fis_dma fis = {
		.type = FIS_DMA,
		.flags = to_host ? FIS_TO_HOST : FIS_DMA_AUTO,
		.buffer_low = cmd->slot, /* the tag */
		.count = (uint32_t)cmd->ata.req.len,
	};

	ahci_fis_post(port, AHCI_RFIS_DMA, &fis, sizeof(fis));
}

static void
ahci_sdb_post(struct ahci_port *port, uint32_t done)
{
	struct fis_sdb fis = {
		.type = FIS_SDB,
		.flags = FIS_INTERRUPT,
		.status = port->status & FIS_SDB_STATUS,
		.error = port->error,
		.sact = done,
	};

	port->sact &= ~done;
	port->is |= AHCI_IS_SDBS;
	ahci_fis_post(port, AHCI_RFIS_SDB, &fis, sizeof(fis));
}

/* --- The device after a reset --- */

static void
ahci_greeting_post(struct ahci_port *port)
{
	struct ata_regs regs = { 0 };

	ata_signature(&port->dev, &regs);
	ahci_d2h_post(port, &regs, false);
}

void
ahci_port_greet(struct ahci_port *port)
{
	port->status = ata_status(&port->dev, false);
	port->error = 1; /* diagnostics passed */
	port->sig = port->dev.packet ? ATA_SIGNATURE_PACKET : ATA_SIGNATURE;
	port->fis_held = (port->cmd & AHCI_CMD_FR) == 0;
	if (!port->fis_held)
		ahci_greeting_post(port);
}

void
ahci_port_greet_held(struct ahci_port *port)
{
	if (port->fis_held && (port->cmd & AHCI_CMD_FR) != 0) {
		port->fis_held = false;
		ahci_greeting_post(port);
	}
}

/* --- Ends --- */

void
ahci_port_abort(struct ahci_port *port)
{
	for (unsigned i = 0; i < AHCI_SLOTS; i++) {
		struct ahci_cmd *cmd = &port->cmds[i];

		if (cmd->waiting)
			cmd->aborted = true;
		else
			cmd->busy = false;
	}
	port->queued = 0;
	port->done = 0;
	if (port->inflight > 0 && !port->draining) {
		port->draining = true;
		if (port->dev.disk != NULL)
			block_cancel(port->dev.disk);
	}
}

void
ahci_port_fatal(struct ahci_port *port, uint32_t is)
{
	port->is |= is;
	port->halted = true;
}

/* Tells of the queued commands that are done: one FIS and one interrupt for all. */
static void
ahci_port_tell_done(struct ahci_port *port)
{
	uint32_t done = port->done;

	port->done = 0;
	if (done != 0 && !port->halted)
		ahci_sdb_post(port, done);
}

void
ahci_port_finish(void *ctx)
{
	struct ahci_port *port = ctx;

	pthread_mutex_lock(&port->lock);
	ahci_port_tell_done(port);
	ahci_irq_update(port);
	pthread_mutex_unlock(&port->lock);
}

/* After an error the device gives up all else, and the port waits for the driver (6.2.2). */
static void
ahci_port_fail(struct ahci_port *port)
{
	ahci_port_fatal(port, AHCI_IS_TFES);
	ahci_port_abort(port);
}

static void
ahci_queued_end(struct ahci_cmd *cmd, enum ata_end end)
{
	struct ahci_port *port = cmd->port;

	port->queued &= ~BIT(cmd->slot);
	if (end == ATA_END_OK) {
		port->done |= BIT(cmd->slot);
		block_post(port->dev.disk, &port->finish);
		return;
	}
	ahci_port_tell_done(port);
	ata_ncq_fail(&cmd->ata, cmd->slot);
	port->status = ata_status(&port->dev, true);
	port->error = cmd->ata.error;
	ahci_sdb_post(port, 0);
	ahci_port_fail(port);
}

static void
ahci_unqueued_end(struct ahci_cmd *cmd, enum ata_end end)
{
	struct ahci_port *port = cmd->port;
	bool failed = end == ATA_END_ERROR, pio_in = cmd->ata.protocol == ATA_PIO_IN;
	uint8_t status = ata_status(&port->dev, failed);
	uint32_t moved = (uint32_t)cmd->moved;

	if (vm_mem_write(port->hba->vm, cmd->header + offsetof(struct ahci_header, prdbc), &moved,
		sizeof(moved)) != 0)
		ahci_port_fatal(port, AHCI_IS_HBFS);
	if ((pio_in && !failed) ||
	    ((cmd->ata.protocol == ATA_PIO_OUT || cmd->ata.protocol == ATA_PACKET_PIO) &&
		moved != 0))
		ahci_pio_post(port, cmd, status);
	port->status = status;
	port->error = cmd->ata.error;
	/* A read by PIO ends with its data, all else with a FIS. */
	if (!pio_in || failed)
		ahci_d2h_post(port, &cmd->ata.out, true);
	if (failed)
		ahci_port_fail(port);
	else
		port->ci &= ~BIT(cmd->slot);
}

/* The one place where commands end. */
static void
ahci_cmd_end(struct ahci_cmd *cmd, enum ata_end end)
{
	struct ahci_port *port = cmd->port;

	cmd->busy = false;
	if (cmd->interrupt)
		port->is |= AHCI_IS_DPS;
	if (port->halted) {
		/* Nothing can be told: its data could not be moved, or the port halted for
		 * another's sake. */
		ahci_port_abort(port);
	} else if (cmd->ata.protocol == ATA_QUEUED) {
		ahci_queued_end(cmd, end);
	} else {
		ahci_unqueued_end(cmd, end);
	}
}

/* --- Requests --- */

/* What a read put into the guest's memory. */
static void
ahci_cmd_written(struct ahci_cmd *cmd)
{
	const struct ata_cmd *ata = &cmd->ata;

	if (ata->req.op != BLOCK_READ || !cmd->mapped)
		return;
	for (int i = 0; i < ata->iovcnt; i++)
		vm_mem_written(cmd->port->hba->vm, ata->gpa[i], ata->iov[i].iov_len);
}

static void
ahci_request_done(struct block_req *req, int err)
{
	struct ahci_cmd *cmd = container_of(req, struct ahci_cmd, ata.req);
	struct ahci_port *port = cmd->port;
	enum ata_end end;

	pthread_mutex_lock(&port->lock);
	ahci_cmd_written(cmd);
	cmd->waiting = false;
	cmd->mapped = false;
	port->inflight--;
	if (cmd->aborted) {
		cmd->aborted = false;
		cmd->busy = false;
	} else {
		end = cmd->ata.step(&cmd->ata, err);
		if (end != ATA_END_PENDING)
			ahci_cmd_end(cmd, end);
	}
	if (port->draining && port->inflight == 0)
		ahci_port_settle(port);
	ahci_port_run(port);
	ahci_irq_update(port);
	pthread_mutex_unlock(&port->lock);
}

void
ata_cmd_submit(struct ata_cmd *ata, enum block_op op, unsigned flags, uint64_t offset, uint64_t len)
{
	struct ahci_cmd *cmd = container_of(ata, struct ahci_cmd, ata);
	struct ahci_port *port = cmd->port;

	ata->req.op = op;
	ata->req.flags = flags;
	ata->req.offset = offset;
	ata->req.len = len;
	ata->req.iov = ata->iov;
	ata->req.iovcnt = ata->iovcnt;
	ata->req.done = ahci_request_done;
	cmd->waiting = true;
	port->inflight++;
	if (ata->protocol == ATA_QUEUED && (op == BLOCK_READ || op == BLOCK_WRITE))
		ahci_dma_post(port, cmd, op == BLOCK_READ);
	block_submit(port->dev.disk, &ata->req);
}

/* --- Starting commands --- */

static void
ahci_fis_regs(const struct fis_h2d *fis, struct ata_regs *out)
{
	*out = (struct ata_regs){
		.lba = (uint64_t)fis->lba0 | (uint64_t)fis->lba1 << 8 | (uint64_t)fis->lba2 << 16 |
		       (uint64_t)fis->lba3 << 24 | (uint64_t)fis->lba4 << 32 |
		       (uint64_t)fis->lba5 << 40,
		.aux = fis->aux,
		.features = (uint16_t)(fis->features | fis->features_ext << 8),
		.count = (uint16_t)(fis->count | fis->count_ext << 8),
		.command = fis->command,
		.device = fis->device,
	};
}

/* A FIS that only sets the control register: software reset, asserted and let go. */
static void
ahci_control(struct ahci_port *port, unsigned slot, const struct fis_h2d *fis)
{
	bool srst = fis->control & FIS_CONTROL_SRST;

	/* PxTFD.BSY is cleared by R_OK (the C bit in the header) or by the signature. */
	port->ci &= ~BIT(slot);
	if (port->srst && !srst) {
		ata_dev_reset(&port->dev, false);
		ahci_port_greet(port);
	}
	port->srst = srst;
}

#define NCQ_TAG(count) ((count) >> 3 & 31u)

/* Releases the device for further commands, and starts this one. */
static enum ata_end
ahci_queued_start(struct ahci_cmd *cmd)
{
	struct ahci_port *port = cmd->port;

	port->status = ata_status(&port->dev, false);
	port->error = 0;
	port->ci &= ~BIT(cmd->slot);
	port->queued |= BIT(cmd->slot);
	ahci_d2h_post(port, &cmd->ata.in, false);
	if (NCQ_TAG(cmd->ata.in.count) == cmd->slot)
		return ata_execute(&cmd->ata);
	cmd->ata.protocol = ATA_QUEUED;
	cmd->ata.out = cmd->ata.in;
	cmd->ata.error = ATA_ERROR_ABRT;
	return ATA_END_ERROR;
}

static enum ata_end
ahci_unqueued_start(struct ahci_cmd *cmd)
{
	struct ahci_port *port = cmd->port;

	ahci_port_tell_done(port);
	port->status = ATA_STATUS_BSY;
	if (port->queued == 0)
		return ata_execute(&cmd->ata);
	/* Not while queued commands are under way: it ends them too (ACS-3, 4.15.1). */
	cmd->ata.protocol = ATA_NO_DATA;
	cmd->ata.out = cmd->ata.in;
	cmd->ata.error = ATA_ERROR_ABRT;
	ata_ncq_fail(&cmd->ata, 0);
	return ATA_END_ERROR;
}

static void
ahci_cmd_start(
    struct ahci_cmd *cmd, const struct ahci_header *header, const struct ahci_table *table)
{
	struct ahci_port *port = cmd->port;
	enum ata_end end;

	cmd->busy = true;
	cmd->interrupt = false;
	cmd->mapped = false;
	cmd->header = port->clb + cmd->slot * sizeof(*header);
	cmd->prdt = (header->ctba & ~AHCI_TABLE_MASK) + sizeof(*table);
	cmd->prdtl = header->prdtl;
	cmd->prd = cmd->prd_off = 0;
	cmd->moved = 0;
	ahci_fis_regs(&table->fis, &cmd->ata.in);
	memcpy(cmd->ata.cdb, table->acmd, sizeof(cmd->ata.cdb));
	end = ata_is_queued(&port->dev, cmd->ata.in.command) ? ahci_queued_start(cmd)
							     : ahci_unqueued_start(cmd);
	if (end != ATA_END_PENDING)
		ahci_cmd_end(cmd, end);
}

static void
ahci_slot_start(struct ahci_port *port, unsigned slot)
{
	struct vm *vm = port->hba->vm;
	struct ahci_cmd *cmd = &port->cmds[slot];
	struct ahci_header header;
	struct ahci_table table;
	unsigned cfl;

	port->cmd = (port->cmd & ~AHCI_CMD_CCS_MASK) | AHCI_CMD_CCS(slot);
	port->ipm = AHCI_IPM_ACTIVE;
	if (vm_mem_read(vm, port->clb + slot * sizeof(header), &header, sizeof(header)) != 0 ||
	    vm_mem_read(vm, header.ctba & ~AHCI_TABLE_MASK, &table, sizeof(table)) != 0) {
		ahci_port_fatal(port, AHCI_IS_HBFS);
		return;
	}
	cfl = AHCI_HEADER_CFL(header.flags);
	/* What is no command, and a slot whose command is not over, no device would take. */
	if (cfl < AHCI_CFL_MIN || cfl > AHCI_CFL_MAX || table.fis.type != FIS_H2D || cmd->busy) {
		log_guest(port->name, "slot %u: no command, or one that is not over", slot);
		ahci_port_fatal(port, AHCI_IS_IFS);
		return;
	}
	if (table.fis.flags & FIS_H2D_COMMAND)
		ahci_cmd_start(cmd, &header, &table);
	else
		ahci_control(port, slot, &table.fis);
}

static bool
ahci_port_may_start(const struct ahci_port *port)
{
	return port->ci != 0 && (port->cmd & AHCI_CMD_CR) != 0 && !port->halted &&
	       !port->draining && port->up &&
	       (port->status & (ATA_STATUS_BSY | ATA_STATUS_DRQ)) == 0;
}

/* The next slot in turn, so that none waits for ever (5.3.2). */
static unsigned
ahci_port_slot(const struct ahci_port *port)
{
	uint64_t twice = (uint64_t)port->ci << AHCI_SLOTS | port->ci;

	return ((unsigned)__builtin_ctzll(twice >> port->next) + port->next) % AHCI_SLOTS;
}

void
ahci_port_run(struct ahci_port *port)
{
	if (!ahci_port_may_start(port) || !pci_is_bus_master(port->hba->pci))
		return;
	do {
		unsigned slot = ahci_port_slot(port);

		port->next = (slot + 1) % AHCI_SLOTS;
		ahci_slot_start(port, slot);
	} while (ahci_port_may_start(port));
}

void
ahci_port_work(void *ctx)
{
	struct ahci_port *port = ctx;

	pthread_mutex_lock(&port->lock);
	ahci_port_run(port);
	ahci_irq_update(port);
	pthread_mutex_unlock(&port->lock);
}

void
ahci_port_kick(struct ahci_port *port)
{
	if (!ahci_port_may_start(port))
		return;
	if (port->dev.disk != NULL)
		block_post(port->dev.disk, &port->kick);
	else
		ahci_port_run(port);
}
