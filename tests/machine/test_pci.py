"""What a guest sees of the PCI bus."""
import pytest

from conftest import Guest


def devices(g):
    """Slot and function, vendor and device of each function, as Linux has found them."""
    return [line.split() for line in g.run("cut -f1,2 /proc/bus/pci/devices").splitlines()]


# By tables and ECAM, by ports, and by a system that reads no tables.
@pytest.mark.parametrize("cmdline", ["", "pci=nommconf", "acpi=off"])
def test_devices(cmdline):
    with Guest(cmdline=cmdline, args=["-s", "3,amd_hostbridge", "-s", "3:5,hostbridge", "-o",
                                      "pci.0.3.0.pcireg.device=0x1234"]) as g:
        assert devices(g) == [
            ["0000", "12751275"],
            ["0018", "10221234"],
            ["001d", "12751275"],
            ["00f8", "80867000"],
        ]


def test_windows():
    with Guest(memory="5G") as g:
        iomem = g.run("cat /proc/iomem")
        assert "c0000000-dfffffff : PCI Bus 0000:00" in iomem
        assert "e0000000-efffffff : PCI MMCONFIG 0000 [bus 00-ff]" in iomem
        assert "800000000-fffffffff : PCI Bus 0000:00" in iomem
