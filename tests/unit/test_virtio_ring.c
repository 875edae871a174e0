/*
 * Rings of VIRTIO devices: chains of every shape go round many times, notifications are suppressed
 * as both sides say, and no malformed ring does more than to ask for a reset.
 */
#include "virtio_probe.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "capture.h"

#include "base/iov.h"

#define V1 BIT64(VIRTIO_F_VERSION_1)
#define INDIRECT BIT64(VIRTIO_F_RING_INDIRECT_DESC)
#define EVENT_IDX BIT64(VIRTIO_F_RING_EVENT_IDX)
#define PACKED BIT64(VIRTIO_F_RING_PACKED)

static const char *const probe_lines[] = { "pci.0.3.0.device=probe", "pci.0.3.0.packed=true", NULL };

static const struct ring_kind {
	enum rig_kind kind;
	uint64_t features;
	unsigned add; /* flags of rig_add() */
	uint16_t num;
} ring_kinds[] = {
	{ RIG_LEGACY, 0, 0, 0 },
	{ RIG_LEGACY, INDIRECT | EVENT_IDX, RIG_INDIRECT, 0 },
	{ RIG_MODERN, V1, 0, 64 },
	{ RIG_MODERN, V1, 0, 8 },
	{ RIG_MODERN, V1 | EVENT_IDX, 0, 16 },
	{ RIG_MODERN, V1 | EVENT_IDX | INDIRECT, RIG_INDIRECT, 16 },
	{ RIG_MODERN, V1 | PACKED, 0, 64 },
	{ RIG_MODERN, V1 | PACKED | EVENT_IDX, 0, 16 },
	{ RIG_MODERN, V1 | PACKED | EVENT_IDX, 0, 13 },
	{ RIG_MODERN, V1 | PACKED | INDIRECT, RIG_INDIRECT, 7 },
	{ RIG_MODERN, V1 | PACKED | INDIRECT | EVENT_IDX, RIG_INDIRECT, 16 },
};

/* Memory for one chain's data: out in two pieces, in in two. */
struct echo {
	struct rig_buf buf[4];
	uint64_t gpa;
};

static void
echo_init(struct rig *rig, struct echo *e)
{
	e->gpa = rig_alloc(rig, 64, 16);
	e->buf[0] = (struct rig_buf){ e->gpa, 10, false };
	e->buf[1] = (struct rig_buf){ e->gpa + 10, 6, false };
	e->buf[2] = (struct rig_buf){ e->gpa + 32, 3, true };
	e->buf[3] = (struct rig_buf){ e->gpa + 35, 13, true };
}

static uint16_t
echo_add(struct rig_queue *q, struct echo *e, uint8_t seed, unsigned flags)
{
	uint8_t *p = rig_ptr(q->rig, e->gpa, 64);

	for (int i = 0; i < 16; i++)
		p[i] = (uint8_t)(seed + i);
	memset(p + 32, 0, 16);
	return rig_add(q, e->buf, 4, flags);
}

static void
echo_check(struct rig_queue *q, const struct echo *e)
{
	uint8_t *p = rig_ptr(q->rig, e->gpa, 64);

	assert_memory_equal(p, p + 32, 16);
}

static void
test_echo(void **state)
{
	for (size_t k = 0; k < ARRAY_SIZE(ring_kinds); k++) {
		const struct ring_kind *kind = &ring_kinds[k];
		struct rig rig;
		struct echo echo;
		uint32_t len;

		rig_create(&rig, MIB(16), probe_lines);
		rig_start(&rig, kind->kind, kind->features, kind->num);
		echo_init(&rig, &echo);
		for (int i = 0; i < 1000; i++) {
			struct rig_queue *q = &rig.queue[i % 2];
			uint16_t id = echo_add(q, &echo, (uint8_t)i, kind->add);

			rig_kick(q);
			assert_int_equal(rig_wait(q, &len), id);
			assert_int_equal(len, 16);
			echo_check(q, &echo);
		}
		assert_int_equal(rig_status(&rig) & VIRTIO_STATUS_NEEDS_RESET, 0);
		assert_true(mock_vm(rig.vm)->written > 0);
		rig_destroy(&rig);
	}
}

/* As many chains as there is room for, held and given back in another order. */
static void
test_out_of_order(void **state)
{
	for (size_t k = 0; k < ARRAY_SIZE(ring_kinds); k++) {
		const struct ring_kind *kind = &ring_kinds[k];
		struct echo echo[PROBE_NUM];
		struct rig rig;
		struct rig_queue *q = &rig.queue[0];
		struct probe *p;
		uint64_t seed = 88172645463325252ull;

		rig_create(&rig, MIB(16), probe_lines);
		rig_start(&rig, kind->kind, kind->features, kind->num);
		p = rig_the_probe(&rig);
		p->hold = true;
		for (int i = 0; i < PROBE_NUM; i++)
			echo_init(&rig, &echo[i]);
		for (int round = 0; round < 100; round++) {
			struct echo *of[RIG_NUM_MAX];
			uint32_t len;
			int out = 0;

			while (q->free_count >= (kind->add ? 1 : 4)) {
				uint16_t id = echo_add(q, &echo[out], (uint8_t)(round + out),
				    kind->add);

				of[id] = &echo[out++];
			}
			rig_kick(q);
			assert_int_equal(p->holds, out);
			for (int i = out - 1; i > 0; i--) {
				int other = (int)(seed % (unsigned)(i + 1));
				struct probe_chain swap = p->held[i];

				seed = seed * 6364136223846793005u + 1442695040888963407u;
				/* The arrays move, so the pointers into them do. */
				p->held[i] = p->held[other];
				p->held[other] = swap;
			}
			for (int i = 0; i < out; i++) {
				struct probe_chain *c = &p->held[i];

				c->c.out = c->iov;
				c->c.in = c->iov + c->c.outs;
			}
			probe_release(p);
			for (int i = 0; i < out; i++) {
				int id = rig_get(q, &len);

				assert_true(id >= 0);
				echo_check(q, of[id]);
			}
			assert_int_equal(rig_get(q, &len), -1);
		}
		rig_destroy(&rig);
	}
}

/* What is filled is seen when it is published, all at once. */
static void
test_fill_and_unpop(void **state)
{
	for (size_t k = 0; k < ARRAY_SIZE(ring_kinds); k++) {
		const struct ring_kind *kind = &ring_kinds[k];
		struct probe_chain c[3], none;
		struct echo echo[3];
		struct virtq *vq;
		struct rig rig;
		struct rig_queue *q = &rig.queue[2];
		uint32_t len;

		rig_create(&rig, MIB(16), probe_lines);
		rig_start(&rig, kind->kind, kind->features, kind->num);
		vq = virtio_queue(rig_dev(&rig), 2);
		for (int i = 0; i < 3; i++)
			echo_init(&rig, &echo[i]);
		for (int round = 0; round < 50; round++) {
			unsigned n = kind->add ? 3 : MIN(3, q->free_count / 4);

			for (unsigned i = 0; i < n; i++)
				echo_add(q, &echo[i], (uint8_t)i, kind->add);
			for (unsigned i = 0; i < n; i++)
				assert_true(virtq_pop(vq, &c[i].c, c[i].iov, PROBE_IOV));
			assert_false(virtq_pop(vq, &none.c, none.iov, PROBE_IOV));
			/* All back, and once more. */
			for (unsigned i = n; i-- > 0;)
				virtq_unpop(vq, &c[i].c);
			assert_true(virtq_rearm(vq));
			for (unsigned i = 0; i < n; i++)
				assert_true(virtq_pop(vq, &c[i].c, c[i].iov, PROBE_IOV));
			assert_false(virtq_rearm(vq));
			for (unsigned i = 0; i < n; i++) {
				virtq_fill(vq, &c[i].c, probe_echo(&c[i]));
				assert_int_equal(rig_get(q, &len), -1);
			}
			virtq_publish(vq);
			for (unsigned i = 0; i < n; i++)
				assert_true(rig_get(q, &len) >= 0);
			assert_int_equal(rig_get(q, &len), -1);
			virtq_interrupt(vq);
		}
		assert_int_equal(rig_status(&rig) & VIRTIO_STATUS_NEEDS_RESET, 0);
		rig_destroy(&rig);
	}
}

/* --- Notifications --- */

static void
test_interrupt_suppression(void **state)
{
	for (size_t k = 2; k < ARRAY_SIZE(ring_kinds); k++) {
		const struct ring_kind *kind = &ring_kinds[k];
		bool event_idx = kind->features & EVENT_IDX;
		struct rig rig;
		struct rig_queue *q = &rig.queue[0];
		struct echo echo;
		uint32_t len;

		rig_create(&rig, MIB(16), probe_lines);
		rig_start(&rig, kind->kind, kind->features, kind->num);
		echo_init(&rig, &echo);
		for (int i = 0; i < 100; i++) {
			uint32_t before = rig.interrupts[0];
			bool on = i % 3 == 0;

			/* A split ring with events has no other way to say no than to leave the
			 * event behind. */
			rig_interrupts_on(q, on);
			echo_add(q, &echo, (uint8_t)i, kind->add);
			rig_kick_always(q);
			if (i > 3 || !event_idx || q->packed)
				assert_int_equal(rig.interrupts[0] - before, on);
			assert_true(rig_get(q, &len) >= 0);
		}
		rig_destroy(&rig);
	}
}

/* The event may lie some way ahead. */
static void
test_interrupt_at_event(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct rig rig;
		struct rig_queue *q = &rig.queue[0];
		struct echo echo;
		uint32_t len;

		rig_create(&rig, MIB(16), probe_lines);
		rig_start(&rig, RIG_MODERN, V1 | EVENT_IDX | INDIRECT | (packed ? PACKED : 0), 16);
		echo_init(&rig, &echo);
		for (int round = 0; round < 20; round++) {
			int at = round % 5;

			if (packed) {
				struct rig_event *e = q->driver;
				unsigned slot = q->seen + (unsigned)at;
				bool wrap = q->seen_wrap != (slot >= 16);

				e->off_wrap = (uint16_t)(slot % 16 | (unsigned)wrap << 15);
				e->flags = 2;
			} else {
				((struct rig_avail *)q->driver)->ring[16] = (uint16_t)(q->seen + at);
			}
			for (int i = 0; i < 5; i++) {
				uint32_t before = rig.interrupts[0];

				echo_add(q, &echo, 0, RIG_INDIRECT);
				rig_kick_always(q);
				assert_int_equal(rig.interrupts[0] - before, i == at);
			}
			for (int i = 0; i < 5; i++)
				assert_true(rig_get(q, &len) >= 0);
		}
		rig_destroy(&rig);
	}
}

static void
test_notification_suppression(void **state)
{
	for (size_t k = 0; k < ARRAY_SIZE(ring_kinds); k++) {
		const struct ring_kind *kind = &ring_kinds[k];
		struct rig rig;
		struct rig_queue *q = &rig.queue[0];
		struct virtq *vq;
		struct echo echo;

		rig_create(&rig, MIB(16), probe_lines);
		rig_start(&rig, kind->kind, kind->features, kind->num);
		vq = virtio_queue(rig_dev(&rig), 0);
		echo_init(&rig, &echo);
		assert_false(virtq_rearm(vq));
		echo_add(q, &echo, 0, kind->add);
		assert_true(rig_wants_kick(q));
		assert_true(virtq_rearm(vq));
		rig_kick(q);
		virtq_mute(vq);
		if (q->free_count >= 4) {
			echo_add(q, &echo, 0, kind->add);
			/* Without being told otherwise, a split ring with events has the event at
			 * the next chain. */
			if (q->packed || !q->event_idx)
				assert_false(rig_wants_kick(q));
		}
		rig_destroy(&rig);
	}
}

/* --- Malformed rings --- */

struct bad {
	const char *why; /* as logged */
	uint64_t features;
	void (*make)(struct rig_queue *q);
};

static void
bad_split(struct rig_queue *q, uint16_t head)
{
	struct rig_avail *avail = q->driver;

	avail->ring[q->next % q->num] = head;
	avail->idx = ++q->next;
}

static void
bad_desc(struct rig_queue *q, unsigned i, uint64_t addr, uint32_t len, uint16_t flags,
    uint16_t next)
{
	if (q->packed)
		q->desc[i] = (struct rig_desc){ addr, len, 0, (uint16_t)(flags | 0x80) };
	else
		q->desc[i] = (struct rig_desc){ addr, len, flags, next };
}

static void
bad_head(struct rig_queue *q)
{
	bad_split(q, q->num);
}

static void
bad_next(struct rig_queue *q)
{
	bad_desc(q, 0, MIB(1), 8, 1, 0xffff);
	bad_split(q, 0);
}

static void
bad_loop(struct rig_queue *q)
{
	bad_desc(q, 0, MIB(1), 0, 1, 1);
	bad_desc(q, 1, MIB(1), 0, 1, 0);
	bad_split(q, 0);
}

static void
bad_loop_with_data(struct rig_queue *q)
{
	bad_desc(q, 0, MIB(1), 8, 1, 0);
	bad_split(q, 0);
}

static void
bad_jump(struct rig_queue *q)
{
	((struct rig_avail *)q->driver)->idx = (uint16_t)(q->next + q->num + 1);
}

static void
bad_address(struct rig_queue *q)
{
	bad_desc(q, 0, 0xfffffffffffff000, 8192, 0, 0);
	bad_split(q, 0);
}

static void
bad_hole(struct rig_queue *q)
{
	bad_desc(q, 0, MIB(16) - 4, 8, 0, 0);
	bad_split(q, 0);
}

static void
bad_order(struct rig_queue *q)
{
	bad_desc(q, 0, MIB(1), 8, 1 | 2, 1);
	bad_desc(q, 1, MIB(1), 8, 0, 0);
	bad_split(q, 0);
}

static void
bad_indirect(struct rig_queue *q)
{
	bad_desc(q, 0, q->table_gpa, 16, 4, 0);
	bad_split(q, 0);
}

static void
bad_indirect_next(struct rig_queue *q)
{
	bad_desc(q, 0, q->table_gpa, 16, 4 | 1, 1);
	bad_split(q, 0);
}

static void
bad_indirect_nested(struct rig_queue *q)
{
	struct rig_desc *table = rig_ptr(q->rig, q->table_gpa, 16);

	table[0] = (struct rig_desc){ q->table_gpa, 16, 4, 4 };
	bad_desc(q, 0, q->table_gpa, 16, 4, 0);
	bad_split(q, 0);
}

static void
bad_indirect_loop(struct rig_queue *q)
{
	struct rig_desc *table = rig_ptr(q->rig, q->table_gpa, 16);

	table[0] = (struct rig_desc){ MIB(1), 0, 1, 0 };
	bad_desc(q, 0, q->table_gpa, 8 << 20, 4, 0);
	bad_split(q, 0);
}

static void
bad_indirect_length(struct rig_queue *q)
{
	bad_desc(q, 0, q->table_gpa, 17, 4, 0);
	bad_split(q, 0);
}

static void
bad_indirect_address(struct rig_queue *q)
{
	bad_desc(q, 0, MIB(16), 16, 4, 0);
	bad_split(q, 0);
}

static void
bad_long(struct rig_queue *q)
{
	for (uint16_t i = 0; i < q->num; i++)
		bad_desc(q, i, MIB(1), 8, 1, i + 1);
	bad_split(q, 0);
}

static void
bad_packed_endless(struct rig_queue *q)
{
	for (uint16_t i = 0; i < q->num; i++)
		bad_desc(q, i, MIB(1), 0, 1, 0);
}

static void
bad_packed_table(struct rig_queue *q)
{
	bad_desc(q, 0, q->table_gpa, 1025 * 16, 4, 0);
}

static const struct bad bads[] = {
	{ "a descriptor's index is beyond the table", V1, bad_head },
	{ "a descriptor's index is beyond the table", V1, bad_next },
	{ "a chain is a loop", V1, bad_loop },
	{ "a chain has more buffers than the device takes", V1, bad_loop_with_data },
	{ "the index of the available ring jumped", V1, bad_jump },
	{ "a buffer is not in memory", V1, bad_address },
	{ "a buffer is not in memory", V1, bad_hole },
	{ "a buffer to be read follows one to be written", V1, bad_order },
	{ "an indirect descriptor, which was not agreed on", V1, bad_indirect },
	{ "an indirect descriptor where none can be", V1 | INDIRECT, bad_indirect_next },
	{ "an indirect descriptor where none can be", V1 | INDIRECT, bad_indirect_nested },
	{ "a chain is a loop", V1 | INDIRECT, bad_indirect_loop },
	{ "an indirect table's length is no multiple of 16", V1 | INDIRECT, bad_indirect_length },
	{ "an indirect table is not in memory", V1 | INDIRECT, bad_indirect_address },
	{ "a chain has more buffers than the device takes", V1, bad_long },
	{ "a buffer is not in memory", V1 | PACKED, bad_address },
	{ "a buffer to be read follows one to be written", V1 | PACKED, bad_order },
	{ "an indirect descriptor, which was not agreed on", V1 | PACKED, bad_indirect },
	{ "an indirect descriptor where none can be", V1 | PACKED | INDIRECT, bad_indirect_next },
	{ "an indirect descriptor where none can be", V1 | PACKED | INDIRECT, bad_indirect_nested },
	{ "an indirect table's length is no multiple of 16", V1 | PACKED | INDIRECT,
	    bad_indirect_length },
	{ "an indirect table is longer than any ring", V1 | PACKED | INDIRECT, bad_packed_table },
	{ "a chain is longer than the ring", V1 | PACKED, bad_packed_endless },
	{ "a chain has more buffers than the device takes", V1 | PACKED, bad_long },
};

static void
test_malformed(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(bads); i++) {
		struct rig rig;
		struct rig_queue *q = &rig.queue[0];
		struct capture said;
		struct echo echo;
		uint32_t len, taken = 0;
		uint16_t id;

		rig_create(&rig, MIB(16), probe_lines);
		rig_start(&rig, RIG_MODERN, bads[i].features, 32);
		/* Packed descriptors are made in place; the split parts of a recipe then hit
		 * what is the event structure, which is harmless. */
		if (q->packed)
			q->driver = rig_ptr(&rig, rig_alloc(&rig, 1024, 16), 1024);
		bads[i].make(q);
		capture_begin(&said);
		rig_kick_always(q);
		capture_end(&said);
		assert_true(rig_status(&rig) & VIRTIO_STATUS_NEEDS_RESET);
		rig_wait_interrupt(&rig, RIG_CONFIG_VECTOR, &taken);
		/* The log of a call site is limited: one text may be missing after some rounds. */
		if (said.text[0] != '\0' && strstr(said.text, bads[i].why) == NULL)
			fail_msg("%zu: expected '%s', got '%s'", i, bads[i].why, said.text);

		/* Nothing is done any more until a reset. */
		assert_false(virtq_pop(virtio_queue(rig_dev(&rig), 1), &(struct virtq_chain){ 0 },
		    (struct iovec[1]){ 0 }, 1));
		rig_start(&rig, RIG_MODERN, V1, 32);
		assert_int_equal(rig_status(&rig), 15);
		echo_init(&rig, &echo);
		id = echo_add(q, &echo, 1, 0);
		rig_kick(q);
		assert_int_equal(rig_wait(q, &len), id);
		echo_check(q, &echo);
		rig_destroy(&rig);
	}
}

/* A driver that lets the index run on while chains are out gets no more than the ring has. */
static void
test_more_than_the_ring(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct rig rig;
		struct rig_queue *q = &rig.queue[0];
		struct probe *p;

		rig_create(&rig, MIB(16), probe_lines);
		rig_start(&rig, RIG_MODERN, V1 | (packed ? PACKED : 0), 8);
		p = rig_the_probe(&rig);
		p->hold = true;
		for (unsigned i = 0; i < 20; i++) {
			if (packed) {
				q->desc[i % 8] = (struct rig_desc){ MIB(1), 8, 0,
					i / 8 % 2 == 0 ? 0x80 : 0x8000 };
			} else {
				bad_desc(q, 0, MIB(1), 8, 0, 0);
				bad_split(q, 0);
			}
			rig_kick_always(q);
		}
		assert_int_equal(p->holds, 8);
		assert_true(rig_status(&rig) & VIRTIO_STATUS_NEEDS_RESET);
		rig_destroy(&rig);
	}
}

/* Buffers of no length are no elements, whatever their address. */
static void
test_empty_buffers(void **state)
{
	for (int packed = 0; packed < 2; packed++) {
		struct rig rig;
		struct rig_queue *q = &rig.queue[0];
		struct rig_buf buf[4] = { { UINT64_MAX, 0, false }, { 0, 4, false },
			{ UINT64_MAX, 0, true }, { 0, 4, true } };
		uint32_t len;

		rig_create(&rig, MIB(16), probe_lines);
		rig_start(&rig, RIG_MODERN, V1 | (packed ? PACKED : 0), 8);
		buf[1].gpa = rig_alloc(&rig, 16, 16);
		buf[3].gpa = buf[1].gpa + 8;
		memcpy(rig_ptr(&rig, buf[1].gpa, 4), "abcd", 4);
		rig_add(q, buf, 4, 0);
		rig_kick(q);
		assert_true(rig_wait(q, &len) >= 0);
		assert_int_equal(len, 4);
		assert_memory_equal(rig_ptr(&rig, buf[3].gpa, 4), "abcd", 4);
		/* None at all. */
		rig_add(q, buf, 1, 0);
		rig_kick(q);
		assert_true(rig_wait(q, &len) >= 0);
		assert_int_equal(len, 0);
		rig_destroy(&rig);
	}
}

/* --- Data --- */

static void
test_iov(void **state)
{
	char a[] = "abc", b[] = "defgh", out[16] = "";
	struct iovec iov[] = { { a, 3 }, { b, 5 } }, *p = iov;
	int cnt = 2;

	assert_int_equal(iov_gather(iov, 2, 2, out, 4), 4);
	assert_string_equal(out, "cdef");
	assert_int_equal(iov_gather(iov, 2, 7, out, 4), 1);
	assert_int_equal(iov_gather(iov, 2, 8, out, 4), 0);
	assert_int_equal(iov_scatter(iov, 2, 1, "XYZ", 3), 3);
	assert_string_equal(a, "aXY");
	assert_string_equal(b, "Zefgh");
	assert_int_equal(iov_scatter(iov, 2, 6, "1234", 4), 2);
	assert_false(virtio_iov_take(&p, &cnt, out, 9));
	assert_true(p == iov && cnt == 2 && iov[0].iov_len == 3);
	memset(out, 0, sizeof(out));
	assert_true(virtio_iov_take(&p, &cnt, out, 4));
	assert_string_equal(out, "aXYZ");
	assert_int_equal(cnt, 1);
	assert_true(p->iov_base == b + 1 && p->iov_len == 4);
	assert_true(virtio_iov_take(&p, &cnt, out, 4));
	assert_int_equal(cnt, 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_echo),
		cmocka_unit_test(test_out_of_order),
		cmocka_unit_test(test_fill_and_unpop),
		cmocka_unit_test(test_interrupt_suppression),
		cmocka_unit_test(test_interrupt_at_event),
		cmocka_unit_test(test_notification_suppression),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_more_than_the_ring),
		cmocka_unit_test(test_empty_buffers),
		cmocka_unit_test(test_iov),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
