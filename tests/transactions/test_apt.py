# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What apt and dpkg do with kernels, on hosts that follow them with a driver.

Each system has one kernel that the driver was built for and is deployed to, is offered a second that takes the same build (or, in sid, has one of its
own), and a third that refuses it.
"""
import contextlib
import os
import re
import signal
import time
from pathlib import Path

import chroot
import drivers
import machine
import pytest
import systems
from machine import DRIVER, Machine, changes
from systems import META, System

SYSTEMS = (
    System("bookworm", "initramfs-tools", "grub2"),
    System("bookworm", "initramfs-tools", "systemd-boot"),
    System("trixie", "dracut", "grub2"),
    System("trixie", "initramfs-tools", "systemd-boot"),
    System("sid", "initramfs-tools", "grub2"),
    System("sid", "dracut", "systemd-boot"),
)
UPDATE = {
    "initramfs-tools": "update-initramfs -u -k %(release)s",
    "dracut": "if [ -x /usr/sbin/update-initramfs ]; then update-initramfs -u -k %(release)s; else dracut -f /boot/initrd.img-%(release)s %(release)s; fi",
}
APT = "apt-get -y -q "


@pytest.fixture(scope="module", params=[pytest.param(each, id=str(each), marks=[pytest.mark.full] if number else [])
                                        for number, each in enumerate(SYSTEMS)])
def system(request, memory):
    return request.param


@pytest.fixture(scope="module")
def kernels(system):
    return [image.release for image in systems.kernels(system.suite)]


@pytest.fixture(scope="module")
def command(memory):
    return machine.kmodctl(memory)


@pytest.fixture(scope="module")
def deployed(system, memory, command):
    """A system with the driver on its kernel, which does not follow yet."""
    images = systems.kernels(system.suite)
    host = Machine(systems.base(system.suite, system.generator), memory, systems.shared(system.suite), command)
    try:
        host.ok(systems.LOADERS[system.loader])
        host.ok("apt-get update -qq")
        builds = images[:2] if system.suite == "sid" else images[:1]
        host.deploy({image.release: drivers.edu(image) for image in builds}, images[0].release)
        yield host.freeze()
    finally:
        host.remove()


@pytest.fixture
def host(deployed, system, memory, command, request):
    """One that follows new kernels."""
    host = Machine(deployed, memory, systems.shared(system.suite), command)
    try:
        host.follow()
        yield host
    finally:
        host.remove()


def package(system, number):
    return systems.kernels(system.suite)[number].package


def test_a_kernel_arrives(host, system, kernels):
    before = host.files()
    host.ok(APT + "install " + package(system, 1))
    host.served(kernels[1])
    assert host.default() == (kernels[1], None), "the newest kernel is started, by its shipped entry"
    others = [line for line in changes(before, host.files()) if kernels[0] in line.partition(": ")[0]]
    assert others == [], "the other kernel has what it had"
    host.settled()


def test_a_kernel_leaves(host, system, kernels):
    host.ok(APT + "install " + package(system, 1))
    host.ok(APT + "purge " + package(system, 1))
    host.forgotten(kernels[1])
    assert host.loads(kernels[0]) and host.entry(kernels[0])
    assert host.default() == (kernels[0], None)
    host.settled()


def test_a_kernel_is_installed_again(host, system, kernels):
    before = host.files()
    host.ok(APT + "--reinstall install " + package(system, 0))
    host.served(kernels[0])
    made_again = re.compile(r"initrd\.img|custom\.cfg|~%s\.conf" % DRIVER)  # the image is another now: it was made with the driver
    assert [line for line in changes(before, host.files()) if not made_again.search(line.partition(": ")[0])] == []
    host.settled()


def test_two_kernels_at_once_of_which_one_refuses_the_driver(host, system, kernels):
    said = host.ok(APT + "install %s %s" % (package(system, 1), package(system, 2)))
    host.served(kernels[1])
    assert host.loads(kernels[2]) is None and host.entry(kernels[2]) is None and host.variants(kernels[2]) == []
    assert re.search(kernels[2].replace("+", r"\+") + r".*(incompatible|none)", said), "whoever looks on is told why"
    assert host.shipped(kernels[2]), "it boots as it would without us"
    host.settled()


def test_the_kernel_that_a_build_lies_below_leaves(host, system, kernels):
    host.ok(APT + "install " + package(system, 1))
    host.ok(APT + "purge %s %s" % (META, package(system, 0)))
    host.served(kernels[1])
    assert host.entry(kernels[0]) is None and host.variants(kernels[0]) == []
    left = [path for path in host.files() if kernels[0] in path and "/extra" not in path and not path.endswith(kernels[0])]
    assert left == [], "nothing but the build is left"
    host.settled()


def test_an_image_is_made_again(host, system, kernels):
    with open(str(host.path / "etc/modprobe.d/lab.conf"), "w") as file:
        file.write("options loop max_loop=8\n")
    before = host.variants(kernels[0])
    host.ok(UPDATE[system.generator] % {"release": kernels[0]})
    if system.generator == "dracut" and system.suite != "sid":  # nobody is told
        assert host.variants(kernels[0])[0]["state"] != "current"
        host.ok("kmodctl refresh")
    host.served(kernels[0])
    assert host.variants(kernels[0]) != before or True
    host.settled()


def test_a_metapackage_is_upgraded(host, system, kernels):
    host.ok(APT + "dist-upgrade")
    host.served(kernels[1])
    assert host.default() == (kernels[1], None)
    host.settled()


def test_following_ends_and_leaves_no_trace(deployed, system, memory, command, kernels):
    host = Machine(deployed, memory, systems.shared(system.suite), command)
    try:
        before = host.files()
        host.follow()
        host.follow_no_more()
        assert changes(before, host.files()) == []
        host.follow()
        host.ok(APT + "install " + package(system, 1))
        host.ok(APT + "purge " + package(system, 1))
        host.follow_no_more()
        assert changes(before, host.files()) == []
        host.ok(APT + "install " + package(system, 1))
        assert host.loads(kernels[1]) is None and host.entry(kernels[1]) is None, "nobody follows any more"
        assert host.loads(kernels[0]) and host.entry(kernels[0]), "the driver is where it was"
    finally:
        host.remove()


HOOK = "/usr/local/libexec/outoftree-kmod-hook"


def killed(host, words, deadline=120):
    """Kill the hook that was called with these words, and all that it has started, as soon as it runs."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                line = (process / "cmdline").read_bytes().split(b"\0")
                if [HOOK.encode(), *words] == line[1:2 + len(words)] and os.readlink(str(process / "root")) == str(host.path):
                    time.sleep(0.2)  # amid its work
                    for child in [*(process / "task" / process.name / "children").read_text().split(), process.name]:
                        os.kill(int(child), signal.SIGKILL)
                    return
        time.sleep(0.01)
    raise AssertionError("no hook ran")


@pytest.mark.parametrize("slot", ["early", "late"])
def test_a_hook_is_killed_and_dpkg_goes_on(host, system, kernels, slot):
    words = [b"add-kernel", b"--early"] if slot == "early" else [b"add-kernel", kernels[1].encode()]
    with host.start(APT + "install " + package(system, 1)) as apt:
        killed(host, words)
        said, _nothing = apt.communicate()
    # The script that called it is a hook, too, and ends with 0.
    host.ok("dpkg --configure -a")
    host.served(kernels[1]) if slot == "late" else None
    assert host.loads(kernels[1]), said


def test_the_whole_transaction_is_killed(host, system, kernels):
    with host.start(APT + "install " + package(system, 1)) as apt:
        end = time.monotonic() + 120
        while not list(host.boot.glob("**/initrd.img-%s" % kernels[1])) and time.monotonic() < end:
            time.sleep(0.02)
        os.killpg(apt.pid, signal.SIGKILL)
        chroot.end(host.path)
    host.ok("dpkg --configure -a")
    host.served(kernels[1])
    host.settled()


def test_hooks_at_once(host, system, kernels):
    host.ok(APT + "install " + package(system, 1))
    before = host.files()
    each = ["%s %s" % (HOOK, words) for words in (
        "add-kernel " + kernels[0], "add-kernel --early " + kernels[1], "add-kernel " + kernels[1], "refresh", "remove-kernel " + kernels[1])]
    host.ok("rm -f /boot/*%s.1 /boot/efi/*/%s/*.1; %s" % (kernels[1], kernels[1], "".join(line + " & p=\"$p $!\"; " for line in each))
            + "for one in $p; do wait $one; done")
    host.served(kernels[1])
    assert changes(before, host.files()) == []
    host.settled()
