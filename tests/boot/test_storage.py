# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a trial is refused because GRUB could not take it back: real LVM, RAID, encryption and btrfs on a
running machine, against what GRUB's own grub-probe says of them (which grub-mkconfig asks, to write a
configuration that saves nothing there).
"""

import ast
import subprocess
import sys

import pytest

from tests import CHECKOUT
from tests.boot import disks, guest
from tests.lab import debian

reason = disks.missing()
pytestmark = pytest.mark.skipif(reason is not None, reason=str(reason))
DISK = disks.DISKS[0]
TOOLS = (
    "lvm2",
    "libaio1",
    "libdevmapper-event1.02.1",
    "dmsetup",
    "mdadm",
    "btrfs-progs",
    "cryptsetup-bin",
    "libpopt0",
    "fdisk",
    "libfdisk1",
    "libreadline8",
    "liblzo2-2",
)
MAKE = """set -e
ldconfig
modprobe -a loop dm-mod dm-crypt raid1 btrfs xts
mkdir /root/disks
cd /root/disks
for name in plain lvm raid luks raidlvm btrfs lukslvm; do
    truncate -s 128M $name
    losetup --find --show $PWD/$name > $name.loop
done
logical() { vgcreate -qq $1 $2 > /dev/null; lvcreate -qq -y -n lv -l 100%FREE $1 > /dev/null; }
encrypted() { echo secret | cryptsetup luksFormat -q --type luks1 --iter-time 10 $2 -; echo secret | cryptsetup open -q --key-file - $2 $1; }
raid() { yes | mdadm --create $1 --quiet --level=1 --raid-devices=2 --run $2 missing; }
logical vg $(cat lvm.loop)
raid /dev/md1 $(cat raid.loop)
printf '2048,\\n' | sfdisk -q /dev/md1
encrypted luks $(cat luks.loop)
raid /dev/md2 $(cat raidlvm.loop)
logical vgraid /dev/md2
logical vgluks $(cat lukslvm.loop)
encrypted lukslvm /dev/vgluks/lv
udevadm settle
mount_ext4() { mkdir /mnt/$1; mkfs.ext4 -q $2; mount $2 /mnt/$1; }
mount_ext4 plain $(cat plain.loop)
mount_ext4 lvm /dev/vg/lv
mount_ext4 raid /dev/md1p1
mount_ext4 luks /dev/mapper/luks
mount_ext4 raidlvm /dev/vgraid/lv
mount_ext4 lukslvm /dev/mapper/lukslvm
mkdir /mnt/btrfs
mkfs.btrfs -q --mixed $(cat btrfs.loop)
mount $(cat btrfs.loop) /mnt/btrfs
btrfs subvolume create -q /mnt/btrfs/grub 2>/dev/null || btrfs subvolume create /mnt/btrfs/grub > /dev/null
"""
ASK = """
import subprocess, sys
sys.path.insert(0, "/root/kmodctl")
from outoftree_kmod.host import Host
from outoftree_kmod.place.boot import storage
for path in %r:
    open(path + "/grubenv", "w").close()
    probe = [subprocess.run(["grub-probe", "--target=" + target, path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            universal_newlines=True, check=True).stdout.split()
             for target in ("abstraction", "fs")]
    print(repr((path, storage.unwritable(Host(), path + "/grubenv", ""), *probe)))
"""
WHY = {
    "/boot/grub": None,
    "/mnt/plain": None,
    "/mnt/luks": None,
    "/mnt/lvm": "it is on LVM",
    "/mnt/raid": "it is on software RAID",
    "/mnt/raidlvm": "it is on LVM",
    "/mnt/lukslvm": "it is on LVM",
    "/mnt/btrfs": "it is on btrfs",
    "/mnt/btrfs/grub": "it is on btrfs",
}


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    directory = tmp_path_factory.mktemp("storage")
    with guest.Guest(
        disks.overlay(DISK, directory), DISK.firmware, directory / "console.log", disks.key()
    ) as running:
        running.wait()
        subprocess.run(
            [sys.executable, str(CHECKOUT / "tools/build_kmodctl.py"), str(directory / "kmodctl")], check=True
        )
        running.send("cat > /root/kmodctl", (directory / "kmodctl").read_bytes())
        for name in TOOLS:
            package = debian.package(name, DISK.suite)
            running.send(
                "tar -x --keep-directory-symlink -C /",
                subprocess.run(
                    ["dpkg-deb", "--fsys-tarfile", str(package)], check=True, stdout=subprocess.PIPE
                ).stdout,
            )
        running.script(MAKE)
        yield running


def test_a_trial_is_refused_where_grub_would_not_save_either(machine):
    said = machine.script("python3 - <<'END'%sEND\n" % (ASK % sorted(WHY)))
    found = {
        path: (why, abstraction, kind)
        for path, why, abstraction, kind in map(ast.literal_eval, said.splitlines())
    }
    assert {path: why for path, (why, _abstraction, _kind) in found.items()} == WHY
    for path, (why, abstraction, kind) in found.items():
        # as 00_header has it, and btrfs by GRUB's manual
        saves = not {"lvm", "diskfilter"} & set(abstraction) and kind != ["btrfs"]
        assert saves == (why is None), (path, why, abstraction, kind)
