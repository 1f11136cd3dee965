# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A machine that follows new kernels by itself, from its first kernel to one that takes no build of the driver,
and on: kernels arrive by apt inside the machine, and it is rebooted.

The packages are on a second disk, as a repository of the machine's own.
"""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.boot import disks, guest
from tests.boot.test_boot import DRIVER, Machine
from tests.lab import drivers
from tests.lab.debian import run
from tests.transactions import chroot, systems

DISK = disks.OLDER
FOLLOWS = [
    word
    for setting in ("kmod_boot=default", "kmod_follow=true", "kmod_keep_default=true", "kmod_reboot=true")
    for word in ("-e", setting)
]
APT = "DEBIAN_FRONTEND=noninteractive apt-get -y -q "
CHECK = "outoftree-kmod-check.service"
MOTD = "/run/motd.d/outoftree-kmod"


@pytest.fixture(scope="module")
def kernels():
    """That of the machine, a newer one that takes what was built for it, and one that refuses that."""
    return systems.kernels(DISK.suite)


@pytest.fixture(scope="module")
def machine(tmp_path_factory, kernels):
    reason = disks.missing() or (None if shutil.which("dpkg-scanpackages") else "no dpkg-scanpackages")
    if reason:
        pytest.skip(reason)
    logs = os.environ.get("BOOT_LOGS")
    directory = Path(logs) / DISK.name if logs else tmp_path_factory.mktemp(DISK.name)
    directory.mkdir(parents=True, exist_ok=True)
    with guest.Guest(
        disks.overlay(DISK, directory),
        DISK.firmware,
        directory / "console.log",
        disks.key(),
        options=["-drive", "file=%s,if=virtio,format=raw,readonly=on" % _repository(directory)],
    ) as running:
        running.wait()
        there = Following(DISK, running, directory, running.script("uname -r").strip())
        assert there.kernel.release == kernels[0].release
        there.ran(
            "set -e; rm -f /etc/apt/sources.list /etc/apt/sources.list.d/*; mkdir -p /%(shared)s\n"
            "echo '/dev/vdb /%(shared)s ext4 ro 0 0' >> /etc/fstab; mount /%(shared)s"
            % {"shared": chroot.SHARED}
        )
        for name in ("etc/apt/sources.list.d/local.list", "etc/apt/apt.conf.d/lab"):
            there.guest.send("cat > /" + name, systems.SETTINGS[name].encode())
        there.ran("apt-get update -qq")
        yield there


def _repository(directory):
    disk = directory / "packages.ext4"
    disk.unlink(missing_ok=True)
    run(["mke2fs", "-q", "-t", "ext4", "-d", str(systems.shared(DISK.suite)), str(disk), "400m"])
    return disk


class Following(Machine):
    def builds(self, *images):
        """The driver as it was built for kernels, as a vendor ships it."""
        source = self.directory / "builds"
        for image in images:
            for path in drivers.edu(image):
                (source / image.release).mkdir(parents=True, exist_ok=True)
                shutil.copy2(str(path), str(source / image.release))
        return source

    def install(self, image):
        """By apt, as an automatic update does it; what it said."""
        began = time.monotonic()
        said = self.guest.script(APT + "install " + image.package, timeout=1800)
        print("apt-get install %s: %.0f s" % (image.package, time.monotonic() - began))
        return said

    def reboot(self):
        """Into what boots start; its kernel, once the unit that looks at each boot is done."""
        self.guest.reboot()
        self.settled()
        return self.ran("uname -r").strip()

    def settled(self):
        """Until no unit of ours is at work, and none is about to be."""
        self.ran(
            "while systemctl list-jobs --no-legend | grep -q 'outoftree-kmod' || "
            "systemctl show -p ActiveState outoftree-kmod.service %s | grep -q =activating; do sleep 1; done"
            % CHECK
        )

    def make_image(self, release):
        """The distribution's own image, by hand and without a hook."""
        self.ran("mkinitramfs -o /boot/initrd.img-%s %s" % (release, release))

    def variant(self, release):
        """(state, digest) of the variant of a kernel's image."""
        told = json.loads(self.ran("kmodctl variant --json || true"))  # its status is that of the worst
        (row,) = [row for row in told if row["kernel"] == release]
        return row["state"], self.ran("sha256sum " + row["path"]).split()[0]

    def state(self, unit):
        return self.guest.try_script("systemctl is-active " + unit)[1].strip()

    def told(self):
        """What the machine says of its following, wherever an admin may look."""
        fact = json.loads(self.ran("cat /etc/ansible/facts.d/outoftree_kmod.fact"))
        return (
            fact["drivers"].get(DRIVER, []),
            self.ran("kmodctl status"),
            self.guest.try_script("cat " + MOTD)[1],
            self.ran("journalctl -b -t outoftree-kmod -o cat"),
        )


def test_it_is_deployed_and_follows(machine, kernels):
    machine.deploy(machine.builds(kernels[0]), DRIVER, *FOLLOWS)
    assert machine.started_by() == DRIVER and machine.loaded_in_initramfs()
    assert machine.state("outoftree-kmod.path") == "active"


def test_an_image_that_is_made_and_nobody_told_has_its_variant_made_again_by_the_path_unit(machine, kernels):
    release = kernels[0].release
    before = machine.variant(release)
    machine.make_image(release)
    deadline = time.monotonic() + 600
    while machine.variant(release) == before or machine.variant(release)[0] != "current":
        assert time.monotonic() < deadline, machine.ran("systemctl status outoftree-kmod.path")
        time.sleep(5)
    machine.settled()


def test_what_the_path_unit_missed_is_done_before_the_machine_goes_down(machine, kernels):
    release = kernels[0].release
    machine.ran("systemctl stop outoftree-kmod.path")
    machine.make_image(release)
    assert machine.variant(release)[0] == "stale"
    assert machine.reboot() == release
    assert machine.variant(release)[0] == "current"
    made = machine.ran("stat -c %%Y /boot/initrd.img-%s.*" % release).split()
    booted = int(machine.ran("sed -n 's/^btime //p' /proc/stat"))
    assert max(map(int, made)) < booted, "not by the look that follows the boot"
    assert machine.started_by() == DRIVER and machine.loaded_in_initramfs()


def test_a_new_kernel_comes_up_with_the_driver_out_of_its_initramfs(machine, kernels):
    machine.install(kernels[1])
    assert machine.reboot() == kernels[1].release
    assert machine.started_by() == DRIVER
    assert machine.loaded_in_initramfs(), machine.ran("dmesg | tail -60")
    assert " panic=10 " in machine.ran("cat /proc/cmdline"), "on trial it falls back"
    assert machine.state(CHECK) == "active", machine.told()


def test_having_proved_itself_it_is_the_default_and_a_play_finds_nothing_to_do(machine, kernels):
    totals, said = machine.deploy(machine.builds(kernels[0]), DRIVER, *FOLLOWS)
    assert totals["changed"] == 0, said
    assert machine.told()[0] == [] and machine.state(CHECK) == "active"


def test_a_kernel_that_takes_no_build_is_not_started(machine, kernels):
    said = machine.install(kernels[2])
    assert kernels[2].release in said and "takes no build of the driver" in said, said
    assert machine.reboot() == kernels[1].release, "the default is the old kernel"
    assert machine.started_by() == DRIVER and machine.loaded_in_initramfs()
    assert "panic=" not in machine.ran("cat /proc/cmdline"), "by the entry that has proved itself"


def test_the_reason_stands_where_an_admin_looks(machine, kernels):
    assert machine.state(CHECK) == "failed"
    rows, *texts = machine.told()
    assert [row["kernel"] for row in rows] == [kernels[2].release]
    for text in texts:
        assert "Kernel %s (" % kernels[2].release in text and rows[0]["reason"] in text, text
        assert "Boots are kept on kernel %s" % kernels[1].release in text, text


def test_a_build_for_it_arrives_and_the_default_moves_on(machine, kernels):
    _totals, said = machine.deploy(machine.builds(kernels[0], kernels[2]), DRIVER, *FOLLOWS)
    assert machine.ran("uname -r").strip() == kernels[2].release, said
    assert machine.started_by() == DRIVER and machine.loaded_in_initramfs()
    assert machine.state(CHECK) == "active"
    rows, status, motd, _journal = machine.told()
    assert rows == [] and "takes no build" not in status and "No such file" in motd


def test_a_kernel_leaves_and_the_others_keep_the_build_that_lay_below_it(machine, kernels):
    machine.ran(APT + "purge " + kernels[0].package)
    machine.settled()
    for release, loads in [(image.release, image is not kernels[0]) for image in kernels]:
        status, said = machine.guest.try_script("modprobe -n -S %s --show-depends %s" % (release, DRIVER))
        assert (status == 0) == loads, said
    assert kernels[0].release not in machine.ran("cat /boot/grub/grub.cfg /boot/grub/custom.cfg; ls /boot")
    assert machine.reboot() == kernels[2].release
    assert machine.started_by() == DRIVER and "panic=" not in machine.ran("cat /proc/cmdline")


def test_taken_away_nothing_of_it_is_left(machine, kernels):
    machine.play("-e", "kmod_driver=" + DRIVER, name="remove")
    left = machine.ran(
        "find / -xdev '(' -path /srv -o -path /proc -o -path /root -o -path /var/log -o -path /var/cache ')' -prune -o "
        "'(' -name '*outoftree*' -o -name '*kmodctl*' -o -name '*%s*' ')' -print" % DRIVER
    )
    assert left == ""
