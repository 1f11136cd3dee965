# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernels that are not installed: in packages, in an unpacked tree, or a symvers file alone.

What is needed of packages is laid into a scratch root as they would install it, and read there as any
installed kernel is. Packages are input: only paths of a kernel's own kinds are taken, no links, and bounded
in number and size.
"""

import contextlib
import os
import re
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from .. import lock
from ..errors import KmodError, from_oserror
from ..host import MODULES, Host
from . import depmod, headers, kernels, modprobe, names, package
from .export_sources import SourcedExports
from .exports import read_symvers
from .kernels import Kernel, Traits, lazy, version_key
from .offered import offers

FILES = 50000  # that are taken out of one set; a kernel has some 4500

_LISTS = r"modules\.(?:builtin|builtin\.modinfo|order)|config|System\.map|vmlinuz|vmlinux|[Ii]mage|symvers(?:\.gz|\.xz|\.zst)?"
_OF_MODULES = re.compile(
    r"(?:usr/)?lib/modules/([^/]+)/((?:%s)|(?!build/|source/).*\.ko(?:\.gz|\.xz|\.zst)?)" % _LISTS
)
_OF_BOOT = re.compile(r"boot/(?:vmlinuz|vmlinux|[Ii]mage|zImage|config|symvers)-([^/]+?)(?:\.gz|\.xz|\.zst)?")
_OF_HEADERS = re.compile(
    r"((?:usr/src|(?:usr/)?lib/modules/[^/]+/build)/?.*)/(?:%s)" % "|".join(map(re.escape, headers.FILES))
)
# What else the packages of a kernel have (its headers' other files, keys), and those that have nothing but a
# text
_RELATED = re.compile(
    r"boot/|(usr/)?lib/modules/|usr/src/|usr/lib/linux-kbuild-|usr/share/(doc|bug|lintian|licenses)/|etc/uefi/certs/"
)


class KernelSource(NamedTuple):
    """Where kernels are that are not installed: one of ``packages``, ``root``, ``symvers`` and ``offered``."""

    # .deb and .rpm files, or directories of them: all that is to be installed of one kernel, or of several
    packages: Tuple[str, ...] = ()
    root: str = ""  # a directory that packages were unpacked in, or one of headers
    symvers: str = ""  # a symvers file
    release: str = ""  # of which kernel that is
    offered: str = ""  # newest or all: what the host's package manager offers
    whole: bool = False  # of that all packages of a kernel, not the small ones alone

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "KernelSource":
        """Of an item of kmod_compat's ``kernel``. Error: BAD_OPTION."""
        packages = params.get("package") or ()
        found = cls(
            (packages,) if isinstance(packages, str) else tuple(packages),
            params.get("root") or "",
            params.get("symvers") or "",
            params.get("release") or "",
            params.get("offered") or "",
            bool(params.get("whole")),
        )
        given = [each for each in (found.packages, found.root, found.symvers, found.offered) if each]
        if len(given) != 1 or (found.whole and not found.offered):
            raise KmodError(
                "kernel",
                "needs one of package, root, symvers and offered in each item; whole goes with offered",
                "Name where the kernel is",
                "BAD_OPTION",
            )
        return found


class UninstalledKernel(Kernel):
    """A kernel as its packages, a tree or a symvers show it.

    ``origin`` are the files or directories that it was found in.
    """

    def __init__(
        self,
        host: Host,
        release: str,
        *,
        modules_dir: str = "",
        headers_dir: str = "",
        origin: Sequence[str] = (),
        given: Optional[SourcedExports] = None,
    ) -> None:
        super().__init__(host, release, modules_dir or "%s/%s" % (MODULES[0], release), given=given)
        self.headers_dir = headers_dir
        self.origin = tuple(origin)

    @property
    def running(self) -> bool:
        return False

    @lazy
    def config(self) -> Dict[str, str]:
        found: Dict[str, str] = Kernel.config.compute(self)
        path = self.headers_dir + "/.config"
        return found or (
            kernels.read_config(self.host.read(path)) if self.headers_dir and self.host.is_file(path) else {}
        )

    @lazy
    def symvers(self) -> Optional[str]:
        found: Optional[str] = Kernel.symvers.compute(self)
        path = self.headers_dir + "/Module.symvers"
        return found or (path if self.headers_dir and self.host.is_file(path) else None)

    @lazy
    def traits(self) -> Traits:
        """By its modules, else its configuration and headers."""
        found: Traits = Kernel.traits.compute(self)
        if found.machine is not None:
            return found
        layout = headers.module_struct(self.host, self.headers_dir) if self.headers_dir else None
        return found._replace(
            vermagic=found.vermagic or headers.vermagic(self.release, self.config),
            machine=headers.machine(self.config),
            struct_size=layout.size if layout else None,
            init_offset=layout.init if layout else None,
            exit_offset=layout.exit if layout else None,
        )

    @lazy
    def sourced(self) -> SourcedExports:
        """As ``Kernel`` has it.

        What modules export that other packages of this kernel have counts as there.
        """
        found: SourcedExports = Kernel.sourced.compute(self)
        if not found.absent or not found.origin:
            return found
        every = read_symvers(self.host, found.origin)
        return found._replace(
            exports=dict(found.exports, **{symbol: every[symbol] for symbol in found.absent})
        )

    @property
    def elsewhere(self) -> Dict[str, str]:
        """By symbol the kernel's own module that exports it, and is in none of its packages here."""
        return self.sourced.absent

    @lazy
    def left_out(self) -> FrozenSet[str]:
        """The names of its own modules that it was built with and that are not here."""
        path = self.modules_dir + "/modules.order"
        listed = self.host.read_text(path).split() if self.host.is_file(path) else []
        return frozenset(map(names.module_of, listed)) - frozenset(self.modules)

    @lazy
    def lacks(self) -> Tuple[str, ...]:
        """What cannot be seen of it here: modules, built-in, config, vermagic, certificates."""
        seen = {
            "modules": bool(self.own),
            "built-in": self.host.is_file(self.modules_dir + "/modules.builtin"),
            "config": bool(self.config),
            "vermagic": self.traits.vermagic is not None,
            "certificates": self.image is not None,
        }
        return tuple(name for name, there in seen.items() if not there)


Enough = Callable[["UninstalledKernel"], bool]


@contextlib.contextmanager
def opened(
    host: Host,
    sources: Sequence[KernelSource],
    whence: Optional[Host] = None,
    *,
    enough: Optional[Enough] = None,
) -> Iterator[List[UninstalledKernel]]:
    """Kernels that a host might get, oldest first, for as long as the context lasts: they are read when
    asked.

    The paths are those of the host, or of the machine ``whence``. ``enough``: see ``of_offer``.

    Errors: PACKAGE_NO_KERNEL, KERNEL_TWO_BUILDS, PACKAGE_DAMAGED and others for a package; NO_KERNELS for a
    root; SYMVERS_OF_WHICH, SYMVERS_BAD; those of ``offers``.
    """
    with contextlib.ExitStack() as stack:
        found: List[UninstalledKernel] = []
        for source in sources:
            if source.offered:
                asked = offers.asking(host, _scratch(stack).root)
                for offer in offers.offers(asked, source.offered).kernels:
                    found += of_offer(asked, offer, stack, whole=source.whole, enough=enough)
            else:
                found += _of_source(whence or host, source, stack, host=host)
        origins: Dict[str, Tuple[str, ...]] = {}
        for release, origin in [(kernel.release, kernel.origin) for kernel in found]:
            if release in origins:
                raise _two_builds(release, origins[release][0], origin[0])
            origins[release] = origin
        ordered = [sorted(found, key=lambda kernel: (version_key(kernel.release), kernel.release))]
        del found[:]
        yield ordered.pop()  # none is kept here: who is done with one lets go of some 10 MiB


def of_offer(
    asked: offers.Asking,
    offer: offers.OfferedKernel,
    stack: contextlib.ExitStack,
    *,
    whole: bool = False,
    enough: Optional[Enough] = None,
) -> List[UninstalledKernel]:
    """A kernel that the host's package manager offers, from its packages, which are fetched for that.

    Where the lists have the CRCs of its symbols, and what is seen by them is ``enough``, nothing is fetched.
    Errors: those of ``offers.fetch``, and as of ``opened`` for the packages.
    """
    seen = None if whole or enough is None else of_lists(asked, offer, stack)
    if seen and enough and enough(seen):
        return [seen]
    paths = offers.fetch(asked, offer.wanted(whole), _scratch(stack).root)
    return of_fetched(asked.host, paths, offer, stack, whole=whole)


def of_lists(
    asked: offers.Asking, offer: offers.OfferedKernel, stack: contextlib.ExitStack
) -> Optional[UninstalledKernel]:
    """A kernel by what the lists say of its symbols, where they do: nothing is fetched."""
    listed = offers.versions(asked, offer)
    if listed is None:
        return None
    scratch, origin = _scratch(stack, asked.host), [listed.origin or "", offer.lists]
    return UninstalledKernel(scratch, offer.release, origin=origin, given=listed)


def of_fetched(
    host: Optional[Host],
    paths: Sequence[str],
    offer: offers.OfferedKernel,
    stack: contextlib.ExitStack,
    *,
    whole: bool = False,
) -> List[UninstalledKernel]:
    """A kernel that was offered, from its packages as they lie on this machine."""
    found = _of_packages(Host("/"), paths, _scratch(stack, host))
    for kernel in found:
        kernel.origin = offer.origin(whole)
    return found


def _scratch(stack: contextlib.ExitStack, host: Optional[Host] = None) -> Host:
    """A directory on a disk, since a kernel has some 400 MB; with what ``host`` tells modprobe and depmod."""
    scratch = Host(stack.enter_context(lock.scratch(Host("/"))))
    if host:
        _configuration(host, scratch)
    return scratch


def _of_source(
    whence: Host, source: KernelSource, stack: contextlib.ExitStack, *, host: Host
) -> List[UninstalledKernel]:
    if source.root:
        return _of_root(whence, source.root)
    scratch = _scratch(stack, host)
    if source.symvers:
        return [_of_symvers(whence, source, scratch)]
    return _of_packages(whence, source.packages, scratch)


def _configuration(host: Host, scratch: Host) -> None:
    """What modprobe and depmod are told on the host holds for a kernel that comes to it as well."""
    for directory in depmod.DIRECTORIES + modprobe.DIRECTORIES:
        for name in host.listdir(directory):
            path = "%s/%s" % (directory, name)
            if name.endswith(".conf") and host.is_file(path):
                _write(scratch, path, host.read(path), path=path)


def _of_symvers(host: Host, source: KernelSource, scratch: Host) -> UninstalledKernel:
    path = source.symvers
    name = re.search(r"(?:^|/)symvers-(.+?)(\.gz|\.xz|\.zst)?\Z", path)
    release = source.release or (name.group(1) if name else "")
    if not release:
        raise KmodError(
            path, "does not say of which kernel it is", "Name its release as well", "SYMVERS_OF_WHICH"
        )
    exports = read_symvers(host, path)
    return UninstalledKernel(
        scratch, names.check_release(release, path), origin=[path], given=SourcedExports(exports, path, ())
    )


def _of_root(host: Host, path: str) -> List[UninstalledKernel]:
    """The kernels of a directory as of a machine's root, and those that it has the headers of alone."""
    if not host.is_dir(path):
        raise KmodError(
            path,
            "is not a directory",
            "Name the directory that the packages were unpacked in",
            "PATH_MISSING",
        )
    root = Host(host.real(path))
    with_headers = dict(headers.directories(root))
    there = {kernel.release: kernel.modules_dir for kernel in kernels.installed(root)}
    found = [
        UninstalledKernel(
            root,
            release,
            modules_dir=there.get(release, ""),
            headers_dir=with_headers.get(release, ""),
            origin=[path],
        )
        for release in sorted(set(with_headers) | set(there))
    ]
    if not found:
        raise KmodError(
            path,
            "has neither a kernel below lib/modules nor the headers of one",
            "Unpack the kernel's packages there",
            "NO_KERNELS",
        )
    return found


class _Taken(NamedTuple):
    """What was taken out of packages: by release which of them gave something of it, and all that are a
    kernel's by more than a driver.
    """

    givers: Dict[str, List[str]]
    kernels: Set[str]


def _of_packages(host: Host, paths: Sequence[str], scratch: Host) -> List[UninstalledKernel]:
    given = list(_packages(host, paths))
    whose: Dict[str, str] = {}  # by place the package that it came out of
    for path in given:
        _take(host, path, scratch, whose=whose)
    taken = _releases(scratch, whose)
    if not taken.kernels:
        raise KmodError(
            ", ".join(given),
            "there is no kernel in it: no image, no modules of its own, no symvers",
            "Give linux-image or linux-headers, kernel-core, kernel-modules-core or kernel-devel",
            "PACKAGE_NO_KERNEL",
        )
    with_headers = dict(headers.directories(scratch))
    found = [
        UninstalledKernel(
            scratch, release, headers_dir=with_headers.get(release, ""), origin=taken.givers[release]
        )
        for release in sorted(taken.kernels)
    ]
    for kernel in found:
        theirs = headers.machine(kernel.config)
        if kernel.own and theirs and kernel.machine and theirs != kernel.machine:
            raise _two_builds(
                kernel.release, "modules for %s" % kernel.machine, "a configuration for %s" % theirs
            )
    return found


def _packages(host: Host, paths: Sequence[str]) -> Iterator[str]:
    for path in paths:
        if host.is_dir(path) and path.strip():
            inside = [
                "%s/%s" % (path.rstrip("/"), name) for name in host.listdir(path) if names.is_package(name)
            ]
            if not inside:
                raise KmodError(
                    path,
                    "has no package in it",
                    "Name the kernel's packages (.deb, .rpm)",
                    "PACKAGE_NO_KERNEL",
                )
            yield from inside
        else:
            yield path


def _take(host: Host, path: str, scratch: Host, *, whose: Dict[str, str]) -> None:
    """Lay what is needed of one package into the scratch root.

    Errors: PACKAGE_NO_KERNEL, KERNEL_TWO_BUILDS, those of ``package.files``.
    """
    related: List[bool] = []

    def wanted(name: str) -> bool:
        related.append(_RELATED.match(name) is not None)
        return _place(name) is not None

    before = len(whose)
    for name, data in package.files(host, path, wanted):
        place = _place(name) or ""
        if len(whose) >= FILES:
            raise KmodError(
                path,
                "has more than %d files of a kernel" % FILES,
                "It is damaged, or made to do harm",
                "PACKAGE_DAMAGED",
            )
        if place in whose and data != scratch.read(place):
            raise _two_builds(place.lstrip("/"), whose[place], path)
        if whose.setdefault(place, path) == path:
            _write(scratch, place, data, path=path)
    if len(whose) == before and related and not any(related):
        raise KmodError(path, "is no package of a kernel", "Leave it out", "PACKAGE_NO_KERNEL")


def _place(name: str) -> Optional[str]:
    """Where a file of a package goes in the scratch root; None for one that is not needed."""
    of = _OF_MODULES.fullmatch(name)
    if of and names.is_release(of.group(1)):
        return "%s/%s/%s" % (MODULES[0], of.group(1), of.group(2))
    of = _OF_BOOT.fullmatch(name)
    if (of and names.is_release(of.group(1))) or _OF_HEADERS.fullmatch(name):
        return "/" + name
    return None


def _write(scratch: Host, place: str, data: bytes, *, path: str) -> None:
    real = scratch.real(place)
    try:
        os.makedirs(os.path.dirname(real), 0o700, exist_ok=True)
        with open(real, "wb") as handle:
            handle.write(data)
    except OSError as error:
        raise from_oserror(real, error, "take it out of %s" % path) from None


def _releases(scratch: Host, whose: Dict[str, str]) -> _Taken:
    """A release of which there are only modules outside of kernel/ is that of somebody's driver, not a
    kernel.
    """
    headers_of = {directory: release for release, directory in headers.directories(scratch)}
    taken = _Taken({}, set())
    for place, path in whose.items():
        of = _OF_MODULES.fullmatch(place[1:]) or _OF_BOOT.fullmatch(place[1:])
        of_headers = _OF_HEADERS.fullmatch(place[1:])
        release = of.group(1) if of else headers_of.get("/" + of_headers.group(1)) if of_headers else None
        if release is None:
            continue
        if path not in taken.givers.setdefault(release, []):
            taken.givers[release].append(path)
        if not names.is_module_file(place) or place.startswith("%s/%s/kernel/" % (MODULES[0], release)):
            taken.kernels.add(release)
    return taken


def _two_builds(what: str, one: str, other: str) -> KmodError:
    return KmodError(
        what,
        "is in %s and in %s, which are two builds of one kernel" % (one, other),
        "Give the packages of one build",
        "KERNEL_TWO_BUILDS",
    )
