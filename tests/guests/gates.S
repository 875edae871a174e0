/*
 * Gates in protected mode: call gates, interrupt and trap gates, returns through levels, and
 * what guards them (SDM 3, 5.8 and 6.12).
 */
#include "guest.h"

	.set SEL_CODE1, SEL_TEST + 0x00	/* code and data of level 1 */
	.set SEL_DATA1, SEL_TEST + 0x08
	.set GATE0, SEL_TEST + 0x10	/* to level 0, DPL 3, 2 parameters */
	.set GATE1, SEL_TEST + 0x18	/* to level 1, DPL 3 */
	.set GATE16, SEL_TEST + 0x20	/* 16-bit, to level 0, DPL 3, 2 parameters */
	.set GATE_BAD, SEL_TEST + 0x28	/* as a case needs it */
	.set SEL_CONF, SEL_TEST + 0x30	/* conforming code, DPL 0 */
	.set SEL_NP, SEL_TEST + 0x38	/* code, not present */
	.set SEL_SHORT, SEL_TEST + 0x40	/* code, 16 bytes */
	.set SEL_STACK_NP, SEL_TEST + 0x48	/* data, level 1, not present */
	.set SEL_STACK_RO, SEL_TEST + 0x50	/* data, level 1, read-only */
	.set SEL_STACK_SMALL, SEL_TEST + 0x58	/* data, level 1, 16 bytes */
	.set SEL_DATA16, SEL_TEST + 0x60	/* data, level 3, 16-bit */
	.set DPL3, 0x60
	.set FL_MANY, 0x247cd7	/* all but TF, IF, RF and VM */
	.set VEC, 0x81	/* the vector under test */
	.set STACK1, 0x218000
	.set TSS_SP1, tss32 + 12
	.set TSS_SS1, tss32 + 16

	.text
	.globl guest_main
guest_main:
	set_descriptor SEL_CODE1, 0, 0xfffff, ACC_CODE | 0x20, FLAGS_32G
	set_descriptor SEL_DATA1, 0, 0xfffff, ACC_DATA | 0x20, FLAGS_32G
	set_descriptor SEL_CONF, 0, 0xfffff, ACC_CONF, FLAGS_32G
	set_descriptor SEL_NP, 0, 0xfffff, 0x1a, FLAGS_32G
	set_descriptor SEL_SHORT, 0, 15, ACC_CODE, FLAGS_32
	set_descriptor SEL_STACK_NP, 0, 0xfffff, 0x32, FLAGS_32G
	set_descriptor SEL_STACK_RO, 0, 0xfffff, 0xb0, FLAGS_32G
	set_descriptor SEL_STACK_SMALL, 0, 15, 0xb2, FLAGS_32
	set_descriptor SEL_DATA16, PAGE0, 0xffff, ACC_DATA | DPL3, FLAGS_16
	set_gate gdt + GATE0, KCODE, target0, ACC_CALL32 | DPL3, 2
	set_gate gdt + GATE1, SEL_CODE1, target1, ACC_CALL32 | DPL3, 1
	set_gate gdt + GATE16, KCODE, target16, ACC_CALL16 | DPL3, 2
	movl $STACK1, TSS_SP1
	movl $SEL_DATA1 + 1, TSS_SS1

	/* --- Call gates --- */
	CASE "call gate: same level, no parameters copied"
	push $1
	push $2
	mov %esp, %ebp
	lcall $GATE0, $0x12345678
2:	must_eq($2b, seen)
	must_eq($KCODE, seen + 4)
	mov %ebp, %ecx
	sub $8, %ecx
	must_eq(%ecx, seen_sp)
	add $8, %ebp
	must_eq(%ebp, %esp)
	END
	CASE "call gate: from level 3, stack and parameters"
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_eq($2f, seen)
	must_eq($UCODE, seen + 4)
	must_eq($0x2222, seen + 8)
	must_eq($0x1111, seen + 12)
	must_eq($USER_STACK - 8, seen + 16)
	must_eq($UDATA, seen + 20)
	must_eq($ring0_top - 24, seen_sp)
	must_eq($KDATA, seen_ss)
	must_eq($KCODE, seen_cs)
	must_eq($USER_STACK, fault_sp)
	must_eq($UCODE, fault_cs)
	must_eq($UDATA, fault_ss)
	jmp 9f
1:	push $0x1111
	push $0x2222
	lcall $GATE0 + 3, $0
2:	int $USER_EXIT
	END
	CASE "call gate: to level 1"
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_eq($SEL_CODE1 + 1, fault_cs)
	must_eq($SEL_DATA1 + 1, fault_ss)
	must_eq($STACK1 - 20, fault_sp)
	must_eq($2f, STACK1 - 20)
	must_eq($0x3333, STACK1 - 12)
	jmp 9f
1:	push $0x3333
	lcall $GATE1, $0
2:	int $USER_EXIT
	END
	CASE "call gate: 16 bits"
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_eq($ring0_top - 12, seen_sp)
	must_eq($UCODE, %ecx)
	must_eq($0xaaaabbbb, %edx)
	must_eq($UDATA, %esi)
	must_eq($0xfffc, %edi)
	jmp 9f
1:	push $0xaaaabbbb
	lcall $GATE16, $0
	int $USER_EXIT
	END
	CASE "call gate: conforming code keeps level and stack"
	set_gate gdt + GATE_BAD, SEL_CONF, target_conf, ACC_CALL32 | DPL3, 2
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_eq($SEL_CONF + 3, fault_cs)
	must_eq($USER_STACK - 8, fault_sp)
	jmp 9f
1:	lcall $GATE_BAD, $0
	END
.macro BAD_GATE name, vector, error, selector, access, insn=lcall, rpl=0
	CASE "\name"
	set_gate gdt + GATE_BAD, \selector, 1, \access
	mov $1f, %eax
	call user_call
	must_fault_at 0, "\vector", "\error"
	must_eq_at 0, $1f, fault_ip
	must_eq_at 0, $UCODE, fault_cs
	jmp 9f
1:	\insn $GATE_BAD + \rpl, $0
	END
.endm
	BAD_GATE "call gate: its DPL 0", GP, GATE_BAD, KCODE, 0x8c
	BAD_GATE "call gate: its DPL 2", GP, GATE_BAD, KCODE, 0xcc
	BAD_GATE "call gate: not present", NP, GATE_BAD, KCODE, 0x6c
	BAD_GATE "call gate: to data", GP, KDATA, KDATA, 0xec
	BAD_GATE "call gate: to null", GP, 0, 0, 0xec
	BAD_GATE "call gate: beyond the GDT", GP, GDT_SIZE, GDT_SIZE, 0xec
	BAD_GATE "call gate: to code not present", NP, SEL_NP, SEL_NP, 0xec
	BAD_GATE "call gate: JMP to an inner level", GP, KCODE, KCODE, 0xec, ljmp
	CASE "call gate: beyond the limit of the code"
	set_gate gdt + GATE_BAD, SEL_SHORT, 16, ACC_CALL32 | DPL3
	try(1f)
2:	lcall $GATE_BAD, $0
1:	must_fault(GP, 0)
	must_eq($2b, fault_ip)
	END

	/* --- Stacks of inner levels --- */
.macro BAD_STACK name, vector, error, ss
	CASE "\name"
	movl $\ss, TSS_SS1
	mov $1f, %eax
	call user_call
	movl $SEL_DATA1 + 1, TSS_SS1
	must_fault_at 0, "\vector", "\error"
	must_eq_at 0, $1f, fault_ip
	must_eq_at 0, $USER_STACK, fault_sp
	jmp 9f
1:	lcall $GATE1, $0
	END
.endm
	BAD_STACK "inner stack: null", TS, 0, 0
	BAD_STACK "inner stack: wrong RPL", TS, SEL_DATA1, SEL_DATA1
	BAD_STACK "inner stack: wrong DPL", TS, KDATA, KDATA + 1
	BAD_STACK "inner stack: code", TS, SEL_CODE1, SEL_CODE1 + 1
	BAD_STACK "inner stack: read-only", TS, SEL_STACK_RO, SEL_STACK_RO + 1
	BAD_STACK "inner stack: not present", SS, SEL_STACK_NP, SEL_STACK_NP + 1
	BAD_STACK "inner stack: beyond the GDT", TS, GDT_SIZE, GDT_SIZE + 1
	BAD_STACK "inner stack: too small", SS, SEL_STACK_SMALL, SEL_STACK_SMALL + 1
	CASE "inner stack: INT n has EXT 0"
	set_gate "idt32 + VEC * 8", SEL_CODE1, target1, ACC_INT32 | DPL3
	movl $SEL_STACK_RO + 1, TSS_SS1
	mov $1f, %eax
	call user_call
	movl $SEL_DATA1 + 1, TSS_SS1
	must_fault(TS, SEL_STACK_RO)
	jmp 9f
1:	int $VEC
	END
	CASE "inner stack: an exception has EXT 1"
	mov idt32 + UD * 8, %esi
	mov idt32 + UD * 8 + 4, %edi
	set_gate "idt32 + UD * 8", SEL_CODE1, target1, ACC_INT32
	movl $SEL_STACK_RO + 1, TSS_SS1
	mov $1f, %eax
	call user_call
	movl $SEL_DATA1 + 1, TSS_SS1
	mov %esi, idt32 + UD * 8
	mov %edi, idt32 + UD * 8 + 4
	must_fault(TS, SEL_STACK_RO + 1)
	must_eq($1f, fault_ip)
	jmp 9f
1:	ud2
	END
	CASE "inner stack: outside the TSS"
	/* The limit holds level 0's, not level 1's. */
	movw $13, gdt + TSS
	movb $ACC_TSS32, gdt + TSS + 5
	mov $TSS, %eax
	ltr %ax
	mov $1f, %eax
	call user_call
	movw $103, gdt + TSS
	movb $ACC_TSS32, gdt + TSS + 5
	mov $TSS, %ecx
	ltr %cx
	must_fault(TS, TSS)
	jmp 9f
1:	lcall $GATE1, $0
	END

	/* --- Interrupt and trap gates --- */
	CASE "interrupt gate: clears IF"
	set_gate "idt32 + VEC * 8", KCODE, see_flags, ACC_INT32 | DPL3
	movl $0x200, user_flags
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_bits(0, FL_IF, seen_flags)
	must_bits(FL_IF, FL_IF, fault_flags)
	movl $2, user_flags
	jmp 9f
1:	int $VEC
	int $USER_EXIT
	END
	CASE "trap gate: keeps IF"
	movb $ACC_TRAP32 | DPL3, idt32 + VEC * 8 + 5
	movl $0x200, user_flags
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_bits(FL_IF, FL_IF, seen_flags)
	movl $2, user_flags
	jmp 9f
1:	int $VEC
	int $USER_EXIT
	END
	CASE "interrupt gate: same level pushes no stack"
	movb $ACC_INT32, idt32 + VEC * 8 + 5
	mov %esp, %ebp
	int $VEC
2:	sub $12, %ebp
	must_eq(%ebp, seen_sp)
	must_eq($2b, seen)
	must_eq($KCODE, seen + 4)
	END
	CASE "interrupt gate: clears TF, NT and keeps the rest"
	push $FL_NT | FL_CF | FL_AC | FL_ID | 2
	popf
	int $VEC
	push $2
	popf
	must_bits(FL_CF | FL_AC | FL_ID, FL_CF | FL_AC | FL_ID | FL_NT | FL_TF | FL_IF, seen_flags)
	must_bits(FL_CF | FL_AC | FL_ID | FL_NT, FL_CF | FL_AC | FL_ID | FL_NT, seen + 8)
	END
	CASE "interrupt gate: conforming handler at level 3"
	set_gate "idt32 + VEC * 8", SEL_CONF, target_conf, ACC_INT32 | DPL3
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_eq($SEL_CONF + 3, fault_cs)
	must_eq($USER_STACK - 12, fault_sp)
	must_eq($2f, USER_STACK - 12)
	must_eq($UCODE, USER_STACK - 8)
	jmp 9f
1:	int $VEC
2:	nop
	END
	CASE "interrupt gate: to data"
	set_gate "idt32 + VEC * 8", KDATA, 0, ACC_INT32 | DPL3
	try(1f)
	int $VEC
1:	must_fault(GP, KDATA)
	END
	CASE "interrupt gate: to null"
	set_gate "idt32 + VEC * 8", 0, 0, ACC_INT32 | DPL3
	try(1f)
	int $VEC
1:	must_fault(GP, 0)
	END
	CASE "interrupt gate: to code not present"
	set_gate "idt32 + VEC * 8", SEL_NP, 0, ACC_INT32 | DPL3
	try(1f)
	int $VEC
1:	must_fault(NP, SEL_NP)
	END
	CASE "interrupt gate: to a less privileged level"
	set_gate "idt32 + VEC * 8", SEL_CODE1, 0, ACC_INT32 | DPL3
	try(1f)
	int $VEC
1:	must_fault(GP, SEL_CODE1)
	END
	CASE "interrupt gate: beyond the limit of the code"
	set_gate "idt32 + VEC * 8", SEL_SHORT, 16, ACC_INT32 | DPL3
	try(1f)
	int $VEC
1:	must_fault(GP, 0)
	END
	CASE "interrupt gate: 16 bits push words"
	set_gate "idt32 + VEC * 8", KCODE, see16, ACC_INT16 | DPL3
	movl $0, seen
	movl $0, seen + 4
	push $FL_CF | 2
	popf
	mov %esp, %ebp
	/* IP must fit. */
	mov $low_int, %eax
	jmp *%eax
int16_back:
	sub $6, %ebp
	must_eq(%ebp, seen_sp)
	movzwl seen, %ecx
	must_eq($low_int + 2, %ecx)
	movzwl seen + 2, %ecx
	must_eq($KCODE, %ecx)
	must_bits(FL_CF, FL_CF | FL_IF, seen + 4)
	END

	/* --- IRET --- */
	CASE "IRET: same level, all flags"
	mov %esp, %ebp
	push $FL_MANY
	push $KCODE
	push $1f
	iret
1:	pushf
	pop %ebx
	push $2
	popf
	must_eq($FL_MANY, %ebx)
	must_eq(%ebp, %esp)
	END
	CASE "IRET: 16 bits leave the upper flags"
	push $FL_AC | FL_ID | 2
	popf
	pushw $FL_CF | 2
	pushw $KCODE
	pushw $low_iret
	mov $1f, %ecx
	.byte 0x66
	iret
1:	pushf
	pop %ebx
	push $2
	popf
	must_eq($FL_AC | FL_ID | FL_CF | 2, %ebx)
	END
	USER "IRET: to an inner level", GP, KCODE, "push $2; push $KCODE; push $0", "iret"
	FAULT "IRET: RPL 3 to code of level 0", GP, KCODE, \
	    "push $UDATA; push $0; push $2; push $KCODE + 3; push $0", "iret"
	FAULT "IRET: outer stack null", GP, 0, "push $0; push $0; push $2; push $UCODE; \
	    push $0", "iret"
	FAULT "IRET: outer stack of another level", GP, KDATA, \
	    "push $KDATA; push $0; push $2; push $UCODE; push $0", "iret"
	FAULT "IRET: outer stack not present", SS, SEL_STACK_NP, \
	    "push $SEL_STACK_NP + 1; push $0; push $2; push $SEL_CODE1 + 1; push $0", "iret"
	FAULT "IRET: code not present", NP, SEL_NP, "push $2; push $SEL_NP; push $0", "iret"
	FAULT "IRET: beyond the limit", GP, 0, "push $2; push $SEL_SHORT; push $16", "iret"
	USER "IRET: at level 3 changes neither IOPL nor IF", USER_EXIT, NOERR, \
	    "pushf; orl $FL_IOPL3 | FL_IF, (%esp); push $UCODE; push $85f; iret; 85: pushf; \
	    pop %eax; test $FL_IOPL3 | FL_IF, %eax; jz 84f; ud2", "nop"
	USER "POPF: at level 3 changes neither IOPL nor IF", USER_EXIT, NOERR, \
	    "pushf; orl $FL_IOPL3 | FL_IF, (%esp); popf; pushf; pop %eax; \
	    test $FL_IOPL3 | FL_IF, %eax; jz 84f; ud2", "nop"
	CASE "IRET: to a 16-bit stack changes SP only, at level 3"
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_eq($SEL_DATA16 + 3, fault_ss)
	movzwl fault_sp, %ecx
	must_eq($0xfffc, %ecx)
	must_eq($0x77, PAGE0 + 0xfffc)
	jmp 9f
1:	mov $SEL_DATA16 + 3, %eax
	mov %eax, %ss
	mov $0, %sp
	push $0x77
	int $USER_EXIT
	END

	/* --- Far RET to outer levels --- */
	CASE "far RET: to level 3 with parameters on both stacks"
	movl $1f, resume
	mov %esp, resume_sp
	push $UDATA
	push $USER_STACK - 32
	push $0
	push $0
	push $UCODE
	push $2f
	lret $8
2:	mov %esp, %ebx
	int $USER_EXIT
1:	must_fault(USER_EXIT, NOERR)
	must_eq($USER_STACK - 24, RBX)
	must_eq($UCODE, fault_cs)
	must_eq($0, fault_segs)	/* DS was level 0's */
	END
	USER "far RET: to an inner level", GP, KCODE, "push $KCODE; push $0", "lret"
	FAULT "far RET: outer stack null", GP, 0, "push $0; push $0; push $UCODE; push $0", "lret"

	/* --- IOPL and the I/O permission bitmap --- */
	CASE "IOPL 3: CLI, STI, IN and OUT at level 3"
	movl $FL_IOPL3 | 2, user_flags
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_bits(FL_IF, FL_IF, fault_flags)
	must_bits(0, FL_IF, RBX)
	movl $2, user_flags
	jmp 9f
1:	sti
	cli
	pushf
	pop %ebx
	sti
	in $0x61, %al
	out %al, $0x80
	int $USER_EXIT
	END
	/* The bitmap at its usual place, ports 0 to 0xff; a byte of ones must follow. */
	movw $104 + 32, gdt + TSS
	movw $104, tss32 + 102
	movb $0xff, tss32 + 104 + 32
	movb $ACC_TSS32, gdt + TSS + 5
	mov $TSS, %eax
	ltr %ax
	USER "I/O bitmap: a port that may", USER_EXIT, NOERR, "", "in $0x61, %al"
	orb $2, tss32 + 104 + 0x61 / 8
	USER "I/O bitmap: a port that may not", GP, 0, "", "in $0x61, %al"
	USER "I/O bitmap: its neighbour", USER_EXIT, NOERR, "", "in $0x62, %al"
	USER "I/O bitmap: a word that ends there", GP, 0, "", "in $0x60, %ax"
	USER "I/O bitmap: a doubleword from before the limit to after", GP, 0, \
	    "mov $0xfe, %edx", "in %dx, %eax"
	USER "I/O bitmap: beyond the limit", GP, 0, "mov $0x3f8, %edx", "in %dx, %al"
	USER "I/O bitmap: OUTS", GP, 0, "mov $0x61, %edx; mov $PAGE0, %esi", "outsb"
	movw $103, gdt + TSS
	movb $ACC_TSS32, gdt + TSS + 5
	mov $TSS, %eax
	ltr %ax
	ret

/* Where gates lead to. */
target0:
	mov %esp, seen_sp
	movw %ss, seen_ss
	movw %cs, seen_cs
	push %ebx
	push %ecx
	mov $6, %ecx
1:	mov 4(%esp, %ecx, 4), %ebx
	mov %ebx, seen - 4(, %ecx, 4)
	loop 1b
	pop %ecx
	pop %ebx
	lret $8
target1:
	int $USER_EXIT
target_conf:
	int $USER_EXIT
see_flags:
	mov %esp, seen_sp
	push %eax
	mov 4(%esp), %eax
	mov %eax, seen
	mov 8(%esp), %eax
	mov %eax, seen + 4
	mov 12(%esp), %eax
	mov %eax, seen + 8
	pop %eax
	pushf
	popl seen_flags
	iret

	.section .low, "awx"
/* The way back is through words, so the caller's return address must not be needed: it is lost. */
target16:
	mov %esp, seen_sp
	movzwl 2(%esp), %ecx
	mov 4(%esp), %edx
	movzwl 8(%esp), %edi
	movzwl 10(%esp), %esi
	int $USER_EXIT
see16:
	mov %esp, seen_sp
	push %eax
	mov 4(%esp), %eax
	mov %eax, seen
	mov 8(%esp), %eax
	mov %eax, seen + 4
	pop %eax
	.byte 0x66
	iret
low_int:
	int $VEC
	mov $int16_back, %eax
	jmp *%eax
low_iret:
	jmp *%ecx

	.bss
	.balign 4
seen:	.skip 24	/* what lay on the stack */
seen_sp: .skip 4
seen_ss: .skip 4
seen_cs: .skip 4
seen_flags: .skip 4
