# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Say which kernels would load a driver's modules, and why not."""

import contextlib
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError
from ..host import MODULES, Host
from ..judge import candidates
from ..judge.selection import Build, builds, explained, matching, together
from ..judge.verdict import COMPATIBLE, DOUBT, NOTE, REFUSE, TAINT, Verdict
from ..plan import Plan
from ..read import inputs, kernel_package, kernels
from ..read.export_sources import SourcedExports
from ..read.kernel_module import KernelModule
from ..read.kernel_package import KernelSource
from ..read.kernels import Kernel
from ..read.runtime import Runtime

LOOKS = True  # nothing is planned
ALL = ("all",)
EFFECTS = (REFUSE, DOUBT, TAINT, NOTE)  # what decides comes first


class Options(NamedTuple):
    """Those of the module kmod_compat, which says what they mean; the modules come from ``path``, and are
    ``described`` besides.
    """

    path: Tuple[str, ...] = ()
    described: Tuple[KernelModule, ...] = ()
    kernels: Tuple[str, ...] = ALL
    require: str = "all"
    each: bool = False
    structs: bool = False
    findings: str = "folded"  # or all of each kind
    # all are one build, for whichever releases they were made; also what is no module is judged
    as_given: bool = False
    boots: bool = True  # also find out which kernels boots are expected to start
    # those of the one kernel that is meant, which need not be installed then
    exports: Optional[SourcedExports] = None
    kernel: Tuple[KernelSource, ...] = ()  # instead of those that are installed
    whence: Optional[str] = None  # the root that ``kernel`` lies in, where it is not the one that is meant

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> "Options":
        return cls(
            path=tuple(params["path"] or ()),
            described=tuple(KernelModule.from_dict(module) for module in params["_described"] or ()),
            kernels=tuple(params["kernels"]),
            require=params["require"],
            each=params["each"],
            structs=params["structs"],
            findings=params["findings"],
            kernel=tuple(KernelSource.from_params(each) for each in params["kernel"] or ()),
        )


class Answer(NamedTuple):
    """``compatible`` are the kernels that take every module, all releases oldest first; ``checks`` go by
    module and kernel.
    """

    msg: str
    compatible: Tuple[str, ...]
    booting: Tuple[str, ...]
    kernels: Tuple[str, ...]
    checks: Tuple[Verdict, ...]
    failed: bool  # require is not met
    folded: bool = False

    def as_dict(self) -> Dict[str, Any]:
        return {
            "msg": self.msg,
            "compatible": list(self.compatible),
            "booting": list(self.booting),
            "kernels": list(self.kernels),
            "checks": [verdict.as_dict(self.folded) for verdict in self.checks],
            "summary": self.summary,
        }

    @property
    def summary(self) -> str:
        """What was found, a line for each verdict and for each kind of finding, kernel by kernel."""
        lines: List[str] = []
        for release in self.kernels:
            for verdict in (each for each in self.checks if each.kernel == release):
                errno = " (%s)" % verdict.errno if verdict.errno else ""
                lines.append("%s: %s is %s%s" % (release, verdict.name, verdict.verdict, errno))
                kinds = sorted(verdict.folded(), key=lambda each: EFFECTS.index(each["effect"]))
                lines += ["  %(effect)s %(code)s: %(message)s" % each for each in kinds]
        return "\n".join(lines)


Judged = Tuple[Tuple[Verdict, ...], ...]  # on each build of a driver


def run(host: Host, options: Options) -> Tuple[Plan, Answer]:
    """Judge the modules. Errors: NO_MODULES, NO_KERNELS, NO_SUCH_KERNEL, SYMVERS_OF_WHICH, and those of
    reading and grouping them; BAD_OPTION.
    """
    found = inputs.modules(host, options.path, options.structs)
    modules = list(options.described) + [module for module, _packed in found]
    if not modules:
        raise KmodError(
            "path and src", "name no module", "Name a .ko file or a directory of them", "NO_MODULES"
        )
    drivers = _drivers(modules, options)
    with contextlib.ExitStack() as stack:
        chosen, booting = _kernels(host, options, stack, drivers=drivers)
        return Plan(host), _answer(host, options, modules, drivers=drivers, chosen=chosen, booting=booting)


def _answer(
    host: Host,
    options: Options,
    modules: List[KernelModule],
    *,
    drivers: List[List[Build]],
    chosen: List[Kernel],
    booting: Tuple[str, ...],
) -> Answer:
    releases = tuple(kernel.release for kernel in chosen)
    judged: Dict[str, List[Judged]] = {}
    while chosen:
        kernel = chosen.pop(0)  # and let go of, since a kernel's exports take some 10 MiB
        now = candidates.now(host, kernel)
        judged[kernel.release] = [_judged(kernel, driver, now, options=options) for driver in drivers]
    takers = tuple(release for release, answers in judged.items() if all(map(_takes, answers)))
    met = {
        "all": len(takers) == len(releases),
        "any": bool(takers),
        "booting": set(booting) <= set(takers),
        "none": True,
    }
    return Answer(
        _message(modules, judged, takers),
        takers,
        booting,
        releases,
        _sorted(judged),
        failed=not met[options.require],
        folded=options.findings == "folded",
    )


def _kernels(
    host: Host, options: Options, stack: contextlib.ExitStack, *, drivers: List[List[Build]]
) -> Tuple[List[Kernel], Tuple[str, ...]]:
    """The kernels to judge against, and those of all that are installed that boots are expected to start."""
    if options.kernel:
        if options.require == "booting":
            raise KmodError(
                "require: booting",
                "is asked of kernels that are not installed",
                "Use all, any or none with kernel",
                "BAD_OPTION",
            )
        found = stack.enter_context(
            kernel_package.opened(
                host,
                options.kernel,
                Host(options.whence) if options.whence else None,
                enough=lambda kernel: candidates.refused(kernel, drivers),
            )
        )
        return matching(found, options.kernels), ()
    if options.exports:
        return [_kernel_of(host, options.exports, options.kernels)], ()
    installed = kernels.some(host, kernels.installed(host))
    booting: Tuple[str, ...] = ()
    if options.boots:
        from ..place import notice

        booting = tuple(release for release, why in notice.booting(host, installed).items() if why)
    return matching(installed, options.kernels + (booting if options.require == "booting" else ())), booting


def _kernel_of(host: Host, exports: SourcedExports, named: Sequence[str]) -> Kernel:
    """The kernel that exports are those of, by name or as the only one that is installed."""
    releases = [kernel.release for kernel in kernels.installed(host)] if named == ALL else named
    if len(releases) != 1:
        raise KmodError(
            exports.origin or "",
            "is the symvers of one kernel",
            "Say of which: --kernel REL",
            "SYMVERS_OF_WHICH",
        )
    directory = next((place for place in MODULES if host.is_dir("%s/%s" % (place, releases[0]))), MODULES[0])
    return Kernel(host, releases[0], "%s/%s" % (directory, releases[0]), given=exports)


def _drivers(modules: List[KernelModule], options: Options) -> List[List[Build]]:
    """What is judged together: a driver has several builds, and modules that were not told apart are one."""
    if options.each:
        return [[Build(module.built_for, (module,))] for module in modules]
    return [[Build("", tuple(modules))] if options.as_given else builds(modules)]


def _judged(kernel: Kernel, driver: Sequence[Build], now: Runtime, *, options: Options) -> Judged:
    return tuple(
        explained(candidates.judged(kernel, build.modules, now, structs=options.structs), build, driver)
        for build in driver
    )


def _takes(answer: Judged) -> bool:
    """Whether one of a driver's builds is compatible as a whole."""
    return any(together(verdicts)[0] == COMPATIBLE for verdicts in answer)


def _sorted(judged: Mapping[str, Sequence[Judged]]) -> Tuple[Verdict, ...]:
    """By module, and for each as the kernels are."""
    found: List[Verdict] = []
    for answers in judged.values():
        found += [verdict for answer in answers for verdicts in answer for verdict in verdicts]
    return tuple(sorted(found, key=lambda verdict: verdict.module))


def _message(
    modules: Sequence[KernelModule], judged: Mapping[str, Sequence[Judged]], takers: Sequence[str]
) -> str:
    """One line: ``3w-9xxx: 1 of 4 kernels; 6.1.0-54: 1 symbol differs (scsi_host_alloc)``, with what is
    nearest to fitting for each kernel.
    """
    names = sorted({module.name for module in modules})
    more = " and %d more" % (len(names) - 3) if len(names) > 3 else ""
    line = "%s: %d of %d kernels" % (", ".join(names[:3]) + more, len(takers), len(judged))
    for release, answers in judged.items():
        for answer in answers:
            if not _takes(answer):
                nearest = min(answer, key=lambda verdicts: sum(len(verdict.findings) for verdict in verdicts))
                line += "; %s: %s" % (release, together(nearest)[1])
    return line
