# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which builds a fleet lacks of the sources at hand, made one after the other: plan, build, plan again where a
build told more.

What a host has stays: kernels that one of its builds fits are not wanted, whatever version that is of.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernels import version_key
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _fleet_plan, _records
from ansible_collections.outoftree.kmod.plugins.plugin_utils._records import INCOMPATIBLE, Record

BUILT, KEPT, FAILED = "built", "kept", "failed"
UNSIGNED = {"SIG_REQUIRED", "SIG_LOCKDOWN"}  # what a build that gets signed may not be refused for any more
NO_HEADERS = "HEADERS_MISSING"  # another kernel of the class may have some
TELLING = ("impossible", "untold", "ambiguous", "elsewhere")

Row = dict[str, Any]  # what came of one build
# makes one of so many: which it is, how many there are
Build = Callable[["Todo", int, int], Row]


class Todo(NamedTuple):
    driver: str
    release: str
    serves: tuple[str, ...]
    certain: bool


class Outcome(NamedTuple):
    """``rows`` are all builds of this run, those of rounds before first; ``again``: a look at what was built
    may tell more. ``rest`` by driver is what no build serves, as ``_fleet_plan.rebuild`` has it.
    """

    rows: list[Row]
    again: bool
    rest: dict[str, dict[str, Any]]


def versions(sources: Mapping[str, Any]) -> dict[str, str]:
    """Driver to version of the sources. Error: BAD_OPTION."""
    for driver, source in sources.items():
        places = [name for name in ("source", "src") if isinstance(source, Mapping) and source.get(name)]
        if len(places) != 1 or not source.get("version"):
            raise KmodError(
                "sources: %s" % driver,
                "names both source and src" if len(places) > 1 else "does not name a source and its version",
                "Give either source, a path on the build host, or src, one on the controller; and version",
                "BAD_OPTION",
            )
    return {driver: str(source["version"]) for driver, source in sources.items()}


def needed(sources: Mapping[str, Any]) -> dict[str, list[str]]:
    """By driver, those first that give others their symbols, the drivers of the sources whose symbols it uses,
    itself or through others. Error: BAD_OPTION.
    """
    found: dict[str, list[str]] = {}
    left = {
        driver: [n for n in source.get("depends") or () if n in sources] for driver, source in sources.items()
    }
    while left:
        ready = [driver for driver, names in left.items() if not set(names) & set(left)]
        if not ready:
            raise KmodError(
                "sources: " + ", ".join(sorted(left)),
                "depend on each other in a circle",
                "Build what uses each other's symbols from one source",
                "BAD_OPTION",
            )
        for driver in ready:
            names = left.pop(driver)
            found[driver] = list(dict.fromkeys([*(other for name in names for other in found[name]), *names]))
    return found


def wanting(
    records: Iterable[Any],
    seen: Iterable[Any],
    sources: Mapping[str, str],
    *,
    install: bool,
    signs: bool = False,
    needed: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
) -> list[Record]:
    """The records with nothing but the drivers of the sources, each as the source's own builds have it.

    ``seen`` are records of what the hosts say of builds of the sources in the store. With ``install`` hosts without
    a driver want it, too; else those that lack a build of one which needs it (``needed``). With ``signs`` a build
    that is refused for lack of a signature is no build.
    """
    told = [_records.validated(each) for each in seen]
    builds = {(each["host"], driver["driver"]): each for each in told for driver in each["drivers"]}
    found = [
        _wanting(
            record,
            {name: builds.get((record["host"], name)) for name in sources},
            sources,
            dict.fromkeys(sources, {each["kernel"] for each in record["kernels"]})
            if install
            else _along(record, needed),
        )
        for record in _records.merged(records)
        if record["kernels"]  # one that could not be reached has none
    ]
    for record in found if signs else ():
        record["verdicts"] = [
            dict(each, codes=[]) if set(each["codes"]) <= UNSIGNED else each for each in record["verdicts"]
        ]
    return found


def _along(record: Record, needed: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """By driver that one of the host's needs, the kernels that lack this one."""
    found: dict[str, set[str]] = {}
    for each in record["verdicts"]:
        for name in needed.get(each["driver"], ()) if each["verdict"] == INCOMPATIBLE else ():
            found.setdefault(name, set()).add(each["kernel"])
    return found


def _wanting(
    record: Record,
    seen: Mapping[str, Record | None],
    sources: Mapping[str, str],
    install: Mapping[str, set[str]],
) -> Record:
    new = dict(copy.copy(record), drivers=[], verdicts=[], needs={}, facts={})
    had = {each["driver"]: each for each in record["drivers"]}
    for driver, version in sources.items():
        if driver not in had and driver not in install:
            continue
        own = seen[driver]
        verdicts = {each["kernel"]: each for each in record["verdicts"] if each["driver"] == driver}
        lacking = [
            each["kernel"]
            for each in record["kernels"]
            if (driver not in had and each["kernel"] in install[driver])
            or (driver in had and not had[driver]["builds"])
            or verdicts.get(each["kernel"], {}).get("verdict") == INCOMPATIBLE
        ]
        if own is None and driver in had and had[driver]["version"] == version:
            _take(new, record, driver, had[driver], set(lacking))
        elif own is not None:
            described = next(each for each in own["drivers"] if each["driver"] == driver)
            alike = dict(
                described, version=version, builds=[dict(b, version=version) for b in described["builds"]]
            )
            _take(new, own, driver, alike, set(lacking))
        else:
            new["drivers"].append({"driver": driver, "version": version, "builds": [], "modules": []})
            new["verdicts"] += [_none(driver, kernel) for kernel in dict.fromkeys(lacking)]
    return new


def _take(new: Record, record: Record, driver: str, described: dict[str, Any], kernels: set[str]) -> None:
    new["drivers"].append(described)
    new["verdicts"] += [
        each for each in record["verdicts"] if each["driver"] == driver and each["kernel"] in kernels
    ]
    for key in ("needs", "facts"):
        if driver in record[key]:
            new[key][driver] = record[key][driver]


def _none(driver: str, kernel: str) -> dict[str, Any]:
    return {
        "driver": driver,
        "kernel": kernel,
        "verdict": INCOMPATIBLE,
        "exact": True,
        "build": None,
        "codes": [],
        "symbols": [],
        "errno": None,
        "why": "there is no build",
    }


def ahead(records: Iterable[Any], seen: Iterable[Any]) -> dict[str, dict[str, list[str]]]:
    """By host and driver the releases of those builds of the sources (``seen`` as in ``wanting``) that kernels to
    come take, which take nothing that the host has.
    """
    had = {
        (record["host"], each["driver"], each["kernel"])
        for record in _records.merged(records)
        for each in record["verdicts"]
        if each["verdict"] == _records.COMPATIBLE
    }
    found: dict[str, dict[str, list[str]]] = {}
    for record in map(_records.validated, seen):
        for each in record["verdicts"]:
            there = (record["host"], each["driver"], each["kernel"]) in had
            if each["state"] == "offered" and each["verdict"] == _records.COMPATIBLE and not there:
                releases = found.setdefault(record["host"], {}).setdefault(each["driver"], [])
                releases += [each["build"]] if each["build"] not in releases else []
    return found


def waiting(rows: Iterable[Row], build_host: str) -> dict[str, list[dict[str, str]]]:
    """By host what its record is to say today of the builds that failed and that it waits for."""
    found: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        if row["result"] != FAILED:
            continue
        others = [each for each in row["serves"] if each != row["release"]]
        text = "%s for %s%s: %s: %s" % (
            row["driver"],
            row["release"],
            " (and %s)" % ", ".join(others) if others else "",
            row.get("code"),
            "; ".join((row.get("errors") or [row.get("msg") or "it failed"])[:3]).rstrip("."),
        )
        text += ". Log on %s: %s" % (build_host, row["log"]) if row.get("log") else ""
        for host in row["hosts"]:
            told = {"kind": "build_failed", "driver": row["driver"], "kernel": row["release"], "text": text}
            found.setdefault(host, []).append(told)
    return found


def without_source(records: Iterable[Any], sources: Mapping[str, str]) -> dict[str, list[str]]:
    """By driver that some kernel lacks a build of, and that there is no source for, the hosts."""
    found: dict[str, list[str]] = {}
    for record in _records.merged(records):
        for driver in sorted({v["driver"] for v in record["verdicts"] if v["verdict"] == INCOMPATIBLE}):
            if driver not in sources:
                found.setdefault(driver, []).append(record["host"])
    return found


def carry_out(
    records: Sequence[Record],
    build: Build,
    before: Sequence[Row],
    needed: Mapping[str, Sequence[str]] = types.MappingProxyType({}),
) -> Outcome:
    """Make the builds that the plan has and that were not tried ``before``; a failure stops none of the others.

    What a driver is built with (``needed``) is built before it, for the same kernel.
    """
    rows = list(before)
    new: list[Row] = []
    tried = {(row["driver"], row["release"]) for row in before}
    while True:
        plans = _plans(records, rows, needed)
        todo = [each for each in _todo(plans, needed) if (each.driver, each.release) not in tried]
        if not todo:
            _add_hosts(rows, records)
            rest = {plan["driver"]: {key: plan[key] for key in TELLING} for plan in plans}
            return Outcome(rows, any(row["result"] in (BUILT, KEPT) for row in new), rest)
        for number, each in enumerate(todo, 1):
            tried.add((each.driver, each.release))
            row = dict(
                build(each, number, len(todo)),
                driver=each.driver,
                release=each.release,
                serves=list(each.serves),
                certain=each.certain,
            )
            new.append(row)
            rows.append(row)


def _plans(
    records: Sequence[Record], rows: Iterable[Row], needed: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """One for each driver, without the kernels that have turned out to have no headers; of a class that kernel
    for which there are builds of what the driver needs.
    """
    lacking: dict[str, set[str]] = {}
    for row in rows:
        if row.get("code") == NO_HEADERS:
            lacking.setdefault(row["driver"], set()).add(row["release"])
    found: list[dict[str, Any]] = []
    for driver in sorted({each["driver"] for record in records for each in record["drivers"]}):
        kernels = {each["kernel"] for record in records for each in record["kernels"]}
        buildable = kernels - lacking[driver] if driver in lacking else None
        preferred = [
            build["kernel"]
            for record in records
            for each in record["drivers"]
            if each["driver"] in needed.get(driver, ())
            for build in each["builds"]
        ]
        found += _fleet_plan.rebuild([_only(record, driver) for record in records], buildable, preferred)
    return found


def _only(record: Record, driver: str) -> Record:
    return dict(
        record,
        drivers=[each for each in record["drivers"] if each["driver"] == driver],
        verdicts=[each for each in record["verdicts"] if each["driver"] == driver],
    )


def _todo(plans: Iterable[dict[str, Any]], needed: Mapping[str, Sequence[str]]) -> list[Todo]:
    found = {
        (plan["driver"], each["release"]): Todo(
            plan["driver"], each["release"], tuple(each["serves"]), each["certain"]
        )
        for plan in plans
        for each in plan["builds"]
    }
    for driver, release in list(found):
        for name in needed.get(driver, ()):
            found.setdefault((name, release), Todo(name, release, (release,), found[driver, release].certain))
    order = {driver: number for number, driver in enumerate(needed)}
    return sorted(
        found.values(),
        key=lambda each: (order.get(each.driver, len(order)), each.driver, version_key(each.release)),
    )


def _add_hosts(rows: Iterable[Row], records: Iterable[Record]) -> None:
    """To each row those hosts that wait, or did in a round before, for what it serves."""
    waiting: dict[tuple[str, str], set[str]] = {}
    for record in records:
        for each in record["verdicts"]:
            if each["verdict"] == INCOMPATIBLE:
                waiting.setdefault((each["driver"], each["kernel"]), set()).add(record["host"])
    for row in rows:
        found = set(row.get("hosts") or ()).union(
            *(waiting.get((row["driver"], kernel), ()) for kernel in row["serves"])
        )
        row["hosts"] = sorted(found, key=_records.natural)
