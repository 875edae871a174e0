/*
 * Interrupts of PCI devices: MSI and MSI-X with their masks and pending bits, pins and their
 * routing.
 */
#include "pci_test.h"

#include <pthread.h>

#define MSI_ADDR 0xfee01000u
#define COMMAND (PCI_COMMAND_IO | PCI_COMMAND_MEM | PCI_COMMAND_MASTER)

/* Registers of the MSI capability (PCI 3.0, 6.8.1) */
#define MSI_CONTROL 0x02
#define MSI_ADDR_LOW 0x04
#define MSI_ADDR_HIGH 0x08
#define MSI_DATA 0x0c
#define MSI_MASK 0x10
#define MSI_PENDING 0x14
/* And of MSI-X (6.8.2) */
#define MSIX_CONTROL 0x02
#define MSIX_ENABLE 0x8000
#define MSIX_MASK 0x4000
#define MSIX_PBA 0x1000 /* in the BAR */

static struct pci_dev *
probe(struct pci_test *t)
{
	return pci_find(t->pci, 3, 0);
}

static void
msg_init(struct pci_test *t)
{
	pci_test_init(t, "pci.0.3.0.device=probe", "pci.0.11.0.device=probe",
	    "pci.0.31.0.device=lpc", NULL);
	command_set(t, 3, COMMAND);
}

/* --- MSI --- */

/* Enables MSI with 2 to the log2 vectors. */
static unsigned
msi_enable(struct pci_test *t, unsigned log2)
{
	unsigned at = cap_find(t, 3, 0x05);

	cfg_write(t, 3, at + MSI_ADDR_LOW, 4, MSI_ADDR | 3);
	cfg_write(t, 3, at + MSI_ADDR_HIGH, 4, 0x12);
	cfg_write(t, 3, at + MSI_DATA, 4, 0xffff4042);
	cfg_write(t, 3, at + MSI_CONTROL, 2, log2 << 4 | 1);
	return at;
}

static void
test_msi(void **state)
{
	struct pci_test t;
	unsigned at;

	(void)state;
	msg_init(&t);
	at = cap_find(&t, 3, 0x05);
	/* 4 vectors, 64 bits, masks */
	assert_int_equal(cfg_read(&t, 3, at + MSI_CONTROL, 2), 0x0184);
	pci_msi_send(probe(&t), 0);
	assert_int_equal(t.messages, 0);
	assert_int_equal(pci_irq_kind(probe(&t)), PCI_IRQ_INTX);
	msi_enable(&t, 2);
	assert_int_equal(pci_irq_kind(probe(&t)), PCI_IRQ_MSI);
	pci_msi_send(probe(&t), 3);
	assert_int_equal(t.messages, 1);
	assert_int_equal(t.addr, 0x1200000000ull + MSI_ADDR);
	assert_int_equal(t.data, 0x4043);
	pci_msi_send(probe(&t), 0);
	assert_int_equal(t.data, 0x4040);
	/* The data register has 16 bits. */
	assert_int_equal(cfg_read(&t, 3, at + MSI_DATA, 4), 0x4042);
	pci_test_done(&t);
}

/* With fewer vectors than the device has, the high ones share the low ones. */
static void
test_msi_fewer_vectors(void **state)
{
	static const struct {
		unsigned log2;
		int vector;
		uint32_t data;
	} rows[] = {
		{ 0, 3, 0x4042 }, { 1, 3, 0x4043 }, { 1, 2, 0x4042 }, { 2, 2, 0x4042 },
		/* More than it asked for, and values that are reserved: it uses what it has. */
		{ 3, 3, 0x4043 }, { 5, 1, 0x4041 }, { 7, 3, 0x4043 },
	};
	struct pci_test t;

	(void)state;
	msg_init(&t);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		msi_enable(&t, rows[i].log2);
		pci_msi_send(probe(&t), rows[i].vector);
		assert_int_equal(t.messages, i + 1);
		assert_int_equal(t.data, rows[i].data);
	}
	pci_test_done(&t);
}

static void
test_msi_mask(void **state)
{
	struct pci_test t;
	unsigned at;

	(void)state;
	msg_init(&t);
	at = msi_enable(&t, 2);
	cfg_write(&t, 3, at + MSI_MASK, 4, 0xffffffff);
	assert_int_equal(cfg_read(&t, 3, at + MSI_MASK, 4), 0xf);
	pci_msi_send(probe(&t), 1);
	pci_msi_send(probe(&t), 1);
	pci_msi_send(probe(&t), 2);
	assert_int_equal(t.messages, 0);
	assert_int_equal(cfg_read(&t, 3, at + MSI_PENDING, 4), 0x6);
	cfg_write(&t, 3, at + MSI_PENDING, 4, 0); /* read-only */
	assert_int_equal(cfg_read(&t, 3, at + MSI_PENDING, 4), 0x6);
	cfg_write(&t, 3, at + MSI_MASK, 4, 0x4);
	assert_int_equal(t.messages, 1);
	assert_int_equal(t.data, 0x4041);
	assert_int_equal(cfg_read(&t, 3, at + MSI_PENDING, 4), 0x4);
	/* Disabled, what is pending is forgotten. */
	cfg_write(&t, 3, at + MSI_CONTROL, 2, 0);
	assert_int_equal(cfg_read(&t, 3, at + MSI_PENDING, 4), 0);
	msi_enable(&t, 2);
	cfg_write(&t, 3, at + MSI_MASK, 4, 0);
	assert_int_equal(t.messages, 1);
	pci_test_done(&t);
}

/* A message is a write to memory, which only a bus master does. */
static void
test_bus_master(void **state)
{
	struct pci_test t;

	(void)state;
	msg_init(&t);
	msi_enable(&t, 0);
	assert_true(pci_is_bus_master(probe(&t)));
	command_set(&t, 3, COMMAND & ~PCI_COMMAND_MASTER);
	assert_false(pci_is_bus_master(probe(&t)));
	pci_msi_send(probe(&t), 0);
	assert_int_equal(t.messages, 0);
	command_set(&t, 3, COMMAND);
	pci_msi_send(probe(&t), 0);
	assert_int_equal(t.messages, 1);
	pci_test_done(&t);
}

/* --- MSI-X --- */

static void
msix_control(struct pci_test *t, uint32_t val)
{
	cfg_write(t, 3, cap_find(t, 3, 0x11) + MSIX_CONTROL, 2, val);
}

/* The address of a vector's entry. */
static uint64_t
msix_entry(struct pci_test *t, int vector)
{
	return bar_address(t, 3, PROBE_BAR_MSIX) + 16 * (unsigned)vector;
}

static void
msix_program(struct pci_test *t, int vector, uint32_t data, uint32_t control)
{
	uint64_t at = msix_entry(t, vector);

	mem_write(t, at, 4, MSI_ADDR);
	mem_write(t, at + 4, 4, 0);
	mem_write(t, at + 8, 4, data);
	mem_write(t, at + 12, 4, control);
}

static uint64_t
msix_pending(struct pci_test *t, int word)
{
	return mem_read(t, bar_address(t, 3, PROBE_BAR_MSIX) + MSIX_PBA + 8 * (unsigned)word, 8);
}

static void
test_msix_table(void **state)
{
	struct pci_test t;
	uint64_t at;

	(void)state;
	msg_init(&t);
	at = msix_entry(&t, PROBE_MSIX - 1);
	assert_int_equal(mem_read(&t, at, 8), 0);
	assert_int_equal(mem_read(&t, at + 12, 4), 1); /* masked */
	mem_write(&t, at, 8, 0xffffffffffffffff);
	assert_int_equal(mem_read(&t, at, 4), 0xfffffffc);
	assert_int_equal(mem_read(&t, at + 4, 4), 0xffffffff);
	mem_write(&t, at + 8, 8, 0xfffffffe87654321);
	assert_int_equal(mem_read(&t, at + 8, 4), 0x87654321);
	assert_int_equal(mem_read(&t, at + 12, 4), 0);
	mem_write(&t, at + 9, 1, 0xaa);
	assert_int_equal(mem_read(&t, at + 8, 4), 0x8765aa21);
	/* Behind the table and the pending bits there is nothing. */
	mem_write(&t, at + 16, 8, 0xffffffffffffffff);
	assert_int_equal(mem_read(&t, at + 16, 8), 0);
	mem_write(&t, msix_entry(&t, 0) + MSIX_PBA, 8, 0xffffffffffffffff);
	assert_int_equal(msix_pending(&t, 0), 0);
	assert_int_equal(msix_pending(&t, 2), 0);
	assert_int_equal(mem_read(&t, msix_entry(&t, 0) + 0x1ff8, 8), 0);
	assert_int_equal(pci_probe(&t, 3)->reads + pci_probe(&t, 3)->writes, 0);
	pci_test_done(&t);
}

static void
test_msix(void **state)
{
	struct pci_test t;

	(void)state;
	msg_init(&t);
	msix_program(&t, 0, 0x41, 0);
	msix_program(&t, 69, 0x55, 0);
	pci_msix_send(probe(&t), 0);
	assert_int_equal(t.messages, 0);
	msix_control(&t, MSIX_ENABLE);
	assert_int_equal(pci_irq_kind(probe(&t)), PCI_IRQ_MSIX);
	assert_int_equal(t.messages, 0); /* what was sent before is lost */
	pci_msix_send(probe(&t), 69);
	assert_int_equal(t.messages, 1);
	assert_int_equal(t.addr, MSI_ADDR);
	assert_int_equal(t.data, 0x55);
	pci_msix_send(probe(&t), 0);
	assert_int_equal(t.data, 0x41);
	command_set(&t, 3, COMMAND & ~PCI_COMMAND_MASTER);
	pci_msix_send(probe(&t), 0);
	assert_int_equal(t.messages, 2);
	pci_test_done(&t);
}

static void
test_msix_mask(void **state)
{
	struct pci_test t;

	(void)state;
	msg_init(&t);
	msix_program(&t, 3, 0x43, 1);
	msix_program(&t, 68, 0x44, 0);
	msix_control(&t, MSIX_ENABLE);
	pci_msix_send(probe(&t), 3);
	pci_msix_send(probe(&t), 3);
	assert_int_equal(t.messages, 0);
	assert_int_equal(msix_pending(&t, 0), 8);
	/* Unmasked it is sent once, with what the entry says then. */
	mem_write(&t, msix_entry(&t, 3) + 8, 4, 0x77);
	assert_int_equal(t.messages, 0);
	mem_write(&t, msix_entry(&t, 3) + 12, 4, 0);
	assert_int_equal(t.messages, 1);
	assert_int_equal(t.data, 0x77);
	assert_int_equal(msix_pending(&t, 0), 0);
	/* The function's mask holds all of them. */
	msix_control(&t, MSIX_ENABLE | MSIX_MASK);
	pci_msix_send(probe(&t), 68);
	pci_msix_send(probe(&t), 3);
	assert_int_equal(msix_pending(&t, 1), 0x10);
	assert_int_equal(mem_read(&t, msix_entry(&t, 0) + MSIX_PBA + 8, 1), 0x10);
	assert_int_equal(t.messages, 1);
	mem_write(&t, msix_entry(&t, 3) + 12, 4, 1);
	msix_control(&t, MSIX_ENABLE);
	assert_int_equal(t.messages, 2);
	assert_int_equal(t.data, 0x44);
	assert_int_equal(msix_pending(&t, 1), 0);
	assert_int_equal(msix_pending(&t, 0), 8);
	pci_test_done(&t);
}

/* Table and pending bits survive a save and a load. */
static void
test_msix_state(void **state)
{
	struct vm_state *saved;
	struct pci_test t;

	(void)state;
	msg_init(&t);
	msix_program(&t, 69, 0x69, 1);
	msix_control(&t, MSIX_ENABLE);
	pci_msix_send(probe(&t), 69);
	saved = chip_save(&t.chip);
	mem_write(&t, msix_entry(&t, 69) + 12, 4, 0);
	assert_int_equal(t.messages, 1);
	msix_program(&t, 69, 0, 1);
	assert_int_equal(chip_load(&t.chip, saved, NULL), 0);
	assert_int_equal(msix_pending(&t, 1), 0x20);
	mem_write(&t, msix_entry(&t, 69) + 12, 4, 0);
	assert_int_equal(t.messages, 2);
	assert_int_equal(t.data, 0x69);
	vm_state_destroy(saved);
	pci_test_done(&t);
}

/* --- Pins --- */

/* Routes as firmware left them; slot 3's INTA is PIRQD, so is slot 11's. */
static void
test_routes(void **state)
{
	const struct pci_route *r;
	struct pci_test t;

	(void)state;
	msg_init(&t);
	assert_int_equal(pci_layout(t.pci)->routes, 2);
	r = &pci_layout(t.pci)->route[0];
	assert_int_equal(r->slot, 3);
	assert_int_equal(r->pin, 0);
	assert_int_equal(r->line, 19);
	assert_int_equal(r->irq, cfg_read(&t, 3, PCI_INT_LINE, 1));
	assert_int_equal(cfg_read(&t, 3, PCI_INT_PIN, 1), 1);
	assert_int_equal(cfg_read(&t, 31, 0x63, 1), r->irq);
	assert_int_equal(cfg_read(&t, 31, 0x68, 4), 0x80808080); /* unused: not routed */
	assert_int_equal(pci_layout(t.pci)->route[1].slot, 11);
	assert_int_equal(pci_layout(t.pci)->route[1].line, 19);
	pci_test_done(&t);
}

static void
test_intx(void **state)
{
	struct pci_test t;
	int irq;

	(void)state;
	msg_init(&t);
	irq = pci_layout(t.pci)->route[0].irq;
	pci_intx_set(probe(&t), true);
	assert_true(t.chip.level[19]);
	assert_true(t.chip.level[irq]);
	assert_true(cfg_read(&t, 3, PCI_STATUS, 2) & PCI_STATUS_INTX);
	/* Shared: the line falls when the last one lets go. */
	pci_intx_set(pci_find(t.pci, 11, 0), true);
	pci_intx_set(probe(&t), false);
	assert_true(t.chip.level[19]);
	assert_false(cfg_read(&t, 3, PCI_STATUS, 2) & PCI_STATUS_INTX);
	pci_intx_set(pci_find(t.pci, 11, 0), false);
	assert_false(t.chip.level[19]);
	assert_false(t.chip.level[irq]);
	assert_int_equal(t.chip.edges[19], 1);
	pci_test_done(&t);
}

static void
test_intx_disable(void **state)
{
	struct pci_test t;
	unsigned msi;

	(void)state;
	msg_init(&t);
	pci_intx_set(probe(&t), true);
	command_set(&t, 3, COMMAND | PCI_COMMAND_INTX_OFF);
	assert_false(t.chip.level[19]);
	assert_true(cfg_read(&t, 3, PCI_STATUS, 2) & PCI_STATUS_INTX);
	command_set(&t, 3, COMMAND);
	assert_true(t.chip.level[19]);
	/* A function that sends messages keeps its pin quiet. */
	msi = msi_enable(&t, 0);
	assert_false(t.chip.level[19]);
	cfg_write(&t, 3, msi + MSI_CONTROL, 2, 0);
	assert_true(t.chip.level[19]);
	msix_control(&t, MSIX_ENABLE);
	assert_false(t.chip.level[19]);
	msix_control(&t, 0);
	assert_true(t.chip.level[19]);
	pci_test_done(&t);
}

static void
test_pirq_router(void **state)
{
	struct pci_test t;
	int irq;

	(void)state;
	msg_init(&t);
	irq = pci_layout(t.pci)->route[0].irq;
	pci_intx_set(probe(&t), true);
	cfg_write(&t, 31, 0x63, 1, 0x77); /* IRQ 7; bits 4 to 6 are not there */
	assert_int_equal(cfg_read(&t, 31, 0x63, 1), 0x07);
	assert_false(t.chip.level[irq]);
	assert_true(t.chip.level[7]);
	assert_true(t.chip.level[19]);
	/* IRQs that cannot be asked for, and none */
	cfg_write(&t, 31, 0x63, 1, 0x08);
	assert_false(t.chip.level[7]);
	assert_false(t.chip.level[8]);
	cfg_write(&t, 31, 0x63, 1, 0x80 | 7);
	assert_false(t.chip.level[7]);
	/* As a double word, with the others */
	cfg_write(&t, 31, 0x60, 4, 0x0c808080);
	assert_true(t.chip.level[12]);
	assert_int_equal(cfg_read(&t, 31, 0x60, 4), 0x0c808080);
	assert_int_equal(cfg_read(&t, 31, 0x62, 2), 0x0c80);
	cfg_write(&t, 31, 0x68, 4, 0x0f0e0c0b);
	assert_int_equal(cfg_read(&t, 31, 0x68, 4), 0x0f0e0c0b);
	pci_intx_set(probe(&t), false);
	assert_false(t.chip.level[12]);
	assert_false(t.chip.level[19]);
	pci_test_done(&t);
}

static void
test_intx_state(void **state)
{
	struct vm_state *saved;
	struct pci_test t;

	(void)state;
	msg_init(&t);
	pci_intx_set(probe(&t), true);
	cfg_write(&t, 31, 0x63, 1, 12);
	saved = chip_save(&t.chip);
	pci_intx_set(probe(&t), false);
	cfg_write(&t, 31, 0x63, 1, 0x80);
	assert_int_equal(chip_load(&t.chip, saved, NULL), 0);
	assert_true(t.chip.level[19]);
	assert_true(t.chip.level[12]);
	vm_state_destroy(saved);
	pci_test_done(&t);
}

/* --- Threads --- */

#define THREAD_SENDS 20000

static void *
sender(void *arg)
{
	struct pci_test *t = arg;

	for (int i = 0; i < THREAD_SENDS; i++) {
		pci_msix_send(probe(t), 1);
		pci_intx_set(probe(t), i & 1);
	}
	pci_intx_set(probe(t), false);
	return NULL;
}

/* A device sends from a thread of its own while the guest masks, moves and disables everything: no
 * message of an unmasked vector is lost, a masked one comes at the end. */
static void
test_threads(void **state)
{
	pthread_t thread;
	struct pci_test t;
	int seen;

	(void)state;
	msg_init(&t);
	msix_program(&t, 1, 0x99, 0);
	msix_control(&t, MSIX_ENABLE);
	assert_int_equal(pthread_create(&thread, NULL, sender, &t), 0);
	for (int i = 0; i < 2000; i++) {
		mem_write(&t, msix_entry(&t, 1) + 12, 4, i & 1);
		msix_control(&t, i % 3 == 0 ? 0 : MSIX_ENABLE);
		cfg_write(&t, 3, PCI_BAR(PROBE_BAR_MSIX), 4, i & 2 ? 0xd0000000 : 0xd1000000);
		command_set(&t, 3, i % 5 == 0 ? COMMAND | PCI_COMMAND_INTX_OFF : COMMAND);
	}
	mem_write(&t, msix_entry(&t, 1) + 12, 4, 1);
	command_set(&t, 3, COMMAND);
	msix_control(&t, MSIX_ENABLE);
	assert_int_equal(pthread_join(thread, NULL), 0);
	pci_msix_send(probe(&t), 1);
	seen = t.messages;
	mem_write(&t, msix_entry(&t, 1) + 12, 4, 0);
	assert_int_equal(t.messages, seen + 1);
	assert_int_equal(t.data, 0x99);
	assert_false(t.chip.level[19]);
	assert_int_equal(t.pci->pirq[3].asserted, 0);
	pci_test_done(&t);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_msi),
		cmocka_unit_test(test_msi_fewer_vectors),
		cmocka_unit_test(test_msi_mask),
		cmocka_unit_test(test_bus_master),
		cmocka_unit_test(test_msix_table),
		cmocka_unit_test(test_msix),
		cmocka_unit_test(test_msix_mask),
		cmocka_unit_test(test_msix_state),
		cmocka_unit_test(test_routes),
		cmocka_unit_test(test_intx),
		cmocka_unit_test(test_intx_disable),
		cmocka_unit_test(test_pirq_router),
		cmocka_unit_test(test_intx_state),
		cmocka_unit_test(test_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
