/*
 * Loading libnbd (nbd_lib.h).
 */
#ifdef HAVE_LIBNBD

#include "block/nbd_lib.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>
#include <stddef.h>

#include "base/log.h"

int
nbd_lib_load(struct nbd_lib *lib, const char *who)
{
	void *so = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);
	bool found = so != NULL;

	if (found) {
#define F(name)                                                                                    \
	lib->name = (__typeof__(lib->name))dlsym(so, #name);                                       \
	found = found && lib->name != NULL;
		NBD_LIB_FUNCTIONS(F)
#undef F
	}
	if (found)
		return 0;
	log_error(who, "NBD disks need libnbd (Debian's package libnbd0)");
	return -ENOSYS;
}

#endif
