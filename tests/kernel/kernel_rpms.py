# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernel packages as Enterprise Linux lays them out, made by rpmbuild of the files of a real kernel.

Its boot files are listed and not packed (%ghost), and every symbol is a "provides" with its CRC (kernel.spec,
kernel-srpm-macros).
"""

import gzip
import lzma
import shutil
import subprocess
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence

from tests.lab import debian


class Layout(NamedTuple):
    """What differs between the releases of Enterprise Linux."""

    ending: str  # of symvers
    payload: str
    top: str


LAYOUTS = {
    "el8": Layout(".gz", "w2.xzdio", "/lib/modules"),
    "el9": Layout(".gz", "w3.zstdio", "/lib/modules"),
    "el10": Layout(".xz", "w3.zstdio", "/usr/lib/modules"),
}
LISTS = ("modules.builtin", "modules.builtin.modinfo", "modules.order")


def available() -> bool:
    return shutil.which("rpmbuild") is not None


def build(kernel: debian.Image, layout: str, directory: Path) -> Dict[str, Path]:
    """kernel-core, kernel-modules-core and kernel-devel of a kernel, by name."""
    form, release = LAYOUTS[layout], kernel.release
    tree, files = debian.tree(kernel), {}
    modules = tree / "usr/lib/modules" / release
    top = "%s/%s" % (form.top, release)
    table = debian.symvers(kernel).read_bytes()
    pack = gzip.compress(table) if form.ending == ".gz" else lzma.compress(table, check=lzma.CHECK_CRC32)
    root = directory / "root"
    core = [top + "/" + name for name in ("vmlinuz", "config", "symvers" + form.ending, *LISTS)]
    headers = "/usr/src/kernels/%s" % release
    devel = debian.symvers(kernel).parent
    files = {core[0]: debian.vmlinuz(kernel), core[1]: tree / "boot" / ("config-" + release)}
    files.update({top + "/" + name: modules / name for name in LISTS})
    wanted = (
        "Module.symvers",
        ".config",
        "include/generated/utsrelease.h",
        "include/generated/autoconf.h",
        "vmlinux",
    )
    files.update({"%s/%s" % (headers, name): devel / name for name in wanted if (devel / name).exists()})
    for place, path in files.items():
        (root / place[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(str(path), str(root / place[1:]))
    (root / core[2][1:]).write_bytes(pack)
    shutil.copytree(str(modules / "kernel"), str(root / top[1:] / "kernel"))
    ghosts = ["%%ghost /boot/%s-%s" % (name, release) for name in ("vmlinuz", "config", "symvers")]
    ghosts[2] += form.ending
    provides = ["kernel(%s) = %s" % tuple(line.split("\t")[1::-1]) for line in table.decode().splitlines()]
    packages = {
        "kernel-core": (core + ghosts, ["kernel-core-uname-r = %s" % release.replace("-", "_"), *provides]),
        "kernel-modules-core": (["%s/kernel" % top], []),
        "kernel-devel": ([headers], []),
    }
    _rpmbuild(packages, root, form, directory)
    return {path.name.rsplit("-", 2)[0]: path for path in (directory / "RPMS").rglob("*.rpm")}


def _rpmbuild(packages: Dict[str, Sequence[List[str]]], root: Path, form: Layout, directory: Path) -> None:
    text = "Name: kernel\nVersion: 1\nRelease: 1\nSummary: kernel\nLicense: GPL-2.0-only\nAutoReqProv: no\n"
    text += "%description\nkernel\n"
    for name, (files, provides) in packages.items():
        text += "%%package -n %s\nSummary: kernel\n" % name
        text += "".join("Provides: %s\n" % each for each in provides)
        text += "%%description -n %s\nkernel\n%%files -n %s\n%s\n" % (name, name, "\n".join(files))
    text += "%%install\ncp -al %s/. %%{buildroot}/\n" % root
    spec = directory / "kernel.spec"
    spec.write_text(text)
    made = ["_topdir %s" % directory, "_binary_payload " + form.payload, "__os_install_post true"]
    made += ["_build_id_links none", "debug_package %{nil}", "_buildrootdir %s/BUILDROOT" % directory]
    options = [word for each in made for word in ("--define", each)]
    done = subprocess.run(
        ["rpmbuild", "-bb", "--quiet", *options, str(spec)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:].decode("utf-8", "replace")
