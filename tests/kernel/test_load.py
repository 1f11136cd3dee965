# Copyright: Contributors to the outoftree.kmod project
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""kmod_link on the machine that runs: what ``load`` does to a booted kernel, and what is said of a reboot."""

import ast
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import CHECKOUT
from tests.forge.cpio import Device
from tests.lab import debian, drivers, qemu
from tests.molecule import images

pytestmark = pytest.mark.full
# Of what a virtio disk needs, each after those that it needs itself.
DISK = ("virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk")
INSIDE = """
import sys
sys.path.insert(0, "/py")
from ansible_collections.outoftree.kmod.plugins.module_utils.host import Host
from ansible_collections.outoftree.kmod.plugins.module_utils.commands import link, status
host = Host("/")
def deploy(**options):
    plan, answer = link.run(host, link.Options("edu", **options))
    plan.apply()
    there = status.run(host, status.Options(("edu",)))[1].kernels[0].modules
    now = sorted(line.split()[0] for line in open("/proc/modules") if line.startswith("ootedu"))
    print("kmod:", (bool(plan), answer.reboot_needed, now, [module.loaded for module in there if module.name.startswith("ootedu")]), flush=True)
deploy(path=("/src/v1",))
deploy(path=("/src/v1",), load=True)
deploy(path=("/src/v1",), load=True)
deploy(path=("/src/v2",))
deploy(path=("/src/v2",), load=True)
deploy(state="absent")
print("kmod: end", flush=True)
"""
BOTH = ["ootedu", "ootedu_user"]
EXPECTED = [
    (True, False, [], ["no", "no"]),
    (True, False, BOTH, ["this", "this"]),
    (False, False, BOTH, ["this", "this"]),
    (True, True, BOTH, ["other", "other"]),  # a rebuild that only its build ID tells
    (True, False, BOTH, ["this", "this"]),
    (True, True, BOTH, []),
]


def test_loading_into_the_running_kernel(machines, tmp_path):
    if (
        os.geteuid() != 0
        or not shutil.which("mmdebstrap")
        or not shutil.which("mkfs.ext4", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    ):
        pytest.skip("needs root, mmdebstrap and mkfs.ext4")
    import elftools

    found = images.newest("bookworm")
    kernel = found[-1]
    root = tmp_path / "root"
    with tarfile.open(str(images.root("bookworm", found))) as archive:
        archive.extractall(
            str(root), [member for member in archive if not (member.ischr() or member.isblk())]
        )
    for other in found[:-1]:
        shutil.rmtree(str(root / "usr/lib/modules" / other.release))
    core = root / "py/ansible_collections/outoftree/kmod/plugins/module_utils"
    shutil.copytree(str(CHECKOUT / "plugins/module_utils"), str(core))
    shutil.copytree(os.path.dirname(elftools.__file__), str(root / "py/elftools"))
    for path in drivers.edu(kernel):
        data = bytearray(path.read_bytes())
        for version in ("v1", "v2"):
            (root / "src" / version).mkdir(parents=True, exist_ok=True)
            (root / "src" / version / path.name).write_bytes(bytes(data))
            data[data.index(b"GNU\0") + 4] ^= 0xFF  # the first byte of the build ID
    (root / "run.py").write_text(INSIDE)
    disk = tmp_path / "disk"
    subprocess.run(["truncate", "-s", "1200M", str(disk)], check=True)
    subprocess.run(
        ["mkfs.ext4", "-q", "-F", "-d", str(root), str(disk)],
        check=True,
        env=dict(os.environ, PATH=os.environ["PATH"] + ":/usr/sbin:/sbin"),
    )
    text = boot(kernel, root, tmp_path / "initrd", disk)
    assert [
        ast.literal_eval(line[6:]) for line in text.splitlines() if line.startswith("kmod: (")
    ] == EXPECTED, text[-3000:]


def boot(kernel, root, initrd, disk):
    """Run /run.py of the disk's system as the only process of a booted kernel."""
    busybox = Path(shutil.which("busybox") or "/bin/busybox")
    files = {
        "bin/busybox": busybox.read_bytes(),
        "bin/sh": "busybox",
        "dev/console": Device(5, 1),
        "root": None,
        "m": None,
    }
    lines = ["#!/bin/sh", "b=/bin/busybox", "$b mount -t devtmpfs dev /dev"]
    for name in DISK:
        path = next((root / "usr/lib/modules" / kernel.release).rglob(name + ".ko"))
        files["m/%s.ko" % name] = path.read_bytes()
        lines.append("$b insmod /m/%s.ko" % name)
    lines += [
        "$b sleep 2",
        "$b mount -t ext4 /dev/vda /root",
        "for d in proc sys; do $b mount -t ${d}fs $d /root/$d || $b mount -t $d $d /root/$d; done",
        "export PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        "$b chroot /root /usr/bin/python3 -B /run.py",
        "$b poweroff -f",
    ]
    files["init"] = "\n".join(lines + [""]).encode()
    initrd.write_bytes(qemu.initramfs(files))
    return qemu.boot(
        debian.vmlinuz(kernel),
        initrd,
        "quiet",
        timeout=600,
        memory=1024,
        stop=r"(?m)^kmod: end",
        extra=["-drive", "file=%s,if=virtio,format=raw" % disk],
    )
