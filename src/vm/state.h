/*
 * Saving and loading device state, field by field with a version.
 *
 * A device has one function for both directions: each call below writes the field when saving and
 * reads it when loading, so the two cannot drift apart. Fields are little-endian, of fixed width.
 * Errors stick (short or wrong input, out of memory): calls after one do nothing and vm_state_error()
 * tells at the end.
 *
 *	static int
 *	i8254_state(void *ctx, struct vm_state *s)
 *	{
 *		struct i8254 *d = ctx;
 *		vm_state_section(s, "i8254", 0, 1);
 *		vm_state_u8(s, &d->mode);
 *		...
 *		return vm_state_end(s);   // loading: recompute timers and lines after this
 *	}
 *
 * Callers stop the VM (vCPUs and loop) around it; no locks.
 */
#ifndef VM_STATE_H
#define VM_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm;
struct vm_state;

struct vm_state *vm_state_create(void); /* for saving; NULL when out of memory */
struct vm_state *vm_state_open(const void *data, size_t len); /* for loading; data is copied */
void vm_state_destroy(struct vm_state *s);
const void *vm_state_data(const struct vm_state *s, size_t *len); /* what was saved */
bool vm_state_loading(const struct vm_state *s);
int vm_state_error(const struct vm_state *s); /* 0 or the first -errno */
/* Refuses what was loaded (an index out of range): the load fails with -EINVAL. */
void vm_state_reject(struct vm_state *s, const char *why);

/* Starts a section: name and instance identify the device. version is what this code writes; returns
 * the version to read (1..version) when loading, version when saving. A newer one is an error. */
int vm_state_section(struct vm_state *s, const char *name, int instance, int version);
/* Ends it; loading fails if the section was not read to its end. Returns vm_state_error(). */
int vm_state_end(struct vm_state *s);

void vm_state_u8(struct vm_state *s, uint8_t *v);
void vm_state_u16(struct vm_state *s, uint16_t *v);
void vm_state_u32(struct vm_state *s, uint32_t *v);
void vm_state_u64(struct vm_state *s, uint64_t *v);
/* The same of values that other threads look at too. */
void vm_state_atomic_u32(struct vm_state *s, _Atomic uint32_t *v);
void vm_state_atomic_u64(struct vm_state *s, _Atomic uint64_t *v);
void vm_state_bool(struct vm_state *s, bool *v); /* anything but 0 and 1 is refused */
void vm_state_bytes(struct vm_state *s, void *p, size_t len);
/* A timer: its deadline and whether it is armed; loading arms it again. */
struct vm_timer;
void vm_state_timer(struct vm_state *s, struct vm_timer *t);

/* What a device registers so that the machine can save and load it. Main thread. */
typedef int vm_state_fn(void *ctx, struct vm_state *s);
int vm_state_register(struct vm *vm, vm_state_fn *fn, void *ctx);
/* All registered devices, memory and vCPUs excluded, in order of registration. VM stopped. */
int vm_state_all(struct vm *vm, struct vm_state *s);

#endif
