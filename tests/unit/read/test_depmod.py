# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The file that modprobe loads for a module name is known, also where depmod has not run yet."""

import os
import shutil
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import depmod, names

REL = "6.1.0-1-test"
DIRECTORY = "/lib/modules/" + REL


@pytest.fixture
def root(tmp_path):
    def put(path, text=""):
        real = tmp_path / path.lstrip("/")
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_text(text)

    put.path = tmp_path
    put(DIRECTORY + "/kernel/drivers/a/foo-bar.ko")
    return put


def chosen(root):
    return depmod.chosen(Host(str(root.path)), DIRECTORY)


def test_modules_dep_is_what_modprobe_goes_by(root):
    root(DIRECTORY + "/updates/foo-bar.ko")
    root(
        DIRECTORY + "/modules.dep",
        "kernel/drivers/a/foo-bar.ko: kernel/lib/b.ko\nkernel/lib/b.ko:\n/opt/extra/c.ko.xz:\n",
    )
    assert chosen(root) == {
        "foo_bar": DIRECTORY + "/kernel/drivers/a/foo-bar.ko",
        "b": DIRECTORY + "/kernel/lib/b.ko",
        "c": "/opt/extra/c.ko.xz",
    }


CASES = {
    "updates come first without any configuration": (
        ["updates/foo-bar.ko", "extra/foo-bar.ko"],
        None,
        "updates/foo-bar.ko",
    ),
    "in-tree beats what no search line names": (
        ["kernel/a/x.ko"],
        "search updates built-in",
        "kernel/a/x.ko",
    ),
    "the order of search": (
        ["extra/x.ko", "kernel/x.ko", "weak-updates/x.ko"],
        "search updates extra built-in weak-updates",
        "extra/x.ko",
    ),
    "weak-updates behind built-in": (
        ["kernel/x.ko", "weak-updates/x.ko"],
        "search updates extra built-in weak-updates",
        "kernel/x.ko",
    ),
    "a suffix makes no other module": (["kernel/x.ko.xz", "updates/x.ko"], None, "updates/x.ko"),
    "a hyphen makes no other module": (["kernel/x-y.ko", "updates/x_y.ko"], None, "updates/x_y.ko"),
    "override for every kernel": (
        ["kernel/x.ko", "updates/x.ko", "weak-updates/x.ko"],
        "override x * weak-updates",
        "weak-updates/x.ko",
    ),
    "override for this kernel": (
        ["kernel/x.ko", "extra/v/x.ko"],
        "override x 6.1.0-1-test extra/v",
        "extra/v/x.ko",
    ),
    "override for another kernel": (
        ["kernel/x.ko", "extra/x.ko", "updates/x.ko"],
        "override x 5.* extra",
        "updates/x.ko",
    ),
    "override over several lines": (["kernel/x.ko", "extra/x.ko"], "override x \\\n * extra", "extra/x.ko"),
    "build and source are no modules": (
        ["kernel/x.ko", "build/x.ko"],
        "search build built-in",
        "kernel/x.ko",
    ),
}


def plant(root, files, configuration):
    for path in files:
        root(DIRECTORY + "/" + path)
    root("/etc/depmod.d/site.conf", (configuration or "# nothing") + "\n")


@pytest.mark.parametrize("case", sorted(CASES))
def test_depmods_choice(root, case):
    files, configuration, expected = CASES[case]
    plant(root, files, configuration)
    assert chosen(root)[names.module_of(expected)] == DIRECTORY + "/" + expected


@pytest.mark.skipif(not shutil.which("depmod"), reason="no depmod on this machine")
@pytest.mark.parametrize("case", sorted(CASES))
def test_the_real_depmod_chooses_the_same(root, case):
    files, configuration, _unused = CASES[case]
    plant(root, files, configuration)
    ours = chosen(root)
    for name in ("modules.order", "modules.builtin"):
        root(DIRECTORY + "/" + name)
    subprocess.run(
        ["depmod", "-b", str(root.path), "-C", str(root.path / "etc/depmod.d"), REL],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    assert chosen(root) == ours


def test_the_first_directory_has_the_file_of_a_name(root):
    plant(root, ["extra/x.ko", "kernel/x.ko"], "search built-in extra")
    root("/usr/lib/depmod.d/site.conf", "search extra built-in\n")
    assert chosen(root)["x"].endswith("kernel/x.ko")


def test_symlinks_are_followed_inside_the_root(root):
    plant(root, ["kernel/y.ko"], "search weak-updates built-in")
    root("/lib/modules/5.0/extra/x.ko")
    os.makedirs(str(root.path) + DIRECTORY + "/weak-updates")
    os.symlink("/lib/modules/5.0/extra/x.ko", str(root.path) + DIRECTORY + "/weak-updates/x.ko")
    os.symlink("/lib/modules/none.ko", str(root.path) + DIRECTORY + "/weak-updates/y.ko")
    os.symlink(".", str(root.path) + DIRECTORY + "/weak-updates/loop")
    found = chosen(root)
    assert found["x"] == DIRECTORY + "/weak-updates/x.ko"
    assert found["y"] == DIRECTORY + "/kernel/y.ko"


def test_no_modules_at_all(root):
    assert depmod.chosen(Host(str(root.path)), "/lib/modules/none") == {}
