# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a large fleet costs, computed from the slopes that were measured on a small one."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from tests.bench.bench_hosts import ROLE_TASKS, Slopes
from tests.bench.report import Row, Section

FLEET = 10000
PROCESSORS = (2, 8, 32)
FORKS = (10, 50, 200)
SLICES = (1, 4, 16)
TEXT = Path(__file__).with_name("scale.md")
ROUND_TRIP = 0.05  # seconds, of a network between controller and hosts
TRIPS = 4  # of a task by ssh with pipelining and a connection that is kept: to open, to run, to answer, and one to spare


def page(slopes: Slopes, sections: Sequence[Section], on: str) -> str:
    rows = {row.what: row for section in sections for row in section.rows}
    sent = rows["what is sent with a task"].here
    settled, look = rows["a task, nothing touched"], rows["a task that looks at everything"]
    work = slopes.role - settled.here  # of a host's seconds those that the controller itself spends
    return TEXT.read_text() % {
        "fleet": FLEET,
        "on": on,
        "role": slopes.role,
        "ping": slopes.ping,
        "task": settled.here,
        "look": look.here,
        "work": work,
        "driver": slopes.driver * 1000,
        "kernel": slopes.kernel * 1000,
        "sent": sent,
        "ping_sent": rows["what is sent with a task"].beside,
        "all_sent": sent * FLEET / 1e6,
        "cpu": work * FLEET / 3600,
        "cpu_ping": (slopes.ping - settled.beside) * FLEET / 3600,
        "tasks": ROLE_TASKS,
        "memory": _memory(rows),
        "own": slopes.own * 1000,
        "table": _table(work, slopes.own, settled.here),
        "slices": _slices(work, slopes.own, settled.here),
    }


def _memory(rows: dict[str, Row]) -> str:
    found = next(row for what, row in rows.items() if what.startswith("controller's memory"))
    return "%.0f MiB (%s; ping: %.0f MiB)" % (found.here, found.what.partition(", ")[2], found.beside)


def minutes(work: float, own: float, task: float, processors: int, forks: int, hosts: int = FLEET) -> float:
    """The longest of: the one process that hands out tasks, the controller's work on its processors, and hosts
    that are waited for, ``forks`` at a time.
    """
    waiting = (work + task + ROUND_TRIP * TRIPS) / forks
    return hosts * max(own, work / processors, waiting) / 60


def _table(work: float, own: float, task: float) -> str:
    lines = ["| | %s |" % " | ".join("%d forks" % forks for forks in FORKS), "|---" * (len(FORKS) + 1) + "|"]
    for processors in PROCESSORS:
        cells = ["%.0f min" % minutes(work, own, task, processors, forks) for forks in FORKS]
        lines.append("| %d processors | %s |" % (processors, " | ".join(cells)))
    return "\n".join(lines)


def _slices(work: float, own: float, task: float) -> str:
    lines = ["| slices | each |", "|---|---|"]
    for slices in SLICES:
        lines.append("| %d | %.0f min |" % (slices, minutes(work, own, task, 8, 50, FLEET // slices)))
    return "\n".join(lines)
