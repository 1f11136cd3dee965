# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""``kmodctl weak-modules2``: the command line, standard input, environment and exit statuses of SUSE's
weak-modules2, which KMPs and kernel packages rely on.
"""

import getopt
import os
import sys
from typing import List, Mapping, NamedTuple, Sequence

from .host import Host
from .output import WEAK_MODULES2 as NAME
from .output import say
from .task import carry_out
from .weak_modules import FAILED, OK, WAIT, guarded, listed, refresh, say_error

MODES = (
    "add-kmp",
    "remove-kmp",
    "add-kernel",
    "remove-kernel",
    "add-kernel-modules",
    "remove-kernel-modules",
)
SWITCHES = ("usage", "help", "verbose", "dry-run", "debug")
LOGS = "/var/log"
USAGE = """\
Usage:
    weak-modules2 --add-kmp kmp-name-version-release
    weak-modules2 --remove-kmp kmp-name-version-release < module-list
    weak-modules2 --add-kernel | --remove-kernel [kernel-release]
    weak-modules2 --add-kernel-modules | --remove-kernel-modules kernel-release < module-list
    --verbose (-v)   say what becomes of each package; --dry-run   do not change anything
    --logfile FILE   add what is said on standard error to FILE, below /var/log
"""


class Call(NamedTuple):
    """A command line, with what the environment says. Of several modes the last counts."""

    mode: str
    name: str
    verbose: int
    dry: bool
    logfile: str
    wrong: str = ""


def parsed(argv: Sequence[str], environment: Mapping[str, str]) -> Call:
    """As getopt(1) reads it."""
    try:
        pairs, rest = getopt.gnu_getopt(list(argv), "vh", [*MODES, *SWITCHES, "logfile="])
    except getopt.GetoptError as error:
        return Call("", "", 0, dry=False, logfile="", wrong=error.msg)
    given = {"help" if name == "-h" else name[2:]: value for name, value in pairs}
    mode = next((name[2:] for name, _value in reversed(pairs) if name[2:] in MODES), "")
    level = environment.get("WM2_VERBOSE", "")
    wrong = ""
    if not mode:
        wrong = "Please specify one of the --add-* or --remove-* options"
    elif mode in ("add-kernel", "remove-kernel"):
        wrong = "Too many arguments to --%s" % mode if len(rest) > 1 else ""
        rest = rest or [os.uname().release]
    elif len(rest) != 1:
        wrong = "Option --%s requires exactly one argument" % mode
    return Call(
        "help" if {"help", "usage"} & set(given) else mode,
        rest[0] if rest else "",
        (int(level) if level in ("0", "1", "2", "3") else 0)
        + sum(name in ("-v", "--verbose") for name, _value in pairs),
        dry="dry-run" in given,
        logfile=given.get("logfile", environment.get("WM2_LOGFILE", "")),
        wrong="" if {"help", "usage"} & set(given) else wrong,
    )


def main(argv: Sequence[str], root: str = "/") -> int:
    """Carry out a command line; the exit status."""
    asked = parsed(argv, os.environ)
    return guarded(NAME, lambda: _done(asked, root), FAILED)


def _done(asked: Call, root: str) -> int:
    if asked.wrong:
        sys.stderr.write("ERROR: %s\n%s" % (asked.wrong, USAGE))
        return FAILED
    if asked.mode == "help":
        say(USAGE.rstrip())
        return OK
    if not asked.logfile:
        return _carried_out(asked, root)
    path = os.path.join(LOGS, asked.logfile)
    sys.stderr.write("%s: appending output to %s\n" % (NAME, path))
    before = sys.stderr
    with open(path, "a", encoding="utf-8", errors="surrogateescape") as sys.stderr:
        try:
            return _carried_out(asked, root)
        finally:
            sys.stderr = before


def _carried_out(asked: Call, root: str) -> int:
    from .commands import kmp as command

    given = listed(root) if asked.mode.endswith(("remove-kmp", "-modules")) else ()
    verb = asked.mode if asked.mode.endswith("-kmp") else "add-kernel"
    if asked.mode == "remove-kernel":
        verb = asked.mode
    mark = bool(os.environ.get("INITRD_IN_POSTTRANS") or os.environ.get("TRANSACTIONAL_UPDATE"))
    options = command.Options(verb, asked.name, given, mark)
    answer: command.Answer = carry_out(root, asked.dry, lambda host: command.run(host, options), WAIT).answer
    for warning in answer.warnings:
        say_error(NAME, warning)
    for line in answer.told if asked.verbose else ():
        sys.stderr.write(line + "\n")
    if asked.dry or mark or verb == "remove-kernel":
        return OK
    refresh(NAME, root, answer.changed)
    without: List[str] = command.without_image(Host(root), asked.name) if verb == "add-kernel" else []
    for release in without:
        say_error(NAME, "kernel %s has no initrd yet: run dracut -f for it" % release)
    return OK
