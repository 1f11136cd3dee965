# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Waiting until a host is quiet: no package manager is at work, and nobody writes an image.

A path unit fires amid transactions. Older dracut writes its image in place, so a half-written one is seen;
what was made of that would have to be made again.
"""

import fcntl
import os
import struct
import time
from typing import List, Tuple

from ..host import Host

# Whole files that package managers lock while they change the system (fcntl): dpkg and apt, rpm, zypp
LOCKS = (
    "/var/lib/dpkg/lock",
    "/var/lib/dpkg/lock-frontend",
    "/var/lib/rpm/.rpm.lock",
    "/usr/lib/sysimage/rpm/.rpm.lock",
    "/var/lib/rpm/.dbenv.lock",
)
# struct flock of 64-bit offsets, which Python is built for: type, whence, start, length, pid; and the call for it
FLOCK = "hhqqi0q"
F_GETLK = fcntl.F_GETLK
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
    """The locks that a package manager holds now: it is asked whether there could be one, which takes none
    from whoever wants it at that moment (fcntl(2), F_GETLK).

    /proc/locks would not do: it names files by the device of their file system, which for those of btrfs is
    not what stat tells.
    """
    host.past()
    return [path for path in LOCKS if host.is_file(path) and _locked(host.real(path))]


def _locked(real: str) -> bool:
    try:
        handle = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        told = fcntl.fcntl(handle, F_GETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return bool(struct.unpack(FLOCK, told)[0] != fcntl.F_UNLCK)
    except OSError:  # a file system without locks
        return False
    finally:
        os.close(handle)


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
