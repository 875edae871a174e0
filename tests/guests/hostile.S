/*
 * Guests that mean ill. The last character of the command line says what happens:
 *
 *	1	triple fault: no IDT
 *	2	triple fault: no stack to push to, by paging
 *	3	triple fault: a jump to where nothing is, without an IDT
 *	4	triple fault in real mode
 *	5	triple fault in 64-bit mode
 *	h	HLT with interrupts off, for ever
 *	j	jumps to unmapped memory, device memory and the end of memory, and survives
 *	t	descriptor tables, page tables and stacks where nothing is
 *	p	writes every port, but those that end the machine, and reads them
 *	q	writes every port but the debug exit
 *	m	reads and writes every MSR
 *	s	a jump to itself
 *	i	an endless chain of exceptions
 *	w	HLT with interrupts on, none of which ever comes
 *	x	REP MOVS without end
 *	e	rewrites its own loop without end
 */
#include "guest.h"

	.set NOWHERE, 0xd0000000
	.set ROM, 0xfffff000
	.set APIC, 0xfee00000
	.set HPET, 0xfed00000
	.set END_OF_MEMORY, 64 << 20	/* the test gives it so much */

	.text
	.globl guest_main
guest_main:
	mov boot_info, %ebx
	mov 16(%ebx), %edi	/* the command line */
1:	mov (%edi), %al
	inc %edi
	test %al, %al
	jz 2f
	mov %al, %cl
	jmp 1b
2:	mov $actions, %esi
3:	cmpb $0, (%esi)
	je 4f
	cmp %cl, (%esi)
	je 5f
	add $8, %esi
	jmp 3b
4:	mov $text_unknown, %esi
	call print32
	ret
5:	jmp *4(%esi)

	.data
	.balign 4
.macro action letter, to
	.long \letter
	.long \to
.endm
actions:
	action '1', triple_idt
	action '2', triple_stack
	action '3', triple_jump
	action '4', triple_real
	action '5', triple_long
	action 'h', halt
	action 'j', jumps
	action 't', wild_tables
	action 'p', ports
	action 'q', all_ports
	action 'm', msrs
	action 's', spin
	action 'i', exceptions
	action 'w', wait
	action 'x', move
	action 'e', rewrite
	.long 0
text_unknown: .asciz "FAIL unknown action\r\n"
text_running: .asciz "running\r\n"
no_idt:	.word 0
	.long 0, 0

	.text
/* --- Triple faults --- */

triple_idt:
	lidt no_idt
	ud2
triple_jump:
	lidt no_idt
	mov $NOWHERE, %eax
	jmp *%eax
triple_stack:
	call long_enter
	bits 64
	mov $VIRT >> 32, %eax
	shl $32, %rax
	lea 0x800(%rax), %rsp
	push %rax
	bits 32
triple_real:
	mov $1f, %eax
	call real_call
	.pushsection .low, "awx"
	.code16
1:	lidt no_idt_low
	int3
	.balign 4
no_idt_low: .word 0
	.long 0
	.popsection
	.code32
triple_long:
	call long_enter
	bits 64
	lidt no_idt
	mov $1, %eax
	shl $47, %rax
	jmp *%rax
	bits 32

/* --- Ends --- */

halt:
	mov $text_running, %esi
	call print32
	cli
	hlt
	jmp halt

/* --- Survivors: cases --- */

jumps:
.macro LEAP name, to
	CASE "\name"
	mov $\to, %eax
	try(1f)
	jmp *%eax
1:	cmpl $NONE, fault_vector
	must(ne)
	END
.endm
	LEAP "a jump to where nothing is", NOWHERE
	LEAP "a jump to the local APIC", APIC
	LEAP "a jump to the HPET", HPET
	LEAP "a jump behind the end of memory", END_OF_MEMORY
	CASE "a jump to the last bytes of memory"
	movl $0x90909090, END_OF_MEMORY - 4
	mov $END_OF_MEMORY - 4, %eax
	try(1f)
	jmp *%eax
1:	cmpl $NONE, fault_vector
	must(ne)
	END
	CASE "an instruction across the end of memory"
	movb $0xb8, END_OF_MEMORY - 1
	mov $END_OF_MEMORY - 1, %eax
	try(1f)
	jmp *%eax
1:	cmpl $NONE, fault_vector
	must(ne)
	END
	CASE "data across the end of memory"
	movl $0x11223344, END_OF_MEMORY - 4
	mov END_OF_MEMORY - 2, %eax
	movl $0x55667788, END_OF_MEMORY - 2
	lock addl $1, END_OF_MEMORY - 2
	movups END_OF_MEMORY - 8, %xmm0
	movups %xmm0, END_OF_MEMORY - 8
	mov $END_OF_MEMORY - 16, %edi
	mov $32, %ecx
	rep stosb
	mov $END_OF_MEMORY - 16, %esi
	mov $PAGE0, %edi
	mov $32, %ecx
	rep movsb
	must_eq($-1, PAGE0 + 16)	/* nothing there */
	END
	CASE "memory at the end of the address space"
	mov $0xfffffff0, %esi
	mov $PAGE0, %edi
	mov $32, %ecx
	try(1f)
	rep movsb
1:	END
	ret

wild_tables:
	CASE "a GDT where nothing is"
	movw $0xffff, PAGE0
	movl $NOWHERE, PAGE0 + 2
	lgdt PAGE0
	mov $KDATA, %eax
	/* Delivery needs CS from that table, too: only a look. */
	lar %eax, %ecx
	lgdt gdtr
	END
	CASE "page tables where nothing is"
	/* All entries read as ones: user, writable, large, reserved bits. */
	mov $PD, %edi
	mov $PTE_P | PTE_W | PTE_PS, %eax
1:	mov %eax, (%edi)
	add $4, %edi
	add $0x400000, %eax
	jnc 1b
	movl $NOWHERE | 7, PD + 4 * 512
	movl $APIC | 7, PD + 4 * 513
	movl $PD | 7, PD + 4 * 514	/* itself */
	mov %cr4, %eax
	or $CR4_PSE, %eax
	mov %eax, %cr4
	mov $PD, %eax
	mov %eax, %cr3
	mov %cr0, %eax
	or $CR0_PG, %eax
	mov %eax, %cr0
	try(1f)
	mov 0x80000000, %ecx
	movl $1, 0x80000000
1:	try(1f)
	mov 0x80400000, %ecx
	movl $1, 0x80400000
	lock addl $1, 0x80400ffe
1:	try(1f)
	mov 0x80802000, %ecx
	mov $0x80400000, %eax
	jmp *%eax
1:	mov %cr0, %eax
	and $~CR0_PG, %eax
	mov %eax, %cr0
	END
	CASE "a stack in device memory"
	mov $APIC + 0x800, %esp
	push %eax
	pop %eax
	pusha
	popa
	mov $HPET + 0x800, %esp
	push %eax
	call 1f
1:	mov case_sp, %esp
	END
	CASE "strings from and to device memory"
	mov $APIC, %esi
	mov $PAGE0, %edi
	mov $0x400, %ecx
	rep movsl
	mov $PAGE0, %esi
	mov $HPET + 0x200, %edi
	mov $64, %ecx
	rep movsb
	mov $APIC + 0x1, %esi
	mov $16, %ecx
	rep lodsw
	fninit
	fsave HPET + 0x200
	fxsave PAGE0
	END
	ret

/* All ports, all sizes, in four values; and reads them. */
ports:
	CASE "every port written and read"
	movl $port_ends, port_skipped
	call ports_all
	END
	ret
all_ports:
	movl $port_exit, port_skipped
	call ports_all
	ret

	.set PORT_LAST, 0xffff
ports_all:
	mov $4 - 1, %ebx
1:	mov port_values(, %ebx, 4), %eax
	xor %edx, %edx
2:	mov $1, %ecx
3:	call port_skip
	jc 4f
	cmp $1, %ecx
	jne 31f
	out %al, %dx
	push %eax
	in %dx, %al
	jmp 33f
31:	cmp $2, %ecx
	jne 32f
	out %ax, %dx
	push %eax
	in %dx, %ax
	jmp 33f
32:	out %eax, %dx
	push %eax
	in %dx, %eax
33:	pop %eax
4:	shl $1, %ecx
	cmp $4, %ecx
	jbe 3b
	inc %edx
	cmp $PORT_LAST, %edx
	jbe 2b
	dec %ebx
	jns 1b
	ret
/* CF set if the ECX ports from EDX hold one that is left out. */
port_skip:
	mov port_skipped, %esi
1:	movzwl (%esi), %edi
	test %edi, %edi
	jz 2f
	add $2, %esi
	sub %edx, %edi
	cmp %ecx, %edi
	jae 1b
	stc
	ret
2:	clc
	ret

	.data
	.balign 4
port_skipped: .long 0	/* list of ports to leave out, 0 at its end */
port_values: .long 0, 0xffffffff, 0x55555555, 0xaaaaaaaa
	/* reset by 0x92, 0xcf9 and the keyboard controller; S5; debug exit; COM1, whose line
	 * says how it went */
port_ends: .word 0x64, 0x92, 0xcf9, 0x404, 0x405
	.word 0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff
port_exit: .word 0xf4, 0xf5, 0xf6, 0xf7, 0

	.text
msrs:
	CASE "every MSR read and written"
	mov $msr_ranges, %esi
1:	mov (%esi), %ebx
	mov 4(%esi), %edi
	test %edi, %edi
	jz 4f
2:	mov %ebx, %ecx
	try(3f)
	rdmsr
	wrmsr
3:	try(3f)
	mov %ebx, %ecx
	mov $-1, %eax
	mov $-1, %edx
	wrmsr
3:	try(3f)
	mov %ebx, %ecx
	xor %eax, %eax
	xor %edx, %edx
	wrmsr
3:	try(3f)
	mov %ebx, %ecx
	mov $0x00005555, %eax
	xor %edx, %edx
	wrmsr
3:	try(3f)
	mov %ebx, %ecx
	rdmsr
3:	inc %ebx
	dec %edi
	jnz 2b
	add $8, %esi
	jmp 1b
4:	END
	ret
	.data
	.balign 4
msr_ranges: .long 0, 0x2000, 0x40000000, 0x200, 0xc0000000, 0x2000, 0xc0010000, 0x2000
	.long 0x80000000, 0x10
	.long 0xffffff00, 0x100, 0, 0

	.text
/* --- Without end --- */

spin:
	mov $text_running, %esi
	call print32
1:	jmp 1b
exceptions:
	mov $text_running, %esi
	call print32
	movl $again, hooks + UD * 4
	ud2
again:
	ret
wait:
	mov $text_running, %esi
	call print32
	sti
1:	hlt
	jmp 1b
move:
	mov $text_running, %esi
	call print32
1:	mov $PAGE0, %esi
	mov $PAGE1, %edi
	mov $0x1000000, %ecx
	rep movsb
	jmp 1b
rewrite:
	mov $text_running, %esi
	call print32
	mov $0, %ecx
1:	mov %ecx, 2f + 1
	inc %ecx
2:	mov $0, %eax
	jmp 1b
