/*
 * What the host offers. /dev/kvm existing proves nothing: there are kernels that offer it without
 * hardware behind it, and unmodified guests then fail or crawl.
 */
#include "engine/kvm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* The only version there has ever been (api.rst 4.1) */
#define KVM_HOST_API 12
#define KVM_HOST_PATH 256

/* What the engine does not do without; the newest, immediate_exit, came with Linux 4.11. */
static const struct {
	int cap;
	const char *name;
} kvm_host_needs[] = {
	{ KVM_CAP_USER_MEMORY, "user memory" },
	{ KVM_CAP_READONLY_MEM, "read-only memory" },
	{ KVM_CAP_SPLIT_IRQCHIP, "split irqchip" },
	{ KVM_CAP_SIGNAL_MSI, "MSI" },
	{ KVM_CAP_IRQFD, "irqfd" },
	{ KVM_CAP_IOEVENTFD, "ioeventfd" },
	{ KVM_CAP_MP_STATE, "multiprocessing state" },
	{ KVM_CAP_VCPU_EVENTS, "vCPU events" },
	{ KVM_CAP_DEBUGREGS, "debug registers" },
	{ KVM_CAP_XSAVE, "XSAVE" },
	{ KVM_CAP_GET_TSC_KHZ, "TSC frequency" },
	{ KVM_CAP_IMMEDIATE_EXIT, "immediate exit" },
};

int
kvm_cap(int fd, int cap)
{
	int n = ioctl(fd, KVM_CHECK_EXTENSION, (unsigned long)cap);

	return MAX(n, 0);
}

/* A module's parameter: -1 when the module is not there, else whether it says yes. */
static int
kvm_host_param(const char *root, const char *name)
{
	char path[KVM_HOST_PATH], text[8] = "";
	FILE *f;

	snprintf(path, sizeof(path), "%s/sys/module/%s", root, name);
	f = fopen(path, "re");
	if (f == NULL)
		return -1;
	if (fgets(text, sizeof(text), f) == NULL)
		text[0] = '\0';
	fclose(f);
	return text[0] == 'Y' || text[0] == '1';
}

static bool
kvm_host_has_word(const char *line, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = line; (p = strstr(p, word)) != NULL; p += len) {
		if (p != line && (p[-1] == ' ' || p[-1] == '\t') &&
		    (p[len] == ' ' || p[len] == '\n' || p[len] == '\0'))
			return true;
	}
	return false;
}

/* The first processor's flags. */
static void
kvm_host_flags(const char *root, struct kvm_host *out)
{
	char path[KVM_HOST_PATH], *line = NULL;
	size_t room = 0;
	FILE *f;

	snprintf(path, sizeof(path), "%s/proc/cpuinfo", root);
	f = fopen(path, "re");
	if (f == NULL)
		return;
	while (getline(&line, &room, f) > 0 && line[0] != '\n') {
		if (strncmp(line, "flags", 5) != 0)
			continue;
		out->vmx = kvm_host_has_word(line, "vmx");
		out->svm = kvm_host_has_word(line, "svm");
		out->npt = kvm_host_has_word(line, "npt");
	}
	free(line);
	fclose(f);
}

static void
kvm_host_open(struct kvm_host *out)
{
	int fd = open(KVM_DEVICE, O_RDWR | O_CLOEXEC);

	if (fd < 0) {
		out->open_error = errno;
		return;
	}
	out->api_version = ioctl(fd, KVM_GET_API_VERSION, 0);
	for (size_t i = 0; i < ARRAY_SIZE(kvm_host_needs) && out->missing == NULL; i++) {
		if (kvm_cap(fd, kvm_host_needs[i].cap) == 0)
			out->missing = kvm_host_needs[i].name;
	}
	close(fd);
}

void
kvm_host_read(const char *root, bool device, struct kvm_host *out)
{
	char path[KVM_HOST_PATH];

	*out = (struct kvm_host){ .api_version = KVM_HOST_API };
	if (device)
		kvm_host_open(out);
	kvm_host_flags(root, out);
	out->intel_ept = kvm_host_param(root, "kvm_intel/parameters/ept");
	out->intel_unrestricted = kvm_host_param(root, "kvm_intel/parameters/unrestricted_guest");
	out->amd_npt = kvm_host_param(root, "kvm_amd/parameters/npt");
	snprintf(path, sizeof(path), "%s/sys/module/kvm_pvm", root);
	out->pvm = access(path, F_OK) == 0;
}

/* Why /dev/kvm cannot be opened, and what to do about it. */
static void
kvm_host_judge_open(const struct kvm_host *h, struct engine_probe *out)
{
	const char *what = strerror(h->open_error), *todo;

	switch (h->open_error) {
	case EACCES:
	case EPERM: todo = "add the user to the group that owns it (kvm)"; break;
	case ENOENT:
	case ENODEV:
	case ENXIO:
		if (h->svm)
			todo = "load the module kvm_amd";
		else if (h->vmx)
			todo = "load the module kvm_intel";
		else
			todo = "the processor shows neither VT-x nor AMD-V: see the BIOS, or the "
			       "outer hypervisor's nesting";
		break;
	default: todo = "see the kernel's log"; break;
	}
	snprintf(out->why, sizeof(out->why), "%s: %s; %s", KVM_DEVICE, what, todo);
}

/* What is behind a device that opened. */
static void
kvm_host_judge_hardware(const struct kvm_host *h, struct engine_probe *out)
{
	if (h->intel_ept == 1 && h->intel_unrestricted == 1) {
		out->hardware = true;
		snprintf(out->why, sizeof(out->why), "Intel VT-x with EPT and unrestricted guest");
	} else if (h->amd_npt == 1) {
		out->hardware = true;
		snprintf(out->why, sizeof(out->why), "AMD-V with nested paging");
	} else if (h->intel_ept == 0 || h->intel_unrestricted == 0) {
		snprintf(out->why, sizeof(out->why), "VT-x, but without %s: see kvm_intel's parameters",
		    h->intel_ept == 0 ? "EPT" : "unrestricted guest");
	} else if (h->amd_npt == 0) {
		snprintf(out->why, sizeof(out->why),
		    "AMD-V, but without nested paging: see kvm_amd's parameters");
	} else if (h->pvm) {
		snprintf(out->why, sizeof(out->why),
		    "%s has no hardware behind it (module kvm_pvm), only guests made for that run well",
		    KVM_DEVICE);
	} else if (h->svm && h->npt) {
		/* No sysfs, in a container maybe, but a device that opens. */
		out->hardware = true;
		snprintf(out->why, sizeof(out->why), "AMD-V with nested paging");
	} else {
		snprintf(out->why, sizeof(out->why),
		    "%s opens, but nothing says that VT-x with EPT or AMD-V with nested paging is behind it",
		    KVM_DEVICE);
	}
}

void
kvm_host_judge(const struct kvm_host *h, struct engine_probe *out)
{
	*out = (struct engine_probe){ 0 };
	if (h->open_error != 0) {
		kvm_host_judge_open(h, out);
	} else if (h->api_version != KVM_HOST_API) {
		snprintf(out->why, sizeof(out->why), "%s speaks version %d of its API, not %d",
		    KVM_DEVICE, h->api_version, KVM_HOST_API);
	} else if (h->missing != NULL) {
		snprintf(out->why, sizeof(out->why),
		    "this kernel's KVM is too old, it lacks: %s; Linux 4.11 has it", h->missing);
	} else {
		out->usable = true;
		kvm_host_judge_hardware(h, out);
	}
}
