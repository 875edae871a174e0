/*
 * Real mode: there and back, and its interrupt handlers.
 */
#include "guest.h"

	.text
	.code32
	.globl real_call
/* Runs the 16-bit code at EAX in real mode until it jumps to real_leave; fails the case if that
 * left something in fail_line or met an exception without try(). */
real_call:
	movl $0, fail_line
	mov %eax, real_entry
	mov %esp, real_sp
	mov $256, %ecx
	mov $real_stubs, %eax
	xor %edi, %edi
1:	mov %eax, (%edi)
	add $8, %eax
	add $4, %edi
	loop 1b
	lidt real_idtr
	ljmp $CODE16, $real_enter

	.globl real_returned
real_returned:
	mov $KDATA, %eax
	mov %eax, %ss
	mov real_sp, %esp
	call segments32
	lidt idtr32
	cmpl $0, fail_line
	jne case_fail32
	ret

	.section .low, "awx"
	.code16
real_enter:
	mov $DATA16, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	mov %cr0, %eax
	and $~CR0_PE, %eax
	mov %eax, %cr0
	ljmp $0, $1f
1:	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %fs
	mov %ax, %gs
	mov %ax, %ss
	mov $0x7000, %esp
	movl $real_unexpected, resume
	movl $NONE, fault_vector
	jmp *real_entry

real_unexpected:
	movl $-1, fail_line

	.globl real_leave
real_leave:
	cli
	xor %ax, %ax
	mov %ax, %ds
	lgdtl gdtr
	mov %cr0, %eax
	or $CR0_PE, %eax
	mov %eax, %cr0
	ljmpl $KCODE, $real_returned

	.globl real_stubs
	.set VECTOR, 0
	.balign 8
real_stubs:
	.rept 256
	.balign 8
	pushw $VECTOR
	jmp real_common
	.set VECTOR, VECTOR + 1
	.endr

real_common:
	pushal
	mov %cs, %ax
	mov %ax, %ds
	cld
	mov %esp, %ebp
	movzwl 32(%bp), %eax
	mov %eax, fault_vector
	movl $NOERR, fault_error
	movzwl 34(%bp), %eax
	mov %eax, fault_ip
	movzwl 36(%bp), %eax
	mov %eax, fault_cs
	movzwl 38(%bp), %eax
	mov %eax, fault_flags
	lea 40(%bp), %ax
	mov %ax, fault_sp
	mov %ss, fault_ss
	/* By the stack segment: it need not be 0. */
	mov $8, %cx
	lea 28(%bp), %bp
	mov $fault_regs, %di
1:	mov (%bp), %eax
	mov %eax, (%di)
	sub $4, %bp
	add $8, %di
	loop 1b
	mov %cs, %ax
	mov %ax, %ss
	mov resume_sp, %sp
	mov %ax, %es
	mov %ax, %fs
	mov %ax, %gs
	pushw resume
	movw $real_unexpected, resume
	pushw $2
	popfw
	mov fault_regs, %eax
	mov fault_regs + 8, %ecx
	mov fault_regs + 16, %edx
	mov fault_regs + 24, %ebx
	mov fault_regs + 40, %ebp
	mov fault_regs + 48, %esi
	mov fault_regs + 56, %edi
	ret

	.balign 4
real_entry:	.long 0
real_sp:	.long 0
	.globl real_idtr
real_idtr:	.word 0x3ff
	.long 0
