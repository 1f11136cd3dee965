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

import contextlib
import os
import re
import struct
import sys
import time
from itertools import accumulate
from typing import Dict, List, NamedTuple, Optional, Set, Tuple

from ..host import Host
from ..lock import scratch
from ..read.depmod import INDEX_LIMIT, dependencies
from ..read.exports import find_symvers, named_in_symvers
from ..read.names import is_module_file, module_of

OWN = "kernel/"
DEP, SYMBOLS, ALIASES, SOFT, WEAK = (
    "modules.dep",
    "modules.symbols",
    "modules.alias",
    "modules.softdep",
    "modules.weakdep",
)
# what each line of these says, of the module that it names: the key in .modinfo
SAYS = {ALIASES: "alias", SOFT: "softdep", WEAK: "weakdep"}
_LINES = {
    SYMBOLS: re.compile(r"^alias symbol:(\S+) (\S+)$", re.MULTILINE),
    ALIASES: re.compile(r"^alias (.+) (\S+)$", re.MULTILINE),
    SOFT: re.compile(r"^softdep (\S+) (.+)$", re.MULTILINE),
    WEAK: re.compile(r"^weakdep (\S+) (.+)$", re.MULTILINE),
}
_NAMED_LAST = (SYMBOLS, ALIASES)
_SYMBOL_OF = "symbol:"
_UNDEFINED = 0x10  # a global symbol (elf.h: STB_GLOBAL << 4) in no section


class StandIn(NamedTuple):
    """What a module says, as depmod finds it: its .modinfo, and symbols."""

    info: List[str]
    exports: List[str]
    needs: List[str]


class Own(NamedTuple):
    """What the indexes say of a kernel's own modules. Paths are below its directory."""

    needs: Dict[str, List[str]]  # path -> paths, as modules.dep has them
    says: Dict[str, List[Tuple[str, str]]]  # index -> (module's name, what is said), in its order
    others: Set[str]  # files that no index lists
    names: Set[str]
    texts: Dict[str, str]  # the indexes themselves


class Shelf:
    """Makes stand-ins, and keeps those of one kernel for the next, which has nearly the same modules: most of
    what they cost is to make and to remove so many files.
    """

    def __init__(self) -> None:
        self._room = contextlib.ExitStack()
        self._directory: Optional[str] = None
        self._there: Dict[str, StandIn] = {}  # what is on it, by path
        self.own: Optional[Own] = None  # what they were made of

    def lay_out(self, host: Host, modules_dir: str, base: str, own: Own) -> None:
        """Make those of a kernel below ``base``. Errors: OSError."""
        there, self._there = self._there, {}
        if there and self._directory:
            os.rename(self._directory + "/kernel", base + "/kernel")
        same = there and self.own and (own.needs, own.says) == (self.own.needs, self.own.says)
        wanted = there if same else _of_each(own)
        for path in there.keys() - wanted.keys():
            os.unlink("%s/%s" % (base, path))
        directories = {base}
        for path, each in wanted.items():
            if there.get(path) is not each and there.get(path) != each:
                _write("%s/%s" % (base, path), _module(each), directories)
        for path in own.others:
            _make_directory(("%s/%s" % (base, path)).rpartition("/")[0], directories)
            os.symlink(host.real("%s/%s" % (modules_dir, path)), "%s/%s" % (base, path))
        self._there, self.own = wanted, own

    def take_back(self, base: str) -> None:
        """Put them away once depmod has read them. Errors: OSError, those of ``scratch``."""
        there, self._there = self._there, {}
        for path in self.own.others if self.own else ():
            os.unlink("%s/%s" % (base, path))
        self._directory = self._directory or self._room.enter_context(scratch())
        os.rename(base + "/kernel", self._directory + "/kernel")
        self._there = there

    def clear(self) -> None:
        """Leave nothing."""
        self._there, self._directory, self.own = {}, None, None
        self._room.close()


def known(host: Host, modules_dir: str, last: Optional[Own] = None) -> Optional[Own]:
    """None where the indexes cannot be relied upon: one is missing or cut off, or a module came after them.

    ``last`` is what another kernel has: many of their indexes are the same.
    """
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
    same = {name for name in texts if last and last.texts.get(name) == texts[name]}
    needs = last.needs if last and DEP in same else _own(texts[DEP])
    there = _files(host.real(modules_dir + "/kernel"))
    if not needs or needs.keys() - there.keys() or max(there.values()) > made.st_mtime_ns:
        return None
    names = set(map(module_of, needs))
    says = {
        index: last.says[index]
        if last and index in same and names == last.names
        else [row for row in _said(index, texts[index]) if row[0] in names]
        for index in texts.keys() & _LINES.keys()
    }
    giving = {name for name, _symbol in says[SYMBOLS]}
    if not giving >= {module_of(each) for each in set().union(*needs.values())}:
        return None
    return Own(needs, says, others=set(there) - set(needs), names=names, texts=texts)


def _of_each(own: Own) -> Dict[str, StandIn]:
    """What the stand-in of each module says, by path."""
    exports: Dict[str, List[str]] = {}
    for name, symbol in own.says[SYMBOLS]:
        exports.setdefault(name, []).append(symbol)
    info: Dict[str, List[str]] = {}
    for index, key in SAYS.items():
        for name, text in own.says.get(index, ()):
            info.setdefault(name, []).append("%s=%s" % (key, text))
    gives = {path: exports.get(module_of(path), []) for path in own.needs}
    return {
        path: StandIn(
            info.get(module_of(path), []), gives[path], [gives[each][0] for each in reversed(needed)]
        )
        for path, needed in own.needs.items()
    }


def agree(host: Host, release: str, own: Own, made: Dict[str, bytes]) -> bool:
    """Whether the indexes that depmod has ``made`` say of the kernel's own modules what they said before, line
    by line, but of those that another of the same name stands in front of; and whether they can say no more.

    A module that is not listed may need what another one exports now: none does, where the kernel's symvers
    does not have it.
    """
    if not {DEP, SYMBOLS, ALIASES} <= set(made):
        return False
    texts = {
        name: made[name].decode("utf-8", "surrogateescape").split("\n") for name in own.texts if name in made
    }
    theirs = {module_of(line.partition(":")[0]) for line in texts[DEP] if line and not line.startswith(OWN)}
    before = {line for line in own.texts[DEP].split("\n") if line.startswith(OWN)}
    hidden = {module_of(line.partition(":")[0]) for line in before.difference(texts[DEP])}
    names = own.names - hidden
    if not hidden <= theirs or not all(
        own.texts[index].split("\n") == lines
        or _of(names, index, own.texts[index].split("\n")) == _of(names, index, lines)
        for index, lines in texts.items()
        if index in _LINES
    ):
        return False
    given = [line for line in texts[SYMBOLS] if line[line.rfind(" ") + 1 :] not in names]
    symbols = {
        line.split(" ")[1][len(_SYMBOL_OF) :] for line in given if line.startswith("alias " + _SYMBOL_OF)
    }
    return not symbols or _is_foreign(host, release, symbols)


def _of(names: Set[str], index: str, lines: List[str]) -> List[str]:
    """Those lines of an index that are about these modules."""
    if index in _NAMED_LAST:
        return [line for line in lines if line[line.rfind(" ") + 1 :] in names]
    return [line for line in lines if "".join(line.split(" ")[1:2]) in names]


def _is_foreign(host: Host, release: str, symbols: Set[str]) -> bool:
    """Whether nothing that came with a kernel exports any of these, and so nothing of it can need one."""
    symvers = find_symvers(host, release)
    return symvers is not None and not named_in_symvers(host, symvers, symbols)


def _own(text: str) -> Dict[str, List[str]]:
    """The lines of the kernel's own modules in modules.dep; none where one of them needs another's."""
    found = {path: needed for path, needed in dependencies(text).items() if path.startswith(OWN)}
    return found if found.keys() >= set().union(*found.values()) else {}


def _said(index: str, text: str) -> List[Tuple[str, str]]:
    """What an index says, as (module's name, text)."""
    rows = _LINES[index].findall(text)
    return [(name, said) for said, name in rows] if index in _NAMED_LAST else rows


def _files(real: str) -> Dict[str, int]:
    """The kernel's own module files, each with the time in ns of its last change. A link, which may lead
    to anything, counts as one that changes all the time.
    """
    found: Dict[str, int] = {}
    todo = [(real, OWN)]
    while todo:
        directory, below = todo.pop()
        try:
            entries = list(os.scandir(directory))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if entry.is_symlink():
                found[below + entry.name] = sys.maxsize
            elif entry.is_dir():
                todo.append((entry.path, "%s%s/" % (below, entry.name)))
            elif is_module_file(entry.name):
                status = entry.stat()
                found[below + entry.name] = max(status.st_mtime_ns, status.st_ctime_ns)
    return found


def _write(path: str, data: bytes, directories: Set[str]) -> None:
    """Thousands of small files: what open() does besides takes longer than all of this."""
    _make_directory(path.rpartition("/")[0], directories)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)


def _make_directory(directory: str, known_ones: Set[str]) -> None:
    if directory not in known_ones:
        _make_directory(directory.rpartition("/")[0], known_ones)
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)
        known_ones.add(directory)


_ORDER = "<" if sys.byteorder == "little" else ">"
_NAMES = (b"", b".modinfo", b"__ksymtab_strings", b".symtab", b".strtab", b".shstrtab")
_KINDS = dict(zip(_NAMES, (0, 1, 1, 2, 3, 3)))  # elf.h: SHT_NULL, SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB
_TITLES = b"".join(name + b"\0" for name in _NAMES)
_IDENT = b"\x7fELF\x02" + (b"\x01" if _ORDER == "<" else b"\x02") + b"\x01" + bytes(9)
_HEADER = struct.Struct(_ORDER + "16sHHIQQQIHHHHHH")
_SYMBOL = struct.Struct(_ORDER + "IBBHQQ")
_SECTIONS = struct.Struct(_ORDER + "IIQQQQIIQQ" * len(_NAMES))


def _module(said: StandIn) -> bytes:
    """An ELF file of this machine's byte order with what libkmod reads (libkmod/libkmod-elf.c)."""
    needs = [_bytes(each) for each in said.needs]
    places = accumulate(map(len, [b"\0", *needs[:-1]])) if needs else ()
    symbols = [bytes(_SYMBOL.size), *(_SYMBOL.pack(place, _UNDEFINED, 0, 0, 0, 0) for place in places)]
    contents = (
        b"",
        _bytes(*said.info),
        _bytes(*said.exports),
        b"".join(symbols),
        b"\0" + b"".join(needs),
        _TITLES,
    )
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
