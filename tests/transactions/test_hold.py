# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Kernels that are held: real package managers leave them alone, go on with all else, and take them when they
are released.

apt has the real kernels of test_apt.py: the third refuses the driver, and the metapackage would bring it. dnf
and zypper have packages that are called and that need each other as those of Enterprise Linux and SUSE do, and
are empty.
"""

import json
import shutil
from typing import NamedTuple

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import hold
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import hold_files, kernel_holds
from ansible_collections.outoftree.kmod.plugins.module_utils.turns import Turns
from tests.lab import debian, drivers
from tests.transactions import chroot, enterprise, rpms, systems
from tests.transactions.chroot import Root
from tests.transactions.machine import DRIVER, Machine, changes
from tests.transactions.systems import META, System

REASON = "1 symbol differs (put_page)"
SOURCE = "/srv/more"  # a repository of a test's own


def held(host, *kernels, driver=DRIVER, state="present"):
    """Have the module do it; whether that changed anything."""
    asked = hold.Options(state, tuple((kernel, driver, REASON) for kernel in kernels), (driver,))
    with Turns(str(host.path)) as turns:
        turns.carry(lambda host: hold.run(host, asked))
        return turns.changed


# apt

APT = (  # the first alone in the fast run
    System("bookworm", "initramfs-tools", "grub2"),  # apt 2.6
    System("trixie", "dracut", "grub2"),  # 3.0
    System("sid", "initramfs-tools", "grub2"),  # with its new solver
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(each, id=str(each), marks=[pytest.mark.full] * bool(n)) for n, each in enumerate(APT)
    ],
)
def system(request, memory):
    return request.param


@pytest.fixture(scope="module")
def images(system):
    return system.kernels()


@pytest.fixture(scope="module")
def refused(system, images):
    """The kernel that an upgrade would bring. (That of sid needs more of sid than trixie has.)"""
    return images[1] if system.suite == "trixie" else images[2]


@pytest.fixture(scope="module")
def deployed(system, images, refused, memory, command):
    """The driver on the first kernel; a metapackage that brings another one, and a tool, can be upgraded."""
    host = Machine(system.base(), memory, system.shared(), command)
    try:
        system.begin(host)
        more = host.path / SOURCE[1:]
        deb(more, META, 3, refused.package)
        deb(more, "tool", 1)
        deb(more, "tool", 2)
        listed = debian.run(["dpkg-scanpackages", "--multiversion", "."], cwd=str(more))
        (more / "Packages").write_text(listed)
        chroot.write(host.path, "etc/apt/sources.list.d/more.list", "deb [trusted=yes] file:%s ./\n" % SOURCE)
        host.ok("apt-get update -qq; apt-get -y -q install tool=1")
        host.deploy({images[0].release: drivers.edu(images[0])}, images[0].release)
        yield host.freeze()
    finally:
        host.remove()


def deb(directory, name, version, needs=""):
    text = "Package: %s\nVersion: %d\nArchitecture: amd64\nMaintainer: nobody <nobody@localhost>\n%sDescription: x\n"
    tree = directory / "tree"
    chroot.write(tree, "DEBIAN/control", text % (name, version, "Depends: %s\n" % needs if needs else ""))
    target = directory / ("%s_%d_amd64.deb" % (name, version))
    debian.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", str(tree), str(target)])
    shutil.rmtree(str(tree))


def installed(host):
    lines = host.ok("dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\\n'").splitlines()
    return {line.split()[1]: line.split()[2] for line in lines if line.startswith("ii ")}


def test_apt_upgrades_all_else_while_a_kernel_is_held_and_the_kernel_once_there_is_a_build(
    host, images, refused
):
    host.ok("kmodctl refresh")
    assert "Inst %s " % refused.package in host.ok("apt-get -s dist-upgrade"), "it would come"
    before = host.files()
    assert held(host, refused.release) and not held(host, refused.release)
    assert host.ok("kmodctl status").splitlines()[-1] == "kernel %s is held: %s: %s" % (
        refused.release,
        DRIVER,
        REASON,
    )
    for upgrade in ("upgrade", "dist-upgrade"):
        said = host.ok("apt-get -y -q " + upgrade)
        assert META in said.partition("kept back:")[2], said
        there = installed(host)
        assert there["tool"] == "2" and there[META] == "1" and refused.package not in there, upgrade
        host.ok("apt-get -y -q install --allow-downgrades tool=1")
    host.ok("apt-get -y -q autoremove")
    assert images[0].package in installed(host), "what is held makes nothing superfluous"
    host.settled()
    assert "put_page" in host.ok("kmodctl status"), "a look at all releases nothing"

    offered = host.run("kmodctl check --offered --json " + host.loads(images[0].release))
    kernels = [row["kernel"] for row in json.loads(offered.said)["checks"]]
    assert refused.release in kernels, "a preflight goes on to see it, so that it can be released"
    said = host.run("apt-get -y -q install " + refused.package)
    assert said.status and refused.package in said.said, "nor is it installed by name"

    host.give({refused.release: drivers.edu(refused)})
    there = [line.partition(":")[0] for line in changes(before, host.files())]
    assert not [path for path in there if "apt" in path or "status" in path], (
        "the hold is gone without a trace"
    )
    assert host.loads(refused.release) is None
    host.ok("apt-get -y -q dist-upgrade")
    assert installed(host)[META] == "3"
    host.served(refused.release)
    assert host.loads(refused.release).endswith("%s/extra/%s/%s.ko" % (refused.release, DRIVER, DRIVER))
    host.settled()


@pytest.mark.full
def test_a_kernel_that_arrives_all_the_same_is_released_by_its_hook(host, images):
    held(host, images[1].release, images[2].release)
    names = " ".join(path.name for path in debian.image_packages(images[1]))
    host.ok("cd /%s; dpkg -i %s" % (chroot.SHARED, names))
    assert [each.kernel for each in kernel_holds.read(Host(str(host.path)))] == [images[2].release]
    host.served(images[1].release)
    host.settled()


@pytest.mark.full
def test_what_others_have_apt_do_with_the_kernel_stays(host, refused):
    host.ok("apt-mark hold " + META)
    held(host, refused.release)
    held(host, state="absent")
    assert META in host.ok("apt-mark showhold"), "theirs stays when ours goes"
    host.ok("apt-mark unhold " + META)
    # on the running host apt is asked whether it heeds what was written
    text = "Package: linux-image-*\nPin: release *\nPin-Priority: 990\n"
    chroot.write(host.path, "etc/apt/preferences", text)
    before = host.files()
    script = (
        "import sys; sys.path.insert(0, '/root/kmodctl'); from outoftree_kmod.commands import hold; "
        "from outoftree_kmod.turns import Turns; asked = hold.Options(kernels=(('%s', '%s', 'x'),)); "
        "Turns('/').__enter__().carry(lambda host: hold.run(host, asked))" % (refused.release, DRIVER)
    )
    said = host.run('python3 -c "%s"' % script)
    assert said.status and "preferences of others have apt install it all the same" in said.said
    assert changes(before, host.files()) == []
    host.ok("rm /etc/apt/preferences")
    host.ok('python3 -c "%s"' % script)
    assert "(none)" in host.ok("apt-cache policy linux-image-" + refused.release)


@pytest.mark.full
def test_a_full_disk_leaves_what_was_held(host, images):
    held(host, images[1].release)
    place = host.path / "etc/apt/preferences.d"
    text = (place / "00-outoftree-kmod").read_text()
    debian.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(place)])
    try:
        (place / "00-outoftree-kmod").write_text(text)
        with pytest.raises(KmodError, match="space"):
            held(host, images[1].release, images[2].release)
        assert [path.name for path in place.iterdir()] == ["00-outoftree-kmod"]
        assert (place / "00-outoftree-kmod").read_text() == text
    finally:
        debian.run(["umount", str(place)])


# dnf, zypper


class Box(NamedTuple):
    """A small system with a package manager, of a suite that has the version in question."""

    manager: str
    suite: str

    def __str__(self):
        return "-".join(self)


RPM = (  # the first alone in the fast run
    Box("dnf", "bookworm"),  # 4.14
    Box("dnf", "bullseye"),  # 4.5
    Box("dnf", "trixie"),  # the last of dnf 4
    Box("dnf5", "sid"),
    Box("zypper", "bookworm"),
)
FIRST, SECOND, THIRD = "6.99.0-1.el9", "6.99.0-2.el9", "6.99.0-3.el9"
EL_PARTS = {  # what each package gives and needs
    "kernel": ((), ("kernel-core-uname-r = {0}", "kernel-modules-uname-r = {0}")),
    "kernel-core": (
        ("kernel-core-uname-r = {0}", "installonlypkg(kernel)"),
        ("kernel-modules-core-uname-r = {0}",),
    ),
    "kernel-modules-core": (
        ("kernel-modules-core-uname-r = {0}", "installonlypkg(kernel-module)"),
        ("kernel-core-uname-r = {0}",),
    ),
    "kernel-modules": (
        ("kernel-modules-uname-r = {0}", "installonlypkg(kernel-module)"),
        ("kernel-core-uname-r = {0}",),
    ),
}
SUSE_PARTS = {
    "kernel-default": (("kernel-default-{0}", "multiversion(kernel)", "kernel-default_x86_64 = {0}.1"), ()),
    "kernel-default-extra": (("multiversion(kernel)",), ("kernel-default_x86_64 = {0}.1",)),
}


class Rpms(Root):
    """A system with the FIRST kernel and a tool, which gets what a repository of its own has."""

    def __init__(self, box, memory):
        self.manager, self.suse = box.manager, box.manager == "zypper"
        super().__init__(small(box), memory, debian.cache())
        for number in (1, 2):
            self.offer("tool", str(number))
        self.offer_kernel(FIRST)
        where = "etc/zypp/repos.d" if self.suse else "etc/yum.repos.d"
        if not self.suse:  # Debian's dnf 5 has a plugin that wants more than is there
            chroot.write(self.path, "etc/dnf/dnf.conf", "[main]\ngpgcheck=0\nbest=True\nplugins=0\n")
        repo = "[more]\nname=more\nbaseurl=file://%s\nenabled=1\ngpgcheck=0\n"
        chroot.write(self.path, where + "/more.repo", repo % SOURCE)
        self.publish()
        self.ok(self.words("install") + " tool%s1 %s" % ("=" if self.suse else "-", " ".join(self.parts)))

    @property
    def parts(self):
        return SUSE_PARTS if self.suse else EL_PARTS

    def release(self, version):
        return version + ("-default" if self.suse else ".x86_64")

    def words(self, verb):
        if self.suse:
            return "zypper --non-interactive --no-gpg-checks " + {"upgrade": "update"}.get(verb, verb)
        return "%s -y %s" % (self.manager, verb)

    def offer(self, name, version, gives=(), needs=()):
        spec = rpms.HEAD.format(*(version + "-1").split("-")[:2]).replace("Name: lab", "Name: " + name)
        lines = ["Provides: " + each for each in gives] + ["Requires: " + each for each in needs]
        spec = spec.replace("%description", "\n".join([*lines, "%description"])) + "%files\n"
        (self.path / SOURCE[1:]).mkdir(exist_ok=True)
        rpms.rpmbuild(spec, {}, self.path / SOURCE[1:])

    def offer_kernel(self, version):
        named = self.release(version) if not self.suse else version
        for name, (gives, needs) in self.parts.items():
            fill = [[each.format(named) for each in rows] for rows in (gives, needs)]
            self.offer(name, version + (".1" if self.suse else ""), *fill)

    def publish(self):
        debian.run(["createrepo_c", "--quiet", "--no-database", str(self.path / SOURCE[1:])])
        self.ok("zypper --no-gpg-checks refresh --force" if self.suse else "%s clean all" % self.manager)

    def there(self):
        database = "--dbpath /var/lib/rpm " if self.suse else ""  # which zypper has, whatever rpm's own is
        return set(self.ok("rpm " + database + "-qa --qf '%{NAME}-%{VERSION}-%{RELEASE}\\n'").split())

    def kernels(self):
        """The versions of which all parts are there; no part is there without the others."""
        number = {}
        for each in self.there():
            name, version, release = each.rsplit("-", 2)
            if name in self.parts and version == "6.99.0":
                number.setdefault("%s-%s" % (version, release), set()).add(name)
        assert all(names == set(self.parts) for names in number.values()), number
        return sorted(each[: -len(".1")] if self.suse else each for each in number)

    def etc(self):
        return {
            path: (path.stat().st_mode, path.read_bytes())
            for top in ("etc/dnf", "etc/yum.repos.d", "etc/zypp")
            for path in (self.path / top).rglob("*")
            if path.is_file()
        }


def small(box):
    """The system, kept in the cache."""

    def make(directory):
        options = ["--dpkgopt=" + line for line in systems.DPKG]
        debian.system(box.suite, directory / "root", (box.manager, "rpm"), *options)
        family = 'ID="opensuse-leap"\nID_LIKE="suse"\n' if box.manager == "zypper" else "ID=rhel\n"
        (directory / "root/etc/os-release").unlink()
        chroot.write(directory / "root", "etc/os-release", family + "VERSION_ID=9\n")
        (directory / "root/boot/efi").mkdir(parents=True)
        shutil.move(str(directory / "root/boot"), str(directory / "boot"))
        (directory / "root/boot").mkdir()

    recipe = systems.key(systems.DPKG, box, 2)
    place = debian.once(debian.cache() / "transactions" / ("small-%s-%s" % (box, recipe)), make)
    return chroot.Layers((place / "root",), place / "boot")


@pytest.fixture(
    params=[
        pytest.param(each, id=str(each), marks=[pytest.mark.full] * bool(n)) for n, each in enumerate(RPM)
    ]
)
def box(request, memory):
    reason = enterprise.missing()
    if reason:
        pytest.skip(reason)
    box = Rpms(request.param, memory)
    try:
        yield box
    finally:
        box.remove()


def test_an_rpm_manager_upgrades_all_else_while_a_kernel_is_held_and_the_kernel_once_it_is_released(box):
    before = box.etc()
    box.offer_kernel(SECOND)
    box.publish()
    held(box, box.release(SECOND))
    box.ok(box.words("upgrade"))
    assert "tool-2-1" in box.there()
    assert box.kernels() == [FIRST]
    box.ok(box.words("upgrade"))
    assert box.kernels() == [FIRST]

    box.offer_kernel(THIRD)
    box.publish()
    if not box.suse:
        box.ok(box.words("upgrade"))
        assert box.kernels() == [FIRST, THIRD], "a newer one is not held"
    held(box, state="absent")
    assert box.etc() == before
    if box.suse:
        box.ok(box.words("install") + " " + " ".join("%s=%s.1" % (part, SECOND) for part in box.parts))
    else:
        box.ok(box.words("install") + " kernel-" + SECOND)
    assert SECOND in box.kernels()


@pytest.mark.full
def test_what_others_exclude_stays_excluded(box):
    if box.suse:
        box.ok("zypper addlock tool")
    else:
        chroot.write(box.path, "etc/dnf/dnf.conf", "[main]\ngpgcheck=0\nplugins=0\nexcludepkgs=tool\n")
    box.offer_kernel(SECOND)
    box.publish()
    before = box.etc()
    held(box, box.release(SECOND))
    box.ok(box.words("upgrade"))
    assert "tool-1-1" in box.there() and box.kernels() == [FIRST]
    if box.suse:
        box.ok("zypper addlock nginx; zypper removelock nginx")  # it writes the file anew, without our marks
        assert held(box, state="absent")
    else:
        held(box, state="absent")
        assert box.etc() == before
    box.ok(box.words("upgrade"))
    assert "tool-1-1" in box.there()
    if not box.suse:
        assert box.kernels() == [FIRST, SECOND]


@pytest.mark.full
def test_where_kernel_core_alone_is_held_nothing_is_upgraded(box):
    """Why it is the whole kernel."""
    if box.suse:
        pytest.skip("zypper goes on with the rest")
    box.offer_kernel(SECOND)
    box.publish()
    line = "[main]\ngpgcheck=0\nplugins=0\nbest=True\nexcludepkgs=kernel-core-%s\n"
    chroot.write(box.path, "etc/dnf/dnf.conf", line % box.release(SECOND))
    assert box.run(box.words("upgrade")).status != 0
    assert "tool-1-1" in box.there()
    chroot.write(box.path, "etc/dnf/dnf.conf", line.replace("excludepkgs=kernel-core-%s\n", ""))
    held(box, box.release(SECOND))
    assert hold_files.rpm_packages(box.release(SECOND)).startswith("kernel*-")
    box.ok(box.words("upgrade"))
    assert "tool-2-1" in box.there()
