# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmodctl in the place of weak-modules, so that packages' scripts call it; the script itself lies beside it
until it is put back.

The script is copied and moved by the host's own cp and mv: they keep owner, times, label and attributes, so
that rpm --verify finds nothing once it is back. An update of its package (kmod) writes the script anew over
ours: then that is the one to keep.
"""

import functools
import shlex
from typing import Optional

from ..errors import KmodError
from ..host import Host
from ..plan import Content, File, Plan

PLACES = ("/usr/sbin/weak-modules", "/sbin/weak-modules")  # the second: EL 6
BESIDE = ".distrib"
MADE_BY = "Made by outoftree.kmod"
RPM = ("/usr/lib/sysimage/rpm", "/var/lib/rpm")  # its database
LIMIT = 1 << 20  # bytes; the script has 40 KiB

# Python or kmodctl may be gone or half replaced in the very transaction that calls: then the script does what
# it did before.
TEXT = """#!/bin/sh
# %(made_by)s (kmod_weak_modules: divert), which puts the distribution's script back from %(beside)s.
runs='import json, sys, zipfile, zlib; sys.exit(sys.version_info < (3, 6) or not zipfile.is_zipfile(sys.argv[1]))'
if [ -f %(kmodctl)s ] && %(python)s -c "$runs" %(kmodctl)s > /dev/null 2>&1 < /dev/null; then
    exec %(python)s %(kmodctl)s weak-modules "$@"
fi
[ ! -x %(beside)s ] || exec %(beside)s "$@"
echo "weak-modules: neither %(kmodctl)s nor %(beside)s can be run" >&2
exit 0
"""


def present(host: Host, kmodctl: str, python: str, *, diverted: bool) -> Plan:
    """Put a call of ``kmodctl`` by that interpreter, both absolute paths on the host, in the script's place.

    ``diverted``: whether that was done, or begun, before: then what lies beside it is our copy. Nothing is done
    where there is no script. Error: WEAK_MODULES_ODD.
    """
    plan = Plan(host)
    place = find(host)
    if place is None:
        return plan
    words = {
        "made_by": MADE_BY,
        "kmodctl": shlex.quote(kmodctl),
        "python": shlex.quote(python),
        "beside": place + BESIDE,
    }
    if not ours(host, place):
        _refuse_odd(host, place)
        _refuse_odd(host, place + BESIDE)
        if not diverted and host.lstat(place + BESIDE) is not None:
            raise KmodError(
                place + BESIDE,
                "is there, and was not put there by this collection: somebody else has diverted the script",
                "Move it away, or leave kmod_weak_modules out",
                "WEAK_MODULES_ODD",
            )
        plan.run(
            place + BESIDE,
            ["cp", "-a", "-f", "-T", "--", host.real(place), host.real(place + BESIDE)],
            inverse=functools.partial(_back, place=place),
        )
    plan.put(place, File(Content.of((TEXT % words).encode("utf-8", "surrogateescape")), 0o755))
    return plan


def absent(host: Host, *, diverted: bool) -> Plan:
    """Put the script back as it was; ``diverted`` as of ``present``.

    Where its package has written it anew, that one stays and the older copy goes; the copy alone is left where
    somebody has removed ours, and goes where that was the package's removal.
    """
    plan = Plan(host)
    for place in PLACES:
        beside = place + BESIDE
        mine = ours(host, place)
        there = host.lstat(beside) is not None
        if mine and not there:
            plan.put(place, None)
        elif there and (mine or (diverted and host.lstat(place) is None and _has_package(host, place))):
            was = host.read(place, LIMIT) if mine else None
            plan.run(
                place,
                ["mv", "-f", "-T", "--", host.real(beside), host.real(place)],
                inverse=functools.partial(_again, place=place, was=was),
            )
        elif there and diverted:
            plan.put(beside, None)
        if plan:
            return plan
    return plan


def _has_package(host: Host, place: str) -> bool:
    """Whether the script has a package still; True where rpm cannot tell."""
    root = [] if host.live else ["--root", host.root]
    if not any(host.is_dir(path) for path in RPM):
        return True
    try:
        done = host.run(["rpm", *root, "-qf", place], check=False)
    except KmodError:
        return True
    said = (done.out + done.err).rstrip()
    return not (done.status and said.endswith(("No such file or directory", "is not owned by any package")))


def _back(host: Host, place: str) -> None:
    host.run(["mv", "-f", "-T", "--", host.real(place + BESIDE), host.real(place)])


def _again(host: Host, place: str, was: Optional[bytes]) -> None:
    host.run(["cp", "-a", "-f", "-T", "--", host.real(place), host.real(place + BESIDE)])
    if was is None:
        host.remove(place)
    else:
        host.replace(place, was, 0o755)


def find(host: Host) -> Optional[str]:
    """Where the script is called, there as it came or ours by now; None on a host that has none."""
    return next((place for place in PLACES if host.lstat(place) is not None), None)


def ours(host: Host, place: str) -> bool:
    return host.is_file(place) and not host.is_link(place) and MADE_BY.encode() in host.read(place, LIMIT)


def came_back(host: Host) -> bool:
    """Whether its package has put the script over ours since."""
    place = find(host)
    return place is not None and not ours(host, place) and host.lstat(place + BESIDE) is not None


def _refuse_odd(host: Host, path: str) -> None:
    if host.lstat(path) is not None and (host.is_link(path) or not host.is_file(path)):
        raise KmodError(
            path,
            "is no file, but %s"
            % ("a symlink to %s" % host.readlink(path) if host.is_link(path) else "something else"),
            "Put the script of the kmod package there, or leave kmod_weak_modules out",
            "WEAK_MODULES_ODD",
        )
