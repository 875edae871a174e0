/*
 * Control registers, MSRs and system instructions: what they refuse (SDM 2, MOV to CR; SDM 3,
 * 2.5 and 4.1), and the modes that CR0, CR4 and EFER enter together.
 */
#include "guest.h"

	.set MSR_STAR, 0xc0000081
	.set MSR_LSTAR, 0xc0000082
	.set MSR_CSTAR, 0xc0000083
	.set MSR_FS_BASE, 0xc0000100
	.set MSR_KERNEL_GS_BASE, 0xc0000102
	.set MSR_TSC_AUX, 0xc0000103
	.set MSR_PAT, 0x277
	.set MSR_APIC_BASE, 0x1b
	.set MSR_NONE, 0x12345678

/* One case in each mode: writing value to a register is #GP(0), and the register keeps its
 * value. */
.macro REFUSE name, register, set, clear
	CASE "\name"
	.if BITS == 64
	mov \register, %rax
	mov %rax, %rbx
	.else
	mov \register, %eax
	mov %eax, %ebx
	.endif
	or $\set, %eax
	and $~(\clear), %eax
	try_at 81f
	.if BITS == 64
80:	mov %rax, \register
81:	must_fault_at 0, "GP", 0
	mov \register, %rcx
	must_eq64_at 0, %rbx, %rcx
	.else
80:	mov %eax, \register
81:	must_fault_at 0, "GP", 0
	mov \register, %ecx
	must_eq_at 0, %ebx, %ecx
	.endif
	must_eq_at 0, $80b, fault_ip
	END
.endm

/* Bits above 31 */
.macro REFUSE_HIGH name, register, bit
	CASE "\name"
	mov \register, %rax
	mov %rax, %rbx
	bts $\bit, %rax
	try_at 81f
80:	mov %rax, \register
81:	must_fault_at 0, "GP", 0
	mov \register, %rcx
	must_eq64_at 0, %rbx, %rcx
	END
.endm

.macro SET_MSR msr, low, high
	mov $\msr, %ecx
	mov $\low, %eax
	mov $\high, %edx
	wrmsr
.endm

	.text
	.globl guest_main
guest_main:
	/* --- 32-bit mode without paging --- */
	REFUSE "CR0: PG without PE", %cr0, CR0_PG, CR0_PE
	REFUSE "CR0: NW without CD", %cr0, CR0_NW, CR0_CD
	REFUSE "CR4: bit 31", %cr4, 0x80000000, 0
	REFUSE "CR4: PCIDE outside long mode", %cr4, "CR4_PCIDE | CR4_PAE", 0
	REFUSE "CR4: VMXE, which is not offered", %cr4, "1 << 13", 0
	CASE "CR0: ET cannot be cleared"
	mov %cr0, %eax
	and $~0x10, %eax
	mov %eax, %cr0
	mov %cr0, %eax
	must_bits(0x10, 0x10, %eax)
	END
	CASE "CR0: reserved bits are ignored"
	mov %cr0, %ebx
	mov %ebx, %eax
	or $0x1000ff00, %eax
	mov %eax, %cr0
	mov %cr0, %ecx
	mov %ebx, %cr0
	must_eq(%ebx, %ecx)
	END
	CASE "LMSW reaches the low four bits only"
	mov %cr0, %ebx
	mov $0xfff3, %eax
	lmsw %ax
	mov %cr0, %ecx
	mov %ebx, %cr0
	must_bits(CR0_PE | CR0_MP, CR0_PE | CR0_MP | CR0_EM | CR0_TS, %ecx)
	must_bits(0, CR0_WP | CR0_AM | CR0_PG, %ecx)
	END
	CASE "CR4: LA57 may change outside long mode"
	mov $7, %eax
	xor %ecx, %ecx
	cpuid
	bt $16, %ecx
	skip_if nc
	mov %cr4, %ebx
	mov %ebx, %eax
	or $CR4_LA57, %eax
	try(1f)
	mov %eax, %cr4
1:	must_eq($NONE, fault_vector)
	mov %cr4, %ecx
	mov %ebx, %cr4
	must_bits(CR4_LA57, CR4_LA57, %ecx)
	END
	FAULT "EFER: a reserved bit", GP, 0, "mov $EFER, %ecx; rdmsr; or $0x40000000, %eax", "wrmsr"
	FAULT "EFER: an upper bit", GP, 0, "mov $EFER, %ecx; rdmsr; or $1, %edx", "wrmsr"
	FAULT "paging with EFER.LME but without CR4.PAE", GP, 0, \
	    "SET_MSR EFER, EFER_LME, 0; mov $PML4, %eax; mov %eax, %cr3; mov %cr0, %eax; \
	    or $CR0_PG, %eax", "mov %eax, %cr0"
	CASE "paging with EFER.LME and a 16-bit TSS"
	set_descriptor SEL_TEST, 0x9000, 43, ACC_TSS16, 0
	mov $SEL_TEST, %eax
	ltr %ax
	mov %cr4, %eax
	or $CR4_PAE, %eax
	mov %eax, %cr4
	mov %cr0, %eax
	or $CR0_PG, %eax
	try(1f)
2:	mov %eax, %cr0
1:	must_fault(GP, 0)
	must_eq($2b, fault_ip)
	END
	mov %cr4, %eax
	and $~CR4_PAE, %eax
	mov %eax, %cr4
	SET_MSR EFER, 0, 0
	call prot_tables
	CASE "PAE: a reserved bit in a PDPTE"
	mov $PDPT, %edi
	mov $8, %ecx
	xor %eax, %eax
	rep stosl
	movl $PD + 1, PDPT
	movl $PTE_P | PTE_W | PTE_PS, PD
	movl $0, PD + 4
	movl $0x200000 | PTE_P | PTE_W | PTE_PS, PD + 8
	movl $0, PD + 12
	movl $PD + 3, PDPT + 8	/* bit 1 */
	mov %cr4, %eax
	or $CR4_PAE, %eax
	mov %eax, %cr4
	mov $PDPT, %eax
	mov %eax, %cr3
	mov %cr0, %eax
	or $CR0_PG, %eax
	try(1f)
2:	mov %eax, %cr0
1:	must_fault(GP, 0)
	must_eq($2b, fault_ip)
	movl $0, PDPT + 8
	mov %cr0, %eax
	or $CR0_PG, %eax
	mov %eax, %cr0
	/* MOV to CR3 reads them again, a change in memory alone does nothing. */
	movl $PD + 0x21, PDPT + 8
	try(1f)
	mov $PDPT, %eax
	mov %eax, %cr3
1:	mov %cr0, %eax
	and $~CR0_PG, %eax
	mov %eax, %cr0
	must_fault(GP, 0)
	END
	mov %cr0, %eax
	and $~CR0_PG, %eax
	mov %eax, %cr0
	mov %cr4, %eax
	and $~CR4_PAE, %eax
	mov %eax, %cr4

	/* --- MSRs --- */
	FAULT "RDMSR: none such", GP, 0, "mov $MSR_NONE, %ecx", "rdmsr"
	FAULT "WRMSR: none such", GP, 0, "mov $MSR_NONE, %ecx", "wrmsr"
	FAULT "PAT: type 2", GP, 0, "mov $MSR_PAT, %ecx; mov $0x02, %eax; xor %edx, %edx", "wrmsr"
	FAULT "PAT: type 8", GP, 0, "mov $MSR_PAT, %ecx; xor %eax, %eax; \
	    mov $0x08000000, %edx", "wrmsr"
	FAULT "APIC_BASE: a reserved bit", GP, 0, "mov $MSR_APIC_BASE, %ecx; rdmsr; \
	    or $1, %eax", "wrmsr"
	FAULT "APIC_BASE: x2APIC without enable", GP, 0, \
	    "mov $MSR_APIC_BASE, %ecx; rdmsr; and $~0x800, %eax; or $0x400, %eax", "wrmsr"
	FAULT "TSC_AUX: an upper bit", GP, 0, "mov $MSR_TSC_AUX, %ecx; xor %eax, %eax; \
	    mov $1, %edx", "wrmsr"
	CASE "TSC_AUX is what RDTSCP returns"
	SET_MSR MSR_TSC_AUX, 0x1234, 0
	rdtscp
	must_eq($0x1234, %ecx)
	END
	CASE "MSRs hold what was written"
	SET_MSR MSR_STAR, 0x89abcdef, 0x01234567
	xor %eax, %eax
	xor %edx, %edx
	rdmsr
	must_eq($0x89abcdef, %eax)
	must_eq($0x01234567, %edx)
	END
	CASE "the TSC goes on and can be set"
	SET_MSR 0x10, 0, 0x100
	rdtsc
	must_eq($0x100, %edx)
	mov %eax, %ebx
	rdtsc
	cmp %ebx, %eax
	must(a)
	END

	/* --- XCR0 --- */
	CASE "XSETBV"
	mov $1, %eax
	cpuid
	bt $26, %ecx
	skip_if nc
	mov %cr4, %eax
	or $CR4_OSXSAVE, %eax
	mov %eax, %cr4
	mov $1, %eax
	cpuid
	must_bits(1 << 27, 1 << 27, %ecx)
	xor %ecx, %ecx
	xgetbv
	must_eq($1, %eax)
	mov $3, %eax
	xor %edx, %edx
	xsetbv
	xgetbv
	must_eq($3, %eax)
	END
	FAULT "XSETBV: without x87", GP, 0, "xor %ecx, %ecx; xor %edx, %edx; mov $2, %eax", "xsetbv"
	FAULT "XSETBV: AVX without SSE", GP, 0, "xor %ecx, %ecx; xor %edx, %edx; mov $5, %eax", \
	    "xsetbv"
	FAULT "XSETBV: a part of AVX-512", GP, 0, "xor %ecx, %ecx; xor %edx, %edx; \
	    mov $0x27, %eax", "xsetbv"
	FAULT "XSETBV: bit 63", GP, 0, "xor %ecx, %ecx; mov $0x80000000, %edx; mov $3, %eax", \
	    "xsetbv"
	FAULT "XSETBV: XCR1", GP, 0, "mov $1, %ecx; xor %edx, %edx; mov $3, %eax", "xsetbv"
	FAULT "XGETBV: XCR2", GP, 0, "mov $2, %ecx", "xgetbv"
	USER "XSETBV at level 3", GP, 0, "xor %ecx, %ecx; xor %edx, %edx; mov $3, %eax", "xsetbv"
	USER "XGETBV at level 3", USER_EXIT, NOERR, "xor %ecx, %ecx", "xgetbv"
	FAULT "UD: an AVX instruction with XCR0.AVX 0", UD, NOERR, "", \
	    ".byte 0xc5, 0xfc, 0x28, 0xc0"
	FAULT "GP: XRSTOR with a component that is not enabled", GP, 0, \
	    "mov $PAGE0, %edi; mov $0x100, %ecx; xor %eax, %eax; rep stosl; \
	    movl $4, PAGE0 + 512; mov $7, %eax; xor %edx, %edx", "xrstor PAGE0"
	FAULT "GP: XSAVE not aligned", GP, 0, "mov $7, %eax; xor %edx, %edx", "xsave PAGE0 + 16"

	/* --- What level 3 may only if it is let --- */
	USER "RDTSC at level 3", USER_EXIT, NOERR, "", "rdtsc"
	mov %cr4, %eax
	or $CR4_TSD | CR4_UMIP, %eax
	mov %eax, %cr4
	USER "RDTSC at level 3 with CR4.TSD", GP, 0, "", "rdtsc"
	USER "RDTSCP at level 3 with CR4.TSD", GP, 0, "", "rdtscp"
	PASS "RDTSC at level 0 with CR4.TSD", "", "rdtsc"
	USER "SGDT at level 3 with CR4.UMIP", GP, 0, "", "sgdt PAGE0"
	USER "SIDT at level 3 with CR4.UMIP", GP, 0, "", "sidt PAGE0"
	USER "SLDT at level 3 with CR4.UMIP", GP, 0, "", "sldt %eax"
	USER "STR at level 3 with CR4.UMIP", GP, 0, "", "str %eax"
	USER "SMSW at level 3 with CR4.UMIP", GP, 0, "", "smsw %eax"
	PASS "SGDT at level 0 with CR4.UMIP", "", "sgdt PAGE0"
	mov %cr4, %eax
	and $~(CR4_TSD | CR4_UMIP), %eax
	mov %eax, %cr4
	USER "SMSW at level 3 without CR4.UMIP", USER_EXIT, NOERR, "", "smsw %eax"
	USER "SGDT at level 3 without CR4.UMIP", USER_EXIT, NOERR, "", "sgdt PAGE0"
	USER "RDPMC at level 3", GP, 0, "xor %ecx, %ecx", "rdpmc"
	mov %cr4, %eax
	and $~CR4_OSXSAVE, %eax
	mov %eax, %cr4

	/* --- Compatibility with LGDT, LIDT --- */
	CASE "SGDT and SIDT give what was loaded"
	sgdt PAGE0
	sidt PAGE0 + 8
	must_eq($gdt, PAGE0 + 2)
	must_eq($idt32, PAGE0 + 10)
	movzwl PAGE0, %eax
	must_eq($GDT_SIZE - 1, %eax)
	END
	CASE "LGDT with 16-bit operands loads 24 bits of the base"
	sgdt PAGE0
	movw $GDT_SIZE - 1, PAGE1
	movl $gdt + 0xab000000, PAGE1 + 2
	data16 lgdt PAGE1
	sgdt PAGE2
	lgdt PAGE0
	must_eq($gdt, PAGE2 + 2)
	END

	/* --- 64-bit mode --- */
	call long_enter
	bits 64
	REFUSE "64 bits: CR0.PG cleared", %cr0, 0, CR0_PG
	REFUSE "64 bits: CR0.PE cleared", %cr0, 0, CR0_PE
	REFUSE "64 bits: CR4.PAE cleared", %cr4, 0, CR4_PAE
	REFUSE "64 bits: CR4.LA57 changed", %cr4, CR4_LA57, 0
	REFUSE_HIGH "64 bits: CR0 bit 32", %cr0, 32
	REFUSE_HIGH "64 bits: CR0 bit 63", %cr0, 63
	REFUSE_HIGH "64 bits: CR4 bit 32", %cr4, 32
	REFUSE_HIGH "64 bits: CR3 bit 62", %cr3, 62
	REFUSE_HIGH "64 bits: CR3 bit 63 without PCIDE", %cr3, 63
	REFUSE "64 bits: CR8 above 15", %cr8, 16, 0
	CASE "64 bits: CR8"
	mov $9, %eax
	mov %rax, %cr8
	mov %cr8, %rbx
	xor %eax, %eax
	mov %rax, %cr8
	must_eq64($9, %rbx)
	END
	FAULT "64 bits: EFER.LME changed while paging", GP, 0, \
	    "mov $EFER, %ecx; rdmsr; and $~EFER_LME, %eax", "wrmsr"
	CASE "64 bits: EFER.LMA is read-only"
	mov $EFER, %ecx
	rdmsr
	and $~EFER_LMA, %eax
	wrmsr
	rdmsr
	must_bits(EFER_LMA | EFER_LME, EFER_LMA | EFER_LME, %eax)
	END
.macro CANONICAL name, msr
	FAULT "\name", GP, 0, "mov $\msr, %ecx; xor %eax, %eax; mov $0x8000, %edx", "wrmsr"
.endm
	CANONICAL "64 bits: LSTAR not canonical", MSR_LSTAR
	CANONICAL "64 bits: CSTAR not canonical", MSR_CSTAR
	CANONICAL "64 bits: FS_BASE not canonical", MSR_FS_BASE
	CANONICAL "64 bits: KERNEL_GS_BASE not canonical", MSR_KERNEL_GS_BASE
	CASE "64 bits: a canonical address is taken"
	SET_MSR MSR_LSTAR, 0, 0xffff8000
	SET_MSR MSR_LSTAR, -1, 0x00007fff
	END
	FAULT "64 bits: RDFSBASE without CR4.FSGSBASE", UD, NOERR, "", "rdfsbase %rax"
	CASE "64 bits: FSGSBASE"
	mov %cr4, %rax
	or $CR4_FSGSBASE, %eax
	mov %rax, %cr4
	mov $0x12345678, %ebx
	shl $12, %rbx
	wrfsbase %rbx
	rdfsbase %rcx
	must_eq64(%rbx, %rcx)
	wrgsbase %ebx
	rdgsbase %rcx
	mov %ebx, %edx
	must_eq64(%rdx, %rcx)
	xor %eax, %eax
	wrfsbase %rax
	wrgsbase %rax
	END
	FAULT "64 bits: WRFSBASE not canonical", GP, 0, "mov $1, %eax; shl $47, %rax", \
	    "wrfsbase %rax"
	CASE "64 bits: SWAPGS"
	SET_MSR MSR_KERNEL_GS_BASE, 0x1000, 0x2000
	mov $0x77000, %eax
	wrgsbase %rax
	swapgs
	rdgsbase %rbx
	mov $MSR_KERNEL_GS_BASE, %ecx
	rdmsr
	must_eq($0x77000, %eax)
	must_eq($0, %edx)
	mov %rbx, %rax
	shr $32, %rax
	must_eq($0x2000, %eax)
	must_eq($0x1000, %ebx)
	END
	CASE "64 bits: SWAPGS at level 3"
	mov $1f, %eax
	call user_call64
	must_fault(GP, 0)
	jmp 9f
1:	swapgs
	int $USER_EXIT
	END

	/* --- PCID --- */
	CASE "64 bits: PCIDE with a PCID in CR3"
	mov $PML4 + 8, %eax
	mov %rax, %cr3
	mov %cr4, %rax
	or $CR4_PCIDE, %eax
	try(1f)
2:	mov %rax, %cr4
1:	must_fault(GP, 0)
	must_eq64($2b, fault_ip)
	END
	mov $PML4, %eax
	mov %rax, %cr3
	FAULT "64 bits: INVPCID of a PCID without PCIDE", GP, 0, \
	    "movq $5, PAGE0; movq $0, PAGE0 + 8; mov $1, %ebx", "invpcid PAGE0, %rbx"
	mov %cr4, %rax
	or $CR4_PCIDE, %eax
	mov %rax, %cr4
	CASE "64 bits: CR3 bit 63 with PCIDE, not stored"
	mov $PML4 + 5, %eax
	bts $63, %rax
	try(1f)
	mov %rax, %cr3
1:	must_eq($NONE, fault_vector)
	mov %cr3, %rbx
	mov $PML4 + 5, %eax
	must_eq64(%rax, %rbx)
	END
	FAULT "64 bits: PCIDE, CR0.PG cleared", GP, 0, "mov %cr0, %rax; btr $31, %rax", \
	    "mov %rax, %cr0"
	FAULT "64 bits: INVPCID type 4", GP, 0, "movq $0, PAGE0; movq $0, PAGE0 + 8; \
	    mov $4, %ebx", "invpcid PAGE0, %rbx"
	FAULT "64 bits: INVPCID with a reserved bit", GP, 0, \
	    "movq $0x1000, PAGE0; xor %ebx, %ebx", "invpcid PAGE0, %rbx"
	FAULT "64 bits: INVPCID of an address that is not canonical", GP, 0, \
	    "movq $0, PAGE0; mov $1, %eax; shl $47, %rax; mov %rax, PAGE0 + 8; xor %ebx, %ebx", \
	    "invpcid PAGE0, %rbx"
	PASS "64 bits: INVPCID of all, whatever the descriptor's address", "mov $2, %ebx", \
	    "invpcid PAGE0, %rbx"
	CASE "64 bits: INVPCID at level 3"
	mov $1f, %eax
	call user_call64
	must_fault(GP, 0)
	jmp 9f
1:	invpcid PAGE0, %rbx
	int $USER_EXIT
	END
	mov $PML4, %eax
	mov %rax, %cr3
	mov %cr4, %rax
	and $~CR4_PCIDE, %eax
	mov %rax, %cr4

	/* --- Addresses that are not canonical --- */
	FAULT "not canonical: a load", GP, 0, "mov $1, %eax; shl $47, %rax", "mov (%rax), %ecx"
	FAULT "not canonical: a store", GP, 0, "mov $1, %eax; shl $63, %rax", "mov %ecx, (%rax)"
	FAULT "not canonical: the last bytes", GP, 0, \
	    "mov $1, %eax; shl $47, %rax; sub $4, %rax", "mov (%rax), %rcx"
	FAULT "not canonical: by RBP it is #SS", SS, 0, "mov $1, %ebp; shl $47, %rbp", \
	    "mov (%rbp), %ecx"
	FAULT "not canonical: by RSP it is #SS", SS, 0, \
	    "mov $1, %eax; shl $47, %rax; mov %rsp, %rbx; sub %rbx, %rax", "mov (%rsp, %rax), %ecx"
	FAULT "not canonical: RBP with a DS prefix counts as SS", SS, 0, \
	    "mov $1, %ebp; shl $47, %rbp", "mov %ds:(%rbp), %ecx"
	FAULT "not canonical: RBP with an FS prefix is #GP", GP, 0, \
	    "mov $1, %ebp; shl $47, %rbp", "mov %fs:(%rbp), %ecx"
	FAULT "not canonical: a read-modify-write", GP, 0, "mov $1, %eax; shl $47, %rax", \
	    "lock addl $1, (%rax)"
	FAULT "not canonical: SSE", GP, 0, "mov $1, %eax; shl $47, %rax", "movups (%rax), %xmm0"
	FAULT "not canonical: JMP", GP, 0, "mov $1, %eax; shl $47, %rax", "jmp *%rax"
	FAULT "not canonical: CALL", GP, 0, "mov $1, %eax; shl $47, %rax", "call *%rax"
	FAULT "not canonical: RET", GP, 0, "mov $1, %eax; shl $47, %rax; push %rax", "ret"
	PASS "not canonical: INVLPG does nothing", "mov $1, %eax; shl $47, %rax", "invlpg (%rax)"
	CASE "not canonical: PUSH"
	mov %rsp, %rbx
	mov $1, %eax
	shl $47, %rax
	try(1f)
	add $8, %rax
	mov $ist_top, %ecx
	orb $1, idt64 + SS * 16 + 4	/* a good stack for the handler */
	mov %rax, %rsp
2:	push %rcx
1:	andb $~1, idt64 + SS * 16 + 4
	must_fault(SS, 0)
	must_eq64($2b, fault_ip)
	END
	call long_leave
	bits 32
	ret
