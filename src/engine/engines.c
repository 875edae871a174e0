/*
 * The engines that are built in, and the choice among them.
 */
#include "engine/engines.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const struct engine_ops *const engines[] = {
	&kvm_engine,
	&bt_engine,
	NULL,
};

int
engine_choose(const char *name, const struct engine_ops **out, char *why, size_t why_size)
{
	bool any = strcmp(name, "auto") == 0;
	bool known = any;
	char not[ENGINE_WHY_SIZE / 2] = ""; /* why a better one was passed over */

	snprintf(why, why_size, "no engine is called '%s'", name);
	for (const struct engine_ops *const *e = engines; *e != NULL; e++) {
		struct engine_probe probe;

		if (!any && strcmp(name, (*e)->name) != 0)
			continue;
		known = true;
		(*e)->probe(&probe);
		snprintf(why, why_size, "%s: %s%s", (*e)->name, probe.why, not);
		/* Without hardware behind it an engine is taken only when asked for by name, unless
		 * it is the last one: the software CPU. */
		if (!probe.usable || (any && !probe.hardware && e[1] != NULL)) {
			if (not[0] == '\0')
				snprintf(not, sizeof(not), "; not %s: %.130s", (*e)->name, probe.why);
			continue;
		}
		*out = *e;
		return 0;
	}
	return known ? -ENOTSUP : -ENOENT;
}
