# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A Host keeps every path inside its root, reads nothing that could block, and writes whole files or none."""

import errno
import os
import stat
import sys
import time

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import tools
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host


@pytest.fixture
def host(tmp_path):
    for name in ("root/boot", "root/usr/lib/modules", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "root/lib").symlink_to("usr/lib")
    (tmp_path / "outside/secret").write_text("not ours")
    return Host(str(tmp_path / "root"))


def test_a_root_that_is_no_directory_is_refused(tmp_path):
    with pytest.raises(KmodError, match="is not a directory") as caught:
        Host(str(tmp_path / "nowhere"))
    assert caught.value.code == "PATH_MISSING"


@pytest.mark.parametrize("target", ["/outside/secret", "../outside/secret", "../../../../outside/secret"])
def test_no_symlink_leads_out_of_the_root(host, target):
    os.symlink(target, host.real("/boot/link"))
    assert host.real("/boot/link").startswith(host.root + "/")
    assert not host.exists("/boot/link")


def test_absolute_symlinks_start_at_the_root(host):
    host.replace("/usr/lib/modules/file", b"x")
    host.symlink("/boot/link", "/lib/modules/file")
    assert host.read("/boot/link") == b"x"
    assert host.real("/boot/link", follow=False) == host.root + "/boot/link"


def test_a_path_has_one_spelling_inside_the_root(host):
    assert host.inside(host.real("//lib/./modules/../modules/x")) == "/usr/lib/modules/x"
    assert host.inside(host.root) == "/"


def test_a_symlink_loop_is_an_error(host):
    os.symlink("two", host.real("/boot/one"))
    os.symlink("one", host.real("/boot/two", follow=False))
    with pytest.raises(KmodError) as caught:
        host.read("/boot/one")
    assert caught.value.code == "PATH_LOOP"


def test_what_is_not_there_is_nothing(host):
    assert not host.exists("/boot/none") and host.lstat("/boot/none") is None
    assert host.listdir("/boot/none") == []
    with pytest.raises(KmodError) as caught:
        host.read("/boot/none")
    assert caught.value.code == "PATH_MISSING" and "/boot/none" in str(caught.value)


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_only_regular_files_are_read(host, make):
    make(host.real("/boot/odd"))
    with pytest.raises(KmodError) as caught:
        host.read("/boot/odd")
    assert caught.value.code == "FILE_NOT_REGULAR"


def test_a_file_over_the_limit_is_not_read(host):
    host.replace("/boot/big", b"x" * 100)
    with pytest.raises(KmodError) as caught:
        host.read("/boot/big", limit=99)
    assert caught.value.code == "FILE_TOO_LARGE"
    assert host.read("/boot/big", limit=100) == b"x" * 100


def test_replace_is_whole_or_nothing(host):
    host.replace("/boot/file", b"old", mode=0o600)

    def broken():
        yield b"half"
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(KmodError, match="No space left") as caught:
        host.replace("/boot/file", broken())
    assert caught.value.code == "ENOSPC" and "Free space" in caught.value.then
    assert host.read("/boot/file") == b"old"
    assert host.listdir("/boot") == ["file"]


def test_a_killed_run_leaves_what_its_rerun_overwrites(host):
    with open(host.root + "/boot/.file.kmod-new", "w") as file:
        file.write("half")
    host.replace("/boot/file", b"whole")
    assert host.listdir("/boot") == ["file"]


def test_what_a_file_is_made_from_is_given_back_before_the_error_is_told(host, monkeypatch):
    given_back = []

    def made():
        try:
            yield b"new"
        finally:
            given_back.append(True)

    monkeypatch.setattr(os, "write", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(KmodError) as _error:  # which keeps the frames of what was going on
        host.replace("/boot/file", made())
    assert given_back == [True]


def test_replace_sets_the_mode_whatever_the_umask(host):
    before = os.umask(0o077)
    try:
        host.replace("/boot/file", b"", mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE(host.lstat("/boot/file").st_mode) == 0o644


def test_a_symlink_is_replaced_not_followed(host):
    host.replace("/boot/target", b"shipped")
    host.symlink("/boot/link", "target")
    host.replace("/boot/link", b"ours")
    assert host.read("/boot/target") == b"shipped"
    host.symlink("/boot/link", "target")
    assert host.readlink("/boot/link") == "target"


def test_a_failing_tool_says_what_it_said(host):
    with pytest.raises(KmodError, match="exit status 3: alas"):
        host.run([sys.executable, "-c", "import sys; print('alas', file=sys.stderr); sys.exit(3)"])
    with pytest.raises(KmodError) as caught:
        host.run(["no-such-tool-anywhere"])
    assert caught.value.code == "TOOL_MISSING"


def test_the_package_of_a_missing_depmod_is_named(host, monkeypatch):
    monkeypatch.setattr(tools, "find", lambda name: None)
    with pytest.raises(KmodError, match="Install the package kmod"):
        host.run(["depmod", "-b", host.root])


@pytest.mark.parametrize("output", ["", " >/dev/null 2>&1"])
def test_nothing_that_a_tool_has_started_outlives_it(host, output):
    try:
        host.run(["sh", "-c", "sleep 60%s & echo $! > %s/pid" % (output, host.root)], timeout=2)
    except KmodError as error:
        assert error.code == "TOOL_TIMEOUT"
    deadline = time.monotonic() + 10
    while runs(int(host.read("/pid"))):
        assert time.monotonic() < deadline


def runs(pid):
    try:
        with open("/proc/%d/stat" % pid) as status:
            return status.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.mark.parametrize("path", ["/a\0b", "/\ud800"])
def test_what_cannot_be_a_path_is_one_clear_error(host, path):
    with pytest.raises(KmodError) as caught:
        host.exists(path)
    assert caught.value.code == "PATH_MISSING"
