# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The loader of one kernel: which rules it has, and with what it compares a module.

A configuration tells most of it. What no configuration shows is here: what each upstream version brought, and
where distributions differ.
"""

import re
from typing import AbstractSet, Callable, Dict, FrozenSet, Mapping, NamedTuple, Optional, Tuple

from ..errors import KmodError, SystemFailed
from ..read import modprobe
from ..read.export_sources import Note
from ..read.exports import Export
from ..read.kernels import Kernel, Traits, Trust
from ..read.runtime import OFFLINE, Runtime

# The upstream versions that brought a rule, by its name here.
SINCE: Dict[str, Tuple[int, int]] = {
    "forgiving of signatures": (5, 4),  # until then of foreign keys alone
    "section bounds": (5, 10),  # module: harden ELF info handling: 5.12 and the stable series back to 5.10
    "blacklist before versions": (4, 19),
    "x86 relocation targets": (4, 15),
    "x86 ignores _GLOBAL_OFFSET_TABLE_": (5, 10),
    "inherit taint": (5, 9),
    "no writable code": (5, 8),
    "struct module size": (6, 4),
    "unique sections": (6, 4),
    "string table type": (6, 12),
    "extended versions": (6, 14),
    "module namespaces": (6, 16),
    "export flags": (7, 0),
}
# Builds of a distribution's kernel that have a rule which their upstream version did not: (family, rule) ->
# (upstream version, build).
BACKPORTED: Dict[Tuple[str, str], Tuple[Tuple[int, int], int]] = {
    ("rhel", "struct module size"): ((5, 14), 503),  # EL 9.5
    ("rhel", "forgiving of signatures"): ((4, 18), 1),
    ("debian", "forgiving of signatures"): ((4, 19), 1),
    ("rhel", "section bounds"): ((4, 18), 348),  # EL 8.5
}


class Loader(NamedTuple):
    """``family`` is whose kernel it is, "" if its own marks do not tell.

    ``owners`` are vmlinux and the in-tree modules that export something, ``builtin`` the modules that are
    part of vmlinux. ``problem`` says why ``exports`` is empty, ``notes`` which sources of it were not
    believed.
    """

    release: str
    version: Tuple[int, int]
    family: str
    config: Dict[str, str]
    traits: Traits
    exports: Mapping[str, Export]
    owners: FrozenSet[str] = frozenset()
    builtin: FrozenSet[str] = frozenset()
    absent: Dict[str, str] = {}  # by symbol the kernel's own module that exports it and is not installed
    installed: AbstractSet[str] = frozenset()  # the modules that modprobe finds, whoever made them
    problem: Optional[KmodError] = None
    notes: Tuple[Note, ...] = ()
    runtime: Runtime = OFFLINE
    trust: Callable[[], Trust] = Trust  # finding out takes time
    # the version of the kmod that loads modules; None where it cannot be told
    kmod: Callable[[], Optional[int]] = lambda: None

    def option(self, name: str) -> Optional[bool]:
        """Whether CONFIG_NAME is set; None where the configuration is not available."""
        return "CONFIG_" + name in self.config if self.config else None

    def has(self, rule: str) -> bool:
        version, build = BACKPORTED.get((self.family, rule), ((0, 0), 0))
        number = re.match(r"[\d.]+-(\d+)", self.release)
        return self.version >= SINCE[rule] or bool(
            build and self.version == version and number and int(number.group(1)) >= build
        )

    @property
    def modversions(self) -> bool:
        """CONFIG_MODVERSIONS, which every vermagic tells too (``include/linux/vermagic.h``)."""
        if self.traits.vermagic:
            return " modversions" in self.traits.vermagic
        return any(export.crc is not None for export in self.exports.values())

    @property
    def export_flags(self) -> bool:
        """Whether exports have their __kflagstab; some 7.x does, which its own modules tell best."""
        return self.has("export flags") if self.traits.exports_flags is None else self.traits.exports_flags


def loader(kernel: Kernel, runtime: Runtime = OFFLINE) -> Loader:
    """Error-free: where the kernel's exports cannot be told, that becomes its ``problem``."""
    problem = None
    exports: Mapping[str, Export] = {}
    try:
        exports = kernel.exports
    except SystemFailed:
        raise
    except KmodError as error:
        problem = error
    return Loader(
        release=kernel.release,
        version=version(kernel.release),
        family=kernel.family,
        config=kernel.config,
        traits=kernel.traits,
        exports=exports,
        owners=frozenset() if problem else kernel.exporters,
        builtin=kernel.builtin,
        absent={} if problem else kernel.sourced.absent,
        installed=kernel.modules.keys(),
        problem=problem,
        notes=() if problem else kernel.export_notes,
        runtime=runtime,
        trust=lambda: kernel.trust,
        kmod=lambda: modprobe.version(kernel.host),
    )


def package_of(loader: Loader, name: str) -> str:
    """The package that has, or may have, a module of the kernel's own which is not installed; in words."""
    release = loader.release
    if loader.family == "debian" and "-cloud-" in release:
        return (
            "Debian's cloud kernels leave many modules out: install linux-image-%s"
            % release.rpartition("-cloud-")[2]
        )
    names = {
        "debian": "linux-image-%s" % release,
        "ubuntu": "linux-modules-extra-%s" % release,
        "rhel": "kernel-modules-%s or kernel-modules-extra-%s" % (release, release),
        "fedora": "kernel-modules-%s or kernel-modules-extra-%s" % (release, release),
        "amazon": "kernel-modules-extra-%s" % release,
        "suse": "kernel-%s or kernel-%s-extra" % ((release.rpartition("-")[2],) * 2),
    }
    if loader.family not in names:
        return "install the kernel's package that has %s.ko" % name
    return "install %s" % names[loader.family]


def version(release: str) -> Tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found.group(1)), int(found.group(2))) if found else (0, 0)
