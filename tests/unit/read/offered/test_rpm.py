# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kernels a host would get, by fakes of dnf 5 and yum that answer as those do. The real dnf 4 is asked in
tests/offered.
"""

import os

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock, tools
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered import manager, offers, rpm
from tests.forge import families

OLD, NEW = "5.14.0-1.el9.x86_64", "5.14.0-10.el9.x86_64"


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
