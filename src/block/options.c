/*
 * The configuration of a disk: variables of a device's node, see block.h.
 */
#include "block/block_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"
#include "base/log.h"

#define BLOCK_RECONNECT_S 60

static int
block_option_bad(const struct config *cfg, const char *who, const char *name, const char *expected)
{
	log_error(who, "%s=%s: expected %s", name, config_get_default(cfg, name, ""), expected);
	return -EINVAL;
}

static int
block_option_bool(const struct config *cfg, const char *who, const char *name, bool *out)
{
	int err = config_get_bool(cfg, name, out);

	return err == 0 || err == -ENOENT ? 0 : block_option_bad(cfg, who, name, "true or false");
}

/* "ram=64" is MiB, as bhyve(8) has it; "ram=64K" is what it says. */
static int
block_option_ram(struct block_options *o, const struct config *cfg, const char *who)
{
	uint64_t mib;
	int err = config_get_uint(cfg, "ram", &mib);

	if (err == 0)
		err = mib <= UINT64_MAX >> 20 ? 0 : -ERANGE;
	if (err == 0)
		o->ram_size = MIB(mib);
	else if (err == -EINVAL)
		err = config_get_size(cfg, "ram", &o->ram_size);
	if (err != 0 || o->ram_size == 0 || o->ram_size > INT64_MAX)
		return block_option_bad(cfg, who, "ram", "MiB, or a size such as 64M");
	return 0;
}

static bool
block_sector_parse(const char *text, char end_char, uint32_t *out, const char **end)
{
	char *stop;
	unsigned long v = strtoul(text, &stop, 10);

	if (stop == text || text[0] < '0' || text[0] > '9' || (*stop != '\0' && *stop != end_char))
		return false;
	if (v < 512 || v > 65536 || (v & (v - 1)) != 0)
		return false;
	*out = (uint32_t)v;
	*end = stop;
	return true;
}

static int
block_option_sectors(struct block_options *o, const struct config *cfg, const char *who)
{
	const char *text = config_get(cfg, "sectorsize"), *end;
	bool good;

	if (text == NULL)
		return 0;
	good = block_sector_parse(text, '/', &o->logical_sector, &end);
	o->physical_sector = o->logical_sector;
	if (good && *end == '/')
		good = block_sector_parse(end + 1, '\0', &o->physical_sector, &end);
	if (!good || o->physical_sector < o->logical_sector)
		return block_option_bad(
		    cfg, who, "sectorsize", "LOGICAL[/PHYSICAL], powers of two from 512 to 65536");
	return 0;
}

static int
block_option_discard(struct block_options *o, const struct config *cfg, const char *who)
{
	static const char *const words[] = {
		[BLOCK_DISCARD_OFF] = "off",
		[BLOCK_DISCARD_PUNCH] = "punch",
		[BLOCK_DISCARD_ZERO] = "zero",
	};
	const char *text = config_get(cfg, "discard");
	bool nodelete = false;
	unsigned i;

	if (block_option_bool(cfg, who, "nodelete", &nodelete) != 0)
		return -EINVAL;
	o->discard = nodelete ? BLOCK_DISCARD_OFF : BLOCK_DISCARD_PUNCH;
	if (text == NULL)
		return 0;
	for (i = 0; i < ARRAY_SIZE(words) && strcmp(text, words[i]) != 0; i++)
		;
	if (i == ARRAY_SIZE(words))
		return block_option_bad(cfg, who, "discard", "off, punch or zero");
	if (nodelete && i != BLOCK_DISCARD_OFF)
		return block_option_bad(cfg, who, "discard", "off, because of nodelete");
	o->discard = (enum block_discard)i;
	return 0;
}

static int
block_option_numbers(struct block_options *o, const struct config *cfg, const char *who)
{
	uint64_t v;
	int err;

	o->bootindex = -1;
	err = config_get_uint(cfg, "bootindex", &v);
	if (err == 0 && v <= INT32_MAX)
		o->bootindex = (int)v;
	else if (err != -ENOENT)
		return block_option_bad(cfg, who, "bootindex", "a number");
	o->reconnect_s = BLOCK_RECONNECT_S;
	err = config_get_uint(cfg, "reconnect", &v);
	if (err == 0 && v <= 86400)
		o->reconnect_s = v;
	else if (err != -ENOENT)
		return block_option_bad(cfg, who, "reconnect", "seconds, at most a day");
	return 0;
}

int
block_options_read(struct block_options *o, const struct config *cfg, const char *who)
{
	bool direct = false;

	*o = (struct block_options){ .path = config_get(cfg, "path") };
	if (block_option_bool(cfg, who, "ro", &o->read_only) != 0 ||
	    block_option_bool(cfg, who, "nocache", &o->nocache) != 0 ||
	    block_option_bool(cfg, who, "sync", &o->sync) != 0 ||
	    block_option_bool(cfg, who, "direct", &direct) != 0 ||
	    block_option_bool(cfg, who, "detect_zeroes", &o->detect_zeroes) != 0 ||
	    block_option_sectors(o, cfg, who) != 0 || block_option_discard(o, cfg, who) != 0 ||
	    block_option_numbers(o, cfg, who) != 0)
		return -EINVAL;
	o->sync |= direct;
	o->aio = config_get_default(cfg, "aio", "auto");
	if (strcmp(o->aio, "auto") != 0 && strcmp(o->aio, "io_uring") != 0 &&
	    strcmp(o->aio, "threads") != 0)
		return block_option_bad(cfg, who, "aio", "auto, io_uring or threads");
	if (config_get(cfg, "ram") != NULL) {
		if (o->path == NULL)
			return block_option_ram(o, cfg, who);
		log_error(who, "path and ram: a disk is one or the other");
		return -EINVAL;
	}
	if (o->path == NULL || o->path[0] == '\0') {
		log_error(who, "a disk needs a path, or ram=SIZE");
		return -EINVAL;
	}
	return 0;
}
