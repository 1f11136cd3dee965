# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kernels a host would get, by its own package manager and the lists that lie on the host.

Nothing of the host is changed, and lists are not fetched anew: how old they are is part of the answer. What
cannot be told is an error, never an empty answer.
"""

import os
from typing import List, Optional, Sequence

from ... import tools
from ...errors import KmodError
from ...host import Host
from .. import kernels
from ..export_sources import SourcedExports
from ..kernels import version_key
from .apt import STATUS, Apt
from .manager import ALL, NEWEST, Asking, OfferedKernel, OfferedPackage, Offers, PackageManager, no_lists
from .rpm import Dnf, Dnf5, Yum
from .zypper import Zypper

WHICH = (NEWEST, ALL)


def detect(host: Host) -> PackageManager:
    """The manager that the host's kernels come by. Error: OFFERED_NO_MANAGER."""
    if host.is_file(STATUS) and host.is_dir("/etc/apt"):
        return Apt()
    if host.is_dir("/etc/zypp/repos.d"):
        return Zypper()
    if host.is_dir("/etc/yum.repos.d") or host.is_dir("/etc/dnf"):
        dnf = tools.find("dnf")
        if dnf or tools.find("dnf5"):
            # Fedora's dnf is a link to dnf5
            return Dnf() if dnf and not os.path.realpath(dnf).endswith("dnf5") else Dnf5()
        return Yum()
    raise KmodError(
        host.root,
        "has no package manager that is known here (apt, dnf, yum, zypper)",
        "Give the kernels' packages, or a directory that they were unpacked in",
        "OFFERED_NO_MANAGER",
    )


def asking(host: Host, scratch: str) -> Asking:
    """``scratch``: a private directory on this machine, for as long as the host is asked."""
    there = kernels.installed(host)
    machine = (
        os.uname().machine if host.live else next((each.machine for each in there if each.machine), None)
    )
    releases = sorted((each.release for each in there), key=version_key)
    return Asking(host, scratch, tuple(releases), machine or os.uname().machine)


def offers(asked: Asking, which: str) -> Offers:
    """``which``: newest, what the next update brings; all, whatever is newer than what the host has.

    Errors: OFFERED_NO_MANAGER, OFFERED_NO_LISTS, OFFERED_NONE, OFFERED_BROKEN, TOOL_MISSING.
    """
    found = detect(asked.host).offers(asked, which)
    if not found.kernels and found.missing:
        raise no_lists(
            found.manager,
            "has no lists of %s, so whether there is a newer kernel is not known" % ", ".join(found.missing),
            "Have the lists fetched, and run again",
        )
    return found._replace(kernels=tuple(each._replace(lists=found.told) for each in found.kernels))


def fetch(asked: Asking, packages: Sequence[OfferedPackage], directory: str) -> List[str]:
    """Download packages into an empty directory of this machine; their paths there.

    Errors: OFFERED_UNREACHABLE, OFFERED_DAMAGED, OFFERED_UNSIGNED, OFFERED_BROKEN, TOOL_MISSING.
    """
    detect(asked.host).fetch(asked, packages, directory)
    return sorted(os.path.join(directory, name) for name in os.listdir(directory))


def versions(asked: Asking, kernel: OfferedKernel) -> Optional[SourcedExports]:
    """The CRCs of its symbols by the lists alone; None where they have none, as apt's."""
    return detect(asked.host).versions(asked, kernel)


__all__ = [
    "Asking",
    "OfferedKernel",
    "OfferedPackage",
    "Offers",
    "asking",
    "detect",
    "fetch",
    "offers",
    "versions",
]
