# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A kernel module file as plain data: what it needs and what it gives.

Everything that a verdict depends on is in the KernelModule, and it goes to and from JSON, so a module can be read on one machine and
judged on another. A file that no kernel would load is still a KernelModule, with faults.
"""
import hashlib
import re
import struct
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Pattern, Sequence, Tuple

from .. import compression
from ..errors import KmodError
from ..host import Host
from . import btf, elf
from . import signature as signatures
from .btf import Struct
from .elf import Elf, Fault
from .signature import Signature

MODULE_FILE = re.compile(r"\.ko(\.gz|\.xz|\.zst|\.bz2)?\Z")
PACKAGE = re.compile(r"\.(deb|rpm)\Z")
LIMIT = 192 << 20  # the largest modules (amdgpu with its debug information left in) stay below
THIS_MODULE = ".gnu.linkonce.this_module"
EXECUTE, WRITE_EXECUTE = 4, 5  # SHF_EXECINSTR, SHF_WRITE
MODVERSION = 64  # bytes of a struct modversion_info: an unsigned long and a name (include/linux/module.h)


class Undefined(NamedTuple):
    """A symbol that the module needs, or (``common``) one that the loader will not have."""

    name: str
    weak: bool = False
    common: bool = False


class Version(NamedTuple):
    """The CRC that a symbol had when the module was built: all of the field, which 64-bit kernels compare in full."""

    name: str
    crc: int


class Exported(NamedTuple):
    """A symbol that the module gives to others. ``crc`` is None where it keeps none."""

    name: str
    crc: Optional[int]
    gpl: bool
    namespace: str


class KernelModule(NamedTuple):
    """``versions`` and ``ext_versions`` are None where the module has no such table; all tables are in the file's order."""

    path: str
    name: str
    sha256: str  # of the uncompressed file
    size: int
    machine: str
    modinfo: Tuple[Tuple[str, str], ...] = ()
    undefined: Tuple[Undefined, ...] = ()
    versions: Optional[Tuple[Version, ...]] = None
    chained_versions: bool = False  # Ubuntu's form of __versions: entries of any length
    ext_versions: Optional[Tuple[Version, ...]] = None
    exports: Tuple[Exported, ...] = ()
    exports_crcs: bool = False  # has a __kcrctab
    exports_flags: bool = False  # has a __kflagstab
    struct_size: int = 0  # of .gnu.linkonce.this_module
    init_offset: Optional[int] = None  # where in it the address of init_module goes
    exit_offset: Optional[int] = None
    btf: str = ""  # "ok", or "bad" where its header is damaged
    btf_ids: Tuple[int, ...] = ()  # the types that it refers to, its own and those of the kernel that it was built for
    btf_base: Tuple[Struct, ...] = ()  # what it keeps of that kernel's structures
    signature: Optional[Signature] = None
    features: Tuple[str, ...] = ()  # what its code was compiled with: ibt, kcfi; or "no code"
    odd_ident: bool = False  # the ELF header's class and byte order are not those of the machine
    faults: Tuple[Fault, ...] = ()
    packed: str = ""  # how its file is compressed, if it is: "gzip", "xz", "zstd"; "xz, check 4" for another check than CRC32 or none

    def info(self, key: str) -> Optional[str]:
        """The first value of a .modinfo key, as the loader takes it (``kernel/module/main.c: get_modinfo``)."""
        return next((value for name, value in self.modinfo if name == key), None)

    def infos(self, key: str) -> List[str]:
        return [value for name, value in self.modinfo if name == key]

    @property
    def vermagic(self) -> Optional[str]:
        return self.info("vermagic")

    @property
    def built_for(self) -> str:
        """The kernel release it was built for; "" if it does not say."""
        return (self.vermagic or "").split(" ")[0]

    @property
    def version(self) -> Optional[str]:
        return self.info("version")

    @property
    def srcversion(self) -> Optional[str]:
        return self.info("srcversion")

    @property
    def license(self) -> Optional[str]:
        return self.info("license")

    @property
    def depends(self) -> List[str]:
        return [normal(name) for name in (self.info("depends") or "").split(",") if name]

    @property
    def firmware(self) -> List[str]:
        return self.infos("firmware")

    @property
    def aliases(self) -> List[str]:
        return self.infos("alias")

    @property
    def namespaces(self) -> List[str]:
        return self.infos("import_ns")

    def as_dict(self) -> Dict[str, Any]:
        """Nothing but what JSON has."""
        answer: Dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in self._asdict().items()}
        if self.signature is not None:
            answer["signature"] = self.signature._asdict()
        return answer

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> "KernelModule":
        """The inverse of ``as_dict``, also after a trip through JSON. Error: MODULE_DATA for anything else."""
        try:
            rows = {name: _rows(kind, data[name]) for name, kind in _ROWS.items()}
            signature = data["signature"] and Signature(**data["signature"])
            modinfo = _rows(lambda key, value: (key, value), data["modinfo"])
            return cls(**dict(data, modinfo=modinfo, features=tuple(data["features"]), btf_ids=tuple(data["btf_ids"]), signature=signature, **rows))
        except (KeyError, TypeError, ValueError) as error:
            raise KmodError(str(data.get("path") if isinstance(data, dict) else data)[:200], "is not a description of a module (%r)" % (error,),
                            "Use the same version of the collection on both sides", "MODULE_DATA") from None


_ROWS: Dict[str, Any] = {"undefined": Undefined, "versions": Version, "ext_versions": Version, "exports": Exported, "faults": Fault,
                         "btf_base": Struct}


def _rows(kind: Any, rows: Optional[Sequence[Any]]) -> Any:
    return None if rows is None else tuple(kind(*row) for row in rows)


def normal(path: str) -> str:
    """The module name that kmod makes of a file's: of snd-hda-intel.ko.xz it is snd_hda_intel, of megaraid_sas-07.7.ko megaraid_sas_07
    (``kmod: shared/util.c: path_to_modname``). The module inside may have another one.
    """
    return path.rsplit("/", 1)[-1].partition(".")[0].replace("-", "_")


def find(host: Host, paths: Sequence[str]) -> List[str]:
    """The module files at these paths, in and below those that are directories; of one that holds none, the packages.

    What is named itself is taken for what it is called. Errors: PATH_EMPTY, PATH_MISSING, NO_MODULES.
    """
    found: List[str] = []
    for path in paths:
        if not path.strip() or "\0" in path:  # it would mean the root, or the working directory
            raise KmodError("a path %r" % path, "names nothing", "Name a .ko file or a directory of them", "PATH_EMPTY")
        before = len(found)
        if host.is_dir(path):
            _walk(host, path.rstrip("/"), MODULE_FILE, found)
            if len(found) == before:
                _walk(host, path.rstrip("/"), PACKAGE, found)
        elif host.exists(path):
            found.append(path)
        else:
            raise KmodError(path, "does not exist", "Name a .ko file or a directory of them" + ("" if host.live else ", as a path inside the root"),
                            "PATH_MISSING")
        if len(found) == before:
            raise KmodError(path, "holds no .ko file, and no package", "Name a .ko file or a directory of them", "NO_MODULES")
    return found


def _walk(host: Host, directory: str, wanted: Pattern[str], found: List[str]) -> None:
    for name in host.listdir(directory):
        path = directory + "/" + name
        if wanted.search(name) and not host.is_dir(path):
            found.append(path)
        elif host.is_dir(path) and not host.is_link(path):
            _walk(host, path, wanted, found)


def read(host: Host, path: str) -> KernelModule:
    """The module in a file, compressed or not. Errors: those of ``Host.open`` and of ``compression.decompress``."""
    return unpacked(host.read(path, LIMIT), path)


def unpacked(data: bytes, path: str) -> KernelModule:
    """The module in the bytes of a file, compressed or not. Errors: those of ``compression.decompress``."""
    return parse(compression.decompress(data, path, LIMIT), path)._replace(packed=_packed(data))


def _packed(data: bytes) -> str:
    """The xz file format, 2.1.1.2: the kind of check is the second byte of the stream's flags."""
    kind = compression.detect(data) or ""
    return "xz, check %d" % (data[7] & 15) if kind == "xz" and data[7] & 15 > 1 else kind


def parse(data: bytes, path: str) -> KernelModule:
    """The module in the uncompressed bytes of a file."""
    body, signature = signatures.split(data)
    file = elf.parse(body)
    faults = list(file.faults)
    module = KernelModule(path, normal(path), hashlib.sha256(data).hexdigest(), len(data), file.machine, signature=signature,
                          odd_ident=file.odd_ident)
    if file.sections:
        faults += _section_faults(file) + _relocation_faults(file)
        module = _tables(module, file, faults)
    return module._replace(faults=tuple(faults))


def brief(data: bytes, path: str) -> KernelModule:
    """The module in these bytes with its .modinfo and versions alone: what in-tree modules are asked to check other sources by."""
    file = elf.parse(data)
    return KernelModule(path, normal(path), "", len(data), file.machine, modinfo=_modinfo(file), versions=_versions_of(file),
                        ext_versions=_ext_versions(file, []))


def exports(data: bytes, path: str) -> List[Exported]:
    """What the module in these bytes exports and nothing else of it: a kernel has a thousand of them, some with 100 000 local labels (RISC-V)."""
    file = elf.parse(data)
    return list(_exports(file, elf.SymbolTable(file)))


def _tables(module: KernelModule, file: Elf, faults: List[Fault]) -> KernelModule:
    sections = elf.by_name(file)
    modinfo = _modinfo(file)
    this = file.find_any(THIS_MODULE)
    symbols = elf.SymbolTable(file)
    name = next((value for key, value in modinfo if key == "name"), None) or _struct_name(file, this) or module.name
    if max(symbols.sections - {elf.COMMON, elf.ABSOLUTE, elf.LIVEPATCH}, default=0) >= len(file.sections):
        faults.append(Fault("ELF_SYMBOL_SECTION", "a symbol lies in a section that there is none of"))
    if symbols.odd_names:
        faults.append(Fault("ELF_SYMBOL_NAME", "a symbol's name lies outside of the table of names"))
    entries = {symbol.name: offset for offset, symbol, _unused in _targets(file, this, symbols)}
    exported = [suffix for suffix in ("", "_gpl") if _size(file, "__ksymtab" + suffix)]
    return module._replace(
        name=name.replace("-", "_"), modinfo=modinfo, undefined=_undefined(symbols),
        versions=_versions_of(file), chained_versions=_chained_versions(file) is not None, ext_versions=_ext_versions(file, faults),
        exports=tuple(_exports(file, symbols)), exports_crcs=all("__kcrctab" + suffix in sections for suffix in exported),
        exports_flags="__kflagstab" in sections, struct_size=this.size if this else 0,
        init_offset=entries.get("init_module"), exit_offset=entries.get("cleanup_module"),
        features=tuple(_features(file)), **_btf(file))


def _modinfo(file: Elf) -> Tuple[Tuple[str, str], ...]:
    return tuple((key, value) for key, _unused, value in (entry.partition("=") for entry in elf.strings(file.contents(file.find_any(".modinfo")))))


def _struct_name(file: Elf, this: Optional[elf.Section]) -> str:
    """``struct module.name``: behind the state and the list head (``include/linux/module.h``)."""
    start = 24 if file.bits == 64 else 12
    return elf.text(file.contents(this)[:start + 64 - file.bits // 8], start)


def _undefined(symbols: elf.SymbolTable) -> Tuple[Undefined, ...]:
    """What ``kernel/module/main.c: simplify_symbols`` would look up, in its order."""
    wanted = (elf.UNDEF, elf.COMMON)
    found = (symbols[index] for index, row in enumerate(symbols.rows) if row[2] in wanted and index)
    return tuple(Undefined(symbol.name, symbol.bind == elf.WEAK, symbol.shndx == elf.COMMON) for symbol in found
                 if symbol.shndx == elf.UNDEF or not symbol.name.startswith("__gnu_lto"))


def _versions_of(file: Elf) -> Optional[Tuple[Version, ...]]:
    return _chained_versions(file) or (_versions(file) if file.find("__versions") else None)


def _versions(file: Elf) -> Tuple[Version, ...]:
    data = file.contents(file.find("__versions"))
    form = struct.Struct(file.order + ("Q56s" if file.bits == 64 else "I60s"))
    return tuple(Version(elf.text(name, 0), crc) for crc, name in form.iter_unpack(data[:len(data) // MODVERSION * MODVERSION]))


def _chained_versions(file: Elf) -> Optional[Tuple[Version, ...]]:
    """Ubuntu's form, from 6.2 on: u32 offset of the next entry, u32 crc, name (its ``kernel/module/version.c``). None if this is not it."""
    data = file.contents(file.find("__versions"))
    found, start = [], 0
    while start < len(data):
        step, crc = struct.unpack_from(file.order + "II", data, start) if start + 9 <= len(data) else (0, 0)
        name = data[start + 8:start + step]
        if step < 12 or step % 4 or len(name) < step - 8 or name[-1:] != b"\0" or not step - 12 <= len(name.rstrip(b"\0")) > 0:
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


def _btf(file: Elf) -> Dict[str, Any]:
    """The fields of its BTF. Only what is wrong with the header is a fault (kernel/bpf/btf.c: btf_parse_hdr): new kinds of types keep coming."""
    own, base = (file.contents(file.find_any(name)) for name in (".BTF", ".BTF.base"))
    if not file.find_any(".BTF"):
        return {}
    try:
        btf.check_header(own, file.order)
    except btf.BtfError:
        return {"btf": "bad"}
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
        faults.append(Fault("MODVERSIONS_EXT_BAD", "%d extended versions for %d names" % (len(numbers), len(found))))
    return tuple(Version(name.decode("utf-8", "backslashreplace"), crc) for name, crc in zip(found, numbers))


def _exports(file: Elf, symbols: Sequence[elf.Symbol]) -> Iterator[Exported]:
    """The entries of __ksymtab and __ksymtab_gpl, by their relocations: value, name and perhaps namespace (``struct kernel_symbol``)."""
    flags = file.contents(file.find("__kflagstab"))
    strings = next((index for index, section in enumerate(file.sections) if section.name == "__ksymtab_strings"), -1)
    for suffix in ("", "_gpl"):
        entries: List[List[str]] = []
        for _unused, symbol, addend in _targets(file, file.find("__ksymtab" + suffix), symbols):
            if symbol.shndx != strings:
                entries.append([])
            elif entries:
                entries[-1].append(elf.text(file.contents(file.sections[strings]), symbol.value + addend))
        named = [entry for entry in entries if entry]
        crcs = _crcs(file, file.find("__kcrctab" + suffix), symbols, len(named))
        for place, entry in enumerate(named):
            gpl = bool(flags[place] & 1) if place < len(flags) else bool(suffix)
            yield Exported(entry[0], crcs[place], gpl, entry[1] if len(entry) > 1 else "")


def _crcs(file: Elf, section: Optional[elf.Section], symbols: Sequence[elf.Symbol], count: int) -> List[Optional[int]]:
    """A __kcrctab: numbers (from 5.19 on), or relocations to __crc_NAME, whose value is the CRC or (MODULE_REL_CRCS) where the CRC lies."""
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
        return symbol.value & 0xffffffff
    data = file.contents(file.sections[symbol.shndx])[symbol.value:symbol.value + 4]
    return struct.unpack(file.order + "I", data)[0] if len(data) == 4 else 0


def _targets(file: Elf, section: Optional[elf.Section], symbols: Sequence[elf.Symbol]) -> List[Tuple[int, elf.Symbol, int]]:
    """The relocations of a section, by offset: (offset, symbol, addend). Those of type 0 (R_*_NONE everywhere) are left out."""
    found = []
    index = file.sections.index(section) if section else -1
    for table in file.sections:
        if table.info == index and table.type in (elf.RELA, elf.REL):
            for entry in elf.relocations(file, table):
                if entry.type and entry.symbol < len(symbols):
                    addend = entry.addend if table.type == elf.RELA else elf.in_place(file, section, entry.offset)
                    found.append((entry.offset, symbols[entry.symbol], addend))
    return sorted(found, key=lambda target: target[0])


def _size(file: Elf, name: str) -> int:
    section = file.find(name)
    return section.size if section else 0


# arch/x86/kernel/module.c: the types that it knows, and how many bytes each fills
_X86_64 = {0: 0, 1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8}


def _relocation_faults(file: Elf) -> List[Fault]:
    """arch/x86/kernel/module.c: apply_relocate_add: an unknown type; a place that does not hold zeros before."""
    if file.machine != "x86_64":
        return []
    for table in file.sections:
        target = file.sections[table.info] if table.type == elf.RELA and table.info < len(file.sections) else None
        if target is None or not target.flags & elf.ALLOC:
            continue
        offsets, types = elf.places(file, table)
        unknown = set(types) - set(_X86_64)
        if unknown:
            return [Fault("RELOC_UNKNOWN", "relocation of the unknown type %d in %s" % (min(unknown), target.name))]
        data = file.contents(target) if target.type != elf.NOBITS else b""
        filled = (offset for offset, kind in zip(offsets, types) if data[offset:offset + _X86_64[kind]].strip(b"\0"))
        offset = next(filled, None) if data.count(0) < len(data) else None
        if offset is not None:
            return [Fault("RELOC_TARGET", "relocation at byte %d of %s, which holds something already" % (offset, target.name))]
    return []


# Writable and executable as linked; module_frob_arch_sections gives them other flags (arch/arm64/kernel/module-plts.c)
_TRAMPOLINES = (".plt", ".init.plt", ".text.ftrace_trampoline")


def _section_faults(file: Elf) -> List[Fault]:
    """kernel/module/main.c: elf_validity_cache_index_info, _mod, _sym and _str"""
    faults = []
    names = [section.name for section in file.sections]
    if names.count(".modinfo") > 1:
        faults.append(Fault("MODINFO_DUP", "%d .modinfo sections" % names.count(".modinfo")))
    this = [section for section in file.sections if section.name == THIS_MODULE]
    if not any(section.flags & elf.ALLOC for section in this):
        faults.append(Fault("ELF_NO_THIS_MODULE", "no %s section: not a kernel module" % THIS_MODULE))
    elif len(this) > 1 or this[0].type == elf.NOBITS or not this[0].flags & elf.ALLOC:
        faults.append(Fault("ELF_THIS_MODULE", "%s is not one loaded section with contents" % THIS_MODULE))
    tables = [section for section in file.sections[1:] if section.type == elf.SYMTAB]
    if not tables:
        faults.append(Fault("ELF_NO_SYMTAB", "no symbol table: it was stripped"))
        return faults
    if len(tables) > 1:
        faults.append(Fault("ELF_SYMTABS", "%d symbol tables" % len(tables)))
    if file.machine == "aarch64" and not {".plt", ".init.plt"} <= set(names):
        faults.append(Fault("ELF_NO_PLT", "no sections for procedure linkage (.plt, .init.plt)"))
    if any(section.flags & WRITE_EXECUTE == WRITE_EXECUTE and section.name not in _TRAMPOLINES for section in file.sections):
        faults.append(Fault("ELF_WX", "a section is both writable and executable"))
    link = tables[0].link
    if not 0 < link < len(file.sections):
        faults.append(Fault("ELF_SHDR", "the symbol names are in section %d of %d" % (link, len(file.sections))))
    elif file.sections[link].type != elf.STRTAB:
        faults.append(Fault("ELF_STRTAB", "the symbol names are in a section of type %d, not STRTAB" % file.sections[link].type))
    return faults
