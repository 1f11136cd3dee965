# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting until a host is quiet: no package manager is at work, and nobody writes an image.

A path unit fires amid transactions. Older dracut writes its image in place, so a half-written one is seen;
what was made of that would have to be made again.
"""

import contextlib
import os
import time
from typing import List, Set, Tuple

from ..host import Host

# Whole files that package managers lock while they change the system (fcntl): dpkg and apt, rpm, zypp
LOCKS = (
    "/var/lib/dpkg/lock",
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/rpm/.rpm.lock",
    "/usr/lib/sysimage/rpm/.rpm.lock",
    "/var/lib/rpm/.dbenv.lock",
)
WATCHED = ("/boot", "/lib/modules", "/usr/lib/modules")
REST = 5.0  # seconds for which nothing has to have changed
STEP = 1.0
LIMIT = 900.0


def wait(host: Host, limit: float = LIMIT) -> bool:
    """Whether it was quiet in time."""
    deadline = time.monotonic() + limit
    before, since = None, time.monotonic()
    while True:
        now = state(host)
        if now != before or busy(host):
            before, since = now, time.monotonic()
        elif time.monotonic() - since >= REST:
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(STEP)


def busy(host: Host) -> List[str]:
    """The locks that a package manager holds now, by /proc/locks: to ask for a lock would take it from
    whoever wants it at that moment.
    """
    host.past()
    inodes: Set[str] = set()
    with contextlib.suppress(OSError), open("/proc/locks") as locks:
        inodes = {word for line in locks for word in line.split() if word.count(":") == 2}
    return [path for path in LOCKS if _inode(host, path) in inodes]


def _inode(host: Host, path: str) -> str:
    """How /proc/locks names a file: fs/locks.c: lock_get_status."""
    status = host.stat(path)
    return (
        "%02x:%02x:%d" % (os.major(status.st_dev), os.minor(status.st_dev), status.st_ino) if status else ""
    )


def state(host: Host) -> Tuple[Tuple[str, int, int], ...]:
    """What changes when somebody installs a kernel, or makes an image: names, sizes and times of what lies
    where those are.
    """
    found = []
    for directory in WATCHED:
        for name in host.listdir(directory):
            status = host.lstat("%s/%s" % (directory, name))
            if status and not name.startswith("."):  # temporary files, and our lock
                found.append(("%s/%s" % (directory, name), status.st_size, status.st_mtime_ns))
    return tuple(found)
