# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_info: what there is on a host, as data and as a text."""
import os
import shutil

import pytest
from build_initramfs import cpio
from fake_tree import ONE, THREE, TWO, FakeTree, module

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.inventory import inventory

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")


@pytest.fixture
def tree(tmp_path):
    tree = FakeTree(tmp_path / "root")
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    os.symlink("/lib/modules/gone/extra/other.ko", tree.path("/lib/modules/%s/weak-updates/other.ko" % THREE))
    return tree


def test_a_driver_with_its_builds_and_who_uses_them(tree):
    (driver,) = inventory(Host(tree.root))["drivers"]
    (build,) = driver["builds"]
    assert driver["driver"] == "vendor"
    assert (build["build"], build["version"], build["whole"], build["kernels"]) == (TWO, "1.0", True, [ONE, TWO])
    assert [(each["name"], each["path"], each["signature"]) for each in build["modules"]] == [
        ("vendor", "/lib/modules/%s/extra/vendor/vendor.ko" % TWO, "unsigned")]


def test_the_file_that_modprobe_would_load_for_each_kernel(tree):
    rows = inventory(Host(tree.root))["kernels"]
    assert {row["kernel"]: row["modules"][0]["path"] for row in rows} == {
        release: path and "/lib/modules/%s/%s" % (release, path) for release, path in ((each, tree.loads(each)) for each in (ONE, TWO, THREE))}


def test_links_are_ours_or_foreign_and_may_dangle(tree):
    links = [link for row in inventory(Host(tree.root))["kernels"] for link in row["links"]]
    found = [(os.path.basename(link["path"]), link["ours"], link["dangling"]) for link in links]
    assert found == [("vendor.ko", True, False), ("other.ko", False, True)]


def test_images_and_the_copies_in_them(tree):
    stored = tree.data("/lib/modules/%s/extra/vendor/vendor.ko" % TWO)
    tree.write("boot/initramfs-%s.img" % ONE, cpio({"lib/modules/%s/weak-updates/vendor/vendor.ko" % ONE: stored}))
    tree.write("boot/initramfs-%s.img" % TWO, cpio({"lib/modules/%s/kernel/vendor.ko" % TWO: module("vendor", TWO, "0.9")}))
    tree.write("boot/initramfs-%s.img" % THREE, b"damaged")
    found = {row["kernel"]: row["images"][0] for row in inventory(Host(tree.root))["kernels"]}
    assert [copy["current"] for copy in found[ONE]["copies"]] == [True]
    assert [copy["current"] for copy in found[TWO]["copies"]] == [False]
    assert found[THREE]["error"]


def test_the_summary_is_short_and_says_what_is_wrong(tree):
    assert inventory(Host(tree.root))["summary"].splitlines() == [
        "vendor 1.0 for 5.14.0-2: used by 5.14.0-1, 5.14.0-2",
        "5.14.0-1: vendor from weak-updates/vendor",
        "5.14.0-2: vendor from extra/vendor",
        "5.14.0-3: no such module",
        "  /lib/modules/5.14.0-3/weak-updates/other.ko leads nowhere (/lib/modules/gone/extra/other.ko)",
    ]


def test_a_build_that_misses_files(tree):
    os.unlink(tree.path("/lib/modules/%s/extra/vendor/vendor.ko" % TWO))
    (driver,) = inventory(Host(tree.root))["drivers"]
    assert [build["whole"] for build in driver["builds"]] == [False]


def test_only_what_is_asked_for(tree):
    assert inventory(Host(tree.root), ["another"])["drivers"] == [{"driver": "another", "builds": []}]


def test_it_works_on_a_root_without_anything(tmp_path):
    assert inventory(Host(str(tmp_path))) == {"drivers": [], "kernels": [], "summary": ""}
