# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kernels a host would get, by the real dnf 4 on directory hosts and repositories of made-up packages."""

import os
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.make import unpack
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered import offers
from tests.forge import families, repositories
from tests.forge.repositories import Rpm, rpms

pytestmark = pytest.mark.skipif(
    bool(repositories.lacking(repositories.DNF)), reason=str(repositories.lacking(repositories.DNF))
)
OLD, MIDDLE, NEW = ["5.14.0-%d.el9.x86_64" % number for number in (1, 2, 10)]
RT = "5.14.0-11.el9.x86_64+rt"


def kernel(place, release, kind="", symbols=("printk", 0x22), devel=True):
    """kernel-core, -modules-core, -modules and -devel, as kernel.spec names them and what they provide."""
    version, _dash, rest = release.partition("-")
    plain, _plus, _flavour = rest.partition("+")
    base = "kernel" + ("-" + kind if kind else "")
    crcs = ["kernel(%s) = 0x%08x" % symbols] if symbols else []
    names = {
        "-core": ["kernel-core-uname-r = " + release, "kernel-uname-r = " + release, *crcs],
        "-modules-core": ["kernel-modules-core-uname-r = " + release],
        "-modules": ["kernel-modules-uname-r = " + release],
        "-modules-extra": [],
        "-uki-virt": ["kernel-uname-r = " + release],
    }
    if devel:
        names["-devel"] = ["kernel-devel-uname-r = " + release]
    packages = [Rpm(base + name, provides=provides) for name, provides in names.items()]
    return rpms(place, version, plain.replace(".x86_64", ""), packages)


@pytest.fixture(scope="session")
def stock(tmp_path_factory):
    """Kernels, one of them realtime; packages are made once."""
    place = tmp_path_factory.mktemp("rpms")
    for release in (OLD, MIDDLE, NEW):
        kernel(place, release)
    kernel(place, RT, "rt")
    repositories.dnf_lists(place)
    return place


@pytest.fixture
def root(tmp_path, stock):
    """A host with one kernel, by the database of rpm as well."""
    families.kernel(tmp_path / "root", OLD, family="el9")
    repositories.dnf_host(tmp_path / "root", {"baseos": stock})
    repositories.dnf_install(tmp_path / "root", sorted(stock.glob("kernel-*-5.14.0-1.el9.x86_64.rpm")))
    return tmp_path / "root"


def asked(root, which="newest"):
    with lock.scratch() as scratch:
        return offers.offers(offers.asking(Host(str(root)), scratch), which)


def found(root, which):
    return [each.release for each in asked(root, which).kernels]


def code(root, which="newest"):
    with pytest.raises(KmodError) as caught:
        asked(root, which)
    return caught.value.code


def fetched(root, tmp_path, which="newest", whole=False):
    target = tmp_path / "fetched"
    target.mkdir()
    with lock.scratch() as scratch:
        asking = offers.asking(Host(str(root)), scratch)
        (kernel, *_more) = offers.offers(asking, which).kernels
        return [type(tmp_path)(path) for path in offers.fetch(asking, kernel.wanted(whole), str(target))]


def test_the_newest_is_the_newest_version_of_what_is_installed(root):
    answer = asked(root)
    (only,) = answer.kernels
    assert (answer.manager, only.release, only.newest) == ("dnf", NEW, True)
    assert [str(each) for each in only.small] == ["kernel-devel 0:5.14.0-10.el9"]
    assert [each.name for each in only.whole] == ["kernel-core", "kernel-modules-core", "kernel-modules"]


@pytest.mark.full
def test_all_are_those_newer_than_what_is_installed_and_of_its_kind(root, stock):
    assert found(root, "all") == [MIDDLE, NEW]
    repositories.dnf_install(root, sorted(stock.glob("kernel-core-5.14.0-10.el9.x86_64.rpm")))
    assert found(root, "newest") == found(root, "all") == []


@pytest.mark.full
def test_a_realtime_kernel_is_offered_to_who_has_one(root, stock, tmp_path):
    rt = sorted(kernel(tmp_path / "older", "5.14.0-3.el9.x86_64+rt", "rt"))
    repositories.dnf_install(root, rt)
    assert found(root, "newest") == [NEW, RT]


@pytest.mark.full
def test_without_the_database_it_goes_by_the_kernels_that_are_there(root):
    for path in (root / "var/lib/rpm").iterdir():
        path.unlink()
    assert (found(root, "newest"), found(root, "all")) == ([NEW], [MIDDLE, NEW])


@pytest.mark.full
def test_a_kernel_that_is_held_back_is_offered_all_the_same(root):
    (root / "etc/dnf/dnf.conf").write_text("[main]\nexcludepkgs=kernel*-5.14.0-10.el9*\n")
    assert found(root, "newest") == [NEW]


@pytest.mark.full
def test_the_age_of_the_lists_is_told(root):
    repositories.aged(root, ["var/cache/dnf/*/repodata/repomd.xml"], days=23)
    answer = asked(root)
    assert answer.age // 86400 == 23
    assert answer.kernels[0].lists == "dnf's lists, 23 days old"


def test_lists_that_were_never_fetched(tmp_path, stock):
    families.kernel(tmp_path / "bare", OLD, family="el9")
    repositories.dnf_host(tmp_path / "bare", {"baseos": stock}, lists=False)
    assert code(tmp_path / "bare") == "OFFERED_NO_LISTS"


@pytest.mark.full
def test_lists_without_a_kernel(tmp_path):
    rpms(tmp_path / "repository", "1", "1", [Rpm("hello")])
    repositories.dnf_lists(tmp_path / "repository")
    families.kernel(tmp_path / "root", OLD, family="el9")
    repositories.dnf_host(tmp_path / "root", {"baseos": tmp_path / "repository"})
    assert code(tmp_path / "root") == "OFFERED_NONE"


@pytest.mark.full
def test_a_configuration_that_cannot_be_read(root):
    (root / "etc/dnf/dnf.conf").write_text("[main\nnonsense")
    assert code(root) == "OFFERED_BROKEN"


@pytest.mark.full
def test_nothing_of_the_host_is_changed_but_when_dnf_was_asked_last(root, tmp_path):
    def state():
        return {
            str(path): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
            for path in root.rglob("*")
            if path.name not in ("expired_repos.json", "dnf", "rpmdb.sqlite-shm")
        }

    before = state()
    assert [path.name for path in fetched(root, tmp_path)] == ["kernel-devel-5.14.0-10.el9.x86_64.rpm"]
    assert state() == before


@pytest.mark.full
def test_all_of_a_kernel_where_that_is_asked(root, tmp_path):
    assert [path.name.split("-5.")[0] for path in fetched(root, tmp_path, whole=True)] == [
        "kernel-core",
        "kernel-modules",
        "kernel-modules-core",
    ]


@pytest.mark.full
def test_the_lists_have_the_crcs(root):
    with lock.scratch() as scratch:
        asking = offers.asking(Host(str(root)), scratch)
        (only,) = offers.offers(asking, "newest").kernels
        listed = offers.versions(asking, only)
    assert {name: export.crc for name, export in listed.exports.items()} == {"printk": 0x22}
    assert listed.origin == "what the lists say that kernel-core 0:5.14.0-10.el9 provides"


@pytest.mark.parametrize(
    "damage,expected", [("truncated", "OFFERED_DAMAGED"), ("gone", "OFFERED_UNREACHABLE")]
)
def test_a_package_that_is_not_what_the_lists_say_is_refused(damage, expected, tmp_path):
    place = tmp_path / "repository"
    kernel(place, NEW)
    repositories.dnf_lists(place)
    families.kernel(tmp_path / "root", OLD, family="el9")
    repositories.dnf_host(tmp_path / "root", {"baseos": place})
    path = place / "kernel-devel-5.14.0-10.el9.x86_64.rpm"
    data = path.read_bytes()
    path.unlink()
    if damage == "truncated":
        path.write_bytes(data[:-100])
    with pytest.raises(KmodError) as caught:
        fetched(tmp_path / "root", tmp_path)
    assert caught.value.code == expected


@pytest.mark.full
def test_a_repository_that_does_not_answer_any_more(tmp_path, stock):
    root = tmp_path / "root"
    families.kernel(root, OLD, family="el9")
    with repositories.served(stock) as address:
        repositories.dnf_host(root, {"baseos": address})
        assert fetched(root, tmp_path)[0].name == "kernel-devel-5.14.0-10.el9.x86_64.rpm"
    shutil.rmtree(str(tmp_path / "fetched"))
    with pytest.raises(KmodError) as caught:
        fetched(root, tmp_path)
    assert caught.value.code == "OFFERED_UNREACHABLE"


@pytest.mark.full
def test_one_repository_without_lists_is_an_error_that_names_it(root):
    """dnf itself would go no further, either."""
    (root / "etc/yum.repos.d/other.repo").write_text(
        "[other]\nname=other\nbaseurl=http://127.0.0.1:9/\ngpgcheck=0\n"
    )
    with pytest.raises(KmodError) as caught:
        asked(root)
    assert caught.value.code == "OFFERED_NO_LISTS" and "'other'" in str(caught.value)


def test_the_headers_of_a_kernel_are_fetched_for_a_build(root, tmp_path):
    (root / "usr/bin").mkdir(parents=True, exist_ok=True)
    (root / "usr/bin/dnf").touch()
    with open(str(root / "etc/dnf/dnf.conf"), "a") as file:
        file.write("excludepkgs=kernel*\n")  # as where kernels are held back
    directory = unpack.fetched(str(root), NEW, str(tmp_path / "keep"))
    assert os.listdir(str(tmp_path / "keep")) == [os.path.basename(directory)]
    assert os.path.basename(directory).startswith(NEW + "_")
    assert unpack.fetched(str(root), NEW, str(tmp_path / "keep")) == directory
    assert unpack.fetched(str(root), "5.14.0-99.el9.x86_64", str(tmp_path / "keep")) is None
