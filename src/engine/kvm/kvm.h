/*
 * What the engine's own files share. Not for other rooms.
 *
 * The engine runs guests on Linux's KVM (Documentation/virt/kvm/api.rst; "api.rst 4.10" is section
 * 4.10 of it). Local APICs are KVM's ("split irqchip", api.rst 7.5); IOAPIC, 8259 and 8254 are the
 * machine's:
 *
 *	a device's MSI, the IOAPIC's message    KVM_SIGNAL_MSI
 *	EOI of a level-triggered interrupt      KVM_EXIT_IOAPIC_EOI, for the vectors in the routes
 *	the 8259's INTR                         a kick of vCPU 0, which acknowledges it and does
 *	                                        KVM_INTERRUPT when KVM is ready for that
 *
 * Files: probe.c (what the host offers), engine.c (VMs, the ops), memory.c, irq.c (messages, routes,
 * doorbells), vcpu.c (running), exit.c (what a vCPU left the guest for), state.c and msr.c (state in and
 * out), cpuid.c.
 */
#ifndef ENGINE_KVM_KVM_H
#define ENGINE_KVM_KVM_H

#include "base/counter.h"
#include "engine/engine.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#define KVM_WHO "kvm" /* in messages */
#define KVM_DEVICE "/dev/kvm"

#define KVM_IOAPIC_PINS 24
#define KVM_MSI_EVENTS 1024 /* eventfds that send an MSI */
#define KVM_MSRS 64 /* at most this many in struct x86_state */

/* --- Host (probe.c) --- */

/* What is asked of the host, in the form in which tests record hosts. */
struct kvm_host {
	int open_error; /* errno of opening /dev/kvm, 0 when it opened */
	int api_version; /* -1: not a KVM device */
	const char *missing; /* a capability that is needed and absent, or NULL */
	bool vmx, svm; /* the processor's flags */
	bool npt; /* AMD-V's nested paging, by the processor's flags */
	/* Of modules: -1 when not loaded, else whether the parameter says Y */
	int intel_ept, intel_unrestricted, amd_npt;
	bool pvm; /* KVM without hardware: shadow paging of deprivileged guests */
};

/* Looks at the host whose file system is under root ("" for this one); /dev/kvm too, if device. */
void kvm_host_read(const char *root, bool device, struct kvm_host *out);
/* Whether KVM can run guests there, and how: no system call. */
void kvm_host_judge(const struct kvm_host *host, struct engine_probe *out);
/* KVM_CHECK_EXTENSION on /dev/kvm or a VM: the capability's value, 0 when absent. */
int kvm_cap(int fd, int cap);

/* --- VMs --- */

struct kvm_slot {
	uint64_t gpa, len; /* len 0: free */
	uint8_t *hva;
	bool writable, logged;
};

struct kvm_vcpu;

struct kvm_vm {
	struct engine_vm_params params;
	int kvm, fd; /* /dev/kvm and the VM */
	int boot; /* vCPU 0 until kvm_vcpu_create() takes it, else -1 */
	struct x86_cpuid *cpuid;
	struct kvm_cpuid2 *supported; /* KVM_GET_SUPPORTED_CPUID */
	uint32_t tsc_khz;
	bool nested; /* kvm.nested */
	bool unknown_msrs; /* the guest's accesses to unknown MSRs come to us (-w) */
	size_t run_size; /* of a vCPU's shared area */
	int coalesced_page; /* its page with the ring of late writes; 0: none */
	bool coalesce_pio;
	bool xcrs, adjust_clock;
	uint32_t msr[KVM_MSRS]; /* the MSRs of struct x86_state that this host has */
	int msrs;

	pthread_mutex_t mem_lock; /* guards slots; outermost */
	struct kvm_slot *slot;
	uint32_t slots, slots_max;
	bool logging;

	pthread_mutex_t irq_lock; /* guards the routes */
	struct kvm_irq_routing *routing; /* room for all */
	uint64_t pin_addr[KVM_IOAPIC_PINS];
	uint32_t pin_data[KVM_IOAPIC_PINS]; /* 0: none */
	struct kvm_msi_event {
		int fd; /* -1: free */
		uint64_t addr;
		uint32_t data;
	} event[KVM_MSI_EVENTS];
	int events; /* the highest in use, and one */

	pthread_mutex_t ring_lock; /* one vCPU empties the ring at a time */

	int vcpus;
	struct kvm_vcpu *vcpu[];
};

/* --- vCPUs --- */

/* What other threads ask of a vCPU's. */
#define KVM_REQ_STOP BIT(0)
#define KVM_REQ_NMI BIT(1)
#define KVM_REQ_INTR BIT(2) /* look at the 8259 */

enum kvm_stat {
	KVM_STAT_IO,
	KVM_STAT_MMIO,
	KVM_STAT_EOI,
	KVM_STAT_WINDOW, /* ready for an interrupt of the 8259's */
	KVM_STAT_INTR, /* kicked */
	KVM_STAT_MSR,
	KVM_STAT_OTHER,
	KVM_STAT_LATE, /* writes taken from the ring: not exits */
	KVM_STATS,
};

struct kvm_vcpu {
	struct kvm_vm *vm;
	int id, fd;
	uint32_t apic_id;
	struct kvm_run *run;

	_Atomic uint32_t requests; /* KVM_REQ_* */
	_Atomic uint32_t in_guest; /* in KVM_RUN, or on the way there: a kick needs a signal */
	_Atomic pthread_t thread; /* valid while in_guest */

	/* Own thread. */
	bool unfinished; /* the last exit's access is completed by the next KVM_RUN only */
	bool intr_wanted; /* the 8259 holds INTR */
	bool signal_ready; /* on this thread the kick's signal is not blocked */
	_Atomic uint64_t stat[KVM_STATS]; /* read by any */

	_Atomic uint64_t tsc_offset; /* the guest's TSC less the host's */
};

static inline struct kvm_vm *
kvm_vm(struct engine_vm *vm)
{
	return (struct kvm_vm *)vm;
}

static inline struct kvm_vcpu *
kvm_vcpu(struct engine_vcpu *vcpu)
{
	return (struct kvm_vcpu *)vcpu;
}

static inline void
kvm_stat_add(struct kvm_vcpu *v, enum kvm_stat stat, uint64_t n)
{
	counter_add(&v->stat[stat], n);
}

/* ioctl(2) that gives -errno, and goes on after signals. */
int kvm_ioctl(int fd, unsigned long request, void *arg);
int kvm_ioctl_val(int fd, unsigned long request, unsigned long arg);

/* memory.c; the functions of struct engine_ops */
int kvm_mem_map(struct engine_vm *evm, uint64_t gpa, void *hva, uint64_t len, unsigned prot);
int kvm_mem_unmap(struct engine_vm *evm, uint64_t gpa, uint64_t len);
int kvm_mem_log(struct engine_vm *evm, bool on);
int kvm_mem_dirty(struct engine_vm *evm, uint64_t gpa, uint64_t len, uint64_t *bitmap);
/* Copies guest memory, as far as it is there; the number of bytes. */
size_t kvm_mem_peek(struct kvm_vm *vm, uint64_t gpa, void *buf, size_t len);

/* irq.c */
int kvm_irq_create(struct kvm_vm *vm);
void kvm_irq_destroy(struct kvm_vm *vm);
int kvm_msi(struct engine_vm *evm, uint64_t addr, uint32_t data);
int kvm_irq_route(struct engine_vm *evm, int pin, uint64_t addr, uint32_t data);
int kvm_msi_event(struct engine_vm *evm, int fd, uint64_t addr, uint32_t data);
int kvm_doorbell(struct engine_vm *evm, bool mmio, uint64_t addr, int size, int fd, bool on);
int kvm_coalesce(struct engine_vm *evm, bool mmio, uint64_t addr, uint64_t len, bool on);

/* vcpu.c */
int kvm_vcpu_create(struct engine_vm *evm, int id, struct engine_vcpu **out);
void kvm_vcpu_destroy(struct engine_vcpu *vcpu);
void kvm_vcpu_run(struct engine_vcpu *vcpu, struct engine_exit *exit);
void kvm_vcpu_kick(struct engine_vcpu *vcpu, bool stop);
void kvm_vcpu_nmi(struct engine_vcpu *vcpu);
/* Makes the kick's signal harmless for this process. Main thread. */
int kvm_kick_prepare(void);

/* exit.c */
/* Empties the ring of late writes. */
void kvm_ring_drain(struct kvm_vcpu *v);
/* Handles what KVM_RUN came back with. False: the machine has to decide, out says what. */
bool kvm_exit_handle(struct kvm_vcpu *v, struct engine_exit *out);
/* KVM_RUN itself failed. */
void kvm_exit_failed(struct kvm_vcpu *v, int err, struct engine_exit *out);

/* state.c, msr.c */
void kvm_vcpu_get(struct engine_vcpu *vcpu, struct x86_state *out);
int kvm_vcpu_set(struct engine_vcpu *vcpu, const struct x86_state *in);
/* Finds out which MSRs of struct x86_state this vCPU, and so every one, has. */
void kvm_msrs_find(struct kvm_vcpu *v);
void kvm_msrs_get(struct kvm_vcpu *v, struct x86_state *out);
int kvm_msrs_set(struct kvm_vcpu *v, const struct x86_state *in);
/* One MSR. 0, or -EINVAL when there is no such. */
int kvm_msr_get(struct kvm_vcpu *v, uint32_t msr, uint64_t *val);
int kvm_msr_set(struct kvm_vcpu *v, uint32_t msr, uint64_t val);
/* The guest's TSC less the host's, measured. */
void kvm_tsc_measure(struct kvm_vcpu *v);

/* cpuid.c */
/* Makes the model from what KVM supports and the configuration. 0, or -errno after a message. */
int kvm_cpuid_create(struct kvm_vm *vm);
/* Gives a vCPU the model. */
int kvm_cpuid_set(struct kvm_vcpu *v);

#endif
