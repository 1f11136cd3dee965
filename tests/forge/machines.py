# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Boot configurations as the families' own tools write them, below a directory."""

import os
import textwrap

from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.menu import Verified
from tests.forge import families

OLD, NEW = "5.14.0-427.13.1.el9_4.x86_64", "5.14.0-503.11.1.el9_5.x86_64"
MACHINE = "5f3c9d0e8b7a4c21a6d4e0f1b2c3d4e5"
DRIVER = "3w-9xxx"
UUID = "11111111-2222-3333-4444-555555555555"
HEADER = "# GRUB Environment Block\n"

GRUB_HEAD = """\
if [ -s $prefix/grubenv ]; then
  set have_grubenv=true
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="%s"
fi

if [ x"${feature_menuentry_id}" = xy ]; then
  menuentry_id_option="--id"
else
  menuentry_id_option=""
fi
export menuentry_id_option

function savedefault {
  if [ -z "${boot_once}" ]; then
    saved_entry="${chosen}"
    save_env saved_entry
  fi
}
"""

GRUB_TAIL = """\
### BEGIN /etc/grub.d/40_custom ###
# This file provides an easy way to add custom menu entries.
### END /etc/grub.d/40_custom ###

### BEGIN /etc/grub.d/41_custom ###
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
### END /etc/grub.d/41_custom ###
"""


def write(root, path, text="", mode=0o644):
    target = os.path.join(str(root), path.lstrip("/"))
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with open(target, "w") as file:
        file.write(text)
    os.chmod(target, mode)


def images(root, initrd, *releases, boot="/boot/"):
    for release in releases:
        write(root, boot + "vmlinuz-" + release, "kernel")
        write(root, boot + initrd % release, "initramfs", 0o600)
        write(root, boot + initrd % release + ".1", "initramfs with the driver", 0o600)


def grubenv(*lines):
    return (HEADER + "".join(line + "\n" for line in lines)).ljust(1024, "#")


def menuentry(
    title,
    ident,
    release,
    initrd,
    boot="/boot/",
    options="--class gnu-linux ",
    args="quiet",
    indent="",
    more="",
):
    return textwrap.indent(
        """\
menuentry '%s' %s$menuentry_id_option '%s' {
%s\tload_video
\tinsmod gzio
\tif [ x$grub_platform = xxen ]; then insmod xzio; insmod lzopio; fi
\tinsmod part_msdos
\tinsmod ext2
\tset root='hd0,msdos1'
\tif [ x$feature_platform_search_hint = xy ]; then
\t  search --no-floppy --fs-uuid --set=root --hint-bios=hd0,msdos1  %s
\telse
\t  search --no-floppy --fs-uuid --set=root %s
\tfi
\techo\t'Loading Linux %s ...'
\tlinux\t%svmlinuz-%s root=UUID=%s ro %s
\techo\t'Loading initial ramdisk ...'
\tinitrd\t%s%s
}
"""
        % (
            title,
            options,
            ident,
            more,
            UUID,
            UUID,
            release,
            boot,
            release,
            UUID,
            args,
            boot,
            initrd % release,
        ),
        indent,
    )


def debian(root, default="0", boot="/boot/", more=""):
    """Debian and Ubuntu: an entry for the newest kernel, and a submenu with all of them and their recovery
    modes.
    """
    initrd = families.FAMILIES["debian"].initrd
    images(root, initrd, OLD, NEW)
    text = GRUB_HEAD % default + "### BEGIN /etc/grub.d/10_linux ###\n"
    text += menuentry("Debian GNU/Linux", "gnulinux-simple-" + UUID, NEW, initrd, boot, more=more)
    text += (
        "submenu 'Advanced options for Debian GNU/Linux' $menuentry_id_option 'gnulinux-advanced-%s' {\n"
        % UUID
    )
    for release in (NEW, OLD):
        title = "Debian GNU/Linux, with Linux " + release
        text += menuentry(
            title, "gnulinux-%s-advanced-%s" % (release, UUID), release, initrd, boot, indent="\t", more=more
        )
        text += menuentry(
            title + " (recovery mode)",
            "gnulinux-%s-recovery-%s" % (release, UUID),
            release,
            initrd,
            boot,
            args="single ",
            indent="\t",
        )
    text += "}\n\n### END /etc/grub.d/10_linux ###\n"
    write(root, "/boot/grub/grub.cfg", text + GRUB_TAIL, 0o600)
    write(root, "/boot/grub/grubenv", grubenv())
    return initrd


def el7(root, directory="/boot/grub2"):
    """Enterprise Linux 7: a flat menu, the default saved, /boot apart."""
    initrd = families.FAMILIES["el7"].initrd
    images(root, initrd, OLD, NEW)
    text = GRUB_HEAD % "${saved_entry}" + "### BEGIN /etc/grub.d/10_linux ###\n"
    for release in (NEW, OLD):
        each = menuentry(
            "CentOS Linux (%s) 7 (Core)" % release,
            "gnulinux-%s-advanced-%s" % (OLD, UUID),  # grubby has copied OLD's entry, with its id
            release,
            initrd,
            "/",
            "--class centos --class gnu-linux --class os --unrestricted ",
        )
        text += each.replace("linux\t", "linux16 ").replace("initrd\t", "initrd16 ")
    write(root, "/boot/vmlinuz-0-rescue-" + MACHINE)
    write(root, "/boot/initramfs-0-rescue-%s.img" % MACHINE)
    text += menuentry(
        "CentOS Linux (0-rescue-%s) 7 (Core)" % MACHINE,
        "gnulinux-0-rescue-%s-advanced-%s" % (MACHINE, UUID),
        "0-rescue-" + MACHINE,
        initrd,
        "/",
    )
    write(root, directory + "/grub.cfg", text + "### END /etc/grub.d/10_linux ###\n" + GRUB_TAIL)
    write(root, directory + "/grubenv", grubenv("saved_entry=CentOS Linux (%s) 7 (Core)" % NEW))
    return initrd


def bls_entry(release, options, initrd_more="", title="Rocky Linux (%s) 9.4 (Blue Onyx)"):
    return """title %s
version %s
linux /vmlinuz-%s
initrd /initramfs-%s.img%s
options %s
grub_users $grub_users
grub_arg --unrestricted
grub_class rocky
""" % (title % release, release, release, release, initrd_more, options)


def el9(root, saved=None, options="root=UUID=%s ro crashkernel=1G-4G:192M $tuned_params" % UUID):
    """Enterprise Linux 8 to 10 and Fedora: entries are files, the default is saved."""
    initrd = families.FAMILIES["el9"].initrd
    images(root, initrd, OLD, NEW)
    for release in (OLD, NEW):
        write(
            root,
            "/boot/loader/entries/%s-%s.conf" % (MACHINE, release),
            bls_entry(release, options, " $tuned_initrd"),
        )
    text = (
        GRUB_HEAD % "${saved_entry}"
        + "### BEGIN /etc/grub.d/10_linux ###\ninsmod part_msdos\ninsmod xfs\nset root='hd0,msdos1'\n"
    )
    text += "insmod blscfg\nblscfg\n"
    write(root, "/boot/grub2/grub.cfg", text + "### END /etc/grub.d/10_linux ###\n" + GRUB_TAIL, 0o600)
    write(root, "/boot/grub2/grubenv", grubenv(*["saved_entry=" + saved] if saved else []))
    return initrd


def el8(root):
    """Enterprise Linux 8: the arguments are a variable of the environment block."""
    initrd = el9(root, "%s-%s" % (MACHINE, NEW), "$kernelopts $tuned_params")
    write(
        root,
        "/boot/grub2/grubenv",
        grubenv("saved_entry=%s-%s" % (MACHINE, NEW), "kernelopts=root=/dev/mapper/rhel-root ro quiet "),
    )
    return initrd


def sles(root):
    """SUSE Linux Enterprise 12 and 15."""
    initrd = families.FAMILIES["sles"].initrd
    images(root, initrd, OLD, NEW)
    text = GRUB_HEAD % "${saved_entry}" + "### BEGIN /etc/grub.d/10_linux ###\n"
    text += menuentry(
        "SLES 15-SP6",
        "gnulinux-simple-" + UUID,
        NEW,
        initrd,
        options="--class sles --class gnu-linux --class gnu --class os ",
    )
    text += (
        "submenu 'Advanced options for SLES 15-SP6' --hotkey=1 $menuentry_id_option 'gnulinux-advanced-%s' {\n"
        % UUID
    )
    for release in (NEW, OLD):
        text += menuentry(
            "SLES 15-SP6, with Linux " + release,
            "gnulinux-%s-advanced-%s" % (release, UUID),
            release,
            initrd,
            indent="\t",
        )
    write(root, "/boot/grub2/grub.cfg", text + "}\n### END /etc/grub.d/10_linux ###\n" + GRUB_TAIL, 0o600)
    write(root, "/boot/grub2/grubenv", grubenv("saved_entry=SLES 15-SP6"))
    return initrd


def el6(root, default="default=1", end="\n"):
    """Enterprise Linux 5 and 6: GRUB legacy, /etc/grub.conf a symlink, /boot apart."""
    initrd = families.FAMILIES["el6"].initrd
    images(root, initrd, OLD, NEW)
    text = "# grub.conf generated by anaconda\n#\n# Note that you do not have to rerun grub after making changes to this file\n"
    text += "%s\ntimeout=5\nsplashimage=(hd0,0)/grub/splash.xpm.gz\nhiddenmenu\n" % default
    for release in (NEW, OLD):
        text += (
            "title CentOS (%s)\n\troot (hd0,0)\n\tkernel /vmlinuz-%s ro root=/dev/mapper/vg-root rd_NO_LUKS quiet\n"
            % (release, release)
        )
        text += "\tinitrd /initramfs-%s.img\n" % release
    write(root, "/boot/grub/grub.conf", text[:-1] + end, 0o600)
    os.symlink("./grub.conf", str(root / "boot/grub/menu.lst"))
    os.makedirs(str(root / "etc"), exist_ok=True)
    os.symlink("../boot/grub/grub.conf", str(root / "etc/grub.conf"))
    return initrd


def systemd_boot(root, esp="/boot/efi", sort_key="sort-key rocky\n"):
    """systemd-boot as kernel-install lays it out: a directory a kernel on the EFI system partition, beside
    its entries.
    """
    initrd = families.FAMILIES["debian"].initrd
    for release in (OLD, NEW):
        directory = "%s/%s/%s" % (esp, MACHINE, release)
        write(root, directory + "/linux")
        for ending in ("", ".1"):
            write(root, "%s/%s%s" % (directory, initrd % release, ending), "initramfs", 0o700)
            write(root, "/boot/%s%s" % (initrd % release, ending), "where kernel-install copied it from")
        write(
            root,
            "%s/loader/entries/%s-%s.conf" % (esp, MACHINE, release),
            """title      Rocky Linux
version    %s
machine-id %s
%soptions    root=UUID=%s ro
linux      /%s/%s/linux
initrd     /%s/%s/%s
"""
            % (release, MACHINE, sort_key, UUID, MACHINE, release, MACHINE, release, initrd % release),
            0o700,
        )
    write(root, esp + "/EFI/systemd/systemd-bootx64.efi")
    write(root, esp + "/loader/loader.conf", "timeout 3\nconsole-mode keep\n", 0o700)
    return initrd


def extlinux(root):
    """extlinux, and U-Boot's reading of the same file."""
    initrd = families.FAMILIES["debian"].initrd
    images(root, initrd, OLD, NEW)
    text = "## /boot/extlinux/extlinux.conf\n\ndefault l0\nmenu title U-Boot menu\nprompt 0\ntimeout 50\n"
    for number, release in enumerate((NEW, OLD)):
        text += (
            "\nlabel l%d\n\tmenu label Debian GNU/Linux %s\n\tlinux /boot/vmlinuz-%s\n\tinitrd /boot/initrd.img-%s\n"
            % (number, release, release, release)
        )
        text += "\tfdtdir /usr/lib/linux-image-%s/\n\n\tappend root=UUID=%s ro quiet\n" % (release, UUID)
        text += (
            "\nlabel l%dr\n\tmenu label Debian GNU/Linux %s (rescue target)\n\tlinux /boot/vmlinuz-%s\n\tinitrd /boot/initrd.img-%s\n"
            % (number, release, release, release)
        )
        text += "\tappend root=UUID=%s ro single\n" % UUID
    write(root, "/boot/extlinux/extlinux.conf", text)
    return initrd


def directory(family):
    """Where a family's images lie, with a place for the release."""
    return "/boot/efi/%s/%%s/" % MACHINE if family == "systemd-boot" else "/boot/"


def verified(kernels):
    """Images by kernel, as they are handed on once they have been looked at."""
    return {release: Verified(tuple(paths)) for release, paths in kernels.items()}


FAMILIES = {
    "debian": debian,
    "el7": el7,
    "el8": el8,
    "el9": el9,
    "sles": sles,
    "el6": el6,
    "systemd-boot": systemd_boot,
    "extlinux": extlinux,
}
