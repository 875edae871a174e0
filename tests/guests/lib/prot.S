/*
 * 32-bit protected mode: the IDT, the handlers, and running code at level 3.
 */
#include "guest.h"

	.text
	.code32
	.globl prot_init
prot_init:
	lgdt gdtr
	ljmp $KCODE, $1f
1:	call segments32
	mov $stubs32, %eax
	mov $idt32, %edi
	xor %ecx, %ecx
1:	mov %eax, %edx
	and $0xffff, %edx
	or $KCODE << 16, %edx
	mov %edx, (%edi, %ecx, 8)
	mov %eax, %edx
	and $0xffff0000, %edx
	or $0x8e00, %edx
	mov %edx, 4(%edi, %ecx, 8)
	add $16, %eax
	inc %ecx
	cmp $256, %ecx
	jne 1b
	/* What level 3 may call. */
	orl $0x6000, idt32 + BP * 8 + 4
	orl $0x6000, idt32 + OF * 8 + 4
	orl $0x6000, idt32 + USER_EXIT * 8 + 4

	.globl prot_tables
/* Loads the IDT and the TSS. Clobbers EAX. */
prot_tables:
	lidt idtr32
	movl $ring0_top, tss32 + 4
	movl $KDATA, tss32 + 8
	movl $104 << 16, tss32 + 100
	mov $tss32, %eax
	mov %ax, gdt + TSS + 2
	shr $16, %eax
	mov %al, gdt + TSS + 4
	mov %ah, gdt + TSS + 7
	movw $TSS32_LIMIT, gdt + TSS
	movw $ACC_TSS32, gdt + TSS + 5
	mov $TSS, %eax
	ltr %ax
	ret

/* The kernel's data segments; an SS of 0 base, so ESP goes on meaning the same. Clobbers EAX. */
	.globl segments32
segments32:
	mov $KDATA, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	ret

	.set VECTOR, 0
	.balign 16
stubs32:
	.rept 256
	.balign 16
	/* Those with an error code: 8, 10 to 14, 17, 21 */
	.ifeq (VECTOR < 32) & ((0x00227d00 >> (VECTOR & 31)) & 1)
	push $NOERR
	.endif
	push $VECTOR
	jmp common32
	.set VECTOR, VECTOR + 1
	.endr

common32:
	pusha
	push %ds
	push %es
	push %fs
	push %gs
	mov $KDATA, %eax
	mov %eax, %ds
	mov %eax, %es
	cld
	mov FRAME_VECTOR(%esp), %eax
	mov hooks(, %eax, 4), %eax
	test %eax, %eax
	jz 1f
	mov %esp, %ebp
	call *%eax
	pop %gs
	pop %fs
	pop %es
	pop %ds
	popa
	add $8, %esp
	iret

1:	mov %esp, %ebp
	mov FRAME_VECTOR(%ebp), %eax
	mov %eax, fault_vector
	mov FRAME_ERROR(%ebp), %eax
	mov %eax, fault_error
	mov FRAME_IP(%ebp), %eax
	mov %eax, fault_ip
	mov FRAME_CS(%ebp), %eax
	mov %eax, fault_cs
	mov FRAME_FLAGS(%ebp), %eax
	mov %eax, fault_flags
	mov %cr2, %eax
	mov %eax, fault_cr2
	lea FRAME_IP(%ebp), %eax
	mov %eax, fault_frame
	/* PUSHA's order is that of the numbers, upside down. */
	mov $8, %ecx
	lea 44(%ebp), %esi
	mov $fault_regs, %edi
2:	mov (%esi), %eax
	mov %eax, (%edi)
	movl $0, 4(%edi)
	sub $4, %esi
	add $8, %edi
	loop 2b
	testl $FL_VM, FRAME_FLAGS(%ebp)
	jnz 4f
	/* Selectors: what pushes them may leave the upper half as it was. */
	movzwl 12(%ebp), %eax
	mov %eax, fault_segs
	movzwl 8(%ebp), %eax
	mov %eax, fault_segs + 4
	movzwl 4(%ebp), %eax
	mov %eax, fault_segs + 8
	movzwl (%ebp), %eax
	mov %eax, fault_segs + 12
	testb $3, FRAME_CS(%ebp)
	jnz 3f
	lea FRAME_SP(%ebp), %eax
	mov %eax, fault_sp
	mov %ss, %eax
	mov %eax, fault_ss
	jmp 5f
4:	movzwl 80(%ebp), %eax
	mov %eax, fault_segs
	movzwl 76(%ebp), %eax
	mov %eax, fault_segs + 4
	movzwl 84(%ebp), %eax
	mov %eax, fault_segs + 8
	movzwl 88(%ebp), %eax
	mov %eax, fault_segs + 12
3:	mov FRAME_SP(%ebp), %eax
	mov %eax, fault_sp
	movzwl FRAME_SS(%ebp), %eax
	mov %eax, fault_ss

5:	mov resume, %edx
	movl $case_unexpected32, resume
	call segments32
	mov resume_sp, %esp
	push %edx
	push $2
	popf
	mov fault_regs, %eax
	mov fault_regs + 8, %ecx
	mov fault_regs + 16, %edx
	mov fault_regs + 24, %ebx
	mov fault_regs + 40, %ebp
	mov fault_regs + 48, %esi
	mov fault_regs + 56, %edi
	ret

/* Runs EAX at level 3 with user_flags, until the first exception or interrupt there; see
 * fault_*. Other registers are passed on. */
	.globl user_call, user_flags
user_call:
	popl resume
	mov %esp, resume_sp
	movl $NONE, fault_vector
	push $UDATA
	push $USER_STACK
	push user_flags
	push $UCODE
	push %eax
	mov $UDATA, %eax
	mov %eax, %ds
	mov %eax, %es
	iret

	.data
	.balign 4
user_flags:	.quad 2
	.globl idtr32, idt32, tss32
idtr32:	.word 256 * 8 - 1
	.long idt32

	.bss
	.balign 16
idt32:	.skip 256 * 8
	/* With an I/O permission bitmap beyond the limit: no port at level 3. */
tss32:	.skip 0x2080 + 104
	.set TSS32_LIMIT, 103
