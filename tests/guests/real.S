/*
 * Real mode (SDM 3, chapter 20), and the ways into it and out of it.
 */
#include "guest.h"

	.text
	.globl guest_main
guest_main:
	/* --- Interrupts --- */
	REAL "real: INT n pushes FLAGS, CS and IP"
	stc
	mov $0x7000, %sp
	try(1f)
	int $0x42
2:
1:	must_eq($0x42, fault_vector)
	must_eq($2b, fault_ip)
	must_eq($0, fault_cs)
	must_eq($0x7000, fault_sp)
	must_bits(FL_CF, FL_CF, fault_flags)
	END_REAL
	REAL "real: INT3 and INTO"
	try(1f)
	int3
2:
1:	must_eq($BP, fault_vector)
	must_eq($2b, fault_ip)
	try(1f)
	mov $0x7f, %al
	inc %al
	into
2:
1:	must_eq($OF, fault_vector)
	must_eq($2b, fault_ip)
	END_REAL
	REAL "real: an interrupt clears IF and TF, IRET brings them back"
	movw $3f, 0x43 * 4
	sti
	int $0x43
	pushf
	pop %bx
	cli
	movw $0, 0x43 * 4
	movzwl %bx, %ebx
	must_bits(FL_IF, FL_IF, %ebx)
	must_bits(0, FL_IF, real_seen)
	jmp real_leave
3:	pushf
	popw real_seen
	iret
	END_REAL
	REAL "real: #DE saves the instruction's address"
	xor %cx, %cx
	try(1f)
2:	div %cx
1:	must_eq($DE, fault_vector)
	must_eq($2b, fault_ip)
	END_REAL
	REAL "real: BOUND"
	movl $0x00050000, real_seen
	mov $6, %ax
	try(1f)
2:	bound %ax, real_seen
1:	must_eq($BR, fault_vector)
	must_eq($2b, fault_ip)
	END_REAL
	REAL "real: LIDT moves the table"
	mov $0x400, %cx
	xor %si, %si
	mov $0x6000, %di
	cld
	rep movsb
	movw $3f, 0x6000 + 0x44 * 4
	lidt real_idt2
	movl $0, real_seen
	int $0x44
	lidt real_idtr
	must_eq($0x600d, real_seen)
	jmp real_leave
3:	movw $0x600d, real_seen
	iret
	END_REAL
	REAL "real: an interrupt beyond the table is #GP"
	movw $0x20 * 4 - 1, real_idt2
	movl $0, real_idt2 + 2
	lidt real_idt2
	try(1f)
2:	int $0x20
1:	lidt real_idtr
	movw $0x3ff, real_idt2
	movl $0x6000, real_idt2 + 2
	must_eq($GP, fault_vector)
	must_eq($2b, fault_ip)
	END_REAL
	REAL "real: single-step"
	movw $3f, 4
	movl $0, real_seen
	pushf
	orw $FL_TF, (%esp)
	popf
	nop
	nop
	pushf
	andw $~FL_TF, (%esp)
	popf
	must_eq($5, real_seen)
	jmp real_leave
3:	incw real_seen
	iret
	END_REAL

	/* --- Addresses --- */
	REAL "real: a segment is 16 times its selector"
	movl $0x11223344, 0x6120
	mov $0x0610, %ax
	mov %ax, %es
	mov %es:0x20, %ebx
	must_eq($0x11223344, %ebx)
	END_REAL
	REAL "real: no wrap at 1 MiB"
	movl $0x55667788, 0xffe0
	mov $0xffff, %ax
	mov %ax, %es
	movl $0x99aabbcc, %es:0xfff0	/* 0x10ffe0 */
	mov %es:0xfff0, %ebx
	must_eq($0x99aabbcc, %ebx)
	mov 0xffe0, %ebx
	must_eq($0x55667788, %ebx)
	END_REAL
	REAL "real: offsets of 16-bit addressing wrap"
	movl $0xa5a5a5a5, 0x6000
	mov $0x2000, %bx
	mov $0x4000, %si
	mov (%bx, %si), %eax
	must_eq($0xa5a5a5a5, %eax)
	mov $0xf000, %bx
	mov $0x7000, %si
	mov (%bx, %si), %eax
	must_eq($0xa5a5a5a5, %eax)
	END_REAL
	REAL "real: a word at 0xffff is #GP"
	try(1f)
2:	mov 0xffff, %ax
1:	must_eq($GP, fault_vector)
	must_eq($2b, fault_ip)
	END_REAL
	REAL "real: a doubleword at 0xfffd is #GP"
	try(1f)
2:	mov 0xfffd, %eax
1:	must_eq($GP, fault_vector)
	END_REAL
	REAL "real: a 32-bit offset above 0xffff is #GP"
	mov $0x10000, %ebx
	try(1f)
2:	mov (%ebx), %al
1:	must_eq($GP, fault_vector)
	must_eq($2b, fault_ip)
	END_REAL
	REAL "real: a word of the stack at 0xffff is #SS"
	mov $0xffff, %bp
	try(1f)
2:	mov (%bp), %ax
1:	must_eq($SS, fault_vector)
	must_eq($2b, fault_ip)
	END_REAL
	REAL "real: PUSH wraps from 0 to 0xfffe"
	mov $0x5000, %ax
	mov %ax, %ss
	xor %sp, %sp
	push $0x1234
	mov %sp, %bx
	mov %ss:0xfffe, %cx
	xor %ax, %ax
	mov %ax, %ss
	mov $0x7000, %sp
	movzwl %bx, %ebx
	must_eq($0xfffe, %ebx)
	movzwl %cx, %ecx
	must_eq($0x1234, %ecx)
	END_REAL
	REAL "real: a jump beyond 0xffff is #GP"
	try(1f)
2:	jmpl *real_target
1:	must_eq($GP, fault_vector)
	must_eq($2b, fault_ip)
	END_REAL
	REAL "real: far CALL and RET"
	movw $3f, real_seen
	movw $0x0100, real_seen + 2
	subw $0x1000, real_seen
	lcall *real_seen
2:	must_eq($0x0100, real_seen + 4)
	must_eq($2b, real_seen + 8)
	jmp real_leave
3:	movw %cs, real_seen + 4
	mov %sp, %bp
	mov (%bp), %ax
	mov %ax, real_seen + 8
	lret
	END_REAL
	REAL "real: LDS"
	movl $0x06100020, real_seen
	lds real_seen, %bx
	mov %ds, %cx
	xor %ax, %ax
	mov %ax, %ds
	movzwl %bx, %ebx
	must_eq($0x20, %ebx)
	movzwl %cx, %ecx
	must_eq($0x610, %ecx)
	END_REAL
	REAL "real: MOVS wraps SI and DI"
	movb $0x77, 0xffff
	movb $0x78, 0
	mov $0xffff, %si
	mov $0x6000, %di
	mov $2, %cx
	cld
	rep movsb
	movw $real_stubs, 0
	movzwl 0x6000, %eax
	must_eq($0x7877, %eax)
	movzwl %si, %esi
	must_eq($1, %esi)
	END_REAL

	/* --- What real mode does not have --- */
.macro REAL_UD name, insn
	REAL "\name"
	xor %ax, %ax
	try(1f)
2:	\insn
1:	must_eq_at __LINE__, "$UD", fault_vector
	must_eq_at __LINE__, "$2b", fault_ip
	END_REAL
.endm
	REAL_UD "real: LAR is #UD", "lar %ax, %bx"
	REAL_UD "real: LSL is #UD", "lsl %ax, %bx"
	REAL_UD "real: VERR is #UD", "verr %ax"
	REAL_UD "real: SLDT is #UD", "sldt %ax"
	REAL_UD "real: STR is #UD", "str %ax"
	REAL_UD "real: LLDT is #UD", "lldt %ax"
	REAL_UD "real: LTR is #UD", "ltr %ax"
	REAL_UD "real: ARPL is #UD", ".byte 0x63, 0xc3"
	REAL_UD "real: MOV to CS is #UD", ".byte 0x8e, 0xc8"
	REAL_UD "real: LOCK NOP is #UD", ".byte 0xf0, 0x90"
	REAL_UD "real: UD2", "ud2"
	REAL "real: SYSEXIT and SYSENTER are #GP"
	try(1f)
2:	sysexit
1:	must_eq($GP, fault_vector)
	try(1f)
2:	sysenter
1:	must_eq($GP, fault_vector)
	END_REAL
	REAL "real: 16 bytes are no instruction"
	try(1f)
2:	.fill 15, 1, 0x3e
	nop
1:	must_eq($GP, fault_vector)
	must_eq($2b, fault_ip)
	END_REAL
	REAL "real: CR0, CR4 and MSRs are there"
	mov %cr0, %eax
	must_bits(0, CR0_PE, %eax)
	smsw %ax
	must_bits(0, CR0_PE, %eax)
	mov %cr4, %eax
	must_bits(CR4_OSFXSR, CR4_OSFXSR, %eax)
	mov $EFER, %ecx
	rdmsr
	must_bits(0, EFER_LMA, %eax)
	END_REAL
	REAL "real: CR0.PG without CR0.PE is #GP"
	mov %cr0, %eax
	or $CR0_PG, %eax
	try(1f)
2:	mov %eax, %cr0
1:	must_eq($GP, fault_vector)
	must_eq($2b, fault_ip)
	END_REAL
	REAL "real: POPF sets IOPL and NT, IRET too"
	push $0x7002
	popf
	pushf
	pop %bx
	push $2
	popf
	movzwl %bx, %ebx
	must_eq($0x7002, %ebx)
	push $0x7002
	push $0
	push $1f
	iret
1:	pushf
	pop %bx
	push $2
	popf
	movzwl %bx, %ebx
	must_eq($0x7002, %ebx)
	END_REAL
	REAL "real: 32-bit operands"
	mov %esp, %ebp
	pushl $0x12345678
	popl %ebx
	must_eq($0x12345678, %ebx)
	calll 1f
1:	pop %eax
	must_eq($1b, %eax)
	must_eq(%ebp, %esp)
	END_REAL

	/* --- Ways in and out --- */
	REAL "real: a limit loaded in protected mode stays (big real mode)"
	mov %cr0, %eax
	or $CR0_PE, %eax
	mov %eax, %cr0
	jmp 1f
1:	mov $KDATA, %bx
	mov %bx, %es
	and $~CR0_PE, %eax
	mov %eax, %cr0
	jmp 1f
1:	mov $PAGE0, %edi
	movl $0xfeedf00d, %es:(%edi)
	mov %es:(%edi), %ebx
	must_eq($0xfeedf00d, %ebx)
	/* A new selector gives a new base and leaves the limit. */
	mov $0x1000, %ax
	mov %ax, %es
	mov %es:-0x10000(%edi), %ebx
	must_eq($0xfeedf00d, %ebx)
	/* Back to 64 KiB for those who come later. */
	mov %cr0, %eax
	or $CR0_PE, %eax
	mov %eax, %cr0
	jmp 1f
1:	mov $DATA16, %bx
	mov %bx, %es
	and $~CR0_PE, %eax
	mov %eax, %cr0
	jmp 1f
1:	xor %ax, %ax
	mov %ax, %es
	END_REAL
	REAL "real: to 16-bit protected mode and back"
	movl $0, real_seen
	mov %cr0, %eax
	or $CR0_PE, %eax
	mov %eax, %cr0
	ljmp $CODE16, $1f
1:	movw %cs, real_seen
	str %bx
	mov %bx, real_seen + 2
	/* 16 bits are the default here: this pushes words. */
	mov %sp, %bp
	push $1
	sub %sp, %bp
	pop %bx
	mov %bp, real_seen + 4
	mov %cr0, %eax
	and $~CR0_PE, %eax
	mov %eax, %cr0
	ljmp $0, $1f
1:	must_eq($TSS << 16 | CODE16, real_seen)
	movzwl real_seen + 4, %eax
	must_eq($2, %eax)
	END_REAL
	REAL "real: LMSW enters protected mode and cannot leave it"
	smsw %ax
	or $CR0_PE, %ax
	lmsw %ax
	ljmp $CODE16, $1f
1:	xor %ax, %ax
	lmsw %ax
	smsw %bx
	mov %cr0, %eax
	and $~CR0_PE, %eax
	or $CR0_MP, %eax
	mov %eax, %cr0
	ljmp $0, $1f
1:	movzwl %bx, %ebx
	must_bits(CR0_PE, CR0_PE | CR0_MP | CR0_TS, %ebx)
	END_REAL
	REAL "real: CS keeps its base until the far jump"
	movl $0, real_seen
	mov %cr0, %eax
	or $CR0_PE, %eax
	mov %eax, %cr0
	jmp 1f
1:	movw %cs, real_seen	/* still 0, a null selector */
	and $~CR0_PE, %eax
	mov %eax, %cr0
	jmp 1f
1:	must_eq($0, real_seen)
	END_REAL
	CASE "real: from 64-bit mode and back"
	call long_enter
	bits 64
	mov $0x123456789abcdef0, %r8
	call long_leave
	bits 32
	mov $real_touch, %eax
	call real_call
	call long_enter
	bits 64
	mov real_seen, %rbp
	call long_leave
	bits 32
	must_eq($0x600d, %ebp)
	END
	ret

	.section .low, "awx"
	.code16
real_touch:
	movl $0x600d, real_seen
	movl $0, real_seen + 4
	jmp real_leave
	.balign 8
real_seen: .skip 16
real_idt2: .word 0x3ff
	.long 0x6000
real_target: .long 0x10000
