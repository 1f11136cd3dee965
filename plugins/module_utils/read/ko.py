# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reading a module file: its tables as the kernel's loader takes them."""

import hashlib
import struct
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from .. import compression
from ..host import Host
from . import btf, elf, names
from . import faults as faults_of
from . import signature as signatures
from .elf import Elf, Fault
from .kernel_module import Exported, KernelModule, Undefined, Version

LIMIT = 192 << 20  # the largest modules (amdgpu with its debug information left in) stay below
EXECUTE = 4  # SHF_EXECINSTR
MODVERSION = 64  # bytes of a struct modversion_info: an unsigned long and a name (include/linux/module.h)


def read(host: Host, path: str, structs: bool = False) -> KernelModule:
    """The module in a file, compressed or not; ``structs`` as for ``parse``.

    Errors: those of ``Host.open`` and of ``compression.decompress``.
    """
    return unpacked(host.read(path, LIMIT), path, structs)


def unpacked(data: bytes, path: str, structs: bool = False) -> KernelModule:
    """The module in the bytes of a file, compressed or not. Errors: those of ``compression.decompress``."""
    return parse(compression.decompress(data, path, LIMIT), path, structs)._replace(packed=_packed(data))


def _packed(data: bytes) -> str:
    """The xz file format, 2.1.1.2: the kind of check is the second byte of the stream's flags."""
    kind = compression.detect(data) or ""
    return "xz, check %d" % (data[7] & 15) if kind == "xz" and data[7] & 15 > 1 else kind


def parse(data: bytes, path: str, structs: bool = False) -> KernelModule:
    """The module in the uncompressed bytes of a file; with ``structs`` also the types that it refers to, which
    take as long as all the rest and are no part of a verdict.
    """
    body, signature = signatures.split(data)
    file = elf.parse(body)
    faults = list(file.faults)
    module = KernelModule(
        path,
        names.module_of(path),
        hashlib.sha256(data).hexdigest(),
        len(data),
        file.machine,
        signature=signature,
        odd_ident=file.odd_ident,
    )
    if file.sections:
        faults += faults_of.of_sections(file) + faults_of.of_relocations(file)
        module = _tables(module, file, faults, structs)
    return module._replace(faults=tuple(faults))


def brief(data: bytes, path: str) -> KernelModule:
    """The module in these bytes with its .modinfo and versions alone: what in-tree modules are asked to check
    other sources by.
    """
    file = elf.parse(data)
    return KernelModule(
        path,
        names.module_of(path),
        "",
        len(data),
        file.machine,
        modinfo=_modinfo(file),
        versions=_versions_of(file),
        ext_versions=_ext_versions(file, []),
    )


def exports(data: bytes, path: str) -> List[Exported]:
    """What the module in these bytes exports and nothing else of it: a kernel has a thousand of them, some
    with 100 000 local labels (RISC-V).
    """
    file = elf.parse(data)
    return list(_exports(file, elf.SymbolTable(file)))


def _tables(module: KernelModule, file: Elf, faults: List[Fault], structs: bool) -> KernelModule:
    sections = elf.by_name(file)
    modinfo = _modinfo(file)
    this = file.find_any(faults_of.THIS_MODULE)
    symbols = elf.SymbolTable(file)
    name = (
        next((value for key, value in modinfo if key == "name"), None)
        or _struct_name(file, this)
        or module.name
    )
    faults += faults_of.of_symbols(file, symbols)
    entries = {symbol.name: offset for offset, symbol, _unused in _targets(file, this, symbols)}
    exported = [suffix for suffix in ("", "_gpl") if _size(file, "__ksymtab" + suffix)]
    return module._replace(
        name=name.replace("-", "_"),
        modinfo=modinfo,
        undefined=_undefined(symbols),
        versions=_versions_of(file),
        chained_versions=_chained_versions(file) is not None,
        ext_versions=_ext_versions(file, faults),
        exports=tuple(_exports(file, symbols)),
        exports_crcs=all("__kcrctab" + suffix in sections for suffix in exported),
        exports_flags="__kflagstab" in sections,
        struct_size=this.size if this else 0,
        init_offset=entries.get("init_module"),
        exit_offset=entries.get("cleanup_module"),
        features=tuple(_features(file)),
        **_btf(file, structs),
    )


def _modinfo(file: Elf) -> Tuple[Tuple[str, str], ...]:
    return tuple(
        (key, value)
        for key, _unused, value in (
            entry.partition("=") for entry in elf.strings(file.contents(file.find_any(".modinfo")))
        )
    )


def _struct_name(file: Elf, this: Optional[elf.Section]) -> str:
    """``struct module.name``: behind the state and the list head (``include/linux/module.h``)."""
    start = 24 if file.bits == 64 else 12
    return elf.text(file.contents(this)[: start + 64 - file.bits // 8], start)


def _undefined(symbols: elf.SymbolTable) -> Tuple[Undefined, ...]:
    """What ``kernel/module/main.c: simplify_symbols`` would look up, in its order."""
    wanted = (elf.UNDEF, elf.COMMON)
    found = (symbols[index] for index, row in enumerate(symbols.rows) if row[2] in wanted and index)
    return tuple(
        Undefined(symbol.name, symbol.bind == elf.WEAK, symbol.shndx == elf.COMMON)
        for symbol in found
        if symbol.shndx == elf.UNDEF or not symbol.name.startswith("__gnu_lto")
    )


def _versions_of(file: Elf) -> Optional[Tuple[Version, ...]]:
    return _chained_versions(file) or (_versions(file) if file.find("__versions") else None)


def _versions(file: Elf) -> Tuple[Version, ...]:
    data = file.contents(file.find("__versions"))
    form = struct.Struct(file.order + ("Q56s" if file.bits == 64 else "I60s"))
    return tuple(
        Version(elf.text(name, 0), crc)
        for crc, name in form.iter_unpack(data[: len(data) // MODVERSION * MODVERSION])
    )


def _chained_versions(file: Elf) -> Optional[Tuple[Version, ...]]:
    """Ubuntu's form, from 6.2 on: u32 offset of the next entry, u32 crc, name (its
    ``kernel/module/version.c``). None if this is not it.
    """
    data = file.contents(file.find("__versions"))
    found, start = [], 0
    while start < len(data):
        step, crc = struct.unpack_from(file.order + "II", data, start) if start + 9 <= len(data) else (0, 0)
        name = data[start + 8 : start + step]
        if (
            step < 12
            or step % 4
            or len(name) < step - 8
            or name[-1:] != b"\0"
            or not step - 12 <= len(name.rstrip(b"\0")) > 0
        ):
            return None
        found.append(Version(elf.text(name, 0), crc))
        start += step
    return tuple(found) or None


_ENDBR64 = b"\xf3\x0f\x1e\xfa"  # how functions start that may be called indirectly


def _features(file: Elf) -> Iterator[str]:
    code = [section for section in file.sections if section.flags & EXECUTE and section.size]
    if any(_ENDBR64 in file.contents(section) for section in code):
        yield "ibt"
    if file.find_any(".kcfi_traps"):
        yield "kcfi"
    if not code:
        yield "no code"


def _btf(file: Elf, structs: bool) -> Dict[str, Any]:
    """The fields of its BTF.

    Only what is wrong with the header is a fault (kernel/bpf/btf.c: btf_parse_hdr): new kinds of types keep
    coming.
    """
    own, base = (file.contents(file.find_any(name)) for name in (".BTF", ".BTF.base"))
    if not file.find_any(".BTF"):
        return {}
    try:
        btf.check_header(own, file.order)
    except btf.BtfError:
        return {"btf": "bad"}
    if not structs:
        return {"btf": "ok"}
    try:
        if base:
            return {"btf": "ok", "btf_base": tuple(btf.Btf(base, file.order).sized())}
        return {"btf": "ok", "btf_ids": tuple(sorted(btf.Btf(own, file.order).referred()))}
    except btf.BtfError:
        return {"btf": "ok"}


def _ext_versions(file: Elf, faults: List[Fault]) -> Optional[Tuple[Version, ...]]:
    """kernel/module/main.c: elf_validity_cache_index_versions; kernel/module/version.c: modversion_ext_start"""
    crcs, names = file.find("__version_ext_crcs"), file.find("__version_ext_names")
    if crcs is None and names is None:
        return None
    table = file.contents(names)
    found = table.split(b"\0")[:-1]
    numbers = elf.words(file, crcs, 4)
    if crcs is None or names is None or len(found) < len(numbers) or (table and table[-1]):
        faults.append(
            Fault("MODVERSIONS_EXT_BAD", "%d extended versions for %d names" % (len(numbers), len(found)))
        )
    return tuple(Version(name.decode("utf-8", "backslashreplace"), crc) for name, crc in zip(found, numbers))


def _exports(file: Elf, symbols: Sequence[elf.Symbol]) -> Iterator[Exported]:
    """The entries of __ksymtab and __ksymtab_gpl, by their relocations: value, name and perhaps namespace
    (``struct kernel_symbol``).
    """
    flags = file.contents(file.find("__kflagstab"))
    strings = next(
        (index for index, section in enumerate(file.sections) if section.name == "__ksymtab_strings"), -1
    )
    for suffix in ("", "_gpl"):
        entries: List[List[str]] = []
        for _unused, symbol, addend in _targets(file, file.find("__ksymtab" + suffix), symbols):
            if symbol.shndx != strings:
                entries.append([])
            elif entries:
                entries[-1].append(elf.text(file.contents(file.sections[strings]), symbol.value + addend))
        named = [entry for entry in entries if entry]
        crcs = _crcs(file, file.find("__kcrctab" + suffix), symbols, count=len(named))
        for place, entry in enumerate(named):
            gpl = bool(flags[place] & 1) if place < len(flags) else bool(suffix)
            yield Exported(entry[0], crcs[place], gpl, entry[1] if len(entry) > 1 else "")


def _crcs(
    file: Elf, section: Optional[elf.Section], symbols: Sequence[elf.Symbol], *, count: int
) -> List[Optional[int]]:
    """A __kcrctab: numbers (from 5.19 on), or relocations to __crc_NAME, whose value is the CRC or
    (MODULE_REL_CRCS) where the CRC lies.
    """
    if section is None or not 0 < count <= section.size:
        return [None] * count
    size = section.size // count
    found: List[Optional[int]] = list(elf.words(file, section, size)) if size in (4, 8) else []
    found += [None] * (count - len(found))
    for offset, symbol, _unused in _targets(file, section, symbols):
        if offset // size < count:
            found[offset // size] = _crc(file, symbol)
    return found[:count]


def _crc(file: Elf, symbol: elf.Symbol) -> int:
    if not 0 < symbol.shndx < len(file.sections):
        return symbol.value & 0xFFFFFFFF
    data = file.contents(file.sections[symbol.shndx])[symbol.value : symbol.value + 4]
    return struct.unpack(file.order + "I", data)[0] if len(data) == 4 else 0


def _targets(
    file: Elf, section: Optional[elf.Section], symbols: Sequence[elf.Symbol]
) -> List[Tuple[int, elf.Symbol, int]]:
    """The relocations of a section, by offset: (offset, symbol, addend).

    Those of type 0 (R_*_NONE everywhere) are left out.
    """
    found = []
    index = file.sections.index(section) if section else -1
    for table in file.sections:
        if table.info == index and table.type in (elf.RELA, elf.REL):
            for entry in elf.relocations(file, table):
                if entry.type and entry.symbol < len(symbols):
                    addend = (
                        entry.addend if table.type == elf.RELA else elf.in_place(file, section, entry.offset)
                    )
                    found.append((entry.offset, symbols[entry.symbol], addend))
    return sorted(found, key=lambda target: target[0])


def _size(file: Elf, name: str) -> int:
    section = file.find(name)
    return section.size if section else 0
