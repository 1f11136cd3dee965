# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The kernels that are installed on a host."""
import os
import re
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

from .. import compression
from ..errors import KmodError
from ..host import Host
from . import ko, sources
from .exports import Export, find_symvers
from .sources import Note, Sources

MODULES = ("/lib/modules", "/usr/lib/modules")
_SHIPPED = ("kernel", "modules.order", "modules.builtin", "modules.builtin.modinfo")  # depmod makes modules.dep even for a mere store
_SAMPLES = 24  # in-tree modules that are looked at for one with both an init and an exit function


class Build(NamedTuple):
    """What every module built for a kernel has in common with it, read off its in-tree modules."""

    vermagic: Optional[str] = None
    machine: Optional[str] = None
    struct_size: Optional[int] = None  # sizeof(struct module)
    init_offset: Optional[int] = None
    exit_offset: Optional[int] = None
    module_layout: Optional[int] = None  # the CRC of module_layout that they were built with
    btf: bool = False
    modinfo: Tuple[Tuple[str, str], ...] = ()


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

    def __init__(self, host: Host, release: str, modules_dir: str) -> None:
        self.host = host
        self.release = release
        self.modules_dir = modules_dir

    def __repr__(self) -> str:
        return "Kernel(%s)" % self.release

    @lazy
    def image(self) -> Optional[str]:
        """The path of its boot image; None where there is none."""
        return find_image(self.host, self.release)

    @lazy
    def config(self) -> Dict[str, str]:
        """CONFIG_NAME -> value without quotes; what is not set is not there. Empty where no config is to be found."""
        places = ["/boot/config-" + self.release, self.modules_dir + "/config", self.modules_dir + "/build/.config",
                  "/usr/src/kernels/%s/.config" % self.release, "/usr/src/linux-headers-%s/.config" % self.release]
        if self.running:
            places.append("/proc/config.gz")
        path = next((place for place in places if self.host.is_file(place)), None)
        return read_config(compression.decompress(self.host.read(path), path)) if path else {}

    @lazy
    def build(self) -> Build:
        return _build(self)

    @property
    def vermagic(self) -> Optional[str]:
        """The string that a module's is compared with; None where it cannot be told."""
        return self.build.vermagic

    @property
    def machine(self) -> Optional[str]:
        return self.build.machine

    @lazy
    def distro(self) -> str:
        """Whose kernel it is: debian, ubuntu, rhel, fedora, suse, arch …; "" if nothing tells."""
        return _distro(self)

    @lazy
    def symvers(self) -> Optional[str]:
        """The path of its symvers; None where there is none."""
        return find_symvers(self.host, self.release)

    @lazy
    def sources(self) -> Sources:
        return sources.read(self.host, self.modules_dir, self.symvers, self.image)

    @property
    def exports(self) -> Dict[str, Export]:
        """What it and its installed modules export, by symbol. Error: KERNEL_NO_CRC_SOURCE where that cannot be told."""
        if self.sources.origin is None:
            raise KmodError(self.release, "; ".join(note.message for note in self.sources.notes),
                            "Install the package that has its symvers (kernel-devel, linux-headers)", "KERNEL_NO_CRC_SOURCE")
        return self.sources.exports

    @property
    def export_notes(self) -> Tuple[Note, ...]:
        """What was found and not believed on the way to its exports (KERNEL_SYMVERS_STALE and the like)."""
        return self.sources.notes

    @property
    def running(self) -> bool:
        return self.host.live and os.uname().release == self.release


def version_key(release: str) -> Tuple[Tuple[int, int, str], ...]:
    """A sort key that orders releases as rpm and dpkg do: 6.1.0-9 < 6.1.0-56, 427.el9 < 427.13.1.el9, 6.12~rc1 < 6.12.

    An "rc" followed by a number sorts like a tilde: 6.12.0-rc1 is older than 6.12.0, too.
    """
    parts = re.findall(r"~|rc(?=\d)|\d+|[a-zA-Z]+", release)
    return tuple((-1, 0, "") if part in ("~", "rc") else (2, int(part), "") if part.isdigit() else (1, 0, part) for part in parts) + ((0, 0, ""),)


def installed(host: Host) -> List[Kernel]:
    """Every installed kernel, oldest first. A directory that only keeps modules of others (extra/, updates/) is none."""
    found: Dict[str, Kernel] = {}
    for directory in MODULES:
        for release in host.listdir(directory):
            if release not in found and is_kernel(host, directory, release):
                found[release] = Kernel(host, release, "%s/%s" % (directory, release))
    return sorted(found.values(), key=lambda kernel: (version_key(kernel.release), kernel.release))


def kernel(host: Host, release: str) -> Kernel:
    """One installed kernel. Error: KERNEL_MISSING."""
    for directory in MODULES:
        if "/" not in release and is_kernel(host, directory, release):
            return Kernel(host, release, "%s/%s" % (directory, release))
    there = [each.release for each in installed(host)]
    raise KmodError(release, "no such kernel is installed", "There is: %s" % (", ".join(there) or "none"), "KERNEL_MISSING")


def is_kernel(host: Host, directory: str, release: str) -> bool:
    """Whether directory/release belongs to a kernel: it has an image or files that come with a kernel alone."""
    path = "%s/%s" % (directory, release)
    return host.is_dir(path) and (any(host.exists("%s/%s" % (path, name)) for name in _SHIPPED) or find_image(host, release) is not None)


def find_image(host: Host, release: str) -> Optional[str]:
    """The boot image of a release: in /boot, else where kernel-install or the kernel's own package keeps it."""
    places = ["/boot/%s-%s" % (name, release) for name in ("vmlinuz", "vmlinux", "Image", "image", "zImage", "uImage", "kernel")]
    places += ["%s/%s/%s" % (directory, release, name) for directory in MODULES for name in ("vmlinuz", "Image", "image", "vmlinux")]
    for top in ("/boot", "/efi", "/boot/efi"):
        places += ["%s/%s/%s/linux" % (top, name, release) for name in host.listdir(top) if re.match("[0-9a-f]{32}$", name)]
    return next((place for place in places if host.is_file(place)), None)


def read_config(data: bytes) -> Dict[str, str]:
    """A .config: CONFIG_NAME -> value without quotes."""
    return {name: value.strip('"') for name, value in re.findall(r"^(CONFIG_\w+)=(.*)$", data.decode("utf-8", "replace"), re.M)}


def in_tree(host: Host, modules_dir: str) -> Iterator[str]:
    """The paths of a kernel's own modules, sorted within each directory."""
    todo = [modules_dir + "/kernel"]
    while todo:
        directory = todo.pop(0)
        names = host.listdir(directory)
        for name in names:
            if re.search(r"\.ko(\.(gz|xz|zst))?$", name):
                yield "%s/%s" % (directory, name)
        todo[:0] = ["%s/%s" % (directory, name) for name in names if "." not in name and host.is_dir("%s/%s" % (directory, name))]


def _build(kernel: Kernel) -> Build:
    found: Optional[Build] = None
    for number, path in enumerate(in_tree(kernel.host, kernel.modules_dir)):
        try:
            module = ko.read(kernel.host, path)
        except KmodError:  # a damaged one is not what this is about
            continue
        if module.vermagic and not module.faults:
            layout = next((version.crc for version in module.versions or () if version.name == "module_layout"), None)
            this = Build(module.vermagic, module.machine, module.struct_size, module.init_offset, module.exit_offset, layout, module.btf,
                         module.modinfo)
            found = found or this
            if this.init_offset is not None and this.exit_offset is not None:
                return this
        if number >= _SAMPLES:
            break
    return found or Build()


def _distro(kernel: Kernel) -> str:
    """The kernel's own marks come first: a Debian kernel below a bare root is still Debian's."""
    compiler = kernel.config.get("CONFIG_CC_VERSION_TEXT", "")
    keys = dict(kernel.build.modinfo)
    marks = (("ubuntu", "Ubuntu" in compiler or "CONFIG_VERSION_SIGNATURE" in kernel.config), ("debian", "Debian" in compiler),
             ("fedora", re.search(r"\.fc\d+", kernel.release)), ("rhel", "rhelversion" in keys or re.search(r"\.el\d+", kernel.release)),
             ("suse", "suserelease" in keys or "CONFIG_SUSE_VERSION" in kernel.config))
    return next((name for name, mark in marks if mark), "") or _os_family(kernel.host)


def _os_family(host: Host) -> str:
    path = next((name for name in ("/etc/os-release", "/usr/lib/os-release") if host.is_file(name)), None)
    if path is None:
        return ""
    fields = dict(re.findall(r'^(ID|ID_LIKE)=["\']?([^"\'\n]*)', host.read_text(path), re.M))
    names = [fields.get("ID", "")] + fields.get("ID_LIKE", "").split()
    families = {"centos": "rhel", "sles": "suse", "opensuse": "suse", "rocky": "rhel", "almalinux": "rhel", "ol": "rhel", "amzn": "amazon"}
    known = [families.get(name, name) for name in names]
    return next((name for name in known if name in ("debian", "ubuntu", "rhel", "fedora", "suse", "arch")), known[0])
