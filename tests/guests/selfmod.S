/*
 * Code that changes while it runs (SDM 3, 8.1.3): decoded code must never be executed in place
 * of what memory holds.
 */
#include "guest.h"

	/* MOV $n, %eax; RET: six bytes, of which the second is n. */
	.set OP_MOV_EAX, 0xb8
	.set OP_RET, 0xc3
	.set LOOPS, 300

/* Writes MOV $value, %eax; RET at address. */
.macro emit_return address, value
	movb $OP_MOV_EAX, \address
	movl $\value, \address + 1
	movb $OP_RET, \address + 5
.endm

	.text
	.globl guest_main
guest_main:
	CASE "a function rewritten between calls"
	mov $LOOPS, %edi
	mov $PAGE0 + 0x100, %ebx
	movb $OP_MOV_EAX, (%ebx)
	movb $OP_RET, 5(%ebx)
1:	mov %edi, 1(%ebx)
	call *%ebx
	must_eq(%edi, %eax)
	dec %edi
	jnz 1b
	END

	CASE "the next instruction, every time"
	mov $LOOPS, %edi
	xor %ebp, %ebp
1:	mov %edi, 2f + 1
2:	mov $0, %eax
	must_eq(%edi, %eax)
	dec %edi
	jnz 1b
	END

	CASE "an instruction further ahead in the same block"
	mov $LOOPS, %edi
1:	mov %edi, 2f + 1
	nop
	mov %edi, %ecx
	add $3, %ecx
	xor %esi, %esi
2:	mov $0, %eax
	lea 3(%eax), %edx
	must_eq(%edi, %eax)
	must_eq(%ecx, %edx)
	dec %edi
	jnz 1b
	END

	CASE "an instruction becomes a longer one"
	mov $2, %edi
1:	/* first 4 NOPs, then ADD $0x10, %eax and a NOP */
	xor %eax, %eax
2:	nop
	nop
	nop
	nop
	mov %eax, seen(, %edi, 4)
	movb $0x83, 2b
	movw $0x10c0, 2b + 1
	dec %edi
	jnz 1b
	must_eq($0, seen + 8)
	must_eq($0x10, seen + 4)
	END

	CASE "what follows a REP STOS, by it"
	mov $1f, %edi
	mov $0x90, %al
	mov $2f - 1f, %ecx
	cld
	try(3f)
	rep stosb
1:	ud2
	ud2
2:	nop
3:	must_eq($NONE, fault_vector)
	must_eq($0, %ecx)
	END

	CASE "a jump's target changes"
	mov $LOOPS, %edi
	xor %ebx, %ebx
	xor %ebp, %ebp
1:	mov %edi, %eax
	and $1, %eax
	/* JMP +0 or JMP +1: over the INC or not */
	mov %al, 2f + 1
2:	jmp 3f
3:	inc %ebx	/* one byte in 32-bit code */
	inc %ebp
	dec %edi
	jnz 1b
	must_eq($LOOPS / 2, %ebx)
	must_eq($LOOPS, %ebp)
	END

	CASE "a loop that ends itself"
	/* The INC at the end of the block becomes a RET. */
	mov $0, %eax
	mov $50, %ecx
	movb $0x40, 2f
	call 1f
	must_eq($50, %eax)
	jmp 9f
1:	cmp %ecx, %eax
	jb 2f
	movb $OP_RET, 2f
	nop
2:	inc %eax
	jmp 1b
	END

	CASE "code across two pages, either half rewritten"
	mov $PAGE1 - 3, %ebx
	mov $LOOPS, %edi
	movb $OP_MOV_EAX, (%ebx)
	movb $OP_RET, 5(%ebx)
	movl $0, 1(%ebx)
1:	mov %edi, %ecx
	movb %cl, 1(%ebx)	/* in the first page */
	call *%ebx
	movzbl %cl, %edx
	must_eq(%edx, %eax)
	movb %cl, 4(%ebx)	/* in the second */
	call *%ebx
	movzbl %cl, %edx
	mov %edx, %ecx
	shl $24, %ecx
	or %edx, %ecx
	must_eq(%ecx, %eax)
	movb $0, 4(%ebx)
	dec %edi
	jnz 1b
	END

	CASE "by a store across two pages"
	emit_return PAGE1, 0
	mov $LOOPS, %edi
1:	mov %edi, %edx
	shl $16, %edx
	or $OP_MOV_EAX << 8, %edx
	mov %edx, PAGE1 - 1
	mov $PAGE1, %eax
	call *%eax
	movzwl %di, %ecx
	must_eq(%ecx, %eax)
	dec %edi
	jnz 1b
	END

	CASE "by REP MOVS"
	mov $LOOPS, %ebx
	emit_return PAGE2, 0
1:	mov %ebx, PAGE2 + 1
	mov $PAGE2, %esi
	mov $PAGE0 + 0x200, %edi
	mov $6, %ecx
	rep movsb
	mov $PAGE0 + 0x200, %eax
	call *%eax
	must_eq(%ebx, %eax)
	dec %ebx
	jnz 1b
	END

	CASE "by every kind of store"
	mov $PAGE0 + 0x300, %ebx
	emit_return PAGE0 + 0x300, 0x100
.macro CHANGED want, code
	\code
	call *%ebx
	must_eq_at __LINE__, $\want, %eax
.endm
	CHANGED 0x100, "nop"
	CHANGED 0x101, "addl $1, 1(%ebx)"
	CHANGED 0x102, "incl 1(%ebx)"
	CHANGED 0x104, "lock addl $2, 1(%ebx)"
	CHANGED 0x105, "mov $0x105, %ecx; xchg %ecx, 1(%ebx)"
	CHANGED 0x106, "mov $0x105, %eax; mov $0x106, %ecx; lock cmpxchg %ecx, 1(%ebx)"
	CHANGED 0x108, "mov $2, %ecx; lock xadd %ecx, 1(%ebx)"
	CHANGED 0x109, "btsl $0, 1(%ebx)"
	CHANGED 0x212, "shll $1, 1(%ebx)"
	CHANGED 0x2ff, "cmp %eax, %eax; setz %cl; movb $0xff, 1(%ebx)"
	CHANGED 0x201, "cmp %eax, %eax; setz 1(%ebx)"
	CHANGED 0x20a, "mov $0x0a, %al; lea 1(%ebx), %edi; stosb"
	CHANGED 0x777, "mov $0x777, %ecx; movd %ecx, %xmm0; movd %xmm0, 1(%ebx)"
	CHANGED 0x778, "mov $0x778, %ecx; movnti %ecx, 1(%ebx)"
	CHANGED 0x779, "movl $0x779, seen; fildl seen; fistpl 1(%ebx)"
	CHANGED 0x77a, "mov %esp, %ebp; lea 5(%ebx), %esp; push $0x77a; mov %ebp, %esp"
	CHANGED 0x77b, "mov $0x77b, %ecx; movd %ecx, %mm0; movd %mm0, 1(%ebx); emms"
	END

	CASE "by CMPXCHG8B"
	mov $PAGE0 + 0x308, %esi
	emit_return PAGE0 + 0x308, 0x11
	call *%esi
	mov PAGE0 + 0x308, %eax
	mov PAGE0 + 0x30c, %edx
	mov $0x2200 | OP_MOV_EAX, %ebx
	mov $OP_RET << 8, %ecx
	lock cmpxchg8b PAGE0 + 0x308
	call *%esi
	must_eq($0x22, %eax)
	END

	CASE "data beside code does not disturb it"
	emit_return PAGE0 + 0x400, 0x31
	mov $LOOPS, %edi
	mov $PAGE0 + 0x400, %ebx
1:	mov %edi, PAGE0 + 0x408
	call *%ebx
	must_eq($0x31, %eax)
	must_eq(%edi, PAGE0 + 0x408)
	dec %edi
	jnz 1b
	END

	/* --- With paging: another address for the same memory --- */
	call long_enter
	bits 64
	movl $PAGE0 | PTE_P | PTE_W, PT_TEST
	movl $PAGE0 | PTE_P | PTE_W, PT_TEST + 8
	movl $PAGE1 | PTE_P | PTE_W, PT_TEST + 16
	mov $VIRT >> 12, %ebp
	shl $12, %rbp

	CASE "written at another address"
	emit_return PAGE0, 0
	mov $LOOPS, %edi
1:	mov %edi, 1(%rbp)
	mov $PAGE0, %eax
	call *%rax
	must_eq(%edi, %eax)
	dec %edi
	jnz 1b
	END

	CASE "executed at another address"
	emit_return PAGE0, 0
	mov $LOOPS, %edi
	lea 0x1000(%rbp), %rbx
1:	mov %edi, PAGE0 + 1
	call *%rbx
	must_eq(%edi, %eax)
	call *%rbp
	must_eq(%edi, %eax)
	dec %edi
	jnz 1b
	END

	CASE "the page changes under the address"
	emit_return PAGE0, 1
	emit_return PAGE1, 2
	mov $LOOPS, %edi
1:	movl $PAGE0 | PTE_P | PTE_W, PT_TEST
	invlpg (%rbp)
	call *%rbp
	must_eq($1, %eax)
	movl $PAGE1 | PTE_P | PTE_W, PT_TEST
	invlpg (%rbp)
	call *%rbp
	must_eq($2, %eax)
	dec %edi
	jnz 1b
	movl $PAGE0 | PTE_P | PTE_W, PT_TEST
	invlpg (%rbp)
	END

	CASE "the second page of an instruction changes"
	/* At 0xffd: MOV $imm, %eax with two bytes of imm in the next page */
	lea 0x1ffd(%rbp), %rbx
	movb $OP_MOV_EAX, PAGE0 + 0xffd
	movw $0x1111, PAGE0 + 0xffe
	movw $0x2222, PAGE1
	movb $OP_RET, PAGE1 + 2
	movw $0x3333, PAGE2
	movb $OP_RET, PAGE2 + 2
	mov $LOOPS, %edi
1:	movl $PAGE1 | PTE_P | PTE_W, PT_TEST + 16
	invlpg 0x2000(%rbp)
	call *%rbx
	must_eq($0x22221111, %eax)
	movl $PAGE2 | PTE_P | PTE_W, PT_TEST + 16
	invlpg 0x2000(%rbp)
	call *%rbx
	must_eq($0x33331111, %eax)
	dec %edi
	jnz 1b
	END

	CASE "the second page of an instruction goes away"
	lea 0x1ffd(%rbp), %rbx
	movl $0, PT_TEST + 16
	invlpg 0x2000(%rbp)
	try(1f)
	call *%rbx
1:	must_fault(PF, ERR_I)
	must_eq64(%rbx, fault_ip)
	lea 0x2000(%rbp), %rcx
	must_eq64(%rcx, fault_cr2)
	END

	CASE "the same bytes as 64-bit and as 32-bit code"
	/* 40 ff c0: INC %eax with a prefix, or INC %eax twice; then a far RET of 32-bit size. */
	movl $0xcbc0ff40, PAGE0
	mov $LOOPS, %edi
1:	xor %eax, %eax
	sub $8, %rsp
	movl $2f, (%rsp)
	movl $KCODE64, 4(%rsp)
	mov $PAGE0, %ecx
	jmp *%rcx
2:	must_eq($1, %eax)
	xor %eax, %eax
	sub $8, %rsp
	movl $2f, (%rsp)
	movl $KCODE64, 4(%rsp)
	ljmp *3f
3:	.long PAGE0
	.word KCODE
2:	must_eq($2, %eax)
	dec %edi
	jnz 1b
	END
	call long_leave
	bits 32
	ret

	.bss
	.balign 8
seen:	.skip 16
