# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Modules that packages put under /lib/modules/REL/extra: what there is of them, and of the links to them in
weak-updates.

The tree is the only record. A link to a package's module is absolute, as weak-modules writes it: so that
script sees through it in its sandbox (a relative one leads nowhere there), copies it back as it is, and drops
it when its package goes; ours to stored drivers, which are relative, are never among these.
"""

import posixpath
import re
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

from ..host import Host
from ..read import names
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel, modules_root, version_key
from . import driver, store

DEPTH = 16  # of directories below extra/
_TREE = re.compile(r"(?:/usr)?/lib/modules/([^/]+)/([^/]+)/(.+)", re.DOTALL)


class Source(NamedTuple):
    """A module file that is to serve other kernels, too.

    ``unit``: what is installed together and of use only together, the first directory below extra/ (or a file
    that lies there alone).
    """

    path: str
    tree: str  # the release in whose tree it lies; "" if in none
    below: str  # where its link goes below weak-updates
    unit: str
    written: str = ""  # what a link says, if not ``path``

    @property
    def name(self) -> str:
        return names.module_of(self.path)


class WeakLink(NamedTuple):
    """A link to a module in a kernel's weak-updates, and the path that it means (see ``plain``), there or
    not.
    """

    path: str
    text: str
    means: str

    @property
    def name(self) -> str:
        return names.module_of(self.path)


def source(path: str) -> Source:
    """What a path means. One outside of any tree goes below weak-updates as a whole, as Oracle's ACFS has it."""
    found = _TREE.fullmatch(path)
    if not found:
        return Source(path, "", path.lstrip("/"), posixpath.dirname(path))
    tree, top, below = found.groups()
    return Source(path, tree, below, "%s/%s/%s" % (tree, top, below.partition("/")[0]))


def named(host: Host, path: str) -> Source:
    """What a path in a caller's list means: of a link in weak-updates (of ``find /lib/modules``, say) that is
    what it leads to.
    """
    found = _TREE.fullmatch(path)
    if found and found.group(2) == "weak-updates" and host.is_link(path):
        path = meant(host, path, host.readlink(path))
    return source(path)


def plain(host: Host, path: str) -> str:
    """A path by which two that mean one file are equal: /usr/lib/modules is /lib/modules."""
    return re.sub(r"\A/+(usr/+)?lib/modules/", modules_root(host) + "/", posixpath.normpath(path))


def can_be_listed(source: Source) -> bool:
    """Whether modules.dep, whose words are paths, can name the link to it, and depmod's other indexes, which are
    of ASCII alone, the module: depmod would crash.
    """
    return (
        re.search(r"[\s:\x00-\x1f\x7f]", source.below) is None
        and ".." not in source.below.split("/")
        and all(char < "\x7f" for char in posixpath.basename(source.below))
    )


def sources(host: Host) -> List[Source]:
    """The modules of packages in extra/ of each release, installed or not; newest release first."""
    root = modules_root(host)
    found: List[Source] = []
    for release in sorted(filter(names.is_release, host.listdir(root)), key=version_key, reverse=True):
        for path in _files(host, "%s/%s/extra" % (root, release)):
            found.append(source(plain(host, path)))
    return [each for each in found if can_be_listed(each)]


def own(host: Host, kernel: Kernel) -> List[str]:
    """The modules that lie in a kernel's own updates/ and extra/, but those of stored drivers."""
    return [
        plain(host, path)
        for top in ("updates", "extra")
        for path in _files(host, "%s/%s" % (kernel.modules_dir, top))
    ]


def _files(host: Host, directory: str, depth: int = 0) -> Iterator[str]:
    ours = {name for name, _sha256 in store.marked(host, directory)}
    for name in host.listdir(directory):
        path = "%s/%s" % (directory, name)
        if names.is_module_file(name) and not name.startswith(".") and name not in ours:
            if host.is_file(path):
                yield path
        elif depth < DEPTH and host.is_dir(path) and not host.is_link(path):
            yield from _files(host, path, depth + 1)


def links(host: Host, kernel: Kernel) -> List[WeakLink]:
    """The links to modules in a kernel's weak-updates but those to stored drivers; dangling ones too."""
    top = "%s/%s/weak-updates" % (modules_root(host), kernel.release)
    return list(_links(host, top)) if not host.is_link(top) else []


def _links(host: Host, directory: str, depth: int = 0) -> Iterator[WeakLink]:
    for name in host.listdir(directory):
        path = "%s/%s" % (directory, name)
        if host.is_link(path):
            text = host.readlink(path)
            if (
                names.may_be_module(name)
                and not name.startswith(".")
                and not _is_stored_drivers(host, path, text)
            ):
                yield WeakLink(path, text, meant(host, path, text))
        elif depth < DEPTH and host.is_dir(path):
            yield from _links(host, path, depth + 1)


def meant(host: Host, path: str, text: str) -> str:
    """Where a link leads. weak-modules --basedir has written the root's own path into it."""
    if not host.live and text.startswith(host.root.rstrip("/") + "/"):
        text = text[len(host.root.rstrip("/")) :]
    return plain(host, posixpath.join(posixpath.dirname(path), text))


def _is_stored_drivers(host: Host, path: str, text: str) -> bool:
    found = re.search(r"/extra/([^/]+)/", text)
    return found is not None and driver.is_our_link(host, path, found.group(1))


def stored_names(host: Host) -> Dict[str, Set[str]]:
    """The modules that each kernel has of stored drivers, by release: those are served, and nobody's link
    gets in their way.
    """
    found: Dict[str, Set[str]] = {}
    builds = store.builds(host)
    for build in builds:
        found.setdefault(build.release, set()).update(map(names.module_of, build.paths))
    for release in store.releases(host):
        for name in {build.driver for build in builds}:
            for directory in driver.link_directories(host, release, name):
                for file in host.listdir(directory):
                    if driver.is_our_link(host, "%s/%s" % (directory, file), name):
                        found.setdefault(release, set()).add(names.module_of(file))
    return found


# What belongs together


def joined(found: Sequence[Source], modules: Dict[str, KernelModule]) -> List[Source]:
    """The same, where files that lie in extra/ itself and need each other are one unit (DKMS puts all drivers
    there).
    """
    flat = [each for each in found if each.tree and "/" not in each.below]
    heads: Dict[str, str] = {}

    def head(unit: str) -> str:
        while heads.get(unit, unit) != unit:
            unit = heads[unit]
        return unit

    for one, other in _uses(flat, modules):
        heads[head(one.unit)] = head(other.unit)
    return [each._replace(unit=head(each.unit)) for each in found]


def _uses(found: Sequence[Source], modules: Dict[str, KernelModule]) -> Iterator[Tuple[Source, Source]]:
    """Who needs a symbol of whom in the same tree."""
    givers: Dict[Tuple[str, str], Source] = {}
    for each in found:
        for export in modules[each.path].exports if each.path in modules else ():
            givers.setdefault((each.tree, export.name), each)
    for each in found:
        for undefined in modules[each.path].undefined if each.path in modules else ():
            giver = givers.get((each.tree, undefined.name))
            if giver is not None and giver != each:
                yield each, giver


def concerned(found: Sequence[Source], modules: Dict[str, KernelModule], wanted: Iterable[str]) -> Set[str]:
    """The names of all modules whose links may change with those ``wanted``: of the same unit in any tree,
    and who needs or gives symbols. A wanted one may be gone: who needs it says so.

    So what one call could not link for want of a module is linked by the call that brings that one.
    """
    together: List[Set[str]] = []
    units: Dict[str, Set[str]] = {}
    for each in found:
        units.setdefault(each.unit, set()).add(each.name)
    together += units.values()
    together += [{one.name, other.name} for one, other in _uses(found, modules)]
    scope = set(wanted)
    for each in found:
        depends = modules[each.path].depends if each.path in modules else ()
        together += [{each.name, name} for name in depends if name in scope]
    while True:
        more = set().union(*(group for group in together if group & scope)) - scope
        if not more:
            return scope
        scope |= more


def rounds(found: Iterable[Source]) -> List[List[Source]]:
    """In which order builds are tried: one tree after the other, the newest first, and no module twice in one
    round.
    """
    by_tree: Dict[str, Dict[str, List[Source]]] = {}
    for each in found:
        by_tree.setdefault(each.tree, {}).setdefault(each.unit, []).append(each)
    answer: List[List[Source]] = []
    for tree in sorted(by_tree, key=version_key, reverse=True):
        parts: List[List[Source]] = []
        for unit in by_tree[tree].values():
            names_here = {each.name for each in unit}
            part = next((part for part in parts if not names_here & {each.name for each in part}), None)
            if part is None:
                parts.append(list(unit))
            else:
                part.extend(unit)
        answer += parts
    return answer


def link_path(host: Host, release: str, source: Source) -> str:
    return "%s/%s/weak-updates/%s" % (modules_root(host), release, source.below)


def taken_by(host: Host, path: str, top: str) -> Optional[str]:
    """What is in the way of a link at ``path`` below ``top``: no directory where one has to be, or a file
    that is no link.
    """
    parent = posixpath.dirname(path)
    while len(parent) >= len(top):
        if host.is_link(parent) or (host.lstat(parent) is not None and not host.is_dir(parent)):
            return parent
        parent = posixpath.dirname(parent)
    return path if host.lstat(path) is not None and not host.is_link(path) else None
