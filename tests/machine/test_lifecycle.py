"""How a machine ends: exit status, signals, the terminal afterwards."""
import os
import pty
import signal
import subprocess
import termios

import pytest

import multiboot as mb
from conftest import BHYVE, TIMEOUT, bhyve


def run(tmp_path, code, *args):
    return bhyve("-m", "16M", *args, "-o", mb.kernel(tmp_path / "kernel", code), "vm")


def lines(p):
    """What was said besides the line about the engine."""
    return [x for x in p.stderr.splitlines() if not x.startswith("bhyve: engine: ")]


def sanitized():
    with open(BHYVE, "rb") as f:
        return b"__asan_init" in f.read()


# --- What the guest does ---


@pytest.mark.parametrize("code,status", [
    pytest.param(mb.RESET, 0, id="cf9"),
    pytest.param(mb.out8(0x64, 0xfe) + mb.SPIN, 0, id="i8042"),
    pytest.param(mb.out8(0x92, 1) + mb.SPIN, 0, id="port92"),
    pytest.param(mb.POWEROFF, 1, id="s5"),
    pytest.param(mb.CLI + mb.HLT, 2, id="halt"),
    pytest.param(mb.TRIPLE_FAULT, 3, id="triple-fault"),
])
def test_exit_status(tmp_path, code, status):
    p = run(tmp_path, code)
    assert p.returncode == status, p.stderr


@pytest.mark.parametrize("value,status", [(0, 1), (1, 3), (0x10, 0x21), (0x7f, 0xff)])
def test_debug_exit(tmp_path, value, status):
    code = mb.out8(0xf4, value) + mb.SPIN
    assert run(tmp_path, code, "-l", "pc-testdev").returncode == status


def test_no_debug_exit_without_the_device(tmp_path):
    assert run(tmp_path, mb.out8(0xf4, 0) + mb.RESET).returncode == 0


def test_engine_is_named(tmp_path):
    p = run(tmp_path, mb.RESET, "-o", "engine=bt")
    assert p.stderr.startswith("bhyve: engine: bt: ")
    assert p.stderr.count("\n") == 1


@pytest.mark.parametrize("access,did", [(mb.in8(0x1234), "read I/O port 0x1234"),
                                        (mb.out8(0xcf7, 0x5a), "wrote 0x5a to I/O port 0xcf7")],
                         ids=["read", "write"])
def test_strict_io(tmp_path, access, did):
    assert run(tmp_path, access + mb.RESET).returncode == 0
    p = run(tmp_path, access * 20 + mb.SPIN, "-e")
    assert lines(p) == [f"bhyve: x86.strictio (-e): the guest {did}, which is not emulated"]
    assert p.returncode == 4


def test_strict_io_lets_devices_be(tmp_path):
    """Ports that exist are not strict."""
    code = mb.in8(0x61) + mb.in8(0x71) + mb.in8(0x3f8) + mb.in8(0x20) + mb.in8(0xcf9) + mb.RESET
    p = run(tmp_path, code, "-e", "-l", "com1")
    assert (p.returncode, lines(p)) == (0, [])


# --- Options that the guest notices ---

X2APIC_ON = mb.rdmsr(0x1b) + mb.bit_to_al(10)
MP_TABLE = mb.compare_to_al(0xf0000, b"_MP_")
ACPI_TABLES = mb.compare_to_al(0xf2400, b"RSD ")


@pytest.mark.parametrize("code,args,yes", [
    (X2APIC_ON, [], False), (X2APIC_ON, ["-a"], False), (X2APIC_ON, ["-x"], True),
    (X2APIC_ON, ["-x", "-a"], False), (MP_TABLE, [], True), (MP_TABLE, ["-Y"], False),
    (ACPI_TABLES, [], True), (ACPI_TABLES, ["-A"], True),
    (ACPI_TABLES, ["-o", "acpi_tables=no"], False),
], ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_option_seen_by_the_guest(tmp_path, code, args, yes):
    p = run(tmp_path, code + mb.TELL_AL, "-l", "pc-testdev", *args)
    assert p.returncode == (3 if yes else 1), p.stderr


def test_unknown_msr(tmp_path):
    """#GP, which ends in a triple fault here; with -w a zero."""
    code = mb.rdmsr(0x12345) + mb.RESET
    assert run(tmp_path, code).returncode == 3
    assert run(tmp_path, code, "-w").returncode == 0


def test_console_to_a_pipe(tmp_path):
    """What the guest wrote last arrives before the process ends."""
    said = "hello\r\n" * 300
    p = run(tmp_path, mb.text(said) + mb.POWEROFF, "-l", "com1,stdio")
    assert p.stdout == said.replace("\r\n", "\n")  # as text=True reads it
    assert p.returncode == 1


# --- Signals ---

IDLE = mb.STI + mb.HLT + b"\xeb\xfd"  # jmp to the hlt
READY = "ready"


def start(tmp_path, code, *args, **kw):
    """Starts a guest and waits until it runs."""
    p = subprocess.Popen([BHYVE, "-m", "16M", "-l", "com1,stdio", *args, "-o",
                          mb.kernel(tmp_path / "kernel", mb.text(READY) + code), "vm"],
                         stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)
    assert p.stdout.read(len(READY)) == READY.encode()
    return p


def finish(p):
    try:
        return p.wait(timeout=TIMEOUT)
    finally:
        p.kill()
        p.communicate()


@pytest.mark.parametrize("code", [mb.SPIN, IDLE, mb.text("x") + b"\xeb\xf7"],
                         ids=["spinning", "idle", "printing"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_ends_a_deaf_guest(tmp_path, code, number):
    """One that does not listen to the power button."""
    p = start(tmp_path, code)
    p.send_signal(number)
    assert finish(p) == 1


def test_second_sigterm(tmp_path):
    """With the power button enabled the first SIGTERM is a press, and the guest says that it saw it; a
    second one ends the machine whatever the guest does."""
    enable = mb.out8(0xb2, 0xa0) + mb.out16(0x402, 1 << 8)
    poll = mb.in8(0x401) + b"\xa8\x01" + b"\x74\xfb"  # until PWRBTN_STS: in al, dx; test al, 1; jz
    p = start(tmp_path, enable + mb.text("on") + poll + mb.text("pressed") + IDLE)
    assert p.stdout.read(2) == b"on"
    p.send_signal(signal.SIGTERM)
    assert p.stdout.read(7) == b"pressed"
    assert p.poll() is None
    p.send_signal(signal.SIGTERM)
    assert finish(p) == 1


def test_nohup(tmp_path):
    """An ignored SIGHUP stays ignored; the SIGTERM after it does not."""
    p = start(tmp_path, IDLE, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    with open(f"/proc/{p.pid}/status") as f:
        masks = dict(line.rstrip().split(":\t", 1) for line in f if line.startswith("Sig"))
    assert int(masks["SigBlk"], 16) >> (signal.SIGHUP - 1) & 1 == 0
    p.send_signal(signal.SIGHUP)
    p.send_signal(signal.SIGTERM)
    assert finish(p) == 1


@pytest.mark.parametrize("number,status", [
    (signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGHUP, 1), (signal.SIGQUIT, -signal.SIGQUIT),
    (signal.SIGSEGV, -signal.SIGSEGV), (signal.SIGABRT, -signal.SIGABRT),
    (signal.SIGUSR1, -signal.SIGUSR1)])
def test_terminal_is_restored(tmp_path, number, status):
    if number == signal.SIGSEGV and sanitized():
        pytest.skip("the sanitizer takes SIGSEGV for itself")
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    p = subprocess.Popen([BHYVE, "-m", "16M", "-l", "com1,stdio", "-o",
                          mb.kernel(tmp_path / "kernel", mb.text(READY) + mb.SPIN), "vm"],
                         stdin=slave, stdout=slave, stderr=subprocess.PIPE, start_new_session=True)
    said = b""
    while not said.endswith(READY.encode()):
        said += os.read(master, 1)
    assert termios.tcgetattr(slave) != before
    p.send_signal(number)
    assert finish(p) == status
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
