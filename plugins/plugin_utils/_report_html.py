# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``report.html``: one file that needs no other, no network and no JavaScript.

Everything in it that came from a host is text: the template escapes all it is given, ids are numbers, and the
page's own policy lets nothing run or load but the style and the filter that were written here.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable
from typing import Any

import jinja2
from markupsafe import Markup

from ansible_collections.outoftree.kmod.plugins.plugin_utils import _report_words as words
from ansible_collections.outoftree.kmod.plugins.plugin_utils._fleet import STATES
from ansible_collections.outoftree.kmod.plugins.plugin_utils._records import COMPATIBLE, INCOMPATIBLE, UNKNOWN
from ansible_collections.outoftree.kmod.plugins.plugin_utils._report import Report

TEMPLATES = os.path.join(os.path.dirname(__file__), "_templates")
SYMBOLS_IN_A_GROUP, SYMBOLS_IN_A_REASON = 3, 60


def rendered(report: Report) -> str:
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(TEMPLATES),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        name=words.name,
        number=lambda number: format(number, ","),
        moment=words.moment,
        count=words.count,
        some=words.some,
    )
    style, script = _own("style.css"), _own("filter.js")
    view = _View(report)
    return (
        environment.get_template("report.html.j2").render(
            report=report,
            view=view,
            words=words,
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
        )
        + "\n"
    )


def _own(name: str) -> str:
    with open(os.path.join(TEMPLATES, name), encoding="utf-8") as file:
        return "\n" + file.read()


def _hash(text: str) -> str:
    """As a policy names the text of an inline element."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


class _View:
    """The report by what the page has in one place."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.drivers = [each["driver"] for each in report["drivers"]]
        machines = {each["machine"] for each in report["kernels"]}
        self.machines = len(machines) > 1
        self.cells = {
            (each["driver"], each["kernel"], each["machine"]): dict(each, id="c%d" % number)
            for number, each in enumerate(report["cells"], 1)
        }
        self.groups: dict[str, list[dict[str, Any]]] = {state: [] for state in STATES}
        for number, group in enumerate(report["groups"], 1):
            self.groups[group["state"]].append(dict(group, id="g%d" % number))
        self.steps = list(words.steps(report))
        self.kinds = words.by_kind(report)
        self.plans = report["rebuild"]
        self.order = STATES

    def kernel(self, release: str, machine: str | None) -> str:
        """A kernel's name; with its machine where the fleet has several."""
        shown = words.name(release)
        return "%s (%s)" % (shown, words.name(machine)) if self.machines and machine else shown

    @staticmethod
    def used(kernel: dict[str, Any]) -> str:
        """On how many hosts a kernel is what."""
        parts = [("next for %s", "next"), ("runs on %s", "running"), ("installed on %s", "installed")]
        parts += [("offered to %s", "offered")] if kernel["offered"] != kernel["next"] else []
        return ", ".join(text % format(kernel[key], ",") for text, key in parts if kernel[key])

    def changed(self) -> bool:
        changes = self.report["changes"]
        return any(changes[key] for key in ("new", "gone", "states", "verdicts", "today")) or any(
            changes[key][which] for key in ("kernels", "builds") for which in ("new", "gone")
        )

    def row(self, kernel: dict[str, Any]) -> list[dict[str, Any] | None]:
        """The cells of a kernel, one a driver."""
        return [self.cells.get((driver, kernel["kernel"], kernel["machine"])) for driver in self.drivers]

    @staticmethod
    def worst(cell: dict[str, Any]) -> str:
        return next(verdict for verdict in (INCOMPATIBLE, UNKNOWN, COMPATIBLE) if cell[verdict])

    def spread(self) -> list[tuple[str, float, float]]:
        """(state, where its part of a bar of 1000 begins, how long it is), for those that are there."""
        found, at = [], 0.0
        every = max(1, self.report["counts"]["hosts"])
        for state in STATES:
            size = 1000 * self.report["counts"][state] / every
            if size:
                found.append((state, round(at, 1), round(size, 1)))
            at += size
        return found

    def indexes(self, group: dict[str, Any]) -> str:
        """The drivers of a group, for the filter."""
        return " ".join(str(self.drivers.index(each["driver"])) for each in group["drivers"])

    @staticmethod
    def verdict(group: dict[str, Any], driver: str, kernel: dict[str, Any]) -> dict[str, Any] | None:
        """Of a kernel that is installed and on offer again, by its state, too."""
        found = [
            each
            for each in group["verdicts"]
            if (each["driver"], each["kernel"]) == (driver, kernel["kernel"])
        ]
        return next(
            (each for each in found if each["state"] == kernel["state"]), found[-1] if found else None
        )

    @staticmethod
    def lost(group: dict[str, Any]) -> list[str]:
        """The drivers that make the group's state what it is."""
        return sorted({each["driver"] for each in group["outcomes"] if each["state"] == group["state"]})

    @staticmethod
    def following(group: dict[str, Any]) -> list[str]:
        return sorted({each["kernel"] for each in group["outcomes"] if each["kernel"]})

    def plan_rows(self, key: str) -> list[tuple[dict[str, Any], Any]]:
        """(plan, one of its ``key``), of all plans."""
        return [(plan, each) for plan in self.plans for each in plan[key]]

    @staticmethod
    def hosts(rows: Iterable[dict[str, Any]]) -> int:
        return len({host for row in rows for host in row["hosts"]})
