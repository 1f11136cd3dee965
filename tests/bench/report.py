# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the benchmarks have in common: how a process is measured, and the page and plot that figures go into.

Seconds are those of processors, user and system, of a process and all its children: what else the machine does
lengthens them little. What is compared takes turns in one run, and medians are compared.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple
from xml.sax.saxutils import escape

# The peak of a child counts what its parent had before exec, so a small process of its own starts and
# measures it.
MEASURE = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) and os.WEXITSTATUS(status) > int(sys.argv[1]) else 0)
"""


class Cost(NamedTuple):
    """``memory`` is the peak of the largest process, in MiB."""

    seconds: float
    memory: float


def cost(argv: Sequence[str], accept: int = 0, **environment: str) -> Cost:
    """Of one run, whose exit status may be up to ``accept``."""
    done = subprocess.run(
        [sys.executable, "-S", "-c", MEASURE, str(accept), *argv],
        check=True,
        stdout=subprocess.PIPE,
        env=dict(os.environ, **environment),
    )
    return Cost(*map(float, done.stdout.split()))


def medians(runs: int, **ways: Callable[[], Cost]) -> Dict[str, Cost]:
    """Of each way, which take turns: the median of the seconds, the largest memory."""
    took: Dict[str, List[Cost]] = {name: [] for name in ways}
    for _unused in range(runs):
        for name, way in ways.items():
            took[name].append(way())
    return {
        name: Cost(statistics.median(each.seconds for each in found), max(each.memory for each in found))
        for name, found in took.items()
    }


class Row(NamedTuple):
    """A figure of ours beside another of the same unit (s, ms, MiB). ``goal``: at least (positive) so many
    times less, or at most (negative) so many times as much; None for one that is only told.
    """

    what: str
    here: float
    unit: str
    peer: str = ""
    beside: float = 0.0
    goal: Optional[float] = None

    @property
    def ratio(self) -> float:
        return self.beside / self.here if self.faster else self.here / self.beside

    @property
    def faster(self) -> bool:
        return (self.goal or 0) > 0

    @property
    def reached(self) -> Optional[float]:
        """1 and more where the goal is reached."""
        if self.goal is None:
            return None
        return self.ratio / self.goal if self.faster else -self.goal / self.ratio

    def cells(self) -> List[str]:
        ratio = "%.3g × %s" % (self.ratio, "less" if self.faster else "as much") if self.beside else ""
        goal = ""
        if self.goal is not None and self.reached is not None:
            goal = "%s %g ×: **%s**" % (
                "≥" if self.faster else "≤",
                abs(self.goal),
                "reached" if self.reached >= 1 else "not reached",
            )
        beside = "%s: %s" % (self.peer, _number(self.beside, self.unit)) if self.peer else ""
        return [self.what, _number(self.here, self.unit), beside, ratio, goal]


class Section(NamedTuple):
    """``points``: lines of a plot, by name, as (x, y); ``axes`` are what x and y are."""

    title: str
    text: str
    rows: List[Row]
    points: Dict[str, List[Tuple[float, float]]] = {}
    axes: Tuple[str, str] = ("", "")

    def markdown(self) -> str:
        lines = ["## " + self.title, "", self.text, ""]
        if self.rows:
            lines += ["| | here | beside | ratio | goal |", "|---|---|---|---|---|"]
            lines += ["| %s |" % " | ".join(row.cells()) for row in self.rows]
        return "\n".join(lines) + "\n"


def _number(value: float, unit: str) -> str:
    return "%s %s" % ("%.0f" % value if value >= 100 else "%.3g" % value, unit)


def machine() -> str:
    """What the figures were measured on, by kind and not by name."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*:\s*(.*)", text, re.MULTILINE)
    memory = re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.MULTILINE)
    depmod = subprocess.run(["depmod", "-V"], stdout=subprocess.PIPE, check=True).stdout.decode()
    return "%s, %d processors, %.0f GiB, Python %s, %s; load at the beginning %.1f" % (
        model.group(1) if model else os.uname().machine,
        os.cpu_count() or 0,
        int(memory.group(1)) / (1 << 20) if memory else 0,
        sys.version.split()[0],
        depmod.splitlines()[0],
        os.getloadavg()[0],
    )


def page(sections: Sequence[Section], on: str, plot: str, command: str) -> str:
    """The document."""
    return "\n".join(
        [
            "# Benchmarks\n",
            "Written by `%s` on %s: figures of one run, each beside its peer in the same run. Seconds are those of processors, user and system,\n"
            "with all children; medians of runs that take turns. MiB are the peak of the largest process.\n"
            % (command, time.strftime("%Y-%m-%d")),
            "Machine: %s.\n" % on,
            "![Each figure that has a goal, and how it grows with hosts](%s)\n" % plot,
            *(section.markdown() for section in sections),
        ]
    )


# The plot

WIDTH, LEFT, BAR, HEAD = 900, 430, 20, 44
FULL = 3.0  # times the goal at which a bar ends
COLOURS = ("#2166ac", "#b2182b", "#4d9221", "#762a83")


def plot(sections: Sequence[Section]) -> str:
    """Bars for rows that have a goal, the goal being one line for all, and below them the lines of points."""
    rows = [row for section in sections for row in section.rows if row.reached is not None]
    drawn, y = [_text(10, 24, "How far each goal is reached (the line is the goal)", "bold")], HEAD
    goal = LEFT + (WIDTH - LEFT - 20) / FULL
    for row in rows:
        reached = row.reached or 0.0
        length = (WIDTH - LEFT - 20) * min(reached, FULL) / FULL
        colour = COLOURS[0] if reached >= 1 else COLOURS[1]
        drawn.append('<rect x="%d" y="%d" width="%.1f" height="14" fill="%s"/>' % (LEFT, y, length, colour))
        drawn.append(_text(LEFT - 8, y + 11, row.what, anchor="end"))
        drawn.append(_text(LEFT + 4, y + 11, "%.3g ×" % row.ratio, colour="#fff"))
        y += BAR
    drawn.append(
        '<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#000" stroke-dasharray="4 3"/>'
        % (goal, goal, HEAD - 6, y)
    )
    for section in sections:
        if section.points:
            drawn.append(_lines(section, y + 30))
            y += 300
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" role="img">\n'
        "<title>Benchmarks of outoftree.kmod</title>\n"
        '<rect width="100%%" height="100%%" fill="#fff"/>\n%s\n</svg>\n'
        % (WIDTH, y + 20, WIDTH, y + 20, "\n".join(drawn))
    )


def _lines(section: Section, top: int) -> str:
    left, right, height = 70, WIDTH - 260, 210
    every = [point for points in section.points.values() for point in points]
    most_x, most_y = max(x for x, _y in every), max(y for _x, y in every)

    def at(x: float, y: float) -> Tuple[float, float]:
        return left + (right - left) * x / most_x, top + 20 + height * (1 - y / most_y)

    drawn = [
        _text(10, top + 4, section.title, "bold"),
        '<polyline points="%d,%d %d,%d %d,%d" fill="none" stroke="#000"/>'
        % (left, top + 20, left, top + 20 + height, right, top + 20 + height),
        _text(right, top + 20 + height + 28, section.axes[0], anchor="end"),
        _text(left + 6, top + 30, section.axes[1]),
    ]
    for number, (name, points) in enumerate(section.points.items()):
        colour = COLOURS[number % len(COLOURS)]
        places = [at(*point) for point in points]
        drawn.append(
            '<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>'
            % (" ".join("%.1f,%.1f" % place for place in places), colour)
        )
        drawn += ['<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>' % (*place, colour) for place in places]
        drawn.append(_text(places[-1][0] + 8, places[-1][1] + 4, name, colour=colour))
    for x in sorted({x for x, _y in every}):
        drawn.append(_text(at(x, 0)[0], top + 20 + height + 14, "%g" % x, anchor="middle"))
    for share in (0.5, 1):
        drawn.append(_text(left - 6, at(0, most_y * share)[1] + 4, "%.3g" % (most_y * share), anchor="end"))
    return "\n".join(drawn)


def _text(
    x: float, y: float, text: str, weight: str = "normal", *, anchor: str = "start", colour: str = "#000"
) -> str:
    return (
        '<text x="%.1f" y="%.1f" font-family="sans-serif" font-size="12" font-weight="%s" text-anchor="%s" fill="%s">%s</text>'
        % (x, y, weight, anchor, colour, escape(text))
    )
