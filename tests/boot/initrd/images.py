# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Real initramfs images: made by mkinitramfs, dracut and mkosi-initrd of a Debian suite, in a root of that
suite, for its newest kernel.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import List, NamedTuple

from tests.lab import debian
from tests.lab.debian import LabError

SUITES = {"bookworm": "6.1.", "trixie": "6.12.", "sid": ""}  # and its own kernel series
PACKAGES = "systemd-sysv,udev,dbus,kmod,zstd,"
BOTH = "initramfs-tools,dracut-core,busybox,xz-utils,lz4,lzop,bzip2,cpio,file,binutils,amd64-microcode"
# mkinitramfs's names
COMPRESSIONS = {
    "gzip": "gzip",
    "bzip2": "bzip2",
    "lzma": "lzma",
    "xz": "xz",
    "lzo": "lzop",
    "lz4": "lz4",
    "zstd": "zstd",
}
# at their lowest level: a minute less each, the same format
QUICK = {"initramfs-tools": ("bzip2", "lzma", "xz"), "dracut": ("bzip2", "lzma")}
MODULES = "usr/lib/modules/"
INSIDE = (
    'mount --bind "$0" "$0"; mount -t proc proc "$0/proc"; mount -t tmpfs tmpfs "$0/run"; mount --bind "$1" "$0/mnt"; '
    'exec chroot "$0" sh -ec "$2"'
)


class Base(NamedTuple):
    """How a shipped image is made."""

    suite: str
    tool: str  # initramfs-tools, dracut or mkosi-initrd
    compression: str = "zstd"
    microcode: bool = False

    @property
    def name(self) -> str:
        return "%s %s %s%s" % (
            self.suite,
            self.tool,
            self.compression,
            " +microcode" if self.microcode else "",
        )


def missing() -> str:
    """Why no images can be made here; "" where they can."""
    if os.geteuid():
        return "not root"
    for tool in ("mmdebstrap", "unshare", "depmod"):
        if shutil.which(tool) is None:
            return "no %s on this machine" % tool
    return debian.available() or ""


def kernel(suite: str) -> debian.Image:
    return [each for each in debian.kernels(suite) if each.release.startswith(SUITES[suite])][-1]


def root(suite: str, tool: str) -> Path:
    """A small system of the suite with both tools and all compressors, or with mkosi, which brings half a
    distribution along.
    """

    def make(temporary: Path) -> None:
        debian.say("making a system of %s for %s" % (suite, tool))
        packages = PACKAGES + ("mkosi" if tool == "mkosi-initrd" else BOTH)
        debian.system(
            suite,
            temporary / "root",
            packages.split(","),
            "--skip=cleanup/apt/lists",
            components="main non-free-firmware",
        )
        # mkosi-initrd 25 stops where there is none
        (temporary / "root/usr/lib/firmware").mkdir(exist_ok=True)

    return (
        debian.once(debian.cache() / "initrd" / (suite + ("-mkosi" if tool == "mkosi-initrd" else "")), make)
        / "root"
    )


def installed(suite: str, tool: str) -> Path:
    """That system with the suite's newest kernel in it."""
    system, chosen = root(suite, tool), kernel(suite)
    modules = system / MODULES / chosen.release
    if not modules.exists():
        with debian.lock("initrd-%s" % system.parent.name):
            if not modules.exists():
                tree = debian.tree(chosen)
                modules.parent.mkdir(exist_ok=True)
                debian.run(["cp", "-a", str(tree / MODULES / chosen.release), str(modules) + ".new"])
                shutil.copy(str(tree / "boot" / ("config-" + chosen.release)), str(system / "boot"))
                os.rename(str(modules) + ".new", str(modules))
    return system


def image(base: Base) -> Path:
    """The image, as its distribution would ship it."""
    chosen = kernel(base.suite)

    def make(temporary: Path) -> None:
        debian.say("making an image: %s" % base.name)
        run_in(installed(base.suite, base.tool), temporary, "; ".join(commands(base, chosen.release)))

    name = "%s-%s-%s%s_%s_%s" % (
        base.suite,
        base.tool,
        base.compression,
        "-microcode" if base.microcode else "",
        chosen.release,
        chosen.version,
    )
    return debian.once(debian.cache() / "initrd-images" / name, make) / "initrd"


def commands(base: Base, release: str) -> List[str]:
    quick = base.compression in QUICK.get(base.tool, ())
    if base.tool == "mkosi-initrd":
        return ["mkosi-initrd --kernel-version %s --output-dir /mnt --output initrd" % release]
    if base.tool == "initramfs-tools":
        return [
            "cp -a /etc/initramfs-tools /run/conf",
            "echo AMD64UCODE_INITRAMFS=%s > /etc/default/amd64-microcode"
            % ("early" if base.microcode else "no"),
            "mkinitramfs -d /run/conf -c %s%s -o /mnt/initrd %s"
            % (COMPRESSIONS[base.compression], " -l 1" if quick else "", release),
        ]
    compression = "--compress '%s -1'" % base.compression if quick else "--" + base.compression
    return [
        "dracut --force --no-hostonly %s --%searly-microcode /mnt/initrd %s"
        % (compression, "" if base.microcode else "no-", release)
    ]


def run_in(system: Path, output: Path, script: str) -> str:
    """Run a shell script in the system, with ``output`` at its /mnt."""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", INSIDE, str(system), str(output), script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise LabError("%s: %s: exit status %d: %s" % (system, script, done.returncode, done.stdout[-1500:]))
    return done.stdout
