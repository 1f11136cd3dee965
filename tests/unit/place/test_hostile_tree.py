# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names, marks, links and files that came with a driver, a package or a tree are input: they lead nowhere
else and cost nobody a file.
"""

import os
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock, task
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import store
from tests.forge.fake_tree import ONE, THREE, TWO, FakeTree, module
from tests.forge.ko import ko

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
STORE = "/lib/modules/%s/extra/vendor" % TWO


@pytest.fixture
def tree(tmp_path):
    return FakeTree(tmp_path / "root")


def deployed(tree, names=("vendor",)):
    before = tree.snapshot()
    tree.vendor(TWO, [ONE, TWO], names)
    tree.deploy("/build")
    shutil.rmtree(tree.path("/build"))
    return before


def refused(code, tree, *paths, **options):
    before = tree.snapshot()
    with pytest.raises(KmodError) as error:
        tree.deploy(*paths, **options)
    assert error.value.code == code and tree.snapshot() == before
    return str(error.value)


@pytest.mark.parametrize(
    "release",
    ["../../etc/cron.d", "..", "test", "6.1.0/../../x", "6.1.0-" + "9" * 250, "6.1\nx", "6.1\u00e9"],
)
def test_a_module_that_names_an_odd_release_is_stored_nowhere(tree, release):
    tree.write("/build/vendor.ko", ko("vendor", release=release))
    refused("RELEASE_NAME", tree, "/build")


@pytest.mark.parametrize("name", ["ven;dor", "../vendor", "v\u00e9ndor", "a\nb", "x" * 60, "ven dor", "a.b"])
def test_a_module_with_an_odd_name_is_not_stored(tree, name):
    tree.write("/build/vendor.ko", module(name, TWO))
    with pytest.raises(KmodError) as error:
        tree.deploy("/build")
    assert "\n" not in str(error.value) and not os.path.exists(tree.path(STORE))


@pytest.mark.parametrize(
    "file", ["lime-6.1.0-56-amd64.ko", "lime-07.727.03.00.ko", "LiME.v2.ko", "other-name.ko"]
)
def test_a_module_is_stored_so_that_modprobe_finds_it_under_its_name(tree, file):
    tree.write("/build/" + file, module("lime", TWO, fits=[ONE, TWO]))
    tree.deploy("/build")
    assert [tree.loads(release, "lime") for release in (ONE, TWO)] == [
        "weak-updates/vendor/lime.ko",
        "extra/vendor/lime.ko",
    ]


def test_a_file_name_with_dashes_stays_as_it_came(tree):
    tree.write("/build/my-driver.ko.xz", __import__("lzma").compress(module("my-driver", TWO, fits=[TWO])))
    tree.deploy("/build")
    assert tree.loads(TWO, "my_driver") == "extra/vendor/my-driver.ko"


@pytest.mark.parametrize(
    "row", ["../../../../../etc/passwd", "/etc/passwd", "passwd", "sub/x.ko", "..ko", ".ko", "x.ko\0"]
)
def test_a_mark_that_came_with_a_tree_names_no_other_file(tree, row):
    tree.write("/etc/passwd", b"root\n")
    digest = "4b8e96cdd2b2b5c3ac7b9d6ac0cf3a4d5a3b67a8c3a5e8a5c0d8e5fbb0e0c5d5"
    tree.write(
        STORE + "/" + store.MARK,
        ("# outoftree.kmod put these files here:\n%s  %s\n" % (digest, row)).encode(),
    )
    tree.remove()
    assert tree.data("/etc/passwd") == b"root\n"


def test_a_mark_with_the_right_name_but_another_digest_costs_nobody_a_file(tree):
    tree.write(STORE + "/vendor.ko", b"somebody else's")
    tree.write(
        STORE + "/" + store.MARK,
        ("# outoftree.kmod put these files here:\n%s  vendor.ko\n" % ("0" * 64)).encode(),
    )
    _plan, result = tree.plan_removal()
    tree.remove()
    assert tree.data(STORE + "/vendor.ko") == b"somebody else's" and result["left"] == [STORE + "/vendor.ko"]
    assert not os.path.exists(tree.path(STORE + "/" + store.MARK))


def test_what_someone_puts_in_the_place_of_our_file_stays(tree):
    deployed(tree, ("vendor", "helper"))
    theirs = module("vendor", TWO, "9.9", fits=[TWO])
    tree.write(STORE + "/vendor.ko", theirs)
    tree.remove()
    assert os.listdir(tree.path(STORE)) == ["vendor.ko"] and tree.data(STORE + "/vendor.ko") == theirs
    assert tree.plan_removal()[0].paths() == []


def test_a_mark_or_a_store_directory_that_is_a_link_leads_nowhere(tree):
    tree.write("/elsewhere/mark", ("%s  vendor.ko\n" % ("0" * 64)).encode())
    os.makedirs(tree.path(STORE))
    os.symlink("/elsewhere/mark", tree.path(STORE + "/" + store.MARK))
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    tree.remove()
    assert tree.data("/elsewhere/mark").endswith(b"  vendor.ko\n")


@pytest.mark.parametrize("place,release", [("extra", TWO), ("weak-updates", ONE)])
def test_a_directory_that_is_a_symlink_is_refused_by_name(tree, place, release):
    directory = "/lib/modules/%s/%s" % (release, place)
    os.rmdir(tree.path(directory))
    os.makedirs(tree.path("/shared"))
    os.symlink("/shared", tree.path(directory))
    tree.vendor(TWO, [ONE, TWO])
    assert directory in refused("DIRECTORY_IS_LINK", tree, "/build")
    assert tree.remove() == {}


@pytest.mark.parametrize("name", ["test", "--help", "-a", "6.1.0;x", "kabi-current", "new\nline"])
def test_an_odd_directory_beside_the_kernels_is_no_kernel(tree, name):
    tree.write("/lib/modules/%s/kernel/drivers/a.ko" % name, b"")
    tree.vendor(TWO, [ONE, TWO])
    assert tree.deploy("/build") == {ONE: TWO, TWO: TWO, THREE: None}


def test_another_name_for_a_kernels_directory_is_no_further_kernel(tree):
    os.symlink(TWO, tree.path("/lib/modules/5.14"))
    tree.vendor(TWO, [ONE, TWO])
    assert tree.deploy("/build") == {ONE: TWO, TWO: TWO, THREE: None}
    assert tree.plan("/build")[0].paths() == []


def test_a_link_that_is_not_whole_yet_is_not_ours(tree):
    before = deployed(tree)
    left = "/lib/modules/%s/weak-updates/vendor/.vendor.ko.kmod-new" % ONE
    os.symlink("../../../%s/extra/vendor/vendor.ko" % TWO, tree.path(left))
    assert tree.plan()[0].paths() == []
    # as a killed run leaves it
    tree.write(lock.path(Host(tree.root)), ('{"beside": ["%s"]}' % os.path.dirname(left)).encode())
    task.carry_out(tree.root, False, lambda host: tree.plan_removal())
    assert tree.snapshot() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root writes where others could interfere")
@pytest.mark.parametrize(
    "path",
    ["", "/lib", "/lib/modules/" + ONE, "/lib/modules/%s/weak-updates" % ONE, STORE.rpartition("/")[0]],
)
@pytest.mark.parametrize("mode,owner", [(0o777, 0), (0o755, 65534), (0o1777, 0), (0o775, 65534)])
def test_nothing_is_written_through_a_directory_that_others_can_rearrange(tree, path, mode, owner):
    tree.vendor(TWO, [ONE, TWO])
    directory = tree.path(path) if path else tree.root
    os.chmod(directory, mode)
    os.chown(directory, owner, owner)
    refused("TREE_NOT_PRIVATE", tree, "/build")
