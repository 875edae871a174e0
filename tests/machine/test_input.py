"""The PS/2 keyboard and mouse as Linux finds them."""
import glob
import re
import shutil
import subprocess

import pytest

from conftest import BUILD, TOP, Guest, kernel


@pytest.fixture
def with_psmouse(tmp_path):
    """An initramfs with Debian's driver for PS/2 mice, which is a module there."""
    modules = glob.glob(f"{BUILD}/guest/tree-amd64/**/psmouse.ko", recursive=True)
    if not modules:
        pytest.skip("the kernel's package is not unpacked")
    root = tmp_path / "root"
    root.mkdir()
    shutil.copy(modules[0], root)
    busybox = f"{BUILD}/guest/tree-busybox-amd64/bin/busybox"
    subprocess.run([f"{TOP}/scripts/mkinitramfs", busybox, tmp_path / "initramfs", root], check=True)
    return tmp_path / "initramfs"


@pytest.mark.parametrize("flavour", ["cloud", "amd64", "i386"])
def test_controller(flavour):
    with Guest(flavour) as g:
        log = g.run("dmesg | grep -e i8042 -e 'AT Translated'")
        assert "serio: i8042 KBD port at 0x60,0x64 irq 1" in log
        assert "serio: i8042 AUX port at 0x60,0x64 irq 12" in log
        assert "AT Translated Set 2 keyboard" in log
        assert g.run("dmesg -r | grep '^<[0-4]>.*i8042'") == ""
        assert g.poweroff() == 1


def test_mouse(with_psmouse):
    kernel("amd64")
    with Guest("amd64", args=["-o", f"boot.initrd={with_psmouse}"]) as g:
        assert g.run("insmod /psmouse.ko") == ""
        # The driver probes from a worker thread.
        log = g.run("until dmesg | grep 'Mouse as'; do sleep 0.1; done")
        assert re.search(r"ImExPS/2|ImPS/2 Generic Wheel Mouse", log)
        assert "psmouse" in g.run("ls -l /sys/bus/serio/devices/serio1/driver")
        assert g.run("dmesg -r | grep '^<[0-4]>.*\\(i8042\\|psmouse\\|serio\\)'") == ""
        assert g.poweroff() == 1
