# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel's modules are compiled against: its headers, wherever they lie on this machine.

The families' packages name each other by absolute paths (Debian's Makefile includes that of the -common
package) and by links that lead from one directory to its neighbour. In the sandbox every directory is seen
where its package has it, so nothing has to be rewritten; trees that somebody has rewritten to where they lie
are seen as they were.
"""

import hashlib
import os
import posixpath
import re
from typing import Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError, forgiving, from_oserror
from ..host import MODULES, Host
from ..read import headers as reading
from ..read import kernels, names
from ..read.kernel_package import UninstalledKernel
from ..read.kernels import lazy
from . import unpack
from .sandbox import Mount

IDENTITY = (
    ".config",
    "Module.symvers",
    reading.RELEASE_FILE,
)  # what one build of a kernel differs from another in
VMLINUX = "vmlinux"  # has the kernel's types; without it modules get none of theirs


class Headers(NamedTuple):
    """Headers of one kernel. ``directory`` is where it is built, as it is seen in the sandbox; ``units`` are
    the directories of this machine that are seen there, by their places.
    """

    release: str
    directory: str
    units: Tuple[Tuple[str, str], ...]  # (place, directory of this machine)
    config: Dict[str, str]
    root: str  # that they lie below; what was rewritten to it is written back
    origin: str  # a directory, or packages

    def path(self, name: str) -> str:
        """Where a file of the build directory lies on this machine."""
        return _real(self.units, posixpath.join(self.directory, name)) or ""

    def option(self, name: str) -> str:
        """The value of CONFIG_NAME, "" where it is not set."""
        return self.config.get("CONFIG_" + name, "")

    @property
    def has_types(self) -> bool:
        """Whether modules get types (BTF): pahole is needed then."""
        return bool(self.option("DEBUG_INFO_BTF_MODULES")) and os.path.isfile(self.path(VMLINUX))

    def digest(self) -> str:
        told = hashlib.sha256()
        for name in IDENTITY:
            with Host("/").open(self.path(name)) as reader:
                for chunk in reader.chunks():
                    told.update(chunk)
            told.update(b"\0")
        return told.hexdigest()


class HeadersKernel(UninstalledKernel):
    """A kernel by its headers alone, that modules are held against before they are signed."""

    @lazy
    def config(self) -> Dict[str, str]:
        found: Dict[str, str] = UninstalledKernel.config.compute(self)
        return {name: value for name, value in found.items() if name != "CONFIG_MODULE_SIG_FORCE"}


def kernel(headers: Headers) -> HeadersKernel:
    """The kernel that they are of."""
    return HeadersKernel(
        Host("/"),
        headers.release,
        modules_dir=headers.path("none"),  # whatever this machine has installed is another matter
        headers_dir=headers.path("").rstrip("/"),
        origin=[headers.origin],
    )


# Finding


def given(paths: Sequence[str], release: str, keep: str) -> Headers:
    """Headers that somebody names: a build directory, a directory as of a machine's root, or packages, which
    are unpacked below ``keep``.

    Errors: HEADERS_MISSING, HEADERS_OTHER_RELEASE, HEADERS_INCOMPLETE, those of unpacking.
    """
    for path in paths:
        if not os.path.exists(path):
            raise KmodError(
                path, "does not exist", "Name the kernel's headers on the build host", "HEADERS_MISSING"
            )
    packages = [each for path in paths for each in _packages(path)]
    if packages:
        return _below(
            unpack.packages(packages, keep, release), release, ", ".join(map(os.path.basename, packages))
        )
    if len(paths) != 1:
        raise KmodError(
            ", ".join(paths), "are several directories", "Name one, or packages", "HEADERS_MISSING"
        )
    directory = os.path.realpath(paths[0])
    its = reading.release_of(Host("/"), directory)
    if not its:
        return _below(directory, release, paths[0])
    if its != release:
        raise _other(paths[0], [its], release)
    before, found, after = directory.rpartition("/usr/src/")
    if found:
        return _made(before or "/", "/usr/src/" + after, release, paths[0])
    return _checked(
        Headers(
            release,
            "/usr/src/linux-" + release,
            (("/usr/src/linux-" + release, directory),),
            {},
            directory,
            paths[0],
        )
    )


def installed(root: str, release: str) -> Optional[Headers]:
    """The headers that a system has, None where it has none of that kernel, or not all of them."""
    host = Host(root)
    for top in MODULES:
        directory = "%s/%s/build" % (top, release)
        with forgiving():
            if reading.release_of(host, directory) == release:
                place = host.inside(host.real(directory))
                return _made(host.root, place, release, directory)
    return None


def _packages(path: str) -> List[str]:
    if not os.path.isdir(path):
        return [path]
    return [os.path.join(path, name) for name in sorted(os.listdir(path)) if names.is_package(name)]


def _below(root: str, release: str, origin: str) -> Headers:
    host = Host(root)
    found = {its: host.inside(host.real(place)) for its, place in reading.directories(host)}
    if not found:
        raise KmodError(
            origin,
            "has no headers of a kernel in it",
            "Give linux-headers-%s with what it depends on, or kernel-devel" % release,
            "HEADERS_MISSING",
        )
    if release not in found:
        raise _other(origin, sorted(found), release)
    return _made(host.root, found[release], release, origin)


def _other(origin: str, theirs: Sequence[str], release: str) -> KmodError:
    return KmodError(
        origin,
        "has the headers of %s, not of %s" % (", ".join(theirs), release),
        "Give those of the kernel that is built for",
        "HEADERS_OTHER_RELEASE",
    )


def _made(root: str, place: str, release: str, origin: str) -> Headers:
    """With all that the build directory leads to."""
    host = Host(root)
    units: Dict[str, str] = {}
    todo, seen = [place], set()
    while todo:
        directory = todo.pop()
        unit = _unit(directory)
        if directory in seen or not unit:
            continue
        seen.add(directory)
        real = host.real(directory)
        if not os.path.isdir(real):
            raise KmodError(
                directory,
                "is missing from the headers of %s (%s)" % (release, origin),
                "Give all packages that they consist of: on Debian linux-headers-%s, its -common and "
                "linux-kbuild; on SUSE kernel-devel as well" % release,
                "HEADERS_INCOMPLETE",
            )
        units[unit] = host.real(unit)
        todo += _leads(host.root, directory, real)
    return _checked(Headers(release, place, tuple(sorted(units.items())), {}, host.root, origin))


def _unit(place: str) -> str:
    """The directory that is seen as a whole: /usr/src/NAME, /usr/src/kernels/NAME, /usr/lib/NAME, and
    /usr/lib/modules/RELEASE/build.
    """
    parts = place.split("/")
    if parts[1:2] == ["lib"]:
        parts.insert(1, "usr")
    if parts[1:2] != ["usr"] or len(parts) < 4:
        return ""
    length = {"kernels": 5, "modules": 6}.get(parts[3], 4)
    return "/".join(parts[:length])


def _leads(root: str, directory: str, real: str) -> Iterator[str]:
    """The directories that a directory's links lead to, and those of the files that its Makefile includes."""
    for entry in os.scandir(real):
        if entry.is_symlink():
            text = _inside(root, os.readlink(entry.path))
            target = posixpath.normpath(posixpath.join(directory, text))
            yield target if os.path.isdir(root.rstrip("/") + target) else posixpath.dirname(target)
    for path in re.findall(r"^include\s+((?:/|\.\./)[^\s$]+)\s*$", _makefile(real), re.M):
        yield posixpath.dirname(posixpath.normpath(posixpath.join(directory, _inside(root, path))))


def _inside(root: str, path: str) -> str:
    """A path as its package has it, where it was rewritten to where it lies here."""
    return path[len(root) :] if root != "/" and path.startswith(root + "/") else path


def _checked(headers: Headers) -> Headers:
    for name in IDENTITY:
        if not os.path.isfile(headers.path(name)):
            raise KmodError(
                "%s/%s" % (headers.origin, name),
                "is missing from the headers of %s" % headers.release,
                "Give the package as its distribution made it: without that file no module can be built for the kernel",
                "HEADERS_INCOMPLETE",
            )
    return headers._replace(config=kernels.read_config(Host("/").read(headers.path(".config"))))


# Seeing


def mounts(headers: Headers, scratch: str, with_types: bool) -> Iterator[Mount]:
    """What is seen of them in the sandbox; what has to be rewritten for that is written to ``scratch``."""
    for place, source in headers.units:
        if _rewritten(headers, source):
            yield from _entries(headers, place, source, scratch=scratch)
        else:
            yield Mount(place, source)
    if not with_types and os.path.isfile(headers.path(VMLINUX)):
        # no regular file: kbuild then does without
        yield Mount(posixpath.join(headers.directory, VMLINUX), "/dev/null")
    # sources look there, too
    yield Mount("/boot/config-" + headers.release, headers.path(".config"))
    for top in MODULES[1:]:
        link = "%s/%s/build" % (top, headers.release)
        if link != headers.directory:
            yield Mount(link, link=headers.directory)
            yield Mount(posixpath.dirname(link) + "/source", link=headers.directory)


def _rewritten(headers: Headers, source: str) -> bool:
    if headers.root == "/":
        return False
    links = any(
        entry.is_symlink() and os.readlink(entry.path).startswith(headers.root + "/")
        for entry in os.scandir(source)
    )
    return links or headers.root + "/" in _makefile(source)


def _makefile(source: str) -> str:
    try:
        with open(source + "/Makefile", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def _entries(headers: Headers, place: str, source: str, *, scratch: str) -> Iterator[Mount]:
    """A directory one entry after another, so that some can be others."""
    text = _makefile(source)
    for entry in sorted(os.scandir(source), key=lambda entry: entry.name):
        inside = "%s/%s" % (place, entry.name)
        if entry.is_symlink():
            yield Mount(inside, link=_inside(headers.root, os.readlink(entry.path)))
        elif entry.name == "Makefile" and headers.root != "/" and headers.root + "/" in text:
            path = "%s/Makefile-%s" % (scratch, hashlib.sha256(place.encode("utf-8")).hexdigest()[:12])
            try:
                with open(path, "w", encoding="utf-8", errors="surrogateescape") as file:
                    file.write(text.replace(headers.root + "/", "/"))
                status = entry.stat()
                os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            except OSError as error:
                raise from_oserror(path, error, "write the file") from None
            yield Mount(inside, path)
        else:
            yield Mount(inside, entry.path)


def _real(units: Sequence[Tuple[str, str]], place: str) -> Optional[str]:
    for unit, source in units:
        if place == unit or place.startswith(unit + "/"):
            return source + place[len(unit) :]
    return None


def machine(headers: Headers) -> str:
    """Of the kernel, as ``uname -m`` has it. Error: HEADERS_INCOMPLETE."""
    found = reading.machine(headers.config)
    if found is None:
        raise KmodError(
            headers.origin,
            "its configuration does not tell what machine it is for",
            "Give the package as its distribution made it",
            "HEADERS_INCOMPLETE",
        )
    return found


def read_config(path: str) -> Dict[str, str]:
    return kernels.read_config(Host("/").read(path))
