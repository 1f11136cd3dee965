# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Running this machine's tools: in the C locale, for a limited time, and gone with all that they have started
once they are over.
"""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from typing import NamedTuple, Optional, Sequence

from .errors import KmodError, from_oserror

SBIN = ("/usr/sbin", "/sbin", "/usr/bin", "/bin")  # an unprivileged PATH often lacks sbin
# How long tools may take, in seconds: while one hangs, nobody else can work on the host.
LIMIT = 120
LIMITS = {"depmod": 600, "restorecon": 600}
KMOD = ("depmod", "modprobe", "rmmod")  # all of the package kmod, wherever there is one


class Completed(NamedTuple):
    """What a tool did: exit status and its two texts."""

    status: int
    out: str
    err: str


def find(name: str) -> Optional[str]:
    """The full path of one of this machine's tools, None where it has none."""
    return shutil.which(name) or shutil.which(name, path=":".join(SBIN))


def run(
    argv: Sequence[str],
    stdin: Optional[bytes] = None,
    check: bool = True,
    *,
    held: Sequence[int] = (),
    timeout: Optional[float] = None,
    directory: Optional[str] = None,
    **environment: str,
) -> Completed:
    """Run a tool of this machine in the C locale, in a working directory of its own if need be.

    With ``check`` a status other than 0 is a KmodError that shows what it said.

    What it makes is readable as a distribution's own run of it would have it (umask 022). Tools inherit the
    handles ``held``.
    """
    program = find(argv[0])
    if program is None:
        raise KmodError(
            argv[0],
            "is not installed, or cannot be run",
            "Install the package %s" % ("kmod" if argv[0] in KMOD else "that provides it"),
            "TOOL_MISSING",
        )
    limit = timeout or LIMITS.get(os.path.basename(argv[0]), LIMIT)
    before = os.umask(0o022)
    try:
        process = subprocess.Popen(
            [program] + list(argv[1:]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(os.environ, LC_ALL="C", LANGUAGE="C", **environment),
            pass_fds=held,
            cwd=directory,
            start_new_session=True,
        )
    except OSError as error:
        # that says nothing of the tool
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN):
            raise from_oserror(program, error, "run it") from None
        raise KmodError(
            program,
            "cannot be run: %s" % (error.strerror or error),
            "Install the package that provides it again",
            "TOOL_FAILED",
        ) from None
    finally:
        os.umask(before)
    try:
        out, err = process.communicate(stdin or b"", limit)
    except subprocess.TimeoutExpired:
        raise KmodError(
            " ".join(argv),
            "did not end within %d s, and was ended" % limit,
            "Look why it hangs, and run again",
            "TOOL_TIMEOUT",
        ) from None
    finally:
        _end(process)
    result = Completed(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))
    if check and result.status:
        said = "; ".join((result.err.strip() or result.out.strip()).splitlines())[-800:]
        how = "signal %d" % -result.status if result.status < 0 else "exit status %d" % result.status
        raise KmodError(
            " ".join(argv),
            "%s: %s" % (how, said or "it said nothing"),
            "Run it by hand to see why",
            "TOOL_FAILED",
        )
    return result


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a tool that has not ended by itself, and all that it has started: what stays would work on beside
    the next run.
    """
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)  # its own session's, whether it is gone itself or not
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            with contextlib.suppress(OSError):
                stream.close()
