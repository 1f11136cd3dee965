# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""mkinitrd of Enterprise Linux 5, whose images have nash for their shell: init is a list of insmod, nothing
is loaded by alias.
"""

from typing import List

from ...errors import KmodError
from ...host import Host
from .generator import Generator, Job, Tool


def _command(_host: Host, job: Job) -> List[str]:
    """Its init loads what it is told to."""
    return ["mkinitrd", "-f"] + ["--with=" + name for name in job.names] + [job.output, job.release]


def _obstacle(path: str) -> KmodError:
    return KmodError(
        path, "loads the modules that its init lists, and no others", "Use method rebuild", "INITRD_NASH"
    )


TOOL = Tool("mkinitrd", _command)
NASH = Generator(
    "nash",
    lambda tree: tree.find("bin/nash") is not None,
    (TOOL,),
    files=("/boot/initrd-%s.img",),
    obstacle=_obstacle,
)
