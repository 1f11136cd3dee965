# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cpio archives in the kernel's format (Documentation/driver-api/early-userspace/buffer-format.rst)."""

import os
import stat
from pathlib import Path
from typing import Dict, Mapping, NamedTuple, Tuple, Union

FILE, DIRECTORY, LINK = 0o100644, 0o040755, 0o120777


class Device(NamedTuple):
    """A character device."""

    major: int
    minor: int


Content = Union[bytes, str, Device, None]  # a file's bytes, a symlink's target, a device, a directory


def member(
    name: str,
    mode: int = FILE,
    data: bytes = b"",
    *,
    inode: int = 0,
    links: int = 1,
    device: Tuple[int, int] = (0, 0),
) -> bytes:
    label = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(label), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + label
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


TRAILER = member("TRAILER!!!", 0)


def cpio(files: Mapping[str, Content], *, permissions: int = 0o644, trailer: bool = True) -> bytes:
    """An archive of relative paths; ``permissions`` are those of files.

    The directories above a path are made.
    """
    seen: Dict[str, Content] = {}
    for path, content in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            seen.setdefault("/".join(parts[:depth]), None)
        seen[path] = content
    out = b""
    for number, (path, content) in enumerate(seen.items(), 1):
        if isinstance(content, Device):
            out += member(path, stat.S_IFCHR | 0o600, inode=number, device=content)
        elif isinstance(content, bytes):
            out += member(path, stat.S_IFREG | permissions, content, inode=number)
        else:
            out += member(
                path, DIRECTORY if content is None else LINK, (content or "").encode(), inode=number
            )
    return out + TRAILER * trailer


def of_tree(top: Path) -> bytes:
    """An archive of all that is below a directory, with its modes."""
    out = b""
    for number, path in enumerate(sorted(top.rglob("*")), 1):
        data = (
            os.readlink(path).encode() if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        )
        out += member(str(path.relative_to(top)), path.lstat().st_mode, data, inode=number)
    return out + TRAILER
