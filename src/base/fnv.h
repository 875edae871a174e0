/*
 * The FNV-1a hash of 64 bits (Fowler, Noll and Vo), for names that have to stay the same from run to run. It
 * resists nobody.
 */
#ifndef BASE_FNV_H
#define BASE_FNV_H

#include <stdint.h>

#define FNV_START 0xcbf29ce484222325ull

/* The hash of a string, going on from another's hash or FNV_START. */
static inline uint64_t
fnv_add(uint64_t hash, const char *text)
{
	for (; *text != '\0'; text++)
		hash = (hash ^ (uint8_t)*text) * 0x100000001b3ull;
	return hash;
}

#endif
