# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel modules and kernels for tests: small ELF files with the tables of real ones, and trees laid out as distributions lay them out."""
import gzip
import lzma
import struct
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

RELEASE = "6.1.0-9-amd64"
FLAGS = " SMP preempt mod_unload modversions "
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


class Export(NamedTuple):
    name: str
    crc: Optional[int] = None
    gpl: bool = False
    namespace: str = ""


def elf(sections: Sequence[Section], machine: str = "x86_64", kind: int = 1, **header: int) -> bytes:
    """An ELF file of these sections (the null one, .shstrtab and the headers are added). ``header`` overrides fields: shnum, shoff, shstrndx,
    shentsize, e_machine, ei_class, ei_data.
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
        rows.append(struct.pack(order + ("IIQQQQIIQQ" if bits == 64 else "10I"), start, section.type, section.flags, 0, offset if start else 0,
                                len(section.data), link, info, 1, section.entsize))
    ident = b"\x7fELF" + bytes([header.get("ei_class", 2 if bits == 64 else 1), header.get("ei_data", 1 if order == "<" else 2), 1]) + bytes(9)
    address = "Q" if bits == 64 else "I"
    fields = (kind, header.get("e_machine", number), 1, 0, 0, header.get("shoff", size + len(body)), 0, size, 0, 0,
              header.get("shentsize", 64 if bits == 64 else 40), header.get("shnum", len(every)), header.get("shstrndx", len(every) - 1))
    return ident + struct.pack(order + "HHI" + address * 3 + "IHHHHHH", *fields) + bytes(body) + b"".join(rows)


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


def ko(name: str = "vendor", needs: Sequence[Tuple[str, int]] = (("module_layout", 0x11), ("printk", 0x22)), *, release: str = RELEASE,
       flags: str = FLAGS, modinfo: Optional[Dict[str, Optional[str]]] = None, imports: Sequence[str] = (), firmware: Sequence[str] = (),
       aliases: Sequence[str] = (), weak: Sequence[str] = (), common: Sequence[str] = (), unlisted: Sequence[str] = (),
       versions: Optional[bytes] = None, versioned: bool = True, versions_flags: int = ALLOC,
       ext_versions: Optional[Sequence[Tuple[str, int]]] = None, exports: Sequence[Export] = (),
       export_form: str = "numbers", struct_size: int = 896, init: Optional[int] = 312, exit: Optional[int] = 848,
       machine: str = "x86_64", extra: Sequence[Section] = (), without: Sequence[str] = (), kind: int = 1, **header: int) -> bytes:
    """A kernel module.

    needs: (symbol, crc) as undefined symbols and in __versions (module_layout is in the latter alone); unlisted: undefined symbols without a
    version; weak: those of the needed that are weak. modinfo: keys to add or to replace, None takes one out. export_form: "numbers" (5.19 on),
    "symbols" (before), "flags" (7.x) or "none" (no CRCs). without: names of sections to leave out.
    """
    order = MACHINES[machine][2]
    info: Dict[str, Optional[str]] = {"license": "GPL", "depends": "", "retpoline": "Y", "name": name, "vermagic": release + flags}
    info.update(modinfo or {})
    lines = ["%s=%s" % each for each in info.items() if each[1] is not None]
    lines += ["import_ns=" + each for each in imports] + ["firmware=" + each for each in firmware] + ["alias=" + each for each in aliases]
    this = bytearray(struct_size)
    at = 24 if MACHINES[machine][1] == 64 else 12
    this[at:at + len(name)] = name.encode()
    sections: List[Section] = [Section(".text", b"\xcc" * 16, flags=ALLOC | EXECUTE), Section(".modinfo", b"\0".join(map(str.encode, lines)) + b"\0")]
    if machine == "aarch64":
        sections += [Section(".plt", bytes(8)), Section(".init.plt", bytes(8))]
    if versions is None and versioned:
        versions = versions_table(needs, machine)
    if versions is not None:
        sections.append(Section("__versions", versions, flags=versions_flags))
    if ext_versions is not None:
        sections.append(Section("__version_ext_crcs", b"".join(struct.pack(order + "I", crc) for _unused, crc in ext_versions)))
        sections.append(Section("__version_ext_names", b"".join(symbol.encode() + b"\0" for symbol, _unused in ext_versions)))
    symbols = [Symbol(symbol, bind=2 if symbol in weak else 1) for symbol, _unused in needs if symbol != "module_layout"]
    symbols += [Symbol(symbol, bind=2 if symbol in weak else 1) for symbol in unlisted] + [Symbol(symbol, 0xfff2) for symbol in common]
    symbols += [Symbol("init_module", ".text"), Symbol("cleanup_module", ".text", 8)]
    relocations: Dict[str, List[Tuple[int, str, int, int]]] = {}
    _export(exports, export_form, machine, sections, symbols, relocations)
    sections.append(Section(".gnu.linkonce.this_module", bytes(this), flags=ALLOC | WRITE))
    places = [(offset, symbol, 0, MACHINES[machine][3]) for offset, symbol in ((init, "init_module"), (exit, "cleanup_module")) if offset is not None]
    relocations[".gnu.linkonce.this_module"] = places
    sections += list(extra)
    sections = [section for section in sections if section.name not in without]
    table, names = symbol_table(symbols, sections, machine)
    number = {symbol.name: place + 1 for place, symbol in enumerate(symbols)}
    for target, entries in relocations.items():
        if entries and target not in without:
            sections.append(_relocations(target, entries, number, machine))
    sections += [section for section in (Section(".symtab", table, SYMTAB, 0, ".strtab", 1, 24), Section(".strtab", names, STRTAB, 0))
                 if section.name not in without]
    return elf(sections, machine, kind, **header)


def _relocations(target: str, entries: Sequence[Tuple[int, str, int, int]], number: Dict[str, int], machine: str) -> Section:
    bits, order = MACHINES[machine][1:3]
    form = order + ("QQq" if bits == 64 else "IIi")
    shift = 32 if bits == 64 else 8
    data = b"".join(struct.pack(form, offset, number[symbol] << shift | kind, addend) for offset, symbol, addend, kind in entries)
    return Section(".rela" + target, data, RELA, 0x40, ".symtab", target, 24)


def _export(exports: Sequence[Export], form: str, machine: str, sections: List[Section], symbols: List[Symbol],
            relocations: Dict[str, List[Tuple[int, str, int, int]]]) -> None:
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
            symbols += [Symbol(each.name, ".text"), Symbol("__kstrtab_" + each.name, "__ksymtab_strings", len(strings), 0)]
            strings += each.name.encode() + b"\0"
            symbols.append(Symbol("__kstrtabns_" + each.name, "__ksymtab_strings", len(strings), 0))
            strings += each.namespace.encode() + b"\0"
            relocations[table] += [(12 * place, each.name, 0, distance), (12 * place + 4, "__kstrtab_" + each.name, 0, distance),
                                   (12 * place + 8, "__kstrtabns_" + each.name, 0, distance)]
            crcs += struct.pack(order + "I", each.crc or 0) if form != "symbols" else bytes(4)
            if form == "symbols":
                symbols.append(Symbol("__crc_" + each.name, 0xfff1, each.crc or 0))
                relocations.setdefault("__kcrctab" + suffix, []).append((4 * place, "__crc_" + each.name, 0, whole))
        sections.append(Section(table, bytes(12 * len(chosen))))
        if form != "none" and any(each.crc is not None for each in chosen):
            sections.append(Section("__kcrctab" + suffix, crcs))
        if form == "flags":
            sections.append(Section("__kflagstab", bytes(each.gpl for each in chosen)))
    if strings:
        sections.append(Section("__ksymtab_strings", strings))


def btf_type(kind: int, name: str, value: int, parts: int = 0, more: Sequence[Union[int, str]] = ()) -> Tuple[Any, ...]:
    """One BTF type: ``value`` is its size or a type's id, ``more`` the numbers (or names) behind it."""
    return kind, name, value, parts, tuple(more)


def btf_int(name: str, size: int) -> Tuple[Any, ...]:
    return btf_type(1, name, size, 0, [8 * size])


def btf_array(element: int) -> Tuple[Any, ...]:
    return btf_type(3, "", 0, 0, [element, 1, 4])


def btf_struct(name: str, size: int, members: Sequence[Tuple[str, int, int]]) -> Tuple[Any, ...]:
    """``members``: name, type, offset in bits."""
    return btf_type(4, name, size, len(members), [each for member in members for each in member])


def btf_function(result: int, parameters: Sequence[Tuple[str, int]]) -> Tuple[Any, ...]:
    return btf_type(13, "", result, len(parameters), [each for parameter in parameters for each in parameter])


def btf(types: Sequence[Tuple[Any, ...]]) -> bytes:
    """A .BTF section."""
    names, data = b"\0", b""
    for kind, name, value, parts, more in types:
        numbers = []
        for word in ("", name) + more:  # the first is the empty one, at 0
            if isinstance(word, str) and word:
                numbers.append(len(names))
                names += word.encode() + b"\0"
            else:
                numbers.append(word or 0)
        data += struct.pack("<III%dI" % len(more), numbers[1], kind << 24 | parts, value, *numbers[2:])
    return struct.pack("<HBBIIIII", 0xeb9f, 1, 0, 24, 0, len(data), len(data), len(names)) + data + names


def retype(module: bytes, name: str, kind: int) -> bytes:
    """The module with a section of that name turned into another type."""
    table, size, count, strings = struct.unpack_from("<Q", module, 40) + struct.unpack_from("<HHH", module, 58)
    rows = [table + size * place for place in range(count)]
    names = struct.unpack_from("<Q", module, rows[strings] + 24)[0]
    row = next(row for row in rows if module[names + struct.unpack_from("<I", module, row)[0]:].startswith(name.encode() + b"\0"))
    return module[:row + 4] + struct.pack("<I", kind) + module[row + 8:]


def relocated(kind: int) -> bytes:
    """A module with one relocation of that type in its code, which is not zero there."""
    return ko(extra=[Section(".rela.text", struct.pack("<QQq", 0, 1 << 32 | kind, 0), RELA, 0x40, 0, ".text", 24)])


def signed(module: bytes, pkcs7: bytes, *, kind: int = 2, size: Optional[int] = None, algo: int = 0) -> bytes:
    """A module with a signature appended."""
    return module + pkcs7 + struct.pack(">BBBBB3xI", algo, 0, kind, 0, 0, len(pkcs7) if size is None else size) + b"~Module signature appended~\n"


def symvers(exports: Sequence[Tuple[str, int, bool, str, str]]) -> bytes:
    """A Module.symvers of (symbol, crc, gpl, namespace, module)."""
    return "".join("0x%08x\t%s\t%s\tEXPORT_SYMBOL%s\t%s\n" % (crc, symbol, module, "_GPL" if gpl else "", namespace)
                   for symbol, crc, gpl, namespace, module in exports).encode()


EXPORTS = (("module_layout", 0x11, False, "", "vmlinux"), ("printk", 0x22, False, "", "vmlinux"), ("kfree", 0x33, False, "", "vmlinux"),
           ("gpl_only", 0x44, True, "", "vmlinux"), ("spaced", 0x55, True, "DRIVER_NS", "vmlinux"),
           ("scsi_add_host", 0x66, False, "", "drivers/scsi/scsi_mod"))
CONFIG = "CONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_MODULE_SIG=y\nCONFIG_LIVEPATCH=y\nCONFIG_RETPOLINE=y\n"


def kernel(root: Path, release: str = RELEASE, *, exports: Optional[Sequence[Tuple[str, int, bool, str, str]]] = EXPORTS,
           config: Optional[str] = CONFIG, family: str = "debian", flags: str = FLAGS, builtin: Sequence[str] = (),
           in_tree: Optional[Dict[str, bytes]] = None, **module: Any) -> Path:
    """An installed kernel below ``root``: image (no real one), config, symvers where the family keeps it, and in-tree modules.

    family: debian (headers), el (symvers.gz in both places), suse (/usr/lib/modules). in_tree: more modules, path below kernel/ -> bytes.
    module: what to give to ``ko`` for the one module that is always there. exports None: no symvers.
    """
    top = root / ("usr/lib/modules" if family == "suse" else "lib/modules") / release
    layout = next((crc for symbol, crc, *_rest in exports or EXPORTS if symbol == "module_layout"), None)
    dummy = ko("dummy", [("module_layout", layout or 0)], release=release, flags=flags, modinfo={"intree": "Y"}, versioned="modversions" in flags,
               **module)
    files: Dict[str, bytes] = {"kernel/drivers/net/dummy.ko": dummy}
    files.update({"kernel/" + name: data for name, data in (in_tree or {}).items()})
    files["modules.order"] = "".join(sorted(name + "\n" for name in files)).encode()
    files["modules.builtin"] = "".join("kernel/drivers/base/%s.ko\n" % name for name in builtin).encode()
    written = {top / name: data for name, data in files.items()}
    boot = root / "boot"
    written[boot / ("vmlinuz-" + release)] = b"MZ no real kernel"
    if config is not None:
        written[boot / ("config-" + release)] = config.encode()
    if exports is not None:
        table = symvers(exports)
        if family == "debian":
            written[root / "usr/src" / ("linux-headers-" + release) / "Module.symvers"] = table
        elif family == "el":
            written[boot / ("symvers-%s.gz" % release)] = gzip.compress(table)
            written[top / "symvers.xz"] = lzma.compress(table, check=lzma.CHECK_CRC32)
        else:
            written[boot / ("symvers-%s.gz" % release)] = gzip.compress(table)
    for path, data in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return top
