/*
 * Task switches, 32-bit and 16-bit: by JMP, CALL, IRET, gates, interrupts and exceptions (SDM 3,
 * chapter 7).
 *
 * The other task lives in tss_b, or tss_c as a 16-bit one. TASK starts it anew at a label with a
 * stack of its own.
 */
#include "guest.h"

	.set TSS_B, SEL_TEST
	.set TSS_C, SEL_TEST + 0x08	/* 16-bit */
	.set GATE_B, SEL_TEST + 0x10	/* task gate */
	.set SEL_LDT, SEL_TEST + 0x18
	.set SEL_NP, SEL_TEST + 0x20	/* data, not present */
	.set SEL_NPCODE, SEL_TEST + 0x28
	.set GATE_BAD, SEL_TEST + 0x30
	.set TSS_H, SEL_TEST + 0x38
	.set VEC, 0x82
	.set STACK_B, 0x220000
	.set STACK_H, 0x228000
	.set STACK_C, 0x7800
	/* TSS, 32-bit */
	.set T_LINK, 0
	.set T_CR3, 28
	.set T_EIP, 32
	.set T_EFLAGS, 36
	.set T_EAX, 40
	.set T_ESP, 56
	.set T_ES, 72
	.set T_CS, 76
	.set T_SS, 80
	.set T_DS, 84
	.set T_FS, 88
	.set T_GS, 92
	.set T_LDT, 96
	.set T_TRAP, 100
	/* 16-bit */
	.set T16_IP, 14
	.set T16_FLAGS, 16
	.set T16_AX, 18
	.set T16_SP, 26
	.set T16_ES, 34
	.set T16_CS, 36
	.set T16_SS, 38
	.set T16_DS, 40
	.set T16_LDT, 42

/* The other task, ready to run at entry. Clobbers EAX, ECX, EDI. */
.macro TASK entry
	movl $\entry, %eax
	call task_b
.endm

	.text
	.globl guest_main
guest_main:
	set_descriptor TSS_C, 0, 43, ACC_TSS16, 0
	mov $tss_c, %eax
	mov %ax, gdt + TSS_C + 2
	set_descriptor SEL_LDT, PAGE1, 0xf, ACC_LDT, 0
	set_descriptor SEL_NP, 0, 0xfffff, 0x12, FLAGS_32G
	set_descriptor SEL_NPCODE, 0, 0xfffff, 0x1a, FLAGS_32G
	set_gate gdt + GATE_B, TSS_B, 0, ACC_TASK
	set_gate "idt32 + VEC * 8", TSS_B, 0, ACC_TASK

	CASE "JMP: loads all registers, marks busy, saves the old task"
	TASK 2f
	mov $0x11, %ebx
	mov $0x22, %esi
	mov %esp, %ebp
	stc
	ljmp $TSS_B, $0
1:	must_eq($0x22, %esi)
	must_eq($1b, tss32 + T_EIP)
	must_eq(%ebp, tss32 + T_ESP)
	must_eq(%ebp, %esp)
	must_bits(FL_CF, FL_CF, tss32 + T_EFLAGS)
	must_eq($KCODE, tss32 + T_CS)
	must_eq($0xb0, seen)
	must_eq($0xb3, seen + 4)
	must_eq($STACK_B, seen + 8)
	must_eq($KDATA64, seen + 12)
	must_bits(FL_ZF, FL_ZF | FL_NT | FL_CF, seen + 16)
	must_eq($TSS_B, seen + 20)
	must_eq($0x8900, seen + 24)	/* ours, while the other ran: available */
	must_eq($0x8b00, seen + 28)	/* its own: busy */
	must_bits(0x8b00, 0xff00, gdt + TSS + 4)
	must_bits(0x8900, 0xff00, gdt + TSS_B + 4)
	must_bits(CR0_TS, CR0_TS, seen + 32)
	must_eq($0, tss_b + T_LINK)
	jmp 9f
2:	mov %eax, seen
	mov %ebx, seen + 4
	mov %esp, seen + 8
	mov %fs, %eax
	mov %eax, seen + 12
	pushf
	popl seen + 16
	str %eax
	mov %eax, seen + 20
	mov gdt + TSS + 4, %eax
	and $0xff00, %eax
	mov %eax, seen + 24
	mov gdt + TSS_B + 4, %eax
	and $0xff00, %eax
	mov %eax, seen + 28
	mov %cr0, %eax
	mov %eax, seen + 32
	ljmp $TSS, $0
	END
	clts

	CASE "JMP: the other task goes on where it was"
	TASK 2f
	ljmp $TSS_B, $0
	ljmp $TSS_B, $0
	must_eq($7, seen)
	jmp 9f
2:	mov $7, %ecx
	ljmp $TSS, $0
	mov %ecx, seen
	ljmp $TSS, $0
	END

	CASE "CALL and IRET: nested, back link, NT"
	TASK 2f
	lcall $TSS_B, $0
1:	must_eq($1b, tss32 + T_EIP)
	must_bits(FL_NT | FL_ZF, FL_NT | FL_ZF, seen)
	must_eq($TSS, seen + 4)
	must_eq($0x8b00, seen + 8)	/* both busy */
	must_eq($0x8b00, seen + 12)
	must_bits(0x8b00, 0xff00, gdt + TSS + 4)
	must_bits(0x8900, 0xff00, gdt + TSS_B + 4)
	must_bits(0, FL_NT, tss_b + T_EFLAGS)
	pushf
	pop %eax
	must_bits(0, FL_NT, %eax)
	must_eq($3f, tss_b + T_EIP)
	jmp 9f
2:	pushf
	popl seen
	movzwl tss_b + T_LINK, %eax
	mov %eax, seen + 4
	mov gdt + TSS + 4, %eax
	and $0xff00, %eax
	mov %eax, seen + 8
	mov gdt + TSS_B + 4, %eax
	and $0xff00, %eax
	mov %eax, seen + 12
	iret
3:	ud2
	END

	CASE "task gate: CALL"
	TASK 2f
	lcall $GATE_B, $0x1234
	must_eq($0x5a, seen)
	jmp 9f
2:	movl $0x5a, seen
	iret
	END

	CASE "task gate: JMP"
	TASK 2f
	ljmp $GATE_B, $0x1234
	must_eq($0x5b, seen)
	jmp 9f
2:	movl $0x5b, seen
	ljmp $TSS, $0
	END

	CASE "task gate: INT n"
	TASK 2f
	mov %esp, %ebp
	int $VEC
1:	must_eq($1b, tss32 + T_EIP)
	must_eq($STACK_B, seen)	/* no error code */
	must_eq(%ebp, %esp)
	jmp 9f
2:	mov %esp, seen
	iret
	END

	CASE "task gate: an exception's error code is on the new stack"
	mov idt32 + GP * 8, %esi
	mov idt32 + GP * 8 + 4, %edi
	push %esi
	push %edi
	TASK 2f
	set_gate "idt32 + GP * 8", TSS_B, 0, ACC_TASK
	mov $GDT_SIZE, %eax
3:	mov %eax, %es
1:	pop %edi
	pop %esi
	mov %esi, idt32 + GP * 8
	mov %edi, idt32 + GP * 8 + 4
	must_eq($STACK_B - 4, seen)
	must_eq($GDT_SIZE, seen + 4)
	must_eq($3b, seen + 8)
	must_bits(FL_RF, FL_RF, seen + 12)
	jmp 9f
2:	mov %esp, seen
	popl seen + 4
	mov tss32 + T_EIP, %eax
	mov %eax, seen + 8
	mov tss32 + T_EFLAGS, %eax
	mov %eax, seen + 12
	movl $1b, tss32 + T_EIP
	iret
	END

	CASE "task gate: at level 3, an interrupt comes back to level 3"
	TASK 2f
	movb $ACC_TASK | ACC_DPL3, idt32 + VEC * 8 + 5
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_eq($UCODE, fault_cs)
	must_eq($0x66, RBX)
	must_eq($UCODE, tss32 + T_CS)
	must_eq($UDATA, tss32 + T_SS)
	jmp 9f
1:	mov $0x66, %ebx
	int $VEC
	int $USER_EXIT
2:	xor %ebx, %ebx
	iret
	END

	/* --- 16-bit --- */
	CASE "16-bit task: JMP, and back by CALL's return"
	call task_c
	mov $0x12345678, %ebx
	mov %esp, %ebp
	lcall $TSS_C, $0
1:	must_eq($0x12345678, %ebx)
	must_eq(%ebp, %esp)
	must_eq($0xffff00c0, seen)	/* the upper half is not loaded: all ones here */
	movzwl seen + 4, %ecx
	must_eq($STACK_C, %ecx)
	must_bits(FL_NT, FL_NT, seen + 8)
	movzwl tss_c, %ecx
	must_eq($TSS, %ecx)
	jmp 9f
	.pushsection .low, "awx"
	.balign 4
task_c_code:
	or $0xffff0000, %eax
	mov %eax, seen
	mov %esp, seen + 4
	pushf
	popl seen + 8
	iret
	jmp task_c_code
	.popsection
	END

	CASE "16-bit task: segments, FS and GS are null"
	call task_c
	mov $task_c_segments, %eax
	mov %ax, tss_c + T16_IP
	lcall $TSS_C, $0
	must_eq($KDATA, seen)
	must_eq($0, seen + 4)
	must_eq($0, seen + 8)
	jmp 9f
	.pushsection .low, "awx"
task_c_segments:
	mov %es, %eax
	mov %eax, seen
	mov %fs, %eax
	mov %eax, seen + 4
	mov %gs, %eax
	mov %eax, seen + 8
	iret
	.popsection
	END

	/* --- What is checked before --- */
	TASK task_unreached
	FAULT "JMP: a busy task", GP, TSS, "", "ljmp $TSS, $0"
	FAULT "CALL: a busy task", GP, TSS, "", "lcall $TSS, $0"
	FAULT "JMP: not present", NP, TSS_B, "movb $0x09, gdt + TSS_B + 5", "ljmp $TSS_B, $0"
	FAULT "JMP: RPL above DPL", GP, TSS_B, "movb $0x89, gdt + TSS_B + 5", "ljmp $TSS_B + 3, $0"
	FAULT "JMP: the TSS too small", TS, TSS_B, "movw $102, gdt + TSS_B", "ljmp $TSS_B, $0"
	FAULT "CALL: the 16-bit TSS too small", TS, TSS_C, "movw $42, gdt + TSS_C", \
	    "lcall $TSS_C, $0"
	movw $43, gdt + TSS_C
	USER "JMP: from level 3", GP, TSS_B, "", "ljmp $TSS_B, $0"
	FAULT "task gate: not present", NP, GATE_BAD, \
	    "movl $TSS_B << 16, gdt + GATE_BAD; movl $0x0500, gdt + GATE_BAD + 4", \
	    "ljmp $GATE_BAD, $0"
	FAULT "task gate: to no TSS", GP, KDATA, "movl $KDATA << 16, gdt + GATE_BAD; \
	    movl $0x8500, gdt + GATE_BAD + 4", "ljmp $GATE_BAD, $0"
	FAULT "task gate: to a busy TSS", GP, TSS, "movl $TSS << 16, gdt + GATE_BAD", \
	    "ljmp $GATE_BAD, $0"
	FAULT "task gate: to the LDT", GP, 0x64, "movl $0x64 << 16, gdt + GATE_BAD", \
	    "ljmp $GATE_BAD, $0"
	FAULT "IRET with NT: a back link of null", TS, 0, \
	    "movw $0, tss32; pushf; orl $FL_NT, (%esp); popf", "iret"
	FAULT "IRET with NT: a back link to a task that is not busy", TS, TSS_B, \
	    "movw $TSS_B, tss32; movb $0x89, gdt + TSS_B + 5; pushf; orl $FL_NT, (%esp); popf", \
	    "iret"
	FAULT "IRET with NT: a back link to data", TS, KDATA, \
	    "movw $KDATA, tss32; pushf; orl $FL_NT, (%esp); popf", "iret"

	/* --- What is checked after: faults of the new task, which is never undone --- */
.macro NEW_TASK name, vector, error, field, value
	CASE "\name"
	TASK task_unreached
	movl $\value, tss_b + \field
	call task_fault
	must_fault_at 0, "\vector", "\error"
	must_eq_at 0, $task_unreached, fault_ip
	must_bits_at 0, CR0_TS, CR0_TS, task_cr0
	END
	clts
.endm
	/* The handlers run in the new task, so it needs a good stack and code for level 0. */
	NEW_TASK "new task: DS is code that cannot be read", TS, GATE_BAD, T_DS, GATE_BAD
	NEW_TASK "new task: ES not present", NP, SEL_NP, T_ES, SEL_NP
	NEW_TASK "new task: FS beyond the GDT", TS, GDT_SIZE, T_FS, GDT_SIZE
	/* Without an LDT there is no SS yet: only a third task can handle that. */
	CASE "new task: the LDT is none"
	pushl idt32 + TS * 8
	pushl idt32 + TS * 8 + 4
	set_gate "idt32 + TS * 8", TSS_H, 0, ACC_TASK
	TASK task_unreached
	movl $KDATA, tss_b + T_LDT
	mov $2f, %eax
	call task_h
	mov %esp, %ebp
	mov %ebp, tss_h + T_EAX + 20
	lcall $TSS_B, $0
2:	pop seen
	movzwl tss_h + T_LINK, %eax
	mov %eax, seen + 4
	push $2
	popf
	call task_home
	mov %ebp, %esp
	popl idt32 + TS * 8 + 4
	popl idt32 + TS * 8
	must_eq($KDATA, seen)
	must_eq($TSS_B, seen + 4)
	must_eq($task_unreached, tss_b + T_EIP)
	END
	clts
	CASE "new task: an LDT in use"
	movl $0, PAGE1
	movl $0, PAGE1 + 4
	TASK 2f
	mov gdt + KDATA, %eax
	mov %eax, PAGE1 + 8
	mov gdt + KDATA + 4, %eax
	mov %eax, PAGE1 + 12
	movl $SEL_LDT, tss_b + T_LDT
	movl $0xc, tss_b + T_GS
	lcall $TSS_B, $0
	must_eq($0xc, seen)
	must_eq($SEL_LDT, seen + 4)
	sldt %eax
	must_eq($0, %eax)
	jmp 9f
2:	mov %gs, %eax
	mov %eax, seen
	sldt %eax
	mov %eax, seen + 4
	iret
	END
	CASE "new task: level 3 by CALL, segments of its own"
	TASK 2f
	movl $UCODE, tss_b + T_CS
	movl $UDATA, tss_b + T_SS
	movl $UDATA, tss_b + T_DS
	movl $UDATA, tss_b + T_ES
	movl $UDATA, tss_b + T_FS
	movl $UDATA, tss_b + T_GS
	movl $ring0_top, tss_b + 4
	movl $KDATA, tss_b + 8
	try(1f)
	lcall $TSS_B, $0
1:	must_fault(USER_EXIT, NOERR)
	must_eq($UCODE, fault_cs)
	call task_home
	jmp 9f
2:	int $USER_EXIT
	END
	clts

	/* --- The trap bit --- */
	CASE "T bit: a debug exception before the first instruction, DR6.BT"
	TASK task_unreached
	movw $1, tss_b + T_TRAP
	xor %eax, %eax
	mov %eax, %dr6
	call task_fault
	movw $0, tss_b + T_TRAP
	must_fault(DB, NOERR)
	must_eq($task_unreached, fault_ip)
	mov %dr6, %eax
	must_bits(0x8000, 0xe00f, %eax)
	END
	clts
	ret

/* Jumps to the other task, which faults; then makes ours the current one again. */
task_fault:
	pop task_return
	try(1f)
	lcall $TSS_B, $0
1:	mov %cr0, %eax
	mov %eax, task_cr0
	call task_home
	push task_return
	ret

/* Whatever the current task is, from now on it is ours, not nested. */
task_home:
	movb $ACC_TSS32, gdt + TSS + 5
	mov $TSS, %eax
	ltr %ax
	xor %eax, %eax
	lldt %ax
	ret

/* Fills a TSS, and its descriptor, to run at EAX. Clobbers EAX, ECX, EDI. */
.macro TASK_INIT tss, selector, stack
	mov %eax, task_entry
	mov $\tss, %edi
	mov $104 / 4, %ecx
	xor %eax, %eax
	rep stosl
	set_descriptor \selector, 0, 103, ACC_TSS32, 0
	mov $\tss, %eax
	mov %ax, gdt + \selector + 2
	shr $16, %eax
	mov %al, gdt + \selector + 4
	mov task_entry, %eax
	mov %eax, \tss + T_EIP
	movl $FL_ZF | 2, \tss + T_EFLAGS
	movl $0xb0, \tss + T_EAX
	movl $0xb3, \tss + T_EAX + 12
	movl $\stack, \tss + T_ESP
	movl $KDATA, \tss + T_ES
	movl $KCODE, \tss + T_CS
	movl $KDATA, \tss + T_SS
	movl $KDATA, \tss + T_DS
	movl $KDATA64, \tss + T_FS
	movl $ring0_top, \tss + 4
	movl $KDATA, \tss + 8
.endm
task_b:
	TASK_INIT tss_b, TSS_B, STACK_B
	ret
task_h:
	TASK_INIT tss_h, TSS_H, STACK_H
	ret

task_c:
	mov $tss_c, %edi
	mov $44 / 4, %ecx
	xor %eax, %eax
	rep stosl
	movb $ACC_TSS16, gdt + TSS_C + 5
	mov $task_c_code, %eax
	mov %ax, tss_c + T16_IP
	movw $2, tss_c + T16_FLAGS
	movw $0xc0, tss_c + T16_AX
	movw $STACK_C, tss_c + T16_SP
	movw $KDATA, tss_c + T16_ES
	movw $KCODE, tss_c + T16_CS
	movw $KDATA, tss_c + T16_SS
	movw $KDATA, tss_c + T16_DS
	ret

task_unreached:
	ud2

	.section .low, "awx"
	.balign 4
tss_c:	.skip 44

	.bss
	.balign 8
tss_b:	.skip 104
tss_h:	.skip 104
task_entry: .skip 4
task_return: .skip 4
task_cr0: .skip 4
seen:	.skip 40
