/*
 * Threads for host calls that block.
 */
#include "block/pool.h"

#include <stdlib.h>

struct block_pool {
	struct block *b;
	void (*run)(struct block_req *req);
	void (*done)(struct block_req *req);
	pthread_t *threads;
	unsigned max, made;

	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t more;
	struct block_req_list queue;
	unsigned queued, idle; /* requests in the queue; threads that wait for one */
	bool stop;
};

static void
block_pool_returned(void *ctx)
{
	struct block_req *req = ctx;
	struct block_pool *p = req->step.pool;

	p->done(req);
}

/* Runs the request on this thread and sends it back. */
static void
block_pool_do(struct block_pool *p, struct block_req *req)
{
	p->run(req);
	block_work_init(&req->work, block_pool_returned, req);
	block_post(p->b, &req->work);
}

static void *
block_pool_thread(void *arg)
{
	struct block_pool *p = arg;
	struct block_req *req;

	pthread_mutex_lock(&p->lock);
	for (;;) {
		while (p->queue.first == NULL && !p->stop) {
			p->idle++;
			pthread_cond_wait(&p->more, &p->lock);
			p->idle--;
		}
		req = block_req_list_take(&p->queue);
		if (req == NULL)
			break;
		p->queued--;
		pthread_mutex_unlock(&p->lock);
		block_pool_do(p, req);
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

struct block_pool *
block_pool_create(struct block *b, unsigned max, void (*run)(struct block_req *req),
    void (*done)(struct block_req *req))
{
	struct block_pool *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return NULL;
	*p = (struct block_pool){ .b = b, .run = run, .done = done, .max = max };
	p->threads = calloc(max, sizeof(*p->threads));
	if (p->threads == NULL) {
		free(p);
		return NULL;
	}
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->more, NULL);
	block_req_list_init(&p->queue);
	return p;
}

void
block_pool_destroy(struct block_pool *p)
{
	if (p == NULL)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_broadcast(&p->more);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->made; i++)
		pthread_join(p->threads[i], NULL);
	pthread_cond_destroy(&p->more);
	pthread_mutex_destroy(&p->lock);
	free(p->threads);
	free(p);
}

/* Threads inherit the disk's signal mask: all blocked. */
static bool
block_pool_thread_add(struct block_pool *p)
{
	if (p->made < p->max &&
	    pthread_create(&p->threads[p->made], NULL, block_pool_thread, p) == 0)
		p->made++;
	return p->made != 0;
}

void
block_pool_run(struct block_pool *p, struct block_req *req)
{
	bool busy;

	req->step.pool = p;
	pthread_mutex_lock(&p->lock);
	busy = p->queued >= p->idle;
	pthread_mutex_unlock(&p->lock);
	if (busy && !block_pool_thread_add(p)) {
		/* The host has no thread for us at all: slow is better than stuck. */
		block_pool_do(p, req);
		return;
	}
	pthread_mutex_lock(&p->lock);
	block_req_list_add(&p->queue, req);
	p->queued++;
	pthread_cond_signal(&p->more);
	pthread_mutex_unlock(&p->lock);
}
