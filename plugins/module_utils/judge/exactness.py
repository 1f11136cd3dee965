# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a verdict on a kernel that is not installed is the one that will be given when it is."""

from ..read.kernel_module import KernelModule
from ..read.kernel_package import UninstalledKernel
from .verdict import INCOMPATIBLE, REFUSE, Seen, Verdict

_NOT_THERE = ("SYMBOL_MISSING", "DEP_MISSING", "DEP_REFUSED")


def seen(kernel: UninstalledKernel, module: KernelModule, verdict: Verdict) -> Verdict:
    """The verdict with what is to be said of where the kernel was found."""
    return verdict._replace(seen=Seen(kernel.origin, kernel.lacks, exact(kernel, module, verdict)))


def exact(kernel: UninstalledKernel, module: KernelModule, verdict: Verdict) -> bool:
    """Of the verdict and the symbols that are refused.

    A refusal stays one whatever else the kernel turns out to have, unless it is for a symbol that a module may export which is not seen here.
    Anything else may be refused for what is not seen: a built-in module of the same name, a certificate by which a signature is wrong.
    """
    if verdict.verdict == INCOMPATIBLE:
        missing = any(finding.effect == REFUSE and finding.code in _NOT_THERE for finding in verdict.findings)
        return not missing or not kernel.left_out
    lacks = [fact for fact in kernel.lacks if fact != "certificates" or module.signature is not None]
    return not lacks and not any(undefined.name in kernel.elsewhere for undefined in module.undefined)
