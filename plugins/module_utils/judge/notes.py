# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What no loader looks at and a person wants to know; notes never change a verdict."""

from itertools import zip_longest
from typing import Iterator, Optional, Tuple

from ..errors import KmodError, SystemFailed
from ..read import btf, depmod, kernels, names
from ..read.exports import VMLINUX
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel
from .policy import Loader
from .verdict import NOTE, Finding

# What the module's code should have been compiled with: feature, the kernel's options for it, code and
# message of the note.
_COMPILED: Tuple[Tuple[str, Tuple[str, ...], str, str], ...] = (
    (
        "ibt",
        ("X86_KERNEL_IBT",),
        "WARN_IBT",
        "its functions have no landing pads (ENDBR): where the processor tracks indirect branches, calls of them stop the kernel",
    ),
    (
        "kcfi",
        ("CFI_CLANG", "CFI"),
        "WARN_KCFI",
        "its functions carry no type hashes: this kernel's checked calls of them fail",
    ),
)


def compiled_otherwise(module: KernelModule, loader: Loader) -> Iterator[Finding]:
    """Against the kernel's configuration; ``WARN_RETPOLINE`` is the loader's own."""
    for feature, options, code, message in _COMPILED:
        if (
            any(loader.option(option) for option in options)
            and feature not in module.features
            and "no code" not in module.features
        ):
            yield Finding(code, NOTE, message)


def named_otherwise(module: KernelModule) -> Iterator[Finding]:
    """depmod and modprobe go by the file's name (``kmod: shared/util.c: path_to_modname``), the kernel by the
    module's own.
    """
    made = names.module_of(module.path)
    if made != module.name:
        yield Finding(
            "NAME_OF_FILE",
            NOTE,
            "the module is %s, and kmod makes %s of its file's name: modprobe finds it under its own name "
            "only in a file called %s.ko" % (module.name, made or "nothing", module.name),
            found=made,
        )
    if not names.is_module(module.name):
        yield Finding("MODULE_NAME", NOTE, "no kernel's build gives a module the name %r" % module.name[:80])


def namesake(module: KernelModule, kernel: Kernel) -> Iterator[Finding]:
    """The kernel's own module of that name, and which of the two depmod's rules prefer (``kmod:
    tools/depmod.c``).
    """
    own = kernel.modules_dir + "/kernel/"
    path = kernel.modules.get(module.name, "")
    if not path.startswith(own) or module.path == path:
        return
    config = kernel.depmod
    rank = depmod.rank_of(path[len(kernel.modules_dir) + 1 :], config)
    name = names.stem(path)
    before = [
        place
        for place in ("updates", "extra", "weak-updates")
        if depmod.rank_of("%s/%s.ko" % (place, name), config) > rank
    ]
    yield Finding(
        "NAME_IN_TREE",
        NOTE,
        "the kernel has a %s of its own (%s); modprobe prefers one in %s"
        % (
            module.name,
            path,
            " or ".join(before) if before else "no other directory, without an override in depmod.d",
        ),
        found=path,
    )


def outside_of_stablelist(module: KernelModule, kernel: Kernel, loader: Loader) -> Iterator[Finding]:
    """Symbols of the kernel itself for which an EL kernel makes no promise over its updates."""
    if loader.family != "rhel" or not kernel.stable:
        return
    outside = [
        undefined.name
        for undefined in module.undefined
        if undefined.name not in kernel.stable
        and undefined.name in loader.exports
        and loader.exports[undefined.name].owner == VMLINUX
    ]
    if outside:
        yield Finding(
            "KABI_UNSTABLE",
            NOTE,
            "%d of its symbols are outside of the kernel's stablelist (%s)"
            % (len(outside), ", ".join(outside[:3]) + (", ..." if len(outside) > 3 else "")),
        )


def structs_changed(module: KernelModule, kernel: Kernel) -> Iterator[Finding]:
    """Structures that are laid out otherwise than where it was built, by the BTF of both sides: of the kernel
    that it was built for if that is installed here, or what the module itself keeps of it.
    """
    if not module.btf_ids and not module.btf_base:
        return
    ours = btf.of_kernel(kernel.host, kernel.image, kernel.running)
    if ours is None:
        return
    if module.btf_base:
        sizes = dict(module.btf_base)
        for name, layouts in sorted(ours.layouts(sizes).items()):
            if sizes[name] not in [size for size, _members in layouts]:
                yield _changed(name, "%d bytes" % sizes[name], "%d bytes" % layouts[0][0])
        return
    theirs = _built_with(module, kernel)
    if theirs is None:
        return
    used = theirs.behind(module.btf_ids)
    before, now = theirs.layouts(used), ours.layouts(used)
    for name in sorted(set(before) & set(now)):
        if not set(before[name]) & set(now[name]):
            yield _changed(name, *_difference(before[name][0], now[name][0]))


def _built_with(module: KernelModule, kernel: Kernel) -> Optional[btf.Btf]:
    """The types of the kernel that it was built for; None where that is not installed, or is this one."""
    try:
        built_for = kernels.kernel(kernel.host, module.built_for)
    except SystemFailed:
        raise
    except KmodError:
        return None
    return (
        None
        if built_for.release == kernel.release
        else btf.of_kernel(kernel.host, built_for.image, built_for.running)
    )


def _difference(before: btf.Layout, now: btf.Layout) -> Tuple[str, str]:
    """The first thing that differs, of both."""
    if before[0] != now[0]:
        return "%d bytes" % before[0], "%d bytes" % now[0]
    for (name, offset), (other, there) in zip_longest(before[1], now[1], fillvalue=("nothing", 0)):
        if (name, offset) != (other, there):
            return "%s at bit %d" % (name, offset), "%s at bit %d" % (other, there)
    return "", ""


def _changed(name: str, wanted: str, found: str) -> Finding:
    message = "struct %s has changed: %s where it was built, %s in this kernel" % (name, wanted, found)
    return Finding("STRUCT_CHANGED", NOTE, message, symbol=name, wanted=wanted, found=found)
