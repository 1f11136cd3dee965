# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What weak-modules promises those who call it, on trees with the real depmod.

Bn are the findings on the script that each test is the answer to.
"""

import io
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import cli, lock, weak_modules
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from tests.forge.fake_tree import FOUR, ONE, THREE, TWO, FakeTree, module
from tests.forge.ko import LAYOUT, Export, ko

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")


class Called:
    def __init__(self, status, out, err):
        self.status = status
        self.out = out
        self.err = err


class Packages(FakeTree):
    """A root into which packages put modules, and whose scripts call us."""

    def package(self, release, fits, names=("vendor",), at="vendor", **more):
        """Install a package's files; answers with their paths as rpm lists them."""
        paths = ["/lib/modules/%s/extra/%s%s.ko" % (release, at + "/" if at else "", name) for name in names]
        for path, name in zip(paths, names):
            self.write(path, module(name, release, fits=fits, **more))
        return paths

    def call(self, *argv, lines=(), root=True):
        """One call, with these lines on standard input."""
        stdin = io.TextIOWrapper(
            io.BytesIO("".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape"))
        )
        streams = sys.stdin, sys.stdout, sys.stderr
        out, err = io.TextIOWrapper(io.BytesIO()), io.StringIO()
        sys.stdin, sys.stdout, sys.stderr = stdin, out, err
        try:
            status = weak_modules.main([*argv, *(["--basedir", self.root] if root else [])])
            out.flush()
        finally:
            sys.stdin, sys.stdout, sys.stderr = streams
        return Called(status, out.buffer.getvalue().decode(), err.getvalue())

    def add(self, *paths, **more):
        return self.call("--add-modules", "--no-initramfs", lines=paths, **more)

    def drop(self, *paths):
        for path in paths:
            os.remove(self.path(path))

    def links(self):
        """(release, path below weak-updates) -> text."""
        found = {}
        for top in Path(self.path("/lib/modules")).glob("*/weak-updates"):
            for directory, names, files in os.walk(str(top)):
                for path in [os.path.join(directory, name) for name in names + files]:
                    if os.path.islink(path):
                        found[top.parent.name, os.path.relpath(path, str(top))] = os.readlink(path)
        return found


@pytest.fixture
def tree(tmp_path):
    return Packages(tmp_path / "root")


# Modules arrive


def test_a_packages_modules_are_linked_into_the_kernels_that_take_them(tree):
    paths = tree.package(TWO, [ONE, TWO])
    assert tree.add(*paths).status == 0
    assert tree.links() == {(ONE, "vendor/vendor.ko"): paths[0]}
    assert [tree.loads(release) for release in (ONE, TWO, THREE)] == [
        "weak-updates/vendor/vendor.ko",
        "extra/vendor/vendor.ko",
        None,
    ]


def test_b12_a_second_call_writes_nothing(tree):
    paths = tree.package(TWO, [ONE, TWO, THREE])
    tree.add(*paths)
    before = written(tree)
    tree.add(*paths)
    tree.call("--add-kernel", ONE)
    assert written(tree) == before


def written(tree):
    return {
        os.path.join(directory, name): os.lstat(os.path.join(directory, name)).st_ctime_ns
        for directory, _names, files in os.walk(tree.root)
        for name in files
        if "/var/cache/" not in directory
    }


def test_paths_below_usr_lib_are_the_same_and_relative_ones_are_made_absolute(tree, monkeypatch):
    (path,) = tree.package(TWO, [ONE, TWO])
    os.makedirs(tree.path("/usr"))
    os.symlink("../lib", tree.path("/usr/lib"))
    monkeypatch.chdir(tree.path("/lib/modules/" + TWO))
    tree.add("extra/vendor/vendor.ko", "/usr" + path)
    assert set(tree.links()) == {(ONE, "vendor/vendor.ko")}


@pytest.mark.parametrize("lines", [(), ("",), ("", "")])
def test_no_modules_are_nothing_to_do(tree, lines):
    assert (tree.add(*lines).status, tree.links()) == (0, {})


def test_b6_nothing_fits_is_no_failure_and_is_said(tree):
    paths = tree.package(TWO, [])
    called = tree.add(*paths)
    assert (called.status, called.out, tree.links()) == (0, "", {})
    assert (
        "Module vendor.ko from kernel %s is not compatible with kernel %s in symbols:  takes_" % (TWO, ONE)
        in called.err
    )


def test_verbose_says_what_callers_look_for(tree):
    paths = tree.package(TWO, [ONE, TWO])
    before = tree.snapshot()
    called = tree.call("--verbose", "--dry-run", "--no-initramfs", "--add-modules", lines=paths)
    assert called.out == (
        "Module vendor.ko from kernel %s is compatible with kernel %s\n"
        "Module vendor.ko from kernel %s is not compatible with kernel %s in symbols:  takes_0_1\n"
        % (TWO, ONE, TWO, THREE)
    )
    assert (called.status, tree.snapshot()) == (0, before)


def test_a_driver_is_linked_as_a_whole_or_not_at_all_and_other_drivers_are_not_in_its_way(tree):
    paths = tree.package(TWO, [ONE, TWO], ("vendor",)) + tree.package(TWO, [TWO], ("helper",))
    other = tree.package(TWO, [ONE, TWO], ("other",), at="other")
    called = tree.call("--add-modules", "--verbose", "--no-initramfs", lines=paths + other)
    assert set(tree.links()) == {(ONE, "other/other.ko")}
    assert "Falling back weak-modules state for kernel %s\n" % ONE in called.out


def test_b4_an_upgrade_in_place_takes_the_link_of_a_kernel_that_refuses_it(tree):
    paths = tree.package(TWO, [ONE, TWO, THREE])
    tree.add(*paths)
    tree.package(TWO, [TWO, THREE])
    called = tree.call("--add-modules", "--verbose", "--no-initramfs", lines=paths)
    assert set(tree.links()) == {(THREE, "vendor/vendor.ko")}
    assert "Removing compatible module vendor.ko from kernel %s\n" % ONE in called.out
    assert tree.loads(ONE) is None


def test_b5_a_foreign_link_that_does_not_fit_is_neither_in_the_way_nor_touched(tree):
    tree.package(TWO, [TWO], ("foreign",), at="foreign")
    link(tree, ONE, "foreign/foreign.ko", "/lib/modules/%s/extra/foreign/foreign.ko" % TWO)
    tree.add(*tree.package(TWO, [ONE, TWO]))
    assert set(tree.links()) == {(ONE, "foreign/foreign.ko"), (ONE, "vendor/vendor.ko")}


def link(tree, release, below, text):
    path = tree.path("/lib/modules/%s/weak-updates/%s" % (release, below))
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.symlink(text, path)


def test_b7_other_flags_in_vermagic_are_refused(tree):
    path = "/lib/modules/%s/extra/vendor/vendor.ko" % TWO
    tree.write(path, ko("vendor", [LAYOUT], release=TWO, flags=" SMP preempt_rt mod_unload modversions "))
    called = tree.add(path)
    assert tree.links() == {}
    assert "is not compatible with kernel %s: " % ONE in called.err


def test_b8_a_module_without_versions_is_not_linked(tree):
    path = "/lib/modules/%s/extra/vendor/vendor.ko" % TWO
    tree.write(path, ko("vendor", [LAYOUT], release=TWO, versioned=False))
    tree.add(path)
    assert tree.links() == {}


def test_b13_a_zstd_module_is_linked_and_listed(tree):
    compress = shutil.which("zstd") or pytest.skip("needs zstd")
    (path,) = tree.package(TWO, [ONE, TWO])
    subprocess.run([compress, "-q", "--rm", tree.path(path)], check=True)
    tree.add(path + ".zst")
    assert set(tree.links()) == {(ONE, "vendor/vendor.ko.zst")}
    assert b"weak-updates/vendor/vendor.ko.zst:" in tree.data("/lib/modules/%s/modules.dep" % ONE)


def test_a_module_outside_of_any_tree_goes_below_weak_updates_as_a_whole(tree):
    tree.write("/opt/acfs/oracleacfs.ko", module("oracleacfs", TWO, fits=[ONE, TWO]))
    tree.add("/opt/acfs/oracleacfs.ko")
    assert tree.links() == {
        (release, "opt/acfs/oracleacfs.ko"): "/opt/acfs/oracleacfs.ko" for release in (ONE, TWO)
    }


def test_what_lacks_a_module_that_comes_in_the_next_call_is_linked_by_that(tree):
    gpu, kcl = ("/lib/modules/%s/extra/%s.ko" % (TWO, name) for name in ("amdgpu", "amdkcl"))
    tree.write(gpu, ko("amdgpu", [LAYOUT, ("kcl_symbol", 0x5)], release=TWO, modinfo={"depends": "amdkcl"}))
    tree.add(gpu)
    assert tree.links() == {}
    tree.write(kcl, ko("amdkcl", [LAYOUT], release=TWO, exports=[Export("kcl_symbol", 0x5)]))
    tree.add(kcl)
    assert set(tree.links()) == {
        (release, name) for release in (ONE, THREE) for name in ("amdgpu.ko", "amdkcl.ko")
    }


def test_a_provider_may_lie_in_extra_already(tree):
    for release in (ONE, TWO):
        tree.write(
            "/lib/modules/%s/extra/lib/provider.ko" % release,
            ko("provider", [LAYOUT], release=release, exports=[Export("given", 0x5)]),
        )
        tree.depmod(release)
    path = "/lib/modules/%s/extra/vendor/vendor.ko" % TWO
    tree.write(path, ko("vendor", [LAYOUT, ("given", 0x5)], release=TWO))
    tree.add(path)
    assert (ONE, "vendor/vendor.ko") in tree.links()


def test_a_kernels_own_build_is_not_hidden_by_a_link(tree):
    own = tree.package(ONE, [ONE])
    tree.add(*own)
    tree.add(*tree.package(TWO, [ONE, TWO]))
    assert tree.links() == {}


def test_depmod_runs_for_the_modules_own_kernel(tree):
    tree.add(*tree.package(TWO, [TWO]))
    assert tree.loads(TWO) == "extra/vendor/vendor.ko"


# Bad input


@pytest.mark.parametrize(
    "data,word", [(None, "does not exist"), (b"", "vendor.ko"), (b"\x7fELF no module", "vendor.ko")]
)
def test_what_is_no_module_is_told_of_and_linked_nowhere(tree, data, word):
    path = "/lib/modules/%s/extra/vendor/vendor.ko" % TWO
    if data is not None:
        tree.write(path, data)
    good = tree.package(TWO, [ONE, TWO], ("good",), at="good")
    called = tree.add(path, *good)
    assert (called.status, set(tree.links())) == (0, {(ONE, "good/good.ko")})
    assert word in called.err


@pytest.mark.parametrize("name", ["two words", "tab\there", "colon:", "a\x1b[31m"])
def test_a_name_that_modules_dep_cannot_hold_is_refused(tree, name):
    path = "/lib/modules/%s/extra/%s/vendor.ko" % (TWO, name)
    tree.write(path, module("vendor", TWO, fits=[ONE, TWO]))
    called = tree.add(path)
    assert (called.status, tree.links()) == (0, {})
    assert "\x1b" not in called.err and "is not called as depmod can list it" in called.err


def test_a_name_that_depmod_crashes_of_keeps_no_other_from_being_linked(tree):
    path = "/opt/vendor/\udcff\udcfe.ko"
    tree.write(path, module("vendor", TWO, fits=[ONE, TWO]))
    called = tree.add(path, *tree.package(TWO, [ONE, TWO], ("good",), at="good"))
    assert (called.status, set(tree.links())) == (0, {(ONE, "good/good.ko")})
    assert "is not called as depmod can list it" in called.err


def test_a_directory_that_is_gone_is_needed_for_relative_paths_alone(tree, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    paths = tree.package(TWO, [ONE, TWO])
    assert tree.add(*paths).status == 0 and set(tree.links()) == {(ONE, "vendor/vendor.ko")}
    assert tree.add("vendor.ko").status == 1


def test_a_newline_in_a_name_is_two_paths_that_do_not_exist(tree):
    tree.write("/lib/modules/%s/extra/a\nb/vendor.ko" % TWO, module("vendor", TWO, fits=[ONE, TWO]))
    called = tree.add("/lib/modules/%s/extra/a\nb/vendor.ko" % TWO)
    assert (called.status, tree.links(), called.err.count("does not exist")) == (0, {}, 2)
    assert tree.call("--add-kernel", ONE).status == 0
    assert tree.links() == {}


@pytest.mark.parametrize(
    "argv", [("--nonsense",), (), ("--add",), ("--basedir",), ("--verbose",), ("--add-modules=x",)]
)
def test_a_wrong_command_line_is_1_with_the_usage(tree, argv):
    called = tree.call(*argv, root=False)
    assert called.status == 1
    assert called.out.startswith("Usage: weak-modules")


def test_help_is_0(tree):
    assert [tree.call(word).status for word in ("-h", "--help", "--he")] == [0, 0, 0]


def test_options_may_be_cut_short_and_come_in_any_order(tree):
    paths = tree.package(TWO, [ONE, TWO])
    assert (
        tree.call("--basedir=" + tree.root, "--no-init", "--verb", "--add-m", lines=paths, root=False).status
        == 0
    )
    assert set(tree.links()) == {(ONE, "vendor/vendor.ko")}


def test_of_several_actions_the_first_of_the_scripts_order_is_done(tree):
    paths = tree.package(TWO, [ONE, TWO])
    tree.call("--remove-kernel", "--add-kernel", "--add-modules", "--no-initramfs", lines=paths)
    assert set(tree.links()) == {(ONE, "vendor/vendor.ko")}


def test_delete_modules_is_warned_of_and_ignored(tree):
    paths = tree.package(TWO, [ONE, TWO])
    tree.add(*paths)
    called = tree.call("--remove-modules", "--no-initramfs", "--delete-modules", lines=paths)
    assert (called.status, called.out) == (0, "WARNING: --delete-modules is deprecated, no effect\n")
    assert set(tree.links()) == {(ONE, "vendor/vendor.ko")}


@pytest.mark.parametrize(
    "argv,status",
    [(["--add-kernel", ONE], 1), (["--add-kernel", ONE, "--no-initramfs"], 0), (["--remove-kernel", ONE], 0)],
)
def test_a_dracut_that_cannot_be_run_matters_where_images_are_meant(tree, argv, status):
    assert tree.call("--dracut", "/no/such/dracut", *argv).status == status


# Modules leave


def test_removed_modules_lose_their_links_and_the_directories_left_empty(tree):
    before = tree.snapshot()
    paths = tree.package(TWO, [ONE, TWO, THREE])
    tree.add(*paths)
    shutil.rmtree(tree.path("/lib/modules/%s/extra/vendor" % TWO))
    assert tree.call("--remove-modules", "--no-initramfs", lines=paths).status == 0
    assert tree.snapshot() == before


def test_an_upgrade_calls_with_the_old_list_when_the_new_files_are_there(tree):
    paths = tree.package(TWO, [ONE, TWO])
    tree.add(*paths)
    tree.call("--remove-modules", "--no-initramfs", lines=paths)
    assert set(tree.links()) == {(ONE, "vendor/vendor.ko")}


def test_an_upgrade_to_a_build_for_another_kernel_serves_the_one_that_it_is_no_longer_built_for(tree):
    """The new files come before the old ones go: until then it has its own, beside which no link is made."""
    old = tree.package(TWO, [ONE, TWO, THREE])
    tree.add(*old)
    tree.add(*tree.package(THREE, [ONE, TWO, THREE]))
    os.remove(tree.path(old[0]))
    assert tree.call("--remove-modules", "--no-initramfs", lines=old).status == 0
    build = "/lib/modules/%s/extra/vendor/vendor.ko" % THREE
    assert tree.links() == {(ONE, "vendor/vendor.ko"): build, (TWO, "vendor/vendor.ko"): build}
    assert tree.loads(TWO) == "weak-updates/vendor/vendor.ko"


def test_what_needs_a_module_of_a_package_that_goes_loses_its_links(tree):
    """It would not load; when that package comes back, it is linked again."""
    giver, taker = pair(tree)
    tree.add(giver, taker)
    data = tree.data(giver)
    os.remove(tree.path(giver))
    assert tree.call("--remove-modules", "--no-initramfs", lines=[giver]).status == 0
    assert tree.links() == {} and tree.loads(ONE, "taker") is None
    tree.write(giver, data)
    tree.add(giver)
    assert set(tree.links()) == {
        (release, "%s/%s.ko" % (name, name)) for release in (ONE, THREE) for name in ("giver", "taker")
    }


def pair(tree):
    """Modules of two packages, of which one needs the other."""
    needs = [LAYOUT, ("takes_0_1_2", 0x77)]
    data = {
        "giver": ko("giver", needs, release=TWO, exports=[Export("given", 0x5)], export_form="symbols"),
        "taker": ko("taker", [LAYOUT, ("given", 0x5)], release=TWO, depends="giver"),
    }
    paths = {name: "/lib/modules/%s/extra/%s/%s.ko" % (TWO, name, name) for name in data}
    for name, path in paths.items():
        tree.write(path, data[name])
    return list(paths.values())


@pytest.mark.parametrize("alone", [True, False])
def test_links_of_ours_in_the_list_mean_what_they_lead_to(tree, alone):
    """As ``find /lib/modules -name vendor.ko`` lists them the second time."""
    paths = tree.package(TWO, [ONE, TWO, THREE])
    tree.add(*paths)
    before, links = (
        tree.snapshot(),
        ["/lib/modules/%s/weak-updates/vendor/vendor.ko" % r for r in (ONE, THREE)],
    )
    called = tree.add(*links, *([] if alone else paths))
    assert (called.status, called.err) == (0, "") and tree.snapshot() == before
    os.remove(tree.path(paths[0]))
    tree.call("--remove-modules", "--no-initramfs", lines=links)
    assert tree.links() == {}


def test_a_directory_in_the_list_is_told_of(tree):
    paths = tree.package(TWO, [ONE, TWO])
    called = tree.add(os.path.dirname(paths[0]), *paths)
    assert called.status == 0 and "/extra/vendor is no file\n" in called.err
    assert list(tree.links()) == [(ONE, "vendor/vendor.ko")]


@pytest.mark.parametrize("outside", ["/opt/acfs/vendor.ko", "/lib/modules/%s/updates/vendor.ko" % TWO])
def test_a_module_that_lay_elsewhere_loses_its_links_when_it_is_gone(tree, outside):
    tree.write(outside, module("vendor", TWO, fits=[ONE, TWO]))
    tree.add(outside)
    assert tree.links()
    os.remove(tree.path(outside))
    tree.call("--remove-modules", "--no-initramfs", lines=[outside])
    assert tree.links() == {}


def test_a_kernel_that_depmod_has_not_seen_yet_is_served(tree):
    tree.package(TWO, [ONE, TWO, THREE])
    for name in os.listdir(tree.path("/lib/modules/" + ONE)):
        if name.startswith("modules."):
            os.remove(tree.path("/lib/modules/%s/%s" % (ONE, name)))
    assert tree.call("--add-kernel", ONE, "--no-initramfs").status == 0
    assert tree.loads(ONE) == "weak-updates/vendor/vendor.ko" and tree.loads(ONE, "e1000e")


def test_files_that_are_deleted_after_the_call_leave_links_that_the_next_call_removes(tree):
    """As DKMS and MLNX_OFED call it."""
    paths = tree.package(TWO, [ONE, TWO, THREE], at="")
    tree.add(*paths)
    tree.call("--remove-modules", "--no-initramfs", lines=paths)
    assert len(tree.links()) == 2
    os.remove(tree.path(paths[0]))
    tree.add(*tree.package(TWO, [TWO], names=("other",), at="other"))
    assert tree.links() == {} and tree.loads(ONE) is None


def test_a_link_to_another_file_than_the_listed_one_stays(tree):
    (new,) = tree.package(THREE, [ONE, THREE])
    old = "/lib/modules/%s/extra/vendor/vendor.ko" % TWO
    tree.add(new)
    tree.call("--remove-modules", "--no-initramfs", lines=[old])
    assert tree.links() == {(ONE, "vendor/vendor.ko"): new}


def test_a_kernel_that_loses_a_build_gets_the_next_that_it_takes(tree):
    old, new = tree.package(TWO, [ONE, TWO]), tree.package(THREE, [ONE, THREE])
    tree.add(*new)
    tree.drop(*new)
    tree.call("--remove-modules", "--no-initramfs", lines=new)
    assert tree.links() == {(ONE, "vendor/vendor.ko"): old[0]}


def test_b9_links_that_lead_nowhere_are_led_elsewhere_or_removed(tree):
    paths = tree.package(TWO, [ONE, TWO, THREE])
    tree.add(*paths)
    shutil.rmtree(tree.path("/lib/modules/" + TWO))
    tree.package(FOUR, [THREE])
    tree.call("--add-kernel", THREE, "--no-initramfs")
    tree.call("--add-kernel", ONE, "--no-initramfs")
    assert tree.links() == {(THREE, "vendor/vendor.ko"): "/lib/modules/%s/extra/vendor/vendor.ko" % FOUR}
    assert tree.loads(ONE) is None


def test_a_link_to_a_disk_that_is_not_there_now_stays(tree):
    link(tree, ONE, "mnt/san.ko", "/mnt/san.ko")
    tree.call("--add-kernel", ONE, "--no-initramfs")
    assert (ONE, "mnt/san.ko") in tree.links()
    tree.call("--remove-modules", "--no-initramfs", lines=["/mnt/san.ko"])
    assert tree.links() == {}


# Kernels arrive and leave


def test_a_kernel_that_arrives_gets_the_newest_build_that_it_takes(tree):
    tree.package(ONE, [ONE, FOUR])
    tree.package(TWO, [TWO, FOUR])
    tree.package(THREE, [THREE])
    tree.kernel(FOUR)
    called = tree.call("--add-kernel", FOUR)
    assert (called.status, tree.links()) == (
        0,
        {(FOUR, "vendor/vendor.ko"): "/lib/modules/%s/extra/vendor/vendor.ko" % TWO},
    )
    assert tree.loads(FOUR) == "weak-updates/vendor/vendor.ko"


def test_b15_an_older_whole_pair_is_linked_where_the_newest_does_not_fit(tree):
    tree.package(ONE, [FOUR], ("vendor", "helper"))
    tree.package(TWO, [FOUR], ("vendor",))
    tree.package(TWO, [TWO], ("helper",))
    tree.kernel(FOUR)
    tree.call("--add-kernel", FOUR)
    assert {text.split("/")[3] for text in tree.links().values()} == {ONE}


def test_b14_b3_a_kernel_without_symvers_keeps_its_boot_entry(tree):
    tree.package(TWO, [ONE, TWO])
    for path in [
        *Path(tree.root).rglob("symvers*%s*" % ONE),
        *Path(tree.path("/lib/modules/" + ONE)).glob("symvers*"),
    ]:
        path.unlink()
    called = tree.call("--add-kernel", ONE)
    assert called.status == 0
    assert "has no symvers" in called.err


@pytest.mark.parametrize("release", ["5.14.0-99", "../../etc", "no-kernel", "x\ny"])
def test_a_release_that_is_no_kernel(tree, release):
    before = tree.snapshot()
    called = tree.call("--add-kernel", release)
    assert called.status == 1 and "no such kernel is installed" in called.err
    assert tree.call("--remove-kernel", release).status == 0
    assert tree.snapshot() == before


def test_a_directory_that_a_removed_kernel_has_left_fails_no_scriptlet(tree):
    os.makedirs(tree.path("/lib/modules/%s/extra" % FOUR))
    assert tree.call("--add-kernel", FOUR).status == 0
    assert tree.add(*tree.package(TWO, [TWO, FOUR])).status == 0
    assert tree.links() == {}


def test_b10_a_kernel_that_is_told_to_leave_loses_links_and_what_its_indexes_say_of_them(tree):
    tree.add(*tree.package(TWO, [ONE, TWO]))
    assert tree.call("--remove-kernel", ONE).status == 0
    assert tree.links() == {}
    assert b"weak-updates" not in tree.data("/lib/modules/%s/modules.dep" % ONE)
    assert os.listdir(tree.path("/lib/modules/%s/weak-updates" % ONE)) == []


def test_without_a_release_the_running_kernel_is_meant(tree):
    called = tree.call("--add-kernel", "--no-initramfs")
    assert called.status == 1 and os.uname().release in called.err


def test_what_goes_wrong_with_a_kernel_fails_no_scriptlet_and_with_modules_does(tree, monkeypatch):
    paths = tree.package(TWO, [ONE, TWO])
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(
        "ansible_collections.outoftree.kmod.plugins.module_utils.tools.find",
        lambda name: None,
    )
    kernel, modules = tree.call("--add-kernel", ONE), tree.add(*paths)
    assert (kernel.status, modules.status) == (0, 1)
    assert "depmod" in kernel.err and "depmod" in modules.err
    assert tree.links() == {}


# Drivers that are stored here


def test_a_package_waits_for_a_run_that_takes_long(tree, monkeypatch):
    """Nobody calls again for what a package's script could not do."""
    monkeypatch.setattr(lock, "WAIT", 0.1)
    paths = tree.package(TWO, [ONE, TWO, THREE])
    taken = threading.Event()

    def another():
        with lock.held(Host(tree.root)):
            taken.set()
            time.sleep(1)

    run = threading.Thread(target=another)
    run.start()
    taken.wait()
    called = tree.add(*paths)
    run.join()
    assert (called.status, called.err) == (0, "") and len(tree.links()) == 2


def test_stored_drivers_are_not_disturbed(tree):
    tree.vendor(TWO, [ONE, TWO, THREE])
    tree.deploy("/build")
    before = tree.snapshot()
    tree.call("--add-kernel", ONE, "--no-initramfs")
    tree.add("/lib/modules/%s/extra/vendor/vendor.ko" % TWO)
    tree.call("--remove-kernel", ONE)
    assert tree.snapshot() == before


def test_a_package_with_a_module_of_a_stored_driver_gets_no_link_beside_it(tree):
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    tree.add(*tree.package(THREE, [ONE, TWO, THREE], at="other"))
    assert [(release, below) for release, below in tree.links()] == [(ONE, "vendor/vendor.ko")]
    assert tree.loads(ONE) == "weak-updates/vendor/vendor.ko"


# Images


def test_the_program_that_checks_images_is_called_for_each_kernel_concerned_and_its_last_status_is_ours(
    tree, tmp_path
):
    program = tmp_path / "check"
    program.write_text('#!/bin/sh\necho "$@" >> %s.log\n[ $2 = %s ] && exit 3\nexit 7\n' % (program, TWO))
    program.chmod(0o755)
    paths = tree.package(TWO, [ONE, TWO])
    assert tree.call("--add-modules", "--check-initramfs-prog", "%s word" % program, lines=paths).status == 3
    assert Path(str(program) + ".log").read_text() == "word %s\nword %s\n" % (ONE, TWO)
    tree.call("--add-modules", "--dry-run", "--check-initramfs-prog", str(program), lines=paths)
    assert len(Path(str(program) + ".log").read_text().splitlines()) == 2
    assert (
        tree.call(
            "--add-modules", "--no-initramfs", "--check-initramfs-prog", str(program), lines=paths
        ).status
        == 0
    )
    assert tree.call("--add-modules", "--check-initramfs-prog", "/no/such", lines=paths).status == 127
    assert tree.call("--add-modules", "--check-initramfs-prog", "", lines=paths).status == 0, "none is named"


def test_b1_b2_b11_shipped_images_are_left_and_that_is_said(tree):
    image = "/boot/initramfs-%s.img" % ONE
    tree.write(image, b"shipped")
    called = tree.call("--add-modules", lines=tree.package(TWO, [ONE, TWO]))
    assert (called.status, tree.data(image)) == (0, b"shipped")
    assert "left as shipped: " + image in called.err


# By which name


def test_kmodctl_is_weak_modules_by_that_name_too(tree, monkeypatch):
    monkeypatch.setattr(
        sys, "argv", ["/usr/sbin/weak-modules", "--remove-kernel", "5.5.5", "--basedir", tree.root]
    )
    assert cli.main() == 0
    monkeypatch.setattr(
        sys,
        "argv",
        ["/usr/local/sbin/kmodctl", "weak-modules", "--add-kernel", "5.5.5", "--basedir", tree.root],
    )
    assert cli.main() == 1


# Where stock weak-modules wrote before


def test_links_that_the_script_has_made_are_kept_as_they_are(tree):
    (path,) = tree.package(TWO, [ONE, TWO])
    link(tree, ONE, "vendor/vendor.ko", path)
    tree.depmod(ONE)
    tree.add(path)
    before = written(tree)
    tree.add(path)
    assert written(tree) == before


def test_a_link_with_the_roots_own_path_in_it_is_written_so_that_it_leads_there_once_booted(tree):
    (path,) = tree.package(TWO, [ONE, TWO])
    link(tree, ONE, "vendor/vendor.ko", tree.root + path)
    tree.add(path)
    assert tree.links() == {(ONE, "vendor/vendor.ko"): path}


def test_a_file_in_the_place_of_a_link_stays(tree):
    tree.write("/lib/modules/%s/weak-updates/vendor/vendor.ko" % ONE, b"somebody's")
    called = tree.add(*tree.package(TWO, [ONE, TWO]))
    assert tree.data("/lib/modules/%s/weak-updates/vendor/vendor.ko" % ONE) == b"somebody's"
    assert "is in the way" in called.err


@pytest.mark.parametrize("what", ["file", "link"])
def test_a_kernel_whose_weak_updates_is_no_directory_keeps_no_other_from_being_served(tree, what):
    place = tree.path("/lib/modules/%s/weak-updates" % ONE)
    os.rmdir(place)
    if what == "file":
        Path(place).write_bytes(b"")
    else:
        os.symlink("/opt/links", place)
    called = tree.add(*tree.package(TWO, [ONE, TWO, THREE]))
    assert called.status == 0 and "/%s/weak-updates is in the way" % ONE in called.err
    assert list(tree.links()) == [(THREE, "vendor/vendor.ko")]
