# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The fleet report as data: what ``report.json`` holds (docs/report.md), of the same records always the same.

The other forms are made of it and of nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.plugin_utils import _fleet, _fleet_plan, _records
from ansible_collections.outoftree.kmod.plugins.plugin_utils._records import NONE, Record

VERSION = 1
Report = dict[str, Any]

# What of an earlier report is compared; the rest of it is not looked at.
OUTCOME = {"driver": str, "kernel": (NONE, str), "state": _fleet.STATES}
VERDICT = {"driver": str, "kernel": str, "verdict": _records.VERDICT["verdict"]}
EARLIER = {
    "version": int,
    "at": str,
    "groups": [
        {
            "hosts": [str],
            "state": _fleet.STATES,
            "machine": (NONE, str),
            "outcomes": [OUTCOME],
            "kernels": [{"kernel": str}],
            "verdicts": [VERDICT],
        }
    ],
    "rebuild": [
        {"driver": str, "version": str, "machine": str, "builds": [{"release": str, "serves": [str]}]},
    ],
    "today": [{"kind": str, "hosts": [str]}],
    "changes": object,
}


def made(records: Sequence[Record], earlier: dict[str, Any] | None = None, replaces: bool = False) -> Report:
    """The report on validated records (``_records.merged``), and what changed since an ``earlier`` one.

    Where that is of these very records and is the one that this ``replaces``, what had changed by then is
    told again: a report that is made twice does not lose it. Error: PLAN_DATA.
    """
    groups = _fleet.groups(records)
    report: Report = {
        "version": VERSION,
        "at": max((record["at"] for record in records), default=""),
        "counts": _fleet.counts(groups),
        "drivers": _drivers(groups),
        "kernels": _fleet.kernels(groups),
        "cells": _fleet.cells(groups),
        "groups": [_group(group) for group in groups],
        "rebuild": _fleet_plan.rebuild(records),
        "today": _fleet.today(records),
        "held": _fleet.held(records),
        "changes": None,
    }
    if earlier is not None:
        same = replaces and all(
            earlier["whole"].get(key) == value for key, value in report.items() if key != "changes"
        )
        report["changes"] = earlier["changes"] if same else changes(earlier, report)
    return report


def text(report: Report) -> str:
    return json.dumps(report, indent=1, sort_keys=True) + "\n"


def read(data: bytes, path: str) -> dict[str, Any]:
    """What is compared of an earlier report, and the ``whole`` of it. Errors: REPORT_DAMAGED, REPORT_NEWER."""
    try:
        report = json.loads(data)
        _records.check_version(report, VERSION, path)
        return {**_records.shaped(report, EARLIER, path), "whole": report}
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "is no JSON (%s)" % error) from None
    except KmodError as error:
        if error.code == "RECORD_NEWER":
            raise KmodError(path, error.why, error.then, "REPORT_NEWER") from None
        raise _damaged(path, error.why) from None


def _damaged(path: str, why: str) -> KmodError:
    return KmodError(
        path, why, "Give a report.json that kmod_report wrote, or leave since out", "REPORT_DAMAGED"
    )


def _drivers(groups: Sequence[_fleet.Group]) -> list[dict[str, Any]]:
    """Every driver with its versions, by the number of hosts."""
    found: dict[str, dict[str | None, int]] = {}
    for group in groups:
        for each in group.record["drivers"]:
            versions = found.setdefault(each["driver"], {})
            versions[each["version"]] = versions.get(each["version"], 0) + len(group.hosts)
    return [
        {
            "driver": driver,
            "versions": [
                {"version": version, "hosts": found[driver][version]}
                for version in sorted(found[driver], key=lambda version: _records.natural(version or ""))
            ],
        }
        for driver in sorted(found)
    ]


def _group(group: _fleet.Group) -> dict[str, Any]:
    same = ("error", "distribution", "machine", "running", "default", "drivers", "verdicts")
    return {
        "hosts": list(group.hosts),
        "state": group.state,
        "held": group.held,
        "outcomes": [outcome._asdict() for outcome in group.outcomes],
        **{key: group.record[key] for key in same},
        # where each was read from is not the same on all hosts
        "kernels": [
            {key: each[key] for key in ("kernel", "state", "newest")} for each in group.record["kernels"]
        ],
    }


def changes(earlier: dict[str, Any], now: Report) -> dict[str, Any]:
    """What is otherwise than in the earlier report.

    ``at`` of the earlier one; hosts that are ``new`` or ``gone``; ``counts`` as they were; ``states``: hosts
    that now have another state; ``verdicts``: hosts of which a kernel now takes or refuses a driver, and did
    not; ``kernels`` and ``builds`` that are new, and those that are gone; ``today``: by kind the hosts before
    and now.
    """
    before, after = _by_host(earlier), _by_host(now)
    both = [host for host in after if host in before]
    builds = [_builds(earlier), _builds(now)]
    kernels = [_kernels(earlier), _kernels(now)]
    problems = [_problems(earlier), _problems(now)]
    return {
        "at": earlier["at"],
        "counts": {state: sum(each["state"] == state for each in before.values()) for state in _fleet.STATES},
        "new": [host for host in after if host not in before],
        "gone": [host for host in before if host not in after],
        "states": _states(before, after, both),
        "verdicts": _verdicts(before, after, both),
        "kernels": {"new": _listed(kernels[1] - kernels[0]), "gone": _listed(kernels[0] - kernels[1])},
        "builds": {"new": _listed(builds[1] - builds[0]), "gone": _listed(builds[0] - builds[1])},
        "today": [
            {"kind": kind, "before": problems[0].get(kind, 0), "now": problems[1].get(kind, 0)}
            for kind in sorted({*problems[0], *problems[1]})
            if problems[0].get(kind) != problems[1].get(kind)
        ],
    }


def _by_host(report: Report) -> dict[str, dict[str, Any]]:
    """In the order of names."""
    found = {host: group for group in report["groups"] for host in group["hosts"]}
    return {host: found[host] for host in sorted(found, key=_records.natural)}


def _states(before: Any, after: Any, hosts: Sequence[str]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], list[str]] = {}
    for host in hosts:
        was, now = before[host]["state"], after[host]["state"]
        if was != now:
            found.setdefault((was, now), []).append(host)
    # what became worst first
    order = sorted(found, key=lambda pair: (_fleet.STATES.index(pair[1]), _fleet.STATES.index(pair[0])))
    return [{"before": was, "now": now, "hosts": found[was, now]} for was, now in order]


def _verdicts(before: Any, after: Any, hosts: Sequence[str]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str, str, str], list[str]] = {}
    said: dict[int, dict[tuple[str, str], str]] = {}  # by group: hosts of one share it

    def verdicts(group: dict[str, Any]) -> dict[tuple[str, str], str]:
        if id(group) not in said:
            said[id(group)] = {
                (each["driver"], each["kernel"]): each["verdict"] for each in group["verdicts"]
            }
        return said[id(group)]

    for host in hosts:
        was, now = verdicts(before[host]), verdicts(after[host])
        for driver, kernel in now.keys() & was.keys() if was != now else ():
            pair = (driver, kernel)
            if was[pair] != now[pair]:
                found.setdefault((*pair, was[pair], now[pair]), []).append(host)
    return [
        {
            "driver": driver,
            "kernel": kernel,
            "before": was,
            "now": now,
            "hosts": found[driver, kernel, was, now],
        }
        for driver, kernel, was, now in sorted(found)
    ]


def _kernels(report: Report) -> set[tuple[str, ...]]:
    return {
        (each["kernel"], group["machine"] or "") for group in report["groups"] for each in group["kernels"]
    }


def _builds(report: Report) -> set[tuple[str, ...]]:
    return {
        (plan["driver"], plan["version"], plan["machine"], build["release"])
        for plan in report["rebuild"]
        for build in plan["builds"]
    }


def _problems(report: Report) -> dict[str, int]:
    found: dict[str, set[str]] = {}
    for each in report["today"]:
        found.setdefault(each["kind"], set()).update(each["hosts"])
    return {kind: len(hosts) for kind, hosts in found.items()}


def _listed(found: set[tuple[str, ...]]) -> list[list[str]]:
    return [list(each) for each in sorted(found)]
