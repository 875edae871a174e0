/*
 * Writes that an NBD server has acknowledged but not yet flushed.
 */
#include "block/nbd_log.h"
#include "block/block_impl.h"

#include <stdlib.h>

#include "base/iov.h"

void
block_nbd_log_init(struct block_nbd_log *l)
{
	*l = (struct block_nbd_log){ .first = NULL };
	l->last = &l->first;
}

static uint64_t
block_nbd_log_size(const struct block_nbd_log_entry *e)
{
	return sizeof(*e) + (e->zeroes ? 0 : e->len);
}

void
block_nbd_log_add(struct block_nbd_log *l, const struct block_req *req, uint64_t pos, uint64_t len)
{
	bool zeroes = req->host_op == BLOCK_WRITE_ZEROES;
	struct block_nbd_log_entry *e = malloc(sizeof(*e) + (zeroes ? 0 : len));

	l->seq++;
	if (e == NULL) {
		l->missing = l->seq;
		return;
	}
	*e = (struct block_nbd_log_entry){
		.seq = l->seq,
		.offset = req->offset + pos,
		.len = len,
		.zeroes = zeroes,
		.unmap = (req->host_flags & BLOCK_UNMAP) != 0,
	};
	if (!zeroes)
		iov_gather(req->iov, req->iovcnt, pos, e->data, len);
	*l->last = e;
	l->last = &e->next;
	l->bytes += block_nbd_log_size(e);
}

void
block_nbd_log_trim(struct block_nbd_log *l, uint64_t seq)
{
	while (l->first != NULL && l->first->seq <= seq) {
		struct block_nbd_log_entry *e = l->first;

		l->first = e->next;
		if (l->first == NULL)
			l->last = &l->first;
		l->bytes -= block_nbd_log_size(e);
		free(e);
	}
	if (l->missing <= seq)
		l->missing = 0;
}
