# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files out of .deb and .rpm packages, without the tools of either family and without installing anything."""

import struct
import tarfile
from typing import Callable, Dict, Iterator, List, Tuple

from ..compression import stream
from ..errors import KmodError
from ..host import Host
from . import names

_RPM_LEAD = b"\xed\xab\xee\xdb"
_RPM_HEADER = b"\x8e\xad\xe8\x01"
_AGAIN = "Copy the package again"
PAYLOAD = 2 << 30  # bytes that a package may unpack to: a kernel with all its modules has a quarter
FILE = 256 << 20  # bytes that a file may have which is taken out of one
_NAME = 4096  # include/uapi/linux/limits.h: PATH_MAX
_STEP = 1 << 18


def modules(host: Host, path: str) -> List[Tuple[str, bytes]]:
    """(path in the package, bytes) of the kernel modules in it, as they are packed.

    Errors: those of ``files``; NO_MODULES.
    """
    found = list(files(host, path, names.is_readable_module))
    if not found:
        raise KmodError(
            path,
            "there is no .ko file in this package",
            "Give the package that has the modules",
            "NO_MODULES",
        )
    return found


def files(host: Host, path: str, wanted: Callable[[str], bool]) -> Iterator[Tuple[str, bytes]]:
    """(path in the package, bytes) of the regular files whose path is ``wanted``; no more than one of them is
    in memory.

    Paths are without a leading ``/`` and never lead out. A file with several names (hard links) comes under
    each that is wanted. The package is read to its end, so that one which is cut off or damaged anywhere is
    an error. Errors: PACKAGE_DAMAGED, those of ``compression.stream``.
    """
    with host.open(path) as reader:
        source = _Pieces(reader.chunks())
        try:
            magic = source.read(8)
            if magic == b"!<arch>\n":
                links: Dict[str, List[str]] = {}  # further names of a file, by the first
                yield from _deb(source, path, wanted, links=links)
                if links:  # what they name is gone by: once more from the start
                    yield from _linked(host, path, links)
            elif magic.startswith(_RPM_LEAD):
                yield from _rpm(source, path, wanted)
            else:
                raise ValueError("it is neither a .deb nor an .rpm")
        except (
            ValueError,
            IndexError,
            OverflowError,
            RecursionError,
            EOFError,
            struct.error,
            tarfile.TarError,
        ) as error:
            raise KmodError(
                path, "cannot be read as a package: %s" % error, _AGAIN, "PACKAGE_DAMAGED"
            ) from None


class _Pieces:
    """Bytes that come in pieces, taken by number."""

    def __init__(self, source: Iterator[bytes]) -> None:
        self.source = source
        self.piece = b""
        self.at = 0

    def read(self, size: int) -> bytes:
        """So many bytes, fewer only at the end."""
        found = []
        while size > 0:
            if self.at == len(self.piece):
                self.piece, self.at = next(self.source, b""), 0
                if not self.piece:
                    break
            part = self.piece[self.at : self.at + size]
            self.at += len(part)
            size -= len(part)
            found.append(part)
        return b"".join(found)

    def exactly(self, size: int) -> bytes:
        found = self.read(size)
        if len(found) < size:
            raise ValueError("it ends too early")
        return found

    def next(self, size: int) -> Iterator[bytes]:
        """The next so many bytes, in pieces."""
        while size > 0:
            piece = self.exactly(min(size, _STEP))
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        for _piece in self.next(size):
            pass


def _linked(host: Host, path: str, links: Dict[str, List[str]]) -> Iterator[Tuple[str, bytes]]:
    with host.open(path) as reader:
        source = _Pieces(reader.chunks())
        source.skip(8)
        for name, content in _deb(source, path, links.__contains__, links={}):
            for each in links[name]:
                yield each, content


def _deb(
    source: _Pieces, path: str, wanted: Callable[[str], bool], *, links: Dict[str, List[str]]
) -> Iterator[Tuple[str, bytes]]:
    """deb(5): an ar archive with, among others, data.tar in some compression."""
    while True:
        head = source.read(60)
        if len(head) < 60:
            raise ValueError("there is no data.tar in it")
        name, size = head[:16].decode("latin-1").rstrip(" /"), int(head[48:58])
        if name.startswith("data.tar"):
            break
        source.skip(size + size % 2)
    content = _Pieces(stream(source.next(size), path, PAYLOAD))
    with tarfile.open(fileobj=content, mode="r|") as archive:  # type: ignore[call-overload]  # read() is all that it uses
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # else it keeps them all
            name = _inside(member.name)
            if member.islnk() and wanted(name):
                links.setdefault(_inside(member.linkname), []).append(name)
            elif member.isreg() and wanted(name):
                if member.size > FILE:
                    raise ValueError("%s has %d bytes" % (name, member.size))
                yield name, archive.extractfile(member).read()  # type: ignore[union-attr]
    while content.read(_STEP):  # up to the end, where the checksums are
        pass


def _rpm(source: _Pieces, path: str, wanted: Callable[[str], bool]) -> Iterator[Tuple[str, bytes]]:
    """Behind the lead of 96 bytes lie two headers, of which the first is padded to 8 (rpm:
    docs/manual/format_v4.md).
    """
    source.skip(96 - 8)
    for padded in (True, False):
        magic, entries, size = struct.unpack(">4s4xII", source.exactly(16))
        if magic != _RPM_HEADER:
            raise ValueError("it has no header where one should be")
        source.skip(16 * entries + size + (-size % 8 if padded else 0))
    content = _Pieces(stream(iter(lambda: source.read(_STEP), b""), path, PAYLOAD))
    yield from _cpio(content, wanted)
    while content.read(_STEP):
        pass


def _cpio(source: _Pieces, wanted: Callable[[str], bool]) -> Iterator[Tuple[str, bytes]]:
    """cpio(5), the "new ASCII" format: names and contents are padded to 4.

    Of several hard links the last one has the content.
    """
    # names of a file that is still to come, by inode and device
    waiting: Dict[Tuple[bytes, bytes], List[str]] = {}
    while True:
        head = source.read(110)
        if len(head) < 110 or head[:6] not in (b"070701", b"070702"):
            raise ValueError("its archive ends too early")
        mode, links, size, name_size = (int(head[start : start + 8], 16) for start in (14, 38, 54, 94))
        if name_size > _NAME:
            raise ValueError("it has a name of %d bytes" % name_size)
        name = source.exactly(name_size + -(110 + name_size) % 4)[: name_size - 1].decode(
            "utf-8", "surrogateescape"
        )
        if name == "TRAILER!!!":
            return
        name, these = _inside(name), []
        if mode >> 12 == 8 and links > 1:
            these = waiting.setdefault((head[6:14], head[62:78]), [])
        if mode >> 12 == 8 and wanted(name):
            these.append(name)
        if not these or (links > 1 and not size):
            source.skip(size + -size % 4)
            continue
        if size > FILE:
            raise ValueError("%s has %d bytes" % (name, size))
        content = source.exactly(size + -size % 4)[:size]
        for each in these:
            yield each, content
        del these[:]


def _inside(name: str) -> str:
    return "/".join(part for part in name.split("/") if part not in ("", ".", ".."))
