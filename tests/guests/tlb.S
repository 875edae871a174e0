/*
 * Translations that change: what INVLPG, INVPCID, CR3 and CR4 must forget, what PCIDs must keep
 * apart, and which changes need no invalidation at all (SDM 3, 4.10).
 */
#include "guest.h"

	.set RW, PTE_P | PTE_W
	.set PTES, PT_TEST
	.set PML4_B, 0x20c000	/* a second set: VIRT by PT_B */
	.set PDPT_B, 0x20d000
	.set PD_B, 0x20e000
	.set PT_B, 0x20f000
	.set BASE, 0x400000	/* two large pages */
	.set BASE2, 0x600000

/* RBP is VIRT, whose first page is PAGE0, CR3 is PML4 with PCID 0; PAGEn holds n + 1. */
.macro TLB name
	CASE "\name"
	call tlb_begin
.endm

	.text
	.globl guest_main
guest_main:
	movl $0, long_user
	call long_enter
	bits 64
	call tables

	/* --- One address space --- */
	TLB "INVLPG: another page"
	must_eq($1, (%rbp))
	movl $PAGE1 | RW, PTES
	invlpg (%rbp)
	must_eq($2, (%rbp))
	END
	TLB "INVLPG: any address of the page"
	must_eq($1, (%rbp))
	movl $PAGE1 | RW, PTES
	invlpg 0xfff(%rbp)
	must_eq($2, (%rbp))
	END
	TLB "INVLPG: for stores"
	movl $5, 8(%rbp)
	movl $0, PAGE1 + 8
	movl $PAGE1 | RW, PTES
	invlpg (%rbp)
	movl $6, 8(%rbp)
	must_eq($5, PAGE0 + 8)
	must_eq($6, PAGE1 + 8)
	END
	TLB "INVLPG: a page taken away"
	must_eq($1, (%rbp))
	movl $0, PTES
	invlpg (%rbp)
	try(1f)
	mov (%rbp), %eax
1:	must_fault(PF, 0)
	must_eq64(%rbp, fault_cr2)
	END
	TLB "INVLPG: a page made read-only"
	mov %cr0, %rax
	or $CR0_WP, %eax
	mov %rax, %cr0
	movl $5, 8(%rbp)
	movl $PAGE0 | PTE_P, PTES
	invlpg (%rbp)
	try(1f)
	movl $6, 8(%rbp)
1:	must_fault(PF, ERR_P | ERR_W)
	must_eq($5, 8(%rbp))
	mov %cr0, %rax
	and $~CR0_WP, %eax
	mov %rax, %cr0
	END
	TLB "CR0.WP needs no invalidation"
	movl $PAGE0 | PTE_P, PTES
	invlpg (%rbp)
	movl $5, 8(%rbp)
	mov %cr0, %rax
	or $CR0_WP, %eax
	mov %rax, %cr0
	try(1f)
	movl $6, 8(%rbp)
1:	mov %cr0, %rcx
	and $~CR0_WP, %ecx
	mov %rcx, %cr0
	must_fault(PF, ERR_P | ERR_W)
	END
	TLB "CR4.SMEP and SMAP need no invalidation"
	movl $PAGE0 | RW | PTE_U, PTES
	invlpg (%rbp)
	must_eq($1, (%rbp))
	mov %cr4, %rbx
	mov %rbx, %rax
	or $CR4_SMAP | CR4_SMEP, %eax
	mov %rax, %cr4
	try(1f)
	mov (%rbp), %eax
1:	mov %rbx, %cr4
	must_fault(PF, ERR_P)
	END
	TLB "STAC and CLAC"
	movl $PAGE0 | RW | PTE_U, PTES
	invlpg (%rbp)
	mov %cr4, %rbx
	mov %rbx, %rax
	or $CR4_SMAP, %eax
	mov %rax, %cr4
	stac
	try(1f)
	mov (%rbp), %ecx
	movl $9, 8(%rbp)
	clac
	must_eq($1, %ecx)
	must_eq($NONE, fault_vector)
	movl $10, 8(%rbp)
1:	mov %rbx, %cr4
	must_fault(PF, ERR_P | ERR_W)
	must_eq($9, PAGE0 + 8)
	END
	TLB "SMAP: descriptor tables are read for level 0 whatever AC is"
	/* An LDT in a page of level 3 */
	movl $PAGE3 | RW | PTE_U, PTES + 8
	invlpg 0x1000(%rbp)
	mov gdt + KDATA, %rax
	mov %rax, PAGE3
	set_descriptor SEL_TEST, 0x1000, 15, ACC_LDT, 0
	movq $VIRT >> 32, gdt + SEL_TEST + 8
	mov $SEL_TEST, %eax
	lldt %ax
	mov $4, %ecx
	try(1f)
	mov %ecx, %es
1:	must_eq($NONE, fault_vector)
	mov %cr4, %rbx
	mov %rbx, %rax
	or $CR4_SMAP, %eax
	mov %rax, %cr4
	stac
	try(1f)
	mov %ecx, %es
1:	mov %rbx, %cr4
	xor %eax, %eax
	lldt %ax
	must_fault(PF, ERR_P)
	lea 0x1000(%rbp), %rax
	must_eq64(%rax, fault_cr2)
	END
	TLB "a page that appears needs none"
	lea 0x1000(%rbp), %rbx
	try(1f)
	mov (%rbx), %eax
1:	must_fault(PF, 0)
	movl $PAGE1 | RW, PTES + 8
	must_eq($2, (%rbx))
	END
	TLB "a write permission that appears needs one fault at most"
	mov %cr0, %rax
	or $CR0_WP, %eax
	mov %rax, %cr0
	movl $PAGE0 | PTE_P, PTES
	invlpg (%rbp)
	must_eq($1, (%rbp))
	try(1f)
	movl $7, 8(%rbp)
1:	movl $PAGE0 | RW, PTES
	try(2f)
	movl $8, 8(%rbp)
2:	try(3f)
	movl $9, 8(%rbp)
3:	must_eq($NONE, fault_vector)
	must_eq($9, PAGE0 + 8)
	mov %cr0, %rax
	and $~CR0_WP, %eax
	mov %rax, %cr0
	END
	TLB "the accessed bit is set again after INVLPG"
	must_eq($1, (%rbp))
	must_bits(PTE_A, PTE_A | PTE_D, PTES)
	movl $PAGE0 | RW, PTES
	invlpg (%rbp)
	must_eq($1, (%rbp))
	must_bits(PTE_A, PTE_A | PTE_D, PTES)
	END
	TLB "the dirty bit is set by the first store after a load"
	must_eq($1, (%rbp))
	must_bits(PTE_A, PTE_A | PTE_D, PTES)
	movl $1, (%rbp)
	must_bits(PTE_A | PTE_D, PTE_A | PTE_D, PTES)
	movl $PAGE0 | RW | PTE_A, PTES
	invlpg (%rbp)
	must_eq($1, (%rbp))
	must_bits(PTE_A, PTE_A | PTE_D, PTES)
	lock addl $0, (%rbp)
	must_bits(PTE_A | PTE_D, PTE_A | PTE_D, PTES)
	END
	TLB "the dirty bit: a read-modify-write that writes nothing new"
	mov $5, %eax
	lock cmpxchg %ecx, (%rbp)
	must_bits(PTE_A | PTE_D, PTE_A | PTE_D, PTES)
	END
	TLB "a store that faults on its second page writes nothing on the first"
	movl $0x11223344, PAGE0 + 0xffc
	try(1f)
	movl $0, 0xffe(%rbp)
1:	must_fault(PF, ERR_W)
	lea 0x1000(%rbp), %rax
	must_eq64(%rax, fault_cr2)
	must_eq($0x11223344, PAGE0 + 0xffc)
	try(1f)
	lock addl $1, 0xffe(%rbp)
1:	must_fault(PF, ERR_W)
	must_eq($0x11223344, PAGE0 + 0xffc)
	END
	TLB "accessed bits above"
	movl $PT_TEST + 7, PD_TEST
	movl $PD_TEST + 7, PDPT + 32
	mov %cr3, %rax
	mov %rax, %cr3
	must_eq($1, (%rbp))
	must_bits(PTE_A, PTE_A | PTE_D, PD_TEST)
	must_bits(PTE_A, PTE_A | PTE_D, PDPT + 32)
	END
	TLB "MOV to CR3: what is not global goes"
	must_eq($1, (%rbp))
	movl $PAGE1 | RW, PTES
	mov %cr3, %rax
	mov %rax, %cr3
	must_eq($2, (%rbp))
	END
	TLB "CR4.PGE: global pages go when it changes"
	mov %cr4, %rax
	or $CR4_PGE, %eax
	mov %rax, %cr4
	movl $PAGE0 | RW | PTE_G, PTES
	invlpg (%rbp)
	must_eq($1, (%rbp))
	movl $PAGE1 | RW | PTE_G, PTES
	mov %cr4, %rax
	and $~CR4_PGE, %eax
	mov %rax, %cr4
	must_eq($2, (%rbp))
	END
	TLB "INVLPG: global pages too"
	mov %cr4, %rax
	or $CR4_PGE, %eax
	mov %rax, %cr4
	movl $PAGE0 | RW | PTE_G, PTES
	invlpg (%rbp)
	must_eq($1, (%rbp))
	movl $PAGE1 | RW | PTE_G, PTES
	invlpg (%rbp)
	must_eq($2, (%rbp))
	mov %cr4, %rax
	and $~CR4_PGE, %eax
	mov %rax, %cr4
	END

	/* --- Large pages --- */
	TLB "2 MiB: INVLPG at one end forgets the other"
	movq $BASE | RW | PTE_PS, PD_TEST + 8
	lea 0x200000(%rbp), %rbx
	movl $0x11, BASE + 0x1ff000
	movl $0x22, BASE2 + 0x1ff000
	must_eq($0x11, 0x1ff000(%rbx))
	must_bits(PTE_A, PTE_A | PTE_D, PD_TEST + 8)
	movl $0x11, 0x1ff000(%rbx)
	must_bits(PTE_A | PTE_D, PTE_A | PTE_D, PD_TEST + 8)
	movq $BASE2 | RW | PTE_PS, PD_TEST + 8
	invlpg (%rbx)
	must_eq($0x22, 0x1ff000(%rbx))
	END
	TLB "2 MiB: becomes small ones"
	movq $BASE | RW | PTE_PS, PD_TEST + 8
	lea 0x200000(%rbp), %rbx
	movl $0x33, BASE
	must_eq($0x33, (%rbx))
	movl $PT_TEST + 7, PD_TEST + 8
	invlpg (%rbx)
	must_eq($1, (%rbx))
	END
	TLB "2 MiB: a page without P"
	movq $BASE | PTE_W | PTE_PS, PD_TEST + 8
	lea 0x200000(%rbp), %rbx
	invlpg (%rbx)
	try(1f)
	mov (%rbx), %eax
1:	must_fault(PF, 0)
	END
	TLB "1 GiB: a page"
	mov $0x80000001, %eax
	cpuid
	bt $26, %edx
	skip_if nc
	movq $RW | PTE_PS, PDPT + 40
	mov $5, %ebx
	shl $30, %rbx
	must_eq($1, PAGE0(%rbx))
	must_bits(PTE_A, PTE_A | PTE_D, PDPT + 40)
	movl $1, PAGE0(%rbx)
	must_bits(PTE_A | PTE_D, PTE_A | PTE_D, PDPT + 40)
	movl $PD_TEST + 7, PDPT + 40
	invlpg PAGE2(%rbx)
	must_eq($1, (%rbx))
	movq $RW | PTE_PS | (1 << 13), PDPT + 40
	invlpg (%rbx)
	try(1f)
	mov (%rbx), %eax
1:	must_fault(PF, ERR_P | ERR_RSVD)
	END
	movq $0, PDPT + 40
	TLB "PS in a PML4E is reserved"
	movl $PDPT | 7 | PTE_PS, PML4 + 8
	mov $1, %ebx
	shl $39, %rbx
	try(1f)
	mov (%rbx), %eax
1:	must_fault(PF, ERR_P | ERR_RSVD)
	movq $0, PML4 + 8
	END

	/* --- The tables themselves move --- */
	TLB "a table exchanged: INVLPG forgets the way there"
	must_eq($1, (%rbp))
	movl $PT_B + 7, PD_TEST
	invlpg (%rbp)
	must_eq($3, (%rbp))
	movl $PT_TEST + 7, PD_TEST
	invlpg (%rbp)
	must_eq($1, (%rbp))
	END
	TLB "a table edited through the mapping of itself"
	/* The second page maps PT_TEST. */
	movl $PT_TEST | RW, PTES + 8
	must_eq($1, (%rbp))
	movl $PAGE1 | RW, 0x1000(%rbp)
	invlpg (%rbp)
	must_eq($2, (%rbp))
	END

	/* --- Address spaces --- */
	TLB "MOV to CR3: another address space"
	must_eq($1, (%rbp))
	mov $PML4_B, %eax
	mov %rax, %cr3
	must_eq($3, (%rbp))
	mov $PML4, %eax
	mov %rax, %cr3
	must_eq($1, (%rbp))
	END
	mov %cr4, %rax
	or $CR4_PCIDE, %eax
	mov %rax, %cr4
	TLB "PCID: two spaces do not mix"
	mov $PML4 + 1, %ebx
	mov $PML4_B + 2, %ecx
	mov $100, %edx
1:	mov %rbx, %cr3
	must_eq($1, (%rbp))
	movl $1, (%rbp)
	mov %rcx, %cr3
	must_eq($3, (%rbp))
	movl $3, (%rbp)
	bts $63, %rbx
	bts $63, %rcx
	dec %edx
	jnz 1b
	must_eq($1, PAGE0)
	must_eq($3, PAGE2)
	END
	TLB "PCID: MOV to CR3 without bit 63 forgets that one"
	mov $PML4 + 1, %ebx
	mov %rbx, %cr3
	must_eq($1, (%rbp))
	mov $PML4_B + 2, %ecx
	mov %rcx, %cr3
	movl $PAGE1 | RW, PTES
	mov %rbx, %cr3
	must_eq($2, (%rbp))
	END
	TLB "PCID: INVLPG is for the current one"
	mov $PML4 + 1, %ebx
	mov %rbx, %cr3
	must_eq($1, (%rbp))
	movl $PAGE1 | RW, PTES
	invlpg (%rbp)
	must_eq($2, (%rbp))
	END
	TLB "PCID: the same tables under another PCID are read anew"
	mov $PML4 + 3, %ebx
	mov %rbx, %cr3
	must_eq($1, (%rbp))
	movl $PAGE1 | RW, PTES
	mov $PML4 + 4, %ebx
	mov %rbx, %cr3
	must_eq($2, (%rbp))
	END
	TLB "INVPCID 0: one address of one PCID"
	mov $PML4 + 1, %ebx
	mov %rbx, %cr3
	must_eq($1, (%rbp))
	mov $PML4_B + 2, %ecx
	mov %rcx, %cr3
	movl $PAGE1 | RW, PTES
	movq $1, invpcid_of
	mov %rbp, invpcid_of + 8
	xor %eax, %eax
	invpcid invpcid_of, %rax
	bts $63, %rbx
	mov %rbx, %cr3
	must_eq($2, (%rbp))
	END
	TLB "INVPCID 1: one PCID"
	mov $PML4 + 1, %ebx
	mov %rbx, %cr3
	must_eq($1, (%rbp))
	mov $PML4_B + 2, %ecx
	mov %rcx, %cr3
	movl $PAGE1 | RW, PTES
	movq $1, invpcid_of
	mov $1, %eax
	invpcid invpcid_of, %rax
	bts $63, %rbx
	mov %rbx, %cr3
	must_eq($2, (%rbp))
	END
	TLB "INVPCID 2: everything, global pages too"
	mov %cr4, %rax
	or $CR4_PGE, %eax
	mov %rax, %cr4
	movl $PAGE0 | RW | PTE_G, PTES
	mov $PML4 + 1, %ebx
	mov %rbx, %cr3
	invlpg (%rbp)
	must_eq($1, (%rbp))
	movl $PAGE1 | RW | PTE_G, PTES
	mov $2, %eax
	invpcid invpcid_of, %rax
	must_eq($2, (%rbp))
	mov %cr4, %rax
	and $~CR4_PGE, %eax
	mov %rax, %cr4
	END
	TLB "INVPCID 3: all PCIDs"
	mov $PML4 + 1, %ebx
	mov %rbx, %cr3
	must_eq($1, (%rbp))
	mov $PML4_B + 2, %ecx
	mov %rcx, %cr3
	movl $PAGE1 | RW, PTES
	mov $3, %eax
	invpcid invpcid_of, %rax
	bts $63, %rbx
	mov %rbx, %cr3
	must_eq($2, (%rbp))
	END
	TLB "PCID: all 4096 of them"
	mov $PML4, %ebx
	mov $PML4_B, %ecx
	xor %edx, %edx
1:	lea (%rbx, %rdx), %rax
	mov %rax, %cr3
	must_eq($1, (%rbp))
	lea 1(%rcx, %rdx), %rax
	and $~0x1000, %eax
	mov %rax, %cr3
	must_eq($3, (%rbp))
	inc %edx
	cmp $4096, %edx
	jne 1b
	END
	TLB "CR4.PCIDE cleared forgets all"
	mov $PML4 + 1, %ebx
	mov %rbx, %cr3
	must_eq($1, (%rbp))
	mov $PML4, %ebx
	mov %rbx, %cr3
	must_eq($1, (%rbp))
	movl $PAGE1 | RW, PTES
	mov %cr4, %rax
	and $~CR4_PCIDE, %eax
	mov %rax, %cr4
	must_eq($2, (%rbp))
	END
	call long_leave
	bits 32

	/* --- 5 levels --- */
	CASE "LA57: canonical addresses have 57 bits"
	mov $7, %eax
	xor %ecx, %ecx
	cpuid
	bt $16, %ecx
	skip_if nc
	movl $PML5, long_root
	movl $CR4_LA57, long_cr4
	call long_enter
	bits 64
	movl $PML4 + 7, PML5 + 8
	movl $PML4 + 7, PML5 + 255 * 8
	movl $1, PAGE0
	mov $1, %ebp
	shl $48, %rbp
	mov PAGE0(%rbp), %ebx
	mov $255, %ebp
	shl $48, %rbp
	mov PAGE0(%rbp), %esi
	mov $1, %ecx
	shl $56, %rcx
	try(1f)
	mov (%rcx), %eax
1:	mov fault_vector, %r13d
	mov $0x1ff, %ecx
	shl $48, %rcx
	try(1f)
	mov (%rcx), %eax
1:	mov fault_vector, %r14d
	mov fault_error, %r15d
	mov %r13d, %edx
	shl $8, %edx
	or %r14d, %edx
	mov %edx, seen
	mov %r15d, seen + 4
	mov %ebx, seen + 8
	mov %esi, seen + 12
	call long_leave
	bits 32
	movl $PML4, long_root
	movl $0, long_cr4
	must_eq($1, seen + 8)
	must_eq($1, seen + 12)
	/* 1 << 56 is the first that is not canonical, 0x1ff << 48 the last: bits 63 to 57 are
	 * clear. */
	must_eq($GP << 8 | GP, seen)
	END
	CASE "LA57: off again, 48 bits"
	call long_enter
	bits 64
	mov $1, %ecx
	shl $48, %rcx
	try(1f)
	mov (%rcx), %eax
1:	mov fault_vector, %eax
	mov %eax, seen
	call long_leave
	bits 32
	must_eq($GP, seen)
	END
	ret

	.code64
tables:
	mov $PML4, %esi
	mov $PML4_B, %edi
	mov $512, %ecx
	cld
	rep movsq
	mov $PDPT, %esi
	mov $PDPT_B, %edi
	mov $512, %ecx
	rep movsq
	mov $PD_TEST, %esi
	mov $PD_B, %edi
	mov $512, %ecx
	rep movsq
	movl $PDPT_B + 7, PML4_B
	movl $PD_B + 7, PDPT_B + 32
	movl $PT_B + 7, PD_B
	xor %eax, %eax
	mov $PT_B, %edi
	mov $512, %ecx
	rep stosq
	movl $PAGE2 | RW, PT_B
	ret

tlb_begin:
	mov $VIRT >> 12, %ebp
	shl $12, %rbp
	mov $PML4, %eax
	mov %rax, %cr3
	movq $PAGE0 | RW, PT_TEST
	movq $0, PT_TEST + 8
	movl $PT_TEST + 7, PD_TEST
	movq $0, PD_TEST + 8
	movl $1, PAGE0
	movl $2, PAGE1
	movl $3, PAGE2
	/* Clean in any case, by what the first cases test. */
	invlpg (%rbp)
	invlpg 0x1000(%rbp)
	invlpg 0x200000(%rbp)
	ret
	.code32

	.bss
	.balign 8
invpcid_of: .skip 16
seen:	.skip 16
