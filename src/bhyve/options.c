/*
 * The command line of bhyve(8).
 *
 * One table holds every option: its letter, the form of its argument, what it sets, its line of
 * help. Reading the command line, the help text and the messages all follow the table.
 */
#include "bhyve/options.h"

#include "base/bits.h"
#include "base/config.h"
#include "base/log.h"
#include "bhyve/devices.h"
#include "bhyve/vars.h"
#include "bhyve/version.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Variable names are short; a bound keeps the tree shallow whatever a file holds. */
#define OPTIONS_NAME_MAX 255u
#define OPTIONS_FILE_MAX KIB(64) /* of a -k file: a hundred times what a machine needs */
#define OPTIONS_WHO_MAX 96 /* of an argument in messages */

#define OPTIONS_USAGE "bhyve [options] vmname"

/* An option as it was given. */
struct options_given {
	struct config *root;
	char who[OPTIONS_WHO_MAX]; /* "-m 1G", for messages */
	const char *form; /* of the argument */
	enum options_action *action;
};

struct options_entry {
	char letter;
	const char *form; /* of the argument; NULL: the option takes none */
	/* Simple options set a variable to value, or to the argument where value is NULL. Others
	 * have parse() and name one of the variables that they set. */
	const char *var, *value;
	int (*parse)(struct options_given *g, const char *arg);
	const char *help;
};

static int options_cpus(struct options_given *g, const char *arg);
static int options_fwcfg_file(struct options_given *g, const char *arg);
static int options_gdb(struct options_given *g, const char *arg);
static int options_help(struct options_given *g, const char *arg);
static int options_config_file(struct options_given *g, const char *arg);
static int options_lpc(struct options_given *g, const char *arg);
static int options_numa(struct options_given *g, const char *arg);
static int options_variable(struct options_given *g, const char *arg);
static int options_pin(struct options_given *g, const char *arg);
static int options_pci(struct options_given *g, const char *arg);

static const struct options_entry options_table[] = {
	{ 'A', NULL, "acpi_tables", "true", NULL, "make ACPI tables (the default)" },
	{ 'a', NULL, "x86.x2apic", "false", NULL, "start local APICs in xAPIC mode (the default)" },
	{ 'C', NULL, "memory.guest_in_core", "true", NULL, "include guest memory in core dumps" },
	{ 'c', "[cpus=]N[,sockets=N][,cores=N][,threads=N]", NULL, NULL, options_cpus,
	    "number of virtual CPUs and their topology" },
	{ 'D', NULL, "destroy_on_poweroff", "true", NULL, "destroy the VM when it powers off" },
	{ 'e', NULL, "x86.strictio", "true", NULL,
	    "exit on access to an I/O port nobody emulates" },
	{ 'f', "name,string=text or name,file=path", "fwcfg.file.0.name", NULL, options_fwcfg_file,
	    "add a file to the fw_cfg interface" },
	{ 'G', "[w][address:]port", "gdb.port", NULL, options_gdb,
	    "start a debug server; w waits for a debugger" },
	{ 'H', NULL, "x86.vmexit_on_hlt", "true", NULL, "give the host CPU away on HLT" },
	{ 'h', NULL, NULL, NULL, options_help, "print this help" },
	{ 'K', "layout", "keyboard.layout", NULL, NULL, "keyboard layout" },
	{ 'k', "file", NULL, NULL, options_config_file, "set variables from a file" },
	{ 'l', "device[,conf] or help", NULL, NULL, options_lpc,
	    "configure a device on the ISA bus" },
	{ 'm', "size[K|M|G|T]", "memory.size", NULL, NULL,
	    "guest memory, in MiB without a suffix" },
	{ 'n', "id=N[,size=size][,cpus=list][,domain_policy=policy]", "domains.0.size", NULL,
	    options_numa, "configure a NUMA domain" },
	{ 'o', "variable=value", NULL, NULL, options_variable, "set a variable" },
	{ 'P', NULL, "x86.vmexit_on_pause", "true", NULL, "leave the guest on PAUSE" },
	{ 'p', "vcpu:hostcpu", NULL, NULL, options_pin, "pin a virtual CPU to a host CPU" },
	{ 'r', "file", "restore", NULL, NULL, "resume a snapshot" },
	{ 'S', NULL, "memory.wired", "true", NULL, "lock guest memory into the host's" },
	{ 's', "slot[:function],device[,conf], bus:slot:function,device[,conf] or help", NULL, NULL,
	    options_pci, "put a device into a PCI slot" },
	{ 'U', "uuid", "uuid", NULL, NULL, "UUID of the machine" },
	{ 'u', NULL, "rtc.use_localtime", "false", NULL, "the real-time clock keeps UTC" },
	{ 'W', NULL, "virtio_msix", "false", NULL, "VirtIO devices use MSI in place of MSI-X" },
	{ 'w', NULL, "x86.strictmsr", "false", NULL, "ignore accesses to unknown MSRs" },
	{ 'x', NULL, "x86.x2apic", "true", NULL, "start local APICs in x2APIC mode" },
	{ 'Y', NULL, "x86.mptable", "false", NULL, "make no MP table" },
};

/* --- Messages and variables --- */

/* One line that names the option as given. Always -EINVAL. */
static int __attribute__((format(printf, 2, 3)))
options_error(const struct options_given *g, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	log_error(g->who, "%s", text);
	return -EINVAL;
}

static int
options_error_form(const struct options_given *g)
{
	return options_error(g, "expected %s", g->form);
}

static bool
options_value_valid(const char *value)
{
	for (const unsigned char *p = (const unsigned char *)value; *p != '\0'; p++) {
		if ((*p < ' ' && *p != '\t') || *p == 0x7f)
			return false;
	}
	return true;
}

int
options_set(struct config *node, const char *who, const char *name, const char *value)
{
	int err;

	/* A line break would make another variable of it in a file written by config.dump. */
	if (!options_value_valid(value)) {
		log_error(who, "the value of %.64s has a control character in it", name);
		return -EINVAL;
	}
	if (strlen(name) > OPTIONS_NAME_MAX) {
		log_error(who, "'%.32s...': a name has at most %u characters", name,
		    OPTIONS_NAME_MAX);
		return -EINVAL;
	}
	/* In a file it would be a comment. */
	if (name[0] == '#') {
		log_error(who, "'%s' cannot be set: it is no name", name);
		return -EINVAL;
	}
	err = config_set(node, name, value);
	if (err == -ENOMEM)
		log_error(who, "out of memory");
	else if (err != 0)
		log_error(who,
		    "'%s' cannot be set: it is no name, or has variables above or below it", name);
	return err;
}

static int
options_var(const struct options_given *g, const char *name, const char *value)
{
	return options_set(g->root, g->who, name, value);
}

/* Sets name, in which %u is replaced by number. */
static int __attribute__((format(printf, 2, 0)))
options_var_numbered(const struct options_given *g, const char *name, unsigned number,
    const char *value)
{
	char path[64];

	snprintf(path, sizeof(path), name, number);
	return options_var(g, path, value);
}

/* Reads a decimal number of at most five digits up to one of the characters in stop or the end. */
static bool
options_number(const char **p, const char *stop, unsigned *out)
{
	size_t digits = strspn(*p, "0123456789");
	char next = (*p)[digits];

	if (digits == 0 || digits > 5 || (next != '\0' && strchr(stop, next) == NULL))
		return false;
	*out = (unsigned)strtoul(*p, NULL, 10);
	*p += digits;
	return true;
}

/* --- Options --- */

static int
options_cpus(struct options_given *g, const char *arg)
{
	static const char *const names[] = { "cpus", "sockets", "cores", "threads" };
	char *copy = strdup(arg), *rest = copy;
	const char *word;
	int err = copy != NULL ? 0 : -ENOMEM;

	if (err != 0)
		log_error(g->who, "out of memory");
	while (err == 0 && (word = strsep(&rest, ",")) != NULL) {
		const char *name = NULL;
		size_t len = 0;

		for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
			len = strlen(names[i]);
			if (strncmp(word, names[i], len) == 0 && word[len] == '=') {
				name = names[i];
				break;
			}
		}
		if (name != NULL)
			err = options_var(g, name, word + len + 1);
		else if (strchr(word, '=') == NULL && word[0] != '\0')
			err = options_var(g, "cpus", word);
		else
			err = options_error_form(g);
	}
	free(copy);
	return err;
}

static int
options_fwcfg_file(struct options_given *g, const char *arg)
{
	static const char *const kinds[] = { "string", "file" };
	const char *comma = strchr(arg, ',');
	unsigned number = 0;

	if (comma == NULL || comma == arg)
		return options_error_form(g);
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		size_t len = strlen(kinds[i]);
		char path[64], *name;
		int err;

		if (strncmp(comma + 1, kinds[i], len) != 0 || comma[1 + len] != '=')
			continue;
		do
			snprintf(path, sizeof(path), "fwcfg.file.%u", number++);
		while (config_find(g->root, path) != NULL);
		number--;
		name = strndup(arg, (size_t)(comma - arg));
		if (name == NULL)
			return options_error(g, "out of memory");
		err = options_var_numbered(g, "fwcfg.file.%u.name", number, name);
		free(name);
		if (err != 0)
			return err;
		snprintf(path, sizeof(path), "fwcfg.file.%u.%s", number, kinds[i]);
		return options_var(g, path, comma + len + 2);
	}
	return options_error_form(g);
}

static int
options_gdb(struct options_given *g, const char *arg)
{
	const char *colon, *port;
	unsigned number;
	char *address;
	int err = 0;

	if (arg[0] == 'w') {
		err = options_var(g, "gdb.wait", "true");
		arg++;
	}
	colon = strrchr(arg, ':');
	port = colon != NULL ? colon + 1 : arg;
	if (err == 0 && (!options_number(&port, "", &number) || number == 0 || number > 65535))
		err = options_error_form(g);
	if (err == 0 && colon != NULL) {
		address = strndup(arg, (size_t)(colon - arg));
		if (address == NULL)
			return options_error(g, "out of memory");
		err = options_var(g, "gdb.address", address);
		free(address);
	}
	return err == 0 ? options_var(g, "gdb.port", colon != NULL ? colon + 1 : arg) : err;
}

static int
options_help(struct options_given *g, const char *arg)
{
	(void)arg;
	*g->action = OPTIONS_HELP;
	return 0;
}

/* Reads a file of bounded size. Pipes are fine: the shell's <(...). */
static int
options_file_read(const struct options_given *g, const char *path, char **out, size_t *out_len)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY), err = 0;
	char *text = malloc(OPTIONS_FILE_MAX + 1);
	size_t len = 0;
	ssize_t n = 1;

	if (fd < 0)
		err = options_error(g, "cannot open the file: %s", strerror(errno));
	else if (text == NULL)
		err = options_error(g, "out of memory");
	while (err == 0 && n != 0 && len <= OPTIONS_FILE_MAX) {
		n = read(fd, text + len, OPTIONS_FILE_MAX + 1 - len);
		if (n > 0)
			len += (size_t)n;
		else if (n < 0 && errno != EINTR)
			err = options_error(g, "cannot read the file: %s", strerror(errno));
	}
	if (err == 0 && len > OPTIONS_FILE_MAX)
		err = options_error(g, "the file is longer than %u KiB",
		    (unsigned)(OPTIONS_FILE_MAX / 1024));
	if (fd >= 0)
		close(fd);
	if (err != 0) {
		free(text);
		return err;
	}
	*out = text;
	*out_len = len;
	return 0;
}

static int
options_config_file(struct options_given *g, const char *arg)
{
	char *text;
	size_t len;
	int err;

	err = options_file_read(g, arg, &text, &len);
	if (err != 0)
		return err;
	err = options_parse_text(g->root, arg, text, len);
	free(text);
	return err;
}

static int
options_lpc(struct options_given *g, const char *arg)
{
	const struct devices_lpc *dev;
	char name[32];
	size_t len = strcspn(arg, ",");

	if (strcmp(arg, "help") == 0) {
		*g->action = OPTIONS_HELP_LPC;
		return 0;
	}
	snprintf(name, sizeof(name), "%.*s", (int)MIN(len, sizeof(name)), arg);
	dev = len < sizeof(name) ? devices_lpc_find(name) : NULL;
	if (dev == NULL)
		return options_error(g, "no such device: see -l help");
	return devices_lpc_parse(dev, g->root, g->who, arg[len] == ',' ? arg + len + 1 : NULL);
}

static int
options_numa(struct options_given *g, const char *arg)
{
	static const char *const names[] = { "size", "cpus", "domain_policy" };
	char *copy = strdup(arg), *rest = copy, *word;
	const char *id = copy;
	unsigned number;
	int err = 0;

	if (copy == NULL)
		return options_error(g, "out of memory");
	word = strsep(&rest, ",");
	if (strncmp(word, "id=", 3) == 0)
		id = word + 3;
	if (id == copy || !options_number(&id, "", &number))
		err = options_error_form(g);
	while (err == 0 && (word = strsep(&rest, ",")) != NULL) {
		char *value = strchr(word, '=');
		char path[64];
		bool known = false;

		if (value != NULL)
			*value++ = '\0';
		for (size_t i = 0; i < ARRAY_SIZE(names); i++)
			known = known || strcmp(word, names[i]) == 0;
		if (!known || value == NULL) {
			err = options_error_form(g);
			break;
		}
		snprintf(path, sizeof(path), "domains.%u.%s", number, word);
		err = options_var(g, path, value);
	}
	free(copy);
	return err;
}

/* name=value, from -o or a file. */
static int
options_assign(struct config *root, const char *who, const char *text, size_t len)
{
	const char *equals = memchr(text, '=', len);
	char *copy;
	int err;

	if (equals == NULL || equals == text) {
		log_error(who, "expected variable=value");
		return -EINVAL;
	}
	copy = strndup(text, len);
	if (copy == NULL) {
		log_error(who, "out of memory");
		return -ENOMEM;
	}
	copy[equals - text] = '\0';
	err = options_set(root, who, copy, copy + (equals - text) + 1);
	free(copy);
	return err;
}

static int
options_variable(struct options_given *g, const char *arg)
{
	return options_assign(g->root, g->who, arg, strlen(arg));
}

/* Several -p for one virtual CPU add up to a set. */
static int
options_pin(struct options_given *g, const char *arg)
{
	const char *old, *p = arg;
	unsigned vcpu, hostcpu;
	char path[64], *list;
	int err;

	if (!options_number(&p, ":", &vcpu) || *p++ != ':' || !options_number(&p, "", &hostcpu))
		return options_error_form(g);
	snprintf(path, sizeof(path), "vcpu.%u.cpuset", vcpu);
	old = config_get(g->root, path);
	if (asprintf(&list, "%s%s%u", old != NULL ? old : "", old != NULL ? "," : "", hostcpu) < 0)
		return options_error(g, "out of memory");
	err = options_var(g, path, list);
	free(list);
	return err;
}

/* What a number means depends on how many there are: slot, slot:function or bus:slot:function. */
static int
options_pci_slot(struct options_given *g, const char *p, char *path, size_t path_size)
{
	static const struct {
		const char *name;
		unsigned max;
	} kinds[] = { { "bus", 255 }, { "slot", 31 }, { "function", 7 } };
	unsigned part[ARRAY_SIZE(kinds)] = { 0 }, given[ARRAY_SIZE(kinds)];
	unsigned count = 0, first;

	do {
		if (count == ARRAY_SIZE(kinds) || !options_number(&p, ":,", &given[count]))
			return options_error_form(g);
		count++;
	} while (*p++ == ':');
	first = count == ARRAY_SIZE(kinds) ? 0 : 1;
	for (unsigned i = 0; i < count; i++) {
		part[first + i] = given[i];
		if (given[i] > kinds[first + i].max)
			return options_error(g, "%s %u: expected 0 to %u", kinds[first + i].name,
			    given[i], kinds[first + i].max);
	}
	snprintf(path, path_size, "pci.%u.%u.%u", part[0], part[1], part[2]);
	return 0;
}

static int
options_pci(struct options_given *g, const char *arg)
{
	const struct devices_pci *dev;
	const char *model, *taken;
	char path[64], name[32];
	struct config *node;
	size_t len;
	int err;

	if (strcmp(arg, "help") == 0) {
		*g->action = OPTIONS_HELP_PCI;
		return 0;
	}
	model = strchr(arg, ',');
	if (model == NULL)
		return options_error_form(g);
	err = options_pci_slot(g, arg, path, sizeof(path));
	if (err != 0)
		return err;
	len = strcspn(++model, ",");
	snprintf(name, sizeof(name), "%.*s", (int)MIN(len, sizeof(name)), model);
	dev = len < sizeof(name) ? devices_pci_find(name) : NULL;
	if (dev == NULL)
		return options_error(g, "no such device: see -s help");
	node = config_find(g->root, path);
	if (node != NULL) {
		taken = config_get_default(node, "device", "other variables");
		return options_error(g, "%s is already taken by %s", path, taken);
	}
	node = config_find_or_create(g->root, path);
	if (node == NULL)
		return options_error(g, "%s cannot hold a device", path);
	err = options_set(node, g->who, "device", dev->name);
	if (err != 0)
		return err;
	return devices_pci_parse(dev, node, g->who, model[len] == ',' ? model + len + 1 : NULL);
}

/* --- Reading --- */

int
options_parse_text(struct config *root, const char *who, const char *text, size_t len)
{
	const char *end = text + len;
	unsigned line = 0;
	int err = 0;

	while (err == 0 && text < end) {
		const char *eol = memchr(text, '\n', (size_t)(end - text));
		size_t size = (size_t)((eol != NULL ? eol : end) - text);
		char where[OPTIONS_WHO_MAX];

		line++;
		snprintf(where, sizeof(where), "%.80s:%u", who, line);
		if (memchr(text, '\0', size) != NULL) {
			log_error(where, "there is a zero byte in this line");
			err = -EINVAL;
		} else if (size != 0 && text[0] != '#') {
			err = options_assign(root, where, text, size);
		}
		text += size + 1;
	}
	return err;
}

static const struct options_entry *
options_find(char letter)
{
	for (size_t i = 0; i < ARRAY_SIZE(options_table); i++) {
		if (options_table[i].letter == letter)
			return &options_table[i];
	}
	return NULL;
}

static int
options_apply(const struct options_entry *e, const char *arg, struct config *root,
    enum options_action *action)
{
	struct options_given g = { .root = root, .form = e->form, .action = action };

	if (e->form == NULL)
		snprintf(g.who, sizeof(g.who), "-%c", e->letter);
	else
		snprintf(g.who, sizeof(g.who), "-%c %s", e->letter, arg != NULL ? arg : "");
	if (e->form != NULL && (arg == NULL || arg[0] == '\0')) {
		g.who[2] = '\0';
		return options_error_form(&g);
	}
	if (e->parse != NULL)
		return e->parse(&g, arg);
	return options_var(&g, e->var, e->value != NULL ? e->value : arg);
}

/* "--word". */
static int
options_parse_long(const char *arg, enum options_action *action)
{
	if (strcmp(arg, "--help") == 0)
		*action = OPTIONS_HELP;
	else if (strcmp(arg, "--version") == 0)
		*action = OPTIONS_VERSION;
	else {
		log_error(arg, "no such option: usage: " OPTIONS_USAGE ", see bhyve -h");
		return -EINVAL;
	}
	return 0;
}

/* One word of options, "-HPm" with "1G" in this word or the next; *next is moved past what was
 * used. */
static int
options_parse_word(int argc, char *const argv[], int *next, struct config *root,
    enum options_action *action)
{
	const char *letters = argv[(*next)++] + 1;

	for (; *letters != '\0' && *action == OPTIONS_RUN; letters++) {
		const struct options_entry *e = options_find(*letters);
		const char *arg = NULL;
		int err;

		if (e == NULL) {
			char who[3] = { '-', *letters, '\0' };

			log_error(who, "no such option: usage: " OPTIONS_USAGE ", see bhyve -h");
			return -EINVAL;
		}
		if (e->form != NULL) {
			if (letters[1] != '\0')
				arg = letters + 1;
			else if (*next < argc)
				arg = argv[(*next)++];
		}
		err = options_apply(e, arg, root, action);
		if (err != 0 || e->form != NULL)
			return err;
	}
	return 0;
}

int
options_parse(int argc, char *const argv[], struct config *root, enum options_action *action)
{
	int i = 1, err = 0;

	*action = OPTIONS_RUN;
	while (i < argc && argv[i][0] == '-' && argv[i][1] != '\0') {
		if (strcmp(argv[i], "--") == 0) {
			i++;
			break;
		}
		if (argv[i][1] == '-')
			err = options_parse_long(argv[i], action);
		else
			err = options_parse_word(argc, argv, &i, root, action);
		if (err != 0 || *action != OPTIONS_RUN)
			return err;
	}
	if (i + 1 < argc) {
		log_error(argv[i + 1], "comes after the VM's name '%s': usage: " OPTIONS_USAGE,
		    argv[i]);
		return -EINVAL;
	}
	if (i < argc)
		return options_set(root, "vmname", "name", argv[i]);
	return 0;
}

/* --- Printing --- */

struct options_dumping {
	const struct config *node;
	FILE *out;
};

static int
options_dump_entry(void *arg, const char *name, const char *value, struct config *child)
{
	const struct options_dumping *d = arg;
	const char *path = config_path(d->node);

	if (child != NULL)
		options_dump(child, d->out);
	else
		fprintf(d->out, "%s%s%s=%s\n", path, path[0] != '\0' ? "." : "", name, value);
	return 0;
}

void
options_dump(const struct config *node, FILE *out)
{
	struct options_dumping d = { node, out };

	config_walk(node, options_dump_entry, &d);
}

void
options_print_help(FILE *out)
{
	fprintf(out, "bhyve for Linux " BHYVE_VERSION ": runs a virtual machine\n"
		     "usage: " OPTIONS_USAGE "\n");
	for (size_t i = 0; i < ARRAY_SIZE(options_table); i++) {
		const struct options_entry *e = &options_table[i];
		const struct var *var = e->var != NULL ? vars_find(e->var) : NULL;

		fprintf(out, "  -%c %s%s%s%s\n", e->letter, e->form != NULL ? e->form : "",
		    e->form != NULL ? "\n      " : " ", e->help,
		    var != NULL && var->missing != NULL ? " (not available yet)" : "");
	}
	fprintf(out, "  --version  print the version\n"
		     "See bhyve(8), and bhyve_config(5) for the variables that -o and -k set.\n");
}

void
options_print_pci(FILE *out)
{
	bool any = false;

	for (const struct devices_pci *d = devices_pci; d->name != NULL; d++) {
		any = any || devices_pci_available(d);
		if (devices_pci_available(d))
			fprintf(out, "%-15s %s\n", d->name, d->what);
	}
	if (!any)
		fprintf(out, "No PCI device is available yet.\n");
}

void
options_print_lpc(FILE *out)
{
	for (const struct devices_lpc *d = devices_lpc; d->name != NULL; d++) {
		if (devices_lpc_available(d))
			fprintf(out, "%-15s %s\n", d->name, d->what);
	}
}
