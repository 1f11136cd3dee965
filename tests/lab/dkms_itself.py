# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian's own dkms, in a small system of a suite that has a kernel's headers as if they were installed there,
and answers ``uname`` as a machine that runs it.
"""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, NamedTuple

from tests.lab import debian
from tests.lab.debian import Image, Missing, once, say

# All that is laid into the system is seen in this process alone. A name for each mount has to be there.
INSIDE = r"""
root=$1 headers=$2 release=$3 source=$4 out=$5 name=$6 version=$7
mount -t proc proc "$root/proc"
for each in usr/src usr/lib/modules var/lib/dkms tmp; do mkdir -p "$root/$each"; mount -t tmpfs tmpfs "$root/$each"; done
for each in "$headers"/usr/src/* "$headers"/usr/lib/linux-kbuild-*; do
    [ -d "$each" ] && [ ! -L "$each" ] || continue
    place=$root${each#"$headers"}
    mkdir -p "$place"; mount --bind "$each" "$place"
done
mkdir -p "$root/usr/lib/modules/$release"
ln -s "/usr/src/linux-headers-$release" "$root/usr/lib/modules/$release/build"
printf '#!/bin/sh\ncase "$*" in -r) echo %s ;; *) exec /tmp/uname "$@" ;; esac\n' "$release" > "$out/uname"
chmod 755 "$out/uname"
cp "$root/usr/bin/uname" "$root/tmp/uname"
mount --bind "$out/uname" "$root/usr/bin/uname"
cp -a "$source" "$root/usr/src/$name-$version"
status=0
chroot "$root" dkms build -m "$name" -v "$version" -k "$release" > "$out/said" 2>&1 < /dev/null || status=$?
echo $status > "$out/status"
for each in "$root/var/lib/dkms/$name/$version/$release"/*/module "$root/var/lib/dkms/$name/$version/build/make.log"; do
    [ ! -e "$each" ] || cp -r "$each" "$out/"
done
exit 0
"""


class Outcome(NamedTuple):
    """What dkms did: its exit status, and its modules by name of their files."""

    status: int
    modules: Dict[str, Path]
    log: str


def system(suite: str) -> Path:
    """A small system of a suite with dkms, its compiler and pahole."""
    if os.geteuid() or not shutil.which("mmdebstrap"):
        raise Missing("needs root and mmdebstrap, to make a system of %s" % suite)

    def make(temporary: Path) -> None:
        say("making a system of %s with dkms" % suite)
        debian.system(
            suite, temporary / "root", ["dkms", "gcc", "libc6-dev", "dwarves", "libelf-dev", "make", "patch"]
        )

    return once(debian.cache() / "chroots" / (suite + "-dkms-gcc"), make) / "root"


def build(kernel: Image, headers: Path, source: Path, name: str, version: str) -> Outcome:
    """Have dkms build a source for a kernel whose headers were unpacked in a directory; done once."""
    root = system(kernel.suite)

    def make(temporary: Path) -> None:
        argv = ["unshare", "--mount", "sh", "-ec", INSIDE, "sh", str(root), str(headers), kernel.release]
        argv += [str(source), str(temporary), name, version]
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(argv, stdout=said, stderr=said, stdin=subprocess.DEVNULL, check=False)
            said.seek(0)
            if done.returncode:
                raise debian.LabError("dkms: %s" % said.read()[-500:])

    found = once(
        debian.cache()
        / "dkms-itself"
        / ("%s-%s" % (name, version))
        / ("%s_%s" % (kernel.release, kernel.version)),
        make,
    )
    logs = [found / each for each in ("said", "make.log") if (found / each).exists()]
    return Outcome(
        int((found / "status").read_text()),
        {path.name.partition(".ko")[0]: path for path in (found / "module").glob("*.ko*")},
        "\n".join(path.read_text(errors="replace") for path in logs),
    )
