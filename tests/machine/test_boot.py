"""Debian's kernels boot to a shell, keep time, and power off."""
import os
import re
import subprocess
import time

import pytest

from conftest import PROMPT, Guest

# What a kernel says when it does not like the machine, at whatever level.
BAD = re.compile(r"firmware bug|acpi error|acpi bios error|lost (timer|interrupt)|call trace"
                 r"|\bbug:|\boops|unstable|spurious (irq|interrupt)|stall|soft lockup|nobody cared", re.I)


def dmesg_complaints(g):
    """Every message of level warning or worse, and others that complain."""
    return [line for line in g.run("dmesg -r").splitlines()
            if re.match(r"<[0-4]>", line) or BAD.search(line)]


@pytest.mark.parametrize("flavour, machine", [("cloud", "x86_64"), ("amd64", "x86_64"), ("i386", "i686")])
def test_boot(flavour, machine):
    with Guest(flavour) as g:
        assert g.run("uname -m") == machine
        assert dmesg_complaints(g) == []
        assert g.run("for i in 1 2 3; do echo $((i * i)); done").split() == ["1", "4", "9"]
        assert g.poweroff() == 1


@pytest.mark.parametrize("flavour", ["cloud", "i386"])
def test_topology(flavour):
    """Two sockets of three cores: APIC IDs have a gap, and firmware and CPUID agree on them."""
    with Guest(flavour, cpus="sockets=2,cores=3") as g:
        assert g.run("sed -n 's/^initial apicid.*: //p' /proc/cpuinfo").split() == list("012456")
        assert g.run("sed -n 's/^physical id.*: //p' /proc/cpuinfo").split() == list("000111")
        assert g.run("sed -n 's/^core id.*: //p' /proc/cpuinfo").split() == list("012012")
        # Each is reached by what the others send.
        reached = g.run("for i in 0 1 2 3 4 5; do taskset -c $i echo $i; done")
        assert reached.split() == list("012345")
        assert dmesg_complaints(g) == []
        assert g.poweroff() == 1


@pytest.mark.parametrize("memory, least_kib", [("128M", 60 << 10), ("1G", 900 << 10), ("6G", 5800 << 10)])
def test_memory(memory, least_kib):
    with Guest(memory=memory) as g:
        total = int(re.search(r"MemTotal:\s+(\d+) kB", g.run("cat /proc/meminfo"))[1])
        assert least_kib <= total
        assert g.poweroff() == 1


def uptime(g):
    return float(g.run("cut -d' ' -f1 /proc/uptime"))


def drift(g, seconds):
    """By how much the guest's clock runs wrong against the host's, and how uncertain that is."""
    h0, g0, h1 = time.monotonic(), uptime(g), time.monotonic()
    g.run(f"sleep {seconds}")
    h2, g1, h3 = time.monotonic(), uptime(g), time.monotonic()
    return abs(2 * (g1 - g0) / (h3 + h2 - h1 - h0) - 1), (h3 - h2 + h1 - h0 + 0.02) / (h2 - h1)


def test_clock():
    """The guest's clock runs true to the host's within 1 % over 30 s."""
    with Guest() as g:
        off, uncertain = drift(g, 30)
        assert off < 0.01 + uncertain
        # What it shows is the time of day.
        before = time.time()
        shown = int(g.run("date +%s"))
        assert before - 2 < shown < time.time() + 2


@pytest.mark.parametrize("flavour", ["cloud", "amd64", "i386"])
def test_clock_on_a_busy_host(flavour):
    """Nothing is measured at boot, so nothing is measured wrong when others have the cores."""
    busy = [subprocess.Popen(["sh", "-c", "while :; do :; done"])
            for _ in range(2 * os.cpu_count())]
    try:
        with Guest(flavour, cpus=2) as g:
            off, uncertain = drift(g, 5)
            log = g.run("dmesg")
            source = g.run("cat /sys/bus/clocksource/devices/*/current*")
            complaints = dmesg_complaints(g)
    finally:
        for p in busy:
            p.kill()
            p.wait()
    assert off < 0.01 + uncertain
    assert source in ("tsc", "kvm-clock")
    assert "kvm-clock: Using msrs" in log and "preset value" in log
    assert not re.search(r"calibrat\w+ (failed|against)|failed to get a good estimate", log, re.I)
    assert complaints == []


@pytest.mark.parametrize("command, status", [("reboot -f", 0), ("poweroff -f", 1)])
def test_power(command, status):
    with Guest() as g:
        g.p.sendline(command)
        assert g.wait() == status


@pytest.mark.parametrize("how", ["acpi", "kbd", "triple", "pci"])
def test_reset_ways(how):
    """Each way of Linux's to reset the machine; a triple fault has a status of its own."""
    with Guest(cmdline=f"reboot={how}") as g:
        g.p.sendline("reboot -f")
        assert g.wait() == (3 if how == "triple" else 0)


def test_line_editing_and_ctrl_c():
    with Guest() as g:
        # Typed one by one, the wrong character erased, as a person would.
        for c in "echo ab\x7fc":
            g.p.send(c)
        g.p.send("\r")
        g.p.expect(r"\nac\r")
        # Until the command runs the shell has the terminal in raw mode, where Ctrl-C is a character.
        g.p.sendline("echo star''ted; sleep 1000")
        g.p.expect("started\r")
        g.p.sendcontrol("c")
        g.p.expect(PROMPT)
        assert g.run("echo alive") == "alive"
        assert g.poweroff() == 1


def test_sigterm_presses_the_power_button():
    with Guest() as g:
        g.run("true")
        g.p.kill(15)
        # The initramfs has no acpid: a second SIGTERM ends the VM.
        g.p.kill(15)
        assert g.wait() is not None
