"""Small guests of our own: modes, exceptions, paging, debugging, and hostile ones.

A guest prints a line for each of its cases (tests/guests/guest.h). Its file lists the names of all
cases, so one that was never run is noticed.
"""
import glob
import os
import subprocess

import pytest

from conftest import BUILD, TOP, bhyve

EXIT_OK = 16 << 1 | 1  # through the debug exit

# Cases for one vendor.
MAY_SKIP = {
    "SYSCALL: from compatibility mode (AMD)",
    "SYSENTER in long mode: #UD (AMD)",
    "SYSENTER in long mode: to 64-bit code (Intel)",
}

# Guests that end in another way: the tests at the end.
HOSTILE = set()

GUESTS = sorted({os.path.basename(path)[:-2] for path in glob.glob(f"{TOP}/tests/guests/*.S")} - HOSTILE)


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


def run(name, *args, **kw):
    return bhyve("-m", "64M", "-o", "engine=bt", "-l", "com1,stdio", "-l", "pc-testdev", *args,
                 "-o", f"boot.kernel={elf(name)}", name, **kw)


@pytest.mark.parametrize("name", GUESTS)
def test_guest(name):
    p = run(name)
    lines = p.stdout.splitlines()
    failed = [line for line in lines if not line.startswith(("ok ", "skip ", "done"))]
    assert not failed and p.returncode == EXIT_OK and lines[-1] == "done", \
        "\n".join([*failed, f"the last line: {lines[-1:]}", f"exit status {p.returncode}", p.stderr])
    skipped = {line[5:] for line in lines if line.startswith("skip ")}
    assert skipped <= MAY_SKIP
    done = [line[3:] for line in lines if line.startswith("ok ")] + sorted(skipped)
    cases = names(name)
    assert len(cases) == len(set(cases)) and cases
    assert sorted(done) == sorted(cases)
