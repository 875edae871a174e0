/*
 * The tree of configuration variables, as in bhyve_config(5): nodes with named children and string
 * values, addressed by dotted paths ("pci.0.3.0.path").
 *
 * Filled on the main thread before the machine is made, read-only afterwards; no locks. Strings
 * returned stay valid until the variable is set again or the tree is destroyed.
 */
#ifndef BASE_CONFIG_H
#define BASE_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

struct config; /* a node: the root, or a subtree */

/* A new empty root, or NULL when out of memory. Destroying the root frees every node under it. */
struct config *config_create(void);
void config_destroy(struct config *root);

/* The node at path below node; NULL when absent, or (config_find_or_create) when out of memory or
 * when a value stands where a node is wanted. */
struct config *config_find(const struct config *node, const char *path);
struct config *config_find_or_create(struct config *node, const char *path);

/* Sets a value, creating the nodes on the way. 0, -EINVAL (bad path, or a node stands there) or
 * -ENOMEM. The value is stored as given; %(name) is expanded when read. */
int config_set(struct config *node, const char *path, const char *value);
/* Removes the value or subtree at path; absent is not an error. */
void config_unset(struct config *node, const char *path);

/* The value at path with %(name) expanded against the root (bhyve_config(5)), or NULL when absent. A
 * reference to an undefined variable expands to nothing; a recursive one, more than 32 in a chain, more
 * than 4096 in all or a result of more than 64 KiB yield NULL. */
const char *config_get(const struct config *node, const char *path);
/* The same, def when absent. */
const char *config_get_default(const struct config *node, const char *path, const char *def);
/* Booleans: true on 1 yes; false 0 off no (any case). 0, -ENOENT when absent (out untouched) or
 * -EINVAL on anything else. */
int config_get_bool(const struct config *node, const char *path, bool *out);
/* The same with a default; a malformed value counts as the default (validate first). */
bool config_get_bool_default(const struct config *node, const char *path, bool def);
/* Unsigned integers, C syntax (0x, 0). 0, -ENOENT, -EINVAL, -ERANGE. */
int config_get_uint(const struct config *node, const char *path, uint64_t *out);
/* Sizes: an integer with an optional K, M, G, T suffix (powers of 1024, any case). */
int config_get_size(const struct config *node, const char *path, uint64_t *out);

/* Walks the children of node in the order they were set. Either value or child is non-NULL. Stops at
 * the first non-zero result of fn and returns it. */
typedef int config_walk_fn(void *arg, const char *name, const char *value, struct config *child);
int config_walk(const struct config *node, config_walk_fn *fn, void *arg);

/* The full dotted path of a node, for messages. */
const char *config_path(const struct config *node);
/* Marks a value as understood: after the machine is made, config_first_unused() names a variable
 * that nothing read, or NULL. config_get* mark what they read. */
const char *config_first_unused(const struct config *root);

#endif
