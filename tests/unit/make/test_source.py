# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A source is copied as it is, without what an earlier build has left; an archive that would do harm is
refused.
"""

import gzip
import io
import os
import tarfile

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.make import source
from tests.forge.sources import write

LIMIT = 4 << 20


def archive(path, *members, mode="w:gz"):
    """A tar archive of (name, content or how to change its TarInfo)."""
    with tarfile.open(str(path), mode) as tar:
        for name, what in members:
            info = tarfile.TarInfo(name)
            info.size = len(what) if isinstance(what, bytes) else 0
            for key, value in (what if isinstance(what, dict) else {}).items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(what) if isinstance(what, bytes) else None)
    return str(path)


def link(to, kind=tarfile.SYMTYPE):
    return {"type": kind, "linkname": to}


def files(target):
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if not path.is_dir())


def code_of(path, target, limit=LIMIT):
    with pytest.raises(KmodError) as caught:
        source.copy(str(path), str(target), limit)
    return caught.value.code


def test_what_an_earlier_build_has_left_goes_and_what_was_shipped_stays(tmp_path):
    write(
        tmp_path / "s",
        {
            "Makefile": "",
            "a.c": "",
            "a.o": "old",
            ".a.o.cmd": "",
            "a.ko": "old",
            "a.mod": "",
            "a.mod.c": "",
            "a.mod.o": "",
            ".a.ko.cmd": "",
            "Module.symvers": "",
            "modules.order": "",
            "drv.o": "linked",
            ".drv.o.cmd": "",
            "blob.o": "of a vendor",
            "blob.o_shipped": "of a vendor",
            "sub/b.o": "",
            "sub/b.S": "",
            ".git/config": "",
            ".tmp_versions/a.mod": "",
            "run.sh": "#!/bin/sh\n",
        },
    )
    (tmp_path / "s/link").symlink_to("a.c")
    source.copy(str(tmp_path / "s"), str(tmp_path / "t"), LIMIT)
    assert files(tmp_path / "t") == [
        "Makefile",
        "a.c",
        "blob.o",
        "blob.o_shipped",
        "link",
        "run.sh",
        "sub/b.S",
    ]
    assert os.access(str(tmp_path / "t/run.sh"), os.X_OK) and not os.access(str(tmp_path / "t/a.c"), os.X_OK)
    assert {os.lstat(str(path)).st_mtime for path in (tmp_path / "t").rglob("*")} == {float(source.EPOCH)}


def test_the_digest_is_of_names_modes_and_contents(tmp_path):
    def digest(**changes):
        directory = tmp_path / str(len(list(tmp_path.iterdir())))
        write(directory, dict({"Makefile": "x", "a": "#!1"}, **changes))
        return source.digest(str(directory))

    assert digest() == digest()
    assert len({digest(), digest(Makefile="y"), digest(b=""), digest(a="1")}) == 4


@pytest.mark.parametrize("form", ["w", "w:gz", "w:xz", "w:bz2"])
def test_an_archive_of_one_directory_is_that_directory(tmp_path, form):
    path = archive(
        tmp_path / "a.tar",
        ("drv-1.0/", {"type": tarfile.DIRTYPE}),
        ("drv-1.0/Makefile", b"x"),
        ("./drv-1.0/sub/a.c", b"y"),
        ("drv-1.0/b.c", link("sub/a.c")),
        ("drv-1.0/c.c", link("drv-1.0/Makefile", tarfile.LNKTYPE)),
        mode=form,
    )
    source.copy(path, str(tmp_path / "t"), LIMIT)
    assert files(tmp_path / "t") == ["Makefile", "b.c", "c.c", "sub/a.c"]
    assert (tmp_path / "t/b.c").read_text() == "y" and (tmp_path / "t/c.c").read_text() == "x"


def test_the_source_in_an_archive_of_dkms_mktarball_is_found(tmp_path):
    path = archive(tmp_path / "a.tgz", ("./dkms_main_tree/x", b""), ("./dkms_source_tree/dkms.conf", b""))
    source.copy(path, str(tmp_path / "t"), LIMIT)
    assert files(tmp_path / "t") == ["dkms.conf"]


@pytest.mark.parametrize(
    "members",
    [
        [("/etc/evil", b"x")],
        [("../evil", b"x")],
        [("a/../../evil", b"x")],
        [("a", link("/etc")), ("a/evil", b"x")],
        [("a", link(".")), ("a/evil", b"x")],  # not even within
        [("a", link("../evil"))],
        [("sub/a", link("../../evil"))],
        [("a", link("/etc/passwd"))],
        [("a", link("../evil", tarfile.LNKTYPE))],
        [("a", link("/etc/passwd", tarfile.LNKTYPE))],
        [("a", link("later", tarfile.LNKTYPE)), ("later", b"x")],
        [("a", b"x"), ("a", link("/etc/passwd"))],
        [("a", b"x"), ("a/b", b"x")],
        [("a", {"type": tarfile.CHRTYPE})],
        [("a", {"type": tarfile.FIFOTYPE})],
    ],
)
def test_a_hostile_archive_is_refused_and_writes_nothing_outside(tmp_path, members):
    path = archive(tmp_path / "a.tgz", ("Makefile", b""), *members)
    assert code_of(path, tmp_path / "in/t" if (tmp_path / "in").mkdir() is None else "") == "SOURCE_HOSTILE"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a.tgz", "in"]
    assert [each.name for each in (tmp_path / "in").iterdir()] == ["t"]


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    path = archive(tmp_path / "a.tgz", ("Makefile", b""), ("zeros", bytes(LIMIT + 1)))
    assert code_of(path, tmp_path / "one") == "SOURCE_TOO_LARGE"
    (tmp_path / "b.tgz").write_bytes(gzip.compress(bytes(LIMIT * 3)))  # no archive at all
    assert code_of(tmp_path / "b.tgz", tmp_path / "two") in (
        "SOURCE_TOO_LARGE",
        "SOURCE_DAMAGED",
        "SOURCE_EMPTY",
    )
    monkeypatch.setattr(source, "FILES", 10)
    path = archive(tmp_path / "c.tgz", *((str(number), b"") for number in range(11)))
    assert code_of(path, tmp_path / "three") == "SOURCE_TOO_LARGE"
    write(tmp_path / "s", {"Makefile": bytes(LIMIT + 1)})
    assert code_of(tmp_path / "s", tmp_path / "four") == "SOURCE_TOO_LARGE"


@pytest.mark.parametrize(
    "data",
    [b"", b"no archive" * 100, gzip.compress(b"no archive" * 100)],
    ids=("empty", "text", "packed text"),
)
def test_what_is_no_archive_is_said_to_be_none(tmp_path, data):
    (tmp_path / "a").write_bytes(data)
    assert code_of(tmp_path / "a", tmp_path / "t") in ("SOURCE_DAMAGED", "SOURCE_EMPTY")


def test_a_cut_off_archive_is_damaged(tmp_path):
    path = archive(tmp_path / "a.tgz", ("Makefile", os.urandom(100000)))
    (tmp_path / "b").write_bytes((tmp_path / "a.tgz").read_bytes()[:50000])
    assert path and code_of(tmp_path / "b", tmp_path / "t") in ("SOURCE_DAMAGED", "COMP_CORRUPT")


def test_a_directory_without_a_makefile_is_no_source(tmp_path):
    write(tmp_path / "s", {"a.c": ""})
    assert code_of(tmp_path / "s", tmp_path / "t") == "SOURCE_EMPTY"
    assert code_of(tmp_path / "none", tmp_path / "u") == "PATH_MISSING"


def test_what_a_build_has_closed_can_be_removed(tmp_path):
    write(tmp_path / "t", {"a/b/c": ""})
    (tmp_path / "t/a/b").chmod(0)
    source.take_back(str(tmp_path / "t"))
    assert os.access(str(tmp_path / "t/a/b"), os.W_OK | os.X_OK)
