/*
 * Every exception of 32-bit protected mode that an instruction can raise by itself: its vector,
 * its error code, and which address is saved (SDM 3, 6.15).
 */
#include "guest.h"

	.set SEL_SMALL, SEL_TEST	/* data, 16 bytes at 0 */
	.set SEL_NP, SEL_TEST + 8	/* data, not present */
	.set SEL_STACK, SEL_TEST + 16	/* data, 2 MiB at 0 */

	.text
	bits 32
	.globl guest_main
guest_main:
	set_descriptor SEL_SMALL, 0, 15, ACC_DATA, FLAGS_32
	set_descriptor SEL_NP, 0, 15, 0x12, FLAGS_32
	set_descriptor SEL_STACK, 0, 0x1ff, ACC_DATA, FLAGS_32G

	/* --- #DE --- */
	FAULT "DE: DIV by zero", DE, NOERR, "xor %ecx, %ecx", "div %ecx"
	FAULT "DE: DIV, quotient too large", DE, NOERR, "mov $2, %edx; mov $2, %ecx", "div %ecx"
	FAULT "DE: IDIV of the least by -1", DE, NOERR, \
	    "mov $0x80000000, %eax; cltd; mov $-1, %ecx", "idiv %ecx"
	FAULT "DE: DIV by a byte of memory", DE, NOERR, "movl $0, PAGE0", "divb PAGE0"
	FAULT "DE: AAM by zero", DE, NOERR, "", ".byte 0xd4, 0"
	PASS "DE: IDIV at the limit", "mov $0x40000000, %eax; xor %edx, %edx; mov $-1, %ecx", \
	    "idiv %ecx"

	CASE "DE: DIV changes nothing"
	mov $0x11111111, %eax
	mov $0x22222222, %edx
	mov $1, %ecx
	stc
	try(1f)
	div %ecx
1:	must_fault(DE, NOERR)
	must_eq($0x11111111, RAX)
	must_eq($0x22222222, RDX)
	must_bits(FL_RF, FL_RF, fault_flags)
	END

	/* --- #BP, #OF: traps --- */
	CASE "BP: INT3 saves the next address"
	try(1f)
	int3
2:	nop
1:	must_fault(BP, NOERR)
	must_eq($2b, fault_ip)
	must_bits(0, FL_RF, fault_flags)
	END

	CASE "BP: INT 3 in two bytes"
	try(1f)
	.byte 0xcd, 3
2:	nop
1:	must_fault(BP, NOERR)
	must_eq($2b, fault_ip)
	END

	CASE "OF: INTO with overflow"
	mov $0x7fffffff, %eax
	try(1f)
	inc %eax
	into
2:	nop
1:	must_fault(OF, NOERR)
	must_eq($2b, fault_ip)
	END

	PASS "OF: INTO without overflow", "xor %eax, %eax", "into"

	/* --- #BR --- */
	FAULT "BR: BOUND below", BR, NOERR, "movl $10, PAGE0; movl $20, PAGE0 + 4; \
	    mov $9, %eax", "bound %eax, PAGE0"
	FAULT "BR: BOUND above", BR, NOERR, "mov $21, %eax", "bound %eax, PAGE0"
	PASS "BR: BOUND at the upper limit", "mov $20, %eax", "bound %eax, PAGE0"
	PASS "BR: BOUND is signed", "movl $-5, PAGE0; mov $-5, %eax", "bound %eax, PAGE0"
	FAULT "BR: BOUND of words", BR, NOERR, "movl $0x00140005, PAGE0; mov $0x15, %eax", \
	    "bound %ax, PAGE0"

	/* --- #UD --- */
	FAULT "UD: UD2", UD, NOERR, "", "ud2"
	FAULT "UD: UD1", UD, NOERR, "", ".byte 0x0f, 0xb9, 0xc0"
	FAULT "UD: MOV to CS", UD, NOERR, "xor %eax, %eax", ".byte 0x8e, 0xc8"
	FAULT "UD: MOV from segment register 6", UD, NOERR, "", ".byte 0x8c, 0xf0"
	FAULT "UD: LEA of a register", UD, NOERR, "", ".byte 0x8d, 0xc0"
	FAULT "UD: LES of a register", UD, NOERR, "", ".byte 0xc4, 0xc0"
	FAULT "UD: BOUND of a register", UD, NOERR, "", ".byte 0x62, 0xc0"
	FAULT "UD: far JMP to a register", UD, NOERR, "", ".byte 0xff, 0xe8"
	FAULT "UD: far CALL to a register", UD, NOERR, "", ".byte 0xff, 0xd8"
	FAULT "UD: FF /7", UD, NOERR, "", ".byte 0xff, 0xf8"
	FAULT "UD: FE /2", UD, NOERR, "", ".byte 0xfe, 0xd0"
	FAULT "UD: C6 /1", UD, NOERR, "", ".byte 0xc6, 0xc8, 0"
	FAULT "UD: 8F /1", UD, NOERR, "", ".byte 0x8f, 0xc8"
	FAULT "UD: BA /0", UD, NOERR, "", ".byte 0x0f, 0xba, 0xc0, 0"
	FAULT "UD: MOV from CR1", UD, NOERR, "", ".byte 0x0f, 0x20, 0xc8"
	FAULT "UD: MOV to CR5", UD, NOERR, "", ".byte 0x0f, 0x22, 0xe8"
	FAULT "UD: CMPXCHG8B of a register", UD, NOERR, "", ".byte 0x0f, 0xc7, 0xc8"
	FAULT "UD: SGDT to a register", UD, NOERR, "", ".byte 0x0f, 0x01, 0xc0"
	FAULT "UD: RSM", UD, NOERR, "", ".byte 0x0f, 0xaa"
	FAULT "UD: SYSCALL while EFER.SCE is 0", UD, NOERR, "", "syscall"
	FAULT "UD: SWAPGS outside 64-bit mode", UD, NOERR, "", ".byte 0x0f, 0x01, 0xf8"
	FAULT "UD: LOCK ADD to a register", UD, NOERR, "", ".byte 0xf0, 0x01, 0xc0"
	FAULT "UD: LOCK MOV", UD, NOERR, "", ".byte 0xf0, 0x89, 0x05; .long PAGE0"
	FAULT "UD: LOCK CMP", UD, NOERR, "", ".byte 0xf0, 0x39, 0x05; .long PAGE0"
	FAULT "UD: LOCK TEST", UD, NOERR, "", ".byte 0xf0, 0x85, 0x05; .long PAGE0"
	FAULT "UD: LOCK ADD from memory", UD, NOERR, "", ".byte 0xf0, 0x03, 0x05; .long PAGE0"
	FAULT "UD: LOCK BT", UD, NOERR, "", ".byte 0xf0, 0x0f, 0xa3, 0x05; .long PAGE0"
	FAULT "UD: LOCK NOP", UD, NOERR, "", ".byte 0xf0, 0x90"
	FAULT "UD: LOCK INT3", UD, NOERR, "", ".byte 0xf0, 0xcc"
	FAULT "UD: LOCK CLI", UD, NOERR, "", ".byte 0xf0, 0xfa"
	FAULT "UD: LOCK SHL", UD, NOERR, "", ".byte 0xf0, 0xc1, 0x25; .long PAGE0; .byte 1"
	PASS "UD: LOCK ADD to memory may", "", "lock addl $1, PAGE0"
	PASS "UD: LOCK BTS may", "", "lock btsl $1, PAGE0"
	PASS "UD: LOCK XADD may", "", "lock xaddl %eax, PAGE0"
	PASS "UD: LOCK NOT may", "", "lock notl PAGE0"

	/* --- #GP: too long --- */
	CASE "GP: 15 bytes are an instruction"
	try(1f)
	.fill 14, 1, 0x3e
	nop
1:	must_eq($NONE, fault_vector)
	END

	CASE "GP: 16 bytes are none"
	try(1f)
2:	.fill 15, 1, 0x3e
	nop
1:	must_fault(GP, 0)
	must_eq($2b, fault_ip)
	END

	/* --- #NM --- */
	FAULT "NM: FPU instruction with CR0.EM", NM, NOERR, \
	    "mov %cr0, %eax; or $CR0_EM, %eax; mov %eax, %cr0", "fninit"
	FAULT "UD: SSE instruction with CR0.EM", UD, NOERR, "", "movaps %xmm0, %xmm0"
	FAULT "UD: MMX instruction with CR0.EM", UD, NOERR, "", "movq %mm0, %mm0"
	PASS "NM: WAIT with CR0.EM", "", "fwait"
	FAULT "NM: FPU instruction with CR0.TS", NM, NOERR, \
	    "mov %cr0, %eax; and $~CR0_EM, %eax; or $CR0_TS, %eax; mov %eax, %cr0", "fninit"
	FAULT "NM: WAIT with CR0.TS and CR0.MP", NM, NOERR, "", "fwait"
	FAULT "NM: SSE instruction with CR0.TS", NM, NOERR, "", "movaps %xmm0, %xmm0"
	FAULT "NM: MMX instruction with CR0.TS", NM, NOERR, "", "movq %mm0, %mm0"
	FAULT "NM: FXSAVE with CR0.TS", NM, NOERR, "", "fxsave PAGE0"
	FAULT "UD: LOCK goes before CR0.TS", UD, NOERR, "", ".byte 0xf0, 0xd9, 0xc0"
	PASS "NM: WAIT with CR0.TS without CR0.MP", \
	    "mov %cr0, %eax; and $~CR0_MP, %eax; mov %eax, %cr0", "fwait"
	PASS "NM: CLTS ends it", "mov %cr0, %eax; or $CR0_MP, %eax; mov %eax, %cr0", "clts; fninit"
	FAULT "UD: SSE instruction with CR4.OSFXSR 0", UD, NOERR, \
	    "mov %cr4, %eax; and $~CR4_OSFXSR, %eax; mov %eax, %cr4", "movaps %xmm0, %xmm0"
	CASE "UD: SSE instruction with CR4.OSFXSR 1"
	mov %cr4, %eax
	or $CR4_OSFXSR, %eax
	mov %eax, %cr4
	movaps %xmm0, %xmm0
	END
	FAULT "UD: XGETBV with CR4.OSXSAVE 0", UD, NOERR, "xor %ecx, %ecx", "xgetbv"

	/* --- #MF: at the next waiting instruction --- */
	CASE "MF: pending division by zero, at FWAIT"
	fninit
	movw $0x37b, PAGE0	/* division by zero not masked */
	fldcw PAGE0
	fldz
	fld1
	try(1f)
	fdiv %st(1), %st
	nop
2:	fwait
1:	must_fault(MF, NOERR)
	must_eq($2b, fault_ip)
	fnclex
	END

	CASE "MF: pending, at the next instruction"
	fninit
	fldcw PAGE0
	fldz
	fld1
	try(1f)
	fdiv %st(1), %st
	fnstsw %ax
2:	fld1
1:	must_fault(MF, NOERR)
	must_eq($2b, fault_ip)
	must_bits(0x84, 0x84, RAX)	/* ES, ZE */
	fninit
	END

	CASE "MF: masked, none"
	fninit
	fldz
	fld1
	try(1f)
	fdiv %st(1), %st
	fwait
1:	must_eq($NONE, fault_vector)
	fninit
	END

	/* --- #XM --- */
	CASE "XM: division by zero not masked"
	movl $0x1d80, PAGE0
	ldmxcsr PAGE0
	movl $0x3f800000, PAGE0 + 4
	movss PAGE0 + 4, %xmm0
	xorps %xmm1, %xmm1
	try(1f)
2:	divss %xmm1, %xmm0
1:	must_fault(XM, NOERR)
	must_eq($2b, fault_ip)
	stmxcsr PAGE0
	must_bits(4, 0x3f, PAGE0)
	movss %xmm0, PAGE0 + 8
	must_eq($0x3f800000, PAGE0 + 8)
	END

	CASE "XM: is #UD with CR4.OSXMMEXCPT 0"
	mov %cr4, %eax
	and $~CR4_OSXMMEXCPT, %eax
	mov %eax, %cr4
	movl $0x1d80, PAGE0
	ldmxcsr PAGE0
	try(1f)
2:	divss %xmm1, %xmm0
1:	must_fault(UD, NOERR)
	must_eq($2b, fault_ip)
	mov %cr4, %eax
	or $CR4_OSXMMEXCPT, %eax
	mov %eax, %cr4
	movl $0x1f80, PAGE0
	ldmxcsr PAGE0
	END

	FAULT "GP: LDMXCSR with a reserved bit", GP, 0, "movl $0xffff0000, PAGE0", "ldmxcsr PAGE0"
	FAULT "GP: MOVAPS not aligned", GP, 0, "", "movaps PAGE0 + 4, %xmm0"
	FAULT "GP: FXSAVE not aligned", GP, 0, "", "fxsave PAGE0 + 8"

	/* --- #AC --- */
	CASE "AC: not at level 0"
	mov %cr0, %eax
	or $CR0_AM, %eax
	mov %eax, %cr0
	try(1f)
	push $FL_AC | 2
	popf
	mov PAGE0 + 1, %eax
1:	must_eq($NONE, fault_vector)
	push $2
	popf
	END

	movl $FL_AC | 2, user_flags
	USER "AC: a word at level 3", AC, 0, "", "mov PAGE0 + 1, %ax"
	USER "AC: a doubleword", AC, 0, "", "mov %eax, PAGE0 + 2"
	USER "AC: a read-modify-write", AC, 0, "", "addl $1, PAGE0 + 3"
	USER "AC: a quadword of MMX", AC, 0, "", "movq PAGE0 + 4, %mm0"
	USER "AC: a far pointer", AC, 0, "", "lds PAGE0 + 1, %eax"
	USER "AC: REP MOVS", AC, 0, "mov $PAGE0 + 1, %esi; mov $PAGE0 + 32, %edi; \
	    mov $2, %ecx", "rep movsl"
	USER "AC: bytes never", USER_EXIT, NOERR, "", "mov PAGE0 + 1, %al"
	USER "AC: aligned ones not", USER_EXIT, NOERR, "", "mov PAGE0 + 4, %eax"
	CASE "AC: not with CR0.AM 0"
	mov %cr0, %eax
	and $~CR0_AM, %eax
	mov %eax, %cr0
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	movl $2, user_flags
	jmp 9f
1:	mov PAGE0 + 1, %eax
	int $USER_EXIT
	END

	/* --- #NP, #SS, #GP with selectors: more in segments.S --- */
	FAULT "NP: a segment not present", NP, SEL_NP, "mov $SEL_NP, %eax", "mov %eax, %es"
	FAULT "SS: a stack not present", SS, SEL_NP, "mov $SEL_NP, %eax", "mov %eax, %ss"
	FAULT "GP: a selector beyond the GDT", GP, GDT_SIZE, "mov $GDT_SIZE, %eax", "mov %eax, %es"
	FAULT "GP: beyond the limit of a segment", GP, 0, \
	    "mov $SEL_SMALL, %eax; mov %eax, %es", "mov %es:13, %eax"
	FAULT "SS: beyond the limit of the stack", SS, 0, \
	    "mov $SEL_STACK, %eax; mov %eax, %ss; mov $0x1fffff, %ebp", "mov (%ebp), %ax"

	/* --- INT n through gates that are not there --- */
	CASE "NP: a gate not present"
	andl $~0x8000, idt32 + 0x90 * 8 + 4
	try(1f)
2:	int $0x90
1:	must_fault(NP, 0x90 * 8 + 2)
	must_eq($2b, fault_ip)
	END

	CASE "GP: a gate of a wrong type"
	movl $0x8500, idt32 + 0x91 * 8 + 4
	movl $0x8c00, idt32 + 0x92 * 8 + 4
	try(1f)
2:	int $0x92
1:	must_fault(GP, 0x92 * 8 + 2)
	must_eq($2b, fault_ip)
	END

	CASE "GP: an interrupt beyond the IDT"
	movw $0x90 * 8 - 1, idtr32
	lidt idtr32
	try(1f)
2:	int $0x90
1:	must_fault(GP, 0x90 * 8 + 2)
	movw $0x90 * 8 - 2, idtr32
	lidt idtr32
	try(1f)
	int $0x8f
1:	must_fault(GP, 0x8f * 8 + 2)
	movw $256 * 8 - 1, idtr32
	lidt idtr32
	END

	CASE "GP: INT n at level 3 into a gate of level 0"
	mov $1f, %eax
	call user_call
	must_fault(GP, 0x40 * 8 + 2)
	must_eq($1f, fault_ip)
	jmp 9f
1:	int $0x40
	END

	CASE "GP: INT n for an exception's gate pushes no error code"
	try(1f)
	int $GP
2:	nop
	/* The handler expects one and reads what is above as one: IP instead, and CS as IP. */
1:	must_eq($GP, fault_vector)
	must_eq($2b, fault_error)
	must_eq($KCODE, fault_ip)
	END

	/* --- Privileged instructions at level 3 --- */
	USER "GP at level 3: HLT", GP, 0, "", "hlt"
	USER "GP at level 3: CLI", GP, 0, "", "cli"
	USER "GP at level 3: STI", GP, 0, "", "sti"
	USER "GP at level 3: IN", GP, 0, "", "in $0x60, %al"
	USER "GP at level 3: OUT", GP, 0, "", "out %al, $0x80"
	USER "GP at level 3: INSB", GP, 0, "", "insb"
	USER "GP at level 3: LGDT", GP, 0, "", "lgdt gdtr"
	USER "GP at level 3: LIDT", GP, 0, "", "lidt idtr32"
	USER "GP at level 3: LLDT", GP, 0, "", "lldt %ax"
	USER "GP at level 3: LTR", GP, 0, "", "ltr %ax"
	USER "GP at level 3: LMSW", GP, 0, "", "lmsw %ax"
	USER "GP at level 3: CLTS", GP, 0, "", "clts"
	USER "GP at level 3: MOV from CR0", GP, 0, "", "mov %cr0, %eax"
	USER "GP at level 3: MOV to CR3", GP, 0, "", "mov %eax, %cr3"
	USER "GP at level 3: MOV from DR0", GP, 0, "", "mov %dr0, %eax"
	USER "GP at level 3: INVD", GP, 0, "", "invd"
	USER "GP at level 3: WBINVD", GP, 0, "", "wbinvd"
	USER "GP at level 3: INVLPG", GP, 0, "", "invlpg PAGE0"
	USER "GP at level 3: RDMSR", GP, 0, "", "rdmsr"
	USER "GP at level 3: WRMSR", GP, 0, "", "wrmsr"
	ret
