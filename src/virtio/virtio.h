/*
 * VIRTIO devices (VIRTIO 1.2): what a device model is made of. The transport, PCI with its modern
 * and its legacy interface, and the rings are this room's; a model says what its queues and its
 * configuration mean:
 *
 *	static void
 *	foo_notify(struct virtq *q)
 *	{
 *		struct foo *foo = virtio_priv(virtq_dev(q));
 *		struct virtq_chain c;
 *		struct iovec iov[FOO_IOV];
 *
 *		pthread_mutex_lock(&foo->lock);
 *		do {
 *			while (virtq_pop(q, &c, iov, FOO_IOV))
 *				virtq_push(q, &c, foo_work(&c));
 *		} while (virtq_rearm(q));
 *		virtq_interrupt(q);
 *		pthread_mutex_unlock(&foo->lock);
 *	}
 *
 *	static const struct virtio_ops foo_virtio = { .name = "virtio-foo", .id = 4,
 *	    .class = 0xff, .notify = foo_notify };
 *
 *	static int
 *	foo_create(struct pci_dev *dev, const struct config *cfg)
 *	{
 *		...
 *		return virtio_create(dev, cfg, &(struct virtio_params){ .ops = &foo_virtio,
 *		    .priv = foo, .queues = 1, .queue_size = 64 }, &foo->vd);
 *	}
 *
 *	static void
 *	foo_destroy(struct pci_dev *dev)	// must give back all chains first
 *	{
 *		struct foo *foo = virtio_priv(pci_priv(dev));
 *
 *		virtio_destroy(foo->vd);
 *		...
 *	}
 *
 *	static const char *const foo_vars[] = { VIRTIO_VARS, NULL };
 *
 *	const struct pci_dev_ops virtio_foo_ops = { .name = "virtio-foo", .vars = foo_vars,
 *	    .create = foo_create, .destroy = foo_destroy, VIRTIO_PCI_OPS };
 *
 * Chains. What the driver gives the device is a chain of buffers: those the device reads ("out")
 * come before those it writes ("in"). virtq_pop() has read and checked each descriptor once and
 * made host pointers of them: what is in the arrays stays valid until the VM's end, whatever the
 * guest does to its rings, and only the data itself can change under the model (copy, then check).
 * A chain that is popped is pushed exactly once, also after a reset, when it then goes nowhere.
 * virtq_size() chains at most are out at a time, so a model can have as many requests of its own and
 * needs no memory later.
 *
 * Reset. When the driver resets the device or a queue, the queue has no more chains to pop from
 * that moment on. Chains that are out stay so: the driver learns that the reset is over when the
 * last one has been pushed. So a model that works on chains in another thread has to do nothing
 * but to push them; one that could wait for long (a peer, a timeout) shortens that in reset().
 *
 * Threads. All functions on queues may be called on any thread; calls for one queue are serialised
 * by its lock, which is not held while a model's operation runs. Locks, outermost first: the
 * device's (pci_lock), the model's own, a queue's; so a model does not take the device's lock where
 * it holds its own, and calls any function of this file with its own held.
 *
 * Configuration: variables of a device's node that every model has.
 *	modern		bool: only the interface of VIRTIO 1.0 and later. Otherwise the device is
 *			transitional, and drivers of before 1.0 find what they know, too
 *	packed		bool: offer packed rings (VIRTIO 1.1)
 */
#ifndef VIRTIO_VIRTIO_H
#define VIRTIO_VIRTIO_H

#include "pci/pci.h"

#include <sys/uio.h>

struct virtio_dev;
struct virtq;

#define VIRTIO_VARS "modern", "packed"

/* Features that are the transport's (VIRTIO 1.2, 6): offered as the device can. */
#define VIRTIO_F_NOTIFY_ON_EMPTY 24 /* legacy */
#define VIRTIO_F_ANY_LAYOUT 27 /* legacy */
#define VIRTIO_F_RING_INDIRECT_DESC 28
#define VIRTIO_F_RING_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32
#define VIRTIO_F_RING_PACKED 34
#define VIRTIO_F_RING_RESET 40

/* What a model provides. Operations that are NULL are not needed by the model. */
struct virtio_ops {
	const char *name; /* of the model, for messages and saved state */
	uint16_t id; /* device ID (VIRTIO 1.2, 5) */
	uint8_t class, subclass; /* of the PCI function */

	/* The driver has made chains available, or may have. Any thread, also several at once, no
	 * lock held: must not block. Also called when the driver has started the device. */
	void (*notify)(struct virtq *q);
	/* The driver wants exactly these features, a subset of those offered (the transport's
	 * among them): true if they go together. Device locked. */
	bool (*features)(struct virtio_dev *vd, uint64_t features);
	/* The driver has set DRIVER_OK, before the first notify(). Drivers of the legacy interface
	 * may use queues before. Device locked. */
	void (*start)(struct virtio_dev *vd);
	/* The driver writes to the device's configuration: off + size is inside it. Nothing is
	 * stored unless the model calls virtio_config_set(). NULL: such writes are ignored. Device
	 * locked. */
	void (*config_write)(struct virtio_dev *vd, size_t off, int size, uint64_t val);
	/* The driver has reset the device: back to the state after virtio_create(), without
	 * blocking. Chains may still be out. Device locked. */
	void (*reset)(struct virtio_dev *vd);
	/* The driver has reset, or starts to reset, one queue (VIRTIO_F_RING_RESET). Chains may
	 * still be out. Device locked. */
	void (*queue_reset)(struct virtq *q);
	/* Before the state is saved: finish what the driver has notified and push all chains; may
	 * block. vCPUs and event loop are stopped. Buffers that wait for something from outside
	 * are left in the queue, not popped. */
	void (*quiesce)(struct virtio_dev *vd);
	/* Saves or loads the model's own section, after the transport's part. VM stopped. */
	int (*state)(struct virtio_dev *vd, struct vm_state *s);
};

struct virtio_params {
	const struct virtio_ops *ops;
	void *priv; /* the model's own: virtio_priv() */
	uint64_t features; /* BIT64()s of the device's own */
	unsigned queues; /* 1 to VIRTIO_QUEUES_MAX */
	uint16_t queue_size; /* of each queue, a power of two up to VIRTIO_QUEUE_SIZE_MAX */
	const void *config; /* the device's configuration, copied; may be NULL */
	size_t config_size; /* bytes, at most VIRTIO_CONFIG_MAX */
};
#define VIRTIO_QUEUES_MAX 64
#define VIRTIO_QUEUE_SIZE_MAX 1024
#define VIRTIO_CONFIG_MAX 232

/* In the model's create(): makes the PCI function, its queues and registers. 0, or -errno with
 * nothing left behind and one line told to the user. pci_priv(dev) is then the device. */
int virtio_create(struct pci_dev *dev, const struct config *cfg, const struct virtio_params *params,
    struct virtio_dev **out);
/* In the model's destroy(), when all chains are pushed and nothing of the model runs any more. NULL
 * is fine. */
void virtio_destroy(struct virtio_dev *vd);
/* Another size for one queue; in create(), after virtio_create(). */
void virtio_queue_size_set(struct virtio_dev *vd, unsigned queue, uint16_t size);

/* The operations of pci_dev_ops that are the transport's. */
#define VIRTIO_PCI_OPS                                                                             \
	.cfg_read = virtio_pci_cfg_read, .cfg_write = virtio_pci_cfg_write,                        \
	.bar_read = virtio_pci_bar_read, .bar_write = virtio_pci_bar_write,                        \
	.reset = virtio_pci_reset, .state = virtio_pci_state
bool virtio_pci_cfg_read(struct pci_dev *dev, unsigned off, int size, uint32_t *val);
bool virtio_pci_cfg_write(struct pci_dev *dev, unsigned off, int size, uint32_t val);
uint64_t virtio_pci_bar_read(struct pci_dev *dev, int bar, uint64_t off, int size);
void virtio_pci_bar_write(struct pci_dev *dev, int bar, uint64_t off, int size, uint64_t val);
void virtio_pci_reset(struct pci_dev *dev);
int virtio_pci_state(struct pci_dev *dev, struct vm_state *s);

/* --- The device; any thread --- */

void *virtio_priv(const struct virtio_dev *vd);
struct pci_dev *virtio_pci_dev(const struct virtio_dev *vd);
const char *virtio_name(const struct virtio_dev *vd); /* "pci.0.3.0", for messages */
struct vm *virtio_vm(const struct virtio_dev *vd);
/* Queue n of the device. */
struct virtq *virtio_queue(const struct virtio_dev *vd, unsigned n);
/* Whether the driver has accepted the feature with this bit number. */
bool virtio_has(const struct virtio_dev *vd, unsigned feature);
/* Whether the driver has set DRIVER_OK and neither side has given the device up since. */
bool virtio_is_running(const struct virtio_dev *vd);

/* Changes len bytes of the configuration at off. With notify the driver is told of it, if it
 * runs. */
void virtio_config_set(struct virtio_dev *vd, size_t off, const void *data, size_t len,
    bool notify);
void virtio_config_get(struct virtio_dev *vd, size_t off, void *data, size_t len);

/* The driver broke the protocol in a way that this device cannot go on from: the device needs a
 * reset (VIRTIO 1.2, 2.1.2), and its queues have no more chains until then. what is for the log. Device
 * locked, or with a chain out, for which a reset waits. */
void virtio_broken(struct virtio_dev *vd, const char *what);

/* --- Queues; any thread --- */

struct virtio_dev *virtq_dev(const struct virtq *q);
unsigned virtq_index(const struct virtq *q);
/* Most chains that can be out at a time: constant, the size the driver chose may be smaller. */
uint16_t virtq_size(const struct virtq *q);

/* A chain that is out. The elements are the model's to read, and those of out to change; those of in
 * must be back as they were at virtq_push(). None is of length zero. */
struct virtq_chain {
	struct iovec *out, *in; /* in the array given to virtq_pop(), out first */
	int outs, ins; /* elements */
	uint32_t out_len, in_len; /* bytes; the sum fits in 32 bits */
	/* This room's own. */
	uint16_t id, slots;
};

/* Takes the next chain. False when there is none: the driver has made none available, the queue is
 * not in use, or the device needs a reset. A chain of more than iov_max elements breaks the
 * device; drivers keep chains to the queue's size, or what the device's configuration says. */
bool virtq_pop(struct virtq *q, struct virtq_chain *c, struct iovec *iov, int iov_max);
/* Puts back the chain that was popped last and is still out, as if it had not been: several, last
 * first. */
void virtq_unpop(struct virtq *q, struct virtq_chain *c);
/* Gives a chain back to the driver, written bytes of in, from its start on, having been written; it
 * can use it at once. */
void virtq_push(struct virtq *q, struct virtq_chain *c, uint32_t written);
/* The same in two steps: the driver sees what was filled, in the order it was, all at once when it
 * is published. One thread at a time fills and publishes. */
void virtq_fill(struct virtq *q, struct virtq_chain *c, uint32_t written);
void virtq_publish(struct virtq *q);
/* Interrupts the driver for what was published since the last call, if it wants to know. */
void virtq_interrupt(struct virtq *q);
/* Asks the driver to notify of the next chain. True when there is one already: pop on. */
bool virtq_rearm(struct virtq *q);
/* Lets the driver know that no notification is needed until virtq_rearm(). A hint. */
void virtq_mute(struct virtq *q);

/* --- Data of chains --- */

/* Copies len bytes from the front of the elements and takes them off; false, nothing done, when
 * there are not as many. *iov and *cnt are moved on, an element may be shortened. */
bool virtio_iov_take(struct iovec **iov, int *cnt, void *buf, size_t len);

#endif
