/*
 * Every combination of page-table bits, control bits and kind of access on one page: whether it
 * faults, with which error code, and which accessed and dirty bits are set (SDM 3, 4.6 to 4.8).
 * What is expected is computed here from the manual's rules.
 *
 * Included once for 32-bit and once for 64-bit mode, with N() and R() as in lib/console.h and
 * FLAGS_POP as POPF of full width. The guest sets up its tables so that walk_page is translated
 * by the entries at walk_pde and walk_pte (in PT_WALK), entries above allowing everything; the
 * rest is for level 0 only, but the page walk_stub, which holds STUB.
 */

	/* A combination */
	.set C_PTE_P, 1 << 0
	.set C_PTE_W, 1 << 1
	.set C_PTE_U, 1 << 2
	.set C_PTE_NX, 1 << 3
	.set C_PTE_RSVD, 1 << 4
	.set C_PTE, 0x1f
	.set C_PDE_P, 1 << 5
	.set C_PDE_W, 1 << 6
	.set C_PDE_U, 1 << 7
	.set C_PDE_NX, 1 << 8
	.set C_PDE_PS, 1 << 9
	.set C_PDE_RSVD, 1 << 10
	.set C_WP, 1 << 11
	.set C_SMEP, 1 << 12
	.set C_SMAP, 1 << 13
	.set C_AC, 1 << 14
	.set C_NXE, 1 << 15
	.set C_END, 1 << 16
	/* A kind of access */
	.set K_READ, 0
	.set K_WRITE, 1
	.set K_FETCH, 2
	.set K_USER, 4

	.set WALK_LARGE, 0x400000	/* the large page, and in it the small one */
	.set WALK_FRAME, 0x405000
	.set WALK_OFFSET, 0x5000
	.set STUB, 0x304000	/* code for level 3: WALK_READ, WALK_WRITE, WALK_FETCH */
	.set STUB_READ, 0
	.set STUB_WRITE, 16
	.set STUB_FETCH, 32
	.set MAGIC, 0x5ee5a110
	.set MAGIC_WRITTEN, 0x0dd1ba11

/* As must(), but keeps what the case got. */
#define must_here(cond) j##cond 88f; fail_at __LINE__; 88:

#ifdef WALK_DATA
/* One case: every combination for one kind of access. */
.macro WALK name, kind
	CASE "\name"
	mov $\kind, %eax
	.if BITS == 64
	call walk_all64
	.else
	call walk_all32
	.endif
	END
.endm

	.data
	.balign 8
	.globl walk_page, walk_stub, walk_pde, walk_pte, walk_wide, walk_never
walk_page: .quad 0	/* linear addresses */
walk_stub: .quad 0
walk_pde: .long 0	/* where the entries lie */
walk_pte: .long 0
walk_wide: .long 0	/* whether entries have 8 bytes */
walk_never: .long 0	/* combinations that cannot be */
walk_kind: .long 0
walk_combo: .long 0
walk_modes: .long 0	/* control bits as they are set */
walk_want: .long 0	/* error code or NONE */
walk_entry: .long 0, 0, 0, 0	/* PDE and PTE as written */
walk_count: .long 0

	.text
	.code32
/* Puts the code for level 3 at STUB. The page's address is in EBX (RBX). */
walk_init:
	movl $0x80cd038b, STUB + STUB_READ	/* MOV (%ebx), %eax; INT $USER_EXIT */
	movl $0x80cd0b89, STUB + STUB_WRITE	/* MOV %ecx, (%ebx) */
	movl $0x0000e3ff, STUB + STUB_FETCH	/* JMP *%ebx */
	ret
#endif

	.text
/* EAX: kind. Fails the case at the first difference, with the combination as what it got. */
N(walk_all):
	mov %eax, walk_kind
	movl $-1, walk_modes
	movl $0, walk_combo
	movl $0, walk_count
1:	mov walk_combo, %ebx
	call N(walk_wanted)
	jz 2f
	call N(walk_entries)
	call N(walk_control)
	call N(walk_expect)
	call N(walk_access)
	call N(walk_check)
	addl $1, walk_count
2:	addl $1, walk_combo
	cmpl $C_END, walk_combo
	jb 1b
	/* Nothing is checked if everything is left out. */
	cmpl $500, walk_count
	must(a)
	mov $C_NXE, %ebx
	jmp N(walk_control)

/* ZF set: leave the combination EBX out. */
N(walk_wanted):
	test walk_never, %ebx
	jnz 3f
	/* Entries that are not used need not vary. */
	test $C_PDE_P, %ebx
	jz 1f
	test $C_PDE_PS, %ebx
	jz 2f
1:	test $C_PTE, %ebx
	jnz 3f
2:	testl $C_PTE_RSVD, walk_never
	jz 4f
	/* Only large pages have reserved bits then. */
	mov %ebx, %eax
	and $C_PDE_PS | C_PDE_RSVD, %eax
	cmp $C_PDE_RSVD, %eax
	ret
3:	xor %eax, %eax
	ret
4:	or $1, %eax
	ret

/* Writes the entries of EBX. */
N(walk_entries):
	mov %ebx, %eax
	and $7, %eax
	or $WALK_FRAME, %eax
	xor %edx, %edx
	test $C_PTE_NX, %ebx
	jz 1f
	or $1 << 31, %edx
1:	test $C_PTE_RSVD, %ebx
	jz 2f
	or $1 << (51 - 32), %edx
2:	mov walk_pte, %edi
	mov $walk_entry + 8, %esi
	call N(walk_entry_write)

	mov %ebx, %eax
	shr $5, %eax
	and $7, %eax
	xor %edx, %edx
	test $C_PDE_NX, %ebx
	jz 3f
	or $1 << 31, %edx
3:	test $C_PDE_PS, %ebx
	jz 5f
	or $WALK_LARGE | PTE_PS, %eax
	test $C_PDE_RSVD, %ebx
	jz 6f
	cmpl $0, walk_wide
	jne 4f
	or $1 << 21, %eax
	jmp 6f
4:	or $1 << 13, %eax
	jmp 6f
5:	or $PT_WALK, %eax
	test $C_PDE_RSVD, %ebx
	jz 6f
	or $1 << (51 - 32), %edx
6:	mov walk_pde, %edi
	mov $walk_entry, %esi
	call N(walk_entry_write)
	mov walk_page, R(di)
	invlpg (R(di))
	ret
N(walk_entry_write):
	mov %eax, (R(di))
	mov %eax, (R(si))
	mov %edx, 4(R(si))
	cmpl $0, walk_wide
	je 1f
	mov %edx, 4(R(di))
1:	ret

/* Sets CR0, CR4 and EFER as EBX says, if they are not. */
N(walk_control):
	mov %ebx, %eax
	and $C_WP | C_SMEP | C_SMAP | C_NXE, %eax
	cmp %eax, walk_modes
	je 9f
	mov %eax, walk_modes
	mov %cr0, R(ax)
	and $~CR0_WP, %eax
	test $C_WP, %ebx
	jz 1f
	or $CR0_WP, %eax
1:	mov R(ax), %cr0
	mov %cr4, R(ax)
	and $~(CR4_SMEP | CR4_SMAP), %eax
	test $C_SMEP, %ebx
	jz 2f
	or $CR4_SMEP, %eax
2:	test $C_SMAP, %ebx
	jz 3f
	or $CR4_SMAP, %eax
3:	mov R(ax), %cr4
	mov $EFER, %ecx
	rdmsr
	and $~EFER_NXE, %eax
	test $C_NXE, %ebx
	jz 4f
	or $EFER_NXE, %eax
4:	wrmsr
9:	ret

/* What EBX should do into walk_want. ECX gathers the error code, EAX the rights: W and U where
 * all entries have them, NX where one has. */
N(walk_expect):
	xor %ecx, %ecx
	mov walk_kind, %edx
	test $K_USER, %edx
	jz 1f
	or $ERR_U, %ecx
1:	test $K_WRITE, %edx
	jz 2f
	or $ERR_W, %ecx
2:	test $K_FETCH, %edx
	jz 3f
	test $C_SMEP | C_NXE, %ebx
	jz 3f
	or $ERR_I, %ecx
3:	/* The walk */
	test $C_PDE_P, %ebx
	jz 8f
	test $C_PDE_RSVD, %ebx
	jnz 7f
	test $C_NXE, %ebx
	jnz 4f
	test $C_PDE_NX, %ebx
	jnz 7f
4:	mov %ebx, %eax
	shr $5, %eax
	test $C_PDE_PS, %ebx
	jnz 6f
	test $C_PTE_P, %ebx
	jz 8f
	test $C_PTE_RSVD, %ebx
	jnz 7f
	test $C_NXE, %ebx
	jnz 5f
	test $C_PTE_NX, %ebx
	jnz 7f
5:	mov %ebx, %esi
	or %eax, %esi
	and %ebx, %eax
	and $C_PTE_W | C_PTE_U, %eax
	and $C_PTE_NX, %esi
	or %esi, %eax
6:	or $ERR_P, %ecx
	/* The rights */
	test $K_FETCH, %edx
	jz 61f
	test $C_PTE_NX, %eax
	jnz 8f
61:	test $K_USER, %edx
	jz 62f
	test $C_PTE_U, %eax
	jz 8f
	test $K_WRITE, %edx
	jz 9f
	test $C_PTE_W, %eax
	jz 8f
	jmp 9f
62:	test $C_PTE_U, %eax
	jz 64f
	test $K_FETCH, %edx
	jz 63f
	test $C_SMEP, %ebx
	jnz 8f
	jmp 9f
63:	test $C_SMAP, %ebx
	jz 64f
	test $C_AC, %ebx
	jz 8f
64:	test $K_WRITE, %edx
	jz 9f
	test $C_PTE_W, %eax
	jnz 9f
	test $C_WP, %ebx
	jnz 8f
	jmp 9f
7:	or $ERR_P | ERR_RSVD, %ecx
8:	mov %ecx, walk_want
	ret
9:	movl $NONE, walk_want
	ret

/* The access. */
N(walk_access):
	movl $MAGIC, WALK_FRAME
	testl $K_FETCH, walk_kind
	jz 1f
	/* RET at level 0, INT $USER_EXIT at level 3 */
	movl $0xc3, WALK_FRAME
	testl $K_USER, walk_kind
	jz 1f
	movl $0x80cd, WALK_FRAME
1:	mov $2, %eax
	test $C_AC, %ebx
	jz 2f
	or $FL_AC, %eax
2:	mov %eax, user_flags
	testl $K_USER, walk_kind
	jnz 6f
	mov walk_page, R(cx)
	try_at 5f
	push user_flags
	FLAGS_POP
	testl $K_FETCH, walk_kind
	jnz 4f
	testl $K_WRITE, walk_kind
	jnz 3f
	mov (R(cx)), %eax
	jmp 5f
3:	movl $MAGIC_WRITTEN, (R(cx))
	jmp 5f
4:	call *R(cx)
5:	push $2
	FLAGS_POP
	ret
6:	mov walk_page, R(bx)
	mov $MAGIC_WRITTEN, %ecx
	mov walk_stub, R(ax)
	testl $K_FETCH, walk_kind
	jz 7f
	add $STUB_FETCH, R(ax)
7:	testl $K_WRITE, walk_kind
	jz 8f
	add $STUB_WRITE, R(ax)
8:	call N(walk_user)
	cmpl $USER_EXIT, fault_vector
	jne 9f
	movl $NONE, fault_vector
9:	ret

/* Compares. */
N(walk_check):
	mov walk_combo, %ebx
	mov %ebx, fail_got
	cmpl $NONE, walk_want
	je 1f
	/* A fault */
	cmpl $PF, fault_vector
	must_here(e)
	mov walk_want, %eax
	cmp %eax, fault_error
	must_here(e)
	mov walk_page, R(ax)
	cmp R(ax), fault_cr2
	must_here(e)
	mov walk_pde, %edi
	mov (R(di)), %eax
	and $~PTE_A, %eax
	cmp %eax, walk_entry
	must_here(e)
	mov walk_pte, %edi
	mov (R(di)), %eax
	and $~PTE_A, %eax
	cmp %eax, walk_entry + 8
	must_here(e)
	testl $K_WRITE, walk_kind
	jz 9f
	cmpl $MAGIC, WALK_FRAME
	must_here(e)
	ret
1:	cmpl $NONE, fault_vector
	must_here(e)
	/* The accessed and dirty bits, and nothing else */
	mov walk_entry, %eax
	mov walk_entry + 8, %edx
	test $C_PDE_PS, %ebx
	jnz 3f
	or $PTE_A, %eax
	or $PTE_A, %edx
	testl $K_WRITE, walk_kind
	jz 5f
	or $PTE_D, %edx
	jmp 5f
3:	or $PTE_A, %eax
	testl $K_WRITE, walk_kind
	jz 5f
	or $PTE_D, %eax
5:	mov walk_pde, %edi
	cmp %eax, (R(di))
	must_here(e)
	mov walk_pte, %edi
	cmp %edx, (R(di))
	must_here(e)
	mov $MAGIC_WRITTEN, %eax
	testl $K_WRITE, walk_kind
	jz 9f
	cmp %eax, WALK_FRAME
	must_here(e)
9:	ret
