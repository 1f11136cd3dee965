# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules that a person means: files, directories of them, packages."""

from typing import Callable, Iterator, List, Optional, Sequence, Tuple

from ..errors import KmodError
from ..host import Host
from . import ko, names, package
from .kernel_module import KernelModule


def modules(
    host: Host, paths: Sequence[str], structs: bool = False
) -> Iterator[Tuple[KernelModule, Optional[bytes]]]:
    """The modules at these paths, each with its bytes, as they are packed, where it is in a package; ``structs``
    as for ``ko.parse``.

    Errors: those of ``find``, ``ko.read`` and ``package.modules``.
    """
    for path in find(host, paths):
        if names.is_package(path):
            for name, data in package.modules(host, path):
                yield ko.unpacked(data, "%s/%s" % (path, name), structs), data
        else:
            yield ko.read(host, path, structs), None


def find(host: Host, paths: Sequence[str]) -> List[str]:
    """The module files at these paths, in and below those that are directories; of one that holds none, the
    packages.

    What is named itself is taken for what it is called. Errors: PATH_EMPTY, PATH_MISSING, NO_MODULES.
    """
    found: List[str] = []
    for path in paths:
        if not path.strip() or "\0" in path:  # it would mean the root, or the working directory
            raise KmodError(
                "a path %r" % path, "names nothing", "Name a .ko file or a directory of them", "PATH_EMPTY"
            )
        before = len(found)
        if host.is_dir(path):
            found += _below(host, path.rstrip("/"), names.is_readable_module)
            if len(found) == before:
                found += _below(host, path.rstrip("/"), names.is_package)
        elif host.exists(path):
            found.append(path)
        else:
            raise KmodError(
                path,
                "does not exist",
                "Name a .ko file or a directory of them"
                + ("" if host.live else ", as a path inside the root"),
                "PATH_MISSING",
            )
        if len(found) == before:
            raise KmodError(
                path,
                "holds no .ko file, and no package",
                "Name a .ko file or a directory of them",
                "NO_MODULES",
            )
    return found


def _below(host: Host, directory: str, wanted: Callable[[str], bool]) -> Iterator[str]:
    for name in host.listdir(directory):
        if name.startswith("."):  # what somebody is still writing, or a run that was killed has left
            continue
        path = directory + "/" + name
        if wanted(name) and not host.is_dir(path):
            yield path
        elif host.is_dir(path) and not host.is_link(path):
            yield from _below(host, path, wanted)
