# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_preflight: the record of a host, as docs/preflight.md has its shape."""

import json
import os
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.commands import preflight
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import predict
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernels import Kernel
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered import offers
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered.manager import packages_of
from tests.forge.fake_tree import FOUR, ONE, THREE, TWO, FakeTree, _takes, module
from tests.forge.ko import LAYOUT, ko
from tests.forge.package import deb
from tests.forge.symvers import symvers

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
CONFIG = b"CONFIG_X86_64=y\nCONFIG_64BIT=y\nCONFIG_SMP=y\nCONFIG_MODULES=y\nCONFIG_MODVERSIONS=y\nCONFIG_MODULE_UNLOAD=y\nCONFIG_PREEMPT_BUILD=y\n"


@pytest.fixture
def tree(tmp_path):
    """Three kernels, of which ONE and TWO take the driver, which was deployed."""
    tree = FakeTree(tmp_path / "root")
    tree.vendor(TWO, [ONE, TWO])
    tree.deploy("/build")
    return tree


def headers(tree, release, *symbols, extra=()):
    """A package with the headers of a kernel that exports these, at /RELEASE.deb."""
    exports = [LAYOUT + (False, "", "vmlinux")] + [(each, 0x77, False, "", "vmlinux") for each in symbols]
    top = "usr/src/linux-headers-%s/" % release
    files = {
        top + "Module.symvers": symvers(exports + list(extra)),
        top + ".config": CONFIG,
        top + "include/generated/utsrelease.h": b'#define UTS_RELEASE "%s"\n' % release.encode(),
    }
    tree.write("/%s.deb" % release, deb(files=files))
    return "/%s.deb" % release


def run(tree, *packages, **params):
    asked = {
        "drivers": [],
        "driver": None,
        "path": None,
        "_described": None,
        "given": None,
        "kernel": [{"package": list(packages)}] if packages else None,
        "require": "none",
        "_defer": None,
        "_fetch": None,
        "_into": None,
    }
    options = preflight.Options.from_params(dict(asked, **params))
    plan, answer = preflight.run(Host(tree.root), options)
    assert not plan
    return answer


def record(*args, **params):
    """As it is after a trip through JSON."""
    return json.loads(json.dumps(run(*args, **params).record))


def verdicts(found):
    return {(row["driver"], row["kernel"]): (row["verdict"], row["build"]) for row in found["verdicts"]}


def test_what_the_installed_kernels_take(tree):
    found = record(tree)
    assert verdicts(found) == {
        ("vendor", ONE): ("compatible", TWO),
        ("vendor", TWO): ("compatible", TWO),
        ("vendor", THREE): ("incompatible", None),
    }
    (row,) = [each for each in found["verdicts"] if each["kernel"] == THREE]
    assert (row["codes"], row["symbols"], row["errno"], row["exact"]) == (
        ["SYMBOL_MISSING"],
        [_takes([ONE, TWO])],
        "ENOENT",
        True,
    )
    assert found["drivers"] == [
        {
            "driver": "vendor",
            "version": "1.0",
            "builds": [{"kernel": TWO, "version": "1.0"}],
            "modules": ["vendor"],
        }
    ]
    assert [(each["kernel"], each["state"], each["newest"]) for each in found["kernels"]] == [
        (ONE, "installed", False),
        (TWO, "installed", False),
        (THREE, "installed", True),
    ]
    assert (found["version"], found["family"], found["error"], found["running"]) == (1, "other", None, None)


def test_what_kernels_in_packages_would_take(tree):
    takes = headers(tree, FOUR, _takes([ONE, TWO]))
    found = record(tree, takes, headers(tree, "5.14.0-5"))
    assert verdicts(found)["vendor", FOUR] == ("compatible", TWO)
    assert verdicts(found)["vendor", "5.14.0-5"] == ("incompatible", None)
    offered = [each for each in found["kernels"] if each["state"] == "offered"]
    assert [(each["kernel"], each["newest"], each["origin"]) for each in offered] == [
        (FOUR, False, [takes]),
        ("5.14.0-5", True, ["/5.14.0-5.deb"]),
    ]
    exact = {each["kernel"]: each["exact"] for each in found["verdicts"]}
    assert exact[FOUR] is False and exact["5.14.0-5"] is True


def test_needs_and_facts_are_what_a_plan_is_made_of(tree):
    found = record(tree, headers(tree, FOUR, _takes([ONE, TWO])))
    needs = predict.Needs.from_dict(found["needs"]["vendor"])
    facts = {
        release: predict.KernelFacts.from_dict(each) for release, each in found["facts"]["vendor"].items()
    }
    assert set(facts) == {ONE, TWO, THREE, FOUR}
    assert predict.predicted(facts[TWO], facts[FOUR], needs) is True
    assert predict.predicted(facts[TWO], facts[THREE], needs) is False


def test_a_given_driver_counts_instead_of_what_the_host_has_of_it(tree):
    tree.write("/new/vendor.ko", module("vendor", THREE, "2.0", [THREE]))
    found = record(tree, driver="vendor", path=["/new"])
    assert verdicts(found)["vendor", THREE] == ("compatible", THREE)
    assert verdicts(found)["vendor", TWO] == ("incompatible", None)
    assert [each["version"] for each in found["drivers"]] == ["2.0"]
    with pytest.raises(KmodError) as caught:
        run(tree, path=["/new"])
    assert caught.value.code == "BAD_OPTION"


def test_drivers_that_use_each_other_are_judged_together_on_a_kernel_to_come(tree):
    exports = [("vendor_call", 0x99)]
    giver = ko("giver", [LAYOUT], release=ONE, exports=exports, modinfo={"name": "giver"})
    user = ko(
        "auser", [LAYOUT, ("vendor_call", 0x99)], release=ONE, modinfo={"name": "auser", "depends": "giver"}
    )
    for name, data in (("giver", giver), ("auser", user)):
        tree.write("/%s/%s.ko" % (name, name), data)
        tree.deploy("/" + name, driver=name)
    found = record(tree, headers(tree, FOUR), drivers=["auser", "giver"])
    assert {row: verdict for row, (verdict, _build) in verdicts(found).items() if row[1] == FOUR} == {
        ("auser", FOUR): "compatible",
        ("giver", FOUR): "compatible",
    }


def test_only_the_drivers_that_are_named_and_an_unknown_one_is_an_error(tree):
    tree.vendor(TWO, [TWO], names=("second",), at="second")
    tree.deploy("/second", driver="second")
    assert [each["driver"] for each in record(tree, drivers=["second"])["drivers"]] == ["second"]
    with pytest.raises(KmodError) as caught:
        run(tree, drivers=["vendr"])
    assert caught.value.code == "DRIVER_UNKNOWN"


def test_today_says_what_is_amiss(tree):
    assert [(row["kind"], row["driver"], row["kernel"]) for row in record(tree)["today"]] == [
        ("no_build", "vendor", THREE)
    ]
    os.unlink(tree.path("/lib/modules/%s/weak-updates/vendor/vendor.ko" % ONE))
    os.symlink("/gone.ko", tree.path("/lib/modules/%s/weak-updates/other.ko" % THREE))
    assert [(row["kind"], row["driver"], row["kernel"]) for row in record(tree)["today"]] == [
        ("dangling_link", None, THREE),
        ("not_followed", "vendor", ONE),
        ("no_build", "vendor", THREE),
    ]


def test_a_reboot_that_is_due_is_told(tree, monkeypatch):
    monkeypatch.setattr(Kernel, "running", property(lambda kernel: kernel.release == TWO))
    tree.write("/boot/grub/grub.conf", b"default=0\ntitle Linux\n\tkernel /vmlinuz-%s ro\n" % ONE.encode())
    tree.write("/sys/module/vendor/initstate", b"live\n")
    tree.write("/sys/module/vendor/srcversion", b"of another one\n")
    found = record(tree)
    pending = [(row["driver"], row["kernel"]) for row in found["today"] if row["kind"] == "reboot_pending"]
    assert pending == [(None, ONE), ("vendor", TWO)]
    assert (found["running"], found["default"]) == (TWO, ONE)


@pytest.mark.parametrize("require,failed", [("none", False), ("offered", True), ("all", True)])
def test_it_fails_where_that_is_asked(require, failed, tree):
    answer = run(tree, headers(tree, FOUR), require=require)
    assert answer.failed is failed
    assert answer.msg.startswith(
        "vendor: 2 of 3 installed kernels, 0 of 1 on offer; %s: vendor: 1 symbol" % FOUR
    )
    fits = run(tree, headers(tree, FOUR, _takes([ONE, TWO])), require=require)
    assert fits.failed is (require == "all")


def test_a_host_without_drivers_says_so(tmp_path):
    answer = run(FakeTree(tmp_path / "bare"))
    assert (answer.msg, answer.failed, answer.record["verdicts"]) == (
        "There is no driver in the store.",
        False,
        [],
    )


def test_what_others_modules_give_on_the_hosts_kernels_leaves_a_kernel_to_come_open(tree):
    """DKMS may build them for it, or not."""
    exports = [("vendor_call", 0x99)]
    giver = ko("giver", [LAYOUT], release=ONE, exports=exports, modinfo={"name": "giver"})
    user = ko(
        "auser", [LAYOUT, ("vendor_call", 0x99)], release=ONE, modinfo={"name": "auser", "depends": "giver"}
    )
    tree.write("/lib/modules/%s/updates/dkms/giver.ko" % THREE, giver)
    tree.depmod(THREE)
    tree.write("/auser/auser.ko", user)
    found = record(tree, headers(tree, FOUR), driver="auser", path=["/auser"], drivers=["auser"])
    rows = {row["kernel"]: row for row in found["verdicts"]}
    assert (rows[THREE]["verdict"], rows[ONE]["verdict"]) == ("compatible", "incompatible")
    assert (rows[FOUR]["verdict"], rows[FOUR]["exact"], rows[FOUR]["symbols"]) == (
        "unknown",
        False,
        ["vendor_call"],
    )
    assert "may come along or not" in rows[FOUR]["why"]


def test_drivers_that_use_each_other_are_judged_and_planned_beside_each_other(tree):
    """What gives them symbols has to be built anew for a kernel: then they have, too."""
    exports = [("vendor_call", 0x99)]
    giver = ko("giver", [LAYOUT, ("printk", 0x77)], release=ONE, exports=exports, modinfo={"name": "giver"})
    modinfo = {"name": "auser", "depends": "giver"}
    user = ko("auser", [LAYOUT, ("vendor_call", 0x99), ("kfree", 0x77)], release=ONE, modinfo=modinfo)
    tree.write("/giver/giver.ko", giver)
    tree.write("/auser/auser.ko", user)
    both = [
        {"driver": "auser", "path": ["/auser"], "_described": None},
        {"driver": "giver", "path": ["/giver"], "_described": None},
    ]
    offer = headers(tree, FOUR, "printk", "kfree")
    found = record(tree, offer, given=both, drivers=["auser", "giver"])
    assert verdicts(found)["auser", FOUR] == ("compatible", ONE)
    strong = {
        driver: {each["name"]: each["strong"] for each in needs["modules"]}
        for driver, needs in found["needs"].items()
    }
    assert strong == {"auser": {"auser": ["kfree"], "giver": ["printk"]}, "giver": {"giver": ["printk"]}}
    assert "printk" in found["facts"]["auser"][FOUR]["exports"]
    with pytest.raises(KmodError) as caught:
        run(tree, given=[both[0], both[0]])
    assert caught.value.code == "BAD_OPTION"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_fetched_packages_belong_to_who_is_to_take_them(tree, tmp_path, monkeypatch):
    """The controller's login user, who also removes them."""
    (tmp_path / "login").mkdir()
    os.chown(str(tmp_path / "login"), 65534, 65534)
    monkeypatch.setattr(
        offers, "fetch", lambda asked, packages, into: [shutil.copy(tree.path("/build/vendor.ko"), into)]
    )
    package = {"name": "linux-headers", "version": "1", "arch": "amd64", "repository": "", "digest": ""}
    into = str(tmp_path / "login" / "packages")
    _plan, answer = preflight.run(Host(tree.root), preflight.Options(fetch=packages_of([package]), into=into))
    assert list(answer.as_dict()["files"]) == ["vendor.ko"]
    assert {os.stat(path).st_uid for path in (into, into + "/vendor.ko")} == {65534}
