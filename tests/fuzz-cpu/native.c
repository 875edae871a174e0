/*
 * Cases on the processor itself.
 *
 * The child process lives in one signal handler: each case ends in an exception, which the kernel turns
 * into a signal with the whole register state in its frame. The handler keeps that as the result, writes
 * the next case's state into the same frame, and returns into it.
 *
 * A seccomp filter turns any system call made from the code page into a signal as well.
 */
#include "fuzz_cpu.h"

#include <asm/prctl.h>
#include <err.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

struct fuzz_shared {
	sem_t start, done;
	int count; /* cases in the batch; -1: end */
};

struct fuzz_native {
	struct fuzz_shared *shared;
	struct fuzz_case *cases;
	struct fuzz_result *results;
	int batch;
	pid_t pid;
};

/* Of the child: what its signal handler works on. */
static struct {
	struct fuzz_native *n;
	struct fuzz_host host;
	int next;
	bool running;
	uint8_t *code; /* a writable view of the code pages */
	/* Where to go when the batch is done. */
	gregset_t home_regs;
	uint8_t home_fp[FUZZ_XSAVE];
} child;

static const int greg_of[X86_GPR_COUNT] = { REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
	REG_RSI, REG_RDI, REG_R8, REG_R9, REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15 };

/* The kernel's frame: the standard XSAVE format, its own marks in the reserved bytes at 464. */
static void
fuzz_frame_save(const ucontext_t *uc, struct fuzz_result *r)
{
	const greg_t *g = uc->uc_mcontext.gregs;

	for (int i = 0; i < X86_GPR_COUNT; i++)
		r->gpr[i] = (uint64_t)g[greg_of[i]];
	r->rip = (uint64_t)g[REG_RIP];
	r->rflags = (uint64_t)g[REG_EFL];
	r->vector = (int)g[REG_TRAPNO];
	r->error = (uint32_t)g[REG_ERR];
	r->cr2 = (uint64_t)g[REG_CR2];
	memcpy(r->xsave, uc->uc_mcontext.fpregs, child.host.xsave_size);
	memset(r->xsave + 464, 0, 48);
	memcpy(r->data, (void *)(uintptr_t)FUZZ_DATA, FUZZ_DATA_HOLE * 0x1000);
	memcpy(r->data + (FUZZ_DATA_HOLE + 1) * 0x1000,
	    (void *)(uintptr_t)(FUZZ_DATA + (FUZZ_DATA_HOLE + 1) * 0x1000), 0x1000);
}

static void
fuzz_frame_load(ucontext_t *uc, const struct fuzz_case *c)
{
	greg_t *g = uc->uc_mcontext.gregs;
	uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs, marks[48];
	uint64_t segs = (uint64_t)g[REG_CSGSFS];
	const uint8_t *pool = fuzz_pool() + c->pool;

	for (int i = 0; i < X86_GPR_COUNT; i++)
		g[greg_of[i]] = (greg_t)c->gpr[i];
	g[REG_RIP] = c->entry;
	g[REG_EFL] = (greg_t)c->rflags;
	segs = (segs & ~0xffffull) | (c->mode == 8 ? FUZZ_CS64 : FUZZ_CS32);
	segs = (segs & ~(0xffffull << 48)) | (uint64_t)FUZZ_SS << 48;
	g[REG_CSGSFS] = (greg_t)segs;
	memcpy(marks, fp + 464, sizeof(marks));
	memcpy(fp, c->xsave, child.host.xsave_size);
	memcpy(fp + 464, marks, sizeof(marks));
	memcpy(child.code + (c->entry - FUZZ_CODE), c->code, sizeof(c->code));
	memcpy((void *)(uintptr_t)FUZZ_DATA, pool, FUZZ_DATA_RO * 0x1000);
	memcpy((void *)(uintptr_t)(FUZZ_DATA + (FUZZ_DATA_HOLE + 1) * 0x1000),
	    pool + (FUZZ_DATA_HOLE + 1) * 0x1000, 0x1000);
}

static void
fuzz_on_signal(int sig, siginfo_t *info, void *ctx)
{
	ucontext_t *uc = ctx;
	uint8_t *fp = (uint8_t *)uc->uc_mcontext.fpregs;

	/* The kernel lets the case's AC, NT and ID through: libc's copies are not aligned, and what is set
	 * here when the handler returns is set in the next case. */
	__asm__ volatile("pushfq; andl $0xffdbbfff, (%%rsp); popfq" : : : "memory", "cc");

	if (child.running) {
		struct fuzz_result *r = &child.n->results[child.next];

		fuzz_frame_save(uc, r);
		r->skipped = sig == SIGSYS;
		child.next++;
	} else {
		memcpy(child.home_regs, uc->uc_mcontext.gregs, sizeof(child.home_regs));
		memcpy(child.home_fp, fp, child.host.xsave_size);
	}
	child.running = child.next < child.n->shared->count;
	if (child.running) {
		fuzz_frame_load(uc, &child.n->cases[child.next]);
	} else {
		memcpy(uc->uc_mcontext.gregs, child.home_regs, sizeof(child.home_regs));
		memcpy(fp, child.home_fp, child.host.xsave_size);
	}
}

static void
fuzz_child_filter(void)
{
	/* seccomp_data: nr, arch, instruction_pointer (low, high), args. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 12),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 8),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, FUZZ_DATA, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0)
		err(1, "seccomp");
}

static void *
fuzz_child_mmap(uint32_t addr, size_t size, int prot, int fd)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	void *p;

	if (addr != 0)
		flags |= MAP_FIXED_NOREPLACE;
	p = mmap((void *)(uintptr_t)addr, size, prot, flags | MAP_POPULATE, fd, 0);
	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

static void
fuzz_child_map(void)
{
	int fd = memfd_create("code", MFD_CLOEXEC);
	uint8_t *ro;

	if (fd < 0 || ftruncate(fd, FUZZ_CODE_SIZE) != 0)
		err(1, "memfd");
	child.code = fuzz_child_mmap(0, FUZZ_CODE_SIZE, PROT_READ | PROT_WRITE, fd);
	memset(child.code, 0xcc, FUZZ_CODE_SIZE);
	fuzz_child_mmap(FUZZ_CODE, FUZZ_CODE_SIZE, PROT_READ | PROT_EXEC, fd);
	fuzz_child_mmap(FUZZ_DATA, FUZZ_DATA_HOLE * 0x1000, PROT_READ | PROT_WRITE, -1);
	fuzz_child_mmap(FUZZ_DATA + (FUZZ_DATA_HOLE + 1) * 0x1000, 0x1000,
	    PROT_READ | PROT_WRITE, -1);
	ro = (uint8_t *)(uintptr_t)(FUZZ_DATA + FUZZ_DATA_RO * 0x1000);
	memcpy(ro, fuzz_pool(), 0x1000);
	if (mprotect(ro, 0x1000, PROT_READ) != 0)
		err(1, "mprotect");
}

static void
fuzz_child_signals(void)
{
	static const int sigs[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGSYS };
	struct sigaction sa = { .sa_sigaction = fuzz_on_signal,
		.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	stack_t ss = { .ss_size = 65536, .ss_sp = malloc(65536) };

	if (ss.ss_sp == NULL || sigaltstack(&ss, NULL) != 0)
		err(1, "sigaltstack");
	for (size_t i = 0; i < ARRAY_SIZE(sigs); i++)
		sigaction(sigs[i], &sa, NULL);
}

static _Noreturn void
fuzz_child_run(struct fuzz_native *n, const struct fuzz_host *h)
{
	child.n = n;
	child.host = *h;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fuzz_child_map();
	fuzz_child_signals();
	/* The kernel leaves DS and ES of a 64-bit process alone; 32-bit code needs them. GS has a base for
	 * overrides; FS is libc's. */
	__asm__ volatile("mov %0, %%ds; mov %0, %%es" : : "r"(FUZZ_SS));
	syscall(SYS_arch_prctl, ARCH_SET_GS, FUZZ_DATA + 0x800ul);
	fuzz_child_filter();
	for (;;) {
		sem_wait(&n->shared->start);
		if (n->shared->count < 0)
			_exit(0);
		child.next = 0;
		child.running = false;
		/* Runs the batch: the handler comes back behind this when the last case has ended. */
		__asm__ volatile("int3" : : : "memory");
		sem_post(&n->shared->done);
	}
}

static void *
fuzz_share(size_t size)
{
	void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		err(1, "mmap");
	return p;
}

struct fuzz_native *
fuzz_native_create(const struct fuzz_host *h, int batch, struct fuzz_case **cases,
    struct fuzz_result **results)
{
	struct fuzz_native *n = calloc(1, sizeof(*n));

	if (n == NULL)
		err(1, NULL);
	n->batch = batch;
	n->shared = fuzz_share(sizeof(*n->shared));
	*cases = n->cases = fuzz_share((size_t)batch * sizeof(struct fuzz_case));
	*results = n->results = fuzz_share((size_t)batch * sizeof(struct fuzz_result));
	sem_init(&n->shared->start, 1, 0);
	sem_init(&n->shared->done, 1, 0);
	n->pid = fork();
	if (n->pid < 0)
		err(1, "fork");
	if (n->pid == 0)
		fuzz_child_run(n, h);
	return n;
}

void
fuzz_native_start(struct fuzz_native *n, int count)
{
	n->shared->count = count;
	sem_post(&n->shared->start);
}

void
fuzz_native_wait(struct fuzz_native *n)
{
	struct timespec until;
	int status;

	/* The child only ever stops early if a case broke it: look now and then whether it lives. */
	for (;;) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec += 2;
		if (sem_timedwait(&n->shared->done, &until) == 0)
			return;
		if (waitpid(n->pid, &status, WNOHANG) == n->pid)
			errx(1, "the native child ended with status %#x", (unsigned)status);
	}
}

void
fuzz_native_destroy(struct fuzz_native *n)
{
	fuzz_native_start(n, -1);
	waitpid(n->pid, NULL, 0);
	free(n);
}
