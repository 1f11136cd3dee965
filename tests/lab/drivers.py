# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Out-of-tree drivers compiled for real kernels: Debian's dkms source packages, and a small one of our own
for qemu's "edu" device.
"""

import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Dict, List, Tuple

from tests.lab import debian
from tests.lab.debian import Image, LabError, Missing, once, run, say

# The cache is seen at its own path inside, since the headers are named by absolute paths.
INSIDE = (
    'root=$1; mount --bind "$0" "$root$0"; mount -t proc proc "$root/proc"; shift; exec chroot "$root" "$@"'
)
# Debian packages that hold drivers of every kind: one module and many, exports of their own, filters, file
# systems, block, input, net.
NAMES = (
    "acpi-call",
    "apfs",
    "bbswitch",
    "dahdi",
    "ddcci",
    "digimend",
    "dm-writeboost",
    "dpdk-kmods",
    "evdi",
    "gost-crypto",
    "iptables-netflow",
    "jool",
    "librem-ec-acpi",
    "lttng-modules",
    "nat-rtsp",
    "openrazer-driver",
    "openvpn-dco",
    "rapiddisk",
    "rtpengine-kernel",
    "tp-smapi",
    "v4l2loopback",
    "vpoll",
    "xtrx",
)
# What dkms does with a dkms.conf, as far as these packages need it.
DKMS = r"""
for name in $(grep -rlE --include=dkms.conf --include='*akefile*' --include=Kbuild --include=configure '/lib/modules/[^ ]*/build' .); do
    sed -i -E "s#/lib/modules/[^ \"']*/build#$kernel_source_dir#g" "$name"
done
dkms_tree=$(mktemp -d); trap 'rm -r "$dkms_tree"' EXIT
source_tree=$dkms_tree/source
set +e; . ./dkms.conf; set -e
mkdir -p "$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION" "$source_tree"
ln -s "$PWD" "$dkms_tree/$PACKAGE_NAME/$PACKAGE_VERSION/build"
ln -s "$PWD" "$source_tree/$PACKAGE_NAME-$PACKAGE_VERSION"
set +e; . ./dkms.conf; set -e
for number in "${!PATCH[@]}"; do
    [[ ! ${PATCH_MATCH[$number]:-} || $kernelver =~ ${PATCH_MATCH[$number]} ]] && patch -p1 < "patches/${PATCH[$number]}"
done
if [ -n "${PRE_BUILD:-}" ]; then eval "./$PRE_BUILD"; fi
eval "${MAKE[0]:-make -C $kernel_source_dir M=$PWD}"
"""
# What a source looks for elsewhere than where its neighbours do.
BEFORE = {
    "ddcci": """
mkdir -p "lib/$kernelver"; ln -s "$kernel_source_dir" "lib/$kernelver/build"
sed -i "s#^LIB_MODULES_PATH := .*#LIB_MODULES_PATH := $PWD/lib#" ddcci*/Makefile
""",
}
HERE = Path(__file__).resolve().parent
LEVELS = r"""
sed -i -e 's/^#include <linux.module.h>/&\nstatic int level;\nmodule_param(level, int, 0444);\nMODULE_PARM_DESC(level, "a number");/' \
       -e 's/\(: loaded, .*\)\\n", \(.*\));/\1, level %d\\n", \2, level);/' *.c
make -C "$kernel_source_dir" M="$PWD" modules"""


def edu(kernel: Image) -> List[Path]:
    """ootedu.ko (a PCI driver that exports one symbol) and ootedu_user.ko (which needs it), for one kernel."""
    return compiled("edu", HERE / "edu", kernel, 'make -C "$kernel_source_dir" M="$PWD" modules')


def levels(kernel: Image) -> List[Path]:
    """The same with a parameter each, ``level``, which they tell when they are loaded."""
    return compiled("level-edu", HERE / "edu", kernel, LEVELS)


def dkms(name: str, kernel: Image) -> List[Path]:
    """The modules of a driver out of the dkms package that the kernel's suite has, for that kernel.

    What does not compile is not tried again.
    """
    failed = debian.cache() / "drivers" / "failed" / ("%s-%s_%s" % (name, kernel.release, kernel.version))
    if failed.exists():
        raise LabError(failed.read_text())
    source = debian.unpack(debian.package(name + "-dkms", kernel.suite))
    try:
        return compiled(
            name, next(source.glob("usr/src/*/dkms.conf")).parent, kernel, BEFORE.get(name, "") + DKMS
        )
    except Missing:
        raise
    except LabError as error:
        failed.parent.mkdir(parents=True, exist_ok=True)
        failed.write_text(str(error))
        raise


def all_dkms(kernel: Image) -> Dict[str, List[Path]]:
    """Every driver of ``NAMES`` that compiles for the kernel; what does not is told on standard error."""
    found = {}
    for name in NAMES:
        try:
            found[name] = dkms(name, kernel)
        except Missing:
            raise
        except LabError as error:
            say("  left out: %s" % str(error)[-160:].replace("\n", " | "))
    return found


def compiled(name: str, source: Path, kernel: Image, recipe: str) -> List[Path]:
    """The modules that a source directory gives for a kernel, built once by a shell ``recipe``, without their
    debugging data.
    """
    digest = hashlib.sha256(recipe.encode())
    for path in sorted(source.rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    build = debian.build_directory(kernel)

    def make(temporary: Path) -> None:
        work = temporary / "src"
        shutil.copytree(str(source), str(work), symlinks=True)
        prefix, flags = _toolchain(kernel)
        environment = dict(
            os.environ,
            kernelver=kernel.release,
            kernel_source_dir=str(build),
            arch="x86_64",
            LC_ALL="C",
            MAKEFLAGS=flags,
        )
        say("compiling %s for %s" % (name, kernel.release))
        run(prefix + ["bash", "-ec", "cd %s; %s" % (work, recipe)], env=environment)
        made = sorted(work.rglob("*.ko"))
        if not made:
            raise LabError("%s: no module was built for %s" % (name, kernel.release))
        for path in made:
            run(["strip", "--strip-debug", "-o", str(temporary / path.name), str(path)])
        shutil.rmtree(str(work))

    directory = once(
        debian.cache()
        / "drivers"
        / ("%s-%s" % (name, digest.hexdigest()[:12]))
        / ("%s_%s" % (kernel.release, kernel.version)),
        make,
    )
    return sorted(directory.glob("*.ko"))


def _toolchain(kernel: Image) -> Tuple[List[str], str]:
    """What to put before a compiling command, and MAKEFLAGS: this machine's compiler unless the kernel was
    built by a newer one.

    An older compiler knows not all options that the kernel's configuration asks for; a newer one does well
    enough for modules.
    """
    text = (debian.build_directory(kernel) / ".config").read_text()
    wanted = re.search(r'^CONFIG_CC_VERSION_TEXT=".*?gcc-(\d+)', text, re.M)
    have = re.match(r"\d+", run(["gcc", "-dumpversion"])) if shutil.which("gcc") else None
    if wanted and have and int(wanted.group(1)) <= int(have.group()):
        return [], "-j2 -- CC=gcc"
    major = wanted.group(1) if wanted else ""
    root = _chroot(kernel.suite, major)
    return ["unshare", "--mount", "sh", "-ec", INSIDE, str(debian.cache()), str(root)], "-j2"


def _chroot(suite: str, major: str) -> Path:
    """A small system of another suite with its compiler."""
    if os.geteuid() or not shutil.which("mmdebstrap"):
        raise Missing(
            "%s: its kernels need gcc %s, thus root and mmdebstrap to make a system of that suite"
            % (suite, major)
        )

    def make(temporary: Path) -> None:
        say("making a system of %s with gcc %s" % (suite, major))
        debian.system(suite, temporary / "root", ["gcc-" + major, "make", "dwarves", "bc", "kmod"])
        (temporary / "root" / str(debian.cache()).lstrip("/")).mkdir(parents=True)

    return once(debian.cache() / "chroots" / ("%s-gcc%s" % (suite, major)), make) / "root"
