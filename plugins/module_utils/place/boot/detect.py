# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which boot loader a host has, told from its files."""

import re
from typing import List, Optional

from ...errors import KmodError
from ...host import Host
from .menu import Loader

GRUB2 = ("/boot/grub2/grub.cfg", "/boot/grub/grub.cfg")
LEGACY = ("/boot/grub/grub.conf", "/boot/grub/menu.lst", "/etc/grub.conf")
EXTLINUX = ("/boot/extlinux/extlinux.conf",)
ESP = ("/efi", "/boot/efi", "/boot")  # where the EFI system partition is mounted (bootctl(1))
ENTRIES = "/boot/loader/entries"
PROXMOX = "/etc/kernel/proxmox-boot-uuids"
KINDS = ("grub2", "bls", "systemd-boot", "grub-legacy", "extlinux")


def detect(host: Host, kind: str = "auto") -> Loader:
    """The loader that the host boots with, or the given one where its files are."""
    found = installed(host)
    if kind != "auto":
        found = [loader for loader in found if loader.kind == kind] or _forced(host, kind)
    if not found:
        raise KmodError(
            "/boot",
            "no configuration of a boot loader was found%s" % ("" if kind == "auto" else " for %s" % kind),
            "Looked for %s and loader/entries on an EFI system partition"
            % ", ".join(GRUB2 + LEGACY + EXTLINUX),
            "LOADER_MISSING",
        )
    if len(found) > 1 and {loader.kind for loader in found} & {"systemd-boot"}:
        running = _running(host)
        found = (
            [loader for loader in found if (loader.kind == "systemd-boot") == (running == "systemd-boot")]
            if running
            else found
        )
        if not running:
            raise KmodError(
                found[0].config,
                "the host has more than one boot loader: %s" % " and ".join(loader.kind for loader in found),
                "Say which with loader",
                "LOADER_AMBIGUOUS",
            )
    return found[0]


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


def installed(host: Host) -> List[Loader]:
    """Each loader that the host has files of, whether it boots with that or not."""
    return [
        loader
        for loader in (_grub2(host), _systemd_boot(host), _legacy(host), _extlinux(host))
        if loader is not None
    ]


def _real(host: Host, path: str) -> str:
    return host.inside(host.real(path))


def _forced(host: Host, kind: str) -> List[Loader]:
    """GRUB 2 asked for where blscfg was found, or the other way round."""
    grub = _grub2(host)
    if grub is None or kind not in ("grub2", "bls"):
        return []
    return [grub._replace(kind=kind, entries=(grub.entries or ENTRIES) if kind == "bls" else "")]


def _grub2(host: Host) -> Optional[Loader]:
    """GRUB 2, by a grub.cfg that has a menu; a short one on the EFI system partition only leads to the real
    one.
    """
    plain = [path for path in GRUB2 if host.is_file(path)]
    vendors = ["/boot/efi/EFI/%s/grub.cfg" % name for name in host.listdir("/boot/efi/EFI")]
    efi = [path for path in vendors if host.is_file(path) and has_menu(host.read_text(path))]
    if (
        plain
        and efi
        and not (
            host.exists("/sys/firmware/efi")
            if host.live
            else not host.is_dir(plain[0].rsplit("/", 1)[0] + "/i386-pc")
        )
    ):
        efi = []
    for path in efi + plain:
        if re.search(r"^[ \t]*blscfg\b", host.read_text(path), re.M) and any(
            name.endswith(".conf") for name in host.listdir(ENTRIES)
        ):
            return Loader("bls", _real(host, path), ENTRIES)
        return Loader("grub2", _real(host, path))
    return None


def has_menu(text: str) -> bool:
    return re.search(r"^[ \t]*(menuentry|submenu|blscfg)\b", text, re.M) is not None


def _legacy(host: Host) -> Optional[Loader]:
    if any(host.is_file(path) for path in GRUB2):  # what an upgrade from GRUB legacy leaves behind
        return None
    return next((Loader("grub-legacy", _real(host, path)) for path in LEGACY if host.is_file(path)), None)


def _extlinux(host: Host) -> Optional[Loader]:
    return next((Loader("extlinux", _real(host, path)) for path in EXTLINUX if host.is_file(path)), None)


def _systemd_boot(host: Host) -> Optional[Loader]:
    """systemd-boot, by its program on an EFI system partition; entries may lie on an extended boot partition
    instead.
    """
    for esp in ESP:
        if any(name.startswith("systemd-boot") for name in host.listdir(esp + "/EFI/systemd")):
            entries = next(
                (
                    each + "/loader/entries"
                    for each in (esp, "/boot")
                    if host.is_dir(each + "/loader/entries")
                ),
                esp + "/loader/entries",
            )
            return Loader("systemd-boot", esp + "/loader/loader.conf", entries)
    return None


def _running(host: Host) -> str:
    """What started the running machine, as it told through the firmware (systemd's boot loader interface)."""
    path = "/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
    if not host.live:
        return ""
    if not host.is_file(path):
        return "other"
    return host.read(path, 1 << 16)[4:].decode("utf-16-le", "replace").split(" ")[0]
