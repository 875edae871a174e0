/*
 * AHCI controllers, for what is not the guest: media of their CD-ROM drives.
 *
 * dev is a device whose model is ahci, ahci-hd or ahci-cd, port the number N of its variables
 * port.N. Main thread; they may take as long as opening and closing an image does.
 */
#ifndef STORAGE_AHCI_H
#define STORAGE_AHCI_H

#include <stdbool.h>

struct pci_dev;

/* Presses the button that opens the tray, and lets go of the image. A guest that has locked the
 * tray is asked, which it may take as a hint, unless it is forced. 0, also when it was open
 * already; -EBUSY: locked, the guest was asked; -ENODEV: there is no CD-ROM drive. */
int ahci_cd_eject(struct pci_dev *dev, int port, bool force);

/* Puts in an image, in place of what there is, and closes the tray. The guest sees another medium.
 * 0; -EBUSY: the guest has locked the tray; -ENODEV: there is no CD-ROM drive; or -errno of opening
 * the image, after one line to the user, with the medium as it was. */
int ahci_cd_insert(struct pci_dev *dev, int port, const char *path);

#endif
