# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Runs a function in a child process, with its system calls and those of its tools numbered and with faults
at chosen numbers (fault.c).
"""

import ctypes
import errno
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple

CHANGE, READ, START = 1, 2, 4
NONE, FAIL, FAIL_FROM, KILL_BEFORE, KILL_AFTER, KILL_RUN, SIGNAL = range(7)
_CHANGING = ctypes.CFUNCTYPE(
    None, ctypes.c_int, ctypes.c_long, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p
)


class Call(NamedTuple):
    """A system call of a run."""

    number: int  # from 1
    kind: int  # CHANGE, READ or START
    name: str
    tool: bool  # whether a tool made it, not the run itself
    path: str
    path2: str  # of a rename or link: the new name


class Fault(NamedTuple):
    """What happens at a call."""

    at: int
    what: int
    error: int = 0  # errno, or signal


class Ended(NamedTuple):
    """How a run came to its end."""

    status: Optional[int]  # its exit status, None if it was killed
    out: str
    err: str
    calls: int
    outlived: int  # tools that were left when the run had ended
    late: bool  # killed since it did not end


class _Plan(ctypes.Structure):
    _fields_ = [
        ("places", ctypes.c_char_p),
        ("log", ctypes.c_char_p),
        ("at", ctypes.c_long * 2),
        ("fault", ctypes.c_int * 2),
        ("error", ctypes.c_int * 2),
        ("kinds", ctypes.c_int),
        ("limit", ctypes.c_int),
        ("changing", _CHANGING),
        ("count", ctypes.c_long),
        ("status", ctypes.c_int),
        ("outlived", ctypes.c_int),
        ("late", ctypes.c_int),
    ]


_library: Any = None


def build() -> None:
    """Compile the shim. Error: OSError, subprocess.CalledProcessError where there is no C compiler or another
    processor.
    """
    global _library
    source = Path(__file__).with_name("fault.c")
    with tempfile.TemporaryDirectory(prefix="crash-") as directory:
        made = os.path.join(directory, "fault.so")
        subprocess.run(["cc", "-O2", "-Wall", "-shared", "-fPIC", "-o", made, str(source)], check=True)
        _library = ctypes.CDLL(made)


def run(
    work: Callable[[], int],
    places: Sequence[str],
    faults: Sequence[Fault] = (),
    log: str = "",
    kinds: int = CHANGE,
    limit: int = 60,
    changing: Optional[Callable[..., None]] = None,
) -> Ended:
    """Carry out ``work``, whose answer is the exit status, with faults at calls that touch the ``places``.

    It is only traced where there is a reason to: that takes half of the time.
    """
    out, err = os.memfd_create("out"), os.memfd_create("err")
    traced = bool(faults or log or changing)
    child = os.fork()
    if child == 0:
        _be_the_run(work, out, err, traced, limit)
    plan = _Plan(
        places=b"".join(os.fsencode(place) + b":" for place in places),
        log=os.fsencode(log) or None,
        kinds=kinds,
        limit=limit,
    )
    for number, fault in enumerate(faults):
        plan.at[number], plan.fault[number], plan.error[number] = fault
    if changing:
        plan.changing = _CHANGING(changing)
    if not traced:
        plan.status = os.waitpid(child, 0)[1]
        plan.late = os.WIFSIGNALED(plan.status) and os.WTERMSIG(plan.status) == signal.SIGALRM
    elif _library.trace(child, ctypes.byref(plan)):
        raise RuntimeError("the child cannot be traced")
    texts = []
    for each in (out, err):
        os.lseek(each, 0, os.SEEK_SET)
        with open(each, "rb") as text:
            texts.append(text.read().decode("utf-8", "replace"))
    status = os.WEXITSTATUS(plan.status) if os.WIFEXITED(plan.status) else None
    return Ended(status, texts[0], texts[1], plan.count, plan.outlived, bool(plan.late))


def _be_the_run(work: Callable[[], int], out: int, err: int, traced: bool, limit: int) -> None:
    status = 70
    try:
        null = os.open(os.devnull, os.O_RDONLY)
        for number, handle in enumerate((null, out, err)):
            os.dup2(handle, number)
        os.closerange(3, 64)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.default_int_handler if each == signal.SIGINT else signal.SIG_DFL)
        if not traced:
            signal.alarm(limit)
        failed = _library.enter() if traced else 0
        if failed:
            raise OSError(failed, "enter: " + os.strerror(failed))
        status = work()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:  # as the interpreter would show it
        traceback.print_exc()
        status = 1
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def read_log(path: str) -> List[Call]:
    """The calls of a run that was given this ``log``."""
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines]
    return [
        Call(int(row[0]), int(row[1]), row[2], row[3] == "1", row[4], row[5]) for row in rows if len(row) == 6
    ]


ERRORS: Tuple[int, ...] = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES, errno.EMFILE)
