/*
 * 16-bit code in protected mode: sizes of operands, addresses and stack by default and by
 * prefix, and how all of them wrap.
 */
#include "guest.h"

	.set SEL_HIGH, SEL_TEST	/* 16-bit code at PAGE0, 64 KiB */
	.set SEL_BIG, SEL_TEST + 0x10	/* 16-bit code, 4 GiB */
	.set SEL_STACK16, SEL_TEST + 0x18	/* 16-bit stack at PAGE0 */
	.set VEC, 0x81

/* One case of 16-bit code with CODE16 and the flat data segments, up to END16. */
.macro PROT16 name
	CASE "\name"
	movl $0, fail_line
	ljmp $CODE16, $.Lprot16\@
	.pushsection .low, "awx"
	.code16
.Lprot16\@:
.endm
.macro END16
	ljmpl $KCODE, $85f
	.popsection
	.code32
85:	must_eq_at __LINE__, "$NONE", fault_vector
	END
.endm
/* In such code: the 32-bit register is want. */
.macro is_at line, want, got
	cmpl \want, \got
	je 88f
	movl $\line, fail_line
	movl \got, %eax
	movl %eax, fail_got
	ljmpl $KCODE, $prot16_fail
88:
.endm
#define is(want, got) is_at __LINE__, #want, #got

	.text
	.globl guest_main
guest_main:
	set_descriptor SEL_HIGH, PAGE0, 0xffff, ACC_CODE, FLAGS_16
	set_descriptor SEL_BIG, 0, 0xfffff, ACC_CODE, 8
	set_descriptor SEL_STACK16, PAGE0, 0xffff, ACC_DATA, FLAGS_16

	PROT16 "operands have 16 bits, with a prefix 32"
	mov $-1, %eax
	mov $0x1234, %ax
	is($0xffff1234, %eax)
	mov $0x12345678, %eax
	is($0x12345678, %eax)
	mov $0xffff, %ax
	inc %ax
	is($0x12340000, %eax)
	END16
	PROT16 "addresses have 16 bits, with a prefix 32"
	movl $0xcafe, 0x6000
	mov $0x10004000, %ebx
	mov $0x10002000, %esi
	mov (%bx, %si), %ax
	movzwl %ax, %ecx
	is($0xcafe, %ecx)
	mov $PAGE0, %edi
	movl $0xbeef, (%edi)
	mov (%edi), %ecx
	is($0xbeef, %ecx)
	END16
	PROT16 "PUSH and CALL are words; the stack is 32 bits wide all the same"
	mov %esp, %ebp
	push %ax
	mov %ebp, %ecx
	sub %esp, %ecx
	is($2, %ecx)
	pushl %eax
	mov %ebp, %ecx
	sub %esp, %ecx
	is($6, %ecx)
	mov %ebp, %esp
	call 1f
2:	is(%ebp, %esp)
	jmp 3f
1:	mov (%esp), %cx
	movzwl %cx, %ecx
	is($2b, %ecx)
	ret
3:	calll 1f
2:	is(%ebp, %esp)
	jmp 3f
1:	mov (%esp), %ecx
	is($2b, %ecx)
	retl
3:
	END16
	PROT16 "a 16-bit stack wraps"
	mov %esp, %ebp
	mov $SEL_STACK16, %ax
	mov %ax, %ss
	mov $0x70000, %esp
	push $0x1234
	mov %esp, %ecx
	mov %ss:0xfffe, %bx
	pusha
	popa
	mov %esp, %edx
	mov $KDATA, %ax
	mov %ax, %ss
	mov %ebp, %esp
	is($0x7fffe, %ecx)
	is($0x7fffe, %edx)
	movzwl %bx, %ebx
	is($0x1234, %ebx)
	END16
	PROT16 "ENTER and LEAVE by SP"
	mov %esp, %edx
	mov $SEL_STACK16, %ax
	mov %ax, %ss
	mov $0x10100, %esp
	mov $0x2222, %ebp
	enter $8, $0
	mov %esp, %ebx
	mov %ebp, %ecx
	leave
	mov %esp, %esi
	mov $KDATA, %ax
	mov %ax, %ss
	mov %edx, %esp
	is($0x100f6, %ebx)
	is($0x00fe, %ecx)
	is($0x10100, %esi)
	is($0x2222, %ebp)
	END16
	PROT16 "LOOP counts CX, with a prefix ECX; JCXZ looks at CX"
	mov $0x10002, %ecx
	xor %eax, %eax
1:	inc %ax
	loop 1b
	is($2, %eax)
	is($0x10000, %ecx)
	jcxz 2f
	ud2
2:	mov $3, %ecx
	xor %eax, %eax
1:	inc %ax
	addr32 loop 1b
	is($3, %eax)
	END16
	PROT16 "string instructions by SI, DI and CX"
	movl $0x44332211, 0x6000
	movl $0, 0x6010
	mov $0x56006000, %esi
	mov $0x78006010, %edi
	mov $0x9a000004, %ecx
	cld
	rep movsb
	is($0x56006004, %esi)
	is($0x78006014, %edi)
	is($0x9a000000, %ecx)
	is($0x44332211, 0x6010)
	END16

	/* --- IP --- */
	CASE "a jump wraps at 64 KiB"
	/* At 0xfffe: JMP +2, whose target 0x10002 is 2. There: INT. */
	movw $0x02eb, PAGE0 + 0xfffe
	movl $0x81cd0000, PAGE0
	try(1f)
	ljmp $SEL_HIGH, $0xfffe
1:	must_eq($VEC, fault_vector)
	must_eq($4, fault_ip)
	must_eq($SEL_HIGH, fault_cs)
	END
	CASE "running over the end is #GP"
	movb $0x90, PAGE0 + 0xffff
	try(1f)
	ljmp $SEL_HIGH, $0xffff
1:	must_fault(GP, 0)
	must_eq($0x10000, fault_ip)
	END
	CASE "an instruction across the end is #GP"
	movw $0x00b8, PAGE0 + 0xfffe
	try(1f)
	ljmp $SEL_HIGH, $0xfffe
1:	must_fault(GP, 0)
	must_eq($0xfffe, fault_ip)
	END
	CASE "a near jump of 32 bits beyond the limit is #GP"
	/* 66 ff e0: JMP %eax */
	movl $0x90e0ff66, PAGE0
	mov $0x10000, %eax
	try(1f)
	ljmp $SEL_HIGH, $0
1:	must_fault(GP, 0)
	must_eq($0, fault_ip)
	END
	CASE "a near jump of 16 bits clears the upper half"
	/* At PAGE0, in a code segment of 4 GiB: ff e0: JMP %ax */
	movw $0xe0ff, PAGE0
	mov $prot16_there, %eax
	or $0x50000, %eax
	try(1f)
	ljmp $SEL_BIG, $PAGE0
1:	must_eq($VEC, fault_vector)
	must_eq($prot16_there + 2, fault_ip)
	must_eq($SEL_BIG, fault_cs)
	END
	CASE "an interrupt saves 32 bits of IP and comes back to 16-bit code"
	movl $prot16_note, hooks + VEC * 4
	ljmp $CODE16, $prot16_interrupt
prot16_back:
	movl $0, hooks + VEC * 4
	must_eq($prot16_interrupt + 2, seen)
	must_eq($CODE16, seen + 4)
	END
	ret

prot16_note:
	mov FRAME_IP(%ebp), %eax
	mov %eax, seen
	mov FRAME_CS(%ebp), %eax
	mov %eax, seen + 4
	ret
prot16_fail:
	jmp case_fail32

	.section .low, "awx"
	.code16
prot16_there:
	int $VEC
prot16_interrupt:
	int $VEC
	ljmpl $KCODE, $prot16_back
	.balign 4
seen:	.long 0, 0
