# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd does in the early boot of an image that has it, whichever generator made that."""

from typing import Optional

from .generator import LIB, PROOF, Start
from .segments import Tree

LOAD = Start("etc/modules-load.d/kmod-%s.conf", "%s\n")


def in_image(tree: Tree) -> bool:
    return any(tree.find(lib + "systemd/systemd") for lib in LIB)


def has_unit(tree: Tree, unit: str) -> bool:
    return any(tree.find("%ssystemd/system/%s" % (lib, unit)) for lib in LIB + ("etc/",))


def proof(tree: Tree) -> Optional[Start]:
    if any(tree.find(name) for name in ("usr/bin/systemd-tmpfiles", "bin/systemd-tmpfiles")) and has_unit(
        tree, "sysinit.target.wants/systemd-tmpfiles-setup.service"
    ):
        return Start("etc/tmpfiles.d/outoftree-kmod.conf", "f %s 0644 root root - %%s\n" % PROOF)
    return None
