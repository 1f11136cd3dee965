# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel makes of the builds of drivers, whether it is installed or not."""

from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Set,
    Tuple,
)

from ..errors import forgiving
from ..host import Host
from ..read import ko, runtime
from ..read.kernel_module import KernelModule
from ..read.kernel_package import UninstalledKernel
from ..read.kernels import Kernel
from ..read.runtime import Runtime
from . import exactness
from .loader import judge
from .selection import Build, Choice, rank, select
from .verdict import DOUBT, INCOMPATIBLE, REFUSE, UNKNOWN, Verdict

BY_CRC = ("SYMBOL_CRC", "MODULE_LAYOUT_CRC")
MISSING = ("SYMBOL_MISSING", "DEP_MISSING")


def now(host: Host, kernel: Kernel) -> Runtime:
    """What holds on the host counts for a kernel that comes to it, too; an installed one is asked itself."""
    if not isinstance(kernel, UninstalledKernel):
        return runtime.facts(kernel)
    return runtime.facts(Kernel(host, kernel.release, kernel.modules_dir))


def judged(
    kernel: Kernel,
    modules: Sequence[KernelModule],
    facts: Optional[Runtime] = None,
    *,
    structs: bool = False,
    without: Callable[[str], Any] = lambda path: False,
) -> List[Verdict]:
    """``loader.judge``, with what is to be said of where a kernel that is not installed was found."""
    verdicts = judge(kernel, modules, facts, structs=structs, without=without)
    if not isinstance(kernel, UninstalledKernel):
        return verdicts
    return [exactness.seen(kernel, module, verdict) for module, verdict in zip(modules, verdicts)]


def refused(kernel: UninstalledKernel, drivers: Iterable[Sequence[Build]]) -> bool:
    """Whether the CRCs that are seen of a kernel are enough to say that it takes no build of any driver.

    What is missing is not: another of its packages may have it.
    """
    every = [judged(kernel, build.modules) for builds in drivers for build in builds]
    return bool(every) and all(
        any(
            each.seen and each.seen.exact and finding.effect == REFUSE and finding.code in BY_CRC
            for each in verdicts
            for finding in each.findings
        )
        for verdicts in every
    )


def choices(
    kernel: Kernel,
    drivers: Mapping[str, Sequence[Build]],
    facts: Optional[Runtime] = None,
    *,
    without: Callable[[str], Any] = lambda path: False,
) -> Dict[str, Choice]:
    """What a kernel takes of each driver (``selection.select``).

    Drivers that give others symbols come first, and what the kernel takes of them is there for the others.
    """
    found: Dict[str, Choice] = {}
    for driver in _givers_first(drivers):
        given = [module for each in found.values() if each.build for module in each.build.modules]

        def of(
            kernel: Kernel, modules: Sequence[KernelModule], given: Sequence[KernelModule] = given
        ) -> List[Verdict]:
            own = {module.name for module in modules}
            beside = [module for module in given if module.name not in own]
            return judged(kernel, [*modules, *beside], facts, without=without)[: len(modules)]

        found[driver] = select([kernel], drivers[driver], of)[0]
    return {driver: found[driver] for driver in drivers}


def _givers_first(drivers: Mapping[str, Sequence[Build]]) -> List[str]:
    needs = givers(drivers)
    ordered: List[str] = []
    while len(ordered) < len(drivers):
        left = [driver for driver in drivers if driver not in ordered]
        # where they go round in a circle, any will do: no module of a circle could be loaded
        ordered.append(next((each for each in left if not needs[each] & set(left)), left[0]))
    return ordered


def givers(drivers: Mapping[str, Sequence[Build]]) -> Dict[str, Set[str]]:
    """By driver the other ones that give it symbols."""
    every = {
        driver: [module for build in builds for module in build.modules] for driver, builds in drivers.items()
    }
    gives: Dict[str, Set[str]] = {}
    for driver, modules in every.items():
        for name in {export.name for module in modules for export in module.exports}:
            gives.setdefault(name, set()).add(driver)
    return {
        driver: {
            giver
            for module in modules
            for each in module.undefined
            if driver not in gives.get(each.name, ())
            for giver in gives.get(each.name, ())
        }
        for driver, modules in every.items()
    }


def planned_by(drivers: Mapping[str, Sequence[Build]]) -> Dict[str, List[KernelModule]]:
    """By driver the modules that builds of it are planned by: those of its newest build, and of the drivers
    that give it symbols. It is built against theirs for the same kernel, so it has to be built anew where they
    have to be: what a kernel has to give to all of them makes the classes of its builds.
    """
    needs = givers(drivers)
    found: Dict[str, List[KernelModule]] = {}
    for driver, builds in drivers.items():
        newest = max(builds, key=lambda build: rank("", build))
        modules, seen, todo = list(newest.modules), {driver}, sorted(needs[driver])
        while todo:
            giver = todo.pop(0)
            if giver not in seen:
                seen.add(giver)
                todo += sorted(needs[giver])
                own = {module.name for module in modules}
                beside = max(drivers[giver], key=lambda build: rank(newest.release, build))
                modules += [module for module in beside.modules if module.name not in own]
        found[driver] = modules
    return found


class DriverVerdict(NamedTuple):
    """What a kernel makes of a driver, in a few words: of the build that fits, or of the one that came first
    in question.

    ``exact``: it is what the kernel will say when it is installed.
    """

    driver: str
    kernel: str
    verdict: str
    exact: bool
    build: Optional[str]  # the release that the build which fits was made for
    codes: Tuple[str, ...]  # of what refuses it, or leaves it open
    symbols: Tuple[str, ...]
    errno: Optional[str]
    why: str

    def as_dict(self) -> Dict[str, Any]:
        return dict(self._asdict(), codes=list(self.codes), symbols=list(self.symbols))


def beside(host: Host, kernel: Kernel, drivers: Iterable[Sequence[Build]]) -> FrozenSet[str]:
    """The symbols that drivers need and that further modules of the host give on an installed kernel: of DKMS, a
    vendor's package, another driver. Whether those come along to another kernel is not known.
    """
    modules = [module for builds in drivers for build in builds for module in build.modules]
    own = {module.name for module in modules}
    needed: Set[str] = set()
    for module in modules:
        needed.update(each.name for each in module.undefined)
    found: Set[str] = set()
    for name, path in kernel.added.items() if needed else ():
        if name not in own:
            with forgiving():
                found.update(export.name for export in ko.read(host, path).exports)
    return frozenset(found & needed)


def opened(verdict: DriverVerdict, symbols: FrozenSet[str]) -> DriverVerdict:
    """Left open, where all that a kernel to come lacks is what other modules give on the host's kernels."""
    lacks = set(verdict.codes) <= set(MISSING) and set(verdict.symbols) <= symbols
    if verdict.verdict != INCOMPATIBLE or not verdict.symbols or not lacks:
        return verdict
    why = "%s; other modules of the host give that on its kernels, and may come along or not" % verdict.why
    return verdict._replace(verdict=UNKNOWN, exact=False, errno=None, why=why)


def summary(driver: str, choice: Choice) -> DriverVerdict:
    no = [verdict for verdict in choice.verdicts if verdict.verdict == INCOMPATIBLE]
    decisive = [
        finding
        for verdict in no or choice.verdicts
        for finding in verdict.findings
        if finding.effect == (REFUSE if no else DOUBT)
    ]
    sure = [verdict for verdict in choice.verdicts if verdict.seen is None or verdict.seen.exact]
    return DriverVerdict(
        driver,
        choice.kernel,
        choice.verdict,
        exact=any(verdict in sure for verdict in no) if no else len(sure) == len(choice.verdicts),
        build=choice.build.release if choice.build else None,
        codes=tuple(dict.fromkeys(finding.code for finding in decisive)),
        symbols=tuple(sorted({finding.symbol for finding in decisive if finding.symbol})),
        errno=next((verdict.errno for verdict in no), None),
        why=choice.reason or "it takes the build for %s" % (choice.build.release if choice.build else ""),
    )
