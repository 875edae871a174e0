/*
 * The PCI bus: configuration access, the header, BARs, devices from the configuration.
 */
#include "pci_test.h"

#define MEM32_BASE 0xc0000000u
#define MEM32_LIMIT 0xdfffffffu

/* --- Configuration access --- */

static void
test_mechanism_1(void **state)
{
	struct pci_test t;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	/* Without the enable bit nothing is selected, but the register keeps what was written. */
	chip_out(&t.chip, 0xcf8, 4, 0x7f001800);
	assert_int_equal(chip_in(&t.chip, 0xcf8, 4), 0x00001800);
	assert_int_equal(chip_in(&t.chip, 0xcfc, 4), 0xffffffff);
	chip_out(&t.chip, 0xcf8, 4, 0x80001803);
	assert_int_equal(chip_in(&t.chip, 0xcf8, 4), 0x80001800);
	/* All sizes and places within a double word */
	assert_int_equal(chip_in(&t.chip, 0xcfc, 4), 0x56781234);
	assert_int_equal(chip_in(&t.chip, 0xcfc, 2), 0x1234);
	assert_int_equal(chip_in(&t.chip, 0xcfe, 2), 0x5678);
	assert_int_equal(chip_in(&t.chip, 0xcfd, 1), 0x12);
	assert_int_equal(chip_in(&t.chip, 0xcff, 1), 0x56);
	/* The address is written by double words only. */
	chip_out(&t.chip, 0xcf8, 2, 0xffff);
	chip_out(&t.chip, 0xcfb, 1, 0);
	assert_int_equal(chip_in(&t.chip, 0xcf8, 4), 0x80001800);
	assert_int_equal(chip_in(&t.chip, 0xcf8, 1), 0xff);
	assert_int_equal(chip_in(&t.chip, 0xcfa, 2), 0xffff);
	/* Other slots, functions and buses are empty. */
	assert_int_equal(cfg_read(&t, 4, 0, 4), 0xffffffff);
	chip_out(&t.chip, 0xcf8, 4, 0x80001900);
	assert_int_equal(chip_in(&t.chip, 0xcfc, 2), 0xffff);
	chip_out(&t.chip, 0xcf8, 4, 0x80011800);
	assert_int_equal(chip_in(&t.chip, 0xcfc, 4), 0xffffffff);
	chip_out(&t.chip, 0xcfc, 4, 0); /* nobody cares */
	pci_test_done(&t);
}

static void
test_reset_port(void **state)
{
	struct pci_test t;

	(void)state;
	pci_test_init(&t, NULL);
	cfg_address(&t, 31, 0, 0);
	outb(&t.chip, 0xcf9, 0x06);
	assert_int_equal(t.reset_port, 0x06);
	assert_int_equal(inb(&t.chip, 0xcf9), 0x06);
	/* The address is not touched by it, and a double word does not touch it. */
	assert_int_equal(chip_in(&t.chip, 0xcfc, 4), 0x70008086);
	chip_out(&t.chip, 0xcf8, 4, 0x80000200);
	assert_int_equal(t.reset_port, 0x06);
	pci_test_done(&t);
}

static void
test_ecam(void **state)
{
	const uint64_t base = PCI_ECAM_BASE + (3 << 15);
	struct pci_test t;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	assert_int_equal(mem_read(&t, base, 4), 0x56781234);
	assert_int_equal(mem_read(&t, base + 1, 1), 0x12);
	assert_int_equal(mem_read(&t, base + 2, 2), 0x5678);
	/* Quad words and accesses across registers are split. */
	assert_int_equal(mem_read(&t, base + 8, 8) & 0xffffffff, 0xff010203);
	assert_int_equal(mem_read(&t, base + 1, 4), 0x03567812);
	mem_write(&t, base + PCI_INT_LINE, 1, 0x5a);
	assert_int_equal(cfg_read(&t, 3, PCI_INT_LINE, 1), 0x5a);
	/* The extended space is there and empty. */
	assert_int_equal(mem_read(&t, base + 0x100, 4), 0);
	mem_write(&t, base + 0xffc, 4, 0xffffffff);
	assert_int_equal(mem_read(&t, base + 0xffc, 4), 0);
	assert_int_equal(mem_read(&t, base + 0x1000, 4), 0xffffffff); /* function 1 */
	assert_int_equal(mem_read(&t, base + MIB(1), 4), 0xffffffff); /* bus 1 */
	assert_int_equal(mem_read(&t, PCI_ECAM_BASE + PCI_ECAM_SIZE - 4, 4), 0xffffffff);
	pci_test_done(&t);
}

static void
test_header(void **state)
{
	struct pci_test t;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	assert_int_equal(cfg_read(&t, 3, PCI_REVISION, 4), 0xff010203);
	assert_int_equal(cfg_read(&t, 3, PCI_SUBVENDOR, 4), 0xdef09abc);
	assert_int_equal(cfg_read(&t, 3, PCI_HEADER_TYPE, 1), 0);
	assert_int_equal(cfg_read(&t, 3, PCI_STATUS, 2), PCI_STATUS_CAPS);
	/* Only what is there can be written. */
	for (unsigned off = 0; off < PCI_HEADER_SIZE; off += 4) {
		if (off < PCI_BAR(0) || off >= PCI_BAR(PCI_BARS))
			cfg_write(&t, 3, off, 4, 0xffffffff);
	}
	assert_int_equal(cfg_read(&t, 3, 0, 4), 0x56781234);
	assert_int_equal(cfg_read(&t, 3, PCI_COMMAND, 2), PCI_COMMAND_WRITABLE);
	assert_int_equal(cfg_read(&t, 3, PCI_STATUS, 2), PCI_STATUS_CAPS);
	assert_int_equal(cfg_read(&t, 3, PCI_REVISION, 4), 0xff010203);
	assert_int_equal(cfg_read(&t, 3, PCI_CACHE_LINE, 4), 0x0000ffff);
	assert_int_equal(cfg_read(&t, 3, 0x30, 4), 0); /* no ROM */
	assert_int_equal(cfg_read(&t, 3, PCI_INT_LINE, 4), 0x000001ff);
	/* A narrow write leaves the rest of the register. */
	command_set(&t, 3, 0);
	cfg_write(&t, 3, PCI_COMMAND + 1, 1, 0xff);
	assert_int_equal(cfg_read(&t, 3, PCI_COMMAND, 2), PCI_COMMAND_WRITABLE & 0xff00);
	pci_test_done(&t);
}

static void
test_capabilities(void **state)
{
	struct pci_test t;
	unsigned at;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	assert_true(cap_find(&t, 3, 0x05) >= PCI_HEADER_SIZE);
	at = cap_find(&t, 3, 0x11);
	assert_int_equal(cfg_read(&t, 3, at + 2, 2), PROBE_MSIX - 1);
	assert_int_equal(cfg_read(&t, 3, at + 4, 4), PROBE_BAR_MSIX);
	assert_int_equal(cfg_read(&t, 3, at + 8, 4), 0x1000 | PROBE_BAR_MSIX);
	at = cap_find(&t, 3, 0x10);
	assert_int_equal(cfg_read(&t, 3, at + 2, 2), 0x92); /* version 2, integrated endpoint */
	assert_true(cfg_read(&t, 3, at + 4, 4) & BIT(28)); /* can be reset */
	assert_int_equal(cap_find(&t, 3, 0x01), 0);
	pci_test_done(&t);
}

static void
test_model_registers(void **state)
{
	struct pci_test t;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	assert_int_equal(cfg_read(&t, 3, PROBE_CFG, 4), 1);
	assert_int_equal(cfg_read(&t, 3, PROBE_CFG, 1), 2);
	cfg_write(&t, 3, PROBE_CFG, 2, 0xffff);
	assert_int_equal(pci_probe(&t, 3)->cfg_writes, 1);
	pci_test_done(&t);
}

/* --- BARs --- */

static void
test_bars_at_power_on(void **state)
{
	struct pci_test t;
	uint64_t a, b;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", "pci.0.4.0.device=probe", NULL);
	assert_int_equal(cfg_read(&t, 3, PCI_COMMAND, 2), PCI_COMMAND_IO | PCI_COMMAND_MEM);
	a = bar_address(&t, 3, PROBE_BAR_MEM);
	b = bar_address(&t, 4, PROBE_BAR_MEM);
	assert_in_range(a, MEM32_BASE, MEM32_LIMIT - KIB(4) + 1);
	assert_in_range(b, MEM32_BASE, MEM32_LIMIT - KIB(4) + 1);
	assert_int_not_equal(a, b);
	assert_int_equal(a % KIB(4), 0);
	/* More than 32 MiB in 64 bits lies above RAM. */
	a = bar_address(&t, 3, PROBE_BAR_BIG);
	assert_int_equal(a % MIB(64), 0);
	assert_true(a >= pci_layout(t.pci)->mem64.base);
	assert_true(a + MIB(64) - 1 <= pci_layout(t.pci)->mem64.limit);
	assert_int_equal(mem_read(&t, a + 0x1234560, 8), 0x3000000001234560ull);
	a = bar_address(&t, 3, PROBE_BAR_IO);
	assert_in_range(a, 0x2000, 0xffff - 31);
	assert_int_equal(a % 32, 0);
	assert_int_equal(chip_in(&t.chip, (uint16_t)(a + 4), 4), 4);
	assert_int_equal(pci_probe(&t, 3)->reads, 2);
	assert_int_equal(pci_probe(&t, 4)->reads, 0);
	pci_test_done(&t);
}

static void
test_bar_sizing(void **state)
{
	static const struct {
		int bar;
		uint32_t all_ones;
	} rows[] = {
		{ PROBE_BAR_MEM, 0xfffff000 },
		{ PROBE_BAR_IO, 0xffffffe1 },
		{ PROBE_BAR_BIG, 0xfc00000c },
		{ PROBE_BAR_BIG + 1, 0xffffffff },
		{ PROBE_BAR_MSIX, 0xffffe000 },
		{ 5, 0 },
	};
	struct capture c;
	struct pci_test t;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	capture_begin(&c);
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		uint32_t was = cfg_read(&t, 3, PCI_BAR(rows[i].bar), 4);

		cfg_write(&t, 3, PCI_BAR(rows[i].bar), 4, 0xffffffff);
		assert_int_equal(cfg_read(&t, 3, PCI_BAR(rows[i].bar), 4), rows[i].all_ones);
		cfg_write(&t, 3, PCI_BAR(rows[i].bar), 4, was);
		assert_int_equal(cfg_read(&t, 3, PCI_BAR(rows[i].bar), 4), was);
	}
	assert_string_equal(capture_end(&c), "");
	assert_int_equal(mem_read(&t, bar_address(&t, 3, PROBE_BAR_MEM) + 8, 4), 8);
	pci_test_done(&t);
}

static void
test_bar_moves(void **state)
{
	struct pci_test t;
	struct capture c;
	uint64_t was;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	was = bar_address(&t, 3, PROBE_BAR_MEM);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_MEM), 4, 0xd0000fff);
	assert_int_equal(bar_address(&t, 3, PROBE_BAR_MEM), 0xd0000000);
	assert_int_equal(mem_read(&t, was, 4), 0xffffffff);
	mem_write(&t, 0xd0000010, 2, 0xabcd);
	assert_int_equal(pci_probe(&t, 3)->off, 0x10);
	assert_int_equal(pci_probe(&t, 3)->size, 2);
	assert_int_equal(pci_probe(&t, 3)->val, 0xabcd);
	/* To another place above 4 GiB, by halves */
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_BIG), 4, 0x40000000);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_BIG + 1), 4, 0x12);
	assert_int_equal(mem_read(&t, 0x1240000100, 4), 0x100);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_IO), 2, 0x3001);
	assert_int_equal(chip_in(&t.chip, 0x3008, 4), 8);
	/* A port above 64 Ki does not exist. */
	capture_begin(&c);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_IO), 4, 0x13000);
	assert_int_equal(chip_in(&t.chip, 0x3008, 4), 0xffffffff);
	capture_end(&c);
	pci_test_done(&t);
}

static void
test_bar_decoding(void **state)
{
	struct pci_test t;
	uint64_t mem, io;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	mem = bar_address(&t, 3, PROBE_BAR_MEM);
	io = bar_address(&t, 3, PROBE_BAR_IO);
	command_set(&t, 3, PCI_COMMAND_IO);
	assert_int_equal(mem_read(&t, mem, 4), 0xffffffff);
	assert_int_equal(chip_in(&t.chip, (uint16_t)io, 1), 0);
	command_set(&t, 3, PCI_COMMAND_MEM);
	assert_int_equal(mem_read(&t, mem, 4), 0);
	assert_int_equal(chip_in(&t.chip, (uint16_t)io, 1), 0xff);
	command_set(&t, 3, 0);
	assert_int_equal(mem_read(&t, mem, 4), 0xffffffff);
	pci_test_done(&t);
}

/* What is there stays, whatever a BAR is put over. */
static void
test_bar_in_the_way(void **state)
{
	static const uint32_t places[] = { 0, 0x00800000, 0x00fff000, 0xe0000000, 0xefff0000,
		0xfee00000 };
	struct pci_test t;
	struct capture c;
	uint64_t other;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", "pci.0.4.0.device=probe", NULL);
	capture_begin(&c);
	vm_mem_write(t.chip.vm, 0x00800000, "RAM!", 4);
	for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
		cfg_write(&t, 3, PCI_BAR(PROBE_BAR_MEM), 4, places[i]);
		assert_int_equal(bar_address(&t, 3, PROBE_BAR_MEM), places[i]);
		(void)mem_read(&t, places[i], 4);
		assert_int_equal(pci_probe(&t, 3)->reads, 0);
		assert_int_equal(t.pci->blocked, 1);
	}
	assert_int_equal(mem_read(&t, 0x00800000, 4), 0x214d4152);
	assert_int_equal(mem_read(&t, PCI_ECAM_BASE + (3 << 15), 4), 0x56781234);
	/* Just behind RAM there is room. */
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_MEM), 4, 0x01000000);
	assert_int_equal(mem_read(&t, 0x01000004, 4), 4);
	assert_int_equal(t.pci->blocked, 0);
	/* Two devices change places: each waits until the other has gone. */
	other = bar_address(&t, 4, PROBE_BAR_MEM);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_MEM), 4, (uint32_t)other);
	assert_int_equal(t.pci->blocked, 1);
	assert_int_equal(mem_read(&t, other, 4), 0);
	assert_int_equal(pci_probe(&t, 4)->reads, 1);
	cfg_write(&t, 4, PCI_BAR(PROBE_BAR_MEM), 4, 0x01000000);
	assert_int_equal(t.pci->blocked, 0);
	mem_write(&t, other, 4, 1);
	assert_int_equal(pci_probe(&t, 3)->writes, 1);
	mem_write(&t, 0x01000000, 4, 1);
	assert_int_equal(pci_probe(&t, 4)->writes, 1);
	/* Over a chip's ports: the configuration mechanism itself goes on. */
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_IO), 4, 0xce0);
	assert_int_equal(cfg_read(&t, 3, 0, 4), 0x56781234);
	assert_int_equal(t.pci->blocked, 1);
	/* Turned off, nothing is wanted any more. */
	command_set(&t, 3, 0);
	assert_int_equal(t.pci->blocked, 0);
	capture_end(&c);
	assert_non_null(strstr(c.text, "pci.0.3.0: BAR 0 cannot be at 0x0: File exists\n"));
	pci_test_done(&t);
}

/* The largest addresses there are. */
static void
test_bar_at_the_end(void **state)
{
	struct pci_test t;
	struct capture c;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	capture_begin(&c);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_BIG), 4, 0xf8000000);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_BIG + 1), 4, 0xffffffff);
	assert_int_equal(mem_read(&t, 0xfffffffff8000100, 4), 0x100);
	/* All ones is the question for the size. */
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_BIG), 4, 0xfc000000);
	assert_int_equal(mem_read(&t, 0xfffffffffc000000, 4), 0xffffffff);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_MEM), 4, 0xffffe000);
	assert_int_equal(mem_read(&t, 0xffffeffc, 4), 0xffc);
	assert_string_equal(capture_end(&c), "");
	pci_test_done(&t);
}

static void
probe_ring(void *ctx, uint64_t val)
{
	struct probe *p = ctx;

	p->rings++;
	p->val = val;
}

static void
test_doorbell_moves(void **state)
{
	struct pci_test t;
	struct probe *p;
	struct pci_dev *dev;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	dev = pci_find(t.pci, 3, 0);
	p = pci_probe(&t, 3);
	pci_lock(dev);
	assert_int_equal(pci_doorbell_add(dev, PROBE_BAR_MEM, PROBE_DOORBELL, 4, probe_ring, p), 0);
	pci_unlock(dev);
	mem_write(&t, bar_address(&t, 3, PROBE_BAR_MEM) + PROBE_DOORBELL, 4, 7);
	assert_int_equal(p->rings, 1);
	assert_int_equal(p->val, 7);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_MEM), 4, 0xd0000000);
	mem_write(&t, 0xd0000000 + PROBE_DOORBELL, 4, 8);
	assert_int_equal(p->rings, 2);
	/* Another size is an ordinary write. */
	mem_write(&t, 0xd0000000 + PROBE_DOORBELL, 2, 9);
	assert_int_equal(p->rings, 2);
	assert_int_equal(p->writes, 1);
	command_set(&t, 3, 0);
	mem_write(&t, 0xd0000000 + PROBE_DOORBELL, 4, 8);
	assert_int_equal(p->rings, 2);
	command_set(&t, 3, PCI_COMMAND_MEM);
	pci_lock(dev);
	pci_doorbell_remove(dev, PROBE_BAR_MEM, PROBE_DOORBELL);
	pci_doorbell_remove(dev, PROBE_BAR_MEM, PROBE_DOORBELL);
	pci_unlock(dev);
	mem_write(&t, 0xd0000000 + PROBE_DOORBELL, 4, 8);
	assert_int_equal(p->rings, 2);
	assert_int_equal(p->writes, 2);
	/* One that is there at the end goes with the device. */
	assert_int_equal(pci_doorbell_add(dev, PROBE_BAR_MEM, PROBE_DOORBELL, 4, probe_ring, p), 0);
	pci_test_done(&t);
}

/* --- Function-level reset --- */

static void
test_reset(void **state)
{
	struct pci_test t;
	unsigned at;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	at = cap_find(&t, 3, 0x10) + 8;
	command_set(&t, 3, PCI_COMMAND_WRITABLE & ~PCI_COMMAND_INTX_OFF);
	pci_intx_set(pci_find(t.pci, 3, 0), true);
	assert_true(t.chip.level[19]);
	cfg_write(&t, 3, at, 2, 0x7810);
	assert_int_equal(cfg_read(&t, 3, at, 2), 0x7810);
	assert_int_equal(pci_probe(&t, 3)->resets, 0);
	cfg_write(&t, 3, at + 1, 1, 0x80);
	assert_int_equal(pci_probe(&t, 3)->resets, 1);
	assert_false(t.chip.level[19]);
	assert_int_equal(cfg_read(&t, 3, at, 2), 0x2810);
	assert_int_equal(cfg_read(&t, 3, PCI_COMMAND, 2), 0);
	assert_int_equal(bar_address(&t, 3, PROBE_BAR_MEM), 0);
	assert_int_equal(cfg_read(&t, 3, PCI_BAR(PROBE_BAR_BIG), 4), PCI_BAR_64 | PCI_BAR_PREFETCH);
	assert_int_equal(cfg_read(&t, 3, 0, 4), 0x56781234);
	cfg_write(&t, 3, at, 4, 0x8000);
	assert_int_equal(pci_probe(&t, 3)->resets, 2);
	pci_test_done(&t);
}

/* --- Devices from the configuration --- */

static void
test_default_devices(void **state)
{
	struct pci_test t;

	(void)state;
	pci_test_init(&t, NULL);
	assert_int_equal(cfg_read(&t, 0, 0, 4), 0x12751275);
	assert_int_equal(cfg_read(&t, 0, PCI_SUBCLASS, 2), 0x0600);
	assert_int_equal(cfg_read(&t, 31, 0, 4), 0x70008086);
	assert_int_equal(cfg_read(&t, 31, PCI_SUBCLASS, 2), 0x0601);
	assert_int_equal(pci_layout(t.pci)->isa_slot, 31);
	assert_int_equal(pci_layout(t.pci)->routes, 0);
	pci_test_done(&t);
}

static void
test_configured_devices(void **state)
{
	struct pci_test t;

	(void)state;
	pci_test_init(&t, "pci.0.0.0.device=amd_hostbridge", "pci.0.2.0.device=hostbridge",
	    "pci.0.2.0.pcireg.vendor=0x1111", "pci.0.2.0.pcireg.device=0x2222",
	    "pci.0.2.0.pcireg.revid=0x33", "pci.0.2.0.pcireg.subvendor=0x4444",
	    "pci.0.2.0.pcireg.subdevice=0x5555", "pci.0.30.0.device=lpc",
	    "lpc.pcireg.vendor=0xaaaa", NULL);
	assert_int_equal(cfg_read(&t, 0, 0, 4), 0x74321022);
	assert_int_equal(cfg_read(&t, 2, 0, 4), 0x22221111);
	assert_int_equal(cfg_read(&t, 2, PCI_REVISION, 1), 0x33);
	assert_int_equal(cfg_read(&t, 2, PCI_SUBVENDOR, 4), 0x55554444);
	assert_int_equal(cfg_read(&t, 30, 0, 4), 0x7000aaaa);
	assert_int_equal(cfg_read(&t, 31, 0, 4), 0xffffffff);
	assert_int_equal(pci_layout(t.pci)->isa_slot, 30);
	pci_test_done(&t);
}

static void
test_functions(void **state)
{
	struct pci_test t;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", "pci.0.3.2.device=probe",
	    "pci.0.4.0.device=probe", NULL);
	assert_int_equal(cfg_read(&t, 3, PCI_HEADER_TYPE, 1), PCI_HEADER_MULTI);
	assert_int_equal(cfg_read(&t, 4, PCI_HEADER_TYPE, 1), 0);
	cfg_address(&t, 3, 2, PCI_INT_PIN);
	assert_int_equal(inb(&t.chip, 0xcfd), 3); /* INTC */
	cfg_address(&t, 3, 1, 0);
	assert_int_equal(chip_in(&t.chip, 0xcfc, 4), 0xffffffff);
	pci_test_done(&t);
}

static void
test_bad_configuration(void **state)
{
	static const struct {
		const char *lines[5], *said;
	} rows[] = {
		{ { "pci.0.3.0.device=nope" }, "pci.0.3.0: 'nope' is no device: see -s help" },
		{ { "pci.0.3.1.device=probe" },
		    "pci.0.3.1: no guest can find it: expected a device at pci.0.3.0 too" },
		{ { "pci.0.3.0.device=probe", "pci.0.4.0.device=broken" }, "pci.0.4.0: is broken" },
		{ { "pci.0.3.0.device=lpc", "pci.0.4.0.device=lpc" },
		    "pci.0.4.0: there can be one lpc, and it has to be function 0" },
		{ { "pci.0.3.0.device=probe", "pci.0.3.1.device=lpc" },
		    "pci.0.3.1: there can be one lpc, and it has to be function 0" },
		{ { "pci.0.3.0.device=huge" },
		    "pci.0.3.0: there is no room left for its BAR 0 of 1073741824 bytes" },
		{ { "pci.0.0.0.device=hostbridge", "pci.0.0.0.pcireg.vendor=0x10000" },
		    "pci.0.0.0.pcireg.vendor: '0x10000': expected 0 to 0xffff, or host" },
		{ { "pci.0.31.0.device=lpc", "lpc.pcireg.revid=256" },
		    "lpc.pcireg.revid: '256': expected 0 to 0xff, or host" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct pci_test t;
		struct capture c;
		char said[256];

		pci_test_machine(&t, MIB(16), rows[i].lines);
		capture_begin(&c);
		assert_int_not_equal(pci_test_bus(&t), 0);
		capture_end(&c);
		snprintf(said, sizeof(said), "bhyve: %s\n", rows[i].said);
		assert_string_equal(c.text, said);
		assert_null(t.pci);
		/* Nothing is left on the bus. */
		assert_null(vm_range_find(t.chip.vm, VM_PIO, 0xcf8));
		assert_null(vm_range_find(t.chip.vm, VM_MMIO, PCI_ECAM_BASE));
		assert_null(vm_range_find(t.chip.vm, VM_MMIO, MEM32_BASE));
		pci_test_done(&t);
	}
}

/* --- Windows --- */

static void
test_window_above_ram(void **state)
{
	static const struct {
		uint64_t memory;
		int phys_bits;
		uint64_t base, limit;
	} rows[] = {
		{ MIB(16), 36, GIB(32), GIB(64) - 1 },
		{ MIB(16), 32, 0, 0 },
		{ MIB(16), 35, 0, 0 },
		{ GIB(4), 39, GIB(32), GIB(64) - 1 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		const struct pci_params params = { .phys_bits = rows[i].phys_bits };
		struct pci_test t;

		pci_test_machine(&t, rows[i].memory, NULL);
		assert_int_equal(pci_create(t.chip.vm, &params, &t.pci), 0);
		assert_int_equal(pci_layout(t.pci)->mem64.base, rows[i].base);
		assert_int_equal(pci_layout(t.pci)->mem64.limit, rows[i].limit);
		assert_int_equal(inb(&t.chip, 0xcf9), 0xff); /* nobody else at those ports */
		outb(&t.chip, 0xcf9, 6);
		pci_test_done(&t);
	}
}

static uint64_t
chip_port_read(void *ctx, uint64_t off, int size)
{
	return 0xc0;
}

/* Where a chip has its ports no BAR is placed. */
static void
test_ports_of_chips(void **state)
{
	static const struct vm_range_ops ops = { "chip", chip_port_read, NULL, 1, 1 };
	static const char *const lines[] = { "pci.0.3.0.device=probe", NULL };
	const struct vm_range range = { .ops = &ops, .space = VM_PIO, .base = 0x2018, .size = 1 };
	struct pci_test t;

	(void)state;
	pci_test_machine(&t, MIB(16), lines);
	assert_int_equal(vm_range_add(t.chip.vm, &range), 0);
	assert_int_equal(pci_test_bus(&t), 0);
	assert_int_equal(bar_address(&t, 3, PROBE_BAR_IO), 0x2020);
	assert_int_equal(inb(&t.chip, 0x2018), 0xc0);
	pci_test_done(&t);
}

/* --- State --- */

static void
test_state(void **state)
{
	struct vm_state *saved;
	struct pci_test t;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_MEM), 4, 0xd0000000);
	pci_probe(&t, 3)->saved = 5;
	cfg_address(&t, 3, 0, 4);
	saved = chip_save(&t.chip);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_MEM), 4, 0xd1000000);
	command_set(&t, 3, 0);
	pci_probe(&t, 3)->saved = 6;
	assert_int_equal(chip_load(&t.chip, saved, NULL), 0);
	assert_int_equal(chip_in(&t.chip, 0xcf8, 4), 0x80001804);
	assert_int_equal(pci_probe(&t, 3)->saved, 5);
	assert_int_equal(mem_read(&t, 0xd0000004, 4), 4);
	assert_int_equal(mem_read(&t, 0xd1000004, 4), 0xffffffff);
	vm_state_destroy(saved);
	pci_test_done(&t);
}

/* Registers that cannot be written cannot be loaded either. */
static void
test_state_hostile(void **state)
{
	struct vm_state *saved;
	struct pci_test t;
	struct capture c;
	uint8_t *bytes;
	size_t len;

	(void)state;
	pci_test_init(&t, "pci.0.3.0.device=probe", NULL);
	saved = chip_save(&t.chip);
	bytes = (uint8_t *)(uintptr_t)vm_state_data(saved, &len);
	for (size_t i = 0; i + 4 <= len; i++) {
		if (memcmp(bytes + i, "\x34\x12\x78\x56", 4) == 0)
			memset(bytes + i, 0xff, 128);
	}
	capture_begin(&c);
	assert_int_equal(chip_load(&t.chip, saved, NULL), 0);
	capture_end(&c);
	assert_int_equal(cfg_read(&t, 3, 0, 4), 0x56781234);
	assert_int_equal(cfg_read(&t, 3, PCI_COMMAND, 2), PCI_COMMAND_WRITABLE);
	assert_int_equal(cap_find(&t, 3, 0x11) != 0, 1);
	vm_state_destroy(saved);
	pci_test_done(&t);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_mechanism_1),
		cmocka_unit_test(test_reset_port),
		cmocka_unit_test(test_ecam),
		cmocka_unit_test(test_header),
		cmocka_unit_test(test_capabilities),
		cmocka_unit_test(test_model_registers),
		cmocka_unit_test(test_bars_at_power_on),
		cmocka_unit_test(test_bar_sizing),
		cmocka_unit_test(test_bar_moves),
		cmocka_unit_test(test_bar_decoding),
		cmocka_unit_test(test_bar_in_the_way),
		cmocka_unit_test(test_bar_at_the_end),
		cmocka_unit_test(test_doorbell_moves),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_default_devices),
		cmocka_unit_test(test_configured_devices),
		cmocka_unit_test(test_functions),
		cmocka_unit_test(test_bad_configuration),
		cmocka_unit_test(test_window_above_ram),
		cmocka_unit_test(test_ports_of_chips),
		cmocka_unit_test(test_state),
		cmocka_unit_test(test_state_hostile),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
