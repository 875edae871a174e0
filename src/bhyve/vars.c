/*
 * The configuration variables and their checks.
 */
#include "bhyve/vars.h"

#include "base/config.h"
#include "base/log.h"
#include "bhyve/devices.h"
#include "chardev/chardev.h"
#include "engine/engine.h"
#include "pci/pci_host.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define VARS_PATH_MAX 512 /* of a variable's full name */
#define VARS_WHO_MAX 96 /* of a variable and its option in messages */
#define VARS_NAME_MAX 128 /* of a VM's name */
#define VARS_VCPUS_MAX 255 /* xAPIC IDs but the broadcast address; vm_create() has the last word */
#define VARS_MEMORY_DEFAULT MIB(256)

#define VARS_COM(n)                                                                                \
	{                                                                                          \
		.name = "lpc.com" #n ".path", .option = "-l com" #n, .type = VAR_LINE              \
	}

/* Parts that are not there yet. */
#define VARS_NO_DISPLAY .missing = "the VNC display"
#define VARS_NO_FWCFG .missing = "the fw_cfg interface"
#define VARS_NO_GDB .missing = "the debug server"
#define VARS_NO_NUMA .missing = "NUMA emulation"
#define VARS_NO_ROM .missing = "the boot ROM"
#define VARS_NO_SNAPSHOT .missing = "resuming a snapshot"
#define VARS_NO_TPM .missing = "the TPM"

static const struct var vars_table[] = {
	/* The machine */
	{ .name = "name", .type = VAR_NAME },
	{ .name = "engine", .type = VAR_ENGINE },
	{ .name = "bt.stats", .type = VAR_BOOL },
	{ .name = "kvm.cpu" },
	{ .name = "kvm.nested", .type = VAR_BOOL },
	{ .name = "kvm.stats", .type = VAR_BOOL },
	{ .name = "cpus", .option = "-c", .type = VAR_UINT, .min = 1, .max = VARS_VCPUS_MAX },
	{ .name = "sockets", .option = "-c", .type = VAR_UINT, .min = 1, .max = VARS_VCPUS_MAX },
	{ .name = "cores", .option = "-c", .type = VAR_UINT, .min = 1, .max = VARS_VCPUS_MAX },
	{ .name = "threads", .option = "-c", .type = VAR_UINT, .min = 1, .max = VARS_VCPUS_MAX },
	{ .name = "vcpu.N.cpuset", .option = "-p" },
	{ .name = "memory.size", .option = "-m", .type = VAR_SIZE },
	{ .name = "memory.wired", .option = "-S", .type = VAR_BOOL },
	{ .name = "memory.guest_in_core", .option = "-C", .type = VAR_BOOL },
	{ .name = "domains.N.size", .option = "-n", .type = VAR_SIZE, VARS_NO_NUMA },
	{ .name = "domains.N.cpus", .option = "-n", VARS_NO_NUMA },
	{ .name = "domains.N.domain_policy", .option = "-n", VARS_NO_NUMA },
	{ .name = "destroy_on_poweroff", .option = "-D", .type = VAR_BOOL },
	{ .name = "restore", .option = "-r", .type = VAR_FILE, VARS_NO_SNAPSHOT },
	{ .name = "config.dump", .type = VAR_BOOL },
	{ .name = "gdb.address", .option = "-G", VARS_NO_GDB },
	{ .name = "gdb.port", .option = "-G", .type = VAR_UINT, .max = 65535, VARS_NO_GDB },
	{ .name = "gdb.wait", .option = "-G", .type = VAR_BOOL, VARS_NO_GDB },

	/* What the guest boots */
	{ .name = "boot.kernel", .type = VAR_FILE },
	{ .name = "boot.initrd", .type = VAR_FILE },
	{ .name = "boot.cmdline" },
	{ .name = "lpc.bootrom", .option = "-l bootrom", .type = VAR_FILE, VARS_NO_ROM },
	{ .name = "lpc.bootvars", .option = "-l bootrom", .type = VAR_FILE, VARS_NO_ROM },
	{ .name = "lpc.fwcfg", .option = "-l fwcfg", VARS_NO_FWCFG },
	{ .name = "fwcfg.file.N.name", .option = "-f", VARS_NO_FWCFG },
	{ .name = "fwcfg.file.N.string", .option = "-f", VARS_NO_FWCFG },
	{ .name = "fwcfg.file.N.file", .option = "-f", .type = VAR_FILE, VARS_NO_FWCFG },

	/* What its firmware tells it */
	{ .name = "acpi_tables", .option = "-A", .type = VAR_BOOL },
	{ .name = "x86.mptable", .option = "-Y", .type = VAR_BOOL },
	{ .name = "uuid", .option = "-U", .type = VAR_UUID },
	{ .name = "bios.vendor" },
	{ .name = "bios.version" },
	{ .name = "bios.release_date" },
	{ .name = "system.family_name" },
	{ .name = "system.manufacturer" },
	{ .name = "system.product_name" },
	{ .name = "system.serial_number" },
	{ .name = "system.sku" },
	{ .name = "system.version" },
	{ .name = "board.manufacturer" },
	{ .name = "board.product_name" },
	{ .name = "board.version" },
	{ .name = "board.serial_number" },
	{ .name = "board.asset_tag" },
	{ .name = "board.location" },
	{ .name = "chassis.manufacturer" },
	{ .name = "chassis.version" },
	{ .name = "chassis.serial_number" },
	{ .name = "chassis.asset_tag" },
	{ .name = "chassis.sku" },

	/* Processors and chips */
	{ .name = "x86.x2apic", .option = "-x", .type = VAR_BOOL },
	{ .name = "x86.strictio", .option = "-e", .type = VAR_BOOL },
	{ .name = "x86.strictmsr", .option = "-w", .type = VAR_BOOL },
	{ .name = "x86.vmexit_on_hlt", .option = "-H", .type = VAR_BOOL },
	{ .name = "x86.vmexit_on_pause", .option = "-P", .type = VAR_BOOL },
	{ .name = "rtc.use_localtime", .option = "-u", .type = VAR_BOOL },

	/* Devices */
	VARS_COM(1),
	VARS_COM(2),
	VARS_COM(3),
	VARS_COM(4),
	{ .name = "lpc.pc-testdev", .option = "-l pc-testdev", .type = VAR_BOOL },
	{ .name = "lpc.pcireg.vendor", .type = VAR_PCIREG },
	{ .name = "lpc.pcireg.device", .type = VAR_PCIREG },
	{ .name = "lpc.pcireg.revid", .type = VAR_PCIREG },
	{ .name = "lpc.pcireg.subvendor", .type = VAR_PCIREG },
	{ .name = "lpc.pcireg.subdevice", .type = VAR_PCIREG },
	{ .name = "tpm.*", .option = "-l tpm", VARS_NO_TPM },
	{ .name = "keyboard.layout", .option = "-K", VARS_NO_DISPLAY },
	{ .name = "virtio_msix", .option = "-W", .type = VAR_BOOL },
};

/* A walk over the tree. */
struct vars_checking {
	const struct config *root, *node;
};

/* --- Messages --- */

static void
vars_who(char who[VARS_WHO_MAX], const char *path, const struct var *var)
{
	if (var != NULL && var->option != NULL)
		snprintf(who, VARS_WHO_MAX, "%.64s (%s)", path, var->option);
	else
		snprintf(who, VARS_WHO_MAX, "%.64s", path);
}

/* One line that names a variable of the table and its value. Always -EINVAL. */
static int __attribute__((format(printf, 3, 4)))
vars_error(const char *path, const char *value, const char *fmt, ...)
{
	char who[VARS_WHO_MAX], text[256];
	va_list ap;

	vars_who(who, path, vars_find(path));
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_error(who, "'%.128s': %s", value, text);
	return -EINVAL;
}

/* --- The table --- */

/* Whether the component of len bytes at p is a number as the tree writes it. */
static bool
vars_is_number(const char *p, size_t len)
{
	if (len == 0 || len > 5 || (len > 1 && p[0] == '0'))
		return false;
	for (size_t i = 0; i < len; i++) {
		if (!isdigit((unsigned char)p[i]))
			return false;
	}
	return true;
}

static bool
vars_match(const char *pattern, const char *path)
{
	for (;;) {
		size_t pattern_len = strcspn(pattern, "."), len = strcspn(path, ".");

		if (strcmp(pattern, "*") == 0)
			return true;
		if (pattern_len == 1 && pattern[0] == 'N') {
			if (!vars_is_number(path, len))
				return false;
		} else if (pattern_len != len || memcmp(pattern, path, len) != 0) {
			return false;
		}
		if (pattern[pattern_len] == '\0' || path[len] == '\0')
			return pattern[pattern_len] == path[len];
		pattern += pattern_len + 1;
		path += len + 1;
	}
}

const struct var *
vars_find(const char *path)
{
	for (size_t i = 0; i < ARRAY_SIZE(vars_table); i++) {
		if (vars_match(vars_table[i].name, path))
			return &vars_table[i];
	}
	return NULL;
}

/* --- Values --- */

static bool
vars_is_uuid(const char *text)
{
	static const char form[] = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx";

	for (size_t i = 0; i < sizeof(form) - 1; i++) {
		if (form[i] == 'x' ? !isxdigit((unsigned char)text[i]) : text[i] != form[i])
			return false;
	}
	return text[sizeof(form) - 1] == '\0';
}

/* The name becomes part of other names: a process's, a memory file's, a socket's. */
static bool
vars_is_name(const char *text)
{
	size_t len = strlen(text);

	if (len == 0 || len > VARS_NAME_MAX || text[0] == '.' || text[0] == '-')
		return false;
	for (size_t i = 0; i < len; i++) {
		if (!isalnum((unsigned char)text[i]) && strchr("._-", text[i]) == NULL)
			return false;
	}
	return true;
}

static int
vars_check_engine(const char *path, const char *value)
{
	char names[64] = "auto";

	if (strcmp(value, "auto") == 0)
		return 0;
	for (const struct engine_ops *const *e = engines; *e != NULL; e++) {
		size_t len = strlen(names);

		if (strcmp(value, (*e)->name) == 0)
			return 0;
		snprintf(names + len, sizeof(names) - len, "%s%s", e[1] == NULL ? " or " : ", ",
		    (*e)->name);
	}
	return vars_error(path, value, "expected %s", names);
}

static int
vars_check_value(const struct config *root, const struct var *var, const char *path,
    const char *value)
{
	uint64_t number;
	bool on;

	switch (var->type) {
	case VAR_BOOL:
		if (config_get_bool(root, path, &on) != 0)
			return vars_error(path, value,
			    "expected true, on, yes, 1 or false, off, no, 0");
		return 0;
	case VAR_UINT:
		if (config_get_uint(root, path, &number) != 0 || number < var->min ||
		    number > var->max)
			return vars_error(path, value, "expected %" PRIu64 " to %" PRIu64, var->min,
			    var->max);
		return 0;
	case VAR_NAME:
		if (!vars_is_name(value))
			return vars_error(path, value,
			    "expected a name of letters, digits, '.', '_' and '-'");
		return 0;
	case VAR_FILE:
		if (access(value, R_OK) != 0)
			return vars_error(path, value, "cannot read the file: %s", strerror(errno));
		return 0;
	case VAR_UUID:
		if (!vars_is_uuid(value))
			return vars_error(path, value,
			    "expected a UUID such as 01234567-89ab-cdef-0123-456789abcdef");
		return 0;
	case VAR_LINE:
		if (value[0] != '\0' && !chardev_spec_valid(value))
			return vars_error(path, value,
			    "expected stdio, pty, tcp=ip:port, unix=path or /dev/...");
		return 0;
	case VAR_SIZE: return vars_memory(root, &number);
	case VAR_ENGINE: return vars_check_engine(path, value);
	case VAR_PCIREG: return pci_id_check(root, path);
	case VAR_TEXT: return 0;
	}
	return 0;
}

/* --- Variables nobody knows --- */

struct vars_reference {
	const struct config *node;
	const char *text; /* "%(name)" */
};

static int
vars_refers(void *arg, const char *name, const char *value, struct config *child)
{
	const struct vars_reference *r = arg;
	(void)name;

	if (child != NULL)
		return config_walk(child, vars_refers, arg);
	return strstr(value, r->text) != NULL;
}

/* A variable of the user's own has a use when another is made of it. */
static int
vars_check_unknown(const struct config *root, const char *path)
{
	char text[VARS_PATH_MAX + 4];
	struct vars_reference r = { root, text };

	snprintf(text, sizeof(text), "%%(%s)", path);
	if (config_walk(root, vars_refers, &r) != 0)
		return 0;
	log_error(path, "no such variable, and no other refers to it: see bhyve_config(5)");
	return -EINVAL;
}

/* --- PCI devices --- */

/* Whether a model knows the variable with this path below its device's node. */
static bool
vars_is_models(const struct pci_dev_ops *model, const char *path)
{
	if (strcmp(path, "device") == 0)
		return true;
	for (const char *const *v = model->vars; v != NULL && *v != NULL; v++) {
		if (vars_match(*v, path))
			return true;
	}
	return false;
}

/* A variable below "pci.": its device must be one that there is, and know it. */
static int
vars_check_pci(const struct config *root, const char *path)
{
	const struct pci_dev_ops *ops;
	const char *model;
	unsigned bus, slot, function;
	char where[32], name[48];
	int end = 0;

	if (sscanf(path, "pci.%3u.%2u.%1u.%n", &bus, &slot, &function, &end) != 3 || end == 0 ||
	    bus > 255 || slot > 31 || function > 7) {
		log_error(path, "expected pci.bus.slot.function with 0 to 255, 0 to 31, 0 to 7");
		return -EINVAL;
	}
	snprintf(where, sizeof(where), "pci.%u.%u.%u", bus, slot, function);
	if (strncmp(path, where, strlen(where)) != 0) {
		log_error(path, "expected numbers without leading zeros: %s", where);
		return -EINVAL;
	}
	snprintf(name, sizeof(name), "%s.device", where);
	model = config_get(root, name);
	if (model == NULL) {
		log_error(path, "expected %s to name a device", name);
		return -EINVAL;
	}
	ops = pci_model_find(model);
	if (ops == NULL) {
		log_error(name, "'%.64s' is %s: see -s help", model,
		    devices_pci_find(model) == NULL ? "no device" : "not available yet");
		return -EINVAL;
	}
	if (bus != 0) {
		log_error(where, "expected bus 0: there is no other");
		return -EINVAL;
	}
	if (!vars_is_models(ops, path + end))
		return vars_check_unknown(root, path);
	/* What other values can be, the model knows. */
	return strncmp(path + end, "pcireg.", 7) == 0 ? pci_id_check(root, path) : 0;
}

/* --- The tree --- */

static int
vars_check_leaf(const struct config *root, const char *path)
{
	bool is_pci = strncmp(path, "pci.", 4) == 0;
	const struct var *var;
	const char *value;
	int err;

	err = is_pci ? vars_check_pci(root, path) : 0;
	if (err != 0)
		return err;
	value = config_get(root, path);
	if (value == NULL) {
		log_error(path, "its value refers to itself, or to too much");
		return -EINVAL;
	}
	if (is_pci)
		return 0;
	var = vars_find(path);
	if (var == NULL)
		return vars_check_unknown(root, path);
	if (var->missing != NULL) {
		char who[VARS_WHO_MAX];

		vars_who(who, path, var);
		log_error(who, "%s is not available yet", var->missing);
		return -EINVAL;
	}
	return vars_check_value(root, var, path, value);
}

static int
vars_check_entry(void *arg, const char *name, const char *value, struct config *child)
{
	struct vars_checking *c = arg;
	const char *above = config_path(c->node);
	char path[VARS_PATH_MAX];

	(void)value;
	if (child != NULL) {
		struct vars_checking below = { .root = c->root, .node = child };

		return config_walk(child, vars_check_entry, &below);
	}
	snprintf(path, sizeof(path), "%s%s%s", above, above[0] != '\0' ? "." : "", name);
	return vars_check_leaf(c->root, path);
}

/* --- What several variables say together --- */

int
vars_memory(const struct config *root, uint64_t *out)
{
	static const char path[] = "memory.size";
	uint64_t bytes = VARS_MEMORY_DEFAULT, plain;
	int err = config_get_size(root, path, &bytes);

	if (err == -ERANGE)
		return vars_error(path, config_get(root, path), "larger than any memory");
	if (err != 0 && err != -ENOENT)
		return vars_error(path, config_get(root, path),
		    "expected a number with an optional K, M, G or T, such as 512M");
	/* bhyve(8): a small number without a suffix is in MiB. */
	if (config_get_uint(root, path, &plain) == 0 && plain < MIB(1))
		bytes = MIB(plain);
	*out = bytes;
	return 0;
}

/* A part of the topology of a checked tree, def when it is not set. */
static uint32_t
vars_count(const struct config *root, const char *path, uint32_t def)
{
	uint64_t number = def;

	(void)config_get_uint(root, path, &number);
	return (uint32_t)number;
}

int
vars_topology(const struct config *root, struct x86_topology *out)
{
	const char *given = config_get(root, "cpus");
	uint32_t cpus = vars_count(root, "cpus", 1), product;
	struct x86_topology topo;

	topo.cores = vars_count(root, "cores", 1);
	topo.threads = vars_count(root, "threads", 1);
	/* Virtual CPUs are sockets of their own when nothing else is said, as in bhyve(8). */
	topo.sockets = vars_count(root, "sockets",
	    config_get(root, "cores") == NULL && config_get(root, "threads") == NULL ? cpus : 1);
	product = topo.sockets * topo.cores * topo.threads;
	if (given != NULL && cpus != product)
		return vars_error("cpus", given,
		    "expected the product of %u sockets, %u cores and %u threads: %u", topo.sockets,
		    topo.cores, topo.threads, product);
	*out = topo;
	return 0;
}

static int
vars_check_pin(void *arg, const char *name, const char *value, struct config *child)
{
	const struct x86_topology *topo = arg;
	unsigned vcpus = topo->sockets * topo->cores * topo->threads;
	(void)value;
	(void)child;

	if (strtoul(name, NULL, 10) < vcpus)
		return 0;
	log_error("vcpu.N.cpuset (-p)", "there is no virtual CPU %.16s: expected 0 to %u", name,
	    vcpus - 1);
	return -EINVAL;
}

/* One line cannot have two users. */
static int
vars_check_serial(const struct config *root)
{
	static const char *const paths[] = { "lpc.com1.path", "lpc.com2.path", "lpc.com3.path",
		"lpc.com4.path" };

	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		const char *value = config_get_default(root, paths[i], "");

		if (value[0] == '\0' || strcmp(value, "pty") == 0)
			continue;
		for (size_t j = 0; j < i; j++) {
			if (strcmp(value, config_get_default(root, paths[j], "")) == 0)
				return vars_error(paths[i], value, "%s uses it already", paths[j]);
		}
	}
	return 0;
}

static int
vars_check_boot(const struct config *root)
{
	static const char *const needs_kernel[] = { "boot.initrd", "boot.cmdline" };

	if (config_get(root, "boot.kernel") != NULL)
		return 0;
	for (size_t i = 0; i < ARRAY_SIZE(needs_kernel); i++) {
		const char *value = config_get(root, needs_kernel[i]);

		if (value != NULL)
			return vars_error(needs_kernel[i], value, "expected boot.kernel with it");
	}
	log_error("boot.kernel", "there is nothing to boot: expected -o boot.kernel=file");
	return -EINVAL;
}

int
vars_check(const struct config *root)
{
	struct vars_checking c = { .root = root, .node = root };
	const struct config *vcpu;
	struct x86_topology topo;
	int err;

	err = config_walk(root, vars_check_entry, &c);
	if (err != 0)
		return err;
	if (config_get(root, "name") == NULL) {
		log_error("vmname", "the VM has no name: expected one as the last argument");
		return -EINVAL;
	}
	err = vars_topology(root, &topo);
	if (err != 0)
		return err;
	vcpu = config_find(root, "vcpu");
	if (vcpu != NULL)
		err = config_walk(vcpu, vars_check_pin, &topo);
	if (err == 0)
		err = vars_check_serial(root);
	return err == 0 ? vars_check_boot(root) : err;
}
