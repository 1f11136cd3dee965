# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What host records say of a fleet: pure functions on lists of validated records (``_records.merged``).

A kernel is a release and a machine (SUSE's and Ubuntu's releases are the same on all architectures). A
driver's next kernel on a host is the one that boots will start after the update: the newest on offer, or the
newest that is installed. A host stays well if each of its drivers has a build for that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernels import version_key
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _records
from ansible_collections.outoftree.kmod.plugins.plugin_utils._records import (
    COMPATIBLE,
    INCOMPATIBLE,
    UNKNOWN,
    Record,
)

# What becomes of a host, or of a driver on it, with the next kernel; the worst first.
LOSES, LACKS, UNTOLD, WELL = "loses", "lacks", "untold", "well"
STATES = (LOSES, LACKS, UNTOLD, WELL)


class Outcome(NamedTuple):
    """What becomes of one driver of a host: with ``kernel``, its next one.

    ``lacks``: it has no build for the kernel that runs now either.
    """

    driver: str
    kernel: str | None
    state: str


class Group(NamedTuple):
    """Hosts that nothing tells apart but their names; ``record`` is that of the first."""

    hosts: tuple[str, ...]
    record: Record
    state: str
    outcomes: tuple[Outcome, ...]
    held: bool  # the kernel that would cost a driver is held back on them


def next_kernels(record: Record) -> list[str]:
    """The kernels that boots start after the update: one, or one a flavour."""
    flagged = [each for each in record["kernels"] if each["newest"]] or record["kernels"]
    offered = sorted({each["kernel"] for each in flagged if each["state"] == "offered"}, key=version_key)
    there = sorted({each["kernel"] for each in flagged if each["state"] != "offered"}, key=version_key)
    # what is on offer may be older than what somebody has installed
    if offered and (not there or version_key(offered[-1]) >= version_key(there[-1])):
        there = offered
    return there if any(each["newest"] for each in record["kernels"]) else there[-1:]


def outcomes(record: Record) -> list[Outcome]:
    """By driver and next kernel."""
    verdicts = {(each["driver"], each["kernel"]): each["verdict"] for each in _records.verdicts(record)}
    running = {
        each["driver"]: each["verdict"]
        for each in record["verdicts"]
        if each["kernel"] == record["running"] and each["state"] != "offered"
    }
    found = []
    for driver in sorted({each["driver"] for each in record["drivers"]}):
        for kernel in next_kernels(record) or (None,):
            verdict = verdicts.get((driver, kernel), UNKNOWN)
            lost = LACKS if running.get(driver) == INCOMPATIBLE else LOSES
            state = {COMPATIBLE: WELL, INCOMPATIBLE: lost, UNKNOWN: UNTOLD}[verdict]
            found.append(Outcome(driver, kernel, state))
    return found


def state(record: Record) -> str:
    """The worst of its drivers'; a host without drivers is well."""
    if record["error"] is not None:
        return UNTOLD
    return min((each.state for each in outcomes(record)), key=STATES.index, default=WELL)


def is_held(record: Record) -> bool:
    """Whether the host would lose drivers, and something is held back on it for each of them."""
    lost = {each.driver for each in outcomes(record) if each.state == LOSES}
    held = {driver for each in record["held"] for driver in each["driver"]}
    return state(record) == LOSES and (lost <= held or any(not each["driver"] for each in record["held"]))


def groups(records: Iterable[Record]) -> list[Group]:
    """Hosts with the same drivers, kernels, verdicts and holds together; the worst first, then the largest."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(repr(_alike(record)), []).append(record)
    made = [
        Group(
            tuple(each["host"] for each in together),
            together[0],
            state(together[0]),
            tuple(outcomes(together[0])),
            is_held(together[0]),
        )
        for together in found.values()
    ]
    return sorted(made, key=lambda group: (STATES.index(group.state), -len(group.hosts)))


def _alike(record: Record) -> Any:
    same = ("error", "distribution", "machine", "running", "default", "drivers", "verdicts", "held")
    kernels = [(each["kernel"], each["state"], each["newest"]) for each in record["kernels"]]
    return [sorted(kernels)] + [
        sorted(map(repr, record[name])) if isinstance(record[name], list) else record[name] for name in same
    ]


def counts(groups_: Sequence[Group]) -> dict[str, int]:
    """Hosts by state, in all, and how many of those that would lose a driver are ``held`` back."""
    found = {"hosts": 0, **dict.fromkeys(STATES, 0), "held": 0, "groups": len(groups_)}
    for group in groups_:
        found["hosts"] += len(group.hosts)
        found[group.state] += len(group.hosts)
        found["held"] += len(group.hosts) if group.held else 0
    return found


class KernelName(NamedTuple):
    release: str
    machine: str | None


def kernels(groups_: Sequence[Group]) -> list[dict[str, Any]]:
    """Every kernel, newest first, with the number of hosts that run it, have it or could get it.

    ``next`` are those on which it is what boots start after the update.
    """
    found: dict[KernelName, dict[str, Any]] = {}
    for group in groups_:
        following = next_kernels(group.record)
        for each in group.record["kernels"]:
            name = KernelName(each["kernel"], group.record["machine"])
            row = found.setdefault(
                name,
                {"kernel": name.release, "machine": name.machine, "distributions": set()}
                | dict.fromkeys(("running", "installed", "offered", "next"), 0),
            )
            row[each["state"]] += len(group.hosts)
            row["distributions"] |= {group.record["distribution"]} - {None}
        for release in following:
            found[KernelName(release, group.record["machine"])]["next"] += len(group.hosts)
    return [
        dict(found[name], distributions=sorted(found[name]["distributions"]))
        for name in sorted(
            found, key=lambda name: (version_key(name.release), name.machine or ""), reverse=True
        )
    ]


def cells(groups_: Sequence[Group]) -> list[dict[str, Any]]:
    """By driver and kernel: how many hosts there are of each verdict, and for which reasons.

    A reason is what a verdict says apart from the hosts; ``groups`` are the positions of the groups that it
    holds for.
    """
    found: dict[tuple[str, KernelName], dict[str, Any]] = {}
    for position, group in enumerate(groups_):
        versions = {each["driver"]: each["version"] for each in group.record["drivers"]}
        for each in _records.verdicts(group.record):
            name = KernelName(each["kernel"], group.record["machine"])
            row = found.setdefault(
                (each["driver"], name),
                {"driver": each["driver"], "kernel": name.release, "machine": name.machine}
                | dict.fromkeys((COMPATIBLE, INCOMPATIBLE, UNKNOWN), 0)
                | {"exact": True, "reasons": {}},
            )
            row[each["verdict"]] += len(group.hosts)
            row["exact"] &= each["exact"]
            reason = {key: value for key, value in each.items() if key not in ("driver", "kernel", "state")}
            reason["version"] = versions.get(each["driver"])
            kept = row["reasons"].setdefault(repr(reason), dict(reason, hosts=0, groups=[]))
            kept["hosts"] += len(group.hosts)
            kept["groups"].append(position)
    worst = (INCOMPATIBLE, UNKNOWN, COMPATIBLE)
    return [
        dict(
            row,
            reasons=sorted(
                row["reasons"].values(), key=lambda each: (worst.index(each["verdict"]), -each["hosts"])
            ),
        )
        for (_driver, _name), row in sorted(
            found.items(),
            key=lambda item: (item[0][0], version_key(item[0][1].release), item[0][1].machine or ""),
        )
    ]


def today(records: Iterable[Record]) -> list[dict[str, Any]]:
    """What is to be looked at as it is now, each with the hosts that it is so on; the most hosts first.

    Lists of packages that could not be asked, or are older than a week, count too.
    """
    found: dict[tuple[str, str, str, str], list[str]] = {}
    for record in records:
        for each in record["today"] + _lists(record):
            key = (each["kind"], each["driver"] or "", each["kernel"] or "", each["text"])
            hosts = found.setdefault(key, [])
            if record["host"] not in hosts[-1:]:
                hosts.append(record["host"])
    return [
        {"kind": kind, "driver": driver or None, "kernel": kernel or None, "text": text, "hosts": hosts}
        for (kind, driver, kernel, text), hosts in sorted(
            found.items(), key=lambda item: (-len(item[1]), item[0])
        )
    ]


WEEK = 7 * 24 * 3600


def _lists(record: Record) -> list[dict[str, Any]]:
    lists = record["lists"]
    row: dict[str, Any] = {"driver": None, "kernel": None}
    if lists["error"] is not None:
        return [dict(row, kind="lists_unread", text=lists["error"])]
    if lists["age"] is not None and lists["age"] > WEEK:
        weeks = int(lists["age"] // WEEK)
        age = "a week" if weeks == 1 else "%d weeks" % weeks
        text = "The package lists are more than %s old; a newer kernel may be on offer." % age
        return [dict(row, kind="lists_old", text=text)]
    return []


def held(records: Iterable[Record]) -> list[dict[str, Any]]:
    """What is held back, why, and on which hosts."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        for each in record["held"]:
            row = found.setdefault(repr(sorted(each.items())), dict(each, hosts=[]))
            if record["host"] not in row["hosts"][-1:]:
                row["hosts"].append(record["host"])
    return sorted(found.values(), key=lambda row: (-len(row["hosts"]), row["what"], row["kernel"] or ""))
