# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Why a module that the loader takes may yet never be loaded, or not get its device: what modprobe and udev
make of it.

These are notes: the loader is not asked, and an insmod still loads the module.
"""

from typing import Iterator

from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel
from . import parameters
from .policy import Loader
from .verdict import NOTE, Finding


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
    blacklisted = (
        loader.runtime.modprobe_blacklist | loader.runtime.blacklist | set(kernel.modprobe.blacklist)
    )
    for name, rival in kernel.aliases.rivals(module.aliases, module.name).items():
        builtin = name in kernel.builtin
        if name in blacklisted and not builtin:
            continue
        who = "%s, which is part of this kernel," % name if builtin else "the kernel's own %s" % name
        if rival.unsure:
            message = (
                "%s may want the same device (%s): that and the module's own alias name one a device and the "
                "other a kind of devices, which it may be of or not" % (who, rival.pattern)
            )
        elif builtin:
            message = "%s wants the same device (%s) and is there before it" % (who, rival.pattern)
        else:
            message = (
                "%s wants the same device (%s): both are loaded, and the one that comes first gets it. "
                "'blacklist %s' in modprobe.d decides that" % (who, rival.pattern, name)
            )
        yield Finding("DEVICE_CLAIMED", NOTE, message, found=name)
