# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What kmodctl prints, and its standard streams."""

import contextlib
import os
import sys
from typing import Sequence

from .errors import KmodError, printable

WEAK_MODULES = "weak-modules"  # the command with a door, and a name, of its own: see weak_modules.py
WEAK_MODULES2 = "weak-modules2"  # SUSE's, likewise


def open_streams() -> None:
    """Closed standard streams become /dev/null, before a host's file gets one of their numbers, which tools
    write to.
    """
    while True:
        handle = os.open(os.devnull, os.O_RDWR)
        if handle > 2:
            os.close(handle)
            break
        os.set_inheritable(handle, True)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  # for as long as we run
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def say(text: str) -> None:
    try:
        sys.stdout.buffer.write(
            b"".join(printable(line).encode("utf-8") + b"\n" for line in text.split("\n"))
        )
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough
        raise
    except OSError as error:
        raise KmodError(
            "standard output",
            "cannot be written: %s. What was asked for is done, the answer alone is lost" % error.strerror,
            "Run again with --check to see it",
            "OUTPUT_LOST",
        ) from None


def let_go() -> None:
    """What could not be written is not tried again at the exit."""
    with contextlib.suppress(OSError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115


def warn(text: str) -> None:
    """A line on standard error."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write("kmodctl: %s\n" % printable(text))


def columns(rows: Sequence[Sequence[str]]) -> str:
    """One line a row, all columns but the last of one width."""
    widths = [max(len(text) for text in column) for column in list(zip(*rows))[:-1]]
    return "\n".join(
        "  ".join([text.ljust(width) for text, width in zip(row, widths)] + [row[-1]]).rstrip()
        for row in rows
    )
