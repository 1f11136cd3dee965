# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a variant adds to the early boot of an image: the driver's modules loaded at once, and a line in /run
that proves that it was booted.

Each generator's images are asked for what they do themselves; where that cannot be told, nothing is promised.
"""

import hashlib
from typing import Dict, Optional, Sequence

from ...errors import KmodError
from . import cpio
from .generators import generator
from .image import Image
from .segments import Tree


def load(image: Image, drivers: Sequence[str], names: Sequence[str]) -> cpio.Item:
    """The file by which the modules are loaded at the very start. Error: EARLY_UNSUPPORTED."""
    start = generator(image.tree).early(image.tree)
    if start is None:
        raise KmodError(
            image.path,
            "its way of loading modules early is not known",
            "Leave out early_load",
            "EARLY_UNSUPPORTED",
        )
    together = "-".join(drivers)
    if len(together) > 64:
        together = hashlib.sha256(together.encode()).hexdigest()[:32]
    return cpio.item(start.path % together, "".join(start.text % name for name in names).encode("ascii"))


def proof(tree: Tree, texts: Dict[str, bytes], identity: str) -> Optional[cpio.Item]:
    """The file by which the early boot writes ``identity`` to generator.PROOF; None where it could not.

    ``texts``: see generators.TEXTS.
    """
    start = generator(tree).proof(tree, texts)
    return cpio.item(start.path, (start.text % identity).encode("ascii")) if start else None
