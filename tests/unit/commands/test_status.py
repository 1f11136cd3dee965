# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_info: what there is on a host, as data and as a text."""

import lzma
import os
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import status
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import bulletin, notice, settings
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot import entry
from ansible_collections.outoftree.kmod.plugins.module_utils.place.boot.menu import Verified
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import existing
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs.existing import Seen
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels
from tests.forge import machines
from tests.forge.cpio import cpio
from tests.forge.fake_tree import ONE, THREE, TWO, FakeTree, module


def inventory(host, drivers=()):
    _plan, answer = status.run(host, status.Options(tuple(drivers)))
    return answer.as_dict()


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
    assert (build["build"], build["version"], build["whole"], build["kernels"]) == (
        TWO,
        "1.0",
        True,
        [ONE, TWO],
    )
    assert [(each["name"], each["path"], each["signature"]) for each in build["modules"]] == [
        ("vendor", "/lib/modules/%s/extra/vendor/vendor.ko" % TWO, "unsigned")
    ]


def test_the_file_that_modprobe_would_load_for_each_kernel(tree):
    rows = inventory(Host(tree.root))["kernels"]
    assert {row["kernel"]: row["modules"][0]["path"] for row in rows} == {
        release: path and "/lib/modules/%s/%s" % (release, path)
        for release, path in ((each, tree.loads(each)) for each in (ONE, TWO, THREE))
    }


def test_links_are_ours_or_foreign_and_may_dangle(tree):
    links = [link for row in inventory(Host(tree.root))["kernels"] for link in row["links"]]
    found = [(os.path.basename(link["path"]), link["ours"], link["dangling"]) for link in links]
    assert found == [("vendor.ko", True, False), ("other.ko", False, True)]


def test_images_and_the_copies_in_them(tree):
    stored = tree.data("/lib/modules/%s/extra/vendor/vendor.ko" % TWO)
    tree.write(
        "boot/initramfs-%s.img" % ONE, cpio({"lib/modules/%s/weak-updates/vendor/vendor.ko" % ONE: stored})
    )
    tree.write(
        "boot/initramfs-%s.img" % TWO,
        cpio({"lib/modules/%s/kernel/vendor.ko" % TWO: module("vendor", TWO, "0.9")}),
    )
    tree.write("boot/initramfs-%s.img" % THREE, b"damaged")
    found = {row["kernel"]: row["images"][0] for row in inventory(Host(tree.root))["kernels"]}
    assert [copy["current"] for copy in found[ONE]["copies"]] == [True]
    assert [copy["current"] for copy in found[TWO]["copies"]] == [False]
    assert found[THREE]["error"]


def test_of_two_copies_in_an_image_the_one_that_is_loaded_is_told(tree):
    """A variant has what the shipped image has, too."""
    top = "lib/modules/%s/" % TWO
    stored = tree.data("/lib/modules/%s/extra/vendor/vendor.ko" % TWO)
    shipped = cpio(
        {
            top + "kernel/vendor.ko": module("vendor", TWO, "0.9"),
            top + "modules.dep": b"kernel/vendor.ko:\n",
        }
    )
    ours = cpio({top + "extra/vendor.ko": stored, top + "modules.dep": b"extra/vendor.ko:\n"})
    tree.write("boot/initramfs-%s.img" % TWO, shipped + ours)
    answer = inventory(Host(tree.root))
    (image,) = next(row["images"] for row in answer["kernels"] if row["kernel"] == TWO)
    assert [(copy["path"][len(top) :], copy["current"], copy["used"]) for copy in image["copies"]] == [
        ("extra/vendor.ko", True, True),
        ("kernel/vendor.ko", False, False),
    ]
    assert "  /boot/initramfs-%s.img: vendor" % TWO in answer["summary"].splitlines()
    tree.write("boot/initramfs-%s.img" % TWO, ours + shipped)
    assert (
        "  /boot/initramfs-%s.img: vendor (not the file that is deployed)" % TWO
        in inventory(Host(tree.root))["summary"]
    )


def test_a_link_in_an_image_is_what_it_leads_to(tree):
    """As mkinitramfs takes one in weak-updates along, with the file in the directory of another kernel."""
    link = "lib/modules/%s/weak-updates/vendor.ko" % ONE
    target = "lib/modules/%s/extra/vendor/vendor.ko" % TWO
    files = {
        link: "../../%s/extra/vendor/vendor.ko" % TWO,
        target: tree.data("/" + target),
        "lib/modules/%s/modules.dep" % ONE: b"weak-updates/vendor.ko:\n",
    }
    tree.write("boot/initramfs-%s.img" % ONE, cpio(files))
    rows = inventory(Host(tree.root))["kernels"]
    (copy,) = next(row["images"][0]["copies"] for row in rows if row["kernel"] == ONE)
    assert (copy["path"], copy["used"]) == (target, True)


def test_how_new_kernels_get_it_and_what_was_found_last(tree):
    told = settings.Settings({"vendor": settings.Followed(boot="default", keep_default=True)})
    tree.write(settings.PATH, told.text.encode())
    said = bulletin.Bulletin((bulletin.Lacking("vendor", THREE, ("newest",), "put_page is another"),), TWO)
    bulletin.post(Host(tree.root), said).apply()
    answer = inventory(Host(tree.root))
    following = answer["following"]
    assert following["drivers"]["vendor"]["boot"] == "default"
    assert following["lacking"]["vendor"][0]["reason"] == "put_page is another" and following["kept"] == TWO
    assert "new kernels get: vendor" in answer["summary"] and "put_page is another" in answer["summary"]


def test_the_summary_is_short_and_says_what_is_wrong(tree):
    assert inventory(Host(tree.root))["summary"].splitlines() == [
        "vendor 1.0 for 5.14.0-2: used by 5.14.0-1, 5.14.0-2",
        "5.14.0-1: vendor from weak-updates/vendor",
        "5.14.0-2: vendor from extra/vendor",
        "5.14.0-3: no out-of-tree module",
        "  /lib/modules/5.14.0-3/weak-updates/other.ko leads nowhere (/lib/modules/gone/extra/other.ko)",
    ]


def test_a_build_that_misses_files(tree):
    os.unlink(tree.path("/lib/modules/%s/extra/vendor/vendor.ko" % TWO))
    (driver,) = inventory(Host(tree.root))["drivers"]
    assert [build["whole"] for build in driver["builds"]] == [False]


def test_only_what_is_asked_for(tree):
    tree.vendor(TWO, [TWO], names=("second",), at="second")
    tree.deploy("/second", driver="second")
    assert [row["driver"] for row in inventory(Host(tree.root))["drivers"]] == ["second", "vendor"]
    assert [row["driver"] for row in inventory(Host(tree.root), ["second"])["drivers"]] == ["second"]


@pytest.mark.parametrize("names", [["vendr"], ["vendor", "vendr"]])
def test_a_driver_that_is_not_there_is_an_error_that_names_those_that_are(names, tree):
    with pytest.raises(KmodError) as caught:
        inventory(Host(tree.root), names)
    assert (caught.value.code, caught.value.what, caught.value.then) == (
        "DRIVER_UNKNOWN",
        "vendr",
        "On this host: vendor",
    )


def test_it_works_on_a_root_without_anything(tmp_path):
    assert inventory(Host(str(tmp_path))) == {
        "drivers": [],
        "kernels": [],
        "variants": [],
        "entries": [],
        "orphans": [],
        "following": None,
        "held": [],
        "msg": "There is no driver in the store.",
        "summary": "There is no driver in the store.",
    }


def test_how_it_is_loaded_and_what_is_left_of_that_where_the_driver_is_gone(tree):
    vendor, other = ("/etc/modprobe.d/outoftree.kmod-%s.conf" % name for name in ("vendor", "other"))
    tree.write(vendor, b"# outoftree.kmod vendor: made\noptions vendor debug=1\n")
    tree.write(other, b"# outoftree.kmod other: made\nblacklist dummy\n")
    tree.write("/etc/modprobe.d/outoftree.kmod-mine.conf", b"blacklist by_hand\n")
    answer = inventory(Host(tree.root))
    assert answer["drivers"][0]["loading"] == [vendor] and "loaded as %s says" % vendor in answer["summary"]
    assert [(each["kind"], each["path"]) for each in answer["orphans"]] == [("loading", other)]
    assert "left over: %s of a driver that is not there" % other in answer["summary"]
    assert inventory(Host(tree.root), ["vendor"])["orphans"] == []


def test_without_drivers_it_is_one_line_whatever_others_have(tree):
    answer = inventory(Host(tree.root))
    assert answer["msg"] == "vendor: 2 of 3 kernels use it"
    shutil.rmtree(tree.path("/lib/modules/%s/extra" % TWO))
    shutil.rmtree(tree.path("/lib/modules/%s/weak-updates/vendor" % ONE))
    tree.write("/lib/modules/%s/updates/dkms/foreign.ko" % TWO, module("foreign", TWO))
    for release in (ONE, TWO):
        tree.depmod(release)
    answer = inventory(Host(tree.root))
    assert (
        answer["summary"]
        == answer["msg"]
        == (
            "There is no driver in the store (out-of-tree modules of others: foreign; links of others that lead nowhere: 1)."
        )
    )


def test_the_facts_are_what_plays_decide_by(tree):
    host = Host(tree.root)
    tree.write(settings.PATH, settings.Settings({"vendor": settings.Followed()}).text.encode())
    _plan, answer = status.run(host, status.Options())
    assert answer.facts == {
        "drivers": {"vendor": {"version": "1.0", "kernels": [ONE, TWO], "running": None, "follows": True}},
        "kernels": [ONE, TWO, THREE],
    }
    assert "facts" not in answer.as_dict() and "ansible_facts" not in answer.as_dict()
    # a part of them would stand for the whole
    assert status.run(host, status.Options(("vendor",)))[1].facts is None


@pytest.mark.parametrize(
    "bad", [lzma.compress(b"x" * 999)[:-20], b"\xfd7zXZ\0", b"", "fifo", "directory", "loop", "dangling"]
)
def test_one_bad_file_is_a_row_with_an_error_and_all_others_are_told(bad, tree):
    path = tree.path("/lib/modules/%s/updates/foreign.ko.xz" % TWO)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    tree.write("/lib/modules/%s/updates/foreign.ko.xz" % TWO, b"x")
    tree.depmod(TWO)
    os.unlink(path)
    if isinstance(bad, bytes):
        tree.write("/lib/modules/%s/updates/foreign.ko.xz" % TWO, bad)
    else:
        {
            "fifo": os.mkfifo,
            "directory": os.mkdir,
            "loop": lambda name: os.symlink("foreign.ko.xz", name),
            "dangling": lambda name: os.symlink("gone", name),
        }[bad](path)
    found = inventory(Host(tree.root))
    row = {each["kernel"]: each for each in found["kernels"]}[TWO]
    errors = {each["name"]: each["error"] for each in row["modules"]}
    assert errors["vendor"] is None
    assert "foreign" not in errors or bool(errors["foreign"]) == (bad not in (b"", "dangling"))
    assert [driver["driver"] for driver in found["drivers"]] == ["vendor"]


def test_a_damaged_file_in_the_store_is_told_with_its_driver(tree):
    tree.vendor(TWO, [TWO], names=("second",), at="second")
    tree.deploy("/second", driver="second")
    tree.write("/lib/modules/%s/extra/vendor/vendor.ko" % TWO, lzma.compress(b"x" * 999)[:-20])
    found = inventory(Host(tree.root))
    assert [(row["driver"], [build["whole"] for build in row["builds"]]) for row in found["drivers"]] == [
        ("second", [True]),
        ("vendor", [False]),
    ]
    assert "vendor (no version) for %s: files are missing or damaged" % TWO in found["summary"]


@pytest.fixture
def machine(tmp_path):
    """A host with GRUB, and an entry for the driver on its older kernel."""
    machines.debian(tmp_path)
    kernels = {machines.OLD: Verified(("/boot/initrd.img-%s.1" % machines.OLD,))}
    plan, _result = entry.present(Host(str(tmp_path)), entry.Request("acme", boot="default"), kernels)
    plan.apply()
    for release in (machines.OLD, machines.NEW):
        path = tmp_path / "lib/modules" / release
        path.mkdir(parents=True)
        (path / "modules.order").write_bytes(b"")
    return tmp_path


def test_entries_and_whether_what_they_start_is_there(machine):
    found = inventory(Host(str(machine)))
    (row,) = found["entries"]
    assert (row["driver"], row["kernel"], row["missing"], found["orphans"]) == ("acme", machines.OLD, [], [])
    assert row["starts"] == ["/boot/vmlinuz-" + machines.OLD, "/boot/initrd.img-%s.1" % machines.OLD]
    assert "entry %r: its files are there" % row["title"] in found["summary"]
    assert inventory(Host(str(machine)), ["acme"])["entries"] == [row]


def test_the_kernel_of_the_default_entry(machine, tmp_path):
    host = Host(str(machine))
    assert [
        release for release, why in notice.booting(host, kernels.installed(host)).items() if "default" in why
    ] == [machines.OLD]
    shutil.rmtree(str(machine / "lib/modules" / machines.OLD))
    assert [
        release for release, why in notice.booting(host, kernels.installed(host)).items() if "default" in why
    ] == []


def test_what_a_purged_kernel_leaves_is_told(machine):
    shutil.rmtree(str(machine / "lib/modules" / machines.OLD))
    for name in ("vmlinuz-%s", "initrd.img-%s"):
        (machine / "boot" / (name % machines.OLD)).unlink()
    found = inventory(Host(str(machine)))
    (row,) = found["entries"]
    assert row["missing"] == ["/boot/vmlinuz-" + machines.OLD]
    assert [(each["kind"], each["kernel"]) for each in found["orphans"]] == [("entry", machines.OLD)]
    assert "left over: entry" in found["summary"]


def test_variants_and_their_states(tmp_path, monkeypatch):
    rows = [
        {
            "path": "/boot/i-%s.1" % release,
            "kernel": release,
            "drivers": ["acme"],
            "method": "overlay",
            "size": 33 << 20,
            "state": state,
        }
        for release, state in ((ONE, "gone"), (TWO, "stale"))
    ]
    monkeypatch.setattr(
        existing, "overview", lambda host: [Seen(**dict(row, drivers=tuple(row["drivers"]))) for row in rows]
    )
    found = inventory(Host(str(tmp_path)), ["acme"])
    assert found["variants"] == rows
    assert found["orphans"] == [
        {"kind": "variant", "path": "/boot/i-%s.1" % ONE, "kernel": ONE, "size": 33 << 20}
    ]
    assert "left over: variant /boot/i-%s.1 for %s (33 MiB)" % (ONE, ONE) in found["summary"]
    assert "/boot/i-%s.1: the variant is stale" % TWO in found["summary"]
