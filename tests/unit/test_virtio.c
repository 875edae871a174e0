/*
 * The transport of VIRTIO devices: identity, registers of both interfaces, device status, features,
 * interrupts, configuration, reset at any moment, saved state.
 */
#include "virtio_probe.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "capture.h"

#define V1 BIT64(VIRTIO_F_VERSION_1)
#define RESET BIT64(VIRTIO_F_RING_RESET)
#define PACKED BIT64(VIRTIO_F_RING_PACKED)
#define EVENT_IDX BIT64(VIRTIO_F_RING_EVENT_IDX)

static const char *const lines_default[] = { "pci.0.3.0.device=probe", NULL };
static const char *const lines_packed[] = { "pci.0.3.0.device=probe", "pci.0.3.0.packed=true", NULL };
static const char *const lines_modern[] = { "pci.0.3.0.device=probe", "pci.0.3.0.modern=true", NULL };
static const char *const lines_msi[] = { "pci.0.3.0.device=probe", "virtio_msix=false", NULL };

/* One buffer to be written, made available and kicked. */
static uint16_t
ask(struct rig_queue *q)
{
	struct rig_buf buf = { rig_alloc(q->rig, 16, 16), 16, true };
	uint16_t id = rig_add(q, &buf, 1, 0);

	rig_kick_always(q);
	return id;
}

static void
asked_comes_back(struct rig_queue *q)
{
	uint32_t len;
	uint16_t id = ask(q);

	assert_int_equal(rig_wait(q, &len), id);
}

/* --- Identity --- */

static void
test_identity(void **state)
{
	struct rig rig;

	rig_create(&rig, MIB(16), lines_default);
	assert_int_equal(rig_cfg(&rig, 0, 4), 0x10051af4);
	assert_int_equal(rig_cfg(&rig, 8, 1), 0);
	assert_int_equal(rig_cfg(&rig, 0x2c, 4), 0x00041af4);
	assert_int_not_equal(rig.io, 0);
	assert_true(rig.common != 0 && rig.notify != 0 && rig.isr != 0 && rig.device != 0);
	assert_int_not_equal(rig.cfg_cap, 0);
	assert_int_equal(rig_vectors(&rig), PROBE_QUEUES + 1);
	assert_int_equal(rig_offered(&rig), V1 | RESET | EVENT_IDX |
		BIT64(VIRTIO_F_RING_INDIRECT_DESC) | 3);
	rig_destroy(&rig);

	rig_create(&rig, MIB(16), lines_modern);
	assert_int_equal(rig_cfg(&rig, 0, 4), 0x10441af4);
	assert_int_equal(rig_cfg(&rig, 8, 1), 1);
	assert_int_equal(rig.io, 0);
	rig_destroy(&rig);

	rig_create_opt(&rig, MIB(16), lines_msi, false);
	assert_int_equal(rig_cap_find(&rig, 0x11), 0);
	assert_int_not_equal(rig_cap_find(&rig, 0x05), 0);
	rig_destroy(&rig);
}

static void
test_bad_options(void **state)
{
	static const char *const lines[] = { "pci.0.3.0.device=probe", "pci.0.3.0.packed=maybe",
		NULL };
	struct capture said;
	struct rig rig;

	capture_begin(&said);
	assert_int_equal(rig_create_opt(&rig, MIB(16), lines, true), -EINVAL);
	capture_end(&said);
	assert_string_equal(said.text, "bhyve: pci.0.3.0: packed 'maybe': expected true or false\n");
	rig_destroy(&rig);
}

/* --- Registers of the modern interface --- */

static void
test_common_registers(void **state)
{
	struct rig rig;

	rig_create(&rig, MIB(16), lines_default);
	assert_int_equal(rig_common(&rig, 18, 2), PROBE_QUEUES);
	assert_int_equal(rig_common(&rig, 20, 1), 0);
	assert_int_equal(rig_common(&rig, 16, 2), VIRTIO_NO_VECTOR);
	for (unsigned i = 0; i < PROBE_QUEUES; i++) {
		rig_common_wr(&rig, 22, 2, i);
		assert_int_equal(rig_common(&rig, 22, 2), i);
		assert_int_equal(rig_common(&rig, 24, 2), PROBE_NUM);
		assert_int_equal(rig_common(&rig, 26, 2), VIRTIO_NO_VECTOR);
		assert_int_equal(rig_common(&rig, 28, 2), 0);
		assert_int_equal(rig_common(&rig, 30, 2), i);
	}
	/* Addresses, by halves and whole. */
	rig_common_wr(&rig, 32, 4, 0x1000);
	rig_common_wr(&rig, 36, 4, 0x12);
	assert_int_equal(rig_common(&rig, 32, 8), 0x1200001000);
	rig_common_wr(&rig, 40, 8, 0x123456789a);
	assert_int_equal(rig_common(&rig, 44, 4), 0x12);
	/* A queue that is not there. */
	rig_common_wr(&rig, 22, 2, PROBE_QUEUES);
	assert_int_equal(rig_common(&rig, 24, 2), 0);
	rig_common_wr(&rig, 24, 2, 8);
	rig_common_wr(&rig, 28, 2, 1);
	assert_int_equal(rig_common(&rig, 28, 2), 0);
	/* Vectors there are none of. */
	rig_common_wr(&rig, 16, 2, PROBE_QUEUES + 1);
	assert_int_equal(rig_common(&rig, 16, 2), VIRTIO_NO_VECTOR);
	rig_common_wr(&rig, 16, 2, PROBE_QUEUES);
	assert_int_equal(rig_common(&rig, 16, 2), PROBE_QUEUES);
	/* Fields in another size than their own, and what lies beyond. */
	rig_common_wr(&rig, 20, 2, 1);
	assert_int_equal(rig_common(&rig, 20, 1), 0);
	assert_int_equal(rig_common(&rig, 64, 8), 0);
	rig_common_wr(&rig, 0xff8, 8, 1);
	rig_destroy(&rig);
}

static void
test_status_and_features(void **state)
{
	struct rig rig;

	rig_create(&rig, MIB(16), lines_default);
	/* Not without VERSION_1, not what was not offered, not what the model refuses. */
	static const uint64_t bad[] = { 0, EVENT_IDX, V1 | BIT64(50), V1 | PACKED,
		V1 | BIT64(PROBE_F_TWO), V1 | BIT64(VIRTIO_F_ANY_LAYOUT) };

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		rig_reset(&rig);
		rig_status_wr(&rig, 3);
		rig_features_wr(&rig, bad[i]);
		rig_status_wr(&rig, 11);
		assert_int_equal(rig_status(&rig), 3);
		/* So it does not start either. */
		rig_status_wr(&rig, 7);
		assert_int_equal(rig_status(&rig), 3);
	}
	rig_features_wr(&rig, V1 | 3);
	rig_status_wr(&rig, 11);
	assert_int_equal(rig_status(&rig), 11);
	/* From now on they stay as they are. */
	rig_features_wr(&rig, V1);
	rig_common_wr(&rig, 8, 4, 0);
	assert_int_equal(rig_common(&rig, 12, 4), 3);
	assert_int_equal(rig_the_probe(&rig)->started, 0);
	rig_status_wr(&rig, 15);
	assert_int_equal(rig_status(&rig), 15);
	assert_int_equal(rig_the_probe(&rig)->started, 1);
	/* Bits that are set stay set until a reset; NEEDS_RESET is not the driver's. */
	rig_status_wr(&rig, 0x41);
	assert_int_equal(rig_status(&rig), 15);
	rig_status_wr(&rig, 0x80);
	assert_int_equal(rig_status(&rig), 0x8f);
	assert_false(virtio_is_running(rig_dev(&rig)));
	rig_reset(&rig);
	assert_int_equal(rig_common(&rig, 12, 4), 0);
	rig_destroy(&rig);
}

/* Rings in places where they cannot be. */
static void
test_bad_queues(void **state)
{
	static const struct {
		uint16_t num;
		uint64_t features, desc, driver, device;
	} bad[] = {
		{ 0, V1, MIB(1), MIB(2), MIB(3) },
		{ 48, V1, MIB(1), MIB(2), MIB(3) }, /* no power of two */
		{ 128, V1, MIB(1), MIB(2), MIB(3) }, /* more than the device has */
		{ 65, V1 | PACKED, MIB(1), MIB(2), MIB(3) },
		{ 64, V1, MIB(16), MIB(2), MIB(3) },
		{ 64, V1, MIB(16) - 512, MIB(2), MIB(3) },
		{ 64, V1, MIB(1), MIB(16) - 4, MIB(3) },
		{ 64, V1, MIB(1), MIB(2), UINT64_MAX - 3 },
		{ 64, V1, MIB(1) + 8, MIB(2), MIB(3) },
		{ 64, V1, MIB(1), MIB(2) + 1, MIB(3) },
		{ 64, V1, MIB(1), MIB(2), MIB(3) + 2 },
	};
	struct capture said;
	struct rig rig;

	capture_begin(&said);
	rig_create(&rig, MIB(16), lines_packed);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		rig_reset(&rig);
		rig_status_wr(&rig, 3);
		rig_features_wr(&rig, bad[i].features);
		rig_status_wr(&rig, 11);
		rig_common_wr(&rig, 22, 2, 0);
		rig_common_wr(&rig, 24, 2, bad[i].num);
		rig_common_wr(&rig, 32, 8, bad[i].desc);
		rig_common_wr(&rig, 40, 8, bad[i].driver);
		rig_common_wr(&rig, 48, 8, bad[i].device);
		rig_common_wr(&rig, 28, 2, 1);
		assert_int_equal(rig_common(&rig, 28, 2), 0);
		assert_int_equal(rig_status(&rig), 11 | VIRTIO_STATUS_NEEDS_RESET);
	}
	capture_end(&said);
	assert_non_null(strstr(said.text, "needs a reset: a queue's size or addresses cannot be"));
	/* Not before features are agreed on. */
	rig_reset(&rig);
	rig_common_wr(&rig, 28, 2, 1);
	assert_int_equal(rig_common(&rig, 28, 2), 0);
	assert_int_equal(rig_status(&rig), 0);
	rig_destroy(&rig);
}

/* --- Interrupts and configuration --- */

static void
test_vectors(void **state)
{
	struct rig rig;
	uint32_t len;

	rig_create(&rig, MIB(16), lines_default);
	rig_start(&rig, RIG_MODERN, V1, 16);
	asked_comes_back(&rig.queue[0]);
	assert_int_equal(rig.interrupts[0], 1);
	/* Two queues with one vector. */
	rig_common_wr(&rig, 22, 2, 1);
	rig_common_wr(&rig, 26, 2, 0);
	ask(&rig.queue[1]);
	assert_int_equal(rig.interrupts[0], 2);
	assert_int_equal(rig.interrupts[1], 0);
	rig_common_wr(&rig, 26, 2, VIRTIO_NO_VECTOR);
	ask(&rig.queue[1]);
	assert_true(rig_get(&rig.queue[1], &len) >= 0 && rig_get(&rig.queue[1], &len) >= 0);
	assert_int_equal(rig.interrupts[0], 2);
	assert_int_equal(rig.line_edges, 0);
	rig_destroy(&rig);
}

static void
test_pin(void **state)
{
	static const char *const *const lines[] = { lines_default, lines_msi };

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		struct rig rig;
		uint8_t byte = 99;

		assert_int_equal(rig_create_opt(&rig, MIB(16), lines[i], false), 0);
		rig.kind = RIG_MODERN;
		rig.features = V1;
		rig_status_wr(&rig, 3);
		rig_features_wr(&rig, V1);
		rig_status_wr(&rig, 11);
		rig_queue_init(&rig, 0, 16);
		rig_status_wr(&rig, 15);
		ask(&rig.queue[0]);
		assert_true(rig.line);
		assert_int_equal(rig_rd(&rig, rig.isr, 1), VIRTIO_ISR_QUEUE);
		assert_false(rig.line);
		assert_int_equal(rig_rd(&rig, rig.isr, 1), 0);
		virtio_config_set(rig_dev(&rig), 0, &byte, 1, true);
		ask(&rig.queue[0]);
		assert_true(rig.line);
		/* The legacy interface has the same register. */
		assert_int_equal(rig_io(&rig, 19, 1), VIRTIO_ISR_QUEUE | VIRTIO_ISR_CONFIG);
		assert_false(rig.line);
		ask(&rig.queue[0]);
		rig_reset(&rig);
		assert_false(rig.line);
		assert_int_equal(rig_rd(&rig, rig.isr, 1), 0);
		rig_destroy(&rig);
	}
}

static void
test_msi(void **state)
{
	struct rig rig;
	unsigned at;

	assert_int_equal(rig_create_opt(&rig, MIB(16), lines_msi, false), 0);
	at = rig_cap_find(&rig, 0x05);
	rig_cfg_wr(&rig, at + 4, 4, 0xfee00000);
	rig_cfg_wr(&rig, at + 12, 2, 5);
	rig_cfg_wr(&rig, at + 2, 2, 1);
	rig.kind = RIG_MODERN;
	rig_status_wr(&rig, 3);
	rig_features_wr(&rig, V1);
	rig_status_wr(&rig, 11);
	rig_queue_init(&rig, 0, 16);
	rig_status_wr(&rig, 15);
	ask(&rig.queue[0]);
	assert_int_equal(rig.interrupts[5], 1);
	assert_false(rig.line);
	assert_int_equal(rig_rd(&rig, rig.isr, 1), VIRTIO_ISR_QUEUE);
	rig_destroy(&rig);
}

static void
test_config(void **state)
{
	struct rig rig;
	struct virtio_dev *vd;
	uint32_t taken = 0, val = 0xa1a2a3a4;
	uint8_t generation;

	rig_create(&rig, MIB(16), lines_default);
	vd = rig_dev(&rig);
	assert_int_equal(rig_rd(&rig, rig.device, 1), 1);
	assert_int_equal(rig_rd(&rig, rig.device + 2, 2), 0x0403);
	assert_int_equal(rig_rd(&rig, rig.device + 8, 4), 0x0c0b0a09);
	/* The end of what there is. */
	assert_int_equal(rig_rd(&rig, rig.device + 8, 8), 0x0c0b0a09);
	assert_int_equal(rig_rd(&rig, rig.device + 12, 4), 0);
	rig_wr(&rig, rig.device + 8, 8, 0);
	assert_int_equal(rig_rd(&rig, rig.device + 8, 4), 0x0c0b0a09);
	rig_wr(&rig, rig.device + 4, 2, 0xbeef);
	assert_int_equal(rig_rd(&rig, rig.device + 4, 4), 0x0807beef);

	generation = (uint8_t)rig_common(&rig, 21, 1);
	virtio_config_set(vd, 0, &val, 4, true);
	assert_int_not_equal(rig_common(&rig, 21, 1), generation);
	assert_int_equal(rig_rd(&rig, rig.device, 4), val);
	assert_int_equal(rig.interrupts[RIG_CONFIG_VECTOR], 0);
	rig_start(&rig, RIG_MODERN, V1, 16);
	virtio_config_set(vd, 0, &val, 4, true);
	rig_wait_interrupt(&rig, RIG_CONFIG_VECTOR, &taken);
	virtio_config_set(vd, 0, &val, 4, false);
	assert_int_equal(rig.interrupts[RIG_CONFIG_VECTOR], 1);
	rig_destroy(&rig);
}

/* Configuration lies behind the vectors only while MSI-X is enabled. */
static void
test_legacy_registers(void **state)
{
	struct rig rig;
	unsigned msix;

	rig_create(&rig, MIB(16), lines_packed);
	msix = rig_cap_find(&rig, 0x11);
	rig.kind = RIG_LEGACY;
	assert_int_equal(rig_offered(&rig), 3u | (uint32_t)EVENT_IDX |
		BIT(VIRTIO_F_RING_INDIRECT_DESC) | BIT(VIRTIO_F_ANY_LAYOUT));
	assert_int_equal(rig_io(&rig, 24, 4), 0x04030201);
	assert_int_equal(rig_io(&rig, 20, 2), VIRTIO_NO_VECTOR);
	rig_cfg_wr(&rig, msix + 2, 2, 0);
	assert_int_equal(rig_io(&rig, 20, 4), 0x04030201);
	rig_io_wr(&rig, 20, 2, 0x5555);
	assert_int_equal(rig_io(&rig, 20, 4), 0x04035555);
	rig_cfg_wr(&rig, msix + 2, 2, 0x8000);
	rig_io_wr(&rig, 14, 2, 1);
	assert_int_equal(rig_io(&rig, 12, 2), PROBE_NUM);
	rig_io_wr(&rig, 14, 2, 77);
	assert_int_equal(rig_io(&rig, 12, 2), 0);
	rig_io_wr(&rig, 8, 4, 1);
	assert_int_equal(rig_io(&rig, 8, 4), 0);
	/* What was not offered is dropped. */
	rig_features_wr(&rig, 0xffffffff);
	assert_int_equal(rig_io(&rig, 4, 4), rig_offered(&rig));
	/* A queue is given back by 0, before DRIVER_OK it works. */
	rig_start(&rig, RIG_LEGACY, 0, 0);
	rig_io_wr(&rig, 14, 2, 0);
	assert_int_equal(rig_io(&rig, 8, 4), rig.queue[0].desc_gpa >> 12);
	asked_comes_back(&rig.queue[0]);
	rig_io_wr(&rig, 14, 2, 0);
	rig_io_wr(&rig, 8, 4, 0);
	assert_int_equal(rig_io(&rig, 8, 4), 0);
	ask(&rig.queue[0]);
	assert_int_equal(rig_get(&rig.queue[0], &(uint32_t){ 0 }), -1);
	/* Features of the modern interface are no way to a legacy ring, nor the other way round. */
	rig.kind = RIG_MODERN;
	rig_reset(&rig);
	rig_status_wr(&rig, 3);
	rig_features_wr(&rig, V1);
	rig_status_wr(&rig, 11);
	rig_io_wr(&rig, 8, 4, 0x100);
	assert_int_equal(rig_common(&rig, 28, 2), 0);
	rig_io_wr(&rig, 4, 4, 1);
	assert_true(virtio_has(rig_dev(&rig), VIRTIO_F_VERSION_1));
	rig_destroy(&rig);
}

/* Accesses through configuration space (VIRTIO 1.2, 4.1.4.9). */
static void
test_cfg_window(void **state)
{
	struct rig rig;
	unsigned at;

	rig_create(&rig, MIB(16), lines_default);
	at = rig.cfg_cap;
	rig_cfg_wr(&rig, at + 4, 1, rig_cfg(&rig, rig_cap_find(&rig, 0x09) + 4, 1));
	rig_cfg_wr(&rig, at + 8, 4, 18);
	rig_cfg_wr(&rig, at + 12, 4, 2);
	assert_int_equal(rig_cfg(&rig, at + 16, 4), PROBE_QUEUES);
	rig_cfg_wr(&rig, at + 8, 4, 20);
	rig_cfg_wr(&rig, at + 12, 4, 1);
	rig_cfg_wr(&rig, at + 16, 4, 3);
	assert_int_equal(rig_status(&rig), 3);
	/* Nonsense: another BAR, lengths and places that cannot be. */
	rig_cfg_wr(&rig, at + 12, 4, 3);
	rig_cfg_wr(&rig, at + 16, 4, 0);
	rig_cfg_wr(&rig, at + 12, 4, 4);
	rig_cfg_wr(&rig, at + 8, 4, 0xfffffffc);
	rig_cfg_wr(&rig, at + 16, 4, 0);
	(void)rig_cfg(&rig, at + 16, 4);
	rig_cfg_wr(&rig, at + 8, 4, 21);
	(void)rig_cfg(&rig, at + 16, 4);
	rig_cfg_wr(&rig, at + 4, 1, 1);
	rig_cfg_wr(&rig, at + 8, 4, 20);
	rig_cfg_wr(&rig, at + 12, 4, 1);
	rig_cfg_wr(&rig, at + 16, 4, 0);
	assert_int_equal(rig_status(&rig), 3);
	rig_destroy(&rig);
}

/* Without bus mastering nothing is taken from a ring; legacy drivers need not know. */
static void
test_bus_master(void **state)
{
	struct rig rig;
	uint32_t len;

	rig_create(&rig, MIB(16), lines_default);
	rig_start(&rig, RIG_MODERN, V1, 16);
	rig_cfg_wr(&rig, 4, 2, 3);
	ask(&rig.queue[0]);
	assert_int_equal(rig_get(&rig.queue[0], &len), -1);
	rig_cfg_wr(&rig, 4, 2, 7);
	rig_kick_always(&rig.queue[0]);
	assert_true(rig_get(&rig.queue[0], &len) >= 0);
	rig_start(&rig, RIG_LEGACY, 0, 0);
	rig_cfg_wr(&rig, 4, 2, 3);
	ask(&rig.queue[0]);
	assert_true(rig_get(&rig.queue[0], &len) >= 0);
	rig_destroy(&rig);
}

/* --- Reset with chains out --- */

static void
test_reset_in_flight(void **state)
{
	static const uint64_t features[] = { V1, V1 | PACKED };

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		struct rig rig;
		struct rig_queue *q = &rig.queue[0];
		struct probe *p;
		uint8_t before[1024];

		rig_create(&rig, MIB(16), lines_packed);
		rig_start(&rig, RIG_MODERN, features[i], 16);
		p = rig_the_probe(&rig);
		p->hold = true;
		for (int k = 0; k < 10; k++)
			ask(q);
		assert_int_equal(p->holds, 10);
		rig_status_wr(&rig, 0);
		assert_int_not_equal(rig_status(&rig), 0);
		assert_int_equal(p->resets, 2);
		/* The driver cannot go on before it is over. */
		rig_status_wr(&rig, 1);
		rig_common_wr(&rig, 28, 2, 1);
		assert_int_equal(rig_common(&rig, 28, 2), 0);
		memcpy(before, q->desc, 256);
		memcpy(before + 256, q->device, 6 + 8 * 16);
		rig.interrupts[0] = 0;
		probe_release(p);
		assert_memory_equal(before, q->desc, 256);
		assert_memory_equal(before + 256, q->device, 6 + 8 * 16);
		assert_int_equal(rig.interrupts[0], 0);
		assert_int_equal(rig_status(&rig), 0);
		p->hold = false;
		rig_start(&rig, RIG_MODERN, features[i], 16);
		asked_comes_back(q);
		rig_destroy(&rig);
	}
}

static void
test_queue_reset(void **state)
{
	struct rig rig;
	struct rig_queue *q = &rig.queue[1];
	struct probe *p;

	rig_create(&rig, MIB(16), lines_default);
	rig_start(&rig, RIG_MODERN, V1 | RESET, 16);
	p = rig_the_probe(&rig);
	p->hold = true;
	ask(q);
	ask(&rig.queue[0]);
	assert_int_equal(p->holds, 2);
	rig_common_wr(&rig, 22, 2, 1);
	rig_common_wr(&rig, 58, 2, 1);
	assert_int_equal(p->queue_resets, 1);
	assert_int_equal(rig_common(&rig, 58, 2), 1);
	assert_int_equal(rig_common(&rig, 28, 2), 0);
	rig_common_wr(&rig, 28, 2, 1);
	assert_int_equal(rig_common(&rig, 28, 2), 0);
	probe_release(p);
	/* The other queue never noticed. */
	assert_true(rig_get(&rig.queue[0], &(uint32_t){ 0 }) >= 0);
	assert_int_equal(rig_get(q, &(uint32_t){ 0 }), -1);
	assert_int_equal(rig_common(&rig, 58, 2), 0);
	assert_int_equal(rig_common(&rig, 24, 2), PROBE_NUM);
	p->hold = false;
	q->num = 8;
	rig_queue_clear(q);
	memset(q->count, 0, sizeof(q->count));
	rig_queue_enable(q);
	assert_int_equal(rig_common(&rig, 28, 2), 1);
	asked_comes_back(q);
	rig_destroy(&rig);

	/* Not without having agreed on it. */
	rig_create(&rig, MIB(16), lines_default);
	rig_start(&rig, RIG_MODERN, V1, 16);
	rig_common_wr(&rig, 22, 2, 1);
	rig_common_wr(&rig, 58, 2, 1);
	assert_int_equal(rig_common(&rig, 28, 2), 1);
	rig_destroy(&rig);
}

static void *
release_thread(void *arg)
{
	probe_release(arg);
	return NULL;
}

/* Drivers of the legacy interface, and a function-level reset, wait in the write itself. */
static void
test_reset_waits(void **state)
{
	for (int flr = 0; flr < 2; flr++) {
		struct rig rig;
		struct probe *p;
		pthread_t thread;

		rig_create(&rig, MIB(16), lines_default);
		rig_start(&rig, flr ? RIG_MODERN : RIG_LEGACY, flr ? V1 : 0, 16);
		p = rig_the_probe(&rig);
		p->hold = true;
		ask(&rig.queue[0]);
		assert_int_equal(p->holds, 1);
		pthread_create(&thread, NULL, release_thread, p);
		if (flr)
			rig_cfg_wr(&rig, rig_cap_find(&rig, 0x10) + 8, 2, 0x8000);
		else
			rig_io_wr(&rig, 18, 1, 0);
		assert_int_equal(atomic_load(&virtio_queue(rig_dev(&rig), 0)->out), 0);
		pthread_join(thread, NULL);
		if (flr)
			rig_probe(&rig, true);
		assert_int_equal(rig_status(&rig), 0);
		rig_destroy(&rig);
	}
}

/* A reset while another thread gives chains back, again and again. */
struct race {
	struct probe *p;
	atomic_bool go, stop;
};

static void *
race_thread(void *arg)
{
	struct race *r = arg;

	while (!atomic_load(&r->stop)) {
		if (atomic_exchange(&r->go, false))
			probe_release(r->p);
	}
	return NULL;
}

static void
test_reset_race(void **state)
{
	struct rig rig;
	struct race r = { 0 };
	pthread_t thread;

	rig_create(&rig, MIB(16), lines_packed);
	r.p = rig_the_probe(&rig);
	r.p->hold = true;
	pthread_create(&thread, NULL, race_thread, &r);
	for (int i = 0; i < 200; i++) {
		rig.memory_next = MIB(1);
		rig_start(&rig, RIG_MODERN, V1 | EVENT_IDX | (i % 2 ? PACKED : 0), 32);
		for (int k = 0; k < 8; k++)
			ask(&rig.queue[0]);
		assert_int_equal(r.p->holds, 8);
		atomic_store(&r.go, true);
		rig_status_wr(&rig, 0);
		while (rig_status(&rig) != 0)
			;
		while (r.p->holds != 0)
			sched_yield();
	}
	atomic_store(&r.stop, true);
	pthread_join(thread, NULL);
	rig_destroy(&rig);
}

/* --- State --- */

static void
test_state(void **state)
{
	static const uint64_t features[] = { V1, V1 | PACKED | EVENT_IDX };

	for (size_t i = 0; i < ARRAY_SIZE(features); i++) {
		struct rig a, b;
		struct vm_state *s;

		rig_create(&a, MIB(16), lines_packed);
		rig_start(&a, RIG_MODERN, features[i], 16);
		for (int k = 0; k < 21; k++)
			asked_comes_back(&a.queue[0]);
		rig_the_probe(&a)->hold = true;
		ask(&a.queue[0]); /* pushed by what comes before the saving */
		s = rig_save(&a);
		assert_true(rig_get(&a.queue[0], &(uint32_t){ 0 }) >= 0);

		rig_create(&b, MIB(16), lines_packed);
		memcpy(rig_ptr(&b, 0, MIB(16)), rig_ptr(&a, 0, MIB(16)), MIB(16));
		assert_int_equal(rig_load(&b, s), 0);
		/* The driver, too, goes on in the other machine. */
		memcpy(b.queue, a.queue, sizeof(a.queue));
		b.memory_next = a.memory_next;
		for (unsigned k = 0; k < PROBE_QUEUES; k++) {
			struct rig_queue *q = &b.queue[k];

			q->rig = &b;
			q->desc = rig_ptr(&b, q->desc_gpa, 1);
			q->driver = rig_ptr(&b, q->driver_gpa, 1);
			q->device = rig_ptr(&b, q->device_gpa, 1);
		}
		assert_int_equal(rig_status(&b), 15);
		assert_int_equal(rig_common(&b, 16, 2), PROBE_QUEUES);
		for (unsigned k = 0; k < PROBE_QUEUES; k++) {
			b.queue[k].taken = 0;
			asked_comes_back(&b.queue[k]);
		}
		for (int k = 0; k < 40; k++)
			asked_comes_back(&b.queue[0]);
		rig_destroy(&b);

		/* A machine whose memory ends before the rings refuses it. */
		rig_create(&b, MIB(1), lines_packed);
		assert_int_equal(rig_load(&b, s), -EINVAL);
		rig_destroy(&b);
		/* So does one that does not offer what was agreed on. */
		rig_create(&b, MIB(16), lines_default);
		if (features[i] & PACKED)
			assert_int_equal(rig_load(&b, s), -EINVAL);
		rig_destroy(&b);
		vm_state_destroy(s);
		rig_destroy(&a);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_identity),
		cmocka_unit_test(test_bad_options),
		cmocka_unit_test(test_common_registers),
		cmocka_unit_test(test_status_and_features),
		cmocka_unit_test(test_bad_queues),
		cmocka_unit_test(test_vectors),
		cmocka_unit_test(test_pin),
		cmocka_unit_test(test_msi),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_legacy_registers),
		cmocka_unit_test(test_cfg_window),
		cmocka_unit_test(test_bus_master),
		cmocka_unit_test(test_reset_in_flight),
		cmocka_unit_test(test_queue_reset),
		cmocka_unit_test(test_reset_waits),
		cmocka_unit_test(test_reset_race),
		cmocka_unit_test(test_state),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
