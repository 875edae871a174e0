/*
 * Guest-physical memory: regions, the map of code, and mail between vCPUs. See phys.h.
 */
#include "engine/bt/phys.h"

#include "engine/bt/block.h"
#include "engine/bt/mmu.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>

#define BT_MAIL_ITEMS 32

/* Requests to one vCPU. Whoever posts holds lock for a few stores only. */
struct bt_mail {
	atomic_flag lock;
	_Atomic uint32_t posted, done; /* requests so far */
	_Atomic bool inside; /* the vCPU may be touching guest memory */
	bool all_written, all_code, reset; /* more than the arrays hold; the physical map changed */
	int written_count, code_count;
	struct {
		uint64_t gpa, len;
	} written[BT_MAIL_ITEMS]; /* code was overwritten: forget blocks */
	uint64_t code[BT_MAIL_ITEMS]; /* pages that now hold code: no direct stores */
};

static void
bt_spin_lock(atomic_flag *lock)
{
	while (atomic_flag_test_and_set_explicit(lock, memory_order_acquire))
		sched_yield();
}

static void
bt_spin_unlock(atomic_flag *lock)
{
	atomic_flag_clear_explicit(lock, memory_order_release);
}

/* --- Mail --- */

int
bt_mail_create(struct bt_cpu *cpu)
{
	cpu->mail = calloc(1, sizeof(*cpu->mail));
	return cpu->mail != NULL ? 0 : -ENOMEM;
}

void
bt_mail_destroy(struct bt_cpu *cpu)
{
	free(cpu->mail);
	cpu->mail = NULL;
}

/* Ends a posting that began with bt_spin_lock(&m->lock). */
static uint32_t
bt_mail_send(struct bt_cpu *to)
{
	uint32_t seq = atomic_fetch_add(&to->mail->posted, 1) + 1;

	bt_spin_unlock(&to->mail->lock);
	bt_attn_set(to, BT_ATTN_FLUSH);
	return seq;
}

static void
bt_mail_written(struct bt_cpu *to, uint64_t gpa, uint64_t len)
{
	struct bt_mail *m = to->mail;
	int n;

	bt_spin_lock(&m->lock);
	n = m->written_count;
	if (n > 0 && m->written[n - 1].gpa + m->written[n - 1].len == gpa) {
		m->written[n - 1].len += len;
	} else if (n < BT_MAIL_ITEMS) {
		m->written[n].gpa = gpa;
		m->written[n].len = len;
		m->written_count++;
	} else {
		m->all_written = true;
	}
	bt_mail_send(to);
}

static uint32_t
bt_mail_code(struct bt_cpu *to, uint64_t gpa)
{
	struct bt_mail *m = to->mail;

	bt_spin_lock(&m->lock);
	if (m->code_count < BT_MAIL_ITEMS)
		m->code[m->code_count++] = gpa;
	else
		m->all_code = true;
	return bt_mail_send(to);
}

static void
bt_mail_reset(struct bt_cpu *to)
{
	bt_spin_lock(&to->mail->lock);
	to->mail->reset = true;
	bt_mail_send(to);
}

void
bt_mail_read(struct bt_cpu *cpu)
{
	struct bt_mail *m = cpu->mail;

	if (likely(atomic_load(&m->posted) == atomic_load(&m->done)))
		return;
	/* Nothing below blocks or posts mail, so the lock is held for a bounded time. */
	bt_spin_lock(&m->lock);
	if (m->reset || m->all_code)
		bt_tlb_flush_all(cpu);
	else
		for (int i = 0; i < m->code_count; i++)
			bt_tlb_no_stores(cpu, m->code[i]);
	if (m->reset || m->all_written)
		bt_block_flush(cpu);
	else
		for (int i = 0; i < m->written_count; i++)
			bt_block_invalidate(cpu, m->written[i].gpa, m->written[i].len);
	m->reset = m->all_code = m->all_written = false;
	m->code_count = m->written_count = 0;
	atomic_store(&m->done, atomic_load(&m->posted));
	bt_spin_unlock(&m->lock);
}

uint32_t
bt_mail_seen(const struct bt_cpu *cpu)
{
	return atomic_load_explicit(&cpu->mail->done, memory_order_relaxed);
}

void
bt_cpu_enter(struct bt_cpu *cpu)
{
	atomic_store(&cpu->mail->inside, true);
	bt_mail_read(cpu);
}

void
bt_cpu_leave(struct bt_cpu *cpu)
{
	atomic_store_explicit(&cpu->mail->inside, false, memory_order_release);
}

/* --- Code --- */

/* Waits until no other vCPU stores to the page at gpa past its code bits. */
static void
bt_mem_stop_stores(struct bt_cpu *cpu, uint64_t gpa)
{
	struct bt_vm *vm = cpu->vm;

	bt_tlb_no_stores(cpu, gpa);
	for (int i = 0; i < vm->vcpus; i++) {
		struct bt_cpu *to = vm->cpu[i];
		uint32_t seq;

		if (to == cpu || to == NULL)
			continue;
		seq = bt_mail_code(to, gpa);
		for (int spins = 0; atomic_load(&to->mail->inside) &&
		     (int32_t)(atomic_load(&to->mail->done) - seq) < 0; spins++) {
			/* The other may be waiting for us. */
			bt_mail_read(cpu);
			if (spins > 200)
				sched_yield();
			else
				__builtin_ia32_pause();
		}
	}
}

void
bt_mem_mark_code(struct bt_cpu *cpu, const struct bt_region *r, uint64_t gpa, uint64_t len)
{
	_Atomic uint64_t *code = bt_mem_code(r, gpa);
	uint64_t bits = bt_mem_granules(gpa, len);

	if ((atomic_load_explicit(code, memory_order_relaxed) & bits) == bits)
		return;
	if (atomic_fetch_or(code, bits) == 0)
		bt_mem_stop_stores(cpu, gpa & ~0xfffull);
}

void
bt_mem_code_hit(struct bt_cpu *cpu, const struct bt_region *r, uint64_t gpa, uint64_t len)
{
	uint64_t first = gpa & ~(uint64_t)(BT_GRANULE - 1);
	uint64_t size = ((gpa + len + BT_GRANULE - 1) & ~(uint64_t)(BT_GRANULE - 1)) - first;

	atomic_fetch_and(bt_mem_code(r, gpa), ~bt_mem_granules(gpa, len));
	for (int i = 0; i < cpu->vm->vcpus; i++)
		if (cpu->vm->cpu[i] != cpu && cpu->vm->cpu[i] != NULL)
			bt_mail_written(cpu->vm->cpu[i], first, size);
	bt_block_invalidate(cpu, first, size);
	bt_attn_set(cpu, BT_ATTN_FLUSH);
}

void
bt_mem_written(struct bt_vm *vm, uint64_t gpa, uint64_t len)
{
	atomic_thread_fence(memory_order_seq_cst);
	while (len > 0) {
		uint64_t n = MIN(len, 0x1000 - (gpa & 0xfff));
		const struct bt_region *r = bt_mem_find(vm->mem, gpa);

		if (r != NULL && *bt_mem_code(r, gpa) & bt_mem_granules(gpa, n)) {
			atomic_store(bt_mem_code(r, gpa), 0);
			for (int i = 0; i < vm->vcpus; i++)
				if (vm->cpu[i] != NULL)
					bt_mail_written(vm->cpu[i], gpa & ~0xfffull, 0x1000);
		}
		gpa += n;
		len -= n;
	}
}

/* --- Regions --- */

int
bt_mem_create(struct bt_vm *vm, int phys_bits)
{
	vm->mem = calloc(1, sizeof(*vm->mem));
	if (vm->mem == NULL)
		return -ENOMEM;
	vm->mem->phys_bits = phys_bits;
	return 0;
}

static void
bt_mem_region_free(struct bt_region *r)
{
	munmap((void *)r->code, (r->len >> 12) * sizeof(*r->code));
}

void
bt_mem_destroy(struct bt_vm *vm)
{
	if (vm->mem == NULL)
		return;
	for (int i = 0; i < vm->mem->count; i++)
		bt_mem_region_free(&vm->mem->region[i]);
	free(vm->mem);
	vm->mem = NULL;
}

static void
bt_mem_changed(struct bt_vm *vm)
{
	for (int i = 0; i < vm->vcpus; i++)
		if (vm->cpu[i] != NULL)
			bt_mail_reset(vm->cpu[i]);
}

int
bt_mem_map(struct bt_vm *vm, uint64_t gpa, void *host, uint64_t len, bool writable)
{
	struct bt_mem *mem = vm->mem;
	uint64_t top = 1ull << mem->phys_bits;
	void *code;

	if (((gpa | len | (uintptr_t)host) & 0xfff) || len == 0 || len > top || gpa > top - len)
		return -EINVAL;
	for (int i = 0; i < mem->count; i++)
		if (gpa < mem->region[i].gpa + mem->region[i].len && mem->region[i].gpa < gpa + len)
			return -EINVAL;
	if (mem->count == BT_REGIONS)
		return -ENOSPC;
	/* Not calloc(): the pages that are never decoded from must cost nothing. */
	code = mmap(NULL, (len >> 12) * sizeof(uint64_t), PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (code == MAP_FAILED)
		return -ENOMEM;
	(void)madvise(code, (len >> 12) * sizeof(uint64_t), MADV_NOHUGEPAGE);
	mem->region[mem->count++] = (struct bt_region){ .gpa = gpa, .len = len, .host = host,
		.writable = writable, .code = code };
	bt_mem_changed(vm);
	return 0;
}

int
bt_mem_unmap(struct bt_vm *vm, uint64_t gpa, uint64_t len)
{
	struct bt_mem *mem = vm->mem;

	for (int i = 0; i < mem->count; i++) {
		if (mem->region[i].gpa != gpa || mem->region[i].len != len)
			continue;
		bt_mem_region_free(&mem->region[i]);
		mem->region[i] = mem->region[--mem->count];
		bt_mem_changed(vm);
		return 0;
	}
	return -ENOENT;
}
