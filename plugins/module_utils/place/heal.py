# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Weak links of any origin that lead nowhere: led to another build of the same driver that their kernel
takes, or removed.
"""

import posixpath
from typing import Dict, Iterable, List, NamedTuple, Optional, Sequence, Set

from ..host import Host
from ..judge.selection import Build, Judge, select
from ..plan import Link
from ..read import ko, names
from ..read.kernels import Kernel, modules_root
from . import store


class Healed(NamedTuple):
    """A dangling link, what it said, and what it says now; ``after`` is None where it was removed."""

    path: str
    before: str
    after: Optional[str]

    def as_dict(self) -> Dict[str, Optional[str]]:
        return {"path": self.path, "before": self.before, "after": self.after}


def heal(tree: store.ModuleTree, kernels: Sequence[Kernel], judge: Judge, *, skip: Set[str]) -> List[Healed]:
    """Plan the repair of the dangling links in these kernels' weak-updates, but of those at the paths
    ``skip``.
    """
    healed = []
    for kernel in kernels:
        top = "%s/%s/weak-updates" % (modules_root(tree.host), kernel.release)
        for directory, files in sorted(dangling(tree.host, top, skip).items()):
            below = directory[len(top) + 1 :]
            build = select([kernel], _builds(tree.host, below, files), judge)[0].build
            for name in files:
                path, after = "%s/%s" % (directory, name), None
                before = tree.host.readlink(path)
                if build and build.release != kernel.release:
                    after = posixpath.relpath("%s/%s" % (build.directory, name), directory)
                    tree.put(path, Link(after))
                else:
                    tree.remove(path)
                healed.append(Healed(path, before, after))
    return healed


def dangling(host: Host, directory: str, skip: Iterable[str] = ()) -> Dict[str, List[str]]:
    """The names of links to modules that lead nowhere, by the directory that they are in."""
    found: Dict[str, List[str]] = {}
    for name in host.listdir(directory):
        path = "%s/%s" % (directory, name)
        if host.is_link(path):
            if names.may_be_module(name) and path not in skip and not host.exists(path):
                found.setdefault(directory, []).append(name)
        elif host.is_dir(path):
            found.update(dangling(host, path, skip))
    return found


def _builds(host: Host, below: str, files: Sequence[str]) -> List[Build]:
    """Builds with files of all these names: where weak-updates/X links to, extra/X or updates/X of any
    release, hold the same driver.
    """
    root = modules_root(host)
    found = []
    for release in host.listdir(root):
        for place in ("extra", "updates"):
            directory = posixpath.normpath("%s/%s/%s/%s" % (root, release, place, below))
            if all(host.is_file("%s/%s" % (directory, name)) for name in files):
                found.append(
                    Build(
                        release,
                        tuple(ko.read(host, "%s/%s" % (directory, name)) for name in files),
                        directory,
                    )
                )
    return found
