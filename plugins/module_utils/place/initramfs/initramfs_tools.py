# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""initramfs-tools: Debian, Ubuntu."""

import os
import posixpath
import re
import stat
from typing import Dict, List, Optional

from ...errors import KmodError, from_oserror
from ...host import Host
from .generator import SAY, Generator, Job, Start, Tool
from .segments import Tree

HOOK = '#!/bin/sh\n[ "$1" = prereqs ] && exit 0\n. /usr/share/initramfs-tools/hook-functions\nmanual_add_modules %s\n'
CONFIGURATION = "/etc/initramfs-tools"
# far more than a configuration has; what is in it is the administrators' to say
COPY_SIZE, COPY_FILES = 64 << 20, 4096


def _command(host: Host, job: Job) -> List[str]:
    """With a copy of the configuration directory, so that the shipped one stays as it is."""
    copy = job.scratch + "/conf"
    _copy(host, CONFIGURATION, copy)
    hook = host.real(copy) + "/hooks/kmod"
    try:
        os.makedirs(os.path.dirname(hook), exist_ok=True)
        with open(hook, "w") as handle:
            handle.write(HOOK % " ".join(job.names))
        os.chmod(hook, 0o755)
    except OSError as error:
        raise from_oserror(hook, error, "write the hook") from None
    return ["mkinitramfs", "-d", copy, "-o", job.output, job.release]


def _copy(host: Host, source: str, target: str) -> None:
    """Copy a directory's files, directories and symlinks, and nothing that could block or has no end.

    A relative symlink out of the directory is made an absolute one: it means what it meant. Errors:
    CONFIG_TOO_LARGE, those of writing.
    """
    files = size = 0
    todo = [""]
    while todo:
        below = todo.pop()
        try:
            os.mkdir(host.real(target + below), 0o755)
            for name in host.listdir(source + below):
                path, copy = (
                    "%s%s/%s" % (source, below, name),
                    host.real("%s%s/%s" % (target, below, name), follow=False),
                )
                status = host.lstat(path)
                files += 1
                if status is None:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    todo.append("%s/%s" % (below, name))
                elif stat.S_ISLNK(status.st_mode):
                    leads = posixpath.normpath(posixpath.join(posixpath.dirname(path), host.readlink(path)))
                    os.symlink(host.readlink(path) if leads.startswith(source + "/") else leads, copy)
                elif stat.S_ISREG(status.st_mode):
                    size += status.st_size
                    if size <= COPY_SIZE:
                        data = host.read(path, COPY_SIZE)
                        with open(copy, "wb") as handle:
                            handle.write(data)
                        os.chmod(copy, stat.S_IMODE(status.st_mode))
                if files > COPY_FILES or size > COPY_SIZE:
                    raise KmodError(
                        source,
                        "holds more than %d files or %d MiB: that is not a configuration"
                        % (COPY_FILES, COPY_SIZE >> 20),
                        "Take out what does not belong there",
                        "CONFIG_TOO_LARGE",
                    )
        except OSError as error:
            raise from_oserror(target, error, "copy the configuration") from None


def _proof(tree: Tree, texts: Dict[str, bytes]) -> Optional[Start]:
    """Sourced by /init behind each script of init-top. conf/conf.d is too early, before /run is mounted
    (initramfs-tools: scripts/functions).
    """
    mounted = re.search(rb"^\s*mount\b.*\stmpfs\s+/run\s*$", texts.get("init", b""), re.M)
    scripts = re.search(rb"^\s*run_scripts\s+/scripts/init-top\s*$", texts.get("init", b""), re.M)
    sourced = b". /conf/param.conf" in texts.get("scripts/init-top/ORDER", b"")
    if (
        mounted
        and scripts
        and mounted.start() < scripts.start()
        and sourced
        and not tree.find("conf/param.conf")
    ):
        return Start("conf/param.conf", SAY)
    return None


TOOL = Tool("mkinitramfs", _command)
INITRAMFS_TOOLS = Generator(
    "initramfs-tools",
    lambda tree: bool(tree.find("scripts/functions") and tree.find("conf/initramfs.conf")),
    (TOOL,),
    files=("/boot/initrd.img-%s",),
    proof=_proof,
    texts=("init", "scripts/init-top/ORDER"),
    # sourced by /init, before udev starts
    early=lambda _tree: Start("conf/conf.d/zz-kmod-%s", "modprobe -q %s || :\n"),
)
