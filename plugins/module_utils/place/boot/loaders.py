# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later


"""The boot loaders that are known: a new one is a file beside this one, and a line here.

And which of them a host has.

Its name is then a choice of the option ``loader`` (of the module grub_entry and of the role, which tests hold
against this list).
"""

from typing import List, Tuple

from ...errors import KmodError
from ...host import Host
from .boot_loader import BootLoader, Installation
from .extlinux import EXTLINUX
from .grub2 import BLS, GRUB
from .grub_legacy import GRUB_LEGACY
from .systemd_boot import INFO, SYSTEMD_BOOT

# Of several that a host has files of, the first is taken to be the one that boots it, unless the firmware
# tells
LOADERS: Tuple[BootLoader, ...] = (
    GRUB,
    BLS,
    SYSTEMD_BOOT,
    GRUB_LEGACY,
    EXTLINUX,
)
AUTO = "auto"
PROXMOX = "/etc/kernel/proxmox-boot-uuids"


def installed(host: Host) -> List[Installation]:
    """Each loader that the host has files of, whether it boots with that or not."""
    return [at for at in (loader.found(host) for loader in LOADERS) if at is not None]


def detect(host: Host, name: str = AUTO) -> Installation:
    """The loader that the host boots with, or the named one where its files are.

    Errors: LOADER_MISSING, LOADER_AMBIGUOUS.
    """
    found = installed(host)
    if name != AUTO:
        found = [at for at in found if at.loader.name == name] or _asked(host, name)
    if not found:
        raise KmodError(
            "/boot",
            "no configuration of a boot loader was found%s" % ("" if name == AUTO else " for %s" % name),
            "Looked for "
            + ", ".join(dict.fromkeys(path for loader in LOADERS for path in loader.looked_for)),
            "LOADER_MISSING",
        )
    if len(found) > 1 and any(at.loader.program for at in found):
        running = _running(host)
        if not running:
            raise KmodError(
                found[0].config,
                "the host has more than one boot loader: %s" % " and ".join(at.loader.name for at in found),
                "Say which with loader",
                "LOADER_AMBIGUOUS",
            )
        found = [at for at in found if at.loader.program == running] or [
            at for at in found if not at.loader.program
        ]
    return found[0]


def _asked(host: Host, name: str) -> List[Installation]:
    asked = [loader.asked(host) for loader in LOADERS if loader.name == name and loader.asked]
    return [at for at in asked if at is not None]


def _running(host: Host) -> str:
    """The program that started the running machine, as it told through the firmware; "" for a machine that is
    not running.
    """
    if not host.live:
        return ""
    told = INFO.value(host)
    return "other" if told is None else INFO.text(host).split(" ")[0]


def check_known(host: Host) -> None:
    """Refuse where what boots the host is written by a tool that does not look at the files that loaders are
    detected by.
    """
    if host.is_file(PROXMOX) and host.read_text(PROXMOX, 1 << 16).strip():
        raise KmodError(
            PROXMOX,
            "proxmox-boot-tool copies kernels to these EFI system partitions and writes menus of its own there: an entry made "
            "in /boot would not be in them",
            "Leave boot entries out (kmod_entry: false), or boot without proxmox-boot-tool",
            "LOADER_ELSEWHERE",
        )
