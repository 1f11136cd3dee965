# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_link on a running machine: whether a reboot is what it takes to use what is deployed."""

import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import check
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernels import Kernel
from tests.forge.cpio import cpio
from tests.forge.fake_tree import ONE, FakeTree, module
from tests.forge.package import deb

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
IMAGE = "/boot/initramfs-%s.img" % ONE
CONFIG = b"default=0\ntitle Linux\n\tkernel /vmlinuz-ONE ro\n\tinitrd /initramfs-ONE.img\n".replace(
    b"ONE", ONE.encode()
)
OURS, ANOTHER = module("vendor", ONE, "1.0", [ONE]), module("vendor", ONE, "0.9")


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """ONE runs, with another module of the driver's name."""
    monkeypatch.setattr(Kernel, "running", property(lambda kernel: kernel.release == ONE))
    tree = FakeTree(tmp_path / "root")
    tree.vendor(ONE, [ONE])
    tree.write("/sys/module/vendor/initstate", b"live\n")
    tree.write("/sys/module/vendor/srcversion", b"of another one\n")
    tree.write("/boot/grub/grub.conf", CONFIG)
    return tree


def image(**copies):
    prefix = "lib/modules/%s/" % ONE
    names = {name: "kernel/%s.ko" % name for name in copies}
    index = "".join("%s:\n" % path for path in names.values())
    return cpio(
        {
            prefix + "modules.dep": index.encode(),
            **{prefix + path: copies[name] for name, path in names.items()},
        }
    )


def reboot_needed(tree):
    _plan, result = tree.plan("/build")
    return result["reboot_needed"], result["held_back_by"]


@pytest.mark.parametrize("copies", [{}, {"vendor": OURS}, {"e1000e": ANOTHER}])
def test_a_reboot_helps_where_the_initramfs_has_no_other_copy(tree, copies):
    tree.write(IMAGE, image(**copies))
    assert reboot_needed(tree) == (True, None)


def test_it_does_not_where_the_initramfs_would_load_another_copy_again(tree):
    tree.write(IMAGE, image(vendor=ANOTHER))
    assert reboot_needed(tree) == (False, IMAGE)


def test_it_does_where_the_default_entry_starts_a_variant_of_ours(tree):
    tree.write(IMAGE, image(vendor=ANOTHER))
    marks = [b"### %s outoftree.kmod vendor %s ###\n" % (word, ONE.encode()) for word in (b"BEGIN", b"END")]
    tree.write(
        "/boot/grub/grub.conf",
        CONFIG.replace(b"default=0", b"default=1") + CONFIG.partition(b"\n")[2].join(marks),
    )
    assert reboot_needed(tree) == (True, None)


@pytest.mark.parametrize("path", ["/boot/grub/grub.conf", IMAGE])
def test_what_cannot_be_read_holds_nothing_back(tree, path):
    tree.write(IMAGE, image(vendor=ANOTHER))
    tree.write(path, b"damaged")
    assert reboot_needed(tree) == (True, None)


def test_where_none_is_loaded_there_is_nothing_to_replace(tree):
    shutil.rmtree(tree.path("/sys/module/vendor"))
    tree.write(IMAGE, image(vendor=ANOTHER))
    assert reboot_needed(tree) == (False, None)


def test_what_can_be_linked_can_be_judged_before_packages_too(tmp_path):
    """The role does both with the same path."""
    tree = FakeTree(tmp_path / "root")
    tree.write(
        "/opt/vendor.deb",
        deb(files={"lib/modules/%s/extra/vendor.ko" % ONE: module("vendor", ONE, "1.0", [ONE])}),
    )
    _plan, answer = check.run(Host(tree.root), check.Options(("/opt",), require="any"))
    assert not answer.failed and list(answer.compatible) == [
        release for release, build in tree.deploy("/opt").items() if build
    ] == [ONE]
    assert tree.loads(ONE) == "extra/vendor/vendor.ko"


def test_a_version_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    tree = FakeTree(tmp_path / "root")
    tree.vendor(ONE, [ONE])
    tree.deploy("/build")
    plan, result = tree.plan_removal(version="1.O")
    assert not plan and result["msg"] == "vendor: nothing to remove; there is 1.0 for %s" % ONE


def test_what_is_stored_is_linked_again_and_removed_on_the_running_kernel(tree):
    """Nothing is given then: what is compared with what is loaded lies in the store."""
    tree.deploy("/build")
    shutil.rmtree(tree.path("/build"))
    assert tree.plan()[1]["reboot_needed"]
    tree.remove()
    assert tree.plan_removal()[0].paths() == []
