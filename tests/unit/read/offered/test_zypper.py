# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Which kernels a host of SUSE would get, by a fake zypper that answers as zypper(8) and its XML have it."""

import os

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import lock
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read.offered import offers
from tests.forge import families

OLD, NEW = "6.4.0-150600.21-default", "6.4.0-150600.23.25-default"
ROW = '<solvable status="not-installed" name="%s" kind="package" edition="%s" arch="x86_64" repository="SLE-Updates"/>'
ANSWER = "<?xml version='1.0'?><stream><search-result version=\"0.0\"><solvable-list>%s</solvable-list></search-result></stream>"
EDITIONS = ("6.4.0-150600.21.2", "6.4.0-150600.23.25.1", "6.4.0-150600.23.7.3")


@pytest.fixture
def zypper(tmp_path, monkeypatch):
    place = tmp_path / "fakes"
    place.mkdir()
    monkeypatch.setenv("PATH", "%s:%s" % (place, os.environ["PATH"]))

    def make(**cases):
        for name, text in cases.items():
            (place / name).write_text(text)
        script = (
            '#!/bin/sh\necho "$*" >> %(at)s/calls\nfor last; do :; done\n'
            'case "$*" in\n*search*-devel) cat %(at)s/devel ;;\n*search*) cat %(at)s/image; exit $(cat %(at)s/status) ;;\n'
            '*info*) cat %(at)s/info ;;\n*download*) sh %(at)s/download "$@" ;;\nesac\n'
        )
        (place / "zypper").write_text(script % {"at": place})
        (place / "zypper").chmod(0o755)

    rows = {
        name: "".join(ROW % (name, edition) for edition in EDITIONS)
        for name in ("kernel-default", "kernel-default-devel")
    }
    make(
        image=ANSWER
        % (
            rows["kernel-default"]
            + ROW.replace("SLE-Updates", "(System Packages)") % ("kernel-default", "9-9.9")
        ),
        devel=ANSWER % rows["kernel-default-devel"],
        status="0",
        info="Version        : 6.4.0-150600.23.25.1\nProvides       : [2]\n    kernel-uname-r = %s\n    ksym(default:printk) = 1f2e3d4c\n"
        % NEW,
        download='while [ "$1" != --pkg-cache-dir ]; do shift; done; mkdir -p "$2/repo/x86_64"; touch "$2/repo/x86_64/$last.rpm"\n'
        'for last; do :; done; mv "$2/repo/x86_64/.rpm" "$2/repo/x86_64/$last.rpm"',
    )
    make.calls = lambda: (place / "calls").read_text()
    return make


@pytest.fixture
def root(tmp_path):
    families.kernel(tmp_path / "root", OLD, family="sles")
    (tmp_path / "root/etc/zypp/repos.d").mkdir(parents=True)
    return tmp_path / "root"


def asked(root, which="newest"):
    with lock.scratch() as scratch:
        return offers.offers(offers.asking(Host(str(root)), scratch), which)


def test_fake_zypper_says_which_are_newer(zypper, root):
    answer = asked(root)
    (only,) = answer.kernels
    assert (answer.manager, only.release, only.newest) == ("zypper", NEW, True)
    assert [str(each) for each in only.small] == ["kernel-default-devel 6.4.0-150600.23.25.1"]
    assert [str(each) for each in only.whole] == ["kernel-default 6.4.0-150600.23.25.1"]
    assert [each.release for each in asked(root, "all").kernels] == ["6.4.0-150600.23.7-default", NEW]
    assert "--non-interactive --no-refresh --root %s" % root in zypper.calls()


def test_fake_zypper_downloads_and_tells_crcs(zypper, root, tmp_path):
    target = tmp_path / "target"
    target.mkdir()
    with lock.scratch() as scratch:
        asking = offers.asking(Host(str(root)), scratch)
        (only,) = offers.offers(asking, "newest").kernels
        listed = offers.versions(asking, only)
        assert len(offers.fetch(asking, only.small, str(target))) == 1
    assert {name: export.crc for name, export in listed.exports.items()} == {"printk": 0x1F2E3D4C}


def test_the_age_of_the_lists_is_told(zypper, root):
    path = root / "var/cache/zypp/raw/repo/repodata/repomd.xml"
    path.parent.mkdir(parents=True)
    path.touch()
    then = path.stat().st_mtime - 23 * 86400
    os.utime(str(path), (then, then))
    assert asked(root).age // 86400 == 23


MESSAGE = '<stream><message type="error">%s</message></stream>'


@pytest.mark.parametrize(
    "status,text,expected",
    [
        ("104", MESSAGE % "No matching items found.", "OFFERED_NONE"),
        ("0", ANSWER % "", "OFFERED_NONE"),
        ("6", MESSAGE % "No repositories defined.", "OFFERED_BROKEN"),
        ("4", MESSAGE % "System management is locked", "OFFERED_BROKEN"),
        ("106", MESSAGE % "Repository 'SLE' is invalid.", "OFFERED_NO_LISTS"),
        ("0", "<stream><search-result", "OFFERED_BROKEN"),
    ],
)
def test_what_it_complains_of_is_an_error(status, text, expected, zypper, root):
    zypper(status=status, image=text)
    with pytest.raises(KmodError) as caught:
        asked(root)
    assert caught.value.code == expected


@pytest.mark.parametrize(
    "said,expected",
    [
        ("echo 'Digest verification failed' ; exit 8", "OFFERED_DAMAGED"),
        ("echo 'Signature verification failed' ; exit 8", "OFFERED_UNSIGNED"),
        ("echo \"Download (curl) error for 'http://...'\"; exit 8", "OFFERED_UNREACHABLE"),
        ("true", "OFFERED_UNREACHABLE"),
    ],
)
def test_a_download_that_fails_is_an_error(said, expected, zypper, root, tmp_path):
    zypper(download=said)
    with lock.scratch() as scratch:
        asking = offers.asking(Host(str(root)), scratch)
        (only,) = offers.offers(asking, "newest").kernels
        with pytest.raises(KmodError) as caught:
            offers.fetch(asking, only.small, str(tmp_path))
    assert caught.value.code == expected
