# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""python -m tests.forge.small_root root|images DIRECTORY: what the integration targets work on.

``root``: DIRECTORY/root, an EL-like root with kernels 1 to 3, and DIRECTORY/builds of a driver for 1 and 2;
the latter suits 2 and 3. ``images``: in the root DIRECTORY, a shipped initramfs for each kernel, as dracut
lays it out, with the in-tree modules in it.
"""

import gzip
import subprocess
import sys
from pathlib import Path

from tests.forge import families
from tests.forge.cpio import cpio
from tests.forge.ko import LAYOUT, ko

RELEASES = {"5.14.0-1.el9.x86_64": 0x71, "5.14.0-2.el9.x86_64": 0x72, "5.14.0-3.el9.x86_64": 0x72}


def module(release: str, version: str = "1.0") -> bytes:
    return ko(
        "vendor", [LAYOUT, ("device_add", RELEASES[release])], release=release, modinfo={"version": version}
    )


def root(directory: Path) -> None:
    top = directory / "root"
    families.configure(top, "el9")
    for release, crc in RELEASES.items():
        exports = [LAYOUT + (False, "", "vmlinux"), ("device_add", crc, False, "", "vmlinux")]
        modules = families.kernel(
            top,
            release,
            exports=exports,
            family="el9",
            in_tree={"drivers/net/vendor.ko": module(release, version="in-tree")},
        )
        for name in families.FAMILIES["el9"].directories:
            (modules / name).mkdir()
        subprocess.run(
            ["depmod", "-b", str(top), release], check=True, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"}
        )
    for release in list(RELEASES)[:2]:
        path = directory / "builds" / release / "vendor.ko"
        path.parent.mkdir(parents=True)
        path.write_bytes(module(release))


def images(directory: Path) -> None:
    for modules in (directory / "lib/modules").iterdir():
        top = modules.resolve()
        files = {
            "usr/lib/modules/%s/%s" % (modules.name, path.relative_to(top)): path.read_bytes()
            for path in sorted(top.rglob("*"))
            if path.is_file() and not path.is_symlink()
        }
        image = directory / "boot" / ("initramfs-%s.img" % modules.name)
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(
            gzip.compress(
                cpio({"init": b"#!/bin/sh\n", "lib": "usr/lib", "usr/lib/systemd/systemd": b"", **files}),
                mtime=0,
            )
        )
        image.chmod(0o600)


if __name__ == "__main__":
    {"root": root, "images": images}[sys.argv[1]](Path(sys.argv[2]))
