# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``kmodctl weak-modules``: the command line, standard input, texts and exit statuses of weak-modules, which
packages' scripts rely on.

A kernel's package ends without a boot entry if the call for it fails: so of what can go wrong with add-kernel
and remove-kernel nothing but a wrong command line is a failure. The rest is said on standard error.
"""

import getopt
import os
import subprocess
import sys
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

from .errors import KmodError, printable
from .host import MODULES, Host
from .output import WEAK_MODULES as NAME
from .output import let_go, open_streams, say
from .read.names import is_release
from .task import carry_out

KERNELS = ("add-kernel", "remove-kernel")
VERBS = ("add-modules", "remove-modules", *KERNELS)  # of several the first here is done
SWITCHES = ("dry-run", "no-initramfs", "verbose", "delete-modules", "help")
VALUES = ("basedir", "dracut", "check-initramfs-prog")
LIMIT = 16 << 20  # bytes of names
# seconds, for another run to end, which may be making an image: a package's script calls once, and nobody
# looks at what it could not do
WAIT = 600.0
OK, FAILED, INTERRUPTED = 0, 1, 130
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # as a shell has it
USAGE = """\
Usage: weak-modules [options] {--add-modules|--remove-modules}
       weak-modules [options] {--add-kernel|--remove-kernel} [kernel-release]
--add-modules     link the modules whose paths are read from standard input, one a line, into weak-updates of all kernels that take them
--remove-modules  remove the links to those modules of that list that are gone; where another build fits, that is linked
--add-kernel      link all modules in extra/ of other kernels that this kernel, by default the running one, takes
--remove-kernel   remove all links to packages' modules from this kernel's weak-updates
--no-initramfs    do not look at images at all; without it, variants of the initramfs are made again, shipped images are left as they are
--verbose         say what fits and what does not
--dry-run         do not change anything
--basedir DIR     root directory of the machine that is meant
--check-initramfs-prog PROG   run PROG RELEASE for each kernel that is concerned, instead of looking at images
--dracut PATH     has to be there, and is not run
"""


class Asked(NamedTuple):
    """A command line. ``verb`` is "help", or "" for none."""

    verb: str
    given: Dict[str, str]
    kernel: str

    def has(self, switch: str) -> bool:
        return switch in self.given


def parsed(argv: Sequence[str]) -> Asked:
    """As getopt(1) reads it: any order, names cut short, ``--opt=V`` or ``--opt V``.

    Error: getopt.GetoptError.
    """
    pairs, rest = getopt.gnu_getopt(list(argv), "h", [*VERBS, *SWITCHES, *(name + "=" for name in VALUES)])
    given = {"help" if option == "-h" else option[2:]: value for option, value in pairs}
    verb = "help" if "help" in given else next((verb for verb in VERBS if verb in given), "")
    return Asked(verb, given, rest[0] if rest and rest[0] else os.uname().release)


def main(argv: Sequence[str]) -> int:
    """Carry out a command line; the exit status."""
    try:
        asked: Optional[Asked] = parsed(argv)
        wrong = ""
    except getopt.GetoptError as error:
        asked, wrong = None, error.msg

    def done() -> int:
        if asked is None:
            say_error(NAME, wrong)
            say(USAGE.rstrip())
            return FAILED
        return _done(asked)

    return guarded(NAME, done, OK if asked is not None and asked.verb in KERNELS else FAILED)


def guarded(name: str, work: Callable[[], int], failed: int) -> int:
    """The exit status of ``work``; ``failed`` where something went wrong, which is said in one line."""
    try:
        open_streams()
        return work()
    except BrokenPipeError:  # the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        say_error(name, "interrupted")
        return INTERRUPTED
    except KmodError as error:
        if error.code == "OUTPUT_LOST":
            let_go()
        say_error(name, str(error))
    except (OSError, MemoryError) as error:
        let_go()
        say_error(name, "cannot go on: %s" % (error if str(error) else type(error).__name__))
    except Exception as error:
        if "KMODCTL_DEBUG" in os.environ:
            raise
        say_error(
            name,
            "%s: %s. Report this as a bug, with what KMODCTL_DEBUG=1 shows" % (type(error).__name__, error),
        )
    return failed


def _done(asked: Asked) -> int:
    if asked.verb in ("help", ""):
        say(USAGE.rstrip())
        return OK if asked.verb else FAILED
    if asked.has("delete-modules"):
        say("WARNING: --delete-modules is deprecated, no effect")
    dracut = asked.given.get("dracut")
    if (
        dracut
        and not asked.has("no-initramfs")
        and asked.verb != "remove-kernel"
        and not os.access(dracut, os.X_OK)
    ):
        say("weak-modules: could not find dracut at %s" % dracut)
        return FAILED
    root = os.path.abspath(asked.given.get("basedir") or "/")
    given = listed(root) if asked.verb in ("add-modules", "remove-modules") else ()
    if asked.verb == "add-kernel" and not (
        is_release(asked.kernel)
        and any(Host(root).is_dir("%s/%s" % (place, asked.kernel)) for place in MODULES)
    ):
        say_error(NAME, "%s: no such kernel is installed" % asked.kernel)
        return FAILED
    if not given and asked.verb in ("add-modules", "remove-modules"):
        return OK
    return _carried_out(asked, root, given)


def _carried_out(asked: Asked, root: str, given: Tuple[str, ...]) -> int:
    from .commands import weak_modules as command

    dry = asked.has("dry-run")
    options = command.Options(asked.verb, given, asked.kernel)
    done = carry_out(root, dry, lambda host: command.run(host, options), WAIT)
    for warning in done.answer.warnings:
        say_error(NAME, warning)
    _tell(asked, done.answer)
    if asked.has("no-initramfs") or dry or asked.verb == "remove-kernel":
        return OK
    program = asked.given.get("check-initramfs-prog")
    if not program:
        refresh(NAME, root, done.answer.concerned)
        return OK
    status = OK
    for release in done.answer.concerned:
        status = _run([*program.split(), release])
    return status


def listed(root: str) -> Tuple[str, ...]:
    """The paths on standard input, one a line, as paths inside the root."""
    data = sys.stdin.buffer.read(LIMIT + 1) if sys.stdin is not None else b""
    if len(data) > LIMIT:
        raise KmodError(
            "standard input",
            "is longer than %d MiB" % (LIMIT >> 20),
            "Give the paths of modules, one a line",
            "ARGS_INVALID",
        )
    found: List[str] = []
    for line in data.decode("utf-8", "surrogateescape").split("\n"):
        if not line.strip() or "\0" in line:
            continue
        path = os.path.normpath(line if os.path.isabs(line) else os.path.join(os.getcwd(), line))
        if root != "/" and path.startswith(root + "/"):
            path = path[len(root) :]
        found.append("/" + path.lstrip("/"))
    return tuple(dict.fromkeys(found))


def _tell(asked: Asked, answer: Any) -> None:
    """Verbosely what fits and what does not, on standard output; else on standard error what no build of
    fits.
    """
    for found in answer.kernels:
        release = found.kernel.release
        if asked.has("verbose"):
            for row in sorted(found.rows, key=lambda row: row.verdict.compatible):
                say(row.as_text())
            if found.fell_back:
                say("Falling back weak-modules state for kernel %s" % release)
            for link in found.gone:
                say("Removing compatible module %s from kernel %s" % (os.path.basename(link.path), release))
        else:
            served = set(found.names)
            for row in found.rows:
                if not row.verdict.compatible and row.source.name not in served:
                    served.add(row.source.name)
                    say_error(NAME, row.as_text())


def refresh(name: str, root: str, kernels: Tuple[str, ...]) -> None:
    """Make variants of these kernels again, and tell of what is left."""
    if not kernels:
        return
    from .commands import renew  # all that makes images: a third of what is imported here

    try:
        options = renew.Options(kernels)
        for path in carry_out(root, False, lambda host: renew.run(host, options), WAIT).answer.made:
            say("%s: the variant of the initramfs is made again" % path)
    except KmodError as error:  # the links are there
        say_error(name, "variants of the initramfs are not made again: %s" % error)
    left = renew.shipped(Host(root), kernels)
    if left:
        say_error(
            name,
            "left as shipped: %s. If one of these has to hold the modules, run dracut -f for that kernel"
            % ", ".join(left),
        )


def _run(argv: Sequence[str]) -> int:
    """The exit status of someone's program, which has our streams."""
    sys.stdout.flush()
    try:
        return subprocess.call(argv, stdin=subprocess.DEVNULL)
    except OSError as error:
        say_error(NAME, "%s: cannot be run: %s" % (argv[0], error.strerror))
        return NOT_FOUND if isinstance(error, FileNotFoundError) else NOT_EXECUTABLE


def say_error(name: str, text: str) -> None:
    """One line on standard error, of the command of that name."""
    try:
        sys.stderr.write("%s: %s\n" % (name, printable(text)))
    except (OSError, ValueError):
        return
