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
import struct
import sys
import time
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

from ..host import Host
from ..read.depmod import INDEX_LIMIT, dependencies
from ..read.exports import find_symvers, read_symvers
from ..read.names import is_module_file, module_of

OWN = "kernel/"
# what each line of these says, of the module that it names: the key in .modinfo
ALIASES, SYMBOLS = "modules.alias", "modules.symbols"
SAYS = {ALIASES: "alias", "modules.softdep": "softdep", "modules.weakdep": "weakdep"}
_SYMBOL = "symbol:"
_UNDEFINED = 0x10  # a global symbol (elf.h: STB_GLOBAL << 4) in no section
_PROGRESS, _SYMTAB, _STRTAB = 1, 2, 3  # elf.h: SHT_*


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
        for name in ("modules.dep", SYMBOLS, *SAYS)
        if host.is_file("%s/%s" % (modules_dir, name))
    }
    made = host.stat(modules_dir + "/modules.dep")
    if (
        not {"modules.dep", SYMBOLS, ALIASES, "modules.softdep"} <= set(texts)
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
    says = _said(texts, set(map(module_of, needs)))
    giving = {name for name, _symbol in says[SYMBOLS]}
    if not all(module_of(each) in giving for needed in needs.values() for each in needed):
        return None
    return Own(needs, says, set(there) - set(needs))


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
        with open(os.path.join(base, path), "wb") as handle:
            handle.write(data)
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
    if not {"modules.dep", SYMBOLS, ALIASES} <= set(texts):
        return False
    needs = dependencies(texts["modules.dep"])
    names = {module_of(path) for path in needs if path in own.needs}
    hidden = own.names - names
    exported = {symbol for name, symbol in _symbols(texts[SYMBOLS]) if name not in names}
    return (
        hidden <= {module_of(path) for path in needs if path not in own.needs}
        and all(needs[path] == own.needs[path] for path in needs if path in own.needs)
        and _said(texts, names)
        == {
            index: [(name, text) for name, text in said if name in names]
            for index, said in own.says.items()
            if index in texts
        }
        and (not exported or _is_foreign(host, release, exported))
    )


def _is_foreign(host: Host, release: str, symbols: Set[str]) -> bool:
    """Whether nothing that came with a kernel exports any of these, and so nothing of it can need one."""
    symvers = find_symvers(host, release)
    return symvers is not None and not symbols & set(read_symvers(host, symvers))


def _own(texts: Dict[str, str]) -> Dict[str, List[str]]:
    """The lines of the kernel's own modules in modules.dep; none where one of them needs another's."""
    needs = dependencies(texts["modules.dep"])
    found = {path: needed for path, needed in needs.items() if path.startswith(OWN)}
    return found if all(each in found for needed in found.values() for each in needed) else {}


def _said(texts: Dict[str, str], names: Set[str]) -> Dict[str, List[Tuple[str, str]]]:
    """What the indexes say of these modules."""
    found = {SYMBOLS: [row for row in _symbols(texts[SYMBOLS]) if row[0] in names]}
    for index, key in SAYS.items():
        if index in texts:
            rows = []
            for line in texts[index].splitlines():
                word, _blank, rest = line.partition(" ")
                first, _blank, text = rest.partition(" ")
                name, text = (text, first) if index == ALIASES else (first, text)
                if word == key and name in names:
                    rows.append((name, text))
            found[index] = rows
    return found


def _symbols(text: str) -> List[Tuple[str, str]]:
    rows = [line.split(" ") for line in text.splitlines()]
    return [(row[2], row[1][len(_SYMBOL) :]) for row in rows if len(row) == 3 and row[1].startswith(_SYMBOL)]


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


def _module(info: List[str], exports: List[str], needs: List[str]) -> bytes:
    """An ELF file of this machine's byte order with what libkmod reads (libkmod/libkmod-elf.c)."""
    order = "<" if sys.byteorder == "little" else ">"
    symbols, names = bytes(24), b"\0"
    for each in needs:
        symbols += struct.pack(order + "IBBHQQ", len(names), _UNDEFINED, 0, 0, 0, 0)
        names += _bytes(each)
    sections = (  # name, type, content, link, size of an entry
        (b"", 0, b"", 0, 0),
        (b".modinfo", _PROGRESS, b"".join(map(_bytes, info)), 0, 0),
        (b"__ksymtab_strings", _PROGRESS, b"".join(map(_bytes, exports)), 0, 0),
        (b".symtab", _SYMTAB, symbols, 4, 24),
        (b".strtab", _STRTAB, names, 0, 0),
        (b".shstrtab", _STRTAB, b"", 0, 0),
    )
    titles = b"".join(section[0] + b"\0" for section in sections)
    body, rows, title = b"", b"", 0
    for name, kind, content, link, size in sections:
        content = titles if name == b".shstrtab" else content
        place = 64 + len(body)
        rows += struct.pack(order + "IIQQQQIIQQ", title, kind, 0, 0, place, len(content), link, 1, 1, size)
        body += content
        title += len(name) + 1
    ident = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + b"\x01" + bytes(9)
    header = (1, 0, 1, 0, 0, 64 + len(body), 0, 64, 0, 0, 64, len(sections), len(sections) - 1)
    return ident + struct.pack(order + "HHIQQQIHHHHHH", *header) + body + rows


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape") + b"\0"
