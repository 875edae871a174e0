/*
 * 64-bit mode: there and back, the IDT, the handlers, running code at level 3.
 */
#include "guest.h"

	.text
	.code32
	.globl long_enter, long_user, long_root, long_cr4
/* Called from 32-bit code, returns in 64-bit code: the first 4 GiB mapped to themselves by 2 MiB
 * pages (for level 3 as well if long_user is PTE_U), PT_TEST at VIRT, NX enabled, WP clear. With
 * PML5 in long_root and CR4_LA57 in long_cr4, paging has 5 levels. Clobbers all. */
long_enter:
	mov $PML4, %edi
	mov $0xa000 / 4, %ecx
	xor %eax, %eax
	rep stosl
	movl $PML4 + 7, PML5
	movl $PDPT + 7, PML4
	mov $PDPT, %edi
	mov $PD + 7, %eax
1:	mov %eax, (%edi)
	add $8, %edi
	add $0x1000, %eax
	cmp $PD + 0x4000 + 7, %eax
	jne 1b
	movl $PD_TEST + 7, PDPT + 32
	movl $PT_TEST + 7, PD_TEST
	mov $PD, %edi
	mov $PTE_P | PTE_W | PTE_PS, %eax
	or long_user, %eax
	mov $2048, %ecx
1:	mov %eax, (%edi)
	add $8, %edi
	add $0x200000, %eax
	loop 1b
	mov $stubs64, %eax
	mov $idt64, %edi
	mov $256, %ecx
1:	mov %ax, (%edi)
	movl $KCODE64 | 0x8e000000, 2(%edi)
	mov %eax, %edx
	shr $16, %edx
	mov %edx, 6(%edi)
	movl $0, 8(%edi)
	movl $0, 12(%edi)
	add $16, %eax
	add $16, %edi
	loop 1b
	orb $0x60, idt64 + BP * 16 + 5
	orb $0x60, idt64 + OF * 16 + 5
	orb $0x60, idt64 + USER_EXIT * 16 + 5

	mov %cr4, %eax
	or $CR4_PAE, %eax
	or long_cr4, %eax
	mov %eax, %cr4
	mov long_root, %eax
	mov %eax, %cr3
	mov $EFER, %ecx
	rdmsr
	or $EFER_LME | EFER_NXE | EFER_SCE, %eax
	wrmsr
	mov %cr0, %eax
	or $CR0_PG, %eax
	mov %eax, %cr0
	ljmp $KCODE64, $1f
	.code64
1:	pop %rax	/* a 32-bit return address: half of this is the caller's */
	sub $4, %rsp
	mov %eax, %ebx
	call segments64
	lidt idtr64
	movl $ring0_top, tss64 + 4
	movl $ist_top, tss64 + 36
	movw $104, tss64 + 102
	call tss64_load
	jmp *%rbx

/* Makes the TSS available and loads it. Clobbers EAX. */
	.globl tss64_load
tss64_load:
	mov $tss64, %eax
	movw $103, gdt + TSS
	mov %ax, gdt + TSS + 2
	shr $16, %eax
	mov %al, gdt + TSS + 4
	movw $ACC_TSS32, gdt + TSS + 5
	mov %ah, gdt + TSS + 7
	movq $0, gdt + TSS + 8
	mov $TSS, %eax
	ltr %ax
	ret

/* Called from 64-bit code, returns in 32-bit code without paging. Clobbers all. */
	.globl long_leave
long_leave:
	pop %rbx
	ljmp *1f
1:	.long 2f
	.word KCODE
	.code32
2:	mov %cr4, %eax
	and $~CR4_PCIDE, %eax
	mov %eax, %cr4
	mov %cr0, %eax
	and $~CR0_PG, %eax
	mov %eax, %cr0
	mov $EFER, %ecx
	rdmsr
	and $~(EFER_LME | EFER_NXE | EFER_SCE), %eax
	wrmsr
	mov $CR4_OSFXSR | CR4_OSXMMEXCPT, %eax
	mov %eax, %cr4
	lgdt gdtr
	call segments32
	call prot_tables
	jmp *%ebx

	.code64
	.globl segments64
segments64:
	mov $KDATA64, %eax
	mov %eax, %ds
	mov %eax, %es
	mov %eax, %fs
	mov %eax, %gs
	mov %eax, %ss
	ret

	.set VECTOR, 0
	.balign 16
stubs64:
	.rept 256
	.balign 16
	.ifeq (VECTOR < 32) & ((0x00227d00 >> (VECTOR & 31)) & 1)
	push $NOERR
	.endif
	push $VECTOR
	jmp common64
	.set VECTOR, VECTOR + 1
	.endr

/* The frame, from RSP: R15 to RAX, vector, error code, what the processor pushed. */
	.set AT_VECTOR, 120
common64:
	push %rax
	push %rcx
	push %rdx
	push %rbx
	push %rbp
	push %rsi
	push %rdi
	push %r8
	push %r9
	push %r10
	push %r11
	push %r12
	push %r13
	push %r14
	push %r15
	cld
	mov %rsp, %rbp
	mov AT_VECTOR(%rsp), %eax
	mov hooks(, %rax, 4), %eax
	test %eax, %eax
	jz 1f
	call *%rax
	pop %r15
	pop %r14
	pop %r13
	pop %r12
	pop %r11
	pop %r10
	pop %r9
	pop %r8
	pop %rdi
	pop %rsi
	pop %rbp
	pop %rbx
	pop %rdx
	pop %rcx
	pop %rax
	add $16, %rsp
	iretq

1:	mov AT_VECTOR(%rbp), %eax
	mov %eax, fault_vector
	mov AT_VECTOR + 8(%rbp), %eax
	mov %eax, fault_error
	mov AT_VECTOR + 16(%rbp), %rax
	mov %rax, fault_ip
	mov AT_VECTOR + 24(%rbp), %eax
	mov %eax, fault_cs
	mov AT_VECTOR + 32(%rbp), %rax
	mov %rax, fault_flags
	mov AT_VECTOR + 40(%rbp), %rax
	mov %rax, fault_sp
	mov AT_VECTOR + 48(%rbp), %eax
	mov %eax, fault_ss
	lea AT_VECTOR + 16(%rbp), %rax
	mov %rax, fault_frame
	mov %cr2, %rax
	mov %rax, fault_cr2
	lea 112(%rbp), %rsi
	mov $fault_regs, %edi
	mov $4, %ecx
	call 3f
	add $8, %edi	/* no RSP here */
	mov $11, %ecx
	call 3f
	mov %ds, %eax
	mov %eax, fault_segs
	mov %es, %eax
	mov %eax, fault_segs + 4
	mov %fs, %eax
	mov %eax, fault_segs + 8
	mov %gs, %eax
	mov %eax, fault_segs + 12

	mov resume, %rdx
	movl $case_unexpected64, resume
	call segments64
	mov resume_sp, %rsp
	push %rdx
	push $2
	popfq
	mov fault_regs, %rax
	mov fault_regs + 8, %rcx
	mov fault_regs + 16, %rdx
	mov fault_regs + 24, %rbx
	mov fault_regs + 40, %rbp
	mov fault_regs + 48, %rsi
	mov fault_regs + 56, %rdi
	mov fault_regs + 64, %r8
	mov fault_regs + 72, %r9
	mov fault_regs + 80, %r10
	mov fault_regs + 88, %r11
	mov fault_regs + 96, %r12
	mov fault_regs + 104, %r13
	mov fault_regs + 112, %r14
	mov fault_regs + 120, %r15
	ret
3:	mov (%rsi), %rax
	mov %rax, (%rdi)
	sub $8, %rsi
	add $8, %edi
	loop 3b
	ret

/* Runs RAX at level 3 in the code segment EDX, with user_flags, until the first exception or
 * interrupt there. Other registers are passed on. */
	.globl user_call64, user_call_cs
user_call64:
	mov $UCODE64, %edx
user_call_cs:
	popq resume
	mov %rsp, resume_sp
	movl $NONE, fault_vector
	movl $NOERR, fault_error
	push $UDATA
	push $USER_STACK
	pushq user_flags
	push %rdx
	push %rax
	mov $UDATA, %eax
	mov %eax, %ds
	mov %eax, %es
	iretq

	.data
	.balign 8
long_user:	.long PTE_U
long_root:	.long PML4
long_cr4:	.long 0
	.globl idtr64, idt64, tss64
idtr64:	.word 256 * 16 - 1
	.quad idt64

	.bss
	.balign 16
idt64:	.skip 256 * 16
tss64:	.skip 104
