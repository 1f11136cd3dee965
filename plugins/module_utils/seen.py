# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a look at a host rested on, and whether a look would meet the same now.

A Host notes all that it is asked while it has a ``Notes``: which directories lead to a path, what symlinks say,
which names a directory has, what a file is (its inode, size and times: whoever changes it changes those) and
what small ones hold. A boot loader writes into small files behind the file system's back, and files in /proc
and /sys are made as they are read, so of these the content counts.

A look that went past this (a tool was run, something was written) is spoilt: nothing can be said of it.
"""

import hashlib
import os
import re
import stat
import time
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

SMALL = 4096  # bytes
MADE_AS_READ = ("/proc/", "/sys/")
LIMIT = 4 << 20  # bytes of a file whose content counts
TICK = 0.05  # seconds: two changes within one tick of a file system's clock look like one
COARSE_TICK = 2.5  # of FAT, which has every other second

AT, LINK, NAMES, ENTRIES = "at", "link", "names", "entries"
STATUS, CONTENT, FOUND = "status", "content", "found"
Fact = Tuple[str, str, Any]  # kind, real path, and what was seen there; of FOUND with the pattern


class Blind:
    """Takes no notes."""

    def spoil(self) -> None:
        """Something was looked at past this, or changed."""

    def through(self, directories: Iterable[str]) -> None:
        """Directories that lead to a path, or would if they were there."""

    def link(self, real: str, target: str) -> None:
        """A symlink's text."""

    def names(self, real: str, names: List[str]) -> None:
        """The sorted names in a directory; none where there is no such directory."""

    def entries(self, real: str, entries: "List[os.DirEntry[str]]") -> None:
        """The sorted entries of a directory."""

    def status(self, real: str, status: Optional[os.stat_result]) -> None:
        """What a path is, None for nothing."""

    def opened(self, real: str, status: os.stat_result) -> None:
        """A file that is being read, with ``content`` or in parts."""

    def unopened(self, real: str, error: OSError) -> None:
        """One that cannot be opened, or looked at."""

    def content(self, real: str, data: bytes) -> None:
        """The whole of a file."""

    def found(self, real: str, pattern: str, found: List[str]) -> None:
        """All that counts of a file."""


BLIND = Blind()


class Notes(Blind):
    """Of each path the first answer; where a later one is another, the look is spoilt."""

    def __init__(self) -> None:
        self.whole = True
        self._facts: Dict[Tuple[str, str, str], Any] = {}
        self._unread: Set[str] = set()  # whose content counts, and was not read as a whole

    def spoil(self) -> None:
        self.whole = False

    def _note(self, kind: str, real: str, value: Any, more: str = "") -> None:
        if self._facts.setdefault((kind, real, more), value) != value:
            self.spoil()

    def through(self, directories: Iterable[str]) -> None:
        for real in directories:
            if (AT, real, "") not in self._facts:
                self._note(AT, real, _at(real))

    def link(self, real: str, target: str) -> None:
        self._note(LINK, real, target)

    def names(self, real: str, names: List[str]) -> None:
        self._note(NAMES, real, _digest("\0".join(names)))

    def entries(self, real: str, entries: "List[os.DirEntry[str]]") -> None:
        self._note(ENTRIES, real, _kinds(entries))

    def status(self, real: str, status: Optional[os.stat_result]) -> None:
        self._note(STATUS, real, _identity(real, status))

    def opened(self, real: str, status: os.stat_result) -> None:
        self.status(real, status)
        if real.startswith(MADE_AS_READ):
            self._unread.add(real)

    def unopened(self, real: str, error: OSError) -> None:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            self.status(real, None)
        else:
            self.spoil()

    def content(self, real: str, data: bytes) -> None:
        self._unread.discard(real)
        if len(data) <= SMALL or real.startswith(MADE_AS_READ):
            self._note(CONTENT, real, hashlib.sha256(data).hexdigest())

    def found(self, real: str, pattern: str, found: List[str]) -> None:
        self._note(FOUND, real, _digest("\0".join(found)), pattern)

    def facts(self) -> List[List[Any]]:
        """They go to and from JSON."""
        return [[kind, real, value, more] for (kind, real, more), value in self._facts.items()]

    def settled(self) -> bool:
        """Whether all was noted, and no file was changed so shortly ago that a further change might not show."""
        if not self.whole or self._unread:
            return False
        now = time.time()
        changed = [
            value[-1] for (kind, _real, _more), value in self._facts.items() if kind == STATUS and value
        ]
        return all(
            at is None or at / 1e9 + (TICK if at % 1000000000 else COARSE_TICK) < now for at in changed
        )


def same(facts: Iterable[List[Any]]) -> bool:
    """Whether all of these would be seen now. Errors: OSError, and for what are no facts LookupError,
    TypeError, ValueError.
    """
    return all(_now(kind, real, more) == value for kind, real, value, more in facts)


def _now(kind: str, real: str, more: str) -> Any:
    if kind == STATUS:
        return _identity(real, _lstat(real))
    if kind == AT:
        return _at(real)
    if kind == LINK:
        return os.readlink(real)
    if kind == NAMES:
        return _digest("\0".join(_listed(real)))
    if kind == ENTRIES:
        return _kinds(sorted(os.scandir(real), key=lambda entry: entry.name))
    data = _read(real)
    if kind == CONTENT:
        return hashlib.sha256(data).hexdigest()
    text = data.decode("utf-8", "surrogateescape")
    return _digest("\0".join(re.findall(more, text, re.MULTILINE)))


def _lstat(real: str) -> Optional[os.stat_result]:
    try:
        return os.lstat(real)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _at(real: str) -> Optional[List[int]]:
    status = _lstat(real)
    return [status.st_dev, status.st_ino] if status else None


def _identity(real: str, status: Optional[os.stat_result]) -> Optional[List[Optional[int]]]:
    """As JSON gives it back. The last is the time of the last change in ns; None where times say nothing."""
    if status is None:
        return None
    if stat.S_ISDIR(status.st_mode) or real.startswith(MADE_AS_READ):
        return [status.st_mode, status.st_dev, status.st_ino if stat.S_ISDIR(status.st_mode) else 0, None]
    return [
        status.st_mode,
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    ]


def _listed(real: str) -> List[str]:
    try:
        return sorted(os.listdir(real))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _kinds(entries: "List[os.DirEntry[str]]") -> str:
    """Of a directory's entries, in order: names, and which are directories and symlinks."""
    return _digest(
        "\0".join(
            "%s%d%d" % (each.name, each.is_symlink(), each.is_dir(follow_symlinks=False)) for each in entries
        )
    )


def _read(real: str) -> bytes:
    handle = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError("no regular file")
        found = bytearray()
        while len(found) < LIMIT:
            data = os.read(handle, 1 << 16)
            if not data:
                return bytes(found)
            found += data
        raise ValueError("too large")
    finally:
        os.close(handle)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
