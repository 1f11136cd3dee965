# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Disks that the TPM opens only as long as the boot is measured as before."""

import base64
import json
import os
import re
import stat
import struct
from typing import Any, Iterator, List, Optional, Set, Tuple

from ...errors import KmodError, SystemFailed, from_oserror
from ...host import Host

# The initramfs is measured into PCR 9 (GRUB, and the kernel's EFI stub), GRUB's commands into 8,
# systemd-boot's arguments into 12.
CHANGED = {8, 9, 12}
LUKS = b"LUKS\xba\xbe\x00\x02"
JSON_AT = 4096
HEADER_LIMIT = 4 << 20  # cryptsetup: LUKS2_HDR_BIN and JSON area, at most 4 MiB
SPECS = {
    "UUID": "/dev/disk/by-uuid/",
    "PARTUUID": "/dev/disk/by-partuuid/",
    "LABEL": "/dev/disk/by-label/",
    "PARTLABEL": "/dev/disk/by-partlabel/",
}


def check(host: Host) -> None:
    """Refuse (TPM_SEALED) where a volume of /etc/crypttab would no longer open by itself when a variant is
    booted.
    """
    for name, device, options in _volumes(host):
        pcrs = _numbers(options) | {number for token in _tokens(host, device) for number in _sealed_to(token)}
        if pcrs & CHANGED:
            raise KmodError(
                "/etc/crypttab",
                "the TPM opens %s only while PCR %s stays as it is, and a variant of the initramfs changes that"
                % (name, ", ".join(str(number) for number in sorted(pcrs & CHANGED))),
                "Have its passphrase ready and set ignore_tpm, or seal it to other PCRs",
                "TPM_SEALED",
            )


def _volumes(host: Host) -> Iterator[Tuple[str, str, str]]:
    """Name, the device that has the header, and options."""
    if host.is_file("/etc/crypttab"):
        for line in host.read_text("/etc/crypttab").splitlines():
            words = line.split()
            if len(words) > 1 and not line.lstrip().startswith("#"):
                options = words[3] if len(words) > 3 else ""
                apart = [
                    option.split("=", 1)[1].split(":")[0]
                    for option in options.split(",")
                    if option.startswith("header=")
                ]
                yield words[0], (apart + words[1:2])[0], options


def _numbers(options: str) -> Set[int]:
    """``tpm2-pcrs=7+9``"""
    for option in options.split(","):
        if option.startswith("tpm2-pcrs="):
            return {int(word) for word in option.split("=", 1)[1].split("+") if word.isdigit()}
    return set()


def _tokens(host: Host, device: str) -> List[Any]:
    """The tokens in a LUKS 2 header: how the volume is opened."""
    host.past()
    kind, _unused, value = device.partition("=")
    try:
        path = host.real(SPECS[kind] + value.strip('"') if kind in SPECS else device)
        # asked before it is opened: some devices do things then (a watchdog, a tape)
        if not _readable(os.stat(path)):
            return []
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except SystemFailed:
        raise
    except (OSError, ValueError, KmodError) as error:  # not there, a loop
        return _nothing(device, error)
    try:
        if not _readable(os.fstat(handle)):
            return []
        head = os.pread(handle, JSON_AT, 0)
        if not head.startswith(LUKS):
            return []
        (size,) = struct.unpack(">Q", head[8:16])
        text = os.pread(handle, max(0, min(size, HEADER_LIMIT) - JSON_AT), JSON_AT)
        return list(json.loads(text.split(b"\0")[0].decode("utf-8"))["tokens"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error) as error:
        return _nothing(device, error)
    finally:
        os.close(handle)


def _nothing(device: str, error: Exception) -> List[Any]:
    """No tokens; but where the system itself failed to read them, that is no answer."""
    failed = from_oserror(device, error, "read the header") if isinstance(error, OSError) else None
    if isinstance(failed, SystemFailed):
        raise failed
    return []


def _readable(status: os.stat_result) -> bool:
    """What can have a header: no FIFO, no terminal."""
    return stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)


def _sealed_to(token: Any) -> Set[int]:
    try:
        if token["type"] == "systemd-tpm2":
            return {int(number) for number in token["tpm2-pcrs"]}
        return _clevis(token["jwe"]["protected"]) if token["type"] == "clevis" else set()
    except (KeyError, TypeError, ValueError, OverflowError):
        return set()


def _clevis(protected: Optional[str]) -> Set[int]:
    """The PCRs in a clevis header, also within one that shares the secret among several (``sss``)."""
    try:
        header = json.loads(base64.urlsafe_b64decode((protected or "") + "===").decode("utf-8"))["clevis"]
        if header["pin"] == "sss":
            return {number for inner in header["sss"]["jwe"] for number in _clevis(inner.split(".")[0])}
        # "7,9" or a list
        return {int(word) for word in re.findall(r"\d+", str(header["tpm2"].get("pcr_ids", "")))}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
