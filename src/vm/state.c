/*
 * Saving and loading device state.
 *
 * The format: 8 bytes of magic, then sections one after another. A section is
 *
 *	u8 length of the name, the name, u32 instance, u32 version, u32 length, that many bytes
 *
 * all little-endian. Loading finds sections by name and instance, so their order does not matter.
 */
#include "vm/state.h"
#include "vm/private.h"

#include "base/log.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define VM_STATE_MAGIC "bhyvest\1"
#define VM_STATE_MAGIC_SIZE 8

struct vm_state {
	bool loading;
	int err;
	uint8_t *data;
	size_t len, room;
	size_t pos; /* loading: the next byte */
	/* Loading: the current section's end; saving: where its length stands; 0: none. */
	size_t end;
	char section[256]; /* the current section's name, for messages */
};

struct vm_states {
	struct vm_state_client {
		vm_state_fn *fn;
		void *ctx;
	} *client;
	size_t clients;
};

static void
vm_state_fail(struct vm_state *s, int err)
{
	if (s->err == 0)
		s->err = err;
}

/* The next len bytes of the section, or where to write them; NULL after an error. */
static void *
vm_state_next(struct vm_state *s, size_t len)
{
	void *p;

	if (s->err != 0)
		return NULL;
	if (s->loading) {
		if (len > s->end - s->pos) {
			vm_state_fail(s, -EINVAL);
			return NULL;
		}
		p = s->data + s->pos;
		s->pos += len;
		return p;
	}
	if (len > s->room - s->len) {
		size_t room = MAX(s->room * 2, ALIGN_UP(s->len + len, (size_t)4096));
		uint8_t *grown = realloc(s->data, room);

		if (grown == NULL) {
			vm_state_fail(s, -ENOMEM);
			return NULL;
		}
		s->data = grown;
		s->room = room;
	}
	p = s->data + s->len;
	s->len += len;
	return p;
}

void
vm_state_bytes(struct vm_state *s, void *v, size_t len)
{
	void *p = vm_state_next(s, len);

	if (p == NULL || len == 0)
		return;
	if (s->loading)
		memcpy(v, p, len);
	else
		memcpy(p, v, len);
}

struct vm_state *
vm_state_create(void)
{
	struct vm_state *s = calloc(1, sizeof(*s));

	if (s != NULL)
		vm_state_bytes(s, (char *)VM_STATE_MAGIC, VM_STATE_MAGIC_SIZE);
	return s;
}

struct vm_state *
vm_state_open(const void *data, size_t len)
{
	struct vm_state *s = calloc(1, sizeof(*s));

	if (s == NULL)
		return NULL;
	s->data = malloc(MAX(len, 1));
	if (s->data == NULL) {
		free(s);
		return NULL;
	}
	if (len != 0)
		memcpy(s->data, data, len);
	s->len = len;
	s->loading = true;
	if (len < VM_STATE_MAGIC_SIZE || memcmp(data, VM_STATE_MAGIC, VM_STATE_MAGIC_SIZE) != 0)
		vm_state_fail(s, -EINVAL);
	return s;
}

void
vm_state_destroy(struct vm_state *s)
{
	if (s == NULL)
		return;
	free(s->data);
	free(s);
}

const void *
vm_state_data(const struct vm_state *s, size_t *len)
{
	*len = s->len;
	return s->data;
}

bool
vm_state_loading(const struct vm_state *s)
{
	return s->loading;
}

int
vm_state_error(const struct vm_state *s)
{
	return s->err;
}

void
vm_state_reject(struct vm_state *s, const char *why)
{
	if (s->err == 0)
		log_error("saved state", "%s: %s", s->section, why);
	vm_state_fail(s, -EINVAL);
}

/* --- Fields --- */

void
vm_state_u8(struct vm_state *s, uint8_t *v)
{
	vm_state_bytes(s, v, sizeof(*v));
}

void
vm_state_u16(struct vm_state *s, uint16_t *v)
{
	uint16_t le = htole16(*v);

	vm_state_bytes(s, &le, sizeof(le));
	*v = le16toh(le);
}

void
vm_state_u32(struct vm_state *s, uint32_t *v)
{
	uint32_t le = htole32(*v);

	vm_state_bytes(s, &le, sizeof(le));
	*v = le32toh(le);
}

void
vm_state_u64(struct vm_state *s, uint64_t *v)
{
	uint64_t le = htole64(*v);

	vm_state_bytes(s, &le, sizeof(le));
	*v = le64toh(le);
}

void
vm_state_atomic_u32(struct vm_state *s, _Atomic uint32_t *v)
{
	uint32_t val = atomic_load(v);

	vm_state_u32(s, &val);
	atomic_store(v, val);
}

void
vm_state_atomic_u64(struct vm_state *s, _Atomic uint64_t *v)
{
	uint64_t val = atomic_load(v);

	vm_state_u64(s, &val);
	atomic_store(v, val);
}

void
vm_state_bool(struct vm_state *s, bool *v)
{
	uint8_t byte = *v;

	vm_state_u8(s, &byte);
	if (byte > 1)
		vm_state_reject(s, "neither true nor false");
	else
		*v = byte;
}

void
vm_state_timer(struct vm_state *s, struct vm_timer *t)
{
	bool armed = vm_timer_armed(t);
	uint64_t deadline = armed ? vm_timer_deadline(t) : 0;

	vm_state_bool(s, &armed);
	vm_state_u64(s, &deadline);
	if (!s->loading || s->err != 0)
		return;
	if (armed)
		vm_timer_arm(t, deadline);
	else
		vm_timer_cancel(t);
}

/* --- Sections --- */

/* Reads a section's head at pos of the whole file. Leaves pos at its first byte and sets end. */
static bool
vm_state_read_head(struct vm_state *s, char name[static 256], uint32_t *instance, uint32_t *version)
{
	uint8_t name_len = 0;
	uint32_t len = 0;

	s->end = s->len;
	vm_state_u8(s, &name_len);
	vm_state_bytes(s, name, name_len);
	name[name_len] = '\0';
	vm_state_u32(s, instance);
	vm_state_u32(s, version);
	vm_state_u32(s, &len);
	if (s->err == 0 && len > s->len - s->pos)
		vm_state_fail(s, -EINVAL);
	s->end = s->pos + len;
	return s->err == 0;
}

/* Finds the section among all, so that the order of devices may change between versions. */
static int
vm_state_find_section(struct vm_state *s, int instance, int version)
{
	char name[256] = "";
	uint32_t found_instance = 0, found_version = 0;

	s->pos = VM_STATE_MAGIC_SIZE;
	while (s->pos < s->len) {
		if (!vm_state_read_head(s, name, &found_instance, &found_version))
			return version;
		if (strcmp(name, s->section) == 0 && found_instance == (uint32_t)instance)
			break;
		s->pos = s->end;
		name[0] = '\0';
	}
	if (strcmp(name, s->section) != 0) {
		log_error("saved state", "%s %d is missing", s->section, instance);
		vm_state_fail(s, -ENOENT);
		return version;
	}
	if (found_version == 0 || found_version > (uint32_t)version) {
		log_error("saved state", "%s has version %u, this program knows up to %d",
		    s->section, found_version, version);
		vm_state_fail(s, -ENOTSUP);
		return version;
	}
	return (int)found_version;
}

int
vm_state_section(struct vm_state *s, const char *name, int instance, int version)
{
	uint8_t name_len = (uint8_t)strlen(name);
	uint32_t inst = (uint32_t)instance, ver = (uint32_t)version, len = 0;

	assert(s->end == 0 && strlen(name) == name_len && name_len > 0 && version > 0);
	memcpy(s->section, name, name_len + 1u);
	if (s->err != 0)
		return version;
	if (s->loading)
		return vm_state_find_section(s, instance, version);
	vm_state_u8(s, &name_len);
	vm_state_bytes(s, s->section, name_len);
	vm_state_u32(s, &inst);
	vm_state_u32(s, &ver);
	s->end = s->len;
	vm_state_u32(s, &len); /* known at the end */
	return version;
}

int
vm_state_end(struct vm_state *s)
{
	if (s->err == 0 && s->loading && s->pos != s->end)
		vm_state_reject(s, "longer than this program expects");
	if (s->err == 0 && !s->loading) {
		size_t len = s->len - s->end - sizeof(uint32_t);
		uint32_t le = htole32((uint32_t)len);

		if (len > UINT32_MAX)
			vm_state_fail(s, -EFBIG);
		else
			memcpy(s->data + s->end, &le, sizeof(le));
	}
	s->end = 0;
	return s->err;
}

/* --- The machine's devices --- */

int
vm_states_create(struct vm *vm)
{
	vm->states = calloc(1, sizeof(*vm->states));
	return vm->states != NULL ? 0 : -ENOMEM;
}

void
vm_states_destroy(struct vm *vm)
{
	if (vm->states == NULL)
		return;
	free(vm->states->client);
	free(vm->states);
	vm->states = NULL;
}

int
vm_state_register(struct vm *vm, vm_state_fn *fn, void *ctx)
{
	struct vm_states *all = vm->states;
	struct vm_state_client *grown;

	grown = realloc(all->client, (all->clients + 1) * sizeof(*grown));
	if (grown == NULL)
		return -ENOMEM;
	all->client = grown;
	all->client[all->clients++] = (struct vm_state_client){ fn, ctx };
	return 0;
}

int
vm_state_all(struct vm *vm, struct vm_state *s)
{
	const struct vm_states *all = vm->states;

	for (size_t i = 0; i < all->clients; i++) {
		int err = all->client[i].fn(all->client[i].ctx, s);

		if (err != 0)
			return err;
	}
	return vm_state_error(s);
}
