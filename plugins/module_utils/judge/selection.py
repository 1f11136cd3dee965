# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which build of a driver each kernel takes: all modules of one build, or none."""

import fnmatch
import posixpath
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError
from ..read import names
from ..read.kernel_module import KernelModule
from ..read.kernels import Kernel, version_key
from .verdict import COMPATIBLE, INCOMPATIBLE, REFUSE, UNKNOWN, Finding, Verdict

Judge = Callable[[Kernel, Sequence[KernelModule]], List[Verdict]]  # loader.judge: one verdict a module


class Build(NamedTuple):
    """The modules of a driver that were built for one release, by name.

    ``directory`` is where it is stored, empty if it is not yet.
    """

    release: str
    modules: Tuple[KernelModule, ...]
    directory: str = ""

    @property
    def version(self) -> str:
        """What its first module that states a version says."""
        return next((module.version for module in self.modules if module.version), None) or ""

    @property
    def digests(self) -> Tuple[str, ...]:
        return tuple(sorted(module.sha256 for module in self.modules))


class Choice(NamedTuple):
    """What one kernel gets.

    Without a build, ``verdict`` and ``reason`` are those of the build that came first in question.
    """

    kernel: str
    build: Optional[Build]
    verdict: str
    reason: str
    verdicts: Tuple[Verdict, ...] = ()


def builds(modules: Iterable[KernelModule]) -> List[Build]:
    """Modules as they were found, grouped into builds by the release they were built for.

    Several builds for one release (versions of the driver) are told apart by their directories. Errors: those
    of a file that is no module; VERMAGIC_ABSENT; RELEASE_NAME; TWO_MODULES, two files of one module in one
    build.
    """
    by_release: Dict[str, List[KernelModule]] = {}
    for module in modules:
        if module.faults:
            raise KmodError(
                module.path,
                "is not a module that a kernel would load: %s" % module.faults[0].message,
                "Copy the file again, or rebuild it",
                module.faults[0].code,
            )
        if not module.built_for:
            raise KmodError(
                module.path,
                "does not say which kernel it was built for (no vermagic)",
                "Rebuild it with the kernel's own build system",
                "VERMAGIC_ABSENT",
            )
        by_release.setdefault(names.check_release(module.built_for, module.path), []).append(module)
    made = [
        Build(release, tuple(sorted(group, key=lambda module: module.name)))
        for release, found in sorted(by_release.items())
        for group in _apart(found)
    ]
    for build in made:
        _refuse_twins(build)
    return made


def _apart(modules: Sequence[KernelModule]) -> List[List[KernelModule]]:
    """Modules for one release as builds: one, unless names recur.

    Then each directory below the one that they share has a build, or several; directories that have no module
    in common and state no different version are one (``net/a.ko`` and ``scsi/b.ko``).
    """
    if len({module.name for module in modules}) == len(modules):
        return [list(modules)]
    shared = len(posixpath.commonpath([posixpath.dirname(module.path) for module in modules]).rstrip("/")) + 1
    below: Dict[str, List[KernelModule]] = {}
    for module in modules:
        below.setdefault(module.path[shared:].rpartition("/")[0].partition("/")[0], []).append(module)
    if len(below) == 1:  # all in one directory: twins
        return [list(modules)]
    found: List[List[KernelModule]] = []
    for _directory, group in sorted(below.items()):
        for part in _apart(group):
            into = next((each for each in found if _belong(each, part)), None)
            if into is None:
                found.append(part)
            else:
                into.extend(part)
    return found


def _belong(one: Sequence[KernelModule], other: Sequence[KernelModule]) -> bool:
    versions = [{module.version for module in modules if module.version} for modules in (one, other)]
    return not {module.name for module in one} & {module.name for module in other} and (
        versions[0] == versions[1] or not all(versions)
    )


def _refuse_twins(build: Build) -> None:
    for one, other in zip(build.modules, build.modules[1:]):
        if one.name == other.name:
            raise KmodError(
                other.path,
                "is the same module as %s" % one.path,
                "Give one file for each module of a build",
                "TWO_MODULES",
            )


def explained(verdicts: Sequence[Verdict], build: Build, candidates: Sequence[Build]) -> Tuple[Verdict, ...]:
    """The verdicts on a build, where what it lacks on that kernel is a module that another build of the
    driver has: then that is the reason.

    Whether a build is whole depends on the kernel: newer ones have modules of their own that drivers bring
    along for older ones.
    """
    own = {module.name for module in build.modules}
    givers: Dict[str, Tuple[str, str]] = {}  # symbol -> (module, the release that its build is for)
    for other in candidates:
        for module in other.modules:
            if module.name not in own:
                givers.update((export.name, (module.name, other.release)) for export in module.exports)

    def finding(each: Finding) -> Finding:
        if (
            each.code not in ("SYMBOL_MISSING", "DEP_MISSING")
            or each.effect != REFUSE
            or each.symbol not in givers
        ):
            return each
        name, release = givers[each.symbol]
        return each._replace(
            code="BUILD_INCOMPLETE",
            message="the build for %s has no %s.ko, which gives it %s; the build for %s has one"
            % (build.release, name, each.symbol, release),
        )

    return tuple(verdict._replace(findings=tuple(map(finding, verdict.findings))) for verdict in verdicts)


def rank(release: str, build: Build) -> Tuple[Any, ...]:
    """Greatest first: the newest version; of that the build made for the kernel, then the one for the newest
    kernel.
    """
    return version_key(build.version), build.release == release, version_key(build.release)


def select(
    kernels: Sequence[Kernel],
    candidates: Sequence[Build],
    judge: Judge,
    *,
    rate: Callable[[str, Build], int] = lambda release, build: 0,
) -> List[Choice]:
    """For each kernel the first of the candidates, by rank, that it takes as a whole.

    No build is judged twice against one kernel.

    ``rate`` (of a kernel's release and a build; greatest first) decides between builds of one version for one
    release.
    """

    def order(release: str) -> List[Build]:
        return sorted(
            candidates, key=lambda build: (rank(release, build), rate(release, build)), reverse=True
        )

    return [_choose(kernel, order(kernel.release), judge) for kernel in kernels]


def _choose(kernel: Kernel, ranked: Sequence[Build], judge: Judge) -> Choice:
    first: Optional[Choice] = None
    for build in ranked:
        verdicts = explained(judge(kernel, build.modules), build, ranked)
        verdict, reason = together(verdicts)
        if verdict == COMPATIBLE:
            return Choice(kernel.release, build, verdict, reason, verdicts)
        first = first or Choice(kernel.release, None, verdict, reason, verdicts)
    return first or Choice(kernel.release, None, UNKNOWN, "there is no build")


def together(verdicts: Sequence[Verdict]) -> Tuple[str, str]:
    """The verdict on a build and its first reason: one module that is refused refuses the driver, one that is
    unknown leaves it unknown.
    """
    for kind in (INCOMPATIBLE, UNKNOWN):
        for verdict in verdicts:
            if verdict.verdict == kind:
                return kind, ("%s: " % verdict.name if len(verdicts) > 1 else "") + verdict.short
    return COMPATIBLE, ""


def matching(kernels: Sequence[Kernel], patterns: Sequence[str]) -> List[Kernel]:
    """The kernels, oldest first, that one of the patterns means: shell patterns of releases, ``all``,
    ``newest`` or ``running``.
    """
    # a variable that turned out to be empty: nothing would be done, and all of nothing be well
    if not patterns:
        raise KmodError("kernels", "is empty", "Name some, or leave it out for all", "BAD_OPTION")
    wanted = set()
    for pattern in patterns:
        if pattern == "newest":
            found = [kernel.release for kernel in kernels[-1:]]
        elif pattern == "running":
            found = [kernel.release for kernel in kernels if kernel.running]
        else:
            found = [
                kernel.release
                for kernel in kernels
                if pattern == "all" or fnmatch.fnmatchcase(kernel.release, pattern)
            ]
        if not found:
            raise KmodError(
                pattern,
                "means none of the installed kernels (%s)" % ", ".join(kernel.release for kernel in kernels),
                "Name one of them, or a pattern of its release",
                "NO_SUCH_KERNEL",
            )
        wanted.update(found)
    return [kernel for kernel in kernels if kernel.release in wanted]
