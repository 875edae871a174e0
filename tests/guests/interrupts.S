/*
 * External interrupts and NMIs at their exact place: the shadow of STI, HLT, priorities. They
 * come from the local APIC, sent by the CPU to itself.
 */
#include "guest.h"

	.set APIC, 0xfee00000
	.set APIC_TPR, APIC + 0x80
	.set APIC_EOI, APIC + 0xb0
	.set APIC_SVR, APIC + 0xf0
	.set APIC_ISR, APIC + 0x100
	.set APIC_IRR, APIC + 0x200
	.set APIC_ICR, APIC + 0x300
	.set ICR_SELF, 1 << 18
	.set ICR_NMI, 4 << 8
	.set ICR_BUSY, 1 << 12
	.set VEC, 0x40
	.set VEC2, 0x52
	.set TESTDEV_IRQ, 0x2000
	.set PIC_BASE, 0x68

/* Makes the vector pending; returns when it is in IRR. IF must be clear. */
.macro send vector
	movl $ICR_SELF | (\vector), APIC_ICR
85:	btl $(\vector) & 31, APIC_IRR + ((\vector) / 32) * 16
	jnc 85b
.endm

.macro eoi
	movl $0, APIC_EOI
.endm

	.text
	.globl guest_main
guest_main:
	movl $0x1ff, APIC_SVR	/* enabled, spurious vector 0xff */

	CASE "pending with IF 0, nothing happens"
	send VEC
	try(1f)
	nop
	nop
1:	must_eq($NONE, fault_vector)
	try(1f)
	sti
2:	nop
3:	nop
1:	must_eq($VEC, fault_vector)
	must_eq($NOERR, fault_error)
	must_eq($3b, fault_ip)	/* the shadow of STI */
	must_bits(FL_IF, FL_IF | FL_RF, fault_flags)
	eoi
	END
	CASE "STI, CLI: no interrupt between"
	send VEC
	try(1f)
	sti
	cli
	nop
1:	must_eq($NONE, fault_vector)
	try(1f)
	sti
	nop
2:	nop
1:	must_eq($VEC, fault_vector)
	eoi
	END
	CASE "STI, RET: inside the caller"
	send VEC
	try(1f)
	call 2f
3:	nop
	jmp 1f
2:	sti
	ret
1:	must_eq($VEC, fault_vector)
	must_eq($3b, fault_ip)
	eoi
	END
	CASE "STI, HLT: behind HLT"
	send VEC
	try(1f)
	sti
	hlt
2:	nop
1:	must_eq($VEC, fault_vector)
	must_eq($2b, fault_ip)
	eoi
	END
	CASE "STI: a fault in its shadow comes first"
	send VEC
	try(1f)
	sti
2:	ud2
1:	must_fault(UD, NOERR)
	must_eq($2b, fault_ip)
	must_bits(FL_IF, FL_IF, fault_flags)
	try(1f)
	sti
	nop
	nop
1:	must_eq($VEC, fault_vector)
	eoi
	END
	CASE "POPF has no shadow"
	send VEC
	push $FL_IF | 2
	try(1f)
	popf
2:	nop
	nop
1:	must_eq($VEC, fault_vector)
	must_eq($2b, fault_ip)
	eoi
	END
	CASE "IRET has no shadow"
	send VEC
	push $FL_IF | 2
	push $KCODE
	push $2f
	try(1f)
	iret
	nop
2:	nop
	nop
1:	must_eq($VEC, fault_vector)
	must_eq($2b, fault_ip)
	eoi
	END
	CASE "IF set already: STI has no shadow"
	/* TPR holds the interrupt back until it is lowered right behind STI. */
	movl $0x50, APIC_TPR
	send VEC
	try(1f)
	sti
	nop
	nop
	sti
	movl $0, APIC_TPR
2:	nop
	nop
1:	movl $0, APIC_TPR
	must_eq($VEC, fault_vector)
	must_eq($2b, fault_ip)
	eoi
	END
	CASE "at level 3"
	send VEC
	movl $FL_IF | 2, user_flags
	mov $1f, %eax
	call user_call
	movl $2, user_flags
	must_eq($VEC, fault_vector)
	must_eq($1f, fault_ip)
	must_eq($UCODE, fault_cs)
	eoi
	jmp 9f
1:	nop
	int $USER_EXIT
	END
	CASE "the higher vector first, the other after EOI"
	send VEC
	send VEC2
	try(1f)
	sti
	nop
	nop
1:	must_eq($VEC2, fault_vector)
	try(1f)
	sti
	nop
	nop
1:	must_eq($NONE, fault_vector)
	try(1f)
	eoi
	nop
1:	must_eq($VEC, fault_vector)
	eoi
	END
	CASE "TPR holds back its class and those below"
	movl $VEC2, APIC_TPR
	send VEC
	send VEC2
	try(1f)
	sti
	nop
	nop
1:	cli
	must_eq($NONE, fault_vector)
	movl $VEC, APIC_TPR
	try(1f)
	sti
	nop
	nop
1:	must_eq($VEC2, fault_vector)
	eoi
	movl $0, APIC_TPR
	try(1f)
	sti
	nop
	nop
1:	must_eq($VEC, fault_vector)
	eoi
	END
	CASE "a step goes before an interrupt"
	movl $0x50, APIC_TPR
	send VEC
	movl $count_step, hooks + DB * 4
	movl $0, seen
	push $FL_TF | FL_IF | 2
	try(1f)
	popf
	movl $0, APIC_TPR
2:	nop
1:	movl $0, hooks + DB * 4
	must_eq($VEC, fault_vector)
	must_eq($2b, fault_ip)
	must_eq($1, seen)
	eoi
	END
	CASE "MOV SS: no interrupt before the next instruction"
	movl $0x50, APIC_TPR
	send VEC
	mov $APIC_TPR, %edi
	mov %ss, %ebx
	xor %eax, %eax
	try(1f)
	sti
	nop
	mov %ebx, %ss
	mov %eax, (%edi)
2:	nop
1:	movl $0, APIC_TPR
	must_eq($VEC, fault_vector)
	must_eq($2b, fault_ip)
	eoi
	END

	/* --- NMI --- */
	CASE "NMI: with IF 0"
	try(1f)
	movl $ICR_SELF | ICR_NMI, APIC_ICR
2:	nop
	jmp 2b
1:	must_eq($NMI, fault_vector)
	must_eq($NOERR, fault_error)
	END
	/* The kernel's way out of the handler is no IRET, so NMIs are blocked now. */
	CASE "NMI: blocked until IRET"
	try(1f)
	movl $ICR_SELF | ICR_NMI, APIC_ICR
	call delivered
	must_eq($NONE, fault_vector)
	push $2
	push $KCODE
	push $2f
	iret
2:	nop
	jmp 2b
1:	must_eq($NMI, fault_vector)
	push $2
	push $KCODE
	push $3f
	iret
3:	END
	CASE "NMI: wakes HLT with IF 0"
	movl $note, hooks + NMI * 4
	movl $0, seen
	movl $ICR_SELF | ICR_NMI, APIC_ICR
1:	cmpl $0, seen
	je 1b
	movl $0, hooks + NMI * 4
	must_eq($1, seen)
	END
	CASE "NMI: goes before an interrupt"
	movl $note_order, hooks + NMI * 4
	movl $note_order, hooks + VEC * 4
	movl $0, seen
	send VEC
	try(1f)
	sti
	movl $ICR_SELF | ICR_NMI, APIC_ICR
	call delivered
1:	cli
	movl $0, hooks + NMI * 4
	movl $0, hooks + VEC * 4
	eoi
	must_eq($NMI << 8 | VEC, seen)
	END

	/* --- Lines, by the 8259 --- */
	CASE "a line by the 8259"
	mov $0x11, %al
	out %al, $0x20
	mov $PIC_BASE, %al
	out %al, $0x21
	mov $4, %al
	out %al, $0x21
	mov $1, %al
	out %al, $0x21
	mov $~(1 << 5), %al
	out %al, $0x21
	mov $TESTDEV_IRQ + 5, %edx
	mov $1, %al
	out %al, %dx
	try(1f)
	sti
	call delivered
1:	cli
	must_eq($PIC_BASE + 5, fault_vector)
	mov $TESTDEV_IRQ + 5, %edx
	xor %eax, %eax
	out %al, %dx
	mov $0x20, %al
	out %al, $0x20
	END
	CASE "REP OUTS interrupted: registers say where"
	mov $PAGE0, %edi
	xor %eax, %eax
	mov $100 / 4, %ecx
	rep stosl
	movb $1, PAGE0 + 10
	mov $PAGE0, %esi
	mov $TESTDEV_IRQ + 5, %edx
	mov $100, %ecx
	try(1f)
	sti
	nop
2:	rep outsb
3:	call delivered
1:	cli
	must_eq($PIC_BASE + 5, fault_vector)
	mov RSI, %eax
	add RCX, %eax
	must_eq($PAGE0 + 100, %eax)
	cmpl $PAGE0 + 11, RSI
	must(ae)
	cmpl $0, RCX
	je 4f
	must_eq($2b, fault_ip)
4:	mov $TESTDEV_IRQ + 5, %edx
	xor %eax, %eax
	out %al, %dx
	mov $0x20, %al
	out %al, $0x20
	mov $0xff, %al
	out %al, $0x21
	END

	/* --- 64-bit mode --- */
	call long_enter
	bits 64
	CASE "64 bits: CR8 holds interrupts back"
	mov $APIC, %edi
	mov $5, %eax
	mov %rax, %cr8
	movl $ICR_SELF | VEC, 0x300(%rdi)
	try(1f)
	sti
	nop
	nop
	xor %eax, %eax
	mov %rax, %cr8
2:	nop
	nop
1:	must_eq($VEC, fault_vector)
	must_eq64($2b, fault_ip)
	movl $0, 0xb0(%rdi)
	END
	CASE "64 bits: CR8 is the APIC's TPR"
	mov $APIC, %edi
	mov $7, %eax
	mov %rax, %cr8
	mov 0x80(%rdi), %ebx
	movl $0x30, 0x80(%rdi)
	mov %cr8, %rcx
	movl $0, 0x80(%rdi)
	must_eq($0x70, %ebx)
	must_eq64($3, %rcx)
	END
	call long_leave
	bits 32
	ret

/* Long enough for whatever is on its way. */
delivered:
	mov $0x1000, %ecx
1:	testl $ICR_BUSY, APIC_ICR
	loop 1b
	ret

	/* Hooks */
count_step:
	addl $1, seen
	ret
note:
	movl $1, seen
	ret
note_order:
	shll $8, seen
	mov FRAME_VECTOR(%ebp), %eax
	or %eax, seen
	ret

	.bss
	.balign 4
seen:	.skip 4
