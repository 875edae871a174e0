"""The serial console: input at any time, and every kind of other end."""
import fcntl
import os
import re
import select
import socket
import subprocess
import termios

import pexpect.fdpexpect
import pytest

from conftest import BHYVE, PROMPT, TIMEOUT, bhyve, kernel

# Asked by busybox's line editor: where the cursor is.
ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def argv(console="stdio", flavour="cloud", init=None):
    """A guest with a shell, or one that runs a command and powers off."""
    k = kernel(flavour)
    words = "console=ttyS0 quiet"
    if init is not None:
        words += f' rdinit=/bin/sh -- -c "{init}; /bin/busybox poweroff -f"'
    return ["-m", "256M", "-l", f"com1,{console}", "-o", f"boot.kernel={k}/vmlinuz",
            "-o", f"boot.initrd={k}/initramfs", "-o", f"boot.cmdline={words}", "test"]


def numbers(text):
    """The lines that are numbers."""
    return [int(x) for x in ESCAPES.sub("", text).split() if x.isdigit()]


def shell_says(text):
    """The shell's output without its prompts and what was typed."""
    return [x for x in ESCAPES.sub("", text).replace("\r", "").split("\n")
            if not re.match(PROMPT, x)]


# --- Input before the guest listens ---


@pytest.mark.parametrize("flavour", ["cloud", "amd64", "i386"])
def test_input_before_boot(flavour):
    p = bhyve(*argv(flavour=flavour), stdin=None, input="echo 4''2\nuname\npoweroff\n")
    assert p.returncode == 1, p.stdout
    said = shell_says(p.stdout)
    assert "42" in said and "Linux" in said, p.stdout
    assert "not found" not in p.stdout


def test_input_during_boot():
    """A line each time the kernel says something: whenever a character comes, it arrives."""
    args = [x.replace("quiet", "") for x in argv()]
    text, sent = "", 0
    with subprocess.Popen([BHYVE, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL) as p:
        try:
            while "'poweroff' ends it" not in text:
                ready, _, _ = select.select([p.stdout], [], [], TIMEOUT)
                assert ready, text
                text += os.read(p.stdout.fileno(), 65536).decode(errors="replace")
                if sent < 100:
                    os.write(p.stdin.fileno(), b"echo =%d=\n" % sent)
                    sent += 1
            text += p.communicate(b"poweroff\n", TIMEOUT)[0].decode(errors="replace")
            assert p.returncode == 1
        finally:
            p.kill()
    echoes = [int(x) for x in re.findall(r"^=(\d+)=\r?$", ESCAPES.sub("", text), re.M)]
    assert echoes == list(range(sent)), text
    assert "not found" not in text


# --- Standard input and output ---


def test_input_from_nowhere():
    p = bhyve(*argv(init="echo 4''2"))
    assert p.returncode == 1 and numbers(p.stdout) == [42], p.stdout


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 1, 2)])
def test_closed(closed):
    def close():
        for fd in closed:
            os.close(fd)

    p = bhyve(*argv(init="echo 42"), preexec_fn=close)
    assert p.returncode == 1, p.stdout
    assert numbers(p.stdout) == ([] if 1 in closed else [42])


def test_output_is_complete():
    """Far more than pipes and buffers hold: the guest waits for who reads, and nothing is lost."""
    p = bhyve(*argv(init="/bin/busybox seq 20000"))
    assert p.returncode == 1
    assert numbers(p.stdout) == list(range(1, 20001))


def test_output_to_nobody():
    """The guest is not held up for long by a pipe that nobody reads."""
    r, w = os.pipe()
    fcntl.fcntl(w, fcntl.F_SETPIPE_SZ, 4096)
    try:
        p = subprocess.run([BHYVE, *argv(init="/bin/busybox seq 40000")], stdin=subprocess.DEVNULL,
                           stdout=w, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT)
        os.close(w)
        assert p.returncode == 1, p.stderr
        assert "com1: output is lost" in p.stderr
        assert numbers(os.read(r, 4096).decode())[:100] == list(range(1, 101))
    finally:
        os.close(r)


def test_reader_leaves():
    with subprocess.Popen([BHYVE, *argv(init="/bin/busybox seq 40000")], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as p:
        assert p.stdout.read(10) != ""
        p.stdout.close()
        assert p.stderr.read() != ""
        assert p.wait(TIMEOUT) == 1


# --- Other ends ---


def session(fd, process):
    """Uses the shell at fd and powers off."""
    term = pexpect.fdpexpect.fdspawn(fd, timeout=TIMEOUT, encoding="utf-8", codec_errors="replace")
    term.send("\n")
    term.expect(PROMPT)
    term.send("echo D''ONE $((6 * 7))\n")
    term.expect("DONE 42")
    term.send("poweroff\n")
    assert process.wait(TIMEOUT) == 1


def start(console):
    return subprocess.Popen([BHYVE, *argv(console)], stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def until(process, pattern):
    """Reads messages until one matches."""
    for line in process.stderr:
        m = re.search(pattern, line)
        if m:
            return m
    raise AssertionError(f"'{pattern}' was not said")


def connect(s, address, process):
    """Connects as soon as it listens."""
    while process.poll() is None:
        try:
            return s.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            pass
    raise AssertionError(process.stderr.read())


def test_pty():
    with start("pty") as p:
        try:
            fd = os.open(until(p, r"(/dev/pts/\d+)")[1], os.O_RDWR | os.O_NOCTTY)
            session(fd, p)
            os.close(fd)
        finally:
            p.kill()


def test_tty():
    """Any terminal will do, and is given back as it was."""
    master, slave = os.openpty()
    before = termios.tcgetattr(slave)
    with start(os.ttyname(slave)) as p:
        try:
            session(master, p)
        finally:
            p.kill()
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def test_unix(tmp_path):
    with start(f"unix={tmp_path}/console") as p, socket.socket(socket.AF_UNIX) as s:
        try:
            connect(s, f"{tmp_path}/console", p)
            session(s.fileno(), p)
        finally:
            p.kill()
    assert not os.path.exists(tmp_path / "console")


def test_tcp():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with start(f"tcp=127.0.0.1:{port}") as p, socket.socket() as s:
        try:
            connect(s, ("127.0.0.1", port), p)
            session(s.fileno(), p)
        finally:
            p.kill()


def test_unix_again(tmp_path):
    """A peer leaves and another comes."""
    with start(f"unix={tmp_path}/console") as p:
        try:
            with socket.socket(socket.AF_UNIX) as s:
                connect(s, f"{tmp_path}/console", p)
                s.send(b"x=4''2\n")
                term = pexpect.fdpexpect.fdspawn(s.fileno(), timeout=TIMEOUT)
                term.expect(PROMPT)
            with socket.socket(socket.AF_UNIX) as s:
                connect(s, f"{tmp_path}/console", p)
                session(s.fileno(), p)
        finally:
            p.kill()
