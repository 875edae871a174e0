/*
 * Thunks: native code for one vector or x87 instruction each, made when the instruction is lowered
 * and kept for the life of the VM, once for every distinct re-encoding.
 *
 * Code memory is one memfd mapped twice, writable and executable. It begins with helpers that move
 * vector registers to and from memory, then come the thunks, then a slot for each vCPU, in which
 * thunks are made anew for every execution once there is no more room (a guest can think up more
 * encodings than anyone wants to keep).
 *
 * What a thunk raises (SIGFPE) ends the instruction like any fault. A new thunk is tried first, on
 * registers in their initial state and zeroed memory: what the host does not know it says by
 * SIGILL.
 */
#include "engine/bt/vec_impl.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#ifndef MFD_EXEC
#define MFD_EXEC 0x10u
#endif

#define BT_THUNKS      32768u
#define BT_THUNK_HEADS 4096u
#define BT_THUNK_NONE  UINT32_MAX

struct bt_thunk {
	uint8_t code[19];
	uint8_t known; /* the host knows the instruction */
	uint32_t next; /* in the chain of its hash, or BT_THUNK_NONE */
	int64_t key;   /* union bt_code */
};
static_assert(sizeof(struct bt_thunk) == 32, "two thunks per cache line");

/* Helpers, BT_HELPER_SIZE bytes each. */
#define BT_HELPER_SIZE 8
enum bt_helper {
	BT_HELPER_GET = 0, /* vector register n to [rdi] */
	BT_HELPER_PUT = 32,
	BT_HELPER_GET_MASK = 64, /* opmask n to rax */
	BT_HELPER_PUT_MASK = 72, /* rdi to opmask n */
	BT_HELPER_WAIT = 80,
	BT_HELPERS = 81,
};

struct bt_thunks {
	uint8_t *rw; /* the memory, to be written */
	uint8_t *rx; /* the same, to be executed */
	size_t size;
	uint32_t first, slots; /* where thunks and the vCPUs' slots begin, in thunks */
	bool has_avx, has_avx512, has_opmask64; /* the host */

	atomic_flag lock; /* guards the rest and the writing of thunks */
	uint32_t used;
	uint32_t heads[BT_THUNK_HEADS];
};

const char bt_thunk_full[1];

/* Signal handlers have nothing but file scope to look at. The old actions are written once, before
 * any vCPU runs. */
static _Thread_local struct bt_cpu *bt_thunk_cpu;
static struct sigaction bt_thunk_old_fpe, bt_thunk_old_ill;

void
bt_thunk_current(struct bt_cpu *cpu)
{
	bt_thunk_cpu = cpu;
}

/* --- Signals --- */

/* Where a thread continues after a thunk raised something, as if called from there. */
static _Noreturn void
bt_thunk_fault(struct bt_cpu *cpu, enum x86_vector vector)
{
	if (vector == X86_XM && !(cpu->cr4 & X86_CR4_OSXMMEXCPT))
		vector = X86_UD;
	/* With CR0.NE clear the processor would assert FERR#, which PCs wire to IRQ 13. Systems
	 * that still count on that take #MF as well, and have for long. */
	bt_raise(cpu, vector);
}

/* Not a thunk's signal: whoever had it before gets it. */
static void
bt_thunk_pass_on(int sig, siginfo_t *info, void *context)
{
	const struct sigaction *old = sig == SIGFPE ? &bt_thunk_old_fpe : &bt_thunk_old_ill;

	if (old->sa_flags & SA_SIGINFO)
		old->sa_sigaction(sig, info, context);
	else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN)
		old->sa_handler(sig);
	else
		signal(sig, SIG_DFL); /* and it happens again */
}

/* Vector state may be the guest's when this runs; the kernel has saved it and puts it back. */
static void
bt_thunk_signal(int sig, siginfo_t *info, void *context)
{
	struct bt_cpu *cpu = bt_thunk_cpu;
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;

	if (cpu == NULL ||
	    (uint64_t)r[REG_RIP] - (uintptr_t)cpu->vm->thunks->rx >= cpu->vm->thunks->size) {
		bt_thunk_pass_on(sig, info, context);
		return;
	}
	if (cpu->fpu->probing) {
		/* Nothing was pushed: the return address is on top of the stack. */
		cpu->fpu->probe_failed = true;
		r[REG_RIP] = *(greg_t *)r[REG_RSP];
		r[REG_RSP] += 8;
		return;
	}
	r[REG_RIP] = (greg_t)(uintptr_t)bt_thunk_fault;
	r[REG_RDI] = (greg_t)(uintptr_t)cpu;
	r[REG_RSI] = sig == SIGFPE ? r[REG_TRAPNO] : X86_UD;
	r[REG_RSP] = ((r[REG_RSP] - 128) & ~15ll) - 8;
}

static int
bt_thunk_catch(int sig, struct sigaction *old)
{
	struct sigaction sa = { .sa_sigaction = bt_thunk_signal, .sa_flags = SA_SIGINFO };
	struct sigaction was;

	sigemptyset(&sa.sa_mask);
	if (sigaction(sig, &sa, &was) != 0)
		return -errno;
	if (!(was.sa_flags & SA_SIGINFO) || was.sa_sigaction != bt_thunk_signal)
		*old = was;
	return 0;
}

/* --- Code --- */

/* Code made with general registers only: after it returns, instructions at rx are the ones just
 * written there through rw. Another linear address was written, so only a serialising instruction
 * will do (SDM 3, 11.6); IRET is the one that user mode may execute everywhere. */
static void
bt_thunk_serialize(void)
{
	uint64_t tmp;

	__asm__ volatile("leaq -128(%%rsp), %%rsp\n\t"
			 "movq %%rsp, %0\n\t"
			 "pushq %%rax\n\t" /* SS, filled in below */
			 "pushq %0\n\t"
			 "pushfq\n\t"
			 "pushq %%rax\n\t" /* CS */
			 "movl %%ss, %%eax\n\t"
			 "movq %%rax, 24(%%rsp)\n\t"
			 "movl %%cs, %%eax\n\t"
			 "movq %%rax, (%%rsp)\n\t"
			 "leaq 1f(%%rip), %%rax\n\t"
			 "pushq %%rax\n\t"
			 "iretq\n"
			 "1:\n\t"
			 "leaq 128(%%rsp), %%rsp"
			 : "=&r"(tmp)
			 :
			 : "rax", "cc", "memory");
}

static uint8_t *
bt_thunk_emit(uint8_t *p, const void *bytes, size_t n)
{
	bt_copy(p, bytes, n);
	return p + n;
}
#define EMIT(p, ...)                                                                               \
	bt_thunk_emit(p, (const uint8_t[]){ __VA_ARGS__ }, sizeof((uint8_t[]){ __VA_ARGS__ }))

#define MOV_EAX_ESI 0x89, 0xf0
#define MOV_RAX_RSI 0x48, 0x89, 0xf0
#define MOV_EDX_ECX 0x89, 0xca
/* OF = AL, which is 0 or 1; the other flags = AH. */
#define LOAD_FLAGS  0x04, 0x7f, 0x9e       /* add $0x7f, %al; sahf */
#define SAVE_FLAGS  0x9f, 0x0f, 0x90, 0xc0 /* lahf; seto %al */
#define RET         0xc3

/* Writes the code of a thunk, at most 19 bytes. */
static void
bt_thunk_write(uint8_t *p, const union bt_code *c)
{
	if (c->shape == BT_THUNK_PCMPSTR)
		p = EMIT(p, MOV_RAX_RSI);
	else if (c->shape == BT_THUNK_FLAGS_INOUT)
		p = EMIT(p, MOV_EAX_ESI, LOAD_FLAGS);
	p = bt_thunk_emit(p, c->bytes, c->len);
	if (c->shape != BT_THUNK_PLAIN)
		p = EMIT(p, SAVE_FLAGS);
	if (c->shape == BT_THUNK_PCMPSTR)
		p = EMIT(p, MOV_EDX_ECX);
	*p = RET;
}

/* Runs new code once on scratch state. True: the host knows the instruction. */
static bool
bt_thunk_probe(struct bt_cpu *cpu, const void *code)
{
	struct bt_fpu *fpu = cpu->fpu;

	bt_fpu_park(cpu);
	bt_fpu_blank(fpu);
	bt_zero(fpu->bounce, sizeof(fpu->bounce));
	bt_thunk_current(cpu);
	fpu->probe_failed = false;
	fpu->probing = true;
	atomic_signal_fence(memory_order_seq_cst);
	((bt_thunk_fn *)(uintptr_t)code)(fpu->bounce, 0, 0);
	atomic_signal_fence(memory_order_seq_cst);
	fpu->probing = false;
	bt_fpu_host(fpu);
	return !fpu->probe_failed;
}

/* --- The cache --- */

static uint32_t
bt_thunk_hash(int64_t key)
{
	return (uint32_t)(((uint64_t)key * 0x9e3779b97f4a7c15ull) >> 52) % BT_THUNK_HEADS;
}

static const void *
bt_thunk_code(const struct bt_thunks *t, uint32_t i)
{
	return t->rx + (size_t)i * sizeof(struct bt_thunk);
}

const void *
bt_thunk_slot(struct bt_cpu *cpu, int64_t key)
{
	struct bt_thunks *t = cpu->vm->thunks;
	uint32_t i = t->slots + (uint32_t)cpu->id;
	const union bt_code c = { .key = key };

	bt_thunk_write(((struct bt_thunk *)t->rw)[i].code, &c);
	bt_thunk_serialize();
	return bt_thunk_code(t, i);
}

/* Makes a thunk; the lock is held. */
static const void *
bt_thunk_make(struct bt_cpu *cpu, const union bt_code *c, uint32_t *head)
{
	struct bt_thunks *t = cpu->vm->thunks;
	struct bt_thunk *all = (struct bt_thunk *)t->rw, *th;
	uint32_t i = t->used;

	if (i == t->slots)
		return bt_thunk_probe(cpu, bt_thunk_slot(cpu, c->key)) ? bt_thunk_full : NULL;
	th = &all[i];
	bt_thunk_write(th->code, c);
	/* Nothing was ever executed here, but a neighbour in the same line may have been. */
	bt_thunk_serialize();
	th->known = bt_thunk_probe(cpu, bt_thunk_code(t, i));
	th->key = c->key;
	th->next = *head;
	*head = i;
	t->used++;
	return th->known ? bt_thunk_code(t, i) : NULL;
}

const void *
bt_thunk_get(struct bt_cpu *cpu, const union bt_code *c)
{
	struct bt_thunks *t = cpu->vm->thunks;
	const struct bt_thunk *all = (const struct bt_thunk *)t->rw;
	uint32_t *head = &t->heads[bt_thunk_hash(c->key)];
	const void *code;
	uint32_t i;

	while (atomic_flag_test_and_set_explicit(&t->lock, memory_order_acquire))
		sched_yield();
	for (i = *head; i != BT_THUNK_NONE && all[i].key != c->key;)
		i = all[i].next;
	if (i == BT_THUNK_NONE)
		code = bt_thunk_make(cpu, c, head);
	else
		code = all[i].known ? bt_thunk_code(t, i) : NULL;
	atomic_flag_clear_explicit(&t->lock, memory_order_release);
	return code;
}

/* --- Registers --- */

static uintptr_t
bt_helper(struct bt_cpu *cpu, enum bt_helper helper, unsigned n)
{
	return (uintptr_t)cpu->vm->thunks->rx + (helper + n) * BT_HELPER_SIZE;
}

void
bt_vec_get(struct bt_cpu *cpu, unsigned n, void *buf)
{
	((void (*)(void *))bt_helper(cpu, BT_HELPER_GET, n))(buf);
}

void
bt_vec_put(struct bt_cpu *cpu, unsigned n, const void *buf)
{
	((void (*)(const void *))bt_helper(cpu, BT_HELPER_PUT, n))(buf);
}

uint64_t
bt_vec_get_mask(struct bt_cpu *cpu, unsigned n)
{
	return ((uint64_t(*)(void))bt_helper(cpu, BT_HELPER_GET_MASK, n))();
}

void
bt_vec_put_mask(struct bt_cpu *cpu, unsigned n, uint64_t val)
{
	((void (*)(uint64_t))bt_helper(cpu, BT_HELPER_PUT_MASK, n))(val);
}

void
bt_vec_wait(struct bt_cpu *cpu)
{
	((void (*)(void))bt_helper(cpu, BT_HELPER_WAIT, 0))();
}

/* Moves between vector register n and [rdi], as wide as the host has them. */
static void
bt_helper_write_vector(const struct bt_thunks *t, uint8_t *p, uint8_t n, bool put)
{
	uint8_t modrm = (uint8_t)((n & 7) << 3 | BT_THUNK_MEM), opcode = put ? 0x10 : 0x11;

	if (t->has_avx512) /* VMOVUPS */
		p = EMIT(p, 0x62, (uint8_t)(0x61 | (n & 8 ? 0 : 0x80) | (n & 16 ? 0 : 0x10)), 0x7c,
		    0x48, opcode, modrm);
	else if (t->has_avx)
		p = EMIT(p, 0xc5, n & 8 ? 0x7c : 0xfc, opcode, modrm);
	else
		p = EMIT(p, n & 8 ? 0x44 : 0x40, 0x0f, opcode, modrm);
	*p = RET;
}

static void
bt_helpers_write(struct bt_thunks *t)
{
	const uint8_t kmov_p = t->has_opmask64 ? 0xfb : 0x78; /* KMOVQ or KMOVW */

	for (uint8_t n = 0; n < 32; n++) {
		bt_helper_write_vector(t, t->rw + (BT_HELPER_GET + n) * BT_HELPER_SIZE, n, false);
		bt_helper_write_vector(t, t->rw + (BT_HELPER_PUT + n) * BT_HELPER_SIZE, n, true);
	}
	for (uint8_t n = 0; n < 8; n++) {
		uint8_t *get = t->rw + (BT_HELPER_GET_MASK + n) * BT_HELPER_SIZE;
		uint8_t *put = t->rw + (BT_HELPER_PUT_MASK + n) * BT_HELPER_SIZE;

		EMIT(get, 0xc4, 0xe1, kmov_p, 0x93, (uint8_t)(0xc0 | n), RET);
		EMIT(put, 0xc4, 0xe1, kmov_p, 0x92, (uint8_t)(0xc7 | n << 3), RET);
	}
	EMIT(t->rw + BT_HELPER_WAIT * BT_HELPER_SIZE, 0x9b, RET);
}

/* --- Life --- */

static int
bt_thunks_map(struct bt_thunks *t)
{
	int fd = memfd_create("bt-thunks", MFD_CLOEXEC | MFD_EXEC);
	int err = 0;

	if (fd < 0 && errno == EINVAL) /* Linux before 6.3 */
		fd = memfd_create("bt-thunks", MFD_CLOEXEC);
	if (fd < 0)
		return -errno;
	if (ftruncate(fd, (off_t)t->size) != 0) {
		err = -errno;
		goto close_fd;
	}
	t->rw = mmap(NULL, t->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	t->rx = mmap(NULL, t->size, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	if (t->rw == MAP_FAILED || t->rx == MAP_FAILED)
		err = -errno;
close_fd:
	close(fd);
	return err;
}

int
bt_thunks_create(struct bt_vm *vm)
{
	struct bt_thunks *t = calloc(1, sizeof(*t));
	struct x86_cpuid_regs leaf;
	uint64_t host = bt_fpu_host_mask();
	int err;

	if (t == NULL)
		return -ENOMEM;
	vm->thunks = t;
	t->rw = t->rx = MAP_FAILED;
	t->first = BT_HELPERS * BT_HELPER_SIZE / sizeof(struct bt_thunk) + 1;
	t->used = t->first;
	t->slots = BT_THUNKS;
	t->size = (BT_THUNKS + (size_t)vm->vcpus) * sizeof(struct bt_thunk);
	atomic_flag_clear(&t->lock);
	memset(t->heads, 0xff, sizeof(t->heads));

	x86_cpuid_host(NULL, 7, 0, &leaf);
	t->has_avx = host & X86_XCR0_AVX;
	t->has_avx512 = host & X86_XCR0_ZMM_HI256;
	t->has_opmask64 = t->has_avx512 && (leaf.ebx & BIT(30)); /* AVX512BW */

	err = bt_thunks_map(t);
	if (err == 0) {
		bt_helpers_write(t);
		err = bt_thunk_catch(SIGFPE, &bt_thunk_old_fpe);
	}
	if (err == 0)
		err = bt_thunk_catch(SIGILL, &bt_thunk_old_ill);
	if (err != 0)
		bt_thunks_destroy(vm);
	return err;
}

void
bt_thunks_destroy(struct bt_vm *vm)
{
	struct bt_thunks *t = vm->thunks;

	if (t == NULL)
		return;
	if (t->rw != MAP_FAILED)
		munmap(t->rw, t->size);
	if (t->rx != MAP_FAILED)
		munmap(t->rx, t->size);
	free(t);
	vm->thunks = NULL;
}
