# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernels that are installed on a host."""

import contextlib
import fnmatch
import os
import re
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Tuple,
)

from .. import compression, kept_files
from ..errors import KmodError, SystemFailed, forgiving
from ..host import MODULES, Host
from . import depmod, export_sources, family, ko, modprobe, names, signature
from .aliases import Aliases, head
from .export_sources import Note, SourcedExports
from .exports import Export, find_symvers, owners_of
from .signature import Certificate, Signature

if TYPE_CHECKING:  # what unpacks images is imported when one is
    from .kernel_image import KernelImage

_SAMPLES = 24  # in-tree modules that are looked at for one with both an init and an exit function


class Traits(NamedTuple):
    """What every module built for a kernel has in common with it, read off its in-tree modules."""

    vermagic: Optional[str] = None
    machine: Optional[str] = None
    struct_size: Optional[int] = None  # sizeof(struct module)
    init_offset: Optional[int] = None
    exit_offset: Optional[int] = None
    module_layout: Optional[int] = None  # the CRC of module_layout that they were built with
    chained_versions: bool = False  # as KernelModule has it
    # whether their exports have a __kflagstab; None if none of those looked at exports anything
    exports_flags: Optional[bool] = None
    signature: Optional[Signature] = None  # of one of them: the kernel's own signer
    modinfo: Tuple[Tuple[str, str], ...] = ()


class Trust(NamedTuple):
    """What a kernel's image says of signatures. No certificates and None where it cannot be read."""

    certificates: Tuple[Certificate, ...] = ()  # that are part of it (certs/system_certificates.S)
    # whether it looks up a signed module's digest on the firmware's list, which is no part of upstream
    checks_digests: Optional[bool] = None


class lazy:  # noqa: N801 - used like property
    """A property that is computed once; functools.cached_property came with Python 3.8."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        if instance is None:
            return self
        value = instance.__dict__[self.compute.__name__] = self.compute(instance)
        return value


class Kernel:
    """An installed kernel. All that has to be read is read when it is asked for, and then kept."""

    def __init__(
        self, host: Host, release: str, modules_dir: str, *, given: Optional[SourcedExports] = None
    ) -> None:
        self.host = host
        self.release = release
        self.modules_dir = modules_dir
        self.given = given  # its exports, where they are known from elsewhere

    def __repr__(self) -> str:
        return "Kernel(%s)" % self.release

    @lazy
    def image(self) -> Optional[str]:
        """The path of its boot image; None where there is none."""
        return find_image(self.host, self.release)

    @lazy
    def config(self) -> Dict[str, str]:
        """CONFIG_NAME -> value without quotes; what is not set is not there.

        Empty where no config is to be found.
        """
        places = [
            "/boot/config-" + self.release,
            self.modules_dir + "/config",
            self.modules_dir + "/build/.config",
            "/usr/src/kernels/%s/.config" % self.release,
            "/usr/src/linux-headers-%s/.config" % self.release,
        ]
        if self.running:
            places.append("/proc/config.gz")
        path = next((place for place in places if self.host.is_file(place)), None)
        return read_config(compression.decompress(self.host.read(path), path)) if path else {}

    @lazy
    def traits(self) -> Traits:
        return _traits(self)

    @property
    def vermagic(self) -> Optional[str]:
        """The string that a module's is compared with; None where it cannot be told."""
        return self.traits.vermagic

    @property
    def machine(self) -> Optional[str]:
        return self.traits.machine

    @lazy
    def family(self) -> str:
        """Whose kernel this is (``family.of_kernel``)."""
        return family.of_kernel(self.release, self.traits.modinfo)

    @lazy
    def modules(self) -> Dict[str, str]:
        """The one file of each module name that is loaded for it (``depmod.chosen``)."""
        return depmod.chosen(self.host, self.modules_dir)

    @lazy
    def own(self) -> Dict[str, str]:
        """Those of its modules that came with it."""
        return depmod.in_tree(self.modules, self.modules_dir)

    @lazy
    def added(self) -> Dict[str, str]:
        """Those of its modules that did not."""
        return {name: path for name, path in self.modules.items() if name not in self.own}

    @lazy
    def builtin(self) -> FrozenSet[str]:
        """The names of the modules that are part of vmlinux."""
        path = self.modules_dir + "/modules.builtin"
        return (
            frozenset(map(names.module_of, self.host.read_text(path).split()))
            if self.host.is_file(path)
            else frozenset()
        )

    @lazy
    def modprobe(self) -> modprobe.ModprobeConfig:
        """What modprobe.d says, which holds for all kernels of a host."""
        return modprobe.config(self.host)

    @lazy
    def depmod(self) -> depmod.DepmodConfig:
        """What depmod.d says for it."""
        return depmod.config(self.host, self.release)

    @lazy
    def aliases(self) -> Aliases:
        """The aliases of its own modules, in-tree and built in."""
        return Aliases(each for each in aliases(self) if each[1] in self.own or each[1] in self.builtin)

    @lazy
    def stable(self) -> FrozenSet[str]:
        """The symbols on the stablelist that an EL kernel's kernel-abi-stablelists (before EL 9 -whitelists)
        installs; empty without it.
        """
        for directory in sorted(
            (name for name in self.host.listdir(MODULES[0]) if name.startswith("kabi-")), reverse=True
        ):
            for name in ("stablelist", "whitelist"):
                path = "%s/%s/kabi_%s_%s" % (MODULES[0], directory, name, self.traits.machine)
                if self.host.is_file(path):
                    lines = self.host.read_text(path).splitlines()
                    return frozenset(
                        line.strip() for line in lines if line.strip() and not line.startswith("[")
                    )
        return frozenset()

    @lazy
    def symvers(self) -> Optional[str]:
        """The path of its symvers; None where there is none."""
        return find_symvers(self.host, self.release)

    @lazy
    def sourced(self) -> SourcedExports:
        return self.given or export_sources.read(
            self.host, self.modules_dir, self.modules, symvers=self.symvers, image=self.image
        )

    @property
    def exports(self) -> Mapping[str, Export]:
        """What it and its installed modules export, by symbol.

        Error: KERNEL_NO_CRC_SOURCE where that cannot be told.
        """
        if self.sourced.origin is None:
            raise KmodError(
                self.release,
                "; ".join(note.message for note in self.sourced.notes),
                "Install the package that has its symvers (kernel-devel, linux-headers)",
                "KERNEL_NO_CRC_SOURCE",
            )
        return self.sourced.exports

    @lazy
    def exporters(self) -> FrozenSet[str]:
        """vmlinux and those of its own modules that export something. Error: as ``exports``."""
        return owners_of(self.exports).difference(self.added)

    @property
    def export_notes(self) -> Tuple[Note, ...]:
        """What was found and not believed on the way to its exports (KERNEL_SYMVERS_STALE and the like)."""
        return self.sourced.notes

    @lazy
    def trust(self) -> Trust:
        """Kept like the exports that are read out of an image, which has to be unpacked for this."""
        if self.image is None:
            return Trust()
        key, name = export_sources.fingerprint(self.host, [self.image]), self.release + ":trust"
        kept = kept_files.load(self.host, name, key)
        with contextlib.suppress(LookupError, TypeError, ValueError):
            if kept is not None:
                packed = bytes.fromhex(kept["certificates"])
                return Trust(tuple(signature.certificates(packed)), kept["checks"])
        image = _unpacked(self)
        if image is None:
            return Trust()
        from . import unpacked

        certificates: Dict[Certificate, None] = {}
        checks = False
        for piece in unpacked.windows(image.data):
            certificates.update(dict.fromkeys(signature.certificates(piece)))
            checks = checks or b"Module hash %*phN is blacklisted" in piece
        found = Trust(tuple(certificates), checks)
        kept_files.store(
            self.host,
            name,
            {
                "key": key,
                "checks": found.checks_digests,
                "certificates": b"".join(each.whole for each in found.certificates).hex(),
            },
        )
        return found

    @property
    def running(self) -> bool:
        return self.host.live and os.uname().release == self.release


def version_key(release: str) -> Tuple[Tuple[int, int, str], ...]:
    """A sort key that orders releases as rpm and dpkg do: 6.1.0-9 < 6.1.0-56, 427.el9 < 427.13.1.el9,
    6.12~rc1 < 6.12.

    An "rc" followed by a number sorts like a tilde: 6.12.0-rc1 is older than 6.12.0, too.
    """
    parts = re.findall(r"~|rc(?=\d)|\d+|[a-zA-Z]+", release)
    return tuple(
        (-1, 0, "") if part in ("~", "rc") else (2, int(part), "") if part.isdigit() else (1, 0, part)
        for part in parts
    ) + ((0, 0, ""),)


def modules_root(host: Host) -> str:
    """Where a host's modules directories are: one a release."""
    return next((directory for directory in MODULES if host.listdir(directory)), MODULES[0])


def installed(host: Host) -> List[Kernel]:
    """Every installed kernel, oldest first.

    A directory that only keeps modules of others (extra/, updates/) is none.
    """
    found: Dict[str, Kernel] = {}
    for directory in MODULES:
        for release in host.listdir(directory):
            if release not in found and is_kernel(host, directory, release):
                found[release] = Kernel(host, release, "%s/%s" % (directory, release))
    return sorted(found.values(), key=lambda kernel: (version_key(kernel.release), kernel.release))


def some(host: Host, found: List[Kernel]) -> List[Kernel]:
    """These kernels of a host, of which there has to be one at least. Error: NO_KERNELS."""
    if not found:
        raise KmodError(
            host.root,
            "there is no kernel below /lib/modules",
            "Give the root of an installed system",
            "NO_KERNELS",
        )
    return found


def kernel(host: Host, release: str) -> Kernel:
    """One installed kernel. Error: KERNEL_MISSING."""
    for directory in MODULES:
        if is_kernel(host, directory, release):
            return Kernel(host, release, "%s/%s" % (directory, release))
    there = [each.release for each in installed(host)]
    raise KmodError(
        release,
        "no such kernel is installed",
        "Installed: %s" % (", ".join(there) or "none"),
        "KERNEL_MISSING",
    )


def is_kernel(host: Host, directory: str, release: str) -> bool:
    """Whether directory/release belongs to a kernel: there are modules of its own, or something beside an
    image.

    What a removed kernel leaves (empty directories, its lists, depmod's files, modules of others) is none,
    nor is another name (a symlink) of one, or what no release is called.
    """
    path = "%s/%s" % (directory, release)
    if not names.is_release(release):
        return False
    try:
        if not host.is_dir(path):
            return False
    except KmodError as error:
        if error.code == "PATH_LOOP":
            return False
        raise
    above, name = os.path.split(host.real(path))
    if name != release and above == host.real(directory):
        return False
    if next(own_files(host, path), None):
        return True
    return bool(host.listdir(path)) and find_image(host, release) is not None


def find_image(host: Host, release: str) -> Optional[str]:
    """The boot image of a release: in /boot, else where kernel-install or the kernel's own package keeps it."""
    places = [
        "/boot/%s-%s" % (name, release)
        for name in ("vmlinuz", "vmlinux", "Image", "image", "zImage", "uImage", "kernel")
    ]
    places += [
        "%s/%s/%s" % (directory, release, name)
        for directory in MODULES
        for name in ("vmlinuz", "Image", "image", "vmlinux")
    ]
    for top in ("/boot", "/efi", "/boot/efi"):
        places += [
            "%s/%s/%s/linux" % (top, name, release)
            for name in host.listdir(top)
            if re.match("[0-9a-f]{32}$", name)
        ]
    return next((place for place in places if host.is_file(place)), None)


def read_config(data: bytes) -> Dict[str, str]:
    """A .config: CONFIG_NAME -> value without quotes."""
    return {
        name: value.strip('"')
        for name, value in re.findall(r"^(CONFIG_\w+)=(.*)$", data.decode("utf-8", "replace"), re.M)
    }


def own_files(host: Host, modules_dir: str) -> Iterator[str]:
    """The paths of a kernel's own modules, sorted within each directory."""
    todo = [modules_dir + "/kernel"]
    while todo:
        directory = todo.pop(0)
        found = host.listdir(directory)
        for name in found:
            if names.is_module_file(name):
                yield "%s/%s" % (directory, name)
        todo[:0] = [
            "%s/%s" % (directory, name)
            for name in found
            if not names.is_module_file(name) and host.is_dir("%s/%s" % (directory, name))
        ]


def aliases(kernel: Kernel) -> Iterator[Tuple[str, str]]:
    """By depmod's modules.alias, and by modules.builtin.modinfo (``NAME.alias=PATTERN``), which kernels have
    since 5.2.
    """
    path = kernel.modules_dir + "/modules.alias"
    if kernel.host.is_file(path):
        text = kernel.host.read_text(path, 64 << 20)
        for pattern, name in re.findall(r"^alias (\S+) (\S+)$", text, re.M):
            yield pattern, names.module_of(name)
    path = kernel.modules_dir + "/modules.builtin.modinfo"
    if kernel.host.is_file(path):
        text = kernel.host.read_text(path, 64 << 20)
        for name, pattern in re.findall(r"(?:^|(?<=\0))([^\0=.]+)\.alias=([^\0]*)", text):
            yield pattern, names.module_of(name)


def named(kernel: Kernel, alias: str) -> List[str]:
    """The modules that have an alias, as modprobe compares it (names.alias_of)."""
    found = {
        name
        for pattern, name in aliases(kernel)
        if alias.startswith(names.alias_of(head(pattern)))
        and fnmatch.fnmatchcase(alias, names.alias_of(pattern))
    }
    return sorted(found)


def _traits(kernel: Kernel) -> Traits:
    found: Optional[Traits] = None
    flags: Optional[bool] = None
    for number, path in enumerate(own_files(kernel.host, kernel.modules_dir)):
        try:
            module = ko.read(kernel.host, path)
        except SystemFailed:
            raise
        except KmodError:  # a damaged one is not what this is about
            continue
        # a vendor may have written over one
        if module.vermagic and module.info("intree") is not None and not module.faults:
            flags = module.exports_flags if module.exports else flags
            layout = next(
                (version.crc for version in module.versions or () if version.name == "module_layout"), None
            )
            this = Traits(
                module.vermagic,
                module.machine,
                struct_size=module.struct_size,
                init_offset=module.init_offset,
                exit_offset=module.exit_offset,
                module_layout=layout,
                chained_versions=module.chained_versions,
                exports_flags=flags,
                signature=module.signature,
                modinfo=module.modinfo,
            )
            if found is None or found.init_offset is None or found.exit_offset is None:
                found = this
            if (
                found.init_offset is not None
                and found.exit_offset is not None
                and (flags is not None or number)
            ):
                break
        if number >= _SAMPLES:
            break
    return found or Traits(vermagic=_image_vermagic(kernel))


def _image_vermagic(kernel: Kernel) -> Optional[str]:
    """For a kernel none of whose modules can be read."""
    image = _unpacked(kernel)
    if image is None:
        return None
    from . import kernel_image

    return kernel_image.vermagic(image)


def _unpacked(kernel: Kernel) -> Optional["KernelImage"]:
    """Its image, unpacked; None where it has none that can be read."""
    if kernel.image is None:
        return None
    from . import kernel_image

    with forgiving():
        return kernel_image.of(kernel.host, kernel.image)
    return None
