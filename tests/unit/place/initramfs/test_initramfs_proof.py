# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What proves that a variant was booted, and that what is to be booted is whole."""

import gzip
import hashlib
import os

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import existing, manifest
from tests.forge.cpio import cpio
from tests.forge.initramfs import DEPMOD
from tests.forge.ko import RELEASE, ko
from tests.unit.place.initramfs.test_initramfs_variant import REQUEST, run, unpacked

pytestmark = pytest.mark.skipif(not DEPMOD, reason="no depmod on this machine")


# What proves that a variant was booted

INIT = b'#!/bin/sh\nmount -t tmpfs -o "nodev,noexec,nosuid,size=${RUNSIZE:-10%},mode=0755" tmpfs /run\nrun_scripts /scripts/init-top\n'
ORDER = b'/scripts/init-top/udev "$@"\n[ -e /conf/param.conf ] && . /conf/param.conf\n'
TOOLS = {"scripts/functions": b"", "conf/initramfs.conf": b"", "init": INIT, "scripts/init-top/ORDER": ORDER}
SHELL = "echo %s > /run/outoftree.kmod.variant\n"
TMPFILES = "f /run/outoftree.kmod.variant 0644 root root - %s\n"
SYSTEMD = {
    "usr/lib/systemd/systemd": b"",
    "usr/bin/systemd-tmpfiles": b"",
    "usr/lib/systemd/system/systemd-tmpfiles-setup.service": b"",
    "usr/lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service": "../systemd-tmpfiles-setup.service",
}


@pytest.mark.parametrize(
    "files, path, text",
    [
        (TOOLS, "conf/param.conf", SHELL),
        (dict(TOOLS, init=INIT.replace(b"tmpfs /run", b"tmpfs /tmp")), None, None),
        (dict(TOOLS, init=INIT + INIT.splitlines()[1].replace(b"/run", b"/run2")), "conf/param.conf", SHELL),
        (dict(TOOLS, init=b"\n".join(INIT.splitlines()[::-1])), None, None),
        (dict(TOOLS, **{"scripts/init-top/ORDER": b""}), None, None),
        (dict(TOOLS, **{"conf/param.conf": b"theirs"}), None, None),
        ({"usr/lib/dracut/hooks/cmdline": None}, "usr/lib/dracut/hooks/cmdline/00-outoftree-kmod.sh", SHELL),
        (
            {"var/lib/dracut/hooks/cmdline": None, "usr/lib/dracut/hooks": "/var/lib/dracut/hooks"},
            "var/lib/dracut/hooks/cmdline/00-outoftree-kmod.sh",
            SHELL,
        ),
        (
            dict(
                SYSTEMD,
                **{
                    "usr/lib/dracut/hooks/cmdline": None,
                    "usr/lib/systemd/system/dracut-cmdline.service": b"",
                },
            ),
            "usr/lib/dracut/hooks/cmdline/00-outoftree-kmod.sh",
            SHELL,
        ),
        (
            dict(SYSTEMD, **{"usr/lib/dracut/hooks/cmdline": None}),
            "etc/tmpfiles.d/outoftree-kmod.conf",
            TMPFILES,
        ),
        (SYSTEMD, "etc/tmpfiles.d/outoftree-kmod.conf", TMPFILES),
        ({"usr/lib/systemd/systemd": b"", "usr/bin/systemd-tmpfiles": b""}, None, None),
        ({"pre-udev": None, "cmdline": None}, None, None),
        ({"init": b"an unknown one"}, None, None),
    ],
)
def test_a_variant_leaves_a_line_where_its_early_boot_can_write_one_and_promises_it(
    machine, files, path, text
):
    machine.image(gzip.compress(cpio({"usr/lib": None, "lib": "usr/lib", **files})))
    (row,) = run(machine)[1]["variants"]
    found = manifest.find(Host(str(machine.root)), row["path"])
    made = {
        name: data
        for name, (_mode, data) in unpacked(machine).items()
        if b"/run/outoftree.kmod.variant" in data
    }
    if path is None:
        assert row["mark"] == found.added.mark == "" and not made
    else:
        assert row["mark"] == found.added.mark == found.wants.identity
        assert {name: data.decode() for name, data in made.items()} == {path: text % row["mark"]}


def test_the_line_tells_one_variant_from_another(machine):
    machine.image(gzip.compress(cpio({"usr/lib": None, "lib": "usr/lib", **SYSTEMD})))
    first = run(machine)[1]["variants"][0]["mark"]
    machine.module("extra/acme/acme.ko", ko("acme", filler=b"driver 2"))
    second = run(machine)[1]["variants"][0]["mark"]
    assert first != second and len(first) == len(second) == 64


# What is given to boot entries


def test_images_are_verified_and_their_digests_are_told(machine):
    host = Host(str(machine.root))
    (row,) = run(machine, REQUEST._replace(method="segment"))[1]["variants"]
    expected = tuple(
        hashlib.sha256((machine.root / path[1:]).read_bytes()).hexdigest() for path in row["initrds"]
    )
    assert existing.verified(host, RELEASE, row["initrds"]) == expected


def test_an_image_is_read_once_to_be_verified(machine, monkeypatch):
    (row,) = run(machine)[1]["variants"]
    read, real = [], os.read

    def count(handle, size):
        data = real(handle, size)
        read.append(len(data))
        return data

    monkeypatch.setattr(os, "read", count)
    for path in (row["path"], row["base"]):
        read.clear()
        existing.verified(Host(str(machine.root)), RELEASE, [path])
        assert sum(read) == (machine.root / path[1:]).stat().st_size


@pytest.mark.parametrize(
    "data",
    [b"", b"garbage", gzip.compress(b"no cpio"), gzip.compress(cpio({"init": b"x" * 5000}))[:-9]],
    ids=("empty", "garbage", "no archive", "cut off"),
)
def test_an_image_that_is_given_is_verified_as_the_kernel_would_unpack_it(machine, data):
    (machine.root / "boot/mine").write_bytes(data)
    with pytest.raises(KmodError) as caught:
        existing.verified(Host(str(machine.root)), RELEASE, ["/boot/mine"])
    assert caught.value.code == "VARIANT_DAMAGED" and "initrd_variant" in str(caught.value)


def test_a_variant_of_another_kernel_is_not_for_this_one(machine):
    (row,) = run(machine)[1]["variants"]
    with pytest.raises(KmodError) as caught:
        existing.verified(Host(str(machine.root)), "6.1.0-2-test", row["initrds"])
    assert caught.value.code == "VARIANT_DAMAGED" and RELEASE in str(caught.value)


@pytest.mark.parametrize("more", [b"\0", b"\0" * 512, b"junk", cpio({"init": b"another"})])
def test_what_was_appended_to_a_variant_is_damage(machine, more):
    (row,) = run(machine)[1]["variants"]
    with open(str(machine.variant()), "ab") as handle:
        handle.write(more)
    assert [each.state for each in existing.overview(Host(str(machine.root)))] == ["damaged"]
    assert run(machine)[1]["variants"][0] == dict(row, status="replaced")
