"""A guest's disk on virtio-blk: found, partly by name, written, and the same for the host afterwards."""
import os
import subprocess

import pytest

from conftest import Guest, bhyve

SIZE = 64 << 20


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(b"")
    os.truncate(path, SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    return path


def guest(image, options="", cmdline="", args=()):
    # A wide terminal, where command lines are not broken.
    return Guest(initrd="initramfs-modules", cmdline=f"LINES=50 COLUMNS=500 {cmdline}",
                 args=["-s", f"3,virtio-blk,{image}{options}", *args])


def fsck(image):
    return subprocess.run(["e2fsck", "-f", "-n", image], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)


def load(g, *modules):
    for module in ("virtio_pci", "virtio_blk", *modules):
        assert g.run(f"modprobe {module}") == ""


@pytest.mark.parametrize("options, cmdline, args", [
    ("", "", ()),                                   # transitional, through the modern interface
    (",modern", "", ()),
    (",modern,packed", "", ()),
    ("", "virtio_pci.force_legacy=1", ()),          # the legacy interface
    (",queues=2", "virtio_pci.force_legacy=1 pci=nomsi", ()),   # the same with the pin
    (",modern", "", ("-W",)),                       # MSI, which Linux passes over for the pin
])
def test_ext4(image, options, cmdline, args):
    with guest(image, f",ser=SERIAL{options}", cmdline, args) as g:
        # Without udev the command line's options reach a module by hand.
        load_pci = "modprobe virtio_pci " + " ".join(
            w.split(".")[1] for w in cmdline.split() if w.startswith("virtio_pci."))
        assert g.run(load_pci) == ""
        load(g)
        assert g.run("cat /sys/block/vda/size") == str(SIZE // 512)
        assert g.run("cat /sys/block/vda/serial") == "SERIAL"
        features = g.run("cat /sys/bus/virtio/devices/virtio0/features")
        assert features[32] == str(int("force_legacy" not in cmdline))      # VERSION_1
        assert features[34] == str(int("packed" in options))
        assert g.run("mount -t ext4 /dev/vda /mnt") == ""
        assert g.run("dd if=/dev/urandom of=/mnt/a bs=64k count=64 2>&-") == ""
        assert g.run("cp /mnt/a /mnt/b && sync && echo 3 >/proc/sys/vm/drop_caches") == ""
        assert g.run("cmp /mnt/a /mnt/b") == "" and g.status == 0
        total = g.run("md5sum </mnt/a")
        assert g.run("umount /mnt") == ""
        assert g.poweroff() == 1
    check = fsck(image)
    assert check.returncode == 0, check.stdout
    out = subprocess.run(["debugfs", "-R", "cat /b", image], stdout=subprocess.PIPE,
                         stderr=subprocess.DEVNULL).stdout
    assert subprocess.run(["md5sum"], input=out, stdout=subprocess.PIPE).stdout.decode() == total + "\n"


def test_discard(image):
    """fstrim gives the blocks of a deleted file back to the host; nodelete keeps them."""
    for options, given_back in (("", True), (",nodelete", False)):
        with guest(image, options) as g:
            load(g)
            assert g.run("mount -t ext4 /dev/vda /mnt && rm -f /mnt/a && sync") == ""
            assert g.run("dd if=/dev/urandom of=/mnt/a bs=1M count=24 2>&- && sync") == ""
            full = image.stat().st_blocks
            assert g.run("rm /mnt/a && sync") == ""
            g.run("fstrim /mnt")
            assert (g.status == 0) == given_back
            assert g.run("umount /mnt") == ""
            assert g.poweroff() == 1
        assert (full - image.stat().st_blocks > 20 << 11) == given_back
        assert fsck(image).returncode == 0


def test_read_only_and_resize(image):
    with guest(image, ",ro") as g:
        load(g)
        assert g.run("cat /sys/block/vda/ro") == "1"
        assert g.run("mount -t ext4 -o ro /dev/vda /mnt && ls /mnt") == "lost+found"
        assert g.run("umount /mnt") == ""
        os.truncate(image, 2 * SIZE)
        # The guest hears of it by itself, within a second or two.
        g.run("until [ $(cat /sys/block/vda/size) = %d ]; do sleep 0.1; done" % (2 * SIZE // 512))
        assert g.poweroff() == 1


def test_driver_comes_and_goes(image):
    """The device is reset with reads in flight, and works again."""
    with guest(image) as g:
        load(g)
        for _ in range(2):
            g.run("cd /sys/bus/virtio/drivers/virtio_blk")
            g.run("for i in 1 2 3; do dd if=/dev/vda of=/dev/null bs=1M iflag=direct 2>&- & done")
            g.run("echo virtio0 >unbind; wait; echo virtio0 >bind; cd")
        assert g.run("dd if=/dev/vda bs=1M count=64 2>/dev/null | wc -c") == str(SIZE)
        assert g.poweroff() == 1


@pytest.mark.parametrize("conf, message", [
    ("", "a disk needs a path, or ram=SIZE"),
    (",/nowhere/disk.img", "/nowhere/disk.img"),
    (",ram=1,queues=17", "queues '17': expected 1 to 16"),
    (",ram=1,ser=123456789012345678901", "ser '123456789012345678901': expected at most 20 characters"),
    (",ram=1,modern=perhaps", "modern 'perhaps': expected true or false"),
])
def test_bad_options(conf, message):
    p = bhyve("-s", f"3,virtio-blk{conf}", "-o", "boot.kernel=/dev/null", "vm")
    assert p.returncode == 4
    assert message in p.stderr
    assert p.stderr.count("\n") <= 2
