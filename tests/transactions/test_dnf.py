# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What rpm and dnf do with kernels that are packaged as Enterprise Linux's are, on hosts that follow them
with a driver.

The kernels are three, as in test_apt.py. The plugins of kernel-install and the packages' scripts are EL's, as
far as they matter to the order of things.
"""

import os
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import diversion, hooks
from tests.lab import drivers
from tests.transactions import chroot, enterprise, menus, rpms
from tests.transactions.enterprise import Enterprise
from tests.transactions.machine import DRIVER, Machine, changes

SYSTEMS = (  # the first alone in the fast run
    Enterprise(9, "bookworm"),  # kernel-install 252
    Enterprise(8, "bullseye"),  # 247
    Enterprise(10, "trixie"),  # 257
    Enterprise(11, "sid", "dnf5"),  # the newest
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(each, id=str(each), marks=[pytest.mark.full] if number else [])
        for number, each in enumerate(SYSTEMS)
    ],
)
def system(request, memory):
    reason = enterprise.missing()
    if reason:
        pytest.skip(reason)
    return request.param


def dnf(host, system, what, number, *packages):
    """Have dnf do something about a kernel's packages; what it said."""
    names = " ".join(rpms.name(package, system.kernels()[number]) for package in packages)
    return host.ok("%s -y %s %s" % (system.dnf, what, names))


def parts(system):
    """The packages of a kernel that it is removed by."""
    return (
        ("kernel-core", "kernel-modules", "kernel-modules-core")
        if system.el >= 9
        else ("kernel-core", "kernel-modules")
    )


def test_a_kernel_arrives(host, system, kernels):
    dnf(host, system, "install", 1, "kernel")
    host.served(kernels[1])
    assert host.default() == (kernels[1], None), "20-grub has made it the default"
    entry = next(each for each in host.menu().entries if each.release == kernels[1] and each.driver)
    assert "crashkernel=" in entry.options, "the last plugin's arguments are in ours"
    calls = (host.path / "var/log/calls").read_text().splitlines()
    assert [line.split()[0] for line in calls] == [
        "weak-modules",
        "20-grub",
        "50-dracut",
        "92-crashkernel",
    ], "the order of EL"
    host.settled()


def test_a_kernel_leaves(host, system, kernels):
    dnf(host, system, "install", 1, "kernel")
    dnf(host, system, "remove", 1, *parts(system))
    host.forgotten(kernels[1])
    assert host.loads(kernels[0]) and host.entry(kernels[0])
    assert host.default() == (kernels[0], None)
    host.settled()


@pytest.mark.full
def test_a_kernel_is_installed_again(host, system, kernels):
    dnf(host, system, "reinstall", 0, "kernel-core")
    host.served(kernels[0])
    host.settled()
    dnf(host, system, "reinstall", 0, *parts(system))
    host.served(kernels[0])
    host.settled()


@pytest.mark.full
def test_modules_alone_are_installed_again_and_nobody_is_told(host, system, kernels):
    said = dnf(host, system, "reinstall", 0, "kernel-modules")
    assert "dracut -f --kver" in said
    assert not (host.path / "var/log/calls").exists(), "no plugin was called"
    assert host.variants(kernels[0])[0]["state"] == "stale"
    host.ok("kmodctl refresh")  # by the path unit, or at shutdown
    host.served(kernels[0])
    host.settled()


@pytest.mark.full
def test_two_kernels_at_once_of_which_one_refuses_the_driver(host, system, kernels):
    names = " ".join(rpms.name("kernel", image) for image in system.kernels()[1:])
    said = host.ok("%s -y install %s" % (system.dnf, names))
    host.served(kernels[1])
    assert (
        host.loads(kernels[2]) is None and host.entry(kernels[2]) is None and host.variants(kernels[2]) == []
    )
    assert "incompatible" in said or system.dnf == "dnf5", (
        "whoever looks on is told (dnf 5 keeps what scripts say in its log)"
    )
    assert host.shipped(kernels[2]), "it boots as it would without us"
    host.settled()


def test_the_oldest_kernel_goes_as_there_are_too_many(host, system, kernels):
    host.ok("sed -i s/installonly_limit=3/installonly_limit=2/ /etc/dnf/dnf.conf")
    dnf(host, system, "install", 1, "kernel")
    dnf(host, system, "install", 2, "kernel")  # the first goes, before the third arrives
    host.served(kernels[1])
    assert host.entry(kernels[0]) is None and host.variants(kernels[0]) == []
    assert host.left_of(kernels[0]) == [], "of the first nothing is left but the build that the second uses"
    host.settled()


@pytest.mark.full
def test_without_dnf(host, system, kernels):
    image = system.kernels()[1]
    names = ["-".join((package, *rpms.version(image.release))) for package in (*parts(system), "kernel")]
    host.ok("cd /%s; rpm -ivh %s" % (chroot.SHARED, " ".join(name + ".x86_64.rpm" for name in names)))
    host.served(kernels[1])
    host.ok("rpm -e " + " ".join(names))
    host.forgotten(kernels[1])
    host.settled()


@pytest.mark.full
def test_kernel_install_by_hand(host, system, kernels):
    release = kernels[0]
    host.ok("kernel-install remove " + release)
    assert host.entry(release) is None, "what it is copied from is gone"
    host.ok("kernel-install add %s /lib/modules/%s/vmlinuz" % (release, release))
    host.ok("kernel-install add %s /lib/modules/%s/vmlinuz" % (release, release))
    host.served(release)
    host.settled()


def test_a_hook_that_cannot_do_its_work_costs_no_kernel_its_entry(host, system, kernels):
    host.ok("mv /usr/local/sbin/kmodctl /srv")
    dnf(host, system, "install", 1, "kernel")
    assert host.shipped(kernels[1]) and host.image(kernels[1]).exists()
    assert kernels[1] in "".join(host.marks())
    dnf(host, system, "remove", 1, *parts(system))
    assert not [path for path in host.files() if kernels[1] in path]
    dnf(host, system, "install", 1, "kernel")
    host.follow()  # the next play
    host.ok("kmodctl refresh")
    host.served(kernels[1], shipped_has=False)
    host.settled()


@pytest.mark.full
def test_the_default_stays_on_the_newest_kernel_that_takes_the_driver(host, system, kernels):
    host.follow(keep_default=True)
    dnf(host, system, "install", 1, "kernel")
    assert host.default() == (kernels[1], None)
    dnf(host, system, "install", 2, "kernel")
    assert host.default() == (kernels[1], None), "when the transaction is over: automatic reboots come next"
    host.settled()
    dnf(host, system, "remove", 2, *parts(system))
    assert host.default() == (kernels[1], None)
    host.settled()


@pytest.mark.full
def test_the_default_moves_on_when_a_build_arrives(host, system, kernels):
    host.follow(keep_default=True)
    dnf(host, system, "install", 2, "kernel")
    assert host.default() == (kernels[0], None)
    host.give({kernels[2]: drivers.edu(system.kernels()[2])})
    host.ok("kmodctl refresh")
    host.served(kernels[2], shipped_has=False)
    assert host.default() == (kernels[2], None), "as it would have without us"
    host.settled()


@pytest.mark.full
@pytest.mark.parametrize("early", [pytest.param(True, id="links"), pytest.param(False, id="the rest")])
def test_a_hook_is_killed(host, system, kernels, early):
    """The kernel has its image and entry all the same."""
    names = rpms.name("kernel", system.kernels()[1])
    with host.start("%s -y install %s" % (system.dnf, names)) as transaction:
        chroot.kill_amid(host.path, [hooks.HOOK, "add-kernel", *(["--early"] if early else []), kernels[1]])
        said, _nothing = transaction.communicate()
    assert transaction.returncode == 0, said
    assert host.shipped(kernels[1]) and host.image(kernels[1]).exists(), said
    assert (kernels[1] in "".join(host.marks())) != early, "what was not done is noted"
    host.ok("kmodctl refresh")  # by the path unit, at shutdown, or at the next boot
    host.served(kernels[1], shipped_has=not early)
    host.settled()


@pytest.mark.full
def test_boot_is_full(host, system, kernels):
    room = os.statvfs(str(host.boot))
    image, kernel = (
        path.stat().st_size for path in (host.image(kernels[0]), host.boot / ("vmlinuz-" + kernels[0]))
    )
    with open(str(host.boot / "filler"), "wb") as file:  # there is room for a kernel and its image
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_frsize - kernel - image - image // 2)
    dnf(host, system, "install", 1, "kernel")
    assert host.loads(kernels[1]) and host.shipped_has(kernels[1]) and host.shipped(kernels[1])
    assert host.variants(kernels[1]) == [] and host.entry(kernels[1]) is None
    told = host.run("kmodctl status").said
    assert "not done yet: add-kernel " + kernels[1] in told and "iB are free" in told, told
    (host.boot / "filler").unlink()
    host.ok("kmodctl refresh")
    host.served(kernels[1])
    host.settled()


@pytest.mark.full
def test_an_entry_that_arrives_by_itself_is_tried_before_anything_is_said_of_the_default(
    host, system, kernels
):
    host.follow(boot="once")
    dnf(host, system, "install", 1, "kernel")
    host.served(kernels[1])
    assert host.default() == (kernels[1], None), "nothing that has not proved itself"
    once = host.menu().once
    assert once and (once.release, once.driver) == (kernels[1], DRIVER)
    host.settled()


@pytest.mark.full
def test_following_ends_and_leaves_no_trace(bare, system, kernels):
    before = bare.files()
    bare.follow()
    dnf(bare, system, "install", 1, "kernel")
    dnf(bare, system, "remove", 1, *parts(system))
    bare.follow_no_more()
    grubenv = "/boot/grub2/grubenv"  # dnf's own: the default went with the kernel
    assert [line for line in changes(before, bare.files()) if not line.startswith(grubenv)] == []
    dnf(bare, system, "install", 1, "kernel")
    assert bare.loads(kernels[1]) is None and bare.entry(kernels[1]) is None, "nobody follows any more"
    assert bare.loads(kernels[0]) and bare.entry(kernels[0]), "the driver is where it was"


# Amid a removal, when the kernel and its shipped entry are gone: after 20-grub, and long before our last hook.
LOOK = """#!/bin/sh
[ "$1" = remove ] && cp -a /boot /srv/amid
exit 0
"""


@pytest.mark.full
@pytest.mark.parametrize("saved", [pytest.param(True, id="saved"), pytest.param(False, id="by name")])
def test_no_entry_of_ours_is_left_with_nothing_to_start(host, system, kernels, saved):
    """A machine that goes down amid a removal comes up again."""
    dnf(host, system, "install", 1, "kernel")
    if saved:
        host.ok("kmodctl entry --driver %s --kernel %s --boot default" % (DRIVER, kernels[1]))
        assert host.default() == (kernels[1], DRIVER)
    else:  # the entry that is highest by its name is started
        host.ok("grub2-editenv /boot/grub2/grubenv unset saved_entry")
    look = host.path / "etc/kernel/install.d/21-look.install"
    look.write_text(LOOK)
    look.chmod(0o755)
    dnf(host, system, "remove", 1, *parts(system))
    amid = menus.grub2(host.path / "srv/amid", kernels)
    assert [each.driver for each in amid.entries if each.release == kernels[1]] == []
    assert amid.default and amid.default.release == kernels[0]
    assert (host.path / "srv/amid" / amid.default.initrd.lstrip("/")).exists()
    look.unlink()
    host.forgotten(kernels[1])
    host.settled()


@pytest.fixture
def half(system, memory, command):
    """A host with, of the driver, the module that others need."""
    first = system.kernels()[0]
    host = Machine(system.base(), memory, system.shared(), command)
    try:
        system.begin(host)
        host.deploy({first.release: drivers.edu(first)[:1]}, first.release)
        host.follow()
        yield host
    finally:
        host.remove()


@pytest.fixture
def beside(half, system):
    """One with kmod's own weak-modules."""
    script = os.environ.get("OUTOFTREE_KMOD_WEAK_MODULES")
    if not script:
        pytest.skip("OUTOFTREE_KMOD_WEAK_MODULES names no copy of weak-modules")
    if system.el not in (8, 9):
        pytest.skip("the script is EL 8's or 9's")
    shutil.copyfile(script, str(half.path / "usr/sbin/weak-modules"))
    return half


def needy(host, system):
    """Write a package of a module that needs the driver's; its file's name on the host."""
    first = system.kernels()[0]
    module = next(path for path in drivers.edu(first) if path.stem == "ootedu_user")
    return "/srv/" + rpms.kmod("needy", [module], first.release, host.path / "srv")


def links(host):
    """All links of all kernels, and what they say; none leads nowhere."""
    found = {}
    for release in host.kernels():
        for path in (host.path / "usr/lib/modules" / release / "weak-updates").rglob("*"):
            if path.is_symlink():
                inside = "/%s" % path.relative_to(host.path)
                assert host.run("test -f " + inside).status == 0, "%s leads nowhere" % inside
                found[inside] = os.readlink(str(path))
    return found


def of(releases, driver, module, target):
    """The links of some kernels to one module."""
    return {
        "/usr/lib/modules/%s/weak-updates/%s/%s.ko" % (release, driver, module): target
        % ("extra/%s/%s.ko" % (driver, module))
        for release in releases
    }


@pytest.mark.full
def test_beside_weak_modules_kernels_come_and_go(beside, system, kernels):
    """It is called before our hooks, links what lies in extra, and takes all links of a kernel that leaves."""
    ours = of([kernels[1]], DRIVER, DRIVER, "../../../%s/%%s" % kernels[0])
    dnf(beside, system, "install", 1, "kernel")
    beside.served(kernels[1])
    assert links(beside) == ours
    beside.settled()
    dnf(beside, system, "reinstall", 1, *parts(system))
    beside.served(kernels[1])
    assert links(beside) == ours
    beside.settled()
    dnf(beside, system, "install", 2, "kernel")
    assert links(beside) == ours, "the third kernel takes nothing, says either"
    dnf(beside, system, "remove", 1, *parts(system))
    beside.forgotten(kernels[1])
    beside.settled()


@pytest.mark.full
def test_beside_weak_modules_packages_of_modules_come_and_go(beside, system, kernels):
    """Each of their scripts has it write the links of all kernels anew; what needs a module of ours is linked
    beside it.
    """
    dnf(beside, system, "install", 1, "kernel")
    before = links(beside)
    assert before == of([kernels[1]], DRIVER, DRIVER, "../../../%s/%%s" % kernels[0])
    beside.ok("rpm -i " + needy(beside, system))
    added = of([kernels[1]], "needy", "ootedu_user", "/lib/modules/%s/%%s" % kernels[0])
    assert links(beside) == {**before, **added}
    assert beside.loads(kernels[1]) and beside.loads(kernels[1], "ootedu_user")
    beside.ok("kmodctl refresh")  # it may have made the shipped image again
    assert links(beside) == {**before, **added}
    beside.served(kernels[1])
    beside.settled()
    beside.ok("rpm -e kmod-needy")
    assert links(beside) == before
    beside.ok("kmodctl refresh")
    beside.served(kernels[1])
    beside.settled()


@pytest.mark.full
def test_in_the_place_of_weak_modules_it_is_called_by_packages_and_goes_again(half, system, kernels):
    script = half.path / "usr/sbin/weak-modules"
    before = script.read_bytes(), sorted(os.listdir(str(script.parent)))
    on_host = Host(str(half.path))
    diversion.present(on_host, hooks.KMODCTL, "/usr/bin/python3", diverted=True).apply()
    dnf(half, system, "install", 1, "kernel")
    half.served(kernels[1])
    ours = links(half)
    assert ours == of([kernels[1]], DRIVER, DRIVER, "../../../%s/%%s" % kernels[0])
    half.ok("rpm -i " + needy(half, system))
    added = of([kernels[1]], "needy", "ootedu_user", "/lib/modules/%s/%%s" % kernels[0])
    assert links(half) == {**ours, **added} and half.loads(kernels[1], "ootedu_user")
    dnf(half, system, "install", 2, "kernel")
    assert links(half) == {**ours, **added}, "the third kernel takes nothing"
    half.ok("rpm -e kmod-needy")
    assert links(half) == ours
    half.served(kernels[1])
    half.settled()
    dnf(half, system, "remove", 1, *parts(system))
    half.forgotten(kernels[1])
    diversion.absent(on_host, diverted=True).apply()
    assert (script.read_bytes(), sorted(os.listdir(str(script.parent)))) == before
