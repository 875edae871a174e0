/*
 * bench_disk FILE [SECONDS [CASE]]: what a guest's driver gets from a disk on a file with O_DIRECT, beside fio
 * with io_uring on that file, in turn. Device model, rings and back end are the real ones, and no
 * guest's processor is in the way: the driver is a few functions of ours.
 *
 * In the first column of a disk these run in the interrupt itself: a processor that costs nothing,
 * so the figure is the device's. In the others the driver is a thread that sleeps until it is
 * interrupted, as an idle processor does; this needs a second CPU that is free.
 */
#include "bench_disk.h"

#include "disk_virtio_blk.h"

#include <semaphore.h>
#include <time.h>

#define VIRTIO_BLK(open) \
	{ "virtio-blk", open, disk_virtio_add, disk_virtio_kick, disk_virtio_reap, disk_virtio_close }

static const struct bench_column {
	const char *name;
	struct bench_disk disk;
	bool thread;
} bench_columns[] = {
	{ "virtio-blk", VIRTIO_BLK(disk_virtio_open), false },
	{ "packed", VIRTIO_BLK(disk_virtio_open_packed), false },
	{ "driver's thread", VIRTIO_BLK(disk_virtio_open), true },
};
#define BENCH_WHO (1 + ARRAY_SIZE(bench_columns)) /* fio is the first */

struct bench { /* a driver */
	const struct bench_column *column;
	const struct bench_case *c;
	void *ctx;
	pthread_mutex_t lock; /* guards the rest */
	uint64_t at, seed, ios;
	double start, end;
	unsigned seconds, out;
	sem_t woken, over;
};

static double
bench_now_s(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Takes what is done and asks for as much again. False when nothing was done. Lock held. */
static bool
bench_turn(struct bench *b)
{
	const struct bench_disk *disk = &b->column->disk;
	unsigned slots[BENCH_DEPTH_MAX], n = disk->reap(b->ctx, slots, BENCH_DEPTH_MAX);

	if (n == 0)
		return false;
	b->end = bench_now_s();
	b->ios += n;
	b->out -= n;
	for (unsigned i = 0; b->end - b->start < b->seconds && i < n; i++, b->out++)
		disk->add(b->ctx, slots[i], b->c->write, bench_offset(b->c, &b->at, &b->seed),
		    b->c->len);
	disk->kick(b->ctx);
	if (b->out == 0)
		sem_post(&b->over);
	return true;
}

static void
bench_turns(struct bench *b)
{
	pthread_mutex_lock(&b->lock);
	while (bench_turn(b))
		;
	pthread_mutex_unlock(&b->lock);
}

static void
bench_interrupt(void *arg)
{
	struct bench *b = arg;

	if (b->column->thread)
		sem_post(&b->woken);
	else
		bench_turns(b);
}

static void *
bench_thread(void *arg)
{
	struct bench *b = arg;

	while (b->out != 0) {
		sem_wait(&b->woken);
		bench_turns(b);
	}
	return NULL;
}

static struct bench_result
bench_run(const struct bench_column *column, const char *path, const struct bench_case *c,
    unsigned seconds)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct bench_result r;
	pthread_t thread;
	double cpu;

	*b = (struct bench){ .column = column, .c = c, .seed = 1, .seconds = seconds };
	pthread_mutex_init(&b->lock, NULL);
	sem_init(&b->woken, 0, 0);
	sem_init(&b->over, 0, 0);
	b->ctx = column->disk.open(path, bench_interrupt, b);
	cpu = bench_cpu_s();
	b->start = bench_now_s();
	pthread_mutex_lock(&b->lock);
	for (; b->out < c->depth; b->out++)
		column->disk.add(b->ctx, b->out, c->write, bench_offset(c, &b->at, &b->seed),
		    c->len);
	column->disk.kick(b->ctx);
	pthread_mutex_unlock(&b->lock);
	if (column->thread)
		pthread_create(&thread, NULL, bench_thread, b);
	sem_wait(&b->over);
	if (column->thread)
		pthread_join(thread, NULL);
	cpu = bench_cpu_s() - cpu;
	column->disk.close(b->ctx);
	r = (struct bench_result){ (double)b->ios / (b->end - b->start),
		cpu * 1e6 / (double)MAX(b->ios, 1u) };
	free(b);
	return r;
}

static void
bench_case_run(const char *path, const struct bench_case *c, unsigned seconds)
{
	struct bench_result r[BENCH_WHO][BENCH_ROUNDS], fio;

	/* In turn, and each first once: storage that is shared may be faster after a pause. */
	for (unsigned i = 0; i < BENCH_ROUNDS; i++) {
		for (unsigned k = 0; k < BENCH_WHO; k++) {
			unsigned who = (i + k) % BENCH_WHO;

			r[who][i] = who == 0 ? bench_fio(path, c, seconds) :
					       bench_run(&bench_columns[who - 1], path, c, seconds);
		}
	}
	fio = bench_median(r[0]);
	printf("%-26s %7.0f %5.1f", c->name, fio.iops, fio.cpu_us);
	for (unsigned who = 1; who < BENCH_WHO; who++) {
		struct bench_result dev = bench_median(r[who]);

		printf("  %7.0f %5.1f %4.0f%%", dev.iops, dev.cpu_us,
		    fio.iops != 0 ? dev.iops * 100 / fio.iops : 0);
	}
	printf("\n");
	fflush(stdout);
}

int
main(int argc, char **argv)
{
	unsigned seconds = argc > 2 ? (unsigned)atoi(argv[2]) : 3;

	if (argc < 2 || seconds == 0 || bench_file(argv[1]) != 0) {
		fprintf(stderr, "usage: bench_disk FILE [SECONDS [CASE]]\n");
		return 1;
	}
	printf("I/O per second, CPU microseconds per I/O, share of fio's; %u s each\n%-26s %13s",
	    seconds, "", "fio");
	for (unsigned i = 0; i < ARRAY_SIZE(bench_columns); i++)
		printf("  %19s", bench_columns[i].name);
	printf("\n");
	for (size_t i = 0; i < ARRAY_SIZE(bench_cases); i++) {
		if (argc < 4 || strstr(bench_cases[i].name, argv[3]) != NULL)
			bench_case_run(argv[1], &bench_cases[i], seconds);
	}
	unlink(argv[1]);
	return 0;
}
