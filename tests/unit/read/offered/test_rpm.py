# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kernels a host would get, by the real dnf 4 on directory hosts and repositories of made-up packages; dnf 5
and yum by fakes that answer as those do.
"""

import os

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock, tools
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered import manager, offers, rpm
from tests.forge import families, repositories
from tests.forge.repositories import Rpm, rpms

real = pytest.mark.skipif(
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


@real
def test_the_newest_is_the_newest_version_of_what_is_installed(root):
    answer = asked(root)
    (only,) = answer.kernels
    assert (answer.manager, only.release, only.newest) == ("dnf", NEW, True)
    assert [str(each) for each in only.small] == ["kernel-devel 0:5.14.0-10.el9"]
    assert [each.name for each in only.whole] == ["kernel-core", "kernel-modules-core", "kernel-modules"]


@real
def test_all_are_those_newer_than_what_is_installed_and_of_its_kind(root, stock):
    assert found(root, "all") == [MIDDLE, NEW]
    repositories.dnf_install(root, sorted(stock.glob("kernel-core-5.14.0-10.el9.x86_64.rpm")))
    assert found(root, "newest") == found(root, "all") == []


@real
def test_a_realtime_kernel_is_offered_to_who_has_one(root, stock, tmp_path):
    rt = sorted(kernel(tmp_path / "older", "5.14.0-3.el9.x86_64+rt", "rt"))
    repositories.dnf_install(root, rt)
    assert found(root, "newest") == [NEW, RT]


@real
def test_without_the_database_it_goes_by_the_kernels_that_are_there(root):
    for path in (root / "var/lib/rpm").iterdir():
        path.unlink()
    assert (found(root, "newest"), found(root, "all")) == ([NEW], [MIDDLE, NEW])


@real
def test_a_kernel_that_is_held_back_is_offered_all_the_same(root):
    (root / "etc/dnf/dnf.conf").write_text("[main]\nexcludepkgs=kernel*-5.14.0-10.el9*\n")
    assert found(root, "newest") == [NEW]


@real
def test_the_age_of_the_lists_is_told(root):
    repositories.aged(root, ["var/cache/dnf/*/repodata/repomd.xml"], days=23)
    answer = asked(root)
    assert answer.age // 86400 == 23
    assert answer.kernels[0].lists == "dnf's lists, 23 days old"


@real
def test_lists_that_were_never_fetched(tmp_path, stock):
    families.kernel(tmp_path / "bare", OLD, family="el9")
    repositories.dnf_host(tmp_path / "bare", {"baseos": stock}, lists=False)
    assert code(tmp_path / "bare") == "OFFERED_NO_LISTS"


@real
def test_lists_without_a_kernel(tmp_path):
    rpms(tmp_path / "repository", "1", "1", [Rpm("hello")])
    repositories.dnf_lists(tmp_path / "repository")
    families.kernel(tmp_path / "root", OLD, family="el9")
    repositories.dnf_host(tmp_path / "root", {"baseos": tmp_path / "repository"})
    assert code(tmp_path / "root") == "OFFERED_NONE"


@real
def test_a_configuration_that_cannot_be_read(root):
    (root / "etc/dnf/dnf.conf").write_text("[main\nnonsense")
    assert code(root) == "OFFERED_BROKEN"


@real
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


@real
def test_all_of_a_kernel_where_that_is_asked(root, tmp_path):
    assert [path.name.split("-5.")[0] for path in fetched(root, tmp_path, whole=True)] == [
        "kernel-core",
        "kernel-modules",
        "kernel-modules-core",
    ]


@real
def test_the_lists_have_the_crcs(root):
    with lock.scratch() as scratch:
        asking = offers.asking(Host(str(root)), scratch)
        (only,) = offers.offers(asking, "newest").kernels
        listed = offers.versions(asking, only)
    assert {name: export.crc for name, export in listed.exports.items()} == {"printk": 0x22}
    assert listed.origin == "what the lists say that kernel-core 0:5.14.0-10.el9 provides"


@real
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


@real
def test_a_repository_that_does_not_answer(root, tmp_path):
    path = root / "etc/yum.repos.d/baseos.repo"
    # as if it had answered before: its lists stay, by the name of their directory
    from_there = path.read_text()
    path.write_text("[baseos]\nname=baseos\nbaseurl=http://127.0.0.1:9/\ngpgcheck=0\n")
    assert from_there != path.read_text()
    assert code(root) == "OFFERED_NO_LISTS"


# dnf 5 and yum, by fakes


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """fake(name, script): a tool of this name that writes down how it was called, and answers by the script."""
    place = tmp_path / "fakes"
    place.mkdir()
    monkeypatch.setenv("PATH", "%s:%s" % (place, os.environ["PATH"]))

    def make(name, script):
        path = place / name
        path.write_text('#!/bin/sh\necho "$0 $*" >> %s/calls\ncase "$*" in\n%s\nesac\n' % (place, script))
        path.chmod(0o755)

    make.calls = lambda: (place / "calls").read_text()
    return make


def through(asker, root, which="newest"):
    with lock.scratch() as scratch:
        asking = offers.asking(Host(str(root)), scratch)
        return asking, asker.offers(asking, which)


ROWS = "kernel-core\\t0\\t5.14.0\\t10.el9\\tx86_64\\tbaseos\\n"
ALL_OF_IT = ROWS + ROWS.replace("-core", "-devel") + ROWS.replace("-core", "-modules-core")


@pytest.fixture
def bare(tmp_path):
    families.kernel(tmp_path / "bare", OLD, family="el9")
    (tmp_path / "bare/etc/yum.repos.d").mkdir(parents=True, exist_ok=True)
    return tmp_path / "bare"


def test_fake_dnf5_is_asked_in_its_own_words(fake, bare, tmp_path):
    script = """*--provides*) printf 'kernel(printk) = 0x22\\nkernel-uname-r = %s\\n' ;;
    *'kernel*-5.14.0-10.el9.x86_64') printf '%s' ;;
    *--available*) printf '%s' ;;
    *download*) touch kernel-devel.rpm ;;""" % (NEW, ALL_OF_IT, ROWS)
    fake("dnf5", script)
    asking, answer = through(rpm.Dnf5(), bare)
    (only,) = answer.kernels
    assert (only.release, [each.name for each in only.small]) == (NEW, ["kernel-devel"])
    assert "--setopt=disable_excludes=main repoquery --queryformat=%{name}" in fake.calls()
    (tmp_path / "target").mkdir()
    rpm.Dnf5().fetch(asking, only.small, str(tmp_path / "target"))
    assert "download --destdir %s kernel-devel-5.14.0-10.el9.x86_64" % (tmp_path / "target") in fake.calls()


def test_fake_yum_is_asked_by_the_tools_of_yum_utils(fake, bare):
    script = """*--provides*) printf 'kernel-uname-r = 3.10.0-1160.el7.x86_64\\n' ;;
    *'kernel*-3.10'*) printf 'kernel\\t0\\t3.10.0\\t1160.el7\\tx86_64\\tupdates\\nkernel-devel\\t0\\t3.10.0\\t1160.el7\\tx86_64\\tupdates\\n' ;;
    *kernel) printf 'kernel\\t0\\t3.10.0\\t1160.el7\\tx86_64\\tupdates\\n' ;;"""
    fake("repoquery", script)
    families.kernel(bare.parent / "seven", "3.10.0-957.el7.x86_64", family="el7")
    (_asking, answer) = through(rpm.Yum(), bare.parent / "seven")
    (only,) = answer.kernels
    assert (answer.manager, only.release, [each.name for each in only.whole]) == (
        "yum",
        "3.10.0-1160.el7.x86_64",
        ["kernel"],
    )
    assert [each.name for each in only.small] == ["kernel-devel"] and "-C --show-duplicates" in fake.calls()


@pytest.mark.parametrize(
    "said,expected",
    [
        ('echo "Cache-only enabled but no cache for repo baseos" >&2; exit 1', "OFFERED_NO_LISTS"),
        ('echo "something else" >&2; exit 1', "OFFERED_BROKEN"),
        ("true", "OFFERED_NONE"),
    ],
)
def test_what_fake_dnf5_complains_of_is_an_error(said, expected, fake, bare):
    fake("dnf5", "*) %s ;;" % said)
    with pytest.raises(KmodError) as caught:
        through(rpm.Dnf5(), bare)
    assert caught.value.code == expected


def test_which_of_them_a_host_has(tmp_path, monkeypatch):
    (tmp_path / "etc/yum.repos.d").mkdir(parents=True)
    there = {"dnf": "/usr/bin/dnf", "dnf5": "/usr/bin/dnf5"}
    monkeypatch.setattr(tools, "find", lambda name: there.get(name))
    assert offers.detect(Host(str(tmp_path))).name == "dnf"
    del there["dnf"]
    assert offers.detect(Host(str(tmp_path))).name == "dnf5"
    there.clear()
    assert offers.detect(Host(str(tmp_path))).name == "yum"


def test_a_manager_that_hangs_is_an_error(fake, bare, monkeypatch):
    monkeypatch.setattr(manager, "QUERY", 1)
    monkeypatch.setattr(manager.ask, "__kwdefaults__", {"directory": None, "limit": 1})
    fake("dnf5", "*) sleep 60 ;;")
    with pytest.raises(KmodError) as caught:
        through(rpm.Dnf5(), bare)
    assert caught.value.code == "OFFERED_BROKEN"
