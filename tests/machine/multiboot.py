"""Small guests made of bytes: multiboot kernels in flat 32-bit protected mode, interrupts off."""
import struct

BASE = 0x100000
HEADER_SIZE = 48

CLI = b"\xfa"
STI = b"\xfb"
HLT = b"\xf4"
SPIN = b"\xeb\xfe"  # jmp to itself
UD2 = b"\x0f\x0b"


def out8(port, value):
    """mov dx, port; mov al, value; out dx, al"""
    return b"\x66\xba" + struct.pack("<H", port) + b"\xb0" + bytes([value]) + b"\xee"


def out16(port, value):
    return b"\x66\xba" + struct.pack("<H", port) + b"\x66\xb8" + struct.pack("<H", value) + b"\x66\xef"


def in8(port):
    return b"\x66\xba" + struct.pack("<H", port) + b"\xec"


def rdmsr(msr):
    """To EDX:EAX."""
    return b"\xb9" + struct.pack("<I", msr) + b"\x0f\x32"


def bit_to_al(number):
    """AL becomes 1 if the bit of EAX is set, else 0."""
    return b"\xc1\xe8" + bytes([number]) + b"\x24\x01"


def compare_to_al(address, value):
    """AL becomes 1 if the four bytes at address are value, else 0."""
    return (b"\x81\x3d" + struct.pack("<I", address) + value + b"\x0f\x94\xc0")


def text(string, port=0x3f8):
    """Writes to a serial port, which takes everything: there is no line to be slow."""
    return b"".join(out8(port, c) for c in string.encode())


# Ends with status 1 if AL is 0, 3 if it is 1 (needs -l pc-testdev).
TELL_AL = b"\x66\xba\xf4\x00\xee" + SPIN
# An empty interrupt table, then a breakpoint: #BP, #GP, #DF and then a triple fault.
TRIPLE_FAULT = b"\x0f\x01\x1d" + struct.pack("<I", BASE + 36) + b"\xcc"
# PM1a_CNT: SLP_EN with the sleep type of S5.
POWEROFF = out16(0x404, 5 << 10 | 1 << 13) + SPIN
RESET = out8(0xcf9, 6) + SPIN


def kernel(path, code):
    """Writes a kernel that runs code to path and returns the option that boots it."""
    magic, flags = 0x1badb002, 1 << 16
    size = HEADER_SIZE + len(code)
    header = struct.pack("<IIIIIIIII", magic, flags, -(magic + flags) & 0xffffffff, BASE, BASE,
                         BASE + size, BASE + size, BASE + HEADER_SIZE, 0)
    with open(path, "wb") as f:
        f.write(header.ljust(HEADER_SIZE, b"\0") + code)
    return f"boot.kernel={path}"
