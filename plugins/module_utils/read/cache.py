# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The exports of a kernel that took long to read, kept on the host (``kept_files``)."""

from typing import Dict, List, Optional

from .. import kept_files
from ..host import Host
from .exports import Export, Exports


def load(host: Host, release: str, key: str) -> Optional[Exports]:
    """The exports that were stored for this release under the same key; None for anything missing, damaged or
    not to be trusted.
    """
    kept = kept_files.load(host, release, key)
    try:
        if kept is None:
            return None
        columns = (
            list(kept["crc"]),
            list(map(bool, kept["gpl"])),
            list(map(kept["namespaces"].__getitem__, kept["namespace"])),
            list(map(kept["owners"].__getitem__, kept["owner"])),
        )
        whole = all(len(column) == len(kept["name"]) for column in columns)
        return Exports(kept["name"], columns) if whole else None
    except (LookupError, TypeError, AttributeError):
        return None


def store(host: Host, release: str, key: str, *, exports: Dict[str, Export]) -> None:
    """Keep exports for the next run, if this one may."""
    namespaces = sorted({export.namespace for export in exports.values()})
    owners = sorted({export.owner for export in exports.values()})
    kept_files.store(
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


def _numbered(texts: List[str], values: List[str]) -> List[int]:
    """Each value by its place in the list of the different ones."""
    places = {text: place for place, text in enumerate(texts)}
    return [places[value] for value in values]
