# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``report.md``: the short form, for a terminal, a mail or an issue. Names from hosts are escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from ansible_collections.outoftree.kmod.plugins.plugin_utils import _report_words as words
from ansible_collections.outoftree.kmod.plugins.plugin_utils._fleet import STATES, WELL
from ansible_collections.outoftree.kmod.plugins.plugin_utils._report import Report

HOSTS = 5  # that are named where hosts are listed


def rendered(report: Report) -> str:
    parts = [
        _head(report),
        _steps(report),
        _groups(report),
        _rebuild(report),
        _changes(report),
        _today(report),
    ]
    parts.append(_held(report))
    return "\n\n".join("\n".join(part) for part in map(list, parts) if part) + "\n"


def _head(report: Report) -> Iterator[str]:
    counts = report["counts"]
    yield "# Drivers and kernels of the fleet"
    yield ""
    yield "%s, %s, %s%s." % (
        words.count(counts["hosts"], "host"),
        words.count(len(report["drivers"]), "driver"),
        words.count(len(report["kernels"]), "kernel"),
        ", as of " + plain(words.moment(report["at"])) if report["at"] else "",
    )
    yield ""
    before = (report["changes"] or {}).get("counts")
    yield from _table(
        ["After the next kernel update", "Hosts", *(["Before"] if before else [])],
        [
            ["%s %s" % (words.STATES[state].sign, words.STATES[state].label), _number(counts[state])]
            + ([_number(before[state])] if before else [])
            for state in STATES
        ],
        numbers=(1, 2),
    )


def _steps(report: Report) -> Iterator[str]:
    yield "## What to do"
    yield ""
    steps = ["- **%s.** %s" % (plain(step.what), step.why) for step in words.steps(report)]
    if report["counts"]["hosts"]:
        yield from steps or ["Nothing. Every host keeps its drivers with its next kernel."]
    else:
        yield "There are no hosts in this report."


def _groups(report: Report) -> Iterator[str]:
    bad = [group for group in report["groups"] if group["state"] != WELL]
    if bad:
        yield "## Hosts that do not stay well"
        yield ""
        rows: dict[tuple[str, ...], list[str]] = {}
        for group in bad:
            lost = [each for each in group["outcomes"] if each["state"] == group["state"]]
            told = (
                words.STATES[group["state"]].label + (" (held back)" if group["held"] else ""),
                _names({each["driver"] for each in lost}),
                _names({each["kernel"] for each in lost if each["kernel"]}),
                plain(group["error"]) if group["error"] is not None else _why(group, lost),
            )
            rows.setdefault(told, []).extend(group["hosts"])
        yield from _table(
            ["State", "Driver", "Next kernel", "Why", "Hosts"],
            [[*told, _hosts(hosts)] for told, hosts in rows.items()],
        )


def _why(group: dict[str, Any], lost: Sequence[dict[str, Any]]) -> str:
    pairs = {(each["driver"], each["kernel"]) for each in lost}
    codes, symbols = [], []
    for each in group["verdicts"]:
        if (each["driver"], each["kernel"]) in pairs:
            codes += [code for code in each["codes"] if code not in codes]
            symbols += [symbol for symbol in each["symbols"] if symbol not in symbols]
    shown, more = words.some(symbols, 3)
    text = ", ".join(map(plain, codes))
    text += ": " + ", ".join(map(plain, shown)) if shown else ""
    return text + (" and %d more" % more if more else "")


def _rebuild(report: Report) -> Iterator[str]:
    yield "## Rebuild list"
    yield ""
    rows = [
        [
            _driver(plan),
            plain(build["release"]),
            ", ".join(map(plain, build["serves"])),
            "yes" if build["certain"] else "build it, then plan again",
            _number(build["hosts"]),
        ]
        for plan in report["rebuild"]
        for build in plan["builds"]
    ]
    if rows:
        yield from _table(["Driver", "Build for", "Serves", "Certain", "Hosts that wait"], rows, numbers=(4,))
    else:
        yield "Nothing has to be built."
    for key, title, sentence in (
        ("deploy", "Builds that exist, and are not everywhere yet", "the build for %(build)s fits"),
        ("elsewhere", "Refused for what no build changes", "look at keys, settings and names"),
    ):
        lines = [
            "- %s on %s: %s; %s"
            % (
                _driver(plan),
                plain(row["kernel"]),
                sentence % {name: plain(value) for name, value in row.items()},
                _hosts(row["hosts"]),
            )
            for plan in report["rebuild"]
            for row in plan[key]
        ]
        if lines:
            yield from ("", "### " + title, "", *lines)
    lines = [
        "- %s for %s: %s" % (_driver(plan), plain(row["kernel"] if key == "ambiguous" else row), why)
        for plan in report["rebuild"]
        for key, why in (
            ("impossible", "there are no headers to build with"),
            ("untold", "too little is known of this kernel"),
            ("ambiguous", "there are several kernels of this name, which differ"),
        )
        for row in plan[key]
    ]
    if lines:
        yield from ("", "### Kernels without a plan", "", *lines)


def _changes(report: Report) -> Iterator[str]:
    changes = report["changes"]
    if changes is None:
        return
    yield "## What changed" + (" since " + plain(words.moment(changes["at"])) if changes["at"] else "")
    yield ""
    lines = [
        "- %s, before: %s; %s"
        % (
            words.STATES[row["now"]].label,
            words.STATES[row["before"]].label.lower(),
            _hosts(row["hosts"]),
        )
        for row in changes["states"]
    ]
    for key, which, text in (
        ("kernels", "new", "New kernels"),
        ("kernels", "gone", "Kernels that are gone"),
        ("builds", "new", "New in the rebuild list"),
        ("builds", "gone", "No longer in the rebuild list"),
    ):
        if changes[key][which]:
            found = [" ".join(plain(word) for word in each if word) for each in changes[key][which]]
            lines.append("- %s: %s" % (text, "; ".join(found)))
    lines += [
        "- %s: %s, before %s"
        % (plain(words.kind(row["kind"]).title), words.count(row["now"], "host"), _number(row["before"]))
        for row in changes["today"]
    ]
    lines += ["- New: " + _hosts(changes["new"])] if changes["new"] else []
    lines += ["- No longer in the report: " + _hosts(changes["gone"])] if changes["gone"] else []
    yield from lines or ["Nothing that these numbers show."]


def _today(report: Report) -> Iterator[str]:
    yield "## Today, as it is"
    yield ""
    if not report["today"]:
        yield "Nothing that somebody should look at."
    for kind, rows, hosts in words.by_kind(report):
        word = words.kind(kind)
        yield "- **%s** on %s. %s" % (plain(word.title), words.count(hosts, "host"), word.then)
        shown, more = words.some(rows, 10)
        for row in shown:
            about = [plain(row[key]) for key in ("driver", "kernel") if row[key]]
            yield "  - %s%s %s" % (", ".join(about), ":" if about else "", plain(row["text"], 400)) + (
                " (%s)" % _hosts(row["hosts"])
            )
        if more:
            yield "  - and %d more, in report.json" % more


def _held(report: Report) -> Iterator[str]:
    yield "## Held back"
    yield ""
    if not report["held"]:
        yield "Nothing is held back."
    for row in report["held"]:
        what = {"kernel": "Updates of the kernel", "default": "What boots start"}.get(
            row["what"], row["what"]
        )
        yield "- %s%s for %s: %s (%s)" % (
            plain(what),
            ", " + plain(row["kernel"]) if row["kernel"] else "",
            _names(row["driver"]) or "all drivers",
            plain(row["reason"], 400),
            _hosts(row["hosts"]),
        )


def plain(text: Any, most: int = 100) -> str:
    """A text from a host in Markdown, in one line, that means nothing there but itself."""
    special = r"[\\`*{}\[\]<>#|~&!$@]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])"
    return re.sub(special, r"\\\g<0>", words.name(text, most))


def _names(names: Any) -> str:
    return ", ".join(plain(name) for name in sorted(names))


def _driver(plan: dict[str, Any]) -> str:
    return " ".join(plain(plan[key]) for key in ("driver", "version", "machine") if plan[key])


def _hosts(hosts: Sequence[str]) -> str:
    shown, more = words.some(hosts, HOSTS)
    names = ", ".join(map(plain, shown)) + (", ..." if more else "")
    return "%s: %s" % (words.count(len(hosts), "host"), names)


def _number(number: int) -> str:
    return format(number, ",")


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> Iterator[str]:
    yield "| %s |" % " | ".join(heads)
    yield "|%s|" % "|".join("---:" if at in numbers else "---" for at in range(len(heads)))
    for row in rows:
        yield "| %s |" % " | ".join(row)
