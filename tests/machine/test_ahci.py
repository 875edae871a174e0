"""Linux on an AHCI controller: an ext4 disk, a CD-ROM drive whose medium changes, and the tools for both."""
import os
import subprocess

import pytest

from conftest import Guest

SIZE = 64 << 20


def iso(path, word):
    """An ISO image with one file, whose content is the word."""
    tree = path.with_suffix(".d")
    tree.mkdir()
    (tree / "word").write_text(word)
    subprocess.run(["xorriso", "-as", "mkisofs", "-quiet", "-o", path, tree], check=True,
                   stderr=subprocess.DEVNULL)
    return path


@pytest.fixture
def images(tmp_path):
    disk = tmp_path / "disk.img"
    with open(disk, "wb") as f:
        f.truncate(SIZE)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", disk], check=True)
    return disk, iso(tmp_path / "one.iso", "one"), iso(tmp_path / "two.iso", "two")


def load(g, libata=""):
    """Loads the modules, which come in the order they need."""
    g.run(f"for m in $(cat /etc/modules); do a=; case $m in */libata.ko) a='{libata}';; esac;"
          " insmod $m $a; done")
    g.run("while [ ! -e /dev/sr0 ] || [ ! -e /dev/sda ]; do usleep 100000; done")


def fsck(disk):
    return subprocess.run(["e2fsck", "-fn", disk], stdout=subprocess.PIPE, text=True)


def test_disk_and_cd(images):
    disk, one, two = images
    with Guest("disks", args=["-s", f"3,ahci,hd:{disk},ser=S123,cd:{one}"]) as g:
        load(g)
        assert "NCQ (depth 32)" in g.run("dmesg | grep 'ata1.00:'")
        assert "MSI" in g.run("grep ahci /proc/interrupts")
        # The disk.
        assert g.run("mount -t ext4 -o discard /dev/sda /mnt") == ""
        g.run("dd if=/dev/urandom of=/mnt/a bs=64k count=512 2>/dev/null; sync")
        g.run("cp /mnt/a /mnt/b; rm /mnt/b; sync; echo 3 >/proc/sys/vm/drop_caches")
        full = os.stat(disk).st_blocks * 512
        before = g.run("md5sum /mnt/a | cut -c1-32")
        g.run("umount /mnt; mount -t ext4 -o discard /dev/sda /mnt")
        assert g.run("md5sum /mnt/a | cut -c1-32") == before
        g.run("rm /mnt/a; sync; fstrim /mnt; umount /mnt")
        assert full > 32 << 20
        assert os.stat(disk).st_blocks * 512 < 8 << 20
        # The tools.
        about = g.run("hdparm -I /dev/sda")
        assert "S123" in about and "Checksum: correct" in about
        assert "TRIM supported" in about and "Solid State Device" in about
        assert "MB/sec" in g.run("hdparm -t /dev/sda")
        assert "write-caching =  0 (off)" in g.run("hdparm -W0 /dev/sda")
        health = g.run("smartctl -a /dev/sda")
        assert g.status == 0 and "test result: PASSED" in health
        assert "successful" in g.run("smartctl -t short /dev/sda")
        assert "Completed without error" in g.run("smartctl -l selftest /dev/sda")
        # The CD-ROM drive: locked while mounted; then ejected, replaced on the host, and loaded.
        assert g.run("mount -t iso9660 -o ro /dev/sr0 /mnt") == ""
        assert g.run("cat /mnt/word") == "one"
        g.run("umount /mnt; eject /dev/sr0")
        assert g.status == 0
        os.replace(two, one)
        g.run("eject -t /dev/sr0")
        g.run("until mount -t iso9660 -o ro /dev/sr0 /mnt 2>/dev/null; do usleep 100000; done")
        assert g.run("cat /mnt/word") == "two"
        g.run("umount /mnt")
        assert g.poweroff() == 1
    assert fsck(disk).returncode == 0


def test_pins_without_ncq(images):
    disk, one, _ = images
    with Guest("disks", cmdline="pci=nomsi",
               args=["-s", f"3,ahci-hd,{disk},sectorsize=512/4096", "-s", f"4,ahci-cd,{one}"]) as g:
        load(g, "force=noncq")
        assert "NCQ (not used)" in g.run("dmesg | grep 'ata1.00:'")
        assert "IO-APIC" in g.run("grep ahci /proc/interrupts")
        assert g.run("mount -t ext4 /dev/sda /mnt") == ""
        g.run("dd if=/dev/urandom of=/mnt/a bs=64k count=128 2>/dev/null; sync")
        before = g.run("md5sum /mnt/a | cut -c1-32")
        # The controller is reset, as a driver that starts does.
        g.run("umount /mnt; echo 0000:00:03.0 >/sys/bus/pci/drivers/ahci/unbind")
        g.run("echo 1 >/sys/bus/pci/devices/0000:00:03.0/reset")
        assert g.status == 0
        g.run("echo 0000:00:03.0 >/sys/bus/pci/drivers/ahci/bind")
        g.run("until mount -t ext4 /dev/sda /mnt 2>/dev/null; do usleep 100000; done")
        assert g.run("md5sum /mnt/a | cut -c1-32") == before
        g.run("umount /mnt")
        assert g.run("mount -t iso9660 -o ro /dev/sr0 /mnt") == ""
        assert g.run("cat /mnt/word") == "one"
        assert g.poweroff() == 1
    assert fsck(disk).returncode == 0
