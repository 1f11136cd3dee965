# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel's headers tell of it: kernel-devel, linux-headers, or a tree that it was built in.

They are 2-3 MB where the kernel itself is 100, and enough for most of what the loader asks. What they do not show is None.
"""

import re
from typing import Dict, Iterator, NamedTuple, Optional, Tuple

from ..errors import forgiving
from ..host import MODULES, Host
from . import btf, elf, names

RELEASE_FILE = "include/generated/utsrelease.h"
FILES = (
    "Module.symvers",
    ".config",
    RELEASE_FILE,
    "vmlinux",
)  # what is read of them; the last has nothing but types, from 6.12 on


class ModuleStruct(NamedTuple):
    """The kernel's own ``struct module``, in bytes. ``exit`` is None in a kernel that cannot unload modules."""

    size: int
    init: int
    exit: Optional[int]


def directories(host: Host) -> Iterator[Tuple[str, str]]:
    """(release, directory) of all headers on a host, where the families put them."""
    places = [""] + ["%s/%s/build" % (top, name) for top in MODULES for name in host.listdir(top)]
    level = ["/usr/src"]
    for _unused in range(
        3
    ):  # SUSE's are /usr/src/linux-VERSION-obj/ARCH/FLAVOUR; what has a Makefile is not such a place, but a whole tree
        level = [
            "%s/%s" % (above, name)
            for above in level
            for name in host.listdir(above)
            if not host.is_file(above + "/Makefile")
        ]
        places += level
    for directory in places:
        found = release_of(host, directory)
        if found:
            yield found, directory or "/"


def release_of(host: Host, directory: str) -> Optional[str]:
    """The release of the kernel that headers are of; None for a directory that has none."""
    path = "%s/%s" % (directory, RELEASE_FILE)
    with forgiving():
        found = (
            re.search(r'^#define UTS_RELEASE "([^"\s]+)"', host.read_text(path), re.M)
            if host.is_file(path)
            else None
        )
        return found.group(1) if found and names.is_release(found.group(1)) else None
    return None


# What the configuration of an architecture calls it, and what uname -m does there.
_MACHINES = (
    ("X86_64", "x86_64"),
    ("ARM64", "aarch64"),
    ("S390", "s390x"),
    ("X86_32", "i686"),
    ("ARM", "armv7l"),
)


def machine(config: Dict[str, str]) -> Optional[str]:
    """As ``uname -m`` has it; None where the configuration does not tell."""

    def has(name: str) -> bool:
        return config.get("CONFIG_" + name) == "y"

    if has("RISCV"):
        return "riscv64" if has("64BIT") else "riscv32"
    if has("PPC64"):
        return "ppc64le" if has("CPU_LITTLE_ENDIAN") else "ppc64"
    if has("LOONGARCH"):
        return "loongarch64" if has("64BIT") else None
    return next((name for option, name in _MACHINES if has(option)), None)


def vermagic(release: str, config: Dict[str, str]) -> Optional[str]:
    """The version magic of a kernel with this configuration (``include/linux/vermagic.h``); None where it cannot be told for certain."""

    def has(name: str) -> bool:
        return config.get("CONFIG_" + name) == "y"

    arch = _arch_vermagic(machine(config), config)
    preempt = has("PREEMPT_BUILD") or has("PREEMPT")  # the first since 5.17
    seeded = any(
        has(name) for name in ("RANDSTRUCT", "GCC_PLUGIN_RANDSTRUCT")
    )  # then it has a digest, which no configuration shows
    if arch is None or seeded or (preempt and has("PREEMPT_RT") and int(release.split(".")[0]) < 7):
        return None  # until 6.12 the two exclude each other; some version before 7.2 made the real-time one come first
    flags = (
        ("SMP ", has("SMP")),
        ("preempt_rt ", has("PREEMPT_RT")),
        ("preempt ", preempt and not has("PREEMPT_RT")),
        ("mod_unload ", has("MODULE_UNLOAD")),
        ("modversions ", has("MODVERSIONS")),
    )
    return release + " " + "".join(word for word, there in flags if there) + arch


def _arch_vermagic(name: Optional[str], config: Dict[str, str]) -> Optional[str]:
    """MODULE_ARCH_VERMAGIC of arch/*/include/asm/vermagic.h and of asm-generic."""
    if name in ("x86_64", "s390x"):
        return ""
    if name == "ppc64le":
        traced = [
            word
            for option, word in (
                ("ARCH_USING_PATCHABLE_FUNCTION_ENTRY", "patchable-function-entry "),
                ("MPROFILE_KERNEL", "mprofile-kernel "),
            )
            if config.get("CONFIG_" + option) == "y"
        ]
        return "".join(traced[:1]) + ("relocatable " if config.get("CONFIG_RELOCATABLE") == "y" else "")
    if (
        name == "i686" and config.get("CONFIG_M686") == "y"
    ):  # one word for each of the processors that it may be made for
        return "686 "
    return {"aarch64": "aarch64", "riscv64": "riscv", "loongarch64": "LOONGARCH 64BIT "}.get(name or "")


def module_struct(host: Host, directory: str) -> Optional[ModuleStruct]:
    """By the types (BTF) of the ``vmlinux`` among the headers; None where there is none."""
    path = directory.rstrip("/") + "/vmlinux"
    with forgiving():
        file = elf.parse(host.read(path)) if host.is_file(path) else None
        section = file.find_any(".BTF") if file else None
        if file and section:
            try:
                return _module_struct(btf.Btf(file.contents(section), file.order))
            except btf.BtfError:
                return None
    return None


def _module_struct(types: btf.Btf) -> Optional[ModuleStruct]:
    layouts = types.layouts(["module"]).get("module", [])
    if len(layouts) != 1:
        return None
    size, members = layouts[0]
    offsets = dict(members)
    if "init" not in offsets:
        return None
    return ModuleStruct(size, offsets["init"] // 8, offsets["exit"] // 8 if "exit" in offsets else None)
