/*
 * What the benches of disks share: their cases, a file, and what fio with io_uring gets from it.
 */
#ifndef BENCH_FIO_H
#define BENCH_FIO_H

#include "base/bits.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define BENCH_SIZE MIB(1024)
#define BENCH_DEPTH_MAX 64
#define BENCH_LEN_MAX 262144
#define BENCH_ROUNDS 3

struct bench_case {
	const char *name, *fio_rw;
	bool write, random;
	unsigned len, depth;
};

static const struct bench_case bench_cases[] = {
	{ "4k random read, depth 1", "randread", false, true, 4096, 1 },
	{ "4k random read, depth 32", "randread", false, true, 4096, 32 },
	{ "4k random write, depth 1", "randwrite", true, true, 4096, 1 },
	{ "4k random write, depth 32", "randwrite", true, true, 4096, 32 },
	{ "256k read, depth 8", "read", false, false, 262144, 8 },
	{ "256k write, depth 8", "write", true, false, 262144, 8 },
};

struct bench_result {
	double iops, cpu_us; /* per I/O */
};

/* Where the next I/O of a case goes; at and seed are its state, 0 and any. */
static inline uint64_t
bench_offset(const struct bench_case *c, uint64_t *at, uint64_t *seed)
{
	uint64_t blocks = BENCH_SIZE / c->len;

	if (!c->random)
		return (*at)++ % blocks * c->len;
	*seed = *seed * 6364136223846793005u + 1442695040888963407u;
	return (*seed >> 33) % blocks * c->len;
}

static inline double
bench_cpu_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	    (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* fio's terse output has IOPS in fields 8 and 49, CPU per cent in 88 and 89. */
static inline struct bench_result
bench_fio(const char *path, const struct bench_case *c, unsigned seconds)
{
	struct bench_result r = { 0 };
	char command[512], line[8192], *field, *rest = line;
	double user = 0, sys = 0;
	FILE *in;

	snprintf(command, sizeof(command),
	    "fio --name=x --filename='%s' --size=%llu --ioengine=io_uring --direct=1 --time_based "
	    "--runtime=%u "
	    "--rw=%s --bs=%u --iodepth=%u --output-format=terse --terse-version=3 2>/dev/null",
	    path, (unsigned long long)BENCH_SIZE, seconds, c->fio_rw, c->len, c->depth);
	in = popen(command, "r");
	if (in == NULL)
		return r;
	if (fgets(line, sizeof(line), in) != NULL) {
		for (int i = 1; (field = strsep(&rest, ";")) != NULL; i++) {
			if (i == 8 || i == 49)
				r.iops += atof(field);
			else if (i == 88)
				user = atof(field);
			else if (i == 89)
				sys = atof(field);
		}
	}
	pclose(in);
	if (r.iops != 0)
		r.cpu_us = (user + sys) * 1e4 / r.iops;
	return r;
}

/* Writes the file, whole: holes would be faster than any disk. 0 or -errno. */
static inline int
bench_file(const char *path)
{
	static uint8_t chunk[1 << 20];
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);

	if (fd < 0)
		return -errno;
	memset(chunk, 0x5a, sizeof(chunk));
	for (uint64_t at = 0; at < BENCH_SIZE; at += sizeof(chunk)) {
		if (pwrite(fd, chunk, sizeof(chunk), (off_t)at) != (ssize_t)sizeof(chunk))
			return -EIO;
	}
	fsync(fd);
	close(fd);
	return 0;
}

static inline int
bench_compare(const void *a, const void *b)
{
	const struct bench_result *x = a, *y = b;

	return (x->iops > y->iops) - (x->iops < y->iops);
}

/* The median of the rounds, because the host may have other things to do meanwhile. */
static inline struct bench_result
bench_median(struct bench_result r[BENCH_ROUNDS])
{
	qsort(r, BENCH_ROUNDS, sizeof(r[0]), bench_compare);
	return r[BENCH_ROUNDS / 2];
}

#endif
