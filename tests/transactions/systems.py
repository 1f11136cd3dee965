# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian systems with one kernel, made once and kept in the lab's cache, and the packages that the tests
install in them.
"""

import hashlib
import os
import shutil
from pathlib import Path
from typing import List, NamedTuple, Tuple

from tests.lab import debian
from tests.lab.debian import Image, run, say
from tests.transactions import chroot

FLAVOUR = "cloud-amd64"
DRIVER = "ootedu"
META = "linux-image-lab"  # as linux-image-cloud-amd64 is: it depends on the newest kernel
MACHINE = "4bb1c2a09d3e4f5e8f6a7b8c9d0e1f20"  # machine-id
PACKAGES = (
    "systemd-sysv",
    "systemd-boot",
    "udev",
    "kmod",
    "python3",
    "zstd",
    "linux-base",
    "grub2-common",
    "cpio",
)
GENERATORS = {"initramfs-tools": ("initramfs-tools",), "dracut": ("dracut",)}
# No documentation, no sync of each file, and no daemon.
DPKG = (
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "force-unsafe-io",
)
# grub-mkconfig runs for real; what it asks of disks is answered here.
GRUB_PROBE = (
    """#!/bin/sh
for word; do
  case $word in
    --target=*) target=${word#*=} ;;
    -t) next=1 ;;
    *) [ -z "$next" ] || { target=$word; next=; } ;;
  esac
done
case $target in
  device) echo /dev/vda1 ;; fs_uuid) echo %s ;; fs) echo ext2 ;; partmap) echo gpt ;; drive) echo '(hd0,gpt1)' ;;
  compatibility_hint) echo hd0,gpt1 ;; hints_string) echo "--hint='hd0,gpt1'" ;;
  partuuid) echo 11111111-2222-3333-4444-555555555555 ;; abstraction) ;; *) exit 1 ;;
esac
"""
    % chroot.UUID
)  # noqa: E501
ANSWERED = {
    "usr/sbin/grub-probe": GRUB_PROBE,
    # the hooks of GRUB do nothing in a container
    "usr/bin/systemd-detect-virt": "#!/bin/sh\necho none\nexit 1\n",
    "usr/sbin/policy-rc.d": "#!/bin/sh\nexit 101\n",  # no service is started
}
SMALL = {
    # What is listed is in the image, as an administrator has it for a driver that is needed early. An image
    # is made in a second or two.
    "initramfs-tools": {
        "etc/initramfs-tools/conf.d/small": "MODULES=list\nBUSYBOX=n\nCOMPRESS=zstd\nCOMPRESSLEVEL=1\n",
        "etc/initramfs-tools/modules": DRIVER + "\n",
    },
    "dracut": {
        "etc/dracut.conf.d/small.conf": 'hostonly=no\ndracutmodules+=" base kernel-modules "\ndrivers+=" virtio_blk %s "\n'
        'do_strip=no\ncompress="zstd -1"\nearly_microcode=no\n' % DRIVER
    },
}


class System(NamedTuple):
    """A system by what decides what its hooks do."""

    suite: str
    generator: str
    loader: str  # grub2 or systemd-boot

    def __str__(self) -> str:
        return "-".join(self)

    def kernels(self) -> Tuple[Image, Image, Image]:
        return kernels(self.suite)

    def shared(self) -> Path:
        return shared(self.suite)

    def base(self) -> chroot.Layers:
        return base(self.suite, self.generator)

    def begin(self, host: chroot.Root) -> None:
        """Make one that has the files of both boot loaders one that is started by its own."""
        host.ok(LOADERS[self.loader])
        host.ok("apt-get update -qq")


def kernels(suite: str) -> Tuple[Image, Image, Image]:
    """Three kernels that the suite's system is given: the first it has; the second is newer; what was built
    for the first is refused by the third, which is another series and is the newest."""
    own = newest(suite)
    if suite == "bookworm":
        return own[-2], own[-1], debian.kernels(suite, flavour=FLAVOUR)[-1]
    if suite == "trixie":
        return own[-2], own[-1], newest("sid")[-1]
    return (*newest("trixie")[-2:], own[-1])  # type: ignore[return-value]  # of sid's own, none takes what was built for another


def newest(suite: str) -> List[Image]:
    offered = debian.kernels(suite, flavour=FLAVOUR)
    series = ".".join(offered[0].release.split(".")[:2]) + "."
    return [image for image in offered if image.release.startswith(series)]


def shared(suite: str) -> Path:
    """A directory with a repository of packages: the kernels, and two versions of what depends on the newest
    one.
    """
    images = kernels(suite)
    needed = ["linux-base"] if suite == "trixie" else []  # the third kernel's needs sid's

    def make(directory: Path) -> None:
        for number, image in enumerate(images[:2], 1):
            tree = directory / "meta"
            chroot.write(
                tree,
                "DEBIAN/control",
                "Package: %s\nVersion: %d\nArchitecture: amd64\nMaintainer: nobody <nobody@localhost>\n"
                "Depends: %s\nDescription: the newest kernel\n" % (META, number, image.package),
            )
            run(
                [
                    "dpkg-deb",
                    "--root-owner-group",
                    "-Znone",
                    "-b",
                    str(tree),
                    str(directory / ("%s_%d_amd64.deb" % (META, number))),
                ]
            )
            shutil.rmtree(str(tree))
        for image in images:
            for deb in debian.image_packages(image):
                os.link(str(deb), str(directory / deb.name))
        for name in needed:
            deb = debian.package(name, images[2].suite)
            os.link(str(deb), str(directory / deb.name))
        packages = run(["dpkg-scanpackages", "--multiversion", "."], cwd=str(directory))
        (directory / "Packages").write_text(packages)

    return debian.once(
        debian.cache() / "transactions" / ("packages-%s-%s" % (suite, key(images, *needed))), make
    )


def key(*what: object) -> str:
    return hashlib.sha256(repr(what).encode()).hexdigest()[:8]


def base(suite: str, generator: str) -> chroot.Layers:
    """A system with the first of the suite's kernels, and the files of both boot loaders."""
    first = kernels(suite)[0]
    repository = shared(suite)

    def make(directory: Path) -> None:
        say("making a system of %s with %s" % (suite, generator))
        root = directory / "root"
        debian.system(suite, root, PACKAGES + GENERATORS[generator], *("--dpkgopt=" + line for line in DPKG))
        shutil.rmtree(str(root / "etc/apt/sources.list.d"))
        (root / "etc/apt/sources.list").unlink(missing_ok=True)
        for name, text in {**SETTINGS, **SMALL[generator]}.items():
            chroot.write(root, name, text)
        for name, text in ANSWERED.items():
            if (root / name).exists():
                run(
                    [
                        "chroot",
                        str(root),
                        "dpkg-divert",
                        "--quiet",
                        "--local",
                        "--rename",
                        "--add",
                        "/" + name,
                    ]
                )
            chroot.write(root, name, text, 0o755)
        (root / "boot/efi").mkdir()
        chroot.write(root, "boot/grub/grub.cfg", "")  # without one the hooks leave GRUB alone
        with chroot.mounted(root, repository):
            script = "apt-get update -qq; apt-get install -y -q %s=1" % META
            done = chroot.ran(root, script)
            if done.status or first.release not in (root / "boot/grub/grub.cfg").read_text():
                raise debian.LabError("%s: %s" % (script, done.said[-3000:]))
        shutil.move(str(root / "boot"), str(directory / "boot"))
        (root / "boot").mkdir()

    recipe = key(PACKAGES, DPKG, ANSWERED, SETTINGS, SMALL[generator], kernels(suite))
    place = debian.once(
        debian.cache() / "transactions" / ("%s-%s-%s-%s" % (suite, generator, first.release, recipe)), make
    )
    return chroot.Layers((place / "root",), place / "boot")


SETTINGS = {
    "etc/apt/sources.list.d/local.list": "deb [trusted=yes] file:/%s ./\n" % chroot.SHARED,
    "etc/apt/apt.conf.d/lab": 'APT::Install-Recommends "false";\nDpkg::Use-Pty "0";\nAcquire::Languages "none";\nAPT::Sandbox::User "root";\n',
    "etc/fstab": "UUID=%s / ext4 defaults 0 1\n" % chroot.UUID,
    "etc/machine-id": MACHINE + "\n",
    "etc/kernel/cmdline": "root=UUID=%s ro quiet\n" % chroot.UUID,
    "etc/default/grub": "GRUB_DEFAULT=0\nGRUB_TIMEOUT=1\nGRUB_DISTRIBUTOR=Debian\nGRUB_CMDLINE_LINUX_DEFAULT=quiet\nGRUB_DISABLE_OS_PROBER=true\n",
}
# What makes a system that has the files of both boot loaders one that is started by either.
LOADERS = {
    "grub2": "update-grub; grub-editenv /boot/grub/grubenv create",  # which grub-install does
    "systemd-boot": """
rm -r /boot/grub
mkdir -p /boot/efi/EFI/systemd /boot/efi/EFI/BOOT /boot/efi/loader/entries /boot/efi/%(machine)s
program=$(ls /usr/lib/systemd/boot/efi/systemd-bootx64.efi* | head -1)  # signed or not
cp $program /boot/efi/EFI/systemd/systemd-bootx64.efi
cp $program /boot/efi/EFI/BOOT/BOOTX64.EFI
printf 'timeout 1\\n' > /boot/efi/loader/loader.conf
printf 'BOOT_ROOT=/boot/efi\\nlayout=bls\\n' > /etc/kernel/install.conf
for image in /boot/vmlinuz-*; do release=${image#*-}; kernel-install add $release $image /boot/initrd.img-$release; done
"""
    % {"machine": MACHINE},
}
