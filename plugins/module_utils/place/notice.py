# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a person has to be told of a host: kernels that will boot and get nothing, and drivers that were meant where another was named."""
from typing import Any, Dict, List, Mapping, Optional, Sequence

from ..host import Host
from ..judge.selection import Build
from ..read.kernels import Kernel
from . import inventory, store


def booting(host: Host, installed: Sequence[Kernel]) -> Dict[str, List[str]]:
    """For each installed kernel why a boot is expected to start it: it is ``running``, the ``newest``, the ``default`` of the boot loader."""
    default = inventory.default_release(host)
    reasons = {kernel.release: [("running", kernel.running), ("newest", kernel is installed[-1]), ("default", kernel.release == default)]
               for kernel in installed}
    return {release: [word for word, holds in words if holds] for release, words in reasons.items()}


def unserved(host: Host, installed: Sequence[Kernel], rows: Sequence[Mapping[str, Any]],
             after: Mapping[str, Optional[Build]]) -> List[Dict[str, Any]]:
    """The kernels that get no build, of those chosen (``rows`` of the answer) and of those that boots are expected to start, oldest first.

    Each with ``kernel``, ``boots`` (see ``booting``), ``verdict`` and ``reason``; of kernels that were not chosen the verdict is None.
    """
    chosen = {row["kernel"]: row for row in rows}
    left = {"verdict": None, "reason": "it is not one of the kernels that were chosen"}
    return [{"kernel": release, "boots": why, **{name: chosen.get(release, left)[name] for name in ("verdict", "reason")}}
            for release, why in booting(host, installed).items() if after[release] is None and (release in chosen or why)]


def other_drivers(host: Host, drivers: Sequence[str]) -> List[str]:
    """The drivers in the host's store where none of those named is: what may have been meant. Empty where one of them is there."""
    there = {stored.driver for stored in store.builds(host)}
    return [] if there & set(drivers) else sorted(there)
