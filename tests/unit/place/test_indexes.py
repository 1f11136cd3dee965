# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""depmod is not believed: what it makes is looked at, and put in place whole."""

import os
import shutil
import stat
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.read import index
from tests.forge.fake_tree import ONE, TWO, FakeTree, module

pytestmark = pytest.mark.skipif(not shutil.which("depmod"), reason="needs depmod (kmod)")
REAL = shutil.which("depmod")
TOP = "/lib/modules/%s/" % ONE


@pytest.fixture
def tree(tmp_path):
    return FakeTree(tmp_path / "root")


def indexes(tree):
    return {
        name: (tree.data(TOP + name), os.stat(tree.path(TOP + name)).st_mode)
        for name in os.listdir(tree.path(TOP))
        if name.startswith("modules.")
    }


def program(directory, text):
    directory.mkdir()
    (directory / "depmod").write_text("#!/bin/sh\n" + text)
    (directory / "depmod").chmod(0o755)
    return "%s:%s" % (directory, os.environ["PATH"])


BASE = (
    'while [ "$1" != -b ]; do shift; done; base=$2; for release; do :; done; top=$base/lib/modules/$release; '
)


@pytest.mark.parametrize(
    "name,text",
    [
        ("writes nothing", "exit 0"),
        ("says nothing and fails", "exit 1"),
        ("is killed", "kill -9 $$"),
        (
            "writes empty files",
            BASE + 'for name in dep dep.bin alias alias.bin; do : > "$top/modules.$name"; done',
        ),
        (
            "writes garbage",
            BASE + 'for name in dep dep.bin alias alias.bin; do echo garbage > "$top/modules.$name"; done',
        ),
        (
            "writes half",
            REAL
            + ' "$@" && '
            + BASE
            + 'for name in "$top"/modules.*.bin; do head -c 20 "$name" > "$name.x"; mv "$name.x" "$name"; done',
        ),
        ("forgets the kernel's own", REAL + ' "$@" && ' + BASE + 'sed -i /kernel/d "$top/modules.dep"'),
        ("writes an empty index", REAL + ' "$@" && ' + BASE + ': > "$top/modules.builtin.bin"'),
        (
            "cannot read its input",
            REAL
            + ' "$@" && echo "depmod: WARNING: could not open modules.order at /x: Too many open files" >&2',
        ),
        (
            "cannot write an index",
            REAL + ' "$@" && ' + BASE + 'rm "$top/modules.alias.bin"; '
            'echo "depmod: ERROR: openat($top, modules.alias.bin.1.2.3, 301, 644): Input/output error" >&2',
        ),
        ("forgets another's", REAL + ' "$@" && ' + BASE + 'sed -i /other/d "$top/modules.dep"'),
        ("forgets ours", REAL + ' "$@" && ' + BASE + 'sed -i /vendor/d "$top/modules.dep"'),
        (
            "leaves the binary index as it was",
            REAL + ' "$@" && ' + BASE + 'cp "' + "%s" + '/modules.dep.bin" "$top/modules.dep.bin"',
        ),
    ],
)
def test_one_that_does_otherwise_than_it_should_changes_nothing(tree, tmp_path, monkeypatch, name, text):
    tree.vendor(TWO, [ONE, TWO])
    for each in ("modules.order", "modules.builtin"):
        tree.write(
            TOP + each,
            b"kernel/drivers/net/e1000e.ko\n" if each == "modules.order" else b"kernel/fs/ext4/ext4.ko\n",
        )
    tree.depmod(ONE)
    tree.write(TOP + "extra/other.ko", module("other", ONE))  # that was not listed before
    before, tree_before = indexes(tree), tree.snapshot()
    monkeypatch.setenv("PATH", program(tmp_path / "bin", text.replace("%s", tree.path(TOP))))
    with pytest.raises(KmodError) as error:
        tree.deploy("/build")
    assert error.value.code in ("DEPMOD_FAILED", "TOOL_FAILED")
    assert indexes(tree) == before and tree.snapshot() == tree_before


def test_one_that_cannot_be_run_is_an_error(tree, tmp_path, monkeypatch):
    tree.vendor(TWO, [ONE, TWO])
    bad = tmp_path / "bin"
    bad.mkdir()
    (bad / "depmod").write_bytes(b"\x7fELF nonsense")
    (bad / "depmod").chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (bad, os.environ["PATH"]))
    with pytest.raises(KmodError) as error:
        tree.deploy("/build")
    assert error.value.code == "TOOL_FAILED" and "cannot be run" in str(error.value)


@pytest.mark.parametrize("umask", [0o077, 0o022, 0])
def test_the_indexes_stay_readable_for_all_whatever_the_umask(tree, umask):
    tree.vendor(TWO, [ONE, TWO])
    os.unlink(tree.path(TOP + "modules.softdep"))
    before = os.umask(umask)
    try:
        tree.deploy("/build")
    finally:
        os.umask(before)
    assert {name: stat.S_IMODE(mode) for name, (_data, mode) in indexes(tree).items()} == dict.fromkeys(
        indexes(tree), 0o644
    )


@pytest.mark.parametrize(
    "damage", ["old binary index", "empty", "missing", "garbage", "empty list", "another path"]
)
def test_indexes_that_a_cut_off_depmod_left_are_made_again(tree, damage):
    tree.vendor(TWO, [ONE, TWO])
    old = tree.data(TOP + "modules.dep.bin")
    tree.deploy("/build")
    whole = indexes(tree)
    if damage == "missing":
        os.unlink(tree.path(TOP + "modules.dep.bin"))
    else:
        name, data = {
            "old binary index": ("modules.dep.bin", old),
            "empty": ("modules.dep.bin", b""),
            "garbage": ("modules.dep.bin", b"x" * 99),
            "empty list": ("modules.dep", b""),
            "another path": (
                "modules.dep.bin",
                whole["modules.dep.bin"][0].replace(b"weak-updates/", b"other-place//"),
            ),
        }[damage]
        tree.write(TOP + name, data)
    tree.deploy()
    assert indexes(tree) == whole
    assert tree.plan()[0].paths() == []


def test_removal_mends_indexes_that_are_lost(tree):
    tree.vendor(TWO, [ONE, TWO])
    before = indexes(tree)
    tree.deploy("/build")
    for name in ("modules.dep", "modules.dep.bin"):
        tree.write(TOP + name, b"")
    tree.remove()
    assert indexes(tree) == before


def test_the_driver_is_in_no_index_before_its_files_go(tree):
    tree.vendor(TWO, [ONE, TWO], names=("vendor", "helper"))
    tree.deploy("/build")
    paths = tree.plan_removal()[0].paths()
    last = max(place for place, path in enumerate(paths) if path.endswith("modules.dep"))
    assert all(path.endswith("modules.dep") for path in paths[:last]) and len(paths) > last + 4


def test_the_binary_index_is_read_as_modprobe_reads_it(tree):
    tree.vendor(TWO, [ONE, TWO], names=("vendor", "vend", "vendor_two"))
    tree.deploy("/build")
    data = tree.data(TOP + "modules.dep.bin")
    names = {line.split(b":")[0].decode() for line in tree.data(TOP + "modules.dep").splitlines()}
    assert {value.partition(":")[0] for values in index.entries(data).values() for value in values} == names
    for name in ("vendor", "vend", "vendor_two", "vendor_t", "ven", "x", ""):
        argv = ["modprobe", "-d", tree.root, "-S", ONE, "--show-depends", name or "-"]
        shown = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        assert (index.lookup(data, name) is not None) == (shown.returncode == 0), name


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_a_damaged_index_is_an_empty_one_and_never_ends_in_a_loop(tree, cut):
    data = tree.data(TOP + "modules.dep.bin")
    index.entries(data[:cut])
    index.lookup(data[:cut], "e1000e")
    flipped = bytearray(data)
    flipped[cut % len(data)] ^= 0xFF
    index.entries(bytes(flipped))
    index.lookup(bytes(flipped), "e1000e")


def test_modules_in_a_directory_that_is_called_like_an_index_stay_listed(tmp_path):
    tree = FakeTree(tmp_path / "root", releases=(ONE,))
    tree.write("/lib/modules/%s/modules.d/odd.ko" % ONE, module("odd", ONE))
    tree.depmod(ONE)
    tree.vendor(ONE, (ONE,))
    assert tree.deploy("/build/vendor.ko") == {ONE: ONE} and tree.loads(ONE, "odd") == "modules.d/odd.ko"


def test_a_driver_can_be_removed_from_what_is_left_of_a_removed_kernel(tree):
    """depmod's files and the driver: no module is left once that goes, and modules.dep is empty."""
    tree.vendor(ONE, [ONE])
    tree.deploy("/build")
    shutil.rmtree(tree.path(TOP + "kernel"))
    tree.remove()
    assert (
        tree.data(TOP + "modules.dep") == b""
        and index.whole(tree.data(TOP + "modules.dep.bin"))
        and tree.loads(ONE) is None
    )
    assert not os.path.exists(tree.path(TOP + "extra/vendor"))
