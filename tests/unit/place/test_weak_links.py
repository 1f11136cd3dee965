# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_link on trees, with the real depmod and modprobe.

Bn are the findings on weak-modules that each test is the answer to.
"""

import gzip
import os
import posixpath
import shutil
import subprocess
import sys

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from tests.forge.fake_tree import FOUR, ONE, THREE, TWO, FakeTree, module

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")


@pytest.fixture
def tree(tmp_path):
    return FakeTree(tmp_path / "root")


def test_the_build_for_a_kernel_serves_it_and_the_others_get_links(tree):
    tree.vendor(TWO, [ONE, TWO])
    assert tree.deploy("/build") == {ONE: TWO, TWO: TWO, THREE: None}
    assert [tree.loads(release) for release in (ONE, TWO, THREE)] == [
        "weak-updates/vendor/vendor.ko",
        "extra/vendor/vendor.ko",
        None,
    ]
    assert (
        os.readlink(tree.path("/lib/modules/%s/weak-updates/vendor/vendor.ko" % ONE))
        == "../../../%s/extra/vendor/vendor.ko" % TWO
    )


def test_a_second_run_has_nothing_to_do(tree):
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    plan, _result = tree.plan("/build")
    assert not plan


def test_removal_leaves_the_tree_as_it_was(tree):
    tree.vendor(TWO, [ONE, TWO])
    before = tree.snapshot()
    tree.deploy("/build")
    tree.remove()
    assert tree.snapshot() == before
    assert not tree.plan_removal()[0]


# Which build each kernel gets


def test_the_newest_compatible_build_is_linked(tree):
    tree.vendor(ONE, [ONE, TWO, THREE], at="b/1")
    tree.vendor(TWO, [TWO, THREE], at="b/2")
    assert tree.deploy("/b") == {ONE: ONE, TWO: TWO, THREE: TWO}


def test_b15_an_older_pair_is_linked_where_the_newest_does_not_fit(tree):
    tree.vendor(ONE, [THREE], names=("vendor", "helper"), at="b/1")
    tree.vendor(TWO, [TWO], names=("vendor", "helper"), at="b/2")
    assert tree.deploy("/b") == {ONE: None, TWO: TWO, THREE: ONE}
    assert tree.loads(THREE, "helper") == "weak-updates/vendor/helper.ko"


def test_a_driver_is_linked_as_a_group_or_not_at_all(tree):
    tree.vendor(TWO, [TWO, THREE], names=("vendor",))
    tree.vendor(TWO, [TWO], names=("helper",))
    assert tree.deploy("/build") == {ONE: None, TWO: TWO, THREE: None}
    assert tree.loads(THREE, "vendor") is None


def test_a_build_for_a_kernel_that_is_not_installed_is_stored_where_that_kernel_would_be(tree):
    before = tree.snapshot()
    tree.vendor("5.14.0-99", [ONE], at="b")
    assert tree.deploy("/b") == {ONE: "5.14.0-99", TWO: None, THREE: None}
    assert os.path.exists(tree.path("/lib/modules/5.14.0-99/extra/vendor/vendor.ko"))
    assert tree.loads(ONE) == "weak-updates/vendor/vendor.ko"
    shutil.rmtree(tree.path("/b"))
    tree.remove()
    assert tree.snapshot() == before


def test_only_builds_that_a_kernel_uses_are_stored(tree):
    tree.vendor(TWO, [ONE, TWO, THREE], at="b/2")
    tree.vendor("5.14.0-0", [ONE], at="b/0")
    tree.vendor("4.18.0-0", [], at="b/4")
    tree.deploy("/b")
    assert sorted(os.listdir(tree.path("/lib/modules"))) == [ONE, TWO, THREE]


def test_b8_b6_no_build_fits_and_the_answer_says_so(tree):
    tree.vendor(TWO, [])
    plan, result = tree.plan("/build")
    assert not plan
    assert [row["verdict"] for row in result["kernels"]] == ["incompatible"] * 3
    assert result["msg"].startswith("vendor: 0 of 3 kernels use it (5.14.0-1: ")


def test_kernels_that_are_not_chosen_keep_what_they_have(tree):
    tree.vendor(TWO, [ONE, TWO, THREE], at="b/2")
    assert tree.deploy("/b", kernels=[ONE]) == {ONE: TWO}
    assert tree.loads(THREE) is None
    tree.vendor(TWO, [ONE, TWO, THREE], at="new", version="2.0")
    assert tree.deploy("/new", kernels=[THREE]) == {THREE: TWO}
    assert tree.data("/lib/modules/%s/weak-updates/vendor/vendor.ko" % ONE) == tree.data("/b/2/vendor.ko")


def test_no_build_is_judged_twice_against_one_kernel(tree, monkeypatch):
    judged = []
    judge = link.judge
    monkeypatch.setattr(
        link,
        "judge",
        lambda kernel, modules, **more: judged.append((kernel.release, modules)) or judge(kernel, modules),
    )
    tree.vendor(ONE, [ONE], at="b/1")
    tree.vendor(TWO, [TWO], at="b/2")
    tree.deploy("/b")
    assert len(judged) == len(set(judged)) == 4


# Versions


def test_a_new_version_replaces_the_old_one_in_place(tree):
    tree.vendor(TWO, [ONE, TWO], at="v1")
    tree.deploy("/v1")
    tree.vendor(TWO, [ONE, TWO], at="v2", version="2.0")
    tree.deploy("/v2")
    assert tree.data("/lib/modules/%s/extra/vendor/vendor.ko" % TWO) == tree.data("/v2/vendor.ko")
    assert os.listdir(tree.path("/lib/modules/%s/extra/vendor" % TWO)).count("vendor.ko") == 1
    plan, _result = tree.plan("/v2")
    assert not plan


def test_b4_a_new_version_that_no_longer_fits_a_kernel_leaves_that_kernel_the_old_one(tree):
    tree.vendor(TWO, [ONE, TWO], at="v1")
    tree.deploy("/v1")
    tree.vendor(TWO, [TWO], at="v2", version="2.0")
    assert tree.deploy("/v2") == {ONE: TWO, TWO: TWO, THREE: None}
    used = {
        release: tree.data("/lib/modules/%s/%s" % (release, tree.loads(release))) for release in (ONE, TWO)
    }
    assert used == {ONE: tree.data("/v1/vendor.ko"), TWO: tree.data("/v2/vendor.ko")}
    plan, _result = tree.plan("/v2")
    assert not plan


def test_b4_a_rebuild_that_no_longer_fits_a_kernel_gives_it_back_an_older_build(tree):
    tree.vendor(ONE, [ONE, THREE], at="b/1")
    tree.vendor(TWO, [TWO, THREE], at="b/2")
    assert tree.deploy("/b")[THREE] == TWO
    tree.remove(build=TWO)
    assert tree.loads(THREE) == "weak-updates/vendor/vendor.ko"
    assert (
        os.readlink(tree.path("/lib/modules/%s/weak-updates/vendor/vendor.ko" % THREE))
        == "../../../%s/extra/vendor/vendor.ko" % ONE
    )


def test_b4_a_link_is_taken_away_where_no_build_fits_any_more(tree):
    tree.vendor(TWO, [ONE, TWO], at="v1")
    tree.deploy("/v1")
    tree.kernel(ONE, takes=False)
    assert tree.deploy("/v1") == {ONE: None, TWO: TWO, THREE: None}
    assert tree.loads(ONE) is None


def test_absent_of_a_version_brings_the_older_one_back(tree):
    before = tree.snapshot()
    tree.vendor(ONE, [ONE, TWO, THREE], at="v1")
    tree.deploy("/v1")
    tree.vendor(TWO, [TWO, THREE], at="v2", version="2.0")
    assert tree.deploy("/v2") == {ONE: ONE, TWO: TWO, THREE: TWO}
    assert tree.remove(version="2.0") == {TWO: ONE, THREE: ONE}
    assert tree.loads(THREE) == "weak-updates/vendor/vendor.ko"
    assert tree.loads(TWO) == "weak-updates/vendor/vendor.ko"
    tree.remove()
    shutil.rmtree(tree.path("/v1"))
    shutil.rmtree(tree.path("/v2"))
    assert tree.snapshot() == before


def test_an_older_version_that_no_kernel_uses_any_more_goes(tree):
    tree.vendor(ONE, [ONE, TWO, THREE], at="v1")
    tree.deploy("/v1")
    tree.vendor(TWO, [ONE, TWO, THREE], at="v2", version="2.0")
    tree.deploy("/v2")
    assert not os.path.exists(tree.path("/lib/modules/%s/extra/vendor" % ONE))


def test_deploying_an_older_version_does_not_take_the_newer_one_away(tree):
    tree.vendor(TWO, [TWO], at="v2", version="2.0")
    tree.deploy("/v2")
    tree.vendor(TWO, [TWO], at="v1", version="1.0")
    plan, _result = tree.plan("/v1")
    assert not plan


def test_a_version_that_is_named_is_the_only_one_that_kernels_use_and_the_others_go(tree):
    before = tree.snapshot()
    tree.vendor(TWO, [TWO, THREE], at="v2", version="2.0")
    tree.deploy("/v2")
    tree.vendor(ONE, [ONE, TWO], at="v1", version="1.0")
    assert tree.deploy("/v1", version="1.0") == {ONE: ONE, TWO: ONE, THREE: None}
    assert tree.loads(THREE) is None and not os.path.exists(tree.path("/lib/modules/%s/extra/vendor" % TWO))
    for again in ("/v1", "/v2"):  # of what is given the other version counts no more than of what is stored
        assert not tree.plan(again, version="1.0")[0]
    with pytest.raises(KmodError, match="no build of version 3, .* there is 1.0, 2.0") as error:
        tree.plan("/v2", version="3")
    assert error.value.code == "NO_BUILD"
    tree.remove()
    shutil.rmtree(tree.path("/v1"))
    shutil.rmtree(tree.path("/v2"))
    assert tree.snapshot() == before


def test_kernels_that_are_not_chosen_keep_their_version_where_another_one_is_named(tree):
    tree.vendor(TWO, [ONE, TWO, THREE], at="v2", version="2.0")
    tree.deploy("/v2")
    tree.vendor(ONE, [ONE, TWO, THREE], at="v1", version="1.0")
    assert tree.deploy("/v1", version="1.0", kernels=[THREE]) == {THREE: ONE}
    assert tree.data("/lib/modules/%s/%s" % (TWO, tree.loads(TWO))) == tree.data("/v2/vendor.ko")


def test_a_changed_module_list_removes_the_file_that_is_no_longer_part_of_it(tree):
    tree.vendor(TWO, [TWO, THREE], names=("vendor", "helper"), at="v1")
    tree.deploy("/v1")
    tree.vendor(TWO, [TWO, THREE], at="v2", version="2.0")
    tree.deploy("/v2")
    assert tree.loads(TWO, "helper") is None
    assert tree.loads(THREE, "helper") is None
    assert not os.path.lexists(tree.path("/lib/modules/%s/weak-updates/vendor/helper.ko" % THREE))


# Overrides


@pytest.mark.parametrize("family", ["el8", "tumbleweed", "debian", "ubuntu"])
def test_an_in_tree_namesake_never_wins(tmp_path, family):
    tree = FakeTree(tmp_path / "root", family, in_tree=("vendor",))
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    assert [tree.loads(release) for release in (ONE, TWO, THREE)] == [
        "weak-updates/vendor/vendor.ko",
        "extra/vendor/vendor.ko",
        "kernel/drivers/net/vendor.ko",
    ]


@pytest.mark.parametrize(
    "family,lines",
    [
        ("el8", ["override vendor * weak-updates/vendor"]),
        ("tumbleweed", []),
        ("debian", ["override vendor 5.14.0-2 extra/vendor", "override vendor * weak-updates/vendor"]),
        ("ubuntu", ["override vendor 5.14.0-2 extra/vendor", "override vendor * weak-updates/vendor"]),
    ],
)
def test_an_override_is_made_exactly_where_the_search_order_does_not_suffice(tmp_path, family, lines):
    tree = FakeTree(tmp_path / "root", family, in_tree=("vendor",))
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    path = "/etc/depmod.d/outoftree.kmod-vendor.conf"
    assert (tree.data(path).decode().splitlines()[1:] if os.path.exists(tree.path(path)) else []) == lines


def test_no_override_without_a_namesake(tree):
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    assert os.listdir(tree.path("/etc/depmod.d")) == ["dist.conf"]


def test_an_override_goes_when_it_is_no_longer_needed(tree):
    tree = FakeTree(tree.root + "2", in_tree=("vendor",))
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    for release in (ONE, TWO, THREE):
        os.unlink(tree.path("/lib/modules/%s/kernel/drivers/net/vendor.ko" % release))
    tree.deploy("/build")
    assert os.listdir(tree.path("/etc/depmod.d")) == ["dist.conf"]


def test_an_override_names_the_file_as_it_is_written(tmp_path):
    tree = FakeTree(tmp_path / "root", in_tree=("3w-9xxx",))
    tree.vendor(TWO, [ONE, TWO], names=("3w-9xxx",))
    tree.deploy("/build")
    assert tree.loads(ONE, "3w-9xxx") == "weak-updates/vendor/3w-9xxx.ko"


def test_an_override_of_one_kernel_holds_for_a_release_with_a_plus(tmp_path):
    release = "6.12.117+deb12-amd64"
    tree = FakeTree(tmp_path / "root", "debian", releases=(release,), in_tree=("vendor",))
    tree.write("/build/vendor.ko", module("vendor", release, "1.0"))
    tree.deploy("/build")
    assert tree.loads(release) == "extra/vendor/vendor.ko"


def test_a_build_that_its_own_kernel_refuses_does_not_hide_that_kernels_module(tmp_path):
    tree = FakeTree(tmp_path / "root", in_tree=("vendor",))
    tree.vendor(TWO, [ONE])
    assert tree.deploy("/build") == {ONE: TWO, TWO: None, THREE: None}
    assert tree.loads(TWO) == "kernel/drivers/net/vendor.ko"


def test_a_link_wins_over_a_stored_build_that_its_kernel_refuses(tree):
    tree.vendor(TWO, [ONE], at="v2", version="2.0")
    tree.vendor(ONE, [TWO], at="v1")
    tree.deploy("/v1", "/v2")
    assert tree.loads(TWO) == "weak-updates/vendor/vendor.ko"
    assert tree.loads(ONE) == "weak-updates/vendor/vendor.ko"


# Foreign things


def test_b5_a_foreign_broken_link_is_neither_touched_nor_in_the_way(tree):
    os.symlink(
        "/lib/modules/gone/extra/other/other.ko", tree.path("/lib/modules/%s/weak-updates/other.ko" % ONE)
    )
    tree.vendor(TWO, [ONE, TWO])
    assert tree.deploy("/build")[ONE] == TWO
    assert os.path.islink(tree.path("/lib/modules/%s/weak-updates/other.ko" % ONE))


def test_a_foreign_link_of_the_same_name_stays_and_ours_wins(tree):
    tree.write("/lib/modules/%s/extra/vendor/vendor.ko" % TWO, b"")
    shutil.copy(
        tree.path("/lib/modules/%s/kernel/drivers/net/e1000e.ko" % TWO),
        tree.path("/lib/modules/%s/extra/vendor/vendor.ko" % TWO),
    )
    os.makedirs(tree.path("/lib/modules/%s/weak-updates/vendor" % ONE))
    link = tree.path("/lib/modules/%s/weak-updates/vendor/vendor.ko" % ONE)
    os.symlink("/lib/modules/%s/extra/vendor/vendor.ko" % TWO, link)
    for release in (ONE, TWO):
        tree.depmod(release)
    before = tree.snapshot()
    tree.vendor(TWO, [ONE, TWO], at="b", version="2.0")
    tree.deploy("/b")
    assert tree.loads(ONE) == "weak-updates/outoftree.kmod/vendor/vendor.ko"
    used = tree.data("/lib/modules/%s/%s" % (TWO, tree.loads(TWO)))
    assert used == tree.data("/b/vendor.ko")
    assert os.readlink(link) == "/lib/modules/%s/extra/vendor/vendor.ko" % TWO
    shutil.rmtree(tree.path("/b"))
    tree.remove()
    # depmod -b does not see where an absolute link leads inside a root
    index = "lib/modules/%s/modules.dep" % ONE
    assert _but(tree.snapshot(), index) == _but(before, index)


def test_links_that_weak_modules_made_to_our_build_are_taken_over(tree):
    """EL's kernel packages call it for a kernel that arrives, and it finds what is in extra/."""
    tree.vendor(TWO, [ONE, TWO])
    before = tree.snapshot()
    tree.deploy("/build", kernels=[TWO])
    for release in (ONE, THREE):
        os.makedirs(tree.path("/lib/modules/%s/weak-updates/vendor" % release))
        os.symlink(
            "/lib/modules/%s/extra/vendor/vendor.ko" % TWO,
            tree.path("/lib/modules/%s/weak-updates/vendor/vendor.ko" % release),
        )
    tree.deploy()
    assert (
        os.readlink(tree.path("/lib/modules/%s/weak-updates/vendor/vendor.ko" % ONE))
        == "../../../%s/extra/vendor/vendor.ko" % TWO
    )
    # which refuses it
    assert not os.path.lexists(tree.path("/lib/modules/%s/weak-updates/vendor/vendor.ko" % THREE))
    assert not tree.plan()[0]
    tree.remove()
    left = tree.snapshot()
    assert {path for path in left if path not in before} == {
        "lib/modules/%s/weak-updates/vendor" % release for release in (ONE, THREE)
    }


def test_an_empty_directory_of_the_drivers_name_that_was_there_stays(tree):
    os.makedirs(tree.path("/lib/modules/%s/weak-updates/vendor" % ONE))
    os.makedirs(tree.path("/lib/modules/%s/extra/vendor" % TWO))
    tree.vendor(TWO, [ONE, TWO])
    before = tree.snapshot()
    tree.deploy("/build")
    tree.remove()
    assert tree.snapshot() == before


def test_what_someone_else_puts_into_our_directories_survives_removal(tree):
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    tree.write("/lib/modules/%s/extra/vendor/notes" % TWO, b"mine")
    tree.remove()
    assert os.listdir(tree.path("/lib/modules/%s/extra/vendor" % TWO)).count("notes") == 1


def test_two_drivers_with_a_module_of_the_same_name_are_refused(tree):
    tree.vendor(TWO, [TWO])
    tree.deploy("/build")
    before = tree.snapshot()
    tree.vendor(TWO, [TWO], at="other", note="another")
    with pytest.raises(KmodError) as error:
        tree.deploy("/other", driver="rival")
    assert error.value.code == "MODULE_OF_OTHER_DRIVER"
    assert "driver vendor has a module vendor too" in str(error.value)
    shutil.rmtree(tree.path("/other"))
    assert tree.snapshot() == before


def test_two_drivers_share_directories_and_go_one_after_the_other(tmp_path):
    tree = FakeTree(tmp_path / "root", "debian")
    tree.vendor(TWO, [ONE, TWO])
    tree.vendor(TWO, [ONE, TWO], names=("rival",), at="other")
    before = tree.snapshot()
    tree.deploy("/build")
    tree.deploy("/other", driver="rival")
    tree.remove()
    assert tree.loads(ONE, "rival") == "weak-updates/rival/rival.ko"
    tree.remove(driver="rival")
    assert tree.snapshot() == before


# What happens to kernels, clones and interrupted runs


def test_b9_links_whose_build_went_with_its_kernel_are_repaired_or_removed(tree):
    tree.vendor(ONE, [ONE, THREE], at="b/1")
    tree.vendor(TWO, [TWO, THREE], at="b/2")
    tree.deploy("/b")
    shutil.rmtree(tree.path("/lib/modules/" + TWO))
    assert tree.deploy() == {ONE: ONE, THREE: ONE}
    assert tree.loads(THREE) == "weak-updates/vendor/vendor.ko"
    shutil.rmtree(tree.path("/lib/modules/%s/extra/vendor" % ONE))
    tree.remove()
    assert not os.path.lexists(tree.path("/lib/modules/%s/weak-updates/vendor" % THREE))
    assert "vendor" not in tree.data("/lib/modules/%s/modules.dep" % THREE).decode()


def test_heal_removes_our_links_where_no_build_is_left(tree):
    tree.vendor(TWO, [ONE, TWO])
    before = tree.snapshot()
    tree.deploy("/build")
    shutil.rmtree(tree.path("/lib/modules/" + TWO))
    tree.deploy(heal=True)
    assert not [path for path in before if before[path] != tree.snapshot().get(path) and TWO not in path]


def test_heal_repairs_and_removes_dangling_links_of_others(tree):
    tree.vendor(TWO, [ONE], names=("other",), at="lib/modules/%s/extra/other" % TWO)
    for name in ("other", "lost"):
        os.makedirs(tree.path("/lib/modules/%s/weak-updates/%s" % (ONE, name)))
        os.symlink(
            "/lib/modules/gone/extra/%s/%s.ko" % (name, name),
            tree.path("/lib/modules/%s/weak-updates/%s/%s.ko" % (ONE, name, name)),
        )
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build", heal=True)
    assert tree.loads(ONE, "other") == "weak-updates/other/other.ko"
    assert not os.path.lexists(tree.path("/lib/modules/%s/weak-updates/lost/lost.ko" % ONE))
    assert not tree.plan("/build", heal=True)[0]


def test_b10_modules_dep_forgets_what_is_removed(tree):
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    tree.remove()
    for release in (ONE, TWO):
        assert "vendor" not in tree.data("/lib/modules/%s/modules.dep" % release).decode()


def test_a_kernel_that_arrives_later_is_linked_from_the_store(tree):
    tree.vendor(TWO, [ONE, TWO, FOUR])
    tree.deploy("/build")
    tree.kernel(FOUR)
    assert tree.deploy(kernels=[FOUR]) == {FOUR: TWO}
    assert tree.loads(FOUR) == "weak-updates/vendor/vendor.ko"


def test_a_clone_of_the_tree_is_understood(tree):
    tree.vendor(TWO, [ONE, TWO])
    before = tree.snapshot()
    tree.deploy("/build")
    tree = tree.clone(tree.root + "-clone")
    assert tree.loads(ONE) == "weak-updates/vendor/vendor.ko"
    assert tree.deploy()[ONE] == TWO
    tree.remove()
    assert tree.snapshot() == before


def test_a_run_that_is_cut_off_anywhere_is_completed_by_the_next(tmp_path):
    first = FakeTree(tmp_path / "first", in_tree=("vendor",))
    first.vendor(TWO, [ONE, TWO], names=("vendor", "helper"))
    whole = first.clone(tmp_path / "whole")
    before = whole.snapshot()
    whole.deploy("/build")
    for cut in range(len(first.plan("/build")[0].steps)):
        tree = first.clone(tmp_path / str(cut))
        plan, _result = tree.plan("/build")
        for step in plan.steps[:cut]:
            step.apply(plan.host)
        tree.deploy("/build")
        last = os.path.relpath(tree.path(plan.steps[cut - 1].path), tree.root) if cut else ""
        assert _but(tree.snapshot(), last + "/.outoftree.kmod") == _but(
            whole.snapshot(), last + "/.outoftree.kmod"
        ), cut
        assert tree.plan("/build")[0].paths() == []
        tree.remove()
        # a directory that was just made bears no mark yet
        assert _but(tree.snapshot(), last) == _but(before, last), cut


def _but(snapshot, path):
    return {name: node for name, node in snapshot.items() if name != path}


def test_a_removal_that_is_cut_off_anywhere_is_completed_by_the_next(tmp_path):
    first = FakeTree(tmp_path / "first", in_tree=("vendor",))
    first.vendor(TWO, [ONE, TWO], names=("vendor", "helper"))
    before = first.snapshot()
    first.deploy("/build")
    for cut in range(len(first.plan_removal()[0].steps)):
        tree = first.clone(tmp_path / str(cut))
        plan, _result = tree.plan_removal()
        for step in plan.steps[:cut]:
            step.apply(plan.host)
        tree.remove()
        last = (
            posixpath.dirname(os.path.relpath(tree.path(plan.steps[cut - 1].path), tree.root)) if cut else ""
        )
        assert _but(tree.snapshot(), last) == _but(before, last), cut  # a directory that just lost its mark
        assert tree.plan_removal()[0].paths() == []


def test_a_file_missing_from_the_store_is_put_back(tree):
    tree.vendor(TWO, [ONE, TWO], names=("vendor", "helper"))
    tree.deploy("/build")
    os.unlink(tree.path("/lib/modules/%s/extra/vendor/helper.ko" % TWO))
    tree.deploy("/build")
    assert tree.loads(ONE, "helper") == "weak-updates/vendor/helper.ko"


def test_a_stored_build_that_misses_a_file_is_not_linked(tree):
    tree.vendor(TWO, [ONE, TWO], names=("vendor", "helper"))
    tree.deploy("/build")
    os.unlink(tree.path("/lib/modules/%s/extra/vendor/helper.ko" % TWO))
    with pytest.raises(KmodError) as error:
        tree.deploy()
    assert error.value.code == "NO_BUILD"
    assert "helper.ko" in str(error.value)


def test_b13_compressed_modules_are_stored_so_that_every_kmod_reads_them(tree):
    import lzma

    tree.vendor(TWO, [ONE, TWO])
    plain = tree.data("/build/vendor.ko")
    tree.write("/b/vendor.ko.xz", lzma.compress(plain))
    assert tree.deploy("/b")[ONE] == TWO
    assert tree.data("/lib/modules/%s/extra/vendor/vendor.ko" % TWO) == plain
    plan, _result = tree.plan("/b")
    assert not plan


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="needs dpkg-deb")
def test_a_package_on_the_host_will_do(tree):
    tree.vendor(TWO, [ONE, TWO], at="pkg/lib/modules/%s/extra/vendor" % TWO)
    tree.write(
        "/pkg/DEBIAN/control",
        b"Package: v\nVersion: 1\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: v\n",
    )
    subprocess.run(
        ["dpkg-deb", "--build", tree.path("/pkg"), tree.path("/kmod-vendor.deb")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    shutil.rmtree(tree.path("/pkg"))
    assert tree.deploy("/kmod-vendor.deb") == {ONE: TWO, TWO: TWO, THREE: None}
    assert tree.loads(ONE) == "weak-updates/vendor/vendor.ko"
    assert not tree.plan("/kmod-vendor.deb")[0]


def test_a_depmod_that_fails_changes_nothing_and_is_shown(tree, tmp_path, monkeypatch):
    tree.vendor(TWO, [ONE, TWO])
    before = tree.snapshot()
    tool = tmp_path / "bin" / "depmod"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\ncase $1 in --help) exit 0;; esac\necho depmod: out of ink >&2; exit 1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (tool.parent, os.environ["PATH"]))
    with pytest.raises(KmodError) as error:
        tree.deploy("/build")
    assert "out of ink" in str(error.value)
    assert tree.snapshot() == before


def test_usr_merged_trees(tmp_path):
    tree = FakeTree(tmp_path / "root")
    os.makedirs(tree.path("/usr"))
    os.rename(tree.path("/lib"), tree.path("/usr/lib"))
    # absolute: it leads out of the root for whoever does not resolve it inside
    os.symlink("/usr/lib", tree.path("/lib"))
    tree.vendor(TWO, [ONE, TWO])
    before = tree.snapshot()
    assert tree.deploy("/build")[ONE] == TWO
    assert "weak-updates/vendor/vendor.ko:" in tree.data("/usr/lib/modules/%s/modules.dep" % ONE).decode()
    assert not tree.plan("/build")[0]
    tree.remove()
    assert tree.snapshot() == before


# Bad input


@pytest.mark.parametrize(
    "paths,code",
    [
        (["/nothing"], "PATH_MISSING"),
        (["/build/../../../etc/hostname"], "PATH_MISSING"),  # .. stops at the root
        (["/empty"], "NO_MODULES"),
        (["/loop"], "PATH_LOOP"),
        (["/text/vendor.ko"], "ELF_MAGIC"),
        (["/cut/vendor.ko"], None),
        (["/text/vendor.rpm"], "PACKAGE_DAMAGED"),
        (["/etc/depmod.d/dist.conf"], "ELF_MAGIC"),
        (["/build", "/build"], "TWO_MODULES"),
        (["/twice"], "TWO_MODULES"),
    ],
)
def test_bad_modules_change_nothing_and_are_named(tree, paths, code):
    tree.vendor(TWO, [ONE, TWO])
    tree.write("/text/vendor.ko", b"#!/bin/sh\n")
    tree.write("/text/vendor.rpm", b"#!/bin/sh\n")
    tree.write("/cut/vendor.ko", tree.data("/build/vendor.ko")[:700])
    tree.write("/twice/vendor.ko", tree.data("/build/vendor.ko"))
    tree.write("/twice/vendor.ko.gz", gzip.compress(tree.data("/build/vendor.ko")))
    os.mkdir(tree.path("/empty"))
    os.symlink("loop", tree.path("/loop"))
    before = tree.snapshot()
    with pytest.raises(KmodError) as error:
        tree.plan(*paths)
    assert error.value.code == code or code is None
    assert error.value.what and error.value.then
    assert tree.snapshot() == before


def test_a_path_of_the_machine_is_told_from_one_of_the_root(tree):
    with pytest.raises(KmodError) as error:
        tree.plan(tree.root + "/build")
    assert "as a path inside the root" in str(error.value)


@pytest.mark.parametrize("name", ["", "..", "a/b", "build", ".hidden", "new\nline", "two words"])
def test_a_name_that_cannot_be_a_directory_of_modules(tree, name):
    with pytest.raises(KmodError) as error:
        tree.plan("/build", driver=name)
    assert error.value.code == "DRIVER_NAME"


def test_a_root_without_kernels(tmp_path):
    tree = FakeTree(tmp_path / "root", releases=())
    with pytest.raises(KmodError) as error:
        tree.plan("/build")
    assert error.value.code == "NO_KERNELS"


@pytest.mark.parametrize("options", [{"build": TWO}, {"state": "absent", "kernels": [TWO]}])
def test_options_that_would_be_ignored_are_refused(tree, options):
    tree.vendor(TWO, [TWO])
    with pytest.raises(KmodError) as error:
        tree.plan("/build", **options)
    assert error.value.code == "BAD_OPTION"


def test_a_pattern_that_means_no_kernel(tree):
    tree.vendor(TWO, [TWO])
    with pytest.raises(KmodError) as error:
        tree.plan("/build", kernels=["4.18.*"])
    assert error.value.code == "NO_SUCH_KERNEL"


def test_two_directories_of_kernels_are_an_error_that_says_what_to_do(tree):
    tree.vendor(TWO, [TWO])
    tree.write("/usr/lib/modules/5.14.0-4/kernel/a.ko", b"")
    with pytest.raises(KmodError) as error:
        tree.plan("/build")
    assert error.value.code == "MODULES_APART"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_full_file_system_leaves_the_tree_as_it_was(tmp_path):
    tree = FakeTree(tmp_path / "root")
    tree.vendor(TWO, [ONE, TWO], note="x" * 300000)
    extra = tree.path("/lib/modules/%s/extra" % TWO)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", extra], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        before = tree.snapshot()
        with pytest.raises(KmodError) as error:
            tree.deploy("/build")
        assert error.value.code == "NO_ROOM"
        assert "Free space" in error.value.then
        assert tree.snapshot() == before
    finally:
        subprocess.run(["umount", extra], check=True)


def test_a_concurrent_run_waits_or_says_who_holds_the_lock(tree):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, os, sys, time\n"
            "fcntl.flock(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_EX)\nprint(1, flush=True)\n"
            "time.sleep(60)",
            tree.path(lock.path(Host(tree.root))),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        holder.stdout.readline()
        with pytest.raises(KmodError) as error:
            lock.glance(Host(tree.root), wait=0)
        assert error.value.code == "LOCKED"
    finally:
        holder.kill()
        holder.wait()


def test_a_store_directory_that_cannot_be_made_is_an_error_that_names_it(tree):
    tree.vendor(TWO, [ONE, TWO])
    os.rmdir(tree.path("/lib/modules/%s/extra" % TWO))
    tree.write("/lib/modules/%s/extra" % TWO, b"a file where a directory belongs")
    before = tree.snapshot()
    with pytest.raises(KmodError) as error:
        tree.deploy("/build")
    assert "/lib/modules/%s/extra" % TWO in error.value.what
    assert tree.snapshot() == before
