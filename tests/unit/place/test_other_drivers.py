# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drivers that need each other."""
import shutil

import pytest
from build_ko import Export, ko
from fake_tree import LAYOUT, ONE, THREE, TWO, FakeTree

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")


def test_a_driver_is_linked_where_another_driver_provides_its_symbols(tmp_path):
    tree = FakeTree(tmp_path / "root")
    for release in (ONE, TWO):
        tree.write("core/%s/core.ko" % release, ko("core", [LAYOUT], release=release, exports=[Export("core_init", 1)]))
    tree.write("user/user.ko", ko("user", (LAYOUT, ("core_init", 1)), release=TWO, modinfo={"depends": "core"}))
    assert tree.deploy("/core", driver="core", kernels=[ONE, TWO]) == {ONE: ONE, TWO: TWO}
    assert tree.deploy("/user", driver="user") == {ONE: TWO, TWO: TWO, THREE: None}
