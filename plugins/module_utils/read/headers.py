# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel's headers tell of it: kernel-devel, linux-headers, or a tree that it was built in.

They are 2-3 MB where the kernel itself is 100, and enough for most of what the loader asks. What they do not
show is None.
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
    """The kernel's own ``struct module``, in bytes.

    ``exit`` is None in a kernel that cannot unload modules.
    """

    size: int
    init: int
    exit: Optional[int]


def directories(host: Host) -> Iterator[Tuple[str, str]]:
    """(release, directory) of all headers on a host, where the families put them."""
    places = [""] + ["%s/%s/build" % (top, name) for top in MODULES for name in host.listdir(top)]
    level = ["/usr/src"]
    for _unused in range(
        3
        # SUSE's are /usr/src/linux-VERSION-obj/ARCH/FLAVOUR; what has a Makefile is not such a place, but a
        # whole
        # tree
    ):
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


def option(config: Dict[str, str], name: str) -> bool:
    """Whether CONFIG_NAME is set; a configuration that is not there sets none."""
    return config.get("CONFIG_" + name) == "y"


def machine(config: Dict[str, str]) -> Optional[str]:
    """As ``uname -m`` has it; None where the configuration does not tell."""
    wide = option(config, "64BIT")
    if option(config, "X86_64"):
        return "x86_64"
    if option(config, "X86_32"):
        return "i686"
    if option(config, "ARM64"):
        return "aarch64"
    if option(config, "ARM"):
        return "armv7l"
    if option(config, "S390"):
        return "s390x"
    if option(config, "RISCV"):
        return "riscv64" if wide else "riscv32"
    if option(config, "LOONGARCH"):
        return "loongarch64" if wide else None
    if option(config, "PPC64"):
        return "ppc64le" if option(config, "CPU_LITTLE_ENDIAN") else "ppc64"
    return None


def vermagic(release: str, config: Dict[str, str]) -> Optional[str]:
    """The version magic of a kernel with this configuration; None where it cannot be told for certain.

    ``include/linux/vermagic.h``. CONFIG_PREEMPT_BUILD is there since 5.17. Of the two flags for preemption
    one is written: the real-time one in 7.2, the other one until 6.12, and which one between is not known
    here. A randomized layout has a digest that no configuration shows.
    """
    arch = _arch_vermagic(machine(config), config)
    realtime = option(config, "PREEMPT_RT")
    preempt = option(config, "PREEMPT_BUILD") or option(config, "PREEMPT")
    version = tuple(map(int, re.findall(r"\d+", release)[:2]))
    if preempt and realtime:
        if (6, 12) < version < (7, 2):
            return None
        preempt, realtime = version <= (6, 12), version > (6, 12)
    if arch is None or option(config, "RANDSTRUCT") or option(config, "GCC_PLUGIN_RANDSTRUCT"):
        return None
    flags = (
        ("SMP ", option(config, "SMP")),
        ("preempt_rt ", realtime),
        ("preempt ", preempt),
        ("mod_unload ", option(config, "MODULE_UNLOAD")),
        ("modversions ", option(config, "MODVERSIONS")),
    )
    return release + " " + "".join(word for word, there in flags if there) + arch


def _arch_vermagic(name: Optional[str], config: Dict[str, str]) -> Optional[str]:
    """MODULE_ARCH_VERMAGIC of arch/*/include/asm/vermagic.h and of asm-generic."""
    if name in ("x86_64", "s390x"):
        return ""
    if name == "ppc64le":
        traced = "mprofile-kernel " if option(config, "MPROFILE_KERNEL") else ""
        traced = (
            "patchable-function-entry " if option(config, "ARCH_USING_PATCHABLE_FUNCTION_ENTRY") else traced
        )
        return traced + ("relocatable " if option(config, "RELOCATABLE") else "")
    if name == "i686" and option(
        config, "M686"
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
