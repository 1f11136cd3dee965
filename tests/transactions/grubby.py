# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Enterprise Linux 7's way with kernels: new-kernel-pkg, which has grubby edit grub.cfg, as far as hooks and
boot entries notice.
"""

from pathlib import Path
from typing import Dict

from tests.lab.debian import Image
from tests.transactions import chroot

# What a grub.cfg consists of besides its entries.
GRUB_CFG = """\
load_env
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
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
"""
# %%post makes an entry without an initramfs, %%posttrans the initramfs, and only then calls the hooks. A new
# entry is a copy of the default, with its id.
NEW_KERNEL_PKG = r"""#!/usr/bin/python3
import glob, os, re, subprocess, sys

CONFIG, ENTRY = "/boot/grub2/grub.cfg", re.compile(r"^menuentry .*?^}\n", re.M | re.S)
FIRST = '''menuentry 'TITLE' --class red --class gnu-linux --class gnu --class os --unrestricted $menuentry_id_option 'gnulinux-%s-advanced-UUID' {
	load_video
	insmod gzio
	set root='hd0,gpt1'
	linux16 /vmlinuz-%s root=UUID=UUID ro quiet
	initrd16 /initramfs-%s.img
}
'''.replace("UUID=UUID", "UUID=" + open("/etc/fstab").read().split()[0][5:])
words, release = sys.argv[1:-1], sys.argv[-1]
with open("/var/log/calls", "a") as log:
    log.write("new-kernel-pkg %s\n" % " ".join(sys.argv[1:]))
text = open(CONFIG).read()
title = "Lab Enterprise Linux (%s) 7.4 (Lab)" % release
initramfs = "/boot/initramfs-%s.img" % release


def environment(*arguments):
    return subprocess.run(("grub2-editenv", "/boot/grub2/grubenv", *arguments), check=True, stdout=subprocess.PIPE).stdout.decode()


def saved():
    return dict(line.partition("=")[::2] for line in environment("list").splitlines()).get("saved_entry", "")


def entry(name):
    return next((each for each in ENTRY.findall(text) if each.startswith("menuentry '%s'" % name)), "")


def hooks(directory):
    for path in sorted(glob.glob("/etc/kernel/%s/*[!~]" % directory)):
        if os.access(path, os.X_OK):
            subprocess.call((path, release, "/boot/vmlinuz-" + release))


if "--install" in words and not entry(title):
    made = entry(saved()) or (ENTRY.findall(text) or [FIRST.replace("%s", release)])[0]
    made = re.sub(r"^menuentry '[^']*'", "menuentry '%s'" % title, made)
    made = re.sub(r"/vmlinuz-\S+", "/vmlinuz-" + release, re.sub(r"^\s*initrd16.*\n", "", made, flags=re.M))
    text = text.replace("10_linux ###\n", "10_linux ###\n" + made, 1)
    if "UPDATEDEFAULT=yes" in open("/etc/sysconfig/kernel").read():
        environment("set", "saved_entry=" + title)
if "--mkinitrd" in words:
    subprocess.call(("depmod", "-ae", "-F", "/boot/System.map-" + release, release))
    if subprocess.call(("dracut", "-f", initramfs, release)):
        sys.exit(1)
if "--update" in words and "initrd16" not in entry(title):
    old = entry(title)
    text = text.replace(old, old.replace("\n}", "\n\tinitrd16 /initramfs-%s.img\n}" % release))
if "--rpmposttrans" in words:
    hooks("postinst.d")
if "--rmmoddep" in words:
    for path in glob.glob("/lib/modules/%s/modules.*" % release):
        if not path.endswith((".builtin", ".order", ".builtin.modinfo")):
            os.unlink(path)
if "--rminitrd" in words and os.path.exists(initramfs):
    os.unlink(initramfs)
if "--remove" in words:
    hooks("prerm.d")
    text = text.replace(entry(title), "")
    if saved() == title and ENTRY.search(text):
        environment("set", "saved_entry=" + re.search("^menuentry '([^']*)'", text, re.M).group(1))
if text != open(CONFIG).read():
    with open(CONFIG + "-", "w") as file:
        file.write(text)
    os.rename(CONFIG + "-", CONFIG)
"""
SCRIPTS = {
    "post": "/usr/sbin/new-kernel-pkg --package kernel --install {release} || exit $?\n",
    "posttrans": """if [ -x /usr/sbin/weak-modules ]
then
    /usr/sbin/weak-modules --add-kernel {release} || exit $?
fi
/usr/sbin/new-kernel-pkg --package kernel --mkinitrd --dracut --depmod --update {release} || exit $?
/usr/sbin/new-kernel-pkg --package kernel --rpmposttrans {release} || exit $?
""",
    "preun": """/usr/sbin/new-kernel-pkg --rminitrd --rmmoddep --remove {release} || exit $?
if [ -x /usr/sbin/weak-modules ]
then
    /usr/sbin/weak-modules --remove-kernel {release} || exit $?
fi
""",
}


def at_boot(image: Image, core: Dict[str, Path]) -> Dict[str, Path]:
    """Where the one package of a kernel has what is booted, and what was made with it: in /boot itself."""
    found = {}
    for path, source in core.items():
        name, dot, suffix = Path(path).name.partition(".gz")
        found["/boot/%s-%s%s" % (name, image.release, dot)] = source
    return found


def prepare(root: Path) -> None:
    """Have a system install kernels in this way."""
    for name in ("postinst.d", "prerm.d"):
        (root / "etc/kernel" / name).mkdir(parents=True)
    chroot.write(root, "usr/sbin/new-kernel-pkg", NEW_KERNEL_PKG, 0o755)
    chroot.write(root, "boot/grub2/grub.cfg", GRUB_CFG % "")
