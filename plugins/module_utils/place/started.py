# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What boot entries are to start: images that were verified just now.

The one way from variants to entries.
"""

from typing import Dict, Optional, Sequence, Tuple

from ..errors import KmodError, SystemFailed
from ..host import Host
from ..plan import Plan
from ..read import names
from .boot import entry
from .boot.answer import EntryAnswer
from .boot.menu import Verified
from .initramfs import existing, manifest


def present(
    host: Host, request: entry.Request, kernels: Sequence[str] = (), *, initrd: Optional[Sequence[str]] = None
) -> Tuple[Plan, EntryAnswer]:
    """Plan entries for these kernels or all that have a variant with the drivers; ``initrd``: the images,
    instead of the variant, for one kernel.
    """
    if initrd and len(kernels) != 1:
        raise KmodError("initrd", "is for one kernel", "Name that kernel alone in kernels", "ARGS_INVALID")
    found: Dict[str, Verified] = {}
    try:
        if initrd:
            found = {kernels[0]: verified(host, kernels[0], tuple(initrd))}
        else:
            found = {
                release: verified(host, release, existing.loaded(each.path, each.base, each.method))._replace(
                    driver=names.together(each.wants.drivers)
                )
                for release, each in existing.started(
                    host, request.drivers, kernels, each=request.each
                ).items()
            }
    except KmodError as error:
        # the shipped default comes back whatever is wrong with a variant
        if request.boot != "shipped" or isinstance(error, SystemFailed):
            raise
    return entry.present(host, request._replace(all_kernels=not kernels), found)


def verified(host: Host, release: str, paths: Tuple[str, ...]) -> Verified:
    """A look at a kernel's images. One that is not there is left to whoever wants it."""
    stale, mark = None, ""
    for path in paths if all(host.is_file(path) for path in paths) else ():
        try:
            existing.verified(host, release, [path])
        except SystemFailed:  # what cannot be read just now may be whole
            raise
        except KmodError as error:
            return Verified(paths, damage=error)
        found = manifest.find(host, path)
        if found:
            mark = found.added.mark
            if existing.stale(host, found):
                stale = "was made of another %s than the one that is there now" % found.base
    return Verified(paths, stale=stale, mark=mark)
