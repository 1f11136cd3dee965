# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Builds small kernel images: symbol tables of every generation, in every container that a boot loader
starts.
"""

import struct
from typing import Dict, List, NamedTuple, Tuple

from ansible_collections.outoftree.kmod.plugins.module_utils.read.exports import Export
from tests.forge.compressors import BY_LIBRARY

S390_BASE = 0x100000
RISCV_BASE = 0xFFFFFFFF80000000
LOONGARCH_BASE = 0x9000000000200000
X86_BASE = 0xFFFFFFFF81000000


class Layout(NamedTuple):
    """How a kernel keeps its tables: fields of struct kernel_symbol, whether they are relative, bytes of a
    CRC, __kflagstab or two tables.
    """

    fields: int = 3
    relative: bool = True
    crc: int = 4
    flags: bool = False
    order: str = "<"


LAYOUTS = {
    "3.10": Layout(fields=2, relative=False, crc=8),
    "4.18": Layout(fields=2),
    "6.1": Layout(),
    "6.1 ppc64le": Layout(relative=False),
    "6.1 s390x": Layout(relative=False, order=">"),
    "6.1 without versions": Layout(crc=0),
    "7.2": Layout(crc=0, flags=True),
    "7.2 with versions": Layout(flags=True),
    "7.2 s390x": Layout(relative=False, crc=0, flags=True, order=">"),
}


def symbols(layout: Layout) -> Dict[str, Export]:
    """What the built kernels export: plain and GPL-only, with and without a namespace, one name the tail of
    another.
    """
    names = (
        ["kfree", "module_layout", "__kfree", "vfree"]
        + ["plain_%d" % n for n in range(20)]
        + ["a_gpl_%d" % n for n in range(30)]
    )
    found = {}
    for index, name in enumerate(names):
        crc = (0xDEADBEEF * (index + 1)) & 0xFFFFFFFF if layout.crc else None
        namespace = ["", "USB_STORAGE", "module:kvm-intel,kvm-amd"][index % 3] if layout.fields == 3 else ""
        found[name] = Export(crc, "gpl" in name, namespace, "vmlinux")
    return found


def sections(layout: Layout, exports: Dict[str, Export], address: int) -> List[Tuple[str, int, bytes]]:
    """(name, address, bytes) of the tables as the linker puts them: sorted, one behind the other, the strings
    last and merged by their tails.
    """
    plain = sorted(name for name in exports if layout.flags or not exports[name].gpl)
    gpl = sorted(name for name in exports if name not in plain)
    texts: Dict[str, int] = {}
    strings = b""
    for text in sorted(
        list(exports) + [export.namespace for export in exports.values()], key=len, reverse=True
    ):
        if text not in texts:
            at = strings.find(text.encode() + b"\0") if strings else -1
            if at < 0:
                at = len(strings)
                strings += text.encode() + b"\0"
            texts[text] = at
    width = (4 if layout.relative else 8) * layout.fields
    count = len(exports)
    start_of_strings = address + count * (width + layout.crc + layout.flags)
    result = []
    for suffix, names in (("", plain), ("_gpl", gpl)):
        table = b""
        for name in names:
            targets = [
                address & ~0xFFF,
                start_of_strings + texts[name],
                start_of_strings + texts[exports[name].namespace],
            ][: layout.fields]
            for target in targets:
                here = address + len(table)
                table += (
                    struct.pack(layout.order + "i", target - here)
                    if layout.relative
                    else struct.pack(layout.order + "Q", target)
                )
        result.append(("__ksymtab" + suffix, address, table))
        address += len(table)
    for suffix, names in (("", plain), ("_gpl", gpl)):
        if layout.crc:
            table = b"".join(
                struct.pack(layout.order + {4: "I", 8: "Q"}[layout.crc], exports[name].crc) for name in names
            )
            result.append(("__kcrctab" + suffix, address, table))
            address += len(table)
    if layout.flags:
        result.append(("__kflagstab", address, bytes(exports[name].gpl for name in plain)))
        address += count
    assert address == start_of_strings
    return [section for section in result if section[2]] + [("__ksymtab_strings", address, strings)]


BANNER = (
    b"\0Linux version 6.1.0-1-test (someone@somewhere) #1 SMP\0"
    + b"6.1.0-1-test SMP preempt mod_unload modversions \0"
)
NOISE = b"\x7f%s: module_layout\0kfree\0\x01\x02\xff" + bytes(range(256)) * 4


def vmlinux(layout: Layout, exports: Dict[str, Export], order: str = "<", bits: int = 64) -> bytes:
    """An ELF kernel with named sections, at addresses unlike their file offsets."""
    parts = [(".text", X86_BASE & (1 << bits) - 1, NOISE + BANNER)] + sections(
        layout, exports, X86_BASE + 0x100000 & (1 << bits) - 1
    )
    names = b"\0" + b"".join(name.encode() + b"\0" for name, _unused, _unused in parts) + b".shstrtab\0"
    parts.append((".shstrtab", 0, names))
    header = struct.Struct(order + ("IIQQQQIIQQ" if bits == 64 else "IIIIIIIIII"))
    head = 64 if bits == 64 else 52
    body, headers = b"", header.pack(*[0] * 10)
    for name, address, data in parts:
        headers += header.pack(
            names.index(b"\0" + name.encode() + b"\0") + 1,
            1,
            2,
            address,
            head + len(body),
            len(data),
            0,
            0,
            1,
            0,
        )
        body += data
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "<" else 2, 1]).ljust(12, b"\0")
    fields = struct.pack(
        order + ("HHIQQQIHHHHHH" if bits == 64 else "HHIIIIIHHHHHH"),
        2,
        62,
        1,
        0,
        0,
        head + len(body),
        0,
        head,
        0,
        0,
        header.size,
        len(parts) + 1,
        len(parts),
    )
    return ident + fields + body + headers


def raw(layout: Layout, exports: Dict[str, Export], base: int = 0) -> bytes:
    """A kernel without sections, as ``objcopy -O binary`` leaves it."""
    head = (b"\0" * 64 + NOISE + BANNER).ljust(0x2000, b"\xcc")
    return (
        head
        + b"".join(data for _unused, _unused, data in sections(layout, exports, base + len(head)))
        + b"\xfe" * 64
        + NOISE
    )


def arm64(layout: Layout, exports: Dict[str, Export]) -> bytes:
    image = raw(layout, exports)
    return b"MZ" + image[2:0x38] + b"ARM\x64" + image[0x3C:]


def riscv(layout: Layout, exports: Dict[str, Export]) -> bytes:
    image = raw(layout, exports, RISCV_BASE)
    return image[:0x38] + b"RSC\x05" + image[0x3C:]


def loongarch(layout: Layout, exports: Dict[str, Export]) -> bytes:
    image = raw(layout, exports, LOONGARCH_BASE)
    return (
        b"MZ"
        + image[2:24]
        + struct.pack("<Q", 0x200000)
        + image[32:0x38]
        + b"\xcd\x23\x82\x81"
        + image[0x3C:]
    )


def bzimage(payload: bytes) -> bytes:
    """x86: two setup sectors, some code, the payload (with its unpacked size behind it, as the kernel build
    adds), a signature.
    """
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    struct.pack_into("<II", setup, 0x248, 0x70, len(payload))
    return bytes(setup) + b"\x90" * 0x70 + payload + b"signature"


def zboot(payload: bytes) -> bytes:
    return (
        b"MZ\0\0zimg"
        + struct.pack("<IIII8s", 0x40, len(payload), 0, 0, b"gzip").ljust(0x38, b"\0")
        + payload
        + b"\0" * 16
    )


def s390(payload: bytes, size: int) -> bytes:
    """s390x: code that holds bytes like a magic, then the payload and its unpacked size."""
    head = bytearray(0x11000)
    head[0x10008:0x1000E] = b"S390EP"
    return (
        bytes(head)
        + b"\xfd7zXZ\0 is compared with\x1f\x8b\x08"
        + payload
        + struct.pack("<I", size)
        + b"\0" * 100
    )


def payload(kind: str, data: bytes) -> bytes:
    """What the kernel build puts into an image: compressed, and but for gzip with the unpacked size behind
    it.
    """
    return BY_LIBRARY[kind](data) + (b"" if kind == "gzip" else struct.pack("<I", len(data)))
