# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The generators of initramfs images that are known: a new one is a file beside this one, and a line here."""

from typing import Tuple

from .dracut import DRACUT, DRACUT_004
from .generator import Generator
from .initramfs_tools import INITRAMFS_TOOLS
from .mkosi_initrd import SYSTEMD
from .nash import NASH
from .segments import Tree

# An image is of the first that recognises it
GENERATORS: Tuple[Generator, ...] = (
    INITRAMFS_TOOLS,
    DRACUT,
    SYSTEMD,
    DRACUT_004,
    NASH,
)
UNKNOWN = Generator(
    "unknown", lambda _tree: True, tuple(dict.fromkeys(tool for each in GENERATORS for tool in each.tools))
)
FILES = tuple(dict.fromkeys(name for each in GENERATORS for name in each.files))
TEXTS = tuple(name for each in GENERATORS for name in each.texts)


def generator(tree: Tree) -> Generator:
    """What takes an image through its early boot: how a module is loaded early depends on it, and what can
    rebuild it.
    """
    return next(each for each in GENERATORS + (UNKNOWN,) if each.recognised(tree))
