/*
 * Every configuration variable there is: bhyve_config(5)'s and our own. The one place that knows
 * which exist, what their values look like and which parts of the machine are there already.
 *
 * Const tables and functions on the tree; main thread.
 */
#ifndef BHYVE_VARS_H
#define BHYVE_VARS_H

#include "x86/cpuid.h"

struct config;

enum var_type {
	VAR_TEXT,
	VAR_BOOL,
	VAR_UINT, /* min to max */
	VAR_SIZE, /* bytes with a suffix, or MiB when small; vars_memory() */
	VAR_NAME, /* of the VM */
	VAR_FILE, /* a file that can be read */
	VAR_UUID,
	VAR_LINE, /* a serial line's other end, empty for none: chardev.h */
	VAR_ENGINE, /* "auto" or an engine's name */
	VAR_PCIREG, /* a register of a PCI device's identity: pci_id_check() */
};

struct var {
	/* Dotted path. A component N stands for a decimal number without leading zeros, '*' for
	 * anything. */
	const char *name;
	const char *option; /* that sets it, for messages; NULL: only -o and -k do */
	enum var_type type;
	uint64_t min, max; /* VAR_UINT */
	/* The part of the machine that it configures and that is not there yet; NULL: it works. */
	const char *missing;
};

/* The entry for a variable's full path, or NULL. */
const struct var *vars_find(const char *path);

/*
 * Checks the whole tree before anything is made of it: every variable is one that exists, whose
 * part exists, and has a value it can have, and values fit each other. A variable unknown here is
 * allowed when another's value refers to it as %(name). 0, or -EINVAL after one line to the user
 * that names the variable and what was expected.
 */
int vars_check(const struct config *root);

/* What a tree says of memory, in bytes, and of the topology. vars_check() calls both, so a tree
 * that passed it gives no error here; others -EINVAL after one line to the user. Whether the
 * machine and the host can do it is for vm_create() to say. */
int vars_memory(const struct config *root, uint64_t *out);
int vars_topology(const struct config *root, struct x86_topology *out);

#endif
