# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether there is room for variants."""

import os
from typing import Dict

from ...errors import KmodError
from ...host import Host
from ...plan import Change, File, Plan

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
