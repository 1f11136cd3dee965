# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the firmware forbids: a real kernel takes the list over from real firmware, and the core says what it
answers to a module on it.
"""

import errno
import hashlib
import re
import shutil
import struct
import uuid
from pathlib import Path

import pytest

from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.read import kernels, runtime
from tests.forge.cpio import Device
from tests.kernel import machine, verdicts
from tests.kernel.test_verdicts import releases
from tests.lab import debian, qemu

CODE, VARIABLES = (Path("/usr/share/OVMF", name) for name in ("OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd"))
DBX = "/sys/firmware/efi/efivars/dbx-d719b2cb-3d3a-4596-a3bc-dad00e67656f"
SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328")  # EFI_CERT_SHA256_GUID
PKCS7 = uuid.UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")  # EFI_CERT_TYPE_PKCS7_GUID

pytestmark = [
    pytest.mark.full,
    pytest.mark.usefixtures("machines"),
    pytest.mark.skipif(not CODE.exists(), reason="no OVMF firmware on this machine"),
]


def booted(kernel, directory, files, script, append=""):
    """The console of a kernel that real firmware starts; what is stored in the firmware stays in
    ``directory``.
    """
    variables = directory / "variables"
    if not variables.exists():
        shutil.copyfile(str(VARIABLES), str(variables))
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    lines = [
        "#!/bin/sh",
        "b=/bin/busybox",
        "$b mkdir /proc /sys",
        "$b mount -t proc proc /proc",
        "$b mount -t sysfs sysfs /sys",
        "echo",
    ]
    lines += script + ["echo '= end'", "$b poweroff -f"]
    contents = dict(
        files,
        **{
            "bin/busybox": busybox.read_bytes(),
            "bin/sh": "busybox",
            "dev/console": Device(5, 1),
            "init": "\n".join(lines).encode() + b"\n",
        },
    )
    (directory / "initrd").write_bytes(qemu.initramfs(contents))
    firmware = [
        "-machine",
        "q35",
        "-drive",
        "if=pflash,format=raw,readonly=on,file=%s" % CODE,
        "-drive",
        "if=pflash,format=raw,file=%s" % variables,
    ]
    return qemu.boot(
        debian.vmlinuz(kernel),
        directory / "initrd",
        "quiet loglevel=4 " + append,
        600,
        r"(?m)^= end$|Kernel panic",
        memory=1024,
        extra=firmware,
    )


def dbx(*files):
    """What efivarfs is given to have these files rejected: attributes, a signature (none is asked for in
    setup mode) and the digests.
    """
    now = struct.pack("<HBBBBBxIhBx", 2026, 1, 1, 0, 0, 0, 0, 0, 0)
    certificate = struct.pack("<IHH", 24, 0x200, 0xEF1) + PKCS7.bytes_le
    rows = b"".join(bytes(16) + hashlib.sha256(data).digest() for data in files)
    return (
        struct.pack("<I", 0x27)
        + now
        + certificate
        + SHA256.bytes_le
        + struct.pack("<III", 28 + len(rows), 0, 48)
        + rows
    )


@pytest.mark.parametrize("line", ["6.1", "6.12", "7"])
def test_a_module_whose_digest_the_firmware_rejects(line, tmp_path, monkeypatch):
    kernel = releases(line)[-1]
    modules = {name: machine.read(path) for name, path in machine.modules(kernel).items()}
    plain = [
        name
        for name, data in modules.items()
        if data.endswith(machine.MARKER)
        and not machine.depends(data)
        and not machine.section(data, ".rela.gnu.linkonce.this_module")
        and b"description=" in data
    ]
    rejected, taken = (modules[name] for name in plain[:2])
    unsigned = machine.neutral(rejected)
    said = booted(
        kernel,
        tmp_path,
        {"efivarfs.ko": modules["efivarfs"], "dbx": dbx(rejected, unsigned)},
        [
            "$b insmod /efivarfs.ko",
            "$b mount -t efivarfs efivarfs /sys/firmware/efi/efivars",
            "$b cat /dbx > %s && echo '= written'" % DBX,
        ],
    )
    assert "= written" in said, said[-2000:]
    offered = {"rejected": rejected, "taken": taken, "unsigned": unsigned}
    said = booted(
        kernel,
        tmp_path,
        {name + ".ko": data for name, data in offered.items()},
        [
            'for each in %s; do $b insmod /$each.ko; echo "= $each $?"' % " ".join(offered),
            "$b rmmod $($b cut -d' ' -f1 /proc/modules); done",
            "$b dmesg | $b grep -i blacklisted",
            "echo '= keys'",
            "$b cat /proc/keys",
        ],
    )
    (tmp_path / "root/proc").mkdir(parents=True)
    (tmp_path / "root/proc/keys").write_text(said.split("= keys\n")[1])
    core = verdicts.core(kernel)
    with monkeypatch.context() as patched:
        patched.setattr(Host, "live", True)
        facts = runtime.facts(kernels.Kernel(Host(str(tmp_path / "root")), kernel.release, core.modules_dir))
    ours = {name: verdicts.verdict(core, data, runtime=facts) for name, data in offered.items()}
    answers = {
        name: errno.errorcode.get(int(code)) for name, code in re.findall(r"^= (\w+) (\d+)$", said, re.M)
    }
    assert facts.rejected == {hashlib.sha256(data).hexdigest() for data in (rejected, unsigned)}
    assert set(answers) == set(offered) and (answers["taken"], answers["unsigned"]) == (None, None), said[
        -3000:
    ]
    assert {name: verdict.errno for name, verdict in ours.items()} == answers
    assert {verdict.verdict for verdict in ours.values()} <= {"compatible", "incompatible"}
    if answers["rejected"]:
        assert ours["rejected"].reason.code == "SIG_HASH_REJECTED" and ours["rejected"].dmesg in said
    print(
        "\n%s: a signed module whose digest the firmware rejects: %s"
        % (kernel.release, answers["rejected"] or "taken")
    )
