# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What there is of drivers on a host, fact by fact.

It reads, and never writes; what cannot be read is a row with an ``error``.
"""

import hashlib
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple

from ..compression import decompress
from ..errors import KmodError, SystemFailed, forgiving
from ..host import Host
from ..judge.selection import Build
from ..read import ko
from ..read.depmod import listed
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel
from ..read.names import apart, module_of
from . import heal, loaded, store
from .boot import loaders, shipped
from .boot.view import View
from .driver import Deployed
from .initramfs import existing, image, listing

PLACES = ("extra", "updates", "weak-updates")  # where out-of-tree modules are


class StoredModule(NamedTuple):
    name: str
    path: str
    sha256: str
    srcversion: Optional[str]
    signature: str  # signed, unsigned, damaged


class StoredBuild(NamedTuple):
    """A build in the store, and the kernels that use it. Of one that is not whole nothing more is told."""

    build: str  # the release that it was made for
    version: str
    path: str
    whole: bool
    kernels: Tuple[str, ...]
    modules: Tuple[StoredModule, ...]

    def as_dict(self) -> Dict[str, Any]:
        return dict(
            self._asdict(),
            kernels=list(self.kernels),
            modules=[dict(each._asdict()) for each in self.modules],
        )


class StoredDriver(NamedTuple):
    driver: str
    builds: Tuple[StoredBuild, ...]
    loading: Tuple[str, ...] = ()  # its files in modprobe.d and modules-load.d

    def as_dict(self) -> Dict[str, Any]:
        return {
            "driver": self.driver,
            "builds": [build.as_dict() for build in self.builds],
            "loading": list(self.loading),
        }


class UsedModule(NamedTuple):
    """The file that modprobe would load for a module name, and whether it is what the running kernel has
    loaded (see loaded.state).
    """

    name: str
    path: Optional[str]
    sha256: Optional[str] = None  # of the uncompressed file
    loaded: Optional[str] = None  # None unless the kernel runs
    error: Optional[str] = None


class SeenLink(NamedTuple):
    """A link in weak-updates, anybody's."""

    path: str
    target: str
    ours: bool
    dangling: bool


class CopyInside(NamedTuple):
    """A module in an image; ``current``: it is the file that the kernel's tree has. ``used``: it is what the
    image's own modprobe would load: a variant has the shipped image's copy as well.
    """

    name: str
    path: str
    sha256: str
    current: bool
    used: bool


class SeenImage(NamedTuple):
    path: str
    copies: Tuple[CopyInside, ...]
    error: Optional[str] = None

    def as_dict(self) -> Dict[str, Any]:
        return {
            "path": self.path,
            "copies": [dict(each._asdict()) for each in self.copies],
            "error": self.error,
        }


class SeenKernel(NamedTuple):
    """What an installed kernel has of drivers; its shipped image comes first."""

    kernel: str
    running: bool
    modules: Tuple[UsedModule, ...]
    links: Tuple[SeenLink, ...]
    images: Tuple[SeenImage, ...]

    def as_dict(self) -> Dict[str, Any]:
        return {
            "kernel": self.kernel,
            "running": self.running,
            "modules": [dict(each._asdict()) for each in self.modules],
            "links": [dict(each._asdict()) for each in self.links],
            "images": [each.as_dict() for each in self.images],
        }


class SeenVariant(NamedTuple):
    """A variant, or one that cannot be read and why."""

    seen: existing.Seen
    error: Optional[str] = None

    def as_dict(self) -> Dict[str, Any]:
        return dict(self.seen.as_dict(), **({"error": self.error} if self.error else {}))


class SeenEntry(NamedTuple):
    """A boot entry of ours, the files that it starts, and those of them that are not there."""

    drivers: Tuple[str, ...]
    kernel: str
    id: str
    title: str
    path: str
    default: bool
    once: bool
    starts: Tuple[str, ...]
    missing: Tuple[str, ...]

    def as_dict(self) -> Dict[str, Any]:
        return dict(
            self._asdict(),
            driver=", ".join(self.drivers),
            drivers=list(self.drivers),
            starts=list(self.starts),
            missing=list(self.missing),
        )


class Orphan(NamedTuple):
    """What is left of a kernel that is gone, or starts what is gone; or how a driver is loaded that is gone."""

    kind: str  # variant, entry, link, loading
    path: str
    kernel: str
    size: int = 0


def stored_driver(there: Deployed, using: Mapping[str, Optional[Build]]) -> StoredDriver:
    """A driver in the store; ``using``: the build that each kernel uses."""
    users: Dict[str, List[str]] = {}
    for release, build in sorted(using.items()):
        users.setdefault(build.directory if build else "", []).append(release)
    builds = [
        StoredBuild(
            build.release,
            build.version,
            build.directory,
            whole=True,
            kernels=tuple(users.get(build.directory, ())),
            modules=tuple(map(_stored_module, build.modules, store.files_of(build))),
        )
        for build in there.builds
    ]
    builds += [
        StoredBuild(stored.release, "", stored.directory, whole=False, kernels=(), modules=())
        for stored in there.broken
    ]
    return StoredDriver(there.driver, tuple(builds))


def _stored_module(module: KernelModule, path: str) -> StoredModule:
    signature = "unsigned" if module.signature is None else "damaged" if module.signature.fault else "signed"
    return StoredModule(module.name, path, module.sha256, srcversion=module.srcversion, signature=signature)


def kernel(host: Host, installed: Kernel, there: Sequence[Deployed]) -> SeenKernel:
    """What a kernel has of these drivers, and all else that is out-of-tree."""
    ours: Set[str] = set().union(*(each.links[installed.release] for each in there))
    lists = listed(host, installed.modules_dir)
    builds = [build for each in there for build in each.builds]
    names = {module.name for build in builds for module in build.modules}
    names.update(
        name for name, path in lists.items() if path[len(installed.modules_dir) + 1 :].split("/")[0] in PLACES
    )
    modules = used(host, installed, sorted(names), lists)
    return SeenKernel(
        installed.release,
        installed.running,
        modules,
        links=links(host, installed, ours),
        images=_images(host, installed.release, modules),
    )


def used(
    host: Host, installed: Kernel, names: Sequence[str], lists: Optional[Mapping[str, str]] = None
) -> Tuple[UsedModule, ...]:
    """Of each module name the file that modprobe would load; ``lists`` is what depmod has listed."""
    there = listed(host, installed.modules_dir) if lists is None else lists
    return tuple(_used(host, installed, name, path=there.get(name)) for name in names)


def _used(host: Host, installed: Kernel, name: str, *, path: Optional[str]) -> UsedModule:
    row = UsedModule(name, path)
    try:
        if path and host.exists(path):
            data = decompress(host.read(path), path)
            row = row._replace(sha256=hashlib.sha256(data).hexdigest())
            if installed.running:
                row = row._replace(
                    loaded=loaded.state(host, ko.parse(data, path), loaded.build_id(data, path))
                )
    except KmodError as error:
        row = row._replace(error=str(error))
    return row


def links(host: Host, installed: Kernel, ours: Set[str]) -> Tuple[SeenLink, ...]:
    """What a kernel has in weak-updates; ``ours`` are the paths that are."""
    top = installed.modules_dir + "/weak-updates"
    lost = {
        "%s/%s" % (directory, name) for directory, names in heal.dangling(host, top).items() for name in names
    }
    return tuple(
        SeenLink(path, host.readlink(path), path in ours, path in lost) for path in _below(host, top)
    )


def _below(host: Host, directory: str) -> List[str]:
    found = []
    for name in host.listdir(directory):
        path = "%s/%s" % (directory, name)
        if host.is_link(path):
            found.append(path)
        elif host.is_dir(path):
            found += _below(host, path)
    return found


def _images(host: Host, release: str, used: Sequence[UsedModule]) -> Tuple[SeenImage, ...]:
    if not used:
        return ()
    paths: List[str] = []
    with forgiving():
        paths = [each.path for each in existing.found(host) if each.wants.kernel == release]
    with forgiving():  # there is none, as far as one can tell
        paths.insert(0, image.shipped(host, release))
    digests = {each.name: each.sha256 for each in used}
    return tuple(_image(host, path, release, digests) for path in paths)


def _image(host: Host, path: str, release: str, used: Mapping[str, Optional[str]]) -> SeenImage:
    try:
        copies = listing.copies(host, path, release, names=used)
    except KmodError as error:
        return SeenImage(path, (), str(error))
    return SeenImage(
        path,
        tuple(
            CopyInside(
                module_of(each.path),
                each.path,
                each.sha256,
                each.sha256 == used[module_of(each.path)],
                each.used,
            )
            for each in copies
        ),
    )


def variants(host: Host) -> List[SeenVariant]:
    """All variants of ours, of kernels that are gone too."""
    try:
        return [SeenVariant(seen) for seen in existing.overview(host)]
    except KmodError as error:
        return [SeenVariant(existing.Seen(error.what, "", (), "", 0, state="damaged"), str(error))]


def entries(host: Host) -> List[SeenEntry]:
    """The boot entries of ours, and whether what they start is there; none where no boot loader is found."""
    try:
        menu = loaders.detect(host).menu(View(host))
    except SystemFailed:
        raise
    except KmodError:
        return []
    rows = []
    for entry in menu.entries:
        if entry.driver is not None:
            files = tuple(word for word in (entry.linux,) + entry.initrd if "$" not in word)
            rows.append(
                SeenEntry(
                    apart(entry.driver),
                    entry.kernel or "",
                    entry.id,
                    title=entry.title,
                    path=entry.path,
                    default=menu.default is not None and menu.default.id == entry.id,
                    once=menu.once == entry.id,
                    starts=files,
                    missing=tuple(word for word in files if shipped.locate(host, word) is None),
                )
            )
    return rows


def orphans(
    made: Sequence[SeenVariant],
    started: Sequence[SeenEntry],
    there: Sequence[Deployed],
    *,
    installed: Set[str],
) -> List[Orphan]:
    """What of these variants, entries and links is left of kernels that are not installed."""
    found = [
        Orphan("variant", row.seen.path, row.seen.kernel, row.seen.size)
        for row in made
        if row.seen.state == "gone"
    ]
    found += [
        Orphan("entry", row.path, row.kernel) for row in started if row.missing or row.kernel not in installed
    ]
    for each in there:
        for release, links in sorted(each.links.items()):
            found += [Orphan("link", path, release) for path in sorted(links) if release not in installed]
    return found
