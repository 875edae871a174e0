/*
 * Virtual-8086 mode (SDM 3, 20.2 to 20.3), without the extensions of CR4.VME.
 *
 * Each case runs 16-bit code at v86_flags until it faults or calls USER_EXIT.
 */
#include "guest.h"

	.set VEC, 0x81	/* a gate of level 3 */
	.set V86_STACK, 0x7000

/* One case: code in virtual-8086 mode with IOPL iopl, and what ends it. 84 is the trigger. */
.macro V86 name, iopl, vector, error, setup, trigger
	CASE "\name"
	movl $FL_VM | (\iopl) << 12 | 2, v86_flags
	movl $.Lv86\@, %eax
	call v86_call
	must_fault_at 0, "\vector", "\error"
	.if \vector != USER_EXIT
	must_eq_at 0, $.Ltrigger\@, fault_ip
	.endif
	must_bits_at 0, FL_VM, FL_VM, fault_flags
	END
	.pushsection .low, "awx"
	.code16
.Lv86\@:
	\setup
.Ltrigger\@:
	\trigger
	int $USER_EXIT
	.popsection
	.code32
.endm

	.text
	.globl guest_main
guest_main:
	orl $0x6000, idt32 + VEC * 8 + 4

	/* --- In and out --- */
	CASE "v86: IRET loads all segments, an interrupt saves them"
	movl $FL_VM | FL_IOPL3 | 2, v86_flags
	movl $1f, %eax
	call v86_call
	must_fault(VEC, NOERR)
	must_eq($2f, fault_ip)
	must_eq($0, fault_cs)
	must_eq($V86_STACK, fault_sp)
	must_eq($0, fault_ss)
	must_eq($0x0d50, fault_segs)
	must_eq($0x0e50, fault_segs + 4)
	must_eq($0x0f50, fault_segs + 8)
	must_eq($0x0650, fault_segs + 12)
	must_eq($ring0_top - 36, fault_frame)
	must_bits(FL_VM | FL_IOPL3, FL_VM | FL_IOPL3 | FL_IF, fault_flags)
	must_eq($0x0d500f50, RBX)
	must_eq($0x06500e50, RDX)
	jmp 9f
	.pushsection .low, "awx"
	.code16
1:	mov %ds, %bx
	shl $16, %ebx
	mov %fs, %bx
	mov %gs, %dx
	shl $16, %edx
	mov %es, %dx
	int $VEC
2:
	.popsection
	.code32
	END
	CASE "v86: the handler finds null segments"
	set_gate "idt32 + VEC * 8", KCODE, see_segments, 0xee
	movl $FL_VM | FL_IOPL3 | 2, v86_flags
	movl $1f, %eax
	movl $-1, seen
	movl $-1, seen + 4
	call v86_call
	set_gate "idt32 + VEC * 8", KCODE, v86_again, 0xee
	must_fault(USER_EXIT, NOERR)
	must_eq($0, seen)
	must_eq($0, seen + 4)
	jmp 9f
	.pushsection .low, "awx"
	.code16
1:	int $VEC
	int $USER_EXIT
	.popsection
	.code32
	END
	V86 "v86: 16 times the selector", 3, USER_EXIT, NOERR, \
	    "mov $0x1234, %ax; mov %ax, %ds; movw $0x4321, 0x10; xor %ax, %ax; mov %ax, %ds; \
	    mov $0x1235, %ax; mov %ax, %es; cmpw $0x4321, \
	    %es:0", "je .Lv86_equal; ud2; .Lv86_equal:"
	V86 "v86: EFLAGS.VM is not in FLAGS but PUSHFD shows neither VM nor RF", 3, USER_EXIT, \
	    NOERR, "pushfl; pop %eax; test $FL_VM | FL_RF, %eax", \
	    "jz .Lv86_clear; ud2; .Lv86_clear:"

	/* --- What IOPL guards --- */
	V86 "v86: INT n with IOPL 3", 3, USER_EXIT, NOERR, "", ""
	V86 "v86: INT n with IOPL 0", 0, GP, 0, "", "int $USER_EXIT"
	V86 "v86: INT n with IOPL 3 into a gate of level 0", 3, GP, "0x40 * 8 + 2", "", "int $0x40"
	V86 "v86: CLI with IOPL 0", 0, GP, 0, "", "cli"
	V86 "v86: STI with IOPL 2", 2, GP, 0, "", "sti"
	V86 "v86: PUSHF with IOPL 0", 0, GP, 0, "", "pushf"
	V86 "v86: POPF with IOPL 0", 0, GP, 0, "push $2", "popf"
	V86 "v86: IRET with IOPL 0", 0, GP, 0, "push $2; push $0; push $0", "iret"
	V86 "v86: STI and CLI with IOPL 3", 3, USER_EXIT, NOERR, "", "sti; cli"
	V86 "v86: POPF with IOPL 3 does not change IOPL", 3, USER_EXIT, NOERR, \
	    "push $2; popf; pushf; pop %ax; and $0x3000, %ax; cmp $0x3000, %ax", \
	    "je .Lv86_iopl; ud2; .Lv86_iopl:"
	CASE "v86: IRET with IOPL 3 stays inside"
	movl $FL_VM | FL_IOPL3 | 2, v86_flags
	movl $1f, %eax
	call v86_call
	must_fault(USER_EXIT, NOERR)
	must_eq($0x0010, fault_cs)
	must_bits(FL_VM | FL_IOPL3 | FL_CF, FL_VM | FL_IOPL3 | FL_CF, fault_flags)
	jmp 9f
	.pushsection .low, "awx"
	.code16
1:	push $FL_CF | 2
	push $0x10
	push $2f - 0x100
	iret
2:	int $USER_EXIT
	.popsection
	.code32
	END
	/* INT3 and INTO look at the gate only. */
	CASE "v86: INT3 with IOPL 0"
	movl $FL_VM | 2, v86_flags
	movl $1f, %eax
	call v86_call
	must_fault(BP, NOERR)
	must_eq($2f, fault_ip)
	jmp 9f
	.pushsection .low, "awx"
	.code16
1:	int3
2:
	.popsection
	.code32
	END
	CASE "v86: INTO with IOPL 0"
	movl $FL_VM | FL_OF | 2, v86_flags
	movl $1f, %eax
	call v86_call
	must_fault(OF, NOERR)
	jmp 9f
	.pushsection .low, "awx"
	.code16
1:	into
	.popsection
	.code32
	END

	/* --- Not at level 3 --- */
	V86 "v86: HLT", 3, GP, 0, "", "hlt"
	V86 "v86: MOV from CR0", 3, GP, 0, "", "mov %cr0, %eax"
	V86 "v86: MOV to DR7", 3, GP, 0, "", "mov %eax, %dr7"
	V86 "v86: LGDT", 3, GP, 0, "", "lgdt gdtr"
	V86 "v86: LMSW", 3, GP, 0, "", "lmsw %ax"
	V86 "v86: CLTS", 3, GP, 0, "", "clts"
	V86 "v86: RDMSR", 3, GP, 0, "", "rdmsr"
	V86 "v86: IN asks the bitmap whatever IOPL is", 3, GP, 0, "", "in $0x61, %al"
	V86 "v86: OUT as well", 3, GP, 0, "", "out %al, $0x80"
	V86 "v86: SMSW may", 0, GP, 0, "smsw %ax", "hlt"
	V86 "v86: LLDT is #UD", 3, UD, NOERR, "", "lldt %ax"
	V86 "v86: LTR is #UD", 3, UD, NOERR, "", "ltr %ax"
	V86 "v86: STR is #UD", 3, UD, NOERR, "", "str %ax"
	V86 "v86: SLDT is #UD", 3, UD, NOERR, "", "sldt %ax"
	V86 "v86: LAR is #UD", 3, UD, NOERR, "", "lar %ax, %ax"
	V86 "v86: VERW is #UD", 3, UD, NOERR, "", "verw %ax"
	V86 "v86: ARPL is #UD", 3, UD, NOERR, "", ".byte 0x63, 0xc3"
	V86 "v86: UD2", 3, UD, NOERR, "", "ud2"
	V86 "v86: DIV", 3, DE, NOERR, "xor %cx, %cx", "div %cx"

	/* --- Limits --- */
	V86 "v86: a word at 0xffff", 3, GP, 0, "", "mov 0xffff, %ax"
	V86 "v86: a word of the stack at 0xffff", 3, SS, 0, "mov $0xffff, %bp", "mov (%bp), %ax"
	V86 "v86: a 32-bit offset above 0xffff", 3, GP, 0, "mov $0x10000, %ebx", "mov (%ebx), %al"
	V86 "v86: a jump above 0xffff", 3, GP, 0, "mov $0x10000, %ebx", "jmpl *%ebx"
	V86 "v86: no wrap at 1 MiB", 3, USER_EXIT, NOERR, \
	    "mov $0xffff, %ax; mov %ax, %es; movl $0x31415926, %es:0xfff0; xor %ax, %ax; \
	    mov %ax, %es; cmpl $0x31415926, %es:0xffe0", "jne .Lv86_nowrap; ud2; .Lv86_nowrap:"
	CASE "v86: a far jump loads 16 times the selector"
	movl $FL_VM | FL_IOPL3 | 2, v86_flags
	movl $1f, %eax
	call v86_call
	must_fault(USER_EXIT, NOERR)
	must_eq($0x20, fault_cs)
	jmp 9f
	.pushsection .low, "awx"
	.code16
1:	mov $0, %bx
	push $0x20
	push $2f - 0x200
	lret
2:	int $USER_EXIT
	.popsection
	.code32
	END
	CASE "v86: single-step"
	movl $FL_VM | FL_IOPL3 | FL_TF | 2, v86_flags
	movl $1f, %eax
	call v86_call
	must_fault(DB, NOERR)
	must_eq($2f, fault_ip)
	must_bits(FL_VM | FL_TF, FL_VM | FL_TF, fault_flags)
	jmp 9f
	.pushsection .low, "awx"
	.code16
1:	nop
2:	nop
	int $USER_EXIT
	.popsection
	.code32
	END
	CASE "v86: an interrupt to code of another level than 0"
	set_descriptor SEL_TEST, 0, 0xfffff, 0xfa, FLAGS_32G
	set_gate "idt32 + VEC * 8", SEL_TEST, v86_again, 0xee
	movl $FL_VM | FL_IOPL3 | 2, v86_flags
	movl $1f, %eax
	call v86_call
	must_fault(GP, SEL_TEST)
	jmp 9f
	.pushsection .low, "awx"
	.code16
1:	int $VEC
	.popsection
	.code32
	END
	/* At level 3 IRET does not look at VM. */
	USER "v86: IRET at level 3 does not enter it", USER_EXIT, NOERR, \
	    "push $FL_VM | 2; push $UCODE; push $85f; iret; 85: pushf; pop %eax", "nop"
	FAULT "v86: IRET to an offset beyond 0xffff", GP, 0, \
	    "push $0; push $0; push $0; push $0; push $0; push $V86_STACK; \
	    push $FL_VM | FL_IOPL3 | 2; push $0; push $0x10000", "iret"
	ret

v86_again:
	ud2

/* Saves DS and ES as the processor left them. */
see_segments:
	push %eax
	mov %ds, %eax
	push %eax
	mov %es, %eax
	pushw $KDATA
	popw %ds
	mov %eax, seen + 4
	pop %eax
	mov %eax, seen
	pop %eax
	iret

/* Runs EAX in virtual-8086 mode until the first exception or interrupt. */
v86_call:
	popl resume
	mov %esp, resume_sp
	movl $NONE, fault_vector
	push $0x0650	/* GS, FS, DS, ES */
	push $0x0f50
	push $0x0d50
	push $0x0e50
	push $0
	push $V86_STACK
	push v86_flags
	push $0
	push %eax
	iret

	.bss
	.balign 4
v86_flags: .skip 4
seen:	.skip 8
