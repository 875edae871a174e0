"""The command line of the real binary: what it prints, its messages, its exit status."""
import os
import re
import signal
import socket
import stat
import subprocess

import pytest

from conftest import BHYVE, TOP, bhyve

# Boots nothing, so that what comes before is the only reason to fail.
NO_KERNEL = ["-o", "boot.kernel=/dev/null"]


def fails(*args, **kw):
    """Runs bhyve, which must print nothing but one line of error; the line without "bhyve: "."""
    p = bhyve(*args, **kw)
    assert p.stdout == ""
    lines = [x for x in p.stderr.splitlines() if not x.startswith("bhyve: engine: bt: ")]
    assert len(lines) == 1, p.stderr
    assert lines[0].startswith("bhyve: ")
    assert p.returncode == 4
    return lines[0][len("bhyve: "):]


def prints(*args):
    p = bhyve(*args)
    assert (p.returncode, p.stderr) == (0, "")
    return p.stdout


# --- What prints and ends ---


def test_help():
    text = prints("-h")
    assert "usage: bhyve [options] vmname\n" in text
    assert text == prints("--help")
    for letter in "AaCcDefGHhKklmnoPprSsUuWwxY":
        assert re.search(rf"^  -{letter} ", text, re.M), letter


def test_version():
    assert re.fullmatch(r"bhyve for Linux \d+\.\d+\.\d+\n", prints("--version"))


def test_lpc_help():
    names = [line.split()[0] for line in prints("-l", "help").splitlines()]
    assert {"com1", "com2", "com3", "com4", "pc-testdev"} <= set(names)


def test_pci_help_is_true():
    """What -s help lists can be used, what it leaves out is refused."""
    listed = {line.split()[0] for line in prints("-s", "help").splitlines()}
    for name in ("virtio-blk", "virtio-net", "passthru", "fbuf", "xhci"):
        if name not in listed:
            message = fails("-s", f"3,{name}", *NO_KERNEL, "vm")
            assert message == f"pci.0.3.0.device: '{name}' is not available yet: see -s help"


def test_help_to_a_full_device():
    with open("/dev/full", "w") as full:
        p = subprocess.run([BHYVE, "-h"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert p.returncode == 4
    assert p.stderr == "bhyve: standard output: No space left on device\n"


def test_every_option_in_the_manual():
    with open(os.path.join(TOP, "man", "bhyve.8")) as f:
        text = f.read()
    for letter in "AaCcDefGHhKklmnoPprSsUuWwxY":
        assert re.search(rf"^\.It Fl {letter}\b", text, re.M), letter


def test_every_variable_in_the_manual():
    with open(os.path.join(TOP, "man", "bhyve_config.5")) as f:
        text = f.read()
    with open(os.path.join(TOP, "src", "bhyve", "vars.c")) as f:
        names = re.findall(r'\{ \.name = "([^"]+)"', f.read())
    assert len(names) > 60
    for name in names:
        # Whole subtrees are there as "gdb.*".
        group = re.escape(name.split(".")[0]) + r"\.(\w+\.)?\*"
        assert re.search(rf"(?<![\w.])({re.escape(name)}|{group})(?![\w.])", text), name


def test_manuals_are_clean():
    pages = [os.path.join(TOP, "man", p) for p in ("bhyve.8", "bhyve_config.5")]
    p = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", *pages],
                       stdout=subprocess.PIPE, text=True)
    assert p.stdout == ""


# --- config.dump ---


def test_dump_reads_back(tmp_path):
    options = ["-c", "2", "-m", "256", "-H", "-P", "-s", "0:0,hostbridge", "-s", "1:0,virtio-net,tap0",
               "-s", "2:0,ahci-hd,./vm0.img", "-s", "31,lpc", "-l", "com1,stdio", "-o",
               "boot.cmdline=a=%%b %(name)"]
    text = prints(*options, "-o", "config.dump=1", "vm0")
    assert text == ("cpus=2\nmemory.size=256\nx86.vmexit_on_hlt=true\nx86.vmexit_on_pause=true\n"
                    "pci.0.0.0.device=hostbridge\npci.0.1.0.device=virtio-net\n"
                    "pci.0.1.0.backend=tap0\npci.0.2.0.device=ahci-hd\npci.0.2.0.port.0.type=hd\n"
                    "pci.0.2.0.port.0.path=./vm0.img\npci.0.31.0.device=lpc\n"
                    "lpc.com1.path=stdio\nboot.cmdline=a=%%b %(name)\nconfig.dump=1\nname=vm0\n")
    config = tmp_path / "vm0.conf"
    config.write_text(text)
    assert prints("-k", str(config)) == text


def test_later_wins(tmp_path):
    config = tmp_path / "vm.conf"
    config.write_text("# ours\n\nmemory.size=2G\ncpus=3\nconfig.dump=on\n")
    assert prints("-m", "1G", "-k", str(config), "-c", "4", "vm") == (
        "memory.size=2G\ncpus=4\nconfig.dump=on\nname=vm\n")


def test_config_from_a_pipe():
    text = "config.dump=1\nname=piped\n"
    p = subprocess.run([BHYVE, "-k", "/dev/stdin"], input=text, stdout=subprocess.PIPE, text=True)
    assert (p.returncode, p.stdout) == (0, text)


# --- Errors ---

NAMES_AND_VALUES = [
    (["-Z", "vm"], "-Z: no such option: usage: bhyve [options] vmname, see bhyve -h"),
    (["--kernel=x", "vm"], "--kernel=x: no such option: usage: bhyve [options] vmname, see bhyve -h"),
    (["vm", "-H"], "-H: comes after the VM's name 'vm': usage: bhyve [options] vmname"),
    (["-m"], "-m: expected size[K|M|G|T]"),
    ([], "vmname: the VM has no name: expected one as the last argument"),
    (["a/b"], "name: 'a/b': expected a name of letters, digits, '.', '_' and '-'"),
    (["vm"], "boot.kernel: there is nothing to boot: expected -o boot.kernel=file"),
    (["-o", "boot.kernel=/nonexistent", "vm"],
     "boot.kernel: '/nonexistent': cannot read the file: No such file or directory"),
    (["-o", "boot.initrd=/nonexistent", *NO_KERNEL, "vm"],
     "boot.initrd: '/nonexistent': cannot read the file: No such file or directory"),
    (["-k", "/nonexistent", "vm"],
     "-k /nonexistent: cannot open the file: No such file or directory"),
    (["-o", "cpus", "vm"], "-o cpus: expected variable=value"),
    (["-o", "boot.kernal=x", "vm"],
     "boot.kernal: no such variable, and no other refers to it: see bhyve_config(5)"),
    (["-o", "x86.mptable=perhaps", *NO_KERNEL, "vm"],
     "x86.mptable (-Y): 'perhaps': expected true, on, yes, 1 or false, off, no, 0"),
    (["-U", "me", *NO_KERNEL, "vm"],
     "uuid (-U): 'me': expected a UUID such as 01234567-89ab-cdef-0123-456789abcdef"),
    (["-c", "cpus=2,wheels=4", "vm"],
     "-c cpus=2,wheels=4: expected [cpus=]N[,sockets=N][,cores=N][,threads=N]"),
    (["-c", "0", *NO_KERNEL, "vm"], "cpus (-c): '0': expected 1 to 255"),
    (["-c", "1000000", *NO_KERNEL, "vm"], "cpus (-c): '1000000': expected 1 to 255"),
    (["-c", "4,cores=3", *NO_KERNEL, "vm"],
     "cpus (-c): '4': expected the product of 1 sockets, 3 cores and 1 threads: 3"),
    (["-p", "0", "vm"], "-p 0: expected vcpu:hostcpu"),
    (["-p", "1:0", *NO_KERNEL, "vm"],
     "vcpu.N.cpuset (-p): there is no virtual CPU 1: expected 0 to 0"),
    (["-o", "vcpu.0.cpuset=1-", *NO_KERNEL, "vm"],
     "vcpu.0.cpuset: '1-': expected a list of host CPUs such as 0,2-3"),
    (["-o", "vcpu.0.cpuset=0,,1", *NO_KERNEL, "vm"],
     "vcpu.0.cpuset: '0,,1': expected a list of host CPUs such as 0,2-3"),
    (["-s", "3,hostbridge,pcireg.vendor=0x10000", *NO_KERNEL, "vm"],
     "pci.0.3.0.pcireg.vendor: '0x10000': expected 0 to 0xffff, or host"),
    (["-s", "3,hostbridge,pcireg.colour=1", *NO_KERNEL, "vm"],
     "pci.0.3.0.pcireg.colour: expected vendor, device, revid, subvendor or subdevice of a pcireg"),
    (["-o", "lpc.pcireg.revid=first", *NO_KERNEL, "vm"],
     "lpc.pcireg.revid: 'first': expected 0 to 0xff, or host"),
    (["-m", "much", *NO_KERNEL, "vm"],
     "memory.size (-m): 'much': expected a number with an optional K, M, G or T, such as 512M"),
    (["-m", "99999999999T", *NO_KERNEL, "vm"],
     "memory.size (-m): '99999999999T': larger than any memory"),
    (["-s", "32,lpc", "vm"], "-s 32,lpc: slot 32: expected 0 to 31"),
    (["-s", "3,warp-drive", "vm"], "-s 3,warp-drive: no such device: see -s help"),
    (["-s", "3,lpc", "-s", "3:0,uart", "vm"], "-s 3:0,uart: pci.0.3.0 is already taken by lpc"),
    (["-l", "com9,stdio", "vm"], "-l com9,stdio: no such device: see -l help"),
    (["-l", "com1,stdio", "-l", "com2,stdio", *NO_KERNEL, "vm"],
     "lpc.com2.path (-l com2): 'stdio': lpc.com1.path uses it already"),
    (["-l", "com1,nonsense", *NO_KERNEL, "vm"],
     "lpc.com1.path (-l com1): 'nonsense': expected stdio, pty, tcp=ip:port, unix=path or /dev/..."),
    (["-G", "1234", *NO_KERNEL, "vm"], "gdb.port (-G): the debug server is not available yet"),
    (["-r", "/dev/null", *NO_KERNEL, "vm"],
     "restore (-r): resuming a snapshot is not available yet"),
]


@pytest.mark.parametrize("args,message", NAMES_AND_VALUES, ids=lambda a: " ".join(a)
                         if isinstance(a, list) else "")
def test_error(args, message):
    assert fails(*args) == message


@pytest.mark.parametrize("size", ["0", "1K", "1048577", "1025K", "1000T"])
def test_memory_that_cannot_be(size):
    assert fails("-m", size, *NO_KERNEL, "vm").startswith("memory.size: ")


def test_memory_beyond_the_host():
    with open("/proc/meminfo") as f:
        kib = {k: int(v.split()[0]) for k, v in (line.split(":") for line in f)}
    more = (kib["MemTotal"] + kib["SwapTotal"]) // 1024 + 1024
    assert " is more than this host's memory" in fails("-m", f"{more}M", *NO_KERNEL, "vm")


def test_engine_that_is_not_there():
    assert re.fullmatch(r"engine: 'warp': expected auto(, \w+)* or \w+",
                        fails("-o", "engine=warp", *NO_KERNEL, "vm"))


def test_pin_to_a_cpu_the_host_has_not():
    assert fails("-p", "0:999", *NO_KERNEL, "vm").startswith("vcpu.0.cpuset: '999': ")


def test_config_line_is_named(tmp_path):
    config = tmp_path / "vm.conf"
    config.write_text("# comment\ncpus=1\nmemory.size 1G\n")
    assert fails("-k", str(config), "vm") == f"{str(config)[:80]}:3: expected variable=value"


def test_file_that_is_no_kernel(tmp_path):
    kernel = tmp_path / "kernel"
    kernel.write_text("not a kernel\n" * 1000)
    assert fails("-o", f"boot.kernel={kernel}", "vm").startswith(f"{kernel}: ")


# --- Nothing is left behind ---


@pytest.mark.parametrize("line", ["/nonexistent", "/dev/null/x", "tcp=nowhere", "tcp=:99999",
                                  "unix=/nonexistent/socket"])
def test_line_that_cannot_be_opened(line):
    assert fails("-l", f"com1,{line}", *NO_KERNEL, "vm").startswith("lpc.com1.path: ")


def test_socket_is_removed_after_an_error(tmp_path):
    path = tmp_path / "console"
    fails("-l", f"com1,unix={path}", "-l", "com2,/nonexistent", *NO_KERNEL, "vm")
    assert not path.exists()


def test_others_socket_is_kept(tmp_path):
    """A socket somebody listens on is not taken over."""
    path = tmp_path / "console"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(path))
        s.listen()
        assert fails("-l", f"com1,unix={path}", *NO_KERNEL, "vm").startswith("lpc.com1.path: ")
        assert stat.S_ISSOCK(path.stat().st_mode)
