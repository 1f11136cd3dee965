# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""cpio archives in the kernel's format (Documentation/driver-api/early-userspace/buffer-format.rst)."""
from typing import Dict, Union

FILE, DIRECTORY, LINK = 0o100644, 0o040755, 0o120777


def member(name: str, mode: int = FILE, data: bytes = b"", inode: int = 0, links: int = 1) -> bytes:
    label = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(label), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + label
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def cpio(files: Dict[str, Union[bytes, str, None]], trailer: bool = True) -> bytes:
    """Bytes are a file, a str is a symlink's target, None a directory; the directories above a path are made."""
    seen: Dict[str, Union[bytes, str, None]] = {}
    for path, content in files.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            seen.setdefault("/".join(parts[:depth]), None)
        seen[path] = content
    out = b""
    for number, (path, content) in enumerate(seen.items(), 1):
        mode = DIRECTORY if content is None else LINK if isinstance(content, str) else FILE
        out += member(path, mode, content.encode() if isinstance(content, str) else content or b"", number)
    return out + (member("TRAILER!!!", 0) if trailer else b"")
