"""Leanness, to be kept for good: the binary, and what a running VM costs beyond the guest's memory."""
import os
import re
import subprocess

from conftest import BHYVE, BUILD, Guest


def test_stripped_binary_is_under_1_mib(tmp_path):
    stripped = tmp_path / "bhyve"
    subprocess.run(["strip", "-o", stripped, BHYVE], check=True)
    if "asan" in BUILD:
        return
    assert os.path.getsize(stripped) < 1 << 20


def resident_beyond_guest_kib(pid):
    """Resident memory of a process but for the mapping of the memfd that is the guest's RAM."""
    total, guest = 0, False
    for line in open(f"/proc/{pid}/smaps"):
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            guest = "memfd:" in line and "x" not in line.split()[1]
            size = 0
        elif line.startswith("Size:"):
            size = int(line.split()[1])
        elif line.startswith("Rss:") and not (guest and size >= 64 << 10):
            total += int(line.split()[1])
    return total


def test_resident_memory_beyond_the_guests_is_under_12_mib():
    if "asan" in BUILD:
        return
    with Guest() as g:
        g.run("for i in $(seq 300); do /bin/busybox true; done; ls -lR /sys >/dev/null 2>&1")
        used = resident_beyond_guest_kib(g.p.pid)
        assert used < 12 << 10, f"{used} KiB"
        assert g.poweroff() == 1
