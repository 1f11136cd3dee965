# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The drivers' builds on a host: /lib/modules/BUILT-FOR/extra/DRIVER/, as kmod packages lay them out, whether
that kernel is installed or not.

Nothing is recorded apart from the tree: a *mark*, a small file in each directory that is a build or that we
made, says so. So a clone or a restored backup of the tree is understood, there is no database that could
disagree with it, and removal is exact: what a mark names goes if it is still what the mark says by its
digest, a directory goes when we made it and nothing else is left in it, and a directory that was there before
stays, empty or not. A mark may have come with a package or a tree, so it can name nothing but modules beside
it. It says its format; one that does not is of format 1, and one of a newer format is not guessed at.

Modules are kept uncompressed, whatever they came as: every kmod reads those (that of EL 7 no zstd), and the
digest of a module is then the digest of its file.
"""

import hashlib
import posixpath
import re
from typing import Dict, Iterable, List, NamedTuple, Optional, Set, Tuple

from ..errors import KmodError, MarkNewer
from ..host import Host
from ..judge.selection import Build
from ..plan import Content, File, Node, Plan
from ..read import kernels, names
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel, modules_root

MARK = ".outoftree.kmod"
FORMAT = 1
_ROW = re.compile(r"(?P<sha256>[0-9a-f]{64})  (?P<name>.*)")
_MADE = "# outoftree.kmod made this directory, which goes when nothing else is left in it.\n"
_HOLDS = "# outoftree.kmod put these files here:\n"
_FORMAT = "# outoftree.kmod format %d\n"
_FORMAT_FOUND = re.compile(r"^# outoftree\.kmod format (\d{1,9})$", re.M)


class Stored(NamedTuple):
    """A build that lies in the store."""

    driver: str
    release: str  # that it was built for
    directory: str
    files: Tuple[Tuple[str, str], ...]  # (file name, sha256); two of one name while it is being replaced

    @property
    def paths(self) -> List[str]:
        return sorted({self.directory + "/" + name for name, _sha256 in self.files})


def releases(host: Host) -> List[str]:
    """The kernels that have, or had, a directory for modules. Not another name for such a directory."""
    root = modules_root(host)
    return [
        name
        for name in host.listdir(root)
        if names.is_release(name) and not _other_name(host, "%s/%s" % (root, name))
    ]


def _other_name(host: Host, path: str) -> bool:
    return host.is_link(path) and posixpath.dirname(host.real(path)) == host.real(posixpath.dirname(path))


def installed(host: Host) -> List[Kernel]:
    """The installed kernels, oldest first.

    Error: MODULES_APART, where /lib/modules and /usr/lib/modules are two directories with kernels in both.
    """
    root = modules_root(host)
    found = kernels.installed(host)
    for kernel in found:
        if host.real(posixpath.dirname(kernel.modules_dir)) != host.real(root):
            raise KmodError(
                kernel.modules_dir,
                "lies apart from %s" % root,
                "Make one directory a symlink to the other",
                "MODULES_APART",
            )
    return found


def builds(host: Host, driver: Optional[str] = None) -> List[Stored]:
    """What lies in the store, of one driver or of all, by release and directory."""
    found = []
    root = modules_root(host)
    for release in releases(host):
        extra = "%s/%s/extra" % (root, release)
        for name in host.listdir(extra) if driver is None else [driver]:
            top = "%s/%s" % (extra, name)
            for directory in [top] + ["%s/%s" % (top, below) for below in host.listdir(top)]:
                files = marked(host, directory)
                if files:
                    found.append(Stored(name, release, directory, files))
    return found


def check(host: Host) -> None:
    """Refuse what a newer version has written, for what would not look at the store otherwise: a driver is
    deployed whole, by one version. Error: MARK_NEWER.
    """
    builds(host)


def directories(host: Host, driver: str) -> List[str]:
    """All directories that may be ours on account of a driver, there or not."""
    root = modules_root(host)
    below = (
        "",
        "/extra",
        "/extra/" + driver,
        "/weak-updates",
        "/weak-updates/" + driver,
        "/weak-updates/outoftree.kmod",
        "/weak-updates/outoftree.kmod/" + driver,
    )
    return ["/etc/depmod.d"] + [
        "%s/%s%s" % (root, release, path) for release in releases(host) for path in below
    ]


def marked(host: Host, directory: str) -> Tuple[Tuple[str, str], ...]:
    """(file name, sha256) of what the mark in a directory says is ours in it; nothing where there is none.

    Error: MARK_NEWER.
    """
    rows = [_ROW.fullmatch(line) for line in _mark(host, directory).splitlines()]
    return tuple(
        (row.group("name"), row.group("sha256"))
        for row in rows
        if row and names.is_stored_module(row.group("name"))
    )


def _mark(host: Host, directory: str) -> str:
    path = directory + "/" + MARK
    text = host.read_text(path) if host.is_file(path) and not host.is_link(path) else ""
    found = max(map(int, _FORMAT_FOUND.findall(text)), default=FORMAT)
    if found > FORMAT:
        raise MarkNewer(path, found, FORMAT)
    return text


def _mark_text(made: bool, rows: str) -> File:
    """A mark that says whether we made the directory, and what is ours in it."""
    text = _FORMAT % FORMAT + (_MADE if made else "") + (_HOLDS + rows if rows else "")
    return File(Content.of(text.encode("utf-8", "surrogateescape")))


def file_name(module: KernelModule) -> str:
    """What a module's file is called in the store. Error: MODULE_NAME."""
    if not names.is_module(module.name):
        raise KmodError(
            module.path,
            "is the module %s, a name that a kernel's tools do not take" % module.name[:80],
            "Rebuild it under a plain name",
            "MODULE_NAME",
        )
    return names.stored_name(module.path, module.name)


def files_of(build: Build) -> List[str]:
    """The paths of a build's files in the store."""
    return ["%s/%s" % (build.directory, file_name(module)) for module in build.modules]


def place_for(host: Host, driver: str, build: Build, *, taken: Iterable[str]) -> str:
    """The directory for a build: the driver's own, or one below it where that one is ``taken`` or holds
    someone else's modules.
    """
    top = "%s/%s/extra/%s" % (modules_root(host), build.release, driver)
    foreign = not marked(host, top) and any(names.may_be_module(name) for name in host.listdir(top))
    if top in taken or foreign:
        return "%s/%s" % (top, hashlib.sha256(" ".join(build.digests).encode()).hexdigest()[:12])
    return top


class ModuleTree:
    """The changes to a tree of which we keep track of the directories: those made get a mark, those left
    empty go if they bear one.

    What is put is planned at once, what is removed last of all (``sweep``), once nothing leads to it any
    more.
    """

    def __init__(self, host: Host, plan: Plan) -> None:
        self.host = host
        self.plan = plan
        self.kept: Set[str] = set()
        self.removed: List[str] = []
        self.left: List[str] = []  # what lies in the place of a file of ours, and is not that
        # directory -> the rows of its mark, once what is to be removed from it is gone
        self.last: Dict[str, str] = {}
        self.touched: Set[str] = set()

    def directory(self, path: str, holds: str = "") -> None:
        """Make a directory and its missing parents, each with its mark; ``holds`` are the lines of a build's
        mark.
        """
        made = not self.host.exists(path)
        if made:
            self.directory(posixpath.dirname(path))
        mark = path + "/" + MARK
        if mark in self.kept or not (made or holds):
            return
        self._put(mark, _mark_text(made or _MADE in _mark(self.host, path), holds))

    def put(self, path: str, node: Node) -> bool:
        """Put a file or link, in a directory that is made if need be. True if that is a change."""
        self.directory(posixpath.dirname(path))
        return self._put(path, node)

    def _put(self, path: str, node: Node) -> bool:
        self.kept.add(path)
        return self.plan.put(path, node)

    def remove(self, path: str) -> None:
        self.touched.add(posixpath.dirname(path))
        if path not in self.removed and self.host.lstat(path) is not None:
            self.removed.append(path)

    def remove_first(self, path: str) -> None:
        """For what must be gone before depmod runs."""
        self.remove(path)
        self.plan.put(path, None)

    def sweep(self) -> None:
        """Remove what is to be removed, then the marks of builds that went, and the directories that we made
        and that hold nothing else any more.
        """
        for path in self.removed:
            self.plan.put(path, None)
        for directory, rows in sorted(self.last.items()):
            self.directory(directory, rows)
        todo = set(self.touched)
        while todo:
            # the deepest first: whether it goes decides on the one above
            directory = max(todo, key=lambda each: (len(each), each))
            todo.remove(directory)
            if self._sweep(directory):
                todo.add(posixpath.dirname(directory))

    def _sweep(self, directory: str) -> bool:
        mark = directory + "/" + MARK
        text = _mark(self.host, directory)
        left = {directory + "/" + name for name in self.host.listdir(directory)} - set(self.removed) - {mark}
        if not text or mark in self.kept:
            return False
        if left.intersection(directory + "/" + name for name, _sha256 in marked(self.host, directory)) - set(
            self.left
        ):
            return False
        if left or any(path.startswith(directory + "/") for path in self.kept):
            shared = _MADE in text and self._holds_ours(directory)
            if not shared:
                self.plan.put(mark, None)
            elif marked(self.host, directory):
                self.plan.put(mark, _mark_text(True, ""))
            return False
        self._gone(mark)
        if _MADE in text:
            self._gone(directory)
        return _MADE in text

    def _gone(self, path: str) -> None:
        self.removed.append(path)
        self.plan.put(path, None)

    def _holds_ours(self, directory: str) -> bool:
        """Whether anything below is ours: what is left to others alone keeps no mark of ours."""
        if any(path.startswith(directory + "/") for path in self.kept):
            return True
        todo = [directory]
        while todo:
            real, entries = self.host.scan(todo.pop())
            below = self.host.inside(real)
            todo += ["%s/%s" % (below, each.name) for each in entries if each.is_dir(follow_symlinks=False)]
            paths = {
                "%s/%s" % (below, each.name)
                for each in entries
                if each.name.startswith(("outoftree.kmod-", MARK))
            }
            if paths - {self._real(path) for path in self.removed} - {self._real(directory + "/" + MARK)}:
                return True
        return False

    def _real(self, path: str) -> str:
        return self.host.inside(self.host.real(path, follow=False))


def put_build(tree: ModuleTree, directory: str, contents: Dict[str, Content]) -> None:
    """Put a build's files into its directory, its mark first: a run that is cut off leaves nothing that does
    not say whose it is.

    Over another build the mark speaks of both until all files are there.
    """
    new = _rows((name, content.sha256) for name, content in contents.items())
    old = _rows(marked(tree.host, directory))
    if old in ("", new):
        tree.directory(directory, new)
    else:
        tree.directory(directory, old + new)
        tree.kept.discard(directory + "/" + MARK)
        tree.last[directory] = new
    for name, content in sorted(contents.items()):
        tree.put(directory + "/" + name, File(content))
    for path in ours_in(tree.host, directory):
        if posixpath.basename(path) not in contents:
            tree.remove(path)


def keep_build(tree: ModuleTree, directory: str, files: Dict[str, str]) -> None:
    """Have the mark of a build that stays speak of these files (name to sha256) alone: a run that was cut off
    may have left others in it.
    """
    if sorted(marked(tree.host, directory)) != sorted(files.items()):
        tree.last[directory] = _rows(files.items())


def _rows(files: Iterable[Tuple[str, str]]) -> str:
    return "".join("%s  %s\n" % (sha256, name) for name, sha256 in sorted(files))


def remove_build(tree: ModuleTree, build: Stored) -> None:
    """Remove a build's files; ``ModuleTree.sweep`` takes its mark and its directory.

    What someone else has put in their place stays.
    """
    mine = ours_in(tree.host, build.directory)
    for path in mine:
        tree.remove(path)
    tree.left += [path for path in build.paths if path not in mine and tree.host.lstat(path) is not None]
    tree.touched.add(build.directory)


def ours_in(host: Host, directory: str) -> List[str]:
    """The files in a directory that are what its mark says of them."""
    rows = marked(host, directory)
    return [
        path
        for path in sorted({"%s/%s" % (directory, name) for name, _sha256 in rows})
        if is_ours(host, path, rows)
    ]


def is_ours(host: Host, path: str, rows: Iterable[Tuple[str, str]]) -> bool:
    """Whether a regular file is one that these rows of a mark speak of."""
    digests = {sha256 for name, sha256 in rows if name == posixpath.basename(path)}
    return host.is_file(path) and not host.is_link(path) and Content.stored(host, path).sha256 in digests
