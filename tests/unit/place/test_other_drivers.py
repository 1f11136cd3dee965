# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drivers that need each other."""

import shutil

import pytest

from tests.forge.fake_tree import LAYOUT, ONE, THREE, TWO, FakeTree
from tests.forge.ko import Export, ko

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")


def test_a_driver_is_linked_where_another_driver_provides_its_symbols(tmp_path):
    tree = FakeTree(tmp_path / "root")
    for release in (ONE, TWO):
        tree.write(
            "core/%s/core.ko" % release,
            ko("core", [LAYOUT], release=release, exports=[Export("core_init", 1)]),
        )
    tree.write(
        "user/user.ko", ko("user", (LAYOUT, ("core_init", 1)), release=TWO, modinfo={"depends": "core"})
    )
    assert tree.deploy("/core", driver="core", kernels=[ONE, TWO]) == {ONE: ONE, TWO: TWO}
    assert tree.deploy("/user", driver="user") == {ONE: TWO, TWO: TWO, THREE: None}


def test_what_the_driver_itself_leaves_behind_provides_nothing(tmp_path):
    """The version that is replaced has a module that the new one needs and does not have."""
    tree = FakeTree(tmp_path / "root", releases=(ONE, TWO))
    for name, needs, exports in (
        ("core", [LAYOUT], [Export("core_init", 1)]),
        ("user", (LAYOUT, ("core_init", 1)), []),
    ):
        tree.write(
            "old/%s.ko" % name, ko(name, needs, release=TWO, exports=exports, modinfo={"version": "1"})
        )
    tree.write("new/user.ko", ko("user", (LAYOUT, ("core_init", 1)), release=TWO, modinfo={"version": "2"}))
    assert tree.deploy("/old") == {ONE: TWO, TWO: TWO}
    _plan, result = tree.plan("/new")
    assert [(row["kernel"], row["version"]) for row in result["kernels"]] == [(ONE, "1"), (TWO, "1")]
    fresh = FakeTree(tmp_path / "fresh", releases=(ONE, TWO))
    fresh.write("new/user.ko", tree.data("/new/user.ko"))
    assert fresh.deploy("/new") == {ONE: None, TWO: None}
