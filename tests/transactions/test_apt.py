# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What apt and dpkg do with kernels, on hosts that follow them with a driver.

Each system has one kernel that the driver was built for and is deployed to, and is offered a second that
takes the same build and a third that refuses it. In sid the third is of several packages.
"""

import os
import re
import signal

import pytest

from tests.lab import debian, drivers
from tests.transactions import chroot
from tests.transactions.machine import DRIVER, changes
from tests.transactions.systems import META, System

SYSTEMS = (  # the first alone in the fast run
    System("bookworm", "initramfs-tools", "grub2"),
    System("bookworm", "initramfs-tools", "systemd-boot"),
    System("bookworm", "dracut", "grub2"),
    System("trixie", "dracut", "grub2"),
    System("trixie", "initramfs-tools", "systemd-boot"),
    System("sid", "initramfs-tools", "grub2"),
    System("sid", "dracut", "systemd-boot"),
)
UPDATE = {
    "initramfs-tools": "update-initramfs -u -k %(release)s",
    "dracut": "dracut -f /boot/initrd.img-%(release)s %(release)s",
}
APT = "apt-get -y -q "


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(each, id=str(each), marks=[pytest.mark.full] if number else [])
        for number, each in enumerate(SYSTEMS)
    ],
)
def system(request, memory):
    return request.param


def package(system, number):
    return system.kernels()[number].package


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


@pytest.mark.full
def test_a_kernel_is_installed_again(host, system, kernels):
    host.ok("kmodctl refresh")
    before = host.files()
    host.ok(APT + "--reinstall install " + package(system, 0))
    host.served(kernels[0])
    # the image is another now: it was made with the driver, and kernel-install may call it by another name
    made_again = re.compile(r"/\.?initrd[^/]*$|custom\.cfg|/loader/entries/")
    assert [
        line for line in changes(before, host.files()) if not made_again.search(line.partition(": ")[0])
    ] == []
    host.settled()


@pytest.mark.full
def test_two_kernels_at_once_of_which_one_refuses_the_driver(host, system, kernels):
    said = host.ok(APT + "install %s %s" % (package(system, 1), package(system, 2)))
    host.served(kernels[1])
    assert (
        host.loads(kernels[2]) is None and host.entry(kernels[2]) is None and host.variants(kernels[2]) == []
    )
    assert re.search(kernels[2].replace("+", r"\+") + r".*(incompatible|none)", said), (
        "whoever looks on is told why"
    )
    # sid's kernels keep no symbol versions, so that each takes what was built for it, and nothing else
    assert ("built for a kernel that is 'SMP preempt mod_unload modversions'" in said) == (
        system.suite != "bookworm"
    )
    assert host.shipped(kernels[2]), "it boots as it would without us"
    host.settled()


@pytest.mark.full
def test_the_kernel_that_a_build_lies_below_leaves(host, system, kernels):
    host.ok(APT + "install " + package(system, 1))
    host.ok(APT + "purge %s %s" % (META, package(system, 0)))
    host.served(kernels[1])
    assert host.entry(kernels[0]) is None and host.variants(kernels[0]) == []
    assert host.left_of(kernels[0]) == [], "nothing but the build is left"
    host.settled()


def test_an_image_is_made_again(host, system, kernels):
    host.ok(UPDATE[system.generator] % {"release": kernels[0]})
    if system.generator == "dracut":  # which tells nobody
        if system.suite == "bookworm":
            assert host.variants(kernels[0])[0]["state"] == "stale"
        host.ok("kmodctl refresh")
    host.served(kernels[0])
    host.settled()


@pytest.mark.full
def test_a_metapackage_is_upgraded(host, system, kernels):
    host.ok(APT + "dist-upgrade")
    host.served(kernels[1])
    assert host.default() == (kernels[1], None)
    host.settled()


def test_following_ends_and_leaves_no_trace(bare, system, kernels):
    before = bare.files()
    bare.follow()
    bare.follow_no_more()
    assert changes(before, bare.files()) == []
    bare.follow()
    bare.ok(APT + "install " + package(system, 1))
    bare.ok(APT + "purge " + package(system, 1))
    bare.follow_no_more()
    assert changes(before, bare.files()) == []
    bare.ok(APT + "install " + package(system, 1))
    assert bare.loads(kernels[1]) is None and bare.entry(kernels[1]) is None, "nobody follows any more"
    assert bare.loads(kernels[0]) and bare.entry(kernels[0]), "the driver is where it was"


HOOK = "/usr/local/libexec/outoftree-kmod-hook"
# What is killed, by the words of its command line after the interpreter.
AMID = {
    "links": [HOOK, "add-kernel", "--early"],
    "variants and entries": [HOOK, "add-kernel", "REL"],
    "the script that dpkg waits for": ["/etc/kernel/postinst.d/zzz-outoftree-kmod", "REL"],
}


@pytest.mark.parametrize(
    "amid",
    [pytest.param(each, marks=[] if each.startswith("the script") else [pytest.mark.full]) for each in AMID],
)
def test_a_hook_is_killed_and_dpkg_goes_on(host, system, kernels, amid):
    with host.start(APT + "install " + package(system, 1)) as apt:
        chroot.kill_amid(host.path, [kernels[1] if word == "REL" else word for word in AMID[amid]])
        said, _nothing = apt.communicate()
    if amid == "the script that dpkg waits for":
        assert apt.returncode == 100, "dpkg noticed: " + said
    else:
        assert apt.returncode == 0, said
        marked = kernels[1] in "".join(host.marks())
        assert marked == (amid != "links"), "what was not done is noted: " + said
    host.ok("dpkg --configure -a")
    if amid == "variants and entries":  # dpkg has nothing left to do; the next boot or play has
        host.ok("kmodctl refresh")
    host.served(kernels[1], shipped_has=amid != "links")
    host.settled()


@pytest.mark.full
def test_the_whole_transaction_is_killed(host, system, kernels):
    with host.start(APT + "install " + package(system, 1)) as apt:
        chroot.kill_amid(host.path, [HOOK, "add-kernel", kernels[1]])
        os.killpg(apt.pid, signal.SIGKILL)
        chroot.end(host.path)
    host.ok("dpkg --configure -a")
    host.served(kernels[1])
    host.settled()


@pytest.mark.full
def test_hooks_at_once(host, system, kernels):
    host.ok(APT + "install " + package(system, 1))
    before = host.files()
    each = [
        "%s %s" % (HOOK, words)
        for words in (
            "add-kernel " + kernels[0],
            "add-kernel --early " + kernels[1],
            "add-kernel " + kernels[1],
            "refresh",
            "remove-kernel " + kernels[1],
        )
    ]
    host.ok(
        "rm -f /boot/*%s.1 /boot/efi/*/%s/*.1; %s"
        % (kernels[1], kernels[1], "".join(line + ' & p="$p $!"; ' for line in each))
        + "for one in $p; do wait $one; done"
    )
    host.served(kernels[1])
    assert changes(before, host.files()) == []
    host.settled()


@pytest.mark.full
def test_boot_is_full(host, system, kernels):
    place = host.boot / ("efi" if system.loader == "systemd-boot" else ".")
    room = os.statvfs(str(place))
    image, kernel = (
        next(host.boot.glob(name + "-" + kernels[0])).stat().st_size for name in ("initrd.img", "vmlinuz")
    )
    # there is room for a kernel, and its image while an older one is there; not for a variant
    with open(str(place / "filler"), "wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - kernel - image - image // 2)
    said = host.ok(APT + "install " + package(system, 1))
    assert host.loads(kernels[1]) and host.shipped_has(kernels[1]) and host.shipped(kernels[1]), said
    assert not [row for row in host.variants(kernels[1]) if row["state"] == "current"]
    assert host.entry(kernels[1]) is None
    assert kernels[1] in "".join(host.marks()), said
    told = host.run("kmodctl status").said
    assert "not done yet: add-kernel " + kernels[1] in told and "iB are free" in told, told
    assert host.default() == (kernels[1], None)
    (place / "filler").unlink()
    host.ok("kmodctl refresh")
    host.served(kernels[1])
    host.settled()


# What is wrong on the host when a kernel arrives: how it comes about, whether the links are made all the
# same, and how it is mended.
WRONG = {
    "the settings are damaged": ("echo '{' > /etc/outoftree-kmod/follow.json", True),
    "there is no Python": ("for each in /usr/bin/python3*; do mv $each $each.gone; done", False),
    "Python cannot start": ("mv /usr/lib/python3.* /srv; true", False),
    "there is no kmodctl": ("mv /usr/local/sbin/kmodctl /srv", False),
    "kmodctl is cut off": ("truncate -s 1000 /usr/local/sbin/kmodctl", False),
}


@pytest.mark.parametrize(
    "wrong",
    [pytest.param(each, marks=[] if each == "there is no Python" else [pytest.mark.full]) for each in WRONG],
)
def test_the_host_is_not_as_it_was(host, system, kernels, wrong):
    spoil, linked = WRONG[wrong]
    host.ok(spoil)
    said = host.ok(APT + "install " + package(system, 1))
    assert (host.loads(kernels[1]) is not None) == linked
    assert host.shipped(kernels[1]), "the kernel boots all the same"
    assert kernels[1] in "".join(host.marks()), said
    for each in host.path.glob("usr/bin/python3*.gone"):
        each.rename(str(each)[:-5])
    for each in host.path.glob("srv/python3.*"):
        each.rename(str(host.path / "usr/lib" / each.name))
    host.follow()  # the next play
    host.ok("kmodctl refresh")
    host.served(kernels[1], shipped_has=linked)
    host.settled()


# As a run does that changes a host: the lock is there and held, and goes with it.
RUN = """python3 -c '
import fcntl, os, time
path = "/usr/lib/modules/.outoftree.kmod.lock"
handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(handle, fcntl.LOCK_EX)
time.sleep(%d)
os.unlink(path)
'"""


@pytest.mark.full
def test_a_hook_waits_for_a_run_that_is_under_way(host, system, kernels):
    with host.start(RUN % 15) as other:
        host.ok(APT + "install " + package(system, 1))
        assert other.wait() == 0
    host.served(kernels[1])
    host.settled()


def test_the_default_stays_on_the_newest_kernel_that_takes_the_driver(host, system, kernels):
    before = host.files()
    host.follow(keep_default=True)
    host.ok(APT + "install %s %s" % (package(system, 1), package(system, 2)))
    host.served(kernels[1])
    assert host.default() == (kernels[1], None), "when the transaction is over: automatic reboots come next"
    host.settled()
    host.ok(APT + "purge " + package(system, 2))
    assert host.default() == (kernels[1], None)
    host.ok(APT + "purge " + package(system, 1))
    assert host.default() == (kernels[0], None)
    host.settled()
    host.follow_no_more()
    after = host.files()
    assert not [
        line
        for line in changes(before, after)
        if re.match(r"/boot/.*(custom\.cfg|grubenv|loader\.conf):", line)
    ], "as it was"


@pytest.mark.full
def test_the_default_moves_on_when_a_build_arrives(host, system, kernels):
    host.follow(keep_default=True)
    host.ok(APT + "install " + package(system, 2))
    assert host.default() == (kernels[0], None)
    host.give({kernels[2]: drivers.edu(system.kernels()[2])})
    host.ok("kmodctl refresh")
    host.served(kernels[2], shipped_has=False)
    assert host.default() == (kernels[2], None), "as it would have without us"
    host.settled()
    host.ok(
        APT
        + "--reinstall install "
        + " ".join(deb.name.split("_")[0] for deb in debian.image_packages(system.kernels()[2]))
    )
    host.served(kernels[2])
    host.settled()


@pytest.mark.full
def test_the_default_goes_on_by_itself_where_it_is_not_to_be_kept(host, system, kernels):
    host.ok(APT + "install " + package(system, 2))
    assert host.default() == (kernels[2], None)
    host.settled()


@pytest.mark.full
@pytest.mark.parametrize("boot", ["once", "default"])
def test_an_entry_that_arrives_by_itself_is_tried_before_anything_is_said_of_the_default(
    host, system, kernels, boot
):
    host.follow(boot=boot)
    host.ok(APT + "install " + package(system, 1))
    host.served(kernels[1])
    assert host.default() == (kernels[1], None), "nothing that has not proved itself"
    if system.loader == "grub2":
        once = host.menu().once
        assert once and (once.release, once.driver) == (kernels[1], DRIVER)
    host.settled()
