/*
 * The PC debug and test device behind `-l pc-testdev`: what kvm-unit-tests and small guests expect
 * of it.
 *
 *	0xf4		debug exit: writing n ends the process with exit status (n << 1) | 1
 *	0xe0 to 0xe3	four bytes that read back what was written, in any size
 *	0xe4		flush: taken and ignored, as nothing here has to be flushed
 *	0x2000 + n	interrupt line n, 0 to 23: 0 lowers it, anything else raises it
 *	0xff000000	64 KiB of device memory that reads back what was written, in any size
 */
#ifndef CHIPSET_TESTDEV_H
#define CHIPSET_TESTDEV_H

struct testdev;
struct vm;

/* Main thread. 0 or -errno. */
int testdev_create(struct vm *vm, struct testdev **out);
void testdev_destroy(struct testdev *t);

#endif
