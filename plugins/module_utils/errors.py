# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The one exception that the core raises on purpose. All of module_utils is private to this collection."""

import contextlib
import errno
import os
import re
from typing import Iterator, Optional


class KmodError(Exception):
    """A request that cannot be carried out: names the file, the reason and the next step.

    ``code`` is a stable reason code (such as ``COMP_CORRUPT``) for callers that must tell failures apart.
    """

    def __init__(self, what: str, why: str, then: str = "", code: str = "ERROR") -> None:
        super().__init__(printable("%s: %s%s" % (what, why, ". " + then if then else "")))
        self.what = what
        self.why = why
        self.then = then
        self.code = code


class DamagedError(Exception):
    """What a decoder says of data that it cannot decode."""


class SystemFailed(KmodError):
    """A call to the system failed for a reason that says nothing of what was asked for (EIO, no open files
    left): the next time it may not.
    """


class MarkNewer(SystemFailed):
    """Something of ours was written by a newer version: nothing is decided by what this one would make of it."""

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            path,
            "was written by a newer version of outoftree.kmod (format %d; this one reads %d)"
            % (found, known),
            "Use the newer version: run the role again from where it is, which sends its kmodctl too",
            "MARK_NEWER",
        )


# What ends the whole run, and not one driver's or kernel's part of it
ENDS_ALL = ("LOCKED", "INTERRUPTED", "MARK_NEWER")


class Interrupted(BaseException):
    """A signal that asks the run to end.

    No Exception, so that nobody takes it for something of a host's that can be done without.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def as_error(self) -> KmodError:
        return KmodError(
            "signal %d" % self.number,
            "this run was ended, and has taken back what it had done",
            "Run again",
            "INTERRUPTED",
        )


@contextlib.contextmanager
def forgiving() -> Iterator[None]:
    """Go on without what is not there, damaged or not ours to read; but nothing is decided where the system
    itself failed.
    """
    try:
        yield
    except SystemFailed:
        raise
    except KmodError:
        pass


def printable(text: str) -> str:
    """The text as one line that a terminal shows as it is: what would steer it, or is no text at all, is
    written as an escape.
    """
    if text.isprintable():  # nearly all
        return text
    return re.sub(
        r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]",
        lambda odd: ascii(odd.group())[1:-1],
        text,
    )


_NEXT_STEP = {
    "ENOSPC": "Free space on that file system and run again",
    "EDQUOT": "Free space on that file system and run again",
    "EROFS": "The file system is mounted read-only: remount it read-write and run again",
    "EACCES": "Run with more privileges (become: true)",
    "EPERM": "Run with more privileges (become: true)",
    "ENOENT": "Check the path",
    "EMFILE": "Raise the limit of open files (ulimit -n) and run again",
    "ENFILE": "The machine has no open files left: end what keeps so many open and run again",
    "ENAMETOOLONG": "Give it a shorter name",
    "EIO": "The disk cannot be read or written there: look at the kernel's log",
}


# these say what is there
_TELLING = ("ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG", "ENXIO", "EINVAL")


def from_oserror(path: str, error: OSError, doing: str) -> KmodError:
    """The KmodError for a system call that failed while ``doing`` something with ``path``."""
    name = errno.errorcode.get(error.errno or 0, "EIO")
    code = {"ENOENT": "PATH_MISSING", "ELOOP": "PATH_LOOP"}.get(name, name)
    step: Optional[str] = _NEXT_STEP.get(name)
    tells = name in _TELLING or (name in ("EACCES", "EPERM") and os.geteuid() != 0)
    return (KmodError if tells else SystemFailed)(
        path, "cannot %s: %s" % (doing, error.strerror or error), step or "", code
    )
