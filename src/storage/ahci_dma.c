/*
 * AHCI: data of commands, through their physical region descriptor tables (AHCI 1.3.1, 4.2.3.3).
 *
 * The table is the guest's memory and may change while it is read: an element is copied, and what
 * was read before is not relied upon.
 */
#include "storage/ahci_impl.h"

#include "base/log.h"
#include "vm/mem.h"

/* A place in the table, and a piece of the guest's memory that starts there. */
struct ahci_place {
	uint32_t prd, off;
};
struct ahci_piece {
	struct ahci_place start;
	uint64_t gpa;
	uint32_t len;
};

static struct ahci_cmd *
ahci_cmd_of(struct ata_cmd *ata)
{
	return container_of(ata, struct ahci_cmd, ata);
}

/* The element at a place, or the one behind it, if it is shorter than it was when its first part
 * was used. False: there is none, and the port is halted. */
static bool
ahci_prd_read(struct ahci_cmd *cmd, struct ahci_place *at, struct ahci_prd *prd)
{
	for (; at->prd < cmd->prdtl; *at = (struct ahci_place){ at->prd + 1, 0 }) {
		if (vm_mem_read(cmd->port->hba->vm, cmd->prdt + at->prd * sizeof(*prd), prd,
			sizeof(*prd)) != 0) {
			ahci_port_fatal(cmd->port, AHCI_IS_HBFS);
			return false;
		}
		if (at->off < AHCI_PRD_BYTES(prd->dbc))
			return true;
	}
	ahci_port_fatal(cmd->port, AHCI_IS_OFS);
	return false;
}

/* The next piece, of at most max bytes; moves on. */
static bool
ahci_prd_next(struct ahci_cmd *cmd, struct ahci_place *at, uint64_t max, struct ahci_piece *out)
{
	struct ahci_prd prd;
	uint32_t bytes;

	if (!ahci_prd_read(cmd, at, &prd))
		return false;
	bytes = AHCI_PRD_BYTES(prd.dbc);
	out->start = *at;
	out->gpa = prd.dba + at->off;
	out->len = (uint32_t)MIN((uint64_t)(bytes - at->off), max);
	at->off += out->len;
	if (at->off == bytes) {
		*at = (struct ahci_place){ at->prd + 1, 0 };
		cmd->interrupt |= (prd.dbc & AHCI_PRD_INTERRUPT) != 0;
	}
	return true;
}

static bool
ahci_data_copy(struct ahci_cmd *cmd, uint8_t *buf, uint32_t len, bool to_guest)
{
	struct vm *vm = cmd->port->hba->vm;
	struct ahci_place at = { cmd->prd, cmd->prd_off };

	while (len > 0) {
		struct ahci_piece p;
		int err;

		if (!ahci_prd_next(cmd, &at, len, &p))
			return false;
		err = to_guest ? vm_mem_write(vm, p.gpa, buf, p.len)
			       : vm_mem_read(vm, p.gpa, buf, p.len);
		if (err != 0) {
			ahci_port_fatal(cmd->port, AHCI_IS_HBFS);
			return false;
		}
		buf += p.len;
		len -= p.len;
		cmd->moved += p.len;
	}
	cmd->prd = at.prd;
	cmd->prd_off = at.off;
	return true;
}

bool
ata_data_in(struct ata_cmd *ata, const void *buf, uint32_t len)
{
	return ahci_data_copy(ahci_cmd_of(ata), (uint8_t *)(uintptr_t)buf, len, true);
}

bool
ata_data_out(struct ata_cmd *ata, void *buf, uint32_t len)
{
	return ahci_data_copy(ahci_cmd_of(ata), buf, len, false);
}

/* --- Direct access --- */

/* The part of what is mapped that is whole sectors. */
struct ahci_whole {
	struct ahci_place at; /* where it ends */
	uint64_t total;
	int iovcnt;
	size_t last; /* bytes of its last element */
};

/* Adds a piece, to the element before where it follows that in memory. */
static bool
ahci_map_add(struct ata_cmd *ata, struct vm *vm, const struct ahci_piece *piece)
{
	uint64_t gpa = piece->gpa;
	uint32_t len = piece->len;
	struct iovec *last = ata->iovcnt > 0 ? &ata->iov[ata->iovcnt - 1] : NULL;
	void *p = vm_mem_ptr(vm, gpa, len);

	if (p == NULL)
		return false;
	if (last != NULL && (uint8_t *)last->iov_base + last->iov_len == p &&
	    ata->gpa[ata->iovcnt - 1] + last->iov_len == gpa) {
		last->iov_len += len;
		return true;
	}
	ata->iov[ata->iovcnt] = (struct iovec){ p, len };
	ata->gpa[ata->iovcnt++] = gpa;
	return true;
}

/* A table whose elements are so small that not even one sector fits into a request. */
static uint64_t
ahci_map_fail(struct ahci_cmd *cmd)
{
	log_guest(cmd->port->name, "a sector in more than %d pieces of memory", ATA_IOV);
	ahci_port_fatal(cmd->port, AHCI_IS_HBDS);
	return 0;
}

uint64_t
ata_data_map(struct ata_cmd *ata, uint64_t max, uint32_t unit)
{
	struct ahci_cmd *cmd = ahci_cmd_of(ata);
	struct ahci_place at = { cmd->prd, cmd->prd_off };
	struct ahci_whole whole = { .at = at };
	uint64_t total = 0;

	ata->iovcnt = 0;
	/* What there is of memory is used first, also when it is too little. */
	while (total < max && ata->iovcnt < ATA_IOV && (at.prd < cmd->prdtl || whole.total == 0)) {
		struct ahci_piece p;
		uint32_t over;

		if (!ahci_prd_next(cmd, &at, max - total, &p))
			return 0;
		if (!ahci_map_add(ata, cmd->port->hba->vm, &p)) {
			ahci_port_fatal(cmd->port, AHCI_IS_HBFS);
			return 0;
		}
		total += p.len;
		over = (uint32_t)(total % unit);
		if (over >= p.len)
			continue;
		whole = (struct ahci_whole){ at, total - over, ata->iovcnt,
			ata->iov[ata->iovcnt - 1].iov_len - over };
		/* The rest of a piece that is cut comes with the next request. */
		if (over != 0)
			whole.at = (struct ahci_place){ p.start.prd, p.start.off + p.len - over };
	}
	if (whole.total == 0)
		return ahci_map_fail(cmd);
	ata->iovcnt = whole.iovcnt;
	ata->iov[whole.iovcnt - 1].iov_len = whole.last;
	cmd->prd = whole.at.prd;
	cmd->prd_off = whole.at.off;
	cmd->moved += whole.total;
	cmd->mapped = true;
	return whole.total;
}
