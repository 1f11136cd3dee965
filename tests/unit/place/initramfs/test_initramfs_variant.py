# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A variant is the shipped image and the driver: nothing lost, nothing shipped touched, the same bytes each
time.
"""

import errno
import gzip
import hashlib
import json
import os
import shutil

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils import compression, decoders
from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import (
    existing,
    image,
    manifest,
    variant,
)
from tests.forge.compressors import COMPRESSIONS
from tests.forge.cpio import cpio
from tests.forge.initramfs import DEPMOD, Machine, modules
from tests.forge.ko import RELEASE, ko
from tests.unit.place.initramfs import kernel_simulator

pytestmark = pytest.mark.skipif(not DEPMOD, reason="no depmod on this machine")

DRIVER = ko("acme", aliases=["pci:v00001234d000011E8sv*sd*bc*sc*i*"], filler=b"driver 1")
TREE = "usr/lib/modules/" + RELEASE
REQUEST = variant.Recipe(("acme",))


@pytest.fixture
def content(tmp_path):
    """What a shipped image holds: a merged /usr, a few modules with their indexes, an init."""
    files = {"kernel/a.ko": ko("a", aliases=["pci:a"]), "kernel/b.ko": ko("b", depends="a")}
    found = {
        "init": b"#!/bin/sh\n",
        "lib": "usr/lib",
        "usr/lib/systemd/systemd-udevd": b"udevd",
        "etc/hostname": b"x\n",
    }
    found.update(
        modules(
            TREE,
            files,
            tmp_path,
            modules_order=b"kernel/b.ko\nkernel/a.ko\n",
            modules_builtin=b"kernel/crypto/sha1.ko\n",
        )
    )
    return found


@pytest.fixture
def machine(tmp_path, content):
    made = Machine(tmp_path / "host")
    made.image(gzip.compress(cpio(content)))
    made.module("extra/acme/acme.ko", DRIVER)
    return made


def run(machine, request=REQUEST, kernels=()):
    plan, answer = variant.present(Host(str(machine.root)), request, kernels)
    result = answer.applied(plan.apply()).as_dict()
    return plan, result


def unpacked(machine, number=1):
    data = (machine.root / "boot" / ("initrd.img-%s.%d" % (RELEASE, number))).read_bytes()
    files, error = kernel_simulator.unpack(data)
    assert error is None
    return files


def error_of(machine, request=REQUEST, kernels=()):
    """The code of the refusal, which has left the tree as it was."""
    before = machine.snapshot()
    with pytest.raises(KmodError) as caught:
        run(machine, request, kernels)
    assert machine.snapshot() == before
    return caught.value.code


def test_the_variant_starts_with_the_shipped_image_and_the_kernel_finds_the_driver_in_it(machine):
    shipped = machine.base.read_bytes()
    before, _error = kernel_simulator.unpack(shipped)
    _plan, result = run(machine)
    (row,) = result["variants"]
    made = (machine.root / row["path"][1:]).read_bytes()
    assert machine.base.read_bytes() == shipped and made.startswith(shipped)
    after = unpacked(machine)
    assert after[TREE + "/updates/acme.ko"][1] == DRIVER
    assert "updates/acme.ko:" in after[TREE + "/modules.dep"][1].decode()
    assert b"pci:v00001234d000011E8sv*sd*bc*sc*i* acme" in after[TREE + "/modules.alias"][1]
    changed = {path for path in before if after.get(path) != before[path]}
    assert all(path.startswith(TREE + "/modules.") for path in changed)
    assert after["lib"] == before["lib"]


def test_the_row_says_what_was_made(machine):
    (row,) = run(machine)[1]["variants"]
    made = (machine.root / row["path"][1:]).read_bytes()
    assert row["sha256"] == hashlib.sha256(made).hexdigest()
    assert row["size"] == len(made) == machine.base.stat().st_size + row["bytes_added"]
    assert row["base_sha256"] == hashlib.sha256(machine.base.read_bytes()).hexdigest()
    assert (row["kernel"], row["status"], row["method"], row["drivers"]) == (
        RELEASE,
        "created",
        "overlay",
        ["acme"],
    )
    assert row["path"] == row["base"] + ".1" and row["initrds"] == [row["path"]]
    assert [(module["name"], module["path"], module["sha256"]) for module in row["modules"]] == [
        ("acme", TREE + "/updates/acme.ko", hashlib.sha256(DRIVER).hexdigest())
    ]


def test_mode_and_owner_are_those_of_the_shipped_image(machine):
    machine.base.chmod(0o640)
    run(machine)
    made = (machine.root / "boot" / (machine.base.name + ".1")).stat()
    assert (made.st_mode & 0o777, made.st_uid, made.st_gid) == (
        0o640,
        machine.base.stat().st_uid,
        machine.base.stat().st_gid,
    )


def test_a_second_run_writes_nothing_and_runs_no_tool(machine, monkeypatch):
    first = run(machine)[1]["variants"][0]
    monkeypatch.setattr(Host, "run", lambda *arguments, **options: pytest.fail("a tool was run"))
    monkeypatch.setattr(
        "os.mkdir", lambda *arguments, **options: pytest.fail("a temporary directory was made")
    )
    plan, result = run(machine)
    assert not plan
    assert result["variants"][0] == dict(first, status="current")


def test_check_mode_writes_nothing_and_predicts_the_digest(machine):
    before = machine.snapshot()
    plan, answer = variant.present(Host(str(machine.root)), REQUEST)
    result = answer.as_dict()
    assert machine.snapshot() == before and plan
    assert run(machine)[1] == result
    made = (machine.root / result["variants"][0]["path"][1:]).read_bytes()
    assert hashlib.sha256(made).hexdigest() == result["variants"][0]["sha256"]


def test_the_same_input_gives_the_same_bytes(machine, tmp_path):
    run(machine)
    path = machine.root / "boot" / (machine.base.name + ".1")
    first = path.read_bytes()
    path.unlink()
    run(machine)
    assert path.read_bytes() == first


def test_removal_leaves_the_tree_as_it_was(machine):
    before = machine.snapshot()
    run(machine)
    plan, answer = variant.absent(Host(str(machine.root)), ["acme"])
    result = answer.applied(plan.apply()).as_dict()
    assert machine.snapshot() == before
    assert [row["status"] for row in result["variants"]] == ["removed"]
    assert not variant.absent(Host(str(machine.root)), ["acme"])[0]


def test_a_new_shipped_image_makes_the_variant_stale(machine, content):
    first = run(machine)[1]["variants"][0]
    machine.image(gzip.compress(cpio(dict(content, new=b"1"))))
    second = run(machine)[1]["variants"][0]
    assert (
        second["status"] == "replaced"
        and second["path"] == first["path"]
        and second["sha256"] != first["sha256"]
    )
    assert unpacked(machine)["new"][1] == b"1"


def test_a_new_version_of_the_driver_replaces_the_variant(machine):
    run(machine)
    machine.module("extra/acme/acme.ko", ko("acme", filler=b"driver 2"))
    assert run(machine)[1]["variants"][0]["status"] == "replaced"
    assert unpacked(machine)[TREE + "/updates/acme.ko"][1] == ko("acme", filler=b"driver 2")


@pytest.mark.parametrize("where", [b"microcode", b"070701", b"ELF"])
def test_a_damaged_variant_is_made_again(machine, where):
    machine.image(cpio({"microcode": b"", "init": b""}))
    sha256 = run(machine)[1]["variants"][0]["sha256"]
    path = machine.root / "boot" / (machine.base.name + ".1")
    path.write_bytes(path.read_bytes().replace(where, where.lower()[::-1], 1))
    assert run(machine)[1]["variants"][0]["status"] == "replaced"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert machine.boot() == [machine.base.name, machine.base.name + ".1", "vmlinuz-" + RELEASE]


def test_the_smallest_free_number_is_taken_and_foreign_files_stay(machine):
    for number in (1, 3):
        (machine.root / "boot" / ("%s.%d" % (machine.base.name, number))).write_bytes(b"somebody's")
    assert run(machine)[1]["variants"][0]["path"].endswith(".2")
    assert not run(machine)[0]
    variant.absent(Host(str(machine.root)), ["acme"])[0].apply()
    assert machine.boot() == [
        machine.base.name,
        machine.base.name + ".1",
        machine.base.name + ".3",
        "vmlinuz-" + RELEASE,
    ]


def test_each_driver_has_a_variant_of_its_own_and_two_can_share_one(machine):
    machine.module("extra/other/other.ko", ko("other"))
    for drivers in (("acme",), ("other",), ("other", "acme")):
        run(machine, variant.Recipe(drivers))
    assert unpacked(machine, 3)[TREE + "/updates/other.ko"][1] == ko("other")
    assert TREE + "/updates/acme.ko" in unpacked(machine, 3)
    variant.absent(Host(str(machine.root)), ["acme"])[0].apply()
    assert [each.path[-2:] for each in existing.found(Host(str(machine.root)))] == [".2"]


def test_an_in_tree_namesake_loses(machine, content, tmp_path):
    files = {
        "kernel/drivers/acme.ko": ko("acme", filler=b"in-tree"),
        "kernel/user.ko": ko("user", depends="acme"),
    }
    machine.image(COMPRESSIONS["zstd"](cpio({**content, **modules(TREE, files, tmp_path / "more")})))
    run(machine)
    listed = unpacked(machine)[TREE + "/modules.dep"][1].decode()
    assert "updates/acme.ko:" in listed and "kernel/drivers/acme.ko:" not in listed
    assert unpacked(machine)[TREE + "/updates/acme.ko"][1] == DRIVER


def test_a_compressed_module_goes_in_uncompressed(machine):
    (machine.modules / "extra/acme/acme.ko").unlink()
    machine.module("extra/acme/acme.ko.xz", COMPRESSIONS["xz"](DRIVER))
    run(machine)
    assert unpacked(machine)[TREE + "/updates/acme.ko"][1] == DRIVER


def test_a_weak_link_is_followed(machine):
    target = machine.root / "lib/modules/5.0-other/extra/acme/acme.ko"
    target.parent.mkdir(parents=True)
    shutil.move(str(machine.modules / "extra/acme/acme.ko"), str(target))
    (machine.modules / "weak-updates/acme").mkdir(parents=True)
    (machine.modules / "weak-updates/acme/acme.ko").symlink_to("/lib/modules/5.0-other/extra/acme/acme.ko")
    (machine.modules / "modules.dep").write_text("weak-updates/acme/acme.ko:\n")
    run(machine)
    assert unpacked(machine)[TREE + "/updates/acme.ko"][1] == DRIVER


def test_what_the_driver_depends_on_comes_with_it_where_the_image_lacks_it(machine):
    machine.module("kernel/lib/far.ko", ko("far"))
    machine.module("kernel/lib/near.ko", ko("near", depends="far"))
    machine.module("kernel/a.ko", ko("a"))
    machine.module("extra/acme/acme.ko", ko("acme", depends="near,a,sha1"))
    (row,) = run(machine)[1]["variants"]
    assert row["dependencies"] == ["far", "near"]
    assert unpacked(machine)[TREE + "/kernel/lib/far.ko"][1] == ko("far")


def test_a_dependency_that_is_nowhere_is_named(machine):
    machine.module("extra/acme/acme.ko", ko("acme", depends="nowhere"))
    assert error_of(machine) == "DEPENDENCY_MISSING"


def test_firmware_comes_along_where_the_host_has_it(machine):
    (machine.root / "lib/firmware/acme").mkdir(parents=True)
    (machine.root / "lib/firmware/acme/fw.bin.xz").write_bytes(b"firmware")
    (machine.root / "secret").write_bytes(b"secret")
    machine.module(
        "extra/acme/acme.ko", ko("acme", firmware=["acme/fw.bin", "acme/none.bin", "../../secret"])
    )
    (row,) = run(machine)[1]["variants"]
    assert unpacked(machine)["usr/lib/firmware/acme/fw.bin.xz"][1] == b"firmware"
    assert row["firmware"] == ["lib/firmware/acme/fw.bin.xz"] and row["firmware_missing"] == [
        "../../secret",
        "acme/none.bin",
    ]


def test_firmware_that_the_image_has_is_left_alone(machine, content):
    machine.image(gzip.compress(cpio(dict(content, **{"usr/lib/firmware/fw.bin.zst": b"there"}))))
    (machine.root / "lib/firmware").mkdir()
    (machine.root / "lib/firmware/fw.bin").write_bytes(b"host")
    machine.module("extra/acme/acme.ko", ko("acme", firmware=["fw.bin"]))
    assert run(machine)[1]["variants"][0]["firmware"] == []


@pytest.mark.parametrize("tree", ["lib/modules/" + RELEASE, TREE])
def test_the_modules_go_where_the_image_has_its_own(machine, tmp_path, tree):
    machine.image(cpio({"init": b"", **modules(tree, {"kernel/a.ko": ko("a")}, tmp_path / "more")}))
    run(machine)
    assert unpacked(machine)[tree + "/updates/acme.ko"][1] == DRIVER


@pytest.mark.parametrize(
    "content, place",
    [
        ({"init": b""}, "lib/modules/"),
        ({"init": b"", "lib": "usr/lib", "usr/lib": None}, "usr/lib/modules/"),
        ({"init": b"", "lib/modules": None}, "lib/modules/"),
    ],
)
def test_an_image_without_modules_gets_a_tree_for_them(machine, content, place):
    machine.image(gzip.compress(cpio(content)))
    run(machine)
    assert unpacked(machine)[place + RELEASE + "/updates/acme.ko"][1] == DRIVER
    assert unpacked(machine)[place + RELEASE + "/modules.dep"][1] == b"updates/acme.ko:\n"


@pytest.mark.parametrize("kind", sorted(COMPRESSIONS))
def test_every_compression_can_be_built_upon(machine, content, kind, request):
    early = cpio({"kernel/x86/microcode/AuthenticAMD.bin": b"microcode"})
    machine.image(early + bytes(-len(early) % 512) + COMPRESSIONS[kind](cpio(content)))
    run(machine)
    assert unpacked(machine)[TREE + "/updates/acme.ko"][1] == DRIVER


@pytest.mark.parametrize("extra", range(4))
def test_the_segment_is_aligned_whatever_the_length_of_the_image(machine, extra):
    machine.image(machine.base.read_bytes() + bytes(extra))
    run(machine)
    data = (machine.root / "boot" / (machine.base.name + ".1")).read_bytes()
    found = manifest.find(Host(str(machine.root)), "/boot/" + machine.base.name + ".1")
    pad = len(data[found.head[0] :]) - len(data[found.head[0] :].lstrip(b"\0"))
    assert pad >= 8 and (found.head[0] + pad) % 512 == 0 and len(data) % 512 == 0


def test_a_segment_alone_needs_no_copy(machine):
    (row,) = run(machine, REQUEST._replace(method="segment"))[1]["variants"]
    alone = (machine.root / row["path"][1:]).read_bytes()
    shipped = machine.base.read_bytes()
    assert row["initrds"] == [row["base"], row["path"]] and row["bytes_added"] == len(alone)
    assert alone.startswith(bytes(512))
    for padding in range(4):  # the loader's, or none
        if (len(shipped) + padding) % 4 == 0:
            files, error = kernel_simulator.unpack(shipped + bytes(padding) + alone)
            assert error is None and files[TREE + "/updates/acme.ko"][1] == DRIVER


@pytest.mark.parametrize(
    "marks, path, text",
    [
        (
            {"scripts/functions": b"", "conf/initramfs.conf": b""},
            "conf/conf.d/zz-kmod-acme",
            "modprobe -q acme || :\n",
        ),
        ({"usr/lib/systemd/systemd": b""}, "etc/modules-load.d/kmod-acme.conf", "acme\n"),
        (
            {"usr/lib/dracut/hooks/pre-udev": None},
            "usr/lib/dracut/hooks/pre-udev/00-kmod-acme.sh",
            "modprobe -q acme || :\n",
        ),
        ({"pre-udev": None}, "pre-udev/00-kmod-acme.sh", "modprobe -q acme || :\n"),
    ],
)
def test_early_loading_in_each_kind_of_image(machine, content, marks, path, text):
    machine.image(gzip.compress(cpio({"usr/lib": None, "lib": "usr/lib", **marks})))
    run(machine, REQUEST._replace(early_load=True))
    assert unpacked(machine)[path][1].decode() == text


def test_early_loading_is_refused_where_the_init_is_unknown(machine):
    assert error_of(machine, REQUEST._replace(early_load=True)) == "EARLY_UNSUPPORTED"


def test_the_manifest_in_the_image_says_what_it_was_made_of(machine):
    run(machine)
    data = json.loads(unpacked(machine)["etc/outoftree-kmod.json"][1].decode())
    assert data["wants"]["base"]["sha256"] == hashlib.sha256(machine.base.read_bytes()).hexdigest()
    assert data["wants"]["modules"] == [["acme", hashlib.sha256(DRIVER).hexdigest()]]


def test_variants_of_kernels_that_are_gone_are_pruned(machine):
    machine.module("extra/other/other.ko", ko("other"))
    run(machine)
    machine.base.unlink()
    (machine.root / "boot" / ("vmlinuz-" + RELEASE)).unlink()
    shutil.rmtree(str(machine.modules / "kernel"))
    plan, result = run(machine)
    assert (
        result == {"variants": [], "pruned": ["/boot/%s.1" % machine.base.name]}
        and machine.all_in_boot() == []
    )


def test_a_kernel_between_two_images_keeps_its_variant(machine):
    run(machine)
    machine.base.unlink()
    assert error_of(machine) == "INITRD_MISSING"


def test_modules_can_be_named(machine):
    (machine.root / "vendor.ko").write_bytes(ko("vendor"))
    run(machine, variant.Recipe(("vendor",), ("/vendor.ko",)), [RELEASE])
    assert unpacked(machine)[TREE + "/updates/vendor.ko"][1] == ko("vendor")


def test_two_builds_of_a_module_are_refused(machine):
    (machine.root / "acme.ko").write_bytes(ko("acme", filler=b"2"))
    assert (
        error_of(
            machine,
            REQUEST._replace(modules=("/acme.ko", "/lib/modules/%s/extra/acme/acme.ko" % RELEASE)),
            [RELEASE],
        )
        == "MODULE_TWICE"
    )


def test_a_kernel_without_the_driver_is_an_error_when_it_is_named(machine):
    assert error_of(machine, variant.Recipe(("none",)), [RELEASE]) == "DRIVER_MISSING"
    assert run(machine, variant.Recipe(("none",)))[1] == {"variants": [], "pruned": []}


@pytest.mark.parametrize("name", ["squash-root.img", "squashfs-root.img", "erofs-root.img"])
@pytest.mark.parametrize("method", ["auto", "overlay", "segment", "rebuild"])
def test_an_image_in_a_squash_is_refused(machine, name, method):
    machine.image(gzip.compress(cpio({name: b"hsqs"})))
    assert error_of(machine, REQUEST._replace(method=method)) == "INITRD_SQUASH"


def test_a_nash_image_is_refused(machine):
    machine.image(gzip.compress(cpio({"bin/nash": b"", "init": b"insmod x"})))
    assert error_of(machine, REQUEST._replace(method="overlay")) == "INITRD_NASH"


def test_lz4_is_refused_where_the_kernel_cannot_skip_the_padding(tmp_path, content):
    old = Machine(tmp_path / "old", "5.4.0-1")
    old.image(COMPRESSIONS["lz4"](cpio(content)))
    old.module("extra/acme/acme.ko", DRIVER)
    assert error_of(old, REQUEST._replace(method="overlay")) == "INITRD_LZ4"


def test_a_unified_kernel_image_is_refused(machine):
    machine.base.unlink()
    path = machine.root / "boot/efi/EFI/Linux" / (RELEASE + ".efi")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"MZ")
    assert error_of(machine) == "INITRD_UKI"


def test_a_directory_as_image_is_refused(machine):
    machine.base.unlink()
    machine.base.mkdir()
    assert error_of(machine) == "INITRD_NOT_FILE"


def test_a_symlink_out_of_boot_is_refused(machine):
    machine.base.rename(machine.root / "elsewhere.img")
    machine.base.symlink_to("../elsewhere.img")
    assert error_of(machine) == "INITRD_OUTSIDE"


def test_a_symlink_within_boot_is_followed(machine):
    machine.base.rename(machine.root / "boot/real.img")
    machine.base.symlink_to("real.img")
    assert run(machine)[1]["variants"][0]["path"] == "/boot/real.img.1"


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", b"070701", gzip.compress(b"no cpio at all")],
    ids=("empty", "garbage", "cut off", "no archive"),
)
def test_damaged_images_are_refused(machine, data):
    machine.image(data)
    assert error_of(machine) in ("INITRD_DAMAGED", "COMP_CORRUPT")


def test_a_truncated_image_is_refused(machine):
    machine.image(machine.base.read_bytes()[:-100])
    assert error_of(machine) == "COMP_CORRUPT"


def test_a_file_that_is_no_module_is_refused(machine):
    (machine.root / "text.ko").write_bytes(b"hello")
    assert error_of(machine, REQUEST._replace(modules=("/text.ko",)), [RELEASE]) == "MODULE_BAD"


def test_a_base_that_changes_before_the_copy_leaves_nothing_behind(machine, content):
    plan, _result = variant.present(Host(str(machine.root)), REQUEST)
    machine.image(gzip.compress(cpio(dict(content, new=b"1"))))
    before = machine.snapshot()
    with pytest.raises(KmodError) as caught:
        plan.apply()
    assert caught.value.code == "FILE_CHANGED" and machine.snapshot() == before


def test_a_base_that_changes_while_it_is_read_is_noticed(machine, monkeypatch):
    real = image.unpack

    def slow(*arguments, **options):
        found = real(*arguments, **options)
        with open(str(machine.base), "ab") as handle:
            handle.write(b"more")
        return found

    monkeypatch.setattr(image, "unpack", slow)
    with pytest.raises(KmodError) as caught:
        run(machine)
    assert caught.value.code == "INITRD_CHANGED"


def test_too_little_space_is_said_before_anything_is_written(machine, monkeypatch):
    monkeypatch.setattr(Host, "free", lambda self, path: 1000)
    assert error_of(machine) == "BOOT_FULL"


def test_a_full_file_system_leaves_nothing_half_written(machine, monkeypatch):
    real, written = os.write, []

    def full(handle, data):
        written.append(len(data))
        if sum(written) > 3000:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(handle, data[:500])

    before = machine.snapshot()
    plan, _result = variant.present(Host(str(machine.root)), REQUEST)
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(KmodError) as caught:
        plan.apply()
    monkeypatch.undo()
    assert caught.value.code == "ENOSPC" and machine.snapshot() == before


def test_a_second_kernel_that_fails_takes_the_first_variant_back(machine, content, monkeypatch):
    other = "6.1.0-2-test"
    (machine.root / "lib/modules" / other / "extra/acme").mkdir(parents=True)
    (machine.root / "lib/modules" / other / "extra/acme/acme.ko").write_bytes(DRIVER)
    (machine.root / "lib/modules" / other / "modules.dep").write_text("extra/acme/acme.ko:\n")
    (machine.root / "boot" / ("vmlinuz-" + other)).write_bytes(b"")
    second = machine.root / "boot" / ("initrd.img-" + other)
    second.write_bytes(cpio({"init": b""}))
    plan, answer = variant.present(Host(str(machine.root)), REQUEST)
    result = answer.as_dict()
    assert len(result["variants"]) == 2
    second.write_bytes(cpio({"init": b"new"}))
    before = machine.snapshot()
    with pytest.raises(KmodError):
        plan.apply()
    assert machine.snapshot() == before


@pytest.mark.parametrize("kind", ["zstd", "lz4", "lzo"])
def test_a_host_that_cannot_read_the_compression_says_what_to_install(machine, content, monkeypatch, kind):
    machine.image(COMPRESSIONS[kind](cpio(content)))
    monkeypatch.setattr(compression, "zstd", None)
    monkeypatch.setattr(decoders, "_library", lambda *names: None)
    with pytest.raises(KmodError) as caught:
        run(machine)
    assert caught.value.code == "COMP_UNSUPPORTED" and "Install lib" in str(caught.value)


def test_a_volume_sealed_to_the_initramfs_is_refused_unless_told_to_go_on(machine):
    (machine.root / "etc").mkdir()
    (machine.root / "etc/crypttab").write_text("root UUID=1 none tpm2-device=auto,tpm2-pcrs=9\n")
    assert error_of(machine) == "TPM_SEALED"
    assert run(machine, REQUEST._replace(ignore_tpm=True))[1]["variants"][0]["status"] == "created"


def test_the_overview_tells_which_variants_are_out_of_date(machine, content):
    host = Host(str(machine.root))
    run(machine)
    assert [(row.path, row.state) for row in existing.overview(host)] == [
        ("/boot/%s.1" % machine.base.name, "current")
    ]
    machine.image(gzip.compress(cpio(dict(content, new=b"1"))))
    assert [row.state for row in existing.overview(host)] == ["stale"]
    machine.base.unlink()
    (machine.root / "boot" / ("vmlinuz-" + RELEASE)).unlink()
    shutil.rmtree(str(machine.modules / "kernel"))
    assert [row.state for row in existing.overview(host)] == ["gone"]
