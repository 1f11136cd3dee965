# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Drivers and the kernels that a host would get, from lists to verdicts, by the real apt and dnf."""

import json
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import cli
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import check, preflight
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import predict
from ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_package import KernelSource
from tests.forge import families, kernels, repositories
from tests.forge.ko import ko
from tests.forge.repositories import Rpm, deb, rpms
from tests.forge.symvers import EXPORTS

apt = pytest.mark.skipif(
    bool(repositories.lacking((*repositories.APT, "depmod"))), reason="needs apt, dpkg-dev and depmod"
)
dnf = pytest.mark.skipif(
    bool(repositories.lacking((*repositories.DNF, "depmod"))),
    reason="needs dnf, its plugins, rpmbuild, createrepo_c",
)
DEBIAN = ["6.1.0-%d-amd64" % number for number in (9, 10, 11)]
EL = ["5.14.0-%d.el9.x86_64" % number for number in (1, 2, 3)]
CHANGED = [(name, crc + (name == "kfree"), *rest) for name, crc, *rest in EXPORTS]
NEEDS = [("module_layout", 0x11), ("kfree", 0x33)]


def debs(place, release, version, exports):
    deb(place, "linux-image-" + release, version, Source="linux-signed-amd64")
    deb(place, "linux-headers-" + release, version, kernels.headers(release, exports))


@pytest.fixture(scope="module")
def stock(tmp_path_factory):
    """Repositories with a kernel that takes the driver and a newer one that refuses it. The lists of dnf have the CRCs."""
    top = tmp_path_factory.mktemp("stock")
    if not repositories.lacking(repositories.APT):
        debs(top / "debian", DEBIAN[1], "6.1.10-1", EXPORTS)
        debs(top / "debian", DEBIAN[2], "6.1.11-1", CHANGED)
        repositories.apt_lists(top / "debian")
    for release, exports in (
        ((EL[1], EXPORTS), (EL[2], CHANGED)) if not repositories.lacking(repositories.DNF) else ()
    ):
        crcs = ["kernel(%s) = 0x%08x" % (name, crc) for name, crc, *_rest in exports]
        headers = kernels.headers(release, exports, at=kernels.EL)
        packages = [
            Rpm("kernel-core", provides=["kernel-uname-r = " + release, *crcs]),
            Rpm("kernel-devel", headers),
        ]
        version, _dash, rest = release.partition("-")
        rpms(top / "el", version, rest.replace(".x86_64", ""), packages)
        repositories.dnf_lists(top / "el")
    return top


@pytest.fixture
def debian(tmp_path, stock):
    """A host that would get both."""
    place, root = tmp_path / "repository", tmp_path / "root"
    shutil.copytree(str(stock / "debian"), str(place))
    families.kernel(root, DEBIAN[0])
    (root / "vendor.ko").write_bytes(ko("vendor", NEEDS, release=DEBIAN[0]))
    repositories.apt_host(root, [place])
    return root


@pytest.fixture
def el(tmp_path, stock):
    """The same with dnf."""
    place, root = tmp_path / "repository", tmp_path / "root"
    shutil.copytree(str(stock / "el"), str(place))
    families.kernel(root, EL[0], family="el9")
    (root / "vendor.ko").write_bytes(ko("vendor", NEEDS, release=EL[0]))
    repositories.dnf_host(root, {"baseos": place})
    return root


def record(root, which="all", **options):
    asked = preflight.Options(
        given=(preflight.GivenDriver("vendor", ("/vendor.ko",)),),
        kernel=(KernelSource(offered=which),),
        **options,
    )
    _plan, answer = preflight.run(Host(str(root)), asked)
    return json.loads(json.dumps(answer.record)), answer


def rows(found, *keys):
    return [tuple(each[key] for key in keys) for each in found["verdicts"]]


@apt
def test_a_host_of_debian(debian):
    found, answer = record(debian)
    assert rows(found, "kernel", "state", "verdict", "exact") == [
        (DEBIAN[0], "installed", "compatible", True),
        (DEBIAN[1], "offered", "compatible", False),
        (DEBIAN[2], "offered", "incompatible", True),
    ]
    kernel = found["kernels"][2]
    assert (kernel["newest"], kernel["packages"]) == (True, ["linux-image-%s 6.1.11-1" % DEBIAN[2]])
    assert kernel["origin"] == ["linux-headers-%s 6.1.11-1" % DEBIAN[2], "apt's lists, 0 hours old"]
    lists = found["lists"]
    assert (lists["manager"], lists["error"], found["error"], answer.failed) == ("apt", None, None, False)
    assert set(found["facts"]["vendor"]) == set(DEBIAN)


@pytest.mark.full
@apt
def test_the_newest_alone_is_what_the_update_brings(debian):
    found, answer = record(debian, "newest", require="offered")
    assert rows(found, "kernel", "verdict")[1:] == [(DEBIAN[2], "incompatible")]
    assert answer.failed and answer.lost == ["%s: vendor: 1 symbol differs (kfree)" % DEBIAN[2]]


@apt
@pytest.mark.parametrize("require", ["none", "offered"])
def test_a_kernel_that_cannot_be_fetched_is_unknown_and_all_else_is_told(require, debian, tmp_path):
    (tmp_path / "repository" / ("linux-headers-%s_6.1.11-1_amd64.deb" % DEBIAN[2])).unlink()
    found, answer = record(debian, require=require)
    assert rows(found, "kernel", "verdict", "codes")[1:] == [
        (DEBIAN[1], "compatible", []),
        (DEBIAN[2], "unknown", ["OFFERED_UNREACHABLE"]),
    ]
    assert (
        found["error"].startswith("apt: could not fetch") and found["lists"]["code"] == "OFFERED_UNREACHABLE"
    )
    assert answer.failed is (require == "offered") and answer.msg == found["error"]


@pytest.mark.full
@apt
def test_lists_that_cannot_be_read_are_said_and_the_installed_kernels_told(debian):
    (debian / "etc/apt/sources.list").write_text("nonsense\n")
    found, answer = record(debian, require="offered")
    assert (found["lists"]["code"], rows(found, "verdict")) == ("OFFERED_BROKEN", [("compatible",)])
    assert answer.failed and found["error"]


@pytest.mark.full
@apt
def test_lists_that_are_weeks_old_are_said(debian):
    repositories.aged(debian, ["var/lib/apt/lists", "var/lib/apt/lists/partial"], days=23)
    found, answer = record(debian)
    assert found["lists"]["age"] // 86400 == 23
    assert answer.msg.endswith("; the lists of apt are 23 days old")


@pytest.mark.full
@apt
@pytest.mark.parametrize(
    "files,expected",
    [
        ({"usr/share/doc/x": b"text"}, "PACKAGE_NO_KERNEL"),
        (
            {
                **kernels.headers(DEBIAN[2]),
                "lib/modules/%s/kernel/a.ko" % DEBIAN[2]: ko(
                    "a", NEEDS, release=DEBIAN[2], modinfo={"intree": "Y"}, machine="aarch64"
                ),
            },
            "KERNEL_TWO_BUILDS",
        ),
    ],
)
def test_a_package_that_is_no_kernel_or_of_two_architectures_is_unknown(files, expected, debian, tmp_path):
    place = tmp_path / "repository"
    deb(place, "linux-headers-" + DEBIAN[2], "6.1.11-1", files)
    repositories.apt_lists(place)
    repositories.apt_update(debian)
    found, _answer = record(debian, "newest")
    assert rows(found, "verdict", "codes")[1:] == [("unknown", [expected])]


@dnf
def test_a_host_of_enterprise_linux_is_refused_by_the_lists_alone(el, tmp_path):
    """Where they are not enough the headers are fetched; those of the other kernel are not there to be."""
    (tmp_path / "repository" / "kernel-devel-5.14.0-3.el9.x86_64.rpm").unlink()
    found, _answer = record(el)
    assert rows(found, "kernel", "verdict", "exact", "symbols")[1:] == [
        (EL[1], "compatible", False, []),
        (EL[2], "incompatible", True, ["kfree"]),
    ]
    assert [each["origin"][0] for each in found["kernels"][1:]] == [
        "kernel-devel 0:5.14.0-2.el9",
        "what the lists say that kernel-core 0:5.14.0-3.el9 provides",
    ]


@pytest.mark.full
@dnf
def test_a_plan_can_be_made_by_what_the_lists_alone_have(el):
    found, _answer = record(el)
    needs = predict.Needs.from_dict(found["needs"]["vendor"])
    facts = {
        release: predict.KernelFacts.from_dict(each) for release, each in found["facts"]["vendor"].items()
    }
    assert predict.predicted(facts[EL[0]], facts[EL[2]], needs) is False
    assert predict.predicted(facts[EL[2]], facts[EL[2]], needs) is True


@pytest.mark.full
@dnf
def test_all_of_a_kernel_is_fetched_where_that_is_asked(el, tmp_path):
    """And then the lists alone are not enough."""
    asked = check.Options(
        path=("/vendor.ko",), require="none", kernel=(KernelSource(offered="newest", whole=True),)
    )
    with pytest.raises(KmodError) as caught:  # made-up kernel-core has no files
        check.run(Host(str(el)), asked)
    assert caught.value.code == "PACKAGE_NO_KERNEL"


@apt
def test_kmod_compat_and_kmodctl_ask_the_same(debian, capsys):
    asked = check.Options(path=("/vendor.ko",), require="none", kernel=(KernelSource(offered="all"),))
    _plan, answer = check.run(Host(str(debian)), asked)
    assert [(each.kernel, each.verdict) for each in answer.checks] == [
        (DEBIAN[1], "compatible"),
        (DEBIAN[2], "incompatible"),
    ]
    words = ["check", "--root", str(debian), "--json", str(debian / "vendor.ko")]
    assert cli.main([*words, "--all-offered"]) == 1
    told = json.loads(capsys.readouterr().out)["checks"]
    assert [each["verdict"] for each in told] == ["compatible", "incompatible"]
    assert told[1]["origin"] == ["linux-headers-%s 6.1.11-1" % DEBIAN[2], "apt's lists, 0 hours old"]
    assert cli.main([*words, "--offered"]) == 1
    assert [each["kernel"] for each in json.loads(capsys.readouterr().out)["checks"]] == [DEBIAN[2]]


@apt
def test_what_cannot_be_told_is_an_error_of_kmod_compat_and_of_kmodctl(debian, capsys):
    shutil.rmtree(str(debian / "var/lib/apt/lists"))
    asked = check.Options(path=("/vendor.ko",), require="none", kernel=(KernelSource(offered="all"),))
    with pytest.raises(KmodError) as caught:
        check.run(Host(str(debian)), asked)
    assert caught.value.code == "OFFERED_NO_LISTS"
    assert cli.main(["check", "--root", str(debian), "--offered", str(debian / "vendor.ko")]) == 2
    assert "has no lists of packages on this host" in capsys.readouterr().err


@pytest.mark.full
def test_a_source_is_named_once_and_whole_goes_with_what_is_offered():
    for params in ({"offered": "newest", "package": ["/x"]}, {"package": ["/x"], "whole": True}, {}):
        with pytest.raises(KmodError) as caught:
            KernelSource.from_params(params)
        assert caught.value.code == "BAD_OPTION"
