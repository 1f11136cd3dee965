# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A variant takes along how its drivers are loaded, by whatever it is made, and is made again when that changes."""

import gzip
import shutil
import stat
import subprocess

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place import loading
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import variant
from tests.forge.cpio import cpio
from tests.forge.initramfs import DEPMOD
from tests.forge.ko import LAYOUT, RELEASE, ko
from tests.unit.place.initramfs import kernel_simulator
from tests.unit.place.initramfs.test_initramfs_rebuild import make
from tests.unit.place.initramfs.test_initramfs_variant import REQUEST, TREE, run, unpacked

pytestmark = pytest.mark.skipif(not DEPMOD, reason="no depmod on this machine")
FILE = "etc/modprobe.d/outoftree.kmod-acme.conf"
OPTIONS = "# outoftree.kmod acme: made by\noptions acme debug=1\n"


def configure(machine, text=OPTIONS, path=FILE):
    (machine.root / path).parent.mkdir(parents=True, exist_ok=True)
    (machine.root / path).write_text(text)


def status(machine, **more):
    return run(machine, REQUEST._replace(**more))[1]["variants"][0]["status"]


@pytest.mark.parametrize("method", ["overlay", "segment"])
def test_the_image_has_the_file_and_is_made_again_when_it_changes_or_goes(machine, method):
    assert status(machine, method=method) == "created"
    configure(machine)
    assert status(machine, method=method) == "replaced"
    if method == "overlay":
        assert unpacked(machine)[FILE][1] == OPTIONS.encode()
    plan, result = run(machine, REQUEST._replace(method=method))
    assert not plan and result["variants"][0]["status"] == "current"
    configure(machine, OPTIONS.replace("1", "2"))
    assert status(machine, method=method) == "replaced"
    (machine.root / FILE).unlink()
    assert status(machine, method=method) == "replaced"
    if method == "overlay":
        assert FILE not in unpacked(machine)


def test_modprobe_in_the_image_goes_by_it(machine, tmp_path):
    if not shutil.which("modprobe"):
        pytest.skip("no modprobe on this machine")
    configure(machine)
    run(machine)
    root = tmp_path / "early"
    for path, node in unpacked(machine).items():
        if stat.S_ISREG(node[0]) and (path.startswith(TREE) or path == FILE):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(node[1])
    (root / "lib").symlink_to("usr/lib")
    done = subprocess.run(
        ["modprobe", "-d", str(root), "-C", str(root) + loading.MODPROBE, "-S", RELEASE, "-n", "-v", "acme"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.split()[-1] == "debug=1"


def test_what_is_not_ours_or_of_another_driver_stays_out(machine):
    configure(machine, "options acme debug=7\n")
    configure(machine, "# outoftree.kmod other: made by\n", "etc/modprobe.d/outoftree.kmod-other.conf")
    run(machine)
    assert not [path for path in unpacked(machine) if "modprobe.d" in path]


def test_a_copy_that_the_shipped_image_has_of_a_file_that_is_gone_says_nothing_any_more(machine, content):
    machine.image(gzip.compress(cpio(dict(content, **{FILE: OPTIONS.encode()}))))
    run(machine)
    assert unpacked(machine)[FILE][1] == b""
    configure(machine, OPTIONS + "blacklist b\n")
    assert status(machine) == "replaced"
    assert unpacked(machine)[FILE][1].endswith(b"blacklist b\n")


def test_a_rebuilt_image_has_it_whatever_the_tool_takes_along(tmp_path, monkeypatch):
    machine, _tool = make(tmp_path, monkeypatch, "dracut")
    configure(machine)
    recipe = variant.Recipe(("acme",), method="rebuild")
    plan, answer = variant.present(Host(str(machine.root)), recipe)
    row = answer.applied(plan.apply()).as_dict()["variants"][0]
    files, error = kernel_simulator.unpack((machine.root / row["path"][1:]).read_bytes())
    assert error is None and files[FILE][1] == OPTIONS.encode()
    plan, _answer = variant.present(Host(str(machine.root)), recipe)
    assert not plan


@pytest.mark.parametrize("by", ["modprobe.d", "softdep", "weakdep"])
@pytest.mark.parametrize("word", ["i2c-dev", "char-major-89-7", "vendor:bus"])
def test_what_is_to_be_loaded_with_a_module_is_there_by_then_under_its_name_or_an_alias(machine, by, word):
    """Else modprobe goes on without it, in the initramfs alone."""
    bus = ko("i2c_dev", [LAYOUT], aliases=["char-major-89-*", "vendor:b?s"])
    machine.module("kernel/drivers/i2c-dev.ko", bus)
    if by == "modprobe.d":
        configure(machine, "# outoftree.kmod acme: made by\nsoftdep acme pre: %s\n" % word)
    else:
        said = {by: "pre: " + word if by == "softdep" else word}
        machine.module("extra/acme/acme.ko", ko("acme", [LAYOUT], modinfo=said))
    row = run(machine)[1]["variants"][0]
    assert row["dependencies"] == ["i2c_dev"]
    assert unpacked(machine)[TREE + "/kernel/drivers/i2c-dev.ko"][1] == bus


def test_an_out_of_tree_module_that_is_to_be_loaded_with_it_is_replaced_in_the_variant_too(machine):
    configure(machine, "# outoftree.kmod acme: made by\nsoftdep acme post: bus\n")
    for number in (1, 2):
        bus = ko("bus", [LAYOUT, ("turn", 1)], depends="core")
        core = ko("core", [LAYOUT], exports=[("turn", 1)], filler=b"core %d" % number)
        machine.module("updates/stack/bus.ko", bus)
        machine.module("updates/stack/core.ko", core)
        assert status(machine) == ("created" if number == 1 else "replaced")
        assert unpacked(machine)[TREE + "/updates/stack/core.ko"][1] == core
        assert status(machine) == "current"
