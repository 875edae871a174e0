/*
 * Repeated string instructions that meet a page fault, a limit or an interrupt on the way:
 * registers say exactly how far they came, and they go on from there (SDM 2, REP).
 */
#include "guest.h"

	.set PT, PT_TEST
	.set MAPPED, PTE_P | PTE_W

/* Pages 0 to 2 at VIRT, page 3 not there; RBP is VIRT. Pages 0 and 1 hold a pattern. */
.macro STRING name
	CASE "\name"
	call map
.endm

	.text
	.globl guest_main
guest_main:
	call long_enter
	bits 64

	STRING "STOSB: stops at the page"
	lea 0x2ff0(%rbp), %rdi
	mov $100, %ecx
	mov $0x5a, %al
	try(1f)
2:	rep stosb
1:	must_fault(PF, ERR_W)
	must_eq64($2b, fault_ip)
	lea 0x3000(%rbp), %rdx
	must_eq64(%rdx, fault_cr2)
	must_eq64(%rdx, RDI)
	must_eq64($84, RCX)
	must_eq($0x5a5a5a5a, PAGE2 + 0xffc)
	END

	STRING "STOSQ across the page: not a byte of it is written"
	lea 0x2ffc(%rbp), %rdi
	movl $0x12345678, PAGE2 + 0xffc
	mov $2, %ecx
	xor %eax, %eax
	try(1f)
2:	rep stosq
1:	must_fault(PF, ERR_W)
	lea 0x3000(%rbp), %rdx
	must_eq64(%rdx, fault_cr2)
	lea 0x2ffc(%rbp), %rdx
	must_eq64(%rdx, RDI)
	must_eq64($2, RCX)
	must_eq($0x12345678, PAGE2 + 0xffc)
	END

	STRING "MOVSB: the source ends"
	lea 0x2ffd(%rbp), %rsi
	mov %rbp, %rdi
	mov $10, %ecx
	try(1f)
2:	rep movsb
1:	must_fault(PF, 0)
	must_eq64($2b, fault_ip)
	lea 0x3000(%rbp), %rdx
	must_eq64(%rdx, RSI)
	lea 3(%rbp), %rdx
	must_eq64(%rdx, RDI)
	must_eq64($7, RCX)
	END

	STRING "MOVSB: the destination ends"
	mov %rbp, %rsi
	lea 0x2ffd(%rbp), %rdi
	mov $10, %ecx
	try(1f)
	rep movsb
1:	must_fault(PF, ERR_W)
	lea 3(%rbp), %rdx
	must_eq64(%rdx, RSI)
	lea 0x3000(%rbp), %rdx
	must_eq64(%rdx, RDI)
	must_eq64($7, RCX)
	END

	STRING "MOVSL backwards"
	movl $0, PT
	invlpg (%rbp)
	lea 0x1008(%rbp), %rsi
	lea 0x2100(%rbp), %rdi
	mov $10, %ecx
	std
	try(1f)
	rep movsl
1:	must_fault(PF, 0)
	must_bits(FL_DF, FL_DF, fault_flags)
	lea 0xffc(%rbp), %rdx
	must_eq64(%rdx, RSI)
	must_eq64(%rdx, fault_cr2)
	lea 0x20f4(%rbp), %rdx
	must_eq64(%rdx, RDI)
	must_eq64($7, RCX)
	END

	STRING "CMPSB: flags before the fault are of no round but the last"
	lea 0x2ffe(%rbp), %rsi
	mov %rbp, %rdi
	movw $0x2211, PAGE2 + 0xffe
	movw $0x2211, PAGE0
	mov $10, %ecx
	try(1f)
	repe cmpsb
1:	must_fault(PF, 0)
	lea 0x3000(%rbp), %rdx
	must_eq64(%rdx, RSI)
	must_eq64($8, RCX)
	END

	STRING "SCASB finds before the page ends"
	lea 0x2ff8(%rbp), %rdi
	movq $0, PAGE2 + 0xff8
	movb $0x42, PAGE2 + 0xfff
	mov $0x42, %al
	mov $100, %ecx
	try(1f)
	repne scasb
1:	must_eq($NONE, fault_vector)
	lea 0x3000(%rbp), %rdx
	must_eq64(%rdx, %rdi)
	must_eq64($92, %rcx)
	END

	STRING "LODSQ"
	lea 0x2ff0(%rbp), %rsi
	mov $5, %ecx
	movl $0x13579bdf, PAGE2 + 0xff8
	try(1f)
	rep lodsq
1:	must_fault(PF, 0)
	must_eq64($3, RCX)
	must_eq($0x13579bdf, RAX)
	END

	STRING "OUTSB faults before it writes the port"
	lea 0x2fff(%rbp), %rsi
	mov $0xe0, %edx
	movb $0x99, PAGE2 + 0xfff
	mov $2, %ecx
	try(1f)
	rep outsb
1:	must_fault(PF, 0)
	must_eq64($1, RCX)
	END

	STRING "ECX 0 touches nothing"
	lea 0x3000(%rbp), %rdi
	lea 0x3000(%rbp), %rsi
	xor %ecx, %ecx
	try(1f)
	rep movsb
	rep stosq
	repe cmpsb
	repne scasl
	rep lodsw
1:	must_eq($NONE, fault_vector)
	must_eq64($0, %rcx)
	END

	STRING "without REP one round, RCX stays"
	mov %rbp, %rsi
	lea 0x1000(%rbp), %rdi
	mov $5, %ecx
	movsq
	must_eq64($5, %rcx)
	lea 8(%rbp), %rdx
	must_eq64(%rdx, %rsi)
	END

	STRING "overlapping MOVSB repeats the pattern"
	movl $0x44332211, PAGE0
	mov %rbp, %rsi
	lea 4(%rbp), %rdi
	mov $16, %ecx
	rep movsb
	must_eq($0x44332211, PAGE0 + 16)
	movb $0x77, PAGE0
	mov %rbp, %rsi
	lea 1(%rbp), %rdi
	mov $0x1800, %ecx
	rep movsb
	must_eq($0x77777777, PAGE1 + 0x7fc)
	END

	STRING "the fault is mended and the copy goes on"
	/* The hook maps page 3 and returns to the instruction. */
	mov $0x1000 / 4, %ecx
	mov $PAGE0, %edi
	xor %eax, %eax
1:	mov %eax, (%rdi)
	add $1, %eax
	add $4, %rdi
	dec %ecx
	jnz 1b
	movl $mend, hooks + PF * 4
	movl $0, mended
	mov %rbp, %rsi
	lea 0x2800(%rbp), %rdi
	mov $0x1000, %ecx
	rep movsb
	movl $0, hooks + PF * 4
	must_eq($1, mended)
	must_eq64($0, %rcx)
	must_eq($0x1ff, PAGE2 + 0xffc)
	must_eq($0x200, PAGE3)
	must_eq($0x3ff, PAGE3 + 0x7fc)
	END

	STRING "32-bit addresses wrap and clear upper halves"
	mov $-1, %rdi
	mov $PAGE0, %edi
	mov $3, %ecx
	mov $1, %rax
	shl $32, %rax
	or %rax, %rdi
	or %rax, %rcx
	.byte 0x67
	rep stosb
	must_eq64($PAGE0 + 3, %rdi)
	must_eq64($0, %rcx)
	END
	call long_leave
	bits 32

	CASE "16-bit addresses wrap at 64 KiB"
	movb $0, 0x6000
	mov $0x1234ffff, %edi
	mov %edi, %esi
	mov $0xabcd0002, %ecx
	mov 0, %ebx
	movb $0x66, %al
	.byte 0x67
	rep stosb
	mov %ebx, 0
	must_eq($0x12340001, %edi)
	must_eq($0xabcd0000, %ecx)
	END
	ret

	.code64
map:
	mov $VIRT >> 12, %ebp
	shl $12, %rbp
	movq $PAGE0 | MAPPED, PT
	movq $PAGE1 | MAPPED, PT + 8
	movq $PAGE2 | MAPPED, PT + 16
	movq $0, PT + 24
	mov %cr3, %rax
	mov %rax, %cr3
	cld
	ret
mend:
	addl $1, mended
	movq $PAGE3 | MAPPED, PT + 24
	ret
	.code32

	.bss
mended:	.skip 4
