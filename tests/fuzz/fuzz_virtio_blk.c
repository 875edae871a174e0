/*
 * A hostile driver of virtio-blk: any registers, rings and chains, changed under the device by another
 * thread, with resets at any moment. Whatever it does, the device can be reset afterwards, and then
 * does what a driver asks.
 */
#include "../unit/virtio_rig.h"

#include "virtio/virtio_blk.h"

#include <stdatomic.h>

#define FUZZ_MEMORY MIB(16)
#define FUZZ_STEPS 96
#define FUZZ_RINGS MIB(1) /* where the rig puts its first ring */
#define FUZZ_DATA MIB(8)

struct fuzz_step { /* as the input has it */
	uint8_t op, a;
	uint16_t b;
	uint32_t c;
	uint64_t d;
};

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct rig rig;
static atomic_uint fuzz_scribbles; /* how many more words the other thread changes */
static pthread_mutex_t fuzz_lock = PTHREAD_MUTEX_INITIALIZER; /* held while it changes one */

/* Changes the rings while the device reads them. */
static void *
fuzz_scribble(void *arg)
{
	uint64_t seed = 88172645463325252ull;

	for (;;) {
		unsigned left = atomic_load(&fuzz_scribbles);

		if (left == 0) {
			nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL);
			continue;
		}
		seed ^= seed << 13;
		seed ^= seed >> 7;
		seed ^= seed << 17;
		pthread_mutex_lock(&fuzz_lock);
		if (atomic_compare_exchange_strong(&fuzz_scribbles, &left, left - 1))
			*(volatile uint16_t *)rig_ptr(&rig, FUZZ_RINGS + (seed >> 16) % 1024 * 2,
			    2) = (uint16_t)(seed >> 40) & (seed & 1 ? 7 : 0xffff);
		pthread_mutex_unlock(&fuzz_lock);
	}
	return NULL;
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char *const lines[] = { "pci.0.3.0.device=virtio-blk", "pci.0.3.0.ram=1",
		"pci.0.3.0.packed=true", "pci.0.3.0.queues=2", NULL };
	pthread_t thread;

	rig_create(&rig, FUZZ_MEMORY, lines);
	pthread_create(&thread, NULL, fuzz_scribble, NULL);
	return 0;
}

static void
fuzz_start(uint64_t features, uint16_t num)
{
	bool legacy = features & 1;

	rig.memory_next = FUZZ_RINGS;
	rig.kind = legacy ? RIG_LEGACY : RIG_MODERN;
	features &= rig_offered(&rig);
	rig_start(&rig, rig.kind, legacy ? features : features | BIT64(VIRTIO_F_VERSION_1),
	    (uint16_t)(1u << num % 8));
}

/* An address that is mostly one of data, sometimes a ring or nothing. */
static uint64_t
fuzz_address(const struct fuzz_step *s)
{
	switch (s->a >> 6) {
	case 0: return s->d;
	case 1: return FUZZ_RINGS + s->d % KIB(64);
	}
	return FUZZ_DATA + s->d % MIB(4);
}

static void
fuzz_desc(const struct fuzz_step *s)
{
	struct rig_queue *q = &rig.queue[s->a & 1];
	struct rig_desc *table = s->a & 2 ? rig_ptr(&rig, FUZZ_DATA, KIB(4)) : q->desc;
	uint16_t flags = (uint16_t)(s->b & 7), at = s->b >> 8;
	uint32_t len = s->a & 4 ? s->c : s->c % 8 == 0 ? 1 : s->c % 8 == 1 ? 16 : s->c % 8 * 512;

	if (q->packed)
		flags |= s->b & 8 ? 0x80 : 0x8000;
	table[at % q->num] = q->packed ?
	    (struct rig_desc){ fuzz_address(s), len, (uint16_t)s->c, flags } :
	    (struct rig_desc){ fuzz_address(s), len, flags, (uint16_t)(s->c >> 16) % (q->num + 1) };
}

static void
fuzz_header(const struct fuzz_step *s)
{
	static const uint8_t types[] = { VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH,
		VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_WRITE_ZEROES, 1, 0 };
	const struct virtio_blk_header h = { .type = types[s->a % 8],
		.sector = s->a & 8 ? s->d : s->d % 2048 };
	const struct virtio_blk_range range = { s->d % 2048, s->c, s->b & 3 };

	memcpy(rig_ptr(&rig, FUZZ_DATA + s->b % KIB(4), 16), &h, sizeof(h));
	memcpy(rig_ptr(&rig, FUZZ_DATA + s->b % KIB(4) + 16, 16), &range, sizeof(range));
}

/* A request as a driver would make it, with lengths that may not be. */
static void
fuzz_request(const struct fuzz_step *s)
{
	struct rig_queue *q = &rig.queue[s->a & 1];
	struct rig_buf buf[3] = { { FUZZ_DATA + s->b % KIB(4), s->a & 16 ? s->b % 64 : 16, false },
		{ FUZZ_DATA + KIB(8) + s->d % KIB(64), s->a & 32 ? s->c : s->c % 64 * 512,
		    s->a & 4 },
		{ FUZZ_DATA + KIB(4), 1, true } };

	/* The rig's own bookkeeping is in the descriptors. */
	if (q->free_count < 3 || q->num < 3 || q->free_head >= q->num)
		return;
	rig_add(q, buf, 3, s->a & 8 && rig_has(&rig, VIRTIO_F_RING_INDIRECT_DESC) ? RIG_INDIRECT : 0);
	rig_kick_always(q);
}

static void
fuzz_available(const struct fuzz_step *s)
{
	struct rig_queue *q = &rig.queue[s->a & 1];
	struct rig_avail *avail = q->driver;

	if (!q->packed) {
		avail->ring[q->next % q->num] = s->b % (q->num + 1);
		avail->idx = q->next = (uint16_t)(s->a & 128 ? s->c : q->next + 1u);
	}
	rig_kick_always(q);
}

static void
fuzz_register(const struct fuzz_step *s)
{
	int size = 1 << (s->a & 3);

	switch (s->a >> 2 & 7) {
	case 0: rig_wr(&rig, rig.common + s->b % 64 / (unsigned)size * (unsigned)size, size, s->d); break;
	case 1: rig_wr(&rig, rig.device + s->b % 64 / (unsigned)size * (unsigned)size, size, s->d); break;
	case 2: rig_wr(&rig, rig.notify + s->b % 16 / (unsigned)size * (unsigned)size, size, s->d); break;
	case 3: (void)rig_rd(&rig, rig.common + s->b % 0x4000 / 8 * 8, size); break;
	case 4: rig_io_wr(&rig, s->b % 128 / 4 * 4, MIN(size, 4), s->c); break;
	case 5: rig_io_wr(&rig, 16 + s->b % 8, 1, s->c); break;
	case 6: (void)rig_io(&rig, s->b % 128 / 4 * 4, MIN(size, 4)); break;
	case 7:
		rig_cfg_wr(&rig, rig.cfg_cap + 4 + s->b % 16 / 4 * 4, 4, s->c);
		(void)rig_cfg(&rig, rig.cfg_cap + 16, 4);
		break;
	}
}

static void
fuzz_step_do(const struct fuzz_step *s)
{
	switch (s->op % 16) {
	case 0: fuzz_start(s->d, s->b); break;
	case 1:
	case 2:
	case 3: fuzz_desc(s); break;
	case 4: fuzz_header(s); break;
	case 5:
	case 6: fuzz_available(s); break;
	case 7:
	case 8:
	case 9: fuzz_register(s); break;
	case 10: rig_reset(&rig); break;
	case 11: atomic_store(&fuzz_scribbles, s->b % 2048); break;
	case 12:
		memcpy(rig_ptr(&rig, FUZZ_RINGS + s->b % KIB(32), 8), &s->d, 8);
		break;
	default: fuzz_request(s); break;
	}
}

/* After all that a reset makes a working disk of it. */
static void
fuzz_check(void)
{
	const struct virtio_blk_header h = { .type = VIRTIO_BLK_T_IN };
	struct rig_buf buf[3] = { { FUZZ_DATA, 16, false }, { FUZZ_DATA + 512, 512, true },
		{ FUZZ_DATA + 16, 1, true } };
	uint8_t *status = rig_ptr(&rig, FUZZ_DATA + 16, 1);
	uint32_t len;

	pthread_mutex_lock(&fuzz_lock);
	atomic_store(&fuzz_scribbles, 0);
	pthread_mutex_unlock(&fuzz_lock);
	rig.memory_next = FUZZ_RINGS;
	rig_start(&rig, RIG_MODERN, BIT64(VIRTIO_F_VERSION_1), 16);
	memcpy(rig_ptr(&rig, FUZZ_DATA, 16), &h, sizeof(h));
	*status = 0xee;
	rig_add(&rig.queue[0], buf, 3, 0);
	rig_kick_always(&rig.queue[0]);
	(void)rig_wait(&rig.queue[0], &len);
	rig_must(*status == VIRTIO_BLK_S_OK, "a bad end");
}

/* Steps as the input has them, or, so that short inputs get far too, many that follow from it. */
static struct fuzz_step
fuzz_step_get(const uint8_t *data, size_t size, size_t i, uint64_t *seed)
{
	uint64_t word[2];
	struct fuzz_step step;

	if (!(data[0] & 1)) {
		memcpy(&step, data + i * sizeof(step), sizeof(step));
		return step;
	}
	for (int k = 0; k < 2; k++) {
		*seed = (*seed ^ data[i % size]) * 6364136223846793005u + 1442695040888963407u;
		word[k] = *seed ^ *seed >> 29;
	}
	memcpy(&step, word, sizeof(step));
	return step;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	size_t n = MIN(size / sizeof(struct fuzz_step), (size_t)FUZZ_STEPS);
	uint64_t seed = size;

	if (size == 0)
		return 0;
	if (data[0] & 1)
		n = FUZZ_STEPS;
	fuzz_start(data[0] * 0x0101010101010101ull, 5);
	for (size_t i = 0; i < n; i++) {
		struct fuzz_step step = fuzz_step_get(data, size, i, &seed);

		fuzz_step_do(&step);
	}
	fuzz_check();
	return 0;
}
