# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The binary indexes that depmod makes and modprobe reads (``modules.dep.bin`` and its like): a tree of
names.

kmod: ``libkmod/libkmod-index.c``. Numbers are big-endian. A node is a prefix, the children by their next
character, and the values.
"""

import struct
from typing import Dict, Iterator, List, Optional, Tuple

MAGIC = b"\xb0\x07\xf4\x57"
_PREFIX, _VALUES, _CHILDREN, _OFFSET = 0x80000000, 0x40000000, 0x20000000, 0x0FFFFFFF


def whole(data: bytes) -> bool:
    """Whether it begins as an index does, and its root is in it (one of nothing has none).

    The root is written last, and its place then.
    """
    if data[:4] != MAGIC or len(data) < 12:
        return False
    root: int = struct.unpack_from(">I", data, 8)[0]
    return 12 <= root & _OFFSET < len(data) and root > _OFFSET or root == len(data) == 12


def entries(data: bytes) -> Dict[str, List[str]]:
    """Each name with its values.

    Of modules.dep.bin: module name to ``["PATH: PATHS THAT IT NEEDS"]``. Empty where it is damaged.
    """
    try:
        return dict(_walk(data))
    except (struct.error, ValueError, IndexError, UnicodeDecodeError):
        return {}


def _walk(data: bytes) -> Iterator[Tuple[str, List[str]]]:
    if not whole(data):
        raise ValueError
    todo = [(struct.unpack_from(">I", data, 8)[0], "")] if len(data) > 12 else []
    steps = 0
    while todo:
        node, name = todo.pop()
        steps += 1
        if steps > len(data):  # each node takes some bytes, unless they form a loop
            raise ValueError
        prefix, children, values = _node(data, node)
        if values:
            yield name + prefix, values
        todo += [(child, name + prefix + letter) for letter, child in children]


def _node(data: bytes, node: int) -> Tuple[str, List[Tuple[str, int]], List[str]]:
    at = node & _OFFSET
    prefix, children, values = "", [], []
    if node & _PREFIX:
        end = data.index(b"\0", at)
        prefix, at = data[at:end].decode("utf-8", "surrogateescape"), end + 1
    if node & _CHILDREN:
        first, last = data[at], data[at + 1]
        offsets = struct.unpack_from(">%dI" % (last - first + 1), data, at + 2)
        children = [(chr(first + place), offset) for place, offset in enumerate(offsets) if offset]
        at += 2 + 4 * len(offsets)
    if node & _VALUES:
        (count,) = struct.unpack_from(">I", data, at)
        at += 4
        for _number in range(min(count, len(data))):
            end = data.index(b"\0", at + 4)  # behind its priority
            values.append(data[at + 4 : end].decode("utf-8", "surrogateescape"))
            at = end + 1
    return prefix, children, values


def lookup(data: bytes, name: str) -> Optional[str]:
    """The first value of one name (``index_search``); None where there is none, or the index is damaged."""
    try:
        if not whole(data):
            return None
        node = struct.unpack_from(">I", data, 8)[0]
        rest = name
        while True:
            prefix, children, values = _node(data, node)
            if not rest.startswith(prefix):
                return None
            rest = rest[len(prefix) :]
            if not rest:
                return values[0] if values else None
            child = dict(children).get(rest[0])
            if child is None or not child & _OFFSET:
                return None
            node, rest = child, rest[1:]
    except (struct.error, ValueError, IndexError, UnicodeDecodeError):
        return None
