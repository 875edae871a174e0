/*
 * The configuration tree as a whole: which variables exist, what their values may be, the exact
 * message for each mistake.
 */
#include "bhyve/vars.h"

#include "base/config.h"
#include "bhyve/devices.h"
#include "bhyve/options.h"
#include "capture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LINES_MAX 640

/* A machine that passes; each test adds to it. */
#define BASE "name=vm\nboot.kernel=/dev/null\n"

/* The tree that text describes. */
static struct config *
tree(const char *text)
{
	struct config *root = config_create();

	assert_int_equal(options_parse_text(root, "test", text, strlen(text)), 0);
	return root;
}

static int
check(const char *base, const char *text, struct capture *said)
{
	char lines[LINES_MAX];
	struct config *root;
	int err;

	snprintf(lines, sizeof(lines), "%s%s", base, text);
	root = tree(lines);
	capture_begin(said);
	err = vars_check(root);
	capture_end(said);
	config_destroy(root);
	return err;
}

/* --- Good --- */

static void
test_good(void **state)
{
	static const char *const good[] = {
		"",
		"acpi_tables=false",
		"bios.vendor=a\nbios.version=b\nbios.release_date=01/01/2024",
		"board.manufacturer=a\nboard.product_name=b\nboard.version=c\n"
		"board.serial_number=d\nboard.asset_tag=e\nboard.location=f",
		"chassis.manufacturer=a\nchassis.version=b\nchassis.serial_number=c\n"
		"chassis.asset_tag=d\nchassis.sku=e",
		"system.family_name=a\nsystem.manufacturer=b\nsystem.product_name=c\n"
		"system.serial_number=d\nsystem.sku=e\nsystem.version=f",
		"boot.initrd=/dev/null\nboot.cmdline=console=ttyS0",
		"bt.stats=1",
		"config.dump=Off",
		"cpus=4",
		"cpus=0x10",
		"cpus=255",
		"cpus=8\nsockets=2\ncores=2\nthreads=2",
		"cpus=4\ncores=4",
		"cores=3",
		"destroy_on_poweroff=yes",
		"engine=auto",
		"lpc.com1.path=stdio\nlpc.com2.path=pty\nlpc.com3.path=pty\nlpc.com4.path=",
		"lpc.pc-testdev=true",
		"lpc.pcireg.vendor=0x8086\nlpc.pcireg.device=host\nlpc.pcireg.revid=1\n"
		"lpc.pcireg.subvendor=2\nlpc.pcireg.subdevice=3",
		"pci.0.0.0.device=hostbridge\npci.0.0.0.pcireg.vendor=1\npci.0.31.0.device=lpc",
		"memory.size=1M\nmemory.wired=on\nmemory.guest_in_core=1",
		"rtc.use_localtime=no",
		"uuid=01234567-89ab-CDEF-0123-456789abcdef",
		"cpus=2\nvcpu.0.cpuset=0\nvcpu.1.cpuset=0-1",
		"x86.mptable=0\nx86.strictio=TRUE\nx86.strictmsr=false\nx86.vmexit_on_hlt=yes\n"
		"x86.vmexit_on_pause=yes\nx86.x2apic=off",
		/* Variables of the user's own, for others to refer to. */
		"my.dir=/dev\nboot.initrd=%(my.dir)/null",
		"a=%(b)\nb=/dev/null\nboot.initrd=%(a)",
	};
	struct capture said;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		int err = check(BASE, good[i], &said);

		assert_string_equal(said.text, "");
		assert_int_equal(err, 0);
	}
}

/* --- Bad --- */

#define UNKNOWN "no such variable, and no other refers to it: see bhyve_config(5)"
#define BOOL_FORM "expected true, on, yes, 1 or false, off, no, 0"
#define SIZE_FORM "expected a number with an optional K, M, G or T, such as 512M"

static const struct bad {
	const char *text;
	const char *message; /* between "bhyve: " and the line's end */
} bad[] = {
	/* Values */
	{ "acpi_tables=maybe", "acpi_tables (-A): 'maybe': " BOOL_FORM },
	{ "bt.stats=all", "bt.stats: 'all': " BOOL_FORM },
	{ "config.dump=", "config.dump: '': " BOOL_FORM },
	{ "x86.strictio=2", "x86.strictio (-e): '2': " BOOL_FORM },
	{ "boot.kernel=/nonexistent",
	    "boot.kernel: '/nonexistent': cannot read the file: No such file or directory" },
	{ "boot.initrd=/nonexistent",
	    "boot.initrd: '/nonexistent': cannot read the file: No such file or directory" },
	{ "cpus=0", "cpus (-c): '0': expected 1 to 255" },
	{ "cpus=256", "cpus (-c): '256': expected 1 to 255" },
	{ "cpus=99999999999999999999", "cpus (-c): '99999999999999999999': expected 1 to 255" },
	{ "cpus=two", "cpus (-c): 'two': expected 1 to 255" },
	{ "cpus=-1", "cpus (-c): '-1': expected 1 to 255" },
	{ "cpus=1 ", "cpus (-c): '1 ': expected 1 to 255" },
	{ "sockets=0", "sockets (-c): '0': expected 1 to 255" },
	{ "cores=0", "cores (-c): '0': expected 1 to 255" },
	{ "threads=x", "threads (-c): 'x': expected 1 to 255" },
	{ "engine=", "engine: '': expected auto" },
	{ "engine=qemu", "engine: 'qemu': expected auto" },
	{ "lpc.com1.path=null",
	    "lpc.com1.path (-l com1): 'null': "
	    "expected stdio, pty, tcp=ip:port, unix=path or /dev/..." },
	{ "memory.size=", "memory.size (-m): '': " SIZE_FORM },
	{ "memory.size=lots", "memory.size (-m): 'lots': " SIZE_FORM },
	{ "memory.size=1X", "memory.size (-m): '1X': " SIZE_FORM },
	{ "memory.size=1MB", "memory.size (-m): '1MB': " SIZE_FORM },
	{ "memory.size=-1", "memory.size (-m): '-1': " SIZE_FORM },
	{ "memory.size=1.5G", "memory.size (-m): '1.5G': " SIZE_FORM },
	{ "memory.size=99999999999T",
	    "memory.size (-m): '99999999999T': larger than any memory" },
	{ "name=a/b", "name: 'a/b': expected a name of letters, digits, '.', '_' and '-'" },
	{ "name=", "name: '': expected a name of letters, digits, '.', '_' and '-'" },
	{ "name=-a", "name: '-a': expected a name of letters, digits, '.', '_' and '-'" },
	{ "name=..", "name: '..': expected a name of letters, digits, '.', '_' and '-'" },
	{ "uuid=123",
	    "uuid (-U): '123': expected a UUID such as 01234567-89ab-cdef-0123-456789abcdef" },
	{ "uuid=01234567-89ab-cdef-0123-456789abcdef0",
	    "uuid (-U): '01234567-89ab-cdef-0123-456789abcdef0': "
	    "expected a UUID such as 01234567-89ab-cdef-0123-456789abcdef" },
	{ "uuid=0123456789ab-cdef-0123-456789abcdef0000",
	    "uuid (-U): '0123456789ab-cdef-0123-456789abcdef0000': "
	    "expected a UUID such as 01234567-89ab-cdef-0123-456789abcdef" },
	{ "bios.vendor=%(bios.vendor)",
	    "bios.vendor: its value refers to itself, or to too much" },

	/* Values that do not fit each other */
	{ "cpus=4\nsockets=3", "cpus (-c): '4': expected the product of 3 sockets, 1 cores and "
			       "1 threads: 3" },
	{ "cpus=4\ncores=2\nthreads=3",
	    "cpus (-c): '4': expected the product of 1 sockets, 2 cores and 3 threads: 6" },
	{ "cpus=2\nvcpu.2.cpuset=0",
	    "vcpu.N.cpuset (-p): there is no virtual CPU 2: expected 0 to 1" },
	{ "lpc.com1.path=stdio\nlpc.com4.path=stdio",
	    "lpc.com4.path (-l com4): 'stdio': lpc.com1.path uses it already" },

	/* Variables that do not exist */
	{ "cpu=1", "cpu: " UNKNOWN },
	{ "cpus.x=1", "cpus.x: " UNKNOWN },
	{ "lpc.com5.path=stdio", "lpc.com5.path: " UNKNOWN },
	{ "lpc.com1=stdio", "lpc.com1: " UNKNOWN },
	{ "vcpu.01.cpuset=0", "vcpu.01.cpuset: " UNKNOWN },
	{ "vcpu.x.cpuset=0", "vcpu.x.cpuset: " UNKNOWN },
	{ "x86=1", "x86: " UNKNOWN },
	{ "a=%(b)", "a: " UNKNOWN },
	{ "a=%(b)\nb=%(a)", "a: its value refers to itself, or to too much" },

	/* Parts that are not there yet */
	{ "domains.0.size=1G", "domains.0.size (-n): NUMA emulation is not available yet" },
	{ "domains.0.cpus=0", "domains.0.cpus (-n): NUMA emulation is not available yet" },
	{ "fwcfg.file.0.name=a",
	    "fwcfg.file.0.name (-f): the fw_cfg interface is not available yet" },
	{ "gdb.port=1234", "gdb.port (-G): the debug server is not available yet" },
	{ "gdb.wait=true", "gdb.wait (-G): the debug server is not available yet" },
	{ "gdb.address=::1", "gdb.address (-G): the debug server is not available yet" },
	{ "keyboard.layout=de", "keyboard.layout (-K): the VNC display is not available yet" },
	{ "lpc.bootrom=/dev/null", "lpc.bootrom (-l bootrom): the boot ROM is not available yet" },
	{ "lpc.bootvars=/dev/null",
	    "lpc.bootvars (-l bootrom): the boot ROM is not available yet" },
	{ "lpc.fwcfg=qemu", "lpc.fwcfg (-l fwcfg): the fw_cfg interface is not available yet" },
	{ "restore=/dev/null", "restore (-r): resuming a snapshot is not available yet" },
	{ "tpm.type=swtpm", "tpm.type (-l tpm): the TPM is not available yet" },
	{ "virtio_msix=perhaps",
	    "virtio_msix (-W): 'perhaps': expected true, on, yes, 1 or false, off, no, 0" },

	/* PCI devices */
	{ "pci.0.3.0.device=nope", "pci.0.3.0.device: 'nope' is no device: see -s help" },
	{ "pci.0.3.0.device=hda",
	    "pci.0.3.0.device: 'hda' is not available yet: see -s help" },
	{ "pci.1.0.0.device=lpc", "pci.1.0.0: expected bus 0: there is no other" },
	{ "pci.0.3.0.device=hostbridge\npci.0.3.0.path=x", "pci.0.3.0.path: " UNKNOWN },
	{ "lpc.pcireg.color=1", "lpc.pcireg.color: " UNKNOWN },
	{ "pci.0.3.0.path=/dev/null",
	    "pci.0.3.0.path: expected pci.0.3.0.device to name a device" },
	{ "pci.0.3.device=lpc",
	    "pci.0.3.device: expected pci.bus.slot.function with 0 to 255, 0 to 31, 0 to 7" },
	{ "pci.0.32.0.device=lpc",
	    "pci.0.32.0.device: expected pci.bus.slot.function with 0 to 255, 0 to 31, 0 to 7" },
	{ "pci.256.0.0.device=lpc",
	    "pci.256.0.0.device: expected pci.bus.slot.function with 0 to 255, 0 to 31, 0 to 7" },
	{ "pci.0.0.8.device=lpc",
	    "pci.0.0.8.device: expected pci.bus.slot.function with 0 to 255, 0 to 31, 0 to 7" },
	{ "pci.0.03.0.device=lpc",
	    "pci.0.03.0.device: expected numbers without leading zeros: pci.0.3.0" },
};

static void
test_bad(void **state)
{
	struct capture said;
	char line[512];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		int err = check(BASE, bad[i].text, &said);
		size_t len;

		len = (size_t)snprintf(line, sizeof(line), "bhyve: %s\n", bad[i].message);
		/* The engines that are built in follow. */
		if (strstr(bad[i].text, "engine=") == bad[i].text)
			said.text[len - 1] = '\n', said.text[len] = '\0';
		assert_string_equal(said.text, line);
		assert_int_equal(err, -EINVAL);
	}
}

static void
test_absent(void **state)
{
	static const struct bad absent[] = {
		{ "", "vmname: the VM has no name: expected one as the last argument" },
		{ "name=vm",
		    "boot.kernel: there is nothing to boot: expected -o boot.kernel=file" },
		{ "name=vm\nboot.initrd=/dev/null",
		    "boot.initrd: '/dev/null': expected boot.kernel with it" },
		{ "name=vm\nboot.cmdline=quiet",
		    "boot.cmdline: 'quiet': expected boot.kernel with it" },
	};
	struct capture said;
	char line[512];

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(absent); i++) {
		assert_int_equal(check("", absent[i].text, &said), -EINVAL);
		snprintf(line, sizeof(line), "bhyve: %s\n", absent[i].message);
		assert_string_equal(said.text, line);
	}
}

/* --- What values mean --- */

static void
test_memory(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} sizes[] = {
		{ "", MIB(256) },
		{ "memory.size=0", 0 },
		{ "memory.size=512", MIB(512) },
		{ "memory.size=0x200", MIB(512) },
		{ "memory.size=1048575", MIB(1048575) },
		{ "memory.size=1048576", MIB(1) },
		{ "memory.size=512K", KIB(512) },
		{ "memory.size=512m", MIB(512) },
		{ "memory.size=3G", GIB(3) },
		{ "memory.size=1t", GIB(1024) },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct config *root = tree(sizes[i].text);
		uint64_t bytes = 1;

		assert_int_equal(vars_memory(root, &bytes), 0);
		assert_int_equal(bytes, sizes[i].bytes);
		config_destroy(root);
	}
}

static void
test_topology(void **state)
{
	static const struct {
		const char *text;
		uint32_t sockets, cores, threads;
	} topologies[] = {
		{ "", 1, 1, 1 },
		{ "cpus=4", 4, 1, 1 },
		{ "cpus=4\ncores=4", 1, 4, 1 },
		{ "cpus=4\nsockets=4", 4, 1, 1 },
		{ "cores=2\nthreads=2", 1, 2, 2 },
		{ "cpus=8\nsockets=2\ncores=2\nthreads=2", 2, 2, 2 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(topologies); i++) {
		struct config *root = tree(topologies[i].text);
		struct x86_topology topo;

		assert_int_equal(vars_topology(root, &topo), 0);
		assert_int_equal(topo.sockets, topologies[i].sockets);
		assert_int_equal(topo.cores, topologies[i].cores);
		assert_int_equal(topo.threads, topologies[i].threads);
		config_destroy(root);
	}
}

/* --- The tables --- */

/* Lists are for people too: in order, and each device with a line of help. */
static void
test_devices_sorted(void **state)
{
	(void)state;
	for (const struct devices_pci *d = devices_pci; d->name != NULL; d++) {
		assert_non_null(d->what);
		assert_ptr_equal(devices_pci_find(d->name), d);
		assert_true(d == devices_pci || strcmp(d[-1].name, d->name) < 0);
	}
	for (const struct devices_lpc *d = devices_lpc; d->name != NULL; d++) {
		assert_non_null(d->what);
		assert_non_null(vars_find(d->var[0]));
		assert_ptr_equal(devices_lpc_find(d->name), d);
		assert_true(d == devices_lpc || strcmp(d[-1].name, d->name) < 0);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_absent),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_topology),
		cmocka_unit_test(test_devices_sorted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
