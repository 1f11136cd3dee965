# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel exports."""
from typing import NamedTuple, Optional


class Export(NamedTuple):
    """One exported symbol. ``crc`` is None where no versions are kept, ``namespace`` is "" for none, ``owner`` is vmlinux or a module's name."""

    crc: Optional[int]
    gpl: bool
    namespace: str
    owner: str
