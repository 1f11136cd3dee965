# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host as it will be once plans are carried out, so that check mode can plan what follows from them.

Files are as they are planned, those that a tool derives as that tool makes them now, elsewhere. What commands do
to the running machine is not seen, nor what a tool builds only when it is written: such a file is not there.
"""

import errno
import os
import stat
import time
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

from .errors import KmodError, from_oserror
from .host import Host
from .plan import Change, Content, Derived, Directory, File, Link, Node, Plan
from .reader import READ_LIMIT, Reader

KIND = {File: stat.S_IFREG, Link: stat.S_IFLNK, Directory: stat.S_IFDIR}


class _Seen(NamedTuple):
    node: Optional[Node]  # None: nothing is there any more
    status: Optional[os.stat_result]


class _Entry(NamedTuple):
    """What stands for an os.DirEntry."""

    name: str
    seen: _Seen

    def is_file(self, follow_symlinks: bool = True) -> bool:
        return isinstance(self.seen.node, File)

    def is_dir(self, follow_symlinks: bool = True) -> bool:
        return isinstance(self.seen.node, Directory)

    def is_symlink(self) -> bool:
        return isinstance(self.seen.node, Link)


class Foreseen(Host):
    """``plan`` carried out on ``host``, which may be a foreseen one itself."""

    as_it_is = False

    def __init__(self, host: Host, plan: Plan) -> None:
        super().__init__(host.root)
        self.nodes: Dict[str, _Seen] = dict(host.nodes) if isinstance(host, Foreseen) else {}
        try:
            for step in plan.steps:
                if isinstance(step, Change):
                    self._put(step)
                elif isinstance(step, Derived):
                    for change in step.make(self):
                        self._put(change)
        finally:
            plan.clear()

    def _put(self, change: Change) -> None:
        node = change.after
        if isinstance(node, File) and not node.content.sha256:
            return
        self.nodes[self.real(change.path, follow=False)] = _Seen(node, self._status(node) if node else None)

    def _status(self, node: Node) -> os.stat_result:
        mode = KIND[type(node)] | (0o777 if isinstance(node, Link) else node.mode)
        size = node.content.size if isinstance(node, File) else 0
        owner = (isinstance(node, File) and node.owner) or (os.geteuid(), os.getegid())
        now = time.time_ns() if hasattr(time, "time_ns") else int(time.time() * 10**9)
        seconds = [now // 10**9] * 3
        more: Any = dict.fromkeys(("st_atime_ns", "st_mtime_ns", "st_ctime_ns"), now)
        more.update(dict.fromkeys(("st_atime", "st_mtime", "st_ctime"), now / 10**9))
        return os.stat_result([mode, -len(self.nodes) - 1, 0, 1, *owner, size, *seconds], more)

    # Looking

    def _link(self, real: str) -> Optional[str]:
        seen = self.nodes.get(real)
        if seen is None:
            return super()._link(real)
        return seen.node.target if isinstance(seen.node, Link) else None

    def entry(self, real: str) -> os.stat_result:
        if real not in self.nodes:
            return super().entry(real)
        status = self.nodes[real].status
        if status is None:
            raise _failed(errno.ENOENT)
        return status

    def readlink(self, path: str) -> str:
        seen = self.nodes.get(self.real(path, follow=False))
        if seen is None:
            return super().readlink(path)
        if not isinstance(seen.node, Link):
            raise from_oserror(path, _failed(errno.EINVAL if seen.node else errno.ENOENT), "read the symlink")
        return seen.node.target

    def listdir(self, path: str) -> List[str]:
        real = self.real(path)
        return self._names(real, [] if real in self.nodes else super().listdir(path))

    def scan(self, path: str) -> Tuple[str, List[Any]]:
        real = self.real(path)
        seen = self.nodes.get(real)
        if seen and not isinstance(seen.node, Directory):
            raise _failed(errno.ENOTDIR if seen.node else errno.ENOENT)
        there = {} if seen else {each.name: each for each in super().scan(path)[1]}
        return real, [
            _Entry(name, self.nodes[real + "/" + name]) if real + "/" + name in self.nodes else there[name]
            for name in self._names(real, there)
        ]

    def _names(self, real: str, there: Iterable[str]) -> List[str]:
        """The names in a directory, of those that are there and those that are planned."""
        names = set(there)
        for each, seen in self.nodes.items():
            above, name = os.path.split(each)
            if above == real:
                (names.discard if seen.node is None else names.add)(name)
        return sorted(names)

    def _reader(self, path: str, real: str) -> Iterator[Reader]:
        seen = self.nodes.get(real)
        if seen is None:
            yield from super()._reader(path, real)
        elif isinstance(seen.node, File) and seen.status:
            yield _Planned(path, seen.node.content, seen.status)
        elif seen.node is None:
            raise from_oserror(path, _failed(errno.ENOENT), "open the file")
        else:
            raise KmodError(path, "is not a regular file", "Name a file", "FILE_NOT_REGULAR")

    def lay(self, path: str, name: str) -> None:
        seen = self.nodes.get(self.real(path))
        if seen is None or not isinstance(seen.node, File):
            super().lay(path, name)
        else:
            with open(name, "wb") as file:
                for chunk in seen.node.content.chunks():
                    file.write(chunk)

    def laid_out(self, path: str, name: str) -> str:
        os.mkdir(name)
        for each in self.listdir(path):
            if self.is_file(path + "/" + each):
                self.lay(path + "/" + each, os.path.join(name, each))
        return name


def _failed(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class _Planned(Reader):
    """A file that is planned, read in pieces."""

    def __init__(self, path: str, content: Content, status: os.stat_result) -> None:
        super().__init__(path, -1, status)
        self.content = content

    def chunks(self, size: int = 1 << 18, limit: int = READ_LIMIT) -> Iterator[bytes]:
        yield from self.content.chunks()

    def at(self, offset: int, size: int) -> bytes:
        found, position = b"", 0
        for chunk in self.content.chunks():
            start, stop = max(offset - position, 0), max(offset + size - position, 0)
            found += chunk[start:stop]
            position += len(chunk)
        return found
