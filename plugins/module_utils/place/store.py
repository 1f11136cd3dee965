# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drivers' builds on a host: /lib/modules/BUILT-FOR/extra/DRIVER/, as kmod packages lay them out, whether that kernel is installed or not.

Nothing is recorded apart from the tree: a *mark*, a small file in each directory that is a build or that we made, says so. So a clone
or a restored backup of the tree is understood, there is no database that could disagree with it, and removal is exact: what a mark names
goes, a directory goes when we made it and nothing else is left in it, and a directory that was there before stays, empty or not.

Modules are kept uncompressed, whatever they came as: every kmod reads those (that of EL 7 no zstd), and the digest of a module is then
the digest of its file.
"""
import hashlib
import os
import posixpath
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..errors import KmodError
from ..host import Host
from ..plan import Content, File, Node, Plan
from ..read import kernels
from ..read.kernels import Kernel

MARK = ".outoftree.kmod"
_MADE = "# outoftree.kmod made this directory, which goes when nothing else is left in it.\n"
_HOLDS = "# outoftree.kmod put these files here:\n"


class Stored(NamedTuple):
    """A build that lies in the store."""

    driver: str
    release: str  # that it was built for
    directory: str
    files: Tuple[Tuple[str, str], ...]  # (file name, sha256), by name

    @property
    def paths(self) -> List[str]:
        return [self.directory + "/" + name for name, _sha256 in self.files]


def modules_root(host: Host) -> str:
    """Where the host's modules directories are."""
    return "/lib/modules" if host.listdir("/lib/modules") or not host.listdir("/usr/lib/modules") else "/usr/lib/modules"


def installed(host: Host) -> List[Kernel]:
    """The installed kernels, oldest first. Error: MODULES_APART, where /lib/modules and /usr/lib/modules are two directories with kernels in both."""
    root = modules_root(host)
    found = kernels.installed(host)
    for kernel in found:
        if host.real(posixpath.dirname(kernel.modules_dir)) != host.real(root):
            raise KmodError(kernel.modules_dir, "lies apart from %s" % root, "Make one directory a symlink to the other", "MODULES_APART")
    return found


def builds(host: Host, driver: Optional[str] = None) -> List[Stored]:
    """What lies in the store, of one driver or of all, by release and directory."""
    found = []
    root = modules_root(host)
    for release in host.listdir(root):
        extra = "%s/%s/extra" % (root, release)
        for name in host.listdir(extra) if driver is None else [driver]:
            top = "%s/%s" % (extra, name)
            for directory in [top] + ["%s/%s" % (top, below) for below in host.listdir(top)]:
                files = marked(host, directory)
                if files:
                    found.append(Stored(name, release, directory, files))
    return found


def directories(host: Host, driver: str) -> List[str]:
    """All directories that may be ours on account of a driver, there or not."""
    root = modules_root(host)
    below = ("", "/extra", "/extra/" + driver, "/weak-updates", "/weak-updates/" + driver, "/weak-updates/outoftree.kmod",
             "/weak-updates/outoftree.kmod/" + driver)
    return ["/etc/depmod.d"] + ["%s/%s%s" % (root, release, path) for release in host.listdir(root) for path in below]


def marked(host: Host, directory: str) -> Tuple[Tuple[str, str], ...]:
    """(file name, sha256) of what the mark in a directory says is ours in it; nothing where there is none."""
    rows = [line.split("  ", 1) for line in _mark(host, directory).splitlines() if not line.startswith("#")]
    return tuple((row[1], row[0]) for row in rows if len(row) == 2)


def _mark(host: Host, directory: str) -> str:
    path = directory + "/" + MARK
    return host.read_text(path) if host.is_file(path) else ""


def place_for(host: Host, driver: str, release: str, digests: Sequence[str], taken: Iterable[str]) -> str:
    """The directory for a build: the driver's own, or one below it where that one is ``taken`` or holds someone else's modules."""
    top = "%s/%s/extra/%s" % (modules_root(host), release, driver)
    foreign = not marked(host, top) and any(".ko" in name for name in host.listdir(top))
    if top in taken or foreign:
        return "%s/%s" % (top, hashlib.sha256(" ".join(sorted(digests)).encode()).hexdigest()[:12])
    return top


class Tree:
    """The changes to a tree of which we keep track of the directories: those made get a mark, those left empty go if they bear one."""

    def __init__(self, host: Host, plan: Plan) -> None:
        self.host = host
        self.plan = plan
        self.kept: Set[str] = set()
        self.removed: Set[str] = set()
        self.touched: Set[str] = set()

    def directory(self, path: str, holds: str = "") -> None:
        """Make a directory and its missing parents, each with its mark; ``holds`` are the lines of a build's mark."""
        made = not self.host.exists(path)
        if made:
            self.directory(posixpath.dirname(path))
        mark = path + "/" + MARK
        if mark in self.kept or not (made or holds):
            return
        text = _MADE if made or _MADE in _mark(self.host, path) else ""
        self._put(mark, File(Content.of((text + (_HOLDS + holds if holds else "")).encode("utf-8", "surrogateescape"))))

    def put(self, path: str, node: Node) -> bool:
        """Put a file or link, in a directory that is made if need be. True if that is a change."""
        self.directory(posixpath.dirname(path))
        return self._put(path, node)

    def _put(self, path: str, node: Node) -> bool:
        self.kept.add(path)
        return self.plan.put(path, node)

    def remove(self, path: str) -> None:
        self.touched.add(posixpath.dirname(path))
        if path not in self.removed and self.plan.put(path, None):
            self.removed.add(path)

    def sweep(self) -> None:
        """Remove the marks of builds that went, and the directories that we made and that hold nothing else any more."""
        todo = set(self.touched)
        while todo:
            directory = max(todo, key=len)  # the deepest first: whether it goes decides on the one above
            todo.remove(directory)
            if self._sweep(directory):
                todo.add(posixpath.dirname(directory))

    def _sweep(self, directory: str) -> bool:
        mark = directory + "/" + MARK
        text = _mark(self.host, directory)
        left = {directory + "/" + name for name in self.host.listdir(directory)} - self.removed - {mark}
        if not text or mark in self.kept:
            return False
        if left.intersection(_old_files(self.host, directory)):
            return False
        if left or any(path.startswith(directory + "/") for path in self.kept):
            shared = _MADE in text and self._holds_ours(directory)
            self.plan.put(mark, File(Content.of(_MADE.encode())) if shared else None)
            return False
        self.remove(mark)
        if _MADE in text:
            self.remove(directory)
        return _MADE in text

    def _holds_ours(self, directory: str) -> bool:
        """Whether anything below is ours: what is left to others alone keeps no mark of ours."""
        if any(path.startswith(directory + "/") for path in self.kept):
            return True
        for below, _names, files in os.walk(self.host.real(directory)):
            paths = {self.host.inside(os.path.join(below, name)) for name in files if name.startswith(("outoftree.kmod-", MARK))}
            if paths - {self._real(path) for path in self.removed} - {self._real(directory + "/" + MARK)}:
                return True
        return False

    def _real(self, path: str) -> str:
        return self.host.inside(self.host.real(path, follow=False))


def put_build(tree: Tree, directory: str, contents: Dict[str, Content]) -> None:
    """Put a build's files into its directory, its mark first: a run that is cut off leaves nothing that does not say whose it is."""
    before = _old_files(tree.host, directory)
    tree.directory(directory, "".join("%s  %s\n" % (content.sha256, name) for name, content in sorted(contents.items())))
    for name, content in sorted(contents.items()):
        tree.put(directory + "/" + name, File(content))
    for path in before:
        if posixpath.basename(path) not in contents:
            tree.remove(path)


def remove_build(tree: Tree, build: Stored) -> None:
    """Remove a build's files; ``Tree.sweep`` takes its mark and its directory."""
    for path in _old_files(tree.host, build.directory):
        tree.remove(path)
    tree.touched.add(build.directory)


def _old_files(host: Host, directory: str) -> List[str]:
    return [path for path in (directory + "/" + name for name, _sha256 in marked(host, directory)) if host.lstat(path)]
