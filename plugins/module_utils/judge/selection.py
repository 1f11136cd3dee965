# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which build of a driver each kernel takes: all modules of one build, or none."""
import fnmatch
import posixpath
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from ..errors import KmodError
from ..read.kernels import Kernel, version_key
from ..read.ko import KernelModule
from .verdict import COMPATIBLE, INCOMPATIBLE, UNKNOWN, Verdict

Judge = Callable[[Kernel, Sequence[KernelModule]], List[Verdict]]  # loader.judge: one verdict a module


class Build(NamedTuple):
    """The modules of a driver that were built for one release, by name. ``directory`` is where it is stored, empty if it is not yet."""

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
    """What one kernel gets. Without a build, ``verdict`` and ``reason`` are those of the build that came first in question."""

    kernel: str
    build: Optional[Build]
    verdict: str
    reason: str
    verdicts: Tuple[Verdict, ...] = ()


def builds(modules: Iterable[KernelModule]) -> List[Build]:
    """Modules as they were found, grouped into builds by the release they were built for.

    Several builds for one release (versions of the driver) are told apart by their directories. Errors: those of a file that is no module;
    VERMAGIC_ABSENT; TWO_MODULES, two files of one module in one build; BUILD_INCOMPLETE, it lacks a module that other builds of its
    version have.
    """
    groups: Dict[Tuple[str, str], List[KernelModule]] = {}
    by_release: Dict[str, List[KernelModule]] = {}
    for module in modules:
        if module.faults:
            raise KmodError(module.path, "is no module that a kernel would load: %s" % module.faults[0].message, "Copy the file again, or rebuild it",
                            module.faults[0].code)
        if not module.built_for:
            raise KmodError(module.path, "does not say which kernel it was built for (no vermagic)", "Rebuild it with the kernel's own build system",
                            "VERMAGIC_ABSENT")
        by_release.setdefault(module.built_for, []).append(module)
    for release, found in by_release.items():
        apart = len({module.name for module in found}) < len(found)
        for module in found:
            groups.setdefault((release, posixpath.dirname(module.path) if apart else ""), []).append(module)
    made = [Build(release, tuple(sorted(group, key=lambda module: module.name))) for (release, _directory), group in sorted(groups.items())]
    for build in made:
        _refuse_twins(build)
    _refuse_incomplete(made)
    return made


def _refuse_twins(build: Build) -> None:
    for one, other in zip(build.modules, build.modules[1:]):
        if one.name == other.name:
            raise KmodError(other.path, "is the same module as %s" % one.path, "Give one file for each module of a build", "TWO_MODULES")


def _refuse_incomplete(made: Sequence[Build]) -> None:
    whole: Dict[str, set] = {}
    for build in made:
        whole.setdefault(build.version, set()).update(module.name for module in build.modules)
    for build in made:
        missing = whole[build.version] - {module.name for module in build.modules}
        if missing:
            raise KmodError(posixpath.dirname(build.modules[0].path), "the build for %s has no %s.ko, which other builds of this version have"
                            % (build.release, sorted(missing)[0]), "Complete it, or leave that build out", "BUILD_INCOMPLETE")


def rank(release: str, build: Build) -> Tuple[Any, ...]:
    """Greatest first: the newest version; of that the build made for the kernel, then the one for the newest kernel."""
    return version_key(build.version), build.release == release, version_key(build.release)


def select(kernels: Sequence[Kernel], candidates: Sequence[Build], judge: Judge,
           rate: Callable[[str, Build], int] = lambda release, build: 0) -> List[Choice]:
    """For each kernel the first of the candidates, by rank, that it takes as a whole. No build is judged twice against one kernel.

    ``rate`` (of a kernel's release and a build; greatest first) decides between builds of one version for one release.
    """
    def order(release: str) -> List[Build]:
        return sorted(candidates, key=lambda build: (rank(release, build), rate(release, build)), reverse=True)

    return [_choose(kernel, order(kernel.release), judge) for kernel in kernels]


def _choose(kernel: Kernel, ranked: Sequence[Build], judge: Judge) -> Choice:
    first: Optional[Choice] = None
    for build in ranked:
        verdicts = tuple(judge(kernel, build.modules))
        verdict, reason = together(verdicts)
        if verdict == COMPATIBLE:
            return Choice(kernel.release, build, verdict, reason, verdicts)
        first = first or Choice(kernel.release, None, verdict, reason, verdicts)
    return first or Choice(kernel.release, None, UNKNOWN, "there is no build")


def together(verdicts: Sequence[Verdict]) -> Tuple[str, str]:
    """The verdict on a build and its first reason: one module that is refused refuses the driver, one that is unknown leaves it unknown."""
    for kind in (INCOMPATIBLE, UNKNOWN):
        for verdict in verdicts:
            if verdict.verdict == kind:
                return kind, ("%s: " % verdict.name if len(verdicts) > 1 else "") + verdict.short
    return COMPATIBLE, ""


def matching(kernels: Sequence[Kernel], patterns: Sequence[str]) -> List[Kernel]:
    """The kernels, oldest first, that one of the patterns means: shell patterns of releases, ``all``, ``newest`` or ``running``."""
    wanted = set()
    for pattern in patterns:
        if pattern == "newest":
            found = [kernel.release for kernel in kernels[-1:]]
        elif pattern == "running":
            found = [kernel.release for kernel in kernels if kernel.running]
        else:
            found = [kernel.release for kernel in kernels if pattern == "all" or fnmatch.fnmatchcase(kernel.release, pattern)]
        if not found:
            raise KmodError(pattern, "means none of the installed kernels (%s)" % ", ".join(kernel.release for kernel in kernels),
                            "Name one of them, or a pattern of its release", "NO_SUCH_KERNEL")
        wanted.update(found)
    return [kernel for kernel in kernels if kernel.release in wanted]
