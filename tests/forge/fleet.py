# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Directory hosts laid out as the families' machines are: each function turns an empty directory into one.

What boots them (kernels, modules, depmod's indexes) is given: real kernels of packages, or generated ones.
The initramfs images hold a few modules and an init script and would not boot by themselves.
"""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
from pathlib import Path
from typing import Callable, NamedTuple

from tests.forge import families
from tests.forge.cpio import of_tree
from tests.forge.families import FAMILIES, configure
from tests.forge.ko import ko
from tests.forge.machines import grubenv
from tests.forge.symvers import EXPORTS, symvers


class Kernel(NamedTuple):
    """An unpacked kernel: ``tree`` holds boot/ and lib/modules/RELEASE; ``symvers`` is its symbol versions,
    None where they are not at hand.
    """

    release: str
    tree: Path
    symvers: bytes | None
    generated: bool = False  # its boot image is none


def write(path: Path, text: str | bytes, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(mode)


def hardlink_tree(source: Path, target: Path) -> None:
    """Copy a tree without its bytes where the file system allows it: nothing in the demo writes into a file
    in place.
    """

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other, follow_symlinks=False)
        except OSError:
            shutil.copy2(one, other, follow_symlinks=False)

    shutil.copytree(source, target, symlinks=True, copy_function=link, dirs_exist_ok=True)


def install(host: Path, kernel: Kernel, family: str, usr: bool) -> Path:
    """A kernel's modules, image, configuration and initramfs. Answers with the directory of its modules."""
    hardlink_tree(kernel.tree / "lib/modules", host / ("usr/lib/modules" if usr else "lib/modules"))
    hardlink_tree(kernel.tree / "boot", host / "boot")
    write(
        host / "boot" / (FAMILIES[family].initrd % kernel.release),
        kernel.tree.joinpath("initramfs").read_bytes(),
        0o600,
    )
    if usr and not (host / "lib").exists():
        (host / "lib").symlink_to("usr/lib")
    modules = host / "lib/modules" / kernel.release
    for name in FAMILIES[family].directories:
        (modules / name).mkdir()
    return modules


def initramfs(kernel: Kernel, drivers: list[Path]) -> bytes:
    """A gzip'ed cpio with an init script and some of the kernel's modules, indexed by depmod."""
    scratch = kernel.tree / "initramfs.d"
    modules = scratch / "usr/lib/modules" / kernel.release
    for path in drivers:
        target = modules / path.relative_to(kernel.tree / "lib/modules" / kernel.release)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (scratch / "lib").symlink_to("usr/lib")
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        source = kernel.tree / "lib/modules" / kernel.release / name
        if source.exists():
            shutil.copyfile(source, modules / name)
    write(scratch / "init", "#!/bin/sh\nexec /sbin/init\n", 0o755)
    subprocess.run(["depmod", "-b", str(scratch), kernel.release], check=True)
    image = of_tree(scratch)
    shutil.rmtree(scratch)
    return gzip.compress(image, 6, mtime=0)


NEEDS = ("module_layout", "printk", "kfree")


def exports(change: int) -> list:
    return [(symbol, crc + change * (symbol == "kfree"), *rest) for symbol, crc, *rest in EXPORTS]


def kernel(directory: Path, release: str, change: int = 0) -> Kernel:
    """A kernel that takes what was built for another one of the same ``change`` and no other."""
    tree = directory / release
    top = families.kernel(
        tree,
        release,
        exports=exports(change),
        in_tree={"drivers/block/disk.ko": ko("disk", [("module_layout", 0x11)], release=release)},
    )
    (top / "modules.builtin.modinfo").touch()
    subprocess.run(["depmod", "-b", str(tree), release], check=True)
    made = Kernel(release, tree, symvers(exports(change)), generated=True)
    (tree / "initramfs").write_bytes(initramfs(made, sorted(tree.rglob("disk.ko"))))
    return made


def build(directory: Path, driver: str, release: str, change: int = 0) -> Path:
    """The driver's module, built for a release, at RELEASE/DRIVER.ko."""
    path = directory / release / (driver + ".ko")
    needs = [(symbol, crc) for symbol, crc, *_rest in exports(change) if symbol in NEEDS]
    write(path, ko(driver, needs, release=release))
    return path


ROOT = "root=UUID=11111111-2222-3333-4444-555555555555 ro"


HELD_BACK = "el7"  # somebody has it start its oldest kernel, which takes no build of the driver


def grub2_menu(
    kernels: list[Kernel], title: str, initrd: str, boot: str, unrestricted: str = "", default: str = "0"
) -> str:
    """What grub-mkconfig writes, shortened to the parts that matter: one entry a kernel and the stanza of
    41_custom.
    """
    entries = "".join(
        """menuentry '%(title)s, with Linux %(release)s' --class gnu-linux %(unrestricted)s$menuentry_id_option 'gnulinux-%(release)s-advanced' {
\tload_video
\tinsmod gzio
\tinsmod part_gpt
\tinsmod ext2
\tsearch --no-floppy --fs-uuid --set=root 11111111-2222-3333-4444-555555555555
\techo\t'Loading Linux %(release)s ...'
\tlinux\t%(boot)svmlinuz-%(release)s %(root)s quiet
\techo\t'Loading initial ramdisk ...'
\tinitrd\t%(boot)s%(initrd)s
}
"""
        % {
            "title": title,
            "release": kernel.release,
            "unrestricted": unrestricted,
            "boot": boot,
            "root": ROOT,
            "initrd": initrd % kernel.release,
        }
        for kernel in reversed(kernels)
    )
    return """set default="%s"
if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
### BEGIN /etc/grub.d/10_linux ###
%s### END /etc/grub.d/10_linux ###
### BEGIN /etc/grub.d/41_custom ###
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
### END /etc/grub.d/41_custom ###
""" % (default, entries)


def symvers_in_boot(host: Path, kernel: Kernel) -> None:
    if kernel.symvers:
        write(host / "boot" / ("symvers-%s.gz" % kernel.release), gzip.compress(kernel.symvers, 6, mtime=0))


def el9(host: Path, kernels: list[Kernel]) -> None:
    """Enterprise Linux 9: usr-merged, /boot apart, BLS entries, symvers in the modules' directory and a link
    to it in /boot.
    """
    configure(host, "el9")
    machine = "5f3c9d0e8b7a4c21a6d4e0f1b2c3d4e5"
    write(host / "etc/machine-id", machine + "\n")
    for kernel in kernels:
        modules = install(host, kernel, "el9", usr=True)
        if kernel.symvers:
            write(modules / "symvers.gz", gzip.compress(kernel.symvers, 6, mtime=0))
            (host / "boot" / ("symvers-%s.gz" % kernel.release)).symlink_to(
                "/lib/modules/%s/symvers.gz" % kernel.release
            )
        write(
            host / "boot/loader/entries" / ("%s-%s.conf" % (machine, kernel.release)),
            """title Rocky Linux (%(release)s) 9.6 (Blue Onyx)
version %(release)s
linux /vmlinuz-%(release)s
initrd /initramfs-%(release)s.img $tuned_initrd
options %(root)s crashkernel=1G-4G:192M $tuned_params
grub_users $grub_users
grub_arg --unrestricted
grub_class rocky
"""
            % {"release": kernel.release, "root": ROOT},
        )
    write(
        host / "boot/grub2/grub.cfg",
        'set default="${saved_entry}"\ninsmod blscfg\nblscfg\n'
        "if [ -f  ${config_directory}/custom.cfg ]; then\n  source ${config_directory}/custom.cfg\nfi\n",
    )
    write(host / "boot/grub2/grubenv", grubenv("saved_entry=%s-%s" % (machine, kernels[-1].release)))
    write(host / "etc/default/grub", "GRUB_DEFAULT=saved\nGRUB_ENABLE_BLSCFG=true\n")


def el7(host: Path, kernels: list[Kernel]) -> None:
    """Enterprise Linux 7: GRUB 2 without BLS, symvers in /boot; the default is its oldest kernel, by
    somebody's choice.
    """
    configure(host, "el7")
    for kernel in kernels:
        install(host, kernel, "el7", usr=True)
        symvers_in_boot(host, kernel)
    write(
        host / "boot/grub2/grub.cfg",
        grub2_menu(
            kernels, "CentOS Linux (Core)", FAMILIES["el7"].initrd, "/", "--unrestricted ", "${saved_entry}"
        ),
        0o600,
    )
    write(host / "boot/grub2/grubenv", grubenv("saved_entry=gnulinux-%s-advanced" % kernels[0].release))
    write(host / "etc/default/grub", "GRUB_DEFAULT=saved\n")


def debian(host: Path, kernels: list[Kernel]) -> None:
    """Debian 12: no symvers, the exports are read out of the kernel image and its modules."""
    configure(host, "debian")
    for kernel in kernels:
        install(host, kernel, "debian", usr=True)
        if kernel.generated and kernel.symvers:
            write(host / "usr/src" / ("linux-headers-" + kernel.release) / "Module.symvers", kernel.symvers)
    write(
        host / "boot/grub/grub.cfg",
        grub2_menu(kernels, "Debian GNU/Linux", FAMILIES["debian"].initrd, "/boot/"),
        0o600,
    )
    write(host / "boot/grub/grubenv", grubenv())
    write(host / "etc/default/grub", "GRUB_DEFAULT=0\n")


def sles(host: Path, kernels: list[Kernel]) -> None:
    """SUSE Linux Enterprise Server 15: weak-updates before built-in in depmod's search order, initrd without
    suffix.
    """
    configure(host, "sles")
    for kernel in kernels:
        install(host, kernel, "sles", usr=False)
        symvers_in_boot(host, kernel)
    write(
        host / "boot/grub2/grub.cfg",
        grub2_menu(kernels, "SLES 15-SP6", FAMILIES["sles"].initrd, "/boot/"),
        0o600,
    )
    write(host / "boot/grub2/grubenv", grubenv())
    write(host / "etc/default/grub", "GRUB_DEFAULT=saved\n")


def el6(host: Path, kernels: list[Kernel]) -> None:
    """Enterprise Linux 6: GRUB legacy, /etc/grub.conf a symlink, nothing usr-merged."""
    configure(host, "el6")
    write(host / "etc/redhat-release", "CentOS release 6.10 (Final)\n")
    for kernel in kernels:
        install(host, kernel, "el6", usr=False)
        symvers_in_boot(host, kernel)
    titles = "".join(
        "title CentOS (%(release)s)\n\troot (hd0,0)\n\tkernel /vmlinuz-%(release)s ro root=/dev/sda2 quiet\n"
        "\tinitrd /initramfs-%(release)s.img\n" % {"release": kernel.release}
        for kernel in reversed(kernels)
    )
    write(
        host / "boot/grub/grub.conf",
        "# grub.conf generated by anaconda\ndefault=0\ntimeout=5\nhiddenmenu\n" + titles,
        0o600,
    )
    (host / "etc/grub.conf").symlink_to("../boot/grub/grub.conf")
    (host / "boot/grub/menu.lst").symlink_to("./grub.conf")


# What the demo calls its hosts: the makers.
HOSTS: dict[str, Callable[[Path, list[Kernel]], None]] = {
    "el9": el9,
    "el7": el7,
    "debian12": debian,
    "sles15": sles,
    "el6": el6,
}
