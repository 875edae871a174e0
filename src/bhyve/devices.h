/*
 * The devices that -s and -l can name, and how the rest of their argument turns into variables.
 *
 * Const tables and functions on the tree; main thread.
 */
#ifndef BHYVE_DEVICES_H
#define BHYVE_DEVICES_H

#include <stdbool.h>

struct config;

/* A PCI device model. */
struct devices_pci {
	const char *name; /* as in -s slot,name */
	const char *what; /* one line for -s help */
	/* The variable that a first word without '=' sets, NULL when there is none. */
	const char *first;
	/* In place of that, for models with a form of their own: reads conf, which it may change,
	 * into variables below node. 0, or -errno after one line to the user that starts with
	 * who. */
	int (*parse)(struct config *node, const char *who, char *conf);
};

/* A device behind the ISA bridge. */
#define DEVICES_LPC_WORDS 2
struct devices_lpc {
	const char *name; /* as in -l name */
	const char *what; /* one line for -l help */
	const char *form; /* of what follows the name, for messages; NULL: nothing does */
	/* The variables that the comma-separated words after the name set, in order. */
	const char *var[DEVICES_LPC_WORDS];
	int required; /* how many of them must be given */
	/* The node whose variables further name=value words set; NULL when there are none. */
	const char *node;
	/* What the first variable is set to when no word is given; NULL: it is not set. */
	const char *value;
};

/* All of them, in alphabetical order, an entry without a name at the end. */
extern const struct devices_pci devices_pci[];
extern const struct devices_lpc devices_lpc[];

/* The entry with this name, or NULL. */
const struct devices_pci *devices_pci_find(const char *name);
const struct devices_lpc *devices_lpc_find(const char *name);
/* Whether the device works in this version. */
bool devices_pci_available(const struct devices_pci *dev);
bool devices_lpc_available(const struct devices_lpc *dev);

/* Sets the variables of a PCI device below its node from what follows its name in -s, NULL for
 * nothing. Of a device behind the ISA bridge below root, from -l. 0, or -errno after one line to
 * the user that starts with who. */
int devices_pci_parse(const struct devices_pci *dev, struct config *node, const char *who,
    const char *conf);
int devices_lpc_parse(const struct devices_lpc *dev, struct config *root, const char *who,
    const char *conf);

#endif
