# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What no loader looks at and a person wants to know; notes never change a verdict."""
from typing import Iterator, Tuple

from ..read import depmod
from ..read.exports import VMLINUX
from ..read.kernels import Kernel
from ..read.ko import KernelModule
from .policy import Loader
from .verdict import NOTE, Finding

# What the module's code should have been compiled with: feature, the kernel's options for it, code and message of the note.
_COMPILED: Tuple[Tuple[str, Tuple[str, ...], str, str], ...] = (
    ("ibt", ("X86_KERNEL_IBT",), "WARN_IBT",
     "its functions have no landing pads (ENDBR): where the processor tracks indirect branches, calls of them stop the kernel"),
    ("kcfi", ("CFI_CLANG", "CFI"), "WARN_KCFI", "its functions carry no type hashes: this kernel's checked calls of them fail"),
)


def compiled_otherwise(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """Against the kernel's configuration; ``WARN_RETPOLINE`` is the loader's own."""
    for feature, options, code, message in _COMPILED:
        if any(loader.option(option) for option in options) and feature not in module.features and "no code" not in module.features:
            yield Finding(code, NOTE, message)


def namesake(module: KernelModule, kernel: Kernel) -> Iterator[Finding]:
    """The kernel's own module of that name, and which of the two depmod's rules prefer (``kmod: tools/depmod.c``)."""
    own = kernel.modules_dir + "/kernel/"
    path = kernel.modules.get(module.name, "")
    if not path.startswith(own) or module.path == path:
        return
    config = depmod.config(kernel.host, kernel.release)
    rank = depmod.rank_of(path[len(kernel.modules_dir) + 1:], config)
    name = path.rsplit("/", 1)[-1].split(".")[0]
    before = [place for place in ("updates", "extra", "weak-updates") if depmod.rank_of("%s/%s.ko" % (place, name), config) > rank]
    yield Finding("NAME_IN_TREE", NOTE, "the kernel has a %s of its own (%s); modprobe prefers one in %s" % (
        module.name, path, " or ".join(before) if before else "no other directory, without an override in depmod.d"), found=path)


def outside_of_stablelist(module: KernelModule, kernel: Kernel, loader: Loader) -> Iterator[Finding]:
    """Symbols of the kernel itself for which an EL kernel makes no promise over its updates."""
    if loader.family != "rhel" or not kernel.stable:
        return
    outside = [undefined.name for undefined in module.undefined
               if undefined.name not in kernel.stable and undefined.name in loader.exports and loader.exports[undefined.name].owner == VMLINUX]
    if outside:
        yield Finding("KABI_UNSTABLE", NOTE, "%d of its symbols are outside of the kernel's stablelist (%s)" % (
            len(outside), ", ".join(outside[:3]) + (", ..." if len(outside) > 3 else "")))
