# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A disk that the TPM would not open any more is noticed before a variant is made."""

import base64
import json
import os
import struct

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.errors import KmodError
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.place.initramfs import tpm


def luks(*tokens):
    text = json.dumps({"tokens": {str(number): token for number, token in enumerate(tokens)}}).encode()
    return b"LUKS\xba\xbe\x00\x02" + struct.pack(">Q", 16384) + bytes(4080) + text + bytes(12288 - len(text))


def systemd(*pcrs):
    return {"type": "systemd-tpm2", "tpm2-pcrs": list(pcrs)}


def compact(header):
    return base64.urlsafe_b64encode(json.dumps({"clevis": header}).encode()).decode().rstrip("=")


def clevis(header):
    return {"type": "clevis", "jwe": {"protected": compact(header)}}


def tpm2(pcrs):
    return {"pin": "tpm2", "tpm2": {"pcr_ids": pcrs}}


@pytest.fixture
def host(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "dev/disk/by-uuid").mkdir(parents=True)

    def make(device=b"", options="none luks", spec="UUID=1234"):
        (tmp_path / "dev/disk/by-uuid/1234").write_bytes(device)
        (tmp_path / "etc/crypttab").write_text("# a comment\n\nroot %s %s\n" % (spec, options))
        return Host(str(tmp_path))

    return make


@pytest.mark.parametrize(
    "token",
    [
        systemd(7, 9),
        systemd(8),
        clevis(tpm2("7,9")),
        clevis(tpm2(["4", "9"])),
        clevis(
            {
                "pin": "sss",
                "sss": {"t": 1, "jwe": [compact(tpm2("9")) + ".a.b.c.d", compact({"pin": "tang"})]},
            }
        ),
    ],
)
def test_what_is_sealed_to_the_initramfs_is_refused(host, token):
    with pytest.raises(KmodError) as caught:
        tpm.check(host(luks(token)))
    assert caught.value.code == "TPM_SEALED" and "ignore_tpm" in str(caught.value)


@pytest.mark.parametrize(
    "token",
    [
        systemd(7),
        systemd(),
        clevis(tpm2("7")),
        clevis({"pin": "tang"}),
        {"type": "other"},
        {"type": "clevis"},
    ],
)
def test_what_is_sealed_to_other_things_is_not(host, token):
    tpm.check(host(luks(token)))


def test_the_option_of_crypttab_counts_too(host):
    with pytest.raises(KmodError):
        tpm.check(host(options="none luks,tpm2-device=auto,tpm2-pcrs=7+9"))


@pytest.mark.parametrize(
    "device", [b"", b"no luks", luks()[:4000], luks()[:4096] + b"no json", luks()[:4096] + b"[]"]
)
def test_what_cannot_be_read_is_not_refused(host, device):
    tpm.check(host(device))


def test_a_device_is_found_by_its_path(host):
    with pytest.raises(KmodError):
        tpm.check(host(luks(systemd(9)), spec="/dev/disk/by-uuid/1234"))


def test_hosts_without_crypttab_have_nothing_tpm(tmp_path):
    tpm.check(Host(str(tmp_path)))


@pytest.mark.parametrize(
    "device",
    [
        luks(systemd(9))[:8],
        luks(systemd(9))[:12],
        luks()[:4096] + b"[" * 12000,
        luks(systemd(10**400, float("inf"))),
    ],
)
def test_a_damaged_header_is_no_error(host, device):
    tpm.check(host(device))


@pytest.mark.parametrize("kind", ["fifo", "loop", "directory", "terminal", "socket", "endless"])
def test_a_device_that_would_block_or_has_no_end_is_passed_over(host, tmp_path, kind):
    found = host(options="none luks")
    path = tmp_path / "dev/disk/by-uuid/1234"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(str(path))
    elif kind == "loop":
        path.symlink_to("1234")
    elif kind == "directory":
        path.mkdir()
    elif kind == "terminal":
        (tmp_path / "dev/ptmx").touch()
        path.symlink_to("/dev/ptmx")
        if os.geteuid() == 0:
            (tmp_path / "dev/ptmx").unlink()
            os.mknod(str(tmp_path / "dev/ptmx"), 0o020600, os.makedev(5, 2))
    elif kind == "socket":
        import socket

        socket.socket(socket.AF_UNIX).bind(str(path))
    elif os.geteuid() == 0:
        os.mknod(str(path), 0o020600, os.makedev(1, 5))  # /dev/zero
    tpm.check(found)


def test_of_a_huge_device_only_the_header_is_read(host, tmp_path, monkeypatch):
    found = host(luks(systemd(9)))
    with open(str(tmp_path / "dev/disk/by-uuid/1234"), "r+b") as handle:
        handle.seek(8)
        handle.write(struct.pack(">Q", 1 << 60))
        handle.truncate(1 << 40)
    read, real = [], os.pread

    def pread(handle, size, offset):
        read.append(size)
        return real(handle, size, offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(KmodError):
        tpm.check(found)
    assert sum(read) <= 4 << 20


def test_a_header_that_lies_apart_is_looked_at(host, tmp_path):
    (tmp_path / "etc/header").write_bytes(luks(systemd(9)))
    with pytest.raises(KmodError):
        tpm.check(host(b"no header", options="none luks,header=/etc/header"))
