# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is refused of a host's drivers before anything is written."""

from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set

from ..errors import KmodError
from ..host import Host
from ..judge.verdict import COMPATIBLE
from ..place.initramfs import existing
from ..place.together import Shared
from ..plan import Plan
from ..read.kernel_module import KernelModule
from ..read.kernels import version_key
from . import entry as entries
from . import link as links
from . import variant as variants
from .shared import entry_options, trial_of, variant_options
from .wanted import WantedDriver


class LinkPlan(NamedTuple):
    """What linking one driver comes to, as things are. ``early``: it needs symbols of a driver before it in the
    list that is not there yet, so that this is not the last word.
    """

    plan: Plan
    answer: links.Answer
    early: bool


def look(
    host: Host, drivers: Sequence[WantedDriver], files: Optional[Mapping[str, str]]
) -> Dict[str, LinkPlan]:
    """Errors: those of ``refuse``; MODULE_OF_OTHER_DRIVER for a module that two of them have."""
    found: Dict[str, LinkPlan] = {}
    whose: Dict[str, str] = {}  # by module
    for wanted in drivers:
        plan, answer = links.run(host, wanted.link(files))
        for module in answer.given:
            if whose.setdefault(module.name, wanted.driver) != wanted.driver:
                raise KmodError(
                    module.path,
                    "the driver %s of the list has a module %s too" % (whose[module.name], module.name),
                    "Have both under one driver's name, or leave one of them out",
                    "MODULE_OF_OTHER_DRIVER",
                )
        to_come = [each.answer.given for each in found.values() if each.plan]
        early = bool(answer.unserved) and any(_uses(answer.given, given) for given in to_come)
        found[wanted.driver] = LinkPlan(plan, answer, early)
        if not early:
            refuse(wanted, found[wanted.driver])
    return found


def _uses(modules: Sequence[KernelModule], others: Sequence[KernelModule]) -> bool:
    """Whether they need a symbol that the others export."""
    exported = {export.name for module in others for export in module.exports}
    return any(needed.name in exported for module in modules for needed in module.undefined)


def lacking(wanted: WantedDriver, foreseen: LinkPlan, files: Optional[Mapping[str, str]]) -> List[str]:
    """The files on the controller that are wanted here."""
    if files is not None or not (foreseen.early or foreseen.answer.waits):
        return []
    if foreseen.early:  # which builds it comes to is not known yet
        return [module.path for module in wanted.described or ()]
    return list(foreseen.answer.outcome.need)


def refuse(wanted: WantedDriver, foreseen: LinkPlan) -> None:
    """Refuse what can be refused before anything is written, and say so. Error: REQUIRE_UNMET."""
    answer = foreseen.answer
    takers = _takers(answer)
    unmet = {
        "none": False,
        "any": not takers,
        "all": len(takers) < len(answer.outcome.kernels),
        "booting": any(row.boots for row in answer.unserved),
    }
    if unmet[wanted.require]:
        raise KmodError(
            wanted.driver,
            "%s, and require is %s" % (answer.reasons, wanted.require),
            "Deploy builds for them, or require less. Nothing of it has been written",
            "REQUIRE_UNMET",
        )


def _takers(answer: links.Answer) -> List[str]:
    return [row.kernel for row in answer.outcome.kernels if row.verdict == COMPATIBLE]


def refuse_shared(host: Host, shared: Shared, foreseen: Mapping[str, LinkPlan]) -> None:
    """The same for what drivers share: that variants and entries can be had, and how to do without where not.

    Errors: those of ``state: possible`` of the other commands.
    """
    its = {name: each for name, each in foreseen.items() if name in shared.drivers and not each.early}
    if not its:
        return
    takers: Dict[str, Set[str]] = {}
    for name, each in its.items():
        for release in _takers(each.answer):
            takers.setdefault(release, set()).add(name)
    others = [name for name in shared.drivers if name not in foreseen]
    for release in takers:
        takers[release].update(existing.drivers_of(host, release, others))
    there = {(each.wants.kernel, each.wants.drivers) for each in existing.holding(host, list(its))}
    new = [release for release, drivers in takers.items() if (release, tuple(sorted(drivers))) not in there]
    # where nothing new is linked, and there are the variants already, there is nothing that is not tried below
    if not takers or not (new or any(each.plan for each in its.values())):
        return
    kernels = tuple(sorted(takers, key=version_key))
    steps: List[Any] = [("initrd", variants, variant_options(shared, kernels, "possible"))]
    if shared.entry:
        asked = entry_options(shared, trial_of(host, shared), kernels=kernels, state="possible")
        takes = tuple((release, tuple(sorted(takers[release]))) for release in kernels)
        steps.append(("entry", entries, asked._replace(takes=takes)))
    for option, command, given in steps:
        try:
            command.run(host, given)
        except KmodError as error:
            without = "boot entry" if option == "entry" else "initramfs variant or boot entry"
            raise KmodError(
                error.what,
                error.why,
                "%s. Nothing of it has been written. With %s: false (kmod_%s of the role) no %s is made"
                % (error.then.rstrip("."), option, option, without),
                error.code,
            ) from error
