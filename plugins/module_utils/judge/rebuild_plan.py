# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fewest builds of a driver that serve all kernels which have none yet.

Kernels with one fingerprint (``predict``) are one class: a build for one of them serves all, and a build of
another class does so only where symbols are weak. So there is one build a class, but where a class is served
along with another.
"""

from typing import Any, Collection, Dict, FrozenSet, Hashable, List, NamedTuple, Optional, Sequence, Tuple

from ..read.kernels import version_key
from .predict import KernelFacts, Needs, fingerprint, not_as_made, predicted


class PlanRequest(NamedTuple):
    """``builds`` are those that exist: by the release that each was made for the releases that take it, as
    they were judged.

    ``needs`` is None where there is no build at all; ``buildable`` are the releases of ``kernels`` that
    headers are to be had for, and ``preferred`` those of them that are built for where it makes no difference: the
    drivers that this one is built against have builds for them.
    """

    driver: str
    needs: Optional[Needs]
    kernels: Tuple[KernelFacts, ...]
    wanted: Tuple[str, ...]
    buildable: Tuple[str, ...]
    builds: Dict[str, Tuple[str, ...]] = {}
    preferred: Tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, data: Dict[str, Any]) -> "PlanRequest":
        """Error: PLAN_DATA."""
        try:
            kernels = tuple(map(KernelFacts.from_dict, data["kernels"]))
            every = [kernel.release for kernel in kernels]
            named = {
                name: every if data.get(name) is None else data[name] for name in ("wanted", "buildable")
            }
            builds = {str(release): tuple(takers) for release, takers in (data.get("builds") or {}).items()}
            needs = Needs.from_dict(data["needs"]) if data.get("needs") else None
            wanted, buildable = tuple(named["wanted"]), tuple(named["buildable"])
            preferred = tuple(data.get("preferred") or ())
            return cls(str(data["driver"]), needs, kernels, wanted, buildable, builds, preferred)
        except (KeyError, TypeError, AttributeError) as error:
            raise not_as_made("a request for a plan", error) from None


class PlannedBuild(NamedTuple):
    """``certain``: it will load on these kernels.

    Otherwise what the source needs there is not known before it is built: then plan again.
    """

    release: str
    serves: Tuple[str, ...]
    certain: bool


class RebuildPlan(NamedTuple):
    driver: str
    kept: Dict[str, str]  # by release of a kernel the build that exists for it
    builds: Tuple[PlannedBuild, ...]
    impossible: Tuple[str, ...]  # no headers, neither its own nor of another kernel whose build it takes

    def as_dict(self) -> Dict[str, Any]:
        return dict(
            self._asdict(),
            builds=[dict(build._asdict(), serves=list(build.serves)) for build in self.builds],
            impossible=list(self.impossible),
        )


def plan(data: Dict[str, Any]) -> Dict[str, Any]:
    """JSON in, JSON out: ``PlanRequest.from_dict`` and ``RebuildPlan.as_dict``. Error: PLAN_DATA."""
    return least(PlanRequest.from_dict(data)).as_dict()


def least(request: PlanRequest) -> RebuildPlan:
    kept: Dict[str, str] = {}
    for release, takers in sorted(request.builds.items(), key=lambda item: version_key(item[0])):
        kept.update((taker, release) for taker in takers if taker in request.wanted)  # of several the newest
    own_builds = [release for release in kept if release in request.builds.get(release, ())]
    kept.update((release, release) for release in own_builds)
    open_ = [release for release in request.wanted if release not in kept]
    if request.needs is None:
        possible = set(request.buildable) & set(open_) or set(request.buildable)
        first = min(possible & set(request.preferred) or possible, key=version_key, default=None)
        if first is None or not open_:
            return RebuildPlan(request.driver, kept, (), tuple(_sorted(open_)))
        return RebuildPlan(request.driver, kept, (PlannedBuild(first, tuple(_sorted(open_)), False),), ())
    classes = _Classes(request.kernels, request.needs)
    targets = frozenset(classes.of[release] for release in open_ if release in classes.of)
    preferred = set(request.preferred) & set(request.buildable)
    candidates = {
        number: classes.oldest(number, preferred) or classes.oldest(number, request.buildable)
        for number in classes.members
    }
    serves = {
        number: frozenset(target for target in targets if classes.serves(number, target))
        for number, release in candidates.items()
        if release is not None
    }
    chosen = _fewest(targets & frozenset().union(*serves.values()), serves)
    builds = [
        PlannedBuild(candidates[number] or "", classes.among(serves[number], open_), True)
        for number in chosen
    ]
    for target in sorted(targets.difference(*(serves[number] for number in chosen))):
        own = candidates[target]
        if own is not None and not classes.known(target):
            builds.append(PlannedBuild(own, classes.among({target}, open_), False))
    served = {release for build in builds for release in build.serves}
    return RebuildPlan(
        request.driver,
        kept,
        tuple(sorted(_each_once(builds), key=lambda build: version_key(build.release))),
        tuple(_sorted([release for release in open_ if release not in served])),
    )


class _Classes:
    """Kernels by fingerprint, by number in the order of their oldest."""

    def __init__(self, kernels: Sequence[KernelFacts], needs: Needs) -> None:
        self.needs = needs
        numbers: Dict[Hashable, int] = {}
        self.members: Dict[int, List[KernelFacts]] = {}
        self.of: Dict[str, int] = {}
        for kernel in sorted(kernels, key=lambda kernel: version_key(kernel.release)):
            number = numbers.setdefault(fingerprint(kernel, needs), len(numbers))
            self.members.setdefault(number, []).append(kernel)
            self.of[kernel.release] = number

    def known(self, number: int) -> bool:
        """Whether a build for this class will load there: it has all that the source is known to need."""
        return self.serves(number, number)

    def serves(self, number: int, other: int) -> bool:
        return bool(predicted(self.members[number][0], self.members[other][0], self.needs))

    def oldest(self, number: int, among: Collection[str]) -> Optional[str]:
        return next((kernel.release for kernel in self.members[number] if kernel.release in among), None)

    def among(self, numbers: Any, releases: Sequence[str]) -> Tuple[str, ...]:
        return tuple(_sorted([release for release in releases if self.of.get(release) in numbers]))


def _fewest(targets: FrozenSet[int], serves: Dict[int, FrozenSet[int]]) -> List[int]:
    """The fewest of the candidates that serve all targets, oldest first where there is a choice."""
    best: List[List[int]] = [sorted(serves)]

    def search(left: FrozenSet[int], chosen: List[int]) -> None:
        if not left:
            best[0] = chosen if len(chosen) < len(best[0]) else best[0]
        elif len(chosen) + 1 < len(best[0]):
            hardest = min(left, key=lambda target: (sum(target in each for each in serves.values()), target))
            for number in sorted(serves):
                if hardest in serves[number]:
                    search(left - serves[number], chosen + [number])

    search(targets, [])
    return best[0] if targets else []


def _each_once(builds: Sequence[PlannedBuild]) -> List[PlannedBuild]:
    """A kernel that two of the builds would serve is served by the one made for it, else by the first."""
    own = {build.release for build in builds}
    given: Dict[str, str] = {}
    for build in builds:
        for release in build.serves:
            given[release] = release if release in own else given.get(release, build.release)
    return [
        build._replace(serves=tuple(release for release in build.serves if given[release] == build.release))
        for build in builds
    ]


def _sorted(releases: Sequence[str]) -> List[str]:
    return sorted(releases, key=version_key)
