/*
 * Long mode: 64-bit and compatibility mode, delivery of exceptions, SYSCALL and SYSENTER, IRET
 * in all its forms (SDM 3, 5.8 and 6.14; APM 2, 4.8 and 6.1).
 */
#include "guest.h"

	.set MSR_STAR, 0xc0000081
	.set MSR_LSTAR, 0xc0000082
	.set MSR_CSTAR, 0xc0000083
	.set MSR_SFMASK, 0xc0000084
	.set MSR_FS_BASE, 0xc0000100
	.set MSR_GS_BASE, 0xc0000101
	.set MSR_SYSENTER_CS, 0x174
	.set MSR_SYSENTER_ESP, 0x175
	.set MSR_SYSENTER_EIP, 0x176
	.set SYSRET_BASE, UCODE - 3	/* SYSRET: + 0 is 32-bit code, + 8 data, + 16 64-bit code */

	.set SEL_SMALL, SEL_TEST	/* data, 16 bytes at PAGE0 */
	.set SEL_CODE32, SEL_TEST + 0x08	/* compatibility code, level 0 */
	.set SEL_CODE16, SEL_TEST + 0x10	/* the same, 16-bit */
	.set SEL_DATA3, SEL_TEST + 0x18	/* data, DPL 3, 32 bytes at PAGE0 */
	.set GATE64, SEL_TEST + 0x20	/* call gate of 16 bytes */
	.set SEL_BOTH, SEL_TEST + 0x30	/* code with L and D */
	.set SEL_SHORT, SEL_TEST + 0x38	/* compatibility code, 16 bytes, level 3 */
	.set SEL_CONF, SEL_TEST + 0x40	/* 64-bit conforming code */
	.set SEL_NP, SEL_TEST + 0x48	/* 64-bit code, not present */
	.set GATE32, SEL_TEST + 0x50	/* the 64-bit gate, to 32-bit code */
	.set SEL_LDT, SEL_TEST + 0x60
	.set VEC, 0x81

.macro SET_MSR msr, low, high
	mov $\msr, %ecx
	mov $\low, %eax
	mov $\high, %edx
	wrmsr
.endm

/* One case of level 3 in 64-bit mode, as USER is in 32-bit mode. */
.macro USER64 name, vector, error, setup, trigger
	CASE "\name"
	mov $83f, %eax
	call user_call64
	must_fault_at 0, "\vector", "\error"
	.if \vector != USER_EXIT
	must_eq_at 0, $84f, fault_ip
	.endif
	jmp 9f
83:	\setup
84:	\trigger
	int $USER_EXIT
	END
.endm

/* One case of level 3 in compatibility mode. */
.macro COMPAT name, vector, error, setup, trigger
	CASE "\name"
	mov $83f, %eax
	mov $UCODE, %edx
	call user_call_cs
	must_fault_at 0, "\vector", "\error"
	must_eq_at 0, $UCODE, fault_cs
	.if \vector != USER_EXIT
	must_eq_at 0, $84f, fault_ip
	.endif
	jmp 9f
	.code32
83:	\setup
84:	\trigger
	int $USER_EXIT
	.code64
	END
.endm

	.text
	.globl guest_main
guest_main:
	set_descriptor SEL_SMALL, PAGE0, 15, ACC_DATA, FLAGS_32
	set_descriptor SEL_CODE32, 0, 0xfffff, ACC_CODE, FLAGS_32G
	set_descriptor SEL_CODE16, 0, 0xffff, ACC_CODE, FLAGS_16
	set_descriptor SEL_DATA3, PAGE0, 31, ACC_DATA | ACC_DPL3, FLAGS_32
	set_descriptor SEL_BOTH, 0, 0xfffff, ACC_CODE, 0xe
	set_descriptor SEL_SHORT, 0, 15, ACC_CODE | ACC_DPL3, FLAGS_32
	set_descriptor SEL_CONF, 0, 0xfffff, ACC_CONF, 0xa
	set_descriptor SEL_NP, 0, 0xfffff, 0x1a, 0xa
	set_gate gdt + GATE64, KCODE64, gate_target, 0xec
	movl $0, gdt + GATE64 + 8
	movl $0, gdt + GATE64 + 12
	set_gate gdt + GATE32, SEL_CODE32, gate_target, 0xec
	movl $0, gdt + GATE32 + 8
	movl $0, gdt + GATE32 + 12
	call long_enter
	bits 64

	/* --- Modes --- */
	CASE "EFER.LMA, and the upper halves of registers"
	mov $EFER, %ecx
	rdmsr
	must_bits(EFER_LME | EFER_LMA, EFER_LME | EFER_LMA, %eax)
	mov $-1, %rax
	mov $5, %eax
	must_eq64($5, %rax)
	mov $-1, %rax
	mov $5, %ax
	mov $0xffff0005, %ecx
	movslq %ecx, %rcx
	must_eq64(%rcx, %rax)
	END
	CASE "compatibility mode at level 0 and back"
	mov $0x1234567, %r8d
	shl $8, %r8
	ljmp *1f
1:	.long 3f
	.word SEL_CODE32
	.code32
3:	mov $0xffffffff, %eax
	inc %eax	/* one byte, no REX */
	mov %cs, %ecx
	.byte 0xea
	.long 4f
	.word KCODE64
	.code64
4:	must_eq64($0, %rax)
	must_eq64($SEL_CODE32, %rcx)
	mov $0x1234567, %edx
	shl $8, %rdx
	must_eq64(%rdx, %r8)
	END
	CASE "16-bit compatibility mode"
	xor %ebx, %ebx
	ljmp *1f
1:	.long low16
	.word SEL_CODE16
	.pushsection .low, "awx"
	.code16
low16:	mov $0x1234, %bx
	mov %cs, %cx
	ljmpl $KCODE64, $low16_back
	.popsection
	.code64
low16_back:
	movzwl %cx, %ecx
	must_eq64($0x1234, %rbx)
	must_eq64($SEL_CODE16, %rcx)
	END
	COMPAT "compatibility mode at level 3", USER_EXIT, NOERR, "", ""
	COMPAT "compatibility mode: #UD", UD, NOERR, "", "ud2"
	COMPAT "compatibility mode: limits count", GP, 0, \
	    "mov $SEL_DATA3 + 3, %eax; mov %eax, %es", "mov %es:29, %eax"
	COMPAT "compatibility mode: addresses wrap at 4 GiB", USER_EXIT, NOERR, \
	    "movl $0x77, PAGE0; mov $0xf0000000, %eax; mov $0x10000000 + PAGE0, %ecx; \
	    cmpl $0x77, (%eax, %ecx)", "je 85f; ud2; 85:"
	COMPAT "compatibility mode: PUSH is 4 bytes", USER_EXIT, NOERR, \
	    "mov %esp, %eax; push $1; sub %esp, %eax; cmp $4, %eax", "je 85f; ud2; 85:"
	COMPAT "compatibility mode: 32-bit instructions are there", USER_EXIT, NOERR, "", \
	    "push %es; pop %es; daa; pusha; popa; into; inc %eax"
	COMPAT "compatibility mode: no R8", USER_EXIT, NOERR, \
	    "xor %eax, %eax; .byte 0x41, 0x90; cmp $0, %eax", "je 85f; ud2; 85:"
	CASE "compatibility mode: upper halves of the registers are zero or kept, RIP and RSP are"
	mov $83f, %eax
	mov $UCODE, %edx
	mov $0x55, %r9d
	call user_call_cs
	must_fault(USER_EXIT, NOERR)
	must_eq64($USER_STACK, fault_sp)
	must_eq64($84f, fault_ip)
	must_eq($UDATA, fault_ss)
	jmp 9f
	.code32
83:	int $USER_EXIT
84:
	.code64
	END

	/* --- Segments in 64-bit mode --- */
	PASS "DS, ES and SS: neither base nor limit", \
	    "mov $SEL_SMALL, %eax; mov %eax, %ds; mov %eax, %es; mov %eax, %ss", \
	    "mov PAGE0 + 100, %ecx; mov %es:PAGE0 + 100, %ecx"
	PASS "DS: null", "xor %eax, %eax; mov %eax, %ds; mov %eax, %es", "mov PAGE0, %ecx"
	PASS "SS: null at level 0", "xor %eax, %eax", "mov %eax, %ss; push %rax; pop %rax"
	FAULT "SS: null with RPL 3", GP, 0, "mov $3, %eax", "mov %eax, %ss"
	PASS "writing to CS is writing to memory", "", "movl $1, %cs:PAGE0"
	CASE "FS: a selector loads a base of 32 bits, an MSR all 64"
	mov $SEL_SMALL, %eax
	mov %eax, %fs
	movl $0x42, PAGE0 + 8
	must_eq($0x42, %fs:8)
	mov %fs:100, %eax	/* no limit */
	SET_MSR MSR_FS_BASE, 0x1000, 1
	mov %fs, %eax
	must_eq($SEL_SMALL, %eax)
	movq $PAGE1 | PTE_P | PTE_W, PT_TEST + 8
	movl $0x43, PAGE1
	must_eq($0x43, %fs:0)
	END
	CASE "GS: its base is added, wraps at 64 bits"
	SET_MSR MSR_GS_BASE, 0xfffff000, 0xffffffff
	movl $0x44, PAGE0
	must_eq($0x44, %gs:PAGE0 + 0x1000)
	SET_MSR MSR_GS_BASE, 0, 0
	END
	FAULT "a null FS does not fault, a non-canonical sum does", GP, 0, \
	    "mov $1, %eax; shl $47, %rax", "mov %fs:(%rax), %ecx"
	FAULT "far JMP: L and D", GP, SEL_BOTH, "movl $0, PAGE0; movw $SEL_BOTH, PAGE0 + 4", \
	    "ljmp *PAGE0"
	FAULT "far JMP: a TSS", GP, TSS, "movl $0, PAGE0; movw $TSS, PAGE0 + 4", "ljmp *PAGE0"
	FAULT "far CALL: not present", NP, SEL_NP, "movw $SEL_NP, PAGE0 + 4", "lcall *PAGE0"
	FAULT "far RET: null", GP, 0, "push $0; push $0", "lretq"
	FAULT "far RET: an address that is not canonical", GP, 0, \
	    "push $KCODE64; mov $1, %eax; shl $47, %rax; push %rax", "lretq"
	CASE "far CALL and RET of 8 bytes"
	movq $1f, PAGE0
	movw $KCODE64, PAGE0 + 8
	mov %rsp, %rbp
	rex.w lcall *PAGE0
2:	must_eq64(%rbp, %rsp)
	must_eq64($2b, %rbx)
	must_eq64($KCODE64, %rcx)
	jmp 9f
1:	mov (%rsp), %rbx
	mov 8(%rsp), %rcx
	lretq
	END
	FAULT "LLDT: the type of a 16-byte descriptor", GP, SEL_LDT, \
	    "movl $0, gdt + SEL_LDT; movl $0x8200, gdt + SEL_LDT + 4; \
	    movl $0, gdt + SEL_LDT + 8; movl $0x1f00, gdt + SEL_LDT + 12; mov $SEL_LDT, \
	    %eax", "lldt %ax"
	FAULT "LLDT: a base that is not canonical", GP, SEL_LDT, \
	    "movl $0x8000, gdt + SEL_LDT + 8; movl $0, gdt + SEL_LDT + 12; mov $SEL_LDT, %eax", \
	    "lldt %ax"

	/* --- What 64-bit mode does not have --- */
.macro GONE name, bytes:vararg
	FAULT "\name", UD, NOERR, "", ".byte \bytes"
.endm
	GONE "gone: PUSH ES", 0x06
	GONE "gone: POP SS", 0x17
	GONE "gone: DAA", 0x27
	GONE "gone: AAM", 0xd4, 10
	GONE "gone: PUSHA", 0x60
	GONE "gone: POPA", 0x61
	GONE "gone: INTO", 0xce
	GONE "gone: far CALL with its target", 0x9a, 0, 0, 0, 0, 8, 0
	GONE "gone: far JMP with its target", 0xea, 0, 0, 0, 0, 8, 0
	GONE "gone: opcode 82", 0x82, 0xc0, 1
	GONE "gone: SALC", 0xd6

	/* --- Delivery --- */
	CASE "delivery: SS, RSP are always pushed, RSP aligned to 16"
	mov %rsp, %rbp
	and $~15, %rsp
	sub $8, %rsp
	mov %rsp, %rbx
	try(1f)
	int $VEC
2:
1:	must_eq($VEC, fault_vector)
	must_eq64($2b, fault_ip)
	must_eq64(%rbx, fault_sp)
	must_eq($KDATA64, fault_ss)
	must_eq($KCODE64, fault_cs)
	/* Five quadwords below the aligned stack */
	sub $8, %rbx
	sub $40, %rbx
	must_eq64(%rbx, fault_frame)
	END
	CASE "delivery: an error code goes below"
	and $~15, %rsp
	mov %rsp, %rbx
	mov $GDT_SIZE, %eax
	try(1f)
	mov %eax, %es
1:	must_fault(GP, GDT_SIZE)
	sub $40, %rbx
	must_eq64(%rbx, fault_frame)
	END
	CASE "delivery: from level 3 by RSP0"
	mov $1f, %eax
	call user_call64
	must_fault(UD, NOERR)
	must_eq64($ring0_top - 40, fault_frame)
	must_eq64($USER_STACK, fault_sp)
	must_eq($UDATA, fault_ss)
	must_eq($UCODE64, fault_cs)
	jmp 9f
1:	ud2
	END
	CASE "delivery: SS is null inside"
	movl $see_ss, hooks + VEC * 4
	orb $0x60, idt64 + VEC * 16 + 5
	mov $1f, %eax
	call user_call64
	movl $0, hooks + VEC * 4
	must_fault(USER_EXIT, NOERR)
	must_eq($0, seen)
	must_eq($UDATA, fault_ss)
	jmp 9f
1:	int $VEC
	int $USER_EXIT
	END
	CASE "delivery: an IST stack, from level 3 and from level 0"
	movb $1, idt64 + VEC * 16 + 4
	mov $1f, %eax
	call user_call64
	must_fault(VEC, NOERR)
	must_eq64($ist_top - 40, fault_frame)
	try(2f)
	int $VEC
2:	must_fault(VEC, NOERR)
	must_eq64($ist_top - 40, fault_frame)
	must_eq($KDATA64, fault_ss)
	movb $0, idt64 + VEC * 16 + 4
	jmp 9f
1:	int $VEC
	END
	CASE "delivery: an IST stack that is not canonical"
	movl $0x8000, tss64 + 48	/* IST2, bits 63 to 32 */
	movb $2, idt64 + VEC * 16 + 4
	try(1f)
	int $VEC
1:	movb $0, idt64 + VEC * 16 + 4
	must_fault(SS, 0)
	END
	USER64 "delivery: INT n into a gate of level 0", GP, "0x40 * 8 + 2", "", "int $0x40"
	USER64 "delivery: INT n at level 3", USER_EXIT, NOERR, "", ""
	CASE "delivery: a gate to compatibility code"
	movw $SEL_CODE32, idt64 + VEC * 16 + 2
	try(1f)
	int $VEC
1:	must_fault(GP, SEL_CODE32)
	movw $KCODE64, idt64 + VEC * 16 + 2
	END
	CASE "delivery: a gate to code not present"
	movw $SEL_NP, idt64 + VEC * 16 + 2
	try(1f)
	int $VEC
1:	must_fault(NP, SEL_NP)
	movw $KCODE64, idt64 + VEC * 16 + 2
	END
	CASE "delivery: a gate that is not present"
	andb $0x7f, idt64 + VEC * 16 + 5
	try(1f)
	int $VEC
1:	must_fault(NP, VEC * 8 + 2)
	orb $0x80, idt64 + VEC * 16 + 5
	END
	CASE "delivery: a 16-bit gate"
	movb $0xe6, idt64 + VEC * 16 + 5
	try(1f)
	int $VEC
1:	must_fault(GP, VEC * 8 + 2)
	movb $0xee, idt64 + VEC * 16 + 5
	END
	CASE "delivery: a gate to an address that is not canonical"
	movl $0x8000, idt64 + VEC * 16 + 8
	try(1f)
	int $VEC
1:	must_fault(GP, 0)
	movl $0, idt64 + VEC * 16 + 8
	END
	CASE "delivery: beyond the IDT"
	movw $VEC * 16 + 14, idtr64
	lidt idtr64
	try(1f)
	int $VEC
1:	movw $256 * 16 - 1, idtr64
	lidt idtr64
	must_fault(GP, VEC * 8 + 2)
	END
	CASE "delivery: from compatibility mode at level 0"
	movl $1f, resume
	mov %rsp, resume_sp
	mov %rsp, %rbx
	ljmp *2f
2:	.long 3f
	.word SEL_CODE32
	.code32
3:	ud2
	.code64
1:	must_fault(UD, NOERR)
	must_eq($SEL_CODE32, fault_cs)
	must_eq64($3b, fault_ip)
	must_eq64(%rbx, fault_sp)
	END

	/* --- Call gates --- */
	CASE "call gate: 16 bytes, from level 3, no parameters"
	mov $1f, %eax
	call user_call64
	must_fault(VEC, NOERR)
	must_eq64($ring0_top - 32, fault_sp)
	must_eq($KCODE64, fault_cs)
	must_eq64($2f, ring0_top - 32)
	must_eq64($UCODE64, ring0_top - 24)
	must_eq64($USER_STACK, ring0_top - 16)
	must_eq64($UDATA, ring0_top - 8)
	jmp 9f
1:	lcall *3f
2:	nop
3:	.long 0
	.word GATE64 + 3
	END
	CASE "call gate: to compatibility code"
	movl $0, PAGE0
	movw $GATE32, PAGE0 + 4
	try(1f)
	lcall *PAGE0
1:	must_fault(GP, SEL_CODE32)
	END
	CASE "call gate: its upper half must have type 0"
	movl $0x0800, gdt + GATE64 + 12
	movw $GATE64, PAGE0 + 4
	try(1f)
	lcall *PAGE0
1:	movl $0, gdt + GATE64 + 12
	must_fault(GP, GATE64)
	END

	/* --- IRET --- */
	CASE "IRETQ: takes SS and RSP at the same level"
	mov %rsp, %rbx
	push $KDATA64
	push $PAGE1
	push $FL_CF | 2
	push $KCODE64
	push $1f
	iretq
1:	mov %rsp, %rcx
	setc %al
	mov %rbx, %rsp
	movzbl %al, %eax
	must_eq64($PAGE1, %rcx)
	must_eq64($1, %rax)
	END
	CASE "IRETQ: a null SS at level 0"
	mov %rsp, %rbx
	push $0
	push %rbx
	push $2
	push $KCODE64
	push $1f
	try(1f)
	iretq
1:	must_eq($NONE, fault_vector)
	mov %ss, %eax
	must_eq($0, %eax)
	END
	FAULT "IRETQ: a null SS for level 3 in compatibility mode", GP, 0, \
	    "push $3; push $0; push $2; push $UCODE; push $0", "iretq"
	FAULT "IRETQ: an address that is not canonical", GP, 0, \
	    "mov %rsp, %rbx; push $KDATA64; push %rbx; push $2; push $KCODE64; mov $1, %eax; \
	    shl $47, %rax; push %rax", "iretq"
	FAULT "IRETQ: NT", GP, 0, "mov %rsp, %rbx; push $KDATA64; push %rbx; push $2; \
	    push $KCODE64; push $81f; push $FL_NT | 2; popfq", "iretq"
	FAULT "IRETQ: SS of another level", GP, "UDATA - 3", \
	    "mov %rsp, %rbx; push $UDATA; push %rbx; push $2; push $KCODE64; push $81f", "iretq"
	FAULT "IRETQ: beyond the limit of compatibility code", GP, 0, \
	    "push $UDATA; push $USER_STACK; push $2; push $SEL_SHORT + 3; push $16", "iretq"
	CASE "IRET of 4 bytes in 64-bit mode"
	mov %rsp, %rbx
	sub $20, %rsp
	movl $1f, (%rsp)
	movl $KCODE64, 4(%rsp)
	movl $FL_CF | 2, 8(%rsp)
	mov %ebx, 12(%rsp)
	movl $KDATA64, 16(%rsp)
	.byte 0xcf
1:	setc %al
	movzbl %al, %eax
	must_eq64(%rbx, %rsp)
	must_eq64($1, %rax)
	END
	USER64 "IRETQ: at level 3 to an inner one", GP, KCODE64, \
	    "push $KDATA64; push $0; push $2; push $KCODE64; push $0", "iretq"
	CASE "IRETQ: VM is ignored"
	mov %rsp, %rbx
	push $KDATA64
	push %rbx
	push $FL_VM | 2
	push $KCODE64
	push $1f
	try(1f)
	iretq
1:	must_eq($NONE, fault_vector)
	pushfq
	pop %rax
	must_bits(0, FL_VM, %eax)
	END

	/* --- SYSCALL and SYSRET --- */
	SET_MSR MSR_STAR, 0, "SYSRET_BASE << 16 | KCODE64"
	SET_MSR MSR_LSTAR, syscall_target, 0
	SET_MSR MSR_CSTAR, syscall_compat, 0
	SET_MSR MSR_SFMASK, "FL_DF | FL_CF", 0
	CASE "SYSCALL: RCX, R11, selectors, SFMASK, not the stack"
	movl $FL_DF | FL_CF | FL_ZF | 2, user_flags
	mov $1f, %eax
	call user_call64
	movl $2, user_flags
	must_fault(USER_EXIT, NOERR)
	must_eq64($2f, seen)	/* RCX */
	must_bits(FL_DF | FL_CF | FL_ZF, FL_DF | FL_CF | FL_ZF | FL_RF, seen + 8)	/* R11 */
	must_bits(FL_ZF, FL_DF | FL_CF | FL_ZF, seen + 16)	/* flags inside */
	must_eq($KCODE64, seen + 24)
	must_eq($KDATA64, seen + 28)
	must_eq64($USER_STACK, seen + 32)
	/* and back */
	must_eq($UCODE64, fault_cs)
	must_eq($UDATA, fault_ss)
	must_bits(FL_DF | FL_CF | FL_ZF, FL_DF | FL_CF | FL_ZF, fault_flags)
	must_eq64($USER_STACK, fault_sp)
	jmp 9f
1:	syscall
2:	int $USER_EXIT
	END
	CASE "SYSRET: to 32-bit code"
	movl $1f, resume
	mov %rsp, resume_sp
	mov $2f, %ecx
	mov $FL_CF | 2, %r11d
	sysretl
	.code32
2:	inc %ebx
	int $USER_EXIT
	.code64
1:	must_fault(USER_EXIT, NOERR)
	must_eq($UCODE, fault_cs)
	must_eq($UDATA, fault_ss)
	must_bits(FL_CF, FL_CF, fault_flags)
	END
	USER64 "SYSRET: at level 3", GP, 0, "mov $85f, %ecx; 85:", "sysretq"
	CASE "SYSCALL: EFER.SCE clear"
	mov $EFER, %ecx
	rdmsr
	and $~EFER_SCE, %eax
	wrmsr
	mov $1f, %eax
	call user_call64
	mov fault_vector, %ebx
	mov $EFER, %ecx
	rdmsr
	or $EFER_SCE, %eax
	wrmsr
	must_eq($UD, %ebx)
	must_eq64($1f, fault_ip)
	jmp 9f
1:	syscall
	END
	CASE "SYSCALL: from compatibility mode (AMD)"
	xor %eax, %eax
	cpuid
	cmp $0x68747541, %ebx	/* "Auth" */
	skip_if ne
	mov $83f, %eax
	mov $UCODE, %edx
	call user_call_cs
	must_fault(USER_EXIT, NOERR)
	must_eq64($84f, seen)
	must_eq($KCODE64, seen + 24)
	must_eq($0xc057a9, seen + 40)
	jmp 9f
	.code32
83:	syscall
84:	int $USER_EXIT
	.code64
	END

	/* --- SYSENTER --- */
	SET_MSR MSR_SYSENTER_CS, KCODE, 0
	SET_MSR MSR_SYSENTER_ESP, ring0_top, 0
	SET_MSR MSR_SYSENTER_EIP, sysenter_target, 0
	CASE "SYSENTER in long mode: #UD (AMD)"
	xor %eax, %eax
	cpuid
	cmp $0x68747541, %ebx
	skip_if ne
	mov $1f, %eax
	call user_call64
	must_fault(UD, NOERR)
	must_eq64($1f, fault_ip)
	jmp 9f
1:	sysenter
	END
	CASE "SYSENTER in long mode: to 64-bit code (Intel)"
	xor %eax, %eax
	cpuid
	cmp $0x756e6547, %ebx	/* "Genu" */
	skip_if ne
	mov $1f, %eax
	call user_call64
	must_fault(VEC, NOERR)
	must_eq($KCODE + 0x10, fault_cs)
	must_eq64($ring0_top, fault_sp)
	jmp 9f
1:	sysenter
	END

	/* --- Bits and pieces --- */
	CASE "RIP-relative addresses"
	mov 1f(%rip), %eax
	must_eq($0x90909090, %eax)
	jmp 9f
1:	.long 0x90909090
	END
	CASE "MOV with an address of 64 bits"
	movl $0x12344321, PAGE0
	movabs PAGE0, %eax
	must_eq($0x12344321, %eax)
	END
	CASE "CMPXCHG16B: not aligned is #GP"
	xor %eax, %eax
	try(1f)
	cmpxchg16b PAGE0 + 8
1:	must_fault(GP, 0)
	END
	CASE "15 bytes, and one more"
	try(1f)
	.fill 14, 1, 0x66
	nop
1:	must_eq($NONE, fault_vector)
	try(1f)
2:	.fill 15, 1, 0x66
	nop
1:	must_fault(GP, 0)
	must_eq64($2b, fault_ip)
	END
	call long_leave
	bits 32

	/* --- SYSENTER and SYSCALL in 32-bit protected mode --- */
	CASE "SYSENTER and SYSEXIT in protected mode"
	mov $MSR_SYSENTER_ESP, %ecx
	mov $ring0_top, %eax
	xor %edx, %edx
	wrmsr
	mov $MSR_SYSENTER_EIP, %ecx
	mov $sysenter32, %eax
	wrmsr
	movl $FL_IF | FL_CF | 2, user_flags
	mov $1f, %eax
	call user_call
	movl $2, user_flags
	must_fault(USER_EXIT, NOERR)
	must_eq($KCODE, seen)
	must_eq($KDATA, seen + 4)
	must_eq($ring0_top, seen + 8)
	must_bits(0, FL_IF, seen + 12)
	must_eq($UCODE, fault_cs)
	must_eq($UDATA, fault_ss)
	must_eq($USER_STACK - 64, fault_sp)
	jmp 9f
1:	sysenter
sysenter_back:
	int $USER_EXIT
	END
	CASE "SYSENTER: a null CS is #GP"
	mov $MSR_SYSENTER_CS, %ecx
	xor %eax, %eax
	xor %edx, %edx
	wrmsr
	mov $1f, %eax
	call user_call
	must_fault(GP, 0)
	must_eq($1f, fault_ip)
	jmp 9f
1:	sysenter
	END
	USER "SYSEXIT at level 3", GP, 0, "", "sysexit"
	ret

	.code64
see_ss:
	mov %ss, %eax
	mov %eax, seen
	ret
gate_target:
	int $VEC
syscall_target:
	mov %rcx, seen
	mov %r11, seen + 8
	mov %rsp, seen + 32
	mov $ring0_top, %esp
	pushfq
	popq seen + 16
	mov %cs, %eax
	mov %eax, seen + 24
	mov %ss, %eax
	mov %eax, seen + 28
	mov seen + 32, %rsp
	sysretq
syscall_compat:
	mov %rcx, seen
	mov %cs, %eax
	mov %eax, seen + 24
	movl $0xc057a9, seen + 40
	sysretl
sysenter_target:
	int $VEC
	.code32
sysenter32:
	mov %cs, %eax
	mov %eax, seen
	mov %ss, %eax
	mov %eax, seen + 4
	mov %esp, seen + 8
	pushf
	popl seen + 12
	mov $sysenter_back, %edx
	mov $USER_STACK - 64, %ecx
	sysexit

	.bss
	.balign 8
seen:	.skip 64
