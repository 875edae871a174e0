/*
 * bench_block FILE [SECONDS]: what block/ gets from a file with O_DIRECT beside fio with io_uring.
 * Each figure is the best of some rounds in turn, because the host may have other things to do
 * meanwhile.
 *
 * "device": a driver's thread fills a ring of commands and rings a doorbell, a work on the disk's
 * thread submits them, and when some are done the driver is woken: what a device model does,
 * without a guest. "inline": callbacks submit the next request themselves: what the disk's thread
 * can do at most.
 */
#include "bench_fio.h"

#include "base/config.h"
#include "block/block.h"
#include "vm/loop.h"

#include <pthread.h>
#include <semaphore.h>
#include <time.h>

struct bench;

struct bench_slot {
	struct block_req req;
	struct iovec iov;
	struct bench_slot *next; /* in the ring, or among those done */
};

struct bench {
	const struct bench_case *c;
	struct block *disk;
	bool inline_mode;
	uint64_t at, ios;
	uint64_t seed;
	atomic_bool stop;
	struct bench_slot slots[BENCH_DEPTH_MAX];
	struct block_work kick, raise;
	_Atomic(struct bench_slot *) ring, done; /* stacks: to be submitted; for the driver */
	sem_t woken, over;
};

static void
bench_push(_Atomic(struct bench_slot *) *list, struct bench_slot *s)
{
	struct bench_slot *head = atomic_load(list);

	do {
		s->next = head;
	} while (!atomic_compare_exchange_weak(list, &head, s));
}

static void
bench_submit(struct bench *b, struct bench_slot *s)
{
	s->req.offset = bench_offset(b->c, &b->at, &b->seed);
	block_submit(b->disk, &s->req);
}

static void
bench_done(struct block_req *req, int err)
{
	struct bench *b = req->owner;
	struct bench_slot *s = container_of(req, struct bench_slot, req);

	if (err != 0) {
		fprintf(stderr, "bench_block: %s\n", strerror(-err));
		exit(1);
	}
	b->ios++;
	if (!b->inline_mode) {
		bench_push(&b->done, s);
		block_post(b->disk, &b->raise);
	} else if (!atomic_load_explicit(&b->stop, memory_order_relaxed)) {
		bench_submit(b, s);
	}
}

static void
bench_on_kick(void *ctx)
{
	struct bench *b = ctx;
	struct bench_slot *s = atomic_exchange(&b->ring, NULL), *next;

	for (; s != NULL; s = next) {
		next = s->next;
		bench_submit(b, s);
	}
}

static void
bench_on_raise(void *ctx)
{
	struct bench *b = ctx;

	sem_post(&b->woken);
}

/* The driver: gives back what is done, as a guest's interrupt handler does. */
static void *
bench_driver(void *ctx)
{
	struct bench *b = ctx;
	unsigned out = b->c->depth;

	for (unsigned i = 0; i < b->c->depth; i++)
		bench_push(&b->ring, &b->slots[i]);
	block_post(b->disk, &b->kick);
	while (out != 0) {
		struct bench_slot *s, *next;

		sem_wait(&b->woken);
		for (s = atomic_exchange(&b->done, NULL); s != NULL; s = next) {
			next = s->next;
			if (atomic_load(&b->stop))
				out--;
			else
				bench_push(&b->ring, s);
		}
		block_post(b->disk, &b->kick);
	}
	return NULL;
}

static void
bench_prepare(struct bench *b, uint8_t *mem)
{
	for (unsigned i = 0; i < b->c->depth; i++) {
		struct bench_slot *s = &b->slots[i];

		s->iov = (struct iovec){ mem + (uint64_t)i * b->c->len, b->c->len };
		s->req = (struct block_req){ .op = b->c->write ? BLOCK_WRITE : BLOCK_READ,
			.len = b->c->len,
			.iov = &s->iov,
			.iovcnt = 1,
			.done = bench_done,
			.owner = b };
		if (b->inline_mode)
			bench_push(&b->ring, s);
	}
	block_work_init(&b->kick, bench_on_kick, b);
	block_work_init(&b->raise, bench_on_raise, b);
	sem_init(&b->woken, 0, 0);
}

static struct bench_result
bench_run(struct block *disk, const struct bench_case *c, bool inline_mode, uint8_t *mem,
    unsigned seconds)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct bench_result r;
	pthread_t driver;
	double cpu = bench_cpu_s();

	*b = (struct bench){ .c = c, .disk = disk, .inline_mode = inline_mode, .seed = 1 };
	bench_prepare(b, mem);
	if (inline_mode)
		block_post(disk, &b->kick);
	else
		pthread_create(&driver, NULL, bench_driver, b);
	sleep(seconds);
	atomic_store(&b->stop, true);
	if (!inline_mode)
		pthread_join(driver, NULL);
	block_drain(disk);
	r.iops = (double)b->ios / seconds;
	r.cpu_us = (bench_cpu_s() - cpu) * 1e6 / (double)MAX(b->ios, 1u);
	free(b);
	return r;
}

static struct block *
bench_open(struct vm_loop *loop, const char *path)
{
	struct config *cfg = config_create();
	struct block *disk = NULL;

	config_set(cfg, "path", path);
	config_set(cfg, "nocache", "true");
	(void)block_open(loop, cfg, "bench_block", &disk);
	config_destroy(cfg);
	return disk;
}

static void
bench_case_run(struct block *disk, const char *path, const struct bench_case *c, uint8_t *mem,
    unsigned seconds)
{
	struct bench_result r[3][BENCH_ROUNDS], fio, dev, in;

	/* In turn, and each first once: storage that is shared may be faster after a pause. */
	for (int i = 0; i < BENCH_ROUNDS; i++) {
		for (int k = 0; k < 3; k++) {
			int who = (i + k) % 3;

			r[who][i] = who == 0 ? bench_fio(path, c, seconds)
					     : bench_run(disk, c, who == 2, mem, seconds);
		}
	}
	fio = bench_median(r[0]);
	dev = bench_median(r[1]);
	in = bench_median(r[2]);
	printf("%-26s %9.0f %6.1f %9.0f %6.1f %9.0f %6.1f %7.0f%%\n", c->name, fio.iops, fio.cpu_us,
	    dev.iops, dev.cpu_us, in.iops, in.cpu_us,
	    fio.iops != 0 ? dev.iops * 100 / fio.iops : 0);
	fflush(stdout);
}

int
main(int argc, char **argv)
{
	unsigned seconds = argc > 2 ? (unsigned)atoi(argv[2]) : 3;
	uint8_t *mem = aligned_alloc(4096, BENCH_DEPTH_MAX * BENCH_LEN_MAX);
	struct vm_loop *loop = vm_loop_create();
	struct block *disk;

	if (argc < 2 || seconds == 0 || bench_file(argv[1]) != 0) {
		fprintf(stderr, "usage: bench_block FILE [SECONDS]\n");
		return 1;
	}
	memset(mem, 0x5a, BENCH_DEPTH_MAX * BENCH_LEN_MAX);
	disk = bench_open(loop, argv[1]);
	if (disk == NULL)
		return 1;
	printf("%s, %u s each; I/O per second (CPU microseconds per I/O)\n", block_engine(disk),
	    seconds);
	printf("%-26s %16s %16s %16s %8s\n", "", "fio", "device", "inline", "dev/fio");
	for (size_t i = 0; i < ARRAY_SIZE(bench_cases); i++)
		bench_case_run(disk, argv[1], &bench_cases[i], mem, seconds);
	block_close(disk);
	vm_loop_destroy(loop);
	unlink(argv[1]);
	return 0;
}
