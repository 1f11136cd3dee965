# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The newc archive (``cpio -H newc``), the one that kernels unpack:
Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import binascii
import struct
from typing import Callable, Iterable, Iterator, List, NamedTuple, Optional, Tuple

HEADER = 110
TRAILER = "TRAILER!!!"
BLOCK = 512  # what an archive is padded to

# cpio's own values, equal to those of stat.h on Linux
DIRECTORY = 0o040000
REGULAR = 0o100000
SYMLINK = 0o120000
FORMAT = 0o170000


class Member(NamedTuple):
    """One header: the name as it stands there, sizes in bytes."""

    name: str
    mode: int
    size: int
    uid: int = 0
    gid: int = 0
    links: int = 1
    mtime: int = 0
    inode: Tuple[int, int, int] = (0, 0, 0)  # device major, minor, inode number: what hard links share
    rdev: Tuple[int, int] = (0, 0)

    @property
    def kind(self) -> int:
        return self.mode & FORMAT


class Item(NamedTuple):
    """What is to be archived. ``chunks`` gives the ``size`` bytes of a file, each time that it is asked."""

    name: str
    mode: int
    size: int = 0
    chunks: Callable[[], Iterable[bytes]] = tuple


def item(name: str, data: bytes, mode: int = REGULAR | 0o644) -> Item:
    return Item(name, mode, len(data), lambda: (data,))


def directory(name: str) -> Item:
    return Item(name, DIRECTORY | 0o755)


def header(head: bytes) -> Optional[Tuple[Member, int]]:
    """The Member of a header of HEADER bytes, yet without its name, and the length of that (its NUL counted);
    None if it is no header.
    """
    if head[:6] not in (b"070701", b"070702"):
        return None
    try:
        fields = struct.unpack(">13I", binascii.unhexlify(head[6:HEADER]))
    except (binascii.Error, struct.error):
        return None
    inode, mode, uid, gid, links, mtime, size, major, minor, rmajor, rminor, name_size, _sum = fields
    return Member(
        "",
        mode,
        size,
        uid=uid,
        gid=gid,
        links=links,
        mtime=mtime,
        inode=(major, minor, inode),
        rdev=(rmajor, rminor),
    ), name_size


def padding(size: int, to: int = 4) -> int:
    return -size % to


def archive(items: Iterable[Item], first: int = 1) -> List[Tuple[Item, bytes]]:
    """Each item, and the trailer, with the bytes that precede its data.

    Owner root, times 0 and inodes in order from ``first``: the same items give the same bytes."""
    built = []
    for number, entry in enumerate(list(items) + [Item(TRAILER, 0)], first):
        name = entry.name.encode("utf-8", "surrogateescape") + b"\0"
        links = 2 if entry.mode & FORMAT == DIRECTORY else 1
        values = (number, entry.mode, 0, 0, links, 0, entry.size, 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in values) + name
        built.append((entry, head + b"\0" * padding(len(head))))
    return built


def size(built: Iterable[Tuple[Item, bytes]]) -> int:
    """The length of what ``write`` gives."""
    total = sum(len(head) + entry.size + padding(entry.size) for entry, head in built)
    return total + padding(total, BLOCK)


def write(built: Iterable[Tuple[Item, bytes]]) -> Iterator[bytes]:
    total = 0
    for piece in body(built):
        total += len(piece)
        yield piece
    yield b"\0" * padding(total, BLOCK)


def body(built: Iterable[Tuple[Item, bytes]]) -> Iterator[bytes]:
    for entry, head in built:
        yield head
        yield from entry.chunks()
        yield b"\0" * padding(entry.size)
