# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a kernel exports comes from the best source that agrees with its own modules, and from none that does
not.
"""

import os

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.judge import loader
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels, ko
from ansible_collections.outoftree.kmod.plugins.module_utils.read.exports import Export
from tests.forge import families, images
from tests.forge import ko as forged
from tests.forge.compressors import BY_LIBRARY
from tests.forge.ko import RELEASE

LAYOUT = images.LAYOUTS["6.1"]
VMLINUX = images.symbols(LAYOUT)
SCSI = forged.Export("scsi_add_host", 0x66, False, "SCSI")
SYMVERS = tuple(
    (name, export.crc, export.gpl, export.namespace, "vmlinux") for name, export in VMLINUX.items()
) + (("scsi_add_host", 0x66, False, "SCSI", "drivers/scsi/scsi_mod"),)
EXPECTED = dict(VMLINUX, scsi_add_host=Export(0x66, False, "SCSI", "scsi_mod"))
STALE = tuple((name, crc ^ 1, gpl, namespace, module) for name, crc, gpl, namespace, module in SYMVERS)
IN_TREE = [("module_layout", VMLINUX["module_layout"].crc), ("kfree", VMLINUX["kfree"].crc)]


def own(name, exports=(), needs=IN_TREE):  # pylint: disable=dangerous-default-value
    return forged.ko(name, needs, modinfo={"intree": "Y"}, exports=exports)


class Machine:
    """A kernel below a root, with or without its sources of exports."""

    def __init__(self, root, symvers=SYMVERS, image=True):
        in_tree = {"drivers/scsi/scsi_mod.ko": own("scsi_mod", [SCSI]), "lib/plain.ko": own("plain")}
        self.top = families.kernel(root, exports=symvers, in_tree=in_tree, init=None)
        (self.top / "kernel/drivers/net/dummy.ko").unlink()  # built for other exports
        if image:
            (root / "boot" / ("vmlinuz-" + RELEASE)).write_bytes(
                images.bzimage(images.payload("xz", images.vmlinux(LAYOUT, VMLINUX)))
            )
        self.root = root

    def add(self, path, data):
        (self.top / path).parent.mkdir(parents=True, exist_ok=True)
        (self.top / path).write_bytes(data)

    def kernel(self, keeps_cache=False):
        host = Host(str(self.root))
        host.keeps_cache = keeps_cache
        return kernels.kernel(host, RELEASE)


def codes(kernel):
    return [note.code for note in kernel.export_notes]


def test_symvers_that_agrees_is_believed(tmp_path):
    kernel = Machine(tmp_path, image=False).kernel()
    assert kernel.exports == EXPECTED
    assert codes(kernel) == []


def test_without_symvers_the_image_and_the_modules_say_the_same(tmp_path):
    kernel = Machine(tmp_path, symvers=None).kernel()
    assert kernel.exports == EXPECTED
    assert codes(kernel) == []


def test_stale_symvers_is_noticed_and_the_image_believed(tmp_path):
    kernel = Machine(tmp_path, symvers=STALE).kernel()
    assert kernel.exports == EXPECTED
    assert codes(kernel) == ["KERNEL_SYMVERS_STALE"]
    assert "CRC" in kernel.export_notes[0].message


def test_symvers_that_lacks_what_a_module_needs_is_stale(tmp_path):
    kernel = Machine(tmp_path, symvers=tuple(row for row in SYMVERS if row[0] != "kfree")).kernel()
    assert kernel.exports == EXPECTED
    assert codes(kernel) == ["KERNEL_SYMVERS_STALE"]


def test_damaged_symvers_is_named_and_the_image_believed(tmp_path):
    machine = Machine(tmp_path)
    (tmp_path / "usr/src" / ("linux-headers-" + RELEASE) / "Module.symvers").write_bytes(
        b"\x1f\x8b\x08 no more than that"
    )
    assert machine.kernel().exports == EXPECTED
    assert codes(machine.kernel()) == ["COMP_CORRUPT"]


@pytest.mark.parametrize("symvers", [None, STALE])
def test_nothing_is_guessed_where_no_source_is_left(tmp_path, symvers):
    kernel = Machine(tmp_path, symvers=symvers, image=False).kernel()
    with pytest.raises(KmodError) as error:
        assert kernel.exports is None
    assert error.value.code == "KERNEL_NO_CRC_SOURCE"
    assert codes(kernel)[-2:] == ["KERNEL_IMAGE_UNKNOWN", "KERNEL_NO_CRC_SOURCE"]


def test_an_image_of_another_build_is_not_believed(tmp_path):
    machine = Machine(tmp_path, symvers=None)
    machine.add("kernel/lib/plain.ko", own("plain", needs=[("module_layout", 1)]))
    assert codes(machine.kernel()) == ["KERNEL_IMAGE_MISMATCH", "KERNEL_NO_CRC_SOURCE"]


def test_a_vendors_module_written_over_the_kernels_own_is_no_witness(tmp_path):
    machine = Machine(tmp_path)
    machine.add("kernel/lib/plain.ko", forged.ko("plain", [("module_layout", 1)]))
    assert codes(machine.kernel()) == []


@pytest.mark.parametrize("symvers", [SYMVERS, None])
def test_a_module_in_updates_shadows_the_kernels_own(tmp_path, symvers):
    machine = Machine(tmp_path, symvers=symvers)
    machine.add(
        "updates/scsi_mod.ko.xz", BY_LIBRARY["xz"](own("scsi_mod", [forged.Export("scsi_new", 0x77, True)]))
    )
    exports = machine.kernel().exports
    assert "scsi_add_host" not in exports
    assert exports["scsi_new"] == Export(0x77, True, "", "scsi_mod")


@pytest.mark.parametrize("symvers", [SYMVERS, None])
def test_what_an_installed_vendor_module_exports_is_there(tmp_path, symvers):
    machine = Machine(tmp_path, symvers=symvers)
    machine.add("extra/vendor.ko", forged.ko("vendor", IN_TREE, exports=[forged.Export("vendor_do", 0x88)]))
    assert machine.kernel().exports == dict(EXPECTED, vendor_do=Export(0x88, False, "", "vendor"))


def test_what_is_in_symvers_but_not_installed_is_not_there(tmp_path):
    machine = Machine(tmp_path)
    (machine.top / "kernel/drivers/scsi/scsi_mod.ko").unlink()
    assert machine.kernel().exports == VMLINUX


def test_a_module_that_cannot_be_read_exports_nothing(tmp_path):
    machine = Machine(tmp_path, symvers=None)
    machine.add("kernel/drivers/scsi/scsi_mod.ko", b"\x7fELF __ksymtab")
    machine.add("kernel/lib/x.ko.xz", b"\xfd7zXZ\0 __ksymtab")
    assert machine.kernel().exports == VMLINUX


@pytest.mark.parametrize("symvers", [SYMVERS, None])
@pytest.mark.parametrize("code", ["COMP_UNSUPPORTED", "EACCES", "PYELFTOOLS_MISSING"])
def test_what_this_machine_cannot_read_is_unknown_rather_than_not_exported(
    tmp_path, monkeypatch, symvers, code
):
    machine = Machine(tmp_path, symvers=symvers)

    def fail(data, path, *_):
        raise KmodError(path, "cannot be read here", code=code)

    monkeypatch.setattr(ko, "exports", fail)
    machine.add("updates/scsi_mod.ko", own("scsi_mod", [forged.Export("scsi_new", 0x77, True)]))
    machine.add("kernel/lib/other.ko", own("other", [forged.Export("other", 0x78, True)]))
    assert codes(machine.kernel())[-1] == "KERNEL_NO_CRC_SOURCE" and code in codes(machine.kernel())


def test_modules_symbols_saves_reading_the_modules_that_export_nothing(tmp_path):
    machine = Machine(tmp_path, symvers=None)
    machine.add(
        "modules.symbols",
        b"# Aliases for symbols, used by symbol_request().\nalias symbol:scsi_add_host scsi_mod\n",
    )
    assert machine.kernel().exports == EXPECTED


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root keeps a cache")


def listing(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@as_root
def test_the_second_reading_comes_from_the_cache(tmp_path, monkeypatch):
    machine = Machine(tmp_path, symvers=None)
    (tmp_path / "var/cache").mkdir(parents=True)
    assert machine.kernel(keeps_cache=True).exports == EXPECTED
    there = listing(tmp_path)
    assert "var/cache/outoftree.kmod/" + RELEASE in there
    monkeypatch.setattr(
        "ansible_collections.outoftree.kmod.plugins.module_utils.read.kernel_image.unpack", None
    )
    stamp = os.stat(str(tmp_path / "var/cache/outoftree.kmod")).st_mtime_ns
    assert machine.kernel(keeps_cache=True).exports == EXPECTED
    assert listing(tmp_path) == there
    assert os.stat(str(tmp_path / "var/cache/outoftree.kmod")).st_mtime_ns == stamp


@as_root
def test_a_changed_module_makes_the_cache_old(tmp_path):
    machine = Machine(tmp_path, symvers=None)
    (tmp_path / "var/cache").mkdir(parents=True)
    assert "scsi_new" not in machine.kernel(keeps_cache=True).exports
    machine.add("kernel/drivers/scsi/scsi_mod.ko", own("scsi_mod", [forged.Export("scsi_new", 0x77)]))
    assert "scsi_new" in machine.kernel(keeps_cache=True).exports


@as_root
@pytest.mark.parametrize("symvers,keeps_cache", [(None, False), (SYMVERS, True)])
def test_nothing_is_written_in_check_mode_nor_where_reading_was_quick(tmp_path, symvers, keeps_cache):
    machine = Machine(tmp_path, symvers=symvers)
    (tmp_path / "var/cache").mkdir(parents=True)
    there = listing(tmp_path)
    assert machine.kernel(keeps_cache).exports == EXPECTED
    assert listing(tmp_path) == there


def test_a_source_that_was_not_believed_is_noted_in_the_verdict(tmp_path):
    kernel = Machine(tmp_path, symvers=STALE).kernel()
    module = ko.parse(forged.ko("vendor", IN_TREE), "vendor.ko")
    (verdict,) = loader.judge(kernel, [module])
    assert verdict.verdict == "compatible"
    assert ("KERNEL_SYMVERS_STALE", "note") in [
        (finding.code, finding.effect) for finding in verdict.findings
    ]


def test_vermagic_comes_from_the_image_where_no_module_is_left(tmp_path):
    machine = Machine(tmp_path)
    for path in list(machine.top.rglob("*.ko")):
        path.unlink()
    assert machine.kernel().vermagic == "6.1.0-1-test SMP preempt mod_unload modversions "
