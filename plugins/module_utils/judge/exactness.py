# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a verdict on a kernel that is not installed is the one that will be given when it is."""

from typing import Set

from ..read.kernel_module import KernelModule
from ..read.kernel_package import UninstalledKernel
from .verdict import INCOMPATIBLE, REFUSE, Provenance, Verdict


def seen(kernel: UninstalledKernel, module: KernelModule, verdict: Verdict) -> Verdict:
    """The verdict with what is to be said of where the kernel was found."""
    return verdict._replace(seen=Provenance(kernel.origin, kernel.lacks, exact(kernel, module, verdict)))


def exact(kernel: UninstalledKernel, module: KernelModule, verdict: Verdict) -> bool:
    """Of the verdict and the symbols that are refused.

    A refusal stays one whatever else the kernel turns out to have, but for a few. Anything else may be
    refused for what is not seen: a built-in module of the same name, a certificate by which a signature is
    wrong.
    """
    if verdict.verdict == INCOMPATIBLE:
        refused = {finding.code for finding in verdict.findings if finding.effect == REFUSE}
        return not refused & _may_be_taken_back(kernel, module)
    lacks = [fact for fact in kernel.lacks if fact != "certificates" or module.signature is not None]
    return not lacks and not any(undefined.name in kernel.elsewhere for undefined in module.undefined)


def _may_be_taken_back(kernel: UninstalledKernel, module: KernelModule) -> Set[str]:
    """The codes of refusals that are no more than likely as long as something of the kernel is not seen."""
    found: Set[str] = set()
    if kernel.left_out:  # one of those modules may export it
        found.update(("SYMBOL_MISSING", "DEP_MISSING", "DEP_REFUSED"))
    if not kernel.own:  # then whether it wants flags goes by the version
        found.add("EXPORT_NO_FLAGS")
    if kernel.traits.signature is None and module.signature is not None:  # it may be by the kernel's own key
        found.update(("SIG_UNKNOWN_KEY", "SIG_LOCKDOWN"))
    return found
