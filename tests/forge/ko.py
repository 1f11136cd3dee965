# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel modules: small ELF files with the tables of real ones."""

import struct
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

from tests.forge.elf import (
    ALLOC,
    EXECUTE,
    MACHINES,
    RELA,
    STRTAB,
    SYMTAB,
    WRITE,
    Section,
    Symbol,
    elf,
    symbol_table,
)

RELEASE = "6.1.0-9-amd64"
FLAGS = " SMP preempt mod_unload modversions "
LAYOUT = ("module_layout", 0x11)


class Export(NamedTuple):
    name: str
    crc: Optional[int] = None
    gpl: bool = False
    namespace: str = ""


def versions_table(versions: Sequence[Tuple[str, int]], machine: str = "x86_64") -> bytes:
    """A __versions of struct modversion_info."""
    bits, order = MACHINES[machine][1:3]
    form = order + ("Q56s" if bits == 64 else "I60s")
    return b"".join(struct.pack(form, crc, name.encode()) for name, crc in versions)


def chained_table(versions: Sequence[Tuple[str, int]]) -> bytes:
    """A __versions as Ubuntu has it."""
    found = b""
    for name, crc in versions:
        text = name.encode() + b"\0" * (4 - len(name) % 4)
        found += struct.pack("<II", 8 + len(text), crc) + text
    return found


def ko(
    name: str = "vendor",
    needs: Sequence[Tuple[str, int]] = (LAYOUT, ("printk", 0x22)),
    *,
    release: str = RELEASE,
    flags: str = FLAGS,
    modinfo: Optional[Dict[str, Optional[str]]] = None,
    imports: Sequence[str] = (),
    firmware: Sequence[str] = (),
    depends: str = "",
    filler: bytes = b"",
    aliases: Sequence[str] = (),
    weak: Sequence[str] = (),
    common: Sequence[str] = (),
    unlisted: Sequence[str] = (),
    versions: Optional[bytes] = None,
    versioned: bool = True,
    versions_flags: int = ALLOC,
    ext_versions: Optional[Sequence[Tuple[str, int]]] = None,
    exports: Sequence[Union[Export, Tuple[str, int]]] = (),
    export_form: str = "numbers",
    struct_size: int = 896,
    init: Optional[int] = 312,
    exit: Optional[int] = 848,
    machine: str = "x86_64",
    extra: Sequence[Section] = (),
    without: Sequence[str] = (),
    kind: int = 1,
    **header: int,
) -> bytes:
    """A kernel module.

    needs: (symbol, crc) as undefined symbols and in __versions (module_layout is in the latter alone);
    unlisted: undefined symbols without a version; weak: those of the needed that are weak. filler: what its
    .data holds. modinfo: keys to add or to replace, None takes one out. export_form: "numbers" (5.19 on),
    "symbols" (before), "flags" (7.x) or "none" (no CRCs). without: names of sections to leave out.
    """
    order = MACHINES[machine][2]
    info: Dict[str, Optional[str]] = {
        "license": "GPL",
        "depends": depends,
        "retpoline": "Y",
        "name": name,
        "vermagic": release + flags,
    }
    info.update(modinfo or {})
    lines = ["%s=%s" % each for each in info.items() if each[1] is not None]
    lines += (
        ["import_ns=" + each for each in imports]
        + ["firmware=" + each for each in firmware]
        + ["alias=" + each for each in aliases]
    )
    this = bytearray(struct_size)
    at = 24 if MACHINES[machine][1] == 64 else 12
    this[at : at + len(name)] = name.encode()
    sections: List[Section] = [
        Section(".text", b"\xcc" * 16, flags=ALLOC | EXECUTE),
        Section(".modinfo", b"\0".join(map(str.encode, lines)) + b"\0"),
    ]
    if machine == "aarch64":
        sections += [Section(".plt", bytes(8)), Section(".init.plt", bytes(8))]
    if versions is None and versioned:
        versions = versions_table(needs, machine)
    if versions is not None:
        sections.append(Section("__versions", versions, flags=versions_flags))
    if ext_versions is not None:
        sections.append(
            Section(
                "__version_ext_crcs", b"".join(struct.pack(order + "I", crc) for _unused, crc in ext_versions)
            )
        )
        sections.append(
            Section(
                "__version_ext_names", b"".join(symbol.encode() + b"\0" for symbol, _unused in ext_versions)
            )
        )
    symbols = [
        Symbol(symbol, bind=2 if symbol in weak else 1)
        for symbol, _unused in needs
        if symbol != "module_layout"
    ]
    symbols += [Symbol(symbol, bind=2 if symbol in weak else 1) for symbol in unlisted] + [
        Symbol(symbol, 0xFFF2) for symbol in common
    ]
    symbols += [Symbol("init_module", ".text"), Symbol("cleanup_module", ".text", 8)]
    relocations: Dict[str, List[Tuple[int, str, int, int]]] = {}
    _export([Export(*each) for each in exports], export_form, machine, sections, symbols, relocations)
    sections.append(Section(".gnu.linkonce.this_module", bytes(this), flags=ALLOC | WRITE))
    places = [
        (offset, symbol, 0, MACHINES[machine][3])
        for offset, symbol in ((init, "init_module"), (exit, "cleanup_module"))
        if offset is not None
    ]
    relocations[".gnu.linkonce.this_module"] = places
    sections += [Section(".data", filler, flags=ALLOC | WRITE)] * bool(filler) + list(extra)
    sections = [section for section in sections if section.name not in without]
    table, names = symbol_table(symbols, sections, machine)
    number = {symbol.name: place + 1 for place, symbol in enumerate(symbols)}
    for target, entries in relocations.items():
        if entries and target not in without:
            sections.append(_relocations(target, entries, number, machine))
    sections += [
        section
        for section in (
            Section(".symtab", table, SYMTAB, 0, ".strtab", 1, 24),
            Section(".strtab", names, STRTAB, 0),
        )
        if section.name not in without
    ]
    return elf(sections, machine, kind, **header)


def _relocations(
    target: str, entries: Sequence[Tuple[int, str, int, int]], number: Dict[str, int], machine: str
) -> Section:
    bits, order = MACHINES[machine][1:3]
    form = order + ("QQq" if bits == 64 else "IIi")
    shift = 32 if bits == 64 else 8
    data = b"".join(
        struct.pack(form, offset, number[symbol] << shift | kind, addend)
        for offset, symbol, addend, kind in entries
    )
    return Section(".rela" + target, data, RELA, 0x40, ".symtab", target, 24)


def _export(
    exports: Sequence[Export],
    form: str,
    machine: str,
    sections: List[Section],
    symbols: List[Symbol],
    relocations: Dict[str, List[Tuple[int, str, int, int]]],
) -> None:
    order, whole, distance = MACHINES[machine][2], MACHINES[machine][3], MACHINES[machine][4]
    strings = b""
    for suffix in ("", "_gpl"):
        chosen = [each for each in exports if form == "flags" or each.gpl == bool(suffix)]
        if not chosen or (form == "flags" and suffix):
            continue
        table = "__ksymtab" + suffix
        relocations[table] = []
        crcs = b""
        for place, each in enumerate(chosen):
            symbols += [
                Symbol(each.name, ".text"),
                Symbol("__kstrtab_" + each.name, "__ksymtab_strings", len(strings), 0),
            ]
            strings += each.name.encode() + b"\0"
            symbols.append(Symbol("__kstrtabns_" + each.name, "__ksymtab_strings", len(strings), 0))
            strings += each.namespace.encode() + b"\0"
            relocations[table] += [
                (12 * place, each.name, 0, distance),
                (12 * place + 4, "__kstrtab_" + each.name, 0, distance),
                (12 * place + 8, "__kstrtabns_" + each.name, 0, distance),
            ]
            crcs += struct.pack(order + "I", each.crc or 0) if form != "symbols" else bytes(4)
            if form == "symbols":
                symbols.append(Symbol("__crc_" + each.name, 0xFFF1, each.crc or 0))
                relocations.setdefault("__kcrctab" + suffix, []).append(
                    (4 * place, "__crc_" + each.name, 0, whole)
                )
        sections.append(Section(table, bytes(12 * len(chosen))))
        if form != "none" and any(each.crc is not None for each in chosen):
            sections.append(Section("__kcrctab" + suffix, crcs))
        if form == "flags":
            sections.append(Section("__kflagstab", bytes(each.gpl for each in chosen)))
    if strings:
        sections.append(Section("__ksymtab_strings", strings))


def relocated(kind: int) -> bytes:
    """A module with one relocation of that type in its code, which is not zero there."""
    return ko(
        extra=[Section(".rela.text", struct.pack("<QQq", 0, 1 << 32 | kind, 0), RELA, 0x40, 0, ".text", 24)]
    )
