# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Secure Boot as machines have it: firmware with Microsoft's keys starts Debian's shim, that starts GRUB and
Debian's kernel, which is locked down. It takes what we sign with a key that the machine's owner has enrolled.

Enrolling is done here as MokManager does it once somebody has confirmed: by writing shim's variable.
"""

import base64
import errno
import re
import shutil
import struct
import uuid
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.make import sign
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels, runtime
from tests.forge.cpio import Device
from tests.kernel import machine, verdicts
from tests.kernel.test_signing import keys, variable  # noqa: F401
from tests.kernel.test_verdicts import releases
from tests.lab import debian, qemu

OVMF = Path("/usr/share/OVMF")
CODE, VARIABLES = OVMF / "OVMF_CODE_4M.secboot.fd", OVMF / "OVMF_VARS_4M.ms.fd"
SHIM = uuid.UUID("605dab50-e046-4300-abb6-3dd810dd8b23")
EFIVARS = "/sys/firmware/efi/efivars/"
SHOWN = {  # what the core reads of a machine
    "MokListRT": EFIVARS + "MokListRT-%s" % SHIM,
    "MokListTrustedRT": EFIVARS + "MokListTrustedRT-%s" % SHIM,
    "SecureBoot": EFIVARS + "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
    "lockdown": "/sys/kernel/security/lockdown",
    "sig_enforce": "/sys/module/module/parameters/sig_enforce",
    "keys": "/proc/keys",
    "cmdline": "/proc/cmdline",
}
BOOT_SERVICES, NON_VOLATILE = 2, 1


def with_variable(store, name, data):
    """The firmware's variables (MdeModulePkg: VariableFormat.h) with one more of shim's, which only what runs
    before the kernel may change.
    """
    (start,) = struct.unpack_from("<H", store, 48)
    at = start + 28
    while struct.unpack_from("<H", store, at)[0] == 0x55AA:
        name_size, data_size = struct.unpack_from("<II", store, at + 36)
        at = (at + 60 + name_size + data_size + 3) & ~3
    text = name.encode("utf-16-le") + b"\0\0"
    attributes = BOOT_SERVICES | NON_VOLATILE
    header = struct.pack("<HBBIQ16sIII", 0x55AA, 0x3F, 0, attributes, 0, bytes(16), 0, len(text), len(data))
    made = header + SHIM.bytes_le + text + data
    assert not store[at : at + len(made)].strip(b"\xff")
    return store[:at] + made + store[at + len(made) :]


def system_partition(directory, kernel, files, script):
    """What the firmware starts, in a directory that the machine sees as a disk."""
    lines = ["#!/bin/sh", "b=/bin/busybox", "$b mkdir /proc /sys", "$b mount -t proc proc /proc"]
    lines += [
        "$b mount -t sysfs sysfs /sys",
        "$b mount -t securityfs securityfs /sys/kernel/security",
        "echo",
    ]
    contents = {
        "bin/busybox": Path(shutil.which("busybox") or "/bin/busybox").read_bytes(),
        "bin/sh": "busybox",
        "dev/console": Device(5, 1),
        "init": "\n".join([*lines, *script, "echo '= end'", "$b poweroff -f"]).encode() + b"\n",
        **files,
    }
    unpacked = [
        debian.unpack(debian.package(name, "bookworm")) for name in ("shim-signed", "grub-efi-amd64-signed")
    ]
    shim = next(unpacked[0].rglob("shimx64.efi.signed"))
    grub = next(unpacked[1].rglob("x86_64-efi-signed/grubx64.efi.signed"))
    for name in ("EFI/BOOT", "EFI/debian"):
        (directory / name).mkdir(parents=True)
    shutil.copyfile(shim, directory / "EFI/BOOT/BOOTX64.EFI")
    shutil.copyfile(grub, directory / "EFI/BOOT/grubx64.efi")
    shutil.copyfile(debian.vmlinuz(kernel), directory / "vmlinuz")
    (directory / "initrd").write_bytes(qemu.initramfs(contents))
    line = "linux /vmlinuz console=ttyS0 quiet loglevel=4 panic=1 no_timer_check"
    (directory / "EFI/debian/grub.cfg").write_text("set timeout=0\n%s\ninitrd /initrd\nboot\n" % line)


@pytest.mark.full
@pytest.mark.skipif(
    not (CODE.exists() and VARIABLES.exists()), reason="no OVMF firmware with keys on this machine"
)
@pytest.mark.parametrize("line", ["6.1", "6.12"])
def test_a_machine_with_secure_boot_takes_what_its_owner_has_enrolled_the_key_of(
    line,
    keys,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    kernel = releases(line)[-1]
    plain = machine.neutral(verdicts.cases(kernel)["labalone"])
    hash_name = sign.hash_of(verdicts.core(kernel).config)
    ours = sign.signed("labalone.ko", plain, keys["ours"], hash_name).data
    offered = {
        "ours": ours,
        "unsigned": plain,
        "other": sign.signed("labalone.ko", plain, keys["other"], hash_name).data,
        "changed": ours.replace(b"labalone", b"labbloke", 1),
    }
    efivarfs = machine.read(machine.modules(kernel)["efivarfs"])
    script = [
        "$b insmod /efivarfs.ko",
        "$b mount -t efivarfs efivarfs %s" % EFIVARS,
        *("echo '= %s'; $b base64 %s; echo '= .'" % each for each in SHOWN.items()),
        'for each in %s; do $b insmod /$each.ko; echo "= $each $?"' % " ".join(offered),
        "$b rmmod labalone 2>/dev/null; done",
        "$b dmesg | $b grep -i 'module'",
    ]
    files = {name + ".ko": data for name, data in offered.items()}
    system_partition(tmp_path / "esp", kernel, dict(files, **{"efivarfs.ko": efivarfs}), script)
    variables = tmp_path / "variables"
    variables.write_bytes(
        with_variable(VARIABLES.read_bytes(), "MokList", variable(keys["ours"].certificate.whole))
    )
    argv = [qemu.MACHINES["amd64"].program, *qemu.MACHINES["amd64"].options, "-accel", "tcg", "-m", "1024"]
    argv += ["-nodefaults", "-no-user-config", "-display", "none", "-monitor", "none", "-serial", "stdio"]
    argv += ["-no-reboot", "-nic", "none", "-machine", "q35,smm=on"]
    argv += ["-global", "driver=cfi.pflash01,property=secure,value=on"]
    argv += ["-drive", "if=pflash,format=raw,readonly=on,file=%s" % CODE]
    argv += ["-drive", "if=pflash,format=raw,file=%s" % variables]
    argv += ["-drive", "format=raw,file=fat:rw:%s" % (tmp_path / "esp")]
    said = qemu.console(argv, 1200, r"(?m)^= end$|Kernel panic|Security Violation|grub>")
    answers = {
        name: errno.errorcode.get(int(code)) for name, code in re.findall(r"^= (\w+) (\d+)$", said, re.M)
    }
    assert set(answers) == set(offered), said[-3000:]
    facts = facts_of(kernel, tmp_path / "root", said, monkeypatch)
    assert facts.lockdown and facts.mok and "ours" in [each.subject for each in facts.enrolled]
    core = verdicts.core(kernel)
    judged = {name: verdicts.verdict(core, data, runtime=facts) for name, data in offered.items()}
    print("\n%s, Secure Boot, our key in MOK: %s" % (kernel.release, answers))
    assert {name: verdict.errno for name, verdict in judged.items()} == answers
    assert [name for name, refused in answers.items() if refused is None] == ["ours"]
    notes = {name: [each.code for each in verdict.findings] for name, verdict in judged.items()}
    assert "SIG_NOT_ENROLLED" in notes["other"] and "SIG_NOT_ENROLLED" not in notes["ours"]
    assert "mokutil --import" in judged["other"].short


def facts_of(kernel, root, said, monkeypatch):
    """What the core reads of the booted machine: from files with what it has shown."""
    for name, path in SHOWN.items():
        shown = re.search(r"^= %s$(.*?)^= \.$" % name, said, re.M | re.S).group(1)
        data = base64.b64decode("".join(re.findall(r"^[A-Za-z0-9+/=]+$", shown, re.M)))
        if data:
            (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
            (root / path[1:]).write_bytes(data)
    with monkeypatch.context() as patched:
        patched.setattr(Host, "live", True)
        return runtime.facts(
            kernels.Kernel(Host(str(root)), kernel.release, "/lib/modules/" + kernel.release)
        )
