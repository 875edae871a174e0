/*
 * Single-step and breakpoints (SDM 3, chapter 17).
 *
 * A hook takes each debug exception, writes its address and DR6 into a log and goes on;
 * log_flags are set in the flags it returns with.
 */
#include "guest.h"

	.set DR6_CLEAR, 0xffff0ff0
	.set DR6_BD, 1 << 13
	.set DR6_BS, 1 << 14
	.set DR7_GD, 1 << 13
	.set DR7_EXEC0, 0x00000001	/* L0, execution */
	.set DR7_WRITE0, 0x000d0001	/* L0, write, 4 bytes */
	.set DR7_RW0, 0x000f0001	/* L0, read or write, 4 bytes */
	.set DR7_WRITE0_1, 0x00010001	/* 1 byte */
	.set DR7_WRITE0_2, 0x00050001	/* 2 bytes */
	.set DR7_IO0, 0x00020001	/* L0, I/O, 1 byte */
	.set LOG_MAX, 32

/* Begins a case with an empty log, no breakpoint. */
.macro STEP name
	CASE "\name"
	call log_clear
.endm

/* Entry n of the log: the address that was saved, and which of DR6's bits 0 to 3, 13 to 15 were
 * set. */
.macro must_log_at line, n, ip, dr6
	must_eq_at \line, "$\ip", "log + \n * 8"
	must_bits_at \line, "\dr6", 0xe00f, "log + \n * 8 + 4"
.endm
#define must_log(n, ip, dr6) must_log_at __LINE__, n, ip, dr6
#define must_count(n) must_eq_at __LINE__, $##n, log_count

	.text
	.globl guest_main
guest_main:
	movl $log_hook, hooks + DB * 4

	/* --- TF --- */
	STEP "TF: a trap after each instruction, first after the one behind POPF"
	push $FL_TF | 2
	popf
1:	nop
2:	nop
3:	push $2
4:	popf
5:	must_count(4)
	must_log(0, 2b, DR6_BS)
	must_log(1, 3b, DR6_BS)
	must_log(2, 4b, DR6_BS)
	must_log(3, 5b, DR6_BS)	/* POPF itself began with TF set */
	END
	STEP "TF: IRET sets it"
	push $FL_TF | 2
	push %cs
	push $1f
	iret
1:	nop
2:	push $2
3:	popf
4:	must_count(3)
	must_log(0, 2b, DR6_BS)
	must_log(1, 3b, DR6_BS)
	must_log(2, 4b, DR6_BS)
	END
	STEP "TF: IRET clears it"
	push $2
	push %cs
	push $3f
	push $FL_TF | 2
	popf
1:	iret
	nop
3:	nop
	must_count(1)
	must_log(0, 3b, DR6_BS)
	END
	STEP "TF: not after MOV SS, but after the next"
	mov %ss, %eax
	push $2
	push $FL_TF | 2
	popf
1:	mov %eax, %ss
2:	nop
3:	popf
4:	must_count(2)
	must_log(0, 3b, DR6_BS)
	must_log(1, 4b, DR6_BS)
	END
	STEP "TF: not after POP SS"
	push $2
	push %ss
	push $FL_TF | 2
	popf
1:	pop %ss
2:	nop
3:	popf
4:	must_count(2)
	must_log(0, 3b, DR6_BS)
	END
	STEP "TF: after LSS"
	mov %esp, PAGE0
	movw %ss, PAGE0 + 4
	pushf
	orl $FL_TF, (%esp)
	popf
1:	lss PAGE0, %esp
2:	push $2
3:	popf
4:	must_count(3)
	must_log(0, 2b, DR6_BS)
	must_log(1, 3b, DR6_BS)
	END
	STEP "TF: after each round of REP MOVS"
	mov $PAGE0, %esi
	mov $PAGE1, %edi
	mov $3, %ecx
	push $2
	push $FL_TF | 2
	popf
1:	rep movsb
2:	popf
3:	must_count(4)
	must_log(0, 1b, DR6_BS)
	must_log(1, 1b, DR6_BS)
	must_log(2, 2b, DR6_BS)
	must_log(3, 3b, DR6_BS)
	END
	STEP "TF: a jump"
	push $2
	push $FL_TF | 2
	popf
	jmp 2f
1:	nop
2:	popf
3:	must_count(2)
	must_log(0, 2b, DR6_BS)
	must_log(1, 3b, DR6_BS)
	END
	STEP "TF: INT n, not inside the handler and after what follows"
	movl $just_return, hooks + 0x90 * 4
	push $2
	push $FL_TF | 2
	popf
1:	int $0x90
2:	nop
3:	popf
4:	must_count(2)
	must_log(0, 3b, DR6_BS)
	must_log(1, 4b, DR6_BS)
	END
	STEP "TF: an instruction that faults does not trap"
	push $FL_TF | 2
	try(1f)
	popf
2:	ud2
1:	must_fault(UD, NOERR)
	must_eq($2b, fault_ip)
	must_bits(FL_TF, FL_TF, fault_flags)
	must_count(0)
	END
	STEP "TF: STI and CLI are steps like others"
	push $2
	push $FL_TF | 2
	popf
1:	sti
2:	cli
3:	popf
4:	must_count(3)
	must_log(0, 2b, DR6_BS)
	must_log(1, 3b, DR6_BS)
	END
	STEP "TF: CPUID, MOV CR0 and WRMSR are steps like others"
	push $2
	push $FL_TF | 2
	mov $EFER, %ecx
	popf
	xor %eax, %eax
1:	cpuid
2:	mov %cr0, %eax
3:	mov %eax, %cr0
4:	mov $EFER, %ecx
5:	rdmsr
6:	wrmsr
7:	popf
8:	must_count(8)
	must_log(1, 2b, DR6_BS)
	must_log(2, 3b, DR6_BS)
	must_log(3, 4b, DR6_BS)
	must_log(5, 6b, DR6_BS)
	must_log(6, 7b, DR6_BS)
	must_log(7, 8b, DR6_BS)
	END
	STEP "TF: at level 3"
	movl $FL_TF | 2, user_flags
	mov $1f, %eax
	call user_call
	movl $2, user_flags
	must_fault(USER_EXIT, NOERR)
	must_count(2)
	must_log(0, 2f, DR6_BS)
	must_log(1, 3f, DR6_BS)
	jmp 9f
1:	nop
2:	nop
3:	int $USER_EXIT
	END
	STEP "TF: DR6.BS stays until it is cleared"
	movl $0, log_dr6_clear
	push $2
	push $FL_TF | 2
	popf
	nop
	popf
	mov %dr6, %eax
	must_eq($DR6_CLEAR | DR6_BS, %eax)
	END

	/* --- INT1, INT 1 --- */
	STEP "INT1: a trap that leaves DR6"
	.byte 0xf1
1:	must_count(1)
	must_log(0, 1b, 0)
	END
	STEP "INT 1: through the gate"
	.byte 0xcd, 1
1:	must_count(1)
	must_log(0, 1b, 0)
	END

	/* --- Instruction breakpoints --- */
	STEP "execution: before the instruction, RF not set in the image"
	movl $FL_RF, log_flags
	mov $1f, %eax
	mov %eax, %dr0
	mov $DR7_EXEC0, %eax
	mov %eax, %dr7
	xor %ebx, %ebx
1:	inc %ebx
	must_count(1)
	must_log(0, 1b, 1)
	must_bits(0, FL_RF, log_image)
	must_eq($1, %ebx)
	END
	STEP "execution: RF is good for one instruction"
	movl $FL_RF, log_flags
	mov $1f, %eax
	mov %eax, %dr0
	mov $DR7_EXEC0, %eax
	mov %eax, %dr7
	mov $3, %ecx
1:	loop 1b
	must_count(3)
	must_log(2, 1b, 1)
	END
	STEP "execution: IRET with RF skips it"
	mov $1f, %eax
	mov %eax, %dr0
	mov $DR7_EXEC0, %eax
	mov %eax, %dr7
	push $FL_RF | 2
	push %cs
	push $1f
	iret
1:	nop
	must_count(0)
	END
	STEP "execution: POPF does not set RF"
	movl $FL_RF, log_flags
	mov $1f, %eax
	mov %eax, %dr0
	mov $DR7_EXEC0, %eax
	mov %eax, %dr7
	push $FL_RF | 2
	popf
1:	nop
	must_count(1)
	END
	STEP "execution: four at once"
	movl $FL_RF, log_flags
	mov $1f, %eax
	mov %eax, %dr0
	mov $2f, %eax
	mov %eax, %dr1
	mov $3f, %eax
	mov %eax, %dr2
	mov %eax, %dr3
	mov $0x55, %eax
	mov %eax, %dr7
1:	nop
2:	nop
3:	nop
	must_count(3)
	must_log(0, 1b, 1)
	must_log(1, 2b, 2)
	must_log(2, 3b, 12)
	END
	STEP "execution: G enables as well"
	movl $FL_RF, log_flags
	mov $1f, %eax
	mov %eax, %dr1
	mov $8, %eax
	mov %eax, %dr7
1:	nop
	must_count(1)
	must_log(0, 1b, 2)
	END
	STEP "execution: not enabled, no hit"
	mov $1f, %eax
	mov %eax, %dr0
	mov $4, %eax
	mov %eax, %dr7
1:	nop
	must_count(0)
	END
	STEP "execution: inside an instruction, no hit"
	mov $1f + 1, %eax
	mov %eax, %dr0
	mov $DR7_EXEC0, %eax
	mov %eax, %dr7
1:	mov $0x90909090, %ebx
	must_count(0)
	END
	STEP "execution: with TF, the breakpoint and then the step"
	movl $FL_RF, log_flags
	mov $1f, %eax
	mov %eax, %dr0
	mov $DR7_EXEC0, %eax
	mov %eax, %dr7
	push $2
	push $FL_TF | 2
	popf
	nop
1:	nop
2:	popf
3:	must_count(4)
	must_log(0, 1b, DR6_BS)	/* traps go before faults of the next instruction */
	must_log(1, 1b, 1)
	must_log(2, 2b, DR6_BS)
	must_log(3, 3b, DR6_BS)
	END
	STEP "execution: not right behind MOV SS"
	mov $1f, %eax
	mov %eax, %dr0
	mov $DR7_EXEC0, %eax
	mov %eax, %dr7
	mov %ss, %eax
	mov %eax, %ss
1:	nop
	must_count(0)
	END
	STEP "execution: in code that already ran"
	movl $FL_RF, log_flags
	mov $1f, %eax
	mov %eax, %dr0
	mov $2, %ecx
	xor %ebx, %ebx
2:	nop
1:	inc %ebx
	mov $DR7_EXEC0, %eax
	mov %eax, %dr7
	loop 2b
	must_count(1)
	must_eq($2, %ebx)
	END

	/* --- Data breakpoints: traps --- */
.macro WATCH name, dr7, address, hits, code
	STEP "\name"
	mov $\address, %eax
	mov %eax, %dr0
	mov $\dr7, %eax
	mov %eax, %dr7
	mov $PAGE0, %ebx
	\code
82:	must_eq_at __LINE__, $\hits, log_count
	.if \hits
	must_log_at __LINE__, 0, 82b, 1
	.endif
	END
.endm
	WATCH "write: a store", DR7_WRITE0, PAGE0, 1, "movl $1, (%ebx)"
	WATCH "write: a load not", DR7_WRITE0, PAGE0, 0, "mov (%ebx), %eax"
	WATCH "write: a read-modify-write", DR7_WRITE0, PAGE0, 1, "addl $1, (%ebx)"
	WATCH "write: a comparison not", DR7_WRITE0, PAGE0, 0, "cmpl $1, (%ebx)"
	WATCH "write: the last byte of four", DR7_WRITE0, PAGE0, 1, "movb $1, 3(%ebx)"
	WATCH "write: the byte behind not", DR7_WRITE0, PAGE0, 0, "movb $1, 4(%ebx)"
	WATCH "write: a doubleword that ends inside", DR7_WRITE0, PAGE0 + 4, 1, "movl $1, 1(%ebx)"
	WATCH "write: a doubleword that ends before not", DR7_WRITE0, PAGE0 + 4, 0, \
	    "movl $1, (%ebx)"
	WATCH "write: one byte", DR7_WRITE0_1, PAGE0 + 1, 1, "movw $1, (%ebx)"
	WATCH "write: one byte, its neighbour not", DR7_WRITE0_1, PAGE0 + 1, 0, "movb $1, (%ebx)"
	WATCH "write: two bytes", DR7_WRITE0_2, PAGE0 + 2, 1, "movb $1, 3(%ebx)"
	WATCH "write: two bytes, the next not", DR7_WRITE0_2, PAGE0 + 2, 0, "movb $1, 4(%ebx)"
	WATCH "write: PUSH", DR7_WRITE0, "stack_top - 8", 1, "mov $stack_top - 4, %esp; push %eax"
	WATCH "write: LOCK XADD", DR7_WRITE0, PAGE0, 1, "lock xaddl %eax, (%ebx)"
	WATCH "write: CMPXCHG that fails writes what was there", DR7_WRITE0, PAGE0, 1, \
	    "movl $5, 16(%ebx); mov $6, %eax; cmpxchgl %ecx, (%ebx)"
	WATCH "write: STOS", DR7_WRITE0, PAGE0, 1, "mov %ebx, %edi; stosb"
	WATCH "write: 8 bytes of MMX", DR7_WRITE0, PAGE0 + 4, 1, "movq %mm0, (%ebx)"
	WATCH "write: 16 bytes of SSE", DR7_WRITE0, PAGE0 + 12, 1, "movups %xmm0, (%ebx)"
	WATCH "write: across two pages", DR7_WRITE0, PAGE1, 1, "movl $1, 0xffe(%ebx)"
	WATCH "access: a load", DR7_RW0, PAGE0, 1, "mov (%ebx), %eax"
	WATCH "access: a store", DR7_RW0, PAGE0, 1, "mov %eax, (%ebx)"
	WATCH "access: LODS", DR7_RW0, PAGE0, 1, "mov %ebx, %esi; lodsl"
	WATCH "access: LEA and a prefetch not", DR7_RW0, PAGE0, 0, \
	    "lea (%ebx), %eax; prefetcht0 (%ebx)"
	STEP "access: execution is none"
	mov $1f, %eax
	mov %eax, %dr0
	mov $DR7_RW0, %eax
	mov %eax, %dr7
1:	nop
	nop
	must_count(0)
	END
	STEP "write: a store that faults does not hit"
	set_descriptor SEL_TEST, PAGE0, 2, ACC_DATA, FLAGS_32
	mov $SEL_TEST, %eax
	mov %eax, %es
	mov $PAGE0, %eax
	mov %eax, %dr0
	mov $DR7_WRITE0, %eax
	mov %eax, %dr7
	try(1f)
	mov %eax, %es:0
1:	must_fault(GP, 0)
	must_count(0)
	mov %dr6, %eax
	must_bits(0, 0xf, %eax)
	END
	STEP "write: REP STOS reports it"
	mov $PAGE0 + 8, %eax
	mov %eax, %dr0
	mov $DR7_WRITE0, %eax
	mov %eax, %dr7
	mov $PAGE0, %edi
	mov $4, %ecx
	rep stosl
	cmpl $0, log_count
	must(ne)
	must_bits(1, 0xe00f, log + 4)
	END
	STEP "access: by MOV SS, it waits for the next instruction"
	movw %ss, PAGE0
	mov $PAGE0, %eax
	mov %eax, %dr0
	mov $DR7_RW0, %eax
	mov %eax, %dr7
	movw PAGE0, %ss
1:	nop
2:	must_count(1)
	must_log(0, 2b, 1)
	END
	STEP "write: with TF, both in one exception"
	mov $PAGE0, %eax
	mov %eax, %dr0
	mov $DR7_WRITE0, %eax
	mov %eax, %dr7
	push $2
	push $FL_TF | 2
	popf
	movl $1, PAGE0
1:	popf
	must_log(0, 1b, DR6_BS + 1)
	END
	STEP "write: no longer after DR7 is cleared"
	mov $PAGE0, %eax
	mov %eax, %dr0
	mov $DR7_WRITE0, %eax
	mov %eax, %dr7
	movl $1, PAGE0
	xor %eax, %eax
	mov %eax, %dr7
	movl $1, PAGE0
	must_count(1)
	END

	/* --- I/O breakpoints --- */
	STEP "I/O: with CR4.DE, after the instruction"
	mov %cr4, %eax
	or $CR4_DE, %eax
	mov %eax, %cr4
	mov $0x61, %eax
	mov %eax, %dr0
	mov $DR7_IO0, %eax
	mov %eax, %dr7
	in $0x61, %al
1:	in $0x60, %ax
2:	in $0x62, %al
	must_count(2)
	must_log(0, 1b, 1)
	must_log(1, 2b, 1)
	END

	/* --- The registers --- */
	STEP "DR7.GD: a fault before the access, cleared for the handler"
	mov $DR7_GD, %eax
	mov %eax, %dr7
1:	mov %dr0, %ebx
	must_count(1)
	must_log(0, 1b, DR6_BD)
	mov %dr7, %eax
	must_bits(0, DR7_GD, %eax)
	END
	STEP "DR4 and DR5 are #UD with CR4.DE"
	try(1f)
2:	mov %db4, %eax
1:	must_fault(UD, NOERR)
	must_eq($2b, fault_ip)
	END
	STEP "DR4 and DR5 are DR6 and DR7 without"
	mov %cr4, %eax
	and $~CR4_DE, %eax
	mov %eax, %cr4
	mov $DR6_BD | 1, %eax
	mov %eax, %dr6
	mov %db4, %ebx
	mov %db5, %ecx
	mov %dr7, %edx
	mov $DR6_CLEAR, %eax
	mov %eax, %dr6
	must_eq($DR6_CLEAR | DR6_BD | 1, %ebx)
	must_eq(%edx, %ecx)
	END
	STEP "DR6 and DR7: bits that are fixed"
	xor %eax, %eax
	mov %eax, %dr6
	mov %eax, %dr7
	mov %dr6, %ebx
	mov %dr7, %ecx
	mov $DR6_CLEAR, %eax
	mov %eax, %dr6
	must_eq($DR6_CLEAR, %ebx)
	must_eq($0x400, %ecx)
	END
	STEP "DR0 to DR3 hold what was written"
	mov $0x12345678, %eax
	mov %eax, %dr0
	not %eax
	mov %eax, %dr3
	mov %dr0, %ebx
	mov %dr3, %ecx
	must_eq($0x12345678, %ebx)
	must_eq($0xedcba987, %ecx)
	END

	/* --- 64-bit mode --- */
	movl $log_hook64, hooks + DB * 4
	call long_enter
	bits 64
	STEP "64 bits: a watch of 8 bytes"
	mov $PAGE0, %eax
	mov %rax, %dr0
	mov $0x00090001, %eax
	mov %rax, %dr7
	movb $1, PAGE0 + 7
1:	movb $1, PAGE0 + 8
	must_count(1)
	must_log(0, 1b, 1)
	END
	STEP "64 bits: single-step"
	push $2
	push $FL_TF | 2
	popfq
1:	nop
2:	popfq
3:	must_count(2)
	must_log(0, 2b, DR6_BS)
	must_log(1, 3b, DR6_BS)
	END
	STEP "64 bits: execution above 4 GiB"
	movl $FL_RF, log_flags
	movl $PAGE0 | PTE_P | PTE_W, PT_TEST
	movl $0, PT_TEST + 4
	movl $0xc3c3, PAGE0	/* RET */
	mov $VIRT >> 32, %eax
	shl $32, %rax
	mov %rax, %dr0
	mov %rax, %rbx
	mov $DR7_EXEC0, %eax
	mov %rax, %dr7
	call *%rbx
	must_count(1)
	must_log(0, 0, 1)
	END
	STEP "64 bits: upper bits of DR6 and DR7 are #GP"
	mov $1, %eax
	shl $32, %rax
	try(1f)
2:	mov %rax, %dr7
1:	must_fault(GP, 0)
	must_eq($2b, fault_ip)
	try(1f)
2:	mov %rax, %dr6
1:	must_fault(GP, 0)
	must_eq($2b, fault_ip)
	END
	STEP "64 bits: SYSCALL with TF masked does not step"
	mov $0xc0000081, %ecx
	xor %eax, %eax
	mov $KCODE64 | 0x1b0000, %edx
	wrmsr
	mov $0xc0000082, %ecx
	mov $1f, %eax
	xor %edx, %edx
	wrmsr
	mov $0xc0000084, %ecx
	mov $FL_TF, %eax
	xor %edx, %edx
	wrmsr
	push $FL_TF | 2
	popfq
	syscall
1:	nop
	must_count(0)
	END
	call long_leave
	bits 32
	ret

just_return:
	ret

log_hook:
	mov FRAME_IP(%ebp), %eax
	mov FRAME_FLAGS(%ebp), %edx
	mov %edx, log_image
	mov %dr6, %ebx
	call log_write
	/* A guest that steps for ever would hide what went wrong. */
	jb 1f
	andl $~FL_TF, FRAME_FLAGS(%ebp)
	xor %eax, %eax
	mov %eax, %dr7
1:	test $15, %bl
	jz 2f
	mov log_flags, %eax
	or %eax, FRAME_FLAGS(%ebp)
2:	cmpl $0, log_dr6_clear
	je 3f
	mov $DR6_CLEAR, %eax
	mov %eax, %dr6
3:	ret

	.code64
log_hook64:
	mov 136(%rbp), %eax
	mov %dr6, %rbx
	call log_write
	jb 1f
	andl $~FL_TF, 152(%rbp)
	xor %eax, %eax
	mov %rax, %dr7
1:	mov log_flags, %eax
	or %eax, 152(%rbp)
	mov $DR6_CLEAR, %eax
	mov %rax, %dr6
	ret
	.code32

/* An entry of address EAX and DR6 EBX; CF is clear when the log is full. In both modes alike. */
log_write:
	mov $log_count, %edx
	mov (%edx), %ecx
	cmp $LOG_MAX, %ecx
	jae 1f
	lea 1(%ecx), %ecx
	mov %ecx, (%edx)
	mov $log - 8, %edx
	mov %eax, (%edx, %ecx, 8)
	mov %ebx, 4(%edx, %ecx, 8)
	stc
1:	ret

/* In both modes alike. */
log_clear:
	xor %eax, %eax
	.byte 0x0f, 0x23, 0xf8	/* MOV DR7, EAX or RAX */
	mov $DR6_CLEAR, %eax
	.byte 0x0f, 0x23, 0xf0	/* MOV DR6 */
	mov $log_flags, %ecx
	xor %eax, %eax
	mov %eax, (%ecx)
	mov %eax, 4(%ecx)
	add $1, %eax
	mov %eax, 8(%ecx)
	ret

	.bss
	.balign 8
log:	.skip (LOG_MAX + 1) * 8
log_flags: .skip 4
log_count: .skip 4
log_dr6_clear: .skip 4	/* whether the hook clears DR6 */
log_image: .skip 4	/* the flags last saved */
