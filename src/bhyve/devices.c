/*
 * The devices that -s and -l can name.
 */
#include "bhyve/devices.h"

#include "base/config.h"
#include "base/log.h"
#include "bhyve/options.h"
#include "bhyve/vars.h"
#include "pci/pci_host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEVICES_NAME_MAX 32 /* of a variable made here, with its number */

/* --- Forms of conf --- */

/* One word of a comma-separated list: name=value, or a name alone, which means true. */
static int
devices_word_set(struct config *node, const char *who, char *word)
{
	char *value = strchr(word, '=');

	if (value != NULL)
		*value++ = '\0';
	return options_set(node, who, word, value != NULL ? value : "true");
}

/* The rest of a list; rest is NULL when nothing is left. */
static int
devices_words_set(struct config *node, const char *who, char *rest)
{
	char *word;
	int err = 0;

	while (err == 0 && (word = strsep(&rest, ",")) != NULL)
		err = devices_word_set(node, who, word);
	return err;
}

/* A node numbered within a device: "port.0". */
static int
devices_child_make(struct config *node, const char *who, const char *kind, int number,
    struct config **out)
{
	char name[DEVICES_NAME_MAX];

	snprintf(name, sizeof(name), "%s.%d", kind, number);
	*out = config_find_or_create(node, name);
	if (*out != NULL)
		return 0;
	log_error(who, "out of memory");
	return -ENOMEM;
}

/* A disk or CD-ROM drive of an AHCI controller: path,options. */
static int
devices_ahci_port(struct config *node, const char *who, int number, const char *type,
    const char *path, struct config **port)
{
	int err = devices_child_make(node, who, "port", number, port);

	if (err == 0)
		err = options_set(*port, who, "type", type);
	if (err == 0)
		err = options_set(*port, who, "path", path);
	return err;
}

/* hd:path,options,cd:path,options...: options belong to the port before them. */
static int
devices_ahci_parse(struct config *node, const char *who, char *conf)
{
	struct config *port = NULL;
	int ports = 0, err = 0;
	char *word;

	while (err == 0 && (word = strsep(&conf, ",")) != NULL) {
		if (strncmp(word, "hd:", 3) == 0 || strncmp(word, "cd:", 3) == 0) {
			word[2] = '\0';
			err = devices_ahci_port(node, who, ports++, word, word + 3, &port);
		} else if (port != NULL) {
			err = devices_word_set(port, who, word);
		} else {
			log_error(who, "'%s': expected hd:path or cd:path first", word);
			err = -EINVAL;
		}
	}
	return err;
}

static int
devices_ahci_single(struct config *node, const char *who, char *conf, const char *type)
{
	const char *path = strsep(&conf, ",");
	struct config *port;
	int err = devices_ahci_port(node, who, 0, type, path, &port);

	return err == 0 ? devices_words_set(port, who, conf) : err;
}

static int
devices_ahci_cd_parse(struct config *node, const char *who, char *conf)
{
	return devices_ahci_single(node, who, conf, "cd");
}

static int
devices_ahci_hd_parse(struct config *node, const char *who, char *conf)
{
	return devices_ahci_single(node, who, conf, "hd");
}

/* path or ram=MiB, then options. */
static int
devices_disk_parse(struct config *node, const char *who, char *conf)
{
	if (strncmp(conf, "ram=", 4) != 0) {
		int err = options_set(node, who, "path", strsep(&conf, ","));

		if (err != 0)
			return err;
	}
	return devices_words_set(node, who, conf);
}

/* pptN, bus/slot/function or pcibus:slot:function, then options. */
static int
devices_passthru_parse(struct config *node, const char *who, char *conf)
{
	static const char *const vars[] = { "bus", "slot", "func" };
	char *address = strsep(&conf, ",");
	int bus, slot, func, end = 0, err = 0;

	if (strncmp(address, "ppt", 3) == 0) {
		err = options_set(node, who, "pptdev", address);
		return err == 0 ? devices_words_set(node, who, conf) : err;
	}
	if ((sscanf(address, "%3d/%2d/%1d%n", &bus, &slot, &func, &end) < 3 &&
		sscanf(address, "pci%3d:%2d:%1d%n", &bus, &slot, &func, &end) < 3) ||
	    address[end] != '\0' || bus < 0 || slot < 0 || func < 0) {
		log_error(who, "'%s': expected pptN, bus/slot/function or pcibus:slot:function",
		    address);
		return -EINVAL;
	}
	for (int i = 0; err == 0 && i < 3; i++) {
		char text[DEVICES_NAME_MAX];

		snprintf(text, sizeof(text), "%d", i == 0 ? bus : i == 1 ? slot : func);
		err = options_set(node, who, vars[i], text);
	}
	return err == 0 ? devices_words_set(node, who, conf) : err;
}

/* sharename=path, then options. */
static int
devices_9p_parse(struct config *node, const char *who, char *conf)
{
	const char *name = strsep(&conf, ",");
	char *path = strchr(name, '=');
	int err;

	if (path == NULL) {
		log_error(who, "'%s': expected sharename=path", name);
		return -EINVAL;
	}
	*path++ = '\0';
	err = options_set(node, who, "sharename", name);
	if (err == 0)
		err = options_set(node, who, "path", path);
	return err == 0 ? devices_words_set(node, who, conf) : err;
}

/* name=path,name=path...: a port each. */
static int
devices_console_parse(struct config *node, const char *who, char *conf)
{
	int ports = 0, err = 0;
	const char *name;

	while (err == 0 && (name = strsep(&conf, ",")) != NULL) {
		char *path = strchr(name, '=');
		struct config *port;

		if (path == NULL) {
			log_error(who, "'%s': expected portname=path", name);
			return -EINVAL;
		}
		*path++ = '\0';
		err = devices_child_make(node, who, "port", ports++, &port);
		if (err == 0)
			err = options_set(port, who, "name", name);
		if (err == 0)
			err = options_set(port, who, "path", path);
	}
	return err;
}

/* tablet,...: a USB device in each slot, from 1 on. */
static int
devices_xhci_parse(struct config *node, const char *who, char *conf)
{
	int slots = 0, err = 0;
	const char *name;

	while (err == 0 && (name = strsep(&conf, ",")) != NULL) {
		struct config *slot;

		err = devices_child_make(node, who, "slot", ++slots, &slot);
		if (err == 0)
			err = options_set(slot, who, "device", name);
	}
	return err;
}

/* --- Tables --- */

const struct devices_pci devices_pci[] = {
	{ .name = "ahci", .what = "AHCI controller with disks and CD-ROM drives",
	    .parse = devices_ahci_parse },
	{ .name = "ahci-cd", .what = "AHCI controller with a CD-ROM drive",
	    .parse = devices_ahci_cd_parse },
	{ .name = "ahci-hd", .what = "AHCI controller with a disk",
	    .parse = devices_ahci_hd_parse },
	{ .name = "amd_hostbridge", .what = "host bridge with AMD's vendor ID" },
	{ .name = "e1000", .what = "Intel 82545 network interface", .first = "backend" },
	{ .name = "fbuf", .what = "frame buffer shown through VNC" },
	{ .name = "hda", .what = "High Definition Audio controller" },
	{ .name = "hostbridge", .what = "host bridge" },
	{ .name = "lpc", .what = "PCI-ISA bridge" },
	{ .name = "nvme", .what = "NVM Express controller", .parse = devices_disk_parse },
	{ .name = "passthru", .what = "a PCI device of the host", .parse = devices_passthru_parse },
	{ .name = "uart", .what = "16550 serial port on the PCI bus", .first = "path" },
	{ .name = "virtio-9p", .what = "VirtIO file sharing", .parse = devices_9p_parse },
	{ .name = "virtio-blk", .what = "VirtIO disk", .parse = devices_disk_parse },
	{ .name = "virtio-console", .what = "VirtIO console", .parse = devices_console_parse },
	{ .name = "virtio-input", .what = "VirtIO input device", .first = "path" },
	{ .name = "virtio-net", .what = "VirtIO network interface", .first = "backend" },
	{ .name = "virtio-rnd", .what = "VirtIO entropy source" },
	{ .name = "virtio-scsi", .what = "VirtIO SCSI controller", .first = "dev" },
	{ .name = "xhci", .what = "xHCI USB controller", .parse = devices_xhci_parse },
	{ .name = NULL },
};

#define DEVICES_COM(n)                                                                             \
	{                                                                                          \
		.name = "com" #n, .what = "16550 serial port COM" #n,                              \
		.form = "stdio, pty, tcp=ip:port, unix=path or /dev/...",                          \
		.var = { "lpc.com" #n ".path" }, .value = "",                                      \
	}

const struct devices_lpc devices_lpc[] = {
	{ .name = "bootrom", .what = "boot ROM", .form = "romfile[,varfile]",
	    .var = { "lpc.bootrom", "lpc.bootvars" }, .required = 1, .node = "lpc" },
	DEVICES_COM(1),
	DEVICES_COM(2),
	DEVICES_COM(3),
	DEVICES_COM(4),
	{ .name = "fwcfg", .what = "firmware configuration interface", .form = "bhyve or qemu",
	    .var = { "lpc.fwcfg" }, .required = 1 },
	{ .name = "pc-testdev", .what = "debug and test device", .var = { "lpc.pc-testdev" },
	    .value = "true" },
	{ .name = "tpm", .what = "trusted platform module", .form = "type,path[,version=version]",
	    .var = { "tpm.type", "tpm.path" }, .required = 2, .node = "tpm" },
	{ .name = NULL },
};

const struct devices_pci *
devices_pci_find(const char *name)
{
	for (const struct devices_pci *d = devices_pci; d->name != NULL; d++) {
		if (strcmp(d->name, name) == 0)
			return d;
	}
	return NULL;
}

const struct devices_lpc *
devices_lpc_find(const char *name)
{
	for (const struct devices_lpc *d = devices_lpc; d->name != NULL; d++) {
		if (strcmp(d->name, name) == 0)
			return d;
	}
	return NULL;
}

bool
devices_pci_available(const struct devices_pci *dev)
{
	return pci_model_find(dev->name) != NULL;
}

bool
devices_lpc_available(const struct devices_lpc *dev)
{
	const struct var *var = vars_find(dev->var[0]);

	return var != NULL && var->missing == NULL;
}

/* --- Reading conf --- */

static int
devices_pci_words(const struct devices_pci *dev, struct config *node, const char *who, char *conf)
{
	if (dev->parse != NULL)
		return dev->parse(node, who, conf);
	/* An '=' in a path does not make it an option: virtio-blk,/images/a=b */
	if (dev->first != NULL &&
	    (conf[0] == '/' || memchr(conf, '=', strcspn(conf, ",")) == NULL)) {
		int err = options_set(node, who, dev->first, strsep(&conf, ","));

		if (err != 0)
			return err;
	}
	return devices_words_set(node, who, conf);
}

int
devices_pci_parse(const struct devices_pci *dev, struct config *node, const char *who,
    const char *conf)
{
	char *copy;
	int err;

	if (conf == NULL)
		return 0;
	copy = strdup(conf);
	if (copy == NULL) {
		log_error(who, "out of memory");
		return -ENOMEM;
	}
	err = devices_pci_words(dev, node, who, copy);
	free(copy);
	return err;
}

/* Words by place first, then options. */
static int
devices_lpc_words(const struct devices_lpc *dev, struct config *root, const char *who, char *conf)
{
	struct config *node;
	int words = 0, err;

	while (conf != NULL && words < DEVICES_LPC_WORDS && dev->form != NULL &&
	    dev->var[words] != NULL) {
		/* tcp=ip:port is a word by place: only where options can follow is '=' theirs. */
		if (words >= dev->required && dev->node != NULL &&
		    memchr(conf, '=', strcspn(conf, ",")) != NULL)
			break;
		if (words < dev->required && (conf[0] == ',' || conf[0] == '\0'))
			break;
		err = options_set(root, who, dev->var[words++], strsep(&conf, ","));
		if (err != 0)
			return err;
	}
	if (words < dev->required || (conf != NULL && dev->node == NULL)) {
		if (dev->form != NULL)
			log_error(who, "expected -l %s,%s", dev->name, dev->form);
		else
			log_error(who, "expected -l %s and nothing more", dev->name);
		return -EINVAL;
	}
	if (words == 0 && dev->value != NULL)
		return options_set(root, who, dev->var[0], dev->value);
	if (conf == NULL)
		return 0;
	node = config_find_or_create(root, dev->node);
	if (node == NULL) {
		log_error(who, "'%s' is set to a value and cannot hold variables", dev->node);
		return -EINVAL;
	}
	return devices_words_set(node, who, conf);
}

int
devices_lpc_parse(const struct devices_lpc *dev, struct config *root, const char *who,
    const char *conf)
{
	char *copy = NULL;
	int err;

	if (conf != NULL) {
		copy = strdup(conf);
		if (copy == NULL) {
			log_error(who, "out of memory");
			return -ENOMEM;
		}
	}
	err = devices_lpc_words(dev, root, who, copy);
	free(copy);
	return err;
}
