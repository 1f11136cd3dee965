# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What there is to know of a host's following: how it follows, what was found last, what is pending, and what
others did to entries of ours.

It reads, and never writes.
"""

from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from ..errors import KmodError
from ..host import Host
from . import bulletin, settings
from .boot import leaks
from .bulletin import Bulletin
from .settings import Followed


class State(NamedTuple):
    """``error``: why the settings cannot be read; then no driver is named."""

    drivers: Dict[str, Followed]
    said: Bulletin
    pending: Tuple[str, ...]
    leaked: Tuple[str, ...]
    rewritten: Tuple[str, ...]
    error: str = ""

    def as_dict(self) -> Dict[str, Any]:
        said = self.said.as_dict()
        return {
            "drivers": {name: followed.as_dict() for name, followed in sorted(self.drivers.items())},
            "lacking": said["drivers"],
            "kept": said["kept"],
            "problems": said["problems"],
            "pending": list(self.pending),
            "leaked": list(self.leaked),
            "rewritten": list(self.rewritten),
            "error": self.error,
        }

    @property
    def lines(self) -> List[str]:
        said = [self.error or "new kernels get: %s" % (", ".join(sorted(self.drivers)) or "nothing")]
        said += self.said.lines
        said += ["not done yet: %s" % line for line in self.pending]
        said += [
            "%s has arguments of a boot entry of this collection: kmodctl refresh takes them out" % path
            for path in self.leaked
        ]
        return said + [
            "%s was written anew by others: kmodctl refresh mends it" % text for text in self.rewritten
        ]


def state(host: Host) -> Optional[State]:
    """None where the host follows nothing."""
    error = ""
    try:
        told = settings.read(host)
    except KmodError as damage:
        told, error = None, str(damage)
    if told is None and not error:
        return None
    return State(
        told.drivers if told else {},
        bulletin.read(host),
        tuple(bulletin.pending(host)),
        tuple(leaks.found(host)),
        tuple(leaks.rewritten(host)),
        error,
    )
