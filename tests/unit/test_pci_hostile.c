/*
 * A guest that writes everything everywhere: the host stays well, and the bus's books stay right.
 */
#include "pci_test.h"

#define ROUNDS 60000

static const int slots[] = { 0, 3, 4, 31 };

/* An address that has something: RAM, chips, windows, their edges, the top. */
static uint64_t
hostile_address(uint64_t *seed)
{
	static const uint64_t places[] = { 0, 0x00fff000, 0x01000000, 0xbffff000, 0xc0000000,
		0xd0000000, 0xdffff000, 0xe0000000, 0xefffe000, 0xfec00000, 0xfee00000, 0xffffe000,
		0x100000000, 0x800000000, 0xffffffffffffe000 };

	return places[chip_random(seed) % ARRAY_SIZE(places)] + chip_random(seed) % 0x3000;
}

static uint64_t
hostile_value(uint64_t *seed)
{
	switch (chip_random(seed) % 4) {
	case 0: return UINT64_MAX;
	case 1: return 0;
	case 2: return hostile_address(seed);
	default: return chip_random(seed);
	}
}

static void
hostile_step(struct pci_test *t, uint64_t *seed)
{
	int slot = slots[chip_random(seed) % ARRAY_SIZE(slots)];
	int size = 1 << chip_random(seed) % 3;
	unsigned off = (unsigned)(chip_random(seed) % PCI_CFG_SIZE);
	uint64_t ecam = PCI_ECAM_BASE + ((uint64_t)slot << 15);
	struct pci_dev *dev = pci_find(t->pci, 3 + (int)(chip_random(seed) & 1), 0);

	switch (chip_random(seed) % 12) {
	case 0: chip_out(&t->chip, 0xcf8, 4, (uint32_t)chip_random(seed)); break;
	case 1:
		chip_out(&t->chip, (uint16_t)(0xcf8 + chip_random(seed) % 8), size,
		    (uint32_t)hostile_value(seed));
		break;
	case 2:
	case 3: mem_write(t, ecam + off, size, hostile_value(seed)); break;
	case 4: mem_write(t, ecam + chip_random(seed) % 4096, 8, hostile_value(seed)); break;
	case 5: cfg_write(t, slot, PCI_BAR(off % 6), 4, (uint32_t)hostile_address(seed)); break;
	case 6: cfg_write(t, slot, PCI_COMMAND, 2, (uint32_t)hostile_value(seed)); break;
	case 7: mem_write(t, hostile_address(seed), 8, hostile_value(seed)); break;
	case 8: (void)mem_read(t, hostile_address(seed), 8); break;
	case 9:
		chip_out(&t->chip, (uint16_t)chip_random(seed), size,
		    (uint32_t)hostile_value(seed));
		break;
	case 10: pci_msix_send(dev, (int)(off % PROBE_MSIX)); break;
	default:
		pci_msi_send(dev, (int)(off % PROBE_MSI));
		pci_intx_set(dev, off & 1);
		break;
	}
}

/* What the bus believes must be so: what is mapped answers, the rest is not on the bus. */
static void
hostile_check(struct pci_test *t)
{
	int blocked = 0, asserted[PCI_PIRQS] = { 0 };

	for (size_t i = 0; i < ARRAY_SIZE(t->pci->dev); i++) {
		struct pci_dev *dev = t->pci->dev[i];

		for (int b = 0; dev != NULL && b < PCI_BARS; b++) {
			const struct pci_bar *bar = &dev->bar[b];
			bool io = bar->type == PCI_BAR_IO;

			blocked += bar->blocked;
			assert_false(bar->blocked && bar->mapped);
			assert_int_equal(bar->wanted, bar->blocked || bar->mapped);
			if (bar->mapped)
				assert_string_equal(vm_range_find(t->chip.vm,
				    io ? VM_PIO : VM_MMIO, bar->base), "pci bar");
		}
		if (dev != NULL && dev->intx.asserted)
			asserted[dev->intx.pirq]++;
	}
	assert_int_equal(blocked, t->pci->blocked);
	for (int n = 0; n < PCI_PIRQS; n++) {
		assert_int_equal(asserted[n], t->pci->pirq[n].asserted);
		assert_int_equal(t->chip.level[16 + n], asserted[n] != 0);
	}
}

static void
test_hostile_guest(void **state)
{
	uint64_t seed = 0x9e3779b97f4a7c15;
	struct pci_test t;
	struct capture c;

	(void)state;
	pci_test_init(&t, "pci.0.0.0.device=hostbridge", "pci.0.3.0.device=probe",
	    "pci.0.4.0.device=probe", "pci.0.31.0.device=lpc", NULL);
	capture_begin(&c);
	for (int i = 0; i < ROUNDS; i++) {
		hostile_step(&t, &seed);
		if (i % 64 == 0)
			hostile_check(&t);
	}
	hostile_check(&t);
	/* It was counted, not written to the log each time. */
	assert_true(strlen(capture_end(&c)) < CAPTURE_MAX - 1);
	/* And all of it can be put right again. */
	for (int slot = 3; slot <= 4; slot++) {
		command_set(&t, slot, 0);
		for (int b = 0; b < PCI_BARS; b++)
			cfg_write(&t, slot, PCI_BAR(b), 4, 0);
		assert_int_equal(cfg_read(&t, slot, 0, 4), 0x56781234);
	}
	assert_int_equal(t.pci->blocked, 0);
	command_set(&t, 3, PCI_COMMAND_MEM);
	capture_begin(&c);
	cfg_write(&t, 3, PCI_BAR(PROBE_BAR_MEM), 4, 0xd0000000);
	capture_end(&c);
	assert_int_equal(mem_read(&t, 0xd0000008, 4), 8);
	pci_test_done(&t);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hostile_guest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
