# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the log of a build that failed says: the first errors, and whether the source is to blame for them."""

import re
from typing import List

from ..errors import printable
from .sandbox import said

ERRORS = 5  # lines that are told
_ERROR = re.compile(
    r"(?:fatal error|(?<!\w)error|ERROR|Error \d+|\*\*\*)[: ]|: not found|No such file|undefined!|cannot |FAILED|Killed"
)
# What tools say at the end of a line, which gcc shows no source in.
_LIMITS = {
    "memory": re.compile(
        r"^(?!\s*\d* \|).*(?:out of memory allocating \d+ bytes.*|virtual memory exhausted.*|memory exhausted"
        r"|Cannot allocate memory|std::bad_alloc)$",
        re.M,
    ),
    "size": re.compile(
        r"^(?!\s*\d* \|).*(?:File size limit exceeded|File too large)(?: \(core dumped\))?$", re.M
    ),
}
_MACHINES = re.compile(
    r"^(?!\s*\d* \|).*(?:: No space left on device|: Disk quota exceeded|: Resource temporarily unavailable"
    r"|Killed signal terminated program \S+|\*\*\* \[.*\] Killed)$",
    re.M,
)
# "recipe failed" lines say nothing that the lines before them have not said
_ECHO = re.compile(r"^(?:make|gmake)(?:\[\d+\])?: \*\*\* (?:\[|Waiting for unfinished)")


def limit(log: str) -> str:
    """Which limit a build has come up against by itself, "" for none."""
    return next((name for name, line in _LIMITS.items() if line.search(_lines(log))), "")


def starved(log: str) -> str:
    """The line of a log by which the machine had no room, memory or processes left, which says nothing of the
    source; "" where there is none.
    """
    found = _MACHINES.search(_lines(log))
    return printable(found.group().strip())[-300:] if found else ""


def _lines(log: str) -> str:
    return said(log).decode("utf-8", "replace")


def errors(log: str, below: str) -> List[str]:
    """The first lines of a log that say what is wrong, with paths from the source's root."""
    found: List[str] = []
    echoes: List[str] = []
    for line in _lines(log).splitlines():
        if _ERROR.search(line) and not line.startswith("### "):  # a step of ours, as its conf has it
            text = printable(line.replace(below, "").strip())[:300]
            into = echoes if _ECHO.match(line) else found
            if text not in into:
                into.append(text)
    return (found or echoes or last(log))[:ERRORS]


def last(log: str) -> List[str]:
    lines = _lines(log).split("\n")
    return [printable(line.strip())[:300] for line in lines if line.strip()][-ERRORS:]
