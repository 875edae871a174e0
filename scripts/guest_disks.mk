# Guests for tests of disks: Debian's generic kernel, which has every driver as a module, and an initramfs
# with those modules and the tools that ask a disk how it is; and the cloud kernel's initramfs with modules.
# Its name has it come after guest.mk, whose variables it needs.

CLOUD_MODULES := virtio_pci virtio_blk ext4
DISKS_MODULES := ahci sd_mod sr_mod ext4 isofs
DISKS_TOOLS := sbin/hdparm usr/sbin/smartctl usr/bin/eject
DISKS_PKGS := hdparm smartmontools eject libc6 libgcc-s1 libstdc++6 libselinux1 libpcre2-8-0 libmount1 libblkid1
DISKS := $(GUEST)/disks

$(DISKS)/tree/sbin/hdparm:
	$Qscripts/fetch-deb amd64 $(DISKS)/tree $(DISKS_PKGS)

$(GUEST)/cloud/initramfs-modules: $(GUEST)/cloud/vmlinuz $(GUEST)/tree-busybox-amd64/bin/busybox \
		scripts/mkinitramfs scripts/guest-modules scripts/guest_disks.mk
	$Qscripts/install-deps $(DEPS_GUEST) kmod
	$Qscripts/guest-modules $(GUEST)/tree-cloud $(GUEST)/cloud/modules $(CLOUD_MODULES)
	$Qscripts/mkinitramfs $(GUEST)/tree-busybox-amd64/bin/busybox $@ $(GUEST)/cloud/modules

$(DISKS)/initramfs: $(DISKS)/tree/sbin/hdparm $(GUEST)/amd64/vmlinuz $(GUEST)/tree-busybox-amd64/bin/busybox \
		scripts/mkinitramfs scripts/guest-modules scripts/guest-tools scripts/guest_disks.mk
	$Qscripts/install-deps $(DEPS_GUEST) kmod binutils
	$Qscripts/guest-modules $(GUEST)/tree-amd64 $(DISKS)/modules $(DISKS_MODULES)
	$Qscripts/guest-tools $(DISKS)/tree $(DISKS)/tools $(DISKS_TOOLS)
	$Qscripts/mkinitramfs $(GUEST)/tree-busybox-amd64/bin/busybox $@ $(DISKS)/modules $(DISKS)/tools

$(DISKS)/vmlinuz: $(GUEST)/amd64/vmlinuz
	$Qmkdir -p $(@D) && ln -sfn ../amd64/vmlinuz $@

guest-disks: $(DISKS)/vmlinuz $(DISKS)/initramfs $(GUEST)/cloud/initramfs-modules
deps-disks:
	$Qscripts/install-deps e2fsprogs xorriso
check: deps-disks guest-disks
check-asan: deps-disks guest-disks

.PHONY: guest-disks deps-disks
