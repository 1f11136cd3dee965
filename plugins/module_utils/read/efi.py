# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Variables of EFI firmware, as efivarfs of the running machine has them."""

from typing import NamedTuple, Optional

from ..host import Host

LIMIT = 16 << 20  # bytes of a variable: lists of keys and digests are the long ones
ATTRIBUTES = 4  # bytes in front of the value (Documentation/filesystems/efivarfs.rst)
GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # the specification's own
SECURITY = "d719b2cb-3d3a-4596-a3bc-dad00e67656f"  # its databases of keys
SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"
BOOT_LOADER = "4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"  # systemd's boot loader interface


class Variable(NamedTuple):
    name: str
    vendor: str = BOOT_LOADER  # GUID

    @property
    def path(self) -> str:
        return "/sys/firmware/efi/efivars/%s-%s" % (self.name, self.vendor)

    def value(self, host: Host) -> Optional[bytes]:
        """Its bytes; None where there is none, and for a machine that is not running.

        Errors: those of reading a file.
        """
        if not host.live:
            return None
        # drivers/firmware/efi/mokvar-table.c: all of shim's, where the firmware has no room for a long one
        table = "/sys/firmware/efi/mok-variables/" + self.name
        if self.vendor == SHIM and host.is_file(table):
            return host.read(table, LIMIT)
        if not host.is_file(self.path):
            return None
        return host.read(self.path, LIMIT)[ATTRIBUTES:]

    def text(self, host: Host) -> str:
        """Its text, which is UTF-16; "" where there is none."""
        return (self.value(host) or b"").decode("utf-16-le", "replace").rstrip("\0")
