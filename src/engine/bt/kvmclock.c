/*
 * kvmclock: see kvmclock.h.
 */
#include "engine/bt/kvmclock.h"

#include "engine/bt/phys.h"
#include "engine/bt/tsc.h"
#include "engine/bt/vec.h"

#include <errno.h>
#include <time.h>

#define KVMCLOCK_ENABLE BIT(0) /* MSR_KVM_SYSTEM_TIME_NEW */
#define KVMCLOCK_RESERVED BIT(1)

#define KVMCLOCK_STABLE BIT(0) /* time.flags: vCPUs agree on the time */

/* What guests read (msr.rst). The first word is the version, odd while the rest changes. */
union bt_kvmclock_time {
	struct {
		uint32_t version, pad0;
		uint64_t tsc_timestamp, system_time;
		uint32_t tsc_to_system_mul;
		int8_t tsc_shift;
		uint8_t flags, pad[2];
	};
	uint32_t word[8];
};
static_assert(sizeof(union bt_kvmclock_time) == 32, "msr.rst, MSR_KVM_SYSTEM_TIME_NEW");

union bt_kvmclock_wall {
	struct {
		uint32_t version, sec, nsec;
	};
	uint32_t word[3];
};
static_assert(sizeof(union bt_kvmclock_wall) == 12, "msr.rst, MSR_KVM_WALL_CLOCK_NEW");

#define KVMCLOCK_SAME_NS 1000u /* by which a clock that was read and is set again may be off */

struct bt_kvmclock_scale
bt_kvmclock_scale(uint32_t khz)
{
	/* Nanoseconds a tick are num / den / 2^32 / 2^-shift; the quotient fills 32 bits. */
	uint64_t num = 1000000ull << 32, den = khz;
	struct bt_kvmclock_scale s = { 0 };

	while (num / den > UINT32_MAX) {
		den <<= 1;
		s.shift++;
	}
	while (num / den <= UINT32_MAX / 2) {
		num <<= 1;
		s.shift--;
	}
	s.mul = (uint32_t)(num / den);
	return s;
}

uint64_t
bt_kvmclock_ns(const struct bt_vm *vm, uint64_t tsc)
{
	struct bt_kvmclock_scale s = bt_kvmclock_scale(vm->tsc_khz);
	uint64_t ticks = tsc - atomic_load(&vm->clock_tsc);

	ticks = s.shift >= 0 ? ticks << s.shift : ticks >> -s.shift;
	return (uint64_t)((unsigned __int128)ticks * s.mul >> 32);
}

/* The ticks in which the clock counts ns. */
static uint64_t
bt_kvmclock_ticks(const struct bt_vm *vm, uint64_t ns)
{
	struct bt_kvmclock_scale s = bt_kvmclock_scale(vm->tsc_khz);
	uint64_t ticks = (uint64_t)(((unsigned __int128)ns << 32) / s.mul);

	return s.shift >= 0 ? ticks >> s.shift : ticks << -s.shift;
}

/* Writes a structure to guest memory as the protocol of version wants it. Other vCPUs may be
 * reading. */
static void
bt_kvmclock_store(struct bt_cpu *cpu, uint64_t gpa, const uint32_t *word, uint64_t words)
{
	const struct bt_region *r = bt_mem_find(cpu->vm->mem, gpa);
	uint64_t len = words * sizeof(*word), first = MIN(len, 0x1000 - (gpa & 0xfff));
	_Atomic uint32_t *p;
	uint32_t version;

	if (r == NULL || !r->writable || r->len - (gpa - r->gpa) < len)
		return;
	p = (_Atomic uint32_t *)(void *)(r->host + (gpa - r->gpa));
	version = (atomic_load(&p[0]) + 1) | 1;
	atomic_store(&p[0], version);
	for (uint64_t i = 1; i < words; i++)
		atomic_store_explicit(&p[i], word[i], memory_order_release);
	atomic_store(&p[0], version + 1);
	bt_mem_wrote(cpu, r, gpa, first);
	if (first < len)
		bt_mem_wrote(cpu, r, gpa + first, len - first);
}

int
bt_kvmclock_wall_write(struct bt_cpu *cpu, uint64_t val)
{
	union bt_kvmclock_wall wall = { 0 };
	struct timespec ts;
	uint64_t ns;

	if (val & (KVMCLOCK_ENABLE | KVMCLOCK_RESERVED))
		return -EINVAL;
	cpu->kvm_wall_clock = val;
	bt_fpu_park(cpu);
	clock_gettime(CLOCK_REALTIME, &ts);
	ns = (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec -
	    bt_kvmclock_ns(cpu->vm, bt_host_tsc() + atomic_load(&cpu->vm->tsc_offset));
	wall.sec = (uint32_t)(ns / 1000000000u);
	wall.nsec = (uint32_t)(ns % 1000000000u);
	bt_kvmclock_store(cpu, val, wall.word, ARRAY_SIZE(wall.word));
	return 0;
}

int
bt_kvmclock_system_write(struct bt_cpu *cpu, uint64_t val)
{
	if (val & KVMCLOCK_RESERVED)
		return -EINVAL;
	cpu->kvm_system_time = val;
	bt_kvmclock_update(cpu);
	return 0;
}

void
bt_kvmclock_update(struct bt_cpu *cpu)
{
	const struct bt_vm *vm = cpu->vm;
	uint64_t skew = cpu->tsc_offset - atomic_load(&vm->tsc_offset);
	struct bt_kvmclock_scale s;
	union bt_kvmclock_time t;

	cpu->kvmclock_stale = 0;
	if (!(cpu->kvm_system_time & KVMCLOCK_ENABLE) || vm->tsc_khz == 0)
		return;
	s = bt_kvmclock_scale(vm->tsc_khz);
	t = (union bt_kvmclock_time){
		.tsc_timestamp = atomic_load(&vm->clock_tsc) + skew,
		.tsc_to_system_mul = s.mul,
		.tsc_shift = s.shift,
		.flags = skew == 0 ? KVMCLOCK_STABLE : 0,
	};
	bt_kvmclock_store(cpu, cpu->kvm_system_time & ~(uint64_t)KVMCLOCK_ENABLE, t.word,
	    ARRAY_SIZE(t.word));
}

void
bt_kvmclock_get(const struct bt_cpu *cpu, struct x86_state *out)
{
	const struct bt_vm *vm = cpu->vm;

	out->kvm_system_time = cpu->kvm_system_time;
	out->kvm_wall_clock = cpu->kvm_wall_clock;
	if (vm->tsc_khz != 0)
		out->kvm_clock_ns = bt_kvmclock_ns(vm,
		    out->tsc - cpu->tsc_offset + atomic_load(&vm->tsc_offset));
}

/* The bootstrap processor's state sets the clock of all, as it does their common TSC before. The
 * clock is always described from its 0 on: guests cannot count from a point that is still to come. */
void
bt_kvmclock_set(struct bt_cpu *cpu, const struct x86_state *in)
{
	struct bt_vm *vm = cpu->vm;
	uint64_t diff;

	cpu->kvm_system_time = in->kvm_system_time;
	cpu->kvm_wall_clock = in->kvm_wall_clock;
	cpu->kvmclock_stale = 1;
	if (cpu->id != 0 || vm->tsc_khz == 0)
		return;
	diff = in->kvm_clock_ns - bt_kvmclock_ns(vm, in->tsc);
	if (diff + KVMCLOCK_SAME_NS > 2 * (uint64_t)KVMCLOCK_SAME_NS)
		atomic_store(&vm->clock_tsc,
		    in->tsc - bt_kvmclock_ticks(vm, in->kvm_clock_ns));
}
