/*
 * Segments in protected mode: limits, types, privilege (SDM 3, chapter 5), and the instructions
 * that look at descriptors.
 */
#include "guest.h"

	.set SEL_BYTES, SEL_TEST	/* data, 0x100 bytes at PAGE0 */
	.set SEL_PAGES, SEL_TEST + 0x08	/* data, two pages at PAGE0 */
	.set SEL_DOWN16, SEL_TEST + 0x10	/* expand-down from 0xff, 16-bit, at PAGE0 */
	.set SEL_DOWN32, SEL_TEST + 0x18	/* the same, 32-bit */
	.set SEL_RO, SEL_TEST + 0x20	/* data, read-only */
	.set SEL_XO, SEL_TEST + 0x28	/* code, execute-only */
	.set SEL_CODE, SEL_TEST + 0x30	/* code, readable, base 0 */
	.set SEL_CONF, SEL_TEST + 0x38	/* conforming code, DPL 0 */
	.set SEL_NP, SEL_TEST + 0x40	/* data, not present */
	.set SEL_NPCODE, SEL_TEST + 0x48	/* code, not present */
	.set SEL_LDT, SEL_TEST + 0x50
	.set SEL_DATA1, SEL_TEST + 0x58	/* data, DPL 1 */
	.set SEL_DATA3, SEL_TEST + 0x60	/* data, DPL 3 */
	.set SEL_CODE3, SEL_TEST + 0x68	/* code, DPL 3 */
	.set SEL_SHORT, SEL_TEST + 0x70	/* code, base 0, 16 bytes: no target inside */
	.set SEL_ALL, SEL_TEST + 0x78	/* data, base 0x10, 4 GiB */
	.set SEL_STACK16, SEL_TEST + 0x80	/* data, 16-bit stack at PAGE0 */
	.set SEL_XCONF, SEL_TEST + 0x88	/* conforming code, execute-only */
	.set SEL_CONF3, SEL_TEST + 0x90	/* conforming code, DPL 3 */
	.set SEL_GATE, SEL_TEST + 0x98	/* an interrupt gate, which no segment register takes */
	.set SEL_SMALL, SEL_TEST + 0xa0	/* data, limit 0 */
	.set LDT_DATA, 0x0c	/* in the LDT */
	.set LDT_END, 0x14	/* beyond it */

	.text
	.globl guest_main
guest_main:
	set_descriptor SEL_BYTES, PAGE0, 0xff, ACC_DATA, FLAGS_32
	set_descriptor SEL_PAGES, PAGE0, 1, ACC_DATA, FLAGS_32G
	set_descriptor SEL_DOWN16, PAGE0, 0xff, ACC_DATA_DOWN, FLAGS_16
	set_descriptor SEL_DOWN32, PAGE0, 0xff, ACC_DATA_DOWN, FLAGS_32
	set_descriptor SEL_RO, PAGE0, 0xff, ACC_DATA_R, FLAGS_32
	set_descriptor SEL_XO, PAGE0, 0xff, ACC_CODE_X, FLAGS_32
	set_descriptor SEL_CODE, 0, 0xfffff, ACC_CODE, FLAGS_32G
	set_descriptor SEL_CONF, 0, 0xfffff, ACC_CONF, FLAGS_32G
	set_descriptor SEL_NP, PAGE0, 0xff, 0x12, FLAGS_32
	set_descriptor SEL_NPCODE, 0, 0xfffff, 0x1a, FLAGS_32G
	set_descriptor SEL_LDT, PAGE1, 0xf, ACC_LDT, 0
	set_descriptor SEL_DATA1, PAGE0, 0xff, ACC_DATA | 0x20, FLAGS_32
	set_descriptor SEL_DATA3, PAGE0, 0xff, ACC_DATA | ACC_DPL3, FLAGS_32
	set_descriptor SEL_CODE3, 0, 0xfffff, ACC_CODE | ACC_DPL3, FLAGS_32G
	set_descriptor SEL_SHORT, 0, 15, ACC_CODE, FLAGS_32
	set_descriptor SEL_ALL, 0x10, 0xfffff, ACC_DATA, FLAGS_32G
	set_descriptor SEL_STACK16, PAGE0, 0xffff, ACC_DATA, FLAGS_16
	set_descriptor SEL_XCONF, 0, 0xfffff, 0x9c, FLAGS_32G
	set_descriptor SEL_CONF3, 0, 0xfffff, ACC_CONF | ACC_DPL3, FLAGS_32G
	set_descriptor SEL_SMALL, PAGE0, 0, ACC_DATA, FLAGS_32
	set_gate gdt + SEL_GATE, KCODE, 0, ACC_INT32
	mov gdt + SEL_BYTES, %eax
	mov %eax, PAGE1 + 8
	mov gdt + SEL_BYTES + 4, %eax
	mov %eax, PAGE1 + 12

	/* --- Limits --- */
	PASS "limit: the last byte", "mov $SEL_BYTES, %eax; mov %eax, %es", "mov %es:0xff, %al"
	FAULT "limit: a byte too far", GP, 0, "mov $SEL_BYTES, %eax; mov %eax, %es", \
	    "mov %es:0x100, %al"
	PASS "limit: the last word", "mov $SEL_BYTES, %eax; mov %eax, %es", "mov %es:0xfe, %ax"
	FAULT "limit: half a word too far", GP, 0, "mov $SEL_BYTES, %eax; mov %eax, %es", \
	    "mov %es:0xff, %ax"
	PASS "limit: the last doubleword", "mov $SEL_BYTES, %eax; mov %eax, %es", \
	    "mov %es:0xfc, %eax"
	FAULT "limit: a doubleword's last byte too far", GP, 0, \
	    "mov $SEL_BYTES, %eax; mov %eax, %es", "mov %es:0xfd, %eax"
	FAULT "limit: a store", GP, 0, "mov $SEL_BYTES, %eax; mov %eax, %es", "mov %eax, %es:0xfd"
	FAULT "limit: a read-modify-write", GP, 0, "mov $SEL_BYTES, %eax; mov %eax, %es", \
	    "addl $1, %es:0xfd"
	FAULT "limit: a quadword of MMX", GP, 0, "mov $SEL_BYTES, %eax; mov %eax, %es", \
	    "movq %es:0xf9, %mm0"
	FAULT "limit: 16 bytes of SSE", GP, 0, "mov $SEL_BYTES, %eax; mov %eax, %es", \
	    "movups %es:0xf1, %xmm0"
	PASS "limit: the last 16 bytes", "mov $SEL_BYTES, %eax; mov %eax, %es", \
	    "movups %es:0xf0, %xmm0"
	FAULT "limit: an address that wraps around", GP, 0, \
	    "mov $SEL_BYTES, %eax; mov %eax, %es", "mov %es:0xffffffff, %al"
	FAULT "limit: limit 0 has one byte", GP, 0, \
	    "mov $SEL_SMALL, %eax; mov %eax, %es; mov %es:0, %al", "mov %es:1, %al"
	PASS "limit: granularity 4 KiB", "mov $SEL_PAGES, %eax; mov %eax, %es", \
	    "mov %es:0x1ffc, %eax"
	FAULT "limit: beyond granularity 4 KiB", GP, 0, "mov $SEL_PAGES, %eax; mov %eax, %es", \
	    "mov %es:0x1ffd, %eax"
	CASE "limit: 4 GiB, the base added wraps"
	mov $SEL_ALL, %eax
	mov %eax, %es
	movl $0x12345678, PAGE0
	try(1f)
	mov $PAGE0 - 0x10, %ebx
	mov %es:(%ebx), %eax
1:	must_eq($NONE, fault_vector)
	must_eq($0x12345678, %eax)
	movl $0x9abcdef0, 4
	mov %es:0xfffffff4, %eax
	must_eq($0x9abcdef0, %eax)
	END
	PASS "expand-down: above the limit", "mov $SEL_DOWN32, %eax; mov %eax, %es", \
	    "mov %es:0x100, %eax"
	FAULT "expand-down: at the limit", GP, 0, "mov $SEL_DOWN32, %eax; mov %eax, %es", \
	    "mov %es:0xff, %al"
	FAULT "expand-down: below the limit", GP, 0, "mov $SEL_DOWN32, %eax; mov %eax, %es", \
	    "mov %es:0, %al"
	PASS "expand-down: 32-bit, beyond 64 KiB", "mov $SEL_DOWN32, %eax; mov %eax, %es", \
	    "mov %es:0x10000, %al"
	PASS "expand-down: 16-bit, the last byte", "mov $SEL_DOWN16, %eax; mov %eax, %es", \
	    "mov %es:0xffff, %al"
	FAULT "expand-down: 16-bit, beyond 64 KiB", GP, 0, \
	    "mov $SEL_DOWN16, %eax; mov %eax, %es", "mov %es:0x10000, %al"
	FAULT "expand-down: 16-bit, half a word too far", GP, 0, \
	    "mov $SEL_DOWN16, %eax; mov %eax, %es", "mov %es:0xffff, %ax"
	CASE "limit: LOCK CMPXCHG8B faults before it writes"
	mov $SEL_BYTES, %eax
	mov %eax, %es
	movl $0, PAGE0 + 0xfc
	xor %eax, %eax
	xor %edx, %edx
	mov $1, %ebx
	mov $2, %ecx
	try(1f)
	lock cmpxchg8b %es:0xfc
1:	must_fault(GP, 0)
	must_eq($0, PAGE0 + 0xfc)
	END
	CASE "limit: REP STOS stops at the exact place"
	mov $SEL_BYTES, %eax
	mov %eax, %es
	mov $0x5a, %al
	mov $0xf0, %edi
	mov $100, %ecx
	try(1f)
2:	rep stosb
1:	must_fault(GP, 0)
	must_eq($2b, fault_ip)
	must_eq($0x100, RDI)
	must_eq($84, RCX)
	END
	FAULT "limit: PUSH from beyond", GP, 0, "mov $SEL_BYTES, %eax; mov %eax, %es", \
	    "pushl %es:0xfd"
	FAULT "limit: code", GP, 0, "", "ljmp $SEL_SHORT, $16"
	CASE "limit: code, saved are the old CS and address"
	try(1f)
2:	lcall $SEL_SHORT, $0x100000
1:	must_fault(GP, 0)
	must_eq($2b, fault_ip)
	must_eq($KCODE, fault_cs)
	END

	/* --- Types --- */
	FAULT "type: a store to read-only data", GP, 0, \
	    "mov $SEL_RO, %eax; mov %eax, %es; mov %es:0, %al", "mov %al, %es:0"
	FAULT "type: XCHG with read-only data", GP, 0, "mov $SEL_RO, %eax; mov %eax, %es", \
	    "xchg %eax, %es:0"
	FAULT "type: a store to code", GP, 0, "", "mov %al, %cs:PAGE0"
	PASS "type: a load from code", "", "mov %cs:PAGE0, %al"
	FAULT "type: execute-only into DS", GP, SEL_XO, "mov $SEL_XO, %eax", "mov %eax, %ds"
	PASS "type: readable code into DS", "mov $SEL_CODE, %eax", "mov %eax, %ds"
	FAULT "type: a store to code by DS", GP, 0, "mov $SEL_CODE, %eax; mov %eax, %fs", \
	    "mov %al, %fs:PAGE0"
	FAULT "type: a gate into DS", GP, SEL_GATE, "mov $SEL_GATE, %eax", "mov %eax, %ds"
	FAULT "type: a TSS into DS", GP, TSS, "mov $TSS, %eax", "mov %eax, %ds"
	FAULT "type: a read through execute-only CS", GP, 0, "ljmp $SEL_XCONF, $2f; 2:", \
	    "mov %cs:PAGE0, %al"
	FAULT "SS: read-only data", GP, SEL_RO, "mov $SEL_RO, %eax", "mov %eax, %ss"
	FAULT "SS: code", GP, SEL_CODE, "mov $SEL_CODE, %eax", "mov %eax, %ss"
	FAULT "SS: null", GP, 0, "xor %eax, %eax", "mov %eax, %ss"
	FAULT "SS: wrong RPL", GP, KDATA, "mov $KDATA + 1, %eax", "mov %eax, %ss"
	FAULT "SS: wrong DPL", GP, SEL_DATA3, "mov $SEL_DATA3, %eax", "mov %eax, %ss"
	FAULT "SS: not present", SS, SEL_NP, "mov $SEL_NP, %eax", "mov %eax, %ss"
	FAULT "SS: POP", GP, SEL_RO, "push $SEL_RO", "pop %ss"
	FAULT "SS: LSS", GP, SEL_RO, "movl $SEL_RO, PAGE0 + 4", "lss PAGE0, %eax"
	FAULT "DS: not present", NP, SEL_NP, "mov $SEL_NP, %eax", "mov %eax, %ds"
	FAULT "DS: the TI bit is in the error code, RPL is not", GP, 0x7c, "mov $0x7f, %eax", \
	    "mov %eax, %ds"
	FAULT "DS: beyond the GDT", GP, GDT_SIZE, "mov $GDT_SIZE, %eax", "mov %eax, %ds"
	FAULT "DS: the type goes before presence", GP, SEL_TEST + 0xb0, \
	    "movl $0x1800, gdt + SEL_TEST + 0xb4; mov $SEL_TEST + 0xb0, %eax", "mov %eax, %ds"
	FAULT "LDS: bad selector leaves the register", GP, SEL_XO, \
	    "movl $5, PAGE0; movl $SEL_XO, PAGE0 + 4; mov $7, %eax", "lds PAGE0, %eax"
	CASE "LDS: bad selector leaves both"
	mov $7, %eax
	try(1f)
	lfs PAGE0, %eax
1:	must_fault(GP, SEL_XO)
	must_eq($7, RAX)
	must_eq($KDATA, fault_segs + 8)
	END

	/* --- Null --- */
	PASS "null: may be loaded", "xor %eax, %eax", "mov %eax, %es; mov %eax, %fs; mov %eax, %gs"
	PASS "null: 1 to 3 as well", "mov $3, %eax", "mov %eax, %es"
	FAULT "null: but not read", GP, 0, "xor %eax, %eax; mov %eax, %es", "mov %es:0, %al"
	FAULT "null: nor written", GP, 0, "mov $3, %eax; mov %eax, %gs", "mov %al, %gs:PAGE0"
	FAULT "null: far JMP", GP, 0, "", "ljmp $3, $0"
	FAULT "null: far CALL", GP, 0, "", "lcall $0, $0"
	FAULT "null: far RET", GP, 0, "push $0; push $0", "lret"
	FAULT "null: IRET", GP, 0, "push $2; push $0; push $0", "iret"

	/* --- Far jumps and calls --- */
	FAULT "far JMP: data", GP, KDATA, "", "ljmp $KDATA, $0"
	FAULT "far JMP: code not present", NP, SEL_NPCODE, "", "ljmp $SEL_NPCODE, $0"
	FAULT "far JMP: DPL 3 from level 0", GP, SEL_CODE3, "", "ljmp $SEL_CODE3, $0"
	FAULT "far JMP: conforming, DPL 3 from level 0", GP, SEL_CONF3, "", "ljmp $SEL_CONF3, $0"
	FAULT "far JMP: RPL 3 to DPL 0", GP, SEL_CODE, "", "ljmp $SEL_CODE + 3, $0"
	FAULT "far JMP: an interrupt gate", GP, SEL_GATE, "", "ljmp $SEL_GATE, $0"
	FAULT "far JMP: an LDT", GP, SEL_LDT, "", "ljmp $SEL_LDT, $0"
	FAULT "far JMP: beyond the GDT", GP, GDT_SIZE, "", "ljmp $GDT_SIZE, $0"
	CASE "far JMP: sets the accessed bit and CS"
	andb $~1, gdt + SEL_CODE + 5
	try(1f)
	ljmp $SEL_CODE, $2f
2:	mov %cs, %ebx
	ljmp $KCODE, $1f
1:	must_eq($NONE, fault_vector)
	must_eq($SEL_CODE, %ebx)
	must_bits(0x9b00, 0xff00, gdt + SEL_CODE + 4)
	END
	CASE "far CALL and RET: what is pushed"
	try(1f)
	mov %esp, %ebp
	lcall $SEL_CODE, $2f
3:	jmp 1f
2:	mov (%esp), %esi
	mov 4(%esp), %edi
	mov %cs, %ebx
	lret
1:	must_eq($NONE, fault_vector)
	must_eq($3b, %esi)
	must_eq($KCODE, %edi)
	must_eq($SEL_CODE, %ebx)
	must_eq(%esp, %ebp)
	END
	CASE "far CALL: 16-bit operands push words"
	try(4f)
	mov %esp, %ebp
	movw $low32, PAGE0
	movw $SEL_CODE, PAGE0 + 2
	data16 lcall *PAGE0
3:
	.pushsection .low, "awx"
low32:	mov %esp, %esi
	mov (%esp), %edi
	mov %ebp, %esp
	ljmp $KCODE, $call16_back
	.popsection
call16_back:
4:	must_eq($NONE, fault_vector)
	sub $4, %ebp
	must_eq(%ebp, %esi)
	mov $3b, %eax
	movzwl %ax, %eax
	movzwl %di, %ecx
	must_eq(%eax, %ecx)
	shr $16, %edi
	must_eq($KCODE, %edi)
	END
	CASE "far RET: takes parameters off"
	try(1f)
	mov %esp, %ebp
	push $1
	push $2
	lcall $SEL_CODE, $2f
	jmp 1f
2:	lret $8
1:	must_eq($NONE, fault_vector)
	must_eq(%ebp, %esp)
	END
	FAULT "far RET: not present", NP, SEL_NPCODE, "push $SEL_NPCODE; push $0", "lret"
	FAULT "far RET: to data", GP, KDATA, "push $KDATA; push $0", "lret"
	FAULT "far RET: beyond the limit", GP, 0, "push $SEL_SHORT; push $0x1000", "lret"
	FAULT "far RET: DPL is not RPL", GP, SEL_CODE3, "push $SEL_CODE3; push $0", "lret"
	CASE "conforming code keeps the level"
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_eq($SEL_CONF + 3, fault_cs)
	must_eq($UCODE, RBX)
	jmp 9f
1:	mov %cs, %ebx
	lcall $SEL_CONF, $2f
2:	int $USER_EXIT
	END
	USER "conforming code: no privileges come with it", GP, 0, "ljmp $SEL_CONF, $84f", "cli"
	USER "far JMP at level 3: DPL 0", GP, KCODE, "", "ljmp $KCODE, $0"
	USER "far JMP at level 3: any RPL to one's own level", USER_EXIT, NOERR, "", \
	    "ljmp $SEL_CODE3, $85f; 85:"

	/* --- Privilege of data --- */
	PASS "privilege: DPL 3 from level 0", "mov $SEL_DATA3, %eax", "mov %eax, %es"
	FAULT "privilege: RPL 3 to DPL 1", GP, SEL_DATA1, "mov $SEL_DATA1 + 3, %eax", \
	    "mov %eax, %es"
	USER "privilege: DPL 0 from level 3", GP, KDATA, "mov $KDATA, %eax", "mov %eax, %es"
	USER "privilege: DPL 1 from level 3", GP, SEL_DATA1, "mov $SEL_DATA1, %eax", "mov %eax, %es"
	USER "privilege: conforming code of DPL 0 from level 3", USER_EXIT, NOERR, \
	    "mov $SEL_CONF, %eax", "mov %eax, %es"
	USER "privilege: code of DPL 0 from level 3", GP, SEL_CODE, "mov $SEL_CODE, %eax", \
	    "mov %eax, %es"
	USER "privilege: null at level 3", USER_EXIT, NOERR, "xor %eax, %eax", "mov %eax, %es"
	USER "privilege: null in SS at level 3", GP, 0, "mov $3, %eax", "mov %eax, %ss"
	USER "privilege: SS of level 0 at level 3", GP, KDATA, "mov $KDATA, %eax", "mov %eax, %ss"
	USER "limit: the stack at level 3", SS, 0, "mov $SEL_DATA3 + 3, %eax; mov %eax, %ss; \
	    mov $0x104, %esp", "push %eax"
	USER "limit: BP uses SS", SS, 0, "mov $SEL_DATA3 + 3, %eax; mov %eax, %ss; \
	    mov $0x104, %ebp", "mov (%ebp), %eax"
	USER "limit: POP beyond the stack", SS, 0, "mov $SEL_DATA3 + 3, %eax; mov %eax, %ss; \
	    mov $0xfd, %esp", "pop %eax"
	USER "limit: CALL beyond the stack", SS, 0, \
	    "mov $SEL_DATA3 + 3, %eax; mov %eax, %ss; mov $3, %esp", "call 84b"
	USER "limit: LEAVE beyond the stack", SS, 0, \
	    "mov $SEL_DATA3 + 3, %eax; mov %eax, %ss; mov $0xfe, %ebp", "leave"
	USER "limit: ENTER beyond the stack", SS, 0, \
	    "mov $SEL_DATA3 + 3, %eax; mov %eax, %ss; mov $3, %esp", "enter $8, $0"
	USER "limit: PUSHA beyond the stack", SS, 0, \
	    "mov $SEL_DATA3 + 3, %eax; mov %eax, %ss; mov $0x1c, %esp", "pusha"
	CASE "IRET to level 3 clears segments of level 0"
	mov $KDATA, %eax
	mov %eax, %fs
	mov $UDATA, %eax
	mov %eax, %gs
	mov $1f, %eax
	call user_call
	must_fault(USER_EXIT, NOERR)
	must_eq($0, fault_segs + 8)
	must_eq($UDATA, fault_segs + 12)
	jmp 9f
1:	int $USER_EXIT
	END

	/* --- The accessed bit --- */
	CASE "loading a segment sets its accessed bit"
	andb $~1, gdt + SEL_BYTES + 5
	mov $SEL_BYTES, %eax
	mov %eax, %es
	must_bits(0x9300, 0xff00, gdt + SEL_BYTES + 4)
	END

	/* --- LDT --- */
	FAULT "LDT: none yet", GP, LDT_DATA, "mov $LDT_DATA, %eax", "mov %eax, %es"
	FAULT "LLDT: not an LDT", GP, KDATA, "mov $KDATA, %eax", "lldt %ax"
	FAULT "LLDT: in the LDT", GP, LDT_DATA, "mov $LDT_DATA, %eax", "lldt %ax"
	FAULT "LLDT: not present", NP, SEL_LDT, "andb $0x7f, gdt + SEL_LDT + 5; \
	    mov $SEL_LDT, %eax", "lldt %ax"
	PASS "LLDT", "orb $0x80, gdt + SEL_LDT + 5; mov $SEL_LDT, %eax", "lldt %ax"
	CASE "LDT: a segment"
	mov $LDT_DATA, %eax
	mov %eax, %es
	movl $0x11223344, PAGE0 + 4
	mov %es:4, %ebx
	must_eq($0x11223344, %ebx)
	sldt %ebx
	must_eq($SEL_LDT, %ebx)
	END
	FAULT "LDT: beyond its limit", GP, LDT_END, "mov $LDT_END, %eax", "mov %eax, %es"
	CASE "LDT: LLDT of null takes it away"
	xor %eax, %eax
	lldt %ax
	mov $LDT_DATA, %eax
	try(1f)
	mov %eax, %es
1:	must_fault(GP, LDT_DATA)
	END

	/* --- LTR --- */
	FAULT "LTR: null", GP, 0, "xor %eax, %eax", "ltr %ax"
	FAULT "LTR: busy", GP, TSS, "mov $TSS, %eax", "ltr %ax"
	FAULT "LTR: no TSS", GP, KDATA, "mov $KDATA, %eax", "ltr %ax"
	FAULT "LTR: not present", NP, TSS, "movb $0x09, gdt + TSS + 5; mov $TSS, %eax", "ltr %ax"
	CASE "LTR: makes it busy"
	movb $0x89, gdt + TSS + 5
	mov $TSS, %eax
	ltr %ax
	must_bits(0x8b00, 0xff00, gdt + TSS + 4)
	str %ebx
	must_eq($TSS, %ebx)
	END

	/* --- Looking --- */
.macro LOOK name, zf, insn, want
	CASE "\name"
	mov $0x5555, %ebx
	\insn
	mov $0, %ecx
	setz %cl
	must_eq_at __LINE__, "$\zf", %ecx
	must_eq_at __LINE__, "$\want", %ebx
	END
.endm
	LOOK "LAR: data", 1, "mov $SEL_BYTES, %eax; lar %eax, %ebx", 0x00409300
	LOOK "LAR: granularity", 1, "mov $KCODE, %eax; lar %eax, %ebx", 0x00cf9b00
	LOOK "LAR: 16 bits", 1, "mov $SEL_BYTES, %eax; lar %ax, %bx", 0x9300
	LOOK "LAR: a TSS", 1, "mov $TSS, %eax; lar %eax, %ebx", 0x8b00
	LOOK "LAR: an LDT", 1, "mov $SEL_LDT, %eax; lar %eax, %ebx", 0x8200
	LOOK "LAR: an interrupt gate, which has none", 0, \
	    "mov $SEL_GATE, %eax; lar %eax, %ebx", 0x5555
	LOOK "LAR: null", 0, "xor %eax, %eax; lar %eax, %ebx", 0x5555
	LOOK "LAR: beyond the GDT", 0, "mov $GDT_SIZE, %eax; lar %eax, %ebx", 0x5555
	LOOK "LAR: not present does not matter", 1, "mov $SEL_NP, %eax; lar %eax, %ebx", 0x00401200
	LOOK "LAR: RPL 3 to DPL 0", 0, "mov $KDATA + 3, %eax; lar %eax, %ebx", 0x5555
	LOOK "LAR: RPL 3 to conforming code", 1, "mov $SEL_CONF + 3, %eax; lar %eax, %ebx", \
	    0x00cf9f00
	LOOK "LSL: bytes", 1, "mov $SEL_BYTES, %eax; lsl %eax, %ebx", 0xff
	LOOK "LSL: pages", 1, "mov $SEL_PAGES, %eax; lsl %eax, %ebx", 0x1fff
	LOOK "LSL: a TSS", 1, "mov $TSS, %eax; lsl %eax, %ebx", 103
	LOOK "LSL: an interrupt gate", 0, "mov $SEL_GATE, %eax; lsl %eax, %ebx", 0x5555
	LOOK "LSL: null", 0, "mov $3, %eax; lsl %eax, %ebx", 0x5555
	LOOK "VERR: data", 1, "mov $KDATA, %eax; verr %ax", 0x5555
	LOOK "VERR: execute-only", 0, "mov $SEL_XO, %eax; verr %ax", 0x5555
	LOOK "VERR: readable code", 1, "mov $SEL_CODE, %eax; verr %ax", 0x5555
	LOOK "VERR: a TSS", 0, "mov $TSS, %eax; verr %ax", 0x5555
	LOOK "VERR: null", 0, "xor %eax, %eax; verr %ax", 0x5555
	LOOK "VERR: RPL 3 to DPL 0", 0, "mov $KDATA + 3, %eax; verr %ax", 0x5555
	LOOK "VERW: data", 1, "mov $KDATA, %eax; verw %ax", 0x5555
	LOOK "VERW: read-only", 0, "mov $SEL_RO, %eax; verw %ax", 0x5555
	LOOK "VERW: code", 0, "mov $SEL_CODE, %eax; verw %ax", 0x5555
	LOOK "ARPL: raises", 1, "mov $0x100, %ebx; mov $3, %eax; arpl %ax, %bx", 0x103
	LOOK "ARPL: does not lower", 0, "mov $0x103, %ebx; mov $1, %eax; arpl %ax, %bx", 0x103

	/* --- 16-bit stacks --- */
	CASE "a 16-bit stack uses SP only"
	mov %esp, %ebp
	mov $SEL_STACK16, %eax
	mov %eax, %ss
	mov $0xabcd0004, %esp
	push $0x1111
	push $0x2222
	mov %esp, %ebx
	pop %ecx
	mov %esp, %edx
	mov $KDATA, %eax
	mov %eax, %ss
	mov %ebp, %esp
	must_eq($0xabcdfffc, %ebx)
	must_eq($0xabcd0000, %edx)
	must_eq($0x2222, %ecx)
	must_eq($0x1111, PAGE0)
	must_eq($0x2222, PAGE0 + 0xfffc)
	END
	CASE "PUSH of a segment register is 4 bytes, MOV clears the upper half"
	mov %esp, %ebp
	mov $-1, %ebx
	push %ds
	sub %esp, %ebp
	must_eq($4, %ebp)
	pop %eax
	mov %ds, %ebx
	must_eq($KDATA, %ebx)
	END
	ret
