# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The order and the default of menus, as the real loaders show them, against what is read off the same files here.

No system is started: a kernel of an entry is a file that is no kernel, and the loader's complaint tells which entry it chose.
"""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import debian
import guest
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit" / "place" / "boot"))

import machines  # noqa: E402
from machines import MACHINE, NEW, OLD  # noqa: E402

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host  # noqa: E402
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import detect, entry  # noqa: E402
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.menu import View  # noqa: E402

LIMIT = 300
DRIVERS = ("a", "3w-9xxx", "z9", "A.b")
MODULES = ("normal", "fat", "serial", "terminfo", "blsuki", "linux", "test", "echo", "configfile", "loadenv", "sleep", "halt")
reason = next(("no %s on this machine" % tool for tool in ("qemu-system-x86_64", "mcopy", "mformat", "grub-mkimage") if not shutil.which(tool)), None)
reason = reason or (None if guest.ovmf() else "no OVMF firmware") or debian.available()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))


def firmware(directory, files):
    """What the machine says on its serial line, started by its firmware from a FAT disk with these files."""
    disk = directory / "esp.img"
    with open(str(disk), "wb") as file:
        file.truncate(64 << 20)
    environment = dict(os.environ, MTOOLS_SKIP_CHECK="1")
    subprocess.run(["mformat", "-i", str(disk), "-F", "::"], check=True, env=environment)
    for path, content in files.items():
        parents = path.split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            subprocess.run(["mmd", "-i", str(disk), "-D", "s", "::/" + "/".join(parents[:depth])], env=environment, stderr=subprocess.DEVNULL)
        (directory / "file").write_bytes(content)
        subprocess.run(["mcopy", "-o", "-i", str(disk), str(directory / "file"), "::/" + path], check=True, env=environment)
    variables = directory / "vars"
    shutil.copyfile(guest.FIRMWARE[1], str(variables))
    log = directory / "serial"
    argv = ["timeout", "--foreground", str(LIMIT), "qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-m", "256", "-nodefaults",
            "-display", "none", "-no-reboot", "-serial", "stdio", "-nic", "none",
            "-drive", "if=pflash,format=raw,readonly=on,file=" + guest.FIRMWARE[0], "-drive", "if=pflash,format=raw,file=%s" % variables,
            "-drive", "file=%s,format=raw,if=virtio" % disk]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    text = b""
    try:
        while not re.search(rb"chosen-\S+[^\S\0]", text):
            chunk = process.stdout.read1(1 << 16)
            if not chunk:
                break
            text += chunk
    finally:
        process.terminate()  # timeout passes that on
        process.wait()
    log.write_bytes(text)
    return re.sub(r"\x1b\[[0-9;=?]*[A-Za-z]", "\n", text.decode("utf-8", "replace"))
