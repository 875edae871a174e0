/*
 * The one contract between the machine (vm/) and whatever executes guest instructions.
 *
 * An engine knows guest-physical memory, vCPUs and nothing else. What it meets on the way (ports,
 * MMIO, APIC registers, interrupt acknowledge) it asks of the machine through struct engine_machine,
 * synchronously, on the vCPU's own thread. It returns from vcpu_run() only for what the machine's
 * vCPU loop has to decide.
 *
 *	vm/                                     engine/kvm, engine/bt
 *	 vcpu_run() ------------------------->  executes guest instructions
 *	     <--- machine->pio_write() -------  OUT
 *	     <--- machine->intr_ack() --------  takes an interrupt
 *	 <-- ENGINE_EXIT_HALT --------------    HLT
 *	 vcpu_kick() from any thread -------->  looks again at what is pending
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include "x86/cpuid.h"
#include "x86/state.h"

/*
 * What an engine asks of the machine. Every function is non-NULL, is called on the vCPU's thread
 * (cpu is its index) and may take locks and sleep briefly; the engine holds no lock when it calls.
 * Sizes are 1, 2 or 4 bytes for ports, 1 to 8 for MMIO; an access never crosses a page. Nothing
 * answers: reads are all ones, writes vanish.
 */
struct engine_machine {
	uint32_t (*pio_read)(void *ctx, int cpu, uint16_t port, int size);
	void (*pio_write)(void *ctx, int cpu, uint16_t port, int size, uint32_t val);
	uint64_t (*mmio_read)(void *ctx, int cpu, uint64_t gpa, int size);
	void (*mmio_write)(void *ctx, int cpu, uint64_t gpa, int size, uint64_t val);

	/* Only for engines without a local APIC of their own: */

	/* The vector of the highest-priority interrupt deliverable now (APIC above TPR, else the
	 * 8259 through LINT0), or -1. Changes nothing. */
	int (*intr_pending)(void *ctx, int cpu);
	/* Acknowledges it: moves it into service and returns its vector; -1 if it went away. */
	int (*intr_ack)(void *ctx, int cpu);
	/* IA32_APIC_BASE, TSC_DEADLINE and x2APIC MSRs. 0, or -EINVAL for #GP(0). */
	int (*apic_msr_read)(void *ctx, int cpu, uint32_t msr, uint64_t *val);
	int (*apic_msr_write)(void *ctx, int cpu, uint32_t msr, uint64_t val);
	/* CR8, the APIC's task priority class: 0 to 15. */
	uint8_t (*cr8_read)(void *ctx, int cpu);
	void (*cr8_write)(void *ctx, int cpu, uint8_t val);

	/* Only for engines with a local APIC of their own, which call intr_pending and intr_ack for
	 * the 8259's interrupts: the EOI of a level-triggered interrupt that irq_route() told of. */
	void (*eoi)(void *ctx, int cpu, uint8_t vector);
};

/* Why vcpu_run() came back. */
enum engine_exit_reason {
	ENGINE_EXIT_KICK, /* vcpu_kick() was called; run again when there is nothing to do */
	ENGINE_EXIT_HALT, /* halted and nothing deliverable is pending; intr_enabled tells IF */
	ENGINE_EXIT_SHUTDOWN, /* triple fault */
	ENGINE_EXIT_DEBUG, /* a breakpoint the host asked for */
	ENGINE_EXIT_ERROR, /* the engine cannot go on; text and bytes say why */
};

struct engine_exit {
	enum engine_exit_reason reason;
	bool intr_enabled; /* ENGINE_EXIT_HALT: RFLAGS.IF */
	char text[160]; /* ENGINE_EXIT_ERROR: one line for the user */
	uint8_t insn[15]; /* the instruction's bytes, insn_len of them */
	uint8_t insn_len;
};

/* What probe() finds. */
struct engine_probe {
	bool usable;
	bool hardware; /* guest code runs on the processor itself */
	char why[160]; /* one line: what it found, or what is missing and what to do about it */
};

struct engine_vm_params {
	int vcpus;
	const struct engine_machine *machine;
	void *ctx; /* for every function of machine */
	struct x86_topology topo;
	const struct config *config; /* the root, for the engine's own variables (bt.*, kvm.*) */
};

struct engine_vm;
struct engine_vcpu;

#define ENGINE_MEM_READ BIT(0)
#define ENGINE_MEM_WRITE BIT(1) /* absent: a ROM; guest writes go to machine->mmio_write */
#define ENGINE_MEM_EXEC BIT(2)

/*
 * An engine. Functions may be NULL only where said. "Main thread" is the thread that assembles the
 * machine, before vCPUs run. Errors are -errno after one line to the user.
 */
struct engine_ops {
	const char *name; /* "kvm", "bt" */
	/* Any time, without side effects. */
	void (*probe)(struct engine_probe *out);
	/* Main thread. */
	int (*vm_create)(const struct engine_vm_params *params, struct engine_vm **out);
	/* Main thread; every vCPU is destroyed first. */
	void (*vm_destroy)(struct engine_vm *vm);
	/* Maps host memory at gpa: page-aligned, not overlapping another mapping, valid until unmapped.
	 * Main thread, or any thread while all vCPUs are stopped. */
	int (*mem_map)(struct engine_vm *vm, uint64_t gpa, void *hva, uint64_t len, unsigned prot);
	int (*mem_unmap)(struct engine_vm *vm, uint64_t gpa, uint64_t len);
	/* Someone other than a vCPU (a device, a loader) wrote guest memory: any thread, after the
	 * write. NULL when the engine need not know. */
	void (*mem_written)(struct engine_vm *vm, uint64_t gpa, uint64_t len);
	/* The CPUID model the vCPUs answer with; valid as long as vm. */
	const struct x86_cpuid *(*cpuid)(struct engine_vm *vm);
	/* Guest TSC frequency in kHz, 0 when unknown. */
	uint32_t (*tsc_khz)(struct engine_vm *vm);
	/* Guest TSC now, comparable with TSC_DEADLINE; any thread. */
	uint64_t (*tsc_read)(struct engine_vm *vm);

	/* Main thread. The vCPU is in reset state, index id (0 is the bootstrap processor). */
	int (*vcpu_create)(struct engine_vm *vm, int id, struct engine_vcpu **out);
	void (*vcpu_destroy)(struct engine_vcpu *vcpu);
	/* The vCPU's own thread: executes guest instructions until there is a reason to return. */
	void (*vcpu_run)(struct engine_vcpu *vcpu, struct engine_exit *exit);
	/* Any thread, any time, cheap, never blocks: makes a running vCPU look at what is pending
	 * within a few instructions; deliverable interrupts are taken inside the engine. If stop is
	 * set, vcpu_run() also returns with ENGINE_EXIT_KICK; a stop request made before vcpu_run()
	 * is not lost. */
	void (*vcpu_kick)(struct engine_vcpu *vcpu, bool stop);
	/* Any thread: an NMI is pending from now on (one is remembered, as on hardware). Kick after. */
	void (*vcpu_nmi)(struct engine_vcpu *vcpu);
	/* The vCPU's thread or any thread while the vCPU is not in vcpu_run(). set returns -EINVAL for
	 * state no processor can be in. */
	void (*vcpu_get)(struct engine_vcpu *vcpu, struct x86_state *out);
	int (*vcpu_set)(struct engine_vcpu *vcpu, const struct x86_state *in);

	/* An MSI message, any thread. NULL when the engine has no local APIC of its own: the machine
	 * then brings one, and the intr_*, apic_* and cr8_* functions of struct engine_machine are used. */
	int (*msi)(struct engine_vm *vm, uint64_t addr, uint32_t data);
	/* Optional (NULL): a line per counter, "name value\n", for statistics. Any thread. */
	void (*stats)(struct engine_vm *vm, void (*emit)(void *arg, const char *name, uint64_t value),
	    void *arg);

	/*
	 * What an engine can do faster than the machine itself. NULL where it cannot; the machine then
	 * does without. Any thread, 0 or -errno without a word to the user.
	 */

	/* The message that pin of the IOAPIC (0 to 23) sends from now on, level-triggered: EOIs of its
	 * vector are passed to machine->eoi. data 0: none. Engines with a local APIC have it. */
	int (*irq_route)(struct engine_vm *vm, int pin, uint64_t addr, uint32_t data);
	/* A write of size bytes to addr (a port, or MMIO) writes 1 to the eventfd instead of leaving the
	 * guest; on false takes that back. -EEXIST: there is one already. */
	int (*doorbell)(struct engine_vm *vm, bool mmio, uint64_t addr, int size, int fd, bool on);
	/* A write to the eventfd sends an MSI; addr and data 0 take that back. The fd stays the
	 * caller's and open until then. */
	int (*msi_event)(struct engine_vm *vm, int fd, uint64_t addr, uint32_t data);
	/* Writes to a range may reach the machine late, but in order and before any other access of
	 * the same vCPU's that leaves the guest. */
	int (*coalesce)(struct engine_vm *vm, bool mmio, uint64_t addr, uint64_t len, bool on);
	/* Starts or ends noting which pages of writable memory the vCPUs write. */
	int (*mem_log)(struct engine_vm *vm, bool on);
	/* A bit per 4 KiB page of a whole mapping: written by a vCPU since the last call. What
	 * mem_written() was told is the caller's to add. */
	int (*mem_dirty)(struct engine_vm *vm, uint64_t gpa, uint64_t len, uint64_t *bitmap);
};

/* Every engine built in, best first, NULL at the end. */
extern const struct engine_ops *const engines[];

/* The engine called name, or for "auto" the best usable one. 0; -ENOENT: no such engine; -ENOTSUP: it
 * cannot run here. why (ENGINE_WHY_SIZE) gets one line that says which was chosen and why, or what
 * stands in the way. */
#define ENGINE_WHY_SIZE 320
int engine_choose(const char *name, const struct engine_ops **out, char *why, size_t why_size);

#endif
