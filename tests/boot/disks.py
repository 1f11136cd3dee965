# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Debian machines on disks, each started by another boot loader: installed by the loader's own tools, in the
machine itself.

A disk is made once and kept in the lab's cache; a test works on a throw-away overlay of it.
"""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple, Optional

from tests.boot import guest
from tests.lab import debian
from tests.lab.debian import run, say

PACKAGES = (
    "systemd-sysv",
    "udev",
    "kmod",
    "dbus",
    "openssh-server",
    "python3",
    "initramfs-tools",
    "busybox",
    "zstd",
    "iproute2",
    "netbase",
    "procps",
    "dosfstools",
    "e2fsprogs",
    "xfsprogs",
    "grub2-common",
    "grub-pc-bin",
    "grub-efi-amd64-bin",
    "systemd-boot",
)
NEEDED = ("mmdebstrap", "parted", "mke2fs", "qemu-img", "qemu-system-x86_64", "ssh", "ssh-keygen")
FLAVOUR = "cloud-amd64"
ROOT_AT = 512  # MiB; before it 1 MiB for GRUB's core image, an EFI system partition, and one for /boot
SIZE = 2048  # MiB
# What a test machine does without, so that it starts sooner.
MASKED = (
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service",
    "systemd-pstore.service",
    "systemd-resolved.service",
    "sshkeys.service",
)

BIOS, OVMF = "bios", "ovmf"


class Disk(NamedTuple):
    """A machine: its suite, firmware, whether /boot is a partition of its own, what installs its boot loader,
    what its root is made as, and how many newer kernels of its series there are than its own.
    """

    name: str
    suite: str
    firmware: str
    boot_apart: bool
    install: str
    filesystem: str = "ext4"
    behind: int = 0


GRUB_DEFAULTS = """
cat > /etc/default/grub <<'END'
GRUB_DEFAULT=0
GRUB_TIMEOUT=1
GRUB_DISTRIBUTOR=Debian
GRUB_TERMINAL="serial console"
GRUB_CMDLINE_LINUX="console=ttyS0 net.ifnames=0"
GRUB_CMDLINE_LINUX_DEFAULT=""
GRUB_DISABLE_OS_PROBER=true
END
"""
# As Enterprise Linux has it: nothing but blscfg in grub.cfg, the default saved, an entry a kernel in
# /boot/loader/entries.
BLS = (
    GRUB_DEFAULTS
    + r"""
sed -i 's/^GRUB_DEFAULT=.*/GRUB_DEFAULT=saved/' /etc/default/grub
chmod -x /etc/grub.d/10_linux
cat > /etc/grub.d/10_bls <<'END'
#!/bin/sh
. /usr/share/grub/grub-mkconfig_lib
prepare_grub_to_access_device "$GRUB_DEVICE_BOOT"
echo 'insmod blscfg'
echo 'blscfg'
END
chmod +x /etc/grub.d/10_bls
mkdir -p /boot/loader/entries
release=$(uname -r)
cat > /boot/loader/entries/$(cat /etc/machine-id)-$release.conf <<END
title Debian GNU/Linux ($release) sid
version $release
linux /vmlinuz-$release
initrd /initrd.img-$release
options root=UUID=$(findmnt -no UUID /) ro console=ttyS0 net.ifnames=0
grub_users \$grub_users
grub_arg --unrestricted
grub_class debian
END
"""
)
SYSTEMD_BOOT = """
mkdir -p /etc/kernel
echo "root=UUID=$(findmnt -no UUID /) ro console=ttyS0 net.ifnames=0" > /etc/kernel/cmdline
bootctl install --no-variables
printf 'timeout 1\\nconsole-mode keep\\n' > /boot/efi/loader/loader.conf
kernel-install add $(uname -r) /boot/vmlinuz-$(uname -r) /boot/initrd.img-$(uname -r)
"""
DISKS = (
    Disk(
        "grub-bios",
        "bookworm",
        BIOS,
        False,
        GRUB_DEFAULTS + "grub-install --target=i386-pc /dev/vda && update-grub",
    ),
    Disk(
        "grub-efi",
        "bookworm",
        OVMF,
        True,
        GRUB_DEFAULTS
        + "grub-install --target=x86_64-efi --efi-directory=/boot/efi --removable --no-nvram && update-grub",
    ),
    Disk("grub-bls", "sid", BIOS, True, BLS + "grub-install --target=i386-pc /dev/vda && update-grub"),
    Disk("systemd-boot", "bookworm", OVMF, False, SYSTEMD_BOOT),
)
# for what is a matter of the file system, not of the loader
XFS = DISKS[0]._replace(name="grub-xfs", filesystem="xfs")
# for a newer kernel of the same series to arrive
OLDER = DISKS[0]._replace(name="grub-older", behind=1)


def missing() -> Optional[str]:
    """None where disks can be made and started, else what is lacking."""
    if os.geteuid():
        return "not root"
    absent = [tool for tool in NEEDED if shutil.which(tool) is None]
    if absent:
        return "not installed: " + ", ".join(absent)
    if not guest.ovmf():
        return "no OVMF firmware"
    return debian.available()


def kernel(suite: str, behind: int = 0) -> debian.Image:
    """The newest kernel of the suite's own series, or one of those before it."""
    offered = debian.kernels(suite, flavour=FLAVOUR)
    series = ".".join(offered[0].release.split(".")[:2]) + "."
    return [image for image in offered if image.release.startswith(series)][-1 - behind]


def key() -> Path:
    """The private key that opens every test machine."""
    return debian.once(debian.cache() / "boot" / "key", lambda directory: _key(directory)) / "id"


def _key(directory: Path) -> None:
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test machine", "-f", str(directory / "id")])


def root(suite: str, behind: int) -> Path:
    """The root file system of a machine, as a tarball."""
    image = kernel(suite, behind)

    def make(directory: Path) -> None:
        say("making a root of %s with %s" % (suite, image.release))
        debian.system(
            suite,
            directory / "root.tar",
            PACKAGES + (image.package,),
            "--customize-hook=rm -rf $1/usr/share/doc $1/usr/share/locale $1/usr/share/man",
        )

    recipe = hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:8]
    return (
        debian.once(debian.cache() / "boot" / ("root-%s_%s_%s" % (suite, image.release, recipe)), make)
        / "root.tar"
    )


def image(disk: Disk) -> Path:
    """The finished disk, shared by all: start it through an overlay."""
    release = kernel(disk.suite, disk.behind).release

    def make(directory: Path) -> None:
        say("making the disk %s" % disk.name)
        with tempfile.TemporaryDirectory(prefix="root-", dir=str(directory)) as tree:
            run(["tar", "-x", "-C", tree, "-f", str(root(disk.suite, disk.behind))])
            _prepare(Path(tree), disk)
            path = directory / "disk.raw"
            with open(str(path), "wb") as file:
                file.truncate(SIZE << 20)
            run(
                [
                    "parted",
                    "-s",
                    str(path),
                    "mklabel",
                    "gpt",
                    "mkpart",
                    "grub",
                    "1MiB",
                    "2MiB",
                    "set",
                    "1",
                    "bios_grub",
                    "on",
                    "mkpart",
                    "esp",
                    "fat32",
                    "2MiB",
                    "194MiB",
                    "set",
                    "2",
                    "esp",
                    "on",
                    "mkpart",
                    "boot",
                    "ext4",
                    "194MiB",
                    "%dMiB" % ROOT_AT,
                    "mkpart",
                    "root",
                    "ext4",
                    "%dMiB" % ROOT_AT,
                    "100%",
                ]
            )
            FILL[disk.filesystem](Path(tree), path, SIZE - ROOT_AT - 1)
            boot = [next(Path(tree, "boot").glob(name + release)) for name in ("vmlinuz-", "initrd.img-")]
            direct = [
                "-kernel",
                str(boot[0]),
                "-initrd",
                str(boot[1]),
                "-append",
                "root=/dev/vda4 ro console=ttyS0 net.ifnames=0",
            ]
            with guest.Guest(
                path, disk.firmware, directory / "install.log", key(), options=direct, raw=True
            ) as machine:
                machine.wait()
                machine.script(_install(disk))
                machine.power_off()

    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    return (
        debian.once(debian.cache() / "boot" / ("disk-%s_%s_%s" % (disk.name, release, recipe)), make)
        / "disk.raw"
    )


def _fill_ext4(tree: Path, disk: Path, size: int) -> None:
    run(
        [
            "mke2fs",
            "-q",
            "-t",
            "ext4",
            "-L",
            "root",
            "-E",
            "offset=%d" % (ROOT_AT << 20),
            "-d",
            str(tree),
            str(disk),
            "%dm" % size,
        ]
    )


def _fill_xfs(tree: Path, disk: Path, size: int) -> None:
    """Nothing fills an XFS but a mounted one.

    It is made by the machine's own mkfs: a newer one's features would be unknown to its GRUB.
    """
    run(["chroot", str(tree), "mkfs.xfs", "-q", "-L", "root", "-d", "file,name=/root.xfs,size=%dm" % size])
    partition = disk.with_name("root.xfs")
    os.rename(str(tree / "root.xfs"), str(partition))
    with tempfile.TemporaryDirectory(prefix="point-", dir=str(disk.parent)) as point:
        run(["mount", "-o", "loop", str(partition), point])
        try:
            run(["cp", "-a", str(tree) + "/.", point])
        finally:
            run(["umount", point])
    run(
        [
            "dd",
            "if=%s" % partition,
            "of=%s" % disk,
            "bs=1M",
            "seek=%d" % ROOT_AT,
            "conv=notrunc,sparse",
            "status=none",
        ]
    )
    partition.unlink()


FILL = {"ext4": _fill_ext4, "xfs": _fill_xfs}  # (what is to be in it, the disk, MiB)


def _prepare(tree: Path, disk: Disk) -> None:
    """What makes a root a machine: a name, a network, a key, and no more services than needed."""

    def write(path: str, text: str, mode: int = 0o644) -> None:
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)

    write("etc/hostname", disk.name + "\n")
    write("etc/fstab", "LABEL=root / %s rw,noatime 0 1\n" % disk.filesystem)
    write("etc/machine-id", "%032x\n" % (0x5F3C9D0E8B7A4C21A6D4E0F1B2C3D4E5 + sum(disk.name.encode())))
    write(
        "etc/systemd/network/10-eth0.network",
        "[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
    )
    write(
        "etc/ssh/sshd_config.d/test.conf",
        "UseDNS no\nUsePAM no\nPermitRootLogin prohibit-password\nMaxStartups 100\n",
    )
    (tree / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    write("root/.ssh/authorized_keys", key().with_suffix(".pub").read_text(), 0o600)
    run(["chroot", str(tree), "systemctl", "enable", "--quiet", "systemd-networkd.service", "ssh.service"])
    run(["chroot", str(tree), "systemctl", "mask", "--quiet", *MASKED])
    run(["chroot", str(tree), "ssh-keygen", "-A"])


def _install(disk: Disk) -> str:
    """The script that turns the machine, started from outside, into one that starts by itself."""
    text = ["set -e", "mount -o remount,rw /"]
    if disk.boot_apart:
        text += [
            "mkfs.ext4 -q -L boot /dev/vda3",
            "mount /dev/vda3 /mnt",
            "cp -a /boot/. /mnt/",
            "rm -rf /boot/*",
            "umount /mnt",
            "echo 'LABEL=boot /boot ext4 rw,noatime 0 2' >> /etc/fstab",
            "mount /boot",
        ]
    if disk.firmware == OVMF:
        text += [
            "mkfs.vfat -n ESP /dev/vda2 > /dev/null",
            "mkdir -p /boot/efi",
            "echo 'LABEL=ESP /boot/efi vfat umask=0077 0 2' >> /etc/fstab",
            "mount /boot/efi",
        ]
    return "\n".join(text) + "\n" + disk.install + "\nsync\n"


def overlay(disk: Disk, directory: Path) -> Path:
    """A disk of a test's own, on top of the shared one."""
    path = directory / (disk.name + ".qcow2")
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image(disk)), "-F", "raw", str(path)])
    return path
