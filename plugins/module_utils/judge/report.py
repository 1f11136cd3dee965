# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A driver's verdicts on the kernels of a host, as a person and a playbook want to read them."""
from typing import Any, Callable, Dict, List, Sequence, Tuple

from ..errors import KmodError
from ..host import Host
from ..read import inputs, kernels
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel
from .loader import judge
from .selection import Build, builds, explained, matching, together
from .verdict import COMPATIBLE, Verdict


def compat(host: Host, options: Dict[str, Any], boots: Callable[[Host, Sequence[Kernel]], Dict[str, List[str]]]
           ) -> Tuple[bool, Dict[str, Any]]:
    """Carry out kmod_compat's ``options``: whether ``require`` is met, and the answer.

    The modules come from ``path`` on the host, or as ``described`` on the controller (KernelModule.as_dict). ``boots`` tells for each kernel
    why a boot is expected to start it.
    """
    modules = [KernelModule.from_dict(module) for module in options["described"] or ()]
    modules += [module for module, _packed in inputs.modules(host, options["path"] or ())]
    if not modules:
        raise KmodError("path and src", "name no module", "Name a .ko file or a directory of them", "NO_MODULES")
    installed = kernels.installed(host)
    if not installed:
        raise KmodError(host.root, "there is no kernel below /lib/modules", "Give the root of an installed system", "NO_KERNELS")
    booting = [release for release, why in boots(host, installed).items() if why]
    chosen = matching(installed, options["kernels"] + (booting if options["require"] == "booting" else []))
    drivers = [[Build(module.built_for, (module,))] for module in modules] if options["each"] else [builds(modules)]
    judged = {kernel.release: [[explained(judge(kernel, build.modules, structs=options["structs"]), build, driver) for build in driver]
                               for driver in drivers] for kernel in chosen}
    takers = [release for release, answers in judged.items() if all(_takes(answer) for answer in answers)]
    checks = [verdict for answers in judged.values() for answer in answers for verdicts in answer for verdict in verdicts]
    order = {kernel.release: number for number, kernel in enumerate(chosen)}
    checks.sort(key=lambda verdict: (verdict.module, order[verdict.kernel]))
    met = {"all": len(takers) == len(chosen), "any": bool(takers), "booting": set(booting) <= set(takers), "none": True}
    return met[options["require"]], {
        "msg": _message(modules, judged, takers),
        "compatible": takers,
        "booting": booting,
        "kernels": [kernel.release for kernel in chosen],
        "checks": [verdict.as_dict() for verdict in checks],
    }


def _takes(answer: Sequence[Sequence[Verdict]]) -> bool:
    """Whether one of a driver's builds is compatible as a whole."""
    return any(together(verdicts)[0] == COMPATIBLE for verdicts in answer)


def _message(modules: Sequence[KernelModule], judged: Dict[str, List[List[Tuple[Verdict, ...]]]], takers: Sequence[str]) -> str:
    """One line: ``3w-9xxx: 1 of 4 kernels; 6.1.0-54: 1 symbol differs (scsi_host_alloc)``, with what is nearest to fitting for each kernel."""
    names = sorted({module.name for module in modules})
    line = "%s: %d of %d kernels" % (", ".join(names[:3]) + (" and %d more" % (len(names) - 3) if len(names) > 3 else ""), len(takers), len(judged))
    for release, answers in judged.items():
        for answer in answers:
            if not _takes(answer):
                nearest = min(answer, key=lambda verdicts: sum(len(verdict.findings) for verdict in verdicts))
                line += "; %s: %s" % (release, together(nearest)[1])
    return line
