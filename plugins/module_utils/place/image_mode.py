# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hosts whose system is an image or a snapshot that is replaced as a whole: what is changed on them in place
is lost, or not in what boots next.
"""

import os

from ..errors import KmodError
from ..host import Host

OSTREE = ("/run/ostree-booted", "/sysroot/ostree", "/sysroot/composefs")  # the last: bootc without ostree
INSTALL_CONF = ("/etc/kernel/install.conf", "/usr/lib/kernel/install.conf")
TRANSACTIONAL = ("/usr/sbin/transactional-update", "/usr/bin/tukit", "/usr/sbin/tukit")


def refuse(host: Host) -> None:
    """Errors: IMAGE_MODE, TRANSACTIONAL."""
    if any(host.exists(path) for path in OSTREE) or _ostree_layout(host):
        raise KmodError(
            host.root,
            "is a system in image mode (ostree, bootc): kernels arrive with whole images, and hooks are not run on the host",
            "Deploy the driver in the image's Containerfile (the roles work on its root), and leave kmod_follow out",
            "IMAGE_MODE",
        )
    if os.environ.get("TRANSACTIONAL_UPDATE") == "true" or (
        any(host.exists(path) for path in TRANSACTIONAL) and _read_only(host)
    ):
        raise KmodError(
            host.root,
            "is a transactional system: a kernel arrives in a snapshot that is started later",
            "Run the play inside one (transactional-update run ...), and leave kmod_follow out",
            "TRANSACTIONAL",
        )


def _ostree_layout(host: Host) -> bool:
    texts = [host.read_text(path, 1 << 16) for path in INSTALL_CONF if host.is_file(path)]
    return any(
        line.split("#")[0].replace(" ", "").strip() == "layout=ostree"
        for text in texts[:1]
        for line in text.splitlines()
    )


def _read_only(host: Host) -> bool:
    """Whether the root is mounted read-only; in a directory that is no mounted root, whether fstab means it
    to be.
    """
    if host.live:
        host.past()
        return bool(os.statvfs("/").f_flag & os.ST_RDONLY)
    rows = (
        [line.split() for line in host.read_text("/etc/fstab", 1 << 20).splitlines()]
        if host.is_file("/etc/fstab")
        else []
    )
    return any(
        row[1] == "/" and "ro" in row[3].split(",")
        for row in rows
        if len(row) > 3 and not row[0].startswith("#")
    )
