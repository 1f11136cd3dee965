# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A cached answer is the one that was stored, for the very same files; anything doubtful is read anew."""

import os

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import cache
from ansible_collections.outoftree.kmod.plugins.module_utils.read.exports import Export

REL = "6.1.0-1-test"
EXPORTS = {
    "kfree": Export(0x12345678, False, "", "vmlinux"),
    "a_gpl": Export(0, True, "module:kvm-intel", "vmlinux"),
    "usb_stor": Export(None, True, "USB_STORAGE", "usb_storage"),
}


@pytest.fixture
def host(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root keeps a cache")
    (tmp_path / "var/cache").mkdir(parents=True)
    (tmp_path / "lib/modules" / REL).mkdir(parents=True)
    host = Host(str(tmp_path))
    host.keeps_cache = True
    return host


@pytest.fixture
def stored(host):
    cache.store(host, REL, "key", exports=EXPORTS)
    return os.path.join(host.root, "var/cache/outoftree.kmod", REL)


def test_comes_back_as_it_was(host, stored):
    assert cache.load(host, REL, "key") == EXPORTS
    assert list(cache.load(host, REL, "key")) == list(EXPORTS)


def test_nothing_for_other_files_or_another_kernel(host, stored):
    assert cache.load(host, REL, "another key") is None
    assert cache.load(host, "6.2", "key") is None


def test_nothing_where_there_is_no_cache(host):
    assert cache.load(host, REL, "key") is None


@pytest.mark.parametrize("damage", [b"", b"junk", b"x\x9c", b"x\x9c\x03\0\0\0\0\1"])
def test_a_damaged_file_is_ignored(host, stored, damage):
    with open(stored, "wb") as handle:
        handle.write(damage)
    assert cache.load(host, REL, "key") is None


def test_a_cut_off_file_is_ignored(host, stored):
    os.truncate(stored, os.path.getsize(stored) // 2)
    assert cache.load(host, REL, "key") is None


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_not_trusted(host, stored, mode):
    os.chmod(stored, mode)
    assert cache.load(host, REL, "key") is None


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
def test_a_directory_that_others_can_write_is_neither_trusted_nor_written(host, stored, mode):
    os.chmod(os.path.dirname(stored), mode)
    assert cache.load(host, REL, "key") is None
    os.unlink(stored)
    cache.store(host, REL, "key", exports=EXPORTS)
    assert not os.path.exists(stored)


@pytest.mark.parametrize("which", ["file", "directory"])
def test_another_users_is_not_trusted(host, stored, which):
    os.chown(stored if which == "file" else os.path.dirname(stored), 65534, 65534)
    assert cache.load(host, REL, "key") is None


def test_a_symlink_is_no_cache_directory(host, stored):
    directory = os.path.dirname(stored)
    os.rename(directory, directory + ".else")
    os.symlink("outoftree.kmod.else", directory)
    assert cache.load(host, REL, "key") is None
    os.unlink(os.path.join(directory, REL))
    cache.store(host, REL, "key", exports=EXPORTS)
    assert os.listdir(directory) == []


def test_an_unprivileged_user_leaves_nothing_behind(host, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    cache.store(host, REL, "key", exports=EXPORTS)
    assert os.listdir(os.path.join(host.root, "var/cache")) == []


def test_what_cannot_be_written_is_no_error(host):
    os.mkfifo(os.path.join(host.root, "var/cache/outoftree.kmod"))
    cache.store(host, REL, "key", exports=EXPORTS)
    assert cache.load(host, REL, "key") is None


def test_the_files_of_kernels_that_are_gone_go_too(host, stored):
    os.rename(os.path.join(host.root, "lib/modules", REL), os.path.join(host.root, "lib/modules/6.2"))
    cache.store(host, "6.2", "key", exports=EXPORTS)
    assert os.listdir(os.path.dirname(stored)) == ["6.2"]
