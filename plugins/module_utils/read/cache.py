# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What took long to read of a kernel, kept on the host: files by its release below /var/cache, safe to
delete.

A cached answer counts only for exactly what it was read from, and only if none but root or the caller could
have written it.
"""

import json
import os
import stat
import zlib
from itertools import repeat
from typing import Any, Dict, List, Optional

from ..errors import KmodError
from ..host import MODULES, Host
from .exports import Export

DIRECTORY = "/var/cache/outoftree.kmod"
LIMIT = 64 << 20  # 25000 symbols take 1.2 MiB


def load(host: Host, release: str, key: str) -> Optional[Dict[str, Export]]:
    """The exports that were stored for this release under the same key; None for anything missing, damaged or
    not to be trusted.
    """
    kept = load_data(host, release, key)
    try:
        if kept is None:
            return None
        rows = zip(
            kept["crc"],
            map(bool, kept["gpl"]),
            map(kept["namespaces"].__getitem__, kept["namespace"]),
            map(kept["owners"].__getitem__, kept["owner"]),
        )
        # as Export(*row), in a quarter of the time
        return dict(zip(kept["name"], map(tuple.__new__, repeat(Export), rows)))
    except (LookupError, TypeError, AttributeError):
        return None


def load_data(host: Host, name: str, key: str) -> Optional[Dict[str, Any]]:
    """What was stored under a release, or RELEASE:WHAT, and this key; None likewise."""
    try:
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


def store(host: Host, release: str, key: str, *, exports: Dict[str, Export]) -> None:
    """Keep exports for the next run, if this one may."""
    namespaces = sorted({export.namespace for export in exports.values()})
    owners = sorted({export.owner for export in exports.values()})
    store_data(
        host,
        release,
        {
            "key": key,
            "namespaces": namespaces,
            "owners": owners,
            "name": list(exports),
            "crc": [export.crc for export in exports.values()],
            "gpl": [int(export.gpl) for export in exports.values()],
            "namespace": _numbered(namespaces, [export.namespace for export in exports.values()]),
            "owner": _numbered(owners, [export.owner for export in exports.values()]),
        },
    )


def store_data(host: Host, name: str, kept: Dict[str, Any]) -> None:
    """Keep what JSON can hold, with its ``key``, for the next run: quietly not where this one may not (check
    mode), the caller is unprivileged, or the disk full or read-only.
    """
    if not host.keeps_cache or os.geteuid() != 0 or not host.is_dir(os.path.dirname(DIRECTORY)):
        return
    try:
        if host.lstat(DIRECTORY) is None:
            host.mkdir(DIRECTORY)
        if not _trusted(host.lstat(DIRECTORY), stat.S_IFDIR):
            return
        for other in host.listdir(DIRECTORY):  # of kernels that are gone
            release = other.partition(":")[0]
            if not any(host.is_dir("%s/%s" % (directory, release)) for directory in MODULES):
                host.remove(DIRECTORY + "/" + other)
        host.replace(_path(name), zlib.compress(json.dumps(kept, separators=(",", ":")).encode("ascii"), 1))
    except KmodError:
        pass


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


def _numbered(texts: List[str], values: List[str]) -> List[int]:
    """Each value by its place in the list of the different ones."""
    places = {text: place for place, text in enumerate(texts)}
    return [places[value] for value in values]
