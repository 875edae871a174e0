/*
 * The MP table: sums, and every entry by a walk over the table.
 */
#include "firmware_vm.h"

#include "firmware/acpi.h"
#include "firmware/mptable.h"

#define POINTER 0xf0000

struct seen {
	int processors, buses, ioapics, isa, pci, extints, local;
	uint8_t isa_bus;
};

static void
entry_check(const uint8_t *e, struct seen *seen)
{
	switch (e[0]) {
	case 0:
		/* Enabled, and the first boots; three cores take two bits of the APIC ID. */
		assert_int_equal(e[3], seen->processors == 0 ? 3 : 1);
		assert_int_equal(e[1], seen->processors + (seen->processors >= 3));
		seen->processors++;
		break;
	case 1:
		assert_int_equal(e[1], seen->buses++);
		assert_true(memcmp(e + 2, "ISA   ", 6) == 0 || memcmp(e + 2, "PCI   ", 6) == 0);
		if (e[2] == 'I')
			seen->isa_bus = e[1];
		break;
	case 2:
		assert_memory_equal(e, ((uint8_t[]){ 2, 0, 0x11, 1, 0, 0, 0xc0, 0xfe }), 8);
		seen->ioapics++;
		break;
	case 3:
		assert_int_equal(e[6], 0);
		if (e[1] == 3) {
			assert_int_equal(e[7], 0);
			seen->extints++;
		} else if (e[4] == seen->isa_bus) {
			assert_int_equal(e[7], e[5] == 0 ? 2 : e[5]);
			assert_int_equal(e[2], e[5] == 9 ? 0xf : 0);
			seen->isa++;
		} else {
			assert_memory_equal(
			    e, ((uint8_t[]){ 3, 0, 0xf, 0, 0, 5 << 2 | 1, 0, 21 }), 8);
			seen->pci++;
		}
		break;
	case 4:
		assert_memory_equal(e + 4, ((uint8_t[]){ seen->isa_bus, 0, 0xff }), 3);
		assert_int_equal(e[1], e[7] == 0 ? 3 : 1);
		seen->local++;
		break;
	default: fail_msg("type %u", e[0]);
	}
}

static void
test_table(void **state)
{
	static const struct acpi_prt prt[] = { { .slot = 5, .pin = 1, .gsi = 21 } };
	static const struct acpi_pci pci = { .isa_slot = -1, .prt = prt, .prt_count = 1 };

	for (int with_pci = 0; with_pci < 2; with_pci++) {
		struct vm *vm = fw_vm_create_topo(MIB(16), (struct x86_topology){ 2, 3, 1 }, NULL);
		const struct acpi_params p = { .pci = with_pci ? &pci : NULL };
		struct seen seen = { 0 };
		uint8_t buf[4096];
		uint32_t at, len, off = 44, entries = 0;

		assert_int_equal(mptable_build(vm, &p), 0);
		assert_int_equal(fw_u32(vm, POINTER), 0x5f504d5f); /* _MP_ */
		assert_int_equal(fw_sum(vm, POINTER, 16), 0);
		at = fw_u32(vm, POINTER + 4);
		assert_int_equal(fw_u32(vm, at), 0x504d4350); /* PCMP */
		len = fw_u32(vm, at + 4) & 0xffff;
		assert_true(len <= sizeof(buf));
		assert_int_equal(fw_sum(vm, at, len), 0);
		assert_int_equal(fw_u32(vm, at + 36), 0xfee00000);
		fw_read(vm, at, buf, len);
		while (off < len) {
			entry_check(buf + off, &seen);
			off += buf[off] == 0 ? 20 : 8;
			entries++;
		}
		assert_int_equal(off, len);
		assert_int_equal(fw_u32(vm, at + 34) & 0xffff, entries);
		assert_int_equal(seen.processors, 6);
		assert_int_equal(seen.buses, 1 + with_pci);
		assert_int_equal(seen.ioapics, 1);
		assert_int_equal(seen.isa, 15);
		assert_int_equal(seen.extints, 1);
		assert_int_equal(seen.pci, with_pci);
		assert_int_equal(seen.local, 2);
		vm_destroy(vm);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
