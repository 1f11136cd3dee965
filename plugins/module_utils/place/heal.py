# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Weak links of any origin that lead nowhere: led to another build of the same driver that their kernel takes, or removed."""
import posixpath
from typing import Any, Dict, Iterable, List, Sequence, Set

from ..host import Host
from ..judge.selection import Build, Judge, select
from ..plan import Link
from ..read import ko, names
from ..read.kernels import Kernel
from . import store


def heal(tree: store.ModuleTree, kernels: Sequence[Kernel], judge: Judge, skip: Set[str]) -> List[Dict[str, Any]]:
    """Plan the repair of the dangling links in these kernels' weak-updates, but of those at the paths ``skip``; answers with one row a link."""
    rows = []
    for kernel in kernels:
        top = "%s/%s/weak-updates" % (store.modules_root(tree.host), kernel.release)
        for directory, files in sorted(dangling(tree.host, top, skip).items()):
            below = directory[len(top) + 1:]
            build = select([kernel], _builds(tree.host, below, files), judge)[0].build
            for name in files:
                path = "%s/%s" % (directory, name)
                row = {"path": path, "before": tree.host.readlink(path), "after": None}
                if build and build.release != kernel.release:
                    row["after"] = posixpath.relpath("%s/%s" % (build.directory, name), directory)
                    tree.put(path, Link(str(row["after"])))
                else:
                    tree.remove(path)
                rows.append(row)
    return rows


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
    """Builds with files of all these names: where weak-updates/X links to, extra/X or updates/X of any release, hold the same driver."""
    root = store.modules_root(host)
    found = []
    for release in host.listdir(root):
        for place in ("extra", "updates"):
            directory = posixpath.normpath("%s/%s/%s/%s" % (root, release, place, below))
            if all(host.is_file("%s/%s" % (directory, name)) for name in files):
                found.append(Build(release, tuple(ko.read(host, "%s/%s" % (directory, name)) for name in files), directory))
    return found
