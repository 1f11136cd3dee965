# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a driver needs is in its variant: the modules with the symbols that it was built against, and its
firmware. Else there is no variant.
"""

import gzip
import os
import subprocess
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import variant
from ansible_collections.outoftree.kmod.plugins.module_utils.tools import Completed
from tests.forge.cpio import cpio
from tests.forge.initramfs import DEPMOD, Machine, modules
from tests.forge.ko import LAYOUT, RELEASE, ko
from tests.forge.symvers import EXPORTS, symvers
from tests.unit.place.initramfs import kernel_simulator

pytestmark = pytest.mark.skipif(not DEPMOD, reason="no depmod on this machine")

TREE = "usr/lib/modules/" + RELEASE
OLD, NEW = ("ib_post", 0x31), ("ib_post", 0x32)
CORE = ko("ib_core", exports=[OLD])
STACK = ko("ib_core", exports=[NEW], filler=b"the stack's")


@pytest.fixture
def machine(tmp_path):
    """A kernel with an ib_core, which its image holds too, and a driver for another one."""
    made = Machine(tmp_path / "host")
    made.module("kernel/ib_core.ko", CORE)
    table = made.root / "usr/src" / ("linux-headers-" + RELEASE) / "Module.symvers"
    table.parent.mkdir(parents=True)
    table.write_bytes(symvers([*EXPORTS, (*OLD, False, "", "kernel/ib_core")]))
    image(
        made,
        tmp_path,
        {"kernel/ib_core.ko": CORE, "kernel/user.ko": ko("user", depends="ib_core", needs=[LAYOUT, OLD])},
    )
    made.module("extra/acme/acme.ko", ko("acme", depends="ib_core", needs=[LAYOUT, NEW]))
    return made


def image(machine, tmp_path, files, more=None):
    machine.image(
        gzip.compress(
            cpio({"init": b"", "lib": "usr/lib", **modules(TREE, files, tmp_path / "built"), **(more or {})})
        )
    )


def run(machine, **options):
    plan, answer = variant.present(Host(str(machine.root)), variant.Recipe(("acme",), **options))
    result = answer.applied(plan.apply()).as_dict()
    return result["variants"][0]


def refused(machine):
    before = machine.snapshot()
    with pytest.raises(KmodError) as caught:
        run(machine)
    assert machine.snapshot() == before
    return caught.value.code, str(caught.value)


def unpacked(machine):
    files, error = kernel_simulator.unpack(machine.variant().read_bytes())
    assert error is None
    return files


def index(machine):
    return dict(line.split(":") for line in unpacked(machine)[TREE + "/modules.dep"][1].decode().splitlines())


def test_what_the_images_own_modules_would_not_load_is_refused(machine):
    code, told = refused(machine)
    assert code == "VARIANT_REFUSED" and "ib_post" in told and RELEASE in told


@pytest.mark.parametrize("place", ["updates/stack", "extra/stack"])
def test_the_out_of_tree_provider_that_the_kernel_has_comes_along(machine, place):
    (machine.root / "etc/depmod.d").mkdir(parents=True)
    (machine.root / "etc/depmod.d/x.conf").write_text("search updates extra built-in\n")
    machine.module(place + "/ib_core.ko", STACK)
    depmod(machine)
    row = run(machine)
    assert row["dependencies"] == ["ib_core"]
    assert unpacked(machine)["%s/%s/ib_core.ko" % (TREE, place)][1] == STACK
    assert index(machine)["updates/acme.ko"].split() == [place + "/ib_core.ko"]
    assert "kernel/ib_core.ko" not in index(machine)
    assert not variant.present(Host(str(machine.root)), variant.Recipe(("acme",)))[0]


def depmod(machine):
    subprocess.run(
        [DEPMOD, "-b", str(machine.root), "-C", str(machine.root / "etc/depmod.d"), RELEASE], check=True
    )


def test_a_provider_that_the_image_has_as_it_is_does_not_come_twice(machine, tmp_path):
    machine.module("updates/stack/ib_core.ko", STACK)
    image(machine, tmp_path, {"updates/stack/ib_core.ko": STACK})
    assert run(machine)["dependencies"] == []


def test_a_provider_that_the_kernel_no_longer_has_is_not_taken_from_the_image(machine, tmp_path):
    image(machine, tmp_path, {"updates/stack/ib_core.ko": STACK})
    code, _told = refused(machine)  # as the kernel itself would refuse it, by now
    assert code == "VARIANT_REFUSED"


def test_a_provider_that_only_a_symbol_tells_of_comes_along(machine):
    machine.module("kernel/helper.ko", ko("helper", exports=[("help_me", 5)]))
    table = machine.root / "usr/src" / ("linux-headers-" + RELEASE) / "Module.symvers"
    table.write_bytes(table.read_bytes() + symvers([("help_me", 5, False, "", "kernel/helper")]))
    machine.module("extra/acme/acme.ko", ko("acme", needs=[LAYOUT, ("help_me", 5)]))
    assert run(machine)["dependencies"] == ["helper"]
    assert index(machine)["updates/acme.ko"].split() == ["kernel/helper.ko"]


def test_a_symbol_that_another_module_of_the_stack_has_by_now_is_had_from_there(machine):
    machine.module("updates/stack/compat.ko", ko("compat", exports=[NEW]))
    machine.module("extra/acme/acme.ko", ko("acme", depends="compat", needs=[LAYOUT, NEW]))
    assert run(machine)["dependencies"] == ["compat"]
    assert index(machine)["updates/acme.ko"].split() == ["updates/stack/compat.ko"]


def test_a_link_that_dangles_is_no_provider(machine):
    machine.module("extra/acme/acme.ko", ko("acme", depends="ib_core", needs=[LAYOUT, OLD]))
    index_of = machine.root / "lib/modules" / RELEASE / "modules.dep"
    index_of.write_text(index_of.read_text().replace("kernel/ib_core.ko:", "weak-updates/ib_core.ko:"))
    assert run(machine)["dependencies"] == []


def test_a_module_that_was_built_with_other_options_is_refused(machine):
    machine.module("kernel/own.ko", ko("own", [LAYOUT], release=RELEASE, modinfo={"intree": "Y"}))
    machine.module("extra/acme/acme.ko", ko("acme", [LAYOUT], release=RELEASE, flags=" mod_unload "))
    assert refused(machine)[0] == "VARIANT_REFUSED"


@pytest.mark.parametrize("name", ["a b", "../x", "a;reboot", "a\nb", "x" * 60, "\u00e9"])
def test_names_of_modules_are_input(machine, name):
    data = ko("acme", [LAYOUT], release=RELEASE, modinfo={"name": name})
    (machine.root / "x.ko").write_bytes(data)
    with pytest.raises(KmodError) as caught:
        variant.present(Host(str(machine.root)), variant.Recipe(("acme",), ("/x.ko",)), [RELEASE])
    assert caught.value.code in ("MODULE_NAME", "MODULE_BAD")
    machine.module("extra/acme/acme.ko", ko("acme", depends="ib_core," + name))
    assert refused(machine)[0] in ("MODULE_NAME", "DEPENDENCY_MISSING")


@pytest.mark.parametrize(
    "file, path",
    [
        ("acme-1.07.02.ko", "updates/acme.ko"),
        ("acme x;y.ko", "updates/acme.ko"),
        ("ac-me.ko", "updates/ac-me.ko"),
    ],
)
def test_a_module_lies_under_the_name_that_it_is_loaded_by(machine, file, path):
    name = "ac_me" if file == "ac-me.ko" else "acme"
    (machine.root / file).write_bytes(ko(name, aliases=["pci:x"]))
    plan, answer = variant.present(
        Host(str(machine.root)), variant.Recipe(("acme",), ("/" + file,)), [RELEASE]
    )
    result = answer.applied(plan.apply()).as_dict()
    assert result["variants"][0]["modules"][0]["path"] == TREE + "/" + path
    assert ("alias pci:x %s\n" % name).encode() in unpacked(machine)[TREE + "/modules.alias"][1]


def test_an_index_that_leads_out_of_its_directory_is_not_followed(machine):
    (machine.root / "secret.ko").write_bytes(ko("secret"))
    (machine.root / "lib/modules" / RELEASE / "modules.dep").write_text(
        "extra/acme/acme.ko:\n../../../secret.ko:\n"
    )
    (machine.modules / "extra/acme/acme.ko").write_bytes(ko("acme", depends="secret"))
    assert refused(machine)[0] == "DEPENDENCY_MISSING"


# Firmware


def firmware(machine, *names):
    for name in names:
        path = machine.root / "lib/firmware" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def test_a_pattern_stands_for_the_files_that_the_host_has(machine, tmp_path):
    firmware(
        machine,
        "acme/fw-1.bin",
        "acme/fw-2.bin.xz",
        "acme/fw-22.bin.zst",
        "acme/other.bin",
        "acme/deep/fw-3.bin",
        "acme/fw-4.binx",
        "fw-5.bin",
        "updates/acme/fw-6.bin",
    )
    image(machine, tmp_path, {}, {"usr/lib/firmware/acme/fw-2.bin": b"there"})
    machine.module(
        "extra/acme/acme.ko", ko("acme", firmware=["acme/fw-*.bin", "none-?.bin", "*/*/fw-3.bi[n]"])
    )
    row = run(machine)
    assert row["firmware"] == [
        "lib/firmware/acme/deep/fw-3.bin",
        "lib/firmware/acme/fw-1.bin",
        "lib/firmware/acme/fw-22.bin.zst",
        "lib/firmware/updates/acme/fw-6.bin",
    ]
    assert row["firmware_missing"] == ["none-?.bin"]


def test_a_pattern_for_what_the_image_has_is_not_missing(machine, tmp_path):
    image(machine, tmp_path, {}, {"usr/lib/firmware/acme/fw-2.bin.xz": b"there"})
    machine.module("extra/acme/acme.ko", ko("acme", firmware=["acme/fw-*.bin"]))
    row = run(machine)
    assert row["firmware"] == [] and row["firmware_missing"] == []


def test_a_pattern_is_bounded(machine):
    firmware(machine, *["acme/%d.bin" % number for number in range(300)])
    machine.module("extra/acme/acme.ko", ko("acme", firmware=["*/*"]))
    row = run(machine)
    assert row["firmware"] == [] and row["firmware_missing"] == ["*/*"]


@pytest.mark.parametrize(
    "name",
    ["../../secret", "/etc/passwd", "a\nb", "x" * 300, "a/./b", "\x1b[31m", "*/../../*", "loop", "fifo"],
)
def test_names_of_firmware_are_input(machine, name):
    (machine.root / "secret").write_bytes(b"secret")
    (machine.root / "lib/firmware").mkdir()
    (machine.root / "lib/firmware/loop").symlink_to("loop")
    os.mkfifo(str(machine.root / "lib/firmware/fifo"))
    machine.module("extra/acme/acme.ko", ko("acme", firmware=[name]))
    row = run(machine)
    assert (
        row["firmware"] == []
        and len(row["firmware_missing"]) == 1
        and row["firmware_missing"][0].isprintable()
    )


# depmod is not believed


@pytest.mark.parametrize(
    "how", ["nothing", "empty dep", "half dep", "empty bin", "garbage bin", "half bin", "bin of others"]
)
def test_an_index_that_is_not_whole_is_noticed(machine, how, monkeypatch):
    machine.module("extra/acme/acme.ko", ko("acme"))
    real = Host.run

    def run_(self, argv, **options):
        if argv[0] != "depmod" or "-C" not in argv:
            return real(self, argv, **options)
        base = "%s/usr/lib/modules/%s/" % (argv[argv.index("-b") + 1], RELEASE)
        if how == "nothing":
            return Completed(0, "", "")
        if how == "bin of others":
            os.rename(base + "updates", base + "away")
            real(self, argv, **options)
            data = Path(base + "modules.dep.bin").read_bytes()
            os.rename(base + "away", base + "updates")
            real(self, argv, **options)
        else:
            real(self, argv, **options)
            name = "modules.dep" + (".bin" if "bin" in how else "")
            whole = Path(base + name).read_bytes()
            data = {"empty": b"", "half": whole[: len(whole) // 2], "garbage": b"x" * 100}[how.split()[0]]
        with open(base + ("modules.dep.bin" if "bin" in how else "modules.dep"), "wb") as handle:
            handle.write(data)
        return Completed(0, "", "")

    monkeypatch.setattr(Host, "run", run_)
    assert refused(machine)[0] == "TOOL_FAILED"
