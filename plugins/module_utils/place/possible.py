# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What will be refused later, found out before anything of a driver is written: ``state: possible`` of the
modules.
"""

from typing import Mapping, Optional, Sequence

from ..host import Host
from ..read import names
from ..read.kernels import version_key
from . import store
from .boot import entry
from .boot.answer import EntryAnswer
from .boot.menu import Verified
from .initramfs import existing, image


def entries(
    host: Host,
    request: entry.Request,
    kernels: Sequence[str],
    takes: Optional[Mapping[str, Sequence[str]]] = None,
) -> EntryAnswer:
    """That each of the kernels can have an entry, beside those that have a variant already: planned with the
    shipped image in the place of variants.

    ``takes``: the drivers that each of the kernels takes, where those are not all of them.

    Answers as ``entry.present`` does, with no change. Errors: those of ``image.shipped`` and
    ``entry.present``.
    """
    installed = {kernel.release for kernel in store.installed(host)}
    had = existing.started(host, request.drivers)
    releases = sorted({*kernels, *(installed & set(had))}, key=version_key)
    images = {
        release: Verified(
            (image.shipped(host, release),), driver=names.together((takes or {}).get(release, ()))
        )
        for release in releases
    }
    _plan, answer = entry.present(host, request._replace(all_kernels=True), images)
    return answer.possible()
