/*
 * KVM through the engine's contract: tiny guests in real and long mode, ports and MMIO, interrupts of every
 * kind, events, state in and out, errors. Skipped where /dev/kvm does not open; `make check` runs it all
 * the same, in a machine that has KVM (tests/machine/test_kvm.py).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/kvm/kvm.h"

#include "base/config.h"
#include "capture.h"
#include "engine/engines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM 0x400000u
#define ROM 0xffff0000u
#define ROM_SIZE 0x10000u
#define MMIO 0xd0000000u /* nothing is mapped there */
#define GDT 0x1000u
#define IDT 0x2000u
#define HANDLERS 0x4000u /* 16 bytes each: report the vector at PORT_END, return */
#define CODE 0x10000u
#define STACK 0x80000u
#define PML4 0x100000u
#define PORT_END 0xf4 /* a write ends vcpu_run() */
#define VCPUS 2
#define LOG 32
#define LAPIC_EOI 0xb0
#define LAPIC_SVR 0xf0

/* What the machine was asked. */
struct call {
	char what; /* i, o: ports; r, w: MMIO; e: EOI */
	uint64_t addr;
	int size;
	uint64_t val;
};

struct rig {
	struct engine_vm *vm;
	struct engine_vcpu *vcpu[VCPUS];
	uint8_t *ram;
	struct call log[LOG];
	int logged;
	uint64_t read_val;
	int irq; /* the 8259's vector, -1 for none */
	int end; /* what was written to PORT_END last, -1 */
	struct config *config;
};

static void
rig_log(struct rig *r, char what, uint64_t addr, int size, uint64_t val)
{
	if (r->logged < LOG)
		r->log[r->logged] = (struct call){ what, addr, size, val };
	r->logged++;
}

static uint32_t
rig_pio_read(void *ctx, int cpu, uint16_t port, int size)
{
	struct rig *r = ctx;

	rig_log(r, 'i', port, size, r->read_val);
	return (uint32_t)r->read_val;
}

static void
rig_pio_write(void *ctx, int cpu, uint16_t port, int size, uint32_t val)
{
	struct rig *r = ctx;

	if (port == PORT_END) {
		r->end = (int)val;
		kvm_engine.vcpu_kick(r->vcpu[cpu], true);
		return;
	}
	rig_log(r, 'o', port, size, val);
}

static uint64_t
rig_mmio_read(void *ctx, int cpu, uint64_t gpa, int size)
{
	struct rig *r = ctx;

	rig_log(r, 'r', gpa, size, r->read_val);
	return r->read_val;
}

static void
rig_mmio_write(void *ctx, int cpu, uint64_t gpa, int size, uint64_t val)
{
	rig_log(ctx, 'w', gpa, size, val);
}

static int
rig_intr_pending(void *ctx, int cpu)
{
	return cpu == 0 ? ((struct rig *)ctx)->irq : -1;
}

static int
rig_intr_ack(void *ctx, int cpu)
{
	struct rig *r = ctx;
	int vector = r->irq;

	r->irq = -1;
	return vector;
}

static void
rig_eoi(void *ctx, int cpu, uint8_t vector)
{
	rig_log(ctx, 'e', 0, 0, vector);
}

static const struct engine_machine rig_machine = {
	.pio_read = rig_pio_read,
	.pio_write = rig_pio_write,
	.mmio_read = rig_mmio_read,
	.mmio_write = rig_mmio_write,
	.intr_pending = rig_intr_pending,
	.intr_ack = rig_intr_ack,
	.eoi = rig_eoi,
};

static struct engine_vm_params
rig_params(struct rig *r, uint32_t vcpus)
{
	return (struct engine_vm_params){ .vcpus = (int)vcpus, .machine = &rig_machine, .ctx = r,
		.topo = { 1, vcpus, 1 }, .config = r->config };
}

static void
put64(struct rig *r, uint64_t gpa, uint64_t val)
{
	memcpy(r->ram + gpa, &val, 8);
}

static uint64_t
get64(const struct rig *r, uint64_t gpa)
{
	uint64_t val;

	memcpy(&val, r->ram + gpa, 8);
	return val;
}

/* Identity page tables of 2 MiB pages for 4 GiB, a GDT, and an IDT with all handlers. */
static void
rig_tables(struct rig *r)
{
	put64(r, PML4, (PML4 + 0x1000) | 7);
	for (uint64_t i = 0; i < 4; i++)
		put64(r, PML4 + 0x1000 + 8 * i, (PML4 + 0x2000 + 0x1000 * i) | 7);
	for (uint64_t i = 0; i < 2048; i++)
		put64(r, PML4 + 0x2000 + 8 * i, i << 21 | 7 | X86_PTE_PS);
	put64(r, GDT + 8, 0x00af9b000000ffffull);
	put64(r, GDT + 16, 0x00cf93000000ffffull);
	for (uint32_t v = 0; v < 256; v++) {
		/* mov $v, %al; out %al, $PORT_END; iretq; with an error code the stack is off, but
		 * nobody returns from those. */
		const uint8_t handler[] = { 0xb0, (uint8_t)v, 0xe6, PORT_END, 0x48, 0xcf };
		uint64_t at = HANDLERS + 16 * v;

		memcpy(r->ram + at, handler, sizeof(handler));
		put64(r, IDT + 16 * v, (at & 0xffff) | 8u << 16 | 0x8e00ull << 32 | at >> 16 << 48);
	}
}

static int
rig_setup_config(void **state, const char *name, const char *value)
{
	struct rig *r = calloc(1, sizeof(*r));
	struct engine_vm_params params;

	assert_non_null(r);
	r->config = config_create();
	if (name != NULL)
		config_set(r->config, name, value);
	params = rig_params(r, VCPUS);
	r->irq = r->end = -1;
	r->ram = mmap(NULL, RAM + ROM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
	    0);
	assert_true(r->ram != MAP_FAILED);
	assert_int_equal(kvm_engine.vm_create(&params, &r->vm), 0);
	assert_int_equal(kvm_engine.mem_map(r->vm, 0, r->ram, RAM,
			     ENGINE_MEM_READ | ENGINE_MEM_WRITE | ENGINE_MEM_EXEC),
	    0);
	assert_int_equal(kvm_engine.mem_map(r->vm, ROM, r->ram + RAM, ROM_SIZE,
			     ENGINE_MEM_READ | ENGINE_MEM_EXEC),
	    0);
	for (int i = 0; i < VCPUS; i++)
		assert_int_equal(kvm_engine.vcpu_create(r->vm, i, &r->vcpu[i]), 0);
	rig_tables(r);
	*state = r;
	return 0;
}

static int
rig_setup(void **state)
{
	return rig_setup_config(state, NULL, NULL);
}

static int
rig_setup_lax(void **state)
{
	return rig_setup_config(state, "x86.strictmsr", "false");
}

static int
rig_teardown(void **state)
{
	struct rig *r = *state;

	for (int i = 0; i < VCPUS; i++)
		kvm_engine.vcpu_destroy(r->vcpu[i]);
	kvm_engine.vm_destroy(r->vm);
	munmap(r->ram, RAM + ROM_SIZE);
	config_destroy(r->config);
	free(r);
	return 0;
}

/* Guest code between labels, assembled with the test. */
#define GUEST_ASM(name, bits, text)                                                                \
	extern const uint8_t name[], name##_end[];                                                 \
	__asm__(".pushsection .rodata\n.balign 64\n" #name ":\n.code" #bits "\n" text "\n" #name   \
		"_end:\n.code64\n.popsection\n")
#define LOAD(r, at, name) memcpy((r)->ram + (at), name, (size_t)(name##_end - name))
#define END "\n out %al, $0xf4\n 1: jmp 1b\n"

/* Puts vCPU 0 at the code, in 64-bit mode, its local APIC on. */
static void
rig_long(struct rig *r)
{
	const struct x86_segment data = { 0x10, X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_A |
		X86_SEG_G | X86_SEG_DB, 0xffffffff, 0 };
	struct x86_state s;

	kvm_engine.vcpu_get(r->vcpu[0], &s);
	for (int i = 0; i < X86_SEG_COUNT; i++)
		s.seg[i] = data;
	s.seg[X86_CS] = (struct x86_segment){ 8, X86_SEG_P | X86_SEG_S | X86_SEG_RW | X86_SEG_A |
		X86_SEG_CODE | X86_SEG_G | X86_SEG_L, 0xffffffff, 0 };
	s.gdtr = (struct x86_table){ GDT, 0x17 };
	s.idtr = (struct x86_table){ IDT, 0xfff };
	s.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_ET | X86_CR0_NE | X86_CR0_WP;
	s.cr3 = PML4;
	s.cr4 = X86_CR4_PAE | X86_CR4_OSFXSR;
	s.efer = X86_EFER_LME | X86_EFER_LMA;
	s.rip = CODE;
	s.gpr[X86_RSP] = STACK;
	x86_state_virtual_wire(&s);
	assert_int_equal(kvm_engine.vcpu_set(r->vcpu[0], &s), 0);
}

#define BOOT(r, name) (LOAD(r, CODE, name), rig_long(r))

/* Runs vCPU 0 until it says something at PORT_END. */
static int
rig_run(struct rig *r)
{
	struct engine_exit e;

	r->end = -1;
	kvm_engine.vcpu_run(r->vcpu[0], &e);
	if (e.reason == ENGINE_EXIT_ERROR)
		print_error("%s\n", e.text);
	assert_int_equal(e.reason, ENGINE_EXIT_KICK);
	return r->end;
}

static void
expect_call(const struct rig *r, int i, char what, uint64_t addr, int size, uint64_t val)
{
	assert_true(i < r->logged);
	assert_int_equal(r->log[i].what, what);
	assert_int_equal(r->log[i].addr, addr);
	assert_int_equal(r->log[i].size, size);
	assert_int_equal(r->log[i].val, val);
}

/* --- Modes and accesses --- */

GUEST_ASM(reset_vector, 16, "ljmp $0xf000, $0x100");
GUEST_ASM(real_mode, 16, "mov $0x1234, %ax\n mov %ax, %ds\n mov %ax, 0x10\n mov $0x9000, %sp\n"
	"xor %ax, %ax\n mov %ax, %ss\n mov %ax, %ds\n int $0x21\n mov %bl, %al" END);
GUEST_ASM(real_handler, 16, "mov $0x42, %bl\n iret");

/* From the reset vector in the ROM. */
static void
test_real_mode(void **state)
{
	struct rig *r = *state;
	const uint16_t vector[2] = { 0x500, 0 };

	LOAD(r, RAM + 0xfff0, reset_vector);
	LOAD(r, 0xf0100, real_mode);
	LOAD(r, 0x500, real_handler);
	memcpy(r->ram + 0x21 * 4, vector, sizeof(vector));
	assert_int_equal(rig_run(r), 0x42);
	assert_int_equal(get64(r, 0x12350) & 0xffff, 0x1234);
}

GUEST_ASM(accesses, 64, "mov $0xd0000000, %ebx\n mov (%rbx), %eax\n mov %al, 3(%rbx)\n"
	"mov %ax, 4(%rbx)\n mov %eax, 8(%rbx)\n mov %rax, 16(%rbx)\n"
	"mov $0x1234, %edx\n in %dx, %al\n in %dx, %ax\n out %eax, %dx\n"
	"mov $0x20000, %esi\n mov $3, %ecx\n rep outsb\n"
	"mov $0x20010, %edi\n mov $2, %ecx\n rep insw\n mov $7, %al" END);

static void
test_accesses(void **state)
{
	struct rig *r = *state;
	int ins = 0;

	r->read_val = 0xaabbccdd;
	memcpy(r->ram + 0x20000, "xyz", 3);
	BOOT(r, accesses);
	assert_int_equal(rig_run(r), 7);
	expect_call(r, 0, 'r', MMIO, 4, 0xaabbccdd);
	expect_call(r, 1, 'w', MMIO + 3, 1, 0xdd);
	expect_call(r, 2, 'w', MMIO + 4, 2, 0xccdd);
	expect_call(r, 3, 'w', MMIO + 8, 4, 0xaabbccdd);
	expect_call(r, 4, 'w', MMIO + 16, 8, 0xaabbccdd);
	expect_call(r, 5, 'i', 0x1234, 1, 0xaabbccdd);
	expect_call(r, 6, 'i', 0x1234, 2, 0xaabbccdd);
	expect_call(r, 7, 'o', 0x1234, 4, 0xaabbccdd);
	expect_call(r, 8, 'o', 0x1234, 1, 'x');
	expect_call(r, 9, 'o', 0x1234, 1, 'y');
	expect_call(r, 10, 'o', 0x1234, 1, 'z');
	/* KVM may read ahead, but not behind the count. */
	for (int i = 11; i < r->logged; i++)
		ins += r->log[i].what == 'i' && r->log[i].size == 2;
	assert_int_equal(ins, 2);
	assert_int_equal(get64(r, 0x20010) & 0xffffffff, 0xccddccdd);
}

GUEST_ASM(rom_write, 64, "mov $0xffff0000, %ebx\n movl $0x55, (%rbx)\n mov (%rbx), %eax" END);

static void
test_rom(void **state)
{
	struct rig *r = *state;

	r->ram[RAM] = 0x33;
	BOOT(r, rom_write);
	assert_int_equal(rig_run(r), 0x33);
	expect_call(r, 0, 'w', ROM, 4, 0x55);
}

/* --- Interrupts --- */

GUEST_ASM(halted, 64, "mov $0x11, %al\n out %al, $0xf4\n sti\n 2: hlt\n jmp 2b");

static void
test_8259(void **state)
{
	struct rig *r = *state;

	BOOT(r, halted);
	assert_int_equal(rig_run(r), 0x11);
	/* Asserted while interrupts are off: taken when they are on. */
	r->irq = 0x70;
	kvm_engine.vcpu_kick(r->vcpu[0], false);
	assert_int_equal(rig_run(r), 0x70);
	assert_int_equal(r->irq, -1);
	/* Asserted while halted. */
	r->irq = 0x71;
	kvm_engine.vcpu_kick(r->vcpu[0], false);
	assert_int_equal(rig_run(r), 0x71);
}

static void
test_msi(void **state)
{
	struct rig *r = *state;

	BOOT(r, halted);
	assert_int_equal(rig_run(r), 0x11);
	assert_int_equal(kvm_engine.msi(r->vm, 0xfee00000, 0x61), 0);
	assert_int_equal(rig_run(r), 0x61);
	/* For nobody: vanishes. */
	assert_int_equal(kvm_engine.msi(r->vm, 0xfee09000, 0x62), 0);
}

GUEST_ASM(eoi_handler, 64, "mov $0xfee000b0, %ebx\n movl $0, (%rbx)\n mov $0x99, %al\n out %al, $0xf4\n iretq");

/* The EOI of a level-triggered interrupt that is routed is passed on, others' are not. */
static void
test_eoi(void **state)
{
	struct rig *r = *state;

	BOOT(r, halted);
	LOAD(r, 0x6000, eoi_handler);
	put64(r, IDT + 16 * 0x51, 0x6000 | 8u << 16 | 0x8e00ull << 32);
	put64(r, IDT + 16 * 0x52, 0x6000 | 8u << 16 | 0x8e00ull << 32);
	assert_int_equal(kvm_engine.irq_route(r->vm, 5, 0xfee00000, 0xc051), 0);
	assert_int_equal(rig_run(r), 0x11);
	assert_int_equal(kvm_engine.msi(r->vm, 0xfee00000, 0xc051), 0);
	assert_int_equal(rig_run(r), 0x99);
	assert_int_equal(r->logged, 1);
	expect_call(r, 0, 'e', 0, 0, 0x51);
	assert_int_equal(kvm_engine.msi(r->vm, 0xfee00000, 0x4052), 0);
	assert_int_equal(rig_run(r), 0x99);
	assert_int_equal(kvm_engine.irq_route(r->vm, 5, 0, 0), 0);
	assert_int_equal(kvm_engine.msi(r->vm, 0xfee00000, 0xc051), 0);
	assert_int_equal(rig_run(r), 0x99);
	assert_int_equal(r->logged, 1);
}

static void
test_nmi(void **state)
{
	struct rig *r = *state;

	BOOT(r, halted);
	assert_int_equal(rig_run(r), 0x11);
	kvm_engine.vcpu_nmi(r->vcpu[0]);
	assert_int_equal(rig_run(r), X86_NMI);
}

static void
test_msi_event(void **state)
{
	struct rig *r = *state;
	int fd = eventfd(0, EFD_CLOEXEC);

	BOOT(r, halted);
	assert_int_equal(rig_run(r), 0x11);
	assert_int_equal(kvm_engine.msi_event(r->vm, fd, 0xfee00000, 0x65), 0);
	assert_int_equal(eventfd_write(fd, 1), 0);
	assert_int_equal(rig_run(r), 0x65);
	/* Another message from the same event. */
	assert_int_equal(kvm_engine.msi_event(r->vm, fd, 0xfee00000, 0x76), 0);
	assert_int_equal(eventfd_write(fd, 1), 0);
	assert_int_equal(rig_run(r), 0x76); /* no handler ends its interrupt: a higher class */
	assert_int_equal(kvm_engine.msi_event(r->vm, fd, 0, 0), 0);
	assert_int_equal(kvm_engine.msi_event(r->vm, fd, 0, 0), -ENOENT);
	close(fd);
}

/* --- Writes that do not leave the guest, or late --- */

GUEST_ASM(doorbell, 64, "mov $0xd0001000, %ebx\n movw $5, (%rbx)\n movl $6, (%rbx)\n mov $1, %al" END);

static void
test_doorbell(void **state)
{
	struct rig *r = *state;
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	eventfd_t n;

	assert_int_equal(kvm_engine.doorbell(r->vm, true, MMIO + 0x1000, 2, fd, true), 0);
	assert_int_equal(kvm_engine.doorbell(r->vm, true, MMIO + 0x1000, 2, fd, true), -EEXIST);
	BOOT(r, doorbell);
	assert_int_equal(rig_run(r), 1);
	assert_int_equal(eventfd_read(fd, &n), 0);
	assert_int_equal(n, 1);
	/* Of another size: an ordinary write. */
	assert_int_equal(r->logged, 1);
	expect_call(r, 0, 'w', MMIO + 0x1000, 4, 6);
	assert_int_equal(kvm_engine.doorbell(r->vm, true, MMIO + 0x1000, 2, fd, false), 0);
	BOOT(r, doorbell);
	assert_int_equal(rig_run(r), 1);
	assert_int_equal(r->logged, 3);
	close(fd);
}

GUEST_ASM(late, 64, "mov $0x12, %al\n out %al, $0x70\n mov $0x13, %al\n out %al, $0x70\n in $0x71, %al" END);

static void
test_late_writes(void **state)
{
	struct rig *r = *state;
	int err = kvm_engine.coalesce(r->vm, false, 0x70, 1, true);

	if (err == -ENOTSUP) {
		print_message("skipped: this KVM has no late port writes\n");
		skip();
	}
	assert_int_equal(err, 0);
	BOOT(r, late);
	(void)rig_run(r);
	assert_int_equal(r->logged, 3);
	expect_call(r, 0, 'o', 0x70, 1, 0x12);
	expect_call(r, 1, 'o', 0x70, 1, 0x13);
	assert_int_equal(r->log[2].what, 'i');
	assert_int_equal(((struct kvm_vcpu *)r->vcpu[0])->stat[KVM_STAT_LATE], 2);
	assert_int_equal(kvm_engine.coalesce(r->vm, false, 0x70, 1, false), 0);
}

/* --- Ends and errors --- */

GUEST_ASM(triple_fault, 64, "lidt 2f(%rip)\n ud2\n 2: .zero 10");

static void
test_triple_fault(void **state)
{
	struct rig *r = *state;
	struct engine_exit e;

	BOOT(r, triple_fault);
	kvm_engine.vcpu_run(r->vcpu[0], &e);
	assert_int_equal(e.reason, ENGINE_EXIT_SHUTDOWN);
}

GUEST_ASM(nowhere, 64, "mov $0xd0000000, %eax\n jmp *%rax");

/* Code where there is no memory: KVM gives up, and we say where. */
static void
test_internal_error(void **state)
{
	struct rig *r = *state;
	struct engine_exit e;
	struct capture c;
	const char *said;

	BOOT(r, nowhere);
	capture_begin(&c);
	kvm_engine.vcpu_run(r->vcpu[0], &e);
	said = capture_end(&c);
	assert_int_equal(e.reason, ENGINE_EXIT_ERROR);
	assert_non_null(strstr(e.text, "KVM internal error"));
	assert_non_null(strstr(said, "rip 00000000d0000000"));
	assert_non_null(strstr(said, "rax 00000000d0000000"));
}

GUEST_ASM(bad_msr, 64, "mov $0x12345678, %ecx\n rdmsr\n wrmsr\n mov $0x77, %al" END);

static void
test_unknown_msr(void **state)
{
	struct rig *r = *state;

	BOOT(r, bad_msr);
	assert_int_equal(rig_run(r), X86_GP);
}

static void
test_unknown_msr_ignored(void **state)
{
	struct rig *r = *state;
	struct capture c;

	BOOT(r, bad_msr);
	capture_begin(&c);
	assert_int_equal(rig_run(r), 0x77);
	assert_string_equal(capture_end(&c), "bhyve: kvm: vcpu 0 read the unknown MSR 0x12345678\n"
		"bhyve: kvm: vcpu 0 wrote the unknown MSR 0x12345678\n");
}

static void
test_limits(void **state)
{
	struct rig *r = *state;
	struct kvm_vm *vm = (struct kvm_vm *)r->vm;
	struct engine_vm_params params = rig_params(r, 100000);
	struct engine_vm *other;
	struct capture c;

	capture_begin(&c);
	assert_int_equal(kvm_engine.vm_create(&params, &other), -EINVAL);
	assert_non_null(strstr(capture_end(&c), "bhyve: cpus (-c): 100000: this host's KVM runs at most"));
	vm->slots_max = vm->slots;
	capture_begin(&c);
	for (uint32_t i = 2; i < vm->slots_max; i++)
		assert_int_equal(kvm_engine.mem_map(r->vm, 0x10000000 + i * 0x10000, r->ram, 0x1000, 7), 0);
	assert_int_equal(kvm_engine.mem_map(r->vm, 0x20000000, r->ram, 0x1000, 7), -ENOSPC);
	assert_non_null(strstr(capture_end(&c), "memory slots and all are in use"));
	/* One given back can be had again. */
	assert_int_equal(kvm_engine.mem_unmap(r->vm, 0x10020000, 0x1000), 0);
	assert_int_equal(kvm_engine.mem_map(r->vm, 0x20000000, r->ram, 0x1000, 7), 0);
}

static void
test_bad_cpu(void **state)
{
	struct rig *r = *state;
	struct engine_vm_params params = rig_params(r, 1);
	struct engine_vm *other;
	struct capture c;

	config_set(r->config, "kvm.cpu", "z80");
	capture_begin(&c);
	assert_int_equal(kvm_engine.vm_create(&params, &other), -EINVAL);
	assert_string_equal(capture_end(&c), "bhyve: kvm.cpu: 'z80': expected host, x86-64-v2, "
		"x86-64-v3 or x86-64-v4\n");
}

GUEST_ASM(cpuid7, 64, "mov $7, %eax\n xor %ecx, %ecx\n cpuid\n mov %ebx, 0x20000\n mov $1, %eax\n cpuid\n"
	"mov %ecx, 0x20004\n mov $1, %al" END);

static int
rig_setup_v2(void **state)
{
	return rig_setup_config(state, "kvm.cpu", "x86-64-v2");
}

/* A named level shows nothing of what is above it. */
static void
test_baseline(void **state)
{
	struct rig *r = *state;

	BOOT(r, cpuid7);
	assert_int_equal(rig_run(r), 1);
	assert_int_equal(get64(r, 0x20000) & (BIT(3) | BIT(5) | BIT(8)), 0); /* BMI1, AVX2, BMI2 */
	assert_int_equal(get64(r, 0x20000) >> 32 & (BIT(12) | BIT(28)), 0); /* FMA, AVX */
	assert_int_equal(get64(r, 0x20000) >> 32 & 0x00982201, 0x00982201);
}

/* --- Other threads --- */

GUEST_ASM(forever, 64, "2: incq 0x20000\n jmp 2b");

static void *
kicker(void *arg)
{
	struct rig *r = arg;

	/* The guest is running now, for sure. */
	while (__atomic_load_n((uint64_t *)(void *)(r->ram + 0x20000), __ATOMIC_RELAXED) == 0)
		;
	kvm_engine.vcpu_kick(r->vcpu[0], true);
	return NULL;
}

static void
test_kick(void **state)
{
	struct rig *r = *state;
	struct engine_exit e;
	pthread_t t;

	BOOT(r, forever);
	/* Before it runs. */
	kvm_engine.vcpu_kick(r->vcpu[0], true);
	assert_int_equal(rig_run(r), -1);
	assert_int_equal(get64(r, 0x20000), 0);
	assert_int_equal(pthread_create(&t, NULL, kicker, r), 0);
	kvm_engine.vcpu_run(r->vcpu[0], &e);
	assert_int_equal(e.reason, ENGINE_EXIT_KICK);
	pthread_join(t, NULL);
}

GUEST_ASM(starter, 64, "mov $0xfee00300, %ebx\n movl $0x01000000, 0x10(%rbx)\n movl $0x4500, (%rbx)\n"
	"movl $0x4608, (%rbx)\n 2: pause\n cmpb $0x5a, 0x20000\n jne 2b\n mov $0x31, %al" END);
GUEST_ASM(started, 16, "mov $0x2000, %ax\n mov %ax, %ds\n movb $0x5a, 0\n 2: hlt\n jmp 2b");

static void *
second(void *arg)
{
	struct rig *r = arg;
	struct engine_exit e;

	kvm_engine.vcpu_run(r->vcpu[1], &e);
	return NULL;
}

/* INIT and start-up of the second processor. */
static void
test_sipi(void **state)
{
	struct rig *r = *state;
	struct x86_state s;
	pthread_t t;

	kvm_engine.vcpu_get(r->vcpu[1], &s);
	assert_int_equal(s.activity, X86_WAIT_SIPI);
	LOAD(r, 0x8000, started);
	BOOT(r, starter);
	assert_int_equal(pthread_create(&t, NULL, second, r), 0);
	assert_int_equal(rig_run(r), 0x31);
	kvm_engine.vcpu_kick(r->vcpu[1], true);
	pthread_join(t, NULL);
	kvm_engine.vcpu_get(r->vcpu[1], &s);
	assert_int_equal(s.seg[X86_DS].selector, 0x2000);
}

/* --- State, dirty pages --- */

GUEST_ASM(vectors, 64, "movdqu 0x20000, %xmm3\n mov $0xc0000102, %ecx\n mov $0x1234, %eax\n xor %edx, %edx\n"
	"wrmsr\n mov $0x5555, %r13d\n mov $0x40, %al" END);

/* What one VM's vCPU has another's can be given, and it goes on there. */
static void
test_state(void **state)
{
	struct rig *r = *state, *other;
	struct x86_state s, back;
	void *p;

	memcpy(r->ram + 0x20000, "0123456789abcdef", 16);
	BOOT(r, vectors);
	assert_int_equal(rig_run(r), 0x40);
	kvm_engine.vcpu_get(r->vcpu[0], &s);
	assert_int_equal(s.gpr[X86_R13], 0x5555);
	assert_int_equal(s.kernel_gs_base, 0x1234);
	assert_memory_equal(s.xsave + 160 + 3 * 16, "0123456789abcdef", 16);
	assert_true(s.lapic_valid);
	rig_setup(&p);
	other = p;
	s.nmi_pending = 1;
	s.dr[2] = 0x77770000;
	s.event = X86_EVENT_INTERRUPT;
	s.event_vector = 0x7b;
	assert_int_equal(kvm_engine.vcpu_set(other->vcpu[0], &s), 0);
	kvm_engine.vcpu_get(other->vcpu[0], &back);
	assert_memory_equal(back.gpr, s.gpr, sizeof(s.gpr));
	assert_memory_equal(back.seg, s.seg, sizeof(s.seg));
	assert_memory_equal(back.dr, s.dr, sizeof(s.dr));
	assert_memory_equal(back.xsave, s.xsave, 512);
	assert_memory_equal(back.mtrr_var, s.mtrr_var, sizeof(s.mtrr_var));
	assert_int_equal(back.rip, s.rip);
	assert_int_equal(back.cr3, s.cr3);
	assert_int_equal(back.efer, s.efer);
	assert_int_equal(back.kernel_gs_base, s.kernel_gs_base);
	assert_int_equal(back.nmi_pending, 1);
	assert_int_equal(back.event, X86_EVENT_INTERRUPT);
	assert_int_equal(back.event_vector, 0x7b);
	/* The event first, then the NMI in its handler. */
	assert_int_equal(rig_run(other), X86_NMI);
	assert_int_equal(rig_run(other), 0x7b);
	/* What no processor can be in. */
	s.activity = X86_SHUTDOWN;
	assert_int_equal(kvm_engine.vcpu_set(other->vcpu[0], &s), -EINVAL);
	rig_teardown(&p);
}

GUEST_ASM(dirty, 64, "movb $1, 0x21000\n movb $1, 0x23fff\n mov $2, %al" END);

static void
test_dirty(void **state)
{
	struct rig *r = *state;
	uint64_t bitmap[RAM / 4096 / 64] = { 0 };

	BOOT(r, dirty);
	assert_int_equal(kvm_engine.mem_log(r->vm, true), 0);
	assert_int_equal(rig_run(r), 2);
	assert_int_equal(kvm_engine.mem_dirty(r->vm, 0, RAM, bitmap), 0);
	assert_true(bitmap[0] & BIT64(0x21));
	assert_true(bitmap[0] & BIT64(0x23));
	assert_false(bitmap[0] & BIT64(0x22));
	assert_int_equal(kvm_engine.mem_dirty(r->vm, 0, RAM, bitmap), 0);
	assert_false(bitmap[0] & BIT64(0x21));
	assert_int_equal(kvm_engine.mem_dirty(r->vm, 0, RAM / 2, bitmap), -ENOENT);
	assert_int_equal(kvm_engine.mem_log(r->vm, false), 0);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, rig_setup, rig_teardown)
	const struct CMUnitTest tests[] = {
		T(test_real_mode),
		T(test_accesses),
		T(test_rom),
		T(test_8259),
		T(test_msi),
		T(test_eoi),
		T(test_nmi),
		T(test_msi_event),
		T(test_doorbell),
		T(test_late_writes),
		T(test_triple_fault),
		T(test_internal_error),
		T(test_unknown_msr),
		cmocka_unit_test_setup_teardown(test_unknown_msr_ignored, rig_setup_lax, rig_teardown),
		T(test_limits),
		T(test_bad_cpu),
		cmocka_unit_test_setup_teardown(test_baseline, rig_setup_v2, rig_teardown),
		T(test_kick),
		T(test_sipi),
		T(test_state),
		T(test_dirty),
	};
	struct engine_probe probe;

	kvm_engine.probe(&probe);
	if (!probe.usable) {
		print_message("# skipped: %s\n1..1\nok 1 # SKIP %s\n", probe.why, probe.why);
		return 0;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
