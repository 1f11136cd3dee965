# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""ELF files of any machine, section by section."""

import struct
from typing import NamedTuple, Sequence, Tuple, Union

# uname -m: e_machine, bits, byte order, the relocation type of a whole address, of a 32-bit distance
MACHINES = {
    "x86_64": (62, 64, "<", 1, 2),
    "aarch64": (183, 64, "<", 257, 261),
    "ppc64le": (21, 64, "<", 38, 26),
    "ppc64": (21, 64, ">", 38, 26),
    "s390x": (22, 64, ">", 22, 5),
    "i686": (3, 32, "<", 1, 2),
}
ALLOC, WRITE, EXECUTE = 2, 1, 4
NULL, PROGBITS, SYMTAB, STRTAB, RELA, NOBITS = 0, 1, 2, 3, 4, 8


class Section(NamedTuple):
    name: str
    data: bytes = b""
    type: int = PROGBITS
    flags: int = ALLOC
    link: Union[int, str] = 0  # an index, or another section's name
    info: Union[int, str] = 0
    entsize: int = 0


class Symbol(NamedTuple):
    name: str
    section: Union[int, str] = 0  # an index such as 0 (undefined), or a section's name
    value: int = 0
    bind: int = 1


def elf(sections: Sequence[Section], machine: str = "x86_64", kind: int = 1, **header: int) -> bytes:
    """An ELF file of these sections (the null one, .shstrtab and the headers are added).

    ``header`` overrides fields: shnum, shoff, shstrndx, shentsize, e_machine, ei_class, ei_data.
    """
    number, bits, order = MACHINES[machine][:3]
    every = [Section("", type=NULL, flags=0)] + list(sections) + [Section(".shstrtab", type=STRTAB, flags=0)]
    index = {section.name: place for place, section in reversed(list(enumerate(every)))}
    names = b"\0"
    starts = []
    for section in every:
        starts.append(len(names) if section.name else 0)
        names += section.name.encode() + b"\0" if section.name else b""
    every[-1] = every[-1]._replace(data=names)
    size = 64 if bits == 64 else 52
    body = bytearray()
    rows = []
    for section, start in zip(every, starts):
        body += b"\0" * (-(size + len(body)) % 16)
        offset = size + len(body)
        if section.type != NOBITS:
            body += section.data
        link, info = (index[each] if isinstance(each, str) else each for each in (section.link, section.info))
        rows.append(
            struct.pack(
                order + ("IIQQQQIIQQ" if bits == 64 else "10I"),
                start,
                section.type,
                section.flags,
                0,
                offset if start else 0,
                len(section.data),
                link,
                info,
                1,
                section.entsize,
            )
        )
    ident = (
        b"\x7fELF"
        + bytes(
            [
                header.get("ei_class", 2 if bits == 64 else 1),
                header.get("ei_data", 1 if order == "<" else 2),
                1,
            ]
        )
        + bytes(9)
    )
    address = "Q" if bits == 64 else "I"
    fields = (
        kind,
        header.get("e_machine", number),
        1,
        0,
        0,
        header.get("shoff", size + len(body)),
        0,
        size,
        0,
        0,
        header.get("shentsize", 64 if bits == 64 else 40),
        header.get("shnum", len(every)),
        header.get("shstrndx", len(every) - 1),
    )
    return (
        ident + struct.pack(order + "HHI" + address * 3 + "IHHHHHH", *fields) + bytes(body) + b"".join(rows)
    )


def symbol_table(symbols: Sequence[Symbol], sections: Sequence[Section], machine: str) -> Tuple[bytes, bytes]:
    """(.symtab, .strtab)"""
    bits, order = MACHINES[machine][1:3]
    index = {section.name: place + 1 for place, section in reversed(list(enumerate(sections)))}
    names, rows = b"\0", bytes(24 if bits == 64 else 16)
    for symbol in symbols:
        place = index[symbol.section] if isinstance(symbol.section, str) else symbol.section
        if bits == 64:
            rows += struct.pack(order + "IBBHQQ", len(names), symbol.bind << 4, 0, place, symbol.value, 0)
        else:
            rows += struct.pack(order + "IIIBBH", len(names), symbol.value, 0, symbol.bind << 4, 0, place)
        names += symbol.name.encode() + b"\0"
    return rows, names


def retype(module: bytes, name: str, kind: int) -> bytes:
    """The module with a section of that name turned into another type."""
    table, size, count, strings = struct.unpack_from("<Q", module, 40) + struct.unpack_from(
        "<HHH", module, 58
    )
    rows = [table + size * place for place in range(count)]
    names = struct.unpack_from("<Q", module, rows[strings] + 24)[0]
    row = next(
        row
        for row in rows
        if module[names + struct.unpack_from("<I", module, row)[0] :].startswith(name.encode() + b"\0")
    )
    return module[: row + 4] + struct.pack("<I", kind) + module[row + 8 :]
