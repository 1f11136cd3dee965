# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory tree in memory: to be put on disk again for each case, and to be compared."""

import hashlib
import os
import re
import shutil
import stat
from typing import Dict, List, NamedTuple, Tuple, Union

LOCK = ".outoftree.kmod.lock"
Content = Union[bytes, str, None]  # a file's bytes, a symlink's target; a directory has none


class Node(NamedTuple):
    mode: int
    owner: Tuple[int, int]
    content: Content


class Tree(NamedTuple):
    """Every path below a directory, directories before what is in them."""

    nodes: Dict[str, Node]
    times: Dict[str, int]  # of the last change, in ns

    @property
    def key(self) -> bytes:
        """What tells it from trees with anything else in them; whose processes left something is no
        difference.
        """
        rows = []
        for path, (mode, owner, content) in self.nodes.items():
            data = content if isinstance(content, bytes) else repr(content).encode("utf-8", "surrogateescape")
            if path.endswith(LOCK):
                data = re.sub(rb"\d+", b"0", data)
            rows.append(
                b"%s\0%d %d %d %s\0"
                % (os.fsencode(anonymous(path)), mode, owner[0], owner[1], hashlib.sha256(data).digest())
            )
        return hashlib.sha256(b"".join(sorted(rows))).digest()


def anonymous(path: str) -> str:
    """A path without what is made up for each process."""
    return re.sub(r"/(outoftree\.kmod-|kmod-|tmp)[\w-]+", r"/\1*", path)


def capture(top: str) -> Tree:
    nodes: Dict[str, Node] = {}
    times: Dict[str, int] = {}
    todo = [""]
    while todo:
        below = todo.pop()
        for entry in sorted(os.scandir(os.path.join(top, below)), key=lambda entry: entry.name):
            path = os.path.join(below, entry.name)
            status = entry.stat(follow_symlinks=False)
            content: Content = None
            if stat.S_ISLNK(status.st_mode):
                content = os.readlink(entry.path)
            elif stat.S_ISDIR(status.st_mode):
                todo.append(path)
            elif stat.S_ISREG(status.st_mode):
                with open(entry.path, "rb", buffering=0) as handle:
                    content = handle.read()
            nodes[path] = Node(status.st_mode, (status.st_uid, status.st_gid), content)
            times[path] = status.st_mtime_ns
    return Tree(nodes, times)


def aged(tree: Tree) -> Tree:
    """As it is a minute later: what has changed just now is looked at twice, and a case would hang upon how
    fast this machine is.
    """
    return tree._replace(times={path: when - 60 * 10**9 for path, when in tree.times.items()})


def put(tree: Tree, top: str) -> None:
    """Make ``top`` that tree, of new files all of them."""
    clear(top)
    os.mkdir(top)
    us = (os.geteuid(), os.getegid())
    for path, (mode, owner, content) in tree.nodes.items():
        real = os.path.join(top, path)
        if isinstance(content, str):
            os.symlink(content, real)
            os.utime(real, ns=(tree.times[path], tree.times[path]), follow_symlinks=False)
            continue
        if content is None:
            os.mkdir(real)
        else:
            with open(real, "wb", buffering=0) as handle:
                handle.write(content)
            os.utime(real, ns=(tree.times[path], tree.times[path]))
        if owner != us:
            os.chown(real, *owner)
        os.chmod(real, stat.S_IMODE(mode))
    for path, node in reversed(list(tree.nodes.items())):  # what is in them has been made by now
        if node.content is None:
            os.utime(os.path.join(top, path), ns=(tree.times[path], tree.times[path]))


def clear(top: str) -> None:
    if os.path.lexists(top):
        shutil.rmtree(top)


def differences(one: Tree, other: Tree, but: str = "\0") -> List[str]:
    """What the other has more (+), less (-) or otherwise (~), but for files that are called so."""
    found = []
    for path in sorted(set(one.nodes) | set(other.nodes)):
        left, right = one.nodes.get(path), other.nodes.get(path)
        if left != right and not path.endswith(but):
            found.append(
                anonymous("+" + path if left is None else "-" + path if right is None else "~" + path)
            )
    return list(dict.fromkeys(found))
