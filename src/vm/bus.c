/*
 * Port and MMIO dispatch.
 *
 * Ports: a table of one index per port. MMIO: arrays sorted by base, one of ordinary ranges, one of
 * background ranges; ranges of one array never overlap, so a binary search finds the one. The range
 * found is copied and the lock let go before its handler runs: handlers may add and remove ranges.
 *
 * Each vCPU remembers the last range of each space it reached, and the last page of MMIO space that
 * no range touches (its local APIC's, usually), together with the bus's generation, which every
 * change of the bus raises. So the usual access takes no lock, and an access that begins after a
 * change was made visible to the vCPU never uses what was remembered before.
 */
#include "vm/bus.h"
#include "vm/private.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define VM_BUS_RANGES 4096 /* of each space and kind */
#define VM_BUS_PORTS 65536
#define VM_BUS_PAGE KIB(4)

enum vm_bus_kind { VM_BUS_PLAIN, VM_BUS_BACKGROUND, VM_BUS_KINDS };

/* Ranges of one space and kind, sorted by base. */
struct vm_bus_list {
	struct vm_range *range;
	size_t count, room;
};

struct vm_bus_doorbell {
	enum vm_space space;
	uint64_t addr;
	int size;
	vm_doorbell_fn *notify;
	void *ctx;
};

/* Touched by its vCPU's thread only. */
struct vm_bus_cache {
	uint64_t generation;
	struct vm_range last[2]; /* by enum vm_space; size 0: none */
	uint64_t empty_page; /* an MMIO page without ranges; all ones: none */
} __attribute__((aligned(64)));

struct vm_bus {
	pthread_rwlock_t lock; /* guards lists, ports and doorbells */
	_Atomic uint64_t generation; /* starts at 1; changes with lock held for writing */
	struct vm_bus_list list[2][VM_BUS_KINDS];
	/* Per port: 0, or 1 + index in the list it belongs to, plus VM_BUS_PORT_BACKGROUND. */
	uint16_t *port;
	struct vm_bus_doorbell *doorbell; /* sorted by space, then address */
	size_t doorbells, doorbell_room;
	_Atomic size_t doorbell_count[2]; /* per space, for a look without the lock */
	struct vm_bus_cache cache[]; /* per vCPU */
};

#define VM_BUS_PORT_BACKGROUND BIT(15)
static_assert(VM_BUS_RANGES < VM_BUS_PORT_BACKGROUND, "indexes fit beside the flag");

/* What answers at an address, and for how many bytes from there on that is so (at least 1; at least
 * 8 unless something else begins earlier). */
struct vm_bus_hit {
	struct vm_range range; /* ops NULL: nothing */
	bool background;
	uint64_t span;
};

int
vm_bus_create(struct vm *vm)
{
	size_t vcpus = (size_t)vm_vcpus(vm);
	size_t size = ALIGN_UP(sizeof(struct vm_bus) + vcpus * sizeof(struct vm_bus_cache), 64);
	struct vm_bus *bus = aligned_alloc(64, size);

	if (bus == NULL)
		return -ENOMEM;
	memset(bus, 0, size);
	bus->port = calloc(VM_BUS_PORTS, sizeof(*bus->port));
	if (bus->port == NULL) {
		free(bus);
		return -ENOMEM;
	}
	pthread_rwlock_init(&bus->lock, NULL);
	bus->generation = 1;
	vm->bus = bus;
	return 0;
}

void
vm_bus_destroy(struct vm *vm)
{
	struct vm_bus *bus = vm->bus;

	if (bus == NULL)
		return;
	for (int space = 0; space < 2; space++) {
		for (int kind = 0; kind < VM_BUS_KINDS; kind++)
			free(bus->list[space][kind].range);
	}
	free(bus->doorbell);
	free(bus->port);
	pthread_rwlock_destroy(&bus->lock);
	free(bus);
	vm->bus = NULL;
}

/* --- Lists --- */

/* The index of the first range whose base is above addr. */
static size_t
vm_bus_list_above(const struct vm_bus_list *list, uint64_t addr)
{
	size_t lo = 0, hi = list->count;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (list->range[mid].base <= addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* The range that holds addr or NULL, and in *span the bytes from addr on for which that holds. */
static const struct vm_range *
vm_bus_list_find(const struct vm_bus_list *list, uint64_t addr, uint64_t *span)
{
	size_t above = vm_bus_list_above(list, addr);
	const struct vm_range *r;

	if (above > 0) {
		r = &list->range[above - 1];
		if (addr - r->base < r->size) {
			*span = r->size - (addr - r->base);
			return r;
		}
	}
	*span = above < list->count ? list->range[above].base - addr : MAX(UINT64_MAX - addr, 1);
	return NULL;
}

static int
vm_bus_list_insert(struct vm_bus_list *list, const struct vm_range *range)
{
	size_t at = vm_bus_list_above(list, range->base);
	uint64_t span;

	if (vm_bus_list_find(list, range->base, &span) != NULL || span < range->size)
		return -EEXIST;
	if (list->count == VM_BUS_RANGES)
		return -ENOSPC;
	if (list->count == list->room) {
		size_t room = list->room != 0 ? list->room * 2 : 16;
		struct vm_range *grown = realloc(list->range, room * sizeof(*grown));

		if (grown == NULL)
			return -ENOMEM;
		list->range = grown;
		list->room = room;
	}
	memmove(&list->range[at + 1], &list->range[at], (list->count - at) * sizeof(*range));
	list->range[at] = *range;
	list->count++;
	return 0;
}

static void
vm_bus_list_delete(struct vm_bus_list *list, size_t at)
{
	list->count--;
	memmove(&list->range[at], &list->range[at + 1], (list->count - at) * sizeof(*list->range));
}

/* Fills the table of ports from the lists, whose indexes may all have moved. */
static void
vm_bus_ports_rebuild(struct vm_bus *bus)
{
	memset(bus->port, 0, VM_BUS_PORTS * sizeof(*bus->port));
	for (int kind = VM_BUS_KINDS - 1; kind >= 0; kind--) {
		const struct vm_bus_list *list = &bus->list[VM_PIO][kind];
		uint16_t flag = kind == VM_BUS_BACKGROUND ? VM_BUS_PORT_BACKGROUND : 0;

		for (size_t i = 0; i < list->count; i++) {
			const struct vm_range *r = &list->range[i];

			for (uint64_t port = r->base; port < r->base + r->size; port++)
				bus->port[port] = (uint16_t)(i + 1) | flag;
		}
	}
}

static void
vm_bus_changed(struct vm_bus *bus, enum vm_space space)
{
	if (space == VM_PIO)
		vm_bus_ports_rebuild(bus);
	atomic_fetch_add(&bus->generation, 1);
}

int
vm_range_add(struct vm *vm, const struct vm_range *range)
{
	struct vm_bus *bus = vm->bus;
	uint64_t limit = range->space == VM_PIO ? VM_BUS_PORTS : UINT64_MAX;
	unsigned min = MAX(range->ops->min_size, 1);
	enum vm_bus_kind kind = range->background ? VM_BUS_BACKGROUND : VM_BUS_PLAIN;
	int err;

	if (range->size == 0 || range->base >= limit || range->size > limit - range->base ||
	    range->size % min != 0)
		return -EINVAL;
	pthread_rwlock_wrlock(&bus->lock);
	err = vm_bus_list_insert(&bus->list[range->space][kind], range);
	if (err == 0)
		vm_bus_changed(bus, range->space);
	pthread_rwlock_unlock(&bus->lock);
	return err;
}

void
vm_range_remove(struct vm *vm, const struct vm_range *range)
{
	struct vm_bus *bus = vm->bus;

	pthread_rwlock_wrlock(&bus->lock);
	for (int kind = 0; kind < VM_BUS_KINDS; kind++) {
		struct vm_bus_list *list = &bus->list[range->space][kind];
		size_t above = vm_bus_list_above(list, range->base);

		if (above == 0 || list->range[above - 1].base != range->base ||
		    list->range[above - 1].ctx != range->ctx)
			continue;
		vm_bus_list_delete(list, above - 1);
		vm_bus_changed(bus, range->space);
		break;
	}
	pthread_rwlock_unlock(&bus->lock);
}

/* --- Lookup --- */

static void
vm_bus_find_port(const struct vm_bus *bus, uint64_t addr, struct vm_bus_hit *hit)
{
	uint16_t index = bus->port[addr];

	for (hit->span = 1; hit->span < 8 && addr + hit->span < VM_BUS_PORTS; hit->span++) {
		if (bus->port[addr + hit->span] != index)
			break;
	}
	hit->background = index & VM_BUS_PORT_BACKGROUND;
	index &= (uint16_t)~VM_BUS_PORT_BACKGROUND;
	if (index != 0)
		hit->range = bus->list[VM_PIO][hit->background].range[index - 1];
}

static void
vm_bus_find_mmio(const struct vm_bus *bus, uint64_t addr, struct vm_bus_hit *hit)
{
	const struct vm_range *r;
	uint64_t span;

	r = vm_bus_list_find(&bus->list[VM_MMIO][VM_BUS_PLAIN], addr, &hit->span);
	if (r == NULL) {
		r = vm_bus_list_find(&bus->list[VM_MMIO][VM_BUS_BACKGROUND], addr, &span);
		hit->background = true;
		hit->span = MIN(hit->span, span);
	}
	if (r != NULL)
		hit->range = *r;
}

/* Finds what answers at addr, by the vCPU's memory of it if that is still good. */
static void
vm_bus_find(struct vm_bus *bus, struct vm_bus_cache *cache, enum vm_space space, uint64_t addr,
    struct vm_bus_hit *hit)
{
	uint64_t generation = atomic_load_explicit(&bus->generation, memory_order_acquire);
	uint64_t page = ALIGN_DOWN(addr, VM_BUS_PAGE), span;

	*hit = (struct vm_bus_hit){ .range.ops = NULL };
	if (cache != NULL && cache->generation == generation) {
		const struct vm_range *last = &cache->last[space];

		if (addr - last->base < last->size) {
			hit->range = *last;
			hit->span = last->size - (addr - last->base);
			return;
		}
		if (space == VM_MMIO && page == cache->empty_page) {
			hit->span = VM_BUS_PAGE - (addr - page);
			return;
		}
	}

	pthread_rwlock_rdlock(&bus->lock);
	generation = atomic_load_explicit(&bus->generation, memory_order_relaxed);
	if (cache != NULL && cache->generation != generation) {
		*cache = (struct vm_bus_cache){
			.generation = generation, .empty_page = UINT64_MAX
		};
	}
	if (space == VM_PIO)
		vm_bus_find_port(bus, addr, hit);
	else
		vm_bus_find_mmio(bus, addr, hit);
	if (cache != NULL && hit->range.ops != NULL && !hit->background)
		cache->last[space] = hit->range;
	if (cache != NULL && hit->range.ops == NULL && space == VM_MMIO) {
		struct vm_bus_hit start = { .range.ops = NULL };

		vm_bus_find_mmio(bus, page, &start);
		span = start.span;
		if (start.range.ops == NULL && span >= VM_BUS_PAGE)
			cache->empty_page = page;
	}
	pthread_rwlock_unlock(&bus->lock);
}

const char *
vm_range_find(struct vm *vm, enum vm_space space, uint64_t addr)
{
	struct vm_bus_hit hit;

	if (space == VM_PIO && addr >= VM_BUS_PORTS)
		return NULL;
	vm_bus_find(vm->bus, NULL, space, addr, &hit);
	return hit.range.ops != NULL ? hit.range.ops->name : NULL;
}

/* --- Accesses of one range, aligned and in its sizes --- */

static uint64_t
vm_bus_mask(int size)
{
	return UINT64_MAX >> (64 - 8 * size);
}

/* The largest access a range may get at off, of at most left bytes. */
static int
vm_bus_chunk(const struct vm_range *range, uint64_t off, int left)
{
	int max = range->ops->max_size;
	int size = 1;

	if (max == 0)
		max = range->space == VM_PIO ? 4 : 8;
	while (size * 2 <= MIN(max, left) && off % (unsigned)(size * 2) == 0)
		size *= 2;
	return size;
}

static uint64_t
vm_bus_range_read(const struct vm_range *range, uint64_t off, int size)
{
	int min = MAX(range->ops->min_size, 1);
	uint64_t start, whole;

	if (range->ops->read == NULL)
		return vm_bus_mask(size);
	if (size >= min)
		return range->ops->read(range->ctx, off, size) & vm_bus_mask(size);
	start = ALIGN_DOWN(off, (uint64_t)min);
	whole = range->ops->read(range->ctx, start, min);
	return (whole >> (8 * (off - start))) & vm_bus_mask(size);
}

static void
vm_bus_range_write(const struct vm_range *range, uint64_t off, int size, uint64_t val)
{
	int min = MAX(range->ops->min_size, 1);
	uint64_t start, whole;
	unsigned shift;

	val &= vm_bus_mask(size);
	if (range->ops->write == NULL)
		return;
	if (size >= min) {
		range->ops->write(range->ctx, off, size, val);
		return;
	}
	start = ALIGN_DOWN(off, (uint64_t)min);
	shift = 8 * (unsigned)(off - start);
	whole = vm_bus_range_read(range, start, min);
	whole = (whole & ~(vm_bus_mask(size) << shift)) | val << shift;
	range->ops->write(range->ctx, start, min, whole);
}

/* --- The local APIC's page: a range of 32-bit registers, another one for each vCPU --- */

struct vm_bus_apic {
	const struct vm_apic_ops *ops;
	void *ctx;
	int cpu;
};

static uint64_t
vm_bus_apic_read(void *ctx, uint64_t off, int size)
{
	struct vm_bus_apic *apic = ctx;

	return apic->ops->mmio_read(apic->ctx, apic->cpu, (int)off);
}

static void
vm_bus_apic_write(void *ctx, uint64_t off, int size, uint64_t val)
{
	struct vm_bus_apic *apic = ctx;

	apic->ops->mmio_write(apic->ctx, apic->cpu, (int)off, (uint32_t)val);
}

/* Whether addr is in vCPU cpu's APIC page; fills apic and makes the page hit's range if so. */
static bool
vm_bus_find_apic(struct vm *vm, int cpu, uint64_t addr, struct vm_bus_apic *apic,
    struct vm_bus_hit *hit)
{
	static const struct vm_range_ops ops = {
		"lapic", vm_bus_apic_read, vm_bus_apic_write, 4, 4
	};
	int off;

	if (cpu < 0)
		return false;
	apic->ops = vm_apic(vm, &apic->ctx);
	if (apic->ops == NULL)
		return false;
	apic->cpu = cpu;
	off = apic->ops->mmio_offset(apic->ctx, cpu, addr);
	if (off < 0)
		return false;
	hit->range = (struct vm_range){ .ops = &ops, .ctx = apic, .space = VM_MMIO,
		.base = addr - (uint64_t)off, .size = VM_BUS_PAGE };
	hit->span = VM_BUS_PAGE - (uint64_t)off;
	return true;
}

/* --- Doorbells --- */

static int
vm_bus_doorbell_compare(const struct vm_bus_doorbell *d, enum vm_space space, uint64_t addr)
{
	if (d->space != space)
		return d->space < space ? -1 : 1;
	if (d->addr != addr)
		return d->addr < addr ? -1 : 1;
	return 0;
}

/* The index of the first doorbell at or above addr. */
static size_t
vm_bus_doorbell_index(const struct vm_bus *bus, enum vm_space space, uint64_t addr)
{
	size_t lo = 0, hi = bus->doorbells;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (vm_bus_doorbell_compare(&bus->doorbell[mid], space, addr) < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/* Runs the doorbell that a write meets; false when there is none. */
static bool
vm_bus_doorbell_ring(struct vm_bus *bus, enum vm_space space, uint64_t addr, int size, uint64_t val)
{
	struct vm_bus_doorbell d = { .notify = NULL };
	size_t at;

	if (atomic_load_explicit(&bus->doorbell_count[space], memory_order_acquire) == 0)
		return false;
	pthread_rwlock_rdlock(&bus->lock);
	at = vm_bus_doorbell_index(bus, space, addr);
	if (at < bus->doorbells && vm_bus_doorbell_compare(&bus->doorbell[at], space, addr) == 0 &&
	    bus->doorbell[at].size == size)
		d = bus->doorbell[at];
	pthread_rwlock_unlock(&bus->lock);
	if (d.notify == NULL)
		return false;
	d.notify(d.ctx, val & vm_bus_mask(size));
	return true;
}

int
vm_doorbell_add(struct vm *vm, enum vm_space space, uint64_t addr, int size, vm_doorbell_fn *notify,
    void *ctx)
{
	struct vm_bus *bus = vm->bus;
	struct vm_bus_doorbell *grown;
	size_t at;
	int err = 0;

	if ((size != 1 && size != 2 && size != 4 && size != 8) ||
	    (space == VM_PIO && addr >= VM_BUS_PORTS))
		return -EINVAL;
	pthread_rwlock_wrlock(&bus->lock);
	at = vm_bus_doorbell_index(bus, space, addr);
	if (at < bus->doorbells && vm_bus_doorbell_compare(&bus->doorbell[at], space, addr) == 0) {
		err = -EEXIST;
		goto unlock;
	}
	if (bus->doorbells == VM_BUS_RANGES) {
		err = -ENOSPC;
		goto unlock;
	}
	if (bus->doorbells == bus->doorbell_room) {
		size_t room = bus->doorbell_room != 0 ? bus->doorbell_room * 2 : 16;

		grown = realloc(bus->doorbell, room * sizeof(*grown));
		if (grown == NULL) {
			err = -ENOMEM;
			goto unlock;
		}
		bus->doorbell = grown;
		bus->doorbell_room = room;
	}
	memmove(&bus->doorbell[at + 1], &bus->doorbell[at],
	    (bus->doorbells - at) * sizeof(*bus->doorbell));
	bus->doorbell[at] = (struct vm_bus_doorbell){ space, addr, size, notify, ctx };
	bus->doorbells++;
	atomic_fetch_add(&bus->doorbell_count[space], 1);
unlock:
	pthread_rwlock_unlock(&bus->lock);
	return err;
}

void
vm_doorbell_remove(struct vm *vm, enum vm_space space, uint64_t addr)
{
	struct vm_bus *bus = vm->bus;
	size_t at;

	pthread_rwlock_wrlock(&bus->lock);
	at = vm_bus_doorbell_index(bus, space, addr);
	if (at < bus->doorbells && vm_bus_doorbell_compare(&bus->doorbell[at], space, addr) == 0) {
		bus->doorbells--;
		memmove(&bus->doorbell[at], &bus->doorbell[at + 1],
		    (bus->doorbells - at) * sizeof(*bus->doorbell));
		atomic_fetch_sub(&bus->doorbell_count[space], 1);
	}
	pthread_rwlock_unlock(&bus->lock);
}

/* --- Accesses --- */

static struct vm_bus_cache *
vm_bus_cache(struct vm_bus *bus, int cpu)
{
	return cpu >= 0 ? &bus->cache[cpu] : NULL;
}

/* Finds what gets the next part of an access, and how many bytes that part has. */
static int
vm_bus_step(struct vm *vm, int cpu, enum vm_space space, uint64_t addr, int left,
    struct vm_bus_apic *apic, struct vm_bus_hit *hit)
{
	if (space == VM_PIO && addr >= VM_BUS_PORTS) {
		hit->range.ops = NULL;
		return left;
	}
	vm_bus_find(vm->bus, vm_bus_cache(vm->bus, cpu), space, addr, hit);
	/* A background window may lie over the APIC's page. */
	if (space == VM_MMIO && (hit->range.ops == NULL || hit->background))
		(void)vm_bus_find_apic(vm, cpu, addr, apic, hit);
	if (hit->span < (uint64_t)left)
		left = (int)hit->span;
	if (hit->range.ops == NULL)
		return left;
	return vm_bus_chunk(&hit->range, addr - hit->range.base, left);
}

uint64_t
vm_bus_read_as(struct vm *vm, int cpu, enum vm_space space, uint64_t addr, int size)
{
	uint64_t val = 0;
	int chunk;

	if (space == VM_MMIO && vm_mem_load(vm, addr, &val, (uint64_t)size))
		return val;
	for (int done = 0; done < size; done += chunk) {
		struct vm_bus_apic apic;
		struct vm_bus_hit hit;
		uint64_t part, at = addr + (unsigned)done;

		chunk = vm_bus_step(vm, cpu, space, at, size - done, &apic, &hit);
		if (hit.range.ops != NULL)
			part = vm_bus_range_read(&hit.range, at - hit.range.base, chunk);
		else
			part = vm_bus_mask(chunk);
		val |= part << (8 * done);
	}
	return val;
}

void
vm_bus_write_as(struct vm *vm, int cpu, enum vm_space space, uint64_t addr, int size, uint64_t val)
{
	int chunk;

	if (space == VM_MMIO && vm_mem_write(vm, addr, &val, (uint64_t)size) == 0)
		return;
	if (vm_bus_doorbell_ring(vm->bus, space, addr, size, val))
		return;
	for (int done = 0; done < size; done += chunk) {
		struct vm_bus_apic apic;
		struct vm_bus_hit hit;
		uint64_t at = addr + (unsigned)done;

		chunk = vm_bus_step(vm, cpu, space, at, size - done, &apic, &hit);
		if (hit.range.ops == NULL)
			continue;
		vm_bus_range_write(&hit.range, at - hit.range.base, chunk, val >> (8 * done));
	}
}

uint64_t
vm_bus_read(struct vm *vm, enum vm_space space, uint64_t addr, int size)
{
	return vm_bus_read_as(vm, vm_vcpu_self(), space, addr, size);
}

void
vm_bus_write(struct vm *vm, enum vm_space space, uint64_t addr, int size, uint64_t val)
{
	vm_bus_write_as(vm, vm_vcpu_self(), space, addr, size, val);
}
