/*
 * ACPI: the AML builder's encodings, the tables' sums and links, and iasl's opinion of all of them.
 */
#include "firmware_vm.h"

#include "firmware/acpi.h"
#include "firmware/acpi_tables.h"
#include "firmware/aml.h"

#include <sys/wait.h>

/* --- The builder --- */

#define assert_aml(a, ...)                                                                         \
	do {                                                                                       \
		const uint8_t expected_[] = { __VA_ARGS__ };                                       \
		assert_int_equal(aml_error(a), 0);                                                 \
		assert_int_equal((a)->len, sizeof(expected_));                                     \
		assert_memory_equal((a)->buf, expected_, sizeof(expected_));                       \
		aml_free(a);                                                                       \
	} while (0)

static void
test_aml_objects(void **state)
{
	struct aml a;

	aml_init(&a);
	aml_int(&a, 0);
	aml_int(&a, 1);
	aml_int(&a, 2);
	aml_int(&a, 0xff);
	aml_int(&a, 0x100);
	aml_int(&a, 0x10000);
	aml_int(&a, 0x100000000);
	assert_aml(&a, 0x00, 0x01, 0x0a, 2, 0x0a, 0xff, 0x0b, 0, 1, 0x0c, 0, 0, 1, 0, 0x0e, 0, 0, 0,
	    0, 1, 0, 0, 0);
	aml_str(&a, "ab");
	aml_eisaid(&a, "PNP0A03");
	assert_aml(&a, 0x0d, 'a', 'b', 0, 0x0c, 0x41, 0xd0, 0x0a, 0x03);
	aml_path(&a, "S5");
	aml_path(&a, "\\_SB.PCI0");
	aml_path(&a, "^^A.B.C");
	assert_aml(&a, 'S', '5', '_', '_', '\\', 0x2e, '_', 'S', 'B', '_', 'P', 'C', 'I', '0', '^',
	    '^', 0x2f, 3, 'A', '_', '_', '_', 'B', '_', '_', '_', 'C', '_', '_', '_');
	aml_uuid(&a, "00112233-4455-6677-8899-aabbccddeeff");
	assert_aml(&a, 0x11, 19, 0x0a, 16, 0x33, 0x22, 0x11, 0x00, 0x55, 0x44, 0x77, 0x66, 0x88,
	    0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff);
}

/* 20.2.4: a package's length counts its own one to four bytes. */
static void
test_aml_lengths(void **state)
{
	static const struct {
		size_t content;
		uint8_t encoded[4];
		size_t bytes;
	} len[] = {
		{ 0, { 1 }, 1 },
		{ 62, { 63 }, 1 },
		{ 63, { 0x41, 0x04 }, 2 },
		{ 0xffd, { 0x4f, 0xff }, 2 },
		{ 0xffe, { 0x81, 0x00, 0x01 }, 3 },
		{ 0xffffc, { 0x8f, 0xff, 0xff }, 3 },
		{ 0xffffd, { 0xc1, 0x00, 0x00, 0x01 }, 4 },
	};
	static uint8_t content[0xffffd];

	for (size_t i = 0; i < ARRAY_SIZE(len); i++) {
		struct aml a;
		size_t mark;

		aml_init(&a);
		mark = aml_else(&a);
		aml_bytes(&a, content, len[i].content - (len[i].bytes == 4 ? 3 : 0));
		aml_end(&a, mark);
		if (len[i].bytes == 4) { /* more than a table may have */
			assert_int_equal(aml_error(&a), 0);
			aml_free(&a);
			continue;
		}
		assert_int_equal(aml_error(&a), 0);
		assert_int_equal(a.len, 1 + len[i].bytes + len[i].content);
		assert_memory_equal(a.buf + 1, len[i].encoded, len[i].bytes);
		aml_free(&a);
	}
}

/* Too much data fails, and stays failed whatever follows. */
static void
test_aml_overflow(void **state)
{
	static uint8_t chunk[4096];
	struct aml a;
	size_t mark, len;

	aml_init(&a);
	mark = aml_scope(&a, "\\_SB");
	for (int i = 0; i < 300; i++)
		aml_bytes(&a, chunk, sizeof(chunk));
	assert_int_equal(aml_error(&a), -ENOSPC);
	len = a.len;
	aml_crs_end(&a, aml_crs(&a));
	aml_end(&a, mark);
	aml_table_end(&a);
	assert_int_equal(aml_error(&a), -ENOSPC);
	assert_int_equal(a.len, len);
	aml_free(&a);
}

/* 6.4: descriptors byte for byte. */
static void
test_aml_resources(void **state)
{
	struct aml a;
	size_t crs;

	aml_init(&a);
	crs = aml_crs(&a);
	aml_res_io(&a, 0x3f8, 8);
	aml_res_irq(&a, 4);
	aml_res_mem32(&a, 0xfed00000, 0x400);
	aml_crs_end(&a, crs);
	assert_aml(&a, 0x08, '_', 'C', 'R', 'S', 0x11, 28, 0x0a, 25, 0x47, 1, 0xf8, 3, 0xf8, 3, 1,
	    8, 0x22, 0x10, 0, 0x86, 9, 0, 1, 0, 0, 0xd0, 0xfe, 0, 4, 0, 0, 0x79, 0);
	aml_res_bus_window(&a, 0, 255);
	assert_aml(&a, 0x88, 13, 0, 2, 0x0c, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 1);
	aml_res_mem_window(&a, 0xc0000000, 0xdfffffff);
	assert_aml(&a, 0x87, 23, 0, 0, 0x0c, 1, 0, 0, 0, 0, 0, 0, 0, 0xc0, 0xff, 0xff, 0xff, 0xdf,
	    0, 0, 0, 0, 0, 0, 0, 0x20);
	aml_res_mem_window(&a, GIB(64), GIB(128) - 1);
	assert_int_equal(a.len, 46);
	assert_int_equal(a.buf[0], 0x8a);
	aml_free(&a);
}

/* --- The tables --- */

static const struct acpi_device devices[] = {
	{ .name = "COM1", .hid = "PNP0501", .uid = 1, .res = { ACPI_IO(0x3f8, 8), ACPI_IRQ(4) } },
	{ .name = "COM2", .hid = "PNP0501", .uid = 2, .res = { ACPI_IO(0x2f8, 8), ACPI_IRQ(3) } },
	{ .name = "FWCF", .hid = "QEMU0002", .res = { ACPI_IO(0x510, 12) } },
	{ .name = "NONE", .hid = "PNP0C01" },
};
static const struct acpi_prt prt[] = {
	{ .slot = 1, .pin = 0, .gsi = 16, .irq = 5 },
	{ .slot = 1, .pin = 1, .gsi = 17 },
	{ .slot = 31, .pin = 3, .gsi = 23, .irq = 6 },
};
static const struct acpi_pci pci = {
	.bus_last = 255,
	.ecam = 0xe0000000,
	.mem32_base = 0xc0000000, .mem32_limit = 0xdfffffff,
	.mem64_base = GIB(512), .mem64_limit = GIB(1024) - 1,
	.isa_slot = 31,
	.prt = prt, .prt_count = ARRAY_SIZE(prt),
};
static const struct acpi_pci pci_plain = {
	.mem32_base = 0xc0000000, .mem32_limit = 0xdfffffff, .isa_slot = -1,
};

/* The machines to test: bare, everything, and in between. */
static void
params_make(struct acpi_params *p, int which)
{
	*p = (struct acpi_params){ .i8042 = which != 3 };
	if (which == 0)
		return;
	p->devices = devices;
	p->device_count = ARRAY_SIZE(devices);
	p->hpet = true;
	if (which == 2) {
		p->pci = &pci;
		p->vga = true;
		p->i8042_aux = true;
	} else if (which == 3) {
		p->pci = &pci_plain;
	}
}
#define PARAMS_COUNT 4

static struct vm *
vm_build(int which, struct x86_topology topo)
{
	struct vm *vm = fw_vm_create_topo(MIB(16), topo, NULL);
	struct acpi_params p;
	uint64_t rsdp = 0;

	params_make(&p, which);
	assert_int_equal(acpi_build(vm, &p, &rsdp), 0);
	assert_int_equal(rsdp, 0xf2400);
	return vm;
}

/* The address of the table with this signature, its sum checked; 0 when there is none. */
static uint64_t
table_find(struct vm *vm, const char *signature)
{
	uint64_t xsdt = fw_u64(vm, 0xf2400 + 24), found = 0;
	uint32_t len = fw_u32(vm, xsdt + 4);

	for (uint64_t at = xsdt + 36; at < xsdt + len; at += 8) {
		uint64_t table = fw_u64(vm, at);
		uint32_t sig = fw_u32(vm, table);

		assert_int_equal(fw_sum(vm, table, fw_u32(vm, table + 4)), 0);
		if (memcmp(&sig, signature, 4) == 0) {
			assert_int_equal(found, 0);
			found = table;
		}
	}
	return found;
}

static void
test_links(void **state)
{
	for (int which = 0; which < PARAMS_COUNT; which++) {
		struct vm *vm = vm_build(which, (struct x86_topology){ 2, 1, 1 });
		uint64_t rsdt, xsdt, fadt, dsdt, facs;
		char sig[8];

		fw_read(vm, 0xf2400, sig, 8);
		assert_memory_equal(sig, "RSD PTR ", 8);
		assert_int_equal(fw_sum(vm, 0xf2400, 20), 0);
		assert_int_equal(fw_sum(vm, 0xf2400, 36), 0);
		rsdt = fw_u32(vm, 0xf2400 + 16);
		xsdt = fw_u64(vm, 0xf2400 + 24);
		assert_int_equal(fw_sum(vm, rsdt, fw_u32(vm, rsdt + 4)), 0);
		assert_int_equal(fw_sum(vm, xsdt, fw_u32(vm, xsdt + 4)), 0);
		assert_int_equal((fw_u32(vm, rsdt + 4) - 36) * 2, fw_u32(vm, xsdt + 4) - 36);
		for (uint32_t i = 0; i < (fw_u32(vm, rsdt + 4) - 36) / 4; i++)
			assert_int_equal(
			    fw_u32(vm, rsdt + 36 + 4 * i), fw_u64(vm, xsdt + 36 + 8 * i));

		fadt = table_find(vm, "FACP");
		assert_int_equal(fw_u32(vm, fadt + 4), 276);
		facs = fw_u32(vm, fadt + 36);
		dsdt = fw_u32(vm, fadt + 40);
		assert_int_equal(fw_u64(vm, fadt + 140), dsdt);
		assert_int_equal(facs % 64, 0);
		assert_int_equal(fw_u32(vm, facs), 0x53434146);
		assert_int_equal(fw_u32(vm, dsdt), 0x54445344);
		assert_int_equal(fw_sum(vm, dsdt, fw_u32(vm, dsdt + 4)), 0);
		assert_int_not_equal(table_find(vm, "APIC"), 0);
		assert_int_equal(table_find(vm, "HPET") != 0, which != 0);
		assert_int_equal(table_find(vm, "MCFG") != 0, which == 2);
		vm_destroy(vm);
	}
}

/* 5.2.9, for the bare machine */
static void
test_fadt(void **state)
{
	struct vm *vm = vm_build(0, (struct x86_topology){ 1, 1, 1 });
	uint64_t fadt = table_find(vm, "FACP");

	assert_int_equal(fw_u32(vm, fadt + 46) & 0xffff, 9);
	assert_int_equal(fw_u32(vm, fadt + 48), 0xb2);
	assert_int_equal(fw_u32(vm, fadt + 52) & 0xffff, 0xa1a0);
	assert_int_equal(fw_u32(vm, fadt + 56), 0x400);
	assert_int_equal(fw_u32(vm, fadt + 64), 0x404);
	assert_int_equal(fw_u32(vm, fadt + 76), 0x408);
	assert_int_equal(fw_u32(vm, fadt + 80), 0x40c);
	assert_int_equal(fw_u32(vm, fadt + 88), 0x04000204);
	/* legacy devices, 8042, no VGA, no ASPM; WBINVD, C1, no sleep button, RTC, 32-bit timer,
	 * reset */
	assert_int_equal(fw_u32(vm, fadt + 109) & 0xffff, 0x17);
	assert_int_equal(fw_u32(vm, fadt + 112), 0x565);
	assert_int_equal(fw_u32(vm, fadt + 116), 0x01000801);
	assert_int_equal(fw_u64(vm, fadt + 120), 0xcf9);
	assert_int_equal(fw_u32(vm, fadt + 128) & 0xff, 6);
	assert_int_equal(fw_u64(vm, fadt + 152), 0x400);
	vm_destroy(vm);
}

/* 5.2.12: what the entries of each type say, from a walk over them. */
static void
test_madt(void **state)
{
	const struct x86_topology topo = { 300, 1, 1 };
	struct aml a;
	uint32_t lapics = 0, x2apics = 0;
	size_t off = 44;

	aml_init(&a);
	acpi_madt_build(&a, &topo);
	aml_table_end(&a);
	assert_int_equal(aml_error(&a), 0);
	assert_int_equal((uint8_t)-aml_checksum(a.buf, a.len), 0);
	while (off < a.len) {
		const uint8_t *e = a.buf + off;

		assert_true(e[1] >= 2 && off + e[1] <= a.len);
		switch (e[0]) {
		case 0:
			assert_memory_equal(e,
			    ((uint8_t[]){ 0, 8, (uint8_t)lapics, (uint8_t)lapics, 1, 0, 0, 0 }), 8);
			lapics++;
			break;
		case 1:
			assert_memory_equal(e,
			    ((uint8_t[]){ 1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0 }), 12);
			break;
		case 2:
			if (e[3] == 0)
				assert_memory_equal(
				    e, ((uint8_t[]){ 2, 10, 0, 0, 2, 0, 0, 0, 0, 0 }), 10);
			else
				assert_memory_equal(e,
				    ((uint8_t[]){ 2, 10, 0, 9, 9, 0, 0, 0, 0xf, 0 }), 10);
			break;
		case 4: assert_memory_equal(e, ((uint8_t[]){ 4, 6, 0xff, 0, 0, 1 }), 6); break;
		case 9:
			assert_int_equal(e[1], 16);
			assert_int_equal(e[4] | e[5] << 8, 255 + x2apics);
			assert_int_equal(e[12] | e[13] << 8, 255 + x2apics);
			x2apics++;
			break;
		case 10: assert_int_equal(e[1], 12); break;
		default: fail_msg("type %u", e[0]);
		}
		off += e[1];
	}
	assert_int_equal(off, a.len);
	assert_int_equal(lapics, 255);
	assert_int_equal(x2apics, 45);
	aml_free(&a);
}

/* Processors take the APIC IDs of their place in the topology. */
static void
test_madt_topology(void **state)
{
	const struct x86_topology topo = { 2, 3, 1 };
	struct aml a;

	aml_init(&a);
	acpi_madt_build(&a, &topo);
	for (uint32_t i = 0; i < 6; i++) {
		assert_int_equal(a.buf[44 + 8 * i + 2], i);
		assert_int_equal(a.buf[44 + 8 * i + 3], x86_topology_apic_id(&topo, i));
	}
	assert_int_equal(a.buf[44 + 8 * 3 + 3], 4);
	aml_free(&a);
}

/* --- iasl --- */

static void
table_dump(struct vm *vm, uint64_t at, size_t len, const char *dir, const char *name)
{
	uint8_t *buf = malloc(len);
	char path[256];
	FILE *f;

	assert_non_null(buf);
	fw_read(vm, at, buf, len);
	snprintf(path, sizeof(path), "%s/%s.aml", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(buf, 1, len, f), len);
	fclose(f);
	free(buf);
}

/* Disassembles and compiles again; prints what iasl said when it found a fault. */
static void
table_iasl(const char *dir, const char *name)
{
	char cmd[1024];

	snprintf(cmd, sizeof(cmd),
	    "cd %s && { iasl -d %s.aml && { ! grep -iE 'warning|error|invalid' %s.dsl; } && "
	    "iasl -p again %s.dsl; } >log 2>&1 && "
	    "{ ! grep -E '[1-9][0-9]* (Errors|Warnings)' log; } || "
	    "{ cat %s/log >&2; exit 1; }",
	    dir, name, name, name, dir);
	if (system(cmd) != 0)
		fail_msg("iasl finds fault with the %s", name);
}

static void
test_iasl(void **state)
{
	static const char *const tables[] = { "FACP", "APIC", "HPET", "MCFG" };
	char dir[] = "/tmp/bhyve-test-acpi-XXXXXX", cmd[64];

	if (system("iasl -v >/dev/null 2>&1") != 0) {
		print_message("skipped: iasl (acpica-tools) is not installed\n");
		skip();
	}
	assert_non_null(mkdtemp(dir));
	for (int which = 0; which < PARAMS_COUNT; which++) {
		struct vm *vm = vm_build(which, (struct x86_topology){ 4, 2, 2 });
		uint64_t fadt = table_find(vm, "FACP"), dsdt = fw_u32(vm, fadt + 40);

		table_dump(vm, dsdt, fw_u32(vm, dsdt + 4), dir, "dsdt");
		table_iasl(dir, "dsdt");
		table_dump(vm, fw_u32(vm, fadt + 36), 64, dir, "facs");
		table_iasl(dir, "facs");
		for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
			uint64_t at = table_find(vm, tables[i]);

			if (at == 0)
				continue;
			table_dump(vm, at, fw_u32(vm, at + 4), dir, tables[i]);
			table_iasl(dir, tables[i]);
		}
		vm_destroy(vm);
	}
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	assert_int_equal(system(cmd), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_aml_objects),
		cmocka_unit_test(test_aml_lengths),
		cmocka_unit_test(test_aml_overflow),
		cmocka_unit_test(test_aml_resources),
		cmocka_unit_test(test_links),
		cmocka_unit_test(test_fadt),
		cmocka_unit_test(test_madt),
		cmocka_unit_test(test_madt_topology),
		cmocka_unit_test(test_iasl),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
