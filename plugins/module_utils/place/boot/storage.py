# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether GRUB can write to a file at boot: it writes to a file's blocks on a plain partition and knows
nothing of what lies between.

(GRUB's manual, "Environment block"; the same check is in Debian's 00_header.)
"""

import contextlib
import os
import re
from typing import List, Optional, Tuple

from ...host import Host
from . import script

# what a file is made of there is not GRUB's to overwrite
NO_BLOCKS = ("btrfs", "zfs", "f2fs", "squashfs", "overlay", "tmpfs", "nfs", "nfs4")
_MODULES = re.compile(r"lvm|diskfilter|mdraid\w*|raid\w*|dm_nv|btrfs|zfs|f2fs")


def unwritable(host: Host, path: str, entry: str) -> Optional[str]:
    """Why GRUB cannot write to ``path``, None where it can.

    ``entry`` is the text of an entry on the same file system.
    """
    if host.live:
        return _mounted(host.real(path))
    return _configured(host, path) or next(
        ("the entry needs GRUB's module %s" % name for name in _modules(entry) if _MODULES.fullmatch(name)),
        None,
    )


def _mounted(real: str) -> Optional[str]:
    """By what the running kernel says: the file system's type, and what its device is made of."""
    try:
        device = os.stat(real).st_dev
        with open("/proc/self/mountinfo") as mounts:
            kinds = {fields[2]: fields[fields.index("-") + 1] for fields in (line.split() for line in mounts)}
    except OSError as error:
        return "nothing tells what it is on (%s: %s)" % (error.filename, error.strerror)
    number = "%d:%d" % (os.major(device), os.minor(device))
    # a subvolume has a number that no mount shows
    kind = kinds.get(number, "btrfs" if os.major(device) == 0 else "")
    if kind in NO_BLOCKS:
        return "it is on %s" % kind
    return stacked("/sys/dev/block/" + number)


def stacked(block: str) -> Optional[str]:
    """By what a block device, given by its directory in /sys, is or lies upon: LVM may be below an
    encryption, RAID below LVM.
    """
    if os.path.exists(block + "/md") or os.path.exists(block + "/../md"):  # the second of a partition
        return "it is on software RAID"
    with contextlib.suppress(OSError), open(block + "/dm/uuid") as uuid:
        if uuid.read().startswith("LVM-"):
            return "it is on LVM"
    below = os.listdir(block + "/slaves") if os.path.isdir(block + "/slaves") else []
    return next((why for why in (stacked("%s/slaves/%s" % (block, each)) for each in below) if why), None)


def _configured(host: Host, path: str) -> Optional[str]:
    """By what /etc/fstab says of the file system that the path is on."""
    mounts: List[Tuple[str, str, str]] = []
    for line in host.read_text("/etc/fstab").splitlines() if host.is_file("/etc/fstab") else ():
        fields = line.split("#")[0].split()
        if len(fields) > 2 and (path + "/").startswith(fields[1].rstrip("/") + "/"):
            mounts.append((fields[1], fields[0], fields[2]))
    if not mounts:
        return None
    _unused, device, kind = max(mounts, key=lambda mount: len(mount[0]))
    if kind in NO_BLOCKS:
        return "it is on %s" % kind
    if re.match(r"/dev/md", device):
        return "it is on software RAID"
    if re.match(r"/dev/(mapper/(?!mpath)|(?!disk/|mapper/)[^/]+/)", device):
        return "it is on LVM"
    return None


def _modules(entry: str) -> List[str]:
    commands = [each for command in script.parse(entry, "entry") for each in [command, *command.walk()]]
    return [word.value for each in commands if each.name == "insmod" for word in each.words[1:]]
