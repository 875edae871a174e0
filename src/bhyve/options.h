/*
 * The command line of bhyve(8): every option sets variables of the configuration tree under the
 * names of bhyve_config(5). Only the form of an argument is checked here; whether a variable exists
 * and its value makes sense is for vars_check(), after all options were read.
 *
 *	root = config_create();
 *	err = options_parse(argc, argv, root, &action);
 *	if (err == 0 && action == OPTIONS_RUN)
 *		err = vars_check(root);
 *
 * No state outside of the tree; main thread.
 */
#ifndef BHYVE_OPTIONS_H
#define BHYVE_OPTIONS_H

#include <stddef.h>
#include <stdio.h>

struct config;

/* What the command line asks for. */
enum options_action {
	OPTIONS_RUN, /* a VM, as the tree says */
	OPTIONS_HELP, /* -h */
	OPTIONS_VERSION, /* --version */
	OPTIONS_HELP_PCI, /* -s help */
	OPTIONS_HELP_LPC, /* -l help */
};

/* Reads the whole command line, files named by -k included, in the order given: the last value of a
 * variable wins. Stops at an option that asks for help. 0, or -errno after one line to the user. */
int options_parse(int argc, char *const argv[], struct config *root, enum options_action *action);

/* Sets variables from the text of a -k file: a name=value per line, empty lines and lines that
 * start with '#' skipped. who names the file for messages. 0, or -errno after one line to the
 * user. */
int options_parse_text(struct config *root, const char *who, const char *text, size_t len);

/* Sets one variable below node. 0, or -errno after one line to the user that starts with who. */
int options_set(struct config *node, const char *who, const char *name, const char *value);

/* Writes every variable under node as a line that options_parse_text() reads back, in the order in
 * which they were first set. */
void options_dump(const struct config *node, FILE *out);

/* What -h, -s help and -l help print. */
void options_print_help(FILE *out);
void options_print_pci(FILE *out);
void options_print_lpc(FILE *out);

#endif
