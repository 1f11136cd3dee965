# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the demo deploys and to what: real kernels of Debian packages and a real module, or generated ones
where packages cannot be had.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from tests.forge import families
from tests.forge.fleet import Kernel, hardlink_tree, initramfs, write
from tests.forge.ko import ko
from tests.forge.package import deb
from tests.forge.symvers import EXPORTS, symvers
from tests.lab import debian

COUNT = 4
# Drivers that clouds ship out of tree as well: taken out of the kernel packages, they are what a vendor would
# hand out.
DRIVERS = ("ena", "gve", "mana")
IN_INITRAMFS = ("virtio_blk", "virtio_net", "nvme", "ext4", "dm-mod")


class Stock(NamedTuple):
    kernels: list[Kernel]  # oldest first
    driver: str
    builds: Path  # one directory a release, each with the driver's module
    notes: list[str]
    newer: str  # a kernel that no host has
    package: Path  # its headers


def get(directory: Path, generate: bool) -> Stock:
    debian.borrow_kmod()
    reason = "as asked" if generate else debian.available()
    if reason is None:
        return packaged(directory)
    return generated(directory, reason)


def packaged(directory: Path) -> Stock:
    """The four newest kernels of Debian's cloud flavour, and a driver built for the two in the middle."""
    offered = debian.kernels("bookworm", "amd64", "cloud-amd64")
    # the suite's own; newer ones are backports, and never neighbours
    series = ".".join(offered[0].release.split(".")[:2]) + "."
    images = [image for image in offered if image.release.startswith(series)][-COUNT:]
    kernels = []
    driver = ""
    for number, image in enumerate(images):
        print("  %s (%d MB)" % (image.package, image.size // 10**6), flush=True)
        tree = directory / image.release
        unpacked = debian.tree(image)
        modules = tree / "lib/modules"
        hardlink_tree(
            next(path for path in (unpacked / "usr/lib/modules", unpacked / "lib/modules") if path.is_dir()),
            modules,
        )
        hardlink_tree(unpacked / "boot", tree / "boot")
        found = {path.name.split(".")[0]: path for path in modules.rglob("*.ko*")}
        driver = driver or next(name for name in DRIVERS if name in found)
        if number in (1, 2):
            build = directory / "builds" / image.release
            build.mkdir(parents=True)
            shutil.copy2(found[driver], build)
        found[driver].unlink()  # out of the tree, for real
        subprocess.run(["depmod", "-b", str(tree), image.release], check=True)
        kernel = Kernel(image.release, tree, debian.symvers(image).read_bytes())
        (tree / "initramfs").write_bytes(
            initramfs(kernel, [found[name] for name in IN_INITRAMFS if name in found])
        )
        kernels.append(kernel)
    newer = offered[-1]  # of backports, where there are any: another series
    headers = debian.package("linux-headers-" + newer.release, newer.suite, newer.arch, newer.version)
    return Stock(
        kernels,
        driver,
        directory / "builds",
        [
            "real kernels, and their own %s driver taken out of them, as its vendor ships it: built for %s and %s"
            % (driver, images[1].release, images[2].release)
        ],
        newer.release,
        headers,
    )


def generated(directory: Path, reason: str) -> Stock:
    """Four generated kernels and a generated driver: small files with the tables of real ones.

    The newer two have the same symbol versions.
    """
    if shutil.which("depmod") is None:
        raise SystemExit("depmod is needed (package kmod), and it cannot be fetched: " + reason)
    releases = ["6.1.0-%d-generated" % number for number in range(1, COUNT + 1)]
    kernels = []
    for number, release in enumerate(releases):
        exports = [
            (symbol, crc + min(number, 2) * (symbol == "kfree"), *rest) for symbol, crc, *rest in EXPORTS
        ]
        tree = directory / release
        disk = ko("disk", [("module_layout", 0x11)], release=release)
        top = families.kernel(tree, release, exports=exports, in_tree={"drivers/block/disk.ko": disk})
        (top / "modules.builtin.modinfo").touch()
        subprocess.run(["depmod", "-b", str(tree), release], check=True)
        kernel = Kernel(release, tree, symvers(exports), generated=True)
        (tree / "initramfs").write_bytes(initramfs(kernel, sorted(tree.rglob("disk.ko"))))
        kernels.append(kernel)
        if number in (1, 2):
            needs = [
                (symbol, crc)
                for symbol, crc, *_rest in exports
                if symbol in ("module_layout", "printk", "kfree")
            ]
            write(directory / "builds" / release / "vendor.ko", ko("vendor", needs, release=release))
    newer = "6.1.0-%d-generated" % (COUNT + 1)
    return Stock(
        kernels,
        "vendor",
        directory / "builds",
        ["generated kernels and a generated driver, not real ones: " + reason],
        newer,
        headers(directory / ("linux-headers-%s.deb" % newer), newer),
    )


def headers(path: Path, release: str) -> Path:
    """A package with the headers of a generated kernel that takes no build for the others."""
    top = "./usr/src/linux-headers-%s/" % release
    config = "CONFIG_X86_64=y\nCONFIG_SMP=y\nCONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\nCONFIG_MODULE_UNLOAD=y\n"
    files = {
        top + "Module.symvers": symvers([(name, crc + 7, *rest) for name, crc, *rest in EXPORTS]),
        top + ".config": config.encode(),
        top + "include/generated/utsrelease.h": ('#define UTS_RELEASE "%s"\n' % release).encode(),
    }
    write(path, deb(files=files))
    return path
