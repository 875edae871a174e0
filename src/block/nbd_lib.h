/*
 * libnbd, loaded when the first NBD disk is opened: with what it brings it is several MiB of memory,
 * which a machine without such a disk should not pay for. Included in place of <libnbd.h>.
 */
#ifndef BLOCK_NBD_LIB_H
#define BLOCK_NBD_LIB_H

#include <libnbd.h>

#define NBD_LIB_FUNCTIONS(F)                                                                       \
	F(nbd_aio_connect_uri) F(nbd_aio_disconnect) F(nbd_aio_flush) F(nbd_aio_get_direction)     \
	F(nbd_aio_get_fd) F(nbd_aio_is_closed) F(nbd_aio_is_dead) F(nbd_aio_is_processing)         \
	F(nbd_aio_is_ready) F(nbd_aio_notify_read) F(nbd_aio_notify_write) F(nbd_aio_pread)        \
	F(nbd_aio_pwrite) F(nbd_aio_trim) F(nbd_aio_zero) F(nbd_can_flush) F(nbd_can_fua)          \
	F(nbd_can_trim) F(nbd_can_zero) F(nbd_close) F(nbd_connect_uri) F(nbd_create)              \
	F(nbd_get_block_size) F(nbd_get_errno) F(nbd_get_error) F(nbd_get_size)                    \
	F(nbd_is_read_only)

struct nbd_lib {
#define F(name) __typeof__(&name) name;
	NBD_LIB_FUNCTIONS(F)
#undef F
};

/* Loads the library; it stays. 0, or -ENOSYS after one line to the user about who, a disk. */
int nbd_lib_load(struct nbd_lib *lib, const char *who);

#endif
