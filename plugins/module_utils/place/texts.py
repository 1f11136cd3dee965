# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What we write into files that are not ours: blocks between marks, the mark of an entry, its trial, the
default that it replaced.

All of it is in comments of a form that every boot loader skips. It says what was added with it and what was
there before, so that whatever is taken out leaves the bytes that were there before. Files of earlier versions
of this collection are read as well: these forms are kept.
"""

import bisect
import json
import re
from typing import Iterator, Optional, Tuple

# on the kernel's command line too; the kernel leaves unknown names with a dot to modules and tells nobody
MARKER = "outoftree.kmod"
HOLDER = MARKER  # of a default that is kept, in the place of a driver's name: none can be called so
_OURS = re.escape(MARKER)

# Within a block there is no other mark: one whose other mark is gone holds nothing, and does not reach to
# that of another block.
_BLOCK = re.compile(
    r"""
    ^\#\#\# [ ]BEGIN [ ]{0} [ ](?P<driver>\S+) [ ](?P<kernel>\S+) (?P<flags>(?:[ ]\+\w+)?) [ ]\#\#\#\n
    (?P<body>(?:(?!\#\#\# [ ](?:BEGIN|END) [ ]{0} [ ]) .*\n)*)
    \#\#\# [ ]END [ ]{0} [ ](?P=driver) [ ](?P=kernel) [ ]\#\#\#\n""".format(_OURS),
    re.M | re.X,
)
_MARK = re.compile(r"^# %s (?P<driver>\S+) (?P<kernel>\S+)$" % _OURS, re.M)
_TRIAL = re.compile(r"^# %s trial ((?:started|passed|idle) [0-9a-f]{64})\n" % _OURS, re.M)
_REMEMBERED = re.compile(r"^# %s default(?P<old>.*)\n" % _OURS, re.M)
_WITH_FILE = "+file"
# a file of ours: which shipped entry is kept the default (see boot/hold.py)
KEPT = "/var/lib/outoftree-kmod/default"


# Blocks. The first one in a file says in its mark what else was added with it: ``+file`` the file itself,
# ``+newline`` an end for the
# last line before it.


class Spans:
    """What a pattern finds in a text, by position."""

    def __init__(self, text: str, pattern: "re.Pattern[str]" = _BLOCK) -> None:
        self.found = list(pattern.finditer(text))
        self.starts = [each.start() for each in self.found]

    def at(self, position: int) -> Optional["re.Match[str]"]:
        """What is found around a position."""
        index = bisect.bisect(self.starts, position) - 1
        return self.found[index] if index >= 0 and position < self.found[index].end() else None


def whose(block: Optional["re.Match[str]"]) -> Tuple[Optional[str], Optional[str]]:
    """The driver and the kernel that a block or a mark is for, twice None where there is none."""
    return (block.group("driver"), block.group("kernel")) if block else (None, None)


def blocks(text: str) -> Iterator["re.Match[str]"]:
    return _BLOCK.finditer(text)


def block(text: str, driver: str, kernel: str) -> Optional["re.Match[str]"]:
    return next((each for each in blocks(text) if whose(each) == (driver, kernel)), None)


def without_blocks(text: str) -> str:
    return _BLOCK.sub("", text)


def put(text: Optional[str], driver: str, kernel: str, *, body: str) -> str:
    """The text with our block: in place of the one that is there, else at the end.

    Further ones, which somebody copied, go.
    """
    there = [each for each in blocks(text or "") if whose(each) == (driver, kernel)]
    for each in there[:0:-1]:
        text = each.string[: each.start()] + (text or "")[each.end() :]
    if there:
        return (text or "")[: there[0].start("body")] + body + (text or "")[there[0].end("body") :]
    flags = " " + _WITH_FILE if text is None else "" if not text or text.endswith("\n") else " +newline"
    name = "%s %s %s" % (MARKER, driver, kernel)
    return "%s%s### BEGIN %s%s ###\n%s### END %s ###\n" % (
        text or "",
        "\n" if flags == " +newline" else "",
        name,
        flags,
        body,
        name,
    )


def cut(text: str, driver: str, kernel: str) -> Optional[str]:
    """The text without our block, None where the file itself came with it."""
    there = next(each for each in blocks(text) if whose(each) == (driver, kernel))
    before, after, flags = text[: there.start()], text[there.end() :], there.group("flags")
    following = _BLOCK.search(after)
    if flags and following:  # what was added for this one serves the next
        return before + after[: following.start("flags")] + flags + after[following.end("flags") :]
    if flags == " +newline" and not after:
        return before[:-1]
    return None if flags == " " + _WITH_FILE and not before + after else before + after


# Entries


def mark(driver: str, kernel: str) -> str:
    """The comment that says whose an entry is that has a file of its own."""
    return "# %s %s %s\n" % (MARKER, driver, kernel)


def marked(text: str) -> Optional["re.Match[str]"]:
    """That comment in an entry's file."""
    return _MARK.search(text)


def trial_comment(trial: str) -> str:
    """The comment beside an entry that remembers its trial, "" where there is nothing to remember.

    It goes with the entry.
    """
    return "# %s trial %s\n" % (MARKER, trial) if trial else ""


def trial(text: str) -> str:
    """What that comment says: "started", "passed" or "idle", and the digest of what was tried; "" where there
    is none.
    """
    found = _TRIAL.search(text)
    return found.group(1) if found else ""


def without_trial(text: str) -> str:
    return _TRIAL.sub("", text)


# The default. The one that ours replaced stands in a comment above it: ``+file`` if the file came with ours,
# nothing if there was none.


def with_default(text: Optional[str], old: Optional["re.Match[str]"], line: str) -> str:
    """The text with another default: ``line`` in place of the ``old`` one, which is remembered unless one is
    already.
    """
    if text is None:
        return "# %s default %s\n%s" % (MARKER, _WITH_FILE, line)
    if old is None:
        return "# %s default\n%s%s" % (MARKER, line, text)
    remembered = "" if _REMEMBERED.search(text) else "# %s default %s" % (MARKER, old.group())
    return text[: old.start()] + remembered + line + text[old.end() :]


def remembered_default(
    text: str, pattern: "re.Pattern[str]", end: Optional[int] = None
) -> Optional["re.Match[str]"]:
    """The default of ours, as ``pattern`` finds it behind what is remembered; None where nothing is
    remembered.
    """
    remembered = _REMEMBERED.search(text)
    return pattern.search(text, remembered.end(), len(text) if end is None else end) if remembered else None


def with_old_default(text: str, ours: "re.Match[str]") -> Optional[str]:
    """The text with the default that is remembered in place of ours (see ``remembered_default``); None where
    the file came with ours.
    """
    remembered = _REMEMBERED.search(text)
    if remembered is None:
        return text
    old = remembered.group("old")[1:]
    whole = (
        text[: remembered.start()] + (old + "\n" if old and old != _WITH_FILE else "") + text[ours.end() :]
    )
    return None if old == _WITH_FILE and not whole else whole


def kept(text: Optional[str]) -> str:
    """The id of the shipped entry that is kept the default, by the file KEPT; "" where none is."""
    try:
        return str(json.loads(text or "{}").get("id", ""))
    except (ValueError, AttributeError, RecursionError):
        return ""
