# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Blocks of ours in a file that is not ours: each between two marks that say whose it is, in comments of a
form that all loaders skip.

The first block says in its mark what else was added with it: ``+file`` the file itself, ``+newline`` an end
for the last line before it. So whatever is taken out leaves the bytes that were there before.
"""

import bisect
import re
from typing import Iterator, Optional, Tuple

from ...errors import KmodError
from .menu import MARKER, Entry, Loader, New, View

# Within a block there is no other mark: one whose other mark is gone holds nothing, and does not reach to
# that of another block.
_BLOCK = re.compile(
    r"""
    ^\#\#\# [ ]BEGIN [ ]{0} [ ](?P<driver>\S+) [ ](?P<kernel>\S+) (?P<flags>(?:[ ]\+\w+)?) [ ]\#\#\#\n
    (?P<body>(?:(?!\#\#\# [ ](?:BEGIN|END) [ ]{0} [ ]) .*\n)*)
    \#\#\# [ ]END [ ]{0} [ ](?P=driver) [ ](?P=kernel) [ ]\#\#\#\n""".format(re.escape(MARKER)),
    re.M | re.X,
)


class Spans:
    """What a pattern finds in a text, by position."""

    def __init__(self, text: str, pattern: "re.Pattern[str]" = _BLOCK) -> None:
        self.found = list(pattern.finditer(text))
        self.starts = [each.start() for each in self.found]

    def at(self, position: int) -> Optional["re.Match[str]"]:
        """What is found around a position."""
        index = bisect.bisect(self.starts, position) - 1
        return self.found[index] if index >= 0 and position < self.found[index].end() else None


def whose(block: "re.Match[str]") -> Tuple[str, str]:
    """The driver and the kernel that a block is for."""
    return block.group("driver"), block.group("kernel")


def each(text: str) -> Iterator["re.Match[str]"]:
    return _BLOCK.finditer(text)


def without(text: str) -> str:
    return _BLOCK.sub("", text)


def put(text: Optional[str], driver: str, kernel: str, body: str) -> str:
    """The text with our block: in place of the one that is there, else at the end.

    Further ones, which somebody copied, go.
    """
    there = [block for block in _BLOCK.finditer(text or "") if whose(block) == (driver, kernel)]
    for block in there[:0:-1]:
        text = block.string[: block.start()] + (text or "")[block.end() :]
    if there:
        return (text or "")[: there[0].start("body")] + body + (text or "")[there[0].end("body") :]
    flags = " +file" if text is None else "" if not text or text.endswith("\n") else " +newline"
    mark = "%s %s %s" % (MARKER, driver, kernel)
    return "%s%s### BEGIN %s%s ###\n%s### END %s ###\n" % (
        text or "",
        "\n" if flags == " +newline" else "",
        mark,
        flags,
        body,
        mark,
    )


def cut(text: str, driver: str, kernel: str) -> Optional[str]:
    """The text without our block, None where the file itself came with it."""
    block = next(block for block in _BLOCK.finditer(text) if whose(block) == (driver, kernel))
    before, after, flags = text[: block.start()], text[block.end() :], block.group("flags")
    following = _BLOCK.search(after)
    if flags and following:  # what was added for this one serves the next
        return before + after[: following.start("flags")] + flags + after[following.end("flags") :]
    if flags == " +newline" and not after:
        return before[:-1]
    return None if flags == " +file" and not before + after else before + after


# Loaders with one file for all entries


def whole(view: View, loader: Loader) -> str:
    text = view.text(loader.config)
    if text is None:
        raise KmodError(
            loader.config, "is not there", "Name the loader that the host boots with", "CONFIG_MISSING"
        )
    return text


def add(view: View, loader: Loader, new: New, body: str) -> None:
    view.put(loader.config, put(whole(view, loader), new.driver, new.kernel, body))


def drop(view: View, loader: Loader, entry: Entry) -> None:
    view.put(loader.config, cut(whole(view, loader), entry.driver or "", entry.kernel or ""))
