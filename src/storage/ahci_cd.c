/*
 * AHCI: the media of CD-ROM drives, and their trays.
 *
 * Images are opened and closed on the main thread only. A guest that moves the tray sees that at
 * once; the image follows a moment later, and a tray that closes is "becoming ready" until then. An
 * image is opened anew each time, so a file that was replaced while the tray was open is another
 * medium.
 */
#include "storage/ahci_impl.h"

#include "base/config.h"
#include "base/log.h"
#include "vm/loop.h"
#include "vm/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Variables --- */

/* A value as the tree wants it: percent signs are doubled. */
static int
ahci_cd_set(struct config *node, const char *name, const char *value)
{
	char *text = malloc(2 * strlen(value) + 1), *p = text;
	int err;

	if (text == NULL)
		return -ENOMEM;
	for (; *value != '\0'; value++) {
		*p++ = *value;
		if (*value == '%')
			*p++ = '%';
	}
	*p = '\0';
	err = config_set(node, name, text);
	free(text);
	return err;
}

struct ahci_cd_copy {
	const struct config *from;
	struct config *to;
};

static int
ahci_cd_copy_one(void *arg, const char *name, const char *value, struct config *child)
{
	struct ahci_cd_copy *copy = arg;

	if (child != NULL || value == NULL)
		return 0;
	value = config_get(copy->from, name);
	return value != NULL ? ahci_cd_set(copy->to, name, value) : 0;
}

/* --- Images --- */

static bool
ahci_cd_has_image(const struct ahci_port *port)
{
	return config_get_default(port->media, "path", "")[0] != '\0' ||
	       config_get(port->media, "ram") != NULL;
}

static int
ahci_cd_open(struct ahci_port *port, struct block **out)
{
	int err = block_open(vm_loop(port->hba->vm), port->media, port->name, out);

	if (err == 0 && block_info(*out)->logical_sector > 2048) {
		log_error(port->name, "%s: sectors of %u bytes: expected at most 2048, a CD-ROM's",
		    block_info(*out)->path, block_info(*out)->logical_sector);
		block_close(*out);
		err = -EINVAL;
	}
	return err;
}

/* The same for a guest that closes the tray. It may do so for ever: what could not be opened is not
 * tried, nor told of, again until it is another file. */
static struct block *
ahci_cd_load(struct ahci_port *port)
{
	struct block *disk = NULL;
	struct stat st = { 0 };

	if (!ahci_cd_has_image(port))
		return NULL;
	(void)stat(config_get_default(port->media, "path", ""), &st);
	if (port->unreadable && st.st_ino == port->unreadable_stat.st_ino &&
	    st.st_dev == port->unreadable_stat.st_dev &&
	    st.st_ctim.tv_sec == port->unreadable_stat.st_ctim.tv_sec &&
	    st.st_ctim.tv_nsec == port->unreadable_stat.st_ctim.tv_nsec)
		return NULL;
	port->unreadable = ahci_cd_open(port, &disk) != 0;
	port->unreadable_stat = st;
	return port->unreadable ? NULL : disk;
}

/* Puts in a disk, or none, and returns the one before, which is to be closed without the lock. */
static struct block *
ahci_cd_swap(struct ahci_port *port, struct block *disk)
{
	struct block *old = port->dev.disk;

	port->dev.disk = disk;
	return old;
}

/* --- The tray --- */

/* Has the image agree with the tray. */
static void
ahci_cd_follow(void *arg)
{
	struct ahci_port *port = arg;
	struct block *old = NULL, *disk = NULL;
	bool load;

	pthread_mutex_lock(&port->lock);
	load = port->dev.cd.loading;
	if (port->dev.cd.open || load)
		old = ahci_cd_swap(port, NULL);
	pthread_mutex_unlock(&port->lock);
	block_close(old);
	if (load)
		disk = ahci_cd_load(port);
	pthread_mutex_lock(&port->lock);
	if (load && port->dev.cd.loading) {
		old = ahci_cd_swap(port, disk);
		disk = NULL;
		port->dev.cd.loading = false;
		if (port->dev.disk != NULL)
			atapi_medium_changed(&port->dev);
	} else {
		old = NULL;
	}
	pthread_mutex_unlock(&port->lock);
	block_close(old);
	block_close(disk); /* the tray was opened again meanwhile */
}

bool
ata_tray_move(struct ata_dev *dev)
{
	struct ahci_port *port = container_of(dev, struct ahci_port, dev);

	return vm_loop_defer(vm_loop(port->hba->vm), ahci_cd_follow, port) == 0;
}

static struct ahci_port *
ahci_cd_port(struct pci_dev *dev, int port)
{
	struct ahci *hba = pci_priv(dev);

	if (port < 0 || port >= AHCI_PORTS || !hba->port[port].present ||
	    !hba->port[port].dev.packet)
		return NULL;
	return &hba->port[port];
}

int
ahci_cd_eject(struct pci_dev *dev, int number, bool force)
{
	struct ahci_port *port = ahci_cd_port(dev, number);
	struct atapi *cd;
	int err = 0;

	if (port == NULL)
		return -ENODEV;
	pthread_mutex_lock(&port->lock);
	cd = &port->dev.cd;
	if (cd->locked && !force && !cd->open) {
		atapi_eject_request(&port->dev);
		err = -EBUSY;
	} else if (!cd->open) {
		cd->open = true;
		cd->loading = false;
		cd->locked = false;
		atapi_medium_changed(&port->dev);
	}
	pthread_mutex_unlock(&port->lock);
	if (err == 0)
		ahci_cd_follow(port);
	return err;
}

int
ahci_cd_insert(struct pci_dev *dev, int number, const char *path)
{
	struct ahci_port *port = ahci_cd_port(dev, number);
	const char *before;
	struct block *disk;
	char *old_path;
	int err;

	if (port == NULL)
		return -ENODEV;
	pthread_mutex_lock(&port->lock);
	err = port->dev.cd.locked && !port->dev.cd.open ? -EBUSY : 0;
	pthread_mutex_unlock(&port->lock);
	if (err != 0)
		return err;
	before = config_get_default(port->media, "path", "");
	old_path = strdup(before);
	if (old_path == NULL)
		return -ENOMEM;
	config_unset(port->media, "ram");
	err = ahci_cd_set(port->media, "path", path);
	if (err == 0)
		err = ahci_cd_open(port, &disk);
	if (err != 0) {
		(void)ahci_cd_set(port->media, "path", old_path);
		free(old_path);
		return err;
	}
	free(old_path);
	port->unreadable = false;
	pthread_mutex_lock(&port->lock);
	disk = ahci_cd_swap(port, disk);
	port->dev.cd.open = false;
	port->dev.cd.loading = false;
	atapi_medium_changed(&port->dev);
	pthread_mutex_unlock(&port->lock);
	block_close(disk);
	return 0;
}

/* --- Making and saving --- */

int
ahci_cd_create(struct ahci_port *port, const struct config *cfg)
{
	struct ahci_cd_copy copy = { cfg, config_create() };
	int err;

	if (copy.to == NULL)
		goto no_memory;
	err = config_walk(cfg, ahci_cd_copy_one, &copy);
	if (err == 0)
		err = config_set(copy.to, "ro", "true");
	if (err != 0)
		goto no_memory;
	port->media = copy.to;
	if (!ahci_cd_has_image(port))
		return 0;
	err = ahci_cd_open(port, &port->dev.disk);
	if (err != 0)
		config_destroy(port->media);
	return err;
no_memory:
	log_error(port->name, "out of memory");
	config_destroy(copy.to);
	return -ENOMEM;
}

void
ahci_cd_destroy(struct ahci_port *port)
{
	config_destroy(port->media);
}

/* Which image there is; after loading, the drive has the one that was saved. */
void
ahci_cd_state(struct ahci_port *port, struct vm_state *s)
{
	char path[AHCI_PATH_MAX] = "";

	snprintf(path, sizeof(path), "%s", config_get_default(port->media, "path", ""));
	vm_state_bytes(s, path, sizeof(path));
	if (!vm_state_loading(s) || vm_state_error(s) != 0)
		return;
	path[sizeof(path) - 1] = '\0';
	if (strcmp(path, config_get_default(port->media, "path", "")) != 0) {
		if (ahci_cd_set(port->media, "path", path) != 0)
			vm_state_reject(s, "an image without memory for its name");
		block_close(ahci_cd_swap(port, NULL));
		if (!port->dev.cd.open && ahci_cd_has_image(port) &&
		    ahci_cd_open(port, &port->dev.disk) != 0)
			vm_state_reject(s, "an image that cannot be opened");
	}
	if (port->dev.cd.open)
		block_close(ahci_cd_swap(port, NULL));
	if (port->dev.cd.loading && !ata_tray_move(&port->dev))
		vm_state_reject(s, "no memory to close the tray");
}
