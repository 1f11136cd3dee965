# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""dracut: Enterprise Linux from 6 on, Fedora, SUSE; with systemd as its init or without.

And that of EL 6, where its hooks lie in the root.
"""

from typing import Dict, List, Optional

from ...host import Host
from . import systemd
from .generator import LIB, SAY, Generator, Job, Start, Tool
from .segments import Tree

MODPROBE = "modprobe -q %s || :\n"


def _command(_host: Host, job: Job) -> List[str]:
    # --nostrip: stripped modules are not the driver's any more
    return ["dracut", "--force", "--nostrip", "--add-drivers", " ".join(job.names), job.output, job.release]


def _recognised(tree: Tree) -> bool:
    return any(tree.find(lib + ("dracut" if systemd.in_image(tree) else "dracut/hooks")) for lib in LIB)


def _early(tree: Tree) -> Optional[Start]:
    return (
        systemd.LOAD if systemd.in_image(tree) else Start("lib/dracut/hooks/pre-udev/00-kmod-%s.sh", MODPROBE)
    )


def _proof(tree: Tree, _texts: Dict[str, bytes]) -> Optional[Start]:
    if tree.find("lib/dracut/hooks/cmdline") and (
        not systemd.in_image(tree) or systemd.has_unit(tree, "dracut-cmdline.service")
    ):
        return Start("lib/dracut/hooks/cmdline/00-outoftree-kmod.sh", SAY)
    return systemd.proof(tree) if systemd.in_image(tree) else None


TOOL = Tool("dracut", _command)
DRACUT = Generator(
    "dracut",
    _recognised,
    (TOOL,),
    early=_early,
    proof=_proof,
    # Debian, EL 6 and later and Fedora, SLES, others: as 10_linux of GRUB and kernel-install know them
    files=("/boot/initrd.img-%s", "/boot/initramfs-%s.img", "/boot/initrd-%s", "/boot/initramfs-%s"),
)
DRACUT_004 = Generator(
    "dracut-004",
    lambda tree: tree.find("pre-udev") is not None,
    (TOOL,),
    files=("/boot/initramfs-%s.img",),
    early=lambda _tree: Start("pre-udev/00-kmod-%s.sh", MODPROBE),
)  # and no proof: it has no /run
