# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a variant adds to the early boot of an image: the driver's modules loaded at once, and a line in /run that proves that it was booted.

Each kind of image is asked for what it does itself; where that cannot be told, nothing is promised.
"""
import hashlib
import re
from typing import Dict, Optional, Sequence

from ...errors import KmodError
from . import cpio
from .image import Image, generator
from .segments import Tree

LOAD = {
    "initramfs-tools": ("conf/conf.d/zz-kmod-%s", "modprobe -q %s || :\n"),  # sourced by /init, before udev starts
    "systemd": ("etc/modules-load.d/kmod-%s.conf", "%s\n"),
    "dracut": ("lib/dracut/hooks/pre-udev/00-kmod-%s.sh", "modprobe -q %s || :\n"),
    "dracut-004": ("pre-udev/00-kmod-%s.sh", "modprobe -q %s || :\n"),
}
PROOF = "/run/outoftree.kmod.variant"
SHELL = "echo %%s > %s\n" % PROOF
TEXTS = ("init", "scripts/init-top/ORDER")  # what ``proof`` reads of an image


def load(image: Image, drivers: Sequence[str], names: Sequence[str]) -> cpio.Item:
    """The file by which the modules are loaded at the very start. Error: EARLY_UNSUPPORTED."""
    kind = generator(image.tree)
    if kind not in LOAD:
        raise KmodError(image.path, "its way of loading modules early is not known", "Leave out early_load", "EARLY_UNSUPPORTED")
    path, line = LOAD[kind]
    together = "-".join(drivers)
    if len(together) > 64:
        together = hashlib.sha256(together.encode()).hexdigest()[:32]
    return cpio.item(path % together, "".join(line % name for name in names).encode("ascii"))


def proof(tree: Tree, texts: Dict[str, bytes], identity: str) -> Optional[cpio.Item]:
    """The file by which the early boot writes ``identity`` to PROOF; None where it could not, or would not be seen after the early boot.

    ``texts`` are those of TEXTS. What it is written to has to be the /run that the system then has: it is mounted by the early boot first.
    """
    kind = generator(tree)
    if kind == "initramfs-tools":
        # /init sources conf/conf.d too early, before it mounts /run; this one behind each script of init-top (initramfs-tools: scripts/functions)
        mounted = re.search(rb"^\s*mount\b.*\stmpfs\s+/run\s*$", texts.get("init", b""), re.M)
        scripts = re.search(rb"^\s*run_scripts\s+/scripts/init-top\s*$", texts.get("init", b""), re.M)
        sourced = b". /conf/param.conf" in texts.get("scripts/init-top/ORDER", b"")
        if mounted and scripts and mounted.start() < scripts.start() and sourced and not tree.find("conf/param.conf"):
            return _item("conf/param.conf", SHELL, identity)
        return None
    systemd = any(tree.find(lib + "/systemd/systemd") for lib in ("usr/lib", "lib"))
    units = [lib + "/systemd/system/" for lib in ("usr/lib", "lib", "etc")]
    if tree.find("lib/dracut/hooks/cmdline") and (not systemd or any(tree.find(unit + "dracut-cmdline.service") for unit in units)):
        return _item("lib/dracut/hooks/cmdline/00-outoftree-kmod.sh", SHELL, identity)
    if systemd and any(tree.find(name + "bin/systemd-tmpfiles") for name in ("usr/", "")) and \
            any(tree.find(unit + "sysinit.target.wants/systemd-tmpfiles-setup.service") for unit in units):
        return _item("etc/tmpfiles.d/outoftree-kmod.conf", "f %s 0644 root root - %%s\n" % PROOF, identity)
    return None  # EL 6 and before have no /run


def _item(path: str, text: str, identity: str) -> cpio.Item:
    return cpio.item(path, (text % identity).encode("ascii"))
