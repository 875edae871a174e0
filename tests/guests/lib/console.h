/*
 * Output and the begin and end of cases. Assembled once for 32-bit and once for 64-bit mode: N()
 * is a name, R() a register of full width, WORD its size.
 */

/* Prints the string at ESI. Clobbers EAX, EDX, ESI. */
N(print):
1:	movzbl (R(si)), %eax
	test %al, %al
	jz 2f
	call N(putc)
	add $1, %esi
	jmp 1b
2:	ret

/* Prints AL. Clobbers EDX. */
N(putc):
	push R(ax)
	mov $COM1 + 5, %edx
1:	in %dx, %al
	test $0x20, %al
	jz 1b
	pop R(ax)
	mov $COM1, %edx
	out %al, %dx
	ret

/* Prints EAX in base ECX. Clobbers EAX, EBX, EDX. */
N(print_number):
	xor %ebx, %ebx
1:	xor %edx, %edx
	div %ecx
	push R(dx)
	add $1, %ebx
	test %eax, %eax
	jnz 1b
2:	pop R(ax)
	cmp $10, %al
	jb 3f
	add $'a' - '0' - 10, %al
3:	add $'0', %al
	call N(putc)
	sub $1, %ebx
	jnz 2b
	ret

/* Prints the string ESI and EAX in hexadecimal. */
N(print_hex):
	push R(ax)
	call N(print)
	pop R(ax)
	mov $16, %ecx
	jmp N(print_number)

/* Prints the string ESI, the name of the case. */
N(print_name):
	call N(print)
	mov case_name, %esi
	jmp N(print)

/* EAX: name, EDX: where to go on when it fails. */
	.globl N(case_begin)
N(case_begin):
	mov %eax, case_name
	mov %edx, case_end
	lea WORD(R(sp)), R(cx)
	mov R(cx), case_sp
	movl $0, case_done
	movl $0, fail_got
N(case_clean):
	movl $N(case_unexpected), resume
	mov R(sp), resume_sp
	movl $NONE, fault_vector
	ret

	.globl N(case_finish)
N(case_finish):
	cmpl $0, case_done
	jne 1f
	mov $text_ok, %esi
	call N(print_name)
	mov $text_end, %esi
	call N(print)
	/* Whatever the case left on its stack. */
1:	pop R(dx)
	mov case_sp, R(sp)
	push R(dx)
	call N(segments)
	jmp N(case_clean)

	.globl N(case_skip)
N(case_skip):
	movl $1, case_done
	mov $text_skip, %esi
	jmp 1f

	.globl N(case_unexpected)
N(case_unexpected):
	movl $0, fail_line

	.globl N(case_fail)
N(case_fail):
	addl $1, failures
	mov $text_fail, %esi
	/* The stack may be anything: nothing is pushed before it is back. */
1:	mov $KDATA, %eax
	mov %eax, %ds
	mov %eax, %ss
	mov case_sp, R(sp)
	call N(segments)
	call N(print_name)
	cmpl $0, case_done
	jne 3f
	mov $text_line, %esi
	call N(print)
	mov fail_line, %eax
	mov $10, %ecx
	call N(print_number)
	mov $text_got, %esi
	mov fail_got, %eax
	call N(print_hex)
	cmpl $NONE, fault_vector
	je 3f
	mov $text_vector, %esi
	mov fault_vector, %eax
	call N(print_hex)
	mov $text_error, %esi
	mov fault_error, %eax
	call N(print_hex)
	mov $text_cs, %esi
	mov fault_cs, %eax
	call N(print_hex)
	mov $text_ip, %esi
	mov fault_ip, %eax
	call N(print_hex)
	mov $text_cr2, %esi
	mov fault_cr2, %eax
	call N(print_hex)
3:	mov $text_end, %esi
	call N(print)
	movl $1, case_done
	mov case_end, %eax
	jmp *R(ax)
