# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a variant goes: a name at which nothing lies, and room for it."""

import itertools
import os
from typing import Container, Dict

from ...errors import KmodError
from ...host import Host
from ...plan import Change, File, Plan
from . import witness

SLACK = 1 << 20  # left free on /boot


def check(host: Host, whole: Plan) -> None:
    """Refuse what does not fit, before anything is written: a full /boot is what kernel updates fail of.

    An old variant goes only after the new one is there."""
    needed: Dict[int, int] = {}
    for step in whole.steps:
        if isinstance(step, Change) and (
            isinstance(step.after, File) or isinstance(step.before, File) and step.after is None
        ):
            directory = os.path.dirname(step.path)
            device = host.room(directory)[0]
            sizes = [node.content.size if isinstance(node, File) else 0 for node in (step.before, step.after)]
            needed[device] = needed.get(device, SLACK) + sizes[1]
            free = host.free(directory)
            if isinstance(step.after, File) and needed[device] > free:
                raise KmodError(
                    step.path,
                    "needs %d MiB, but %d MiB are free there" % (needed[device] + 0xFFFFF >> 20, free >> 20),
                    "Free space in %s, for instance of old kernels, or use method segment where the boot loader takes several images"
                    % directory,
                    "BOOT_FULL",
                )
            needed[device] -= sizes[0] if not step.keep else 0


def free_name(host: Host, base: str, taken: Container[str] = ()) -> str:
    """The smallest number at which nothing lies, nor in the place of the mark anything else than a mark;
    ``taken``: see ``plan``.
    """
    if len(os.fsencode(os.path.basename(witness.path_of(base + ".100")))) > witness.NAME_MAX:
        raise KmodError(
            base,
            "has a name that is too long for another one to be made of it",
            "Give it a shorter name",
            "ENAMETOOLONG",
        )
    paths = ("%s.%d" % (base, number) for number in itertools.count(1))
    return next(
        path
        for path in paths
        if path not in taken and host.lstat(path) is None and not _blocked(host, witness.path_of(path))
    )


def _blocked(host: Host, path: str) -> bool:
    return host.lstat(path) is not None and (host.is_link(path) or not host.is_file(path))
