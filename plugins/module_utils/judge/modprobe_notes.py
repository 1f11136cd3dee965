# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why a module that the loader takes may yet never be loaded, or not get its device: what modprobe and udev
make of it.

These are notes: the loader is not asked, and an insmod still loads the module.
"""

import functools
import re
from typing import Dict, FrozenSet, Iterator, List, Set

from ..read.aliases import Claim, compatible, head
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel
from . import parameters
from .policy import Loader
from .verdict import NOTE, Finding

# Aliases by which a device is asked for (scripts/mod/file2alias.c). Others, as for ciphers or file systems,
# many modules may share.
_DEVICE = re.compile(
    r"(pci|usb|hid|virtio|vmbus|acpi|of|i2c|spi|platform|mdio|sdio|pnp|auxiliary|xen|scsi|mei|wmi|dmi):?.*[0-9A-Z]"
)


def configured(module: KernelModule, kernel: Kernel, loader: Loader) -> Iterator[Finding]:
    """modprobe.d(5)"""
    config, name = kernel.modprobe, module.name
    command = config.command(name)
    if command is not None:
        yield Finding(
            "MODPROBE_INSTALL",
            NOTE,
            "modprobe runs '%s' instead of loading it (install in %s)" % command,
            found=command[0],
        )
    if name in config.blacklist:
        yield Finding(
            "MODPROBE_BLACKLIST",
            NOTE,
            "%s blacklists it: no device has it loaded, only who names it" % config.blacklist[name],
            found=config.blacklist[name],
        )
    elif name in loader.runtime.modprobe_blacklist:
        yield Finding(
            "MODPROBE_BLACKLIST",
            NOTE,
            "modprobe.blacklist= on the kernel's command line names it: no device has it loaded, "
            "only who names it",
        )
    if config.unsupported and loader.family == "suse" and module.info("supported") not in ("yes", "external"):
        yield Finding(
            "MODPROBE_UNSUPPORTED",
            NOTE,
            "SUSE does not support it, and modprobe loads no such module as long as %s says "
            "allow_unsupported_modules 0" % config.unsupported,
            found=config.unsupported,
        )
    yield from _options(module, kernel)


def _options(module: KernelModule, kernel: Kernel) -> Iterator[Finding]:
    """kernel/params.c: unknown_module_param_cb: the kernel goes on without a parameter that the module does
    not have.
    """
    given = [(words, path) for name, words, path in kernel.modprobe.options if name == module.name]
    if not given:
        return
    known = {name.replace("-", "_") for name in (*parameters.known(module), *parameters.EVERY)}
    for words, path in given:
        for word in words:
            parameter = word.partition("=")[0].replace("-", "_")
            if parameter not in known:
                yield Finding(
                    "OPTION_UNKNOWN",
                    NOTE,
                    "%s sets %s, a parameter that it does not have: the kernel ignores it"
                    % (path, parameter),
                    wanted=parameter,
                    found=path,
                )


def claimed_by_others(module: KernelModule, kernel: Kernel, loader: Loader) -> Iterator[Finding]:
    """The kernel's own modules that want one of its devices: udev loads all that match, and a device goes to
    whichever registers first.
    """
    near: Dict[Claim, List[str]] = {}
    for alias in module.aliases:
        for claim in kernel.aliases.near(alias) if _DEVICE.match(alias) else ():
            near.setdefault(claim, []).append(alias)
    rivals: Dict[str, str] = {}
    for (_number, pattern, name), mine in sorted(near.items()):
        if name == module.name or name in rivals or not _DEVICE.match(pattern):
            continue
        if any(_same_device(alias, pattern) for alias in mine):
            rivals[name] = pattern
    for name, pattern in sorted(rivals.items()):
        if name in kernel.builtin:
            yield Finding(
                "DEVICE_CLAIMED",
                NOTE,
                "%s, which is part of this kernel, wants the same device (%s) and is there before it"
                % (name, pattern),
                found=name,
            )
        elif (
            name not in kernel.modprobe.blacklist
            and name not in loader.runtime.modprobe_blacklist | loader.runtime.blacklist
        ):
            yield Finding(
                "DEVICE_CLAIMED",
                NOTE,
                "the kernel's own %s wants the same device (%s): both are loaded, and the one that comes first "
                "gets it. 'blacklist %s' in modprobe.d decides that" % (name, pattern, name),
                found=name,
            )


def _same_device(alias: str, pattern: str) -> bool:
    """A node of a device tree and a device of ACPI say what they are compatible with, too: as a whole the names of
    any two drivers could be those of one device.
    """
    bus = alias.partition(":")[0]
    if bus != pattern.partition(":")[0]:
        return False
    if bus == "of":
        return compatible(alias) == compatible(pattern)
    return overlap(alias, pattern)


def overlap(one: str, other: str) -> bool:
    """Whether there is a name that both patterns (``*``, ``?``, ``[...]``) match; ``*`` stands for no colon."""
    mine, theirs = one.split(":"), other.split(":")
    return len(mine) == len(theirs) and all(map(_overlap, mine, theirs))


@functools.lru_cache(maxsize=1 << 16)  # each kernel of a host has nearly the same
def _overlap(one: str, other: str) -> bool:
    """The same of what is between colons."""
    heads = head(one), head(other)
    if not heads[0].startswith(heads[1]) and not heads[1].startswith(heads[0]):
        return False  # nearly all, by the first few characters
    if heads == (one, other):
        return one == other
    left, right = _tokens(one), _tokens(other)
    reached = {(0, 0)}
    todo = [(0, 0)]
    while todo:
        at, there = todo.pop()
        if at == len(left) and there == len(right):
            return True
        steps = []
        if at < len(left) and left[at] == "*":
            steps += [(at + 1, there)] + ([(at, there + 1)] if there < len(right) else [])
        if there < len(right) and right[there] == "*":
            steps += [(at, there + 1)] + ([(at + 1, there)] if at < len(left) else [])
        if (
            at < len(left)
            and there < len(right)
            and "*" not in (left[at], right[there])
            and _share(left[at], right[there])
        ):
            steps.append((at + 1, there + 1))
        todo += [step for step in steps if step not in reached]
        reached.update(steps)
    return False


def _tokens(pattern: str) -> List[str]:
    return re.findall(r"\[[^]]*\]|.", pattern, re.S)


def _share(one: str, other: str) -> bool:
    if "?" in (one, other):
        return True
    return bool(_characters(one) & _characters(other))


def _characters(token: str) -> FrozenSet[str]:
    if not token.startswith("["):
        return frozenset(token)
    found: Set[str] = set()
    for first, last in re.findall(r"(.)(?:-(.))?", token[1:-1]):
        found.update(map(chr, range(ord(first), ord(last or first) + 1)))
    return frozenset(found)
