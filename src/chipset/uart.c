/*
 * PC16550D. Section and table numbers are those of National's data sheet of June 1995.
 *
 * Where it differs from a chip on a wire, and why:
 *
 * Output takes no time. THR and its FIFO are empty again at once, unless the host takes no more;
 * then they fill, and THRE says so, until the host goes on. A host that takes nothing for a second
 * counts as a line with nobody at its end: characters are lost, and the guest is not held up.
 *
 * So that a guest that loops in its interrupt handler "until there is no more to do" gets out of
 * it, the THRE interrupt does not always follow the character at once: see uart_thre_due().
 *
 * Input waits in the host until the guest listens: until it enables the received-data interrupt or
 * evidently polls. Drivers clear the FIFO when they start, and what was typed or piped in before
 * would be lost. While the guest listens, characters never overrun: they wait for space.
 *
 * For the same reason characters that are cleared from the receive FIFO unread go back to the line
 * unless the guest meant to drop them: see uart_rx_clear().
 */
#include "chipset/uart.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/log.h"
#include "chardev/chardev.h"
#include "vm/bus.h"
#include "vm/irq.h"
#include "vm/loop.h"
#include "vm/state.h"

/* Registers (table 2) */
#define UART_RBR 0 /* receive buffer, read, DLAB 0 */
#define UART_THR 0 /* transmit holding, write, DLAB 0 */
#define UART_DLL 0 /* divisor latch low, DLAB 1 */
#define UART_DLM 1 /* divisor latch high, DLAB 1 */

#define UART_IER 1 /* 8.7 interrupt enable, DLAB 0 */
#define UART_IER_ERBFI BIT(0) /* received data, and FIFO timeout */
#define UART_IER_ETBEI BIT(1) /* THR empty */
#define UART_IER_ELSI BIT(2) /* line status */
#define UART_IER_EDSSI BIT(3) /* modem status */
#define UART_IER_MASK 0x0f

#define UART_IIR 2 /* 8.6 interrupt identification, read */
#define UART_IIR_NONE 0x01
#define UART_IIR_MODEM 0x00
#define UART_IIR_THRE 0x02
#define UART_IIR_DATA 0x04
#define UART_IIR_LINE 0x06
#define UART_IIR_TIMEOUT 0x0c
#define UART_IIR_FIFO 0xc0 /* the FIFOs are enabled */

#define UART_FCR 2 /* 8.5 FIFO control, write */
#define UART_FCR_ENABLE BIT(0)
#define UART_FCR_CLEAR_RX BIT(1)
#define UART_FCR_CLEAR_TX BIT(2)
#define UART_FCR_TRIGGER(v) BITS(v, 6, 2)

#define UART_LCR 3 /* 8.1 line control */
#define UART_LCR_WLS(v) BITS(v, 0, 2) /* 5 + n bits a character */
#define UART_LCR_STB BIT(2)
#define UART_LCR_PEN BIT(3)
#define UART_LCR_DLAB BIT(7)

#define UART_MCR 4 /* 8.8 modem control */
#define UART_MCR_DTR BIT(0)
#define UART_MCR_RTS BIT(1)
#define UART_MCR_OUT1 BIT(2)
#define UART_MCR_OUT2 BIT(3)
#define UART_MCR_LOOP BIT(4)
#define UART_MCR_MASK 0x1f

#define UART_LSR 5 /* 8.4 line status */
#define UART_LSR_DR BIT(0)
#define UART_LSR_OE BIT(1)
#define UART_LSR_ERRORS 0x1e /* OE, PE, FE, BI: what the line status interrupt is for */
#define UART_LSR_THRE BIT(5)
#define UART_LSR_TEMT BIT(6)

#define UART_MSR 6 /* 8.9 modem status */
#define UART_MSR_DCTS BIT(0)
#define UART_MSR_DDSR BIT(1)
#define UART_MSR_TERI BIT(2)
#define UART_MSR_DDCD BIT(3)
#define UART_MSR_CTS BIT(4)
#define UART_MSR_DSR BIT(5)
#define UART_MSR_RI BIT(6)
#define UART_MSR_DCD BIT(7)
#define UART_MSR_DELTAS 0x0f

#define UART_SCR 7 /* 8.10 scratch */

#define UART_FIFO_SIZE 16u
#define UART_LINE_SIZE 256u /* characters under way to the receiver */
#define UART_LINE_ROOM (UART_LINE_SIZE - UART_FIFO_SIZE) /* that come in; the rest may go back */
#define UART_CLOCK_HZ 1843200u

/* Reads of LSR, the transmitter empty and nothing in between, after which the guest evidently polls
 * for input: a driver that waits to transmit stops at the first. */
#define UART_POLLS 8
/* How long the THRE interrupt may wait for the guest to come and look. */
#define UART_THRE_NS 200000ull
/* THRE interrupts found in IIR by a handler that does not leave. Linux complains after 512. */
#define UART_THRE_BURST 64
/* A host that takes no output for this long is not there. */
#define UART_STALL_NS 1000000000ull
/* The longest wait for a FIFO timeout: a guest may set 2 baud. */
#define UART_TIMEOUT_MAX_NS 10000000ull

struct uart {
	struct vm *vm;
	struct uart_params params;
	struct vm_range range;
	struct vm_timer *rx_timer; /* FIFO timeout */
	struct vm_timer *tx_timer; /* THRE interrupt that is due, or a stalled host */

	pthread_mutex_t lock; /* everything below */
	uint8_t ier, fcr, lcr, mcr, msr, scr, dll, dlm;
	uint8_t lsr; /* the error bits; the others follow from the FIFOs */
	uint8_t rx[UART_FIFO_SIZE]; /* rx[0] is next in RBR */
	uint8_t rx_count;
	bool rx_looped; /* what is in rx was sent by the guest itself */
	bool rx_timeout; /* characters sit in the FIFO below its trigger level */
	uint8_t tx[UART_FIFO_SIZE]; /* what the host did not take yet */
	uint8_t tx_count;
	bool tx_stalled; /* the host has not taken anything for long: characters are lost */
	bool thre_pending; /* the THRE interrupt is asserted */
	bool thre_due; /* it will be when the guest looks, or the timer fires */
	uint8_t thre_burst;
	uint8_t polls;
	uint8_t line[UART_LINE_SIZE]; /* line[line_head] is next */
	uint16_t line_head, line_count;
};

const struct uart_params uart_com[UART_COM_COUNT] = {
	{ .name = "com1", .base = 0x3f8, .irq = 4 },
	{ .name = "com2", .base = 0x2f8, .irq = 3 },
	{ .name = "com3", .base = 0x3e8, .irq = 4 },
	{ .name = "com4", .base = 0x2e8, .irq = 3 },
};

/* --- Interrupts --- */

static uint8_t
uart_fifo_size(const struct uart *u)
{
	return (u->fcr & UART_FCR_ENABLE) != 0 ? UART_FIFO_SIZE : 1;
}

/* Characters that raise the received-data interrupt (8.5, bits 6 and 7). */
static uint8_t
uart_rx_trigger(const struct uart *u)
{
	static const uint8_t levels[] = { 1, 4, 8, 14 };

	return (u->fcr & UART_FCR_ENABLE) != 0 ? levels[UART_FCR_TRIGGER(u->fcr)] : 1;
}

/* The highest-priority source that is enabled and asserted (table 4). */
static uint8_t
uart_source(const struct uart *u)
{
	if ((u->ier & UART_IER_ELSI) != 0 && (u->lsr & UART_LSR_ERRORS) != 0)
		return UART_IIR_LINE;
	if ((u->ier & UART_IER_ERBFI) != 0 && u->rx_count >= uart_rx_trigger(u))
		return UART_IIR_DATA;
	if ((u->ier & UART_IER_ERBFI) != 0 && u->rx_timeout)
		return UART_IIR_TIMEOUT;
	if ((u->ier & UART_IER_ETBEI) != 0 && u->thre_pending)
		return UART_IIR_THRE;
	if ((u->ier & UART_IER_EDSSI) != 0 && (u->msr & UART_MSR_DELTAS) != 0)
		return UART_IIR_MODEM;
	return UART_IIR_NONE;
}

/* In loop mode OUT2's pin is inactive (8.8), and with it the PC's gate. */
static void
uart_irq_update(struct uart *u)
{
	bool gate = (u->mcr & (UART_MCR_OUT2 | UART_MCR_LOOP)) == UART_MCR_OUT2;

	vm_irq_set(u->vm, u->params.irq, gate && uart_source(u) != UART_IIR_NONE, u);
}

/* --- Receiver --- */

/* Four character times (8.5, FIFO interrupt mode). */
static uint64_t
uart_timeout_ns(const struct uart *u)
{
	uint64_t divisor = MAX(u->dll | u->dlm << 8, 1);
	uint64_t bits = 2 + 5 + UART_LCR_WLS(u->lcr) + ((u->lcr & UART_LCR_STB) != 0) +
	    ((u->lcr & UART_LCR_PEN) != 0);

	return MIN(4 * bits * divisor * 16 * 1000000000 / UART_CLOCK_HZ, UART_TIMEOUT_MAX_NS);
}

/* A character came or was read: the timeout starts anew. */
static void
uart_rx_timeout_restart(struct uart *u)
{
	bool wanted = (u->fcr & UART_FCR_ENABLE) != 0 && u->rx_count > 0;

	u->rx_timeout = false;
	u->rx_looped = u->rx_looped && u->rx_count > 0;
	if (wanted && u->rx_count < uart_rx_trigger(u))
		vm_timer_arm(u->rx_timer, vm_clock_ns(vm_loop(u->vm)) + uart_timeout_ns(u));
	else if (vm_timer_armed(u->rx_timer))
		vm_timer_cancel(u->rx_timer);
}

static bool
uart_listening(const struct uart *u)
{
	return (u->ier & UART_IER_ERBFI) != 0 || u->polls >= UART_POLLS;
}

/* Moves characters from the line into the FIFO. */
static void
uart_receive(struct uart *u)
{
	bool came = false;

	if (!uart_listening(u) || (u->mcr & UART_MCR_LOOP) != 0)
		return;
	while (u->line_count > 0 && u->rx_count < uart_fifo_size(u)) {
		u->rx[u->rx_count++] = u->line[u->line_head];
		u->line_head = (u->line_head + 1) % UART_LINE_SIZE;
		u->line_count--;
		came = true;
	}
	if (came)
		uart_rx_timeout_restart(u);
	if (u->line_count == 0)
		chardev_resume(u->params.chardev);
}

static uint8_t
uart_rbr_read(struct uart *u)
{
	uint8_t val = u->rx[0];

	/* Empty: the last character is still there. */
	if (u->rx_count == 0)
		return val;
	u->rx_count--;
	memmove(u->rx, u->rx + 1, u->rx_count);
	uart_receive(u);
	uart_rx_timeout_restart(u);
	uart_irq_update(u);
	return val;
}

static void
uart_on_rx_timer(void *arg)
{
	struct uart *u = arg;

	pthread_mutex_lock(&u->lock);
	u->rx_timeout = u->rx_count > 0;
	uart_irq_update(u);
	pthread_mutex_unlock(&u->lock);
}

static size_t
uart_chardev_room(void *ctx)
{
	struct uart *u = ctx;
	size_t room = 0;

	pthread_mutex_lock(&u->lock);
	if (uart_listening(u) && u->line_count < UART_LINE_ROOM)
		room = UART_LINE_ROOM - u->line_count;
	pthread_mutex_unlock(&u->lock);
	return room;
}

static void
uart_chardev_input(void *ctx, const uint8_t *buf, size_t len)
{
	struct uart *u = ctx;

	pthread_mutex_lock(&u->lock);
	for (size_t i = 0; i < len && u->line_count < UART_LINE_SIZE; i++)
		u->line[(u->line_head + u->line_count++) % UART_LINE_SIZE] = buf[i];
	uart_receive(u);
	uart_irq_update(u);
	pthread_mutex_unlock(&u->lock);
}

/* --- Transmitter --- */

/*
 * THR became empty. On a wire that is a character time after it was filled, and a handler that
 * loops until IIR says "none" leaves long before. Here it would find THRE each time and never
 * leave, and an edge would be latched besides for an interrupt with nothing in it. So the interrupt
 * is only due: a guest that looks into IIR finds it, a limited number of times in a row, and one
 * that does not look is interrupted a moment later.
 */
static void
uart_thre_due(struct uart *u)
{
	u->thre_due = true;
	if ((u->ier & UART_IER_ETBEI) != 0 && !vm_timer_armed(u->tx_timer))
		vm_timer_arm(u->tx_timer, vm_clock_ns(vm_loop(u->vm)) + UART_THRE_NS);
}

static void
uart_thre_assert(struct uart *u)
{
	u->thre_due = false;
	u->thre_pending = true;
	uart_irq_update(u);
}

/* The receiver gets what the transmitter sends (8.8, bit 4). */
static void
uart_loop_back(struct uart *u, uint8_t val)
{
	u->rx_looped = true;
	if (u->rx_count < uart_fifo_size(u)) {
		u->rx[u->rx_count++] = val;
	} else {
		u->lsr |= UART_LSR_OE;
		/* Without FIFO it replaces the old character, with FIFO it is lost (8.4). */
		if ((u->fcr & UART_FCR_ENABLE) == 0)
			u->rx[0] = val;
	}
	uart_rx_timeout_restart(u);
}

/* Hands the FIFO to the host; what it does not take stays. */
static void
uart_transmit(struct uart *u)
{
	size_t n = u->tx_count;

	if (n == 0)
		return;
	n = chardev_write(u->params.chardev, u->tx, n);
	if (n == 0 && u->tx_stalled)
		n = u->tx_count;
	else if (n > 0)
		u->tx_stalled = false;
	u->tx_count -= (uint8_t)n;
	memmove(u->tx, u->tx + n, u->tx_count);
	if (u->tx_count == 0)
		uart_thre_due(u);
	else
		vm_timer_arm(u->tx_timer, vm_clock_ns(vm_loop(u->vm)) + UART_STALL_NS);
}

static void
uart_thr_write(struct uart *u, uint8_t val)
{
	u->thre_pending = false;
	u->thre_due = false;
	if ((u->mcr & UART_MCR_LOOP) != 0) {
		uart_loop_back(u, val);
		uart_thre_due(u);
	} else if (u->tx_count > 0) {
		/* The host is behind. A guest that ignores THRE loses characters (8.4, bit 5). */
		if (u->tx_count < uart_fifo_size(u))
			u->tx[u->tx_count++] = val;
	} else {
		u->tx[u->tx_count++] = val;
		uart_transmit(u);
	}
	uart_irq_update(u);
}

static void
uart_on_tx_timer(void *arg)
{
	struct uart *u = arg;
	uint8_t waiting;

	pthread_mutex_lock(&u->lock);
	/* A slow host may have taken some meanwhile without having said so yet. */
	waiting = u->tx_count;
	uart_transmit(u);
	if (waiting > 0 && u->tx_count == waiting) {
		u->tx_stalled = true;
		log_guest(u->params.name, "output is lost: nobody takes it");
		uart_transmit(u);
	}
	u->thre_burst = 0;
	if (u->thre_due)
		uart_thre_assert(u);
	pthread_mutex_unlock(&u->lock);
}

static void
uart_chardev_writable(void *ctx)
{
	struct uart *u = ctx;

	pthread_mutex_lock(&u->lock);
	u->tx_stalled = false;
	if (u->tx_count > 0) {
		uart_transmit(u);
		if (u->tx_count == 0) {
			vm_timer_cancel(u->tx_timer);
			uart_thre_assert(u);
		}
	}
	pthread_mutex_unlock(&u->lock);
}

/* --- Modem --- */

/* The modem inputs: in loop mode our own outputs (8.8), else a peer that is always ready. */
static uint8_t
uart_modem_inputs(const struct uart *u)
{
	uint8_t in = 0;

	if ((u->mcr & UART_MCR_LOOP) == 0)
		return UART_MSR_CTS | UART_MSR_DSR | UART_MSR_DCD;
	if ((u->mcr & UART_MCR_RTS) != 0)
		in |= UART_MSR_CTS;
	if ((u->mcr & UART_MCR_DTR) != 0)
		in |= UART_MSR_DSR;
	if ((u->mcr & UART_MCR_OUT1) != 0)
		in |= UART_MSR_RI;
	if ((u->mcr & UART_MCR_OUT2) != 0)
		in |= UART_MSR_DCD;
	return in;
}

static void
uart_modem_update(struct uart *u)
{
	uint8_t in = uart_modem_inputs(u);
	uint8_t changed = (u->msr ^ in) & ~UART_MSR_DELTAS;

	u->msr = in | (u->msr & UART_MSR_DELTAS);
	if ((changed & UART_MSR_CTS) != 0)
		u->msr |= UART_MSR_DCTS;
	if ((changed & UART_MSR_DSR) != 0)
		u->msr |= UART_MSR_DDSR;
	/* Only the trailing edge of RI counts (8.9, bit 2). */
	if ((changed & UART_MSR_RI) != 0 && (in & UART_MSR_RI) == 0)
		u->msr |= UART_MSR_TERI;
	if ((changed & UART_MSR_DCD) != 0)
		u->msr |= UART_MSR_DDCD;
}

/* --- Registers --- */

static void
uart_ier_write(struct uart *u, uint8_t val)
{
	bool etbei = (val & ~u->ier & UART_IER_ETBEI) != 0;

	u->ier = val & UART_IER_MASK;
	u->polls = 0;
	uart_receive(u);
	/* Enabled with THR empty, the interrupt comes at once: drivers test for this, and start
	 * transmission by it. */
	if (etbei && u->tx_count == 0)
		uart_thre_assert(u);
	uart_irq_update(u);
}

/* The line's next characters are again those in the FIFO. */
static void
uart_rx_return(struct uart *u)
{
	while (u->rx_count > 0 && u->line_count < UART_LINE_SIZE) {
		u->line_head = (u->line_head + UART_LINE_SIZE - 1) % UART_LINE_SIZE;
		u->line[u->line_head] = u->rx[--u->rx_count];
		u->line_count++;
	}
}

/*
 * What a driver drops on purpose, by clearing the FIFO while it listens, is dropped. But Linux
 * enables interrupts when it opens the port and sets the line's mode after that, with it the FIFO;
 * and it clears the FIFO when it is done with the port. At a wire's speed few characters come in
 * between; from here a whole line does, and its first character was lost. That these come a moment
 * later than they might have is nothing a guest could object to.
 */
static void
uart_rx_clear(struct uart *u, bool drop)
{
	if (!drop && !u->rx_looped)
		uart_rx_return(u);
	u->rx_count = 0;
	uart_rx_timeout_restart(u);
}

static void
uart_tx_clear(struct uart *u)
{
	if (u->tx_count == 0)
		return;
	u->tx_count = 0;
	vm_timer_cancel(u->tx_timer);
	uart_thre_due(u);
}

static void
uart_fcr_write(struct uart *u, uint8_t val)
{
	/* Changing the mode clears both FIFOs; other bits count only with bit 0 set (8.5). */
	bool toggled = ((val ^ u->fcr) & UART_FCR_ENABLE) != 0;
	bool on = (val & UART_FCR_ENABLE) != 0;
	bool drop = !toggled && uart_listening(u);

	u->fcr = on ? val & ~(UART_FCR_CLEAR_RX | UART_FCR_CLEAR_TX) : 0;
	u->polls = 0;
	if (toggled || (on && (val & UART_FCR_CLEAR_RX) != 0))
		uart_rx_clear(u, drop);
	if (toggled || (on && (val & UART_FCR_CLEAR_TX) != 0))
		uart_tx_clear(u);
	uart_receive(u);
	uart_irq_update(u);
}

static void
uart_mcr_write(struct uart *u, uint8_t val)
{
	u->mcr = val & UART_MCR_MASK;
	uart_modem_update(u);
	uart_receive(u);
	uart_irq_update(u);
}

static uint8_t
uart_iir_read(struct uart *u)
{
	uint8_t source;

	if (u->thre_due && u->thre_burst < UART_THRE_BURST && (u->ier & UART_IER_ETBEI) != 0) {
		u->thre_burst++;
		u->thre_due = false;
		u->thre_pending = true;
	}
	source = uart_source(u);
	if (source == UART_IIR_THRE)
		u->thre_pending = false;
	else if (source == UART_IIR_NONE && !u->thre_due)
		u->thre_burst = 0;
	uart_irq_update(u);
	return source | ((u->fcr & UART_FCR_ENABLE) != 0 ? UART_IIR_FIFO : 0);
}

static uint8_t
uart_lsr_read(struct uart *u)
{
	uint8_t val;

	if (u->polls < UART_POLLS && u->tx_count == 0 && ++u->polls == UART_POLLS) {
		uart_receive(u);
		uart_irq_update(u);
	}
	val = u->lsr;
	if (u->rx_count > 0)
		val |= UART_LSR_DR;
	if (u->tx_count == 0)
		val |= UART_LSR_THRE | UART_LSR_TEMT;
	if (u->lsr != 0) {
		u->lsr = 0;
		uart_irq_update(u);
	}
	return val;
}

static uint8_t
uart_msr_read(struct uart *u)
{
	uint8_t val = u->msr;

	if ((val & UART_MSR_DELTAS) != 0) {
		u->msr &= ~UART_MSR_DELTAS;
		uart_irq_update(u);
	}
	return val;
}

static uint8_t
uart_reg_read(struct uart *u, uint64_t off)
{
	bool dlab = (u->lcr & UART_LCR_DLAB) != 0;

	switch (off) {
	case UART_RBR: return dlab ? u->dll : uart_rbr_read(u);
	case UART_IER: return dlab ? u->dlm : u->ier;
	case UART_IIR: return uart_iir_read(u);
	case UART_LCR: return u->lcr;
	case UART_MCR: return u->mcr;
	case UART_LSR: return uart_lsr_read(u);
	case UART_MSR: return uart_msr_read(u);
	default: return u->scr;
	}
}

static uint64_t
uart_read(void *ctx, uint64_t off, int size)
{
	struct uart *u = ctx;
	uint8_t val;

	pthread_mutex_lock(&u->lock);
	/* Once the guest polls, it goes on doing so between reading characters. */
	if (off != UART_LSR && u->polls < UART_POLLS)
		u->polls = 0;
	val = uart_reg_read(u, off);
	pthread_mutex_unlock(&u->lock);
	return val;
}

static void
uart_write(void *ctx, uint64_t off, int size, uint64_t val64)
{
	struct uart *u = ctx;
	uint8_t val = (uint8_t)val64;
	bool dlab;

	pthread_mutex_lock(&u->lock);
	if (u->polls < UART_POLLS)
		u->polls = 0;
	dlab = (u->lcr & UART_LCR_DLAB) != 0;
	switch (off) {
	case UART_THR:
		if (dlab)
			u->dll = val;
		else
			uart_thr_write(u, val);
		break;
	case UART_IER:
		if (dlab)
			u->dlm = val;
		else
			uart_ier_write(u, val);
		break;
	case UART_FCR: uart_fcr_write(u, val); break;
	case UART_LCR: u->lcr = val; break;
	case UART_MCR: uart_mcr_write(u, val); break;
	case UART_SCR: u->scr = val; break;
	default: break; /* LSR and MSR: for the factory (8.4, 8.9) */
	}
	pthread_mutex_unlock(&u->lock);
}

static const struct vm_range_ops uart_range_ops = {
	.name = "uart",
	.read = uart_read,
	.write = uart_write,
	.min_size = 1,
	.max_size = 1,
};

static const struct chardev_client uart_chardev_client = {
	.room = uart_chardev_room,
	.input = uart_chardev_input,
	.writable = uart_chardev_writable,
};

/* --- State --- */

/* What is refused must still be safe to run on. */
static void
uart_state_check(struct uart *u, struct vm_state *s)
{
	if (u->rx_count > UART_FIFO_SIZE || u->tx_count > UART_FIFO_SIZE ||
	    u->line_head >= UART_LINE_SIZE || u->line_count > UART_LINE_SIZE ||
	    (u->ier & ~UART_IER_MASK) != 0 || (u->mcr & ~UART_MCR_MASK) != 0 ||
	    (u->lsr & ~UART_LSR_ERRORS) != 0) {
		vm_state_reject(s, "uart register out of range");
		u->rx_count = u->tx_count = 0;
		u->line_head = u->line_count = 0;
		u->ier = u->mcr = u->lsr = 0;
	}
}

static int
uart_state(void *ctx, struct vm_state *s)
{
	struct uart *u = ctx;
	uint8_t *const regs[] = { &u->ier, &u->fcr, &u->lcr, &u->mcr, &u->msr, &u->scr, &u->dll,
		&u->dlm, &u->lsr, &u->rx_count, &u->tx_count, &u->thre_burst, &u->polls };
	bool *const flags[] = { &u->rx_looped, &u->rx_timeout, &u->tx_stalled, &u->thre_pending,
		&u->thre_due };

	vm_state_section(s, "uart", u->params.base, 1);
	for (size_t i = 0; i < ARRAY_SIZE(regs); i++)
		vm_state_u8(s, regs[i]);
	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		vm_state_bool(s, flags[i]);
	vm_state_bytes(s, u->rx, sizeof(u->rx));
	vm_state_bytes(s, u->tx, sizeof(u->tx));
	vm_state_bytes(s, u->line, sizeof(u->line));
	vm_state_u16(s, &u->line_head);
	vm_state_u16(s, &u->line_count);
	vm_state_timer(s, u->rx_timer);
	vm_state_timer(s, u->tx_timer);
	if (vm_state_loading(s)) {
		uart_state_check(u, s);
		uart_irq_update(u);
		chardev_resume(u->params.chardev);
	}
	return vm_state_end(s);
}

int
uart_create(struct vm *vm, const struct uart_params *params, struct uart **out)
{
	struct uart *u = calloc(1, sizeof(*u));
	int err = -ENOMEM;

	if (u == NULL)
		return -ENOMEM;
	u->vm = vm;
	u->params = *params;
	u->dll = 1;
	u->msr = uart_modem_inputs(u);
	pthread_mutex_init(&u->lock, NULL);
	u->rx_timer = vm_timer_create(vm_loop(vm), uart_on_rx_timer, u);
	u->tx_timer = vm_timer_create(vm_loop(vm), uart_on_tx_timer, u);
	if (u->rx_timer == NULL || u->tx_timer == NULL)
		goto destroy;
	u->range = (struct vm_range){
		.ops = &uart_range_ops,
		.ctx = u,
		.space = VM_PIO,
		.base = params->base,
		.size = 8,
	};
	err = vm_range_add(vm, &u->range);
	if (err == 0)
		err = vm_state_register(vm, uart_state, u);
	if (err != 0)
		goto destroy;
	chardev_attach(params->chardev, &uart_chardev_client, u);
	*out = u;
	return 0;
destroy:
	uart_destroy(u);
	return err;
}

void
uart_destroy(struct uart *u)
{
	if (u == NULL)
		return;
	if (u->range.ops != NULL)
		vm_range_remove(u->vm, &u->range);
	vm_timer_destroy(u->rx_timer);
	vm_timer_destroy(u->tx_timer);
	pthread_mutex_destroy(&u->lock);
	free(u);
}
