/*
 * A VIRTIO device that gives back what it gets, for tests of the transport and the rings, and the
 * table of models they are linked with: "probe" among them.
 */
#ifndef VIRTIO_PROBE_H
#define VIRTIO_PROBE_H

#include "virtio_rig.h"

#include "pci/pci_models.h"
#include "virtio/virtio_private.h"

#include "base/iov.h"

#define PROBE_QUEUES 3
#define PROBE_NUM 64
#define PROBE_IOV 16
#define PROBE_CONFIG 12 /* bytes */
#define PROBE_F_ONE 0 /* features of its own */
#define PROBE_F_TWO 1 /* which does not go without ONE */

struct probe_chain {
	struct virtq_chain c;
	struct iovec iov[PROBE_IOV];
};

struct probe {
	struct virtio_dev *vd;
	bool hold; /* keep chains, in held */
	bool batch; /* publish once per notification */
	int notified, started, resets, queue_resets;
	struct probe_chain held[PROBE_NUM + 1]; /* one more, to look whether there is more */
	struct virtq *held_of[PROBE_NUM + 1];
	int holds;
};

/* Copies out to in. */
static inline uint32_t
probe_echo(struct probe_chain *p)
{
	uint8_t buf[4096];
	size_t n = iov_gather(p->c.out, p->c.outs, 0, buf, sizeof(buf));

	return (uint32_t)iov_scatter(p->c.in, p->c.ins, 0, buf, n);
}

static inline void
probe_release(struct probe *p)
{
	for (int i = 0; i < p->holds; i++) {
		virtq_push(p->held_of[i], &p->held[i].c, probe_echo(&p->held[i]));
		virtq_interrupt(p->held_of[i]);
	}
	p->holds = 0;
}

static inline void
probe_notify(struct virtq *q)
{
	struct probe *p = virtio_priv(virtq_dev(q));
	struct probe_chain *c = &p->held[p->holds];

	p->notified++;
	do {
		while (virtq_pop(q, &c->c, c->iov, PROBE_IOV)) {
			if (p->hold) {
				p->held_of[p->holds] = q;
				c = &p->held[++p->holds];
			} else if (p->batch) {
				virtq_fill(q, &c->c, probe_echo(c));
			} else {
				virtq_push(q, &c->c, probe_echo(c));
			}
		}
		virtq_publish(q);
	} while (virtq_rearm(q));
	virtq_interrupt(q);
}

static inline bool
probe_features(struct virtio_dev *vd, uint64_t features)
{
	return !(features & BIT64(PROBE_F_TWO)) || (features & BIT64(PROBE_F_ONE));
}

static inline void
probe_start(struct virtio_dev *vd)
{
	struct probe *p = virtio_priv(vd);

	p->started++;
}

static inline void
probe_config_write(struct virtio_dev *vd, size_t off, int size, uint64_t val)
{
	virtio_config_set(vd, off, &val, (size_t)size, false);
}

static inline void
probe_reset(struct virtio_dev *vd)
{
	struct probe *p = virtio_priv(vd);

	p->resets++;
}

static inline void
probe_queue_reset(struct virtq *q)
{
	struct probe *p = virtio_priv(virtq_dev(q));

	p->queue_resets++;
}

static inline void
probe_quiesce(struct virtio_dev *vd)
{
	probe_release(virtio_priv(vd));
}

static const struct virtio_ops probe_virtio = {
	.name = "probe",
	.id = 4,
	.class = 0xff,
	.notify = probe_notify,
	.features = probe_features,
	.start = probe_start,
	.config_write = probe_config_write,
	.reset = probe_reset,
	.queue_reset = probe_queue_reset,
	.quiesce = probe_quiesce,
};

static inline int
probe_create(struct pci_dev *dev, const struct config *cfg)
{
	static const uint8_t config[PROBE_CONFIG] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };
	struct probe *p = calloc(1, sizeof(*p));
	const struct virtio_params params = { .ops = &probe_virtio, .priv = p,
		.features = BIT64(PROBE_F_ONE) | BIT64(PROBE_F_TWO), .queues = PROBE_QUEUES,
		.queue_size = PROBE_NUM, .config = config, .config_size = sizeof(config) };
	int err;

	rig_must(p != NULL, "out of memory");
	err = virtio_create(dev, cfg, &params, &p->vd);
	if (err != 0)
		free(p);
	return err;
}

static inline void
probe_destroy(struct pci_dev *dev)
{
	struct probe *p = virtio_priv(pci_priv(dev));

	probe_release(p);
	virtio_destroy(p->vd);
	free(p);
}

static const char *const probe_vars[] = { VIRTIO_VARS, NULL };

static const struct pci_dev_ops probe_ops = { .name = "probe", .vars = probe_vars,
	.create = probe_create, .destroy = probe_destroy, VIRTIO_PCI_OPS };

const struct pci_dev_ops *const pci_models[] = { &hostbridge_ops, &lpc_ops, &probe_ops, NULL };

const struct pci_dev_ops *
pci_model_find(const char *name)
{
	for (const struct pci_dev_ops *const *m = pci_models; *m != NULL; m++) {
		if (strcmp((*m)->name, name) == 0)
			return *m;
	}
	return NULL;
}

static inline struct probe *
rig_the_probe(struct rig *rig)
{
	return virtio_priv(rig_dev(rig));
}

#endif
