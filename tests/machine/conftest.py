"""What machine tests share: the binary, the kernels, a running guest."""
import os
import signal
import subprocess
import tempfile

import pexpect
import pytest

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("BUILD", os.path.join(TOP, "build"))
BHYVE = os.environ.get("BHYVE", os.path.join(BUILD, "bhyve"))
PROMPT = r"bhyve:[^ \r\n]*[$#] "
# Generous: tests must not fail on a slow machine; what hangs is ended all the same.
TIMEOUT = 300

# Under nohup, or in a shell's background, these come ignored, and bhyve keeps to that.
for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(ignored) == signal.SIG_IGN:
        signal.signal(ignored, signal.SIG_DFL)


def kernel(flavour):
    """Path of a Debian kernel's directory: vmlinuz and initramfs."""
    path = os.path.join(BUILD, "guest", flavour)
    if not os.path.exists(os.path.join(path, "vmlinuz")):
        pytest.fail(f"no kernel in {path}: run 'make guest-{flavour}'")
    return path


class Guest:
    """A Linux guest with a shell on its serial console.

    with Guest("cloud", memory="256M") as g:
        assert g.run("uname -m") == "x86_64"
        assert g.poweroff() == 1
    """

    def __init__(self, flavour="cloud", memory="512M", cmdline="", args=(), cpus=1, quiet=True,
                 initrd="initramfs"):
        k = kernel(flavour)
        words = "console=ttyS0 " + ("quiet " if quiet else "") + cmdline
        argv = ["-c", str(cpus), "-m", memory, "-H", "-s", "0,hostbridge", "-s", "31,lpc",
                "-l", "com1,stdio", "-o", f"boot.kernel={k}/vmlinuz",
                "-o", f"boot.initrd={k}/{initrd}", "-o", f"boot.cmdline={words}", *args, "test"]
        self.log = tempfile.TemporaryFile("w+")
        self.p = pexpect.spawn(BHYVE, argv, timeout=TIMEOUT, encoding="utf-8",
                               codec_errors="replace", echo=False, dimensions=(50, 200))
        self.p.logfile_read = self.log

    def __enter__(self):
        try:
            self.p.expect(PROMPT)
        except (pexpect.EOF, pexpect.TIMEOUT):
            self.close()
            pytest.fail("no shell prompt:\n" + self.output()[-4000:])
        return self

    def __exit__(self, *exc):
        self.close()

    def run(self, command):
        """Runs a command in the guest's shell and returns what it printed; its status in .status."""
        # The marker is split so that the echoed command line does not match.
        self.p.sendline(f"{command}; echo D''ONE $?")
        self.p.expect(r"DONE (\d+)\r?\n")
        text, self.status = self.p.before, int(self.p.match.group(1))
        self.p.expect(PROMPT)
        return text.split("\n", 1)[-1].replace("\r", "").strip()

    def wait(self):
        """Waits for the end; the exit status."""
        self.p.expect(pexpect.EOF)
        self.p.close()
        return self.p.exitstatus

    def poweroff(self):
        self.p.sendline("poweroff")
        return self.wait()

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def close(self):
        self.p.close(force=True)


def bhyve(*args, **kw):
    """Runs bhyve to its end; the completed process with stdout and stderr as text."""
    kw.setdefault("timeout", TIMEOUT)
    kw.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([BHYVE, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, errors="replace", **kw)


@pytest.fixture(autouse=True)
def in_top():
    os.chdir(TOP)
