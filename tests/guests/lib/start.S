/*
 * The multiboot header, the entry, what all modes share, and the end.
 */
#include "guest.h"

	.section .multiboot, "a"
	.balign 4
	.long 0x1badb002, 0, -0x1badb002

	.text
	.globl _start
_start:
	cli
	cld
	mov $stack_top, %esp
	/* The low part goes to its place. */
	mov $low_image, %esi
	mov $0x8000, %edi
	mov $low_size, %ecx
	rep movsb
	mov %ebx, boot_info
	/* Nobody interrupts; a firmware may have left the controllers open. */
	mov $0xff, %al
	out %al, $0x21
	out %al, $0xa1
	mov %cr0, %eax
	and $~(CR0_EM | CR0_TS), %eax
	or $CR0_NE | CR0_MP, %eax
	mov %eax, %cr0
	mov $CR4_OSFXSR | CR4_OSXMMEXCPT, %eax
	mov %eax, %cr4
	fninit
	call prot_init
	call guest_main

	.globl guest_exit
guest_exit:
	mov $text_done, %esi
	call print32
	mov $EXIT_OK, %eax
	cmpl $0, failures
	je 1f
	mov $EXIT_FAIL, %eax
1:	out %eax, $DEBUG_EXIT
	cli
1:	hlt
	jmp 1b

	.code32
#define N(name) name##32
#define R(name) %e##name
#define WORD 4
	.globl print32, putc32, print_hex32
#include "lib/console.h"
#undef N
#undef R
#undef WORD

	.code64
#define N(name) name##64
#define R(name) %r##name
#define WORD 8
	.globl print64, putc64, print_hex64
#include "lib/console.h"
	.code32

	.section .rodata
text_ok:	.asciz "ok "
text_fail:	.asciz "FAIL "
text_skip:	.asciz "skip "
text_line:	.asciz ": line "
text_got:	.asciz " got "
text_vector:	.asciz " vector "
text_error:	.asciz " error "
text_cs:	.asciz " cs "
text_ip:	.asciz " ip "
text_cr2:	.asciz " cr2 "
text_end:	.asciz "\r\n"
text_done:	.asciz "done\r\n"

	.section .low, "awx"
	.balign 8
	.globl boot_info
boot_info: .long 0	/* the multiboot information */
	.globl case_sp, case_name, case_end, case_done, failures, fail_line, fail_got
	.globl resume, resume_sp
case_sp:	.quad 0
resume:		.quad 0
resume_sp:	.quad 0
case_name:	.long 0
case_end:	.long 0
case_done:	.long 0	/* a line was printed */
failures:	.long 0
fail_line:	.long 0
fail_got:	.long 0

	/* The last exception or interrupt. */
	.globl fault_vector, fault_error, fault_cr2, fault_ip, fault_cs, fault_flags
	.globl fault_sp, fault_ss, fault_frame, fault_regs, fault_segs
	.balign 8
fault_cr2:	.quad 0
fault_ip:	.quad 0
fault_flags:	.quad 0
fault_sp:	.quad 0	/* before the exception */
fault_frame:	.quad 0	/* where the saved IP lies */
fault_regs:	.fill 16, 8, 0 /* in the order of their numbers, without the stack pointer */
fault_vector:	.long 0
fault_error:	.long 0	/* NOERR if the vector has none */
fault_cs:	.long 0
fault_ss:	.long 0
fault_segs:	.long 0, 0, 0, 0 /* DS, ES, FS, GS */

	/* A routine to call for a vector, at a frame in EBP (RBP); it is then returned from. */
	.globl hooks
	.balign 4
hooks:	.fill 256, 4, 0

	.globl gdt, gdtr
	.balign 8
gdt:
	.quad 0
	descriptor 0, 0xfffff, 0x9b, FLAGS_32G		/* KCODE */
	descriptor 0, 0xfffff, 0x93, FLAGS_32G		/* KDATA */
	descriptor 0, 0xfffff, 0xfb, FLAGS_32G		/* UCODE */
	descriptor 0, 0xfffff, 0xf3, FLAGS_32G		/* UDATA */
	descriptor 0, 0xfffff, 0xfb, 0xa		/* UCODE64 */
	descriptor 0, 0xfffff, 0x9b, 0xa		/* KCODE64 */
	descriptor 0, 0xfffff, 0x93, FLAGS_32G		/* KDATA64 */
	descriptor 0, 0xffff, 0x9b, FLAGS_16		/* CODE16 */
	descriptor 0, 0xffff, 0x93, FLAGS_16		/* DATA16 */
	.fill GDT_SIZE - (. - gdt), 1, 0
gdtr:	.word GDT_SIZE - 1
	.long gdt, 0

	.bss
	.balign 16
	.skip 0x4000
	.globl stack_top, ring0_top, ist_top
stack_top:	/* of guest_main */
	.skip 0x2000
ring0_top:	/* for what comes from outer levels */
	.skip 0x2000
ist_top:	/* for 64-bit guests that use it */
