# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a person has to be told of a host: kernels that will boot and get nothing, and drivers that were meant
where another was named.
"""

from typing import Any, Dict, Iterable, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from ..host import Host
from ..judge.selection import Build
from ..read.kernels import Kernel
from . import store
from .boot import shipped
from .boot.menu import Entry, boots
from .weak_links import Served


class Unserved(NamedTuple):
    """A kernel that gets no build, and why boots are expected to start it; of one that was not chosen there
    is no verdict.
    """

    kernel: str
    boots: Tuple[str, ...]  # see booting
    verdict: Optional[str]
    reason: str

    def as_dict(self) -> Dict[str, Any]:
        return dict(self._asdict(), boots=list(self.boots))


def booting(host: Host, installed: Sequence[Kernel]) -> Dict[str, List[str]]:
    """For each installed kernel why a boot is expected to start it: it is ``running``, the ``newest``, the
    ``default`` of the boot loader.
    """
    default = started_by(shipped.default(host), [kernel.release for kernel in installed])
    reasons = {
        kernel.release: [
            ("running", kernel.running),
            ("newest", kernel is installed[-1]),
            ("default", kernel.release == default),
        ]
        for kernel in installed
    }
    return {release: [word for word, holds in words if holds] for release, words in reasons.items()}


def started_by(entry: Optional[Entry], releases: Iterable[str]) -> Optional[str]:
    """The kernel that a boot entry starts; None where there is no entry, or it starts none of these."""
    return next((release for release in releases if entry and boots(entry, release)), None)


def unserved(
    host: Host, installed: Sequence[Kernel], rows: Sequence[Served], *, after: Mapping[str, Optional[Build]]
) -> List[Unserved]:
    """The kernels that get no build, of those chosen (``rows``) and of those that boots are expected to
    start, oldest first.
    """
    chosen = {row.kernel: row for row in rows}
    found = []
    for release, why in booting(host, installed).items():
        row = chosen.get(release)
        if after[release] is None and (row or why):
            verdict, reason = (
                (row.verdict, row.reason) if row else (None, "it is not one of the kernels that were chosen")
            )
            found.append(Unserved(release, tuple(why), verdict, reason))
    return found


def other_drivers(host: Host, drivers: Sequence[str]) -> List[str]:
    """The drivers in the host's store where none of those named is: what may have been meant.

    Empty where one of them is there.
    """
    there = {stored.driver for stored in store.builds(host)}
    return [] if there & set(drivers) else sorted(there)
