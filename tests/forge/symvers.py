# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Module.symvers, and what the kernels made here export."""

from typing import Sequence, Tuple

EXPORTS = (
    ("module_layout", 0x11, False, "", "vmlinux"),
    ("printk", 0x22, False, "", "vmlinux"),
    ("kfree", 0x33, False, "", "vmlinux"),
    ("gpl_only", 0x44, True, "", "vmlinux"),
    ("spaced", 0x55, True, "DRIVER_NS", "vmlinux"),
    ("scsi_add_host", 0x66, False, "", "drivers/scsi/scsi_mod"),
)


def symvers(exports: Sequence[Tuple[str, int, bool, str, str]]) -> bytes:
    """A Module.symvers of (symbol, crc, gpl, namespace, module)."""
    return "".join(
        "0x%08x\t%s\t%s\tEXPORT_SYMBOL%s\t%s\n" % (crc, symbol, module, "_GPL" if gpl else "", namespace)
        for symbol, crc, gpl, namespace, module in exports
    ).encode()
