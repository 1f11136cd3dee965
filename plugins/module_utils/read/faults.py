# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the loaders of some kernel generations refuse in a module's tables; what ``elf`` itself stumbles over
is not here.
"""

from array import array
from itertools import compress
from typing import Iterator, List, Optional, Tuple

from . import elf
from .elf import Elf, Fault

THIS_MODULE = ".gnu.linkonce.this_module"
WRITE_EXECUTE = 5  # SHF_WRITE | SHF_EXECINSTR: the flags of both

# Writable and executable as linked; module_frob_arch_sections gives them other flags
# (arch/arm64/kernel/module-plts.c)
_TRAMPOLINES = (".plt", ".init.plt", ".text.ftrace_trampoline")


def of_sections(file: Elf) -> List[Fault]:
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
    if any(
        section.flags & WRITE_EXECUTE == WRITE_EXECUTE and section.name not in _TRAMPOLINES
        for section in file.sections
    ):
        faults.append(Fault("ELF_WX", "a section is both writable and executable"))
    link = tables[0].link
    if not 0 < link < len(file.sections):
        faults.append(
            Fault("ELF_SHDR", "the symbol names are in section %d of %d" % (link, len(file.sections)))
        )
    elif file.sections[link].type != elf.STRTAB:
        faults.append(
            Fault(
                "ELF_STRTAB",
                "the symbol names are in a section of type %d, not STRTAB" % file.sections[link].type,
            )
        )
    return faults


def of_symbols(file: Elf, symbols: elf.SymbolTable) -> List[Fault]:
    """kernel/module/main.c: elf_validity_cache_index_sym, simplify_symbols"""
    faults = []
    if max(symbols.sections - {elf.COMMON, elf.ABSOLUTE, elf.LIVEPATCH}, default=0) >= len(file.sections):
        faults.append(Fault("ELF_SYMBOL_SECTION", "a symbol lies in a section that there is none of"))
    if symbols.odd_names:
        faults.append(Fault("ELF_SYMBOL_NAME", "a symbol's name lies outside of the table of names"))
    return faults


# arch/x86/kernel/module.c: the types that it knows, and how many bytes each fills
_X86_64 = {0: 0, 1: 8, 2: 4, 4: 4, 10: 4, 11: 4, 24: 8}


def of_relocations(file: Elf) -> List[Fault]:
    """arch/x86/kernel/module.c: apply_relocate_add: an unknown type; a place that does not hold zeros before."""
    if file.machine != "x86_64":
        return []
    for table in file.sections:
        target = (
            file.sections[table.info] if table.type == elf.RELA and table.info < len(file.sections) else None
        )
        if target is None or not target.flags & elf.ALLOC:
            continue
        offsets, types = elf.places(file, table)
        unknown = set(types) - set(_X86_64)
        if unknown:
            return [
                Fault(
                    "RELOC_UNKNOWN", "relocation of the unknown type %d in %s" % (min(unknown), target.name)
                )
            ]
        data = file.contents(target) if target.type != elf.NOBITS else b""
        offset = _filled(data, offsets, types) if data.count(0) < len(data) else None
        if offset is not None:
            return [
                Fault(
                    "RELOC_TARGET",
                    "relocation at byte %d of %s, which holds something already" % (offset, target.name),
                )
            ]
    return []


def _filled(data: bytes, offsets: "array[int]", types: "array[int]") -> Optional[int]:
    """The first of these places that holds something else than zeros.

    There may be 100 000, and hardly ever one that does. So what each byte and those behind it hold, as far as
    any place reaches, is put together for all at once; what is not zero then is looked at on its own.
    """
    if not offsets:
        return None
    shifts = (8, 16, 32) if 8 in map(_X86_64.__getitem__, set(types)) else (8, 16)
    together = int.from_bytes(data, "little")
    for shift in shifts:
        together |= together >> shift
    places: Iterator[Tuple[int, int]] = zip(offsets, types)
    if max(offsets) < len(data):
        places = compress(places, map(together.to_bytes(len(data), "little").__getitem__, offsets))
    filled = (offset for offset, kind in places if data[offset : offset + _X86_64[kind]].strip(b"\0"))
    return next(filled, None)
