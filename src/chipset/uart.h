/*
 * The serial port: a National Semiconductor PC16550D (data sheet, June 1995), an NS16550A with
 * FIFOs that work, wired as in a PC: OUT2 gates the interrupt, clock 1.8432 MHz.
 */
#ifndef CHIPSET_UART_H
#define CHIPSET_UART_H

#include <stdint.h>

struct chardev;
struct uart;
struct vm;

struct uart_params {
	const char *name; /* "com1"; a literal or otherwise outliving the uart */
	uint16_t base; /* of eight ports */
	uint8_t irq; /* shared with other uarts */
	struct chardev *chardev; /* the caller's, outlives the uart; NULL: nothing attached */
};

/* Where a PC has its serial ports; chardev is NULL. */
#define UART_COM_COUNT 4
extern const struct uart_params uart_com[UART_COM_COUNT];

/* Main thread. Claims the ports and attaches to the chardev. 0 or -errno. */
int uart_create(struct vm *vm, const struct uart_params *params, struct uart **out);
/* Main thread, the loop not running; before the chardev is closed. NULL is fine. */
void uart_destroy(struct uart *u);

#endif
