# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rebuild list of a fleet: the fewest builds after which no host lacks a driver (judge/rebuild_plan).

Each version of a driver, on each machine, has a plan of its own. Its needs are those of a build of one kernel
series, so hosts that say different needs of it are planned for apart, and each kernel once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from ansible_collections.outoftree.kmod.plugins.module_utils.judge import rebuild_plan
from ansible_collections.outoftree.kmod.plugins.module_utils.judge.predict import (
    KernelFacts,
    Needs,
    predicted,
)
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernels import version_key
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _records
from ansible_collections.outoftree.kmod.plugins.plugin_utils._records import COMPATIBLE, INCOMPATIBLE, Record

# What no other build of the same driver changes, by the beginnings of the codes: signatures and keys, what
# somebody forbids, names, licences.
NOT_BY_BUILDING = (
    "SIG_",
    "CMDLINE_",
    "MODPROBE_",
    "NAME_",
    "COMP_",
    "SYMBOL_GPL_ONLY",
    "NS_MODULE_",
    "LIVEPATCH_",
)


class DriverName(NamedTuple):
    """What has one source, and so one plan."""

    driver: str
    version: str
    machine: str


class _Driver:
    """One driver in all records that have it."""

    def __init__(self) -> None:
        self.hosts: set[str] = set()
        self.takers: dict[str, set[str]] = {}  # by build the kernels that were judged to take it
        self.lacking: dict[str, list[str]] = {}  # by kernel the hosts that have no build for it
        self.other_reasons: dict[str, list[str]] = {}  # the same, where no build would help
        self.needs: dict[str, Any] = {}  # by text
        # by the text of the needs, kernel, and the text of the facts, the hosts that say so
        self.facts: dict[str, dict[str, dict[str, list[str]]]] = {}

    def agreed(self, text: str) -> dict[str, Any]:
        """By kernel its facts, where all hosts with these needs say the same of it."""
        every = self.facts.get(text, {}).items()
        return {kernel: json.loads(next(iter(texts))) for kernel, texts in every if len(texts) == 1}

    def waiting(self, kernels: Sequence[str]) -> int:
        return len({host for kernel in kernels for host in self.lacking.get(kernel, ())})


def rebuild(
    records: Iterable[Record], buildable: Iterable[str] | None = None, preferred: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """A plan for each driver that some host lacks a build of, as plain JSON.

    ``builds``: ``release`` to build for, the kernels that it ``serves``, whether that is ``certain``, and the
    ``hosts`` that wait for it. ``deploy``: kernels that a ``build`` which some host has serves, as ``judged``
    there or as predicted, with the ``hosts`` that have not got it. ``impossible``: kernels that nothing can be
    built for (``buildable`` are those that headers are to be had for; None: all). ``untold``: kernels of which
    too little is known to plan. ``ambiguous``: one release with different contents on different ``hosts`` (a
    list of lists). ``preferred``: see ``PlanRequest``. ``elsewhere``: by kernel the hosts that refuse the driver for what no build changes, such
    as its key.
    Error: PLAN_DATA.
    """
    drivers = _by_driver(records)
    plans = [_plan(name, drivers[name], buildable, preferred) for name in sorted(drivers)]
    return [
        plan
        for plan in plans
        if any(plan[key] for key in ("builds", "deploy", "impossible", "untold", "ambiguous", "elsewhere"))
    ]


def _by_driver(records: Iterable[Record]) -> dict[DriverName, _Driver]:
    found: dict[DriverName, _Driver] = {}
    for record in records:
        for each in record["drivers"]:
            name = DriverName(each["driver"], each["version"] or "", record["machine"] or "")
            _note(found.setdefault(name, _Driver()), record, each)
    return found


def _note(driver: _Driver, record: Record, described: dict[str, Any]) -> None:
    """What one host says of one driver."""
    name, host = described["driver"], record["host"]
    versions = {build["kernel"]: build["version"] for build in described["builds"]}
    driver.hosts.add(host)
    for verdict in _records.verdicts(record):
        if verdict["driver"] != name:
            continue
        kernel, build = verdict["kernel"], verdict["build"]
        if verdict["verdict"] == COMPATIBLE:
            if build is not None and versions.get(build) in (None, described["version"]):
                driver.takers.setdefault(build, set()).add(kernel)
        elif not described["builds"] or verdict["verdict"] == INCOMPATIBLE:
            other = (
                described["builds"]
                and verdict["codes"]
                and all(code.startswith(NOT_BY_BUILDING) for code in verdict["codes"])
            )
            hosts = (driver.other_reasons if other else driver.lacking).setdefault(kernel, [])
            if host not in hosts[-1:]:
                hosts.append(host)
    needs = record["needs"].get(name)
    text = _text(needs)
    driver.needs[text] = needs
    for kernel, facts in record["facts"].get(name, {}).items():
        by_kernel = driver.facts.setdefault(text, {}).setdefault(kernel, {})
        by_kernel.setdefault(_text(facts), []).append(host)


def _plan(
    name: DriverName, driver: _Driver, buildable: Iterable[str] | None, preferred: Iterable[str]
) -> dict[str, Any]:
    # of one name and two contents: what takes the one says nothing of the other
    contested = {
        kernel for facts in driver.facts.values() for kernel, texts in facts.items() if len(texts) > 1
    }
    takers = {build: kernels - contested for build, kernels in driver.takers.items()}
    for build, kernel in _foreseen(driver):
        takers[build].add(kernel)
    kept = _kept(name, takers, driver.lacking)
    wanted = sorted(set(driver.lacking) - set(kept), key=version_key)
    by_needs, ambiguous, untold = _shared_out(driver, wanted)
    builds: dict[str, dict[str, Any]] = {}
    impossible: list[str] = []
    possible = None if buildable is None else set(buildable)
    for text, kernels in by_needs.items():
        facts = driver.agreed(text)
        plan = rebuild_plan.plan(
            {
                "driver": name.driver,
                "needs": driver.needs[text],
                "kernels": list(facts.values()),
                "wanted": kernels,
                "buildable": [each for each in facts or kernels if possible is None or each in possible],
                "preferred": list(preferred),
            }
        )
        impossible += plan["impossible"]
        for build in plan["builds"]:
            had = builds.setdefault(build["release"], build)
            had["serves"] = sorted({*had["serves"], *build["serves"]}, key=version_key)
            had["certain"] &= build["certain"]
    return {
        **name._asdict(),
        "hosts": len(driver.hosts),
        "builds": [
            dict(builds[release], hosts=driver.waiting(builds[release]["serves"]))
            for release in sorted(builds, key=version_key)
        ],
        "deploy": [
            {
                "kernel": kernel,
                "build": kept[kernel],
                "judged": kernel in driver.takers[kept[kernel]],
                "hosts": driver.lacking[kernel],
            }
            for kernel in sorted(kept, key=version_key)
        ],
        "impossible": sorted(impossible, key=version_key),
        "untold": untold,
        "ambiguous": ambiguous,
        "elsewhere": [
            {"kernel": kernel, "hosts": driver.other_reasons[kernel]}
            for kernel in sorted(driver.other_reasons, key=version_key)
        ],
    }


def _foreseen(driver: _Driver) -> Iterator[tuple[str, str]]:
    """(a build that some host has, a kernel of another host that it will load on)"""
    for text, needs in driver.needs.items():
        if needs is None:
            continue
        known = {kernel: KernelFacts.from_dict(facts) for kernel, facts in driver.agreed(text).items()}
        for build in set(driver.takers) & set(known):
            for kernel in set(driver.lacking) & set(known):
                if predicted(known[build], known[kernel], Needs.from_dict(needs)):
                    yield build, kernel


def _kept(name: DriverName, takers: dict[str, set[str]], lacking: Iterable[str]) -> dict[str, str]:
    """By kernel the build of the fleet that serves it."""
    request = {"driver": name.driver, "kernels": [], "wanted": sorted(lacking), "builds": takers}
    kept: dict[str, str] = rebuild_plan.plan(request)["kept"]
    return kept


def _shared_out(
    driver: _Driver, wanted: Sequence[str]
) -> tuple[dict[str, list[str]], list[dict[str, Any]], list[str]]:
    """Each kernel to the needs that most hosts say of it. (kernels by the text of the needs, ambiguous, untold)"""
    shared: dict[str, list[str]] = {}
    ambiguous: list[dict[str, Any]] = []
    untold: list[str] = []
    unknown = _text(None)
    for kernel in wanted:
        told = {
            text: facts[kernel]
            for text, facts in driver.facts.items()
            if kernel in facts and driver.needs[text] is not None
        }
        if not told:
            # without any build there is nothing to predict by: the first one tells more
            if set(driver.needs) == {unknown}:
                shared.setdefault(unknown, []).append(kernel)
            else:
                untold.append(kernel)
            continue
        text = min(told, key=lambda text: (-sum(map(len, told[text].values())), text))
        if len(told[text]) > 1:
            ambiguous.append({"kernel": kernel, "hosts": list(told[text].values())})
        else:
            shared.setdefault(text, []).append(kernel)
    return shared, ambiguous, untold


def _text(data: Any) -> str:
    return json.dumps(data, sort_keys=True)
