# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Relocatable ELF files as the kernel's loader sees them.

The loader looks neither at EI_CLASS nor at EI_DATA: it decodes with its own word size and byte order. So both
follow from e_machine here, and e_ident decides only where a machine has several. What the loader would
stumble over is a Fault, not an error: which kernel refuses it for which fault is for the judge to say.
"""

import struct
import sys
from array import array
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import KmodError

# include/uapi/linux/elf.h. pyelftools' tables grow from version to version, and a name that one lacks is an
# error there.
NULL, PROGBITS, SYMTAB, STRTAB, RELA, NOBITS, REL = 0, 1, 2, 3, 4, 8, 9  # SHT_
ALLOC = 2  # SHF_
RELOCATABLE = 1  # ET_REL
UNDEF, ABSOLUTE, COMMON, LIVEPATCH = 0, 0xFFF1, 0xFFF2, 0xFF20  # SHN_
WEAK = 2  # STB_

# What Linux runs on: e_machine (include/uapi/linux/elf-em.h), bits, byte order uname -m. The order matters
# where e_ident
# is no help.
_MACHINES = (
    (62, 64, "<", "x86_64"),
    (3, 32, "<", "i686"),
    (183, 64, "<", "aarch64"),
    (40, 32, "<", "armv7l"),
    (21, 64, "<", "ppc64le"),
    (21, 64, ">", "ppc64"),
    (20, 32, ">", "ppc"),
    (22, 64, ">", "s390x"),
    (243, 64, "<", "riscv64"),
    (243, 32, "<", "riscv32"),
    (258, 64, "<", "loongarch64"),
    (8, 64, "<", "mips64el"),
    (8, 64, ">", "mips64"),
    (8, 32, "<", "mipsel"),
    (8, 32, ">", "mips"),
    (43, 64, ">", "sparc64"),
    (15, 32, ">", "parisc"),
    (15, 64, ">", "parisc64"),
    (4, 32, ">", "m68k"),
    (42, 32, "<", "sh4"),
)


class Fault(NamedTuple):
    """Something in a file that the loader of some kernel generation refuses; ``code`` as in a verdict's
    findings.
    """

    code: str
    message: str


class Section(NamedTuple):
    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    entsize: int


class Symbol(NamedTuple):
    name: str
    bind: int
    shndx: int
    value: int


class Relocation(NamedTuple):
    offset: int
    type: int
    symbol: int
    addend: int


class Elf(NamedTuple):
    """``machine`` is what ``uname -m`` says there ("e_machine 77" for what Linux does not run on), ``order``
    is struct's byte order.
    """

    data: bytes
    machine: str
    bits: int
    order: str
    sections: Tuple[Section, ...]
    faults: Tuple[Fault, ...]
    odd_ident: bool = False  # its class and byte order say something else than its machine

    def find(self, name: str) -> Optional[Section]:
        """The first section of that name which gets loaded (``kernel/module/main.c: find_sec``)."""
        return next(
            (section for section in self.sections if section.name == name and section.flags & ALLOC), None
        )

    def find_any(self, name: str) -> Optional[Section]:
        return next((section for section in self.sections if section.name == name), None)

    def contents(self, section: Optional[Section]) -> bytes:
        """What the section holds in the file: for a NOBITS one too, since the loader's tables are read
        without looking at the type.
        """
        return self.data[section.offset : section.offset + section.size] if section else b""


class Header(NamedTuple):
    """What counts of an Elf32_Ehdr or Elf64_Ehdr, behind e_ident."""

    type: int
    sections_at: int
    section_size: int
    sections: int
    names: int  # index of the section of the sections' names


def _header(data: bytes, bits: int, order: str) -> Header:
    form = order + ("H2xI8x8xQI2x2x2x" if bits == 64 else "H2xI4x4xII2x2x2x") + "HHH"
    kind, _version, *rest = struct.unpack_from(form, data, 16)
    return Header(kind, rest[0], *rest[2:])


def _type_name(number: int) -> str:
    """``ET_DYN``, by pyelftools' table, which few ever need. Error: PYELFTOOLS_MISSING."""
    try:
        from ansible.module_utils.elftools.elf.enums import ENUM_E_TYPE  # type: ignore[import-not-found]
    except ImportError:
        try:
            from elftools.elf.enums import ENUM_E_TYPE
        except ImportError:
            raise KmodError(
                "pyelftools",
                "is not installed",
                "Install it: pip install 'pyelftools>=0.27,<0.33'",
                "PYELFTOOLS_MISSING",
            ) from None
    names = {value: name for name, value in ENUM_E_TYPE.items() if name != "_default_"}
    return str(names.get(number, number))


def machine_of(data: bytes) -> Optional[Tuple[str, int, str]]:
    """(machine, bits, byte order) of an ELF header; None for a machine that Linux does not run on."""
    ident = (64 if data[4:5] == b"\2" else 32, ">" if data[5:6] == b"\2" else "<")
    known = [
        (name, bits, order)
        for machine, bits, order, name in _MACHINES
        if struct.unpack_from(order + "H", data, 18)[0] == machine
    ]
    return next((each for each in known if each[1:] == ident), known[0] if known else None)


def parse(data: bytes) -> Elf:
    """Any bytes at all. Faults stop at the first that leaves nothing to be read behind it.

    Error: PYELFTOOLS_MISSING.
    """
    if not data:
        return _faulty(data, "FILE_EMPTY", "the file is empty")
    if data[:4] != b"\x7fELF"[: len(data)]:
        return _faulty(data, "ELF_MAGIC", "not an ELF file")
    if len(data) < 52:
        return _faulty(data, "ELF_TRUNCATED", "ends within the ELF header (%d bytes)" % len(data))
    machine = machine_of(data)
    if machine is None:
        return _faulty(data, "ELF_MACHINE", "made for a machine that Linux does not run on")
    name, bits, order = machine
    if len(data) < bits:  # Elf64_Ehdr has 64 bytes
        return _faulty(
            data, "ELF_TRUNCATED", "ends within the ELF header (%d bytes)" % len(data), machine=machine
        )
    header = _header(data, bits, order)
    faults = []
    odd = data[4:6] != bytes([bits // 32, 1 if order == "<" else 2])
    if header.type != RELOCATABLE:
        faults.append(Fault("ELF_TYPE", "not a relocatable file (%s)" % _type_name(header.type)))
    sections: Tuple[Section, ...] = ()
    fault = _header_fault(header, len(data), bits)
    if fault is None:
        sections, fault = _sections(data, header, bits=bits, order=order)
    return Elf(
        data,
        name,
        bits,
        order=order,
        sections=sections,
        faults=tuple(faults + ([fault] if fault else [])),
        odd_ident=odd,
    )


def _faulty(data: bytes, code: str, message: str, *, machine: Tuple[str, int, str] = ("", 64, "<")) -> Elf:
    name, bits, order = machine
    return Elf(data, name, bits, order=order, sections=(), faults=(Fault(code, message),))


def _header_fault(header: Header, size: int, bits: int) -> Optional[Fault]:
    """kernel/module/main.c: elf_validity_ehdr, elf_validity_cache_sechdrs"""
    expected = 64 if bits == 64 else 40
    if header.section_size != expected:
        return Fault("ELF_SHDR", "section headers of %d bytes, not %d" % (header.section_size, expected))
    if header.sections_at >= size or header.sections * expected > size - header.sections_at:
        return Fault(
            "ELF_TRUNCATED",
            "the section headers (%d at byte %d) lie outside of the file's %d bytes: it is cut off or damaged"
            % (header.sections, header.sections_at, size),
        )
    if header.sections == 0:
        return Fault("ELF_SHDR", "no section headers")
    if not 0 < header.names < header.sections:
        return Fault(
            "ELF_SHDR",
            "the index of the section names (%d) is none of the %d sections"
            % (header.names, header.sections),
        )
    return None


def _sections(
    data: bytes, header: Header, *, bits: int, order: str
) -> Tuple[Tuple[Section, ...], Optional[Fault]]:
    """kernel/module/main.c: elf_validity_cache_sechdrs, elf_validity_cache_secstrings"""
    form = struct.Struct(order + ("IIQQQQIIQQ" if bits == 64 else "IIIIIIIIII"))
    start, count, size = header.sections_at, header.sections, len(data)
    rows = [form.unpack_from(data, start + index * form.size) for index in range(count)]
    for index, row in enumerate(rows):
        if index and row[1] not in (NULL, NOBITS) and (row[4] > size or row[5] > size - row[4]):
            return (), Fault(
                "ELF_SECTION_BOUNDS",
                "section %d (type %d) lies outside of the file's %d bytes" % (index, row[1], size),
            )
    names = rows[header.names]
    table = data[names[4] : names[4] + names[5]]
    if not table or table[-1]:
        return (), Fault("ELF_SHDR", "the section names do not end with a NUL")
    if any(row[0] >= len(table) for row in rows):
        return (), Fault("ELF_SHDR", "a section's name lies outside of the section names")
    odd = rows[0][1] != NULL or rows[0][3] or rows[0][5]
    return (
        tuple(Section._make((text(table, row[0]), *row[1:8], row[9])) for row in rows),
        Fault("ELF_SECTION_NULL", "the first section is not the empty one") if odd else None,
    )


def text(table: bytes, start: int) -> str:
    """The NUL-terminated string at ``start``; bytes that are no UTF-8 are spelt out."""
    end = table.find(b"\0", start)
    return table[start : end if end >= 0 else len(table)].decode("utf-8", "backslashreplace")


def strings(table: bytes) -> List[str]:
    """NUL-separated strings, without the empty ones."""
    return [piece.decode("utf-8", "backslashreplace") for piece in table.split(b"\0") if piece]


class SymbolTable(Sequence[Symbol]):
    """The symbol table's entries in their order, the first (null) one included; each is decoded when it is
    asked for.
    """

    def __init__(self, elf: Elf) -> None:
        table = next(
            (
                section
                for section in elf.sections
                if section.type == SYMTAB and section.link < len(elf.sections)
            ),
            None,
        )
        form = struct.Struct(elf.order + ("IBxHQ8x" if elf.bits == 64 else "II4xBxH"))
        data = elf.contents(table)
        rows = list(form.iter_unpack(data[: len(data) // form.size * form.size]))
        self.rows = (
            rows if elf.bits == 64 else [(name, info, shndx, value) for name, value, info, shndx in rows]
        )
        self.names = elf.contents(elf.sections[table.link]) if table else b""

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        name, info, shndx, value = self.rows[index]
        return Symbol(text(self.names, name), info >> 4, shndx, value)

    @property
    def sections(self) -> Set[int]:
        return {row[2] for row in self.rows}

    @property
    def odd_names(self) -> bool:
        """Whether a symbol's name lies outside of the string table."""
        return bool(self.rows) and max(row[0] for row in self.rows) >= len(self.names)


def relocations(elf: Elf, section: Section) -> Iterator[Relocation]:
    """The entries of a RELA or REL section; an addend that REL keeps in place is 0 here."""
    data = elf.contents(section)
    word = "Q" if elf.bits == 64 else "I"
    form = struct.Struct(elf.order + word * 2 + (word.lower() if section.type == RELA else ""))
    shift, mask = (32, 0xFFFFFFFF) if elf.bits == 64 else (8, 0xFF)
    for entry in form.iter_unpack(data[: len(data) // form.size * form.size]):
        yield Relocation(
            entry[0], entry[1] & mask, entry[1] >> shift, entry[2] if section.type == RELA else 0
        )


def places(elf: Elf, section: Section) -> Tuple["array[int]", "array[int]"]:
    """(offsets, types) of a little-endian 64-bit RELA section's entries: all that most are looked at for, and
    there are many.
    """
    data = elf.contents(section)
    data = data[: len(data) // 24 * 24]
    offsets, types = array("Q", data)[::3], array("I", data)[2::6]
    if sys.byteorder == "big":
        offsets.byteswap()
        types.byteswap()
    return offsets, types


def in_place(elf: Elf, section: Optional[Section], offset: int) -> int:
    """The addend that a REL relocation keeps where it applies (``Elf32_Rel``)."""
    data = elf.contents(section)[offset : offset + 4]
    return struct.unpack(elf.order + "i", data)[0] if len(data) == 4 else 0


def words(elf: Elf, section: Optional[Section], size: int) -> List[int]:
    """A section as an array of unsigned numbers of ``size`` bytes; an incomplete last one is left out."""
    data = elf.contents(section)
    count = len(data) // size
    return list(
        struct.unpack("%s%d%s" % (elf.order, count, {1: "B", 4: "I", 8: "Q"}[size]), data[: count * size])
    )


def by_name(elf: Elf) -> Dict[str, Section]:
    """The loaded sections by name, the first where several share it."""
    return {section.name: section for section in reversed(elf.sections) if section.flags & ALLOC}
