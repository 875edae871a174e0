/*
 * The tree of configuration variables, bhyve_config(5).
 *
 * Nodes and values are the same struct, so that both know their path and keep the order in which
 * they were set. A value's %(name) references are expanded at each reading, against what the
 * referenced variables hold then; expansions are kept with the value, because the strings handed
 * out must live as long as it does.
 */
#include "base/config.h"
#include "base/bits.h"

#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Longer expansions are refused: a few variables that double each other would fill memory. */
#define CONFIG_EXPANSION_MAX KIB(64)
/* So are chains of more references than this, and more references in all: those that expand to nothing
 * could double without end, too. */
#define CONFIG_NESTING_MAX 32
#define CONFIG_REFERENCES_MAX 4096

/* An expansion that was handed out. */
struct config_text {
	struct config_text *next;
	char text[];
};

struct config {
	struct config *root, *parent, *next;
	char *path; /* dotted, from the root; the root's is "" */
	const char *name; /* its last component */
	char *value; /* NULL: a node */
	_Atomic(struct config_text *) texts;
	atomic_bool used;
	struct config *first, **last; /* children of a node */
};

/* A string that grows; an error sticks. */
struct config_buf {
	char *text;
	size_t len, size;
	int references; /* expanded into it so far */
	bool failed;
};

/* The variables being expanded, innermost first: one that comes up again is recursive. */
struct config_nesting {
	const struct config *var;
	const struct config_nesting *outer;
};

static void
config_buf_add(struct config_buf *b, const char *text, size_t len)
{
	if (b->failed)
		return;
	if (len >= CONFIG_EXPANSION_MAX - b->len) {
		b->failed = true;
		return;
	}
	if (b->len + len + 1 > b->size) {
		size_t size = (b->len + len + 1) * 2;
		char *grown = realloc(b->text, size);

		if (grown == NULL) {
			b->failed = true;
			return;
		}
		b->text = grown;
		b->size = size;
	}
	memcpy(b->text + b->len, text, len);
	b->len += len;
	b->text[b->len] = '\0';
}

static struct config *
config_entry_create(struct config *parent, const char *name, size_t name_len)
{
	struct config *e = calloc(1, sizeof(*e));
	size_t parent_len = parent != NULL ? strlen(parent->path) : 0;

	if (e == NULL)
		return NULL;
	e->path = malloc(parent_len + 1 + name_len + 1);
	if (e->path == NULL) {
		free(e);
		return NULL;
	}
	if (parent_len != 0) {
		memcpy(e->path, parent->path, parent_len);
		e->path[parent_len++] = '.';
	}
	memcpy(e->path + parent_len, name, name_len);
	e->path[parent_len + name_len] = '\0';
	e->name = e->path + parent_len;
	e->last = &e->first;
	e->root = e;
	if (parent != NULL) {
		e->root = parent->root;
		e->parent = parent;
		*parent->last = e;
		parent->last = &e->next;
	}
	return e;
}

static void
config_texts_free(struct config *e)
{
	struct config_text *t = atomic_load(&e->texts);

	atomic_store(&e->texts, NULL);
	while (t != NULL) {
		struct config_text *next = t->next;

		free(t);
		t = next;
	}
}

static void
config_entry_destroy(struct config *e)
{
	while (e->first != NULL) {
		struct config *child = e->first;

		e->first = child->next;
		config_entry_destroy(child);
	}
	config_texts_free(e);
	free(e->value);
	free(e->path);
	free(e);
}

static struct config *
config_child(const struct config *node, const char *name, size_t len)
{
	for (struct config *e = node->first; e != NULL; e = e->next) {
		if (strncmp(e->name, name, len) == 0 && e->name[len] == '\0')
			return e;
	}
	return NULL;
}

static bool
config_path_valid(const char *path)
{
	size_t len = strlen(path);

	if (len == 0 || path[0] == '.' || path[len - 1] == '.' || strstr(path, "..") != NULL)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (!isgraph((unsigned char)path[i]))
			return false;
	}
	return true;
}

/* The entry at path, node or value, or NULL. */
static struct config *
config_lookup(const struct config *node, const char *path)
{
	struct config *e = NULL;

	if (!config_path_valid(path))
		return NULL;
	for (;;) {
		size_t len = strcspn(path, ".");

		if (node->value != NULL)
			return NULL;
		e = config_child(node, path, len);
		if (e == NULL || path[len] == '\0')
			return e;
		node = e;
		path += len + 1;
	}
}

/* The node that holds path's last component, made if absent; *name is set to that component. */
static int
config_make_parents(struct config *node, const char *path, struct config **out, const char **name)
{
	if (!config_path_valid(path))
		return -EINVAL;
	for (;;) {
		size_t len = strcspn(path, ".");
		struct config *child;

		if (node->value != NULL)
			return -EINVAL;
		if (path[len] == '\0')
			break;
		child = config_child(node, path, len);
		if (child == NULL)
			child = config_entry_create(node, path, len);
		if (child == NULL)
			return -ENOMEM;
		node = child;
		path += len + 1;
	}
	*out = node;
	*name = path;
	return 0;
}

static bool config_expand(const struct config *var, const struct config_nesting *outer,
    struct config_buf *out);

/* Expands the reference whose name starts at p (behind "%("); *end is set behind the ")". */
static bool
config_expand_reference(const struct config *root, const char *p, const char **end,
    const struct config_nesting *nesting, struct config_buf *out)
{
	size_t len = strcspn(p, ")");
	char *name = strndup(p, len);
	struct config *var;

	if (name == NULL)
		return false;
	var = config_lookup(root, name);
	free(name);
	*end = p + len + 1;
	if (var == NULL || var->value == NULL)
		return true;
	atomic_store_explicit(&var->used, true, memory_order_relaxed);
	return config_expand(var, nesting, out);
}

/* Appends var's expanded value to out. False when a variable refers to itself or memory runs
 * out. */
static bool
config_expand(const struct config *var, const struct config_nesting *outer, struct config_buf *out)
{
	struct config_nesting nesting = { var, outer };
	const char *p = var->value;
	int depth = 0;

	if (out->references++ > CONFIG_REFERENCES_MAX)
		return false;
	for (const struct config_nesting *n = outer; n != NULL; n = n->outer) {
		if (n->var == var || ++depth == CONFIG_NESTING_MAX)
			return false;
	}
	while (*p != '\0' && !out->failed) {
		size_t len = strcspn(p, "%");

		config_buf_add(out, p, len);
		p += len;
		if (*p == '\0')
			break;
		if (p[1] == '(' && strchr(p, ')') != NULL) {
			if (!config_expand_reference(var->root, p + 2, &p, &nesting, out))
				return false;
		} else {
			config_buf_add(out, "%", 1);
			p += p[1] == '%' ? 2 : 1;
		}
	}
	return !out->failed;
}

/* Keeps text with its variable and returns the kept string. Readers on other threads may do the
 * same at the same time. */
static const char *
config_text_keep(struct config *var, const char *text)
{
	size_t size = strlen(text) + 1;
	struct config_text *t, *head = atomic_load(&var->texts);

	for (t = head; t != NULL; t = t->next) {
		if (strcmp(t->text, text) == 0)
			return t->text;
	}
	t = malloc(sizeof(*t) + size);
	if (t == NULL)
		return NULL;
	memcpy(t->text, text, size);
	do {
		t->next = head;
	} while (!atomic_compare_exchange_weak(&var->texts, &head, t));
	return t->text;
}

struct config *
config_create(void)
{
	return config_entry_create(NULL, "", 0);
}

void
config_destroy(struct config *root)
{
	if (root != NULL)
		config_entry_destroy(root);
}

struct config *
config_find(const struct config *node, const char *path)
{
	struct config *e = config_lookup(node, path);

	return e != NULL && e->value == NULL ? e : NULL;
}

struct config *
config_find_or_create(struct config *node, const char *path)
{
	const char *name;
	struct config *e;

	if (config_make_parents(node, path, &node, &name) != 0)
		return NULL;
	e = config_child(node, name, strlen(name));
	if (e == NULL)
		e = config_entry_create(node, name, strlen(name));
	return e != NULL && e->value == NULL ? e : NULL;
}

int
config_set(struct config *node, const char *path, const char *value)
{
	const char *name;
	struct config *e;
	char *copy;
	int err;

	err = config_make_parents(node, path, &node, &name);
	if (err != 0)
		return err;
	e = config_child(node, name, strlen(name));
	if (e != NULL && e->value == NULL)
		return -EINVAL;
	copy = strdup(value);
	if (copy == NULL)
		return -ENOMEM;
	if (e == NULL)
		e = config_entry_create(node, name, strlen(name));
	if (e == NULL) {
		free(copy);
		return -ENOMEM;
	}
	config_texts_free(e);
	free(e->value);
	e->value = copy;
	return 0;
}

void
config_unset(struct config *node, const char *path)
{
	struct config *e = config_lookup(node, path);
	struct config **link;

	if (e == NULL)
		return;
	for (link = &e->parent->first; *link != e; link = &(*link)->next)
		;
	*link = e->next;
	if (e->parent->last == &e->next)
		e->parent->last = link;
	config_entry_destroy(e);
}

const char *
config_get(const struct config *node, const char *path)
{
	struct config *var = config_lookup(node, path);
	struct config_buf expanded = { 0 };
	const char *text = NULL;

	if (var == NULL || var->value == NULL)
		return NULL;
	atomic_store_explicit(&var->used, true, memory_order_relaxed);
	if (strchr(var->value, '%') == NULL)
		return var->value;
	config_buf_add(&expanded, "", 0);
	if (config_expand(var, NULL, &expanded))
		text = config_text_keep(var, expanded.text);
	free(expanded.text);
	return text;
}

const char *
config_get_default(const struct config *node, const char *path, const char *def)
{
	const char *value = config_get(node, path);

	return value != NULL ? value : def;
}

int
config_get_bool(const struct config *node, const char *path, bool *out)
{
	static const struct {
		const char *text;
		bool value;
	} words[] = { { "true", true }, { "on", true }, { "yes", true }, { "1", true },
		{ "false", false }, { "off", false }, { "no", false }, { "0", false } };
	const char *value = config_get(node, path);

	if (value == NULL)
		return -ENOENT;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcasecmp(value, words[i].text) == 0) {
			*out = words[i].value;
			return 0;
		}
	}
	return -EINVAL;
}

bool
config_get_bool_default(const struct config *node, const char *path, bool def)
{
	(void)config_get_bool(node, path, &def);
	return def;
}

/* Reads an unsigned integer in C syntax; *end is set behind it. */
static int
config_parse_uint(const char *text, uint64_t *out, const char **end)
{
	unsigned long long v;
	char *stop;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL; /* strtoull() would take spaces and signs */
	errno = 0;
	v = strtoull(text, &stop, 0);
	if (errno == ERANGE)
		return -ERANGE;
	*out = v;
	*end = stop;
	return 0;
}

int
config_get_uint(const struct config *node, const char *path, uint64_t *out)
{
	const char *value = config_get(node, path);
	const char *end;
	uint64_t v;
	int err;

	if (value == NULL)
		return -ENOENT;
	err = config_parse_uint(value, &v, &end);
	if (err != 0)
		return err;
	if (*end != '\0')
		return -EINVAL;
	*out = v;
	return 0;
}

int
config_get_size(const struct config *node, const char *path, uint64_t *out)
{
	static const char suffixes[] = "kmgt";
	const char *value = config_get(node, path);
	const char *end, *suffix;
	unsigned shift = 0;
	uint64_t v;
	int err;

	if (value == NULL)
		return -ENOENT;
	err = config_parse_uint(value, &v, &end);
	if (err != 0)
		return err;
	if (*end != '\0') {
		suffix = strchr(suffixes, tolower((unsigned char)*end));
		if (suffix == NULL || end[1] != '\0')
			return -EINVAL;
		shift = 10 * (unsigned)(suffix - suffixes + 1);
	}
	if (v > UINT64_MAX >> shift)
		return -ERANGE;
	*out = v << shift;
	return 0;
}

int
config_walk(const struct config *node, config_walk_fn *fn, void *arg)
{
	struct config *next;

	for (struct config *e = node->first; e != NULL; e = next) {
		int result = 0;

		next = e->next; /* fn may remove e */
		result = fn(arg, e->name, e->value, e->value == NULL ? e : NULL);
		if (result != 0)
			return result;
	}
	return 0;
}

const char *
config_path(const struct config *node)
{
	return node->path;
}

const char *
config_first_unused(const struct config *root)
{
	for (const struct config *e = root->first; e != NULL; e = e->next) {
		const char *path = NULL;

		if (e->value == NULL)
			path = config_first_unused(e);
		else if (!atomic_load_explicit(&e->used, memory_order_relaxed))
			path = e->path;
		if (path != NULL)
			return path;
	}
	return NULL;
}
