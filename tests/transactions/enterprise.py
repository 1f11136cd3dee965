# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Systems that install kernels as Enterprise Linux and Fedora do: rpm and dnf, kernel-install with EL's
plugins, dracut, entries in files.

All programs are Debian's, of a suite that has the versions in question; the plugins that EL adds are written
here, after what EL's do.
"""

import re
import shutil
from pathlib import Path
from typing import Dict, NamedTuple, Optional, Tuple

from tests.lab import debian
from tests.lab.debian import Image, run, say
from tests.transactions import chroot, grubby, rpms, systems

PACKAGES = (
    "systemd-sysv",
    "udev",
    "kmod",
    "python3",
    "zstd",
    "dracut",
    "grub2-common",
    "cpio",
    "rpm",
    "xz-utils",
)
# for suites that are not merged by themselves, and have no package that says that they are
MERGED_USR = "/usr/share/mmdebstrap/hooks/merged-usr/setup00.sh"


class Enterprise(NamedTuple):
    """A system by its version of EL, and the suite that its programs are of."""

    el: int
    suite: str  # for new-kernel-pkg (EL 7) any; systemd 247 (EL 8 has 239), 252 (EL 9 has it too), 257 (EL 10 has it too), the newest
    dnf: str = "dnf"

    def __str__(self) -> str:
        return "el%d-%s" % (self.el, self.suite)

    def kernels(self) -> Tuple[Image, Image, Image]:
        """Three kernels; of what systems.kernels says. Those of bullseye are not kept in its archive."""
        return systems.kernels("bookworm" if self.suite == "bullseye" else self.suite)

    def shared(self) -> Path:
        """A repository of the kernels' packages."""
        images = self.kernels()

        def make(directory: Path) -> None:
            say("making packages of kernels for EL %d" % self.el)
            for image in images:
                rpms.build(image, self.el, directory)
            rpms.rpmbuild(rpms.HEAD.format(self.el, 1) + RELEASE % self.el, {}, directory)
            run(["createrepo_c", "--quiet", "--no-database", str(directory)])

        recipe = systems.key(
            images,
            self.el,
            rpms.OSTREE,
            rpms.CORE,
            rpms.MODULES,
            rpms.MADE,
            rpms.MORE.pattern,
            rpms.HEAD,
            rpms.LAYOUT,
            RELEASE,
            *([grubby.SCRIPTS] if self.el == 7 else []),
        )
        return debian.once(debian.cache() / "transactions" / ("rpms-el%d-%s" % (self.el, recipe)), make)

    def base(self) -> chroot.Layers:
        """A system with the first of its kernels."""
        first = self.kernels()[0]
        repository = self.shared()
        settings = {
            name: text % {"el": self.el} if name == "usr/lib/os-release" else text
            for name, text in SETTINGS.items()
        }

        def make(directory: Path) -> None:
            say("making a system like EL %d" % self.el)
            root = directory / "root"
            debian.system(
                self.suite,
                root,
                (*PACKAGES, self.dnf),
                *(["--setup-hook=" + MERGED_USR] if self.suite == "bullseye" else []),
                *("--dpkgopt=" + line for line in systems.DPKG),
            )
            for name in ("postinst.d", "postrm.d", "preinst.d", "prerm.d", "install.d"):
                shutil.rmtree(str(root / "etc/kernel" / name), ignore_errors=True)
            for path in (root / "usr/lib/kernel/install.d").glob("*"):
                if path.name in DEBIANS or path.name in PLUGINS:
                    path.unlink()
            for name, text in settings.items():
                (root / name).unlink(missing_ok=True)
                chroot.write(root, name, text)
            for name, text in PLUGINS.items() if self.el > 7 else ():
                chroot.write(root, "usr/lib/kernel/install.d/" + name, text, 0o755)
            if self.el == 7:
                grubby.prepare(root)
            chroot.write(root, "usr/sbin/weak-modules", WEAK_MODULES, 0o755)
            chroot.write(
                root, "usr/bin/systemd-detect-virt", systems.ANSWERED["usr/bin/systemd-detect-virt"], 0o755
            )
            for path in (root / "usr/bin/dracut", root / "usr/lib/dracut/dracut.conf.d/01-debian.conf"):
                if path.exists():  # newer ones have the name there
                    path.write_text(re.sub(*IMAGE, path.read_text()))
            for name in ("boot/efi", *(["boot/loader/entries"] if self.el > 7 else [])):
                (root / name).mkdir(parents=True)
            with chroot.mounted(root, repository):
                script = (
                    "ln -s grub-editenv /usr/bin/grub2-editenv; grub2-editenv /boot/grub2/grubenv create; %s -y install %s"
                    % (self.dnf, rpms.name("kernel", first))
                )
                done = chroot.ran(root, script)
                if done.status or not (root / ("boot/initramfs-%s.img" % first.release)).exists():
                    raise debian.LabError("%s: %s" % (script, done.said[-3000:]))
            shutil.move(str(root / "boot"), str(directory / "boot"))
            (root / "boot").mkdir()

        recipe = systems.key(
            PACKAGES,
            systems.DPKG,
            settings,
            PLUGINS,
            WEAK_MODULES,
            IMAGE,
            self,
            repository.name,
            self.kernels(),
        )
        if self.el == 7:
            recipe = systems.key(recipe, grubby.NEW_KERNEL_PKG, grubby.GRUB_CFG)
        place = debian.once(
            debian.cache() / "transactions" / ("%s-%s-%s" % (self, first.release, recipe)), make
        )
        return chroot.Layers((place / "root",), place / "boot")

    def begin(self, host: chroot.Root) -> None:
        host.ok("rm /var/log/calls")


def missing() -> Optional[str]:
    """None where packages of kernels can be made, else the reason why not."""
    absent = [tool for tool in ("rpmbuild", "createrepo_c") if shutil.which(tool) is None]
    return "not installed: " + ", ".join(absent) if absent else None


# The rest of the system, as far as packages of kernels need it.
RELEASE = """%%package -n lab-release
Summary: The rest of the system
Provides: /bin/sh
Provides: system-release = %d
%%description -n lab-release
The rest of the system.
%%files -n lab-release
"""
# plugins that EL does not have, or that only take time
DEBIANS = ("55-initrd.install", "85-initrd.install", "51-dracut-rescue.install")
# what dracut calls an image that nobody has named, as Debian has it, and as EL has it
IMAGE = (r"initrd\.img-(\$kernel|\$\{kernel\})", r"initramfs-\1.img")
BLSCFG = """\
insmod part_gpt
insmod ext2
set root='hd0,gpt1'
insmod blscfg
blscfg
"""
SETTINGS: Dict[str, str] = {
    "usr/lib/os-release": 'NAME="Lab Enterprise Linux"\nID="rhel"\nID_LIKE="fedora"\nVERSION_ID="%(el)d.4"\n'
    'PRETTY_NAME="Lab Enterprise Linux %(el)d.4"\n',
    "etc/dnf/dnf.conf": "[main]\ngpgcheck=0\ninstallonly_limit=3\nclean_requirements_on_remove=True\nbest=True\nplugins=0\n",
    "etc/yum.repos.d/lab.repo": "[lab]\nname=lab\nbaseurl=file:///%s\nenabled=1\ngpgcheck=0\n"
    % chroot.SHARED,
    "etc/sysconfig/kernel": "UPDATEDEFAULT=yes\nDEFAULTKERNEL=kernel-core\n",
    "etc/depmod.d/dist.conf": "search updates extra built-in weak-updates\n",
    "etc/fstab": systems.SETTINGS["etc/fstab"],
    "etc/machine-id": systems.SETTINGS["etc/machine-id"],
    "etc/kernel/cmdline": systems.SETTINGS["etc/kernel/cmdline"],
    "etc/dracut.conf.d/small.conf": systems.SMALL["dracut"]["etc/dracut.conf.d/small.conf"],
    "boot/grub2/grub.cfg": grubby.GRUB_CFG % BLSCFG,
}
# kmod's, as far as kernels call it: what matters here is when it is called, and that its failing is theirs.
WEAK_MODULES = """#!/bin/sh
echo "weak-modules $*" >> /var/log/calls
"""
# In the order of EL 9: the entry first, then dracut, then what edits the entry.
PLUGINS = {
    "20-grub.install": r"""#!/bin/sh
echo "20-grub $1 $2" >> /var/log/calls
command=$1 release=$2 image=$4
entry=/boot/loader/entries/$(cat /etc/machine-id)-$release.conf
case $command in
add)
    for name in vmlinuz System.map config; do
        cp -a "${image%/*}/$name" "/boot/$name-$release"
    done
    if [ "/boot/initramfs-$release.img" -ot "$image" ]; then
        rm -f "/boot/initramfs-$release.img"
    fi
    mkdir -p /boot/loader/entries
    cat > "$entry" <<END
title Lab Enterprise Linux ($release)
version $release
linux /vmlinuz-$release
initrd /initramfs-$release.img
options $(cat /etc/kernel/cmdline)
grub_users \$grub_users
grub_arg --unrestricted
grub_class rhel
END
    . /etc/sysconfig/kernel
    if [ "$UPDATEDEFAULT" = yes ]; then
        grub2-editenv /boot/grub2/grubenv set "saved_entry=$(cat /etc/machine-id)-$release"
    fi
    ;;
remove)
    rm -f "$entry" "/boot/vmlinuz-$release" "/boot/System.map-$release" "/boot/config-$release" /boot/symvers-"$release".*
    ;;
esac
exit 0
""",
    "50-dracut.install": r"""#!/bin/sh
echo "50-dracut $1 $2" >> /var/log/calls
case $1 in
add) exec dracut -f "/boot/initramfs-$2.img" "$2" ;;
remove) rm -f "/boot/initramfs-$2.img" ;;
esac
exit 0
""",
    "92-crashkernel.install": r"""#!/bin/sh
echo "92-crashkernel $1 $2" >> /var/log/calls
[ "$1" = add ] || exit 0
sed -i 's/^options .*/& crashkernel=1G-4G:192M/' "/boot/loader/entries/$(cat /etc/machine-id)-$2.conf"
""",
}
