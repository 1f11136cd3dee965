# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What there is of a driver on a host: its builds in the store, the weak links to them, and which kernel uses
which.
"""

import posixpath
import re
from typing import Dict, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import forgiving
from ..host import Host
from ..judge.selection import Build
from ..read import depmod, ko
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel, modules_root
from . import store


class Deployed(NamedTuple):
    """What there is of a driver on the host."""

    driver: str
    builds: Tuple[Build, ...]  # whole ones
    broken: Tuple[store.Stored, ...]  # ones that miss files
    # kernel release -> path -> target as written; those of removed kernels, too
    links: Dict[str, Dict[str, str]]


class Target(NamedTuple):
    """What there shall be of a driver."""

    used: Dict[str, Optional[Build]]  # kernel release -> build, with the directory it has or gets
    new: Sequence[Build]  # those of them that are to be stored
    kept: Sequence[Build]  # those stored that stay
    links: Dict[str, Dict[str, str]]  # kernel release -> path -> target


def deployed(host: Host, driver: str) -> Deployed:
    """Read what there is of ``driver`` in the store and in weak-updates."""
    whole, broken = [], []
    for stored in store.builds(host, driver):
        modules = _modules(host, stored)
        if modules:
            whole.append(
                Build(
                    stored.release, tuple(sorted(modules, key=lambda module: module.name)), stored.directory
                )
            )
        else:
            broken.append(stored)
    links = {release: _links(host, release, driver) for release in store.releases(host)}
    return Deployed(driver, tuple(whole), tuple(broken), links)


def _modules(host: Host, stored: store.Stored) -> List[KernelModule]:
    """The modules of a build; none where one is missing, or is not what was put there."""
    found = []
    for path in stored.paths:
        if not host.is_file(path):
            return []
        with forgiving():
            found.append(ko.read(host, path))
    rows = set(stored.files)
    whole = len(found) == len(stored.paths) and all(
        (posixpath.basename(module.path), module.sha256) in rows for module in found
    )
    return found if whole else []


def _links(host: Host, release: str, driver: str) -> Dict[str, str]:
    """Path and target of the driver's links in one kernel's tree, dangling ones too."""
    found = {}
    for directory in link_directories(host, release, driver):
        for name in host.listdir(directory):
            path = "%s/%s" % (directory, name)
            if is_our_link(host, path, driver):
                found[path] = host.readlink(path)
    return found


def link_directories(host: Host, release: str, driver: str) -> List[str]:
    """weak-updates/DRIVER, or beside it where someone else has a file of that name there."""
    top = "%s/%s/weak-updates" % (modules_root(host), release)
    return ["%s/%s" % (top, driver), "%s/outoftree.kmod/%s" % (top, driver)]


def is_our_link(host: Host, path: str, driver: str) -> bool:
    """A link as we make them, dangling or not; or any that leads to a build of ours, as weak-modules makes
    them for a kernel that arrives.

    Not what a run that was cut off has left under the name of a temporary file.
    """
    if not host.is_link(path) or posixpath.basename(path).startswith("."):
        return False
    text = host.readlink(path)
    if re.fullmatch(r"(\.\./){3,4}[^/]+/extra/%s/([0-9a-f]{12}/)?[^/]+\.ko" % re.escape(driver), text):
        return True
    directory, name = posixpath.split(text)
    return bool(re.search(r"^/.*/extra/%s(/[0-9a-f]{12})?$" % re.escape(driver), directory)) and name in dict(
        store.marked(host, directory)
    )


def serving(host: Host, there: Deployed) -> Dict[str, Optional[Build]]:
    """The build that each kernel uses now: the one that its links lead to, else its own, if modules.dep lists
    that.
    """
    by_directory = {build.directory: build for build in there.builds}
    found = {}
    for release, links in there.links.items():
        places = [
            posixpath.dirname(posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
            for path, target in links.items()
        ]
        own = [build for build in there.builds if build.release == release] if not links else []
        listed = set(depmod.listed(host, "%s/%s" % (modules_root(host), release)).values()) if own else set()
        places += [build.directory for build in own if listed.issuperset(store.files_of(build))]
        found[release] = next((by_directory[place] for place in places if place in by_directory), None)
    return found


def serving_installed(host: Host, there: Deployed, installed: Sequence[Kernel]) -> Dict[str, Optional[Build]]:
    """The same, but nothing for a kernel of which only a directory is left."""
    releases = {kernel.release for kernel in installed}
    return {
        release: build if release in releases else None for release, build in serving(host, there).items()
    }
