# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What modprobe would find, read out of a tree's own indexes: modules.dep and, as libkmod-index.c reads it,
modules.dep.bin.
"""

import posixpath
import struct
from typing import Dict, Iterator, List, Optional, Set, Tuple

from tests.crash.tree import Node

PREFIX, VALUES, CHILDREN, OFFSET = 1 << 31, 1 << 30, 1 << 29, (1 << 28) - 1
MAGIC = b"\xb0\x07\xf4\x57\0\2\0\1"
Nodes = Dict[str, Node]


class Damaged(Exception):
    """An index that libkmod could not read."""


def pairs(data: bytes) -> List[Tuple[str, str]]:
    """(key, value) of an index."""
    if data[:8] != MAGIC or len(data) < 12:
        raise Damaged("%d bytes, no index" % len(data))
    try:
        return list(_below(data, struct.unpack_from(">I", data, 8)[0], b"", 0))
    except (struct.error, ValueError, IndexError) as error:
        raise Damaged(str(error)) from None


def _below(data: bytes, node: int, path: bytes, depth: int) -> Iterator[Tuple[str, str]]:
    at = node & OFFSET
    if not at:
        return
    if depth > 1000:
        raise Damaged("it goes in circles")
    if node & PREFIX:
        end = data.index(b"\0", at)
        path += data[at:end]
        at = end + 1
    children: List[Tuple[int, int]] = []
    if node & CHILDREN:
        first, last = data[at], data[at + 1]
        at += 2
        for letter in range(first, last + 1):
            children.append((letter, struct.unpack_from(">I", data, at)[0]))
            at += 4
    if node & VALUES:
        count = struct.unpack_from(">I", data, at)[0]
        at += 4
        for _unused in range(count):
            end = data.index(b"\0", at + 4)
            yield path.decode(errors="replace"), data[at + 4 : end].decode(errors="replace")
            at = end + 1
    for letter, child in children:
        yield from _below(data, child, path + bytes([letter]), depth + 1)


def real(nodes: Nodes, path: str) -> Optional[Node]:
    """What a path leads to in the tree, None where that is nothing."""
    done: List[str] = []
    todo = [part for part in path.split("/") if part][::-1]
    for _step in range(400):
        if not todo:
            return nodes.get("/".join(done))
        part = todo.pop()
        if part == "..":
            done = done[:-1]
        elif part != ".":
            node = nodes.get("/".join(done + [part]))
            if node is not None and isinstance(node.content, str):
                done = [] if node.content.startswith("/") else done
                todo += [piece for piece in node.content.split("/") if piece][::-1]
            else:
                done.append(part)
    return None


def modules(nodes: Nodes, release: str) -> Tuple[Dict[str, str], Set[str], Set[str]]:
    """{module: its file below the modules directory} as modprobe finds them, what is wrong, and which of them
    modules.dep (for dracut) lacks.
    """
    top = "lib/modules/" + release
    wrong: Set[str] = set()
    binary, text = real(nodes, top + "/modules.dep.bin"), real(nodes, top + "/modules.dep")
    if binary is None or text is None:
        return {}, {"modules.dep or modules.dep.bin is not there"}, set()
    found: Dict[str, str] = {}
    try:
        found = {key: value.split(":")[0] for key, value in pairs(binary.content)}  # type: ignore[arg-type]
    except Damaged as error:
        wrong.add("modules.dep.bin: %s" % error)
    listed = {name_of(line) for line in text.content.decode(errors="replace").splitlines()}  # type: ignore[union-attr]
    for name, path in list(found.items()):
        file = real(nodes, posixpath.join(top, path))
        if file is None or not isinstance(file.content, bytes) or file.content[:4] != b"\x7fELF":
            wrong.add("%s: modules.dep.bin names %s, which is no module" % (name, path))
            del found[name]
    return found, wrong, set(found) - listed


def name_of(line: str) -> str:
    return line.split(":")[0].rsplit("/", 1)[-1].split(".")[0].replace("-", "_")


def aliases(nodes: Nodes, release: str) -> Set[Tuple[str, str, str]]:
    """(index, key, value) of the other indexes. Error: Damaged."""
    found = set()
    for name in ("modules.alias.bin", "modules.symbols.bin", "modules.builtin.bin"):
        node = real(nodes, "lib/modules/%s/%s" % (release, name))
        if node is None or not isinstance(node.content, bytes):
            raise Damaged(name + " is not there")
        try:
            found.update((name, key, value) for key, value in pairs(node.content))
        except Damaged as error:
            raise Damaged("%s: %s" % (name, error)) from None
    return found
