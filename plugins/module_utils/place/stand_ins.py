# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Stand-ins for a kernel's own modules, so that depmod need not unpack thousands of files again to list a few
others beside them.

What depmod looks for in a module is in the indexes that it has made of it: whom it needs, what it exports,
its aliases and soft dependencies. A stand-in is a small ELF file that says the same. depmod makes all indexes
of them and of the other modules, which it reads themselves. That what it says of the kernel's own is what it
said before, line by line, is looked at afterwards (``agree``); where it is not, or where the indexes cannot
be relied upon (``known``), it has to read everything.

The order in which modules.dep names what a module needs comes out the same, too. depmod takes a module when
all that need it are taken, the last one that became free first (kmod: tools/depmod.c,
``depmod_calculate_dependencies``). That one becomes free with the last module that needs it by whichever way,
so a stand-in may need all of the line at once; and of those that become free together the last one added to
the list is taken first, so it needs them in the reverse order of the line.
"""

import os
import posixpath
import re
import struct
import sys
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from ..host import Host
from ..read.depmod import INDEX_LIMIT, dependencies
from ..read.exports import find_symvers, named_in_symvers
from ..read.names import is_module_file, module_of

OWN = "kernel/"
DEP, SYMBOLS, ALIASES, SOFT = "modules.dep", "modules.symbols", "modules.alias", "modules.softdep"
# what each line of these says, of the module that it names: the key in .modinfo
SAYS = {ALIASES: "alias", SOFT: "softdep", "modules.weakdep": "weakdep"}
_LINES = {
    SYMBOLS: re.compile(r"^alias symbol:(\S+) (\S+)$", re.MULTILINE),
    ALIASES: re.compile(r"^alias (.+) (\S+)$", re.MULTILINE),
    SOFT: re.compile(r"^softdep (\S+) (.+)$", re.MULTILINE),
    "modules.weakdep": re.compile(r"^weakdep (\S+) (.+)$", re.MULTILINE),
}
_UNDEFINED = 0x10  # a global symbol (elf.h: STB_GLOBAL << 4) in no section


class Own(NamedTuple):
    """What the indexes say of a kernel's own modules. Paths are below its directory."""

    needs: Dict[str, List[str]]  # path -> paths, as modules.dep has them
    says: Dict[str, List[Tuple[str, str]]]  # index -> (module's name, what is said), in its order
    others: Set[str]  # files that no index lists

    @property
    def names(self) -> Set[str]:
        return set(map(module_of, self.needs))


def known(host: Host, modules_dir: str) -> Optional[Own]:
    """None where the indexes cannot be relied upon: one is missing or cut off, or a module came after them."""
    texts = {
        name: host.read_text("%s/%s" % (modules_dir, name), INDEX_LIMIT)
        for name in (DEP, *_LINES)
        if host.is_file("%s/%s" % (modules_dir, name))
    }
    made = host.stat(modules_dir + "/modules.dep")
    if (
        not {DEP, SYMBOLS, ALIASES, SOFT} <= set(texts)
        or not all(text.endswith("\n") for text in texts.values())
        or made is None
        or made.st_mtime > time.time()
        or not host.is_file(modules_dir + "/modules.order")  # without, depmod goes by the disk's order
    ):
        return None
    needs = _own(texts)
    there = dict(_files(host.real(modules_dir + "/kernel"), "kernel"))
    if not needs or not set(needs) <= set(there) or max(there.values(), default=0) > made.st_mtime_ns:
        return None
    names = set(map(module_of, needs))
    says = {index: [row for row in rows if row[0] in names] for index, rows in _said(texts).items()}
    giving = {name for name, _symbol in says[SYMBOLS]}
    if not all(module_of(each) in giving for needed in needs.values() for each in needed):
        return None
    return Own(needs, says, others=set(there) - set(needs))


def lay_out(host: Host, modules_dir: str, base: str, own: Own) -> None:
    """Make them below ``base``. Errors: OSError."""
    exports: Dict[str, List[str]] = {}
    for name, symbol in own.says[SYMBOLS]:
        exports.setdefault(name, []).append(symbol)
    info: Dict[str, List[str]] = {}
    for index, key in SAYS.items():
        for name, text in own.says.get(index, ()):
            info.setdefault(name, []).append("%s=%s" % (key, text))
    directories: Set[str] = set()
    for path, needed in own.needs.items():
        name = module_of(path)
        symbols = [exports[module_of(each)][0] for each in reversed(needed)]
        data = _module(info.get(name, []), exports.get(name, []), symbols)
        _make_directory(base, path, directories)
        # thousands of small files: what open() does besides takes longer than all of this
        handle = os.open("%s/%s" % (base, path), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            while data:
                data = data[os.write(handle, data) :]
        finally:
            os.close(handle)
    for path in own.others:
        _make_directory(base, path, directories)
        os.symlink(host.real("%s/%s" % (modules_dir, path)), os.path.join(base, path))


def agree(host: Host, release: str, own: Own, made: Dict[str, bytes]) -> bool:
    """Whether the indexes that depmod has ``made`` say of the kernel's own modules what they said before, but
    of those that another of the same name stands in front of; and whether they can say no more.

    A module that is not listed may need what another one exports now: none does, where the kernel's symvers
    does not have it.
    """
    texts = {
        name: data.decode("utf-8", "surrogateescape") for name, data in made.items() if b"\0" not in data
    }
    if not {DEP, SYMBOLS, ALIASES} <= set(texts):
        return False
    needs, said = dependencies(texts[DEP]), _said(texts)
    names = {module_of(path) for path in needs if path in own.needs}
    hidden = own.names - names
    exported = {symbol for name, symbol in said[SYMBOLS] if name not in names}
    return (
        hidden <= {module_of(path) for path in needs if path not in own.needs}
        and all(needs[path] == own.needs[path] for path in needs if path in own.needs)
        and all(
            [row for row in said[index] if row[0] in names]
            == ([row for row in rows if row[0] in names] if hidden else rows)
            for index, rows in own.says.items()
            if index in said
        )
        and (not exported or _is_foreign(host, release, exported))
    )


def _is_foreign(host: Host, release: str, symbols: Set[str]) -> bool:
    """Whether nothing that came with a kernel exports any of these, and so nothing of it can need one."""
    symvers = find_symvers(host, release)
    return symvers is not None and not named_in_symvers(host, symvers, symbols)


def _own(texts: Dict[str, str]) -> Dict[str, List[str]]:
    """The lines of the kernel's own modules in modules.dep; none where one of them needs another's."""
    needs = dependencies(texts[DEP])
    found = {path: needed for path, needed in needs.items() if path.startswith(OWN)}
    return found if all(each in found for needed in found.values() for each in needed) else {}


def _said(texts: Dict[str, str]) -> Dict[str, List[Tuple[str, str]]]:
    """What the indexes say, as (module's name, text)."""
    return {
        index: [(name, text) for text, name in line.findall(texts[index])]
        if index in (SYMBOLS, ALIASES)
        else line.findall(texts[index])
        for index, line in _LINES.items()
        if index in texts
    }


def _files(real: str, below: str) -> Iterator[Tuple[str, int]]:
    """The kernel's own module files, each with the time in ns of its last change. A link, which may lead
    to anything, counts as one that changes all the time.
    """
    try:
        entries = list(os.scandir(real))
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in entries:
        path = "%s/%s" % (below, entry.name)
        if entry.is_symlink():
            yield path, sys.maxsize
        elif entry.is_dir():
            yield from _files(entry.path, path)
        elif is_module_file(entry.name):
            status = entry.stat()
            yield path, max(status.st_mtime_ns, status.st_ctime_ns)


def _make_directory(base: str, path: str, known_ones: Set[str]) -> None:
    directory = posixpath.dirname(path)
    if directory not in known_ones:
        os.makedirs(os.path.join(base, directory), exist_ok=True)
        known_ones.add(directory)


_ORDER = "<" if sys.byteorder == "little" else ">"
_NAMES = (b"", b".modinfo", b"__ksymtab_strings", b".symtab", b".strtab", b".shstrtab")
_KINDS = dict(zip(_NAMES, (0, 1, 1, 2, 3, 3)))  # elf.h: SHT_NULL, SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB
_TITLES = b"".join(name + b"\0" for name in _NAMES)
_IDENT = b"\x7fELF\x02" + (b"\x01" if _ORDER == "<" else b"\x02") + b"\x01" + bytes(9)
_HEADER = struct.Struct(_ORDER + "16sHHIQQQIHHHHHH")
_SYMBOL = struct.Struct(_ORDER + "IBBHQQ")
_SECTIONS = struct.Struct(_ORDER + "IIQQQQIIQQ" * len(_NAMES))


def _module(info: List[str], exports: List[str], needs: List[str]) -> bytes:
    """An ELF file of this machine's byte order with what libkmod reads (libkmod/libkmod-elf.c)."""
    symbols, strings = [bytes(_SYMBOL.size)], b"\0"
    for each in needs:
        symbols.append(_SYMBOL.pack(len(strings), _UNDEFINED, 0, 0, 0, 0))
        strings += _bytes(each)
    contents = (b"", _bytes(*info), _bytes(*exports), b"".join(symbols), strings, _TITLES)
    rows: List[int] = []
    place, title = _HEADER.size, 0
    for name, content in zip(_NAMES, contents):
        kind = _KINDS[name]
        link, size = (4, _SYMBOL.size) if name == b".symtab" else (0, 0)
        rows += (title, kind, 0, 0, place, len(content), link, 1, 1, size)
        place += len(content)
        title += len(name) + 1
    header = _HEADER.pack(_IDENT, 1, 0, 1, 0, 0, place, 0, 64, 0, 0, 64, len(_NAMES), len(_NAMES) - 1)
    return b"".join((header, *contents, _SECTIONS.pack(*rows)))


def _bytes(*texts: str) -> bytes:
    return ("\0".join(texts) + "\0").encode("utf-8", "surrogateescape") if texts else b""
