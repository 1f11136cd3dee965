# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a running machine says of itself counts, and that of another one is not looked at."""

import os

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels
from ansible_collections.outoftree.kmod.plugins.module_utils.read.runtime import OFFLINE, facts
from tests.forge import families
from tests.forge.ko import RELEASE
from tests.forge.signature import OTHER, PKCS7

EFI = "sys/firmware/efi/efivars/"
SECURE_BOOT = EFI + "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
FILES = {
    "sys/module/module/parameters/sig_enforce": b"Y\n",
    "sys/kernel/security/lockdown": b"none [integrity] confidentiality\n",
    "proc/cmdline": b"root=/dev/vda1 module_blacklist=floppy,pcspkr quiet module_blacklist=vendor modprobe.blacklist=nouveau\n",
    "proc/modules": b"ext4 1 1 - Live 0x0\nvendor 1 0 - Live 0x0 (OE)\n",
    "proc/keys": b"0b0 I------ 1 perm 1f010000 0 0 asymmetri Vendor signing key: 0123: X509.rsa 0123 []\n"
    b"0c0 I------ 2 perm 1f0b0000 0 0 keyring .blacklist: 1\n"
    b"0d0 I------ 1 perm 1f010000 0 0 blacklist bin:" + b"5a" * 32 + b"\n"
    b"0e0 I------ 1 perm 1f010000 0 0 blacklist tbs:" + b"5b" * 32 + b"\n",
    EFI + "MokListRT-605dab50-e046-4300-abb6-3dd810dd8b23": b"\6\0\0\0"
    + bytes(44)
    + PKCS7.certificate
    + OTHER.certificate,
    EFI + "MokListTrustedRT-605dab50-e046-4300-abb6-3dd810dd8b23": b"\6\0\0\0\1",
    EFI + "dbx-d719b2cb-3d3a-4596-a3bc-dad00e67656f": b"\x27\0\0\0" + bytes(44) + OTHER.certificate,
}


def facts_of(root, monkeypatch, files, live=True, running=RELEASE):
    families.kernel(root)
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    for name in ("ext4", "vendor", "kernel", "loop"):
        (root / "sys/module" / name).mkdir(parents=True)
    uname = os.uname()
    monkeypatch.setattr(Host, "live", live)
    monkeypatch.setattr(
        os,
        "uname",
        lambda: os.uname_result((uname.sysname, uname.nodename, running, uname.version, uname.machine)),
    )
    return facts(kernels.installed(Host(str(root)))[0])


def test_the_running_kernel(tmp_path, monkeypatch):
    found = facts_of(tmp_path, monkeypatch, FILES)
    assert (found.sig_enforce, found.lockdown) == (True, True)
    assert found.blacklist == {"floppy", "pcspkr", "vendor"}
    assert found.loaded == {"ext4", "vendor"}
    assert found.builtin == {"kernel", "loop", "module"}
    assert found.keys == {"Vendor signing key: 0123"}
    assert [each.subject for each in found.enrolled] == ["Vendor signing key", "Old machine owner key"]
    assert [each.subject for each in found.revoked] == ["Old machine owner key"]
    assert found.rejected == {"5a" * 32}
    assert (found.mok_trusted, found.firmware, found.modprobe_blacklist) == (True, (), {"nouveau"})


def test_keys_that_shim_keeps_in_a_table_and_those_that_wait(tmp_path, monkeypatch):
    """Firmware often has no room for a variable of several kilobytes; the table has no attributes in front."""
    files = {
        "sys/firmware/efi/mok-variables/MokListRT": bytes(44) + PKCS7.certificate,
        EFI + "MokNew-605dab50-e046-4300-abb6-3dd810dd8b23": b"\7\0\0\0" + bytes(44) + OTHER.certificate,
    }
    found = facts_of(tmp_path, monkeypatch, files)
    assert found.mok and [each.subject for each in found.enrolled] == ["Vendor signing key"]
    assert [each.subject for each in found.enrolling] == ["Old machine owner key"]
    assert not facts_of(tmp_path / "without", monkeypatch, {}).mok


def test_another_kernel_of_the_running_machine(tmp_path, monkeypatch):
    found = facts_of(tmp_path, monkeypatch, FILES, running="6.6.6")
    assert (found.loaded, found.builtin) == (frozenset(), frozenset())
    assert (found.sig_enforce, found.lockdown) == (True, True)


def test_a_machine_that_is_not_running(tmp_path, monkeypatch):
    assert facts_of(tmp_path, monkeypatch, FILES, live=False) == OFFLINE


@pytest.mark.parametrize(
    "files,lockdown",
    [
        ({}, None),
        ({SECURE_BOOT: b"\6\0\0\0\1"}, True),
        ({SECURE_BOOT: b"\6\0\0\0\0"}, False),
        (
            {
                SECURE_BOOT: b"\6\0\0\0\1",
                "sys/kernel/security/lockdown": b"[none] integrity confidentiality\n",
            },
            False,
        ),
    ],
)
def test_lockdown_where_the_kernel_does_not_say(files, lockdown, tmp_path, monkeypatch):
    assert facts_of(tmp_path, monkeypatch, files).lockdown == lockdown


def test_what_is_not_there_is_not_known(tmp_path, monkeypatch):
    found = facts_of(tmp_path, monkeypatch, {})
    assert (found.sig_enforce, found.keys, found.enrolled) == (None, None, ())
