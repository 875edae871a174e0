/*
 * What virtio/'s transport and rings share. Not for models nor other rooms.
 *
 * Locks, outermost first: the device's (pci_lock), virtq.lock, then config_lock, isr_lock and
 * idle_lock, none of which is held while another is taken, but those of pci/.
 */
#ifndef VIRTIO_VIRTIO_PRIVATE_H
#define VIRTIO_VIRTIO_PRIVATE_H

#include "virtio/virtio.h"

#include "vm/mem.h"

#include <pthread.h>
#include <stdatomic.h>

/* Device status (VIRTIO 1.2, 2.1) */
#define VIRTIO_STATUS_ACKNOWLEDGE BIT(0)
#define VIRTIO_STATUS_DRIVER BIT(1)
#define VIRTIO_STATUS_DRIVER_OK BIT(2)
#define VIRTIO_STATUS_FEATURES_OK BIT(3)
#define VIRTIO_STATUS_NEEDS_RESET BIT(6)
#define VIRTIO_STATUS_FAILED BIT(7)
#define VIRTIO_STATUS_DRIVERS                                                                      \
	(VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_DRIVER_OK |              \
	    VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_FAILED)

#define VIRTIO_NO_VECTOR 0xffff

/* ISR status (4.1.4.5) */
#define VIRTIO_ISR_QUEUE BIT(0)
#define VIRTIO_ISR_CONFIG BIT(1)

struct virtq_ring { /* where the driver has put it, and how far both sides are; virtq.lock */
	uint16_t num; /* descriptors */
	bool packed;
	void *desc, *driver, *device; /* descriptor, driver and device area, host pointers */
	/* Split: free-running indexes. Packed: positions below num, and wrap counters. */
	uint16_t avail_next, used_next;
	bool avail_wrap, used_wrap;
	uint16_t filled; /* not published yet: chains (split), slots (packed) */
	uint32_t unsignalled; /* published since the last virtq_interrupt(), in the same unit */
	uint16_t published; /* used_next without what is filled */
	bool published_wrap;
	uint16_t first_flags; /* packed: of the descriptor at published, once that is */
};

struct virtq {
	struct virtio_dev *vd;
	unsigned index;
	uint16_t max; /* constant after create() */

	/* Registers; device locked. */
	uint16_t size;
	uint64_t desc, driver, device; /* gpa */
	bool resetting; /* the queue alone, chains were still out */

	_Atomic uint16_t vector;
	_Atomic uint32_t out; /* slots of chains that are out; changes with lock held */

	pthread_mutex_t lock;
	bool enabled; /* changes with the device locked, too */
	struct virtq_ring ring;
};

struct virtio_dev {
	struct pci_dev *pci;
	struct vm *vm;
	const struct virtio_ops *ops;
	void *priv;
	uint64_t offered; /* features; constant */
	bool transitional; /* constant */
	unsigned queues, vectors;
	unsigned cfg_cap; /* offset of the PCI configuration access capability */
	struct virtq *queue; /* an array */

	/* Registers; device locked. */
	uint32_t device_feature_select, driver_feature_select;
	uint64_t driver_features;
	uint16_t queue_select;
	bool resetting; /* chains were still out */

	/* Written with the device locked. */
	_Atomic uint64_t features; /* as agreed */
	_Atomic uint8_t status; /* NEEDS_RESET is set on any thread */
	atomic_bool legacy; /* the driver uses the legacy interface */
	_Atomic uint16_t config_vector;

	pthread_mutex_t config_lock;
	uint8_t config[VIRTIO_CONFIG_MAX];
	size_t config_size; /* constant */
	uint8_t generation;

	pthread_mutex_t isr_lock;
	uint8_t isr;

	pthread_mutex_t idle_lock;
	pthread_cond_t idle; /* a queue's last chain came back */
};

/* --- virtio.c: the device, whatever it is reached by; device locked --- */

/* The driver accepts what it has written to driver_features. */
bool virtio_features_accept(struct virtio_dev *vd);
/* The driver writes device status. */
void virtio_status_write(struct virtio_dev *vd, uint8_t val);
/* As the driver reads it: not 0 while a reset goes on. */
uint8_t virtio_status_read(struct virtio_dev *vd);
void virtio_reset(struct virtio_dev *vd);
/* Waits for chains that are out after virtio_reset(), for drivers that do not. */
void virtio_reset_wait(struct virtio_dev *vd);
/* Starts or stops a queue with its registers as they are. */
void virtio_queue_enable(struct virtq *q);
void virtio_queue_reset(struct virtq *q);
bool virtio_queue_resetting(struct virtq *q);
void virtio_queue_notify(struct virtio_dev *vd, unsigned n);
/* The queue whose registers the driver has selected, or NULL. */
struct virtq *virtio_queue_selected(struct virtio_dev *vd);
/* Reads and clears ISR status. */
uint8_t virtio_isr_read(struct virtio_dev *vd);
/* Interrupts through vector, or the pin and these bits of ISR status. Any thread. */
void virtio_interrupt(struct virtio_dev *vd, uint16_t vector, uint8_t isr);
/* virtio_broken() in two steps: sets NEEDS_RESET and returns device status before; tells of it. The first
 * is for where no reset can be over, or the bit would outlive it: a chain is out, or the lock of a queue
 * that is enabled is held. Any thread. */
uint8_t virtio_broken_set(struct virtio_dev *vd);
void virtio_broken_tell(struct virtio_dev *vd, uint8_t old, const char *what);
uint8_t virtio_generation(struct virtio_dev *vd);
/* Accesses to the configuration, wherever off is. */
uint64_t virtio_config_read(struct virtio_dev *vd, uint64_t off, int size);
void virtio_config_write(struct virtio_dev *vd, uint64_t off, int size, uint64_t val);
void virtio_vector_set(struct virtio_dev *vd, _Atomic uint16_t *vector, uint16_t val);

/* --- virtq.c --- */

/* Makes pointers of the addresses in q's registers. -EINVAL when one is not RAM or not aligned. */
int virtq_ring_map(struct virtq *q, bool packed);
/* No more chains, from now on. */
void virtq_stop(struct virtq *q);

/* What pop has found so far. */
struct virtq_walk {
	struct virtq *q;
	struct virtq_chain *c;
	struct iovec *iov;
	int max;
};
/* Adds a buffer. NULL, or what is wrong. */
const char *virtq_walk_add(struct virtq_walk *w, uint64_t gpa, uint32_t len, bool in);
/* The host's pointer to an indirect table and its entries. NULL, or what is wrong. */
const char *virtq_walk_table(struct virtq_walk *w, uint64_t gpa, uint32_t len, const void **table,
    uint32_t *entries);

/* Of both rings; lock held. pop: 1, 0 for no chain, -1 for a broken ring, *why set. */
int virtq_split_pop(struct virtq_walk *w, const char **why);
void virtq_split_unpop(struct virtq *q, const struct virtq_chain *c);
void virtq_split_fill(struct virtq *q, const struct virtq_chain *c, uint32_t written);
void virtq_split_publish(struct virtq *q);
bool virtq_split_wants_interrupt(struct virtq *q);
void virtq_split_arm(struct virtq *q, bool on);
bool virtq_split_has_more(struct virtq *q);

int virtq_packed_pop(struct virtq_walk *w, const char **why);
void virtq_packed_unpop(struct virtq *q, const struct virtq_chain *c);
void virtq_packed_fill(struct virtq *q, const struct virtq_chain *c, uint32_t written);
void virtq_packed_publish(struct virtq *q);
bool virtq_packed_wants_interrupt(struct virtq *q);
void virtq_packed_arm(struct virtq *q, bool on);
bool virtq_packed_has_more(struct virtq *q);

/* A descriptor (2.7.5; packed: 2.8.13), copied once: what the guest does to it later is not seen. */
struct virtq_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t a, b; /* split: flags, next; packed: id, flags */
};
static_assert(sizeof(struct virtq_desc) == 16, "VIRTIO 1.2, 2.7.5");
#define VIRTQ_DESC_NEXT BIT(0)
#define VIRTQ_DESC_WRITE BIT(1)
#define VIRTQ_DESC_INDIRECT BIT(2)

static inline struct virtq_desc
virtq_desc_load(const void *table, uint32_t i)
{
	struct virtq_desc d;

	__builtin_memcpy(&d, (const char *)table + (size_t)i * sizeof(d), sizeof(d));
	/* The compiler must not read the guest's again in place of the copy. */
	__asm__ volatile("" : "+m"(d) : : "memory");
	return d;
}

/* 16-bit words that the driver and we share. */
static inline uint16_t
virtq_load(const void *base, size_t off)
{
	return atomic_load_explicit((const _Atomic uint16_t *)((const char *)base + off),
	    memory_order_acquire);
}

static inline void
virtq_store(struct virtq *q, void *base, size_t off, uint16_t val)
{
	char *at = (char *)base + off;

	atomic_store_explicit((_Atomic uint16_t *)at, val, memory_order_release);
	vm_mem_written(q->vd->vm, vm_mem_gpa(q->vd->vm, at), sizeof(val));
}

#endif
