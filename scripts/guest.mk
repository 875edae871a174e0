# Guests: Debian's kernels and a busybox initramfs, from Debian's packages, unpacked under build/guest/.

GUEST := $O/guest
JOBS := $(shell nproc)
DEPS_BUILD := gcc libc6-dev make liburing-dev libnbd-dev libslirp-dev
DEPS_GUEST := cpio
KERNELS := cloud amd64 i386
KERNEL_PKG_cloud := linux-image-cloud-amd64
KERNEL_PKG_amd64 := linux-image-amd64
KERNEL_PKG_i386 := linux-image-686-pae
KERNEL_ARCH_cloud := amd64
KERNEL_ARCH_amd64 := amd64
KERNEL_ARCH_i386 := i386

# DIR/vmlinuz and DIR/initramfs for each kernel.
$(KERNELS:%=$(GUEST)/%/vmlinuz): $(GUEST)/%/vmlinuz:
	$Qscripts/install-deps $(DEPS_GUEST)
	$Qrm -rf $(GUEST)/tree-$* && mkdir -p $(GUEST)/$*
	$Qscripts/fetch-deb $(KERNEL_ARCH_$*) $(GUEST)/tree-$* $(KERNEL_PKG_$*)
	$Qcp $(GUEST)/tree-$*/boot/vmlinuz-* $@

$(GUEST)/tree-busybox-%/bin/busybox:
	$Qscripts/fetch-deb $* $(GUEST)/tree-busybox-$* busybox-static

$(GUEST)/cloud/initramfs $(GUEST)/amd64/initramfs: $(GUEST)/tree-busybox-amd64/bin/busybox scripts/mkinitramfs
	$Qscripts/install-deps $(DEPS_GUEST)
	$Qscripts/mkinitramfs $< $@
$(GUEST)/i386/initramfs: $(GUEST)/tree-busybox-i386/bin/busybox scripts/mkinitramfs
	$Qscripts/install-deps $(DEPS_GUEST)
	$Qscripts/mkinitramfs $< $@
.PRECIOUS: $(GUEST)/tree-busybox-%/bin/busybox

$(KERNELS:%=guest-%): guest-%: $(GUEST)/%/vmlinuz $(GUEST)/%/initramfs

# Boots Debian's cloud kernel to a shell in this terminal.
run: deps-build
	$Q$(MAKE) --no-print-directory -j$(JOBS) $O/bhyve
	$Q$(MAKE) --no-print-directory guest-cloud
	@scripts/run $O/bhyve $(GUEST)/cloud

deps-build:
	$Qscripts/install-deps $(DEPS_BUILD)

.PHONY: run deps-build $(KERNELS:%=guest-%)
