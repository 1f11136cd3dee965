# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What took long to find out about a host, kept on it: JSON below /var/cache, safe to delete.

An answer counts only for exactly what it was made from, which its key tells, and only if none but root or the
caller could have written it.
"""

import contextlib
import json
import os
import stat
import time
import zlib
from typing import Any, Dict, Optional

from .errors import KmodError
from .host import MODULES, Host

DIRECTORY = "/var/cache/outoftree.kmod"
LIMIT = 64 << 20  # 25000 symbols take 1.2 MiB
# of what is no kernel's: kept for a day
SETTLED = "settled"
DAY = 24 * 3600


def load(host: Host, name: str, key: str) -> Optional[Dict[str, Any]]:
    """What was stored under a release, or RELEASE:WHAT, and this key; None likewise."""
    try:
        with host.unseen():
            if not _trusted(host.lstat(DIRECTORY), stat.S_IFDIR):
                return None
            with host.open(_path(name)) as reader:
                if not _trusted(reader.status, stat.S_IFREG):
                    return None
                data = b"".join(reader.chunks(limit=LIMIT))
        kept = json.loads(zlib.decompressobj().decompress(data, LIMIT).decode("ascii"))
        return kept if kept["key"] == key else None
    except (KmodError, zlib.error, ValueError, LookupError, TypeError, AttributeError):
        return None


def store(host: Host, name: str, kept: Dict[str, Any]) -> None:
    """Keep what JSON can hold, with its ``key``, for the next run: quietly not where this one may not (check
    mode), the caller is unprivileged, or the disk full or read-only.
    """
    with host.unseen(), contextlib.suppress(KmodError):
        _store(host, name, kept)


def _store(host: Host, name: str, kept: Dict[str, Any]) -> None:
    if not host.keeps_cache or os.geteuid() != 0 or not host.is_dir(os.path.dirname(DIRECTORY)):
        return
    if host.lstat(DIRECTORY) is None:
        host.mkdir(DIRECTORY)
    if not _trusted(host.lstat(DIRECTORY), stat.S_IFDIR):
        return
    for other in host.listdir(DIRECTORY):
        if _outlived(host, other):
            host.remove(DIRECTORY + "/" + other)
    host.replace(_path(name), zlib.compress(json.dumps(kept, separators=(",", ":")).encode("ascii"), 1))


def _outlived(host: Host, name: str) -> bool:
    """Whether it is of a kernel that is gone, or of another day."""
    whose = name.partition(":")[0]
    if whose == SETTLED:
        status = host.lstat(_path(name))
        return status is not None and not 0 <= time.time() - status.st_mtime < DAY
    return not any(host.is_dir("%s/%s" % (directory, whose)) for directory in MODULES)


def _path(name: str) -> str:
    return DIRECTORY + "/" + name


def _trusted(status: Optional[os.stat_result], kind: int) -> bool:
    """Whether this is a file of that kind which nobody else could have written."""
    return (
        status is not None
        and stat.S_IFMT(status.st_mode) == kind
        and status.st_uid in (0, os.geteuid())
        and not status.st_mode & 0o022
    )
