# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Out-of-tree drivers compiled for real kernels: Debian's dkms source packages, and a small one of our own for qemu's "edu" device."""
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import List, Tuple

import debian
from debian import Image, LabError, once, run, say

# The cache is seen at its own path inside, since the headers are named by absolute paths.
INSIDE = 'root=$1; mount --bind "$0" "$root$0"; mount -t proc proc "$root/proc"; shift; exec chroot "$root" "$@"'
HERE = Path(__file__).resolve().parent


def edu(kernel: Image) -> List[Path]:
    """ootedu.ko (a PCI driver that exports one symbol) and ootedu_user.ko (which needs it), for one kernel."""
    return compiled("edu", HERE / "edu", kernel, 'make -C "$kernel_source_dir" M="$PWD" modules')


def compiled(name: str, source: Path, kernel: Image, recipe: str) -> List[Path]:
    """The modules that a source directory gives for a kernel, built once by a shell ``recipe``, without their debugging data."""
    digest = hashlib.sha256(recipe.encode())
    for path in sorted(source.rglob("*")):
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    build = debian.build_directory(kernel)

    def make(temporary: Path) -> None:
        work = temporary / "src"
        shutil.copytree(str(source), str(work), symlinks=True)
        prefix, flags = _toolchain(kernel)
        environment = dict(os.environ, kernelver=kernel.release, kernel_source_dir=str(build), arch="x86_64", LC_ALL="C", MAKEFLAGS=flags)
        say("compiling %s for %s" % (name, kernel.release))
        run(prefix + ["bash", "-ec", "cd %s; %s" % (work, recipe)], env=environment)
        made = sorted(work.rglob("*.ko"))
        if not made:
            raise LabError("%s: no module was built for %s" % (name, kernel.release))
        for path in made:
            run(["strip", "--strip-debug", "-o", str(temporary / path.name), str(path)])
        shutil.rmtree(str(work))

    directory = once(debian.cache() / "drivers" / ("%s-%s" % (name, digest.hexdigest()[:12])) / ("%s_%s" % (kernel.release, kernel.version)), make)
    return sorted(directory.glob("*.ko"))


def _toolchain(kernel: Image) -> Tuple[List[str], str]:
    """What to put before a compiling command, and MAKEFLAGS: this machine's compiler unless the kernel was built by a newer one.

    An older compiler knows not all options that the kernel's configuration asks for; a newer one does well enough for modules.
    """
    text = (debian.build_directory(kernel) / ".config").read_text()
    wanted = re.search(r'^CONFIG_CC_VERSION_TEXT=".*?gcc-(\d+)', text, re.M)
    have = re.match(r"\d+", run(["gcc", "-dumpversion"])) if shutil.which("gcc") else None
    if wanted and have and int(wanted.group(1)) <= int(have.group()):
        return [], "CC=gcc"
    major = wanted.group(1) if wanted else ""
    root = _chroot(kernel.suite, major)
    return ["unshare", "--mount", "sh", "-ec", INSIDE, str(debian.cache()), str(root)], ""


def _chroot(suite: str, major: str) -> Path:
    """A small system of another suite with its compiler."""
    if os.geteuid() or not shutil.which("mmdebstrap"):
        raise LabError("%s: its kernels need gcc %s, thus root and mmdebstrap to make a system of that suite" % (suite, major))

    def make(temporary: Path) -> None:
        say("making a system of %s with gcc %s" % (suite, major))
        configuration = temporary / "apt.conf"
        configuration.write_text("\n".join(debian.inherited()) + "\n")
        run(["mmdebstrap", "--quiet", "--variant=minbase", "--aptopt=%s" % configuration, "--include=gcc-%s,make,dwarves,bc,kmod" % major,
             suite, str(temporary / "root")], input=debian.sources(suite))
        (temporary / "root" / str(debian.cache()).lstrip("/")).mkdir(parents=True)

    return once(debian.cache() / "chroots" / ("%s-gcc%s" % (suite, major)), make) / "root"
