# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Everything here is imported as tests.ROOM.NAME, from the checkout: pytest, and ``python -m
tests.fuzz.fuzz``.

Makes the checkout importable under the collection's own name too, wherever it lies.
"""

import os
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def _collections() -> str:
    """A directory in which this checkout is ansible_collections/outoftree/kmod."""
    if CHECKOUT.parts[-3:] == ("ansible_collections", "outoftree", "kmod"):
        return str(CHECKOUT.parents[2])
    path = CHECKOUT / "build" / "collections"
    link = path / "ansible_collections" / "outoftree" / "kmod"
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(CHECKOUT, link.parent))
    return str(path)


COLLECTIONS = _collections()
if COLLECTIONS not in sys.path:
    sys.path.insert(0, COLLECTIONS)
