"""Small guests of our own: modes, exceptions, paging, debugging, and hostile ones.

A guest prints a line for each of its cases (tests/guests/guest.h). Its file lists the names of all
cases, so one that was never run is noticed.
"""
import glob
import os
import signal
import subprocess

import pytest

from conftest import BHYVE, BUILD, TIMEOUT, TOP, bhyve

EXIT_OK = 16 << 1 | 1  # through the debug exit

# Cases for one vendor.
MAY_SKIP = {
    "SYSCALL: from compatibility mode (AMD)",
    "SYSENTER in long mode: #UD (AMD)",
    "SYSENTER in long mode: to 64-bit code (Intel)",
}

# What it does is chosen by its command line: the tests at the end.
HOSTILE = {"hostile"}

SOURCES = glob.glob(f"{TOP}/tests/guests/*.S")
GUESTS = sorted({os.path.basename(path)[:-2] for path in SOURCES} - HOSTILE)


def elf(name):
    path = f"{BUILD}/tests/guests/{name}.elf"
    if not os.path.exists(path):
        pytest.fail(f"no {path}: run 'make guests'")
    return path


def names(name):
    """The names of a guest's cases, from its section .names."""
    p = subprocess.run(["objcopy", "-O", "binary", "-j", ".names", elf(name), "/dev/stdout"],
                       stdout=subprocess.PIPE, check=True)
    return p.stdout.decode().split("\0")[:-1]


def options(name, *args):
    return ["-m", "64M", "-o", "engine=bt", "-l", "com1,stdio", "-l", "pc-testdev", *args,
            "-o", f"boot.kernel={elf(name)}", name]


def run(name, *args, **kw):
    return bhyve(*options(name, *args), **kw)


@pytest.mark.parametrize("name", GUESTS)
def test_guest(name):
    p = run(name)
    lines = p.stdout.splitlines()
    failed = [line for line in lines if not line.startswith(("ok ", "skip ", "done"))]
    said = "\n".join([*failed, f"the last line: {lines[-1:]}", f"status {p.returncode}", p.stderr])
    assert not failed and p.returncode == EXIT_OK and lines[-1] == "done", said
    skipped = {line[5:] for line in lines if line.startswith("skip ")}
    assert skipped <= MAY_SKIP
    done = [line[3:] for line in lines if line.startswith("ok ")] + sorted(skipped)
    cases = names(name)
    assert len(cases) == len(set(cases)) and cases
    assert sorted(done) == sorted(cases)


# --- Hostile guests: the process must stay well ---


def hostile(action):
    return run("hostile", "-o", f"boot.cmdline={action}")


@pytest.mark.parametrize("action", "12345")
def test_triple_fault(action):
    """Triple faults in every mode end the machine with bhyve(8)'s status 3."""
    p = hostile(action)
    assert (p.stdout, p.returncode) == ("", 3), p.stderr


def test_halt_with_interrupts_off():
    p = hostile("h")
    assert (p.stdout, p.returncode) == ("running\n", 2), p.stderr


@pytest.mark.parametrize("action", "jtpm")
def test_survives(action):
    p = hostile(action)
    lines = p.stdout.splitlines()
    assert p.returncode == EXIT_OK and lines[-1] == "done", p.stdout + p.stderr
    assert len(lines) > 1 and all(line.startswith("ok ") for line in lines[:-1])


def test_all_ports():
    """Somewhere on the way it resets the machine."""
    assert hostile("q").returncode == 0


@pytest.mark.parametrize("action", "siwxe")
@pytest.mark.parametrize("signals", [["SIGINT"], ["SIGTERM", "SIGTERM"]], ids=["INT", "TERM"])
def test_endless_guest_ends_by_signal(action, signals):
    p = subprocess.Popen([BHYVE, *options("hostile", "-o", f"boot.cmdline={action}")],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert p.stdout.readline().strip() == b"running"
        for s in signals:
            p.send_signal(getattr(signal, s))
        p.communicate(timeout=TIMEOUT)
        assert p.returncode == 1
    finally:
        p.kill()
        p.wait()
