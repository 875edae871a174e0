/*
 * What guests are written with.
 *
 * A guest is a list of cases. Each prints one line, "ok NAME", "FAIL NAME: ..." or "skip NAME",
 * and the guest ends through the debug exit with EXIT_OK or EXIT_FAIL. Names lie in the section
 * .names, so a test can tell that none was left out.
 *
 *	#include "guest.h"
 *		bits 32
 *	guest_main:
 *		CASE "division by zero"
 *		xor %ecx, %ecx
 *		try(1f)
 *	2:	div %ecx
 *	1:	must_fault(DE, NOERR)
 *		must_eq($2b, fault_ip)
 *		END
 *		FAULT "a null selector in SS", GP, 0, "xor %eax, %eax", "mov %eax, %ss"
 *		ret
 *
 * guest_main runs in 32-bit protected mode, flat, without paging, interrupts off, and may use
 * all registers. Labels 9 and 80 to 89 belong to the macros.
 *
 * After an exception or interrupt for which no hook is set, its frame is in the fault_*
 * variables (start.S), the kernel's segments and the stack of the last try() are back, the
 * general registers are as they were, EFLAGS is 2, and execution goes on where try() said.
 * Without a try() the case fails.
 *
 * CASE, END, FAULT, try() and the must_*() work in 32- and in 64-bit code; try() and must_*() in
 * real mode as well, inside REAL. `bits` says which it is.
 */

/* --- Constants: symbols of the assembler, because it reads code in strings --- */

	.set EXIT_OK, 16
	.set EXIT_FAIL, 17

	.set DE, 0
	.set DB, 1
	.set NMI, 2
	.set BP, 3
	.set OF, 4
	.set BR, 5
	.set UD, 6
	.set NM, 7
	.set DF, 8
	.set TS, 10
	.set NP, 11
	.set SS, 12
	.set GP, 13
	.set PF, 14
	.set MF, 16
	.set AC, 17
	.set XM, 19
	.set USER_EXIT, 0x80	/* INT from level 3 that only comes back */
	.set NOERR, -1		/* an exception without error code */
	.set NONE, -1		/* no exception */

	/* The GDT (start.S); from SEL_TEST on descriptors are the guest's own. */
	.set KCODE, 0x08
	.set KDATA, 0x10
	.set UCODE, 0x1b
	.set UDATA, 0x23
	.set UCODE64, 0x2b
	.set KCODE64, 0x30
	.set KDATA64, 0x38
	.set CODE16, 0x40
	.set DATA16, 0x48
	.set TSS, 0x50
	.set SEL_TEST, 0x60
	.set GDT_SIZE, 0x400

	/* Memory of the tests */
	.set PML4, 0x200000	/* tables of lib/long.S */
	.set PDPT, 0x201000
	.set PD, 0x202000
	.set PT_TEST, 0x206000	/* 512 pages at VIRT, none present at first */
	.set PDPT_TEST, 0x207000
	.set PD_TEST, 0x208000
	.set PML5, 0x209000
	.set VIRT, 0x100000000	/* 4 GiB: where PT_TEST maps in 64-bit mode */
	.set PT_WALK, 0x20a000	/* walk.h */
	.set PT_STUB, 0x20b000
	.set USER_STACK, 0x210000
	.set PAGE0, 0x300000	/* pages to map */
	.set PAGE1, 0x301000
	.set PAGE2, 0x302000
	.set PAGE3, 0x303000

	.set CR0_PE, 1 << 0
	.set CR0_MP, 1 << 1
	.set CR0_EM, 1 << 2
	.set CR0_TS, 1 << 3
	.set CR0_NE, 1 << 5
	.set CR0_WP, 1 << 16
	.set CR0_AM, 1 << 18
	.set CR0_NW, 1 << 29
	.set CR0_CD, 1 << 30
	.set CR0_PG, 1 << 31
	.set CR4_TSD, 1 << 2
	.set CR4_DE, 1 << 3
	.set CR4_PSE, 1 << 4
	.set CR4_PAE, 1 << 5
	.set CR4_PGE, 1 << 7
	.set CR4_OSFXSR, 1 << 9
	.set CR4_OSXMMEXCPT, 1 << 10
	.set CR4_UMIP, 1 << 11
	.set CR4_LA57, 1 << 12
	.set CR4_FSGSBASE, 1 << 16
	.set CR4_PCIDE, 1 << 17
	.set CR4_OSXSAVE, 1 << 18
	.set CR4_SMEP, 1 << 20
	.set CR4_SMAP, 1 << 21
	.set EFER, 0xc0000080
	.set EFER_SCE, 1 << 0
	.set EFER_LME, 1 << 8
	.set EFER_LMA, 1 << 10
	.set EFER_NXE, 1 << 11

	.set FL_CF, 1 << 0
	.set FL_PF, 1 << 2
	.set FL_AF, 1 << 4
	.set FL_ZF, 1 << 6
	.set FL_SF, 1 << 7
	.set FL_TF, 1 << 8
	.set FL_IF, 1 << 9
	.set FL_DF, 1 << 10
	.set FL_OF, 1 << 11
	.set FL_IOPL3, 3 << 12
	.set FL_NT, 1 << 14
	.set FL_RF, 1 << 16
	.set FL_VM, 1 << 17
	.set FL_AC, 1 << 18
	.set FL_ID, 1 << 21

	.set PTE_P, 1 << 0
	.set PTE_W, 1 << 1
	.set PTE_U, 1 << 2
	.set PTE_A, 1 << 5
	.set PTE_D, 1 << 6
	.set PTE_PS, 1 << 7
	.set PTE_G, 1 << 8

	/* Page-fault error code */
	.set ERR_P, 1 << 0
	.set ERR_W, 1 << 1
	.set ERR_U, 1 << 2
	.set ERR_RSVD, 1 << 3
	.set ERR_I, 1 << 4

	.set COM1, 0x3f8
	.set DEBUG_EXIT, 0xf4

	/* fault_regs */
	.set RAX, fault_regs
	.set RCX, fault_regs + 8
	.set RDX, fault_regs + 16
	.set RBX, fault_regs + 24
	.set RSP, fault_regs + 32
	.set RBP, fault_regs + 40
	.set RSI, fault_regs + 48
	.set RDI, fault_regs + 56
	/* What a hook finds at %ebp in 32-bit code (lib/prot.S) */
	.set FRAME_VECTOR, 48
	.set FRAME_ERROR, 52
	.set FRAME_IP, 56
	.set FRAME_CS, 60
	.set FRAME_FLAGS, 64
	.set FRAME_SP, 68
	.set FRAME_SS, 72

.macro bits n
	.code\n
	.set BITS, \n
.endm
	bits 32

/* --- Cases --- */

.macro CASE name
	.pushsection .names, "a"
.Lname\@:
	.asciz "\name"
	.popsection
	mov $.Lname\@, %eax
	mov $9f, %edx
	.if BITS == 64
	call case_begin64
	.else
	call case_begin32
	.endif
.endm

.macro END
9:
	.if BITS == 64
	call case_finish64
	.else
	call case_finish32
	.endif
.endm

/* Ends the case as skipped, when the CPU does not have what it needs: after a comparison. */
.macro skip_if cond
	.if BITS == 64
	j\cond case_skip64
	.else
	j\cond case_skip32
	.endif
.endm

.macro fail_at line
	.if BITS == 16
	movl $\line, fail_line
	jmp real_leave
	.else
	movl $\line, fail_line
	.if BITS == 64
	jmp case_fail64
	.else
	jmp case_fail32
	.endif
	.endif
.endm

/* The 32-bit value got (register or memory, not a constant) is want (register or constant). */
.macro must_eq_at line, want, got
	cmpl \want, \got
	je 88f
	movl \got, %eax
	movl %eax, fail_got
	fail_at \line
88:
.endm

/* The same for 64 bits; a constant is sign-extended. */
.macro must_eq64_at line, want, got
	cmpq \want, \got
	je 88f
	movq \got, %rax
	movl %eax, fail_got
	fail_at \line
88:
.endm

.macro must_fault_at line, vector, error
	must_eq_at \line, "$\vector", fault_vector
	must_eq_at \line, "$\error", fault_error
.endm

/* The bits of mask in got (memory) are exactly want. */
.macro must_bits_at line, want, mask, got
	movl \got, %eax
	movl %eax, fail_got
	andl $\mask, %eax
	cmpl $\want, %eax
	je 88f
	fail_at \line
88:
.endm

.macro try_at label
	.if BITS == 64
	movl $\label, resume
	movq %rsp, resume_sp
	.elseif BITS == 32
	movl $\label, resume
	movl %esp, resume_sp
	.else
	movw $\label, resume
	movw %sp, resume_sp
	.endif
	movl $NONE, fault_vector
	movl $NOERR, fault_error
.endm

/* Arguments become strings because the assembler splits others at spaces. */
#define must_eq(want, got) must_eq_at __LINE__, #want, #got
#define must_eq64(want, got) must_eq64_at __LINE__, #want, #got
#define must_fault(vector, error) must_fault_at __LINE__, #vector, #error
#define must_bits(want, mask, got) must_bits_at __LINE__, #want, #mask, #got
#define must(cond) j##cond 88f; movl $0, fail_got; fail_at __LINE__; 88:
#define must_not_reach() movl $0, fail_got; fail_at __LINE__
#define try(label) try_at label

/* One case: after setup, trigger faults with this vector and error code, its address saved. */
.macro FAULT name, vector, error, setup, trigger
	CASE "\name"
	\setup
	try_at 81f
80:	\trigger
81:	must_fault_at 0, "\vector", "\error"
	must_eq_at 0, $80b, fault_ip
	END
.endm

/* One case: setup and trigger run through. */
.macro PASS name, setup, trigger
	CASE "\name"
	\setup
	try_at 81f
	\trigger
81:	must_eq_at 0, $NONE, fault_vector
	END
.endm

/* One case at level 3: after setup, trigger faults with this vector and error code, its address
 * saved, or with USER_EXIT runs through. */
.macro USER name, vector, error, setup, trigger
	CASE "\name"
	movl $83f, %eax
	call user_call
	must_fault_at 0, "\vector", "\error"
	.if \vector != USER_EXIT
	must_eq_at 0, $84f, fault_ip
	.endif
	jmp 9f
83:	\setup
84:	\trigger
	int $USER_EXIT
	END
.endm

/* One case in real mode: what follows, up to END_REAL, is called with all segments 0 and SP
 * 0x7000. */
.macro REAL name
	CASE "\name"
	mov $.Lreal\@, %eax
	call real_call
	END
	.pushsection .low, "awx"
	bits 16
.Lreal\@:
.endm

.macro END_REAL
	jmp real_leave
	.popsection
	bits 32
.endm

/* --- Descriptors --- */

/* An 8-byte segment or system-segment descriptor; access is byte 5, flags the high half of byte
 * 6. */
.macro descriptor base, limit, access, flags
	.word (\limit) & 0xffff
	.word (\base) & 0xffff
	.byte ((\base) >> 16) & 0xff
	.byte \access
	.byte (((\limit) >> 16) & 0xf) | (\flags) << 4
	.byte ((\base) >> 24) & 0xff
.endm

/* Writes a descriptor whose base and limit are known when assembling into the GDT. Clobbers
 * nothing. */
.macro set_descriptor sel, base, limit, access, flags
	movl $(((\base) & 0xffff) << 16) | ((\limit) & 0xffff), gdt + ((\sel) & ~7)
	.set .Lhigh, ((\base) & 0xff000000) | ((\flags) << 20) | ((\limit) & 0xf0000)
	movl $.Lhigh | ((\access) << 8) | (((\base) >> 16) & 0xff), gdt + ((\sel) & ~7) + 4
.endm

/* Writes a gate. at: its address; count: parameters of a call gate. Clobbers EAX. */
.macro set_gate at, selector, offset, access, count=0
	movl $\offset, %eax
	movw %ax, \at
	movw $\selector, \at + 2
	movb $\count, \at + 4
	movb $\access, \at + 5
	shrl $16, %eax
	movw %ax, \at + 6
.endm

	.set ACC_CALL16, 0x84
	.set ACC_TASK, 0x85
	.set ACC_INT16, 0x86
	.set ACC_TRAP16, 0x87
	.set ACC_CALL32, 0x8c
	.set ACC_INT32, 0x8e
	.set ACC_TRAP32, 0x8f

	.set ACC_DATA_R, 0x90
	.set ACC_DATA, 0x92
	.set ACC_DATA_DOWN, 0x96
	.set ACC_CODE_X, 0x98
	.set ACC_CODE, 0x9a
	.set ACC_CONF, 0x9e
	.set ACC_DPL3, 0x60
	.set ACC_LDT, 0x82
	.set ACC_TSS16, 0x81
	.set ACC_TSS32, 0x89
	.set FLAGS_16, 0
	.set FLAGS_32, 4
	.set FLAGS_32G, 12
	.set FLAGS_64, 2
