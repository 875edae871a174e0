/*
 * A driver of VIRTIO devices, on a machine without processors: what unit tests, the fuzzer and the
 * bench play. It goes by the standard only: finds the device by its capabilities (or its I/O BAR),
 * agrees on features, lays out rings in guest memory, kicks, and takes interrupts.
 *
 *	struct rig rig;
 *	static const char *const lines[] = { "pci.0.3.0.device=virtio-blk", "pci.0.3.0.ram=1", NULL };
 *
 *	rig_create(&rig, MIB(16), lines);
 *	rig_start(&rig, RIG_MODERN, BIT64(VIRTIO_F_VERSION_1), 64);
 *	id = rig_add(&rig.queue[0], buf, 3, 0);
 *	rig_kick(&rig.queue[0]);
 *	rig_wait(&rig.queue[0], &len);		// the same id
 *	rig_destroy(&rig);
 *
 * It needs no test framework; what must not be ends the program.
 */
#ifndef VIRTIO_RIG_H
#define VIRTIO_RIG_H

#include "mock_engine.h"

#include "base/config.h"
#include "pci/pci_host.h"
#include "virtio/virtio.h"
#include "vm/state.h"

#include <pthread.h>
#include <stdio.h>
#include <time.h>

#define RIG_SLOT 3
#define RIG_QUEUES 16
#define RIG_NUM_MAX 256
#define RIG_PATIENCE_S 60 /* for events that must come */

#define RIG_ECAM (PCI_ECAM_BASE + ((uint64_t)RIG_SLOT << 15))

enum rig_kind { RIG_MODERN, RIG_LEGACY };

/* Of rig_add() */
#define RIG_INDIRECT 1u

struct rig_buf {
	uint64_t gpa;
	uint32_t len;
	bool in;
};

/* Rings as the driver sees them; the layouts are those of VIRTIO 1.2, 2.7 and 2.8. */
struct rig_desc {
	uint64_t addr;
	uint32_t len;
	uint16_t a, b;
};
struct rig_avail {
	_Atomic uint16_t flags, idx, ring[];
};
struct rig_used {
	_Atomic uint16_t flags, idx;
	struct {
		uint32_t id, len;
	} ring[];
};
struct rig_event {
	_Atomic uint16_t off_wrap, flags;
};

struct rig_queue {
	struct rig *rig;
	unsigned index;
	uint16_t num;
	bool packed, event_idx;
	uint64_t desc_gpa, driver_gpa, device_gpa, table_gpa;
	struct rig_desc *desc;
	void *driver, *device;
	uint16_t next, kicked, seen; /* positions: available, of the last kick, used */
	bool wrap, seen_wrap;
	uint16_t free_head; /* split: descriptors, packed: ids */
	uint16_t free_count; /* descriptors */
	uint16_t count[RIG_NUM_MAX]; /* descriptors that the chain with this id takes */
	uint16_t link[RIG_NUM_MAX];
	uint64_t doorbell;
	unsigned kicks;
	uint32_t taken; /* of the interrupts of this vector, by rig_wait() */
};

struct rig {
	struct config *cfg;
	struct vm *vm;
	struct pci *pci;
	enum rig_kind kind;
	uint64_t features;
	uint64_t common, isr, device, notify, io; /* addresses */
	uint32_t notify_step;
	unsigned cfg_cap;
	uint64_t memory_next; /* of the guest, for rig_alloc() */
	struct rig_queue queue[RIG_QUEUES];

	pthread_mutex_t lock;
	pthread_cond_t cond;
	uint32_t interrupts[RIG_QUEUES + 1]; /* by vector; the configuration's is the last */
	uint32_t line_edges;
	bool line;
	/* In place of counting and waking: called on the thread that interrupts, locks of pci/'s held.
	 * NULL: none. */
	void (*on_interrupt)(void *arg);
	void *on_interrupt_arg;
};

#define RIG_CONFIG_VECTOR RIG_QUEUES

static inline void
rig_must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "rig: %s\n", what);
	abort();
}

/* --- The machine --- */

static inline void
rig_msi(void *ctx, uint64_t addr, uint32_t data)
{
	struct rig *rig = ctx;

	rig_must(data <= RIG_QUEUES, "a message nobody asked for");
	if (rig->on_interrupt != NULL) {
		rig->on_interrupt(rig->on_interrupt_arg);
		return;
	}
	pthread_mutex_lock(&rig->lock);
	rig->interrupts[data]++;
	pthread_cond_broadcast(&rig->cond);
	pthread_mutex_unlock(&rig->lock);
}

static inline int
rig_mmio_offset(void *ctx, int cpu, uint64_t gpa)
{
	return -1;
}

static inline void
rig_line(void *ctx, int line, bool level)
{
	struct rig *rig = ctx;

	if (line < 16)
		return;
	pthread_mutex_lock(&rig->lock);
	rig->line = level;
	rig->line_edges += level;
	pthread_cond_broadcast(&rig->cond);
	pthread_mutex_unlock(&rig->lock);
}

static inline uint64_t
rig_rd(struct rig *rig, uint64_t addr, int size)
{
	return vm_bus_read(rig->vm, VM_MMIO, addr, size);
}

static inline void
rig_wr(struct rig *rig, uint64_t addr, int size, uint64_t val)
{
	vm_bus_write(rig->vm, VM_MMIO, addr, size, val);
}

static inline uint32_t
rig_cfg(struct rig *rig, unsigned off, int size)
{
	return (uint32_t)rig_rd(rig, RIG_ECAM + off, size);
}

static inline void
rig_cfg_wr(struct rig *rig, unsigned off, int size, uint32_t val)
{
	rig_wr(rig, RIG_ECAM + off, size, val);
}

static inline uint64_t
rig_bar(struct rig *rig, unsigned bar)
{
	uint32_t low = rig_cfg(rig, 0x10 + 4 * bar, 4);

	if (low & 1)
		return low & ~3u;
	return (low & ~0xfu) | (low & 4 ? (uint64_t)rig_cfg(rig, 0x14 + 4 * bar, 4) << 32 : 0);
}

/* Notes what a capability of the device's says (VIRTIO 1.2, 4.1.4). */
static inline void
rig_cap(struct rig *rig, unsigned at)
{
	uint64_t addr = rig_cfg(rig, at + 8, 4);

	if (rig_cfg(rig, at + 3, 1) == 5) {
		rig->cfg_cap = at;
		return;
	}
	addr += rig_bar(rig, rig_cfg(rig, at + 4, 1));
	switch (rig_cfg(rig, at + 3, 1)) {
	case 1: rig->common = addr; break;
	case 2:
		rig->notify = addr;
		rig->notify_step = rig_cfg(rig, at + 16, 4);
		break;
	case 3: rig->isr = addr; break;
	case 4: rig->device = addr; break;
	}
}

/* Enables MSI-X, each vector's data being its number, the configuration's RIG_CONFIG_VECTOR. */
static inline void
rig_msix(struct rig *rig, unsigned at)
{
	unsigned vectors = (rig_cfg(rig, at + 2, 2) & 0x7ff) + 1;
	uint64_t table = rig_bar(rig, rig_cfg(rig, at + 4, 4) & 7);

	for (unsigned i = 0; i < vectors; i++) {
		rig_wr(rig, table + 16 * i, 4, 0xfee00000);
		rig_wr(rig, table + 16 * i + 8, 4, i == vectors - 1 ? RIG_CONFIG_VECTOR : i);
		rig_wr(rig, table + 16 * i + 12, 4, 0);
	}
	rig_cfg_wr(rig, at + 2, 2, 0x8000);
}

static inline unsigned
rig_cap_find(struct rig *rig, uint8_t id)
{
	unsigned at = rig_cfg(rig, 0x34, 1);

	while (at != 0 && rig_cfg(rig, at, 1) != id)
		at = rig_cfg(rig, at + 1, 1);
	return at;
}

static inline unsigned
rig_vectors(struct rig *rig)
{
	return (rig_cfg(rig, rig_cap_find(rig, 0x11) + 2, 2) & 0x7ff) + 1;
}

/* Finds the device's registers and makes it a bus master, with MSI-X or without. */
static inline void
rig_probe(struct rig *rig, bool msix)
{
	unsigned at;

	for (at = rig_cfg(rig, 0x34, 1); at != 0; at = rig_cfg(rig, at + 1, 1)) {
		if (rig_cfg(rig, at, 1) == 0x09)
			rig_cap(rig, at);
	}
	if (rig_cfg(rig, 0x10, 4) & 1)
		rig->io = rig_bar(rig, 0);
	rig_cfg_wr(rig, 4, 2, 7);
	if (msix)
		rig_msix(rig, rig_cap_find(rig, 0x11));
}

/* A machine with the variables of a NULL-terminated list, "name=value" each. 0 or -errno: what is
 * wrong with a device. */
static inline int
rig_create_opt(struct rig *rig, uint64_t memory, const char *const *lines, bool msix)
{
	static const struct vm_apic_ops apic = { .msi = rig_msi, .mmio_offset = rig_mmio_offset };
	static const struct vm_irq_sink_ops sink = { .name = "rig", .set = rig_line };
	const struct pci_params params = { .phys_bits = 40 };
	int err;

	*rig = (struct rig){ .cfg = config_create(), .memory_next = MIB(1) };
	pthread_mutex_init(&rig->lock, NULL);
	pthread_cond_init(&rig->cond, NULL);
	for (; *lines != NULL; lines++) {
		const char *equals = strchr(*lines, '=');
		char name[128];

		snprintf(name, sizeof(name), "%.*s", (int)(equals - *lines), *lines);
		rig_must(config_set(rig->cfg, name, equals + 1) == 0, "a variable");
	}
	rig->vm = mock_vm_create_config(memory, 1, rig->cfg);
	rig_must(rig->vm != NULL, "no machine");
	vm_apic_register(rig->vm, &apic, rig);
	vm_irq_sink_add(rig->vm, &sink, rig);
	err = pci_create(rig->vm, &params, &rig->pci);
	if (err == 0)
		rig_probe(rig, msix);
	return err;
}

static inline void
rig_create(struct rig *rig, uint64_t memory, const char *const *lines)
{
	rig_must(rig_create_opt(rig, memory, lines, true) == 0, "no device");
}

static inline void
rig_destroy(struct rig *rig)
{
	pci_destroy(rig->pci);
	vm_destroy(rig->vm);
	config_destroy(rig->cfg);
	pthread_cond_destroy(&rig->cond);
	pthread_mutex_destroy(&rig->lock);
}

/* The device under test. */
static inline struct virtio_dev *
rig_dev(struct rig *rig)
{
	return pci_priv(pci_find(rig->pci, RIG_SLOT, 0));
}

/* --- Guest memory --- */

static inline uint64_t
rig_alloc(struct rig *rig, uint64_t size, uint64_t align)
{
	uint64_t gpa = ALIGN_UP(rig->memory_next, align);

	rig->memory_next = gpa + size;
	rig_must(rig->memory_next <= vm_mem_low(rig->vm), "out of guest memory");
	return gpa;
}

static inline void *
rig_ptr(struct rig *rig, uint64_t gpa, uint64_t len)
{
	void *p = vm_mem_ptr(rig->vm, gpa, len);

	rig_must(p != NULL, "no such memory");
	return p;
}

/* --- Registers, common configuration by offset (4.1.4.3) or legacy ones (4.1.4.10) --- */

static inline uint64_t
rig_common(struct rig *rig, unsigned off, int size)
{
	return rig_rd(rig, rig->common + off, size);
}

static inline void
rig_common_wr(struct rig *rig, unsigned off, int size, uint64_t val)
{
	rig_wr(rig, rig->common + off, size, val);
}

static inline uint32_t
rig_io(struct rig *rig, unsigned off, int size)
{
	return (uint32_t)vm_bus_read(rig->vm, VM_PIO, rig->io + off, size);
}

static inline void
rig_io_wr(struct rig *rig, unsigned off, int size, uint32_t val)
{
	vm_bus_write(rig->vm, VM_PIO, rig->io + off, size, val);
}

static inline uint8_t
rig_status(struct rig *rig)
{
	return (uint8_t)(rig->kind == RIG_LEGACY ? rig_io(rig, 18, 1) : rig_common(rig, 20, 1));
}

static inline void
rig_status_wr(struct rig *rig, uint8_t val)
{
	if (rig->kind == RIG_LEGACY)
		rig_io_wr(rig, 18, 1, val);
	else
		rig_common_wr(rig, 20, 1, val);
}

static inline uint64_t
rig_offered(struct rig *rig)
{
	uint64_t low;

	if (rig->kind == RIG_LEGACY)
		return rig_io(rig, 0, 4);
	rig_common_wr(rig, 0, 4, 0);
	low = rig_common(rig, 4, 4);
	rig_common_wr(rig, 0, 4, 1);
	return low | rig_common(rig, 4, 4) << 32;
}

static inline void
rig_features_wr(struct rig *rig, uint64_t features)
{
	if (rig->kind == RIG_LEGACY) {
		rig_io_wr(rig, 4, 4, (uint32_t)features);
		return;
	}
	for (unsigned i = 0; i < 2; i++) {
		rig_common_wr(rig, 8, 4, i);
		rig_common_wr(rig, 12, 4, (uint32_t)(features >> (32 * i)));
	}
}

/* Resets the device and waits for the end of that. */
static inline void
rig_reset(struct rig *rig)
{
	rig_status_wr(rig, 0);
	for (int i = 0; rig_status(rig) != 0; i++) {
		rig_must(i < 1000 * RIG_PATIENCE_S, "the reset does not end");
		nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
	}
}

/* --- Queues --- */

static inline bool
rig_has(const struct rig *rig, unsigned feature)
{
	return rig->features & BIT64(feature);
}

static inline void
rig_queue_layout(struct rig *rig, struct rig_queue *q)
{
	uint64_t n = q->num;

	if (rig->kind == RIG_LEGACY) {
		q->desc_gpa = rig_alloc(rig, 16 * n + 6 + 2 * n + 4096 + 6 + 8 * n, 4096);
		q->driver_gpa = q->desc_gpa + 16 * n;
		q->device_gpa = ALIGN_UP(q->driver_gpa + 6 + 2 * n, (uint64_t)4096);
	} else {
		q->desc_gpa = rig_alloc(rig, 16 * n, 16);
		q->driver_gpa = rig_alloc(rig, 6 + 2 * n, 4);
		q->device_gpa = rig_alloc(rig, 6 + 8 * n, 4);
	}
	q->table_gpa = rig_alloc(rig, 16 * n * n, 16);
	q->desc = rig_ptr(rig, q->desc_gpa, 16 * n);
	q->driver = rig_ptr(rig, q->driver_gpa, 6 + 2 * n);
	q->device = rig_ptr(rig, q->device_gpa, 6 + 8 * n);
}

/* The driver's side of a fresh ring. */
static inline void
rig_queue_clear(struct rig_queue *q)
{
	uint64_t n = q->num;

	memset(q->desc, 0, 16 * n);
	memset(q->driver, 0, 6 + 2 * n);
	memset(q->device, 0, 6 + 8 * n);
	q->next = q->kicked = q->seen = 0;
	q->wrap = q->seen_wrap = true;
	q->free_head = 0;
	q->free_count = q->num;
	for (uint16_t i = 0; i < q->num; i++)
		q->link[i] = i + 1;
}

/* Tells the device where the ring is and lets it be used. */
static inline void
rig_queue_enable(struct rig_queue *q)
{
	struct rig *rig = q->rig;
	uint16_t vector = (uint16_t)q->index;

	if (rig->kind == RIG_LEGACY) {
		rig_io_wr(rig, 14, 2, q->index);
		rig_io_wr(rig, 8, 4, (uint32_t)(q->desc_gpa >> 12));
		rig_io_wr(rig, 22, 2, vector);
		q->doorbell = 16;
		return;
	}
	rig_common_wr(rig, 22, 2, q->index);
	rig_common_wr(rig, 24, 2, q->num);
	rig_common_wr(rig, 32, 8, q->desc_gpa);
	rig_common_wr(rig, 40, 8, q->driver_gpa);
	rig_common_wr(rig, 48, 8, q->device_gpa);
	rig_common_wr(rig, 26, 2, vector);
	q->doorbell = rig->notify + rig->notify_step * rig_common(rig, 30, 2);
	rig_common_wr(rig, 28, 2, 1);
}

static inline void
rig_queue_init(struct rig *rig, unsigned index, uint16_t num)
{
	struct rig_queue *q = &rig->queue[index];

	if (rig->kind == RIG_LEGACY) {
		rig_io_wr(rig, 14, 2, index);
		num = (uint16_t)rig_io(rig, 12, 2);
	}
	*q = (struct rig_queue){ .rig = rig, .index = index, .num = num };
	q->packed = rig_has(rig, VIRTIO_F_RING_PACKED);
	q->event_idx = rig_has(rig, VIRTIO_F_RING_EVENT_IDX);
	rig_must(num <= RIG_NUM_MAX, "a queue too long");
	rig_queue_layout(rig, q);
	rig_queue_clear(q);
	rig_queue_enable(q);
}

/* Brings the device up to DRIVER_OK with these features and all its queues, of num entries (legacy:
 * the device's number). */
static inline void
rig_start(struct rig *rig, enum rig_kind kind, uint64_t features, uint16_t num)
{
	unsigned queues = rig_vectors(rig) - 1;

	rig->kind = kind;
	rig->features = features;
	rig_reset(rig);
	rig_status_wr(rig, 1);
	rig_status_wr(rig, 3);
	rig_features_wr(rig, features);
	if (kind == RIG_MODERN) {
		rig_status_wr(rig, 3 | 8);
		rig_must(rig_status(rig) & 8, "features refused");
		rig_common_wr(rig, 16, 2, queues);
	} else {
		rig_io_wr(rig, 20, 2, queues);
	}
	for (unsigned i = 0; i < queues && i < RIG_QUEUES; i++)
		rig_queue_init(rig, i, num);
	rig_status_wr(rig, rig_status(rig) | 4);
}

/* --- Making available --- */

static inline uint16_t
rig_id_take(struct rig_queue *q)
{
	uint16_t id = q->free_head;

	q->free_head = q->link[id];
	return id;
}

static inline void
rig_id_give(struct rig_queue *q, uint16_t id)
{
	q->link[id] = q->free_head;
	q->free_head = id;
}

/* Fills an indirect table for id; packed and split tables differ in what is beside the flags. */
static inline struct rig_buf
rig_table(struct rig_queue *q, uint16_t id, const struct rig_buf *buf, unsigned n)
{
	uint64_t gpa = q->table_gpa + (uint64_t)id * 16 * q->num;
	struct rig_desc *table = rig_ptr(q->rig, gpa, 16 * (uint64_t)q->num);

	rig_must(n <= q->num, "a table too long");
	for (unsigned i = 0; i < n; i++) {
		uint16_t flags = (uint16_t)((buf[i].in ? 2 : 0) |
		    (!q->packed && i + 1 < n ? 1 : 0));

		table[i] = (struct rig_desc){ buf[i].gpa, buf[i].len, q->packed ? id : flags,
			q->packed ? flags : (uint16_t)(i + 1) };
	}
	return (struct rig_buf){ gpa, 16 * n, false };
}

static inline uint16_t
rig_add_split(struct rig_queue *q, const struct rig_buf *buf, unsigned n, uint16_t extra)
{
	struct rig_avail *avail = q->driver;
	uint16_t head = 0, prev = 0;

	for (unsigned i = 0; i < n; i++) {
		uint16_t id = rig_id_take(q);

		if (i == 0)
			head = id;
		else
			q->desc[prev].b = id;
		q->desc[id] = (struct rig_desc){ buf[i].gpa, buf[i].len,
			(uint16_t)((buf[i].in ? 2 : 0) | (i + 1 < n ? 1 : 0) | extra), 0 };
		prev = id;
	}
	q->count[head] = (uint16_t)n;
	atomic_store_explicit(&avail->ring[q->next % q->num], head, memory_order_relaxed);
	q->next++;
	atomic_store_explicit(&avail->idx, q->next, memory_order_release);
	return head;
}

static inline uint16_t
rig_add_packed(struct rig_queue *q, const struct rig_buf *buf, unsigned n, uint16_t extra)
{
	uint16_t id = rig_id_take(q), first = q->next, first_flags = 0;

	for (unsigned i = 0; i < n; i++) {
		struct rig_desc *d = &q->desc[q->next];
		uint16_t flags = (uint16_t)((buf[i].in ? 2 : 0) | (i + 1 < n ? 1 : 0) | extra |
		    (q->wrap ? 0x80 : 0x8000));

		d->addr = buf[i].gpa;
		d->len = buf[i].len;
		d->a = id;
		if (i == 0)
			first_flags = flags;
		else
			d->b = flags;
		if (++q->next == q->num) {
			q->next = 0;
			q->wrap = !q->wrap;
		}
	}
	q->count[id] = (uint16_t)n;
	atomic_store_explicit((_Atomic uint16_t *)&q->desc[first].b, first_flags,
	    memory_order_release);
	return id;
}

/* Makes a chain available, without a kick. Its id comes back from rig_get(). */
static inline uint16_t
rig_add(struct rig_queue *q, const struct rig_buf *buf, unsigned n, unsigned flags)
{
	struct rig_buf table;
	uint16_t extra = 0, id;

	if (flags & RIG_INDIRECT) {
		/* The id that will be taken. */
		table = rig_table(q, q->free_head, buf, n);
		buf = &table;
		n = 1;
		extra = 4;
	}
	rig_must(n <= q->free_count, "the ring is full");
	q->free_count = (uint16_t)(q->free_count - n);
	if (q->packed)
		id = rig_add_packed(q, buf, n, extra);
	else
		id = rig_add_split(q, buf, n, extra);
	q->kicked = (uint16_t)(q->kicked + (q->packed ? n : 1)); /* what events count */
	return id;
}

/* Whether the device wants to be told of what was added since the last kick. */
static inline bool
rig_wants_kick(struct rig_queue *q)
{
	uint16_t added = q->kicked;

	atomic_thread_fence(memory_order_seq_cst);
	if (q->packed) {
		const struct rig_event *e = q->device;
		uint16_t flags = atomic_load(&e->flags) & 3, at = atomic_load(&e->off_wrap);
		int off = at & 0x7fff, old = q->next - added;
		bool wrap = q->wrap;

		if (flags != 2 || !q->event_idx)
			return flags != 1;
		if (old < 0) {
			old += q->num;
			wrap = !wrap;
		}
		if ((at >> 15) != wrap)
			off += q->num;
		return off >= old && off - old < added;
	} else {
		const struct rig_used *used = q->device;
		const _Atomic uint16_t *event = (const void *)&used->ring[q->num];

		if (!q->event_idx)
			return !(atomic_load(&used->flags) & 1);
		return (uint16_t)(atomic_load(event) - (uint16_t)(q->next - added)) < added;
	}
}

static inline void
rig_kick_always(struct rig_queue *q)
{
	struct rig *rig = q->rig;

	q->kicked = 0;
	q->kicks++;
	if (rig->kind == RIG_LEGACY)
		rig_io_wr(rig, (unsigned)q->doorbell, 2, q->index);
	else
		rig_wr(rig, q->doorbell, 2, q->index);
}

static inline void
rig_kick(struct rig_queue *q)
{
	if (q->kicked != 0 && rig_wants_kick(q))
		rig_kick_always(q);
	q->kicked = 0;
}

/* --- Taking what is used --- */

/* Takes a chain back: its id, or -1 when there is none. */
static inline int
rig_get(struct rig_queue *q, uint32_t *len)
{
	uint32_t id, n;

	if (q->packed) {
		struct rig_desc *d = &q->desc[q->seen];
		uint16_t flags = atomic_load_explicit((_Atomic uint16_t *)&d->b,
		    memory_order_acquire);

		if (!!(flags & 0x80) != q->seen_wrap || !!(flags & 0x8000) != q->seen_wrap)
			return -1;
		id = d->a;
		*len = d->len;
		rig_must(id < q->num && q->count[id] != 0, "an id that is not out");
		n = q->count[id];
		if (q->seen + n >= q->num)
			q->seen_wrap = !q->seen_wrap;
		q->seen = (uint16_t)((q->seen + n) % q->num);
		rig_id_give(q, (uint16_t)id);
	} else {
		struct rig_used *used = q->device;

		if (atomic_load_explicit(&used->idx, memory_order_acquire) == q->seen)
			return -1;
		id = used->ring[q->seen % q->num].id;
		*len = used->ring[q->seen % q->num].len;
		rig_must(id < q->num && q->count[id] != 0, "an id that is not out");
		n = q->count[id];
		q->seen++;
		for (uint32_t i = 0, at = id; i < n; i++) {
			uint16_t next = q->desc[at].b;

			rig_id_give(q, (uint16_t)at);
			at = next;
		}
	}
	q->count[id] = 0;
	q->free_count = (uint16_t)(q->free_count + n);
	return (int)id;
}

/* Says whether, and from which one on, the driver wants an interrupt: the next. */
static inline void
rig_interrupts_on(struct rig_queue *q, bool on)
{
	if (q->packed) {
		struct rig_event *e = q->driver;

		atomic_store(&e->off_wrap, (uint16_t)(q->seen | q->seen_wrap << 15));
		atomic_store(&e->flags, (uint16_t)(!on ? 1 : q->event_idx ? 2 : 0));
	} else {
		struct rig_avail *avail = q->driver;

		atomic_store(&avail->flags, on ? 0 : 1);
		if (on)
			atomic_store(&avail->ring[q->num], q->seen);
	}
	atomic_thread_fence(memory_order_seq_cst);
}

/* Waits for an interrupt after the last one waited for. */
static inline void
rig_wait_interrupt(struct rig *rig, unsigned vector, uint32_t *taken)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += RIG_PATIENCE_S;
	pthread_mutex_lock(&rig->lock);
	while (rig->interrupts[vector] == *taken)
		rig_must(pthread_cond_timedwait(&rig->cond, &rig->lock, &end) == 0,
		    "no interrupt comes");
	*taken = rig->interrupts[vector];
	pthread_mutex_unlock(&rig->lock);
}

/* Waits for a chain to come back. */
static inline int
rig_wait(struct rig_queue *q, uint32_t *len)
{
	int id;

	while ((id = rig_get(q, len)) < 0) {
		rig_interrupts_on(q, true);
		id = rig_get(q, len);
		if (id >= 0)
			break;
		rig_wait_interrupt(q->rig, q->index, &q->taken);
	}
	return id;
}

/* --- State --- */

static inline struct vm_state *
rig_save(struct rig *rig)
{
	struct vm_state *s = vm_state_create();

	rig_must(s != NULL && vm_state_all(rig->vm, s) == 0, "cannot save");
	return s;
}

/* Loads what was saved of a like machine. */
static inline int
rig_load(struct rig *rig, const struct vm_state *saved)
{
	size_t len;
	const void *data = vm_state_data(saved, &len);
	struct vm_state *s = vm_state_open(data, len);
	int err;

	rig_must(s != NULL, "cannot load");
	err = vm_state_all(rig->vm, s);
	vm_state_destroy(s);
	return err;
}

#endif
