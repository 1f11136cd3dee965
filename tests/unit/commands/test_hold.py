# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What is asked of kmod_hold, and what it answers."""

import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import task
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import hold
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import kernel_holds
from ansible_collections.outoftree.kmod.plugins.module_utils.place.texts import KEPT
from tests.forge import families
from tests.forge.fake_tree import FOUR, ONE, THREE, TWO, FakeTree

needs_depmod = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
OLD, NEW, NEWER = "6.1.0-55-amd64", "6.1.0-56-amd64", "6.1.0-57-amd64"
FILE = "etc/apt/preferences.d/00-outoftree-kmod"


@pytest.fixture
def root(tmp_path):
    for path, text in (("etc/os-release", "ID=debian\n"), ("usr/bin/apt-get", ""), ("etc/fstab", "")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    families.kernel(tmp_path, OLD)
    return tmp_path


def run(root, *rows, check=False, **options):
    asked = hold.Options(kernels=rows, **options)
    return task.carry_out(str(root), check, lambda host: hold.run(host, asked))


def held(root):
    return [(each.kernel, each.driver) for each in kernel_holds.read(Host(str(root)))]


def test_what_is_asked_for_is_held_and_nothing_else_on_account_of_these_drivers(root):
    done = run(root, (NEW, "a", "x"), (NEW, "b", "y"), drivers=("a", "b"))
    assert done.changed and held(root) == [(NEW, "a"), (NEW, "b")]
    assert done.answer.as_dict() == {
        "held": [{"what": "kernel", "kernel": NEW, "driver": ["a", "b"], "reason": "a: x; b: y"}],
        "left": [],
        "file": "/" + FILE,
        "msg": "Held: %s." % NEW,
    }
    assert not run(root, (NEW, "b", "y"), (NEW, "a", "x"), drivers=("a", "b")).changed
    run(root, (NEWER, "a", "x"), drivers=("a",))
    assert held(root) == [(NEW, "b"), (NEWER, "a")], "those of b stay: this was about a"
    run(root, (NEWER, "a", "x"))
    assert held(root) == [(NEWER, "a")], "this was about all"


def test_check_mode_shows_the_file_and_writes_nothing(root):
    done = run(root, (NEW, "a", "x"), check=True)
    assert done.changed and not (root / FILE).exists()
    assert done.diff[-1]["after_header"] == "/" + FILE and "Pin-Priority: -1" in done.diff[-1]["after"]


def test_what_is_not_held_any_more_goes(root):
    run(root, (NEW, "a", "x"), (NEW, "b", "x"))
    run(root, state="absent", drivers=("a",))
    assert held(root) == [(NEW, "b")]
    done = run(root, state="absent")
    assert done.changed and held(root) == [] and not (root / FILE).exists()
    assert done.answer.msg == "No kernel is held."
    assert not run(root, state="absent").changed


def test_an_installed_kernel_is_left_and_the_others_are_held(root):
    done = run(root, (OLD, "a", "x"), (NEW, "a", "x"))
    assert held(root) == [(NEW, "a")]
    assert [row["kernel"] for row in done.answer.left] == [OLD]
    assert "installed already" in done.answer.msg


def test_a_default_that_is_kept_is_told_too(root):
    (root / KEPT[1:]).parent.mkdir(parents=True)
    (root / KEPT[1:]).write_text('{"kernel": "%s", "id": "x", "loader": "grub2"}\n' % OLD)
    (row,) = run(root).answer.held
    assert (row.what, row.kernel) == ("default", OLD)


@pytest.mark.parametrize(
    "options, code",
    [
        ({"kernels": ((NEW, "a", "x"),), "state": "absent"}, "BAD_OPTION"),
        ({"kernels": ((NEW, "a", "x"),), "drivers": ("b",)}, "BAD_OPTION"),
        ({"drivers": ("../b",)}, "DRIVER_NAME"),
    ],
)
def test_what_makes_no_sense_is_refused(root, options, code):
    with pytest.raises(KmodError) as refused:
        hold.run(Host(str(root)), hold.Options(**options))
    assert refused.value.code == code


def test_image_mode_hosts_are_refused(root):
    (root / "run").mkdir()
    (root / "run/ostree-booted").touch()
    with pytest.raises(KmodError) as refused:
        run(root, (NEW, "a", "x"))
    assert refused.value.code == "IMAGE_MODE"


# By a host's record


def record(*verdicts, **more):
    rows = [
        {"driver": driver, "kernel": kernel, "state": state, "verdict": verdict, "why": why}
        for driver, kernel, state, verdict, why in verdicts
    ]
    names = sorted({row["driver"] for row in rows})
    return dict({"drivers": [{"driver": name} for name in names], "verdicts": rows}, **more)


def by_record(root, told):
    options = hold.Options.from_params({"state": "present", "record": told, "kernels": None, "drivers": None})
    return task.carry_out(str(root), False, lambda host: hold.run(host, options))


def test_what_is_on_offer_and_not_known_to_fit_is_held_until_it_is(root):
    told = [
        ("a", OLD, "running", "incompatible", "x"),
        ("a", NEW, "offered", "incompatible", "1 symbol differs"),
        ("b", NEW, "offered", "compatible", None),
        ("a", NEWER, "offered", "compatible", None),
        ("b", NEWER, "offered", "unknown", None),
    ]
    assert by_record(root, record(*told)).changed
    assert [each[:3] for each in kernel_holds.read(Host(str(root)))] == [
        (NEW, "a", "1 symbol differs"),
        (NEWER, "b", "unknown"),
    ]
    by_record(root, record(*[row[:3] + ("compatible", None) for row in told]))
    assert held(root) == []


@pytest.mark.parametrize("why", [{"error": "no answer"}, {"lists": {"error": "no answer"}}])
def test_where_it_cannot_be_told_what_a_host_would_get_all_stays(root, why):
    run(root, (NEW, "a", "x"))
    done = by_record(root, record(("a", NEW, "offered", "compatible", None), **why))
    assert not done.changed and held(root) == [(NEW, "a")]
    assert done.answer.msg.endswith("it cannot be told what the host would get: no answer")


@pytest.mark.parametrize(
    "told", [{"verdicts": [{"driver": "a"}]}, {"verdicts": 1}, {"drivers": [1]}, {"lists": 1}]
)
def test_what_is_no_record_is_refused(root, told):
    with pytest.raises(KmodError) as refused:
        by_record(root, told)
    assert refused.value.code == "RECORD_DAMAGED"


# A build arrives for a kernel that is held


@pytest.fixture
def tree(tmp_path):
    """A host with the kernel ONE and a build of the driver for it; TWO, which it has not, is held."""
    tree = FakeTree(tmp_path / "root", releases=(ONE,))
    tree.write("/etc/os-release", b"ID=rhel\nVERSION_ID=9\n")
    tree.write("/usr/bin/dnf-3", b"")
    tree.write("/etc/dnf/dnf.conf", b"[main]\n")
    tree.vendor(ONE, [ONE], at="/builds/" + ONE)
    tree.deploy("/builds")
    run(tree.root, (TWO, "vendor", "x"), (TWO, "other", "y"), (THREE, "vendor", "z"))
    return tree


@needs_depmod
def test_it_is_stored_and_releases_the_kernel_on_account_of_the_driver(tree):
    tree.vendor(TWO, [TWO], at="/builds/" + TWO)
    _plan, answer = tree.plan("/builds")
    assert answer["ahead"] == [TWO]
    tree.deploy("/builds")
    assert tree.data("/lib/modules/%s/extra/vendor/vendor.ko" % TWO)
    assert held(tree.root) == [(TWO, "other"), (THREE, "vendor")]
    plan, answer = tree.plan("/builds")
    assert not plan and answer["ahead"] == []
    tree.kernel(TWO)
    tree.deploy()
    assert tree.loads(TWO) == "extra/vendor/vendor.ko", "it was there when the kernel came"


@needs_depmod
def test_one_that_was_there_and_did_not_help_releases_nothing(tree):
    tree.vendor(TWO, [TWO], at="/builds/" + TWO)
    tree.deploy("/builds")
    run(tree.root, (TWO, "vendor", "its signature is refused"))
    assert not tree.plan("/builds")[0] and (TWO, "vendor") in held(tree.root)
    tree.vendor(TWO, [TWO], at="/builds/" + TWO, version="1.1")
    tree.deploy("/builds")
    assert (TWO, "vendor") not in held(tree.root)


@needs_depmod
def test_builds_for_kernels_that_nobody_waits_for_are_not_stored(tree):
    tree.vendor(FOUR, [FOUR], at="/builds/" + FOUR)
    assert not tree.plan("/builds")[0]


@needs_depmod
def test_with_the_driver_its_holds_go(tree):
    tree.remove()
    assert held(tree.root) == [(TWO, "other")]
    run(tree.root, state="absent")
    assert tree.data("/etc/dnf/dnf.conf") == b"[main]\n"


@needs_depmod
def test_a_build_goes_without_releasing_what_others_hold(tree):
    tree.vendor(TWO, [TWO], at="/builds/" + TWO)
    tree.deploy("/builds")
    tree.remove(build=TWO)
    assert held(tree.root) == [(TWO, "other"), (THREE, "vendor")]


@needs_depmod
def test_what_is_amiss_in_the_managers_file_keeps_no_driver_from_being_deployed(tree):
    damaged = tree.data("/etc/dnf/dnf.conf").replace(b"### END", b"#")
    tree.write("/etc/dnf/dnf.conf", damaged)
    tree.vendor(TWO, [TWO], at="/builds/" + TWO)
    tree.deploy("/builds")
    assert tree.data("/lib/modules/%s/extra/vendor/vendor.ko" % TWO)
    assert tree.data("/etc/dnf/dnf.conf") == damaged
