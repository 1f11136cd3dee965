# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Images whose init is systemd, and that nothing else is known of: those of mkosi-initrd."""

from typing import List

from ...host import Host
from . import dracut, systemd
from .generator import Generator, Job, Tool


def _command(_host: Host, job: Job) -> List[str]:
    """It takes the modules that are loaded just now and those of its own list, and has no option for others."""
    directory, name = job.output.rsplit("/", 1)
    return ["mkosi-initrd", "--kernel-version", job.release, "--output-dir", directory, "--output", name]


TOOL = Tool("mkosi-initrd", _command, takes_modules=False)
SYSTEMD = Generator(
    "systemd",
    systemd.in_image,
    (TOOL, dracut.TOOL),
    early=lambda _tree: systemd.LOAD,
    proof=lambda tree, _texts: systemd.proof(tree),
)
