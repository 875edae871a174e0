/*
 * bhyve(8): runs one virtual machine.
 */
#include "base/config.h"
#include "base/log.h"
#include "bhyve/lifecycle.h"
#include "bhyve/machine.h"
#include "bhyve/options.h"
#include "bhyve/vars.h"
#include "bhyve/version.h"
#include "vm/vm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Ends a run that only prints: what could not be written is an error. */
static int
main_printed(void)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return 0;
	log_error("standard output", "%s", strerror(errno));
	return VM_EXIT_ERROR;
}

static int
main_run(const struct config *root)
{
	if (config_get_bool_default(root, "config.dump", false)) {
		options_dump(root, stdout);
		return main_printed();
	}
	if (vars_check(root) != 0)
		return VM_EXIT_ERROR;
	lifecycle_signals_init();
	return machine_run(root);
}

int
main(int argc, char *argv[])
{
	struct config *root = config_create();
	enum options_action action = OPTIONS_RUN;
	int status = VM_EXIT_ERROR;

	if (root == NULL) {
		log_error("bhyve", "out of memory");
		return status;
	}
	if (options_parse(argc, argv, root, &action) != 0)
		goto destroy;
	switch (action) {
	case OPTIONS_RUN:
		status = main_run(root);
		goto destroy;
	case OPTIONS_HELP: options_print_help(stdout); break;
	case OPTIONS_HELP_PCI: options_print_pci(stdout); break;
	case OPTIONS_HELP_LPC: options_print_lpc(stdout); break;
	case OPTIONS_VERSION: puts("bhyve for Linux " BHYVE_VERSION); break;
	}
	status = main_printed();
destroy:
	config_destroy(root);
	return status;
}
