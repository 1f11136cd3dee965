# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where variants lie, under which names, and whether there is room for them."""

import errno
import gzip

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import (
    existing,
    kept,
    listing,
    room,
    variant,
)
from tests.forge.cpio import cpio
from tests.forge.initramfs import DEPMOD
from tests.forge.ko import RELEASE, ko
from tests.unit.place.initramfs.test_initramfs_variant import error_of, run, unpacked

pytestmark = pytest.mark.skipif(not DEPMOD, reason="no depmod on this machine")


# Where images lie


def test_kernel_installs_own_layout_is_served(machine):
    place = machine.root / "boot" / "0123456789abcdef0123456789abcdef" / RELEASE
    place.mkdir(parents=True)
    machine.base.rename(place / "initrd")
    (row,) = run(machine)[1]["variants"]
    assert row["path"] == "/boot/0123456789abcdef0123456789abcdef/%s/initrd.1" % RELEASE
    assert not run(machine)[0]


@pytest.mark.parametrize("how", ["boot", "efi", "token"])
def test_a_directory_of_images_may_be_a_symlink(machine, how):
    boot = machine.root / "boot"
    if how == "boot":
        boot.rename(machine.root / "real")
        boot.symlink_to("real")
    elif how == "efi":
        (machine.root / "efi").symlink_to("boot")
    else:
        token = boot / "0123456789abcdef0123456789abcdef"
        (boot / "elsewhere" / RELEASE).mkdir(parents=True)
        machine.base.rename(boot / "elsewhere" / RELEASE / "initrd")
        token.symlink_to("elsewhere")
    before = machine.snapshot()
    (row,) = run(machine)[1]["variants"]
    assert not run(machine)[0]
    assert [each.path for each in existing.overview(Host(str(machine.root)))] == [row["path"]]
    variant.absent(Host(str(machine.root)), ["acme"])[0].apply()
    assert machine.snapshot() == before


def test_what_cannot_be_looked_into_is_passed_over(machine):
    (machine.root / "boot/loop").symlink_to("loop")
    (machine.root / "boot/a").mkdir()
    (machine.root / "boot/a/loop").symlink_to("loop")
    assert run(machine)[1]["variants"][0]["status"] == "created"


@pytest.mark.parametrize("length", [200, 240, 246, 255])
def test_a_long_name_is_served_or_refused(machine, length):
    name = "x" * length
    machine.base.rename(machine.root / "boot" / name)
    machine.base.symlink_to(name)
    if length > 225:
        assert error_of(machine) == "ENAMETOOLONG"
    else:
        assert run(machine)[1]["variants"][0]["path"] == "/boot/%s.1" % name


def test_a_driver_with_a_name_that_is_none_is_refused(machine):
    for name in ("../acme", "a b", "x" * 70, "a\nb", ""):
        assert error_of(machine, variant.Recipe((name,))) == "DRIVER_NAME"


def test_many_drivers_in_one_variant_are_loaded_early(machine, content):
    machine.image(gzip.compress(cpio(dict(content, **{"usr/lib/systemd/systemd": b""}))))
    drivers = ["acme"] + [each * 60 for each in "bcdef"]
    for driver in drivers[1:]:
        machine.module("extra/%s/%s.ko" % (driver, driver[:50]), ko(driver[:50]))
    run(machine, variant.Recipe(tuple(drivers), early_load=True))
    assert all(len(part) <= 255 for path in unpacked(machine) for part in path.split("/"))


# Room


def test_an_old_variant_and_the_new_one_need_room_at_the_same_time(machine, monkeypatch):
    run(machine)
    machine.module("extra/acme/acme.ko", ko("acme", filler=b"driver 2"))
    size = machine.variant().stat().st_size
    monkeypatch.setattr(Host, "free", lambda self, path: size + room.SLACK - 4096)
    assert error_of(machine) == "BOOT_FULL"
    monkeypatch.setattr(Host, "free", lambda self, path: size + room.SLACK + 8192)
    assert run(machine)[1]["variants"][0]["status"] == "replaced"


def test_no_scratch_is_left_however_it_ends(machine, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(
        "ansible_collections.outoftree.kmod.plugins.module_utils.lock._place", lambda inside: str(scratch)
    )
    machine.module("extra/acme/acme.ko", ko("acme", depends="nowhere"))
    error_of(machine)
    machine.module("extra/acme/acme.ko", ko("acme"))
    run(machine)
    assert list(scratch.iterdir()) == []


def test_a_full_scratch_is_said_and_leaves_nothing(machine, monkeypatch):
    def full(self, data):
        raise kept.from_oserror(
            "/dev/shm/x", OSError(errno.ENOSPC, "No space left on device"), "unpack the image"
        )

    monkeypatch.setattr(kept.Kept, "_write", full)
    assert error_of(machine) == "ENOSPC"


@pytest.mark.parametrize("release", ["../6.1.0", "--help", "test", "6.1/x", ""])
def test_a_release_that_is_none_is_refused_when_it_is_named_and_passed_over_else(machine, release):
    assert error_of(machine, kernels=[release]) == "RELEASE_NAME"
    if release and "/" not in release:
        (machine.root / "lib/modules" / release / "kernel").mkdir(parents=True)
        (machine.root / "lib/modules" / release / "extra/acme").mkdir(parents=True)
        (machine.root / "lib/modules" / release / "extra/acme/acme.ko").write_bytes(ko("acme"))
    assert [row["kernel"] for row in run(machine)[1]["variants"]] == [RELEASE]


def test_names_in_an_image_do_not_steer_the_terminal(machine):
    machine.image(gzip.compress(cpio({"a\x1b[2Jb": b"", "c\nd": b"", "l": "\x1b]0;x"})))
    lines = list(listing.lines(Host(str(machine.root)), "/boot/" + machine.base.name))
    assert all(line.isprintable() or not line for line in lines) and any(
        "a\\x1b[2Jb" in line for line in lines
    )
