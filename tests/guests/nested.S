/*
 * Faults during the delivery of others (SDM 3, 6.15, interrupt 8): what is delivered in turn and
 * what becomes a double fault, always with the address of the first.
 */
#include "guest.h"

	.set VEC, 0x81

/* Takes the present bit of a vector's gate away, or gives it back. */
.macro gate_off vector
	andb $0x7f, idt32 + (\vector) * 8 + 5
.endm
.macro gate_on vector
	orb $0x80, idt32 + (\vector) * 8 + 5
.endm
.macro gate64_off vector
	andb $0x7f, idt64 + (\vector) * 16 + 5
.endm
.macro gate64_on vector
	orb $0x80, idt64 + (\vector) * 16 + 5
.endm

	.text
	.globl guest_main
guest_main:
	/* --- Benign first: in turn --- */
	CASE "#UD, its gate not present: #NP with EXT"
	gate_off UD
	try(1f)
2:	ud2
1:	gate_on UD
	must_fault(NP, UD * 8 + 3)
	must_eq($2b, fault_ip)
	END
	CASE "INT3, its gate not present: #NP without EXT, a fault"
	gate_off BP
	try(1f)
2:	int3
1:	gate_on BP
	must_fault(NP, BP * 8 + 2)
	must_eq($2b, fault_ip)
	END
	CASE "INT n, its gate not present: #NP without EXT"
	gate_off VEC
	try(1f)
2:	int $VEC
1:	gate_on VEC
	must_fault(NP, VEC * 8 + 2)
	must_eq($2b, fault_ip)
	END
	CASE "#DB, its gate not present: #NP with EXT, behind the instruction"
	gate_off DB
	try(1f)
	push $FL_TF | 2
	popf
	nop
2:	nop
1:	gate_on DB
	must_fault(NP, DB * 8 + 3)
	must_eq($2b, fault_ip)
	END
	CASE "INT1, its gate not present: #NP with EXT"
	gate_off DB
	try(1f)
2:	.byte 0xf1
1:	gate_on DB
	must_fault(NP, DB * 8 + 3)
	END
	/* --- Contributory twice: #DF --- */
	CASE "#DE, its gate not present: #DF"
	gate_off DE
	xor %ecx, %ecx
	try(1f)
2:	div %ecx
1:	gate_on DE
	must_fault(DF, 0)
	must_eq($2b, fault_ip)
	END
	CASE "#GP, its gate not present: #DF"
	gate_off GP
	mov $GDT_SIZE, %eax
	try(1f)
2:	mov %eax, %es
1:	gate_on GP
	must_fault(DF, 0)
	must_eq($2b, fault_ip)
	END
	CASE "#NP, its gate not present: #DF"
	gate_off NP
	gate_off VEC
	try(1f)
2:	int $VEC
1:	gate_on NP
	gate_on VEC
	must_fault(DF, 0)
	must_eq($2b, fault_ip)
	END
	CASE "#UD, then #NP, whose gate is not present: #DF"
	gate_off UD
	gate_off NP
	try(1f)
2:	ud2
1:	gate_on UD
	gate_on NP
	must_fault(DF, 0)
	must_eq($2b, fault_ip)
	END
	CASE "#GP, beyond the IDT: #DF"
	movw $GP * 8 - 1, idtr32
	lidt idtr32
	mov $GDT_SIZE, %eax
	try(1f)
2:	mov %eax, %es
1:	movw $256 * 8 - 1, idtr32
	lidt idtr32
	must_fault(DF, 0)
	END
	CASE "#UD, its gate to a bad selector: #GP with EXT"
	movw $GDT_SIZE, idt32 + UD * 8 + 2
	try(1f)
2:	ud2
1:	movw $KCODE, idt32 + UD * 8 + 2
	must_fault(GP, GDT_SIZE + 1)
	must_eq($2b, fault_ip)
	END
	CASE "#UD, its gate to null: #GP with EXT only"
	movw $0, idt32 + UD * 8 + 2
	try(1f)
2:	ud2
1:	movw $KCODE, idt32 + UD * 8 + 2
	must_fault(GP, 1)
	END

	/* --- With page faults --- */
	call long_enter
	bits 64
	mov $VIRT >> 12, %ebp
	shl $12, %rbp
	CASE "64 bits: #DE, its gate not present: #DF"
	gate64_off DE
	xor %ecx, %ecx
	try(1f)
2:	div %ecx
1:	gate64_on DE
	must_fault(DF, 0)
	must_eq64($2b, fault_ip)
	END
	CASE "#PF, its gate not present: #DF, CR2 is the address"
	gate64_off PF
	try(1f)
2:	mov (%rbp), %eax
1:	gate64_on PF
	must_fault(DF, 0)
	must_eq64($2b, fault_ip)
	must_eq64(%rbp, fault_cr2)
	END
	/* The IDT copied so that vectors up to #OF (4) are in a page that can be taken away. */
	mov $idt64, %esi
	mov $PAGE0 + 0x1000 - 5 * 16, %edi
	mov $256 * 16, %ecx
	cld
	rep movsb
	movq $PAGE0 | PTE_P | PTE_W, PT_TEST + 8
	movq $PAGE1 | PTE_P | PTE_W, PT_TEST + 16
	sub $16, %rsp
	movw $256 * 16 - 1, (%rsp)
	lea 0x2000 - 5 * 16(%rbp), %rax
	mov %rax, 2(%rsp)
	lidt (%rsp)
	add $16, %rsp
	CASE "#DE, its gate in an absent page: #PF"
	movq $0, PT_TEST + 8
	invlpg 0x1000(%rbp)
	xor %ecx, %ecx
	try(1f)
2:	div %ecx
1:	must_fault(PF, 0)
	must_eq64($2b, fault_ip)
	lea 0x2000 - 5 * 16(%rbp), %rax
	must_eq64(%rax, fault_cr2)
	END
	CASE "INT3, its gate in an absent page: #PF, a fault"
	try(1f)
2:	int3
1:	must_fault(PF, 0)
	must_eq64($2b, fault_ip)
	lea 0x2000 - 2 * 16(%rbp), %rax
	must_eq64(%rax, fault_cr2)
	END
	CASE "INT n at level 3, its gate in an absent page: an access of level 0"
	mov $1f, %eax
	call user_call64
	must_fault(PF, 0)
	must_eq($UCODE64, fault_cs)
	jmp 9f
1:	int3
	END
	movq $PAGE0 | PTE_P | PTE_W, PT_TEST + 8
	lidt idtr64

	/* --- Bad stacks --- */
	CASE "#UD at level 3, RSP0 in an absent page: #PF does not fit either, #DF"
	movb $1, idt64 + DF * 16 + 4
	mov $VIRT >> 32, %eax
	mov %eax, tss64 + 8
	movl $0x4000, tss64 + 4
	mov $1f, %eax
	call user_call64
	movl $ring0_top, tss64 + 4
	movl $0, tss64 + 8
	must_fault(DF, 0)
	must_eq64($1f, fault_ip)
	must_eq($UCODE64, fault_cs)
	lea 0x3ff8(%rbp), %rax
	must_eq64(%rax, fault_cr2)
	must_eq64($ist_top - 40, fault_frame)
	jmp 9f
1:	ud2
	END
	CASE "#UD at level 3, RSP0 in an absent page, #PF by IST: #PF"
	movb $1, idt64 + PF * 16 + 4
	mov $VIRT >> 32, %eax
	mov %eax, tss64 + 8
	movl $0x4000, tss64 + 4
	mov $1f, %eax
	call user_call64
	movl $ring0_top, tss64 + 4
	movl $0, tss64 + 8
	movb $0, idt64 + PF * 16 + 4
	must_fault(PF, ERR_W)
	must_eq64($1f, fault_ip)
	lea 0x3ff8(%rbp), %rax
	must_eq64(%rax, fault_cr2)
	jmp 9f
1:	ud2
	END
	CASE "#GP at level 3, RSP0 not canonical: #DF"
	movl $0x8000, tss64 + 8
	mov $1f, %eax
	call user_call64
	movl $0, tss64 + 8
	must_fault(DF, 0)
	must_eq64($1f, fault_ip)
	jmp 9f
1:	hlt
	END
	CASE "INT n at level 3, RSP0 not canonical: #SS, whose stack is no better, #DF"
	movl $0x8000, tss64 + 8
	mov $1f, %eax
	call user_call64
	movl $0, tss64 + 8
	must_fault(DF, 0)
	jmp 9f
1:	int $USER_EXIT
	END
	CASE "PUSH to an absent page: #PF does not fit either, #DF"
	try(1f)
	lea 0x4000(%rbp), %rsp
2:	push %rax
1:	must_fault(DF, 0)
	must_eq64($2b, fault_ip)
	movb $0, idt64 + DF * 16 + 4
	END
	CASE "INT3 on a stack in an absent page: #DF, not done"
	movb $1, idt64 + DF * 16 + 4
	try(1f)
	lea 0x4000(%rbp), %rsp
2:	int3
1:	movb $0, idt64 + DF * 16 + 4
	must_fault(DF, 0)
	must_eq64($2b, fault_ip)
	END
	call long_leave
	bits 32
	ret
