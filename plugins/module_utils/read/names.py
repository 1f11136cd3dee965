# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What drivers, kernel releases and modules may be called.

These names become parts of paths and words in other programs' files (depmod.d, boot menus, scripts of an
initramfs). Most come from outside: a vendor's module, a package, a restored tree. One rule for each, in
ASCII, so that none of them can mean anything else there.
"""

import functools
import hashlib
import re
from typing import Iterable, Tuple

from ..errors import KmodError

_DRIVER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", re.ASCII)
_RELEASE = re.compile(r"[0-9]+\.[0-9]+[A-Za-z0-9_.+~-]*", re.ASCII)  # kmod takes nothing else for a version
# include/linux/moduleparam.h: MAX_PARAM_PREFIX_LEN, and the NUL
_MODULE = re.compile(r"[A-Za-z0-9_]{1,55}", re.ASCII)
RELEASE_LENGTH = 64  # include/uapi/linux/utsname.h: __NEW_UTS_LEN
# depmod does not look into the first two; the third is a directory of ours
RESERVED = ("build", "source", "outoftree.kmod")


def check_driver(driver: str) -> str:
    """The name, if a driver may be called so. Error: DRIVER_NAME."""
    if not _DRIVER.fullmatch(driver) or driver in RESERVED:
        raise KmodError(
            driver,
            "cannot be a driver's name",
            "Use at most 64 letters, digits, and . _ + - between them",
            "DRIVER_NAME",
        )
    return driver


SHORT = 100  # more than one driver's name
TOGETHER = ","  # between the drivers of one boot entry: no driver's name has it


def together(drivers: Iterable[str]) -> str:
    """What the boot entry of these drivers is marked with: of one it is its name. Error: DRIVER_NAME."""
    return TOGETHER.join(sorted({check_driver(driver) for driver in drivers}))


def apart(marked: str) -> Tuple[str, ...]:
    """The inverse: the drivers of a boot entry by its mark."""
    return tuple(marked.split(TOGETHER))


def short(marked: str) -> str:
    """The same for names that have to fit into a file's name and GRUB's environment block: of many drivers a
    digest.
    """
    return marked if len(marked) <= SHORT else hashlib.sha256(marked.encode()).hexdigest()[:16]


def is_release(text: str) -> bool:
    """Whether a kernel can be called so, and depmod be told of it."""
    return len(text) <= RELEASE_LENGTH and _RELEASE.fullmatch(text) is not None


def check_release(release: str, where: str) -> str:
    """The release, if a kernel can be called so; ``where`` is the file that names it. Error: RELEASE_NAME."""
    if not is_release(release):
        raise KmodError(
            where,
            "names a kernel release that no kernel can have: %s" % release[:80],
            "Rebuild it with the kernel's own build system",
            "RELEASE_NAME",
        )
    return release


def is_module(name: str) -> bool:
    """Whether the kernel and its tools know a module by such a name, dashes written as underscores."""
    return _MODULE.fullmatch(name) is not None


# What files are called


_KMOD = re.compile(r"\.ko(\.gz|\.xz|\.zst)?\Z")  # kmod: shared/util.c: kmod_exts
_READABLE = re.compile(r"\.ko(\.gz|\.xz|\.zst|\.bz2)?\Z")
_STORED = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*\.ko", re.ASCII)
_PACKAGE = re.compile(r"\.(deb|rpm)\Z")


def is_module_file(path: str) -> bool:
    """Whether depmod and modprobe take a file for a module."""
    return _KMOD.search(path) is not None


def is_readable_module(path: str) -> bool:
    """Whether a file is called as a module that we can read: in what a person gives us, and in images, which
    may be older than this kmod.
    """
    return _READABLE.search(path) is not None


def may_be_module(path: str) -> bool:
    """Whether anybody at all may take a file for a module, in whatever form or state: what is left alone, and
    what depmod has to look at again.
    """
    return ".ko" in path.rsplit("/", 1)[-1]


def is_stored_module(name: str) -> bool:
    """Whether a module is called so in our store: uncompressed, in a name that no program reads otherwise."""
    return _STORED.fullmatch(name) is not None


def is_package(path: str) -> bool:
    """Whether a file is called as a package that we can look into."""
    return _PACKAGE.search(path) is not None


def stem(path: str) -> str:
    """A module file's name as kmod cuts it: up to its first dot."""
    return path.rsplit("/", 1)[-1].partition(".")[0]


def stored_name(path: str, module: str) -> str:
    """What the uncompressed file of a module is to be called: as it came, where kmod finds the module by that
    name, else as the module.
    """
    file = stem(path) + ".ko"
    return file if module_of(path) == module and is_stored_module(file) else module + ".ko"


@functools.lru_cache(maxsize=1 << 14)  # asked for each of some thousand files again and again
def module_of(path: str) -> str:
    """The module name that kmod makes of a file's: of snd-hda-intel.ko.xz it is snd_hda_intel, of
    megaraid_sas-07.7.ko megaraid_sas_07 (``kmod: shared/util.c: path_to_modname``). The module inside may
    have another one.
    """
    return stem(path).replace("-", "_")


def alias_of(name: str) -> str:
    """An alias or a module's name as libkmod compares it: dashes are underscores but within brackets (``kmod:
    shared/util.c: alias_normalize``).
    """
    return "".join(
        part if part.startswith("[") else part.replace("-", "_") for part in re.split(r"(\[[^]]*\])", name)
    )
