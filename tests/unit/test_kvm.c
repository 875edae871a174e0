/*
 * What KVM on a host is worth: hosts as recorded, and what is said of each.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/kvm/kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GOOD .api_version = 12
#define NO_MODULE .intel_ept = -1, .intel_unrestricted = -1, .amd_npt = -1

static const struct host_case {
	struct kvm_host host;
	bool usable, hardware;
	const char *why;
} hosts[] = {
	/* A current Intel, a current AMD. */
	{ { GOOD, .vmx = true, .intel_ept = 1, .intel_unrestricted = 1, .amd_npt = -1 }, true, true,
	    "Intel VT-x with EPT and unrestricted guest" },
	{ { GOOD, .svm = true, .npt = true, .intel_ept = -1, .intel_unrestricted = -1, .amd_npt = 1 },
	    true, true, "AMD-V with nested paging" },
	/* Nehalem has EPT, real mode in hardware came with Westmere; Core 2 has neither. */
	{ { GOOD, .vmx = true, .intel_ept = 1, .intel_unrestricted = 0, .amd_npt = -1 }, true, false,
	    "VT-x, but without unrestricted guest: see kvm_intel's parameters" },
	{ { GOOD, .vmx = true, .intel_ept = 0, .intel_unrestricted = 0, .amd_npt = -1 }, true, false,
	    "VT-x, but without EPT: see kvm_intel's parameters" },
	{ { GOOD, .svm = true, .intel_ept = -1, .intel_unrestricted = -1, .amd_npt = 0 }, true, false,
	    "AMD-V, but without nested paging: see kvm_amd's parameters" },
	/* A guest of a cloud's, with KVM but nothing behind it. */
	{ { GOOD, NO_MODULE, .pvm = true }, true, false,
	    "/dev/kvm has no hardware behind it (module kvm_pvm), only guests made for that run well" },
	{ { GOOD, NO_MODULE }, true, false,
	    "/dev/kvm opens, but nothing says that VT-x with EPT or AMD-V with nested paging is behind "
	    "it" },
	/* A container without sysfs. */
	{ { GOOD, NO_MODULE, .svm = true, .npt = true }, true, true, "AMD-V with nested paging" },
	/* No device, for several reasons. */
	{ { GOOD, NO_MODULE, .open_error = ENOENT }, false, false,
	    "/dev/kvm: No such file or directory; the processor shows neither VT-x nor AMD-V: see the "
	    "BIOS, or the outer hypervisor's nesting" },
	{ { GOOD, NO_MODULE, .open_error = ENOENT, .vmx = true }, false, false,
	    "/dev/kvm: No such file or directory; load the module kvm_intel" },
	{ { GOOD, NO_MODULE, .open_error = ENODEV, .svm = true }, false, false,
	    "/dev/kvm: No such device; load the module kvm_amd" },
	{ { GOOD, .amd_npt = 1, .svm = true, .open_error = EACCES }, false, false,
	    "/dev/kvm: Permission denied; add the user to the group that owns it (kvm)" },
	{ { GOOD, .amd_npt = 1, .svm = true, .open_error = EMFILE }, false, false,
	    "/dev/kvm: Too many open files; see the kernel's log" },
	/* A device that is something else, a kernel that is too old. */
	{ { .api_version = -1, .amd_npt = 1 }, false, false,
	    "/dev/kvm speaks version -1 of its API, not 12" },
	{ { GOOD, .amd_npt = 1, .missing = "split irqchip" }, false, false,
	    "this kernel's KVM is too old, it lacks: split irqchip; Linux 4.11 has it" },
};

static void
test_judge(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
		struct engine_probe probe;

		kvm_host_judge(&hosts[i].host, &probe);
		assert_string_equal(probe.why, hosts[i].why);
		assert_int_equal(probe.usable, hosts[i].usable);
		assert_int_equal(probe.hardware, hosts[i].hardware);
	}
}

/* --- Hosts as their files show them --- */

struct host_file {
	const char *path, *text;
};

static void
host_write(const char *root, const struct host_file *f)
{
	char path[256];
	FILE *out;

	snprintf(path, sizeof(path), "%s%s", root, f->path);
	for (char *p = path + strlen(root) + 1; (p = strchr(p, '/')) != NULL; p++) {
		*p = '\0';
		(void)mkdir(path, 0755);
		*p = '/';
	}
	out = fopen(path, "w");
	assert_non_null(out);
	fputs(f->text, out);
	fclose(out);
}

static struct kvm_host
host_read(const struct host_file *files, size_t n)
{
	char root[] = "/tmp/test_kvm.XXXXXX", command[64];
	struct kvm_host h;

	assert_non_null(mkdtemp(root));
	for (size_t i = 0; i < n; i++)
		host_write(root, &files[i]);
	kvm_host_read(root, false, &h);
	snprintf(command, sizeof(command), "rm -r %s", root);
	assert_int_equal(system(command), 0);
	return h;
}

static void
test_read(void **state)
{
	static const struct host_file intel[] = {
		{ "/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vme vmx smx est\nvmx flags\t: npt\n\n"
				   "processor\t: 1\nflags\t\t: fpu svm\n" },
		{ "/sys/module/kvm_intel/parameters/ept", "Y\n" },
		{ "/sys/module/kvm_intel/parameters/unrestricted_guest", "N\n" },
	};
	static const struct host_file amd[] = {
		{ "/proc/cpuinfo", "flags\t\t: fpu svm svm_lock xvmx npt\n" },
		{ "/sys/module/kvm_amd/parameters/npt", "1\n" }, /* before Linux 5.13 */
		{ "/sys/module/kvm_pvm/refcnt", "0\n" },
	};
	struct kvm_host h;

	h = host_read(intel, ARRAY_SIZE(intel));
	assert_true(h.vmx && !h.svm && !h.npt && !h.pvm);
	assert_int_equal(h.intel_ept, 1);
	assert_int_equal(h.intel_unrestricted, 0);
	assert_int_equal(h.amd_npt, -1);
	h = host_read(amd, ARRAY_SIZE(amd));
	assert_true(!h.vmx && h.svm && h.npt && h.pvm);
	assert_int_equal(h.amd_npt, 1);
	assert_int_equal(h.intel_ept, -1);
	/* Nothing at all. */
	h = host_read(NULL, 0);
	assert_true(!h.vmx && !h.svm && h.amd_npt == -1);
}

/* --- The choice --- */

static void
test_choose(void **state)
{
	const struct engine_ops *engine = NULL;
	struct engine_probe probe;
	char why[ENGINE_WHY_SIZE], want[ENGINE_WHY_SIZE];

	engines[0]->probe(&probe);
	assert_string_equal(engines[0]->name, "kvm");
	assert_int_equal(engine_choose("auto", &engine, why, sizeof(why)), 0);
	assert_string_equal(engine->name, probe.hardware && probe.usable ? "kvm" : "bt");
	if (!probe.hardware) {
		snprintf(want, sizeof(want), "; not kvm: %.130s", probe.why);
		assert_non_null(strstr(why, want));
	}
	assert_int_equal(engine_choose("bt", &engine, why, sizeof(why)), 0);
	assert_null(strstr(why, "not kvm"));
	assert_int_equal(engine_choose("kvm", &engine, why, sizeof(why)),
	    probe.usable ? 0 : -ENOTSUP);
	snprintf(want, sizeof(want), "kvm: %s", probe.why);
	assert_string_equal(why, want);
	assert_int_equal(engine_choose("vmm", &engine, why, sizeof(why)), -ENOENT);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_judge),
		cmocka_unit_test(test_read),
		cmocka_unit_test(test_choose),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
