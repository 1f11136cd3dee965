# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Container images of two Debian releases with real kernels and real initramfs images, builds of a driver for
those kernels, further ones to upgrade to, and the packages of a kernel that is to arrive.

The images are kept in podman's own storage, their roots in the lab's cache. Prints the environment that the
scenarios read.
"""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from tests import CHECKOUT
from tests.lab import debian

# How many kernels each gets: bookworm's two newest are neighbours, of which the newer takes what was built
# for the older.
KERNELS = {"bookworm": 2, "trixie": 1}
FOLLOWS = "bookworm"  # has a kernel that arrives, and one that leaves
DRIVER = "ena"
SIGNED = b"~Module signature appended~\n"
FLAVOUR = "cloud-amd64"


def newest(suite: str) -> "list[debian.Image]":
    """The newest kernels of the suite's own series, oldest first."""
    offered = debian.kernels(suite, flavour=FLAVOUR)
    series = ".".join(offered[0].release.split(".")[:2]) + "."
    return [image for image in offered if image.release.startswith(series)][-KERNELS[suite] :]


def root(suite: str, images: "list[debian.Image]") -> Path:
    """A tarball with Python, kmod, initramfs-tools and the kernels; the driver's in-tree twin is taken out."""
    packages = ["python3-minimal", "python3", "kmod", "initramfs-tools", "zstd", "xz-utils", "findutils"] + [
        image.package for image in images
    ]

    def make(directory: Path) -> None:
        hook = (
            "find $1/usr/lib/modules -name '%s.ko*' -delete; for tree in $1/usr/lib/modules/*; do depmod -b $1 ${tree##*/}; done"
            % DRIVER
        )
        debian.system(suite, directory / "root.tar", packages, "--customize-hook=" + hook)

    return (
        debian.once(
            debian.cache() / "containers" / ("%s_%s" % (suite, "_".join(image.release for image in images))),
            make,
        )
        / "root.tar"
    )


def unsigned(module: Path) -> bytes:
    """A module without its signature (kernel/module_signature.h): the same one, and another file."""
    data = module.read_bytes()
    end = len(data) - len(SIGNED) - 12
    if not data.endswith(SIGNED):
        raise debian.LabError("%s: bears no signature" % module)
    return data[: end - int.from_bytes(data[end + 8 : end + 12], "big")]


def main() -> None:
    top = CHECKOUT / "build" / "molecule"
    builds, upgrade, packages = top / "builds", top / "upgrade", top / "packages"
    for directory in (builds, upgrade, packages):
        shutil.rmtree(directory, ignore_errors=True)
    for suite in KERNELS:
        images = newest(suite)
        subprocess.run(
            [
                "podman",
                "--runtime",
                "runc",
                "import",
                "--quiet",
                str(root(suite, images)),
                "localhost/kmod-" + suite,
            ],
            check=True,
            stdout=sys.stderr,
        )
        oldest = images[0]
        (builds / oldest.release).mkdir(parents=True)
        module = next(debian.tree(oldest).rglob(DRIVER + ".ko*"))
        shutil.copy2(module, builds / oldest.release)
        if suite == FOLLOWS:
            (upgrade / oldest.release).mkdir(parents=True)
            (upgrade / oldest.release / module.name).write_bytes(unsigned(module))
            packages.mkdir()
            for deb in debian.image_packages(images[-1]):
                shutil.copy2(deb, packages)
    told = {
        "KMOD_DRIVER": DRIVER,
        "KMOD_BUILDS": builds,
        "KMOD_UPGRADE": upgrade,
        "KMOD_PACKAGES": packages,
    }
    print(" ".join("%s=%s" % (name, shlex.quote(str(value))) for name, value in told.items()))


if __name__ == "__main__":
    main()
