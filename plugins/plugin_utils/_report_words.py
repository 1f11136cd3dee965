# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words of the fleet report, for people: what its codes are called, and what is to be done."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import printable
from ansible_collections.outoftree.kmod.plugins.plugin_utils._fleet import LACKS, LOSES, UNTOLD, WELL
from ansible_collections.outoftree.kmod.plugins.plugin_utils._records import COMPATIBLE, INCOMPATIBLE, UNKNOWN
from ansible_collections.outoftree.kmod.plugins.plugin_utils._report import Report


class Word(NamedTuple):
    """A state or verdict: its sign, as a label, and what is said of one host and of several."""

    sign: str
    label: str
    one: str
    many: str


STATES = {
    LOSES: Word("✕", "Lose a driver", "loses a driver", "lose a driver"),
    LACKS: Word("–", "Lack a driver already", "lacks a driver already", "lack a driver already"),
    UNTOLD: Word("?", "Cannot be told", "cannot be told", "cannot be told"),
    WELL: Word("✓", "Stay well", "stays well", "stay well"),
}
VERDICTS = {
    INCOMPATIBLE: Word("✕", "Refused", "refuses it", "refuse it"),
    UNKNOWN: Word("?", "Cannot be told", "cannot be told", "cannot be told"),
    COMPATIBLE: Word("✓", "Taken", "takes it", "take it"),
}


class Kind(NamedTuple):
    title: str
    then: str  # what to do


KINDS = {
    "build_failed": Kind("Builds that failed", "Read the log, mend the source, and rebuild."),
    "canary_failed": Kind("Where the canary ended", "No other host was updated: see what went wrong there."),
    "broken_entry": Kind(
        "Boot entries that start what is missing", "Deploy the driver again: it mends them."
    ),
    "trial_failed": Kind("Failed trials", "Look at the journal of that boot, and deploy a corrected driver."),
    "damaged_image": Kind("Damaged images", "Deploy the driver again: it makes the image again."),
    "no_build": Kind("Kernels without a build", "See the rebuild list."),
    "dangling_link": Kind("Dangling links", "Deploy the driver again: it mends them."),
    "stale_image": Kind("Stale images", "Deploy the driver again: it makes the image again."),
    "not_followed": Kind(
        "Kernels that do not use a build that fits", "Deploy the driver again, with kmod_follow."
    ),
    "pending": Kind("What hooks could not do", "See kmodctl status there; the next boot tries it again."),
    "reboot_pending": Kind("Pending reboots", "Reboot when it suits."),
    "lists_unread": Kind("Package lists that could not be read", "Ask the package manager there by hand."),
    "lists_old": Kind("Old package lists", "Update them (apt-get update, dnf makecache), and look again."),
    "left_over": Kind("Left over from kernels that are gone", "The next deploy removes it."),
}


def kind(name: str) -> Kind:
    return KINDS.get(name) or Kind(name.replace("_", " ").capitalize(), "")


def by_kind(report: Report) -> list[tuple[str, list[dict[str, Any]], int]]:
    """(kind, its rows, on how many hosts), the most urgent first, and what has no word here last."""
    order = list(KINDS)
    kinds = {row["kind"] for row in report["today"]}
    found = []
    for name in sorted(kinds, key=lambda name: (order.index(name) if name in KINDS else len(order), name)):
        rows = [row for row in report["today"] if row["kind"] == name]
        found.append((name, rows, len({host for row in rows for host in row["hosts"]})))
    return found


class Step(NamedTuple):
    """One thing to do: what, why, and the part of the report that says more.

    ``urgent``: it is about the next kernel, and not about how things are today.
    """

    what: str
    why: str
    part: str
    urgent: bool = True


def steps(report: Report) -> Iterator[Step]:
    """What to do, the most urgent first; nothing where all is well."""
    found = report["counts"]
    if found[WELL] and not report["drivers"]:
        yield Step(
            "Deploy a driver, or name one",
            "No host has a driver that this collection has deployed, so nothing was judged. kmod_driver and kmod_src ask about one "
            "that is not deployed yet.",
            WELL,
        )
    open_ = found[LOSES] - found["held"]
    if open_:
        yield Step(
            "Do not update %s yet" % count(open_, "host"),
            "%s a driver with the next kernel, and nothing is held back there."
            % verb(open_, "It loses", "They lose"),
            LOSES,
        )
    builds = [build for plan in report["rebuild"] for build in plan["builds"]]
    if builds:
        serves = sum(len(build["serves"]) for build in builds)
        yield Step(
            "Make %s" % count(len(builds), "build"),
            "No build of the fleet fits %s. The rebuild list says what to build for."
            % count(serves, "kernel"),
            "rebuild",
        )
    deploy = {host for plan in report["rebuild"] for each in plan["deploy"] for host in each["hosts"]}
    if deploy:
        yield Step(
            "Deploy builds that exist to %s" % count(len(deploy), "host"),
            "Another host has a build that fits; there is nothing to compile.",
            "deploy",
        )
    elsewhere = {host for plan in report["rebuild"] for each in plan["elsewhere"] for host in each["hosts"]}
    if elsewhere:
        yield Step(
            "Look at keys and settings of %s" % count(len(elsewhere), "host"),
            "A kernel there refuses the driver for what no other build changes.",
            "elsewhere",
        )
    if found[LACKS]:
        yield Step(
            "Mend %s" % count(found[LACKS], "host"),
            "The kernel that runs there refuses a driver, and so does the next one.",
            LACKS,
        )
    if found[UNTOLD]:
        yield Step(
            "Find out about %s" % count(found[UNTOLD], "host"),
            "What the next kernel does there cannot be told.",
            UNTOLD,
        )
    for number, (each, _rows, hosts) in enumerate(by_kind(report)):
        yield Step(
            "%s on %s" % (name(kind(each).title), count(hosts, "host")),
            kind(each).then,
            "today-%d" % number,
            False,
        )


def count(number: int, noun: str) -> str:
    return "%s %s%s" % (format(number, ","), noun, "" if number == 1 else "s")


def verb(number: int, one: str, many: str) -> str:
    return one if number == 1 else many


def moment(at: str) -> str:
    """A time of a record as people write it; what is no time is left as it is."""
    try:
        parsed = datetime.datetime.fromisoformat(at.replace("Z", "+00:00"))
    except ValueError:
        return at
    zone = "" if parsed.tzinfo is None else " UTC"
    if parsed.tzinfo is not None:
        parsed = parsed.astimezone(datetime.timezone.utc)
    return "%d %s, %s%s" % (parsed.day, parsed.strftime("%B %Y"), parsed.strftime("%H:%M"), zone)


def name(text: Any, most: int = 100) -> str:
    """A name from a host as it can be shown: in one line, and not without end (all of it is in report.json)."""
    shown = printable(str(text))
    return shown if len(shown) <= most else "%s…%s" % (shown[: most - 13], shown[-12:])


def some(items: Sequence[str], most: int) -> tuple[list[str], int]:
    """The first of them, and how many more there are."""
    return list(items[:most]), max(0, len(items) - most)
