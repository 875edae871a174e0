/*
 * Page walks of every kind: 32-bit, PAE, 4 and 5 levels; see walk.h.
 */
#include "guest.h"
#define WALK_DATA
#define N(name) name##32
#define R(name) %e##name
#define FLAGS_POP popf
#include "walk.h"
#undef WALK_DATA
#undef N
#undef R
#undef FLAGS_POP
	bits 64
#define N(name) name##64
#define R(name) %r##name
#define FLAGS_POP popfq
#include "walk.h"
	bits 32

	.set walk_user32, user_call
	.set walk_user64, user_call64
	.set PD32, PD	/* the tables of long mode serve the others */
	.set GIB, 0x40000000

.macro WALKS name
	WALK "\name: read at level 0", K_READ
	WALK "\name: write at level 0", K_WRITE
	WALK "\name: fetch at level 0", K_FETCH
	WALK "\name: read at level 3", K_READ + K_USER
	WALK "\name: write at level 3", K_WRITE + K_USER
	WALK "\name: fetch at level 3", K_FETCH + K_USER
.endm

	.text
	.globl guest_main
guest_main:
	call walk_init
	movl $0, long_user

	/* --- 32-bit paging: 4 MiB pages to themselves, the page's table at 1 GiB, the stub's
	 * after it --- */
	movl $GIB + WALK_OFFSET, walk_page
	movl $GIB + 0x400000, walk_stub
	movl $PD32 + 256 * 4, walk_pde
	movl $PT_WALK + 5 * 4, walk_pte
	movl $0, walk_wide
	movl $C_PTE_NX | C_PTE_RSVD | C_PDE_NX | C_NXE, walk_never
	mov $PD32, %edi
	mov $PTE_P | PTE_W | PTE_PS, %eax
1:	mov %eax, (%edi)
	add $4, %edi
	add $0x400000, %eax
	jnc 1b
	movl $PT_STUB + 7, PD32 + 257 * 4
	movl $STUB + 5, PT_STUB
	mov %cr4, %eax
	or $CR4_PSE, %eax
	mov %eax, %cr4
	mov $PD32, %eax
	mov %eax, %cr3
	mov %cr0, %eax
	or $CR0_PG, %eax
	mov %eax, %cr0
	WALKS "32-bit"
	CASE "32-bit: a 4 MiB page above 4 GiB is another one"
	/* PSE-36: bits 20 to 13 are the address's 39 to 32. Nothing is there. */
	movl $0x1234, WALK_LARGE
	movl $WALK_LARGE | (1 << 13) | PTE_PS | PTE_W | PTE_P, PD32 + 256 * 4
	invlpg GIB
	mov GIB, %eax
	cmp $0x1234, %eax
	must(ne)
	END
	CASE "32-bit: PS is ignored without CR4.PSE"
	movl $WALK_FRAME | 3, PT_WALK + 5 * 4
	movl $PT_WALK | PTE_PS | 7, PD32 + 256 * 4
	movl $0x4711, WALK_FRAME
	/* All 4 MiB pages become tables then: the ones in use must be tables, too. */
	mov $0x20c000, %edi	/* a table that maps the first 4 MiB */
	mov $3, %eax
1:	mov %eax, (%edi)
	add $4, %edi
	add $0x1000, %eax
	cmp $0x400003, %eax
	jne 1b
	movl $0x20c003, PD32
	mov %cr3, %eax
	mov %eax, %cr3
	mov %cr4, %ebx
	and $~CR4_PSE, %ebx
	mov %ebx, %cr4
	mov GIB + WALK_OFFSET, %ecx
	or $CR4_PSE, %ebx
	mov %ebx, %cr4
	movl $PTE_P | PTE_W | PTE_PS, PD32
	mov %cr3, %eax
	mov %eax, %cr3
	must_eq($0x4711, %ecx)
	END
	mov %cr0, %eax
	and $~(CR0_PG | CR0_WP), %eax
	mov %eax, %cr0

	/* --- PAE: 2 MiB pages --- */
	movl $GIB + 0x200000, walk_stub
	movl $PD + 0x1000, walk_pde
	movl $PT_WALK + 5 * 8, walk_pte
	movl $1, walk_wide
	movl $0, walk_never
	call reserved_bits
	mov $PDPT, %edi
	mov $8, %ecx
	xor %eax, %eax
	rep stosl
	movl $PD + 0x0001, PDPT
	movl $PD + 0x1001, PDPT + 8
	movl $PD + 0x2001, PDPT + 16
	movl $PD + 0x3001, PDPT + 24
	mov $PD, %edi
	mov $PTE_P | PTE_W | PTE_PS, %eax
1:	mov %eax, (%edi)
	movl $0, 4(%edi)
	add $8, %edi
	add $0x200000, %eax
	jnc 1b
	mov $PT_STUB, %edi
	mov $1024, %ecx
	xor %eax, %eax
	rep stosl
	mov $PT_WALK, %edi
	mov $1024, %ecx
	rep stosl
	movl $PT_STUB + 7, PD + 0x1008
	movl $STUB + 5, PT_STUB
	mov %cr4, %eax
	and $~CR4_PSE, %eax
	or $CR4_PAE, %eax
	mov %eax, %cr4
	mov $PDPT, %eax
	mov %eax, %cr3
	mov %cr0, %eax
	or $CR0_PG, %eax
	mov %eax, %cr0
	WALKS "PAE"
	CASE "PAE: a page above 4 GiB"
	movl $PT_WALK + 7, PD + 0x1000
	movl $0, PD + 0x1004
	movl $3, PT_WALK + 5 * 8
	movl $0x30, PT_WALK + 5 * 8 + 4	/* 192 GiB: nothing is there, reads are all ones */
	invlpg GIB + WALK_OFFSET
	mov GIB + WALK_OFFSET, %eax
	must_eq($-1, %eax)
	END
	CASE "PAE: a PDPTE changed in memory counts from the next MOV to CR3"
	movl $WALK_FRAME | 3, PT_WALK + 5 * 8
	movl $0, PT_WALK + 5 * 8 + 4
	movl $0x4712, WALK_FRAME
	mov %cr3, %eax
	mov %eax, %cr3
	mov GIB + WALK_OFFSET, %ebx
	must_eq($0x4712, %ebx)
	movl $0, PDPT + 8
	invlpg GIB + WALK_OFFSET
	mov GIB + WALK_OFFSET, %ebx
	must_eq($0x4712, %ebx)
	mov %cr3, %eax
	mov %eax, %cr3
	try(1f)
	mov GIB + WALK_OFFSET, %ebx
1:	must_fault(PF, 0)
	must_eq($GIB + WALK_OFFSET, fault_cr2)
	movl $PD + 0x1001, PDPT + 8
	mov %cr3, %eax
	mov %eax, %cr3
	END
	mov %cr0, %eax
	and $~(CR0_PG | CR0_WP), %eax
	mov %eax, %cr0
	mov %cr4, %eax
	and $~(CR4_PAE | CR4_SMEP | CR4_SMAP), %eax
	mov %eax, %cr4

	/* --- 4 and 5 levels: PD_TEST maps VIRT --- */
	call tables_long
	bits 64
	WALKS "4-level"
	call long_leave
	bits 32
	mov $7, %eax
	xor %ecx, %ecx
	cpuid
	bt $16, %ecx
	jnc 1f
	movl $PML5, long_root
	movl $CR4_LA57, long_cr4
1:	call tables_long
	bits 64
	WALKS "5-level"
	call long_leave
	bits 32
	ret

/* Enters 64-bit mode with the page at VIRT + 2 MiB, the stub at VIRT. */
tables_long:
	call long_enter
	bits 64
	movl $VIRT >> 32, walk_page + 4
	movl $0x200000 + WALK_OFFSET, walk_page
	movl $VIRT >> 32, walk_stub + 4
	movl $0, walk_stub
	movl $PD_TEST + 8, walk_pde
	movl $STUB + 5, PT_TEST
	mov $PT_WALK, %edi
	mov $512, %ecx
	xor %eax, %eax
	rep stosq
	mov (%rsp), %eax
	add $4, %rsp
	jmp *%rax
	bits 32

/* Leaves out reserved address bits where MAXPHYADDR leaves none. */
reserved_bits:
	mov $0x80000008, %eax
	cpuid
	cmp $52, %al
	jb 1f
	orl $C_PTE_RSVD, walk_never
1:	ret
